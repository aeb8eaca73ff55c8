-- sluice.server: requests into handlers, replies out, and every way either side can leave.
local T = require "harness"
local sluice = require "sluice"
local errors = require "sluice.errors"

local http, task, json = sluice.http, sluice.task, sluice.json
local listen = sluice.server.listen

local function quiet() end

local function serve(handler, opts)
  local o = { handler = handler, on_error = quiet }
  for name, value in pairs(opts or {}) do o[name] = value end
  return listen(o)
end

-- Talks to a port byte by byte, beside this process: what curl would never send. Returns what came
-- back when the server ends the connection, or after `patience` seconds.
local function raw(port, bytes, patience)
  local folder = T.tmpdir()
  T.write(folder .. "/request", bytes)
  os.execute(("(bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d; cat %s/request >&3; timeout %g cat <&3 >%s/reply 2>%s/why; "
    .. "echo $? >%s/code' >/dev/null 2>&1; : >%s/done) &"):format(port, folder, patience or 5, folder, folder,
    folder, folder))
  T.until_(function()
    local file = io.open(folder .. "/done")
    if file then file:close() end
    return file
  end, (patience or 5) + 5, "the raw client's end")
  local function read(name)
    local file = io.open(folder .. "/" .. name, "rb")
    if not file then return "" end
    local text = file:read "a"
    file:close()
    return text
  end
  return read "reply", read "why", tonumber(read "code") -- code 124: the server kept it open
end

-- A client that gives up as soon as cond() holds.
local function leave_when(cond, url)
  task.group(function(g)
    local client = g:spawn(http.request, url)
    T.until_(cond)
    client:cancel()
  end)
end

-- What a handler sees ---------------------------------------------------------------------------------

