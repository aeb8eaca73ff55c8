--- One call of a model: its attempts, what each must pass before it is sent, and the accounts it keeps.
-- Owns: the order of the policies. retry → breaker.peek → place → rates → breaker.enter → the wire;
-- what failed goes back to all of them at once, in `fail`.
-- Never: knows protocols or builds requests (model.lua), holds a policy's rules (the other files here).
-- Reading order: call.run, call.admit, call.fail, again.
--
-- The wait for a limit stands between looking at the breaker and entering it, so that it neither holds
-- a probe's place nor counts as slowness of the provider.
-- On the common path (breaker closed, no rate limits, first try) this costs one table and a few calls.

local core = require "sluice.core.task"
local sys = require "sluice.core.sys"
local errors = require "sluice.errors"
local observe = require "sluice.observe"
local limits = require "sluice.policy.limiter"
local outcome = require "sluice.policy.outcome"
local quotas = require "sluice.policy.quota"
local Reply = require "sluice.reply"
local retry = require "sluice.retry"

local now = core.now

local ASK_TOTAL, STREAM_TOTAL = 60, 600 -- seconds, unless timeout.total is given

---@class sluice.Run
---@field model sluice.Model
---@field breaker sluice.Breaker|false
---@field endpoint table
---@field body string
---@field id string             the same for all attempts
---@field attempt integer
---@field sent number|false     when this attempt was sent; false: it was not
---@field permit? sluice.BreakerPermit  what it entered the breaker with
---@field charge? sluice.Charge
---@field streaming? boolean   the time limit of a stream holds
---@field max_tokens? integer   of the answer
---@field opts? sluice.CallOptions
---@field first? number         when the first attempt was sent, once there is another
---@field waited? number        seconds before this attempt: for a limit, or since the one before

---@field entries? table[]      earlier attempts, for reply.attempts and err.attempts
---@field last? sluice.Error    of the attempt before
---@field paid? number          what this retry cost
---@field observed? sluice.ObservedCall

---For sluice's own modules: what a caller inside may say of a call (model:ask's second argument).
---@class sluice.CallOptions
---@field patience? number  seconds: no wait of the call's own (a limit, a back-off) is to be longer; a fallback
---has a better use for the time
---@field pushback? number  seconds: the same, but only of waits that a failure brings: a back-off, a Retry-After, the
---gate after a 429. Waits for limits of one's own are no trouble of the provider's
---@field paid? number      what model:pay_hedge() took: it comes back when this call succeeds
---@field whole? boolean    of a stream: its answer is wanted whole, so the time limit of an ask holds
---@field call? integer     its number, and the chain it is a step of: for those who observe
---@field chain? sluice.ObservedChain

local call = {}
local input_tokens = limits.input_tokens

-- Bounds --------------------------------------------------------------------------------------------

--- When the first attempt was sent, or nil: the clock of the whole call. What was waited before that
--- is not on it, for a long queue of one's own making is no failure.
local function first_sent(run)
  return run.first or run.sent or nil
end

--- Seconds left of timeout.total, which holds for all attempts together; nil before the first, and
--- when it is turned off.
local function total_left(run)
  local first = first_sent(run)
  local total = run.model.timeout.total or (run.streaming and STREAM_TOTAL or ASK_TOTAL)
  return first and total > 0 and total - (now() - first) or nil
end

--- Seconds to the nearest deadline of any kind, or nil.
local function time_left(run)
  local left, total = core.left(), total_left(run)
  return left and total and math.min(left, total) or left or total
end

--- How long a wait for a limit may be, and what says so.
local function bound_of(run, most)
  local by, patience = "max_wait", run.opts and run.opts.patience
  if patience and patience < most then most, by = patience, "patience" end
  local total = total_left(run)
  if total and total < most then most, by = total, "total" end
  return most, by
end

-- Refusals ------------------------------------------------------------------------------------------

local function who(run, fields)
  fields.provider, fields.model = run.model.opts.provider, run.model.opts.model
  fields.attempt, fields.elapsed = run.attempt, 0
  return fields
end

local function refuse_circuit(run, wait)
  errors.raise(who(run, { kind = "circuit_open", retry_after = wait,
    message = "not asked, the breaker is open: " .. (run.breaker:reason() or "it has just been probed") }))
end

local PLACE_BOUND = { max_wait = "limit.max_wait", patience = "the next step waits for it", total = "timeout.total" }

