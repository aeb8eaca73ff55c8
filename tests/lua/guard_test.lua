-- Guards: a task that holds the processor gets `cpu`, a heap that outgrows its ceiling `memory`, and no
-- script can keep either from ending it. (What needs a terminal or a signal: tests/command/signal_test.lua.)
local T = require "harness"
local sluice = require "sluice"
local core = require "sluice.core.task"
local sys = require "sluice.core.sys"

local task = sluice.task

local BURST_S = 0.1 -- one tick of the guard's clock, which counts processor time
local MIB = 1 << 20

local function closer(f) return setmetatable({}, { __close = f }) end

-- Runs f as a task under guards and returns the errors of its group. Not by pcall: while a verdict on
-- memory stands, that lets everything pass.
local function under(options, f)
  local scope = core.scope { group = true }
  sys.guard(options)
  local ok, err = scope:run(function() scope:spawn(f, scope) end)
  scope:wait()
  local list = scope:errors()
  sys.guard {}
  scope:finish()
  if not ok then table.insert(list, 1, err) end
  return list
end

local function spin() while true do end end

local SPINS = {
  ["a loop"] = spin,
  ["a loop in pcall"] = function() pcall(spin) spin() end,
  ["pcall in a loop"] = function() while true do pcall(spin) end end,
  ["pcall of nothing in a loop"] = function() while true do pcall(function() end) end end,
  ["pcall of errors in a loop"] = function() while true do pcall(error, "x") end end,
  ["xpcall with a handler that makes text of it"] = function() while true do xpcall(spin, tostring) end end,
  ["pcall in pcall"] = function() while true do pcall(pcall, pcall, spin) end end,
  ["coroutine.wrap"] = function() while true do pcall(coroutine.wrap(spin)) end end,
  ["coroutine.resume"] = function() while true do coroutine.resume(coroutine.create(spin)) end end,
  ["coroutines three deep"] = function()
    while true do
      coroutine.resume(coroutine.create(function()
        while true do coroutine.resume(coroutine.create(function() pcall(coroutine.wrap(spin)) end)) end
      end))
    end
  end,
  ["a generator that yields"] = function()
    for _ in coroutine.wrap(function() while true do coroutine.yield(true) end end) do end -- luacheck: ignore 542
  end,
  ["task.group"] = function() while true do pcall(task.group, spin) end end,
  ["task.deadline"] = function() while true do pcall(task.deadline, 600, spin) end end,
  ["tail calls"] = function() local function f() return f() end f() end,
  ["goto"] = function() ::again:: goto again end,
  ["a metamethod"] = function() local x = setmetatable({}, { __index = spin }) while true do pcall(function() return x.x end) end end,
  ["table.sort"] = function() while true do pcall(table.sort, { 3, 1, 2 }, function() spin() end) end end,
  ["string.gsub"] = function() while true do pcall(string.gsub, "x", "x", spin) end end,
  ["load"] = function() while true do load(spin) end end,
  ["a __close metamethod"] = function() local _ <close> = closer(spin) error "x" end,
  ["coroutine.close"] = function()
    while true do
      local co = coroutine.create(function() local _ <close> = closer(spin) coroutine.yield() end)
      coroutine.resume(co)
      coroutine.close(co)
    end
  end,
  ["semaphores that are free"] = function() local s = task.semaphore(1) while true do s:acquire() s:release() end end,
}
for name, f in pairs(SPINS) do
  T.test("max_burst ends " .. name, function(t)
    local list = under({ max_burst = BURST_S }, f)
    t.eq(#list, 1)
    t.eq(type(list[1]), "table", tostring(list[1]))
    t.eq(list[1].kind, "cpu")
    t.eq(list[1].message, "the task ran for more than 100 ms without waiting (--max-burst)")
  end)
end

T.test("max_burst: <close> runs, siblings are cancelled, the error has a traceback", function(t)
  local log = {}
  local list = under({ max_burst = BURST_S }, function(scope)
    local _ <close> = closer(function(_, err) log[#log + 1] = err.kind end)
    scope:spawn(function()
      local _ <close> = closer(function(_, err) log[#log + 1] = err.kind end)
      task.sleep(600)
    end)
    task.sleep(0.001)
    spin()
  end)
  t.eq(#list, 1)
  t.eq(log, { "cpu", "cancelled" })
  t.match(list[1].traceback, "guard_test.lua:" .. debug.getinfo(spin, "S").linedefined)
end)

T.test("max_burst: who waits in between may work as long as it takes", function(t)
  local list = under({ max_burst = 2 * BURST_S }, function()
    local started, rounds = os.clock(), 0
    while os.clock() - started < 6 * BURST_S do
      rounds = rounds + 1
      if rounds % 100 == 0 then task.yield() end
    end
  end)
  t.eq(list, {})
end)

T.test("max_burst: another task may catch it, and things go on", function(t)
  local log = {}
  local list = under({ max_burst = BURST_S }, function()
    for _ = 1, 2 do
      local ok, err = pcall(task.group, function(g) g:spawn(spin) end)
      log[#log + 1] = not ok and err.kind
    end
    log[#log + 1] = pcall(error, "ordinary")
    task.yield()
  end)
  t.eq(list, {})
  t.eq(log, { "cpu", "cpu", false })
end)

T.test("max_burst: a wait ends the burst, and what was raised in it can be caught then", function(t)
  local caught
  local list = under({ max_burst = BURST_S }, function()
    local ok, err = pcall(function()
      local _ <close> = closer(function() task.yield() end)
      spin()
    end)
    caught = not ok and err.kind
  end)
  t.eq(list, {})
  t.eq(caught, "cpu")
end)

local function grow()
  local list = {}
  for i = 1, math.huge do list[i] = ("x"):rep(1000) .. i end
  return list
end

local GROWS = {
  ["a table"] = grow,
  ["pcall in a loop"] = function() while true do pcall(grow) end end,
  ["xpcall in a loop"] = function() while true do xpcall(grow, tostring) end end,
  ["xpcall with a handler that grows"] = function() while true do xpcall(error, grow, "x") end end,
  ["coroutine.resume in a loop"] = function() while true do coroutine.resume(coroutine.create(grow)) end end,
  ["coroutine.wrap in pcall in a loop"] = function() while true do pcall(coroutine.wrap(grow)) end end,
  ["one string"] = function() local s = "x" while true do pcall(function() s = s .. s end) end end,
  ["string.rep"] = function() while true do pcall(string.rep, "x", 1 << 30) end end,
  ["table.concat"] = function()
    local t = {}
    for i = 1, 64 do t[i] = ("x"):rep(1 << 16) end
    while true do pcall(table.concat, t) end
  end,
  ["tasks"] = function() while true do pcall(task.group, function(g) while true do g:spawn(task.sleep, 600) end end) end end,
  ["recursion"] = function() local function f(n) return n + f(n + 1) end while true do pcall(f, 1) end end,
  ["a channel"] = function() local c = task.channel(1 << 29) while true do pcall(c.send, c, {}) end end,
  ["closures in a generator"] = function()
    local keep = {}
    local gen = coroutine.wrap(function() while true do keep[#keep + 1] = function() return keep end coroutine.yield(1) end end)
    while true do pcall(gen) end
  end,
}
for name, f in pairs(GROWS) do
  T.test("max_memory ends " .. name, function(t)
    collectgarbage()
    local before = core.stats().memory
    local list = under({ max_memory = 4 * MIB, max_burst = 60 }, f)
    t.ok(#list >= 1)
    t.eq(type(list[1]), "table", tostring(list[1]))
    t.eq(list[1].kind, "memory")
    t.eq(list[1].message, "the script's data outgrew the ceiling of 4 MiB (--max-memory)")
    list = nil -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
    t.ok(core.stats().memory - before < MIB, "it has been given back")
  end)
end

T.test("max_memory: handlers have room to close things", function(t)
  local closed = 0
  local list = under({ max_memory = 2 * MIB }, function()
    local function deep(n)
      local _ <close> = closer(function()
        closed = closed + 1
        return ("some words of farewell "):rep(10) .. n
      end)
      if n == 0 then grow() end
      deep(n - 1)
    end
    deep(50)
  end)
  t.eq(list[1].kind, "memory")
  t.eq(closed, 51)
end)

T.test("max_memory: garbage is no reason", function(t)
  local list = under({ max_memory = 2 * MIB }, function()
    for i = 1, 20000 do local _ = ("x"):rep(1000) .. i end
  end)
  t.eq(list, {})
end)

T.test("a small ceiling is told in bytes", function(t)
  local list = under({ max_memory = 200000 }, grow)
  t.match(list[1].message, "the ceiling of 200000 bytes")
end)

T.test("guards are off again", function(t)
  local started = os.clock()
  while os.clock() - started < 2.5 * BURST_S do end -- luacheck: ignore 542
  t.eq(pcall(error, "x"), false)
  t.eq(#("x"):rep(8 * MIB), 8 * MIB)
end)

T.done()
