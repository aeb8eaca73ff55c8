-- Answers questions, one a line, by the rules in fallback-rules.lua. The rules are looked at before each
-- question: change them in an editor while this runs, and the next answer goes by the new ones.
--
--   sluice run scripts/degrade.lua
--   sluice run --mock=scripts/scenarios/brownout.lua scripts/degrade.lua < questions.txt

local sluice = require "sluice"

local rules = sluice.rules "fallback-rules.lua" -- beside this script
local degraded, asked = 0, 0

for question in io.lines() do
  if question:find "%S" then
    asked = asked + 1
    local ok, err = pcall(function()
      local stream <close> = rules:stream(question)
      for text in stream:text() do
        io.write(text)
        io.flush()
      end
      io.write "\n"
      local d = stream:reply().degraded
      if d then
        degraded = degraded + 1
        io.stderr:write(("[%s: %s]\n"):format(d.name, d.why))
      end
    end)
    if not ok then io.stderr:write(("\n[no answer: %s]\n"):format(tostring(err))) end
  end
end
io.stderr:write(("%d questions, %d degraded answers, rules version %d\n"):format(asked, degraded, rules.version))
