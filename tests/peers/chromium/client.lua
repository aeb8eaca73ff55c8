-- A run with something in every section of the report.
local sluice = require "sluice"
local task = sluice.task
sluice.prices { ["siliconflow/*"] = { input = 1, output = 4, currency = "CNY" }, ["openai/busy*"] = { input = 2,
  output = 8 } }

local retry = { attempts = 4, base = 0.05, cap = 0.2 }
local slow = sluice.model { provider = "siliconflow", model = "通义实验室/慢速模型-slow-<b>", retry = retry }
local busy = sluice.model { provider = "openai", model = "busy-mini", limit = { concurrency = 3 }, retry = retry }
local cut = sluice.model { provider = "anthropic", model = ("a-long-name-"):rep(6) .. "cut", retry = retry }
local down = sluice.model { provider = "openai", model = "down", retry = false, breaker = { volume = 3 } }
local chain = sluice.fallback { { slow, after = 0.2 }, busy, function() return "sorry" end }
local other = sluice.fallback { down, busy }

local list = {}
for i = 1, 32 do list[i] = i end
task.map(list, function(i)
  local prompt = { prompt = "Question " .. i, max_tokens = 20 }
  if i % 4 == 0 then return chain:ask(prompt).text end
  if i % 4 == 1 then return busy:ask(prompt).text end
  if i % 4 == 2 then return other:ask(prompt).text end
  local stream <close> = cut:stream(prompt)
  return stream:reply().text
end, { concurrency = 8, settle = true })
