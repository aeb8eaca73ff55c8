--- Tokens: credentials that are replaced before they end, once for everybody who waits.
-- Owns: the kinds of token source, and what a source can do besides what C gives it. What is due when
-- is runtime/task/token.c; how a new value is had is token/*.lua.
--
--   local corp = sluice.token.oauth { url = "https://idp.example/token", client_id = "me",
--                                     client_secret = sluice.secret.env "CORP_SECRET", scope = "llm" }
--   sluice.model { provider = "openai", base_url = "https://gw.example/v1", model = "m", auth = corp }
--   sluice.http.request { url = "https://api.example/", headers = { Authorization = corp:bearer() } }

local core = require "sluice.core.token"
local secrets = require "sluice.core.secret"
local options = require "sluice.options"
local source = require "sluice.token.source"

---@class sluice.token
local token = {
  --- Is the value a token source?
  ---@type fun(value: any): boolean
  is = core.is,
  --- Calls `f(source, outcome, seconds)` after every refresh; outcome is "ok" or "error".
  ---@type fun(f: fun(source: string, outcome: "ok"|"error", seconds: number))
  observe = source.observe,
}

-- What a source can do -----------------------------------------------------------------------------

local bearers = setmetatable({}, { __mode = "k" })

--- "Bearer …" as a secret, for a header of your own. Waits like `get`.
---@async
---@param self sluice.Token
---@param least? number  seconds that must be left, as for get
---@return sluice.Secret value
---@return integer generation  for reject
function core.methods.bearer(self, least)
  local value, generation = self:get(least)
  local known = bearers[self]
  if known and known.generation == generation then return known.value, generation end
  local prefixed = secrets.prefixed("Bearer ", value)
  bearers[self] = { generation = generation, value = prefixed }
  return prefixed, generation
end

-- Kinds --------------------------------------------------------------------------------------------

local SOURCE = options.spec {
  name = { type = "string", nonempty = true, doc = "what errors and logs call it" },
  fetch = { type = "callable", required = true, doc = "called as fetch(old) for every new value" },
  ttl = { type = "number", above = 0, default = source.TTL, doc = "seconds a value without an expiry is good for" },
  timeout = { type = "seconds", above = 0, default = 30, doc = "seconds fetch may take" },
  cache = { type = "string", nonempty = true, doc = "a file that processes share" },
}

--- A source of your own. `fetch(old)` is called in a task of the runtime's when a new value is needed;
--- `old` is the last one (a secret), or nil. It returns the value, a string or a secret, and what is
--- known of it: `{ expires_in = seconds, expires_at = seconds since 1970, refresh_in = seconds }`.
--- Without an expiry the value is good for `ttl` (300) seconds; `expires_in = math.huge` is for ever.
--- What fetch raises reaches those who wait as an error of kind `auth`, phase "refresh".
---@param opts sluice.TokenSourceOptions|fun(old: sluice.Secret?): string|sluice.Secret, table?
---@return sluice.Token
function token.source(opts)
  local where = "sluice.token.source"
  if type(opts) == "function" then opts = { fetch = opts } end
  options.check(where, opts, SOURCE)
  local o = options.fill(opts, SOURCE)
  if o.cache and not o.name then
    options.raise(where .. ": option 'cache' wants a 'name', which tells this token from others in the file")
  end
  return source.new {
    name = o.name or "source", ttl = o.ttl, timeout = o.timeout, cache = o.cache, key = "source " .. (o.name or ""),
    fetch = function(old) return o.fetch(old) end,
  }
end

--- A key that never changes, where a token source is wanted. A refusal (401) does not bring another.
---@param value string|sluice.Secret
---@param name? string
---@return sluice.Token
function token.static(value, name)
  if type(value) == "string" and value ~= "" then
    value = secrets.new(name or "static", value)
  elseif not secrets.is(value) then
    options.raise("sluice.token.static: argument 1 must be a secret or a string that is not empty, got "
      .. options.got(value))
  end
  return core.fixed("the token " .. (name or value:name()), value)
end

--- A token from an OAuth 2.0 server (RFC 6749): client credentials, or a refresh token.
---@param opts sluice.OAuthOptions
---@return sluice.Token
function token.oauth(opts)
  return require "sluice.token.oauth".new(opts)
end

--- A token that a program prints: `sluice.token.command { "gcloud", "auth", "print-access-token", ttl = 1800 }`.
---@param opts sluice.CommandOptions
---@return sluice.Token
function token.command(opts)
  return require "sluice.token.command".new(opts)
end

return token
