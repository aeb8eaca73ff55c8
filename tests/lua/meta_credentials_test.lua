-- The stubs of secrets, tokens and child processes against what C and Lua define: the same methods.
local T = require "harness"
local sluice = require "sluice"

local function documented(file, class)
  local names = {}
  for line in io.lines("lualib/meta/sluice/" .. file .. ".lua") do
    local method = line:match("^function " .. class .. ":([%w_]+)%(")
    if method then names[method] = true end
  end
  return names
end

local function real(value)
  local index, names = debug.getmetatable(value).__index, {}
  for name in pairs(index) do
    if not name:find "^__" then names[name] = true end
  end
  return names
end

T.test("methods", function(t)
  t.eq(documented("credentials", "Secret"), real(sluice.secret.literal "x"))
  t.eq(documented("credentials", "Token"), real(sluice.token.static "x"))
  local child <close> = assert(require "sluice.core.process".spawn { argv = { "true" } })
  t.eq(documented("process", "Process"), real(child))
  local lock <close> = assert(require "sluice.core.file".lock(T.tmpdir() .. "/x"))
  t.eq(documented("file", "FileLock"), real(lock))
end)

-- Options that the annotations list, against those the code takes: a wrong one names all of them, or
-- the nearest.
local function fields(class)
  local names, inside = {}, false
  for line in io.lines "lualib/meta/sluice/credentials.lua" do
    if line:find "^%-%-%-@class" then inside = line:find(class, 1, true) ~= nil end
    local name = inside and line:match "^%-%-%-@field ([%w_]+)"
    if name then names[#names + 1] = name end
  end
  return names
end

T.test("options", function(t)
  local makers = { ["sluice.OAuthOptions"] = sluice.token.oauth, ["sluice.TokenSourceOptions"] = sluice.token.source,
    ["sluice.CommandOptions"] = function(o)
      o[1] = "program"
      return sluice.token.command(o)
    end,
    ["sluice.FileSecretOptions"] = sluice.secret.file, ["sluice.KubernetesSecretOptions"] = sluice.secret.kubernetes,
    ["sluice.VaultOptions"] = sluice.secret.vault }
  for class, make in pairs(makers) do
    local names = fields(class)
    t.ok(#names >= 4, class)
    for _, name in ipairs(names) do
      -- an option that is known is found wrong, missing beside others, or fine; never unknown
      local _, err = pcall(make, { [name] = {} })
      t.ok(not tostring(err):find "unknown option", class .. " " .. name .. ": " .. tostring(err))
    end
  end
end)

T.done()
