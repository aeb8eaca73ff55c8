-- Handles: a stream, a reply, a server belong to the group they were opened in, are closed with it
-- whatever Lua did, and go along with results to who receives them.
-- luacheck: ignore 512 (loops left in their first round are what is tested)
local T = require "harness"
local sluice = require "sluice"

local http, task = sluice.http, sluice.task

-- A server of endless streams. `open()` is how many of them a client still holds.
local server, url
local function open() return (select(2, server:load())) end

local function handler(_, res)
  local n = 0
  while true do
    n = n + 1
    res:event { data = tostring(n) }
    task.sleep(0.001)
  end
end

local function stream() return http.stream(url) end

local function first(s)
  local next_event, state = s:events()
  return next_event(state).data
end

local function gone(t, n)
  T.until_(function() return open() == (n or 0) end, 10, "the connection is closed")
  t.eq(open(), n or 0)
end

local function test(name, body)
  T.test(name, function(t)
    local listening <close> = sluice.server.listen { handler = handler, on_error = function() end }
    server, url = listening, listening.url
    body(t)
    gone(t)
  end)
end

test("a stream is closed at the end of its group", function(t)
  local kept
  task.group(function()
    kept = stream()
    t.eq(first(kept), "1")
    t.eq(open(), 1)
  end)
  t.eq(kept.handle:closed(), true)
  gone(t)
  t.raises("closed", first, kept)
end)

test("an inner group closes its own alone", function(t)
  task.group(function()
    local outer = stream()
    task.group(function() first(stream()) end)
    gone(t, 1)
    t.eq(first(outer), "1")
    t.eq(outer.handle:closed(), false)
  end)
end)

test("deadlines and shields own nothing: what is returned out of one lives on", function(t)
  task.group(function()
    local s = task.deadline(5, stream)
    t.eq(first(s), "1")
    local u = task.shield(5, stream)
    t.eq(first(u), "1")
    t.eq(open(), 2)
  end)
end)

test("a task's stream belongs to the group, not to the task", function(t)
  task.group(function(g)
    local s
    g:spawn(function() s = stream() end):join()
    t.eq(first(s), "1")
  end)
end)

test("what a group returns goes to the group outside", function(t)
  task.group(function()
    local s = task.group(function() return stream() end)
    t.eq(first(s), "1")
    local a, b = task.group(function() return "first", stream() end)
    t.eq(a, "first")
    t.eq(first(b), "1")
    t.eq(open(), 2)
  end)
end)

test("so does what a join brings from another group", function(t)
  task.group(function(outer)
    local h
    local inside = task.semaphore(1)
    inside:acquire()
    outer:spawn(function()
      task.group(function(inner)
        h = inner:spawn(function() return stream() end)
        inside:acquire()
      end)
    end)
    T.until_(function() return h end)
    local s = h:join()
    inside:release()
    task.sleep(0.002) -- its group ends
    t.eq(first(s), "1")
  end)
end)

test("all and map hand over every stream", function(t)
  task.group(function()
    local a, b = task.all { stream, stream }
    t.eq(first(a), "1")
    t.eq(first(b), "1")
    gone(t, 2)
  end)
end)

test("race keeps the winner's and closes the others'", function(t)
  task.group(function()
    local s = task.race {
      function()
        local s = stream()
        first(s)
        task.sleep(600)
        return s
      end,
      function()
        local s = stream()
        T.until_(function() return open() == 2 end)
        return s
      end,
    }
    gone(t, 1)
    t.eq(first(s), "1")
  end)
end)

test("results of a group that fails are closed with it", function(t)
  task.group(function()
    t.raises("^late$", task.group, function(g)
      g:spawn(function() task.sleep(0.003) error("late", 0) end)
      return stream()
    end)
    gone(t)
  end)
end)

test("results of a group that is cancelled from outside, too", function(t)
  task.group(function()
    t.raises("timeout", task.deadline, 0.03, function()
      return task.group(function(g)
        local s = stream()
        g:spawn(function() pcall(task.sleep, 600) end)
        return s
      end)
    end)
    gone(t)
  end)
end)

