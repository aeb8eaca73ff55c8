-- Signals: Ctrl-C and SIGTERM unwind the script, a second Ctrl-C does not wait for it, SIGUSR1 tells
-- what every task waits for.
local T = require "harness"
local C = require "command"

local folder = T.tmpdir()
T.write(folder .. "/wait.lua", [[
local task = require "sluice.core.task"
local closed <close> = setmetatable({}, { __close = function() print "closed" end })
local function forever()
  print "ready"
  io.stdout:flush()
  while true do pcall(task.sleep, 600) end
end
forever()
]])
T.write(folder .. "/tasks.lua", [[
local task = require "sluice.core.task"
local group = task.scope { group = true }
local function sleeper() task.sleep(600) end
group:run(function()
  group:spawn(function() sleeper() end)
  group:spawn(function() print "ready" io.stdout:flush() sleeper() end)
end)
group:wait()
]])

local function run(words, steps) return C.run({ C.sluice, table.unpack(words) }, { cwd = folder, steps = steps }) end

T.test("Ctrl-C", function(t)
  local r = run({ "wait.lua" }, { { expect = "ready" }, { signal = "INT" } })
  t.eq(r.unmet, nil)
  t.eq(r.code, 130)
  t.eq(r.stdout, "ready\nclosed\n")
  t.eq(r.stderr, "sluice: interrupted\n")
end)

T.test("SIGTERM", function(t)
  local r = run({ "run", "wait.lua" }, { { expect = "ready" }, { signal = "TERM" } })
  t.eq(r.unmet, nil)
  t.eq(r.code, 143)
  t.eq(r.stdout, "ready\nclosed\n")
  t.eq(r.stderr, "sluice: terminated\n")
end)

T.test("Ctrl-C with a timeout to come", function(t)
  local r = run({ "--timeout", "60", "wait.lua" }, { { expect = "ready" }, { signal = "INT" } })
  t.eq(r.code, 130)
  t.eq(r.stderr, "sluice: interrupted\n")
end)

T.test("an error while unwinding is told, too", function(t)
  local r = run({ "-e", [[
    local broken <close> = setmetatable({}, { __close = function() error("close failed", 0) end })
    print "ready" io.stdout:flush()
    require "sluice.core.task".sleep(600)]] }, { { expect = "ready" }, { signal = "INT" } })
  t.eq(r.code, 130)
  t.match(r.stderr, "^sluice: interrupted\nsluice: close failed\n")
end)

T.test("a second Ctrl-C ends a script that computes", function(t)
  -- Once the line has been read, the first signal has been handled: the second cannot merge with it.
  local r = C.run({ C.sluice, "-e", "print 'ready' io.stdout:flush() io.read() "
    .. "print 'first' io.stdout:flush() while true do end" }, { steps = {
      { expect = "ready" }, { signal = "INT" }, { send = "\n" }, { expect = "first" }, { signal = "INT" } } })
  t.eq(r.unmet, nil)
  t.eq(r.code, 130)
  t.match(r.stderr, "^sluice: [^\n]*interrupted")
end)

T.test("SIGUSR1 lists the tasks", function(t)
  local r = run({ "tasks.lua" }, { { expect = "ready" }, { signal = "USR1" },
    { expect_stderr = "spawned at tasks.lua:6\n    at tasks.lua:3" }, { signal = "TERM" } })
  t.eq(r.unmet, nil)
  t.eq(r.code, 143)
  local text = r.stderr:gsub("%d+%.%d s", "S s")
  t.eq(text, [[
sluice: 3 tasks
  task 1: waiting on the tasks of its group for S s, at tasks.lua:8, spawned at the start
    at tasks.lua:8 in main chunk
  task 2: waiting on sleep for S s, at tasks.lua:3, spawned at tasks.lua:5
    at tasks.lua:3 in function 'sleeper'
    at tasks.lua:5 in function <tasks.lua:5>
  task 3: waiting on sleep for S s, at tasks.lua:3, spawned at tasks.lua:6
    at tasks.lua:3 in function 'sleeper'
    at tasks.lua:6 in function <tasks.lua:6>
sluice: terminated
]])
end)

T.done()
