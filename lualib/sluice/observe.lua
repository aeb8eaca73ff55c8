--- The one place where what happens to calls can be seen: the timeline, metrics, traces, logs, reports.
-- Owns: who listens, the records they are given, noticing the end of a stream whoever ends it.
-- Never: keeps what it has told, nor the text of a prompt or an answer.
-- Reading order: the events below, observe.subscribe, then the sites in the order of a call.
--
-- Nobody listens: `observe.on` is nil, and each site costs one look at it. Otherwise it is an object with a
-- method for every event, which calls the subscribers that have a method of that name, in the order they
-- came, as `subscriber:event(record, at, …)`; `at` is the time in seconds of task.now().
--
--   call_began(call, at)
--   waited(call, at, what, began, err)           a wait is over, for what it was or by `err`; what: "place"
--                                                (limit.concurrency), "rate" (other limits, a 429's gate), "token",
--                                                "backoff" (before the next attempt)
--   attempt_sent(call, at)                       call.attempt says which
--   content(call, at, ttft)                      a stream's first content, so many seconds after it was sent
--   attempt_ended(call, at, outcome, what, delay)  once for each that was sent; `delay`: another follows in so
--                                                many seconds
--   refused(call, at, err, delay)                an attempt that was never sent: breaker open, limit, no key
--   call_ended(call, at, outcome, what)          once for each that began
--
--     outcome: "ok", "error", "interrupted" (the stream broke after its first content), "abandoned" (its
--     reader closed it before the end, or let go of it), "cancelled". `what` is for "ok" and "abandoned" a
--     reply, or a table with some of the fields of one: usage, finish_reason, model, id, request_id, ttft,
--     elapsed, these two of this attempt alone (of the whole call for call_ended); else the error.
--
--   chain_began(chain, at)
--   chain_moved(chain, at, from, to, why, how)   steps; how: "failed", "declined", "slow": a hedge, beside `from`
--   chain_stopped(chain, at, step, winner)       a step is cancelled because another one was first
--   chain_answered(chain, at, step, why)         a step has won; of a stream, it has committed
--   chain_rescued(chain, at, err)                a broken stream goes on with what `rescue` gave
--   chain_ended(chain, at, outcome, err)         "ok", "error", "cancelled"; a stream is "ok" when it is handed out:
--                                                the call of its step goes on
--
--   tool_began(run, at)                          a tool the model called is run (sluice.ObservedTool)
--   tool_ended(run, at, outcome, err)            "ok", "error", "cancelled", or "refused": not run, its arguments do
--                                                not fit, or `allow` said no. What it was given and what it
--                                                returned is nobody's business here
--
--   token_refreshed(name, at, outcome, seconds)  outcome: "ok" or "error"
--   breaker_changed(breaker, at, before, after, why)  states as breaker:state() says them
--
-- While every subscriber says `light = true`, no record is made of what goes well, which then costs next to
-- nothing: a call has one from its first wait or failure on; a chain when it moves on. There is no call_began or
-- chain_began then, no attempt_sent before that, nothing of faults of the script's; and of calls without a record
--
--   ask_answered(run, reply)                     an ask has succeeded (`run`: policy/call.lua's)
--   stream_began(run, ttft)                      a stream has its first content
--   stream_over(run, at, outcome, err, input, output)  … has ended: "ok", "abandoned", or "interrupted" (`err`);
--                                                tokens where they are known, which they are not when the stream
--                                                itself is gone
--
-- instead of the others. Beside a subscriber that is not light, a light one hears the same as it. Alone, its methods
-- are called as they are: they must not raise, nor use `self`.
--
-- Records last as long as what they stand for; a subscriber may keep what is its own in `record[self]`, and
-- changes nothing else. It must not wait. What it raises is logged once and hurts nobody else.

local errors = require "sluice.errors"

local EVENTS = { "call_began", "waited", "attempt_sent", "content", "attempt_ended", "refused", "call_ended",
  "chain_began", "chain_moved", "chain_stopped", "chain_answered", "chain_rescued", "chain_ended",
  "tool_began", "tool_ended", "token_refreshed", "breaker_changed", "ask_answered",
  "stream_began", "stream_over" }
local SWEEP_S = 1        -- seconds between two looks at streams that may have been closed without a word
local WAIT_MIN = 1e-4    -- seconds: to get what is there is no wait

---One call of a model: ask or stream, all its attempts.
---@class sluice.ObservedCall
---@field number integer     counts what scripts ask for: the calls of a chain have the chain's
---@field id string          the request id, the same for all attempts (Idempotency-Key)
---@field name string        "provider/model"
---@field provider string
---@field model string       that was asked for
---@field price? sluice.Price|false  of the model's own
---@field base string        its base_url, which may hold a credential: show no more than its host
---@field streaming boolean
---@field max_tokens? integer
---@field task integer       the task it was made in
---@field chain? sluice.ObservedChain  it is a step of
---@field began number       task.now()
---@field attempt integer    the last one that was sent, or refused
---@field sent number|false  when; false: the attempt is not under way
---@field waited number      seconds before the last attempt: for limits, or since the one before
---@field ttft? number       seconds from `sent` to the first content, of the attempt under way
---@field ended? number      task.now()

---One walk down a fallback.
---@class sluice.ObservedChain
---@field number integer
---@field name string
---@field steps integer      how many there are
---@field streaming boolean
---@field task integer
---@field chain? sluice.ObservedChain  it is a step of
---@field began number
---@field ended? number

---One run of a tool.
---@class sluice.ObservedTool
---@field name string        "tool NAME"
---@field tool string        its name
---@field tool_call string   the id the provider gave the call
---@field task integer
---@field began number       task.now()
---@field ended? number

local observe = {
  on = nil,   ---@type table?  has a method for every event
  full = nil, ---@type boolean?  somebody wants a record of every call
  EVENTS = EVENTS,
}

local core                 -- sluice.core.task, once somebody listens
local subscribers = {}
local numbers = 0          -- calls so far
local asking = {}          -- task -> the call whose request it is making: who waits for a token
local open = {}            -- call, or a run without a record -> true: its stream has committed
local stream_of = setmetatable({}, { __mode = "v" }) -- … -> that stream, unless it was collected
local swept = 0

-- Subscribers ---------------------------------------------------------------------------------------

local told = setmetatable({}, { __mode = "k" }) -- subscribers whose failure has been logged

local function complain(subscriber, event, why)
  if told[subscriber] then return end
  told[subscriber] = true
  require "sluice.log".error("an observer failed; calls are not affected",
    { event = event, error = errors.is(why) and tostring(why) or errors.one_line(tostring(why), 300) })
end

local function nothing() end

local function teller(event)
  local list = {}
  for _, subscriber in ipairs(subscribers) do
    if subscriber[event] then list[#list + 1] = subscriber end
  end
  if #list == 0 then return nothing end
  if #list > 1 then
    return function(_, ...)
      for i = 1, #list do
        local ok, why = pcall(list[i][event], list[i], ...)
        if not ok then complain(list[i], event, why) end
      end
    end
  end
  local subscriber, f = list[1], list[1][event]
  if subscriber.light then return f end -- a guard would be a quarter of what counting costs
  return function(_, a, at, b, c, d, e)
    local ok, why = pcall(f, subscriber, a, at, b, c, d, e)
    if not ok then complain(subscriber, event, why) end
  end
end

local function rebuild()
  if #subscribers == 0 then
    observe.on, observe.full = nil, nil
    asking, open = {}, {}
    stream_of = setmetatable({}, { __mode = "v" })
    return
  end
  core = core or require "sluice.core.task"
  local hub = {}
  for _, event in ipairs(EVENTS) do hub[event] = teller(event) end
  local full = false
  for _, subscriber in ipairs(subscribers) do full = full or not subscriber.light end
  observe.on, observe.full = hub, full
end

--- Calls the methods of `subscriber` that have the names of events, from now on.
---@generic T
---@param subscriber T  with one of them at least
---@return T
function observe.subscribe(subscriber)
  local any = false
  for _, event in ipairs(EVENTS) do any = any or type(subscriber[event]) == "function" end
  if not any then error("observe.subscribe: the subscriber has no method that is named as an event", 2) end
  subscribers[#subscribers + 1] = subscriber
  rebuild()
  return subscriber
end

--- Calls them no more.
---@param subscriber table
function observe.unsubscribe(subscriber)
  for i, known in ipairs(subscribers) do
    if rawequal(known, subscriber) then
      table.remove(subscribers, i)
      return rebuild()
    end
  end
end

local function next_number()
  numbers = numbers + 1
  return numbers
end

-- Streams -------------------------------------------------------------------------------------------

local function forget(call)
  open[call], stream_of[call] = nil, nil
end

--- How a stream ended, as the events say it.
local function end_of(call, stream, at)
  local broken = stream and stream.failure
  if broken then return "interrupted", broken end
  local assembler = stream and stream.assembler
  return stream and stream.over and "ok" or "abandoned", {
    usage = assembler and assembler:usage(), finish_reason = assembler and stream.over and assembler:reason() or nil,
    model = call.model, request_id = stream and stream.request_id, ttft = call.ttft, elapsed = at - call.sent }
end

local function stream_ended(call, stream, at)
  forget(call)
  local on = observe.on
  if call.ended or not on then return end
  local outcome, what = end_of(call, stream, at)
  on:attempt_ended(call, at, outcome, what)
  call.sent, call.ended = false, at
  if outcome ~= "interrupted" then
    local first = call.first
    what = setmetatable({ elapsed = at - call.began, ttft = first and first - call.began }, { __index = what })
  end
  on:call_ended(call, at, outcome, what)
end

-- The same for a stream whose call has no record.
local function light_ended(run, stream, at)
  open[run], stream_of[run] = nil, nil
  local on, failure = observe.on, stream and stream.failure
  if not stream then return on:stream_over(run, at, "abandoned") end
  if failure then return on:stream_over(run, at, "interrupted", failure) end
  on:stream_over(run, at, stream.over and "ok" or "abandoned", nil, stream.assembler:tokens())
end

--- The answer of a stream is complete, broken, or closed. While somebody listens; a second time changes nothing.
---@param stream sluice.Stream
function observe.settled(stream)
  local run = stream.run
  if open[run] then return light_ended(run, stream, core.now()) end
  local call = stream.observed
  if call and not call.ended then stream_ended(call, stream, core.now()) end
end

--- Streams may be closed with their task group, or by the collector, without a word to Lua: tells of those
--- that were. Called now and then; whoever shows what is open right now may call it before.
function observe.sweep()
  if not observe.on then return end
  local now, gone = core.now(), nil
  swept = now
  for call in pairs(open) do
    local stream = stream_of[call]
    local closed, at = true, nil
    if stream then closed, at = stream.handle:closed() end
    if closed then
      gone = gone or {}
      gone[#gone + 1] = { call, stream, at or now }
    end
  end
  for _, g in ipairs(gone or {}) do
    if g[1].endpoint then light_ended(g[1], g[2], g[3]) else stream_ended(g[1], g[2], g[3]) end
  end
end

--- How many streams are open, those included that were closed without a word since the last sweep.
---@return integer
function observe.open_streams()
  local n = 0
  for _ in pairs(open) do n = n + 1 end
  return n
end

-- Calls: policy/call.lua, model.lua -----------------------------------------------------------------
-- `run` is a call as policy/call.lua knows it.

--- An attempt is over; `delay` until the next one.
local function attempt_over(call, at, outcome, what, delay)
  if asking[call.task] == call then asking[call.task] = nil end
  if call.sent then observe.on:attempt_ended(call, at, outcome, what, delay)
  else observe.on:refused(call, at, what, delay) end
  call.sent = false
  if call.ttft then call.ttft, call.first = nil, nil end
end

local function call_over(call, at, outcome, what)
  call.ended = at
  observe.on:call_ended(call, at, outcome, what)
end

local function close_call(call, err)
  if err == nil or call.ended or not observe.on then return end -- what went well, `came` has told
  local at, outcome = core.now(), errors.is(err, "cancelled") and "cancelled" or "error"
  if call.sent then attempt_over(call, at, outcome, err) end
  call_over(call, at, outcome, err)
end

local classes = setmetatable({}, { __mode = "k" }) -- model -> what the records of its calls have in common

local function class_of(model)
  local class = { __close = close_call, __index = { name = model.name, provider = model.opts.provider,
    model = model.opts.model, base = model.base, price = model.price, streaming = false, attempt = 0, sent = false,
    waited = 0 } }
  classes[model] = class
  return class
end

local function record_of(run, at)
  local model, opts = run.model, run.opts
  if at - swept > SWEEP_S and next(open) then observe.sweep() end
  -- One table, its own guard, with room for eight: it is made for every call. What a plain ask comes to have is
  -- number, id, task, began, attempt, sent, ended, and what one subscriber keeps in it.
  local call = setmetatable({ number = opts and opts.call or next_number(), id = run.id, task = core.current(),
    began = at, attempt = nil, sent = nil, ended = nil, own = nil }, classes[model] or class_of(model))
  if opts and opts.chain then call.chain = opts.chain end
  if run.max_tokens then call.max_tokens = run.max_tokens end
  if run.streaming then call.streaming = true end
  run.observed = call
  return call
end

--- The record of a call that nobody wanted one of so far.
local function late_record(run)
  local sent, waited = run.sent, run.waited or 0
  local call = record_of(run, (sent or core.now()) - waited)
  if sent then call.attempt, call.sent, call.waited = run.attempt, sent, waited end
  return call
end

--- A call without a record is left: it is its own guard, with this as __close (model.lua).
---@param run sluice.Run
---@param err any
function observe.run_closed(run, err)
  if err == nil or not observe.on then return end
  local call = run.observed
  if not call then
    if not errors.is(err) then return end
    call = late_record(run)
  end
  close_call(call, err)
end

--- A call begins. To be closed when it is left.
---@param run sluice.Run
---@return table
function observe.call(run)
  local at = core.now()
  local call = record_of(run, at)
  observe.on:call_began(call, at)
  return call
end

--- A request is sent.
---@param run sluice.Run
function observe.sent(run)
  local call = run.observed
  if not call then return end -- it began before anybody listened
  call.attempt, call.sent = run.attempt, run.sent
  if run.waited then call.waited = run.waited end
  asking[call.task] = call
  observe.on:attempt_sent(call, run.sent)
end

--- An attempt has succeeded: a whole reply, or a stream that has committed.
---@param run sluice.Run
---@param result sluice.Reply|sluice.Stream
function observe.came(run, result)
  local call = run.observed
  if not call then
    if observe.full then return end -- it began before anybody listened
    if not result.handle then return observe.on:ask_answered(run, result) end
    observe.on:stream_began(run, result.ttft or core.now() - run.sent)
    open[run], stream_of[run] = true, result -- none of it in the stream: it is full
    if result.over then light_ended(run, result, core.now()) end
    return
  end
  if call.ended then return end
  local at = core.now()
  if not result.events then
    local elapsed, ttft = result.elapsed, result.ttft
    attempt_over(call, at, "ok", (run.entries or run.waited) and setmetatable({ elapsed = at - call.sent,
      ttft = ttft and elapsed and at - call.sent - (elapsed - ttft) }, { __index = result }) or result)
    return call_over(call, at, "ok", result)
  end
  if asking[call.task] == call then asking[call.task] = nil end
  call.ttft = result.ttft or at - call.sent
  call.first = call.sent + call.ttft
  observe.on:content(call, at, call.ttft)
  if result.over then return stream_ended(call, result, at) end
  result.observed = call
  open[call], stream_of[call] = true, result
end

--- An attempt has failed before its commit; `delay` seconds until the next one, or nil.
---@param run sluice.Run
---@param err any
---@param delay? number
function observe.failed(run, err, delay)
  local call = run.observed
  if not call and not observe.full then call = late_record(run) end
  if not call or call.ended then return end
  call.attempt = run.attempt
  if not call.sent then call.waited = run.waited or 0 end
  attempt_over(call, core.now(), errors.is(err, "cancelled") and "cancelled" or "error", err, delay)
end

-- Waits ---------------------------------------------------------------------------------------------

local Wait = {}
Wait.__index = Wait
function Wait:__close(err)
  local call, on, at = self.call, observe.on, core.now()
  if not on or call.ended or at - self.began < WAIT_MIN then return end
  on:waited(call, at, self.what, self.began, err)
end

--- A wait of a call begins. To be closed when it is over.
---@param run sluice.Run
---@param what "place"|"rate"|"backoff"
---@return table|false
function observe.wait(run, what)
  local call = run.observed or not observe.full and late_record(run)
  return call and setmetatable({ call = call, what = what, began = core.now() }, Wait) or false
end

--- The same for a credential, by whoever makes a request in this task.
---@return table|false
function observe.token_wait()
  local call = asking[core.current()]
  return call and setmetatable({ call = call, what = "token", began = core.now() }, Wait) or false
end

-- Tools: tool/call.lua ------------------------------------------------------------------------------

local Tool = {}
Tool.__index = Tool

--- The tool has run, or was not run.
---@param outcome "ok"|"error"|"refused"|"cancelled"
---@param err? any
function Tool:over(outcome, err)
  if self.ended or not observe.on then return end
  self.ended = core.now()
  observe.on:tool_ended(self, self.ended, outcome, err)
end

function Tool:__close(err)
  if err ~= nil then self:over(errors.is(err, "cancelled") and "cancelled" or "error", err) end
end

--- A tool is to be run. To be closed when it is left, after `over` when it was not left by an error.
---@param name string
---@param id any
---@return table?
function observe.tool(name, id)
  if not observe.full then return nil end
  local run = setmetatable({ name = "tool " .. name, tool = name, tool_call = tostring(id), task = core.current(),
    began = core.now() }, Tool)
  observe.on:tool_began(run, run.began)
  return run
end

-- Chains: fallback/*.lua ------------------------------------------------------------------------------
-- `w` is a walk as fallback/walk.lua knows it.

local Chain = {}
Chain.__index = Chain
function Chain:__close(err)
  local chain = self.chain
  if not observe.on or chain.ended then return end
  chain.ended = core.now()
  observe.on:chain_ended(chain, chain.ended,
    err == nil and "ok" or errors.is(err, "cancelled") and "cancelled" or "error", err)
end

local function chain_of(w)
  local opts = w.opts
  local chain = { number = opts and opts.call or next_number(), name = w.name, steps = #w.steps,
    streaming = w.streaming, task = core.current(), chain = opts and opts.chain, began = w.started }
  w.observed, w.call = chain, chain.number
  return chain
end

--- A chain is asked. To be closed when that is over.
---@param w sluice.Walk
---@return table
function observe.chain(w)
  local chain = chain_of(w)
  observe.on:chain_began(chain, chain.began)
  return setmetatable({ chain = chain }, Chain)
end

--- A chain goes to another step.
---@param w sluice.Walk
---@param from sluice.Step
---@param to sluice.Step
---@param why sluice.Why
---@param declined? boolean
function observe.moves_on(w, from, to, why, declined)
  local chain = w.observed or not observe.full and chain_of(w)
  if not chain then return end
  observe.on:chain_moved(chain, core.now(), from, to, why,
    declined and "declined" or why.kind == "slow" and "slow" or "failed")
end

--- A step was stopped in favour of another one.
---@param w sluice.Walk
---@param s sluice.Step
---@param winner? sluice.Step
function observe.stopped(w, s, winner)
  if w.observed then observe.on:chain_stopped(w.observed, core.now(), s, winner) end
end

--- A step has won.
---@param w sluice.Walk
---@param s sluice.Step
---@param why sluice.Why
function observe.answered(w, s, why)
  if w.observed then observe.on:chain_answered(w.observed, core.now(), s, why) end
end

--- A stream broke after text was delivered, and the rescue goes on in its place.
---@param w sluice.Walk
---@param err sluice.Error
function observe.rescued(w, err)
  local chain = w.observed or not observe.full and chain_of(w)
  if chain then observe.on:chain_rescued(chain, core.now(), err) end
end

return observe
