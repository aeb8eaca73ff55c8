--- What a person reads when something ended badly: errors nobody caught, tasks that hang.
-- Owns: the words and the form on stderr. Never: raises, nor decides an exit code.
--
--   sluice: rate_limited: 429 Too Many Requests (openai/gpt-x, attempt 3, 4.1 s)
--     at x.lua:12 in function 'summarise'
--     at x.lua:30 in main chunk

local task = require "sluice.core.task"
local term = require "sluice.term"

local FRAMES_MAX = 20 -- frames shown of one traceback
local ALSO_MAX = 8    -- errors listed beside the first
local CAUSES_MAX = 8  -- links of a chain of causes
local SHOWN_MAX = 300 -- bytes of an error that is a plain table

local report = {}

local paint

-- The last look for secrets: what a script raises may quote a reply that quotes a key.
local function put(text)
  local secrets = package.loaded["sluice.core.secret"]
  io.stderr:write(secrets and secrets.scrub(text) or text, "\n")
end

--- Writes "sluice: text" on stderr, after what the script has printed so far.
---@param text string
---@param colour? "red"|"yellow"|"bold" of the program's name; none unless given
function report.say(text, colour)
  paint = paint or term.painter(2)
  io.stdout:flush()
  put((colour and paint(colour, "sluice:") or "sluice:") .. " " .. text)
end

--- Says that a signal ended the script.
function report.signal()
  local scope = task.scope {}
  local _, err = scope:run(task.check) -- raises what every wait would raise now
  scope:finish()
  local terminated = err and tostring(rawget(err, "message")):find("SIGTERM", 1, true)
  report.say(terminated and "terminated" or "interrupted")
end

-- Error values ------------------------------------------------------------------------------------

local function sorted_keys(t)
  local keys = {}
  for key in next, t do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

-- Fields that are reported on lines of their own.
local APART = { also = true, cause = true, traceback = true, spawned_at = true }

local function show_value(value)
  local kind = type(value)
  if kind == "string" then return (("%q"):format(value):gsub("\\\n", "\\n")) end
  if kind == "table" then return next(value) == nil and "{}" or "{…}" end
  if kind == "function" or kind == "thread" then return ("<%s>"):format(kind) end
  return tostring(value)
end

