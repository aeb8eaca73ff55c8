-- Scenarios of the mock: which rule strikes which request, and each fault as it is on the wire.
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"

local http, json, task = sluice.http, sluice.json, sluice.task

local function start(rules, opts)
  local o = { pace = 0, scenario = rules }
  for name, value in pairs(opts or {}) do o[name] = value end
  return mock.start(o)
end

local WORDS = "one two three four five six seven eight nine ten"

local function body_of(fields)
  local body = { model = "echo", messages = { { role = "user", content = WORDS } } }
  for name, value in pairs(fields or {}) do body[name] = value end
  return body
end

local function ask(provider, fields)
  return http.request { url = provider.url .. "/v1/chat/completions", json = body_of(fields) }
end

local function ask_anthropic(provider, fields)
  local body = body_of(fields)
  body.max_tokens = body.max_tokens or 100
  return http.request { url = provider.url .. "/v1/messages", json = body,
    headers = { ["anthropic-version"] = "2023-06-01" } }
end

-- A stream as the client sees it: text, all events' data, and what ended it.
local function read(provider, fields, path)
  local body = body_of(fields)
  body.stream = true
  if path then body.max_tokens = 100 end
  local seen = { data = {}, names = {} }
  local ok, err = pcall(function()
    local stream <close> = http.stream { url = provider.url .. (path or "/v1/chat/completions"), json = body,
      headers = { ["anthropic-version"] = "2023-06-01" } }
    seen.headers = stream.headers
    for event in stream:events() do
      seen.data[#seen.data + 1] = event.data
      seen.names[#seen.names + 1] = event.event
    end
  end)
  seen.err = not ok and err or nil
  local parts = {}
  for _, data in ipairs(seen.data) do
    local good, value = pcall(json.decode, data)
    local choice = good and type(value) == "table" and value.choices and value.choices[1]
    if choice and type(choice.delta.content) == "string" then parts[#parts + 1] = choice.delta.content end
    local delta = good and type(value) == "table" and value.delta
    if delta and delta.text then parts[#parts + 1] = delta.text end
  end
  seen.text, seen.last = table.concat(parts), seen.data[#seen.data]
  return seen
end

-- The bytes of a reply to a streamed request.
local function bytes(provider, fields, path)
  local body = body_of(fields)
  body.stream = true
  if path then body.max_tokens = 100 end
  return http.request { url = provider.url .. (path or "/v1/chat/completions"), json = body,
    headers = { ["anthropic-version"] = "2023-06-01" } }.body
end

local function statuses(provider, n, fields)
  local list = {}
  for i = 1, n do list[i] = ask(provider, fields).status end
  return list
end

-- Which rule --------------------------------------------------------------------------------------------

T.test("the first rule that fits decides", function(t)
  local provider <close> = start { { model = "echo", status = 500 }, { status = 400 } }
  t.eq(ask(provider).status, 500)
  t.eq(ask(provider, { model = "other" }).status, 400)
  t.eq(provider.requests[1].rules, { 1 })
  t.eq(provider.requests[2].rules, { 2 })
end)

T.test("also adds effects and goes on; what an earlier rule said holds", function(t)
  local provider <close> = start {
    { also = true, headers = { ["X-One"] = "1" }, text = "first" }, { text = "second", finish_reason = "length" },
  }
  local reply = ask(provider)
  t.eq(reply.headers["x-one"], "1")
  t.eq({ reply:json().choices[1].message.content, reply:json().choices[1].finish_reason }, { "first", "length" })
  t.eq(provider.requests[1].rules, { 1, 2 })
end)

T.test("nth, from, to, every count the requests that fit the rest, taken or not", function(t)
  local provider <close> = start {
    { model = "a", nth = 1, status = 500 }, { model = "a", nth = 2, status = 501 },
    { model = "b", from = 2, to = 3, status = 502 }, { model = "c", every = 2, status = 503 },
    { model = "d", nth = { 1, 3 }, status = 504 },
  }
  t.eq(statuses(provider, 4, { model = "d" }), { 504, 200, 504, 200 })
  t.raises("'nth' is an empty list", start, { { nth = {}, status = 500 } })
  t.eq(statuses(provider, 4, { model = "a" }), { 500, 501, 200, 200 })
  t.eq(statuses(provider, 4, { model = "b" }), { 200, 502, 502, 200 })
  t.eq(statuses(provider, 4, { model = "c" }), { 200, 503, 200, 503 })
end)

T.test("once, probability and the seed", function(t)
  local provider <close> = start { { once = true, status = 500 } }
  t.eq(statuses(provider, 3), { 500, 200, 200 })
  local function run(seed)
    local p <close> = start({ { probability = 0.5, status = 500 } }, { seed = seed })
    return statuses(p, 40)
  end
  local first = run(7)
  t.eq(run(7), first)
  t.ne(run(8), first)
  local struck = 0
  for _, status in ipairs(first) do struck = struck + (status == 500 and 1 or 0) end
  t.ok(struck > 8 and struck < 32, struck)
end)

T.test("model, path, protocol, stream and header", function(t)
  local provider <close> = start {
    { model = "vendor/*-big", status = 511 }, { path = "*/v2/*", status = 512 },
    { header = { ["X-Team"] = "b*" }, status = 513 }, { stream = true, status = 514 },
    { protocol = "anthropic", status = 515 }, { protocol = "models", status = 516 },
  }
  t.eq(ask(provider, { model = "vendor/x-big" }).status, 511)
  t.eq(ask(provider, { model = "vendor/x-bigger" }).status, 200)
  t.eq(http.request { url = provider.url .. "/v2/chat/completions", json = body_of() }.status, 512)
  for team, status in pairs { blue = 513, red = 200 } do
    t.eq(http.request { url = provider.url .. "/v1/chat/completions", json = body_of(),
      headers = { ["x-team"] = team } }.status, status)
  end
  t.eq(ask(provider, { stream = true }).status, 514)
  t.eq(ask_anthropic(provider).status, 515)
  t.eq(http.request(provider.url .. "/v1/models").status, 516)
end)

T.test("a request that is at fault is refused, whatever the scenario wants", function(t)
  local provider <close> = start { { status = 500 } }
  t.eq(ask(provider, { messages = json.array {} }).status, 400)
end)

-- Errors --------------------------------------------------------------------------------------------------

T.test("a status with its error, headers and times to wait", function(t)
  local provider <close> = start {
    { nth = 1, status = 429, retry_after = 2, headers = { ["x-ratelimit-reset-requests"] = "1s" } },
    { nth = 2, status = 429, retry_after = "Wed, 21 Oct 2026 07:28:00 GMT" },
    { nth = 3, status = 503, retry_after_ms = 250.5 }, { nth = 4, status = 503, retry_after_date = 10 },
    { nth = 5, status = 429, code = "insufficient_quota" },
    { nth = 6, status = 418, message = "I am a teapot" }, { nth = 7, status = 500, body = "plain" },
    { nth = 8, status = 500, body = { odd = true } }, { nth = 9, body = "not json" },
  }
  local reply = ask(provider)
  t.eq({ reply.status, reply.headers["retry-after"], reply.headers["x-ratelimit-reset-requests"] }, { 429, "2", "1s" })
  t.eq(reply:json().error.type, "rate_limit_error")
  t.eq(ask(provider).headers["retry-after"], "Wed, 21 Oct 2026 07:28:00 GMT")
  t.eq(ask(provider).headers["retry-after-ms"], "250.5")
  t.match(ask(provider).headers["retry-after"], "^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$")
  t.eq(ask(provider):json().error.type, "insufficient_quota")
  reply = ask(provider)
  t.eq({ reply.status, reply:json().error.message }, { 418, "I am a teapot" })
  t.eq(ask(provider).body, "plain")
  t.eq(ask(provider):json(), { odd = true })
  reply = ask(provider)
  t.eq({ reply.status, reply.body }, { 200, "not json" })
end)

T.test("dialects", function(t)
  local function error_of(dialect, status, fields)
    local rule = { status = status, dialect = dialect }
    for name, value in pairs(fields or {}) do rule[name] = value end
    local provider <close> = start { rule }
    return ask(provider):json()
  end
  t.eq(error_of("siliconflow", 401), "Invalid token")
  t.eq(error_of("siliconflow", 503).code, 50505)
  local limited = error_of("siliconflow", 429)
  t.eq({ limited.code, limited.error, limited.data }, { nil, nil, json.null })
  t.match(limited.message, "Details:TPM limit reached")
  t.match(error_of("siliconflow", 429, { code = "RPM" }).message, "Details:RPM limit reached")
  t.eq(error_of("openrouter", 502).error.code, 502)
  t.eq({ error_of("vllm", 400).object, error_of("vllm", 400).code }, { "error", 400 })
  t.eq(error_of("anthropic", 529).error.type, "overloaded_error")
  local provider <close> = start { { status = 529 } }
  local reply = ask_anthropic(provider)
  t.eq({ reply.status, reply:json().type, reply:json().error.type }, { 529, "error", "overloaded_error" })
end)

T.test("a proxy's page, a redirect", function(t)
  local provider <close> = start { { nth = 1, html = true }, { nth = 2, html = "<p>down</p>", status = 503 },
    { nth = 3, redirect = "http://127.0.0.1:9/elsewhere" } }
  local reply = ask(provider)
  t.eq({ reply.status, reply.headers["content-type"] }, { 502, "text/html" })
  t.match(reply.body, "<title>502 Bad Gateway</title>")
  reply = ask(provider)
  t.eq({ reply.status, reply.body }, { 503, "<p>down</p>" })
  reply = http.request { url = provider.url .. "/v1/chat/completions", json = body_of(), redirects = 0 }
  t.eq({ reply.status, reply.headers.location }, { 307, "http://127.0.0.1:9/elsewhere" })
end)

T.test("the token endpoint: lifetimes, errors, silence", function(t)
  local provider <close> = start {
    { protocol = "oauth", nth = 1, cut = "reset" }, -- on a fresh connection: curl tries again on a used one
    { protocol = "oauth", nth = 2, expires_in = "60" }, { protocol = "oauth", nth = 3, expires_in = false },
    { protocol = "oauth", nth = 4, status = 400, code = "invalid_grant" }, { protocol = "oauth", nth = 5, html = true },
  }
  local function token()
    return http.request { url = provider.url .. "/oauth/token", body = "grant_type=client_credentials&client_id=x",
      headers = { ["Content-Type"] = "application/x-www-form-urlencoded" } }
  end
  t.raises("network", token)
  t.eq(token():json().expires_in, "60")
  t.eq(token():json().expires_in, nil)
  local reply = token()
  t.eq({ reply.status, reply:json().error }, { 400, "invalid_grant" })
  t.eq(token().headers["content-type"], "text/html")
  t.eq(token():json().token_type, "Bearer")
end)

-- Time ------------------------------------------------------------------------------------------------------

T.test("delay is before the headers, first_token after them", function(t)
  local provider <close> = start { { model = "a", delay = 0.5 }, { model = "b", first_token = 0.5 } }
  for model, headers_late in pairs { a = true, b = false } do
    local started, first = task.now(), nil
    local stream <close> = http.stream { url = provider.url .. "/v1/chat/completions",
      json = body_of { model = model, stream = true } }
    local headers = task.now() - started
    for event in stream:events() do
      local delta = event.data:find '"content":"[^"]'
      if delta and not first then first = task.now() - started end
    end
    t.eq(headers >= 0.49, headers_late, model)
    t.ok(first >= 0.49, model)
  end
end)

T.test("gap and tokens_per_second", function(t)
  local provider <close> = start { { model = "a", gap = 0.02 }, { model = "b", tokens_per_second = 100 } }
  for model, least in pairs { a = 0.17, b = 0.085 } do
    local started = task.now()
    read(provider, { model = model, messages = { { role = "user", content = WORDS } }, max_tokens = 10 })
    t.ok(task.now() - started >= least, model)
  end
end)

T.test("comments and pings while nothing is said", function(t)
  local provider <close> = start { { comments = 0.1, ping_every = 0.02 } }
  local got = bytes(provider)
  local _, count = got:gsub("\n: ping\n", "")
  t.ok(count >= 3, count)
  t.ok(got:find ": ping" < got:find '"content":"one"')
  got = bytes(provider, nil, "/v1/messages")
  _, count = got:gsub("event: ping\n", "")
  t.ok(count >= 4, count)
  local silent <close> = start { { first_token = 0.1, ping_every = 0.02, dialect = "openrouter" } }
  _, count = bytes(silent):gsub("\n: OPENROUTER PROCESSING\n", "")
  t.ok(count >= 3, count)
end)

T.test("a stall: for a while, or until the client leaves", function(t)
  local provider <close> = start { { model = "echo", stall_after = 2, stall = 0.15 }, { stall_after = 3 } }
  local started = task.now()
  local seen = read(provider)
  t.ok(task.now() - started >= 0.14)
  t.eq({ seen.text, seen.last }, { WORDS, "[DONE]" })
  local stream = http.stream { url = provider.url .. "/v1/chat/completions",
    json = body_of { model = "m", stream = true } }
  local count = 0
  t.raises("timeout", task.deadline, 0.2, function()
    for _ in stream:events() do count = count + 1 end
  end)
  t.eq(count, 4) -- the role, and three tokens
  stream:close()
  T.until_(function() return provider:stats().client_gone == 1 end)
  started = task.now()
  t.eq(ask(provider).status, 200)
  t.ok(task.now() - started >= 0.14, "whole replies stall, too")
end)

-- Broken answers --------------------------------------------------------------------------------------------

T.test("cuts, as a stream sees them", function(t)
  local rules = {}
  for i, how in ipairs { "reset", "close", "mid_event", "eof", "after_last", "before_headers" } do
    rules[i] = { model = how .. "*", cut_after = 3, cut = how }
  end
  local provider <close> = start(rules)
  local function cut(how, path) return read(provider, { model = how .. "/echo" }, path) end
  for _, path in ipairs { false, "/v1/messages" } do
    path = path or nil
    for _, how in ipairs { "reset", "close", "mid_event" } do
      local seen = cut(how, path)
      t.eq({ seen.text, seen.err and seen.err.kind }, { "one two three", "network" }, how)
      t.eq(seen.data[#seen.data]:find "finish_reason\":\"stop", nil)
    end
    local seen = cut("eof", path)
    t.eq({ seen.text, seen.err }, { "one two three", nil })
    seen = cut("after_last", path)
    t.eq({ seen.text, seen.err and seen.err.kind }, { WORDS, "network" })
    t.match(seen.last, path and "message_stop" or "^%[DONE%]$")
    seen = cut("before_headers", path)
    t.eq({ seen.text, seen.headers, seen.err.kind }, { "", nil, "network" })
  end
  t.eq(provider:stats().cut, 12)
  t.eq(provider.requests[1].outcome, "cut")
end)

T.test("half an event is on the wire before mid_event's reset", function(t)
  local provider <close> = start { { cut_after = 2, cut = "mid_event" } }
  local folder = T.tmpdir()
  local request = json.encode(body_of { stream = true })
  T.write(folder .. "/request", ("POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s")
    :format(#request, request))
  os.execute(([[cd %s && (bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d; cat request >&3
    timeout 5 cat <&3 >reply 2>why; : >done' >/dev/null 2>&1) &]]):format(folder, provider.port))
  T.until_(function()
    local file = io.open(folder .. "/done")
    if file then file:close() end
    return file
  end)
  t.match(T.read(folder .. "/reply"), 'data: {"id":"chatcmpl%-mock","object":"chat%.comp\r\n$')
  t.match(T.read(folder .. "/why"), "[Rr]eset")
end)

T.test("cuts of whole replies", function(t)
  local provider <close> = start { { model = "reset*", cut_after = 3 },
    { model = "close*", cut_after = 3, cut = "close" }, { model = "before*", cut = "before_headers" },
    { model = "length*", content_length = 5 }, { model = "more*", content_length = 5000 } }
  for _, model in ipairs { "reset", "close", "before", "more" } do
    t.raises("network", ask, provider, { model = model })
  end
  local reply = ask(provider, { model = "length" })
  t.eq(#reply.body, 5)
end)

T.test("a cut that is set for later than the answer goes on happens at its end", function(t)
  local provider <close> = start { { cut_after = 1000, text = "a b c" } }
  local seen = read(provider)
  t.eq({ seen.text, seen.err and seen.err.kind }, { "a b c", "network" })
  t.eq(seen.data[#seen.data]:find "\"stop\"", nil)
end)

T.test("made-up answers are long enough for the fault to be inside", function(t)
  local provider <close> = start { { cut_after = 150 } }
  local seen = read(provider, { model = "mock", messages = { { role = "user", content = "One sentence, please." } } })
  t.eq(#seen.data, 151)
end)

T.test("an error event inside a 200, in each dialect", function(t)
  local provider <close> = start { { model = "openai*", error_after = 2 },
    { model = "router*", error_after = 2, dialect = "openrouter" },
    { model = "vllm*", error_after = 2, dialect = "vllm", status = 400, message = "too long" },
    { model = "flow*", error_after = 2, dialect = "siliconflow" }, { error_after = 2 } }
  local function last(model, path)
    local seen = read(provider, { model = model .. "/echo" }, path)
    t.eq({ seen.text, seen.err }, { "one two", nil }, model)
    return json.decode(seen.last), seen.names[#seen.names]
  end
  t.eq(last("openai").error.code, "server_is_overloaded")
  local value = last "router"
  t.eq({ value.error.code, value.choices[1].finish_reason }, { 503, "error" })
  value = last "vllm"
  t.eq({ value.object, value.code, value.message }, { "error", 400, "too long" })
  t.eq(last("flow").code, 50505)
  local name
  value, name = last("other", "/v1/messages")
  t.eq({ name, value.type, value.error.type }, { "error", "error", "overloaded_error" })
  t.eq(provider.requests[1].outcome, "error")
  t.eq(ask(provider, { model = "other" }).status, 503, "a whole reply is an error then")
end)

T.test("an event that is not JSON, and then the rest", function(t)
  local provider <close> = start { { malformed_after = 2 } }
  local seen = read(provider)
  t.eq({ seen.text, seen.last }, { WORDS, "[DONE]" })
  local bad = 0
  for _, data in ipairs(seen.data) do
    if data ~= "[DONE]" and not pcall(json.decode, data) then bad = bad + 1 end
  end
  t.eq(bad, 1)
  t.raises("protocol", function() return ask(provider):json() end)
end)

T.test("ends that are missing", function(t)
  local provider <close> = start { { model = "done*", no_done = true }, { model = "finish*", no_finish = true } }
  local seen = read(provider, { model = "done/echo" })
  t.match(seen.last, '"finish_reason":"stop"')
  seen = read(provider, { model = "finish/echo" })
  t.match(seen.last, '"content":" ten"')
  t.eq(seen.err, nil)
  seen = read(provider, { model = "done/echo" }, "/v1/messages")
  t.eq(json.decode(seen.last).type, "message_delta")
  seen = read(provider, { model = "finish/echo" }, "/v1/messages")
  t.eq(json.decode(seen.last).type, "content_block_delta")
end)

-- Form ------------------------------------------------------------------------------------------------------

T.test("line ends, byte order mark, pieces: the same answer for a client that reads well", function(t)
  local text = "naïve 天空 🌍 café"
  local provider <close> = start { { model = "cr/*", newline = "cr" }, { model = "crlf/*", newline = "crlf" },
    { model = "bom/*", bom = true }, { model = "split/*", split = 3 },
    { model = "all/*", newline = "crlf", bom = true, split = 1 } }
  for _, model in ipairs { "plain", "cr", "crlf", "bom", "split", "all" } do
    for _, path in ipairs { false, "/v1/messages" } do
      local seen = read(provider, { model = model .. "/echo", messages = { { role = "user", content = text } } },
        path or nil)
      t.eq({ seen.text, seen.err }, { text, nil }, model)
    end
  end
  local crlf = bytes(provider, { model = "crlf/echo" })
  t.ok(crlf:find "\r\n\r\n" and not crlf:gsub("\r\n", ""):find "[\r\n]")
  local cr = bytes(provider, { model = "cr/echo" })
  t.ok(cr:find "\r\r" and not cr:find "\n")
  t.eq(bytes(provider, { model = "bom/echo" }):sub(1, 3), "\xEF\xBB\xBF")
  t.eq(ask(provider, { model = "split/echo" }):json().choices[1].message.content, WORDS)
end)

T.test("usage on every chunk, cumulative", function(t)
  local provider <close> = start { { usage_on_every_chunk = true } }
  local last = 0
  local seen = read(provider)
  for i = 1, #seen.data - 1 do
    local usage = json.decode(seen.data[i]).usage
    t.ok(usage.completion_tokens >= last)
    last = usage.completion_tokens
  end
  t.eq(last, 10)
  local deltas = 0
  seen = read(provider, nil, "/v1/messages")
  for _, name in ipairs(seen.names) do deltas = deltas + (name == "message_delta" and 1 or 0) end
  t.eq(deltas, 11)
end)

-- Content ---------------------------------------------------------------------------------------------------

T.test("text, thinking, tool_call, finish_reason", function(t)
  local provider <close> = start { { nth = 1, text = "just this" }, { nth = 2, thinking = "hm", text = "x" },
    { nth = 3, tool_call = { name = "f", arguments = { a = 1 } } },
    { nth = 4, tool_call = { name = "f", arguments = "{ not json" } },
    { nth = 5, finish_reason = "content_filter" } }
  t.eq(ask(provider):json().choices[1].message.content, "just this")
  t.eq(ask(provider):json().choices[1].message.reasoning_content, "hm")
  local call = ask(provider):json().choices[1].message.tool_calls[1]
  t.eq({ call["function"].name, json.decode(call["function"].arguments) }, { "f", { a = 1 } })
  t.eq(ask(provider):json().choices[1].message.tool_calls[1]["function"].arguments, "{ not json")
  t.eq(ask(provider):json().choices[1].finish_reason, "content_filter")
end)

-- Files and mistakes ----------------------------------------------------------------------------------------

T.test("a file, and what can be wrong with it", function(t)
  local folder = T.tmpdir()
  local function write(source) return T.write(folder .. "/outage.lua", source) end
  local provider <close> = start(write "return { { status = 503 } }")
  t.eq(ask(provider).status, 503)
  local function refused(pattern, source)
    t.raises(pattern, start, write(source))
  end
  refused("scenario .*/outage%.lua, rule 2: unknown key 'frist_token' %(did you mean 'first_token'%?%)",
    "return { { status = 500 }, { frist_token = 3 } }")
  refused("rule 1: key 'status' must be an integer from 200 to 999, got a string", "return { { status = '500' } }")
  refused("rule 1: key 'cut' must be .*did you mean 'reset'", "return { { cut = 'rest' } }")
  refused("rule 1: key 'probability' must be a number from 0 to 1, got 2",
    "return { { probability = 2, status = 500 } }")
  refused("rule 1: 'from' is after 'to'", "return { { from = 3, to = 2, status = 500 } }")
  refused("rule 1: 'gap' and 'tokens_per_second' exclude", "return { { gap = 1, tokens_per_second = 2 } }")
  refused("rule 1: 'stall' needs 'stall_after'", "return { { stall = 1 } }")
  refused("rule 1: it has conditions but no effect", "return { { model = 'x', nth = 1 } }")
  refused("rule 1: key 'tool_call%.name' is missing", "return { { tool_call = {} } }")
  refused("rule 1: expected a table of keys, got a string", "return { 'x' }")
  refused("outage%.lua: it must return a list of rules, got nothing", "local x = 1")
  refused("outage%.lua: a list of rules expected, but it has the key 'status'", "return { status = 500 }")
  refused("outage%.lua:1: .*expected", "return { { status = } }")
  refused("outage%.lua: it raised: .*outage%.lua:1: no luck", "error 'no luck'")
  t.raises("scenario .*/none%.lua: no such file", start, folder .. "/none.lua")
  t.raises("scenario, rule 1: unknown key 'statu'", start, { { statu = 5 } })
  t.raises("mock%.start: unknown option 'prot' %(did you mean 'port'", mock.start, { prot = 1 })
end)

T.test("the scenarios that come with sluice load", function(t)
  local listing = assert(io.popen "ls scripts/scenarios/*.lua")
  local count = 0
  for path in listing:lines() do
    local provider <close> = start(path)
    t.ok(#provider.scenario.rules > 0, path)
    count = count + 1
  end
  listing:close()
  t.ok(count >= 2)
end)

T.done()
