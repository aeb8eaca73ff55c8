--- progress = "title": how far task.map, task.all, task.race and sluice.pipeline are, on stderr.
-- Owns: the counts and their words, when they are shown. The terminal's line is progress/screen.lua's.
-- Never: writes anything under --quiet, nor to stdout.
--
-- On a terminal one line that is drawn anew ten times a second; elsewhere a line every few seconds; at the end a
-- line that stays. Of several at a time, the one that began first is shown. Tokens and cost are those of all
-- calls that end while it is under way, for whomever they were made.

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local figures = require "sluice.account.figures"
local screen = require "sluice.progress.screen"
local term = require "sluice.term"
local Account = require "sluice.account"

local DRAW_S = 0.1  -- between two drawings on a terminal
local LINE_S = 5    -- between two lines elsewhere
local TITLE_MIN = 8 -- columns a title keeps when there is little room
local BAR = 20      -- columns

local progress = {
  off = false, ---@type boolean  --quiet
}

---@class sluice.Progress
---@field title string
---@field total? integer   items, when that is known
---@field done integer     items that are through, failed ones not counted
---@field failed integer
---@field in_flight integer
---@field began number     task.now()
---@field most integer     the highest rank there is room for
---@field counts? fun(p: sluice.Progress)  brings the counts up to date before they are shown
local Progress = { __name = "sluice.progress" }
Progress.__index = Progress

local active = {}  ---@type sluice.Progress[]  the one that began first is shown
local ticker       -- the task that draws
local drawing      -- on a terminal

-- Words ---------------------------------------------------------------------------------------------

