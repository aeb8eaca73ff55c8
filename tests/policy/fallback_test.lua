-- Chains: the order of steps, what ends them, what they say of themselves.
-- With the checks of the executable model of SEMANTICS about fallback, and those of failsafe-go about
-- cancellation and nested timeouts.
local sluice = require "sluice"
local test, task, errors = sluice.test, sluice.task, sluice.errors

local function failing(t, kind)
  return t.model { { err = kind }, name = kind, breaker = false }
end

local function asking(chain) return function() return chain:ask "x" end end

-- The order --------------------------------------------------------------------------------------------

test("a failure starts the next step at once", function(t)
  local a, b = t.model { { wait = 1, err = "server" } }, t.model { { wait = 1, text = "b" } }
  local reply = sluice.fallback { a, b }:ask "x"
  t.eq({ reply.text, t.clock(), reply.elapsed }, { "b", 2, 2 })
  t.eq(reply.degraded, { step = 2, name = b.name, why = "server", from = a.name })
end)

test("the first step's own answer is not degraded", function(t)
  local reply = sluice.fallback { t.model { { text = "a" } }, t.model { {} } }:ask "x"
  t.eq({ reply.text, reply.degraded, #reply.attempts, reply.attempts[1].step }, { "a", nil, 1, 1 })
end)

test("all fail: the first step's error, the others in also, all attempts", function(t)
  local chain = sluice.fallback { failing(t, "overloaded"), failing(t, "server"), failing(t, "network") }
  local err = t.raises("overloaded", asking(chain))
  t.eq({ #err.also, err.also[1].kind, err.also[2].kind }, { 2, "server", "network" })
  t.eq({ #err.attempts, err.attempts[3].kind, err.attempts[3].step }, { 3, "network", 3 })
end)

test("a rule declines with nil; the canned answer is last", function(t)
  local seen
  local chain = sluice.fallback {
    failing(t, "server"),
    function(_, why) seen = why return nil end,
    function() return "canned" end,
  }
  local reply = chain:ask "x"
  t.eq({ reply.text, reply.provider, reply.finish_reason, t.clock() }, { "canned", "rule", "stop", 0 })
  t.eq({ seen.kind, seen.err.kind, seen.tried }, { "server", "server", 1 })
  t.eq({ reply.degraded.step, reply.degraded.why }, { 3, "server" })
  t.eq(#reply.attempts, 2) -- a step that declines has not tried anything
end)

test("when everybody declines, that is what is raised", function(t)
  local chain = sluice.fallback { function() end, function() end, name = "house rules" }
  local err = t.raises("every step of the house rules declined", asking(chain))
  t.eq(err.code, "declined")
end)

test("when those left over decline, the first error is raised", function(t)
  t.raises("overloaded", asking(sluice.fallback { failing(t, "overloaded"), function() end }))
  t.raises("overloaded", asking(sluice.fallback { { failing(t, "overloaded"), after = 1 }, function() end }))
end)

test("a rule as the first step learns that it is the start", function(t)
  local why
  sluice.fallback { function(_, w) why = w return "x" end }:ask "x"
  t.eq({ why.kind, why.err, why.tried, why.elapsed, why.left }, { "start", nil, 0, 0, nil })
end)

test("a rule sees how much time is left", function(t)
  local why
  task.deadline(10, function()
    sluice.fallback { t.model { { wait = 4, err = "server" } }, function(_, w) why = w return "x" end }:ask "x"
  end)
  t.eq({ why.left, why.elapsed }, { 6, 4 })
end)

-- What ends it ------------------------------------------------------------------------------------------

for _, kind in ipairs { "invalid", "filtered" } do
  test(kind .. " ends the chain: no other step could mend it", function(t)
    local b = t.model { { text = "b" } }
    local err = t.raises(kind, asking(sluice.fallback { failing(t, kind), b, function() return "canned" end }))
    t.eq({ b.calls, #err.attempts }, { 0, 1 })
    t.raises(kind, asking(sluice.fallback { { failing(t, kind), after = 1 }, b, function() return "canned" end }))
    t.eq(b.calls, 0)
  end)

  test(kind .. " does not end it when a step is there for just that", function(t)
    local reply = sluice.fallback { failing(t, kind), t.model { { text = "b" } },
      { function() return "canned" end, on = { kind } } }:ask "x"
    t.eq({ reply.text, reply.degraded.why }, { "canned", kind })
  end)
end

test("a fatal error behind others carries them", function(t)
  local err = t.raises("invalid", asking(sluice.fallback { failing(t, "server"), failing(t, "invalid") }))
  t.eq({ #err.also, err.also[1].kind, #err.attempts }, { 1, "server", 2 })
end)

test("context_length goes to a step that says bigger, past all others", function(t)
  local small, big = t.model { { text = "small" } }, t.model { { text = "big" } }
  local reply = sluice.fallback { failing(t, "context_length"), small, function() return "canned" end,
    { big, bigger = true } }:ask "x"
  t.eq({ reply.text, small.calls, reply.degraded.why, reply.degraded.step }, { "big", 0, "invalid", 4 })
end)

test("on: a step that is there for context_length only", function(t)
  local long = t.model { { text = "long" } }
  local steps = { failing(t, "context_length"), { long, on = { "context_length" } }, function() return "c" end }
  t.eq(sluice.fallback(steps):ask("x").text, "long")
  for _, kind in ipairs { "server", "overloaded" } do
    steps[1] = failing(t, kind)
    t.eq(sluice.fallback(steps):ask("x").text, "c")
  end
  steps[1] = failing(t, "invalid")
  t.raises("invalid", asking(sluice.fallback(steps)))
  t.eq(long.calls, 1)
end)

test("context_length without a bigger step is the caller's to mend", function(t)
  local err = t.raises("invalid", asking(sluice.fallback { failing(t, "context_length"), function() return "canned" end }))
  t.eq(err.code, "context_length")
end)

test("context_length while a bigger one is hedging already: it goes on", function(t)
  local a = t.model { { wait = 3, err = "context_length" } }
  local reply = sluice.fallback { { a, after = 1 }, { t.model { { wait = 5, text = "big" } }, bigger = true } }:ask "x"
  t.eq({ reply.text, t.clock() }, { "big", 6 })
end)

test("context_length while another one is hedging: nobody is lost, and the bigger one comes", function(t)
  local a, b = t.model { { wait = 3, err = "context_length" } }, t.model { { wait = 3, err = "context_length" } }
  local reply = sluice.fallback { { a, after = 1 }, b, { t.model { { text = "big" } }, bigger = true } }:ask "x"
  t.eq({ reply.text, reply.degraded.step }, { "big", 3 })
end)

test("a fault of a rule's own is raised as it is", function(t)
  local chain = sluice.fallback { failing(t, "server"), function() local x = nil; return x.y end, function() return "c" end }
  t.raises("attempt to index a nil value", asking(chain))
end)

test("a rule that raises a failure of the world is a step that failed", function(t)
  local chain = sluice.fallback { function() errors.raise { kind = "overloaded", message = "mine" } end,
    function() return "canned" end }
  t.eq(chain:ask("x").degraded.why, "overloaded")
end)

test("a rule that raises what it was told does not list it twice", function(t)
  local err = t.raises("server", asking(sluice.fallback { failing(t, "server"), function(_, why) error(why.err, 0) end }))
  t.eq(err.also, nil)
end)

-- on ----------------------------------------------------------------------------------------------------

test("on: a step is entered for its reasons only", function(t)
  local only = t.model { { text = "only" } }
  local chain = sluice.fallback { failing(t, "server"), { only, on = { "rate_limited" } }, function() return "c" end }
  t.eq({ chain:ask("x").text, only.calls }, { "c", 0 })
  chain = sluice.fallback { failing(t, "rate_limited"), { only, on = { "rate_limited" } }, function() return "c" end }
  t.eq(chain:ask("x").text, "only")
end)

test("on: holds behind a rule that declined, too", function(t)
  local only = t.model { { text = "only" } }
  local chain = sluice.fallback { failing(t, "server"), function() end, { only, on = { "rate_limited" } },
    function() return "c" end }
  t.eq({ chain:ask("x").text, only.calls }, { "c", 0 })
end)

test("on: slow is a reason like others", function(t)
  local slow = t.model { { wait = 9, text = "late" } }
  local limited = t.model { { text = "limited" } }
  local reply = sluice.fallback { { slow, after = 2 }, { limited, on = { "rate_limited" } },
    { function() return "busy" end, on = { "slow" } } }:ask "x"
  t.eq({ reply.text, limited.calls, t.clock() }, { "busy", 0, 2 })
end)

test("on: when no step is entered for slowness, there is no hedge", function(t)
  local reply = sluice.fallback { { t.model { { wait = 9, text = "late" } }, after = 2 },
    { t.model { {} }, on = { "server" } } }:ask "x"
  t.eq({ reply.text, t.clock() }, { "late", 9 })
end)

-- What rules return ---------------------------------------------------------------------------------------

test("a rule may name a model, and the request for it", function(t)
  local small = t.model { { text = "from small" } }
  local chain = sluice.fallback { failing(t, "server"), function(req)
    req.max_tokens = 7
    return small, req
  end }
  local reply = chain:ask { prompt = "x" }
  t.eq({ reply.text, small.requests[1].max_tokens, reply.degraded.step }, { "from small", 7, 2 })
  local stream <close> = chain:stream "x"
  t.eq(stream:reply().text, "from small")
  t.eq(small.requests[2].stream, true)
end)

test("a rule may return a table with a text, a reply, a stream", function(t)
  local small = t.model { { text = "small" } }
  for _, rule in ipairs { function() return { text = "small" } end, function() return small:ask "y" end,
    function() return small:stream "y" end } do
    local chain = sluice.fallback { failing(t, "server"), rule }
    local reply = chain:ask "x"
    t.eq({ reply.text, reply.finish_reason, reply.degraded.step, #reply.tool_calls }, { "small", "stop", 2, 0 })
    local stream <close> = chain:stream "x"
    local parts = {}
    for text in stream:text() do parts[#parts + 1] = text end
    t.eq(table.concat(parts), "small")
    t.eq(stream:reply().degraded.why, "server")
  end
end)

test("a reply that a rule keeps for itself is not written on", function(t)
  local kept = t.model { { text = "kept" } }:ask "x"
  local chain = sluice.fallback { failing(t, "server"), function() return kept end }
  t.eq(chain:ask("x").degraded.step, 2)
  t.eq(kept.degraded, nil)
end)

test("a rule that returns something else is told so", function(t)
  for _, value in ipairs { 7, true, { 1 } } do
    t.raises("returned .*; a rule returns text, a reply, a stream, a model to ask, or nil",
      asking(sluice.fallback { function() return value end }))
  end
end)

-- check ---------------------------------------------------------------------------------------------------

test("check: a refused answer counts as a failure, and is accounted", function(t)
  local chain = sluice.fallback {
    { t.model { { text = "no json" } }, check = function(r) return r.text:find "^{", "not JSON" end },
    t.model { { text = "{}" } },
  }
  local reply = chain:ask "x"
  t.eq({ reply.text, reply.degraded.why }, { "{}", "protocol" })
  t.eq({ reply.attempts[1].code, reply.attempts[1].kind }, { "refused_by_check", "protocol" })
  t.match(reply.attempts[1].message, "not JSON")
  t.ok(reply.attempts[1].usage.output_tokens)
end)

test("check: streams too, before anything is handed out", function(t)
  local chain = sluice.fallback { t.model { { text = "bad" } }, t.model { { text = "good" } },
    check = function(r) return r.text == "good" end }
  local seen = {}
  for text in chain:stream("x"):text() do seen[#seen + 1] = text end
  t.eq(table.concat(seen), "good")
end)

test("check: what rules return is checked, streams of theirs as well", function(t)
  local small = t.model { { text = "bad" } }
  local chain = sluice.fallback { function() return small:stream "x" end, function() return "good" end,
    check = function(r) return r.text == "good" end }
  t.eq(chain:ask("x").text, "good")
  t.eq(chain:stream("x"):reply().text, "good")
end)

-- Chains as steps -------------------------------------------------------------------------------------------

test("a chain as a step: its degraded answer is within the outer's", function(t)
  local inner = sluice.fallback { failing(t, "server"), t.model { { text = "b" } }, name = "inner" }
  local reply = sluice.fallback { failing(t, "overloaded"), inner }:ask "x"
  t.eq({ reply.text, reply.degraded.step, reply.degraded.why }, { "b", 2, "overloaded" })
  t.eq({ reply.degraded.within.step, reply.degraded.within.why }, { 2, "server" })
  t.eq({ #reply.attempts, reply.attempts[2].step, reply.attempts[2].name }, { 3, 2, "inner > mock/server" })
end)

test("a chain that answers at once as a step: whose answer it was is told", function(t)
  local inner = sluice.fallback { t.model { { wait = 1, text = "a" }, name = "a" }, name = "inner" }
  for _, chain in ipairs { sluice.fallback { inner }, sluice.fallback { { inner, after = 5 }, function() return "c" end } } do
    local list = chain:ask("x").attempts
    t.eq({ #list, list[1].name, list[1].step, list[1].at, list[1].elapsed }, { 1, "inner > mock/a", 1, 0, 1 })
    t.ok(list[1].usage.output_tokens)
  end
end)

test("a degraded chain as the first step is still degraded", function(t)
  local inner = sluice.fallback { failing(t, "server"), t.model { { text = "b" } } }
  t.eq(sluice.fallback { inner, function() return "c" end }:ask("x").degraded.why, "server")
  local stream <close> = sluice.fallback { inner, function() return "c" end }:stream "x"
  t.eq(stream.degraded.why, "server")
  t.eq(stream:reply().degraded.why, "server")
end)

test("a chain that fails as a step: all its errors are in also, all its attempts are told", function(t)
  local inner = sluice.fallback { failing(t, "server"), failing(t, "network") }
  local err = t.raises("server", asking(sluice.fallback { inner, failing(t, "overloaded") }))
  local kinds = {}
  for i, other in ipairs(err.also) do kinds[i] = other.kind end
  t.eq(kinds, { "network", "overloaded" })
  t.eq(#err.attempts, 3)
end)

test("a chain hedges inside of a hedged step", function(t)
  local inner = sluice.fallback { { t.model { { wait = 20 } }, after = 2 }, t.model { { wait = 1, text = "inner" } } }
  local reply = sluice.fallback { { inner, after = 5 }, t.model { { text = "outer" } } }:ask "x"
  t.eq({ reply.text, t.clock(), reply.degraded.why }, { "inner", 3, "slow" })
end)

test("an ask through a hedged chain moves on where a stream would be rescued", function(t)
  local inner = sluice.fallback { t.model { { text = "one two", cut = 3 } }, rescue = function() return " (shortened)" end }
  local chain = sluice.fallback { { inner, after = 5 }, t.model { { text = "whole" } } }
  t.eq(chain:ask("x").text, "whole")
  t.eq(chain:stream("x"):reply().text, "one (shortened)")
end)

test("the patience of the outer step holds inside", function(t)
  local a = t.model { { status = 429, retry_after = 20 }, { text = "a" }, retry = {} }
  local reply = sluice.fallback { { sluice.fallback { a }, after = 5 }, function() return "c" end }:ask "x"
  t.eq({ reply.text, t.clock() }, { "c", 0 })
end)

-- Time and cancellation (failsafe-go) -----------------------------------------------------------------------

test("a deadline over the chain is not the chain's to mend", function(t)
  local a, b = t.model { { wait = 50 } }, t.model { { text = "b" } }
  local err = t.raises("timeout", task.deadline, 10, asking(sluice.fallback { a, b }))
  t.eq({ err.phase, t.clock(), b.calls, a.cancelled, a.closed }, { "deadline", 10, 0, 1, 0 })
  t.raises("timeout", task.deadline, 10, function() sluice.fallback { a, b }:stream "x" end)
  t.eq(a.closed, 1)
end)

test("a deadline that a rule sets itself is a failure like others", function(t)
  local a = t.model { { wait = 50, text = "a" } }
  local chain = sluice.fallback { function() return task.deadline(2, a.ask, a, "x") end, function() return "c" end }
  local reply = chain:ask "x"
  t.eq({ reply.text, reply.degraded.why, t.clock() }, { "c", "timeout", 2 })
end)

test("nested: the inner timeout comes first and leads on, the outer one ends it all", function(t)
  local function slow() return t.model { { wait = 50 }, timeout = { first_token = 2 } } end
  local chain = sluice.fallback { slow(), slow(), slow(), slow() }
  local err = t.raises("timeout", task.deadline, 5, asking(chain))
  t.eq({ err.phase, t.clock() }, { "deadline", 5 })
end)

test("nested: of two deadlines the shorter one counts", function(t)
  t.raises("timeout", task.deadline, 2, task.deadline, 10, asking(sluice.fallback { t.model { { wait = 50 } } }))
  t.eq(t.clock(), 2)
  t.raises("timeout", task.deadline, 10, task.deadline, 2, asking(sluice.fallback { t.model { { wait = 50 } } }))
  t.eq(t.clock(), 4)
end)

local function cancelled_at(seconds, f)
  task.group(function(group)
    local handle = group:spawn(f)
    task.sleep(seconds)
    handle:cancel()
  end)
end

test("cancelled while a retry is pending", function(t)
  local a, b = t.model { { status = 503, retry_after = 4 }, { text = "a" }, retry = {} }, t.model { { text = "b" } }
  cancelled_at(3, asking(sluice.fallback { a, b }))
  t.eq({ t.clock(), a.calls, b.calls }, { 3, 1, 0 })
end)

test("cancelled in a fallback function", function(t)
  local left
  cancelled_at(3, asking(sluice.fallback { failing(t, "server"), function()
    local guard <close> = setmetatable({}, { __close = function() left = t.clock() end }) -- luacheck: ignore
    task.sleep(60)
    return "never"
  end, function() return "c" end }))
  t.eq({ left, t.clock() }, { 3, 3 })
end)

test("cancelled while waiting for a place", function(t)
  local a = t.model { { wait = 20, text = "a" }, limit = { concurrency = 1 } }
  local b = t.model { { text = "b" } }
  task.group(function(group)
    group:spawn(function() a:ask "first" end)
    cancelled_at(3, asking(sluice.fallback { a, b }))
    t.eq({ t.clock(), a.calls, b.calls }, { 3, 1, 0 })
  end)
  t.eq({ a:ask("again").text, t.clock() }, { "a", 40 }) -- and the place is there
end)

test("a deadline while waiting for a place", function(t)
  local a = t.model { { wait = 20, text = "a" }, limit = { concurrency = 1 } }
  task.group(function(group)
    group:spawn(function() a:ask "first" end)
    t.raises("timeout", task.deadline, 3, asking(sluice.fallback { a }))
    t.eq(t.clock(), 3)
  end)
end)

-- Being told --------------------------------------------------------------------------------------------------

test("a refused key is logged once, and the chain gets along", function(t)
  local lines = {}
  sluice.log.configure { write = function(line) lines[#lines + 1] = line end }
  local restore <close> = setmetatable({}, { __close = function() sluice.log.configure { write = false } end }) -- luacheck: ignore
  local chain = sluice.fallback { failing(t, "auth"), function() return "c" end }
  for _ = 1, 3 do t.eq(chain:ask("x").degraded.why, "auth") end
  t.eq(#lines, 1)
  t.match(lines[1], "credential was refused.*mock/auth")
end)

test("retries of a model are told one by one", function(t)
  local a = t.model { { err = "server" }, { err = "server" }, { text = "a" }, retry = {} }
  local list = sluice.fallback { a }:ask("x").attempts
  t.eq({ #list, list[1].kind, list[2].kind, list[3].kind }, { 3, "server", "server", nil })
  t.eq({ list[1].at, list[1].step, list[3].step }, { 0, 1, 1 })
  t.ok(list[3].at > list[2].at and list[2].at > 0)
  t.near(list[3].at, t.clock(), 1e-3)
end)

test("the time of the whole is the chain's, not the winner's", function(t)
  local a, b = t.model { { wait = 3, err = "server" } }, t.model { { wait = 2, text = "b" } }
  local reply = sluice.fallback { a, b }:ask "x"
  t.eq({ reply.elapsed, reply.ttft }, { 5, 5 })
  local stream <close> = sluice.fallback { a, b }:stream "x"
  t.eq(stream.ttft, 5)
  t.eq({ stream:reply().ttft, stream:reply().elapsed }, { 5, 5 })
end)

-- Wrong arguments ---------------------------------------------------------------------------------------------

test("wrong chains are refused where they are written", function(t)
  local m = t.model { {} }
  local function refused(pattern, chain) t.raises("fallback_test%.lua:%d+: .*" .. pattern, sluice.fallback, chain) end
  refused("expected a list of steps, got a string", "x")
  refused("the list of steps is empty", {})
  refused("unknown option 'rescu' %(did you mean 'rescue'%?%)", { m, rescu = print })
  refused("option 'rescue' must be a function", { m, rescue = "text" })
  refused("option 'hold' must be an integer", { m, hold = "much" })
  refused("step 1: unknown field of the step 'afer' %(did you mean 'after'%?%)", { { m, afer = 5 } })
  refused("step 1: field of the step 'after' must be a number of seconds", { { m, after = "5" } })
  refused("step 1: field of the step 'on%[1%]' must be .*rate_limited.*did you mean 'rate_limited'", { { m, on = { "rate_limit" } } })
  refused("step 1: .*'on%[1%]'", { { m, on = { "cancelled" } } })
  refused("step 1: its first element is nil", { { after = 5 } })
  refused("step 2 is nil: a name that was never set%?", { m, nil, m })
  refused("step 1 must be a model, a function", { 7 })
  refused("step 1: .*'%[1%]' must be a model, a fallback or a function", { { "big" } })
end)

test("a chain prints as its steps", function(t)
  t.eq(tostring(sluice.fallback { t.model { {}, name = "a" }, { t.model { {} }, name = "plan b" }, function() end }),
    "fallback (mock/a → plan b → step 3)")
end)
