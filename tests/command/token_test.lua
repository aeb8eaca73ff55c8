-- timeout: 120
-- sluice token: what is on stdout and nothing else, exit codes, and a cache that processes share.
local T = require "harness"
local C = require "command"

local folder = T.tmpdir()

local function write(name, text) return T.write(folder .. "/" .. name, text) end

local function token(words, options)
  options = options or {}
  options.cwd = options.cwd or folder
  return C.run({ C.sluice, "token", table.unpack(words) }, options)
end

local function prints(t, words, stdout, options)
  local r = token(words, options)
  t.eq(r.stdout, stdout, table.concat(words, " "))
  t.eq(r.stderr, "", table.concat(words, " "))
  t.eq(r.code, 0, table.concat(words, " "))
end

local function fails(t, words, code, pattern, options)
  local r = token(words, options)
  t.eq(r.code, code, table.concat(words, " ") .. r.stderr)
  t.eq(r.stdout, "", "nothing that a caller could take for a token")
  t.match(r.stderr, pattern)
  return r
end

local HEAD = 'local sluice = require "sluice"\n'

T.test("the token, a line break, nothing else", function(t)
  write("one.lua", HEAD .. 'return sluice.token.source { name = "x", fetch = function() return "tok-1" end }')
  prints(t, { "one.lua" }, "tok-1\n")
  prints(t, { "-" }, "tok-1\n", { stdin = T.read(folder .. "/one.lua") })
  write("static.lua", HEAD .. 'return sluice.token.static "sk-static"')
  prints(t, { "static.lua" }, "sk-static\n")
  write("secret.lua", HEAD .. 'return sluice.secret.env "KEY"')
  prints(t, { "secret.lua" }, "sk-env\n", { env = { KEY = "sk-env" } })
end)

T.test("several by name; one needs no name", function(t)
  write("two.lua", HEAD .. [[
return { prod = sluice.token.static "p", staging = function() return sluice.token.static "s" end,
  broken = function() return sluice.secret.env "NO_SUCH_VARIABLE" end, note = "not a token" }]])
  prints(t, { "two.lua", "prod" }, "p\n")
  prints(t, { "two.lua", "staging" }, "s\n")
  fails(t, { "two.lua" }, 4, "two.lua returns several tokens; say which: broken, prod, staging")
  fails(t, { "two.lua", "stagin" }, 4, "two.lua returns no token 'stagin' %(did you mean 'staging'%?%)")
  fails(t, { "two.lua", "note" }, 4, "'note' is a string; expected a token source")
  fails(t, { "two.lua", "broken" }, 1, "NO_SUCH_VARIABLE is not set")
  write("single.lua", HEAD .. 'return { only = sluice.token.static "o" }')
  prints(t, { "single.lua" }, "o\n")
  write("one.lua", HEAD .. 'return sluice.token.static "x"')
  fails(t, { "one.lua", "name" }, 4, "one.lua returns one token, not a table with 'name' in it")
end)

T.test("--json: with the expiry", function(t)
  write("one.lua", HEAD .. 'return { corp = sluice.token.source { name = "x", fetch = function() return "t\\"1", { expires_in = 3600 } end } }')
  local r = token { "--json", "one.lua" }
  t.eq(r.code, 0)
  local left, y, m, d, H, M, S = t.match(r.stdout,
    '^{"token":"t\\"1","name":"corp","expires_in":(%d+),"expires_at":"(%d+)%-(%d+)%-(%d+)T(%d+):(%d+):(%d+)Z"}\n$')
  t.ok(tonumber(left) >= 3590 and tonumber(left) <= 3600, left)
  local at = os.time { year = y, month = m, day = d, hour = H, min = M, sec = S }
  t.near(at, os.time(os.date "!*t") + 3600, 15)
  write("static.lua", HEAD .. 'return sluice.token.static("sk", "mine")')
  prints(t, { "--json", "static.lua" }, '{"token":"sk","name":"the token mine","expires_in":null,"expires_at":null}\n')
end)

T.test("what the script prints goes to stderr", function(t)
  write("chatty.lua", HEAD .. [[
print("hello", 1)
io.write("written ")
io.stdout:write("to stdout\n")
sluice.log.info "logged"
return sluice.token.static "tok"]])
  local r = token { "chatty.lua" }
  t.eq(r.stdout, "tok\n")
  t.match(r.stderr, "hello\t1\nwritten to stdout\n.*logged")
  t.eq(r.code, 0)
end)

