-- What every test file stands on: named tests, checks with readable differences, TAP on stdout,
-- and after each test a census that nothing is left running.
--
--   local T = require "harness"
--   T.test("adds", function(t) t.eq(1 + 1, 2) end)
--   T.done()
--
-- Runs inside sluice (each body in the current task) and under plain lua5.4, where pure modules
-- can be tested and there is no census. It never sleeps for a fixed time: it waits for conditions.
-- A failed check is recorded when it happens, so that code under test which swallows errors does
-- not swallow the failure; a test that checks nothing fails.

---@class harness
local T = {}

---@class harness.Test
---@field name string
---@field failures string[]
---@field checks integer
local Test = {}
Test.__index = Test

local Failure = { __name = "harness.failure" } -- raised by a failed check, reported already
local Skip = { __name = "harness.skip", __tostring = function(s) return "skipped: " .. s.why end }
Failure.__tostring = function(f) return f.text end

local SETTLE_STEPS = 50 -- yields to the loop before what is left counts as leaked
local SETTLE_PROCESSES_S = 5
local DIFFERENCES_MAX = 12
local TEXT_SHOWN = 400 -- bytes

local count, failed = 0, 0
local only = os.getenv "TEST_ONLY" -- a Lua pattern: run the tests whose names it matches
local seed = math.tointeger(tonumber(os.getenv "TEST_SEED" or "")) or os.time()
local folders = {} -- of T.tmpdir, removed at the end

math.randomseed(seed)
io.stdout:setvbuf "line"

--- The seed of this run; math.random is seeded with it, and a failing file prints it.
T.seed = seed

--- True when asked for with TEST_SLOW=1, or under a sanitizer or valgrind, where time means little.
T.slow = os.getenv "TEST_SLOW" == "1"

-- Showing values ----------------------------------------------------------------------------------

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function show_string(s)
  local cut = #s > TEXT_SHOWN and ("… (%d bytes)"):format(#s) or ""
  s = s:sub(1, TEXT_SHOWN)
  s = s:gsub('[%c"\\]', ESCAPES)
  s = s:gsub("%c", function(c) return ("\\x%02x"):format(c:byte()) end)
  if not utf8.len(s) then
    s = s:gsub("[\x80-\xff]", function(c) return ("\\x%02x"):format(c:byte()) end)
  end
  return '"' .. s .. '"' .. cut
end

local function key_order(a, b)
  local ta, tb = type(a), type(b)
  if ta ~= tb then return ta < tb end
  if ta == "number" or ta == "string" then return a < b end
  return tostring(a) < tostring(b)
end

