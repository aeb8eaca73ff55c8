-- sluice.schema: descriptions, what is checked and in which words, patterns, defaults.
local T = require "harness"
local sluice = require "sluice"
local regex = require "sluice.schema.regex"

local json, schema = sluice.json, sluice.schema

-- Descriptions --------------------------------------------------------------------------------------

T.test("words: type, optional, default, range, description", function(t)
  local s = schema {
    city = "string: the city, as in: Paris",
    days = "integer(1..10)? = 3: how many",
    name = "string(..20)",
    unit = "c|f? = c: the unit",
    tags = "string[](1..3): keywords",
    any = "any?",
    null = "string|null",
    greeting = 'string = "a: b": with a colon',
    ratio = "number?(0..1)",
  }
  t.eq(s.type, "object")
  t.eq(s.additionalProperties, false)
  t.eq(s.required, { "city", "name", "null", "tags" })
  local p = s.properties
  t.eq(p.city, { type = "string", description = "the city, as in: Paris" })
  t.eq(p.days, { type = "integer", minimum = 1, maximum = 10, default = 3, description = "how many" })
  t.eq(p.name, { type = "string", maxLength = 20 })
  t.eq(p.unit, { type = "string", enum = { "c", "f" }, default = "c", description = "the unit" })
  t.eq(p.tags, { type = "array", items = { type = "string" }, minItems = 1, maxItems = 3, description = "keywords" })
  t.eq(p.any, {})
  t.eq(p.null, { type = { "string", "null" } })
  t.eq(p.greeting, { type = "string", default = "a: b", description = "with a colon" })
  t.eq(p.ratio, { type = "number", minimum = 0, maximum = 1 })
end)

