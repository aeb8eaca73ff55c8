--- What a failure means for each policy: one table, so that they cannot disagree.
-- Owns: which kinds are the provider's fault, and what is known to have been used by a failed request.
-- Pure.

local outcome = {}

-- Kinds a breaker counts against the provider. A 429 is not among them: the provider is well and says
-- so, and the limiter's gate is the answer to it. Neither is anything the request or the account is at
-- fault for, nor what was refused here.
local FAILURES = { network = true, timeout = true, server = true, overloaded = true, protocol = true }

--- What a breaker makes of it: true for a failure, false for a success, nil for neither.
---@param err sluice.Error
---@return boolean?
function outcome.failed(err)
  if err.kind == "filtered" then return false end -- it answered
  if err.kind == "timeout" and err.phase == "deadline" then return nil end
  if err.code == "tool_arguments" and err.should_retry == false then return false end -- cut by max_tokens
  return FAILURES[err.kind]
end

--- Settles the charge of a request that failed before any content, by what is likely to be counted.
---@param charge sluice.Charge
---@param err sluice.Error
function outcome.settle(charge, err)
  local status = err.status
  if err.phase == "connect" or err.phase == "tls" then return charge:refund() end -- it never got there
  if status and status >= 400 and status < 500 then return charge:settle(0, 0) end
  if status or err.kind == "network" then return charge:settle(charge.input, 0) end
  -- silence: it may be writing the whole answer for nobody, so the estimate stays
end

return outcome
