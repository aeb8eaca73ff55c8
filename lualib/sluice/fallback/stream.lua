--- The stream a chain hands out: one step's stream, or a reply as one, with the rescue's text or stream
-- behind it when it broke off.
-- Owns: splicing. Events of the second stream follow a { type = "switch", from =, to =, at = bytes }.
-- Never: starts steps (walk.lua).
-- Reading order: ChainStream.new, iterator, mend, ChainStream:reply.
--
-- A step has won when its first content is there; but as long as nothing of it was handed out, a break
-- is mended like any failure, by the next step. A tool call is handed out whole, so half of one is none.

local core = require "sluice.core.task"
local attempts = require "sluice.fallback.attempts"
local errors = require "sluice.errors"
local observe = require "sluice.observe"
local step = require "sluice.fallback.step"
local Reply = require "sluice.reply"
local walk = require "sluice.fallback.walk"

---@class sluice.ChainStream : sluice.Stream
---@field degraded? sluice.Degraded
---@field attempts table[]  who was asked so far; who is being read comes last, when it has ended: complete, broken, or
---left (`cancelled`)
local ChainStream = { __name = "sluice.fallback.stream", __sluice_handle = "inner" }
ChainStream.__index = ChainStream

-- A reply as events -------------------------------------------------------------------------------

