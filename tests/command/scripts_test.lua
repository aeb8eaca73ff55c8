-- timeout: 120
-- Every script in scripts/ on the mock provider, and every block of Lua in README: what a newcomer runs
-- first must work. A script that needs arguments has them here; one without an entry fails the test.

local T = require "harness"
local C = require "command"

local QUICK = "tests/fixtures/quick.lua" -- the mock without its pauses

local SCRIPTS = {
  ["ask.lua"] = { args = { "Why is the sky blue?" }, out = "%a" },
  ["budgeted.lua"] = { args = { "1", "LICENSE" }, out = '"model":"deepseek%-ai/DeepSeek%-V3"' },
  ["cached.lua"] = { args = { T.tmpdir() .. "/answers.jsonl", "When are you open?" }, out = "%a" },
  ["chat.lua"] = { stdin = "hello\nand again\n", out = "%a.*\n.*%a" },
  ["compare.lua"] = { args = { "hello" }, out = "siliconflow/Qwen/Qwen3%-8B +%d" },
  ["demo.lua"] = { out = "6 answers in" },
  ["degrade.lua"] = { stdin = "hello\nand again\n", out = "%a.*\n.*%a" },
  ["hedge.lua"] = { args = { "Why is the sky blue?" }, out = "%a" },
  ["map-reduce.lua"] = { args = { "README.md", "What is it for?" }, out = "%a" },
  ["summarise-files.lua"] = { args = { "README.md", "LICENSE" }, out = "## README.md.*## LICENSE" },
  ["token.lua"] = { command = "token", args = { "corp" }, out = "^mock%-token%-1\n$" },
  ["tools.lua"] = { args = { "What is 17 * 23?" }, out = "391" },
}

local listing = io.popen "ls scripts/*.lua"
for path in listing:lines() do
  local name = path:match "[^/]*$"
  if not name:find "_test%.lua$" and not name:find "rules%.lua$" then
    T.test("scripts/" .. name .. " runs on the mock", function(t)
      local case = SCRIPTS[name]
      t.ok(case, "no case for this script in scripts_test.lua")
      local argv = { C.sluice, case.command or "run", "-q", "--mock=" .. QUICK, path }
      for _, word in ipairs(case.args or {}) do argv[#argv + 1] = word end
      local r = C.run(argv, { stdin = case.stdin or "", timeout = 30 })
      t.eq(r.code, case.code or 0, r.stderr)
      t.match(r.stdout, case.out)
    end)
    T.test("scripts/" .. name .. " says what it does and how to run it", function(t)
      local text = T.read(path)
      t.match(text, "^%-%- .-\n")
      local command = SCRIPTS[name] and SCRIPTS[name].command or "run"
      t.match(text, "sluice " .. command .. " [^\n]*scripts/" .. name:gsub("%p", "%%%0"))
      local lines = select(2, text:gsub("\n", "\n"))
      t.ok(lines <= 60, ("%d lines; a script to keep has at most 60"):format(lines))
    end)
  end
end
listing:close()

local blocks = {}
for block in T.read("README.md"):gmatch "```lua\n(.-)```" do blocks[#blocks + 1] = block end

T.test("README: every block of Lua compiles", function(t)
  t.ok(#blocks >= 5, "README has lost its examples")
  for i, block in ipairs(blocks) do t.ok(load(block, ("=README block %d"):format(i))) end
end)

T.test("README: the first script runs as it stands", function(t)
  local path = T.tmpdir() .. "/story.lua"
  T.write(path, blocks[1])
  local r = C.run({ C.sluice, "run", "-q", "--mock=" .. QUICK, path }, { timeout = 30 })
  t.eq(r.code, 0, r.stderr)
  t.match(r.stdout, "%a.*\n.*%a.*\n.*%a")
end)

T.test("README: the test of a rule passes", function(t)
  local found
  for _, block in ipairs(blocks) do
    if block:find("sluice.test(", 1, true) then found = block end
  end
  t.ok(found, "README shows no test")
  local path = T.tmpdir() .. "/fallback_test.lua"
  T.write(path, found)
  local r = C.run({ C.sluice, "test", path }, { timeout = 30 })
  t.eq(r.code, 0, r.stdout .. r.stderr)
  t.match(r.stdout, "1 passed")
end)

T.done()
