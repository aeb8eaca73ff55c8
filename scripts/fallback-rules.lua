-- Rules of degradation, in a file of their own: edit it while scripts/degrade.lua runs. A mistake in it
-- changes nothing but the log; `sluice test scripts/fallback_test.lua` tells before.

local sluice = require "sluice"
local rule = sluice.rule

local big = sluice.model { provider = "siliconflow", model = "deepseek-ai/DeepSeek-V3" }
local small = big:with { model = "Qwen/Qwen3-8B" }
local long = big:with { model = "Qwen/Qwen2.5-72B-Instruct-128K" }

return sluice.fallback {
  { big, after = 5 },                                     -- slow: the next one starts, too
  { long, on = { "context_length" } },                    -- only for prompts that are too long
  { small, after = 5, check = function(reply) return reply.text ~= "", "an empty answer" end },
  { rule.shorter(small, { max_tokens = 100 }), on = { "rate_limited", "overloaded" } },
  rule.canned "服务繁忙，请稍后再试。",
  rescue = rule.continue(small),
}
