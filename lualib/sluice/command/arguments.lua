--- Command lines against a table of options: the words in, the values out.
-- Owns: the description language below and the words of the messages. Pure.
-- Never: prints, exits, nor knows what an option is for.
--
-- One table per command drives parsing, --help, the man page and completion. Its entries:
--
--   { "--timeout", "-t", arg = "S", type = "seconds", above = 0, help = "…" }
--
--   [1], [2]…  the names; the first long one names the value: "--log-level" -> opts.log_level
--   arg        the name of the value in help texts; required unless the type is "flag"
--   type       "flag"      no value; true when given
--              "string"    --name VALUE or --name=VALUE
--              "integer"   the same, a whole number
--              "seconds"   the same, a number of seconds, fractions allowed
--              "number"    the same, a number from 0 on, fractions allowed
--              "optional"  --name alone (true) or --name=VALUE (a string)
--   default    the value when the option is not given
--   min, max   inclusive bounds of a number        above   exclusive lower bound
--   enum       the strings allowed
--   check      a function of the text that is false when it is not what is `expected`, a phrase
--   empty      true: a string may be ""
--   repeated   true: may be given again; the value is a list
--   tests      true: only of use to tests; listed last in help texts
--   help       one sentence or two

local arguments = {}

---@class sluice.OptionArgument
---@field [integer] string the names
---@field arg? string
---@field type "flag"|"string"|"integer"|"seconds"|"number"|"optional"
---@field default? any
---@field min? number
---@field max? number
---@field above? number
---@field enum? string[]
---@field check? fun(text: string): any
---@field expected? string
---@field empty? boolean
---@field repeated? boolean
---@field tests? boolean
---@field help string

--- What every command understands.
arguments.common = {
  { "--help", "-h", type = "flag", help = "show this help" },
  { "--version", type = "flag", help = "show the version" },
}

--- The key of an option's value: "--log-level" -> "log_level".
---@param entry sluice.OptionArgument
---@return string
function arguments.key(entry)
  for _, name in ipairs(entry) do
    if name:sub(1, 2) == "--" then return (name:sub(3):gsub("-", "_")) end
  end
  return (entry[1]:gsub("^-+", ""))
end

local function each(entries, visit)
  for _, entry in ipairs(entries) do visit(entry) end
  for _, entry in ipairs(arguments.common) do visit(entry) end
end

local function index(entries)
  local by_name = {}
  each(entries, function(entry)
    for _, name in ipairs(entry) do by_name[name] = entry end
  end)
  return by_name
end

