--- The tables that functions take and give: classes with fields, and aliases, as the annotations say them.
-- Owns: reading those blocks, and which of them a text speaks of. Pure, but for the sources of the library.
-- Never: invents a type; what has no annotation has none.

local library = require "sluice.core.library"

local types = {}

--- Blocks of --- that stand for themselves, in order; and those that belong to a local table, by its name.
---@param text string  of a module
---@return string[] blocks
---@return table<string, string> owners
function types.blocks(text)
  local blocks, owners, block = {}, {}, nil
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    if line:find "^%-%-%-" then
      block = block or {}
      block[#block + 1] = line
    else
      local joined = block and table.concat(block, "\n")
      if joined and (joined:find "%-%-%-@class" or joined:find "%-%-%-@alias") then
        local class = joined:match "%-%-%-@class%s+([%w_.]+)"
        local own = line:match "^local ([%a_][%w_]*)"
        if own and class then owners[own] = joined else blocks[#blocks + 1] = joined end
      end
      block = nil
    end
  end
  return blocks, owners
end

local TYPED = { param = true, ["return"] = true, field = true, type = true, class = true, overload = true,
  alias = true }

--- The types that a text names in its annotations but does not define, and that `known` has.
---@param text string
---@param known table<string, string>
---@return string[]
function types.missing(text, known)
  local defined, list, seen = {}, {}, {}
  for tag, name in text:gmatch "\n%-%-%-@(%a+)%s+([%w_.]+)" do
    if tag == "class" or tag == "alias" then defined[name] = true end
  end
  for tag, rest in text:gmatch "\n%-%-%-@(%a+)([^\n]*)" do
    for name in (TYPED[tag] and rest or ""):gmatch "%f[%w_]sluice%.[%w_.]*[%w_]" do
      if known[name] and not defined[name] and not seen[name] then
        seen[name] = true
        list[#list + 1] = name
      end
    end
  end
  table.sort(list)
  return list
end

local definitions

--- Every class and alias of the library's own modules -> the block that defines it.
---@return table<string, string>
function types.definitions()
  if definitions then return definitions end
  definitions = {}
  local source = require "sluice.annotations".source
  for _, module in ipairs(library.names()) do
    if module:find "^sluice[.%w_]*$" or module == "meta.sluice.types" then
      local blocks, owners = types.blocks(source(module) or "")
      for _, block in pairs(owners) do blocks[#blocks + 1] = block end
      for _, block in ipairs(blocks) do
        for tag, name in block:gmatch "%-%-%-@(%a+)%s+([%w_.]+)" do
          if tag == "class" or tag == "alias" then definitions[name] = block end
        end
      end
    end
  end
  return definitions
end

---@class sluice.TypeField
---@field name string    with a "?" when it may be absent
---@field type string
---@field about string

--- A field's type may hold blanks, between brackets or around "|", as in fun(a: T): U; what comes behind two
--- blanks is what is said of it.
local function field_of(rest)
  local name, kind, about = rest:match "^(%S+)%s+(.-)%s%s+(.*)$"
  if not name then name, kind = rest:match "^(%S+)%s+(.*)$" end
  if not name or name:find "^%[" then return nil end
  return { name = name, type = kind, about = about or "" }
end

--- A block taken apart. Text below a field goes on with it; above all fields it is about the type. Fields that are
--- for sluice's own modules are left out.
---@param block string
---@return { prose: string[], fields: sluice.TypeField[], alias?: string, own: boolean, public: string }  `own`: it is
---for sluice's own modules; `public`: the lines of it that are not
function types.parts(block)
  local parts, public = { prose = {}, fields = {}, alias = nil, own = false, public = nil }, {}
  local last
  for line in block:gmatch "[^\n]+" do
    local tag, rest = line:match "^%-%-%-%s?@(%a+)%s*(.*)$"
    local text = not tag and line:match "^%-%-%-%s?(.*)$"
    if tag == "field" then
      last = field_of(rest)
      local own = last and last.about:find "^for sluice's own modules"
      if last and not own then parts.fields[#parts.fields + 1] = last end
      if not own then public[#public + 1] = line end
    elseif tag == "alias" then
      parts.alias = rest:match "^%S+%s+(.*)$"
      public[#public + 1] = line
    elseif text and last then
      last.about = (last.about .. " " .. text):gsub("^ ", "")
    elseif text then
      parts.prose[#parts.prose + 1] = text
    elseif tag == "class" then
      public[#public + 1] = line
    end
  end
  parts.own = (parts.prose[1] or ""):find "^For sluice's own modules" ~= nil
  if parts.own then public = { public[1] } end
  parts.public = table.concat(public, "\n")
  return parts
end

--- The types that a text names, those that they name, and so on, by name: those that have something to show.
---@param text string    annotations, each line with --- in front
---@param shown table<string, true>  types that are shown elsewhere
---@return { name: string, block: string }[]
function types.named(text, shown)
  local known, list = types.definitions(), {}
  local missing = types.missing("\n" .. text, known)
  while #missing > 0 do
    for _, name in ipairs(missing) do
      local parts = types.parts(known[name])
      text = text .. "\n" .. parts.public .. "\n"
      if not shown[name] and not parts.own and (parts.alias or #parts.fields > 0) then
        list[#list + 1] = { name = name, block = known[name] }
      end
    end
    missing = types.missing("\n" .. text, known)
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

--- The type as text, for help(): by its name, with "sluice." or without.
---@param name string
---@return string?
function types.text(name)
  local block = types.definitions()["sluice." .. name:gsub("^sluice%.", "")]
  local parts = block and types.parts(block)
  if not parts or parts.own or not parts.alias and #parts.fields == 0 then return nil end
  local out = { "sluice." .. name:gsub("^sluice%.", ""), "" }
  table.move(parts.prose, 1, #parts.prose, #out + 1, out)
  if #parts.prose > 0 then out[#out + 1] = "" end
  if parts.alias then out[#out + 1] = "  " .. parts.alias end
  for _, f in ipairs(parts.fields) do
    out[#out + 1] = ("  %s: %s%s"):format(f.name, f.type, f.about ~= "" and ", " .. f.about or "")
  end
  return table.concat(out, "\n")
end

return types
