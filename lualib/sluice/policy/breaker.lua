--- The circuit breaker: stops asking a provider that fails, and finds out when it is well again.
-- Owns: the states and their rules. Pure but for the clock and the chance it is given.
-- Never: sends, waits, or decides which errors count (policy/outcome.lua does).
-- Reading order: Breaker:enter, Permit:success, record, trip.
--
--   closed ──(too many failures)──> open ──(sleep window over)──> half ──(probes good)──> closed
--                                    ^                             │
--                                    └────────(probes bad)─────────┘
--
-- No timer: the state is worked out when somebody asks. Every change of state begins a generation;
-- what an older generation's calls report is ignored, so that late results of calls from before the
-- opening neither open it twice nor keep it open (as in sony/gobreaker).
--
-- Outcomes are success, failure, or neutral: neutral ones (a 429, a bad request, a cancellation) say
-- nothing about the provider's health; a probe that ends so gives its place back.

local observe = require "sluice.observe"

local BUCKETS = 10     -- the window moves on by a tenth of itself
local SLEEP_MAX = 60   -- seconds: where the doubling of the sleep window ends
local JITTER = 0.1     -- so that many processes do not probe at the same moment
local TICK = 1e-6      -- seconds: the clock knows nothing smaller, so a sleep may end that much too early
local REGISTRY_MAX = 1024 -- breakers kept before the idle ones are let go

---@class sluice.Breaker
---@field name string
---@field pass? sluice.BreakerPermit  for sluice's own modules: what enter() gives, when that is one for all
local Breaker = { __name = "sluice.breaker" }
Breaker.__index = Breaker

--- The right to make one call, and the place to report what came of it.
---@class sluice.BreakerPermit
---@field guard? sluice.BreakerPermit  itself, when it must be closed on every path
local Permit = { __name = "sluice.breaker.permit" }
Permit.__index = Permit

-- Counting ------------------------------------------------------------------------------------------

local function clear_counts(self)
  local calls, failures, slow = {}, {}, {}
  for i = 1, self.buckets do calls[i], failures[i], slow[i] = 0, 0, 0 end
  self.calls_in, self.failures_in, self.slow_in = calls, failures, slow
  self.calls, self.failures, self.slow_calls, self.consecutive = 0, 0, 0, 0
  self.outstanding, self.done, self.bad, self.slow_done = 0, 0, 0, 0
  self.slot = self.now() // self.width
  self.index = math.tointeger(self.slot % self.buckets) + 1
end

--- Drops the buckets that have left the window.
local function turn(self, slot)
  local steps = slot - self.slot
  if steps <= 0 then return end -- a clock never goes back, but a test's may
  local n = self.buckets
  for i = 1, math.tointeger(math.min(steps, n)) do
    local index = (self.index + i - 1) % n + 1
    self.calls = self.calls - self.calls_in[index]
    self.failures = self.failures - self.failures_in[index]
    self.slow_calls = self.slow_calls - self.slow_in[index]
    self.calls_in[index], self.failures_in[index], self.slow_in[index] = 0, 0, 0
  end
  self.slot = slot
  self.index = math.tointeger(slot % n) + 1
end

-- States --------------------------------------------------------------------------------------------

local function become(self, status)
  local before = self.status
  self.status = status
  self.generation = self.generation + 1
  clear_counts(self)
  -- one permit serves all calls of a generation while it carries nothing of its own
  local shared = status == "disabled" or status == "closed" and not self.timed
  self.pass = shared and setmetatable({ breaker = self, generation = self.generation }, Permit) or nil
  if observe.on and before then observe.on:breaker_changed(self, self.now(), before, status, self.why) end
end

local function close(self)
  self.opens, self.why = 0, nil
  become(self, "closed")
end

local function open(self, why)
  self.opens = self.opens + 1
  local sleep = math.min(self.sleep_window * 2.0 ^ (self.opens - 1), math.max(self.sleep_max, self.sleep_window))
  self.open_until = self.now() + sleep * (1 + self.jitter * (2 * self.random() - 1))
  self.why = why
  become(self, "open")
  if why then
    require "sluice.log".call("warn", "the breaker is open: requests are refused for a while", { model = self.name,
      why = why, seconds = tonumber(("%.3g"):format(self.open_until - self.now())) })
  end
