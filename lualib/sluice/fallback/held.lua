--- A stream some of whose events have been read already: what a step holds back before its commit.
-- Owns: those events. Never: closes what it was given when holding back fails (step.lua does).

---@class sluice.HeldStream : sluice.Stream
local Held = { __name = "sluice.fallback.held", __sluice_handle = "inner" }
Held.__index = Held

--- Reads `characters` of text, or all of it; then, if that was all, calls `validate(reply)`, which may
--- raise.
---@async
---@param inner sluice.Stream
---@param characters number
---@param validate fun(reply: sluice.Reply)
---@return sluice.HeldStream
function Held.new(inner, characters, validate)
  local queue, seen, over = {}, 0, false
  local iterate, state, event = inner:events()
  while seen < characters do
    event = iterate(state, event)
    if not event then over = true break end
    queue[#queue + 1] = event
    if event.type == "text" then seen = seen + (utf8.len(event.text, 1, -1, true) or #event.text) end
  end
  if over then validate(inner:reply()) end
  return setmetatable({ inner = inner, queue = queue, first = 1, iterate = iterate, state = state, last = event,
    model = inner.model, provider = inner.provider, degraded = inner.degraded }, Held)
end

local function next_event(self)
  local event = self.queue[self.first]
  if event then
    self.queue[self.first] = nil
    self.first = self.first + 1
    return event
  end
  self.last = self.iterate(self.state, self.last)
  return self.last
end

local function next_text(self)
  for event in next_event, self do
    if event.type == "text" then return event.text end
  end
  return nil
end

---@async
function Held:events() return next_event, self, nil, self end

---@async
function Held:text() return next_text, self, nil, self end

---@async
---@return sluice.Reply
function Held:reply()
  self.queue, self.first = {}, 1
  return self.inner:reply()
end

function Held:close()
  local close = self.inner.close
  if close then close(self.inner) end
end
Held.__close = Held.close

require "sluice.transform.methods"(Held)

return Held
