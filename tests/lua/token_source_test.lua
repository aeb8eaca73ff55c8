-- sluice.token.source: states, single flight, back-off, refusals, on the virtual clock. The cases of
-- aws-sdk-go-v2 (credential_cache_test.go), botocore (the refresh logic and its race), google-auth
-- (fresh, stale, invalid, failed), client-go (token_source_test.go, exec_test.go) and MSAL (refresh_in).
local T = require "harness"
local sluice = require "sluice"
local sys = require "sluice.core.sys"

local task, token = sluice.task, sluice.token

sys.virtual_clock(true)
sys.seed(T.seed)
sluice.log.configure { level = "error" }

local HOUR = 3600

-- A source that counts: each value is "v1", "v2", …; `script` may change what the nth call does.
local function counter(script)
  local c = { calls = 0 }
  script = script or {}
  c.source = token.source { name = "test", timeout = script.timeout, ttl = script.ttl, fetch = function(old)
    c.calls = c.calls + 1
    c.old = old and old:reveal()
    local step = script[c.calls] or script.rest or {}
    if type(step) == "function" then return step(c) end
    if step.takes then task.sleep(step.takes) end
    if step.err then error(step.err, 0) end
    return "v" .. c.calls, { expires_in = step.life or script.life or HOUR, refresh_in = step.refresh_in }
  end }
  function c.get(...) return (c.source:get(...):reveal()) end
  function c.state() return c.source:state().state end
  return c
end

local function settle(c)
  T.until_(function() return not c.source:state().refreshing end, 100)
end

-- Reading ------------------------------------------------------------------------------------------

T.test("fetched when first asked, then kept", function(t)
  local c = counter()
  t.eq(c.calls, 0)
  t.eq(c.state(), "expired")
  t.eq(c.source:peek(), nil)
  t.eq(c.get(), "v1")
  t.eq(c.get(), "v1")
  t.eq(c.calls, 1)
  t.eq(c.old, nil)
  local value, generation = c.source:get()
  t.eq(generation, 1)
  t.eq(tostring(value), "<secret test#1>")
  t.eq(tostring(c.source), "<the token test>")
  local state = c.source:state()
  t.near(state.left, HOUR, 1)
  t.eq({ state.state, state.refreshing, state.refused, state.refreshed, state.failed }, { "fresh", false, false, 1, 0 })
end)

