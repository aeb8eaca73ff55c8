-- A model and a server that misbehaves: what is asked again and under which id, what is not, what the
-- error says, and that one permit is enough for all of it.
-- timeout: 120

local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local task = sluice.task

-- One permit, three attempts, hardly any delay.
local function make(server, changes)
  local opts = { retry = { attempts = 3, base = 0.001, cap = 0.002, budget = false }, limit = { concurrency = 1 },
    timeout = { connect = 3, first_token = 10, idle = 10 } }
  for name, value in pairs(changes or {}) do opts[name] = value end
  return S.model(server, opts)
end

local function ask(model) return model:ask "x" end
local function stream(model) return model:stream("x"):reply() end
local WAYS = { ask = ask, stream = stream }

-- Answers "yes" as it was asked: whole or streamed.
local function answer(req, res)
  if req.body:find '"stream":true' then return S.events(res, S.answer "yes") end
  res:send(200, { ["Content-Type"] = "application/json" }, S.whole "yes")
end

local function ids(server)
  local list = {}
  for i, req in ipairs(server.seen) do list[i] = req.headers["idempotency-key"] or "none" end
  return list
end

-- What is asked again ----------------------------------------------------------------------------------------

local STATUSES = {
  [400] = "invalid", [401] = "auth", [402] = "quota", [403] = "auth", [404] = "invalid", [405] = "invalid",
  [408] = "server", [409] = "server", [413] = "invalid", [422] = "invalid", [429] = "rate_limited", [451] = "filtered",
  [500] = "server", [501] = "server", [502] = "server", [503] = "overloaded", [504] = "server", [529] = "overloaded",
  [418] = "invalid", [599] = "server",
}
local AGAIN = { server = true, overloaded = true, rate_limited = true }

