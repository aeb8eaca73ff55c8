-- The Anthropic protocol: what a request becomes, what events and whole replies mean.
-- luacheck: no max line length (bodies stand as on the wire, cases on one line)
local T = require "harness"
local anthropic = require "sluice.provider.anthropic"
local assemble = require "sluice.assemble"
local json = require "sluice.json"
local openai = require "sluice.provider.openai"
local provider = require "sluice.provider"

local function body(call)
  call.model = call.model or "c"
  return anthropic.request(call).body
end
local function messages(list, more)
  local call = { model = "c", messages = list }
  for key, value in pairs(more or {}) do call[key] = value end
  return anthropic.request(call).body.messages
end

-- Requests ----------------------------------------------------------------------------------------

T.test("the smallest request", function(t)
  t.eq(anthropic.request { model = "c", prompt = "hi" }, { method = "POST", path = "/v1/messages",
    headers = { ["Content-Type"] = "application/json", Accept = "application/json", ["anthropic-version"] = "2023-06-01" },
    body = { model = "c", max_tokens = 4096, messages = { { role = "user", content = "hi" } } } })
  local r = anthropic.request { model = "c", prompt = "hi", stream = true, quirks = { version = "2026-10-21" } }
  t.eq({ r.body.stream, r.headers.Accept, r.headers["anthropic-version"] }, { true, "text/event-stream", "2026-10-21" })
end)

T.test("every field has its place; hints without a counterpart are left out", function(t)
  t.eq(body { prompt = "x", system = "s", max_tokens = 5, temperature = 0.5, top_p = 0.9, top_k = 3, stop = "END", user = "u", seed = 1,
    frequency_penalty = 1, presence_penalty = 1, min_p = 0.1, extra = { service_tier = "auto", top_k = json.null } },
    { model = "c", system = "s", messages = { { role = "user", content = "x" } }, max_tokens = 5, temperature = 0.5, top_p = 0.9,
      stop_sequences = { "END" }, metadata = { user_id = "u" }, service_tier = "auto" })
  t.eq(body { prompt = "x", stop = { "a", "b" } }.stop_sequences, { "a", "b" })
end)

local SCHEMA = { type = "object", properties = { city = { type = "string" } } }
local OWN = { name = "weather", description = "d", input_schema = SCHEMA }

T.test("tools of every dialect", function(t)
  t.eq(body { prompt = "x", tools = { { name = "weather", description = "d", parameters = SCHEMA } } }.tools, { OWN })
  t.eq(body { prompt = "x", tools = { { type = "function", ["function"] = { name = "weather", description = "d", parameters = SCHEMA } } } }.tools, { OWN })
  t.ok(body { prompt = "x", tools = { OWN } }.tools[1] == OWN, "its own form passes untouched")
  local server = { type = "web_search_20250305", name = "web_search", max_uses = 5 }
  t.ok(body { prompt = "x", tools = { server } }.tools[1] == server)
  t.eq(body { prompt = "x", tools = { { name = "now" } } }.tools[1].input_schema, { type = "object", properties = {} })
end)

T.test("tool_choice", function(t)
  local function choice(c, more)
    local call = { prompt = "x", tools = { OWN, { name = "b" } }, tool_choice = c }
    for key, value in pairs(more or {}) do call[key] = value end
    return body(call).tool_choice
  end
  t.eq(choice "auto", { type = "auto" })
  t.eq(choice "none", { type = "none" })
  t.eq(choice "required", { type = "any" })
  t.eq(choice { name = "weather" }, { type = "tool", name = "weather" })
  t.eq(choice { type = "function", ["function"] = { name = "weather" } }, { type = "tool", name = "weather" })
  t.eq(choice(nil), nil)
  t.eq(choice(nil, { parallel_tool_calls = false }), { type = "auto", disable_parallel_tool_use = true })
  t.eq(choice("required", { parallel_tool_calls = false }), { type = "any", disable_parallel_tool_use = true })
  t.eq(choice("none", { parallel_tool_calls = false }), { type = "none" })
  t.eq(choice(nil, { parallel_tool_calls = true }), nil)
  local quirks = provider.get("siliconflow", "anthropic").quirks
  t.raises("tool_choice: this provider cannot require just any tool", choice, "required", { quirks = quirks })
  t.eq(choice("required", { quirks = quirks, tools = { OWN } }), { type = "tool", name = "weather" })
  t.eq(choice(nil, { parallel_tool_calls = false, quirks = quirks }), nil)
end)

