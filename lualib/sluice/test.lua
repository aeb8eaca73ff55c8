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
-- Time stands still while Lua runs and jumps to the next timer when every task waits, so a test of
-- minutes takes a millisecond, and always the same one.

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local options = require "sluice.options"

local test = { list = nil } -- list: set by the command while it loads files

local EPSILON = 1e-6 -- of numbers compared by eq: the clock counts microseconds

-- Checks --------------------------------------------------------------------------------------------

local Failure = { __name = "sluice.test.failure", __tostring = function(f) return f.text end }
local Skip = { __name = "sluice.test.skip", __tostring = function(s) return s.why end }
test.Failure, test.Skip = Failure, Skip

local function show(value)
  if type(value) == "string" then return ("%q"):format(value) end
  if type(value) == "table" and not errors.is(value) then
    local parts = {}
    for key, v in pairs(value) do
      parts[#parts + 1] = ("%s = %s"):format(tostring(key), type(v) == "table" and "{…}" or show(v))
      if #parts == 8 then parts[#parts + 1] = "…" break end
    end
    table.sort(parts)
    return "{ " .. table.concat(parts, ", ") .. " }"
  end
  return tostring(value)
end

local function same(a, b)
  if rawequal(a, b) then return true end
  if type(a) == "number" and type(b) == "number" then return math.abs(a - b) <= EPSILON end
  if type(a) ~= "table" or type(b) ~= "table" then return false end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

--- The line of the test file that made the check.
local function where()
  for level = 3, 12 do
    local info = debug.getinfo(level, "Sl")
    if not info then break end
    if info.currentline > 0 and not info.source:find "^@sluice/" then
      return ("%s:%d: "):format(info.short_src, info.currentline)
    end
  end
  return ""
end

---@class sluice.TestContext
local Context = {}
Context.__index = Context

local function fail(text)
  error(setmetatable({ text = where() .. text }, Failure), 0)
end

--- Equal, deeply; numbers within a microsecond.
function Context.eq(got, expected, what)
  if not same(got, expected) then
    fail(("%sexpected %s, got %s"):format(what and what .. ": " or "", show(expected), show(got)))
  end
end

function Context.ne(got, unexpected, what)
  if same(got, unexpected) then fail(("%snot expected: %s"):format(what and what .. ": " or "", show(got))) end
end

function Context.ok(value, what)
  if not value then fail(what or "expected something true, got " .. show(value)) end
  return value
end

function Context.near(got, expected, tolerance, what)
  if type(got) ~= "number" or math.abs(got - expected) > tolerance then
    fail(("%sexpected %s ± %s, got %s"):format(what and what .. ": " or "", show(expected),
      show(tolerance), show(got)))
  end
end

function Context.match(text, pattern, what)
  if type(text) ~= "string" or not text:find(pattern) then
    fail(("%sexpected a match of %q, got %s"):format(what and what .. ": " or "", pattern, show(text)))
  end
end

--- Calls `f(...)`, which must raise an error of that kind (or whose text matches it); returns the error.
function Context.raises(kind, f, ...)
  local ok, err = pcall(f, ...)
  if ok then fail(("expected an error '%s', none was raised"):format(kind)) end
  if getmetatable(err) == Failure then error(err, 0) end
  if errors.is(err) and err.kind == kind or tostring(err):find(kind) then return err end
  fail(("expected an error '%s', got: %s"):format(kind, tostring(err)))
end

function Context.skip(why)
  error(setmetatable({ why = why or "skipped" }, Skip), 0)
end

-- Scripted models -------------------------------------------------------------------------------------

local MODEL_OPTIONS = { "retry", "breaker", "limit", "timeout", "defaults", "quirks" }

--- A model that answers as scripted: one entry a call, the last one again and again. Entries have
--- wait, delay, text, gap, status, retry_after, err, cut, stall, tool, … ; options of sluice.model
--- (retry, breaker, limit, timeout) may stand beside them. It does not retry unless told to.
--- The model counts `calls`, `cancelled` (left before their end) and `closed` (streams), and keeps
--- `requests`, the bodies it was sent.
---@param script table
---@return sluice.Model
function Context:model(script)
  if script == nil then script, self = self, nil end -- t.model { … } and t:model { … }
  local sluice_model = require "sluice.model"
  local transport = require "sluice.test.transport"
  if type(script) ~= "table" then options.raise("t.model: expected a list of answers, got " .. options.got(script)) end
  local answers, opts = {}, { provider = "mock" }
  for i, answer in ipairs(script) do answers[i] = answer end
  for key, value in pairs(script) do
    if math.type(key) ~= "integer" and key ~= "name" then
      local known = false
      for _, name in ipairs(MODEL_OPTIONS) do known = known or name == key end
      if not known then
        options.raise(("t.model: unknown option '%s'%s"):format(tostring(key), options.suggest(key, MODEL_OPTIONS)))
      end
      opts[key] = value
    end
  end
  transport.check("t.model", answers)
  test.models = (test.models or 0) + 1
  local name = script.name or ("scripted-%d"):format(test.models)
  local played = { answers = answers, name = name, calls = 0, cancelled = 0, closed = 0, requests = {} }
  opts.model = name
  opts.base_url = ("http://scripted-%d.invalid/v1"):format(test.models) -- never asked; keeps breakers apart
  opts.transport = transport.new(played)
  if opts.retry == nil then opts.retry = false end
  local model = sluice_model.new(opts)
  local class = getmetatable(model)
  return setmetatable(model, { __name = class.__name, __tostring = class.__tostring, __index = function(_, key)
    local value = class[key]
    if value ~= nil then return value end
    return played[key]
  end })
end

--- Seconds since the test began, on its clock.
---@return number
local function clock(started)
  return function() return core.now() - started end
end

-- Registering -----------------------------------------------------------------------------------------

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
  test.list[#test.list + 1] = { name = name, run = f }
end

--- What the function of a test is given.
---@return sluice.TestContext
function test.context()
  local t = setmetatable({ clock = clock(core.now()) }, Context)
  t.model = function(a, b) return Context.model(b or a) end
  return t
end

return test