T.test("what a program prints that the script starts goes to stderr too", function(t)
  write("starts.lua", HEAD .. [[
os.execute "echo from a shell"
local pipe = io.popen("cat", "w")
pipe:write "from a pipe\n"
pipe:close()
return sluice.token.static "tok"]])
  local r = token { "starts.lua" }
  t.eq(r.stdout, "tok\n")
  t.eq(r.stderr, "from a shell\nfrom a pipe\n")
  -- nobody there to hear it; and nobody to tell the token
  local function shell(redirection)
    return C.run({ "sh", "-c", ("exec '%s' token starts.lua %s"):format(C.sluice, redirection) }, { cwd = folder })
  end
  r = shell "2>&-"
  t.eq({ r.stdout, r.code }, { "tok\n", 0 })
  r = shell ">&-"
  t.eq({ r.stdout, r.code }, { "", 4 })
  t.match(r.stderr, "writing to stdout: ")
end)

T.test("no token: why, and exit code 4", function(t)
  write("refused.lua", HEAD .. [[return sluice.token.source { name = "corp", fetch = function()
    sluice.errors.raise { kind = "auth", message = "the login has expired" } end }]])
  fails(t, { "refused.lua" }, 4, "^sluice: auth: the token corp could not be renewed: the login has expired %(phase refresh%)\n$")
  write("nothing.lua", "return nil")
  fails(t, { "nothing.lua" }, 4, "nothing.lua returns nothing; expected a token source")
  write("text.lua", "return 'sk-x'")
  local r = fails(t, { "text.lua" }, 4, "text.lua returns a string; expected .*sluice.secret.literal%(key%)")
  t.ok(not r.stderr:find "sk%-x")
  fails(t, { "absent.lua" }, 4, "cannot read the script absent.lua")
  write("syntax.lua", "return {")
  fails(t, { "syntax.lua" }, 1, "syntax.lua:1:")
  write("raises.lua", "error 'mine'")
  fails(t, { "raises.lua" }, 1, "raises.lua:1: mine")
end)

T.test("the command line", function(t)
  fails(t, {}, 2, "token: no file given")
  fails(t, { "a", "b", "c" }, 2, "one name at most, got 'c' too")
  fails(t, { "--jsn", "a" }, 2, "unknown option '%-%-jsn' %(did you mean '%-%-json'%?%)")
  write("slow.lua", HEAD .. 'return sluice.token.source { name = "x", fetch = function() io.stderr:write "asking\\n" sluice.task.sleep(60) end }')
  fails(t, { "--timeout", "0.3", "slow.lua" }, 124, "not done after 0.3 s")
  fails(t, { "slow.lua" }, 130, "interrupted", { steps = { { expect_stderr = "asking" }, { signal = "INT" } } })
end)

T.test("a token is renewed when it would not last", function(t)
  write("short.lua", HEAD .. [[
local n = 0
local source = sluice.token.source { name = "x", fetch = function()
  n = n + 1
  return "tok-" .. n, { expires_in = n == 1 and 0.4 or 3600 }
end }
source:get()
while source:state().left > 0.15 do sluice.task.sleep(0.01) end
return source]])
  prints(t, { "short.lua" }, "tok-2\n")
  prints(t, { "--min-life", "0", "short.lua" }, "tok-1\n")
end)

T.test("nor is one taken from the cache that would not last", function(t)
  local now = os.time()
  os.execute(("rm -f '%s/lasts.json'"):format(folder))
  write("lasts.lua", HEAD .. [[return sluice.token.source { name = "x", cache = "lasts.json", fetch = function()
    return "new", { expires_in = 3600 } end }]])
  local function keep(left)
    write("lasts.json", ('{"version":1,"tokens":{"source x":{"token":"old","issued_at":%d,"expires_at":%d,"serial":1}}}')
      :format(now - 3600 + left, now + left))
    os.execute(("chmod 600 '%s/lasts.json'"):format(folder))
  end
  keep(250)
  prints(t, { "--min-life", "120", "lasts.lua" }, "old\n")
  prints(t, { "lasts.lua" }, "new\n")
  keep(900)
  prints(t, { "lasts.lua" }, "old\n")
end)

