-- timeout: 180
-- No leak: a canary in every kind of secret, and every output of the program searched for it, plain and as
-- base64. The fixture shows errors with all their fields, logs at every level, provokes servers that quote.
local T = require "harness"
local C = require "command"

local FIXTURE = "tests/fixtures/canary.lua"
local BIRD = {}
for i = 1, 24 do
  local at = math.random(36)
  BIRD[i] = ("abcdefghijklmnopqrstuvwxyz0123456789"):sub(at, at)
end
BIRD = table.concat(BIRD)
local PART = 8 -- bytes of it that are a leak already: a message may have been cut in the middle of a secret

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(bytes)
  local out, bits, count = {}, 0, 0
  for c in bytes:gmatch "." do
    bits, count = bits << 8 | c:byte(), count + 8
    while count >= 6 do
      count = count - 6
      local digit = bits >> count & 63
      out[#out + 1] = ALPHABET:sub(digit + 1, digit + 1)
    end
  end
  return table.concat(out)
end

-- Every part of the canary, and of it in base64 behind 0, 1 or 2 bytes of something else (whole groups of it).
local function disguises()
  local forms = { BIRD:upper(), BIRD:reverse() }
  local function parts(text)
    for i = 1, #text - PART + 1 do forms[#forms + 1] = text:sub(i, i + PART - 1) end
  end
  parts(BIRD)
  for shift = 0, 2 do
    local tail = BIRD:sub(shift == 0 and 1 or 4 - shift)
    parts(base64(tail:sub(1, #tail // 3 * 3)))
  end
  forms[#forms + 1] = (BIRD:sub(1, PART):gsub(".", function(c) return ("%02x"):format(c:byte()) end))
  return forms
end

local function search(t, where, text)
  for _, form in ipairs(disguises()) do
    local at = text:find(form, 1, true)
    if at then
      t.ok(false, ("%s: …%s…"):format(where, text:sub(math.max(1, at - 300), at + 60):gsub(BIRD, "<CANARY>")))
    end
  end
  t.ok(true)
end

-- One that is free now.
local function free_port()
  return C.run({ C.sluice, "run", "-e", [[
    local server <close> = require "sluice".server.listen { handler = print }
    io.write(server.port)]] }).stdout
end

local function run(t, options, port)
  local folder = T.tmpdir()
  local argv = { C.sluice, "run" }
  for _, word in ipairs(options) do argv[#argv + 1] = word end
  argv[#argv + 1] = FIXTURE
  local r = C.run(argv, { timeout = T.slow and 150 or 60,
    env = { CANARY = BIRD, CANARY_KEY = BIRD .. "-env", CANARY_FOLDER = folder, HOME = folder,
      CANARY_PORT = port },
    steps = { { expect_stderr = "ready" }, { signal = "USR1" } } })
  t.eq(r.unmet, nil, r.stderr:sub(-2000):gsub(BIRD, "<CANARY>"))
  t.eq(r.code, 1)
  t.match(r.stderr, "the end, with %[redacted%]")
  local failures = tonumber(t.match(r.stdout, "the fixture has seen (%d+) fail"))
  t.ok(failures > 200, "the fixture has lost its failures: " .. failures)
  t.match(r.stdout, "%[redacted%]", "nothing was quoted at all: the servers are not rude any more")
  search(t, "stdout", r.stdout)
  search(t, "stderr", r.stderr)
  return r, folder
end

-- What may be watched while the fixture runs: { name, options, want = patterns of stderr, out = of
-- stdout, files = what they write }. In the options "{}" is a folder, and "{port}" one where the fixture reads
-- what is served. An option this build does not have is skipped, with a word.
local SETS = {
  { "text logs at every level, whole tracebacks", { "-v", "--log-level", "debug" },
    want = { "debug +a token was renewed", "tasks?\n.*task %d+: " } },
  { "JSON logs", { "--log-level", "debug", "--log-format", "json" }, want = { '"level":"debug"' } },
  { "quiet", { "-q" } },
  { "verbose, JSON", { "-v", "--log-format", "json" } },
  { "logs in a file", { "--log-level", "debug", "--log-file", "{}/log" }, files = { "log" } },
  { "a trace", { "--trace", "{}/trace.json" }, files = { "trace.json" } },
  { "a trace as OTLP", { "--trace", "{}/trace.otlp.json" }, files = { "trace.otlp.json" } },
  { "metrics", { "--metrics-file", "{}/metrics.prom" }, files = { "metrics.prom" } },
  { "metrics and tasks over HTTP", { "--metrics", "127.0.0.1:{port}" }, out = { "# TYPE api_", "task %d+" } },
  { "a report", { "--report", "{}/report.html" }, files = { "report.html" } },
}

local HELP = C.run({ C.sluice, "help", "run" }).stdout

for _, set in ipairs(SETS) do
  T.test(set[1], function(t)
    local folder, options, port = T.tmpdir(), {}, nil
    for i, word in ipairs(set[2]) do
      local option = word:match "^%-%-[%l-]+$"
      if option and not HELP:find(option, 1, true) then t.skip("no " .. option .. " in this build") end
      if word:find "{port}" then port = free_port() end
      options[i] = word:gsub("{}", folder):gsub("{port}", port or "")
    end
    local r = run(t, options, port)
    for _, pattern in ipairs(set.out or {}) do t.match(r.stdout, pattern) end
    for _, pattern in ipairs(set.want or {}) do t.match(r.stderr, pattern) end
    for _, name in ipairs(set.files or {}) do
      local text = T.read(folder .. "/" .. name)
      t.ok(#text > 100, name .. " is nearly empty")
      search(t, name, text)
    end
  end)
end

T.test("the shared cache alone holds it, and only for its owner", function(t)
  local _, folder = run(t, { "-q" })
  local listing = io.popen(("find '%s' -type f -printf '%%m %%P\\n' | sort"):format(folder))
  local files = listing:read "a"
  listing:close()
  t.match(files, "600 cache/tokens.json\n")
  t.ok(not files:find "tokens.json%.%w%w%w%w%w%w\n", "a half-written file is left")
  t.match(T.read(folder .. "/cache/tokens.json"), BIRD)
end)

T.test("sluice test: failures, differences, what happened", function(t)
  local path = T.write(T.tmpdir() .. "/rude_test.lua", [[
local sluice = require "sluice"
local key = sluice.secret.literal(os.getenv "CANARY" .. '/"x')
local text = key:reveal()
sluice.test("differs", function(t) t.eq({ a = text, [1] = key }, { a = "x" }) end)
sluice.test("differs where it is cut", function(t) for i = 170, 200, 7 do t.eq(("y"):rep(i) .. text .. ("z"):rep(99), "x") end end)
sluice.test("raises", function() error("with " .. text) end)
sluice.test("raises a table", function() error({ kind = "mine", message = text }) end)
sluice.test(text, function(t) t.skip(text) end)
sluice.test("asks", function(t)
  local m = t.model { { status = 401, text = text }, { err = { kind = "network", message = text } } }
  for _ = 1, 3 do sluice.try(function() return m:ask(text) end) end
  t.ok(false, text)
end)]])
  for _, options in ipairs { {}, { "-v" }, { "--tap", "--log-level", "debug" } } do
    local r = C.run({ C.sluice, "test", path, table.unpack(options) }, { env = { CANARY = BIRD } })
    t.eq(r.code, 3, r.stderr)
    t.match(r.stdout, "%[redacted%]")
    search(t, "stdout", r.stdout)
    search(t, "stderr", r.stderr)
  end
end)

T.test("sluice repl: what is shown of values and errors", function(t)
  local r = C.run({ C.sluice, "repl" }, { env = { CANARY = BIRD, HOME = T.tmpdir() }, timeout = 30, stdin = [[
k = sluice.secret.literal(os.getenv "CANARY")
k
{ k, t = sluice.token.static(k), s = sluice.token.source(function() return k end) }
k .. "x"
error(k:reveal())
error({ message = k:reveal() })
sluice.log.info("x", { y = k:reveal() })
sluice.model { provider = "openai", model = "m", auth = k, base_url = "http://127.0.0.1:1" }
]] })
  if r.stderr:find "neither a command" then t.skip "no repl in this build" end
  search(t, "stdout", r.stdout)
  search(t, "stderr", r.stderr)
end)

T.test("sluice token prints the token and nothing else of it", function(t)
  local folder = T.tmpdir()
  local path = T.write(folder .. "/t.lua", [[
local sluice = require "sluice"
return { good = sluice.token.source { name = "g", fetch = function() return os.getenv "CANARY" end },
  bad = sluice.token.source { name = "b", fetch = function() return os.getenv "CANARY" .. "\nsecond line" end } }]])
  local r = C.run({ C.sluice, "token", "-v", path, "good" }, { env = { CANARY = BIRD } })
  t.eq(r.stdout, BIRD .. "\n")
  search(t, "stderr", r.stderr)
  r = C.run({ C.sluice, "token", "-v", path, "bad" }, { env = { CANARY = BIRD } })
  t.eq(r.code, 4)
  search(t, "stdout", r.stdout)
  search(t, "stderr", r.stderr)
end)

T.done()
