--- The one error of sluice: a table that says what failed, where, and what it cost.
-- Owns: the closed set of kinds, the metatable (C sets the same one), and the one-line text.
-- Never: decides what is retried or where a fallback goes (retry, fallback), nor what a provider's
-- reply means (provider.failure).
--
-- A failure of the world is such a table. A wrong argument is an ordinary Lua error (options.lua).

local nearest = require "sluice.nearest"
local has_secrets, secrets = pcall(require, "sluice.core.secret") -- not under plain Lua

local MESSAGE_MAX = 600 -- bytes of a provider's words in the one line; the field keeps them whole
local DETAIL_MAX = 120  -- bytes of each thing in the parentheses

--- Every kind and what it means. runtime/base/err.h holds the same list for C.
---@type table<sluice.Kind, string>
local KINDS = {
  network = "DNS, connect, TLS, or the connection was reset",
  timeout = "a phase or a scope ran out of time",
  server = "the provider failed (5xx, 408, 409)",
  overloaded = "the provider has more work than it can do (503, 529)",
  rate_limited = "too many requests for now (429)",
  quota = "no money or no allowance left (402, some 429)",
  auth = "the credential was refused (401, 403)",
  invalid = "the request is at fault (400, 404, 413, 422)",
  filtered = "stopped by a content policy, or the model refused",
  protocol = "the reply is not what the protocol allows",
  interrupted = "a stream died after content had been delivered",
  circuit_open = "refused here: the breaker is open",
  throttled = "refused here: the local limit cannot serve it in time",
  cancelled = "the scope was cancelled",
  deadlock = "every task waits for another",
  cpu = "a script held the processor too long",
  memory = "a ceiling on memory was reached",
}

local REASONS = {
  [200] = "OK", -- of a reply that is none
  [301] = "Moved Permanently", [302] = "Found", [303] = "See Other", [304] = "Not Modified",
  [307] = "Temporary Redirect", [308] = "Permanent Redirect",
  [400] = "Bad Request", [401] = "Unauthorized", [402] = "Payment Required", [403] = "Forbidden",
  [404] = "Not Found", [405] = "Method Not Allowed", [407] = "Proxy Authentication Required",
  [408] = "Request Timeout", [409] = "Conflict", [410] = "Gone", [411] = "Length Required",
  [413] = "Content Too Large", [414] = "URI Too Long", [415] = "Unsupported Media Type",
  [421] = "Misdirected Request", [422] = "Unprocessable Content", [424] = "Failed Dependency",
  [425] = "Too Early", [426] = "Upgrade Required", [429] = "Too Many Requests",
  [431] = "Request Header Fields Too Large", [451] = "Unavailable For Legal Reasons",
  [500] = "Internal Server Error", [501] = "Not Implemented", [502] = "Bad Gateway",
  [503] = "Service Unavailable", [504] = "Gateway Timeout", [505] = "HTTP Version Not Supported",
  [529] = "Overloaded", -- not registered; Anthropic's and others' own
}

local errors = { KINDS = KINDS }

