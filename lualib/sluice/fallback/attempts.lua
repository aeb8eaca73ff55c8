--- Who was asked, when, and what came: `attempts` of a chain's replies and errors.
-- Owns: the form of an entry. A step that a model answered after two retries has three.
--
-- { step = 1, name = "openai/big", at = 0, elapsed = 0.2, provider =, model =, kind =, status =, message =,
--   waited =, usage =, usd =, request_id =, cancelled = true }
-- `at` and `elapsed` in seconds, `at` since the chain was asked. `kind` is what went wrong; without it
-- and `cancelled` the attempt answered. A chain as a step: `name` is "outer > inner".

local errors = require "sluice.errors"

local attempts = {}

--- The entries a model or an inner chain has written down, or nil.
local function told(outcome)
  if type(outcome) ~= "table" then return nil end
  local list = outcome.attempts
  return type(list) == "table" and #list > 0 and list or nil
end

local function expand(list, entries, s, started)
  local at = started
  for _, entry in ipairs(entries) do
    local copy = {}
    for key, value in pairs(entry) do copy[key] = value end
    if entry.step then -- of an inner chain, which knows its own times
      copy.name, copy.at = ("%s > %s"):format(s.name, entry.name), started + (entry.at or 0)
    else
      at = at + (entry.waited or 0)
      copy.name, copy.at = s.name, at
      at = at + (entry.elapsed or 0)
    end
    copy.step = s.index
    list[#list + 1] = copy
  end
end

--- Writes down how a step ended.
---@param list table[]
---@param s { index: integer|string, name: string, target?: any }
---@param outcome any       a reply, an error
---@param started number    since the chain was asked
---@param elapsed number
function attempts.add(list, s, outcome, started, elapsed)
  local entries = told(outcome)
  if entries then return expand(list, entries, s, started) end
  local entry = { step = s.index, name = s.name, at = started, elapsed = elapsed }
  if errors.is(outcome) then
    entry.kind, entry.status, entry.code, entry.message = outcome.kind, outcome.status, outcome.code, outcome.message
  elseif type(outcome) == "string" then
    entry.kind, entry.message = "error", outcome
  end
  if type(outcome) == "table" then
    entry.provider, entry.model, entry.request_id = outcome.provider, outcome.model, outcome.request_id
    local usage = outcome.usage
    if type(usage) == "table" and next(usage) then entry.usage = usage end
  end
  list[#list + 1] = entry
end

--- Writes down that a step was stopped because another one was first.
---@param list table[]
---@param s sluice.Step
---@param started number
---@param elapsed number
---@param outcome? any  what it had come to, unnoticed: an answer too late was paid for, a failure is one
function attempts.add_cancelled(list, s, started, elapsed, outcome)
  if outcome ~= nil then
    attempts.add(list, s, outcome, started, elapsed)
    if not (errors.is(outcome) or type(outcome) == "string") then list[#list].cancelled = true end
    return
  end
  local target = s.target
  local opts = type(target) == "table" and type(target.opts) == "table" and target.opts or {}
  list[#list + 1] = { step = s.index, name = s.name, at = started, elapsed = elapsed, cancelled = true,
    provider = opts.provider, model = opts.model }
end

return attempts
