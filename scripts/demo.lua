-- Shows sluice at work: one answer, one streamed answer, many at once, and one failure.
--
--   sluice run --mock scripts/demo.lua        no key, no network: the embedded provider answers
--   sluice run scripts/demo.lua               the same on SiliconFlow, with SILICONFLOW_API_KEY set

local sluice = require "sluice"

local model = sluice.model "siliconflow/Qwen/Qwen3-8B"

print "── ask ──"
local reply = model:ask "Why is the sky blue? One sentence."
print(reply.text)
print(("   %d tokens in, %d out, %.2f s"):format(reply.usage.input_tokens, reply.usage.output_tokens, reply.elapsed))

print "\n── stream ──"
for text in model:stream("Tell me a very short story about a sluice gate."):text() do
  io.write(text)
  io.flush()
end

print "\n\n── many at once ──"
local topics = { "rivers", "locks", "weirs", "mills", "dams", "canals" }
local started = sluice.task.now()
local answers = sluice.task.map(topics, function(topic)
  return model:ask("Say one thing about " .. topic .. ".").text
end, { concurrency = 3 })
for i, answer in ipairs(answers) do print(("%-7s %s"):format(topics[i], answer:match("^[^\n]*"))) end
print(("   %d answers in %.2f s"):format(#answers, sluice.task.now() - started))

print "\n── a failure is a value that says what to do ──"
local _, err = sluice.try(sluice.task.deadline, 0.05, function() return model:ask "Take your time." end)
print(err or "(answered within 50 ms)")
