--- Text into sentences, Chinese and Latin.
-- Owns: where a sentence ends. Never: knows a language beyond the lists below.
--
-- 。！？｡ (and their kin of other scripts) end a sentence wherever they stand. ".", "!" and "?" do when
-- a blank follows, or a Chinese character; a "." not after an abbreviation, an initial or the number of
-- a list, and not when the text goes on in lower case. Closing quotes and brackets belong to the
-- sentence they close. A line break ends a sentence as well: answers are not wrapped by hand.

local held = require "sluice.transform.held"

local SENTENCE_MAX = 16 << 10 -- bytes; a longer one is cut at a blank
local WORD_MAX = 32           -- bytes before a "." that are looked at

local function set(words)
  local t = {}
  for word in words:gmatch "%S+" do t[word] = true end
  return t
end

local WIDE = set "。 ！ ？ ｡ । ؟ ۔ ။ ።"
local CLOSERS = set "」 』 ” ’ ） 】 》 〉 〕 ］ ｝ » › ) ] }"
local PAIRED = { ['"'] = '"+', ["'"] = "'+", ["*"] = "%*+", ["_"] = "_+", ["`"] = "`+" }

-- Never the end of a sentence, because something must follow.
local TITLES = set [[mr mrs ms dr prof st gen rep sen gov capt lt col sgt rev hon messrs vs e.g i.e cf viz fig figs
  eq eqs no nos vol pp ed eds ca approx resp sec ch dept]]
local HOURS = set "a.m p.m" -- what looks like the U.S. of a name, but ends sentences

local Sentences = {}
Sentences.__index = Sentences

--- A step whose items are sentences without the blanks around them.
---@param opts? { newlines?: boolean, max?: integer }  newlines = false: a single line break is a blank
function Sentences.new(opts)
  opts = opts or {}
  return setmetatable({ buffer = "", scan = 1, runs = {}, newlines = opts.newlines ~= false,
    max = opts.max or SENTENCE_MAX }, Sentences)
end

--- The character at i; "" at the end, nil when it is cut there.
local function char_at(buffer, i, final)
  local byte = buffer:byte(i)
  if not byte then return "" end
  local length = byte < 0xC0 and 1 or byte >= 0xF0 and 4 or byte >= 0xE0 and 3 or 2
  if i + length - 1 > #buffer and not final then return nil end
  return buffer:sub(i, i + length - 1)
end

local function is_terminator(char)
  return char == "." or char == "!" or char == "?" or WIDE[char]
end

--- How many runs of a mark there are before i, where none is under way. What was counted is not counted
--- again: a long sentence has many marks.
local function runs_before(self, i, char)
  local known = self.runs[char]
  if not known or known.upto >= i then
    known = { upto = 0, count = 0 }
    self.runs[char] = known
  end
  known.count = known.count + select(2, self.buffer:sub(known.upto + 1, i - 1):gsub(PAIRED[char], ""))
  known.upto = i - 1
  return known.count
end

--- Does this mark close what was opened in the sentence? Every second run of it does.
local function closes(self, i, char)
  return CLOSERS[char] or PAIRED[char] ~= nil and runs_before(self, i, char) % 2 == 1
end

--- Behind the terminators at i and the closing marks after them; what ended it; nil: cut off.
local function behind(self, i, final)
  local buffer = self.buffer
  local at, wide, marks, closed = i, false, "", false
  local char = char_at(buffer, at, final)
  while char and char ~= "" and is_terminator(char) do
    wide, marks = wide or WIDE[char] or false, marks .. char
    at = at + #char
    char = char_at(buffer, at, final)
  end
  while char and char ~= "" and closes(self, at, char) do
    local run = PAIRED[char] and #buffer:match(PAIRED[char], at) or #char
    if PAIRED[char] and at + run > #buffer and not final then return nil end -- the run may go on
    closed, at = true, at + run
    char = char_at(buffer, at, final)
  end
  if char == nil or (char == "" and not final) then return nil end
  return at, wide, marks, closed, char
end

--- A "." at i that does not end anything: what stands before it says so.
local function abbreviates(buffer, i)
  local before = buffer:sub(math.max(1, i - WORD_MAX), i - 1)
  if i <= WORD_MAX and before:find "^[%s#>%*%+%-]*%d+$" then return true end -- 1. of a list
  local word = before:match "[%a%.]+$"
  if not word then return false end
  local lower = word:lower()
  if TITLES[lower] then return true end
  if #word == 1 and word:find "%u" and word ~= "I" then return true end -- J. R. R. Tolkien
  return word:find "^%u%.%u" ~= nil and not HOURS[lower] -- U.S. Army
end

--- Where the sentence ends that may end at the mark at i: the last byte; false: not here; nil: not yet
--- known.
local function ends_at(self, i, final)
  local buffer = self.buffer
  local at, wide, marks, closed, char = behind(self, i, final)
  if not at then return nil end
  if wide or char == "" then return at - 1 end
  local first = char:byte()
  if not char:find "%s" then
    if first >= 0xE3 then return at - 1 end -- Chinese follows
    return false, at                        -- 3.14, example.com
  end
  if marks == "." and abbreviates(buffer, i) then return false, at end
  local word = buffer:find("%S", at)
  if not word then
    if not final and not buffer:find("\n", at, true) then return nil end
    return at - 1
  end
  if buffer:sub(at, word - 1):find "\n" then return at - 1 end
  local goes_on = buffer:find("^%l", word) and (marks:sub(-1) == "." or closed)
  if goes_on then return false, at end
  return at - 1
end

--- The end of the first sentence in the buffer, or nil.
local function find_end(self, final)
  local buffer = self.buffer
  while true do
    local i = buffer:find("[.!?\n\xC2-\xF4]", self.scan)
    if not i then
      self.scan = #buffer + 1
      return nil
    end
    local char = char_at(buffer, i, final)
    if char == nil then self.scan = i return nil end
    local stop, after = false, nil
    if char == "\n" then
      stop = self.newlines and i
      if not stop then -- an empty line does
        local next_line = buffer:find("[^ \t\r]", i + 1)
        if not next_line and not final then self.scan = i return nil end
        stop = next_line and buffer:byte(next_line) == 10 and next_line or false
      end
    elseif is_terminator(char) then
      stop, after = ends_at(self, i, final)
      if stop == nil then self.scan = i return nil end
    end
    if stop and (buffer:find "%S" or stop + 1) <= stop then return stop end
    self.scan = after or i + #char
  end
end

local function cut(self, stop, items, texts)
  local text = self.buffer:sub(1, stop)
  self.buffer, self.scan, self.runs = self.buffer:sub(stop + 1), 1, {}
  local item = text:match "^%s*(.-)%s*$"
  if item == "" then return end
  items[#items + 1], texts[#texts + 1] = item, text
end

--- Where to cut a sentence that has become too long.
local function forced(self)
  local window = self.buffer:sub(1, self.max)
  return window:match "^.*%s()" and window:match "^.*%s()" - 1 or held.whole(window)
end

local function run(self, final, items, texts)
  while self.buffer ~= "" do
    local stop = find_end(self, final)
    if not stop and #self.buffer > self.max then stop = forced(self) end
    if not stop then break end
    cut(self, stop, items, texts)
  end
  if final and self.buffer ~= "" then cut(self, #self.buffer, items, texts) end
end

function Sentences:feed(text)
  local items, texts = {}, {}
  for slice in held.slices(text) do
    self.buffer = self.buffer .. slice
    run(self, false, items, texts)
  end
  return items, texts
end

function Sentences:finish()
  local items, texts = {}, {}
  run(self, true, items, texts)
  return items, texts
end

return Sentences
