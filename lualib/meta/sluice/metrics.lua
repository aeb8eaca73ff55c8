---@meta sluice.core.metrics

-- What runtime/bind/metrics.c defines. Scripts use sluice.metrics.

---@class sluice.core.metrics
---@field counter table    the methods of a counter's series
---@field gauge table      … of a gauge's
---@field histogram table  … of a histogram's
local metrics = {}

--- A registry; it lives until the program ends.
---@return sluice.core.Registry
function metrics.registry() end

--- Series that are counted together, in one call: of a function that adds or observes a number for each of
--- them. What is no number is passed over; it never raises.
---@param ... sluice.MetricSeries
---@return fun(...: number?)
function metrics.tally(...) end

---@class sluice.core.Registry
local Registry = {}

--- The metric, also when it is there already and of the same shape.
---@param kind "counter"|"gauge"|"histogram"
---@param name string
---@param help string
---@param labels string[]
---@param bounds number[]      upper ones, ascending; empty but for histograms
---@param max_values? integer  100: values a label keeps, later ones are "other"
---@return sluice.core.Metric? metric
---@return "taken"|"full"? problem
---@return string? other       the metric that has the name
function Registry:add(kind, name, help, labels, bounds, max_values) end

--- All of it in Prometheus' text form 0.0.4, or OpenMetrics 1.0.
---@param openmetrics? boolean
---@return string
function Registry:text(openmetrics) end

---@return sluice.core.Metric[]
function Registry:metrics() end

---@class sluice.core.Metric
local Metric = {}

--- The series of these values, in the order of the labels.
---@param ... string
---@return sluice.MetricSeries
function Metric:at(...) end

--- The series of { label = value }.
---@param labels table<string, string|number|boolean>
---@return sluice.MetricSeries? series
---@return "missing"|"unknown"|"value"? problem
---@return string? label
function Metric:with(labels) end

--- { kind, name, help, labels = names, bounds, series = { { labels = values by name, value, count,
--- buckets = counts, not cumulative, one more than bounds } … } }
---@return table
function Metric:look() end

--- One value of a metric. A counter's has inc, add, value; a gauge's also dec and set; a histogram's
--- observe and value.
---@class sluice.MetricSeries
local MetricSeries = {}

function MetricSeries:inc() end

---@param amount number  finite; a counter's is not below 0
function MetricSeries:add(amount) end

function MetricSeries:dec() end

---@param value number
function MetricSeries:set(value) end

---@param value number  finite
function MetricSeries:observe(value) end

---@return number value   of a histogram the sum
---@return integer? count of a histogram
function MetricSeries:value() end

return metrics
