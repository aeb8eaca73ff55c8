-- What a model's stream holds, a connection and a permit, is given back on every way out of it. The
-- models here may make one request at a time, so that a permit that is lost stops the next one.
-- timeout: 90
-- luacheck: ignore 512 (loops that are left at once)

local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local task = sluice.task

local HEAD = S.chunk '{"role":"assistant","content":""}'

-- A model with one permit, and a check that it is free and no connection is left.
local function make(server, changes)
  local opts = { limit = { concurrency = 1 }, timeout = { connect = 3, first_token = 10, idle = 10 } }
  for name, value in pairs(changes or {}) do opts[name] = value end
  return S.model(server, opts)
end

local function gone(server, n)
  T.until_(function() return server.gone == n and server.active == 0 end, 5, "the client has gone")
end

local function free(t, model)
  t.eq(task.deadline(2, function() return model:ask("free?").text end), "yes")
end

-- Answers "free?" at once; everything else with `play`.
local function start(play, options)
  return S.start(function(req, res, n)
    if req.body:find("free?", 1, true) then
      return res:send(200, { ["Content-Type"] = "application/json" }, S.whole "yes")
    end
    play(res, n, req)
  end, options)
end

local function endless(res)
  res:start(200, S.EVENTS)
  res:write(HEAD)
  while true do
    res:write(S.text "tick ")
    task.sleep(0.003)
  end
end

-- Cancelled in each phase -----------------------------------------------------------------------------------

local PHASES = {
  { "before the headers", function() S.stall() end },
  { "between the headers and the first content", function(res)
    res:start(200, S.EVENTS)
    res:write(HEAD)
    S.stall()
  end },
  { "while pings come", function(res)
    res:start(200, S.EVENTS)
    while true do
      res:write ": OPENROUTER PROCESSING\n\n"
      task.sleep(0.002)
    end
  end },
  { "in the stream", endless },
  { "in a stall of the stream", function(res)
    res:start(200, S.EVENTS)
    res:write(HEAD .. S.text "some")
    S.stall()
  end },
  { "in a tool call", function(res)
    res:start(200, S.EVENTS)
    res:write(S.chunk '{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{"}}]}')
    S.stall()
  end },
  { "in the body of an error", function(res)
    res:start(500, { ["Content-Type"] = "application/json" })
    res:write '{"error":'
    S.stall()
  end },
  { "after the finish, waiting for usage", function(res)
    res:start(200, S.EVENTS)
    res:write(HEAD .. S.text "all" .. S.finish())
    S.stall()
  end },
}

for _, phase in ipairs(PHASES) do
  T.test("cancelled " .. phase[1] .. ": the connection ends, the permit is back", function(t)
    local server <close> = start(phase[2])
    local model = make(server)
    free(t, model) -- what is loaded by the first call takes longer, under valgrind, than what follows may
    for round = 1, 2 do
      local err = t.raises("timeout", task.deadline, 0.04, function() return model:stream("x"):reply() end)
      t.eq(err.phase, "deadline")
      gone(server, round)
      free(t, model)
    end
  end)
end

T.test("cancelled while draining what follows the end", function(t)
  local server <close> = start(function(res)
    res:start(200, S.EVENTS)
    res:write(S.answer "all")
    S.stall() -- says it is done, and does not end
  end)
  local model = make(server)
  t.raises("timeout", task.deadline, 0.1, function() return model:stream("x"):reply() end)
  gone(server, 1)
  free(t, model)
  local started = task.now()
  t.eq(model:stream("x"):reply().text, "all") -- not cancelled: a moment's patience, then the connection goes
  t.ok(task.now() - started < (T.slow and 5 or 1), task.now() - started)
  gone(server, 2)
  free(t, model)
end)

