-- timeout: 120
-- The scripts in scripts/ doing what they say, beyond that they run (scripts_test.lua): what is kept, what is
-- refused, what they go on with, how they end when something is wrong.

local T = require "harness"
local C = require "command"

local QUICK = "{ first_token = 0, tokens_per_second = 100000, also = true }"

-- Runs a script on the mock with these rules in front.
local function run(name, args, rules, options)
  local scenario = T.write(T.tmpdir() .. "/scenario.lua", ("return { %s, %s }"):format(QUICK, rules or ""))
  local argv = { C.sluice, "run", "-q", "--mock=" .. scenario, "scripts/" .. name .. ".lua" }
  for _, word in ipairs(args) do argv[#argv + 1] = word end
  return C.run(argv, options)
end

local function file(text, name) return T.write(T.tmpdir() .. "/" .. (name or "file"), text) end

-- translate ---------------------------------------------------------------------------------------

local ECHO = { env = { MODEL = "siliconflow/echo" }, timeout = 60 }

T.test("translate: what is translated into itself is the same, byte for byte", function(t)
  for _, path in ipairs { "README.md", "docs/secrets.md", "runtime/README.md", "CHANGELOG.md" } do
    local r = run("translate", { "Chinese", path }, nil, ECHO)
    t.eq({ r.code, r.stdout == T.read(path) }, { 0, true }, path .. "\n" .. r.stderr)
  end
  local document = "---\ntitle: no\n---\nA `b` [c](http://d/`e`) <b>f</b> https://g/h.\n\n~~~\nno\n\n```\nno\n~~~\n\n"
    .. "    no\n    1. no\n\n- list\n    - inner\n\n| a | b |\n|---|---|\n| 1 | ⟦1⟧ |\n\n***\n```lua\nno end of this"
  local r = run("translate", { "Chinese", file(document) }, nil, ECHO)
  t.eq({ r.code, r.stdout }, { 0, document }, r.stderr)
end)

T.test("translate: code and links come back where the translation puts them; nothing else is touched", function(t)
  local document = "# Old\n\nThe `f()` of [this](http://x/y \"t\").\n\n```\nOld `code`\n```\n"
  local r = run("translate", { "German", file(document) },
    '{ nth = 1, text = "# Neu" }, { nth = 2, text = "[Dies](⟦2⟧ hat ⟦1⟧." }', { env = { CONCURRENCY = "1" } })
  t.eq(r.code, 0, r.stderr)
  t.eq(r.stdout, "# Neu\n\n[Dies]((http://x/y \"t\") hat `f()`.\n\n```\nOld `code`\n```\n")
end)

T.test("translate: what comes back with something missing stays as it was", function(t)
  local document = "Has `code`.\n\nHas none.\n"
  local r = run("translate", { "German", file(document) }, '{ text = "Neu." }', { env = { CONCURRENCY = "1" } })
  t.eq({ r.code, r.stdout }, { 3, "Has `code`.\n\nNeu.\n" })
  t.match(r.stderr, "left as it was: Has `code`.*lost code or links")
  r = run("translate", { "German", file "Text.\n" }, '{ text = "Cut", finish_reason = "length" }')
  t.eq({ r.code, r.stdout }, { 3, "Text.\n" }, "half an answer is none")
end)

-- review ------------------------------------------------------------------------------------------

local DIFF = [[
diff --git a/a.c b/a.c
index 1..2 100644
--- a/a.c
+++ b/a.c
@@ -10,3 +10,4 @@ int f(void)
 one
-two
+TWO
+three
 four
diff --git a/gone.c b/gone.c
--- a/gone.c
+++ /dev/null
@@ -1 +0,0 @@
-x
]]

local FINDINGS = [==[{ text = [[{"findings":[{"line":12,"severity":"%s","comment":"leaks\n the lock"},
  {"line":99,"severity":"nit","comment":"made up"}]}]] }]==]

T.test("review: findings at the new file's lines, and the exit code", function(t)
  local r = run("review", { "-" }, FINDINGS:format "bug", { stdin = DIFF })
  t.eq({ r.code, r.stdout }, { 1, "a.c:12: bug: leaks the lock\na.c: nit: made up\n" }, r.stderr)
  r = run("review", { "-" }, FINDINGS:format "risk", { stdin = DIFF })
  t.eq(r.code, 0, r.stderr)
  r = run("review", { "-" }, "{ status = 401 }", { stdin = DIFF })
  t.eq({ r.code, r.stdout }, { 3, "" })
  t.match(r.stderr, "a%.c: not reviewed: auth")
  r = run("review", { "-" }, nil, { stdin = DIFF:gsub("three", ("x"):rep(70000)) })
  t.match(r.stderr, "a%.c: too much has changed")
end)

-- extract -----------------------------------------------------------------------------------------

T.test("extract: goes on where it ended, names what failed", function(t)
  local folder = T.tmpdir()
  local out = folder .. "/rows.jsonl"
  for name, text in pairs { ["a.txt"] = 'From "Ada": 12', ["b.txt"] = "From Bob", ["c.txt"] = "no\0text" } do
    T.write(folder .. "/" .. name, text)
  end
  local args = { "sender: string, total: number?, kind: a|b: which, really", out, folder .. "/*.txt" }
  local answer = '{ text = [[{"sender":"X","kind":"%s"}]] }'
  local r = run("extract", args, answer:format "a")
  t.eq(r.code, 3)
  t.match(r.stderr, "c%.txt: .*\n2 of 3 files; 0 had been done before")
  local rows = T.read(out)
  t.eq(select(2, rows:gsub('"sender":"X"', "")), 2, rows)
  os.remove(folder .. "/c.txt")
  r = run("extract", args, "{ status = 500 }")
  t.eq({ r.code, T.read(out) }, { 0, rows }, "nothing is asked again")
  t.match(r.stderr, "0 of 0 files; 2 had been done before")
  os.remove(out)
  r = run("extract", args, answer:format "z")
  t.eq(r.code, 3)
  t.match(r.stderr, "a%.txt: protocol: .*/kind")
end)

-- agent -------------------------------------------------------------------------------------------

T.test("agent, extract: an input that is not there is an error, not an answer about nothing", function(t)
  local r = C.run { C.sluice, "run", "-q", "--mock", "scripts/agent.lua", "/nowhere", "What is here?" }
  t.eq({ r.code, r.stdout }, { 1, "" })
  t.match(r.stderr, "/nowhere is no folder")
  r = C.run { C.sluice, "run", "-q", "--mock", "scripts/extract.lua", "a: string", T.tmpdir() .. "/o.jsonl", "/nowhere/*.x" }
  t.eq({ r.code, r.stdout }, { 1, "" })
  t.match(r.stderr, "no file matches /nowhere/%*%.x")
end)

T.test("agent: looks inside the folder, and nowhere else", function(t)
  local above = T.tmpdir()
  T.write(above .. "/secret.txt", "hidden words\n")
  assert(os.execute(("mkdir '%s/root' && ln -s .. '%s/root/up' && printf 'a\\nneedle\\n' > '%s/root/hay'"):format(
    above, above, above)))
  local function call(name, arguments)
    local r = run("agent", { above .. "/root", "Find it." }, ("{ nth = 1, tool_call = { name = %q, arguments = %s } }")
      :format(name, arguments))
    t.eq(r.code, 0, r.stderr)
    t.ok(not (r.stdout .. r.stderr):find "hidden", r.stdout .. r.stderr)
    return r.stderr .. r.stdout
  end
  t.match(call("read", '{ path = "../secret.txt" }'), "%[read: .*outside of the folder")
  t.match(call("read", '{ path = "up/secret.txt" }'), "%[read: .*outside of the folder")
  t.match(call("grep", '{ pattern = "words", path = "up" }'), "%[grep: .*outside of the folder")
  t.match(call("list", '{ path = ".." }'), "%[list: .*outside of the folder")
  t.match(call("grep", ('{ pattern = "words", path = "%s" }'):format(above)), "%[grep: ")
  t.match(call("read", '{ path = "nowhere" }'), "%[read: .*[Nn]o such file")
  t.match(call("read", '{ path = "hay", from = 2 }'), "needle")
  t.match(call("grep", '{ pattern = "needle" }'), "hay:2:needle")
  t.match(call("grep", '{ pattern = "-x", path = "hay" }'), "%[grep: 0 bytes%]")
end)

-- claude-code -------------------------------------------------------------------------------------

local function claude(args, ends, options)
  options = options or {}
  options.env = { CLAUDE = "tests/fixtures/programs/claude", CLAUDE_ENDS = ends }
  return run("claude-code", args, nil, options)
end

T.test("claude-code: text, tools and the bill as they come", function(t)
  local r = claude({ "Where is it?", "--model", "haiku" }, "well", { stdin = "four" })
  t.eq({ r.code, r.stdout }, { 0, "You asked: Where is it?\n4 bytes came on stdin. 你好\n" }, r.stderr)
  t.eq(r.stderr, "[haiku, session 0f3c6f1e-6a0e-4d8e-9c55-2f1f0a6d7e11]\n→ Read {\"file_path\":\"parser.c\"}\n"
    .. "✗ no such file\n[the API is tried again]\n[2 turns, 3.2 s, 1200 tokens in, 34 out, $0.0123]\n")
end)

T.test("claude-code: an end that is none", function(t)
  local r = claude({ "x" }, "error")
  t.eq(r.code, 1)
  t.match(r.stderr, "claude: error_max_turns")
  r = claude({ "x" }, "never")
  t.eq(r.code, 1)
  t.match(r.stderr, "%(not JSON: Killed by somebody%).*no result")
  r = claude({ "x", "--bogus" }, "well")
  t.eq(r.code, 1)
  t.match(r.stderr, "unknown option '%-%-bogus'.*exit code 1 and no result")
  r = claude({}, "well")
  t.eq(r.code, 2)
  r = run("claude-code", { "x" }, nil, { env = { CLAUDE = "no-such-claude" } })
  t.match(r.stderr, "cannot run 'no%-such%-claude': no such program in PATH")
end)

-- commit-message ----------------------------------------------------------------------------------

T.test("commit-message: the message alone, of what is staged", function(t)
  local folder = T.tmpdir()
  if not os.execute(("cd '%s' && git init -q ."):format(folder)) then t.skip "git is not here" end
  local options = { env = { GIT_DIR = folder .. "/.git", GIT_WORK_TREE = folder } }
  local r = run("commit-message", {}, nil, options)
  t.eq({ r.code, r.stdout }, { 2, "" })
  t.match(r.stderr, "nothing is staged")
  T.write(folder .. "/a.txt", ("a line of this file\n"):rep(5000))
  T.write(folder .. "/b.txt", "short\n")
  assert(os.execute(("cd '%s' && git add ."):format(folder)))
  r = run("commit-message", {}, '{ text = "```text\\nSay less\\n\\nBecause.\\n```\\n" }', options)
  t.eq({ r.code, r.stdout }, { 0, "Say less\n\nBecause.\n" }, r.stderr)
  options.env.MODEL = "siliconflow/echo"
  r = run("commit-message", {}, nil, options)
  t.match(r.stdout, "^Subjects of the last commits")
  r = run("commit-message", {}, ('{ text = "%s" }'):format(("字"):rep(73)), options)
  t.match(r.stderr, "the first line has 73 characters")
  r = run("commit-message", {}, nil, { env = { GIT_DIR = "/nowhere" } })
  t.eq(r.code, 1)
  t.match(r.stderr, "'git' exited with 128: fatal: not a git repository")
end)

local RECORDER = [[
local sluice = require "sluice"
local path = ...
local server <close> = sluice.server.listen { handler = function(req, res)
  local file <close> = assert(io.open(path, "wb"))
  file:write(sluice.json.decode(req.body).messages[2].content)
  file:close()
  res:json(200, { choices = { { message = { content = "Done" }, finish_reason = "stop" } } })
end }
print("port " .. server.port)
io.flush()
server:wait()
]]

T.test("commit-message: of a diff that is too large, the beginning of every file", function(t)
  local folder = T.tmpdir()
  if not os.execute(("cd '%s' && git init -q ."):format(folder)) then t.skip "git is not here" end
  T.write(folder .. "/a.txt", ("a line of this file\n"):rep(5000))
  T.write(folder .. "/b.txt", "short\n")
  assert(os.execute(("cd '%s' && git add ."):format(folder)))
  local seen = folder .. "/seen"
  local server <close> = C.start { C.sluice, "run", "-q", T.write(folder .. "/server.lua", RECORDER), seen }
  local r = C.run({ C.sluice, "run", "-q", "scripts/commit-message.lua" }, { env = { MODEL = "openai/x",
    OPENAI_API_KEY = "x", OPENAI_BASE_URL = "http://127.0.0.1:" .. server:expect "port (%d+)",
    GIT_DIR = folder .. "/.git", GIT_WORK_TREE = folder } })
  t.eq({ r.code, r.stdout }, { 0, "Done\n" }, r.stderr)
  local prompt = T.read(seen)
  t.match(prompt, "a line of this file\n%[… the rest of this file is left out%]\ndiff %-%-git a/b%.txt.*%+short\n$")
  t.ok(#prompt > 20000 and #prompt < 50000, #prompt)
end)

-- watch-log ---------------------------------------------------------------------------------------

T.test("watch-log: each kind once, through a rotation", function(t)
  local folder = T.tmpdir()
  local log = T.write(folder .. "/app.log", "fine\n12:00:01 ERROR \"x\" failed after 30 ms\n12:00:02 ERROR \"y\" failed after 4 ms\n")
  local scenario = T.write(folder .. "/scenario.lua", "return { " .. QUICK .. ', { text = "Explained.\\nTwice." } }')
  local watch <close> = C.start({ C.sluice, "run", "-q", "--mock=" .. scenario, "scripts/watch-log.lua", log },
    { env = { PER_MINUTE = "6000" }, timeout = 30 })
  watch:expect "ERROR \"x\" failed"
  watch:expect "^  Twice"
  assert(os.rename(log, log .. ".1"))
  T.write(log, "fatal: the disk is full\n")
  watch:expect "fatal: the disk is full"
  watch:expect "^  Explained"
  watch:signal "INT"
  local r = watch:wait()
  t.eq({ r.code, r.orphans }, { 130, 0 })
  t.eq(select(2, r.stdout:gsub("Explained", "")), 2, r.stdout)
end)

-- compare, summarise-folder -----------------------------------------------------------------------

T.test("compare: a set of prompts, a model that fails", function(t)
  local prompts = file "one\n\ntwo\nthree\n"
  local r = run("compare", { prompts, "siliconflow/echo", "siliconflow/broken" }, '{ model = "broken", status = 404 }')
  t.eq(r.code, 0, r.stderr)
  t.match(r.stderr, "siliconflow/echo +3/3 +[%d.]+/[%d.]+ +[%d.]+/[%d.]+ +%d+")
  t.match(r.stderr, "siliconflow/broken +0/3 +%- +%- +0 +invalid: 404")
  for _, word in ipairs { "one", "two", "three" } do t.match(r.stdout, '"text":"' .. word .. '"') end
  t.eq(select(2, r.stdout:gsub("\n", "")), 3)
end)

T.test("summarise-folder: only what has changed is read again", function(t)
  local folder = T.tmpdir()
  T.write(folder .. "/a.txt", "a")
  T.write(folder .. "/b.bin", "\0\1\2")
  local r = run("summarise-folder", { folder }, '{ stream = false, text = "First." }, { text = "All." }')
  t.eq({ r.code, r.stdout }, { 0, folder .. "/a.txt: First.\n\nAll.\n" }, r.stderr)
  T.write(folder .. "/c.txt", "c")
  r = run("summarise-folder", { folder }, '{ stream = false, text = "Second." }, { text = "All." }')
  t.eq(r.stdout, ("%s/a.txt: First.\n%s/c.txt: Second.\n\nAll.\n"):format(folder, folder))
end)

T.done()
