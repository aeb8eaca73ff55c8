-- Credentials that change, in models: which header, one replay after a refusal, none for static keys, and
-- nothing of it visible to retries. Over real sockets.
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"

local task, token = sluice.task, sluice.token

sluice.log.configure { level = "error" }

local CANARY = "canary-model-9f2"

-- A provider that takes `good` as its only credential (nil: none at all), and remembers what it was asked.
local function provider(opts)
  opts = opts or {}
  local p = { requests = {}, good = opts.good }
  local ANSWER = { id = "x", model = "m", object = "chat.completion", choices = { { index = 0, finish_reason = "stop",
    message = { role = "assistant", content = "hello" } } }, usage = { prompt_tokens = 1, completion_tokens = 1, total_tokens = 2 } }
  p.server = sluice.server.listen { handler = function(req, res)
    local h = req.headers
    local credential = h.authorization or h["x-api-key"]
    p.requests[#p.requests + 1] = { credential = credential, headers = h, body = req.body, id = h["idempotency-key"] }
    if opts.answer then
      local taken = opts.answer(req, res, #p.requests)
      if taken then return end
    end
    if credential ~= p.good then
      return res:send(401, { ["Content-Type"] = "application/json" }, opts.refusal or '"Invalid token"')
    end
    local body = sluice.json.decode(req.body)
    if req.path:find "/messages$" then
      return res:json(200, { id = "m", type = "message", role = "assistant", model = "m", stop_reason = "end_turn",
        content = { { type = "text", text = "hello" } }, usage = { input_tokens = 1, output_tokens = 1 } })
    end
    if not body.stream then return res:json(200, ANSWER) end
    res:event { data = '{"choices":[{"index":0,"delta":{"content":"hello"}}]}' }
    res:event { data = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}' }
    res:event { data = "[DONE]" }
  end }
  function p.model(o)
    local all = { provider = "openai", base_url = p.server.url .. "/v1", model = "m", retry = { attempts = 3, base = 0.001 } }
    for key, value in pairs(o) do all[key] = value end
    return sluice.model(all)
  end
  function p.credentials()
    local list = {}
    for i, r in ipairs(p.requests) do list[i] = r.credential end
    return list
  end
  return p
end

-- A source of "v1", "v2", …
local function source(takes)
  local s = { n = 0 }
  s.token = token.source { name = "test", fetch = function()
    s.n = s.n + 1
    if takes then task.sleep(takes) end
    return "v" .. s.n, { expires_in = 3600 }
  end }
  return s
end

local function test(name, opts, f)
  T.test(name, function(t)
    local p = provider(opts)
    local closing <close> = p.server -- luacheck: ignore 211
    f(t, p)
  end)
end

test("a token goes as a bearer token, for as many requests as it lasts", { good = "Bearer v1" }, function(t, p)
  local s = source()
  local model = p.model { auth = s.token }
  for _ = 1, 3 do t.eq(model:ask("x").text, "hello") end
  t.eq(model:stream("x"):reply().text, "hello")
  t.eq(p.credentials(), { "Bearer v1", "Bearer v1", "Bearer v1", "Bearer v1" })
  t.eq(s.n, 1)
end)

test("a refusal is answered once with a new token, under the same request id", { good = "Bearer v2" }, function(t, p)
  local s = source()
  local model = p.model { auth = s.token }
  local reply = model:ask "x"
  t.eq(reply.text, "hello")
  t.eq(p.credentials(), { "Bearer v1", "Bearer v2" })
  t.eq(p.requests[1].id, p.requests[2].id)
  t.eq(p.requests[1].body, p.requests[2].body)
  t.ok(not reply.attempts or #reply.attempts == 1, "it was no retry")
  t.eq(model:ask("x").text, "hello")
  t.eq(#p.requests, 3)
end)

test("the same for a stream", { good = "Bearer v2" }, function(t, p)
  local model = p.model { auth = source().token, limit = { concurrency = 1 } }
  for _ = 1, 2 do
    local parts = {}
    for text in model:stream("x"):text() do parts[#parts + 1] = text end
    t.eq(table.concat(parts), "hello")
  end
  t.eq(p.credentials(), { "Bearer v1", "Bearer v2", "Bearer v2" })
end)

-- Anthropic sends errors inside a stream that began with 200; gateways do too.
local function in_stream(event, text)
  return { good = "Bearer v2", answer = function(req, res, n)
    if (req.headers.authorization or req.headers["x-api-key"]):find "v2$" then
      if req.path:find "/messages$" then
        res:event { event = "message_start", data = '{"type":"message_start","message":{"id":"m","model":"m","usage":{"input_tokens":1}}}' }
        res:event { event = "content_block_start", data = '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}' }
        res:event { event = "content_block_delta", data = '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello"}}' }
        res:event { event = "message_delta", data = '{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}' }
        res:event { event = "message_stop", data = '{"type":"message_stop"}' }
        return true
      end
      return false
    end
    if text and n == 1 then res:event { data = '{"choices":[{"index":0,"delta":{"content":"some "}}]}' } end
    res:event { event = event and "error" or nil, data = event or '{"error":{"code":"invalid_api_key","message":"expired"}}' }
    return true
  end }
end

local ANTHROPIC_REFUSAL = '{"type":"error","error":{"type":"authentication_error","message":"expired"}}'

for provider_name, event in pairs { anthropic = ANTHROPIC_REFUSAL, openai = false } do
  test("a refusal inside a stream, before content: as a 401 is, " .. provider_name, in_stream(event), function(t, p)
    local s = source(0.01)
    local model = p.model { provider = provider_name, base_url = provider_name == "anthropic" and p.server.url or nil,
      auth = s.token, limit = { concurrency = 1 }, retry = false, breaker = { trip_after = 1 } }
    local reply = model:stream("x"):reply()
    t.eq(reply.text, "hello")
    t.ok(not reply.attempts or #reply.attempts == 1, "it was no retry")
    t.eq(p.credentials(), { "Bearer v1", "Bearer v2" })
    t.eq(p.requests[1].id, p.requests[2].id)
    for _ = 1, 2 do t.eq(model:stream("x"):reply().text, "hello") end -- the place was given back
    t.eq(#p.requests, 4)
    t.eq(s.n, 2)
  end)
end

test("fifty streams at once that are refused inside: one refresh", in_stream(ANTHROPIC_REFUSAL), function(t, p)
  local s = source(0.02)
  local model = p.model { provider = "anthropic", base_url = p.server.url, auth = s.token, limit = { concurrency = 20 },
    retry = false }
  task.group(function(group)
    for _ = 1, 50 do group:spawn(function() t.eq(model:stream("x"):reply().text, "hello") end) end
  end)
  t.eq(s.n, 2)
end)

test("... refused again with the new one: auth, no third request", { answer = function(_, res)
  res:event { event = "error", data = ANTHROPIC_REFUSAL }
  return true
end }, function(t, p)
  local model = p.model { provider = "anthropic", base_url = p.server.url, auth = source().token }
  t.raises({ kind = "auth", code = "authentication_error" }, model.stream, model, "x")
  t.eq(p.credentials(), { "Bearer v1", "Bearer v2" })
end)

test("... a 401 and then a refusal inside: the one replay was spent", { answer = function(_, res, n)
  if n == 1 then res:json(401, { error = { message = "expired" } })
  else res:event { event = "error", data = ANTHROPIC_REFUSAL } end
  return true
end }, function(t, p)
  local model = p.model { provider = "anthropic", base_url = p.server.url, auth = source().token }
  t.raises({ kind = "auth", code = "authentication_error" }, model.stream, model, "x")
  t.eq(p.credentials(), { "Bearer v1", "Bearer v2" })
end)

test("... the second try breaks: its own failure", { answer = function(_, res, n)
  if n == 1 then res:event { event = "error", data = ANTHROPIC_REFUSAL }
  else res:json(n == 2 and 503 or 400, { error = { message = "down" } }) end
  return true
end }, function(t, p)
  local model = p.model { provider = "anthropic", base_url = p.server.url, auth = source().token, retry = false,
    limit = { concurrency = 1 } }
  t.raises({ kind = "overloaded", attempt = 1 }, model.stream, model, "x")
  t.eq(#p.requests, 2)
  t.raises("invalid", model.stream, model, "x") -- and the place is free again
  t.eq(#p.requests, 3)
end)

test("... with a key that never changes, or for want of permission: sent once", { answer = function(_, res, n)
  res:event { event = "error", data = n == 1 and ANTHROPIC_REFUSAL
    or '{"type":"error","error":{"type":"permission_error","message":"not for you"}}' }
  return true
end }, function(t, p)
  for i, auth in ipairs { "sk-1", source().token } do
    local model = p.model { provider = "anthropic", base_url = p.server.url, auth = auth }
    t.raises("auth", model.stream, model, "x")
    t.eq(#p.requests, i)
  end
end)

test("... behind text: interrupted, never sent again", in_stream(nil, true), function(t, p)
  local model = p.model { auth = source().token }
  local stream = model:stream "x"
  local err = t.raises("interrupted", stream.reply, stream)
  t.eq(err.partial, "some ")
  t.eq(#p.requests, 1)
end)

test("refused again with the new one: auth, no third request, no retry", { good = "nobody" }, function(t, p)
  local s = source()
  local model = p.model { auth = s.token }
  local err = t.raises({ kind = "auth", status = 401 }, model.ask, model, "x")
  t.ok(err.phase ~= "refresh")
  t.eq(p.credentials(), { "Bearer v1", "Bearer v2" })
  -- and the next calls do not go round in circles either
  t.raises({ kind = "auth", status = 401 }, model.ask, model, "x")
  t.eq(p.credentials(), { "Bearer v1", "Bearer v2", "Bearer v2" })
  t.eq(s.n, 2)
end)

test("refusals are neither retries nor samples of the breaker", { good = "nobody" }, function(t, p)
  local model = p.model { auth = source().token, breaker = { trip_after = 2, volume = 2 } }
  for _ = 1, 6 do t.raises({ kind = "auth", status = 401 }, model.ask, model, "x") end
  t.eq(#p.requests, 7)
end)

test("fifty tasks with a token that has been revoked: one refresh", { good = "Bearer v2" }, function(t, p)
  local s = source(0.02)
  local model = p.model { auth = s.token, limit = { concurrency = 50 } }
  task.group(function(group)
    for _ = 1, 50 do group:spawn(function() t.eq(model:ask("x").text, "hello") end) end
  end)
  t.eq(s.n, 2)
  local first = 0
  for _, c in ipairs(p.credentials()) do if c == "Bearer v1" then first = first + 1 end end
  t.eq(#p.requests, 50 + first)
  t.ok(first >= 1 and first <= 50)
end)

test("a late refusal goes on with the newer token, without a refresh", { answer = function(_, res, n)
  if n > 2 then return false end
  if n == 1 then task.sleep(0.1) end -- both were sent with v1; this one is refused last
  res:json(401, { error = { message = "expired" } })
  return true
end, good = "Bearer v2" }, function(t, p)
  local s = source()
  local model = p.model { auth = s.token }
  t.eq({ task.all { function() return model:ask("a").text end, function() return model:ask("b").text end } },
    { "hello", "hello" })
  t.eq(s.n, 2)
  t.eq(#p.requests, 4)
end)

test("invalid_token in a challenge counts, with any status (RFC 6750)", { good = "Bearer v2",
  answer = function(_, res, n)
    if n > 1 then return false end
    res:send(403, { ["WWW-Authenticate"] = 'Bearer realm="x", error="invalid_token"' }, "{}")
    return true
  end }, function(t, p)
  local model = p.model { auth = source().token }
  t.eq(model:ask("x").text, "hello")
  t.eq(#p.requests, 2)
end)

test("another 403 does not", { answer = function(_, res)
  res:json(403, { error = { message = "not for you" } })
  return true
end }, function(t, p)
  local model = p.model { auth = source().token }
  t.raises({ kind = "auth", status = 403 }, model.ask, model, "x")
  t.eq(#p.requests, 1)
end)

test("static keys are not sent again", { good = "Bearer other" }, function(t, p)
  for i, key in ipairs { "sk-1", sluice.secret.literal("sk-2"), token.static("sk-3") } do
    local model = p.model { auth = key }
    t.raises({ kind = "auth", status = 401 }, model.ask, model, "x")
    t.eq(#p.requests, i)
  end
end)

test("a key in a file that has just been replaced", { good = "Bearer new-key" }, function(t, p)
  local path = T.write(T.tmpdir() .. "/key", "old-key\n")
  local model = p.model { auth = sluice.secret.file { path = path, check = 3600 } }
  t.raises({ kind = "auth", status = 401 }, model.ask, model, "x")
  t.eq(#p.requests, 1, "it is the same still: sent once")
  T.write(path, "new-key\n")
  t.eq(model:ask("x").text, "hello")
  t.eq(p.credentials(), { "Bearer old-key", "Bearer old-key", "Bearer new-key" })
end)

test("a function that gives a key", { good = "Bearer k2" }, function(t, p)
  local n = 0
  local function auth()
    n = n + 1
    return "k" .. n
  end
  local model = p.model { auth = auth }
  t.eq(model:ask("x").text, "hello")
  t.eq(model:with({ defaults = { temperature = 0 } }):ask("x").text, "hello")
  t.eq(p.credentials(), { "Bearer k1", "Bearer k2", "Bearer k2" })
  t.eq(n, 2, "one source for all models that have it")
end)

test("Anthropic: a token as bearer, a key that changes as x-api-key", { good = "Bearer v1" }, function(t, p)
  local model = p.model { provider = "anthropic", base_url = p.server.url, auth = source().token }
  t.eq(model:ask("x").text, "hello")
  t.eq(p.requests[1].headers["x-api-key"], nil)
  p.good = "file-key"
  local path = T.write(T.tmpdir() .. "/key", "file-key")
  model = p.model { provider = "anthropic", base_url = p.server.url, auth = sluice.secret.file(path) }
  t.eq(model:ask("x").text, "hello")
  t.eq(p.requests[2].headers.authorization, nil)
end)

test("a secret that changes in a header of one's own", { good = "Bearer k" }, function(t, p)
  local path = T.write(T.tmpdir() .. "/team", "red")
  local model = p.model { auth = "k", headers = { ["X-Team"] = sluice.secret.file { path = path, check = 0 },
    ["X-Fixed"] = sluice.secret.literal("f") } }
  model:ask "x"
  T.write(path, "blue")
  model:ask "x"
  t.eq({ p.requests[1].headers["x-team"], p.requests[2].headers["x-team"], p.requests[2].headers["x-fixed"] },
    { "red", "blue", "f" })
end)

test("no token to be had: nothing is sent, and the error says why", {}, function(t, p)
  local failing = token.source { name = "corp", fetch = function()
    sluice.errors.raise { kind = "network", message = "no route to the token server" }
  end }
  local model = p.model { auth = failing, limit = { concurrency = 1 } }
  for _ = 1, 2 do
    local err = t.raises({ kind = "auth", phase = "refresh" }, model.ask, model, "x")
    t.match(tostring(err), "the token corp could not be renewed: no route to the token server")
    t.raises({ kind = "auth", phase = "refresh" }, model.stream, model, "x")
  end
  t.eq(#p.requests, 0)
end)

test("waiting for a token is bounded by the model's own patience", { good = "Bearer v1" }, function(t, p)
  local slow = source(1)
  local model = p.model { auth = slow.token, timeout = { total = 0.1 }, retry = false }
  local began = task.now()
  local err = t.raises({ kind = "auth", phase = "refresh" }, model.ask, model, "x")
  t.match(err.message, "has not been renewed in time")
  t.ok(task.now() - began < 0.9)
  t.ok(slow.token:state().refreshing, "and goes on for others")
  t.eq(slow.token:get():reveal(), "v1")
end)

test("cancelled while it waits for a token: the place is free again, the refresh goes on", { good = "Bearer v1" },
  function(t, p)
    local s = source(0.2)
    local model = p.model { auth = s.token, limit = { concurrency = 1 } }
    t.raises("timeout", task.deadline, 0.02, function() return model:ask "x" end)
    t.eq(model:ask("x").text, "hello")
    t.eq(s.n, 1)
  end)

test("a reply that quotes the key", { refusal = sluice.json.encode { error = { type = "invalid_request_error",
  message = "Incorrect API key provided: " .. CANARY .. ". Header was: Bearer " .. CANARY } } }, function(t, p)
  for _, auth in ipairs { CANARY, sluice.secret.literal(CANARY), token.static(CANARY), function() return CANARY end } do
    local model = p.model { auth = auth }
    local err = t.raises({ kind = "auth", status = 401 }, model.ask, model, "x")
    t.ok(not (tostring(err) .. T.show(err, 8)):find(CANARY, 1, true), tostring(err))
    t.match(err.message, "Incorrect API key provided: %[redacted%]")
    err = t.raises({ kind = "auth", status = 401 }, model.stream, model, "x")
    t.ok(not (tostring(err) .. T.show(err, 8)):find(CANARY, 1, true), tostring(err))
  end
end)

T.test("an OAuth server and a provider that takes only its tokens: the mock", function(t)
  local m <close> = mock.start { pace = 0, scenario = { { auth = "token" } }, oauth = { expires_in = 3600 } }
  local corp = token.oauth { url = m.url .. "/oauth/token", client_id = "me", client_secret = "s" }
  local model = sluice.model { provider = "openai", base_url = m.url .. "/v1", model = "m", auth = corp,
    limit = { concurrency = 20 } }
  t.ok(#model:ask("x").text > 0)
  m:revoke()
  local replies = task.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, function() return model:ask("x").text end)
  t.eq(#replies, 10)
  t.eq(m.counts.tokens, 2)
end)

T.test("http.request: a secret that changes, a bearer token", function(t)
  local seen = {}
  local server <close> = sluice.server.listen { handler = function(req, res)
    seen[#seen + 1] = req.headers.authorization or req.headers["x-key"]
    res:send(200, {}, "")
  end }
  local path = T.write(T.tmpdir() .. "/key", "one")
  local key = sluice.secret.file { path = path, check = 0 }
  sluice.http.request { url = server.url, headers = { ["X-Key"] = key } }
  T.write(path, "two")
  sluice.http.request { url = server.url, headers = { ["X-Key"] = key } }
  sluice.http.request { url = server.url, headers = { Authorization = source().token:bearer() } }
  t.eq(seen, { "one", "two", "Bearer v1" })
end)

T.done()
