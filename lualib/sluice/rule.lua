--- Ready-made steps for a fallback: functions of (req, why), to be used as they are or copied.

local core = require "sluice.core.task"
local options = require "sluice.options"

local rule = {}

local function is_askable(value)
  return type(value) == "table" and type(value.ask) == "function" and type(value.stream) == "function"
end

local function changed(req, fields)
  local copy = {}
  for key, value in pairs(req) do copy[key] = value end
  for key, value in pairs(fields) do copy[key] = value end
  return copy
end

--- Always the same answer: the last step of a chain that must never fail.
---@param text string
---@return fun(): string
function rule.canned(text)
  if type(text) ~= "string" then options.raise("rule.canned: expected a text, got " .. options.got(text)) end
  return function() return text end
end

--- The same question for a shorter answer: less to wait for, less to pay.
---@param model sluice.Model
---@param opts? { max_tokens?: integer, say?: string }  200; what is added to the system prompt
---@return fun(req: sluice.Request, why: table): sluice.Reply
function rule.shorter(model, opts)
  if not is_askable(model) then options.raise("rule.shorter: expected a model, got " .. options.got(model)) end
  opts = opts or {}
  local most, say = opts.max_tokens or 200, opts.say or "Answer as briefly as you can."
  return function(req)
    local system = req.system
    if type(system) == "string" and system ~= "" then system = system .. "\n\n" .. say
    elseif system == nil then system = say end
    return model:ask(changed(req, { max_tokens = math.min(req.max_tokens or most, most), system = system }))
  end
end

--- Waits out the time the provider asked for (or `wait` seconds) and asks once more: for work that may
--- be late but must be done. Declines when that is longer than `max` seconds or the deadline.
---@param model sluice.Model
---@param opts? { wait?: number, max?: number }  seconds: 5; 300
---@return fun(req: sluice.Request, why: table): sluice.Reply?
function rule.queue(model, opts)
  if not is_askable(model) then options.raise("rule.queue: expected a model, got " .. options.got(model)) end
  opts = opts or {}
  return function(req, why)
    local seconds = why.err and why.err.retry_after or opts.wait or 5
    if seconds > (opts.max or 300) or why.left and seconds >= why.left then return nil end
    core.sleep(seconds)
    return model:ask(req)
  end
end

return rule
