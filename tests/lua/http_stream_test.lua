-- sluice.http.stream over real sockets: server-sent events however they are cut and framed, the brake on
-- a slow reader, ceilings, and that no connection outlives what it was opened for.
-- timeout: 90
-- luacheck: ignore 512 (loops that are left at once)

local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local http, task = sluice.http, sluice.task

local MIB = 1 << 20

local function open(server, more)
  local opts = { url = server.url .. "/", timeout = { idle = 5 } }
  for name, value in pairs(more or {}) do opts[name] = value end
  return http.stream(opts)
end

local function read(stream)
  local list = {}
  for ev in stream:events() do list[#list + 1] = { ev.event, ev.data, ev.id } end
  return list
end

-- A server that sends these bytes as events: whole, or cut into pieces of `size` that leave one by one.
local function events(bytes, size)
  return S.start(function(_, res)
    res:start(200, S.EVENTS)
    for i = 1, #bytes, size or #bytes do
      res:write(bytes:sub(i, i + (size or #bytes) - 1))
      if size then
        res:flush()
        task.sleep(0)
      end
    end
    res:finish()
  end)
end

-- The form of events --------------------------------------------------------------------------------------

local FORMS = {
  { "LF", "data: a\n\ndata: b\n\n", { { "", "a", "" }, { "", "b", "" } } },
  { "CR LF", "data: a\r\n\r\ndata: b\r\n\r\n", { { "", "a", "" }, { "", "b", "" } } },
  { "CR", "data: a\r\rdata: b\r\r", { { "", "a", "" }, { "", "b", "" } } },
  { "all of them", "data: a\r\n\ndata: b\r\r\ndata: c\n\r", { { "", "a", "" }, { "", "b", "" }, { "", "c", "" } } },
  { "a BOM", "\xEF\xBB\xBFdata: a\n\n", { { "", "a", "" } } },
  { "names and ids", "event: x\nid: 7\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
    { { "x", "a", "7" }, { "", "b", "7" }, { "", "c", "" } } },
  { "several data lines", "data: a\ndata\ndata: c\n\n", { { "", "a\n\nc", "" } } },
  { "comments only", ": hi\n\n: there\n\n", {} },
  { "comments between", ": hi\n\n: there\ndata: a\n: x\n\n", { { "", "a", "" } } },
  { "UTF-8", "data: 服务繁忙，请稍后再试。\n\ndata: é🎈\n\n", { { "", "服务繁忙，请稍后再试。", "" }, { "", "é🎈", "" } } },
  { "no UTF-8", "data: a\xFFb\xE2\x82\n\n", { { "", "a\u{FFFD}b\u{FFFD}", "" } } },
  { "one space goes, the second stays", "data:  a\ndata:b\n\n", { { "", " a\nb", "" } } },
  { "no blank line at the end", "data: a\n\ndata: b", { { "", "a", "" }, { "", "b", "" } } },
}

for _, form in ipairs(FORMS) do
  T.test("events: " .. form[1] .. ", whole, byte by byte, by threes", function(t)
    for _, size in ipairs { #form[2], 1, 3 } do
      local server <close> = events(form[2], size)
      t.eq(read(open(server)), form[3], size)
    end
  end)
end

T.test("status, headers, and the end, which stays the end", function(t)
  local server <close> = events "data: a\n\n"
  local s <close> = open(server)
  t.eq(s.status, 200)
  t.eq(s.headers["content-type"], "text/event-stream")
  t.match(server.seen[1].headers.accept, "text/event%-stream")
  t.eq(#read(s), 1)
  t.eq(#read(s), 0)
  s:close()
  s:close()
end)

T.test("an answer that is no event stream says what it is", function(t)
  local server <close> = S.start(function(req, res)
    if req.path == "/html" then return res:send(502, { ["Content-Type"] = "text/html" }, "<h1>Bad Gateway</h1>") end
    if req.path == "/json" then return res:json(200, { not_a = "stream" }) end
    if req.path == "/empty" then return res:send(200, S.EVENTS) end
    if req.path == "/none" then return res:send(204) end
    res:raw "HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\nhalf of it"
    res:flush()
    res:abort()
  end)
  local function failing(path) return t.raises("GET http", open, server, { url = server.url .. path }) end
  local err = failing "/html"
  t.eq({ err.kind, err.status }, { "protocol", 502 })
  t.match(tostring(err), "not an event stream: <h1>Bad Gateway</h1>")
  t.match(tostring(failing "/json"), '{"not_a":"stream"}')
  t.match(tostring(failing "/none"), "it is empty")
  t.eq(failing("/broken").kind, "network")
  local s <close> = open(server, { url = server.url .. "/empty" })
  t.eq(read(s), {})
end)

T.test("redirects are followed without credentials", function(t)
  local other <close> = S.start(function(req, res) S.events(res, S.sse(tostring(req.headers.authorization))) end)
  local server <close> = S.start(function(_, res) res:send(307, { Location = other.url }) end)
  t.eq(read(open(server, { headers = { Authorization = "Bearer x" } })), { { "", "nil", "" } })
end)

-- Broken streams --------------------------------------------------------------------------------------------

T.test("reset in the middle of an event: what was whole, then the failure", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write "data: whole\n\ndata: ha"
    res:flush()
    task.sleep(0.01)
    res:abort()
  end)
  local got = {}
  local err = t.raises({ kind = "network", phase = "body" }, function()
    for ev in open(server):events() do got[#got + 1] = ev.data end
  end)
  t.eq(got, { "whole" })
  t.match(tostring(err), "reset")
end)

T.test("a chunked stream that just ends is broken, too", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write "data: whole\n\n"
    res:flush()
    res:abort "close"
  end)
  t.raises({ kind = "network", phase = "body" }, function() read(open(server)) end)
end)

T.test("a deflated stream is unpacked as it comes; rubbish is no gzip", function(t)
  local folder = T.tmpdir()
  T.write(folder .. "/plain", ("data: sluice\n\n"):rep(20000))
  if not os.execute(("gzip -c '%s/plain' >'%s/packed' 2>/dev/null"):format(folder, folder)) then t.skip "no gzip" end
  local packed = T.read(folder .. "/packed")
  local server <close> = S.start(function(req, res)
    res:start(200, { ["Content-Type"] = "text/event-stream", ["Content-Encoding"] = "gzip" })
    res:write(req.path == "/" and packed or "data: not packed at all\n\n")
    res:finish()
  end)
  t.eq(#read(open(server)), 20000)
  t.raises("protocol", function() read(open(server, { url = server.url .. "/x" })) end)
end)

-- The brake -------------------------------------------------------------------------------------------------

T.test("a reader that is slower than the wire brakes the server, and gets everything", function(t)
  local written = 0
  local piece = ("data: " .. ("x"):rep(1017) .. "\n\n"):rep(64) -- 64 KiB
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    for _ = 1, 480 do
      res:write(piece)
      written = written + 1
    end
    res:finish()
  end)
  local s <close> = open(server)
  local iterate, state = s:events()
  t.ok(iterate(state))
  local before
  T.until_(function() -- until the server has not moved for a while: braked
    local same = written == before
    before = written
    task.sleep(0.05)
    return same
  end)
  t.ok(written < 400, written .. " of 480 pieces left the server while nobody read")
  local count = 1
  while iterate(state) do count = count + 1 end
  t.eq(count, 480 * 64)
  t.eq(written, 480)
end)

T.test("what a paused stream keeps is bounded", function(t)
  local piece = ("data: " .. ("y"):rep(1017) .. "\n\n"):rep(64)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    while true do res:write(piece) end
  end)
  local function rss_kib()
    local file = io.open "/proc/self/status"
    return file and tonumber(file:read "a":match "VmRSS:%s*(%d+)")
  end
  if not rss_kib() or T.slow then t.skip "memory is not to be measured here" end
  local streams = {}
  local before = rss_kib()
  for i = 1, 20 do
    streams[i] = open(server)
    local iterate, state = streams[i]:events()
    t.ok(iterate(state))
  end
  task.sleep(0.3)
  local each = (rss_kib() - before) / 20
  for _, s in ipairs(streams) do s:close() end
  -- both ends are in this process: 1 MiB of the server's, and the client's brake
  t.ok(each < 2048, each .. " KiB for each")
end)

T.test("an event larger than the brake comes through, however it is cut", function(t)
  for _, size in ipairs { 70000, 300000, 5 * MIB } do
    local text = ("z"):rep(size)
    for _, cut in ipairs { 1000, 17000, size + 100 } do
      if size // cut < 400 then
        local server <close> = events("data: " .. text .. "\n\ndata: next\n\n", cut)
        local got = read(open(server))
        t.eq({ #got, #got[1][2], got[2][2] }, { 2, size, "next" }, size .. " by " .. cut)
      end
    end
  end
end)

T.test("an event of more than 16 MiB is refused, and the connection closed", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write "data: first\n\n"
    local piece = "data: " .. ("w"):rep(MIB) .. "\n"
    while true do res:write(piece) end
  end)
  local got = {}
  local err = t.raises({ kind = "protocol", phase = "body" }, function()
    for ev in open(server):events() do got[#got + 1] = ev.data end
  end)
  t.match(tostring(err), "one event of the stream has more than 16777216 bytes")
  t.eq(got, { "first" })
  T.until_(function() return server.gone == 1 and server.open() == 0 end)
end)

T.test("a body that is no event stream has the ceiling of a reply", function(t)
  local server <close> = S.start(function(_, res)
    res:start(500, { ["Content-Type"] = "text/plain" })
    local piece = ("w"):rep(65536)
    while true do res:write(piece) end
  end)
  local err = t.raises({ kind = "protocol" }, open, server, { max_body = MIB })
  t.match(tostring(err), "the reply has more than 1048576 bytes")
  local lying <close> = S.start(function(_, res)
    res:raw "HTTP/1.1 400 No\r\nContent-Length: 2147483648\r\n\r\nx"
    S.stall()
  end)
  err = t.raises({ kind = "protocol" }, open, lying)
  t.match(tostring(err), "the reply has more than 67108864 bytes")
end)

-- Time ------------------------------------------------------------------------------------------------------

T.test("idle counts only while somebody waits", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write(S.sse "a" .. S.sse "b")
    res:flush()
    task.sleep(0.3)
    res:write(S.sse "c")
    res:finish()
  end)
  local got = {}
  for ev in open(server, { timeout = { idle = 0.25 } }):events() do
    got[#got + 1] = ev.data
    if ev.data == "b" then task.sleep(0.5) end -- "c" comes meanwhile
  end
  t.eq(got, { "a", "b", "c" })
end)

T.test("a script that computes, or waits outside the loop, is no silence of the peer", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write(S.sse "a")
    res:flush()
    task.sleep(0.05)
    res:write(S.sse "b")
    res:finish()
  end)
  local got = {}
  for ev in open(server, { timeout = { idle = 0.2 } }):events() do
    got[#got + 1] = ev.data
    os.execute "sleep 0.4"
  end
  t.eq(got, { "a", "b" })
end)

T.test("nor is another task that holds the loop", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    for i = 1, 4 do
      res:write(S.sse(tostring(i)))
      res:flush() -- the system has it, the client has not looked yet
      os.execute "sleep 0.35"
    end
    res:finish()
  end)
  t.eq(#read(open(server, { timeout = { idle = 0.3 } })), 4)
end)

T.test("comments are no progress, however thick they come", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write(S.sse "a")
    while true do
      res:write(": ping\n\n")
      task.sleep(0.001)
    end
  end)
  local started, got = task.now(), 0
  local err = t.raises("timeout", function()
    for _ in open(server, { timeout = { idle = 0.2 } }):events() do got = got + 1 end
  end)
  t.eq({ err.phase, got }, { "idle", 1 })
  local took = task.now() - started
  t.ok(took >= 0.2 and took < 2, took)
end)

T.test("total and first_token", function(t)
  local server <close> = S.start(function(req, res)
    if req.path == "/silent" then S.stall() end
    res:start(200, S.EVENTS)
    while true do
      if req.path == "/a" then res:write(S.sse "a") else res:write ": no\n\n" end
      task.sleep(0.01)
    end
  end)
  local function failing(path, timeout)
    return t.raises("timeout", function() read(open(server, { url = server.url .. path, timeout = timeout })) end)
  end
  t.eq(failing("/a", { total = 0.15 }).phase, "total")
  t.eq(failing("/b", { first_token = 0.15 }).phase, "first_token")
  t.eq(failing("/b", { idle = 0.15 }).phase, "first_token") -- the same patience before the first
  t.eq(failing("/silent", { first_token = 0.15 }).phase, "first_token")
  t.eq(failing("/silent", { total = 0.15 }).phase, "total")
  T.until_(function() return server.gone == 5 and server.open() == 0 end)
end)

-- Closing ---------------------------------------------------------------------------------------------------

local function endless()
  return S.start(function(_, res)
    res:start(200, S.EVENTS)
    while true do
      res:write(S.sse "tick")
      task.sleep(0.005)
    end
  end)
end

local function gone(server, n)
  T.until_(function() return server.gone == n and server.active == 0 and server.open() == 0 end, 5, "the client has gone")
end

T.test("left by break, by an error, by return; closed by hand, at the end of its block", function(t)
  local server <close> = endless()
  for _ in open(server):events() do break end
  gone(server, 1)
  t.raises("mine", function() for _ in open(server):events() do error "mine" end end);
  (function() for _ in open(server):events() do return end end)()
  gone(server, 3)
  local s = open(server)
  s:close()
  gone(server, 4)
  do local _ <close> = open(server) end
  gone(server, 5)
  t.eq(#server.errors, 0)
end)

T.test("the loop that Lua 5.4.4 does not close: the group does", function(t)
  local server <close> = endless()
  task.group(function()
    for ev in open(server):events() do
      local function captures() return ev end
      t.eq(captures().data, "tick")
      break
    end
  end)
  gone(server, 1)
end)

T.test("one that was dropped goes with the garbage, at the latest", function(t)
  local server <close> = endless()
  open(server)
  collectgarbage()
  collectgarbage()
  gone(server, 1)
  t.ok(true)
end)

T.test("cancelled while it is read; by a group that ends; by race; by deadline", function(t)
  local server <close> = endless()
  local function drain() read(open(server)) end
  t.eq(t.raises("timeout", task.deadline, 0.05, drain).phase, "deadline")
  gone(server, 1)
  t.raises("mine", task.group, function(group)
    group:spawn(drain)
    T.until_(function() return server.active == 1 end)
    error("mine", 0)
  end)
  gone(server, 2)
  t.eq(task.race { drain, function()
    T.until_(function() return server.active == 1 end)
    return "won"
  end }, "won")
  gone(server, 3)
end)

T.test("returned out of a group, a task, a deadline, a race, it stays open", function(t)
  local server <close> = endless()
  local ways = {
    group = function(f) return task.group(function() return f() end) end,
    join = function(f) return task.group(function(group) return group:spawn(f):join() end) end,
    deadline = function(f) return task.deadline(5, f) end,
    race = function(f) return task.race { f, function() task.sleep(50) end } end,
    all = function(f) return (task.all { f }) end,
    map = function(f) return task.map({ 1 }, f)[1] end,
    pcall = function(f) return select(2, pcall(f)) end,
  }
  local n = 0
  for name, way in pairs(ways) do
    local s = way(function() return open(server) end)
    local iterate, state = s:events()
    t.eq({ iterate(state).data, iterate(state).data }, { "tick", "tick" }, name)
    s:close()
    n = n + 1
    gone(server, n)
  end
end)

T.test("two tasks on one stream: the second is told", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    T.until_(function() return S.go end)
    res:write(S.sse "late")
    res:finish()
  end)
  S.go = false
  local s <close> = open(server)
  task.group(function(group)
    local first = group:spawn(function() return read(s) end)
    task.sleep(0)
    local iterate, state = s:events()
    t.raises("another task is already reading this stream", iterate, state)
    S.go = true
    t.eq(#first:join(), 1)
  end)
end)

T.test("closed by another task while it is read", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write(": hello\n\n")
    S.stall()
  end)
  local s = open(server)
  task.group(function(group)
    local reader = group:spawn(function() return pcall(read, s) end)
    task.sleep(0.02)
    s:close()
    local ok, err = reader:join()
    t.eq(ok, false)
    t.match(tostring(err), "the stream is closed")
  end)
  gone(server, 1)
end)

T.done()
