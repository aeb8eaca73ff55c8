-- Rates and the line of those who wait for them, on the virtual clock.
-- Reference figures: redis-cell's README, redis_rate's tests, SEMANTICS §5.
local T = require "harness"
local sluice = require "sluice"
local sys = require "sluice.core.sys"
local limiters = require "sluice.policy.limiter"
local rates = require "sluice.policy.rate"

local task = sluice.task
sys.virtual_clock(true)

local function make(opts) return limiters.make(opts) end

--- Takes one request's worth and lets it stand, like a request that was sent.
local function take(limiter, input, max_tokens, patience)
  local charge, waited = limiter:acquire(input or 0, max_tokens or 0, patience or 1e6, "max_wait")
  charge.state = "sent"
  return charge, waited
end

-- One rate ------------------------------------------------------------------------------------------

T.test("redis_rate: ten at once, then one every tenth of a second", function(t)
  local r = rates.new(600, 10)
  for _ = 1, 10 do
    t.near(r:wait(1, 1000), 0)
    r:charge(1, 1000)
  end
  t.near(r:wait(1, 1000), 0.1)
  t.near(r:wait(1, 1000.1), 0)
  t.near(r:wait(5, 1000), 0.5)
  t.near(r:left(1000), 0)
  t.near(r:left(1000.5), 5)
  t.near(r:left(2000), 10)
end)

T.test("redis-cell: 15 burst, 30 a minute: of 16, 15 remain, full again in 2 s", function(t)
  local r = rates.new(30, 16)
  r:charge(1, 2000)
  t.near(r:left(2000), 15)
  t.near(r.tat - 2000, 2)
end)

T.test("a cost above the burst is let through when all is free, and leaves debt", function(t)
  local r = rates.new(1000, 1000)
  t.eq(r:wait(5000, 3000), 0)
  r:charge(5000, 3000)
  t.near(r:left(3000), -4000)
  t.near(r:wait(1, 3000), 240.06, 1e-6)
  t.near(r:wait(5000, 3000), 300, 1e-6)
end)

T.test("settled in both directions", function(t)
  local r = rates.new(1000, 1000)
  r:charge(900, 4000)
  r:settle(100 - 900, 4000)
  t.near(r:left(4000), 900)
  r:charge(100, 4000)
  r:settle(400 - 100, 4000)
  t.near(r:left(4000), 500)
end)

T.test("what time has refilled is not refunded on top", function(t)
  local r = rates.new(600, 10)
  r:charge(10, 100)      -- full again at 101
  r:charge(10, 200)
  r:settle(-9, 100)
  t.near(r:left(200), 0, nil, "the refund of the first would be credit out of nothing")
  r:settle(-9, 200)
  t.near(r:left(200), 9)
end)

T.test("ten seconds' worth at once unless said otherwise, and one at least", function(t)
  t.near(rates.new(600).burst, 100)
  t.eq(rates.new(3).burst, 1)
  t.eq(rates.new(600, 0.2).burst, 1)
end)

T.test("what others are known to have used tightens, never loosens", function(t)
  local r = rates.new(600, 100)
  r:tighten(40, 10)
  t.near(r:left(10), 40)
  r:tighten(90, 10)
  t.near(r:left(10), 40)
  r:tighten(-5, 10)
  t.near(r:left(10), -5)
  t.near(r:left(11), 5)
end)

T.test("another limit keeps what was used", function(t)
  local r = rates.new(600, 100)
  r:charge(30, 10)
  r:adopt(60, 50, 10)
  t.near(r:left(10), 20)
  t.near(r:left(11), 21)
end)

-- Estimates -----------------------------------------------------------------------------------------

T.test("four bytes to a token and a tenth; images are not billed by their bytes", function(t)
  t.eq(limiters.input_tokens(("x"):rep(400)), 110)
  t.eq(limiters.input_tokens "", 0)
  local image = '{"type":"image_url","url":"data:image/png;base64,' .. ("iVBORw0K"):rep(100000) .. '"}'
  local tokens = limiters.input_tokens(image)
  t.ok(tokens > 1000 and tokens < 2000, tokens)
  t.eq(limiters.input_tokens('base64 is a word here'), 6)
end)

