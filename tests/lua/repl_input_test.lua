-- What is typed at the prompt: its words, whether it is whole, what `local` means, what is kept of it.
local T = require "harness"
local complete = require "sluice.repl.complete"
local history = require "sluice.repl.history"
local input = require "sluice.repl.input"
local lex = require "sluice.repl.lex"
local save = require "sluice.repl.save"

local function words(source)
  local list = {}
  for i, t in ipairs(lex.tokens(source)) do list[i] = t.kind:sub(1, 1) .. ":" .. t.text end
  return table.concat(list, " ")
end

T.test("words of Lua", function(t)
  t.eq(words "local x<const> = f.a:b(1.5e-3, 0xFFp2, .5)",
    "k:local n:x o:< n:const o:> o:= n:f o:. n:a o:: n:b o:( n:1.5e-3 o:, n:0xFFp2 o:, n:.5 o:)")
  t.eq(words "a..b...c//d>>e::l::", "n:a o:.. n:b o:... n:c o:// n:d o:>> n:e o::: n:l o:::")
  t.eq(words [==["a\"b" 'c' [[d]] [=[e]]]=] -- f]==], [==[s:"a\"b" s:'c' s:[[d]] s:[=[e]]]=] c:-- f]==])
  t.eq(words "a[1] -- x\n+ --[[y\nz]] 2", "n:a o:[ n:1 o:] c:-- x o:+ c:--[[y\nz]] n:2")
  t.eq(words '"\\z  \n x" y', 's:"\\z  \n x" n:y')
  t.eq(words "数 = '水'", "o:\xe6 o:\x95 o:\xb0 o:= s:'水'") -- no name of Lua's, and no endless loop
end)

