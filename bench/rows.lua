--- What `make bench` measures: the rows with their goals, and the clients. Data, and how to start each.
-- Owns: the numbers of a run. Never: starts anything (report.lua does).
-- A row: how a client is asked to do it (mode, args), what of its line of results counts (value), and
-- the goal. Goals are ratios to bare libcurl in the same run unless they say otherwise.

local rows = {}

---@class bench.Row
---@field id string
---@field title string
---@field unit string
---@field mode string            ask | stream | events | paced | mem | startup | idle | tasks | policy
---@field args table<string, integer>
---@field value string           the field of the results that counts
---@field scale? number          what it is multiplied by for the table
---@field goal? number           ratio to bare libcurl, or to the `base` of a row of tasks
---@field most? number           absolute goal, in `unit`
---@field runs? integer          fewer runs, for what hardly varies
---@field turns? integer         so many times as many, for what is short: a machine's moods fall on all alike
---@field peers? table<string, integer>  arguments for the peers where they differ; absent: no peers
---@field of? string             a second figure of that row's measurements
---@field what? string           tasks: what is measured
---@field text? fun(args: table): integer  bytes of text that have to arrive

local function asked(args) return 136 * args.n end
local function streamed(args) return 5 * args.n end
local function paced(args) return 5 * args.n * args.streams end

---@type bench.Row[]
rows.list = {
  { id = "ask1", title = "ask, one at a time", unit = "µs", mode = "ask", value = "cpu_us_per_unit",
    args = { n = 3000, concurrency = 1 }, turns = 3, goal = 1.4, text = asked, peers = { n = 1000 } },
  { id = "ask50", title = "ask, 50 at a time", unit = "µs", mode = "ask", value = "cpu_us_per_unit",
    args = { n = 15000, concurrency = 50 }, turns = 3, goal = 1.6, text = asked, peers = { n = 4000 } },
  { id = "ask1000", title = "ask, 1,000 at a time", unit = "µs", mode = "ask", value = "cpu_us_per_unit",
    args = { n = 10000, concurrency = 1000 }, turns = 2, goal = 1.4, text = asked, peers = { n = 4000 } },
  { id = "messages50", title = "ask { messages = … }, 50 at a time", unit = "µs", mode = "ask",
    value = "cpu_us_per_unit", args = { n = 20000, concurrency = 50 }, sluice = { messages = 1 }, text = asked },
  { id = "stream", title = "text delta, full speed", unit = "µs", mode = "stream", value = "cpu_us_per_unit",
    args = { n = 480000 }, turns = 3, goal = 2.0, text = streamed, peers = { n = 32000 } },
  { id = "events", title = "full event, full speed", unit = "µs", mode = "events", value = "cpu_us_per_unit",
    args = { n = 160000 }, turns = 3, goal = 4, text = streamed },
  { id = "paced", title = "text delta, 500 paced streams", unit = "µs", mode = "paced", value = "cpu_us_per_unit",
    args = { streams = 500, n = 32, gap = 100, delay = 3500 }, goal = 1.15, text = paced, peers = { delay = 5000 } },
  { id = "parked", title = "… beside 3,000 silent ones", unit = "µs", mode = "paced", value = "cpu_us_per_unit",
    args = { streams = 500, n = 32, gap = 100, delay = 3500, parked = 3000 }, runs = 3, goal = 1.15, text = paced },
  -- the long delay: a burst of connections can overflow the kernel's accept queue, and is then repeated
  -- after seconds; every stream has to be open before the first one ends
  { id = "memory", title = "5,000 paced streams, peak", unit = "MiB", mode = "mem", value = "maxrss_kib",
    scale = 1 / 1024,
    args = { streams = 5000, n = 32, gap = 100, delay = 5000 },
    runs = 2, goal = 1.15, text = paced },
  { id = "stream_memory", title = "… for each stream", unit = "KiB", of = "memory", value = "kib_per_stream",
    most = 19 },
  { id = "startup", title = "start-up to the first line", unit = "ms", mode = "startup", value = "first_line_ms",
    args = { n = 20 }, goal = 1.2, peers = { n = 3 } },
  { id = "startup_cpu", title = "… CPU, to the end", unit = "ms", of = "startup", value = "cpu_ms" },
  { id = "idle", title = "resident memory, idle", unit = "MiB", mode = "idle", value = "rss_kib", scale = 1 / 1024,
    args = {}, runs = 3, goal = 1.25, peers = {} },
  { id = "policy", title = "all policies around an ask", unit = "µs", mode = "policy", value = "cpu_us_per_unit",
    args = { n = 20000, concurrency = 50 }, most = 5 },
  { id = "policy_hedge", title = "… with a hedge standing by", unit = "µs", mode = "policy", value = "cpu_us_per_unit",
    args = { n = 10000, concurrency = 50, hedge = 1 }, runs = 3 },
  { id = "spawn", title = "task spawned and joined", unit = "µs", mode = "tasks", what = "spawn",
    value = "cpu_us_per_unit", args = { n = 500000 }, runs = 3, most = 1 },
  { id = "semaphore", title = "semaphore, acquire and release", unit = "µs", mode = "tasks", what = "semaphore",
    value = "cpu_us_per_unit", args = { n = 1000000 }, runs = 3, most = 0.3 },
  { id = "token", title = "token:get(), fresh", unit = "µs", mode = "tasks", what = "token",
    value = "cpu_us_per_unit", args = { n = 1000000 }, runs = 3, most = 0.3 },
  { id = "trace", title = "--trace, per attempt", unit = "µs", mode = "tasks", what = "trace",
    value = "cpu_us_per_unit", args = { n = 20000 }, runs = 3, most = 5 },
  { id = "trace_otlp", title = "… as OTLP spans", unit = "µs", mode = "tasks", what = "trace_otlp",
    value = "cpu_us_per_unit", args = { n = 20000 }, runs = 3, most = 5 },
  { id = "metrics_ask", title = "--metrics, per call", unit = "µs", mode = "tasks", what = "metrics_ask",
    value = "cpu_us_per_unit", args = { n = 200000 }, runs = 3, most = 1 },
  { id = "metrics_stream", title = "… per stream", unit = "µs", mode = "tasks", what = "metrics_stream",
    value = "cpu_us_per_unit", args = { n = 40000 }, runs = 3, most = 1 },
  { id = "sleepers", title = "one of 100,000 sleeping tasks", unit = "KiB", mode = "tasks", what = "sleepers",
    value = "kib_per_unit", args = { n = 100000 }, runs = 2, most = 2 },
  { id = "wake", title = "wake-up, 100,000 others asleep", unit = "µs", mode = "tasks", what = "wake",
    value = "cpu_us_per_unit", args = { n = 40000, sleepers = 100000 }, base = { n = 40000 }, runs = 3, goal = 1.5 },
}