-- Admission -----------------------------------------------------------------------------------------

-- These are steps of their own, and what they return is a `<close>` variable of the function that
-- sends, so that nothing in between can lose it. The common cases are decided there, without a call.

--- Refuses at once when the breaker is open; takes nothing.
---@param run sluice.Run
function call.peek(run)
  local refused, wait = run.breaker:peek()
  if refused then refuse_circuit(run, wait) end
end

--- Waits for a place among the concurrent requests. Without a bound of its own, unless one was given.
---@async
---@param run sluice.Run
function call.place(run)
  local limiter = run.model.limiter
  local most, by = bound_of(run, limiter.place_wait or math.huge)
  local from = now()
  local wait <close> = observe.on and observe.wait(run, "place") -- luacheck: ignore 211
  if most == math.huge then limiter.permits:acquire()
  elseif not limiter.permits:acquire(math.max(0, most)) then
    errors.raise(who(run, { kind = "throttled", code = "concurrency",
      message = ("as many requests as limit.concurrency allows are under way, and none ended within %.3g s (%s)")
        :format(most, PLACE_BOUND[by]) }))
  end
  run.waited = (run.waited or 0) + now() - from
end

--- What the request is charged under the rate limits; waits until it may be.
---@async
---@param run sluice.Run
---@return sluice.Charge
function call.charge(run)
  local limiter, input, max_tokens = run.model.limiter, input_tokens(run.body), run.max_tokens
  local charge = limiter:try(input, max_tokens)
  if not charge then
    local most, by = bound_of(run, limiter.max_wait)
    local left = core.left()
    if left and left < most then most, by = left, "deadline" end
    local waited
    local wait <close> = observe.on and observe.wait(run, "rate") -- luacheck: ignore 211
    charge, waited = limiter:acquire(input, max_tokens, most, by, run.opts and run.opts.pushback)
    if waited > 0 then run.waited = (run.waited or 0) + waited end
  end
  run.charge = charge
  return charge
end

local Guard = {}

function Guard:__close(err)
  local permit = self.permit
  if permit.ended then return end
  if errors.is(err, "cancelled") then return permit:abandoned(now() - self.sent, core.left() == 0) end
  permit:neutral()
end

--- Enters a breaker whose permits are not shared. Returns what must be closed.
---@param run sluice.Run
---@return table? guard
function call.enter(run)
  local charge <close> = run.charge -- comes back, unless this says that it is sent
  local permit, wait = run.breaker:enter()
  if not permit then refuse_circuit(run, wait) end
  run.permit = permit
  local guard = permit.guard and setmetatable({ permit = permit, sent = now() }, Guard) or nil
  if charge then charge.state = "sent" end
  return guard
end

--- Seconds the attempt may take in all, when it is not the first; that one has what the endpoint says.
---@param run sluice.Run
---@return number?
function call.total(run)
  local left = total_left(run)
  return left and math.max(0.001, left)
end

-- Outcomes ------------------------------------------------------------------------------------------

--- Who was asked, for every error that leaves here.
---@param run sluice.Run
---@param fields table
---@param response? table
---@return sluice.Error
function call.decorate(run, fields, response)
  local err = errors.is(fields) and fields or errors.new(fields)
  local opts = run.model.opts
  err.provider = err.provider or opts.provider
  err.model = err.model or opts.model
  err.attempt = run.attempt
  err.elapsed = err.elapsed or (run.sent and now() - run.sent or 0)
  if response and not err.request_id then err.request_id = Reply.request_id_of(response) end
  return err
end

--- Tells every policy that this attempt has failed before its commit, and raises.
---@param run sluice.Run
---@param fields table      of the error, or the error
---@param response? table   what came, if anything did
function call.fail(run, fields, response)
  local err = call.decorate(run, fields, response)
  local permit, charge, limiter = run.permit, run.charge, run.model.limiter
  if permit then
    local failed = outcome.failed(err)
    if failed then permit:failure(now() - run.sent, err)
    elseif failed == false then permit:success(now() - run.sent)
    else permit:neutral() end
  end
  if charge then outcome.settle(charge, err) end
  if response and not limiter.blind then limiter:learn(response:headers(), charge) end
  if err.kind == "rate_limited" then limiter:gate(err.retry_after)
  elseif err.kind == "quota" then limiter:gate_quota(err) end
  error(err, 0)
