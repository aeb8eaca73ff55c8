--- The last line of a terminal: drawn on stderr, taken away before anything else is written there.
-- Owns: that one line, and who writes around it. While it is in use, print, io.write, file:write and log lines
-- make room for it; afterwards everything is as before.
-- Never: waits for a terminal that takes nothing (Ctrl-S), nor writes to stdout.
--
-- A text without a line end leaves the cursor behind it: the line stays away until there is one. A function
-- that a script took out of io before (local write = io.write) writes past this.

local sys = require "sluice.core.sys"

local STDERR = 2
local ERASE = "\r\27[2K"

local screen = {}

local shown = false      -- the line is there
local at_start = true    -- the cursor is in the first column, but for the line
local real               -- what print, io.write and file:write are without this, while it is in use
local ours = {}

--- May a line be drawn? Only on a terminal that can erase one, and that no prompt has for itself.
---@return boolean
function screen.usable()
  local sink = package.loaded["sluice.log.sink"]
  if sink and sink.above then return false end -- the REPL's: what is said stands above what is being typed
  local name = sys.env "TERM"
  return sys.isatty(STDERR) and name ~= nil and name ~= "dumb"
end

---@return integer
function screen.columns()
  return sys.columns(STDERR) or 80
end

--- Takes the line away.
function screen.clear()
  if not shown then return end
  shown = false
  sys.offer(STDERR, ERASE)
end

--- Draws the line anew; not while a text without a line end stands there.
---@param text string  of less than screen.columns() columns
function screen.show(text)
  if not at_start then return end
  sys.offer(STDERR, ERASE .. text)
  shown = true
end

--- Something else is written to the terminal.
local function around(file, ...)
  local both = file == io.stderr or file == io.stdout and sys.isatty(1)
  if not both then return end
  screen.clear()
  for i = select("#", ...), 1, -1 do
    local piece = (select(i, ...))
    if piece ~= "" then
      at_start = type(piece) == "string" and piece:sub(-1) == "\n"
      return
    end
  end
end

function ours.print(...)
  around(io.stdout, "\n") -- print writes to C's stdout, whatever io.output is
  return real.print(...)
end

function ours.io_write(...)
  around(io.output(), ...)
  return real.io_write(...)
end

function ours.file_write(file, ...)
  around(file, ...)
  return real.file_write(file, ...)
end

--- From now on others make room for the line.
function screen.open()
  if real then return end
  local methods = getmetatable(io.stdout).__index
  real = { print = print, io_write = io.write, file_write = methods.write }
  print, io.write, methods.write = ours.print, ours.io_write, ours.file_write -- luacheck: ignore 121 122
  require "sluice.log.sink".before_line = screen.clear
  at_start = true
end

--- The line goes, and everything is as before; what somebody else has put in the place meanwhile stays.
function screen.close()
  if not real then return end
  screen.clear()
  local methods = getmetatable(io.stdout).__index
  if print == ours.print then print = real.print end -- luacheck: ignore 121
  if io.write == ours.io_write then io.write = real.io_write end -- luacheck: ignore 122
  if methods.write == ours.file_write then methods.write = real.file_write end
  require "sluice.log.sink".before_line = nil
  if not at_start then sys.offer(STDERR, "\n") end
  at_start = true
end

return screen