T.test("under --mock no server is asked, and no key is needed", function(t)
  write("corp.lua", HEAD .. [[
return { corp = sluice.token.oauth { url = "https://idp.invalid/token", client_id = "me",
    client_secret = sluice.secret.env "NO_SUCH_VARIABLE", cache = "never.json" },
  program = sluice.token.command { "no-such-program" },
  vault = sluice.secret.vault { path = "secret/data/x", field = "y", address = "https://vault.invalid" },
  file = sluice.secret.file "/no/such/file",
  mounted = sluice.secret.kubernetes { folder = "/no/such", key = "key" } }]])
  prints(t, { "--mock", "-q", "corp.lua", "corp" }, "mock-token-1\n")
  for _, name in ipairs { "program", "vault", "file", "mounted" } do prints(t, { "--mock", "-q", "corp.lua", name }, "mock\n") end
  t.eq(io.open(folder .. "/never.json"), nil)
end)

-- Processes that share -------------------------------------------------------------------------------------

-- A token server beside the test; says its port, then "asked" for each request.
local SERVER = HEAD .. [[
io.stdout:setvbuf "no"
local n = 0
local server = sluice.server.listen { handler = function(req, res)
  n = n + 1
  print("asked " .. n)
  sluice.task.sleep(tonumber(arg[n]) or 0.3) -- long enough that all who can will have asked
  res:json(200, { access_token = "shared-" .. n, expires_in = 3600, refresh_token = "rt-" .. n })
end }
print("port " .. server.port)
server:wait()
]]

-- Fifty tasks want a token at once, and say what they got.
local CLIENT = HEAD .. [[
local corp = sluice.token.oauth { url = arg[1], client_id = "me", client_secret = "s", cache = arg[2] }
local got = {}
sluice.task.group(function(group)
  for i = 1, 50 do group:spawn(function() got[i] = corp:get():reveal() end) end
end)
for i = 2, 50 do assert(got[i] == got[1]) end
print(got[1])
]]

T.test("two processes with fifty tasks each cause one request", function(t)
  write("server.lua", SERVER)
  write("client.lua", CLIENT)
  local server <close> = C.start({ C.sluice, "run", folder .. "/server.lua" })
  local url = ("http://127.0.0.1:%s/token"):format(server:expect "port (%d+)")
  local argv = { C.sluice, "run", folder .. "/client.lua", url, folder .. "/cache/shared.json" }
  local a <close> = C.start(argv)
  local b <close> = C.start(argv)
  local ra, rb = a:wait(), b:wait()
  t.eq({ ra.code, ra.stdout, ra.stderr }, { 0, "shared-1\n", "" })
  t.eq({ rb.code, rb.stdout, rb.stderr }, { 0, "shared-1\n", "" })
  t.eq(C.run(argv).stdout, "shared-1\n", "and a third one, later")
  local told = server:stop().stdout
  t.eq(select(2, told:gsub("asked", "")), 1, told)
end)

T.test("a process that is killed while it holds the lock does not hold up the next", function(t)
  write("stuck.lua", HEAD .. [[
return sluice.token.source { name = "x", cache = "stuck.json", fetch = function()
  if os.getenv "STUCK" then
    io.stderr:write "fetching\n"
    sluice.task.sleep(60)
  end
  return "tok", { expires_in = 3600 }
end }]])
  local r = token({ "stuck.lua" }, { env = { STUCK = "1" }, steps = { { expect_stderr = "fetching" }, { signal = "KILL" } } })
  t.eq(r.signal, 9)
  prints(t, { "stuck.lua" }, "tok\n")
end)

T.test("killed in the middle of a refresh that others wait for: the next of them asks, and all are served", function(t)
  write("hanging.lua", HEAD .. [[
io.stdout:setvbuf "no"
local n = 0
local server = sluice.server.listen { handler = function(req, res)
  n = n + 1
  print("asked " .. n)
  if n == 1 then sluice.task.sleep(3600) end -- it ends when who asked has gone
  res:json(200, { access_token = "shared-" .. n, expires_in = 3600 })
end }
print("port " .. server.port)
server:wait()
]])
  write("client.lua", CLIENT)
  local server <close> = C.start({ C.sluice, "run", folder .. "/hanging.lua" })
  local argv = { C.sluice, "run", folder .. "/client.lua",
    ("http://127.0.0.1:%s/token"):format(server:expect "port (%d+)"), folder .. "/killed/shared.json" }
  local first <close> = C.start(argv)
  server:expect "asked 1"
  local second <close> = C.start(argv)
  local third <close> = C.start(argv)
  first:signal "KILL"
  t.eq(first:wait().signal, 9)
  for _, other in ipairs { second, third } do
    local r = other:wait()
    t.eq({ r.code, r.stdout, r.stderr }, { 0, "shared-2\n", "" })
  end
  local listing = io.popen(("ls -A '%s/killed'"):format(folder))
  t.eq(listing:read "a", "shared.json\nshared.json.lock\n")
  listing:close()
  t.eq(select(2, server:stop().stdout:gsub("asked", "")), 2)
end)

