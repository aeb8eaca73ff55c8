-- A model's policies together: their order, what each failure does to each of them, what is given back; on scripted
-- models and the virtual clock. Over real sockets: policy_wire_test.lua.
local T = require "harness"
local sluice = require "sluice"
local sys = require "sluice.core.sys"
local rehearsal = require "sluice.test"

local task = sluice.task

sys.virtual_clock(true)

--- A test on models that answer as scripted, none of which has a past.
local function scripted(name, body)
  T.test(name, function(t)
    local context = rehearsal.begin()
    return body(t, function(script) return context.model(script) end)
  end)
end

local function elapsed_of(f, ...)
  local began = task.now()
  f(...)
  return task.now() - began
end

local RETRY = { attempts = 3 }

scripted("a plain reply tells of its one attempt", function(t, make)
  local model = make { { text = "hi", wait = 2, usage = { prompt_tokens = 5, completion_tokens = 2, total_tokens = 7 } } }
  local reply = model:ask "x"
  t.eq(reply.attempts, { { provider = "mock", model = model.opts.model, elapsed = 2.0, usage = reply.usage,
    cost = 0.0, currency = "USD" } })
  t.eq(reply.usage.total_tokens, 7)
  t.eq(reply.elapsed, 2)
end)

scripted("an error tells of all attempts, and of the time of all of them", function(t, make)
  local model = make { { err = "server", wait = 1 }, { err = "network", wait = 2 }, { err = "overloaded" }, retry = RETRY }
  local began = task.now()
  local err = t.raises("overloaded", model.ask, model, "x")
  t.near(err.elapsed, task.now() - began, 1e-5)
  local kinds, waits = {}, 0
  for i, a in ipairs(err.attempts) do
    kinds[i] = a.kind
    waits = waits + (a.waited or 0)
  end
  t.eq(kinds, { "server", "network", "overloaded" })
  t.near(err.elapsed, 3 + waits, 1e-5)
  t.eq({ err.attempts[1].waited, err.attempts[1].status, err.attempt }, { nil, 500, 3 })
end)

scripted("Retry-After is waited for, and one that is too long is not", function(t, make)
  local model = make { { err = "rate_limited", retry_after = 7 }, { text = "ok" }, retry = RETRY }
  local took = elapsed_of(model.ask, model, "x")
  t.ok(took >= 7 and took <= 7.71, took)
  model = make { { err = "rate_limited", retry_after = 61 }, { text = "ok" }, retry = RETRY }
  local began = task.now()
  local err = t.raises("rate_limited", model.ask, model, "x")
  t.eq({ task.now() - began, err.retry_after, model.calls }, { 0, 61, 1 })
end)

scripted("a deadline that a wait would pass is not waited for", function(t, make)
  local model = make { { err = "rate_limited", retry_after = 10 }, { text = "ok" }, retry = RETRY }
  local began = task.now()
  t.raises("rate_limited", task.deadline, 9, model.ask, model, "x")
  t.eq({ task.now() - began, model.calls }, { 0, 1 })
  model = make { { err = "server", wait = 4 }, { text = "ok" }, retry = RETRY }
  began = task.now()
  t.raises("server", task.deadline, 6, model.ask, model, "x")
  t.near(task.now() - began, 4, 1e-5, "two seconds are no time for another attempt of a call that had six")
  model = make { { err = "server" }, { text = "ok" }, retry = RETRY }
  t.eq(task.deadline(3, model.ask, model, "x").text, "ok", "a short deadline has time for a retry, too")
end)

