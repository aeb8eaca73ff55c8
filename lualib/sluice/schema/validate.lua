--- Does a value fit a JSON Schema, and where does it not? Pure.
-- Owns: the subset of JSON Schema (2020-12) that is checked, and the words.
--
-- Checked: type, enum, const, properties, required, additionalProperties, minProperties, maxProperties,
-- items, prefixItems, minItems, maxItems, uniqueItems, minLength, maxLength (characters), pattern,
-- minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf, anyOf, oneOf, allOf, not, and $ref
-- within the schema ("#", "#/$defs/…"). Everything else (format, if, patternProperties, contains, …) is
-- for the reader: it goes to the provider, and nothing is refused for it. Of `pattern` what
-- schema/regex.lua understands is checked.
--
-- Every fault begins with a JSON Pointer (RFC 6901) to its place: "/items/0/price: expected a number,
-- got the text 'three'". Work is bounded, whatever schema and value are.

local json = require "sluice.json"
local regex = require "sluice.schema.regex"

local FAULTS_MAX = 10      -- told at once
local STEPS_MAX = 200000   -- schemas applied to values
local DEPTH_MAX = 200      -- a reference that leads to itself goes no deeper than this
local SHOWN = 40           -- bytes of a value in a message

local null = json.null

-- Words -------------------------------------------------------------------------------------------

--- An empty table of a script's may stand for a list; one that was decoded is marked when it does.
local function is_array(v, decoded)
  return type(v) == "table" and (json.is_array(v) or not decoded and next(v) == nil)
end

local function is_object(v)
  return type(v) == "table" and not json.is_array(v)
end

