--- What sluice counts of itself: calls, errors, tokens, retries, breakers, fallbacks, token refreshes.
-- Owns: the names, labels and buckets of docs/metrics.md, and when each of them is counted. It listens
-- to observe.lua; nothing is counted before start().
-- Never: puts anything into a label that a stranger chooses: models and steps are named by the script,
-- and a label keeps its first values only.
--
-- A streamed delta costs nothing here: tokens are counted from the usage at the end.

local core = require "sluice.core.task"
local core_metrics = require "sluice.core.metrics"
local sys = require "sluice.core.sys"
local errors = require "sluice.errors"
local metrics = require "sluice.metrics"
local observe = require "sluice.observe"

-- To change a bound is to begin a new series; these stay.
local DURATION = { 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600 }
local FIRST_TOKEN = { 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 25, 50, 100 }
local REFRESH = { 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30 }
local NAMES_MAX = 1000 -- models whose series are kept at hand; the registry has a cap of its own

local STATES = { closed = 0, disabled = 0, half = 1, open = 2, forced_open = 2 }

local calls = {}

local all                    -- the metrics, once there are
local models, model_count    -- name -> its series
local breakers               -- those that are not closed -> true

-- The metrics ---------------------------------------------------------------------------------------

local function make()
  local own, who = metrics.own, { "provider", "model" }
  local function with(label) return { "provider", "model", label } end
  return {
    duration = own("histogram", "api_request_duration_seconds",
      "Seconds a call took, with its retries and waits, to the end of its answer.", with "outcome", DURATION),
    errors = own("counter", "api_request_errors_total", "Calls that failed for good, by kind of error.", with "kind"),
    concurrent = own("gauge", "api_concurrent_requests", "Requests that are under way now.", who),
    first_token = own("histogram", "api_time_to_first_token_seconds",
      "Seconds from sending a request to the first content of its stream.", who, FIRST_TOKEN),
    tokens = own("counter", "api_tokens_total", "Tokens as providers report them.", with "direction"),
    retries = own("counter", "api_retries_total", "Failed attempts after which another one was made, by kind of error.",
      with "kind"),
    circuit = own("gauge", "api_circuit_state", "The circuit breaker: 0 closed, 1 half open, 2 open.", who),
    fallbacks = own("counter", "api_fallbacks_total", "Moves of a fallback from one step to another, and why.",
      { "from", "to", "why" }),
    hedges = own("counter", "api_hedges_total", "Steps of a fallback that were started beside a slow one.",
      { "from", "to" }),
    interrupted = own("counter", "api_streams_interrupted_total",
      "Streams that broke off after their first content.", who),
    -- its _count is api_token_refresh_count
    refresh = own("histogram", "api_token_refresh", "Seconds it took to renew a token.", { "source", "outcome" },
      REFRESH),
    tasks = own("gauge", "sluice_tasks", "Tasks of the script that are alive.", {}):at(),
    memory = own("gauge", "sluice_lua_memory_bytes", "Memory that Lua holds.", {}):at(),
    build = own("gauge", "sluice_build_info", "1, with the versions this program is built from.",
      { "version", "lua", "libcurl", "libevent" }),
  }
end

---@class sluice.metrics.ModelSeries
---@field provider string
---@field model string
---@field concurrent sluice.MetricSeries
---@field ok fun(elapsed: number, input?: integer, output?: integer)  calls that succeed
---@field tokens fun(input?: integer, output?: integer)
---@field first_token? fun(seconds: number)

--- The series of a model, looked up once.
---@return sluice.metrics.ModelSeries
local function series_of(name, provider, model)
  local found = models[name]
  if found then return found end
  local input, output = all.tokens:at(provider, model, "input"), all.tokens:at(provider, model, "output")
  found = {
    provider = provider, model = model,
    concurrent = all.concurrent:at(provider, model),
    ok = core_metrics.tally(all.duration:at(provider, model, "ok"), input, output),
    tokens = core_metrics.tally(input, output),
  }
  all.circuit:at(provider, model) -- 0 until it opens
  if model_count < NAMES_MAX then models[name], model_count = found, model_count + 1 end
  return found
end

-- Calls ---------------------------------------------------------------------------------------------

local Calls = { light = true }

function Calls.ask_answered(_, run, reply) -- nearly every call there is
  local model = run.model
  local series = models[model.name] or series_of(model.name, model.opts.provider, model.opts.model)
  local usage = reply.usage
  series.ok(reply.elapsed, usage.input_tokens, usage.output_tokens)
