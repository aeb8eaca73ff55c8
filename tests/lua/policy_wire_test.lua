-- A model's policies together over real sockets, on the real clock: what each failure of the wire does to each of
-- them. Scripted, on the virtual clock: policy_model_test.lua.
local T = require "harness"
local sluice = require "sluice"
local core = require "sluice.core.task"

local task, json = sluice.task, sluice.json

--- A server whose handler is `answer(n, req, res)`, n counting the requests; closed with its block.
local function listen(answer)
  local n = 0
  local server = sluice.server.listen { handler = function(req, res)
    n = n + 1
    return answer(n, req, res)
  end }
  return server
end

local function completion(text, usage)
  return { id = "x", object = "chat.completion", model = "m", choices = { { index = 0, finish_reason = "stop",
    message = { role = "assistant", content = text } } },
    usage = usage or { prompt_tokens = 9, completion_tokens = 3, total_tokens = 12 } }
end

local function chunk(text, finish)
  return { data = json.encode { id = "x", object = "chat.completion.chunk", choices = { { index = 0,
    delta = { content = text }, finish_reason = finish } } } }
end

local function model_of(server, opts)
  local all = { provider = "openai", base_url = server.url .. "/v1", model = "m", auth = "k" }
  for key, value in pairs(opts or {}) do all[key] = value end
  return sluice.model(all)
end

local function fail(res, status, headers, message)
  res:json(status, { error = { message = message or "no", code = "x" } }, headers)
end

