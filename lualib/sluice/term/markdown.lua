--- Markdown as a terminal shows it, while it is being written.
-- Owns: what a line is (heading, item, quote, fence, table …), told from its first characters. Within a
-- line is inline.lua, between words writer.lua, tables are table.lua.
-- Never: writes; holds more than a word, a link, the beginning of a line or a table of TABLE_MAX bytes.
--
-- What a model wrote is shown harmless: control characters cannot reach the terminal.

local held = require "sluice.transform.held"
local sys = require "sluice.core.sys"
local term = require "sluice.term"
local Inline = require "sluice.term.inline"
local Writer = require "sluice.term.writer"
local lay_out = require "sluice.term.table"

local WIDTH = 80          -- columns, when the terminal does not tell
local RULE = 40           -- columns of a horizontal rule
local TABLE_MAX = 32 << 10 -- bytes of a table that are laid out in columns
local HEAD_MAX = 200      -- bytes of the beginning of a line that are looked at

local DIM, BOLD, TITLE, MARK = "2", "1", "1;4", "33"

---@class sluice.term.Markdown
local Markdown = {}
Markdown.__index = Markdown

-- Lines -------------------------------------------------------------------------------------------

--- What the text at the left of a line makes it: kind, bytes of the mark, more; nil: not yet known.
local function classify(text, complete)
  local indent, rest = text:match "^([ \t]*)(.*)$"
  if rest == "" then return complete and "blank" or nil end
  local first = rest:sub(1, 1)
  if first == "`" or first == "~" then
    if rest:find "^```[^`]*$" or rest:find "^~~~" then return complete and "fence" or nil end
    if not complete and (rest == "`" or rest == "``" or rest == "~" or rest == "~~") then return nil end
  elseif first == "#" then
    local marks = rest:match "^#+"
    if #marks <= 6 and (rest:find "^#+[ \t]" or (complete and marks == rest)) then
      return "heading", #indent + #marks + 1, #marks
    end
    if marks == rest and not complete then return nil end
  elseif first == ">" then
    if rest == ">" and not complete then return nil end
    return "quote", #indent + (rest:find "^> " and 2 or 1)
  elseif first == "|" then
    return complete and "row" or nil
  elseif first == "-" or first == "*" or first == "+" or first == "_" then
    if first ~= "+" and rest:gsub("[ \t]", ""):gsub("%" .. first, "") == "" then -- nothing else so far
      if not complete and #rest < HEAD_MAX then return nil end
      if #rest:gsub("[ \t]", "") >= 3 then return "rule" end
    end
    if first ~= "_" and rest:find "^.[ \t]" then return "item", #indent + 2, "•" end
    if rest == first and not complete then return nil end
  elseif first:find "%d" then
    local number = rest:match "^%d+[.)]"
    if #rest < 12 and not complete and (rest:find "^%d+$" or rest == number) then return nil end
    local blank = number and #number < 11 and rest:find("^[ \t]", #number + 1)
    if blank then return "item", #indent + blank, number end
  end
  return "text", #indent
end

--- Columns a run of blanks takes.
local function blanks(text)
  return #(text:match("^[ \t]*"):gsub("\t", "    "))
end

local function bars(self)
  return ("\27[2m│\27[0m "):rep(self.quotes), 2 * self.quotes
end

local function begin(self, base, indent, mark)
  local bar, bar_width = bars(self)
  local lead = (" "):rep(indent)
  local first, first_width, hang = bar .. lead, bar_width + indent, indent
  if mark then
    hang = indent + term.width(mark) + 1
    first = ("%s\27[%sm%s\27[0m "):format(first, MARK, mark)
    first_width = bar_width + hang
  end
  self.writer:begin(first, first_width, bar .. (" "):rep(hang), bar_width + hang)
  self.inline:reset(base)
  self.mode = "inline"
end

local function end_table(self)
  if not self.rows then return end
  local rows = self.rows
  self.rows, self.rows_size = nil, 0
  self.writer:raw(lay_out(rows, self.width), "")
end

