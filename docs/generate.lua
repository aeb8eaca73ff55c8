-- Writes docs/api.md from the annotations in lualib/: `make docs`. With --check it writes nothing and
-- fails when the file is not what it should be. What is public: lualib/sluice/annotations.lua.

local annotations = require "sluice.annotations"

local OUT = "docs/api.md"

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

--- A docstring as Markdown: prose, then parameters and results.
local function entry(out, f)
  local parts, rows = annotations.parts(f.doc), {}
  for _, p in ipairs(parts.params) do
    rows[#rows + 1] = ("- `%s`: `%s`%s"):format(p.name, p.type, p.about and ", " .. p.about or "")
  end
  for _, text in ipairs(parts.returns) do rows[#rows + 1] = ("- returns `%s`"):format(text) end
  out[#out + 1] = ("### `%s`\n"):format(f.name .. f.args)
  out[#out + 1] = table.concat(parts.prose, "\n") .. "\n"
  if #rows > 0 then out[#out + 1] = table.concat(rows, "\n") .. "\n" end
end

local out = { "# sluice: the functions\n\n*Made by `make docs` from the annotations in `lualib/`. What the pieces are "
  .. "for: [README](../README.md).*\n" }
for _, page in ipairs(annotations.pages()) do
  out[#out + 1] = ("## %s\n\n%s\n"):format(page.heading, page.about)
  for _, f in ipairs(annotations.read(page)) do entry(out, f) end
end
local text = table.concat(out, "\n")

if ... == "--check" then
  if read(OUT) == text then return 0 end
  io.stderr:write(OUT, " is not up to date: run `make docs`\n")
  return 1
end
local file = assert(io.open(OUT, "wb"))
file:write(text)
file:close()
print(("%s: %d lines"):format(OUT, select(2, text:gsub("\n", "\n"))))
