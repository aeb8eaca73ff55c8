-- What arrives and what the script gets of it: both protocols, byte for byte, over real sockets. Every
-- answer is sent whole, cut into single bytes, and cut at random places: the outcome must not differ.
-- timeout: 120

local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local task = sluice.task

-- Sends `bytes` as a stream of events, cut as told: nothing, a number, or "random".
local function send(res, bytes, cut)
  res:start(200, S.EVENTS)
  local at = 1
  while at <= #bytes do
    local n = cut == "random" and math.random(1, 120) or cut or #bytes
    res:write(bytes:sub(at, at + n - 1))
    at = at + n
    if cut and at % 7 == 0 then -- now and then it leaves by itself
      res:flush()
      task.sleep(0)
    end
  end
  res:finish()
end

-- All events of a stream, texts joined; and the reply.
local function all_events(model)
  local s <close> = model:stream "x"
  local list = {}
  for ev in s:events() do
    local last = list[#list]
    if ev.type == "text" and last and last.type == "text" or ev.type == "thinking" and last and last.type == "thinking" then
      last.text = last.text .. ev.text
    else
      local copy = {}
      for k, v in pairs(ev) do copy[k] = v end
      list[#list + 1] = copy
    end
  end
  return list, s:reply()
end

local function joined_text(model)
  local s <close> = model:stream "x"
  return table.concat(S.collect(s:text())), s:reply()
end

--- Plays `bytes` in every cut to a model of the provider and checks: events, reply fields.
local function plays(t, provider, bytes, want)
  for _, cut in ipairs { false, 1, "random", "random" } do
    local server <close> = S.start(function(_, res) send(res, bytes, cut) end)
    local model = S.model(server, { provider = provider, limit = { concurrency = 1 } })
    local events, reply = all_events(model)
    if want.events then t.eq(events, want.events, cut) end
    for name, value in pairs(want.reply or {}) do t.eq(reply[name], value, name .. " " .. tostring(cut)) end
    local text, again = joined_text(model)
    t.eq(text, reply.text, cut)
    for name, value in pairs(want.reply or {}) do t.eq(again[name], value, name .. " by text() " .. tostring(cut)) end
    local directly = model:stream("x"):reply()
    for name, value in pairs(want.reply or {}) do t.eq(directly[name], value, name .. " by reply() " .. tostring(cut)) end
  end
end

--- Plays `bytes`; reading must raise, after the same text in every cut.
local function breaks(t, provider, bytes, want, text, how)
  local err
  for _, cut in ipairs { false, 1, "random" } do
    local server <close> = S.start(function(_, res)
      if not how then return send(res, bytes, cut) end
      res:start(200, S.EVENTS)
      res:write(bytes)
      res:flush()
      task.sleep(0.01)
      res:abort(how)
    end)
    local model = S.model(server, { provider = provider, limit = { concurrency = 1 } })
    local got = {}
    err = t.raises(want, function()
      for piece in model:stream("x"):text() do got[#got + 1] = piece end
    end)
    t.eq(table.concat(got), text, cut)
    if text ~= "" then t.eq(err.partial, text) end
    local by_events = t.raises(want, function() all_events(model) end)
    t.eq(by_events.message, err.message)
    t.raises(want, function() model:stream("x"):reply() end)
    t.eq(#server.seen, 3) -- one attempt each: the permit came back
  end
  return err
end

-- OpenAI --------------------------------------------------------------------------------------------------------

local USAGE = { input_tokens = 9, output_tokens = 3, total_tokens = 12, cached_tokens = 0, reasoning_tokens = 0 }

T.test("openai: text, usage, finish", function(t)
  plays(t, "openai", S.answer("Hel", "lo", " 世界", " \u{1F388}", '"\n\\'), {
    events = { { type = "text", text = 'Hello 世界 \u{1F388}"\n\\' }, { type = "usage", usage = USAGE },
      { type = "finish", reason = "stop" } },
    reply = { text = 'Hello 世界 \u{1F388}"\n\\', finish_reason = "stop", usage = USAGE, model = "m-1", id = "c1" },
  })
end)

T.test("openai: escapes, surrogates, a lone half, in single deltas", function(t)
  local bytes = S.chunk '{"content":"\\u4e16\\u754c"}' .. S.chunk '{"content":"\\ud83c\\udf88"}'
    .. S.chunk '{"content":"\\t\\/\\b"}' .. S.chunk '{"content":"a\\u0000b"}' .. S.finish() .. S.DONE
  plays(t, "openai", bytes, { reply = { text = "世界\u{1F388}\t/\ba\0b" } })
end)

T.test("openai: a delta that is cut inside a character is one text, not two", function(t)
  plays(t, "openai", S.text "服" .. S.text "务" .. S.finish() .. S.DONE, { reply = { text = "服务" } })
end)

T.test("openai: line ends CR, CRLF, a BOM, comments, names and ids do not matter", function(t)
  local plain = S.answer("one ", "two")
  local want = { reply = { text = "one two", usage = USAGE } }
  plays(t, "openai", (plain:gsub("\n", "\r\n")), want)
  plays(t, "openai", (plain:gsub("\n", "\r")), want)
  plays(t, "openai", "\xEF\xBB\xBF" .. plain, want)
  plays(t, "openai", ": OPENROUTER PROCESSING\n\n" .. plain:gsub("\n\n", "\n\n: ping\n\n"), want)
  plays(t, "openai", plain:gsub("data: ", "id: 4\nevent: message\nretry: 10\ndata:"), want)
  plays(t, "openai", (plain:gsub('{"id"', '{\ndata:"id"')), want) -- an event of two data lines
end)

T.test("openai: finish without [DONE], [DONE] with a space, no final blank line", function(t)
  plays(t, "openai", S.text "all" .. S.finish(), { reply = { text = "all", finish_reason = "stop", usage = {} } })
  plays(t, "openai", S.text "all" .. S.finish() .. "data: [DONE] \n\n", { reply = { text = "all" } })
  plays(t, "openai", S.text "all" .. S.finish():gsub("\n\n$", ""), { reply = { text = "all" } })
  plays(t, "openai", S.text "all" .. S.finish "length" .. S.USAGE, { reply = { finish_reason = "length", usage = USAGE } })
end)

T.test("openai: usage on every chunk is the last one's, also beside the last text", function(t)
  local function with_usage(delta, finish, n)
    return S.chunk(delta, finish, (',"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}'):format(n, 9 + n))
  end
  plays(t, "openai", with_usage('{"role":"assistant","content":""}', nil, 0) .. with_usage('{"content":"a"}', nil, 1)
    .. with_usage('{"content":"b"}', nil, 2) .. with_usage("{}", "stop", 3) .. S.DONE, { reply = { text = "ab", usage = USAGE } })
  plays(t, "openai", with_usage('{"content":"a"}', nil, 1) .. with_usage('{"content":"b"}', nil, 3) .. S.finish() .. S.DONE,
    { reply = { text = "ab", usage = USAGE } })
  plays(t, "openai", with_usage('{"content":"a"}', nil, 3) .. S.chunk('{"content":"b"}', nil, ',"usage":null')
    .. S.chunk("{}", "stop", ',"usage":null') .. S.DONE, { reply = { text = "ab", usage = USAGE } })
end)

T.test("openai: thinking in both spellings comes before the text and stays out of it", function(t)
  for _, field in ipairs { "reasoning_content", "reasoning" } do
    local bytes = S.chunk('{"role":"assistant","content":null,"' .. field .. '":"Let me "}')
      .. S.chunk('{"content":"","' .. field .. '":"see."}') .. S.chunk('{"content":"42","' .. field .. '":""}')
      .. S.chunk('{"content":"!","' .. field .. '":null}') .. S.finish() .. S.DONE
    plays(t, "openai", bytes, {
      events = { { type = "thinking", text = "Let me see." }, { type = "text", text = "42!" }, { type = "finish", reason = "stop" } },
      reply = { text = "42!", thinking = "Let me see." },
    })
  end
end)

T.test("openai: tool calls in fragments, two at once, beside text; delivered once and whole", function(t)
  local function fragment(index, id, name, arguments)
    return S.chunk(('{"tool_calls":[{"index":%d%s,"function":{%s"arguments":%s}}]}'):format(index,
      id and (',"id":"%s","type":"function"'):format(id) or "", name and ('"name":"%s",'):format(name) or "",
      sluice.json.encode(arguments)))
  end
  local bytes = S.text "I look. " .. fragment(0, "a", "weather", "") .. fragment(0, nil, nil, '{"city":"Ber')
    .. fragment(1, "b", "time", "") .. fragment(0, nil, nil, 'lin","n":1}') .. fragment(1, nil, nil, "{}")
    .. S.finish "tool_calls" .. S.DONE
  plays(t, "openai", bytes, {
    events = {
      { type = "text", text = "I look. " },
      { type = "tool_call", id = "a", name = "weather", arguments = { city = "Berlin", n = 1 }, arguments_json = '{"city":"Berlin","n":1}' },
      { type = "tool_call", id = "b", name = "time", arguments = {}, arguments_json = "{}" },
      { type = "finish", reason = "tool_calls" },
    },
    reply = { text = "I look. ", finish_reason = "tool_calls" },
  })
end)

T.test("openai: who the first chunks are from is known, though they say nothing", function(t)
  local function chunk(from, delta, finish)
    return S.sse(('{%s"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'):format(from, delta, finish))
  end
  local first = '"id":"c-9","model":"big-2025",'
  for _, opening in ipairs { chunk(first, '{"role":"assistant","content":""}', "null"),
    chunk(first, '{"role":"assistant"}', "null") .. chunk('"id":"c-10",', "{}", "null") } do
    plays(t, "openai", opening .. chunk("", '{"content":"Hi"}', "null") .. chunk("", "{}", '"stop"') .. S.DONE,
      { reply = { text = "Hi", id = "c-9", model = "big-2025", finish_reason = "stop" } })
  end
  -- not as it stands on the wire
  plays(t, "openai", chunk([["id":"c\u002d9",]], '{"role":"assistant"}', "null") .. chunk("", '{"content":"Hi"}', '"stop"')
    .. S.DONE, { reply = { text = "Hi", id = "c-9" } })
end)

T.test("openai: nothing but a role and a finish is an empty answer", function(t)
  plays(t, "openai", S.chunk '{"role":"assistant","content":""}' .. S.finish() .. S.DONE,
    { events = { { type = "finish", reason = "stop" } }, reply = { text = "", finish_reason = "stop" } })
end)

T.test("openai: other choices, unknown events and fields are passed over", function(t)
  plays(t, "openai", S.text "a" .. S.sse '{"object":"chat.completion.chunk","choices":[{"index":1,"delta":{"content":"other"}}]}'
    .. S.sse "{}" .. S.sse '{"choices":[]}' .. "data:\n\n" .. "data: \n\n" .. "event: x\ndata: {}\n\n"
    .. S.chunk('{"content":"b","obfuscation":"xxxx"}', nil, ',"service_tier":"default","obfuscation":"yy"')
    .. S.finish() .. S.DONE, { reply = { text = "ab" } })
end)

T.test("openai: a reply longer than 64 KiB of thousands of deltas is the sum of them", function(t)
  local parts, words = {}, {}
  for i = 1, 6000 do
    words[i] = ("w%d%s"):format(i, i % 50 == 0 and '\n"' or " ")
    parts[i] = S.text(words[i])
  end
  local text = table.concat(words)
  local server <close> = S.start(function(_, res) send(res, table.concat(parts) .. S.finish() .. S.DONE, nil) end)
  local got, reply = joined_text(S.model(server))
  t.ok(got == text and reply.text == text, "the text differs")
end)

-- How it breaks ---------------------------------------------------------------------------------------------------

T.test("openai: EOF without a finish, [DONE] without a finish", function(t)
  local err = breaks(t, "openai", S.text "ha" .. S.text "lf", { kind = "interrupted" }, "half")
  t.match(err.message, "without saying that the answer is complete")
  breaks(t, "openai", S.text "half" .. S.DONE, { kind = "interrupted" }, "half")
  breaks(t, "openai", S.DONE, { kind = "protocol" }, "")
  breaks(t, "openai", "", { kind = "protocol" }, "")
  breaks(t, "openai", ": only\n\n: comments\n\n", { kind = "protocol" }, "")
  breaks(t, "openai", S.chunk '{"role":"assistant","content":""}', { kind = "protocol" }, "")
end)

T.test("reset and close before the headers, in the middle of an event, after the last one", function(t)
  local half = S.text("more"):sub(1, 40)
  for _, how in ipairs { "reset", "close" } do
    local err = breaks(t, "openai", S.text "so far" .. half, { kind = "interrupted" }, "so far", how)
    t.eq(err.cause.kind, "network")
    breaks(t, "openai", half, { kind = "network" }, "", how)
    for _, complete in ipairs { S.answer "all", S.text "all" .. S.finish() } do
      local server <close> = S.start(function(_, res)
        res:start(200, S.EVENTS)
        res:write(complete)
        res:flush()
        task.sleep(0.01)
        res:abort(how)
      end)
      t.eq(S.model(server):stream("x"):reply().text, "all", how) -- how a complete answer's wire ends is no matter
    end
  end
end)

local DIALECTS = {
  { "openai", S.sse '{"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}', "server" },
  { "openai", S.sse '{"error":{"message":"Rate limit reached","type":"rate_limit_error"}}', "rate_limited" },
  { "openai", S.sse '{"object":"error","message":"boom","type":"InternalServerError","code":500}', "server" }, -- vLLM
  { "openai", "event: error\n" .. S.sse '{"message":"gone","code":"overloaded"}', "overloaded" },
  { "openai", "event: error\n" .. S.sse '{"choices":[{"index":0,"delta":{"content":"not text"},"finish_reason":null}]}', "server" },
  { "openai", S.sse '{"id":"g","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}],"error":{"code":502,"message":"Provider disconnected"}}', "server" },
  { "anthropic", S.sse('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', "error"), "overloaded" },
  { "anthropic", S.sse '{"type":"error","error":{"type":"api_error","message":"Internal"}}', "server" },
}

T.test("error events inside a 200, before content and after it, in every dialect", function(t)
  for i, case in ipairs(DIALECTS) do
    local provider, event, kind = table.unpack(case)
    local begun = provider == "openai" and S.text "so far" or S.A_START .. S.A_OPEN .. S.a_text "so far"
    local err = breaks(t, provider, event, { kind = kind }, "")
    t.ok(err.message ~= "", i)
    err = breaks(t, provider, begun .. event, { kind = "interrupted" }, "so far")
    t.eq(err.cause.kind, kind, i)
    breaks(t, provider, begun .. event .. S.text "not seen any more", { kind = "interrupted" }, "so far")
  end
end)

T.test("rubbish where JSON should be", function(t)
  local err = breaks(t, "openai", S.text "ok" .. "data: <html>\n\n" .. S.text "no", { kind = "interrupted" }, "ok")
  t.match(err.message, "expected a JSON object, got \"<html>\"")
  breaks(t, "openai", "data: <html>\n\n", { kind = "protocol", code = "bad_json" }, "")
  breaks(t, "openai", S.text "ok" .. "data: {\"choices\":[{\"delta\":{\"content\":\"cut\n\n", { kind = "interrupted" }, "ok")
  breaks(t, "openai", "data: 5\n\n", { kind = "protocol" }, "")
  breaks(t, "openai", "data: [1]\n\n", { kind = "protocol" }, "")
end)

T.test("invalid UTF-8 on the wire becomes U+FFFD, and the stream goes on", function(t)
  plays(t, "openai", S.text "a" .. 'data: {"choices":[{"index":0,"delta":{"content":"b\xFF\xE2\x82"},"finish_reason":null}]}\n\n'
    .. S.text "c" .. S.finish() .. S.DONE, { reply = { text = "ab\u{FFFD}\u{FFFD}c" } })
end)

T.test("half a tool call never surfaces", function(t)
  local head = S.chunk '{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":"{\\"x\\":"}}]}'
  for _, ending in ipairs { "", S.DONE, S.finish "tool_calls" .. S.DONE } do
    local server <close> = S.start(function(_, res) send(res, head .. ending) end)
    local s <close> = S.model(server):stream "x"
    local seen = {}
    local err = t.raises({ kind = "interrupted" }, function()
      for ev in s:events() do seen[#seen + 1] = ev.type end
    end)
    t.eq(seen, {}, ending)
    t.eq(err.partial, "")
  end
end)

T.test("refusals and filters are the error filtered", function(t)
  breaks(t, "openai", S.chunk '{"refusal":"I cannot "}' .. S.chunk '{"refusal":"do that."}' .. S.finish() .. S.DONE,
    { kind = "filtered", message = "I cannot do that." }, "")
  local err = breaks(t, "openai", S.text "Sure, " .. S.finish "content_filter" .. S.DONE, { kind = "filtered" }, "Sure, ")
  t.eq(err.partial, "Sure, ")
  breaks(t, "anthropic", S.A_START .. S.a_event("message_delta", ',"delta":{"stop_reason":"refusal"},"usage":{"output_tokens":1}')
    .. S.A_END, { kind = "filtered" }, "")
end)

-- Not an event stream -----------------------------------------------------------------------------------------------

T.test("a whole JSON answer where a stream was asked for is that answer", function(t)
  local server <close> = S.start(function(_, res)
    res:send(200, { ["Content-Type"] = "application/json; charset=utf-8", ["X-Request-Id"] = "r-1" }, S.whole "all at once")
  end)
  local model = S.model(server, { limit = { concurrency = 1 } })
  local events, reply = all_events(model)
  t.eq(events, { { type = "text", text = "all at once" }, { type = "usage", usage = USAGE }, { type = "finish", reason = "stop" } })
  t.eq({ reply.text, reply.usage, reply.request_id }, { "all at once", USAGE, "r-1" })
  t.eq((joined_text(model)), "all at once")
  t.eq(S.collect(model:stream("x"):text()), { "all at once" })
end)

T.test("HTML in a 200, an empty 200, JSON that is no answer: protocol, with what came", function(t)
  local body, kind
  local server <close> = S.start(function(_, res) res:send(200, { ["Content-Type"] = kind }, body) end)
  local function failing(want)
    local err = t.raises(want, function() S.model(server):stream "x" end)
    t.eq(t.raises(want, function() S.model(server):ask "x" end).message, err.message)
    return err
  end
  body, kind = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", "text/html"
  t.match(tostring(failing { kind = "protocol" }), "502 Bad Gateway")
  body, kind = "", "application/json"
  t.match(tostring(failing { kind = "protocol" }), "empty")
  body, kind = '{"hello":"world"}', "application/json"
  failing { kind = "protocol" }
  body, kind = '{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}', "application/json"
  failing { kind = "quota" }
  body, kind = '{"code":50505,"message":"Model service overloaded. Please try again later.","data":null}', "application/json"
  failing { kind = "overloaded" }
end)

-- Anthropic -----------------------------------------------------------------------------------------------------------

local A_USAGE = { input_tokens = 25, output_tokens = 15, total_tokens = 40, cached_tokens = 0, reasoning_tokens = 0 }

T.test("anthropic: text, pings anywhere, usage, finish", function(t)
  plays(t, "anthropic", S.A_START .. S.A_PING .. S.A_OPEN .. S.a_text "Hel" .. S.A_PING .. S.a_text "lo" .. S.A_PING .. S.A_STOP .. S.A_END, {
    events = { { type = "text", text = "Hello" }, { type = "usage", usage = A_USAGE }, { type = "finish", reason = "stop" } },
    reply = { text = "Hello", usage = A_USAGE, finish_reason = "stop", finish_reason_raw = "end_turn", model = "m-1", id = "msg_1" },
  })
end)

T.test("anthropic: without event names, with SiliconFlow's [DONE], CRLF", function(t)
  local plain = S.a_answer("one ", "two")
  local want = { reply = { text = "one two", usage = A_USAGE } }
  plays(t, "anthropic", (plain:gsub("event: [%w_]+\n", "")), want)
  plays(t, "anthropic", plain:gsub("event: message_stop\n[^\n]+\n\n", "") .. S.DONE, want)
  plays(t, "anthropic", (plain:gsub("\n", "\r\n")), want)
end)

T.test("anthropic: thinking with its signature, then a tool call", function(t)
  local bytes = S.A_START
    .. S.a_event("content_block_start", ',"index":0,"content_block":{"type":"thinking","thinking":"","signature":""}')
    .. S.a_event("content_block_delta", ',"index":0,"delta":{"type":"thinking_delta","thinking":"Hmm"}')
    .. S.a_event("content_block_delta", ',"index":0,"delta":{"type":"signature_delta","signature":"sig"}')
    .. S.a_event("content_block_stop", ',"index":0')
    .. S.a_event("content_block_start", ',"index":1,"content_block":{"type":"tool_use","id":"t1","name":"f","input":{}}')
    .. S.a_event("content_block_delta", ',"index":1,"delta":{"type":"input_json_delta","partial_json":""}')
    .. S.a_event("content_block_delta", ',"index":1,"delta":{"type":"input_json_delta","partial_json":"{\\"a\\": 1"}')
    .. S.A_PING
    .. S.a_event("content_block_delta", ',"index":1,"delta":{"type":"input_json_delta","partial_json":"}"}')
    .. S.a_event("content_block_stop", ',"index":1')
    .. S.a_event("message_delta", ',"delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":15}') .. S.A_END
  plays(t, "anthropic", bytes, {
    events = {
      { type = "thinking", text = "Hmm", index = 0 },
      { type = "tool_call", id = "t1", name = "f", arguments = { a = 1 }, arguments_json = '{"a": 1}' },
      { type = "usage", usage = A_USAGE }, { type = "finish", reason = "tool_calls" },
    },
    reply = { thinking = "Hmm", finish_reason = "tool_calls" },
  })
  local server <close> = S.start(function(_, res) send(res, bytes) end)
  local message = S.model(server, { provider = "anthropic" }):stream("x"):reply():message()
  t.eq(#message.content, 2) -- the signed thinking goes back, in order
end)

T.test("anthropic: no message_stop is no end, however it stopped", function(t)
  breaks(t, "anthropic", S.A_START .. S.A_OPEN .. S.a_text "half" .. S.A_STOP, { kind = "interrupted" }, "half")
  breaks(t, "anthropic", S.A_START .. S.A_OPEN .. S.a_text "half", { kind = "interrupted" }, "half")
  breaks(t, "anthropic", S.A_START, { kind = "protocol" }, "")
end)

-- Providers of one's own -----------------------------------------------------------------------------------------------

T.test("text, finish and end in one event", function(t)
  sluice.provider {
    name = "lines", keyless = true, base_url = "http://127.0.0.1:1",
    request = function(call) return { method = "POST", path = "/generate", headers = {}, body = { prompt = call.prompt } } end,
    event = function(ev)
      local said = sluice.json.decode(ev.data)
      local deltas = { { type = "text", text = said.response } }
      if said.done then
        deltas[2] = { type = "usage", usage = { input_tokens = 1, output_tokens = 2 } }
        deltas[3] = { type = "finish", reason = "stop" }
        deltas[4] = { type = "done" }
      end
      return deltas
    end,
  }
  local bytes = S.sse '{"response":"a"}' .. S.sse '{"response":"b"}' .. S.sse '{"response":"c","done":true}' .. S.sse '{"response":"no"}'
  for _, cut in ipairs { false, 1 } do
    local server <close> = S.start(function(_, res) send(res, bytes, cut) end)
    local model = S.model(server, { provider = "lines", base_url = server.url, limit = { concurrency = 1 } })
    t.eq(S.collect(model:stream("x"):text()), { "a", "b", "c" })
    t.eq((joined_text(model)), "abc")
    t.eq(select(2, all_events(model)).usage.total_tokens, 3)
    t.eq(model:ask("x").text, "abc")
  end
  local alone <close> = S.start(function(_, res) send(res, S.sse '{"response":"all of it","done":true}') end)
  local model = S.model(alone, { provider = "lines", base_url = alone.url })
  t.eq(S.collect(model:stream("x"):text()), { "all of it" })
end)

-- Reading in other ways ----------------------------------------------------------------------------------------------

T.test("text(), events() and reply() may follow each other", function(t)
  local server <close> = S.start(function(_, res) send(res, S.answer("a", "b", "c", "d"), "random") end)
  local model = S.model(server)
  local s <close> = model:stream "x"
  local texts = s:text()
  local got = texts()
  local iterate, state = s:events()
  local ev = iterate(state)
  t.eq(ev.type, "text")
  got = got .. ev.text
  t.eq(s:reply().text, "abcd")
  t.eq(got, "ab")
  t.eq(S.collect(s:text()), {})
  t.eq(S.collect(s:events()), {})
  t.eq(s:reply(), s:reply())
end)

T.test("the reply tells times, ids, attempts", function(t)
  local server <close> = S.start(function(_, res)
    local headers = { ["Content-Type"] = "text/event-stream", ["x-request-id"] = "req-7" }
    res:start(200, headers)
    task.sleep(0.05)
    res:write(S.answer "x")
    res:finish()
  end)
  local r = S.model(server):stream("x"):reply()
  t.ok(r.ttft >= 0.05 and r.elapsed >= r.ttft and r.elapsed < 5, r.ttft)
  t.eq({ r.request_id, r.provider, r.model, #r.attempts }, { "req-7", "openai", "m-1", 1 })
  t.eq(tostring(r), "x")
end)

T.done()
