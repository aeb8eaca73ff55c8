--- Tokens from an OAuth 2.0 server (RFC 6749): client credentials (4.4), a refresh token (6).
-- Owns: the request, the answers a server may give, which of them are worth asking again. When a new
-- token is due is C; who shares it is token/cache.lua. Never: follows a redirect with credentials, nor
-- shows a body.

local secrets = require "sluice.core.secret"
local sys = require "sluice.core.sys"
local errors = require "sluice.errors"
local http = require "sluice.http"
local json = require "sluice.json"
local options = require "sluice.options"
local task = require "sluice.task"
local mocked = require "sluice.secret.mocked"
local retry_after = require "sluice.provider.retry_after"
local source = require "sluice.token.source"

local BODY_MAX = 1 << 20 -- bytes of an answer

local function is_secret(value) return type(value) == "string" and value ~= "" or secrets.is(value) end
local SECRET = { check = is_secret, expected = "a secret, or a string that is not empty" }

local SPEC = options.spec {
  url = { type = "string", required = true, nonempty = true },
  client_id = { type = "string", required = true, nonempty = true },
  client_secret = SECRET,
  client_auth = { type = "string", enum = { "basic", "basic_raw", "post", "none" } },
  grant = { type = "string", enum = { "client_credentials", "refresh_token" } },
  refresh_token = SECRET,
  scope = { type = { "string", "list" }, nonempty = true, items = { type = "string", nonempty = true } },
  audience = { type = "string", nonempty = true },
  resource = { type = "string", nonempty = true },
  extra = { type = "table", values = { type = { "string", "number", "boolean" } } },
  headers = { type = "table", values = SECRET },
  name = { type = "string", nonempty = true },
  cache = { type = "string", nonempty = true },
  ttl = { type = "number", above = 0, default = source.TTL },
  timeout = { type = "seconds", above = 0, default = 10 },
  retry = { type = { "table", "false" }, fields = {
    attempts = { type = "integer", min = 1, max = 20, default = 3 },
    min = { type = "seconds", default = 0.5 },
    max = { type = "seconds", default = 5 },
  } },
}

-- The request --------------------------------------------------------------------------------------

--- application/x-www-form-urlencoded.
local function encode(text)
  return (text:gsub("[^%w*._-]", function(c)
    return c == " " and "+" or ("%%%02X"):format(c:byte())
  end))
end

