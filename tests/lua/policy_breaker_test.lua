-- The circuit breaker, on a clock of its own.
-- Cases named after where they come from: resilience4j's CircuitBreakerStateMachineTest, sony/gobreaker's
-- gobreaker_test, HystrixCircuitBreakerTest, Polly's CircuitStateController tests.
local T = require "harness"
local breakers = require "sluice.policy.breaker"

local now = 1000
local function clock() return now end

local function make(opts, random)
  local all = { volume = 20, error_rate = 0.5, window = 10, sleep_window = 5, trip_after = false, probes = 1, jitter = 0 }
  for key, value in pairs(opts or {}) do all[key] = value end
  return breakers.new("test", all, clock, random or function() return 0.5 end)
end

--- One call that takes no time on the clock; false when it was refused.
local function call(b, outcome, took)
  local permit = b:enter()
  if not permit then return false end
  local guard <close> = permit.guard -- luacheck: ignore 211
  if outcome == "ok" then permit:success(took)
  elseif outcome == "fail" then permit:failure(took, "boom")
  elseif outcome == "neutral" then permit:neutral()
  else error("no such outcome") end
  return true
end

local function calls(b, ...)
  for _, outcome in ipairs { ... } do call(b, outcome) end
end

local function counts(b)
  local c = b:counts()
  return { c.calls, c.failures, c.slow, c.consecutive }
end

local function r4j(opts)
  local all = { window = 20, buckets = 20, volume = 5, slow = 4, slow_rate = 0.5, probes = 4, sleep_max = 5 }
  for key, value in pairs(opts or {}) do all[key] = value end
  return make(all)
end

--- Open and past its sleep.
local function half_open(b)
  b:open(5)
  now = now + 5
  assert(b:state() == "half")
  return b
end

-- resilience4j --------------------------------------------------------------------------------------

T.test("resilience4j: opens at 60 % with the fifth call, a success", function(t)
  local b = r4j()
  for i, outcome in ipairs { "fail", "fail", "fail", "ok", "ok" } do
    t.eq(b:state(), "closed", "before call " .. i)
    t.ok(call(b, outcome))
  end
  t.eq(b:state(), "open")
  t.eq(call(b, "ok"), false)
  t.match(b:reason(), "^3 of 5 calls failed")
end)

T.test("resilience4j: three successes and two failures stay closed, the next failure opens (3/6)", function(t)
  local b = r4j()
  for _, outcome in ipairs { "ok", "ok", "ok", "fail", "fail" } do
    call(b, outcome)
    now = now + 1
  end
  t.eq(b:state(), "closed")
  call(b, "fail")
  t.eq(b:state(), "open")
end)

T.test("resilience4j: the rate of slow calls opens it, failed or not", function(t)
  local b = r4j { error_rate = 0.9 }
  call(b, "fail", 5) call(b, "ok", 5) call(b, "fail", 0.1) call(b, "ok", 0.1)
  t.eq(b:state(), "closed")
  t.eq(counts(b), { 4, 2, 2, 0 })
  call(b, "ok", 5)
  t.eq(b:state(), "open")
  t.match(b:reason(), "3 of 5 calls took more than 4 s")
end)

T.test("resilience4j: a call of exactly the limit is not slow", function(t)
  local b = r4j()
  for _ = 1, 10 do call(b, "ok", 4) end
  t.eq({ b:state(), b:counts().slow }, { "closed", 0 })
end)

T.test("resilience4j: half open, fail fail ok fail is 75 % and opens again", function(t)
  local b = half_open(r4j())
  calls(b, "fail", "fail", "ok")
  t.eq(b:state(), "half")
  call(b, "fail")
  t.eq(b:state(), "open")
end)

