-- all, race and map: results in order, who is cancelled when, and errors. Cases in the spirit of
-- effection's test/all.test.ts, race.test.ts and spawn.test.ts.
local T = require "harness"
local sluice = require "sluice"

local task = sluice.task

local function closer(f) return setmetatable({}, { __close = f }) end

local function after(s, value)
  return function() task.sleep(s) return value end
end

local function failing(s, err)
  return function() task.sleep(s) error(err, 0) end
end

-- all -----------------------------------------------------------------------------------------------

T.test("all: resolves when all tasks do, in the order of the list", function(t)
  t.eq(table.pack(task.all { after(0.003, "foo"), after(0.001, "bar"), after(0, "baz") }),
    { "foo", "bar", "baz", n = 3 })
end)

T.test("all: of nothing, of functions that do not wait, of nils", function(t)
  t.eq(select("#", task.all {}), 0)
  t.eq(table.pack(task.all { function() return 1 end, function() end, function() return 3, 33 end }),
    { 1, nil, 3, n = 3 })
end)

T.test("all: they run at the same time", function(t)
  local running, most = 0, 0
  local function f()
    running = running + 1
    most = math.max(most, running)
    task.yield()
    running = running - 1
  end
  task.all { f, f, f, f, f }
  t.eq(most, 5)
end)

T.test("all: rejects when one fails, and the others are cancelled", function(t)
  local cancelled = 0
  local function waits()
    local _ <close> = closer(function() cancelled = cancelled + 1 end)
    task.sleep(600)
  end
  t.raises("^boom$", task.all, { waits, failing(0.001, "boom"), waits })
  t.eq(cancelled, 2)
  t.raises("^sync$", task.all, { waits, function() error("sync", 0) end })
end)

T.test("all: the failure that came first is raised, not the first of the list", function(t)
  t.raises("^second$", task.all, { failing(0.01, "first"), failing(0.001, "second") })
end)

T.test("all: misuse", function(t)
  t.raises("task.all: argument 1 must be a list of functions, got", task.all, 1)
  t.raises("task.all: argument 2 must be a function", task.all, { print, 1 })
end)

-- race ----------------------------------------------------------------------------------------------

T.test("race: the first to succeed wins, with all its results, and the others have ended", function(t)
  local ended = false
  t.eq(table.pack(task.race {
    function()
      local _ <close> = closer(function() task.shield(1, task.sleep, 0.002) ended = true end)
      task.sleep(600)
    end,
    function() task.sleep(0.001) return "won", nil, 3, nil end,
  }), { "won", nil, 3, nil, n = 4 })
  t.eq(ended, true)
end)

T.test("race: a failure does not win", function(t)
  t.eq(task.race { failing(0, "early"), after(0.002, "late") }, "late")
end)

T.test("race: all fail: the first error, the others in `also`, in time", function(t)
  local ok, err = pcall(task.race, {
    failing(0.004, { n = 1 }), failing(0.001, { n = 2 }), failing(0.002, { n = 3 }) })
  t.eq(ok, false)
  t.eq(err, { n = 2, also = { { n = 3 }, { n = 1 } } })
end)

T.test("race: nil is a result", function(t)
  t.eq(select("#", task.race { function() end, after(600) }), 0)
  t.eq(table.pack(task.race { function() return nil end, after(600) }), { nil, n = 1 })
end)

T.test("race: the first of the list, when several are ready at once", function(t)
  t.eq(task.race { function() return 1 end, function() return 2 end }, 1)
end)

T.test("race: cancelled from outside, all end", function(t)
  local ended = 0
  local function waits()
    local _ <close> = closer(function() ended = ended + 1 end)
    task.sleep(600)
  end
  t.raises("timeout", task.deadline, 0.002, task.race, { waits, waits, waits })
  t.eq(ended, 3)
end)

T.test("race: misuse", function(t)
  t.raises("not empty", task.race, {})
  t.raises("not empty", task.race, nil)
  t.raises("task.race: argument 2 must be a function", task.race, { print, 1 })
end)

