--- When to try again, and after how long.
-- Owns: which failures are worth another attempt of the same request, and the formula of the delay.
-- Pure: chance and the time left are given. Never sleeps, never counts attempts, never pays
-- (policy/quota.lua does).
--
-- A request that was sent and met silence is not sent again unless `resend` says so: it may have been
-- paid for, and a silent route mostly stays silent. A failure after content is never retried at all.

local retry = {}

local BASE, THROTTLED_BASE = 0.5, 1.0 -- seconds: first delay; the one after 429, 503, 529
local CAP = 20                        -- seconds: longest delay of our own
local MAX_WAIT = 60                   -- seconds: a longer Retry-After is not waited for
local SKEW = 1                        -- seconds: most that chance adds to a Retry-After
local DOUBLINGS_MAX = 64              -- beyond it the power would overflow, and the cap has long won

local RETRIED = { network = true, server = true, overloaded = true, rate_limited = true, protocol = true }
local THROTTLED = { overloaded = true, rate_limited = true }
local SENT_AND_SILENT = { first_token = true, idle = true, slow = true }

--- May this failure be mended by the same request once more?
---@param err sluice.Error
---@param opts { resend?: boolean }
---@return boolean
function retry.worthwhile(err, opts)
  if err.kind == "cancelled" or err.kind == "interrupted" then return false end
  if err.should_retry ~= nil then return err.should_retry end -- the provider's x-should-retry
  if err.kind == "timeout" then
    if err.phase == "connect" then return true end
    return opts.resend == true and SENT_AND_SILENT[err.phase] == true
  end
  if err.kind == "network" and err.phase == "tls" then return false end -- a bad certificate stays bad
  return RETRIED[err.kind] or false
end

--- Seconds to wait before attempt `n + 1`: what the server asked for and a little more, never less;
--- else full jitter, `random · min(cap, base · 2^(n-1))`. Nil: the server asks for longer than
--- `max_wait`; then it is better to fail now.
---@param err sluice.Error
---@param n integer        attempts made so far
---@param opts { base?: number, cap?: number, max_wait?: number }
---@param random number    [0, 1)
---@return number?
function retry.backoff(err, n, opts, random)
  local asked = err.retry_after
  if asked and asked > 0 then
    if asked > (opts.max_wait or MAX_WAIT) then return nil end
    return asked + random * math.min(SKEW, 0.1 * asked)
  end
  local base = opts.base or BASE
  if THROTTLED[err.kind] then base = math.max(base, THROTTLED_BASE) end
  return random * math.min(opts.cap or CAP, base * 2.0 ^ math.min(n - 1, DOUBLINGS_MAX))
end

--- The least time an attempt must have, to be worth its price: time to connect and some of what the
--- first content may take, but no more than half of what the call had to begin with, so that a short
--- deadline allows retries, too.
---@param timeout { connect: number, first_token: number }
---@param left_at_start number  seconds the call had when it began
---@return number seconds
function retry.min_useful(timeout, left_at_start)
  return math.max(1, math.min(timeout.connect + 0.2 * timeout.first_token, left_at_start / 2))
end

--- Seconds to wait before attempt `n + 1`, or nil when it is not worth it.
---@param err sluice.Error
---@param n integer           attempts made so far
---@param opts { attempts: integer, base?: number, cap?: number, max_wait?: number, resend?: boolean }
---@param random number       [0, 1)
---@param left? number        seconds to the nearest deadline
---@param min_useful? number  seconds that must remain after the wait
---@param patience? number    the longest wait the caller has time for
---@return number? delay
function retry.delay(err, n, opts, random, left, min_useful, patience)
  if n >= opts.attempts or not retry.worthwhile(err, opts) then return nil end
  local delay = retry.backoff(err, n, opts, random)
  if not delay then return nil end
  if patience and delay > patience then return nil end
  if left and (delay >= left or left - delay < (min_useful or 0)) then return nil end
  return delay
end

return retry
