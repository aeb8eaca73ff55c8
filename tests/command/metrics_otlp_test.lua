-- --metrics-otlp against a stand-in collector in a process of its own: the form of the messages (OTLP 1.x,
-- protobuf's JSON mapping), the conventions for GenAI, and that no collector can hold a script up.
local T, C = require "harness", require "command"
local reference = require "json_reference"

-- What the reference reads, as ordinary tables.
local function plain(value)
  if type(value) ~= "table" or value == reference.null then return value end
  local result = {}
  if value.array then
    for i = 1, value.n do result[i] = plain(value[i]) end
  else
    for key, v in pairs(value.fields) do result[key] = plain(v) end
  end
  return result
end

local function json(text) return plain(assert(reference.decode(text), "not JSON")) end

local function collector(manner)
  local file = T.tmpdir() .. "/messages"
  local process = C.start { C.sluice, "run", "tests/fixtures/otlp_collector.lua", file, manner or "well" }
  return process, process:expect "port (%d+)", file
end

local function messages(file)
  local list = {}
  local handle = io.open(file)
  if not handle then return list end
  for line in handle:lines() do list[#list + 1] = json(line) end
  handle:close()
  return list
end

local function run(port, script, opts)
  opts = opts or {}
  local argv = { C.sluice, "run", "--mock=tests/fixtures/quick.lua", "--metrics-otlp", "http://127.0.0.1:" .. port }
  table.move(opts.words or {}, 1, #(opts.words or {}), #argv + 1, argv)
  argv[#argv + 1], argv[#argv + 2] = "-e", script
  return C.run(argv, { env = opts.env, timeout = 20 })
end

local CALLS = [[
  local sluice = require "sluice"
  local m = sluice.model "openai/gpt-x"
  for _ = 1, 3 do m:ask "hi" end
  for _ in m:stream "hi":text() do end
  pcall(m.ask, m:with { model = "gone", retry = false, breaker = false, base_url = "http://127.0.0.1:1/v1" }, "x")
  sluice.metrics.counter { name = "jobs_total", help = "Jobs.", labels = { "kind" } }:add(2, { kind = "a\"b" })
  sluice.metrics.gauge { name = "depth" }:set(0/0)
  sluice.metrics.histogram { name = "page_bytes", buckets = { 10, 100 } }:observe(50)
]]

-- The form -------------------------------------------------------------------------------------------

local function keys_of(t, value, allowed, where)
  for key in pairs(value) do t.ok(allowed[key], where .. " has a field " .. key) end
end

local function set(...)
  local s = {}
  for _, name in ipairs { ... } do s[name] = true end
  return s
end

local function check_attributes(t, list, where)
  local by_key = {}
  for _, a in ipairs(list) do
    keys_of(t, a, set("key", "value"), where)
    local kind, value = next(a.value)
    t.ok(kind == "stringValue" and type(value) == "string" or kind == "intValue" and value:find "^%d+$", where)
    t.eq(by_key[a.key], nil, where .. ": " .. a.key .. " is there twice")
    by_key[a.key] = value
  end
  return by_key
end

local POINT = set("attributes", "startTimeUnixNano", "timeUnixNano", "asDouble", "count", "sum", "bucketCounts",
  "explicitBounds")

local function check_point(t, point, histogram, where)
  keys_of(t, point, POINT, where)
  t.match(point.startTimeUnixNano, "^%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d$")
  t.ok(point.startTimeUnixNano <= point.timeUnixNano, where .. ": times")
  local by_key = check_attributes(t, point.attributes, where)
  if not histogram then
    t.eq(type(point.asDouble), "number", where)
    return by_key
  end
  t.match(point.count, "^%d+$")
  t.eq(#point.bucketCounts, #point.explicitBounds + 1, where)
  local total = 0
  for _, n in ipairs(point.bucketCounts) do
    t.match(n, "^%d+$")
    total = total + tonumber(n)
  end
  t.eq(total, tonumber(point.count), where)
  for i = 2, #point.explicitBounds do t.ok(point.explicitBounds[i] > point.explicitBounds[i - 1], where) end
  return by_key
end

-- name -> { unit, kind, points = { attributes by key, with the point's own values } }
local function check_message(t, message)
  keys_of(t, message, set "resourceMetrics", "the message")
  t.eq(#message.resourceMetrics, 1)
  local one = message.resourceMetrics[1]
  keys_of(t, one, set("resource", "scopeMetrics"), "resourceMetrics")
  local resource = check_attributes(t, one.resource.attributes, "resource")
  local scope = one.scopeMetrics[1]
  t.eq(scope.scope.name, "sluice")
  local by_name = {}
  for _, metric in ipairs(scope.metrics) do
    keys_of(t, metric, set("name", "description", "unit", "sum", "gauge", "histogram"), metric.name)
    t.eq(by_name[metric.name], nil, metric.name .. " is there twice")
    local kind = metric.sum and "sum" or metric.gauge and "gauge" or "histogram"
    local data = metric[kind]
    if kind ~= "gauge" then t.eq(data.aggregationTemporality, 2, metric.name) end
    if kind == "sum" then t.eq(data.isMonotonic, true, metric.name) end
    t.ok(#data.dataPoints > 0, metric.name)
    local points = {}
    for i, point in ipairs(data.dataPoints) do
      local attributes = check_point(t, point, kind == "histogram", metric.name)
      attributes.point = point
      points[i] = attributes
    end
    by_name[metric.name] = { unit = metric.unit, kind = kind, points = points }
  end
  return by_name, resource
end

-- The point whose attributes are these.
local function point(metric, wanted)
  for _, attributes in ipairs(metric and metric.points or {}) do
    local same = true
    for key, value in pairs(wanted) do same = same and attributes[key] == value end
    if same then return attributes.point, attributes end
  end
end

T.test("the last message has everything, in OTLP's form", function(t)
  local process <close>, port, file = collector() -- luacheck: ignore 211
  local r = run(port, CALLS, { env = { OTEL_SERVICE_NAME = "nightly", OTEL_RESOURCE_ATTRIBUTES = "team=blue,service.name=x",
    OTEL_EXPORTER_OTLP_HEADERS = "x-key=s3cr%3Dt-value" } })
  t.eq({ r.code, r.stdout }, { 0, "" }, r.stderr)
  local list = messages(file)
  t.eq(#list, 1) -- the run was shorter than the interval
  t.eq({ list[1].method, list[1].path, list[1].type, list[1].key },
    { "POST", "/v1/metrics", "application/json", "s3cr=t-value" })
  local metrics, resource = check_message(t, list[1].message)
  t.eq({ resource["service.name"], resource.team, resource["service.version"] ~= nil }, { "nightly", "blue", true })
  local model = { provider = "openai", model = "gpt-x" }
  t.eq(metrics.api_request_duration.unit, "s")
  t.eq(point(metrics.api_request_duration, { model = "gpt-x", outcome = "ok" }).count, "4")
  t.eq(point(metrics.api_tokens, { model = "gpt-x", direction = "output" }).asDouble > 0, true)
  t.eq(point(metrics.api_time_to_first_token, model).count, "1")
  t.eq({ metrics.jobs.kind, point(metrics.jobs, { kind = 'a"b' }).asDouble }, { "sum", 2 })
  t.eq({ metrics.page.unit, point(metrics.page, {}).bucketCounts }, { "By", { "0", "1", "0" } })
  t.eq(metrics.depth, nil) -- NaN is no number of JSON's
  t.eq(metrics.sluice_lua_memory.unit, "By")
end)

T.test("the conventions for GenAI", function(t)
  local process <close>, port, file = collector() -- luacheck: ignore 211
  run(port, CALLS)
  local metrics = check_message(t, messages(file)[1].message)
  local duration = metrics["gen_ai.client.operation.duration"]
  t.eq({ duration.kind, duration.unit }, { "histogram", "s" })
  local ok, attributes = point(duration, { ["gen_ai.request.model"] = "gpt-x" })
  t.eq(ok.count, "4")
  t.eq({ attributes["gen_ai.operation.name"], attributes["gen_ai.provider.name"], attributes["server.address"],
    attributes["error.type"] }, { "chat", "openai", "127.0.0.1", nil })
  t.match(attributes["server.port"], "^%d+$")
  t.eq({ ok.explicitBounds[1], ok.explicitBounds[14] }, { 0.01, 81.92 })
  local failed, about = point(duration, { ["gen_ai.request.model"] = "gone" })
  -- --mock sends every model to the mock: this one answers, or fails, as the mock has it
  t.eq({ failed.count, about["gen_ai.provider.name"] }, { "1", "openai" })
  local usage = metrics["gen_ai.client.token.usage"]
  t.eq(usage.unit, "{token}")
  t.eq(point(usage, { ["gen_ai.token.type"] = "input", ["gen_ai.request.model"] = "gpt-x" }).count, "4")
  t.eq(point(usage, { ["gen_ai.token.type"] = "output", ["gen_ai.request.model"] = "gpt-x" }).explicitBounds[2], 4)
  t.eq(point(metrics["gen_ai.client.operation.time_to_first_chunk"], {}).count, "1")
end)

T.test("an error has its kind as error.type", function(t)
  local process <close>, port, file = collector() -- luacheck: ignore 211
  local r = C.run({ C.sluice, "run", "-q", "--metrics-otlp", "http://127.0.0.1:" .. port .. "/", "-e", [[
    local m = require "sluice".model { provider = "openai", model = "m", base_url = "http://127.0.0.1:1/v1", auth = "k",
      retry = false }
    pcall(m.ask, m, "x")
  ]] }, { timeout = 20 })
  t.eq(r.code, 0, r.stderr)
  local metrics = check_message(t, messages(file)[1].message)
  local failed, attributes = point(metrics["gen_ai.client.operation.duration"], { ["error.type"] = "network" })
  t.eq({ failed.count, attributes["server.address"], attributes["server.port"] }, { "1", "127.0.0.1", "1" })
  t.eq(metrics["gen_ai.client.token.usage"], nil) -- nothing was reported
end)

T.test("messages go out while the script runs, and their values only grow", function(t)
  local process <close>, port, file = collector() -- luacheck: ignore 211
  local r = run(port, [[
    local sluice = require "sluice"
    local c = sluice.metrics.counter { name = "ticks_total" }
    local function lines() local n = 0 for _ in io.lines(os.getenv "MESSAGES") do n = n + 1 end return n end
    sluice.task.deadline(15, function()
      while not pcall(lines) or lines() < 4 do c:inc() sluice.task.sleep(0.01) end
    end)
  ]], { env = { OTEL_METRIC_EXPORT_INTERVAL = "50", MESSAGES = file } })
  t.eq(r.code, 0, r.stderr)
  local list, before, time = messages(file), -1, ""
  t.ok(#list >= 5) -- four, and the last
  for _, entry in ipairs(list) do
    local p = point(check_message(t, entry.message).ticks, {})
    t.ok(p.asDouble >= before and p.timeUnixNano > time)
    before, time = p.asDouble, p.timeUnixNano
  end
end)

-- Trouble --------------------------------------------------------------------------------------------

local BUSY = [[
  local sluice = require "sluice"
  local most, last = 0, sluice.task.now()
  for _ = 1, 60 do
    sluice.task.sleep(0.01)
    local now = sluice.task.now()
    most, last = math.max(most, now - last), now
  end
  print(most)
]]

T.test("a collector that never answers: the script goes on, and ends soon", function(t)
  local process <close>, port, file = collector "mute" -- luacheck: ignore 211
  local r = run(port, BUSY, { env = { OTEL_METRIC_EXPORT_INTERVAL = "50" } })
  t.eq(r.code, 0, r.stderr)
  t.ok(tonumber(r.stdout) < 1, "it was held up for " .. r.stdout)
  t.ok(#messages(file) >= 1)
  t.ok(r.wall < 12, r.wall)
  local warnings = select(2, r.stderr:gsub("could not be sent to the collector", ""))
  t.eq(warnings, 1, r.stderr)
end)

T.test("a collector that is not there, busy, or picky: one warning, however often", function(t)
  local function warned(port, words)
    local r = run(port, BUSY, { env = { OTEL_METRIC_EXPORT_INTERVAL = "20", OTEL_EXPORTER_OTLP_HEADERS = "x-key=hunter2-hunter2" } })
    t.eq(r.code, 0, r.stderr)
    t.eq(select(2, r.stderr:gsub("could not be sent to the collector; the script goes on", "")), 1, r.stderr)
    t.match(r.stderr, words)
    t.eq(r.stderr:find("hunter2", 1, true), nil)
  end
  warned(1, "network: ")
  local busy <close>, busy_port = collector "busy" -- luacheck: ignore 211
  warned(busy_port, "it answers 503: ")
  local picky <close>, picky_port, file = collector "picky" -- luacheck: ignore 211
  warned(picky_port, "it refused 2 data points: too old")
  t.ok(#messages(file) > 2)
end)

T.test("an address that is none", function(t)
  local hidden = C.run { C.sluice, "run", "--metrics-otlp", "ftp://me:pass1234@collector/x", "-e", "print 'ran'" }
  t.eq({ hidden.code, hidden.stderr:find("pass1234", 1, true) }, { 2, nil }, hidden.stderr)
  for _, bad in ipairs { "localhost:4318", "ftp://x/", "http://", "" } do
    local r = C.run { C.sluice, "run", "--metrics-otlp", bad, "-e", "print 'ran'" }
    t.eq({ r.code, r.stdout }, { 2, "" }, bad)
    t.match(r.stderr, "%-%-metrics%-otlp takes an http or https address, such as http://127.0.0.1:4318, got '", bad)
  end
end)

T.done()
