--- The stream a chain hands out: one step's stream, with what was held back before its commit, and
-- with the rescue's text or stream behind it when it broke off.
-- Owns: splicing. Events of the second stream follow a { type = "switch", from =, to =, at = bytes }.

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local Reply = require "sluice.reply"

---@class sluice.SplicedStream : sluice.Stream
---@field degraded table?
local Spliced = { __name = "sluice.fallback.stream", __sluice_handle = "inner" }
Spliced.__index = Spliced

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

-- Holding back ------------------------------------------------------------------------------------

--- A stream some of whose events have been read already.
local Held = { __name = "sluice.fallback.held", __sluice_handle = "inner" }
Held.__index = Held

local function held_next(self)
  local event = self.queue[self.first]
  if event then
    self.queue[self.first] = nil
    self.first = self.first + 1
    return event
  end
  return self.iterate(self.state)
end

function Held:events()
  return held_next, self, nil, self
end

function Held:reply()
  while held_next(self) do end -- luacheck: ignore 542
  return self.inner:reply()
end

function Held:close()
  self.inner:close()
end

Held.__close = Held.close

--- Reads `characters` of text (or all) before the stream may win; then `validate(reply)` if all is there.
---@async
function Spliced.hold(inner, characters, validate)
  local queue, seen, over = {}, 0, false
  local iterate, state = inner:events()
  while seen < characters do
    local event = iterate(state)
    if not event then over = true break end
    queue[#queue + 1] = event
    if event.type == "text" then seen = seen + (utf8.len(event.text, 1, -1, true) or #event.text) end
  end
  if over then
    local ok, err = pcall(validate, inner:reply())
    if not ok then
      inner:close()
      error(err, 0)
    end
  end
  return setmetatable({ inner = inner, queue = queue, first = 1, iterate = iterate, state = state,
    model = inner.model, provider = inner.provider, ttft = inner.ttft, degraded = inner.degraded }, Held)
end

-- The chain's stream ------------------------------------------------------------------------------

---@param fields table  inner (a stream, or a reply), req, rescue, attempts, degraded, started, name
---@return sluice.SplicedStream
function Spliced.new(fields)
  local inner = fields.inner
  fields.texts, fields.at = {}, 0
  fields.model, fields.provider, fields.ttft = inner.model, inner.provider, inner.ttft
  if inner.events then
    fields.iterate, fields.state = inner:events()
  else
    local list, i = events_of(inner), 0
    fields.answered = inner
    fields.iterate = function()
      i = i + 1
      return list[i]
    end
  end
  return setmetatable(fields, Spliced)
end

--- What rescue gave, in place of the stream that broke.
local function splice(self, err)
  local rescue = self.rescue
  self.rescue = nil -- once per call
  local ok, value = pcall(rescue, self.req, err)
  if not ok then
    if errors.is(value) then value.cause = value.cause or err end
    error(value, 0)
  end
  if value == nil then error(err, 0) end
  self.broken = err
  local from = self.model
  self.inner:close()
  if type(value) == "string" then
    self.rescued = true
    local list = { { type = "text", text = value }, { type = "finish", reason = "rescued" } }
    local i = 0
    self.iterate = function()
      i = i + 1
      return list[i]
    end
    return
  end
  if type(value) ~= "table" or type(value.events) ~= "function" then
    error("sluice.fallback: rescue must return text, a stream, or nil", 0)
  end
  self.inner, self.model, self.provider = value, value.model, value.provider
  self.iterate, self.state = value:events()
  self.degraded = self.degraded or { why = err.kind, from = from, step = "rescue", name = "rescue" }
  return { type = "switch", from = from, to = value.model, at = self.at }
end

local function next_event(self)
  while true do
    local ok, event = pcall(self.iterate, self.state)
    if ok then
      if event == nil then
        self.over = true
        return nil
      end
      if event.type == "text" then
        self.texts[#self.texts + 1] = event.text
        self.at = self.at + #event.text
      end
      self.last = event.type == "finish" and event.reason or self.last
      return event
    end
    if not (self.rescue and errors.is(event, "interrupted")) then error(event, 0) end
    local switch = splice(self, event)
    if switch then return switch end
  end
end

---@async
function Spliced:events()
  return next_event, self, nil, self
end

local function next_text(self)
  for event in next_event, self do
    if event.type == "text" then return event.text end
  end
  return nil
end

---@async
function Spliced:text()
  return next_text, self, nil, self
end

---@async
---@return sluice.Reply
function Spliced:reply()
  if self.result then return self.result end
  while not self.over do next_event(self) end
  local reply
  if self.rescued then
    reply = Reply.new { text = table.concat(self.texts), finish_reason = "rescued", usage = {},
      model = self.model, provider = self.provider, cause = self.broken }
  elseif self.broken then
    local tail = self.inner:reply()
    reply = Reply.new { text = table.concat(self.texts), finish_reason = tail.finish_reason, usage = tail.usage,
      model = tail.model, provider = tail.provider, cause = self.broken, tool_calls = tail.tool_calls }
  else
    reply = self.answered or self.inner:reply()
  end
  reply.degraded, reply.attempts = self.degraded, self.attempts
  if self.rescued and not reply.degraded then
    reply.degraded = { step = "rescue", name = "rescue", why = self.broken.kind, from = self.model }
  end
  reply.ttft, reply.elapsed = self.ttft, core.now() - self.started
  self.result = reply
  return reply
end

function Spliced:close()
  if self.inner.close then self.inner:close() end
end

Spliced.__close = Spliced.close

return Spliced
