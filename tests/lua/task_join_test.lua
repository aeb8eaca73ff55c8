-- Spawning and joining: results, errors, order, limits. Cases after OpenResty's t/093-uthread-spawn.t
-- and t/096-uthread-kill.t, told in groups.
local T = require "harness"
local sluice = require "sluice"

local task = sluice.task

local function in_group(f)
  return function(t) task.group(function(g) f(t, g) end) end
end

T.test("simple spawn and join", in_group(function(t, g)
  local log = {}
  local h = g:spawn(function() log[#log + 1] = "hello in the task" return "result" end)
  log[#log + 1] = "after spawn: it has not begun"
  t.eq(h:join(), "result")
  t.eq(log, { "after spawn: it has not begun", "hello in the task" })
end))

T.test("two tasks, sleeping differently", in_group(function(t, g)
  local log = {}
  local function f(name, s)
    return function()
      log[#log + 1] = name .. " begins"
      task.sleep(s)
      log[#log + 1] = name .. " ends"
      return name
    end
  end
  local a, b = g:spawn(f("a", 0.006)), g:spawn(f("b", 0.002))
  t.eq(a:join(), "a")
  t.eq(b:join(), "b")
  t.eq(log, { "a begins", "b begins", "b ends", "a ends" })
end))

T.test("a task without a wait, and one that returns nothing", in_group(function(t, g)
  t.eq(select("#", g:spawn(function() end):join()), 0)
  t.eq(table.pack(g:spawn(function() return nil, nil end):join()), { n = 2 })
  t.eq(g:spawn(math.max, 3, 9, 4):join(), 9, "a C function")
  t.raises("number expected", task.group, function(inner) inner:spawn(math.floor, "x") end)
end))

T.test("join twice, and by several tasks", function(t)
  task.group(function(g)
    local object = {}
    local h = g:spawn(function() task.yield() return 1, object, nil end)
    local joiners = {}
    for i = 1, 5 do joiners[i] = g:spawn(function() return h:join() end) end
    for _ = 1, 2 do
      local got = table.pack(h:join())
      t.eq(got.n, 3)
      t.ok(rawequal(got[2], object))
    end
    for i = 1, 5 do t.eq(table.pack(joiners[i]:join()), { 1, object, nil, n = 3 }) end
  end)
end)

T.test("joining what failed raises its error, each time", function(t)
  local failure, h = { why = "it failed" }, nil
  local ok = pcall(task.group, function(g)
    h = g:spawn(function() error(failure, 0) end)
    task.sleep(600)
  end)
  t.eq(ok, false)
  for _ = 1, 3 do
    local joined, err = pcall(h.join, h)
    t.eq(joined, false)
    t.ok(rawequal(err, failure))
  end
  task.group(function(g) -- also where nobody of the failed group is
    g:spawn(function() t.eq(select(2, pcall(h.join, h)), failure) end)
  end)
end)

T.test("joining what was cancelled raises `cancelled`, and that can be caught", in_group(function(t, g)
  local h = g:spawn(task.sleep, 600)
  h:cancel()
  for _ = 1, 2 do t.raises("cancelled", h.join, h) end
  task.yield()
end))

T.test("a task cannot join itself", in_group(function(t, g)
  local h
  h = g:spawn(function()
    t.raises("cannot join itself", function() h:join() end)
    t.raises("cannot join itself", coroutine.wrap(function() h:join() end))
    return "and goes on"
  end)
  t.eq(h:join(), "and goes on")
end))

T.test("join wakes when the task ends, whatever group it is in", function(t)
  local h, log = nil, {}
  task.group(function(outer)
    outer:spawn(function()
      task.group(function(inner) h = inner:spawn(function() task.sleep(0.002) return "inner" end) end)
      log[#log + 1] = "group left"
    end)
    task.yield()
    task.yield()
    log[#log + 1] = h:join()
  end)
  table.sort(log)
  t.eq(log, { "group left", "inner" })
end)

T.test("a cancelled join leaves nothing behind, the task goes on", in_group(function(t, g)
  local go = task.semaphore(1)
  go:acquire()
  local h = g:spawn(function() go:acquire() return "late" end)
  for _ = 1, 3 do t.raises("timeout", task.deadline, 0.001, h.join, h) end
  local joiner = g:spawn(h.join, h)
  task.yield()
  joiner:cancel()
  t.raises("cancelled", joiner.join, joiner)
  go:release()
  t.eq(h:join(), "late")
end))

T.test("grandchildren, joined across", in_group(function(t, g)
  local h = g:spawn(function()
    return task.group(function(inner)
      local child = inner:spawn(function() task.yield() return "from below" end)
      return child:join()
    end)
  end)
  t.eq(h:join(), "from below")
end))

T.test("many results, many arguments", in_group(function(t, g)
  for _, n in ipairs { 1, 10, 249, 250, 251, 5000, 100000 } do
    local list = {}
    for i = 1, n do list[i] = i end
    local h = g:spawn(function(...) task.yield() return ... end, table.unpack(list, 1, n))
    for _ = 1, 2 do
      local got = table.pack(h:join())
      t.eq(got.n, n)
      t.eq(got[n], n)
    end
  end
end))

T.test("too many results are an error, not a crash", in_group(function(t, g)
  local list = {}
  for i = 1, 600000 do list[i] = true end
  local h = g:spawn(function() return table.unpack(list) end)
  t.eq(select("#", h:join()), 600000)
  -- where the stack is more than half full already
  local function join_with(...) return select("#", ...) + select("#", h:join()) end
  local function resume_with(...)
    return select("#", ...) + select("#", coroutine.wrap(function() return table.unpack(list) end)())
  end
  t.raises("too many results to join", function() join_with(table.unpack(list, 1, 450000)) end)
  t.raises("too many results to join", coroutine.wrap(join_with), table.unpack(list, 1, 450000))
  t.raises("too many results to resume", function() resume_with(table.unpack(list, 1, 450000)) end)
  t.eq(select("#", h:join()), 600000, "it is still there")
end))

T.test("a stack overflow in a task is its error", function(t)
  local function endless() return 1 + endless() end
  local err = t.raises("stack overflow", task.group, function(g) g:spawn(endless) end)
  t.eq(type(err), "string")
  local function through_pcall() return select(2, pcall(through_pcall)) end
  task.group(function(g) t.match(g:spawn(through_pcall):join(), "overflow") end)
  local function through_coroutines() return coroutine.wrap(through_coroutines)() end
  t.raises("overflow", task.group, function(g) g:spawn(through_coroutines) end)
end)

T.test("threads are used again, and bring nothing with them", in_group(function(t, g)
  local weak = setmetatable({}, { __mode = "v" })
  local function with_locals(i)
    local big = { i }
    weak[i] = big
    task.yield()
    return (big[1] and nil)
  end
  local handles = {}
  for i = 1, 100 do handles[i] = g:spawn(with_locals, i) end
  for i = 1, 100 do handles[i]:join() end
  collectgarbage()
  collectgarbage()
  local alive = 0
  for _ in pairs(weak) do alive = alive + 1 end
  t.eq(alive, 0)
  for _ = 1, 300 do
    t.eq(select("#", g:spawn(function(...) return ... end):join()), 0)
    t.eq(coroutine.isyieldable(), true)
  end
end))

T.test("results live as long as the handle", function(t)
  local weak = setmetatable({}, { __mode = "v" })
  task.group(function(g)
    local h <close> = setmetatable({ g:spawn(function() return { "result" } end) }, { __close = function() end })
    h[1]:join()
    weak[1] = h[1]:join()
    collectgarbage()
    t.eq(weak[1], { "result" })
  end)
  collectgarbage()
  collectgarbage()
  t.eq(weak[1], nil)
end)

T.test("tasks run in the order they were spawned, and woken in the order of what wakes them", function(t)
  local log = {}
  task.group(function(g)
    for i = 1, 600 do g:spawn(function() log[#log + 1] = i end) end
  end)
  t.eq(#log, 600)
  for i = 1, 600 do if log[i] ~= i then t.eq(log[i], i) end end
end)

T.test("spawning from within a coroutine, a metamethod, a __close and a callback", in_group(function(t, g)
  local handles = {}
  local function add(name) handles[#handles + 1] = g:spawn(function() return name end) end
  coroutine.wrap(function() add "coroutine" end)()
  local _ = setmetatable({}, { __index = function() add "__index" end }).x
  do local _ <close> = setmetatable({}, { __close = function() add "__close" end }) end
  local _ = ("x"):gsub("x", function() add "gsub" end)
  table.sort({ 2, 1 }, function(a, b) if #handles == 4 then add "sort" end return a < b end)
  local names = {}
  for i, h in ipairs(handles) do names[i] = h:join() end
  t.eq(names, { "coroutine", "__index", "__close", "gsub", "sort" })
end))

T.done()
