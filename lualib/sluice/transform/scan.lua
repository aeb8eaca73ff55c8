--- Finds texts and Lua patterns in a text that comes in pieces.
-- Owns: how long a text is held because a match may begin in it. Never: says what becomes of a match
-- (redact, until_match do).
--
-- A literal is held exactly as long as it may still become whole. A pattern is decided by the `hold`
-- bytes behind the place where it would begin: that makes the outcome the same however the text was
-- cut, and it is the most a match can be long. Where a pattern begins with something that must be there
-- ("sk%-%w+": an s, a k, a minus), only places that have it wait at all.

local held = require "sluice.transform.held"
local options = require "sluice.options"

local HOLD = 256 -- bytes of a match of a pattern, unless said otherwise

local Scanner = {}
Scanner.__index = Scanner

-- Patterns ------------------------------------------------------------------------------------------

--- Where the class that opens with "[" at i ends, or nil.
local function set_end(pattern, i)
  i = i + 1
  if pattern:sub(i, i) == "^" then i = i + 1 end
  if pattern:sub(i, i) == "]" then i = i + 1 end -- stands for itself
  while i <= #pattern do
    local c = pattern:sub(i, i)
    if c == "]" then return i end
    i = i + (c == "%" and 2 or 1)
  end
  return nil
end

