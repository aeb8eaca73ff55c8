--- The regular expressions of JSON Schema's `pattern`, as far as they are regular. Pure.
-- Owns: a reader of ECMA-262's common subset and a matcher that backtracks within a bound.
-- Never: guesses: what it does not understand (look-around, back-references, named classes of Unicode) is
-- answered with nil, "not known", and so is a match that takes too many steps.
--
-- Understood: literals, ., [classes], \d \w \s and their opposites, \t \n \r, \xHH, \uHHHH, groups,
-- alternatives, ^ $ \b \B, * + ? {n} {n,} {n,m} and their lazy forms. Characters, not bytes.

local STEPS_MAX = 50000
local CACHE_MAX = 200
local REPEAT_MAX = 1000

-- Reading -----------------------------------------------------------------------------------------

local Unknown = {} -- raised for what is not understood

local function unknown() error(Unknown, 0) end

local function set(...)
  return { ranges = { ... } }
end

local CLASSES = {
  d = set({ 48, 57 }),
  w = set({ 48, 57 }, { 65, 90 }, { 95, 95 }, { 97, 122 }),
  s = set({ 9, 13 }, { 32, 32 }, { 0xA0, 0xA0 }, { 0x1680, 0x1680 }, { 0x2000, 0x200A }, { 0x2028, 0x2029 },
    { 0x202F, 0x202F }, { 0x205F, 0x205F }, { 0x3000, 0x3000 }, { 0xFEFF, 0xFEFF }),
}
local CONTROLS = { t = 9, n = 10, v = 11, f = 12, r = 13, ["0"] = 0 }

local function peek(r) return r.text[r.at] end
local function char(r) local c = r.text[r.at] return c and c < 128 and string.char(c) or c and "\x80" or nil end
local function take(r) r.at = r.at + 1 return r.text[r.at - 1] end

local function hex(r, digits)
  local n = 0
  for _ = 1, digits do
    local c = take(r)
    local digit = c and c < 128 and tonumber(string.char(c), 16)
    if not digit then unknown() end
    n = n * 16 + digit
  end
  return n
end

--- Behind a backslash: a code point, or a class and whether it is the opposite.
local function escape(r)
  local c = char(r)
  if not c then unknown() end
  take(r)
  local class = CLASSES[c:lower()]
  if class then return nil, class, c:lower() ~= c end
  if CONTROLS[c] then return CONTROLS[c] end
  if c == "x" then return hex(r, 2) end
  if c == "u" then return hex(r, 4) end
  if c:find "%w" then unknown() end -- \1, \k, \p, \c …
  return r.text[r.at - 1]
end