test("break, return and error in a loop over events close it at once", function(t)
  task.group(function()
    for event in stream():events() do
      t.eq(event.data, "1")
      break
    end
    gone(t)
    local function returns() for event in stream():events() do return event.data end end
    t.eq(returns(), "1")
    gone(t)
    t.raises("^boom$", function() for _ in stream():events() do error("boom", 0) end end)
    gone(t)
  end)
end)

test("Lua 5.4.4 does not close on break where the loop variable is captured; the group does", function(t)
  -- https://github.com/lua/lua/commit/997f11f5, in 5.4.5: the jump of `break` misses the closing
  -- instruction. The loop stands in a function of its own, since what follows it there may fail.
  task.group(function()
    local function captures()
      local f
      for event in stream():events() do
        f = function() return event.data end
        break
      end
      return f
    end
    local ok, f = pcall(captures)
    if ok and f then t.eq(f(), "1") end
  end)
  gone(t)
end)

test("cancellation closes it, wherever the task is", function(t)
  task.group(function(g)
    local h = g:spawn(function() for _ in stream():events() do task.sleep(600) end end)
    T.until_(function() return open() == 1 end)
    h:cancel()
    gone(t)
    h = g:spawn(function() for _ in stream():events() do pcall(task.yield) end end)
    T.until_(function() return open() == 1 end)
    h:cancel()
    gone(t)
  end)
end)

test("a stream in a generator that is never finished is closed by the group", function(t)
  t.raises("timeout", task.deadline, 0.05, task.group, function()
    local gen = coroutine.wrap(function()
      local s <close> = stream()
      for event in s:events() do coroutine.yield(event.data) end
    end)
    t.eq(gen(), "1")
    t.eq(gen(), "2")
    task.sleep(600)
  end)
  gone(t)
end)

test("also when the generator has stopped in a group of its own", function(t)
  local gen
  task.group(function()
    gen = coroutine.wrap(function()
      task.group(function()
        for event in stream():events() do coroutine.yield(event.data) end
      end)
    end)
    t.eq(gen(), "1")
    t.eq(open(), 1)
  end)
  gone(t)
  t.raises("closed", gen)
end)

test("a generator closed by hand closes it", function(t)
  task.group(function()
    local co = coroutine.create(function()
      local s <close> = stream()
      for event in s:events() do coroutine.yield(event.data) end
    end)
    t.eq(select(2, coroutine.resume(co)), "1")
    t.eq(coroutine.close(co), true)
    gone(t)
  end)
end)

test("the collector closes what was dropped before its group ends", function(t)
  task.group(function()
    first(stream())
    t.eq(open(), 1)
    collectgarbage()
    collectgarbage()
    gone(t)
  end)
end)

test("a group closes everything it owns, a server and a stream to it alike", function(t)
  local order = {}
  task.group(function()
    local inner = sluice.server.listen { handler = handler }
    local s = http.stream(inner.url)
    first(s)
    order[1], order[2] = s, inner
  end)
  t.eq(order[1].handle:closed(), true)
  t.eq(order[2]:closed(), true)
end)

test("another task takes a stream over through a channel, within the group", function(t)
  task.group(function(g)
    local c = task.channel(1)
    g:spawn(function() c:send(stream()) end)
    local h = g:spawn(function()
      local s <close> = c:receive()
      return first(s)
    end)
    t.eq(h:join(), "1")
    gone(t)
  end)
end)

test("two tasks cannot read the same stream at once", function(t)
  task.group(function(g)
    local s = stream()
    first(s)
    local next_event, state = s:events()
    local function read()
      for _ = 1, 3 do next_event(state) end
    end
    local h = g:spawn(function() return pcall(read) end)
    local ok, err = pcall(read)
    local other_ok, other_err = h:join()
    t.ok(ok ~= other_ok, "one of them")
    t.match(tostring(ok and other_err or err), "another task is already reading")
  end)
end)

T.done()
