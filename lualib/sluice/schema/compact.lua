--- JSON Schemas from descriptions a person writes in one breath.
-- Owns: the grammar below and the words when a description is wrong. Pure.
-- Never: checks a value (schema/validate.lua).
--
--   { city = "string: the city",                 a field that must be there, and what it is
--     days = "integer(1..10)? = 3: how many",    may be missing (?), default 3, from 1 to 10
--     unit = { "c", "f" },                       one of these
--     size = "small|large? : which",             the same in a word
--     tags = "string[]: keywords",               a list
--     at   = { lat = "number", lon = "number" }, an object in the object
--     days = { { from = "string" } },            a list of objects
--     ["note?"] = { "a", "b" },                  "?" behind the name: may be missing
--     raw  = { type = "string", format = "date" } }   a JSON Schema, as it is
--
-- A word is  TYPE[(range)][?] [= default] [: description].  TYPE is string, integer, number, boolean,
-- object, array, any, null, or one of these followed by [] for a list of them; a|b|c is a choice of
-- texts, or of types when all of them are types. The range is of the value of a number, of the length of
-- a string in characters, of the length of a list.
--
-- A table is a JSON Schema when it has $ref or $defs, or when nothing in it is foreign to schemas and it has
-- a `type` that is exactly the name of one, or anyOf, oneOf, allOf, enum or not with a table; else it
-- describes an object.

local json = require "sluice.json"
local nearest = require "sluice.nearest"

local TYPES = { string = true, integer = true, number = true, boolean = true, object = true, array = true,
  null = true, any = true }
local DEPTH_MAX = 32

-- Words that may stand in a schema. Others in a table with `type` show that it describes an object.
local KEYWORDS = {}
for word in ([[type title description default examples enum const properties required additionalProperties
  patternProperties propertyNames minProperties maxProperties items prefixItems contains minContains maxContains
  minItems maxItems uniqueItems minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum
  multipleOf anyOf oneOf allOf not if then else dependentRequired dependentSchemas unevaluatedProperties
  unevaluatedItems contentEncoding contentMediaType readOnly writeOnly deprecated nullable
  definitions]]):gmatch "%S+" do
  KEYWORDS[word] = true
end

--- What is wrong with a description travels as this, to be given a function's name on the way out.
local Wrong = { __name = "sluice.schema.wrong" }

local function wrong(path, text, ...)
  if select("#", ...) > 0 then text = text:format(...) end
  error(setmetatable({ path = path, text = text }, Wrong), 0)
end

-- Words -------------------------------------------------------------------------------------------

local function bound(path, text, what)
  if text == "" then return nil end
  return math.tointeger(tonumber(text)) or tonumber(text)
    or wrong(path, "'%s' is no %s; a range is written (1..10), (..10) or (1..)", text, what)
end

local RANGES = {
  integer = { "minimum", "maximum" }, number = { "minimum", "maximum" },
  string = { "minLength", "maxLength" }, array = { "minItems", "maxItems" },
}

local function set_range(path, schema, range)
  local names = RANGES[schema.type]
  if not names then wrong(path, "'%s' takes no range", tostring(schema.type or "any")) end
  local low, high = range:match "^%s*(.-)%s*%.%.%s*(.-)%s*$"
  if not low then wrong(path, "'(%s)' is no range; write (1..10), (..10) or (1..)", range) end
  schema[names[1]], schema[names[2]] = bound(path, low, "lower bound"), bound(path, high, "upper bound")
end

