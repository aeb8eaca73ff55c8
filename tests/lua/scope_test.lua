-- The floor under groups, deadlines and shields: sluice.core.task, as the library uses it.
local T = require "harness"

local core = require "sluice.core.task"

T.test("run: values, or false and the error; never raises", function(t)
  local s = core.scope {}
  t.eq(table.pack(s:run(function(...) return ..., nil end, 1, 2)), { true, 1, nil, n = 3 })
  t.eq(table.pack(s:run(error, "x", 0)), { false, "x", n = 2 })
  t.eq(table.pack(s:run(function() end)), { true, n = 1 })
  s:finish()
  s:finish()
  t.raises("the scope has ended", s.run, s, print)
end)

T.test("where each step is allowed", function(t)
  local s = core.scope { group = true }
  local seen = {}
  s:run(function()
    for _, method in ipairs { "run", "wait", "finish" } do
      seen[method] = select(2, pcall(s[method], s, print))
    end
    s:spawn(function() seen.task = select(2, pcall(s.wait, s)) end)
    core.sleep(0)
  end)
  s:wait()
  s:finish()
  for _, method in ipairs { "run", "wait", "finish", "task" } do
    t.match(seen[method], "only for the code that made the scope", method)
  end
  t.raises("a task group expected", function()
    local plain <close> = core.scope {}
    plain:spawn(print)
  end)
  t.eq(getmetatable(s).__name, "sluice.scope")
end)

T.test("options are checked before anything is made", function(t)
  t.raises("table expected", core.scope)
  t.raises("deadline: seconds expected", core.scope, { deadline = -1 })
  t.raises("shield: seconds expected", core.scope, { shield = "x" })
end)

T.test("states", function(t)
  local s = core.scope { group = true, deadline = 0.001 }
  t.eq(s:cancelled(), false)
  t.eq(s:expired(), false)
  t.eq(s:failed(), false)
  local ok, err = s:run(core.sleep, 600)
  t.eq(ok, false)
  t.eq(err.kind, "cancelled")
  t.eq(s:cancelled(), true)
  t.eq(s:expired(), true)
  s:wait()
  s:finish()
  s = core.scope { group = true }
  s:cancel "its group is done"
  t.match(select(2, s:run(core.check)).message, "its group is done")
  t.raises("invalid option", s.cancel, s, "because")
  s:finish()
end)

T.test("errors of tasks, in the order they came, once", function(t)
  local s = core.scope { group = true }
  s:run(function()
    s:spawn(error, "first", 0)
    s:spawn(function()
      local _ <close> = setmetatable({}, { __close = function() error("second", 0) end })
      core.sleep(600)
    end)
  end)
  s:wait()
  t.eq(s:failed(), true)
  t.eq(s:errors(), { "first", "second" })
  t.eq(s:errors(), {})
  t.eq(s:failed(), false)
  s:finish()
end)

