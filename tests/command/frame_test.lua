-- modes: release
-- The frame itself: that the layer checks see offenders, that the driver and the harness count every
-- way a test can fail, that embedding keeps every byte, and that dependencies are installed only
-- when something is missing.

local T, C = require "harness", require "command"

local LUA = os.getenv "LUA" or "lua5.4"
local ROOT = assert(io.popen "pwd -P"):read "l"

local function sh(script, options) return C.run({ "sh", "-c", script }, options) end

-- Writes { ["path/in/tree"] = "text" } below a new folder.
local function tree(files)
  local folder = T.tmpdir()
  for path, text in pairs(files) do
    local parent = path:match "^(.*)/" or "."
    assert(os.execute(("mkdir -p '%s/%s'"):format(folder, parent)))
    T.write(folder .. "/" .. path, text)
  end
  return folder
end

-- layers --------------------------------------------------------------------------------------------

local GOOD = {
  ["runtime/base/buf.c"] = '#include "base/buf.h"\n/* lua_resume(L) in a comment */\n',
  ["runtime/io/loop.c"] = "#include <event2/event.h>\n",
  ["runtime/task/task.c"] = '#include <lua.h>\nstatic int run(lua_State *L) {\n  return lua_resume(L, 0, 0, 0);\n}\n\n'
    .. "int task_park(lua_State *L) {\n  return lua_yieldk(L, 0, 0, back);\n}\n",
  ["runtime/bind/json.c"] = "#include <lauxlib.h>\nint open(lua_State *L) {\n  static const luaL_Reg all[] = {0};\n}\n",
  ["scripts/demo.lua"] = 'local sluice = require "sluice"\n',
}

local function layers(changes)
  local files = {}
  for path, text in pairs(GOOD) do files[path] = text end
  for path, text in pairs(changes) do files[path] = (GOOD[path] or "") .. text end
  return C.run { "tests/layers", tree(files) }
end

T.test("layers: a clean tree passes", function(t)
  local r = layers {}
  t.eq(r.stdout:match "not ok[^\n]*", nil)
  t.eq(r.code, 0)
end)

for name, case in pairs {
  ["lua.h in base"] = { "runtime/base/x.c", "#include <lua.h>\n", "lua.h stays out" },
  ["lauxlib.h in io, by another name"] = { "runtime/io/x.h", '  # include "lua5.4/lauxlib.h"\n', "lua.h stays out" },
  ["base that knows io"] = { "runtime/base/x.c", '#include "io/loop.h"\n', "runtime/base includes only" },
  ["io that knows task"] = { "runtime/io/x.c", '#include "task/task.h"\n', "runtime/io does not know" },
  ["curl in task"] = { "runtime/task/x.c", "#include <curl/curl.h>\n", "libevent and curl" },
  ["libevent in main"] = { "runtime/main.c", "#include <event2/event.h>\n", "libevent and curl" },
  ["luaL_Reg in task"] = { "runtime/task/x.c", "void f(void) {\n  static const luaL_Reg r[] = {0};\n}\n", "luaL_Reg stays" },
  ["a second lua_resume"] = { "runtime/bind/x.c", "int g(lua_State *L) {\n  return lua_resume (L, 0, 0, 0);\n}\n",
    "lua_resume is called in one" },
  ["a second lua_yieldk"] = { "runtime/task/task.c", "int h(lua_State *L) {\n  /* so */ return lua_yieldk(L, 0, 0, k);\n}\n",
    "lua_yieldk is called in one" },
  ["lua_yield"] = { "runtime/bind/x.c", "int g(lua_State *L) {\n  return lua_yield(L, 0);\n}\n", "lua_yield is not used" },
  ["a script that looks inside"] = { "scripts/x.lua", 'local m = require("sluice.model")\n', "scripts use the public" },
} do
  T.test("layers: sees " .. name, function(t)
    local r = layers { [case[1]] = case[2] }
    t.match(r.stdout, "not ok %d+ %- " .. case[3])
    t.eq(select(2, r.stdout:gsub("not ok", "")), 1)
    t.match(r.stdout, "# [^\n]*" .. case[1]:gsub("%p", "%%%0"))
    t.eq(r.code, 1)
  end)
