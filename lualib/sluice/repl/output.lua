--- What the session and its tasks print, so that it never runs into the line being typed.
-- Owns: print, io.write and the write method of stdout and stderr while a session lasts. Never: keeps
-- output back for longer than its line takes.
--
-- While the prompt waits, whole lines are put above it, and the beginning of a line is held until its end
-- has come, or the prompt has gone.

local sink = require "sluice.log.sink"

local HELD_MAX = 64 * 1024 -- bytes of a line without an end; then it gets one

local Output = {}
Output.__index = Output

---@class sluice.repl.Output
---@field terminal userdata
---@field held table<userdata, string> beginnings of lines, by the file they were written to
---@field fresh boolean nothing stands in the terminal's last line

local function piece(...)
  local parts = table.pack(...)
  for i = 1, parts.n do
    local value = parts[i]
    if type(value) ~= "string" and type(value) ~= "number" then
      error(("bad argument #%d to 'write' (string expected, got %s)"):format(i, type(value)), 3)
    end
    parts[i] = tostring(value)
  end
  return table.concat(parts)
end

-- Behind the prompt's back: text for the terminal.
local function hold(self, file, text)
  text = (self.held[file] or "") .. text
  local lines, rest = text:match "^(.*\n)([^\n]*)$"
  rest = rest or text
  rest = rest:match "^.*\r([^\r].*)$" or rest -- a line that is drawn again and again: as it is now
  if #rest > HELD_MAX then
    lines, rest = (lines or "") .. rest .. "\n", ""
  end
  self.held[file] = rest
  if lines then self.terminal:above(lines) end
end

local function is_screen(self, file) return file == io.stdout or self.screen[file] == true end

-- Log lines go past the files, straight to the descriptor.
local function take_log_line(self, text)
  if self.terminal:editing() then
    hold(self, io.stderr, text)
    return true
  end
  self.fresh = true
  return false
end

local function install(self)
  if self.screen[io.stderr] then sink.above = function(text) return take_log_line(self, text) end end
  local methods = getmetatable(io.stdout).__index
  local write = methods.write
  self.undo = { methods = methods, write = write, print = print, io_write = io.write }
  function methods.write(file, ...)
    if not is_screen(self, file) then return write(file, ...) end
    local text = piece(...)
    if self.terminal:editing() then
      hold(self, file, text)
      return file
    end
    if text ~= "" then self.fresh = text:sub(-1) == "\n" end
    return write(file, text)
  end
  rawset(io, "write", function(...) return methods.write(io.output(), ...) end)
  local function print_above(...)
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = tostring(parts[i]) end
    methods.write(io.stdout, table.concat(parts, "\t"), "\n")
  end
  require "sluice.repl.help".describe(print_above,
    "print(…)\n\nLua's print; its lines never run into what is being typed.")
  rawset(_G, "print", print_above)
end

--- Takes the writing over; nothing changes where lines are not edited.
---@param terminal userdata
---@param stderr_too boolean stderr is the same terminal
---@return sluice.repl.Output
function Output.new(terminal, stderr_too)
  local self = setmetatable({ terminal = terminal, held = {}, fresh = true, screen = {} }, Output)
  self.screen[io.stdout] = true
  self.screen[io.stderr] = stderr_too
  install(self)
  return self
end

--- The prompt has gone: what was held follows.
function Output:flush()
  for _, file in ipairs { io.stdout, io.stderr } do
    local text = self.held[file]
    self.held[file] = nil
    if text and text ~= "" then file:write(text) end
  end
end

--- A prompt is to follow: it gets a line of its own.
function Output:finish_line()
  self:flush()
  if not self.fresh then self.undo.write(io.stdout, "\n") end
  self.fresh = true
end

--- Gives everything back.
function Output:close()
  local undo = self.undo
  if not undo then return end
  self.undo = nil
  sink.above = nil
  self:flush()
  undo.methods.write = undo.write
  rawset(io, "write", undo.io_write)
  rawset(_G, "print", undo.print)
end

return Output
