-- Hedges: who starts when, who wins, what becomes of the losers.
-- Cases of Polly's HedgingResilienceStrategyTests, failsafe-go's hedgepolicy_test, resilience4j-hedge's
-- HedgeImplFutureBehaviorsTest and gRPC's proposal A6, with the outcomes of SEMANTICS: a hedge that
-- fails does not end the call, and a primary that fails starts the next step at once.
local sluice = require "sluice"
local test, task = sluice.test, sluice.task

local function pair(t, primary, secondary, after)
  local a, b = t.model { primary, name = "a" }, t.model { secondary, name = "b" }
  return sluice.fallback { { a, after = after or 5 }, b }, a, b
end

-- When ------------------------------------------------------------------------------------------------

test("the hedge starts after 5 s and wins at 6; the loser is cancelled and closed", function(t)
  local chain, a, b = pair(t, { wait = 9, text = "late" }, { wait = 1, text = "hi" })
  local reply = chain:ask "x"
  t.eq(reply.text, "hi")
  t.eq(t.clock(), 6)
  t.eq({ a.calls, a.cancelled, a.closed }, { 1, 1, 1 })
  t.eq({ b.calls, b.cancelled, b.times[1] }, { 1, 0, 5 })
end)

test("no hedge while the delay is not exceeded", function(t)
  local chain, _, b = pair(t, { wait = 2, text = "x" }, {})
  t.eq(chain:ask("x").text, "x")
  t.eq({ t.clock(), b.calls }, { 2, 0 })
end)

test("a fast primary that answers in the very moment of the hedge wins", function(t)
  local chain, _, b = pair(t, { wait = 5, text = "x" }, { wait = 1, text = "y" })
  t.eq(chain:ask("x").text, "x")
  t.ok(b.calls <= 1)
end)

test("all hedges are used, one after the other, and the primary may still win", function(t)
  local a, b, c = t.model { { wait = 10, text = "a" } }, t.model { { wait = 10 } }, t.model { { wait = 10 } }
  local reply = sluice.fallback { { a, after = 2 }, { b, after = 2 }, c }:ask "x"
  t.eq(reply.text, "a")
  t.eq(reply.degraded, nil)
  t.eq({ b.times[1], c.times[1], t.clock() }, { 2, 4, 10 })
  t.eq({ a.cancelled, b.cancelled, c.cancelled }, { 0, 1, 1 })
end)

test("a delay of zero starts all at once: a race", function(t)
  local a, b, c = t.model { { wait = 3, text = "a" } }, t.model { { wait = 2, text = "b" } },
    t.model { { wait = 1, text = "c" } }
  local reply = sluice.fallback { { a, after = 0 }, { b, after = 0 }, c }:ask "x"
  t.eq({ reply.text, t.clock() }, { "c", 1 })
  t.eq({ a.times[1], b.times[1], c.times[1] }, { 0, 0, 0 })
  t.eq({ reply.degraded.step, reply.degraded.why }, { 3, "slow" })
end)

test("without a delay nothing runs side by side", function(t)
  local running, most = 0, 0
  local function answers(fails)
    return { function()
      running = running + 1
      most = math.max(most, running)
      task.sleep(100)
      running = running - 1
      return fails and { err = "server" } or { text = "done" }
    end, timeout = { total = 1000, first_token = 1000 } }
  end
  local chain = sluice.fallback { t.model(answers(true)), t.model(answers(true)), t.model(answers(false)) }
  t.eq(chain:ask("x").text, "done")
  t.eq({ most, t.clock() }, { 1, 300 })
end)

test("the delay counts from the start of its own step", function(t)
  local a, b, c = t.model { { wait = 4, err = "server" } }, t.model { { wait = 9, text = "b" } },
    t.model { { wait = 9, text = "c" } }
  sluice.fallback { { a, after = 5 }, { b, after = 3 }, c }:ask "x"
  t.eq({ b.times[1], c.times[1] }, { 4, 7 })
end)

-- resilience4j's table: speed and outcome of primary and hedge -------------------------------------------

local FAST, SLOW = 1, 20 -- seconds, either side of a delay of 5

