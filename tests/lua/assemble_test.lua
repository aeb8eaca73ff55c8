-- Deltas in, events and a reply out: order, merging of tool calls, completeness.
-- luacheck: no max line length (bodies stand as on the wire, cases on one line)
local T = require "harness"
local json = require "sluice.json"
local assemble = require "sluice.assemble"
local errors = require "sluice.errors"
local anthropic = require "sluice.provider.anthropic"
local openai = require "sluice.provider.openai"

--- Feeds deltas; returns all events, the failure if there was one, and the assembler.
local function run(deltas, opts)
  local a = assemble.new(opts)
  local events, failed = {}, nil
  for _, delta in ipairs(deltas) do
    local got, fault = a:feed(delta)
    failed = failed or fault
    if got and got.type then events[#events + 1] = got
    else table.move(got or {}, 1, #(got or {}), #events + 1, events) end
  end
  return events, failed, a
end

local function text(s) return { type = "text", text = s } end
local function tool(index, id, name, arguments, whole)
  return { type = "tool", index = index, id = id, name = name, arguments = arguments, whole = whole }
end
local function finish(reason, more)
  local delta = { type = "finish", reason = reason }
  for key, value in pairs(more or {}) do delta[key] = value end
  return delta
end
local DONE = { type = "done" }

local function calls_of(events)
  local calls = {}
  for _, ev in ipairs(events) do
    if ev.type == "tool_call" then calls[#calls + 1] = { ev.id, ev.name, ev.arguments_json } end
  end
  return calls
end

-- Plain answers -----------------------------------------------------------------------------------

T.test("text, usage, finish", function(t)
  local events, failed, a = run { { type = "meta", id = "x1", model = "m" }, text "Hel", text "", text "lo",
    finish "stop", { type = "usage", usage = { input_tokens = 9, output_tokens = 3 } }, DONE }
  t.eq(failed, nil)
  t.eq(events, { text "Hel", text "lo",
    { type = "usage", usage = { input_tokens = 9, output_tokens = 3, total_tokens = 12, cached_tokens = 0, reasoning_tokens = 0 } },
    { type = "finish", reason = "stop" } })
  t.ok(a:complete())
  t.ok(a:done())
  t.eq(a:reply(), { text = "Hello", tool_calls = {}, finish_reason = "stop", finish_reason_raw = "stop", id = "x1", model = "m",
    usage = { input_tokens = 9, output_tokens = 3, total_tokens = 12, cached_tokens = 0, reasoning_tokens = 0 } })
  t.eq(json.encode(a:reply().tool_calls), "[]")
end)

T.test("the fast path and the slow path make the same reply", function(t)
  local _, _, slow = run { text "a", text "b", finish "length", DONE }
  local fast = assemble.new()
  t.ok(fast.fast)
  t.eq(fast:text "a", nil)
  fast:text "b"
  t.ok(fast:committed())
  fast:feed(finish "length")
  fast:feed(DONE)
  t.eq(fast:reply(), slow:reply())
  t.eq(fast:partial(), "ab")
end)

T.test("a plain whole reply is what an assembler would have made of it", function(t)
  for raw in pairs { stop = 1, length = 1, tool_calls = 1, odd = 1, unknown = 1 } do
    local a = assemble.new()
    for _, d in ipairs { { type = "meta", id = "i", model = "m" }, text "Hello", { type = "usage", usage = { input_tokens = 3, output_tokens = 4 } }, finish(raw), DONE } do a:feed(d) end
    t.eq(assemble.plain("Hello", raw, { input_tokens = 3, output_tokens = 4 }, "m", "i"), a:reply(), raw)
  end
  t.eq(assemble.plain("x").finish_reason, "other")
  local reply, failed = assemble.plain("half", "content_filter")
  t.eq(reply, nil)
  t.eq(failed, { kind = "filtered", code = "content_filter", message = "the answer was stopped by the provider's content filter", partial = "half" })
end)

T.test("finish without a terminator is complete; nothing at all is not", function(t)
  local _, _, a = run { text "x", finish "stop" }
  t.ok(a:complete())
  t.ok(not a:done())
  t.eq(a:finish(), { { type = "finish", reason = "stop" } })
  t.eq(a:finish(), {}, "only once")
  t.eq(a:feed(DONE), {}, "nor again at the terminator")

  local _, _, cut = run { text "x" }
  t.ok(not cut:complete())
  local events, failed = cut:finish()
  t.eq(events, nil)
  t.eq(failed.kind, "interrupted")
  t.eq(failed.partial, "x")
  t.eq(failed.cause.kind, "protocol")
  t.ok(not cut:complete())

  local _, _, empty = run {}
  t.eq(select(2, empty:finish()).kind, "protocol")
  t.eq(select(2, empty:finish()).code, "no_end")
end)

T.test("where the protocol has a terminator, a stream without it is cut", function(t)
  local _, _, a = run { text "x", finish("end_turn", { needs_done = true }) }
  t.ok(not a:complete())
  t.eq(select(2, a:finish()).kind, "interrupted")
  local events, _, b = run { text "x", finish("end_turn", { needs_done = true }), DONE }
  t.ok(b:complete())
  t.eq(events[#events], { type = "finish", reason = "stop" })
end)

T.test("a terminator without a finish is no end", function(t)
  local events, _, a = run { text "x", DONE }
  t.eq(#events, 1)
  t.ok(not a:complete())
  t.eq(select(2, a:finish()).kind, "interrupted")
end)

T.test("finish said twice counts once", function(t)
  local events, _, a = run { text "x", finish "length", finish "stop", DONE }
  t.eq(#events, 2)
  t.eq(a:reason(), "length")
end)

local REASONS = { stop = "stop", end_turn = "stop", stop_sequence = "stop", length = "length", max_tokens = "length",
  model_context_window_exceeded = "length", pause_turn = "pause", STOP = "stop", tool_calls = "stop", tool_use = "stop",
  ["function_call"] = "stop", whatever = "other", unknown = "other" }
T.test("finish reasons, without tool calls", function(t)
  for raw, want in pairs(REASONS) do
    local _, failed, a = run { text "x", finish(raw), DONE }
    t.eq(failed, nil, raw)
    t.eq(a:reply().finish_reason, want, raw)
    t.eq(a:reply().finish_reason_raw, raw)
  end
end)

local FAILED = { content_filter = "filtered", refusal = "filtered", sensitive = "filtered", SAFETY = "filtered",
  error = "server", network_error = "server", abort = "server", insufficient_system_resource = "overloaded" }
T.test("finish reasons that are failures", function(t)
  for raw, kind in pairs(FAILED) do
    local _, failed, a = run { text "so far", finish(raw), DONE }
    t.eq(failed.kind, kind, raw)
    t.eq(failed.partial, "so far", raw)
    t.eq(failed.code, raw)
    t.ok(not a:complete(), raw)
    t.eq(a:finish(), nil)
  end
end)

T.test("a refusal keeps the model's words", function(t)
  local _, failed = run { { type = "refusal", text = "I cannot " }, { type = "refusal", text = "do that." }, finish "stop", DONE }
  t.eq(failed, { kind = "filtered", code = "refusal", message = "I cannot do that.", partial = "" })
  _, failed = run { finish("refusal", { message = "violates policy X" }), DONE }
  t.eq(failed.message, "violates policy X")
end)

T.test("an error delta ends it, and nothing is taken afterwards", function(t)
  local events, failed, a = run { text "a", { type = "error", error = { kind = "overloaded", message = "busy" } }, text "b",
    finish "stop", DONE }
  t.eq(#events, 1)
  t.eq(failed, { kind = "overloaded", message = "busy" })
  t.ok(not a:complete())
  t.eq(a:partial(), "a")
end)

T.test("broken: before content the failure itself, afterwards an interruption", function(t)
  local a = assemble.new()
  local fields = { kind = "network", message = "reset", phase = "body" }
  t.ok(a:broken(fields) == fields)
  a:feed { type = "meta", id = "1" }
  a:feed(tool(0, "c", "f", "{"))
  t.ok(a:broken(fields) == fields, "a call that was not handed out")
  a:text "Hello"
  local got = a:broken(fields)
  t.eq(got.kind, "interrupted")
  t.eq(got.partial, "Hello")
  t.eq(got.phase, "body")
  t.match(got.message, "reset")
  t.eq(got.cause.kind, "network")
  local filtered = { kind = "filtered", message = "no" }
  t.ok(a:broken(filtered) == filtered)
  local b = assemble.new()
  b:feed { type = "thinking", text = "hm" }
  t.eq(b:broken(fields).kind, "interrupted", "thinking was shown")
  local c = assemble.new()
  c:feed(tool(0, "c", "f", "{}"))
  c:feed { type = "tool_end", index = 0 }
  t.eq(c:broken(fields).kind, "interrupted", "a call was handed out")
  for _, kind in ipairs { "cancelled", "interrupted" } do
    local same = errors.new { kind = kind, message = "m" }
    t.ok(a:broken(same) == same, kind)
  end
  local cause = errors.new(fields)
  t.ok(a:broken(cause).cause == cause, "an error stays the object it is")
end)

-- Usage -------------------------------------------------------------------------------------------

T.test("usage: the last one stands, field by field, never added", function(t)
  local _, _, a = run {
    { type = "usage", usage = { input_tokens = 9, output_tokens = 1 } }, text "x",
    { type = "usage", usage = { output_tokens = 2, cached_tokens = 4 } }, finish "stop",
    { type = "usage", usage = { output_tokens = 3.0, total_tokens = 13 } }, DONE }
  local u = a:usage()
  t.eq(u, { input_tokens = 9, output_tokens = 3, total_tokens = 13, cached_tokens = 4, reasoning_tokens = 0 })
  for name, v in pairs(u) do t.eq(math.type(v), "integer", name) end
end)

T.test("usage: cached input counted apart is put together", function(t)
  t.eq(assemble.usage { uncached_input_tokens = 10, cached_tokens = 80, cache_write_tokens = 5, output_tokens = 7 },
    { input_tokens = 95, output_tokens = 7, total_tokens = 102, cached_tokens = 80, reasoning_tokens = 0 })
end)

T.test("usage: nothing is made up", function(t)
  t.eq(assemble.usage(nil), {})
  t.eq(assemble.usage {}, {})
  t.eq(assemble.usage { output_tokens = 5 }, { output_tokens = 5, cached_tokens = 0, reasoning_tokens = 0 })
  local events = run { text "x", finish "stop", DONE }
  t.eq(#events, 2, "no usage event without usage")
end)

-- Tool calls --------------------------------------------------------------------------------------

local TOOLS = {
  { "one call in fragments", { tool(0, "a", "f", ""), tool(0, nil, nil, '{"x":'), tool(0, nil, nil, "1}") },
    { { "a", "f", '{"x":1}' } } },
  { "one call in one piece", { tool(0, "a", "f", '{"x":1}') }, { { "a", "f", '{"x":1}' } } },
  { "several calls in fragments that alternate",
    { tool(0, "a", "f", '{"x'), tool(1, "b", "g", '{"y'), tool(0, nil, nil, '":1}'), tool(1, nil, nil, '":2}') },
    { { "a", "f", '{"x":1}' }, { "b", "g", '{"y":2}' } } },
  { "indices that do not begin at 0", { tool(3, "a", "f", "{}"), tool(1, "b", "g", "{}") },
    { { "a", "f", "{}" }, { "b", "g", "{}" } } },
  { "id and name in every fragment", { tool(0, "a", "f", '{"x"'), tool(0, "a", "f", ":1"), tool(0, "a", "f", "}") },
    { { "a", "f", '{"x":1}' } } },
  { "empty id and name later", { tool(0, "a", "f", '{"x"'), tool(0, "", "", ":1}") }, { { "a", "f", '{"x":1}' } } },
  { "the id comes late", { tool(0, nil, "f", "{"), tool(0, "a", nil, "}") }, { { "a", "f", "{}" } } },
  { "the name comes late", { tool(0, "a", nil, "{"), tool(0, nil, "f", "}") }, { { "a", "f", "{}" } } },
  { "another id in each fragment of one call", { tool(0, "r1", "f", '{"x"'), tool(0, "r2", nil, ":1"), tool(0, "r3", "f", "}") },
    { { "r1", "f", '{"x":1}' } } },
  { "whole calls that all say index 0", { tool(0, "a", "f", '{"x":1}'), tool(0, "b", "f", '{"x":2}'), tool(0, "c", "g", "{}") },
    { { "a", "f", '{"x":1}' }, { "b", "f", '{"x":2}' }, { "c", "g", "{}" } } },
  { "calls without arguments that all say index 0", { tool(0, "a", "f", nil), tool(0, "b", "g", "") },
    { { "a", "f", "{}" }, { "b", "g", "{}" } } },
  { "no arguments", { tool(0, "a", "f", nil) }, { { "a", "f", "{}" } } },
  { "white space for arguments", { tool(0, "a", "f", " \n") }, { { "a", "f", "{}" } } },
  { "null for arguments", { tool(0, "a", "f", "null") }, { { "a", "f", "{}" } } },
  { "an empty list for arguments", { tool(0, "a", "f", "[]") }, { { "a", "f", "{}" } } },
  { "JSON inside a JSON string", { tool(0, "a", "f", [["{\"x\":1}"]]) }, { { "a", "f", '{"x":1}' } } },
  { "whole, then fragments: those are the truth", { tool(0, "a", "f", '{"x":0}', true), tool(0, nil, nil, '{"x":'), tool(0, nil, nil, "1}") },
    { { "a", "f", '{"x":1}' } } },
  { "a header that is repeated after all arguments", { tool(0, "a", "f", "{}"), tool(0, "a", "f", "") }, { { "a", "f", "{}" } } },
  { "the id after all arguments", { tool(0, nil, "f", "{}"), tool(0, "b", "f", "") }, { { "b", "f", "{}" } } },
  { "a name without an id after all arguments", { tool(0, "a", "f", "{}"), tool(0, nil, "f", "") }, { { "a", "f", "{}" } } },
  { "a repeated header before the arguments, with another id", { tool(0, "a", "f", ""), tool(0, "b", "f", "{}") }, { { "a", "f", "{}" } } },
  { "no index", { { type = "tool", id = "a", name = "f", arguments = "{}" } }, { { "a", "f", "{}" } } },
  { "no id", { tool(0, nil, "f", "{}"), tool(1, nil, "f", "{}") }, { { "call_chat-7_0", "f", "{}" }, { "call_chat-7_1", "f", "{}" } } },
  { "the same id twice", { tool(0, "a", "f", "{}"), tool(1, "a", "f", '{"x":1}') }, { { "a", "f", "{}" }, { "call_chat-7_1", "f", '{"x":1}' } } },
}
T.test("tool calls as they come", function(t)
  for _, case in ipairs(TOOLS) do
    local deltas = { { type = "meta", id = "chat-7" } }
    table.move(case[2], 1, #case[2], 2, deltas)
    deltas[#deltas + 1] = finish "tool_calls"
    local before = #deltas
    local events, failed, a = run(deltas)
    t.eq(failed, nil, case[1])
    t.eq(calls_of(events), case[3], case[1])
    for i, call in ipairs(a:reply().tool_calls) do
      t.eq({ call.id, call.name, call.arguments_json }, case[3][i], case[1])
      t.eq(call.arguments, json.decode(call.arguments_json), case[1])
    end
    t.eq(#a:reply().tool_calls, #case[3], case[1])
    deltas[before + 1] = DONE
    t.eq(calls_of((run(deltas))), case[3], case[1] .. ": delivered once")
  end
end)

T.test("a call split at every byte is the same call", function(t)
  local arguments = '{"city":"北京","n":[1,2],"s":"a\\"}b"}'
  for cut = 0, #arguments do
    local events = run { tool(0, "a", "f", arguments:sub(1, cut)), tool(0, nil, nil, arguments:sub(cut + 1)), finish "tool_calls" }
    t.eq(calls_of(events), { { "a", "f", arguments } }, "cut at " .. cut)
  end
end)

T.test("tool_end delivers at once, and only once", function(t)
  local a = assemble.new()
  a:feed(tool(1, "a", "f", "{}"))
  t.eq(a:feed { type = "tool_end", index = 0 }, nil, "a text block's end")
  local ev = a:feed { type = "tool_end", index = 1 }
  t.eq(ev, { type = "tool_call", id = "a", name = "f", arguments = {}, arguments_json = "{}" })
  t.eq(a:feed { type = "tool_end", index = 1 }, nil)
  t.eq(a:feed(finish("tool_use", { needs_done = true })), {})
  t.eq(a:feed(DONE), { { type = "finish", reason = "tool_calls" } })
end)

T.test("tool calls decide the finish reason; length stays length", function(t)
  for raw, want in pairs { stop = "tool_calls", tool_calls = "tool_calls", end_turn = "tool_calls", length = "length", odd = "tool_calls" } do
    local _, _, a = run { tool(0, "a", "f", "{}"), finish(raw), DONE }
    t.eq(a:reason(), want, raw)
  end
end)

T.test("arguments that are no object are an error, never half a call", function(t)
  for _, bad in ipairs { '{"x":', "[1]", "1", '"word"', "{} {}", "not json", "true" } do
    local events, failed, a = run { text "t", tool(0, "a", "f", bad), finish "tool_calls", DONE }
    t.eq(calls_of(events), {}, bad)
    t.eq(failed.kind, "protocol", bad)
    t.eq(failed.code, "tool_arguments", bad)
    t.match(failed.message, "'f'")
    t.eq(failed.partial, "t")
    t.eq(failed.should_retry, nil)
    t.eq(a:reply().tool_calls, {})
  end
end)

T.test("a call cut off by max_tokens says so, also when its block was closed", function(t)
  for _, raw in ipairs { "length", "max_tokens" } do
    local _, failed = run { tool(0, "a", "f", '{"x":'), { type = "tool_end", index = 0 }, finish(raw), DONE }
    t.eq(failed.code, "tool_arguments")
    t.match(failed.message, "raise max_tokens")
    t.eq(failed.should_retry, false)
  end
end)

T.test("a call without a name is an error", function(t)
  local _, failed = run { tool(0, "a", nil, "{}"), finish "tool_calls" }
  t.eq(failed.code, "tool_name")
end)

T.test("an interrupted call is not shown", function(t)
  local events, _, a = run { text "x", tool(0, "a", "f", "{}") }
  t.eq(calls_of(events), {})
  a:finish()
  t.eq(a:reply().tool_calls, {})
end)

T.test("a flood of calls has an end", function(t)
  local a, failed = assemble.new(), nil
  for i = 0, 2000 do
    local _, fault = a:feed(tool(i, "i" .. i, "f", "{}"))
    failed = failed or fault
  end
  t.eq(failed and failed.code, "too_large")
end)

T.test("a reply has a ceiling, whatever it is made of", function(t)
  for _, delta in ipairs { text(("x"):rep(60)), { type = "thinking", text = ("x"):rep(60) }, { type = "refusal", text = ("x"):rep(60) },
    tool(0, "a", "f", ("x"):rep(60)) } do
    local a = assemble.new { max_bytes = 150 }
    local failed
    for _ = 1, 4 do failed = failed or select(2, a:feed(delta)) end
    t.eq(failed and failed.code, "too_large", delta.type)
    t.ok(not a:complete())
  end
  local a = assemble.new { max_bytes = 10 }
  t.eq(a:text "0123456789", nil)
  t.eq(a:text "0".code, "too_large")
end)

-- Thinking ----------------------------------------------------------------------------------------

T.test("thinking is collected; unsigned it stays a plain message", function(t)
  local events, _, a = run { { type = "thinking", text = "Let " }, { type = "thinking", text = "me." }, text "Hi", finish "stop", DONE }
  t.eq(events[1], { type = "thinking", text = "Let " })
  local reply = a:reply()
  t.eq(reply.thinking, "Let me.")
  t.eq(reply.blocks, nil)
  t.eq(assemble.message(reply), { role = "assistant", content = "Hi", thinking = "Let me." })
end)

T.test("signed thinking goes back block by block, in order", function(t)
  local _, _, a = run {
    { type = "thinking", text = "one", index = 0 }, { type = "thinking_signature", signature = "s1", index = 0 },
    { type = "redacted_thinking", data = "zzz" },
    text "A", text "B",
    { type = "thinking", text = "two", index = 3 }, { type = "thinking_signature", signature = "s2", index = 3 },
    tool(4, "c1", "f", '{"x":1}'), { type = "tool_end", index = 4 },
    text "C",
    finish("tool_use", { needs_done = true }), DONE }
  local reply = a:reply()
  t.eq(reply.text, "ABC")
  t.eq(reply.thinking, "one\n\ntwo")
  t.eq(reply.blocks, {
    { type = "thinking", thinking = "one", signature = "s1" },
    { type = "redacted_thinking", data = "zzz" },
    { type = "text", text = "AB" },
    { type = "thinking", thinking = "two", signature = "s2" },
    { type = "tool_use", id = "c1", name = "f", input = { x = 1 } },
    { type = "text", text = "C" },
  })
  t.eq(assemble.message(reply), { role = "assistant", content = reply.blocks })
end)

T.test("a signature alone makes a block (display omitted)", function(t)
  local _, _, a = run { { type = "thinking_signature", signature = "s", index = 0 }, text "x", finish "end_turn", DONE }
  t.eq(a:reply().blocks, { { type = "thinking", thinking = "", signature = "s" }, { type = "text", text = "x" } })
  t.eq(a:reply().thinking, nil)
end)

T.test("redacted thinking alone goes back too", function(t)
  local _, _, a = run { { type = "redacted_thinking", data = "z" }, text "x", finish "end_turn", DONE }
  t.eq(a:reply().blocks, { { type = "redacted_thinking", data = "z" }, { type = "text", text = "x" } })
end)

T.test("a reply taken before the end leaves out the call that is not whole", function(t)
  local _, _, a = run { { type = "thinking_signature", signature = "s", index = 0 }, tool(1, "c", "f", '{"x'), text "t" }
  t.eq(a:reply().blocks, { { type = "thinking", thinking = "", signature = "s" }, { type = "text", text = "t" } })
  t.eq(a:reply().finish_reason, nil)
end)

T.test("blocks of the vendor's own are kept for the next request, and not shown", function(t)
  local events, _, a = run {
    { type = "block", index = 0, block = { type = "server_tool_use", id = "s1", name = "web_search", input = {} } },
    tool(0, nil, nil, '{"query":'), tool(0, nil, nil, '"x"}'), { type = "tool_end", index = 0 },
    { type = "block", index = 1, block = { type = "web_search_tool_result", tool_use_id = "s1", content = {} } },
    text "found", finish("end_turn", { needs_done = true }), DONE }
  t.eq(calls_of(events), {})
  t.eq(a:reply().finish_reason, "stop")
  t.eq(a:reply().blocks, {
    { type = "server_tool_use", id = "s1", name = "web_search", input = { query = "x" } },
    { type = "web_search_tool_result", tool_use_id = "s1", content = {} },
    { type = "text", text = "found" },
  })
end)

T.test("what a script does to a call's arguments does not change what goes back", function(t)
  local events, _, a = run { { type = "thinking_signature", signature = "s", index = 0 }, tool(1, "c", "f", '{"x":1}'), finish "tool_use", DONE }
  events[1].arguments.x = 99
  t.eq(a:reply().blocks[2].input, { x = 1 })
end)

-- <think> -----------------------------------------------------------------------------------------

local THINK = {
  { "<think>\nplan\n</think>\n\nHello", "plan", "Hello" },
  { "  \n<think>plan</think>Hello", "plan", "Hello" },
  { "Hello <think>x</think>", nil, "Hello <think>x</think>" },
  { "<thin air", nil, "<thin air" },
  { "<think>never closed", "never closed", "" },
  { "<think></think>Hi", nil, "Hi" },
  { "<think>a < b </thin </think> c", "a < b </thin", "c" },
  { "plain", nil, "plain" },
  { "<think>a</think><think>b</think>", "a", "<think>b</think>" },
  { "<", nil, "<" },
}
T.test("think tags: whole, split at every byte, byte by byte", function(t)
  local function check(pieces, case, how)
    local deltas = {}
    for _, piece in ipairs(pieces) do deltas[#deltas + 1] = text(piece) end
    deltas[#deltas + 1] = finish "stop"
    deltas[#deltas + 1] = DONE
    local events, failed, a = run(deltas, { think_tags = true })
    t.eq(failed, nil)
    t.eq({ a:reply().thinking, a:reply().text }, { case[2], case[3] }, case[1] .. " " .. how)
    local shown = { thinking = "", text = "" }
    for _, ev in ipairs(events) do
      if ev.text then shown[ev.type] = shown[ev.type] .. ev.text end
    end
    t.eq(shown, { thinking = case[2] or "", text = case[3] }, case[1] .. " events " .. how)
  end
  for _, case in ipairs(THINK) do
    check({ case[1] }, case, "whole")
    local bytes = {}
    for i = 1, #case[1] do
      bytes[i] = case[1]:sub(i, i)
      check({ case[1]:sub(1, i), case[1]:sub(i + 1) }, case, "cut at " .. i)
    end
    check(bytes, case, "byte by byte")
  end
end)

T.test("think tags: opened by the prompt, or not asked for", function(t)
  local _, _, a = run({ text "plan</think>Hi", finish "stop", DONE }, { think_tags = "open" })
  t.eq({ a:reply().thinking, a:reply().text }, { "plan", "Hi" })
  t.ok(not a.fast)
  _, _, a = run { text "<think>plan</think>Hi", finish "stop", DONE }
  t.eq({ a:reply().thinking, a:reply().text }, { nil, "<think>plan</think>Hi" })
end)

T.test("think tags: a flood of white space is not held for ever", function(t)
  for _, start in ipairs { "", "<think>x" } do
    local a = assemble.new { think_tags = true }
    a:feed(text(start))
    local shown = 0
    for _ = 1, 100 do
      for _, ev in ipairs(a:feed(text((" "):rep(100))) or {}) do shown = shown + #ev.text end
    end
    t.ok(shown > 9000, shown)
  end
end)

-- Faults of a provider module -----------------------------------------------------------------------

T.test("a delta that is wrong is the provider's fault, and says which", function(t)
  local a = assemble.new()
  t.raises("unknown delta type 'txt' %(did you mean 'text'%?%)", a.feed, a, { type = "txt" })
  t.raises("unknown delta type 'nil'", a.feed, a, {})
  t.raises("delta 'text' needs a string in 'text', got nil", a.feed, a, { type = "text" })
  t.raises("delta 'thinking' needs a string", a.feed, a, { type = "thinking", text = 1 })
  t.raises("delta 'usage' needs a table", a.feed, a, { type = "usage" })
  t.raises("delta 'error' needs a table", a.feed, a, { type = "error" })
end)

-- Whole streams through both protocols ---------------------------------------------------------------

local function stream(protocol, lines)
  local deltas = {}
  for _, line in ipairs(lines) do
    local ev = type(line) == "table" and line or { data = line }
    for _, delta in ipairs(protocol.event(ev)) do deltas[#deltas + 1] = delta end
  end
  return run(deltas)
end

T.test("an OpenAI stream from end to end", function(t)
  local events, failed, a = stream(openai, {
    [[{"id":"c1","object":"chat.completion.chunk","model":"gpt","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}]],
    [[{"id":"c1","model":"gpt","choices":[{"index":0,"delta":{"content":"Hel"},"finish_reason":null}]}]],
    [[{"id":"c1","model":"gpt","choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":null}]}]],
    [[{"id":"c1","model":"gpt","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}]}]],
    [[{"id":"c1","model":"gpt","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":"}}]},"finish_reason":null}]}]],
    [[{"id":"c1","model":"gpt","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]},"finish_reason":null}]}]],
    [[{"id":"c1","model":"gpt","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}]],
    [[{"id":"c1","model":"gpt","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}]],
    "[DONE]",
  })
  t.eq(failed, nil)
  local types = {}
  for i, ev in ipairs(events) do types[i] = ev.type end
  t.eq(types, { "text", "text", "tool_call", "usage", "finish" })
  local reply = a:reply()
  t.eq({ reply.text, reply.id, reply.model, reply.finish_reason, reply.usage.total_tokens }, { "Hello", "c1", "gpt", "tool_calls", 12 })
end)

T.test("an Anthropic stream from end to end", function(t)
  local function ev(name, data) return { event = name, data = data } end
  local events, failed, a = stream(anthropic, {
    ev("message_start", [[{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"c","content":[],"stop_reason":null,"usage":{"input_tokens":25,"cache_read_input_tokens":100,"cache_creation_input_tokens":0,"output_tokens":1}}}]]),
    ev("content_block_start", [[{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}]]),
    ev("content_block_delta", [[{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}]]),
    ev("content_block_delta", [[{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"SIG"}}]]),
    ev("content_block_stop", [[{"type":"content_block_stop","index":0}]]),
    ev("content_block_start", [[{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}]]),
    ev("ping", [[{"type":"ping"}]]),
    ev("content_block_delta", [[{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hello"}}]]),
    ev("content_block_stop", [[{"type":"content_block_stop","index":1}]]),
    ev("content_block_start", [[{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_1","name":"f","input":{}}}]]),
    ev("content_block_delta", [[{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":""}}]]),
    ev("content_block_delta", [[{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"x\": 1"}}]]),
    ev("content_block_delta", [[{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"}"}}]]),
    ev("content_block_stop", [[{"type":"content_block_stop","index":2}]]),
    ev("message_delta", [[{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":null,"output_tokens":15}}]]),
    ev("message_stop", [[{"type":"message_stop"}]]),
  })
  t.eq(failed, nil)
  local types = {}
  for i, e in ipairs(events) do types[i] = e.type end
  t.eq(types, { "thinking", "text", "tool_call", "usage", "finish" })
  local reply = a:reply()
  t.eq(reply.usage, { input_tokens = 125, output_tokens = 15, total_tokens = 140, cached_tokens = 100, reasoning_tokens = 0 })
  t.eq(reply.tool_calls[1].arguments, { x = 1 })
  t.eq(reply.blocks, { { type = "thinking", thinking = "hm", signature = "SIG" }, { type = "text", text = "Hello" },
    { type = "tool_use", id = "toolu_1", name = "f", input = { x = 1 } } })
end)

T.done()
