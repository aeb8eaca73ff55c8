-- sluice.token.oauth over real sockets: what is sent, every kind of answer, retries, rotation.
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"

local task, token, json = sluice.task, sluice.token, sluice.json

sluice.log.configure { level = "error" }

local CANARY = "canary-5f3a9c-secret"

-- A token server that plays a script: script[n] (or rest) answers the nth request: a table
-- { status, body, headers }, or a function(req, res).
local function serve(script)
  local s = { requests = {} }
  s.server = sluice.server.listen { handler = function(req, res)
    local n = #s.requests + 1
    s.requests[n] = { method = req.method, headers = req.headers, body = req.body, form = req:query_table(req.body) }
    local step = script[n] or script.rest or {}
    if type(step) == "function" then return step(req, res) end
    local body = step.body or { access_token = "at-" .. n, token_type = "Bearer", expires_in = 3600 }
    if type(body) == "table" then body = json.encode(body) end
    local headers = { ["Content-Type"] = "application/json" }
    for name, value in pairs(step.headers or {}) do headers[name] = value end
    res:send(step.status or 200, headers, body)
  end }
  s.url = s.server.url .. "/token"
  return s
end

local function client(s, opts)
  local o = { url = s.url, client_id = "me", client_secret = CANARY, retry = { min = 0.001, max = 0.002 } }
  for key, value in pairs(opts or {}) do
    if value == "nil" then o[key] = nil else o[key] = value end
  end
  return token.oauth(o)
end

local function with(script, f)
  local s = serve(script)
  local server <close> = s.server -- luacheck: ignore 211
  return f(s)
end

-- What is sent -----------------------------------------------------------------------------------------

T.test("client credentials as RFC 6749 4.4.2 has them", function(t)
  with({}, function(s)
    t.eq(client(s, { scope = "a b", client_id = "s6BhdRkqt3", client_secret = "gX1fBat3bV" }):get():reveal(), "at-1")
    local r = s.requests[1]
    t.eq(r.method, "POST")
    t.eq(r.headers.authorization, "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW")
    t.eq(r.headers["content-type"], "application/x-www-form-urlencoded")
    t.eq(r.headers.accept, "application/json")
    t.eq(r.body, "grant_type=client_credentials&scope=a+b")
  end)
end)

T.test("id and secret are form-encoded before base64, or not where a server does not decode", function(t)
  with({}, function(s)
    local id, secret = "my id:1", "p%+/é &="
    client(s, { client_id = id, client_secret = secret }):get()
    t.eq(s.requests[1].headers.authorization, "Basic " .. "bXkraWQlM0ExOnAlMjUlMkIlMkYlQzMlQTkrJTI2JTNE")
    client(s, { client_id = "me", client_secret = secret, client_auth = "basic_raw" }):get()
    t.eq(s.requests[2].headers.authorization, "Basic " .. "bWU6cCUrL8OpICY9")
    client(s, { client_id = id, client_secret = secret, client_auth = "post" }):get()
    local r = s.requests[3]
    t.eq(r.headers.authorization, nil, "never both")
    t.eq({ r.form.client_id, r.form.client_secret }, { id, secret })
    client(s, { client_secret = "nil", refresh_token = "rt", client_id = id }):get()
    r = s.requests[4]
    t.eq(r.headers.authorization, nil)
    t.eq({ r.form.client_id, r.form.client_secret or "none" }, { id, "none" })
  end)
end)

T.test("scope as a list, audience, resource, fields and headers of one's own", function(t)
  with({}, function(s)
    client(s, { scope = { "a", "b" }, audience = "https://api/", resource = "urn:x", extra = { realm = "中", n = 3 },
      headers = { ["X-Tenant"] = "t1", ["X-Key"] = sluice.secret.literal("k1") } }):get()
    local r = s.requests[1]
    t.eq(r.form, { grant_type = "client_credentials", scope = "a b", audience = "https://api/", resource = "urn:x",
      realm = "中", n = "3" })
    t.eq({ r.headers["x-tenant"], r.headers["x-key"] }, { "t1", "k1" })
  end)
end)

