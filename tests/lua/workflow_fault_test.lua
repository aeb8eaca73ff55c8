-- Shortage of memory under files and pipelines: the first, second, third … allocation fails. Nobody
-- waits for ever, nothing is left behind, no half file is, and the next time all is well.
-- JSON stays out of it: lua-cjson 2.1.0 loses its buffer when an allocation fails.
-- timeout: 180
-- modes: asan
local T = require "harness"
local sluice = require "sluice"
local core = require "sluice.core.task"

local files, pipeline, task = sluice.files, sluice.pipeline, sluice.task
local folder = T.tmpdir()

local function sweep(name, scenario, after)
  T.test(name, function(t)
    if not core.fail_allocation then t.skip "this build has no hook for it (make MODE=asan)" end
    scenario()
    collectgarbage()
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
        local text = tostring(err)
        if not text:find "memory" then t.eq(text, "an error about memory", "allocation " .. n) end
      end
      if after then after(t, n) end
    until not fired
    t.ok(raised > 0, "it never mattered")
    t.log(("%d allocations, %d of them raised"):format(n, raised))
    collectgarbage()
    collectgarbage()
  end)
end

for i = 1, 20 do T.write(("%s/%d.txt"):format(folder, i), "text") end

sweep("glob, text, image", function()
  assert(#files.glob(folder .. "/*[0-9].{txt,none}") == 20)
  assert(files.text(folder .. "/1.txt") == "text")
end)

T.write(folder .. "/replaced", "old")
sweep("write", function() files.write(folder .. "/replaced", ("new"):rep(1000)) end, function(t, n)
  local now = T.read(folder .. "/replaced")
  t.ok(now == "old" or now == ("new"):rep(1000), n)
end)

sweep("a pipeline", function()
  local sum, i = 0, 0
  pipeline {
    function()
      i = i + 1
      if i <= 6 then return i end
    end,
    { function(x) task.yield() return x end, concurrency = 2 },
    { function(x) return { x, x } end, concurrency = 2, flat = true, ordered = false },
    function(x) sum = sum + x end,
  }
  assert(sum == 42)
end)

T.done()
