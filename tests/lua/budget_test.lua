-- sluice.budget: a ceiling on what may be spent.
local T = require "harness"
local sluice = require "sluice"
local sys = require "sluice.core.sys"
local transport = require "sluice.test.transport"

local task = sluice.task
local USAGE = { prompt_tokens = 100, completion_tokens = 50, total_tokens = 150 }

sys.virtual_clock(true)

local function model(answers, opts)
  local record = { answers = answers, name = "m", calls = 0, cancelled = 0, closed = 0, requests = {}, times = {},
    started = task.now() }
  local all = { provider = "mock", model = "m", base_url = "http://127.0.0.1:1/v1", transport = transport.new(record),
    retry = false, breaker = false, defaults = { max_tokens = 200 } }
  for key, value in pairs(opts or {}) do all[key] = value end
  return sluice.model(all), record
end

local function near(t, amount, usd, tokens, what)
  t.near(amount.usd, usd, 1e-9, what)
  t.near(amount.tokens, tokens, 1e-9, what)
end

-- Nothing is reserved any more, and so much was spent.
local function settled(t, budget, tokens, what)
  budget:left()
  near(t, budget.reserved, 0, 0, what)
  t.near(budget.spent.tokens, tokens, 1e-9, what)
end

-- The account -------------------------------------------------------------------------------------------------

T.test("reserve, settle once, and what is left", function(t)
  local budget = sluice.budget { usd = 1, tokens = 1000 }
  local first = budget:reserve { usd = 0.4, tokens = 300 }
  t.eq(budget:left(), { usd = 0.6, tokens = 700 })
  budget:settle(first, { usd = 0.1, tokens = 100 })
  budget:settle(first, { usd = 0.1, tokens = 100 })
  budget:settle(first)
  t.eq(budget:left(), { usd = 0.9, tokens = 900 })
  local second = budget:reserve { usd = 0.2, tokens = 200 }
  budget:settle(second)
  near(t, budget.spent, 0.3, 300)
  near(t, budget.reserved, 0, 0)
end)

T.test("what would go beyond is refused as quota, and says how much there was", function(t)
  local budget = sluice.budget { tokens = 1000 }
  budget:reserve { usd = 0, tokens = 800 }
  local err = t.raises("quota", budget.reserve, budget, { usd = 0, tokens = 201 })
  t.eq({ err.code, err.retry_after }, { "budget" })
  t.match(tostring(err), "the budget of 1000 tokens is used up to 800; this request may take 201")
  t.ok(budget:reserve { usd = 0, tokens = 200 })
  t.eq(budget:left(), { tokens = 0 })
end)

T.test("fractions of a dollar that add up to the ceiling are not beyond it", function(t)
  local budget = sluice.budget { usd = 0.3 }
  for _ = 1, 3 do budget:settle(budget:reserve { usd = 0.1, tokens = 0 }) end
  t.raises("quota", budget.reserve, budget, { usd = 0.001, tokens = 0 })
end)

T.test("a period begins anew, and an error says when", function(t)
  local budget = sluice.budget { tokens = 100, per = "minute" }
  budget:settle(budget:reserve { usd = 0, tokens = 90 })
  task.sleep(20)
  local err = t.raises("quota", budget.reserve, budget, { usd = 0, tokens = 20 })
  t.near(err.retry_after, 40, 1e-6)
  local held = budget:reserve { usd = 0, tokens = 10 }
  task.sleep(40)
  t.eq(budget:left(), { tokens = 90 }) -- what is under way is still reserved
  budget:settle(held, { usd = 0, tokens = 30 })
  t.eq(budget:left(), { tokens = 70 })
  task.sleep(125) -- two periods and a bit: the third began on the full minute
  t.eq(budget:left(), { tokens = 100 })
  budget:settle(budget:reserve { usd = 0, tokens = 100 })
  t.near(t.raises("quota", budget.reserve, budget, { usd = 0, tokens = 1 }).retry_after, 55, 1e-6)
end)

-- Guarded models ------------------------------------------------------------------------------------------------

