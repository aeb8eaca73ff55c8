-- Option tables: what is checked, in which words, and the nearest known name.
-- luacheck: no max line length (bodies stand as on the wire, cases on one line)
local T = require "harness"
local nearest = require "sluice.nearest"
local options = require "sluice.options"

local NAMES = { "timeout", "temperature", "top_p", "top_k", "tools", "tool_choice", "max_tokens", "model",
  "messages", "system", "stop", "seed", "retry" }

local NEAREST = {
  { "timout", "timeout" }, { "tiemout", "timeout" }, { "TIMEOUT", "timeout" }, { "time-out", "timeout" },
  { "temprature", "temperature" }, { "temp", "temperature" }, { "max_token", "max_tokens" },
  { "maxTokens", "max_tokens" }, { "max-tokens", "max_tokens" }, { "modle", "model" }, { "message", "messages" },
  { "top_o", "top_k" }, { "sysem", "system" }, { "sede", "seed" }, { "tool_choise", "tool_choice" },
  { "x", nil }, { "", nil }, { "banana", nil }, { "to", nil }, { "prompt", nil }, { ("a"):rep(100), nil },
  { 1, nil }, { true, nil },
}
T.test("nearest", function(t)
  for _, case in ipairs(NEAREST) do t.eq(nearest(case[1], NAMES), case[2], tostring(case[1])) end
  t.eq(nearest(nil, NAMES), nil)
  t.eq(nearest("timout", { timeout = 1, [1.5] = 2 }), "timeout", "names as keys")
  t.eq(nearest("timout", {}), nil)
end)

T.test("nearest does not depend on the order", function(t)
  local a = nearest("tol", { "tool", "told" })
  t.eq(a, nearest("tol", { "told", "tool" }))
  t.eq(a, "told")
  t.eq(nearest("too", { "tools", "tooth" }), nil, "two that begin so: none")
end)

local function even(v) return v % 2 == 0, "an even number" end

local SPEC = options.spec {
  model = { type = "string", required = true, nonempty = true },
  protocol = { type = "string", enum = { "openai", "anthropic" }, default = "openai" },
  timeout = { type = { "seconds", "table" }, fields = {
    connect = { type = "seconds", above = 0, default = 3 },
    total = { type = "seconds" },
  } },
  attempts = { type = "integer", min = 1, max = 10 },
  rate = { type = "number", min = 0, max = 1 },
  size = { type = "integer", max = 9 },
  wait = { type = "integer", min = 5 },
  pair = { type = "integer", check = even },
  names = { type = "list", items = { type = "string" } },
  headers = { type = "table", values = { type = "string" } },
  on = { type = { "boolean", "function" } },
  call = { type = "callable" },
  auth = { type = { "string", "userdata" }, expected = "a secret, a token source or a string" },
  breaker = { type = { "false", "table" }, fields = { volume = { type = "integer", default = 20 } } },
  [1] = { type = "string" },
}

local function check(opts) return options.check("sluice.model", opts, SPEC) end

T.test("what fits passes untouched", function(t)
  local opts = { "x", model = "m", protocol = "anthropic", timeout = { connect = 0.5 }, attempts = 3.0, rate = 1,
    names = { "a", "b" }, headers = { ["X-Team"] = "blue" }, on = false, call = setmetatable({}, { __call = print }),
    auth = "key", breaker = false, pair = 4 }
  t.ok(check(opts) == opts)
  t.eq(opts.timeout, { connect = 0.5 })
  check { model = "m", timeout = 3, on = print, names = {} }
end)

