-- Writes what is made from the sources: docs/api.md from the annotations (what is public:
-- lualib/sluice/annotations.lua), the man page and the shells' completions from the option tables. `make docs`.
-- With --check it writes nothing and fails when a file is not what it should be.

package.path = "docs/?.lua;" .. package.path

local annotations = require "sluice.annotations"
local types = require "sluice.annotations.types"
local completion = require "sluice.completion"
local commands = require "sluice.command".all()

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

--- What a table has, as a list. A type's own "|" and "`" would be in the way of a Markdown table.
local function put_fields(out, fields)
  for _, f in ipairs(fields) do
    out[#out + 1] = ("- `%s`: `%s`%s"):format(f.name, f.type, f.about ~= "" and ", " .. f.about or "")
  end
  if #fields > 0 then out[#out + 1] = "" end
end

local function put_type(out, type)
  local parts = types.parts(type.block)
  out[#out + 1] = ("### `%s`\n"):format(type.name)
  if #parts.prose > 0 then out[#out + 1] = table.concat(parts.prose, "\n") .. "\n" end
  if parts.alias then out[#out + 1] = ("`%s`\n"):format(parts.alias) end
  put_fields(out, parts.fields)
end

local out = { "# sluice: the functions\n\n*Made by `make docs` from the annotations in `lualib/`. What the pieces are "
  .. "for: [README](../README.md).*\n" }
local named, shown = {}, {}
for _, page in ipairs(annotations.pages()) do
  out[#out + 1] = ("## %s\n\n%s\n"):format(page.heading, page.about)
  local _, owners = types.blocks(annotations.source("sluice." .. page.module) or "")
  local block = not page.only and owners[page.own]
  if block then
    local parts = types.parts(block)
    shown[block:match "@class%s+([%w_.]+)"], named[#named + 1] = true, parts.public
    put_fields(out, parts.fields)
  end
  for _, f in ipairs(annotations.read(page)) do
    entry(out, f)
    for _, line in ipairs(f.doc) do named[#named + 1] = "---" .. line end
  end
end
out[#out + 1] = "## Tables\n\nWhat is given to these functions, and what they return. A `?` behind a name: it may be "
  .. "absent.\n"
for _, type in ipairs(types.named(table.concat(named, "\n"), shown)) do put_type(out, type) end

local FILES = {
  { "docs/api.md", table.concat(out, "\n") },
  { "docs/man/sluice.1", require "man"(commands) },
  { "docs/completions/sluice.bash", completion.script("bash", commands) },
  { "docs/completions/_sluice", completion.script("zsh", commands) },
  { "docs/completions/sluice.fish", completion.script("fish", commands) },
}

local stale = 0
for _, file in ipairs(FILES) do
  local path, text = table.unpack(file)
  if read(path) ~= text then
    if ... == "--check" then
      io.stderr:write(path, " is not up to date: run `make docs`\n")
      stale = stale + 1
    else
      local handle = assert(io.open(path, "wb"))
      handle:write(text)
      handle:close()
      print(("%s: %d lines"):format(path, select(2, text:gsub("\n", "\n"))))
    end
  end
end
return stale == 0
