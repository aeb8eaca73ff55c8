-- docs/observing.md: every block of Lua runs, every option named in it exists; os.exit loses nothing.
local T = require "harness"
local C = require "command"

T.test("docs/observing.md: the blocks of Lua run as they stand", function(t)
  local blocks = 0
  for block in T.read "docs/observing.md":gmatch "```lua\n(.-)```" do
    blocks = blocks + 1
    local r = C.run { C.sluice, "run", "--mock", T.write(T.tmpdir() .. "/block.lua", block) }
    t.eq(r.code, 0, block .. "\n" .. r.stderr)
  end
  t.ok(blocks >= 2)
end)

T.test("docs/observing.md: the options exist", function(t)
  local help, seen = C.run({ C.sluice, "help", "run" }).stdout, 0
  for option in T.read "docs/observing.md":gmatch "`(%-%-[%w%-]+)" do
    seen = seen + 1
    t.ok(help:find(option, 1, true), option)
  end
  t.ok(seen > 5)
end)

local LEAVES = [[
local sluice = require "sluice"
sluice.model "mock/echo":ask "hi"
for _ = 1, 30 do sluice.log.info "again" end
%s]]

-- os.exit, wherever it stands: all that the end of a run writes is written, once.
for name, leave in pairs {
  plainly = "os.exit(7)",
  ["from another task"] = "sluice.task.all { function() os.exit(7) end, function() sluice.task.sleep(30) end }",
  ["where a task cannot wait"] = "table.sort({ 3, 2, 1 }, function() os.exit(7) end)",
  ["with the state closed"] = "coroutine.wrap(function() os.exit(7, true) end)()",
} do
  T.test("os.exit " .. name .. ": metrics, trace, report, log and summary are whole", function(t)
    local dir = T.tmpdir()
    local r = C.run { C.sluice, "run", "--mock", "-v", "--metrics-file", dir .. "/m.prom", "--trace", dir .. "/t.json",
      "--report", dir .. "/r.html", "--log-format", "json", "-e", LEAVES:format(leave) }
    t.eq(r.code, 7, r.stderr)
    t.match(T.read(dir .. "/m.prom"), 'api_request_duration_seconds_count{[^}]*outcome="ok"} 1')
    t.match(T.read(dir .. "/t.json"), "attempt 1.*\n%]\n$")
    t.match(T.read(dir .. "/r.html"), "exit code 7")
    t.match(r.stderr, '"msg":"again","repeated":20')
    local _, summaries = r.stderr:gsub("sluice: 1 call in", "")
    t.eq(summaries, 1, r.stderr)
  end)
end

T.done()
