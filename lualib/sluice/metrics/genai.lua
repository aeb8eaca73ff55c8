--- The metrics of OpenTelemetry's conventions for generative AI (semantic-conventions-genai, gen-ai-metrics),
-- for those who are sent them: metrics/otlp.lua. Owns: their names, attributes and bounds. They lie in a
-- registry of their own: Prometheus has sluice's own names for the same things.
-- Never: reports an estimate as usage.

local core = require "sluice.core.metrics"
local errors = require "sluice.errors"
local observe = require "sluice.observe"

-- The advised bounds; durations go on above them, for models that think longer than 82 s.
local SECONDS = { 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
  327.68, 655.36 }
local TOKENS = { 1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864 }
local NAMES_MAX = 1000 -- models whose series are kept at hand

local genai = {
  UNITS = {}, ---@type table<string, string>  by a metric's name in the registry
}

local all                 -- the metrics, once there are
local registry
local models, count = {}, 0

local BASE = { "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "server_address",
  "server_port" }

local function with(label)
  local labels = table.move(BASE, 1, #BASE, 1, {})
  labels[#labels + 1] = label
  return labels
end

local function make()
  registry = core.registry()
  local function histogram(name, unit, help, labels, bounds)
    genai.UNITS[name] = unit
    return (assert(registry:add("histogram", name, help, labels, bounds)))
  end
  return {
    duration = histogram("gen_ai_client_operation_duration", "s", "GenAI operation duration.", with "error_type",
      SECONDS),
    tokens = histogram("gen_ai_client_token_usage", "{token}", "Number of input and output tokens used.",
      with "gen_ai_token_type", TOKENS),
    first = histogram("gen_ai_client_operation_time_to_first_chunk", "s",
      "Time to receive the first chunk of a streaming response.", BASE, SECONDS),
  }
end

local DEFAULT_PORT = { http = "80", https = "443" }

local function series_of(name, provider, model, base)
  local key = base .. "\n" .. name
  local found = models[key]
  if found then return found end
  local scheme, authority = base:match "^(%a+)://([^/?#]*)"
  authority = (authority or ""):gsub("^.*@", "")
  local host, port = authority:match "^%[?([^%]]-)%]?:(%d+)$"
  host, port = host or authority:match "^%[?([^%]]*)", port or DEFAULT_PORT[scheme] or ""
  local function at(metric, last)
    return metric:at("chat", provider, model, host, port, last)
  end
  found = { at = at,
    ok = core.tally(at(all.duration, ""), at(all.tokens, "input"), at(all.tokens, "output")) }
  if count < NAMES_MAX then models[key], count = found, count + 1 end
  return found
end

local GenAI = { light = true }

function GenAI.ask_answered(_, run, reply)
  local model = run.model
  local series = series_of(model.name, model.opts.provider, model.opts.model, model.base)
  local usage = reply.usage
  series.ok(reply.elapsed, usage.input_tokens, usage.output_tokens)
end

local function began(series, ttft)
  series.first = series.first or series.at(all.first)
  series.first:observe(ttft)
end

local function failed(series, elapsed, err)
  if errors.is(err) then series.at(all.duration, err.kind):observe(elapsed) end -- else a fault of the script's
end

function GenAI.stream_began(_, run, ttft)
  local model = run.model
  began(series_of(model.name, model.opts.provider, model.opts.model, model.base), ttft)
end

function GenAI.stream_over(_, run, at, outcome, err, input, output)
  local model = run.model
  local series = series_of(model.name, model.opts.provider, model.opts.model, model.base)
  if outcome == "interrupted" then return failed(series, at - run.sent, err) end
  series.ok(at - run.sent, input, output)
end

function GenAI.content(_, call, _, ttft)
  began(series_of(call.name, call.provider, call.model, call.base), ttft)
end

function GenAI.call_ended(_, call, at, outcome, what)
  local series = series_of(call.name, call.provider, call.model, call.base)
  if outcome ~= "ok" and outcome ~= "abandoned" then return failed(series, at - call.began, what) end
  local usage = what.usage
  series.ok(at - call.began, usage and usage.input_tokens, usage and usage.output_tokens)
end

--- Begins to count. A second time changes nothing.
function genai.start()
  if all then return end
  all = make()
  observe.subscribe(GenAI)
end

--- The metrics as tables, as sluice.metrics.look() has them.
---@return table[]
function genai.look()
  local list = registry:metrics()
  for i, metric in ipairs(list) do list[i] = metric:look() end
  return list
end

return genai
