-- sluice.secret.vault against a scripted server that answers as HashiCorp's API documentation says: both
-- versions of the KV engine, logins and their renewal, every error. Vault itself cannot be installed in CI.
local T = require "harness"
local sluice = require "sluice"

local secret, task, json = sluice.secret, sluice.task, sluice.json

sluice.log.configure { level = "error" }

local CANARY = "canary-vault-4411"

-- A Vault with what a test puts into it: paths, logins, and faults for the next requests.
---@class FakeVault
local function vault(t, f)
  local v = { paths = {}, log = {}, faults = {}, valid = { root = { ttl = 0 } }, logins = 0, lease = 3600, renewable = true }
  local function forbid(res) res:json(403, { errors = { "permission denied" } }) end
  local function auth_reply(res, token, lease)
    v.valid[token] = { ttl = lease, renewable = v.renewable }
    res:json(200, { request_id = "x", lease_id = "", data = json.null, auth = { client_token = token,
      accessor = "acc", policies = { "default" }, metadata = {}, lease_duration = lease, renewable = v.renewable } })
  end
  local function login(res, method)
    v.logins = v.logins + 1
    auth_reply(res, ("%s-login-%d"):format(method, v.logins), v.lease)
  end
  local routes = {
    ["POST /v1/auth/approle/login"] = function(body, res)
      if body.role_id ~= "role" or body.secret_id ~= CANARY then
        return res:json(400, { errors = { "invalid role or secret ID" } })
      end
      login(res, "approle")
    end,
    ["POST /v1/auth/k8s/login"] = function(body, res)
      v.jwt = body.jwt
      if body.role ~= "app" then return res:json(400, { errors = { ('invalid role name "%s"'):format(body.role) } }) end
      login(res, "k8s")
    end,
    ["POST /v1/auth/token/renew-self"] = function(_, res, token)
      v.renewals = (v.renewals or 0) + 1
      if not v.valid[token].renewable then return res:json(400, { errors = { "lease is not renewable" } }) end
      auth_reply(res, token, v.renew_to or v.lease)
    end,
    ["GET /v1/auth/token/lookup-self"] = function(_, res, token)
      if v.no_lookup then return forbid(res) end
      res:json(200, { data = { ttl = v.valid[token].ttl, renewable = v.valid[token].renewable or false } })
    end,
  }
  local server <close> = sluice.server.listen { handler = function(req, res)
    local token = req.headers["x-vault-token"]
    local entry = { path = req.path .. (req.query ~= "" and "?" .. req.query or ""), token = token, headers = req.headers }
    v.log[#v.log + 1] = entry
    local fault = table.remove(v.faults, 1)
    if type(fault) == "function" then return fault(req, res) end
    if fault then return res:send(fault.status, fault.headers, fault.body or json.encode { errors = fault.errors or {} }) end
    local route = routes[req.method .. " " .. req.path]
    if not req.path:find "/login$" and not v.valid[token] then return forbid(res) end
    if route then return route(req.body ~= "" and json.decode(req.body) or {}, res, token) end
    local answer = v.paths[entry.path]
    if not answer then return res:json(404, { errors = json.array {} }) end
    if answer.only and answer.only ~= token then return forbid(res) end
    res:json(answer.status or 200, answer)
  end }
  v.url = server.url
  function v.secret(opts)
    local o = { address = v.url, auth = { method = "token", token = "root" } }
    for key, value in pairs(opts) do o[key] = value end
    return secret.vault(o)
  end
  function v.asked(pattern)
    local n = 0
    for _, entry in ipairs(v.log) do
      if entry.path:find(pattern) then n = n + 1 end
    end
    return n
  end
  f(v, t)
end

local function kv2(fields, version)
  return { lease_id = "", lease_duration = 0, renewable = false, data = { data = fields,
    metadata = { created_time = "2026-01-01T00:00:00Z", deletion_time = "", destroyed = false, version = version or 1 } } }
end

local function kv1(fields)
  return { lease_id = "", lease_duration = 2764800, renewable = false, data = fields }
end

local function test(name, f) T.test(name, function(t) vault(t, f) end) end

-- Reading ------------------------------------------------------------------------------------------------

test("KV version 2 and version 1, told apart by the answer", function(v, t)
  v.paths["/v1/secret/data/llm"] = kv2 { api_key = CANARY, n = 5, on = true }
  v.paths["/v1/kv/llm"] = kv1 { api_key = "one", data = "a field called data" }
  local s = v.secret { path = "secret/data/llm", field = "api_key" }
  t.eq(#v.log, 0, "nothing is asked before it is used")
  t.eq(tostring(s), "<secret vault secret/data/llm api_key>")
  t.eq(s:reveal(), CANARY)
  t.eq(v.secret { path = "/v1/secret/data/llm", field = "n" }:reveal(), "5")
  t.eq(v.secret { path = "kv/llm", field = "api_key" }:reveal(), "one")
  t.eq(v.secret { path = "kv/llm", field = "data" }:reveal(), "a field called data")
  t.eq(v.asked "secret/data/llm", 1, "one request for all fields of a path")
  local headers = v.log[#v.log].headers
  t.eq({ headers["x-vault-request"], headers["x-vault-namespace"] or "none" }, { "true", "none" })
end)

test("a version 1 secret that looks like version 2, with kv = 1", function(v, t)
  v.paths["/v1/kv/odd"] = kv1 { data = { x = "inner" }, metadata = { version = 3, created_time = "t" }, y = "outer" }
  t.eq(v.secret { path = "kv/odd", field = "y", kv = 1 }:reveal(), "outer")
  local wrong = v.secret { path = "kv/odd", field = "y" }
  t.raises("has no field 'y' %(it has: x%)", wrong.reveal, wrong)
end)

test("a version by number, a namespace", function(v, t)
  v.paths["/v1/secret/data/llm?version=2"] = kv2({ k = "second" }, 2)
  local s = v.secret { path = "secret/data/llm", field = "k", version = 2, namespace = "team/a" }
  t.eq(s:reveal(), "second")
  t.eq(v.log[#v.log].headers["x-vault-namespace"], "team/a")
end)

test("two hundred tasks, one read, one login", function(v, t)
  v.paths["/v1/secret/data/llm"] = kv2 { a = "A", b = "B" }
  local path = T.write(T.tmpdir() .. "/sid", CANARY)
  local function auth() -- each secret with a login of its own to look at
    return { method = "approle", role_id = sluice.secret.literal "role", secret_id = sluice.secret.file(path) }
  end
  local a = v.secret { path = "secret/data/llm", field = "a", auth = auth() }
  local b = v.secret { path = "secret/data/llm", field = "b", auth = auth() }
  task.group(function(group)
    for _ = 1, 100 do
      group:spawn(function() t.eq(a:reveal(), "A") end)
      group:spawn(function() t.eq(b:reveal(), "B") end)
    end
  end)
  t.eq({ v.logins, v.asked "secret/data" }, { 1, 1 })
  local other = auth()
  other.secret_id = sluice.secret.literal(CANARY .. "x") -- another login is another client
  local c = v.secret { path = "secret/data/llm", field = "a", auth = other }
  t.raises("invalid role or secret ID", c.reveal, c)
end)

test("replaced in Vault: read again on a refusal, and in the background when it is time", function(v, t)
  v.paths["/v1/secret/data/llm"] = kv2({ k = "old" }, 1)
  local s = v.secret { path = "secret/data/llm", field = "k", refresh = 1 }
  local _, generation = secret.current(s)
  v.paths["/v1/secret/data/llm"] = kv2({ k = "new" }, 2)
  t.eq(s:reveal(), "old")
  t.ok(secret.source(s):reject(generation))
  t.eq(s:reveal(), "new")
  v.paths["/v1/secret/data/llm"] = kv2({ k = "newest" }, 3)
  T.until_(function() return s:reveal() == "newest" end)
  t.ok(v.asked "secret/data" <= 5, "polled no more often than asked for")
end)

test("what is leased lives as long as its lease", function(v, t)
  v.paths["/v1/database/creds/app"] = { lease_id = "database/creds/app/abc", lease_duration = 1, renewable = true,
    data = { username = "u1", password = "p1" } }
  local s = v.secret { path = "database/creds/app", field = "password" }
  t.eq(s:reveal(), "p1")
  v.paths["/v1/database/creds/app"] = { lease_id = "database/creds/app/def", lease_duration = 60, renewable = true,
    data = { username = "u2", password = "p2" } }
  T.until_(function() return s:reveal() == "p2" end)
  t.ok(true)
end)

test("Vault goes down: the last value stands in", function(v, t)
  v.paths["/v1/secret/data/llm"] = kv2 { k = "kept" }
  local s = v.secret { path = "secret/data/llm", field = "k", refresh = 1 }
  t.eq(s:reveal(), "kept")
  for i = 1, 9 do v.faults[i] = { status = 503, errors = { "Vault is sealed" } } end
  T.until_(function()
    t.eq(s:reveal(), "kept")
    return #v.faults <= 6
  end)
  T.until_(function() return not secret.source(s).box:state().refreshing end)
  t.eq(s:reveal(), "kept")
  t.eq(secret.source(s).box:state().failed, 1)
end)

-- What is not there ------------------------------------------------------------------------------------------

test("absent, deleted, destroyed, without the field", function(v, t)
  v.paths["/v1/secret/data/gone"] = { status = 404, data = { data = json.null, metadata = { version = 3,
    created_time = "c", deletion_time = "2026-05-06T07:08:09Z", destroyed = false } } }
  v.paths["/v1/secret/data/burnt"] = { status = 404, data = { data = json.null, metadata = { version = 2,
    created_time = "c", deletion_time = "", destroyed = true } } }
  v.paths["/v1/secret/data/half"] = kv2 { a = "x", b = "", c = "y" }
  v.paths["/v1/secret/llm"] = { status = 404, warnings = { "Invalid path for a versioned K/V secrets engine." } }
  local function fails(path, pattern)
    local s = v.secret { path = path, field = "b" }
    local err = t.raises("auth", s.reveal, s)
    t.match(err.message, pattern)
    t.eq(err.phase, "secret")
  end
  fails("secret/data/gone", "^Vault: secret/data/gone: version 3 was deleted at 2026%-05%-06T07:08:09Z$")
  fails("secret/data/burnt", "^Vault: secret/data/burnt: version 2 has been destroyed$")
  fails("secret/data/half", "^Vault: secret/data/half has no field 'b' %(it has: a, c%)$")
  fails("secret/llm", "Invalid path for a versioned K/V secrets engine")
  fails("secret/none", "nothing is there, or this token may not see it %(in version 2 of the KV engine, a path has /data/")
  fails("secret/data/none", "nothing is there, or this token may not see it$")
end)

T.test("every other status as what it is", function(t)
  local cases = {
    { 400, "auth", "400: Bad Request", 1 },
    { 405, "auth", "405: unsupported operation", 1 },
    { 412, "overloaded", "412", 3 },
    { 429, "rate_limited", "429: a standby node, or a rate limit", 3 },
    { 472, "overloaded", "472: a disaster recovery secondary", 3 },
    { 473, "overloaded", "473: a performance standby", 3 },
    { 500, "server", "500: Internal Server Error", 3 },
    { 501, "invalid", "501: it has not been initialised", 1 },
    { 502, "server", "502: something it depends on failed", 3 },
    { 503, "overloaded", "503: it is sealed, or down for maintenance", 3 },
    { 307, "auth", "a standby node, which sends us on to http://active.example:8200/v1/secret: that is not followed", 1,
      { status = 307, headers = { Location = "http://active.example:8200/v1/secret?x=1" }, body = "" } },
    { 200, "protocol", "the answer is not a JSON object", 3, { status = 200, body = "<html>" } },
    { 200, "auth", "the answer holds no data", 1, { status = 200, body = '{"data":null}' } },
    { 204, "auth", "the answer holds no data", 1, { status = 204, body = "" } },
  }
  task.map(cases, function(case) -- at once, each with a Vault of its own: three attempts take their time
    local status, kind, pattern, requests, fault = table.unpack(case)
    vault(t, function(v)
      v.faults = { { status = 200, body = '{"data":{"ttl":0}}' } } -- the look-up of the token
      for i = 2, 9 do v.faults[i] = fault or { status = status, errors = status == 405 and { "unsupported operation" } or {} } end
      local s = v.secret { path = "secret/data/llm", field = "k" }
      local err = t.raises("auth", s.reveal, s)
      t.match(err.message, pattern, status)
      t.eq(err.cause and err.cause.kind or "auth", kind, status)
      t.eq(#v.log - 1, requests, status)
    end)
  end, { concurrency = #cases })
end)

test("what passes is asked again", function(v, t)
  v.paths["/v1/secret/data/llm"] = kv2 { k = "value" }
  v.faults = { { status = 200, body = '{"data":{"ttl":0}}' }, { status = 412 }, { status = 503 } }
  t.eq(v.secret { path = "secret/data/llm", field = "k" }:reveal(), "value")
  v.faults = { { status = 200, body = '{"data":{"ttl":0}}' }, function(_, res) res:abort() end }
  t.eq(v.secret { path = "secret/data/llm", field = "k", timeout = 4 }:reveal(), "value")
  local closed = v.secret { path = "secret/data/llm", field = "k", address = "http://127.0.0.1:1" }
  t.raises({ kind = "auth" }, closed.reveal, closed)
end)

-- Logging in -----------------------------------------------------------------------------------------------

test("AppRole", function(v, t)
  v.paths["/v1/secret/data/llm"] = kv2 { k = "value" }
  local s = v.secret { path = "secret/data/llm", field = "k",
    auth = { method = "approle", role_id = "role", secret_id = sluice.secret.literal(CANARY) } }
  t.eq(s:reveal(), "value")
  t.eq(v.log[1].token, nil)
  t.eq(v.log[2].token, "approle-login-1")
  local wrong = v.secret { path = "secret/data/llm", field = "k",
    auth = { method = "approle", role_id = "role", secret_id = "wrong-" .. CANARY } }
  local err = t.raises("auth", wrong.reveal, wrong)
  t.match(err.message, "Vault: secret/data/llm cannot be read: the token vault login could not be renewed: "
    .. "http://[%d.:]+: 400: invalid role or secret ID")
  t.ok(not (tostring(err) .. T.show(err)):find(CANARY, 1, true))
end)

test("Kubernetes: the token of the service account is read at each login", function(v, t)
  v.paths["/v1/secret/data/llm"] = kv2 { k = "value" }
  local path = T.write(T.tmpdir() .. "/token", "jwt-1\n")
  local s = v.secret { path = "secret/data/llm", field = "k", auth = { method = "kubernetes", mount = "k8s", role = "app",
    jwt = sluice.secret.file { path = path, check = 0 } } }
  t.eq(s:reveal(), "value")
  t.eq(v.jwt, "jwt-1")
  T.write(path, "jwt-2\n")
  v.valid = {} -- every login has been revoked
  local _, generation = secret.current(s)
  secret.source(s):reject(generation)
  t.eq(s:reveal(), "value")
  t.eq({ v.jwt, v.logins }, { "jwt-2", 2 })
end)

test("403: log in again once, then say so", function(v, t)
  v.paths["/v1/secret/data/llm"] = kv2 { k = "value" }
  v.paths["/v1/secret/data/forbidden"] = { only = "nobody" }
  local auth = { method = "approle", role_id = "role", secret_id = CANARY }
  local s = v.secret { path = "secret/data/llm", field = "k", auth = auth }
  t.eq(s:reveal(), "value")
  v.valid = {}
  local _, generation = secret.current(s)
  secret.source(s):reject(generation)
  t.eq(s:reveal(), "value")
  t.eq(v.logins, 2)
  local f = v.secret { path = "secret/data/forbidden", field = "k", auth = auth, timeout = 3 }
  local err = t.raises("auth", f.reveal, f)
  t.match(err.message, "403: permission denied")
  t.eq(err.status, 403)
  t.ok(v.asked "forbidden" <= 2)
end)

test("a login is renewed at two thirds of its lease; when that shrinks, a new one", function(v, t)
  v.lease = 1
  local client = require "sluice.secret.vault_client"
  local c = client.of("test", { address = v.url, timeout = 5,
    auth = { method = "approle", role_id = "role", secret_id = CANARY } })
  c.token:get()
  t.eq(v.logins, 1)
  T.until_(function() return c.token:state().state ~= "fresh" end)
  c.token:get()
  T.until_(function() return (v.renewals or 0) == 1 end)
  t.eq({ v.logins, c.token:get():reveal() }, { 1, "approle-login-1" })
  v.renew_to = 0.3
  T.until_(function()
    c.token:get()
    return v.logins == 2
  end)
  t.match(c.token:get():reveal(), "^approle%-login%-%d$")
  v.renewable = false
  local before = v.renewals
  T.until_(function()
    c.token:get()
    return v.logins == 4
  end)
  t.ok(v.renewals <= before + 2, "what cannot be renewed is not tried")
end)

test("a root token has a lease of 0: it is looked up once, and no spinning", function(v, t)
  v.paths["/v1/secret/data/llm"] = kv2 { k = "value" }
  local s = v.secret { path = "secret/data/llm", field = "k" }
  for _ = 1, 100 do s:reveal() end
  t.eq({ v.asked "lookup%-self", v.asked "renew", v.asked "secret/data" }, { 1, 0, 1 })
end)

test("a token that may not look itself up is believed; one that is bad is found out", function(v, t)
  v.paths["/v1/secret/data/llm"] = kv2 { k = "value" }
  v.no_lookup = true
  t.eq(v.secret { path = "secret/data/llm", field = "k" }:reveal(), "value")
  local bad = v.secret { path = "secret/data/llm", field = "k",
    auth = { method = "token", token = secret.literal("bad-" .. CANARY) } }
  local err = t.raises({ kind = "auth", status = 403 }, bad.reveal, bad)
  t.ok(not (tostring(err) .. T.show(err)):find(CANARY, 1, true))
end)

test("what Vault quotes of our secrets does not reach the error", function(v, t)
  v.faults = { { status = 400, errors = { "cannot use " .. CANARY .. " here" } } }
  local s = v.secret { path = "secret/data/llm", field = "k",
    auth = { method = "approle", role_id = "role", secret_id = secret.literal(CANARY) } }
  local err = t.raises("auth", s.reveal, s)
  t.match(err.message, "cannot use %[redacted%] here")
end)

T.test("wrong options", function(t)
  local function bad(pattern, opts) t.raises(pattern, secret.vault, opts) end
  bad("option 'field' is missing", { path = "x" })
  bad("option 'address' is missing, and VAULT_ADDR is not set", { path = "x", field = "y" })
  bad("option 'address' must begin with https://", { path = "x", field = "y", address = "vault:8200" })
  bad("option 'auth.method' must be", { path = "x", field = "y", address = "http://v", auth = { method = "ldap" } })
  bad("option 'auth.secret_idd'", { path = "x", field = "y", address = "http://v", auth = { method = "approle", secret_idd = "x" } })
  bad("option 'auth.role_id' is missing; method 'approle' wants it",
    { path = "x", field = "y", address = "http://v", auth = { method = "approle" } })
  local none = secret.vault { path = "x", field = "y", address = "http://127.0.0.1:1" }
  t.raises("no login for Vault: set VAULT_TOKEN, or give", none.reveal, none)
end)

T.done()
