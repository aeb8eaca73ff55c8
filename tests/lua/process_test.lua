-- sluice.core.process: child processes on the loop.
local T = require "harness"
local sluice = require "sluice"
local process = require "sluice.core.process"

local task = sluice.task

local function spawn(opts)
  local child, why = process.spawn(opts)
  return assert(child, why)
end

local function sh(code, opts)
  local o = { argv = { "sh", "-c", code } }
  for key, value in pairs(opts or {}) do o[key] = value end
  return spawn(o)
end

local function gone(pid)
  local stat = io.open("/proc/" .. pid .. "/stat")
  if not stat then return true end
  local state = (stat:read "a" or ""):match "%) (%a)" -- nothing is read of one that ends at this moment
  stat:close()
  return state == nil or state == "Z"
end

T.test("exit codes, signals, output of both kinds", function(t)
  local child = sh "echo out; echo err >&2; exit 7"
  t.eq({ child:wait() }, { 7, nil, "ended" })
  t.eq({ child:output() }, { "out\n", "err\n" })
  t.eq({ child:output() }, { "", "" }, "taken once")
  t.eq({ (sh "kill -15 $$"):wait() }, { nil, 15, "ended" })
  t.eq({ (sh "exit 0"):wait() }, { 0, nil, "ended" })
  child = sh("echo out; echo err >&2", { stderr = "stdout" })
  child:wait()
  t.eq({ child:output() }, { "out\nerr\n", "" })
  child = sh("echo out; echo err >&2", { stdout = "null" })
  child:wait()
  t.eq({ child:output() }, { "", "err\n" })
end)

T.test("no shell, and not a word changed", function(t)
  local words = { "$HOME", "a b", "", "'", '"', "*", "中文", "\\n", ";ls", "-n" }
  local child = spawn { argv = { "printf", "%s|", table.unpack(words) } }
  child:wait()
  t.eq((child:output()), table.concat(words, "|") .. "|")
end)

T.test("what cannot be started", function(t)
  -- valgrind makes a fork of it, which has begun when exec fails
  if (os.getenv "LD_PRELOAD" or ""):find "vgpreload" then t.skip "valgrind cannot tell a failed exec" end
  local function words(opts) return select(2, process.spawn(opts)) end
  t.eq(words { argv = { "no-such-program-here" } }, "cannot run 'no-such-program-here': no such program in PATH")
  t.eq(words { argv = { "./no/such" } }, "cannot run './no/such': No such file or directory")
  t.match(words { argv = { "true" }, folder = "/no/such" }, "cannot run 'true' in /no/such: No such file")
  t.raises("a list of words expected", process.spawn, { argv = {} })
  t.raises("name of the program is empty", process.spawn, { argv = { "" } })
  t.raises("a word of the command must be a string, got number", process.spawn, { argv = { "x", 5 } })
  t.raises("holds a NUL byte", process.spawn, { argv = { "x", "a\0b" } })
  t.raises("stdin: 'pipe', 'null' or 'inherit' expected", process.spawn, { argv = { "x" }, stdin = "stdout" })
  t.raises("env: a table of variables", process.spawn, { argv = { "x" }, env = { ["A=B"] = "c" } })
  t.eq(process.count(), 0)
end)

T.test("the environment: added to, replaced, taken away", function(t)
  local child = sh('echo "$A|$PATH|${HOME-unset}|$B"', { env = { A = "1", HOME = false, B = sluice.secret.literal("s=x") } })
  child:wait()
  t.eq((child:output()), ("1|%s|unset|s=x\n"):format(os.getenv "PATH"))
end)

T.test("a child has clean signals, no descriptor of ours, a group of its own", function(t)
  local file <close> = assert(io.open("/dev/null")) -- luacheck: ignore 211
  local server <close> = sluice.server.listen { handler = function() end } -- luacheck: ignore 211
  local child = sh "grep -E '^Sig(Blk|Ign):' /proc/self/status; ls /proc/self/fd; echo; cut -d' ' -f5 /proc/$$/stat"
  child:wait()
  local out = child:output()
  t.match(out, "SigBlk:%s*0+\n")
  local ignored = tonumber(t.match(out, "SigIgn:%s*(%x+)\n"), 16)
  t.eq(ignored & 0x7fffffff, 0, "beyond 31 are the C library's own")
  t.match(out, "\n0\n1\n2\n3\n\n", "3 is the folder that ls reads")
  t.match(out, "\n" .. child:pid() .. "\n$")
end)

T.test("input: whole, and as it goes", function(t)
  local big = ("0123456789abcdef"):rep(200000)
  local child = spawn { argv = { "cat" }, input = big }
  t.eq({ child:wait() }, { 0, nil, "ended" })
  t.ok(child:output() == big)
  child = spawn { argv = { "cat" }, stdin = "pipe", streams = true }
  local size = 0
  task.group(function(group)
    group:spawn(function()
      for _ = 1, 100 do t.ok(child:write(("x"):rep(50000))) end
      child:finish()
    end)
    for piece in function() return child:read() end do size = size + #piece end
  end)
  t.eq(size, 5000000)
  t.eq((child:wait()), 0)
  t.raises("after finish", child.write, child, "x")
end)

