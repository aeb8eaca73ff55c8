--- A file in which processes share tokens, so that only one of them asks the server.
-- Owns: the file's form, the lock, when an entry is as good as a new token. Never: keeps a file that
-- others may read, waits for a lock on the loop, or lets an older entry replace a newer one.
--
-- One process at a time holds the lock (flock, on a file beside it that stays), reads the file again,
-- takes what another has put there meanwhile, or asks the server and writes the answer before anybody
-- uses it. The lock ends with the process that holds it, whatever ended that.

local core = require "sluice.core.token"
local file = require "sluice.core.file"
local secrets = require "sluice.core.secret"
local sys = require "sluice.core.sys"
local errors = require "sluice.errors"
local json = require "sluice.json"
local task = require "sluice.task"

local VERSION = 1
local KEPT_MAX = 365 * 86400     -- seconds a refresh token that nobody uses is kept
local LOCK_WAIT = 60             -- seconds
local PAUSE, PAUSE_MAX = 0.005, 0.1 -- seconds between two looks at a lock that another process has
local FUTURE_MAX = 60            -- seconds an entry may seem to come from the future
local SHIELD = 10                -- seconds that a rotation under way has when the program ends

---@class sluice.token.Cache
---@field path string
---@field key string|fun(): string  one file may hold many credentials; what differs in anything that
---a server could tell apart must differ here
local Cache = {}
Cache.__index = Cache

local cache = {}

--- A path with "~/" in front made whole.
---@param path string
---@return string
function cache.expand(path)
  local rest = path:match "^~/(.*)$"
  local home = rest and sys.env "HOME"
  return home and home .. "/" .. rest or path
end