T.test("tables: choices, objects inside, lists of objects, names with ?, raw schemas", function(t)
  local raw = { type = "string", format = "date" }
  local s = schema {
    unit = { "c", "f" }, level = { 1, 2, 3 }, at = { lat = "number", lon = "number" },
    items = { { name = "string", ["note?"] = { "a", "b" } } },
    when = raw, either = { anyOf = { { type = "string" }, { type = "null" } } },
    matrix = "number[][]",
  }
  local p = s.properties
  t.eq(p.unit, { type = "string", enum = { "c", "f" } })
  t.eq(p.level, { type = "integer", enum = { 1, 2, 3 } })
  t.eq(p.at.required, { "lat", "lon" })
  t.eq(p.items.type, "array")
  t.eq(p.items.items.required, { "name" })
  t.eq(p.items.items.properties.note.enum, { "a", "b" })
  t.ok(rawequal(p.when, raw), "a schema is taken as it is")
  t.eq(#p.either.anyOf, 2)
  t.eq(p.matrix.items.items.type, "number")
end)

T.test("a field called type is a field, when it is described", function(t)
  local s = schema { type = "string: which kind", name = "string" }
  t.eq(s.properties.type.description, "which kind")
  t.eq(schema { type = "string", name = "string" }.required, { "name", "type" })
  t.eq(schema { enum = "string", title = "string" }.required, { "enum", "title" })
end)

T.test("an empty description is an object without fields", function(t)
  local s = schema {}
  t.eq(s.type, "object")
  t.match(json.encode(s), '"required":%[%]')
  t.eq(schema "string[]: words", { type = "array", items = { type = "string" }, description = "words" })
end)

T.test("wrong descriptions name the field and what is near", function(t)
  for description, words in pairs {
    [{ a = "strin" }] = "'a': unknown type 'strin' %(did you mean 'string'%?%)",
    [{ a = { b = "int" } }] = "'a.b': unknown type 'int'",
    [{ a = { "string" } }] = "'a': .*write \"string%[%]\"",
    [{ a = 3 }] = "'a': expected a description.*number",
    [{ a = "" }] = "'a': the type is missing",
    [{ a = "integer(1-3)" }] = "'a': '%(1%-3%)' is no range",
    [{ a = "boolean(1..3)" }] = "'a': 'boolean' takes no range",
    [{ a = "integer = x" }] = "'a': the default 'x'",
    [{ a = "a||b" }] = "'a': an empty choice",
    [{ a = { { "x" }, { "y" } } }] = "'a': a list stands for a choice",
  } do
    t.match(t.raises("sluice.schema: ", function() schema(description) end), words)
  end
  local loop = {}
  loop.a = loop
  t.raises("more than 32 levels", schema, loop)
end)

-- Checking ------------------------------------------------------------------------------------------

--- Description, JSON text, what is wrong (a pattern for each fault), or nothing.
local CASES = {
  { "string", '"x"' }, { "string", "1", "expected a text, got 1" }, { "string", "null", "got null" },
  { "integer", "1" }, { "integer", "1.0" }, { "integer", "1.5", "expected a whole number, got 1.5" },
  { "integer", "1e300" }, { "number", "1" }, { "number", '"1"', "expected a number, got the text '1'" },
  { "boolean", "true" }, { "boolean", "0", "expected true or false" },
  { "object", "{}" }, { "object", "[]", "expected an object, got a list" }, { "array", '{"a":1}', "expected a list, got an object" },
  { "array", "[]" }, { "null", "null" }, { "string|null", "null" }, { "string|null", "1", "expected a text or null, got 1" },
  { "string[]", '["a",1,"b",2]', "^/1: expected a text, got 1$", "^/3: expected" },
  { "a|b", '"c"', "must be one of 'a', 'b', got the text 'c'" },
  { { { name = "string", price = "number(0..)" } }, '[{"name":"x","price":1},{"nam":"x","price":-1}]',
    "^/1/name: is missing, expected a text$", "^/1/nam: is not among the fields %(did you mean 'name'%?%)$",
    "^/1/price: must be at least 0, got %-1$" },
  { { ["a/b~c"] = "string" }, '{"a/b~c":1}', "^/a~1b~0c: " },
  { "string(2..3)", '"长城"' }, { "string(2..3)", '"长"', "at least 2 characters, has 1" },
  { "string(2..3)", '"abcd"', "at most 3 characters, has 4" },
  { "string[](1..2)", "[]", "at least 1 items" }, { "string[](1..2)", '["a","b","c"]', "at most 2 items" },
  { { type = "array", uniqueItems = true }, "[1,2,1]", "^/2: is the same as item 0" },
  { { type = "array", uniqueItems = true }, '[{"a":1},{"a":2}]' },
  { { type = "number", exclusiveMinimum = 0, exclusiveMaximum = 1 }, "0", "above 0" },
  { { type = "number", exclusiveMinimum = 0, exclusiveMaximum = 1 }, "1", "below 1" },
  { { type = "number", multipleOf = 0.1 }, "0.3" }, { { type = "integer", multipleOf = 5 }, "7", "multiple of 5" },
  { { type = "object", const = { a = 1 } }, '{"a":1}' }, { { type = "object", const = { a = 1 } }, '{"a":2}', "must be an object" },
  { { enum = { 1, "x", json.null } }, "null" }, { { enum = { 1, "x", json.null } }, "2", "one of 1, 'x', null, got 2" },
  { { anyOf = { { type = "string" }, { type = "integer" } } }, "true",
    "fits none of the 2 forms: %(1%) expected a text, got true; %(2%) expected a whole number" },
  { { anyOf = { { type = "string" }, { type = "integer" } } }, "3" },
  { { oneOf = { { type = "number" }, { type = "integer" } } }, "3", "fits forms 1 and 2; it must fit only one of 2" },
  { { oneOf = { { type = "number" }, { type = "integer" } } }, "3.5" },
  { { allOf = { { type = "integer", minimum = 3 }, { type = "integer", maximum = 5 } } }, "7", "at most 5" },
  { { ["not"] = { type = "null" } }, "null", "ruled out" }, { { ["not"] = { type = "null" } }, "1" },
  { { type = "object", additionalProperties = { type = "integer" } }, '{"a":1,"b":"x"}', "^/b: expected a whole number" },
  { { type = "object", minProperties = 1, maxProperties = 2 }, "{}", "at least 1 fields" },
  { { type = "array", prefixItems = { { type = "string" }, { type = "integer" } }, items = false }, '["a",1]' },
  { { type = "array", prefixItems = { { type = "string" } }, items = false }, '["a",1]', "^/1: must not be there" },
  { { type = "string", pattern = "^[A-Z]{2}-\\d+$" }, '"AB-12"' },
  { { type = "string", pattern = "^[A-Z]{2}-\\d+$" }, '"ab-12"', "must match the pattern" },
  { { type = "string", pattern = "(?=x)" }, '"ab"' }, -- not understood: not judged
  { { ["$defs"] = { node = { type = "object", properties = { next = { ["$ref"] = "#/$defs/node" } },
    additionalProperties = false } }, ["$ref"] = "#/$defs/node" }, '{"next":{"next":{}}}' },
  { { ["$defs"] = { node = { type = "object", properties = { next = { ["$ref"] = "#/$defs/node" } },
    additionalProperties = false } }, ["$ref"] = "#/$defs/node" }, '{"next":{"nxt":{}}}', "^/next/nxt: is not among" },
  { { ["$ref"] = "#/nowhere" }, "1", "refers to the text '#/nowhere', which is not in it" },
  { { ["$ref"] = "#" }, "1", "without end" },
  { { type = "string", nullable = true }, "null" },
}

T.test("values against schemas", function(t)
  for i, case in ipairs(CASES) do
    local description, text = case[1], case[2]
    local read = schema.read("test", description)
    local faults = schema.faults(read, json.decode(text))
    local label = ("case %d, %s"):format(i, text)
    t.eq(#faults, #case - 2, label .. ": " .. table.concat(faults, " / "))
    for n = 3, #case do
      local found = false
      for _, f in ipairs(faults) do found = found or f:find(case[n]) ~= nil end
      t.ok(found, ("%s: no '%s' in: %s"):format(label, case[n], table.concat(faults, " / ")))
    end
  end
end)

T.test("check gives true, or all that is wrong", function(t)
  t.eq(schema.check({ a = "string" }, { a = "x" }), true)
  local ok, why = schema.check({ a = "string", b = "integer" }, { a = 1 })
  t.eq(ok, nil)
  t.eq(why, "/b: is missing, expected a whole number\n/a: expected a text, got 1")
end)

T.test("an empty Lua table passes for a list and for an object", function(t)
  t.eq(schema.check("string[]", {}), true)
  t.eq(schema.check("object", {}), true)
  t.eq(schema.check("string[]", json.decode "[]"), true)
  t.eq(#schema.faults(schema.read("test", "string[]"), json.decode "{}"), 1, "of a decoded one it is known")
end)

T.test("work is bounded: many alternatives inside each other, many faults", function(t)
  local part = { type = "string" }
  for _ = 1, 40 do part = { anyOf = { part, part } } end
  t.match(schema.faults(part, 1)[1], "too much work")
  local list = {}
  for i = 1, 1000 do list[i] = i end
  t.eq(#schema.faults({ items = { type = "string" } }, list), 10)
end)

T.test("fill puts defaults in, deeply, each time a new one", function(t)
  local s = schema { n = "integer = 3", at = { x = "number = 0" }, list = { { on = "boolean = true" } } }
  t.eq(schema.fill(s, { at = {}, list = { {}, { on = false } } }),
    { n = 3, at = { x = 0 }, list = { { on = true }, { on = false } } })
  local raw = { type = "object", properties = { tags = { type = "array", default = { "a" } } } }
  local first = schema.fill(raw, {})
  first.tags[1] = "changed"
  t.eq(schema.fill(raw, {}).tags, { "a" })
end)

-- Patterns ------------------------------------------------------------------------------------------

T.test("patterns", function(t)
  for _, case in ipairs {
    { "abc", "xabcx", true }, { "^abc$", "xabc", false }, { "^a.c$", "a长c", true }, { "^a.c$", "a\nc", false },
    { "^[a-z]+$", "abc", true }, { "^[^a-z]+$", "ABC", true }, { "^[^a-z]+$", "ABc", false }, { "^[]a]$", "a", false },
    { "^[\\w.-]+@[\\w.-]+$", "a.b@c-d.e", true }, { "^\\d{4}-\\d{2}-\\d{2}$", "2026-01-02", true },
    { "^\\d{4}-\\d{2}-\\d{2}$", "2026-1-02", false }, { "^(a|bc)+d$", "abcad", true }, { "^(a|bc)+d$", "abd", false },
    { "^(?:ab)*?c$", "ababc", true }, { "^a{2,}$", "a", false }, { "^a{2,}$", "aaaa", true }, { "^a{2,3}$", "aaaa", false },
    { "\\bcat\\b", "a cat sat", true }, { "\\bcat\\b", "concat", false }, { "^\\u4f60\\x41$", "你A", true },
    { "^[\\u4e00-\\u9fff]+$", "长城", true }, { "^[\\u4e00-\\u9fff]+$", "长x", false }, { "^(a*)*b$", "aaab", true },
    { "^(a*)*$", "", true }, { "", "x", true }, { "^\\S+$", "a b", false }, { "^[\\d-]+$", "1-2", true }, { "a\\/b", "a/b", true },
    { "^(?<year>\\d+)$", "12", true }, { "x{", "x{", nil }, { "(?!a)b", "b", nil }, { "(a)\\1", "aa", nil }, { "\\p{L}", "a", nil },
    { "(", "x", nil }, { "a)", "x", nil }, { "[a", "x", nil }, { "a**", "x", nil }, { "[z-a]", "x", nil },
  } do
    t.eq(regex.matches(case[1], case[2]), case[3], case[1] .. " on " .. case[2])
  end
end)

T.test("a pattern that would run for ever is given up", function(t)
  t.eq(regex.matches("^(a+)+$", ("a"):rep(40) .. "b"), nil)
  t.eq(regex.matches("^(a|b)*c$", ("ab"):rep(4000)), nil)
  t.eq(regex.matches("^[ab]*$", ("ab"):rep(4000)), true)
end)

T.done()
