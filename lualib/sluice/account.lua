--- What a run came to: calls, tokens, money, failures, times, the slowest calls, fallbacks.
-- Owns: the sums, in memory that does not grow with the run. An observer (observe.lua); the summary of -v
-- (account/summary.lua), the page of --report (account/page.lua) and progress lines read it.
-- Never: keeps the text of a prompt, an answer, or what a provider said of a failure (it may quote them).
--
-- Calls count when they end; failures count twice, as attempts (each that failed) and as calls (what the
-- script saw of it).

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local observe = require "sluice.observe"
local price = require "sluice.price"
local Load = require "sluice.account.load"
local Sketch = require "sluice.account.sketch"

local SLOWEST = 25    -- calls that are kept with all their attempts
local PIECES = 40     -- attempts and waits of one of them
local NAMES = 40      -- models, steps, kinds …; what comes after is counted under "others"
local NAME_MAX = 100  -- bytes

---@class sluice.AccountPiece  a wait or an attempt of a slow call
---@field what string     "attempt", "refused", or what was waited for
---@field from number     seconds since the call began
---@field to number
---@field number? integer of an attempt
---@field outcome? string
---@field kind? string    of a failure
---@field status? integer
---@field ttft? number
---@field delay? number   until the next attempt

---@class sluice.AccountCall
---@field name string
---@field chain? string
---@field at number       seconds since the start
---@field seconds number
---@field outcome string
---@field kind? string
---@field streaming boolean
---@field output? integer tokens
---@field pieces sluice.AccountPiece[]
---@field more integer    pieces that were not kept

---@class sluice.AccountModel
---@field calls integer
---@field failed integer
---@field input integer
---@field output integer
---@field money sluice.Money
---@field duration sluice.Sketch

---@class sluice.Account
---@field started number   task.now()
---@field slowest sluice.AccountCall[]  the slowest first
---@field slow boolean     they are kept
---@field models table<string, sluice.AccountModel>
local Account = { __name = "sluice.account" }
Account.__index = Account

--- A table by name that stops growing.
local function named(make)
  return { list = {}, count = 0, make = make }
end

local function entry(set, name)
  local known = set.list[name]
  if known then return known end
  if set.count >= NAMES then name = "others" end
  known = set.list[name]
  if not known then
    known = set.make()
    set.list[name], set.count = known, set.count + 1
  end
  return known
end

local function counter() return { count = 0, seconds = 0, most = 0 } end

local function model_entry()
  return { calls = 0, failed = 0, input = 0, output = 0, money = price.money(), duration = Sketch.new() }
end

local function failure_entry() return { calls = 0, attempts = 0, statuses = named(counter) } end

---@param opts? { slow?: boolean }  slow: keep the slowest calls with all their attempts
---@return sluice.Account
function Account.new(opts)
  return setmetatable({ started = core.now(), slow = opts and opts.slow or false,
    calls = 0, streams = 0, ok = 0, failed = 0, abandoned = 0, cancelled = 0, attempts = 0, retries = 0, hedges = 0,
    rescued = 0, input = 0, output = 0, cached = 0, reasoning = 0, money = price.money(), duration = Sketch.new(),
    first = Sketch.new(), load = Load.new(), slowest = {}, by_name = {}, model_set = named(model_entry),
    failure_set = named(failure_entry), wait_set = named(counter), move_set = named(counter),
    answer_set = named(counter), breaker_set = named(counter), token_set = named(counter) }, Account)
end

--- Begins to listen.
---@return sluice.Account
function Account:start()
  return observe.subscribe(self)
end

--- Ends it; what is still open counts as far as it went.
---@return sluice.Account
function Account:stop()
  observe.sweep()
  observe.unsubscribe(self)
  self:settle()
  return self
end

--- Brings what depends on the time up to now.
function Account:settle()
  self.seconds = core.now() - self.started
  self.load:advance(self.seconds)
end

-- Calls ---------------------------------------------------------------------------------------------

