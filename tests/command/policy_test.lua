-- sluice test: every policy test of tests/policy, one by one; then the command itself.
local T, C = require "harness", require "command"

local function run(words, options)
  local argv = { C.sluice, "test" }
  for _, word in ipairs(words) do argv[#argv + 1] = word end
  return C.run(argv, options)
end

local function file(text, name)
  return T.write(T.tmpdir() .. "/" .. (name or "a_test.lua"), 'local sluice = require "sluice"\n' .. text)
end

-- The policy tests ----------------------------------------------------------------------------------------

-- What a TAP report says: { { ok =, name =, skip =, why = }, … } and the plan.
local function read_tap(text)
  local list, plan = {}, nil
  for line in text:gmatch "[^\n]+" do
    local no, name = line:match "^(n?o?t? ?)ok %d+ %- (.*)$"
    if name then
      local skip = name:match " # SKIP (.*)$"
      list[#list + 1] = { ok = no == "", name = name:gsub("\\#", "#"):gsub(" # SKIP .*$", ""), skip = skip, why = "" }
    elseif line:find "^# " and #list > 0 then
      list[#list].why = list[#list].why .. line:sub(3) .. "\n"
    else
      plan = math.tointeger(tonumber(line:match "^1%.%.(%d+)$")) or plan
    end
  end
  return list, plan
end

local pipe = assert(io.popen "ls tests/policy/*_test.lua")
for path in pipe:lines() do
  local r = run({ "--tap", path }, { timeout = T.slow and 120 or 30 })
  local list, plan = read_tap(r.stdout)
  T.test(path .. " is whole", function(t)
    t.eq({ plan, r.timeout, r.orphans, r.unmet }, { #list, false, 0 }, r.stderr)
    t.ok(#list > 0, r.stderr)
    local failed = 0
    for _, one in ipairs(list) do failed = failed + (one.ok and 0 or 1) end
    t.eq(r.code, failed > 0 and 3 or 0, r.stderr)
  end)
  for _, one in ipairs(list) do
    T.test(path:match "([%w_]+)_test" .. ": " .. one.name, function(t)
      if one.skip then t.skip(one.skip) end
      t.ok(one.ok, one.why)
    end)
  end
end
pipe:close()

-- The scripts ---------------------------------------------------------------------------------------------

T.test("scripts/fallback_test.lua passes, for the rules beside it", function(t)
  local r = run { "scripts/fallback_test.lua" }
  t.eq({ r.code, r.stderr }, { 0, "" }, r.stdout)
  t.match(r.stdout, "5 passed")
end)

-- A script of scripts/ on the mock with a scenario.
local function play(scenario, words, options)
  local path = scenario:find "^scripts/" and scenario or T.write(T.tmpdir() .. "/scenario.lua", scenario)
  local argv = { C.sluice, "run", "-q", "--mock=" .. path }
  for _, word in ipairs(words) do argv[#argv + 1] = word end
  return C.run(argv, options)
end

T.test("scripts/hedge.lua: silent for 5 s, and the small model answers", function(t)
  local r = play("scripts/scenarios/slow.lua", { "scripts/hedge.lua", "Why?" })
  t.eq(r.code, 0, r.stderr)
  t.match(r.stdout, "%a")
  t.match(r.stderr, "DeepSeek%-V3 let go after [5-9]%.%d s\n.*Qwen3%-8B answered.*degraded: siliconflow/Qwen/Qwen3%-8B %(slow%)")
end)

T.test("scripts/cached.lua: canned when nothing is kept, kept on a good day, given on a bad one", function(t)
  local path, down, up = T.tmpdir() .. "/answers.jsonl", "scripts/scenarios/down.lua", "return { { text = 'Nine to five.', first_token = 0, gap = 0 } }"
  local words = { "scripts/cached.lua", path, "When?" }
  t.match(play(down, words).stdout, "^We cannot answer at the moment")
  t.eq(play(up, words).stdout, "Nine to five.\n")
  local r = play(down, words)
  t.eq(r.stdout, "Nine to five.\n")
  t.match(r.stderr, "%[kept %d+ minutes ago; overloaded%]")
end)

T.test("scripts/budgeted.lua: stops when the money is gone, exit 3", function(t)
  local answer = "return { { text = ('word '):rep(300), first_token = 0, gap = 0 } }"
  local prompts = T.write(T.tmpdir() .. "/prompts.txt", ("why\n"):rep(40))
  local r = play(answer, { "scripts/budgeted.lua", "0.05", prompts })
  t.eq(r.code, 0, r.stderr)
  t.match(r.stderr, "40 of 40 answered; budget, used")
  r = play(answer, { "scripts/budgeted.lua", "0.0002", prompts })
  t.eq(r.code, 3, r.stderr)
  local done, all = r.stderr:match "(%d+) of (%d+) answered"
  t.ok(tonumber(done) > 0 and tonumber(done) < 40 and all == "40", r.stderr)
  t.match(r.stderr, "%d+ not: budget")
  t.match(r.stdout, "Qwen3%-8B") -- the cheaper one, when most was spent
end)

T.test("scripts/degrade.lua: rules that are edited between two questions", function(t)
  local dir = T.tmpdir()
  T.write(dir .. "/degrade.lua", T.read "scripts/degrade.lua")
  -- the editor is the first rule itself: it answers, and puts another file in the place of its own
  T.write(dir .. "/fallback-rules.lua", ("return { function() os.rename('%s/two.lua', '%s/fallback-rules.lua') return 'one' end }")
    :format(dir, dir))
  T.write(dir .. "/two.lua", "return { function() end, function() return 'two' end }")
  local r = C.run({ C.sluice, "run", dir .. "/degrade.lua" }, { stdin = "first\n\nsecond\n" })
  t.eq({ r.code, r.stdout }, { 0, "one\ntwo\n" }, r.stderr)
  t.match(r.stderr, "the edited file is in force.*version=2")
  t.match(r.stderr, "2 questions, 1 degraded answers, rules version 2")
end)

-- The guide -----------------------------------------------------------------------------------------------

T.test("docs/when-the-provider-fails.md: every block of Lua does what it says", function(t)
  local blocks = {}
  for block in T.read "docs/when-the-provider-fails.md":gmatch "```lua\n(.-)```" do blocks[#blocks + 1] = block end
  t.ok(#blocks >= 14, #blocks)
  local prelude, parts = blocks[1], {} -- the models of the examples
  for i = 2, #blocks do
    if blocks[i]:find "sluice%.test%(" then parts[i] = ("do %s end"):format(blocks[i])
    else
      -- a chain that is made there is asked, too, on a good day and on a bad one
      parts[i] = ([[
sluice.test("block %d", function(t)
  local ask
  t.script("*", { { wait = 1, text = '{"n": 1}' } })
  %s
  if ask then
    t.eq(ask:ask("x").text, '{"n": 1}')
    t.script("*", { { err = "network" } })
    pcall(ask.stream, ask, "x")
  end
  t.ok(true)
end)]]):format(i, (blocks[i]:gsub("local ask =", "ask =", 1):gsub("answers%.jsonl", T.tmpdir() .. "/%0")))
    end
  end
  parts[1] = prelude
  local path = T.write(T.tmpdir() .. "/guide_test.lua", table.concat(parts, "\n"))
  local r = run({ "-q", path }, { timeout = 60 })
  t.eq({ r.code, r.stderr:gsub("[^\n]*credential[^\n]*\n", "") }, { 0, "", 0 }, r.stdout .. r.stderr)
  t.match(r.stdout, ("%d passed"):format(#blocks)) -- the first is the prelude, the last has two tests
end)

-- The command ---------------------------------------------------------------------------------------------

local MIXED = [[
sluice.test("passes", function(t) t.eq(1, 1) sluice.task.sleep(90) end)
sluice.test("fails", function(t)
  local m = t.model { { err = "server" }, name = "big" }
  pcall(m.ask, m, "a prompt that is nobody's business")
  t.eq(1, 2, "one")
end)
sluice.test("raises", function() local x = nil; return x.y end)
sluice.test("raises a failure of the world", function(t) t.model { { err = "overloaded" } }:ask "x" end)
sluice.test("is skipped", function(t) t.skip "not here" end)
sluice.test("checks nothing", function() end)
]]

T.test("a summary that says what failed, where, and what happened", function(t)
  local path = file(MIXED)
  local r = run { path }
  t.eq({ r.code, r.stderr }, { 3, "" })
  t.match(r.stdout, "ok      passes +90 s")
  t.match(r.stdout, "FAILED  fails\n +[^\n]*a_test%.lua:6: one: expected 2, got 1\n +6 | t%.eq%(1, 2, \"one\"%)")
  t.match(r.stdout, "what happened:\n +0%.000 s  mock/big  asked\n +0%.000 s  mock/big  failed after 0 s: server, 500")
  t.match(r.stdout, "FAILED  raises\n +raised: [^\n]*a_test%.lua:8: attempt to index a nil value %(local 'x'%)")
  t.match(r.stdout, "FAILED  raises a failure of the world\n +raised: overloaded: 503[^\n]*\n +at [^\n]*a_test%.lua:9")
  t.match(r.stdout, "skipped is skipped: not here")
  t.match(r.stdout, "checks nothing *%(checks nothing%)")
  t.match(r.stdout, "failed:\n  fails\n  raises\n  raises a failure of the world\n")
  t.match(r.stdout, "2 passed, 3 failed, 1 skipped; 90 s on their clock, %d+ ms on yours\n$")
  t.ok(not r.stdout:find "nobody's business", "a prompt was shown")
end)

T.test("TAP for those who read it", function(t)
  local r = run { "--tap", file(MIXED) }
  t.eq(r.code, 3)
  local list, plan = read_tap(r.stdout)
  t.match(r.stdout, "^TAP version 13\n1%.%.6\nok 1 %- passes\nnot ok 2 %- fails\n# ")
  t.eq({ plan, #list, list[5].skip, list[6].ok }, { 6, 6, "not here", true })
  t.match(list[2].why, "a_test%.lua:6: one: expected 2, got 1")
end)

T.test("-q shows only what failed", function(t)
  local r = run { "-q", file(MIXED) }
  t.ok(not r.stdout:find "passes")
  t.match(r.stdout, "FAILED  fails")
end)

T.test("exit 0 when all is well", function(t)
  local r = run { file 'sluice.test("passes", function(t) t.ok(true) end)' }
  t.eq({ r.code, r.stderr }, { 0, "" })
  t.match(r.stdout, "1 passed; 0 s on their clock")
end)

T.test("--filter runs some, and says when it finds none", function(t)
  local path = file(MIXED)
  local r = run { "--filter", "pass", path }
  t.eq({ r.code, select(2, r.stdout:gsub("\n", "\n")) }, { 0, 2 })
  r = run { "-f", "hedge%", path } -- a text, not a pattern
  t.eq({ r.code, r.stdout }, { 2, "" })
  t.match(r.stderr, "no test's name holds 'hedge%%'; there are 6 tests, 'passes' and others")
end)

T.test("several files: the broken ones are told, the others run, exit 4", function(t)
  local good = file('sluice.test("good", function(t) t.ok(true) end)', "good_test.lua")
  local broken = file("local x = = 1", "broken_test.lua")
  local raising = file('sluice.test("never run", function() end)\nerror "out of order"', "raising_test.lua")
  local r = run { good, broken, raising, "/nowhere/x_test.lua" }
  t.eq(r.code, 4)
  t.match(r.stderr, "broken_test%.lua:2: unexpected symbol near '='\n  2 | local x = = 1\n[^\n]*%^")
  t.match(r.stderr, "outside of any test: [^\n]*raising_test%.lua:3: out of order")
  t.match(r.stderr, "cannot read the script /nowhere/x_test%.lua: No such file")
  t.match(r.stdout, "ok      good")
  t.ok(not r.stdout:find "never run")
  t.match(r.stdout, "1 passed, 3 files could not be loaded")
  r = run { "--tap", good, broken }
  t.match(r.stdout, "1%.%.2\nnot ok 1 %- [^\n]*broken_test%.lua could be loaded\n# stderr says why\nok 2 %- good")
  t.eq(r.code, 4)
end)

T.test("no file, no test, an unknown option", function(t)
  local r = run {}
  t.eq({ r.code, r.stdout }, { 2, "" })
  t.match(r.stderr, "no file given: sluice test FILE")
  r = run { file "" }
  t.eq(r.code, 2)
  t.match(r.stderr, "no test in [^\n]*a_test%.lua: a test is sluice%.test")
  r = run { "--tab", file "" }
  t.eq(r.code, 2)
  t.match(r.stderr, "unknown option '%-%-tab' %(did you mean '%-%-tap'%?%)")
end)

T.test("each file's tests look beside that file", function(t)
  local one, two = T.tmpdir(), T.tmpdir()
  for dir, word in pairs { [one] = "one", [two] = "two" } do
    T.write(dir .. "/fallback.lua", ("return { function() return %q end }"):format(word))
    T.write(dir .. "/a_test.lua", ([[
      local sluice = require "sluice"
      sluice.test("rules", function(t) t.eq(sluice.rules "fallback.lua":ask("x").text, %q) end)]]):format(word))
  end
  local r = run { one .. "/a_test.lua", two .. "/a_test.lua" }
  t.eq({ r.code, r.stderr }, { 0, "" }, r.stdout)
  t.match(r.stdout, "2 passed")
end)

T.test("loops that never end, and tasks that wait for each other, end", function(t)
  local r = run({ file [[
sluice.test("waits for ever", function() while true do sluice.task.sleep(60) end end)
sluice.test("deadlock", function() sluice.task.channel(1):receive() end)
sluice.test("stands still", function() local c = sluice.task.channel(1) while true do c:receive(0) end end)
sluice.test("after them", function(t) t.eq(t.clock(), 0) end)
]] }, { timeout = 60 })
  t.eq(r.code, 3)
  t.match(r.stdout, "the test's clock has passed 7 days: does it wait in a loop that never ends%?")
  t.match(r.stdout, "raised: deadlock: ")
  t.match(r.stdout, "_test%.lua:4: waits again and again for 5 s of real time, and no time passes on its clock")
  t.match(r.stdout, "ok      after them")
end)

T.test("a failed check counts where it is swallowed, and in a task of the test", function(t)
  local r = run { file [[
sluice.test("swallowed", function(t) pcall(t.eq, 1, 2) end)
sluice.test("in a task", function(t) sluice.task.all { function() t.eq(3, 4) end } end)
]] }
  t.eq(r.code, 3)
  t.match(r.stdout, "expected 2, got 1")
  t.match(r.stdout, "expected 4, got 3")
  t.match(r.stdout, "0 passed, 2 failed")
end)

T.test("no request leaves: a model without a script, a credential that is not there", function(t)
  local r = run { file [[
local m = sluice.model { provider = "openai", model = "gpt-x", auth = sluice.secret.env "NO_SUCH_KEY_AT_ALL" }
sluice.test("asks", function() m:ask "x" end)
]] }
  t.eq(r.code, 3)
  t.match(r.stdout, "no script for model 'openai/gpt%-x': no request leaves a test; say t%.script%(\"openai/gpt%-x\"")
end)

T.test("sluice.test outside of sluice test says how to run it", function(t)
  local path = file 'sluice.test("x", function() end)'
  local r = C.run { C.sluice, "run", path }
  t.eq(r.code, 1)
  t.match(r.stderr, "this file holds tests; run it with 'sluice test FILE'")
end)

T.test("--seed chooses another chance, the same for each test", function(t)
  local path = file [[
for i = 1, 2 do sluice.test("n", function(t) t.ok(true) print(math.random(1 << 30)) end) end]]
  local function numbers(words)
    local list = {}
    for n in run(words).stdout:gmatch "\n?(%d%d%d%d+)\n" do list[#list + 1] = n end
    return list
  end
  local a, b = numbers { path }, numbers { "--seed", "7", path }
  t.eq({ #a, a[1] == a[2], #b, b[1] == b[2], a[1] == b[1] }, { 2, true, 2, true, false })
end)

-- A rehearsal -----------------------------------------------------------------------------------------------

local CHAIN = [[
local big, small = sluice.model "mock/big", sluice.model "mock/small"
local ask = sluice.fallback { { big, after = 0.3 }, small, rescue = sluice.rule.continue(small) }
print(ask:ask "one".degraded.why)
for _ in ask:stream("two"):text() do end
]]
local OUTAGE = [[return {
  { model = "big", nth = 1, first_token = 30 }, { model = "big", cut_after = 3, first_token = 0, gap = 0 },
  { model = "small", nth = 1, status = 503, retry_after_ms = 50 }, { model = "small", gap = 0, first_token = 0 },
} ]]

T.test("--mock=SCENARIO ends with the timeline: who was asked, when, what came, why it moved on", function(t)
  local scenario = T.write(T.tmpdir() .. "/outage.lua", OUTAGE)
  local r = C.run({ C.sluice, "run", "--mock=" .. scenario, file(CHAIN) })
  t.eq({ r.code, r.stdout }, { 0, "slow\n" }, r.stderr)
  local told = r.stderr:match "sluice: timeline of 3 calls, [%d.]+ m?s\n(.*)$"
  t.ok(told, r.stderr)
  local at = 1
  for _, pattern in ipairs {
    "%d+%.%d+ s +1  mock/big    asked", "%d+%.%d+ s +1  fallback    mock/big has been silent for 300 ms: step 2, mock/small, starts beside it",
    "1  mock/small  asked", "1  mock/small  failed after [%d.]+ m?s: overloaded, 503: .*tries again in [%d.]+ ms",
    "1  mock/small  asked again, attempt 2", "1  mock/small  first content after", "1  mock/big    cancelled after",
    "1  fallback    step 2, mock/small, answers: degraded %(slow%)",
    "2  mock/big    asked", "2  mock/big    broke off after [%d.]+ m?s: network",
    "3  mock/small  asked", "2  fallback    the stream broke off, %d+ bytes into the answer: rescue goes on",
    "3  mock/small  complete after [%d.]+ m?s: stop, %d+ tokens",
  } do
    local _, last = told:find(pattern, at)
    t.ok(last, ("%s\nis not in (from byte %d)\n%s"):format(pattern, at, told))
    at = last or at
  end
end)

T.test("… unless --quiet, and not for a mock without a scenario", function(t)
  local scenario = T.write(T.tmpdir() .. "/outage.lua", OUTAGE)
  t.eq(C.run({ C.sluice, "run", "--quiet", "--mock=" .. scenario, file(CHAIN) }).stderr, "")
  local r = C.run { C.sluice, "run", "--mock", "-e", 'print(require "sluice".model "mock/echo":ask "hi".text)' }
  t.ok(not r.stderr:find "timeline", r.stderr)
end)

T.test("… and when the script fails, too", function(t)
  local scenario = T.write(T.tmpdir() .. "/outage.lua", 'return { { status = 400, message = "no such thing" } }')
  local r = C.run { C.sluice, "run", "--mock=" .. scenario, "-e", 'require "sluice".model "mock/m":ask "hi"' }
  t.eq(r.code, 1)
  t.match(r.stderr, "timeline of 1 call, .*mock/m  failed after [%d.]+ m?s: invalid, 400: no such thing")
end)

T.done()
