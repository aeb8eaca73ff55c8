-- Coroutines of scripts beside tasks: plain ones behave as Lua's own, and any of them may wait.
-- The first half follows OpenResty's t/091-coroutine.t and Lua's testes/coroutine.lua.
local T = require "harness"
local sluice = require "sluice"

local task = sluice.task

local function closer(f) return setmetatable({}, { __close = f }) end

-- As Lua's own -------------------------------------------------------------------------------------

T.test("values go in and out", function(t)
  local co = coroutine.create(function(a, b)
    local c = coroutine.yield(a + b)
    local d, e = coroutine.yield(c * 2, nil)
    return d, e, nil
  end)
  t.eq(table.pack(coroutine.resume(co, 1, 2)), { true, 3, n = 2 })
  t.eq(table.pack(coroutine.resume(co, 10)), { true, 20, nil, n = 3 })
  t.eq(coroutine.status(co), "suspended")
  t.eq(table.pack(coroutine.resume(co, "d", "e")), { true, "d", "e", nil, n = 4 })
  t.eq(coroutine.status(co), "dead")
  t.eq(table.pack(coroutine.resume(co)), { false, "cannot resume dead coroutine", n = 2 })
end)

T.test("generators", function(t)
  local function permutations(a, n)
    n = n or #a
    if n <= 1 then return coroutine.yield(table.concat(a)) end
    for i = 1, n do
      a[n], a[i] = a[i], a[n]
      permutations(a, n - 1)
      a[n], a[i] = a[i], a[n]
    end
  end
  local got = {}
  for p in coroutine.wrap(function() permutations { "a", "b", "c" } end) do got[#got + 1] = p end
  t.eq(got, { "bca", "cba", "cab", "acb", "bac", "abc" })
end)

T.test("errors", function(t)
  local co = coroutine.create(function() error("plain", 0) end)
  t.eq(table.pack(coroutine.resume(co)), { false, "plain", n = 2 })
  t.eq(coroutine.status(co), "dead")
  local object = {}
  co = coroutine.create(function() error(object) end)
  t.ok(rawequal(select(2, coroutine.resume(co)), object))
  local wrapped = coroutine.wrap(function() error("wrapped", 0) end)
  t.raises("coroutine_test.lua:%d+: wrapped$", function() local x = wrapped() return x end)
  t.raises("cannot resume dead coroutine", wrapped)
  t.raises("bad argument #1 to 'resume' %(coroutine expected", function() coroutine.resume(1) end)
  t.raises("bad argument #1 to 'wrap'", function() coroutine.wrap(1) end)
  t.raises("bad argument #1 to 'close'", function() coroutine.close(1) end)
end)

T.test("neither the running one nor one below it can be resumed or closed", function(t)
  local me = coroutine.running()
  t.eq(table.pack(coroutine.resume(me)), { false, "cannot resume non-suspended coroutine", n = 2 })
  t.raises("cannot close a running coroutine", function() coroutine.close(me) end)
  local co
  co = coroutine.create(function()
    t.eq(select(2, coroutine.resume(co)), "cannot resume non-suspended coroutine")
    t.raises("cannot close a running coroutine", coroutine.close, co)
    coroutine.wrap(function()
      t.eq(coroutine.status(co), "normal")
      t.eq(select(2, coroutine.resume(co)), "cannot resume non-suspended coroutine")
      t.raises("cannot close a normal coroutine", coroutine.close, co)
      t.eq(select(2, coroutine.resume(me)), "cannot resume non-suspended coroutine")
    end)()
    return "fine"
  end)
  t.eq(table.pack(coroutine.resume(co)), { true, "fine", n = 2 })
end)

T.test("the same from inside scopes, which stay entered", function(t)
  task.deadline(50, function()
    coroutine.resume(coroutine.running())
    t.near(task.left(), 50, 1)
    coroutine.wrap(function()
      task.deadline(20, function()
        coroutine.resume(coroutine.running())
        t.near(task.left(), 20, 1)
      end)
    end)()
    t.near(task.left(), 50, 1)
  end)
end)

T.test("closing", function(t)
  local log = {}
  local function make(fails)
    return coroutine.create(function()
      local _ <close> = closer(function(_, err) log[#log + 1] = tostring(err) end)
      local _ <close> = closer(function() if fails then error("in close", 0) end end)
      coroutine.yield()
    end)
  end
  t.eq(coroutine.close(make()), true, "not begun")
  local co = make()
  coroutine.resume(co)
  t.eq(table.pack(coroutine.close(co)), { true, n = 1 })
  t.eq(coroutine.status(co), "dead")
  t.eq(coroutine.close(co), true, "twice")
  co = make(true)
  coroutine.resume(co)
  t.eq(table.pack(coroutine.close(co)), { false, "in close", n = 2 })
  t.eq(log, { "nil", "in close" })
  co = coroutine.create(function()
    local _ <close> = closer(function(_, err) log[#log + 1] = err end)
    error("uncaught", 0)
  end)
  log = {}
  t.eq(select(2, coroutine.resume(co)), "uncaught")
  t.eq(log, {}, "Lua leaves that to close")
  t.eq(table.pack(coroutine.close(co)), { false, "uncaught", n = 2 })
  t.eq(log, { "uncaught" })
  log = {}
  pcall(coroutine.wrap(function()
    local _ <close> = closer(function(_, err) log[#log + 1] = err end)
    error("wrap closes", 0)
  end))
  t.eq(log, { "wrap closes" })
end)

T.test("yields across pcall, metamethods, iterators and __close", function(t)
  local mt = {
    __add = function(a) return coroutine.yield "add" and a end,
    __index = function(_, k) return coroutine.yield(k) end,
    __eq = function() return coroutine.yield "eq" end,
    __lt = function() return coroutine.yield "lt" end,
    __concat = function() return coroutine.yield "concat" end,
    __len = function() return coroutine.yield "len" end,
    __call = function(_, x) return coroutine.yield("call" .. x) end,
  }
  local co = coroutine.wrap(function()
    local a, b = setmetatable({}, mt), setmetatable({}, mt)
    local _ = a + 1
    local results = { a.field, a == b, a < b, a .. "x", #a, a(7) }
    pcall(function() pcall(coroutine.yield, "pcall") end)
    for x in coroutine.yield do results[#results + 1] = x if x == 10 then break end end
    do local _ <close> = closer(function() coroutine.yield "close" end) end
    return results
  end)
  local seen = {}
  local value = co()
  while type(value) ~= "table" do
    seen[#seen + 1] = tostring(value)
    value = co(#seen)
  end
  t.eq(seen, { "add", "field", "eq", "lt", "concat", "len", "call7", "pcall", "nil", "nil", "close" })
end)

T.test("nested deep, and too deep", function(t)
  local function nest(n) return n == 0 and "bottom" or coroutine.wrap(nest)(n - 1) end
  t.eq(nest(150), "bottom")
  t.raises("C stack overflow", nest, 1000)
  t.eq(nest(150), "bottom", "and nothing is left of it")
end)

T.test("coroutine.yield outside of one says what to do", function(t)
  t.raises("outside a coroutine", function() task.group(function(g)
    g:spawn(function() coroutine.yield() end)
  end) end)
end)

T.test("wait, running and isyieldable", function(t)
  task.group(function(g)
    g:spawn(function()
      local co, is_main = coroutine.running()
      t.eq(type(co), "thread")
      t.eq(is_main, false)
      t.eq(coroutine.isyieldable(), true)
      coroutine.wrap(function() t.ne(coroutine.running(), co) end)()
    end)
  end)
end)

-- Waiting inside -----------------------------------------------------------------------------------

T.test("a wait inside does not disturb what yields", function(t)
  local gen = coroutine.wrap(function(first)
    for i = 1, 3 do
      task.sleep(0.001)
      local back = coroutine.yield(i, first)
      t.eq(back, "back " .. i)
    end
    task.yield()
    return "end", nil
  end)
  t.eq({ gen "first" }, { 1, "first" })
  t.eq({ gen "back 1" }, { 2, "first" })
  t.eq({ gen "back 2" }, { 3, "first" })
  t.eq(table.pack(gen "back 3"), { "end", nil, n = 2 })
  t.raises("dead", gen)
end)

T.test("three deep, resumed by resume and by wrap", function(t)
  local log = {}
  local function level3() task.sleep(0.001) coroutine.yield "3a" task.yield() return "3b" end
  local function level2()
    local co = coroutine.create(level3)
    local _, v = coroutine.resume(co)
    coroutine.yield("2:" .. v)
    task.yield()
    _, v = coroutine.resume(co)
    return "2:" .. v
  end
  local function level1()
    local gen = coroutine.wrap(level2)
    coroutine.yield("1:" .. gen())
    return "1:" .. gen()
  end
  task.group(function(g)
    g:spawn(function()
      local co = coroutine.create(level1)
      local _, first = coroutine.resume(co)
      log[#log + 1] = first
      task.sleep(0.001)
      local _, second = coroutine.resume(co)
      log[#log + 1] = second
      t.eq(coroutine.status(co), "dead")
    end)
    g:spawn(function() task.sleep(0.0005) log[#log + 1] = "other" end)
  end)
  t.eq(log, { "other", "1:2:3a", "1:2:3b" })
end)

T.test("every primitive inside one, with its result", function(t)
  task.group(function(g)
    local c, s = task.channel(1), task.semaphore(1)
    s:acquire()
    g:spawn(function() c:send(nil or "sent") task.yield() s:release() end)
    local gen = coroutine.wrap(function()
      coroutine.yield(c:receive())
      coroutine.yield(s:acquire())
      coroutine.yield(g:spawn(function() task.yield() return 1, 2 end):join())
      coroutine.yield(task.group(function(inner) inner:spawn(task.yield) return "group" end))
      coroutine.yield(task.deadline(1, function() task.yield() return "deadline" end))
      coroutine.yield(pcall(task.deadline, 0.001, task.sleep, 600))
      c:send "last"
    end)
    t.eq(gen(), "sent")
    t.ok(rawequal(gen(), s))
    t.eq(table.pack(gen()), { 1, 2, n = 2 })
    t.eq(gen(), "group")
    t.eq(gen(), "deadline")
    local ok, err = gen()
    t.eq(ok, false)
    t.eq(err.kind, "timeout")
    gen()
    t.eq(c:receive(), "last")
  end)
end)

T.test("waits of many generators at once", function(t)
  local total = 0
  task.group(function(g)
    for i = 1, 100 do
      g:spawn(function()
        for x in coroutine.wrap(function()
          for j = 1, 5 do
            task.sleep((i + j) % 4 * 0.0002)
            coroutine.yield(j)
          end
        end) do total = total + x end
      end)
    end
  end)
  t.eq(total, 1500)
end)

T.test("while it waits, others can neither resume nor close it", function(t)
  task.group(function(g)
    local co = coroutine.create(function() task.sleep(0.002) return "done" end)
    local gen = coroutine.wrap(function() task.sleep(0.002) return "done" end)
    local a = g:spawn(function() return coroutine.resume(co) end)
    local b = g:spawn(gen)
    task.yield()
    t.eq(coroutine.status(co), "suspended")
    t.eq(table.pack(coroutine.resume(co)),
      { false, "cannot resume a coroutine that is waiting inside a task", n = 2 })
    t.raises("cannot resume a coroutine that is waiting inside a task", gen)
    t.raises("cannot close a coroutine that is waiting inside a task", coroutine.close, co)
    t.eq(table.pack(a:join()), { true, "done", n = 2 })
    t.eq(b:join(), "done")
    t.eq(coroutine.close(co), true)
  end)
end)

T.test("the coroutine of a task is the scheduler's", function(t)
  task.group(function(g)
    local waiting, fresh
    local h = g:spawn(function() waiting = coroutine.running() task.sleep(0.002) return "untouched" end)
    task.yield()
    t.eq(select(2, coroutine.resume(waiting)), "cannot resume the coroutine of a task: only the scheduler does")
    t.raises("cannot close the coroutine of a task", coroutine.close, waiting)
    t.eq(h:join(), "untouched")
    t.match(select(2, coroutine.resume(waiting)), "cannot resume")
    g:spawn(function() fresh = coroutine.running() end):join()
    t.match(select(2, coroutine.resume(fresh)), "cannot resume")
  end)
end)

T.test("where Lua cannot wait, it says so and names the construct", function(t)
  local list = { 3, 1, 2 }
  local waits = setmetatable({}, { __tostring = function() task.sleep(0) return "x" end })
  local cases = {
    ["table.sort"] = function() table.sort(list, function(a, b) task.sleep(0) return a < b end) end,
    ["string.gsub"] = function() return (("x"):gsub("x", function() task.sleep(0) end)) end,
    ["__tostring"] = function() return tostring(waits) end,
    ["print"] = function() print(waits) end,
    ["string.format"] = function() return ("%s"):format(waits) end,
    ["load"] = function() return assert(load(function() task.sleep(0) end)) end,
    ["require"] = function()
      package.preload["coroutine_test.waits"] = function() task.sleep(0) end
      return require "coroutine_test.waits"
    end,
    ["message handler"] = function()
      local _, err = xpcall(error, function() return select(2, pcall(task.sleep, 0)) end, "x")
      error(err, 0)
    end,
    ["__close"] = function()
      local co = coroutine.create(function()
        local _ <close> = closer(function() task.sleep(0) end)
        coroutine.yield()
      end)
      coroutine.resume(co)
      error(select(2, coroutine.close(co)), 0)
    end,
    ["a coroutine resumed in table.sort"] = function()
      table.sort(list, function() return coroutine.wrap(function() task.sleep(0) end)() end)
    end,
  }
  for name, case in pairs(cases) do
    local err = t.raises("sleep cannot wait inside", case)
    local construct = name:gsub("^a coroutine resumed in ", "")
    t.match(err, construct:gsub("%p", "%%%0"), name)
  end
  t.raises("a task group cannot be used inside the comparison of table.sort", function()
    table.sort(list, function() task.group(function() end) return true end)
  end)
  -- nothing is left of the waits that did not begin
  local s = task.semaphore(1)
  s:acquire()
  t.raises("cannot wait inside", table.sort, list, function() s:acquire(0.001) return true end)
  s:release()
  t.eq(s:available(), 1)
end)

T.test("a finalizer cannot wait", function(t)
  local err
  do setmetatable({}, { __gc = function() err = select(2, pcall(task.sleep, 0)) end }) end
  collectgarbage()
  collectgarbage()
  t.match(err, "a finalizer %(__gc%)")
end)

T.test("closing what failed cannot wait either, and the error is told", function(t)
  local seen
  local gen = coroutine.wrap(function()
    local _ <close> = closer(function() seen = select(2, pcall(task.sleep, 0)) end)
    error("original", 0)
  end)
  t.raises("original", gen)
  t.match(seen, "sleep cannot wait inside a __close metamethod of a coroutine that is being closed")
end)

-- Cancellation inside ------------------------------------------------------------------------------

T.test("a cancellation goes through the coroutine, which is closed", function(t)
  for _, how in ipairs { "wrap", "resume" } do
    local log = {}
    t.raises("timeout", task.deadline, 0.002, function()
      local function body()
        local _ <close> = closer(function(_, err) log[#log + 1] = err.kind end)
        while true do pcall(task.sleep, 600) end
      end
      if how == "wrap" then
        local gen = coroutine.wrap(body)
        while true do pcall(gen) end
      else
        while true do coroutine.resume(coroutine.create(body)) end
      end
    end)
    t.eq(log, { "cancelled" }, how)
  end
end)

T.test("cancelled three deep", function(t)
  local log = {}
  task.group(function(g)
    local function nest(n)
      local _ <close> = closer(function(_, err) log[#log + 1] = n .. tostring(err and err.kind) end)
      if n == 0 then task.sleep(600) end
      return coroutine.wrap(nest)(n - 1)
    end
    local h = g:spawn(nest, 3)
    task.yield()
    h:cancel()
  end)
  t.eq(log, { "0cancelled", "1cancelled", "2cancelled", "3cancelled" })
end)

-- Stopping inside scopes ---------------------------------------------------------------------------

T.test("a generator that stops inside a deadline: the deadline counts while it runs", function(t)
  local gen = coroutine.wrap(function()
    task.deadline(0.005, function()
      coroutine.yield "first"
      task.sleep(600)
    end)
  end)
  t.eq(gen(), "first")
  t.eq(task.left(), nil, "outside of it")
  task.yield()
  t.raises({ kind = "timeout", phase = "deadline" }, gen)
  -- also when it passed while the generator slept
  local caught
  gen = coroutine.wrap(function()
    caught = select(2, pcall(task.deadline, 0.001, function()
      coroutine.yield()
      task.yield()
    end))
    task.yield()
    return "after"
  end)
  gen()
  task.sleep(0.003)
  t.eq(gen(), "after")
  t.eq(caught.kind, "timeout")
end)

T.test("resumed inside another deadline, that one counts too", function(t)
  local gen = coroutine.wrap(function()
    task.deadline(100, function()
      coroutine.yield()
      t.near(task.left(), 0, 0.01)
      task.sleep(600)
    end)
  end)
  gen()
  local err = t.raises("timeout", task.deadline, 0.002, gen)
  t.match(err.message, "0.002 s")
end)

T.test("resumed outside of the deadline it began in, that one counts no more", function(t)
  local gen
  task.deadline(0.01, function()
    gen = coroutine.wrap(function()
      task.deadline(50, function()
        t.near(task.left(), 0.01, 0.01)
        coroutine.yield()
        t.near(task.left(), 50, 1)
        task.sleep(0.012)
        coroutine.yield "not cancelled"
        task.sleep(600)
      end)
    end)
    gen()
  end)
  t.eq(gen(), "not cancelled")
  t.raises("timeout", task.deadline, 0.002, gen)
end)

T.test("the later deadline inside is in force once the sooner one outside is left", function(t)
  local gen
  task.deadline(5, function()
    gen = coroutine.wrap(function()
      task.deadline(0.003, function()
        coroutine.yield()
        task.sleep(600)
      end)
    end)
    task.deadline(0.001, gen) -- enters it where a sooner one is in force
  end)
  t.raises({ kind = "timeout" }, gen)
end)

T.test("resumed by another task: its cancellation reaches inside, and that task alone", function(t)
  local log, gen = {}, nil
  task.group(function(g)
    g:spawn(function()
      gen = coroutine.wrap(function()
        task.deadline(100, function()
          local _ <close> = closer(function(_, err) log[#log + 1] = err.kind end)
          coroutine.yield()
          task.sleep(600)
        end)
      end)
      gen()
      repeat task.sleep(0.001) until #log > 0
      log[#log + 1] = "maker lives"
    end)
    local h = g:spawn(function() task.yield() gen() end)
    task.sleep(0.002)
    h:cancel()
  end)
  t.eq(log, { "cancelled", "maker lives" })
end)

T.test("resumed in a cancelled scope, it is cancelled inside", function(t)
  local seen
  local gen = coroutine.wrap(function()
    task.deadline(100, function()
      coroutine.yield()
      local _ <close> = closer(function(_, err) seen = err.kind end)
      task.yield()
    end)
  end)
  gen()
  task.group(function(g)
    g:cancel()
    gen()
  end)
  t.eq(seen, "cancelled")
end)

T.test("a generator that stops inside a shield: held back while it runs, as long as the grace", function(t)
  local log = {}
  local gen = coroutine.wrap(function()
    task.shield(100, function()
      coroutine.yield()
      task.sleep(0.002)
      log[#log + 1] = "shielded"
      coroutine.yield()
    end)
    log[#log + 1] = "left"
    task.yield()
    log[#log + 1] = "never"
  end)
  gen()
  task.group(function(g)
    g:cancel()
    gen()
    gen()
  end)
  t.eq(log, { "shielded", "left" })
end)

T.test("a generator that stops inside a group: its tasks go on meanwhile", function(t)
  local log = {}
  local gen = coroutine.wrap(function()
    task.group(function(g)
      g:spawn(function() task.sleep(0.002) log[#log + 1] = "task done" end)
      coroutine.yield "inside"
      log[#log + 1] = "back inside"
    end)
    return "left"
  end)
  t.eq(gen(), "inside")
  task.sleep(0.004)
  t.eq(log, { "task done" })
  t.eq(gen(), "left")
  t.eq(log, { "task done", "back inside" })
end)

T.test("resumed by a task of the group it stopped in: refused", function(t)
  local gen
  gen = coroutine.wrap(function()
    task.group(function(g)
      local h = g:spawn(function()
        task.yield()
        t.raises("from a task of a group inside of it", gen)
      end)
      coroutine.yield(h)
    end)
    return "left"
  end)
  gen():join()
  t.eq(gen(), "left")
end)

T.test("closed by coroutine.close: what it had entered is left", function(t)
  local log = {}
  local function make(wait)
    local co = coroutine.create(function()
      task.deadline(100, function()
        task.shield(50, function()
          task.group(function(g)
            g:spawn(function()
              local _ <close> = closer(function(_, err) log[#log + 1] = err.kind end)
              task.sleep(600)
            end)
            if wait then task.yield() end
            coroutine.yield()
          end)
        end)
      end)
    end)
    coroutine.resume(co)
    return co
  end
  task.group(function()
    t.eq(coroutine.close(make(true)), true)
    t.eq(log, {}, "its tasks are cancelled, and unwind")
  end)
  t.eq(log, { "cancelled" }, "before the group outside ends")
  task.group(function() coroutine.close(make(false)) end)
  t.eq(log, { "cancelled", "cancelled" }, "a task that had not begun")
end)

T.test("dropped: its tasks end with the group outside", function(t)
  for _, collected in ipairs { true, false } do
    local log = {}
    task.group(function()
      local gen = coroutine.wrap(function()
        task.group(function(g)
          g:spawn(function()
            local _ <close> = closer(function() task.shield(1, task.sleep, 0.001) log[#log + 1] = "task" end)
            task.sleep(600)
          end)
          coroutine.yield()
        end)
      end)
      gen()
      task.yield()
      gen = nil -- luacheck: ignore 311
      if collected then
        collectgarbage()
        collectgarbage()
      end
    end)
    t.eq(log, { "task" })
  end
  collectgarbage()
  collectgarbage()
end)

T.test("a generator kept beyond the group it began in: its own group has ended with that", function(t)
  local gen, log = nil, {}
  task.group(function()
    gen = coroutine.wrap(function()
      task.group(function(g)
        g:spawn(function()
          local _ <close> = closer(function() log[#log + 1] = "task ended" end)
          task.sleep(600)
        end)
        coroutine.yield()
        log[#log + 1] = "body goes on"
        task.yield()
        log[#log + 1] = "never: its group is done"
      end)
      return "and the generator, too"
    end)
    gen()
    task.yield()
  end)
  t.eq(log, { "task ended" })
  t.eq(gen(), "and the generator, too")
  t.eq(log, { "task ended", "body goes on" })
end)

T.test("an error of a task in a dropped group is not lost", function(t)
  t.raises("^from a dropped group$", task.group, function()
    coroutine.wrap(function()
      task.group(function(g)
        g:spawn(function()
          local _ <close> = closer(function() error("from a dropped group", 0) end)
          task.sleep(600)
        end)
        task.yield()
        coroutine.yield()
      end)
    end)()
  end)
end)

T.test("many generators stop in groups and deadlines, in any order", function(t)
  local finished = 0
  task.group(function(g)
    local gens = {}
    for i = 1, 40 do
      gens[i] = coroutine.wrap(function()
        for round = 1, 3 do
          task.deadline(50 + i, function()
            coroutine.yield()
            task.group(function(inner)
              inner:spawn(task.sleep, i % 3 * 0.0005)
              coroutine.yield()
              task.yield()
            end)
          end)
          if round == 3 then finished = finished + 1 end
        end
      end)
    end
    for i = 1, 40 do
      g:spawn(function()
        for step = 1, 7 do
          task.deadline(100 - i - step, function() gens[(i * 7) % 40 + 1]() end)
          task.sleep((i * step) % 5 * 0.0002)
        end
      end)
    end
  end)
  t.eq(finished, 40)
end)

T.done()
