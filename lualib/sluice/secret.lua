--- Secrets: opaque values that only the header builder reads. Printing one shows its name.
-- Owns: where a secret comes from. What a secret can do is C (sluice.core.secret).
--
-- Some never change (env, literal); others are looked after while the program runs (file, kubernetes,
-- vault): whoever uses one asks for its value of the moment with `secret.current`.

local core = require "sluice.core.secret"
local sys = require "sluice.core.sys"
local errors = require "sluice.errors"
local options = require "sluice.options"
local mocked = require "sluice.secret.mocked"

---@class sluice.secret
local secret = {
  --- Is the value a secret?
  ---@type fun(value: any): boolean
  is = core.is,
  --- A secret of the same name with a text in front: `secret.prefixed("Bearer ", key)`.
  ---@type fun(prefix: string, key: sluice.Secret): sluice.Secret
  prefixed = core.prefixed,
  --- The secret as it is now, and its generation (nil for one that never changes). May wait.
  ---@type async fun(key: sluice.Secret): sluice.Secret, integer?
  current = core.current,
  --- What looks after a secret that changes: get() and reject(generation); nil for any other value.
  ---@type fun(value: any): sluice.Secret.Source?
  source = core.source,
  --- The text with every secret there is replaced by "[redacted]".
  ---@type fun(text: string): string
  scrub = core.scrub,
}

-- Who reveals a secret may have a reason; with debug logs it can be seen where.
core.on_reveal(function(name)
  local log = require "sluice.log"
  if not log.enabled "debug" then return end
  local info = debug.getinfo(3, "Sl") -- this function, reveal, who called it
  log.debug("a secret was revealed",
    { name = name, at = info and ("%s:%d"):format(info.short_src, info.currentline) or nil })
end)

--- The value of an environment variable. Raises `auth` when it is unset or empty (not under --mock,
--- which needs no key); what the shell adds at the end (a line break, blanks) is removed.
---@param name string
---@return sluice.Secret
function secret.env(name)
  if type(name) ~= "string" or name == "" then
    options.raise("sluice.secret.env: argument 1 must be the name of a variable, got "
      .. options.got(name))
  end
  local value = sys.env(name)
  value = value and value:match("^%s*(.-)%s*$")
  if value and value ~= "" then return core.new("env " .. name, value) end
  return mocked.secret("env " .. name) or errors.raise { kind = "auth", code = "no_key",
    message = ("the environment variable %s is not set: export %s=…"):format(name, name) }
end

--- A secret from a string the script already has.
---@param value string
---@param name? string  what is shown instead of it, default "literal"
---@return sluice.Secret
function secret.literal(value, name)
  if type(value) ~= "string" or value == "" then
    options.raise("sluice.secret.literal: argument 1 must be a string that is not empty, got "
      .. options.got(value))
  end
  if name ~= nil and type(name) ~= "string" then
    options.raise("sluice.secret.literal: argument 2 must be a name, got " .. options.got(name))
  end
  return core.new(name or "literal", value)
end

--- The content of a file, without the line break at its end. When the file is replaced or written to,
--- the next use has the new content. Raises `auth` when it cannot be read or is empty.
---@param opts string|sluice.FileSecretOptions
---@return sluice.Secret
function secret.file(opts)
  return require "sluice.secret.file".new(opts)
end

--- A key of a Kubernetes secret (or config map, or projected volume) that is mounted as a folder. Keys
--- of one folder change together: what is read is always of one version.
---@param opts sluice.KubernetesSecretOptions
---@return sluice.Secret
function secret.kubernetes(opts)
  return require "sluice.secret.kubernetes".new(opts)
end

--- A field of a secret in HashiCorp Vault, read when it is first used.
---@param opts sluice.VaultOptions
---@return sluice.Secret
function secret.vault(opts)
  return require "sluice.secret.vault".new(opts)
end

return secret
