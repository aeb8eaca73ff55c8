--- One streamed answer: from server-sent events to text, events, and the reply.
-- Owns: when an answer is committed, complete, or broken. Plain text goes past this file: C hands it
-- straight to the loop; what comes here is everything else (sluice.core.http, provider, assemble).
-- Never: retries. Before the commit the caller may (model.lua); after it nobody does.

local core = require "sluice.core.task"
local json = require "sluice.json"
local errors = require "sluice.errors"
local observe = require "sluice.observe"
local usage_of = require "sluice.provider.usage"

local AFTER_FINISH = 2    -- seconds to wait for usage once the answer is complete
local AFTER_DONE = 0.25   -- seconds to read the connection to its end, so that it can be reused

-- What makes an answer worth waiting for, and un-retryable.
local CONTENT = { text = true, thinking = true, tool_call = true }

---@class sluice.Stream : sluice.Transformable
---@field model string      the model that was asked
---@field provider string
local Stream = {}
Stream.__index = Stream
Stream.__name = "sluice.stream"
Stream.queue, Stream.first = {}, 1 -- events to hand out; this table is nobody's and stays empty
Stream.__sluice_handle = "handle" -- the field whose owner changes when a task returns this stream

-- Reading ---------------------------------------------------------------------------------------

--- Text that C has handed out since the last look becomes part of the answer.
local function sync(self)
  local handle, assembler = self.handle, self.assembler
  if handle:closed() then return end
  local text = handle:take_text()
  if text ~= "" then return assembler:text(text) end
end

