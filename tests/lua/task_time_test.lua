-- Time: who wakes when, in which order, and that nobody starves.
local T = require "harness"
local sluice = require "sluice"

local task = sluice.task

T.test("sleepers wake in the order of their times", function(t)
  local log = {}
  task.group(function(g)
    for _, ms in ipairs { 7, 3, 9, 1, 5, 0, 8, 2, 6, 4 } do
      g:spawn(function() task.sleep(ms / 1000) log[#log + 1] = ms end)
    end
  end)
  t.eq(log, { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 })
end)

T.test("sleepers of the same time wake in the order they lay down", function(t)
  local log = {}
  task.group(function(g)
    for i = 1, 300 do g:spawn(function() task.sleep(0) log[#log + 1] = i end) end
  end)
  for i = 1, 300 do if log[i] ~= i then t.eq(log[i], i) end end
  t.eq(#log, 300)
end)

T.test("never early; and not much late", function(t)
  local worst = 0
  for i = 1, 20 do
    local want = i % 5 * 0.001
    local started = task.now()
    task.sleep(want)
    local took = task.now() - started
    t.ok(took >= want - 1e-6, took)
    worst = math.max(worst, took - want)
  end
  -- A loaded machine may hold back the whole process: a second is far more than a wrong timer costs.
  t.ok(worst < 1, worst)
end)

T.test("a long sleep does not hold up a short one that comes later", function(t)
  task.group(function(g)
    g:spawn(task.sleep, 600)
    task.sleep(0.001)
    task.sleep(0.001)
    g:cancel()
  end)
  t.eq(task.left(), nil)
end)

T.test("arguments of sleep", function(t)
  for _, bad in ipairs { -1, 0 / 0, math.huge, -math.huge, 1e10 } do
    t.raises("bad argument #1 to 'sleep' %(seconds expected: a finite number, 0 or more%)",
      function() task.sleep(bad) end)
  end
  t.raises("number expected, got table", task.sleep, {})
  t.raises("number expected, got no value", task.sleep)
  task.sleep("0", "the rest is ignored")
end)

T.test("yield lets everybody have a turn", function(t)
  local log = {}
  task.group(function(g)
    for i = 1, 3 do
      g:spawn(function()
        for _ = 1, 3 do
          log[#log + 1] = i
          task.yield()
        end
      end)
    end
  end)
  t.eq(log, { 1, 2, 3, 1, 2, 3, 1, 2, 3 })
end)

T.test("tasks that only hand on to each other do not starve timers", function(t)
  local rounds, over = 0, false
  task.group(function(g)
    local a, b = task.channel(1), task.channel(1)
    g:spawn(function()
      while not over do
        a:receive()
        b:send(true)
      end
      a:close()
    end)
    g:spawn(function()
      while pcall(a.send, a, true) do
        b:receive()
        rounds = rounds + 1
        if rounds > 1e8 then error "the timer never came" end
      end
    end)
    task.sleep(0.01)
    over = true
  end)
  t.ok(rounds > 0)
end)

T.test("a task that never stops spawning does not starve timers", function(t)
  local count, over = 0, false
  task.group(function(g)
    local function again()
      count = count + 1
      if not over then g:spawn(again) end
    end
    g:spawn(again)
    task.sleep(0.005)
    over = true
  end)
  t.ok(count > 0)
end)

T.test("nor the network", function(t)
  local over = false
  task.group(function(g)
    local server <close> = sluice.server.listen { handler = function(_, res) res:send(200, {}, "served") end }
    local a = task.channel(1)
    g:spawn(function() while not over do a:send(true) end a:close() end)
    g:spawn(function() for _ in a:items() do end end) -- luacheck: ignore 542
    local function spins() if not over then g:spawn(spins) end end
    g:spawn(spins)
    for _ = 1, 5 do
      t.eq(sluice.http.request { url = server.url, timeout = { total = 20 } }.body, "served")
    end
    over = true
  end)
end)

T.test("a deadline inside a task that keeps others busy is in time", function(t)
  local started = task.now()
  t.raises("timeout", task.deadline, 0.005, function()
    while true do task.yield() end
  end)
  t.ok(task.now() - started >= 0.0049)
end)

T.test("now() does not go back", function(t)
  local last = task.now()
  for _ = 1, 10000 do
    local now = task.now()
    if now < last then t.ok(now >= last) end
    last = now
  end
  t.ok(last > 0)
end)

T.done()
