--- A stream that somebody listens at: what a cache keeps, what a budget settles.
-- Owns: noticing the end, whichever way the stream is read. Never: changes what is read.
--
-- `ended(reply)` is called once: with the reply when the stream came to its end, with nil and the error
-- when it broke, with nil when it was closed before its end. A stream that is closed with its task
-- group tells nobody: ask `is_closed()` later.

---@class sluice.TappedStream : sluice.Stream
local Tap = { __name = "sluice.fallback.tap", __sluice_handle = "inner" }

Tap.__index = function(self, key)
  local value = Tap[key]
  if value ~= nil then return value end
  return rawget(self, "inner")[key] -- model, provider, degraded, ttft, attempts …
end

---@param inner sluice.Stream
---@param ended fun(reply?: sluice.Reply, err?: any, stream: sluice.Stream)
---@return sluice.TappedStream
function Tap.new(inner, ended)
  return setmetatable({ inner = inner, ended = ended, over = false }, Tap)
end

local function tell(self, reply, err)
  local ended = self.ended
  if not ended then return end
  self.ended = false
  ended(reply, err, self.inner)
end

--- An iterator of the inner stream's that notices its end.
local function tapped(self, method)
  local iterate, state, last = self.inner[method](self.inner)
  return function()
    local ok, value = pcall(iterate, state, last)
    if not ok then
      tell(self, nil, value)
      error(value, 0)
    end
    last = value
    if value == nil then self:reply() end
    return value
  end, nil, nil, self
end

---@async
function Tap:events() return tapped(self, "events") end

---@async
function Tap:text() return tapped(self, "text") end

---@async
---@return sluice.Reply
function Tap:reply()
  local ok, reply = pcall(self.inner.reply, self.inner)
  if not ok then
    tell(self, nil, reply)
    error(reply, 0)
  end
  tell(self, reply)
  return reply
end

function Tap:close()
  local close = self.inner.close
  if close then close(self.inner) end
  tell(self)
end
Tap.__close = Tap.close

--- Has the connection been closed, by whomever?
---@param stream table
---@return boolean
function Tap.is_closed(stream)
  while type(stream) == "table" do
    local field = (getmetatable(stream) or {}).__sluice_handle
    if type(field) ~= "string" then break end
    local inner = rawget(stream, field)
    if inner == nil then return rawget(stream, "closed") == true end -- a reply in the shape of a stream
    stream = inner
  end
  local closed = stream.closed -- of a handle, in C or scripted
  return type(closed) ~= "function" or closed(stream)
end

return Tap
