-- Many at once: 100,000 tasks that sleep, and what each of them costs.
-- timeout: 120
local T = require "harness"
local sluice = require "sluice"
local core = require "sluice.core.task"

local task = sluice.task
local MANY = T.slow and 10000 or 100000

T.test("100,000 sleeping tasks, at most 2 KiB each, end when told", function(t)
  local woke, unwound = 0, 0
  task.group(function(g)
    collectgarbage()
    collectgarbage()
    local before = core.stats()
    local function sleeper(s)
      local _ <close> = setmetatable({}, { __close = function() unwound = unwound + 1 end })
      task.sleep(s)
      woke = woke + 1
    end
    local plain = function() task.sleep(600) end
    for _ = 1, MANY do g:spawn(plain) end
    for _ = 1, 1000 do g:spawn(sleeper, 0.001) end
    task.sleep(0.002)
    T.until_(function() return woke == 1000 end, 30, "the short sleepers among the long ones")
    collectgarbage()
    collectgarbage()
    local after = core.stats()
    t.eq(after.live - before.live, MANY)
    local each = (after.memory - before.memory) / MANY
    t.ok(each <= 2048, each)
    t.log(("%.0f bytes each"):format(each))
    g:cancel()
  end)
  t.eq(unwound, 1000)
end)

T.test("100,000 tasks that wait in one line", function(t)
  local s, c, served = task.semaphore(1), task.channel(1), 0
  task.group(function(g)
    s:acquire()
    for _ = 1, MANY // 2 do
      g:spawn(function()
        local _ <close> = s:acquire()
        served = served + 1
      end)
      g:spawn(function()
        local one = c:receive()
        served = served + one
      end)
    end
    task.yield()
    s:release()
    for _ = 1, MANY // 2 do c:send(1) end
  end)
  t.eq(served, MANY // 2 * 2)
end)

T.test("cancelling one after the other, from the middle of a long line", function(t)
  local s = task.semaphore(1)
  task.group(function(g)
    s:acquire()
    local handles, served = {}, {}
    for i = 1, MANY // 10 do
      handles[i] = g:spawn(function()
        local _ <close> = s:acquire()
        served[#served + 1] = i
      end)
    end
    task.yield()
    for i = 1, #handles do if i % 100 ~= 0 then handles[i]:cancel() end end
    s:release()
    for i = 100, #handles, 100 do handles[i]:join() end
    t.eq(#served, #handles // 100)
    t.eq(served[1], 100)
    t.eq(served[#served], #served * 100)
  end)
  t.eq(s:available(), 1)
end)

T.test("memory comes back", function(t)
  collectgarbage()
  collectgarbage()
  local before = core.stats().memory
  for _ = 1, 3 do
    task.group(function(g)
      for i = 1, MANY // 10 do g:spawn(function() task.sleep(0) return { i } end) end
    end)
  end
  collectgarbage()
  collectgarbage()
  local grown = core.stats().memory - before
  t.ok(grown < 1 << 20, grown) -- idle threads are kept for the next tasks, up to 256
end)

T.done()
