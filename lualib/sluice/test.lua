--- Policy tests on a virtual clock: `sluice test FILE…`.
-- Owns: the list of tests, the checks, scripted models. What a scripted answer does:
-- test/transport.lua; how the results are printed: command/test.lua.
--
--   sluice.test("hedges after 5 s", function(t)
--     local slow, fast = t.model { { wait = 9, text = "late" } }, t.model { { wait = 1, text = "hi" } }
--     local r = sluice.fallback { { slow, after = 5 }, fast }:ask "x"
--     t.eq(r.text, "hi") t.eq(t.clock(), 6) t.eq(slow.cancelled, 1)
--   end)
--
--   sluice.test("the rules in force do the same", function(t)
--     local big = t.script("siliconflow/deepseek-ai/DeepSeek-V3", { { err = "overloaded" } })
--     t.script("siliconflow/*", { { text = "from a small one" } })
--     t.eq(sluice.rules "fallback.lua":ask("x").degraded.why, "overloaded")
--     t.eq(big.calls, 3)
--   end)
--
-- Time stands still while Lua runs and jumps to the next timer when every task waits, so a test of
-- minutes takes a millisecond, and always the same one. No request leaves the machine: every model a
-- test makes is a scripted one.

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local options = require "sluice.options"

local EPSILON = 1e-6 -- of numbers compared by eq: the clock counts microseconds
local DEPTH = 3      -- levels of tables that are shown
local TEXT_MAX = 200 -- bytes of a text that are shown

---@class sluice.TestEntry
---@field name string
---@field run fun(t: sluice.TestContext)
---@field file string      as it was named on the command line
---@field line integer     where sluice.test was called

local test = {
  list = nil,      -- sluice.TestEntry[]: set by the command while it loads files
  file = nil,      -- the file being loaded
  current = nil,   -- the context of the test under way
  count = 0,       -- tests begun
}

-- Showing values --------------------------------------------------------------------------------------

local show

local function by_name(a, b)
  if type(a) == "number" and type(b) == "number" then return a < b end
  return tostring(a) < tostring(b)
end

local function show_table(value, depth)
  local keys, parts = {}, {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, by_name)
  for i, key in ipairs(keys) do
    if i > 12 then parts[i] = "…" break end
    local name = key == i and "" or type(key) == "string" and key .. " = " or ("[%s] = "):format(tostring(key))
    parts[i] = name .. show(value[key], depth - 1)
  end
  return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

--- A value as a person reads it.
function show(value, depth)
  depth = depth or DEPTH
  if type(value) == "string" then
    local cut = #value > TEXT_MAX and ("… (%d bytes)"):format(#value) or ""
    if cut ~= "" then value = errors.scrub(value) end -- half a secret would not be known
    return (("%q"):format(value:sub(1, TEXT_MAX)):gsub("\\\n", "\\n")) .. cut
  end
  if type(value) ~= "table" then return tostring(value) end
  local mt = getmetatable(value)
  if errors.is(value) or type(mt) == "table" and mt.__tostring and mt.__name ~= "sluice.reply" then
    return tostring(value)
  end
  return depth == 0 and "{…}" or show_table(value, depth)
end

local function same(a, b, seen)
  if rawequal(a, b) then return true end
  if type(a) == "number" and type(b) == "number" then return math.abs(a - b) <= EPSILON or a ~= a and b ~= b end
  if type(a) ~= "table" or type(b) ~= "table" then return false end
  if seen[a] == b then return true end -- being compared further up
  seen[a] = b
  for key, value in pairs(a) do
    if not same(value, b[key], seen) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

-- Checks ------------------------------------------------------------------------------------------------

local Failure = { __name = "sluice.test.failure", __tostring = function(f) return f.text end }
local Skip = { __name = "sluice.test.skip", __tostring = function(s) return "skipped: " .. s.why end }
test.Failure, test.Skip = Failure, Skip

local library = debug.getinfo(1, "S").source:match "^(.*[/\\])test%.lua$" or "@sluice/"

