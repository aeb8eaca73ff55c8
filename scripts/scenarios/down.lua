-- Nobody answers: every request is refused as overloaded.
--
--   sluice run --mock=scripts/scenarios/down.lua script.lua

return {
  { status = 503 },
}
