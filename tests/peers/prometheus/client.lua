-- Makes every metric move, then lets Prometheus and promtool read them. Run by ./run.
local here = arg[0]:match "^(.*)/"
package.path = here .. "/../../lua/?.lua;" .. package.path
local T = require "harness"
local sluice = require "sluice"

local port = ...
local process, task = sluice.process, sluice.task

sluice.log.configure { level = "error" }

local ODD = 'a "quoted" \\ back\nslash 中文 {}='
local ASKS, QUERY_WAIT_S = 7, 40

local page = "http://127.0.0.1:" .. port .. "/metrics"

local function work()
  local function model(name) return sluice.model { provider = "openai", model = name, retry = { base = 0.001 } } end
  local good, down, cut = model "good", model "down", model "cut"
  for _ = 1, ASKS do good:ask "hi" end
  for _ in good:stream "hi":text() do end -- luacheck: ignore 542
  pcall(function() for _ in cut:stream "hi":text() do end end) -- luacheck: ignore 542
  sluice.fallback { down, good }:ask "hi"
  sluice.fallback { { good, after = 0 }, good }:ask "hi"
  sluice.token.source { name = "corp", fetch = function() return "v" end }:get()
  down.breaker:open(600)
  local odd = sluice.metrics.counter { name = "peer_odd_total", help = "An odd\nlabel \\ \"here\".", labels = { "odd" } }
  odd:add(2.5, { odd = ODD })
  sluice.metrics.histogram { name = "peer_size_bytes", help = "Sizes.", buckets = { 1, 1000 } }:observe(20)
  return good
end

local good = work()

T.test("promtool check metrics has nothing to say", function(t)
  local text = sluice.http.request(page).body
  local r = process.run { "promtool", "check", "metrics", input = text, check = false }
  t.eq({ r.code, r.stdout, r.stderr }, { 0, "", "" })
  for _, name in ipairs { "api_request_duration_seconds", "api_request_errors_total", "api_token_refresh",
    "api_concurrent_requests", "api_time_to_first_token_seconds", "api_tokens_total", "api_retries_total",
    "api_circuit_state", "api_fallbacks_total", "api_hedges_total", "api_streams_interrupted_total", "sluice_tasks",
    "sluice_lua_memory_bytes", "sluice_build_info" } do
    t.ok(text:find("\n# TYPE " .. name .. " ", 1, true) or text:find("^# TYPE " .. name), name)
  end
end)

T.test("a lint that is known to complain does", function(t)
  local r = process.run { "promtool", "check", "metrics", check = false,
    input = "# HELP a_count x\n# TYPE a_count counter\na_count 1\n" }
  t.ne(r.code, 0)
end)

T.test("the alert rules are sound, and fire when they should", function(t)
  local r = process.run { "promtool", "check", "rules", "docs/alerts.yml", check = false }
  t.eq(r.code, 0, r.stderr)
  t.match(r.stdout, "4 rules found")
  r = process.run { "promtool", "test", "rules", here .. "/alerts_test.yml", check = false }
  t.eq(r.code, 0, r.stdout .. r.stderr)
end)

local function queries()
  local list, board = {}, sluice.json.decode(T.read "docs/grafana-dashboard.json")
  for _, panel in ipairs(board.panels) do
    for _, target in ipairs(panel.targets) do
      list[#list + 1] = (target.expr:gsub("%$__rate_interval", "1m"):gsub("%$provider", ".*"):gsub("%$model", ".*"))
    end
  end
  return list
end

-- Prometheus -----------------------------------------------------------------------------------------

local function ask(address, path, query)
  local encoded = query and "?query=" .. query:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end) or ""
  local r = sluice.http.request("http://" .. address .. "/api/v1/" .. path .. encoded)
  local body = r:json()
  return body.data, body.error
end

-- The value of the first series a query gives.
local function value(address, query)
  local data, err = ask(address, "query", query)
  if err then error(query .. ": " .. err, 0) end
  local first = data.result[1]
  return first and tonumber(first.value[2]), data.result
end

local function free_port()
  local s <close> = sluice.server.listen { handler = print }
  return s.port
end

T.test("a real Prometheus scrapes it, and knows what we know", function(t)
  local dir, address = T.tmpdir(), "127.0.0.1:" .. free_port()
  T.write(dir .. "/prometheus.yml", ("global: { scrape_interval: 1s }\nscrape_configs:\n"
    .. "  - job_name: sluice\n    static_configs: [ { targets: [ '127.0.0.1:%s' ] } ]\n"):format(port))
  local server <close> = process.stream { "prometheus", "--config.file=" .. dir .. "/prometheus.yml",
    "--storage.tsdb.path=" .. dir .. "/data", "--web.listen-address=" .. address, "--log.level=error" }
  task.group(function(g)
    local reader = g:spawn(function() for _ in server:lines() do end end) -- luacheck: ignore 542
    T.until_(function()
      local ok, up = pcall(value, address, "up")
      return ok and up ~= nil
    end, QUERY_WAIT_S)
    T.until_(function() return value(address, 'count_over_time(up[30s])') >= 3 end, QUERY_WAIT_S)
    t.eq(value(address, "min_over_time(up[30s])"), 1)
    local target = ask(address, "targets").activeTargets[1]
    t.eq({ target.health, target.lastError }, { "up", "" })

    local calls = 'api_request_duration_seconds_count{provider="openai",model="%s",outcome="%s"}'
    t.eq(value(address, calls:format("good", "ok")), good and ASKS + 3)
    t.eq(value(address, calls:format("cut", "interrupted")), 1)
    t.eq(value(address, 'api_request_errors_total{model="down",kind="overloaded"}'), 1)
    t.eq(value(address, 'api_retries_total{model="down",kind="overloaded"}'), 2)
    t.eq(value(address, 'api_circuit_state{model="down"}'), 2)
    t.eq(value(address, 'api_token_refresh_count{source="corp",outcome="ok"}'), 1)
    t.eq(value(address, 'api_fallbacks_total{from="openai/down",to="openai/good",why="overloaded"}'), 1)
    t.eq(value(address, "sum(api_concurrent_requests)"), 0)
    t.ok(value(address, 'histogram_quantile(0.5, api_request_duration_seconds_bucket{model="good",outcome="ok"})') > 0)
    local odd, series = value(address, "peer_odd_total")
    t.eq({ odd, series[1].metric.odd }, { 2.5, ODD })
    t.eq(value(address, 'peer_size_bytes_bucket{le=~"1000(.0)?"}'), 1)
    local build = select(2, value(address, "sluice_build_info"))[1].metric
    t.match(build.version, "^%d+%.%d+%.%d+$")
    local kinds = ask(address, "metadata")
    t.eq(kinds.api_request_duration_seconds[1].type, "histogram")
    t.eq((kinds.api_request_errors or kinds.api_request_errors_total)[1].type, "counter")
    t.eq(kinds.peer_odd and kinds.peer_odd[1].help, 'An odd\nlabel \\ "here".')

    for _, query in ipairs(queries()) do
      local _, result = value(address, query) -- raises when Prometheus cannot read it
      if not query:find "^histogram_quantile.*first_token" then t.ok(#result > 0, "nothing comes of " .. query) end
    end
    reader:cancel()
  end)
end)

T.done()