T.test("a child that does not read: writing says so", function(t)
  local child = sh("exec 0<&-; echo closed; sleep 5", { stdin = "pipe", streams = true })
  t.eq(child:read(), "closed\n")
  T.until_(function() return not child:write "more" end)
  child:close()
  t.ok(true)
end)

T.test("a slow reader holds the child up: bounded memory", function(t)
  local child <close> = spawn { argv = { "yes" }, streams = true }
  local asleep = 0 -- in a row: it sleeps only when the pipe is full and nobody reads
  T.until_(function()
    local stat <close> = assert(io.open("/proc/" .. child:pid() .. "/stat"))
    asleep = stat:read "a":match "%) S" and asleep + 1 or 0
    return asleep >= 10
  end)
  local first = child:read()
  t.ok(#first >= 65536 and #first <= 65536 + 16384, #first)
end)

T.test("what it printed before its end arrives whole, however slow the reader", function(t)
  local child <close> = sh("head -c 130000 /dev/zero", { streams = true })
  T.until_(function() return process.count() == 0 end)
  task.sleep(1.3) -- longer than a pipe that somebody else holds is waited for; nothing happens meanwhile
  local size = 0
  for piece in function() return child:read() end do size = size + #piece end
  t.eq(size, 130000)
  t.eq({ child:wait() }, { 0, nil, "ended" })
end)

T.test("too much output is too much, even of a program that has ended", function(t)
  for _ = 1, 20 do
    local child <close> = sh("head -c 60000 /dev/zero", { out_max = 1000 })
    T.until_(function() return process.count() == 0 end)
    t.eq(select(3, child:wait()), "overflow")
  end
end)

T.test("of stderr the end is kept, and nothing else is in the way", function(t)
  local child = sh("i=0; while [ $i -lt 20000 ]; do echo line $i >&2; i=$((i+1)); done; echo done",
    { streams = true, err_tail = true, err_max = 1000 })
  t.eq(child:read(), "done\n")
  t.eq({ child:wait() }, { 0, nil, "ended" })
  local _, stderr = child:output()
  t.ok(#stderr >= 1000 and #stderr < 2000 + 16384, #stderr)
  t.match(stderr, "line 19998\nline 19999\n$")
end)

T.test("more output than is allowed ends it", function(t)
  local child = sh("yes", { out_max = 100000 })
  t.eq({ child:wait() }, { nil, 9, "overflow" })
  t.ok(#child:output() <= 100000)
end)

T.test("a timeout ends the whole group; what ignores SIGTERM is killed", function(t)
  local child = sh("sleep 100 & echo $!; exec sleep 100", { timeout = 0.1, streams = true })
  local pid = child:read():match "%d+"
  t.eq({ child:wait() }, { nil, 15, "timeout" })
  T.until_(function() return gone(pid) end)
  child = sh("trap '' TERM; while :; do sleep 1; done", { timeout = 0.1 })
  local began = task.now()
  t.eq({ child:wait() }, { nil, 9, "timeout" })
  t.ok(task.now() - began < (T.slow and 8 or 3))
end)

T.test("a grandchild that holds the pipes does not hold us up for long", function(t)
  local child = sh "sleep 300 & echo $!"
  local began = task.now()
  t.eq((child:wait()), 0)
  t.ok(task.now() - began < (T.slow and 8 or 3))
  local pid = child:output():match "%d+"
  t.ok(not gone(pid), "it was started on purpose, and is left alone")
  os.execute("kill " .. pid)
end)

T.test("a child belongs to the group that started it", function(t)
  local pid
  t.raises("timeout", task.deadline, 0.05, task.group, function()
    local child = sh "sleep 100"
    pid = child:pid()
    child:wait()
  end)
  T.until_(function() return gone(pid) end)
  T.until_(function() return process.count() == 0 end)
  local kept = task.group(function() return sh "echo kept" end)
  kept:wait()
  t.eq((kept:output()), "kept\n", "handed on with the result")
end)

T.test("closed, dropped, stopped, signalled", function(t)
  local child = sh "sleep 100"
  child:close()
  child:close()
  t.raises("it has been closed", child.wait, child)
  T.until_(function() return process.count() == 0 end)
  child = sh("trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.01; done", { streams = true })
  t.eq(child:read(), "ready\n")
  child:signal "USR1"
  t.eq({ child:wait() }, { 5, nil, "ended" })
  child = sh "kill -STOP $$; sleep 100"
  child:stop()
  t.eq({ child:wait() }, { nil, 15, "stopped" })
  do
    local dropped = sh "sleep 100" -- luacheck: ignore 211
  end
  collectgarbage()
  collectgarbage()
  T.until_(function() return process.count() == 0 end)
end)

T.test("many at once", function(t)
  local n = T.slow and 60 or 200
  local codes = task.map(setmetatable({}, { __len = function() return n end, __index = function(_, i) return i end }),
    function(i)
      local child = sh("echo " .. i .. "; exit " .. i % 7)
      local code = child:wait()
      t.eq((child:output()), i .. "\n")
      return code
    end, { concurrency = 20 })
  for i = 1, n do if codes[i] ~= i % 7 then t.eq(codes[i], i % 7) end end
  t.eq(process.count(), 0)
end)

T.done()
