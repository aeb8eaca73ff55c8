-- The error table: its closed set of kinds, and the one line a person reads.
local T = require "harness"
local errors = require "sluice.errors"

T.test("the kinds are those of the contract", function(t)
  for kind in pairs(errors.KINDS) do t.ok(T.kinds[kind], kind .. " is not in the contract") end
  for kind in pairs(T.kinds) do t.ok(errors.KINDS[kind], kind .. " is missing") end
end)

T.test("new keeps its fields and does not keep the table", function(t)
  local fields = { kind = "server", message = "boom", status = 500, mine = 1 }
  local e = errors.new(fields)
  fields.message = "changed"
  t.eq(e.message, "boom")
  t.eq(e.mine, 1)
  t.ok(getmetatable(e) == errors.metatable)
  t.eq(errors.metatable.__name, "sluice.error")
end)

T.test("an unknown kind is a fault of the program and names the nearest", function(t)
  t.raises("unknown kind \"rate_limit\".*did you mean \"rate_limited\"", errors.new, { kind = "rate_limit" })
  t.raises("unknown kind \"nil\"", errors.new, {})
  t.raises("expected a table of fields, got string", errors.new, "boom")
  local e = t.raises("unknown kind", function() errors.new { kind = "zzz" } end)
  t.match(e, "errors_test%.lua:%d+:")
end)

T.test("is: any error, one of some kinds, nothing else", function(t)
  local e = errors.new { kind = "timeout", message = "m" }
  t.ok(errors.is(e))
  t.ok(errors.is(e, "timeout"))
  t.ok(errors.is(e, "network", "timeout"))
  t.ok(not errors.is(e, "network"))
  for _, v in ipairs { "timeout", 1, { kind = "timeout" }, print, setmetatable({ kind = "timeout" }, {}) } do
    t.ok(not errors.is(v))
  end
  t.ok(not errors.is(nil))
end)

T.test("raise makes an error of fields and passes an error on as it is", function(t)
  local e = t.raises("quota", errors.raise, { kind = "quota", message = "no money" })
  t.ok(errors.is(e, "quota"))
  local same = t.raises("quota", errors.raise, e)
  t.ok(same == e)
end)

T.test("the one line, whole", function(t)
  local e = errors.new {
    kind = "rate_limited", status = 429, message = "TPM limit reached.", provider = "siliconflow",
    model = "Qwen/Qwen3-8B", attempt = 2, elapsed = 1.34, request_id = "abc",
  }
  t.eq(tostring(e), "rate_limited: 429 Too Many Requests: TPM limit reached. "
    .. "(siliconflow/Qwen/Qwen3-8B, attempt 2, 1.3 s, request id abc)")
end)

local LINES = {
  { "only a kind", { kind = "cancelled" }, "cancelled: the scope was cancelled" },
  { "no words", { kind = "server", status = 502 }, "server: 502 Bad Gateway" },
  { "a status without a name", { kind = "server", status = 599, message = "x" }, "server: status 599: x" },
  { "the message begins with the status", { kind = "server", status = 502, message = "502 Bad Gateway" },
    "server: 502 Bad Gateway" },
  { "the message is the status's own words", { kind = "auth", status = 401, message = "unauthorized: no key" },
    "auth: 401 unauthorized: no key" },
  { "phase, code, waiting", { kind = "timeout", phase = "first_token", message = "no text within 30 s",
      code = "slow", retry_after = 12.2 },
    "timeout: no text within 30 s (phase first_token, code slow, retry after 12 s)" },
  { "partial is counted, not shown", { kind = "interrupted", message = "reset", partial = "Hello" },
    "interrupted: reset (5 bytes received)" },
  { "provider alone", { kind = "network", message = "refused", provider = "ollama" },
    "network: refused (ollama)" },
  { "model alone", { kind = "network", message = "refused", model = "m" }, "network: refused (m)" },
  { "a hint comes last", { kind = "auth", status = 401, message = "bad key", provider = "openai",
      hint = "check OPENAI_API_KEY" }, "auth: 401 Unauthorized: bad key (openai); check OPENAI_API_KEY" },
  { "line ends and controls are folded", { kind = "server", message = "a\r\n\tb\0c\27[31md\127  e " },
    "server: a b c [31md e" },
  { "C1 controls, line separators and bidi marks too",
    { kind = "server", message = "a\u{85}b\u{2028}c\u{202E}d\u{2066}e" }, "server: a b c d e" },
  { "text beyond ASCII stays", { kind = "quota", message = "余额不足" }, "quota: 余额不足" },
  { "bytes that are not UTF-8", { kind = "server", message = "\xC4\xE3 ok \xff" }, "server: ?? ok ?" },
  { "a message that is not a string", { kind = "server", message = 42 }, "server: 42" },
}
T.test("the one line, case by case", function(t)
  for _, case in ipairs(LINES) do t.eq(tostring(errors.new(case[2])), case[3], case[1]) end
end)

T.test("a long message is cut at a whole character", function(t)
  local line = tostring(errors.new { kind = "invalid", message = ("好"):rep(2000), provider = "p", model = "m" })
  t.ok(#line < 700, #line)
  t.ok(utf8.len(line))
  t.match(line, "好… %(p/m%)$")
  t.ok(#tostring(errors.new { kind = "invalid", message = "x", request_id = ("y"):rep(1e5) }) < 200)
end)

T.test("tostring does not fail on what others filled in", function(t)
  local odd = setmetatable({ message = {}, status = "500", attempt = "x", elapsed = {}, retry_after = "soon",
    partial = 3, provider = 7, model = true }, errors.metatable)
  t.match(tostring(odd), "^error: ")
  t.match(tostring(setmetatable({}, errors.metatable)), "^error")
end)

T.test("an error joins a string", function(t)
  local e = errors.new { kind = "server", message = "boom" }
  t.eq("failed: " .. e, "failed: server: boom")
  t.eq(e .. "!", "server: boom!")
end)

T.test("sluice.try says where an error was raised, a task and a group do, too", function(t)
  local sluice = require "sluice"
  local function fails() errors.raise { kind = "server", message = "boom" } end
  local function calls() fails() return 1 end
  local value, err = sluice.try(calls)
  t.eq({ value, err.kind, err.message }, { nil, "server", "boom" })
  t.match(err.traceback, "errors_test.lua:%d+: in upvalue 'fails'.*errors_test.lua:%d+: in function <")
  err = select(2, pcall(sluice.task.map, { 1 }, calls))
  t.match(err.traceback, "errors_test.lua:%d+: in upvalue 'fails'")
  local first = err.traceback
  err = select(2, sluice.try(error, err, 0))
  t.eq(err.traceback, first, "the first place is the one that tells something")
  t.eq({ sluice.try(error, "a word", 0) }, { nil, "a word" })
  t.eq({ sluice.try(function(...) return select("#", ...), ... end, 1, nil, 3) }, { 3, 1, nil, 3 })
  t.eq(select(2, sluice.try(function() error {} end)), {})
  t.eq(tostring(require "sluice.core.task".traceback_of "a word"), "nil", "nothing is kept of what was caught")
end)

T.done()