T.test("<close> of a group that was not waited for: its tasks unwind in the group outside", function(t)
  local log = {}
  local outer = core.scope { group = true }
  outer:run(function()
    do
      local s <close> = core.scope { group = true }
      s:run(function()
        s:spawn(function()
          local _ <close> = setmetatable({}, { __close = function(_, err)
            log[#log + 1] = err.message
            local shield = core.scope { shield = 1 }
            shield:run(core.sleep, 0.001)
            shield:finish()
            log[#log + 1] = "unwound"
          end })
          core.sleep(600)
        end)
        core.sleep(0)
      end)
    end
    log[#log + 1] = "left"
  end)
  outer:wait()
  outer:finish()
  t.eq(log, { "left", "the task was cancelled: its group was dropped", "unwound" })
end)

T.test("scopes that are dropped without finish are collected, and leave nothing", function(t)
  local before = core.census()
  collectgarbage "stop"
  for _ = 1, 100 do
    local s = core.scope { group = true, deadline = 50 }
    s:run(function() s:spawn(core.sleep, 600) end)
  end
  local made = core.census()
  t.eq(made.deadlines - before.deadlines, 100)
  t.eq(made.tasks - before.tasks, 100)
  collectgarbage "restart"
  collectgarbage()
  collectgarbage()
  T.until_(function() return core.census().tasks == before.tasks end)
  t.eq(core.census().deadlines, before.deadlines)
end)

T.test("a scope outlives the one around it: its place is taken by the next", function(t)
  local inner
  local outer = core.scope { deadline = 50 }
  outer:run(function() inner = core.scope {} end)
  outer:finish()
  outer = nil -- luacheck: ignore 311
  collectgarbage()
  collectgarbage()
  t.eq(table.pack(inner:run(core.left)), { true, nil, n = 2 }, "that deadline counts no more")
  inner = nil -- luacheck: ignore 311
  collectgarbage()
  collectgarbage()
  t.eq(core.left(), nil)
end)

-- Called by C, functions have no name in a traceback; this one is known by its line.
local function line_of(f) return "scope_test.lua:" .. debug.getinfo(f, "S").linedefined .. ":" end

T.test("tracebacks: where it was raised first, whatever the error is", function(t)
  local function fails(err) local x = error(err, 0) return x end
  for _, err in ipairs { "text", 42, setmetatable({ kind = "server" }, core.error_metatable), { plain = true } } do
    local s = core.scope {}
    local _, caught = s:run(function()
      local inner = core.scope {}
      local ok, again = inner:run(fails, err)
      inner:finish()
      assert(not ok)
      error(again, 0)
    end)
    s:finish()
    t.ok(rawequal(caught, err))
    t.match(core.traceback_of(caught), line_of(fails), type(err))
  end
end)

T.test("tracebacks: an error with the same text is not the one before", function(t)
  local function run(f)
    local s = core.scope {}
    local _, err = s:run(f)
    s:finish()
    return core.traceback_of(err)
  end
  local function one() local x = error("same text", 0) return x end
  local function other() local x = error("same text", 0) return x end
  t.match(run(one), line_of(one))
  pcall(function() -- caught: it is over
    local s = core.scope {}
    local _, err = s:run(one)
    s:finish()
    error(err, 0)
  end)
  t.match(run(other), line_of(other))
  t.eq(core.traceback_of "never raised", nil)
end)

T.test("tracebacks: a cancellation that takes its course has none", function(t)
  local caught
  local s = core.scope { group = true }
  s:run(function()
    s:spawn(function()
      local _ <close> = setmetatable({}, { __close = function(_, err) caught = err end })
      core.sleep(600)
    end)
    core.sleep(0)
  end)
  s:cancel()
  s:wait()
  s:finish()
  t.eq(caught.kind, "cancelled")
  t.eq(caught.traceback, nil)
end)

T.test("tasks: what each is doing", function(t)
  local channel = require "sluice.core.sync".channel(1)
  local s = core.scope { group = true }
  s:run(function()
    s:spawn(function() coroutine.wrap(function() channel:receive() end)() end)
    s:spawn(function() end)
    core.sleep(0)
    s:spawn(core.sleep, 600)
    local by_wait = {}
    for _, info in ipairs(core.tasks()) do
      by_wait[info.waiting_on or info.state] = info
      t.eq(math.type(info.id), "integer")
      t.eq(type(info.traceback), "string")
      t.eq(type(info.spawned_at), "string")
    end
    t.ok(by_wait.running)
    t.match(by_wait.running.at, "scope_test.lua:%d+$", "who asks")
    t.ok(by_wait.ready, "not begun")
    local waiting = t.ok(by_wait["an item in a channel"])
    t.match(waiting.at, "scope_test.lua:%d+$", "inside the coroutine")
    t.match(waiting.spawned_at, "scope_test.lua:%d+$")
    t.ok(waiting.seconds >= 0)
  end)
  s:cancel()
  s:wait()
  s:finish()
end)

T.test("tasks: while the collector does its work", function(t)
  -- Scopes of dropped generators are finished, and their tasks move, while the list is being made.
  for _ = 1, 20 do
    local s = core.scope { group = true }
    s:run(function()
      for _ = 1, 20 do
        coroutine.wrap(function()
          local inner = core.scope { group = true }
          inner:run(function()
            inner:spawn(core.sleep, 600)
            coroutine.yield()
          end)
        end)()
      end
      for _ = 1, 5 do t.ok(#core.tasks() >= 20) end
    end)
    s:cancel()
    s:wait()
    s:finish()
  end
end)

T.test("statistics count up", function(t)
  local before = core.stats()
  local s = core.scope { group = true }
  s:run(function() for _ = 1, 10 do s:spawn(core.sleep, 0) end end)
  s:wait()
  s:finish()
  local after = core.stats()
  t.eq(after.spawned - before.spawned, 10)
  t.ok(after.resumed - before.resumed >= 20)
  t.eq(after.live, before.live)
  t.ok(after.memory > 0)
end)

T.done()
