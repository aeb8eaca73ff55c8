-- Cancellation: where it is raised, what lets it pass, what holds it back, and that it cannot be lost.
-- Cases named after trio are those of its src/trio/_core/_tests/test_run.py.
local T = require "harness"
local sluice = require "sluice"

local task = sluice.task

local function closer(f) return setmetatable({}, { __close = f }) end

-- Runs f in a scope that is cancelled already; returns whether it got to its end, and its values.
local function precancelled(f)
  local outcome = table.pack(false)
  task.group(function(g)
    g:cancel()
    outcome = table.pack(true, f(g))
  end)
  return table.unpack(outcome, 1, outcome.n)
end

local function done_task(g)
  local h = g:spawn(function() return 1 end)
  h:join()
  return h
end

-- trio test_cancel_points: every primitive raises at its beginning, also when it would not have to wait.
local POINTS = {
  ["task.sleep"] = function() task.sleep(0) end,
  ["task.yield"] = function() task.yield() end,
  ["semaphore:acquire, free"] = function() task.semaphore(1):acquire() end,
  ["semaphore:acquire, timed"] = function() task.semaphore(1):acquire(1) end,
  ["channel:send, room"] = function() task.channel(1):send(1) end,
  ["channel:receive, there"] = function(c) c.full:receive() end,
  ["channel:receive, closed"] = function(c) c.closed:receive() end,
  ["channel:send, closed"] = function(c) c.closed:send(1) end,
  ["channel:items"] = function(c) local next_item, channel = c.full:items() next_item(channel) end,
  ["handle:join, done"] = function(c) c.done:join() end,
  ["group:spawn"] = function(c) c.group:spawn(print) end,
  ["task.group"] = function() task.group(function() end) end,
  ["task.all"] = function() task.all {} end,
  ["task.all of one"] = function() task.all { function() end } end,
  ["task.race"] = function() task.race { function() return 1 end } end,
  ["task.map"] = function() task.map({ 1 }, function() end) end,
  ["task.deadline"] = function() task.deadline(1, task.yield) end,
  ["in a coroutine"] = function() coroutine.wrap(task.yield)() end,
  ["in a metamethod"] = function() return setmetatable({}, { __index = function() task.yield() end }).x end,
  ["in an iterator"] = function() for _ in function() task.yield() end do error "a turn" end end,
}
for name, point in pairs(POINTS) do
  T.test("raises at its beginning: " .. name, function(t)
    local caught
    task.group(function(g)
      local full, closed = task.channel(1), task.channel(1)
      full:send "kept"
      closed:close()
      local cases = { full = full, closed = closed, done = done_task(g), group = g }
      task.group(function(inner)
        inner:cancel()
        cases.inner = inner
        local _ <close> = closer(function(_, err) caught = err end)
        point(cases)
      end)
      t.eq(#full, 1, "what raised did not happen")
    end)
    t.ok(caught, "nothing was raised")
    t.eq(caught.kind, "cancelled")
    t.eq(caught.message, "the task was cancelled: by request")
  end)
end

T.test("what does not wait works on in a cancelled scope", function(t)
  local ran = precancelled(function(g)
    t.ok(task.now() > 0)
    t.eq(task.left(), nil)
    local s = task.semaphore(2)
    t.eq(s:try_acquire(), true)
    s:release()
    local c = task.channel(1)
    c:close()
    t.eq(#c, 0)
    t.eq(g:cancelled(), true)
    t.eq(coroutine.wrap(function() coroutine.yield(5) end)(), 5)
    t.eq(select(2, pcall(error, "x", 0)), "x")
  end)
  t.ok(ran)
end)

-- Level-triggered: again and again, through whatever catches errors.
local CATCHERS = {
  pcall = function(f) return pcall(f) end,
  xpcall = function(f) return xpcall(f, function(e) return e end) end,
  ["xpcall with a handler that makes text of it"] = function(f) return xpcall(f, tostring) end,
  ["xpcall with debug.traceback"] = function(f) return xpcall(f, debug.traceback) end,
  ["xpcall with a handler that fails"] = function(f) return xpcall(f, function() error "handler" end) end,
  ["pcall in pcall"] = function(f) return pcall(pcall, pcall, f) end,
  ["xpcall in pcall"] = function(f) return pcall(xpcall, f, tostring) end,
  ["coroutine.resume"] = function(f) return coroutine.resume(coroutine.create(f)) end,
  ["coroutine.wrap in pcall"] = function(f) return pcall(coroutine.wrap(f)) end,
  ["sluice.try"] = function(f) return sluice.try(f) end,
  ["a coroutine three deep"] = function(f)
    return coroutine.resume(coroutine.create(function()
      return coroutine.resume(coroutine.create(function() return coroutine.resume(coroutine.create(f)) end))
    end))
  end,
  ["task.map with settle"] = function(f) return task.map({ 1 }, f, { settle = true }) end,
  ["task.race"] = function(f) return pcall(task.race, { f, f }) end,
}
for name, catch in pairs(CATCHERS) do
  T.test("cannot be caught in a cancelled scope: " .. name, function(t)
    local rounds, swallowed = 0, false
    t.raises({ kind = "timeout", phase = "deadline" }, task.deadline, 0.002, function()
      while rounds < 1000 do
        rounds = rounds + 1
        catch(function() task.sleep(600) end)
      end
      swallowed = true
    end)
    t.eq(swallowed, false)
    t.eq(rounds, 1, "a retry loop must not spin")
  end)
  T.test("nor where it was cancelled by its handle: " .. name, function(t)
    local rounds = 0
    task.group(function(g)
      local h = g:spawn(function()
        while rounds < 1000 do
          rounds = rounds + 1
          catch(function() task.sleep(600) end)
        end
      end)
      task.yield()
      h:cancel()
    end)
    t.eq(rounds, 1)
  end)
end

T.test("a pcall outside of the scope catches it, and the task goes on", function(t)
  local h
  local ok, err = pcall(task.group, function(g)
    h = g:spawn(task.sleep, 600)
    task.yield()
    h:cancel()
    h:join()
  end)
  t.eq(ok, false)
  t.eq(err.kind, "cancelled")
  task.yield() -- not cancelled itself
end)

T.test("an error of another kind can be caught while the scope is cancelled", function(t)
  local seen
  local ran = precancelled(function()
    local ok, err = pcall(error, { kind = "network" })
    seen = { ok, err.kind }
  end)
  t.ok(ran)
  t.eq(seen, { false, "network" })
end)

-- trio test_cancel_scope_precancelled
T.test("a scope cancelled before it is entered", function(t)
  local log = {}
  task.group(function(g)
    g:cancel()
    log[1] = "runs"
    local _ <close> = closer(function() log[#log + 1] = "closed" end)
    task.sleep(600)
    log[#log + 1] = "never"
  end)
  log[#log + 1] = "and the task outside goes on"
  t.eq(log, { "runs", "closed", "and the task outside goes on" })
end)

T.test("a deadline of nothing lets run what does not wait", function(t)
  t.eq(task.deadline(0, function() return "quick" end), "quick")
  t.raises({ kind = "timeout", phase = "deadline" }, task.deadline, 0, task.sleep, 600)
  t.raises({ kind = "timeout" }, task.deadline, 0, task.yield)
end)

-- trio test_timekeeping / test_cancel_scope timeouts
T.test("a deadline ends what it encloses, and says so once", function(t)
  local started = task.now()
  local err = t.raises({ kind = "timeout", phase = "deadline" }, task.deadline, 0.02, function()
    task.sleep(600)
  end)
  t.match(err.message, "not finished within 0.02 s")
  local took = task.now() - started
  t.ok(took >= 0.0199, took)
  t.eq(table.pack(task.deadline(5, function(...) return ... end, 1, nil)), { 1, nil, n = 2 })
  t.raises("number of seconds", task.deadline, -1, print)
  t.raises("number of seconds", task.deadline, 0 / 0, print)
  t.raises("number of seconds", task.deadline, "1", print)
  t.raises("must be a function", task.deadline, 1, nil)
  t.eq(task.deadline(math.huge, function() return task.left() ~= nil end), true)
end)

T.test("a deadline that passes while its body computes is found at the next wait", function(t)
  local log = {}
  t.raises("timeout", task.deadline, 0.001, function()
    local past = task.now() + 0.003
    while task.now() < past do log[1] = "computed" end
    task.yield()
    log[2] = "went on"
  end)
  t.eq(log, { "computed" })
  t.eq(task.deadline(0.001, function()
    local past = task.now() + 0.003
    while task.now() < past do log[1] = "computed" end
    return "in time enough"
  end), "in time enough")
end)

-- trio test_cancel_scope_nesting
T.test("nesting: the outer one wins over the inner, whatever the inner says", function(t)
  local log = {}
  local err = t.raises("timeout", task.deadline, 0.005, function()
    task.deadline(600, function()
      local _ <close> = closer(function(_, e) log[#log + 1] = e.kind end)
      task.sleep(600)
    end)
    log[#log + 1] = "between"
  end)
  t.match(err.message, "0.005 s")
  t.eq(log, { "cancelled" })
end)

T.test("nesting: the inner one ends alone", function(t)
  local log = {}
  task.deadline(600, function()
    log[1] = t.raises("timeout", task.deadline, 0.002, task.sleep, 600).message
    task.sleep(0.001)
    log[2] = "outer goes on"
  end)
  t.match(log[1], "0.002 s")
  t.eq(log[2], "outer goes on")
end)

T.test("nesting: cancelling the outer, then the inner one too", function(t)
  local log = {}
  task.group(function(outer)
    task.group(function(inner)
      outer:cancel()
      inner:cancel()
      local _ <close> = closer(function() log[1] = "unwound" end)
      task.sleep(600)
    end)
    log[2] = "never: the outer one is cancelled as well"
  end)
  t.eq(log, { "unwound" })
end)

T.test("nesting: two deadlines at the same time are one timeout, of the outer", function(t)
  local err = t.raises("timeout", task.deadline, 0.01, function()
    local ok, inner = pcall(task.deadline, task.left(), task.sleep, 600)
    return ok, inner
  end)
  t.match(err.message, "0.01 s")
end)

-- trio test_effective_deadline
T.test("left() is the nearest of all deadlines", function(t)
  t.eq(task.left(), nil)
  task.deadline(50, function()
    t.near(task.left(), 50, 0.5)
    task.deadline(20, function()
      t.near(task.left(), 20, 0.5)
      task.deadline(100, function() t.near(task.left(), 20, 0.5) end)
      task.group(function(g)
        g:spawn(function() t.near(task.left(), 20, 0.5) end)
      end)
      task.shield(7, function()
        t.near(task.left(), 27, 0.5, "a shield adds its grace")
        task.deadline(3, function() t.near(task.left(), 3, 0.5) end)
      end)
    end)
    t.near(task.left(), 50, 0.5)
    t.near(coroutine.wrap(function() return task.left() end)(), 50, 0.5)
  end)
  t.eq(task.left(), nil)
  task.deadline(0, function() t.eq(task.left(), 0) end)
end)

-- trio test_cancel_shielding
T.test("a shield holds cancellation back, from outside alone", function(t)
  local log = {}
  task.group(function(g)
    g:spawn(function()
      local _ <close> = closer(function() log[#log + 1] = "unwound" end)
      task.shield(600, function()
        task.sleep(0.005)
        log[#log + 1] = "shielded sleep done"
        t.raises("timeout", task.deadline, 0.001, task.sleep, 600)
        log[#log + 1] = "inner deadline counts"
      end)
      log[#log + 1] = "code behind it runs"
      task.yield()
      log[#log + 1] = "never"
    end)
    task.yield()
    g:cancel()
    log[#log + 1] = "cancelled"
  end)
  t.eq(log, { "cancelled", "shielded sleep done", "inner deadline counts", "code behind it runs", "unwound" })
end)

T.test("a shield's grace ends", function(t)
  local started = task.now()
  local log = {}
  task.group(function(g)
    g:spawn(function()
      task.shield(0.01, function()
        local _ <close> = closer(function() log[1] = "unwound" end)
        task.sleep(600)
      end)
    end)
    task.yield()
    g:cancel()
  end)
  t.eq(log, { "unwound" })
  t.ok(task.now() - started >= 0.0099)
end)

T.test("a shield inside a shield: the graces add up", function(t)
  local started = task.now()
  task.group(function(g)
    g:spawn(function()
      task.shield(0.005, function() task.shield(0.01, task.sleep, 600) end)
    end)
    task.yield()
    g:cancel()
  end)
  local took = task.now() - started
  t.ok(took >= 0.0149, took)
end)

T.test("a shield in a scope that is cancelled already, and of no grace", function(t)
  local log = {}
  precancelled(function()
    task.shield(600, function() task.sleep(0.001) log[#log + 1] = "has its grace" end)
    task.shield(0, function() log[#log + 1] = "does not wait" end)
    local _ <close> = closer(function() log[#log + 1] = "unwound" end)
    task.shield(0, task.sleep, 600)
    log[#log + 1] = "never"
  end)
  t.eq(log, { "has its grace", "does not wait", "unwound" })
end)

-- trio test_cancel_unshield (here: the shield is left) while the cancellation propagates
T.test("leaving a shield while a cancellation is on its way up", function(t)
  local log = {}
  task.group(function(g)
    g:spawn(function()
      local _ <close> = closer(function(_, err) log[#log + 1] = err.kind end)
      task.shield(600, function()
        -- cancelled by its own scope within the shield, and from outside meanwhile
        task.group(function(inner)
          g:cancel()
          inner:cancel()
          task.sleep(600)
        end)
        log[#log + 1] = "inner group left"
        task.sleep(0.001)
        log[#log + 1] = "still shielded"
      end)
      task.yield()
    end)
  end)
  t.eq(log, { "inner group left", "still shielded", "cancelled" })
end)

T.test("shielded tasks of a group are waited for", function(t)
  local saved
  t.raises("^boom$", task.group, function(g)
    g:spawn(function()
      local _ <close> = closer(function() task.shield(1, function() task.sleep(0.005) saved = true end) end)
      task.sleep(600)
    end)
    task.yield()
    error("boom", 0)
  end)
  t.eq(saved, true)
end)

-- trio test_cancel_inheritance
T.test("a task inherits the scope of its group, not of who spawns it", function(t)
  local log = {}
  task.group(function(outer)
    local ok = pcall(task.deadline, 0.003, function()
      outer:spawn(function()
        t.eq(task.left(), nil)
        task.sleep(0.006)
        log[#log + 1] = "outlived the deadline of its spawner"
      end)
      task.group(function(inner)
        inner:spawn(function()
          t.near(task.left(), 0, 0.01)
          local _ <close> = closer(function() log[#log + 1] = "ended with the group it is in" end)
          task.sleep(600)
        end)
      end)
    end)
    t.eq(ok, false)
  end)
  t.eq(log, { "ended with the group it is in", "outlived the deadline of its spawner" })
end)

T.test("cancelling a task deep inside scopes of its own", function(t)
  local log = {}
  local function deep(n, f)
    if n == 0 then return f() end
    local _ <close> = closer(function(_, err) log[#log + 1] = n .. " " .. tostring(err and err.kind) end)
    if n % 3 == 0 then return (task.group(function() deep(n - 1, f) end)) end
    if n % 3 == 1 then return (task.deadline(600, deep, n - 1, f)) end
    return (coroutine.wrap(deep)(n - 1, f))
  end
  task.group(function(g)
    local h = g:spawn(deep, 6, function() task.sleep(600) end)
    task.yield()
    h:cancel()
    t.raises("cancelled", h.join, h)
  end)
  t.eq(log, { "1 cancelled", "2 cancelled", "3 cancelled", "4 cancelled", "5 cancelled", "6 cancelled" })
end)

T.test("a task cancels itself, and its own group", function(t)
  local log = {}
  task.group(function(g)
    local me
    me = g:spawn(function()
      me:cancel()
      log[#log + 1] = "computes on"
      task.yield()
      log[#log + 1] = "never"
    end)
    g:spawn(function() task.sleep(0.001) log[#log + 1] = "the others stay" g:cancel() task.yield() log = nil end)
  end)
  t.eq(log, { "computes on", "the others stay" })
end)

T.test("cancelling twice is cancelling once", function(t)
  local raised = 0
  task.group(function(g)
    local h = g:spawn(function()
      local _ <close> = closer(function()
        raised = raised + 1
        task.shield(1, task.sleep, 0.002)
      end)
      task.sleep(600)
    end)
    task.yield()
    for _ = 1, 3 do h:cancel() task.yield() end
    g:cancel()
  end)
  t.eq(raised, 1)
end)

T.test("completion before cancellation: the result is kept, and the next wait raises", function(t)
  local log = {}
  task.group(function(g)
    local c, s = task.channel(1), task.semaphore(1)
    s:acquire()
    local receiver = g:spawn(function()
      log[#log + 1] = c:receive()
      local _ <close> = closer(function(_, err) log[#log + 1] = err.kind end)
      c:receive()
    end)
    local acquirer = g:spawn(function()
      local _ <close> = s:acquire()
      log[#log + 1] = "permit"
      task.yield()
    end)
    task.yield()
    c:send "item"
    receiver:cancel()
    s:release()
    acquirer:cancel()
    task.yield()
    t.eq(s:available(), 1, "the permit came back through <close>")
    t.eq(#c, 0)
  end)
  table.sort(log)
  t.eq(log, { "cancelled", "item", "permit" })
end)

T.test("cancellation before completion: the wait did not happen", function(t)
  task.group(function(g)
    local c, s = task.channel(1), task.semaphore(1)
    s:acquire()
    local receiver = g:spawn(function() c:receive() error "got it" end)
    local acquirer = g:spawn(function() s:acquire() error "got it" end)
    task.yield()
    receiver:cancel()
    c:send "item"
    acquirer:cancel()
    s:release()
    task.yield()
    t.eq(c:receive(), "item")
    t.eq(s:available(), 1)
  end)
end)

T.test("a timer and a cancellation in the same turn", function(t)
  -- Whoever comes first: each sleeper ends exactly once, and no timer stays armed.
  local ended = 0
  task.group(function(g)
    local handles = {}
    for i = 1, 200 do
      handles[i] = g:spawn(function()
        local _ <close> = closer(function() ended = ended + 1 end)
        task.sleep(i % 7 * 0.0003)
      end)
    end
    for i = 1, 200 do
      if i % 3 == 0 then task.sleep(0.0001) end
      handles[i]:cancel()
    end
  end)
  t.eq(ended, 200)
end)

T.test("the reason is told", function(t)
  local function reason(f)
    local message
    f(function()
      local _ <close> = closer(function(_, err) message = err.message end)
      task.sleep(600)
    end)
    return message
  end
  t.eq(reason(function(wait)
    task.group(function(g) g:spawn(wait) task.yield() g:cancel() end)
  end), "the task was cancelled: by request")
  t.eq(reason(function(wait)
    pcall(task.group, function(g) g:spawn(wait) task.yield() error "x" end)
  end), "the task was cancelled: its group failed")
  t.eq(reason(function(wait)
    pcall(task.group, function(g) g:spawn(wait) g:spawn(error, "x") end)
  end), "the task was cancelled: another task of its group failed")
  t.eq(reason(function(wait)
    pcall(task.deadline, 0.001, wait)
  end), "the task was cancelled: its deadline passed")
  t.eq(reason(function(wait)
    task.race { wait, function() task.yield() return 1 end }
  end), "the task was cancelled: another was first")
end)

-- copas tests/cancelall.lua, removethread.lua: ending all at once, and one out of many
T.test("ending one out of many leaves the others alone", function(t)
  local alive = 0
  task.group(function(g)
    local handles = {}
    for i = 1, 50 do
      handles[i] = g:spawn(function()
        alive = alive + 1
        local _ <close> = closer(function() alive = alive - 1 end)
        task.sleep(600)
      end)
    end
    task.yield()
    t.eq(alive, 50)
    for i = 1, 50, 2 do handles[i]:cancel() end
    task.yield()
    t.eq(alive, 25)
    g:cancel()
  end)
  t.eq(alive, 0)
end)

T.done()
