--- HTTP for scripts: one request, or a stream of server-sent events.
-- Owns: options of a single request, and redirects, which never carry credentials to another host.
-- An HTTP status is an answer, not a failure: only the network, a timer or a broken reply raises.

local core = require "sluice.core.http"
local now = require "sluice.core.task".now
local sys = require "sluice.core.sys"
local json = require "sluice.json"
local errors = require "sluice.errors"
local options = require "sluice.options"
local secret = require "sluice.core.secret"

local REDIRECTS = 5
local BODY_MAX = 64 << 20 -- bytes; HTTP_BODY_MAX in runtime/base/limits.h

local SPEC = options.spec {
  url = { type = "string", required = true, nonempty = true },
  method = { type = "string", nonempty = true },
  headers = { type = "table" },
  body = { type = "string" },
  json = { type = "any" },
  timeout = { type = "table", fields = {
    connect = { type = "seconds", default = 3 },
    first_token = { type = "seconds" },
    idle = { type = "seconds", default = 30 },
    total = { type = "seconds" },
  } },
  redirects = { type = "integer", min = 0, max = 50 },
  max_body = { type = "integer", min = 1 },
}

local TOTAL = 60 -- seconds, for request; a stream may take as long as it says something

-- Headers that must not follow a redirect to another origin (RFC 9110 15.4): what holds a credential by
-- its name, which covers x-goog-api-key, private-token, x-amz-security-token and their like; and Host,
-- which names the origin that was left.
local CREDENTIALS = { "auth", "key", "token", "secret", "cookie", "session", "passw", "credential", "signature" }

local function stays_behind(lower)
  if lower == "host" then return true end
  for _, word in ipairs(CREDENTIALS) do
    if lower:find(word, 1, true) then return true end
  end
  return false
end

local http = {}

-- Sending -----------------------------------------------------------------------------------------