T.test("what is open at the end", function(t)
  local function open(source)
    local list = lex.tokens(source)
    return list[#list] and list[#list].open
  end
  t.eq(open "x = 'abc", "string")
  t.eq(open "x = 'abc\\", "string")
  t.eq(open "x = [==[abc]]", "long")
  t.eq(open "x --[[abc", "long")
  t.eq(open "x -- abc", "comment")
  t.eq(open "x = 'abc'", nil)
  t.eq(lex.value(lex.tokens "'a\\n水\\'b'"[1]), "a\n水'b")
  t.eq(lex.value(lex.tokens "[=[\nabc]=]"[1]), "abc")
  t.eq(lex.value(lex.tokens "'abc"[1]), "abc")
end)

T.test("every prefix of a program has words, and they cover it", function(t)
  local source = "local s <close> = m:stream { prompt = \"a\\\"b\", [1] = [==[ ]] ]==] } -- 水\nfor e in s:events() do f(0x1p4) end"
  for n = 0, #source do
    local at = 0
    for _, token in ipairs(lex.tokens(source:sub(1, n))) do
      if token.first <= at or token.text ~= source:sub(token.first, token.last) then t.eq(source:sub(1, n), "covered") end
      at = token.last
    end
    if at > n then t.eq(at, n) end
  end
  t.ok(true)
end)

T.test("whole, unfinished, wrong", function(t)
  local cases = {
    expression = { "1 + 1", "f()", "=1", "'x' -- y", "function() end", "{\n1,\n2 }", "...", "x;", "[[a\nb]]" },
    statement = { "x = 1", "local x", "for i = 1, 2 do end", "return 5", "do return 1, 2 end", "::a::", "f() g()" },
    incomplete = { "1 +", "f(", "{", "x =", "for i = 1, 2", "function f()", "if x then", "[[a", "--[[ a", "local", "m:ask {",
      "x = function()", "repeat", "goto", "a.", "a:" },
    wrong = { "x y", "'abc", "f(}", "end", "1 = 2", "x = = 1", "for in", "goto nowhere", "x = 'a\nb'" },
    empty = { "", "   ", "-- only words", "\t--[[ a ]]" },
  }
  for state, list in pairs(cases) do
    for _, source in ipairs(list) do t.eq(input.read(source, "=repl").state, state, source) end
  end
  t.match(input.read("x y", "=repl").message, "^repl:1: syntax error near 'y'$")
end)

T.test("an expression is seen in tracebacks: no tail call", function(t)
  local read = input.read("(function() return debug.traceback() end)()", "=repl")
  t.match(read.chunk(), "repl:1: in")
  t.eq(table.pack(input.read("1, nil, 3", "=repl").chunk()), { 1, nil, 3, n = 3 })
end)

T.test("local at the prompt", function(t)
  local function promoted(source)
    local text, names = input.promote(source)
    local env = setmetatable({}, { __index = _G })
    assert(load(text, "=x", "t", env))()
    return env, names
  end
  local env, names = promoted "local a, b = 1, 2"
  t.eq({ env.a, env.b }, { 1, 2 })
  t.eq(names, { "a", "b" })
  t.eq(promoted "local function f(n) return n < 2 and n or n * f(n - 1) end r = f(5)".r, 120)
  t.eq(promoted "x = 1 local x".x, nil)
  t.eq(promoted "local x <const> = 5".x, 5)
  t.eq(promoted "do local x = 1 end local y = x".y, nil)
  t.eq(promoted "local f = function() local inner = 1 return inner end r = f()".inner, nil)
  t.eq(promoted "if true then local x = 1 elseif y then local x = 2 else local x = 3 end".x, nil)
  t.eq(promoted "repeat local x = 1 until x == 1".x, nil)
  t.eq(promoted "while true do local x = 1 break end".x, nil)
  t.eq(promoted "-- local x = 1\ns = 'local y = 2'".s, "local y = 2")
  env, names = promoted "local x <close> = nil"
  t.eq({ env.x, #names }, { nil, 0 })
  t.eq(#input.promote "local x = 1" - #"local x = 1", 0) -- columns stay
end)

local function names(before, extra)
  local env = { globals = extra or _G, commands = { ":help", ":history", ":load" },
    providers = function() return { "mock", "openai", "openrouter" } end,
    models = function(provider) return { provider .. "-big", "org/small" } end,
    modules = function() return { "mine" } end }
  return complete.at(before, env)
end

local function list(before, extra) return table.concat(names(before, extra).list, " ") end

T.test("Tab: globals, fields, methods", function(t)
  local object = setmetatable({ field = 1 }, { __index = setmetatable({ method = print, value = 2 },
    { __index = { inherited = print } }) })
  local globals = { object = object, other = 1, _hidden = 1, ["not a name"] = 1, nested = { deeper = { deepest = 1 } } }
  t.eq(list("o", globals), "object or other")
  t.eq(list("x = obj", globals), "object")
  t.eq(list("object.", globals), "field inherited method value")
  t.eq(list("object:", globals), "inherited method")
  t.eq(list("object:m", globals), "method")
  t.eq(list("nested.deeper.d", globals), "deepest")
  t.eq(list("nested . deeper . d", globals), "deepest")
  t.eq(list("f(nested.deeper.", globals), "deepest")
  t.eq(list("_h", globals), "_hidden")
  t.eq(list("unknown.x", globals), "")
  t.eq(list("object.field.x", globals), "")
  t.eq(list("wh", globals), "while")
  t.eq(list("", globals), "")
  t.eq(list("('x'):up", globals), "upper")
  t.eq(list("io.stdout:fl", { io = io }), "flush")
  t.eq(list "string.fo", "format")
end)

T.test("Tab runs no code of the values", function(t)
  local called = 0
  local function trap() called = called + 1 return { a = 1 } end
  local globals = { x = setmetatable({}, { __index = trap, __pairs = trap, __len = trap }) }
  t.eq(list("x.", globals), "")
  t.eq(list("x.y.", globals), "")
  t.eq(called, 0)
end)

T.test("Tab: the façade knows its parts before they are loaded", function(t)
  local sluice = require "sluice"
  t.match(list("sluice.m", { sluice = sluice }), "model")
  t.eq(list("sluice.task.dead", { sluice = sluice }), "deadline")
  local model = sluice.model { provider = "ollama", model = "x" }
  t.eq(list("m:as", { m = model }), "ask")
  t.match(list("m:", { m = model }), "stream")
end)

T.test("Tab inside of strings", function(t)
  t.eq(list 'require "min', "mine")
  t.eq(names('require "min').close, '"')
  t.match(list "require('slu", "^sluice$")
  t.eq(list 'sluice.model "ope', "openai/ openrouter/")
  t.eq(names('sluice.model "mo').close, "")
  t.eq(list "sluice.model('openai/", "openai/openai-big openai/org/small")
  t.eq(list 'sluice.model "openai/org/s', "openai/org/small")
  t.eq(list 'sluice.model { provider = "mo', "mock")
  t.eq(list 'sluice.model { provider = "mock", model = "o', "org/small")
  t.eq(list 'sluice.model { model = "o', "")
  t.eq(list 'print("prin', "")
  t.eq(list "-- prin", "")
  t.eq(list "x = [[str", "")
end)

T.test("Tab: commands", function(t)
  t.eq(list ":h", ":help :history")
  t.eq(list "  :l", ":load")
  t.eq(list "x :l", "")
end)

T.test("what candidates have in common, and how they are listed", function(t)
  t.eq(complete.common { "abcd", "abxy" }, "ab")
  t.eq(complete.common { "水a", "永b" }, "") -- no half character
  t.eq(complete.common {}, "")
  t.eq(complete.columns({ "a", "b", "c" }, 6), "a  c\nb\n")
  t.eq(complete.columns({ "水", "b" }, 80), "水  b\n")
  t.match(complete.columns({ "aaaa", "b", "c", "d" }, 5, 2), "… 4 names in all")
end)

T.test("history: secrets", function(t)
  local function kept(source) return (history.without_secrets(source)) end
  t.eq(kept 'auth = "abc"', 'auth = "<hidden>"')
  t.eq(kept 'm = sluice.model { api_key = "abc", model = "x" }', 'm = sluice.model { api_key = "<hidden>", model = "x" }')
  t.eq(kept "headers = { ['x-api-key'] = 'abc' }", "headers = { ['x-api-key'] = \"<hidden>\" }")
  t.eq(kept 'x = "sk-ant-abcdefghijklmnop"', 'x = "<hidden>"')
  t.eq(kept "f('Bearer abcdEFGH12345678ijkl')", 'f("<hidden>")')
  t.eq(kept 'x = [[ghp_abcdefghijklmnop1234]]', 'x = "<hidden>"')
  t.eq(kept 'sluice.secret.literal("anything")', 'sluice.secret.literal("<hidden>")')
  t.eq(kept "x = 'sk-unfinishedunfinished", 'x = "<hidden>"')
  for _, source in ipairs { 'm:ask "Why is the sky blue on 2024-01-01?"', 'sluice.model "siliconflow/Qwen/Qwen3-8B"',
    'url = "https://api.example.com/v1/chat12345678"', "x = 12345678901234567890", "-- auth = 'x'", 'password_hint()' } do
    t.eq(kept(source), source)
  end
end)

T.test("history: a secret the program knows is not kept however it stands there", function(t)
  local value = "correcthorsebatterystaple"
  local known = require "sluice.secret".literal(value, "test")
  t.ok(known)
  t.ok(not history.without_secrets("x = f(" .. value .. ")"):find(value, 1, true))
end)

T.test("history: the file", function(t)
  local path = T.tmpdir() .. "/state/sluice/history"
  local h = history.open(path)
  t.eq(h:add "x = 1", "x = 1")
  h:add "x = 1" -- the same again: once
  t.eq(h:add "  hidden()", nil)
  h:add 'for i = 1, 2 do\n  print("a\\nb")\nend'
  h:add 'auth = "abc"'
  local again = history.open(path)
  t.eq(again.entries, { "x = 1", 'for i = 1, 2 do\n  print("a\\nb")\nend', 'auth = "<hidden>"' })
  local _, _, mode = io.popen("stat -c %a " .. path):read "a":find "(%d+)"
  t.eq(mode, "600")
  os.execute("chmod 644 " .. path)
  t.eq(history.open(path).entries[1], "x = 1")
  _, _, mode = io.popen("stat -c %a " .. path):read "a":find "(%d+)"
  t.eq(mode, "600")
end)

T.test("history: no place to keep it is no reason to fail", function(t)
  local folder = T.tmpdir()
  T.write(folder .. "/file", "x")
  local h, why = history.open(folder .. "/file/sluice/history")
  t.ok(why)
  t.eq(h:add "x", "x")
  t.eq(h.entries, { "x" })
  t.eq(history.open(nil).entries, {})
end)

T.test("history: an old one is cut", function(t)
  local path = T.tmpdir() .. "/h/history"
  history.open(path) -- makes the folder
  local lines = {}
  for i = 1, 3500 do lines[i] = "x = " .. i end
  T.write(path, table.concat(lines, "\n") .. "\n")
  local h = history.open(path)
  t.eq(#h.entries, 2000)
  t.eq(h.entries[2000], "x = 3500")
  t.eq(select(2, T.read(path):gsub("\n", "")), 2000)
end)

T.test(":save", function(t)
  local function saved(...) return (save.script({ ... }):gsub('^local sluice = require "sluice"\n\n', "")) end
  t.eq(saved({ source = "x = 1", kind = "statement" }, { source = "x + 1 -- two", kind = "value" }), "x = 1\nprint(x + 1 -- two\n)\n")
  t.eq(saved { source = "print(1)", kind = "silent" }, "print(1)\n")
  t.eq(saved({ source = "1 + 1;", kind = "value" }, { source = "y = 2", kind = "statement" },
    { source = "_ + 1", kind = "value" }), "_ = 1 + 1\nprint(_)\ny = 2\nprint(_ + 1)\n")
  t.match(saved { source = "m:stream 'x'", kind = "stream" }, "^for text in %(m:stream 'x'%):text%(%) do")
  t.match(saved({ source = "m:stream 'x'", kind = "stream" }, { source = "print(_.usage)", kind = "silent" }), "_ = stream:reply%(%)")
  local text, hidden = save.script { { source = "spawn(f)", kind = "value" }, { source = "auth = 'abc'", kind = "statement" } }
  t.match(text, "local function spawn")
  t.ok(not text:find "abc")
  t.eq(hidden, true)
  for _, script in ipairs { text, saved({ source = "(f)()", kind = "silent" }) } do t.ok(load(script), script) end
  t.eq(save.script {}, nil)
end)

T.done()
