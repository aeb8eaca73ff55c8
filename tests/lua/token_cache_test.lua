-- The file in which processes share tokens: its form and mode, what is taken from it, the lock, rotation.
-- Two whole processes: tests/command/token_test.lua.
local T = require "harness"
local sluice = require "sluice"
local file = require "sluice.core.file"
local sys = require "sluice.core.sys"
local mock = require "sluice.mock"

local task, token, json = sluice.task, sluice.token, sluice.json

sluice.log.configure { level = "error" }

local function folder() return T.tmpdir() end

-- Sources that share a file, as processes would, and count what they fetch.
local function sharing(path, opts)
  opts = opts or {}
  local shared = { calls = 0 }
  function shared.source(name)
    return token.source { name = name or "corp", cache = path, fetch = function(old)
      shared.calls = shared.calls + 1
      if opts.fetch then return opts.fetch(shared.calls, old) end
      return "v" .. shared.calls, { expires_in = opts.life or 3600 }
    end }
  end
  return shared
end

local function mode_of(path)
  local pipe = assert(io.popen("stat -c %a '" .. path .. "'"))
  local mode = pipe:read "l"
  pipe:close()
  return mode
end

local function read(path) return json.decode(T.read(path)) end

T.test("one fetches, the others take it from the file; 0600 in a 0700 folder", function(t)
  local path = folder() .. "/deep/er/corp.json"
  local shared = sharing(path)
  local a, b = shared.source(), shared.source()
  t.eq(a:get():reveal(), "v1")
  t.eq(b:get():reveal(), "v1")
  t.eq(shared.calls, 1)
  t.near(b:state().left, 3600, 2)
  t.eq(mode_of(path), "600")
  t.eq(mode_of(path:match "^(.*)/"), "700")
  t.eq(mode_of(path:match "^(.*)/[^/]*/"), "700")
  local found = read(path)
  t.eq(found.version, 1)
  t.eq(found.tokens["source corp"].token, "v1")
  t.eq(found.tokens["source corp"].serial, 1)
end)

T.test("fifty tasks on each of twenty sources: one fetch", function(t)
  local shared = sharing(folder() .. "/corp.json", { fetch = function(n)
    task.sleep(0.02)
    return "v" .. n, { expires_in = 3600 }
  end })
  task.group(function(group)
    for _ = 1, 20 do
      local source = shared.source()
      for _ = 1, 50 do group:spawn(function() t.eq(source:get():reveal(), "v1") end) end
    end
  end)
  t.eq(shared.calls, 1)
end)

T.test("different credentials live side by side in one file", function(t)
  local path = folder() .. "/corp.json"
  local shared = sharing(path)
  t.eq(shared.source("a"):get():reveal(), "v1")
  t.eq(shared.source("b"):get():reveal(), "v2")
  t.eq(shared.source("a"):get():reveal(), "v1")
  t.eq(shared.source("b"):get():reveal(), "v2")
  t.eq(shared.calls, 2)
end)