-- map -----------------------------------------------------------------------------------------------

T.test("map: results in the order of the items, the index is given", function(t)
  t.eq(task.map({ 5, 3, 1 }, function(x, i) task.sleep(x / 1000) return x * 10 + i end), { 51, 32, 13 })
  t.eq(task.map({}, print), {})
end)

T.test("map: at most `concurrency` at a time, and that many", function(t)
  local items = {}
  for i = 1, 30 do items[i] = i end
  local running, most = 0, 0
  local function work()
    running = running + 1
    most = math.max(most, running)
    task.yield()
    running = running - 1
  end
  task.map(items, work, { concurrency = 4 })
  t.eq(most, 4)
  most = 0
  task.map(items, work)
  t.eq(most, 30)
  most = 0
  for i = 1, 200 do items[i] = i end
  task.map(items, work)
  t.eq(most, 64, "the default")
  most = 0
  task.map(items, work, { concurrency = 1 })
  t.eq(most, 1)
end)

T.test("map: a failure ends the whole, what has not begun does not begin", function(t)
  local begun = 0
  t.raises("^boom$", task.map, { 1, 2, 3, 4, 5, 6 }, function(i)
    begun = begun + 1
    task.sleep(0.001)
    if i == 2 then error("boom", 0) end
    task.sleep(600)
  end, { concurrency = 2 })
  t.eq(begun, 2)
end)

T.test("map: settle", function(t)
  t.eq(task.map({ 1, 2, 3 }, function(i)
    if i == 2 then error({ kind = "server" }, 0) end
    return i
  end, { settle = true }), { { ok = true, value = 1 }, { ok = false, err = { kind = "server" } },
    { ok = true, value = 3 } })
end)

T.test("map: items from a function", function(t)
  local i = 0
  t.eq(task.map(function() i = i + 1 return i <= 5 and i or nil end, function(x) return x * x end),
    { 1, 4, 9, 16, 25 })
  t.eq(i, 6, "not asked again after its end")
end)

T.test("map: items from a generator that waits", function(t)
  local calls, most = 0, 0
  local pages = coroutine.wrap(function()
    for page = 1, 5 do
      calls = calls + 1
      most = math.max(most, calls)
      task.sleep(0.001)
      calls = calls - 1
      for j = 1, 3 do coroutine.yield(page * 10 + j) end
    end
  end)
  t.eq(task.map(pages, function(x) task.yield() return x end, { concurrency = 8 }),
    { 11, 12, 13, 21, 22, 23, 31, 32, 33, 41, 42, 43, 51, 52, 53 })
  t.eq(most, 1, "one task asks at a time")
end)

T.test("map: the source of items fails", function(t)
  local i = 0
  t.raises("^no more pages$", task.map, function()
    i = i + 1
    if i == 3 then error("no more pages", 0) end
    return i
  end, function() task.sleep(600) end, { concurrency = 5 })
end)

T.test("map: misuse", function(t)
  t.raises("task.map: argument 1 must be a list", task.map, 5, print)
  t.raises("task.map: argument 2 must be a function", task.map, {}, 5)
  t.raises("concurrency", task.map, {}, print, { concurrency = 0 })
  t.raises("did you mean.*concurrency", task.map, {}, print, { concurency = 2 })
end)

-- Within each other ---------------------------------------------------------------------------------

T.test("they nest", function(t)
  local a, b = task.all {
    function() return task.race { after(600), after(0.001, "race in all") } end,
    function() return task.map({ 1, 2 }, function(i) return (task.all { after(0, i) }) end) end,
  }
  t.eq(a, "race in all")
  t.eq(b, { 1, 2 })
end)

T.test("inside a generator", function(t)
  local gen = coroutine.wrap(function()
    for i = 1, 3 do
      coroutine.yield(task.race { after(600), after(0, i) })
      coroutine.yield((task.all { after(0.001, -i), after(0) }))
    end
  end)
  local got = {}
  for x in gen do got[#got + 1] = x end
  t.eq(got, { 1, -1, 2, -2, 3, -3 })
end)

T.done()
