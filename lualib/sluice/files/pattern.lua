--- Patterns for file names: *, ?, [a-z], [!a], {a,b}, \ before a character that stands for itself.
-- Owns: what a pattern means for one name. Never: looks at a disk (glob.lua does).

local pattern = {}

local EXPANSIONS_MAX = 1000 -- patterns one pattern with braces may stand for

--- Where the brace that opens at i closes, and the commas of its own level; nil: it does not.
local function brace_end(text, i)
  local depth, commas = 0, {}
  local at = i
  while at <= #text do
    local c = text:sub(at, at)
    if c == "\\" then
      at = at + 1
    elseif c == "{" then
      depth = depth + 1
    elseif c == "," and depth == 1 then
      commas[#commas + 1] = at
    elseif c == "}" then
      depth = depth - 1
      if depth == 0 then return at, commas end
    end
    at = at + 1
  end
  return nil
end

local function expand(text, out)
  local from = 1
  while true do
    local open = text:find("[\\{]", from)
    if not open then break end
    local close, commas
    if text:sub(open, open) == "{" then close, commas = brace_end(text, open) end
    if close and #commas > 0 then
      local start = open + 1
      commas[#commas + 1] = close
      for _, comma in ipairs(commas) do
        expand(text:sub(1, open - 1) .. text:sub(start, comma - 1) .. text:sub(close + 1), out)
        start = comma + 1
      end
      return
    end
    from = open + (text:sub(open, open) == "\\" and 2 or 1)
  end
  if #out >= EXPANSIONS_MAX then error(("stands for more than %d patterns"):format(EXPANSIONS_MAX), 0) end
  out[#out + 1] = text
end

--- The patterns without braces that a pattern stands for. Raises a text when they are too many.
---@param text string
---@return string[]
function pattern.expand(text)
  local out = {}
  expand(text, out)
  return out
end

--- Code points, or bytes of a name that is not UTF-8.
local function characters(name)
  local list = {}
  if utf8.len(name) then
    for _, code in utf8.codes(name) do list[#list + 1] = code end
  else
    for i = 1, #name do list[i] = name:byte(i) end
  end
  return list
end

local OPEN, CLOSE, ESCAPE, DASH = ("["):byte(), ("]"):byte(), ("\\"):byte(), ("-"):byte()
local STAR, ANY, BANG, CARET = ("*"):byte(), ("?"):byte(), ("!"):byte(), ("^"):byte()

--- The set that opens at i, and where it ends; nil: none does, the bracket stands for itself.
local function read_set(codes, i)
  local set, at = { ranges = {} }, i + 1
  if codes[at] == BANG or codes[at] == CARET then set.negated, at = true, at + 1 end
  local first = at
  while codes[at] and (codes[at] ~= CLOSE or at == first) do
    if codes[at] == ESCAPE and codes[at + 1] then at = at + 1 end
    local low, high = codes[at], codes[at]
    if codes[at + 1] == DASH and codes[at + 2] and codes[at + 2] ~= CLOSE then
      high, at = codes[at + 2], at + 2
    end
    set.ranges[#set.ranges + 1] = { low, high }
    at = at + 1
  end
  if not codes[at] then return nil end
  return set, at
end

---@class sluice.files.Segment
---@field literal? string   the one name it stands for
---@field deep? boolean     "**": any number of folders
---@field dotted? boolean   begins with a dot: hidden names are meant
---@field tokens? table[]

--- Reads what stands between two slashes.
---@param text string
---@return sluice.files.Segment
function pattern.segment(text)
  if text == "**" then return { deep = true } end
  local codes, tokens, plain, i = characters(text), {}, {}, 1
  local magic = false
  while codes[i] do
    local code = codes[i]
    local set, stop
    if code == OPEN then set, stop = read_set(codes, i) end
    if set then
      tokens[#tokens + 1], i, magic = set, stop, true
    elseif code == STAR then
      if tokens[#tokens] ~= STAR then tokens[#tokens + 1] = STAR end
      magic = true
    elseif code == ANY then
      tokens[#tokens + 1], magic = ANY, true
    else
      if code == ESCAPE and codes[i + 1] then
        i = i + 1
        code = codes[i]
      end
      tokens[#tokens + 1] = { ranges = { { code, code } } }
      plain[#plain + 1] = utf8.len(text) and utf8.char(code) or string.char(code)
    end
    i = i + 1
  end
  if not magic then return { literal = table.concat(plain) } end
  return { tokens = tokens, dotted = text:sub(1, 1) == "." or text:sub(1, 2) == "\\." }
end

local function fits(token, code)
  if token == ANY then return true end
  local inside = false
  for _, range in ipairs(token.ranges) do
    if code >= range[1] and code <= range[2] then inside = true break end
  end
  return inside ~= (token.negated or false)
end

--- Does a name match? In time proportional to pattern times name.
---@param segment sluice.files.Segment
---@param name string
---@return boolean
function pattern.matches(segment, name)
  if segment.literal then return segment.literal == name end
  local tokens, codes = segment.tokens, characters(name)
  local t, c, star, mark = 1, 1, nil, nil
  while c <= #codes do
    local token = tokens[t]
    if token == STAR then
      star, mark, t = t, c, t + 1
    elseif token and fits(token, codes[c]) then
      t, c = t + 1, c + 1
    elseif star then -- the last star takes one character more
      mark = mark + 1
      t, c = star + 1, mark
    else
      return false
    end
  end
  while tokens[t] == STAR do t = t + 1 end
  return tokens[t] == nil
end

return pattern
