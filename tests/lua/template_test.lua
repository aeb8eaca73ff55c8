-- sluice.template: places, conditions, loops, includes, what is wrong and on which line, and that values stay values.
local T = require "harness"
local sluice = require "sluice"

local template = sluice.template

local function eq(t, text, values, want) t.eq(template(text):render(values), want, text) end

T.test("places: names, fields, items, Chinese names, numbers and booleans", function(t)
  eq(t, "Hello {{name}}!", { name = "Ada" }, "Hello Ada!")
  eq(t, "{{ a.b.c }} {{rows.2}} {{rows.1.x}}", { a = { b = { c = 1 } }, rows = { { x = "first" }, "second" } },
    "1 second first")
  eq(t, "{{城市}}的天气", { ["城市"] = "杭州" }, "杭州的天气")
  eq(t, "{{n}} {{f}} {{b}}", { n = 3, f = 2.5, b = false }, "3 2.5 false")
  t.eq(template "Hi {{name}}" { name = "Bo" }, "Hi Bo")
  eq(t, "no places", nil, "no places")
  eq(t, "", nil, "")
end)

T.test("braces: single ones, doubled ones, quoted ones", function(t)
  eq(t, '{"a": {"b": "{{v}}"}}', { v = 1 }, '{"a": {"b": "1"}}')
  eq(t, "\\{{name}} and }} and {x}", {}, "{{name}} and }} and {x}")
  eq(t, '{{x or "}}"}}', {}, "}}")
end)

T.test("what may be missing", function(t)
  eq(t, "[{{a?}}] [{{b.c?}}] [{{d or \"none\"}}] [{{e or \"x\"}}]", { b = {}, e = 1 }, "[] [] [none] [1]")
  eq(t, "[{{n?}}]", { n = sluice.json.null }, "[]")
end)

T.test("filters", function(t)
  local json = template("{{data | json}}"):render { data = { 1, "x", { a = true } } }
  t.eq(json, '[1,"x",{"a":true}]')
  eq(t, '{{tags | join ", "}}; {{tags | join "|"}}', { tags = { "a", 2 } }, "a, 2; a|2")
  eq(t, "[{{s | trim}}] {{s | trim | upper}} {{s | trim | lower}}", { s = " Ab\n" }, "[Ab] AB ab")
end)

T.test("conditions", function(t)
  local text = '{{if a}}A{{elseif b == "x"}}B{{elseif n ~= 3}}N{{else}}C{{end}}'
  eq(t, text, { a = true, b = "", n = 3 }, "A")
  eq(t, text, { a = false, b = "x", n = 3 }, "B")
  eq(t, text, { a = "", b = "", n = 4 }, "N")
  eq(t, text, { a = {}, b = "", n = 3 }, "C")
  eq(t, "{{if not a}}no{{end}}{{if gone?}}x{{else}}-{{end}}{{if not gone?}}y{{end}}", { a = false }, "no-y")
  eq(t, "{{if b == true}}t{{end}}{{if n == 2}}2{{end}}", { b = true, n = 2 }, "t2")
  local both = '{{if a and not b}}1{{elseif a or b == "x or y"}}2{{elseif a? and b? or c}}3{{else}}4{{end}}'
  eq(t, both, { a = true, b = false, c = false }, "1")
  eq(t, both, { a = true, b = true, c = false }, "2")
  eq(t, both, { a = false, b = "x or y", c = false }, "2")
  eq(t, both, { a = false, b = "", c = true }, "3")
  eq(t, both, { a = false, b = "", c = false }, "4")
  eq(t, "{{if a}}{{if b}}ab{{else}}a{{end}}{{end}}", { a = 1, b = false }, "a")
end)

T.test("loops", function(t)
  eq(t, "{{for x in list}}{{loop.index}}/{{loop.count}}:{{x}}{{if not loop.last}}, {{end}}{{end}}",
    { list = { "a", "b" } }, "1/2:a, 2/2:b")
  eq(t, "{{for x in list}}{{x}}{{else}}none{{end}}", { list = {} }, "none")
  eq(t, "{{for x in list?}}{{x}}{{else}}none{{end}}", {}, "none")
  eq(t, "{{for k, v in map}}{{k}}={{v}};{{end}}", { map = { b = 2, a = 1, c = 3 } }, "a=1;b=2;c=3;")
  eq(t, "{{for r in rows}}{{for c in r}}{{c}}{{outer}}{{end}};{{end}}", { rows = { { 1, 2 }, { 3 } }, outer = "." },
    "1.2.;3.;")
  eq(t, "{{for x in l}}{{x}}{{end}}{{x}}", { l = { 1 }, x = "outside" }, "1outside")
end)

