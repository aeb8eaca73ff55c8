-- Proxies, as the environment names them: what goes through one, what never does, and what a failure says.
local T = require "harness"
local C = require "command"

local folder = T.tmpdir()
local DEAD = "http://me:hunter2secret@127.0.0.1:1"

T.write(folder .. "/server.lua", [[
local sluice = require "sluice"
local server <close> = sluice.server.listen { handler = function(req, res)
  res:json(200, { host = req.headers.host, path = req.path, key = req.headers.authorization,
    proxy = req.headers["proxy-authorization"] })
end }
print("port " .. server.port)
io.stdout:flush()
server:wait()]])

T.write(folder .. "/get.lua", [[
local r = require "sluice".http.request { url = arg[1], headers = { Authorization = "Bearer k" } }
local got = r:json()
print(got.host, got.path, got.key, got.proxy)]])

local function get(url, env) return C.run({ C.sluice, "run", folder .. "/get.lua", url }, { env = env }) end

local function test(name, f)
  T.test(name, function(t)
    local server <close> = C.start { C.sluice, "run", folder .. "/server.lua" }
    f(t, ("127.0.0.1:%s"):format(server:expect "port (%d+)"))
  end)
end

test("http_proxy, all_proxy and ALL_PROXY are asked, with the credentials in them", function(t, address)
  for _, name in ipairs { "http_proxy", "all_proxy", "ALL_PROXY" } do
    local r = get("http://some.invalid/x", { [name] = "http://u:p@" .. address })
    t.eq({ r.code, r.stdout, r.stderr }, { 0, "some.invalid\t/x\tBearer k\tBasic dTpw\n", "" }, name)
  end
end)

test("no_proxy takes hosts out; HTTP_PROXY, which a web client can set for a CGI script, is not read", function(t, address)
  for _, env in ipairs { { http_proxy = address, no_proxy = "some.invalid" }, { HTTP_PROXY = address },
    { https_proxy = address } } do
    local r = get("http://some.invalid/x", env)
    t.eq(r.code, 1)
    t.match(r.stderr, "network: GET http://some.invalid/x: Could not resolve host")
  end
end)

test("this machine is never asked through a proxy", function(t, address)
  local port = address:match ":(%d+)"
  for _, host in ipairs { "127.0.0.1", "localhost", "127.1", "LOCALHOST" } do
    local r = get(("http://%s:%s/x"):format(host, port), { http_proxy = DEAD, all_proxy = DEAD })
    t.eq({ r.code, r.stderr }, { 0, "" }, host)
    t.match(r.stdout, "\t/x\tBearer k\tnil\n")
  end
  -- on one handle: there and back
  T.write(folder .. "/both.lua", [[
local sluice = require "sluice"
for _, host in ipairs { "127.0.0.1", "some.invalid", "127.0.0.1", "128.0.0.1", "localhost" } do
  local r, err = sluice.try(sluice.http.request, { url = ("http://%s:%s/"):format(host, arg[1]) })
  print(r and r.status or err.phase)
end]])
  local r = C.run({ C.sluice, "run", folder .. "/both.lua", port }, { env = { http_proxy = DEAD } })
  t.eq(r.stdout, "200\nconnect\n200\nconnect\n200\n")
end)

T.test("--mock keeps its word that nothing leaves this machine", function(t)
  local r = C.run({ C.sluice, "run", "--mock", "-e",
    'print(#require "sluice".model "openai/x":ask "Hello".text > 0)' }, { env = { http_proxy = DEAD, all_proxy = DEAD } })
  t.eq({ r.code, r.stdout }, { 0, "true\n" })
end)

test("a proxy that fails is named by its variable, without its credentials, as a connection that was not made",
  function(t, address)
    local show = [[
local sluice = require "sluice"
local _, err = sluice.try(sluice.http.request, { url = arg[1], method = "POST", body = "x" })
print(err.kind, err.phase, err)]]
    T.write(folder .. "/show.lua", show)
    local function failure(url, env) return C.run({ C.sluice, "run", folder .. "/show.lua", url }, { env = env }).stdout end
    t.match(failure("http://some.invalid/", { http_proxy = DEAD }),
      "^network\tconnect\t.*Failed to connect to 127.0.0.1 port 1.*%(http_proxy names a proxy%)")
    t.match(failure("https://some.invalid/", { all_proxy = "http://me:hunter2secret@nosuch.invalid:1" }),
      "^network\tconnect\t.*Could not resolve proxy: nosuch.invalid %(all_proxy names a proxy%)")
    -- our server knows no CONNECT: nothing of the request has been sent
    local refused = failure("https://some.invalid/", { HTTPS_PROXY = "http://me:hunter2secret@" .. address })
    t.match(refused, "^network\tconnect\t.*CONNECT tunnel failed, response 501 %(HTTPS_PROXY names a proxy%)")
    t.ok(not refused:find("hunter2", 1, true))
  end)

T.done()