for _, case in ipairs {
  { "slow success, fast success", { wait = SLOW, text = "primary" }, { wait = FAST, text = "hedge" }, "hedge", 6 },
  { "slow success, fast failure", { wait = SLOW, text = "primary" }, { wait = FAST, err = "server" }, "primary", 20 },
  { "slow failure, fast success", { wait = SLOW, err = "server" }, { wait = FAST, text = "hedge" }, "hedge", 6 },
  { "slow success, slow success", { wait = SLOW, text = "primary" }, { wait = SLOW, text = "hedge" }, "primary", 20 },
  { "slow success, slow failure", { wait = SLOW, text = "primary" }, { wait = SLOW, err = "server" }, "primary", 20 },
  { "slow failure, slow success", { wait = SLOW, err = "server" }, { wait = SLOW, text = "hedge" }, "hedge", 25 },
  { "fast failure, fast success", { wait = FAST, err = "server" }, { wait = FAST, text = "hedge" }, "hedge", 2 },
  { "fast success", { wait = FAST, text = "primary" }, { text = "hedge" }, "primary", 1 },
} do
  test("outcomes: " .. case[1], function(t)
    local chain = pair(t, case[2], case[3])
    t.eq({ chain:ask("x").text, t.clock() }, { case[4], case[5] })
    local stream <close> = chain:stream "x"
    t.eq(stream:reply().text, case[4])
  end)
end

