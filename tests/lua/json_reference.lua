-- A second JSON reader, slow and plain, written from the grammar of RFC 8259 alone: what sluice.json
-- is held against in json_test.lua. It knows nothing of lua-cjson and shares no code with it.
--
--   reference.decode(text) -> value, or nil when the text is not JSON
-- Arrays are { array = true, n = n, [1..n] }, objects { object = true, fields = {} }, null is
-- reference.null, numbers are what Lua makes of their text.

local DEPTH_MAX = 128

local reference = { null = setmetatable({}, { __tostring = function() return "null" end }) }

local ESCAPED = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
local LONE = "\u{fffd}"

local function refuse() error(reference, 0) end

local function blanks(text, at) return text:find("[^ \t\r\n]", at) or #text + 1 end

-- `at` is behind "\u". Returns the character and where it ends.
local function unicode(text, at)
  local hex = text:match("^%x%x%x%x", at) or refuse()
  local unit = tonumber(hex, 16)
  if unit < 0xd800 or unit > 0xdfff then return utf8.char(unit), at + 4 end
  local low = unit < 0xdc00 and text:match("^\\u([dD][c-fC-F]%x%x)", at + 4)
  if not low then return LONE, at + 4 end
  return utf8.char(0x10000 + (unit - 0xd800) * 0x400 + tonumber(low, 16) - 0xdc00), at + 10
end

-- `at` is behind the opening quote.
local function read_string(text, at)
  local parts = {}
  while true do
    local plain = text:match('^[^"\\\0-\x1f]*', at)
    parts[#parts + 1] = plain
    at = at + #plain
    local c = text:sub(at, at)
    if c == '"' then return table.concat(parts), at + 1 end
    if c ~= "\\" then refuse() end
    local e = text:sub(at + 1, at + 1)
    if e == "u" then
      parts[#parts + 1], at = unicode(text, at + 2)
    else
      parts[#parts + 1], at = ESCAPED[e] or refuse(), at + 2
    end
  end
end

local function read_number(text, at)
  local from = at
  at = text:match("^%-?0()", at) or text:match("^%-?[1-9]%d*()", at) or refuse()
  if text:find("^%.", at) then at = text:match("^%.%d+()", at) or refuse() end
  if text:find("^[eE]", at) then at = text:match("^[eE][+-]?%d+()", at) or refuse() end
  local number = tonumber(text:sub(from, at - 1))
  if number == math.huge or number == -math.huge then refuse() end
  return number, at
end

local read_value

local function read_array(text, at, depth)
  local array = { array = true, n = 0 }
  at = blanks(text, at)
  if text:sub(at, at) == "]" then return array, at + 1 end
  while true do
    array.n = array.n + 1
    array[array.n], at = read_value(text, at, depth)
    at = blanks(text, at)
    local c = text:sub(at, at)
    if c == "]" then return array, at + 1 end
    if c ~= "," then refuse() end
    at = at + 1
  end
end

local function read_object(text, at, depth)
  local object = { object = true, fields = {} }
  at = blanks(text, at)
  if text:sub(at, at) == "}" then return object, at + 1 end
  while true do
    local key
    at = blanks(text, at)
    if text:sub(at, at) ~= '"' then refuse() end
    key, at = read_string(text, at + 1)
    at = blanks(text, at)
    if text:sub(at, at) ~= ":" then refuse() end
    object.fields[key], at = read_value(text, at + 1, depth)
    at = blanks(text, at)
    local c = text:sub(at, at)
    if c == "}" then return object, at + 1 end
    if c ~= "," then refuse() end
    at = at + 1
  end
end

function read_value(text, at, depth)
  at = blanks(text, at)
  local c = text:sub(at, at)
  if c == '"' then return read_string(text, at + 1) end
  if c == "[" or c == "{" then
    if depth == DEPTH_MAX then refuse() end
    return (c == "[" and read_array or read_object)(text, at + 1, depth + 1)
  end
  if text:find("^true", at) then return true, at + 4 end
  if text:find("^false", at) then return false, at + 5 end
  if text:find("^null", at) then return reference.null, at + 4 end
  return read_number(text, at)
end

---@param text string
---@return any value nil when the text is not JSON
function reference.decode(text)
  if not utf8.len(text) then return nil end
  text = text:gsub("^\u{feff}", "")
  local ok, value, at = pcall(read_value, text, 1, 0)
  if not ok then
    if value ~= reference then error(value, 0) end
    return nil
  end
  if blanks(text, at) <= #text then return nil end
  return value
end

return reference