T.test("resilience4j: half open, fail ok ok ok is 25 % and closes, counting from nothing", function(t)
  local b = half_open(r4j())
  calls(b, "fail", "ok", "ok")
  t.eq(b:state(), "half")
  call(b, "ok")
  t.eq(b:state(), "closed")
  t.eq(counts(b), { 0, 0, 0, 0 })
  call(b, "ok")
  t.eq(counts(b), { 1, 0, 0, 0 })
end)

T.test("resilience4j: half open, three slow of four without a failure opens again", function(t)
  local b = half_open(r4j())
  for _ = 1, 3 do call(b, "ok", 5) end
  t.eq(b:state(), "half")
  call(b, "ok", 1)
  t.eq(b:state(), "open")
end)

T.test("resilience4j: only four permits while half open; a released one can be used again", function(t)
  local b = half_open(r4j())
  local permits = {}
  for i = 1, 4 do permits[i] = t.ok(b:enter()) end
  t.eq(b:enter(), nil)
  t.eq(b:peek(), true)
  permits[1]:neutral()
  t.eq(b:peek(), false)
  local again = t.ok(b:enter())
  t.eq(b:enter(), nil)
  again:success() permits[2]:success() permits[3]:success()
  t.eq(b:state(), "half")
  permits[4]:success()
  t.eq(b:state(), "closed")
end)

T.test("resilience4j: opened and half open anew, there are four permits again", function(t)
  local b = half_open(r4j())
  for _ = 1, 4 do t.ok(b:enter()) end
  t.eq(b:enter(), nil)
  half_open(b)
  for _ = 1, 4 do t.ok(b:enter()) end
  t.eq(b:enter(), nil)
end)

T.test("resilience4j: an ignored error while half open gives its place back and changes nothing", function(t)
  local b = half_open(r4j())
  calls(b, "ok", "ok", "ok", "neutral")
  t.eq(b:state(), "half")
  t.eq(counts(b), { 3, 0, 0, 0 })
  call(b, "fail") -- 25 %
  t.eq(b:state(), "closed")
end)

T.test("resilience4j: ignored errors for ever, then four successes close it", function(t)
  local b = half_open(r4j())
  for _ = 1, 40 do
    t.ok(call(b, "neutral"))
    t.eq(b:state(), "half")
  end
  for _ = 1, 3 do call(b, "ok") t.eq(b:state(), "half") end
  call(b, "ok")
  t.eq(b:state(), "closed")
end)

T.test("resilience4j: the wait doubles: 5 s, then 10 s, still open at +6 s", function(t)
  local b = make { trip_after = 1, probes = 1 }
  call(b, "fail")
  now = now + 3
  t.eq({ b:state(), call(b, "ok") }, { "open", false })
  now = now + 3
  t.eq(b:state(), "half")
  call(b, "fail")
  t.eq(b:state(), "open")
  now = now + 6
  t.eq({ b:state(), call(b, "ok") }, { "open", false })
  now = now + 5
  t.eq(b:state(), "half")
end)

T.test("resilience4j: a raising predicate does not leak its permit", function(t)
  local b = half_open(make { probes = 1 })
  for _ = 1, 5 do
    t.raises("predicate", function()
      local permit = assert(b:enter())
      local guard <close> = permit.guard -- luacheck: ignore 211
      t.eq(b:peek(), true, "taken")
      error "the predicate raised"
    end)
    t.eq({ b:state(), b:peek() }, { "half", false })
  end
  call(b, "ok")
  t.eq(b:state(), "closed")
end)

T.test("resilience4j: reset, forced open and disabled", function(t)
  local b = r4j()
  calls(b, "ok", "fail")
  b:reset()
  t.eq({ b:state(), b:counts().calls }, { "closed", 0 })
  b:open()
  t.eq(b:state(), "forced_open")
  now = now + 1e6
  t.eq({ b:state(), call(b, "ok") }, { "forced_open", false })
  t.eq(b:reason(), "it was opened by hand")
  b:disable()
  for _ = 1, 50 do t.ok(call(b, "fail", 100)) end
  t.eq({ b:state(), b:counts().calls, b:counts().failures }, { "disabled", 0, 0 })
  b:close()
  t.eq(b:state(), "closed")
  for _ = 1, 5 do call(b, "fail") end
  t.eq(b:state(), "open", "it counts again")
end)