test("outcomes: slow failure, fast failure: the primary's error, the other in also", function(t)
  local chain = pair(t, { wait = SLOW, err = "overloaded" }, { wait = FAST, err = "server" })
  local err = t.raises("overloaded", chain.ask, chain, "x")
  t.eq({ #err.also, err.also[1].kind, t.clock() }, { 1, "server", 20 })
end)

test("outcomes: slow failure, slow failure: the primary's error", function(t)
  local chain = pair(t, { wait = SLOW, err = "overloaded" }, { wait = SLOW, err = "server" })
  local err = t.raises("overloaded", chain.ask, chain, "x")
  t.eq({ err.also[1].kind, t.clock() }, { "server", 25 })
end)

-- gRPC A6, "Summary of Retry and Hedging Logic" ------------------------------------------------------------

test("A6.1 OK: the previous and the pending ones are cancelled", function(t)
  local a, b, c = t.model { { wait = 30 } }, t.model { { wait = 2, text = "b" } }, t.model { { text = "c" } }
  sluice.fallback { { a, after = 1 }, { b, after = 5 }, c }:ask "x"
  t.eq({ a.cancelled, b.cancelled, c.calls, t.clock() }, { 1, 0, 0, 3 })
end)

test("A6.2 non-fatal: the next one is sent at once, and the delays go on from there", function(t)
  local a, b, c = t.model { { wait = 1, err = "server" } }, t.model { { wait = 30 } }, t.model { { text = "c" } }
  sluice.fallback { { a, after = 5 }, { b, after = 5 }, c }:ask "x"
  t.eq({ b.times[1], c.times[1] }, { 1, 6 })
end)

test("A6.3 fatal: all are cancelled, and it is raised", function(t)
  local chain, a, b = pair(t, { wait = 30, text = "a" }, { wait = 1, err = "invalid" })
  local err = t.raises("invalid", chain.ask, chain, "x")
  t.eq({ t.clock(), a.cancelled, a.closed, err.model }, { 6, 1, 1, "b" })
  t.eq(b.calls, 1)
end)

test("A6.4 pushback, do not retry: the model is not asked again, the chain moves on", function(t)
  local a = t.model { { status = 503, headers = { ["x-should-retry"] = "false" } }, { text = "a" }, retry = {} }
  local b = t.model { { text = "b" } }
  t.eq(sluice.fallback { a, b }:ask("x").text, "b")
  t.eq({ a.calls, t.clock() }, { 1, 0 })
end)

test("A6.5 pushback, retry in n: waited for when it is within the step's patience", function(t)
  local a = t.model { { status = 429, retry_after = 2 }, { text = "a" }, retry = {} }
  local b = t.model { { wait = 60, text = "b" } }
  t.eq(sluice.fallback { { a, after = 5 }, b }:ask("x").text, "a")
  t.ok(t.clock() >= 2 and t.clock() < 5)
end)

test("A6.5 pushback, retry in n: beyond the patience it counts as failed at once", function(t)
  local a = t.model { { status = 429, retry_after = 20 }, { text = "a" }, retry = {} }
  local b = t.model { { wait = 1, text = "b" } }
  local reply = sluice.fallback { { a, after = 5 }, b }:ask "x"
  t.eq({ reply.text, reply.degraded.why, t.clock(), a.calls }, { "b", "rate_limited", 1, 1 })
end)

test("the deadline covers all of them", function(t)
  local a, b = t.model { { wait = 50 } }, t.model { { wait = 50 } }
  t.raises("timeout", task.deadline, 20, function() sluice.fallback { { a, after = 5 }, b }:ask "x" end)
  t.eq({ t.clock(), a.closed, b.closed, a.cancelled, b.cancelled }, { 20, 1, 1, 1, 1 })
end)

-- Polly -----------------------------------------------------------------------------------------------------

test("a call that is cancelled before it starts asks nobody", function(t)
  local chain, a = pair(t, { text = "a" }, { text = "b" })
  t.raises("timeout", task.deadline, 0, function()
    task.sleep(0)
    chain:ask "x"
  end)
  t.eq(a.calls, 0)
end)

test("cancelling the caller cancels primary and hedge", function(t)
  local chain, a, b = pair(t, { wait = 29 }, { wait = 29 })
  task.group(function(group)
    local handle = group:spawn(function() return chain:ask "x" end)
    task.sleep(7)
    handle:cancel()
  end)
  t.eq({ a.cancelled, b.cancelled, a.closed, b.closed, t.clock() }, { 1, 1, 1, 1, 7 })
end)

test("a discarded answer is closed, the one handed out is not", function(t)
  local chain, a, b = pair(t, { wait = 6, text = "a b c d e f", gap = 1 }, { wait = 1.5, text = "b" })
  local stream <close> = chain:stream "x"
  t.eq({ t.clock(), a.closed, b.closed }, { 6, 0, 1 })
  t.eq(stream:reply().text, "a b c d e f")
end)

test("two that commit in the same moment: one is handed out, the other closed", function(t)
  local chain, a, b = pair(t, { wait = 6, text = "a", gap = 1 }, { wait = 1, text = "b", gap = 1 })
  do
    local stream <close> = chain:stream "x"
    t.eq(a.closed + b.closed, 1)
    t.match(stream:reply().text, "^[ab]$")
  end
  t.eq(a.closed + b.closed, 2)
end)

test("what a hedge changes of the request stays its own", function(t)
  local seen
  local req = { prompt = "x", messages = { { role = "user", content = "before" } } }
  local chain = sluice.fallback {
    { t.model { { wait = 30 } }, after = 1 },
    { function(r) r.prompt = "changed" r.messages[1].content = "changed" return nil end },
    function(r) seen = r return "ok" end,
  }
  chain:ask(req)
  t.eq({ req.prompt, req.messages[1].content }, { "x", "before" })
  t.eq({ seen.prompt, seen.messages[1].content }, { "x", "before" })
end)

test("the hedge is told why, and that nobody has failed", function(t)
  local why
  sluice.fallback { { t.model { { wait = 30 } }, after = 5 }, function(_, w) why = w return "ok" end }:ask "x"
  t.eq({ why.kind, why.err, why.elapsed, why.tried }, { "slow", nil, 5, 0 })
end)

test("a fault of a rule's own is raised as it is, and the others are cancelled", function(t)
  local a = t.model { { wait = 30 } }
  local chain = sluice.fallback { { a, after = 1 }, function() error "my own fault" end }
  t.raises("my own fault", chain.ask, chain, "x")
  t.eq({ t.clock(), a.cancelled }, { 1, 1 })
end)

test("attempts are told with their times", function(t)
  local chain = pair(t, { wait = 9 }, { wait = 1, text = "hi" })
  local list = chain:ask("x").attempts
  t.eq(#list, 2)
  t.eq({ list[1].step, list[1].name, list[1].at, list[1].elapsed, list[1].cancelled, list[1].model },
    { 1, "mock/a", 0, 6, true, "a" })
  t.eq({ list[2].step, list[2].name, list[2].at, list[2].elapsed, list[2].cancelled, list[2].model },
    { 2, "mock/b", 5, 1, nil, "b" })
  t.ok(list[2].usage.output_tokens)
end)

test("the last success counts after failures of all kinds", function(t)
  local steps = {}
  for i, kind in ipairs { "server", "overloaded", "network", "quota", "auth", "rate_limited", "timeout", "protocol" } do
    steps[i] = t.model { { err = kind }, name = kind, timeout = { first_token = 2 } }
  end
  steps[#steps + 1] = t.model { { text = "at last" } }
  local reply = sluice.fallback(steps):ask "x"
  t.eq({ reply.text, reply.degraded.step, reply.degraded.why }, { "at last", 9, "protocol" })
  local kinds = {}
  for i, entry in ipairs(reply.attempts) do kinds[i] = entry.kind or "answered" end
  t.eq(kinds, { "server", "overloaded", "network", "quota", "auth", "rate_limited", "timeout", "protocol", "answered" })
end)

-- failsafe-go: only a certain result ends it ----------------------------------------------------------------

test("an answer that the check refuses does not cancel the others", function(t)
  local a, b = t.model { { wait = 9, text = "good" } }, t.model { { wait = 1, text = "bad" } }
  local chain = sluice.fallback { { a, after = 5 }, b, check = function(r) return r.text == "good", "not good" end }
  local reply = chain:ask "x"
  t.eq({ reply.text, t.clock(), a.calls }, { "good", 9, 1 })
  t.match(reply.attempts[1].message, "not good")
  t.ok(reply.attempts[1].usage.output_tokens) -- it was paid for
end)

test("the third result is the one: two refused before it", function(t)
  local chain = sluice.fallback {
    { t.model { { wait = 1, text = "1" } }, after = 0.1 },
    { t.model { { wait = 1, text = "2" } }, after = 0.1 },
    t.model { { wait = 1, text = "3" } },
    check = function(r) return r.text == "3" end,
  }
  local reply = chain:ask "x"
  t.eq({ reply.text, #reply.attempts }, { "3", 3 })
end)

-- Speaking is not silence -------------------------------------------------------------------------------------

test("a step that speaks is not hedged while its answer is held back", function(t)
  local a, b = t.model { { wait = 1, text = "a long answer in many pieces indeed", gap = 4 } }, t.model { { text = "b" } }
  local chain = sluice.fallback { { a, after = 5 }, b, check = function() return true end }
  local stream <close> = chain:stream "x"
  t.eq({ stream:reply().text, b.calls }, { "a long answer in many pieces indeed", 0 })
  t.eq(chain:ask("x").degraded, nil)
  t.eq(b.calls, 0)
end)

test("a step that breaks off after the others were stopped: they are asked again rather than nobody", function(t)
  local a, b = t.model { { wait = 7, text = "a" }, { wait = 1, text = "a again" } },
    t.model { { wait = 1, text = "b broken", cut = 3 } }
  local reply = sluice.fallback { { a, after = 5 }, b }:ask "x"
  t.eq({ reply.text, t.clock(), a.calls }, { "a again", 7, 2 })
  local kinds = {}
  for i, entry in ipairs(reply.attempts) do kinds[i] = entry.kind or entry.cancelled and "cancelled" or "answered" end
  t.eq(kinds, { "cancelled", "interrupted", "answered" })
end)

test("… but a step that was not asked yet comes first", function(t)
  local a, b = t.model { { wait = 7, text = "a" } }, t.model { { wait = 1, text = "b broken", cut = 3 } }
  local reply = sluice.fallback { { a, after = 5 }, b, function() return "c" end }:ask "x"
  t.eq({ reply.text, t.clock(), a.calls, reply.degraded.why }, { "c", 6, 1, "interrupted" })
end)

-- Paying --------------------------------------------------------------------------------------------------------

test("hedges are paid for; without quota none starts, but a failure is never kept from the next step", function(t)
  local b = t.model { { wait = 1, text = "b" }, retry = {} }
  while b:pay_hedge() do end
  local slow, broken = t.model { { wait = 9, text = "a" } }, t.model { { wait = 9, err = "server" } }
  t.eq(sluice.fallback { { slow, after = 5 }, b }:ask("x").text, "a")
  t.eq({ t.clock(), b.calls }, { 9, 0 })
  t.eq(sluice.fallback { { broken, after = 5 }, b }:ask("x").text, "b")
  t.eq({ t.clock(), b.calls }, { 19, 1 })
end)

test("without quota for a model, a rule behind it still speaks", function(t)
  local b = t.model { { text = "b" }, retry = {} }
  while b:pay_hedge() do end
  local reply = sluice.fallback { { t.model { { wait = 29 } }, after = 5 }, b, function() return "canned" end }:ask "x"
  t.eq({ reply.text, reply.degraded.step, t.clock(), b.calls }, { "canned", 3, 5, 0 })
end)

test("a hedge that wins gets back what was paid for it", function(t)
  local b = t.model { { text = "b" }, retry = {} }
  local before = b.quota.level
  sluice.fallback { { t.model { { wait = 29 } }, after = 5 }, b }:ask "x"
  t.eq(b.quota.level, before)
end)

-- Time limits -----------------------------------------------------------------------------------------------------

test("an ask that is streamed for the hedge's sake keeps an ask's time limit", function(t)
  local a = t.model { { wait = 1, text = ("word "):rep(200), gap = 5 } }
  local chain = sluice.fallback { { a, after = 5 }, function() return "canned" end }
  local reply = chain:ask "x"
  t.eq({ reply.text, t.clock() }, { "canned", 60 })
end)
