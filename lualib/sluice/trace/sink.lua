--- The file of a trace: pieces of text, written in whole blocks.
-- Owns: the ceilings on memory and on the file, what happens when a write fails. Never: raises.
-- A block is handed to the system in one piece and ends between two pieces, so that what a killed run
-- leaves behind is whole up to its last second.

local core_text = require "sluice.core.text"

local BLOCK = 64 << 10    -- bytes after which a block is written at once
local FILE_MAX = 1 << 30  -- bytes: no viewer opens more, and a disk is for other things, too

---@class sluice.TraceSink
---@field text sluice.core.Text  pieces are appended to it; `done()` behind each
---@field lead string    what the next piece begins with: `first` at the beginning of a block; who adds one says how
---it is behind that
---@field first string
---@field tail string    behind each block
---@field last string    at the end of the file
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
  return setmetatable({ path = path, file = file, text = core_text.new(), written = 0, lead = "", first = "", tail = "",
    last = "" }, Sink)
end

local function give_up(self, why)
  self.broken = true
  require "sluice.log".warn("the trace ends here", { file = self.path, why = why })
end

local function put(self, text)
  if self.broken or text == "" then return end
  local secrets = package.loaded["sluice.core.secret"] -- not loaded: there are none
  if secrets then text = secrets.scrub(text) end
  if self.written + #text > FILE_MAX then return give_up(self, "the file has reached 1 GiB") end
  self.written = self.written + #text
  local ok, why = self.file:write(text)
  if not ok then give_up(self, why) end
end

--- Writes what has been added.
function Sink:flush()
  local text = self.text
  if #text == 0 then return end
  if self.tail ~= "" then text:add(self.tail) end
  self.lead = self.first
  put(self, text:take())
end

--- A piece has been added to `text`.
function Sink:done()
  if #self.text >= BLOCK then self:flush() end
end

--- Writes what is left, and closes the file.
---@return boolean ok
function Sink:close()
  self:flush()
  put(self, self.last)
  local ok, why = self.file:close()
  if not ok and not self.broken then give_up(self, why) end
  return not self.broken
end

return Sink