local function add_row(self, line)
  self.rows = self.rows or {}
  self.rows[#self.rows + 1] = line
  self.rows_size = (self.rows_size or 0) + #line + 1
  if self.rows_size > TABLE_MAX then end_table(self) end
end

local function open_fence(self, line)
  local indent, mark = line:match "^([ \t]*)([`~]+)"
  self.fence = { mark = mark, indent = #indent }
  begin(self, "", 0)
  self.writer:raw(line:match "^[ \t]*(.-)[ \t]*$", DIM)
  self.writer:newline()
  self.mode = "code"
end

--- The beginning of the line is `head`, and it is a line of this kind.
local function start(self, kind, size, more)
  local head = self.head
  if kind ~= "row" then end_table(self) end
  if kind == "quote" then
    self.quotes = self.quotes + 1
    self.head = head:sub(size + 1)
    return
  end
  self.head = ""
  if kind == "text" then begin(self, "", blanks(head))
  elseif kind == "heading" then begin(self, more == 1 and TITLE or BOLD, 0)
  elseif kind == "item" then begin(self, "", blanks(head), more)
  elseif kind == "blank" then begin(self, "", 0)
  elseif kind == "rule" then
    begin(self, "", 0)
    self.writer:raw(("─"):rep(math.min(RULE, self.width - 2 * self.quotes)), DIM)
  end
  if size and kind ~= "blank" then
    for char in head:sub(size + 1):gmatch ".[\x80-\xBF]*" do self.inline:feed(char) end
  end
end

local function next_line(self)
  self.inline:finish()
  self.writer:newline()
  self.mode, self.head, self.quotes = "start", "", 0
end

--- A line that has ended before it was known what it is.
local function short_line(self)
  while true do
    local kind, size, more = classify(self.head, true)
    if self.quotes > 0 and (kind == "row" or kind == "fence") then kind, size = "text", 0 end
    if kind == "row" then
      add_row(self, self.head)
      self.head = ""
      return
    elseif kind == "fence" then
      end_table(self)
      local line = self.head
      self.head = ""
      return open_fence(self, line)
    end
    start(self, kind, size, more)
    if kind ~= "quote" then return next_line(self) end
  end
end

local function in_start(self, char)
  if char == "\n" then return short_line(self) end
  self.head = self.head .. char
  while self.head ~= "" do
    local kind, size, more = classify(self.head, false)
    if not kind then return end
    start(self, kind, size, more)
    if kind ~= "quote" then return end
  end
end

-- Code --------------------------------------------------------------------------------------------

local function is_fence(self, line)
  local mark = line:match "^[ \t]*([`~]+)[ \t]*$"
  local fence = self.fence.mark
  return mark and #mark >= #fence and mark == fence:sub(1, 1):rep(#mark)
end

--- The beginning of a line of code, while it may be the end of the block.
local function in_code(self, char)
  if char == "\n" then
    if is_fence(self, self.head) then
      self.writer:raw(self.head:match "^[ \t]*(.-)[ \t]*$", DIM)
      self.writer:newline()
      self.mode, self.head, self.fence, self.quotes = "start", "", nil, 0
      return
    end
    self.writer:raw(self.head .. "\n", "")
    self.head = ""
    return
  end
  self.head = self.head .. char
  local blank, marks = self.head:match "^([ \t]*)([`~]*)[ \t]*$"
  if not blank or (marks ~= "" and marks:gsub("%" .. self.fence.mark:sub(1, 1), "") ~= "") then
    local cut = math.min(#self.head:match "^[ \t]*", self.fence.indent)
    self.writer:raw(self.head:sub(cut + 1), "")
    self.head, self.mode = "", "code_line"
  end
end

local function in_code_line(self, char)
  self.writer:raw(char, "")
  if char == "\n" then self.mode = "code" end
end

local function in_inline(self, char)
  if char == "\n" then next_line(self) else self.inline:feed(char) end
end

local MODES = { start = in_start, inline = in_inline, code = in_code, code_line = in_code_line }

-- Feeding -----------------------------------------------------------------------------------------

--- Marks that turn the direction of text, and line separators, show nothing and may mislead.
local function harmless(text)
  return (term.safe(text):gsub("\xE2\x80[\xA8-\xAE]", ""):gsub("\xE2\x81[\xA6-\xA9]", ""))
end

--- Should Markdown be shown? Else the text stays as it is; on a terminal without control characters.
local function passes(opts)
  if opts.colour ~= nil then return not opts.colour end
  return not term.coloured(1)
end

--- A renderer: `feed(text)` and `finish()` return what is to be shown. Options: colour (true on a terminal
--- without NO_COLOR; false: the text stays as it is), width (the terminal's).
---@param opts? { colour?: boolean, width?: integer }
---@return { feed: fun(self: table, text: string): string }
function Markdown.new(opts)
  opts = opts or {}
  if passes(opts) then
    local show = sys.isatty(1) and harmless or function(text) return text end
    return setmetatable({ pass = show, rest = "" }, Markdown)
  end
  local width = opts.width or sys.columns(1) or math.tointeger(tonumber(sys.env "COLUMNS" or "")) or WIDTH
  local writer = Writer.new(math.max(width, 20))
  return setmetatable({ writer = writer, inline = Inline.new(writer), width = math.max(width, 20), mode = "start",
    head = "", quotes = 0, rest = "" }, Markdown)
end

--- Goes through the text character by character; plain words within a line, which are most of it, at once.
local function go_through(self, text)
  local at, inline = 1, self.inline
  while at <= #text do
    local stop
    if self.mode == "inline" and inline:idle() then
      stop = select(2, text:find("^[%w.,;:?!'\"/=-]+", at))
      if stop then inline:word(text:sub(at, stop)) end
    end
    if not stop then
      stop = select(2, text:find("^.[\x80-\xBF]*", at))
      MODES[self.mode](self, text:sub(at, stop))
    end
    at = stop + 1
  end
end

--- A piece of the text, as it comes.
---@param text string
---@return string shown
function Markdown:feed(text)
  text = self.rest .. text
  local stop = held.whole(text)
  if text:byte(stop) == 13 then stop = stop - 1 end -- a line feed may follow
  self.rest = text:sub(stop + 1)
  text = text:sub(1, stop)
  if self.pass then return self.pass(text) end
  go_through(self, harmless(text))
  return self.writer:take()
end

--- What is left. The last line has no end unless the text had one.
---@return string shown
function Markdown:finish()
  local rest = self.rest
  self.rest = ""
  if self.pass then return self.pass(rest) end
  go_through(self, harmless(rest))
  if self.mode == "start" and self.head ~= "" then
    short_line(self)
    end_table(self)
    local text = self.writer:take() -- without the line end that is not in the text
    self.writer.out[1] = text:gsub("\n$", "")
  elseif self.mode == "code" and self.head ~= "" then
    if is_fence(self, self.head) then self.writer:raw(self.head:match "^[ \t]*(.-)[ \t]*$", DIM)
    else self.writer:raw(self.head, "") end
  elseif self.mode == "inline" then
    self.inline:finish()
    self.writer:plain()
  end
  end_table(self)
  self.head, self.mode, self.fence, self.quotes = "", "start", nil, 0
  return self.writer:take()
end

return Markdown
