-- Answers that survive a bad day: what was answered before is kept in a file, and given again, with its age,
-- when no model answers in time. Ask the same on a good day first.
--
--   sluice run scripts/cached.lua answers.jsonl "What are your opening hours?"
--   sluice run --mock=scripts/scenarios/down.lua scripts/cached.lua answers.jsonl "What are your opening hours?"

local sluice = require "sluice"

local path, question = ...
if not question then
  io.stderr:write "usage: sluice run cached.lua FILE QUESTION\n"
  return 2
end

local cache = sluice.cache { path = path, ttl = 7 * 86400 } -- older than a week is worse than nothing
local model = sluice.model {
  provider = "siliconflow", model = "Qwen/Qwen3-8B",
  timeout = { first_token = 10 }, retry = { attempts = 2 },
}

local ask = sluice.fallback {
  { cache:watch(model), after = 4 },
  { cache:stale(), name = "kept answer" },
  { sluice.rule.canned "We cannot answer at the moment. Please call us.", name = "canned answer" },
}

local reply = ask:ask { system = "Answer in at most three sentences.", prompt = question }
print(reply.text)
if reply.age then io.stderr:write(("[kept %.0f minutes ago; %s]\n"):format(reply.age / 60, reply.degraded.why))
elseif reply.degraded then io.stderr:write(("[%s; %s]\n"):format(reply.degraded.name, reply.degraded.why)) end
