-- --metrics and --metrics-file as an operator uses them: asked from outside while the script runs, on
-- exit, after a failure and a signal; and what happens when they cannot be had.
local T, C = require "harness", require "command"
local page_of = require "metrics_page"

local ASK = [[
local m = require "sluice".model "openai/x"
m:ask "one"
]]

local function run(words, opts)
  local argv = { C.sluice, "run", "-q", "--mock=tests/fixtures/quick.lua" }
  table.move(words, 1, #words, #argv + 1, argv)
  return C.run(argv, opts or {})
end

-- Script text that fetches pages of `port` and prints them, each behind a line with its name.
local FETCH = [[
local sluice = require "sluice"
local function fetch(path, headers, method)
  local r = sluice.http.request { url = "http://127.0.0.1:" .. arg[1] .. path, headers = headers, method = method }
  return r
end
]]

local function free_port()
  -- a port nobody listens on: the system names it, and it is free again
  local r = C.run { C.sluice, "run", "-e",
    "local s <close> = require 'sluice'.server.listen { handler = print } print(s.port)" }
  return r.stdout:match "%d+"
end

T.test("port 0 prints where, and the pages are there while the script runs", function(t)
  local script = T.tmpdir() .. "/s.lua"
  T.write(script, FETCH .. [[
    local m = sluice.model "openai/x"
    m:ask "one"
    local r = fetch "/metrics"
    io.write(r.status, " ", r.headers["content-type"], "\n", r.body)
  ]])
  local port = free_port()
  local r = run { "--metrics", "127.0.0.1:" .. port, script, port }
  t.eq(r.code, 0, r.stderr)
  local head, body = r.stdout:match "^([^\n]*)\n(.*)$"
  t.eq(head, "200 text/plain; version=0.0.4; charset=utf-8")
  local page = page_of(body)
  t.eq(page.problems, {})
  t.eq(page.api_request_duration_seconds_count['model="x",outcome="ok",provider="openai"'], 1)
  local anywhere = C.run { C.sluice, "run", "--metrics", "0", "-e", "print 'x'" }
  t.match(anywhere.stderr, "^sluice: metrics at http://127.0.0.1:%d+/metrics\n$")
  t.eq(C.run { C.sluice, "run", "-q", "--metrics", "0", "-e", "print 'x'" }.stderr, "")
end)

T.test("the form follows Accept", function(t)
  local script = T.tmpdir() .. "/s.lua"
  T.write(script, FETCH .. [[
    local accepts = {
      "*/*", "text/html", "application/openmetrics-text", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
      "application/openmetrics-text; version=\"1.0.0\"", "application/openmetrics-text;version=0.0.1,text/plain;q=0.1",
      "application/openmetrics-text;q=0.2, text/plain;q=0.5", "application/openmetrics-text;q=0",
      "text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.1",
      "application/*", "garbage,,;;=", "TEXT/PLAIN;Q=0.1,Application/OpenMetrics-Text",
    }
    for _, accept in ipairs(accepts) do
      local r = fetch("/metrics", { Accept = accept })
      local open = r.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
      assert(open == (r.body:sub(-6) == "# EOF\n"))
      io.write(open and "o" or "t")
    end
  ]])
  local port = free_port()
  local r = run { "--metrics", port, script, port }
  t.eq({ r.code, r.stdout }, { 0, "ttoootttooto" }, r.stderr)
end)

T.test("health, tasks, what is not there, what may not be done", function(t)
  local script = T.tmpdir() .. "/s.lua"
  T.write(script, FETCH .. [[
    local function show(path, method, body)
      local r = sluice.http.request { url = "http://127.0.0.1:" .. arg[1] .. path, method = method, body = body }
      print(r.status, r.headers.allow or "-", (r.body:match "^[^\n]*"))
    end
    show "/healthz"
    show "/"
    show "/metrics/"
    show("/metrics", "POST", "x")
    show("/metrics", "HEAD")
    sluice.task.group(function(g)
      g:spawn(function() sluice.model "openai/x":ask "hello" end)
      sluice.task.yield()
      local body = sluice.http.request { url = "http://127.0.0.1:" .. arg[1] .. "/debug/tasks" }.body
      print(body:match "waiting on POST [^\n]*s%.lua:%d+", body:match "(%d+ tasks)\n" ~= nil, body:find "hello")
    end)
  ]])
  local port = free_port()
  local r = run { "--metrics", "localhost:" .. port, script, port }
  t.eq(r.code, 0, r.stderr)
  local lines = {}
  for line in r.stdout:gmatch "[^\n]+" do lines[#lines + 1] = line end
  t.eq(lines[1], "200\t-\tok")
  t.match(lines[2], "^200\t%-\t/metrics ")
  t.match(lines[3], "^404\t%-\tno such page")
  t.match(lines[4], "^413\t") -- no page takes a body
  t.match(lines[5], "^200\t%-\t")
  t.match(lines[6], "^waiting on POST http://127.0.0.1:%d+/v1/chat/completions .*s%.lua:%d+\ttrue\tnil$")
end)

T.test("it keeps no script alive, and ends with it", function(t)
  local port = free_port()
  local r = run({ "--metrics", port, "-e", "print 'done'" }, { timeout = 10 })
  t.eq({ r.code, r.stdout, r.stderr }, { 0, "done\n", "" })
end)

T.test("a port that is taken", function(t)
  local port = free_port()
  local first <close> = C.start { C.sluice, "run", "--metrics", port, "-e",
    "print 'up' io.stdout:flush() require 'sluice'.task.sleep(600)" }
  first:expect "up"
  local r = run { "--metrics", "127.0.0.1:" .. port, "-e", "print 'ran'" }
  t.eq({ r.code, r.stdout }, { 4, "" })
  t.match(r.stderr, "^sluice: cannot serve metrics: .*cannot listen on 127%.0%.0%.1 port %d+: Address already in use")
  t.match(r.stderr, "another program has this port")
end)

T.test("addresses that are none are refused before the script runs", function(t)
  for _, bad in ipairs { "nonsense", "127.0.0.1", "1.2.3.4:99999", ":", "a:b", "::1:80" } do
    local r = C.run { C.sluice, "run", "--metrics", bad, "-e", "print 'ran'" }
    t.eq({ r.code, r.stdout }, { 2, "" }, bad)
    t.match(r.stderr, "%-%-metrics takes ADDR:PORT, such as 127.0.0.1:9464, or a port alone, got '[^']*'; see", bad)
  end
  local r = C.run { C.sluice, "run", "--metric", "0", "-e", "print 'ran'" }
  t.eq(r.code, 2)
  t.match(r.stderr, "did you mean '%-%-metrics'")
end)

-- The file -------------------------------------------------------------------------------------------

local function file_after(t, words, opts)
  local path = T.tmpdir() .. "/job.prom"
  local argv = { "--metrics-file", path }
  table.move(words, 1, #words, 3, argv)
  opts = opts or {}
  opts.env = { JOB = path }
  local r = run(argv, opts)
  local page = page_of(T.read(path))
  t.eq(page.problems, {})
  return page, r, path
end

local OK = 'model="x",outcome="ok",provider="openai"'

T.test("the file is there at the end, whole, readable, and nothing beside it", function(t)
  local page, r, path = file_after(t, { "-e", ASK })
  t.eq({ r.code, r.stderr }, { 0, "" })
  t.eq(page.api_request_duration_seconds_count[OK], 1)
  local list <close> = io.popen("umask; ls -l '" .. path:match "^(.*)/" .. "'")
  local listing = list:read "a"
  -- others may read it, unless the user's umask says no
  if listing:find "^0022" then t.match(listing, "%-rw%-r%-%-r%-%- .* job%.prom\n") end
  t.eq(select(2, listing:gsub("job%.prom", "")), 1)
end)

T.test("also when the script raises, is interrupted, or returns a code", function(t)
  local page, r = file_after(t, { "-e", ASK .. "error 'no'" })
  t.eq({ r.code, page.api_request_duration_seconds_count[OK] }, { 1, 1 })
  page, r = file_after(t, { "-e", ASK .. "return 3" })
  t.eq({ r.code, page.api_request_duration_seconds_count[OK] }, { 3, 1 })
  page, r = file_after(t, { "-e", ASK .. "print 'now' io.stdout:flush() require 'sluice'.task.sleep(60)" },
    { steps = { { expect = "now" }, { signal = "INT" } } })
  t.eq({ r.code, page.api_request_duration_seconds_count[OK] }, { 130, 1 })
  page, r = file_after(t, { "--timeout", "1.5", "-e", ASK .. "require 'sluice'.task.sleep(60)" })
  t.eq({ r.code, page.api_request_duration_seconds_count[OK] }, { 124, 1 })
end)

T.test("it is written while the script runs", function(t)
  local _, r = file_after(t, { "-e", ASK .. [[
    local sluice = require "sluice"
    local first = io.open(os.getenv "JOB"):read "a"
    assert(first:find "sluice_build_info" and not first:find "api_request")
    sluice.task.deadline(30, function()
      while not io.open(os.getenv "JOB"):read "a":find "api_request_duration_seconds_count" do sluice.task.sleep(0.05) end
    end)
    print "written"
  ]] })
  t.eq({ r.code, r.stdout }, { 0, "written\n" }, r.stderr)
end)

T.test("a file that cannot be written", function(t)
  local r = C.run { C.sluice, "run", "--metrics-file", "/nonexistent/job.prom", "-e", "print 'ran'" }
  t.eq({ r.code, r.stdout }, { 4, "" })
  t.match(r.stderr, "cannot write the metrics: /nonexistent/job%.prom.*No such file or directory")
end)

T.test("docs/metrics.md: the blocks of Lua run, the options exist", function(t)
  local text, blocks = T.read "docs/metrics.md", 0
  local help = C.run { C.sluice, "help", "run" }.stdout
  for block in text:gmatch "```lua\n(.-)```" do
    local r = C.run { C.sluice, "run", "-e", block .. "\nprint(sluice.metrics.text())" }
    t.eq(r.code, 0, r.stderr)
    t.match(r.stdout, 'pages_total{kind="faq"} 5\n')
    blocks = blocks + 1
  end
  t.eq(blocks, 1)
  for option in text:gmatch "sluice run (%-%-[%w-]+)" do t.match(help, "\n +" .. option:gsub("%p", "%%%0") .. " ") end
end)

T.done()
