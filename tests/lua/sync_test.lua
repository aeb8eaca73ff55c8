-- Semaphores and channels: first come, first served; who is cancelled or times out takes nothing along.
-- Some cases follow copas' tests/semaphore.lua and queue.lua, and OpenResty's semaphore tests.
local T = require "harness"
local sluice = require "sluice"

local task = sluice.task

local function turns(n) for _ = 1, n do task.yield() end end

-- Semaphores ---------------------------------------------------------------------------------------

T.test("semaphore: permits", function(t)
  local s = task.semaphore(2)
  t.eq(s:available(), 2)
  t.ok(rawequal(s:acquire(), s), "acquire returns the semaphore")
  t.eq(s:try_acquire(), true)
  t.eq(s:try_acquire(), false)
  t.eq(s:available(), 0)
  s:release()
  s:release()
  t.eq(s:available(), 2)
  t.raises("more permits given back than taken", s.release, s)
  t.raises("1 or more", task.semaphore, 0)
  t.raises("integer representation", task.semaphore, 1.5)
  t.raises("number expected", task.semaphore)
end)

T.test("semaphore: <close> gives the permit back, whatever happens", function(t)
  local m = task.mutex()
  do
    local _ <close> = m:acquire()
    t.eq(m:available(), 0)
  end
  t.eq(m:available(), 1)
  t.eq(pcall(function()
    local _ <close> = m:acquire()
    error "x"
  end), false)
  t.eq(m:available(), 1)
  pcall(task.deadline, 0.001, function()
    local _ <close> = m:acquire()
    task.sleep(600)
  end)
  t.eq(m:available(), 1)
end)

