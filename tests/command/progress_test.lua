-- progress = "title" as it is seen: drawn on a terminal around what a script prints, plain elsewhere.
local T, C = require "harness", require "command"

local function script(code)
  return T.write(T.tmpdir() .. "/script.lua", 'local sluice = require "sluice" local task = sluice.task\n' .. code)
end

--- What a terminal shows at the end, line by line: knows "\r", "\n" and erasing a line. Fails on anything else.
local function screen(t, bytes)
  local lines, row, column = { {} }, 1, 1
  local at = 1
  while at <= #bytes do
    local c = bytes:sub(at, at)
    if bytes:sub(at, at + 3) == "\27[2K" then
      lines[row], at = {}, at + 4
    elseif c == "\r" then column, at = 1, at + 1
    elseif c == "\n" then
      row, at = row + 1, at + 1
      lines[row] = lines[row] or {}
    else
      t.ok(c:byte() >= 32 or c == "\t", ("byte %d"):format(c:byte()))
      local char = bytes:match("^[%z\1-\127\194-\244][\128-\191]*", at)
      for i = #lines[row] + 1, column - 1 do lines[row][i] = " " end
      lines[row][column] = char
      column, at = column + 1, at + #char
    end
  end
  local texts = {}
  for i, line in ipairs(lines) do texts[i] = table.concat(line) end
  return table.concat(texts, "\n")
end

local PTY = { pty = "out,err", env = { TERM = "xterm", NO_COLOR = "1" }, winsize = "70x24" }

local BUSY = script [[
local n, whole = {}, false
for i = 1, 12 do n[i] = i end
task.map(n, function(i)
  task.sleep(0.15)
  if i == 2 then print("printed", i) end
  if i == 4 then io.write("partial ") task.sleep(0.25) io.write("text", "\n") whole = true end
  while i > 5 and not whole do task.sleep(0.01) end
  if i == 6 then io.stdout:write("a file's\n") end
  if i == 8 then io.stderr:write("on stderr\n") end
  if i == 10 then sluice.log.warn("logged") end
  if i == 12 then task.sleep(0.25) io.write "no line end" end
end, { concurrency = 2, progress = "翻译 files" })
print "after"
]]

T.test("on a terminal: drawn, and what the script writes stands there whole", function(t)
  local r = C.run({ C.sluice, "run", BUSY }, PTY)
  t.eq(r.code, 0, r.stdout)
  t.match(r.stdout, "\r\27%[2K翻译 files  %d+/12  ")
  t.match(r.stdout, "in flight")
  local shown = screen(t, r.stdout:gsub("%d%d:%d%d:%d%d%.%d%d%d", "TIME"))
  t.match(shown, "^printed\t2\npartial text\na file's\non stderr\nTIME warn  logged\nno line end\n"
    .. "翻译 files: 12 done in [%d.]+ s\nafter\n$")
end)

T.test("Ctrl-C takes the line away and says how far it was", function(t)
  local r = C.run({ C.sluice, "run", script [[
    task.map({ 1, 2, 3 }, function(i) task.sleep(i == 1 and 0.1 or 60) end, { progress = "work" })
  ]] }, { pty = PTY.pty, env = PTY.env, steps = { { expect = "1/3" }, { signal = "INT" } } })
  t.eq(r.code, 130)
  t.match(screen(t, r.stdout), "^work: cancelled after .*, 1 of 3 done\nsluice: interrupted\n$")
end)

T.test("an error takes the line away, and is told as ever", function(t)
  local r = C.run({ C.sluice, "run", script [[
    task.map({ 1, 2 }, function(i) task.sleep(0.3 * i) if i == 1 then error "broken" end end, { progress = "work" })
  ]] }, PTY)
  t.eq(r.code, 1)
  t.match(screen(t, r.stdout), "^work: ended by an error after .*, 0 of 2 done\nsluice: .*script.lua:2: broken\n  at ")
end)

T.test("a terminal of 20 columns: no line is as wide", function(t)
  local r = C.run({ C.sluice, "run", script [[
    task.map({ 1, 2, 3 }, function() task.sleep(0.25) end, { concurrency = 1, progress = "翻译一个很长的标题" })
  ]] }, { pty = PTY.pty, env = PTY.env, winsize = "20x24" })
  t.eq(r.code, 0)
  local seen = 0
  for line in r.stdout:gmatch "\27%[2K([^\r\n]+)\r" do
    seen = seen + 1
    local columns = 0
    for _, code in utf8.codes(line) do columns = columns + (code >= 0x2E80 and 2 or 1) end
    t.ok(columns < 20 or line:find " done in ", line) -- the last one is text like any other
  end
  t.ok(seen > 2, seen)
end)

T.test("stdout in a pipe gets the script's words alone; print and write are as before afterwards", function(t)
  local r = C.run({ C.sluice, "run", script [[
    local before = { print, io.write, getmetatable(io.stdout).__index.write }
    task.map({ 1, 2, 3 }, function(i) task.sleep(0.15) print(i) end, { concurrency = 1, progress = "work" })
    print(print == before[1], io.write == before[2], getmetatable(io.stdout).__index.write == before[3])
  ]] }, { pty = "err", env = PTY.env })
  t.eq({ r.code, r.stdout }, { 0, "1\n2\n3\ntrue\ttrue\ttrue\n" })
  t.match(screen(t, r.stderr), "^work: 3 done in .*\n$")
end)

T.test("no terminal, a dumb one, --quiet", function(t)
  local short = script [[task.map({ 1, 2 }, function() task.sleep(0.15) end, { progress = "work" }) print "x"]]
  local r = C.run { C.sluice, "run", short }
  t.eq({ r.code, r.stdout }, { 0, "x\n" })
  t.match(r.stderr, "^work: 2 done in [%d.]+ m?s\n$")
  r = C.run({ C.sluice, "run", short }, { pty = "err", env = { TERM = "dumb" } })
  t.match(r.stderr, "^work: 2 done in [%d.]+ m?s\r?\n$")
  for _, pty in ipairs { false, "err" } do
    r = C.run({ C.sluice, "run", "-q", short }, { pty = pty or nil, env = PTY.env })
    t.eq({ r.code, r.stdout, r.stderr }, { 0, "x\n", "" })
  end
end)

T.test("in the REPL nothing is drawn: the line belongs to the prompt", function(t)
  local prompt = "\27[?2004h> "
  local r = C.run({ C.sluice, "repl" }, { pty = "in,out,err", env = { TERM = "xterm", NO_COLOR = "1",
    XDG_STATE_HOME = T.tmpdir() }, steps = { { expect = prompt },
    { send = 'sluice.task.map({ 1, 2 }, function() sluice.task.sleep(0.3) end, { progress = "work" })\r' },
    { expect = "work: 2 done in" }, { expect = prompt }, { send = "\4" } } })
  t.eq({ r.code, r.unmet }, { 0, nil })
  t.ok(not r.stdout:find("work  ", 1, true), r.stdout)
end)

T.done()
