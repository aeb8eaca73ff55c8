--- Who we are at a Vault server, and requests in that name.
-- Owns: addresses, namespaces, the login and its renewal, what each status means, which are worth
-- asking again. A client is shared by all secrets with the same address and the same login.
-- Facts: HashiCorp's HTTP API (auth/token, auth/approle, auth/kubernetes, system status codes).

local core = require "sluice.core.secret"
local files = require "sluice.core.file"
local sys = require "sluice.core.sys"
local errors = require "sluice.errors"
local http = require "sluice.http"
local json = require "sluice.json"
local options = require "sluice.options"
local task = require "sluice.task"
local retry_after = require "sluice.provider.retry_after"
local source = require "sluice.token.source"

local BODY_MAX = 4 << 20 -- bytes of an answer
local ATTEMPTS, PAUSE, PAUSE_MAX = 3, 0.25, 5 -- requests of one question; seconds between them
local RENEW_AT = 2 / 3   -- of a login's lease
local SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"

---@class sluice.secret.VaultClient
---@field id string
---@field address string
---@field token sluice.Token  the login
local Client = {}
Client.__index = Client

local client = {}

-- Requests -----------------------------------------------------------------------------------------

-- What Vault says with a status (its API documentation, "HTTP status codes"), where the body does not.
local MEANING = {
  [429] = { "rate_limited", "a standby node, or a rate limit" },
  [472] = { "overloaded", "a disaster recovery secondary, which serves nobody" },
  [473] = { "overloaded", "a performance standby" },
  [501] = { "invalid", "it has not been initialised" },
  [502] = { "server", "something it depends on failed" },
  [503] = { "overloaded", "it is sealed, or down for maintenance" },
}

local function kind_of(status)
  if MEANING[status] then return MEANING[status][1] end
  if status == 412 then return "overloaded" end -- the write has not reached this node yet: soon
  if status >= 500 then return "server" end
  return status == 404 and "invalid" or "auth"
end

