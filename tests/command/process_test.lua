-- Programs of a script, seen from outside: what is left of them however the script ends, and what happens
-- when the system gives no more.

local T = require "harness"
local C = require "command"

local HEAD = 'local sluice = require "sluice"\nlocal process, task = sluice.process, sluice.task\n'

local function run(code, options, ...)
  local argv = { C.sluice, "run", "-q", T.write(T.tmpdir() .. "/script.lua", HEAD .. code), ... }
  return C.run(argv, options)
end

-- A program that starts another, says so, and ignores what is asked politely.
local STUBBORN = [[
local child = process.stream { "sh", "-c", "trap '' TERM INT; sleep 300 & echo ready; while :; do wait; done" }
io.stderr:write(child:read_line(), "\n")
]]

T.test("Ctrl-C, SIGTERM and --timeout end the programs, and what those have started", function(t)
  local r = run(STUBBORN .. "child:wait()", { steps = { { expect = "ready" }, { signal = "INT" } } })
  t.eq({ r.code, r.orphans, r.unmet }, { 130, 0 }, r.stderr)
  r = run(STUBBORN .. "child:wait()", { steps = { { expect = "ready" }, { signal = "TERM" } } })
  t.eq({ r.code, r.orphans, r.unmet }, { 143, 0 }, r.stderr)
  r = C.run { C.sluice, "run", "-q", "--timeout", "0.5", "-e", HEAD .. STUBBORN .. "child:wait()" }
  t.eq({ r.code, r.orphans }, { 124, 0 }, r.stderr)
end)

T.test("a script that ends, raises or exits leaves no program behind", function(t)
  for ending, code in pairs { [""] = 0, ["error 'oops'"] = 1, ["os.exit(5)"] = 5, ["os.exit(6, true)"] = 6, ["task.spawn()"] = 1 } do
    local r = run(STUBBORN .. ending)
    t.eq({ r.code, r.orphans }, { code, 0 }, ending .. ": " .. r.stderr)
  end
end)

T.test("no descriptors left: a clear error, nothing behind, and it goes on", function(t)
  local r = C.run { "sh", "-c", 'ulimit -n 40; exec "$@"', "sh", C.sluice, "run", "-q", "-e", HEAD .. [[
    local held = {}
    local ok, err = pcall(function()
      for i = 1, 1000 do held[i] = process.stream { "sleep", "60" } end
    end)
    print(ok, #held > 2, err)
    for _, child in ipairs(held) do child:close() end
    print(process.run { "echo", "again" }:text())
  ]] }
  t.eq(r.code, 0, r.stderr)
  t.match(r.stdout, "^false\ttrue\tmemory: cannot run 'sleep': Too many open files %(code no_pipe%)")
  t.match(r.stdout, "\nagain\n$")
  t.eq(r.orphans, 0)
end)

T.test("stderr = \"inherit\" and stdout = \"inherit\" are the script's own", function(t)
  local r = run [[process.run { "sh", "-c", "echo out; echo err >&2", stdout = "inherit", stderr = "inherit" }]]
  t.eq({ r.stdout, r.stderr }, { "out\n", "err\n" })
end)

T.test("an uncaught failure says what the program said, and where it was started", function(t)
  local r = run [[process.run { "sh", "-c", "echo 'no such branch' >&2; exit 3" }]]
  t.eq(r.code, 1)
  t.match(r.stderr, "^sluice: server: 'sh' exited with 3: no such branch %(code exit, [^\n]*\n +at [^\n]*script%.lua:3")
end)

T.test("a reader that is slow, and a program that prints without end: memory stays small", function(t)
  local r = run [[
    local child <close> = process.stream { "yes", "0123456789" }
    local n = 0
    for _ in child:lines() do
      n = n + 1
      if n == 2000000 then break end
    end
    print(n)
  ]]
  t.eq({ r.code, r.stdout }, { 0, "2000000\n" }, r.stderr)
  if not T.slow then t.ok(r.maxrss_kib < 40000, r.maxrss_kib) end
end)

T.test("docs/programs.md: every block runs as it stands, and says what is true", function(t)
  local blocks = {}
  for block in T.read "docs/programs.md":gmatch "```lua\n(.-)```" do blocks[#blocks + 1] = block end
  t.ok(#blocks >= 8, #blocks)
  local folder = T.tmpdir()
  local made = os.execute(("cd '%s' && git init -q . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x")
    :format(folder))
  if not made then t.skip "git is not here" end
  blocks[#blocks + 1] = 'assert(branch ~= "" and sorted == "a\\nb\\n" and version == 7 and unchanged == true)'
  local r = C.run({ C.sluice, "run", "-q", T.write(folder .. "/guide.lua", table.concat(blocks, "\n")) }, {
    env = { GIT_DIR = folder .. "/.git", GIT_WORK_TREE = folder, CLAUDE_ENDS = "well",
      PATH = "tests/fixtures/programs:" .. os.getenv "PATH" } })
  t.eq(r.code, 0, r.stderr)
  t.eq(r.stdout, "You asked: Which tests cover the parser?\n0 bytes came on stdin. 你好\n2 turns, $0.0123\n")
  t.eq(r.orphans, 0)
end)

T.done()
