-- `sluice mock` as a whole command, and what an embedded mock means for the script beside it.
local T = require "harness"
local C = require "command"
local http, json = require("sluice").http, require("sluice").json

local function ask(url, fields)
  local body = { model = "echo", messages = { { role = "user", content = "hello there" } } }
  for name, value in pairs(fields or {}) do body[name] = value end
  return http.request { url = url .. "/chat/completions", json = body }
end

T.test("one line on stdout, an answer, Ctrl-C", function(t)
  local process <close> = C.start { C.sluice, "mock", "--pace", "0" }
  local url = process:expect "^sluice mock listening on (http://127%.0%.0%.1:%d+/v1)\n$"
  t.eq(ask(url):json().choices[1].message.content, "hello there")
  process:signal "INT"
  local result = process:wait()
  t.eq({ result.code, result.orphans }, { 130, 0 })
  t.eq(result.stdout, "sluice mock listening on " .. url .. "\n")
  t.match(result.stderr, "OPENAI_BASE_URL=" .. url:gsub("[%.%-]", "%%%0") .. "\n")
  t.match(result.stderr, "ANTHROPIC_BASE_URL=http://[%d.]+:%d+\n")
end)

T.test("SIGTERM lets the answer under way finish", function(t)
  local process <close> = C.start { C.sluice, "mock", "--quiet", "--pace", "0.5" }
  local url = process:expect "listening on (http://[%d.]+:%d+/v1)"
  local parts = {}
  local stream <close> = http.stream { url = url .. "/chat/completions", json = { model = "echo", stream = true,
    messages = { { role = "user", content = "one two three four five six seven eight" } } } }
  for event in stream:events() do
    if #parts == 0 then process:signal "TERM" end
    parts[#parts + 1] = event.data:match '"content":"(.-)"'
  end
  t.eq(table.concat(parts), "one two three four five six seven eight")
  local result = process:wait()
  t.eq({ result.code, result.stderr }, { 143, "" })
end)

T.test("a scenario, by name or by option; --log", function(t)
  local folder = T.tmpdir()
  T.write(folder .. "/s.lua", "return { { model = 'big', nth = 2, status = 503 } }")
  for _, words in ipairs { { folder .. "/s.lua" }, { "--scenario", folder .. "/s.lua" } } do
    local process <close> = C.start { C.sluice, "mock", "--pace=0", "--log", table.unpack(words) }
    local url = process:expect "listening on (http://[%d.]+:%d+/v1)"
    t.eq(ask(url, { model = "big" }).status, 200)
    t.eq(ask(url, { model = "big" }).status, 503)
    process:signal "INT"
    local log = process:wait().stderr
    t.match(log, "%d%d:%d%d:%d%d POST /v1/chat/completions big 200 complete [%d.]+ s\n")
    t.match(log, "POST /v1/chat/completions big 503 error [%d.]+ s rule 1\n")
  end
end)

T.test("a port that is taken: exit 4 and a sentence", function(t)
  local process <close> = C.start { C.sluice, "mock", "--quiet" }
  local port = process:expect "listening on http://[%d.]+:(%d+)/v1"
  local result = C.run { C.sluice, "mock", "--port", port }
  t.eq({ result.code, result.stdout }, { 4, "" })
  t.match(result.stderr, "^sluice: mock: .*cannot listen on 127%.0%.0%.1 port " .. port .. ": Address already in use")
end)

T.test("what can be wrong with the command line", function(t)
  local folder = T.tmpdir()
  T.write(folder .. "/bad.lua", "return { { statu = 503 } }")
  local function run(...) return C.run { C.sluice, "mock", ... } end
  for _, case in ipairs {
    { 2, "takes a number, 0 or more, got 'fast'", "--pace", "fast" }, { 2, "one scenario at a time", "a.lua", "b.lua" },
    { 2, "given twice", "--scenario", "a.lua", "b.lua" }, { 2, "did you mean '%-%-port'", "--prot", "1" },
    { 4, "scenario nowhere%.lua: no such file", "nowhere.lua" },
    { 4, "bad%.lua, rule 1: unknown key 'statu' %(did you mean 'status'%?%)", folder .. "/bad.lua" },
    { 4, "cannot listen on 192%.0%.2%.1", "--address", "192.0.2.1" },
  } do
    local result = run(table.unpack(case, 3))
    t.eq({ result.code, result.stdout }, { case[1], "" }, case[2])
    t.match(result.stderr, case[2])
  end
end)

T.test("the help names every key and every model, within 80 columns", function(t)
  local result = C.run { C.sluice, "mock", "--help" }
  t.eq(result.code, 0)
  local scenario = require "sluice.mock.scenario"
  for _, group in ipairs(scenario.GROUPS) do
    for _, key in ipairs(group) do t.match(result.stdout, "\n  " .. key[1] .. " ") end
  end
  for name in pairs(scenario.MODELS) do t.match(result.stdout, "\n  " .. name:gsub("%-", "%%-") .. " ") end
  for line in result.stdout:gmatch "[^\n]*" do
    if not line:find "^  curl" then t.ok(utf8.len(line) <= 80, line) end
  end
end)

T.test("an embedded mock keeps no script from being deadlocked, nor from ending", function(t)
  local result = C.run { C.sluice, "run", "-q", "--mock", "-e", [[
    local sluice = require "sluice"
    print(#sluice.model("openai/echo"):ask("hello").text > 0)
    sluice.task.channel(1):receive()]] }
  t.eq({ result.code, result.stdout }, { 1, "true\n" })
  t.match(result.stderr, "deadlock")
  result = C.run { C.sluice, "run", "-q", "--mock", "-e", "print(require 'sluice.core.task'.census().tasks)" }
  t.eq({ result.code, result.stdout }, { 0, "1\n" }, "the mock's tasks are not the script's")
end)

T.test("a server of the script's own is no deadlock, and ends with the script", function(t)
  local result = C.run({ C.sluice, "run", "-e", [[
    local server = require "sluice.server".listen { handler = function(_, res) res:send(200) end }
    print(server.port)
    io.stdout:flush()
    require "sluice".task.channel(1):receive()]] }, { steps = { { expect = "\n" }, { signal = "INT" } } })
  t.eq({ result.code, result.unmet }, { 130 })
  result = C.run { C.sluice, "run", "-e", [[
    require "sluice.server".listen { handler = function(_, res) res:send(200) end }
    print "done"]] }
  t.eq({ result.code, result.stdout, result.stderr }, { 0, "done\n", "" })
end)

T.test("the seed of the run is the mock's", function(t)
  local folder = T.tmpdir()
  T.write(folder .. "/s.lua",
    "return { { also = true, first_token = 0, gap = 0 }, { probability = 0.5, text = 'struck' } }")
  local function run(seed)
    return C.run({ C.sluice, "run", "-q", "--mock=" .. folder .. "/s.lua", "--seed", seed, "-e", [[
      local model = require "sluice".model { provider = "openai", model = "echo" }
      for i = 1, 12 do io.write(model:ask("x").text, " ") end]] }).stdout
  end
  local first = run "3"
  t.match(first, "struck.*x")
  t.eq(run "3", first)
  t.ok(json.encode { run "4", run "5", run "6" } ~= json.encode { first, first, first })
end)

T.done()
