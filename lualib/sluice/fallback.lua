--- Degradation: an ordered list of steps, each a model or any Lua function.
-- Owns: what a chain is made of, and what a degraded answer says of itself. Which step starts when, and
-- who wins: fallback/walk.lua; one step: fallback/step.lua; streams and rescue: fallback/stream.lua.
-- Never: retries (models do), opens connections.
-- Reading order: Fallback.new, Fallback:ask, Fallback:stream.

local core = require "sluice.core.task"
local observe = require "sluice.observe"
local options = require "sluice.options"
local attempts = require "sluice.fallback.attempts"
local step = require "sluice.fallback.step"
local walk = require "sluice.fallback.walk"
local ChainStream = require "sluice.fallback.stream"
local Reply = require "sluice.reply"

local now = core.now
local getmetatable, pcall, rawget = getmetatable, pcall, rawget -- upvalues: called for every request

local PUSHBACK = 5 -- seconds a step waits for a provider that asks to, when another step could answer meanwhile

local CHAIN = options.spec {
  rescue = { type = "function" },
  check = { type = "function" },
  hold = { type = "integer", min = 0 },
  name = { type = "string", nonempty = true },
}

---@class sluice.Fallback
---@field steps sluice.Step[]
---@field name string
local Fallback = { __name = "sluice.fallback" }
Fallback.__index = Fallback

-- Making a chain ------------------------------------------------------------------------------------

--- The named options of a chain, and how long its list is, gaps included.
local function read_chain(chain)
  local named, last = {}, 0
  for key, value in pairs(chain) do
    if math.type(key) == "integer" and key >= 1 then last = math.max(last, key) else named[key] = value end
  end
  options.check("sluice.fallback", named, CHAIN)
  return named, last
end

--- How long a step may let the caller wait before it sends: as long as its `after`; without one a few
--- seconds for a provider that asks for time, and as long as it takes where nobody stands behind it.
local function set_bounds(steps)
  local replaced = false -- could a step further down answer when the provider says 429?
  for i = #steps, 1, -1 do
    local s = steps[i]
    if i < #steps then s.patience = s.after end
    if replaced and not s.patience then s.pushback = PUSHBACK end
    if s.patience or s.pushback then s.bounds = { patience = s.patience, pushback = s.pushback } end
    replaced = replaced or step.enters(s, { kind = "rate_limited" })
  end
end

---@alias sluice.Rule fun(req: sluice.Request, why: sluice.Why): any, sluice.Request?

---A step of a chain that is more than a model or a function.
---@class sluice.FallbackStep
---@field [1] sluice.Model|sluice.Fallback|sluice.Rules|sluice.Rule
---@field after? number        seconds without first content until the next step starts, too; the first to answer wins
---@field on? (sluice.Kind|"slow"|"declined"|"context_length")[]  enter the step only for these reasons
---@field bigger? boolean      it also takes requests that were too long for the steps before it
---@field check? fun(reply: sluice.Reply): boolean?, string?  false and why: the answer counts as a failure
---@field hold? integer        characters of a stream that are kept back, so that a bad start can still be swapped
---@field name? string         what it is called in replies

---What `sluice.fallback` takes: a list of steps, and what holds for all of them.
---@class sluice.FallbackChain
---@field [integer] sluice.FallbackStep|sluice.Model|sluice.Fallback|sluice.Rules|sluice.Rule
---@field rescue? fun(req: sluice.Request, err: sluice.Error): any  once, when a stream breaks after text came
---@field check? fun(reply: sluice.Reply): boolean?, string?  for every step that has none of its own
---@field hold? integer        characters, for every step that has none of its own
---@field name? string         what it is called in logs and traces; "fallback"

--- A chain. Steps are models, chains, functions, or tables { model, … } with these fields:
---   after    seconds without first content until the next step starts, too; the first to answer wins
---   on       enter the step only for these reasons: kinds of errors, "slow", "declined", "context_length"
---   bigger   the step also takes requests that were too long for the ones before it
---   check    function(reply) -> true, or false and why: a refused answer counts as a failure
---   hold     characters of a stream kept back, so that a bad start can still be swapped
---   name     what the step is called in replies
--- Beside the steps: `rescue(req, err)`, asked once when a stream breaks after text was delivered, and
--- `check`, `hold` for all steps, `name`.
---@param chain sluice.FallbackChain|sluice.FallbackStep[]
---@return sluice.Fallback
function Fallback.new(chain)
  if type(chain) ~= "table" then
    options.raise("sluice.fallback: expected a list of steps, got " .. options.got(chain))
  end
  local named, last = read_chain(chain)
  local self = setmetatable({ steps = {}, name = named.name or "fallback", rescue = named.rescue }, Fallback)
  for i = 1, last do
    local s = step.new(chain[i], i)
    s.check, s.hold = s.check or named.check, s.hold or named.hold
    self.steps[i] = s
    if s.after and i < last then self.hedges = true end
  end
  if last == 0 then options.raise "sluice.fallback: the list of steps is empty" end
  set_bounds(self.steps)
  local first = self.steps[1]
  if not (self.hedges or first.is_rule or first.check) then self.plain = first end
  return self