T.test("the mock's own token server takes all three ways", function(t)
  local provider <close> = mock.start { pace = 0, oauth = { client_id = "i d", client_secret = "s:%" } }
  for _, way in ipairs { "basic", "post" } do
    local source = token.oauth { url = provider.url .. "/oauth/token", client_id = "i d", client_secret = "s:%",
      client_auth = way }
    t.match(source:get():reveal(), "^mock%-token%-")
  end
  local wrong = token.oauth { url = provider.url .. "/oauth/token", client_id = "i d", client_secret = "no" }
  t.raises({ kind = "auth", phase = "refresh", code = "invalid_client", status = 401 }, wrong.get, wrong)
end)

-- What comes back --------------------------------------------------------------------------------------

T.test("the life of a token: a number, a string, absent, refresh_in", function(t)
  with({
    { body = { access_token = "a", expires_in = 1800 } }, { body = { access_token = "a", expires_in = "900" } },
    { body = { access_token = "a" } }, { body = { access_token = "a", expires_in = sluice.json.null } },
    { body = { access_token = "a", token_type = "bearer", expires_in = 7200, refresh_in = 3600 } },
  }, function(s)
    for _, want in ipairs { 1800, 900, 300, 300, 7200 } do
      local source = client(s)
      source:get()
      t.near(source:state().left, want, 2)
    end
    local source = client(s, { ttl = 77 })
    s.requests = { 1, 2 } -- the third answer again
    source:get()
    t.near(source:state().left, 77, 2)
  end)
end)

T.test("answers that are no token", function(t)
  local function fails(step, want)
    with({ rest = step }, function(s)
      local source = client(s, { retry = false })
      local err = t.raises("auth", source.get, source)
      t.match(tostring(err), want)
      t.eq(err.phase, "refresh")
      t.ok(not tostring(err):find(CANARY, 1, true))
    end)
  end
  fails({ body = "<html>proxy</html>" }, "answer is not a JSON object")
  fails({ body = "[]" }, "has no access_token")
  fails({ body = { token = "x" } }, "has no access_token")
  fails({ body = { access_token = "" } }, "has no access_token")
  fails({ body = { access_token = 5 } }, "has no access_token")
  fails({ body = { access_token = "a", token_type = "DPoP" } }, "tokens of type 'dpop'")
  fails({ body = { access_token = "a\nb" } }, "2 lines")
  fails({ body = { access_token = "a", expires_in = 0 } }, "has ended already")
  fails({ body = { error = "bad_verification_code", error_description = "expired" } }, "bad_verification_code: expired")
  fails({ status = 400, body = { error = "invalid_scope" } }, "invalid_scope %(phase refresh, code invalid_scope%)")
  fails({ status = 401, body = "" }, "401 Unauthorized")
  fails({ status = 404, body = "<html>nothing here</html>" }, "the server answered 404 Not Found without a reason")
  fails({ status = 302, headers = { Location = "https://login.example/?state=abc" }, body = "" },
    "a redirect to https://login.example/; it is not followed with credentials")
  fails({ status = 500, body = { error = "server_error", error_description = "boom" } }, "server_error: boom")
end)

T.test("what a server quotes of our secret does not reach the error", function(t)
  with({ rest = { status = 401, body = { error = "invalid_client",
    error_description = "bad secret '" .. CANARY .. "' for client me; Basic bWU6Y2FuYXJ5LTVmM2E5Yy1zZWNyZXQ=" } } }, function(s)
    for _, way in ipairs { "basic", "basic_raw", "post" } do
      local source = client(s, { client_auth = way })
      local err = t.raises("auth", source.get, source)
      local all = tostring(err) .. T.show(err)
      t.ok(not all:find(CANARY, 1, true), all)
      t.ok(not all:find("bWU6Y2FuYXJ5", 1, true), all)
      t.match(tostring(err), "invalid_client: bad secret '%[redacted%]'")
    end
  end)
end)

