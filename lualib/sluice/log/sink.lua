--- Where log lines go: stderr or a file, without ever waiting for either.
-- Owns: the queue in front of a reader who is slow, and its ceiling; what is said of lines that were dropped.
-- Never: raises, nor waits, but at the very end and for a moment.
--
-- A pipe whose reader has stopped, or a terminal that somebody has halted with Ctrl-S, takes nothing: lines
-- wait here, and when it is too many the newest are dropped and counted.

local core = require "sluice.core.task"
local sys = require "sluice.core.sys"

local STDERR = 2
local QUEUE_MAX = 256 << 10 -- bytes of lines that wait
local RETRY_S = 0.05        -- seconds between two looks whether the reader has moved on
local PIECE = 4096          -- bytes that the end of the run offers at once …
local LINGER_MS = 2000      -- … how long it waits for a reader to take them …
local LINGER_ALL = 10       -- … and, in seconds, to take it all

local DROPPED = "sluice: %d log lines were dropped: stderr was not read fast enough\n"

local sink = {
  above = nil, ---@type fun(text: string): boolean?  may take a line for stderr: a prompt puts it above itself
  before_line = nil, ---@type fun()?  called before a line goes to stderr: what draws on the terminal clears its own
}

local queue, first, last, waiting = {}, 1, 0, 0 -- lines first … last, and their bytes
local dropped = 0
local retrying = false
local broken = false  -- nobody reads stderr any more
local file            ---@type file*?
local path

-- stderr ------------------------------------------------------------------------------------------

local function clear()
  queue, first, last, waiting = {}, 1, 0, 0
end

--- Offers one text; how many bytes of it were taken.
local function offer(text)
  local taken = sys.offer(STDERR, text)
  if taken then return taken end
  broken = true -- closed, or its reader has gone: there is nobody left to tell
  clear()
  return #text
end

--- Offers what waits, oldest first; true when nothing is left.
local function drain()
  while first <= last do
    local text = queue[first]
    local taken = offer(text)
    if broken then return true end
    waiting = waiting - taken
    if taken < #text then
      queue[first] = text:sub(taken + 1)
      return false
    end
    queue[first] = nil
    first = first + 1
  end
  clear()
  if dropped > 0 then
    local text = DROPPED:format(dropped)
    local taken = offer(text)
    if taken == 0 then return false end
    dropped = 0
    if taken < #text then
      queue[1], last, waiting = text:sub(taken + 1), 1, #text - taken
      return false
    end
  end
  return true
end

--- While lines wait, a task of the runtime's own looks after them.
local function retry()
  if retrying then return end
  retrying = pcall(core.service, function()
    local _ <close> = setmetatable({}, { __close = function() retrying = false end })
    repeat core.sleep(RETRY_S) until drain()
  end)
end

local function to_stderr(text)
  if broken then return end
  if sink.above and sink.above(text) then return end
  if sink.before_line then sink.before_line() end
  if first <= last or dropped > 0 then drain() end
  if first > last and dropped == 0 then
    local taken = offer(text)
    if taken == #text then return end
    text = text:sub(taken + 1)
    if taken > 0 then -- the rest of a line is never dropped
      queue[1], first, last, waiting = text, 1, 1, #text
      return retry()
    end
  end
  if waiting + #text > QUEUE_MAX then
    dropped = dropped + 1
  else
    last = last + 1
    queue[last], waiting = text, waiting + #text
  end
  retry()
end

-- A file ------------------------------------------------------------------------------------------

--- From now on lines are appended to a file; nil gives stderr back.
---@param name? string
---@return boolean ok
---@return string? why
function sink.open(name)
  local opened, why
  if name then
    opened, why = io.open(name, "ab")
    if not opened then return false, (why:gsub("^.*: ", "")) end
    opened:setvbuf "no" -- a line is one write: those of several processes do not mix
  end
  if file then file:close() end
  file, path = opened, name
  return true
end

local function to_file(text)
  local ok, why = file:write(text)
  if ok then return end
  file:close()
  file = nil
  to_stderr(("sluice: the log file %s takes no more (%s); log lines go on here\n"):format(path, why))
  to_stderr(text)
end

-- Both --------------------------------------------------------------------------------------------

--- Writes one line.
---@param line string  without a newline
function sink.write(line)
  if file then return to_file(line .. "\n") end
  to_stderr(line .. "\n")
end

---@return boolean  lines go to a file
function sink.is_file()
  return file ~= nil
end

--- How many lines wait, and how many were dropped.
---@return integer waiting
---@return integer dropped
function sink.state()
  return last - first + 1, dropped
end

--- The run is over: a slow reader gets what waits while it goes on taking it, one who has stopped is waited for
--- no longer than LINGER_MS. A signal ends that.
function sink.finish()
  if file then file:close() end
  file = nil
  if broken or first > last and dropped == 0 then return end
  local text = table.concat(queue, "", first, last) .. (dropped > 0 and DROPPED:format(dropped) or "")
  clear()
  dropped = 0
  local at, until_ = 1, os.time() + LINGER_ALL
  while at <= #text and os.time() < until_ do
    local piece = text:sub(at, at + PIECE - 1)
    local taken = sys.offer(STDERR, piece, LINGER_MS)
    if (taken or 0) < #piece then return end
    at = at + taken
  end
end

return sink