local function choice(path, text)
  local words, all_types = {}, true
  for word in (text .. "|"):gmatch "%s*(.-)%s*|" do
    if word == "" then wrong(path, "an empty choice in '%s'", text) end
    words[#words + 1] = word
    if not TYPES[word] or word == "any" then all_types = false end
  end
  if all_types then return { type = words } end
  return { type = "string", enum = words }
end

local function of_type(path, text)
  local inner = text:match "^(.-)%s*%[%s*%]$"
  if inner then return { type = "array", items = of_type(path, inner) } end
  if text:find("|", 1, true) then return choice(path, text) end
  if text == "any" then return {} end
  if TYPES[text] then return { type = text } end
  if text == "" then wrong(path, "the type is missing; a field is described as in \"string: what it is\"") end
  local near = nearest(text, TYPES)
  wrong(path, "unknown type '%s'%s", text, near and (" (did you mean '%s'?)"):format(near)
    or "; known: string, integer, number, boolean, object, array, any, null, TYPE[], a|b|c")
end

--- A default, read as the type wants it.
local function default_of(path, text, schema)
  if schema.type == "string" then return text:match '^"(.*)"$' or text end
  local ok, value = pcall(json.decode, text)
  if not ok then wrong(path, "the default '%s' is not of the type (JSON is expected)", text) end
  return value
end

--- Head and description: the colon that divides them is the first outside of a quoted default.
local function divide(text)
  local head, quoted, rest = text:match '^([^:"]*)("[^"]*")%s*(.*)$'
  if head and head:find "=%s*$" and (rest == "" or rest:find "^:") then
    return head .. quoted, rest:match "^:%s*(.*)$"
  end
  local before, after = text:match "^([^:]*):%s*(.*)$"
  return before or text, after
end

local function word(path, text)
  local head, description = divide(text)
  local kind, default = head:match "^(.-)%s*=%s*(.-)%s*$"
  kind = (kind or head):match "^%s*(.-)%s*$"
  local optional = kind:find "%?$" ~= nil
  if optional then kind = kind:match "^(.-)%s*%?$" end
  local range
  local before, inside = kind:match "^(.-)%s*%(([^()]*)%)$"
  if before then kind, range = before, inside end
  if kind:find "%?$" then -- "integer?(1..3)"
    optional, kind = true, kind:match "^(.-)%s*%?$"
  end
  local schema = of_type(path, kind)
  if range then set_range(path, schema, range) end
  if description and description ~= "" then schema.description = description end
  if default then schema.default = default_of(path, default, schema) end
  return schema, optional or default ~= nil
end

-- Tables --------------------------------------------------------------------------------------------

local function is_type(v)
  if type(v) == "string" then return TYPES[v] ~= nil and v ~= "any" end
  if type(v) ~= "table" or #v == 0 then return false end
  for _, name in ipairs(v) do
    if type(name) ~= "string" or not TYPES[name] then return false end
  end
  return true
end

--- Is this table a JSON Schema already?
local function is_schema(t)
  if type(t["$ref"]) == "string" or type(t["$schema"]) == "string" or type(t["$defs"]) == "table" then return true end
  for key in pairs(t) do
    if not KEYWORDS[key] and not (type(key) == "string" and key:find "^[$x]") then return false end
  end
  if is_type(t.type) or type(t["not"]) == "table" then return true end
  for _, name in ipairs { "anyOf", "oneOf", "allOf", "enum" } do
    if type(t[name]) == "table" and #t[name] > 0 then return true end
  end
  return false
end

local build

local function list(path, t, depth)
  local first = t[1]
  if #t == 1 and type(first) == "table" then
    return { type = "array", items = (build(path .. "[]", first, depth + 1)) }
  end
  local kind
  for i, item in ipairs(t) do
    local this = math.type(item) == "integer" and "integer" or type(item)
    if this ~= "string" and this ~= "number" and this ~= "integer" and this ~= "boolean" then
      wrong(path, "a list stands for a choice of texts, numbers or booleans; item %d is a %s. "
        .. "A list of objects is written { { … } }, a list of texts \"string[]\"", i, type(item))
    end
    if kind and kind ~= this then kind = false elseif kind == nil then kind = this end
  end
  if #t == 1 and type(first) == "string" and (TYPES[first] or first:find ":") then
    wrong(path, "a list of one is a choice without a choice; for a list of them write \"%s[]\"", first:match "^[^:]*")
  end
  return { type = kind or nil, enum = json.array(table.move(t, 1, #t, 1, {})) }
end

local function object(path, t, depth)
  local schema = { type = "object", properties = {}, required = json.array {}, additionalProperties = false }
  local names = {}
  for key in pairs(t) do
    if type(key) ~= "string" then
      wrong(path, "a table of fields has the key %s; a choice or a list stands alone: name = { … }", tostring(key))
    end
    names[#names + 1] = key
  end
  table.sort(names)
  for _, key in ipairs(names) do
    local name = key:match "^(.-)%?$" or key
    local here = path == "" and name or path .. "." .. name
    if name == "" then wrong(path, "a field without a name") end
    local field, optional = build(here, t[key], depth + 1)
    schema.properties[name] = field
    if not (optional or name ~= key) then schema.required[#schema.required + 1] = name end
  end
  return schema
end

--- The schema a description stands for, and whether the field may be missing.
function build(path, description, depth)
  if depth > DEPTH_MAX then wrong(path, "more than %d levels, or a table that holds itself", DEPTH_MAX) end
  if type(description) == "string" then return word(path, description) end
  if type(description) ~= "table" then
    wrong(path, "expected a description such as \"string: what it is\", or a table, got %s",
      description == nil and "nothing" or "a " .. type(description))
  end
  if is_schema(description) then
    return description, description.default ~= nil
  end
  if description[1] ~= nil then return list(path, description, depth) end
  return object(path, description, depth)
end

local compact = { is_schema = is_schema }

--- The JSON Schema of a description.
---@param description string|table
---@return table? schema
---@return string? why  what is wrong, beginning with the place
function compact.read(description)
  local ok, result = pcall(build, "", description, 0)
  if ok then return result end
  if getmetatable(result) ~= Wrong then error(result, 0) end
  return nil, (result.path ~= "" and "'" .. result.path .. "': " or "") .. result.text
end

return compact
