-- Deadlocks: found at once, told task by task, raised where they can be handled.
local T = require "harness"
local sluice = require "sluice"

local task = sluice.task

local HERE = debug.getinfo(1, "S").short_src

local function line() return ("%s:%d"):format(HERE, debug.getinfo(2, "l").currentline) end

-- The line of the message that speaks of `what`.
local function about(message, what)
  for text in message:gmatch "[^\n]+" do
    if text:find(what, 1, true) then return text end
  end
end

T.test("a semaphore nobody will give back", function(t)
  local s = task.semaphore(1)
  s:acquire()
  local here
  local err = t.raises("deadlock", function() here = line() s:acquire() end)
  t.match(err.message, "^every task waits for another, and nothing is left that could wake one\n")
  local told = about(err.message, "a permit of a semaphore")
  t.match(told, "^  task %d+ waiting on a permit of a semaphore at ")
  t.ok(told:find(here, 1, true), told)
  t.match(told, "spawned at the start$")
  t.match(tostring(err), "^deadlock: every task waits")
  s:release()
  t.ok(s:acquire(), "it can be used again")
end)

T.test("channels, empty and full", function(t)
  local c = task.channel(1)
  t.raises("deadlock", function() c:receive() end)
  t.raises("deadlock", function() for _ in c:items() do error "got one" end end)
  c:send(1)
  t.raises("deadlock", function() c:send(2) end)
  t.eq(#c, 1)
end)

T.test("the root waits for its group: the error comes out of the group, after all have ended", function(t)
  local c, unwound, spawned, waited = task.channel(1), 0, nil, nil
  local err = t.raises("deadlock", task.group, function(g)
    for _ = 1, 3 do
      g:spawn(function() spawned = spawned or line()
        local _ <close> = setmetatable({}, { __close = function() unwound = unwound + 1 end })
        waited = line() c:receive()
      end)
    end
  end)
  t.eq(unwound, 3)
  t.ok(about(err.message, "the tasks of its group"), "the root is listed")
  local told = about(err.message, "an item in a channel")
  t.ok(told:find(waited, 1, true), told)
  t.match(told, "spawned at " .. HERE:gsub("%p", "%%%0") .. ":%d+$")
  local _, count = err.message:gsub("an item in a channel", "")
  t.eq(count, 3, "each task")
end)

T.test("groups in groups, nobody but the innermost can be told", function(t)
  local c = task.channel(1)
  local err = t.raises("deadlock", task.group, function(g)
    g:spawn(function()
      task.group(function(inner)
        inner:spawn(function() task.group(function(last) last:spawn(c.receive, c) end) end)
      end)
    end)
  end)
  t.match(err.message, "an item in a channel")
end)

T.test("tasks that join each other", function(t)
  local err = t.raises("deadlock", task.group, function(g)
    local a, b
    a = g:spawn(function() b:join() end)
    b = g:spawn(function() a:join() end)
  end)
  t.match(err.message, "the end of a task")
end)

T.test("two locks in opposite order", function(t)
  local a, b = task.mutex(), task.mutex()
  local function both(x, y)
    return function()
      local _ <close> = x:acquire()
      task.yield()
      local _ <close> = y:acquire()
    end
  end
  t.raises("deadlock", task.all, { both(a, b), both(b, a) })
  t.eq(a:available(), 1, "and both are given back")
  t.eq(b:available(), 1)
end)

T.test("inside a coroutine", function(t)
  local c, here = task.channel(1), nil
  local err = t.raises("deadlock", coroutine.wrap(function()
    coroutine.wrap(function() here = line() c:receive() end)()
  end))
  t.ok(err.message:find(here, 1, true), err.message)
end)

T.test("it can be caught, and handled", function(t)
  local c = task.channel(1)
  local log = {}
  task.group(function(g)
    g:spawn(function()
      local ok, err = pcall(c.receive, c)
      log[1] = not ok and err.kind
      c:send "now there is one"
    end)
    g:spawn(function() task.yield() log[2] = c:receive() end)
  end)
  t.eq(log, { "deadlock", "now there is one" })
end)

T.test("found again and again", function(t)
  local c = task.channel(1)
  for _ = 1, 200 do t.raises("deadlock", c.receive, c) end
end)

T.test("many tasks: the first are listed, the rest counted", function(t)
  local c = task.channel(1)
  local err = t.raises("deadlock", task.group, function(g)
    for _ = 1, 50 do g:spawn(c.receive, c) end
  end)
  local _, count = err.message:gsub("waiting on", "")
  t.eq(count, 16)
  t.match(err.message, "and 35 more$")
  t.ok(#err.message < 4096)
end)

T.test("whoever waits for time is no deadlock", function(t)
  local c = task.channel(1)
  t.eq(select(2, c:receive(0.002)), "timeout")
  t.raises("timeout", task.deadline, 0.002, c.receive, c)
  task.group(function(g)
    g:spawn(function() task.sleep(0.002) c:send "in time" end)
    t.eq(c:receive(), "in time")
  end)
  task.group(function(g) -- a deadline elsewhere will wake somebody
    local s = task.semaphore(1)
    s:acquire()
    g:spawn(function()
      pcall(task.deadline, 0.002, function() task.channel(1):receive() end)
      s:release()
    end)
    s:acquire()
  end)
end)

T.test("a shield whose grace runs is none either", function(t)
  local c = task.channel(1)
  local err
  task.group(function(g)
    g:spawn(function()
      local _ <close> = setmetatable({}, { __close = function(_, e) err = e end })
      task.shield(0.003, c.receive, c)
    end)
    task.yield()
    g:cancel()
  end)
  t.eq(err.kind, "cancelled")
end)

T.done()
