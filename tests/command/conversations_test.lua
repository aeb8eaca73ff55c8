-- docs/conversations.md: every block of Lua, in order, on the mock.

local T = require "harness"
local C = require "command"

T.test("docs/conversations.md: every block runs as it stands and does what it says", function(t)
  local blocks = {}
  for block in T.read "docs/conversations.md":gmatch "```lua\n(.-)```" do blocks[#blocks + 1] = block end
  t.ok(#blocks >= 9, #blocks)
  local parts = { blocks[1] }
  for i = 2, #blocks do parts[i] = ("print('\\n== %d')\ndo\n%s\nend"):format(i, blocks[i]) end
  local path = T.write(T.tmpdir() .. "/guide.lua", table.concat(parts, "\n"))
  local r = C.run({ C.sluice, "run", "-q", "--mock=tests/fixtures/quick.lua", path }, { timeout = 60 })
  t.eq(r.code, 0, r.stdout .. r.stderr)
  t.match(r.stdout, "\n2%s+%d+\n", "two turns and their tokens")
  t.match(r.stdout, "%s1\n\n== 4", "the original still has one turn")
  t.match(r.stdout, "14:20.*%s2%s+tide\n")
  t.match(r.stdout, "only the harbour master may do that")
  t.match(r.stderr, "remove_file: The call was not allowed: only the harbour master")
  t.match(r.stdout, "clock%s+%d%d:%d%d\n")
  t.match(r.stdout, "protocol%s+schema%s+/n: must be at least 5")
  t.match(r.stdout, "in a kind voice%.\n1%. a%.lua: 12 lines\nAnswer as {\"verdict\"")
end)

T.done()