local THINKING = {
  -- thinking, max_tokens, quirks -> thinking, output_config, max_tokens
  { nil, nil, nil, nil, nil, 4096 },
  { false, 100, nil, { type = "disabled" }, nil, 100 },
  { "none", nil, nil, { type = "disabled" }, nil, 4096 },
  { true, nil, nil, { type = "enabled", budget_tokens = 4096 }, nil, 8192 },
  { true, 3000, nil, { type = "enabled", budget_tokens = 1500 }, nil, 3000 },
  { true, 1500, nil, { type = "enabled", budget_tokens = 1024 }, nil, 1500 },
  { true, 100000, nil, { type = "enabled", budget_tokens = 4096 }, nil, 100000 },
  { { budget = 2000 }, nil, nil, { type = "enabled", budget_tokens = 2000 }, nil, 6096 },
  { { budget = 10 }, nil, nil, { type = "enabled", budget_tokens = 1024 }, nil, 5120 },
  { { budget = 2000 }, 3000, nil, { type = "enabled", budget_tokens = 2000 }, nil, 3000 },
  { "high", nil, nil, { type = "adaptive" }, { effort = "high" }, 4096 },
  { "minimal", nil, nil, { type = "adaptive" }, { effort = "low" }, 4096 },
  { { effort = "max" }, nil, nil, { type = "adaptive" }, { effort = "max" }, 4096 },
  { "low", nil, { adaptive = false }, { type = "enabled", budget_tokens = 2048 }, nil, 6144 },
  { "high", 5000, { adaptive = false }, { type = "enabled", budget_tokens = 4999 }, nil, 5000 },
}
T.test("thinking", function(t)
  for i, case in ipairs(THINKING) do
    local b = body { prompt = "x", thinking = case[1], max_tokens = case[2], quirks = case[3] }
    t.eq({ b.thinking, b.output_config, b.max_tokens }, { case[4], case[5], case[6] }, "case " .. i)
  end
  t.raises("thinking: a budget of 2000 tokens .* must be below max_tokens, which is 1500", body,
    { prompt = "x", thinking = { budget = 2000 }, max_tokens = 1500 })
  t.raises("thinking: needs max_tokens above 1024, which is 500", body, { prompt = "x", thinking = true, max_tokens = 500 })
end)

T.test("response_format", function(t)
  t.eq(body { prompt = "x", response_format = { schema = SCHEMA } }.output_config, { format = { type = "json_schema", schema = SCHEMA } })
  t.eq(body { prompt = "x", thinking = "high", response_format = { schema = SCHEMA } }.output_config,
    { effort = "high", format = { type = "json_schema", schema = SCHEMA } })
  t.eq(body { prompt = "x", response_format = { type = "json_schema", json_schema = { name = "n", schema = SCHEMA } } }.output_config.format.schema, SCHEMA)
  t.eq(body { prompt = "x", response_format = "text" }.output_config, nil)
  t.raises("response_format: the anthropic protocol takes only", body, { prompt = "x", response_format = "json" })
end)

-- Messages ----------------------------------------------------------------------------------------

