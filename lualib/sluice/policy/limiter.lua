--- Limits: how many requests at once, how many requests and tokens a minute.
-- Owns: the queue of those who wait, the estimate of what a request will cost, what is learnt from
-- replies. The arithmetic of one rate: rate.lua.
-- Never: sends, retries, or knows a model's options (model.lua does).
-- Reading order: Limiter:acquire, wait_in_line, Charge:settle, Limiter:learn.
--
-- One line, first come, first served. Only the head of the line has a timer, and nobody holds a
-- reservation: what is learnt, refunded or cancelled takes effect at once and for everybody. Who could
-- not be served within his patience is told so at once, without waiting (`throttled`); who leaves the
-- line has been charged nothing.
--
-- Places for concurrent requests are a semaphore in C, taken before the rates are looked at; a stream
-- gives its place back from C when it is closed, whatever Lua did with it.

local sync = require "sluice.core.sync"
local errors = require "sluice.errors"
local options = require "sluice.options"
local limits = require "sluice.provider.limits"
local rate = require "sluice.policy.rate"
local tokens = require "sluice.tokens"

local CONCURRENCY = 5
local MAX_WAIT = 60         -- seconds
local BURST = 10            -- seconds' worth of a limit that may be used at once
local OUTPUT_TOKENS = 1024  -- assumed of an answer while nothing is known of this model's
local SAMPLES = 64          -- answers whose lengths are remembered
local SAMPLES_MIN = 8       -- … before they are believed
local GATE_BASE, GATE_MAX = 1, 20 -- seconds without a request after a 429 that named no time
local ASKED_MAX = 86400     -- seconds: a proxy that asks for a century shall not be believed for longer than a day
local QUOTA_GATE = 60       -- seconds without a request after the account ran out of money
local TICK = 1e-6           -- seconds: the clock knows nothing smaller
local SLEEP_MAX = 3600      -- seconds until the head of the line looks again in any case

local limiter = {}

-- Estimates -------------------------------------------------------------------------------------------

--- Tokens of a request's body, by its bytes.
limiter.input_tokens = tokens.of_body

--- What 95 % of the samples do not exceed.
local function high(samples)
  local n = #samples
  local rank, top = n - math.ceil(n * 0.95) + 1, {} -- the greatest ones, so many of them
  for i = 1, n do
    local value, least = samples[i], top[rank]
    if not least or value > least then
      local at = rank
      while at > 1 and (top[at - 1] or -1) < value do top[at], at = top[at - 1], at - 1 end
      top[at] = value
    end
  end
  return top[rank]
end

--- Tokens an answer will probably have: what this model's answers had lately, at most `max_tokens`.
local function output_tokens(self, max_tokens)
  local usual = self.usual
  if self.stale then
    usual = #self.samples >= SAMPLES_MIN and high(self.samples) or nil
    self.usual, self.stale = usual, false
  end
  if usual and max_tokens then return usual < max_tokens and usual or max_tokens end
  return usual or max_tokens or OUTPUT_TOKENS
end