end

--- Why the counts call for opening, or nil.
local function too_bad(self, calls, failures, slow)
  if failures / calls >= self.error_rate then
    return ("%d of %d calls failed"):format(failures, calls)
  end
  if self.slow_rate and slow / calls >= self.slow_rate then
    return ("%d of %d calls took more than %.14g s"):format(slow, calls, self.slow)
  end
end

local function is_slow(self, took)
  return took ~= nil and self.slow and took > self.slow
end

local function record_probe(self, permit, failed, slow)
  self.outstanding = self.outstanding - 1
  self.done = self.done + 1
  if failed then self.bad = self.bad + 1 end
  if slow then self.slow_done = self.slow_done + 1 end
  if self.done < self.probes then return end
  if too_bad(self, self.done, self.bad, self.slow_done) then
    return open(self, self.bad > 0 and "a probe failed" or "a probe was slow")
  end
  close(self)
  require "sluice.log".call("info", "the breaker is closed again", { model = self.name })
  permit.generation = self.generation -- a stream that this probe opened may still break
end

local function record(self, permit, failed, slow, at)
  if self.status == "half" then return record_probe(self, permit, failed, slow) end
  if self.status ~= "closed" then return end
  local slot = (at or self.now()) // self.width
  if slot ~= self.slot then turn(self, slot) end
  local index, calls = self.index, self.calls + 1
  self.calls = calls
  self.calls_in[index] = self.calls_in[index] + 1
  if slow then
    self.slow_calls = self.slow_calls + 1
    self.slow_in[index] = self.slow_in[index] + 1
  end
  if failed then
    self.failures = self.failures + 1
    self.failures_in[index] = self.failures_in[index] + 1
    self.consecutive = self.consecutive + 1
    if self.trip_after and self.consecutive >= self.trip_after then
      return open(self, ("%d calls in a row failed"):format(self.consecutive))
    end
  else
    self.consecutive = 0
  end
  -- a success can tip the balance too: it may be the call that fills the volume
  if calls >= self.volume and (self.failures > 0 or self.slow_calls > 0) then
    local why = too_bad(self, calls, self.failures, self.slow_calls)
    if why then open(self, why) end
  end
end

-- Permits -------------------------------------------------------------------------------------------

--- Ends a permit; false when it had ended, or belongs to a generation that is over.
local function finish(permit)
  if permit.ended then return false end
  if permit.guard then permit.ended = true end
  return permit.generation == permit.breaker.generation
end

--- The call did what it should. For a stream this is its first content, not its end.
---@param took? number  seconds
---@param at? number    the time now, if the caller knows it
function Permit:success(took, at)
  local breaker = self.breaker
  if breaker.pass == self and breaker.status == "closed" and breaker.failures == 0 and breaker.slow_calls == 0 then
    local slow = breaker.slow
    if not (slow and took and took > slow) and (at or breaker.now()) // breaker.width == breaker.slot then
      -- nothing to weigh up: this is nearly every call there is
      local index, calls_in = breaker.index, breaker.calls_in
      calls_in[index] = calls_in[index] + 1
      breaker.calls = breaker.calls + 1
      breaker.consecutive = 0
      return
    end
  end
  if finish(self) then record(breaker, self, false, is_slow(breaker, took), at) end
end

--- The provider failed.
---@param took? number  seconds
---@param err? any      what happened; the message of a refusal quotes the last one
function Permit:failure(took, err)
  if not finish(self) then return end
  self.breaker.last_failure = err
  record(self.breaker, self, true, is_slow(self.breaker, took))
end

--- The call says nothing about the provider: a probe's place is free again.
function Permit:neutral()
  local breaker = self.breaker
  if finish(self) and self.probing then breaker.outstanding = breaker.outstanding - 1 end
end

