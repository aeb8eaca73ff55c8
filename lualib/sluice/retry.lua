--- When to try again, and after how long.
-- Owns: which failures are worth another attempt of the same request, and the formula of the delay.
-- Pure: chance and the time left are given. Never sleeps, never counts attempts.
--
-- A request that was sent and met silence is not sent again unless `resend` says so: it may have been
-- paid for, and a silent route mostly stays silent. A failure after content is never retried at all.

local retry = {}

local BASE, THROTTLED_BASE = 0.5, 1.0 -- seconds: first delay; the second one after 429, 503, 529
local CAP = 20                        -- seconds: longest delay of our own
local MAX_WAIT = 60                   -- seconds: a longer Retry-After is not waited for
local SKEW = 1                        -- seconds: most that chance adds to a Retry-After

local RETRIED = { network = true, server = true, overloaded = true, rate_limited = true, protocol = true }
local THROTTLED = { overloaded = true, rate_limited = true }

--- May this failure be mended by the same request once more?
---@param err sluice.Error
---@param opts { resend?: boolean }
---@return boolean
function retry.worthwhile(err, opts)
  if err.kind == "cancelled" or err.kind == "interrupted" then return false end
  if err.should_retry ~= nil then return err.should_retry end -- the provider's x-should-retry
  if err.kind == "timeout" then
    if err.phase == "connect" then return true end
    return opts.resend == true and (err.phase == "first_token" or err.phase == "idle")
  end
  if err.kind == "network" and err.phase == "tls" then return false end -- a bad certificate stays bad
  return RETRIED[err.kind] or false
end

--- Seconds to wait before attempt `n + 1`, or nil when it is not worth it.
---@param err sluice.Error
---@param n integer        attempts made so far
---@param opts { attempts: integer, base?: number, cap?: number, max_wait?: number, resend?: boolean }
---@param random number    [0, 1)
---@param left? number     seconds to the nearest deadline
---@return number? delay
function retry.delay(err, n, opts, random, left)
  if n >= opts.attempts or not retry.worthwhile(err, opts) then return nil end
  local delay
  local asked = err.retry_after
  if asked and asked > 0 then
    if asked > (opts.max_wait or MAX_WAIT) then return nil end
    delay = asked + random * math.min(SKEW, 0.1 * asked) -- never earlier than asked
  else
    local base = THROTTLED[err.kind] and math.max(opts.base or 0, THROTTLED_BASE) or opts.base or BASE
    if opts.base and not THROTTLED[err.kind] then base = opts.base end
    delay = random * math.min(opts.cap or CAP, base * 2.0 ^ (n - 1))
  end
  if left and delay >= left then return nil end
  return delay
end

return retry