-- gobreaker -----------------------------------------------------------------------------------------

local function gobreaker()
  return make { window = 1e9, volume = 1000000, trip_after = 6, sleep_window = 60, sleep_max = 60 }
end

T.test("gobreaker: five failures, a success, five failures are closed; the sixth in a row opens", function(t)
  local b = gobreaker()
  calls(b, "fail", "fail", "fail", "fail", "fail")
  t.eq(b:state(), "closed")
  t.eq(counts(b), { 5, 5, 0, 5 })
  call(b, "ok")
  t.eq(counts(b), { 6, 5, 0, 0 })
  calls(b, "fail", "fail", "fail", "fail", "fail")
  t.eq(b:state(), "closed")
  call(b, "fail")
  t.eq(b:state(), "open")
  t.eq({ call(b, "ok"), call(b, "fail") }, { false, false })
  now = now + 59
  t.eq(b:state(), "open")
  now = now + 0.999
  t.eq(b:state(), "open")
  now = now + 0.001
  t.eq(b:state(), "half")
  call(b, "fail")
  t.eq(b:state(), "open")
  now = now + 60
  t.eq(b:state(), "half")
  call(b, "ok")
  t.eq(b:state(), "closed")
  t.eq(counts(b), { 0, 0, 0, 0 })
end)

T.test("gobreaker: a result from an older generation is ignored", function(t)
  local b = make { trip_after = 2, probes = 2, timed = true, slow_rate = 0.9, slow = 1e6 }
  local old_ok, old_fail = b:enter(), b:enter()
  calls(b, "fail", "fail")
  t.eq(b:state(), "open")
  local before = b.open_until
  old_fail:failure(nil, "late")
  t.eq(b.open_until, before, "a late failure does not extend it (Polly 223)")
  t.eq(b.opens, 1, "nor open it twice")
  now = now + 5
  t.eq(b:state(), "half")
  old_ok:success()
  t.eq({ b:state(), b:counts().calls }, { "half", 0 })
  local probe = b:enter()
  old_fail:neutral()
  t.eq(b.outstanding, 1, "a stale neutral gives no place back that it did not take")
  probe:success()
  call(b, "ok")
  t.eq(b:state(), "closed")
end)

T.test("gobreaker: the shared permit of a generation that is over reports nothing", function(t)
  local b = make { trip_after = 2 }
  local stale = b:enter()
  t.ok(stale == b:enter(), "closed calls share one permit")
  calls(b, "fail", "fail")
  now = now + 5
  t.eq(b:state(), "half")
  stale:failure() stale:success() stale:neutral() stale:broke()
  t.eq({ b:state(), b.outstanding, b.done }, { "half", 0, 0 })
end)

T.test("gobreaker: 60 % of at least three; three probes, a fourth is refused", function(t)
  local b = make { window = 30, buckets = 1, volume = 3, error_rate = 0.6, probes = 3, sleep_window = 90, sleep_max = 90 }
  now = now - now % 30
  b:reset()
  for _ = 1, 5 do calls(b, "ok", "fail") end
  t.eq(b:state(), "closed")
  t.eq(counts(b), { 10, 5, 0, 1 })
  now = now + 29
  call(b, "ok")
  t.eq(counts(b), { 11, 5, 0, 0 })
  now = now + 1 -- over the interval
  call(b, "fail")
  t.eq(counts(b), { 1, 1, 0, 1 })
  calls(b, "ok", "fail") -- 2/3
  t.eq(b:state(), "open")
  now = now + 90
  t.eq(b:state(), "half")
  calls(b, "ok", "ok")
  t.eq({ b:state(), b:counts().calls }, { "half", 2 })
  local third = b:enter()
  t.eq(call(b, "ok"), false, "over the number of probes")
  third:success()
  t.eq({ b:state(), b:counts().calls }, { "closed", 0 })
end)

