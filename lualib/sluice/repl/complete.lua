--- What Tab offers.
-- Owns: finding the candidates. Never: calls a function of a value to find out what it has; tables,
-- and the names that modules of sluice give of themselves.

local lex = require "sluice.repl.lex"

local complete = {}

local DEPTH_MAX = 10 -- metatables behind each other

-- Names of a value ----------------------------------------------------------------------------------

-- Where the fields of a value are looked up, first to last.
local function places(value)
  local list = {}
  for _ = 1, DEPTH_MAX do
    if type(value) == "table" then list[#list + 1] = value end
    local mt = debug.getmetatable(value)
    if type(mt) ~= "table" then return list end
    if type(rawget(mt, "__sluice_names")) == "function" then list[#list + 1] = mt.__sluice_names() end
    local index = rawget(mt, "__index")
    if type(index) ~= "table" then
      -- methods in the metatable, behind a function that looks there too
      if type(index) == "function" and type(rawget(mt, "__name")) == "string" then list[#list + 1] = mt end
      return list
    end
    value = index
  end
  return list
end

-- The field of a value, without running code; `sluice` loads its parts when they are named.
local function field(value, name)
  local mt = debug.getmetatable(value)
  if type(mt) == "table" and rawget(mt, "__sluice_names") then
    local ok, part = pcall(function() return value[name] end)
    return ok and part or nil
  end
  for _, place in ipairs(places(value)) do
    local found = rawget(place, name)
    if found ~= nil then return found end
  end
  return nil
end

local function matches(list, seen, name, prefix)
  if type(name) ~= "string" or seen[name] or name:sub(1, #prefix) ~= prefix then return end
  if name:sub(1, 1) == "_" and prefix:sub(1, 1) ~= "_" then return end
  seen[name] = true
  list[#list + 1] = name
end

local function fields_of(value, prefix, methods_only)
  local list, seen = {}, {}
  for _, place in ipairs(places(value)) do
    for name, found in next, place do
      if type(name) == "string" and name:find "^[%a_][%w_]*$" and not lex.KEYWORDS[name]
        and (not methods_only or type(found) == "function") then
        matches(list, seen, name, prefix)
      end
    end
  end
  table.sort(list)
  return list
end

-- Names inside of strings ---------------------------------------------------------------------------

local function sorted_prefixed(names, prefix)
  local list, seen = {}, {}
  for _, name in ipairs(names) do matches(list, seen, name, prefix) end
  table.sort(list)
  return list
end

local function modules(prefix, env)
  local names = {}
  for name in pairs(package.loaded) do names[#names + 1] = name end
  for name in pairs(package.preload) do names[#names + 1] = name end
  for _, name in ipairs(env.modules and env.modules() or {}) do names[#names + 1] = name end
  local list = {}
  for _, name in ipairs(sorted_prefixed(names, prefix)) do
    -- what is inside of sluice is not for scripts
    if name ~= "_G" and (not name:find "^sluice%." or prefix:find "^sluice%.") then list[#list + 1] = name end
  end
  return list
end

local function models(prefix, env)
  local provider, rest = prefix:match "^([^/]*)/(.*)$"
  if not provider then
    local names = {}
    for i, name in ipairs(env.providers and env.providers() or {}) do names[i] = name .. "/" end
    return sorted_prefixed(names, prefix)
  end
  local list = {}
  for _, name in ipairs(sorted_prefixed(env.models and env.models(provider) or {}, rest)) do
    list[#list + 1] = provider .. "/" .. name
  end
  return list
end

-- The call or the field that the open string is for: "require", "model", "provider"; nil: none of these.
local function purpose(tokens, i)
  local t = tokens[i - 1]
  if t and t.text == "(" and t.kind == "op" then
    i = i - 1
    t = tokens[i - 1]
  end
  if not t then return nil end
  if t.kind == "name" and (t.text == "require" or t.text == "model") then return t.text end
  if t.text == "=" and tokens[i - 2] and tokens[i - 2].kind == "name" then
    local key = tokens[i - 2].text
    return (key == "provider" or key == "model") and "field " .. key or nil
  end
  return nil
end

-- The provider named before in the same table: { provider = "x", model = "…
local function provider_before(tokens, i)
  for k = i - 1, 3, -1 do
    if tokens[k].kind == "string" and tokens[k - 1].text == "=" and tokens[k - 2].text == "provider" then
      return lex.value(tokens[k])
    end
    if tokens[k].text == "{" then return nil end
  end
  return nil
end

local function in_string(tokens, env)
  local open = tokens[#tokens]
  local prefix = lex.value(open)
  local what = purpose(tokens, #tokens)
  if what == "require" then return prefix, modules(prefix, env) end
  if what == "model" then return prefix, models(prefix, env) end
  if what == "field provider" then
    return prefix, sorted_prefixed(env.providers and env.providers() or {}, prefix)
  elseif what == "field model" then
    local provider = provider_before(tokens, #tokens)
    return prefix, provider and env.models and sorted_prefixed(env.models(provider), prefix) or {}
  end
  return prefix, {}
end

-- Paths ---------------------------------------------------------------------------------------------

-- The value of the names before the last separator, "a.b:" -> a.b; nil when it cannot be known.
local function base_value(tokens, i, globals)
  local names = {}
  while true do
    local t = tokens[i]
    if not t then return nil end
    if t.kind == "string" and #names == 0 and not t.open then return "" end -- ("x"):… and "x":… have methods of strings
    if t.text == ")" and tokens[i - 1] and tokens[i - 1].kind == "string" then return #names == 0 and "" or nil end
    if t.kind ~= "name" then return nil end
    table.insert(names, 1, t.text)
    local before = tokens[i - 1]
    if not before or not (before.text == "." or before.text == ":") or before.kind == "string" then break end
    i = i - 2
  end
  local value = globals
  for _, name in ipairs(names) do
    value = field(value, name)
    if value == nil then return nil end
  end
  return value
end

---@class sluice.repl.Completions
---@field prefix string the part of the line that is being completed
---@field list string[] what it may become, sorted
---@field close string what follows when there is one: "" or a quote

---@class sluice.repl.CompletionSources
---@field globals table
---@field commands? string[] with their colon
---@field modules? fun(): string[]
---@field providers? fun(): string[]
---@field models? fun(provider: string): string[]

--- The candidates for the end of `before`, the line up to the cursor (with the lines before it).
---@param before string
---@param env sluice.repl.CompletionSources
---@return sluice.repl.Completions
function complete.at(before, env)
  local command = before:match "^%s*(:%a*)$"
  if command then return { prefix = command, list = sorted_prefixed(env.commands or {}, command), close = " " } end
  local tokens = lex.tokens(before)
  local last = tokens[#tokens]
  if last and last.open then
    if last.kind ~= "string" then return { prefix = "", list = {}, close = "" } end
    local prefix, list = in_string(tokens, env)
    local one = #list == 1 and list[1]:sub(-1) ~= "/"
    return { prefix = prefix, list = list, close = one and last.open == "string" and last.text:sub(1, 1) or "" }
  end
  local at = #tokens
  local prefix = ""
  if last and last.last == #before and (last.kind == "name" or last.kind == "keyword") then
    prefix = last.text
    at = at - 1
  end
  local separator = tokens[at]
  if separator and separator.kind == "op" and (separator.text == "." or separator.text == ":")
    and (prefix ~= "" or separator.last == #before) then
    local value = base_value(tokens, at - 1, env.globals)
    local list = value ~= nil and fields_of(value, prefix, separator.text == ":") or {}
    return { prefix = prefix, list = list, close = "" }
  end
  if prefix == "" then return { prefix = "", list = {}, close = "" } end
  local list = fields_of(env.globals, prefix, false)
  local seen = {}
  for word in pairs(lex.KEYWORDS) do matches(list, seen, word, prefix) end
  table.sort(list)
  return { prefix = prefix, list = list, close = "" }
end

--- What all the candidates begin with.
---@param list string[]
---@return string
function complete.common(list)
  local common = list[1] or ""
  for i = 2, #list do
    local n = 0
    while n < #common and common:byte(n + 1) == list[i]:byte(n + 1) do n = n + 1 end
    common = common:sub(1, n)
  end
  while #common > 0 and not utf8.len(common) do common = common:sub(1, -2) end
  return common
end

--- Names in columns, down then across.
---@param list string[]
---@param width integer
---@param max? integer rows, default all
---@return string text with a newline at the end of each row
function complete.columns(list, width, max)
  local term = require "sluice.term"
  local widest = 1
  for _, name in ipairs(list) do widest = math.max(widest, term.width(name)) end
  local across = math.max(1, (width + 1) // (widest + 2))
  local rows = math.ceil(#list / across)
  local lines = {}
  for row = 1, math.min(rows, max or rows) do
    local cells = {}
    for column = 0, across - 1 do
      local name = list[column * rows + row]
      if name then cells[#cells + 1] = name .. (" "):rep(widest + 2 - term.width(name)) end
    end
    lines[row] = (table.concat(cells):gsub(" +$", ""))
  end
  if max and rows > max then lines[#lines + 1] = ("… %d names in all"):format(#list) end
  return table.concat(lines, "\n") .. "\n"
end

return complete