local function sorted_keys(t)
  local keys = {}
  for k in next, t do keys[#keys + 1] = k end
  table.sort(keys, key_order)
  return keys
end

local function show_path(path, key)
  if type(key) == "string" and key:find "^[%a_][%w_]*$" then return path .. "." .. key end
  return path .. "[" .. (type(key) == "string" and show_string(key) or tostring(key)) .. "]"
end

--- A value as text: strings quoted, tables with sorted keys, cycles and depth cut short.
---@param value any
---@param depth? integer levels of tables shown, default 4
---@return string
function T.show(value, depth, seen)
  depth, seen = depth or 4, seen or {}
  if type(value) == "string" then return show_string(value) end
  if type(value) ~= "table" or (getmetatable(value) or {}).__tostring then return tostring(value) end
  if seen[value] then return "<cycle>" end
  if depth == 0 then return "{…}" end
  seen[value] = true
  local parts, position = {}, 1
  for _, k in ipairs(sorted_keys(value)) do
    local text = T.show(rawget(value, k), depth - 1, seen)
    if k == position then
      position = position + 1
    else
      text = show_path("", k):gsub("^%.", "") .. " = " .. text
    end
    parts[#parts + 1] = text
    if #parts == 40 then
      parts[#parts + 1] = "…"
      break
    end
  end
  seen[value] = nil
  return "{" .. (#parts > 0 and " " .. table.concat(parts, ", ") .. " " or "") .. "}"
end

-- Comparing ---------------------------------------------------------------------------------------

local function string_difference(got, want)
  local at = 1
  while at <= #got and got:byte(at) == want:byte(at) do at = at + 1 end
  if at <= 40 and #got <= TEXT_SHOWN and #want <= TEXT_SHOWN then return nil end
  local from = math.max(1, at - 20)
  return ("differ at byte %d of %d and %d: …%s, wanted …%s"):format(at, #got, #want,
    show_string(got:sub(from, at + 40)), show_string(want:sub(from, at + 40)))
end

local function same(a, b)
  return a == b or (a ~= a and b ~= b) -- two NaN are the same here
end

local compare

local function compare_tables(got, want, path, found, seen)
  if seen[got] == want then return end -- this pair is being compared further up
  seen[got] = want
  for _, k in ipairs(sorted_keys(want)) do
    compare(rawget(got, k), rawget(want, k), show_path(path, k), found, seen)
  end
  for _, k in ipairs(sorted_keys(got)) do
    if rawget(want, k) == nil then
      local text = T.show(rawget(got, k), 2)
      found[#found + 1] = ("%s: got %s, wanted nothing"):format(show_path(path, k), text)
    end
  end
  seen[got] = nil
end

-- Appends to `found` one line for each place where the two differ.
function compare(got, want, path, found, seen)
  if #found >= DIFFERENCES_MAX or same(got, want) then return end
  if type(got) == "table" and type(want) == "table" then
    return compare_tables(got, want, path, found, seen)
  end
  local text
  if type(got) == "string" and type(want) == "string" then text = string_difference(got, want) end
  text = text or ("got %s, wanted %s"):format(T.show(got), T.show(want))
  found[#found + 1] = path == "" and text or path .. ": " .. text
end

--- Where two values differ, one line each; empty when they are deeply equal (metatables aside,
--- 1 and 1.0 equal as in Lua, NaN equal to itself).
---@return string[]
function T.differences(got, want)
  local found = {}
  compare(got, want, "", found, {})
  return found
end

-- Checks ------------------------------------------------------------------------------------------

-- The line of the test file that called the check: the first frame outside this file.
local function place()
  local here = debug.getinfo(1, "S").source
  for level = 2, 30 do
    local info = debug.getinfo(level, "Sl")
    if not info then break end
    if info.source ~= here and info.currentline > 0 then
      return ("%s:%d: "):format(info.short_src, info.currentline)
    end
  end
  return ""
end

local function fail(t, text)
  text = place() .. text
  t.failures[#t.failures + 1] = text
  error(setmetatable({ text = text }, Failure), 0)
end

local function note(what) return what and " (" .. tostring(what) .. ")" or "" end

-- Both t.eq(…) and t:eq(…) would be natural; only the first is offered, so that a value that
-- happens to be the test itself is not taken for the receiver.
local function make_checks(t)
  local function check(ok, text)
    t.checks = t.checks + 1
    if not ok then fail(t, text()) end
  end

  --- Deeply equal, or fail showing each place where they differ.
  function t.eq(got, want, what)
    local found = T.differences(got, want)
    check(#found == 0, function() return "not equal" .. note(what) .. "\n" .. table.concat(found, "\n") end)
  end

  --- Deeply different.
  function t.ne(got, other, what)
    check(#T.differences(got, other) > 0, function()
      return "equal, but should not be" .. note(what) .. ": " .. T.show(got)
    end)
  end

  --- Neither nil nor false. Returns the value.
  function t.ok(value, what)
    check(value, function() return "got " .. T.show(value) .. ", wanted a true value" .. note(what) end)
    return value
  end

  --- A number within eps (default 1e-9) of another.
  function t.near(got, want, eps, what)
    eps = eps or 1e-9
    check(type(got) == "number" and math.abs(got - want) <= eps, function()
      return ("got %s, wanted %s within %s"):format(T.show(got), T.show(want), T.show(eps)) .. note(what)
    end)
  end

  --- A string that a Lua pattern matches. Returns the captures.
  function t.match(text, pattern, what)
    check(type(text) == "string" and text:find(pattern), function()
      return ("no match for %s in %s"):format(T.show(pattern), T.show(text)) .. note(what)
    end)
    return text:match(pattern)
  end

  --- f(…) must raise. `want` is a Lua pattern for tostring(err), or one of sluice's error kinds
  --- when the error has a kind, or a table of fields the error must have. Returns the error.
  function t.raises(want, f, ...)
    local outcome = table.pack(pcall(f, ...))
    local err = outcome[2]
    check(not outcome[1], function()
      return "no error, wanted " .. T.show(want) .. "; returned " ..
        T.show({ table.unpack(outcome, 2, outcome.n) })
    end)
    if getmetatable(err) == Failure or getmetatable(err) == Skip then error(err, 0) end
    if type(want) == "table" then
      local has = {}
      for k in next, want do has[k] = type(err) == "table" and err[k] or nil end
      t.eq(has, want, tostring(err))
      return err
    end
    local kind = type(err) == "table" and rawget(err, "kind")
    check(kind == want or not (kind and T.kinds[want]) and tostring(err):find(want), function()
      local which = kind and kind .. ": " or ""
      return ("raised %s%s, wanted %s"):format(which, T.show(tostring(err)), T.show(want))
    end)
    return err
  end

  --- Gives the test up as not applicable here; it counts as skipped, with the reason.
  function t.skip(why) error(setmetatable({ why = tostring(why) }, Skip), 0) end

  --- A line shown when the test fails.
  function t.log(text) t.notes[#t.notes + 1] = tostring(text) end
end

-- The closed set of PRODUCT's error kinds: with a kind on the error, t.raises("timeout", …) means
-- the kind, not the word somewhere in the message.
T.kinds = {}
for kind in ([[network timeout server overloaded rate_limited quota auth invalid filtered protocol
  interrupted circuit_open throttled cancelled deadlock cpu memory]]):gmatch "%S+" do
  T.kinds[kind] = true
end

-- The census --------------------------------------------------------------------------------------

local has_runtime, core = pcall(require, "sluice.core.task")
local take_census = has_runtime and assert(core.census, "sluice.core.task has no census()") or nil

local function numbers(census)
  local copy = {}
  for k, v in next, census do
    if type(v) == "number" then copy[k] = v end
  end
  return copy
end

-- What `after` has more of than `before`, as text; nil when nothing.
local function grown(before, after)
  local lines = {}
  for _, k in ipairs(sorted_keys(after)) do
    if after[k] > (before[k] or 0) then
      lines[#lines + 1] = ("%s: %d before the test, %d after"):format(k, before[k] or 0, after[k])
    end
  end
  return #lines > 0 and table.concat(lines, "\n") or nil
end

-- Closing takes a few turns of the loop: let it turn until all is gone, a bounded number of times.
-- A child that was killed is the kernel's for a moment more, however fast the loop turns.
local function leaked(before)
  local sleep = require("sluice").task.sleep
  local left = grown(before, numbers(take_census()))
  for _ = 1, SETTLE_STEPS do
    if not left then return nil end
    sleep(0)
    left = grown(before, numbers(take_census()))
  end
  local deadline = os.time() + SETTLE_PROCESSES_S
  while left and (take_census().processes or 0) > (before.processes or 0) and os.time() < deadline do
    sleep(0.005)
    left = grown(before, numbers(take_census()))
  end
  return left
end

-- Running -----------------------------------------------------------------------------------------

local function diagnose(text)
  for line in (text .. "\n"):gmatch "(.-)\r?\n" do print("# " .. line) end
end

local function handler(err)
  if getmetatable(err) == Failure or getmetatable(err) == Skip then return err end
  local text = tostring(err)
  if type(err) == "table" and not (getmetatable(err) or {}).__tostring then text = T.show(err) end
  local trace = type(err) == "table" and type(err.traceback) == "string" and err.traceback
    or debug.traceback("", 2)
  return setmetatable({ text = "raised: " .. text .. "\n" .. trace, raised = true }, Failure)
end

local function report(t, skipped)
  count = count + 1
  local name = t.name:gsub("[\r\n]", " "):gsub("#", "\\#")
  if skipped then return print(("ok %d - %s # SKIP %s"):format(count, name, skipped)) end
  if #t.failures == 0 then return print(("ok %d - %s"):format(count, name)) end
  failed = failed + 1
  print(("not ok %d - %s"):format(count, name))
  for _, text in ipairs(t.failures) do diagnose(text) end
  for _, text in ipairs(t.notes) do diagnose(text) end
end

--- Runs one test now. The body gets the checks: t.eq, t.ne, t.ok, t.near, t.match, t.raises,
--- t.skip, t.log.
---@param name string
---@param body fun(t: table)
function T.test(name, body)
  if only and not name:find(only) then return end
  local t = setmetatable({ name = name, failures = {}, notes = {}, checks = 0 }, Test)
  make_checks(t)
  local before = take_census and numbers(take_census())
  local ok, err = xpcall(body, handler, t)
  local skipped = not ok and getmetatable(err) == Skip and #t.failures == 0 and err.why
  if not ok and getmetatable(err) ~= Skip and (getmetatable(err) ~= Failure or err.raised) then
    t.failures[#t.failures + 1] = getmetatable(err) == Failure and err.text or "raised: " .. tostring(err)
  end
  if ok and t.checks == 0 then t.failures[1] = "the test checked nothing" end
  local left = before and leaked(before)
  if left then t.failures[#t.failures + 1] = "left behind\n" .. left end
  report(t, skipped)
end

local function remove_folders()
  for _, folder in ipairs(folders) do
    if folder:find "/sluice%-test%.%w+$" then os.execute("rm -rf -- '" .. folder .. "'") end
  end
  folders = {}
end

-- Also when the file raises before T.done.
T.sentinel = setmetatable({}, { __gc = remove_folders })

--- Prints the plan and ends the file: raises when a test failed, so that the process exits 1 by
--- the ordinary way out, closing everything as it goes.
function T.done()
  print(("1..%d"):format(count))
  remove_folders()
  if failed > 0 then
    print(("# seed %d: repeat with TEST_SEED=%d"):format(seed, seed))
    error(("%d of %d tests failed"):format(failed, count), 0)
  end
end

-- Help for bodies ---------------------------------------------------------------------------------

--- Waits until cond() is true, looking again after each small step of the loop. Returns its value;
--- raises when it never holds.
---@param cond fun(): any
---@param timeout_s? number seconds, default 5
---@param what? string named in the error
function T.until_(cond, timeout_s, what)
  local task = require("sluice").task
  local deadline_s = task.now() + (timeout_s or 5)
  local step_s = 0
  while true do
    local value = cond()
    if value then return value end
    if task.now() >= deadline_s then
      error(("%s: not true within %g s"):format(what or "condition", timeout_s or 5), 2)
    end
    task.sleep(step_s)
    step_s = math.min(0.02, step_s + 0.001)
  end
end

--- A new empty folder, removed when the file ends.
---@return string path
function T.tmpdir()
  local pipe = assert(io.popen('mktemp -d "${TMPDIR:-/tmp}/sluice-test.XXXXXX"'))
  local folder = pipe:read "l"
  pipe:close()
  assert(folder and folder ~= "", "mktemp made no folder")
  folders[#folders + 1] = folder
  return folder
end

--- Writes a whole file.
function T.write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
  return path
end

--- Reads a whole file.
---@return string
function T.read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

return T
