-- sluice.process: programs as scripts run them.
local T = require "harness"
local sluice = require "sluice"

local process, task = sluice.process, sluice.task

local function sh(code, opts)
  local command = { "sh", "-c", code }
  for key, value in pairs(opts or {}) do command[key] = value end
  return command
end

local function gone(pid)
  local stat = io.open("/proc/" .. pid .. "/stat")
  if not stat then return true end
  local state = (stat:read "a" or ""):match "%) (%a)" -- nothing is read of one that ends at this moment
  stat:close()
  return state == nil or state == "Z"
end

T.test("run: what became of it", function(t)
  local r = process.run(sh "echo out; echo err >&2; cat", { input = "never read" })
  t.eq({ r.code, r.signal, r.stdout, r.stderr }, { 0, nil, "out\n", "err\n" })
  t.ok(r.elapsed > 0 and r.elapsed < 10, r.elapsed)
  r = process.run(sh("cat; exit 3", { input = "in\n\n", check = false }))
  t.eq({ r.code, r.stdout, r:text() }, { 3, "in\n\n", "in" })
  t.eq(tostring(r), "in")
  r = process.run(sh("kill -9 $$", { check = false }))
  t.eq({ r.code, r.signal }, { nil, 9 })
  t.eq(process.run { "printf", "[%s]", "$HOME", "a b", "", "*", 7 }.stdout, "[$HOME][a b][][*][7]")
  t.eq(process.run { "echo $((6 * 7)) | tr 4 5", shell = true }:text(), "52")
  t.eq(process.run { "pwd", cwd = "/" }:text(), "/")
  t.eq(process.run(sh('echo "$A${HOME-unset}"', { env = { A = "a", HOME = false } })):text(), "aunset")
  t.eq(process.run(sh("echo out; echo err >&2", { stderr = "merge" })).stdout, "out\nerr\n")
  r = process.run(sh("echo out; echo err >&2", { stdout = "null", stderr = "null" }))
  t.eq({ r.stdout, r.stderr }, { "", "" })
end)

