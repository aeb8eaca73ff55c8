--- Under --mock nothing needs a key: what would ask for one gets a word instead.
-- Owns: nothing; the address is sluice.model's. Loads no module that is not loaded already.

local core = require "sluice.core.secret"

local mocked = {}

--- The embedded provider's address, or nil when this run has none.
---@return string?
function mocked.address()
  local model = package.loaded["sluice.model"]
  return type(model) == "table" and model.mock_address and model.mock_address() or nil
end

--- A secret that stands for the one named, or nil when this run has no embedded provider.
---@param name string
---@return sluice.Secret?
function mocked.secret(name)
  if not mocked.address() then return nil end
  return core.new(name .. " (mock)", "mock")
end

return mocked
