-- Schemas, values and patterns at random, each with what sluice says of it: JSON Lines on stdout.
local sluice = require "sluice"
local example = require "sluice.mock.example"
local regex = require "sluice.schema.regex"
local strict = require "sluice.schema.strict"

local json, schema = sluice.json, sluice.schema
local seed = math.tointeger(tonumber((...))) or 1
math.randomseed(seed)
local random = math.random

local function pick(list) return list[random(#list)] end
local function chance(p) return random() < p end

local STRINGS = { "", "a", "ab", "abc", "长", "长城", "a b", "x1", "2026-01-02", "\u{1F600}" }
local NAMES = { "a", "b", "c", "a/b", "m~n" }

-- Values --------------------------------------------------------------------------------------------------

local function value(depth)
  local kind = random(depth > 2 and 6 or 8)
  if kind == 1 then return json.null end
  if kind == 2 then return chance(0.5) end
  if kind == 3 then return random(-3, 12) end
  if kind == 4 then return random(-30, 120) / 8 end
  if kind <= 6 then return pick(STRINGS) end
  if kind == 7 then
    local list = json.array {}
    for i = 1, random(0, 4) do list[i] = value(depth + 1) end
    return list
  end
  local object = {}
  for _ = 1, random(0, 3) do object[pick(NAMES)] = value(depth + 1) end
  return object
end

-- Patterns ------------------------------------------------------------------------------------------------

local pattern

local function atom(depth)
  local kind = random(depth > 2 and 7 or 9)
  if kind == 1 then return pick { "a", "b", "1", "长", " " } end
  if kind == 2 then return "." end
  if kind == 3 then return pick { "\\d", "\\w", "\\s", "\\D", "\\W", "\\S" } end
  if kind == 4 then return pick { "[abc]", "[^a]", "[a-c1-3]", "[\\d-]", "[^\\w]", "[\\u4e00-\\u9fff]" } end
  if kind == 5 then return pick { "\\b", "\\B", "^", "$" } end
  if kind <= 7 then return pick { "ab", "x1", "-", "\\.", "\\/", "\\u957f" } end
  if kind == 8 then return "(" .. pattern(depth + 1) .. ")" end
  return "(?:" .. pattern(depth + 1) .. ")"
end

function pattern(depth)
  local parts = {}
  for i = 1, random(0, 3) do
    local a = atom(depth)
    if not a:find "^\\[bB]$" and a ~= "^" and a ~= "$" and #a > 0 and chance(0.4) then
      if #a > 1 and not a:find "^[%[(\\]" then a = "(?:" .. a .. ")" end
      a = a .. pick { "*", "+", "?", "{2}", "{1,}", "{0,2}", "*?", "+?" }
    end
    parts[i] = a
  end
  local text = table.concat(parts)
  return chance(0.2) and text .. "|" .. pick { "a", "", "b+" } or text
end

-- Schemas -------------------------------------------------------------------------------------------------

local build

local KINDS = {}

function KINDS.string(s)
  if chance(0.3) then s.minLength = random(0, 2) end
  if chance(0.3) then s.maxLength = random(1, 4) end
  if chance(0.2) then s.pattern = pattern(1) end
end

function KINDS.integer(s)
  if chance(0.3) then s.minimum = random(-2, 3) end
  if chance(0.3) then s.maximum = random(2, 10) end
  if chance(0.2) then s.multipleOf = random(1, 4) end
end

function KINDS.number(s)
  if chance(0.3) then s.exclusiveMinimum = random(-2, 3) end
  if chance(0.3) then s.exclusiveMaximum = random(2, 10) end
end

function KINDS.boolean() end
KINDS["null"] = KINDS.boolean

function KINDS.array(s, depth)
  if chance(0.7) then s.items = build(depth + 1) end
  if chance(0.2) then s.prefixItems = json.array { build(depth + 1), build(depth + 1) } end
  if chance(0.3) then s.minItems = random(0, 2) end
  if chance(0.3) then s.maxItems = random(1, 4) end
  if chance(0.3) then s.uniqueItems = true end
end

function KINDS.object(s, depth)
  s.properties = {}
  for _ = 1, random(0, 3) do s.properties[pick(NAMES)] = build(depth + 1) end
  s.required = json.array {}
  for name in pairs(s.properties) do
    if chance(0.5) then s.required[#s.required + 1] = name end
  end
  if chance(0.5) then s.additionalProperties = false
  elseif chance(0.2) then s.additionalProperties = build(depth + 1) end
  if chance(0.1) then s.maxProperties = random(1, 2) end
end

local TYPES = { "string", "integer", "number", "boolean", "null", "array", "object" }

function build(depth)
  if depth > 3 then return { type = pick(TYPES) } end
  local r = random()
  if r < 0.06 then return { enum = json.array { value(2), value(2), value(1) } } end
  if r < 0.10 then return { const = value(2) } end
  if r < 0.18 then
    local list = json.array {}
    for i = 1, random(2, 3) do list[i] = build(depth + 1) end
    return { [pick { "anyOf", "oneOf", "allOf" }] = list }
  end
  if r < 0.21 then return { ["not"] = build(depth + 1) } end
  if r < 0.24 and depth > 0 then return { ["$ref"] = "#/$defs/shared" } end
  if r < 0.26 then return true end
  local kind = pick(TYPES)
  local s = { type = chance(0.15) and json.array { kind, "null" } or kind }
  if kind == "null" then s.type = "null" end
  KINDS[kind](s, depth)
  return s
end

-- Out -----------------------------------------------------------------------------------------------------

local function write(line) print(json.encode(line)) end

write { seed = seed }
for _ = 1, 1000 do
  local s = build(0)
  if type(s) == "table" then
    s["$defs"] = { shared = { type = pick(TYPES) } }
    for _ = 1, 4 do
      -- every other value is made to fit, more or less
      local v = chance(0.5) and value(0) or example.value(s, "3 words for Ada")
      v = json.decode(json.encode(v))
      local faults = schema.faults(s, v)
      write { kind = "value", schema = s, value = v, fits = #faults == 0, faults = json.array(faults) }
    end
  end
end

for _ = 1, 3000 do
  local p = pattern(0)
  local text = table.concat { pick(STRINGS), pick(STRINGS), pick(STRINGS) }
  text = text:gsub("\u{1F600}", "") -- V8 finds a \B between the halves of a surrogate pair
  local verdict = regex.matches(p, text)
  write { kind = "pattern", pattern = p, text = text, matches = verdict == nil and json.null or verdict }
end

-- Descriptions: what their strict form lets pass fits them too, once null for "missing" is taken out.
local WORDS = { "string", "integer?", "number = 1", "a|b", "a|b?", "string[]", "integer(0..5)", "boolean?", "string|null" }
for _ = 1, 500 do
  local description = {}
  for _, name in ipairs { "a", "b", "c", "d" } do description[name] = pick(WORDS) end
  if chance(0.5) then description.e = { x = pick(WORDS), ["y?"] = { "p", "q" } } end
  if chance(0.5) then description.f = { { z = pick(WORDS) } } end
  local full = schema(description)
  local narrow = strict(full)
  local v = json.decode(json.encode(example.value(narrow, "4 words for Ada")))
  for name, field in pairs(full.properties) do
    if type(narrow.properties[name].type) == "table" and chance(0.5) and field.type ~= "object" then v[name] = json.null end
  end
  local tidied = schema.tidy(full, schema.copy(v))
  write { kind = "strict", full = full, strict = narrow, value = v, tidied = tidied,
    fits = #schema.faults(full, tidied) == 0 }
end
