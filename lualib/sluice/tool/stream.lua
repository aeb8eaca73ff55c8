--- A tool loop as one stream: the model's streams one after the other, and the tools' results in between.
-- Owns: which stream is being read. Never: runs a task of its own; tools run in the task that reads.
-- Reading order: ToolStream.new, next_event, ToolStream:text.

local core = require "sluice.core.task"

---@class sluice.ToolStream : sluice.Stream
---@field rounds sluice.tool.Rounds  for sluice's own modules
local ToolStream = { __name = "sluice.tool.stream", __sluice_handle = "inner" }

-- What the stream that is being read says of itself.
local OF_INNER = { model = true, provider = true, degraded = true, ttft = true, attempts = true }

ToolStream.__index = function(self, key)
  local value = ToolStream[key]
  if value ~= nil or not OF_INNER[key] then return value end
  return rawget(self, "inner")[key]
end

--- The next stream of the model's.
local function open(self)
  local rounds = self.rounds
  self.inner = rounds.model:stream(rounds:request())
  self.iterate, self.state, self.last = nil, nil, nil
end

--- `ended(reply, messages, err)` is called once: with the answer, or with the error that broke the loop. A
--- stream that is closed before its end tells nobody.
---@async
---@param rounds sluice.tool.Rounds
---@param ended? fun(reply?: sluice.Reply, messages?: sluice.Message[], err?: any)
---@return sluice.ToolStream
function ToolStream.new(rounds, ended)
  local self = setmetatable({ rounds = rounds, ended = ended or false, queue = {}, first = 1, closed = false,
    started = core.now() }, ToolStream)
  open(self)
  return self
end

local function tell(self, ...)
  local ended = self.ended
  self.ended = false
  if ended then ended(...) end
end

local function fail(self, err)
  self.failure = err
  self:close()
  tell(self, nil, nil, err)
  error(err, 0)
end

local function after(self, ok, ...)
  if not ok then fail(self, (...)) end
  return ...
end

--- Runs `f`; what it raises is the end of the stream.
local function guarded(self, f, ...)
  return after(self, pcall(f, ...))
end

local function push(self, event) self.queue[#self.queue + 1] = event end

--- One answer has been read to its end: the loop is over, or tools run and the next answer begins.
local function turn(self)
  local reply = self.inner:reply()
  local rounds = self.rounds
  local calls = rounds:take(reply)
  if calls then
    self.inner:close()
    local results = rounds:run(calls)
    for i, call in ipairs(calls) do
      local result = results[i]
      push(self, { type = "tool_result", id = call.id, name = call.name, content = result.content,
        is_error = result.is_error, elapsed = result.elapsed })
    end
    return open(self)
  end
  local messages
  self.result, messages = rounds:finish(reply)
  self.result.elapsed = core.now() - self.started
  self.over = true
  if next(rounds.usage) then push(self, { type = "usage", usage = rounds.usage }) end
  push(self, { type = "finish", reason = reply.finish_reason })
  tell(self, self.result, messages)
end

local function check_open(self, method)
  if self.closed and not self.over then
    error(("stream:%s: the stream was closed before its end"):format(method), 3)
  end
end

local function take_queued(self)
  local event = self.queue[self.first]
  if event then
    self.queue[self.first] = nil
    self.first = self.first + 1
    return event
  end
  self.queue, self.first = {}, 1
end

--- The next value of the inner iterator; nil at its end.
local function pull(self, method)
  if not self.iterate then
    self.iterate, self.state, self.last = self.inner[method](self.inner)
  end
  local value = self.iterate(self.state, self.last)
  self.last = value
  return value
end

local function next_event(self)
  while true do
    local event = take_queued(self)
    if event then return event end
    if self.failure then error(self.failure, 0) end
    if self.over then return nil end
    event = guarded(self, pull, self, "events")
    if event == nil then guarded(self, turn, self)
    elseif event.type ~= "usage" and event.type ~= "finish" then return event end -- those of all rounds come last
  end
end

--- Every event of all rounds; tool_result stands between them.
---@async
---@return fun(): sluice.Event?
function ToolStream:events()
  check_open(self, "events")
  return function() return next_event(self) end, nil, nil, self
end

--- The pieces of text of all rounds as they come.
---@async
---@return fun(): string?
function ToolStream:text()
  check_open(self, "text")
  return function()
    if self.failure then error(self.failure, 0) end
    while not self.over do
      local text = guarded(self, pull, self, "text")
      if text then return text end
      guarded(self, turn, self)
    end
    self.queue, self.first = {}, 1
    return nil
  end, nil, nil, self
end

--- The last answer; reads what is left, and runs what is called.
---@async
---@return sluice.Reply
function ToolStream:reply()
  if self.result then return self.result end
  if self.failure then error(self.failure, 0) end
  check_open(self, "reply")
  local _ <close> = self
  while not self.over do guarded(self, turn, self) end
  return self.result
end

--- Closes what is being read, and ends the loop. Closing twice does nothing.
function ToolStream:close()
  if self.closed then return end
  self.closed = true
  if self.inner and self.inner.close then self.inner:close() end
end

ToolStream.__close = ToolStream.close

function ToolStream:__tostring()
  return ("stream of %s with tools (%s)"):format(tostring(self.rounds.model), self.closed and "closed" or "open")
end

require "sluice.transform.methods"(ToolStream)

return ToolStream
