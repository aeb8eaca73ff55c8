--- The file of a trace: pieces of text, written in whole blocks.
-- Owns: the ceilings on memory and on the file, what happens when a write fails. Never: raises.
-- A block is handed to the system in one piece and ends between two pieces, so that what a killed run
-- leaves behind is whole up to its last second.

local BLOCK = 64 << 10     -- bytes after which a block is written at once
local FILE_MAX = 1 << 30   -- bytes: no viewer opens more, and a disk is for other things, too
local PIECE_MAX = 16 << 10 -- bytes: larger ones are dropped

---@class sluice.TraceSink
---@field dropped integer  pieces that were not written
local Sink = { __name = "sluice.trace.sink" }
Sink.__index = Sink

--- Opens a file for writing, anew.
---@param path string
---@return sluice.TraceSink?
---@return string? why
function Sink.open(path)
  local file, why = io.open(path, "wb")
  if not file then return nil, (why:gsub("^.*: ", "")) end
  file:setvbuf "no"
  return setmetatable({ path = path, file = file, pieces = {}, n = 0, bytes = 0, written = 0, dropped = 0,
    head = "", between = "", tail = "", first = true }, Sink)
end

--- How blocks are put together: `head` before each and `tail` behind it, `between` its pieces; with
--- `whole`, head and tail stand once, around the file.
---@param head string
---@param between string
---@param tail string
---@param whole? boolean
function Sink:form(head, between, tail, whole)
  self.head, self.between, self.tail, self.whole = head, between, tail, whole
end

local function give_up(self, why)
  self.broken = true
  require "sluice.log".warn("the trace ends here", { file = self.path, why = why })
end

local function put(self, text)
  local secrets = package.loaded["sluice.core.secret"] -- not loaded: there are none
  if secrets then text = secrets.scrub(text) end
  self.written = self.written + #text
  local ok, why = self.file:write(text)
  if not ok then give_up(self, why) end
end

--- Adds a piece of at most 16 KiB.
---@param piece string
function Sink:add(piece)
  if self.broken or #piece > PIECE_MAX then
    self.dropped = self.dropped + 1
    return
  end
  local n = self.n + 1
  self.pieces[n], self.n = piece, n
  self.bytes = self.bytes + #piece
  if self.bytes >= BLOCK then self:flush() end
end

--- Writes what has been added.
function Sink:flush()
  local n = self.n
  if self.broken or n == 0 then return end
  local text = table.concat(self.pieces, self.between, 1, n)
  self.pieces, self.n, self.bytes = {}, 0, 0
  if self.whole then text = (self.first and self.head or self.between) .. text
  else text = self.head .. text .. self.tail end
  self.first = false
  if self.written + #text > FILE_MAX then return give_up(self, "the file has reached 1 GiB") end
  put(self, text)
end

--- Writes what is left, and closes the file.
---@return boolean ok
function Sink:close()
  self:flush()
  if self.whole and not self.broken then put(self, self.first and self.head .. self.tail or self.tail) end
  local ok, why = self.file:close()
  if not ok and not self.broken then give_up(self, why) end
  return not self.broken
end

return Sink