end

-- The driver ------------------------------------------------------------------------------------------

local ENVIRONMENT = { MAKE = "true", OPENAI_API_KEY = "sk-1", http_proxy = "http://x", HOME = "/somewhere" }

-- A tree with the real driver and harness, a Lua interpreter in the place of sluice, and these files.
local function driver(files, arguments)
  local folder = tree(files)
  assert(os.execute(([[
    mkdir -p '%s/build/tools' '%s/build/release' '%s/tests/lua' && cd '%s' &&
    cp '%s/tests/run' tests/ && cp '%s/tests/lua/harness.lua' tests/lua/ &&
    ln -s '%s/build/tools/exec' build/tools/exec &&
    printf '#!/bin/sh\nshift\nexec %s "$@"\n' > build/release/sluice && chmod +x build/release/sluice
  ]]):format(folder, folder, folder, folder, ROOT, ROOT, ROOT, LUA)))
  return sh("chmod -R +x '" .. folder .. "/tests/peers' 2>/dev/null; '" .. folder
    .. "/tests/run' --no-build --mode release " .. (arguments or "--ring 3 --ring 5"), { env = ENVIRONMENT, timeout = 60 })
end

local function last_line(text) return text:match "([^\n]*)\n$" end

local PLAIN = 'local T = require "harness"\nT.test("a", function(t) t.eq(1, 1) end)\n'

T.test("driver: passing and skipping", function(t)
  local r = driver {
    ["tests/lua/a_test.lua"] = PLAIN .. 'T.test("b", function(t) t.skip "no net" end)\nT.done()',
    ["tests/peers/node/run"] = "#!/bin/sh\necho 'npm is not installed'\nexit 77\n",
    ["tests/peers/other/run"] = "#!/bin/sh\nexit 0\n",
  }
  t.eq(last_line(r.stdout), "2 passed, 0 failed, 2 skipped")
  t.match(r.stdout, "tests/lua/a_test.lua: b: no net\n")
  t.match(r.stdout, "tests/peers/node: all of it: npm is not installed\n")
  t.eq(r.code, 0)
end)

for name, case in pairs {
  ["a failed check, with what differs"] = { 'local T = require "harness"\nT.test("x", function(t) t.eq({ 1 }, { 2 }) end)\nT.done()',
    "a_test.lua:2: not equal.*got 1, wanted 2", "0 passed, 1 failed, 0 skipped" },
  ["a file without a plan"] = { PLAIN, "no plan", "1 passed, 1 failed, 0 skipped" },
  ["a plan that lies"] = { 'print "ok 1 - x\\n1..2"', "planned 2 tests, told of 1", "1 passed, 1 failed, 0 skipped" },
  ["no tests at all"] = { 'require("harness").done()', "no tests in it", "0 passed, 1 failed, 0 skipped" },
  ["an exit code"] = { PLAIN .. "T.done() os.exit(3)", "exited with 3", "1 passed, 1 failed, 0 skipped" },
  ["a syntax error"] = { "local local", "exited with 1|no plan", "0 passed, 1 failed, 0 skipped" },
  ["a death"] = { PLAIN .. "T.done() os.execute 'kill -9 $PPID'", "killed by signal 9", "1 passed, 1 failed, 0 skipped" },
  ["a hang"] = { "-- timeout: 1\n" .. PLAIN .. "T.done() while true do end", "ran out of time after 1 s",
    "1 passed, 1 failed, 0 skipped" },
  ["a process left behind"] = { PLAIN .. "T.done() os.execute 'sleep 60 &'", "left 1 process", "1 passed, 1 failed, 0 skipped" },
  ["a sanitizer"] = { PLAIN .. "T.done() io.stderr:write 'x.c:1:2: runtime error: signed overflow'", "a sanitizer complained",
    "1 passed, 1 failed, 0 skipped" },
} do
  T.test("driver: counts " .. name, function(t)
    local r = driver { ["tests/lua/a_test.lua"] = case[1] }
    local seen
    for pattern in case[2]:gmatch "[^|]+" do seen = seen or r.stdout:find(pattern) end
    t.ok(seen, r.stdout)
    t.eq(last_line(r.stdout), case[3])
    t.match(r.stdout, "tests/run %-%-mode release tests/lua/a_test.lua")
    t.eq(r.code, 1)
  end)
