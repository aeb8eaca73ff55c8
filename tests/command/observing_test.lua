-- docs/observing.md: every block of Lua runs, every option named in it exists.
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

T.done()