for way, call in pairs(WAYS) do
  T.test(way .. ": every status is its kind, and asked again or not", function(t)
    for status, kind in pairs(STATUSES) do
      local server <close> = S.start(function(_, res)
        res:send(status, { ["Content-Type"] = "application/json", ["X-Request-Id"] = "r-9", ["Retry-After-Ms"] = "1" },
          '{"error":{"message":"words of the provider"}}')
      end)
      local err = t.raises({ kind = kind, status = status, request_id = "r-9" }, call, make(server))
      t.match(err.message, "words of the provider", status)
      t.eq(#server.seen, AGAIN[kind] and 3 or 1, status)
      t.eq(err.attempt, #server.seen)
      t.eq(err.attempts and #err.attempts or 1, #server.seen)
      for _, id in ipairs(ids(server)) do t.eq(id, ids(server)[1]) end
      t.eq({ err.provider, err.model }, { "openai", "m" })
    end
  end)

  T.test(way .. ": a third time lucky, under one id; the next call has another", function(t)
    local server <close> = S.start(function(req, res, n)
      if n % 3 ~= 0 then return res:send(n % 3 == 1 and 500 or 529, { ["Retry-After-Ms"] = "1" }, "") end
      answer(req, res)
    end)
    local model = make(server)
    for round = 1, 2 do
      local reply = call(model)
      t.eq({ reply.text, #reply.attempts, #server.seen }, { "yes", 3, 3 * round })
      t.eq({ reply.attempts[1].kind, reply.attempts[2].kind, reply.attempts[3].kind }, { "server", "overloaded", nil })
    end
    local got = ids(server)
    t.eq({ got[1], got[2], got[4], got[5] }, { got[3], got[3], got[6], got[6] })
    t.ne(got[1], got[4])
    t.match(got[1], "^%x+%-%x+%-%x+%-%x+%-%x+$")
    for i = 2, 3 do t.eq(server.seen[i].body, server.seen[1].body) end
  end)

  T.test(way .. ": a connection that dies before any answer is tried again under the same id", function(t)
    for _, how in ipairs { "reset", "close" } do
      local server <close> = S.start(function(req, res, n)
        if n <= 2 then return res:abort(how) end
        answer(req, res)
      end)
      local model = make(server)
      t.eq(call(model).text, "yes")
      t.eq(#server.seen, 3)
      t.eq(ids(server), { ids(server)[1], ids(server)[1], ids(server)[1] })
    end
  end)

  T.test(way .. ": nobody listens, three times", function(t)
    local err = t.raises({ kind = "network", phase = "connect" }, call, make(("http://127.0.0.1:%d"):format(S.closed_port())))
    t.eq({ err.attempt, #err.attempts }, { 3, 3 })
  end)

  T.test(way .. ": the idempotency header can be renamed and left out", function(t)
    local server <close> = S.start(answer)
    call(make(server, { idempotency = "X-Once" }))
    call(make(server, { idempotency = false }))
    t.match(server.seen[1].headers["x-once"], "^%x+%-")
    t.eq({ server.seen[1].headers["idempotency-key"], server.seen[2].headers["idempotency-key"] }, {})
  end)

  T.test(way .. ": Retry-After is waited for, in its three forms, and one too long is not", function(t)
    local forms = { { "Retry-After-Ms", "150" }, { "Retry-After", "0.15" }, { "retry-after", "0.15" } }
    for _, form in ipairs(forms) do
      local server <close> = S.start(function(req, res, n)
        if n == 1 then return res:send(429, { [form[1]] = form[2] }, "") end
        answer(req, res)
      end)
      local from = task.now()
      t.eq(call(make(server)).text, "yes")
      local took = task.now() - from
      t.ok(took >= 0.15 and took < 5, took)
    end
    local server <close> = S.start(function(_, res) res:send(503, { ["Retry-After"] = "3600" }, "") end)
    local err = t.raises({ kind = "overloaded", retry_after = 3600 }, call, make(server))
    t.eq({ #server.seen, err.attempt }, { 1, 1 })
  end)

  T.test(way .. ": x-should-retry is obeyed both ways", function(t)
    for _, case in ipairs { { 500, "false", 1 }, { 400, "true", 3 } } do
      local server <close> = S.start(function(_, res) res:send(case[1], { ["X-Should-Retry"] = case[2] }, "") end)
      t.raises({ status = case[1] }, call, make(server))
      t.eq(#server.seen, case[3])
    end
  end)

  T.test(way .. ": retry = false asks once", function(t)
    local server <close> = S.start(function(_, res) res:send(500) end)
    t.raises("server", call, make(server, { retry = false }))
    t.eq(#server.seen, 1)
  end)

  T.test(way .. ": a redirect is not followed with a key; it says where to", function(t)
    local other <close> = S.start(answer)
    for _, status in ipairs { 301, 302, 303, 307, 308 } do
      local server <close> = S.start(function(_, res)
        res:send(status, { Location = other.url .. "/v1/chat/completions?key=s3cr3t" })
      end)
      local err = t.raises({ kind = "invalid", status = status, code = "redirect" }, call, make(server))
      t.match(tostring(err), "redirect to " .. other.url:gsub("%p", "%%%0") .. "/v1/chat/completions; it is not followed, set base_url")
      t.ok(not tostring(err):find "s3cr3t")
      t.eq({ #server.seen, #other.seen }, { 1, 0 })
    end
  end)

  T.test(way .. ": everything twice with one permit", function(t)
    local faults = {
      function(_, res) res:send(500) end,
      function(_, res) res:send(400, nil, "no") end,
      function(_, res) res:abort() end,
      function(_, res) res:abort "close" end,
      function(_, res) res:send(200, { ["Content-Type"] = "text/html" }, "<html>") end,
      function(_, res) res:send(200, { ["Content-Type"] = "text/event-stream" }, "data: {\n\n") end,
      function(_, res) res:send(200, { ["Content-Type"] = "text/event-stream" }, S.DONE) end,
      function(_, res) res:send(200, { ["Content-Type"] = "text/event-stream" }, S.text "half") end,
      function(_, res) res:send(200, { ["Content-Type"] = "application/json" }, '{"choices":[]}') end,
      function(_, res)
        res:raw "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\ndata: x"
        res:flush()
        res:close()
      end,
      function(_, res)
        res:raw "HTTP/1.1 500 Oops\r\nContent-Length: 9999\r\n\r\n{"
        res:flush()
        res:abort()
      end,
      function(_, res) res:raw "220 smtp.example.com\r\n" res:flush() res:close() end,
      function(_, res)
        res:raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3000000000\r\n\r\n{")
        S.stall()
      end,
    }
    local fault
    local server <close> = S.start(function(req, res)
      if fault then return fault(req, res) end
      answer(req, res)
    end)
    for i, play in ipairs(faults) do
      local model = make(server) -- quota and rate limits close a model's gate for a while
      for _ = 1, 2 do
        fault = play
        local err = t.raises("^%l+: ", call, model)
        t.ok(sluice.errors.is(err), tostring(err))
        fault = nil
      end
      t.eq(task.deadline(5, call, model).text, "yes", i)
    end
  end)
end

T.test("a stream that broke after content is never asked again", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write(S.text "so far")
    res:flush()
    task.sleep(0.01)
    res:abort()
  end)
  local err = t.raises({ kind = "interrupted", partial = "so far" }, stream, make(server))
  t.eq({ #server.seen, err.attempt }, { 1, 1 })
  t.match(tostring(err), "6 bytes received")
end)

T.test("a stream that broke before content is asked again, whatever broke it", function(t)
  local broken = {
    function(res) res:abort() end,
    function(res) res:finish() end,
    function(res) res:write(S.sse '{"error":{"message":"boom","type":"server_error"}}') res:finish() end,
    function(res) res:write "data: <html>\n\n" res:finish() end,
    function(res) res:write(S.DONE) res:finish() end,
  }
  for i, how in ipairs(broken) do
    local server <close> = S.start(function(req, res, n)
      if n == 2 then return answer(req, res) end
      res:start(200, S.EVENTS)
      res:write(S.chunk '{"role":"assistant","content":""}')
      res:flush()
      how(res)
    end)
    t.eq(stream(make(server)).text, "yes", i)
    t.eq(#server.seen, 2, i)
  end
end)

T.test("an error that came as JSON where a stream was asked for is asked again", function(t)
  local server <close> = S.start(function(req, res, n)
    if n == 2 then return answer(req, res) end
    res:json(200, { error = { message = "try later", type = "server_error" } })
  end)
  local reply = stream(make(server))
  t.eq({ reply.text, #reply.attempts }, { "yes", 2 })
end)

T.test("a connection the server closed while it was idle is replaced, and no attempt is counted", function(t)
  local server <close> = S.start(answer, { idle_timeout = 0.03 })
  local model = make(server)
  for i = 1, 4 do
    local reply = i % 2 == 0 and ask(model) or stream(model)
    t.eq({ reply.text, #reply.attempts, #server.seen }, { "yes", 1, i })
    T.until_(function() return server.open() == 0 end)
  end
end)

T.test("limit.concurrency holds, for asks and streams together", function(t)
  local server <close> = S.start(function(req, res)
    task.sleep(0.01)
    answer(req, res)
  end)
  local model = make(server, { limit = { concurrency = 3 } })
  local list = {}
  for i = 1, 24 do list[i] = i end
  local texts = task.map(list, function(i) return (i % 2 == 0 and ask or stream)(model).text end)
  t.eq({ #texts, server.most }, { 24, 3 })
end)

-- What must not be sent -------------------------------------------------------------------------------------------

T.test("keys and headers with line breaks are refused, without being shown", function(t)
  local server <close> = S.start(answer)
  for _, key in ipairs { "s3cr3t\n", "s3cr3t\r\nEvil: 1", "s3\0cr3t" } do
    for _, auth in ipairs { key, sluice.secret.literal(key, "my key") } do
      local err = t.raises("header 'Authorization': its value holds a line break or a NUL", ask, make(server, { auth = auth }))
      t.ok(not tostring(err):find "s3", tostring(err))
    end
    local err = t.raises("header 'X%-Mine'", stream, make(server, { headers = { ["X-Mine"] = key } }))
    t.match(err, "model_faults_test.lua:%d+: model:stream: header")
  end
  t.eq(#server.seen, 0)
end)

T.test("no key: which variable would hold it", function(t)
  local names = { openai = "OPENAI_API_KEY", anthropic = "ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN",
    siliconflow = "SILICONFLOW_API_KEY", deepseek = "DEEPSEEK_API_KEY", openrouter = "OPENROUTER_API_KEY" }
  for provider, name in pairs(names) do
    local model = sluice.model { provider = provider, model = "m" }
    for _, call in pairs(WAYS) do
      local err = t.raises({ kind = "auth", code = "no_key" }, call, model)
      t.match(tostring(err), "set the environment variable " .. name)
    end
  end
end)

T.test("bad addresses and names are found when the model is made", function(t)
  local function bad(words, opts)
    local err = t.raises(words, function() sluice.model(opts) end)
    t.eq(type(err), "string")
    t.match(err, "^tests/lua/model_faults_test.lua:%d+: sluice%.model: ")
  end
  for _, url in ipairs { "nonsense", "ftp://x/v1", "http://", "http://a b/v1", "http://[::1", "http://x:99999/v1", "/v1" } do
    bad("base_url", { provider = "openai", model = "m", base_url = url })
  end
  bad("base_url", { provider = "openai", model = "m", base_url = "http://x/\0v1" })
  bad("unknown provider 'opnai' %(did you mean 'openai'%?%)", { provider = "opnai", model = "m" })
  bad("'gpt%-5' is not 'provider/model'", "gpt-5")
  bad("unknown option 'timout' %(did you mean 'timeout'%?%)", { provider = "openai", model = "m", timout = {} })
  bad("timeout.*conect.*connect", { provider = "openai", model = "m", timeout = { conect = 1 } })
  bad("option 'model' is missing", { provider = "openai" })
end)

T.test("a prompt that is no UTF-8 is refused before it is sent", function(t)
  local server <close> = S.start(answer)
  local model = make(server)
  for _, req in ipairs { "caf\xE9", { prompt = "\xFF" }, { messages = { { role = "user", content = "a\xC0\x80" } } },
    { system = "\xED\xA0\x80", prompt = "x" } } do
    for _, method in ipairs { "ask", "stream" } do
      local err = t.raises("UTF%-8", function() model[method](model, req) end)
      t.match(tostring(err), "model:" .. method)
    end
  end
  t.eq(#server.seen, 0)
  t.eq(ask(model).text, "yes")
end)

T.test("what is no request is told so", function(t)
  local nobody = sluice.model { provider = "openai", model = "m", auth = "k", base_url = "http://127.0.0.1:1/v1" }
  for _, name in ipairs { "ask", "stream" } do
    local words = ("model_faults_test.lua:%%d+: model.%s: called without its model; write a colon"):format(name)
    t.raises(words, function() nobody[name] "Hello" end)
    t.raises(words, function() nobody[name] { prompt = "Hello" } end)
    t.raises(words, function() nobody[name]() end)
  end
  local server <close> = S.start(answer)
  local model = make(server)
  t.raises("the prompt is empty", function() model:ask "" end)
  t.raises("model:ask: ", function() model:ask(5) end)
  t.raises("model:stream: ", function() model:stream() end)
  t.raises("promt.*prompt", function() model:ask { promt = "x" } end)
  t.raises("model:ask: ", function() model:ask {} end)
  t.raises("model:ask: ", function() model:ask { prompt = "x", extra = { f = function() end } } end)
  t.eq(#server.seen, 0)
end)

T.test("the request: path, headers, body of both protocols", function(t)
  local server <close> = S.start(function(req, res)
    if req.path:find "messages" then return S.events(res, S.a_answer "yes") end
    answer(req, res)
  end)
  make(server, { headers = { ["X-Team"] = "blue" } }):ask { prompt = "héllo", max_tokens = 5 }
  make(server, { provider = "anthropic", base_url = server.url }):stream("x"):reply()
  local openai, anthropic = server.seen[1], server.seen[2]
  t.eq({ openai.method, openai.path }, { "POST", "/v1/chat/completions" })
  t.eq({ openai.headers.authorization, openai.headers["x-team"], openai.headers["content-type"], openai.headers.expect },
    { "Bearer k-1", "blue", "application/json" })
  t.eq(sluice.json.decode(openai.body).messages, { { role = "user", content = "héllo" } })
  t.eq({ anthropic.path, anthropic.headers["x-api-key"], anthropic.headers["anthropic-version"] },
    { "/v1/messages", "k-1", "2023-06-01" })
  t.eq(sluice.json.decode(anthropic.body).stream, true)
  local large = ("word "):rep(400000) -- 2 MB: no "100-continue" first
  t.eq(make(server):ask(large).text, "yes")
  t.eq({ #sluice.json.decode(server.seen[3].body).messages[1].content, server.seen[3].headers.expect }, { #large })
end)

T.test("what other protocols' errors say survives: SiliconFlow's bare strings, HTML of a proxy, nothing", function(t)
  local status, body, kind
  local server <close> = S.start(function(_, res) res:send(status, { ["Content-Type"] = kind }, body) end)
  local function failing(...)
    status, kind, body = ...
    return t.raises({ status = status }, ask, make(server, { retry = false }))
  end
  t.match(tostring(failing(401, "application/json", '"Invalid token"')), "auth: 401 Unauthorized: Invalid token")
  t.match(tostring(failing(502, "text/html", "<html><title>502 Bad Gateway</title><center>nginx</center>")), "server: 502 Bad Gateway")
  t.match(tostring(failing(500, "text/plain", "")), "server: 500 Internal Server Error")
  t.match(tostring(failing(429, "application/json", '{"message":"Request was rejected due to rate limiting. Details:TPM limit reached.","data":null}')),
    "rate_limited: 429.*TPM limit reached")
  t.match(tostring(failing(400, "application/json", '{"code":20012,"message":"Model does not exist.","data":null}')), "20012")
  t.match(tostring(failing(400, "application/json", "\xFF\xFE not text \0")), "invalid: 400")
end)

T.done()