T.test("gobreaker: a rolling window drops only the bucket that is over", function(t)
  local b = make { window = 30, volume = 3, error_rate = 0.6 }
  now = now - now % 3
  b:reset()
  for _ = 1, 5 do calls(b, "ok", "fail") end
  t.eq(counts(b), { 10, 5, 0, 1 })
  now = now + 3 call(b, "ok")
  t.eq(counts(b), { 11, 5, 0, 0 })
  now = now + 2 call(b, "ok")
  t.eq(counts(b), { 12, 5, 0, 0 })
  now = now + 2 call(b, "ok")
  now = now + 2 call(b, "fail")
  t.eq(counts(b), { 14, 6, 0, 1 })
  for i = 0, 5 do -- fill all the buckets
    now = now + 3
    calls(b, "ok", "fail")
    t.eq(counts(b), { 16 + 2 * i, 7 + i, 0, 1 }, "bucket " .. i)
  end
  now = now + 3 -- the first bucket, 5 of 10, leaves
  call(b, "fail")
  t.eq(counts(b), { 17, 8, 0, 2 })
  for i = 0, 4 do
    call(b, "fail")
    t.eq(counts(b), { 18 + i, 9 + i, 0, 3 + i })
  end
  t.eq(b:state(), "closed")
  call(b, "fail") -- 14 of 23
  t.eq(b:state(), "open")
end)

T.test("a window with nothing left in it counts from nothing, however long it was silent", function(t)
  local b = make { volume = 2, error_rate = 1 }
  call(b, "fail")
  for _, gap in ipairs { 10, 11, 100, 1e5, 1e9 } do
    now = now + gap
    t.eq(b:counts().calls, 0, gap)
    call(b, "ok")
    t.eq(counts(b), { 1, 0, 0, 0 })
  end
end)

T.test("gobreaker: exclusions are neither success nor failure, and eat no probe", function(t)
  local b = make { trip_after = 3, probes = 2 }
  calls(b, "fail", "fail", "neutral")
  t.eq(counts(b), { 2, 2, 0, 2 }, "not counted, and no end of the row")
  call(b, "fail")
  t.eq(b:state(), "open")
  now = now + 5
  for _ = 1, 10 do t.ok(call(b, "neutral")) end
  calls(b, "ok", "ok")
  t.eq(b:state(), "closed")
end)

-- Hystrix -------------------------------------------------------------------------------------------

T.test("Hystrix: a low volume never trips by its rate", function(t)
  local b = make()
  for _ = 1, 19 do call(b, "fail") end
  t.eq(b:state(), "closed")
  call(b, "fail")
  t.eq(b:state(), "open")
end)

T.test("Hystrix: half of the calls trip it, fewer do not", function(t)
  local b = make()
  for i = 1, 100 do call(b, i * 9 % 20 < 9 and "fail" or "ok") end
  t.eq(b:state(), "closed", "45 %")
  b = make()
  for i = 1, 20 do call(b, i % 2 == 0 and "fail" or "ok") end
  t.eq(b:state(), "open", "50 %")
end)

T.test("Hystrix: a cancelled probe does not leave it half open for ever (Polly 1979)", function(t)
  local b = make { trip_after = 4 }
  calls(b, "fail", "fail", "fail", "fail")
  now = now + 5
  do
    local permit = t.ok(b:enter())
    local guard <close> = permit.guard -- luacheck: ignore 211
    t.eq(call(b, "ok"), false)
  end -- left without a word
  t.eq(b:state(), "half")
  t.ok(call(b, "ok"))
  t.eq(b:state(), "closed")
end)