end

T.test("driver: a failing peer", function(t)
  local r = driver { ["tests/peers/x/run"] = "#!/bin/sh\necho broken >&2\nexit 1\n" }
  t.eq(last_line(r.stdout), "0 passed, 1 failed, 0 skipped")
  t.match(r.stdout, "broken")
end)

T.test("driver: nothing of the caller's environment reaches a test", function(t)
  local file = [[
    local T = require "harness"
    T.test("x", function(t)
      t.eq(os.getenv "OPENAI_API_KEY", nil)
      t.eq(os.getenv "http_proxy", nil)
      t.ne(os.getenv "HOME", "/somewhere")
      t.ok(os.getenv "TMPDIR")
    end)
    T.done()]]
  t.eq(last_line(driver({ ["tests/lua/a_test.lua"] = file }).stdout), "1 passed, 0 failed, 0 skipped")
end)

T.test("driver: --only chooses by name", function(t)
  local r = driver({ ["tests/lua/a_test.lua"] = PLAIN .. 'T.test("bee", function(t) t.ok(false) end)\nT.done()' },
    "--only '^a$' tests/lua/a_test.lua")
  t.eq(last_line(r.stdout), "1 passed, 0 failed, 0 skipped")
end)

T.test("driver: a file that is no test", function(t)
  local r = driver({ ["tests/lua/helper.lua"] = "" }, "tests/lua/helper.lua")
  t.match(r.stderr, "not a test: tests/lua/helper.lua")
  t.eq(r.code, 2)
end)

-- The harness -----------------------------------------------------------------------------------------

local function harness(body, before)
  local text = (before or "") .. 'local T = require "harness"\n' .. body
  return C.run({ LUA, T.write(T.tmpdir() .. "/x_test.lua", text) },
    { env = { LUA_PATH = ROOT .. "/tests/lua/?.lua;;", TEST_ONLY = false } })
end

T.test("harness: a check fails even where its error is swallowed", function(t)
  local r = harness 'T.test("x", function(t) pcall(t.eq, 1, 2) end) T.done()'
  t.match(r.stdout, "not ok 1 %- x\n# [^\n]*not equal\n# got 1, wanted 2\n")
  t.eq(r.code, 1)
end)

T.test("harness: a test that checks nothing fails", function(t)
  t.match(harness('T.test("x", function() end) T.done()').stdout, "not ok 1 %- x\n# the test checked nothing")
end)

