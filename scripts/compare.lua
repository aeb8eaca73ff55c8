-- The same prompt to several providers at once; a table of what it took, then the answers.
--
--   sluice run scripts/compare.lua "Explain a monad in one line" \
--     siliconflow/Qwen/Qwen3-8B deepseek/deepseek-chat anthropic/claude-haiku-4-5
--
-- A model that fails is a row of the table, not the end of the comparison.

local sluice = require "sluice"

local prompt = ...
local names = { select(2, ...) }
if #names == 0 then
  names = { "siliconflow/Qwen/Qwen3-8B", "siliconflow/deepseek-ai/DeepSeek-V3", "siliconflow/zai-org/GLM-4.6" }
end
if not prompt then
  io.stderr:write "usage: sluice run compare.lua PROMPT [PROVIDER/MODEL…]\n"
  return 2
end

local results = sluice.task.map(names, function(name)
  local stream <close> = sluice.model(name):stream(prompt)
  return stream:reply()
end, { settle = true })

print(("%-40s %8s %8s %7s"):format("model", "first s", "total s", "tokens"))
for i, result in ipairs(results) do
  local reply = result.value
  if result.ok then
    print(("%-40s %8.2f %8.2f %7s"):format(names[i], reply.ttft, reply.elapsed, reply.usage.output_tokens or "?"))
  else
    print(("%-40s %s"):format(names[i], tostring(result.err)))
  end
end

for i, result in ipairs(results) do
  if result.ok then print(("\n── %s ──\n%s"):format(names[i], result.value.text)) end
end