-- A plain table as "{ code = 7, why = "full" }".
local function show_table(err)
  local log = require "sluice.log"
  local parts, used = {}, 0
  for _, key in ipairs(sorted_keys(err)) do
    if not APART[key] then
      local text = log.is_secret(key) and "<hidden>" or show_value(rawget(err, key))
      if math.type(key) ~= "integer" then text = tostring(key) .. " = " .. text end
      used = used + #text
      parts[#parts + 1] = used <= SHOWN_MAX and text or "…"
      if used > SHOWN_MAX then break end
    end
  end
  return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

local function has_text(err)
  local mt = getmetatable(err)
  return type(mt) == "table" and (mt.__tostring ~= nil or mt.__name ~= nil)
end

local function describe(err)
  local kind = type(err)
  if kind == "string" then return err end
  if kind == "nil" then return "an error without a value (nil)" end
  if kind == "number" or kind == "boolean" then return ("an error with the value %s"):format(tostring(err)) end
  if getmetatable(err) == task.error_metatable then
    require "sluice.errors" -- the words of the runtime's own errors
    if rawget(err, "kind") == "deadlock" then return (tostring(err):gsub(" task %d+ waiting on .*$", "")) end
  end
  if has_text(err) then return tostring(err) end
  if kind ~= "table" then return ("an error that is a %s"):format(kind) end
  if type(rawget(err, "message")) == "string" then return err.message end
  return "an error that is a table: " .. show_table(err)
end

--- An error value as text: one line, except for what a script itself wrote in several.
---@param err any
---@return string
function report.text(err)
  local ok, text = pcall(describe, err)
  if text == "" then text = "an error with an empty message" end
  if not ok then
    text = tostring(text):gsub("^sluice/report%.lua:%d+: ", "")
    text = ("an error that is a %s and cannot be shown: %s"):format(type(err), text)
  end
  return (term.safe(text):gsub("%s+$", ""))
end

-- "module 'x' not found:" and a line for each place: one line says what a person needs.
local function missing_module(text, all)
  local head, name = text:match "^(.-module '([^'\n]*)' not found):\n"
  if not head then return text end
  if name:find "^sluice%." or all then return all and text or head .. " inside sluice" end
  local near = require "sluice.nearest"(name, { "sluice", "cjson" })
  if near then return ("%s (did you mean '%s'?)"):format(head, near) end
  local file = name:gsub("%.", "/")
  return ("%s: neither %s.lua nor %s/init.lua is beside the script or in LUA_PATH (-v lists the places)")
    :format(head, file, file)
end

-- Tracebacks --------------------------------------------------------------------------------------

-- The folder of --lib this file was read from; nil when it is the one inside the binary.
local library = debug.getinfo(1, "S").source:match "^@(.*/)sluice/report%.lua$"

-- Is this a chunk of the library, or C?
local function is_internal(place)
  if place:sub(1, 3) == "[C]" or place:sub(1, 7) == "sluice/" then return true end
  if not library then return false end
  local inside = library .. "sluice/"
  if place:sub(1, #inside) == inside then return true end
  -- Lua keeps the last 56 bytes of a long name.
  return place:sub(1, 3) == "..." and place:find("/sluice/", 1, true) ~= nil
    and inside:find(place:match "^%.%.%.(.-/sluice/)", 1, true) ~= nil
end

local KINDS = { ["local"] = true, upvalue = true, field = true, method = true, global = true }

-- "local 'f'", "method 'f'": how it was called is of no interest here.
local function callee(text)
  local kind, name = text:match "^(%a+) '(.*)'$"
  return kind and KINDS[kind] and ("function '%s'"):format(name) or text
end

--- The lines of a traceback, "at x.lua:12 in function 'f'", innermost first.
---@param traceback? string as debug.traceback makes it
---@param all? boolean true: also C functions and the library's own
---@return string[]
function report.frames(traceback, all)
  local frames, known = {}, false
  for line in (traceback or ""):gmatch "[^\n]+" do
    local place, what = line:match "^\t(.-): in (.+)$"
    if place and (all or not is_internal(place)) then
      frames[#frames + 1] = term.safe(("at %s in %s"):format(place, callee(what)))
      known = true
    elseif line:find "^\t%.%.%." then -- Lua leaves the middle of a deep one out
      frames[#frames + 1] = (line:sub(2):gsub("\t", " "))
    elseif all and line:find "^\t" and not place then
      frames[#frames + 1] = line:sub(2)
    end
  end
  return (known or all) and frames or {} -- that something was left out says nothing by itself
end

local function put_frames(traceback, all, indent)
  local frames = report.frames(traceback, all)
  for i, frame in ipairs(frames) do
    if i > FRAMES_MAX and not all then
      put(paint("dim", ("%s… and %d more (-v shows all)"):format(indent, #frames - FRAMES_MAX)))
      return
    end
    put(paint("dim", indent .. frame))
  end
end

-- The tasks of a deadlock, one line each; its first line says what they are.
local function put_waiting(err)
  if type(err) ~= "table" or rawget(err, "kind") ~= "deadlock" then return end
  for line in tostring(rawget(err, "message")):gmatch "\n%s*([^\n]+)" do put("  " .. term.safe(line)) end
end

-- Errors nobody caught ----------------------------------------------------------------------------

local function put_also(list)
  for i, err in ipairs(list) do
    if i > ALSO_MAX then
      put(("  and %d more"):format(#list - ALSO_MAX))
      return
    end
    put("  also: " .. report.text(err):gsub("\n", "\n    "))
  end
end

local function put_causes(err)
  local seen = { [err] = true }
  for _ = 1, CAUSES_MAX do
    err = type(err) == "table" and rawget(err, "cause")
    if not err or seen[err] then return end
    seen[err] = true
    put("  caused by: " .. report.text(err):gsub("\n", "\n    "))
  end
end

---@class sluice.report.About
---@field traceback? string where it was raised
---@field verbose? boolean every frame, every place that was searched
---@field also? any[] errors that came with it
---@field before? string in front of the error's own words, "x.lua: "

--- Prints an error that ended the script: what, where, what else.
---@param err any
---@param about? sluice.report.About
function report.failure(err, about)
  about = about or {}
  local text = missing_module(report.text(err), about.verbose)
  report.say((about.before or "") .. text:gsub("\n", "\n  "), "red")
  put_waiting(err)
  put_frames(about.traceback, about.verbose, "  ")
  if about.also then put_also(about.also) end
  if type(err) ~= "table" then return end
  if type(rawget(err, "spawned_at")) == "string" then
    put(paint("dim", "  in a task spawned at " .. term.safe(err.spawned_at)))
  end
  put_causes(err)
  if type(rawget(err, "also")) == "table" then put_also(err.also) end
end

--- Prints the frames of a traceback below a line that was said, as report.failure does.
---@param about sluice.report.About
function report.where(about)
  paint = paint or term.painter(2)
  put_frames(about.traceback, about.verbose, "  ")
end

-- A line of source, with a caret -------------------------------------------------------------------

local LINE_MAX = 200 -- bytes; a longer one is no help

local function nth_line(source, n)
  local at = 1
  for _ = 2, n do
    local newline = source:find("\n", at, true)
    if not newline then return nil end
    at = newline + 1
  end
  return source:match("^[^\r\n]*", at), at
end

-- Where in the line the parser stood: the first occurrence of its token that, with nothing behind
-- it, gives the same message; or the only one. nil when that is not to be known.
local function column_of(source, line, start, token, message, chunkname)
  local from, found = 1, nil
  while true do
    local first, last = line:find(token, from, true)
    if not first then return found end
    local _, again = load(source:sub(1, start + last - 1), chunkname, "t")
    if again == message then return first end
    found = from == 1 and first or nil
    from = first + 1
  end
end

--- The line a syntax error is in, with a caret below the token, or nil.
---@param source string what was compiled
---@param message string what load said
---@param chunkname string
---@return string?
function report.excerpt(source, message, chunkname)
  local number, words = message:match ":(%d+): (.*)$"
  if not number then return nil end
  local token = words:match "near '(.*)'$"
  -- Without a token (the end of the file) the line that was left open tells more.
  local opened = not token and words:match "at line (%d+)"
  number = math.tointeger(tonumber(opened or number))
  local line, start = nth_line(source, number)
  if not line or #line > LINE_MAX or not line:find "%S" then return nil end
  local label = ("  %d | "):format(number)
  local text = label .. term.safe(line)
  local column = token and column_of(source, line, start, token, message, chunkname)
  if not column then return text end
  local blanks = line:sub(1, column - 1):gsub("[^\t]+", function(s) return (" "):rep(term.width(s)) end)
  return ("%s\n%s| %s^"):format(text, (" "):rep(#label - 2), blanks)
end

-- Tasks -------------------------------------------------------------------------------------------

local function seconds(s)
  return s < 10 and ("%.1f s"):format(s) or ("%.0f s"):format(s)
end

local function describe_task(t)
  local frames = report.frames(t.traceback)
  local at = frames[1] and frames[1]:match "^at (%S+)" or t.at
  local state = t.state
  if t.waiting_on then state = ("waiting on %s for %s"):format(term.safe(t.waiting_on), seconds(t.seconds or 0)) end
  return ("  task %d: %s, at %s, spawned at %s%s"):format(t.id, state, at, t.spawned_at,
    t.service and " (the runtime's own)" or "")
end

--- Every task as text: what it waits on, since when, where.
---@return string
function report.tasks_text()
  local tasks, lines = task.tasks(), {}
  table.sort(tasks, function(a, b) return a.id < b.id end)
  lines[1] = ("%d task%s"):format(#tasks, #tasks == 1 and "" or "s")
  for _, t in ipairs(tasks) do
    lines[#lines + 1] = describe_task(t)
    for _, frame in ipairs(report.frames(t.traceback)) do lines[#lines + 1] = "    " .. term.safe(frame) end
  end
  return table.concat(lines, "\n") .. "\n"
end

--- Prints every task: what it waits on, since when, where. What SIGUSR1 does.
---@param verbose? boolean every frame
function report.dump_tasks(verbose)
  local tasks = task.tasks()
  table.sort(tasks, function(a, b) return a.id < b.id end)
  report.say(("%d task%s"):format(#tasks, #tasks == 1 and "" or "s"), "bold")
  for _, t in ipairs(tasks) do
    put(describe_task(t))
    put_frames(t.traceback, verbose, "    ")
  end
end

return report
