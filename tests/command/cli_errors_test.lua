-- Errors nobody caught: one line a person can act on, the script's own frames, what else failed; and
-- nothing that could hold a secret or move the cursor.
local T = require "harness"
local C = require "command"

local folder = T.tmpdir()

local function run(words, options)
  options = options or {}
  options.cwd = folder
  return C.run({ C.sluice, table.unpack(words) }, options)
end

local function fails(t, code, stderr, words)
  local r = run(words or { "-e", code })
  t.eq(r.stderr, stderr, code)
  t.eq(r.code, 1, code)
end

local function here(text) return "sluice: " .. text .. "\n  at (command line):1 in main chunk\n" end

T.test("a string, with the frames of the script", function(t)
  T.write(folder .. "/x.lua", [[
local function summarise(s)
  local text = ("boom"):rep(1) .. s
  error(text)
end
local M = {}
function M.outer() summarise("!") return 1 end
local n = M.outer()
return n
]])
  fails(t, nil, "sluice: x.lua:3: boom!\n  at x.lua:3 in function 'summarise'\n"
    .. "  at x.lua:6 in function 'outer'\n  at x.lua:7 in main chunk\n", { "x.lua" })
end)

T.test("-v shows every frame", function(t)
  local r = run { "-v", "x.lua" }
  t.match(r.stderr, "^sluice: x%.lua:3: boom!\n  at %[C%] in function 'error'\n  at x%.lua:3 in function 'summarise'\n")
  t.match(r.stderr, "\n  at sluice/command/script%.lua:%d+ in ")
end)

T.test("other values", function(t)
  fails(t, "error()", here "an error without a value (nil)")
  fails(t, "error(42)", here "an error with the value 42")
  fails(t, "error(false)", here "an error with the value false")
  fails(t, "error(print)", here "an error that is a function")
  fails(t, "error ''", "sluice: (command line):1:\n  at (command line):1 in main chunk\n")
  fails(t, "error('', 0)", here "an error with an empty message")
  fails(t, "error {}", here "an error that is a table: {}")
  fails(t, "error { code = 7, why = 'full', 'x' }", here 'an error that is a table: { "x", code = 7, why = "full" }')
  fails(t, "error { message = 'full' }", here "full")
  fails(t, "error(setmetatable({}, { __tostring = function() return 'mine' end }))", here "mine")
  fails(t, "error(setmetatable({}, { __tostring = function() error('no', 0) end }))",
    here "an error that is a table and cannot be shown: no")
  fails(t, "error(setmetatable({}, { __tostring = function() return {} end }))",
    here "an error that is a table and cannot be shown: '__tostring' must return a string")
end)

T.test("errors of the runtime", function(t)
  local r = run { "-e", "local t = require 'sluice.core.task'\nlocal s = t.scope { deadline = 0 }\n"
    .. "local _, err = s:run(t.sleep, 1)\nerror(err)" }
  t.eq(r.code, 1)
  t.match(r.stderr, "^sluice: cancelled: the task was cancelled: its deadline passed")
  t.match(r.stderr, "\n  at %(command line%):%d in main chunk\n$")
  r = run { "-e", "print(tostring(select(2, require 'sluice.core.task'.scope { deadline = 0 }:run("
    .. "require 'sluice.core.task'.sleep, 1))))" }
  t.match(r.stdout, "^cancelled: the task was cancelled", "readable though nothing has loaded its words")
end)

T.test("a deadlock lists its tasks", function(t)
  local r = run { "-e", "local task = require 'sluice.core.task'\nlocal sync = require 'sluice.core.sync'\n"
    .. "local group = task.scope { group = true }\n"
    .. "group:run(function()\n  group:spawn(function() sync.channel(1):receive() end)\nend)\ngroup:wait()\nerror(group:errors()[1], 0)" }
  t.eq(r.code, 1)
  local head, rest = r.stderr:match "^([^\n]*)\n(.*)$"
  t.match(head, "^sluice: deadlock: every task waits for another[^\n]*one$")
  t.match(rest, "  task %d+ waiting on [^\n]* at %(command line%):5, spawned at %(command line%):5\n")
end)

T.test("causes and companions", function(t)
  fails(t, "error { message = 'm', cause = { message = 'c', cause = 'd' }, also = { 'a1', { message = 'a2' } } }",
    here "m" .. "  caused by: c\n  caused by: d\n  also: a1\n  also: a2\n")
  fails(t, "local e = { message = 'm' } e.cause = e error(e)", here "m")
  local r = run { "-e", "local also = {} for i = 1, 30 do also[i] = 'e' .. i end error { message = 'm', also = also }" }
  t.match(r.stderr, "  also: e8\n  and 22 more\n$")
  fails(t, "error { code = 1, also = { 'a' }, cause = 'c' }",
    here "an error that is a table: { code = 1 }" .. "  caused by: c\n  also: a\n")
  fails(t, "error { a = {}, b = { 1 }, c = print }", here "an error that is a table: { a = {}, b = {…}, c = <function> }")
  fails(t, "error { message = 'm', spawned_at = 'x.lua:3' }", here "m" .. "  in a task spawned at x.lua:3\n")
end)