T.test("system text from everywhere joins at the top", function(t)
  local b = body { system = "one", messages = { { role = "system", content = "two" }, { role = "user", content = "q" },
    { role = "developer", content = { { type = "text", text = "three" } } } }, prompt = "p" }
  t.eq(b.system, "one\n\ntwo\n\nthree")
  t.eq(b.messages, { { role = "user", content = { { type = "text", text = "q" }, { type = "text", text = "p" } } } })
  local marked = { type = "text", text = "cached", cache_control = { type = "ephemeral" } }
  t.eq(body { system = { "a", marked }, prompt = "p" }.system, { { type = "text", text = "a" }, marked })
  t.eq(body { system = "", prompt = "p" }.system, nil)
end)

T.test("blocks of its own pass by reference", function(t)
  local blocks = { { type = "text", text = "q", cache_control = { type = "ephemeral" } }, { type = "image", source = { type = "file", file_id = "f" } },
    { type = "document", source = { type = "url", url = "https://x/y.pdf" } }, { type = "search_result", source = "s", title = "t", content = {} } }
  local got = messages { { role = "user", content = blocks } }
  for i, b in ipairs(blocks) do t.ok(got[1].content[i] == b, i) end
  local thought = { type = "thinking", thinking = "hm", signature = "s" }
  local hidden = { type = "redacted_thinking", data = "z" }
  local use = { type = "tool_use", id = "t", name = "f", input = { x = 1 } }
  local server = { type = "server_tool_use", id = "s", name = "web_search", input = {} }
  got = messages { { role = "user", content = "q" }, { role = "assistant", content = { thought, hidden, server, { type = "text", text = "a" }, use } },
    { role = "user", content = { { type = "tool_result", tool_use_id = "t", content = "1" } } } }
  t.ok(got[2].content[1] == thought)
  t.ok(got[2].content[2] == hidden)
  t.ok(got[2].content[3] == server)
  t.ok(got[2].content[5] == use)
  t.eq(got[3], { role = "user", content = { { type = "tool_result", tool_use_id = "t", content = "1" } } })
end)

T.test("images of every dialect", function(t)
  local function part(p) return messages({ { role = "user", content = { p } } })[1].content[1] end
  local base64 = { type = "image", source = { type = "base64", media_type = "image/png", data = "AAAA" } }
  t.eq(part { type = "image", data = "AAAA", media_type = "image/png" }, base64)
  t.eq(part { type = "image", url = "data:image/png;base64,AAAA" }, base64)
  t.eq(part { type = "image_url", image_url = { url = "data:image/png;base64,AAAA" } }, base64)
  t.eq(part { type = "image_url", image_url = "https://x/y.png" }, { type = "image", source = { type = "url", url = "https://x/y.png" } })
  t.eq(part { type = "image", url = "https://x/y.png" }, { type = "image", source = { type = "url", url = "https://x/y.png" } })
  t.eq(part { type = "file", file = { filename = "a.pdf", file_data = "data:application/pdf;base64,JVBE" } },
    { type = "document", title = "a.pdf", source = { type = "base64", media_type = "application/pdf", data = "JVBE" } })
  t.raises("messages%[1%]%.content%[1%]: a file can go over the anthropic protocol only as file_data", part, { type = "file", file = { file_id = "f" } })
  t.raises("'input_audio' cannot be sent over the anthropic protocol", part, { type = "input_audio", input_audio = {} })
end)

T.test("empty text is dropped, an empty turn too", function(t)
  t.eq(messages { { role = "user", content = { { type = "text", text = "" }, { type = "text", text = "q" } } }, { role = "assistant", content = "" },
    { role = "user", content = "p" } }, { { role = "user", content = { { type = "text", text = "q" }, { type = "text", text = "p" } } } })
  t.raises("messages: nothing to send: all text is empty", messages, { { role = "user", content = "" } })
end)

