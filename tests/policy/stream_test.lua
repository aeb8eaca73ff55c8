-- Streams of chains: the commit point, rescue, holding back, what must never surface.
local sluice = require "sluice"
local test, task, errors = sluice.test, sluice.task, sluice.errors

local function read(stream)
  local parts = {}
  local ok, err = pcall(function()
    for text in stream:text() do parts[#parts + 1] = text end
  end)
  return table.concat(parts), not ok and err or nil
end

local function events(stream)
  local list = {}
  local ok, err = pcall(function()
    for event in stream:events() do list[#list + 1] = event end
  end)
  return list, not ok and err or nil
end

local function kinds(list)
  local names = {}
  for i, event in ipairs(list) do names[i] = event.type end
  return table.concat(names, " ")
end

-- Before the commit -----------------------------------------------------------------------------------------

for name, answer in pairs {
  ["a status"] = { err = "server" }, ["headers, then a cut"] = { cut = 0 }, ["headers, then silence"] = { stall = 0 },
  ["headers, then no JSON"] = { broken = 0 }, ["an empty answer that is filtered away"] = { text = "", cut = 0 },
  ["a page"] = { err = "protocol" },
} do
  test("before the first content everything moves on: " .. name, function(t)
    local a = t.model { answer, timeout = { first_token = 3 } }
    local stream <close> = sluice.fallback { a, t.model { { text = "b" } } }:stream "x"
    t.eq(stream.degraded.step, 2)
    local text, err = read(stream)
    t.eq({ text, err }, { "b" })
  end)
end

test("the stream says at once that it is degraded, and the reply says it, too", function(t)
  local a = t.model { { wait = 9 } }
  local stream <close> = sluice.fallback { { a, after = 5 }, t.model { { wait = 1, text = "b" }, name = "b" } }:stream "x"
  t.eq({ t.clock(), stream.model, stream.degraded.why, stream.degraded.from }, { 6, "b", "slow", a.name })
  t.eq({ a.cancelled, a.closed }, { 1, 1 }) -- before the winner is handed out
  local reply = stream:reply()
  t.eq({ reply.degraded.step, reply.text }, { 2, "b" })
  t.eq({ #reply.attempts, reply.attempts[1].cancelled, reply.attempts[2].usage ~= nil }, { 2, true, true })
end)

test("thinking commits: a model that thinks is not silent", function(t)
  local a = t.model { { wait = 2, thinking = "hm", text = "done", gap = 1 } }
  local b = t.model { { text = "b" } }
  local stream <close> = sluice.fallback { { a, after = 5 }, b }:stream "x"
  t.eq({ t.clock(), b.calls }, { 2, 0 })
  t.match(kinds(events(stream)), "^thinking text")
end)

test("an answer that is empty but whole is an answer", function(t)
  local stream <close> = sluice.fallback { t.model { { text = "" } }, t.model { { text = "b" } } }:stream "x"
  t.eq({ (read(stream)), stream:reply().finish_reason, stream:reply().degraded }, { "", "stop", nil })
end)

-- After the commit ------------------------------------------------------------------------------------------

for name, answer in pairs {
  cut = { text = "one two three", cut = 7 }, silence = { text = "one two three", stall = 7 },
  ["no JSON"] = { text = "one two three", broken = 7 },
} do
  test("after it nothing is automatic, the other model is not asked: " .. name, function(t)
    local b = t.model { { text = "b" } }
    local stream <close> = sluice.fallback { t.model { answer, timeout = { idle = 3 } }, b }:stream "x"
    local text, err = read(stream)
    t.eq({ text, err.kind, err.partial, b.calls }, { "one two", "interrupted", "one two", 0 })
    t.eq({ #err.attempts, err.attempts[1].kind, err.attempts[1].step }, { 1, "interrupted", 1 })
    t.raises("interrupted", stream.reply, stream) -- and it stays so
    t.raises("interrupted", stream.text, stream)
  end)
end

test("what failed before the commit is in also, and among the attempts", function(t)
  local stream <close> = sluice.fallback { t.model { { err = "overloaded" } },
    t.model { { text = "one two", cut = 3 } } }:stream "x"
  local _, err = read(stream)
  t.eq({ err.kind, #err.also, err.also[1].kind, #err.attempts }, { "interrupted", 1, "overloaded", 2 })
end)

test("an ask moves on after the first content, for nobody has seen it", function(t)
  local a, b = t.model { { text = "one two three", cut = 7 } }, t.model { { text = "whole" } }
  t.eq(sluice.fallback { { a, after = 5 }, b }:ask("x").text, "whole")
  t.eq(sluice.fallback { a, b }:ask("x").text, "whole")
end)

-- Rescue ------------------------------------------------------------------------------------------------------

test("rescue: a text is the end of the answer", function(t)
  local asked
  local chain = sluice.fallback { t.model { { text = "one two three", cut = 7 }, name = "a" },
    rescue = function(req, err) asked = { req.prompt, err.kind, err.partial } return " [shortened]" end }
  local stream <close> = chain:stream "x"
  t.eq((read(stream)), "one two [shortened]")
  t.eq(asked, { "x", "interrupted", "one two" })
  local reply = stream:reply()
  t.eq({ reply.text, reply.finish_reason, reply.model }, { "one two [shortened]", "rescued", "a" })
  t.eq({ reply.degraded.step, reply.degraded.why, reply.cause.kind }, { "rescue", "interrupted", "interrupted" })
  t.eq({ #reply.attempts, reply.attempts[1].kind, reply.attempts[2].step }, { 2, "interrupted", "rescue" })
end)

test("rescue: the events end with finish, and there is no switch for a text", function(t)
  local chain = sluice.fallback { t.model { { text = "one two", cut = 3 } }, rescue = function() return "!" end }
  local list, err = events(chain:stream "x")
  t.eq({ kinds(list), list[#list].reason, err }, { "text text finish", "rescued" })
end)

test("rescue: a stream is spliced behind a switch", function(t)
  local b = t.model { { text = " three" }, name = "b" }
  local chain = sluice.fallback { t.model { { text = "one two, cut off", cut = 7 }, name = "a" },
    rescue = function(_, err) return b:stream { prompt = "go on: " .. err.partial } end }
  local stream <close> = chain:stream "x"
  local list, err = events(stream)
  t.eq({ kinds(list), err }, { "text switch text usage finish" })
  t.eq({ list[2].from, list[2].to, list[2].at }, { "a", "b", 7 })
  local reply = stream:reply()
  t.eq({ reply.text, reply.finish_reason, reply.model }, { "one two three", "stop", "b" })
  t.eq({ reply.degraded.why, reply.degraded.from, stream.degraded.step }, { "interrupted", "a", "rescue" })
  t.eq(b.closed, 1)
end)

test("rescue: a reply is spliced like a stream", function(t)
  local b = t.model { { text = " three" }, name = "b" }
  local chain = sluice.fallback { t.model { { text = "one two", cut = 7 } }, rescue = function() return b:ask "y" end }
  local list = events(chain:stream "x")
  t.eq({ kinds(list), list[3].text }, { "text switch text usage finish", " three" })
end)

test("rescue: reply() alone is rescued as well", function(t)
  local chain = sluice.fallback { t.model { { text = "one two", cut = 3 } }, rescue = function() return "!" end }
  t.eq(chain:stream("x"):reply().text, "one!")
end)

test("rescue: nil raises what broke it", function(t)
  local chain = sluice.fallback { t.model { { text = "one two", cut = 3 } }, rescue = function() end }
  local text, err = read(chain:stream "x")
  t.eq({ text, err.kind, err.partial }, { "one", "interrupted", "one" })
end)

test("rescue: once per call; the second break is raised with all the text there was", function(t)
  local asked = 0
  local b = t.model { { text = " three four", cut = 6 } }
  local chain = sluice.fallback { t.model { { text = "one two", cut = 7 } },
    rescue = function() asked = asked + 1 return b:stream "y" end }
  local text, err = read(chain:stream "x")
  t.eq({ text, err.kind, err.partial, asked }, { "one two three", "interrupted", "one two three", 1 })
  t.eq({ #err.attempts, err.attempts[2].step, err.attempts[2].kind }, { 2, "rescue", "interrupted" })
  local again <close> = chain:stream "x"
  read(again)
  t.eq(asked, 2)
end)

test("rescue: when it fails itself, the break is raised, its failure in also", function(t)
  local b = t.model { { err = "overloaded" } }
  local chain = sluice.fallback { t.model { { text = "one two", cut = 3 } }, rescue = function() return b:stream "y" end }
  local _, err = read(chain:stream "x")
  t.eq({ err.kind, err.also[1].kind, err.partial, #err.attempts }, { "interrupted", "overloaded", "one", 2 })
end)

test("rescue: a fault of its own is raised as it is", function(t)
  local chain = sluice.fallback { t.model { { text = "one two", cut = 3 } }, rescue = function() local x = nil; return x.y end }
  local _, err = read(chain:stream "x")
  t.match(tostring(err), "attempt to index a nil value")
  chain = sluice.fallback { t.model { { text = "one two", cut = 3 } }, rescue = function() return 7 end }
  _, err = read(chain:stream "x")
  t.match(tostring(err), "rescue must return text, a reply, a stream, or nil")
end)

test("rescue: is not asked for what failed before the commit, nor for a content filter", function(t)
  local asked = 0
  local function rescue() asked = asked + 1 return "!" end
  t.raises("server", function() sluice.fallback { t.model { { err = "server" } }, rescue = rescue }:stream "x" end)
  local chain = sluice.fallback { t.model { { text = "one", err = "filtered" } }, rescue = rescue }
  local _, err = read(chain:stream "x")
  t.eq({ err.kind, asked }, { "filtered", 0 })
end)

test("rescue: a cancelled reader is not rescued", function(t)
  local asked = 0
  local a = t.model { { text = "one two three", gap = 5 } }
  local chain = sluice.fallback { a, rescue = function() asked = asked + 1 return "!" end }
  t.raises("timeout", task.deadline, 2, function() read(chain:stream "x") task.sleep(60) end)
  t.eq({ asked, a.cancelled, t.clock() }, { 0, 1, 2 })
end)

test("rescue: what it does to the request stays its own", function(t)
  local req = { prompt = "x" }
  local chain = sluice.fallback { t.model { { text = "one two", cut = 3 } }, rescue = function(r) r.prompt = "y" return "!" end }
  read(chain:stream(req))
  t.eq(req.prompt, "x")
end)

test("rescue: of a chain inside is asked first, the outer one not at all", function(t)
  local inner = sluice.fallback { t.model { { text = "one two", cut = 3 } }, rescue = function() return " inner" end }
  local chain = sluice.fallback { inner, rescue = function() return " outer" end }
  local reply = chain:stream("x"):reply()
  t.eq({ reply.text, reply.finish_reason, reply.degraded.step }, { "one inner", "rescued", "rescue" })
end)

test("rescue: the outer chain's when the inner one has none", function(t)
  local chain = sluice.fallback { sluice.fallback { t.model { { text = "one two", cut = 3 } } },
    rescue = function(_, err) return " after " .. err.partial end }
  t.eq(chain:stream("x"):reply().text, "one after one")
end)

-- rule.continue -------------------------------------------------------------------------------------------------

test("continue: the other model is given the beginning as its own", function(t)
  local b = t.model { { text = " three" }, name = "b" }
  local chain = sluice.fallback { t.model { { text = "one two, and so on", cut = 7 } }, rescue = sluice.rule.continue(b) }
  t.eq(chain:stream({ prompt = "count", system = "be brief" }):reply().text, "one two three")
  local messages = b.requests[1].messages
  t.eq({ #messages, messages[1].role, messages[2].content, messages[3].role, messages[3].content },
    { 3, "system", "count", "assistant", "one two" })
end)

test("continue: one that rejects such a beginning is asked in words", function(t)
  local b = t.model { { status = 400, body = { error = { message = "prefill is not supported", code = "invalid" } } },
    { text = " three" } }
  local chain = sluice.fallback { t.model { { text = "one two, and so on", cut = 7 } }, rescue = sluice.rule.continue(b) }
  local stream <close> = chain:stream "count"
  t.eq((read(stream)), "one two three")
  local messages = b.requests[2].messages
  t.eq({ #messages, messages[2].content, messages[3].role }, { 3, "one two", "user" })
  t.match(messages[3].content, "Go on exactly where it ends")
end)

test("continue: any other failure of it leaves the break as it was", function(t)
  local b = t.model { { err = "server" } }
  local chain = sluice.fallback { t.model { { text = "one two", cut = 3 } }, rescue = sluice.rule.continue(b) }
  local _, err = read(chain:stream "x")
  t.eq({ err.kind, err.also[1].kind, b.calls }, { "interrupted", "server", 1 })
end)

test("continue: without a word delivered the question is simply asked again", function(t)
  local b = t.model { { text = "all of it" } }
  local chain = sluice.fallback { t.model { { thinking = "hm", text = "one", cut = 0 } }, rescue = sluice.rule.continue(b) }
  local stream <close> = chain:stream "x"
  t.eq((read(stream)), "all of it")
  t.eq(#b.requests[1].messages, 1)
end)

-- hold ------------------------------------------------------------------------------------------------------------

test("hold: a bad start is swapped as if it had never been", function(t)
  local a = t.model { { text = "one two three", cut = 7 } }
  local stream <close> = sluice.fallback { { a, hold = 20 }, t.model { { text = "whole" } } }:stream "x"
  t.eq({ (read(stream)), stream.degraded.why, a.closed }, { "whole", "interrupted", 1 })
end)

test("hold: what was held back is handed out first, and nothing twice", function(t)
  local a = t.model { { text = "one two three four five six", gap = 1 } }
  local stream <close> = sluice.fallback { { a, hold = 10 }, t.model { {} } }:stream "x"
  t.ok(t.clock() >= 1 and t.clock() < 6)
  t.eq((read(stream)), "one two three four five six")
  t.eq(stream:reply().text, "one two three four five six")
  local list = events(sluice.fallback { { a, hold = 10 }, t.model { {} } }:stream "x")
  t.match(kinds(list), "^text text .*text usage finish$")
end)

test("hold: characters are counted, not bytes", function(t)
  local a = t.model { { text = "你好世界再见", gap = 1 } }
  local stream <close> = sluice.fallback { { a, hold = 3 } }:stream "x"
  t.eq(t.clock(), 2) -- three characters are nine bytes
  t.eq((read(stream)), "你好世界再见")
end)

test("hold: an answer shorter than that is handed out when it ends", function(t)
  local stream <close> = sluice.fallback { { t.model { { text = "short" } }, hold = 1000 } }:stream "x"
  t.eq({ (read(stream)), stream:reply().finish_reason }, { "short", "stop" })
end)

test("hold: silence while holding is hedged by nobody, for the step speaks; idle ends it", function(t)
  local a = t.model { { text = "one two three", stall = 3 }, timeout = { idle = 4 } }
  local stream <close> = sluice.fallback { { a, hold = 100, after = 2 }, t.model { { text = "b" } } }:stream "x"
  t.eq({ (read(stream)), stream.degraded.why, t.clock() }, { "b", "interrupted", 4 })
end)

test("hold: cancelled while holding, the stream is closed", function(t)
  local a = t.model { { text = "one two three four five six", gap = 5 } }
  t.raises("timeout", task.deadline, 7, function() sluice.fallback { { a, hold = 100 } }:stream "x" end)
  t.eq({ a.closed, a.cancelled }, { 1, 1 })
end)

-- Tool calls --------------------------------------------------------------------------------------------------------

local TOOL = { name = "weather", arguments = { city = "Wuhan", unit = "C" } }

test("a tool call comes whole", function(t)
  local stream <close> = sluice.fallback { { t.model { { tool = TOOL } }, after = 5 }, t.model { {} } }:stream "x"
  local list = events(stream)
  t.eq({ kinds(list), list[1].name, list[1].arguments.city }, { "tool_call usage finish", "weather", "Wuhan" })
end)

for _, after in ipairs { false, 5 } do
  test("half a tool call never surfaces; the next step answers" .. (after and " (hedged)" or ""), function(t)
    local a = t.model { { tool = TOOL, cut = 9 } }
    local chain = sluice.fallback { { a, after = after or nil }, t.model { { tool = TOOL } } }
    local stream <close> = chain:stream "x"
    local list, err = events(stream)
    t.eq({ kinds(list), err, list[1].arguments.unit }, { "tool_call usage finish", nil, "C" })
    t.eq({ stream.degraded.step, #stream:reply().tool_calls }, { 2, 1 })
    t.eq(chain:ask("x").tool_calls[1].arguments.city, "Wuhan")
  end)
end

test("half a tool call behind text that was delivered: interrupted, without the call", function(t)
  local a = t.model { { thinking = "hm", tool = TOOL, cut = 9 } }
  local stream <close> = sluice.fallback { a, t.model { { text = "b" } } }:stream "x"
  local list, err = events(stream)
  t.eq({ kinds(list), err.kind }, { "thinking", "interrupted" })
end)

-- Whose stream it is ---------------------------------------------------------------------------------------------------

test("a chain's stream outlives the groups it was made in", function(t)
  local a = t.model { { wait = 1, text = "one two three four", gap = 1 } }
  local rules = { { a, after = 5, hold = 4 }, t.model { {} }, rescue = function() end }
  local stream <close> = task.group(function() return sluice.fallback { sluice.fallback(rules) }:stream "x" end)
  task.sleep(1)
  t.eq(a.closed, 0)
  t.eq((read(stream)), "one two three four")
  t.eq(a.closed, 1)
end)

test("a loop that is left closes the stream", function(t)
  local a = t.model { { text = "one two three four five six", gap = 1 } }
  for _ in sluice.fallback { a, rescue = function() end }:stream("x"):text() do break end -- luacheck: ignore 512
  t.eq(a.closed, 1)
  do
    local stream <close> = sluice.fallback { { a, hold = 3 } }:stream "x" -- luacheck: ignore 211
  end
  t.eq(a.closed, 2)
end)

test("a reader that stops in the middle may ask for the rest", function(t)
  local a = t.model { { text = "one two three four five six", gap = 1 } }
  local stream <close> = sluice.fallback { a, rescue = function() end }:stream "x"
  local iterate = stream:events()
  t.eq(iterate().type, "text")
  t.eq(stream:reply().text, "one two three four five six")
  t.eq(iterate(), nil)
end)

test("a canned answer streams like any other", function(t)
  local stream <close> = sluice.fallback { t.model { { err = "server" } }, sluice.rule.canned "busy" }:stream "x"
  local list = events(stream)
  t.eq({ kinds(list), list[1].text, stream.degraded.step }, { "text finish", "busy", 2 })
  t.eq({ stream:reply().text, stream:reply().attempts[2].provider }, { "busy", "rule" })
end)

test("errors of sluice reach the reader with everything that was tried", function(t)
  local chain = sluice.fallback { t.model { { err = "server" }, retry = { attempts = 2 } }, t.model { { err = "overloaded" } } }
  local err = t.raises("server", chain.stream, chain, "x")
  t.ok(errors.is(err))
  t.eq({ #err.attempts, #err.also }, { 3, 1 })
end)

-- slow, but alive -------------------------------------------------------------------------------------------

test("a floor under the rate ends a stream that is slow, at the end of its window", function(t)
  local words = ("word "):rep(40)
  local a = t.model { { text = words, gap = 1 }, timeout = { min_rate = 5, min_rate_over = 4 } } -- about a token a second
  local got = {}
  local err = t.raises("interrupted", function()
    for text in a:stream("x"):text() do got[#got + 1] = text end
  end)
  t.eq({ err.phase, err.cause.phase, t.clock(), a.closed }, { "slow", "slow", 4, 1 })
  t.ok(err.message:find("fewer than 5 a second (timeout.min_rate)", 1, true), err.message)
  t.eq(err.partial, table.concat(got))
end)

test("one below what comes does nothing, window after window; nor does a reader who is slow", function(t)
  local words = ("wonderful "):rep(30)
  local a = t.model { { text = words, gap = 1 }, timeout = { min_rate = 1, min_rate_over = 4 } }
  t.eq(a:stream("x"):reply().text, words)
  local b = t.model { { text = "a b c d", gap = 0.1 }, timeout = { min_rate = 1, min_rate_over = 2 } }
  local n = 0
  for _ in b:stream("x"):text() do
    n = n + 1
    sluice.task.sleep(10)
  end
  t.ok(n > 2)
end)

test("a chain moves on from one: with rescue, the rest comes from elsewhere", function(t)
  local slow = t.model { { text = ("word "):rep(40), gap = 1 }, timeout = { min_rate = 5, min_rate_over = 4 } }
  local text = sluice.fallback { slow, rescue = function(_, err) return "[" .. err.phase .. "]" end }:stream("x"):reply().text
  t.ok(text:find "^word .*%[slow%]$", text)
end)
