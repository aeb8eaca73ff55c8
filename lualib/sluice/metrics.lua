--- Metrics: what a script counts, beside what sluice counts itself, for Prometheus and its kin.
-- Owns: names and shapes as scripts give them, and the words when they are wrong. The values are C
-- (runtime/base/metrics.c). What sluice counts itself: metrics/calls.lua; who is shown it:
-- metrics/serve.lua, metrics/file.lua, metrics/otlp.lua.
--
--   local done = sluice.metrics.counter { name = "pages_total", help = "Pages that are done.", labels = { "kind" } }
--   done:inc { kind = "faq" }                     done:add(3, { kind = "faq" })
--   local queued = sluice.metrics.gauge { name = "pages_queued" }
--   queued:set(12)  queued:inc()  queued:dec()
--   local size = sluice.metrics.histogram { name = "page_bytes", buckets = { 1e3, 1e4, 1e5 } }
--   size:observe(#page)
--   local faq = done:with { kind = "faq" }        -- the same, looked up once:  faq:inc()
--
-- A label's values are to be few and known: no prompts, ids or addresses. It keeps its first 100
-- (`max_values`); later ones are counted as "other".

local core = require "sluice.core.metrics"
local secrets = require "sluice.core.secret"
local options = require "sluice.options"

local BUCKETS_MAX, LABELS_MAX, NAME_MAX = 64, 16, 200 -- as in runtime/base/limits.h
local SERIES_MAX = 2000
local SECONDS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }

-- Suffixes that say something else than what such a metric would be.
local RESERVED = { "_bucket", "_sum", "_count" }

---@class sluice.metrics
local metrics = {}

local registry = core.registry()
local collectors = {}

-- Checks ------------------------------------------------------------------------------------------

local function is_name(v)
  return type(v) == "string" and #v <= NAME_MAX and v:find "^[%a_:][%w_:]*$" ~= nil
end

local function is_label(v)
  return type(v) == "string" and #v <= NAME_MAX and v:find "^[%a_][%w_]*$" ~= nil and v:sub(1, 2) ~= "__"
    and v ~= "le" and v ~= "quantile"
end

local function is_ascending(v)
  if type(v) ~= "table" or #v == 0 or #v > BUCKETS_MAX then return false end
  for i, bound in ipairs(v) do
    if type(bound) ~= "number" or bound ~= bound or math.abs(bound) == math.huge then return false end
    if i > 1 and bound <= v[i - 1] then return false end
  end
  return true
end

local SPEC = {
  name = { required = true, check = is_name, expected = "a name of letters, digits and '_'" },
  help = { type = "string", doc = "one sentence for whoever reads the metrics" },
  labels = { type = "list", items = { check = is_label,
    expected = "names of letters, digits and '_', but not 'le' or 'quantile'" } },
  max_values = { type = "integer", min = 1, max = SERIES_MAX, doc = "values a label keeps; later ones are 'other'" },
}
local HISTOGRAM = { buckets = { check = is_ascending,
  expected = ("a list of 1 to %d upper bounds that ascend"):format(BUCKETS_MAX) } }
for key, entry in pairs(SPEC) do HISTOGRAM[key] = entry end
SPEC, HISTOGRAM = options.spec(SPEC), options.spec(HISTOGRAM)

