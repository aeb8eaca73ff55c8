-- "The reply takes longer than 5 s": a smaller model starts beside the large one, whoever speaks first is
-- read, and when both are silent a sentence is better than nothing. Says at the end who it was.
--
--   sluice run scripts/hedge.lua "Why is the sky blue?"
--   sluice run --mock=scripts/scenarios/slow.lua scripts/hedge.lua "Why is the sky blue?"   see it at work

local sluice = require "sluice"

local prompt = ...
if not prompt then
  io.stderr:write "usage: sluice run hedge.lua PROMPT\n"
  return 2
end

local big = sluice.model {
  provider = "siliconflow", model = "deepseek-ai/DeepSeek-V3",
  -- when half of its answers take so long, it is not even asked for a while
  breaker = { slow = 5, slow_rate = 0.5 },
}
local small = big:with { model = "Qwen/Qwen3-8B", defaults = { max_tokens = 800 } }

local ask = sluice.fallback {
  { big, after = 5 },
  { small, after = 3 },
  sluice.rule.canned "The models are busy. Please try again in a minute.",
  rescue = sluice.rule.continue(small), -- a stream that breaks off is finished by the small one
}

local stream <close> = ask:stream(prompt)
for text in stream:text() do
  io.write(text)
  io.flush()
end
local reply = stream:reply()
io.write "\n"

io.stderr:write(("\nfirst words after %.1f s, all of it after %.1f s\n"):format(reply.ttft, reply.elapsed))
for _, attempt in ipairs(reply.attempts) do
  local what = attempt.kind or attempt.cancelled and "let go" or "answered"
  io.stderr:write(("  %5.1f s  %s %s after %.1f s\n"):format(attempt.at, attempt.name, what, attempt.elapsed))
end
if reply.degraded then io.stderr:write(("degraded: %s (%s)\n"):format(reply.degraded.name, reply.degraded.why)) end
