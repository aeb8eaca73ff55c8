-- Programs on a virtual clock: while one runs, the clock keeps the pace of real time; else it jumps.

local sluice = require "sluice"
local process, task = sluice.process, sluice.task

sluice.test("a program has the time it takes", function(t)
  t.eq(process.run({ "sh", "-c", "sleep 0.1; echo hi", timeout = 30 }):text(), "hi")
  t.ok(t.clock() >= 0.09 and t.clock() < 20, t.clock()) -- the clock takes up the pace when somebody waits
  t.eq(task.deadline(30, function() return process.run({ "echo", "ho" }):text() end), "ho")
end)

sluice.test("its timeout is real, and ends it", function(t)
  local err = t.raises("timeout", process.run, { "sleep", "60", timeout = 0.05 })
  t.eq(err.phase, "process")
  t.ok(t.clock() >= 0.05 and t.clock() < 20, t.clock())
end)

sluice.test("before and after, time jumps", function(t)
  task.sleep(1000)
  local before = t.clock()
  process.run { "true" }
  local after = t.clock()
  task.sleep(1000)
  t.eq(before, 1000)
  t.eq(t.clock() - after, 1000)
  do
    local child <close> = process.stream { "sleep", "60" } -- luacheck: ignore 211
  end
  local closed = t.clock()
  task.sleep(1000)
  t.eq(t.clock() - closed, 1000, "one that was let go holds nothing up")
end)

sluice.test("a step of a fallback may be a program", function(t)
  local slow = t.model { { wait = 9, text = "late" } }
  local reply = sluice.fallback { { slow, after = 0.05 },
    function() return process.run({ "echo", "from a program" }):text() end }:ask "x"
  t.eq(reply.text, "from a program")
  t.eq(slow.cancelled, 1)
end)
