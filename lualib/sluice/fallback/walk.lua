--- Going down the list of a chain: which step starts when, and who wins.
-- Owns: the order, the hedges, the losers, what is raised when nobody answers.
-- Never: knows what a step is made of (step.lua).
-- Reading order: Walk, next_step, sequence, race.
--
-- Hedge, fallback and race are one mechanism: without `after` the next step starts at a failure, with
-- `after = 5` also after 5 s without first content, with `after = 0` at once. A step that has
-- committed wins: the others are cancelled, and have ended, before its answer is handed out.

local core = require "sluice.core.task"
local sync = require "sluice.core.sync"
local attempts = require "sluice.fallback.attempts"
local errors = require "sluice.errors"
local observe = require "sluice.observe"
local log = require "sluice.log"
local step = require "sluice.fallback.step"
local task = require "sluice.task"

local now = core.now

local TICK = 1e-6 -- seconds: the clock knows nothing smaller; a wait for less would end at once, for ever

---@class sluice.Walk
---@field steps sluice.Step[]
---@field name string
---@field req string|sluice.Request
---@field streaming boolean
---@field hedges? boolean   some step has an `after`
---@field opts? table       what the caller said of this call
---@field started number
---@field attempts table[]
---@field errors any[]      of the steps that failed, the first step's first
---@field tried integer
---@field call? integer     its number, for those who observe
---@field observed? sluice.ObservedChain

local walk = {}

-- Moving on -------------------------------------------------------------------------------------------

local function why_of(w, kind, err)
  return { kind = kind, err = err, elapsed = now() - w.started, tried = w.tried, left = core.left() }
end

--- The step to go to after `from` for this reason, or nil.
local function next_step(w, from, why)
  for i = from + 1, #w.steps do
    if step.enters(w.steps[i], why) then return i end
  end
  return nil
end

--- Is there nothing any step could do? A deadline that has passed is shared by all of them; one that a
--- rule has set itself is not.
local function is_final(err)
  return not errors.is(err)
    or err.kind == "timeout" and err.phase == "deadline" and core.left() == 0
end

