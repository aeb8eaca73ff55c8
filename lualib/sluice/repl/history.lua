--- The lines of earlier sessions.
-- Owns: the file, one entry a line, and what may not be written to it. Never: fails a session; without a
-- folder to write to there is no history.
--
-- $XDG_STATE_HOME/sluice/history, or ~/.local/state/sluice/history; mode 0600. An input that begins with a
-- blank is not kept. A string that looks like a credential is kept as "<hidden>".

local files = require "sluice.core.file"
local lex = require "sluice.repl.lex"
local log = require "sluice.log"
local sys = require "sluice.core.sys"

local ENTRIES_MAX = 2000
local TRIM_AT = 3000         -- entries of the file, above which it is written anew
local ENTRY_MAX = 64 * 1024  -- bytes
local FILE_MAX = 4 << 20
local SECRET_MIN = 20        -- characters of a string that may be a key

local history = {}

--- Where the history is kept, or nil.
---@return string?
function history.path()
  local state = sys.env "XDG_STATE_HOME"
  if not state or state:sub(1, 1) ~= "/" then -- a relative one is to be ignored, says the specification
    local home = sys.env "HOME"
    if not home or home == "" then return nil end
    state = home .. "/.local/state"
  end
  return state .. "/sluice/history"
end

-- Secrets -------------------------------------------------------------------------------------------

-- Letters and digits without a blank, and many of them: a key, a token, no prose.
local function looks_secret(text)
  if #text < SECRET_MIN or text:find "[%s]" then return false end
  if text:find "^sk%-" or text:find "^eyJ" or text:find "^gh[pousr]_" or text:find "^xox" then return true end
  if text:find "^https?://" or text:find "[/\\]" then return false end
  local _, letters = text:gsub("%a", "")
  local _, digits = text:gsub("%d", "")
  return digits >= 4 and letters >= 4 and text:find "^[%w%-_.+=]+$" ~= nil
end

local OWN_NAMES = { auth = true, key = true, api_key = true, bearer = true, pass = true, literal = true }

local function named_secret(name)
  return name ~= nil and name.kind == "name" and (OWN_NAMES[name.text] or log.is_secret(name.text)) or false
end

-- The name a string is given to: `name = "…"`, `["name"] = "…"`, `f "…"`, `f("…")`.
local function name_before(tokens, i)
  local t = tokens[i - 1]
  if not t then return nil end
  if t.text == "=" then
    local k = tokens[i - 2]
    if k and k.text == "]" and tokens[i - 3] and tokens[i - 3].kind == "string" then
      return { kind = "name", text = lex.value(tokens[i - 3]) }
    end
    return k
  end
  if t.text == "(" then return tokens[i - 2] end
  return t
end

--- An input with what looks like a credential taken out.
---@param source string
---@return string
---@return boolean changed
function history.without_secrets(source)
  local tokens, parts, from, changed = {}, {}, 1, false
  for _, t in ipairs(lex.tokens(source)) do
    if t.kind ~= "comment" then tokens[#tokens + 1] = t end
  end
  for i, t in ipairs(tokens) do
    local value = t.kind == "string" and lex.value(t)
    local bare = value and value:gsub("^[Bb]earer ", "") or ""
    if bare ~= "" and (looks_secret(bare) or named_secret(name_before(tokens, i))) then
      parts[#parts + 1] = source:sub(from, t.first - 1) .. '"<hidden>"'
      from = t.last + 1
      changed = true
    end
  end
  parts[#parts + 1] = source:sub(from)
  local text = table.concat(parts)
  local secrets = package.loaded["sluice.core.secret"]
  local scrubbed = secrets and secrets.scrub(text) or text
  return scrubbed, changed or scrubbed ~= text
end

-- The file ------------------------------------------------------------------------------------------

--- An entry as a line of the file, and back.
---@param entry string
---@return string
function history.encode(entry) return (entry:gsub("\\", "\\\\"):gsub("\n", "\\n")) end

---@param line string
---@return string
function history.decode(line)
  return (line:gsub("\\(.)", function(c) return c == "n" and "\n" or c end))
end

---@class sluice.repl.History
---@field entries string[] oldest first
---@field path? string nil: it is not kept
local History = {}
History.__index = History

--- Opens the history; whatever is wrong with its place, there is one.
---@param path? string
---@return sluice.repl.History history
---@return string? why it cannot be kept
function history.open(path)
  local self = setmetatable({ entries = {}, path = path }, History)
  if not path then return self end
  local made, why = files.make_folder(path)
  if not made then
    self.path = nil
    return self, why
  end
  local text, problem, name = files.read(path, FILE_MAX, true)
  local unsafe = name == "unsafe" -- others can read it: it is written anew below
  if unsafe then text, problem, name = files.read(path, FILE_MAX) end
  if not text and name ~= "absent" then
    self.path = nil
    return self, problem
  end
  for line in (text or ""):gmatch "[^\n]+" do self.entries[#self.entries + 1] = history.decode(line) end
  local count = #self.entries
  if count > ENTRIES_MAX then self.entries = table.move(self.entries, count - ENTRIES_MAX + 1, count, 1, {}) end
  if not text or unsafe or count > TRIM_AT then
    local written, trouble = self:rewrite()
    if not written then
      self.path = nil
      return self, trouble
    end
  end
  return self
end

---@return boolean? ok
---@return string? why not
function History:rewrite()
  local lines = {}
  for i, entry in ipairs(self.entries) do lines[i] = history.encode(entry) .. "\n" end
  return files.write(self.path, table.concat(lines))
end

--- Adds an input, unless it is one that is not kept. Returns what was kept, or nil.
---@param source string
---@return string?
function History:add(source)
  if source:find "^%s" or source == "" or #source > ENTRY_MAX or source:find "\0" then return nil end
  local entry = history.without_secrets(source)
  if entry == self.entries[#self.entries] then return entry end
  self.entries[#self.entries + 1] = entry
  if self.path then
    local file = io.open(self.path, "a")
    if file then
      file:write(history.encode(entry), "\n")
      file:close()
    end
  end
  return entry
end

return history
