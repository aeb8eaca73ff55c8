--- An endpoint whose credentials change: what is current goes with each request, and a refusal of it is
-- answered once with the next.
-- Owns: which header carries which source, what counts as a refusal, the one replay. Looks like an
-- endpoint of sluice.core.http to who uses it: for retries, breakers and limits the replay does not
-- happen. The request itself, its id included, is the same both times.

local core = require "sluice.core.secret"
local observe = require "sluice.observe"
local tasks = require "sluice.core.task"
local tokens = require "sluice.core.token"

---@class sluice.token.Credential
---@field header string
---@field prefix string                 in front of the value: "Bearer "
---@field source sluice.Secret.Source|sluice.Token

---@class sluice.token.Authorized
local Authorized = {}
Authorized.__index = Authorized

local authorized = {}

--- Puts the current credentials, in front of the pairs of headers that are given, into a list; remembers
--- in `used` which generations they are.
local function fill(self, used, ...)
  local headers = {}
  local wait <close> = observe.on and observe.token_wait() -- luacheck: ignore 211
  for i, credential in ipairs(self.credentials) do
    local value, generation = credential.source:get(nil, self.patience)
    if credential.made ~= value then
      credential.made, credential.value = value, core.prefixed(credential.prefix, value)
    end
    used[i] = generation
    headers[2 * i - 1], headers[2 * i] = credential.header, credential.value
  end
  local n = 2 * #self.credentials
  for i = 1, select("#", ...) do headers[n + i] = (select(i, ...)) end
  return headers
end

--- Has the server refused who we are? 401, or what RFC 6750 (3.1) has a gateway say with any status.
local function is_refusal(answer)
  local status = answer:status()
  if status < 300 then return false end
  if status == 401 then return true end
  local challenge = answer:header "www-authenticate"
  return challenge ~= nil and challenge:find("invalid_token", 1, true) ~= nil
end

--- Tells the sources. True when one of them has, or will have, something else to offer.
local function reject(self, used)
  local hope = false
  for i, credential in ipairs(self.credentials) do
    if credential.source:reject(used[i]) then hope = true end
  end
  return hope
end

local function left(total, began)
  return total and math.max(0.001, total - (tasks.now() - began))
end

-- What an answer that may be a refusal after all was asked with; of a second one nothing is kept.
local asked_with = setmetatable({}, { __mode = "k" })

local function exchange(self, method, body, total, ...)
  local began, used = tasks.now(), {}
  local headers = fill(self, used, ...)
  local answer, kind, phase, message, elapsed =
    self.endpoint[method](self.endpoint, body, left(total, began), table.unpack(headers))
  if not answer then return nil, kind, phase, message, elapsed end
  if not is_refusal(answer) then
    if method == "stream" then asked_with[answer] = used end
    return answer
  end
  if not reject(self, used) then return answer end
  if answer.close then answer:close() end
  headers = fill(self, used, ...)
  return self.endpoint[method](self.endpoint, body, left(total, began), table.unpack(headers))
end

---@async
function Authorized:request(body, total, ...)
  return exchange(self, "request", body, total, ...)
end

---@async
function Authorized:stream(body, total, ...)
  return exchange(self, "stream", body, total, ...)
end

--- A stream that began well refuses the credential in its first event. True when the request may be sent
--- once more: this was the first time, and there is, or will be, something else to offer.
---@param answer table
---@return boolean
function Authorized:refused(answer)
  local used = asked_with[answer]
  asked_with[answer] = nil
  return used ~= nil and reject(self, used)
end

--- Sends it for the second and last time.
---@async
function Authorized:stream_again(body, total, ...)
  return self.endpoint:stream(body, total, table.unpack(fill(self, {}, ...)))
end

function Authorized:label()
  return self.endpoint:label()
end

--- What gives the value of a credential that changes: a token source itself, or what looks after a live
--- secret. nil for one that never changes.
---@param value any
---@return sluice.Secret.Source|sluice.Token?
function authorized.source_of(value)
  if tokens.is(value) then return value end
  return core.source(value)
end

--- What may stand where a model is given its credential.
---@param value any
---@return boolean
function authorized.is_credential(value)
  return type(value) == "string" and value ~= "" or type(value) == "function" or core.is(value) or tokens.is(value)
end

local made = setmetatable({}, { __mode = "k" }) -- function -> its source: one for all models that have it

--- A function that gives a key, as a token source.
---@param f fun(old: sluice.Secret?): string|sluice.Secret, table?
---@param name string
---@return sluice.Token
function authorized.from_function(f, name)
  made[f] = made[f] or require "sluice.token".source { name = name, fetch = f }
  return made[f]
end

--- An endpoint with these credentials.
---@param endpoint sluice.core.Endpoint
---@param credentials sluice.token.Credential[]
---@param patience number  seconds to wait for a credential
---@return sluice.token.Authorized
function authorized.new(endpoint, credentials, patience)
  return setmetatable({ endpoint = endpoint, credentials = credentials, patience = patience }, Authorized)
end

return authorized
