-- Shortage of memory under files and pipelines: the first, second, third … allocation fails. Nobody
-- waits for ever, nothing is left behind, no half file is, and the next time all is well.
-- JSON stays out of it: lua-cjson 2.1.0 loses its buffer when an allocation fails.
-- timeout: 180
-- modes: asan
local T = require "harness"
local sluice = require "sluice"
local sweep = require "fault_sweep"

local files, pipeline, task = sluice.files, sluice.pipeline, sluice.task
local folder = T.tmpdir()

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
