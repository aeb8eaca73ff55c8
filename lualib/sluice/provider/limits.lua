--- What a reply's headers say about the rate limits of the account.
-- Owns: the header names and forms of OpenAI and Anthropic and those who copy them. Pure.
-- Never: decides anything; the limiter learns from it, and only to be more careful.
--
-- OpenAI writes the time until reset as a duration ("6m0s"), Azure as plain seconds, Anthropic as a
-- point in time, which is turned into a span by the reply's own Date. Many vendors send none.

local times = require "sluice.provider.times"

---@class sluice.RateBudget
---@field limit? integer      allowed in one period
---@field remaining? integer  left of it
---@field reset? number       seconds until it is full again, at least 0

---@class sluice.RateLimits
---@field requests? sluice.RateBudget
---@field tokens? sluice.RateBudget
---@field input_tokens? sluice.RateBudget
---@field output_tokens? sluice.RateBudget

local limits = {}

--- A count; "-1" and what is no number mean that nothing was said.
local function count(text)
  return type(text) == "string" and text:find("^%s*%d+%s*$") and math.tointeger(tonumber(text)) or nil
end

local function reset_span(text, from)
  if type(text) ~= "string" then return nil end
  local span = times.duration(text)
  if span then return span end
  local at = times.rfc3339(text)
  return at and from and math.max(0, at - from) or nil
end

local NAMES = {
  requests = { "x-ratelimit-%s-requests", "anthropic-ratelimit-requests-%s" },
  tokens = { "x-ratelimit-%s-tokens", "anthropic-ratelimit-tokens-%s" },
  input_tokens = { "anthropic-ratelimit-input-tokens-%s" },
  output_tokens = { "anthropic-ratelimit-output-tokens-%s" },
}

--- The headers of each budget, written out once.
local HEADERS = {}
for name, forms in pairs(NAMES) do
  for _, form in ipairs(forms) do
    HEADERS[#HEADERS + 1] = { name, form:format("limit"), form:format("remaining"), form:format("reset") }
  end
end

--- The budgets the headers name; nil when they name none, which is the common case.
---@param headers table<string, string>  lower-case names
---@param now? number  seconds since 1970, used when the reply has no Date header
---@return sluice.RateLimits?
function limits.parse(headers, now)
  local result
  for _, names in ipairs(HEADERS) do
    local limit, remaining = count(headers[names[2]]), count(headers[names[3]])
    if limit == 0 then limit = nil end -- Azure's way of saying nothing
    if limit or remaining then
      local date = headers["date"]
      local from = type(date) == "string" and times.http_date(date) or now
      result = result or {}
      result[names[1]] = { limit = limit, remaining = remaining, reset = reset_span(headers[names[4]], from) }
    end
  end
  return result
end

return limits