T.test("cancelled while waiting for a permit, or for the next attempt", function(t)
  local server <close> = start(function(res, n)
    if n == 1 then return endless(res) end
    res:send(500)
  end)
  local model = make(server, { retry = { attempts = 3, base = 60, cap = 60 } })
  local s = model:stream "x"
  t.raises("timeout", task.deadline, 0.03, function() return model:stream "y" end)
  t.raises("timeout", task.deadline, 0.03, function() return model:ask "y" end)
  t.eq(#server.seen, 1)
  s:close()
  gone(server, 1)
  task.group(function(group) -- not a deadline: a wait that would pass it is not begun
    group:spawn(function() return model:stream "y" end)
    T.until_(function() return #server.seen == 2 and server.active == 0 end)
    task.sleep(0.02)
    group:cancel()
  end)
  free(t, model)
end)

T.test("ask cancelled before and in the reply", function(t)
  local server <close> = start(function(res, n)
    if n == 1 then S.stall() end
    res:start(200, { ["Content-Type"] = "application/json" })
    res:write '{"choices":'
    S.stall()
  end)
  local model = make(server)
  for round = 1, 2 do
    t.raises("timeout", task.deadline, 0.04, function() return model:ask "x" end)
    gone(server, round)
  end
  free(t, model)
end)

T.test("cancelled by group:cancel, by a failing sibling, by losing a race", function(t)
  local server <close> = start(endless)
  local model = make(server)
  local function tell() for _ in model:stream("x"):text() do task.sleep(0) end end
  local function begun() T.until_(function() return server.active == 1 end) end
  task.group(function(group)
    group:spawn(tell)
    begun()
    group:cancel()
  end)
  gone(server, 1)
  t.raises("mine", task.group, function(group)
    group:spawn(tell)
    begun()
    group:spawn(function() error("mine", 0) end)
  end)
  gone(server, 2)
  t.eq(task.race { tell, function() begun() return "won" end }, "won")
  gone(server, 3)
  free(t, model)
end)

-- Left ----------------------------------------------------------------------------------------------------

T.test("left by break, return, error, goto; closed by hand and by its block", function(t)
  local server <close> = start(endless)
  local model = make(server)
  local ways = {
    function() for _ in model:stream("x"):text() do break end end,
    function() for _ in model:stream("x"):events() do break end end,
    function() for _ in model:stream("x"):text() do return end end,
    function() for _ in model:stream("x"):text() do goto out end ::out:: end,
    function() pcall(function() for _ in model:stream("x"):text() do error "mine" end end) end,
    function() pcall(function() for _ in model:stream("x"):events() do error "mine" end end) end,
    function() model:stream("x"):close() end,
    function()
      local s <close> = model:stream "x"
      local iterate = s:text()
      t.eq(iterate(), "tick ")
    end,
    function()
      local s = model:stream "x"
      s:close()
      s:close()
      t.raises("the stream was closed before its end", s.reply, s)
      t.raises("the stream was closed before its end", s.events, s)
      t.match(tostring(s), "closed")
    end,
  }
  for i, way in ipairs(ways) do
    way()
    gone(server, i)
    free(t, model)
  end
end)

T.test("the loop that Lua 5.4.4 does not close is closed by its group", function(t)
  local server <close> = start(endless)
  local model = make(server)
  task.group(function()
    for text in model:stream("x"):text() do
      local function captures() return text end
      t.eq(captures(), "tick ")
      break
    end
  end)
  gone(server, 1)
  free(t, model)
end)

T.test("dropped without a word, it goes with the garbage", function(t)
  local server <close> = start(endless)
  local model = make(server)
  for round = 1, 3 do
    local iterate = model:stream("x"):text()
    t.eq(iterate(), "tick ")
    iterate = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    gone(server, round)
    free(t, model)
  end
end)

T.test("in a generator that is dropped half way", function(t)
  local server <close> = start(endless)
  local model = make(server)
  local next_word = coroutine.wrap(function()
    for text in model:stream("x"):text() do coroutine.yield(text) end
  end)
  t.eq(next_word(), "tick ")
  t.eq(next_word(), "tick ")
  next_word = nil -- luacheck: ignore 311
  collectgarbage()
  collectgarbage()
  gone(server, 1)
  free(t, model)
end)

T.test("in a generator that is closed", function(t)
  local server <close> = start(endless)
  local model = make(server)
  local co = coroutine.create(function()
    for text in model:stream("x"):text() do coroutine.yield(text) end
  end)
  t.eq({ coroutine.resume(co) }, { true, "tick " })
  t.eq(coroutine.close(co), true)
  gone(server, 1)
  free(t, model)
end)

-- Handed on -------------------------------------------------------------------------------------------------

T.test("a long prompt is gone when its answer has begun", function(t)
  local server <close> = S.start(function(req, res)
    req.body = nil -- the server's copy is not in question
    res:start(200, S.EVENTS)
    res:write(S.text "first")
    S.stall()
  end)
  local model, mib = S.model(server, { limit = { concurrency = 8 } }), 1 << 10
  collectgarbage()
  local before, streams = collectgarbage "count", {}
  for i = 1, 8 do
    local prompt = ("word "):rep(200000) .. i
    local s = model:stream(prompt)
    t.eq(s:text()(), "first")
    streams[i] = s
  end
  collectgarbage()
  local grown = collectgarbage "count" - before
  t.ok(grown < mib, ("%.0f KiB are kept for 8 prompts of 1 MiB"):format(grown))
  for i = 1, 8 do streams[i]:close() end
end)

T.test("returned by group, join, deadline, race, all, map it stays open, and closes with its new owner", function(t)
  local server <close> = start(endless)
  local model = make(server)
  local ways = {
    group = function(f) return task.group(function() return f() end) end,
    join = function(f) return task.group(function(group) return group:spawn(f):join() end) end,
    deadline = function(f) return task.deadline(5, f) end,
    race = function(f) return task.race { f, function() task.sleep(50) end } end,
    all = function(f) return (task.all { f }) end,
    map = function(f) return task.map({ 1 }, f)[1] end,
    shield = function(f) return task.shield(5, f) end,
    nested = function(f)
      return task.group(function() return task.deadline(5, function() return task.race { f } end) end)
    end,
  }
  local n = 0
  for name, way in pairs(ways) do
    task.group(function()
      local s = way(function() return model:stream "x" end)
      local iterate = s:text()
      t.eq({ iterate(), iterate(), iterate() }, { "tick ", "tick ", "tick " }, name)
    end)
    n = n + 1
    gone(server, n)
    free(t, model)
  end
end)

T.test("the losers of a race of streams are closed, the winner reads on", function(t)
  local server <close> = S.start(function(req, res)
    res:start(200, S.EVENTS)
    if req.body:find "slow" then S.stall() end
    endless(setmetatable({ start = function() end, write = function(_, bytes) res:write(bytes) end }, {}))
  end)
  local model = make(server, { limit = { concurrency = 3 } })
  local s = task.race {
    function() return model:stream "slow one" end,
    function() return model:stream "quick" end,
    function() return model:stream "slow two" end,
  }
  gone(setmetatable({}, { __index = function(_, key) return key == "active" and 0 or server[key] end }), 2)
  local iterate = s:text()
  t.eq(iterate(), "tick ")
  s:close()
  gone(server, 3)
end)

T.test("a stream outlives the deadline it was returned from", function(t)
  local server <close> = start(endless)
  local model = make(server)
  local s <close> = task.deadline(0.1, function() return model:stream "x" end)
  local iterate = s:text()
  local from, count = task.now(), 0
  while task.now() - from < 0.2 do
    t.eq(iterate(), "tick ")
    count = count + 1
  end
  t.ok(count > 3)
end)

T.test("two tasks on one stream: the second is told, the first goes on", function(t)
  local go = false
  local server <close> = start(function(res)
    res:start(200, S.EVENTS)
    res:write(HEAD .. S.text "a")
    T.until_(function() return go end)
    res:write(S.text "b" .. S.finish() .. S.DONE)
    res:finish()
  end)
  local model = make(server)
  local s <close> = model:stream "x"
  task.group(function(group)
    local first = group:spawn(function() return S.collect(s:text()) end)
    task.sleep(0.01)
    t.raises("another task is already reading this stream", function() for _ in s:text() do break end end)
    t.raises("another task is already reading this stream", s.reply, s)
    go = true
    t.eq(first:join(), { "a", "b" })
  end)
  free(t, model)
end)

T.test("closed by another task while it is read", function(t)
  local server <close> = start(function(res)
    res:start(200, S.EVENTS)
    res:write(HEAD .. S.text "a")
    S.stall()
  end)
  local model = make(server)
  for _, how in ipairs { "text", "events" } do
    local s = model:stream "x"
    task.group(function(group)
      local reader = group:spawn(function() return pcall(S.collect, s[how](s)) end)
      task.sleep(0.02)
      s:close()
      local ok, err = reader:join()
      t.eq(ok, false)
      t.match(tostring(err), "the stream is closed")
    end)
    free(t, model)
  end
  gone(server, 2)
end)

-- Used again --------------------------------------------------------------------------------------------------

T.test("the connection of a finished stream is used again, that of a broken one is not", function(t)
  local server <close> = start(function(res, n)
    if n <= 3 then return S.events(res, S.answer("one ", "two")) end
    res:start(200, S.EVENTS)
    res:write(HEAD .. S.text "some")
    if n == 4 then
      res:write(S.finish() .. S.DONE)
      return res:finish()
    end
    res:flush()
    task.sleep(0.005)
    res:abort()
  end, { count = true })
  local model = make(server)
  t.eq(model:stream("x"):reply().text, "one two")
  t.eq(table.concat(S.collect(model:stream("x"):text())), "one two")
  for ev in model:stream("x"):events() do t.ok(ev.type) end
  if not server.connections() then t.skip "no /proc/self/net/tcp" end
  t.eq(server.connections(), 1)
  for text in model:stream("x"):text() do t.eq(text, "some") break end -- left before its end
  free(t, model)
  local connections = server.connections()
  t.raises("interrupted", function() model:stream("x"):reply() end)
  free(t, model)
  t.eq(server.connections(), connections + 1)
  free(t, model)
  t.eq(server.connections(), connections + 1)
end)

T.test("a stream the brake has held is read to its end, and its connection used again", function(t)
  local parts = { HEAD }
  for i = 1, 2000 do parts[#parts + 1] = S.text(("word %d of a long answer, "):format(i)) end
  parts[#parts + 1] = S.finish() .. S.DONE
  local bytes = table.concat(parts)
  -- comments behind the end: the brake holds them when the last event has been taken
  bytes = bytes .. (": padding\n"):rep(20000)
  local server <close> = start(function(res)
    S.events(res, bytes)
  end, { count = true })
  local model = make(server)
  for _ = 1, 3 do
    local s = model:stream "x"
    task.sleep(0.05) -- all that may come ahead of the reader is there
    t.match(s:reply().text, "word 2000 of a long answer, $")
  end
  free(t, model)
  t.eq(server.connections() or 1, 1)
end)

T.test("a connection that dies when it is used again: libcurl sends nothing twice by itself", function(t)
  local function play(retry, call)
    local server <close> = S.start(function(_, res, n)
      if n > 1 then return res:abort "reset" end
      res:send(200, { ["Content-Type"] = "application/json" }, S.whole "yes")
    end)
    local model = S.model(server, { retry = retry })
    t.eq(model:ask("a").text, "yes")
    local err = t.raises("network", call, model, server)
    return #server.seen - 1, err
  end
  local function ask(model) model:ask "b" end
  local function stream(model) model:stream "b" end
  t.eq((play(false, ask)), 1)
  t.eq((play(false, stream)), 1)
  local sent, err = play({ attempts = 3, base = 0.001 }, ask)
  t.eq({ sent, #err.attempts }, { 3, 3 })
  t.eq((play(false, function(_, server)
    sluice.http.request { method = "POST", url = server.url .. "/x", body = "b" }
  end)), 1)
end)

T.done()
