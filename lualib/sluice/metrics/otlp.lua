--- The metrics of a run, pushed to an OpenTelemetry collector: OTLP over HTTP with JSON.
-- Owns: the form of a message, when one is sent, what becomes of a failure. Cumulative values: a message
-- that is lost costs nothing but its moment.
-- Never: makes the script wait, but for the last message, and there no longer than LAST_S.
--
-- From the environment, as OpenTelemetry has it: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
-- OTEL_EXPORTER_OTLP_HEADERS ("name=value,name=value"), OTEL_METRIC_EXPORT_INTERVAL (milliseconds).

local core = require "sluice.core.task"
local sys = require "sluice.core.sys"
local errors = require "sluice.errors"
local json = require "sluice.json"
local log = require "sluice.log"
local metrics = require "sluice.metrics"
local genai = require "sluice.metrics.genai"
local http = require "sluice.http"
local secret = require "sluice.secret"
local secrets = require "sluice.core.secret"
local task = require "sluice.task"

local EVERY_S = 10
local TIMEOUT_S = 5     -- of one message
local LAST_S = 3        -- of the one at the end
local COMPLAIN_S = 300  -- between two warnings of the same trouble
local CUMULATIVE = 2    -- AggregationTemporality

-- Prometheus' suffixes, which a collector adds again from the unit.
local UNITS = { { "_seconds", "s" }, { "_bytes", "By" } }

local otlp = {}

-- The message ---------------------------------------------------------------------------------------

local function attribute(key, value)
  return { key = key, value = { stringValue = value } }
end

-- Underscores are dots in the conventions' names, but for those that are within a word.
local DOTTED = {
  gen_ai_operation_name = "gen_ai.operation.name", gen_ai_provider_name = "gen_ai.provider.name",
  gen_ai_request_model = "gen_ai.request.model", gen_ai_token_type = "gen_ai.token.type",
  server_address = "server.address", server_port = "server.port", error_type = "error.type",
  gen_ai_client_operation_duration = "gen_ai.client.operation.duration",
  gen_ai_client_token_usage = "gen_ai.client.token.usage",
  gen_ai_client_operation_time_to_first_chunk = "gen_ai.client.operation.time_to_first_chunk",
}

