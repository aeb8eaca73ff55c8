-- What sluice must make of a provider behind nginx: the embedded mock is the provider. Run by ./run.
package.path = arg[0]:match "^(.*/)" .. "../../lua/?.lua;" .. package.path
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"

local task = sluice.task

local CONF = [[
daemon off; master_process off; pid DIR/pid; error_log DIR/error.log warn;
events { worker_connections 512; }
http {
  access_log off; default_type text/plain;
  client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi;
  uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
  proxy_http_version 1.1; proxy_set_header Connection "";
  server {
    listen 127.0.0.1:PORT; keepalive_requests 3;
    gzip on; gzip_types application/json; gzip_min_length 20;
    location = /up { return 200 "up"; }
    location /direct/ { proxy_pass UPSTREAM/; proxy_buffering off; }
    location /buffered/ { proxy_pass UPSTREAM/; }
    location /slow/ { proxy_pass UPSTREAM/; proxy_buffering off; proxy_read_timeout 1s; }
    location /small/ { proxy_pass UPSTREAM/; client_max_body_size 1k; }
    location /gone/ { proxy_pass http://127.0.0.1:NOBODY/; }
    location /moved/ { return 308 https://elsewhere.example/v1/; }
    location /limited/ { return 429 "slow down"; }
  }
}
]]

local function free_port()
  local server <close> = sluice.server.listen { handler = print }
  return server.port
end

--- nginx before a provider with this scenario; both end with the group.
local function behind(scenario)
  local provider = mock.start { pace = 0, scenario = scenario }
  local dir, port, nobody = T.tmpdir(), free_port(), free_port()
  local conf = CONF:gsub("%u%u%u+", { DIR = dir, PORT = port, UPSTREAM = provider.url, NOBODY = nobody })
  T.write(dir .. "/nginx.conf", conf)
  local nginx = sluice.process.stream { "nginx", "-p", dir, "-e", dir .. "/error.log", "-c", dir .. "/nginx.conf",
    check = false, stderr = "capture" }
  local url = ("http://127.0.0.1:%d"):format(port)
  T.until_(function() return pcall(sluice.http.request, { url = url .. "/up" }) end, 10)
  return url, nginx, provider
end

local function model(url, place, more)
  local opts = { provider = "openai", model = "m", base_url = url .. place .. "v1", auth = "k", retry = false,
    breaker = false }
  for key, value in pairs(more or {}) do opts[key] = value end
  if opts.provider == "anthropic" then opts.base_url = url .. place:gsub("/$", "") end
  return sluice.model(opts)
end

local TEXT = ("Grüß dich, 你好. "):rep(40)

T.test("answers and streams, over both protocols, buffered or not, zipped where they can be", function(t)
  task.group(function()
    local url, nginx, provider = behind { { text = TEXT } } -- luacheck: ignore 211
    for _, place in ipairs { "/direct/", "/buffered/" } do
      for _, provider_name in ipairs { "openai", "anthropic" } do
        local m = model(url, place, { provider = provider_name })
        t.eq(m:ask("q").text, TEXT, place .. provider_name)
        local stream <close> = m:stream "q"
        local pieces = {}
        for text in stream:text() do pieces[#pieces + 1] = text end
        t.eq(table.concat(pieces), TEXT)
        t.eq({ stream:reply().finish_reason, stream:reply().usage.output_tokens > 0 }, { "stop", true })
      end
    end
  end)
end)

T.test("connections that end after three requests: no request is lost, none is sent twice", function(t)
  task.group(function()
    local url, nginx, provider = behind { { text = "fine" } } -- luacheck: ignore 211
    local m, list = model(url, "/direct/", { limit = { concurrency = 10 } }), {}
    for i = 1, 200 do list[i] = i end
    local replies = task.map(list, function(i)
      if i % 2 == 0 then return m:ask "q" end
      return m:stream "q":reply()
    end, { concurrency = 10 })
    for _, reply in ipairs(replies) do t.eq({ reply.text, #reply.attempts }, { "fine", 1 }) end
    t.eq(provider:stats().requests, 200)
  end)
end)

T.test("a stream comes as it is made, and one that is left is closed at the provider, too", function(t)
  task.group(function()
    local url, nginx, provider = -- luacheck: ignore 211
      behind { { text = ("word "):rep(200), gap = 0.02, first_token = 0 } }
    local m, began = model(url, "/direct/"), task.now()
    local n = 0
    for _ in m:stream("q"):text() do
      n = n + 1
      if n == 5 then break end
    end
    t.ok(task.now() - began < 3, "the first words came before the last were made")
    T.until_(function() return provider:stats().streams_open == 0 end, 5)
  end)
end)

T.test("what nginx itself says", function(t)
  task.group(function()
    local url, nginx, provider = -- luacheck: ignore 211
      behind { { model = "slow", first_token = 5 }, { model = "stalls", stall_after = 3, text = ("word "):rep(20) }, { text = "fine" } }
    local function fails(m, how, prompt)
      local _, err = sluice.try(m[how], m, prompt or "q")
      return err
    end
    for _, how in ipairs { "ask", "stream" } do
      local err = fails(model(url, "/gone/"), how)
      t.eq({ err.kind, err.status }, { "server", 502 }, how)
      t.ok(not err.message:find "<", err.message)
      err = fails(model(url, "/slow/", { model = "slow", timeout = { first_token = 10 } }), how)
      -- the headers of a stream have gone through by then: all nginx can do is to break it off
      t.eq({ err.kind, err.status or err.phase }, how == "ask" and { "server", 504 } or { "network", "body" }, tostring(err))
      err = fails(model(url, "/small/"), how, ("x"):rep(5000))
      t.eq({ err.kind, err.status }, { "invalid", 413 }, tostring(err))
      err = fails(model(url, "/moved/"), how)
      t.eq({ err.kind, err.code, err.message:find "elsewhere%.example" ~= nil }, { "invalid", "redirect", true })
      err = fails(model(url, "/limited/"), how)
      t.eq({ err.kind, err.status, err.message:find "slow down" ~= nil }, { "rate_limited", 429, true })
    end
    -- an upstream that falls silent: nginx closes the connection, and that is no end of an answer
    local got = {}
    local err = t.raises("interrupted", function()
      for text in model(url, "/slow/", { model = "stalls" }):stream("q"):text() do got[#got + 1] = text end
    end)
    t.eq(err.partial, table.concat(got))
    t.ok(#err.partial > 0)
  end)
end)

T.test("nginx ends in mid-stream: interrupted, with what came", function(t)
  task.group(function()
    local url, nginx, provider = -- luacheck: ignore 211
      behind { { text = ("word "):rep(500), gap = 0.01, first_token = 0 } }
    local got = {}
    local err = t.raises("interrupted", function()
      for text in model(url, "/direct/"):stream("q"):text() do
        got[#got + 1] = text
        if #got == 10 then nginx:signal "KILL" end
      end
    end)
    t.eq(err.partial, table.concat(got))
    t.ok(#got >= 10)
  end)
end)

T.done()