--- The single-character items every match begins with.
local function leading(pattern)
  local items, i = {}, 1
  while i <= #pattern do
    local c = pattern:sub(i, i)
    local item, stop = nil, i
    if c == "%" then
      if pattern:find("^[bf%d]", i + 1) then break end
      item, stop = pattern:sub(i, i + 1), i + 1
    elseif c == "[" then
      stop = set_end(pattern, i)
      if not stop then break end
      item = pattern:sub(i, stop)
    elseif c ~= "(" and c ~= ")" then
      item = c == "." and c or c:gsub("%p", "%%%0")
    end
    if item then
      local quantifier = pattern:sub(stop + 1, stop + 1)
      if quantifier ~= "" and ("*-?"):find(quantifier, 1, true) then break end
      items[#items + 1] = item
      if quantifier == "+" then break end
    end
    i = stop + 1
  end
  return items
end

local function check_pattern(where, pattern)
  local ok, why = pcall(string.find, "", pattern)
  if not ok then options.raise(("%s: not a Lua pattern: %s"):format(where, (tostring(why):gsub("^.-:%d+: ", "")))) end
  if pattern:find "^%^" or pattern:gsub("%%.", ""):find "%$$" then
    options.raise(where .. ": a pattern for a stream has no anchors (^ at its beginning, $ at its end)")
  end
  if ("").find("", "^" .. pattern) then options.raise(where .. ": the pattern matches the empty text") end
end

--- @param where string                    for messages: "stream:redact"
--- @param literals string[]
--- @param patterns string[]
--- @param opts? { hold?: integer, eager?: boolean }  eager: the first match will do, not the longest
function Scanner.new(where, literals, patterns, opts)
  opts = opts or {}
  local self = setmetatable({ buffer = "", before = "", literals = literals, patterns = {}, hold = opts.hold or HOLD,
    eager = opts.eager }, Scanner)
  for _, pattern in ipairs(patterns) do
    check_pattern(where, pattern)
    self.patterns[#self.patterns + 1] = { text = pattern, anchored = "^" .. pattern, leading = leading(pattern),
      frontier = pattern:find("%f", 1, true) ~= nil }
  end
  return self
end

-- Candidates ----------------------------------------------------------------------------------------

local UNDECIDED = {}

--- The next place at or behind `from` where the literal is, or may be when more has come.
local function literal_at(buffer, from, literal, final)
  local at = buffer:find(literal, from, true)
  if at or final then return at end
  local first = literal:sub(1, 1)
  at = math.max(from, #buffer - #literal + 2)
  while true do
    at = buffer:find(first, at, true)
    if not at or literal:sub(1, #buffer - at + 1) == buffer:sub(at) then return at end
    at = at + 1
  end
end

local function leads(buffer, at, items)
  for i = 2, #items do
    if at + i - 1 > #buffer then return true end
    if not buffer:sub(at + i - 1, at + i - 1):find("^" .. items[i]) then return false end
  end
  return true
end

--- The next place where the pattern might match.
local function pattern_at(self, from, pattern, final)
  local buffer, items = self.buffer, pattern.leading
  if items[1] then
    local at = buffer:find(items[1], from)
    while at and not leads(buffer, at, items) do at = buffer:find(items[1], at + 1) end
    return at
  end
  if pattern.frontier then return from <= #buffer and from or nil end
  -- no place without a match in all of it has one in a part of it
  local open = final and #buffer + 1 or math.max(from, #buffer - self.hold - 1)
  local at = math.min(buffer:find(pattern.text, from) or open, open)
  return at <= #buffer and at or nil
end

--- The least of the text at `at` in which the pattern matches: what had come when it could be seen.
local function least(self, at, last, pattern)
  for stop = at, last do
    if self.buffer:sub(at, stop):find(pattern.anchored) then return stop end
  end
  return last
end

--- Where the match that begins at `at` ends; nil: none does; UNDECIDED.
local function match_pattern(self, at, pattern, final)
  local buffer = self.buffer
  local decided = final or #buffer - at + 1 >= self.hold + 3 -- with the rest of a character
  local before = at > 1 and buffer:sub(at - 1, at - 1) or self.before
  local window = before .. buffer:sub(at, at + self.hold - 1)
  local first, last = window:find(pattern.anchored, #before + 1)
  if not decided and not (first and self.eager and not pattern.frontier) then
    return leads(buffer, at, pattern.leading) and UNDECIDED or nil
  end
  if not first or last < first then return nil end
  last = at + last - #before - 1
  if self.eager and not pattern.frontier then last = least(self, at, last, pattern) end
  while (buffer:byte(last + 1) or 0) & 0xC0 == 0x80 do last = last + 1 end
  return last
end

local function match_literal(buffer, at, literal, final)
  local there = buffer:sub(at, at + #literal - 1)
  if there == literal then return at + #literal - 1 end
  if not final and #there < #literal and literal:sub(1, #there) == there then return UNDECIDED end
  return nil
end

--- The next candidate, and the end of the longest match there (nil, UNDECIDED).
local function next_match(self, from, final)
  local at
  for _, literal in ipairs(self.literals) do
    local found = literal_at(self.buffer, from, literal, final)
    if found and (not at or found < at) then at = found end
  end
  for _, pattern in ipairs(self.patterns) do
    local found = pattern_at(self, from, pattern, final)
    if found and (not at or found < at) then at = found end
  end
  if not at or self.buffer:byte(at) & 0xC0 == 0x80 then return at, nil end -- never inside a character
  local stop
  for _, literal in ipairs(self.literals) do
    local last = match_literal(self.buffer, at, literal, final)
    if last == UNDECIDED and not (self.eager and stop) then return at, UNDECIDED end
    if last and last ~= UNDECIDED and (not stop or last > stop) then stop = last end
  end
  for _, pattern in ipairs(self.patterns) do
    if self.eager and stop then break end
    local last = match_pattern(self, at, pattern, final)
    if last == UNDECIDED then return at, UNDECIDED end
    if last and (not stop or last > stop) then stop = last end
  end
  return at, stop
end

--- Drops what has been dealt with, keeping the byte before for frontiers.
local function advance(self, to)
  if to < 1 then return end
  self.before = self.buffer:sub(to, to)
  self.buffer = self.buffer:sub(to + 1)
end

--- What is known of the text now: calls text(s) and match(s) in order; match may return true to stop.
--- Returns true when it did.
local function run(self, final, text, match)
  local from, done = 1, 0 -- looked at, handed out
  while true do
    local at, stop = next_match(self, from, final)
    if not at or stop == UNDECIDED then
      local last = at and at - 1 or final and #self.buffer or held.whole(self.buffer)
      if last > done then text(self.buffer:sub(done + 1, last)) end
      advance(self, math.max(last, done))
      return false
    end
    if stop then
      if at > done + 1 then text(self.buffer:sub(done + 1, at - 1)) end
      done = stop
      if match(self.buffer:sub(at, stop)) then
        advance(self, done)
        return true
      end
      from = stop + 1
    else
      from = at + 1
    end
  end
end

--- One more piece. `text(s)` is called for text without a match, `match(s)` for each match, in order.
---@param piece string
---@param text fun(s: string)
---@param match fun(s: string): boolean?  true: look no further
function Scanner:feed(piece, text, match)
  for slice in held.slices(piece) do
    self.buffer = self.buffer .. slice
    if run(self, false, text, match) then return end
  end
end

--- No more will come.
---@param text fun(s: string)
---@param match fun(s: string): boolean?
function Scanner:finish(text, match)
  run(self, true, text, match)
end

return Scanner