local function push(self, event)
  local queue = self.queue
  if queue == Stream.queue then
    queue = {}
    self.queue = queue
  end
  queue[#queue + 1] = event
  if CONTENT[event.type] then
    self.handle:progress(event.text and #event.text or 0)
    if not self.ttft then self.ttft = core.now() - self.run.sent end
  end
end

local function push_all(self, events)
  if events == nil then return end
  if events.type then return push(self, events) end
  for i = 1, #events do push(self, events[i]) end
end

--- The answer is complete, broken, or given up: what it has used is known now.
local function settle(self)
  if observe.on then observe.settled(self) end
  local charge = self.charge
  if not charge then return end
  self.charge = nil
  local complete = self.over and not self.failure
  charge:settle_by(self.assembler:usage(), self.assembler.size, not complete)
end

--- The failure is kept until what came before it has been read.
local function fail(self, fields)
  if self.failure then return end
  fields = self.assembler:broken(fields, self.ttft ~= nil)
  if not errors.is(fields) then fields = errors.new(fields) end
  self.failure = self:decorate(fields)
  self.over = true
  self.handle:halt()
  settle(self)
end

local function raise_failure(self)
  self:close()
  if not self.concluded then
    self.concluded = true
    self:conclude(self.failure)
  end
  errors.raise(self.failure)
end

--- Counts that came beside the last pieces of text; what comes later stands, field by field.
local function take_usage(self)
  local raw = self.handle:take_usage()
  if not raw then return end
  local ok, decoded = pcall(json.decode, raw)
  local counts = ok and usage_of.openai(decoded)
  if counts then self.assembler:feed { type = "usage", usage = counts } end
end

local function conclude(self)
  take_usage(self)
  local id, model = self.handle:take_opening()
  if id or model then self.assembler:feed { type = "meta", id = id, model = model } end
  local events, failure = self.assembler:finish()
  if failure then return fail(self, failure) end
  push_all(self, events)
  self.over = true
  settle(self)
  self.handle:drain(AFTER_DONE)
end

--- One event that is not plain text.
local function take(self, name, data, id)
  local failure = sync(self)
  if failure then return fail(self, failure) end
  local assembler = self.assembler
  local deltas = self.run.model.spoken.event { event = name, data = data, id = id }
  local counted, content = false, false
  for i = 1, #deltas do
    local delta = deltas[i]
    if delta.type == "done" then -- conclude() hands out what is left, after the usage
      assembler.over = true
    else
      if delta.type == "usage" then take_usage(self) end
      local events
      events, failure = assembler:feed(delta)
      push_all(self, events)
      if delta.type == "tool" then -- content, though the script sees the call only when it is whole
        self.handle:progress(delta.arguments and #delta.arguments or 0)
        if not self.ttft then self.ttft = core.now() - self.run.sent end
      end
      if failure then return fail(self, failure) end
      if delta.type == "usage" then counted = true
      elseif CONTENT[delta.type] or delta.type == "tool" then content = true end
    end
  end
  -- some send no terminator: with the finish and the counts there is nothing left to wait for
  if assembler:done() or counted and not content and assembler:complete() then return conclude(self) end
  if not self.hurried and assembler:complete() then
    self.hurried = true
    self.handle:hurry(AFTER_FINISH)
  end
end

--- The wire has ended: cleanly, or with what pull said of it.
local function ended(self, kind, phase, message)
  if self.over then return end
  local failure = sync(self)
  if failure then return fail(self, failure) end
  -- once the answer is complete, how the connection ends is of no interest
  if kind == nil or self.assembler:complete() then return conclude(self) end
  fail(self, { kind = kind, phase = phase, message = message })
end

--- Reads one thing from the wire; text comes back as such.
local function read(self, continuing)
  local first, a, b, c = self.handle:pull(continuing)
  if first then
    if not self.ttft then self.ttft = core.now() - self.run.sent end
    return first
  end
  if first == nil then take(self, a, b, c) else ended(self, a or nil, b, c) end
end

local function check_open(self, method)
  if self.closed and not self.over then
    error(("stream:%s: the stream was closed before its end"):format(method), 3)
  end
  local handle = self.handle
  if handle.reading and handle:reading() then -- before there is a loop whose end would close it
    error(("stream:%s: another task is already reading this stream"):format(method), 3)
  end
end

local function drop_first(self)
  local queue, first = self.queue, self.first
  queue[first] = nil
  if queue[first + 1] then self.first = first + 1
  elseif first > 1 then self.first = 1 end
end

local function next_event(self)
  local continuing = false
  while true do
    local event = self.queue[self.first]
    if event then
      drop_first(self)
      return event
    end
    if self.failure then raise_failure(self) end
    if self.over then return nil end
    local text = read(self, continuing)
    if text then return { type = "text", text = text } end
    continuing = true
  end
end

-- Public ----------------------------------------------------------------------------------------

--- What is not plain text, for the loop in C: returns what to hand out and whether there is more of it
--- before anything is read, nil to go on, false at the end. Called with nothing when there is more.
local function other_event(self, kind, a, b, c)
  if kind == false then
    if not self.over then ended(self, a or nil, b, c) end
  elseif a then
    take(self, a, b, c)
  end
  local event = self.queue[self.first]
  if event then
    drop_first(self)
    return event, self.queue[self.first] ~= nil
  end
  if self.failure then raise_failure(self) end
  if self.over then return false end
  return nil
end

--- Every event of the answer: { type = "text"|"thinking"|"tool_call"|"usage"|"switch"|"finish", … }.
--- Leaving the loop early closes the stream. Raises what broke the answer, `interrupted` once text
--- had been delivered, with that text in `partial`.
---@async
---@return fun(): sluice.Event?
function Stream:events()
  check_open(self, "events")
  if self.over then return function() return next_event(self) end, nil, nil, self end -- nothing is left on the wire
  return self.handle:events(other_event, self, self.queue[self.first] ~= nil), nil, nil, self
end

--- The text among the events that wait, which are used up by this; nil when there is none.
local function queued_text(self)
  local queue, text = self.queue, nil
  if queue == Stream.queue then return nil end
  for i = self.first, #queue do
    local event = queue[i]
    if event.type == "text" then text = text and text .. event.text or event.text end
  end
  self.queue, self.first = nil, nil
  return text
end

--- The same for a loop over text.
local function other_text(self, kind, a, b, c)
  if kind == nil then take(self, a, b, c)
  elseif not self.over then ended(self, a or nil, b, c) end
  local text = queued_text(self)
  if text then return text end
  if self.failure then raise_failure(self) end
  if self.over then return false end
  return nil
end

--- The pieces of text as they come; thinking, tool calls and usage are kept for reply().
---@async
---@return fun(): string?
function Stream:text()
  check_open(self, "text")
  local early = queued_text(self) -- what came with the commit
  if self.over and self.failure == nil then -- all of it: nothing is left on the wire
    return function()
      local text = early
      early = nil
      return text
    end, self, nil, self
  end
  if early then self.handle:put_back(early) end
  return self.handle:texts(other_text, self), nil, nil, self
end

--- The whole answer; reads what is left of it. The same shape as ask()'s.
---@async
---@return sluice.Reply
function Stream:reply()
  if self.result then return self.result end
  check_open(self, "reply")
  local _ <close> = self -- whoever asks for all of it reads no more when that fails or is cancelled
  while next_event(self) do end -- luacheck: ignore 542
  local reply = self.assembler:reply()
  reply.provider, reply.ttft = self.provider, self.ttft
  reply.model = reply.model or self.model
  reply.elapsed = core.now() - self.run.sent
  self.result = self:finish_reply(reply)
  return self.result
end

--- The connection is closed at once, unless the answer was complete. Closing twice does nothing.
function Stream:close()
  if self.closed then return end
  self.closed = true
  if self.charge then -- given up: what was handed out has been generated and will be billed
    sync(self)
    settle(self)
  end
  self.handle:close()
  if observe.on and not self.over then observe.settled(self) end -- else it is known already
end

Stream.__close = Stream.close

function Stream:__tostring()
  local state = self.closed and "closed" or self.over and "ended" or "open"
  return ("stream of %s/%s (%s)"):format(self.provider, self.model, state)
end

-- Made by models --------------------------------------------------------------------------------

--- From now on the stream settles what it was charged, when its end is known. Before the commit the
--- call does.
--- For sluice's own modules.
---@param charge sluice.Charge
function Stream:settles(charge)
  self.charge = charge
  if self.over then settle(self) end
end

--- Wraps an open handle whose reply is a stream of events.
---@param fields table  handle, assembler, model, provider, request_id, run (the call it belongs to)
---@return sluice.Stream
function Stream.new(fields)
  return setmetatable(fields, Stream)
end

--- A failure before there is anything to hand out is one of the opening.
local function failed_early(self)
  if not self.failure or self.ttft or self.queue[self.first] then return nil end
  self:close()
  return self.failure
end

--- For handle:until_text(), which reads up to the first content, so that whatever fails before it can still be
--- retried: takes what is not plain text. Is there nothing to wait for any more?
--- For sluice's own modules.
---@return boolean
function Stream:before_first(kind, a, b, c)
  if kind == nil then take(self, a, b, c)
  elseif not self.over then ended(self, a or nil, b, c) end
  return self.ttft ~= nil or self.over
end

--- What handle:until_text() found: true, text. Returns what the opening fails with, or nil: the stream is
--- committed, also by an answer that ended without content.
--- For sluice's own modules.
---@param text boolean
---@return sluice.Error?
function Stream:commit(text)
  if not text then return failed_early(self) end
  self.ttft = core.now() - self.run.sent
end

--- A whole answer that came where a stream was asked for. Returns what it fails with.
--- For sluice's own modules.
---@param deltas sluice.Delta[]
---@return sluice.Error?
function Stream:take_whole(deltas)
  for i = 1, #deltas do
    local delta = deltas[i]
    if delta.type == "done" then
      self.assembler.over = true
    else
      local events, failure = self.assembler:feed(delta)
      push_all(self, events)
      if failure then fail(self, failure) break end
    end
  end
  if not self.failure then conclude(self) end
  local failure = failed_early(self)
  if failure then return failure end
  if not self.ttft then self.ttft = core.now() - self.run.sent end
end

require "sluice.transform.methods"(Stream)

return Stream
