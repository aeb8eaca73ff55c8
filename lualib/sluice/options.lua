--- Option tables: one description drives checking, defaults and, elsewhere, help texts.
-- Owns: the description language below, the words of the messages, and whose line is blamed.
-- Never: prints the value of a string option (it may be a credential), nor keeps what it checked.
--
-- A description ("spec") is a table of entries by option name:
--
--   local SPEC = options.spec {
--     model   = { type = "string", required = true },
--     timeout = { type = { "number", "table" }, fields = { connect = { type = "seconds", default = 3 } } },
--     mode    = { type = "string", enum = { "basic", "post" } },
--   }
--
--   type      one of the names in TYPES, or a list of them; nothing means anything
--   required  true: may not be absent             default   a scalar, for options.fill
--   min, max  inclusive bounds of a number        above     exclusive lower bound
--   enum      the strings (or numbers) allowed    nonempty  true: not "" and not {}
--   fields    a nested spec, used for tables      items     one entry for every element of a list
--   values    one entry for every value of a table with free names
--   check     function(value) -> true, or false/nil + what was expected
--   expected  words that replace the generated ones      doc   one line for help texts
--
-- Only the fields that are present cost anything when checking.

local nearest = require "sluice.nearest"

local ENTRY_KEYS = {
  type = true, required = true, default = true, min = true, max = true, above = true, enum = true,
  nonempty = true, fields = true, items = true, values = true, check = true, expected = true, doc = true,
}
local LIST_MAX = 14 -- known names listed when none is near

local function finite(v)
  return v == v and v ~= math.huge and v ~= -math.huge
end

local function is_list(v)
  if type(v) ~= "table" then return false end
  local n = #v
  local count = 0
  for _ in pairs(v) do count = count + 1 end
  return n == count
end

local function callable(v)
  if type(v) == "function" then return true end
  local mt = getmetatable(v)
  return type(mt) == "table" and mt.__call ~= nil
end

--- name -> { test, words }
local TYPES = {
  any = { function(v) return v ~= nil end, "a value" },
  boolean = { function(v) return type(v) == "boolean" end, "true or false" },
  string = { function(v) return type(v) == "string" end, "a string" },
  number = { function(v) return type(v) == "number" and finite(v) end, "a number" },
  seconds = { function(v) return type(v) == "number" and finite(v) and v >= 0 end, "a number of seconds" },
  integer = { function(v) return type(v) == "number" and math.tointeger(v) ~= nil end, "an integer" },
  table = { function(v) return type(v) == "table" end, "a table" },
  list = { is_list, "a list" },
  ["function"] = { function(v) return type(v) == "function" end, "a function" },
  callable = { callable, "a function" },
  userdata = { function(v) return type(v) == "userdata" end, "a userdata" },
  ["false"] = { function(v) return v == false end, "false" },
}

local options = {}

-- Whose line is it ------------------------------------------------------------------------------

local this = debug and debug.getinfo and debug.getinfo(1, "S").source or ""
local library = this:match("^(.*[/\\])options%.lua$") or this -- "@sluice/" when embedded

