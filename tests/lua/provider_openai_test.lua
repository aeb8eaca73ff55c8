-- The OpenAI protocol: what a request becomes, what events and whole replies mean.
-- luacheck: no max line length (bodies stand as on the wire, cases on one line)
local T = require "harness"
local assemble = require "sluice.assemble"
local json = require "sluice.json"
local openai = require "sluice.provider.openai"
local provider = require "sluice.provider"
local request = require "sluice.provider.request"

local function body(call)
  call.model = call.model or "m"
  return openai.request(call).body
end
local function messages(list, more)
  local call = { model = "m", messages = list }
  for key, value in pairs(more or {}) do call[key] = value end
  return openai.request(call).body.messages
end
--- As the server sees it: through JSON and back.
local function sent(value) return json.decode(json.encode(value)) end

-- Requests ----------------------------------------------------------------------------------------

T.test("the smallest request", function(t)
  local r = openai.request { model = "m", prompt = "hi" }
  t.eq(r, { method = "POST", path = "/chat/completions",
    headers = { ["Content-Type"] = "application/json", Accept = "application/json" },
    body = { model = "m", messages = { { role = "user", content = "hi" } } } })
end)

T.test("a stream asks for usage, unless the vendor refuses the field", function(t)
  local r = openai.request { model = "m", prompt = "hi", stream = true }
  t.eq(r.body.stream, true)
  t.eq(r.body.stream_options, { include_usage = true })
  t.eq(r.headers.Accept, "text/event-stream")
  t.eq(body { prompt = "x", stream = true, quirks = { stream_options = false } }.stream_options, nil)
end)

T.test("every field has its place", function(t)
  t.eq(body { prompt = "x", system = "be brief", max_tokens = 5, temperature = 0, top_p = 0.5, top_k = 3, min_p = 0.1, seed = 7,
    stop = "END", user = "u", frequency_penalty = 1, presence_penalty = -1 },
    { model = "m", messages = { { role = "system", content = "be brief" }, { role = "user", content = "x" } }, max_tokens = 5,
      temperature = 0, top_p = 0.5, top_k = 3, min_p = 0.1, seed = 7, stop = "END", user = "u", frequency_penalty = 1,
      presence_penalty = -1 })
end)

T.test("max_tokens has another name at OpenAI", function(t)
  local quirks = provider.quirks(provider.get "openai", "https://api.openai.com/v1")
  local b = body { prompt = "x", max_tokens = 5, top_k = 3, quirks = quirks }
  t.eq({ b.max_tokens, b.max_completion_tokens, b.top_k }, { nil, 5, nil })
  b = body { prompt = "x", max_tokens = 5, quirks = provider.quirks(provider.get "openai", "http://127.0.0.1:8000/v1") }
  t.eq({ b.max_tokens, b.max_completion_tokens }, { 5, nil })
end)

T.test("extra comes last and wins; json.null takes a field out", function(t)
  local b = body { prompt = "x", temperature = 0.5, stream = true, extra = { temperature = 0.9, enable_search = true, stream_options = json.null } }
  t.eq({ b.temperature, b.enable_search, b.stream_options }, { 0.9, true, nil })
end)

local SCHEMA = { type = "object", properties = { city = { type = "string" } }, required = { "city" } }
local UNIFIED = { name = "weather", description = "d", parameters = SCHEMA }
local NATIVE = { type = "function", ["function"] = { name = "weather", description = "d", parameters = SCHEMA } }

T.test("tools of every dialect", function(t)
  t.eq(body { prompt = "x", tools = { UNIFIED } }.tools, { NATIVE })
  t.ok(body { prompt = "x", tools = { NATIVE } }.tools[1] == NATIVE, "its own form passes untouched")
  t.eq(body { prompt = "x", tools = { { name = "weather", description = "d", input_schema = SCHEMA } } }.tools, { NATIVE })
  t.eq(body { prompt = "x", tools = { { type = "custom", name = "weather", description = "d", input_schema = SCHEMA } } }.tools, { NATIVE })
  local other = { type = "web_search", web_search = { enable = true } }
  t.ok(body { prompt = "x", tools = { other } }.tools[1] == other, "a vendor's own tool passes")
  t.eq(json.encode(body { prompt = "x", tools = { { name = "now" } } }.tools[1]["function"].parameters.properties), "{}")
  t.eq(body { prompt = "x", tools = {} }.tools, nil)
  t.eq(body { prompt = "x", tools = { { name = "f", strict = true } } }.tools[1]["function"].strict, true)
end)

