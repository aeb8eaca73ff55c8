-- The REPL as a person meets it: on a terminal, and over a pipe.
-- timeout: 180
local T = require "harness"
local C = require "command"

local CTRL_C, CTRL_D, TAB, UP, ENTER = "\3", "\4", "\t", "\27[A", "\r"
local OPENED = "\27[?2004h" -- what the prompt switches on: behind it, a prompt is waiting
local PROMPT, MORE = OPENED .. "> ", OPENED .. "… "
local LEFT = "\27[?2004l"   -- and off: what was typed is running

-- Steps for a session: each entry is { what is typed, what is to appear before the next prompt }.
local function typed(entries)
  local steps = {}
  for _, entry in ipairs(entries) do
    if entry.send or entry.expect or entry.signal or entry.resize then
      steps[#steps + 1] = entry
    else
      steps[#steps + 1] = { expect = PROMPT }
      steps[#steps + 1] = { send = entry[1] .. ENTER }
      if entry[2] then
        steps[#steps + 1] = { expect = LEFT }
        steps[#steps + 1] = { expect = entry[2] }
      end
    end
  end
  return steps
end

local function options_of(options)
  options = options or {}
  options.env = options.env or {}
  for key, value in pairs { TERM = "xterm", XDG_STATE_HOME = T.tmpdir(), NO_COLOR = "1" } do
    if options.env[key] == nil then options.env[key] = value end
  end
  return options
end

local function session(t, entries, options, words)
  options = options_of(options)
  options.pty = options.pty or "in,out,err"
  options.steps = typed(entries)
  local argv = { C.sluice, "repl", "-q" }
  for _, word in ipairs(words or {}) do argv[#argv + 1] = word end
  local r = C.run(options.argv and options.argv or argv, (function()
    options.argv = nil
    return options
  end)())
  t.eq(r.unmet, nil, r.stdout)
  t.eq(r.timeout, false, r.stdout)
  return r
end

local LEAVE = { expect = PROMPT }
local EOF = { send = CTRL_D }

local function pipe(text, words, options)
  options = options_of(options)
  options.stdin = text
  local argv = { C.sluice, "repl", "-q" }
  for _, word in ipairs(words or {}) do argv[#argv + 1] = word end
  return C.run(argv, options)
end

-- On a terminal -------------------------------------------------------------------------------------

T.test("values, statements, the last value", function(t)
  local r = session(t, {
    { "1 + 1", "2\r\n" }, { "x = _ + 40" }, { "{ x, 'two' }", '{ 42, "two" }' }, { "print 'three'", "three" },
    { "nil", "nil" }, { "return 5", "5" }, LEAVE, EOF })
  t.eq(r.code, 0)
end)

T.test("editing: in the middle, wide characters, history", function(t)
  session(t, {
    { "'ac'\27[D\27[Db", '"abc"' },
    { "'永安水'\127", nil }, -- the quote is gone: an error
    { expect = "unfinished string" },
    { "'永水'\27[D\27[D安", '"永安水"' },
    { expect = PROMPT }, { send = UP .. "\27[D\27[D\127" .. ENTER }, { expect = LEFT }, { expect = '"永水"' },
    LEAVE, EOF })
end)

T.test("input that is not whole goes on", function(t)
  session(t, {
    { "for i = 1, 2 do" }, { expect = MORE }, { send = "print('line', i)\r" }, { expect = MORE }, { send = "end\r" },
    { expect = "line\t1" }, { expect = "line\t2" },
    { "t = {" }, { expect = MORE }, { send = "'a'}\r" }, { "t", '{ "a" }' },
    { "x = [[a" }, { expect = MORE }, { send = "b]]\r" }, { "#x", "3" },
    { "f(" }, { expect = MORE }, { send = CTRL_C }, { "'still here'", '"still here"' }, -- Ctrl-C drops it
    -- the whole comes back as one
    { expect = PROMPT }, { send = UP .. UP .. UP .. ENTER }, { "x", "a\r\nb" }, LEAVE, EOF })
end)

T.test("local stays for the session, and says so once", function(t)
  local r = session(t, { { "local n = 1", "stays for the session" }, { "local function inc() n = n + 1 return n end" },
    { "inc()", "2" }, { "n", "2" }, LEAVE, EOF })
  t.eq(select(2, r.stdout:gsub("stays for the session", "")), 1)
end)

T.test("Ctrl-R looks back, Ctrl-V takes a key as it is, Alt-x is nothing", function(t)
  local CTRL_R, CTRL_G, CTRL_V = "\18", "\7", "\22"
  session(t, {
    { "one = 'first find'" }, { "two = 'second find'" }, { "three = 3" },
    { expect = PROMPT }, { send = CTRL_R .. "fin" }, { expect = "search 'f" }, { send = ENTER }, { expect = LEFT },
    { "two", "second find" },
    { expect = PROMPT }, { send = CTRL_R .. "find" .. CTRL_R .. "\27[F .. ' edited'" .. ENTER }, { expect = LEFT },
    { "one", "first find edited" },
    { expect = PROMPT }, { send = "'kept' " .. CTRL_R .. "find" .. CTRL_G .. ENTER }, { expect = LEFT .. '"kept"' },
    { expect = PROMPT }, { send = CTRL_R .. "nothing like it" .. CTRL_C }, { "1 + 1", "2" },
    { expect = PROMPT }, { send = "#'" .. CTRL_V .. TAB .. CTRL_V .. "\1'" .. ENTER }, { expect = LEFT .. "2" },
    { expect = PROMPT }, { send = "'x" .. "\27x" .. "y'" .. ENTER }, { expect = LEFT .. '"xy"' },
    LEAVE, EOF })
end)

T.test("Tab completes", function(t)
  session(t, {
    { expect = PROMPT }, { send = "sluice.tas" .. TAB .. ".deadl" .. TAB .. " == sluice.task.deadline" .. ENTER }, { expect = LEFT },
    { expect = "true" }, { expect = PROMPT },
    { send = "('x'):re" .. TAB }, { send = TAB }, { expect = "rep      reverse" }, { expect = "> ('x'):re" }, -- listed above
    { send = "v" .. TAB .. "()" .. ENTER }, { expect = LEFT }, { expect = '"x"' },
    { expect = PROMPT }, { send = "sluice.model 'mo" .. TAB .. "x'" .. ENTER }, { expect = LEFT }, { expect = "mock/x" },
    { expect = PROMPT }, { send = "require 'slui" .. TAB .. " == sluice" .. ENTER }, { expect = LEFT }, { expect = "true" },
    { expect = PROMPT }, { send = ":qu" .. TAB .. ENTER } }, nil, { "--mock" })
end)

T.test("Tab after require: files of one's own", function(t)
  local folder = T.tmpdir()
  T.write(folder .. "/my_rules.lua", "return 'mine'")
  local script = T.write(folder .. "/script.lua", "")
  session(t, { { expect = PROMPT }, { send = "require 'my_" .. TAB .. ENTER }, { expect = LEFT }, { expect = '"mine"' },
    LEAVE, EOF }, nil, { script })
end)

T.test("Tab knows the models that were asked before", function(t)
  local state = T.tmpdir()
  session(t, { { "m = sluice.model 'mock/org/Some-Model-8B'" }, LEAVE, EOF }, { env = { XDG_STATE_HOME = state } }, { "--mock" })
  session(t, { { expect = PROMPT }, { send = "sluice.model 'mock/or" .. TAB .. ENTER }, { expect = LEFT },
    { expect = "model mock/org/Some-Model-8B>" }, LEAVE, EOF }, { env = { XDG_STATE_HOME = state } }, { "--mock" })
end)

T.test("a stream is printed as it comes; Ctrl-C ends it, not the session", function(t)
  local scenario = T.write(T.tmpdir() .. "/slow.lua", [[return { { text = "one two three four five six", tokens_per_second = 5 } }]])
  local r = session(t, {
    { "m = sluice.model 'mock/m'" }, { "m:stream 'hi'", "one" }, { send = CTRL_C }, { expect = "interrupted" },
    { "m.name", "mock/m" }, { "sluice.task.sleep(100)" }, { expect = LEFT }, { send = CTRL_C }, { expect = "interrupted" },
    { "'here'", "here" }, LEAVE, EOF }, nil, { "--mock=" .. scenario })
  t.eq(r.code, 0)
  t.ok(not r.stdout:find "six")
end)

T.test("a whole stream is the last value as a reply", function(t)
  session(t, { { "m = sluice.model 'mock/m'" }, { "m:stream 'hi'", "(mock/m; stop;" }, { "#_.text > 0", "true" },
    { "m:ask 'hi'", "(mock/m; stop;" }, { "_.usage.output_tokens > 0", "true" }, LEAVE, EOF }, nil, { "--mock" })
end)

T.test("a transformed stream is printed too", function(t)
  local r = session(t, { { "m = sluice.model 'mock/m'" }, { "m:stream('hi'):map(function(s) return s:upper() end)", "(mock/m; stop;" },
    { "_.text == _.text:upper()", "true" }, LEAVE, EOF }, nil, { "--mock" })
  t.ok(not r.stdout:find "nil")
end)

T.test(":metrics and the options of a run", function(t)
  local trace = T.tmpdir() .. "/trace.json"
  session(t, { { "sluice.model('mock/m'):ask 'hi'", "(mock/m" }, { ":metrics", "api_tokens_total{" }, LEAVE, EOF }, nil,
    { "--mock", "--trace", trace })
  t.match(T.read(trace), "mock/m")
end)

T.test("a stream of one line can be read by the next", function(t)
  session(t, { { "s = sluice.model('mock/m'):stream 'hi'" }, { "t = {} for x in s:text() do t[#t + 1] = x end" },
    { "#t > 1", "true" }, LEAVE, EOF }, nil, { "--mock" })
end)

T.test("Ctrl-C ends a loop that never waits, pcall or not", function(t)
  session(t, { { "while true do end" }, { expect = LEFT }, { send = CTRL_C }, { expect = "interrupted" },
    { "while true do pcall(error) end" }, { expect = LEFT }, { send = CTRL_C }, { expect = "interrupted" },
    { "1 + 1", "2" }, LEAVE, EOF })
end)

T.test("Ctrl-C twice in a row ends the call, and no background task", function(t)
  for _ = 1, 5 do
    session(t, { { "h = spawn(function() sluice.task.sleep(100) end)" }, { "for i = 1, 1e9 do if i == 1e6 then print 'runs' end end", "runs" },
      { send = CTRL_C .. CTRL_C }, { expect = "interrupted" }, { "h:done()", "false" }, { ":quit" } })
  end
end)

T.test("what a background task opens is closed when it ends; what a line opens is not", function(t)
  session(t, { { "m = sluice.model 'mock/m'" }, { "spawn(function() lost = m:stream 'hi' end):join()" },
    { "pcall(function() for _ in lost:text() do end end)", "false" }, { "kept = m:stream 'hi'" },
    { "#kept:reply().text > 0", "true" }, LEAVE, EOF }, nil, { "--mock" })
end)

T.test("a deadlock is found and named; --max-memory ends what is typed", function(t)
  session(t, { { "sluice.task.channel(1):receive()", "deadlock" }, { "1 + 1", "2" },
    { "t = {} while true do t[#t + 1] = ('x'):rep(1e6) .. #t end", "ceiling of 50 MiB" }, { "t = nil" },
    { "#('x'):rep(1e7)", "10000000" }, LEAVE, EOF }, nil, { "--max-memory", "50" })
end)

T.test("Ctrl-C any number of times at the prompt; it drops the line", function(t)
  session(t, { { expect = PROMPT }, { send = CTRL_C }, { expect = "Ctrl-D or :quit leaves" }, { expect = PROMPT },
    { send = "nonsense(" .. CTRL_C }, { expect = PROMPT }, { send = CTRL_C }, { expect = PROMPT }, { send = CTRL_C },
    { expect = PROMPT }, { send = CTRL_C }, { "'alive'", '"alive"' }, LEAVE, EOF })
end)

T.test("background tasks go on while the prompt waits, and do not garble the line", function(t)
  local r = session(t, {
    { "h = spawn(function() while not stop do sluice.task.sleep(0.05) io.write 'tick ' print 'tock' end return 'done' end)" },
    -- The second line of output at the latest comes behind what is typed, and the line is there again below it.
    { expect = PROMPT }, { send = "'typ" }, { expect = "tick tock\r\n> 'typ" }, { expect = "tick tock\r\n> 'typ" },
    { send = "ed'" .. ENTER }, { expect = LEFT }, { expect = '"typed"' }, { "stop = true" }, { "h:join()", '"done"' }, LEAVE, EOF })
  t.eq(r.code, 0)
end)

T.test("what is held back: lines drawn again, lines without an end, log lines", function(t)
  local r = session(t, {
    { "go = sluice.task.channel(1) spawn(function() while true do go:receive()() end end)" },
    { "function later(f) spawn(function() sluice.task.sleep(0.1) go:send(f) end) end" },
    { "later(function() for i = 1, 9 do io.stderr:write('\\r', i * 10, '%') end io.stderr:write ' done\\n' end)" },
    { expect = PROMPT }, { send = "'ty" }, { expect = "90% done\r\n> 'ty" }, { send = "ped'" .. ENTER }, { expect = LEFT },
    { "later(function() io.write 'half a line' go:send(function() print ', the rest' end) end)" },
    { expect = PROMPT }, { send = "'ty" }, { expect = "half a line, the rest\r\n> 'ty" }, { send = "ped'" .. ENTER }, { expect = LEFT },
    { "later(function() io.write 'no end' end)" }, { "sluice.task.sleep(0.3)" }, { "'next'", '"next"' },
    { "later(function() io.write(('z'):rep(70000)) end)" }, { expect = PROMPT }, { send = "'ty" }, { expect = "zzz\r\n> 'ty" },
    { send = "ped'" .. ENTER }, { expect = LEFT },
    { "later(function() sluice.log.error 'look out' end)" }, { expect = PROMPT }, { send = "'ty" }, { expect = "look out" },
    { expect = "> 'ty" }, { send = "ped'" .. ENTER }, LEAVE, EOF, LEAVE, EOF })
  t.ok(r.stdout:find("no end", 1, true))
  t.ok(not r.stdout:find("80%", 1, true))
end)

T.test("background tasks: one that fails ends alone; :tasks lists; leaving asks once", function(t)
  local r = session(t, {
    { "spawn(function() error 'oh no' end)" }, { expect = "oh no" },
    { "slow = spawn(function() sluice.task.sleep(100) end)" },
    { ":tasks", "waiting on sleep" }, { "spawn(1)", "argument 1 must be a function" },
    LEAVE, EOF, { expect = "1 task in the background" }, { expect = PROMPT }, EOF })
  t.eq(r.code, 0)
  t.ok(r.wall < 60)
end)

T.test("a paste of several lines runs as lines, tabs and all", function(t)
  session(t, { { expect = PROMPT },
    { send = "\27[200~function f(x)\n\tif x then\n\t\treturn '水'\n\tend\nend\nf(1)\n\27[201~" }, { expect = "水\"" },
    -- a line that has no end yet stays to be edited
    { expect = PROMPT }, { send = "\27[200~'end\27[201~ed'\r" }, { expect = LEFT }, { expect = '"ended"' },
    -- and what comes without the marks, faster than it is read
    { expect = PROMPT }, { send = "a = 1\rb = 2\ra + b\r" }, { expect = LEFT .. "3\r\n" },
    LEAVE, EOF })
end)

T.test("keys at random leave a session that works", function(t)
  local keys = { "\27", "\27[", "\27[A", "\27[B", "\27[C", "\27[D", "\27[200~", "\27[201~", "\27OP", "\27[1;5C", TAB, ENTER, "\n",
    "a", "'", '"', "{", "水", "é", "\xff", "\xe6", "\18", "\22", "\7", "\127", "\1", "\5", "\11", "\20", "\21", "\23", "\25", "\12",
    "\27f", "\27b", "\27d", "\27x", "\24\24", "\30", "\31", "end ", "function f() ", "1+1", "local x = 1", "m:", "sluice.",
    "require 's", CTRL_C }
  for _ = 1, 3 do
    local entries, interrupts = { { expect = PROMPT } }, 0
    for _ = 1, 30 do
      local typed_ = {}
      for i = 1, math.random(12) do
        local key = keys[math.random(#keys)]
        -- one more than these and the one below, while it is busy, would end it: that is what three are for
        if key == CTRL_C then interrupts = interrupts + 1 end
        typed_[i] = interrupts > 1 and key == CTRL_C and "a" or key
      end
      entries[#entries + 1] = { send = table.concat(typed_) }
      if math.random(8) == 1 then entries[#entries + 1] = { resize = ("%dx%d"):format(math.random(90), math.random(30)) } end
    end
    entries[#entries + 1] = { resize = "80x24" } -- a prompt is not to be known in a window of two columns
    for _, entry in ipairs { { send = "\27[201~\7" .. CTRL_C }, { expect = PROMPT }, { send = CTRL_C }, { expect = PROMPT },
      { send = "'sur' .. 'vived'" .. ENTER }, { expect = '"survived"' }, LEAVE, EOF } do
      entries[#entries + 1] = entry
    end
    t.eq(session(t, entries).code, 0)
  end
end)

T.test("a window that changes its size", function(t)
  session(t, { { expect = PROMPT }, { send = "'" .. ("x"):rep(50) }, { resize = "40x20" }, { expect = OPENED:sub(1, 0) },
    { send = "y'" .. ENTER }, { expect = LEFT }, { expect = ("x"):rep(50) .. 'y"' },
    { "columns = { require 'sluice.core.terminal'.size() }" }, { "columns", "{ 40, 20 }" }, LEAVE, EOF })
end)

T.test("output above a line that is longer than the screen", function(t)
  session(t, { { "spawn(function() go = sluice.task.channel(1) go:receive() print 'above' end)" },
    { "spawn(function() sluice.task.sleep(0.2) go:send(1) end)" },
    { expect = PROMPT }, { send = "'" .. ("x"):rep(50) }, { expect = "above\r\n> '" .. ("x"):rep(10) },
    { send = "y'" .. ENTER }, { expect = LEFT }, { expect = ("x"):rep(50) .. 'y"' }, LEAVE, EOF }, { winsize = "30x20" })
end)

T.test("a result longer than the screen is bounded; :all shows all", function(t)
  local r = session(t, {
    { "t = {} for i = 1, 100 do t[i] = ('item %02d of the list'):format(i) end" },
    { "t", "more (:all shows all)" }, { ":all", 'item 100 of the list"' }, LEAVE, EOF }, { winsize = "60x20" })
  local first = r.stdout:match "item 01(.-):all shows all"
  t.ok(select(2, first:gsub("\n", "")) < 20)
end)

T.test("history across sessions: 0600, nothing behind a blank, no key", function(t)
  local state = T.tmpdir()
  local options = { env = { XDG_STATE_HOME = state } }
  session(t, { { "first = 'unique one'" }, { " hidden_line = 1" }, { "auth = 'sk-abcdefghijklmnopqrstuvwx'" },
    { "if first then" }, { expect = MORE }, { send = "second = 2\r" }, { expect = MORE }, { send = "end\r" },
    LEAVE, EOF }, options)
  local text = T.read(state .. "/sluice/history")
  t.eq(text, "first = 'unique one'\nauth = \"<hidden>\"\nif first then\\nsecond = 2\\nend\n")
  local pipe_ = io.popen("stat -c '%a %n' " .. state .. "/sluice/history")
  t.match(pipe_:read "a", "^600 ")
  pipe_:close()
  session(t, { { expect = PROMPT }, { send = UP .. UP .. UP .. ENTER }, { "first", '"unique one"' }, LEAVE, EOF },
    { env = { XDG_STATE_HOME = state } })
end)

T.test("output without a newline gets its line ended; io.write, stderr", function(t)
  session(t, { { "io.write 'no newline'", "no newline\r\n" .. PROMPT }, { send = "io.stderr:write 'err'\r" },
    { expect = "err\r\n" .. PROMPT }, { send = CTRL_D } })
end)

T.test("errors: one line, and the frames of one's own code", function(t)
  local r = session(t, { { "function inner() error 'deep' end function outer() inner() end" }, { "outer()", "repl:1: deep" },
    { "sluice.modell", "did you mean" }, { "x y", "syntax error near 'y'" }, { expect = "^" },
    { "sluice.model('mock/bad'):ask 'x'" }, LEAVE, EOF })
  t.match(r.stdout, "at repl:1 in function 'inner'\r\n +at repl:1 in function 'outer'\r\n")
  t.ok(not r.stdout:find "sluice/repl", r.stdout)
  t.ok(not r.stdout:find "in function 'chunk'", r.stdout)
end)

T.test("a script first; its globals stay, also when it fails", function(t)
  local folder = T.tmpdir()
  T.write(folder .. "/mine.lua", "return { value = 'first' }")
  local script = T.write(folder .. "/script.lua", "mine = require 'mine'\narguments = { ... }\nkept = 1\nif ... == 'fail' then error 'at its end' end")
  session(t, { { "kept", "1" }, { "arguments[1]", '"--x"' }, { "mine.value", '"first"' },
    { ("io.open(%q, 'w'):write(\"return { value = 'second' }\"):close()"):format(folder .. "/mine.lua") },
    { ":reload", "read again when they are required next: mine" }, { "mine.value", '"second"' }, LEAVE, EOF },
    nil, { script, "--x" })
  local r = session(t, { { "kept", "1" }, LEAVE, EOF }, nil, { script, "fail" })
  t.match(r.stdout, "at its end")
  t.eq(r.code, 0)
end)

T.test(":load, :time, :mock, unknown commands", function(t)
  local folder = T.tmpdir()
  local file = T.write(folder .. "/rules.lua", "loaded = (loaded or 0) + 1")
  session(t, { { ":load " .. file }, { ":reload" }, { "loaded", "2" }, { ":time 1 + 1", "2\r\n" }, { expect = "of processor time" },
    { ":mock on", "answered by the mock" }, { "sluice.model('openai/x'):ask 'hi'", "(openai/x; stop" },
    { ":mock", "the mock answers" }, { ":mock off", "ask their providers" }, { ":mock maybe", "on or off, not 'maybe'" },
    { ":relod", "did you mean ':reload'?" }, { ":load /nowhere/x.lua", "cannot read the script" },
    { ":help", ":save FILE" }, { ":quit" } })
end)

T.test(":save writes a script that runs", function(t)
  local file = T.tmpdir() .. "/saved.lua"
  session(t, { { "local greeting = 'hello'" }, { "greeting .. ' world'", "hello world" }, { "nonsense()", "nil value" },
    { "m = sluice.model 'mock/m'" }, { "m:stream 'x'", "(mock/m" }, { ":save " .. file, "sluice run" },
    { ":save " .. file, "is there already" }, LEAVE, EOF }, nil, { "--mock" })
  local r = C.run({ C.sluice, "run", "--mock", "-q", file })
  t.eq(r.code, 0, r.stderr)
  t.match(r.stdout, "^hello world\n.+\n$")
  t.ok(not T.read(file):find "nonsense")
end)

T.test("help(x)", function(t)
  session(t, { { "help()", "spawn(f, …)" }, { "help(rawlen)", "built in" }, { "help 'no.such.thing'", "nothing is known" },
    { "help 'task.mapp'", "did you mean 'task.map'?" }, { "help 'senteces'", "did you mean 'sentences'?" },
    { "sluice", "pipeline, prices" },
    { "help(sluice.task.map)", "concurrency" }, { "help 'task.deadline'", "deadline" }, { ":help task.race", "race" },
    { "help(spawn)", "h:cancel()" }, { "help(nothing_here)", "no such name" }, LEAVE, EOF })
  for _, name in ipairs { "task.map", "model", "fallback", "json.encode" } do
    local r = pipe(("help %q\n"):format(name))
    t.ok(r.code == 0 and not r.stdout:find "nothing is", name)
  end
end)

T.test("--timeout ends what takes longer, and the session goes on", function(t)
  session(t, { { "sluice.task.sleep(100)", "not done after 0.3 s" },
    { "while true do end", "not done after 0.3 s" }, { "1 + 1", "2" }, LEAVE, EOF }, nil, { "--timeout", "0.3" })
end)

T.test("a task left behind by a generator fails: the session says so and goes on", function(t)
  session(t, {
    { "co = coroutine.wrap(function() sluice.task.group(function(g) g:spawn(function() sluice.task.sleep(0.05) error 'lost' end) coroutine.yield() end) end)" },
    { "co()" }, { "co = nil collectgarbage() collectgarbage()" }, { "'still'", '"still"' }, LEAVE, EOF })
end)

T.test("io.read of what is typed", function(t)
  session(t, { { "name = io.read()" }, { expect = LEFT }, { send = "Ada\r" }, { "name", '"Ada"' }, LEAVE, EOF })
end)

-- The terminal afterwards ---------------------------------------------------------------------------

-- Runs the session inside a shell that compares the terminal's modes before and after.
local function modes_kept(t, entries)
  local steps = typed(entries)
  steps[#steps + 1] = { expect = "MODES KEPT" }
  local r = C.run({ "sh", "-c", 'trap : INT; before=$(stty -g); "$0" repl -q; code=$?; after=$(stty -g); '
    .. 'if [ "$before" = "$after" ]; then echo "MODES KEPT $code"; else echo "MODES CHANGED $before $after"; fi', C.sluice },
    options_of { pty = "in,out,err", steps = steps })
  t.eq(r.unmet, nil, r.stdout)
  return math.tointeger(tonumber(r.stdout:match "MODES KEPT (%d+)"))
end

local function kill_at_prompt(name)
  return { ("spawn(function() sluice.task.sleep(0.1) io.popen('kill -%s $PPID'):close() end)"):format(name) }
end

T.test("the terminal is as before: Ctrl-D, :quit, os.exit, SIGTERM, SIGQUIT, SIGHUP", function(t)
  t.eq(modes_kept(t, { LEAVE, EOF }), 0)
  t.eq(modes_kept(t, { { ":quit" } }), 0)
  t.eq(modes_kept(t, { { "os.exit(7)" } }), 7)
  t.eq(modes_kept(t, { { "spawn(function() sluice.task.sleep(0.1) os.exit(8, true) end)" } }), 8)
  t.eq(modes_kept(t, { { "spawn(function() sluice.task.sleep(0.1) os.exit(9) end)" } }), 9)
  t.eq(modes_kept(t, { kill_at_prompt "TERM" }), 143)
  t.eq(modes_kept(t, { kill_at_prompt "QUIT" }), 131)
  t.eq(modes_kept(t, { kill_at_prompt "HUP" }), 129)
end)

T.test("SIGTERM while a call runs", function(t)
  t.eq(modes_kept(t, { { "os.execute 'kill -TERM $PPID' sluice.task.sleep(100)" } }), 143)
end)

T.test("Ctrl-C three times at a call that nothing can end", function(t)
  -- once it has been entered: before, a Ctrl-C can still be heard
  t.eq(modes_kept(t, { { "print('go' .. 'ing') string.find(('a'):rep(3000), ('.-'):rep(6) .. 'b')" },
    { expect = "going" }, { send = CTRL_C }, { expect = "^C" }, { send = CTRL_C }, { expect = "^C" }, { send = CTRL_C } }), 130)
end)

T.test("stopped and continued", function(t)
  session(t, { { expect = PROMPT }, { send = "'be" }, { expect = "'be" }, { signal = "STOP" }, { signal = "CONT" },
    { expect = "> 'be" }, { send = "hind'" .. ENTER }, { expect = LEFT }, { expect = '"behind"' }, LEAVE, EOF })
end)

-- Without a terminal --------------------------------------------------------------------------------

T.test("over a pipe: values, no prompt, no history", function(t)
  local state = T.tmpdir()
  local r = pipe("1 + 1\nx = {\n  1,\n}\n#x\n_ + 1", nil, { env = { XDG_STATE_HOME = state } })
  t.eq(r.stdout, "2\n1\n2\n")
  t.eq(r.stderr, "")
  t.eq(r.code, 0)
  t.eq(io.open(state .. "/sluice/history"), nil)
end)

T.test("over a pipe: the first failure ends it with 1", function(t)
  for _, text in ipairs { "print(1)\nerror 'bad'\nprint(2)\n", "print(1)\nx y\nprint(2)\n", "print(1)\nf(\n", "print(1)\n:nonsense\nprint(2)" } do
    local r = pipe(text)
    t.eq(r.stdout, "1\n", text)
    t.eq(r.code, 1, text)
    t.ok(r.stderr ~= "", text)
  end
end)

T.test("over a pipe: :metrics has what was counted; a failure inside sluice has no empty traceback", function(t)
  local r = pipe("#sluice.model('mock/m'):ask('hi').text > 0\n:metrics\n", { "--mock" })
  t.match(r.stdout, '^true\napi_request_duration_seconds_sum{provider="mock",model="m",outcome="ok"} %d')
  t.match(r.stdout, '\napi_tokens_total{provider="mock",model="m",direction="output"} [1-9]')
  r = pipe("sluice.model('openai/gpt-x'):ask 'hi'\n", nil, { env = { OPENAI_API_KEY = false } })
  t.match(r.stderr, "no key")
  t.ok(not r.stderr:find "skipping", r.stderr)
end)

T.test("over a pipe: a stream is printed, tasks are waited for", function(t)
  local r = pipe("sluice.model('mock/m'):stream 'hi'\nspawn(function() sluice.task.sleep(0.1) print 'late' end)\n", { "--mock" })
  t.eq(r.code, 0, r.stderr)
  t.match(r.stdout, "%(mock/m; stop;.*late\n$")
end)

T.test("over a pipe: tasks go on while it waits for the next line", function(t)
  local r = C.run({ C.sluice, "repl", "-q" }, options_of { steps = {
    { send = "h = spawn(function() sluice.task.sleep(0.05) print 'from the task' io.stdout:flush() end)\n" },
    { expect = "from the task" }, { send = "'next'\n" }, { eof = true } } })
  t.eq(r.unmet, nil)
  t.match(r.stdout, '"next"\n$')
end)

T.test("from a file, and from nothing", function(t)
  local file = T.write(T.tmpdir() .. "/input", "6 * 7\n")
  local r = C.run({ "sh", "-c", '"$0" repl < "$1"', C.sluice, file }, options_of())
  t.eq({ r.stdout, r.code }, { "42\n", 0 })
  r = C.run({ "sh", "-c", '"$0" repl < /dev/null', C.sluice }, options_of())
  t.eq({ r.stdout, r.stderr, r.code }, { "", "", 0 })
end)

T.test("a line of any length, up to the limit", function(t)
  local r = pipe("#'" .. ("x"):rep(3 << 20) .. "'\n")
  t.eq({ r.stdout, r.code }, { (3 << 20) .. "\n", 0 }, r.stderr)
  r = pipe("#'" .. ("x"):rep(5 << 20) .. "'\n1\n")
  t.match(r.stderr, "longer than 4 MiB")
  t.eq(r.stdout, "")
  t.eq(r.code, 1)
end)

T.test("a terminal that cannot move its cursor gets plain lines", function(t)
  local r = C.run({ C.sluice, "repl", "-q" }, options_of { pty = "in,out,err", env = { TERM = "dumb" }, steps = {
    { expect = "> " }, { send = "1 + 1\n" }, { expect = "2\r\n> " }, { send = "f(\n" }, { expect = "… " }, { send = CTRL_C },
    { expect = "> " }, { eof = true } } })
  t.eq({ r.code, r.unmet }, { 0, nil }, r.stdout)
  t.ok(not r.stdout:find "\27")
end)

T.test("colours only where they are wanted", function(t)
  local entries = { { "error 'x'", "x" }, LEAVE, EOF }
  t.ok(not session(t, entries).stdout:find "\27%[31")
  t.ok(session(t, entries, { env = { NO_COLOR = "" } }).stdout:find "\27%[31")
end)

T.test("usage", function(t)
  t.match(C.run({ C.sluice, "repl", "--help" }).stdout, "sluice repl %[options%]")
  t.match(C.run({ C.sluice, "repl", "--moc" }).stderr, "did you mean '%-%-mock'")
  t.eq(C.run({ C.sluice, "repl", "/nowhere/x.lua" }).code, 4)
  t.eq(C.run({ C.sluice, "repl", "-" }).code, 2)
end)

T.done()
