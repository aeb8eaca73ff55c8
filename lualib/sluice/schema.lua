--- Schemas: what a model's answer, or the arguments of a tool, must look like.
-- Owns: the doors to schema/*: a description becomes a JSON Schema (compact.lua), a value is checked
-- against one (validate.lua), defaults are put in, and what OpenAI calls strict (strict.lua).

local json = require "sluice.json"
local options = require "sluice.options"
local compact = require "sluice.schema.compact"
local validate = require "sluice.schema.validate"

local DEPTH_MAX = 64

---@class sluice.schema
---@overload fun(description: string|table): table
local schema = {}

--- The JSON Schema of a description: `sluice.schema { city = "string: where", days = "integer? = 3" }`.
--- Fields are words, "TYPE[(range)][?] [= default] [: description]": `"string"`, `"integer(1..10)? = 3: how
--- many"`, `"small|large"`, `"string[]: keywords"`; or tables: a choice `{ "c", "f" }`, an object inside
--- `{ lat = "number" }`, a list of objects `{ { name = "string" } }`, or a JSON Schema, which is taken as it
--- is. A field may be missing when its type ends in "?", when it has a default, or when its name ends in
--- "?". Raises an ordinary error that names the field when the description is wrong.
---@param description string|table
---@return table schema  a JSON Schema
function schema.new(description)
  local result, why = compact.read(description)
  if not result then options.raise("sluice.schema: " .. why) end
  return result
end

-- The same for other functions that take one; `where` is the function to blame.
function schema.read(where, description)
  local result, why = compact.read(description)
  if not result then options.raise(("%s: %s"):format(where, why)) end
  return result
end

--- Checks a value. Returns true, or nil and what is wrong: at most ten faults, one a line, each
--- beginning with its place as a JSON Pointer ("/items/0/price: expected a number, got null").
---@param description string|table  a JSON Schema, or a description of one
---@param value any                 as json.decode gives it; an empty table may stand for a list, too
---@return true? fits
---@return string? faults
function schema.check(description, value)
  local read, why = compact.read(description)
  if not read then options.raise("sluice.schema.check: " .. why) end
  local faults = validate.faults(read, value, nil, true)
  if #faults == 0 then return true end
  return nil, table.concat(faults, "\n")
end

schema.faults = validate.faults

local function fill(root, part, value, depth)
  if type(part) ~= "table" or type(value) ~= "table" or depth > DEPTH_MAX then return end
  if part["$ref"] then return fill(root, validate.resolve(root, part["$ref"]), value, depth + 1) end
  if type(part.properties) == "table" then
    for name, field in pairs(part.properties) do
      if type(field) == "table" then
        if value[name] == nil and field.default ~= nil then value[name] = schema.copy(field.default)
        else fill(root, field, value[name], depth + 1) end
      end
    end
  end
  if type(part.items) == "table" then
    for i = 1, #value do fill(root, part.items, value[i], depth + 1) end
  end
end

-- A deep copy of what JSON can hold.
function schema.copy(value)
  if type(value) ~= "table" then return value end
  local result = {}
  for key, item in pairs(value) do result[key] = schema.copy(item) end
  return setmetatable(result, getmetatable(value))
end

--- Puts the schema's defaults where the value says nothing; in place.
--- For sluice's own modules.
---@param part table  a JSON Schema
---@param value any
---@return any value
function schema.fill(part, value)
  fill(part, part, value, 0)
  return value
end

--- Does the schema allow null here?
local function takes_null(root, part)
  return #validate.faults(part, json.null, root) == 0
end

local function prune(root, part, value, depth)
  if type(part) ~= "table" or type(value) ~= "table" or depth > DEPTH_MAX then return end
  if part["$ref"] then return prune(root, validate.resolve(root, part["$ref"]), value, depth + 1) end
  if type(part.properties) == "table" then
    local required = {}
    for _, name in ipairs(type(part.required) == "table" and part.required or {}) do required[name] = true end
    for name, field in pairs(part.properties) do
      local item = value[name]
      if item == json.null and not required[name] and not takes_null(root, field) then value[name] = nil
      else prune(root, field, item, depth + 1) end
    end
  end
  if type(part.items) == "table" then
    for i = 1, #value do prune(root, part.items, value[i], depth + 1) end
  end
end

--- Brings what a model wrote to what was meant, in place: null for a field that may be missing and is not
--- null is the same as missing it (it is how OpenAI's strict mode says so), and defaults are put in.
--- For sluice's own modules.
---@param part table  a JSON Schema
---@param value any
---@return any value
function schema.tidy(part, value)
  prune(part, part, value, 0)
  fill(part, part, value, 0)
  return value
end

return setmetatable(schema, { __call = function(_, description) return schema.new(description) end })