local function class(r)
  local node = { kind = "set", ranges = {}, sets = {}, negated = false }
  if char(r) == "^" then take(r) node.negated = true end
  while true do
    local c = char(r)
    if not c then unknown() end
    if c == "]" then take(r) return node end
    local from, kind, opposite = take(r), nil, nil
    if c == "\\" then
      if char(r) == "b" then take(r) from = 8 else from, kind, opposite = escape(r) end
    end
    if kind then
      node.sets[#node.sets + 1] = { ranges = kind.ranges, negated = opposite }
    else
      local to = from
      if char(r) == "-" and r.text[r.at + 1] and r.text[r.at + 1] ~= 93 then
        take(r)
        to = take(r)
        if to == 92 then
          to = escape(r)
          if not to then unknown() end
        end
        if to < from then unknown() end
      end
      node.ranges[#node.ranges + 1] = { from, to }
    end
  end
end

local alternatives

local function group(r)
  if char(r) == "?" then
    take(r)
    if char(r) == ":" then take(r)
    elseif char(r) == "<" and r.text[r.at + 1] ~= 61 and r.text[r.at + 1] ~= 33 then -- a name, which nobody asks for
      while char(r) and char(r) ~= ">" do take(r) end
      take(r)
    else unknown() end
  end
  local node = alternatives(r)
  if char(r) ~= ")" then unknown() end
  take(r)
  return node
end

local function atom(r)
  local c = char(r)
  local code = take(r)
  if c == "(" then return group(r) end
  if c == "[" then return class(r) end
  if c == "." then return { kind = "dot" } end
  if c == "^" then return { kind = "start" } end
  if c == "$" then return { kind = "finish" } end
  if c == "*" or c == "+" or c == "?" then unknown() end
  if c ~= "\\" then return { kind = "char", code = code } end
  local next_char = char(r)
  if next_char == "b" or next_char == "B" then take(r) return { kind = "word_edge", negated = next_char == "B" } end
  local literal, kind, opposite = escape(r)
  if kind then return { kind = "set", ranges = {}, sets = { { ranges = kind.ranges, negated = opposite } } } end
  return { kind = "char", code = literal }
end

local function braces(r)
  local from, digits, at = "", "", r.at
  while char(r) and char(r):find "[%d,]" do digits = digits .. char(r) take(r) end
  local low, comma, high = digits:match "^(%d+)(,?)(%d*)$"
  if not low or char(r) ~= "}" then
    r.at = at
    return nil, from
  end
  take(r)
  local least = tonumber(low)
  local most = high ~= "" and tonumber(high) or comma == "" and least or math.huge
  if least > REPEAT_MAX or most ~= math.huge and most > REPEAT_MAX or most < least then unknown() end
  return least, most
end

local function repeated(r, node)
  local c = char(r)
  local least, most
  if c == "*" then least, most = 0, math.huge
  elseif c == "+" then least, most = 1, math.huge
  elseif c == "?" then least, most = 0, 1
  elseif c ~= "{" then return node end
  take(r)
  if c == "{" then
    least, most = braces(r)
    if not least then unknown() end
  end
  local lazy = char(r) == "?"
  if lazy then take(r) end
  if char(r) and char(r):find "[*+?]" then unknown() end
  return { kind = "repeat", node = node, least = least, most = most, lazy = lazy }
end

local function sequence(r)
  local list = {}
  while peek(r) and char(r) ~= "|" and char(r) ~= ")" do list[#list + 1] = repeated(r, atom(r)) end
  return { kind = "sequence", list = list }
end

function alternatives(r)
  local list = { sequence(r) }
  while char(r) == "|" do
    take(r)
    list[#list + 1] = sequence(r)
  end
  return #list == 1 and list[1] or { kind = "alternatives", list = list }
end

local function codes(s)
  local list = {}
  for _, c in utf8.codes(s) do list[#list + 1] = c end
  return list
end

local function read(pattern)
  local ok, text = pcall(codes, pattern)
  if not ok then return nil end
  local r = { text = text, at = 1 }
  local good, node = pcall(alternatives, r)
  if not good then
    if node ~= Unknown then error(node, 0) end
    return nil
  end
  return r.at > #r.text and node or nil
end

-- Matching ------------------------------------------------------------------------------------------

local function in_ranges(ranges, c)
  for i = 1, #ranges do
    if c >= ranges[i][1] and c <= ranges[i][2] then return true end
  end
  return false
end

local function in_set(node, c)
  local inside = in_ranges(node.ranges, c)
  for i = 1, #node.sets do
    if inside then break end
    local s = node.sets[i]
    inside = in_ranges(s.ranges, c) ~= (s.negated or false)
  end
  return inside ~= (node.negated or false)
end

local NEWLINES = { [10] = true, [13] = true, [0x2028] = true, [0x2029] = true }

--- Does one character fit?
local ONE = {
  char = function(node, c) return c == node.code end,
  set = in_set,
  dot = function(_, c) return not NEWLINES[c] end,
}

local function is_word(c) return c ~= nil and in_ranges(CLASSES.w.ranges, c) end

local match

local function count(m)
  m.steps = m.steps + 1
  if m.steps > STEPS_MAX then unknown() end
end

--- A single character, repeated: a loop, no recursion over the text.
local function match_run(m, node, at, rest)
  local fits, inner, n = ONE[node.node.kind], node.node, 0
  local text = m.text
  if not node.lazy then
    while n < node.most and text[at + n] and fits(inner, text[at + n]) do n = n + 1 end
    while n >= node.least do
      count(m)
      if rest(at + n) then return true end
      n = n - 1
    end
    return false
  end
  while n < node.least do
    if not text[at + n] or not fits(inner, text[at + n]) then return false end
    n = n + 1
  end
  while true do
    count(m)
    if rest(at + n) then return true end
    if n >= node.most or not text[at + n] or not fits(inner, text[at + n]) then return false end
    n = n + 1
  end
end

local MATCH = {}

function MATCH.start(_, _, at, rest) return at == 1 and rest(at) end
function MATCH.finish(m, _, at, rest) return at == #m.text + 1 and rest(at) end

function MATCH.word_edge(m, node, at, rest)
  local edge = is_word(m.text[at - 1]) ~= is_word(m.text[at])
  return edge ~= node.negated and rest(at)
end

function MATCH.sequence(m, node, at, rest)
  local list = node.list
  local function from(i, place)
    if i > #list then return rest(place) end
    return match(m, list[i], place, function(after) return from(i + 1, after) end)
  end
  return from(1, at)
end

function MATCH.alternatives(m, node, at, rest)
  for i = 1, #node.list do
    if match(m, node.list[i], at, rest) then return true end
  end
  return false
end

MATCH["repeat"] = function(m, node, at, rest)
  if ONE[node.node.kind] then return match_run(m, node, at, rest) end
  local function more(n, place)
    local function again()
      return n < node.most and match(m, node.node, place, function(after)
        if after == place and n >= node.least then return false end -- nothing was taken: no end
        return more(n + 1, after)
      end)
    end
    if n < node.least then return again() end
    if node.lazy then return rest(place) or again() end
    return again() or rest(place)
  end
  return more(0, at)
end

function match(m, node, at, rest)
  count(m)
  local one = ONE[node.kind]
  if one then
    local c = m.text[at]
    return c ~= nil and one(node, c) and rest(at + 1)
  end
  m.depth = m.depth + 1
  if m.depth > 3000 then unknown() end -- the stack has an end
  local ok = MATCH[node.kind](m, node, at, rest)
  m.depth = m.depth - 1
  return ok
end

local cache, cached = {}, 0

local regex = {}

--- Does the pattern match somewhere in the text? nil: not known, because the pattern or the work it makes
--- is beyond what is understood here.
---@param pattern string
---@param text string
---@return boolean?
function regex.matches(pattern, text)
  local node = cache[pattern]
  if node == nil then
    if cached >= CACHE_MAX then cache, cached = {}, 0 end
    node = read(pattern) or false
    cache[pattern], cached = node, cached + 1
  end
  if not node then return nil end
  local ok, list = pcall(codes, text)
  if not ok then return nil end
  local m = { text = list, steps = 0, depth = 0 }
  local good, result = pcall(function()
    local anchored = node.kind == "sequence" and node.list[1] and node.list[1].kind == "start"
    for at = 1, anchored and 1 or #list + 1 do
      m.depth = 0
      if match(m, node, at, function() return true end) then return true end
    end
    return false
  end)
  if good then return result end
  if result ~= Unknown and not tostring(result):find "stack overflow" then error(result, 0) end
  return nil
end

return regex
