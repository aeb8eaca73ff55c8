--- An HTTP server for scripts: every request runs a function in a task of its own.
-- Owns: what a handler sees (req, res), and what happens when it raises, is cancelled, or forgets to
-- answer. Connections, framing and limits are C (runtime/io/server.c).
--
--   local server <close> = sluice.server.listen {
--     port = 8080,
--     handler = function(req, res)
--       if req.path ~= "/hello" then return res:json(404, { error = "no such page" }) end
--       res:send(200, { ["Content-Type"] = "text/plain" }, "hello\n")
--     end,
--   }
--   server:wait()
--
-- A handler's task is cancelled when its client goes or the server closes; whatever it opened is
-- closed with it. A slow client makes `res:write` wait: at most 1 MiB is held for each.

local core = require "sluice.core.server"
local tasks = require "sluice.core.task"
local errors = require "sluice.errors"
local options = require "sluice.options"

local SPEC = options.spec {
  handler = { type = "callable", required = true, doc = "called as handler(req, res) for every request" },
  address = { type = "string", nonempty = true, default = "127.0.0.1", doc = "where to listen" },
  port = { type = "integer", min = 0, max = 65535, default = 0, doc = "0: the system chooses" },
  max_connections = { type = "integer", min = 1, max = 16384, doc = "more are refused with 503" },
  max_body = { type = "integer", min = 0, doc = "bytes of a request's body; a larger one gets 413" },
  header_timeout = { type = "seconds", above = 0, doc = "to send a whole request, 30" },
  idle_timeout = { type = "seconds", above = 0, doc = "between two requests on a connection, 75" },
  on_error = { type = "callable", doc = "called as on_error(err, req) when a handler raises" },
  service = { type = "boolean", doc = "internal: the tasks are the runtime's, not the script's" },
}

local HINTS = {
  ["Address already in use"] = "another program has this port: choose another, or 0 for any that is free",
  ["Permission denied"] = "ports below 1024 are for privileged programs: choose one above",
  ["Cannot assign requested address"] = "no network interface of this machine has that address",
}

-- Requests ------------------------------------------------------------------------------------------

---@class sluice.server.Request
---@field method string   "GET", "POST" …
---@field path string     as it was sent, still percent-encoded, without the query
---@field query string    what follows "?", "" when there is none
---@field headers table<string, string>  by lower-case name; repeated ones are joined with ", "
---@field body string     "" when there is none
---@field peer string     the client's address
local Request = {}
Request.__index = Request

local function decode(text)
  text = text:gsub("+", " ")
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

--- The query (or any text of that form) as a table: the last of several equal names wins, a name
--- without "=" is "".
---@param text? string  default: the query
---@return table<string, string>
function Request:query_table(text)
  local values = {}
  for pair in (text or self.query):gmatch "[^&]+" do
    local name, value = pair:match "^([^=]*)=(.*)$"
    values[decode(name or pair)] = decode(value or "")
  end
  return values
end

local function request(method, target, headers, body, peer)
  -- the absolute form is for proxies, but servers must take it (RFC 9112 3.2.2)
  target = target:gsub("^%a[%w+.-]*://[^/?#]*", "")
  local path, query = target:match "^([^?#]*)%??([^#]*)"
  return setmetatable({
    method = method, path = path ~= "" and path or "/", query = query,
    headers = headers, body = body, peer = peer,
  }, Request)
end

-- Replies -------------------------------------------------------------------------------------------

--- What a handler answers with; most of it is C (runtime/bind/exchange.c, lualib/meta).
---@class sluice.server.Response : sluice.core.Exchange
local Response = core.exchange

--- The whole reply, as JSON.
---@param status integer
---@param value any
---@param headers? table<string, string|string[]>
function Response:json(status, value, headers)
  local all = { ["Content-Type"] = "application/json" }
  for name, v in pairs(headers or {}) do all[name] = v end
  self:send(status, all, require("sluice.json").encode(value))
end

local EVENT_STREAM = {
  ["Content-Type"] = "text/event-stream",
  ["Cache-Control"] = "no-cache",
  ["X-Accel-Buffering"] = "no", -- nginx holds back what it proxies unless told
}

local function event_field(event, name, required)
  local value = event[name]
  if value == nil and not required then return nil end
  if type(value) ~= "string" or not required and value:find "[\r\n]" then
    options.raise(("res:event: field '%s' must be a string%s, got %s"):format(name,
      required and "" or " of one line", options.got(value)))
  end
  return value
end