local function events_of(reply)
  local list = {}
  if reply.thinking then list[#list + 1] = { type = "thinking", text = reply.thinking } end
  if reply.text ~= "" then list[#list + 1] = { type = "text", text = reply.text } end
  for _, call in ipairs(reply.tool_calls) do
    list[#list + 1] = { type = "tool_call", id = call.id, name = call.name, arguments = call.arguments,
      arguments_json = call.arguments_json }
  end
  if next(reply.usage) then list[#list + 1] = { type = "usage", usage = reply.usage } end
  list[#list + 1] = { type = "finish", reason = reply.finish_reason }
  return list
end

--- From here on the stream's events are those of `source`: a stream, or a reply.
local function set_source(self, source)
  self.settled = false
  self.model, self.provider = source.model, source.provider
  if type(source.events) == "function" then
    self.inner, self.whole, self.list = source, nil, nil
  else
    self.inner, self.whole, self.list, self.at = nil, source, events_of(source), 0
  end
end

---@param fields table  walk, step, answer (a stream or a reply), rescue, began, degraded
---@return sluice.ChainStream
function ChainStream.new(fields)
  local w = fields.walk
  local self = setmetatable({ walk = w, rescue = fields.rescue, degraded = fields.degraded, attempts = w.attempts,
    ttft = core.now() - w.started, step = fields.step, began = fields.began, before = nil, closed = false },
    ChainStream)
  set_source(self, fields.answer)
  return self
end

-- When it breaks ----------------------------------------------------------------------------------

--- Writes down, once, how the part under way has ended.
local function settle(self, outcome)
  if self.settled then return end
  self.settled = true
  attempts.add(self.attempts, self.step, outcome, self.began - self.walk.started, core.now() - self.began)
end

--- An error of this stream, in the words of the whole chain.
local function raise(self, err, other)
  if errors.is(err) then
    local also = err.also or {}
    for _, known in ipairs(self.walk.errors) do also[#also + 1] = known end
    also[#also + 1] = other
    if #also > 0 then err.also = also end
    err.attempts, err.elapsed = self.attempts, core.now() - self.walk.started
  end
  self.failure = err
  error(err, 0)
end

--- Asks rescue; what it gave, or raises.
local function ask_rescue(self, err)
  local rescue = self.rescue
  self.rescue = nil -- once per call
  local began = core.now()
  local ok, value = pcall(rescue, step.request(self.walk.req), err)
  if not ok then
    if not errors.is(value) then error(value, 0) end -- a fault of the script
    attempts.add(self.attempts, { index = "rescue", name = "rescue" }, value, began - self.walk.started,
      core.now() - began)
    raise(self, err, value)
  end
  if value == nil then raise(self, err) end
  if type(value) == "string" then
    value = Reply.new { text = value, finish_reason = "rescued", usage = {}, model = self.model,
      provider = self.provider, attempts = {}, elapsed = 0 }
  elseif type(value) ~= "table" or not (type(value.events) == "function" or type(value.text) == "string") then
    error("sluice.fallback: rescue must return text, a reply, a stream, or nil", 0)
  end
  return value, began
end

--- Nothing of the stream has been read, so another step may still take its place, unnoticed.
local function replace(self, err)
  local w, broken = self.walk, self.inner
  local answer, s, why, began = walk.go_on(w, self.step, err)
  if not answer then return false end
  if broken then step.close(broken) end
  self.step, self.began, self.degraded = s, began, walk.degraded(w, s, why, answer.degraded)
  set_source(self, answer)
  if observe.on then observe.answered(w, s, why) end
  return true
end

--- The stream has failed with `err`. Returns the event of the switch when something goes on in its
--- place, nil when nobody needs to be told; else raises.
local function mend(self, err)
  if not errors.is(err) then error(err, 0) end
  if self.before and err.kind == "interrupted" then err.partial = self.before .. (err.partial or "") end
  settle(self, err)
  if not (self.delivered or self.broken) and replace(self, err) then return nil end
  if err.kind ~= "interrupted" or not self.rescue then raise(self, err) end
  local value, began = ask_rescue(self, err)
  if self.inner then step.close(self.inner) end
  local from, to = self.model, value.model
  self.before, self.broken = err.partial or "", err
  self.degraded = { step = "rescue", name = "rescue", why = err.kind, from = from, within = self.degraded }
  self.step, self.began = { index = "rescue", name = "rescue" }, began
  set_source(self, value)
  if observe.on then observe.rescued(self.walk, err) end
  if self.whole and self.whole.finish_reason == "rescued" then return nil end -- the same answer, cut short
  return { type = "switch", from = from, to = to, at = #self.before }
end

-- Reading -----------------------------------------------------------------------------------------

--- Reads on in the list of events of a reply.
local function next_listed(self)
  self.at = self.at + 1
  return self.list[self.at]
end

local function next_listed_text(self)
  for event in next_listed, self do
    if event.type == "text" then return event.text end
  end
  return nil
end

local function source(self, method)
  if self.inner then return self.inner[method](self.inner) end
  return method == "text" and next_listed_text or next_listed, self
end

--- An iterator over "events" or "text" that goes on where a rescue takes over.
local function iterator(self, method)
  if self.failure then error(self.failure, 0) end
  local iterate, state, last = source(self, method)
  return function()
    while true do
      local ok, value = pcall(iterate, state, last)
      if ok then
        last, self.delivered = value, true
        if value == nil and not self.result and not self.closed then self:reply() end -- writes down who has answered
        return value
      end
      local switch = mend(self, value)
      iterate, state, last = source(self, method)
      if switch and method == "events" then return switch end
    end
  end, nil, nil, self
end

---@async
function ChainStream:events()
  return iterator(self, "events")
end

---@async
function ChainStream:text()
  return iterator(self, "text")
end

--- The reply of the part that came last.
local function last_reply(self)
  while true do
    if self.whole then
      self.at = #self.list
      return self.whole
    end
    local ok, value = pcall(self.inner.reply, self.inner)
    if ok then return value end
    mend(self, value)
  end
end

---@async
---@return sluice.Reply
function ChainStream:reply()
  if self.result then return self.result end
  if self.failure then error(self.failure, 0) end
  local tail = last_reply(self)
  settle(self, tail)
  local reply = tail
  if self.broken then
    reply = Reply.new { text = self.before .. tail.text, finish_reason = tail.finish_reason, usage = tail.usage,
      model = tail.model, provider = tail.provider, tool_calls = tail.tool_calls, cause = self.broken }
  end
  local inner = not self.broken and tail.degraded -- a chain inside may have been rescued since
  if inner and self.degraded and self.degraded ~= inner then self.degraded.within = inner
  else self.degraded = self.degraded or inner or nil end
  reply.degraded, reply.attempts = self.degraded, self.attempts
  reply.ttft, reply.elapsed = self.ttft, core.now() - self.walk.started
  self.result = reply
  return reply
end

--- What is known of a stream that is left before its end: as a reply would tell it.
local function left_by_reader(self)
  local stream = self.inner
  while type(stream) == "table" do
    if getmetatable(stream) == ChainStream then return { attempts = stream.attempts } end
    local assembler = rawget(stream, "assembler")
    if assembler then
      local last = { provider = stream.provider, model = stream.model, usage = assembler:usage(),
        elapsed = core.now() - stream.run.sent, waited = stream.run.waited }
      local earlier = stream.run.entries or {}
      local list = table.move(earlier, 1, #earlier, 1, {})
      list[#list + 1] = last
      return { attempts = list }
    end
    stream = rawget(stream, "inner")
  end
  return { provider = self.provider, model = self.model }
end

--- Closes what is being read. Closing twice does nothing.
function ChainStream:close()
  if self.closed then return end
  self.closed = true
  if self.inner then step.close(self.inner) end
  if self.settled then return end
  settle(self, left_by_reader(self))
  self.attempts[#self.attempts].cancelled = true
end

ChainStream.__close = ChainStream.close

function ChainStream:__tostring()
  return ("stream of %s (%s)"):format(self.walk.name, self.step.name)
end

require "sluice.transform.methods"(ChainStream)

return ChainStream
