-- An outage as it usually goes: the big model gets slow, the small one runs into its limit, and now
-- and then a connection dies in the middle of an answer.
--
--   sluice mock scripts/scenarios/outage.lua
--   sluice run --mock=scripts/scenarios/outage.lua script.lua

return {
  { model = "*big*", first_token = 20 },                        -- headers at once, text after 20 s
  { model = "*small*", nth = 1, status = 429, retry_after = 2 }, -- the first request of the day
  { probability = 0.1, cut_after = 40 },                        -- tokens, then the connection dies
}