T.test("results of a run of tool messages are one turn, first of all", function(t)
  local got = messages {
    { role = "user", content = "q" },
    { role = "assistant", content = "I look.", tool_calls = { { id = "a", name = "f", arguments = { x = 1 } }, { id = "b", name = "g" },
      { id = "c", type = "function", ["function"] = { name = "h", arguments = '{"y":2}' } } } },
    { role = "tool", tool_call_id = "a", content = "one" },
    { role = "user", content = "by the way" },
    { role = "tool", tool_call_id = "b", content = { ok = true }, is_error = true },
    { role = "tool", tool_call_id = "c", content = { { type = "text", text = "t" }, { type = "image", data = "A", media_type = "image/png" } } },
  }
  t.eq(got[2], { role = "assistant", content = { { type = "text", text = "I look." }, { type = "tool_use", id = "a", name = "f", input = { x = 1 } },
    { type = "tool_use", id = "b", name = "g", input = {} }, { type = "tool_use", id = "c", name = "h", input = { y = 2 } } } })
  t.eq(got[3], { role = "user", content = {
    { type = "tool_result", tool_use_id = "a", content = "one" },
    { type = "tool_result", tool_use_id = "b", content = '{"ok":true}', is_error = true },
    { type = "tool_result", tool_use_id = "c", content = { { type = "text", text = "t" }, { type = "image", source = { type = "base64", media_type = "image/png", data = "A" } } } },
    { type = "text", text = "by the way" } } })
  t.eq(#got, 3)
end)

T.test("results that stand after text in their own turn are moved before it", function(t)
  local got = messages { { role = "assistant", content = { { type = "tool_use", id = "a", name = "f", input = {} } } },
    { role = "user", content = { { type = "text", text = "so?" }, { type = "tool_result", tool_use_id = "a", content = "1" } } } }
  t.eq(got[2].content, { { type = "tool_result", tool_use_id = "a", content = "1" }, { type = "text", text = "so?" } })
end)

T.test("an empty result has no content; an input stays an object", function(t)
  local got = messages { { role = "assistant", tool_calls = { { id = "a", name = "f", arguments_json = "" } } }, { role = "tool", tool_call_id = "a", content = "" } }
  t.eq(got[2].content, { { type = "tool_result", tool_use_id = "a" } })
  t.match(json.encode(got[1]), '"input":{}')
end)

T.test("ids of other vendors are put into Anthropic's letters, on both sides", function(t)
  local got = messages { { role = "assistant", tool_calls = { { id = "functions.f:0", name = "f" } } }, { role = "tool", tool_call_id = "functions.f:0", content = "1" } }
  t.eq({ got[1].content[1].id, got[2].content[1].tool_use_id }, { "functions_f_0", "functions_f_0" })
end)

T.test("thinking goes back only with its signature", function(t)
  t.eq(messages({ { role = "assistant", thinking = "hm", content = "a" }, { role = "user", content = "q" } })[1], { role = "assistant", content = "a" })
  t.eq(messages({ { role = "assistant", content = { { type = "thinking", thinking = "x" }, { type = "thinking", thinking = "y", signature = "" }, { type = "text", text = "a" } } },
    { role = "user", content = "q" } })[1], { role = "assistant", content = "a" })
  t.eq(messages({ { role = "assistant", content = "a", thinking = { { thinking = "hm", signature = "s" }, { data = "z" }, "loose" } }, { role = "user", content = "q" } })[1].content,
    { { type = "thinking", thinking = "hm", signature = "s" }, { type = "redacted_thinking", data = "z" }, { type = "text", text = "a" } })
end)

T.test("a prefix may not end in white space", function(t)
  t.eq(messages({ { role = "user", content = "q" }, { role = "assistant", content = "So far \n" } })[2], { role = "assistant", content = "So far" })
  t.eq(messages({ { role = "user", content = "q" }, { role = "assistant", content = " \n" } }), { { role = "user", content = "q" } })
  t.eq(messages({ { role = "assistant", content = "a " }, { role = "user", content = "q" } })[1].content, "a ", "only at the end")
  local b = { type = "text", text = "x " }
  messages { { role = "user", content = "q" }, { role = "assistant", content = { b } } }
  t.eq(b.text, "x ", "the script's own block is left alone")
  t.eq(messages({ { role = "user", content = "q" }, { role = "assistant", content = { "a ", b } } })[2].content, { { type = "text", text = "a " }, { type = "text", text = "x" } })
  t.eq(messages({ { role = "user", content = "q" }, { role = "assistant", content = { "a", { type = "text", text = " " } } } })[2].content, "a")
  t.eq(messages({ { role = "user", content = "q" }, { role = "assistant", content = "x ", tool_calls = { { id = "a", name = "f" } } } })[2].content[1].text, "x ")
end)

T.test("OpenAI's own messages are translated whole", function(t)
  local got = messages {
    { role = "system", content = "s" },
    { role = "user", name = "bob", content = { { type = "text", text = "look" }, { type = "image_url", image_url = { url = "https://x", detail = "low" } } } },
    { role = "assistant", content = json.null, refusal = json.null, tool_calls = { { id = "call_1", type = "function", ["function"] = { name = "f", arguments = "{}" } } } },
    { role = "tool", tool_call_id = "call_1", content = "42" },
    { role = "assistant", content = { { type = "refusal", refusal = "no" } } },
    { role = "user", content = "q" },
  }
  t.eq(got, {
    { role = "user", content = { { type = "text", text = "look" }, { type = "image", source = { type = "url", url = "https://x" } } } },
    { role = "assistant", content = { { type = "tool_use", id = "call_1", name = "f", input = {} } } },
    { role = "user", content = { { type = "tool_result", tool_use_id = "call_1", content = "42" } } },
    { role = "assistant", content = "no" },
    { role = "user", content = "q" },
  })
end)

local WRONG = {
  { { { role = "model", content = "x" } }, "messages[1].role: expected one of system, developer, user, assistant, tool, got 'model'" },
  { { { role = "user" } }, "messages[1].content: expected a string or a list of parts" },
  { { { role = "user", content = { {} } } }, "messages[1].content[1]: expected a string or a part with a type" },
  { { { role = "tool", content = "x" } }, "messages[1].tool_call_id: expected the id" },
  { { { role = "assistant", tool_calls = { { id = "a", name = "f", arguments_json = "{" } } } }, "messages[1].tool_calls[1].arguments: not valid JSON" },
  { { { role = "assistant", tool_calls = { { id = "a", name = "f", arguments_json = "5" } } } }, "messages[1].tool_calls[1].arguments: expected a JSON object" },
  { { { role = "assistant", content = { { type = "tool_call", name = "f" } } } }, "messages[1].content[1].id: expected the id" },
}
T.test("what is wrong is named by its path", function(t)
  for i, case in ipairs(WRONG) do
    local ok, err = pcall(anthropic.request, { model = "c", messages = case[1], where = "model:ask" })
    t.ok(not ok, "case " .. i)
    t.ok(tostring(err):find("model:ask: " .. case[2], 1, true), tostring(err))
  end
end)

T.test("a request does not change what it was given", function(t)
  local call = { model = "c", system = { "s" }, prompt = { "p" }, tools = { { name = "f", parameters = SCHEMA } }, parallel_tool_calls = false, extra = { a = 1 },
    messages = { { role = "user", content = "q" }, { role = "assistant", content = "x ", tool_calls = { { id = "a:b", name = "f", arguments = { x = 1 } } } },
      { role = "tool", tool_call_id = "a:b", content = "1", is_error = false }, { role = "assistant", content = { { type = "text", text = "y " } } } } }
  local before = json.decode(json.encode(call))
  local first = json.decode(json.encode(anthropic.request(call).body))
  t.eq(json.decode(json.encode(call)), before)
  t.eq(json.decode(json.encode(anthropic.request(call).body)), first, "and says the same twice")
end)

-- Events ------------------------------------------------------------------------------------------

local EVENTS = {
  { "message_start", [[{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"c","content":[],"stop_reason":null,"usage":{"input_tokens":25,"output_tokens":1}}}]],
    { { type = "meta", id = "msg_1", model = "c" }, { type = "usage", usage = { uncached_input_tokens = 25, output_tokens = 1 } } } },
  { "ping", [[{"type":"ping"}]], {} },
  { "text block opens", [[{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}]], {} },
  { "text block opens with text", [[{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"Hi"}}]], { { type = "text", text = "Hi" } } },
  { "text", [[{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}]], { { type = "text", text = "Hello" } } },
  { "empty text", [[{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}]], {} },
  { "thinking", [[{"type":"content_block_delta","index":1,"delta":{"type":"thinking_delta","thinking":"hm"}}]], { { type = "thinking", text = "hm", index = 1 } } },
  { "signature", [[{"type":"content_block_delta","index":1,"delta":{"type":"signature_delta","signature":"S"}}]], { { type = "thinking_signature", signature = "S", index = 1 } } },
  { "thinking block with all in it", [[{"type":"content_block_start","index":2,"content_block":{"type":"thinking","thinking":"x","signature":"S"}}]],
    { { type = "thinking", text = "x", index = 2 }, { type = "thinking_signature", signature = "S", index = 2 } } },
  { "redacted thinking", [[{"type":"content_block_start","index":0,"content_block":{"type":"redacted_thinking","data":"zzz"}}]], { { type = "redacted_thinking", data = "zzz" } } },
  { "tool opens", [[{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"f","input":{}}}]], { { type = "tool", index = 1, id = "toolu_1", name = "f" } } },
  { "tool opens with its input", [[{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"f","input":{"x":1}}}]],
    { { type = "tool", index = 1, id = "toolu_1", name = "f", arguments = '{"x":1}', whole = true } } },
  { "tool arguments", [[{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"x\""}}]], { { type = "tool", index = 1, arguments = '{"x"' } } },
  { "empty tool arguments", [[{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}]], {} },
  { "block stops", [[{"type":"content_block_stop","index":1}]], { { type = "tool_end", index = 1 } } },
  { "a server tool", [[{"type":"content_block_start","index":1,"content_block":{"type":"server_tool_use","id":"s","name":"web_search","input":{}}}]],
    { { type = "block", index = 1, block = { type = "server_tool_use", id = "s", name = "web_search", input = {} } } } },
  { "citations", [[{"type":"content_block_delta","index":0,"delta":{"type":"citations_delta","citation":{}}}]], {} },
  { "an unknown delta", [[{"type":"content_block_delta","index":0,"delta":{"type":"new_delta","x":1}}]], {} },
  { "message_delta", [[{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}}]],
    { { type = "usage", usage = { output_tokens = 15 } }, { type = "finish", reason = "end_turn", needs_done = true } } },
  { "message_delta without a reason", [[{"type":"message_delta","delta":{"stop_reason":null},"usage":{"input_tokens":null,"cache_read_input_tokens":3,"cache_creation_input_tokens":null,"output_tokens":15,"output_tokens_details":{"thinking_tokens":9}}}]],
    { { type = "usage", usage = { cached_tokens = 3, output_tokens = 15, reasoning_tokens = 9 } } } },
  { "message_delta without usage", [[{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}]], { { type = "finish", reason = "max_tokens", needs_done = true } } },
  { "a refusal explains itself", [[{"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"type":"refusal","explanation":"unsafe"}}}]],
    { { type = "finish", reason = "refusal", needs_done = true, message = "unsafe" } } },
  { "message_stop", [[{"type":"message_stop"}]], { { type = "done" } } },
  { "SiliconFlow's terminator", "[DONE]", { { type = "done" } } },
  { "an unknown event", [[{"type":"brand_new","x":1}]], {} }, { "empty data", "", {} }, { "an empty object", "{}", {} },
  { "a start without its block", [[{"type":"content_block_start","index":0}]], {} },
  { "a delta without its delta", [[{"type":"content_block_delta","index":0}]], {} },
}
T.test("events", function(t)
  for _, case in ipairs(EVENTS) do
    t.eq(anthropic.event { data = case[2] }, case[3], case[1])
    local name = case[2]:match '^{"type":"([%w_]+)"'
    if name then t.eq(anthropic.event { event = name, data = case[2] }, case[3], case[1] .. ", named") end
  end
  t.eq(anthropic.event { event = "message_stop", data = "{}" }, { { type = "done" } }, "only the name")
  t.eq(anthropic.event { event = "content_block_delta", data = [[{"index":0,"delta":{"type":"text_delta","text":"x"}}]] }, { { type = "text", text = "x" } })
end)

T.test("errors inside a stream, each dialect", function(t)
  for _, case in ipairs {
    { { event = "error", data = [[{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}]] }, "overloaded", "Overloaded" },
    { { data = [[{"type":"error","error":{"type":"api_error","message":"boom"}}]] }, "server", "boom" },
    { { event = "error", data = [[{"message":"gone"}]] }, "server", "gone" },
    { { data = [[{"error":{"message":"bad","code":400}}]] }, "invalid", "bad" },
    { { data = [[{"object":"error","message":"no","code":429}]] }, "rate_limited", "no" },
    { { data = [[{"code":50505,"message":"busy","data":null}]] }, "overloaded", "busy" },
    { { event = "message_start", data = "{broken" }, "protocol" }, { { data = "[1]x" }, "protocol" }, { { data = "7" }, "protocol" },
  } do
    local list = anthropic.event(case[1])
    t.eq(#list, 1)
    t.eq(list[1].type, "error", case[1].data)
    t.eq(list[1].error.kind, case[2], case[1].data)
    if case[3] then t.eq(list[1].error.message, case[3]) end
  end
end)

-- Streams ending in different ways -------------------------------------------------------------------

local function stream(lines)
  local a, failed = assemble.new(), nil
  for _, data in ipairs(lines) do
    for _, d in ipairs(anthropic.event { data = data }) do failed = failed or select(2, a:feed(d)) end
  end
  return a, failed
end
local START = [[{"type":"message_start","message":{"id":"m","model":"c","usage":{"input_tokens":1,"output_tokens":1}}}]]
local TEXT = [[{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}]]
local STOP = [[{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}]]

T.test("complete is what says so: stop reason and terminator", function(t)
  t.ok((stream { START, TEXT, STOP, [[{"type":"message_stop"}]] }):complete())
  t.ok((stream { START, TEXT, STOP, "[DONE]" }):complete(), "SiliconFlow")
  t.ok((stream { START, TEXT, STOP, [[{"type":"message_stop"}]], "[DONE]" }):complete(), "both")
  t.ok(not (stream { START, TEXT, STOP }):complete())
  t.ok(not (stream { START, TEXT, [[{"type":"message_stop"}]] }):complete(), "no reason, no answer")
  t.ok(not (stream { START, TEXT }):complete())
end)

T.test("several message_deltas: the counts of the last, the first reason", function(t)
  local a = stream { START, TEXT, [[{"type":"message_delta","delta":{"stop_reason":null},"usage":{"output_tokens":2}}]],
    [[{"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":{"output_tokens":9}}]], [[{"type":"message_stop"}]] }
  local r = a:reply()
  t.eq({ r.finish_reason, r.usage.output_tokens, r.usage.input_tokens }, { "length", 9, 1 })
end)

T.test("a refusal is the error filtered", function(t)
  local a, failed = stream { START, [[{"type":"message_delta","delta":{"stop_reason":"refusal"}}]], [[{"type":"message_stop"}]] }
  t.eq(failed.kind, "filtered")
  t.ok(not a:complete())
end)

-- Whole replies -------------------------------------------------------------------------------------

local function reply(text)
  local a = assemble.new()
  local failed
  for _, d in ipairs(anthropic.reply(json.decode(text))) do failed = failed or select(2, a:feed(d)) end
  return a:reply(), failed, a
end

T.test("whole replies", function(t)
  local r, failed, a = reply [[{"id":"msg_1","type":"message","role":"assistant","model":"c","content":[{"type":"thinking","thinking":"hm","signature":"S"},{"type":"text","text":"Hello "},{"type":"text","text":"you","citations":null},{"type":"tool_use","id":"toolu_1","name":"f","input":{"x":1}},{"type":"tool_use","id":"toolu_2","name":"g","input":{},"caller":{"type":"direct"}}],"stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":5,"cache_read_input_tokens":80,"output_tokens":7,"service_tier":"standard"}}]]
  t.eq(failed, nil)
  t.ok(a:complete())
  t.eq({ r.text, r.thinking, r.finish_reason, r.finish_reason_raw, r.id, r.model }, { "Hello you", "hm", "tool_calls", "tool_use", "msg_1", "c" })
  t.eq(r.usage, { input_tokens = 95, output_tokens = 7, total_tokens = 102, cached_tokens = 80, reasoning_tokens = 0 })
  t.eq(r.tool_calls, { { id = "toolu_1", name = "f", arguments = { x = 1 }, arguments_json = '{"x":1}' }, { id = "toolu_2", name = "g", arguments = {}, arguments_json = "{}" } })

  r = reply [[{"id":"m","content":[{"type":"text","text":"x"}],"stop_reason":"stop_sequence","stop_sequence":"END"}]]
  t.eq({ r.text, r.finish_reason, r.finish_reason_raw }, { "x", "stop", "stop_sequence" })
  r = reply [[{"id":"m","content":[{"type":"text","text":"x"}]}]]
  t.eq({ r.finish_reason, r.finish_reason_raw }, { "other", "unknown" })
  r = reply [[{"id":"m","content":[],"stop_reason":"end_turn"}]]
  t.eq(r.text, "")
end)

T.test("whole replies that are none", function(t)
  for _, case in ipairs {
    { [[{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}]], "overloaded" }, { [[{"id":"m"}]], "protocol" },
    { "{}", "protocol" }, { "[]", "protocol" }, { [["x"]], "protocol" }, { [[{"content":[],"stop_reason":"refusal"}]], "filtered" },
  } do
    local _, failed, a = reply(case[1])
    t.eq(failed and failed.kind, case[2], case[1])
    t.ok(not a:complete())
  end
end)

T.test("a reply goes into the next request, to either protocol", function(t)
  local r = reply [[{"id":"m","content":[{"type":"thinking","thinking":"hm","signature":"S"},{"type":"text","text":"I look."},{"type":"tool_use","id":"toolu_1","name":"f","input":{"x":1}}],"stop_reason":"tool_use"}]]
  local list = { { role = "user", content = "q" }, r, { role = "tool", tool_call_id = "toolu_1", content = "1" } }
  t.eq(messages(list)[2], { role = "assistant", content = { { type = "thinking", thinking = "hm", signature = "S" }, { type = "text", text = "I look." },
    { type = "tool_use", id = "toolu_1", name = "f", input = { x = 1 } } } })
  t.eq(openai.request({ model = "m", messages = list }).body.messages[2], { role = "assistant", content = "I look.",
    tool_calls = { { id = "toolu_1", type = "function", ["function"] = { name = "f", arguments = '{"x":1}' } } } })
end)

T.test("auth", function(t)
  t.eq({ anthropic.auth() }, { "x-api-key", "" })
  t.eq({ anthropic.auth(nil, "ANTHROPIC_AUTH_TOKEN") }, { "Authorization", "Bearer " })
end)

T.done()
