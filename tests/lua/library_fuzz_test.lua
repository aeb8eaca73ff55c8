-- What reads texts that people and models write, fed with soup: it answers, or says what is wrong in its own
-- words; never an error of its inside. Seeded; TEST_SEED repeats a run.
local T = require "harness"
local sluice = require "sluice"
local structured = require "sluice.structured"

local json, schema, template = sluice.json, sluice.schema, sluice.template
local random = math.random

local function soup(pieces, most)
  local parts = {}
  for i = 1, random(0, most) do parts[i] = pieces[random(#pieces)] end
  return table.concat(parts)
end

local TEMPLATE = { "{{", "}}", "{{name}}", "{{if a}}", "{{elseif b?}}", "{{else}}", "{{end}}", "{{for x in list}}", "{{x}}",
  "{{for k, v in map}}", "{{v}}", "{{--", "--}}", "\\{{", "\n", " ", "text", "长", '"', "{{a or \"b\"}}", "{{a | json}}",
  "{{list | join \", \"}}", "|", ".", "?", "{{map.a.b?}}", "{{if not c == \"x\"}}", "{{include}}", "{", "}", "%", "\0" }

T.test("templates: a tree or the line that is wrong; a text or the name that is missing", function(t)
  local values = { name = "N", a = 1, list = { 1, "b" }, map = { a = { b = 2 }, z = "{{x}}" } }
  local compiled, rendered, refused = 0, 0, 0
  for _ = 1, 4000 do
    local text = soup(TEMPLATE, 8)
    local ok, tree = pcall(template, text)
    if ok then
      compiled = compiled + 1
      local good, result = pcall(tree.render, tree, values)
      if good then
        rendered = rendered + 1
        t.eq(type(result), "string")
      else
        t.match(tostring(result), "template 'text', line %d+: ", text)
      end
      t.ok(tree:names())
    else
      refused = refused + 1
      t.match(tostring(tree), "template 'text', line %d+: ", text)
    end
  end
  t.ok(compiled > 200 and refused > 200 and rendered > 100, ("%d %d %d"):format(compiled, refused, rendered))
end)

T.test("a template without places is itself, but for the lines of remarks", function(t)
  for _ = 1, 500 do
    local text = soup({ "a", "}", "{", "\n", " ", "}}", "长", "%", "\"", "|" }, 12)
    if not text:find("{{", 1, true) then t.eq(template(text):render(), text) end
  end
end)

local WORDS = { "string", "integer", "number", "[]", "?", " = ", "3", "(1..2)", "(..)", "|", "a", "b", ": ", "about", "null",
  "any", "(", ")", '"', "{", " ", "x:y", "=" }

T.test("descriptions: a schema that encodes, or the field that is wrong", function(t)
  local good, bad = 0, 0
  for _ = 1, 4000 do
    local ok, result = pcall(schema, { field = soup(WORDS, 6) })
    if ok then
      good = good + 1
      t.ok(json.encode(result))
      schema.faults(result, { field = 3 })
    else
      bad = bad + 1
      t.match(tostring(result), "sluice.schema: 'field': ")
    end
  end
  t.ok(good > 200 and bad > 200, ("%d %d"):format(good, bad))
end)

local JSON = { "{", "}", "[", "]", '"', "\\", "a", ":", ",", "1", "null", "true", '{"a":1}', "```", "json", "\n", " ", "text ",
  "<think>", "</think>", "长" }

T.test("answers: JSON is found or not, and what is found is in the text", function(t)
  local found_some, none = 0, 0
  for _ = 1, 4000 do
    local text = soup(JSON, 10)
    local found = structured.find(text)
    if found then found_some = found_some + 1 else none = none + 1 end
    local sure, value = structured.find(text:gsub("[%[%]{}\"`<>]", "") .. ' {"k":["' .. ("x"):rep(random(0, 9)) .. '",{"b":"}"}]} end')
    t.eq(sure, true, text)
    if type(value) == "table" and value.k then t.eq(value.k[2], { b = "}" }) end
  end
  t.ok(found_some > 200 and none > 200, ("%d %d"):format(found_some, none))
end)

T.done()
