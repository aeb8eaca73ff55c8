-- The REPL's screen as a terminal draws it: in tmux, which is a terminal written by others. What is typed,
-- what tasks print above it, and what a resize does must be where a person looks for it.
-- timeout: 120
local T = require "harness"
local C = require "command"

local has_tmux = os.execute "command -v tmux >/dev/null 2>&1" == true
local folder = T.tmpdir()
local DEADLINE_S = 20

-- One server of its own for each screen; it ends with the block.
local Screen = {}
Screen.__index = Screen

local ENV = { LC_ALL = "C.UTF-8", TERM = "xterm", SHELL = "/bin/sh" }

local function argv_of(self, words)
  local argv = { "tmux", "-S", self.socket, "-f", "/dev/null" }
  return table.move(words, 1, #words, #argv + 1, argv)
end

local function run(self, words) return C.run(argv_of(self, words), { env = ENV }) end

local function screen(columns, rows)
  local self = setmetatable({ socket = folder .. "/tmux" }, Screen)
  self.server = C.start(argv_of(self, { "-D" }), { env = ENV, timeout = 100 }) -- not a daemon
  local pwd = io.popen "pwd":read "l"
  local program = C.sluice:sub(1, 1) == "/" and C.sluice or pwd .. "/" .. C.sluice
  local words = { "new-session", "-d", "-x", tostring(columns), "-y", tostring(rows),
    ("XDG_STATE_HOME='%s' NO_COLOR=1 '%s' repl -q"):format(T.tmpdir(), program) }
  local until_ = os.time() + DEADLINE_S
  while run(self, words).code ~= 0 do -- until the server listens
    assert(os.time() <= until_, "no tmux server")
  end
  return self
end

-- The lines on the screen, without blanks at their ends, and without empty ones at the bottom.
function Screen:text()
  local text = run(self, { "capture-pane", "-p" }).stdout
  return (text:gsub("[ \t]+\n", "\n"):gsub("%s+$", ""))
end

function Screen:type(text) run(self, { "send-keys", "-l", text }) end

function Screen:keys(...) run(self, { "send-keys", ... }) end

-- Each look takes a process of its own, so this does not spin.
function Screen:wait(t, wanted)
  local until_ = os.time() + DEADLINE_S
  local text
  repeat
    text = self:text()
    if text:find(wanted, 1, true) then return text end
  until os.time() > until_
  t.eq("\n" .. text, wanted)
  error "not on the screen"
end

Screen.__close = function(self) self.server:stop() end

local function test(name, columns, rows, body)
  T.test(name, function(t)
    if not has_tmux then t.skip "no tmux here" end
    local s <close> = screen(columns, rows)
    s:wait(t, ">")
    body(t, s)
  end)
end

test("output above a line of two rows, wide characters and all", 40, 16, function(t, s)
  s:type "c = sluice.task.channel(9) spawn(function() while true do print(c:receive()) end end)"
  s:keys "Enter"
  s:wait(t, "nd end)\n>")
  s:type "spawn(function() sluice.task.sleep(1) c:send(('上'):rep(25)) c:send 'short' end)"
  s:keys "Enter"
  s:wait(t, "<task")
  s:type "'永安水永安水永安水永安水永安水永安水永安水 end'"
  s:keys("Left", "Left", "Left")
  s:wait(t, "永安水 end'")
  local text = s:wait(t, "\nshort\n")
  t.match(text, "上上上上上上上上上上上上上上上上上上上上\n上上上上上\nshort\n"
    .. "> '永安水永安水永安水永安水永安水永安水\n永安水 end'$")
  s:type "X"
  t.match(s:wait(t, "eXnd"), "\n永安水 eXnd'$")
end)

test("a narrower and a wider window", 60, 12, function(t, s)
  s:type "'永安水永安水永安水永安水永安水永安水永安水 and some words'"
  s:wait(t, "words\n'")
  run(s, { "resize-window", "-x", "40", "-y", "12" })
  s:type "A"
  s:wait(t, "> '永安水永安水永安水永安水永安水永安水\n永安水 and some words'A") -- tmux takes its time to resize
  run(s, { "resize-window", "-x", "70", "-y", "12" })
  s:keys "C-a"
  s:type "B"
  t.eq(s:wait(t, "> B'永安水永安水永安水永安水永安水永安水永安水 and some words'A"),
    "> B'永安水永安水永安水永安水永安水永安水永安水 and some words'A")
end)

test("an input of several lines that comes back is drawn as several", 40, 16, function(t, s)
  s:type "for i = 1, 1 do"
  s:keys "Enter"
  s:wait(t, "…")
  s:type "print('水' .. i)"
  s:keys "Enter"
  s:type "end"
  s:keys "Enter"
  s:wait(t, "水1")
  s:keys "Up"
  t.match(s:wait(t, "水1\n> for"), "水1\n> for i = 1, 1 do\nprint%('水' .. i%)\nend$")
  s:keys("Enter")
  t.match(s:wait(t, "end\n水1"), "end\n水1\n>$")
end)

T.done()