end

--- The headers of a reply that speak of limits; on nearly every reply there are none.
---@param run sluice.Run
---@param response table
function call.learn(run, response)
  local limiter = run.model.limiter
  if limiter.gates > 0 then limiter:succeeded() end
  if limiter.blind then return end
  local read = response.limits
  local headers
  if read then headers = read(response) else headers = response:headers() end -- a scripted wire has no limits()
  if headers then limiter:learn(headers, run.charge) end
end

-- Attempts ------------------------------------------------------------------------------------------

--- One entry of `attempts`, for a failure.
local function entry_of(run, err)
  return { provider = err.provider, model = err.model, kind = err.kind, status = err.status, code = err.code,
    message = err.message, elapsed = err.elapsed, waited = run.waited, request_id = err.request_id }
end

--- Puts an error in the words of the whole call: every attempt, and the time of all of them.
---@param run sluice.Run
---@param err sluice.Error
---@return sluice.Error
function call.conclude_error(run, err)
  local entries = run.entries or {}
  entries[#entries + 1] = entry_of(run, err)
  err.attempts = entries
  err.elapsed = (err.elapsed or 0) + (run.waited or 0)
  for i = 1, #entries - 1 do err.elapsed = err.elapsed + entries[i].elapsed + (entries[i].waited or 0) end
  return err
end

--- The same for a reply; a plain one needs nothing.
---@param run sluice.Run
---@param reply sluice.Reply  with the times of its own attempt
function call.conclude_reply(run, reply)
  local waited, attempts, before = run.waited, {}, run.waited or 0
  for i, entry in ipairs(run.entries or {}) do
    attempts[i] = entry
    before = before + entry.elapsed + (entry.waited or 0)
  end
  attempts[#attempts + 1] = Reply.attempt_of(reply, waited)
  reply.attempts = attempts
  reply.elapsed = reply.elapsed + before
  if reply.ttft then reply.ttft = reply.ttft + before end
end

--- After a failure: waits until the next attempt, or raises when none is worth it.
---@async
local function again(run, err)
  if not errors.is(err) then error(err, 0) end -- a fault of the script's, or of a provider's functions
  if not err.provider then who(run, err) end -- refused by a limit
  local model, opts, breaker = run.model, run.model.retry, run.breaker
  local left, delay = time_left(run), nil
  if opts then
    local first = first_sent(run)
    local useful = left and retry.min_useful(model.timeout, left + (first and now() - first or 0))
    local told, patience = run.opts, nil
    if told then patience = math.min(told.patience or math.huge, told.pushback or math.huge) end
    delay = retry.delay(err, run.attempt, opts, sys.random(), left, useful, patience)
  end
  if delay and breaker then
    local refused, wait = breaker:peek()
    if refused and not (wait and wait <= delay) then delay = nil end -- it would only be refused
  end
  local quota = model.quota
  if delay and quota then
    local cost = quotas.cost(err.kind)
    if quota:take(cost) then run.paid = cost else delay, err.budget = nil, true end
  end
  if not delay then
    if run.last and err.cause == nil and (err.kind == "circuit_open" or err.kind == "throttled") then
      err.cause = run.last
    end
    if observe.on then observe.failed(run, err) end
    error(call.conclude_error(run, err), 0)
  end
  if observe.on then observe.failed(run, err, delay) end
  local entries = run.entries or {}
  entries[#entries + 1] = entry_of(run, err)
  run.entries, run.last = entries, err
  run.first = first_sent(run)
  do
    local wait <close> = observe.on and observe.wait(run, "backoff") -- luacheck: ignore 211
    core.sleep(delay)
  end
  run.permit, run.charge, run.sent, run.waited = nil, nil, false, delay
  run.attempt = run.attempt + 1
end

--- Makes attempts until one succeeds or another is not worth it.
---@async
---@param run sluice.Run
---@param once fun(run: sluice.Run): any
---@return any
function call.run(run, once)
  local seen <close> = observe.on and (observe.full and observe.call(run) or run) -- luacheck: ignore 211
  local ok, result = pcall(once, run)
  while not ok do
    again(run, result)
    ok, result = pcall(once, run)
  end
  if observe.on then observe.came(run, result) end
  local quota = run.model.quota
  if quota and quota.level < quota.capacity then quota:succeeded(run.paid or run.opts and run.opts.paid) end
  return result
end

return call
