-- How long a step may let its caller wait before it sends, and what hedges cost.
-- `after` bounds every wait of the step; without it, a provider that asks for time is given 5 s where
-- another step could answer meanwhile, and as long as max_wait allows where none could. Waits for limits
-- of one's own are no failure, and have no such bound.
local sluice = require "sluice"
local test, task = sluice.test, sluice.task

local function asks_for(seconds, t)
  return t.model { { status = 429, retry_after = seconds }, { text = "a" }, retry = {} }
end

local function canned() return "canned" end

-- Retry-After --------------------------------------------------------------------------------------------

test("a few seconds are waited for, when another step stands by", function(t)
  local a, b = asks_for(4, t), t.model { { text = "b" } }
  t.eq(sluice.fallback { a, b }:ask("x").text, "a")
  t.ok(t.clock() >= 4 and t.clock() <= 4.4, t.clock())
  t.eq({ a.calls, b.calls }, { 2, 0 })
end)

test("more than that, and the other step answers at once, asked or streamed", function(t)
  for _, method in ipairs { "ask", "stream" } do
    local a = asks_for(6, t)
    local chain = sluice.fallback { a, canned }
    local reply = method == "ask" and chain:ask "x" or chain:stream("x"):reply()
    t.eq({ reply.text, reply.degraded.why, t.clock(), a.calls }, { "canned", "rate_limited", 0, 1 })
  end
end)

test("the last step waits as long as it takes, up to max_wait", function(t)
  local last = asks_for(30, t)
  t.eq(sluice.fallback { t.model { { err = "server" } }, last }:ask("x").text, "a")
  t.ok(t.clock() >= 30 and t.clock() <= 31, t.clock())
  t.eq(sluice.fallback { asks_for(30, t) }:ask("x").text, "a")
  local chain = sluice.fallback { asks_for(61, t) }
  t.raises("rate_limited", chain.ask, chain, "x")
end)

test("a step behind it that a 429 does not lead to is nobody who stands by", function(t)
  for _, on in ipairs { "context_length", "slow", "invalid" } do
    t.eq(sluice.fallback { asks_for(20, t), { canned, on = { on } } }:ask("x").text, "a")
  end
  t.eq(sluice.fallback { asks_for(20, t), { canned, on = { "rate_limited" } } }:ask("x").text, "canned")
end)

test("after is the bound where there is one, longer or shorter", function(t)
  t.eq(sluice.fallback { { asks_for(8, t), after = 20 }, canned }:ask("x").text, "a")
  t.eq(sluice.fallback { { asks_for(2, t), after = 1 }, canned }:ask("x").text, "canned")
  -- the last step's own `after` bounds nothing: nobody is behind it
  t.eq(sluice.fallback { t.model { { err = "server" } }, { asks_for(8, t), after = 2 } }:ask("x").text, "a")
end)

test("503 and 529 with a Retry-After are no different", function(t)
  for _, status in ipairs { 503, 529, 500 } do
    local a = t.model { { status = status, retry_after = 6 }, { text = "a" }, retry = {} }
    t.eq({ sluice.fallback { a, canned }:ask("x").text, a.calls }, { "canned", 1 })
  end
  t.eq(t.clock(), 0)
end)

test("the bounds of an outer chain hold inside, the tighter one counts", function(t)
  local function inner(seconds) return sluice.fallback { asks_for(seconds, t) } end
  t.eq(sluice.fallback { inner(20), canned }:ask("x").text, "canned")
  t.eq(sluice.fallback { { inner(20), after = 30 }, canned }:ask("x").text, "a")
  t.eq(sluice.fallback { { sluice.fallback { asks_for(20, t), canned }, after = 30 }, canned }:ask("x").degraded.why,
    "rate_limited")
  t.eq(sluice.fallback { sluice.fallback { { asks_for(20, t), after = 30 }, canned }, canned }:ask("x").text, "canned")
  t.eq(sluice.fallback { inner(20) }:ask("x").text, "a")
end)

-- Gates and limits ------------------------------------------------------------------------------------------

test("the gate of another call's 429 is not waited for, either", function(t)
  local a = t.model { { status = 429, retry_after = 20 }, { text = "a" } }
  local chain = sluice.fallback { a, canned }
  t.eq(chain:ask("x").degraded.why, "rate_limited")
  task.sleep(1)
  local reply = chain:ask "x"
  t.eq({ reply.text, reply.degraded.why, t.clock(), a.calls }, { "canned", "throttled", 1, 1 })
  t.match(reply.attempts[1].message, "429.* in 19 s, and another step takes over rather than wait more than 5.0 s for it")
  task.sleep(15)
  t.eq({ chain:ask("x").text, a.calls }, { "a", 2 }) -- four seconds are no more than it may cost
  t.near(t.clock(), 20, 0.1)
end)

test("those who wait in line already go on to the next step when a 429 shuts the gate", function(t)
  local a = t.model { { wait = 3, status = 429, retry_after = 30 }, { text = "a" },
    limit = { rpm = 6, burst = 10, concurrency = 10 } }
  local chain, took, said = sluice.fallback { a, canned }, {}, {}
  task.map({ 1, 2 }, function(i)
    said[i] = chain:ask("x").degraded.why
    took[i] = t.clock()
  end)
  t.eq({ said, took, a.calls }, { { "rate_limited", "throttled" }, { 3, 3 }, 1 })
end)

test("a rate of one's own is waited for: that is no failure", function(t)
  local a = t.model { { text = "a" }, limit = { rpm = 6, burst = 10 } }
  local chain = sluice.fallback { a, canned }
  for _ = 1, 4 do t.eq(chain:ask("x").text, "a") end
  t.near(t.clock(), 30, 1e-3)
  t.eq(sluice.fallback { { a, after = 3 }, canned }:ask("x").degraded.why, "throttled")
end)

