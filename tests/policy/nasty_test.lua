-- What goes wrong all at once: edges where two policies meet, clocks that strike in the same moment,
-- numbers nobody would send. Everywhere: an answer, a degraded answer that says so, or a clear error, in
-- bounded time, and every stream closed.
local sluice = require "sluice"
local test, task, errors = sluice.test, sluice.task, sluice.errors

local TEXT = "one two three four five six"

local function canned() return "canned" end

local function read(stream)
  local parts = {}
  local ok, err = pcall(function()
    for text in stream:text() do parts[#parts + 1] = text end
  end)
  return table.concat(parts), not ok and err or nil
end

-- Caches and budgets inside of chains ---------------------------------------------------------------------

test("a cache as the first step: a hit costs nothing and is not degraded, a miss goes on", function(t)
  local cache = sluice.cache()
  local big = t.model { { wait = 2, text = "fresh" } }
  local chain = sluice.fallback { cache:stale(), { cache:watch(big), after = 5 }, canned }
  t.eq({ chain:ask("x").text, t.clock(), big.calls }, { "fresh", 2, 1 })
  local reply = chain:ask "x"
  t.eq({ reply.text, reply.provider, reply.degraded, t.clock(), big.calls }, { "fresh", "cache", nil, 2, 1 })
  t.eq({ (read(chain:stream "x")), big.calls }, { "fresh", 1 })
  t.eq({ chain:ask("y").text, big.calls }, { "fresh", 2 })
end)

test("a cache keeps the winner of a hedge only, and never half an answer", function(t)
  local cache = sluice.cache()
  local slow, cut = t.model { { wait = 9, text = "slow" } }, t.model { { text = TEXT, cut = 7 } }
  local chain = sluice.fallback { { cache:watch(slow), after = 2 }, cache:watch(t.model { { wait = 1, text = "quick" } }) }
  t.eq({ chain:ask("x").text, cache:get("x").text, cache.count }, { "quick", "quick", 1 })
  read(sluice.fallback { cache:watch(cut), rescue = function() return "!" end }:stream "y")
  t.eq(cache:get "y", nil)
end)

test("a budget that runs out inside of a nested chain: each level goes on, and the sums are right", function(t)
  local budget = sluice.budget { tokens = 100 }
  local usage = { prompt_tokens = 10, completion_tokens = 30, total_tokens = 40 }
  local big = t.model { { text = "big", usage = usage }, defaults = { max_tokens = 50 } }
  local small = t.model { { text = "small", usage = { prompt_tokens = 1, completion_tokens = 4, total_tokens = 5 } },
    defaults = { max_tokens = 5 } }
  local inner = sluice.fallback { budget:guard(big), budget:guard(small), name = "inner" }
  local chain = sluice.fallback { { inner, after = 5 }, canned }
  local texts = {}
  for i = 1, 8 do texts[i] = (i % 2 == 0 and chain:ask "x" or chain:stream("x"):reply()).text end
  t.eq(table.concat(texts, " "), "big big small small small canned canned canned")
  t.eq({ budget.spent.tokens, budget.reserved.tokens }, { 95, 0 })
  local err = t.raises("quota", inner.ask, inner, "x")
  t.eq({ err.code, #err.also, #err.attempts }, { "budget", 1, 2 })
end)

test("hedged under one budget: two cannot both be started when only one can be paid", function(t)
  local budget = sluice.budget { tokens = 60 }
  local a = t.model { { wait = 9, text = "a" }, defaults = { max_tokens = 40 } }
  local b = t.model { { wait = 1, text = "b" }, defaults = { max_tokens = 40 } }
  local reply = sluice.fallback { { budget:guard(a), after = 5 }, budget:guard(b) }:ask "x"
  t.eq({ reply.text, b.calls, t.clock(), budget.reserved.tokens }, { "a", 0, 9, 0 })
end)

-- In the same moment -------------------------------------------------------------------------------------

test("the caller leaves in the very moment a hedge commits: both are closed, nothing is held", function(t)
  for _, moment in ipairs { 5, 6, 6.000001 } do
    local a, b = t.model { { wait = 20 }, limit = { concurrency = 1 } },
      t.model { { wait = 1, text = TEXT, gap = 1 }, limit = { concurrency = 1 } }
    local chain = sluice.fallback { { a, after = 5 }, b }
    local got
    task.group(function(group)
      local handle = group:spawn(function()
        local stream <close> = chain:stream "x"
        got = stream
        task.sleep(60)
      end)
      task.sleep(moment)
      handle:cancel()
    end)
    t.eq({ a.closed, a.limiter:left().concurrency, b.limiter:left().concurrency }, { 1, 1, 1 }, moment)
    t.eq(b.closed, b.calls, moment)
    if got then t.eq(got.closed, true) end
  end
end)

test("a deadline in the very moment the answer is there: the answer, or the deadline, and all is closed", function(t)
  local a, b = t.model { { wait = 20 } }, t.model { { wait = 1, text = TEXT } }
  local ok, result = pcall(task.deadline, 6, function() return sluice.fallback { { a, after = 5 }, b }:ask "x" end)
  t.eq(t.clock(), 6)
  t.ok(ok and result.text == TEXT or errors.is(result, "timeout") and result.phase == "deadline", result)
  t.eq({ a.closed, a.cancelled, b.closed }, { 1, 1, 1 })
end)

test("primary and hedge fail in the same moment: the next step, once", function(t)
  local a, b = t.model { { wait = 6, err = "server" } }, t.model { { wait = 1, err = "overloaded" } }
  local c = t.model { { wait = 1, text = "c" } }
  local reply = sluice.fallback { { a, after = 5 }, b, c }:ask "x"
  t.eq({ reply.text, c.calls, #reply.attempts, t.clock() }, { "c", 1, 3, 7 })
end)

test("ten steps at once that all fail at once: the first one's error, nine in also", function(t)
  local steps = {}
  for i = 1, 10 do steps[i] = { t.model { { wait = 1, err = i == 1 and "overloaded" or "server" } }, after = 0 } end
  local chain = sluice.fallback(steps)
  local err = t.raises("overloaded", chain.ask, chain, "x")
  t.eq({ #err.also, #err.attempts, t.clock() }, { 9, 10, 1 })
end)

test("a primary in its back-off when the hedge answers is not asked again", function(t)
  local a = t.model { { err = "overloaded", retry_after = 4 }, { text = "a" }, retry = {} }
  local reply = sluice.fallback { { a, after = 5, name = "a" }, canned }:ask "x"
  t.eq({ reply.text, a.calls }, { "a", 2 })
  a = t.model { { wait = 3, err = "overloaded", retry_after = 4 }, { text = "a" }, retry = {} }
  reply = sluice.fallback { { a, after = 5 }, canned }:ask "x"
  t.eq({ reply.text, reply.degraded.why, a.calls }, { "canned", "slow", 1 })
  task.sleep(60)
  t.eq(a.calls, 1)
end)

test("a deadline in the middle of a back-off ends it then and there", function(t)
  local a = t.model { { err = "overloaded", retry_after = 4 }, { text = "a" }, retry = {} }
  local b = t.model { { text = "b" } }
  -- the outer deadline is nobody's to see: it cancels from outside
  task.group(function(group)
    local handle = group:spawn(function() return sluice.fallback { a, b }:ask "x" end)
    task.sleep(2)
    handle:cancel()
  end)
  t.eq({ t.clock(), a.calls, b.calls }, { 2, 1, 0 })
  -- one that is seen is not slept into: the next step at once
  local reply = task.deadline(4, function() return sluice.fallback { t.model { { err = "overloaded", retry_after = 4 },
    retry = {} }, b }:ask "x" end)
  t.eq({ reply.text, t.clock() }, { "b", 2 })
end)

-- Numbers ----------------------------------------------------------------------------------------------------

test("Retry-After of the past, of nonsense, of the far future: never a hang, never a hammering", function(t)
  local function meets(value)
    local a = t.model { { status = 429, retry_after = value }, { text = "a" }, retry = {} }
    local from = t.clock()
    local reply = sluice.fallback { a, canned }:ask "x"
    return reply.text, t.clock() - from, a
  end
  for _, value in ipairs { "Mon, 01 Jan 1990 00:00:00 GMT", "0", "-5", "-1e9", "nan", "inf", "-inf", "0x20", "1e3", "",
    "soon", "Sunday", "32. Juli 2031", ("9"):rep(400), "1,5", "1 2", "\t" } do
    local text, took = meets(value)
    t.eq(text, "a", value)
    t.ok(took >= 0 and took <= 1.1, value)
  end
  for _, value in ipairs { "61", "86400", "4294967296", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT" } do
    local text, took = meets(value)
    t.eq({ text, took }, { "canned", 0 }, value)
  end
  local text, took = meets "0.000000001"
  t.eq(text, "a")
  t.ok(took < 1e-3)
end)

test("a Retry-After of a thousand years is not believed for longer than a day", function(t)
  local a = t.model { { status = 429, retry_after = "31536000000" }, { text = "a" } }
  local chain = sluice.fallback { a, canned }
  t.eq(chain:ask("x").text, "canned")
  task.sleep(80000)
  t.eq({ chain:ask("x").text, a.calls }, { "canned", 1 })
  task.sleep(6401)
  t.eq({ chain:ask("x").text, a.calls }, { "a", 2 })
end)

test("after = 0 beside huge and tiny ones", function(t)
  local a, b = t.model { { wait = 2, text = "a" } }, t.model { { wait = 1, text = "b" } }
  t.eq(sluice.fallback { { a, after = 1e9 }, b }:ask("x").text, "a")
  t.eq(sluice.fallback { { a, after = 1e-7 }, b }:ask("x").text, "b")
  t.eq(t.clock(), 3, "microseconds do not count")
end)

-- Rules that misbehave -------------------------------------------------------------------------------------

test("a rule that never comes back is passed by, and cancelled", function(t)
  local left
  local function sleeper()
    local _ <close> = setmetatable({}, { __close = function() left = t.clock() end }) -- luacheck: ignore
    task.sleep(1e6)
  end
  t.eq(sluice.fallback { { sleeper, after = 3 }, canned }:ask("x").degraded.why, "slow")
  t.eq({ left, t.clock() }, { 3, 3 })
  -- without `after` the deadline ends it
  t.raises("timeout", task.deadline, 4, function() sluice.fallback { sleeper, canned }:ask "x" end)
  t.eq({ left, t.clock() }, { 7, 7 })
end)

test("a rule that keeps every error for itself cannot hold up those who cancel it", function(t)
  local rounds = 0
  local function stubborn()
    while true do
      rounds = rounds + 1
      if pcall(task.sleep, 1) == false and rounds > 1000 then error "spinning" end
    end
  end
  t.eq({ sluice.fallback { { stubborn, after = 3 }, canned }:ask("x").text, t.clock() }, { "canned", 3 })
  t.ok(rounds < 10, rounds)
end)

test("a rule that hands out a stream that is closed, or one that somebody else reads", function(t)
  local a = t.model { { text = TEXT, gap = 1 } }
  local chain = sluice.fallback { function()
    local stream = a:stream "x"
    stream:close()
    return stream
  end, canned }
  t.raises("the stream was closed before its end", chain.ask, chain, "x")
  local kept = a:stream "x"
  chain = sluice.fallback { function() return kept end }
  t.eq(chain:ask("x").text, TEXT)
  t.eq(chain:ask("y").text, TEXT) -- over, and its answer is kept
end)

test("a chain that leads to itself ends in an error, not in the ground", function(t)
  local chain
  chain = sluice.fallback { function() return chain end, canned }
  t.raises("stack overflow", chain.ask, chain, "x")
  t.eq(t.clock(), 0)
end)

test("a check that raises is a fault of the script; one that refuses everybody an error that says so", function(t)
  local a, b = t.model { { text = "a" } }, t.model { { text = "b" } }
  local chain = sluice.fallback { a, b, check = function(reply) return reply.nothing.at.all end }
  t.raises("attempt to index a nil value", chain.ask, chain, "x")
  t.raises("attempt to index a nil value", chain.stream, chain, "x")
  chain = sluice.fallback { { a, after = 5 }, b, check = function(reply) return false, "not " .. reply.text end }
  for _, method in ipairs { "ask", "stream" } do
    local err = t.raises("protocol", chain[method], chain, "x")
    t.eq({ err.code, #err.also, #err.attempts }, { "refused_by_check", 1, 2 })
    t.match(err.message, "not a")
  end
  t.eq({ a.closed, b.closed }, { 3, 2 })
end)

-- Rescues -------------------------------------------------------------------------------------------------------

test("a rescue that takes its time, and is left: what it opened is closed", function(t)
  local c = t.model { { wait = 50, text = "c" } }
  local chain = sluice.fallback { t.model { { text = TEXT, cut = 7 } }, rescue = function() return c:stream "y" end }
  t.raises("timeout", task.deadline, 5, function() for _ in chain:stream("x"):text() do end end) -- luacheck: ignore 542
  t.eq({ t.clock(), c.cancelled, c.closed }, { 5, 1, 1 })
end)

test("a rescue by a chain, whose first step fails: one switch, and the answer goes on", function(t)
  local other = sluice.fallback { t.model { { err = "server" } }, t.model { { text = " and the rest" }, name = "c" } }
  local chain = sluice.fallback { t.model { { text = TEXT, cut = 7 }, name = "a" }, rescue = sluice.rule.continue(other) }
  local stream, switches = chain:stream "x", {}
  for event in stream:events() do
    if event.type == "switch" then switches[#switches + 1] = { event.from, event.to, event.at } end
  end
  t.eq(switches, { { "a", "c", 7 } })
  local reply = stream:reply()
  t.eq({ reply.text, reply.finish_reason, reply.degraded.step }, { "one two and the rest", "stop", "rescue" })
end)

test("cut in the middle of a rescue's own text: raised, with all the text there was, closed once", function(t)
  local c = t.model { { text = " three four", cut = 6 } }
  local stream = sluice.fallback { t.model { { text = TEXT, cut = 7 } }, rescue = function() return c:stream "y" end }
    :stream "x"
  local text, err = read(stream)
  t.eq({ text, err.partial, c.closed }, { "one two three", "one two three", 1 })
end)

-- Holding back -----------------------------------------------------------------------------------------------------

test("hold: filtered within, thinking only, a tool call only, nothing at all", function(t)
  local function held(answer)
    return sluice.fallback { { t.model { answer }, hold = 100 }, t.model { { text = "b" } } }:stream "x"
  end
  t.raises("filtered", held, { text = "one", err = "filtered" })
  local stream = held { thinking = "hm", text = "" }
  t.eq({ (read(stream)), stream:reply().thinking }, { "", "hm" })
  stream = held { tool = { name = "f", arguments = { a = 1 } } }
  t.eq({ (read(stream)), stream:reply().tool_calls[1].name }, { "", "f" })
  stream = held { text = "" }
  t.eq({ (read(stream)), stream.degraded }, { "", nil })
end)

test("hold: more than there is, exactly as much, one less", function(t)
  for _, hold in ipairs { #TEXT + 1, #TEXT, #TEXT - 1, 0 } do
    local stream = sluice.fallback { { t.model { { text = TEXT, gap = 0.1 } }, hold = hold }, canned }:stream "x"
    t.eq({ (read(stream)), stream:reply().text }, { TEXT, TEXT }, hold)
  end
end)

test("hold and check together: the check sees the whole answer, streams end in the one that pleases", function(t)
  local a = t.model { { text = TEXT, gap = 0.5 } }
  local stream = sluice.fallback { { a, hold = 3, check = function(r) return r.text ~= TEXT, "no" end },
    t.model { { text = "b" } } }:stream "x"
  t.eq({ (read(stream)), stream.degraded.why, a.closed }, { "b", "protocol", 1 })
end)

-- Many at once ------------------------------------------------------------------------------------------------------

test("two hundred slow calls at once: hedges end with the quota, every call is answered, nothing is left", function(t)
  local a = t.model { { wait = 9, text = "a" }, limit = { concurrency = 1000 } }
  local b = t.model { { wait = 1, err = "server" }, limit = { concurrency = 1000 }, retry = {}, breaker = false }
  local chain, list = sluice.fallback { { a, after = 5 }, b }, {}
  for i = 1, 200 do list[i] = tostring(i) end
  for _, reply in ipairs(task.map(list, function(i) return chain:ask(i) end, { concurrency = 200 })) do
    t.eq(reply.text, "a")
  end
  t.ok(b.calls <= 36, b.calls) -- 500 / 14 is 35
  t.ok(b.quota.level >= 0 and b.quota.level < 14, b.quota.level)
  t.eq({ a.limiter:left().concurrency, b.limiter:left().concurrency }, { 1000, 1000 })
end)
