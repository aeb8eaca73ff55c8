-- sluice.http.request over real sockets: what servers do wrong, what must never leave, what is reused.
-- timeout: 90

local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local http, task = sluice.http, sluice.task

local MIB = 1 << 20

-- A server that sends these bytes, whatever it is asked, and then "close"s, "reset"s, or says nothing.
local function raw(bytes, how)
  return S.start(function(_, res)
    res:raw(bytes)
    if how == "stall" then S.stall() end
    res:flush()
    if how == "reset" then res:abort() else res:close() end
  end)
end

local function get(server, more)
  local opts = { url = type(server) == "string" and server or server.url .. "/", timeout = { idle = 5, total = 10 } }
  for name, value in pairs(more or {}) do opts[name] = value end
  return http.request(opts)
end

-- Replies ---------------------------------------------------------------------------------------------

T.test("a reply: status, headers by lower-case name, repeated ones joined, body, times", function(t)
  local server <close> = S.start(function(req, res)
    res:send(404, { ["Content-Type"] = "text/plain", ["X-Two"] = { "a", "b" }, ["X-Empty"] = "" },
      req.method .. " " .. req.path .. "?" .. req.query .. " " .. req.headers["user-agent"])
  end)
  local r = get(server.url .. "/a%20b?c=d")
  t.eq(r.status, 404)
  t.eq(r.headers["content-type"], "text/plain")
  t.eq(r.headers["x-two"], "a, b")
  t.eq(r.headers["x-empty"], "")
  t.match(r.body, "^GET /a%%20b%?c=d sluice/%d")
  t.ok(r.elapsed > 0 and r.elapsed < 5)
  t.eq(r.url, server.url .. "/a%20b?c=d")
end)