T.test("an ask reserves an estimate and settles with the usage", function(t)
  local budget = sluice.budget { usd = 1, tokens = 10000 }
  local m = model { { wait = 5, text = "hi", usage = USAGE } }
  local guarded = budget:guard(m, { input = 2, output = 10 })
  task.group(function(group)
    local handle = group:spawn(function() return guarded:ask(("x"):rep(400)) end)
    task.sleep(1)
    near(t, budget.reserved, (110 * 2 + 200 * 10) / 1e6, 310) -- 400 bytes: 110 tokens; max_tokens 200
    local reply = handle:join()
    t.near(reply.usd, (100 * 2 + 50 * 10) / 1e6, 1e-12)
    t.eq({ reply.attempts[1].usd, reply.attempts[1].usage.total_tokens }, { reply.usd, 150 })
  end)
  near(t, budget.reserved, 0, 0)
  near(t, budget.spent, 0.0007, 150)
end)

T.test("cached input has its own price", function(t)
  local budget = sluice.budget { usd = 1 }
  local usage = { prompt_tokens = 1000, completion_tokens = 0, prompt_tokens_details = { cached_tokens = 800 } }
  budget:guard(model { { text = "hi", usage = usage } }, { input = 10, output = 10, cached = 1 }):ask "x"
  t.near(budget.spent.usd, (200 * 10 + 800 * 1) / 1e6, 1e-12)
end)

-- How a call may end, and what it costs then: nil is the estimate.
local ESTIMATE = 1 + 200 -- "x" is one token
for _, case in ipairs {
  { "an answer", { text = "hi", usage = USAGE }, 150 },
  { "an answer whose usage nobody tells", { text = "hi", usage = {} }, ESTIMATE },
  { "a refusal", { err = "invalid" }, 0 }, { "a refused key", { err = "auth" }, 0 },
  { "a limit", { err = "rate_limited" }, 0 }, { "no money", { err = "quota" }, 0 },
  { "a failure of the server", { err = "server" }, 0 }, { "an overload", { err = "overloaded" }, 0 },
  { "silence: it may be writing for nobody", { err = "timeout" }, ESTIMATE },
  { "a connection that dies", { err = "network" }, ESTIMATE },
  { "a page", { err = "protocol" }, ESTIMATE },
} do
  T.test("an ask that ends in " .. case[1] .. " is settled", function(t)
    local budget = sluice.budget { tokens = 10000 }
    pcall(function() return budget:guard((model { case[2] })):ask "x" end)
    settled(t, budget, case[3])
  end)

  T.test("a stream that ends in " .. case[1] .. " is settled", function(t)
    local budget = sluice.budget { tokens = 10000 }
    pcall(function() return budget:guard((model { case[2] })):stream("x"):reply() end)
    settled(t, budget, case[3])
  end)
end

T.test("nothing is charged where an open breaker or the budget itself refused", function(t)
  local budget = sluice.budget { tokens = 10000 }
  local m = model({ { text = "hi" } }, { breaker = {} })
  m.breaker:open()
  t.raises("circuit_open", function() budget:guard(m):ask "x" end)
  settled(t, budget, 0)
  local small = sluice.budget { tokens = 100 }
  t.raises("quota", function() small:guard((model { {} })):ask "x" end)
  settled(t, small, 0)
end)

T.test("a call that is cancelled stays charged with its estimate", function(t)
  local budget = sluice.budget { tokens = 10000 }
  local guarded = budget:guard((model { { wait = 30, text = "hi" } }))
  t.raises("timeout", task.deadline, 2, function() guarded:ask "x" end)
  settled(t, budget, ESTIMATE, "ask")
  t.raises("timeout", task.deadline, 2, function() guarded:stream "x" end)
  settled(t, budget, 2 * ESTIMATE, "stream")
end)

T.test("a wrong request is not charged", function(t)
  local budget = sluice.budget { tokens = 10000 }
  local guarded = budget:guard((model { {} }))
  t.raises("unknown field", function() guarded:ask { promt = "x" } end)
  budget:left()
  t.ok(budget.spent.tokens <= ESTIMATE) -- at worst with its estimate, never left open
  near(t, budget.reserved, 0, 0)
end)

-- Streams -----------------------------------------------------------------------------------------------------------

local function streamed() return (model { { text = "one two three four", gap = 1, usage = USAGE } }) end

T.test("a stream is settled once, however it is read", function(t)
  for name, read in pairs {
    text = function(s) for _ in s:text() do end end, -- luacheck: ignore 542
    events = function(s) for _ in s:events() do end end, -- luacheck: ignore 542
    reply = function(s) return s:reply() end,
    ["text, then the reply, then closing"] = function(s)
      for _ in s:text() do end -- luacheck: ignore 542
      t.eq(s:reply().usage.total_tokens, 150)
      s:close()
      s:close()
    end,
  } do
    local budget = sluice.budget { tokens = 10000 }
    local stream = budget:guard(streamed()):stream "x"
    near(t, budget.reserved, 0, ESTIMATE, name)
    read(stream)
    settled(t, budget, 150, name)
  end
end)

