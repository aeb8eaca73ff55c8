-- timeout: 120
-- Every script in scripts/ on the mock provider, and every block of Lua in README: what a newcomer runs
-- first must work. A script that needs arguments has them here; one without an entry fails the test.

local T = require "harness"
local C = require "command"

local QUICK = "tests/fixtures/quick.lua" -- the mock without its pauses

local CLAUDE = "tests/fixtures/programs/claude"

local LOG = T.write(T.tmpdir() .. "/app.log", "all is well\n12:00:01 ERROR no answer from db-3\n")
local FOLDER = T.tmpdir()
T.write(FOLDER .. "/notes.txt", "Locks and weirs.\n")

-- A repository with one file staged, or nil and why there is none.
local function repository()
  local folder = T.tmpdir()
  T.write(folder .. "/a.txt", "one\ntwo\n")
  local made = os.execute(("cd '%s' && git init -q . && git add a.txt"):format(folder))
  if not made then return nil end
  return { GIT_DIR = folder .. "/.git", GIT_WORK_TREE = folder }
end

-- args, stdin, env, steps: how it is run; out: what it must print; code: its exit code. `needs` makes env.
local SCRIPTS = {
  ["agent.lua"] = { args = { "runtime", "What does the list of files say?" }, out = "README%.md" },
  ["ask.lua"] = { args = { "Why is the sky blue?" }, out = "%a" },
  ["budgeted.lua"] = { args = { "1", "LICENSE" }, out = '"model":"deepseek%-ai/DeepSeek%-V3"' },
  ["cached.lua"] = { args = { T.tmpdir() .. "/answers.jsonl", "When are you open?" }, out = "%a" },
  ["chat.lua"] = { stdin = "hello\nand again\n", out = "%a.*\n.*%a" },
  ["claude-code.lua"] = { args = { "Where is it?" }, env = { CLAUDE = CLAUDE }, out = "You asked: Where is it%?\n" },
  ["commit-message.lua"] = { needs = repository, out = "%a" },
  ["compare.lua"] = { args = { "hello" }, out = "siliconflow/Qwen/Qwen3%-8B +1/1 +%d" },
  ["demo.lua"] = { out = "6 answers in" },
  ["degrade.lua"] = { stdin = "hello\nand again\n", out = "%a.*\n.*%a" },
  ["extract.lua"] = { args = { "owner: string, year: integer?", T.tmpdir() .. "/rows.jsonl", "LICENSE", "README.md" },
    out = "^$", err = "2 of 2 files" },
  ["hedge.lua"] = { args = { "Why is the sky blue?" }, out = "%a" },
  ["map-reduce.lua"] = { args = { "README.md", "What is it for?" }, out = "%a" },
  ["review.lua"] = { args = { "-" }, stdin = "", out = "^$" }, -- with a diff: scripts_work_test.lua
  ["summarise-files.lua"] = { args = { "README.md", "LICENSE" }, out = "## README.md.*## LICENSE" },
  ["summarise-folder.lua"] = { args = { FOLDER }, out = "notes%.txt: %a.*\n\n.*%a" },
  ["token.lua"] = { command = "token", args = { "corp" }, out = "^mock%-token%-1\n$" },
  ["tools.lua"] = { args = { "What is 17 * 23?" }, out = "391" },
  ["translate.lua"] = { args = { "Chinese", "README.md" }, env = { MODEL = "siliconflow/echo" }, out = "^# sluice\n" },
  ["watch-log.lua"] = { args = { LOG }, steps = { { expect = "db-3" }, { signal = "INT" } }, code = 130, out = "\n  %a" },
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
      local env = case.env or case.needs and case.needs()
      if case.needs and not env then t.skip "git is not here, or cannot make a repository" end
      local r = C.run(argv, { stdin = case.stdin or "", timeout = 30, env = env, steps = case.steps })
      t.eq({ r.code, r.unmet }, { case.code or 0 }, r.stderr)
      t.match(r.stdout, case.out)
      if case.err then t.match(r.stderr, case.err) end
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

T.test("README: its table has every script, and no other", function(t)
  local listed, there = {}, {}
  for name in T.read("README.md"):gmatch "\n| %[[^%]]*%]%(scripts/([^)]*)%)" do listed[name] = true end
  for name in pairs(SCRIPTS) do there[name] = true end
  t.eq(listed, there)
end)

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