--- "0:07", "12:30", "1:02:03"
local function clock(s)
  s = math.max(0, (s + 0.5) // 1 | 0)
  if s >= 360000 then return ("%d h"):format(s // 3600) end
  if s >= 3600 then return ("%d:%02d:%02d"):format(s // 3600, s % 3600 // 60, s % 60) end
  return ("%d:%02d"):format(s // 60, s % 60)
end

local function rate_text(per_s)
  if per_s >= 9.95 then return ("%.0f/s"):format(per_s) end
  if per_s >= 0.95 then return ("%.1f/s"):format(per_s) end
  return (per_s * 60 >= 9.95 and "%.0f/min" or "%.1f/min"):format(per_s * 60)
end

local function bar(share)
  local full = (share * BAR) // 1 | 0
  return ("[%s%s%s]"):format(("="):rep(full), full < BAR and ">" or "", (" "):rep(BAR - full - 1))
end

--- What there is to say beside the title: { text, rank }; the highest rank goes first where room is short.
function Progress:parts()
  if self.counts then self:counts() end
  local parts, over, account = {}, self.done + self.failed, self.account
  local elapsed = core.now() - self.began
  local function add(rank, text) parts[#parts + 1] = { text, rank } end
  if self.total then
    add(1, ("%d/%d"):format(over, self.total))
    if self.total > 0 then add(9, bar(math.min(1, over / self.total))) end
  else
    add(1, ("%d done"):format(self.done))
  end
  if self.failed > 0 then add(2, self.failed .. " failed") end
  if self.in_flight > 0 then add(4, self.in_flight .. " in flight") end
  if over > 0 and elapsed > 0 then
    local rate = over / elapsed
    add(5, rate_text(rate))
    if self.total and over < self.total then add(3, "ETA " .. clock((self.total - over) / rate)) end
  end
  local tokens = account.input + account.output
  if tokens > 0 then add(7, figures.short(tokens) .. " tokens") end
  if account.calls > 0 then
    local known = next(account.money.amounts) ~= nil
    local cost = tostring(account.money)
    add(6, (known and "" or "cost ") .. cost .. (known and account.money.unknown > 0 and " + unknown" or ""))
  end
  return parts
end

--- Cuts a text to so many columns.
local function cut(text, columns)
  if term.width(text) <= columns then return text end
  local used, last = 0, 0
  for at, code in utf8.codes(text) do
    local width = term.width(utf8.char(code))
    if used + width > columns - 1 then break end
    used, last = used + width, at + #utf8.char(code) - 1
  end
  return text:sub(1, last) .. "…"
end

--- The line, in less than `columns` columns.
---@param columns integer
---@return string
function Progress:line(columns)
  local parts, room = self:parts(), columns - 1
  if self.columns ~= columns then self.columns, self.most = columns, 9 end
  local function width()
    local sum = 0
    for _, part in ipairs(parts) do sum = sum + 2 + #part[1] end -- "¥" counts as two: never too little
    return sum
  end
  local wanted = math.min(term.width(self.title), math.max(TITLE_MIN, room // 3))
  local function keep_most() -- what has gone stays away: it would come and go with every digit
    for i = #parts, 1, -1 do
      if parts[i][2] > self.most then table.remove(parts, i) end
    end
  end
  keep_most()
  while self.most > 1 and width() + wanted > room do
    self.most = self.most - 1
    keep_most()
  end
  local words = { cut(self.title, math.max(1, room - width())) }
  for _, part in ipairs(parts) do words[#words + 1] = part[1] end
  return cut(table.concat(words, "  "), math.max(1, room))
end

--- The same where there is no terminal.
---@return string
function Progress:plain()
  local words = {}
  for _, part in ipairs(self:parts()) do
    if part[2] ~= 9 then words[#words + 1] = part[1] end
  end
  return ("%s: %s"):format(self.title, table.concat(words, ", "))
end

--- The line that stays.
---@param err? any  what ended it
---@return string
function Progress:last(err)
  if self.counts then self:counts() end
  local account, took = self.account, figures.seconds(core.now() - self.began)
  local words = {}
  if err == nil then
    words[1] = ("%d done in %s"):format(self.done, took)
  else
    words[1] = ("%s after %s, %d%s done"):format(errors.is(err, "cancelled") and "cancelled" or "ended by an error",
      took,
      self.done, self.total and " of " .. self.total or "")
  end
  if self.failed > 0 then words[#words + 1] = self.failed .. " failed" end
  local tokens = account.input + account.output
  if tokens > 0 then words[#words + 1] = figures.short(tokens) .. " tokens" end
  if account.calls > 0 then
    local money = account.money
    words[#words + 1] = next(money.amounts) == nil and "cost unknown" or money:full()
  end
  return ("%s: %s"):format(self.title, table.concat(words, ", "))
end

-- Showing -------------------------------------------------------------------------------------------

local function put(text)
  io.stderr:write(term.safe(text), "\n")
end

local function tick()
  local first = active[1]
  if drawing then return screen.show(first:line(screen.columns())) end
  local now = core.now()
  if now - first.told < LINE_S then return end
  first.told = now
  put(first:plain())
end

local function start_ticker()
  if ticker then return end
  drawing = screen.usable()
  if drawing then screen.open() end
  local mine = {}
  ticker = mine
  core.service(function()
    while ticker == mine do
      core.sleep(drawing and DRAW_S or 0.5)
      if ticker == mine then tick() end
    end
  end)
end

local function stop_ticker()
  ticker = nil
  if drawing then screen.close() end
end

--- Begins to show how far something is; nil under --quiet. To be closed when it is over.
---@param title string
---@param total? integer  items
---@param counts? fun(p: sluice.Progress)
---@return sluice.Progress?
function progress.start(title, total, counts)
  if progress.off then return nil end
  title = errors.one_line(term.safe(title), 200)
  if not utf8.len(title) then title = title:gsub("[\x80-\xFF]", "?") end
  local now = core.now()
  local self = setmetatable({ title = title, total = total, counts = counts, done = 0, failed = 0, in_flight = 0,
    began = now, told = now, account = Account.new():start() }, Progress)
  active[#active + 1] = self
  start_ticker()
  if drawing and active[1] == self then tick() end
  return self
end

--- An item begins.
function Progress:item_began()
  self.in_flight = self.in_flight + 1
end

--- An item is over.
---@param ok boolean
function Progress:item_ended(ok)
  self.in_flight = self.in_flight - 1
  if ok then self.done = self.done + 1 else self.failed = self.failed + 1 end
end

function Progress:__close(err)
  for i, one in ipairs(active) do
    if one == self then table.remove(active, i) end
  end
  self.account:stop()
  if drawing then screen.clear() end
  if not active[1] then stop_ticker() end
  put(self:last(err))
end

--- The one that is shown; nil when there is none.
---@return sluice.Progress?
function progress.shown()
  return active[1]
end

return progress
