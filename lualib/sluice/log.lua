--- Log lines on stderr or in a file, for scripts (sluice.log) and for the library.
-- Owns: the level, the form of a line, what is left out of it, lines that come again and again. Never: raises
-- over a value it cannot show, waits for whoever reads (log/sink.lua), nor prints a credential: the value of a
-- field that is named as one, what looks like one (sluice.core.secret's redact), any secret there is.
--
--   log.info("answered", { model = "big", elapsed = 1.2 })
--   text: 2026-01-02T03:04:05.678Z info  answered  elapsed=1.2 model=big     (on a terminal: the time alone)
--   json: {"time":"2026-01-02T03:04:05.678Z","level":"info","msg":"answered","elapsed":1.2,"model":"big"}
--
-- The same line, its time aside, is written ten times within five seconds; more of it are counted, and the next
-- one that is written, at the latest at the end of the run, says how many: "(repeated 41 times)", in JSON
-- "repeated":41. For the library's own lines that is whatever call they speak of: an outage makes the same one
-- for each of them. A script's own lines may be records, and only those alike in every field are held back.

local secrets = require "sluice.core.secret"
local sys = require "sluice.core.sys"
local sink = require "sluice.log.sink"

local LEVELS = { debug = 1, info = 2, warn = 3, error = 4 }
local VALUE_MAX = 1000 -- bytes of one value in a text line
local DEPTH_MAX = 6    -- levels of tables that are shown
local HIDDEN = "<hidden>"
local REPEAT_S = 5      -- seconds …
local REPEATS = 10      -- … in which a line is written so often
local KNOWN_MAX = 64    -- lines that are remembered for that

---@class sluice.log
local log = {}

local state = { level = LEVELS.info, format = "text", write = nil, paint = nil, terminal = false }

-- Names of fields whose values are credentials, without case, "-" and "_".
local SECRET = {}
for name in ([[authorization proxyauthorization cookie setcookie apikey xapikey secret clientsecret
  password passwd token accesstoken refreshtoken idtoken privatekey credential credentials]]):gmatch "%S+" do
  SECRET[name] = true
end

--- Is this the name of a field that holds a credential?
--- For sluice's own modules.
---@param name any
---@return boolean
function log.is_secret(name)
  return type(name) == "string" and SECRET[name:lower():gsub("[%-_]", "")] == true
end

-- Values ------------------------------------------------------------------------------------------

--- Text as it may stand in a line. Secrets go first, and what looks like one: escaped, cut or repaired they
--- would not be known again.
local function valid_utf8(s)
  s = secrets.redact(s)
  if utf8.len(s) then return s end
  return (s:gsub("[\x80-\xFF]", "?"))
end

local function to_text(value)
  local ok, text = pcall(tostring, value)
  return ok and text or ("<%s>"):format(type(value))
end

-- A copy that JSON can hold.
local function plain(value, depth, seen)
  local kind = type(value)
  if kind == "string" then return valid_utf8(value) end
  if kind == "number" then
    if value ~= value or value == math.huge or value == -math.huge then return to_text(value) end
    return value
  end
  if kind == "boolean" or value == require "sluice.json".null then return value end
  if kind ~= "table" then return valid_utf8(to_text(value)) end
  local mt = getmetatable(value)
  if type(mt) == "table" and mt.__tostring then return valid_utf8(to_text(value)) end -- error tables
  if seen[value] then return "<cycle>" end
  if depth == DEPTH_MAX then return "<table>" end
  seen[value] = true
  local copy = {}
  local json = require "sluice.json"
  if json.is_array(value) then
    json.array(copy)
    for i = 1, #value do copy[i] = plain(value[i], depth + 1, seen) end
  else
    for key, item in next, value do
      copy[valid_utf8(to_text(key))] = log.is_secret(key) and HIDDEN or plain(item, depth + 1, seen)
    end
  end
  seen[value] = nil
  return copy
end

local function as_json(value)
  return require "sluice.json".encode(plain(value, 0, {}))
end

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

-- One word, in quotes when it would not be read as one.
local function as_word(value)
  local text
  if type(value) == "table" and not (getmetatable(value) or {}).__tostring then
    text = as_json(value)
  elseif math.type(value) == "float" then
    text = ("%.6g"):format(value)
  else
    text = valid_utf8(to_text(value))
  end
  if #text > VALUE_MAX then
    local last = VALUE_MAX
    while last > 0 and (text:byte(last + 1) or 0) & 0xC0 == 0x80 do last = last - 1 end
    text = text:sub(1, last) .. "…"
  end
  if text ~= "" and not text:find '[%s%c"=]' then return text end
  text = text:gsub('["\\\n\r\t]', ESCAPES):gsub("%c", function(c) return ("\\x%02x"):format(c:byte()) end)
  return '"' .. text .. '"'
end

-- Lines -------------------------------------------------------------------------------------------

local function sorted_keys(fields)
  local keys = {}
  for key in next, fields do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

local function timestamp(short)
  local now = sys.wall()
  local whole = math.floor(now)
  local millis = math.floor((now - whole) * 1000)
  if short then return os.date("%H:%M:%S", whole) .. (".%03d"):format(millis) end
  return os.date("!%Y-%m-%dT%H:%M:%S", whole) .. (".%03dZ"):format(millis)
end

local COLOURS = { debug = "dim", info = "blue", warn = "yellow", error = "red" }

local function text_line(level, message, fields)
  local paint = state.paint
  local parts = { paint(COLOURS[level], ("%-5s"):format(level)) }
  parts[2] = valid_utf8(message):gsub("[%c\127]", " ")
  local words = {}
  for _, key in ipairs(sorted_keys(fields)) do
    local value = log.is_secret(key) and HIDDEN or as_word(fields[key])
    words[#words + 1] = paint("dim", to_text(key):gsub("[%s%c=]", "_") .. "=") .. value
  end
  local line = table.concat(parts, " ")
  if #words > 0 then line = line .. "  " .. table.concat(words, " ") end
  return line
end

local RESERVED = { time = true, level = true, msg = true, repeated = true }

local function json_line(level, message, fields)
  local json = require "sluice.json"
  local parts = { ('"level":"%s","msg":%s'):format(level, json.encode(valid_utf8(message))) }
  for _, key in ipairs(sorted_keys(fields)) do
    local name = valid_utf8(to_text(key))
    if RESERVED[name] then name = name .. "_" end
    local value = log.is_secret(key) and ('"%s"'):format(HIDDEN) or as_json(fields[key])
    parts[#parts + 1] = ("%s:%s"):format(json.encode(name), value)
  end
  return table.concat(parts, ",")
end

--- Hands a line on, with its time. A `write` of the script's that fails does no harm.
local function hand_on(body, repeated)
  local line
  if state.format == "json" then
    line = ('{"time":"%s",%s%s}'):format(timestamp(false), body,
      repeated > 0 and (',"repeated":%d'):format(repeated) or "")
  else
    line = ("%s %s%s"):format(timestamp(state.terminal), body,
      repeated > 0 and (" (repeated %d times)"):format(repeated) or "")
  end
  if not state.write then return sink.write(line) end
  local ok, why = pcall(state.write, line)
  if ok then return end
  state.write = nil
  sink.write(line)
  sink.write("sluice: log.configure's write failed, and is not called again: " .. valid_utf8(to_text(why)))
end

-- Lines that come again -----------------------------------------------------------------------------

local known, known_count = {}, 0 -- line, or what is alike in it -> { since =, written =, held =, last = a held line }
local now                        -- a clock: sluice.core.task's, once something is logged

--- Says how often the lines whose time is over were held back.
local function tell_repeats(at)
  for key, entry in pairs(known) do
    if at - entry.since >= REPEAT_S then
      known[key], known_count = nil, known_count - 1
      if entry.held > 0 then hand_on(entry.last, entry.held) end
    end
  end
end

--- May it be written now? `key` is what makes it the same as another.
local function admit(key, body)
  now = now or require "sluice.core.task".now
  local at = now()
  local entry = known[key]
  if entry and at - entry.since < REPEAT_S then
    entry.written = entry.written + 1
    if entry.written <= REPEATS then return true end
    entry.held, entry.last = entry.held + 1, body
    return false
  end
  tell_repeats(at)
  if known_count >= KNOWN_MAX then tell_repeats(math.huge) end
  known[key], known_count = { since = at, written = 1, held = 0 }, known_count + 1
  return true
end

--- The run is over: tells what was held back, and gives a slow reader a last moment.
--- For sluice's own modules.
function log.finish()
  tell_repeats(math.huge)
  sink.finish()
end

local function prepare()
  local term = require "sluice.term"
  local plain_text = sink.is_file()
  state.paint = plain_text and function(_, text) return text end or term.painter(2)
  state.terminal = not plain_text and sys.isatty(2)
end

-- Level 3 is the line that called log.info: the public functions must not call this in tail position.
local function write(level, message, fields, alike)
  if type(message) ~= "string" then
    error(("log.%s: the message must be a string, got %s"):format(level, type(message)), 3)
  end
  if fields ~= nil and type(fields) ~= "table" then
    error(("log.%s: the fields must be a table, got %s"):format(level, type(fields)), 3)
  end
  if not state.paint then prepare() end
  local body = (state.format == "json" and json_line or text_line)(level, message, fields or {})
  body = secrets.scrub(body)
  if admit(alike or body, body) then hand_on(body, 0) end
end

--- For looking into what happened: shown with --log-level debug or -v.
---@param message string
---@param fields? table<string, any>
function log.debug(message, fields)
  if state.level <= LEVELS.debug then write("debug", message, fields) end
end

--- Something happened as it should.
---@param message string
---@param fields? table<string, any>
function log.info(message, fields)
  if state.level <= LEVELS.info then write("info", message, fields) end
end

--- Something went wrong and was dealt with.
---@param message string
---@param fields? table<string, any>
function log.warn(message, fields)
  if state.level <= LEVELS.warn then write("warn", message, fields) end
end

--- Something went wrong and a person should look.
---@param message string
---@param fields? table<string, any>
function log.error(message, fields)
  write("error", message, fields)
end

--- Would a line of this level be written? For fields that are dear to make.
---@param level "debug"|"info"|"warn"|"error"
---@return boolean
function log.enabled(level)
  return (LEVELS[level] or 0) >= state.level
end

-- Fields of the library's lines that tell one call from another.
local ONE_CALL = { call = true, request_id = true, seconds = true }

--- What happens to a call, from the library: not while a timeline is kept, which tells it all.
--- For sluice's own modules.
---@param level "debug"|"info"|"warn"
---@param message string
---@param fields table<string, any>
function log.call(level, message, fields)
  if state.level > LEVELS[level] then return end
  local timeline = package.loaded["sluice.timeline"]
  if timeline and timeline.recording() then return end
  local parts = { level, message }
  for _, key in ipairs(sorted_keys(fields)) do
    if not ONE_CALL[key] then parts[#parts + 1] = ("%s=%s"):format(key, fields[key]) end
  end
  write(level, message, fields, table.concat(parts, "\0"))
end

-- At level debug every attempt is logged.
local following = false
local function follow_calls()
  local wanted = state.level <= LEVELS.debug
  if wanted == following then return end
  following = wanted
  local observe, calls = require "sluice.observe", require "sluice.log.calls"
  if wanted then observe.subscribe(calls) else observe.unsubscribe(calls) end
end

local CONFIGURE = { level = true, format = true, write = true, file = true }

---@class sluice.LogOptions
---@field level? "debug"|"info"|"warn"|"error"
---@field format? "text"|"json"
---@field write? fun(line: string)|false  gets whole lines without a newline, in place of stderr
---@field file? string|false              a path that they are appended to; false gives stderr back

--- Sets how lines are written; what is absent stays. The command line does so for --log-level, --log-format
--- and --log-file. Raises when the file cannot be opened.
---@param o sluice.LogOptions
function log.configure(o)
  for key in pairs(o) do
    if not CONFIGURE[key] then error(("log.configure: unknown option '%s'"):format(tostring(key)), 2) end
  end
  if o.level ~= nil and not LEVELS[o.level] then
    error("log.configure: 'level' must be debug, info, warn or error", 2)
  end
  if o.format ~= nil and o.format ~= "text" and o.format ~= "json" then
    error("log.configure: 'format' must be text or json", 2)
  end
  state.level = o.level and LEVELS[o.level] or state.level
  state.format = o.format or state.format
  follow_calls()
  if o.file ~= nil then
    local ok, why = sink.open(o.file or nil)
    if not ok then error(("log.configure: cannot write %s: %s"):format(tostring(o.file), why), 2) end
    state.paint = nil -- whether to colour is decided anew
  end
  if o.write ~= nil then state.write = o.write or nil end
end

return log
