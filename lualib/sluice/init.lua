--- sluice: prompt workflows. `local sluice = require "sluice"`.
-- Owns: the names scripts see. Each part is loaded when it is first used, so that a script pays only
-- for what it touches.

---@class sluice
---@field task sluice.task
---@field json sluice.json
---@field secret sluice.secret
---@field token sluice.token
---@field http sluice.http
---@field metrics sluice.metrics
---@field process sluice.process
---@field chat sluice.chat
---@field tool sluice.tool
---@field schema sluice.schema
---@field template sluice.template
---@field tokens sluice.tokens
---@field files sluice.files
---@field jsonl sluice.jsonl
---@field term sluice.term
---@field pipeline async fun(spec: sluice.PipelineSpec): sluice.PipelineCounts
local sluice = {}

-- name -> module
local PARTS = {
  task = "sluice.task",
  json = "sluice.json",
  secret = "sluice.secret",
  token = "sluice.token",
  http = "sluice.http",
  server = "sluice.server",
  process = "sluice.process",
  log = "sluice.log",
  metrics = "sluice.metrics",
  errors = "sluice.errors",
  rule = "sluice.rule",
  schema = "sluice.schema",
  tool = "sluice.tool",
  chat = "sluice.chat",
  tokens = "sluice.tokens",
  template = "sluice.template",
  files = "sluice.files",
  jsonl = "sluice.jsonl",
  term = "sluice.term",
}

-- name -> { module, function in it }
local FUNCTIONS = {
  model = { "sluice.model", "new" },
  provider = { "sluice.provider", "register" },
  fallback = { "sluice.fallback", "new" },
  limit = { "sluice.policy.limiter", "new" },
  rules = { "sluice.rules", "new" },
  cache = { "sluice.cache", "new" },
  budget = { "sluice.budget", "new" },
  pipeline = { "sluice.pipeline", "new" },
  test = { "sluice.test", "add" },
  prices = { "sluice.price", "set" },
}

--- Calls `f(...)`; returns its values, or nil and the error. Unlike pcall it keeps, in a sluice.Error's `traceback`,
--- where that was raised.
---@async
---@param f fun(...): ...
---@return any ...
function sluice.try(f, ...)
  local function pack(ok, ...)
    if ok then return ... end
    return nil, (...)
  end
  return pack(xpcall(f, require "sluice.core.task".traced, ...))
end

--- Is a file descriptor a terminal? `sluice.isatty(0)`: does a person type on stdin?
---@param fd integer  0 stdin, 1 stdout, 2 stderr
---@return boolean
function sluice.isatty(fd)
  return require "sluice.core.sys".isatty(fd)
end

return setmetatable(sluice, {
  -- what there is, loaded or not: for completion at a prompt
  __sluice_names = function()
    local names = {}
    for name in pairs(PARTS) do names[name] = true end
    for name in pairs(FUNCTIONS) do names[name] = true end
    return names
  end,
  __index = function(self, name)
    local value
    if PARTS[name] then
      value = require(PARTS[name])
    elseif FUNCTIONS[name] then
      value = require(FUNCTIONS[name][1])[FUNCTIONS[name][2]]
    else
      local known = {}
      for part in pairs(PARTS) do known[#known + 1] = part end
      for f in pairs(FUNCTIONS) do known[#known + 1] = f end
      known[#known + 1] = "try"
      local options = require "sluice.options"
      options.raise(("sluice has no '%s'%s"):format(tostring(name), options.suggest(name, known)))
    end
    rawset(self, name, value)
    return value
  end,
})