T.test("the output is what the answers had lately, at most max_tokens", function(t)
  local l = make { otpm = 1e6, burst = 60 }
  t.eq(take(l, 0, 4096).output, 4096, "providers reserve it")
  local unknown = l:acquire(0, nil, 1, "max_wait")
  t.eq(unknown.output, 1024)
  unknown:refund()
  for i = 1, 100 do take(l, 10, 4096):settle_by { input_tokens = 10, output_tokens = i } end
  local charge = take(l, 10, 4096)
  t.ok(charge.output >= 90 and charge.output <= 100, charge.output)
  t.eq(take(l, 10, 50).output, 50)
  for _ = 1, 100 do take(l, 10, 4096):settle_by { input_tokens = 10, output_tokens = 7 } end
  t.eq(take(l, 10, 4096).output, 7, "older ones are forgotten")
end)

-- Charges -------------------------------------------------------------------------------------------

T.test("the longest of all budgets decides, and then all are charged", function(t)
  local l = make { rpm = 60, tpm = 6000, burst = 10 } -- 10 requests, 1,000 tokens
  for _ = 1, 5 do take(l, 100, 50) end
  t.eq({ l:left().requests, l:left().tokens }, { 5, 250 })
  local began = task.now()
  local _, waited = take(l, 300, 50)
  t.near(waited, 1, 1e-3) -- 100 tokens short, 100 a second
  t.near(task.now() - began, 1, 1e-3)
  t.near(l:left().requests, 5, 1e-3) -- one used, one refilled
  t.near(l:left().tokens, 0, 1)
end)

T.test("Anthropic's limits: input and output apart, what came from the cache is free", function(t)
  local l = make { itpm = 6000, otpm = 600, burst = 60 }
  local charge = take(l, 1000, 100)
  t.eq({ l:left().input_tokens, l:left().output_tokens }, { 5000, 500 })
  charge:settle_by { input_tokens = 1500, cached_tokens = 1400, output_tokens = 20 }
  t.eq({ l:left().input_tokens, l:left().output_tokens }, { 5900, 580 })
  charge:settle_by { input_tokens = 9, output_tokens = 9 }
  t.eq(l:left().input_tokens, 5900, "once")
end)

T.test("one limit for all tokens counts the cached ones", function(t)
  local l = make { tpm = 6000, burst = 60 }
  take(l, 1000, 100):settle_by { input_tokens = 1500, cached_tokens = 1400, output_tokens = 20 }
  t.eq(l:left().tokens, 4480)
end)

T.test("without usage the input stays as estimated, and what was seen of the output counts", function(t)
  local l = make { itpm = 6000, otpm = 6000, burst = 60 }
  take(l, 1000, 500):settle_by({}, 400)
  t.eq({ l:left().input_tokens, l:left().output_tokens }, { 5000, 5890 })
  local early = take(l, 0, 500)
  early:settle_by({ input_tokens = 0, output_tokens = 1 }, 400, true) -- Anthropic's count at the start
  t.eq(l:left().output_tokens, 5780)
end)

T.test("closed before it was sent, all of it comes back; afterwards nothing does", function(t)
  local l = make { rpm = 60, tpm = 6000, burst = 60 }
  do
    local charge <close> = l:acquire(100, 100, 1, "max_wait") -- luacheck: ignore 211
    t.eq({ l:left().requests, l:left().tokens }, { 59, 5800 })
  end
  t.eq({ l:left().requests, l:left().tokens }, { 60, 6000 })
  do
    local charge <close> = l:acquire(100, 100, 1, "max_wait")
    charge.state = "sent"
  end
  t.eq({ l:left().requests, l:left().tokens }, { 59, 5800 })
end)

-- The line ------------------------------------------------------------------------------------------