local function attributes_of(metric, series)
  local list = json.array {}
  for _, label in ipairs(metric.labels) do
    local value, key = series.labels[label], DOTTED[label]
    if key == "server.port" and math.tointeger(tonumber(value)) then
      list[#list + 1] = { key = key, value = { intValue = value } } -- 64 bits are a string in JSON
    elseif not (key and value == "") then -- no error: no error.type
      list[#list + 1] = attribute(key or label, value)
    end
  end
  return list
end

--- Name and unit as OpenTelemetry has them.
local function named(metric)
  local name = metric.name
  if DOTTED[name] then return DOTTED[name], genai.UNITS[name] end
  if metric.kind == "counter" then name = name:gsub("_total$", "") end
  for _, unit in ipairs(UNITS) do
    if name:sub(-#unit[1]) == unit[1] then return name:sub(1, -#unit[1] - 1), unit[2] end
  end
  return name, nil
end

-- Numbers that JSON has no words for are left out: no data point, no lie.
local function finite(value)
  return value == value and value ~= math.huge and value ~= -math.huge
end

local function point_of(metric, series, times)
  local point = { attributes = attributes_of(metric, series), startTimeUnixNano = times.start,
    timeUnixNano = times.now }
  if metric.kind ~= "histogram" then
    point.asDouble = series.value
    return point
  end
  point.count, point.sum = ("%d"):format(series.count), series.value
  point.explicitBounds, point.bucketCounts = json.array(metric.bounds), json.array {}
  for i, n in ipairs(series.buckets) do point.bucketCounts[i] = ("%d"):format(n) end
  return point
end

local function message_metric(metric, times)
  local points = json.array {}
  for _, series in ipairs(metric.series) do
    if finite(series.value) and series.count ~= 0 then points[#points + 1] = point_of(metric, series, times) end
  end
  if #points == 0 then return nil end
  local name, unit = named(metric)
  local message = { name = name, description = metric.help, unit = unit }
  if metric.kind == "counter" then
    message.sum = { dataPoints = points, aggregationTemporality = CUMULATIVE, isMonotonic = true }
  elseif metric.kind == "gauge" then
    message.gauge = { dataPoints = points }
  else
    message.histogram = { dataPoints = points, aggregationTemporality = CUMULATIVE }
  end
  return message
end

local function nanoseconds(seconds)
  return ("%d"):format(math.tointeger(seconds * 1e6 // 1) * 1000)
end

--- "a=1,b=2" with percent-encoded values, as OpenTelemetry's variables are.
local function pairs_of(text)
  local list = {}
  for name, value in (text or ""):gmatch "%s*([^=,%s]+)%s*=%s*([^,]*)" do
    value = value:gsub("%s+$", ""):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
    list[#list + 1] = { name, value }
  end
  return list
end

local function resource()
  local list, named_service = json.array {}, sys.env "OTEL_SERVICE_NAME"
  for _, pair in ipairs(pairs_of(sys.env "OTEL_RESOURCE_ATTRIBUTES")) do
    if pair[1] == "service.name" then named_service = named_service or pair[2]
    else list[#list + 1] = attribute(pair[1], pair[2]) end
  end
  list[#list + 1] = attribute("service.name", named_service and named_service ~= "" and named_service or "sluice")
  list[#list + 1] = attribute("service.version", sys.version)
  list[#list + 1] = attribute("service.instance.id", sys.uuid())
  return list
end

--- The message: every metric there is, as it stands now.
---@param self sluice.metrics.Pusher
---@return string
local function message(self)
  local times = { start = self.started, now = nanoseconds(sys.wall()) }
  local list = json.array {}
  for _, from in ipairs { metrics.look(), genai.look() } do
    for _, metric in ipairs(from) do list[#list + 1] = message_metric(metric, times) end
  end
  return secrets.scrub(json.encode { resourceMetrics = { { resource = { attributes = self.resource },
    scopeMetrics = { { scope = { name = "sluice", version = sys.version }, metrics = list } } } } })
end

-- Sending -------------------------------------------------------------------------------------------

---@class sluice.metrics.Pusher
---@field url string
---@field headers table<string, sluice.Secret|string>
---@field started string  nanoseconds since 1970
---@field resource table[]
---@field complained? number

local function complain(self, why)
  local now = core.now()
  if self.complained and now - self.complained < COMPLAIN_S then return end
  self.complained = now
  log.warn("the metrics could not be sent to the collector; the script goes on",
    { url = self.url:gsub("//[^/@]*@", "//"):gsub("%?.*", ""), error = why })
end

--- What a collector says that took only a part.
local function rejected(response)
  local ok, body = pcall(response.json, response)
  local partial = ok and type(body) == "table" and body.partialSuccess
  local n = type(partial) == "table" and tonumber(partial.rejectedDataPoints) or 0
  return n > 0 and ("it refused %d data points: %s"):format(n, errors.one_line(tostring(partial.errorMessage), 200))
    or nil
end

local function push(self, seconds)
  local ok, response = pcall(task.deadline, seconds, http.request, {
    method = "POST", url = self.url, headers = self.headers, body = message(self), redirects = 0,
    max_body = 1 << 20, timeout = { connect = seconds, total = seconds },
  })
  if not ok then
    if not core.is_cancelled() then complain(self, tostring(response)) end
  elseif response.status < 200 or response.status > 299 then
    complain(self, ("it answers %d: %s"):format(response.status, errors.one_line(response.body, 200)))
  else
    local why = rejected(response)
    if why then complain(self, why) else self.complained = nil end
  end
end

local function interval()
  local ms = tonumber(sys.env "OTEL_METRIC_EXPORT_INTERVAL")
  return ms and ms >= 10 and ms < 1e9 and ms / 1000 or EVERY_S
end

--- The whole address: a collector's own, or that of its metrics.
---@param url string
---@return string? url  nil: it is none
function otlp.address(url)
  if not url:find "^https?://[^/?#]+" then return nil end
  local address, query = url:match "^([^?#]*)(%??[^#]*)"
  if not address:find "/v1/metrics/?$" then address = address:gsub("/+$", "") .. "/v1/metrics" end
  return address .. query
end

--- Sends the metrics every few seconds, and when the function that comes back is called.
---@param url string  what otlp.address gave
---@return fun() finish  waits for the last message, at most LAST_S
function otlp.start(url)
  metrics.enable()
  genai.start()
  local headers = { ["Content-Type"] = "application/json" }
  for _, pair in ipairs(pairs_of(sys.env "OTEL_EXPORTER_OTLP_HEADERS")) do
    headers[pair[1]] = secret.literal(pair[2], "OTEL_EXPORTER_OTLP_HEADERS")
  end
  local self = { url = url, headers = headers, started = nanoseconds(sys.wall()), resource = resource() }
  core.service(function()
    local every = interval()
    while true do
      core.sleep(every)
      push(self, math.min(TIMEOUT_S, math.max(every, 1)))
    end
  end)
  return function() task.shield(LAST_S + 1, push, self, LAST_S) end
end

return otlp