local function check_labels(where, labels)
  local seen = {}
  if #labels > LABELS_MAX then
    options.raise(("%s: option 'labels': %d labels are too many, at most %d"):format(where, #labels, LABELS_MAX))
  end
  for _, name in ipairs(labels) do
    if seen[name] then options.raise(("%s: option 'labels': '%s' is there twice"):format(where, name)) end
    seen[name] = true
  end
end

local function check_name(where, kind, name)
  if kind == "counter" and name:sub(-6) ~= "_total" then
    options.raise(("%s: option 'name': a counter's name ends in '_total': '%s_total'"):format(where, name))
  elseif kind ~= "counter" and name:sub(-6) == "_total" then
    options.raise(("%s: option 'name': '_total' is for counters"):format(where))
  end
  for _, suffix in ipairs(RESERVED) do
    if name:sub(-#suffix) == suffix then
      options.raise(("%s: option 'name': '%s' is for what histograms show"):format(where, suffix))
    end
  end
end

-- Labels ------------------------------------------------------------------------------------------

---@class sluice.Metric
---@field name string
---@field kind "counter"|"gauge"|"histogram"
local Metric = {}

---@class sluice.Counter : sluice.Metric
---@class sluice.Gauge : sluice.Metric
---@class sluice.Histogram : sluice.Metric

local function labels_text(metric)
  return #metric.labels == 0 and "it has no labels" or ("its labels are %s"):format(table.concat(metric.labels, ", "))
end

--- The series of these labels.
local function series_of(metric, labels)
  if labels == nil then
    if metric.only then return metric.only end
    options.raise(("%s: %s, and each needs a value"):format(metric.name, labels_text(metric)))
  elseif type(labels) ~= "table" then
    options.raise(("%s: labels are a table, got %s%s"):format(metric.name, options.got(labels),
      type(labels) == "number" and metric.kind ~= "histogram" and "; numbers are for add" or ""))
  end
  local series, problem, label = metric.core:with(labels)
  if series then return series end
  if problem == "missing" then
    for given in pairs(labels) do -- a wrong name says more than the one that is missing
      local known = false
      for _, name in ipairs(metric.labels) do known = known or name == given end
      if not known then problem, label = "unknown", given end
    end
  end
  if problem == "unknown" then
    options.raise(("%s: there is no label '%s'%s"):format(metric.name, tostring(label),
      #metric.labels == 0 and ": it has no labels" or options.suggest(label, metric.labels)))
  elseif problem == "missing" then
    options.raise(("%s: label '%s' is missing: %s"):format(metric.name, label, labels_text(metric)))
  end
  options.raise(("%s: label '%s' must be a string, a number or a boolean, got %s"):format(metric.name, label,
    options.got(labels[label])))
end

local function number_of(metric, method, value)
  if type(value) == "number" and (method == "set" or value == value and math.abs(value) ~= math.huge) then
    if value < 0 and metric.kind == "counter" then
      options.raise(("%s:add: a counter never goes down; use a gauge"):format(metric.name))
    end
    return value
  end
  options.raise(("%s:%s: argument 1 must be a number, got %s"):format(metric.name, method, options.got(value)))
end

--- The series of these labels, to be kept where the same labels come again and again: it has the same
--- methods, without labels.
---@param labels table<string, string|number|boolean>
---@return sluice.MetricSeries
function Metric:with(labels)
  return series_of(self, labels)
end

--- The value now; of a histogram the sum, and how many were observed.
---@param labels? table<string, string|number|boolean>
---@return number value
---@return integer? count
function Metric:value(labels)
  return series_of(self, labels):value()
end

--- One more.
---@param labels? table<string, string|number|boolean>
function Metric:inc(labels)
  series_of(self, labels):inc()
end

--- So many more; of a gauge they may be less than 0.
---@param amount number
---@param labels? table<string, string|number|boolean>
function Metric:add(amount, labels)
  series_of(self, labels):add(number_of(self, "add", amount))
end

--- One less. Gauges only.
---@param labels? table<string, string|number|boolean>
function Metric:dec(labels)
  series_of(self, labels):dec()
end

--- From now on it is this. Gauges only.
---@param value number
---@param labels? table<string, string|number|boolean>
function Metric:set(value, labels)
  series_of(self, labels):set(number_of(self, "set", value))
end

--- One that was so large. Histograms only.
---@param value number  in the unit the name ends in
---@param labels? table<string, string|number|boolean>
function Metric:observe(value, labels)
  series_of(self, labels):observe(number_of(self, "observe", value))
end

local METHODS = {
  counter = { "inc", "add", "with", "value" },
  gauge = { "set", "inc", "dec", "add", "with", "value" },
  histogram = { "observe", "with", "value" },
}
local CLASSES = {}

for kind, names in pairs(METHODS) do
  local class, bound = { __name = "sluice.metrics." .. kind }, core[kind]
  for _, name in ipairs(names) do class[name] = Metric[name] end
  local function missing(_, name)
    if type(name) ~= "string" then return nil end
    options.raise(("a %s has no '%s'%s"):format(kind, name, options.suggest(name, names)))
  end
  setmetatable(bound, { __index = missing })
  local methods = setmetatable(class, { __index = missing })
  CLASSES[kind] = { __name = class.__name, __index = methods, __tostring = function(self)
    return ("%s %s"):format(kind, self.name)
  end }
end

-- Making ------------------------------------------------------------------------------------------

local function make(kind, opts, spec)
  local where = "sluice.metrics." .. kind
  options.check(where, opts, spec)
  check_name(where, kind, opts.name)
  local labels, bounds = opts.labels or {}, kind == "histogram" and (opts.buckets or SECONDS) or {}
  check_labels(where, labels)
  local metric, problem, other = registry:add(kind, opts.name, opts.help or opts.name, labels, bounds, opts.max_values)
  if problem == "taken" then
    options.raise(other == opts.name
      and ("%s: there is a metric '%s' already, and it is another kind, or has other labels or buckets")
        :format(where, other)
      or ("%s: '%s' cannot be told from what the metric '%s' shows"):format(where, opts.name, other))
  elseif problem then
    options.raise(where .. ": there are too many metrics; labels tell things apart that are counted alike")
  end
  return metric, labels
end

local known = {}

local function new(kind, opts, spec)
  local made, labels = make(kind, opts, spec)
  local self = known[made]
  if self then return self end
  self = setmetatable({ name = opts.name, kind = kind, core = made, labels = table.move(labels, 1, #labels, 1, {}),
    only = #labels == 0 and made:at() }, CLASSES[kind])
  known[made] = self
  return self
end

---@class sluice.MetricOptions
---@field name string          a counter's ends in _total; units stand before that: _seconds, _bytes
---@field help? string         one sentence
---@field labels? string[]     their names; every use gives a value for each
---@field max_values? integer  100: values a label keeps, later ones are counted as "other"

---@class sluice.HistogramOptions : sluice.MetricOptions
---@field buckets? number[]    upper bounds, ascending; default for seconds from 0.005 to 10

--- A number that only grows. The same name and labels again give the same counter.
---@param opts sluice.MetricOptions
---@return sluice.Counter
function metrics.counter(opts)
  return new("counter", opts, SPEC)
end

--- A number that goes up and down.
---@param opts sluice.MetricOptions
---@return sluice.Gauge
function metrics.gauge(opts)
  return new("gauge", opts, SPEC)
end

--- How often something was how large: `buckets` are the sizes that can be told apart.
---@param opts sluice.HistogramOptions
---@return sluice.Histogram
function metrics.histogram(opts)
  return new("histogram", opts, HISTOGRAM)
end

-- Showing -----------------------------------------------------------------------------------------

--- Calls `f()` before the metrics are shown, to bring gauges up to date.
---@param f fun()
function metrics.on_collect(f)
  collectors[#collectors + 1] = f
end

local function collect()
  for _, f in ipairs(collectors) do
    local ok, why = pcall(f)
    if not ok then require "sluice.log".warn("a collector of metrics failed", { error = tostring(why) }) end
  end
end

--- All metrics as text: Prometheus' form (version 0.0.4), or OpenMetrics 1.0.
---@param format? "prometheus"|"openmetrics"  default "prometheus"
---@return string
function metrics.text(format)
  if format ~= nil and format ~= "prometheus" and format ~= "openmetrics" then
    options.raise(("sluice.metrics.text: argument 1 must be 'prometheus' or 'openmetrics', got %s")
      :format(options.got(format)))
  end
  collect()
  return secrets.scrub(registry:text(format == "openmetrics")) -- a label may quote what nobody should see
end

-- For sluice's own modules: all metrics as tables, { kind, name, help, labels, bounds, series =
-- { labels, value, count, buckets }… }.
function metrics.look()
  collect()
  local list = registry:metrics()
  for i, metric in ipairs(list) do list[i] = metric:look() end
  return list
end

--- Begins to count what sluice does itself: calls, errors, tokens … (docs/metrics.md). `--metrics` and
--- `--metrics-file` do; a script that shows sluice.metrics.text() itself calls it before its first call.
function metrics.enable()
  require "sluice.metrics.calls".start()
end

-- For sluice's own modules: a metric with any name, whose series are had with :at(value, …).
function metrics.own(kind, name, help, labels, buckets)
  return (assert(registry:add(kind, name, help, labels, buckets or {})))
end

return metrics
