-- One prompt, one answer on stdout: the smallest useful script.
--
--   sluice run scripts/ask.lua "Why is the sky blue?"
--   git diff | sluice run scripts/ask.lua "Write a commit message for this diff:"
--   MODEL=openai/gpt-4.1-mini sluice run scripts/ask.lua "Hello"
--
-- Text on stdin, if there is any, follows the prompt. MODEL chooses provider/model.

local sluice = require "sluice"


local prompt = table.concat({ ... }, " ")
if not sluice.isatty(0) then prompt = prompt .. "\n\n" .. io.read "a" end
if not prompt:find "%S" then
  io.stderr:write 'usage: sluice run ask.lua "your question"\n'
  return 2
end

local model = sluice.model(os.getenv "MODEL" or "siliconflow/Qwen/Qwen3-8B")
local reply = model:ask(prompt)
print(reply.text)
if reply.finish_reason == "length" then io.stderr:write "(the answer was cut at max_tokens)\n" end