local function piece(self, call, made)
  local pieces = call[self]
  if not pieces then return end
  if #pieces >= PIECES then
    pieces.more = (pieces.more or 0) + 1
  else
    pieces[#pieces + 1] = made
  end
end

function Account:call_began(call)
  if self.slow then call[self] = {} end
end

local function kind_of(err)
  return errors.is(err) and err.kind or "error"
end

function Account:waited(call, at, what, began)
  local waits = entry(self.wait_set, what)
  waits.count, waits.seconds = waits.count + 1, waits.seconds + at - began
  waits.most = math.max(waits.most, at - began)
  piece(self, call, { what = what, from = began - call.began, to = at - call.began })
end

function Account:attempt_sent(_, at)
  self.attempts = self.attempts + 1
  self.load:change(at - self.started, 1)
end

function Account:content(_, _, ttft)
  self.first:add(ttft)
end

local function count_failure(self, what)
  local failures = entry(self.failure_set, kind_of(what))
  failures.attempts = failures.attempts + 1
  local status = errors.is(what) and what.status
  if status then
    local statuses = entry(failures.statuses, tostring(math.tointeger(status) or status))
    statuses.count = statuses.count + 1
  end
end

function Account:attempt_ended(call, at, outcome, what, delay)
  self.load:change(at - self.started, -1)
  if delay then self.retries = self.retries + 1 end
  local broken = outcome == "error" or outcome == "interrupted"
  if broken then
    self.load:fail(at - self.started)
    count_failure(self, what)
  end
  piece(self, call, { what = "attempt", number = call.attempt, from = call.sent - call.began, to = at - call.began,
    outcome = outcome, kind = broken and kind_of(what) or nil, status = broken and errors.is(what) and what.status
      or nil,
    ttft = call.ttft or outcome == "ok" and call.streaming and what.ttft or nil, delay = delay })
end

function Account:refused(call, at, err, delay)
  if delay then self.retries = self.retries + 1 end
  count_failure(self, err)
  piece(self, call, { what = "refused", number = call.attempt, from = at - call.began, to = at - call.began,
    kind = kind_of(err), delay = delay })
end

local function count_usage(self, call, usage, model)
  local input, output = usage and usage.input_tokens or 0, usage and usage.output_tokens or 0
  self.input, self.output = self.input + input, self.output + output
  self.cached = self.cached + (usage and usage.cached_tokens or 0)
  self.reasoning = self.reasoning + (usage and usage.reasoning_tokens or 0)
  model.input, model.output = model.input + input, model.output + output
  local amount, currency = price.cost(call.price or price.of(call.name), usage)
  self.money:add(amount, currency)
  model.money:add(amount, currency)
end

--- May something have been generated, and be billed? How much, nobody has said.
local function may_cost(outcome, what)
  return outcome ~= "error" or what.kind == "timeout" and what.phase ~= "connect"
end

local function model_of(self, name)
  local known = self.by_name[name] -- nearly always
  if known then return known end
  known = entry(self.model_set, errors.one_line(name, NAME_MAX))
  if self.model_set.count < NAMES then self.by_name[name] = known end
  return known
end

--- Keeps it if it is among the slowest.
local function keep(self, call, at, outcome, what)
  local pieces, slowest, seconds = call[self], self.slowest, at - call.began
  if not pieces then return end
  call[self] = nil
  if #slowest >= SLOWEST and seconds <= slowest[#slowest].seconds then return end
  local place = #slowest + 1
  while place > 1 and slowest[place - 1].seconds < seconds do place = place - 1 end
  local good = outcome == "ok" or outcome == "abandoned"
  table.insert(slowest, place, { name = errors.one_line(call.name, NAME_MAX),
    chain = call.chain and errors.one_line(call.chain.name, NAME_MAX) or nil, at = call.began - self.started,
    seconds = seconds, outcome = outcome, kind = not good and kind_of(what) or nil, streaming = call.streaming,
    output = good and what.usage and what.usage.output_tokens or nil, pieces = pieces, more = pieces.more or 0 })
  slowest[SLOWEST + 1] = nil
end

function Account:call_ended(call, at, outcome, what)
  if outcome == "error" and not errors.is(what) then return end -- a fault of the script's: no call was made
  self.calls = self.calls + 1
  if call.streaming then self.streams = self.streams + 1 end
  local model = model_of(self, call.name)
  model.calls = model.calls + 1
  if outcome == "ok" or outcome == "abandoned" then
    count_usage(self, call, what.usage, model)
  elseif call.attempt > 0 and may_cost(outcome, what) then
    count_usage(self, call, errors.is(what) and what.usage or nil, model)
  end
  if outcome == "ok" then
    self.ok = self.ok + 1
    self.duration:add(at - call.began)
    model.duration:add(at - call.began)
  elseif outcome == "abandoned" then self.abandoned = self.abandoned + 1
  elseif outcome == "cancelled" then self.cancelled = self.cancelled + 1
  else
    self.failed, model.failed = self.failed + 1, model.failed + 1
    local failures = entry(self.failure_set, kind_of(what))
    failures.calls = failures.calls + 1
  end
  keep(self, call, at, outcome, what)
end

-- Chains --------------------------------------------------------------------------------------------

local function add(set, name, fields)
  local known = entry(set, name)
  known.count = known.count + 1
  if known ~= set.list[name] then return end -- of the others
  for key, value in pairs(fields) do known[key] = known[key] or value end
end

function Account:chain_moved(_, _, from, to, why, how)
  local reason = how == "declined" and how or how == "slow" and how or tostring(why.kind)
  local a, b = errors.one_line(from.name, NAME_MAX), errors.one_line(to.name, NAME_MAX)
  add(self.move_set, a .. "\0" .. b .. "\0" .. reason, { from = a, to = b, why = reason })
  if how == "slow" then self.hedges = self.hedges + 1 end
end

function Account:chain_answered(chain, _, step, why)
  local a, b = errors.one_line(chain.name, NAME_MAX), errors.one_line(step.name, NAME_MAX)
  local reason = step.index > 1 and tostring(why.kind) or ""
  add(self.answer_set, a .. "\0" .. step.index .. "\0" .. reason, { chain = a, step = step.index, name = b,
    why = reason })
end

function Account:chain_rescued()
  self.rescued = self.rescued + 1
end

-- The rest ------------------------------------------------------------------------------------------

function Account:breaker_changed(breaker, _, _, after)
  if after == "open" then add(self.breaker_set, errors.one_line(breaker.name, NAME_MAX), {}) end
end

function Account:token_refreshed(name, _, outcome)
  add(self.token_set, errors.one_line(tostring(name), NAME_MAX) .. "\0" .. outcome,
    { name = errors.one_line(tostring(name), NAME_MAX), outcome = outcome })
end

-- Reading -------------------------------------------------------------------------------------------

--- The entries of a set as a list, the largest first: each has its `name`.
---@param which "model"|"failure"|"wait"|"move"|"answer"|"breaker"|"token"
---@return table[]
function Account:list(which)
  local list = {}
  for name, known in pairs(self[which .. "_set"].list) do
    known.name = known.name or name
    list[#list + 1] = known
  end
  local function size(e) return e.count or e.attempts or e.calls end
  table.sort(list, function(a, b)
    if size(a) ~= size(b) then return size(a) > size(b) end
    return a.name .. tostring(a.why) < b.name .. tostring(b.why)
  end)
  return list
end

return Account
