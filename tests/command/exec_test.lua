-- modes: release
-- The tool every other command test leans on: build/tools/exec and its Lua side.

local T, C = require "harness", require "command"

local function sh(script, options) return C.run({ "sh", "-c", script }, options) end

T.test("hands on arguments, stdin and environment as they are", function(t)
  local r = C.run({ "sh", "-c", 'cat; printf "%s|%s" "$1" "$A" >&2; exit 7', "x", "it's \"q\" $HOME *\n" },
    { stdin = "in\0put", env = { A = "b c" } })
  t.eq(r.stdout, "in\0put")
  t.eq(r.stderr, "it's \"q\" $HOME *\n|b c")
  t.eq({ r.code, r.signal, r.orphans, r.timeout, r.unmet }, { 7, nil, 0, false, nil })
end)

T.test("an environment can be taken away", function(t)
  t.eq(sh('echo "$A-$B"', { env = { A = "1", B = false } }).stdout, "1-\n")
  t.eq(C.run({ "/usr/bin/env" }, { clear_env = true, env = { A = "1" } }).stdout, "A=1\n")
end)

T.test("the folder it runs in", function(t)
  local folder = T.tmpdir()
  t.eq(sh("pwd -P", { cwd = folder }).stdout, folder .. "\n")
end)

T.test("death by a signal is not an exit code", function(t)
  local r = sh "kill -SEGV $$"
  t.eq({ r.signal, r.code }, { 11, nil })
end)

T.test("a program that cannot be started says why", function(t)
  t.match(C.run({ "/no/such/program" }).error, "cannot start /no/such/program: No such file")
  t.raises("did not start.*No such file", C.start, { "/no/such/program" })
end)

T.test("the deadline kills the whole group", function(t)
  local r = sh("sleep 60 & sleep 60", { timeout = 0.2 })
  t.eq({ r.timeout, r.orphans }, { true, 0 })
  t.ok(r.wall < 10)
end)

T.test("what is left running is found and ended, even in a group of its own", function(t)
  local folder = T.tmpdir()
  local r = sh("setsid sh -c 'echo $$ >" .. folder .. "/pid; exec sleep 60' & sleep 60 & "
    .. "while [ ! -s " .. folder .. "/pid ]; do :; done")
  t.eq({ r.code, r.orphans }, { 0, 2 })
  t.eq(os.execute("kill -0 " .. tonumber(T.read(folder .. "/pid")) .. " 2>/dev/null"), nil)
end)

T.test("a child that ends a moment later is no orphan", function(t)
  local r = sh "(read line; echo late) < /dev/null & exit 0"
  t.eq({ r.orphans, r.stdout }, { 0, "late\n" })
end)

T.test("steps wait for each other", function(t)
  local script = [[
    trap 'n=$((n + 1)); echo "caught $n"; [ $n = 3 ] && exit 5' INT
    echo ready; while :; do sleep 0.01; done]]
  local r = sh(script, { steps = {
    { expect = "ready" }, { signal = "INT" }, { expect_stdout = "caught 1" }, { signal = "INT" },
    { expect = "caught 2" }, { signal = "INT" } } })
  t.eq({ r.code, r.stdout }, { 5, "ready\ncaught 1\ncaught 2\ncaught 3\n" })
end)

T.test("signal@text is both steps in one", function(t)
  t.eq(sh("echo up; sleep 60", { steps = { { signal = "TERM@up" } } }).signal, 15)
end)

T.test("a step searches behind what the last one found, in its own stream", function(t)
  local r = sh("echo one; echo one >&2", { steps = { { expect_stdout = "one" }, { expect_stdout = "one" } } })
  t.eq({ r.unmet, r.code }, { "one", 0 })
  r = sh("echo one; echo one >&2", { steps = { { expect_stdout = "one" }, { expect_stderr = "one" } } })
  t.eq(r.unmet, nil)
end)

T.test("a text cut in two by the pipe is found", function(t)
  local r = sh("printf 'hel'; read x; printf 'lo'; read y; exit 3", { steps = {
    { expect = "hel" }, { send = "a\n" }, { expect = "lo" }, { send = "b\n" } } })
  t.eq({ r.code, r.unmet }, { 3, nil })
  -- The text itself in two pieces: nothing else could have told them apart.
  r = sh("printf 'par'; sleep 0.05; printf 'ted\\n'; read x; echo got $x", { steps = {
    { expect = "parted" }, { send = "it\n" } } })
  t.match(r.stdout, "got it")
end)

T.test("stdin stays open until the end of input is sent", function(t)
  t.eq(C.run({ "cat" }, { steps = { { send = "a" }, { expect = "a" }, { send = "b" }, { eof = true } } }).stdout, "ab")
end)

T.test("a reader that goes away", function(t)
  t.eq(C.run({ "yes" }, { steps = { { expect = "y" }, { close_stdout = true } } }).signal, 13)
end)

T.test("a terminal: size, Ctrl-C, Ctrl-D", function(t)
  local r = C.run({ "sh", "-c", "stty size; trap 'echo caught' INT; while read -r x; do echo \"<$x>\"; done; echo end" },
    { pty = "in,out,err", winsize = "132x40", steps = {
      { expect = "40 132" }, { send = "hello\n" }, { expect = "<hello>" }, { eof = true }, { expect = "end" } } })
  t.eq({ r.code, r.unmet }, { 0, nil })
  r = C.run({ "sh", "-c", "echo up; exec sleep 60" },
    { pty = "in,out,err", steps = { { expect = "up" }, { send = "\3" } } })
  t.ok(r.signal == 2 or r.code == 130)
end)

T.test("only stderr on a terminal", function(t)
  local r = sh("[ -t 0 ] && echo in; [ -t 1 ] && echo out; [ -t 2 ] && echo err", { pty = "err" })
  t.eq(r.stdout, "err\n")
  t.match(sh("echo x >&2", { pty = "err" }).stderr, "^x\r\n$")
end)

T.test("much output on both streams at once", function(t)
  local r = sh "yes out | head -c 3000000 & yes err | head -c 3000000 >&2; wait"
  t.eq({ #r.stdout, #r.stderr, r.truncated }, { 3000000, 3000000, false })
end)

T.test("a mistake in the steps is a mistake in the test", function(t)
  t.raises("no such step: expct", sh, "true", { steps = { { expct = "x" } } })
  t.raises("unknown option timeuot", sh, "true", { timeuot = 1 })
  t.match(sh("true", { steps = { { signal = "WHAT" } } }).error, "unknown signal")
end)

T.test("a server beside the test", function(t)
  local p <close> = C.start { "sh", "-c",
    "trap 'echo usr' USR1; trap 'echo bye; exit 4' TERM; echo port 123; while :; do sleep 0.01; done" }
  t.eq(p:expect "port (%d+)", "123")
  p:signal "USR1"
  t.eq(p:expect "usr", "usr")
  local r = p:stop()
  t.eq({ r.code, r.stdout }, { 4, "port 123\nusr\nbye\n" })
end)

T.test("a server that ignores TERM is killed", function(t)
  local p = C.start { "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done" }
  p:expect "up"
  t.eq(p:stop().signal, 9)
end)

T.test("a server that ends too early tells what it said", function(t)
  local p <close> = C.start { "sh", "-c", "echo a; echo b >&2" }
  t.raises('ended without saying "zz"; it said:\na\nb', p.expect, p, "zz")
end)

T.done()