T.test("no secret, no escape sequence", function(t)
  local r = run { "-e", "error { code = 1, api_key = 'sk-canary', Authorization = 'Bearer canary', token = 'canary' }" }
  t.ok(not r.stderr:find "canary", r.stderr)
  t.match(r.stderr, "{ Authorization = <hidden>, api_key = <hidden>, code = 1, token = <hidden> }")
  fails(t, "error('\\27]0;title\\7\\27[31mred\\r\\0\\u{9b}31m', 0)",
    here "\\027]0;title\\007\\027[31mred\\013\\000\\u{9b}31m")
  fails(t, "error('one\\ntwo', 0)", "sluice: one\n  two\n  at (command line):1 in main chunk\n")
end)

T.test("a module that is not there", function(t)
  fails(t, "require 'sluce'", here "(command line):1: module 'sluce' not found (did you mean 'sluice'?)")
  fails(t, "require 'my.part'", here("(command line):1: module 'my.part' not found: neither my/part.lua nor "
    .. "my/part/init.lua is beside the script or in LUA_PATH (-v lists the places)"))
  fails(t, "require 'sluice.nosuch'", here "(command line):1: module 'sluice.nosuch' not found inside sluice")
  local r = run { "-v", "-e", "require 'my.part'" }
  t.match(r.stderr, "\n  \tno module 'my%.part' inside sluice\n")
end)

local SYNTAX = {
  { "local x foo 1\n", "sluice: s.lua:1: syntax error near '1'\n  1 | local x foo 1\n    |             ^\n" },
  { "print(1)\n\n  local local\n", "sluice: s.lua:3: <name> expected near 'local'\n  3 |   local local\n"
    .. "    |         ^\n" },
  { "\tlocal t = { \"汉字\", foo foo }\n", "sluice: s.lua:1: '}' expected near 'foo'\n"
    .. "  1 | \tlocal t = { \"汉字\", foo foo }\n    | \t                        ^\n" },
  { "if x then\n  print(1)\n", "sluice: s.lua:3: 'end' expected (to close 'if' at line 1) near <eof>\n"
    .. "  1 | if x then\n" },
  { "x = 'abc\n", "sluice: s.lua:1: unfinished string near ''abc'\n  1 | x = 'abc\n    |     ^\n" },
  { "x = 1 +\n", "sluice: s.lua:2: unexpected symbol near <eof>\n" },
  { "#!shebang\nbreak 1\n", "sluice: s.lua:2: unexpected symbol near '1'\n  2 | break 1\n    |       ^\n" },
  { ("x = 1; "):rep(60) .. "y y\n", "sluice: s.lua:1: syntax error near 'y'\n" },
}
T.test("a script that does not compile", function(t)
  for _, case in ipairs(SYNTAX) do
    T.write(folder .. "/s.lua", case[1])
    fails(t, nil, case[2], { "s.lua" })
  end
  T.write(folder .. "/s.lua", "-- one\ngoto nowhere\n-- three\n")
  t.match(run({ "s.lua" }).stderr, "^sluice: s%.lua:%d: no visible label 'nowhere'.* at line 2\n  2 | goto nowhere\n$")
  T.write(folder .. "/s.lua", string.dump(function() end))
  fails(t, nil, "sluice: s.lua: this is compiled Lua; sluice runs source text only\n", { "s.lua" })
end)

T.test("errors of tasks name the task's own frames", function(t)
  T.write(folder .. "/g.lua", [[
local task = require "sluice.core.task"
local function work() error "in the task" end
local group = task.scope { group = true }
group:run(function()
  group:spawn(function() work() return 1 end)
  task.sleep(600)
end)
group:wait()
local failed = group:errors()
group:finish()
error(failed[1], 0)
]])
  fails(t, nil, "sluice: g.lua:2: in the task\n  at g.lua:2 in function 'work'\n  at g.lua:5 in function <g.lua:5>\n",
    { "g.lua" })
end)

T.test("many frames are cut short", function(t)
  local r = run { "-e", "local function f(n) if n == 0 then error 'deep' end return (f(n - 1)) end f(30)" }
  local _, frames = r.stderr:gsub("\n  at ", "")
  t.ok(frames >= 10 and frames <= 20, frames)
  t.match(r.stderr, "\n  %.%.%. %(skipping %d+ levels%)\n")
  r = run { "-e", "local function f(n) return 1 + f(n + 1) end f(1)" }
  t.eq(r.code, 1)
  t.match(r.stderr, "^sluice: %(command line%):1: stack overflow")
  _, frames = r.stderr:gsub("\n", "")
  t.ok(frames < 40, frames)
end)

T.test("stdout comes before the error", function(t)
  local r = run({ "-e", "io.write 'first ' error('second', 0)" }, { merge = true })
  t.match(r.stdout, "^first sluice: second\n")
end)

T.test("the program's name is coloured on a terminal", function(t)
  local r = run({ "-e", "error('x', 0)" }, { pty = "err", env = { TERM = "xterm", NO_COLOR = false } })
  t.match(r.stdout .. r.stderr, "\27%[31;1msluice:\27%[0m x\r?\n")
end)

T.done()
