-- Work through a file of prompts, one a line, without spending more than so many dollars: the large model
-- until 80 % of the money is spent, the small one until all of it is, then it stops and says how far it got.
--
--   sluice run scripts/budgeted.lua 0.50 prompts.txt > answers.jsonl
--   sluice run --mock scripts/budgeted.lua 0.001 README.md

local sluice = require "sluice"

local dollars, path = tonumber((...)), select(2, ...)
if not dollars or not path then
  io.stderr:write "usage: sluice run budgeted.lua DOLLARS FILE\n"
  return 2
end

local budget = sluice.budget { usd = dollars }
local big = sluice.model "siliconflow/deepseek-ai/DeepSeek-V3":with { defaults = { max_tokens = 300 } }
local small = big:with { model = "Qwen/Qwen3-8B" }
local ask = sluice.fallback { -- prices in USD per million tokens: look yours up
  budget:guard(big, { input = 0.27, output = 1.10, below = 0.8 }),
  budget:guard(small, { input = 0.06, output = 0.06 }),
}

local prompts = {}
for line in io.lines(path) do
  if line:find "%S" then prompts[#prompts + 1] = line end
end

local results = sluice.task.map(prompts, function(prompt)
  local reply = ask:ask(prompt)
  print(sluice.json.encode { prompt = prompt, text = reply.text, model = reply.model, usd = reply.usd })
end, { concurrency = 4, settle = true })

local done, failures = 0, {}
for _, result in ipairs(results) do
  if result.ok then done = done + 1
  else
    local why = result.err.code or result.err.kind or tostring(result.err)
    failures[why] = (failures[why] or 0) + 1
  end
end
io.stderr:write(("%d of %d answered; %s\n"):format(done, #prompts, tostring(budget)))
for why, n in pairs(failures) do io.stderr:write(("  %d not: %s\n"):format(n, why)) end
return done == #prompts and 0 or 3