T.test("a stream that is left, closed or broken stays charged with its estimate", function(t)
  local broken = function() return (model { { text = "one two three", cut = 5 } }) end
  for name, case in pairs {
    left = { streamed(), function(s) for _ in s:text() do break end end }, -- luacheck: ignore 512
    closed = { streamed(), function(s) s:close() end },
    ["a block that ends"] = { streamed(), function(s) local _ <close> = s end },
    broken = { broken(), function(s) pcall(function() for _ in s:text() do end end) end }, -- luacheck: ignore 542
    ["broken, by reply"] = { broken(), function(s) pcall(s.reply, s) end },
  } do
    local budget = sluice.budget { tokens = 10000 }
    case[2](budget:guard(case[1]):stream "x")
    settled(t, budget, ESTIMATE, name)
  end
end)

T.test("a stream that its task group closed, without a word to Lua, is settled at the next look", function(t)
  sys.virtual_clock(false)
  local provider <close> = require "sluice.mock".start { scenario = { { gap = 60 } } }
  local budget = sluice.budget { tokens = 10000 }
  local m = sluice.model { provider = "mock", model = "m", base_url = provider.url .. "/v1", defaults = { max_tokens = 200 } }
  local kept
  task.group(function()
    kept = budget:guard(m):stream "x"
    near(t, budget.reserved, 0, ESTIMATE)
  end)
  settled(t, budget, ESTIMATE)
  kept:close()
  settled(t, budget, ESTIMATE)
  t.eq(next(budget.streams), nil)
  T.until_(function() return provider:stats().client_gone == 1 end)
  sys.virtual_clock(true)
end)

T.test("a stream that was dropped and collected is settled, too", function(t)
  local budget = sluice.budget { tokens = 10000 }
  budget:guard(streamed()):stream "x"
  T.until_(function()
    collectgarbage()
    budget:left()
    return budget.reserved.tokens == 0
  end)
  settled(t, budget, ESTIMATE)
end)

T.test("streams that are dropped by the hundred do not pile up, though nobody looks", function(t)
  local budget = sluice.budget { tokens = 1 << 40 }
  local guarded = budget:guard((model({ { text = "a b", gap = 1, usage = USAGE } }, { limit = { concurrency = 1000 } })))
  local most = 0
  for i = 1, 600 do
    guarded:stream "x"
    if i % 50 == 0 then collectgarbage() end
    most = math.max(most, budget.watched)
  end
  t.ok(most <= 200, most)
end)

T.test("a period that is over takes along what was left in it without a word", function(t)
  local budget = sluice.budget { tokens = 10000, per = 60 }
  budget:guard(streamed()):stream "x"
  collectgarbage()
  collectgarbage()
  task.sleep(61)
  local held = budget:reserve { usd = 0, tokens = 10000 } -- nothing of the old period is in its way
  t.eq(budget.spent.tokens, 0)
  budget:settle(held)
end)

T.test("a stream that is still open is not settled by looking", function(t)
  local budget = sluice.budget { tokens = 10000 }
  local stream <close> = budget:guard(streamed()):stream "x"
  collectgarbage()
  budget:left()
  near(t, budget.reserved, 0, ESTIMATE)
  stream:reply()
  settled(t, budget, 150)
end)

-- In chains -----------------------------------------------------------------------------------------------------------

T.test("the loser of a hedge is charged as well", function(t)
  local budget = sluice.budget { tokens = 10000 }
  local slow, fast = model { { wait = 9, text = "late" } }, model { { wait = 1, text = "hi", usage = USAGE } }
  local chain = sluice.fallback { { budget:guard(slow), after = 5 }, budget:guard(fast) }
  t.eq(chain:ask("x").text, "hi")
  settled(t, budget, ESTIMATE + 150)
  t.eq(chain:stream("x"):reply().text, "hi")
  settled(t, budget, 2 * (ESTIMATE + 150))
end)