T.test("--new passes over what the cache has", function(t)
  write("counted.lua", HEAD .. [[
return sluice.token.source { name = "x", cache = "counted.json", fetch = function()
  local file = io.open("count", "a"); file:write "x"; file:close()
  file = io.open "count"; local n = #file:read "a"; file:close()
  return "tok-" .. n, { expires_in = 3600 }
end }]])
  prints(t, { "counted.lua" }, "tok-1\n")
  prints(t, { "counted.lua" }, "tok-1\n")
  prints(t, { "--new", "counted.lua" }, "tok-2\n")
  prints(t, { "counted.lua" }, "tok-2\n")
end)

T.test("a rotation under way when the program is told to end is written down", function(t)
  write("server.lua", SERVER)
  local server <close> = C.start({ C.sluice, "run", folder .. "/server.lua", "3" })
  write("rotate.lua", HEAD .. ([[
io.stderr:write "asking\n"
return sluice.token.oauth { url = "http://127.0.0.1:%s/token", client_id = "me", refresh_token = "rt-0", cache = "rotate.json" }
]]):format(server:expect "port (%d+)"))
  -- the signal comes when the server has been asked and has not answered
  local client <close> = C.start({ C.sluice, "token", "rotate.lua" }, { cwd = folder })
  server:expect "asked 1"
  client:signal "TERM"
  local r = client:wait()
  t.eq(r.code, 143)
  local kept = T.read(folder .. "/rotate.json")
  t.match(kept, '"refresh_token":"rt%-1"')
  t.match(kept, '"token":"shared%-1"')
end)

T.test("... and when the script ends by itself, or calls os.exit", function(t)
  write("server.lua", SERVER)
  write("ends.lua", HEAD .. [[
local corp = sluice.token.oauth { url = arg[1], client_id = "me", refresh_token = "rt-0", cache = arg[2], retry = false }
local _, generation = corp:get()
corp:reject(generation)
sluice.try(sluice.task.deadline, 0.1, corp.get, corp) -- long enough to send it, too short for the answer
assert(corp:state().refreshing)
if arg[3] == "exit" then os.exit(7) end
if arg[3] == "error" then error "mine" end]])
  local codes, runs = { ends = 0, exit = 7, error = 1 }, {}
  for how in pairs(codes) do
    -- the second answer takes 3 s: longer than an embedded server has to say good-bye when a program ends
    local server = C.start({ C.sluice, "run", folder .. "/server.lua", "0", "3" })
    runs[how] = { server = server, client = C.start({ C.sluice, "run", folder .. "/ends.lua",
      ("http://127.0.0.1:%s/token"):format(server:expect "port (%d+)"), ("%s/%s.json"):format(folder, how), how }) }
  end
  for how, code in pairs(codes) do
    local r = runs[how].client:wait()
    t.eq(r.code, code, r.stderr)
    t.match(T.read(("%s/%s.json"):format(folder, how)), '"refresh_token":"rt%-2"', how)
    t.match(runs[how].server:stop().stdout, "asked 2\n$")
  end
end)

T.test("docs/secrets.md: every block of Lua compiles, and names only options that exist", function(t)
  local blocks = 0
  for block in T.read "docs/secrets.md":gmatch "```lua\n(.-)```" do
    blocks = blocks + 1
    t.ok(load(block) or load("return " .. block), block)
  end
  t.ok(blocks >= 6)
  -- run the examples that make something, under --mock: a wrong option would be an error
  local made = { "local sluice = require 'sluice'; local corp = sluice.token.static 'x'; local _" }
  for block in T.read "docs/secrets.md":gmatch "```lua\n(.-)```" do
    for call in block:gmatch "sluice%.%l+%.%l+ ?%b{}" do
      if not call:find "http%.request" then made[#made + 1] = "_ = " .. call end
    end
  end
  for call in T.read "docs/secrets.md":gmatch "`(sluice%.token%.%l+ %b{})`" do
    if not call:find "{ …" then made[#made + 1] = "local value = 'x'; _ = " .. call end
  end
  t.ok(#made >= 6, #made)
  local r = C.run({ C.sluice, "run", "--mock", "-q", write("docs.lua", table.concat(made, "\n")) },
    { env = { CREDENTIALS_DIRECTORY = "/nowhere" } })
  t.eq(r.stderr, "")
  t.eq(r.code, 0)
end)

T.done()
