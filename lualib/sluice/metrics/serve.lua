--- The metrics of a run for whoever asks: /metrics, /healthz and /debug/tasks while a script runs.
-- Owns: which form is wanted, and what an address means. Never: keeps a script alive; says anything of
-- prompts and answers.

local metrics = require "sluice.metrics"
local server = require "sluice.server"

local TEXT = "text/plain; version=0.0.4; charset=utf-8"
local OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
local CONNECTIONS_MAX = 64
local INDEX = "/metrics      counters, gauges and histograms, for Prometheus\n/healthz      ok\n"
  .. "/debug/tasks  every task and what it waits on\n"

local serve = {}

-- Which form ----------------------------------------------------------------------------------------

--- How much a media type with this version is wanted (RFC 9110, 12.5.1): the most specific range that
--- covers it decides.
local function quality(accept, kind, subtype, version)
  local best, q = 0, 0.0
  for range in accept:lower():gmatch "[^,]+" do
    local t, s, params = range:match "^%s*([^/%s;]+)/([^%s;]+)(.*)$"
    local wanted = params and params:match ";%s*version%s*=%s*\"?([%w.]+)"
    local rank = not t and 0 or t == kind and s == subtype and 3 or t == kind and s == "*" and 2
      or t == "*" and s == "*" and 1 or 0
    if rank == 3 and wanted then rank = wanted == version and 4 or 0 end
    local value = rank > 0 and (tonumber(params:match ";%s*q%s*=%s*([%d.]+)") or 1.0)
    if rank > best or rank == best and rank > 0 and value > q then best, q = rank, value end
  end
  return q
end

--- Is OpenMetrics rather wanted than Prometheus' text? Not unless somebody says so.
---@param accept? string  the header
---@return boolean
function serve.wants_openmetrics(accept)
  if not accept then return false end
  return quality(accept, "application", "openmetrics-text", "1.0.0") > quality(accept, "text", "plain", "0.0.4")
end

-- Pages ---------------------------------------------------------------------------------------------

local function send(res, status, kind, text)
  res:send(status, { ["Content-Type"] = kind, ["Cache-Control"] = "no-store" }, text)
end

local function plain(res, status, text)
  send(res, status, "text/plain; charset=utf-8", text)
end

local PAGES = {
  ["/metrics"] = function(req, res)
    local open = serve.wants_openmetrics(req.headers.accept)
    send(res, 200, open and OPEN or TEXT, metrics.text(open and "openmetrics" or "prometheus"))
  end,
  ["/healthz"] = function(_, res) plain(res, 200, "ok\n") end,
  ["/debug/tasks"] = function(_, res) plain(res, 200, require "sluice.report".tasks_text()) end,
  ["/"] = function(_, res) plain(res, 200, INDEX) end,
}

local function handle(req, res)
  local page = PAGES[req.path]
  if not page then return plain(res, 404, "no such page; there are\n" .. INDEX) end
  if req.method ~= "GET" and req.method ~= "HEAD" then
    res:send(405, { ["Content-Type"] = "text/plain; charset=utf-8", Allow = "GET, HEAD" }, "GET it\n")
    return
  end
  page(req, res)
end

-- Serving -------------------------------------------------------------------------------------------

--- An address as people write it: "PORT", ":PORT", "ADDR:PORT", "[::1]:PORT". Without ADDR it is this
--- machine alone: what is shown is nobody else's business unless they say so.
---@param text string
---@return string? address  nil: it is none
---@return integer? port
function serve.address(text)
  local address, port = text:match "^%[([%x:.]+)%]:(%d+)$"
  if not address then address, port = text:match "^([^:]*):(%d+)$" end
  if not address then address, port = "", text:match "^%d+$" end
  port = port and #port <= 5 and math.tointeger(tonumber(port))
  if not port or port > 65535 then return nil end
  if address == "" or address == "localhost" then address = "127.0.0.1" end
  return address, port
end

--- Serves the metrics until the program ends. Raises `network` when the address cannot be had.
---@param address string
---@param port integer  0: the system chooses
---@return sluice.Server
function serve.start(address, port)
  metrics.enable()
  return server.listen { address = address, port = port, handler = handle, service = true,
    max_connections = CONNECTIONS_MAX, max_body = 0 }
end

return serve
