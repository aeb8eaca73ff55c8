-- A server whose certificate an authority of one's own has signed: openssl's, beside the test.
local T = require "harness"
local C = require "command"

local folder = T.tmpdir()

local function works(command) return os.execute(command .. " >/dev/null 2>&1") == true end

local ready = works "openssl version" and works(("openssl req -x509 -newkey rsa:2048 -nodes -keyout '%s/key.pem' "
  .. "-out '%s/ca.pem' -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"):format(folder, folder))

T.write(folder .. "/get.lua", [[
local sluice = require "sluice"
local r = sluice.http.request { url = arg[1], timeout = { total = 10 } }
print(r.status)]])

local function test(name, f)
  T.test(name, function(t)
    if not ready then t.skip "no openssl here to make a certificate" end
    local server <close> = C.start { "openssl", "s_server", "-accept", "127.0.0.1:0", "-www", "-key", folder .. "/key.pem",
      "-cert", folder .. "/ca.pem" }
    local url = ("https://127.0.0.1:%s/"):format(server:expect "ACCEPT [%d.]+:(%d+)")
    f(t, function(env, host)
      return C.run({ C.sluice, "run", folder .. "/get.lua", (url:gsub("127.0.0.1", host or "%0")) }, { env = env })
    end)
  end)
end

test("it is not trusted, and the error says where its certificate goes", function(t, get)
  local r = get {}
  t.eq({ r.code, r.stdout }, { 1, "" })
  t.match(r.stderr, "^sluice: network: GET https://[%d.:]+/: TLS: the server could not be verified: .*"
    .. "%(a private authority's certificate goes into the file that SSL_CERT_FILE names%)")
  r = get { REQUESTS_CA_BUNDLE = "/dev/null" }
  t.match(r.stderr, "the file that REQUESTS_CA_BUNDLE names")
  r = get { CURL_CA_BUNDLE = "/dev/null", SSL_CERT_FILE = folder .. "/ca.pem" }
  t.match(r.stderr, "the file that CURL_CA_BUNDLE names")
end)

test("each of the three variables brings it", function(t, get)
  for _, name in ipairs { "CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE" } do
    local r = get { [name] = folder .. "/ca.pem" }
    t.eq({ r.code, r.stdout, r.stderr }, { 0, "200\n", "" }, name)
  end
  t.eq(get({ SSL_CERT_FILE = "", REQUESTS_CA_BUNDLE = folder .. "/ca.pem" }).stdout, "200\n", "an empty one is not set")
end)

test("a certificate that is trusted, but another's", function(t, get)
  local r = get({ SSL_CERT_FILE = folder .. "/ca.pem" }, "localhost")
  t.eq({ r.code, r.stdout }, { 1, "" })
  t.match(r.stderr, "TLS: the server could not be verified: .*localhost")
end)

test("variables that name no file", function(t, get)
  local r = get { SSL_CERT_FILE = folder .. "/gone.pem" }
  t.eq({ r.code, r.stdout }, { 1, "" })
  t.match(r.stderr, "TLS: .*the file that SSL_CERT_FILE names")
end)

T.done()