T.test("lines that hold only a block leave nothing behind", function(t)
  eq(t, "Items:\n{{for x in list}}\n- {{x}}\n{{end}}\nEnd.\n", { list = { "a", "b" } }, "Items:\n- a\n- b\nEnd.\n")
  eq(t, "a\n  {{if x}}\nyes\n  {{else}}\nno\n  {{end}}\nb", { x = false }, "a\nno\nb")
  eq(t, "a\r\n{{if x}}\r\nyes\r\n{{end}}\r\nb", { x = true }, "a\r\nyes\r\nb")
  eq(t, "a {{if x}}yes{{end}}\nb", { x = true }, "a yes\nb")
  eq(t, "a\n{{-- a remark\nover lines --}}\nb {{-- and here --}}c", {}, "a\nb c")
  eq(t, "{{if x}}\n{{y}}\n{{end}}\n", { x = true, y = "" }, "\n")
end)

T.test("values are values: nothing in them is looked at again", function(t)
  eq(t, "{{a}}{{b}}", { a = "{{b}}", b = "{{if x}} %s %1 \\{{" }, "{{b}}{{if x}} %s %1 \\{{")
  eq(t, "{{a}}", { a = "os.exit()" }, "os.exit()")
  t.raises("template 'text', line 1", function() template "{{os.exit(1)}}" end)
  t.raises("'os' is not defined", function() template "{{os.exit}}" {} end)
  t.raises("'string' is not defined", function() template "{{string.rep}}" {} end)
  t.raises("'x' has no field 'len'", function() template "{{x.len}}" { x = { a = 1 } } end)
  t.raises("it has no field 'len'", function() template "{{x.len}}" { x = "text" } end)
end)

T.test("a reply reads as its text; a secret, a function and a table do not", function(t)
  local reply = require("sluice.reply").new { text = "an answer" }
  eq(t, "{{r}} {{r.text}}", { r = reply }, "an answer an answer")
  local secret = sluice.secret.literal("sk-template-secret", "key")
  local err = t.raises("'key' is a secret", function() template "{{key}}" { key = secret } end)
  t.ok(not err:find "sk%-template")
  t.raises("'f' is a function, which is no text", function() template "{{f}}" { f = print } end)
  t.raises("'x' is a table, which is no text; write {{x | json}}, or a loop", function() template "{{x}}" { x = { 1 } } end)
end)

T.test("what is missing is named with its line and what is near", function(t)
  local text = template("one\ntwo {{user.nmae}}\n", { name = "greeting" })
  local err = t.raises("template 'greeting', line 2: 'user' has no field 'nmae' %(did you mean 'name'%?%)", function()
    text { user = { name = "x" } }
  end)
  t.match(err, "where it may be missing, write {{user.nmae%?}}")
  t.match(err, "^tests/lua/template_test.lua:%d+: ")
  t.raises("line 1: 'naem' is not defined %(did you mean 'name'%?%)", function() template "{{naem}}" { name = 1 } end)
  t.raises("line 3: 'x' is not defined", function() template "\n\n{{if x}}{{end}}" {} end)
  t.raises("line 2: 'list' is not defined", function() template "\n{{for x in list}}{{end}}" {} end)
  t.raises("'list' is a string; a loop wants a list", function() template "{{for x in list}}{{end}}" { list = "x" } end)
  t.raises("'x' is no list; join wants one", function() template "{{x | join}}" { x = 1 } end)
  t.raises("cannot be written as JSON", function() template "{{x | json}}" { x = print } end)
end)