local function keep_error(w, s, err)
  for _, known in ipairs(w.errors) do
    if rawequal(known, err) then return end -- a rule that raises what it was told
  end
  table.insert(w.errors, s.index == 1 and 1 or #w.errors + 1, err)
  w.tried = w.tried + 1
  if errors.is(err, "auth") and not s.told then
    s.told = true -- once: somebody has to look after the key, however well the chain gets along
    log.error("fallback: a step's credential was refused", { step = s.name, why = tostring(err) })
  end
end

local function record_failure(w, s, err, started)
  attempts.add(w.attempts, s, err, started - w.started, now() - started)
  keep_error(w, s, err)
end

--- Raises an error with all the others in its `also`.
local function raise(w, err)
  if type(err) == "table" and errors.is(err) then
    local also = err.also or {}
    for _, other in ipairs(w.errors) do
      if not rawequal(other, err) then also[#also + 1] = other end
    end
    if #also > 0 then err.also = also end
    err.attempts, err.elapsed = w.attempts, now() - w.started
  end
  error(err, 0)
end

--- The chain goes to another step: told to whoever wants to know.
local function moves_on(w, from, to, why, declined)
  if not declined then
    log.call("info", why.kind == "slow" and "fallback: a step is slow, the next one starts beside it"
      or "fallback: a step failed, the next one starts",
      { chain = w.name, from = from.name, to = to.name, why = why.kind, call = w.call })
  end
  if observe.on then observe.moves_on(w, from, to, why, declined) end
end

--- Nobody is left to ask.
local function give_up(w)
  if #w.errors > 0 then raise(w, w.errors[1]) end
  errors.raise { kind = "server", code = "declined", attempts = w.attempts,
    message = ("every step of the %s declined"):format(w.name) }
end

local function least(a, b)
  return a and b and math.min(a, b) or a or b
end

--- What a model is told about the call (sluice.CallOptions), or nil.
local function options_for(w, i, whole, paid)
  local outer, s = w.opts, w.steps[i]
  if not (s.bounds or whole or paid or outer or w.call) then return nil end
  local patience, pushback = s.patience, s.pushback
  if outer then
    patience, pushback = least(patience, outer.patience), least(pushback, outer.pushback)
    whole = whole or outer.whole
    if i == 1 then paid = paid or outer.paid end -- the hedge that this chain is starts with its first step
  elseif s.bounds and not (whole or paid or w.call) then
    return s.bounds
  end
  return { patience = patience, pushback = pushback, paid = paid, whole = whole or nil, call = w.call,
    chain = w.observed }
end

-- Without a hedge: one step after the other, in this task ------------------------------------------------

local START = { kind = "start" }

-- How a step is run when nothing special is to be said: most are.
local ASK, STREAM = { streaming = false, hedged = false }, { streaming = true, hedged = false }

local function manner_of(w, i)
  local opts = options_for(w, i, nil, nil)
  if not opts then return w.streaming and STREAM or ASK end
  return { streaming = w.streaming, hedged = false, opts = opts }
end

--- Where the chain goes when `s` has failed or declined; raises when that is nowhere.
---@return integer following, sluice.Why why
local function leave(w, s, ok, err, why, started)
  local following
  if ok then
    -- the reason is still the one that led here
    why = why_of(w, why.kind == "start" and "declined" or why.kind, why.err)
    following = next_step(w, s.index, why)
  else
    record_failure(w, s, err, started)
    if is_final(err) then raise(w, err) end
    why = why_of(w, err.kind, err)
    following = next_step(w, s.index, why)
    if not following and step.is_fatal(err) then raise(w, err) end
  end
  if not following then give_up(w) end
  moves_on(w, s, w.steps[following], why, ok)
  return following, why
end

local function sequence(w, i, why)
  while true do
    local s, started = w.steps[i], now()
    local ok, answer = pcall(step.run, s, w.req, why, manner_of(w, i))
    if ok and answer ~= nil then return answer, s, why, started end
    i, why = leave(w, s, ok, answer, why, started)
  end
end

-- With hedges: several steps at once -----------------------------------------------------------------------

---@class sluice.Race : sluice.Walk
---@field group sluice.Group
---@field inbox sluice.Channel  { "content" | "end", run }
---@field runs table[]
---@field running integer
---@field last integer          the furthest step that has been started
---@field unpaid table<integer, boolean>  hedges passed over because the retry quota was used up
---@field lost integer[]        steps cancelled in favour of one that might fail yet

local function launch(r, i, why, paid)
  local s = r.steps[i]
  local run = { step = s, why = why, started = now() }
  r.runs[#r.runs + 1] = run
  local beside = why.kind == "slow" and r.running > 0
  r.last, r.running, r.unpaid[i] = math.max(r.last, i), r.running + 1, nil
  local manner = { streaming = r.streaming, hedged = true, opts = options_for(r, i, not r.streaming, paid),
    hedge = beside, on_content = function() r.inbox:send { "content", run } end }
  run.handle = r.group:spawn(function()
    local ok, value = pcall(step.run, s, r.req, why, manner)
    if run.stopped then -- it was done before it could be stopped
      if ok then step.close(value) end
      return
    end
    run.ok, run.value = ok, value
    if manner.unpaid then r.unpaid[i] = true end
    r.inbox:send { "end", run }
    if ok then return value end -- joined by the winner's path, so that a stream changes hands
  end)
end

local function stop(r, run, winner)
  run.stopped = true
  run.handle:cancel()
  if run.ok then step.close(run.value) end
  r.running = r.running - 1
  r.lost[#r.lost + 1] = run.step.index
  attempts.add_cancelled(r.attempts, run.step, run.started - r.started, now() - run.started, run.value)
  if observe.on then observe.stopped(r, run.step, winner and winner.step) end
end

local function stop_others(r, winner)
  for _, run in ipairs(r.runs) do
    if run ~= winner and not run.over and not run.stopped then stop(r, run, winner) end
  end
end

--- The run of the furthest step while it may still be hedged: silent, and with an `after`.
local function awaited(r)
  local latest
  for _, run in ipairs(r.runs) do
    if not run.over and not run.stopped then
      if run.content then return nil end -- somebody is speaking
      if run.step.index == r.last then latest = run end
    end
  end
  if latest and latest.step.after and not latest.hedged then return latest end
  return nil
end

--- Starts step `i`, or the next one that can be paid for, beside those under way.
local function start_beside(r, run, i, why, declined)
  while i do
    local paid = step.pay(r.steps[i].target)
    if paid then
      moves_on(r, run.step, r.steps[i], why, declined)
      return launch(r, i, why, paid > 0 and paid or nil)
    end
    r.unpaid[i] = true -- a failure will start it, if nothing else helps: that is never refused
    i = next_step(r, i, why)
  end
end

--- `run` has been silent for too long.
local function hedge(r, run)
  run.hedged = true
  local why = why_of(r, "slow")
  start_beside(r, run, next_step(r, r.last, why), why)
end

--- Could one of those under way still answer what this failure is about?
local function hope(r, why)
  for _, run in ipairs(r.runs) do
    if not run.over and not run.stopped and step.enters(run.step, why) then return true end
  end
  return false
end

--- The step to go to when `run` has failed or declined.
local function after_failure(r, why)
  local failed = why.kind ~= "slow" or r.running == 0
  for i = 1, failed and #r.steps or 0 do
    if r.unpaid[i] and step.enters(r.steps[i], why) then return i end
  end
  local following = next_step(r, r.last, why)
  if following or r.running > 0 then return following end
  for place, i in ipairs(r.lost) do -- cancelled in favour of the one that has now failed
    if step.enters(r.steps[i], why) or not (why.err and step.is_fatal(why.err)) then
      table.remove(r.lost, place)
      return i
    end
  end
  return nil
end

--- A run has ended without an answer.
local function ended(r, run)
  local err = not run.ok and run.value or nil
  local why
  if err == nil then
    why = why_of(r, run.why.kind == "start" and "declined" or run.why.kind, run.why.err)
  else
    record_failure(r, run.step, err, run.started)
    why = errors.is(err) and why_of(r, err.kind, err)
  end
  local following = why and after_failure(r, why)
  if err ~= nil and (is_final(err) or step.is_fatal(err) and not following and not hope(r, why)) then
    stop_others(r, nil)
    raise(r, err)
  end
  if not following and r.running == 0 then give_up(r) end
  -- a hedge that fails while a later step runs changes nothing
  if following and (run.step.index == r.last or r.running == 0) then
    if why.kind == "slow" and r.running > 0 then return start_beside(r, run, following, why, run.ok) end
    moves_on(r, run.step, r.steps[following], why, run.ok)
    launch(r, following, why)
  end
end

--- One round: waits for something to happen. Returns the run that has won, or nil.
local function turn(r)
  local silent = awaited(r)
  local message
  if silent then
    local wait = silent.started + silent.step.after - now()
    message = r.inbox:receive(math.max(0, wait))
    if not message then
      if silent.started + silent.step.after - now() < TICK then hedge(r, silent) end
      return nil
    end
  else
    message = r.inbox:receive()
  end
  local what, run = message[1], message[2]
  if run.stopped then return nil end
  if what == "content" then
    run.content = true
    if not (run.step.check or r.streaming) then stop_others(r, run) end -- an ask commits here
    return nil
  end
  run.over, r.running = true, r.running - 1
  if run.ok and run.value ~= nil then
    stop_others(r, run)
    return run
  end
  ended(r, run)
  return nil
end

-- Whoever leaves the race by an error may leave answers behind that nobody has taken yet.
local Left = {}
function Left:__close(err)
  if err == nil then return end
  for _, run in ipairs(self.runs) do
    if run.ok and not run.stopped then step.close(run.value) end
  end
end

local function race(w, first, why)
  local runs = {}
  local _ <close> = setmetatable({ runs = runs }, Left)
  return task.group(function(group)
    w.group, w.inbox, w.runs, w.running = group, sync.channel(4 * #w.steps + 8), runs, 0
    w.last, w.unpaid, w.lost = 0, {}, {}
    launch(w, first, why)
    while true do
      local run = turn(w)
      if run then return run.handle:join(), run.step, run.why, run.started end
    end
  end)
end

--- Asks the steps of a chain. Returns the answer, the step it is from, why that step was asked, and
--- when; raises when nobody answers.
---@async
---@param w sluice.Walk
---@return sluice.Reply|sluice.Stream answer, sluice.Step s, sluice.Why why, number started
function walk.run(w)
  return (w.hedges and race or sequence)(w, 1, why_of(w, "start"))
end

--- The first step was asked without ado, and has failed: goes on as walk.run would have.
---@async
---@param w sluice.Walk
---@param ok boolean     it declined
---@param err any
---@return sluice.Reply|sluice.Stream answer, sluice.Step s, sluice.Why why, number started
function walk.after_first(w, ok, err)
  return sequence(w, leave(w, w.steps[1], ok, err, START, w.started))
end

--- The stream that a step has committed broke before anybody saw anything of it: goes on as if the step
--- had failed. Returns what walk.run does, or nil when there is no step to go to.
---@async
---@param w sluice.Walk
---@param s sluice.Step
---@param err sluice.Error  written down already
---@return sluice.Reply|sluice.Stream|nil answer, sluice.Step s, sluice.Why why, number started
function walk.go_on(w, s, err)
  if is_final(err) then return nil end
  local why = why_of(w, err.kind, err)
  local following = next_step(w, s.index, why)
  if not following and w.lost and not step.is_fatal(err) then following = table.remove(w.lost, 1) end
  if not following then return nil end
  keep_error(w, s, err)
  moves_on(w, s, w.steps[following], why)
  return (w.hedges and race or sequence)(w, following, why)
end

--- What an answer says of where it comes from; nil for the first step's own.
---@param w sluice.Walk
---@param s sluice.Step
---@param why sluice.Why
---@param inner? table  what the answer of a chain inside says of itself
---@return sluice.Degraded?
function walk.degraded(w, s, why, inner)
  if s.index == 1 then return inner end
  return { step = s.index, name = s.name, why = why.kind, from = w.steps[1].name, within = inner }
end

return walk
