--- Secrets: opaque values that only the header builder reads. Printing one shows its name.
-- Owns: where a secret comes from. What a secret can do is C (sluice.core.secret).

local core = require "sluice.core.secret"
local sys = require "sluice.core.sys"
local errors = require "sluice.errors"
local options = require "sluice.options"

local secret = { is = core.is, prefixed = core.prefixed }

--- The value of an environment variable. Raises `auth` when it is unset or empty; what the shell adds
--- at the end (a line break, blanks) is removed.
---@param name string
---@return sluice.Secret
function secret.env(name)
  if type(name) ~= "string" or name == "" then
    options.raise("sluice.secret.env: argument 1 must be the name of a variable, got "
      .. options.got(name))
  end
  local value = sys.env(name)
  value = value and value:match("^%s*(.-)%s*$")
  if not value or value == "" then
    errors.raise { kind = "auth", code = "no_key",
      message = ("the environment variable %s is not set: export %s=…"):format(name, name) }
  end
  return core.new("env " .. name, value)
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
  return core.new(name or "literal", value)
end

return secret
