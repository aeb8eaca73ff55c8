-- What `sluice test` itself gives: checks, scripted models, scripts for the models of the code under test.
local sluice = require "sluice"
local test, task = sluice.test, sluice.task

-- Calls a check with a context of its own, so that its failure is not this test's.
local function failure_of(f)
  local module = require "sluice.test"
  local outer = module.current
  local inner = setmetatable({ failures = {}, checks = 0 }, getmetatable(outer))
  module.current = inner
  local ok, err = pcall(f, inner)
  module.current = outer
  return not ok and tostring(err) or nil, inner
end

test("checks pass where they should", function(t)
  t.eq(1, 1.0) t.eq(0.1 + 0.2, 0.3) t.eq({ a = { 1, 2 } }, { a = { 1, 2 } }) t.eq(nil, nil) t.eq(0 / 0, 0 / 0)
  t.ne({ 1 }, { 2 }) t.ok("x") t.near(1, 1.05, 0.1)
  t.eq({ t.match("a=17", "a=(%d+)") }, { "17" })
  local loop = {}
  loop.loop = loop
  t.eq(loop, loop)
  local other = {}
  other.loop = other
  t.eq(loop, other)
end)

test("checks fail where they should, with the line and both values", function(t)
  for pattern, f in pairs {
    ["script_test%.lua:%d+: expected 2, got 1$"] = function(c) c.eq(1, 2) end,
    ["time: expected 2, got 1$"] = function(c) c.eq(1, 2, "time") end,
    ['expected { 1, %[3%] = "x" }, got { a = { b = 2 } }'] = function(c) c.eq({ a = { b = 2 } }, { 1, nil, "x" }) end,
    ["not expected: { 1 }"] = function(c) c.ne({ 1 }, { 1 }) end,
    ["expected something true, got nil"] = function(c) c.ok(nil) end,
    ["expected 1 ± 0.1, got 2"] = function(c) c.near(2, 1, 0.1) end,
    ['expected a match of "b", got "a"'] = function(c) c.match("a", "b") end,
    ['expected a match of "b", got nil'] = function(c) c.match(nil, "b") end,
    ["expected an error 'timeout', none was raised; returned 7"] = function(c) c.raises("timeout", function() return 7 end) end,
    ["expected an error 'timeout', got: .*timeout in words"] = function(c)
      c.raises("timeout", function() sluice.errors.raise { kind = "server", message = "timeout in words" } end)
    end,
    ["expected an error 'x', got: .*script_test%.lua:%d+: y"] = function(c) c.raises("x", function() error "y" end) end,
  } do
    local text, inner = failure_of(f)
    t.match(text, pattern)
    t.eq(#inner.failures, 1)
  end
end)

test("a failed check counts even where it is swallowed", function(t)
  local _, inner = failure_of(function(c) pcall(c.eq, 1, 2) end)
  t.eq(#inner.failures, 1)
end)

test("t.model and t:model are the same", function(t)
  t.eq(t.model { { text = "a" } }:ask("x").text, "a")
  t.eq(t:model { { text = "a" } }:ask("x").text, "a")
end)

test("entries are used up one a call, the last one stays", function(t)
  local m = t.model { { text = "1" }, { text = "2" } }
  t.eq({ m:ask("x").text, m:ask("x").text, m:ask("x").text, m.calls }, { "1", "2", "2", 3 })
end)

test("an entry may be made from the request", function(t)
  local m = t.model { function(request, n) return ("%d: %s"):format(n, request.messages[1].content) end }
  t.eq({ m:ask("a").text, m:ask("b").text }, { "1: a", "2: b" })
  local bad = t.model { function() return { txt = "x" } end }
  t.raises("the answer that model 'scripted%-2' made for call 1: unknown field of the answer 'txt' %(did you mean 'text'", bad.ask, bad, "x")
end)

test("ask and stream meet the same script in the same time", function(t)
  for _, case in ipairs {
    { { wait = 3, text = "x" }, nil, 3 }, { { delay = 2, wait = 3, text = "x" }, nil, 5 },
    { { wait = 3, err = "server" }, "server", 3 }, { { wait = 3, err = "network" }, "network", 3 },
    { { err = "timeout" }, "timeout", 30 }, { { wait = 31, text = "x" }, "timeout", 30 },
    { { delay = 30, text = "x" }, nil, 30 }, { { status = 503, retry_after = 7, delay = 1 }, "overloaded", 1 },
    { { err = "filtered", wait = 1 }, "filtered", 1 }, { { cut = 0, wait = 2 }, "network", 2 },
    { { err = "protocol", wait = 2 }, "protocol", 2 }, { { broken = 0, wait = 2 }, "protocol", 2 },
  } do
    for _, how in ipairs { "ask", "stream" } do
      local m = t.model { case[1] }
      local from = t.clock()
      local function call()
        local answer = m[how](m, "x")
        if how == "stream" then answer = answer:reply() end
        return answer.text
      end
      if case[2] then t.raises(case[2], call) else t.eq(call(), case[1].text) end
      t.eq(t.clock() - from, case[3], ("%s %s"):format(how, case[2] or "answer"))
    end
  end
end)

test("words of a stream come apart, and none is lost", function(t)
  local m = t.model { { wait = 1, text = " one two,  three 你好 \n", gap = 2 } }
  local parts, times = {}, {}
  for text in m:stream("x"):text() do
    parts[#parts + 1] = text
    times[#times + 1] = t.clock()
  end
  t.eq(table.concat(parts), " one two,  three 你好 \n")
  t.eq({ times[1], times[2], times[3] }, { 1, 3, 5 })
end)

test("a slow reader is not the provider's silence", function(t)
  local m = t.model { { text = "one two three", gap = 1 }, timeout = { idle = 5 } }
  local n = 0
  for _ in m:stream("x"):text() do
    n = n + 1
    task.sleep(20)
  end
  t.eq(n, 3)
end)

test("a place for a request is given back, however the stream ends", function(t)
  local m = t.model { { text = "one two", gap = 1 }, { text = "one two", cut = 3 }, { err = "server" }, { text = "x" },
    limit = { concurrency = 1 } }
  for _ in m:stream("x"):text() do break end -- luacheck: ignore 512
  pcall(function() m:stream("x"):reply() end)
  pcall(m.stream, m, "x")
  t.eq(m:ask("x").text, "x")
end)

test("wrong scripts name what is wrong", function(t)
  t.raises("t%.model: no answers", t.model, {})
  t.raises("t%.model: expected a list of answers, got a string", t.model, "x")
  t.raises("t%.model: answer 1: unknown field of the answer 'txt' %(did you mean 'text'", t.model, { { txt = "x" } })
  t.raises("t%.model: answer 1: err 'servr' cannot be scripted %(did you mean 'server'", t.model, { { err = "servr" } })
  t.raises("t%.model: unknown option 'limits' %(did you mean 'limit'", t.model, { {}, limits = {} })
  t.raises("t%.script: expected the name of a model", t.script, "big", { {} })
  t.raises("t%.script: only answers", t.script, "a/b", { {}, retry = {} })
end)

-- The models of the code under test ---------------------------------------------------------------------------

test("sluice.model meets a script, with the options it was made with", function(t)
  local record = t.script("siliconflow/deepseek-ai/DeepSeek-V3", { { err = "server" }, { text = "yes" } })
  local m = sluice.model { provider = "siliconflow", model = "deepseek-ai/DeepSeek-V3", retry = { attempts = 2 },
    auth = sluice.secret.env "NO_SUCH_KEY_ANYWHERE", defaults = { max_tokens = 7 } }
  local reply = m:ask "x"
  t.eq({ reply.text, record.calls, record.requests[1].max_tokens }, { "yes", 2, 7 })
  t.eq({ m.name, reply.provider }, { "siliconflow/deepseek-ai/DeepSeek-V3", "siliconflow" })
  t.eq(sluice.model("siliconflow/deepseek-ai/DeepSeek-V3"):ask("x").text, "yes")
end)

test("models of the Anthropic protocol, too, and those made by with", function(t)
  t.script("anthropic/*", { { text = "from Claude" } })
  local m = sluice.model "anthropic/claude-x"
  t.eq({ m:ask("x").text, m:with({ model = "claude-y" }):ask("x").text, m:with({ model = "claude-y" }).name },
    { "from Claude", "from Claude", "anthropic/claude-y" })
  t.raises("unknown option 'modl'", m.with, m, { modl = "x" })
end)

test("the script said last is the one that counts", function(t)
  t.script("*", { { text = "any" } })
  t.script("deepseek/*", { { text = "deepseek" } })
  t.eq({ sluice.model("deepseek/x"):ask("q").text, sluice.model("openai/x"):ask("q").text }, { "deepseek", "any" })
end)

local made_outside = sluice.model "openai/gpt-x"

test("a model made outside of the test meets the test's script", function(t)
  t.script("openai/gpt-x", { { text = "one" } })
  t.eq(made_outside:ask("x").text, "one")
end)

test("… and none in the next test: no request leaves the machine", function(t)
  local err = t.raises("no script for model 'openai/gpt%-x'", made_outside.ask, made_outside, "x")
  t.match(tostring(err), "t%.script%(\"openai/gpt%-x\"")
end)

test("options are checked as ever", function(t)
  t.raises("unknown option 'base_ur' %(did you mean 'base_url'", sluice.model, { provider = "openai", model = "x", base_ur = "y" })
end)

test("a file of rules is tested as it is", function(t)
  local big = t.script("siliconflow/deepseek-ai/DeepSeek-V3", { { wait = 20, text = "big" } })
  t.script("siliconflow/Qwen/*", { { wait = 1, text = "small" } })
  local rules = sluice.rules "fixtures/fallback.lua" -- beside this file
  local reply = rules:ask "x"
  t.eq({ reply.text, reply.degraded.why, t.clock(), big.cancelled }, { "small", "slow", 6, 1 })
  t.script("siliconflow/*", { { err = "overloaded" } })
  t.eq(rules:ask("x").text, "服务繁忙，请稍后再试。")
end)

-- The clock ----------------------------------------------------------------------------------------------------

test("the clock begins at zero and moves only by waiting", function(t)
  t.eq(t.clock(), 0)
  local n = 0
  for i = 1, 1e5 do n = n + i end
  t.eq({ t.clock(), n }, { 0, 5000050000 })
  task.sleep(3600)
  t.eq(t.clock(), 3600)
end)

local first

test("chance begins anew for each test …", function(t)
  first = { math.random(1 << 30), math.random(1 << 30) }
  t.ne(first[1], first[2])
end)

test("… and is the same each time", function(t)
  t.eq({ math.random(1 << 30), math.random(1 << 30) }, first)
end)