local function unknown(entries, name)
  local names = {}
  each(entries, function(entry)
    for _, known in ipairs(entry) do
      if known:sub(1, 2) == "--" then names[#names + 1] = known:sub(3) end
    end
  end)
  local bare = name:match "^%-+([^=]*)"
  local near = require "sluice.nearest"(bare, names)
  if near == bare then return ("unknown option '%s' (did you mean '--%s', with two dashes?)"):format(name, near) end
  return ("unknown option '%s'%s"):format(name, near and (" (did you mean '--%s'?)"):format(near) or "")
end

-- Values ------------------------------------------------------------------------------------------

local NOUNS = { integer = "a whole number", seconds = "a number of seconds", number = "a number", string = "a value",
  optional = "a value" }

local function number_text(v) return ("%.14g"):format(v) end

local function expectation(entry)
  if entry.expected then
    return entry.expected
  elseif entry.enum then
    return "one of " .. table.concat(entry.enum, ", ")
  elseif entry.min and entry.max then
    return ("%s from %s to %s"):format(NOUNS[entry.type], number_text(entry.min), number_text(entry.max))
  elseif entry.min then
    return ("%s, at least %s"):format(NOUNS[entry.type], number_text(entry.min))
  elseif entry.above then
    return ("%s above %s"):format(NOUNS[entry.type], number_text(entry.above))
  end
  return NOUNS[entry.type]
end

-- Decimal only: tonumber alone would take "0x10", "1e999" and blanks.
local function to_number(type, text)
  if type == "integer" then return text:find "^[+-]?%d+$" and math.tointeger(tonumber(text)) end
  local plain = text:find "^%d+%.?%d*$" or text:find "^%.%d+$"
  local value = plain and tonumber(text) + 0.0
  return value and value < math.huge and value or nil
end

local function in_list(list, value)
  for _, v in ipairs(list) do
    if v == value then return true end
  end
  return false
end

local function fits(entry, value)
  return not (entry.min and value < entry.min or entry.max and value > entry.max
    or entry.above and value <= entry.above)
end

-- The value, or nil and what is wrong with it.
local function convert(entry, name, text)
  local value = text
  if entry.type == "integer" or entry.type == "seconds" or entry.type == "number" then
    value = to_number(entry.type, text)
    if value and not fits(entry, value) then value = nil end
  elseif entry.enum then
    if not in_list(entry.enum, text) then value = nil end
  elseif text == "" and not entry.empty or entry.check and not entry.check(text) then
    value = nil
  end
  if value ~= nil then return value end
  local near = entry.enum and require "sluice.nearest"(text, entry.enum)
  local shown = text:gsub("//[^/@]*@", "//"):sub(1, 60) -- an address may hold a password
  return nil, ("%s takes %s, got '%s'%s"):format(name, expectation(entry), shown,
    near and (" (did you mean '%s'?)"):format(near) or "")
end

-- Parsing -----------------------------------------------------------------------------------------

local function store(opts, entry, value)
  local key = arguments.key(entry)
  if not entry.repeated then
    opts[key] = value
  else
    opts[key] = opts[key] or {}
    table.insert(opts[key], value)
  end
end

-- `--name`, `--name=value`, `--name value`. Returns how many words it took, or nil and the fault.
local function parse_long(entries, by_name, opts, words, i)
  local name, text = words[i]:match "^(%-%-[^=]+)=(.*)$"
  name = name or words[i]
  local entry = by_name[name]
  if not entry then return nil, unknown(entries, name) end
  if entry.type == "flag" then
    if text then return nil, ("%s takes no value"):format(name) end
    store(opts, entry, true)
    return 1
  elseif entry.type == "optional" and not text then
    store(opts, entry, true)
    return 1
  end
  local taken = text and 1 or 2
  text = text or words[i + 1]
  if not text then return nil, ("%s needs a value: %s %s"):format(name, name, entry.arg) end
  local value, fault = convert(entry, name, text)
  if fault then return nil, fault end
  store(opts, entry, value)
  return taken
end

-- `-q`, `-qv`, `-e CODE`, `-eCODE`.
local function parse_short(entries, by_name, opts, words, i)
  local word = words[i]
  -- "-timeout 5" would be read as -t with the value "imeout".
  if by_name["-" .. word:match "^[^=]*"] then return nil, unknown(entries, word:match "^[^=]*") end
  for at = 2, #word do
    local name = "-" .. word:sub(at, at)
    local entry = by_name[name]
    if not entry then
      return nil, unknown(entries, (at == 2 and #word > 2) and word or name)
    elseif entry.type == "flag" or entry.type == "optional" then
      store(opts, entry, true)
    else
      local text, taken = word:sub(at + 1), 1
      if text == "" then text, taken = words[i + 1], 2 end
      if not text then return nil, ("%s needs a value: %s %s"):format(name, name, entry.arg) end
      local value, fault = convert(entry, name, text)
      if fault then return nil, fault end
      store(opts, entry, value)
      return taken
    end
  end
  return 1
end

--- Parses `words`. Options come before, between and after the other words; with `first_word_ends`
--- the first word that is no option ends them, and all that follows is passed on untouched (so that
--- a script's own options stay its own). "--" ends options and is dropped; "-" is a word.
---@param entries sluice.OptionArgument[]
---@param words string[]
---@param first_word_ends? boolean default false
---@return table? opts by key, or nil when a word is wrong
---@return string[]|string rest the other words; or the sentence that says what is wrong
---@return integer? first the position of the first of the other words, when `first_word_ends`
function arguments.parse(entries, words, first_word_ends)
  local by_name = index(entries)
  local opts, rest = {}, {}
  local i, n, options_end = 1, #words, false
  while i <= n do
    local word = words[i]
    local taken, fault = 1, nil
    if options_end or word == "-" or word:sub(1, 1) ~= "-" then
      if first_word_ends then return opts, table.move(words, i, n, 1, rest), i end
      rest[#rest + 1] = word
    elseif word == "--" then
      options_end = true
    elseif word:sub(1, 2) == "--" then
      taken, fault = parse_long(entries, by_name, opts, words, i)
    else
      taken, fault = parse_short(entries, by_name, opts, words, i)
    end
    if fault then return nil, fault end
    i = i + taken
  end
  return opts, rest, first_word_ends and n + 1 or nil
end

--- Puts the defaults in the places left open. Apart from parse, so that a caller can tell an option
--- that was given from one that was not.
---@param entries sluice.OptionArgument[]
---@param opts table
---@return table opts
function arguments.fill(entries, opts)
  each(entries, function(entry)
    local key = arguments.key(entry)
    if opts[key] == nil then opts[key] = entry.default end
  end)
  return opts
end

return arguments
