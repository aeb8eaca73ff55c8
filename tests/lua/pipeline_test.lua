-- sluice.pipeline: order, bounds, errors with their item, counts.
-- timeout: 90

local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local task, pipeline = sluice.task, sluice.pipeline

local function numbers(n)
  local i = 0
  return function()
    i = i + 1
    if i <= n then return i end
  end
end

--- Waits a random number of turns of the loop.
local function jitter()
  for _ = 1, math.random(0, 6) do task.yield() end
end

local function collect(list) return function(item) list[#list + 1] = item end end

T.test("items go through every stage, in order, whatever the concurrency", function(t)
  for _, concurrency in ipairs { 1, 2, 7, 50 } do
    local out, want = {}, {}
    for i = 1, 100 do want[i] = i * 2 .. "!" end
    local counts = pipeline {
      numbers(100),
      { function(x) jitter() return x * 2 end, concurrency = concurrency },
      { function(x) jitter() return x .. "!" end, concurrency = 3 },
      collect(out),
    }
    t.eq(out, want, concurrency)
    t.eq({ counts.read, counts.done, counts.failed, counts.dropped, counts.in_flight }, { 100, 100, 0, 0, 0 })
    t.match(tostring(counts), "^100 read, 100 done, 0 dropped, 0 failed, %d+%.%d s$")
  end
end)

T.test("unordered: all of them, the fast ones first", function(t)
  local out, go = {}, task.channel(1)
  pipeline {
    numbers(6),
    { function(x) if x == 1 then go:receive() end return x end, concurrency = 2, ordered = false },
    function(x)
      out[#out + 1] = x
      if #out == 5 then go:send(true) end -- the first one waits until all others are through
    end,
  }
  t.eq(out, { 2, 3, 4, 5, 6, 1 })
end)

T.test("one slow item holds back a bounded number", function(t)
  local taken, gate, out, counts = 0, task.channel(1), {}, nil
  task.group(function(group)
    group:spawn(function()
      counts = pipeline {
        function() taken = taken + 1 if taken <= 1000 then return taken end end,
        { function(x) if x == 1 then gate:receive() end return x end, concurrency = 4 },
        collect(out),
      }
    end)
    local before
    repeat -- until nothing moves any more
      before = taken
      for _ = 1, 50 do task.yield() end
    until taken == before
    t.ok(taken >= 8 and taken <= 8 + 4 + 2, taken) -- the window, the places before it, one in the source's hand
    t.eq(out, {})
    gate:send(true)
  end)
  t.eq({ #out, out[1], out[1000], counts.done }, { 1000, 1, 1000, 1000 })
end)

T.test("a slow sink slows the source down", function(t)
  local given, most = 0, 0
  pipeline {
    function() given = given + 1 if given <= 300 then return given end end,
    { function(x) return x end, concurrency = 5 },
    { function(x) return x end, concurrency = 5, ordered = false },
    function(x)
      task.yield()
      most = math.max(most, given - x)
    end,
  }
  t.ok(most <= 45, most)
end)

T.test("any number of items takes the memory of few", function(t)
  local n, most = T.slow and 300 or 3000, 0
  collectgarbage()
  local before = collectgarbage "count"
  pipeline {
    function()
      n = n - 1
      if n >= 0 then return ("x"):rep(10000) .. n end -- 30 MB in all
    end,
    { function(text) jitter() return text .. "y" end, concurrency = 8 },
    { function(text) return { text:sub(1, 5000), text:sub(5001) } end, concurrency = 2, flat = true },
    function()
      if n % 100 == 0 then
        collectgarbage()
        most = math.max(most, collectgarbage "count" - before)
      end
    end,
  }
  t.ok(most < 2048, most) -- KiB
end)

T.test("nil drops, flat makes several of one, false is an item", function(t)
  local out = {}
  local counts = pipeline {
    { "a b", "", "c", "no" },
    { function(line)
      if line == "no" then return nil end
      local words = {}
      for word in line:gmatch "%S+" do words[#words + 1] = word end
      return words
    end, concurrency = 2, flat = true },
    function(word) return word == "c" end,
    collect(out),
  }
  t.eq(out, { false, false, true })
  t.eq({ counts.read, counts.done, counts.dropped, counts.in_flight }, { 4, 3, 2, 0 })
end)

T.test("every kind of source", function(t)
  local out = {}
  local channel = task.channel(3)
  for i = 1, 3 do channel:send(i) end
  channel:close()
  pipeline { channel, collect(out) }
  local path = T.write(T.tmpdir() .. "/in.jsonl", '{"id":4}\n{"id":5}\n')
  pipeline { sluice.jsonl.read(path), function(row) return row.id end, collect(out) }
  local server <close> = S.start(function(_, res) S.events(res, S.answer("6\n", "7\n8")) end)
  local stream <close> = S.model(server):stream("x"):lines()
  pipeline { stream, function(line) return tonumber(line) end, collect(out) }
  t.eq(out, { 1, 2, 3, 4, 5, 6, 7, 8 })
  t.eq(pipeline({ {}, print }).read, 0)
  t.raises("element 1 must be a list, a function .* got a string", function() pipeline { "x", print } end)
end)

T.test("an error ends all of it, and names stage and item", function(t)
  local closed, ran = 0, {}
  local err = t.raises("sluice.pipeline: halve, item 5 %(e%-five%): .*odd", function()
    pipeline {
      { { id = "a", 2 }, { id = "b", 4 }, { id = "c", 6 }, { id = "d", 8 }, { id = "e-five", 5 }, { id = "f", 10 } },
      { function(item)
        local _ <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
        ran[#ran + 1] = item.id
        if item[1] % 2 == 1 then error "odd" end
        task.sleep(1000)
        return item
      end, concurrency = 8, name = "halve" },
      print,
    }
  end)
  t.eq(type(err), "string")
  t.ok(#ran >= 5)
  t.eq(closed, #ran)
  err = t.raises("interrupted", function()
    pipeline { { "x" }, function() sluice.errors.raise { kind = "interrupted", message = "gone" } end }
  end)
  t.eq({ err.message, err.stage, err.item }, { "sluice.pipeline: stage 1, item 1 (x): gone", "stage 1", 1 })
  t.raises("sluice.pipeline: the source, after item 2: .*broken", function()
    local next_number = numbers(2)
    pipeline { function() return next_number() or error "broken" end, function() end }
  end)
end)

T.test("on_error: the item is left out, or replaced", function(t)
  local out, seen = {}, {}
  local counts = pipeline {
    numbers(5),
    { function(x) jitter() if x % 2 == 0 then error("even", 0) end return x end, concurrency = 3 },
    collect(out),
    on_error = function(err, item, n, stage)
      seen[#seen + 1] = ("%s %d %d %s"):format(err, item, n, stage)
      if item == 4 then return "four" end
    end,
  }
  t.eq(out, { 1, 3, "four", 5 })
  table.sort(seen)
  t.eq(seen, { "even 2 2 stage 1", "even 4 4 stage 1" })
  t.eq({ counts.failed, counts.done, counts.in_flight }, { 1, 4, 0 })
end)

T.test("progress sees every item leave", function(t)
  local calls, last = 0, nil
  pipeline { numbers(10), function(x) if x > 3 then return x end end, function() end,
    progress = function(counts)
      calls = calls + 1
      last = counts.done + counts.dropped
      t.ok(counts.in_flight >= 0 and counts.elapsed >= 0)
    end }
  t.eq({ calls, last }, { 10, 10 })
end)

T.test("cancelled from outside: nothing is left", function(t)
  local err = t.raises("timeout", task.deadline, 0.02, function()
    pipeline { numbers(1e9), { function(x) task.sleep(0.001) return x end, concurrency = 4 }, function() end }
  end)
  t.eq(err.phase, "deadline")
end)

T.test("a stream that one stage opens and another reads", function(t)
  local server <close> = S.start(function(req, res)
    S.events(res, S.answer("about ", sluice.json.decode(req.body).messages[1].content))
  end)
  local model, out = S.model(server, { limit = { concurrency = 3 } }), {}
  pipeline {
    { "locks", "mills", "weirs", "sluices", "dams" },
    { function(topic) return model:stream(topic) end, concurrency = 2 },
    { function(stream) return stream:reply().text end, concurrency = 2 },
    collect(out),
  }
  t.eq(out, { "about locks", "about mills", "about weirs", "about sluices", "about dams" })
end)

T.test("wrong arguments", function(t)
  t.raises("expected a source and at least one stage", pipeline, { {} })
  t.raises("stage 1: unknown field 'concurency' %(did you mean 'concurrency'", pipeline, { {}, { print, concurency = 2 } })
  t.raises("stage 2 must be a function or", pipeline, { {}, print, 5 })
  t.raises("unknown option 'onerror' %(did you mean 'on_error'", pipeline, { {}, print, onerror = print })
  t.raises("stage 1: field 'flat': nothing comes behind", pipeline, { {}, { print, flat = true } })
end)

T.done()