T.test("wire: 503, then 429 with milliseconds, then an answer, all under one request id", function(t)
  local ids = {}
  local server <close> = listen(function(n, req, res)
    ids[n] = req.headers["idempotency-key"]
    if n == 1 then return fail(res, 503, { ["x-request-id"] = "first" }) end
    if n == 2 then return fail(res, 429, { ["Retry-After-Ms"] = "30" }) end
    res:json(200, completion "hello", { ["x-request-id"] = "third" })
  end)
  local model = model_of(server, { retry = { base = 0.01, attempts = 3 } })
  local began = task.now()
  local reply = model:ask "hi"
  t.eq(reply.text, "hello")
  t.eq({ ids[1] == ids[2], ids[2] == ids[3], #ids[1] }, { true, true, 36 })
  t.eq(#reply.attempts, 3)
  local first, second, third = reply.attempts[1], reply.attempts[2], reply.attempts[3]
  t.eq({ first.kind, first.status, first.request_id }, { "overloaded", 503, "first" })
  t.eq({ second.kind, second.status }, { "rate_limited", 429 })
  t.eq({ third.kind, third.usage.total_tokens, third.request_id, third.provider, third.model },
    { nil, 12, "third", "openai", "m" })
  t.ok(third.waited >= 0.03, third.waited)
  local sum = 0
  for _, a in ipairs(reply.attempts) do sum = sum + a.elapsed + (a.waited or 0) end
  t.near(reply.elapsed, sum, 1e-6)
  t.ok(reply.elapsed <= task.now() - began)
  t.eq(model.quota.level, 500 - 5, "the first retry stays paid, the last comes back")
end)

T.test("wire: x-should-retry decides", function(t)
  local server <close> = listen(function(n, _, res)
    if n == 1 then return fail(res, 400, { ["x-should-retry"] = "true", ["Retry-After-Ms"] = "1" }) end
    if n == 2 then return res:json(200, completion "after all") end
    fail(res, 500, { ["x-should-retry"] = "false" })
  end)
  local model = model_of(server)
  t.eq(model:ask("x").text, "after all")
  local err = t.raises("server", model.ask, model, "x")
  t.eq(#err.attempts, 1)
end)

T.test("wire: the provider's limits are learnt from an answer, and from a stream", function(t)
  local server <close> = listen(function(n, _, res)
    local headers = { ["X-RateLimit-Limit-Requests"] = "600", ["X-RateLimit-Remaining-Requests"] = tostring(100 - n),
      ["x-ratelimit-limit-tokens"] = "60000", ["x-ratelimit-remaining-tokens"] = "1234", ["x-ratelimit-reset-tokens"] = "1s" }
    if n == 1 then return res:json(200, completion "a", headers) end
    headers["Content-Type"] = "text/event-stream"
    res:start(200, headers)
    res:write("data: " .. chunk("b", "stop").data .. "\n\ndata: [DONE]\n\n")
  end)
  local model = model_of(server)
  t.eq(model.limiter.active, false)
  model:ask "x"
  t.eq(model.limiter.active, true)
  local left = model.limiter:left()
  t.ok(left.requests >= 99 and left.requests < 101, left.requests)
  t.ok(left.tokens >= 1234 and left.tokens < 1300, left.tokens)
  t.eq(model:stream("y"):reply().text, "b")
  t.ok(model.limiter:left().requests < 100)
  local blind = model_of(server, { limit = { learn = false } })
  blind:stream("z"):reply()
  t.eq(blind.limiter.active, false)
end)

T.test("wire: without such headers nothing is learnt", function(t)
  local server <close> = listen(function(_, _, res)
    res:json(200, completion "a", { ["x-ratelimit-policy"] = "p", ["ratelimit-limit"] = "7", ["x-ratelimit"] = "9" })
  end)
  local model = model_of(server)
  model:ask "x"
  t.eq(model.limiter.active, false)
end)

T.test("wire: a stream that is too slow is ended, with what it delivered", function(t)
  local server <close> = listen(function(_, _, res)
    res:event(chunk "first words, quickly. ")
    for _ = 1, 200 do
      task.sleep(0.01)
      res:event(chunk "x") -- 25 tokens a second
    end
    res:event(chunk("", "stop"))
  end)
  local model = model_of(server, { timeout = { min_rate = 100, min_rate_over = 0.2 } })
  local began, text = task.now(), {}
  local err = t.raises("interrupted", function()
    for piece in model:stream("x"):text() do text[#text + 1] = piece end
  end)
  t.eq({ err.phase, err.cause.kind, err.cause.phase }, { "slow", "timeout", "slow" })
  t.match(err.message, "too slow: about %d+%.?%d* tokens in 0%.2 s, fewer than 100 a second %(timeout%.min_rate%)")
  t.eq(err.partial, table.concat(text))
  t.ok(task.now() - began < 1.9, "it did not wait for the end")
  t.eq(#err.attempts, 1)
  t.eq(model.breaker:counts().failures, 1)
end)

T.test("wire: a floor below what comes does nothing, whole windows long", function(t)
  local server <close> = listen(function(_, _, res)
    for _ = 1, 40 do
      res:event(chunk "a few words here ")
      task.sleep(0.01)
    end
    res:event(chunk("end", "stop"))
    res:event { data = "[DONE]" }
  end)
  local model = model_of(server, { timeout = { min_rate = 20, min_rate_over = 0.05 } })
  local reply = model:stream("x"):reply()
  t.eq(#reply.text, 40 * 17 + 3)
  t.eq(reply.finish_reason, "stop")
end)

T.test("wire: a slow reader does not make a slow provider", function(t)
  local server <close> = listen(function(_, _, res)
    for _ = 1, 5 do res:event(chunk "tiny") end
    res:event(chunk("", "stop"))
    res:event { data = "[DONE]" }
  end)
  local model = model_of(server, { timeout = { min_rate = 1000, min_rate_over = 0.02 } })
  local n = 0
  for _ in model:stream("x"):text() do
    n = n + 1
    task.sleep(0.03)
  end
  t.eq(n, 5)
end)

T.test("wire: thinking and the fragments of a tool call are counted by the floor, too", function(t)
  local server <close> = listen(function(_, _, res)
    local function delta(d) res:event { data = json.encode { id = "x", choices = { { index = 0, delta = d } } } } end
    delta { tool_calls = { { index = 0, id = "c1", type = "function", ["function"] = { name = "f", arguments = "" } } } }
    delta { tool_calls = { { index = 0, ["function"] = { arguments = '{"text":"' } } } }
    for _ = 1, 30 do
      delta { tool_calls = { { index = 0, ["function"] = { arguments = "words and words and words " } } } }
      task.sleep(0.01)
    end
    delta { tool_calls = { { index = 0, ["function"] = { arguments = '"}' } } } }
    res:event(chunk(nil, "tool_calls"))
    res:event { data = "[DONE]" }
  end)
  local model = model_of(server, { timeout = { min_rate = 100, min_rate_over = 0.05, idle = 5 } })
  local reply = model:stream("x"):reply()
  t.eq({ #reply.tool_calls, #reply.tool_calls[1].arguments.text }, { 1, 30 * 26 })
end)

T.test("wire: cancelled before the first content, a stream gives everything back at once", function(t)
  local server <close> = listen(function(_, _, res)
    res:start(200, { ["Content-Type"] = "text/event-stream" })
    res:write(": hello\n\n")
    task.sleep(30)
  end)
  local model = model_of(server, { limit = { concurrency = 1, rpm = 600, tpm = 60000 } })
  for _ = 1, 3 do
    t.raises({ kind = "timeout", phase = "deadline" }, task.deadline, 0.05, function() model:stream "x" end)
    t.eq(model.limiter:left().concurrency, 1, "no task group has ended meanwhile")
    t.eq(core.census().transfers, 0)
  end
  t.raises({ kind = "timeout", phase = "deadline" }, task.deadline, 0.05, function()
    for _ in model:stream("x"):text() do t.ok(false) end
  end)
  t.eq(model.limiter:left().concurrency, 1)
end)

T.test("wire: the place of a stream is given back by C when its group ends", function(t)
  local server <close> = listen(function(_, _, res)
    res:event(chunk "a")
    task.sleep(30)
  end)
  local model = model_of(server, { limit = { concurrency = 1 } })
  task.group(function() model:stream "x" end) -- dropped
  t.eq(model.limiter:left().concurrency, 1)
  local stream = model:stream "x"
  t.eq(model.limiter:left().concurrency, 0)
  t.raises({ kind = "throttled", code = "concurrency" }, model.ask, model, "y", { patience = 0.02 })
  stream:close()
  t.eq(model.limiter:left().concurrency, 1)
end)

T.test("wire: a stream that is left early has used what C has handed out", function(t)
  local server <close> = listen(function(_, _, res)
    for _ = 1, 100 do res:event(chunk(("word "):rep(20))) end
    task.sleep(30)
  end)
  local model = model_of(server, { limit = { otpm = 600, burst = 3000 }, defaults = { max_tokens = 20000 } })
  local got = 0
  for text in model:stream("x"):text() do
    got = got + #text
    if got >= 4000 then break end
  end
  t.near(30000 - model.limiter:left().output_tokens, got / 4 * 1.1, 10)
end)

T.test("wire: a refused connection is the network's fault; what was charged comes back", function(t)
  local server = listen(function() end)
  local model = model_of(server, { retry = { attempts = 2, base = 0.001 }, limit = { rpm = 60, tpm = 6000 } })
  server:close()
  local err = t.raises("network", model.ask, model, "x")
  t.eq(#err.attempts, 2)
  t.near(model.limiter:left().requests, 10, 0.1)
  t.near(model.limiter:left().tokens, 1000, 5)
  t.eq(model.breaker:counts().failures, 2)
end)

T.done()
