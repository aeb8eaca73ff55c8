-- `attempts` of a chain's stream: while it is open, and after each of its ends.
local sluice = require "sluice"
local test, task = sluice.test, sluice.task

local TEXT = "one two three four five six"

local function said(list)
  local words = {}
  for i, entry in ipairs(list) do
    words[i] = ("%s %s"):format(entry.step, entry.kind or entry.cancelled and "cancelled" or "answered")
  end
  return words
end

local function two(t, answer, more)
  local a, b = t.model { { wait = 2, err = "server" }, name = "a" }, t.model { answer, name = "b" }
  local chain = { a, b }
  for key, value in pairs(more or {}) do chain[key] = value end
  return sluice.fallback(chain), b
end

test("open: who was asked before; who is being read is not over yet", function(t)
  local chain = two(t, { text = TEXT, gap = 1 })
  local stream <close> = chain:stream "x"
  t.eq(said(stream.attempts), { "1 server" })
  stream:text()()
  t.eq(said(stream.attempts), { "1 server" })
end)

for _, method in ipairs { "text", "events" } do
  test("read to the end by " .. method .. ": who answered, its times and usage, without a word of reply()", function(t)
    local chain = two(t, { wait = 1, text = TEXT, gap = 1 })
    local stream = chain:stream "x"
    for _ in stream[method](stream) do end -- luacheck: ignore 542
    local list = stream.attempts
    t.eq(said(list), { "1 server", "2 answered" })
    t.eq({ list[2].at, list[2].elapsed, list[2].model, list[2].name }, { 2, 6, "b", "mock/b" })
    t.ok(list[2].usage.output_tokens)
    t.eq(stream:reply().attempts, list) -- and nothing twice
    t.eq(#list, 2)
  end)
end

test("reply() and then the loop, or the loop in the middle: once", function(t)
  local chain = two(t, { text = TEXT, gap = 1 })
  local stream = chain:stream "x"
  t.eq(stream:reply().text, TEXT)
  for _ in stream:events() do end -- luacheck: ignore 542
  t.eq(said(stream.attempts), { "1 server", "2 answered" })
  stream = chain:stream "x"
  stream:events()()
  stream:reply()
  stream:close()
  t.eq(said(stream.attempts), { "1 server", "2 answered" })
end)

test("left in the middle: it was asked, and stopped", function(t)
  local chain, b = two(t, { wait = 1, text = TEXT, gap = 1 })
  local stream = chain:stream "x"
  for _ in stream:text() do break end -- luacheck: ignore 512
  t.eq({ said(stream.attempts), b.closed }, { { "1 server", "2 cancelled" }, 1 })
  t.eq({ stream.attempts[2].at, stream.attempts[2].elapsed, stream.attempts[2].provider }, { 2, 1, "mock" })
  stream:close()
  t.eq(#stream.attempts, 2)
end)

test("closed without a look, dropped at the end of a block: the same", function(t)
  local kept
  do
    local stream <close> = two(t, { text = TEXT, gap = 1 }):stream "x"
    kept = stream.attempts
  end
  t.eq(said(kept), { "1 server", "2 cancelled" })
  local stream = two(t, { text = TEXT, gap = 1 }):stream "x"
  stream:close()
  t.eq(said(stream.attempts), { "1 server", "2 cancelled" })
end)

test("broken: the failure, and no second entry when it is closed", function(t)
  local stream = two(t, { text = TEXT, cut = 7 }):stream "x"
  local err = t.raises("interrupted", function() for _ in stream:text() do end end) -- luacheck: ignore 542
  stream:close()
  t.eq({ said(stream.attempts), said(err.attempts) },
    { { "1 server", "2 interrupted" }, { "1 server", "2 interrupted" } })
end)

test("rescued: the break, then the rescue; the same however it is read", function(t)
  for _, method in ipairs { "text", "events", "reply" } do
    local stream = two(t, { text = TEXT, cut = 7 }, { rescue = function() return "!" end }):stream "x"
    if method == "reply" then stream:reply() else for _ in stream[method](stream) do end end -- luacheck: ignore 542
    t.eq(said(stream.attempts), { "1 server", "2 interrupted", "rescue answered" })
  end
end)

test("rescued by a stream that is left: that one was stopped", function(t)
  local c = t.model { { text = TEXT, gap = 1 } }
  local stream = two(t, { text = TEXT, cut = 7 }, { rescue = function() return c:stream "y" end }):stream "x"
  for event in stream:events() do
    if event.type == "switch" then break end
  end
  t.eq({ said(stream.attempts), c.closed }, { { "1 server", "2 interrupted", "rescue cancelled" }, 1 })
end)

test("swapped unseen: the break, then who took its place", function(t)
  local a = t.model { { tool = { name = "f", arguments = { a = 1 } }, cut = 3 } }
  local stream = sluice.fallback { a, t.model { { text = "b" } } }:stream "x"
  for _ in stream:text() do end -- luacheck: ignore 542
  t.eq(said(stream.attempts), { "1 interrupted", "2 answered" })
end)

test("a chain inside, read or left", function(t)
  local function outer() return sluice.fallback { two(t, { text = TEXT, gap = 1 }), name = "outer" } end
  local stream = outer():stream "x"
  for _ in stream:text() do end -- luacheck: ignore 542
  t.eq(said(stream.attempts), { "1 server", "1 answered" })
  t.match(stream.attempts[2].name, "fallback > mock/b")
  stream = outer():stream "x"
  for _ in stream:text() do break end -- luacheck: ignore 512
  t.eq(said(stream.attempts), { "1 server", "1 cancelled" })
end)

test("left after retries: those are told as well", function(t)
  local a = t.model { { err = "server" }, { status = 429, retry_after = 1 }, { text = TEXT, gap = 1 }, retry = {} }
  local stream = sluice.fallback { a, function() return "c" end }:stream "x"
  for _ in stream:text() do break end -- luacheck: ignore 512
  local list = stream.attempts
  t.eq(said(list), { "1 server", "1 rate_limited", "1 cancelled" })
  t.ok(list[3].waited >= 1 and list[3].at >= list[3].waited, list[3].at)
end)

test("held back and left: once, too", function(t)
  local stream = two(t, { text = TEXT, gap = 1 }, { hold = 8 }):stream "x"
  for _ in stream:text() do break end -- luacheck: ignore 512
  t.eq(said(stream.attempts), { "1 server", "2 cancelled" })
end)

test("two that answer in the same moment: the other one's answer was paid for, and is told", function(t)
  local a, b = t.model { { wait = 6, text = "a" }, name = "a" }, t.model { { wait = 1, text = "b" }, name = "b" }
  local list = sluice.fallback { { a, after = 5 }, b }:ask("x").attempts
  t.eq(#list, 2)
  local loser = list[1].cancelled and list[1] or list[2]
  t.eq({ loser.cancelled, loser.kind, t.clock() }, { true, nil, 6 })
end)

test("a hundred calls at once: nobody's attempts are another's", function(t)
  local chain = sluice.fallback { { t.model { function(req)
    local n = tonumber(req.messages[1].content)
    return n % 3 == 0 and { err = "server", wait = 1 } or { wait = 0.5 + n % 7, text = tostring(n) }
  end, limit = { concurrency = 200 }, breaker = false }, after = 5 }, function(req) return "rule " .. req.prompt end }
  local list = {}
  for i = 1, 100 do list[i] = i end
  for i, reply in ipairs(task.map(list, function(n) return chain:ask(tostring(n)) end, { concurrency = 100 })) do
    local slow, failed = 0.5 + i % 7 > 5, i % 3 == 0
    t.eq(reply.text, (failed or slow) and "rule " .. i or tostring(i))
    t.eq(said(reply.attempts), failed and { "1 server", "2 answered" } or slow and { "1 cancelled", "2 answered" }
      or { "1 answered" })
  end
end)