--- One server-sent event; the first one starts the reply. Waits while the client is slow.
---@async
---@param event { data: string, event?: string, id?: string }
function Response:event(event)
  local name, id, text = event_field(event, "event"), event_field(event, "id"), event_field(event, "data", true)
  if not self.sent then self:start(200, EVENT_STREAM) end
  local lines = {}
  if name then lines[1] = "event: " .. name end
  if id then lines[#lines + 1] = "id: " .. id end
  -- a line break inside the data is a new data line (WHATWG, server-sent events)
  local data = text:gsub("\r\n?", "\n"):gsub("\n", "\ndata: ")
  lines[#lines + 1] = "data: " .. data
  self:write(table.concat(lines, "\n") .. "\n\n")
end

-- Serving -------------------------------------------------------------------------------------------

local function print_error(err, req)
  local trace = tasks.traceback_of(err)
  io.stderr:write(("sluice: server: %s %s: %s\n"):format(req.method, req.path, errors.one_line(tostring(err), 2000)),
    trace and trace .. "\n" or "")
end

--- Reports what a handler raised. A fault of the reporter must not cost the client its answer.
local function report(server, err, req)
  local ok, fault = pcall(server.on_error, err, req)
  if not ok then print_error(fault, req) end
end

--- The last word to a client whose handler has ended, however it ended.
local function conclude(server, req, res, ok, err)
  if res.done or res.gone then
    if not ok and not tasks.is_cancelled() then report(server, err, req) end
  elseif tasks.is_cancelled() then
    res:abort()
  elseif not ok then
    report(server, err, req)
    if res.sent then return res:abort() end
    res:send(500, { ["Content-Type"] = "text/plain" }, "Internal Server Error\n")
  elseif not res.sent then
    report(server, "the handler returned without a reply", req)
    res:send(500, { ["Content-Type"] = "text/plain" }, "Internal Server Error\n")
  else
    res:finish()
  end
end

--- A handler's task. Its group owns what the handler opens and spawns.
local function serve(server, req, res)
  local scope <close> = tasks.scope { group = true }
  local ok, err = scope:run(server.handler, req, res)
  if not ok then scope:cancel "its group failed" end
  scope:wait()
  if scope:failed() then
    local first = scope:errors()[1]
    if ok then ok, err = false, first end
  end
  scope:finish()
  -- on_error may wait, and the client leave meanwhile; nothing of that may end the server
  local concluded, fault = pcall(conclude, server, req, res, ok, err)
  if concluded then return end
  res:abort()
  if not errors.is(fault, "network") then print_error(fault, req) end
end

local function accept(server)
  local listener = server.listener
  while true do
    local res, method, target, headers, body, peer = listener:accept()
    if not res then break end
    res:watch(listener:spawn(serve, server, request(method, target, headers, body, peer), res))
  end
end

-- The server ------------------------------------------------------------------------------------------

---@class sluice.Server
---@field address string
---@field port integer   the one the system chose, when 0 was asked for
---@field url string     "http://127.0.0.1:8080", without a slash at the end
local Server = { __name = "sluice.server", __sluice_handle = "listener" }
Server.__index = Server

--- Takes nothing new, waits until every request under way has been answered, at most `grace` (10)
--- seconds, and closes.
---@async
---@param grace? number seconds
---@return boolean all  false when some had to be cut off
function Server:stop(grace)
  self.listener:stop()
  local all = self.listener:drain(grace or 10)
  self:close()
  return all
end

--- Closes at once: handlers are cancelled, their clients see the connection end.
function Server:close()
  self.listener:close()
end

--- Returns when the server has been closed.
---@async
function Server:wait()
  self.listener:wait()
end

--- How much there is to do now.
---@return integer connections
---@return integer requests  under way
function Server:load()
  return self.listener:load()
end

--- Has it been closed?
---@return boolean
function Server:closed()
  return self.listener:closed()
end

Server.__close = Server.close

function Server:__tostring()
  return ("server at %s%s"):format(self.url, self:closed() and " (closed)" or "")
end

local server = {}

--- The options of `listen`, for those who pass them on.
--- For sluice's own modules.
server.SPEC = SPEC

---@class sluice.ServerOptions
---@field handler fun(req: sluice.server.Request, res: sluice.server.Response)
---@field address? string          "127.0.0.1"
---@field port? integer            0: the system chooses
---@field max_connections? integer
---@field max_body? integer        bytes
---@field header_timeout? number   seconds
---@field idle_timeout? number     seconds
---@field on_error? fun(err: any, req: sluice.server.Request)

--- Starts a server. It belongs to the innermost task group and is closed when that ends.
--- Options: handler (required), address "127.0.0.1", port 0, max_connections 16384 (more are refused
--- with 503), max_body 32 MiB (413), header_timeout 30 s to send a whole request, idle_timeout 75 s,
--- on_error(err, req) instead of a line and a traceback on stderr.
--- Raises `network` when the address cannot be had.
---@param opts sluice.ServerOptions
---@return sluice.Server
function server.listen(opts)
  local where = "sluice.server.listen"
  options.check(where, opts, SPEC)
  local o = options.fill(opts, SPEC)
  local listener, why = core.listen {
    address = o.address, port = o.port, max_connections = o.max_connections, max_body = o.max_body,
    request_timeout = o.header_timeout, idle_timeout = o.idle_timeout, service = o.service,
  }
  if not listener then
    errors.raise { kind = "network", phase = "listen", hint = HINTS[why],
      message = ("cannot listen on %s port %d: %s"):format(o.address, o.port, why) }
  end
  local port, is_ipv6 = listener:port()
  local self = setmetatable({
    listener = listener, handler = o.handler, on_error = o.on_error or print_error,
    address = o.address, port = port,
    url = (is_ipv6 and "http://[%s]:%d" or "http://%s:%d"):format(o.address, port),
  }, Server)
  listener:spawn(accept, self)
  return self
end

return server