T.test("Hystrix: success closes it under load; after a window of health the rate is the new one", function(t)
  local b = make { trip_after = 5 }
  local refused, answered = 0, 0
  local function load(n, failing)
    for _ = 1, n do
      now = now + 0.04
      local permit = b:enter()
      if permit then
        answered = answered + 1
        if failing then permit:failure() else permit:success() end
      else
        refused = refused + 1
      end
    end
  end
  load(200, false)
  t.eq({ b:state(), refused }, { "closed", 0 })
  load(250, true) -- 10 s
  t.ok(b:state() ~= "closed")
  t.ok(refused > 200, "hardly any call went through")
  answered = 0
  load(600, false) -- 24 s
  t.eq(b:state(), "closed")
  t.ok(answered > 100)
end)

-- Polly ---------------------------------------------------------------------------------------------

T.test("Polly: late failures of calls from before the opening neither open it twice nor extend it", function(t)
  local b = make { trip_after = 3 }
  local permits = {}
  for i = 1, 10 do permits[i] = b:enter() end
  for i = 1, 3 do permits[i]:failure(nil, "x") end
  t.eq(b:state(), "open")
  now = now + 4
  for i = 4, 10 do permits[i]:failure(nil, "late") end
  t.eq({ b.opens, select(2, b:peek()) }, { 1, 1 })
  now = now + 1
  t.eq(b:state(), "half")
end)

T.test("Polly: a late success of such a call does not close it", function(t)
  local b = make { trip_after = 1 }
  local early = b:enter()
  call(b, "fail")
  early:success()
  t.eq(b:state(), "open")
end)

T.test("Polly: opened by hand, outcomes change nothing (Isolated)", function(t)
  local b = make { trip_after = 1 }
  local permit = b:enter()
  b:open()
  permit:failure()
  permit:success()
  t.eq(b:state(), "forced_open")
end)

-- Ours ----------------------------------------------------------------------------------------------

T.test("a refusal says how long to wait, and quotes the last failure", function(t)
  local b = make { trip_after = 2 }
  call(b, "fail")
  b:enter():failure(nil, { kind = "server", message = "out of cheese" })
  local refused, wait = b:peek()
  t.eq({ refused, wait }, { true, 5 })
  now = now + 2
  local permit, left = b:enter()
  t.eq({ permit == nil, left }, { true, 3 })
  t.eq(b:reason(), "2 calls in a row failed, the last with server: out of cheese")
  t.eq(b:counts(), { state = "open", calls = 0, failures = 0, slow = 0, consecutive = 0, wait = 3,
    why = "2 calls in a row failed" })
end)

T.test("the sleep doubles with every failed probe to a minute, with a tenth of chance, and starts anew", function(t)
  for _, case in ipairs { { 0, 0.9 }, { 0.5, 1 }, { 0.999999, 1.1 } } do
    local b = make({ trip_after = 1, jitter = 0.1 }, function() return case[1] end)
    call(b, "fail")
    for _, want in ipairs { 5, 10, 20, 40, 60, 60, 60 } do
      local _, wait = b:peek()
      t.near(wait, want * case[2], 1e-3)
      now = now + wait
      t.eq(b:state(), "half")
      call(b, "fail")
      t.eq(b:state(), "open")
    end
    now = now + select(2, b:peek())
    call(b, "ok")
    t.eq(b:state(), "closed")
    call(b, "fail")
    t.near(select(2, b:peek()), 5 * case[2], 1e-3)
  end
end)

T.test("a sleep window of more than a minute is kept, not shortened", function(t)
  local b = make { trip_after = 1, sleep_window = 300 }
  for _ = 1, 3 do
    call(b, "fail")
    t.eq(select(2, b:peek()), 300)
    now = now + 300
  end
end)

T.test("probes that nobody reports are all that is let through", function(t)
  local b = half_open(make { probes = 3 })
  local n = 0
  while b:enter() do n = n + 1 end
  t.eq(n, 3)
end)