--- Bytes that are not UTF-8 become "?": a gateway may answer in GBK, a log line must stay readable.
local function valid_utf8(s)
  local length, bad = utf8.len(s)
  if length then return s end
  local parts, from = {}, 1
  while not length do
    parts[#parts + 1] = s:sub(from, bad - 1)
    parts[#parts + 1] = "?"
    from = bad + 1
    length, bad = utf8.len(s, from)
  end
  parts[#parts + 1] = s:sub(from)
  return table.concat(parts)
end

local SCAN_MAX = 64 << 10 -- bytes of a long text that are looked at

--- The text without the secrets there are, for what is to be cut: half of one would not be known again.
--- For sluice's own modules.
---@param s string
---@return string
function errors.scrub(s)
  if #s > SCAN_MAX then s = s:sub(1, SCAN_MAX) end
  return has_secrets and secrets.scrub(s) or s
end

--- One line of at most `max` bytes: control characters, line separators and the marks that turn
--- the direction of text become spaces, runs of space become one, a longer text ends in "…".
---@param s string
---@param max integer  bytes
---@return string
local function one_line(s, max)
  if #s > max then s = errors.scrub(s) end
  if #s > 4 * max then s = s:sub(1, 4 * max) end
  s = valid_utf8(s)
  s = s:gsub("%c", " ")
    :gsub("\xC2[\x80-\x9F]", " ")                                         -- C1 controls
    :gsub("\xE2\x80[\xA8-\xAE]", " "):gsub("\xE2\x81[\xA6-\xA9]", " ")    -- U+2028..202E, 2066..2069
    :gsub("%s+", " "):gsub("^ ", ""):gsub(" $", "")
  if #s <= max then return s end
  local last = max - #"…"
  while last > 0 and (s:byte(last + 1) or 0) & 0xC0 == 0x80 do last = last - 1 end
  return s:sub(1, last):gsub(" $", "") .. "…"
end
errors.one_line = one_line

--- The standard words for an HTTP status, or nil.
--- For sluice's own modules.
---@param status integer
---@return string?
function errors.reason(status)
  return REASONS[status]
end

local function seconds(s)
  if s < 10 then return ("%.1f s"):format(s) end
  return ("%.0f s"):format(s)
end

--- What stands in the parentheses: who, where, how often, how long, and the id support asks for.
local function details(e)
  local list = {}
  local function add(text) list[#list + 1] = one_line(tostring(text), DETAIL_MAX) end
  if e.provider and e.model then add(("%s/%s"):format(e.provider, e.model))
  elseif e.model or e.provider then add(e.model or e.provider) end
  if e.phase then add("phase " .. tostring(e.phase)) end
  if e.code and e.code ~= e.kind then add("code " .. tostring(e.code)) end
  if math.type(e.attempt) == "integer" then add(("attempt %d"):format(e.attempt)) end
  if type(e.elapsed) == "number" then add(seconds(e.elapsed)) end
  if type(e.retry_after) == "number" then add("retry after " .. seconds(e.retry_after)) end
  if type(e.partial) == "string" and e.partial ~= "" then add(("%d bytes received"):format(#e.partial)) end
  if e.request_id then add("request id " .. tostring(e.request_id)) end
  if #list == 0 then return "" end
  return " (" .. table.concat(list, ", ") .. ")"
end

--- "rate_limited: 429 Too Many Requests: <provider's words> (openai/gpt-x, attempt 2, 1.3 s)".
--- Must not fail on a table that C or a script filled by hand: it runs while errors are reported.
local function line(e)
  local parts = { tostring(e.kind or "error") }
  local status = math.type(e.status) == "integer" and e.status or nil
  local message = e.message ~= nil and one_line(tostring(e.message), MESSAGE_MAX) or ""
  if status and not message:find("^" .. status) then
    local reason = REASONS[status]
    if reason and message:lower():find(reason:lower(), 1, true) == 1 then
      parts[2] = ("%d %s"):format(status, message) -- the message opens with the reason itself
      message = ""
    else
      parts[2] = reason and ("%d %s"):format(status, reason) or ("status %d"):format(status)
    end
  end
  if message ~= "" then parts[#parts + 1] = message end
  if #parts == 1 then parts[2] = KINDS[e.kind] end
  local text = table.concat(parts, ": ") .. details(e)
  if type(e.hint) == "string" then text = text .. "; " .. one_line(e.hint, DETAIL_MAX * 2) end
  return text
end

--- C raises errors with this very table, which it keeps in the registry under its name: whoever of
--- the two comes first makes it. Under plain Lua there is only this side.
local registry = debug and debug.getregistry and debug.getregistry() or {}
local metatable = registry["sluice.error"] or {}
registry["sluice.error"] = metatable

metatable.__name = "sluice.error"
metatable.__tostring = line
--- "failed: " .. err is what everybody writes in a handler.
function metatable.__concat(a, b) return tostring(a) .. tostring(b) end
errors.metatable = metatable

--- Makes an error. Fields are copied; those not listed in sluice.Error are kept as they are.
---@param fields sluice.Error|table  `kind` is required and one of errors.KINDS, anything else raises
---@return sluice.Error
function errors.new(fields)
  if type(fields) ~= "table" then
    error(("errors.new: expected a table of fields, got %s"):format(type(fields)), 2)
  end
  if not KINDS[fields.kind] then
    local near = nearest(fields.kind, KINDS)
    error(("errors.new: unknown kind %q%s"):format(tostring(fields.kind),
      near and (" (did you mean %q?)"):format(near) or ""), 2)
  end
  local e = {}
  for key, value in pairs(fields) do
    -- a server, or a proxy before it, may quote the key it was given; what a model said is left alone
    if has_secrets and type(value) == "string" and key ~= "partial" then value = secrets.scrub(value) end
    e[key] = value
  end
  return setmetatable(e, errors.metatable)
end

--- Raises an error made from `fields`, or `fields` itself when it is one already.
---@param fields sluice.Error|table
function errors.raise(fields)
  if not errors.is(fields) then fields = errors.new(fields) end
  error(fields, 0)
end

--- Is `value` an error of sluice, and if kinds are named, of one of them?
---@param value any
---@param ... sluice.Kind
---@return boolean
function errors.is(value, ...)
  if type(value) ~= "table" or getmetatable(value) ~= errors.metatable then return false end
  local n = select("#", ...)
  if n == 0 then return true end
  for i = 1, n do
    if value.kind == (select(i, ...)) then return true end
  end
  return false
end

return errors