T.test("harness: raises tells kinds from words", function(t)
  local r = harness [[
    local function err(kind) return setmetatable({ kind = kind }, { __tostring = function() return "a timeout, it seems" end }) end
    T.test("kind", function(t) t.eq(t.raises("timeout", error, err "timeout").kind, "timeout") end)
    T.test("other", function(t) t.raises("timeout", error, err "network") end)
    T.test("words", function(t) t.raises("it seems$", error, err "network") end)
    T.test("none", function(t) t.raises("x", function() return 5 end) end)
    T.test("fields", function(t) t.raises({ kind = "server" }, error, err "server") end)
    T.test("wrong field", function(t) t.raises({ kind = "server", status = 5 }, error, err "server") end)
    T.done()]]
  local seen = {}
  for word in r.stdout:gmatch "(%l*%s?ok) %d" do seen[#seen + 1] = word:gsub("^%s", "") end
  t.eq(seen, { "ok", "not ok", "ok", "not ok", "ok", "not ok" })
end)

T.test("harness: shows where deep values differ", function(t)
  t.eq(T.differences({ a = { 1, { b = "x" } }, c = 1 }, { a = { 1, { b = "y" } }, d = 0 / 0 }),
    { '.a[2].b: got "x", wanted "y"', ".d: got nil, wanted " .. tostring(0 / 0), ".c: got 1, wanted nothing" })
  t.eq(T.differences(0 / 0, 0 / 0), {})
  t.match(T.differences(("a"):rep(200) .. "x", ("a"):rep(200) .. "y")[1], "differ at byte 201")
  local cycle = {}
  cycle.me = cycle
  local other = {}
  other.me = other
  t.eq(T.differences(cycle, other), {})
end)

T.test("harness: the census sees what stays, and gives closing a few turns of the loop", function(t)
  local r = harness([[
    T.test("tidy", function(t) t.ok(true) end)
    T.test("settles", function(t) left, turns = 2, 3 t.ok(true) end)
    T.test("leaks", function(t) left, turns = 1, math.huge t.ok(true) end)
    T.test("fewer is no leak", function(t) left, turns = 0, 0 t.ok(true) end)
    T.done()]], [[
    left, turns = 0, 0
    package.preload["sluice.core.task"] = function()
      return { census = function() return { handles = left, tasks = 1 } end }
    end
    package.preload.sluice = function()
      return { task = { sleep = function()
        turns = turns - 1
        if turns == 0 then left = 0 end
      end } }
    end
    ]])
  t.eq(r.stdout, "ok 1 - tidy\nok 2 - settles\nnot ok 3 - leaks\n# left behind\n"
    .. "# handles: 0 before the test, 1 after\nok 4 - fewer is no leak\n1..4\n"
    .. r.stdout:match "# seed[^\n]*\n$")
end)

T.test("harness: a runtime without a census is a mistake, not a pass", function(t)
  local r = harness('T.test("x", function(t) t.ok(true) end) T.done()',
    'package.preload["sluice.core.task"] = function() return {} end ')
  t.match(r.stderr, "has no census")
  t.eq(r.code, 1)
end)

T.test("harness: its folders are gone even after an error", function(t)
  local r = harness 'print(T.tmpdir()) error "boom"'
  t.ok(#r.stdout > 10)
  t.eq(io.open(r.stdout:match "[^\n]+"), nil)
end)

-- Embedding -------------------------------------------------------------------------------------------

T.test("embed: every byte arrives, sorted by name", function(t)
  local bytes = {}
  for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
  local nasty = "return '??=??/ \\ \" '\r\n--\t" .. table.concat(bytes) .. "\0012\n"
  local folder = tree {
    ["l/sluice/init.lua"] = nasty, ["l/sluice/b/init.lua"] = "", ["l/sluice/b/c.lua"] = "return 1", ["l/sluice/a.lua"] = "x\n",
    ["main.c"] = [[
      #include "embed.h"
      #include <stdio.h>
      #include <string.h>
      int main(int argc, char **argv) {
        for (size_t i = 0; i < embedded_lua_count; i++) {
          if (argc == 1) printf("%s=%s ", embedded_lua[i].name, embedded_lua[i].path);
          else if (strcmp(argv[1], embedded_lua[i].name) == 0)
            fwrite(embedded_lua[i].data, 1, embedded_lua[i].size, stdout);
        }
        return embedded_lua[embedded_lua_count].name != NULL;
      }]],
  }
  local made = sh(([[cd '%s' && '%s/build/tools/embed' l l/sluice/init.lua l/sluice/b/c.lua l/sluice/b/init.lua l/sluice/a.lua \
    > lib.c && cc -std=c11 -Wall -Wextra -Werror -I'%s/runtime' main.c lib.c -o all]]):format(folder, ROOT, ROOT))
  t.eq(made.stderr, "")
  t.eq(C.run({ folder .. "/all" }).stdout,
    "sluice=sluice/init.lua sluice.a=sluice/a.lua sluice.b=sluice/b/init.lua sluice.b.c=sluice/b/c.lua ")
  t.eq(C.run({ folder .. "/all", "sluice" }).stdout, nasty)
  t.eq(C.run({ folder .. "/all", "sluice.b.c" }).stdout, "return 1")
end)

T.test("embed: refuses what it cannot name", function(t)
  local folder = tree { ["l/a.lua"] = "", ["l/a/init.lua"] = "", ["l/x.y.lua"] = "", ["l/z.txt"] = "" }
  local function embed(...) return C.run({ ROOT .. "/build/tools/embed", "l", ... }, { cwd = folder }) end
  t.match(embed("l/a.lua", "l/a/init.lua").stderr, "two files are one module")
  t.match(embed("l/x.y.lua").stderr, "a dot in a folder or file name")
  t.match(embed("l/z.txt").stderr, "not a .lua file")
  t.match(embed("other/a.lua").stderr, "not below the root")
  t.match(embed("l/gone.lua").stderr, "No such file")
  t.eq(embed("l/gone.lua").code, 1)
end)

-- Dependencies ----------------------------------------------------------------------------------------

-- Runs install-deps with nothing in PATH but these commands: true links the real one, a string is a
-- script. What apt-get is told lands in the result's `apt`.
local function deps(commands, purpose, env)
  local folder = T.tmpdir()
  local all = { sh = true, ls = true, cat = true, env = true, id = "echo 0" }
  for name, command in pairs(commands) do all[name] = command end
  for name, command in pairs(all) do
    if command == true then
      assert(os.execute(("ln -s \"$(command -v %s)\" '%s/%s'"):format(name, folder, name)))
    elseif command then
      T.write(folder .. "/" .. name, "#!/bin/sh\n" .. command .. "\n")
      assert(os.execute(("chmod +x '%s/%s'"):format(folder, name)))
    end
  end
  local full = { PATH = folder, LOG = folder .. "/log", APT_LISTS = folder, SSL_CERT_FILE = "/dev/null", CI = false, PEERS = false }
  for k, v in pairs(env or {}) do full[k] = v end
  local r = C.run({ folder .. "/sh", ROOT .. "/.ci/install-deps", table.unpack(purpose) }, { env = full })
  local log = io.open(folder .. "/log")
  r.apt = log and log:read "a" or ""
  if log then log:close() end
  return r
end

local APT = 'echo "$@" >> "$LOG"'
local ALL = { cc = "cat > /dev/null", make = "", ["pkg-config"] = "exit 0", lua5 = false, ["lua5.4"] = "", luacheck = "", openssl = "",
  git = "", groff = "", tmux = "" }

local function with(base, changes)
  local copy = {}
  for k, v in pairs(base) do copy[k] = v end
  for k, v in pairs(changes) do copy[k] = v end
  return copy
end

T.test("dependencies: nothing missing, nothing done", function(t)
  local r = deps(with(ALL, { ["apt-get"] = APT }), { "build" })
  t.eq({ r.code, r.stdout, r.stderr, r.apt }, { 0, "", "", "" })
end)

T.test("dependencies: says what and why, then installs", function(t)
  local r = deps(with(ALL, { ["pkg-config"] = 'case $* in *libevent*) exit 1;; esac', ["apt-get"] = APT }), { "build" })
  t.match(r.stderr, "Missing, to build sluice:\n  libevent: waits for sockets, timers and signals\n")
  t.eq(r.apt, "-q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 update\n"
    .. "-q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 install -y --no-install-recommends libevent-dev\n")
  t.eq({ r.code, r.stdout }, { 0, "" })
end)

T.test("dependencies: not root and no sudo, so the line to run", function(t)
  local lacking = with(ALL, { make = false, ["apt-get"] = APT, id = "echo 1000" })
  local r = deps(lacking, { "build" })
  t.match(r.stderr, "To install it: sudo apt%-get install %-y %-%-no%-install%-recommends make\n")
  t.eq({ r.code, r.apt }, { 1, "" })
  r = deps(with(lacking, { sudo = "exit 1" }), { "build" })
  t.eq({ r.code, r.apt }, { 1, "" })
  r = deps(with(lacking, { sudo = 'shift; [ "$1" = true ] || exec "$@"' }), { "build" })
  t.match(r.apt, "install %-y %-%-no%-install%-recommends make\n")
  t.eq(r.code, 0)
end)

T.test("dependencies: other systems get their own names", function(t)
  local lacking = with(ALL, { ["pkg-config"] = 'case $* in *libcurl*) exit 1;; esac' })
  t.match(deps(with(lacking, { dnf = "" }), { "build" }).stderr, "To install it: dnf install %-y libcurl%-devel\n")
  t.match(deps(with(lacking, { apk = "" }), { "build" }).stderr, "To install it: apk add curl%-dev\n")
  t.match(deps(with(lacking, { brew = "", id = "echo 501" }), { "build" }).stderr, "To install it: brew install curl\n")
  local r = deps(lacking, { "build" })
  t.match(r.stderr, "Debian names are: libcurl4%-openssl%-dev")
  t.eq(r.code, 1)
end)

T.test("dependencies: what tests can do without stops nothing", function(t)
  local lacking = with(ALL, { luacheck = false, ["apt-get"] = APT .. "; exit 100" })
  local r = deps(with(lacking, { id = "echo 1000" }), { "test" })
  t.match(r.stderr, "some tests are skipped without:\n  luacheck")
  t.eq({ r.code, r.apt }, { 0, "" })
  r = deps(lacking, { "test" })
  t.match(r.apt, "lua%-check")
  t.eq(r.code, 0)
  t.eq(deps(with(lacking, { make = false }), { "test" }).code, 1)
end)

T.test("dependencies: npm and other shells only for who asks", function(t)
  local fake = with(ALL, { ["apt-get"] = APT })
  t.eq(deps(fake, { "test" }).apt, "")
  t.match(deps(fake, { "test" }, { CI = "true" }).apt, "nodejs npm\n")
  t.match(deps(fake, { "test" }, { PEERS = "1" }).apt, "nodejs npm\n")
  t.eq(deps(fake, { "test" }, { CI = "true", PEERS = "0" }).apt, "")
end)

T.test("dependencies: a package that cannot be had takes no other with it", function(t)
  local picky = APT .. '; case $* in *" fish"*) exit 100;; esac'
  local lacking = with(ALL, { luacheck = false, make = false, ["apt-get"] = picky })
  local r = deps(lacking, { "test" }, { CI = "true" })
  local tried = {}
  for line in r.apt:gmatch "[^\n]+" do tried[#tried + 1] = line:match "recommends (.*)" end
  t.eq(table.concat(tried, "\n", #tried - 9), table.concat({ -- behind two attempts at all of them
    "make lua-check zsh fish prometheus chromium nodejs npm", "make lua-check zsh fish prometheus chromium nodejs npm",
    "make", "lua-check", "zsh", "fish", "prometheus", "chromium", "nodejs", "npm",
  }, "\n"))
  t.match(r.stderr, "Missing, and some tests are skipped without:\n.*fish: asks the completion of fish")
  t.match(r.stderr, "Not installed, so what needs it is skipped: fish\n$")
  t.eq(r.code, 0)
end)

T.test("dependencies: looking changes nothing", function(t)
  local r = deps(with(ALL, { make = false, ["apt-get"] = APT }), { "--check", "build" })
  t.match(r.stderr, "make: runs the build")
  t.eq({ r.code, r.apt }, { 1, "" })
end)

T.done()
