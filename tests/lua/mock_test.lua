-- sluice.mock: both protocols, what it answers, tokens, the log. Faults are in mock_scenario_test.lua,
-- what it refuses in mock_strict_test.lua.
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"
local text = require "sluice.mock.text"

local http, json, task = sluice.http, sluice.json, sluice.task

local ANTHROPIC = { ["anthropic-version"] = "2023-06-01" }

local function start(opts)
  local o = { pace = 0 }
  for name, value in pairs(opts or {}) do o[name] = value end
  return mock.start(o)
end

local function user(prompt) return { { role = "user", content = prompt } } end

local function openai(provider, body, path)
  body.model = body.model or "mock"
  return http.request { url = provider.url .. (path or "/v1/chat/completions"), json = body }
end

local function anthropic(provider, body, headers)
  body.model, body.max_tokens = body.model or "mock", body.max_tokens or 500
  return http.request { url = provider.url .. "/v1/messages", json = body, headers = headers or ANTHROPIC }
end

-- The events of a streamed answer, decoded; "[DONE]" stays a string.
local function events(provider, path, body, headers)
  body.model, body.stream = body.model or "mock", true
  if path == "/v1/messages" then body.max_tokens = body.max_tokens or 500 end
  local list = {}
  local stream <close> = http.stream { url = provider.url .. path, json = body, headers = headers }
  for event in stream:events() do
    local data = event.data
    list[#list + 1] = data == "[DONE]" and data or json.decode(data)
    if path == "/v1/messages" and event.event ~= list[#list].type then error("event name and type differ") end
  end
  return list
end

local function joined(list, pick)
  local parts = {}
  for _, event in ipairs(list) do
    if type(event) == "table" then parts[#parts + 1] = pick(event) end
  end
  return table.concat(parts)
end

local function openai_delta(name)
  return function(chunk)
    local value = chunk.choices[1] and chunk.choices[1].delta[name]
    return type(value) == "string" and value or nil
  end
end

-- Answers -----------------------------------------------------------------------------------------------

T.test("OpenAI, whole", function(t)
  local provider <close> = start()
  local reply = openai(provider, { messages = user "Why is the sky blue? One sentence." })
  t.eq(reply.status, 200)
  t.match(reply.headers["x-request-id"], "^req_mock")
  local body = reply:json()
  t.eq(body.object, "chat.completion")
  t.match(body.id, "^chatcmpl%-")
  t.eq(body.model, "mock")
  local choice = body.choices[1]
  t.eq({ choice.index, choice.finish_reason, choice.message.role }, { 0, "stop", "assistant" })
  t.match(choice.message.content, "sky")
  t.eq(#text.tokens(choice.message.content), body.usage.completion_tokens)
  t.eq(body.usage.total_tokens, body.usage.prompt_tokens + body.usage.completion_tokens)
  t.ok(body.usage.prompt_tokens > 5)
end)

T.test("OpenAI, streamed: the same answer in pieces, usage only when asked", function(t)
  local provider <close> = start()
  local messages = user "Tell me a story about a canal."
  local whole = openai(provider, { messages = messages }):json()
  local list = events(provider, "/v1/chat/completions", { messages = messages })
  t.eq(list[#list], "[DONE]")
  t.eq(list[1].choices[1].delta, { role = "assistant", content = "" })
  t.eq(joined(list, openai_delta "content"), whole.choices[1].message.content)
  t.eq(list[#list - 1].choices[1].finish_reason, "stop")
  for i = 1, #list - 1 do
    t.eq(list[i].object, "chat.completion.chunk")
    t.eq(list[i].usage, nil)
  end
  list = events(provider, "/v1/chat/completions", { messages = messages, stream_options = { include_usage = true } })
  t.eq(list[1].usage, json.null)
  t.eq(#list[#list - 1].choices, 0)
  t.eq(list[#list - 1].usage, whole.usage)
end)

T.test("Anthropic, whole and streamed", function(t)
  local provider <close> = start()
  local messages = user "Why do rivers bend?"
  local reply = anthropic(provider, { messages = messages })
  t.eq(reply.status, 200)
  t.match(reply.headers["request-id"], "^req_mock")
  local whole = reply:json()
  t.eq({ whole.type, whole.role, whole.stop_reason, whole.stop_sequence },
    { "message", "assistant", "end_turn", json.null })
  t.eq(whole.content[1].type, "text")
  local list = events(provider, "/v1/messages", { messages = messages }, ANTHROPIC)
  local names = {}
  for _, event in ipairs(list) do
    if names[#names] ~= event.type then names[#names + 1] = event.type end
  end
  t.eq(names, { "message_start", "content_block_start", "ping", "content_block_delta", "content_block_stop",
    "message_delta", "message_stop" })
  t.eq(list[1].message.content, {})
  t.eq(list[1].message.usage.input_tokens, whole.usage.input_tokens)
  t.eq(joined(list, function(e) return e.delta and e.delta.text end), whole.content[1].text)
  t.eq(list[#list - 1].delta.stop_reason, "end_turn")
  t.eq(list[#list - 1].usage.output_tokens, whole.usage.output_tokens)
end)

T.test("the same prompt and seed, the same answer; another seed may say something else", function(t)
  local said = {}
  for seed = 1, 6 do
    for _ = 1, 2 do
      local provider <close> = start { seed = seed }
      openai(provider, { messages = user "something else first" })
      local answer = openai(provider, { messages = user "How do locks work?" }):json().choices[1].message.content
      t.eq(said[seed] or answer, answer)
      said[seed] = answer
    end
  end
  local different = {}
  for _, answer in ipairs(said) do different[answer] = true end
  t.ok(next(different, next(different)), "six seeds, one answer")
end)

T.test("a Chinese prompt gets a Chinese answer, whole characters in every piece", function(t)
  local provider <close> = start()
  local list = events(provider, "/v1/chat/completions", { messages = user "为什么天空是蓝色的？" })
  local answer = joined(list, openai_delta "content")
  t.match(answer, "天空")
  t.ok(not answer:find "%a")
  for _, chunk in ipairs(list) do
    local piece = type(chunk) == "table" and openai_delta "content"(chunk) or ""
    t.ok(utf8.len(piece))
  end
end)

T.test("echo repeats; parts of a message are taken together", function(t)
  local provider <close> = start()
  t.eq(openai(provider, { model = "echo", messages = user "Say this. 照样说。" }):json().choices[1].message.content,
    "Say this. 照样说。")
  local parts = { { type = "text", text = "one" }, { type = "image_url", image_url = { url = "data:," } },
    { type = "text", text = "two" } }
  local body = openai(provider, { model = "vendor/echo", messages = user(parts) }):json()
  t.eq(body.choices[1].message.content, "one\ntwo")
end)

T.test("max_tokens and stop sequences end an answer, and say so", function(t)
  local provider <close> = start()
  local messages = user "one two three four five six"
  local body = openai(provider, { model = "echo", messages = messages, max_tokens = 3 }):json()
  t.eq(body.choices[1].message.content, "one two three")
  t.eq({ body.choices[1].finish_reason, body.usage.completion_tokens }, { "length", 3 })
  body = openai(provider, { model = "echo", messages = messages, max_completion_tokens = 2 }):json()
  t.eq(body.choices[1].message.content, "one two")
  body = openai(provider, { model = "echo", messages = messages, stop = { "five", " thr" } }):json()
  t.eq({ body.choices[1].message.content, body.choices[1].finish_reason }, { "one two", "stop" })
  body = anthropic(provider, { model = "echo", messages = messages, max_tokens = 4 }):json()
  t.eq({ body.content[1].text, body.stop_reason }, { "one two three four", "max_tokens" })
  body = anthropic(provider, { model = "echo", messages = messages, stop_sequences = { " five" } }):json()
  t.eq({ body.stop_reason, body.stop_sequence }, { "stop_sequence", " five" })
end)

T.test("an answer in JSON fits its schema", function(t)
  local provider <close> = start()
  local schema = { type = "object", required = json.array { "name", "tags", "size" }, properties = {
    name = { type = "string", minLength = 3 }, size = { type = "integer", minimum = 5, maximum = 9 },
    tags = { type = "array", minItems = 2, items = { enum = json.array { "a", "b" } } },
    left = { ["$ref"] = "#/$defs/x" } }, ["$defs"] = { x = { type = "null" } } }
  local body = openai(provider, { messages = user "A record about Ada, please.", response_format = {
    type = "json_schema", json_schema = { name = "record", schema = schema } } }):json()
  local value = json.decode(body.choices[1].message.content)
  t.eq({ type(value.name), value.tags, math.type(value.size) }, { "string", { "a", "a" }, "integer" })
  t.ok(value.size >= 5 and value.size <= 9 and utf8.len(value.name) >= 3)
  body = openai(provider, { messages = user "JSON please", response_format = { type = "json_object" } }):json()
  t.eq(type(json.decode(body.choices[1].message.content)), "table")
end)

T.test("thinking when it is asked for", function(t)
  local provider <close> = start()
  local messages = user "Why is water wet?"
  t.eq(openai(provider, { messages = messages }):json().choices[1].message.reasoning_content, nil)
  for _, switch in ipairs { { enable_thinking = true }, { reasoning_effort = "high" },
    { thinking = { type = "enabled" } }, { reasoning = { max_tokens = 100 } } } do
    switch.messages = messages
    local body = openai(provider, switch):json()
    t.match(body.choices[1].message.reasoning_content, "water")
    t.ok(body.usage.completion_tokens_details.reasoning_tokens > 0)
  end
  local list = events(provider, "/v1/chat/completions", { messages = messages, enable_thinking = true })
  t.match(joined(list, openai_delta "reasoning_content"), "^The question is about water")
  list = events(provider, "/v1/messages", { messages = messages, max_tokens = 5000,
    thinking = { type = "enabled", budget_tokens = 1024 } }, ANTHROPIC)
  t.match(joined(list, function(e) return e.delta and e.delta.thinking end), "water")
  t.match(joined(list, function(e) return e.delta and e.delta.signature end), "^mock%-signature")
  local kinds, open = {}, nil
  for _, event in ipairs(list) do -- one block at a time, indices never used twice
    if event.type == "content_block_start" then
      t.eq(open, nil)
      open = event.index
      kinds[#kinds + 1] = ("%d %s"):format(event.index, event.content_block.type)
    elseif event.type == "content_block_stop" then
      t.eq(event.index, open)
      open = nil
    end
  end
  t.eq(kinds, { "0 thinking", "1 text" })
end)

-- Tools -------------------------------------------------------------------------------------------------

local WEATHER = { type = "object", properties = { city = { type = "string" }, unit = { type = "string",
  enum = json.array { "celsius", "fahrenheit" } }, days = { type = "integer", minimum = 1 } },
  required = json.array { "city", "unit", "days" } }

local function function_tool(name, schema)
  return { type = "function", ["function"] = { name = name, parameters = schema } }
end

T.test("a tool is called when the prompt speaks of it, with arguments that fit", function(t)
  local provider <close> = start()
  local tools = { function_tool("get_weather", WEATHER), function_tool("send_mail", { type = "object" }) }
  local body = openai(provider, { messages = user "What is the weather in Paris in fahrenheit for 3 days?",
    tools = tools }):json()
  local choice = body.choices[1]
  t.eq({ choice.finish_reason, choice.message.content }, { "tool_calls", json.null })
  t.eq(#choice.message.tool_calls, 1)
  local call = choice.message.tool_calls[1]
  t.eq({ call.type, call["function"].name }, { "function", "get_weather" })
  t.eq(json.decode(call["function"].arguments), { city = "Paris", unit = "fahrenheit", days = 3 })
  t.eq(openai(provider, { messages = user "Tell me a joke.", tools = tools }):json().choices[1].finish_reason, "stop")
end)

T.test("tool_choice is obeyed", function(t)
  local provider <close> = start()
  local tools = { function_tool("get_weather", WEATHER), function_tool("send_mail", { type = "object" }) }
  local function names(choice, prompt, parallel)
    local body = openai(provider, { messages = user(prompt), tools = tools, tool_choice = choice,
      parallel_tool_calls = parallel }):json()
    local list = {}
    for i, call in ipairs(body.choices[1].message.tool_calls or {}) do list[i] = call["function"].name end
    return list
  end
  t.eq(names("none", "use tool get_weather"), {})
  t.eq(names("required", "nothing special"), { "get_weather" })
  t.eq(names({ type = "function", ["function"] = { name = "send_mail" } }, "weather"), { "send_mail" })
  t.eq(names("auto", "use tool send_mail"), { "send_mail" })
  t.eq(names("auto", "get the weather, then send mail"), { "get_weather", "send_mail" })
  t.eq(names("auto", "get the weather, then send mail", false), { "get_weather" })
end)

T.test("streamed calls come in fragments; their results are used", function(t)
  local provider <close> = start()
  local tools = { function_tool("get_weather", WEATHER) }
  local messages = user "How is the weather in Oslo?"
  local list = events(provider, "/v1/chat/completions", { messages = messages, tools = tools })
  local id, fragments = nil, {}
  for _, chunk in ipairs(list) do
    local calls = type(chunk) == "table" and chunk.choices[1].delta.tool_calls
    if calls then
      id = id or calls[1].id
      fragments[#fragments + 1] = calls[1]["function"].arguments
    end
  end
  t.ok(#fragments > 3)
  t.eq(json.decode(table.concat(fragments)).city, "Oslo")
  messages[2] = { role = "assistant", content = json.null, tool_calls = json.array { { id = id, type = "function",
    ["function"] = { name = "get_weather", arguments = table.concat(fragments) } } } }
  messages[3] = { role = "tool", tool_call_id = id, content = "4 degrees and rain" }
  local body = openai(provider, { messages = messages, tools = tools }):json()
  t.eq(body.choices[1].finish_reason, "stop")
  t.match(body.choices[1].message.content, "get_weather says: 4 degrees and rain")
end)

T.test("Anthropic: the whole turn with a tool", function(t)
  local provider <close> = start()
  local tools = { { name = "get_weather", input_schema = WEATHER } }
  local messages = user "How is the weather in Oslo?"
  local list = events(provider, "/v1/messages", { messages = messages, tools = tools }, ANTHROPIC)
  local arguments = joined(list, function(e) return e.delta and e.delta.partial_json end)
  t.eq(json.decode(arguments).city, "Oslo")
  local whole = anthropic(provider, { messages = messages, tools = tools }):json()
  t.eq(whole.stop_reason, "tool_use")
  t.eq(whole.content[1].input, json.decode(arguments))
  messages[2] = { role = "assistant", content = whole.content }
  messages[3] = { role = "user", content = { { type = "tool_result", tool_use_id = whole.content[1].id,
    content = { { type = "text", text = "snow" } } } } }
  whole = anthropic(provider, { messages = messages, tools = tools }):json()
  t.match(whole.content[1].text, "get_weather says: snow")
end)

-- The rest of the API -------------------------------------------------------------------------------------

T.test("routes: any prefix, any query, any credential, the right dialect of no", function(t)
  local provider <close> = start()
  for _, path in ipairs { "/v1/chat/completions", "/chat/completions", "/openai/v1/chat/completions?api-version=1" } do
    t.eq(openai(provider, { messages = user "hi" }, path).status, 200, path)
  end
  for _, headers in ipairs { { ["anthropic-version"] = "2026-10-21", ["x-api-key"] = "k" },
    { ["anthropic-version"] = "2023-06-01", Authorization = "Bearer k", ["anthropic-beta"] = "a,b" } } do
    local reply = http.request { url = provider.url .. "/v1/messages?beta=true", headers = headers,
      json = { model = "m", max_tokens = 5, messages = user "hi" } }
    t.eq(reply.status, 200)
  end
  local reply = http.request(provider.url .. "/v1/nothing")
  t.eq({ reply.status, reply:json().error.code }, { 404, "unknown_url" })
  reply = http.request { url = provider.url .. "/v1/nothing", headers = ANTHROPIC }
  t.eq({ reply.status, reply:json().type, reply:json().error.type }, { 404, "error", "not_found_error" })
  reply = http.request(provider.url .. "/v1/chat/completions")
  t.eq({ reply.status, reply.headers.allow }, { 405, "POST" })
  reply = http.request(provider.url .. "/")
  t.eq(reply.status, 200)
  t.match(reply.body, "/v1/chat/completions")
  t.eq(http.request { url = provider.url .. "/", method = "HEAD" }.body, "")
end)

T.test("models, count_tokens", function(t)
  local provider <close> = start()
  local list = http.request(provider.url .. "/v1/models"):json()
  t.eq(list.object, "list")
  local ids = {}
  for _, model in ipairs(list.data) do ids[model.id] = true end
  t.ok(ids.mock and ids.echo and ids["mock-slow"])
  list = http.request { url = provider.url .. "/v1/models?limit=1000", headers = ANTHROPIC }:json()
  t.eq({ list.data[1].type, list.has_more, list.first_id }, { "model", false, list.data[1].id })
  local body = { model = "m", messages = user "How many tokens is this?", system = "Be brief." }
  local counted = http.request { url = provider.url .. "/v1/messages/count_tokens", json = body, headers = ANTHROPIC }
  body.max_tokens = 5
  local used = http.request { url = provider.url .. "/v1/messages", json = body, headers = ANTHROPIC }
  t.eq(counted:json(), { input_tokens = used:json().usage.input_tokens })
end)

T.test("models that misbehave by their names", function(t)
  local provider <close> = start()
  local reply = openai(provider, { model = "mock-429", messages = user "x" })
  t.eq({ reply.status, reply.headers["retry-after"], reply:json().error.code }, { 429, "1", "rate_limit_exceeded" })
  t.eq(openai(provider, { model = "any/mock-503", messages = user "x" }).status, 503)
  reply = openai(provider, { model = "mock-quota", messages = user "x" })
  t.eq({ reply.status, reply:json().error.code }, { 429, "insufficient_quota" })
  reply = openai(provider, { model = "mock-html", messages = user "x" })
  t.eq({ reply.status, reply.headers["content-type"] }, { 502, "text/html" })
  t.raises("network", events, provider, "/v1/chat/completions", { model = "mock-cut", messages = user "x" })
  local list = events(provider, "/v1/chat/completions", { model = "mock-eof", messages = user "x" })
  t.ok(list[#list] ~= "[DONE]" and list[#list].choices[1].finish_reason == json.null)
  list = events(provider, "/v1/chat/completions", { model = "mock-error", messages = user "x" })
  t.ok(list[#list].error)
  reply = openai(provider, { model = "mock-think", messages = user "x" })
  t.match(reply:json().choices[1].message.reasoning_content, ".")
end)

-- Tokens --------------------------------------------------------------------------------------------------

local function ask_token(provider, form, headers)
  local all = { ["Content-Type"] = "application/x-www-form-urlencoded" }
  for name, value in pairs(headers or {}) do all[name] = value end
  return http.request { url = provider.url .. "/oauth/token", body = form, headers = all }
end

T.test("client_credentials: basic and post, but not both", function(t)
  local provider <close> = start { oauth = { client_id = "me you", client_secret = "s:%cret+", expires_in = 90 } }
  local basic = { Authorization = "Basic bWUreW91OnMlM0ElMjVjcmV0JTJC" } -- urlencoded, then base64
  local reply = ask_token(provider, "grant_type=client_credentials&scope=a%20b", basic)
  t.eq(reply.status, 200)
  t.eq(reply.headers["cache-control"], "no-store")
  t.eq(reply:json(), { access_token = "mock-token-1", token_type = "Bearer", expires_in = 90, scope = "a b" })
  local post = "grant_type=client_credentials&client_id=me+you&client_secret=s%3A%25cret%2B"
  t.eq(ask_token(provider, post):json().access_token, "mock-token-2")
  reply = ask_token(provider, post, basic)
  t.eq({ reply.status, reply:json().error }, { 400, "invalid_request" })
  reply = ask_token(provider, "grant_type=client_credentials&client_id=me+you&client_secret=wrong")
  t.eq({ reply.status, reply:json().error }, { 401, "invalid_client" })
  t.match(reply.headers["www-authenticate"], "^Basic")
  t.eq(ask_token(provider, "grant_type=password", basic):json().error, "unsupported_grant_type")
  t.eq(ask_token(provider, "scope=x", basic):json().error, "invalid_request")
  reply = http.request { url = provider.url .. "/oauth/token", json = { grant_type = "client_credentials" } }
  t.eq(reply.status, 400)
  t.eq(provider:stats().tokens, 2)
end)

T.test("a refresh token is good for one use", function(t)
  local provider <close> = start { oauth = { refresh = true } }
  local first = ask_token(provider, "grant_type=client_credentials&client_id=x&client_secret=y"):json()
  local function refresh(token)
    return ask_token(provider, "grant_type=refresh_token&client_id=x&client_secret=y&refresh_token=" .. token)
  end
  local second = refresh(first.refresh_token):json()
  t.ne(second.access_token, first.access_token)
  t.eq({ refresh(first.refresh_token).status, refresh(second.refresh_token).status }, { 400, 400 },
    "used twice: the family ends")
end)

T.test("auth = \"token\": only a live token opens the API", function(t)
  local provider <close> = start { scenario = { { auth = "token" } }, oauth = { expires_in = 0.15 } }
  local function ask(token)
    return http.request { url = provider.url .. "/v1/chat/completions", headers = { Authorization = token },
      json = { model = "m", messages = user "hi" } }.status
  end
  t.eq(ask("Bearer nonsense"), 401)
  local token = "Bearer " .. ask_token(provider, "grant_type=client_credentials&client_id=x"):json().access_token
  t.eq(ask(token), 200)
  T.until_(function() return ask(token) == 401 end, 5, "the token's end")
  token = "Bearer " .. ask_token(provider, "grant_type=client_credentials&client_id=x"):json().access_token
  provider:revoke()
  t.eq(ask(token), 401)
end)

-- What it remembers -----------------------------------------------------------------------------------------

T.test("the log of requests, without credentials", function(t)
  local seen = {}
  local provider <close> = start { on_request = function(entry) seen[#seen + 1] = entry end }
  http.request { url = provider.url .. "/v1/messages", json = { model = "m", max_tokens = 5, messages = user "hi" },
    headers = { ["anthropic-version"] = "2023-06-01", ["x-api-key"] = "sk-secret",
      Authorization = "Bearer tok-secret" } }
  local entry = provider.requests[1]
  t.eq({ entry.model, entry.method, entry.path, entry.status, entry.outcome },
    { "m", "POST", "/v1/messages", 200, "complete" })
  t.eq(entry.body.messages, user "hi")
  t.ok(math.abs(task.now() - entry.at) < 10)
  t.eq(entry.headers["x-api-key"], "[9 bytes]")
  t.eq(entry.headers.authorization, "Bearer [17 bytes]")
  t.ok(not T.show(provider.requests, 9):find "secret")
  t.eq(seen[1], entry)
  http.request { url = provider.url .. "/v1/chat/completions", body = "{ not json" }
  t.eq({ provider.requests[2].status, provider.requests[2].outcome }, { 400, "error" })
  local open <close> = start { keep_secrets = true }
  http.request { url = open.url .. "/stats", headers = { Authorization = "Bearer tok-secret" } }
  t.eq(open.requests[1].headers.authorization, "Bearer tok-secret")
end)

T.test("the log keeps the latest thousand, at least", function(t)
  local provider <close> = start()
  for _ = 1, 2100 do http.request(provider.url .. "/stats") end
  t.ok(#provider.requests >= 1000 and #provider.requests < 2000, #provider.requests)
  local log = provider.requests
  for i = 2, #log do
    if log[i].at < log[i - 1].at then error "out of order" end
  end
  t.eq(provider:stats().requests, 2100)
end)

T.test("stats, by call and over HTTP", function(t)
  local provider <close> = start()
  openai(provider, { messages = user "a" })
  events(provider, "/v1/chat/completions", { messages = user "b" })
  openai(provider, { model = "mock-500", messages = user "c" })
  pcall(events, provider, "/v1/chat/completions", { model = "mock-cut", messages = user "d" })
  local stats = provider:stats()
  stats.connections = nil
  t.eq(stats, { requests = 4, streams = 2, streams_open = 0, finished = 2, errors = 1, cut = 1, client_gone = 0,
    closed = 0, tokens = 0 })
  t.eq(http.request(provider.url .. "/stats"):json().requests, 5)
end)

T.test("clients that leave are noticed, and counted", function(t)
  local provider <close> = start { pace = 1 }
  for i = 1, 5 do
    local stream = http.stream { url = provider.url .. "/v1/chat/completions",
      json = { model = "mock-stall", stream = true, messages = user("hello " .. i) } }
    stream:events()(stream)
    t.eq(provider:stats().streams_open, 1)
    stream:close()
    T.until_(function() return provider:stats().streams_open == 0 end)
  end
  task.group(function(g)
    local client = g:spawn(openai, provider, { model = "mock-slow", messages = user "x" })
    T.until_(function() return provider:stats().requests == 6 end)
    client:cancel()
  end)
  T.until_(function() return provider:stats().client_gone == 6 end)
  t.eq(provider.requests[1].outcome, "client_gone")
end)

T.test("closing ends the streams under way", function(t)
  local provider = start { scenario = { { stall_after = 1 } } }
  local stream = http.stream { url = provider.url .. "/v1/chat/completions",
    json = { model = "m", stream = true, messages = user "x" } }
  stream:events()(stream)
  provider:close()
  t.raises("network", function() for _ in stream:events() do t.log "an event" end end)
  T.until_(function() return provider:stats().closed == 1 end)
  t.eq(provider:stats().streams_open, 0)
end)

T.test("pace: as a provider's, or at once; a scenario's times hold either way", function(t)
  local function elapsed(opts, model)
    local provider <close> = mock.start(opts)
    local started = task.now()
    openai(provider, { model = model, messages = user "one two three four five six seven eight nine ten" })
    return task.now() - started
  end
  t.ok(elapsed({ pace = 0 }, "echo") < (T.slow and 5 or 0.2))
  local natural = elapsed({ pace = 0.5 }, "echo") -- 0.1 s, then ten times 10 ms
  t.ok(natural >= 0.19, natural)
  local given = elapsed({ pace = 0, scenario = { { first_token = 0.1, gap = 0.02 } } }, "echo")
  t.ok(given >= 0.29, given)
end)

T.test("with sluice.model: ask, stream, tools, both protocols", function(t)
  local provider <close> = start()
  for _, protocol in ipairs { "openai", "anthropic" } do
    local model = sluice.model { provider = protocol, model = "mock", auth = "key",
      base_url = provider.url .. (protocol == "openai" and "/v1" or "") }
    local reply = model:ask "Why is the sky blue?"
    t.match(reply.text, "sky")
    t.ok(reply.usage.output_tokens > 3)
    local stream <close> = model:stream "Why is the sky blue?"
    local parts = {}
    for piece in stream:text() do parts[#parts + 1] = piece end
    t.eq(table.concat(parts), reply.text)
    t.ok(#parts > 3)
    reply = model:ask { prompt = "How is the weather in Rome?",
      tools = { { name = "get_weather", parameters = WEATHER } } }
    t.eq(#reply.tool_calls, 1)
    t.eq({ reply.tool_calls[1].name, reply.tool_calls[1].arguments.city }, { "get_weather", "Rome" })
  end
end)

T.done()