--- What tells options from others, in a few letters: plain values by what they are, a secret that
--- changes while we run by its name. Not for showing.
---@param ... any  tables of options, values, secrets, nil
---@return string mark  "" when there are none
function cache.mark(...)
  local parts = {}
  local function add(prefix, value)
    if secrets.is(value) then
      parts[#parts + 1] = prefix .. (secrets.source(value) and value:name() or secrets.fingerprint(value))
    elseif type(value) == "table" then
      for name, item in pairs(value) do add(prefix .. tostring(name) .. "=", item) end
    elseif value ~= nil then
      parts[#parts + 1] = prefix .. tostring(value)
    end
  end
  for i = 1, select("#", ...) do add(i .. ":", (select(i, ...))) end
  if not parts[1] then return "" end
  table.sort(parts)
  return "\n#" .. secrets.fingerprint(table.concat(parts, "\n"))
end

local ignoring = false

--- Whether what other processes have put into the file is passed over: for those who want a new token.
---@param on boolean
function cache.ignore(on)
  ignoring = on
end

---@param spec sluice.token.Spec
---@return sluice.token.Cache
function cache.new(spec)
  return setmetatable({ path = cache.expand(spec.cache), key = spec.key, name = spec.name,
    rotates = spec.rotates or false }, Cache)
end

-- The file -----------------------------------------------------------------------------------------

local function unusable(self, what, why, code)
  errors.raise { kind = "auth", code = "cache",
    message = ("the cache file %s %s: %s%s"):format(self.path, what, why, code == "unsafe"
      and "; only its owner may read it or write to its folder: chmod 600 the file, or choose another place" or "") }
end

--- All entries of the file by key; what cannot be read as such counts as empty.
function Cache:read()
  local text, why, code = file.read(self.path, nil, true)
  if not text then
    if code == "absent" then return {} end
    unusable(self, "cannot be read", why, code)
  end
  local ok, whole = pcall(json.decode, text, { excerpt = false, repair = true })
  if ok and type(whole) == "table" and whole.version == VERSION and type(whole.tokens) == "table" then
    return whole.tokens
  end
  require "sluice.log".warn("a token cache is not what it should be, and begun anew", { file = self.path })
  return {}
end

--- This credential's entry, when it is one.
local function entry_of(self, tokens)
  local entry = tokens[self.current]
  if type(entry) ~= "table" then return nil end
  if entry.token ~= nil and type(entry.token) ~= "string" then return nil end
  if type(entry.issued_at) ~= "number" or type(entry.expires_at) ~= "number" then return nil end
  if entry.keep ~= nil and type(entry.keep) ~= "table" then return nil end
  return entry
end

--- Is an entry of somebody else's of no use to anybody any more?
local function is_stale(entry, now)
  if type(entry) ~= "table" or type(entry.expires_at) ~= "number" then return true end
  return entry.expires_at < now - (entry.keep and KEPT_MAX or 0)
end

--- Writes the entry, unless a newer one has come by a way around the lock. Old entries of others go.
function Cache:write(entry)
  local tokens, now = self:read(), sys.wall()
  for key, other in pairs(tokens) do
    if is_stale(other, now) then tokens[key] = nil end
  end
  local there = entry_of(self, tokens)
  if there and (tonumber(there.serial) or 0) >= entry.serial then return end
  tokens[self.current] = entry
  local ok, why = file.write(self.path, json.encode { version = VERSION, tokens = tokens })
  if not ok then unusable(self, "cannot be written", why) end
end

-- Entries ------------------------------------------------------------------------------------------

--- The entry's token, when it can stand for a new one: value, seconds left, life, interval.
local function usable(self, entry, box, old)
  if not entry or not entry.token or ignoring then return nil end
  local now = sys.wall()
  local left, life = entry.expires_at - now, entry.expires_at - entry.issued_at
  if life <= 0 or entry.issued_at > now + FUTURE_MAX then return nil end
  left = math.min(left, life)
  local _, mandatory = core.margins(math.min(life, 1e9), tonumber(entry.refresh_in))
  if left <= mandatory then return nil end
  if old then
    -- the one that is to be replaced, or refused; or one that would not last longer
    if secrets.same(old, entry.token) then return nil end
    local state = box:state()
    if not state.refused and state.left and left <= state.left then return nil end
  end
  local name = ("%s#%d"):format(self.name, box:state().generation + 1)
  return secrets.new(name, entry.token), left, life, tonumber(entry.refresh_in)
end

-- The lock -----------------------------------------------------------------------------------------

function Cache:lock()
  local ends, pause = task.now() + LOCK_WAIT, PAUSE
  while true do
    local held, why, code = file.lock(self.path)
    if held then return held end
    if code ~= "locked" then unusable(self, "cannot be locked", why, code) end
    if task.now() >= ends then
      errors.raise { kind = "auth", code = "locked", message =
        ("another process has been renewing it for %d s (it holds %s.lock)"):format(LOCK_WAIT, self.path) }
    end
    task.sleep(pause * (0.5 + sys.random()))
    pause = math.min(PAUSE_MAX, 1.5 * pause)
  end
end

--- Asks, and writes the answer down before anybody uses it. With the lock held.
function Cache:renew(entry, ask)
  local value, left, life, interval, keep = ask(entry and entry.keep)
  if life or keep then -- an endless value needs no sharing
    local now = sys.wall()
    self:write { token = life and secrets.text(value) or nil, issued_at = now + (left or 0) - (life or 0),
      expires_at = now + (left or 0), refresh_in = interval, keep = keep,
      serial = (entry and tonumber(entry.serial) or 0) + 1 }
  end
  return value, left, life, interval
end

-- Rotations -----------------------------------------------------------------------------------------

local under_way = {} -- tokens whose refresh token is being replaced
local guarding = false

--- Waits until no refresh token is being replaced, for as long as a rotation may take at the end.
function cache.finish()
  for box in pairs(under_way) do
    pcall(task.shield, SHIELD, function() return box:get(1e9, SHIELD) end)
  end
end

--- os.exit leaves at once, and would take a refresh token with it that no other copy exists of.
local function guard_exit()
  if guarding then return end
  guarding = true
  local exit = os.exit
  function os.exit(...) -- luacheck: ignore 122
    cache.finish()
    exit(...)
  end
end

--- What must not be cut short: the answer is worth more than the time it takes.
local function rotate(box, renew)
  guard_exit()
  under_way[box] = true
  local done <close> = setmetatable({}, { __close = function() under_way[box] = nil end }) -- luacheck: ignore 211
  return task.shield(SHIELD, renew)
end

--- A value that another process has put there, or a new one from `ask`, which is then there for others.
---@async
---@param box sluice.Token
---@param old? sluice.Secret
---@param ask fun(kept: table?): sluice.Secret, number?, number?, number?, table?
---@return sluice.Secret value
---@return number? left
---@return number? life
---@return number? interval
function Cache:obtain(box, old, ask)
  self.current = type(self.key) == "function" and self.key() or self.key
  local made, why, code = file.make_folder(self.path)
  if not made then unusable(self, "has no place", why, code) end
  local value, left, life, interval = usable(self, entry_of(self, self:read()), box, old)
  if value then return value, left, life, interval end
  local lock <close> = self:lock() -- luacheck: ignore 211
  local entry = entry_of(self, self:read())
  value, left, life, interval = usable(self, entry, box, old)
  if value then return value, left, life, interval end
  local function renew() return self:renew(entry, ask) end
  if self.rotates then return rotate(box, renew) end
  return renew()
end

return cache
