--- Values that fit a JSON Schema, made from the prompt where it offers something; and which of the
-- offered tools a prompt calls for. Pure.

local json = require "sluice.json"

local DEPTH_MAX = 12 -- a schema may refer to itself
local example = {}

-- Values ------------------------------------------------------------------------------------------

local FORMATS = {
  date = "2026-01-02", ["date-time"] = "2026-01-02T03:04:05Z", time = "03:04:05Z",
  email = "ada@example.com", uri = "https://example.com/", url = "https://example.com/",
  uuid = "123e4567-e89b-42d3-a456-426614174000", ipv4 = "192.0.2.1", ipv6 = "2001:db8::1",
  hostname = "example.com",
}

local ARITHMETIC = "%(*%d[%d%.%s%+%-%*/%%%^%(%)]*[%+%-%*/%%%^][%d%.%s%+%-%*/%%%^%(%)]*%d%)*"

--- Names in a prompt: capitalised words that do not begin a sentence, or what stands in quotes.
local function names_in(prompt)
  local list = {}
  for quoted in prompt:gmatch '["“「]([^"”」]+)["”」]' do list[#list + 1] = quoted end
  for before, name in (". " .. prompt):gmatch "([^%s])%s+(%u%a+)" do
    if not before:find "[%.!?:]" then list[#list + 1] = name end
  end
  return list
end

local function a_string(schema, name, context)
  if type(schema.format) == "string" and FORMATS[schema.format] then return FORMATS[schema.format] end
  local lower = name:lower()
  if lower:find "expr" or lower:find "formula" then
    local found = context.prompt:match(ARITHMETIC)
    if found then return (found:gsub("^%s+", ""):gsub("%s+$", "")) end
  end
  if FORMATS[lower] then return FORMATS[lower] end
  if lower == "query" or lower == "prompt" or lower == "question" or lower == "text" then
    return context.prompt:sub(1, 200):match "^[\0-\x7F\xC2-\xFD\x80-\xBF]*" or "example"
  end
  context.taken = context.taken + 1
  return context.names[context.taken] or context.names[1] or "example"
end

local function a_number(schema, context, integer)
  local low = schema.minimum or schema.exclusiveMinimum and schema.exclusiveMinimum + 1
  local high = schema.maximum or schema.exclusiveMaximum and schema.exclusiveMaximum - 1
  local value = tonumber(context.prompt:match "%d+%.?%d*") or 1
  if low and value < low then value = low end
  if high and value > high then value = high end
  if schema.multipleOf and schema.multipleOf > 0 then
    value = math.ceil((low or 0) / schema.multipleOf) * schema.multipleOf
  end
  return integer and math.floor(value) or value
end

local function fit_length(schema, s)
  local length = utf8.len(s)
  if not length then return "example" end
  if schema.minLength and length < schema.minLength then s = s .. ("x"):rep(schema.minLength - length) end
  if schema.maxLength and length > schema.maxLength then
    s = s:sub(1, (utf8.offset(s, schema.maxLength + 1) or #s + 1) - 1)
  end
  return s
end

local build

local function an_object(schema, root, context, depth)
  local value = {}
  local required = {}
  for _, name in ipairs(type(schema.required) == "table" and schema.required or {}) do required[name] = true end
  local properties = type(schema.properties) == "table" and schema.properties or {}
  local names = {}
  for name in pairs(properties) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    if required[name] or next(required) == nil then
      value[name] = build(properties[name], root, name, context, depth + 1)
    end
  end
  return value
end

local function follow(schema, root)
  local reference = schema["$ref"]
  for _ = 1, DEPTH_MAX do
    if type(reference) ~= "string" then break end
    local place = root
    for key in reference:gsub("^#/?", ""):gmatch "[^/]+" do
      place = type(place) == "table" and place[key] or nil
    end
    if type(place) ~= "table" then return {} end
    schema, reference = place, place["$ref"]
  end
  return schema
end

local function type_of(schema)
  local kind = schema.type
  if type(kind) == "table" then
    for _, name in ipairs(kind) do
      if name ~= "null" then return name end
    end
    return "null"
  end
  return kind or schema.properties and "object" or schema.items and "array" or "string"
end

function build(schema, root, name, context, depth)
  if type(schema) ~= "table" or depth > DEPTH_MAX then return "example" end
  schema = follow(schema, root)
  if schema.const ~= nil then return schema.const end
  if schema.default ~= nil then return schema.default end
  if type(schema.enum) == "table" and schema.enum[1] ~= nil then
    for _, choice in ipairs(schema.enum) do
      if type(choice) == "string" and choice ~= "" and context.prompt:lower():find(choice:lower(), 1, true) then
        return choice
      end
    end
    return schema.enum[1]
  end
  for _, key in ipairs { "anyOf", "oneOf", "allOf" } do
    if type(schema[key]) == "table" and schema[key][1] then
      return build(schema[key][1], root, name, context, depth + 1)
    end
  end
  local kind = type_of(schema)
  if kind == "object" then return an_object(schema, root, context, depth) end
  if kind == "array" then
    local list = json.array {}
    for i = 1, math.max(1, math.min(tonumber(schema.minItems) or 1, 20)) do
      list[i] = build(schema.items or {}, root, name, context, depth + 1)
    end
    return list
  end
  if kind == "integer" or kind == "number" then return a_number(schema, context, kind == "integer") end
  if kind == "boolean" then return true end
  if kind == "null" then return json.null end
  return fit_length(schema, a_string(schema, name, context))
end

--- A value that fits the schema.
---@param schema any  a JSON Schema, decoded
---@param prompt string  names, numbers and quoted words are taken from it
---@return any
function example.value(schema, prompt)
  return build(schema, schema, "", { prompt = prompt, names = names_in(prompt), taken = 0 }, 0)
end

--- The JSON Schema that instructions demand an answer to fit, as models follow it that have no mode for it.
---@param instructions string
---@return table?
function example.schema_in(instructions)
  local from = instructions:find("JSON Schema", 1, true)
  if not from then return nil end
  local found, schema = require("sluice.structured").find(instructions:sub(from))
  return found and type(schema) == "table" and (schema.type or schema.properties) and schema or nil
end

-- Tools -------------------------------------------------------------------------------------------

local function mentions(tool, lower, prompt)
  local name = tool.name:lower()
  if lower:find(name, 1, true) or lower:find(name:gsub("[_-]", " "), 1, true) then return true end
  for word in name:gmatch "%a+" do
    if #word >= 5 and lower:find(word, 1, true) then return true end
  end
  local properties = type(tool.schema) == "table" and tool.schema.properties
  for key in pairs(type(properties) == "table" and properties or {}) do
    if tostring(key):lower():find "expr" and prompt:find(ARITHMETIC) then return true end
  end
  return false
end

--- The tools a prompt asks for: "use tool NAME", a name or a telling part of one, or arithmetic when
--- a tool takes an expression.
---@param tools { name: string, schema: any }[]
---@param prompt string
---@return { name: string, schema: any }[]
function example.wanted(tools, prompt)
  local lower, list = prompt:lower(), {}
  local asked = lower:match "use tool[%s:'\"`]+([%w_-]+)" or lower:match "use the tool[%s:'\"`]+([%w_-]+)"
  for _, tool in ipairs(tools) do
    if asked and tool.name:lower() == asked then return { tool } end
    if mentions(tool, lower, prompt) then list[#list + 1] = tool end
  end
  return list
end

return example