scripted("patience: no wait longer than the next step's", function(t, make)
  local model = make { { err = "rate_limited", retry_after = 5 }, { text = "ok" }, retry = RETRY }
  local began = task.now()
  t.raises("rate_limited", model.ask, model, "x", { patience = 3 })
  t.eq(task.now(), began)
  model = make { { err = "rate_limited", retry_after = 5 }, { text = "ok" }, retry = RETRY }
  t.eq(model:ask("x", { patience = 6 }).text, "ok")
  model = make { { text = "ok" }, limit = { rpm = 6, burst = 1 } }
  model:ask "x"
  began = task.now()
  local err = t.raises({ kind = "throttled", code = "rate" }, model.ask, model, "x", { patience = 3 })
  t.eq({ task.now() - began, err.provider, err.model, model.calls }, { 0, "mock", model.opts.model, 1 })
  t.near(err.retry_after, 10, 0.01)
end)

scripted("timeout.total holds for all attempts together", function(t, make)
  local model = make { { err = "server", wait = 6 }, { text = "late", wait = 8 }, retry = { attempts = 3, base = 0 },
    timeout = { total = 12, first_token = 0, connect = 1 } }
  local began = task.now()
  local err = t.raises("timeout", model.ask, model, "x")
  t.eq({ err.phase, model.calls }, { "total", 2 })
  t.near(task.now() - began, 12, 0.01)
  t.near(err.elapsed, 12, 0.01)
end)

scripted("a timeout.total of 0 is none, for retries, too", function(t, make)
  local model = make { { err = "server", wait = 500 }, { text = "late", wait = 500 }, retry = RETRY,
    timeout = { total = 0, first_token = 0 } }
  t.eq(model:ask("x").text, "late")
end)

