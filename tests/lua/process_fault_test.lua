-- Shortage of memory under sluice.process: the first, second, third … allocation fails. Whatever comes of it, no
-- program, descriptor or task stays behind, and the next one runs.
-- timeout: 180
-- modes: asan
local T = require "harness"
local sluice = require "sluice"
local core = require "sluice.core.task"
local processes = require "sluice.core.process"

local process, task = sluice.process, sluice.task

-- Listed by a program that waits for a word first: when that is written, the ends of pipes that are the program's
-- are closed here.
local function descriptors()
  local child <close> = process.stream { "sh", "-c", "read word; ls /proc/$PPID/fd", input = true }
  child:write "now\n"
  local n = 0
  for _ in child:lines() do n = n + 1 end
  return n
end

local function sweep(name, scenario)
  T.test(name, function(t)
    if not core.fail_allocation then t.skip "this build has no hook for it (make MODE=asan)" end
    scenario()
    collectgarbage()
    T.until_(function() return processes.count() == 0 end)
    local before = descriptors()
    local n, raised = 0, 0
    repeat
      n = n + 1
      collectgarbage "stop" -- the same allocations each time
      core.fail_allocation(n)
      local ok, err = pcall(task.deadline, 10, task.group, scenario)
      local fired = core.fail_allocation(0)
      collectgarbage "restart"
      if not ok then
        raised = raised + 1
        if not tostring(err):find "memory" then t.eq(tostring(err), "an error about memory", "allocation " .. n) end
      end
    until not fired
    t.ok(raised > 0, "it never mattered")
    t.log(("%d allocations, %d of them raised"):format(n, raised))
    collectgarbage()
    collectgarbage()
    T.until_(function() return processes.count() == 0 end)
    t.eq(descriptors(), before)
    scenario()
  end)
end

sweep("run", function()
  local result = process.run { "sh", "-c", "cat; echo err >&2", input = "text", env = { A = "b" } }
  assert(result.stdout == "text" and result.stderr == "err\n")
end)

sweep("stream", function()
  local child <close> = process.stream { "sh", "-c", "echo one; cat; echo why >&2", input = true }
  assert(child:read_line() == "one")
  child:write "two\nthree"
  child:close_input()
  assert(child:read_line() == "two")
  for line in child:lines() do assert(line == "three") end
  assert(child:wait().stderr == "why\n")
end)

sweep("a stream that is left", function()
  for line in process.stream { "yes" }:lines() do -- luacheck: ignore 512
    assert(line == "y")
    break
  end
end)

T.done()
