-- timeout: 120
-- Sixteen faults over real sockets, a primary and a fallback of the other protocol: each ends in the
-- complete answer; only where text had been delivered (cut, stalled, malformed in mid-stream, without a
-- rescue) and for a content filter in a clear error. Nowhere a hang, a hammering, or a truncated answer
-- called complete.
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"

local task = sluice.task
local SCALE = T.slow and 4 or 1
local SILENCE = 0.4 * SCALE -- seconds: what first_token and idle are shortened to
local NEVER = 60            -- seconds a fault lasts; every test must be over long before
local WORDS = {}
for i = 1, 60 do WORDS[i] = " w" .. i end
local ANSWER = table.concat(WORDS):sub(2) -- sixty tokens
local OTHER = "the answer of the fallback"

-- A provider that meets `rules`, then answers `text`.
local function provider(rules, text)
  local scenario = {}
  for i, rule in ipairs(rules) do
    local copy = { text = not (rule.tool_call or rule.status or rule.finish_reason) and text or nil }
    for key, value in pairs(rule) do copy[key] = value end
    scenario[i] = copy
  end
  scenario[#scenario + 1] = { text = text }
  return mock.start { pace = 0, scenario = scenario }
end

local function model(of, protocol, name, more)
  local opts = { provider = protocol, model = name, base_url = of.url .. (protocol == "openai" and "/v1" or ""),
    auth = "key-of-" .. name, defaults = { max_tokens = 500 }, retry = { base = 0.01, cap = 0.05 },
    timeout = { connect = 2 * SCALE, first_token = SILENCE, idle = SILENCE, total = 20 * SCALE } }
  for key, value in pairs(more or {}) do opts[key] = value end
  return sluice.model(opts)
end

local PROTOCOLS = { { "openai", "anthropic" }, { "anthropic", "openai" } }

-- Runs f(t, c) for both protocols: c has primary and fallback (providers), big and small (models).
local function each(name, rules, f, more)
  for _, pair in ipairs(PROTOCOLS) do
    T.test(("%s (%s)"):format(name, pair[1]), function(t)
      task.deadline(25 * SCALE, function() -- nowhere a hang
        local primary <close> = provider(rules, ANSWER)
        local fallback <close> = provider(more and more.fallback or {}, OTHER)
        local big, small = model(primary, pair[1], "big"), model(fallback, pair[2], "small")
        f(t, { primary = primary, fallback = fallback, big = big, small = small, protocol = pair[1] })
      end)
    end)
  end
end

local function read(stream)
  local parts = {}
  local ok, err = pcall(function()
    for text in stream:text() do parts[#parts + 1] = text end
  end)
  return table.concat(parts), not ok and err or nil
end

local function requests(of) return of:stats().requests end

-- 1 to 7: before the first token; asked and streamed, and the whole answer comes ------------------------------

local function both_ways(t, chain, expected, check)
  local reply = chain:ask "count"
  t.eq(reply.text, expected)
  check(reply, "ask")
  local stream <close> = chain:stream "count"
  local text, err = read(stream)
  t.eq({ text, err }, { expected })
  check(stream:reply(), "stream")
end

each("1. 429 with Retry-After: waited for, not a moment less", {
  { nth = 1, status = 429, retry_after_ms = 300 }, { nth = 3, status = 429, retry_after_ms = 300 },
}, function(t, c)
  both_ways(t, sluice.fallback { c.big, c.small }, ANSWER, function(reply)
    t.eq({ reply.degraded, #reply.attempts, reply.attempts[1].kind }, { nil, 2, "rate_limited" })
    t.ok(reply.attempts[2].waited >= 0.3, reply.attempts[2].waited)
  end)
  local log = c.primary.requests
  t.eq({ #log, requests(c.fallback) }, { 4, 0 })
  t.ok(log[2].at - log[1].at >= 0.299, log[2].at - log[1].at)
  t.eq(log[1].headers["idempotency-key"], log[2].headers["idempotency-key"]) -- one logical call, one id
  t.ne(log[1].headers["idempotency-key"], log[3].headers["idempotency-key"])
end)

each("2. 429 for ever: three attempts, then the fallback", { { status = 429, retry_after_ms = 50 } }, function(t, c)
  both_ways(t, sluice.fallback { c.big, c.small }, OTHER, function(reply, how)
    -- the second call waits behind the first one's 429, and may have to give up there
    if how == "ask" then t.eq(reply.attempts[1].kind, "rate_limited") end
    t.ok(reply.degraded.why == "rate_limited" or reply.degraded.why == "throttled", reply.degraded.why)
    t.ok(#reply.attempts <= 4)
  end)
  t.ok(requests(c.primary) <= 6, requests(c.primary))
  t.eq(requests(c.fallback), 2)
  t.ne(c.big.breaker:state(), "open") -- the provider is well and says so
end)

each("2. 429 that asks for more time than there is: the fallback at once", { { status = 429, retry_after = 30 } },
  function(t, c)
    local chain = sluice.fallback { { c.big, after = 5 }, c.small }
    local from = task.now()
    both_ways(t, chain, OTHER, function(reply, how)
      t.eq(reply.degraded.why, how == "ask" and "rate_limited" or "throttled")
    end)
    t.ok(task.now() - from < 3 * SCALE)
    -- the second call did not even ask: the first one's 429 holds for all
    t.eq({ requests(c.primary), requests(c.fallback) }, { 1, 2 })
  end)

each("3. one 500: the same model once more", { { nth = 1, status = 500 }, { nth = 3, status = 500 } }, function(t, c)
  both_ways(t, sluice.fallback { c.big, c.small }, ANSWER, function(reply)
    t.eq({ reply.degraded, #reply.attempts, reply.attempts[1].kind }, { nil, 2, "server" })
  end)
  t.eq({ requests(c.primary), requests(c.fallback) }, { 4, 0 })
end)

each("4. 503 for ever: three attempts, then the fallback; soon the breaker spares them", { { status = 503 } },
  function(t, c)
    local chain = sluice.fallback { c.big, c.small }
    both_ways(t, chain, OTHER, function(reply, how)
      t.eq(reply.degraded.why, how == "ask" and "overloaded" or reply.degraded.why)
    end)
    for _ = 1, 20 do t.eq(chain:ask("x").text, OTHER) end
    t.eq(c.big.breaker:state(), "open")
    t.eq(requests(c.primary), 5) -- five failures in a row, and no hammering
    t.eq(chain:ask("x").degraded.why, "circuit_open")
  end)

each("5. reset before headers: the same request once more, under the same id",
  { { nth = 1, cut = "before_headers" }, { nth = 3, cut = "before_headers" } }, function(t, c)
    both_ways(t, sluice.fallback { c.big, c.small }, ANSWER, function(reply, how)
      t.eq(reply.degraded, nil)
      -- on a connection that was used before, libcurl itself does what is right
      if how == "ask" then t.eq({ #reply.attempts, reply.attempts[1].kind }, { 2, "network" }) end
    end)
    local log = c.primary.requests
    t.eq({ #log, requests(c.fallback) }, { 4, 0 })
    t.eq(log[1].headers["idempotency-key"], log[2].headers["idempotency-key"])
    t.eq(log[3].headers["idempotency-key"], log[4].headers["idempotency-key"])
  end)

each("5. reset before headers, for ever: three attempts, then the fallback", { { cut = "before_headers" } }, function(t, c)
  both_ways(t, sluice.fallback { c.big, c.small }, OTHER, function(reply) t.ok(reply.degraded) end)
  t.ok(requests(c.primary) >= 3 and requests(c.primary) <= 8, requests(c.primary))
end)

each("6. no response at all: the fallback after the first timeout, a silent route is not asked twice",
  { { delay = NEVER } }, function(t, c)
    both_ways(t, sluice.fallback { c.big, c.small }, OTHER, function(reply)
      t.eq({ reply.degraded.why, #reply.attempts, reply.attempts[1].kind }, { "timeout", 2, "timeout" })
      t.ok(reply.elapsed >= SILENCE and reply.elapsed < 4 * SILENCE, reply.elapsed)
    end)
    t.eq(requests(c.primary), 2) -- one for each call
    T.until_(function() return c.primary:stats().client_gone == 2 end, 5, "the connections are closed")
  end)

each("7. headers at once, the first token after 20 s: the hedge answers, the loser is let go", { { first_token = NEVER } },
  function(t, c)
    local chain = sluice.fallback { { c.big, after = SILENCE / 4 }, c.small }
    both_ways(t, chain, OTHER, function(reply)
      t.eq({ reply.degraded.why, reply.degraded.step, #reply.attempts }, { "slow", 2, 2 })
      t.eq({ reply.attempts[1].cancelled, reply.attempts[1].model }, { true, "big" })
      t.ok(reply.elapsed < SILENCE, reply.elapsed)
    end)
    T.until_(function() return c.primary:stats().client_gone == 2 end, 5, "the connections are closed")
    -- and without a hedge the first-token timer, however many comments say that it lives
    both_ways(t, sluice.fallback { c.big, c.small }, OTHER, function(reply) t.eq(reply.degraded.why, "timeout") end)
  end)

each("7. only comments and pings: no first token either", { { comments = NEVER, ping_every = 0.05 } }, function(t, c)
  local stream <close> = sluice.fallback { c.big, c.small }:stream "count"
  t.eq({ (read(stream)), stream.degraded.why }, { OTHER, "timeout" })
end)

-- 8 to 10: in mid-stream ------------------------------------------------------------------------------------------

for number, case in ipairs {
  { "8. cut after 40 of 60 tokens", { cut_after = 40 } },
  { "8. ended after 40 of 60 tokens, without a word", { cut_after = 40, cut = "eof" } },
  { "8. cut in the middle of an event", { cut_after = 40, cut = "mid_event" } },
  { "9. stalled after 40 tokens", { stall_after = 40 } },
  { "10. a malformed chunk after 40 tokens", { malformed_after = 40 } },
  { "10. an error event after 40 tokens", { error_after = 40 } },
} do
  each(case[1] .. ": interrupted, with what there was", { case[2] }, function(t, c)
    local stream <close> = sluice.fallback { c.big, c.small }:stream "count"
    local text, err = read(stream)
    t.eq({ err.kind, err.partial == text, requests(c.fallback) }, { "interrupted", true, 0 })
    t.eq(text, ANSWER:sub(1, #text)) -- what came is the beginning of the answer, and not all of it
    t.ok(#text > 100 and #text < #ANSWER, #text)
    t.match(tostring(err), "interrupted: the stream broke off")
    t.raises("interrupted", stream.reply, stream)
    t.eq(requests(c.primary), 1) -- nothing was sent again
  end)

  each(case[1] .. ": with a rescue the whole answer", { case[2] }, function(t, c)
    local chain = sluice.fallback { c.big, rescue = sluice.rule.continue(c.small) }
    local stream <close> = chain:stream "count"
    local text, err = read(stream)
    t.eq(err, nil)
    local reply = stream:reply()
    t.eq({ reply.text == text, text:sub(-#OTHER), reply.finish_reason }, { true, OTHER, "stop" })
    t.eq({ reply.degraded.step, reply.degraded.why, reply.model }, { "rescue", "interrupted", "small" })
    local sent = c.fallback.requests[1].body.messages
    t.eq({ sent[#sent].role, #text }, { "assistant", #text })
  end)

  each(case[1] .. ": a text of the rescue ends it and says so", { case[2] }, function(t, c)
    local chain = sluice.fallback { c.big, rescue = function() return "\n[answer shortened]" end }
    local stream <close> = chain:stream "count"
    local text = read(stream)
    t.match(text, "%[answer shortened%]$")
    t.eq(stream:reply().finish_reason, "rescued")
  end)

  each(case[1] .. ": asked, nobody has seen anything, and the fallback answers", { case[2] }, function(t, c)
    local reply = sluice.fallback { { c.big, after = 5 * SCALE }, c.small }:ask "count"
    t.eq({ reply.text, reply.degraded.step, reply.attempts[1].kind }, { OTHER, 2, "interrupted" })
    t.eq(requests(c.primary), 1)
    if number >= 5 then return end -- a whole reply has no events to be broken
    reply = sluice.fallback { c.big, c.small }:ask "count"
    t.eq({ reply.text, reply.degraded ~= nil }, { OTHER, true })
  end)
end

each("10. a malformed chunk as the first one: the fallback", { { malformed_after = 0 } }, function(t, c)
  local stream <close> = sluice.fallback { c.big, c.small }:stream "count"
  t.eq({ (read(stream)), stream.degraded.why }, { OTHER, "protocol" })
end)

each("10. half a tool call: never surfaces, the fallback calls whole",
  { { tool_call = { name = "weather", arguments = { city = "Wuhan", days = 3, unit = "celsius" } }, cut_after = 2 } }, function(t, c)
    local stream <close> = sluice.fallback { c.big, c.small }:stream "count"
    local names = {}
    for event in stream:events() do names[#names + 1] = event.type .. (event.name and " " .. event.name or "") end
    t.eq({ names[1], stream:reply().degraded.step }, { "tool_call weather", 2 })
  end, { fallback = { { tool_call = { name = "weather", arguments = { city = "Wuhan" } } } } })

-- 11 to 14 ----------------------------------------------------------------------------------------------------------

T.test("11. no [DONE]: the finish reason says that the answer is whole, and nobody waits", function(t)
  local primary <close> = provider({ { no_done = true } }, ANSWER)
  local fallback <close> = provider({}, OTHER)
  local chain = sluice.fallback { model(primary, "openai", "big"), model(fallback, "openai", "small") }
  local from = task.now()
  local stream <close> = chain:stream "count"
  t.eq({ (read(stream)), stream:reply().finish_reason, stream:reply().degraded }, { ANSWER, "stop", nil })
  t.ok(task.now() - from < 2 * SCALE, task.now() - from)
end)

T.test("11. no message_stop: the Anthropic protocol demands one, so it is not called whole", function(t)
  local primary <close> = provider({ { no_done = true } }, ANSWER)
  local chain = sluice.fallback { model(primary, "anthropic", "big") }
  local text, err = read(chain:stream "count")
  t.eq({ #text, err and err.kind }, { #ANSWER, "interrupted" })
end)

local TOO_LONG = { status = 400, code = "context_length_exceeded",
  message = "prompt is too long: 250000 tokens > 200000 maximum" }

each("12. context length exceeded: not retried, and to the larger model that is declared", { TOO_LONG }, function(t, c)
  local third <close> = provider({}, "never")
  local chain = sluice.fallback { c.big, model(third, "openai", "other"), { c.small, bigger = true } }
  both_ways(t, chain, OTHER, function(reply)
    t.eq({ reply.degraded.step, reply.degraded.why }, { 3, "invalid" })
  end)
  t.eq({ requests(c.primary), requests(third), requests(c.fallback) }, { 2, 0, 2 })
end)

each("12. context length exceeded, and no larger model: the caller is told", { TOO_LONG }, function(t, c)
  local chain = sluice.fallback { c.big, c.small }
  local err = t.raises("invalid", chain.ask, chain, "count")
  t.eq({ err.code, requests(c.primary), requests(c.fallback) }, { "context_length", 1, 0 })
  t.match(tostring(err), "prompt is too long")
  t.raises("invalid", chain.stream, chain, "count")
end)

for _, case in ipairs { { "openai", "content_filter" }, { "anthropic", "refusal" } } do
  T.test("13. content filter: not retried, not passed on, the reason shown (" .. case[1] .. ")", function(t)
    local primary <close> = provider({ { finish_reason = case[2], text = case[1] == "openai" and "" or nil } }, ANSWER)
    local fallback <close> = provider({}, OTHER)
    local chain = sluice.fallback { model(primary, case[1], "big"), model(fallback, "openai", "small"),
      function() return "canned" end }
    local err = t.raises("filtered", chain.ask, chain, "count")
    t.match(tostring(err), "filtered: .*big")
    local seen = select(2, read { text = function() return chain:stream("count"):text() end })
    t.eq(seen and seen.kind, "filtered")
    t.eq({ requests(primary), requests(fallback) }, { 2, 0 })
  end)
end

T.test("13. content filter as a status: the provider's own words", function(t)
  local primary <close> = provider({ { status = 400, code = "content_filter",
    message = "The response was filtered due to the prompt triggering content management policy." } }, ANSWER)
  local fallback <close> = provider({}, OTHER)
  local chain = sluice.fallback { model(primary, "openai", "big"), model(fallback, "openai", "small") }
  local err = t.raises("filtered", chain.ask, chain, "count")
  t.match(tostring(err), "triggering content management policy")
  t.eq({ requests(primary), requests(fallback) }, { 1, 0 })
end)

each("14. a fallback that rejects a prefill: asked in words, and the answer is whole", { { cut_after = 40 } }, function(t, c)
  local chain = sluice.fallback { c.big, rescue = sluice.rule.continue(c.small) }
  local stream <close> = chain:stream "count"
  local text, err = read(stream)
  t.eq({ err, text:sub(-#OTHER), stream:reply().finish_reason }, { nil, OTHER, "stop" })
  local log = c.fallback.requests
  t.eq({ #log, log[1].status, log[2].status }, { 2, 400, 200 })
  t.eq({ log[1].body.messages[#log[1].body.messages].role, log[2].body.messages[#log[2].body.messages].role },
    { "assistant", "user" })
end, { fallback = { { nth = 1, status = 400, message = "This model does not support assistant message prefill. "
  .. "The conversation must end with a user message." } } })

each("14. a request with a prefill that the fallback rejects: a step that is there for it", { { status = 500 } },
  function(t, c)
    local chain = sluice.fallback { c.big, c.small, { function(req)
      table.remove(req.messages)
      return c.small, req
    end, on = { "invalid" } } }
    local req = { messages = { { role = "user", content = "count" }, { role = "assistant", content = "{" } } }
    local reply = chain:ask(req)
    t.eq({ reply.text, reply.degraded.step, #req.messages }, { OTHER, 3, 2 })
  end, { fallback = { { nth = 1, status = 400, message = "prefill is not supported" } } })

-- 15: down for a minute, and back -------------------------------------------------------------------------------------

T.test("15. down for a minute and back: opens, probes, closes within 30 s of recovery (all times by 20)", function(t)
  local down, asked = true, 0
  local server <close> = sluice.server.listen { handler = function(_, res)
    asked = asked + 1
    if down then return res:json(503, { error = { message = "down" } }) end
    res:json(200, { model = "big", choices = { { index = 0, finish_reason = "stop",
      message = { role = "assistant", content = ANSWER } } }, usage = { prompt_tokens = 1, completion_tokens = 60 } })
  end }
  local fallback <close> = provider({}, OTHER)
  local big = sluice.model { provider = "openai", model = "big", base_url = server.url .. "/v1", auth = "k",
    retry = { base = 0.01, cap = 0.02 }, breaker = { sleep_window = 0.25 * SCALE } }
  local chain = sluice.fallback { big, model(fallback, "openai", "small") }
  local seen = {}
  local function ask()
    local reply = chain:ask "count"
    seen[big.breaker:state()] = true
    t.ok(reply.text == ANSWER or reply.text == OTHER) -- whole, every single time
    task.sleep(0.02 * SCALE)
    return reply
  end
  local recovery = task.now() + 3 * SCALE
  while task.now() < recovery do t.eq(ask().text, OTHER) end
  local during = asked
  t.eq(seen.open, true)
  t.ok(during >= 6 and during <= 10, during) -- five failures, then a probe at a time
  down = false
  local reply
  repeat reply = ask() until not reply.degraded or task.now() > recovery + 10 * SCALE
  t.eq({ reply.text, big.breaker:state() }, { ANSWER, "closed" })
  t.ok(task.now() - recovery < 1.5 * SCALE * 2, task.now() - recovery) -- 30 s by 20, and as much again for a slow machine
  t.eq(asked - during, 1)
end)

-- 16: who answered, and what was paid ---------------------------------------------------------------------------------

each("16. accounting: every attempt, its times, its usage, its price", { { nth = 1, status = 500 }, { from = 2, first_token = NEVER } },
  function(t, c)
    local budget = sluice.budget { usd = 1 }
    local chain = sluice.fallback { { budget:guard(c.big, { input = 3, output = 15 }), after = SILENCE / 2 },
      budget:guard(c.small, { input = 0.3, output = 1.5 }) }
    local reply = chain:ask "count"
    local list = reply.attempts
    t.eq({ reply.text, reply.model, reply.degraded.from }, { OTHER, "small", c.big.name })
    t.eq({ list[#list].model, list[#list].step, list[#list].kind }, { "small", 2 })
    t.eq(list[#list].usage, reply.usage)
    local paid = (reply.usage.input_tokens * 0.3 + reply.usage.output_tokens * 1.5) / 1e6
    t.near(list[#list].usd, paid, 1e-12)
    t.near(reply.usd, paid, 1e-12)
    local loser
    for _, entry in ipairs(list) do
      t.ok(entry.at >= 0 and entry.elapsed >= 0 and entry.at + entry.elapsed <= reply.elapsed + 0.01)
      if entry.cancelled then loser = entry end
    end
    t.eq({ loser.step, loser.model, loser.name }, { 1, "big", c.big.name })
    -- the loser may have been billed: its estimate stays charged
    budget:left()
    t.eq(budget.reserved.usd, 0)
    t.ok(budget.spent.usd > paid + 500 * 15 / 1e6)
  end)

T.done()