--- The words of { errors = { … } } (and warnings), fit to be shown.
local function words_of(answer)
  local said = {}
  for _, list in ipairs { "errors", "warnings" } do
    for _, text in ipairs(type(answer[list]) == "table" and answer[list] or {}) do
      if type(text) == "string" then said[#said + 1] = text end
    end
  end
  return source.words(table.concat(said, "; "))
end

local function refuse(self, status, response, said)
  local text = said
  if status >= 300 and status < 400 then
    text = ("a standby node, which sends us on%s: that is not followed with a token, set the address to the active one")
      :format(response.headers.location and " to " .. response.headers.location:gsub("[?#].*$", "") or "")
  elseif text == "" then
    text = MEANING[status] and MEANING[status][2] or errors.reason(status) or "no reason given"
  end
  errors.raise { kind = kind_of(status), status = status, code = ("vault_%d"):format(status),
    message = ("%s: %d: %s"):format(self.address, status, source.words(text)),
    retry_after = retry_after.parse(response.headers, sys.wall()) }
end

--- One request. `explain(status, answer, words)` may raise a better error than the status alone.
local function send(self, method, path, body, token, explain)
  local headers = { ["X-Vault-Request"] = "true", ["X-Vault-Namespace"] = self.namespace, ["X-Vault-Token"] = token,
    Accept = "application/json", ["Content-Type"] = body and "application/json" or nil }
  local response = http.request { method = method, url = self.address .. "/v1/" .. path, headers = headers,
    body = body, redirects = 0, max_body = BODY_MAX,
    timeout = { connect = math.min(3, self.timeout), total = self.timeout, idle = self.timeout } }
  local status = response.status
  if status == 204 then return {} end
  local ok, answer = pcall(json.decode, response.body, { excerpt = false, repair = true })
  local understood = ok and type(answer) == "table"
  if status >= 200 and status < 300 then
    if understood then return answer end
    errors.raise { kind = "protocol", code = "json", message = self.address .. ": the answer is not a JSON object" }
  end
  local said = understood and words_of(answer) or ""
  if explain then explain(status, understood and answer or {}, said) end
  refuse(self, status, response, said)
end

local RETRIED = { network = true, timeout = true, server = true, overloaded = true, rate_limited = true,
  protocol = true }

local function with_retries(self, ...)
  for attempt = 1, math.huge do
    local ok, answer = pcall(send, self, ...)
    if ok then return answer end
    local err = answer
    local passing = errors.is(err) and RETRIED[err.kind] and not (err.kind == "network" and err.phase == "tls")
    local asked = passing and err.retry_after or 0
    if not passing or attempt >= ATTEMPTS or asked > PAUSE_MAX then error(err, 0) end
    local high = math.min(PAUSE_MAX, PAUSE * 2.0 ^ attempt)
    task.sleep(math.max(asked, PAUSE + sys.random() * (high - PAUSE)))
  end
end

--- GET, with the login of the moment. A 403 may mean that it has been revoked: log in once more.
---@async
---@param path string
---@param explain fun(status: integer, answer: table, said: string)
---@return table answer
function Client:get(path, explain)
  local token, generation = self.token:get()
  local ok, answer = pcall(with_retries, self, "GET", path, nil, token, explain)
  if ok then return answer end
  local refused = errors.is(answer) and answer.status == 403
  if refused and self.token:reject(generation) then
    token = self.token:get()
    return with_retries(self, "GET", path, nil, token, explain)
  end
  error(answer, 0)
end

-- The login ----------------------------------------------------------------------------------------

local function text_of(value)
  return core.is(value) and core.text(value) or value
end

--- The value and life of { auth = { client_token, lease_duration, renewable } }.
local function login_of(self, answer)
  local auth = answer.auth
  if type(auth) ~= "table" or type(auth.client_token) ~= "string" or auth.client_token == "" then
    errors.raise { kind = "protocol", code = "no_token", message = self.address .. ": the login brought no token" }
  end
  local lease = tonumber(auth.lease_duration) or 0
  self.renewable = auth.renewable == true and lease > 0
  self.lease = math.max(self.lease or 0, lease)
  if lease <= 0 then return auth.client_token, { expires_in = math.huge } end
  return auth.client_token, { expires_in = lease, refresh_in = lease * RENEW_AT }
end

--- Renews the login there is. nil when a new one is needed: it cannot be renewed (any more), or its lease
--- has shrunk towards its end.
local function renew(self, old)
  if not old or not self.renewable or self.token:state().refused then return nil end
  local ok, answer = pcall(with_retries, self, "POST", "auth/token/renew-self", "{}", old)
  if not ok then
    if errors.is(answer) and answer.kind ~= "auth" and answer.kind ~= "invalid" then error(answer, 0) end
    return nil
  end
  local longest = self.lease
  local value, life = login_of(self, answer)
  if life.expires_in < longest / 2 and self.method ~= "token" then
    self.lease = nil
    return nil
  end
  return value, life
end

local LOGIN = {}

function LOGIN.approle(self)
  local auth = self.auth
  return with_retries(self, "POST", ("auth/%s/login"):format(auth.mount or "approle"), json.encode {
    role_id = text_of(auth.role_id), secret_id = auth.secret_id and text_of(auth.secret_id) })
end

function LOGIN.kubernetes(self)
  local auth = self.auth
  local jwt = auth.jwt and text_of(auth.jwt)
  if not jwt then jwt = require "sluice.secret.file".load(SERVICE_ACCOUNT, true) end
  return with_retries(self, "POST", ("auth/%s/login"):format(auth.mount or "kubernetes"), json.encode {
    role = auth.role, jwt = jwt })
end

--- A token that is given: how long it is good for is Vault's to say. One that may not ask is believed.
function LOGIN.token(self)
  local token = self.auth.token
  if type(token) == "function" then token = token() end
  token = core.is(token) and core.current(token) or core.new("vault token", token)
  local ok, answer = pcall(with_retries, self, "GET", "auth/token/lookup-self", nil, token)
  if not ok and not (errors.is(answer) and answer.status == 403) then error(answer, 0) end
  local data = ok and type(answer.data) == "table" and answer.data or {}
  return { auth = { client_token = core.text(token), lease_duration = data.ttl, renewable = data.renewable } }
end

local function new_login(self)
  return source.new { name = "vault login", ttl = math.huge, timeout = 4 * ATTEMPTS * self.timeout,
    fetch = function(old)
      local value, life = renew(self, old)
      if value then return value, life end
      self.lease = nil
      return login_of(self, LOGIN[self.method](self))
    end }
end

-- Clients ------------------------------------------------------------------------------------------

local clients = setmetatable({}, { __mode = "v" })

local NEEDS = { token = { "token" }, approle = { "role_id" }, kubernetes = { "role" } }

--- VAULT_TOKEN, or what `vault login` leaves in ~/.vault-token; looked up at each login.
local function ambient_token()
  local value = sys.env "VAULT_TOKEN"
  if value and value:find "%S" then return core.new("env VAULT_TOKEN", (value:match "^%s*(.-)%s*$")) end
  local home = sys.env "HOME"
  local text = home and files.read(home .. "/.vault-token", 64 << 10)
  if text and text:find "%S" then return core.new("~/.vault-token", (text:match "^%s*(.-)%s*$")) end
  errors.raise { kind = "auth", code = "no_key", message = "no login for Vault: set VAULT_TOKEN, or give "
    .. "sluice.secret.vault auth = { method = 'approle' | 'kubernetes' | 'token', … }" }
end

-- Of these a string may be the secret itself: it stands in the id as its fingerprint.
local SENSITIVE = { role_id = true, secret_id = true, token = true, jwt = true }

--- What tells one secret from another, whoever made them: its value, and for one that changes its name too.
local function mark_of(value)
  local known, mark = pcall(core.fingerprint, value)
  if not known then return ("%p"):format(value) end -- it has not been read yet
  return core.source(value) and value:name() .. " " .. mark or mark
end

local function id_of(address, namespace, timeout, auth)
  local parts = { address, namespace or "", timeout }
  for _, name in ipairs { "method", "mount", "role", "role_id", "secret_id", "token", "jwt" } do
    local value = auth[name]
    if type(value) == "string" and SENSITIVE[name] then
      value = core.fingerprint(value)
    elseif core.is(value) then
      value = mark_of(value)
    end
    parts[#parts + 1] = tostring(value)
  end
  return table.concat(parts, "\n")
end

--- The client for these options; raises an ordinary error when one is missing.
---@param where string
---@param o sluice.VaultOptions
---@return sluice.secret.VaultClient
function client.of(where, o)
  local address = o.address or sys.env "VAULT_ADDR"
  if not address or address == "" then
    options.raise(where .. ": option 'address' is missing, and VAULT_ADDR is not set")
  end
  address = address:gsub("/+$", ""):gsub("/v1$", "")
  if not address:find "^https?://[^/]" then
    options.raise(where .. ": option 'address' must begin with https:// or http://")
  end
  local namespace = o.namespace or sys.env "VAULT_NAMESPACE"
  if namespace == "" then namespace = nil end
  local auth = o.auth or { method = "token", token = ambient_token }
  for _, name in ipairs(NEEDS[auth.method]) do
    if auth[name] == nil then
      options.raise(("%s: option 'auth.%s' is missing; method '%s' wants it"):format(where, name, auth.method))
    end
  end
  local id = id_of(address, namespace, o.timeout, auth)
  local found = clients[id]
  if found then return found end
  local self = setmetatable({ id = id, address = address, namespace = namespace, timeout = o.timeout,
    auth = auth, method = auth.method }, Client)
  self.token = new_login(self)
  clients[id] = self
  return self
end

return client