--- The call was given up from outside. If it had been slow by then, it is on record as slow, or a
--- breaker that watches slowness would never see the calls that a deadline or a faster rival cut short.
---@param took number       seconds
---@param expired? boolean  a deadline gave it up: then slow is a failure
function Permit:abandoned(took, expired)
  local breaker = self.breaker
  local was_slow = breaker.slow and took >= breaker.slow
  if not was_slow or not (expired or breaker.slow_rate) then return self:neutral() end
  if not finish(self) then return end
  if expired then breaker.last_failure = "a deadline passed before an answer came" end
  record(breaker, self, expired, true)
end

--- A stream broke after its commit was reported as a success: one failure more.
---@param err? any
function Permit:broke(err)
  local breaker = self.breaker
  if self.generation ~= breaker.generation or breaker.status ~= "closed" then return end
  breaker.last_failure = err
  record(breaker, self, true, false)
end

--- Whoever leaves without a word was neutral: a raising predicate cannot leak a probe's place.
Permit.__close = Permit.neutral

-- Asking --------------------------------------------------------------------------------------------

--- May a call be made now? Takes nothing.
--- For sluice's own modules.
---@return boolean refused
---@return number? wait  seconds until it is worth asking again, if that is known
function Breaker:peek()
  local status = self.status
  if status == "closed" or status == "disabled" then return false end
  if status == "open" then
    local wait = self.open_until - self.now()
    if wait > TICK then return true, wait end
    become(self, "half")
    return false
  end
  if status == "half" then return self.outstanding + self.done >= self.probes end
  return true -- forced open
end

--- For sluice's own modules.
--- Takes a permit. Report to it, or close it: a permit with `guard` set may hold a place until then.
---@return sluice.BreakerPermit? permit  nil: refused
---@return number? wait  seconds until it is worth asking again, if that is known
function Breaker:enter()
  if self.pass then return self.pass end
  local refused, wait = self:peek()
  if refused then return nil, wait end
  local permit = setmetatable({ breaker = self, generation = self.generation, ended = false }, Permit)
  permit.guard = permit
  if self.status == "half" then
    self.outstanding = self.outstanding + 1
    permit.probing = true
  end
  return permit
end

-- Looking and forcing -------------------------------------------------------------------------------

--- "closed": calls go out. "open": they are refused, for a while. "half": some go out, to find out whether the
--- provider is well again. "forced_open" and "disabled": somebody said so.
---@return "closed"|"open"|"half"|"forced_open"|"disabled"
function Breaker:state()
  self:peek() -- may find that the sleep window is over
  return self.status
end

---What a breaker counts: in its window, or of the probes while it is half open.
---@class sluice.BreakerCounts
---@field state "closed"|"open"|"half"|"forced_open"|"disabled"
---@field calls integer
---@field failures integer
---@field slow integer         calls that took longer than `slow`
---@field consecutive integer  failures in a row
---@field wait? number         seconds until it probes
---@field why? string          what opened it