scripted("a second attempt waits for no rate that timeout.total has no time for", function(t, make)
  local model = make { { err = "server", wait = 5 }, { text = "late" }, retry = { attempts = 2, base = 0 },
    limit = { rpm = 3, burst = 1 }, timeout = { total = 18 } }
  local began = task.now()
  local err = t.raises("throttled", model.ask, model, "x")
  t.match(err.message, "in 15 s, and timeout%.total leaves 13 s")
  t.near(task.now() - began, 5, 1e-3)
  t.eq({ err.cause.kind, #err.attempts }, { "server", 2 })
end)

scripted("what was waited for a place is not on the clock of the call", function(t, make)
  local model = make { { text = "a", wait = 8 }, limit = { concurrency = 1 }, timeout = { total = 10 } }
  local replies = task.map({ 1, 2, 3 }, function() return model:ask "x" end)
  for i, reply in ipairs(replies) do
    t.near(reply.elapsed, 8 * i, 1e-3)
    t.near(reply.attempts[1].elapsed, 8, 1e-3)
    if i > 1 then t.near(reply.attempts[1].waited, 8 * (i - 1), 1e-3) end
  end
end)

-- The account of retries ----------------------------------------------------------------------------

scripted("an empty account: the first failure is the answer, and says so", function(t, make)
  local model = make { { err = "server" }, retry = { attempts = 3, budget = 20 }, breaker = false }
  local err = t.raises("server", model.ask, model, "x")
  t.eq({ err.budget, #err.attempts, model.quota.level }, { true, 2, 6 })
  err = t.raises("server", model.ask, model, "x")
  t.eq({ err.budget, #err.attempts }, { true, 1 })
end)

scripted("the account is one for an address; budget = false is none", function(t, make)
  local a = make { { err = "server" }, retry = RETRY }
  local b = a:with { model = "other" }
  t.ok(a.quota == b.quota)
  t.raises("server", a.ask, a, "x")
  t.eq(b.quota.level, 500 - 28)
  local free = a:with { retry = { budget = false }, breaker = false }
  t.eq(free.quota, false)
  for _ = 1, 50 do t.raises("server", free.ask, free, "x") end
  t.eq(a.calls, 3 + 150)
end)

scripted("successes fill the account again, one by one", function(t, make)
  local model = make { { err = "server" }, { text = "ok" }, retry = RETRY }
  model:ask "x"
  t.eq(model.quota.level, 500, "a retry that succeeds gets its price back")
  model.quota:take(100)
  model:ask "x" model:ask "x"
  t.eq(model.quota.level, 402)
end)

scripted("hedges pay, too, and get it back when they are the ones that answer", function(t, make)
  local model = make { { text = "ok" }, retry = { attempts = 1, budget = 20 } }
  local paid = model:pay_hedge()
  t.eq({ paid, model.quota.level }, { 14, 6 })
  t.eq(model:pay_hedge(), nil, "no hedge now")
  model:ask("x", { paid = paid })
  t.eq(model.quota.level, 20)
  t.eq(model:with { retry = { budget = false } }:pay_hedge(), 0)
end)

-- The breaker ---------------------------------------------------------------------------------------

scripted("five failures in a row open it; then nothing is asked, and a probe closes it", function(t, make)
  local down = true
  local model = make { function() return down and { err = "server" } or { text = "well again" } end }
  for _ = 1, 5 do t.raises("server", model.ask, model, "x") end
  t.eq(model.breaker:state(), "open")
  local err = t.raises("circuit_open", model.ask, model, "x")
  t.eq({ model.calls, err.provider, err.model, err.elapsed }, { 5, "mock", model.opts.model, 0 })
  t.ok(err.retry_after >= 4.5 and err.retry_after <= 5.5, err.retry_after)
  t.match(tostring(err), "not asked, the breaker is open: 5 calls in a row failed, the last with server: ")
  t.eq({ #err.attempts, err.attempts[1].kind, err.attempts[1].elapsed }, { 1, "circuit_open", 0 })
  task.sleep(err.retry_after)
  t.raises("server", model.ask, model, "x") -- the probe
  err = t.raises("circuit_open", model.ask, model, "x")
  t.ok(err.retry_after >= 9 and err.retry_after <= 11, err.retry_after)
  down = false
  task.sleep(err.retry_after)
  t.eq(model:ask("x").text, "well again")
  t.eq({ model.breaker:state(), model.calls }, { "closed", 7 })
end)

scripted("down for a minute: hardly asked, and well again within thirty seconds", function(t, make)
  local began = task.now()
  local model = make { function() return task.now() - began < 60 and { err = "overloaded" } or { text = "ok" } end }
  local recovered
  while not recovered do
    task.sleep(0.25)
    if pcall(model.ask, model, "x") then recovered = task.now() - began end
  end
  t.ok(recovered >= 60 and recovered < 90, recovered)
  t.ok(model.calls <= 5 + 5, model.calls .. " calls")
end)

scripted("an open breaker ends the retries at once, with the error that opened it", function(t, make)
  local model = make { { err = "server" }, retry = { attempts = 10, cap = 1 } }
  local began = task.now()
  local err = t.raises("server", model.ask, model, "x")
  t.eq({ #err.attempts, model.calls, model.breaker:state() }, { 5, 5, "open" })
  t.near(err.elapsed, task.now() - began, 1e-5)
end)

scripted("opened by others while it waited, a retry is refused and tells why it came to that", function(t, make)
  local model = make { { err = "rate_limited", retry_after = 3 }, { text = "never" }, retry = RETRY }
  local err
  task.group(function(g)
    g:spawn(function() err = t.raises("circuit_open", model.ask, model, "x") end)
    task.sleep(1)
    model.breaker:open()
  end)
  t.eq({ err.cause.kind, #err.attempts, err.retry_after }, { "rate_limited", 2, nil })
  t.match(err.message, "it was opened by hand")
end)

scripted("while half open one call probes and the others are refused", function(t, make)
  local model = make { { text = "ok", wait = 3 } }
  model.breaker:open(5)
  task.sleep(5)
  local outcomes = task.map({ 1, 2, 3, 4 }, function() return model:ask("x").text end, { settle = true })
  local answered, refused = 0, 0
  for _, o in ipairs(outcomes) do
    if o.ok then answered = answered + 1 elseif o.err.kind == "circuit_open" then refused = refused + 1 end
  end
  t.eq({ answered, refused, model.calls, model.breaker:state() }, { 1, 3, 1, "closed" })
end)

scripted("no outcome but a verdict ends the probing: 429, 400, cancelled, a raising provider", function(t, make)
  local model = make { { err = "rate_limited", retry_after = 1 }, { err = "invalid" }, { wait = 50, text = "x" }, { text = "ok" },
    timeout = { first_token = 100, total = 100 } }
  model.breaker:open(5)
  task.sleep(5)
  t.raises("rate_limited", model.ask, model, "x")
  t.eq(model.breaker:state(), "half")
  t.raises("invalid", model.ask, model, "x")
  t.eq(model.breaker:state(), "half")
  t.raises({ kind = "timeout", phase = "deadline" }, task.deadline, 2, model.ask, model, "x")
  t.eq({ model.breaker:state(), model.breaker:peek() }, { "half", false })
  local real = model.spoken
  model.spoken = setmetatable({ reply = function() error "a provider's own function" end }, { __index = real })
  t.raises("a provider's own function", model.ask, model, "x")
  model.spoken = real
  t.eq({ model.breaker:state(), model.breaker:peek(), model.limiter:left().concurrency }, { "half", false, 5 })
  t.eq(model:ask("x").text, "ok")
  t.eq(model.breaker:state(), "closed")
end)

scripted("kinds and the breaker", function(t, make)
  for kind, counted in pairs { server = true, overloaded = true, network = true, timeout = true, protocol = true,
    rate_limited = false, quota = false, auth = false, invalid = false, context_length = false } do
    local model = make { { err = kind } }
    pcall(model.ask, model, "x")
    t.eq(model.breaker:counts().failures, counted and 1 or 0, kind)
    t.eq(model.breaker:counts().calls, counted and 1 or 0, kind)
    t.eq(model.limiter:left().concurrency, 5, kind)
  end
  local filtered = make { { err = "filtered" } }
  t.raises("filtered", filtered.ask, filtered, "x")
  t.eq({ filtered.breaker:counts().calls, filtered.breaker:counts().failures }, { 1, 0 })
end)

scripted("agentmemory 1075: three 429s do not become a hundred refusals", function(t, make)
  local model = make { { err = "rate_limited", retry_after = 1 }, { err = "rate_limited", retry_after = 1 },
    { err = "rate_limited", retry_after = 1 }, { text = "ok" } }
  for _ = 1, 3 do t.raises("rate_limited", model.ask, model, "x") end
  for _ = 1, 100 do t.eq(model:ask("x").text, "ok") end
  t.eq(model.breaker:state(), "closed")
end)

scripted("calls that a faster rival cut short make a slow provider known", function(t, make)
  local model = make { { wait = 20, text = "late" }, breaker = { volume = 3, slow = 5, slow_rate = 0.5, window = 60 } }
  for i = 1, 3 do
    t.eq(model.breaker:state(), "closed", i)
    task.group(function(g)
      local call = g:spawn(model.ask, model, "x")
      task.sleep(6)
      call:cancel()
    end)
    task.yield()
  end
  t.eq(model.breaker:state(), "open")
  t.match(model.breaker:reason(), "3 of 3 calls took more than 5 s")
  t.eq(model.limiter:left().concurrency, 5)
end)

scripted("a deadline that ends a slow call is a failure, a quick one says nothing", function(t, make)
  local model = make { { wait = 20, text = "late" }, breaker = { slow = 5 } }
  t.raises("timeout", task.deadline, 4, model.ask, model, "x")
  t.eq(model.breaker:counts().calls, 0)
  t.raises("timeout", task.deadline, 6, model.stream, model, "x")
  t.eq({ model.breaker:counts().failures, model.breaker:counts().slow }, { 1, 1 })
end)

scripted("a stream is a success at its first content; broken later, one failure more", function(t, make)
  local model = make { { text = "one two three four", cut = 7 } }
  local stream = model:stream "x"
  t.eq({ model.breaker:counts().calls, model.breaker:counts().failures }, { 1, 0 })
  local err = t.raises("interrupted", stream.reply, stream)
  t.eq({ err.partial, #err.attempts, err.attempts[1].kind }, { "one two", 1, "interrupted" })
  t.eq({ model.breaker:counts().calls, model.breaker:counts().failures }, { 2, 1 })
  t.eq(t.raises("interrupted", stream.reply, stream), err, "the same again")
  t.eq(model.breaker:counts().failures, 1)
  t.eq(#err.attempts, 1)
end)

scripted("what fails before the first content of a stream is retried", function(t, make)
  local model = make { { err = "overloaded" }, { cut = 0, text = "x" }, { text = "whole", wait = 1 }, retry = RETRY }
  local began = task.now()
  local stream = model:stream "x"
  local reply = stream:reply()
  t.eq({ reply.text, #reply.attempts, reply.attempts[1].kind, reply.attempts[2].kind }, { "whole", 3, "overloaded", "network" })
  t.near(reply.elapsed, task.now() - began, 1e-5)
  t.near(reply.ttft, reply.elapsed, 1e-5)
  t.near(reply.attempts[3].elapsed, 1, 1e-5)
  t.eq(model.breaker:counts().failures, 2)
end)

scripted("silence is not asked twice, unless allowed", function(t, make)
  local model = make { { err = "timeout" }, { text = "ok" }, retry = RETRY }
  local err = t.raises("timeout", model.ask, model, "x")
  t.eq({ err.phase, #err.attempts, model.calls }, { "first_token", 1, 1 })
  model = make { { err = "timeout" }, { text = "ok" }, retry = { attempts = 3, resend = true } }
  t.eq(model:ask("x").text, "ok")
end)

scripted("looked at and forced by hand", function(t, make)
  local model = make { { text = "ok" } }
  t.eq(model.breaker:state(), "closed")
  model.breaker:open()
  t.raises({ kind = "circuit_open", message = "not asked, the breaker is open: it was opened by hand" }, model.ask, model, "x")
  model.breaker:disable()
  t.eq(model:ask("x").text, "ok")
  model.breaker:close()
  model:ask "x"
  t.eq(model.breaker:counts().calls, 1)
  local without = model:with { breaker = false }
  t.eq(without.breaker, false)
  t.eq(without:ask("x").text, "ok")
end)

scripted("one for an address and a model, whatever object asks; another model of a request has its own", function(t, make)
  local model = make { { text = "ok" } }
  t.ok(model.breaker == model:with({ defaults = { temperature = 0 } }).breaker)
  t.ok(model.breaker ~= model:with({ model = "other" }).breaker)
  t.ok(model.breaker ~= model:with({ breaker = { volume = 7 } }).breaker)
  model.breaker:open()
  t.raises("circuit_open", model.ask, model, { prompt = "x" })
  t.eq(model:ask({ prompt = "x", model = "other" }).text, "ok")
end)

-- Limits --------------------------------------------------------------------------------------------

scripted("the order: an open breaker is known before anything is waited for or charged", function(t, make)
  local model = make { { text = "ok", wait = 5 }, limit = { concurrency = 1, rpm = 60, burst = 1 } }
  task.group(function(g)
    g:spawn(model.ask, model, "x")
    task.yield()
    model.breaker:open()
    local began, left = task.now(), model.limiter:left().requests
    t.raises("circuit_open", model.ask, model, "y")
    t.eq({ task.now(), model.limiter:left().requests }, { began, left })
  end)
end)

scripted("opened while it waited for a rate, it is refused and charged nothing", function(t, make)
  local model = make { { text = "ok" }, limit = { rpm = 60, tpm = 600000, burst = 1 } }
  model:ask "x"
  task.group(function(g)
    g:spawn(function() t.raises("circuit_open", model.ask, model, "y") end)
    task.sleep(0.5)
    model.breaker:open()
    task.sleep(0.5 + 1e-5)
    t.near(model.limiter:left().requests, 1, 1e-3)
  end)
  t.eq({ model.calls, model.limiter:left().concurrency }, { 1, 5 })
end)

scripted("a wait for a rate neither holds a probe's place nor counts as slowness", function(t, make)
  local model = make { { text = "ok", wait = 1 }, limit = { rpm = 6, burst = 1 }, breaker = { slow = 2, slow_rate = 0.1, volume = 1 } }
  model:ask "x"
  local reply
  task.group(function(g)
    g:spawn(function() reply = model:ask "y" end)
    task.sleep(1)
    model.breaker:open(1)
    task.sleep(2)
    t.eq({ model.breaker:state(), model.breaker:peek() }, { "half", false })
  end)
  t.near(reply.elapsed, 10, 0.01)
  t.near(reply.attempts[1].waited, 9, 0.01)
  t.eq(model.breaker:state(), "closed")
end)

scripted("a 429 holds the model's other tasks back as well", function(t, make)
  local model = make { { err = "rate_limited", retry_after = 10 }, { text = "ok" }, retry = { attempts = 2 } }
  local began = task.now()
  task.group(function(g)
    g:spawn(model.ask, model, "x")
    for _ = 1, 3 do
      g:spawn(function()
        task.sleep(1)
        model:ask "y"
        t.ok(task.now() - began >= 10, task.now() - began)
      end)
    end
  end)
  t.eq({ model.calls, model.limiter.active }, { 5, false })
  local other = model:with { model = "other" }
  model.limiter:gate(100)
  t.eq({ other.limiter == model.limiter, other.limiter.active }, { false, false })
  t.ok(model:with { defaults = { max_tokens = 5 } }.limiter == model.limiter)
  t.ok(model:with { auth = "another account" }.limiter ~= model.limiter)
end)

scripted("a wait beyond max_wait is refused, a longer one that is allowed is waited for", function(t, make)
  local model = make { { text = "ok" }, limit = { rpm = 0.5, burst = 1 } }
  model:ask "x"
  local began = task.now()
  local err = t.raises({ kind = "throttled", code = "rate" }, model.ask, model, "x")
  t.match(tostring(err), "the limit of 0%.5 requests a minute lets this request through in 120 s, and limit%.max_wait allows 60 s")
  t.eq(task.now(), began)
  local patient = make { { text = "ok" }, limit = { rpm = 0.5, burst = 1, max_wait = 300 } }
  patient:ask "x"
  t.near(elapsed_of(patient.ask, patient, "x"), 120, 0.01)
end)

scripted("a deadline that comes before the rate allows it is not waited for", function(t, make)
  local model = make { { text = "ok" }, limit = { rpm = 6, burst = 1 } }
  model:ask "x"
  local began = task.now()
  local err = t.raises("throttled", task.deadline, 5, model.ask, model, "x")
  t.match(err.message, "the deadline is in 5%.0 s")
  t.eq(task.now(), began)
end)

scripted("tokens are charged by estimate and settled by usage", function(t, make)
  local usage = { prompt_tokens = 100, completion_tokens = 50, total_tokens = 150 }
  local model = make { { text = "ok", usage = usage }, limit = { tpm = 60000, burst = 60 }, defaults = { max_tokens = 4000 } }
  model:ask "x"
  t.near(model.limiter:left().tokens, 60000 - 150, 1)
  local stream = model:stream "x"
  stream:reply()
  t.near(model.limiter:left().tokens, 60000 - 300, 1)
end)

scripted("a failure charges by what is likely to be counted", function(t, make)
  local function left_after(answer, how)
    local model = make { answer, limit = { rpm = 60, tpm = 60000, burst = 60 }, defaults = { max_tokens = 1000 },
      timeout = { first_token = 1 } }
    pcall(model[how or "ask"], model, "x")
    local left = model.limiter:left()
    return 60000 - left.tokens, 60 - left.requests
  end
  local tokens, requests = left_after { err = "invalid" }
  t.near(tokens, 0, 1) t.near(requests, 1, 0.01)
  tokens, requests = left_after { err = "server" }
  t.ok(tokens > 10 and tokens < 200, tokens) t.near(requests, 1, 0.01)
  tokens = left_after { err = "timeout" } -- 1 s of silence, in which 1,000 are refilled
  t.ok(tokens < 200, tokens)
  tokens = left_after({ err = "overloaded" }, "stream")
  t.ok(tokens > 10 and tokens < 200, tokens)
end)

scripted("a stream that is left early has used what it delivered", function(t, make)
  local model = make { { text = ("word "):rep(400), gap = 1e-5 }, limit = { otpm = 60000, burst = 60 }, defaults = { max_tokens = 4000 } }
  local got = 0
  for text in model:stream("x"):text() do
    got = got + #text
    if got > 400 then break end
  end
  t.near(60000 - model.limiter:left().output_tokens, got / 4 * 1.1, 3)
end)

scripted("cancelled in the middle of an ask, the whole estimate stays: it is written for nobody", function(t, make)
  local model = make { { text = "ok", wait = 5 }, limit = { rpm = 60, otpm = 60000, burst = 60 }, defaults = { max_tokens = 4000 } }
  t.raises("timeout", task.deadline, 1e-3, model.ask, model, "x")
  t.near(60000 - model.limiter:left().output_tokens, 4000, 2)
  t.near(60 - model.limiter:left().requests, 1, 0.01)
  t.eq(model.limiter:left().concurrency, 5)
end)

scripted("several models share one limit", function(t, make)
  local account = sluice.limit { concurrency = 2, rpm = 60, burst = 1 }
  local a, b = make { { text = "a" }, limit = account }, make { { text = "b" }, limit = { share = account } }
  t.ok(a.limiter == account and b.limiter == account)
  local began = task.now()
  for _ = 1, 2 do a:ask "x" b:ask "x" end
  t.near(task.now() - began, 3, 0.01)
  t.ok(a:with({ model = "c" }).limiter == account)
  local apart = a:with { limit = { concurrency = 9 } }
  t.eq({ apart.limiter == account, apart.limiter:left().concurrency }, { false, 9 })
end)

scripted("an empty account is not asked again for a minute", function(t, make)
  local model = make { { err = "quota" }, { text = "paid" } }
  t.raises("quota", model.ask, model, "x")
  task.sleep(30)
  local began = task.now()
  local err = t.raises({ kind = "quota", code = "gated" }, model.ask, model, "x")
  t.eq({ task.now(), model.calls, err.cause.status }, { began, 1, 429 })
  t.near(err.retry_after, 30, 0.01)
  task.sleep(30.1)
  t.eq(model:ask("x").text, "paid")
end)

-- What is given back --------------------------------------------------------------------------------

scripted("every way out gives back the place and the line", function(t, make)
  local answers = { { text = "ok", wait = 1 }, { err = "server" }, { err = "network", wait = 1 }, { err = "rate_limited", retry_after = 2 },
    { err = "invalid" }, { err = "filtered" }, { err = "protocol" }, { text = "a b c d e", gap = 0.3 }, { text = "abcdef", cut = 3 },
    { text = "abc", stall = 2 }, { err = "timeout" } }
  local model = make { function() return answers[math.random(#answers)] end, retry = { attempts = 3 },
    limit = { concurrency = 3, rpm = 6000, tpm = 6e6 }, timeout = { first_token = 3, idle = 2 }, breaker = { sleep_window = 0.5 } }
  task.group(function(g)
    for _ = 1, 150 do
      local handle = g:spawn(function()
        task.sleep(math.random() * 20)
        pcall(function()
          if math.random() < 0.5 then return model:ask "x" end
          for _ in model:stream("x"):text() do
            if math.random() < 0.2 then break end
          end
        end)
      end)
      if math.random() < 0.4 then
        g:spawn(function()
          task.sleep(math.random() * 22)
          handle:cancel()
        end)
      end
    end
  end)
  local left = model.limiter:left()
  t.eq({ left.concurrency, left.waiting, model.limiter.head }, { 3, 0, nil })
  local b = model.breaker
  model.limiter:open_gate()
  b:close()
  t.eq(b.outstanding, 0)
  t.ok(model.calls > 5, model.calls) -- an unlucky seed keeps the breaker open for most of it
end)

scripted("failsafe-go: cancelled while a retry is pending, while waiting for a place, for a rate", function(t, make)
  local model = make { { err = "rate_limited", retry_after = 30 }, { text = "never" }, retry = RETRY }
  local began = task.now()
  task.group(function(g)
    local call = g:spawn(model.ask, model, "x")
    task.sleep(1)
    call:cancel()
  end)
  t.near(task.now() - began, 1, 1e-5)
  t.eq({ model.calls, model.limiter:left().concurrency }, { 1, 5 })

  local busy = make { { text = "ok", wait = 10 }, limit = { concurrency = 1 } }
  local second
  task.group(function(g)
    g:spawn(busy.ask, busy, "x")
    local waiter = g:spawn(busy.ask, busy, "y")
    g:spawn(function()
      busy:ask "z"
      second = task.now()
    end)
    task.sleep(1)
    waiter:cancel()
    began = task.now()
  end)
  t.near(second - began, 19, 1e-3)
  t.eq({ busy.calls, busy.limiter:left().concurrency }, { 2, 1 })
end)

scripted("failsafe-go: the inner deadline ends the attempt, the outer one the whole", function(t, make)
  local model = make { { wait = 100, text = "late" }, timeout = { first_token = 0, total = 0 } }
  local began = task.now()
  local err = t.raises({ kind = "timeout", phase = "deadline" }, task.deadline, 10, function()
    local _, inner = pcall(task.deadline, 2, model.ask, model, "x")
    t.eq({ inner.kind, task.now() - began }, { "timeout", 2 })
    model:ask "x"
  end)
  t.match(err.message, "10 s")
  t.near(task.now() - began, 10, 1e-5)
  err = t.raises({ kind = "timeout", phase = "deadline" }, task.deadline, 3, task.deadline, 20, model.ask, model, "x")
  t.match(err.message, "3 s")
  t.eq(model.breaker:counts().calls, 0, "neutral all three times")
end)

-- Options -------------------------------------------------------------------------------------------

T.test("options", function(t)
  local function model(opts)
    opts.provider, opts.model, opts.base_url = "mock", "m", "http://127.0.0.1:1/v1"
    return sluice.model(opts)
  end
  t.raises("unknown option 'breaker.volum' %(did you mean 'volume'%?%)", model, { breaker = { volum = 3 } })
  t.raises("option 'breaker.error_rate' must be a number above 0", model, { breaker = { error_rate = 0 } })
  t.raises("option 'breaker.probes' must be an integer, at least 1", model, { breaker = { probes = 0 } })
  t.raises("option 'limit.share' must be what sluice.limit", model, { limit = { share = {} } })
  t.raises("option 'limit.share' stands alone", model, { limit = { share = sluice.limit {}, rpm = 5 } })
  t.raises("unknown option 'limit.rps'", model, { limit = { rps = 5 } })
  t.raises("option 'retry.budget' must be a number or false", model, { retry = { budget = "big" } })
  t.raises("option 'timeout.min_rate' must be a number above 0", model, { timeout = { min_rate = 0 } })
  t.eq(model({ breaker = { trip_after = false } }).breaker.trip_after, false)
  local plain = model {}
  local b = plain.breaker
  t.eq({ b.volume, b.error_rate, b.width * b.buckets, b.sleep_window, b.trip_after, b.slow, b.slow_rate, b.probes },
    { 20, 0.5, 10, 5, 5, 30, false, 1 }, "the defaults of PRODUCT")
  t.eq({ plain.limiter:left().concurrency, plain.limiter.active, plain.quota.capacity, plain.retry.attempts },
    { 5, false, 500, 3 })
end)

T.done()
