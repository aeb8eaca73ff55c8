--- What scheduling costs: µs per operation, and KiB per sleeping task.
-- Run by bench/run: sluice run bench/tasks.lua WHAT n=N [sleepers=N]
--   spawn      task spawned and joined, the function empty
--   semaphore  acquire and release, never waiting
--   token      token:get() of a fresh token
--   sleepers   KiB of resident memory per sleeping task
--   trace      what --trace adds to a call of one attempt; trace_otlp: … as spans
--   metrics_ask  what --metrics adds to a call that goes well; metrics_stream: … to a stream
--   wake       a task woken by its timer, 500 taking turns, while `sleepers` others sleep

local sluice = require "sluice"
local common = require "common"

local task = sluice.task
local WAKERS = 500
local LONG = 3600 -- seconds: longer than any run, ended by cancelling

local what = ...
local args = common.args({ n = 100000, sleepers = 0 }, select(2, ...))

--- µs of CPU per call of step, after a tenth of them for warming up.
local function cost(n, step)
  for _ = 1, n // 10 do step() end
  local cpu = os.clock()
  for _ = 1, n do step() end
  return (os.clock() - cpu) / n * 1e6
end

local measure = {}

function measure.spawn()
  local function empty() end
  return task.group(function(group)
    return cost(args.n, function() group:spawn(empty):join() end)
  end)
end

function measure.semaphore()
  local semaphore = task.semaphore(5)
  return cost(args.n, function()
    semaphore:acquire()
    semaphore:release()
  end)
end

function measure.token()
  local token = sluice.token.source { name = "bench", fetch = function()
    return "bench-token", { expires_in = 3600 }
  end }
  token:get()
  return cost(args.n, function() token:get() end)
end

-- A wire that answers at once, so that what is measured is what is above it.
local ANSWER = { status = function() return 200 end, header = function() end, headers = function() return {} end,
  limits = function() end, times = function() return 0.01, 0.02 end,
  answer = function() return "text", "stop", "id", "model", 9, 32, 41, 0, 0, 0.01, 0.02, false end }

-- A stream that is there at once: a text, and what a provider sends at the end.
local ENDING = { '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
  '{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":32,"total_tokens":41}}', "[DONE]" }

local function instant_handle()
  local nothing = function() end
  return setmetatable({ closed = function() return false end, is_events = function() return true end,
    status = ANSWER.status, header = nothing, limits = nothing, plain = nothing, keep = nothing, hurry = nothing,
    progress = nothing, drain = nothing, close = nothing, take_usage = nothing, take_opening = nothing,
    take_text = function() return "text" end, until_text = function() return true end,
    hold = function(self, permits) self.permits = permits end,
    texts = function(self, handler, stream)
      return function()
        for i = 1, #ENDING do
          if handler(stream, nil, "", ENDING[i], "") == false then break end
        end
        self.permits:release()
        return nil
      end
    end }, { __close = nothing })
end

local function instant_model()
  return sluice.model { provider = "openai", base_url = "http://127.0.0.1/v1", model = "bench", auth = "bench-key",
    transport = function() return { request = function() return ANSWER end, stream = instant_handle } end }
end

--- µs that whoever observes adds to a step: the least disturbed slices with it less those without, which take
--- turns.
local function observed(step, slices)
  local observe = require "sluice.observe"
  local on, full, each = observe.on, observe.full, args.n // slices
  local best = { math.huge, math.huge }
  for slice = 1, 2 * slices do
    local with = slice % 2
    observe.on, observe.full = with == 1 and on or nil, with == 1 and full or nil
    local began = task.now()
    for _ = 1, each do step() end
    best[with + 1] = math.min(best[with + 1], task.now() - began)
  end
  observe.on, observe.full = on, full
  return (best[2] - best[1]) / each * 1e6
end

--- What a trace adds to a call. The file is written as ever, several times in each slice.
local function traced(suffix)
  local model, trace = instant_model(), require "sluice.trace"
  local path = os.tmpname()
  os.remove(path)
  path = path .. suffix
  assert(trace.start(path))
  local added = observed(function() model:ask "x" end, args.n // 400)
  trace.stop()
  local file = assert(io.open(path, "rb"))
  local size = file:seek "end"
  file:close()
  os.remove(path)
  assert(size > args.n * 100, "not everything was traced")
  return added
end

function measure.trace() return traced ".json" end
function measure.trace_otlp() return traced ".otlp.json" end

--- What counting adds to a step; `metric` is the name of a count of them.
local function counted(step, metric)
  sluice.metrics.enable()
  local added = observed(step, 500)
  local count = sluice.metrics.text():match(metric .. "{[^}]*} (%d+)")
  assert(tonumber(count) == args.n // 500 * 500, "not everything was counted")
  return added
end

--- What counting adds to a call.
function measure.metrics_ask()
  local model = instant_model()
  return counted(function() model:ask "x" end, "api_request_duration_seconds_count")
end

--- What counting adds to a stream, but for its deltas.
function measure.metrics_stream()
  local model = instant_model()
  return counted(function()
    for _ in model:stream("x"):text() do end -- luacheck: ignore 542
  end, "api_time_to_first_token_seconds_count")
end

--- Calls f while n tasks sleep.
local function among_sleepers(n, f)
  local result
  task.group(function(group)
    local sleepers = {}
    for i = 1, n do sleepers[i] = group:spawn(task.sleep, LONG + i % 97) end
    task.sleep(0.05) -- long enough that each has started: they were spawned before this timer
    result = f()
    for i = 1, n do sleepers[i]:cancel() end
  end)
  return result
end

function measure.sleepers()
  collectgarbage()
  local before = common.kib "VmRSS"
  return among_sleepers(args.n, function()
    return (common.kib "VmRSS" - before) / args.n
  end)
end

function measure.wake()
  local rounds = math.max(2, args.n // WAKERS)
  return among_sleepers(args.sleepers, function()
    local cpu
    task.group(function(group)
      for i = 1, WAKERS do
        group:spawn(function()
          for round = 1, rounds do
            task.sleep(0.001 + i * 1e-6)
            if round == 1 and not cpu then cpu = os.clock() end
          end
        end)
      end
    end)
    return (os.clock() - cpu) / (WAKERS * (rounds - 1)) * 1e6
  end)
end

if not measure[what] then
  error("bench: tasks.lua spawn|semaphore|token|trace|trace_otlp|metrics_ask|metrics_stream|sleepers|wake", 0)
end
local value = measure[what]()
common.report(what, what == "sleepers" and { n = args.n, kib_per_unit = value }
  or { n = args.n, sleepers = args.sleepers, cpu_us_per_unit = value })
