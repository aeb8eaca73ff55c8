--- Rules that people change while the program runs: a file that returns a fallback chain.
-- Owns: noticing an edit, and the last good version. A broken edit never takes over: the good rules go
-- on, and a line says what is wrong and where.
-- A call in flight finishes on the rules it began with.

local core = require "sluice.core.task"
local sys = require "sluice.core.sys"
local errors = require "sluice.errors"
local log = require "sluice.log"
local options = require "sluice.options"
local Fallback = require "sluice.fallback"

---@class sluice.Rules
---@field path string
local Rules = { __name = "sluice.rules" }
Rules.__index = Rules

--- Beside the script first, as `require` looks; then where the process is.
local function find(path)
  if path:find "^/" then return path end
  local script = type(arg) == "table" and arg[0]
  local dir = script and script:match "^(.*/)[^/]*$"
  if dir and sys.stamp(dir .. path) then return dir .. path end
  return path
end

--- The chain a chunk returned: a fallback, or the list of its steps.
local function as_chain(value)
  if type(value) == "table" and getmetatable(value) == Fallback then return value end
  if type(value) == "table" and getmetatable(value) == nil then return Fallback.new(value) end
  if type(value) == "table" and type(value.ask) == "function" then return Fallback.new { value } end
  error(("the file returns %s; it must return sluice.fallback { … }"):format(options.got(value)), 0)
end

--- Reads, compiles and runs the file: everything that can be wrong before the first call is found here.
local function load_chain(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, why end
  local text = file:read "a"
  file:close()
  local chunk, message = load(text:gsub("^\xEF\xBB\xBF", ""), "@" .. path, "t")
  if not chunk then return nil, message end
  local scope <close> = core.scope {}
  local ok, result = scope:run(function() return as_chain(chunk()) end)
  if not ok then
    if errors.is(result, "cancelled") then error(result, 0) end
    return nil, tostring(result)
  end
  return result
end

--- Takes up an edit, if there was one since the last look.
local function refresh(self)
  local stamp, why = sys.stamp(self.path)
  if stamp == self.stamp then return end
  self.stamp = stamp -- looked at once: a broken file is reported once, not at every call
  local chain
  if stamp then chain, why = load_chain(self.path) end
  if chain then
    self.chain = chain
    self.version = self.version + 1
    self.fault = nil
    log.info("rules: the edited file is in force", { file = self.path, version = self.version })
  else
    self.fault = why
    log.error("rules: the edited file is broken, the rules before it stay in force",
      { file = self.path, version = self.version, why = why })
  end
end

--- Loads a file of rules; it returns sluice.fallback { … }. Every call looks whether the file was edited
--- and, if the new version compiles, runs and is a chain, goes by it from then on. What is returned
--- has the methods of a model, and may be a step itself; `fault` says what is wrong with the last edit.
--- Raises an ordinary error when the file is broken at the first load.
---@param path string  relative to the script, else to the process
---@return sluice.Rules
function Rules.new(path)
  if type(path) ~= "string" or path == "" then
    options.raise("sluice.rules: expected the path of a file, got " .. options.got(path))
  end
  local self = setmetatable({ path = find(path), version = 1, name = path }, Rules)
  self.stamp = sys.stamp(self.path)
  local chain, why = load_chain(self.path)
  if not chain then options.raise(("sluice.rules: %s"):format(why)) end
  self.chain = chain
  return self
end

---@async
---@param req string|sluice.Request
---@return sluice.Reply
function Rules:ask(req)
  refresh(self)
  return self.chain:ask(req)
end

---@async
---@param req string|sluice.Request
---@return sluice.Stream
function Rules:stream(req)
  refresh(self)
  return self.chain:stream(req)
end

function Rules:__tostring()
  return ("rules %s (version %d%s)"):format(self.path, self.version, self.fault and ", last edit broken" or "")
end

return Rules
