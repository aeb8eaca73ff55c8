-- --trace FILE as a person uses it: what is there after a run, a failure, a signal and a kill.
local T, C = require "harness", require "command"

local function script(code)
  return T.write(T.tmpdir() .. "/script.lua", code)
end

-- Reads a trace with sluice's own JSON, in a process of its own; prints "phase name" of each event.
local READ = [[
local json, text = require "sluice".json, io.open(arg[1], "rb"):read "a"
local ok, events = pcall(json.decode, text)
if not ok then events = json.decode(text .. "]") print "cut" end
for _, e in ipairs(events) do print(e.ph, e.name) end
]]

local function read(t, path)
  local r = C.run { C.sluice, "run", script(READ), path }
  t.eq(r.code, 0, r.stderr)
  return r.stdout
end

T.test("--trace FILE: calls, attempts, and the lane they are in", function(t)
  local path = T.tmpdir() .. "/out.json"
  local r = C.run { C.sluice, "run", "--mock", "--trace", path, "-e", 'print(require "sluice".model "mock/echo":ask "hi".text)' }
  t.eq({ r.code, r.stdout }, { 0, "hi\n" }, r.stderr)
  t.eq(read(t, path), "M\tprocess_name\ni\ttrace began\nM\tthread_name\nM\tthread_sort_index\nX\tattempt 1\nX\tmock/echo\n")
end)

T.test("--trace FILE.otlp.json: spans", function(t)
  local path = T.tmpdir() .. "/out.otlp.json"
  local r = C.run { C.sluice, "run", "--mock", "--trace", path, "-e", 'require "sluice".model "mock/echo":ask "hi"' }
  t.eq(r.code, 0, r.stderr)
  local text = T.read(path)
  t.eq({ select(2, text:gsub("\n", "")), select(2, text:gsub('"spanId"', "")) }, { 1, 2 })
  t.match(text, '^{"resourceSpans":%[{"resource":.*"name":"attempt 1".*"name":"chat echo".*}\n$')
end)

T.test("a script that fails, and one that is interrupted, have whole traces", function(t)
  local path = T.tmpdir() .. "/out.json"
  local r = C.run { C.sluice, "run", "--mock", "--trace", path, "-e", 'require "sluice".model "mock/echo":ask "hi" error "no"' }
  t.eq(r.code, 1)
  t.ok(not read(t, path):find "cut")
  local scenario = T.write(T.tmpdir() .. "/slow.lua", "return { { first_token = 60 } }")
  r = C.run({ C.sluice, "run", "--mock=" .. scenario, "--trace", path, "-e",
    'io.stderr:write "asks\\n" require "sluice".model "mock/m":ask "hi"' },
    { steps = { { expect_stderr = "asks" }, { signal = "INT" } } })
  t.eq(r.code, 130)
  local text = read(t, path)
  t.ok(not text:find "cut")
  t.match(text, "X\tattempt 1\nX\tmock/m\n$")
end)

T.test("a run that is killed leaves a trace that opens, up to its last second", function(t)
  local path = T.tmpdir() .. "/out.json"
  local scenario = T.write(T.tmpdir() .. "/slow.lua", 'return { { nth = 1, text = "x" }, { first_token = 60 } }')
  local r = C.run({ C.sluice, "run", "--mock=" .. scenario, "--trace", path, script [[
    local sluice, path = require "sluice", arg[1]
    sluice.model "mock/m":ask "one"
    sluice.task.group(function(g)
      g:spawn(function() sluice.model "mock/m":ask "two" end)
      while not io.open(path, "rb"):read "a":find('"ph":"B"', 1, true) do sluice.task.sleep(0.02) end
      io.stderr:write "written\n"
    end)
  ]], path }, { steps = { { expect_stderr = "written" }, { signal = "KILL" } }, timeout = 20 })
  t.eq(r.signal, 9, r.stderr)
  local text = read(t, path)
  t.match(text, "^cut\n")
  t.match(text, "X\tattempt 1\nX\tmock/m\n")
  t.match(text, "B\tmock/m\n$")
end)

T.test("os.exit: the trace is whole", function(t)
  local path = T.tmpdir() .. "/out.json"
  local r = C.run { C.sluice, "run", "--mock", "--trace", path, "-e", 'require "sluice".model "mock/echo":ask "hi" os.exit(7)' }
  t.eq(r.code, 7, r.stderr)
  t.match(read(t, path), "^M\tprocess_name\n.*X\tmock/echo\n$")
end)

T.test("a file that cannot be written: exit 4, and why", function(t)
  local path = T.tmpdir() .. "/none/out.json"
  local r = C.run { C.sluice, "run", "--trace", path, "-e", "print(1)" }
  t.eq({ r.code, r.stdout }, { 4, "" })
  t.eq(r.stderr, ("sluice: cannot write the trace %s: No such file or directory\n"):format(path))
end)

T.done()