local function header_list(headers, extra, keep_credentials)
  local list, seen = {}, {}
  for name, value in pairs(headers or {}) do
    local lower = tostring(name):lower()
    seen[lower] = true
    if keep_credentials or not (secret.is(value) or stays_behind(lower)) then
      list[#list + 1] = name
      list[#list + 1] = secret.is(value) and (secret.current(value)) or value
    end
  end
  for name, value in pairs(extra) do
    if not seen[name:lower()] then
      list[#list + 1] = name
      list[#list + 1] = value
    end
  end
  return list
end

local function check_url(where, base, url)
  local resolved, same_or_why = core.resolve(base, url)
  if not resolved then
    options.raise(("%s: option 'url' is not a URL: %s"):format(where, same_or_why))
  end
  if not resolved:find("^https?://") then
    options.raise(("%s: option 'url' must begin with http:// or https://"):format(where))
  end
  return resolved, same_or_why
end

local function encode(value)
  local ok, text = pcall(json.encode, value)
  if ok then return text end
  error(type(text) == "string" and text:gsub("^json: ", "") or text, 0)
end

--- Everything a request needs, checked.
local function read(where, opts)
  if type(opts) == "string" then opts = { url = opts } end
  options.check(where, opts, SPEC)
  if opts.body and opts.json ~= nil then
    options.raise(where .. ": options 'body' and 'json' exclude each other")
  end
  local call = options.fill(opts, SPEC)
  call.extra = { ["User-Agent"] = "sluice/" .. sys.version }
  if opts.json ~= nil then
    call.body = options.blame(where .. ": option 'json'", encode, opts.json)
    call.extra["Content-Type"] = "application/json"
  elseif opts.body then
    call.extra["Content-Type"] = "application/octet-stream"
  end
  call.method = (opts.method or (call.body and "POST" or "GET")):upper()
  if call.method == "HEAD" and call.body then
    options.raise(where .. ": option 'method': a HEAD request has no body")
  end
  check_url(where, "", opts.url)
  return call
end

local function endpoint(where, call, url, keep_credentials)
  local timeout = call.timeout
  return options.blame(where, core.endpoint, {
    method = call.method, url = url,
    headers = header_list(call.headers, call.extra, keep_credentials),
    connect = timeout.connect, first = timeout.first_token or timeout.idle,
    idle = timeout.idle,
    body_max = call.max_body or BODY_MAX,
  })
end

local function raise_failure(call, kind, phase, message, elapsed)
  errors.raise { kind = kind, phase = phase, elapsed = elapsed,
    message = ("%s %s: %s"):format(call.method, call.shown, message) }
end

local REDIRECT = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

--- Follows redirects until another answer comes, all of them within `total` seconds. `send(endpoint,
--- body, seconds)` gives what has status() and header(), or false and a failure.
local function follow(where, call, total, send)
  local url, keep = call.url, true
  local limit = call.redirects or REDIRECTS
  local started = now()
  total = call.timeout.total or total
  for hops = 0, limit do
    call.shown = url:gsub("[?#].*$", ""):gsub("//[^/@]*@", "//")
    local left = total and total > 0 and math.max(total - (now() - started), 1e-6) or nil
    local answer, kind, phase, message, elapsed = send(endpoint(where, call, url, keep), call.body, left)
    if not answer then
      if phase == "total" then message = ("not finished within %.3g s (timeout.total)"):format(total) end
      raise_failure(call, kind, phase, message, hops > 0 and now() - started or elapsed)
    end
    local status = answer:status()
    local location = REDIRECT[status] and answer:header("location")
    if not location or limit == 0 then return answer, url end
    if hops == limit then
      errors.raise { kind = "protocol", code = "redirects",
        message = ("%s: more than %d redirects"):format(call.shown, limit) }
    end
    local next_url, same = core.resolve(url, location)
    if not next_url or not next_url:find("^https?://") then
      errors.raise { kind = "protocol", code = "redirect",
        message = ("%s: redirect to something that is not a web address"):format(call.shown) }
    end
    keep = keep and same
    -- 303, and by custom 301 and 302 after POST, turn into GET (RFC 9110 15.4)
    if status == 303 and call.method ~= "HEAD" or status <= 302 and call.method == "POST" then
      call.method, call.body, call.extra["Content-Type"] = "GET", nil, nil
    elseif call.body and not same then
      errors.raise { kind = "protocol", code = "redirect",
        message = ("%s: redirect to another host; the body is not sent there"):format(call.shown) }
    end
    if answer.close then answer:close() end
    url = next_url
  end
  options.raise(where .. ": unreachable")
end

-- Whole replies -------------------------------------------------------------------------------------

---@class sluice.Response
---@field status integer
---@field headers table<string, string>  names in lower case
---@field body string
---@field url string      where the answer came from, after redirects
---@field elapsed number  seconds
local Response = { __name = "sluice.http.response" }
Response.__index = Response

--- The body decoded; raises `protocol` when it is not JSON.
---@return any
function Response:json()
  local ok, value = pcall(json.decode, self.body, { repair = true })
  if ok then return value end
  errors.raise { kind = "protocol", code = "json", status = self.status,
    message = ("the reply of %s is not JSON: %s"):format(self.url:gsub("[?#].*$", ""),
      (tostring(value):gsub("^json: ", ""))) }
end

function Response:__tostring()
  return ("response %d of %d bytes from %s"):format(self.status, #self.body, (self.url:gsub("[?#].*$", "")))
end

---@class sluice.HttpOptions
---@field url string
---@field method? string       GET, or POST with a body
---@field headers? table<string, string|sluice.Secret>
---@field body? string
---@field json? any            the body, encoded
---@field timeout? { connect?: number, first_token?: number, idle?: number, total?: number }  seconds
---@field redirects? integer   5
---@field max_body? integer    bytes, 64 MiB

--- One request. Options: url, method (GET, or POST with a body), headers (values: strings or
--- secrets), body or json, timeout = { connect = 3, first_token = as idle, idle = 30, total = 60 } seconds,
--- redirects (5; 0 returns the redirect itself), max_body (64 MiB).
--- Raises `network`, `timeout`, `protocol`; any status is returned.
---@async
---@param opts string|sluice.HttpOptions  a URL, or options
---@return sluice.Response
function http.request(opts)
  local where = "sluice.http.request"
  local call = read(where, opts)
  local response, url = follow(where, call, TOTAL, function(e, body, seconds) return e:request(body, seconds) end)
  local _, elapsed = response:times()
  return setmetatable({ status = response:status(), headers = response:headers(), body = response:body(),
    url = url, elapsed = elapsed }, Response)
end

-- Streams -------------------------------------------------------------------------------------------

---@class sluice.EventStream
---@field status integer
---@field headers table<string, string>
local EventStream = { __name = "sluice.http.stream", __sluice_handle = "handle" }
EventStream.__index = EventStream

local function next_event(self)
  if self.ended then return nil end
  local first, a, b, c, d = self.handle:pull()
  if first == nil then
    self.handle:progress()
    return { event = a, data = b, id = c }
  end
  self:close()
  if a then raise_failure(self.call, a, b, c, d) end
  self.ended = true
  return nil
end

--- The events as they come: { event =, data =, id = }, `event` "" when the sender named none.
---@async
function EventStream:events()
  return function() return next_event(self) end, nil, nil, self
end

--- Closes the connection. Closing twice does nothing.
function EventStream:close()
  self.handle:close()
end

EventStream.__close = EventStream.close

--- Opens a stream of server-sent events (WHATWG). Options as for request; there is no total time
--- unless one is given. Raises `protocol` when the answer is not an event stream; `status` of the
--- error tells what came instead.
---@async
---@param opts string|sluice.HttpOptions
---@return sluice.EventStream
function http.stream(opts)
  local where = "sluice.http.stream"
  local call = read(where, opts)
  call.extra.Accept = "text/event-stream"
  local handle = follow(where, call, nil, function(e, body, seconds) return e:stream(body, seconds) end)
  if not handle:is_events() then
    local status = handle:status()
    local body, kind, phase, message, elapsed = handle:body()
    handle:close()
    if not body then raise_failure(call, kind, phase, message, elapsed) end
    errors.raise { kind = "protocol", code = "content_type", status = status,
      message = ("%s %s: the answer is not an event stream: %s"):format(call.method, call.shown,
        body == "" and "it is empty" or errors.one_line(body, 200)) }
  end
  return setmetatable({ handle = handle, call = call, status = handle:status(), headers = handle:headers() },
    EventStream)
end

return http
