-- A bit of everything a trace can hold.
local sluice = require "sluice"

local function model(name, more)
  local opts = { provider = "mock", model = name, retry = { base = 0.01 } }
  for key, value in pairs(more or {}) do opts[key] = value end
  return sluice.model(opts)
end

model("flaky", { defaults = { max_tokens = 100 } }):ask "one"
for _ in model "m":stream "two":text() do end -- luacheck: ignore 542
pcall(function() for _ in model "cut":stream "three":text() do end end) -- luacheck: ignore 542
sluice.fallback { { model "slow", after = 0.05 }, model "m", name = "hedged" }:ask "four"
pcall(sluice.fallback { model("down", { retry = false }), function() return nil end }.ask,
  sluice.fallback { model("down", { retry = false, breaker = { trip_after = 1 } }), function() return nil end }, "five")
local one = model("m", { limit = { concurrency = 1 } })
sluice.task.map({ 1, 2, 3 }, function(i) return one:ask("six " .. i).text end)
pcall(sluice.task.deadline, 0.05, function() model "slow":ask "seven" end)
