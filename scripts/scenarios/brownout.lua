-- Not down, but not well: overloaded answers in bursts, long waits for the first token, slow streams
-- with pings, one that stalls. What breakers and hedges are for.
--
--   sluice mock --log scripts/scenarios/brownout.lua

return {
  { from = 10, to = 14, status = 503 },                      -- a burst: the breaker should open
  { from = 30, to = 34, status = 529, dialect = "anthropic" },
  { every = 7, first_token = 6, ping_every = 1 },            -- slower than most are willing to wait
  { every = 11, stall_after = 25 },                          -- silence, and the connection stays open
  { tokens_per_second = 15, also = true },                   -- everything else: slow, but it comes
  { probability = 0.05, error_after = 20 },                  -- an error inside a 200
}