T.test("empty lists in a schema stay lists, names of properties stay names", function(t)
  local b = body { prompt = "x", tools = { { name = "f", parameters = { type = "object",
    properties = { required = {}, enum = { type = "string", enum = {} }, deep = { type = "object", properties = {}, required = {} } },
    required = {}, default = { required = {} } } } } }
  local text = json.encode(b.tools[1]["function"].parameters)
  local back = json.decode(text)
  t.ok(json.is_array(back.required))
  t.ok(not json.is_array(back.properties.required))
  t.ok(json.is_array(back.properties.enum.enum))
  t.ok(json.is_array(back.properties.deep.required))
  t.ok(not json.is_array(back.properties.deep.properties))
  t.ok(not json.is_array(back.default.required), "data is left alone")
end)

T.test("tool_choice of every dialect", function(t)
  local function choice(c) return body { prompt = "x", tools = { UNIFIED }, tool_choice = c }.tool_choice end
  local named = { type = "function", ["function"] = { name = "weather" } }
  t.eq(choice "auto", "auto")
  t.eq(choice "none", "none")
  t.eq(choice "required", "required")
  t.eq(choice "any", "required")
  t.eq(choice { type = "any" }, "required")
  t.eq(choice { type = "auto" }, "auto")
  t.eq(choice { name = "weather" }, named)
  t.eq(choice { type = "tool", name = "weather" }, named)
  t.eq(choice(named), named)
  t.raises("tool_choice: expected 'auto', 'none', 'required' or { name = tool }, got 'weather'", choice, "weather")
  t.eq(body { prompt = "x", tool_choice = "auto" }.tool_choice, nil, "not without tools")
  t.eq(body { prompt = "x", tools = { UNIFIED }, parallel_tool_calls = false }.parallel_tool_calls, false)
  t.eq(body { prompt = "x", parallel_tool_calls = false }.parallel_tool_calls, nil)
end)

T.test("response_format", function(t)
  local function format(f) return body { prompt = "x", response_format = f }.response_format end
  t.eq(format "json", { type = "json_object" })
  t.eq(format "text", nil)
  t.eq(format { schema = SCHEMA }, { type = "json_schema", json_schema = { name = "reply", schema = SCHEMA } })
  t.eq(format { type = "json_schema", json_schema = { name = "n", schema = SCHEMA, strict = true } },
    { type = "json_schema", json_schema = { name = "n", schema = SCHEMA, strict = true } })
  t.eq(format { type = "json_object" }, { type = "json_object" })
  t.eq(format { type = "grammar", grammar = "x" }, { type = "grammar", grammar = "x" })
  t.raises("response_format: expected", format, "yaml")
end)

local THINKING = {
  -- quirk, wish, what the body says
  { nil, true, { reasoning_effort = "medium" } }, { nil, false, { reasoning_effort = "none" } },
  { "effort", "high", { reasoning_effort = "high" } }, { "effort", { budget = 1000 }, { reasoning_effort = "low" } },
  { "effort", { budget = 9000 }, { reasoning_effort = "medium" } }, { "effort", { budget = 30000 }, { reasoning_effort = "high" } },
  { "enable", true, { enable_thinking = true } }, { "enable", false, { enable_thinking = false } },
  { "enable", { budget = 5000 }, { enable_thinking = true, thinking_budget = 5000 } },
  { "enable", { budget = 5 }, { enable_thinking = true, thinking_budget = 128 } },
  { "enable", { budget = 99999 }, { enable_thinking = true, thinking_budget = 32768 } },
  { "enable", "low", { enable_thinking = true, reasoning_effort = "high" } },
  { "enable", "xhigh", { enable_thinking = true, reasoning_effort = "max" } },
  { "object", true, { thinking = { type = "enabled" } } }, { "object", "none", { thinking = { type = "disabled" } } },
  { "object", "max", { thinking = { type = "enabled" }, reasoning_effort = "max" } },
  { "reasoning", true, { reasoning = { enabled = true } } }, { "reasoning", false, { reasoning = { enabled = false } } },
  { "reasoning", { budget = 500 }, { reasoning = { max_tokens = 500 } } }, { "reasoning", "low", { reasoning = { effort = "low" } } },
}
T.test("thinking, as each vendor switches it", function(t)
  for i, case in ipairs(THINKING) do
    local b = body { prompt = "x", thinking = case[2], quirks = { thinking = case[1] } }
    b.model, b.messages = nil, nil
    t.eq(b, case[3], "case " .. i)
  end
  t.eq(body { prompt = "x" }.reasoning_effort, nil)
end)

-- Messages ----------------------------------------------------------------------------------------

