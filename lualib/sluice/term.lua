--- What the terminal can show: colour, the columns a text takes, Markdown.
-- Owns: the decision whether to colour. Never: writes anything, but for print_stream.

local sys = require "sluice.core.sys"

---@class sluice.term
local term = {}

local CODES = { red = "31;1", yellow = "33", green = "32", blue = "34;1", bold = "1", dim = "2" }

--- May this stream be coloured? Only a terminal that can, and only while NO_COLOR is unset or empty
--- (https://no-color.org).
---@param fd integer 1 or 2
---@return boolean
function term.coloured(fd)
  local no_color, name = sys.env "NO_COLOR", sys.env "TERM"
  return (no_color == nil or no_color == "") and name ~= nil and name ~= "dumb" and sys.isatty(fd)
end

--- A function that colours text for a stream, or leaves it as it is.
---@param fd integer 1 or 2
---@return fun(colour: "red"|"yellow"|"green"|"blue"|"bold"|"dim", text: string): string
function term.painter(fd)
  if not term.coloured(fd) then
    return function(_, text) return text end
  end
  return function(colour, text) return ("\27[%sm%s\27[0m"):format(CODES[colour], text) end
end

-- East Asian Wide and Fullwidth blocks, and emoji (Unicode Standard Annex 11, coarsened to blocks).
local WIDE = {
  { 0x1100, 0x115F }, { 0x2E80, 0x303E }, { 0x3041, 0xA4CF }, { 0xA960, 0xA97F }, { 0xAC00, 0xD7A3 },
  { 0xF900, 0xFAFF }, { 0xFE30, 0xFE6F }, { 0xFF00, 0xFF60 }, { 0xFFE0, 0xFFE6 }, { 0x1F300, 0x1F64F },
  { 0x1F900, 0x1F9FF }, { 0x20000, 0x3FFFD },
}
local COMBINING = { { 0x0300, 0x036F }, { 0x200B, 0x200F }, { 0xFE00, 0xFE0F } }

local function inside(blocks, code)
  for _, block in ipairs(blocks) do
    if code >= block[1] and code <= block[2] then return true end
  end
  return false
end

--- Columns a text takes on a terminal; each byte that is not UTF-8 counts as one.
---@param text string
---@return integer
function term.width(text)
  if not utf8.len(text) then return #text end
  local columns = 0
  for _, code in utf8.codes(text) do
    if code >= 0x0300 then
      columns = columns + (inside(WIDE, code) and 2 or inside(COMBINING, code) and 0 or 1)
    else
      columns = columns + 1
    end
  end
  return columns
end

--- A text that is safe to show: control characters other than newline and tab are written as \27,
--- so that words of a model or a server cannot move the cursor or retitle the window.
---@param text string
---@return string
function term.safe(text)
  local secrets = package.loaded["sluice.core.secret"] -- not loaded: there are none
  if secrets then text = secrets.scrub(text) end
  text = text:gsub("\r\n", "\n"):gsub("[%c\127]", function(c)
    if c == "\n" or c == "\t" then return c end
    return ("\\%03d"):format(c:byte())
  end)
  return (text:gsub("\xC2([\x80-\x9F])", function(c) return ("\\u{%x}"):format(c:byte()) end))
end

--- Lines of at most `columns`, broken at blanks. A newline in the text stays one; a line that
--- begins with a blank is kept as it is.
---@param text string
---@param columns integer
---@return string[]
function term.wrap(text, columns)
  local lines = {}
  for paragraph in (text .. "\n"):gmatch "(.-)\n" do
    local line, used = nil, 0
    if paragraph:sub(1, 1) == " " then
      lines[#lines + 1] = paragraph
    else
      for word in paragraph:gmatch "%S+" do
        local width = term.width(word)
        if line and used + 1 + width <= columns then
          line, used = line .. " " .. word, used + 1 + width
        else
          lines[#lines + 1] = line
          line, used = word, width
        end
      end
      lines[#lines + 1] = line or ""
    end
  end
  return lines
end

--- A renderer that shows Markdown on a terminal while it comes: headings, emphasis, lists, quotes, code,
--- tables, links; wrapped between words. `feed(text)` and then `finish()` return what is to be printed.
--- Options: colour (true on a terminal without NO_COLOR; when false the text stays as it is) and width
--- (the terminal's). Control characters of the model are made harmless.
---@param opts? { colour?: boolean, width?: integer }
---@return sluice.term.Markdown
function term.markdown(opts)
  return require "sluice.term.markdown".new(opts)
end

--- Writes now; raises when nobody reads any more: what nobody reads need not be generated.
local function print_now(text)
  local ok, why = io.write(text)
  if ok then ok, why = io.flush() end
  if not ok then error("sluice.term.print_stream: stdout: " .. tostring(why), 0) end
end

--- Prints a stream on stdout as it comes, Markdown where there is a terminal, and a line end behind it if it
--- has none. Returns the reply, whose text is what the model wrote. Raises, and closes the stream, when stdout
--- cannot be written. Options as for term.markdown.
---@async
---@param stream sluice.Stream
---@param opts? { colour?: boolean, width?: integer }
---@return sluice.Reply
function term.print_stream(stream, opts)
  if type(stream) ~= "table" or type(stream.markdown) ~= "function" then
    local options = require "sluice.options"
    options.raise("sluice.term.print_stream: argument 1 must be a stream (model:stream, chat:stream …), got "
      .. options.got(stream))
  end
  local shown = stream:markdown(opts)
  local last = "\n"
  for text in shown:text() do
    print_now(text)
    last = text
  end
  if last:gsub("\27%[[%d;]*m", ""):sub(-1) ~= "\n" then print_now "\n" end
  local reply = shown:reply()
  return reply.original or reply
end

return term