T.test("nor in the forms in which it was sent", function(t)
  local hard = "ab+cd/ef=gh secretive"
  local quote = function(req, res)
    local basic = (req.headers.authorization or ""):gsub("^Basic ", "")
    local sent = req.body:match "client_secret=([^&]+)" or req.body:match "refresh_token=([^&]+)" or basic
    res:json(401, { error = "invalid_client", error_description = ("got <%s> from you"):format(sent) })
  end
  with({ rest = quote }, function(s)
    for _, o in ipairs { { client_auth = "basic" }, { client_auth = "basic_raw" }, { client_auth = "post" },
      { client_secret = "nil", refresh_token = hard } } do
      if not o.client_secret then o.client_secret = hard end
      o.retry = false
      local source = client(s, o)
      local err = t.raises("auth", source.get, source)
      t.match(err.message, "got <%[redacted%]> from you", tostring(o.client_auth))
    end
  end)
end)

T.test("a redirect is not followed: the secret goes nowhere else", function(t)
  with({}, function(other)
    with({ rest = { status = 307, headers = { Location = other.url }, body = "" } }, function(s)
      local source = client(s)
      t.raises("auth", source.get, source)
      t.eq(#s.requests, 1)
      t.eq(#other.requests, 0)
    end)
  end)
end)

-- Trying again -----------------------------------------------------------------------------------------

T.test("three attempts for what passes, one for what does not", function(t)
  local function requests(step, opts)
    return with({ rest = step }, function(s)
      local source = client(s, opts)
      t.raises("auth", source.get, source)
      return #s.requests
    end)
  end
  local reset = function(_, res) res:abort() end
  for _, step in ipairs { { status = 500, body = "" }, { status = 502, body = "<html>" }, { status = 503, body = "" },
    { status = 429, body = "" }, { status = 408, body = "" }, { status = 400, body = { error = "temporarily_unavailable" } },
    { body = "cut off {" }, reset } do
    t.eq(requests(step), 3)
  end
  for _, code in ipairs { "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client",
    "unsupported_grant_type", "invalid_scope" } do
    t.eq(requests { status = 400, body = { error = code } }, 1, code)
  end
  t.eq(requests({ status = 500, body = "" }, { retry = false }), 1)
  t.eq(requests({ status = 500, body = "" }, { retry = { attempts = 5, min = 0.001, max = 0.001 } }), 5)
end)

T.test("the second attempt succeeds", function(t)
  with({ { status = 503, body = "" }, function(_, res) res:abort() end }, function(s)
    t.eq(client(s):get():reveal(), "at-3")
  end)
end)

T.test("no server at all", function(t)
  local s = serve {}
  s.server:close()
  local source = client(s)
  local err = t.raises("auth", source.get, source)
  t.eq(err.cause.kind, "network")
end)

T.test("a silent server: timeout, with a bound", function(t)
  with({ rest = function(_, res) while not res.gone do task.sleep(0.01) end end }, function(s)
    local source = client(s, { timeout = 0.15, retry = { attempts = 2, min = 0.001, max = 0.001 } })
    local began = task.now()
    local err = t.raises("auth", source.get, source)
    t.ok(task.now() - began < (T.slow and 5 or 1.5))
    t.eq(err.cause.kind, "timeout")
    t.eq(#s.requests, 2)
  end)
end)

T.test("Retry-After is waited for when it is short, and held to when it is long", function(t)
  with({ { status = 429, headers = { ["Retry-After"] = "1" }, body = "" } }, function(s)
    local began = task.now()
    t.eq(client(s):get():reveal(), "at-2")
    t.ok(task.now() - began >= 1)
  end)
  with({ rest = { status = 503, headers = { ["Retry-After"] = "120" }, body = "" } }, function(s)
    local source = client(s)
    t.raises({ kind = "auth", retry_after = 120 }, source.get, source)
    t.raises("auth", source.get, source)
    t.eq(#s.requests, 1)
  end)
end)

T.test("pauses: the article's 4 to 10 seconds by options", function(t)
  local sys = require "sluice.core.sys"
  local http = require "sluice.http"
  local real, pauses, last = http.request, {}, nil
  http.request = function()
    if last then pauses[#pauses + 1] = task.now() - last end
    last = task.now()
    sluice.errors.raise { kind = "network", message = "no" }
  end
  sys.virtual_clock(true)
  for _ = 1, 50 do
    last = nil
    local source = token.oauth { url = "http://127.0.0.1:1/", client_id = "x", client_secret = "y",
      retry = { attempts = 4, min = 4, max = 10 } }
    t.raises("auth", source.get, source)
  end
  sys.virtual_clock(false)
  http.request = real
  t.eq(#pauses, 150)
  for i, pause in ipairs(pauses) do
    t.ok(pause >= 4 and pause <= 10, pause)
    if i % 3 == 1 then t.ok(pause <= 8) end
  end
end)

-- Refresh tokens ---------------------------------------------------------------------------------------

T.test("a refresh token that is replaced each time", function(t)
  -- the mock takes each one once, and ends the whole family when it sees one twice
  local provider <close> = mock.start { pace = 0, oauth = { refresh = true, expires_in = 0.3 } }
  local url = provider.url .. "/oauth/token"
  token.oauth { url = url, client_id = "me", client_secret = "s" }:get() -- leaves mock-refresh-1, as a login does
  local source = token.oauth { url = url, client_id = "me", refresh_token = "mock-refresh-1" }
  local values = {}
  for i = 1, 5 do
    T.until_(function() return source:state().state == "expired" end)
    values[i] = source:get():reveal()
  end
  t.eq(values, { "mock-token-2", "mock-token-3", "mock-token-4", "mock-token-5", "mock-token-6" })
end)

T.test("a server that keeps the refresh token, and one that refuses it", function(t)
  with({ { body = { access_token = "a1", expires_in = 3600 } }, { body = { access_token = "a2", expires_in = 3600 } } },
    function(s)
      local source = client(s, { refresh_token = sluice.secret.literal("rt-1") })
      local _, generation = source:get()
      source:reject(generation)
      t.eq(source:get():reveal(), "a2")
      t.eq({ s.requests[1].form.refresh_token, s.requests[2].form.refresh_token }, { "rt-1", "rt-1" })
      t.eq(s.requests[1].form.grant_type, "refresh_token")
    end)
  with({ rest = { status = 400, body = { error = "invalid_grant", error_description = "expired" } } }, function(s)
    local source = client(s, { refresh_token = "rt-1" })
    t.raises({ kind = "auth", code = "invalid_grant" }, source.get, source)
    t.eq(#s.requests, 1)
  end)
end)

T.test("a client secret that is replaced in its file is tried at once", function(t)
  local path = T.write(T.tmpdir() .. "/secret", "old\n")
  with({ rest = function(req, res)
    local good = req:query_table(req.body).client_secret == "new"
    res:json(good and 200 or 401, good and { access_token = "at", expires_in = 60 } or { error = "invalid_client" })
  end }, function(s)
    local source = client(s, { client_secret = sluice.secret.file { path = path, check = 3600 }, client_auth = "post" })
    T.write(path, "new\n")
    t.eq(source:get():reveal(), "at")
    t.eq(#s.requests, 2)
  end)
end)

T.test("wrong options", function(t)
  local function bad(pattern, opts)
    local o = { url = "https://idp.example/token", client_id = "me", client_secret = "s" }
    for key, value in pairs(opts) do o[key] = value ~= "nil" and value or nil end
    local err = t.raises(pattern, function() return (token.oauth(o)) end)
    t.match(tostring(err), "^[%w/_.]*token_oauth_test.lua:%d+: sluice.token.oauth: ")
  end
  bad("option 'url' is missing", { url = "nil" })
  bad("option 'url' must begin with https://", { url = "idp.example/token" })
  bad("option 'client_secret' is missing", { client_secret = "nil" })
  bad("unknown option 'client_secrets' %(did you mean 'client_secret'%?%)", { client_secrets = "x" })
  bad("option 'client_auth' must be .*got 'basik' %(did you mean 'basic'%?%)", { client_auth = "basik" })
  bad("grant 'refresh_token' wants option 'refresh_token'", { grant = "refresh_token" })
  bad("'refresh_token' does not go with", { grant = "client_credentials", refresh_token = "x" })
  bad("client_auth 'post' wants", { client_secret = "nil", refresh_token = "x", client_auth = "post" })
  bad("'retry.max' must not be less", { retry = { min = 4, max = 2 } })
  bad("option 'client_secret' must be a secret, or a string that is not empty, got an empty string", { client_secret = "" })
  t.eq(tostring(token.oauth { url = "https://u:p@idp.example:8443/token", client_id = "a", client_secret = "b" }),
    "<the token idp.example:8443>")
end)

T.done()
