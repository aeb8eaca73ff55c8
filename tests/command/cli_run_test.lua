-- sluice run: where a script comes from, what it is given, and what its end means.
local T = require "harness"
local C = require "command"

local folder = T.tmpdir()

local function write(name, text) return T.write(folder .. "/" .. name, text) end

local function sluice(words, options)
  options = options or {}
  options.cwd = options.cwd or folder
  return C.run({ C.sluice, table.unpack(words) }, options)
end

local function prints(t, words, stdout, options)
  local r = sluice(words, options)
  t.eq(r.stderr, "", table.concat(words, " "))
  t.eq(r.stdout, stdout, table.concat(words, " "))
  t.eq(r.code, 0, table.concat(words, " "))
end

local ECHO = 'print(arg[0], #arg, select("#", ...), table.concat(arg, "|"), table.concat({ ... }, "|"))\n'

T.test("where a script comes from", function(t)
  write("echo.lua", ECHO)
  write("plain", ECHO)
  prints(t, { "run", "echo.lua", "a", "b c" }, "echo.lua\t2\t2\ta|b c\ta|b c\n")
  prints(t, { "echo.lua", "a" }, "echo.lua\t1\t1\ta\ta\n")
  prints(t, { "plain" }, "plain\t0\t0\t\t\n")
  prints(t, { "./plain" }, "./plain\t0\t0\t\t\n")
  prints(t, { "run", "-", "a" }, "-\t1\t1\ta\ta\n", { stdin = ECHO })
  prints(t, { "-", "a" }, "-\t1\t1\ta\ta\n", { stdin = ECHO })
  prints(t, { "-e", ECHO, "a" }, "-e\t1\t1\ta\ta\n")
  prints(t, { "run", "-e", "x = 1", "-e", "print(x + 1)" }, "2\n")
  prints(t, { folder .. "/echo.lua" }, folder .. "/echo.lua\t0\t0\t\t\n")
end)

T.test("options end at the script", function(t)
  write("echo.lua", ECHO)
  prints(t, { "run", "-q", "echo.lua", "--timeout", "-v", "--", "--nosuch" },
    "echo.lua\t4\t4\t--timeout|-v|--|--nosuch\t--timeout|-v|--|--nosuch\n")
  write("-dash.lua", ECHO)
  prints(t, { "run", "--", "-dash.lua", "-q" }, "-dash.lua\t1\t1\t-q\t-q\n")
  prints(t, { "--seed=1", "echo.lua", "--lib", "nowhere" }, "echo.lua\t2\t2\t--lib|nowhere\t--lib|nowhere\n")
end)

T.test("a shebang line and a byte order mark", function(t)
  local path = write("script", "#!/usr/bin/env sluice\nprint(arg[1], debug.getinfo(1, 'l').currentline)\n")
  assert(os.execute("chmod +x '" .. path .. "'"))
  prints(t, { "script", "x" }, "x\t2\n")
  write("bom.lua", "\xEF\xBB\xBF#! x\nprint(debug.getinfo(1, 'l').currentline)\n")
  prints(t, { "bom.lua" }, "2\n")
  write("hash.lua", "# no newline at all")
  prints(t, { "hash.lua" }, "")
  -- As the kernel starts it: `env` finds a program called sluice in PATH.
  local bin = T.tmpdir()
  assert(os.execute(("ln -s '%s' '%s/sluice'"):format(C.sluice:find "^/" and C.sluice
    or assert(os.getenv "PWD") .. "/" .. C.sluice, bin)))
  local r = C.run({ path, "y" }, { env = { PATH = bin .. ":" .. os.getenv "PATH" } })
  t.eq(r.stderr, "")
  t.eq(r.stdout, "y\t2\n")
end)

T.test("modules beside the script", function(t)
  assert(os.execute(("mkdir -p '%s/deep/pack' '%s/sluice'"):format(folder, folder)))
  write("deep/helper.lua", "return 'helper of ' .. ...")
  write("deep/pack/init.lua", "return 'a package'")
  write("deep/main.lua", "print((require 'helper'), (require 'pack'))")
  prints(t, { "deep/main.lua" }, "helper of helper\ta package\n")
  prints(t, { "main.lua" }, "helper of helper\ta package\n", { cwd = folder .. "/deep" })
  write("helper.lua", "return 'of the working directory'")
  prints(t, { "deep/main.lua" }, "helper of helper\ta package\n")
  -- A folder of the library's name is no part of the library.
  write("sluice/own.lua", "return function() error('mine', 2) end")
  write("sluice/main.lua", "local own = require 'own'\nlocal function f() own() end\nf()\n")
  local r = sluice { "sluice/main.lua" }
  t.eq(r.code, 1)
  t.match(r.stderr, "^sluice: %./sluice/main%.lua:2: mine\n  at %./sluice/own%.lua:1 in ")
end)

T.test("sluice is not there until it is required", function(t)
  prints(t, { "-e", "print(rawget(_G, 'sluice'))" }, "nil\n")
end)

