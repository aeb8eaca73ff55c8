--- The retry quota: what all retries and hedges towards one address may cost together.
-- Owns: the account and its prices. Pure.
-- Never: waits; an empty account means that the first failure is the answer.
--
-- When a provider is down, every caller wants to retry, and the retries keep it down. So they draw on
-- one account, which only success fills: a retry costs 14, one after 429, 503 or 529 costs 5, a success
-- after a retry brings back what that retry cost, a success at the first try brings 1. These are the
-- figures of the AWS SDKs of 2026 (SEP 2.1, "new retries").

local CAPACITY = 500
local COST, COST_THROTTLED = 14, 5
local THROTTLED = { rate_limited = true, overloaded = true }
local REGISTRY_MAX = 1024 -- accounts kept before the full ones are let go

---For sluice's own modules.
---@class sluice.RetryQuota
---@field level number     what is left
---@field capacity number
local Quota = { __name = "sluice.retry_quota" }
Quota.__index = Quota

local quota = { CAPACITY = CAPACITY, COST = COST, COST_THROTTLED = COST_THROTTLED }

--- An account of its own.
---@param capacity? number  500
---@return sluice.RetryQuota
function quota.new(capacity)
  capacity = capacity or CAPACITY
  return setmetatable({ level = capacity, capacity = capacity }, Quota)
end

--- What a retry after a failure of this kind costs.
---@param kind sluice.Kind
---@return integer
function quota.cost(kind)
  return THROTTLED[kind] and COST_THROTTLED or COST
end

--- Pays; false when there is too little left, and then nothing is taken.
---@param cost number
---@return boolean
function Quota:take(cost)
  if self.level < cost then return false end
  self.level = self.level - cost
  return true
end

--- A call succeeded: after a retry or as a hedge, that one's cost comes back; else 1.
---@param paid? number  what its last retry cost
function Quota:succeeded(paid)
  local level = self.level
  if level < self.capacity then self.level = math.min(self.capacity, level + (paid or 1)) end
end

local registry, registered = {}, 0

--- The account of an address, shared by the whole process.
---@param base_url string
---@param capacity? number  another capacity is another account
---@return sluice.RetryQuota
function quota.of(base_url, capacity)
  local key = base_url .. "\n" .. tostring(capacity or CAPACITY)
  local found = registry[key]
  if found then return found end
  if registered >= REGISTRY_MAX then
    for other, kept in pairs(registry) do
      if kept.level == kept.capacity then registry[other], registered = nil, registered - 1 end
    end
  end
  found = quota.new(capacity)
  registry[key], registered = found, registered + 1
  return found
end

return quota
