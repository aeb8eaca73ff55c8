-- Random programs of tasks, groups, deadlines, shields, generators, permits and items, under each way of
-- collecting garbage. They may fail in any way they like; what must hold is that every round ends, and
-- that nothing is left: no task, no timer, no permit, no item too many or too few.
-- timeout: 120
local T = require "harness"
local sluice = require "sluice"
local core = require "sluice.core.task"

local task = sluice.task
local random = math.random

local KINDS = { cancelled = true, timeout = true, deadlock = true }
local DEPTH = 4

local function closer(f) return setmetatable({}, { __close = f }) end

-- One round's world: what its tasks share, and counts that must come out even.
local function new_world()
  return {
    semaphore = task.semaphore(3), channel = task.channel(4), generators = {}, handles = {}, groups = {},
    sent = 0, received = 0, opened = 0, closed = 0, steps = 0,
  }
end

local step

local function steps(w, depth, n)
  for _ = 1, n do step(w, depth) end
end

-- What a coroutine that is dropped leaves open stays open, as in Lua: only that of tasks is counted.
local function guarded(w, counted)
  if counted then w.opened = w.opened + 1 end
  return closer(function()
    if counted then w.closed = w.closed + 1 end
    if random(4) == 1 then pcall(task.shield, 0.0005, task.sleep, random() * 0.0004) end
  end)
end

local function short() return random() * 0.002 end

local function generator_body(w, depth)
  return function()
    local _ <close> = guarded(w, false)
    for _ = 1, 4 do
      local way = random(5)
      local function stop()
        coroutine.yield()
        if random(2) == 1 then step(w, depth + 1) end
        if random(3) == 1 then coroutine.yield() end
      end
      if way == 1 then task.deadline(short() * 5, stop)
      elseif way == 2 then task.shield(short(), stop)
      elseif way == 3 then
        task.group(function(g)
          g:spawn(steps, w, depth + 1, 2)
          stop()
        end)
      elseif way == 4 then pcall(stop)
      else stop() end
    end
  end
end

local STEPS = {
  function() task.sleep(short() * 0.3) end,
  function() task.yield() end,
  function(w)
    local permit <close> = w.semaphore:acquire(short())
    if permit and random(2) == 1 then task.yield() end
  end,
  function(w) if w.channel:send(true, short()) then w.sent = w.sent + 1 end end,
  function(w) if w.channel:receive(short()) then w.received = w.received + 1 end end,
  function(w, depth)
    task.group(function(g)
      w.groups[#w.groups % 20 + 1] = g
      for _ = 1, random(3) do
        w.handles[random(30)] = g:spawn(function()
          local _ <close> = guarded(w, true)
          steps(w, depth + 1, random(4))
        end)
      end
      step(w, depth + 1)
    end)
  end,
  function(w, depth) task.deadline(short(), steps, w, depth + 1, 3) end,
  function(w, depth) task.shield(short(), steps, w, depth + 1, 2) end,
  function(w, depth) pcall(steps, w, depth + 1, 2) end,
  function(w, depth) xpcall(steps, tostring, w, depth + 1, 2) end,
  function(w, depth)
    w.generators[random(8)] = coroutine.create(generator_body(w, depth))
  end,
  function(w)
    local gen = w.generators[random(8)]
    if gen then coroutine.resume(gen) end
  end,
  function(w)
    local gen = w.generators[random(8)]
    if gen and random(4) == 1 then pcall(coroutine.close, gen) end
  end,
  function(w, depth) coroutine.wrap(steps)(w, depth + 1, 2) end,
  function(w)
    local h = w.handles[random(30)]
    if h then h:cancel() end
  end,
  function(w)
    local h = w.handles[random(30)]
    if h then task.deadline(short(), h.join, h) end
  end,
  function(w)
    local g = w.groups[random(20)]
    if g and random(5) == 1 then g:cancel() end
  end,
  function(w)
    local g = w.groups[random(20)]
    if g then pcall(g.spawn, g, steps, w, DEPTH, 1) end
  end,
  function(w, depth)
    task.race { function() steps(w, depth + 1, 2) end, function() task.sleep(short()) end }
  end,
  function() if random(6) == 1 then error({ kind = "chaos" }, 0) end end,
  function() if random(10) == 1 then core.tasks() end end,
  function() if random(20) == 1 then collectgarbage() else collectgarbage("step", 1) end end,
}

function step(w, depth)
  w.steps = w.steps + 1
  if depth >= DEPTH then return task.yield() end
  STEPS[random(#STEPS)](w, depth)
end

local function expected(err)
  if type(err) == "string" then return err:find "cannot resume" or err:find "has ended" or err:find "join itself" end
  return type(err) == "table" and (KINDS[err.kind] or err.kind == "chaos")
end

local function round(t)
  local w = new_world()
  local before = core.census()
  local ok, err = pcall(task.group, function(g)
    for _ = 1, 12 do
      g:spawn(function()
        for _ = 1, 12 do
          local fine, why = pcall(step, w, 0)
          if not fine and not expected(why) then error(why, 0) end
        end
      end)
    end
  end)
  if not ok and not expected(err) then t.eq(err, "one of the expected errors") end
  w.generators, w.handles, w.groups = {}, {}, {}
  collectgarbage()
  collectgarbage()
  T.until_(function()
    local now = core.census()
    return now.tasks == before.tasks and now.deadlines == before.deadlines
  end, 10, "all of a round's tasks and timers are gone")
  t.eq(w.semaphore:available(), 3, "permits")
  t.eq(#w.channel, w.sent - w.received, "items")
  t.eq(w.closed, w.opened, "closed what was opened")
  return w.steps
end

local COLLECTORS = {
  { "incremental", function() collectgarbage("incremental", 200, 100) end },
  { "stressed", function() collectgarbage("incremental", 0, 400, 4) end },
  { "generational", function() collectgarbage("generational", 5, 20) end },
}

for _, collector in ipairs(COLLECTORS) do
  T.test("rounds with the collector " .. collector[1], function(t)
    collector[2]()
    local done = 0
    local rounds = T.slow and 15 or 60
    for _ = 1, rounds do done = done + round(t) end
    collectgarbage("incremental", 200, 100)
    t.ok(done > rounds * 12)
  end)
end

T.done()