T.test("a small script loads little of the library", function(t)
  local r = sluice { "-e", [[
    local names = {}
    for name in pairs(package.loaded) do
      if name:find "^sluice" then names[#names + 1] = name end
    end
    table.sort(names)
    print(table.concat(names, " "))]] }
  t.eq(r.stdout, "sluice.cli sluice.command sluice.command.arguments sluice.command.run "
    .. "sluice.command.script sluice.core.sys sluice.core.task\n")
end)

local CODES = {
  { "", 0 }, { "return", 0 }, { "return nil", 0 }, { "return true", 0 }, { "return false", 1 },
  { "return 0", 0 }, { "return 7", 7 }, { "return 255", 255 }, { "return 3.0", 3 },
  { "return 256", 1, "the script returned 256; " }, { "return -1", 1, "the script returned -1; " },
  { "return 1.5", 1, "the script returned 1.5; " }, { "return '0'", 1, "the script returned a string; " },
  { "return {}", 1, "the script returned a table; " }, { "return print", 1, "the script returned a function; " },
  { "return nil, 'why'", 1, "why" }, { "return false, 'why'", 1, "why" },
  { "os.exit(9)", 9 }, { "os.exit(9, true)", 9 },
}
T.test("what a script returns is the exit code", function(t)
  for _, case in ipairs(CODES) do
    local r = sluice { "-e", case[1] }
    t.eq(r.code, case[2], case[1])
    local wanted = case[3] and "sluice: (command line): " .. case[3] or ""
    t.eq(r.stderr:sub(1, #wanted), wanted, case[1])
    t.eq(r.stderr ~= "", case[3] ~= nil, case[1])
  end
end)

local MISSING = {
  { { "run", "nosuch.lua" }, 4, "sluice: cannot read the script nosuch.lua: No such file or directory\n" },
  { { "nosuch.lua" }, 4, "sluice: cannot read the script nosuch.lua: No such file or directory\n" },
  { { "run", "there" }, 4,
    "sluice: cannot read the script there: No such file or directory (did you mean 'there.lua'?)\n" },
  { { "run", "." }, 4, "sluice: cannot read the script .: Is a directory\n" },
  { { "fooo" }, 2, "sluice: 'fooo' is neither a command nor a file; see 'sluice help'\n" },
  { { "hlep" }, 2,
    "sluice: 'hlep' is neither a command nor a file (did you mean 'sluice help'?); see 'sluice help'\n" },
  { { "" }, 2, "sluice: '' is neither a command nor a file; see 'sluice help'\n" },
  { { "run" }, 2, "sluice: run: no script given: sluice run [options] SCRIPT [ARG…]; see 'sluice help run'\n" },
  { { "-q" }, 2, "sluice: no script given: sluice run [options] SCRIPT [ARG…]; see 'sluice help run'\n" },
  { { "run", "--timout", "3", "x" }, 2,
    "sluice: run: unknown option '--timout' (did you mean '--timeout'?); see 'sluice help run'\n" },
  { { "--timout", "3", "x" }, 2,
    "sluice: unknown option '--timout' (did you mean '--timeout'?); see 'sluice help run'\n" },
  { { "--lib", "nosuch", "-e", "" }, 4, "sluice: --lib nosuch: No such file or directory\n" },
}
T.test("what cannot be run", function(t)
  write("there.lua", "")
  for _, case in ipairs(MISSING) do
    local r = sluice(case[1])
    t.eq({ r.code, r.stdout, r.stderr }, { case[2], "", case[3] }, table.concat(case[1], " "))
  end
end)

T.test("a command's options may stand before its name", function(t)
  local r = sluice { "--help", "version" }
  t.match(r.stdout, "^sluice version: ")
  r = sluice { "-v", "run", "-e", "error 'x'" }
  t.match(r.stderr, "%[C%] in function 'error'")
end)

T.test("a timeout ends what waits, and runs what must be run", function(t)
  write("slow.lua", [[
    local task = require "sluice.core.task"
    local closed <close> = setmetatable({}, { __close = function() print "closed" end })
    local function wait() task.sleep(600) end
    print(pcall(wait))]])
  local r = sluice { "run", "--timeout", "0.1", "slow.lua" }
  t.eq(r.code, 124)
  t.eq(r.stdout, "closed\n", "pcall cannot hold up a timeout")
  t.eq(r.stderr, "sluice: slow.lua: not done after 0.1 s (--timeout)\n"
    .. "  at slow.lua:4 in main chunk\n")
end)

T.test("a timeout ends what computes", function(t)
  local r = sluice { "--timeout=0.1", "-e", "while true do end" }
  t.eq(r.code, 124)
  t.match(r.stderr, "^sluice: %(command line%): not done after 0%.1 s %(%-%-timeout%)\n")
end)

T.test("a timeout that is not reached changes nothing", function(t)
  prints(t, { "--timeout", "60", "-e", "require 'sluice.core.task'.sleep(0.001) print 'done'" }, "done\n")
  local r = sluice { "--timeout", "60", "-e", "local function f() error 'x' end\nf()" }
  t.eq(r.code, 1)
  t.eq(r.stderr, "sluice: (command line):1: x\n  at (command line):1 in function 'f'\n  at (command line):2 in main chunk\n")
  t.eq(sluice({ "--timeout", "60", "-e", "return 5" }).code, 5)
end)

T.test("guards", function(t)
  local r = sluice { "--max-burst", "0.1", "-e", "while true do end" }
  t.eq(r.code, 1)
  t.match(r.stderr, "^sluice: cpu: .*%(%-%-max%-burst%)")
  r = sluice { "--max-burst", "0.1", "--timeout", "60", "-e", "while true do end" }
  t.eq(r.code, 1, "the burst was the nearer limit")
  t.match(r.stderr, "^sluice: cpu: ")
  r = sluice { "--max-memory", "4", "-e", "local t = {} for i = 1, math.huge do t[i] = ('x'):rep(1000) .. i end" }
  t.eq(r.code, 1)
  t.match(r.stderr, "^sluice: memory: .*4 MiB.*%(%-%-max%-memory%)")
  prints(t, { "--max-memory", "64", "-e", "print(#('x'):rep(1 << 20))" }, "1048576\n")
end)

T.test("a seed repeats chance", function(t)
  local code = "print(math.random(1 << 40), require 'sluice.core.sys'.random())"
  local first = sluice({ "--seed", "7", "-e", code }).stdout
  t.eq(sluice({ "--seed", "7", "-e", code }).stdout, first)
  t.ne(sluice({ "--seed", "8", "-e", code }).stdout, first)
end)

T.test("--gc-stress collects all the time", function(t)
  -- How many allocations an object outlives its last use by, at the most.
  local code = [[
    local born, longest = 0, 0
    local function probe()
      local at = born
      setmetatable({}, { __gc = function() longest = math.max(longest, born - at) end })
    end
    for i = 1, 20000 do
      born = born + #{ i }
      if i % 100 == 0 then probe() end
    end
    print(longest)]]
  local stressed, usual = sluice { "--gc-stress", "-e", code }, sluice { "-e", code }
  t.eq(stressed.stderr, "")
  stressed, usual = tonumber(stressed.stdout), tonumber(usual.stdout)
  t.ok(stressed > 0 and stressed < 500, stressed)
  t.ok(usual > 3 * stressed, usual)
end)

T.test("--lib takes the library from a folder, wherever it stands among the options", function(t)
  local lib = T.tmpdir()
  assert(os.execute(("mkdir -p '%s/sluice'"):format(lib)))
  T.write(lib .. "/sluice/probe.lua", "return 'from ' .. select(2, ...)")
  local code = "print((require 'sluice.probe'))"
  local from = ("from %s/sluice/probe.lua\n"):format(lib)
  prints(t, { "run", "--lib", lib, "-e", code }, from)
  prints(t, { "--lib=" .. lib, "-e", code }, from)
  prints(t, { "run", "--seed", "7", "--lib", lib, "-e", code }, from)
  write("probe.lua", code)
  prints(t, { "-q", "--timeout", "60", "--lib", lib, "probe.lua" }, from)
end)

T.test("tasks that a script left behind end with it", function(t)
  local r = sluice { "--timeout", "60", "-e", [[
    local task = require "sluice.core.task"
    local function leave()
      local group = task.scope { group = true }
      group:run(function()
        group:spawn(function()
          local closed <close> = setmetatable({}, { __close = function() print "closed" end })
          task.sleep(600)
        end)
        task.sleep(0)
      end)
    end
    leave()
    collectgarbage() collectgarbage()
    print "end"]] }
  t.eq(r.stderr, "")
  t.eq(r.stdout, "end\nclosed\n")
  t.eq(r.code, 0)
end)

-- A group whose generator is dropped; the collector hands its task to the script's group.
local DROPPED = [[
local task = require "sluice.core.task"
local function generator()
  local group = task.scope { group = true }
  group:run(function()
    group:spawn(function()
      local broken <close> = setmetatable({}, { __close = function() error "broken" end })
      task.sleep(600)
    end)
    coroutine.yield()
  end)
end
do
  local next_value = coroutine.wrap(generator)
  next_value()
  task.sleep(0)
end
collectgarbage() collectgarbage()
]]
T.test("a task of a dropped generator that fails is told of", function(t)
  for _, ending in ipairs { "task.sleep(600)", "", "error 'own'" } do
    write("dropped.lua", DROPPED .. ending)
    local r = sluice { "--timeout", "60", "dropped.lua" }
    t.eq(r.code, 1, ending)
    if ending == "error 'own'" then
      t.match(r.stderr, "^sluice: dropped%.lua:18: own\n.*  also: dropped%.lua:6: broken\n$")
    else
      t.match(r.stderr, "^sluice: dropped%.lua:6: broken\n", ending)
    end
  end
end)

T.done()