end

function Fallback:__tostring()
  local names = {}
  for i, s in ipairs(self.steps) do names[i] = s.name end
  return ("%s (%s)"):format(self.name, table.concat(names, " → "))
end

-- Asking ------------------------------------------------------------------------------------------------

---@return sluice.Walk
local function begin(self, req, streaming, opts, started)
  return { steps = self.steps, name = self.name, req = req, streaming = streaming, opts = opts, hedges = self.hedges,
    started = started or now(), attempts = {}, errors = {}, tried = 0 }
end

--- The winner's reply, in the words of the whole chain.
local function conclude(w, reply, s, why, started)
  local before = started - w.started
  attempts.add(w.attempts, s, reply, before, now() - started)
  reply.degraded = walk.degraded(w, s, why, reply.degraded)
  reply.attempts = w.attempts
  reply.elapsed = now() - w.started
  if reply.ttft then reply.ttft = before + reply.ttft end
  if observe.on then observe.answered(w, s, why) end
  return reply
end

--- Asks the steps in order until one answers. The reply says in `degraded` when it is not the first
--- step's: { step =, name =, why =, from = }; `attempts` lists who was asked, and what came.
--- Raises the first step's error when all fail, the others in `also`; a failure that no other step
--- could mend (a wrong request, a content filter) is raised at once.
---@async
---@param req string|sluice.Request
---@param opts? table  from a chain this one is a step of
---@return sluice.Reply
function Fallback:ask(req, opts)
  local first = self.plain
  if not first or opts or observe.full then
    local w = begin(self, req, false, opts)
    local seen <close> = observe.full and observe.chain(w) -- luacheck: ignore 211
    return conclude(w, walk.run(w))
  end
  -- Nearly always the first step answers at once: then nothing is written down that nobody may read.
  local started, target = now(), first.target
  local ok, reply = pcall(target.ask, target, req, first.bounds)
  if ok and getmetatable(reply) == Reply and rawget(reply, "attempts") == nil and rawget(reply, "asked_by") == nil then
    reply.asked_by = first -- for Reply's attempts
    return reply
  end
  local w = begin(self, req, false, opts, started)
  if ok and reply ~= nil then return conclude(w, reply, first, nil, started) end
  return conclude(w, walk.after_first(w, ok, reply))
end

--- The same for a stream: returns when a step has committed. What breaks later, before anything of it
--- was read, is the next step's; after that it is `rescue`'s to mend.
---@async
---@param req string|sluice.Request
---@param opts? table  from a chain this one is a step of
---@return sluice.Stream
function Fallback:stream(req, opts)
  local w = begin(self, req, true, opts)
  local seen <close> = observe.full and observe.chain(w) -- luacheck: ignore 211
  local answer, s, why, started = walk.run(w)
  if observe.on then observe.answered(w, s, why) end
  local rescue = not (opts and opts.whole) and self.rescue or nil -- an ask rather moves on
  return ChainStream.new { walk = w, step = s, answer = answer, rescue = rescue, began = started,
    degraded = walk.degraded(w, s, why, answer.degraded) }
end

--- As a step that is started for the slowness of another: its own first step is what will be asked, and
--- paid for. See sluice.Model:pay_hedge.
--- For sluice's own modules.
---@return number?
function Fallback:pay_hedge()
  return step.pay(self.steps[1].target)
end

--- A value instead of text, as model:json. A step that answers what does not fit has answered: the repair
--- begins at the first step again.
---@async
---@param req string|sluice.Request
---@param schema string|table
---@param opts? { repairs?: integer }
---@return any value
---@return sluice.Reply reply
function Fallback:json(req, schema, opts)
  return require("sluice.structured").ask(self, "fallback:json", req, schema, opts)
end

return Fallback
