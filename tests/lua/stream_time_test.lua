-- The timers of a model over real sockets: each by its kind and phase, what feeds it, what does not, and
-- that silence is not answered by asking again.
-- timeout: 120

local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local task = sluice.task

local SHORT = 0.15
local LONG = T.slow and 20 or 5 -- of the timers that must not strike

local HEAD = S.chunk '{"role":"assistant","content":""}'

-- A model that would ask three times if it might.
local function make(server, timeout, changes)
  local opts = { timeout = { connect = 3, first_token = LONG, idle = LONG, total = 4 * LONG },
    retry = { attempts = 3 } }
  for name, value in pairs(timeout) do opts.timeout[name] = value end
  for name, value in pairs(changes or {}) do opts[name] = value end
  return S.model(server, opts)
end

--- Plays to reply, text and events, at the same time; all must time out in that phase, asked once each.
local function times_out(t, play, timeout, phase, kind, changes)
  local server <close> = S.start(play)
  local model = make(server, timeout, changes)
  local ways = {
    function() model:stream("x"):reply() end,
    function() for _ in model:stream("x"):text() do end end, -- luacheck: ignore 542
    function() for _ in model:stream("x"):events() do end end, -- luacheck: ignore 542
  }
  task.map(ways, function(way)
    local from = task.now()
    local err = t.raises({ kind = kind or "timeout", phase = phase }, way)
    local took = task.now() - from
    t.ok(took >= SHORT - 0.01 and took < LONG, took)
    t.match(tostring(err), "timeout%." .. phase)
    if kind == "interrupted" then t.eq(err.cause.kind, "timeout") end
  end)
  t.eq(#server.seen, #ways, "asked once each")
  T.until_(function() return server.gone == #ways and server.active == 0 end)
end

local function play(...)
  local parts = { ... }
  return function(_, res)
    res:start(200, S.EVENTS)
    for _, part in ipairs(parts) do res:write(part) end
    S.stall()
  end
end

-- Writes `part` again and again, every millisecond or so.
local function drip(before, part, every)
  return function(_, res)
    res:start(200, S.EVENTS)
    res:write(before)
    while true do
      res:write(part)
      task.sleep(every or 0.002)
    end
  end
end

T.test("first_token: silence before the headers", function(t)
  times_out(t, function() S.stall() end, { first_token = SHORT }, "first_token")
end)

T.test("first_token: headers, and a role, are no content", function(t)
  times_out(t, play(), { first_token = SHORT }, "first_token")
  times_out(t, play(HEAD), { first_token = SHORT }, "first_token")
  times_out(t, play(S.A_START, S.A_OPEN), { first_token = SHORT }, "first_token", nil, { provider = "anthropic" })
end)

T.test("first_token: comments, pings, empty deltas, usage do not feed it", function(t)
  for _, part in ipairs { ": OPENROUTER PROCESSING\n\n", S.sse "{}", HEAD, S.USAGE, "data:\n\n", ":\n" } do
    times_out(t, drip("", part), { first_token = SHORT }, "first_token")
  end
  times_out(t, drip(S.A_START, S.A_PING), { first_token = SHORT }, "first_token", nil, { provider = "anthropic" })
end)

T.test("idle: silence after content", function(t)
  times_out(t, play(HEAD, S.text "so far"), { idle = SHORT }, "idle", "interrupted")
end)

T.test("idle: comments and pings do not feed it", function(t)
  times_out(t, drip(S.text "so far", ": ping\n\n"), { idle = SHORT }, "idle", "interrupted")
  times_out(t, drip(S.text "so far", ":\n"), { idle = SHORT }, "idle", "interrupted")
  times_out(t, drip(S.text "so far", S.sse "{}"), { idle = SHORT }, "idle", "interrupted")
  times_out(t, drip(S.A_START .. S.A_OPEN .. S.a_text "so far", S.A_PING), { idle = SHORT }, "idle", "interrupted",
    { provider = "anthropic" })
end)

T.test("idle: half an event is none", function(t)
  local event = S.text(("x"):rep(2000))
  times_out(t, function(_, res)
    res:start(200, S.EVENTS)
    res:write(S.text "so far")
    for i = 1, #event do -- a byte at a time: slow-loris
      res:write(event:sub(i, i))
      task.sleep(0.01)
    end
  end, { idle = SHORT }, "idle", "interrupted")
end)

T.test("idle: text, thinking and pieces of tool calls feed it", function(t)
  local feeders = {
    text = S.text "a",
    thinking = S.chunk '{"reasoning_content":"hm"}',
    tool = S.chunk '{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":" "}}]}',
  }
  for name, part in pairs(feeders) do
    local server <close> = S.start(function(_, res)
      res:start(200, S.EVENTS)
      res:write(HEAD)
      for _ = 1, 8 do
        res:write(part)
        res:flush()
        task.sleep(SHORT / 3)
      end
      res:write(S.chunk('{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}'):rep(name == "tool" and 1 or 0))
      res:write(S.finish() .. S.DONE)
      res:finish()
    end)
    local model = make(server, { first_token = SHORT, idle = SHORT })
    t.eq(model:stream("x"):reply().finish_reason, name == "tool" and "tool_calls" or "stop", name)
    t.eq(#S.collect(model:stream("x"):text()), name == "text" and 8 or 0, name)
  end
end)

T.test("total: strikes whatever comes", function(t)
  times_out(t, drip(HEAD, S.text "a"), { total = SHORT }, "total", "interrupted")
  times_out(t, drip(HEAD, ":\n"), { total = SHORT }, "total")
end)

T.test("ask: first_token, idle, total", function(t)
  local way
  local server <close> = S.start(function(_, res)
    if way == "silent" then S.stall() end
    res:start(200, { ["Content-Type"] = "application/json" })
    res:write '{"choices":'
    if way == "stalls" then S.stall() end
    while true do
      res:write " "
      task.sleep(0.01)
    end
  end)
  local n = 0
  local function failing(how, timeout)
    way, n = how, n + 1
    local err = t.raises("timeout", function() make(server, timeout):ask "x" end)
    t.eq(#server.seen, n)
    t.match(tostring(err), "timeout%." .. err.phase)
    return err.phase
  end
  t.eq(failing("silent", { first_token = SHORT }), "first_token")
  t.eq(failing("silent", { total = SHORT }), "total")
  t.eq(failing("stalls", { idle = SHORT }), "idle")
  t.eq(failing("stalls", { first_token = 2 * LONG, idle = SHORT }), "idle") -- the nearer of the two
  t.eq(failing("drips", { idle = LONG, total = SHORT }), "total")
  T.until_(function() return server.gone == n end)
end)

T.test("after silence it asks again only with retry.resend", function(t)
  local server <close> = S.start(function(_, res, n)
    if n < 3 then S.stall() end
    S.events(res, S.answer "third")
  end)
  local model = make(server, { first_token = SHORT }, { retry = { attempts = 3, resend = true } })
  local reply = model:stream("x"):reply()
  t.eq({ reply.text, #reply.attempts, #server.seen }, { "third", 3, 3 })
  t.eq({ reply.attempts[1].kind, reply.attempts[2].kind }, { "timeout", "timeout" })
end)

T.test("a slow reader is no slow provider", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    for _ = 1, 4 do res:write(S.text "a") end
    res:write(S.finish() .. S.DONE)
    res:finish()
  end)
  local model = make(server, { idle = SHORT })
  local n = 0
  for _ in model:stream("x"):text() do
    n = n + 1
    task.sleep(SHORT * 2)
  end
  t.eq(n, 4)
end)

T.test("nor is a script that does not let the loop turn, or another task that does not", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    for _ = 1, 3 do
      res:write(S.text "a")
      res:flush()
      os.execute(("sleep %g"):format(SHORT * 2)) -- the client's part of the loop stands still, too
    end
    res:write(S.finish() .. S.DONE)
    res:finish()
  end)
  local model = make(server, { first_token = SHORT, idle = SHORT })
  t.eq(model:stream("x"):reply().text, "aaa")
end)

T.test("a stream held back by the brake is not idle", function(t)
  local text = ("x"):rep(1000)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    for _ = 1, 3000 do res:write(S.text(text)) end
    res:write(S.finish() .. S.DONE)
    res:finish()
  end)
  local model = make(server, { idle = SHORT })
  local size = 0
  for piece in model:stream("x"):text() do
    if size % 600000 == 0 then task.sleep(SHORT * 2) end
    size = size + #piece
  end
  t.eq(size, 3000000)
end)

T.test("after the finish it waits for usage, not for long, and needs no [DONE]", function(t)
  local server <close> = S.start(function(_, res, n)
    res:start(200, S.EVENTS)
    res:write(HEAD .. S.text "all" .. S.finish())
    res:flush()
    if n == 1 then
      task.sleep(0.05)
      res:write(S.USAGE)
    end
    S.stall()
  end)
  local model = make(server, {})
  local from = task.now()
  t.eq(model:stream("x"):reply().usage.total_tokens, 12) -- it has all it can get, and goes
  t.ok(task.now() - from < (T.slow and 1.5 or 1), task.now() - from)
  from = task.now()
  t.eq(model:stream("x"):reply().usage, {})
  t.ok(task.now() - from < LONG - 1, task.now() - from)
  T.until_(function() return server.gone == 2 end)
end)

T.test("a finish with the end of the body behind it takes no time", function(t)
  local server <close> = S.start(function(_, res) S.events(res, S.text "all" .. S.finish()) end)
  local model = make(server, {})
  local from = task.now()
  for _ = 1, 5 do t.eq(model:stream("x"):reply().text, "all") end
  t.ok(task.now() - from < (T.slow and 5 or 1), task.now() - from)
end)

T.test("a timeout that is too short for anything is one", function(t)
  local server <close> = S.start(function(_, res) S.events(res, S.answer "x") end)
  for _, name in ipairs { "first_token", "total" } do
    t.raises("timeout", function() make(server, { [name] = 1e-6 }):ask "x" end)
    t.raises("timeout", function() make(server, { [name] = 1e-6 }):stream "x" end)
  end
  t.eq(make(server, { connect = 0.0005 }, { retry = { attempts = 9 } }).timeout.connect, 0.0005)
end)

T.done()
