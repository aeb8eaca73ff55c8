-- The large model takes 20 s to its first word; the small one is as it should be.
--
--   sluice run --mock=scripts/scenarios/slow.lua scripts/hedge.lua "Why is the sky blue?"

return {
  { model = "*DeepSeek*", first_token = 20 },
}