T.test("messages in OpenAI's form go through by reference, with all they have", function(t)
  local list = {
    { role = "developer", content = "d" },
    { role = "system", content = "s", name = "n" },
    { role = "user", content = "u", name = "bob" },
    { role = "user", content = { { type = "text", text = "t" }, { type = "image_url", image_url = { url = "https://x/y.png", detail = "low" } },
      { type = "input_audio", input_audio = { data = "AA", format = "wav" } }, { type = "file", file = { file_id = "f" } },
      { type = "video_url", video_url = { url = "x" } } } },
    { role = "assistant", content = json.null, tool_calls = { { id = "a", type = "function", ["function"] = { name = "f", arguments = "{}" } } } },
    { role = "tool", tool_call_id = "a", content = "42" },
    { role = "assistant", content = "done", refusal = json.null, reasoning_content = "r" },
    { role = "assistant", content = { { type = "text", text = "x" } } },
  }
  local got = messages(list)
  t.eq(#got, #list)
  for i, m in ipairs(list) do t.ok(got[i] == m, "messages[" .. i .. "]") end
end)

T.test("system, messages and prompt in that order", function(t)
  t.eq(messages({ { role = "assistant", content = "a" } }, { system = { "one", { type = "text", text = "two", cache_control = {} } }, prompt = "p" }),
    { { role = "system", content = "one\n\ntwo" }, { role = "assistant", content = "a" }, { role = "user", content = "p" } })
  t.eq(messages { { role = "system", content = { { type = "text", text = "a" }, "b" } } }, { { role = "system", content = "a\n\nb" } })
end)

local PNG = { type = "image_url", image_url = { url = "data:image/png;base64,AAAA" } }
T.test("images of every dialect", function(t)
  local function part(p) return messages({ { role = "user", content = { p } } })[1].content[1] end
  t.eq(part { type = "image", data = "AAAA", media_type = "image/png" }, PNG)
  t.eq(part { type = "image", url = "data:image/png;base64,AAAA" }, PNG)
  t.eq(part { type = "image", url = "https://x/y.png", detail = "high" }, { type = "image_url", image_url = { url = "https://x/y.png", detail = "high" } })
  t.eq(part { type = "image", source = { type = "base64", media_type = "image/png", data = "AAAA" } }, PNG)
  t.eq(part { type = "image", source = { type = "url", url = "https://x/y.png" } }, { type = "image_url", image_url = { url = "https://x/y.png" } })
  t.ok(part(PNG) == PNG)
  t.raises("messages%[1%]%.content%[1%]: an image needs url, or data", part, { type = "image" })
  t.raises("a file id belongs to one vendor", part, { type = "image", source = { type = "file", file_id = "f" } })
end)

T.test("documents and strings among the parts", function(t)
  t.eq(messages({ { role = "user", content = { "read this", { type = "document", title = "a.pdf", source = { type = "base64", media_type = "application/pdf", data = "JVBE" } },
    { type = "document", source = { type = "text", data = "words" } } } } })[1].content,
    { { type = "text", text = "read this" }, { type = "file", file = { filename = "a.pdf", file_data = "data:application/pdf;base64,JVBE" } },
      { type = "text", text = "words" } })
  t.eq(messages(nil, { prompt = { "look", { type = "image", url = "https://x" } } })[1],
    { role = "user", content = { { type = "text", text = "look" }, { type = "image_url", image_url = { url = "https://x" } } } })
  t.eq(messages({ { role = "user", content = { { type = "text", text = "x", cache_control = { type = "ephemeral" } } } } })[1].content,
    { { type = "text", text = "x" } }, "marks for Anthropic's cache stay behind")
end)

T.test("tool calls in sluice's own form", function(t)
  local got = messages {
    { role = "user", content = "q" },
    { role = "assistant", tool_calls = { { id = "a", name = "f", arguments = { x = 1 } }, { id = "b", name = "g", arguments_json = '{"y": 2}' }, { id = "c", name = "h" } } },
    { role = "tool", tool_call_id = "a", content = { ok = true } },
    { role = "tool", tool_call_id = "b", content = "no such city", is_error = true },
    { role = "tool", tool_call_id = "c", content = 42 },
  }
  t.eq(sent(got[2]), sent { role = "assistant", content = json.null, tool_calls = {
    { id = "a", type = "function", ["function"] = { name = "f", arguments = '{"x":1}' } },
    { id = "b", type = "function", ["function"] = { name = "g", arguments = '{"y": 2}' } },
    { id = "c", type = "function", ["function"] = { name = "h", arguments = "{}" } } } })
  t.eq({ got[3], got[4], got[5] }, { { role = "tool", tool_call_id = "a", content = '{"ok":true}' },
    { role = "tool", tool_call_id = "b", content = "Error: no such city" }, { role = "tool", tool_call_id = "c", content = "42" } })
end)

T.test("odd assistant messages", function(t)
  t.eq(messages { { role = "assistant" } }, { { role = "assistant", content = "" } })
  t.eq(messages { { role = "assistant", content = json.null, thinking = "x" } }, { { role = "assistant", content = "" } })
  t.eq(messages { { role = "assistant", content = { { type = "text", text = "a" }, { type = "audio", audio = { id = "x" } } } } },
    { { role = "assistant", content = { { type = "text", text = "a" }, { type = "audio", audio = { id = "x" } } } } })
  t.eq(messages { { role = "assistant", content = { { type = "audio", audio = {} }, { type = "tool_use", id = "a", name = "f", input = {} } } } }[1].content,
    { { type = "audio", audio = {} } })
  local list = { { thinking = "one", signature = "s" }, { data = "z" }, "two", { text = "three" } }
  local got = messages({ { role = "assistant", thinking = list, tool_calls = { { id = "a", name = "f" } } } }, { quirks = { reasoning_field = "r" } })
  t.eq(got[1].r, "one\ntwo\nthree")
  t.eq(messages({ { role = "assistant", thinking = true, tool_calls = { { id = "a", name = "f" } } } }, { quirks = { reasoning_field = "r" } })[1].r, nil)
end)

T.test("an empty list of tool calls is left out", function(t)
  local got = messages { { role = "assistant", content = "x", thinking = "y", tool_calls = {} } }
  t.eq(got, { { role = "assistant", content = "x" } })
end)

T.test("Anthropic's blocks are translated", function(t)
  local got = messages {
    { role = "user", content = { { type = "text", text = "q" } } },
    { role = "assistant", content = { { type = "thinking", thinking = "hm", signature = "s" }, { type = "redacted_thinking", data = "z" },
      { type = "text", text = "I look. " }, { type = "text", text = "Now." }, { type = "server_tool_use", id = "s", name = "web", input = {} },
      { type = "web_search_tool_result", tool_use_id = "s", content = {} }, { type = "tool_use", id = "t1", name = "f", input = { x = 1 } } } },
    { role = "user", content = { { type = "text", text = "and then" }, { type = "tool_result", tool_use_id = "t1", is_error = true,
      content = { { type = "text", text = "broken" }, { type = "image", source = { type = "base64", media_type = "image/png", data = "AAAA" } } } } } },
  }
  t.eq(got[2], { role = "assistant", content = "I look. Now.", tool_calls = { { id = "t1", type = "function", ["function"] = { name = "f", arguments = '{"x":1}' } } } })
  t.eq(got[3], { role = "tool", tool_call_id = "t1", content = "Error: broken\n[an image follows]" })
  t.eq(got[4], { role = "user", content = { PNG, { type = "text", text = "and then" } } })
  t.eq(#got, 4)
end)

T.test("images of several results wait until the run of results is over", function(t)
  local image = { type = "image", data = "AAAA", media_type = "image/png" }
  local got = messages {
    { role = "assistant", tool_calls = { { id = "a", name = "f" }, { id = "b", name = "f" } } },
    { role = "tool", tool_call_id = "a", content = { image } },
    { role = "tool", tool_call_id = "b", content = "plain" },
    { role = "assistant", content = "ok" },
    { role = "tool", tool_call_id = "c", content = { image, { type = "text", text = "t" } } },
  }
  local roles = {}
  for i, m in ipairs(got) do roles[i] = m.role end
  t.eq(roles, { "assistant", "tool", "tool", "user", "assistant", "tool", "user" })
  t.eq(got[4].content, { PNG })
end)

T.test("reasoning goes back on turns that called tools, as the vendor wants", function(t)
  local deepseek = provider.get("deepseek").quirks
  local own = { { role = "assistant", thinking = "hm", tool_calls = { { id = "a", name = "f" } } } }
  local silent = { { role = "assistant", tool_calls = { { id = "a", name = "f" } } } }
  local native = { { role = "assistant", content = json.null, tool_calls = { { id = "a", type = "function", ["function"] = { name = "f", arguments = "{}" } } } } }
  t.eq(messages(own, { quirks = deepseek })[1].reasoning_content, "hm")
  t.eq(messages(silent, { quirks = deepseek })[1].reasoning_content, "", "there even when empty")
  t.eq(messages(native, { quirks = deepseek })[1].reasoning_content, "")
  t.eq(native[1].reasoning_content, nil, "the script's own table is left alone")
  t.eq(messages(native, { quirks = deepseek, thinking = false })[1].reasoning_content, nil)
  t.ok(messages(native)[1] == native[1])
  local kept = { { role = "assistant", content = json.null, reasoning_content = "r", tool_calls = native[1].tool_calls } }
  t.ok(messages(kept, { quirks = deepseek })[1] == kept[1], "what is there already stays")
  t.eq(messages(silent, { quirks = deepseek, thinking = false })[1].reasoning_content, nil)
  t.eq(messages(own, { quirks = provider.get("siliconflow").quirks })[1].reasoning_content, "hm")
  t.eq(messages(silent, { quirks = provider.get("siliconflow").quirks })[1].reasoning_content, nil)
  t.eq(messages(own, { quirks = provider.get("openrouter").quirks })[1].reasoning, "hm")
  t.eq(messages(own)[1], { role = "assistant", content = json.null, tool_calls = { { id = "a", type = "function", ["function"] = { name = "f", arguments = "{}" } } } })
  local plain = messages({ { role = "assistant", thinking = "hm", content = "x" } }, { quirks = deepseek })
  t.eq(plain, { { role = "assistant", content = "x" } }, "not on turns without tools")
  local signed = { { role = "assistant", content = { { type = "thinking", thinking = "hm", signature = "s" }, { type = "tool_use", id = "a", name = "f", input = {} } } } }
  t.eq(messages(signed, { quirks = deepseek })[1].reasoning_content, "hm")
end)

T.test("a reply goes into the list as it is", function(t)
  local a = assemble.new()
  for _, d in ipairs { { type = "thinking", text = "hm" }, { type = "text", text = "I look." }, { type = "tool", index = 0, id = "a", name = "f", arguments = '{"x":1}' },
    { type = "finish", reason = "tool_calls" }, { type = "done" } } do a:feed(d) end
  local reply = a:reply()
  local want = { role = "assistant", content = "I look.", tool_calls = { { id = "a", type = "function", ["function"] = { name = "f", arguments = '{"x":1}' } } } }
  t.eq(messages({ { role = "user", content = "q" }, reply, { role = "tool", tool_call_id = "a", content = "1" } })[2], want)
  t.eq(messages({ assemble.message(reply) })[1], want)
  want.reasoning_content = "hm"
  t.eq(messages({ reply }, { quirks = provider.get("deepseek").quirks })[1], want)
end)

local WRONG = {
  { { { role = "usr", content = "x" } }, "messages[1].role: expected one of system, developer, user, assistant, tool, got 'usr' (did you mean 'user'?)" },
  { { { content = "x" } }, "messages[1].role: expected one of" },
  { { { role = "user" } }, "messages[1].content: expected a string or a list of parts" },
  { { { role = "user", content = 5 } }, "messages[1].content: expected a string or a list of parts" },
  { { { role = "user", content = { type = "text", text = "x" } } }, "messages[1].content: expected a string or a list of parts, got a table with names" },
  { { { role = "user", content = "a" }, { role = "user", content = { "b", 5 } } }, "messages[2].content[2]: expected a string or a part with a type" },
  { { { role = "user", content = { { type = "text" } } } }, "messages[1].content[1].text: expected a string, got nothing" },
  { { { role = "user", content = { { type = "search_result" } } } }, "messages[1].content[1].type: 'search_result' cannot be sent over the openai protocol" },
  { { { role = "tool", content = "x" } }, "messages[1].tool_call_id: expected the id of the tool call this answers" },
  { { { role = "assistant", tool_calls = { { name = "f" } } } }, "messages[1].tool_calls[1].id: expected the id of the call" },
  { { { role = "assistant", tool_calls = { { id = "a" } } } }, "messages[1].tool_calls[1].name: expected the tool's name" },
  { { { role = "assistant", tool_calls = { { id = "a", name = "f", arguments = 5 } } } }, "messages[1].tool_calls[1].arguments: expected a table or JSON text, got 5" },
  { { { role = "assistant", tool_calls = { { id = "a", name = "f", arguments = { f = print } } } } }, "messages[1].tool_calls[1].arguments: " },
  { { { role = "assistant", content = 5, thinking = "x" } }, "messages[1].content: expected a string" },
}
T.test("what is wrong is named by its path", function(t)
  for i, case in ipairs(WRONG) do
    local ok, err = pcall(openai.request, { model = "m", messages = case[1], where = "model:ask" })
    t.ok(not ok, "case " .. i)
    t.ok(tostring(err):find("model:ask: " .. case[2], 1, true), tostring(err))
    t.match(tostring(err), "^[^\n]*provider_openai_test%.lua")
  end
  t.raises("tools%[2%]%.name: expected the tool's name", body, { prompt = "x", tools = { UNIFIED, { parameters = {} } } })
  t.raises("tools%[1%]%.parameters: expected a JSON Schema", body, { prompt = "x", tools = { { name = "f", parameters = "x" } } })
  t.raises("nothing to send", openai.request, { model = "m" })
end)

T.test("a request does not change what it was given", function(t)
  local call = { model = "m", system = { "s" }, prompt = { "p" }, stop = { "x" }, tools = { UNIFIED }, extra = { a = 1 }, stream = true,
    messages = { { role = "assistant", thinking = "t", tool_calls = { { id = "a", name = "f", arguments = { x = 1 } } } },
      { role = "tool", tool_call_id = "a", content = { { type = "image", data = "A", media_type = "image/png" } }, is_error = false } } }
  local before = json.encode(sent(call))
  local first = json.encode(sent(openai.request(call).body))
  t.eq(sent(json.decode(before)), sent(call))
  t.eq(json.decode(json.encode(openai.request(call).body)), json.decode(first), "and says the same twice")
end)

-- What a script may ask ----------------------------------------------------------------------------

T.test("request.check: a string is a prompt, fields are checked", function(t)
  t.eq(request.check("model:ask", "hi"), { prompt = "hi" })
  local req = { messages = { { role = "user", content = "x" } }, thinking = { budget = 5 } }
  t.ok(request.check("model:ask", req) == req)
  for _, case in ipairs {
    { { promt = "x" }, "model:ask: unknown field 'promt' (did you mean 'prompt'?)" },
    { { prompt = "x", temprature = 1 }, "unknown field 'temprature' (did you mean 'temperature'?)" },
    { { prompt = "x", temperature = 3 }, "field 'temperature' must be a number from 0 to 2, got 3" },
    { { prompt = "x", max_tokens = 0 }, "field 'max_tokens' must be an integer, at least 1, got 0" },
    { { prompt = "" }, "field 'prompt' must be a string or a list that is not empty, got an empty string" },
    { { messages = {} }, "field 'messages' must be a list that is not empty" },
    { { messages = { "x" } }, "field 'messages[1]' must be a table, got a string" },
    { { prompt = "x", stream = true }, "field 'stream' is not a request's to set: call model:stream" },
    { { prompt = "x", extra = { stream = true } }, "call model:stream" },
    { { prompt = "x", thinking = "hard" }, "field 'thinking' must be true, false, { budget = tokens } or one of" },
    { { prompt = "x", thinking = { buget = 1 } }, "unknown field 'thinking.buget' (did you mean 'budget'?)" },
    { { prompt = "x", tool_choice = 5 }, "field 'tool_choice' must be 'auto', 'none', 'required' or { name = tool }, got 5" },
    { {}, "model:ask: nothing to send, give field 'prompt' or 'messages'" },
  } do
    local ok, err = pcall(request.check, "model:ask", case[1])
    t.ok(not ok)
    t.ok(tostring(err):find(case[2], 1, true), tostring(err))
  end
  t.raises("model:ask: the text has no name: { prompt = ", request.check, "model:ask", { "hello" })
  t.raises("model:ask: expected a text, or a table of fields %(.*%), got nothing", request.check, "model:ask", nil)
  t.raises("sluice.model: defaults: unknown field 'max_token' %(did you mean 'max_tokens'", request.check_defaults, "sluice.model", { max_token = 1 })
  t.eq(request.check_defaults("sluice.model", { temperature = 0.2 }), { temperature = 0.2 })
end)

-- Events ------------------------------------------------------------------------------------------

local META = { type = "meta", id = "c", model = "m" }
local function chunk(inside) return '{"id":"c","model":"m","object":"chat.completion.chunk",' .. inside .. "}" end
local function choice(delta, more) return chunk('"choices":[{"index":0,"delta":' .. delta .. (more or ',"finish_reason":null') .. "}]") end

local EVENTS = {
  { "text", choice [[{"content":"Hi"}]], { META, { type = "text", text = "Hi" } } },
  { "role and empty text", choice [[{"role":"assistant","content":""}]], { META } },
  { "null content", choice [[{"content":null,"refusal":null,"tool_calls":null}]], { META } },
  { "finish", choice("{}", [[,"finish_reason":"stop"]]), { META, { type = "finish", reason = "stop" } } },
  { "an empty finish reason is none", choice("{}", [[,"finish_reason":""]]), { META } },
  { "usage on its own", chunk [["choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}]],
    { META, { type = "usage", usage = { input_tokens = 9, output_tokens = 3, total_tokens = 12, cached_tokens = 4, reasoning_tokens = 2 } } } },
  { "null usage", chunk [["choices":[],"usage":null]], { META } },
  { "usage beside text, as SiliconFlow sends it", chunk [["choices":[{"index":0,"delta":{"content":"a","reasoning_content":null}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2,"prompt_cache_hit_tokens":1,"prompt_cache_miss_tokens":0}]],
    { META, { type = "text", text = "a" }, { type = "usage", usage = { input_tokens = 1, output_tokens = 1, total_tokens = 2, cached_tokens = 1 } } } },
  { "usage inside the choice, as Moonshot sends it", choice("{}", [[,"finish_reason":"stop","usage":{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11,"cached_tokens":3}]]),
    { META, { type = "usage", usage = { input_tokens = 5, output_tokens = 6, total_tokens = 11, cached_tokens = 3 } }, { type = "finish", reason = "stop" } } },
  { "reasoning_content", choice [[{"content":null,"reasoning_content":"hm"}]], { META, { type = "thinking", text = "hm" } } },
  { "reasoning", choice [[{"content":"","reasoning":"hm","reasoning_details":[{"type":"reasoning.text","text":"hm"}]}]], { META, { type = "thinking", text = "hm" } } },
  { "both names: once", choice [[{"reasoning_content":"hm","reasoning":"hm"}]], { META, { type = "thinking", text = "hm" } } },
  { "empty reasoning beside text opens nothing", choice [[{"content":"x","reasoning":"","reasoning_content":""}]], { META, { type = "text", text = "x" } } },
  { "reasoning comes before text", choice [[{"content":"x","reasoning_content":"hm"}]], { META, { type = "thinking", text = "hm" }, { type = "text", text = "x" } } },
  { "Mistral's parts", choice [[{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"x"}]}]],
    { META, { type = "thinking", text = "hm" }, { type = "text", text = "x" } } },
  { "refusal", choice [[{"refusal":"I cannot"}]], { META, { type = "refusal", text = "I cannot" } } },
  { "tool call, first fragment", choice [[{"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"f","arguments":""}}]}]],
    { META, { type = "tool", index = 0, id = "call_a", name = "f", arguments = "" } } },
  { "tool call, later fragment", choice [[{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":"}}]}]],
    { META, { type = "tool", index = 0, arguments = '{"x":' } } },
  { "tool call, empty id and name", choice [[{"tool_calls":[{"index":1,"id":"","function":{"name":"","arguments":"1}"}}]}]],
    { META, { type = "tool", index = 1, arguments = "1}" } } },
  { "tool calls without index: their place", choice [[{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}},{"id":"b","function":{"name":"g","arguments":"{}"}}]}]],
    { META, { type = "tool", index = 0, id = "a", name = "f", arguments = "{}" }, { type = "tool", index = 1, id = "b", name = "g", arguments = "{}" } } },
  { "arguments as an object", choice [[{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":{"x":1}}}]}]],
    { META, { type = "tool", index = 0, id = "a", name = "f", arguments = '{"x":1}', whole = true } } },
  { "null arguments", choice [[{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":null}}]}]], { META, { type = "tool", index = 0, id = "a", name = "f" } } },
  { "function_call of old", choice [[{"function_call":{"name":"f","arguments":"{}"}}]], { META, { type = "tool", index = 0, name = "f", arguments = "{}" } } },
  { "another answer's choice is not ours", chunk [=["choices":[{"index":1,"delta":{"content":"no"}},{"index":0,"delta":{"content":"yes"}}]]=], { META, { type = "text", text = "yes" } } },
  { "a choice without index", [[{"choices":[{"delta":{"content":"x"}}]}]], { { type = "text", text = "x" } } },
  { "a whole message in a chunk", chunk [=["choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}]]=], { META, { type = "text", text = "x" }, { type = "finish", reason = "stop" } } },
  { "obfuscation", chunk [["choices":[{"index":0,"delta":{"content":"x"}}],"obfuscation":"abc"]], { META, { type = "text", text = "x" } } },
  { "Azure's first chunk", [[{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0}]}]], {} },
  { "done", "[DONE]", { { type = "done" } } }, { "done with a space", " [DONE] ", { { type = "done" } } },
  { "empty data", "", {} }, { "blank data", "  ", {} }, { "an object that says nothing", "{}", {} },
}
T.test("events", function(t)
  for _, case in ipairs(EVENTS) do t.eq(openai.event { data = case[2] }, case[3], case[1]) end
end)

T.test("errors inside a stream, each dialect", function(t)
  for _, case in ipairs {
    { { data = [[{"error":{"message":"boom","type":"server_error","code":null}}]] }, "server", "boom" },
    { { data = [[{"object":"error","message":"bad","type":"BadRequestError","code":400}]] }, "invalid", "bad" },
    { { event = "error", data = [[{"message":"gone"}]] }, "server", "gone" },
    { { data = [[{"id":"g","object":"chat.completion.chunk","error":{"code":429,"message":"slow"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}]] }, "rate_limited", "slow" },
    { { data = [[{"id":"g","choices":[{"index":0,"delta":{},"finish_reason":"error","error":{"code":502,"message":"lost"}}]}]] }, "server", "lost" },
    { { data = [[{"code":50505,"message":"busy","data":null}]] }, "overloaded", "busy" },
    { { data = "{broken" }, "protocol", nil }, { { data = "42" }, "protocol", nil }, { { data = "<html>" }, "protocol", nil },
  } do
    local list = openai.event(case[1])
    local last = list[#list]
    t.eq(last.type, "error", case[1].data)
    t.eq(last.error.kind, case[2], case[1].data)
    if case[3] then t.eq(last.error.message, case[3]) end
  end
  t.match(openai.event({ data = "{broken sk-abcdefghijklmnop" })[1].error.message, "sk%-%[redacted%]")
end)

-- Whole replies -------------------------------------------------------------------------------------

local function reply(text)
  local a = assemble.new()
  local failed
  for _, d in ipairs(openai.reply(json.decode(text))) do failed = failed or select(2, a:feed(d)) end
  return a:reply(), failed, a
end

T.test("whole replies", function(t)
  local r, failed, a = reply [[{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-x","choices":[{"index":0,"message":{"role":"assistant","content":"Hello","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}]]
  t.eq(failed, nil)
  t.ok(a:complete())
  t.eq(r, { text = "Hello", tool_calls = {}, finish_reason = "stop", finish_reason_raw = "stop", model = "gpt-x", id = "chatcmpl-1",
    usage = { input_tokens = 9, output_tokens = 1, total_tokens = 10, cached_tokens = 0, reasoning_tokens = 0 } })

  r = reply [[{"id":"1","model":"ds","choices":[{"index":0,"message":{"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},{"id":"b","type":"function","function":{"name":"g","arguments":""}}]},"finish_reason":"stop"}]}]]
  t.eq({ r.text, r.thinking, r.finish_reason, #r.tool_calls, r.tool_calls[1].arguments, r.tool_calls[2].arguments_json }, { "", "hm", "tool_calls", 2, { x = 1 }, "{}" })
  t.eq(r.usage, {})

  r = reply [[{"choices":[{"message":{"content":"x"}}]}]]
  t.eq({ r.text, r.finish_reason, r.finish_reason_raw }, { "x", "other", "unknown" })
  r = reply [[{"choices":[{"message":{"content":"","function_call":{"name":"f","arguments":"{}"}},"finish_reason":"function_call"}],"id":"q"}]]
  t.eq({ r.tool_calls[1].id, r.finish_reason }, { "call_q_0", "tool_calls" })
end)

T.test("whole replies that are none", function(t)
  for _, case in ipairs {
    { [[{"error":{"message":"boom","code":500}}]], "server" }, { [[{"choices":[]}]], "protocol" }, { [[{}]], "protocol" },
    { [[{"id":"x","choices":null}]], "protocol" }, { "[]", "protocol" }, { [["hello"]], "protocol" },
    { [[{"object":"error","message":"no","code":404}]], "invalid" },
    { [[{"choices":[{"index":0,"error":{"code":502,"message":"lost"},"message":{"content":"x"}}],"usage":{"prompt_tokens":1}}]], "server" },
    { [[{"choices":[{"message":{"content":"half"},"finish_reason":"content_filter"}]}]], "filtered" },
    { [[{"choices":[{"message":{"content":null,"refusal":"I cannot"},"finish_reason":"stop"}]}]], "filtered" },
    { [[{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{"}}]},"finish_reason":"tool_calls"}]}]], "protocol" },
  } do
    local _, failed, a = reply(case[1])
    t.eq(failed and failed.kind, case[2], case[1])
    t.ok(not a:complete(), case[1])
  end
end)

T.test("auth", function(t)
  t.eq({ openai.auth() }, { "Authorization", "Bearer " })
end)

T.done()