--- Raises `message` as an ordinary Lua error that carries the position of the innermost caller
--- outside this library: the line a person can mend, however deep the check was.
---@param message string
function options.raise(message)
  local level = 2
  while this ~= "" do
    local info = debug.getinfo(level, "Sl")
    if not info then break end
    if info.currentline > 0 and info.source:sub(1, #library) ~= library then
      local file = info.source:match "^@(.*)$" or info.short_src -- whole: short_src cuts long paths
      error(("%s:%d: %s"):format(file, info.currentline, message), 0)
    end
    level = level + 1
  end
  error(message, 0)
end

--- Calls `f(...)`; what it says is wrong with its arguments is raised as `where: message`, as options.raise
--- does. For functions in C: called from here they name no line, which would be one of this library.
---@param where string
---@param f function
---@return any
function options.blame(where, f, ...)
  local ok, value = pcall(f, ...)
  if ok then return value end
  if type(value) ~= "string" or value == "not enough memory" then error(value, 0) end
  options.raise(where .. ": " .. value)
end

--- "; did you mean 'timeout'?", or the known names when they are few, or nothing.
---@param name any
---@param known table  a list of names, or a table by name
---@return string
function options.suggest(name, known)
  local near = nearest(name, known)
  if near then return (" (did you mean '%s'?)"):format(near) end
  local names = {}
  if type(known[1]) == "string" then
    for i, v in ipairs(known) do names[i] = tostring(v) end
  else
    for key in pairs(known) do names[#names + 1] = tostring(key) end
    table.sort(names)
  end
  if #names == 0 or #names > LIST_MAX then return "" end
  return (" (known: %s)"):format(table.concat(names, ", "))
end

-- Words -----------------------------------------------------------------------------------------

local function number_text(v)
  return math.type(v) == "integer" and ("%d"):format(v) or ("%.14g"):format(v)
end

--- What a person gave, in words that cannot hold a secret.
local function got(v)
  local t = type(v)
  if t == "number" then return number_text(v) end
  if t == "boolean" then return tostring(v) end
  if t == "nil" then return "nothing" end
  if v == "" then return "an empty string" end
  if t == "table" and next(v) == nil then return "an empty table" end
  return "a " .. t
end
options.got = got

local function quoted(list)
  local words = {}
  for i, v in ipairs(list) do words[i] = type(v) == "string" and ("'%s'"):format(v) or tostring(v) end
  if #words == 1 then return words[1] end
  return table.concat(words, ", ", 1, #words - 1) .. " or " .. words[#words]
end

local function expectation(entry)
  if entry.expected then return entry.expected end
  if entry.enum then return quoted(entry.enum) end
  local types = type(entry.type) == "table" and entry.type or { entry.type }
  local words = {}
  for i, name in ipairs(types) do words[i] = TYPES[name][2] end
  local text = table.concat(words, " or ")
  if entry.nonempty then text = text .. " that is not empty" end
  if entry.min and entry.max then
    text = ("%s from %s to %s"):format(text, number_text(entry.min), number_text(entry.max))
  elseif entry.min then
    text = ("%s, at least %s"):format(text, number_text(entry.min))
  elseif entry.above then
    text = ("%s above %s"):format(text, number_text(entry.above))
    if entry.max then text = ("%s and at most %s"):format(text, number_text(entry.max)) end
  elseif entry.max then
    text = ("%s, at most %s"):format(text, number_text(entry.max))
  end
  return text
end

-- Checking --------------------------------------------------------------------------------------

local check_fields

local function join(path, key)
  if math.type(key) == "integer" then return ("%s[%d]"):format(path, key) end
  if path == "" then return tostring(key) end
  return path .. "." .. tostring(key)
end

local function type_fits(entry, value)
  local wanted = entry.type
  if wanted == nil then return true end
  if type(wanted) == "string" then return TYPES[wanted][1](value) end
  for _, name in ipairs(wanted) do
    if TYPES[name][1](value) then return true end
  end
  return false
end

local function in_enum(list, value)
  for _, v in ipairs(list) do
    if v == value then return true end
  end
  return false
end

local function wrong(entry, value, path, key, noun, expected)
  return ("%s '%s' must be %s, got %s"):format(noun, join(path, key), expected or expectation(entry), got(value))
end

local function not_in_enum(entry, value, path, key, noun)
  local shown = type(value) == "string" and #value <= 40 and ("'%s'"):format(value) or got(value)
  local near = nearest(value, entry.enum)
  return ("%s '%s' must be %s, got %s%s"):format(noun, join(path, key), expectation(entry), shown,
    near and (" (did you mean '%s'?)"):format(near) or "")
end

local check_value

--- What is inside a table: named fields, the items of a list, or values under free names.
local function check_inside(entry, value, path, noun)
  if entry.fields then
    local bad = check_fields(entry.fields, value, path, noun)
    if bad then return bad end
  end
  if entry.items then
    for i, item in ipairs(value) do
      local bad = check_value(entry.items, item, path, i, noun)
      if bad then return bad end
    end
  end
  if entry.values then
    for key, item in pairs(value) do
      local bad = check_value(entry.values, item, path, key, noun)
      if bad then return bad end
    end
  end
  return nil
end

--- nil when `value` fits, else the whole sentence (without the function's name). The path is put
--- together only for that sentence: this runs for every request.
function check_value(entry, value, path, key, noun)
  if not type_fits(entry, value) then return wrong(entry, value, path, key, noun) end
  local kind = type(value)
  if entry.enum and kind ~= "table" and not in_enum(entry.enum, value) then
    return not_in_enum(entry, value, path, key, noun)
  end
  if kind == "number" then
    if entry.min and value < entry.min or entry.max and value > entry.max
      or entry.above and value <= entry.above then
      return wrong(entry, value, path, key, noun)
    end
  elseif entry.nonempty and (value == "" or kind == "table" and next(value) == nil) then
    return wrong(entry, value, path, key, noun)
  end
  if entry.check then
    local ok, expected = entry.check(value)
    if not ok then return wrong(entry, value, path, key, noun, expected) end
  end
  if kind == "table" and (entry.fields or entry.items or entry.values) then
    return check_inside(entry, value, join(path, key), noun)
  end
  return nil
end

function check_fields(spec, opts, path, noun)
  local entries = spec.entries
  for key, value in pairs(opts) do
    local entry = entries[key]
    if entry == nil then
      return ("unknown %s '%s'%s"):format(noun, join(path, key), options.suggest(key, entries))
    end
    local bad = check_value(entry, value, path, key, noun)
    if bad then return bad end
  end
  for _, name in ipairs(spec.required) do
    if opts[name] == nil then
      return ("%s '%s' is missing, expected %s"):format(noun, join(path, name), expectation(entries[name]))
    end
  end
  return nil
end

--- The sentence that says what is wrong with `opts`, or nil: for callers with a report of their own.
---@param opts any
---@param spec sluice.OptionSpec
---@return string?
function options.problem(opts, spec)
  if type(opts) ~= "table" then
    return ("expected a table of %ss, got %s"):format(spec.noun, got(opts))
  end
  return check_fields(spec, opts, "", spec.noun)
end

--- Checks `opts` and raises on the first fault, naming the function, the option, what was expected
--- and, for an unknown name, the nearest known one.
---@generic T
---@param where string  the public function's name, e.g. "sluice.model"
---@param opts T
---@param spec sluice.OptionSpec  from options.spec
---@return T opts  the same table, untouched
function options.check(where, opts, spec)
  local problem = options.problem(opts, spec)
  if problem then options.raise(("%s: %s"):format(where, problem)) end
  return opts
end

--- A copy of checked `opts` with the spec's defaults in the places left open; nested tables that
--- have fields of their own are copied too, everything else is shared.
---@param opts table
---@param spec sluice.OptionSpec
---@return table
function options.fill(opts, spec)
  local filled = {}
  for key, value in pairs(opts) do
    local entry = spec.entries[key]
    if entry and entry.fields and type(value) == "table" then value = options.fill(value, entry.fields) end
    filled[key] = value
  end
  for _, name in ipairs(spec.defaulted) do
    if filled[name] == nil then
      local entry = spec.entries[name]
      if entry.default ~= nil then filled[name] = entry.default
      else filled[name] = options.fill({}, entry.fields) end
    end
  end
  return filled
end

--- Compiles a description; a fault in the description itself raises at once, where it is written.
---@param entries table<string|integer, sluice.OptionEntry>
---@param noun? string  what the things are called in messages, default "option"
---@return sluice.OptionSpec
function options.spec(entries, noun)
  noun = noun or "option"
  local required, defaulted = {}, {}
  local function compile(name, entry)
    for key in pairs(entry) do
      if not ENTRY_KEYS[key] then
        error(("options.spec: entry '%s' has an unknown key '%s'%s"):format(name, tostring(key),
          options.suggest(key, ENTRY_KEYS)), 3)
      end
    end
    local types = type(entry.type) == "table" and entry.type or { entry.type }
    for _, t in ipairs(types) do
      if not TYPES[t] then
        error(("options.spec: entry '%s' has an unknown type '%s'%s"):format(name, tostring(t),
          options.suggest(t, TYPES)), 3)
      end
    end
    if #types == 0 and not (entry.enum or entry.expected) then entry.expected = "a value" end
    if entry.fields and not entry.fields.entries then entry.fields = options.spec(entry.fields, noun) end
    if entry.items then compile(name .. "[]", entry.items) end
    if entry.values then compile(name .. "{}", entry.values) end
  end
  for name, entry in pairs(entries) do
    compile(tostring(name), entry)
    if entry.required then required[#required + 1] = name end
    local nested = entry.fields and #entry.fields.defaulted > 0 and not entry.required
    if entry.default ~= nil or nested then defaulted[#defaulted + 1] = name end
  end
  local function by_name(a, b) return tostring(a) < tostring(b) end
  table.sort(required, by_name)
  table.sort(defaulted, by_name)
  return { entries = entries, required = required, defaulted = defaulted, noun = noun }
end

return options
