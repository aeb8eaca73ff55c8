--- Stubs for editors, from the annotations: what `sluice types` writes.
-- Owns: their form. Pure: returns names and texts. Never: invents a type; what has no annotation has none.
--
-- One file says what `require "sluice"` gives; beside it stand the types that the library's own stubs define.

local annotations = require "sluice.annotations"
local types = require "sluice.annotations.types"

local stubs = {}

--- The type of a function, from its docstring.
local function type_of(f)
  local parts, list = annotations.parts(f.doc), {}
  for _, p in ipairs(parts.params) do
    local optional = p.name:find "%?$"
    list[#list + 1] = ("%s%s: %s"):format(p.name:gsub("%?$", ""), optional and "?" or "", p.type)
  end
  local returns = {}
  for i, text in ipairs(parts.returns) do returns[i] = text:match "^%S+" end
  return ("fun(%s)%s"):format(table.concat(list, ", "), #returns > 0 and ": " .. table.concat(returns, ", ") or "")
end

local function put_function(out, holder, f, key)
  for _, line in ipairs(f.doc) do
    if not line:find "^@param.*%s%sfor sluice's own modules" then
      out[#out + 1] = (line:find "^@" and "---" or "--- ") .. line
    end
  end
  local typed = table.concat(f.doc, "\n"):match "@type%s+fun%b()"
  if typed then
    out[#out + 1] = ("%s.%s = nil\n"):format(holder, key)
  else
    out[#out + 1] = ("function %s%s%s%s end\n"):format(holder, f.method and ":" or ".", key, f.args)
  end
end

--- The class annotation of a table that has none of its own.
local function class_line(page)
  return "---@class " .. (page.shown:find "^sluice" and page.shown or "sluice." .. page.shown)
end

local function overloads(functions)
  local lines = {}
  for _, f in ipairs(functions) do
    if f.key == "new" then lines[#lines + 1] = "---@overload " .. type_of(f) end
  end
  return lines
end

local function put_page(out, facade, page, owners, done)
  local functions = annotations.read(page)
  local part = page.shown:match "^sluice%.(.+)$"
  local single = page.only ~= nil
  if page.module ~= "init" and not single then
    local name = page.own
    if not done[page.module .. "." .. name] then
      done[page.module .. "." .. name] = true
      out[#out + 1] = owners[name] or class_line(page)
      if part then
        local class = (owners[name] or class_line(page)):match "%-%-%-@class%s+([%w_.]+)"
        for _, line in ipairs(overloads(functions)) do out[#out + 1] = line end
        facade.fields[#facade.fields + 1] = ("---@field %s %s  %s"):format(part, class, page.about)
      end
      out[#out + 1] = ("local %s = {}\n"):format(name)
      for _, f in ipairs(functions) do
        if f.key ~= "new" then put_function(out, name, f, f.key) end
      end
    end
  end
  for _, f in ipairs(functions) do
    local key = f.name:match "^sluice%.([%a_][%w_]*)$"
    if key and not part then facade.functions[#facade.functions + 1] = { key, f } end
  end
end

--- What is named but defined by no page, and what that names.
local function rest_of(text)
  local known, out = types.definitions(), {}
  for _, module in ipairs(require "sluice.core.library".names()) do -- they name some, too
    if module:find "^meta%.sluice%." then text = text .. "\n" .. annotations.source(module) end
  end
  local list = types.missing(text, known)
  while #list > 0 do
    for _, name in ipairs(list) do
      if not text:find("\n" .. known[name] .. "\n", 1, true) then
        out[#out + 1] = known[name] .. "\n"
        text = text .. "\n" .. known[name] .. "\n"
      end
    end
    list = types.missing(text, known)
  end
  return table.concat(out, "\n")
end

--- What `require "sluice"` gives.
local function main()
  local out, facade, done, seen = {}, { fields = {}, functions = {} }, {}, {}
  local owners = {}
  local function take(module)
    if seen[module] then return end
    seen[module] = true
    local blocks
    blocks, owners[module] = types.blocks(annotations.source("sluice." .. module) or "")
    for _, block in ipairs(blocks) do out[#out + 1] = block .. "\n" end
  end
  for _, page in ipairs(annotations.pages()) do
    take(page.module)
    out[#out + 1] = ("do -- %s\n"):format(page.heading) -- a function may have 200 locals
    put_page(out, facade, page, owners[page.module], done)
    out[#out + 1] = "end\n"
  end
  local head = { "---@meta sluice", "-- Made by `sluice types`: do not edit.", "-- luacheck: ignore", "" }
  out[#out + 1] = "---@class sluice"
  table.sort(facade.fields)
  for _, line in ipairs(facade.fields) do out[#out + 1] = line end
  out[#out + 1] = "local sluice = {}\n"
  for _, pair in ipairs(facade.functions) do put_function(out, "sluice", { doc = pair[2].doc, args = pair[2].args },
    pair[1]) end
  out[#out + 1] = "return sluice\n"
  local text = table.concat(out, "\n")
  return table.concat(head, "\n") .. "\n" .. rest_of("\n" .. text) .. "\n" .. text
end

--- Every file: { name, text }, the main one first.
---@return { [1]: string, [2]: string }[]
function stubs.files()
  local files = { { "sluice.lua", main() } }
  for _, module in ipairs(require "sluice.core.library".names()) do
    local name = module:match "^meta%.sluice%.([%w_]+)$"
    if name then files[#files + 1] = { "core/" .. name .. ".lua", annotations.source(module) } end
  end
  return files
end

return stubs