T.test("what a server could tell apart has an entry of its own", function(t)
  local asked = {}
  local server <close> = sluice.server.listen { handler = function(req, res)
    local form = req:query_table(req.body)
    local who = form.tenant or req.headers["x-tenant"] or form.refresh_token or form.scope or "plain"
    asked[#asked + 1] = who
    res:json(200, { access_token = "for " .. who, expires_in = 3600 })
  end }
  local path = folder() .. "/corp.json"
  local function oauth(opts)
    opts.url, opts.client_id, opts.cache = server.url .. "/token", "me", path
    opts.client_secret = not opts.refresh_token and "s" or nil
    return token.oauth(opts):get():reveal()
  end
  local function all()
    return { oauth {}, oauth { scope = "a" }, oauth { extra = { tenant = "red" } }, oauth { extra = { tenant = "blue" } },
      oauth { headers = { ["X-Tenant"] = "green" } },
      oauth { headers = { ["X-Tenant"] = sluice.secret.literal "brown" } },
      oauth { refresh_token = "alice" }, oauth { refresh_token = sluice.secret.literal "bob" } }
  end
  local want = { "for plain", "for a", "for red", "for blue", "for green", "for brown", "for alice", "for bob" }
  t.eq(all(), want)
  t.eq(all(), want)
  t.eq(#asked, #want, "the second time all of them were in the file")

  local function command(opts)
    opts.cache, opts[1], opts[2], opts[3] = path, "sh", "-c", 'printf "%s %s" "$P" "$(cat)"'
    opts.input = opts.input or ""
    return token.command(opts):get():reveal()
  end
  for _ = 1, 2 do
    t.eq(command { env = { P = "a" } }, "a")
    t.eq(command { env = { P = "b" } }, "b")
    t.eq(command { env = { P = "b" }, input = "in" }, "b in")
    t.eq(command { env = { P = sluice.secret.literal "c" } }, "c")
  end
  local entries = 0
  for _ in pairs(read(path).tokens) do entries = entries + 1 end
  t.eq(entries, #want + 4)
  for key in pairs(read(path).tokens) do
    t.ok(not key:find "brown" and not key:find "alice" and not key:find "bob", key)
  end
end)

T.test("two people with the same client and file keep their own refresh tokens", function(t)
  local valid, serial = { alice = "alice", bob = "bob" }, 0
  local server <close> = sluice.server.listen { handler = function(req, res)
    local sent = req:query_table(req.body).refresh_token
    local who = valid[sent]
    if not who then return res:json(400, { error = "invalid_grant" }) end
    valid[sent] = nil -- good for one use
    serial = serial + 1
    local next_one = who .. "-" .. serial
    valid[next_one] = who
    res:json(200, { access_token = "of " .. who .. " " .. serial, refresh_token = next_one, expires_in = 3600 })
  end }
  local path = folder() .. "/corp.json"
  local function source(who)
    return token.oauth { url = server.url .. "/token", client_id = "me", refresh_token = who, cache = path, retry = false }
  end
  for _ = 1, 3 do
    for _, who in ipairs { "alice", "bob" } do
      local s = source(who)
      local value, generation = s:get()
      t.match(value:reveal(), "^of " .. who)
      s:reject(generation)
      t.match(s:get():reveal(), "^of " .. who)
    end
  end
  t.eq(serial, 8, "one each at first, and one for each of six refusals")
end)

T.test("what is ended goes from the file; a refresh token of another login after a year", function(t)
  local path, now = folder() .. "/corp.json", sys.wall()
  local function entry(age, keep)
    return { token = "t", issued_at = now - age - 60, expires_at = now - age, serial = 1,
      keep = keep and { refresh_token = "rt", origin = "x" } or nil }
  end
  t.ok(file.write(path, json.encode { version = 1, tokens = { live = entry(-600), ended = entry(1),
    kept = entry(360 * 86400, true), forgotten = entry(366 * 86400, true), odd = "x" } }))
  sharing(path).source():get()
  local names = {}
  for key in pairs(read(path).tokens) do names[#names + 1] = key end
  table.sort(names)
  t.eq(names, { "kept", "live", "source corp" })
end)

T.test("get(least) is not served with what another process had for long", function(t)
  local path, now = folder() .. "/corp.json", sys.wall()
  t.ok(file.write(path, json.encode { version = 1, tokens = {
    ["source corp"] = { token = "old", issued_at = now - 3350, expires_at = now + 250, serial = 1 } } }))
  local shared = sharing(path)
  t.eq(shared.source():get():reveal(), "old", "good enough for most")
  t.eq(shared.source():get(300):reveal(), "v1")
  t.eq(shared.source():get(300):reveal(), "v1")
  t.eq(shared.calls, 1)
  local short = sharing(folder() .. "/corp.json", { life = 20 })
  t.eq(short.source():get(300):reveal(), "v1", "no token of this server lasts as long: no endless asking")
  t.eq(short.calls, 1)
end)

T.test("a refused token is not taken from the file again; one that another process put there is", function(t)
  local shared = sharing(folder() .. "/corp.json")
  local a, b = shared.source(), shared.source()
  local _, of_a = a:get()
  local _, of_b = b:get()
  t.ok(a:reject(of_a))
  t.eq(a:get():reveal(), "v2")
  t.ok(b:reject(of_b))
  t.eq(b:get():reveal(), "v2")
  t.eq(shared.calls, 2)
end)

T.test("a token that is due is replaced by whoever comes first", function(t)
  local shared = sharing(folder() .. "/corp.json", { fetch = function(n)
    return "v" .. n, { expires_in = n == 1 and 0.4 or 3600 }
  end })
  local a, b = shared.source(), shared.source()
  t.eq(a:get():reveal(), "v1")
  t.eq(b:get():reveal(), "v1")
  T.until_(function() return a:state().state == "expired" and b:state().state == "expired" end)
  t.eq(a:get():reveal(), "v2")
  t.eq(b:get():reveal(), "v2")
  t.eq(shared.calls, 2)
end)

T.test("entries that are no good are not taken", function(t)
  local function taken(entry)
    local path = folder() .. "/corp.json"
    if entry then t.ok(file.write(path, json.encode { version = 1, tokens = { ["source corp"] = entry } })) end
    local shared = sharing(path)
    return shared.source():get():reveal() ~= "v1"
  end
  local now = sys.wall()
  t.ok(taken { token = "x", issued_at = now - 10, expires_at = now + 3600, serial = 1 })
  t.ok(not taken { token = "x", issued_at = now - 3600, expires_at = now - 1, serial = 1 }, "ended")
  t.ok(not taken { token = "x", issued_at = now - 3580, expires_at = now + 20, serial = 1 }, "about to end")
  t.ok(not taken { token = "x", issued_at = now + 900, expires_at = now + 3600, serial = 1 }, "from the future")
  t.ok(not taken { token = "x", issued_at = now, expires_at = now, serial = 1 }, "no life")
  t.ok(not taken { token = 5, issued_at = now, expires_at = now + 60 }, "no text")
  t.ok(not taken { token = "x", issued_at = "now", expires_at = now + 60 }, "no time")
  t.ok(not taken { token = "x" }, "no times")
  t.ok(not taken("x"), "no table")
  t.ok(not taken(nil), "none")
end)

T.test("a file that is not ours in form is begun anew", function(t)
  for _, text in ipairs { "", "{", "[]", "null", '{"version":2,"tokens":{}}', '{"version":1,"tokens":5}', "\xff\xfe" } do
    local path = folder() .. "/corp.json"
    t.ok(file.write(path, text))
    t.eq(sharing(path).source():get():reveal(), "v1", text)
    t.eq(read(path).tokens["source corp"].token, "v1")
  end
end)

T.test("a file or folder that others could read or write is refused, with what to do", function(t)
  local path = folder() .. "/corp.json"
  T.write(path, "{}")
  os.execute("chmod 644 '" .. path .. "'")
  local source = sharing(path).source()
  local err = t.raises("auth", source.get, source)
  t.match(err.message, "cache file .*corp.json cannot be read: its owner or its mode is not safe; .*chmod 600")
  t.eq(err.code, "cache")

  local open = folder()
  os.execute("chmod 777 '" .. open .. "'")
  source = sharing(open .. "/corp.json").source()
  t.raises("has no place: its owner or its mode", source.get, source)

  local elsewhere = folder()
  file.write(elsewhere .. "/real", "{}")
  os.execute(("ln -s real '%s/link'"):format(elsewhere))
  source = sharing(elsewhere .. "/link").source()
  t.raises("cannot be read: its owner or its mode", source.get, source)

  source = sharing("/proc/nowhere/corp.json").source()
  t.raises("has no place", source.get, source)
end)

T.test("nothing is left beside the file", function(t)
  local dir = folder()
  sharing(dir .. "/corp.json").source():get()
  local pipe = assert(io.popen("ls -A '" .. dir .. "'"))
  t.eq(pipe:read "a", "corp.json\ncorp.json.lock\n")
  pipe:close()
end)

T.test("the lock: waited for without holding up anybody, taken when it is given back", function(t)
  local path = folder() .. "/corp.json"
  local lock = t.ok(file.lock(path))
  t.eq({ select(2, file.lock(path)) }, { "Resource temporarily unavailable", "locked" })
  local shared, ticks = sharing(path), 0
  task.group(function(group)
    local waiter = group:spawn(function() return shared.source():get():reveal() end)
    for _ = 1, 20 do
      task.sleep(0.002)
      ticks = ticks + 1
    end
    t.eq(shared.calls, 0)
    lock:close()
    t.eq(waiter:join(), "v1")
  end)
  t.eq(ticks, 20)
end)

T.test("a lock that is never given back: 60 seconds, then why; the old token while it lasts", function(t)
  local path = folder() .. "/corp.json"
  sys.virtual_clock(true)
  local back <close> = setmetatable({}, { __close = function() sys.virtual_clock(false) end }) -- luacheck: ignore 211
  local shared = sharing(path, { fetch = function(n) return "v" .. n, { expires_in = 600 } end })
  local with_token, without = shared.source(), sharing(path).source("other")
  t.eq(with_token:get():reveal(), "v1")
  local lock <close> = t.ok(file.lock(path)) -- luacheck: ignore 211
  local began = task.now()
  local err = t.raises({ kind = "auth", phase = "refresh", code = "locked" }, without.get, without)
  t.match(err.message, "another process has been renewing it for 60 s %(it holds .*corp.json.lock%)")
  t.near(task.now() - began, 60, 1)
  task.sleep(600 - 80 - 60) -- mandatory soon
  t.eq(with_token:get():reveal(), "v1", "advisory: nobody waits")
  t.ok(with_token:state().refreshing)
  T.until_(function() return not with_token:state().refreshing end, 100)
  t.eq(with_token:state().failed, 1)
  t.eq(with_token:get():reveal(), "v1")
end)

T.test("the lock of a task that was cancelled is given back", function(t)
  local path = folder() .. "/corp.json"
  pcall(task.deadline, 0.02, task.group, function()
    t.ok(file.lock(path))
    task.sleep(10)
  end)
  local lock <close> = t.ok(file.lock(path)) -- luacheck: ignore 211
end)

T.test("what another puts there while we wait for the lock is taken", function(t)
  local path = folder() .. "/corp.json"
  local lock = t.ok(file.lock(path))
  local shared = sharing(path)
  task.group(function(group)
    local waiter = group:spawn(function() return shared.source():get():reveal() end)
    task.sleep(0.02)
    local now = sys.wall()
    t.ok(file.write(path, json.encode { version = 1, tokens = {
      ["source corp"] = { token = "theirs", issued_at = now, expires_at = now + 3600, serial = 1 } } }))
    lock:close()
    t.eq(waiter:join(), "theirs")
  end)
  t.eq(shared.calls, 0)
end)

T.test("an endless value is not kept; a refusal of the source leaves the file alone", function(t)
  local path = folder() .. "/corp.json"
  sharing(path, { fetch = function() return "v", { expires_in = math.huge } end }).source():get()
  t.eq(file.read(path), nil)
  local shared = sharing(path)
  local source = shared.source()
  local _, generation = source:get()
  local before = T.read(path)
  source:reject(generation)
  local failing = sharing(path, { fetch = function() error { kind = "auth" } end })
  local other = failing.source()
  t.eq(other:get():reveal(), "v1")
  t.eq(T.read(path), before)
end)

-- Refresh tokens ---------------------------------------------------------------------------------------

local function provider_with_login(life)
  local provider = mock.start { pace = 0, oauth = { refresh = true, expires_in = life or 3600 } }
  local url = provider.url .. "/oauth/token"
  token.oauth { url = url, client_id = "me", client_secret = "s" }:get()
  return provider, url
end

T.test("the new refresh token is in the file before the access token is used", function(t)
  local provider, url = provider_with_login()
  local closing <close> = provider -- luacheck: ignore 211
  local path = folder() .. "/corp.json"
  local function source() return token.oauth { url = url, client_id = "me", refresh_token = "mock-refresh-1", cache = path } end
  local a = source()
  t.eq(a:get():reveal(), "mock-token-2")
  local _, entry = next(read(path).tokens)
  t.eq({ entry.token, entry.keep.refresh_token }, { "mock-token-2", "mock-refresh-2" })
  -- a process that starts later, with the first refresh token in its configuration
  local b = source()
  local _, generation = b:get()
  t.eq(b:get():reveal(), "mock-token-2")
  t.ok(b:reject(generation))
  t.eq(b:get():reveal(), "mock-token-3")
  -- and the first one, which knows nothing of that yet
  local _, of_a = a:get()
  t.ok(a:reject(of_a))
  t.eq(a:get():reveal(), "mock-token-3")
end)

T.test("many that rotate one refresh token never use it twice", function(t)
  local provider, url = provider_with_login(0.3)
  local closing <close> = provider -- luacheck: ignore 211
  local path = folder() .. "/corp.json"
  local ended, failures = task.now() + (T.slow and 4 or 2), {}
  task.group(function(group)
    for _ = 1, 8 do
      local source = token.oauth { url = url, client_id = "me", refresh_token = "mock-refresh-1", cache = path,
        retry = false }
      group:spawn(function()
        while task.now() < ended do
          local ok, err = pcall(source.get, source)
          if not ok then failures[#failures + 1] = tostring(err) end
          task.sleep(0.01)
        end
      end)
    end
  end)
  t.eq(failures, {})
end)

T.test("a new login wins over what is kept of the old one", function(t)
  local provider, url = provider_with_login(0.3)
  local closing <close> = provider -- luacheck: ignore 211
  local path = folder() .. "/corp.json"
  local function source(first)
    return token.oauth { url = url, client_id = "me", refresh_token = first, cache = path, retry = false }
  end
  source("mock-refresh-1"):get()
  t.eq(#provider.requests, 2)
  provider:revoke() -- the access tokens; and the family by a second use of the first
  local stolen = token.oauth { url = url, client_id = "me", refresh_token = "mock-refresh-1", retry = false }
  t.raises({ kind = "auth", code = "invalid_grant" }, stolen.get, stolen)
  T.until_(function()
    local _, entry = next(read(path).tokens)
    return entry.expires_at < sys.wall()
  end)
  local old, before = source("mock-refresh-1"), T.read(path)
  t.raises({ kind = "auth", code = "invalid_grant" }, old.get, old)
  t.eq(T.read(path), before, "a failure erases nothing")
  token.oauth { url = url, client_id = "me", client_secret = "s" }:get() -- the person logs in again
  local fresh = ("mock-refresh-%d"):format(provider.counts.tokens or 3)
  local new = source(fresh)
  t.match(new:get():reveal(), "^mock%-token%-%d+$")
  local _, entry = next(read(path).tokens)
  t.ne(entry.keep.refresh_token, fresh)
end)

T.test("a newer entry is never replaced by an older one", function(t)
  local path = folder() .. "/corp.json"
  local now = sys.wall()
  local shared = sharing(path, { fetch = function()
    -- somebody has found a way around the lock
    file.write(path, json.encode { version = 1, tokens = {
      ["source corp"] = { token = "newer", issued_at = now, expires_at = now + 3600, serial = 9 } } })
    return "older", { expires_in = 3600 }
  end })
  t.eq(shared.source():get():reveal(), "older")
  t.eq(read(path).tokens["source corp"].token, "newer")
end)

T.test("~ is the home folder", function(t)
  local cache = require "sluice.token.cache"
  t.eq(cache.expand "~/.cache/x.json", os.getenv "HOME" .. "/.cache/x.json")
  t.eq(cache.expand "/a/~/b", "/a/~/b")
  t.eq(cache.expand "~x/b", "~x/b")
end)

T.done()
