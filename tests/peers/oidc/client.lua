-- sluice.token.oauth against oidc-provider: every way to authenticate, what it refuses, two hundred tasks on
-- tokens that live for four seconds, rotation of refresh tokens. Run by ./run.
package.path = arg[0]:match "^(.*/)" .. "../../lua/?.lua;" .. package.path
local T = require "harness"
local sluice = require "sluice"

local task, token = sluice.task, sluice.token
local url = ...

sluice.log.configure { level = "error" }

local function get(path) return sluice.http.request(url .. path):json() end

local function client(opts)
  local o = { url = url .. "/token", client_id = "workflows", client_secret = "s:e/c%r+e t&=~", scope = "llm" }
  for key, value in pairs(opts or {}) do o[key] = value ~= "nil" and value or nil end
  return token.oauth(o)
end

local function model(auth)
  return sluice.model { provider = "openai", base_url = url .. "/v1", model = "m", auth = auth,
    limit = { concurrency = 200 }, retry = false, breaker = false }
end

T.test("basic, with a secret that has to be encoded; post", function(t)
  local source = client()
  t.match(source:get():reveal(), "^%S+$")
  t.near(source:state().left, 4, 0.5)
  t.eq(model(source):ask("x").text, "workflows")
  t.eq(model(client { client_id = "poster", client_secret = "post secret?&", client_auth = "post" }):ask("x").text, "poster")
end)

T.test("what it refuses, in its own words", function(t)
  local function refused(opts, code, status)
    local source = client(opts)
    local err = t.raises("auth", source.get, source)
    t.eq({ err.phase, err.code, err.status }, { "refresh", code, status })
    t.match(tostring(err), "the token [%d.:]+ could not be renewed: " .. code)
    return err
  end
  refused({ client_secret = "wrong" }, "invalid_client", 401)
  refused({ client_auth = "basic_raw" }, "invalid_request", 400) -- it decodes: raw is not what it wants
  refused({ client_id = "nobody" }, "invalid_client", 401)
  refused({ client_id = "desktop", client_secret = "nil", client_auth = "none", refresh_token = "stolen", scope = "nil" },
    "invalid_grant", 400)
end)

T.test("two hundred tasks on tokens of four seconds: a request for each expiry, no failure", function(t)
  local source = client()
  local m = model(source)
  local before = get "/counts"
  local seconds, asked = 10, 0
  local ended = task.now() + seconds
  task.group(function(group)
    for _ = 1, 200 do
      group:spawn(function()
        while task.now() < ended do
          local reply = m:ask "x" -- whatever fails ends the test
          if reply.text ~= "workflows" then t.eq(reply.text, "workflows") end
          asked = asked + 1
        end
      end)
    end
  end)
  T.until_(function() return not source:state().refreshing end)
  local after = get "/counts"
  local requests = after.token - before.token
  t.log(("%d answers, %d token requests in %d s"):format(asked, requests, seconds))
  t.eq(after.refused - before.refused, 0, "requests with a token that had ended")
  t.eq(after.served - before.served, asked)
  t.ok(asked > 200 * 5, asked)
  -- Each token was replaced once, when its second half had begun (at 1.8 to 2 of its 4 seconds left), and
  -- the first one had to be had: nobody asked for anything else.
  t.eq(requests, source:state().generation, "a request to the server is a new generation")
  t.eq(source:state().failed, 0)
  t.ok(requests >= seconds // 2.4 and requests <= seconds // 2 + 1, ("%d requests for tokens in %d s"):format(requests, seconds))
end)

T.test("two processes with fifty tasks each, on one file: as many token requests as one would make", function(t)
  local process = require "sluice.core.process"
  local program = require "sluice.core.file".target "/proc/self/exe"
  local cache, seconds = T.tmpdir() .. "/shared.json", 7
  local before, asked, most = get "/counts", 0, 0
  task.map({ 1, 2 }, function()
    local child <close> = assert(process.spawn { argv = { program, "run", arg[0]:match "^(.*/)" .. "sharing.lua", url, cache,
      tostring(seconds) }, timeout = 40, out_max = 4096, err_max = 65536 })
    local code = child:wait()
    local stdout, stderr = child:output()
    t.eq(code, 0, stderr)
    local answers, generation = t.match(stdout, "^(%d+)\t(%d+)\n$")
    asked, most = asked + tonumber(answers), math.max(most, tonumber(generation))
  end)
  local after = get "/counts"
  local requests = after.token - before.token
  t.log(("%d answers, %d token requests in %d s"):format(asked, requests, seconds))
  t.eq(after.refused - before.refused, 0)
  t.eq(after.served - before.served, asked)
  t.ok(asked > 100 * 3, asked)
  -- each token of 4 seconds is replaced once by whoever of the two is first, when 2 to 2.2 s of it are gone
  t.ok(requests >= 2 and requests <= seconds // 2 + 1, requests .. " token requests")
  t.ok(most <= requests, "no process had more tokens than there were")
end)

T.test("revoked while two hundred tasks use it: refreshed once for all", function(t)
  local source = client()
  local m = model(source)
  source:get()
  local before = get "/counts"
  -- From now to the end of this second every token is refused, new ones as well.
  local good_from_ms = get "/revoke".good_from
  local sys = require "sluice.core.sys"
  T.until_(function() return sys.wall() * 1000 >= good_from_ms end)
  local state = source:state()
  t.ok(state.state == "fresh" or state.state == "advisory", state.state)
  local advisory = state.state == "advisory" and 1 or 0
  local results = {}
  task.group(function(group)
    for i = 1, 200 do group:spawn(function() results[i] = m:ask("x").text end) end
  end)
  for i = 1, 200 do if results[i] ~= "workflows" then t.eq(results[i], "workflows") end end
  local after = get "/counts"
  local requests = after.token - before.token
  t.ok(requests >= 1 and requests <= 1 + advisory, requests .. " token requests")
  t.ok(after.refused - before.refused >= 1 and after.refused - before.refused <= 200)
end)

T.test("refresh tokens that rotate: in memory, and for eight sources over one file", function(t)
  local cache = T.tmpdir() .. "/tokens.json"
  local first = get "/login".refresh_token
  local function desktop(opts)
    local o = { url = url .. "/token", client_id = "desktop", refresh_token = first, retry = false }
    for key, value in pairs(opts or {}) do o[key] = value end
    return token.oauth(o)
  end
  local alone = desktop { refresh_token = get "/login".refresh_token }
  for generation = 1, 3 do
    local _, g = alone:get()
    t.eq(g, generation)
    T.until_(function() return alone:state().state == "expired" end)
  end

  local before, ended = get "/counts", task.now() + 4
  local sources = {}
  task.group(function(group)
    for i = 1, 8 do
      sources[i] = desktop { cache = cache }
      group:spawn(function()
        while task.now() < ended do
          sources[i]:get() -- a refresh token that is used twice ends the whole grant: this would raise
          task.sleep(0.02)
        end
      end)
    end
  end)
  local requests = get "/counts".token - before.token
  t.ok(requests >= 4 and requests <= 9, requests .. " requests for eight sources in 4 s of tokens that live 1 s")

  local thief = desktop() -- the first one again, without the file
  t.raises({ kind = "auth", code = "invalid_grant" }, thief.get, thief)
end)

T.done()
