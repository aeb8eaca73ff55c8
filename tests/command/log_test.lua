-- Log lines as a run writes them: what is said of calls, lines that come again, where they go, and readers who
-- are slow, gone, or full. The form of a line: cli_log_test.lua.
local T = require "harness"
local C = require "command"

local LOG = "local sluice = require 'sluice' local log, task = sluice.log, sluice.task "

local function write(name, text)
  return T.write(T.tmpdir() .. "/" .. name, text)
end

local function run(t, code, ...)
  local words = { C.sluice, "run", ... }
  words[#words + 1] = write("script.lua", LOG .. code)
  local r = C.run(words)
  t.eq(r.code, 0, r.stderr)
  return r.stderr, r.stdout
end

local function without_time(text)
  return (text:gsub("%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ ", ""))
end

-- Calls -----------------------------------------------------------------------------------------------

local OUTAGE = [[return { { model = "big", nth = 1, status = 503, retry_after_ms = 20 }, { model = "down", status = 500 },
  { text = "fine" } }]]

T.test("at level debug each attempt is told, joined by one request id", function(t)
  local text = run(t, [[sluice.model "mock/big":ask "a secret prompt"]], "--log-level", "debug", "--log-format", "json",
    "--mock=" .. write("outage.lua", OUTAGE), "-q")
  local messages, ids = {}, {}
  for line in text:gmatch "[^\n]+" do
    messages[#messages + 1] = line:match '"msg":"([^"]+)"'
    ids[line:match '"request_id":"([^"]+)"' or "none"] = true
  end
  t.eq(messages, { "asked", "failed", "waited", "asked", "answered" })
  t.ok(not ids.none and next(ids, next(ids)) == nil, text)
  t.match(text, '"again_in":0%.0%d+.*"attempt":1.*"kind":"overloaded".*"status":503')
  t.match(text, '"attempt":2.*"finish":"stop".*"output_tokens":%d+')
  t.ok(not text:find("secret prompt", 1, true) and not text:find("fine", 1, true), text)
end)

T.test("at level debug each run of a tool is told, without what it was given", function(t)
  local text = run(t, [[
    local tool = sluice.tool { name = "fits", params = { n = "integer" }, run = function(args)
      if args.n == 2 then error "no two" end
    end }
    tool:call { n = 1 } tool:call { n = 2 } tool:call { n = "canary" }]], "--log-level", "debug", "--log-format", "json")
  local messages = {}
  for line in text:gmatch "[^\n]+" do
    t.match(line, '"tool":"fits"')
    messages[#messages + 1] = line:match '"msg":"([^"]+)"'
  end
  t.eq(messages, { "tool answered", "tool failed", "tool not run" })
  t.match(text, '"why":"[^"]*no two"')
  t.ok(not text:find("canary", 1, true), text)
end)

T.test("at level info: only that a fallback was taken", function(t)
  local text = run(t, [[
    require "sluice.timeline".stop() -- a rehearsal keeps one, which tells it all
    local down = sluice.model { provider = "mock", model = "down", retry = false }
    sluice.fallback { down, sluice.model "mock/b" }:ask "x"
    sluice.fallback { { sluice.model "mock/slow", after = 0.02 }, sluice.model "mock/b" }:ask "x"]],
    "--mock=" .. write("outage.lua", 'return { { model = "slow", first_token = 30 }, ' .. OUTAGE:sub(10)))
  t.match(without_time(text), "info  fallback: a step failed, the next one starts  chain=fallback from=mock/down "
    .. "to=mock/b why=server\ninfo  fallback: a step is slow, the next one starts beside it  chain=fallback "
    .. "from=mock/slow to=mock/b why=slow\n")
end)

T.test("a breaker that opens is a warning, one that closes is information", function(t)
  local text = run(t, [[
    require "sluice.timeline".stop()
    local down = sluice.model { provider = "mock", model = "m", retry = false, breaker = { trip_after = 2, sleep_window = 0.05 } }
    for _ = 1, 2 do pcall(down.ask, down, "x") end
    task.sleep(0.1)
    down:ask "x"]], "--mock=" .. write("twice.lua", 'return { { nth = 1, status = 500 }, { nth = 2, status = 500 } }'))
  t.match(without_time(text), 'warn  the breaker is open: requests are refused for a while  model=mock/m seconds=0%.0%d+ '
    .. 'why="2 calls in a row failed"\ninfo  the breaker is closed again  model=mock/m\n')
end)

-- What is left out ------------------------------------------------------------------------------------

T.test("what looks like a credential is taken out, whatever the field is called", function(t)
  for _, format in ipairs { "text", "json" } do
    local text = run(t, [[log.info("calling with Authorization: Bearer abcdefgh12345678", {
      note = "sk-abcdefghijklmnopqrstuvwxyz123456", url = "https://me:pass1234@host/x",
      deep = { list = { "api_key=abcdefgh12345678" } } })]], "--log-format", format)
    for _, word in ipairs { "abcdefgh12345678", "sk-abcdefghij", "pass1234" } do
      t.ok(not text:find(word, 1, true), text)
    end
    t.match(text, "calling with")
  end
end)

-- Again and again -------------------------------------------------------------------------------------

T.test("a line that comes again and again is written ten times, and then counted", function(t)
  local text = without_time((run(t, [[for _ = 1, 50 do log.warn("no room", { disk = 1 }) end log.info "other"
    for i = 1, 50 do log.info("step", { i = i }) end]])))
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  t.eq(#lines, 10 + 1 + 50 + 1)
  t.eq({ lines[1], lines[10], lines[11], lines[12] }, { "warn  no room  disk=1", "warn  no room  disk=1", "info  other",
    "info  step  i=1" })
  t.eq(lines[#lines], "warn  no room  disk=1 (repeated 40 times)")
end)

T.test("… as JSON, and told as soon as its five seconds are over", function(t)
  local text = run(t, [[
    require "sluice.core.sys".virtual_clock(true)
    for _ = 1, 30 do log.warn "again" end
    task.sleep(6)
    log.info "later"
    for _ = 1, 3 do log.warn "again" end]], "--log-format", "json")
  local messages = {}
  for line in text:gmatch "[^\n]+" do
    messages[#messages + 1] = line:match '"msg":"([^"]+)"' .. (line:match '"repeated":%d+' or "")
  end
  t.eq({ #messages, messages[10], messages[11], messages[12], messages[15] }, { 15, "again", 'again"repeated":20', "later",
    "again" })
end)

T.test("what the library says of each of many calls is held back, too; a script's records are not", function(t)
  local text = without_time((run(t, [[
    local down = sluice.model { provider = "openai", model = "down", base_url = "http://127.0.0.1:1/v1", auth = "none",
      retry = false, breaker = false }
    local chain = sluice.fallback { down, function() return "fine" end }
    for _ = 1, 40 do chain:ask "x" end
    for i = 1, 40 do log.info("mine", { call = i }) end]], "--metrics", "127.0.0.1:0")))
  local _, ours = text:gsub("a step failed", "")
  local _, theirs = text:gsub("mine", "")
  t.eq({ ours, theirs }, { 11, 40 }, text)
  t.match(text, "why=network %(repeated 30 times%)\n")
end)

-- Where they go ---------------------------------------------------------------------------------------

T.test("--log-file: appended, without colour, and what is no log line stays on stderr", function(t)
  local path = T.tmpdir() .. "/run.log"
  local script = write("script.lua", LOG .. "log.warn('in the file', { a = 1 }) io.stderr:write 'not a log line\\n'")
  for _ = 1, 2 do
    local r = C.run({ C.sluice, "run", "--log-file", path, script }, { pty = "err", env = { TERM = "xterm", NO_COLOR = false } })
    t.eq(r.code, 0)
    t.match(r.stdout .. r.stderr, "^not a log line\r?\n$")
  end
  t.eq(without_time(T.read(path)), ("warn  in the file  a=1\n"):rep(2))
  path = T.tmpdir() .. "/none/x"
  local r = C.run { C.sluice, "run", "--log-file", path, script }
  t.eq({ r.code, r.stderr }, { 4, ("sluice: cannot write %s: No such file or directory\n"):format(path) })
end)

T.test("a log file on a full disk: the lines go on on stderr", function(t)
  if not io.open("/dev/full", "wb") then t.skip "no /dev/full" end
  local text = run(t, "log.info 'one' log.info 'two'", "--log-file", "/dev/full")
  t.eq(without_time(text), "sluice: the log file /dev/full takes no more (No space left on device); log lines go on here\n"
    .. "info  one\ninfo  two\n")
end)

T.test("a `write` that fails is not called again, and hurts nobody", function(t)
  local text, out = run(t, [[log.configure { write = function() error "no" end }
    log.info "one" log.info "two" print "done"]])
  t.eq(out, "done\n")
  t.match(without_time(text), "^info  one\nsluice: log%.configure's write failed, and is not called again: .*no\ninfo  two\n$")
end)

-- Readers ---------------------------------------------------------------------------------------------

-- Runs a script whose stderr is a pipe that nobody reads; then `later` in the same shell, where 3 is the pipe.
local function stalled(code, later)
  local fifo = T.tmpdir() .. "/pipe" .. math.random(1e9)
  return C.run({ "sh", "-c", ('mkfifo "%s" && exec 3<>"%s" && rm "%s"; %s'):format(fifo, fifo, fifo,
    later:gsub("RUN", ('"%s" run "%s" 2>&3'):format(C.sluice, write("script.lua", LOG .. code)))) }, { timeout = 30 })
end

T.test("a reader who has stopped holds nobody up", function(t)
  local r = stalled([[
    local ticks = 0
    local began = task.now()
    task.race {
      function() while true do task.sleep(0.005) ticks = ticks + 1 end end,
      function() for i = 1, 3000 do log.info("a line of some length", { i = i, pad = ("x"):rep(300) }) if i % 100 == 0 then task.sleep(0.001) end end end,
    }
    print(ticks > 3, task.now() - began < 20)
    local waiting, dropped = require "sluice.log.sink".state()
    print(waiting > 0, dropped > 1000)]], "RUN; echo $?")
  t.eq(r.stdout, "true\ttrue\ntrue\ttrue\n0\n", r.stderr)
  t.ok(r.wall < 15, "it waited at its end")
end)

T.test("a reader who goes on gets what waited, in order and whole, and is told how much was dropped", function(t)
  local folder = T.tmpdir()
  local gate, out = folder .. "/gate", folder .. "/out"
  local r = stalled(([[
    for i = 1, 3000 do log.info("line", { i = i, pad = ("x"):rep(300) }) end
    local _, dropped = require "sluice.log.sink".state()
    print(dropped)
    io.open(%q, "w"):close()
    task.deadline(10, function()
      while require "sluice.log.sink".state() > 0 do task.sleep(0.01) end
    end)
    log.info "the last line"]]):format(gate),
    ('RUN & run=$!; while [ ! -e "%s" ]; do sleep 0.01; done; cat <&3 >"%s" & cat=$!; wait $run; echo $?; '
      .. 'while ! grep -q "last line" "%s"; do sleep 0.01; done; kill $cat'):format(gate, out, out))
  local dropped = math.tointeger(r.stdout:match "^(%d+)\n0\n$")
  t.ok(dropped and dropped > 1000, r.stdout .. r.stderr)
  local text = T.read(out)
  local at = 0
  for i, pad in text:gmatch "info  line  i=(%d+) pad=(x+)\n" do
    at = at + 1
    t.eq({ math.tointeger(i), #pad }, { at, 300 })
  end
  t.eq(at, 3000 - dropped)
  t.match(without_time(text), ("sluice: %d log lines were dropped: stderr was not read fast enough\ninfo  the last line\n$")
    :format(dropped))
end)

T.test("a reader who has gone: the script goes on", function(t)
  local done = T.tmpdir() .. "/done"
  local r = C.run { "sh", "-c", ('"%s" run "%s" 2>&1 >"%s" | head -n 1'):format(C.sluice, write("script.lua", LOG
    .. [[for i = 1, 2000 do log.info("line", { i = i }) if i == 1 then task.sleep(0.2) end end print "done"]]),
    done) }
  t.match(r.stdout, "info  line  i=1\n$")
  t.eq(T.read(done), "done\n")
end)

T.test("a reader who is slow at the end of the run gets every line", function(t)
  local out = T.tmpdir() .. "/slow"
  local r = C.run { "sh", "-c", ([[{ "%s" run "%s" 2>&1 >&3 | {
    while dd bs=4096 count=1 2>/dev/null >"%s.piece" && [ -s "%s.piece" ]; do cat "%s.piece" >>"%s"; sleep 0.02; done
    }; } 3>&1]]):format(C.sluice, write("script.lua", LOG .. [[
      for i = 1, 1800 do log.info("line", { i = i, pad = ("x"):rep(80) }) end
      local waiting, dropped = require "sluice.log.sink".state()
      print(waiting > 500, dropped)]]), out, out, out, out) }
  t.eq({ r.code, r.stdout, r.stderr }, { 0, "true\t0\n", "" })
  t.eq(select(2, T.read(out):gsub("line  i=", "")), 1800)
end)

T.done()