end

--- Only a model that streams has it.
local function first_token_of(series)
  series.first_token = core_metrics.tally(all.first_token:at(series.provider, series.model))
  return series.first_token
end

function Calls.stream_began(_, run, ttft)
  local model = run.model
  local series = models[model.name] or series_of(model.name, model.opts.provider, model.opts.model)
  local first_token = series.first_token or first_token_of(series)
  first_token(ttft)
end

function Calls.content(_, call, _, ttft)
  local series = series_of(call.name, call.provider, call.model)
  local first_token = series.first_token or first_token_of(series)
  first_token(ttft)
end

local function count_retry(call, err)
  all.retries:at(call.provider, call.model, err.kind):inc()
end

function Calls.attempt_ended(_, call, _, _, what, delay)
  if delay then count_retry(call, what) end
end

function Calls.refused(_, call, _, err, delay)
  if delay then count_retry(call, err) end
end

local function ended(series, elapsed, outcome, err, input, output)
  if outcome == "ok" then return series.ok(elapsed, input, output) end
  all.duration:at(series.provider, series.model, outcome):observe(elapsed)
  series.tokens(input, output)
  if outcome == "abandoned" or outcome == "cancelled" then return end
  all.errors:at(series.provider, series.model, err.kind):inc()
  if outcome == "interrupted" then all.interrupted:at(series.provider, series.model):inc() end
end

function Calls.stream_over(_, run, at, outcome, err, input, output)
  local model = run.model
  local series = models[model.name] or series_of(model.name, model.opts.provider, model.opts.model)
  if outcome == "ok" then series.ok(at - run.sent, input, output)
  else ended(series, at - run.sent, outcome, err, input, output) end
end

function Calls.call_ended(_, call, at, outcome, what)
  if outcome == "error" and not errors.is(what) then return end -- a fault of the script's: no call was made
  local usage = (outcome == "ok" or outcome == "abandoned") and what.usage
  ended(series_of(call.name, call.provider, call.model), at - call.began, outcome, what,
    usage and usage.input_tokens, usage and usage.output_tokens)
end

-- Chains --------------------------------------------------------------------------------------------

function Calls.chain_moved(_, _, _, from, to, why, how)
  all.fallbacks:at(from.name, to.name, how == "declined" and how or why.kind):inc()
  if how == "slow" then all.hedges:at(from.name, to.name):inc() end
end

function Calls.chain_rescued(_, chain, _, err)
  local from = err.provider and err.model and err.provider .. "/" .. err.model or chain.name
  all.fallbacks:at(from, "rescue", errors.is(err) and err.kind or "script"):inc()
end

-- The rest ------------------------------------------------------------------------------------------

function Calls.token_refreshed(_, name, _, outcome, seconds)
  all.refresh:at(name, outcome):observe(seconds)
end

--- Models at different addresses can have one name: the worst of their breakers counts.
local function show_circuit(name)
  local worst = 0
  for breaker in pairs(breakers) do
    if breaker.name == name then worst = math.max(worst, STATES[breaker.status] or 0) end
  end
  local provider, model = name:match "^([^/]*)/(.*)$"
  all.circuit:at(provider or "", model or name):set(worst)
end

function Calls.breaker_changed(_, breaker, _, _, after)
  breakers[breaker] = STATES[after] ~= 0 or nil
  show_circuit(breaker.name)
end

--- How many requests are under way is counted by those who make them.
local function show_load()
  for _, series in pairs(models) do series.concurrent:set(0) end
  require "sluice.model".each_load(function(provider, model, requests)
    all.concurrent:at(provider, model):add(requests)
  end)
end

local function collect()
  observe.sweep()
  show_load()
  local list = {}
  for breaker in pairs(breakers) do list[#list + 1] = breaker end
  for _, breaker in ipairs(list) do breaker:peek() end -- a sleep window may be over, which nobody has noticed
  local stats = core.stats()
  all.memory:set(stats.memory)
  all.tasks:set(core.census().tasks)
end

--- Begins to count. A second time changes nothing.
function calls.start()
  if all then return end
  all, models, model_count, breakers = make(), {}, 0, {}
  local libraries = sys.libraries()
  all.build:at(sys.version, libraries.lua, libraries.libcurl, libraries.libevent):set(1)
  metrics.on_collect(collect)
  observe.subscribe(Calls)
end

return calls
