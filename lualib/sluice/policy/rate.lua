--- One rate: so many of something per minute, by the generic cell rate algorithm (GCRA).
-- Owns: the arithmetic of one budget. Pure: the time is an argument, in seconds.
-- Never: waits or queues (limiter.lua does).
--
-- The whole state is `tat`, the theoretical arrival time: the moment by which everything charged so
-- far would have been spread out evenly. A cost is let through when that moment lies less than one
-- burst ahead. This is a bucket that refills continuously, which is how OpenAI and Anthropic describe
-- theirs. Two things differ from the usual text:
--   - a cost larger than the burst waits for a full bucket and then leaves debt; elsewhere it is refused
--     for ever (redis_rate, golang.org/x/time/rate), but a long prompt must get through some time;
--   - what was charged by estimate is settled by the real count, in both directions.

---@class sluice.Rate
---@field limit number       per minute
---@field burst number       units that may be used at once when nothing was used for a while
---@field busy_since number  since then the bucket has not been full
local Rate = { __name = "sluice.rate" }
Rate.__index = Rate

--- Seconds until `cost` may be charged; 0: now. `ahead`: what waits in front of it.
---@param cost number
---@param now number
---@param ahead? number
---@return number
function Rate:wait(cost, now, ahead)
  local tat, burst = self.tat, self.burst
  if tat < now then tat = now end
  if cost > burst then cost = burst end
  local wait = tat + self.interval * ((ahead or 0) + cost - burst) - now
  return wait > 0 and wait or 0
end

--- Charges all of `cost`, whether there is room or not.
---@param cost number
---@param now number
function Rate:charge(cost, now)
  local tat = self.tat
  if tat <= now then -- all that was charged before has been refilled since
    tat, self.busy_since = now, now
  end
  self.tat = tat + self.interval * cost
end

--- Puts `difference` (real less estimated) on a charge. A refund counts only while the bucket has not
--- been full since: what time has refilled already cannot be given back as well.
---@param difference number
---@param at? number  when it was charged
function Rate:settle(difference, at)
  if difference < 0 and at and at < self.busy_since then return end
  self.tat = self.tat + self.interval * difference
end

--- Units that could be used at once; negative when in debt.
---@param now number
---@return number
function Rate:left(now)
  local ahead = self.tat - now
  return self.burst - (ahead > 0 and ahead or 0) / self.interval
end

--- Makes sure that no more than `left` is believed to be left.
---@param left number
---@param now number
function Rate:tighten(left, now)
  if left >= self:left(now) then return end
  if self.tat <= now then self.busy_since = now end
  self.tat = now + self.interval * (self.burst - left)
end

--- Another limit: what is used stays used.
---@param per_minute number
---@param burst? number  a sixth
---@param now number
function Rate:adopt(per_minute, burst, now)
  local used = self.burst - self:left(now)
  self.limit, self.interval, self.burst = per_minute, 60 / per_minute, burst or per_minute / 6
  if used > 0 then self.tat = now + self.interval * used end
end

local rate = {}

--- Charges a request with so much input and output to each budget, when none of them would have to wait
--- for longer than `most`; else charges nothing. The same as wait and charge of each, for the way that
--- nearly every request goes.
---@param budgets { rate: sluice.Rate, per_request: number, per_input: number, per_output: number }[]
---@param now number
---@param most number  seconds
---@param input number
---@param output number
---@return boolean
function rate.charge_now(budgets, now, most, input, output)
  for i = 1, #budgets do
    local budget = budgets[i]
    local r = budget.rate
    local tat = r.tat
    if tat > now then -- else all of the burst is there
      local cost, burst = budget.per_request + budget.per_input * input + budget.per_output * output, r.burst
      if tat + r.interval * ((cost < burst and cost or burst) - burst) - now > most then return false end
    end
  end
  for i = 1, #budgets do
    local budget = budgets[i]
    local r = budget.rate
    local tat = r.tat
    if tat <= now then
      tat, r.busy_since = now, now
    end
    r.tat = tat + r.interval * (budget.per_request + budget.per_input * input + budget.per_output * output)
  end
  return true
end

--- A budget of `per_minute`, of which `burst` may be used at once.
---@param per_minute number
---@param burst? number  units, at least 1, default a sixth: ten seconds' worth
---@return sluice.Rate
function rate.new(per_minute, burst)
  return setmetatable({ limit = per_minute, interval = 60 / per_minute, burst = math.max(1, burst or per_minute / 6),
    tat = 0, busy_since = 0 }, Rate)
end

return rate
