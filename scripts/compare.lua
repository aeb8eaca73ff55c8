-- Compares models on a prompt, or on a file of prompts, one a line: a table of speed, length and failures.
--
--   sluice run scripts/compare.lua "Explain a monad in one line" deepseek/deepseek-chat anthropic/claude-haiku-4-5
--   sluice run scripts/compare.lua prompts.txt deepseek/deepseek-chat anthropic/claude-haiku-4-5 > answers.jsonl
--
-- For one prompt the answers follow the table; for a file they go to stdout, a row of JSON each, and the table to
-- stderr. A model that fails is a row of the table, not the end of the comparison.

local sluice = require "sluice"

local given = ...
local names = { select(2, ...) }
if not given then return io.stderr:write "usage: sluice run compare.lua PROMPT|FILE [PROVIDER/MODEL…]\n" and 2 end
if #names == 0 then
  names = { "siliconflow/Qwen/Qwen3-8B", "siliconflow/deepseek-ai/DeepSeek-V3", "siliconflow/zai-org/GLM-4.6" }
end

local set = sluice.files.kind(given) == "file"
local prompts = {}
for line in (set and sluice.files.text(given) or given:gsub("\n", " ")):gmatch "[^\n]*%S[^\n]*" do
  prompts[#prompts + 1] = line
end

local out = set and io.stderr or io.stdout
local width = 5
for _, name in ipairs(names) do width = math.max(width, #name) end

-- The middle and the slow end of what was measured: an average hides the answers that take too long.
local function spread(list)
  if #list == 0 then return "-" end
  table.sort(list)
  return ("%.2f/%.2f"):format(list[(#list + 1) // 2], list[math.ceil(#list * 0.9)])
end

local tables = sluice.task.map(names, function(name)
  local model = sluice.model(name) -- of its limits, the number of requests at once
  return sluice.task.map(prompts, function(prompt)
    local stream <close> = model:stream(prompt)
    local reply = stream:reply()
    if set then print(sluice.json.encode { model = name, prompt = prompt, text = reply.text, s = reply.elapsed }) end
    return reply
  end, { settle = true })
end)

local line = ("%%-%ds %%9s %%13s %%13s %%9s  %%s\n"):format(width)
out:write(line:format("model", "answered", "first s", "total s", "tokens", #prompts > 1 and "(median/90 %)" or ""))
for i, results in ipairs(tables) do
  local first, total, tokens, why = {}, {}, 0, ""
  for _, result in ipairs(results) do
    if result.ok then
      first[#first + 1], total[#total + 1] = result.value.ttft, result.value.elapsed
      tokens = tokens + (result.value.usage.output_tokens or 0)
    else why = tostring(result.err) end
  end
  out:write(line:format(names[i], #total .. "/" .. #prompts, spread(first), spread(total), tokens, why))
end
for i, results in ipairs(set and {} or tables) do
  if results[1].ok then print(("\n── %s ──\n%s"):format(names[i], results[1].value.text)) end
end