local WRONG = {
  { { model = "m", timout = 3 }, "sluice.model: unknown option 'timout' (did you mean 'timeout'?)" },
  { { model = "m", zebra = 3 }, "unknown option 'zebra'" },
  { { model = "m", timeout = { conect = 1 } }, "unknown option 'timeout.conect' (did you mean 'connect'?)" },
  { { model = "m", timeout = { x = 1 } }, "unknown option 'timeout.x' (known: connect, total)" },
  { { model = "m", [7] = 1 }, "unknown option '[7]'" },
  { {}, "option 'model' is missing, expected a string that is not empty" },
  { { model = "" }, "option 'model' must be a string that is not empty, got an empty string" },
  { { model = 5 }, "option 'model' must be a string that is not empty, got 5" },
  { { model = "m", protocol = "opnai" }, "option 'protocol' must be 'openai' or 'anthropic', got 'opnai' (did you mean 'openai'?)" },
  { { model = "m", timeout = { connect = 0 } }, "option 'timeout.connect' must be a number of seconds above 0, got 0" },
  { { model = "m", timeout = -1 }, "option 'timeout' must be a number of seconds or a table, got -1" },
  { { model = "m", timeout = 0 / 0 }, "option 'timeout' must be" },
  { { model = "m", timeout = math.huge }, "option 'timeout' must be" },
  { { model = "m", attempts = 0 }, "option 'attempts' must be an integer from 1 to 10, got 0" },
  { { model = "m", attempts = 2.5 }, "option 'attempts' must be an integer from 1 to 10, got 2.5" },
  { { model = "m", size = 10 }, "must be an integer, at most 9, got 10" },
  { { model = "m", wait = 1 }, "must be an integer, at least 5, got 1" },
  { { model = "m", rate = "0.5" }, "option 'rate' must be a number from 0 to 1, got a string" },
  { { model = "m", pair = 3 }, "option 'pair' must be an even number, got 3" },
  { { model = "m", names = { "a", 2 } }, "option 'names[2]' must be a string, got 2" },
  { { model = "m", names = { a = 1 } }, "option 'names' must be a list, got a table" },
  { { model = "m", headers = { A = 1 } }, "option 'headers.A' must be a string, got 1" },
  { { model = "m", on = "yes" }, "option 'on' must be true or false or a function, got a string" },
  { { model = "m", call = {} }, "option 'call' must be a function, got an empty table" },
  { { model = "m", auth = {} }, "option 'auth' must be a secret, a token source or a string, got an empty table" },
  { { model = "m", breaker = true }, "option 'breaker' must be false or a table, got true" },
}
T.test("what does not fit is told in full", function(t)
  for i, case in ipairs(WRONG) do
    local ok, err = pcall(check, case[1])
    t.ok(not ok, "case " .. i .. " passed")
    t.ok(tostring(err):find(case[2], 1, true), ("case %d: %s"):format(i, err))
  end
  t.raises("sluice.model: expected a table of options, got nothing", check, nil)
  t.raises("expected a table of options, got a string", check, "x")
end)

T.test("the value of a string is never shown", function(t)
  local ok, err = pcall(options.check, "f", { key = "sk-secret" }, options.spec { key = { type = "table" } })
  t.ok(not ok)
  t.ok(not err:find("secret", 1, true), err)
end)

T.test("the line to blame is the caller's, however deep the check", function(t)
  local function deeper() check { model = 1 } end
  local line = debug.getinfo(1, "l").currentline + 1
  local _, err = pcall(function() deeper() end)
  t.match(err, "^tests?.*options_test%.lua:%d+: sluice%.model: option")
  t.match(err, ":" .. (line - 2) .. ": ")
end)

T.test("a field has another noun", function(t)
  local spec = options.spec({ prompt = { type = "string" } }, "field")
  t.raises("ask: unknown field 'promt' %(did you mean 'prompt'%?%)", options.check, "ask", { promt = 1 }, spec)
  t.eq(options.problem({ prompt = 1 }, spec), "field 'prompt' must be a string, got 1")
  t.eq(options.problem({ prompt = "x" }, spec), nil)
end)

T.test("fill lays defaults under, nested ones too, and leaves the given table alone", function(t)
  local given = { model = "m", timeout = { total = 9 } }
  local filled = options.fill(given, SPEC)
  t.eq(filled, { model = "m", protocol = "openai", timeout = { connect = 3, total = 9 }, breaker = { volume = 20 } })
  t.eq(given, { model = "m", timeout = { total = 9 } })
  t.eq(options.fill({ model = "m", breaker = false, timeout = 5 }, SPEC),
    { model = "m", protocol = "openai", breaker = false, timeout = 5 })
end)

T.test("a fault in a description shows where it is written", function(t)
  t.raises("entry 'a' has an unknown key 'typ' %(did you mean 'type'%?%)", options.spec, { a = { typ = "string" } })
  t.raises("entry 'a' has an unknown type 'strin' %(did you mean 'string'%?%)", options.spec, { a = { type = "strin" } })
  t.raises("entry 'b%[%]' has an unknown type", options.spec, { b = { type = "list", items = { type = "x" } } })
end)

T.done()