T.test("a wrong template says so at once, with the line", function(t)
  for text, words in pairs {
    ["a\nb {{name"] = "line 2: {{ without }}", ["{{}}"] = "line 1: {{ }} is empty",
    ["\n{{if x}}\n{{if y}}{{end}}"] = "line 2: {{if}} is not ended", ["{{end}}"] = "{{end}} without",
    ["{{for x of list}}{{end}}"] = "a loop is written {{for item in list}}",
    ["{{for a, b, c in l}}{{end}}"] = "a loop takes one name, or two", ["{{else}}"] = "{{else}} without",
    ["{{if a}}{{else}}{{else}}{{end}}"] = "{{else}} without", ["{{if a}}{{else if b}}{{end}}"] = "write {{elseif b}}",
    ["{{a b}}"] = "'a b' is no name", ["{{a..b}}"] = "is no name", ["{{1a}}"] = "is no name",
    ["{{a | jsn}}"] = "unknown filter 'jsn' %(did you mean 'json'%?%)", ["{{a | join x}}"] = "takes a text in quotes", ['{{a | join "x" y}}'] = "'y' behind join",
    ["{{a | }}"] = "unknown filter ''", ["{{a | trim | }}"] = "unknown filter ''", ["{{a | trim x}}"] = "takes a text in quotes",
    ['{{a | trim "x"}}'] = "'trim' takes no argument",
    ["{{a or b}}"] = "after 'or' a text in quotes is expected", ["{{if a == b}}{{end}}"] = "is compared with a text in quotes",
    ["{{include x}}"] = "takes the name of a file in quotes", ["{{-- open"] = "a remark", ["{{if}}{{end}}"] = "a condition is missing",
    ["{{if a and}}{{end}}"] = "'a and' is no condition", ["{{if a and or b}}{{end}}"] = "is no condition", ["{{and}}"] = "'and' stands where",
    ["{{in}}"] = "'in' stands where a name is expected", ["{{end x}}"] = "'x' behind end",
    [("{{if a}}"):rep(70)] = "more than 64 blocks",
  } do
    t.raises("template 'text', .*" .. words, function() template(text) end)
  end
  t.raises("argument 1 must be the text", function() template(3) end)
  t.raises("unknown option 'nme'", function() template("x", { nme = "y" }) end)
  t.raises("expected a table of values, got a string", function() template "x" "y" end)
end)

T.test("files, and files in files, relative to each other", function(t)
  local dir = T.tmpdir()
  os.execute(("mkdir -p '%s/parts/deep'"):format(dir))
  T.write(dir .. "/main.md", "\xEF\xBB\xBFStart {{name}}\n{{include \"parts/rules.md\"}}\nEnd\n")
  T.write(dir .. "/parts/rules.md", "Rules for {{name}}:\n{{for r in rules}}\n{{include \"deep/rule.md\"}}\n{{end}}\n")
  T.write(dir .. "/parts/deep/rule.md", "- {{r}}\n")
  local main = template.file(dir .. "/main.md")
  t.eq(main { name = "Ada", rules = { "one", "two" } }, "Start Ada\nRules for Ada:\n- one\n- two\nEnd\n")
  t.eq(main:names(), { "name", "rules" })
  t.raises("rule.md', line 1: 'r' is not defined", function() template.file(dir .. "/parts/deep/rule.md") {} end)
  local err = t.raises("rules.md', line 1: 'name' is not defined", function()
    template('{{include "parts/rules.md"}}', { dir = dir }) { rules = {} }
  end)
  t.ok(err)
  t.eq(template('[{{include "parts/deep/rule.md"}}]', { dir = dir .. "/" }) { r = 1 }, "[- 1\n]")
end)

T.test("includes that are missing, go in circles, or are no files", function(t)
  local dir = T.tmpdir()
  T.write(dir .. "/a.md", "x\n{{include \"b.md\"}}")
  T.write(dir .. "/b.md", "{{include \"a.md\"}}")
  t.raises("b.md', line 1: '.*a.md' includes itself %(.*a.md → .*b.md → .*a.md%)", function()
    template.file(dir .. "/a.md")
  end)
  T.write(dir .. "/c.md", "\n\n{{include \"gone.md\"}}")
  t.raises("c.md', line 3: cannot include 'gone.md': .*No such file", function() template.file(dir .. "/c.md") end)
  t.raises("sluice.template.file: cannot read .*No such file", function() template.file(dir .. "/none.md") end)
  t.raises("cannot read", function() template.file(dir) end)
  T.write(dir .. "/empty.md", "")
  t.eq(template.file(dir .. "/empty.md"):render(), "")
end)

T.test("names lists what is asked for, without what loops bring", function(t)
  local text = template '{{a.b}} {{if c?}}{{d or "x"}}{{end}} {{for x in list}}{{x}} {{loop.index}} {{e}}{{else}}{{f}}{{end}}'
  t.eq(text:names(), { "a", "c", "d", "e", "f", "list" })
end)

T.test("compiled once, rendered often", function(t)
  local text = template "{{for x in list}}{{x}},{{end}}"
  local list = {}
  for i = 1, 1000 do list[i] = i end
  local first = text { list = list }
  t.eq(text { list = list }, first)
  t.eq(#first, 9 * 2 + 90 * 3 + 900 * 4 + 5)
end)

T.done()
