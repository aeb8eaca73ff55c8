-- Signals and guards as a person meets them: what unwinds at which Ctrl-C, what nothing can hold up.
-- (The words on stderr for the plain cases: cli_signal_test.lua.)
-- timeout: 120
local T = require "harness"
local C = require "command"

local folder = T.tmpdir()

-- Every script says what it closes. `wait_for_signal` blocks in C until the signal and then "go" came (GO
-- stands behind the signal), so that the next line printed says that the signal has been received.
local GO = { send = "go\n" }
local HEAD = [[
local task = require "sluice".task
local function say(...) print(...) io.stdout:flush() end
local function closer(name) return setmetatable({}, { __close = function() say("closed " .. name) end }) end
local function wait_for_signal() repeat until io.read() == "go" end
]]

local function script(name, body)
  T.write(folder .. "/" .. name, HEAD .. body)
  return { C.sluice, "run", folder .. "/" .. name }
end

local function run(t, words, steps, options)
  options = options or {}
  options.steps = steps
  local r = C.run(words, options)
  t.eq(r.unmet, nil, r.stdout .. r.stderr)
  t.eq(r.timeout, false, r.stdout .. r.stderr)
  t.ok(not r.stderr:find "internal error", r.stderr)
  return r
end

local function lines(text)
  local list = {}
  for line in text:gmatch "[^\n]+" do list[#list + 1] = line end
  return list
end

local function sorted(text)
  local list = lines(text)
  table.sort(list)
  return list
end

T.test("Ctrl-C: everything unwinds, shielded work is finished first", function(t)
  local r = run(t, script("unwinds.lua", [[
    local _ <close> = closer "main"
    task.group(function(g)
      for i = 1, 2 do
        g:spawn(function()
          local _ <close> = closer("task " .. i)
          while true do pcall(task.sleep, 600) end
        end)
      end
      g:spawn(function()
        coroutine.wrap(function()
          local _ <close> = closer "generator"
          task.sleep(600)
        end)()
      end)
      g:spawn(function()
        task.shield(5, function() say "ready" task.sleep(0.05) say "shielded work done" end)
        say "then cancelled"
        task.sleep(600)
      end)
    end)
  ]]), { { expect = "ready" }, { signal = "INT" } })
  t.eq(r.code, 130)
  local said = lines(r.stdout)
  t.eq(said[#said], "closed main")
  t.eq(said[#said - 1], "then cancelled")
  t.eq(sorted(r.stdout), { "closed generator", "closed main", "closed task 1", "closed task 2", "ready",
    "shielded work done", "then cancelled" })
end)

T.test("two Ctrl-C before the loop has seen the first one", function(t)
  local r = run(t, script("two.lua", [[
    local _ <close> = closer "main"
    say "ready"
    wait_for_signal()
    say "one"
    wait_for_signal()
    task.sleep(600)
  ]]), { { expect = "ready" }, { signal = "INT" }, GO, { expect = "one" }, { signal = "INT" }, GO })
  t.eq(r.code, 130)
  t.match(r.stdout, "closed main")
end)

for name, loop in pairs {
  ["a loop"] = "while true do end",
  ["pcall in a loop"] = "while true do pcall(function() while true do end end) end",
  ["xpcall in a loop"] = "while true do xpcall(function() while true do end end, tostring) end",
  ["coroutines"] = "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
} do
  T.test("a second Ctrl-C ends " .. name .. ", and <close> runs", function(t)
    local r = run(t, script("busy.lua", [[
      local _ <close> = closer "main"
      task.group(function(g)
        g:spawn(function()
          local _ <close> = closer "waiting task"
          task.sleep(600)
        end)
        g:spawn(function()
          local _ <close> = closer "busy task"
          say "ready"
          wait_for_signal()
          say "computing"
          ]] .. loop .. [[
        end)
      end)
    ]]), { { expect = "ready" }, { signal = "INT" }, GO, { expect = "computing" }, { signal = "INT" } })
    t.eq(r.code, 130)
    t.eq(sorted(r.stdout), { "closed busy task", "closed main", "closed waiting task", "computing", "ready" })
  end)
end

local HOPELESS = "local _ = ('a'):rep(3000):find(('.-'):rep(6) .. 'b')"

T.test("a second Ctrl-C ends what keeps errors for itself", function(t)
  local r = run(t, script("load.lua", [[
    local _ <close> = closer "main"
    task.group(function(g)
      g:spawn(function()
        local _ <close> = closer "waiting task"
        task.sleep(600)
      end)
      say "ready"
      wait_for_signal()
      say "computing"
      while true do load(function() while true do end end) end
    end)
  ]]), { { expect = "ready" }, { signal = "INT" }, GO, { expect = "computing" }, { signal = "INT" } })
  t.eq(r.code, 130)
  t.match(r.stdout, "closed waiting task")
end)

T.test("a third Ctrl-C ends it even inside C", function(t)
  local p <close> = C.start(script("hopeless.lua", [[
    local _ <close> = closer "main"
    say "ready"
    ]] .. HOPELESS .. [[
  ]]), { timeout = 30 })
  p:expect "ready"
  for _ = 1, 3 do
    p:signal "INT"
    os.execute "sleep 0.2" -- two of the same kind at once would be one
  end
  local r = p:wait()
  t.eq(r.timeout, false)
  t.eq(r.code, 130)
  t.ok(not r.stdout:find "closed", "nothing that may hang stands in between")
end)

T.test("SIGTERM ends a script that computes, and <close> runs", function(t)
  local r = run(t, script("term.lua", [[
    local _ <close> = closer "main"
    say "ready"
    while true do pcall(function() while true do end end) end
  ]]), { { expect = "ready" }, { signal = "TERM" } }, { timeout = 60 })
  t.eq(r.code, 143)
  t.match(r.stdout, "closed main")
end)

T.test("SIGTERM for a program that ends itself: only the task that computes is interrupted", function(t)
  local r = run(t, script("drain.lua", [[
    local sys = require "sluice.core.sys"
    task.group(function(g)
      g:spawn(function()
        sys.wait_terminate()
        say "asked to end"
        local rounds = 0
        local until_s = os.clock() + 0.5
        while os.clock() < until_s do
          rounds = rounds + 1
          if rounds % 100 == 0 then task.yield() end
        end
        say(pcall(error, "errors are caught as ever", 0))
      end)
      g:spawn(function()
        task.yield()
        local ok, err = pcall(task.group, function(inner)
          inner:spawn(function()
            local _ <close> = closer "computing task"
            say "ready"
            while true do pcall(function() while true do end end) end
          end)
        end)
        say(ok, err.kind)
      end)
    end)
  ]]), { { expect = "ready" }, { signal = "TERM" } }, { timeout = 60 })
  t.eq(r.code, 143)
  t.eq(sorted(r.stdout), { "asked to end", "closed computing task", "false\tcancelled", "false\terrors are caught as ever",
    "ready" })
end)

T.test("a signal in the last moments decides the exit code", function(t)
  local r = run(t, script("last.lua", [[
    say "ready"
    wait_for_signal()
    say "done anyway"
  ]]), { { expect = "ready" }, { signal = "INT" }, GO })
  t.eq(r.stdout, "ready\ndone anyway\n")
  t.eq(r.code, 130, ("signal %s, %s"):format(r.signal, r.stderr))
end)

T.test("SIGUSR1 does not disturb", function(t)
  local r = run(t, script("usr1.lua", [[
    local c = task.channel(1)
    task.group(function(g)
      g:spawn(function() coroutine.wrap(function() c:receive() end)() end)
      say "ready"
      for _ = 1, 3 do
        wait_for_signal()
        task.sleep(0.02)
        say "slept"
      end
      c:send "go"
    end)
    say "done"
  ]]), { { expect = "ready" }, { signal = "USR1" }, GO, { expect = "slept" }, { signal = "USR1" },
    GO, { expect = "slept" }, { signal = "USR1" }, GO })
  t.eq(r.code, 0)
  t.eq(r.stdout, "ready\nslept\nslept\nslept\ndone\n")
  local _, dumps = r.stderr:gsub("sluice: 2 tasks\n", "")
  t.ok(dumps >= 2 and dumps <= 3, r.stderr)
  t.match(r.stderr, "waiting on an item in a channel")
  t.match(r.stderr, "usr1.lua:7")
end)

T.test("a task that does not wait is reported, once, with the place", function(t)
  local words = script("long.lua", [[
    local function computes()
      local until_s = os.clock() + 0.6
      while os.clock() < until_s do end
    end
    computes()
    say "done"
  ]])
  table.insert(words, 3, "-v")
  local r = run(t, words)
  t.eq(r.code, 0)
  t.eq(r.stdout, "done\n")
  local _, count = r.stderr:gsub("has held the processor", "")
  t.eq(count, 1, r.stderr)
  t.match(r.stderr, "a task has held the processor for %d00 ms; others wait meanwhile")
  t.match(r.stderr, "long.lua:%d+: in %a+ 'computes'")
end)

T.test("--max-burst ends what no hook can: a message handler that loops, a call of C", function(t)
  for name, body in pairs {
    ["handler.lua"] = "xpcall(error, function() while true do end end)",
    ["c.lua"] = HOPELESS,
  } do
    local words = script(name, "say 'ready' " .. body)
    table.insert(words, 3, "--max-burst=0.1")
    local r = run(t, words, nil, { timeout = 90 })
    t.eq(r.code, 1, name)
    t.eq(r.stdout, "ready\n")
    t.match(r.stderr, "sluice: cpu: a task that had to end does not come out of a call; the program ends here\n")
  end
end)

T.done()
