-- Ready-made steps: shorter answers, queue and wait, canned answers, stale ones.
local sluice = require "sluice"
local test, rule, task = sluice.test, sluice.rule, sluice.task

local function failing(t, answer) return t.model { answer or { err = "server" } } end

test("canned: always the same words", function(t)
  local chain = sluice.fallback { failing(t), rule.canned "服务繁忙，请稍后再试。" }
  t.eq({ chain:ask("x").text, chain:stream("x"):reply().text }, { "服务繁忙，请稍后再试。", "服务繁忙，请稍后再试。" })
  t.raises("rule%.canned: expected a text, got nothing", rule.canned)
end)

test("shorter: the same question, few tokens, and words to that effect", function(t)
  local small = t.model { { text = "brief" }, defaults = { system = "You are a poet." } }
  local chain = sluice.fallback { failing(t), rule.shorter(small) }
  t.eq(chain:ask("x").text, "brief")
  t.eq(small.requests[1].max_tokens, 200)
  t.eq(small.requests[1].messages[1].content, "You are a poet.\n\nAnswer as briefly as you can.")
  chain:ask { prompt = "x", system = "Be kind.", max_tokens = 50 }
  t.eq(small.requests[2].max_tokens, 50)
  t.match(small.requests[2].messages[1].content, "^Be kind%.\n\nAnswer")
  chain:ask { prompt = "x", system = { { type = "text", text = "Parts." } }, max_tokens = 5000 }
  t.eq(small.requests[3].max_tokens, 200)
  t.match(sluice.json.encode(small.requests[3].messages[1].content), "Parts%..*Answer as briefly")
end)

test("shorter: streams when the caller does, and takes options", function(t)
  local small = t.model { { wait = 1, text = "one two three", gap = 1 } }
  local chain = sluice.fallback { failing(t), rule.shorter(small, { max_tokens = 9, say = "Quick!" }) }
  local stream <close> = chain:stream "x" -- luacheck: ignore 211
  t.eq({ t.clock(), small.requests[1].stream, small.requests[1].max_tokens }, { 1, true, 9 })
  t.eq(small.requests[1].messages[1].content, "Quick!")
  t.raises("rule%.shorter: unknown option 'max_token' %(did you mean 'max_tokens'", rule.shorter, small, { max_token = 1 })
  t.raises("rule%.shorter: expected a model", rule.shorter, "small")
end)

test("shorter: as a hedge", function(t)
  local small = t.model { { wait = 1, text = "brief" } }
  local reply = sluice.fallback { { t.model { { wait = 20 } }, after = 5 }, rule.shorter(small) }:ask "x"
  t.eq({ reply.text, t.clock(), reply.degraded.why }, { "brief", 6, "slow" })
end)

test("queue: waits for what was asked, then asks once more", function(t)
  local m = t.model { { status = 429, retry_after = 90 }, { text = "at last" } }
  local reply = sluice.fallback { m, rule.queue(m) }:ask "x"
  t.eq({ reply.text, reply.degraded.why, t.clock() }, { "at last", "rate_limited", 90 })
end)

test("queue: waits its own time where nobody named one", function(t)
  local m = t.model { { err = "overloaded" }, { text = "at last" } }
  t.eq({ sluice.fallback { m, rule.queue(m, { wait = 30 }) }:ask("x").text, t.clock() }, { "at last", 30 })
end)

test("queue: declines what takes too long, or is later than the deadline", function(t)
  local function chain(opts)
    local m = t.model { { status = 429, retry_after = 90 }, { text = "at last" } }
    return sluice.fallback { m, rule.queue(m, opts), rule.canned "busy" }
  end
  t.eq({ chain({ max = 60 }):ask("x").text, t.clock() }, { "busy", 0 })
  t.eq({ task.deadline(80, function() return chain():ask("x").text end), t.clock() }, { "busy", 0 })
  t.eq({ task.deadline(100, function() return chain():ask("x").text end), t.clock() }, { "at last", 90 })
end)

test("queue: an open breaker says when it will let one through", function(t)
  local m = t.model { { err = "server" }, { text = "well again" }, breaker = { sleep_window = 20, trip_after = 1 } }
  pcall(m.ask, m, "x")
  local reply = sluice.fallback { m, rule.queue(m) }:ask "x"
  t.eq({ reply.text, reply.degraded.why }, { "well again", "circuit_open" })
  t.ok(t.clock() >= 18 and t.clock() <= 22)
end)

test("stale: the answer of a better day", function(t)
  local cache = sluice.cache()
  local m = t.model { { text = "of a good day" }, { wait = 60 } }
  local chain = sluice.fallback { { cache:watch(m), after = 3 }, cache:stale(), rule.canned "busy" }
  chain:ask "q"
  local reply = chain:ask "q"
  t.eq({ reply.text, reply.age, t.clock(), reply.degraded.why }, { "of a good day", 3, 3, "slow" })
  t.eq(chain:ask("r").text, "busy")
end)

-- The recipe of SEMANTICS: the reply takes longer than 5 s --------------------------------------------------------

test("more than 5 s: hedge, hedge again, stale, canned; and straight there once it is known to be slow", function(t)
  local cache = sluice.cache()
  local big = t.model { { wait = 20, text = "big" }, name = "big",
    breaker = { slow = 5, slow_rate = 0.5, volume = 2, sleep_window = 60 } }
  local small = t.model { { wait = 20, text = "small" }, name = "small" }
  local chain = sluice.fallback { { cache:watch(big), after = 5 }, { small, after = 3 }, cache:stale(), rule.canned "busy" }
  local reply = chain:ask "x"
  t.eq({ reply.text, t.clock(), reply.degraded.step }, { "busy", 8, 4 })
  local waited
  for _ = 1, 4 do
    local from = t.clock()
    chain:ask "x"
    waited = t.clock() - from
  end
  -- cancelled hedges that ran for longer than 5 s count as slow, so the breaker opens
  t.eq({ big.breaker:state(), waited }, { "open", 3 })
end)
