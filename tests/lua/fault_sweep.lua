-- Shortage of memory, everywhere in turn: a scenario runs again and again, and the first, second, third …
-- allocation in it fails, until one run ends without a failure.

local T = require "harness"
local errors = require "sluice.errors"
local core = require "sluice.core.task"
local task = require "sluice".task

local SECONDS = 10 -- one run, unless said otherwise; whoever waits longer waits for ever

---Adds a test of that name. Skipped where the build has no hook.
---@param name string
---@param scenario fun()
---@param after? fun(t: table, n: integer, ok: boolean)  when the n-th allocation failed: what must be in order
---@param opts? { seconds?: number, also?: string }  also: a kind of error that want of memory may come out as,
---  beside one that says so
return function(name, scenario, after, opts)
  local seconds, also = opts and opts.seconds or SECONDS, opts and opts.also
  T.test(name, function(t)
    if not core.fail_allocation then t.skip "this build has no hook for it (make MODE=asan)" end
    scenario() -- what is made once, and kept
    collectgarbage()
    local n, raised = 0, 0
    repeat
      n = n + 1
      collectgarbage "stop" -- the same allocations each time
      core.fail_allocation(n)
      local ok, err = pcall(task.deadline, seconds, task.group, scenario)
      local fired = core.fail_allocation(0)
      collectgarbage "restart"
      if not ok then
        raised = raised + 1
        local text = tostring(err)
        if not text:find "memory" and not (also and errors.is(err, also)) then
          t.eq(text, "an error about memory", "allocation " .. n)
        end
      end
      if after then after(t, n, ok) end
    until not fired
    t.ok(raised > 0, "it never mattered")
    t.log(("%d allocations, %d of them raised"):format(n, raised))
    collectgarbage()
    collectgarbage()
  end)
end
