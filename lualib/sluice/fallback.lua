--- Degradation: an ordered list of steps, each a model or any Lua function.
-- Owns: when the next step starts (the one before failed, or has been silent for `after` seconds), who
-- wins (the first to commit), and what a degraded answer says of itself.
-- Never: retries (models do), opens connections.
-- Reading order: Fallback:ask, Fallback:stream, race.
--
-- Hedge, fallback and race are one mechanism: without `after` the next step starts at a failure, with
-- `after = 5` also after 5 s without first content, with `after = 0` at once. A step that has
-- committed wins: the others are cancelled, and have ended, before its answer is handed out.

local core = require "sluice.core.task"
local sync = require "sluice.core.sync"
local errors = require "sluice.errors"
local options = require "sluice.options"
local Reply = require "sluice.reply"
local Spliced = require "sluice.fallback.stream"
local task = require "sluice.task"

local KINDS = {}
for kind in pairs(errors.KINDS) do KINDS[#KINDS + 1] = kind end
table.sort(KINDS)

local STEP = options.spec({
  [1] = { type = { "table", "function" }, required = true,
    expected = "a model, a fallback or a function" },
  after = { type = "seconds" },
  on = { type = "list", items = { type = "string", enum = KINDS } },
  bigger = { type = "boolean" },
  check = { type = "function" },
  hold = { type = "integer", min = 0 },
  name = { type = "string", nonempty = true },
}, "field of the step")

local CHAIN_KEYS = { rescue = true, check = true, hold = true, name = true }

-- Kinds that no other step can mend: the request is at fault, a policy spoke, or nobody wants the answer.
local FATAL = { invalid = true, filtered = true, cancelled = true, deadlock = true, cpu = true, memory = true }

---@class sluice.Fallback
---@field steps table[]
local Fallback = { __name = "sluice.fallback" }
Fallback.__index = Fallback

-- Making a chain ------------------------------------------------------------------------------------

local function is_askable(value)
  if type(value) ~= "table" then return false end
  local mt = getmetatable(value)
  return type(mt) == "table" and type(value.ask) == "function" and type(value.stream) == "function"
end

local function read_step(raw, i)
  local where = ("sluice.fallback: step %d"):format(i)
  local step = raw
  if is_askable(raw) or type(raw) == "function" then step = { raw }
  elseif type(raw) ~= "table" then
    options.raise(("%s must be a model, a function or { model, after = seconds, … }, got %s")
      :format(where, options.got(raw)))
  end
  options.check(where, step, STEP)
  local target = step[1]
  if not (type(target) == "function" or is_askable(target)) then
    options.raise(("%s: its first element must be a model, a fallback or a function"):format(where))
  end
  local on
  if step.on then
    on = {}
    for _, kind in ipairs(step.on) do on[kind] = true end
  end
  return { target = target, is_rule = type(target) == "function", after = step.after, on = on,
    bigger = step.bigger, check = step.check, hold = step.hold,
    name = step.name or (type(target) == "table" and target.name) or ("step " .. i), index = i }
end

--- A chain. Steps are models, chains, functions, or tables `{ model, after =, on =, check =, hold =,
--- bigger =, name = }`; `rescue(req, err)` is asked once when a stream breaks after text was delivered.
--- `check(reply)` refuses an answer by returning false (and why); `hold` keeps back that many
--- characters of a stream before it commits.
---@param chain table
---@return sluice.Fallback
function Fallback.new(chain)
  if type(chain) ~= "table" then
    options.raise("sluice.fallback: expected a list of steps, got " .. options.got(chain))
  end
  local self = setmetatable({ steps = {}, name = chain.name or "fallback", rescue = chain.rescue }, Fallback)
  for key, value in pairs(chain) do
    if math.type(key) ~= "integer" and not CHAIN_KEYS[key] then
      options.raise(("sluice.fallback: unknown option '%s'%s"):format(tostring(key),
        options.suggest(key, CHAIN_KEYS)))
    end
    if (key == "rescue" or key == "check") and type(value) ~= "function" then
      options.raise(("sluice.fallback: option '%s' must be a function, got %s"):format(key, options.got(value)))
    end
  end
  for i = 1, #chain do
    local step = read_step(chain[i], i)
    step.check, step.hold = step.check or chain.check, step.hold or chain.hold
    self.steps[i] = step
    if step.after then self.hedges = true end
  end
  if #self.steps == 0 then options.raise "sluice.fallback: the list of steps is empty" end
  return self
end

function Fallback:__tostring()
  local names = {}
  for i, step in ipairs(self.steps) do names[i] = step.name end
  return ("fallback (%s)"):format(table.concat(names, " → "))
end

-- One step --------------------------------------------------------------------------------------------

--- A copy of the request a rule may read: always a table with `prompt` or `messages`.
local function request_table(req)
  if type(req) == "string" then return { prompt = req } end
  return req
end

local function refused(step, why)
  errors.raise { kind = "protocol", code = "refused_by_check", model = step.name,
    message = "the answer was refused by check" .. (why and why ~= true and ": " .. tostring(why) or "") }
end

local function check_reply(step, reply)
  if not step.check then return reply end
  local ok, why = step.check(reply)
  if not ok then refused(step, why) end
  return reply
end

local function text_reply(step, text)
  return Reply.new { text = text, finish_reason = "stop", usage = {}, model = step.name, provider = "rule",
    elapsed = 0, attempts = {} }
end

--- What a rule returned, as a reply (ask) or as something that streams.
local function from_rule(step, value, streaming)
  if value == nil then return nil end
  local kind = type(value)
  if kind == "string" then value = text_reply(step, value)
  elseif kind ~= "table" or not (value.text or value.events) then
    error(("sluice.fallback: %s returned %s; a rule returns text, a reply, a stream, or nil to decline")
      :format(step.name, options.got(value)), 0)
  end
  local is_stream = type(value) == "table" and type(value.events) == "function"
  if not streaming and is_stream then
    local stream <close> = value
    value = stream:reply()
  end
  if not is_stream then check_reply(step, value) end
  return value
end

--- Reads what must be there before the stream may win: `hold` characters, or all of it for a check.
local function hold_back(step, stream)
  if not (step.hold and step.hold > 0 or step.check) then return stream end
  return Spliced.hold(stream, step.check and math.huge or step.hold, function(reply) check_reply(step, reply) end)
end

--- Runs one step to its commit: a reply, or a stream with its first content there; nil: declined.
local function attempt(step, req, why, streaming, watch)
  if step.is_rule then return from_rule(step, step.target(request_table(req), why), streaming) end
  if streaming then return hold_back(step, step.target:stream(req)) end
  if not watch then return check_reply(step, step.target:ask(req)) end
  -- hedged: only a stream tells when the first content is there
  local stream <close> = step.target:stream(req)
  watch()
  return check_reply(step, stream:reply())
end

-- Moving on -------------------------------------------------------------------------------------------

local function note(attempts, step, outcome, started)
  local list = outcome and rawget(outcome, "attempts") or (outcome and outcome.attempts)
  local elapsed = core.now() - started
  if type(list) == "table" and #list > 0 then
    for _, entry in ipairs(list) do
      local copy = { step = step.index, name = step.name }
      for key, value in pairs(entry) do
        if copy[key] == nil then copy[key] = value end
      end
      attempts[#attempts + 1] = copy
    end
    return attempts[#attempts]
  end
  local entry = { step = step.index, name = step.name, elapsed = elapsed, model = outcome and outcome.model,
    provider = outcome and outcome.provider, kind = outcome and outcome.kind, status = outcome and outcome.status }
  attempts[#attempts + 1] = entry
  return entry
end

--- The step to go to after `failed`, or nil when the chain ends with this error.
local function next_after(self, err, from)
  if not errors.is(err) then return nil end -- a fault of the script is not the provider's
  local kind = err.kind
  if kind == "timeout" and err.phase == "deadline" then return nil end
  local bigger_only = kind == "invalid" and err.code == "context_length"
  if FATAL[kind] and not bigger_only then return nil end
  for i = from + 1, #self.steps do
    local step = self.steps[i]
    if (not bigger_only or step.bigger or step.is_rule) and (not step.on or step.on[kind]) then return i end
  end
  return nil
end

local function why_of(err, tried, started)
  return { kind = err and err.kind or "declined", err = err, elapsed = core.now() - started, tried = tried,
    left = core.left() }
end

local function mark(answer, step, why, first)
  if step.index == 1 then return answer end
  answer.degraded = { step = step.index, name = step.name, why = why, from = first.name }
  return answer
end

local function give_up(state)
  local first = table.remove(state.errors, 1)
  if not first then
    errors.raise { kind = "server", code = "declined", message = "every step of the fallback declined" }
  end
  if type(first) == "table" and first.also == nil and #state.errors > 0 then first.also = state.errors end
  if type(first) == "table" then first.attempts = state.attempts end
  error(first, 0)
end

--- A failure that ends the chain is raised itself; the earlier ones go along.
local function end_with(state, err)
  if type(err) == "table" and errors.is(err) then
    local others = {}
    for _, e in ipairs(state.errors) do if e ~= err then others[#others + 1] = e end end
    if err.also == nil and #others > 0 then err.also = others end
    err.attempts = state.attempts
  end
  error(err, 0)
end

-- Without a hedge: one step after the other, in this task ------------------------------------------------

local function sequence(self, req, streaming, state)
  local i, why = 1, nil
  while i do
    local step, started = self.steps[i], core.now()
    local ok, answer = pcall(attempt, step, req, why or why_of(nil, 0, state.started), streaming)
    if ok and answer ~= nil then
      note(state.attempts, step, answer, started)
      return answer, step, why and why.kind
    end
    if ok then
      i = i < #self.steps and i + 1 or nil
      why = why_of(why and why.err, state.tried, state.started)
      why.kind = why.err and why.err.kind or "declined"
    else
      local err = answer
      note(state.attempts, step, err, started)
      local following = next_after(self, err, i)
      if not following and errors.is(err) and not FATAL[err.kind]
        and not (err.kind == "timeout" and err.phase == "deadline") then
        state.errors[#state.errors + 1] = err
        give_up(state)
      elseif not following then
        end_with(state, err)
      end
      state.errors[#state.errors + 1] = err
      state.tried = state.tried + 1
      i, why = following, why_of(err, state.tried, state.started)
    end
  end
  give_up(state)
end

-- With hedges: several steps at once -----------------------------------------------------------------------

--- One race. Events come through a channel: { what, run, value }; `run` is one step under way.
local function race(self, req, streaming, state)
  return task.group(function(group)
    local inbox = sync.channel(4 * #self.steps + 8)
    local running, last_started, lost = 0, 0, {}

    local function start(i, why)
      local step = self.steps[i]
      local run = { step = step, why = why, started = core.now() }
      last_started = math.max(last_started, i)
      running = running + 1
      run.handle = group:spawn(function()
        local watch
        if not streaming and not step.is_rule then
          watch = function() inbox:send { "content", run } end
        end
        local ok, value = pcall(attempt, step, req, why, streaming, watch)
        inbox:send { ok and "answer" or "failure", run, value }
        if ok then return value end -- joined by the winner's path, so that a stream changes hands
      end)
      if step.after then
        run.timer = group:spawn(function()
          task.sleep(step.after)
          inbox:send { "silence", run }
        end)
      end
      return run
    end

    local function stop(run)
      if run.timer then run.timer:cancel() end
      run.stopped = true
      run.handle:cancel()
    end

    local runs = {}
    local function launch(i, why) runs[#runs + 1] = start(i, why) end
    local function stop_others(winner)
      for _, run in ipairs(runs) do
        if run ~= winner and not run.over and not run.stopped then
          stop(run)
          running = running - 1
          local entry = note(state.attempts, run.step, nil, run.started)
          entry.cancelled = true
          lost[#lost + 1] = run.step.index
        end
      end
    end

    launch(1, why_of(nil, 0, state.started))
    while true do
      local message = inbox:receive()
      local what, run, value = message[1], message[2], message[3]
      if run.stopped then -- its answer came too late, or it ended because it was stopped
        if what == "answer" and type(value) == "table" and type(value.close) == "function" then value:close() end
      elseif what == "content" then
        run.committed = true
        if run.timer then run.timer:cancel() end
        stop_others(run)
      elseif what == "silence" then
        if not run.committed and not run.over and run.step.index == last_started and last_started < #self.steps then
          local why = why_of(nil, state.tried, state.started)
          why.kind = "slow"
          launch(last_started + 1, why)
        end
      else
        run.over = true
        running = running - 1
        if run.timer then run.timer:cancel() end
        if what == "answer" and value ~= nil then
          stop_others(run)
          note(state.attempts, run.step, value, run.started)
          local answer = run.handle:join()
          return answer, run.step, run.why.kind
        end
        local err = what == "failure" and value or nil
        local following
        if err then
          note(state.attempts, run.step, err, run.started)
          following = next_after(self, err, last_started)
          local ends = not errors.is(err) or (FATAL[err.kind] and not following)
            or (err.kind == "timeout" and err.phase == "deadline")
          if ends then
            stop_others(run)
            end_with(state, err)
          end
          if run.step.index == 1 then table.insert(state.errors, 1, err)
          else state.errors[#state.errors + 1] = err end
          state.tried = state.tried + 1
        elseif last_started < #self.steps then
          following = last_started + 1
        end
        if not following and running == 0 then
          following = table.remove(lost, 1) -- cancelled in favour of the one that has now failed
          if not following then give_up(state) end
        end
        -- a hedge that fails while a later step runs changes nothing
        if following and (run.step.index == last_started or running == 0) then
          launch(following, why_of(err, state.tried, state.started))
        end
      end
    end
  end)
end

local function answer_of(self, req, streaming)
  local state = { started = core.now(), attempts = {}, errors = {}, tried = 0 }
  local pick = self.hedges and race or sequence
  local answer, step, why = pick(self, req, streaming, state)
  mark(answer, step, why, self.steps[1])
  return answer, state
end

-- Public ------------------------------------------------------------------------------------------------

--- Asks the steps in order until one answers. The reply says in `degraded` when it is not the first
--- step's: { step =, name =, why =, from = }; `attempts` lists who was asked, and what came.
--- Raises the first step's error when all fail, the others in `also`.
---@async
---@param req string|sluice.Request
---@return sluice.Reply
function Fallback:ask(req)
  local reply, state = answer_of(self, req, false)
  reply.attempts = state.attempts
  reply.elapsed = core.now() - state.started
  return reply
end

--- The same for a stream: returns when a step has committed. What fails later is `rescue`'s to mend.
---@async
---@param req string|sluice.Request
---@return sluice.Stream
function Fallback:stream(req)
  local answer, state = answer_of(self, req, true)
  return Spliced.new { inner = answer, req = req, rescue = self.rescue, attempts = state.attempts,
    degraded = answer.degraded, started = state.started, name = self.name, chain = self }
end


return Fallback
