-- Makes metrics of every kind move; run by ./run with --metrics-otlp.
local sluice = require "sluice"

local function model(name) return sluice.model { provider = "openai", model = name, retry = { base = 0.001 } } end
local good, down, cut = model "good", model "down", model "cut"
for _ = 1, 5 do good:ask "hi" end
for _ in good:stream "hi":text() do end -- luacheck: ignore 542
pcall(function() for _ in cut:stream "hi":text() do end end) -- luacheck: ignore 542
sluice.fallback { down, good }:ask "hi"
sluice.metrics.counter { name = "odd_total", labels = { "odd" } }:add(2.5, { odd = 'a "quoted" \\ back\nslash 中文' })
sluice.metrics.gauge { name = "depth" }:set(-1.5)