local function form(name_of, fields, held)
  local names, parts = {}, {}
  for name in pairs(fields) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = fields[name]
    local hidden = secrets.is(value)
    if hidden then value = secrets.text(value) end
    local encoded = encode(tostring(value))
    if hidden then held[#held + 1] = secrets.new(name_of, encoded) end
    parts[#parts + 1] = encode(name) .. "=" .. encoded
  end
  return table.concat(parts, "&")
end

--- Headers and body of one request, and the secrets in the forms they have there: held until the answer
--- has been read, so that a server that quotes what it was sent does not show them.
local function request_of(o, client_secret, refresh_token)
  local held = {}
  local fields = { grant_type = o.grant, scope = o.scope, audience = o.audience, resource = o.resource,
    refresh_token = refresh_token }
  local headers = { Accept = "application/json", ["Content-Type"] = "application/x-www-form-urlencoded" }
  for name, value in pairs(o.extra or {}) do fields[name] = value end
  for name, value in pairs(o.headers or {}) do headers[name] = secrets.is(value) and secrets.current(value) or value end
  if o.client_auth == "post" then
    fields.client_id, fields.client_secret = o.client_id, client_secret
  elseif o.client_auth == "none" then
    fields.client_id = o.client_id
  else
    headers.Authorization, held[1] = secrets.basic(o.name, o.client_id, client_secret, o.client_auth == "basic")
  end
  return headers, form(o.name, fields, held), held
end

-- Answers ------------------------------------------------------------------------------------------

-- RFC 6749 5.2 and what servers add to it: which failure of ours it is.
local PASSING = { temporarily_unavailable = "overloaded", server_error = "server", slow_down = "rate_limited" }

local function kind_of(status, code)
  if PASSING[code] then return PASSING[code] end
  if status == 429 then return "rate_limited" end
  if status == 503 or status == 529 then return "overloaded" end
  if status >= 500 or status == 408 or status == 425 then return "server" end
  return "auth"
end

local function refused(response, answer)
  local status = response.status
  local code = answer and type(answer.error) == "string" and source.words(answer.error, 60) or nil
  local said = answer and type(answer.error_description) == "string" and answer.error_description or nil
  local text
  if status >= 300 and status < 400 then
    text = ("the server answers with a redirect%s; it is not followed with credentials, set url to the right one")
      :format(response.headers.location and " to " .. response.headers.location:gsub("[?#].*$", "") or "")
  elseif code then
    text = said and ("%s: %s"):format(code, said) or code
  else
    text = ("the server answered %d%s without a reason"):format(status,
      errors.reason(status) and " " .. errors.reason(status) or "")
  end
  errors.raise { kind = kind_of(status, code), status = status, code = code, message = source.words(text),
    retry_after = retry_after.parse(response.headers, sys.wall()) }
end

local UNUSABLE = { mac = true, pop = true, dpop = true }

--- The token of a good answer, and what is known of its life.
local function read(response)
  local ok, answer = pcall(json.decode, response.body, { excerpt = false, repair = true })
  if not ok or type(answer) ~= "table" then answer = nil end
  if response.status < 200 or response.status > 299 or (answer and answer.error) then
    refused(response, answer)
  end
  local value = answer and answer.access_token
  if type(value) ~= "string" or value == "" then
    errors.raise { kind = "protocol", code = "no_token", status = response.status,
      message = answer and "the server's answer has no access_token" or "the server's answer is not a JSON object" }
  end
  local kind = type(answer.token_type) == "string" and answer.token_type:lower() or "bearer"
  if UNUSABLE[kind] then
    errors.raise { kind = "invalid", code = "token_type",
      message = ("the server gives tokens of type '%s'; only bearer tokens can be used"):format(kind) }
  end
  local life = tonumber(answer.expires_in)
  -- it began to run out when the server made it: at the earliest when it was asked
  if life then life = life - response.elapsed end
  return value, { expires_in = life, refresh_in = tonumber(answer.refresh_in) }, answer.refresh_token
end

-- Asking -------------------------------------------------------------------------------------------

local RETRIED = { network = true, timeout = true, server = true, overloaded = true, rate_limited = true,
  protocol = true }

--- Seconds before attempt n + 1, or nil when it is not worth it.
local function pause(o, err, n)
  local r = o.retry
  if not r or n >= r.attempts or not errors.is(err) or not RETRIED[err.kind] then return nil end
  if err.kind == "network" and err.phase == "tls" then return nil end
  local high = math.min(r.max, r.min * 2.0 ^ n)
  local delay = r.min + sys.random() * math.max(0, high - r.min)
  local asked = err.retry_after
  if asked and asked > math.max(r.max, o.timeout) then return nil end
  return math.max(delay, asked or 0)
end

local function send(o, refresh_token)
  local client_secret, generation
  if secrets.is(o.client_secret) then
    client_secret, generation = secrets.current(o.client_secret)
  else
    client_secret = o.client_secret
  end
  local headers, body, held = request_of(o, client_secret, refresh_token) -- luacheck: ignore 211
  local response = http.request { method = "POST", url = o.url, headers = headers, body = body, redirects = 0,
    max_body = BODY_MAX, timeout = { connect = math.min(3, o.timeout), total = o.timeout, idle = o.timeout } }
  return generation, pcall(read, response)
end

--- One exchange. A client secret that comes from a file or a vault may just have been replaced.
local function exchange(o, refresh_token)
  local generation, ok, value, life, rotated = send(o, refresh_token)
  local live = secrets.source(o.client_secret)
  if not ok and live and errors.is(value) and value.code == "invalid_client" and live:reject(generation) then
    generation, ok, value, life, rotated = send(o, refresh_token) -- luacheck: ignore 311
  end
  if not ok then error(value, 0) end
  return value, life, rotated
end

local function with_retries(o, refresh_token)
  for attempt = 1, math.huge do
    local result = table.pack(pcall(exchange, o, refresh_token))
    if result[1] then return table.unpack(result, 2, result.n) end
    local delay = pause(o, result[2], attempt)
    if not delay then error(result[2], 0) end
    task.sleep(delay)
  end
end

-- The source ---------------------------------------------------------------------------------------

--- The refresh token that the script has, as it is now.
local function first_of(o)
  return secrets.is(o.refresh_token) and secrets.current(o.refresh_token) or o.refresh_token
end

--- The refresh token to send, and what tells whose descendant it is. A first one that the script gives
--- anew (after a new login) wins over what is kept of the old one.
local function choose(o, memory, kept)
  local first = o.first or first_of(o)
  local origin = secrets.fingerprint(first)
  if kept and kept.origin == origin and type(kept.refresh_token) == "string" then
    return kept.refresh_token, origin
  end
  if memory.origin == origin then return memory.refresh_token, origin end
  return first, origin
end

local function refresh_grant(o)
  local memory = {} -- without a cache, this process remembers
  return function(_, kept)
    local sent, origin = choose(o, memory, kept)
    local value, life, rotated = with_retries(o, sent)
    if type(rotated) == "string" and rotated ~= "" and not secrets.same(rotated, sent) then
      if not o.cache and not memory.origin then
        require "sluice.log".warn("the server replaces the refresh token, and nothing keeps the new one: "
          .. "give sluice.token.oauth a cache, or the next run cannot log in", { source = o.name })
      end
      sent = secrets.new(o.name .. " refresh token", rotated)
    end
    memory.refresh_token, memory.origin = sent, origin
    life.keep = { refresh_token = secrets.is(sent) and secrets.text(sent) or sent, origin = origin }
    return value, life
  end
end

--- Whose token it is, for the cache: what the server is told, and the login it descends from. Two people
--- with the same client have tokens of their own.
local function key_of(o)
  local login = nil
  if o.grant == "refresh_token" then
    o.first = first_of(o) -- the refresh that begins here uses the same one
    login = secrets.fingerprint(o.first)
  end
  return table.concat({ "oauth", o.grant, o.url, o.client_id, o.scope or "", o.audience or "", o.resource or "" }, "\n")
    .. require "sluice.token.cache".mark(o.extra, o.headers, login)
end

local function client_grant(o)
  return function() return with_retries(o) end
end

local function check(where, o)
  if not o.url:find "^https?://[^/]" then
    options.raise(where .. ": option 'url' must begin with https:// or http://")
  end
  if o.grant == "refresh_token" and not o.refresh_token then
    options.raise(where .. ": grant 'refresh_token' wants option 'refresh_token'")
  elseif o.grant == "client_credentials" and (o.refresh_token or not o.client_secret) then
    options.raise(where .. (o.refresh_token and ": option 'refresh_token' does not go with grant 'client_credentials'"
      or ": option 'client_secret' is missing, expected a secret, such as sluice.secret.env 'NAME'"))
  elseif o.client_auth ~= "none" and not o.client_secret then
    options.raise(("%s: client_auth '%s' wants option 'client_secret'"):format(where, o.client_auth))
  end
  if o.retry and o.retry.max < o.retry.min then
    options.raise(where .. ": option 'retry.max' must not be less than 'retry.min'")
  end
end

local oauth = {}

--- See sluice.OAuthOptions. The first request is made when the token is first used.
--- Raises an ordinary error for a wrong option.
---@param opts sluice.OAuthOptions
---@return sluice.Token
function oauth.new(opts)
  local where = "sluice.token.oauth"
  options.check(where, opts, SPEC)
  local o = options.fill(opts, SPEC)
  if opts.retry == nil then o.retry = options.fill({}, SPEC.entries.retry.fields) end
  o.grant = o.grant or (o.refresh_token and "refresh_token" or "client_credentials")
  o.client_auth = o.client_auth or (o.client_secret and "basic" or "none")
  if type(o.scope) == "table" then o.scope = table.concat(o.scope, " ") end
  check(where, o)
  o.name = o.name or o.url:match "^https?://([^/?#]+)":gsub("^.*@", "")
  for field, words in pairs { client_secret = " client secret", refresh_token = " refresh token" } do
    if type(o[field]) == "string" then o[field] = secrets.new(o.name .. words, o[field]) end
  end
  local mock = mocked.address()
  if mock then o.url, o.cache = mock .. "/oauth/token", nil end
  local attempts = o.retry and o.retry.attempts or 1
  return source.new {
    name = o.name, ttl = o.ttl, cache = o.cache, rotates = o.grant == "refresh_token",
    key = function() return key_of(o) end,
    timeout = attempts * 2 * o.timeout + (o.retry and (attempts - 1) * math.max(o.retry.max, o.timeout) or 0),
    fetch = o.grant == "refresh_token" and refresh_grant(o) or client_grant(o),
  }
end

return oauth