T.test("run: a result's lines and JSON", function(t)
  local lines = {}
  for line in process.run { "printf", "a\n\nb\nc" }:lines() do lines[#lines + 1] = line end
  t.eq(lines, { "a", "", "b", "c" })
  t.eq(process.run { "echo", '{"n":1}' }:json(), { n = 1 })
  t.raises("protocol", function() process.run { "echo", "{" }:json() end)
end)

T.test("run: failures say who, what, and what it said", function(t)
  local err = t.raises({ kind = "server", code = "exit" }, process.run, sh "echo lost; echo 'fatal: no such ref' >&2; exit 128")
  t.match(tostring(err), "^server: 'sh' exited with 128: fatal: no such ref %(code exit, %d")
  t.eq({ err.result.code, err.result.stdout, err.result.stderr }, { 128, "lost\n", "fatal: no such ref\n" })
  err = t.raises({ kind = "server", code = "signal" }, process.run, sh "kill -9 $$")
  t.match(tostring(err), "ended by signal 9 %(Killed%)")
  err = t.raises({ kind = "server" }, process.run, sh "seq 1000 >&2; echo 中文 the end >&2; exit 1")
  t.match(err.message, "….* 中文 the end$")
  t.ok(#err.message < 400, #err.message)
  t.ok(utf8.len(err.message))
  err = t.raises({ kind = "timeout", phase = "process" }, process.run, sh("echo so far; sleep 60", { timeout = 0.1 }))
  t.eq(err.result.stdout, "so far\n")
  err = t.raises({ kind = "protocol", code = "too_large" }, process.run, { "yes", output_max = 1000, check = false })
  t.match(err.message, "more than 1000 bytes %(option 'output_max'%)")
end)

T.test("run: what cannot be started", function(t)
  if (os.getenv "LD_PRELOAD" or ""):find "vgpreload" then t.skip "valgrind cannot tell a failed exec" end
  local err = t.raises({ kind = "invalid", code = "no_program" }, process.run, { "no-such-program-here" })
  t.match(tostring(err), "no such program in PATH")
  t.match(err.hint, "PATH is /")
  err = t.raises({ kind = "invalid", code = "no_program" }, process.run, { "Makefile" })
  t.match(err.hint, "write '%./Makefile'")
  t.raises({ kind = "invalid", code = "no_program" }, process.run, { "./Makefile" })
  t.raises({ kind = "invalid", code = "no_folder" }, process.run, { "true", cwd = "/no/such" })
  t.raises({ kind = "invalid", code = "no_program" }, process.stream, { "no-such-program-here" })
end)

T.test("a wrong command is said at the line that gives it", function(t)
  local function wrong(command, words)
    t.raises(words, process.run, command)
    t.raises(words, process.stream, command)
  end
  wrong("ls", "expected a table, a program and its arguments first, got a string")
  wrong({}, "the program is missing")
  wrong({ "" }, "the program is missing")
  wrong({ "a", {} }, "word 2 must be a string, got an empty table")
  wrong({ "a", 1.5 }, "word 2 must be a string, got 1.5")
  wrong({ "a", [4] = "b" }, "word 4 stands behind one that is nil")
  wrong({ "a\0b" }, "word 1 holds a NUL byte")
  wrong({ "a", sluice.secret.literal "s3cret" }, "word 2 is a secret, and every user")
  wrong({ "a", "b", shell = true }, "one string, the shell's; got 2 words")
  wrong({ "a", timout = 1 }, "unknown option 'timout' %(did you mean 'timeout'%?%)")
  wrong({ "a", timeout = 0 }, "'timeout' must be a number of seconds above 0, got 0")
  wrong({ "a", env = { A = 1 } }, "'env.A' must be a string, a secret or false, got 1")
  wrong({ "a", env = { ["A="] = "1" } }, "must be a table of variables by name")
  wrong({ "a", stderr = "captur" }, "did you mean 'capture'")
  t.raises("'input' must be a string or a secret, got true", process.run, { "a", input = true })
  t.raises("'input' must be a string, a secret, or true", process.stream, { "a", input = 5 })
  local _, err = sluice.try(process.run, { "a", 1.5 })
  t.match(err, "^[^\n]*process_run_test%.lua:%d+: sluice%.process%.run: ")
end)

T.test("secrets reach the program, and no message", function(t)
  local key = sluice.secret.literal "very-s3cret-value"
  t.eq(process.run(sh("printf %s \"$KEY\"; cat", { env = { KEY = key }, input = key })).stdout,
    "very-s3cret-valuevery-s3cret-value")
  local err = t.raises("server", process.run, sh("echo \"bad key $KEY\" >&2; exit 1", { env = { KEY = key } }))
  t.match(err.message, "bad key")
  t.ok(not tostring(err):find("very-s3cret-value", 1, true), tostring(err))
end)

T.test("stream: lines, in whatever pieces they come", function(t)
  local lines = {}
  local function read(command, opts)
    lines = {}
    for line in process.stream(sh(command, opts)):lines() do lines[#lines + 1] = line end
    return lines
  end
  t.eq(read "printf 'a\\n\\nb\\nc'", { "a", "", "b", "c" })
  t.eq(read "true", {})
  t.eq(read "printf '\\n'", { "" })
  t.eq(read "for i in 1 2 3; do printf 'one '; printf \"line $i\\n\"; done", { "one line 1", "one line 2", "one line 3" })
  t.eq(read "echo err >&2; echo out", { "out" })
  t.eq(read("echo err >&2; echo out", { stderr = "merge" }), { "err", "out" })
  read "head -c 300000 /dev/zero | tr '\\0' x; echo; seq 20000"
  t.eq({ #lines, #lines[1], lines[2], lines[20001] }, { 20001, 300000, "1", "20000" })
end)

T.test("stream: a failure comes after the last line, once it is known", function(t)
  local lines = {}
  local child <close> = process.stream(sh "echo one; echo two; echo why >&2; exit 4")
  local err = t.raises({ kind = "server", code = "exit" }, function()
    for line in child:lines() do lines[#lines + 1] = line end
  end)
  t.eq(lines, { "one", "two" })
  t.match(err.message, "exited with 4: why")
  t.eq(err.result.stderr, "why\n")
  t.raises({ kind = "server", code = "exit" }, child.wait, child)
  t.eq(child:read_line(), nil)
  local tolerant <close> = process.stream(sh("echo one; exit 4", { check = false }))
  for _ in tolerant:lines() do t.ok(true) end
  t.eq(tolerant:wait().code, 4)
  t.raises({ kind = "timeout", phase = "process" }, function()
    for _ in process.stream(sh("echo one; sleep 60", { timeout = 0.1 })):lines() do t.ok(true) end
  end)
end)

T.test("stream: a conversation, and the end of input", function(t)
  local child <close> = process.stream { "cat", input = true }
  t.eq(child:write "hello\nwor", true)
  t.eq(child:read_line(), "hello")
  child:write(sluice.secret.literal "ld")
  child:close_input()
  child:close_input()
  t.eq({ child:read_line(), child:read_line() }, { "world" })
  t.raises("its input has been closed", child.write, child, "x")
  t.eq(child:wait().code, 0)
  t.match(tostring(child), "cat, pid %d+, ended")
  local bc <close> = process.stream { "sh", "-c", "while read l; do echo $((l * 2)); done", input = true }
  for i = 1, 50 do
    bc:write(i .. "\n")
    t.eq(bc:read_line(), tostring(i * 2))
  end
  t.eq(bc:wait().code, 0, "wait closes the input")
  local given <close> = process.stream { "cat", input = "all of it" }
  t.eq(given:read(), "all of it")
  t.raises("start it with input = true", given.write, given, "x")
end)

T.test("stream: a deadline in the middle of a line loses nothing", function(t)
  local child <close> = process.stream { "cat", input = true }
  child:write "begin"
  local begun = task.now()
  repeat -- until the beginning has come
    t.raises("timeout", task.deadline, 0.02, child.read_line, child)
  until child.out.size == 5 or task.now() - begun > 5
  child:write " end\nrest"
  t.eq(child:read_line(), "begin end")
  child:close_input()
  t.eq(child:read() or "", "rest")
  t.eq(child:read(), nil)
end)

T.test("stream: both kinds of output, each in its task", function(t)
  local child <close> = process.stream(sh("for i in $(seq 5000); do echo out $i; echo err $i >&2; done",
    { stderr = "stream" }))
  local function all(which)
    local n, last = 0, nil
    for line in child:lines(which) do n, last = n + 1, line end
    return { n, last }
  end
  local out, err = task.all { function() return all() end, function() return all "stderr" end }
  t.eq({ out, err }, { { 5000, "out 5000" }, { 5000, "err 5000" } })
  t.raises("stderr = \"stream\"", function() process.stream({ "true" }):lines "stderr" end)
  local late <close> = process.stream(sh("echo err >&2; echo out", { stderr = "stream" }))
  t.eq({ late:read_line(), late:read_line() }, { "out" })
  t.eq(late:wait().code, 0)
  local after <close> = process.stream(sh("echo err >&2; echo out", { stderr = "stream" }))
  for _ in after:lines() do t.ok(true) end
  t.eq(after:read_line "stderr", "err", "read when all is over")
end)

T.test("stream: two readers of one pipe are told so", function(t)
  local child <close> = process.stream { "sleep", "60" }
  task.group(function(group)
    group:spawn(function() child:read_line() end)
    task.sleep(0)
    t.raises("another task is already reading its stdout", child.read_line, child)
    t.raises("cancelled", function() group:cancel() task.sleep(0) end)
  end)
end)

T.test("stream: closed by break, by the block, by a failure of the reader", function(t)
  local child
  do
    child = process.stream(sh "echo $$; while :; do sleep 1; done")
    for line in child:lines() do -- luacheck: ignore 512
      t.eq(line, tostring(child.pid))
      break
    end
    t.raises("was closed before its end", child.wait, child)
  end
  T.until_(function() return gone(child.pid) end)
  do
    local c <close> = process.stream { "sleep", "60" }
    child = c
  end
  T.until_(function() return gone(child.pid) end)
  t.raises("oops", function()
    for line in process.stream(sh "sleep 60 & echo $!; wait"):lines() do
      child = line
      error "oops"
    end
  end)
  T.until_(function() return gone(child) end)
  child = process.stream { "sleep", "60" }
  child:stop()
  t.eq(child:wait().signal, 15, "stopping is no failure")
  child:close()
  child:close()
end)

T.test("cancelling ends the program and all it has started, at once", function(t)
  local pid
  local began = task.now()
  t.raises("timeout", task.deadline, 0.2, function()
    local child <close> = process.stream(sh "sleep 100 & echo $!; exec sleep 100")
    pid = child:read_line()
    child:wait()
  end)
  T.until_(function() return gone(pid) end)
  t.ok(task.now() - began < (T.slow and 8 or 3))
  t.raises("timeout", task.deadline, 0.05, process.run, { "sleep", "100" })
  local first = task.race { function() return process.run({ "echo", "fast" }):text() end,
    function() return process.run({ "sleep", "100" }):text() end }
  t.eq(first, "fast")
end)

T.test("a child handed on by a task goes on", function(t)
  local child <close> = task.all { function() return process.stream { "cat", input = true } end }
  child:write "on\n"
  t.eq(child:read_line(), "on")
end)

T.test("a line without an end has a ceiling", function(t)
  local child <close> = process.stream { "head", "-c", "2000000", "/dev/zero", line_max = 1000000 }
  local err = t.raises({ kind = "protocol", code = "too_large" }, child.read_line, child)
  t.match(err.message, "'head' printed a line of more than 1000000 bytes %(option 'line_max'%)")
end)

-- A child whose output comes in exactly these pieces.
local function fed(pieces, opts)
  local command = { "true" }
  for key, value in pairs(opts or {}) do command[key] = value end
  local child = process.stream(command)
  child:wait()
  child.result = nil
  local real, next_piece = child.handle, 0
  child.handle = {
    read = function() next_piece = next_piece + 1 return pieces[next_piece] end,
    wait = function() return 0, nil, "ended" end, output = function() return "", "" end,
    close = function() real:close() end,
  }
  return child
end

local function lines_of(pieces, opts)
  local lines = {}
  local ok, err = pcall(function()
    for line in fed(pieces, opts):lines() do lines[#lines + 1] = line end
  end)
  return lines, ok or err.code
end

T.test("lines: the same whole, split at every byte, and byte by byte", function(t)
  for _, case in ipairs {
    { "a\n\nbc 中文\r\nlast", { "a", "", "bc 中文\r", "last" } },
    { "\n\n\n", { "", "", "" } },
    { "", {} },
    { "x", { "x" } },
    { "one\n", { "one" } },
  } do
    local text, want = case[1], case[2]
    t.eq({ lines_of { text } }, { want, true })
    for i = 1, #text - 1 do t.eq({ lines_of { text:sub(1, i), text:sub(i + 1) } }, { want, true }, "split at " .. i) end
    local bytes = {}
    for i = 1, #text do bytes[i] = text:sub(i, i) end
    t.eq({ lines_of(bytes) }, { want, true })
  end
end)

T.test("the ceiling of a line is the same wherever the pieces end", function(t)
  local text = "1234\n12345\n123456\n1"
  local bytes = {}
  for i = 1, #text do bytes[i] = text:sub(i, i) end
  for i = 0, #text do
    local pieces = i == 0 and bytes or { text:sub(1, i), text:sub(i + 1) }
    t.eq({ lines_of(pieces, { line_max = 5 }) }, { { "1234", "12345" }, "too_large" }, "split at " .. i)
    t.eq({ lines_of(pieces, { line_max = 6 }) }, { { "1234", "12345", "123456", "1" }, true }, "split at " .. i)
  end
end)

T.test("a gigabyte into a slow reader stays bounded", function(t)
  local size = T.slow and 50000000 or 300000000
  local child <close> = process.stream { "head", "-c", tostring(size), "/dev/zero" }
  local total, highest = 0, 0
  collectgarbage()
  local before = collectgarbage "count"
  for piece in function() return child:read() end do
    total = total + #piece
    highest = math.max(highest, #piece)
    if total % 64 == 0 then task.sleep(0) end
  end
  t.eq(total, size)
  t.ok(highest <= 65536 + 16384, highest)
  t.ok(collectgarbage "count" - before < 16384, collectgarbage "count" - before)
end)

T.test("a program that does not read its input is no accident", function(t)
  t.eq(process.run(sh("exec 0<&-; echo fine", { input = ("x"):rep(1000000) })).stdout, "fine\n")
  local child <close> = process.stream(sh("exec 0<&-; echo closed; sleep 60", { input = true }))
  t.eq(child:read_line(), "closed")
  T.until_(function() return not child:write "more" end)
  t.ok(true)
end)

T.done()
