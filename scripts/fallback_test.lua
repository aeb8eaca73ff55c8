-- Tests of the rules in fallback-rules.lua: no key, no network, no waiting.
--
--   sluice test scripts/fallback_test.lua

local sluice = require "sluice"
local BIG, SMALL = "siliconflow/deepseek-ai/DeepSeek-V3", "siliconflow/Qwen/Qwen3-8B"

local function rules() return sluice.rules "fallback-rules.lua" end

sluice.test("a good day: the large model answers, nobody else is asked", function(t)
  t.script(BIG, { { wait = 2, text = "big" } })
  local reply = rules():ask "x"
  t.eq({ reply.text, reply.degraded, t.clock() }, { "big", nil, 2 })
end)

sluice.test("longer than 5 s: the small one starts, and the large one is let go", function(t)
  local big = t.script(BIG, { { wait = 20, text = "big" } })
  t.script(SMALL, { { wait = 1, text = "small" } })
  local reply = rules():ask "x"
  t.eq({ reply.text, reply.degraded.why, t.clock(), big.cancelled }, { "small", "slow", 6, 1 })
end)

sluice.test("a prompt that is too long goes to the model with the long context", function(t)
  t.script(BIG, { { err = "context_length" } })
  t.script("siliconflow/Qwen/Qwen2.5-72B*", { { text = "long" } })
  t.eq(rules():ask("x").text, "long")
end)

sluice.test("everybody overloaded: a short answer is tried, then a sentence", function(t)
  t.script(BIG, { { err = "overloaded" } })
  local small = t.script(SMALL, { { err = "overloaded" } })
  t.eq(rules():ask("x").text, "服务繁忙，请稍后再试。")
  t.eq(small.requests[#small.requests].max_tokens, 100)
end)

sluice.test("a stream that breaks off is finished by the small model", function(t)
  t.script(BIG, { { text = "one two three", cut = 7 } })
  t.script(SMALL, { { text = " three" } })
  local stream <close> = rules():stream "count"
  t.eq(stream:text()(), "one two")
  t.eq(stream:reply().text, "one two three")
end)