local function observe(self, count)
  local samples, at = self.samples, self.sample_at % SAMPLES + 1
  samples[at], self.sample_at = count, at
  if at % (SAMPLES // 2) == 0 or #samples < 2 * SAMPLES_MIN then self.stale = true end -- not for every call
end

-- What a request takes from each kind of budget: so much itself, for its input, for its output.
local WEIGHTS = {
  requests = { 1, 0, 0 }, tokens = { 0, 1, 1 }, input_tokens = { 0, 1, 0 }, output_tokens = { 0, 0, 1 },
}

-- Options by their budget.
local BUDGETS = { requests = "rpm", tokens = "tpm", input_tokens = "itpm", output_tokens = "otpm" }
local BUDGET_ORDER = { "requests", "tokens", "input_tokens", "output_tokens" }

local function cost_of(budget, requests, input, output)
  return budget.per_request * requests + budget.per_input * input + budget.per_output * output
end

-- Charges ---------------------------------------------------------------------------------------------

--- What one request was charged. Closed before it was `sent`, all of it comes back.
---@class sluice.Charge
---@field input number   tokens, estimated
---@field output number  tokens, estimated
---@field at number      when
---@field state false|"sent"|"settled"
local Charge = { __name = "sluice.charge" }
Charge.__index = Charge

local function poke(self)
  local head = self.head
  -- a semaphore, because giving it back neither waits nor raises: this runs in __close
  if head and head.signal:available() == 0 then head.signal:release() end
end

local function new_charge(self, input, output, now)
  local requests, input_sum, output_sum = self.requests + 1, self.input_sum + input, self.output_sum + output
  self.requests, self.input_sum, self.output_sum = requests, input_sum, output_sum
  return setmetatable({ limiter = self, input = input, output = output, at = now, state = false,
    -- all that was charged so far: a reply to this request knows nothing of what was sent after it
    requests = requests, input_sum = input_sum, output_sum = output_sum, after = nil }, Charge)
end

local function charge_all(self, input, output, now)
  local budgets = self.budgets
  for i = 1, #budgets do
    local budget = budgets[i]
    budget.rate:charge(cost_of(budget, 1, input, output), now)
  end
  return new_charge(self, input, output, now)
end

--- Changes what was charged by so many requests and tokens.
local function correct(charge, requests, input, cached, output)
  local owner, at = charge.limiter, charge.at
  local budgets = owner.budgets
  for i = 1, #budgets do
    local budget = budgets[i]
    if at >= budget.born then
      -- what was read from a cache does not count against Anthropic's limit of input tokens, but does
      -- where there is one limit for all tokens
      local read = cached ~= 0 and budget.name == "input_tokens" and input - cached or input
      local difference = budget.per_request * requests + budget.per_input * read + budget.per_output * output
      if difference ~= 0 then -- as Rate:settle
        local r = budget.rate
        if difference > 0 or at >= r.busy_since then r.tat = r.tat + r.interval * difference end
      end
    end
  end
  if owner.head then poke(owner) end
end

--- Replaces the estimate by what was really used. Once; later calls do nothing.
---@param input number
---@param output number
---@param cached? number  of the input, read from a cache
function Charge:settle(input, output, cached)
  if self.state == "settled" then return end
  self.state = "settled"
  correct(self, 0, input - self.input, cached or 0, output - self.output)
end

--- Settles by a reply's usage. Where the provider named none, the estimate of the input stays, and the
--- output is what was seen of the answer: what was generated is billed, cancelled or not.
---@param usage? sluice.Usage
---@param seen_bytes? integer  of the answer
---@param partial? boolean     it broke off: counts that came before its end are too low
function Charge:settle_by(usage, seen_bytes, partial)
  if self.state == "settled" then return end
  self.state = "settled"
  local owner, output = self.limiter, usage and usage.output_tokens
  if partial or not output then output = math.max(output or 0, tokens.of_bytes(seen_bytes or 0))
  else
    local at = owner.sample_at + 1 -- what observe does, nearly always
    if at <= SAMPLES and at % (SAMPLES // 2) ~= 0 and owner.samples[2 * SAMPLES_MIN] then
      owner.samples[at], owner.sample_at = output, at
    else observe(owner, output) end
  end
  local reserved = self.input
  local input = usage and usage.input_tokens or reserved
  if owner.plain then
    local r, difference = owner.per_token, input - reserved + output - self.output
    if r and difference ~= 0 and (difference > 0 or self.at >= r.busy_since) then -- as Rate:settle
      r.tat = r.tat + r.interval * difference
    end
    if owner.head then poke(owner) end
    return
  end
  correct(self, 0, input - reserved, usage and usage.cached_tokens or 0, output - self.output)
end

--- It was never sent, or never got there: everything comes back.
function Charge:refund()
  if self.state == "settled" then return end
  self.state = "settled"
  correct(self, -1, -self.input, 0, -self.output)
end

function Charge:__close()
  if not self.state then self:refund() end
end

-- The line --------------------------------------------------------------------------------------------

---@class sluice.Limiter
---@field permits sluice.Semaphore  for sluice's own modules: places for concurrent requests
---@field spare? sluice.Charge      for sluice's own modules: settled, and nobody's any more; linked by `after`
---@field active boolean            for sluice's own modules: there is a rate or a gate to look at
local Limiter = { __name = "sluice.limiter" }
Limiter.__index = Limiter

local Waiter = { __name = "sluice.waiter" }
Waiter.__index = Waiter

local function join(self, waiter)
  local last = self.tail
  waiter.before = last
  if last then last.after = waiter else self.head = waiter end
  self.tail = waiter
  self.waiting = self.waiting + 1
  self.queued_input, self.queued_output = self.queued_input + waiter.input, self.queued_output + waiter.output
end

function Waiter:__close()
  local owner, before, after = self.limiter, self.before, self.after
  if before then before.after = after else owner.head = after end
  if after then after.before = before else owner.tail = before end
  owner.waiting = owner.waiting - 1
  owner.queued_input, owner.queued_output = owner.queued_input - self.input, owner.queued_output - self.output
  if not before then poke(owner) end -- the next one is the head now
end

--- Seconds until so much could be sent, behind `ahead` others with their tokens.
local function predict(self, input, output, now, ahead, ahead_input, ahead_output)
  local wait, budgets = self.gate_until - now, self.budgets
  for i = 1, #budgets do
    local budget = budgets[i]
    local before = ahead > 0 and cost_of(budget, ahead, ahead_input, ahead_output) or 0
    local one = budget.rate:wait(cost_of(budget, 1, input, output), now, before)
    if one > wait then wait = one end
  end
  return wait
end

local function seconds(s)
  return s >= 10 and ("%.0f s"):format(s) or ("%.1f s"):format(s)
end

--- Which limit it is that makes wait, in words.
local function in_the_way(self, input, output, now)
  if self.gate_until > now then return "the provider said 429 (too many requests)" end
  local longest, name = 0, "the rate limit"
  for _, budget in ipairs(self.budgets) do
    local wait = budget.rate:wait(cost_of(budget, 1, input, output), now)
    if wait > longest then
      longest = wait
      name = ("the limit of %.14g %s a minute%s"):format(budget.rate.limit, budget.name:gsub("_", " "),
        budget.learnt and " (the provider's own)" or "")
    end
  end
  return name
end

-- What sets the bound of a wait, by the names callers give.
local BOUND = {
  max_wait = "limit.max_wait allows %s",
  patience = "another step takes over after %s",
  pushback = "another step takes over rather than wait more than %s for it",
  deadline = "the deadline is in %s",
  total = "timeout.total leaves %s",
}

local function refuse(self, waiter, wait, now)
  errors.raise { kind = "throttled", code = self.gate_until > now and "gate" or "rate", retry_after = wait,
    message = ("%s lets this request through in %s, and %s"):format(
      in_the_way(self, waiter.input, waiter.output, now), seconds(wait),
      BOUND[waiter.bound]:format(seconds(waiter.patience))) }
end

--- The account is known to be empty: said at once, in the provider's words.
local function refuse_quota(self, now)
  local cause = self.quota_error
  errors.raise { kind = "quota", code = "gated", cause = cause, retry_after = self.gate_until - now,
    message = ("not asked: %s ago the provider said: %s"):format(seconds(now - self.quota_at), cause.message) }
end

--- A gate that is shut for longer than this one wants to wait for the provider.
local function check_gate(self, waiter, now)
  local wait, most = self.gate_until - now, waiter.pushback
  if not most or wait <= most then return end
  waiter.patience, waiter.bound = most, "pushback"
  refuse(self, waiter, wait, now)
end

---@async
local function wait_in_line(self, waiter)
  join(self, waiter)
  local place <close> = waiter -- leaves the line on every path
  while true do
    local now = self.now()
    if self.quota_error and self.gate_until > now then refuse_quota(self, now) end
    check_gate(self, waiter, now)
    local at_head, wait = self.head == waiter, self.gate_until - now
    if at_head then
      wait = predict(self, waiter.input, waiter.output, now, 0)
      if wait <= TICK then
        if self.gate_until <= now then self:open_gate() end
        return charge_all(self, waiter.input, waiter.output, now)
      end
    end
    local left = waiter.until_ - now
    if wait >= left then refuse(self, place, wait, now) end
    waiter.signal:acquire(math.min(at_head and wait or left, SLEEP_MAX) + TICK)
  end
end

--- Limiter:try where there are no rates but rpm and tpm: what rate.charge_now and new_charge do, without
--- a loop, a call or a new table.
local function try_plain(self, input, output, now)
  local per_request, per_token, cost = self.per_request, self.per_token, input + output
  local request_tat, token_tat
  if per_request then
    request_tat = per_request.tat
    if request_tat > now then
      local burst = per_request.burst -- at least 1, which is the cost
      if request_tat + per_request.interval * (1 - burst) - now > TICK then return nil end
    end
  end
  if per_token then
    token_tat = per_token.tat
    if token_tat > now then
      local burst = per_token.burst
      if token_tat + per_token.interval * ((cost < burst and cost or burst) - burst) - now > TICK then return nil end
    end
    if token_tat <= now then token_tat, per_token.busy_since = now, now end
    per_token.tat = token_tat + per_token.interval * cost
  end
  if per_request then
    if request_tat <= now then request_tat, per_request.busy_since = now, now end
    per_request.tat = request_tat + per_request.interval
  end
  local charge = self.spare
  if not charge then return new_charge(self, input, output, now) end
  local requests, input_sum, output_sum = self.requests + 1, self.input_sum + input, self.output_sum + output
  self.spare, self.requests, self.input_sum, self.output_sum = charge.after, requests, input_sum, output_sum
  charge.input, charge.output, charge.at, charge.state = input, output, now, false
  charge.requests, charge.input_sum, charge.output_sum = requests, input_sum, output_sum
  return charge
end

--- For sluice's own modules.
--- Charges the request at once when nothing is in its way, else nil.
---@param input integer       tokens
---@param max_tokens? integer the most the answer may have
---@return sluice.Charge?     to be closed, and settled when the answer is there
function Limiter:try(input, max_tokens)
  if self.head then return nil end
  local now, output, budgets, gate = self.now(), self.usual, self.budgets, self.gate_until
  if gate - now > TICK then return nil end
  if self.stale or not output then output = output_tokens(self, max_tokens)
  elseif max_tokens and max_tokens < output then output = max_tokens end
  if self.plain and gate <= 0 then return try_plain(self, input, output, now) end
  if not rate.charge_now(budgets, now, TICK, input, output) then return nil end
  if gate > 0 then self:open_gate() end
  return new_charge(self, input, output, now)
end

--- For sluice's own modules.
--- Waits until the request may be sent and charges it, or raises `throttled` when that would take
--- longer than `patience` seconds: at once, without waiting.
---@async
---@param input integer       tokens
---@param max_tokens? integer the most the answer may have
---@param patience number     seconds, may be math.huge
---@param bound "max_wait"|"patience"|"deadline"|"total"  what sets it: for the message
---@param pushback? number    seconds the gate after a 429 may be shut, when that is to be less
---@return sluice.Charge      to be closed, and settled when the answer is there
---@return number waited      seconds
function Limiter:acquire(input, max_tokens, patience, bound, pushback)
  local now = self.now()
  local output = output_tokens(self, max_tokens)
  if self.quota_error and self.gate_until > now then refuse_quota(self, now) end
  local waiter = setmetatable({ limiter = self, input = input, output = output, patience = patience,
    until_ = now + patience, bound = bound, pushback = pushback, signal = sync.semaphore(1) }, Waiter)
  check_gate(self, waiter, now)
  local wait = predict(self, input, output, now, self.waiting, self.queued_input, self.queued_output)
  if wait >= patience then refuse(self, waiter, wait, now) end
  waiter.signal:try_acquire()
  local charge = wait_in_line(self, waiter)
  return charge, self.now() - now
end

-- Gates -----------------------------------------------------------------------------------------------

--- For sluice's own modules.
--- The gate's time is over.
function Limiter:open_gate()
  self.gate_until, self.quota_error = 0, nil
  self.active = #self.budgets > 0
end

--- Everybody in the line looks again: some will not want to wait for so long.
local function tell_all(self)
  local waiter = self.head
  while waiter do
    if waiter.signal:available() == 0 then waiter.signal:release() end
    waiter = waiter.after
  end
end

--- For sluice's own modules.
--- The provider said 429: nobody is let through for `wait` seconds, or, when it named no time, for one
--- that doubles while it goes on.
---@param wait? number
function Limiter:gate(wait)
  if not wait then
    self.gates = self.gates + 1
    wait = math.min(GATE_MAX, GATE_BASE * 2.0 ^ (self.gates - 1)) * (0.5 + self.random() / 2)
  end
  self.gate_until = math.max(self.gate_until, self.now() + math.min(wait, ASKED_MAX))
  self.active = true
  tell_all(self)
end

--- For sluice's own modules.
--- The account is empty: for a minute nobody is let through, and everybody is told why.
---@param err sluice.Error
function Limiter:gate_quota(err)
  self.quota_error, self.quota_at = err, self.now()
  self.gate_until = math.max(self.gate_until, self.quota_at + QUOTA_GATE)
  self.active = true
  tell_all(self)
end

-- Learning --------------------------------------------------------------------------------------------

local function budget_of(self, name)
  for _, budget in ipairs(self.budgets) do
    if budget.name == name then return budget end
  end
end

local function add_budget(self, name, per_minute, burst, born)
  local weights = WEIGHTS[name]
  local budget = { name = name, rate = rate.new(per_minute, burst), born = born,
    per_request = weights[1], per_input = weights[2], per_output = weights[3] }
  self.budgets[#self.budgets + 1] = budget
  self.active = true
  -- of a request's two counts there is one rate each, from the beginning: no weights are needed
  self.plain = self.plain and born == 0 and (name == "requests" or name == "tokens")
  if name == "requests" then self.per_request = budget.rate
  elseif name == "tokens" then self.per_token = budget.rate end
  return budget
end

--- For sluice's own modules.
--- Reads what a reply says about the account's limits. A limit nobody set is adopted as a whole (what
--- is left of it is said with every reply, so nothing is saved up); otherwise this only tightens.
---@param headers table<string, string>
---@param charge? sluice.Charge|false  of the request this is the reply to
function Limiter:learn(headers, charge)
  if self.blind then return end
  local found = limits.parse(headers)
  if not found then return end
  local now = self.now()
  for _, name in ipairs(BUDGET_ORDER) do
    local said = found[name]
    if said then
      local budget = budget_of(self, name)
      if said.limit and not budget then
        budget = add_budget(self, name, said.limit, said.limit, now)
        budget.learnt = true
      elseif said.limit and budget.learnt and said.limit ~= budget.rate.limit then
        budget.rate:adopt(said.limit, said.limit, now)
      end
      if said.remaining and budget then
        local since = charge and cost_of(budget, self.requests - charge.requests,
          self.input_sum - charge.input_sum, self.output_sum - charge.output_sum) or 0
        budget.rate:tighten(said.remaining - since, now)
      end
    end
  end
  tell_all(self)
end

--- For sluice's own modules.
--- A request was answered: a later 429 without a time starts from the shortest gate again.
function Limiter:succeeded()
  self.gates = 0
end

-- Looking ---------------------------------------------------------------------------------------------

---What a limiter still has. Of the limits that were set, or that a provider's headers told of.
---@class sluice.LimiterLeft
---@field concurrency integer  places for requests
---@field requests? number     of this minute
---@field tokens? number       … in and out together
---@field input_tokens? number
---@field output_tokens? number
---@field waiting integer      requests that wait for a rate
---@field gate number          seconds for which a 429 still holds everybody back; 0: it does not

--- What is left now.
---@return sluice.LimiterLeft
function Limiter:left()
  local now = self.now()
  local left = { concurrency = self.permits:available(), waiting = self.waiting,
    gate = math.max(0, self.gate_until - now) }
  for _, budget in ipairs(self.budgets) do left[budget.name] = budget.rate:left(now) end
  return left
end

-- Making ----------------------------------------------------------------------------------------------

--- Entries for options.spec; a model's `limit` has `share` besides.
limiter.FIELDS = {
  concurrency = { type = "integer", min = 1, max = 1000000, doc = "requests at once, 5" },
  rpm = { type = "number", above = 0, doc = "requests a minute" },
  tpm = { type = "number", above = 0, doc = "tokens a minute, input and output together" },
  itpm = { type = "number", above = 0, doc = "input tokens a minute" },
  otpm = { type = "number", above = 0, doc = "output tokens a minute" },
  burst = { type = "seconds", above = 0, doc = "seconds' worth of each limit that may be used at once, 10" },
  max_wait = { type = "seconds", doc = "longest wait for a limit, 60" },
  learn = { type = "boolean", doc = "false: take no notice of the provider's rate limit headers" },
}

local SPEC = options.spec(limiter.FIELDS)

---@class sluice.LimitOptions
---@field concurrency? integer  5: requests at once
---@field rpm? number           requests a minute
---@field tpm? number           tokens a minute, input and output together (OpenAI and most others)
---@field itpm? number          input tokens a minute (Anthropic)
---@field otpm? number          output tokens a minute (Anthropic)
---@field burst? number         10: seconds' worth of each of these that may be used at once
---@field max_wait? number      60: seconds one request waits for a rate at most, then it is `throttled`; when
---given, for a place among the concurrent ones, too (which is otherwise bounded by deadlines alone)
---@field learn? boolean        true: the provider's rate limit headers make it more careful
---@field share? sluice.Limiter  what sluice.limit returned, in place of the others: several models, one limit

--- @param opts sluice.LimitOptions  checked
---@param now? fun(): number     seconds, default the loop's clock
---@param random? fun(): number  [0, 1), default the loop's
---@return sluice.Limiter
function limiter.make(opts, now, random)
  local self = setmetatable({
    permits = sync.semaphore(opts.concurrency or CONCURRENCY),
    max_wait = opts.max_wait or MAX_WAIT, place_wait = opts.max_wait,
    blind = opts.learn == false, budgets = {}, active = false, plain = true,
    gate_until = 0, gates = 0,
    waiting = 0, queued_input = 0, queued_output = 0,
    requests = 0, input_sum = 0, output_sum = 0, -- everything ever charged
    samples = {}, sample_at = 0, stale = false,
    now = now or require("sluice.core.task").now,
    random = random or require("sluice.core.sys").random,
  }, Limiter)
  local burst = opts.burst or BURST
  for _, name in ipairs(BUDGET_ORDER) do
    local per_minute = opts[BUDGETS[name]]
    if per_minute then add_budget(self, name, per_minute, per_minute * burst / 60, 0) end
  end
  return self
end

--- A limit that several models share, because they share an account:
--- `local account = sluice.limit { rpm = 1000, tpm = 50000 }`, then `limit = account` in each model.
---@param opts sluice.LimitOptions
---@return sluice.Limiter
function limiter.new(opts)
  options.check("sluice.limit", opts, SPEC)
  return limiter.make(opts)
end

--- Is this what limiter.new returns?
---@param value any
---@return boolean
function limiter.is(value)
  return type(value) == "table" and getmetatable(value) == Limiter
end

function Limiter:__tostring()
  local parts = { ("%d at once"):format(self.permits:available()) }
  for _, budget in ipairs(self.budgets) do
    parts[#parts + 1] = ("%.14g %s a minute"):format(budget.rate.limit, (budget.name:gsub("_", " ")))
  end
  return ("limit (%s)"):format(table.concat(parts, ", "))
end

return limiter
