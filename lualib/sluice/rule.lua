--- Ready-made steps and rescues for a fallback: functions of (req, why) and (req, err), to be used as
-- they are or copied. A rule may return a model and the request for it: then the chain asks, and
-- streams, as if the model stood in its list.

local task = require "sluice.task"
local errors = require "sluice.errors"
local options = require "sluice.options"
local step = require "sluice.fallback.step"

local rule = {}

local function check_model(where, model)
  if not step.is_askable(model) then
    options.raise(("%s: expected a model, got %s"):format(where, options.got(model)))
  end
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

local SHORTER = options.spec {
  max_tokens = { type = "integer", min = 1, default = 200 },
  say = { type = "string", default = "Answer as briefly as you can." },
}

--- What a request asks for, its own words before the model's defaults.
local function asked(model, req, field)
  if req[field] ~= nil then return req[field] end
  return type(model.defaults) == "table" and model.defaults[field] or nil
end

--- The same question for a shorter answer: less to wait for, less to pay.
---@param model sluice.Model
---@param opts? { max_tokens?: integer, say?: string }  200; what is added to the system prompt
---@return fun(req: sluice.Request, why: sluice.Why): sluice.Model, sluice.Request
function rule.shorter(model, opts)
  check_model("rule.shorter", model)
  opts = options.fill(options.check("rule.shorter", opts or {}, SHORTER), SHORTER)
  return function(req)
    local system, say = asked(model, req, "system"), opts.say
    if type(system) == "table" then
      local parts = table.move(system, 1, #system, 1, {})
      parts[#parts + 1] = { type = "text", text = say }
      say = parts
    elseif type(system) == "string" and system ~= "" then
      say = system .. "\n\n" .. say
    end
    local most = math.min(asked(model, req, "max_tokens") or opts.max_tokens, opts.max_tokens)
    return model, changed(req, { max_tokens = most, system = say })
  end
end

local QUEUE = options.spec {
  wait = { type = "seconds", default = 5 },
  max = { type = "seconds", default = 300 },
}

--- Waits out the time the provider asked for (or `wait` seconds) and asks once more: for work that may
--- be late but must be done. Declines when that is longer than `max` seconds or the deadline.
---@param model sluice.Model
---@param opts? { wait?: number, max?: number }  seconds: 5; 300
---@return fun(req: sluice.Request, why: sluice.Why): sluice.Model?
function rule.queue(model, opts)
  check_model("rule.queue", model)
  opts = options.fill(options.check("rule.queue", opts or {}, QUEUE), QUEUE)
  return function(_, why)
    local seconds = why.err and why.err.retry_after or opts.wait
    local left = why.left
    if seconds > opts.max or left and seconds >= left then return nil end
    task.sleep((math.ceil(seconds * 1e6) + 0.5) / 1e6) -- a clock of microseconds must not come early
    return model
  end
end

local CONTINUE = options.spec {
  say = { type = "string", default = "Your answer broke off. Go on exactly where it ends, with the next word; "
    .. "repeat nothing of it, and say nothing about the interruption." },
}

--- The conversation of a request, with what was answered so far.
local function conversation(req, ...)
  local messages = table.move(req.messages or {}, 1, #(req.messages or {}), 1, {})
  if req.prompt ~= nil then messages[#messages + 1] = { role = "user", content = req.prompt } end
  for _, message in ipairs { ... } do messages[#messages + 1] = message end
  local copy = {}
  for key, value in pairs(req) do copy[key] = value end
  copy.prompt, copy.messages = nil, messages
  return copy
end

--- A rescue: another model goes on where the stream broke off. The text so far is given to it as the
--- beginning of its own answer; a model that does not take such a beginning is asked in words.
---@param model sluice.Model
---@param opts? { say?: string }  those words
---@return fun(req: sluice.Request, err: sluice.Error): sluice.Stream?
function rule.continue(model, opts)
  check_model("rule.continue", model)
  opts = options.fill(options.check("rule.continue", opts or {}, CONTINUE), CONTINUE)
  return function(req, err)
    if (err.partial or "") == "" then return model:stream(req) end
    -- blanks at its end are refused (Anthropic), or make models repeat themselves
    local so_far = { role = "assistant", content = (err.partial:gsub("%s+$", "")) }
    if so_far.content == "" then return model:stream(req) end
    local ok, stream = pcall(model.stream, model, conversation(req, so_far))
    if ok then return stream end
    if not errors.is(stream, "invalid") then error(stream, 0) end
    return model:stream(conversation(req, so_far, { role = "user", content = opts.say }))
  end
end

return rule