T.test("a request as the handler sees it", function(t)
  local seen
  local server <close> = serve(function(req, res)
    seen = req
    res:json(201, { n = #req.body }, { ["X-Answer"] = "yes" })
  end)
  local reply = http.request { url = server.url .. "/a%20b/c?x=1&y=a+b%21&z", method = "PUT", body = "some bytes",
    headers = { ["X-One"] = "1" } }
  t.eq(reply.status, 201)
  t.eq(reply.headers["x-answer"], "yes")
  t.eq(reply.headers["content-type"], "application/json")
  t.eq(reply:json(), { n = 10 })
  t.eq(seen.method, "PUT")
  t.eq(seen.path, "/a%20b/c")
  t.eq(seen.query, "x=1&y=a+b%21&z")
  t.eq(seen:query_table(), { x = "1", y = "a b!", z = "" })
  t.eq(seen.headers["x-one"], "1")
  t.eq(seen.body, "some bytes")
  t.eq(seen.peer, "127.0.0.1")
end)

T.test("no body, no query, and the url of the server", function(t)
  local server <close> = serve(function(req, res)
    res:send(200, nil, req.path .. "?" .. req.query .. "#" .. req.body)
  end)
  t.match(server.url, "^http://127%.0%.0%.1:%d+$")
  t.eq(server.url, "http://127.0.0.1:" .. server.port)
  t.eq(http.request(server.url).body, "/?#")
end)

T.test("large bodies both ways arrive whole", function(t)
  local server <close> = serve(function(req, res) res:send(200, nil, req.body) end)
  local body = ("0123456789abcdef"):rep(1 << 16) -- 1 MiB
  local reply = http.request { url = server.url, body = body }
  t.eq(#reply.body, #body)
  t.ok(reply.body == body)
end)

T.test("repeated headers come joined, and can be sent", function(t)
  local server <close> = serve(function(req, res)
    res:send(200, { ["Set-Cookie"] = { "a=1", "b=2" }, ["X-N"] = 7 }, req.headers["x-two"])
  end)
  local got = raw(server.port, "GET / HTTP/1.1\r\nX-Two: a\r\nX-Two: b\r\nConnection: close\r\n\r\n")
  t.match(got, "\r\nSet%-Cookie: a=1\r\n")
  t.match(got, "\r\nSet%-Cookie: b=2\r\n")
  t.match(got, "\r\nX%-N: 7\r\n")
  t.match(got, "a, b$")
end)

T.test("HEAD has headers and no body; 204 has no length", function(t)
  local server <close> = serve(function(req, res)
    if req.path == "/none" then return res:send(204) end
    if req.path == "/stream" then
      res:start(200)
      res:write "never seen"
      return
    end
    res:send(200, nil, "twelve bytes")
  end)
  local got = raw(server.port, "HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
  t.match(got, "^HTTP/1%.1 200 OK\r\n")
  t.match(got, "\r\nContent%-Length: 12\r\n")
  t.match(got, "\r\n\r\n$")
  got = raw(server.port, "HEAD /stream HTTP/1.1\r\nConnection: close\r\n\r\n")
  t.match(got, "\r\n\r\n$")
  t.ok(not got:find "never")
  got = raw(server.port, "GET /none HTTP/1.1\r\nConnection: close\r\n\r\n")
  t.match(got, "^HTTP/1%.1 204 No Content\r\n")
  t.ok(not got:find "Content%-Length")
end)

T.test("pipelined requests are answered one after the other, in order", function(t)
  local running, most = 0, 0
  local server <close> = serve(function(req, res)
    running = running + 1
    most = math.max(most, running)
    task.sleep(0.01)
    running = running - 1
    res:send(200, nil, req.path)
  end)
  local got = raw(server.port, "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"
    .. "GET /c HTTP/1.1\r\nConnection: close\r\n\r\n")
  t.match(got, "/aHTTP/1%.1 200 OK.*/bHTTP/1%.1 200 OK.*/c$")
  t.eq(most, 1)
end)

T.test("a connection serves many requests", function(t)
  local peers = {}
  local server <close> = serve(function(req, res)
    peers[#peers + 1] = req.path
    res:send(200, nil, "x")
  end)
  for i = 1, 20 do t.eq(http.request(server.url .. "/" .. i).status, 200) end
  t.eq(#peers, 20)
  t.eq((server:load()), 1, "connections")
end)

-- Replies ---------------------------------------------------------------------------------------------

T.test("events arrive as they are sent", function(t)
  local go = task.channel(1)
  local server <close> = serve(function(_, res)
    res:event { data = "one" }
    go:receive()
    res:event { event = "named", id = "7", data = "two\nlines\r\nand\rthree" }
  end)
  local got = {}
  local stream <close> = http.stream(server.url)
  t.match(stream.headers["content-type"], "^text/event%-stream")
  for event in stream:events() do
    got[#got + 1] = event
    if #got == 1 then go:send(true) end -- the first is here before the second exists
  end
  t.eq(#got, 2)
  t.eq(got[1].data, "one")
  t.eq({ got[2].event, got[2].id, got[2].data }, { "named", "7", "two\nlines\nand\nthree" })
end)

T.test("HTTP/1.0 gets no chunks, and the end of the connection", function(t)
  local server <close> = serve(function(_, res)
    res:start(200)
    res:write "ab"
    res:write "cd"
  end)
  local got = raw(server.port, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
  t.match(got, "\r\n\r\nabcd$")
  t.ok(not got:find "chunked")
  t.ok(not got:find "Content%-Length")
end)

T.test("a reply shorter than its Content-Length ends the connection", function(t)
  local server <close> = serve(function(_, res)
    res:start(200, { ["Content-Length"] = 10 })
    res:write "abc"
    res:finish()
  end)
  t.raises("network", http.request, server.url)
  t.match(raw(server.port, "GET / HTTP/1.1\r\n\r\n"), "\r\n\r\nabc$")
end)

T.test("raw bytes, close and abort", function(t)
  local server <close> = serve(function(req, res)
    if req.path == "/raw" then
      res:raw "HTTP/1.1 200 OK\r\nContent-Le"
      res:raw "ngth: 5\r\n\r\nhello"
      return res:close()
    end
    res:start(200)
    res:write "half"
    res:flush()
    if req.path == "/close" then return res:close() end
    res:abort(req.path == "/end" and "close" or nil)
  end)
  t.eq(http.request(server.url .. "/raw").body, "hello")
  local got, why = raw(server.port, "GET /close HTTP/1.1\r\n\r\n")
  t.match(got, "\r\n4\r\nhalf\r\n$")
  t.eq(why, "", "a clean end of the connection")
  got, why = raw(server.port, "GET /reset HTTP/1.1\r\n\r\n")
  t.match(got, "\r\n4\r\nhalf\r\n$")
  t.match(why, "[Rr]eset")
  for _, path in ipairs { "/close", "/reset", "/end" } do t.raises("network", http.request, server.url .. path) end
end)

T.test("what a handler must not do is refused, with the reason", function(t)
  local seen = {}
  local function refused(key, f, ...) seen[key] = select(2, pcall(f, ...)) end
  local server <close> = serve(function(_, res)
    refused("break", res.send, res, 200, { ["X-A"] = "a\r\nX-B: b" })
    refused("nul", res.send, res, 200, { ["X-A"] = "a\0" })
    refused("name", res.send, res, 200, { ["X A"] = "a" })
    refused("type", res.send, res, 200, { ["X-A"] = true })
    refused("framing", res.start, res, 200, { ["transfer-encoding"] = "chunked" })
    refused("status", res.send, res, 99)
    refused("early", res.write, res, "x")
    res:start(200)
    refused("twice", res.send, res, 200)
    res:write "fine"
    res:finish()
    refused("late", res.write, res, "x")
    refused("event", res.event, res, { data = "x", event = "a\ndata: b" })
    refused("data", res.event, res, { event = "a" })
  end)
  t.eq(http.request(server.url).body, "fine")
  t.match(seen["break"], "'X%-A'.*line break or a NUL at byte 2")
  t.match(seen.nul, "line break or a NUL at byte 2")
  t.match(seen.name, "'X A' is not a header name")
  t.match(seen.type, "'X%-A'.*a string expected, got boolean")
  t.match(seen.framing, "Transfer%-Encoding")
  t.match(seen.status, "HTTP status expected")
  t.match(seen.early, "res:write.*not been started")
  t.match(seen.twice, "res:send.*started already")
  t.match(seen.late, "res:write.*complete already")
  t.match(seen.event, "field 'event' must be a string of one line, got a string")
  t.match(seen.data, "field 'data' must be a string, got nothing")
end)

-- Handlers that fail ------------------------------------------------------------------------------------

T.test("a handler that raises: 500 before the first byte, a broken connection after", function(t)
  local reported = {}
  local server <close> = serve(function(req, res)
    if req.path == "/late" then
      res:start(200)
      res:write "some"
      res:flush()
    end
    if req.path == "/done" then res:send(200, nil, "fine") end
    error("no such thing " .. req.path)
  end, { on_error = function(err, req) reported[#reported + 1] = tostring(err) .. req.method end })
  local reply = http.request(server.url .. "/early")
  t.eq(reply.status, 500)
  t.ok(not reply.body:find "no such thing", "what was raised is nobody else's business")
  t.raises("network", http.request, server.url .. "/late")
  t.eq(http.request(server.url .. "/done").body, "fine")
  t.eq(#reported, 3)
  t.match(reported[1], "no such thing /earlyGET")
  t.match(reported[3], "no such thing /done")
end)

T.test("a handler that forgets to answer", function(t)
  local why
  local server <close> = serve(function() end, { on_error = function(err) why = err end })
  t.eq(http.request(server.url).status, 500)
  t.match(why, "returned without a reply")
end)

T.test("a handler that leaves its stream open is finished for it", function(t)
  local server <close> = serve(function(_, res)
    res:start(200)
    res:write "all"
  end)
  t.eq(http.request(server.url).body, "all")
end)

T.test("an on_error that waits while the client leaves does not end the server", function(t)
  local reporting, waited, left = false, false, task.channel(1)
  local server <close> = serve(function(req)
    if req.path == "/raise" then error "oops" end
  end, { on_error = function(err)
    if tostring(err):find "oops" then
      reporting = true
      task.shield(5, function() left:receive() end)
      waited = true
    end
  end })
  leave_when(function() return reporting end, server.url .. "/raise")
  T.until_(function() return select(2, server:load()) == 0 end)
  left:send(true)
  T.until_(function() return waited end)
  t.eq(http.request(server.url .. "/again").status, 500)
end)

T.test("a task of a handler that fails is the handler's failure", function(t)
  local why
  local server <close> = serve(function(_, res)
    task.group(function(g) g:spawn(function() error "in the child" end) end)
    res:send(200)
  end, { on_error = function(err) why = err end })
  t.eq(http.request(server.url).status, 500)
  t.match(why, "in the child")
end)

-- Clients that leave --------------------------------------------------------------------------------------

-- A handler that waits, and tells how it ended.
local function waiting(before)
  local ended = {}
  local server = serve(function(req, res)
    local guard <close> = setmetatable({}, { __close = function(_, err) ended[#ended + 1] = err or "no error" end })
    if before then before(req, res) end
    task.sleep(60)
    return guard
  end)
  return server, ended
end

T.test("a client that leaves before the reply: its handler is cancelled", function(t)
  local server <close>, ended = waiting()
  leave_when(function() return select(2, server:load()) == 1 end, server.url)
  T.until_(function() return ended[1] end)
  t.ok(errors.is(ended[1], "cancelled"))
  t.match(ended[1].message, "the client has gone")
  T.until_(function() return select(2, server:load()) == 0 end)
end)

T.test("a client that leaves in the middle of a stream: the same", function(t)
  local server <close>, ended = waiting(function(_, res) res:event { data = "x" } end)
  do
    local stream <close> = http.stream(server.url)
    local first = stream:events()(stream)
    t.eq(first.data, "x")
  end
  T.until_(function() return ended[1] end)
  t.match(ended[1].message, "the client has gone")
end)

T.test("writing to a client that has gone raises, where cancellation is held back", function(t)
  local err
  local server <close> = serve(function(_, res)
    res:event { data = "x" }
    task.shield(5, function()
      T.until_(function() return res.gone end)
      err = t.raises("network", res.write, res, "y")
    end)
  end)
  http.stream(server.url):close()
  T.until_(function() return err end)
  t.match(err.message, "the client has gone")
end)

T.test("what a handler opened is closed with it, its child tasks too", function(t)
  local upstream_ended, child_ended = 0, 0
  local upstream <close> = serve(function(_, res)
    local guard <close> = setmetatable({}, { __close = function() upstream_ended = upstream_ended + 1 end })
    res:event { data = "x" }
    task.sleep(60)
    return guard
  end)
  local server <close> = serve(function(req, res)
    local stream = http.stream(upstream.url) -- and never closed
    if req.path == "/return" then return res:send(200, nil, stream.status) end
    res:event { data = "y" }
    task.group(function(g)
      g:spawn(function()
        local guard <close> = setmetatable({}, { __close = function() child_ended = child_ended + 1 end })
        task.sleep(60)
        return guard
      end)
    end)
  end)
  t.eq(http.request(server.url .. "/return").status, 200)
  T.until_(function() return upstream_ended == 1 end)
  http.stream(server.url):close()
  T.until_(function() return upstream_ended == 2 and child_ended == 1 end)
  t.eq({ upstream_ended, child_ended }, { 2, 1 })
end)

T.test("a slow reader holds its writer back, and memory stays bounded", function(t)
  local piece, pieces, written = ("x"):rep(64 << 10), 1024, 0 -- 64 MiB
  local server <close> = serve(function(_, res)
    res:start(200, { ["Content-Type"] = "text/event-stream" })
    local line = "data: " .. piece .. "\n\n"
    for i = 1, pieces do
      res:write(line)
      written = i
    end
  end)
  local stream <close> = http.stream(server.url) -- reads no further than its own small buffer
  local before
  T.until_(function() -- until nothing moves any more
    local same = before == written
    before = written
    task.sleep(0.1)
    return same
  end, 20)
  -- 1 MiB of ours; the rest is what the system's sockets hold, some MiB on each side
  t.ok(written < pieces // 2, ("%d of %d pieces written to a reader that does not read"):format(written, pieces))
  local count = 0
  for event in stream:events() do
    count = count + 1
    if #event.data ~= #piece then error "a piece was damaged" end
  end
  t.eq(count, pieces)
  t.eq(written, pieces)
end)

T.test("one piece larger than the brake arrives whole", function(t)
  local server <close> = serve(function(_, res)
    res:start(200)
    res:write(("y"):rep(10 << 20))
  end)
  t.eq(#http.request(server.url).body, 10 << 20)
end)

-- Servers that end ------------------------------------------------------------------------------------------

T.test("closing cancels the handlers and breaks the connections", function(t)
  local server, ended = waiting(function(req, res)
    if req.path == "/stream" then res:event { data = "x" } end
  end)
  task.group(function(g)
    local plain = g:spawn(pcall, http.request, server.url)
    local stream = http.stream(server.url .. "/stream")
    T.until_(function() return select(2, server:load()) == 2 end)
    server:close()
    local _, err = plain:join()
    t.eq(err.kind, "network")
    t.raises("network", function() for _ in stream:events() do t.log "an event" end end)
  end)
  T.until_(function() return #ended == 2 end)
  t.match(ended[1].message, "the server is closing")
  t.match(ended[2].message, "the server is closing")
  t.ok(server:closed())
  server:close() -- again does no harm
  t.eq({ server:load() }, { 0, 0 })
  t.raises("network", http.request, server.url)
end)

T.test("a handler may close its own server", function(t)
  local server
  server = serve(function(_, res)
    res:send(200, nil, "bye")
    server:stop(5) -- when the reply is out
  end)
  t.eq(http.request(server.url).body, "bye")
  server:wait()
  t.ok(server:closed())
end)

T.test("stop lets what is under way finish, and takes nothing new", function(t)
  local go, handled = task.channel(1), 0
  local server = serve(function(_, res)
    handled = handled + 1
    res:event { data = "first" }
    go:receive()
    res:event { data = "last" }
  end)
  local got, all = {}, nil
  task.group(function(g)
    local stream = http.stream(server.url)
    local stopping = g:spawn(function() all = server:stop(10) end)
    g:spawn(function()
      task.sleep(0)
      t.raises("network", http.request, server.url)
      go:send(true)
    end)
    for event in stream:events() do got[#got + 1] = event.data end
    stopping:join()
  end)
  t.eq(got, { "first", "last" })
  t.eq(all, true)
  t.eq(handled, 1)
  t.ok(server:closed())
end)

T.test("stop cuts off what takes longer than its grace", function(t)
  local server, ended = waiting()
  task.group(function(g)
    local request = g:spawn(pcall, http.request, server.url)
    T.until_(function() return select(2, server:load()) == 1 end)
    t.eq(server:stop(0.05), false)
    local _, err = request:join()
    t.eq(err.kind, "network")
  end)
  t.eq(#ended, 1)
end)

T.test("stop with nothing to do ends idle connections at once", function(t)
  local server = serve(function(_, res) res:send(200) end)
  t.eq(http.request(server.url).status, 200) -- curl keeps this connection
  t.eq(server:stop(5), true)
end)

T.test("a server ends with the group that opened it", function(t)
  local server, url
  task.group(function()
    server = serve(function(_, res) res:send(200) end)
    url = server.url
    t.eq(http.request(url).status, 200)
  end)
  t.ok(server:closed())
  t.raises("network", http.request, url)
end)

T.test("wait returns when it is closed", function(t)
  local server = serve(quiet)
  task.group(function(g)
    local waiter = g:spawn(function()
      server:wait()
      return "ended"
    end)
    task.sleep(0)
    server:close()
    t.eq(waiter:join(), "ended")
  end)
end)

-- Limits --------------------------------------------------------------------------------------------------

T.test("a body above max_body gets 413 and no handler", function(t)
  local handled = 0
  local server <close> = serve(function(_, res)
    handled = handled + 1
    res:send(200)
  end, { max_body = 100 })
  t.eq(http.request { url = server.url, body = ("x"):rep(100) }.status, 200)
  t.eq(http.request { url = server.url, body = ("x"):rep(101) }.status, 413)
  local chunk = "20\r\n" .. ("y"):rep(32) .. "\r\n"
  local chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" .. chunk:rep(9)
  t.match(raw(server.port, chunked), "^HTTP/1%.1 413 ")
  t.eq(handled, 1)
end)

T.test("headers above the ceiling, and what is not HTTP, get an error and no handler", function(t)
  local handled = 0
  local server <close> = serve(function() handled = handled + 1 end)
  t.match(raw(server.port, "GET / HTTP/1.1\r\nX: " .. ("a"):rep(70000) .. "\r\n\r\n"), "^HTTP/1%.1 4%d%d ")
  t.match(raw(server.port, "HELLO\r\n\r\n"), "^HTTP/1%.%d 400 ")
  t.match(raw(server.port, "GET / HTTP/1.1\r\nno colon here\r\n\r\n"), "^HTTP/1%.1 400 ")
  t.match(raw(server.port, "POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"), "^HTTP/1%.1 4%d%d ")
  t.match(raw(server.port, "TRACE / HTTP/1.1\r\n\r\n"), "^HTTP/1%.1 501 ")
  t.eq(handled, 0)
  T.until_(function() return (server:load()) == 0 end)
end)

T.test("connections above the limit are refused, and taken again when there is room", function(t)
  local server <close> = serve(function(req, res)
    if req.path == "/hold" then
      res:event { data = "x" }
      task.sleep(60)
    end
    res:send(200, nil, "fine")
  end, { max_connections = 2 })
  local one, two = http.stream(server.url .. "/hold"), http.stream(server.url .. "/hold")
  t.match(raw(server.port, "GET / HTTP/1.1\r\n\r\n"), "^HTTP/1%.1 503 Service Unavailable\r\n")
  t.eq((server:load()), 2)
  one:close()
  T.until_(function() return (server:load()) == 1 end)
  t.eq(http.request(server.url).body, "fine")
  two:close()
end)

T.test("a connection that sends no whole request in time is ended", function(t)
  local server <close> = serve(function(_, res) res:send(200, nil, "fine") end, { header_timeout = 0.1 })
  for _, bytes in ipairs { "", "GET / HT", "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc" } do
    local _, _, code = raw(server.port, bytes, 10)
    t.eq(code, 0, "the server ended it, not the client's patience")
  end
  T.until_(function() return (server:load()) == 0 end)
end)

T.test("a connection that asks nothing more is ended; a long silent reply is not", function(t)
  local server <close> = serve(function(_, res)
    task.sleep(0.4) -- longer than both limits
    res:send(200, nil, "late")
  end, { header_timeout = 0.1, idle_timeout = 0.1 })
  local got, _, code = raw(server.port, "GET / HTTP/1.1\r\n\r\n", 10)
  t.match(got, "late$")
  t.eq(code, 0)
end)

T.test("an address that is taken, one that is not ours, options that do not exist", function(t)
  local server <close> = serve(quiet)
  local err = t.raises("network", listen, { handler = quiet, port = server.port })
  t.match(tostring(err), "cannot listen on 127%.0%.0%.1 port %d+: Address already in use.*another program")
  t.raises("network", listen, { handler = quiet, address = "192.0.2.1" })
  t.raises("network", listen, { handler = quiet, address = "no such host" })
  t.raises("unknown option 'prot' %(did you mean 'port'%?%)", listen, { handler = quiet, prot = 1 })
  t.raises("option 'handler' is missing", listen, {})
  t.raises("option 'port' must be", listen, { handler = quiet, port = 70000 })
end)

T.test("IPv6", function(t)
  local ok, server = pcall(serve, function(req, res) res:send(200, nil, req.peer) end, { address = "::1" })
  if not ok then t.skip "no IPv6 here" end
  t.match(server.url, "^http://%[::1%]:%d+$")
  t.eq(http.request(server.url).body, "::1")
  server:close()
end)

T.test("waiting for a client is no deadlock", function(t)
  local inbox = task.channel(1)
  local server <close> = serve(function(req, res)
    inbox:send(req.body)
    res:send(200)
  end)
  os.execute(([[(bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d; sleep 0.2
    printf "POST / HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi" >&3
    timeout 5 cat <&3' >/dev/null 2>&1) &]]):format(server.port))
  t.eq(inbox:receive(), "hi") -- nothing else runs in this process
  T.until_(function() return (server:load()) == 0 end)
end)

T.test("what a handler had to unwind is unwound when the script ends", function(t)
  local C = require "command"
  local result = C.run { C.sluice, "run", "-e", [[
    local sluice = require "sluice"
    local server = sluice.server.listen { handler = function(_, res)
      local guard <close> = setmetatable({}, { __close = function(_, err) print(err.message) end })
      res:event { data = "x" }
      sluice.task.sleep(100)
    end }
    local stream = sluice.http.stream(server.url)
    stream:events()(stream)
    print "end of script"]] }
  t.eq({ result.code, result.stderr }, { 0, "" })
  t.match(result.stdout, "^end of script\nthe task was cancelled: .*\n$")
end)

T.test("the stub for editors says what the C modules have", function(t)
  local core = require "sluice.core.server"
  local text = T.read "lualib/meta/sluice/server.lua"
  local function declared(class)
    local names = {}
    for name in text:gmatch("\nfunction " .. class .. "[:.]([%w_]+)%(") do names[name] = true end
    return names
  end
  local function defined(methods)
    local names = {}
    for name in pairs(methods) do
      if type(name) == "string" and not name:find "^__" then names[name] = true end
    end
    return names
  end
  local listener <close> = core.listen { address = "127.0.0.1" }
  t.eq(declared "Listener", defined(getmetatable(listener)))
  local exchange = defined(core.exchange)
  exchange.json, exchange.event = nil, nil -- added in Lua
  t.eq(declared "Exchange", exchange)
  local functions = defined(core)
  functions.exchange = nil
  t.eq(declared "server", functions)
end)

T.test("many at once, some leaving: nothing is left", function(t)
  local server <close> = serve(function(req, res)
    for i = 1, 5 do
      res:event { data = json.encode { i = i, path = req.path } }
      task.sleep(0.001)
    end
  end)
  local whole = 0
  local list = {}
  for i = 1, 200 do list[i] = i end
  task.map(list, function(i)
    local stream <close> = http.stream(server.url .. "/" .. i)
    local n = 0
    for _ in stream:events() do
      n = n + 1
      if i % 3 == 0 and n == 2 then return end
    end
    if n == 5 then whole = whole + 1 end
  end, { concurrency = 100 })
  t.eq(whole, 134)
  T.until_(function() return select(2, server:load()) == 0 end)
end)

T.done()
