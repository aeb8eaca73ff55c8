--- A JSON Schema in the form OpenAI's strict mode takes. Pure.
-- Owns: that translation. What strict mode does not know is left out where our own check can stand in for it
-- (lengths, defaults), and what cannot be said makes the whole not strict (open objects, allOf, any value).
-- Source: developers.openai.com/docs/guides/structured-outputs (supported schemas): every object closed, every
-- property required; what may be missing may be null instead.

local json = require "sluice.json"

local DEPTH_MAX = 64
local KEPT = { "type", "description", "enum", "const", "$ref", "minimum", "maximum", "exclusiveMinimum",
  "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "pattern" }
local NOT_STRICT = { "allOf", "not", "if", "prefixItems", "patternProperties", "dependentRequired",
  "dependentSchemas", "propertyNames", "contains", "unevaluatedProperties", "unevaluatedItems" }
local FORMATS = { ["date-time"] = true, time = true, date = true, duration = true, email = true, hostname = true,
  ipv4 = true, ipv6 = true, uuid = true }

local NotStrict = {}

local convert

--- The same, or null.
local function nullable(part)
  if part.enum then
    for _, value in ipairs(part.enum) do
      if value == json.null then return part end
    end
    part.enum[#part.enum + 1] = json.null
  end
  if part.anyOf then
    part.anyOf[#part.anyOf + 1] = { type = "null" }
  elseif part["$ref"] or part.const ~= nil then
    return { anyOf = { part, { type = "null" } } }
  elseif type(part.type) == "string" then
    if part.type ~= "null" then part.type = { part.type, "null" } end
  elseif type(part.type) == "table" then
    for _, name in ipairs(part.type) do
      if name == "null" then return part end
    end
    part.type[#part.type + 1] = "null"
  end
  return part
end

local function object(part, result, depth)
  local others = part.additionalProperties
  if type(part.properties) ~= "table" or others ~= nil and others ~= false then error(NotStrict, 0) end
  local required = {}
  for _, name in ipairs(type(part.required) == "table" and part.required or {}) do required[name] = true end
  result.properties, result.required, result.additionalProperties = {}, json.array {}, false
  local names = {}
  for name in pairs(part.properties) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local field = convert(part.properties[name], depth + 1)
    result.properties[name] = required[name] and field or nullable(field)
    result.required[i] = name
  end
end

local function has_type(part, name)
  if type(part.type) ~= "table" then return part.type == name end
  for _, t in ipairs(part.type) do
    if t == name then return true end
  end
  return false
end

local function list(parts, depth)
  local result = json.array {}
  for i, part in ipairs(parts) do result[i] = convert(part, depth + 1) end
  return result
end

function convert(part, depth)
  if type(part) ~= "table" or depth > DEPTH_MAX then error(NotStrict, 0) end
  for _, name in ipairs(NOT_STRICT) do
    if part[name] ~= nil then error(NotStrict, 0) end
  end
  local result = {}
  for _, name in ipairs(KEPT) do
    local value = part[name]
    if type(value) == "table" then
      value = table.move(value, 1, #value, 1, json.array {})
      if name == "const" then error(NotStrict, 0) end
    end
    result[name] = value
  end
  if FORMATS[part.format] then result.format = part.format end
  local forms = part.anyOf or part.oneOf
  if forms then result.anyOf = list(forms, depth) end
  if has_type(part, "object") then object(part, result, depth) end
  if has_type(part, "array") then
    if part.items == nil then error(NotStrict, 0) end
    result.items = convert(part.items, depth + 1)
  end
  for _, name in ipairs { "$defs", "definitions" } do
    if type(part[name]) == "table" then
      result[name] = {}
      for key, value in pairs(part[name]) do result[name][key] = convert(value, depth + 1) end
    end
  end
  if not (result.type or result.anyOf or result["$ref"] or result.enum or result.const ~= nil) then
    error(NotStrict, 0) -- any value
  end
  return result
end

--- The strict form, or nil when there is none.
---@param schema table  a JSON Schema whose root is an object
---@return table?
return function(schema)
  local ok, result = pcall(convert, schema, 0)
  if ok then return result.anyOf == nil and result or nil end -- a root of alternatives is refused
  if result ~= NotStrict then error(result, 0) end
  return nil
end
