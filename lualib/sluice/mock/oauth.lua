--- A token endpoint: client_credentials and refresh_token (RFC 6749 4.4, 6, 2.3.1, 5).
-- Owns: the tokens it has issued and when they end. Never: prints one.

local tasks = require "sluice.core.task"

local EXPIRES_IN = 3600 -- seconds

local oauth = {}
oauth.__index = oauth

---@class sluice.mock.OAuthOptions
---@field client_id? string      with client_secret: only this client is served; without: any
---@field client_secret? string
---@field expires_in? number     seconds, 3600
---@field refresh? boolean       also give a refresh token (each is good for one use)

---@param opts? sluice.mock.OAuthOptions
function oauth.new(opts)
  return setmetatable({ opts = opts or {}, issued = 0, live = {}, refresh = {} }, oauth)
end

-- Reading -----------------------------------------------------------------------------------------

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

--- Base64 (RFC 4648) to bytes, or nil.
local function from_base64(text)
  if #text % 4 ~= 0 or not text:find "^[%w+/]*=?=?$" then return nil end
  local bits, count, bytes = 0, 0, {}
  for c in text:gsub("=", ""):gmatch "." do
    bits, count = bits << 6 | ALPHABET:find(c, 1, true) - 1, count + 6
    if count >= 8 then
      count = count - 8
      bytes[#bytes + 1] = string.char(bits >> count & 0xff)
      bits = bits & ((1 << count) - 1)
    end
  end
  return table.concat(bytes)
end

local function decode(text)
  text = text:gsub("+", " ")
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

--- Who asks: id, secret; or nil and what is wrong.
local function client_of(req, form)
  local basic = (req.headers.authorization or ""):match "^[Bb]asic%s+(%S+)$"
  if basic and form.client_secret then
    return nil, "invalid_request", "the client authenticates in two ways at once"
  end
  if not basic then return form.client_id or "", form.client_secret or "" end
  local pair = from_base64(basic)
  local id, secret = (pair or ""):match "^([^:]*):(.*)$"
  if not id then return nil, "invalid_client", "the Authorization header is not Basic base64(id:secret)" end
  return decode(id), decode(secret)
end

-- Answering ---------------------------------------------------------------------------------------

local function failed(status, code, why)
  return status, { error = code, error_description = why },
    status == 401 and { ["WWW-Authenticate"] = 'Basic realm="mock"' } or {}
end

local function is_known(self, id, secret)
  local opts = self.opts
  if not opts.client_id then return id ~= "" end
  return id == opts.client_id and secret == (opts.client_secret or "")
end

--- Old tokens are forgotten, so that a long run does not gather them.
local function sweep(self)
  local now = tasks.now()
  for token, ends in pairs(self.live) do
    if ends <= now then self.live[token] = nil end
  end
end

local function issue(self, form, effects, with_refresh)
  local expires_in = effects.expires_in
  if expires_in == nil then expires_in = self.opts.expires_in or EXPIRES_IN end
  self.issued = self.issued + 1
  if self.issued % 256 == 0 then sweep(self) end
  local token = ("mock-token-%d"):format(self.issued)
  self.live[token] = tasks.now() + (tonumber(expires_in) or EXPIRES_IN)
  local reply = { access_token = token, token_type = "Bearer", scope = form.scope }
  if expires_in then reply.expires_in = expires_in end
  if with_refresh then
    reply.refresh_token = ("mock-refresh-%d"):format(self.issued)
    self.refresh[reply.refresh_token] = true
  end
  return 200, reply, { ["Cache-Control"] = "no-store" }
end

--- Answers one request for a token.
---@param req sluice.server.Request
---@param effects table
---@return integer status
---@return table body
---@return table headers
function oauth:answer(req, effects)
  if not (req.headers["content-type"] or ""):find "^application/x%-www%-form%-urlencoded" then
    return failed(400, "invalid_request", "the body must be application/x-www-form-urlencoded")
  end
  local form = req:query_table(req.body)
  local id, secret, why = client_of(req, form)
  if not id then return failed(secret == "invalid_client" and 401 or 400, secret, why) end
  if not is_known(self, id, secret) then
    return failed(401, "invalid_client", "unknown client, or a wrong secret")
  end
  local grant = form.grant_type
  if grant == "client_credentials" then return issue(self, form, effects, self.opts.refresh) end
  if grant == "refresh_token" then
    local token = form.refresh_token
    if not token then return failed(400, "invalid_request", "refresh_token is missing") end
    if not self.refresh[token] then
      self.refresh = {} -- used twice: somebody has a copy, so the whole family ends
      return failed(400, "invalid_grant", "the refresh token is unknown, or has been used")
    end
    self.refresh[token] = nil
    return issue(self, form, effects, true)
  end
  if not grant then return failed(400, "invalid_request", "grant_type is missing") end
  return failed(400, "unsupported_grant_type", ("grant_type %s is not supported"):format(grant:sub(1, 40)))
end

--- Is it a token of ours that has not ended?
---@param token string?
function oauth:is_live(token)
  local ends = token and self.live[token]
  return ends ~= nil and ends > tasks.now()
end

--- From now on no token issued so far is any good.
function oauth:revoke()
  self.live = {}
end

return oauth
