-- sluice.token.command: programs that print tokens, that fail, that hang, that say too much.
local T = require "harness"
local sluice = require "sluice"
local process = require "sluice.core.process"

local task, token = sluice.task, sluice.token

sluice.log.configure { level = "error" }

local CANARY = "canary-77b1-secret"

local function sh(code, opts)
  local o = { "sh", "-c", code, name = "teller" }
  for key, value in pairs(opts or {}) do o[key] = value end
  return token.command(o)
end

T.test("the token is what it prints", function(t)
  local source = token.command { "printf", "  tok-1 \\n", ttl = 1800 }
  local value = source:get()
  t.eq(value:reveal(), "tok-1")
  t.eq(tostring(value), "<secret printf#1>")
  t.near(source:state().left, 1800, 2)
  t.eq(tostring(source), "<the token printf>")
  sh "echo a":get()
end)

T.test("run once for all who wait, and again when its time is over", function(t)
  local folder = T.tmpdir()
  local source = sh("echo x >>calls; cat calls | wc -l", { folder = folder, ttl = 0.4 })
  task.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function() t.eq(source:get():reveal(), "1") end)
  T.until_(function() return source:state().state == "expired" end)
  t.eq(source:get():reveal(), "2")
end)

T.test("environment, input, folder; secrets go there and not into the words", function(t)
  local key = sluice.secret.literal(CANARY)
  t.eq(sh("echo $KEY-$HOME-", { env = { KEY = key, HOME = false } }):get():reveal(), CANARY .. "--")
  t.eq(sh("cat", { input = key }):get():reveal(), CANARY)
  t.eq(sh("cat; echo none", {}):get():reveal(), "none", "stdin is empty")
  local folder = T.tmpdir()
  t.eq(sh("pwd -P", { folder = folder }):get():reveal(), assert(require "sluice.core.sys".realpath(folder)))
  t.raises("word 3 is a secret, and every user of the machine can read a command line", token.command,
    { "prog", "--key", key })
end)

T.test("parse makes the token of what it printed", function(t)
  local source = sh([[echo '{"accessToken":"at","expiresIn":77}']], { parse = function(stdout)
    local answer = sluice.json.decode(stdout)
    return answer.accessToken, { expires_in = answer.expiresIn }
  end })
  t.eq(source:get():reveal(), "at")
  t.near(source:state().left, 77, 2)
  source = sh("echo '{'", { parse = function(stdout) return sluice.json.decode(stdout, { excerpt = false }).x end })
  t.raises("could not be renewed: .*json: ", source.get, source)
end)

T.test("how it may fail, and what is said of it", function(t)
  local function fails(source, pattern)
    local err = t.raises("auth", source.get, source)
    t.eq({ err.phase, err.code }, { "refresh", "command" })
    t.match(err.message, pattern)
    return err
  end
  fails(sh "exit 3", "the token teller could not be renewed: 'sh' exited with 3$")
  fails(sh "echo 'You are not logged in.' >&2; echo 'Run: teller login' >&2; exit 1",
    "'sh' exited with 1: You are not logged in. Run: teller login$")
  fails(sh "kill -9 $$", "'sh' was ended by signal 9 %(Killed%)")
  fails(sh "echo; echo why >&2", "'sh' printed nothing: why")
  fails(sh "head -c 3000000 /dev/zero", "printed more than 1048576 bytes")
  fails(sh("sleep 60", { timeout = 0.1 }), "'sh' did not end within 0.1 s")
  local banner = sh "echo Welcome!; echo tok"
  t.raises("the token has 2 lines", banner.get, banner)
  -- valgrind makes a fork of it, which has begun when exec fails
  if (os.getenv "LD_PRELOAD" or ""):find "vgpreload" then t.skip "valgrind cannot tell a failed exec" end
  fails(token.command { "no-such-program-anywhere" }, "cannot run 'no%-such%-program%-anywhere': no such program in PATH")
  fails(token.command { "/etc/passwd" }, "cannot run '/etc/passwd': Permission denied")
  fails(token.command { "true", folder = "/no/such" }, "cannot run 'true' in /no/such: No such file")
end)

T.test("a long complaint: its end, in one line, within characters", function(t)
  local source = sh "i=0; while [ $i -lt 200 ]; do echo 一二三 $i; i=$((i+1)); done >&2; exit 1"
  local err = t.raises("auth", source.get, source)
  t.match(err.message, "一二三 199$")
  t.ok(#err.message < 500 and not err.message:find "\n" and utf8.len(err.message), err.message)
end)

T.test("what it says on stderr is told without secrets", function(t)
  local source = sh("echo \"login with $KEY failed; password=hunter2 Bearer abcdefghijkl\" >&2; exit 1",
    { env = { KEY = sluice.secret.literal(CANARY) } })
  local err = t.raises("auth", source.get, source)
  local all = tostring(err) .. T.show(err)
  for _, word in ipairs { CANARY, "hunter2", "abcdefghijkl" } do t.ok(not all:find(word, 1, true), all) end
  t.match(err.message, "login with %[redacted%] failed")
end)

T.test("a failure is not tried again at once; a timeout is", function(t)
  local folder = T.tmpdir()
  local source = sh("echo x >>calls; exit 1", { folder = folder })
  for _ = 1, 20 do t.raises("auth", source.get, source) end
  t.eq(T.read(folder .. "/calls"), "x\n")
  source = sh("echo x >>slow; sleep 30", { folder = folder, timeout = 0.05 })
  for _ = 1, 2 do t.raises("auth", source.get, source) end
  t.eq(T.read(folder .. "/slow"), "x\nx\n")
end)

T.test("a program that hangs goes with everything it has started", function(t)
  local folder = T.tmpdir()
  local source = sh("trap '' TERM; sleep 300 & echo $! >child; wait; sleep 300", { folder = folder, timeout = 0.2 })
  t.raises("did not end within", source.get, source)
  T.until_(function() return process.count() == 0 end)
  local pid = T.read(folder .. "/child"):match "%d+"
  T.until_(function()
    local stat = io.open("/proc/" .. pid .. "/stat")
    local state = stat and (stat:read "a" or ""):match "%) (%a)"
    if stat then stat:close() end
    return not state or state == "Z"
  end)
  t.ok(true)
end)

T.test("shared through a file", function(t)
  local folder = T.tmpdir()
  local function source() return sh("echo x >>calls; echo tok", { folder = folder, cache = folder .. "/cache.json" }) end
  t.eq(source():get():reveal(), "tok")
  t.eq(source():get():reveal(), "tok")
  t.eq(T.read(folder .. "/calls"), "x\n")
end)

T.test("wrong options", function(t)
  t.raises("expected a table, a program and its arguments first, got a string", token.command, "gcloud")
  t.raises("the program is missing", token.command, { ttl = 5 })
  t.raises("the program is missing", token.command, { "" })
  t.raises("word 2 must be a string, got 1.5", token.command, { "x", 1.5 })
  t.raises("unknown option 'tll' %(did you mean 'ttl'%?%)", token.command, { "x", tll = 5 })
  t.raises("option 'env.A' must be a string, a secret or false", token.command, { "x", env = { A = 5 } })
end)

T.done()