T.test("first come, first served, at the rate and not in a herd", function(t)
  local l = make { rpm = 60, burst = 1 }
  local order, times, began = {}, {}, task.now()
  task.group(function(g)
    for i = 1, 5 do
      g:spawn(function()
        take(l)
        order[#order + 1], times[#times + 1] = i, task.now() - began
      end)
    end
  end)
  t.eq(order, { 1, 2, 3, 4, 5 })
  for i, at in ipairs(times) do t.near(at, i - 1, 1e-3) end
end)

T.test("a small request does not overtake a large one that was there before", function(t)
  local l = make { tpm = 6000, burst = 10 } -- 1,000 at once, 100 a second
  take(l, 1000)
  local order = {}
  task.group(function(g)
    for i, tokens in ipairs { 900, 1, 1 } do
      g:spawn(function()
        take(l, tokens)
        order[#order + 1] = i
      end)
    end
  end)
  t.eq(order, { 1, 2, 3 })
end)

T.test("what is free at once is no use to a newcomer while others wait", function(t)
  local l = make { rpm = 6000, tpm = 6000, burst = 10 }
  take(l, 1000)
  task.group(function(g)
    g:spawn(take, l, 500)
    task.yield()
    t.eq(l:try(0, 0), nil)
  end)
  t.ok(l:try(0, 0)):refund()
end)

T.test("who would wait for too long is told so at once", function(t)
  local l = make { rpm = 60, burst = 1 }
  take(l)
  local began = task.now()
  local err = t.raises("throttled", function() l:acquire(0, 0, 0.5, "patience") end)
  t.eq(task.now(), began)
  t.near(err.retry_after, 1, 1e-3)
  t.eq(err.code, "rate")
  t.match(err.message, "limit of 60 requests a minute lets this request through in 1%.0 s, and another step takes over after 0%.5 s")
  t.eq(l:left().waiting, 0)
  take(l, 0, 0, 2)
  t.near(task.now() - began, 1, 1e-3)
end)

T.test("the ones ahead in the line are reckoned with", function(t)
  local l = make { rpm = 60, burst = 1 }
  take(l)
  task.group(function(g)
    for _ = 1, 3 do g:spawn(take, l) end
    task.yield()
    t.eq(l:left().waiting, 3)
    local began = task.now()
    local err = t.raises("throttled", function() l:acquire(0, 0, 3.5, "max_wait") end)
    t.near(err.retry_after, 4, 1e-3)
    t.eq(task.now(), began)
    take(l, 0, 0, 4.5)
    t.near(task.now() - began, 4, 1e-3)
  end)
end)

T.test("failsafe-go: a waiter that is cancelled has been charged nothing, and the next one moves up", function(t)
  local l = make { rpm = 60, tpm = 60000, burst = 1 }
  take(l, 100)
  local began, second = task.now(), nil
  task.group(function(g)
    local first = g:spawn(take, l, 1000)
    g:spawn(function()
      take(l)
      second = task.now() - began
    end)
    task.sleep(0.5)
    t.eq(l:left().waiting, 2)
    local tokens = l:left().tokens
    first:cancel()
    task.yield()
    t.eq(l:left().waiting, 1)
    t.near(l:left().tokens, tokens, 1)
  end)
  t.near(second, 1, 1e-3)
end)

T.test("failsafe-go: a deadline that ends the wait for a rate", function(t)
  local l = make { rpm = 1 }
  take(l)
  local began = task.now()
  t.raises({ kind = "timeout", phase = "deadline" }, task.deadline, 0.1, function() l:acquire(0, 0, math.huge, "max_wait") end)
  t.near(task.now() - began, 0.1, 1e-3)
  t.eq(l:left().waiting, 0)
end)

T.test("the last in the line, one in the middle, and the first may leave", function(t)
  local l = make { rpm = 60, burst = 1 }
  take(l)
  local order = {}
  task.group(function(g)
    local handles = {}
    for i = 1, 5 do
      handles[i] = g:spawn(function()
        take(l)
        order[#order + 1] = i
      end)
    end
    task.yield()
    for _, i in ipairs { 3, 5, 1 } do
      handles[i]:cancel()
      task.yield()
    end
  end)
  t.eq(order, { 2, 4 })
  t.eq({ l.head, l.tail, l.waiting, l.queued_input, l.queued_output }, { nil, nil, 0, 0, 0 })
end)

T.test("what comes back wakes the head of the line", function(t)
  local l = make { tpm = 600, burst = 60 }
  local large = take(l, 600)
  local began, at = task.now(), nil
  task.group(function(g)
    g:spawn(function()
      take(l, 500)
      at = task.now() - began
    end)
    task.sleep(3)
    large:settle(10, 0)
  end)
  t.near(at, 3, 1e-3)
end)

-- Gates ---------------------------------------------------------------------------------------------

T.test("a 429 holds everybody back for the time it named", function(t)
  local l = make {}
  t.eq(l.active, false)
  l:gate(7)
  t.eq(l.active, true)
  local began, times = task.now(), {}
  task.group(function(g)
    for _ = 1, 3 do
      g:spawn(function()
        take(l)
        times[#times + 1] = task.now() - began
      end)
    end
  end)
  for i = 1, 3 do t.near(times[i], 7, 1e-3) end
  t.eq(l.active, false, "nothing to look at any more")
end)

T.test("behind the gate the rate meters them", function(t)
  local l = make { rpm = 60, burst = 1 }
  take(l)
  l:gate(5)
  local began, times = task.now(), {}
  task.group(function(g)
    for _ = 1, 3 do g:spawn(function() take(l) times[#times + 1] = task.now() - began end) end
  end)
  for i, want in ipairs { 5, 6, 7 } do t.near(times[i], want, 1e-3) end
end)

T.test("those in the line whose patience ends before the gate does are told at once", function(t)
  local l = make { rpm = 60, burst = 1 }
  take(l)
  local began, ended = task.now(), {}
  task.group(function(g)
    for i, patience in ipairs { 30, 3, 30 } do
      g:spawn(function()
        local ok, err = pcall(take, l, 0, 0, patience)
        ended[i] = { ok and "sent" or err.code, task.now() - began }
      end)
    end
    task.sleep(0.5)
    l:gate(20)
  end)
  t.eq({ ended[1][1], ended[2][1], ended[3][1] }, { "sent", "gate", "sent" })
  t.near(ended[2][2], 0.5, 1e-3)
  t.near(ended[1][2], 20.5, 1e-3)
  t.near(ended[3][2], 21.5, 1e-3)
end)

T.test("without a time the gate doubles from a second to twenty, and starts anew after an answer", function(t)
  local l = limiters.make({}, nil, function() return 1 end)
  for _, want in ipairs { 1, 2, 4, 8, 16, 20, 20 } do
    l:gate()
    t.near(l:left().gate, want, 1e-6)
    task.sleep(want)
  end
  l:succeeded()
  l:gate()
  t.near(l:left().gate, 1, 1e-6)
end)

T.test("a later and shorter 429 does not open the gate earlier", function(t)
  local l = make {}
  l:gate(10)
  l:gate(2)
  t.near(l:left().gate, 10, 1e-6)
end)

T.test("an empty account: everybody is told in the provider's words for a minute", function(t)
  local l = make { rpm = 60, burst = 1 }
  local empty = sluice.errors.new { kind = "quota", message = "insufficient balance" }
  take(l)
  local began, ended = task.now(), nil
  task.group(function(g)
    g:spawn(function()
      ended = t.raises("quota", take, l)
    end)
    task.sleep(0.2)
    l:gate_quota(empty)
  end)
  t.near(task.now() - began, 0.2, 1e-3)
  t.eq({ ended.code, ended.cause == empty }, { "gated", true })
  t.match(ended.message, "insufficient balance")
  task.sleep(59)
  local err = t.raises("quota", take, l)
  t.near(err.retry_after, 1, 0.01)
  task.sleep(1.1)
  take(l)
  t.eq(l.quota_error, nil)
end)

-- Learning ------------------------------------------------------------------------------------------

local function openai(fields)
  local headers = {}
  for key, value in pairs(fields) do headers["x-ratelimit-" .. key] = tostring(value) end
  return headers
end

T.test("a limit nobody set is adopted as the provider says it", function(t)
  local l = make {}
  l:learn(openai { ["limit-requests"] = 60, ["remaining-requests"] = 1, ["limit-tokens"] = 6000, ["remaining-tokens"] = 5000 })
  t.eq(l.active, true)
  t.eq({ l:left().requests, l:left().tokens }, { 1, 5000 })
  take(l)
  local _, waited = take(l)
  t.near(waited, 1, 1e-3)
  l:learn(openai { ["limit-requests"] = 600, ["remaining-requests"] = 599 })
  local budget = l.budgets[1]
  t.eq({ budget.name, budget.rate.limit }, { "requests", 600 })
end)

T.test("a limit that was set stays, and what remains only tightens", function(t)
  local l = make { rpm = 60, burst = 60 }
  l:learn(openai { ["limit-requests"] = 6000, ["remaining-requests"] = 5000 })
  t.eq({ l.budgets[1].rate.limit, l:left().requests }, { 60, 60 })
  l:learn(openai { ["remaining-requests"] = 3 })
  t.eq(l:left().requests, 3)
  l:learn(openai { ["remaining-requests"] = 40 })
  t.eq(l:left().requests, 3)
end)

T.test("what was sent after the request is not in its reply's count", function(t)
  local l = make { rpm = 60, tpm = 6000, burst = 60 }
  local first = take(l, 100)
  take(l, 200) take(l, 300)
  l:learn(openai { ["remaining-requests"] = 10, ["remaining-tokens"] = 1000 }, first)
  t.eq({ l:left().requests, l:left().tokens }, { 8, 500 })
end)

T.test("Anthropic's headers", function(t)
  local l = make {}
  l:learn { ["anthropic-ratelimit-requests-limit"] = "50", ["anthropic-ratelimit-requests-remaining"] = "49",
    ["anthropic-ratelimit-input-tokens-limit"] = "30000", ["anthropic-ratelimit-input-tokens-remaining"] = "20000",
    ["anthropic-ratelimit-output-tokens-limit"] = "8000", ["anthropic-ratelimit-output-tokens-remaining"] = "8000" }
  local left = l:left()
  for name, want in pairs { requests = 49, input_tokens = 20000, output_tokens = 8000 } do t.near(left[name], want, 1e-6) end
end)

T.test("a request from before a limit was learnt settles nothing on it", function(t)
  local l = make { rpm = 600, burst = 60 }
  local before = take(l, 1000, 1000)
  task.sleep(0.001)
  l:learn(openai { ["limit-tokens"] = 6000, ["remaining-tokens"] = 100 })
  before:settle(5000, 1)
  t.near(l:left().tokens, 100, 1)
end)

T.test("learning can be turned off; headers that say nothing teach nothing", function(t)
  local l = make { learn = false }
  l:learn(openai { ["limit-requests"] = 1, ["remaining-requests"] = 0 })
  t.eq(l.active, false)
  l = make {}
  l:learn(openai { ["limit-requests"] = 0, ["remaining-requests"] = -1, ["limit-tokens"] = "many" })
  l:learn {}
  t.eq(l.active, false)
end)

T.test("a tightened limit reaches those who wait already", function(t)
  local l = make { tpm = 6000, burst = 30 }
  take(l, 3000)
  local began, ended = task.now(), nil
  task.group(function(g)
    g:spawn(function()
      local err = t.raises("throttled", take, l, 400, 0, 4.2) -- enough for what is known now: 4 s
      ended = { err.code, task.now() - began }
    end)
    task.sleep(0.5)
    l:learn(openai { ["remaining-tokens"] = 0 })
  end)
  t.eq(ended[1], "rate")
  t.near(ended[2], 0.5, 1e-3)
end)

-- Made by scripts -----------------------------------------------------------------------------------

T.test("sluice.limit: options are checked", function(t)
  local l = sluice.limit { concurrency = 2, rpm = 60, tpm = 6000 }
  t.eq({ l:left().concurrency, l:left().requests, l:left().tokens }, { 2, 10, 1000 })
  t.match(tostring(l), "limit %(2 at once, 60 requests a minute, 6000 tokens a minute%)")
  t.ok(limiters.is(l))
  t.eq({ limiters.is {}, limiters.is(nil), limiters.is "x" }, { false, false, false })
  t.raises("sluice.limit: unknown option 'rmp' %(did you mean 'rpm'%?%)", sluice.limit, { rmp = 1 })
  t.raises("option 'rpm' must be a number above 0, got 0", sluice.limit, { rpm = 0 })
  t.raises("option 'concurrency' must be an integer", sluice.limit, { concurrency = 0 })
end)

T.test("chaos: whatever comes, nothing is left in the line and no more is let through than the rate allows", function(t)
  local l = make { rpm = 600, tpm = 60000, burst = 2 } -- 20 requests or 2,000 tokens at once
  local began, sent, refused, gone = task.now(), {}, 0, 0
  task.group(function(g)
    local handles = {}
    for i = 1, 400 do
      handles[i] = g:spawn(function()
        task.sleep(math.random() * 20)
        local input = math.random(1, 300)
        local ok, charge = pcall(l.acquire, l, input, 0, math.random() * 8, "max_wait")
        if not ok then refused = refused + 1 return end
        local guard <close> = charge -- luacheck: ignore 211
        if math.random() < 0.1 then return end -- never sent: refunded
        charge.state = "sent"
        sent[#sent + 1] = task.now() - began
        if math.random() < 0.5 then charge:settle(input * math.random(), 0) end
      end)
    end
    for _ = 1, 60 do
      task.sleep(math.random() * 0.5)
      handles[math.random(1, 400)]:cancel()
      gone = gone + 1
      if math.random() < 0.05 then l:gate(math.random()) end
    end
  end)
  t.eq({ l.head, l.tail, l.waiting, l.queued_input, l.queued_output }, { nil, nil, 0, 0, 0 })
  t.ok(#sent > 100, #sent .. " were sent")
  table.sort(sent)
  for i = 1, #sent do -- in any span no more than burst + rate
    for j = i + 20, #sent, 7 do
      local span = sent[j] - sent[i]
      t.ok(j - i + 1 <= 20 + 10 * span + 1, ("%d in %.3f s"):format(j - i + 1, span))
    end
  end
end)

T.done()