T.test("below: a cheaper step takes over before the money is gone", function(t)
  local budget = sluice.budget { usd = 0.01 }
  local usage = { prompt_tokens = 100, completion_tokens = 200, total_tokens = 300 }
  local big, asked_big = model { { text = "big", usage = usage } }
  local small, asked_small = model { { text = "small", usage = usage } }
  local chain = sluice.fallback {
    budget:guard(big, { input = 2, output = 10, below = 0.5 }),
    budget:guard(small, { input = 0.2, output = 1 }),
    function(_, why) return "out of money: " .. why.err.code end,
  }
  local got, last = {}, nil
  for i = 1, 40 do
    last = chain:ask "x"
    got[i] = last.text
  end
  t.eq({ got[1], got[2], got[3], got[40] }, { "big", "big", "small", "out of money: budget" })
  t.eq({ asked_big.calls, last.degraded.why }, { 2, "quota" })
  t.ok(asked_small.calls > 10)
  t.ok(budget.spent.usd <= 0.01)
end)

T.test("many at once cannot spend more than there is", function(t)
  local budget = sluice.budget { tokens = 1000 }
  local m, record = model({ { wait = 1, text = "x", usage = { prompt_tokens = 1, completion_tokens = 199 } } },
    { limit = { concurrency = 100 } })
  local guarded = budget:guard(m)
  local list = {}
  for i = 1, 20 do list[i] = i end
  local outcome = task.map(list, function() return guarded:ask("x").text end, { settle = true })
  local ok = 0
  for _, r in ipairs(outcome) do if r.ok then ok = ok + 1 else t.eq(r.err.code, "budget") end end
  t.eq({ ok, record.calls }, { 4, 4 })
  t.ok(budget.spent.tokens <= 1000)
end)

-- Estimates ---------------------------------------------------------------------------------------------------------------

T.test("estimates: messages, tools, defaults; an image is not its bytes", function(t)
  local budget = sluice.budget { tokens = 1e6 | 0 }
  local m = model({ { text = "hi", usage = {} } }, { defaults = { system = ("s"):rep(40) } })
  local guarded = budget:guard(m)
  local function cost(req)
    local before = budget.spent.tokens
    guarded:ask(req)
    return budget.spent.tokens - before
  end
  t.eq(cost(("x"):rep(360)), 110 + 1024)
  t.eq(cost { prompt = "x", system = "y", max_tokens = 7 }, 1 + 7)
  local image = { { role = "user", content = { { type = "image", data = ("A"):rep(100000), media_type = "image/png" } } } }
  local got = cost { messages = image, max_tokens = 10 }
  t.ok(got > 1500 and got < 2000, got)
  local reply = m:ask "q"
  t.ok(cost { messages = { { role = "user", content = "q" }, reply, { role = "user", content = "r" } }, max_tokens = 10 } < 60)
end)

T.test("a guarded model is a model", function(t)
  local budget = sluice.budget { usd = 1 }
  local m = model { { text = "hi", usage = USAGE } }
  local guarded = budget:guard(m, { input = 1, output = 1 })
  t.eq({ guarded.name, guarded.limiter == m.limiter, tostring(guarded) }, { m.name, true, tostring(m) })
  guarded:with({ defaults = { max_tokens = 5 } }):ask "x"
  t.near(budget.spent.usd, 150 / 1e6, 1e-12)
  t.raises("another model has another price", guarded.with, guarded, { model = "n" })
  guarded:with({ model = "n" }, { input = 2, output = 2 }):ask "x"
  t.near(budget.spent.usd, 450 / 1e6, 1e-12)
  t.match(tostring(budget), "^budget, used 0%.00045 of 1 usd$")
end)

T.test("wrong arguments name what is wrong", function(t)
  local m = model { {} }
  t.raises("give 'usd', 'tokens' or both", sluice.budget, {})
  t.raises("unknown option 'token' %(did you mean 'tokens'%?%)", sluice.budget, { token = 5 })
  t.raises("option 'per' must be 'minute', 'hour', 'day', 'run' or seconds", sluice.budget, { tokens = 5, per = "weak" })
  local budget = sluice.budget { usd = 1 }
  t.raises("give both parts of the model's price", budget.guard, budget, m)
  t.raises("give both parts of the model's price", budget.guard, budget, m, { input = 1 })
  t.raises("unknown field of the price 'inputs' %(did you mean 'input'%?%)", budget.guard, budget, m, { inputs = 1, output = 1 })
  t.raises("budget:guard: expected a model, got a string", budget.guard, budget, "m")
  t.raises("'below' must be a number above 0 and at most 1", function() sluice.budget { tokens = 5 }:guard(m, { below = 2 }) end)
end)

T.done()