T.test("a broken stream adds one failure; at the commit it had been a success", function(t)
  local b = make { volume = 4 }
  local permits = {}
  for i = 1, 3 do
    permits[i] = b:enter()
    permits[i]:success(0.1)
  end
  t.eq(counts(b), { 3, 0, 0, 0 })
  permits[1]:broke "cut"
  t.eq(counts(b), { 4, 1, 0, 1 })
  permits[2]:broke "cut"
  t.eq(b:state(), "closed")
  permits[3]:broke "cut" -- 3 of 6
  t.eq(b:state(), "open")
  t.match(b:reason(), "3 of 6 calls failed, the last with cut")
end)

T.test("the stream of the probe that closed it may break, too", function(t)
  local b = half_open(make { trip_after = 1 })
  local probe = b:enter()
  probe:success()
  t.eq(b:state(), "closed")
  probe:broke "cut"
  t.eq(b:state(), "open")
end)

T.test("a broken stream from before the opening counts no more", function(t)
  local b = make { trip_after = 1 }
  local early = b:enter()
  early:success()
  call(b, "fail")
  early:broke "cut"
  now = now + 5
  call(b, "ok")
  early:broke "cut"
  t.eq({ b:state(), b:counts().calls }, { "closed", 0 })
end)

T.test("what was cut short counts when it had been slow by then", function(t)
  local b = make { volume = 2, slow = 5, slow_rate = 0.5 }
  local quick = b:enter()
  quick:abandoned(4.9)
  t.eq(b:counts().calls, 0, "not slow yet: neutral")
  local slow = b:enter()
  t.ok(slow.guard, "such a breaker watches every call")
  slow:abandoned(6)
  t.eq(counts(b), { 1, 0, 1, 0 })
  slow:abandoned(6)
  t.eq(b:counts().calls, 1, "once")
  b:enter():abandoned(6)
  t.eq(b:state(), "open")
  t.match(b:reason(), "2 of 2 calls took more than 5 s")
end)

T.test("without slow_rate only a deadline makes an abandoned slow call count, as a failure", function(t)
  local b = make { volume = 2, slow = 5, watch_slow = true }
  b:enter():abandoned(6)
  t.eq(b:counts().calls, 0)
  b:enter():abandoned(6, true)
  t.eq(counts(b), { 1, 1, 0 + 1, 1 })
  b:enter():abandoned(4, true)
  t.eq(b:counts().calls, 1)
end)

T.test("a permit is ended once", function(t)
  local b = half_open(make { probes = 2 })
  local one = b:enter()
  one:success() one:success() one:failure() one:neutral()
  t.eq({ b.done, b.outstanding, b:state() }, { 1, 0, "half" })
end)

T.test("one for an address, a name and options, in the whole process", function(t)
  local opts = { volume = 20, error_rate = 0.5, window = 10, sleep_window = 5, trip_after = 5, slow = 30, probes = 1 }
  local function copy(changes)
    local c = {}
    for key, value in pairs(opts) do c[key] = value end
    for key, value in pairs(changes or {}) do c[key] = value end
    return c
  end
  if not pcall(require, "sluice.core.task") then t.skip "needs the runtime's clock" end
  local a = breakers.of("http://x/v1", "p/m", copy())
  t.ok(a == breakers.of("http://x/v1", "p/m", copy()))
  t.ok(a ~= breakers.of("http://y/v1", "p/m", copy()))
  t.ok(a ~= breakers.of("http://x/v1", "p/n", copy()))
  t.ok(a ~= breakers.of("http://x/v1", "p/m", copy { volume = 21 }))
  t.eq(a.name, "p/m")
  t.match(tostring(a), "breaker of p/m %(closed%)")
  a:open()
  for i = 1, 3000 do breakers.of("http://x/v1", "p/many-" .. i, copy()) end
  t.ok(a == breakers.of("http://x/v1", "p/m", copy()), "an open one is never forgotten")
end)

T.done()
