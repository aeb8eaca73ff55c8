--- One step of a chain: what it may be, and running it up to its commit.
-- Owns: what a rule may return, `check`, `hold`. Never: decides which step is next (walk.lua).

local errors = require "sluice.errors"
local json = require "sluice.json"
local options = require "sluice.options"
local Reply = require "sluice.reply"
local Held = require "sluice.fallback.held"

-- No other step can mend these: nobody wants the answer, or the program itself is in trouble.
local NEVER = { cancelled = true, deadlock = true, cpu = true, memory = true }
-- These say that the request is at fault; only a step that names them in `on` is entered after them.
local AT_FAULT = { invalid = true, filtered = true }

local REASONS = { "slow", "declined", "context_length" }
for kind in pairs(errors.KINDS) do
  if not NEVER[kind] then REASONS[#REASONS + 1] = kind end
end
table.sort(REASONS)

local function is_askable(value)
  return type(value) == "table" and type(value.ask) == "function" and type(value.stream) == "function"
end

local STEP = options.spec({
  [1] = { check = function(v) return type(v) == "function" or is_askable(v) end, required = true,
    expected = "a model, a fallback or a function" },
  after = { type = "seconds" },
  on = { type = "list", items = { type = "string", enum = REASONS } },
  bigger = { type = "boolean" },
  check = { type = "function" },
  hold = { type = "integer", min = 0 },
  name = { type = "string", nonempty = true },
}, "field of the step")

---For sluice's own modules.
---@class sluice.Step
---@field target function|sluice.Model
---@field is_rule boolean
---@field after? number
---@field on? table<string, boolean>
---@field bigger? boolean
---@field check? fun(reply: sluice.Reply): boolean?, string?
---@field hold? integer
---@field name string
---@field index integer

local step = { is_askable = is_askable }

--- A step from what stands in the list.
---@param raw any
---@param i integer
---@return sluice.Step
function step.new(raw, i)
  local where = ("sluice.fallback: step %d"):format(i)
  if raw == nil then options.raise(where .. " is nil: a name that was never set?") end
  if type(raw) == "function" or is_askable(raw) then raw = { raw } end
  if type(raw) ~= "table" then
    options.raise(("%s must be a model, a function or { model, after = seconds, … }, got %s")
      :format(where, options.got(raw)))
  end
  if raw[1] == nil then
    options.raise(where .. ": its first element is nil; it must be a model, a fallback or a function")
  end
  options.check(where, raw, STEP)
  local on
  if raw.on then
    on = {}
    for _, kind in ipairs(raw.on) do on[kind] = true end
  end
  local target = raw[1]
  return { target = target, is_rule = type(target) == "function", after = raw.after, on = on, bigger = raw.bigger,
    check = raw.check, hold = raw.hold, index = i,
    name = raw.name or type(target) == "table" and target.name or "step " .. i }
end

-- Entering --------------------------------------------------------------------------------------------

---Why the chain leaves a step; what `on` is held against.
---@class sluice.Why
---@field kind string   "start", "slow", the kind of the error; "declined": a rule has, and nothing had failed before
---@field err? sluice.Error
---@field elapsed number  seconds since the chain was asked
---@field tried integer   steps that have failed
---@field left? number    seconds to the nearest deadline

--- Does this failure end the chain, unless a step is there for just that?
---@param err sluice.Error
---@return boolean
function step.is_fatal(err)
  return NEVER[err.kind] or AT_FAULT[err.kind] or false
end

--- Is a step entered for this reason?
---@param s sluice.Step
---@param why sluice.Why
---@return boolean
function step.enters(s, why)
  local kind = why.kind
  if NEVER[kind] then return false end
  if s.on and s.on[kind] then return true end
  if kind == "invalid" and why.err and why.err.code == "context_length" then
    return s.bigger == true or s.on ~= nil and s.on.context_length == true
  end
  return s.on == nil and not AT_FAULT[kind]
end

-- Requests -------------------------------------------------------------------------------------------

local array = getmetatable(json.array {})

--- Tables that are nothing but data are copied; a reply that stands among the messages is shared.
local function copy(value)
  if type(value) ~= "table" then return value end
  local mt = getmetatable(value)
  if mt ~= nil and mt ~= array then return value end
  local made = setmetatable({}, mt)
  for key, item in pairs(value) do made[key] = copy(item) end
  return made
end

--- The request as a rule may read and change it, without anybody else noticing.
---@param req string|sluice.Request
---@return sluice.Request
function step.request(req)
  if type(req) == "string" then return { prompt = req } end
  return copy(req)
end

-- Answers --------------------------------------------------------------------------------------------

local function close(value)
  if type(value) == "table" and type(value.close) == "function" then value:close() end
end
step.close = close

local Closing = { __close = function(self) close(self.stream) end }

local function check_reply(s, reply)
  if not s.check then return reply end
  local ok, why = s.check(reply)
  if ok then return reply end
  errors.raise { kind = "protocol", code = "refused_by_check", model = reply.model, provider = reply.provider,
    usage = reply.usage, message = "the answer was refused by check" .. (why and ": " .. tostring(why) or "") }
end

--- Reads what must be there before the stream may win: `hold` characters, or all of it for a check.
local function hold_back(s, stream)
  local characters = s.check and math.huge or s.hold or 0
  if characters == 0 then return stream end
  local opening <close> = setmetatable({ stream = stream }, Closing)
  local held = Held.new(stream, characters, function(reply) check_reply(s, reply) end)
  opening.stream = nil
  return held
end

--- Pays for a hedge, where payment is due. Returns what was paid; nil: the account is empty.
---@param target any
---@return number?
function step.pay(target)
  if type(target) ~= "table" or type(target.pay_hedge) ~= "function" then return 0 end
  return target:pay_hedge()
end

---How a step is to be run.
---@class sluice.Manner
---@field streaming boolean    the chain was asked for a stream
---@field hedged boolean       others may be running: first content must show, so an ask is streamed, too
---@field opts? table          for the model: patience, paid, whole
---@field on_content? fun()    first content is there, but not the commit
---@field hedge? boolean       it is started for another one's slowness: a model that a rule names is to be paid for
---@field unpaid? boolean      … and could not be, so that the rule counts as not asked yet

--- Asks a model or a chain.
local function ask(s, target, req, manner)
  local opts = manner.opts
  if manner.streaming then
    local stream = target:stream(req, opts)
    if manner.on_content and (s.check or (s.hold or 0) > 0) then
      local opening <close> = setmetatable({ stream = stream }, Closing)
      manner.on_content()
      opening.stream = nil
    end
    return hold_back(s, stream)
  end
  if not manner.hedged then return check_reply(s, target:ask(req, opts)) end
  local opening <close> = setmetatable({ stream = target:stream(req, opts) }, Closing)
  if manner.on_content then manner.on_content() end
  return check_reply(s, opening.stream:reply())
end

local function is_stream(value)
  return type(value.events) == "function" and type(value.reply) == "function"
end

--- Asks the model that a rule has named; nil: as a hedge it could not be paid for.
local function ask_named(s, target, req, manner)
  if manner.hedge then
    local paid = step.pay(target)
    if not paid then
      manner.unpaid = true
      return nil
    end
    local opts = { paid = paid > 0 and paid or nil }
    for key, value in pairs(manner.opts or {}) do opts[key] = value end
    manner.opts = opts
  end
  return ask(s, target, req, manner)
end

--- A reply of a rule's: whole, and nobody else's.
local function reply_of(s, value)
  local fields = { model = s.name, provider = "rule", finish_reason = "stop", usage = {}, elapsed = 0 }
  if type(value) == "string" then fields.text = value
  else
    for key, v in pairs(value) do fields[key] = v end
  end
  return Reply.new(fields)
end

local function wrong_value(s, value)
  error(("sluice.fallback: the rule '%s' returned %s; a rule returns text, a reply, a stream, a model to ask, "
    .. "or nil to decline"):format(s.name, options.got(value)), 0)
end

--- What a rule returned, as a reply or as something that streams.
local function run_rule(s, req, why, manner)
  local value, changed = s.target(step.request(req), why)
  if value == nil then return nil end
  if type(value) == "string" then return check_reply(s, reply_of(s, value)) end
  if type(value) ~= "table" then wrong_value(s, value) end
  if is_askable(value) then
    return ask_named(s, value, changed == nil and req or changed, manner)
  elseif is_stream(value) then
    if manner.streaming then return hold_back(s, value) end
    local opening <close> = setmetatable({ stream = value }, Closing)
    return check_reply(s, opening.stream:reply())
  elseif type(value.text) == "string" then
    return check_reply(s, reply_of(s, value))
  end
  wrong_value(s, value)
end

--- Runs a step to its commit: a reply, or a stream whose first content is there; nil: it declined.
---@async
---@param s sluice.Step
---@param req string|sluice.Request
---@param why sluice.Why
---@param manner sluice.Manner
---@return sluice.Reply|sluice.Stream|nil
function step.run(s, req, why, manner)
  if s.is_rule then return run_rule(s, req, why, manner) end
  return ask(s, s.target, req, manner)
end

return step
