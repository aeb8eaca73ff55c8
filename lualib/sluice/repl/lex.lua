--- The words of Lua source, as far as a prompt needs them: what is a name, what is inside a string, what
-- is still open at the end.
-- Owns: the tokens. Pure. Never: judges; whether source compiles is for `load` to say.

local lex = {}

---@class sluice.repl.Token
---@field kind "name"|"keyword"|"number"|"string"|"comment"|"op"
---@field text string as it stands in the source
---@field first integer its first byte
---@field last integer
---@field open? "string"|"long"|"comment" it has no end: a short string, a long bracket, a comment of its line

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return
  then true until while]]):gmatch "%S+" do
  KEYWORDS[word] = true
end
lex.KEYWORDS = KEYWORDS

-- The end of a long bracket that opens at `at`, or nil: there is none that opens; false: it stays open.
local function long_end(source, at)
  local level = source:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, last = source:find("]" .. level .. "]", at + #level + 2, true)
  return last or false
end

local function short_end(source, at)
  local quote = source:sub(at, at)
  local i = at + 1
  while i <= #source do
    local c = source:sub(i, i)
    if c == quote then return i, nil end
    if c == "\n" then return i - 1, "string" end
    if c == "\\" then
      if source:find("^z%s", i + 1) then i = source:match("^z%s+()", i + 1) - 1 else i = i + 1 end
    end
    i = i + 1
  end
  return #source, "string"
end

-- Three characters first, so that the longest wins.
local OPERATORS = { "...", "<<", ">>", "//", "==", "~=", "<=", ">=", "::", ".." }

local function operator_end(source, at)
  for _, op in ipairs(OPERATORS) do
    if source:sub(at, at + #op - 1) == op then return at + #op - 1 end
  end
  return at
end

-- kind, last, open of the token that begins at `at`, where there is no blank.
local function token(source, at)
  local c = source:sub(at, at)
  if c:find "[%a_]" then
    local last = source:match("^[%w_]+()", at) - 1
    return KEYWORDS[source:sub(at, last)] and "keyword" or "name", last
  elseif c:find "%d" or source:find("^%.%d", at) then
    local last = source:match("^0[xX][%x.]*()", at) or source:match("^[%d.]*()", at)
    last = source:match("^[eEpP][+-]?%d*()", last) or last
    return "number", last - 1
  elseif c == '"' or c == "'" then
    return "string", short_end(source, at)
  elseif source:sub(at, at + 1) == "--" then
    local long = long_end(source, at + 2)
    if long ~= nil then return "comment", long or #source, not long and "long" or nil end
    local last = source:match("^[^\n]*()", at) - 1
    return "comment", last, last == #source and "comment" or nil
  end
  local long = c == "[" and long_end(source, at)
  if long ~= nil and c == "[" then return "string", long or #source, not long and "long" or nil end
  return "op", operator_end(source, at)
end

--- The tokens of a piece of source, whether it is whole or not.
---@param source string
---@return sluice.repl.Token[]
function lex.tokens(source)
  local list, at = {}, 1
  while true do
    at = source:match("^%s*()", at)
    if at > #source then return list end
    local kind, last, open = token(source, at)
    list[#list + 1] = { kind = kind, text = source:sub(at, last), first = at, last = last, open = open }
    at = last + 1
  end
end

local ESCAPES = { n = "\n", t = "\t", r = "\r", a = "\a", b = "\b", f = "\f", v = "\v" }

--- What a string token stands for; escapes of the common kind are read, others stay.
---@param t sluice.repl.Token
---@return string
function lex.value(t)
  local level = t.text:match "^%[(=*)%["
  if level then return (t.text:sub(#level + 3, t.open and -1 or -#level - 3):gsub("^\n", "")) end
  return (t.text:sub(2, t.open and -1 or -2):gsub("\\(.)", function(c) return ESCAPES[c] or c end))
end

return lex
