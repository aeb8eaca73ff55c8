-- Groups: what they wait for, what they return, which error they raise, and that nothing outlives them.
local T = require "harness"
local sluice = require "sluice"

local task = sluice.task

local function closer(f) return setmetatable({}, { __close = f }) end

T.test("returns what its function returns", function(t)
  t.eq(table.pack(task.group(function() return 1, nil, "c", nil end)), { 1, nil, "c", nil, n = 4 })
  t.eq(select("#", task.group(function() end)), 0)
  t.raises("argument 1 must be a function", function()
    task.group(nil)
  end)
end)

T.test("its function gets the group, and only what is meant for it", function(t)
  local seen
  task.group(function(g)
    seen = g
    t.raises("only for the code that made the scope", g.wait, g)
    t.raises("only for the code that made the scope", g.run, g, function() end)
    t.raises("only for the code that made the scope", g.finish, g)
  end)
  t.raises("has ended", seen.spawn, seen, function() end)
  t.raises("has ended", seen.run, seen, function() end)
  seen:cancel() -- of what has ended: nothing to do
  t.ok(seen:cancelled())
end)

T.test("waits for its tasks", function(t)
  local log = {}
  task.group(function(g)
    for i = 3, 1, -1 do
      g:spawn(function() task.sleep(i * 0.005) log[#log + 1] = i end)
    end
    log[#log + 1] = "body"
  end)
  t.eq(log, { "body", 1, 2, 3 })
end)

T.test("tasks may spawn into the group they are in, also after its function has returned", function(t)
  local count = 0
  task.group(function(g)
    local function branch(depth)
      count = count + 1
      task.yield()
      if depth > 0 then
        g:spawn(branch, depth - 1)
        g:spawn(branch, depth - 1)
      end
    end
    g:spawn(branch, 6)
  end)
  t.eq(count, 127)
end)

T.test("arguments reach the task, nils included", function(t)
  task.group(function(g)
    local h = g:spawn(function(...) return select("#", ...), ... end, nil, 2, nil)
    t.eq(table.pack(h:join()), { 3, nil, 2, nil, n = 4 })
    t.raises("function expected", g.spawn, g, 42)
    t.raises("function expected", g.spawn, g, setmetatable({}, { __call = print }))
  end)
end)

-- trio test_child_crash_wakes_parent
T.test("a task that fails wakes its parent", function(t)
  local err = t.raises("^crash$", task.group, function(g)
    g:spawn(function() error("crash", 0) end)
    task.sleep(600)
  end)
  t.eq(err, "crash")
end)

-- trio test_two_child_crashes, in the shape of one error that lists the others
T.test("the first failure is raised, later ones are in `also`", function(t)
  local first = setmetatable({ n = 1 }, { __tostring = function() return "first" end })
  local err = t.raises("first", task.group, function(g)
    g:spawn(function()
      local _ <close> = closer(function() error("while unwinding", 0) end)
      task.sleep(600)
    end)
    g:spawn(function() error(first, 0) end)
    task.sleep(600)
  end)
  t.ok(rawequal(err, first))
  t.eq(err.also, { "while unwinding" })
end)

T.test("the body's own failure comes first when it was first", function(t)
  local err = t.raises("body", task.group, function(g)
    g:spawn(function()
      local _ <close> = closer(function() error({ kind = "x" }, 0) end)
      task.sleep(600)
    end)
    task.yield()
    error(setmetatable({}, { __tostring = function() return "body" end }), 0)
  end)
  t.eq(err.also, { { kind = "x" } })
end)

T.test("a task's failure comes first when it was first, the body's then is in `also`", function(t)
  local err = t.raises("task", task.group, function(g)
    local _ <close> = closer(function() error("body, unwinding", 0) end)
    g:spawn(function() error(setmetatable({}, { __tostring = function() return "task" end }), 0) end)
    task.sleep(600)
  end)
  t.eq(err.also, { "body, unwinding" })
end)

T.test("an error that a join raises again is listed once", function(t)
  local failure = { code = 7 }
  local ok, err = pcall(task.group, function(g)
    local h = g:spawn(function() error(failure, 0) end)
    task.shield(1, function() pcall(task.sleep, 0) end)
    h:join()
  end)
  t.eq(ok, false)
  t.ok(rawequal(err, failure))
  t.eq(err, { code = 7 }, "no `also`")
end)

T.test("nested groups gather their errors in one list", function(t)
  local function failing(name)
    return function()
      local _ <close> = closer(function() error(setmetatable({ name = name }, {}), 0) end)
      task.sleep(600)
    end
  end
  local ok, err = pcall(task.group, function(g)
    g:spawn(function()
      task.group(function(inner)
        inner:spawn(failing "inner")
        inner:spawn(function() error({ name = "cause" }, 0) end)
      end)
    end)
    g:spawn(failing "outer")
  end)
  t.eq(ok, false)
  t.eq(err, { name = "cause", also = { { name = "inner" }, { name = "outer" } } })
end)

T.test("errors of any type", function(t)
  for _, value in ipairs { "text", 42, true, print } do
    local ok, err = pcall(task.group, function(g) g:spawn(function() error(value, 0) end) end)
    t.eq(ok, false)
    t.ok(rawequal(err, value), tostring(value))
  end
  local ok, err = pcall(task.group, function(g) g:spawn(function() error() end) end)
  t.eq(ok, false)
  t.eq(err, nil)
end)

T.test("siblings are cancelled, and have unwound, before the error comes out", function(t)
  local log = {}
  t.raises("boom", task.group, function(g)
    for i = 1, 3 do
      g:spawn(function()
        local _ <close> = closer(function()
          task.shield(1, task.sleep, 0.002 * i)
          log[#log + 1] = i
        end)
        task.sleep(600)
      end)
    end
    task.yield()
    error "boom"
  end)
  t.eq(log, { 1, 2, 3 })
end)

T.test("group:cancel ends the tasks and is no error; what the body was about to return is not", function(t)
  local ended = 0
  t.eq(select("#", task.group(function(g)
    for _ = 1, 3 do
      g:spawn(function()
        local _ <close> = closer(function() ended = ended + 1 end)
        task.sleep(600)
      end)
    end
    task.yield()
    g:cancel()
    t.ok(g:cancelled())
    task.sleep(600)
    return "never"
  end)), 0)
  t.eq(ended, 3)
  t.eq(task.group(function(g) g:cancel() return "done already" end), "done already")
end)

T.test("a cancelled group starts nothing new", function(t)
  local ran = false
  task.group(function(g)
    g:cancel()
    t.raises("cancelled", g.spawn, g, function() ran = true end)
  end)
  t.eq(ran, false)
end)

T.test("a task spawned before the cancellation begins, and is stopped at its first wait", function(t)
  local log = {}
  task.group(function(g)
    g:spawn(function() log[1] = "began" task.yield() log[2] = "went on" end)
    g:cancel()
  end)
  t.eq(log, { "began" })
end)

T.test("what was cancelled by its handle is no failure of the group", function(t)
  local reached
  task.group(function(g)
    local h = g:spawn(task.sleep, 600)
    task.yield()
    h:cancel()
    local err = t.raises("cancelled", h.join, h)
    t.match(err.message, "by request")
    reached = true
  end)
  t.ok(reached)
  -- but a join that is not expected to raise does
  t.raises("cancelled", task.group, function(g)
    local h = g:spawn(task.sleep, 600)
    h:cancel()
    h:join()
  end)
end)

T.test("handles tell their state", function(t)
  task.group(function(g)
    local h = g:spawn(task.sleep, 0.001)
    t.match(tostring(h), "^task %d+ %(ready, spawned at [^)]*task_group_test.lua:%d+%)$")
    t.eq(h:done(), false)
    task.yield()
    t.match(tostring(h), "%(waiting")
    h:join()
    t.eq(h:done(), true)
    t.match(tostring(h), "%(done")
    h:cancel() -- too late to matter
    h:join()
  end)
end)

T.test("thousands of nested groups, each in a task of the one outside", function(t)
  local depth, deepest = T.slow and 2000 or 20000, 0
  local function down(n)
    deepest = math.max(deepest, n)
    if n == depth then return end
    task.group(function(g) g:spawn(down, n + 1) end)
  end
  down(1)
  t.eq(deepest, depth)
end)

T.test("a cancellation reaches through thousands of nested groups", function(t)
  local depth = T.slow and 2000 or 20000
  local started, unwound = task.semaphore(1), 0
  started:acquire()
  local function down(n)
    local _ <close> = closer(function() unwound = unwound + 1 end)
    task.group(function(g)
      if n == depth then
        started:release()
        task.sleep(600)
      end
      g:spawn(down, n + 1)
    end)
  end
  task.group(function(g)
    g:spawn(down, 1)
    started:acquire()
    g:cancel()
  end)
  t.eq(unwound, depth)
end)

T.test("a yield in __close while returning keeps the results", function(t)
  -- lua testes/locals.lua
  local function wait_on_close(x) return closer(function() task.sleep(0.001) return x end) end
  local function f(...)
    local _ <close> = wait_on_close(1)
    local _ <close> = wait_on_close(2)
    return ...
  end
  t.eq(table.pack(f(1, nil, 3, nil)), { 1, nil, 3, nil, n = 4 })
  t.eq(table.pack(task.group(function() return f("a", "b") end)), { "a", "b", n = 2 })
  local function tail(n)
    local _ <close> = wait_on_close(n)
    if n == 0 then return "end", nil, "more" end
    return tail(n - 1)
  end
  t.eq(table.pack(tail(5)), { "end", nil, "more", n = 3 })
  local trace = {}
  t.raises("^second$", function()
    local _ <close> = closer(function(_, err) task.yield() trace[#trace + 1] = err end)
    local _ <close> = closer(function(_, err) trace[#trace + 1] = err task.yield() error("second", 0) end)
    error("first", 0)
  end)
  t.eq(trace, { "first", "second" })
end)

T.test("a wait in __close on leaving a loop with break and goto", function(t)
  local log = {}
  local function guard(name) return closer(function() task.yield() log[#log + 1] = name end) end
  for i = 1, 3 do
    local _ <close> = guard(i)
    if i == 2 then break end
  end
  do
    local n = 0
    ::again::
    n = n + 1
    local _ <close> = guard("g" .. n)
    if n < 2 then goto again end
  end
  t.eq(log, { 1, 2, "g1", "g2" })
end)

-- effection scope.test.ts "runs destructors in reverse order and in series"
T.test("closes in reverse order and in series", function(t)
  local log = {}
  local function resource(name)
    return closer(function()
      log[#log + 1] = name .. " begins"
      task.sleep(0.002)
      log[#log + 1] = name .. " ends"
    end)
  end
  task.group(function()
    local _ <close> = resource "first"
    local _ <close> = resource "second"
  end)
  t.eq(log, { "second begins", "second ends", "first begins", "first ends" })
end)

-- effection scope.test.ts "still closes open resources whenever something errors"
T.test("closes what is open when something fails, also when closing fails", function(t)
  local log = {}
  t.raises("^third$", task.group, function(g)
    g:spawn(function()
      local _ <close> = closer(function() log[#log + 1] = "task" end)
      task.sleep(600)
    end)
    task.yield()
    local _ <close> = closer(function() log[#log + 1] = "body" end)
    local _ <close> = closer(function() log[#log + 1] = "fails" error("third", 0) end)
    error("second", 0)
  end)
  t.eq(log, { "fails", "body", "task" })
end)

T.done()
