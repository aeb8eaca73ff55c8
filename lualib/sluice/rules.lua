--- Rules that people change while the program runs: a file that returns a fallback chain.
-- Owns: noticing an edit, and the last good version. A broken edit never takes over: the good rules go
-- on, and a line says what is wrong and where.
-- A call in flight finishes on the rules it began with.
-- Reading order: Rules.new, refresh, load_chain.

local sys = require "sluice.core.sys"
local errors = require "sluice.errors"
local log = require "sluice.log"
local options = require "sluice.options"
local task = require "sluice.task"
local Fallback = require "sluice.fallback"

local LOAD_SECONDS = 5 -- a file that waits for longer while it is read is broken
local COMPUTE_SECONDS = 1 -- of processor time, likewise

---@class sluice.Rules
---@field path string
---@field version integer   1 for the file as it was found, one more for each edit that took over
---@field fault? string     what is wrong with the last edit; nil when it is in force
local Rules = { __name = "sluice.rules" }
Rules.__index = Rules

--- Beside the script first, as `require` looks; then where the process is.
local function find(path)
  if path:find "^/" then return path end
  local script = type(arg) == "table" and type(arg[0]) == "string" and arg[0]
  local dir = script and script:match "^(.*/)[^/]*$"
  if dir and sys.stamp(dir .. path) then return dir .. path end
  return path
end

--- The chain a chunk returned: a fallback, the list of its steps, or a single model.
local function as_chain(value)
  if type(value) ~= "table" then
    error(("the file returns %s; it must return sluice.fallback { … }"):format(options.got(value)), 0)
  end
  if getmetatable(value) == Fallback then return value end
  if type(value.ask) == "function" and type(value.stream) == "function" then return Fallback.new { value } end
  if getmetatable(value) == nil and value[1] ~= nil then return Fallback.new(value) end
  error("the file returns a table that is no chain; it must return sluice.fallback { … }", 0)
end

local function read(path)
  local file <close>, why = io.open(path, "rb")
  if not file then return nil, why end
  local text
  text, why = file:read "a"
  if not text then return nil, ("%s: %s"):format(path, why or "cannot be read") end
  return text
end

--- A message that begins with the file. `return sluice.fallback { … }` is a tail call: what is wrong with
--- the list is blamed on whoever loads the file, a line that is of no help to anybody.
local function in_file(path, message)
  if message:find(path, 1, true) then return message end
  return ("%s: %s"):format(path, message:match "^[^\n]-:%d+: (sluice%.%a+: .*)$" or message)
end

--- Runs the chunk; a loop in it without an end is an error of the file, where a deadline sees only waits.
local function bounded(chunk)
  local before, mask, count = debug.gethook()
  if type(before) ~= "function" then before = nil end -- none, or one of C's, which comes again
  local _ <close> = setmetatable({}, { __close = function() debug.sethook(before, mask, count) end })
  local began = os.clock()
  debug.sethook(function()
    if os.clock() - began < COMPUTE_SECONDS then return end
    error(("computes for more than %d s; a file of rules only says what they are"):format(COMPUTE_SECONDS), 2)
  end, "", 100000)
  return chunk()
end

local BOM = "\xEF\xBB\xBF"

--- Reads, compiles and runs the file: everything that can be wrong before the first call is found here.
---@async
local function load_chain(path)
  local text, why = read(path)
  if not text then return nil, why end
  if text:sub(1, 3) == BOM then text = text:sub(4) end
  if text:sub(1, 1) == "#" then text = text:match "^[^\n]*(.*)$" end -- '#!…'; lines keep their numbers
  local chunk, message = load(text, "@" .. path, "t")
  if not chunk then return nil, in_file(path, message) end
  local ok, result = pcall(task.deadline, LOAD_SECONDS, function() return as_chain(bounded(chunk)) end)
  if ok then return result end
  if errors.is(result, "timeout") and result.phase == "deadline" then
    return nil, ("%s: not read within %d s; a file of rules must not wait for anything"):format(path, LOAD_SECONDS)
  end
  return nil, in_file(path, tostring(result))
end

--- Loading, seen from outside: whoever is cancelled in the middle of it leaves the edit to the next call.
local Loading = {}
Loading.__index = Loading
function Loading:__close()
  self.rules.loading = false
  if not self.done then self.rules.stamp = self.before end
end

--- Takes up an edit, if there was one since the last look. While one call reads the new file, others go
--- by the old rules.
local function refresh(self)
  if self.loading then return end
  local stamp, why = sys.stamp(self.path)
  if stamp == self.stamp then return end
  local loading <close> = setmetatable({ rules = self, before = self.stamp }, Loading)
  self.loading = true
  self.stamp = stamp -- from before reading: an edit that falls in between is seen by the next call
  local chain
  if stamp then chain, why = load_chain(self.path) end
  loading.done = true
  if chain then
    self.chain, self.version, self.fault = chain, self.version + 1, nil
    log.info("rules: the edited file is in force", { file = self.path, version = self.version })
  else
    self.fault = stamp and why or ("%s: %s"):format(self.path, why)
    log.error("rules: the edited file is broken, the rules before it stay in force",
      { file = self.path, version = self.version, why = self.fault })
  end
end

--- Loads a file of rules; it returns sluice.fallback { … }. Every call looks whether the file was edited
--- and, if the new version compiles, runs and is a chain, goes by it from then on. What is returned
--- has the methods of a model, and may be a step itself; `fault` says what is wrong with the last edit.
--- Raises an ordinary error when the file is broken at the first load.
---@async
---@param path string  relative to the script, else to the process
---@return sluice.Rules
function Rules.new(path)
  if type(path) ~= "string" or path == "" then
    options.raise("sluice.rules: expected the path of a file, got " .. options.got(path))
  end
  local self = setmetatable({ path = find(path), version = 1, name = path, loading = false }, Rules)
  self.stamp = sys.stamp(self.path)
  local chain, why = load_chain(self.path)
  if not chain then options.raise(("sluice.rules: %s"):format(why)) end
  self.chain = chain
  return self
end

--- Asks the chain of the file as it is now.
---@async
---@param req string|sluice.Request
---@param opts? table  from a chain these rules are a step of
---@return sluice.Reply
function Rules:ask(req, opts)
  refresh(self)
  return self.chain:ask(req, opts)
end

--- Streams from the chain of the file as it is now; an edit takes hold at the next call.
---@async
---@param req string|sluice.Request
---@param opts? table  from a chain these rules are a step of
---@return sluice.Stream
function Rules:stream(req, opts)
  refresh(self)
  return self.chain:stream(req, opts)
end

--- For a chain these rules are a step of: as a model's.
--- For sluice's own modules.
---@return number?
function Rules:pay_hedge()
  return self.chain:pay_hedge()
end

--- A value instead of text, as model:json.
---@async
---@param req string|sluice.Request
---@param schema string|table
---@param opts? { repairs?: integer }
---@return any value
---@return sluice.Reply reply
function Rules:json(req, schema, opts)
  return require("sluice.structured").ask(self, "rules:json", req, schema, opts)
end

function Rules:__tostring()
  return ("rules %s (version %d%s)"):format(self.path, self.version, self.fault and ", last edit broken" or "")
end

return Rules
