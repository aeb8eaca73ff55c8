--- Puts styled characters on lines of a terminal, broken between words.
-- Owns: the column, the margin, which style the terminal is in. Never: knows Markdown (inline.lua,
-- markdown.lua do), writes anything itself: `take` gives the text so far.
--
-- A word is held until it ends, so that a line is never too long; Chinese text may be broken between any
-- two characters but before a closing and behind an opening mark.

local term = require "sluice.term"

local function set(words)
  local t = {}
  for word in words:gmatch "%S+" do t[word] = true end
  return t
end

local NO_START = set "， 。 、 ； ： ？ ！ ） 」 』 】 》 〉 ” ’ … — ～ ％ ｝ ］ ・ ー , . ; : ? ! ) ] } %"
local NO_END = set "（ 「 『 【 《 〈 “ ‘ ｛ ［ ( [ {"

---@class sluice.term.Writer
local Writer = {}
Writer.__index = Writer

---@param width integer  columns
---@return sluice.term.Writer
function Writer.new(width)
  return setmetatable({ width = width, out = {}, column = 0, margin = "", margin_width = 0, word = {}, word_width = 0,
    last = nil, space = false, joined = false, style = "", out_style = "", first_style = "" }, Writer)
end

--- What has been put out since the last call.
---@return string
function Writer:take()
  local text = table.concat(self.out)
  self.out = {}
  return text
end

local function switch(from, to)
  if from == to then return "" end
  return (from ~= "" and "\27[0m" or "") .. (to ~= "" and "\27[" .. to .. "m" or "")
end

local function emit(self, text) self.out[#self.out + 1] = text end

--- A line begins: what stands at its left, and at the left of the lines that follow when it is broken.
---@param first string   styled as it is
---@param first_width integer
---@param margin string
---@param margin_width integer
function Writer:begin(first, first_width, margin, margin_width)
  emit(self, first)
  self.column, self.margin, self.margin_width = first_width, margin, margin_width
  self.space, self.joined, self.last, self.fresh = false, false, nil, true
end

--- The word that is held goes out: onto this line, or the next.
function Writer:flush()
  if self.word_width == 0 and not self.word[1] then return end
  local from, to = self.out_style, self.first_style
  local gap = self.space and not self.fresh and 1 or 0
  if not self.fresh and not self.joined and self.column + gap + self.word_width > self.width then
    emit(self, switch(from, "") .. "\n" .. self.margin .. switch("", to))
    self.column = self.margin_width
  elseif gap == 1 then -- a blank between two styles has neither
    emit(self, from == to and " " or switch(from, "") .. " " .. switch("", to))
    self.column = self.column + 1
  else
    emit(self, switch(from, to))
  end
  emit(self, table.concat(self.word))
  self.column = self.column + self.word_width
  self.out_style = self.style
  self.word, self.word_width, self.space, self.fresh, self.joined = {}, 0, false, false, false
end

--- One character that shows, in this style (the numbers of an SGR sequence; "" is none).
---@param char string
---@param style string
function Writer:put(char, style)
  local width = #char == 1 and 1 or term.width(char)
  local between = width > 0 and (width == 2 or self.last_width == 2) -- a combining mark goes with its letter
  if between and self.last and not NO_START[char] and not NO_END[self.last] then
    self:flush()
    self.joined = false
  end
  if not self.word[1] then self.style, self.first_style = style, style end
  self.word[#self.word + 1] = switch(self.style, style) .. char
  self.style = style
  self.word_width = self.word_width + width
  if width > 0 then self.last, self.last_width = char, width end
  if self.word_width >= self.width then -- longer than any line: out with it, unbroken
    self:flush()
    self.joined = true
  end
end

--- Several characters of ASCII that show, none of them a blank: as `put` for each of them.
---@param text string
---@param style string
function Writer:put_word(text, style)
  self:put(text:sub(1, 1), style)
  local n = #text - 1
  if n == 0 then return end
  if not self.word[1] then self.first_style = style end -- what came before has just gone out
  self.word[#self.word + 1] = text:sub(2)
  self.word_width, self.last, self.last_width = self.word_width + n, text:sub(-1), 1
  if self.word_width >= self.width then
    self:flush()
    self.joined = true
  end
end

--- A blank between words.
function Writer:blank()
  self:flush()
  self.space, self.joined, self.last, self.last_width = true, false, nil, nil
end

--- The line ends. Its style does, too.
function Writer:newline()
  self:flush()
  emit(self, switch(self.out_style, "") .. "\n")
  self.style, self.out_style, self.column, self.space, self.last, self.last_width = "", "", 0, false, nil, nil
  self.fresh = true
end

--- Text that stands as it is, in one style; it may have line ends.
---@param text string
---@param style string
function Writer:raw(text, style)
  self:flush()
  if text ~= "" then emit(self, switch("", style) .. text .. switch(style, "")) end
end

--- Ends the style without ending the line.
function Writer:plain()
  self:flush()
  emit(self, switch(self.out_style, ""))
  self.style, self.out_style = "", ""
end

return Writer