--- A value in a few words.
local function got(v)
  if v == null then return "null" end
  if type(v) == "string" then
    if #v <= SHOWN then return ("the text '%s'"):format(v) end
    return ("a text of %d characters"):format(utf8.len(v) or #v)
  end
  if type(v) == "table" then return json.is_array(v) and "a list" or "an object" end
  if v == nil then return "nothing" end
  if math.type(v) == "float" then return ("%.14g"):format(v) end
  return tostring(v)
end

local ARTICLES = { string = "a text", integer = "a whole number", number = "a number", boolean = "true or false",
  object = "an object", array = "a list", null = "null" }

local function one_of(words)
  if #words == 1 then return words[1] end
  return table.concat(words, ", ", 1, #words - 1) .. " or " .. words[#words]
end

local function pointer(path, key)
  if math.type(key) == "integer" then return ("%s/%d"):format(path, key - 1) end
  return path .. "/" .. tostring(key):gsub("~", "~0"):gsub("/", "~1")
end

-- Values ------------------------------------------------------------------------------------------

local function equal(a, b, depth)
  if a == b then return true end
  if type(a) ~= "table" or type(b) ~= "table" or (depth or 0) > DEPTH_MAX then return false end
  if json.is_array(a) ~= json.is_array(b) then return false end
  for key, value in pairs(a) do
    if not equal(value, b[key], (depth or 0) + 1) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local IS = {
  string = function(v) return type(v) == "string" end,
  boolean = function(v) return type(v) == "boolean" end,
  number = function(v) return type(v) == "number" end,
  integer = function(v) return type(v) == "number" and (math.type(v) == "integer" or v == math.floor(v)) end,
  null = function(v) return v == null end,
  object = is_object,
  array = is_array,
}

-- Checking ------------------------------------------------------------------------------------------

---@class sluice.schema.Check
---@field root table
---@field faults string[]
---@field work { steps: integer }  shared by all branches
local check

local function fault(state, path, text, ...)
  local faults = state.faults
  if #faults < FAULTS_MAX then
    if select("#", ...) > 0 then text = text:format(...) end
    faults[#faults + 1] = (path == "" and "" or path .. ": ") .. text
  end
  state.failed = true
end

--- One step of work; false when there was too much of it already.
local function spend(state)
  local work = state.work
  work.steps = work.steps + 1
  return work.steps <= STEPS_MAX
end

--- Checks aside: the faults of one branch.
local function attempt(state, schema, value, path, depth)
  local branch = { root = state.root, faults = {}, work = state.work, decoded = state.decoded }
  check(branch, schema, value, path, depth)
  return not branch.failed, branch.faults
end

local function resolve(root, reference)
  if reference == "#" then return root end
  local place = root
  if type(reference) ~= "string" or not reference:find "^#/" then return nil end
  for key in reference:sub(3):gmatch "[^/]+" do
    key = key:gsub("%%(%x%x)", function(h) return string.char(tonumber(h, 16)) end):gsub("~1", "/"):gsub("~0", "~")
    if type(place) ~= "table" then return nil end
    local index = place[key]
    if index == nil and math.tointeger(tonumber(key)) then index = place[math.tointeger(tonumber(key)) + 1] end
    place = index
  end
  return place
end

local function check_type(state, schema, value, path)
  local types = schema.type
  if types == nil then return true end
  if type(types) == "string" then types = { types } end
  local words = {}
  for i, name in ipairs(types) do
    local is = IS[name]
    if is and is(value, state.decoded) then return true end
    if not is then return true end -- a type of somebody's own: not ours to judge
    words[i] = ARTICLES[name]
  end
  if schema.nullable == true and value == null then return true end -- OpenAPI's way
  fault(state, path, "expected %s, got %s", one_of(words), got(value))
  return false
end

local function check_choice(state, schema, value, path)
  if schema.const ~= nil and not equal(schema.const, value) then
    fault(state, path, "must be %s, got %s", got(schema.const):gsub("^the text ", ""), got(value))
  end
  local enum = schema.enum
  if type(enum) ~= "table" then return end
  local words = {}
  for i, allowed in ipairs(enum) do
    if equal(allowed, value) then return end
    words[i] = got(allowed):gsub("^the text ", "")
  end
  if #words > 20 then words = { table.concat(words, ", ", 1, 20) .. ", …" } end
  fault(state, path, "must be one of %s, got %s", table.concat(words, ", "), got(value))
end

local function is_number(v) return type(v) == "number" end

local function check_number(state, schema, value, path)
  local low, high = schema.minimum, schema.maximum
  if is_number(low) and value < low then fault(state, path, "must be at least %s, got %s", got(low), got(value)) end
  if is_number(high) and value > high then fault(state, path, "must be at most %s, got %s", got(high), got(value)) end
  low, high = schema.exclusiveMinimum, schema.exclusiveMaximum
  if is_number(low) and value <= low then fault(state, path, "must be above %s, got %s", got(low), got(value)) end
  if is_number(high) and value >= high then fault(state, path, "must be below %s, got %s", got(high), got(value)) end
  local step = schema.multipleOf
  if is_number(step) and step > 0 then
    local n = value / step
    if math.abs(n - math.floor(n + 0.5)) > 1e-9 * math.max(1, math.abs(n)) then
      fault(state, path, "must be a multiple of %s, got %s", got(step), got(value))
    end
  end
end

local function check_string(state, schema, value, path)
  local length = (schema.minLength or schema.maxLength) and (utf8.len(value) or #value)
  if is_number(schema.minLength) and length < schema.minLength then
    fault(state, path, "must have at least %d characters, has %d", schema.minLength, length)
  end
  if is_number(schema.maxLength) and length > schema.maxLength then
    fault(state, path, "must have at most %d characters, has %d", schema.maxLength, length)
  end
  if type(schema.pattern) == "string" and regex.matches(schema.pattern, value) == false then
    fault(state, path, "must match the pattern %s, got %s", schema.pattern, got(value))
  end
end

local function check_array(state, schema, value, path, depth)
  local n = #value
  if is_number(schema.minItems) and n < schema.minItems then
    fault(state, path, "must have at least %d items, has %d", schema.minItems, n)
  end
  if is_number(schema.maxItems) and n > schema.maxItems then
    fault(state, path, "must have at most %d items, has %d", schema.maxItems, n)
  end
  local first = 1
  if type(schema.prefixItems) == "table" then
    for i, item in ipairs(schema.prefixItems) do
      if i <= n then check(state, item, value[i], pointer(path, i), depth + 1) end
    end
    first = #schema.prefixItems + 1
  end
  if schema.items ~= nil then
    for i = first, n do check(state, schema.items, value[i], pointer(path, i), depth + 1) end
  end
  if schema.uniqueItems == true then
    for i = 2, n do
      for j = 1, i - 1 do
        if not spend(state) then return end
        if equal(value[i], value[j]) then
          return fault(state, pointer(path, i), "is the same as item %d; items must differ", j - 1)
        end
      end
    end
  end
end

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

local function check_object(state, schema, value, path, depth)
  local properties = type(schema.properties) == "table" and schema.properties or {}
  if type(schema.required) == "table" then
    for _, name in ipairs(schema.required) do
      if value[name] == nil then
        fault(state, pointer(path, name), "is missing%s", type(properties[name]) == "table"
          and ARTICLES[properties[name].type] and ", expected " .. ARTICLES[properties[name].type] or "")
      end
    end
  end
  local others, count = schema.additionalProperties, 0
  for _, name in ipairs(sorted_keys(value)) do
    count = count + 1
    local field = properties[name]
    if field ~= nil then check(state, field, value[name], pointer(path, name), depth + 1)
    elseif type(others) == "table" then check(state, others, value[name], pointer(path, name), depth + 1)
    elseif others == false and schema.patternProperties == nil then
      local near = require "sluice.nearest"(name, properties)
      fault(state, pointer(path, name), "is not among the fields%s",
        near and (" (did you mean '%s'?)"):format(near) or "")
    end
  end
  if is_number(schema.minProperties) and count < schema.minProperties then
    fault(state, path, "must have at least %d fields, has %d", schema.minProperties, count)
  end
  if is_number(schema.maxProperties) and count > schema.maxProperties then
    fault(state, path, "must have at most %d fields, has %d", schema.maxProperties, count)
  end
end

local function is_list(v) return type(v) == "table" and v[1] ~= nil end

--- The alternatives that did not fit, in one sentence.
local function none_fits(state, path, list, all)
  local parts = {}
  for i = 1, math.min(#list, 4) do
    local first = all[i][1] or "does not fit"
    if path ~= "" and first:sub(1, #path + 2) == path .. ": " then first = first:sub(#path + 3) end
    parts[i] = ("(%d) %s"):format(i, first)
  end
  fault(state, path, "fits none of the %d forms: %s%s", #list, table.concat(parts, "; "), #list > 4 and "; …" or "")
end

local function check_combined(state, schema, value, path, depth)
  if is_list(schema.allOf) then
    for _, part in ipairs(schema.allOf) do check(state, part, value, path, depth + 1) end
  end
  for _, key in ipairs { "anyOf", "oneOf" } do
    local list = schema[key]
    if is_list(list) then
      local all, fitting = {}, {}
      for i, part in ipairs(list) do
        local ok
        ok, all[i] = attempt(state, part, value, path, depth + 1)
        if ok then fitting[#fitting + 1] = i end
        if ok and key == "anyOf" then break end
      end
      if #fitting == 0 then none_fits(state, path, list, all)
      elseif #fitting > 1 then
        fault(state, path, "fits forms %s; it must fit only one of %d", table.concat(fitting, " and "), #list)
      end
    end
  end
  if schema["not"] ~= nil and attempt(state, schema["not"], value, path, depth + 1) then
    fault(state, path, "has the form that is ruled out, got %s", got(value))
  end
end

function check(state, schema, value, path, depth)
  if schema == true or not spend(state) then return end
  if schema == false then return fault(state, path, "must not be there") end
  if type(schema) ~= "table" then return fault(state, path, "the schema is no schema here, but %s", got(schema)) end
  if depth > DEPTH_MAX then return fault(state, path, "the schema refers to itself without end") end
  local reference = schema["$ref"]
  if reference ~= nil then
    local target = resolve(state.root, reference)
    if target == nil then return fault(state, path, "the schema refers to %s, which is not in it", got(reference)) end
    check(state, target, value, path, depth + 1)
  end
  if not check_type(state, schema, value, path) then return end
  check_choice(state, schema, value, path)
  if type(value) == "number" then check_number(state, schema, value, path)
  elseif type(value) == "string" then check_string(state, schema, value, path)
  elseif type(value) == "table" then
    if is_array(value, state.decoded) then check_array(state, schema, value, path, depth) end
    if is_object(value) then check_object(state, schema, value, path, depth) end
  end
  check_combined(state, schema, value, path, depth)
end

local validate = { resolve = resolve }

--- What is wrong with a value, at most ten faults; an empty list when it fits.
---@param schema table|boolean  a JSON Schema
---@param value any             as json.decode gives it
---@param root? table           what "#" means in references, when it is not the schema itself
---@param lenient? boolean      an empty table that is not marked passes for a list as well
---@return string[] faults      each "/place: what is wrong"
function validate.faults(schema, value, root, lenient)
  local state = { root = root or schema, decoded = not lenient, faults = {}, work = { steps = 0 } }
  check(state, schema, value, "", 0)
  if state.work.steps > STEPS_MAX then return { "schema and value are too much work to check" } end
  return state.faults
end

return validate
