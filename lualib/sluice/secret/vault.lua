--- Secrets in HashiCorp Vault (or OpenBao): one reading for all fields of a path, kept up to date.
-- Owns: what an answer of a path means (KV version 1 and 2, leases), when to read again. Who we are
-- there, and requests, are vault_client.lua. Never: polls a root token's lease of 0 seconds.

local core = require "sluice.core.secret"
local errors = require "sluice.errors"
local options = require "sluice.options"
local mocked = require "sluice.secret.mocked"
local client = require "sluice.secret.vault_client"
local source = require "sluice.token.source"
local tokens = require "sluice.core.token"

local REFRESH = 300 -- seconds: a KV secret has no lease that would say when it changes
local ENDLESS = 1e9 -- seconds; more is for ever

local function is_secret(value) return type(value) == "string" and value ~= "" or core.is(value) end
local SECRET = { check = is_secret, expected = "a secret, or a string that is not empty" }

local SPEC = options.spec {
  path = { type = "string", required = true, nonempty = true },
  field = { type = "string", required = true, nonempty = true },
  version = { type = "integer", min = 1 },
  kv = { type = "integer", enum = { 1, 2 } },
  refresh = { type = "number", min = 1, default = REFRESH },
  address = { type = "string", nonempty = true },
  namespace = { type = "string", nonempty = true },
  auth = { type = "table", fields = {
    method = { type = "string", enum = { "token", "approle", "kubernetes" }, required = true },
    mount = { type = "string", nonempty = true },
    token = SECRET, role_id = SECRET, secret_id = SECRET,
    role = { type = "string", nonempty = true },
    jwt = SECRET,
  } },
  timeout = { type = "seconds", above = 0, default = 10 },
  name = { type = "string", nonempty = true },
}

-- What a path answers -----------------------------------------------------------------------------

local function fail(self, code, text)
  errors.raise { kind = "auth", phase = "secret", code = code, vault = true,
    message = ("Vault: %s: %s"):format(self.path, text) }
end

--- Why the secret of a KV version 2 answer has no fields: deleted, destroyed.
local function check_deleted(self, data)
  local meta = type(data) == "table" and type(data.metadata) == "table" and data.metadata or {}
  local version = math.tointeger(meta.version) or "?"
  if meta.destroyed == true then
    fail(self, "deleted", ("version %s has been destroyed"):format(version))
  end
  if type(meta.deletion_time) == "string" and meta.deletion_time ~= "" then
    fail(self, "deleted", ("version %s was deleted at %s"):format(version, source.words(meta.deletion_time, 40)))
  end
end

local function names_of(fields)
  local names = {}
  for name in pairs(fields) do names[#names + 1] = tostring(name) end
  table.sort(names)
  return #names > 0 and table.concat(names, ", ") or "none"
end

--- The fields, and whether they came from version 2 of the engine.
local function fields_of(self, answer)
  local data = answer.data
  if type(data) ~= "table" then fail(self, "no_data", "the answer holds no data") end
  local second = self.kv == 2
  if not self.kv then
    second = type(data.metadata) == "table" and data.metadata.version ~= nil and data.metadata.created_time ~= nil
  end
  if not second then return data end
  if type(data.data) ~= "table" then
    check_deleted(self, data)
    fail(self, "no_data", "this version holds no data")
  end
  return data.data
end

--- Each field as a secret; one that did not change keeps its secret.
local function secrets_of(self, fields, old)
  local values = {}
  for name, value in pairs(fields) do
    if type(value) == "number" or type(value) == "boolean" then value = tostring(value) end
    if type(value) == "string" and value ~= "" then
      local before = old and old[name]
      values[name] = before and core.same(before, value) and before
        or core.new(("vault %s %s"):format(self.path, name), value)
    end
  end
  return values
end

--- Words for a status that is not 2xx; the path may be missing, deleted or forbidden.
local function absent(self, status, answer, said)
  if status == 404 then
    check_deleted(self, answer.data)
    if said == "" then
      said = "nothing is there, or this token may not see it"
      if not self.path:find "/data/" then said = said .. " (in version 2 of the KV engine, a path has /data/ in it)" end
    end
    fail(self, "absent", said)
  end
end

local function read(self, box)
  local path = self.path .. (self.version and "?version=" .. self.version or "")
  local answer = self.client:get(path, function(status, body, said) return absent(self, status, body, said) end)
  local values = secrets_of(self, fields_of(self, answer), box:peek())
  local lease = tonumber(answer.lease_duration) or 0
  -- Of what is leased (a database account), the lease is the life. KV only suggests when to look again.
  if type(answer.lease_id) == "string" and answer.lease_id ~= "" and lease > 0 then return values, lease end
  return values, nil, self.version and ENDLESS or self.refresh
end

-- Paths -------------------------------------------------------------------------------------------

--- The error for those who wait, whether it is a lasting one, and how long to hold back.
local function failure(self, err)
  local known = errors.is(err)
  if known and err.vault then return err, true end
  local text = source.words(known and (err.message or err.kind) or tostring(err))
  return errors.new { kind = "auth", phase = "secret", status = known and err.status or nil,
    code = known and err.code or nil, cause = known and err.kind ~= "auth" and err or nil,
    message = ("Vault: %s cannot be read: %s"):format(self.path, text) },
    not known or err.kind == "auth", known and err.retry_after or nil
end

local function new_path(self)
  return tokens.new("the secret vault " .. self.path, function(box)
    local ok, values, left, interval = pcall(read, self, box)
    if ok then return values, left, left, interval end
    local err, lasting, hold = failure(self, values)
    if box:state().state ~= "expired" then
      require "sluice.log".warn("a secret cannot be read again; its last value is used",
        { from = "vault " .. self.path, error = tostring(err) })
    end
    return nil, err, lasting, hold
  end)
end

--- One field of a path, as the source of a secret.
---@class sluice.secret.VaultField : sluice.Secret.Source
local Field = {}
Field.__index = Field

---@async
function Field:get(_, patience)
  local values, generation = self.box:get(nil, patience)
  local value = values[self.field]
  if value then return value, generation end
  errors.raise { kind = "auth", phase = "secret", code = "no_field",
    message = ("Vault: %s has no field '%s' (it has: %s)"):format(self.path, self.field,
      source.words(names_of(values), 200)) }
end

--- The service would not have the value: it may have been replaced in Vault, so it is read again. When
--- that brings the same, the caller finds out by the second refusal.
function Field:reject(generation)
  return self.box:reject(generation)
end

-- Readings of the same path share one box, and with it one request.
local paths = setmetatable({}, { __mode = "v" })

local vault = {}

--- See sluice.VaultOptions. Raises an ordinary error for a wrong option; the secret itself is read when
--- it is first used.
---@param opts sluice.VaultOptions
---@return sluice.Secret
function vault.new(opts)
  local where = "sluice.secret.vault"
  options.check(where, opts, SPEC)
  local o = options.fill(opts, SPEC)
  o.path = o.path:gsub("^/+", ""):gsub("^v1/", "")
  local name = o.name or ("vault %s %s"):format(o.path, o.field)
  local mock = mocked.secret(name)
  if mock then return mock end
  local access = client.of(where, o)
  local key = table.concat({ access.id, o.path, o.version or "", o.kv or "", o.refresh }, "\n")
  local box = paths[key]
  if not box then
    box = new_path { client = access, path = o.path, version = o.version, kv = o.kv, refresh = o.refresh }
    paths[key] = box
  end
  return core.live(name, setmetatable({ box = box, path = o.path, field = o.field }, Field))
end

return vault