T.test("methods and bodies arrive as they were meant", function(t)
  local server <close> = S.start(function(req, res)
    res:json(200, { method = req.method, body = req.body, type = req.headers["content-type"],
      length = req.headers["content-length"], expect = req.headers["expect"] })
  end, { count = true })
  t.eq(get(server, { json = { a = 1 } }):json(),
    { method = "POST", body = '{"a":1}', type = "application/json", length = "7" })
  t.eq(get(server, { body = "x\0y" }):json(),
    { method = "POST", body = "x\0y", type = "application/octet-stream", length = "3" })
  t.eq(get(server, { method = "put", body = "", headers = { ["Content-Type"] = "text/x" } }):json(),
    { method = "PUT", body = "", type = "text/x", length = "0" })
  t.eq(get(server, { method = "DELETE" }):json(), { method = "DELETE", body = "" })
  t.eq(get(server, { method = "PATCH", body = "p" }):json().method, "PATCH")
  local big = ("b"):rep(3 * MIB) -- larger than any socket buffer; libcurl must not ask for 100-continue
  local echoed = get(server, { body = big }):json()
  t.eq(#echoed.body, #big)
  t.eq(echoed.expect, nil)
  t.eq(get(server, { method = "HEAD" }).body, "")
  t.eq(get(server):json(), { method = "GET", body = "" }) -- nothing of the former request is left
  t.eq(server.connections() or 1, 1)
end)

T.test("HEAD has no body, and its Content-Length is not one to wait for or to refuse", function(t)
  local server <close> = raw "HTTP/1.1 200 OK\r\nContent-Length: 3000000000\r\n\r\n"
  local r = get(server, { method = "HEAD" })
  t.eq(r.status, 200)
  t.eq(r.headers["content-length"], "3000000000")
  t.raises("HEAD", get, server, { method = "HEAD", body = "x" })
end)

T.test("HTTP/1.0, no length: the end of the connection ends the body", function(t)
  local server <close> = raw "HTTP/1.0 200 OK\r\n\r\nold but whole"
  t.eq(get(server).body, "old but whole")
end)

T.test("100 Continue and other interim replies are passed over, with their headers", function(t)
  local server <close> = raw("HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    .. "HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-Final: 1\r\n\r\nok")
  local r = get(server)
  t.eq({ r.status, r.body, r.headers["x-interim"], r.headers["x-final"], r.headers.link }, { 201, "ok", nil, "1", nil })
end)

T.test("chunks: extensions, trailers, odd sizes", function(t)
  local server <close> = raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    .. "1;name=value\r\nh\r\n0A\r\nello world\r\n1\r\n!\r\n0\r\nX-Sum: 12\r\n\r\n")
  local r = get(server)
  t.eq(r.body, "hello world!")
end)

T.test("204 and 304 have no body", function(t)
  local server <close> = S.start(function(req, res)
    res:raw(("HTTP/1.1 %s No\r\nContent-Length: 99999999999\r\n\r\n"):format(req.path:sub(2)))
    res:close()
  end)
  t.eq(get(server.url .. "/204").body, "")
  t.eq(get(server.url .. "/304").status, 304)
end)

-- Broken replies ----------------------------------------------------------------------------------------

local BROKEN = {
  { "closed without a word", "", "close", "network", "response", "closed the connection without answering" },
  { "half a status line", "HTTP/1.1 20", "close", nil, nil, nil },
  { "half the headers", "HTTP/1.1 200 OK\r\nContent-Le", "close", nil, nil, nil },
  { "reset after half the headers", "HTTP/1.1 200 OK\r\nContent-Le", "reset", "network", "response", "reset" },
  { "reset before the headers", "", "reset", "network", "response", nil },
  { "less than Content-Length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "close", "network", "body",
    "in the middle of the reply" },
  { "reset in the body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "reset", "network", "body", "reset" },
  { "no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "close", "network", "body", nil },
  { "half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello", "close", "network", "body", nil },
  { "a chunk size that is none", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", "close",
    "network", "body", nil },
  { "no HTTP at all", "SSH-2.0-OpenSSH_9.2\r\n", "close", "protocol", "response", "not valid HTTP" },
  { "binary", "\0\1\2\3\255\254\0\0\r\n\r\n", "close", "protocol", "response", "not valid HTTP" },
  { "an unknown version", "HTTP/7.5 200 OK\r\n\r\n", "close", "protocol", "response", "not valid HTTP" },
  { "a length that is none", "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nx", "close", "protocol", "response",
    "not valid HTTP" },
  { "gzip that is none", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", "close",
    "protocol", "body", "not valid HTTP" },
}

for _, case in ipairs(BROKEN) do
  local name, bytes, how, kind, phase, words = table.unpack(case, 1, 6)
  T.test("broken reply: " .. name, function(t)
    local server <close> = S.start(function(_, res)
      if bytes == "" then return res:abort(how) end
      res:raw(bytes)
      res:flush()
      if how == "reset" then res:abort() else res:close() end
    end)
    local err = t.raises(kind and { kind = kind, phase = phase } or "^%l+: ", get, server)
    t.ok(err.kind == "network" or err.kind == "protocol", tostring(err))
    t.match(tostring(err), "GET http://127.0.0.1:%d+/: ")
    if words then t.match(tostring(err), words) end
    t.eq(#server.seen, 1) -- sent once: curl does not retry by itself what may have been acted on
  end)
end

T.test("more than Content-Length is not taken for the next reply", function(t)
  local server <close> = S.start(function(req, res, n)
    if n == 1 then
      res:raw "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
      res:flush()
      task.sleep(0.02) -- so that it comes when the client has done with the reply
      res:raw "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
      S.stall()
    end
    res:send(200, nil, "second " .. req.path)
  end)
  t.eq(get(server).body, "first")
  T.until_(function() return server.seen[1] and true end)
  task.sleep(0.05)
  t.eq(get(server.url .. "/2").body, "second /2")
end)

T.test("trailing bytes in the same packet are dropped, too", function(t)
  local server <close> = S.start(function(req, res, n)
    if n > 1 then return res:send(200, nil, "second " .. req.path) end
    res:raw "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    S.stall()
  end)
  t.eq(get(server).body, "first")
  t.eq(get(server.url .. "/2").body, "second /2")
end)

-- Ceilings ----------------------------------------------------------------------------------------------

local function rss_kib()
  local file = io.open "/proc/self/status"
  local text = file and file:read "a" or ""
  if file then file:close() end
  return tonumber(text:match "VmRSS:%s*(%d+)")
end

T.test("a body announced as 2 GB is refused at its headers", function(t)
  local sent = 0
  local server <close> = S.start(function(_, res)
    res:raw "HTTP/1.1 200 OK\r\nContent-Length: 2147483648\r\n\r\n"
    local piece = ("x"):rep(MIB)
    while true do
      res:raw(piece)
      sent = sent + 1
    end
  end)
  local before = rss_kib()
  local err = t.raises({ kind = "protocol" }, get, server)
  t.match(tostring(err), "more than 67108864 bytes")
  T.until_(function() return server.gone == 1 end)
  t.ok(sent < 16, sent .. " MiB were sent") -- what fits into the buffers between the two
  local after = rss_kib()
  if before and not T.slow then t.ok(after - before < 48 * 1024, ("%d KiB more"):format(after - before)) end
end)

T.test("an endless body without a length is refused at the ceiling", function(t)
  local exact <close> = raw("HTTP/1.0 200 OK\r\n\r\n" .. ("y"):rep(1000))
  t.eq(#get(exact, { max_body = 1000 }).body, 1000)
  local server <close> = S.start(function(_, res)
    res:start(200)
    local piece = ("x"):rep(65536)
    while true do res:write(piece) end
  end)
  local err = t.raises({ kind = "protocol", phase = "body" }, get, server, { max_body = 3 * MIB })
  t.match(tostring(err), "more than 3145728 bytes")
  T.until_(function() return server.gone == 1 end)
end)

local function gzip(text) -- by a process of its own, so that the tests need no compressor of ours
  local folder = T.tmpdir()
  T.write(folder .. "/plain", text)
  if not os.execute(("gzip -9 -c '%s/plain' >'%s/packed' 2>/dev/null"):format(folder, folder)) then return nil end
  return T.read(folder .. "/packed")
end

T.test("gzip is asked for and unpacked; a bomb ends at the ceiling", function(t)
  local packed = gzip(("sluice "):rep(1000))
  if not packed then t.skip "no gzip here" end
  local bomb = gzip(("\0"):rep(96 * MIB))
  local server <close> = S.start(function(req, res)
    local body = req.path == "/bomb" and bomb or packed
    res:send(200, { ["Content-Encoding"] = "gzip" }, body)
  end)
  t.eq(get(server).body, ("sluice "):rep(1000))
  t.match(server.seen[1].headers["accept-encoding"], "gzip")
  local err = t.raises({ kind = "protocol" }, get, server.url .. "/bomb")
  t.match(tostring(err), "more than 67108864 bytes")
end)

T.test("headers have a ceiling, alone and together", function(t)
  local one <close> = raw("HTTP/1.1 200 OK\r\nX-Long: " .. ("v"):rep(300 * 1024) .. "\r\nContent-Length: 0\r\n\r\n")
  local err = t.raises("protocol", get, one)
  t.match(tostring(err), "header")
  local many <close> = raw("HTTP/1.1 200 OK\r\n" .. ("X-Some: " .. ("v"):rep(1000) .. "\r\n"):rep(300) .. "\r\n")
  err = t.raises("protocol", get, many)
  t.match(tostring(err), "headers have more than 262144 bytes")
end)

T.test("thousands of headers cost no thousands of searches", function(t)
  local lines = {}
  for i = 1, 12000 do lines[i] = ("x%d: v\r\n"):format(i) end
  local server <close> = S.start(function(req, res)
    local head = req.path == "/same" and ("x: v\r\n"):rep(30000) or table.concat(lines)
    res:raw("HTTP/1.1 200 OK\r\n" .. head .. "Content-Length: 0\r\n\r\n")
    res:close()
  end)
  local started = os.clock()
  t.eq(get(server).headers.x11999, "v")
  t.match(get(server.url .. "/same").headers.x, "^v, v, v")
  local took = os.clock() - started
  t.ok(took < (T.slow and 20 or 1), took .. " s of processor time")
end)

-- Requests that must not leave ----------------------------------------------------------------------------

T.test("header values with line breaks are refused before anything is sent", function(t)
  local server <close> = S.start(function(_, res) res:send(200) end)
  for _, value in ipairs { "a\r\nEvil: 1", "a\nb", "a\rb", "a\0b", "key\n" } do
    t.raises("header 'X%-Key': its value holds a line break or a NUL", get, server, { headers = { ["X-Key"] = value } })
    t.raises("header 'X%-Key'", get, server, { headers = { ["X-Key"] = sluice.secret.literal(value, "k") } })
  end
  for _, name in ipairs { "a b", "a:", "", "a\r\nb", "é" } do
    t.raises("is not a header name", get, server, { headers = { [name] = "v" } })
  end
  t.raises("a string or a secret expected", get, server, { headers = { a = {} } })
  for words, opts in pairs {
    ["sluice.http.request: header 'X': its value holds"] = { headers = { X = "a\n" } },
    ["sluice.http.request: '.*' is not an HTTP method"] = { method = "G\r\n" },
    ["sluice.http.request: option 'json': a: cannot encode NaN"] = { json = { a = 0 / 0 } },
  } do
    opts.url = server.url
    t.match(t.raises(words, function() http.request(opts) end), "http_request_test.lua:%d+: ") -- the script's line
  end
  t.eq(#server.seen, 0)
end)

T.test("bad URLs say what is wrong", function(t)
  for url, words in pairs {
    ["nonsense"] = "http", ["ftp://x/"] = "must begin with http", ["file:///etc/passwd"] = "must begin with http",
    ["http://"] = "not a URL", ["http://a b/"] = "not a URL", ["http://x:99999/"] = "not a URL",
    ["http://[::1"] = "not a URL", [""] = "url", ["http://h/\0x"] = "NUL", ["gopher://x"] = "must begin with http",
  } do
    local err = t.raises(words, function() http.request { url = url } end)
    t.eq(type(err), "string", url)
    t.match(err, "http_request_test.lua:%d+: sluice.http.request: ", url)
  end
  t.raises("unknown option 'hedaers' %(did you mean 'headers'%?%)", http.request, { url = "http://x", hedaers = {} })
  t.raises("exclude each other", http.request, { url = "http://x", body = "a", json = 1 })
end)

T.test("nobody there, no such host", function(t)
  local err = t.raises({ kind = "network", phase = "connect" }, get, ("http://127.0.0.1:%d/"):format(S.closed_port()))
  t.match(tostring(err), "[Cc]ouldn't connect")
  err = t.raises({ kind = "network", phase = "connect" }, get, "http://no-such-host.invalid/")
  t.match(tostring(err), "no%-such%-host%.invalid")
end)

T.test("credentials in a URL reach the server, and no message", function(t)
  local server <close> = S.start(function(req, res)
    if req.headers.authorization == "Basic dXNlcjpwYXNzdzByZA==" then return res:send(200, nil, "in") end
    res:send(401)
  end)
  local url = server.url:gsub("//", "//user:passw0rd@") .. "/x?key=passw0rd"
  t.eq(get(url).body, "in")
  server.inner:close()
  local err = t.raises("network", get, url)
  t.ok(not tostring(err):find "passw0rd", tostring(err))
end)

-- Time --------------------------------------------------------------------------------------------------

T.test("timeouts name the one that struck", function(t)
  local server <close> = S.start(function(req, res)
    if req.path == "/silent" then S.stall() end
    res:start(200)
    res:write "some"
    if req.path == "/stalls" then S.stall() end
    while true do
      task.sleep(0.02)
      res:write "more"
    end
  end)
  local function failing(path, timeout)
    return t.raises("timeout", get, server.url .. path, { timeout = timeout })
  end
  local err = failing("/silent", { first_token = 0.1 })
  t.eq(err.phase, "first_token")
  err = failing("/silent", { total = 0.1 })
  t.eq(err.phase, "total")
  t.match(tostring(err), "timeout%.total")
  err = failing("/stalls", { idle = 0.1 })
  t.eq(err.phase, "idle")
  t.ok(err.elapsed >= 0.1 and err.elapsed < 2, err.elapsed)
  err = failing("/drips", { idle = 2, total = 0.2 }) -- bytes are progress for idle, not for total
  t.eq(err.phase, "total")
  T.until_(function() return server.gone == 4 end)
end)

T.test("total holds for all redirects together", function(t)
  local server <close> = S.start(function(_, res)
    task.sleep(0.06)
    res:send(302, { Location = "/again" })
  end)
  local err = t.raises("timeout", get, server, { timeout = { total = 0.2 }, redirects = 50 })
  t.eq(err.phase, "total")
  t.ok(#server.seen < 10, #server.seen)
end)

T.test("a deadline cancels at once and closes the connection", function(t)
  local server <close> = S.start(function() S.stall() end)
  local err = t.raises("timeout", task.deadline, 0.05, get, server)
  t.eq(err.phase, "deadline")
  T.until_(function() return server.gone == 1 and server.open() == 0 end)
end)

-- Redirects ---------------------------------------------------------------------------------------------

local function echo(req, res)
  local names = {}
  for name in pairs(req.headers) do names[#names + 1] = name end
  table.sort(names)
  res:json(200, { method = req.method, body = req.body, headers = req.headers, names = names })
end

local SECRETS = {
  Authorization = "Bearer s3cr3t", Cookie = "id=s3cr3t", ["X-Api-Key"] = "s3cr3t", ["Api-Key"] = "s3cr3t",
  ["X-Goog-Api-Key"] = "s3cr3t", ["X-Vault-Token"] = "s3cr3t", ["Private-Token"] = "s3cr3t",
  ["X-Amz-Security-Token"] = "s3cr3t", ["Proxy-Authorization"] = "Basic s3cr3t", ["X-Auth"] = "s3cr3t",
}

T.test("a redirect to another port or host carries no credentials", function(t)
  local other <close> = S.start(echo)
  local server <close> = S.start(function(_, res) res:send(302, { Location = other.url .. "/there" }) end)
  local headers = { ["X-Plain"] = "stays", ["X-Hidden"] = sluice.secret.literal("s3cr3t", "a secret") }
  for name, value in pairs(SECRETS) do headers[name] = value end
  local r = get(server.url:gsub("//", "//user:s3cr3t@"), { headers = headers })
  local seen = r:json().headers
  for name, value in pairs(seen) do t.ok(not value:find "s3cr3t", name .. ": " .. value) end
  t.eq(seen["x-plain"], "stays")
  t.eq(seen.host, other.url:sub(8))
  t.eq(r.url, other.url .. "/there")
  t.ok(server.seen[1].headers.authorization and server.seen[1].headers["x-goog-api-key"])
end)

T.test("a Host header of one's own stays with its host", function(t)
  local other <close> = S.start(echo)
  local server <close> = S.start(function(_, res) res:send(307, { Location = other.url }) end)
  t.eq(get(server, { headers = { Host = "virtual.example" } }):json().headers.host, other.url:sub(8))
  t.eq(server.seen[1].headers.host, "virtual.example")
end)

T.test("a redirect on the same host keeps them; back again they do not return", function(t)
  local other <close> = S.start(function(_, res) res:send(302, { Location = S.back }) end)
  local server <close> = S.start(function(req, res)
    if req.path == "/start" then return res:send(302, { Location = "/same?x=1" }) end
    if req.path == "/away" then return res:send(302, { Location = other.url }) end
    echo(req, res)
  end)
  S.back = server.url .. "/back"
  t.eq(get(server.url .. "/start", { headers = SECRETS }):json().headers.authorization, "Bearer s3cr3t")
  t.eq(get(server.url .. "/away", { headers = SECRETS }):json().headers.authorization, nil)
end)

T.test("what becomes of method and body", function(t)
  local status
  local other <close> = S.start(echo)
  local server <close> = S.start(function(req, res)
    if req.path == "/" then return res:send(status, { Location = "/next" }) end
    if req.path == "/away" then return res:send(status, { Location = other.url }) end
    echo(req, res)
  end)
  for code, want in pairs { [301] = "GET", [302] = "GET", [303] = "GET", [307] = "POST", [308] = "POST" } do
    status = code
    local seen = get(server, { body = "data" }):json()
    t.eq({ seen.method, seen.body }, { want, want == "POST" and "data" or "" }, code)
    if want == "GET" then t.eq(seen.headers["content-type"], nil) end
  end
  status = 307
  local err = t.raises({ kind = "protocol", code = "redirect" }, get, server.url .. "/away", { body = "data" })
  t.match(tostring(err), "the body is not sent there")
  t.eq(#other.seen, 0)
  status = 303
  t.eq(get(server.url .. "/away", { body = "data" }):json().body, "")
  t.eq(get(server, { method = "HEAD" }).status, 200)
end)

T.test("redirects that lead nowhere", function(t)
  local location
  local server <close> = S.start(function(_, res) res:send(302, { Location = location }) end)
  location = "/loop"
  local err = t.raises({ kind = "protocol", code = "redirects" }, get, server)
  t.match(tostring(err), "more than 5 redirects")
  t.eq(#server.seen, 6)
  for _, to in ipairs { "ftp://127.0.0.1/x", "file:///etc/passwd", "javascript:alert(1)", "http://", "http://[" } do
    location = to
    t.raises({ kind = "protocol", code = "redirect" }, get, server)
  end
  location = "/x"
  local r = get(server, { redirects = 0 })
  t.eq({ r.status, r.headers.location }, { 302, "/x" })
end)

-- Connections ---------------------------------------------------------------------------------------------

T.test("a connection is used again, and not after Connection: close or a broken reply", function(t)
  local server <close> = S.start(function(req, res)
    if req.path == "/close" then return res:send(200, { Connection = "close" }, "bye") end
    if req.path == "/broken" then
      res:raw "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"
      res:flush()
      return res:abort()
    end
    res:send(200, nil, "ok")
  end, { count = true })
  for _ = 1, 5 do get(server) end
  if not server.connections() then t.skip "no /proc/self/net/tcp" end
  t.eq(server.connections(), 1)
  get(server.url .. "/close")
  get(server)
  t.eq(server.connections(), 2)
  t.raises("network", get, server.url .. "/broken")
  get(server)
  t.eq(server.connections(), 3)
end)

T.test("a connection that was closed while it was idle is replaced without a failure", function(t)
  local server <close> = S.start(function(_, res) res:send(200, nil, "ok") end, { idle_timeout = 0.05 })
  for i = 1, 4 do
    t.eq(get(server, { body = "b" }).body, "ok")
    t.eq(#server.seen, i)
    T.until_(function() return server.open() == 0 end)
  end
end)

T.test("IPv6", function(t)
  local ok, server = pcall(S.start, echo, { address = "::1" })
  if not ok then t.skip "no IPv6 here" end
  local closing <close> = server -- luacheck: ignore 211
  t.match(server.url, "^http://%[::1%]:%d+$")
  t.eq(get(server, { body = "six" }):json().body, "six")
end)

T.test("many at once, each its own reply", function(t)
  local server <close> = S.start(function(req, res)
    task.sleep(0.01)
    res:send(200, nil, req.path)
  end)
  local paths = {}
  for i = 1, 200 do paths[i] = "/" .. i end
  local bodies = task.map(paths, function(path) return get(server.url .. path).body end, { concurrency = 50 })
  t.eq(bodies, paths)
  t.ok(server.most > 10, "only " .. server.most .. " together")
end)

T.test("a task that waits for a reply inside table.sort is told so, and nothing stays open", function(t)
  local server <close> = S.start(function(_, res) res:send(200) end)
  t.raises("cannot wait inside the comparison of table%.sort", table.sort, { 1, 2 }, function() return get(server).status == 200 end)
end)

T.done()