test("so is a place among the concurrent ones: a batch is not degraded by its own size", function(t)
  local a = t.model { { wait = 4, text = "a" }, limit = { concurrency = 2 } }
  local chain, list = sluice.fallback { a, canned }, {}
  for i = 1, 20 do list[i] = i end
  for _, reply in ipairs(task.map(list, function() return chain:ask "x" end, { concurrency = 20 })) do
    t.eq({ reply.text, reply.degraded }, { "a", nil })
  end
  t.eq(t.clock(), 40)
end)

-- Paying --------------------------------------------------------------------------------------------------------

local function poor(script, t)
  script.retry = {}
  local model = t.model(script)
  while model:pay_hedge() do end
  return model
end

test("a hedge costs 14 when it loses, and nothing when it wins", function(t)
  local function level_after(primary, hedge)
    local b = t.model { hedge, retry = {} }
    local full = b.quota.level
    sluice.fallback { { t.model { primary }, after = 5 }, b }:ask "x"
    return b.quota.level - full
  end
  t.eq(level_after({ wait = 7, text = "a" }, { wait = 20 }), -14)
  t.eq(level_after({ wait = 20 }, { wait = 1, text = "b" }), 0)
  t.eq(level_after({ wait = 9, text = "a" }, { wait = 1, err = "auth" }), -14)
end)

test("a step that is started by a failure costs nothing, and is never refused", function(t)
  local b = poor({ { wait = 1, text = "b" } }, t)
  local level = b.quota.level
  t.eq(sluice.fallback { { t.model { { err = "server" } }, after = 5 }, b }:ask("x").text, "b")
  t.eq(b.quota.level, level + 1) -- a first success brings one
end)

test("budget = false: no account, no bound", function(t)
  local b = t.model { { text = "b" }, retry = { budget = false } }
  t.eq(b:pay_hedge(), 0)
  for _ = 1, 100 do t.eq(sluice.fallback { { t.model { { wait = 20 } }, after = 1 }, b }:ask("x").text, "b") end
end)

test("a chain as a hedge is paid for by its first step", function(t)
  local b = t.model { { wait = 1, text = "b" }, retry = {} }
  local full, inner = b.quota.level, sluice.fallback { b, canned }
  sluice.fallback { { t.model { { wait = 5.5, text = "a" } }, after = 5 }, inner }:ask "x"
  t.eq(full - b.quota.level, 14)
  t.eq(sluice.fallback { { t.model { { wait = 20 } }, after = 5 }, inner }:ask("x").text, "b")
  t.eq(full - b.quota.level, 14) -- what it won with came back
  local broke = sluice.fallback { poor({ { text = "b" } }, t), canned }
  t.eq(broke:pay_hedge(), nil)
  t.eq(sluice.fallback { { t.model { { wait = 9, text = "a" } }, after = 5 }, broke }:ask("x").text, "a")
  t.eq(sluice.fallback { canned }:pay_hedge(), 0)
end)

test("watched, guarded: the account is that of the model", function(t)
  local b = t.model { { text = "b" }, retry = {} }
  local full = b.quota.level
  t.eq(sluice.cache():watch(b):pay_hedge(), 14)
  t.eq(sluice.budget({ tokens = 1000 }):guard(b):pay_hedge(), 14)
  t.eq(b.quota.level, full - 28)
end)

test("a rule that names a model as the hedge: that is paid for, too", function(t)
  local b = t.model { { wait = 1, text = "b" }, retry = {} }
  local full = b.quota.level
  local chain = sluice.fallback { { t.model { { wait = 5.5, text = "a" } }, after = 5 }, sluice.rule.shorter(b) }
  t.eq({ chain:ask("x").text, full - b.quota.level, b.calls }, { "a", 14, 1 })
end)

test("… and without quota it is not asked, but kept for a failure", function(t)
  local b = poor({ { wait = 1, text = "b" } }, t)
  local rule = sluice.rule.shorter(b)
  local chain = sluice.fallback { { t.model { { wait = 9, text = "a" } }, after = 5 }, rule }
  t.eq({ chain:ask("x").text, b.calls, t.clock() }, { "a", 0, 9 })
  chain = sluice.fallback { { t.model { { wait = 9, err = "server" } }, after = 5 }, rule }
  local reply = chain:ask "x"
  t.eq({ reply.text, reply.degraded.why, b.calls, t.clock() }, { "b", "server", 1, 19 })
  -- and a text behind it is given at once
  chain = sluice.fallback { { t.model { { wait = 9, text = "a" } }, after = 5 }, rule, canned }
  t.eq({ chain:ask("x").text, b.calls, t.clock() }, { "canned", 1, 24 })
end)

test("behind a rule that has nothing to say about slowness the next hedge is paid for as well", function(t)
  local function says_nothing() return nil end
  local b = t.model { { wait = 1, text = "b" }, retry = {} }
  local full = b.quota.level
  local chain = sluice.fallback { { t.model { { wait = 5.5, text = "a" } }, after = 5 }, says_nothing, b }
  t.eq({ chain:ask("x").text, full - b.quota.level }, { "a", 14 })
  b = poor({ { wait = 1, text = "b" } }, t)
  chain = sluice.fallback { { t.model { { wait = 9, text = "a" } }, after = 5 }, b, says_nothing, b }
  t.eq({ chain:ask("x").text, b.calls }, { "a", 0 })
  chain = sluice.fallback { { t.model { { wait = 9, err = "server" } }, after = 5 }, b, says_nothing }
  t.eq({ chain:ask("x").text, b.calls }, { "b", 1 })
end)