--- What is counted now.
---@return sluice.BreakerCounts
function Breaker:counts()
  local _, wait = self:peek()
  if self.status == "closed" then turn(self, self.now() // self.width) end
  local half = self.status == "half"
  return { state = self.status, calls = half and self.done or self.calls, failures = half and self.bad or self.failures,
    slow = half and self.slow_done or self.slow_calls, consecutive = self.consecutive, wait = wait, why = self.why }
end

--- Why calls are refused, in words; nil when they are not.
---@return string?
function Breaker:reason()
  local status = self.status
  if status == "forced_open" then return "it was opened by hand" end
  if status == "half" then return "it is being probed" end
  if status ~= "open" then return nil end
  local why, last = self.why or "it was opened by hand", self.last_failure
  if type(last) == "table" then last = ("%s: %s"):format(last.kind, last.message) end
  return last and ("%s, the last with %s"):format(why, last) or why
end

--- Refuses calls: for `seconds`, then it probes; without an argument until close() or reset().
---@param seconds? number
function Breaker:open(seconds)
  self.last_failure = nil
  if seconds then
    open(self, nil)
    self.open_until = self.now() + seconds
  else
    self.opens, self.why = 0, nil
    become(self, "forced_open")
  end
end

--- Lets calls through and counts from nothing, whatever the state was.
function Breaker:close()
  self.last_failure = nil
  close(self)
end

--- The same as close().
function Breaker:reset()
  self:close()
end

--- Lets every call through and counts none, until close(), reset() or open().
function Breaker:disable()
  self.opens, self.why = 0, nil
  become(self, "disabled")
end

function Breaker:__tostring()
  return ("breaker of %s (%s)"):format(self.name, self:state())
end

-- Making --------------------------------------------------------------------------------------------

local breaker = {}

--- The options with their defaults, those of Hystrix (which the models' docs promise).
breaker.FIELDS = {
  volume = { type = "integer", min = 1, default = 20, doc = "calls in the window before the rates count" },
  error_rate = { type = "number", above = 0, max = 1, default = 0.5, doc = "failures that open it" },
  window = { type = "seconds", above = 0, default = 10, doc = "seconds that are looked back" },
  sleep_window = { type = "seconds", above = 0, default = 5, doc = "seconds before the first probe, doubling to 60" },
  trip_after = { type = { "integer", "false" }, min = 1, default = 5, doc = "failures in a row that open it" },
  slow = { type = "seconds", above = 0, doc = "seconds after which a call counts as slow" },
  slow_rate = { type = "number", above = 0, max = 1, doc = "slow calls that open it; off unless given" },
  probes = { type = "integer", min = 1, default = 1, doc = "calls that try out whether it is well again" },
}

---@class sluice.BreakerOptions
---@field volume? integer        20: calls in the window before the rates count
---@field error_rate? number     0.5: share of failures that opens it
---@field window? number         10: seconds
---@field sleep_window? number   5: seconds until the first probe; doubles with every failed one, to 60
---@field trip_after? integer|false  5: failures in a row that open it, for scripts that never reach the volume
---@field slow? number           seconds after which a call is slow, default timeout.first_token
---@field slow_rate? number      share of slow calls that opens it; off unless given
---@field probes? integer        1: calls let through to find out whether the provider is well again

--- A breaker of its own.
---@param name string
---@param opts sluice.BreakerOptions  all defaults filled in; sleep_max, jitter and buckets for tests
---@param now? fun(): number     seconds, default the loop's clock
---@param random? fun(): number  [0, 1), default the loop's
---@return sluice.Breaker
function breaker.new(name, opts, now, random)
  local buckets = opts.buckets or BUCKETS
  local self = setmetatable({
    name = name,
    volume = opts.volume, error_rate = opts.error_rate, trip_after = opts.trip_after or false,
    slow = opts.slow or false, slow_rate = opts.slow_rate or false,
    sleep_window = opts.sleep_window, sleep_max = opts.sleep_max or SLEEP_MAX, probes = opts.probes,
    jitter = opts.jitter or JITTER,
    -- a call that is cut short counts when it was slow: then each call has a permit of its own
    timed = opts.slow_rate and true or opts.watch_slow or false,
    buckets = buckets, width = opts.window / buckets,
    now = now or require("sluice.core.task").now,
    random = random or require("sluice.core.sys").random,
    generation = 0, opens = 0,
  }, Breaker)
  become(self, "closed")
  return self
end

local registry, registered = {}, 0

local function forget_idle()
  for key, kept in pairs(registry) do
    if kept:state() == "closed" and kept:counts().calls == 0 then
      registry[key], registered = nil, registered - 1
    end
  end
end

local ORDER = { "volume", "error_rate", "window", "sleep_window", "trip_after", "slow", "slow_rate", "probes",
  "watch_slow" }

--- The breaker of this address and model, shared by the whole process: a model made anew for every
--- request still knows what happened to the one before. Other options make another breaker.
---@param base_url string
---@param name string
---@param opts sluice.BreakerOptions
---@return sluice.Breaker
function breaker.of(base_url, name, opts)
  local parts = { base_url, name }
  for i, option in ipairs(ORDER) do parts[i + 2] = tostring(opts[option]) end
  local key = table.concat(parts, "\n")
  local found = registry[key]
  if found then return found end
  if registered >= REGISTRY_MAX then forget_idle() end
  found = breaker.new(name, opts)
  registry[key], registered = found, registered + 1
  return found
end

return breaker