-- Clients -----------------------------------------------------------------------------------------

---@class bench.Client
---@field name string
---@field command fun(env: table): string[]  the words before MODE key=value…
---@field missing fun(env: table, has: table): string?  why it cannot run here, or nil

local function python(module)
  return {
    name = "Python " .. module,
    command = function(env) return { env.python, "bench/peers/python.py", module } end,
    missing = function(env, has)
      if not has.command(env.python) then return env.python .. " is not installed" end
      if not has.success(env.python, "-c", "import " .. module) then
        return "module " .. module .. " is not installed"
      end
    end,
  }
end

local function node(client, module)
  return {
    name = "Node " .. client,
    command = function(env) return { env.node, "bench/peers/node.mjs", client } end,
    missing = function(env, has)
      if not has.command(env.node) then return env.node .. " is not installed" end
      if module and not has.file(env.out .. "/node_modules/" .. module .. "/package.json") then
        return "npm module " .. module .. " is not installed"
      end
    end,
  }
end

---@type bench.Client[]
rows.peers = {
  {
    name = "Go net/http",
    command = function(env) return { env.out .. "/nethttp" } end,
    missing = function(env, has)
      if not has.command(env.go) then return env.go .. " is not installed" end
      -- go's own cache makes this cheap when nothing has changed
      if not has.success(env.go, "build", "-o", env.out .. "/nethttp", "bench/peers/nethttp.go") then
        return "bench/peers/nethttp.go does not compile here"
      end
    end,
  },
  {
    name = "lua-http",
    command = function(env) return { env.lua, "bench/peers/luahttp.lua" } end,
    missing = function(env, has)
      if not has.success(env.lua, "bench/peers/luahttp.lua", "init") then
        return "lua-http or lua-cjson is not installed for " .. env.lua
      end
    end,
  },
  node("undici", "undici"),
  node("fetch"),
  node("openai", "openai"),
  python "aiohttp",
  python "httpx",
}

return rows