T.test("a token gives nothing away", function(t)
  local c = counter()
  c.get()
  t.raises("cannot be concatenated", function() return "x" .. c.source end)
  t.raises("cannot be concatenated", function() return #c.source end)
  t.raises("cannot encode", sluice.json.encode, { c.source })
  t.eq(getmetatable(c.source), "sluice.token")
  t.ok(token.is(c.source))
  t.ok(not token.is("x"))
end)

T.test("one refresh for any number of waiting tasks", function(t)
  local c = counter { { takes = 2 } }
  local began = task.now()
  local values = task.map(setmetatable({}, { __len = function() return 500 end, __index = function(_, i)
    return i <= 500 and i or nil
  end }), function() return c.get() end, { concurrency = 500 })
  t.eq(#values, 500)
  for i = 1, 500 do if values[i] ~= "v1" then t.eq(values[i], "v1") end end
  t.eq(c.calls, 1)
  t.near(task.now() - began, 2, 0.01)
end)

T.test("cancelling those who wait does not cancel what they wait for", function(t)
  local c = counter { { takes = 5 } }
  local err = t.raises("timeout", task.deadline, 1, c.get)
  t.eq(err.phase, "deadline")
  t.ok(c.source:state().refreshing)
  local began = task.now()
  t.eq(c.get(), "v1")
  t.near(task.now() - began, 4, 0.01)
  t.eq(c.calls, 1)
end)

T.test("the first who asked goes; the others are served", function(t)
  local c = counter { { takes = 5 } }
  task.group(function(group)
    local first = group:spawn(c.get)
    task.sleep(0)
    local others = {}
    for i = 1, 10 do others[i] = group:spawn(c.get) end
    task.sleep(1)
    first:cancel()
    for i = 1, 10 do t.eq(others[i]:join(), "v1") end
  end)
  t.eq(c.calls, 1)
end)

-- The life of a token --------------------------------------------------------------------------------

T.test("advisory: the current one at once, one refresh behind the back", function(t)
  local c = counter { [2] = { takes = 3 } }
  c.get()
  task.sleep(HOUR - 900 - 1)
  t.eq(c.state(), "fresh")
  task.sleep(95) -- chance puts it off by at most a tenth
  t.eq(c.state(), "advisory")
  local began = task.now()
  for _ = 1, 20 do t.eq(c.get(), "v1") end
  t.eq(task.now(), began)
  settle(c)
  t.eq(c.calls, 2)
  t.eq(c.old, "v1")
  t.eq(c.get(), "v2")
  t.eq(c.state(), "fresh")
end)

T.test("mandatory: everybody waits for the new one", function(t)
  local c = counter { [2] = { takes = 3 } }
  c.get()
  task.sleep(HOUR - 59)
  t.eq(c.state(), "mandatory")
  local began = task.now()
  t.eq(c.get(), "v2")
  t.near(task.now() - began, 3, 0.01)
end)

T.test("expired, ten seconds before the end", function(t)
  local c = counter()
  c.get()
  task.sleep(HOUR - 9)
  t.eq(c.state(), "expired")
  t.eq(c.get(), "v2")
end)

T.test("refresh_in (MSAL): half of twenty-four hours", function(t)
  local c = counter { { life = 24 * HOUR, refresh_in = 12 * HOUR } }
  c.get()
  task.sleep(12 * HOUR - 1)
  t.eq(c.state(), "fresh")
  task.sleep(1.2 * HOUR + 2)
  t.eq(c.state(), "advisory")
  t.eq(c.get(), "v1")
  settle(c)
  t.eq(c.get(), "v2")
end)

T.test("a life in seconds is refreshed in time all the same", function(t)
  local c = counter { life = 4 }
  c.get()
  for _ = 1, 40 do
    task.sleep(0.5)
    c.get()
    local state = c.source:state()
    t.ok(state.left > 0.4, "left " .. tostring(state.left))
  end
  settle(c)
  t.ok(c.calls >= 6 and c.calls <= 11, "calls " .. c.calls)
end)

T.test("without an expiry: ttl seconds, 300 unless given; for ever where fetch says so", function(t)
  local s = token.source { name = "x", fetch = function() return "v" end }
  s:get()
  t.near(s:state().left, 300, 1)
  s = token.source { name = "x", ttl = 7, fetch = function() return "v" end }
  s:get()
  t.near(s:state().left, 7, 1)
  s = token.source(function() return "v", { expires_in = math.huge } end)
  s:get()
  t.eq(s:state().left, nil)
  task.sleep(1e7)
  t.eq(s:state().state, "fresh")
  s = token.source { name = "x", fetch = function() return "v", { expires_at = sys.wall() + 60 } end }
  s:get()
  t.near(s:state().left, 60, 1)
  s = token.source { name = "x", fetch = function() return "v", { expires_in = "90" } end }
  s:get()
  t.near(s:state().left, 90, 1)
end)

T.test("get(least) waits for a token that lasts", function(t)
  local c = counter()
  c.get()
  task.sleep(HOUR - 1000)
  t.eq(c.get(300), "v1")
  t.eq(c.get(999999), "v2", "less than half of its life is left")
  t.eq(c.get(999999), "v2")
  t.eq(c.calls, 2)
end)

-- Failures -------------------------------------------------------------------------------------------

local function network() return sluice.errors.new { kind = "network", message = "no route" } end

T.test("no token to be had: auth, phase refresh, with the cause", function(t)
  local c = counter { rest = { err = network() } }
  local err = t.raises("auth", c.get)
  t.eq(err.phase, "refresh")
  t.eq(err.cause.kind, "network")
  t.eq(tostring(err), "auth: the token test could not be renewed: no route (phase refresh)")
  t.raises("auth", c.get)
  t.eq(c.calls, 2, "what passes is tried again at once")
end)

T.test("a thousand tasks one after another do not ask a thousand times when it would fail again", function(t)
  local refused = sluice.errors.new { kind = "auth", code = "invalid_grant", message = "revoked" }
  local c = counter { rest = { err = refused } }
  for _ = 1, 1000 do t.raises({ kind = "auth", code = "invalid_grant" }, c.get) end
  t.eq(c.calls, 1)
  task.sleep(5.1)
  t.raises("auth", c.get)
  t.eq(c.calls, 2)
end)

T.test("a Retry-After is held to", function(t)
  local c = counter { { err = sluice.errors.new { kind = "rate_limited", message = "slow down", retry_after = 20 } } }
  t.raises({ kind = "auth", retry_after = 20 }, c.get)
  task.sleep(19)
  t.raises("auth", c.get)
  t.eq(c.calls, 1)
  task.sleep(1.1)
  t.eq(c.get(), "v2")
end)

T.test("everybody gets an error of their own", function(t)
  local c = counter { { takes = 1, err = network() }, rest = { err = network() } }
  local caught = task.map({ 1, 2, 3 }, function(i)
    local _, err = pcall(c.get)
    err.mine = i
    return err
  end)
  t.eq({ caught[1].mine, caught[2].mine, caught[3].mine }, { 1, 2, 3 })
  t.eq(c.calls, 1)
  t.ok(sluice.errors.is(caught[2], "auth"))
end)

T.test("advisory, and the refresh fails: no error, and not again for a while", function(t)
  local c = counter { rest = { err = network() }, { life = 24 * HOUR } }
  c.get()
  task.sleep(23.1 * HOUR)
  t.eq(c.state(), "advisory")
  t.eq(c.get(), "v1")
  settle(c)
  for _ = 1, 100 do c.get() end
  t.eq(c.calls, 2)
  task.sleep(299)
  c.get()
  t.eq(c.calls, 2)
  task.sleep(302)
  t.eq(c.get(), "v1")
  settle(c)
  t.eq(c.calls, 3)
end)

T.test("mandatory, and the refresh fails: the current one while it lasts, then the failure", function(t)
  local c = counter { rest = { err = network(), takes = 2 }, { life = HOUR } }
  c.get()
  task.sleep(HOUR - 50)
  local began = task.now()
  t.eq(c.get(), "v1")
  t.near(task.now() - began, 2, 0.01, "the first waits in vain")
  t.eq(c.get(), "v1")
  t.near(task.now() - began, 2, 0.01, "the next does not")
  task.sleep(45)
  t.raises("auth", c.get)
end)

T.test("a token that has ended when it comes is a failure", function(t)
  local c = counter { rest = { life = -2 } }
  local err = t.raises("auth", c.get)
  t.match(err.message, "has ended already")
  c = counter { rest = { life = 0 } }
  t.raises("has ended already", c.get)
end)

T.test("fetch takes too long", function(t)
  local c = counter { timeout = 3, { takes = 100 } }
  local began = task.now()
  local err = t.raises("auth", c.get)
  t.near(task.now() - began, 3, 0.01)
  t.match(err.message, "nothing came within 3 s")
  t.eq(c.get(), "v2")
end)

T.test("what fetch may not return", function(t)
  local function fails(pattern, ...)
    local results = table.pack(...)
    local s = token.source { name = "x", fetch = function() return table.unpack(results, 1, results.n) end }
    t.raises(pattern, s.get, s)
  end
  fails "fetch returned nothing"
  fails("fetch returned 5", 5)
  fails("the token is empty", "  \n")
  fails("the token has 2 lines", "a\nb")
  fails("holds a control character", "a\1b")
  fails("unknown field 'expire_in' %(did you mean 'expires_in'%?%)", "v", { expire_in = 3 })
  fails("field 'expires_in' must be a number of seconds", "v", { expires_in = "soon" })
  fails("field 'expires_in' must be a number of seconds", "v", { expires_in = 0 / 0 })
  fails("field 'refresh_in' must be a number of seconds", "v", { refresh_in = "x" })
  fails("has ended already", "v", { expires_in = -math.huge })
  for _, odd in ipairs { setmetatable({}, { __tostring = function() error "x" end }), {}, 42, false } do
    local s = token.source { name = "x", fetch = function() error(odd) end }
    t.raises({ kind = "auth", phase = "refresh", code = "fetch" }, s.get, s)
  end
  local s = token.source { name = "x", fetch = function() error("boom") end }
  t.raises("token_source_test.lua:%d+: boom", s.get, s)
  local clean = token.source { name = "x", fetch = function() return " v\r\n" end }
  t.eq(clean:get():reveal(), "v")
end)

T.test("a fetch that asks itself, or two that ask each other, end with their time", function(t)
  local a, b
  a = token.source { name = "a", timeout = 2, fetch = function() return b:get() end }
  b = token.source { name = "b", timeout = 5, fetch = function() return a:get() end }
  local began = task.now()
  t.match(tostring(t.raises("auth", a.get, a)), "the token a could not be renewed: nothing came within 2 s")
  t.near(task.now() - began, 2, 0.1)
  T.until_(function() return not b:state().refreshing end, 100)
end)

T.test("fetch may return a secret, and wait in a group of its own", function(t)
  local s = token.source { name = "x", fetch = function()
    local a, b = task.all { function() task.sleep(1) return "a" end, function() return "b" end }
    return sluice.secret.literal(a .. b, "made")
  end }
  local value = s:get()
  t.eq(value:reveal(), "ab")
  t.eq(tostring(value), "<secret made>")
end)

T.test("what a fetch leaves open is closed with it", function(t)
  local held = false
  local s = token.source { name = "x", fetch = function()
    local server = sluice.server.listen { handler = function() end }
    held = server
    return "v"
  end }
  s:get()
  t.ok(held:closed())
end)

-- Refusals -------------------------------------------------------------------------------------------

T.test("ten parallel refusals cause one refresh", function(t)
  local c = counter { [2] = { takes = 1 } }
  local _, generation = c.source:get()
  task.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, function()
    t.ok(c.source:reject(generation))
    t.eq(c.get(), "v2")
  end)
  t.eq(c.calls, 2)
end)

T.test("a late refusal never drops a newer token (client-go: ResetTokenOlderThan)", function(t)
  local c = counter()
  local _, old = c.source:get()
  c.source:reject(old)
  t.eq(c.get(), "v2")
  task.sleep(60)
  t.ok(c.source:reject(old))
  t.eq(c.get(), "v2")
  t.eq(c.calls, 2)
end)

T.test("refused, refreshed, refused again at once: the token is not what the server minds", function(t)
  local c = counter()
  local _, g1 = c.source:get()
  t.ok(c.source:reject(g1))
  local _, g2 = c.source:get()
  t.ok(not c.source:reject(g2))
  t.eq(c.get(), "v2")
  t.eq(c.calls, 2)
  task.sleep(10)
  t.ok(c.source:reject(g2))
  t.eq(c.get(), "v3")
end)

T.test("refused while a refresh is under way: that one is waited for", function(t)
  local c = counter { [2] = { takes = 3 } }
  local _, generation = c.source:get()
  task.sleep(HOUR - 800)
  t.eq(c.get(), "v1")
  task.sleep(1)
  t.ok(c.source:reject(generation))
  t.eq(c.get(), "v2")
  t.eq(c.calls, 2)
end)

T.test("refused, and no new one to be had: the failure, never the refused one", function(t)
  local c = counter { rest = { err = network() }, {} }
  local _, generation = c.source:get()
  c.source:reject(generation)
  t.raises("auth", c.get)
end)

T.test("a static key stays what it is", function(t)
  local s = token.static("sk-static-value", "mine")
  local value, generation = s:get()
  t.eq(value:reveal(), "sk-static-value")
  t.ok(not s:reject(generation))
  t.eq(s:get():reveal(), "sk-static-value")
  t.eq(tostring(s), "<the token mine>")
  t.eq(token.static(sluice.secret.literal("k", "lit")):get():reveal(), "k")
  t.raises("must be a secret or a string that is not empty, got nothing", token.static)
  t.raises("got an empty string", token.static, "")
end)

T.test("bearer: made once for each generation", function(t)
  local c = counter()
  local a, generation = c.source:bearer()
  t.eq(a:reveal(), "Bearer v1")
  t.ok(rawequal(a, (c.source:bearer())))
  c.source:reject(generation)
  t.eq(c.source:bearer():reveal(), "Bearer v2")
end)

-- Many -------------------------------------------------------------------------------------------------

T.test("hours of many tasks, refusals and failures: every value was good when it was given", function(t)
  local issued, refusals = {}, 0
  local s = token.source { name = "busy", fetch = function()
    task.sleep(math.random() * 3)
    if math.random() < 0.2 then error(network(), 0) end
    local value = "t" .. #issued + 1
    issued[#issued + 1] = value
    issued[value] = task.now() + 120
    return value, { expires_in = 120 }
  end }
  local ended = task.now() + 2 * HOUR
  task.group(function(group)
    for _ = 1, 40 do
      group:spawn(function()
        while task.now() < ended do
          local ok, value, generation = pcall(s.get, s)
          if ok then
            local left = issued[value:reveal()] - task.now()
            if left < 0 then t.ok(left >= 0, "given " .. -left .. " s after its end") end
            if math.random() < 0.001 then
              refusals = refusals + 1
              s:reject(generation)
            end
          end
          task.sleep(math.random() * 10)
        end
      end)
    end
  end)
  settle({ source = s })
  local state = s:state()
  t.ok(refusals > 0)
  t.eq(state.refreshed, #issued)
  -- one for every minute (the advisory moment of a life of 120 s), the refusals, and no more
  t.ok(#issued <= 2 * HOUR / 60 + refusals + 5, ("%d refreshes, %d refusals"):format(#issued, refusals))
  t.ok(#issued >= 2 * HOUR / 120)
end)

T.test("watched: every refresh and its outcome", function(t)
  local seen = {}
  token.observe(function(name, outcome) seen[#seen + 1] = name .. " " .. outcome end)
  local c = counter { { err = network() } }
  pcall(c.get)
  c.get()
  t.eq(seen, { "test error", "test ok" })
end)

T.test("wrong options", function(t)
  t.raises("sluice.token.source: option 'fetch' is missing", token.source, { name = "x" })
  t.raises("unknown option 'fetsh' %(did you mean 'fetch'%?%)", token.source, { fetsh = 1 })
  t.raises("option 'ttl' must be a number above 0, got 0", token.source, { fetch = print, ttl = 0 })
  t.raises("option 'cache' wants a 'name'", token.source, { fetch = print, cache = "/tmp/x" })
  local c = counter()
  t.raises("seconds expected", c.source.get, c.source, -1)
end)

T.done()
