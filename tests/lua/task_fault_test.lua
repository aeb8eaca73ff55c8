-- Shortage of memory: the first, second, third … allocation of a run fails, until a run needs no more.
-- Whatever was under way: no crash, no hang, nothing left behind; at most an error that says so.
-- timeout: 180
local T = require "harness"
local sluice = require "sluice"
local core = require "sluice.core.task"

local task = sluice.task

local function closer(f) return setmetatable({}, { __close = f }) end

-- An error that speaks of memory, itself or one that it lists.
local function speaks_of_memory(err)
  if type(err) ~= "table" then return tostring(err):find "not enough memory" ~= nil end
  if err.kind == "memory" then return true end
  for _, other in ipairs(err.also or {}) do
    if speaks_of_memory(other) then return true end
  end
  return false
end

local function settled(before)
  for _ = 1, 50 do
    local now = core.census()
    if now.tasks <= before.tasks and now.handles <= before.handles and now.deadlines <= before.deadlines then
      return true
    end
    task.yield()
  end
  return false
end

local function sweep(name, scenario)
  T.test(name, function(t)
    if not core.fail_allocation then t.skip "this build has no hook for it (make MODE=asan)" end
    scenario() -- everything is loaded, every string made
    collectgarbage()
    local before, n, raised = core.census(), 0, 0
    repeat
      n = n + 1
      collectgarbage "stop" -- the same allocations each time
      core.fail_allocation(n)
      local ok, err = pcall(task.group, scenario)
      local fired = core.fail_allocation(0)
      collectgarbage "restart"
      if not ok then
        raised = raised + 1
        if not speaks_of_memory(err) then t.eq(err, "an error about memory", "allocation " .. n) end
      end
      if not settled(before) then
        collectgarbage()
        collectgarbage()
        if not settled(before) then t.eq(core.census(), before, "allocation " .. n) end
      end
    until not fired
    t.ok(raised > 0, "it never mattered")
    scenario()
    collectgarbage()
    collectgarbage()
    t.log(("%d allocations, %d of them raised"):format(n, raised))
  end)
end

sweep("spawn, join, results", function()
  task.group(function(g)
    local handles = {}
    for i = 1, 4 do
      handles[i] = g:spawn(function(...)
        task.sleep(0)
        return ..., { i }
      end, i, "x")
    end
    for i = 1, 4 do assert(handles[i]:join() == i) end
    return table.unpack(handles)
  end)
end)

sweep("cancelling", function()
  local unwound = 0
  task.group(function(g)
    local handles = {}
    for i = 1, 4 do
      handles[i] = g:spawn(function()
        local _ <close> = closer(function() unwound = unwound + 1 end)
        task.group(function(inner)
          inner:spawn(task.sleep, 600)
          task.sleep(600)
        end)
      end)
    end
    task.sleep(0)
    handles[2]:cancel()
    pcall(handles[2].join, handles[2])
    g:cancel()
  end)
  assert(unwound == 4)
end)

sweep("failures, and those that come after them", function()
  local ok, err = pcall(task.group, function(g)
    for i = 1, 3 do
      g:spawn(function()
        local _ <close> = closer(function() error({ i }, 0) end)
        task.sleep(600)
      end)
    end
    task.sleep(0)
    error({ "first" }, 0)
  end)
  assert(not ok)
  if err[1] ~= "first" then error(err, 0) end
  if #err.also ~= 3 then error(err.also[1], 0) end
  for _, later in ipairs(err.also) do if type(later) ~= "table" or later.kind then error(later, 0) end end
end)

sweep("coroutines that wait, and stop inside scopes", function()
  local function numbers()
    return coroutine.wrap(function()
      for i = 1, 3 do
        task.deadline(50, function()
          task.sleep(0)
          task.group(function(g)
            local h = g:spawn(function() task.sleep(0) return i end)
            coroutine.yield(h:join())
          end)
        end)
      end
    end)
  end
  task.group(function(g)
    g:spawn(function() for i in numbers() do assert(i) task.sleep(0) end end)
    g:spawn(function() task.deadline(20, numbers()) end) -- never finished
    local co = coroutine.create(function() return coroutine.resume(coroutine.create(task.sleep), 0) end)
    local ok, inner_ok, err = coroutine.resume(co)
    if not ok then error(inner_ok, 0) end
    if not inner_ok then error(err, 0) end
  end)
end)

sweep("a coroutine that is cancelled while it waits", function()
  local closed = 0
  local ok, err = pcall(task.deadline, 0.0005, function()
    local gen = coroutine.wrap(function()
      local _ <close> = closer(function() closed = closed + 1 end)
      coroutine.wrap(function() task.sleep(600) end)()
    end)
    gen()
  end)
  assert(not ok)
  if err.kind ~= "timeout" then error(err, 0) end
  assert(closed == 1)
end)

sweep("semaphores and channels", function()
  local s, c, got = task.semaphore(1), task.channel(2), 0
  task.group(function(g)
    for i = 1, 3 do
      g:spawn(function()
        local _ <close> = s:acquire()
        task.sleep(0)
        c:send(i)
      end)
    end
    g:spawn(function()
      while got < 3 do
        local item = c:receive(5)
        if item then got = got + 1 else error("timeout", 0) end
      end
    end)
    if c:receive(0) then got = got + 1 end
  end)
  assert(got == 3)
end)

sweep("all, race, map", function()
  local a, b = task.all { function() task.sleep(0) return 1 end, function() return 2 end }
  assert(a + b == 3)
  local _ = task.race { function() task.sleep(0.002) end, function() task.sleep(0) return "won" end }
  local list = task.map({ 1, 2, 3 }, function(i) task.sleep(0) return i end, { concurrency = 2 })
  assert(#list == 3)
  local i = 0
  list = task.map(function() i = i + 1 return i < 4 and i or nil end, function(x) return x end, { settle = true })
  for _, outcome in ipairs(list) do if not outcome.ok then error(outcome.err, 0) end end
end)

sweep("deadlines and shields", function()
  local ok, err = pcall(task.deadline, 0.0005, function()
    local _ <close> = closer(function() task.shield(1, task.sleep, 0) end)
    task.sleep(600)
  end)
  assert(not ok)
  if err.kind ~= "timeout" then error(err, 0) end
end)

sweep("xpcall and its handlers", function()
  local ok, err = xpcall(function()
    task.sleep(0)
    error({ "x" }, 0)
  end, function(e) return { e } end)
  assert(not ok)
  if type(err) ~= "table" or type(err[1]) ~= "table" or err[1].kind then error(err[1] and err[1].kind and err[1] or err, 0) end
end)

sweep("the list of tasks, the census, a deadlock", function()
  task.group(function(g)
    local c = task.channel(1)
    g:spawn(function() c:receive() end)
    task.sleep(0)
    assert(#core.tasks() >= 2)
    core.stats()
    g:cancel()
  end)
  local ok, err = pcall(function() task.channel(1):receive() end)
  assert(not ok)
  if err.kind ~= "deadlock" then error(err, 0) end
end)

T.done()
