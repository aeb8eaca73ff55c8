-- The words of progress = "title", on the virtual clock; the drawing is tested in tests/command/progress_test.lua.
local sluice = require "sluice"
local progress = require "sluice.progress"
local term = require "sluice.term"
local test, task = sluice.test, sluice.task

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

--- What f adds to stderr.
local function said(f)
  local methods, lines = getmetatable(io.stderr).__index, {}
  local write = methods.write
  function methods.write(file, ...)
    if file ~= io.stderr then return write(file, ...) end
    lines[#lines + 1] = table.concat { ... }
    return file
  end
  local ok, err = pcall(f)
  methods.write = write
  return table.concat(lines), not ok and err or nil
end

test("done, in flight, failed, rate, time left; a line every five seconds, one at the end", function(t)
  local seen
  local text = said(function()
    task.map(numbers(20), function(i)
      task.sleep(2)
      if i == 11 then seen = progress.shown():line(100) end
      if i == 2 then error "no" end
    end, { concurrency = 4, settle = true, progress = "files" })
  end)
  t.match(seen, "^files  10/20  %[==========>         %]  1 failed  4 in flight  %d%.%d/s  ETA 0:0%d$")
  t.match(text, "^files: 8/20, 1 failed, 4 in flight, 1.%d/s, ETA 0:0%d\nfiles: .*\nfiles: 19 done in 10.0 s, 1 failed\n$")
  t.eq(progress.shown(), nil)
end)

test("tokens and cost of the calls it is made of", function(t)
  local model = t.model { { wait = 1, text = "one two three", usage = { prompt_tokens = 1000, completion_tokens = 500 } },
    name = "priced" }
  sluice.prices { ["mock/priced"] = { input = 1, output = 2 } }
  local text = said(function()
    task.map(numbers(3), function() return model:ask "x".text end, { concurrency = 1, progress = "asks" })
  end)
  t.match(text, "asks: 3 done in 3.00 s, 4.5k tokens, %$0.0060\n$")
end)

test("a line is never wider than the terminal, whatever the title and the width", function(t)
  said(function()
    for _, title in ipairs { "x", ("translate "):rep(20), ("翻译文档"):rep(30) } do
      local shown <close> = progress.start(title, 1000)
      shown.done, shown.failed, shown.in_flight = 340, 12, 64
      task.sleep(3)
      for columns = 2, 140 do
        local line = shown:line(columns)
        t.ok(term.width(line) < columns, columns)
        t.ok(utf8.len(line))
        t.ok(not line:find "\n")
      end
      t.match(shown:line(40), "352/1000")
      t.match(shown:line(140), "12 failed  64 in flight  117/s  ETA 0:06$")
    end
  end)
end)

test("what has made room stays away until the width changes", function(t)
  said(function()
    local shown <close> = progress.start("title", 100000)
    shown.done, shown.in_flight = 10, 1
    task.sleep(1)
    local wide = #shown:line(200)
    shown.done = 10000
    t.ok(not shown:line(wide):find("[", 1, true))
    shown.done = 10
    t.ok(not shown:line(wide):find("[", 1, true))
    t.ok(shown:line(wide + 5):find("[", 1, true))
  end)
end)

test("an error and a cancellation end it with what was done", function(t)
  local text, err = said(function()
    task.map(numbers(10), function(i)
      task.sleep(i)
      if i == 3 then error("no", 0) end
    end, { progress = "work" })
  end)
  t.eq({ text, err }, { "work: ended by an error after 3.00 s, 2 of 10 done\n", "no" })
  text = said(function()
    task.deadline(2.5, function()
      task.map(numbers(10), function(i) task.sleep(i) end, { progress = "work" })
    end)
  end)
  t.eq(text, "work: cancelled after 2.50 s, 2 of 10 done\n")
end)

test("all, race, and a source without a length", function(t)
  local text = said(function()
    t.eq({ task.all { function() return 1 end, function() return 2 end, progress = "all" } }, { 1, 2 })
    t.eq(task.race { function() task.sleep(9) end, function() return "first", 2 end, progress = "race" }, "first")
    local i = 0
    task.map(function()
      i = i + 1
      return i <= 3 and i or nil
    end, function() end, { progress = "source" })
  end)
  t.match(text, "^all: 2 done in 0 s\nrace: 1 done in 0 s\nsource: 3 done in 0 s\n$")
end)

test("a pipeline: items that are through, dropped and left out by on_error", function(t)
  local text = said(function()
    local counts = sluice.pipeline { numbers(10), { function(i)
      task.sleep(1)
      if i == 4 then error "no" end
      if i ~= 5 then return i end
    end, concurrency = 2 }, function() end, on_error = function() end, progress = "rows" }
    t.eq({ counts.done, counts.dropped, counts.failed }, { 8, 1, 1 })
  end)
  t.match(text, "^rows: 8/10, 1 failed, 2 in flight, 1.6/s, ETA 0:01\nrows: 9 done in 5.00 s, 1 failed\n$")
end)

test("one inside of another: both end with a line, the outer one is shown", function(t)
  local shown
  local text = said(function()
    task.map(numbers(2), function()
      task.map(numbers(2), function()
        task.sleep(1)
        shown = progress.shown().title
      end, { progress = "inner" })
    end, { progress = "outer", concurrency = 1 })
  end)
  t.eq(shown, "outer")
  t.eq(text, "inner: 2 done in 1.00 s\ninner: 2 done in 1.00 s\nouter: 2 done in 2.00 s\n")
end)

test("titles are checked, and harmless", function(t)
  t.raises("unknown option 'progres' %(did you mean 'progress'%?%)", function() task.map({}, print, { progres = "x" }) end)
  t.raises("task.all: 'progress' must be a title, got true", function() task.all { progress = true } end)
  t.raises("'progress' must be a title or a function, got 5", function() sluice.pipeline { {}, print, progress = 5 } end)
  local text = said(function() task.map({}, print, { progress = "a\27[2Jb\nc" }) end)
  t.ok(not text:find "\27")
  t.match(text, "^a\\027%[2Jb c: 0 done in 0 s\n$")
end)
