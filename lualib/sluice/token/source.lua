--- What every token source has in common: one refresh, from the question to a value C can keep.
-- Owns: the deadline of a refresh, what may come out of a fetch, the words when none comes. Single
-- flight, states and back-off are C (sluice.core.token). Never: shows a value.

local core = require "sluice.core.token"
local secrets = require "sluice.core.secret"
local errors = require "sluice.errors"
local observe = require "sluice.observe"
local options = require "sluice.options"
local sys = require "sluice.core.sys"
local task = require "sluice.task"

local source = {
  TTL = 300,       -- seconds: what a value is good for when nobody says
  LOCK_WAIT = 60,  -- seconds to wait for another process that refreshes the same token
}

local ENDLESS = 1e9      -- seconds; more is for ever
local MESSAGE_MAX = 400  -- bytes of somebody else's words in an error
local HOLD_MAX = 300     -- seconds: a longer Retry-After is not believed

-- Asking again at once would end the same way.
local LASTING = { auth = true, invalid = true, quota = true, filtered = true }

local observers = {}

--- Calls `f(source, outcome, seconds)` after every refresh.
function source.observe(f)
  observers[#observers + 1] = f
end

local function observed(name, outcome, seconds)
  if observe.on then observe.on:token_refreshed(name, task.now(), outcome, seconds) end
  for _, f in ipairs(observers) do
    local ok, why = pcall(f, name, outcome, seconds)
    if not ok then require "sluice.log".warn("an observer of tokens failed", { error = tostring(why) }) end
  end
end

--- Somebody else's words, fit to be shown: no secret, one line.
---@param text string
---@param max? integer bytes
---@return string
function source.words(text, max)
  return errors.one_line(secrets.redact(text), max or MESSAGE_MAX)
end

-- What fetch gives ---------------------------------------------------------------------------------

local function is_seconds(value)
  local n = tonumber(value)
  return n ~= nil and n == n
end

local LIFE = options.spec({
  expires_in = { check = is_seconds, expected = "a number of seconds" },
  expires_at = { type = "number" },
  refresh_in = { check = is_seconds, expected = "a number of seconds" },
  keep = { type = "table" }, -- what the cache keeps beside the value: oauth's refresh token
}, "field")

local function bad(text)
  errors.raise { kind = "invalid", code = "bad_token", message = text }
end

--- A string as a token: without the white space around it, and fit for a header.
---@param text string
---@return string
function source.clean(text)
  text = text:match "^%s*(.-)%s*$"
  if text == "" then bad "the token is empty" end
  if text:find "[%c\127]" then
    local lines = select(2, text:gsub("\n", "")) + 1
    bad(lines > 1 and ("the token has %d lines; one was expected"):format(lines)
      or "the token holds a control character")
  end
  return text
end

local function to_secret(spec, box, value)
  if secrets.is(value) then return (secrets.current(value)) end
  if type(value) ~= "string" then
    bad(("fetch returned %s; a string or a secret was expected"):format(options.got(value)))
  end
  return secrets.new(("%s#%d"):format(spec.name, box:state().generation + 1), source.clean(value))
end

--- Seconds the value has left, and after which to ask again; nil for never.
local function life_of(spec, life)
  if life == nil then life = {} end
  local problem = options.problem(life, LIFE)
  if problem then bad("fetch's second result: " .. problem) end
  local left = tonumber(life.expires_in)
  if not left and life.expires_at then left = life.expires_at - sys.wall() end
  if not left then left = spec.ttl end
  if left >= ENDLESS then left = nil end
  return left, tonumber(life.refresh_in)
end

--- One question to the source. Returns the value, seconds left, the same again (a new value's whole
--- life), seconds to the next question, and what the cache keeps beside it.
local function ask(spec, box, old, kept)
  local value, life = spec.fetch(old, kept)
  value = to_secret(spec, box, value)
  local left, interval = life_of(spec, life)
  return value, left, left, interval, life and life.keep
end

-- What goes wrong ----------------------------------------------------------------------------------

local function failure(spec, err)
  local label = "the token " .. spec.name
  if errors.is(err) then
    local text = source.words(tostring(err.message or err.kind))
    if err.kind == "timeout" and err.phase == "deadline" then
      text = ("nothing came within %.14g s"):format(spec.timeout)
    end
    local lasting = LASTING[err.kind] and err.code ~= "locked"
    local hold = err.retry_after and err.retry_after <= HOLD_MAX and err.retry_after or nil
    return errors.new { kind = "auth", phase = "refresh", code = err.code, status = err.status,
      message = ("%s could not be renewed: %s"):format(label, text),
      retry_after = hold, cause = err.kind ~= "auth" and err or nil }, lasting or false, hold
  end
  local ok, text = pcall(tostring, err)
  if not ok then text = "an error that cannot be shown, of type " .. type(err) end
  return errors.new { kind = "auth", phase = "refresh", code = "fetch",
    message = ("%s could not be renewed: %s"):format(label, source.words(text)) }, true, nil
end

local function tell_failure(spec, box, err)
  local state = box:state()
  if state.state == "expired" then return end -- those who wait will be told
  require "sluice.log".warn("a token could not be renewed; the old one is used while it lasts",
    { source = spec.name, left = state.left, error = tostring(err) })
end

-- Making one ---------------------------------------------------------------------------------------

---@class sluice.token.Spec
---@field name string
---@field fetch fun(old: sluice.Secret?, kept: table?): string|sluice.Secret, table?
---@field ttl number       seconds
---@field timeout number   seconds one refresh may take, a wait for other processes aside
---@field cache? string    a file
---@field key? string|fun(): string  names the credential in that file
---@field rotates? boolean  once asked, the answer is not given up: a refresh token is good for one use

--- A source whose values come from `spec.fetch`.
---@param spec sluice.token.Spec
---@return sluice.Token
function source.new(spec)
  local shared = spec.cache and require "sluice.token.cache".new(spec)
  local limit = spec.timeout + (shared and source.LOCK_WAIT or 0)
  local function renew(box)
    local old = box:peek()
    if shared then
      return shared:obtain(box, old, function(kept) return ask(spec, box, old, kept) end)
    end
    return ask(spec, box, old, nil)
  end
  return core.new("the token " .. spec.name, function(box)
    local started = task.now()
    local ok, value, left, life, interval = pcall(task.deadline, limit, task.group, function() return renew(box) end)
    local elapsed = task.now() - started
    if ok then
      require "sluice.log".debug("a token was renewed", { source = spec.name, left = left, elapsed = elapsed })
      observed(spec.name, "ok", elapsed)
      return value, left, life, interval
    end
    local err, lasting, hold = failure(spec, value)
    tell_failure(spec, box, err)
    observed(spec.name, "error", elapsed)
    return nil, err, lasting, hold
  end)
end

return source