--- The line of the test file that made the check: file, line.
local function place()
  for level = 3, 30 do
    local info = debug.getinfo(level, "Sl")
    if not info then break end
    if info.currentline > 0 and info.source:sub(1, #library) ~= library then
      return info.source:match "^@(.*)$" or info.short_src, info.currentline
    end
  end
end

--- A failed check counts even where the code under test swallows the error.
local function fail(text)
  local file, line = place()
  local failure = setmetatable({ text = file and ("%s:%d: %s"):format(file, line, text) or text, line = line,
    file = file }, Failure)
  if test.current then test.current.failures[#test.current.failures + 1] = failure end
  error(failure, 0)
end

local function check(ok, text, ...)
  if test.current then test.current.checks = test.current.checks + 1 end
  if not ok then fail(type(text) == "function" and text(...) or text) end
end

local function about(what) return what and tostring(what) .. ": " or "" end

---@class sluice.TestContext
---@field clock fun(): number  seconds since the test began
local Context = {}
Context.__index = Context

--- Equal, deeply; numbers within a microsecond.
---@param got any
---@param expected any
---@param what? string  in front of the message when it is not
function Context.eq(got, expected, what)
  check(same(got, expected, {}), function()
    return ("%sexpected %s, got %s"):format(about(what), show(expected), show(got))
  end)
end

function Context.ne(got, unexpected, what)
  check(not same(got, unexpected, {}), function() return ("%snot expected: %s"):format(about(what), show(got)) end)
end

function Context.ok(value, what)
  check(value, function() return ("%sexpected something true, got %s"):format(about(what), show(value)) end)
  return value
end

function Context.near(got, expected, tolerance, what)
  check(type(got) == "number" and math.abs(got - expected) <= tolerance, function()
    return ("%sexpected %s ± %s, got %s"):format(about(what), show(expected), show(tolerance), show(got))
  end)
end

--- The text must match the pattern. Returns the pattern's captures.
---@param text string
---@param pattern string  a Lua pattern
---@param what? string  in front of the message when it does not
---@return string ...
function Context.match(text, pattern, what)
  check(type(text) == "string" and text:find(pattern), function()
    return ("%sexpected a match of %q, got %s"):format(about(what), pattern, show(text))
  end)
  return text:match(pattern)
end

--- Calls `f(...)`, which must raise an error of that kind, or one whose text the pattern matches.
--- Returns the error.
---@param kind sluice.Kind|string
---@param f fun(...): ...
---@return any err
function Context.raises(kind, f, ...)
  local outcome = table.pack(pcall(f, ...))
  local err = outcome[2]
  check(not outcome[1], function()
    return ("expected an error '%s', none was raised; returned %s"):format(kind, show(err))
  end)
  local mt = type(err) == "table" and getmetatable(err)
  if mt == Failure or mt == Skip then error(err, 0) end
  local matches
  if errors.is(err) and errors.KINDS[kind] then matches = err.kind == kind else matches = tostring(err):find(kind) end
  check(matches, function() return ("expected an error '%s', got: %s"):format(kind, show(err)) end)
  return err
end

function Context.skip(why)
  error(setmetatable({ why = why and tostring(why) or "no reason given" }, Skip), 0)
end

-- Scripted models -------------------------------------------------------------------------------------

local MODEL_OPTIONS = { "name", "retry", "breaker", "limit", "timeout", "defaults" }

local function known_option(key)
  for _, name in ipairs(MODEL_OPTIONS) do
    if name == key then return true end
  end
  return false
end

--- The answers of a script, apart from its options.
local function read_script(where, script)
  local answers, opts = {}, {}
  if type(script) ~= "table" then
    options.raise(("%s: expected a list of answers, got %s"):format(where, options.got(script)))
  end
  for key, value in pairs(script) do
    if math.type(key) == "integer" then answers[key] = value
    elseif known_option(key) then opts[key] = value
    else
      options.raise(("%s: unknown option '%s'%s"):format(where, tostring(key), options.suggest(key, MODEL_OPTIONS)))
    end
  end
  require "sluice.test.transport".check(where, answers)
  return answers, opts
end

---@class sluice.Played
---@field calls integer      requests that came
---@field cancelled integer  … that were left before their end
---@field closed integer     streams that were closed, for whatever reason
---@field requests table[]   the bodies, decoded
---@field times number[]     when they came, in seconds since the test began
local function new_record(name, answers)
  return { answers = answers, name = name, calls = 0, cancelled = 0, closed = 0, requests = {}, times = {},
    started = test.current and test.current.started or core.now() }
end

--- A model that shows the counts of its script beside its own fields, and makes such models itself.
local function dressed(model, record, with)
  local class = getmetatable(model)
  return setmetatable(model, { __name = class.__name, __tostring = class.__tostring, __index = function(_, key)
    if key == "with" then return with end
    local value = class[key]
    if value ~= nil then return value end
    return record()[key]
  end })
end

--- An address nobody is asked at. A model that is made in a test is alone with its breaker.
local function address(name)
  return ("http://%s.%d.invalid/v1"):format(name:gsub("[^%w%-]", "-"), test.current and test.current.number or 0)
end

--- A model that answers as scripted: one entry a call, the last one again and again. Entries have
--- wait, delay, text, gap, status, retry_after, err, cut, stall, tool, …, or are functions of the
--- request and its number that return such an entry. Options of sluice.model (retry, breaker, limit,
--- timeout, defaults) may stand beside them. It does not retry unless told to.
---@param script table
---@return sluice.Model|sluice.Played
function Context.model(script)
  local answers, opts = read_script("t.model", script)
  local t = test.current
  if t then t.models = t.models + 1 end
  local name = opts.name or ("scripted-%d"):format(t and t.models or 0)
  local record = new_record(name, answers)
  opts.name, opts.provider, opts.model, opts.base_url = nil, "mock", name, address(name)
  opts.transport = require "sluice.test.transport".new(record)
  if opts.retry == nil then opts.retry = false end
  local model = require "sluice.model".new(opts)
  local class = getmetatable(model)
  return dressed(model, function() return record end, class.with)
end

-- The models of a script under test ---------------------------------------------------------------------

local function glob(pattern)
  return "^" .. pattern:gsub("[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"):gsub("%*", ".*") .. "$"
end

--- What happens when the code under test asks the model of that name ("provider/model"; * stands for
--- anything; the latest script that fits decides). Answers as those of t.model; the model keeps the
--- options it was made with.
---@param name string
---@param answers table[]
---@return sluice.Played
function Context.script(name, answers)
  if type(name) ~= "string" or not name:find "/" and name ~= "*" then
    options.raise(("t.script: expected the name of a model, 'provider/model', got %s"):format(show(name)))
  end
  local list, opts = read_script("t.script", answers)
  if next(opts) then options.raise "t.script: only answers; the model has the options it was made with" end
  local t = test.current
  local record = new_record(name, list)
  table.insert(t.scripts, 1, { pattern = glob(name), record = record })
  return record
end

local function script_for(name)
  for _, entry in ipairs(test.current and test.current.scripts or {}) do
    if name:find(entry.pattern) then return entry.record end
  end
  errors.raise { kind = "invalid", code = "no_script",
    message = ("no script for model '%s': no request leaves a test; say t.script(%q, { { text = \"…\" } })")
      :format(name, name) }
end

--- sluice.model under `sluice test`: the same options, the same policies, a scripted wire.
local function scripted_model(opts)
  local models, transport = require "sluice.model", require "sluice.test.transport"
  local real = models.new(opts) -- its options are checked as ever
  local name = real.name
  local copy = {}
  for key, value in pairs(real.opts) do copy[key] = value end
  copy.provider, copy.protocol, copy.auth, copy.headers, copy.base_url = "mock", nil, nil, nil, address(name)
  -- the script is looked up at the call: a module with models may outlive the test that loaded it
  copy.transport = function(spec)
    local endpoint = {}
    function endpoint.request(_, ...) return transport.new(script_for(name))(spec):request(...) end
    function endpoint.stream(_, ...) return transport.new(script_for(name))(spec):stream(...) end
    function endpoint.label() return "POST " .. spec.url end
    return endpoint
  end
  local model = models.new(copy)
  model.name, model.provider = name, real.provider
  model.opts.provider = real.opts.provider
  return dressed(model, function() return {} end, function(_, changes)
    return scripted_model(real:with(changes).opts)
  end)
end

-- Registering and running -------------------------------------------------------------------------------

--- Adds a test. Only under `sluice test`.
---@param name string
---@param f fun(t: sluice.TestContext)
function test.add(name, f)
  if type(name) ~= "string" or type(f) ~= "function" then
    options.raise "sluice.test: expected a name and a function"
  end
  if not test.list then
    options.raise "sluice.test: this file holds tests; run it with 'sluice test FILE'"
  end
  if test.current then options.raise "sluice.test: a test cannot be added inside of another" end
  local _, line = place()
  test.list[#test.list + 1] = { name = name, run = f, file = test.file, line = line or 0 }
end

--- From now on sluice.model makes scripted models, and a credential that is not there is no fault: none
--- is used.
function test.replace_models()
  rawset(require "sluice", "model", scripted_model)
  local secrets = require "sluice.core.secret"
  require "sluice.secret.mocked".secret = function(name) return secrets.new(name .. " (test)", "test") end
end

--- Begins a test: what its function is given.
---@return sluice.TestContext
function test.begin()
  test.count = test.count + 1
  local started = core.now()
  local t = setmetatable({ started = started, number = test.count, models = 0, scripts = {}, checks = 0,
    failures = {}, clock = function() return core.now() - started end }, Context)
  -- both t.model { … } and t:model { … }
  t.model = function(a, b) return Context.model(b or a) end
  t.script = function(a, b, c)
    if a == t then a, b = b, c end
    return Context.script(a, b)
  end
  test.current = t
  return t
end

--- The test is over.
function test.finish()
  test.current = nil
end

return test