T.test("semaphore: first come, first served, and nobody overtakes", function(t)
  local s, log = task.semaphore(1), {}
  task.group(function(g)
    s:acquire()
    for i = 1, 5 do
      g:spawn(function()
        local _ <close> = s:acquire()
        log[#log + 1] = i
        task.yield()
      end)
    end
    turns(2)
    s:release()
    t.eq(s:try_acquire(), false, "the permit is the first waiter's already")
    t.eq(s:available(), 0)
    local _ <close> = s:acquire()
    log[#log + 1] = "me"
  end)
  t.eq(log, { 1, 2, 3, 4, 5, "me" })
  t.eq(s:available(), 1)
end)

T.test("semaphore: never more inside than permits", function(t)
  local s, inside, most = task.semaphore(3), 0, 0
  task.group(function(g)
    for i = 1, 60 do
      g:spawn(function()
        for _ = 1, 3 do
          local _ <close> = s:acquire()
          inside = inside + 1
          most = math.max(most, inside)
          if i % 3 == 0 then task.yield() else task.sleep(i % 5 * 0.0001) end
          inside = inside - 1
        end
      end)
    end
  end)
  t.eq(most, 3)
  t.eq(s:available(), 3)
end)

T.test("semaphore: timeouts", function(t)
  local s = task.semaphore(1)
  t.ok(s:acquire(0), "a free permit needs no time")
  local started = task.now()
  t.eq(table.pack(s:acquire(0.005)), { n = 1 })
  t.ok(task.now() - started >= 0.0049)
  t.eq(s:acquire(0), nil)
  task.group(function(g)
    local log = {}
    g:spawn(function() log[1] = s:acquire(0.002) or "gave up" end)
    g:spawn(function() log[2] = s:acquire(1) end)
    task.sleep(0.004)
    s:release()
    turns(1)
    t.eq(log[1], "gave up")
    t.ok(rawequal(log[2], s), "the next in line, not the one who gave up")
  end)
  t.eq(s:available(), 0)
  t.raises("seconds expected", s.acquire, s, -1)
  t.raises("seconds expected", s.acquire, s, 0 / 0)
end)

T.test("semaphore: a cancelled waiter loses nothing for the others", function(t)
  local s = task.semaphore(1)
  task.group(function(g)
    s:acquire()
    local got, handles = {}, {}
    for i = 1, 6 do
      handles[i] = g:spawn(function()
        local _ <close> = s:acquire()
        got[#got + 1] = i
      end)
    end
    turns(1)
    handles[1]:cancel()
    handles[3]:cancel()
    handles[6]:cancel()
    s:release()
    turns(4)
    t.eq(got, { 2, 4, 5 })
    t.eq(s:available(), 1)
  end)
end)

T.test("semaphore: cancelled at the very turn it gets the permit", function(t)
  local s = task.semaphore(1)
  task.group(function(g)
    for order = 1, 2 do
      s:acquire()
      local h = g:spawn(function()
        local _ <close> = s:acquire()
        task.yield()
      end)
      turns(1)
      if order == 1 then h:cancel() s:release() else s:release() h:cancel() end
      turns(3)
      t.eq(s:available(), 1, order)
    end
  end)
end)

-- Channels -----------------------------------------------------------------------------------------

T.test("channel: items in order, up to the capacity without waiting", function(t)
  local c = task.channel(3)
  for i = 1, 3 do t.eq(c:send(i), true) end
  t.eq(#c, 3)
  t.eq(c:send(4, 0), false, "full")
  for i = 1, 3 do t.eq(c:receive(), i) end
  t.eq(table.pack(c:receive(0)), { nil, "timeout", n = 2 })
  t.eq(#c, 0)
  t.eq(c:send(false), true, "false is an item")
  t.eq(c:receive(), false)
  t.raises("a value expected, not nil", c.send, c, nil)
  t.raises("a value expected, not nil", c.send, c)
  t.raises("1 or more", task.channel, 0)
  t.eq(#task.channel(), 0, "a capacity of 1 unless told")
end)

T.test("channel: a sender waits for room, a receiver for an item", function(t)
  local c, log = task.channel(2), {}
  task.group(function(g)
    g:spawn(function()
      for i = 1, 6 do
        c:send(i)
        log[#log + 1] = "s" .. i
      end
    end)
    turns(2)
    t.eq(log, { "s1", "s2" })
    for i = 1, 6 do t.eq(c:receive(), i) end
  end)
  t.eq(#log, 6)
  local order = {}
  task.group(function(g)
    for i = 1, 4 do g:spawn(function() order[i] = c:receive() end) end
    turns(1)
    for i = 1, 4 do c:send(i * 10) end
  end)
  t.eq(order, { 10, 20, 30, 40 }, "receivers first come, first served")
end)

T.test("channel: senders are first come, first served, and nobody overtakes", function(t)
  local c, got = task.channel(1), {}
  c:send(0)
  task.group(function(g)
    for i = 1, 5 do g:spawn(function() c:send(i) end) end
    turns(1)
    got[1] = c:receive()
    t.eq(c:send("pushy", 0), false, "the room is the first sender's already")
    for _ = 1, 5 do got[#got + 1] = c:receive() end
  end)
  t.eq(got, { 0, 1, 2, 3, 4, 5 })
end)

T.test("channel: an item handed to a receiver is not taken by another", function(t)
  local c = task.channel(1)
  task.group(function(g)
    local h = g:spawn(function() return c:receive() end)
    turns(1)
    c:send "for the one who waited"
    t.eq(table.pack(c:receive(0)), { nil, "timeout", n = 2 })
    t.eq(h:join(), "for the one who waited")
  end)
end)

T.test("channel: every item once, many senders and receivers", function(t)
  for _, capacity in ipairs { 1, 2, 7, 1000 } do
    local c, seen, sum = task.channel(capacity), {}, 0
    task.group(function(g)
      g:spawn(function()
        task.group(function(senders)
          for s = 1, 8 do
            senders:spawn(function()
              for i = 1, 50 do
                c:send(s * 1000 + i)
                if (s + i) % 7 == 0 then task.yield() end
              end
            end)
          end
        end)
        c:close()
      end)
      for _ = 1, 5 do
        g:spawn(function()
          local last = {}
          for item in c:items() do
            local s = item // 1000
            t.ok((last[s] or 0) < item, "of one sender, in its order")
            last[s] = item
            t.eq(seen[item], nil)
            seen[item] = true
            sum = sum + 1
            if item % 11 == 0 then task.yield() end
          end
        end)
      end
    end)
    t.eq(sum, 400, capacity)
  end
end)

T.test("channel: timeouts on both sides, and the next in line is served", function(t)
  local c = task.channel(1)
  local started = task.now()
  t.eq(table.pack(c:receive(0.004)), { nil, "timeout", n = 2 })
  t.ok(task.now() - started >= 0.0039)
  c:send "full"
  t.eq(c:send("x", 0.002), false)
  task.group(function(g)
    local first, second = g:spawn(c.send, c, "gave up", 0.002), g:spawn(c.send, c, "stayed", 1)
    task.sleep(0.004)
    t.eq(c:receive(), "full")
    t.eq(c:receive(), "stayed")
    t.eq(first:join(), false)
    t.eq(second:join(), true)
    local third, fourth = g:spawn(c.receive, c, 0.002), g:spawn(c.receive, c, 1)
    task.sleep(0.004)
    c:send "late"
    t.eq(table.pack(third:join()), { nil, "timeout", n = 2 })
    t.eq(fourth:join(), "late")
  end)
  t.eq(#c, 0)
end)

T.test("channel: cancelled waiters lose nothing", function(t)
  local c = task.channel(1)
  task.group(function(g)
    local handles = {}
    for i = 1, 4 do handles[i] = g:spawn(function() return c:receive() end) end
    turns(1)
    handles[1]:cancel()
    handles[3]:cancel()
    c:send "a"
    turns(1)
    c:send "b"
    t.eq(handles[2]:join(), "a")
    t.eq(handles[4]:join(), "b")
    c:send "full"
    local senders = {}
    for i = 1, 4 do senders[i] = g:spawn(c.send, c, i) end
    turns(1)
    senders[2]:cancel()
    senders[4]:cancel()
    local got = {}
    for i = 1, 3 do got[i] = c:receive() end
    t.eq(got, { "full", 1, 3 })
    t.eq(#c, 0)
  end)
end)

T.test("channel: cancelled at the very turn the item or the room is there", function(t)
  task.group(function(g)
    for order = 1, 2 do
      local c = task.channel(1)
      local got
      local h = g:spawn(function() got = c:receive() end)
      turns(1)
      if order == 1 then h:cancel() c:send "item" else c:send "item" h:cancel() end
      turns(2)
      if order == 1 then
        t.eq(got, nil)
        t.eq(c:receive(0), "item", "never taken")
      else
        t.eq(got, "item", "taken before")
        t.eq(#c, 0)
      end
      c = task.channel(1)
      c:send "full"
      local sent
      h = g:spawn(function() sent = c:send "second" end)
      turns(1)
      if order == 1 then h:cancel() c:receive() else c:receive() h:cancel() end
      turns(2)
      t.eq(sent, order == 2 or nil)
      t.eq(#c, order == 2 and 1 or 0)
      t.eq(c:send("fits", 0), order == 1, "no room is lost")
    end
  end)
end)

T.test("channel: close lets receivers drain, and wakes all who wait", function(t)
  local c = task.channel(2)
  c:send(1)
  c:send(2)
  task.group(function(g)
    local sender = g:spawn(function() return pcall(c.send, c, 3) end)
    turns(1)
    c:close()
    c:close()
    t.eq(table.pack(sender:join()), { false, "channel:send: the channel is closed", n = 2 })
    t.raises("channel is closed", c.send, c, 4)
    t.eq(c:receive(), 1)
    local rest = {}
    for item in c:items() do rest[#rest + 1] = item end
    t.eq(rest, { 2 })
    t.eq(table.pack(c:receive()), { nil, "closed", n = 2 })
    local d = task.channel(1)
    local waiting = {}
    for i = 1, 3 do waiting[i] = g:spawn(d.receive, d, i == 3 and 1 or nil) end
    turns(1)
    d:close()
    for i = 1, 3 do t.eq(table.pack(waiting[i]:join()), { nil, "closed", n = 2 }) end
  end)
end)

T.test("channel: closed when an item has been handed to a receiver, or room to a sender", function(t)
  task.group(function(g)
    local c = task.channel(1)
    local first, second = g:spawn(c.receive, c), g:spawn(c.receive, c)
    turns(1)
    c:send "item"
    c:close()
    t.eq(first:join(), "item")
    t.eq(table.pack(second:join()), { nil, "closed", n = 2 })
    c = task.channel(1)
    c:send "full"
    local sender = g:spawn(function() return pcall(c.send, c, "second") end)
    turns(1)
    t.eq(c:receive(), "full")
    c:close()
    t.match(select(2, sender:join()), "channel is closed")
    t.eq(table.pack(c:receive()), { nil, "closed", n = 2 })
  end)
end)

T.test("channel: <close>", function(t)
  local c
  task.group(function(g)
    local consumer
    do
      local scoped <close> = task.channel(1)
      c = scoped
      consumer = g:spawn(function()
        local n = 0
        for _ in c:items() do n = n + 1 end
        return n
      end)
      for i = 1, 5 do c:send(i) end
    end
    t.eq(consumer:join(), 5)
  end)
end)

T.test("channel: long use in a queue that is never empty", function(t)
  local c = task.channel(4)
  c:send(0)
  local before
  for i = 1, 100000 do
    c:send(i)
    if c:receive() ~= i - 1 then error "out of order" end
    if i == 1000 then collectgarbage() before = collectgarbage "count" end
  end
  collectgarbage()
  t.ok(collectgarbage "count" - before < 16, "it does not grow")
end)

T.test("channel: items that are let go are collected", function(t)
  local weak = setmetatable({}, { __mode = "v" })
  local c = task.channel(3)
  for i = 1, 3 do
    weak[i] = { i }
    c:send(weak[i])
  end
  for _ = 1, 3 do c:receive() end
  collectgarbage()
  t.eq(next(weak), nil)
  t.eq(#c, 0)
end)

T.test("a pipeline, bounded at every step", function(t)
  local got = {}
  task.group(function(g)
    local a, b = task.channel(2), task.channel(2)
    g:spawn(function() for i = 1, 20 do a:send(i) end a:close() end)
    g:spawn(function()
      task.group(function(workers)
        for _ = 1, 3 do
          workers:spawn(function()
            for x in a:items() do
              task.sleep(x % 3 * 0.0002)
              b:send(x * x)
            end
          end)
        end
      end)
      b:close()
    end)
    for x in b:items() do got[#got + 1] = x end
  end)
  table.sort(got)
  t.eq(#got, 20)
  t.eq(got[20], 400)
end)

T.done()
