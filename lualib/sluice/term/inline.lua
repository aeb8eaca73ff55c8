--- Markdown within a line: emphasis, code, links; character by character.
-- Owns: what a mark means by what stands before and behind it. What is not sure waits for the next
-- character; a mark that opens is believed, for its end may be far away: it ends with the line at the latest.

local LINK_MAX = 2000 -- bytes of a link that are held to see whether it is one

local CODE, LINK, ADDRESS = "36", "4", "2"

---@class sluice.term.Inline
local Inline = {}
Inline.__index = Inline

---@param writer sluice.term.Writer
function Inline.new(writer)
  local self = setmetatable({ writer = writer }, Inline)
  self:reset ""
  return self
end

--- A new line: nothing is open. `base` is the style of all of it.
---@param base string
function Inline:reset(base)
  self.style, self.base, self.bold, self.italic, self.strike, self.code = nil, base, false, false, false, nil
  self.run, self.prev, self.escaped, self.link, self.depth = "", "", false, nil, 0
end

--- The style of what is open now; kept until something opens or closes.
local function style_of(self, extra)
  local style = self.style
  if not style then
    local parts = {}
    if self.base ~= "" then parts[1] = self.base end
    if self.bold then parts[#parts + 1] = "1" end
    if self.italic then parts[#parts + 1] = "3" end
    if self.strike then parts[#parts + 1] = "9" end
    style = table.concat(parts, ";")
    self.style = style
  end
  if not extra then return style end
  return style == "" and extra or style .. ";" .. extra
end

local function literal(self, text, extra)
  local style = style_of(self, extra)
  for char in text:gmatch ".[\x80-\xBF]*" do
    if char == " " or char == "\t" then self.writer:blank() else self.writer:put(char, style) end
    self.prev = char
  end
end

local function is_space(char) return char == "" or char:find "^%s" ~= nil end
local function is_word(char) return char:find "^%w" ~= nil end

--- May a run of these marks open here, may it close?
local function sides(mark, prev, after)
  local opens, closes = not is_space(after), not is_space(prev)
  if mark == "_" then
    opens, closes = opens and not is_word(prev), closes and not is_word(after)
  elseif is_word(prev) and is_word(after) then
    opens = false -- 2*3, f*g: rather a product than emphasis
  end
  return opens, closes
end

local function emphasis(self, run, after)
  local opens, closes = sides(run:sub(1, 1), self.prev, after)
  local n = #run
  local is_open = n == 1 and self.italic or n == 2 and self.bold or n == 3 and self.bold and self.italic
  local turn
  if is_open and closes then turn = false
  elseif not is_open and opens and n <= 3 then turn = true
  else return literal(self, run) end
  if n ~= 2 then self.italic = turn end
  if n ~= 1 then self.bold = turn end
end

--- The marks that were held mean something now that `after` is known ("" at the end of the line).
local function resolve(self, after)
  local run = self.run
  if run == "" then return end
  self.run, self.style = "", nil
  local mark = run:sub(1, 1)
  if mark == "`" then
    if after == "" then literal(self, run) else self.code = #run end
  elseif mark == "~" then
    local opens, closes = sides("~", self.prev, after)
    if #run == 2 and self.strike and closes then self.strike = false
    elseif #run == 2 and not self.strike and opens then self.strike = true
    else literal(self, run) end
  else
    emphasis(self, run, after)
  end
end

--- Inside a code span: everything is text but as many backticks as opened it.
local function in_code(self, char)
  if char == "`" then
    self.run = self.run .. char
    return true
  end
  if self.run ~= "" then
    local run = self.run
    self.run = ""
    if #run == self.code then
      self.code, self.prev = nil, "`"
      return false
    end
    literal(self, run, CODE)
  end
  literal(self, char, CODE)
  return true
end

local give_up

--- [text](address), whole.
local function show_link(self, target)
  local text, inside = self.link:sub(2, target - 2), self.link:sub(target + 1, -2)
  local address = inside:match "^%s*<?([^%s>]*)" -- a title may follow
  self.link = nil
  literal(self, (text:gsub("[*_`]+", "")), LINK)
  if address ~= "" and address ~= text then
    self.writer:blank()
    literal(self, "(" .. address .. ")", ADDRESS)
  end
end

--- Inside what may be a link. `target`: where its address opens; `depth`: brackets, then parentheses.
local function in_link(self, char)
  self.link = self.link .. char
  local opening, closing = "[", "]"
  if self.target then opening, closing = "(", ")" end
  if self.depth == 0 then -- the bracket has closed: an address, or no link
    if char ~= "(" then return give_up(self) end
    self.target, self.depth = #self.link, 1
  elseif char == opening then
    self.depth = self.depth + 1
  elseif char == closing then
    self.depth = self.depth - 1
    if self.depth == 0 and self.target then return show_link(self, self.target) end
  end
  if #self.link > LINK_MAX then give_up(self) end
end

--- It was no link: the bracket is a bracket, and what follows it is read again.
function give_up(self)
  local link = self.link
  self.link, self.depth = nil, 0
  literal(self, link:sub(1, 1))
  for char in link:sub(2):gmatch ".[\x80-\xBF]*" do self:feed(char, true) end
end

--- Is nothing held, so that plain words mean themselves?
function Inline:idle()
  return self.run == "" and not (self.code or self.link or self.escaped)
end

--- A piece of a word, ASCII letters, digits and such that are no marks, while nothing is held.
function Inline:word(text)
  self.writer:put_word(text, style_of(self))
  self.prev = text:sub(-1)
end

--- One character; no line end.
---@param char string
---@param again? boolean  brackets are known to be no links
function Inline:feed(char, again)
  if self.link then return in_link(self, char) end
  if self.escaped then
    self.escaped = false
    if char:find "^%p" then return literal(self, char) end
    literal(self, "\\")
  end
  if self.code and in_code(self, char) then return end
  if self.run ~= "" and char ~= self.run:sub(1, 1) then
    resolve(self, char)
    if self.code and in_code(self, char) then return end
  end
  if char == "*" or char == "_" or char == "`" or char == "~" then
    self.run = self.run .. char
  elseif char == "\\" then
    self.escaped = true
  elseif char == "[" and not again then
    self.link, self.depth, self.target = char, 1, nil
  else
    literal(self, char)
  end
end

--- The line, or all of it, has ended: what was held is text.
function Inline:finish()
  if self.link then give_up(self) end
  if self.escaped then literal(self, "\\") end
  if self.code and self.run ~= "" then
    if #self.run ~= self.code then literal(self, self.run, CODE) end
    self.run = ""
  end
  resolve(self, "")
  self.escaped = false
end

return Inline
