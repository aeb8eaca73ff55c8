-- timeout: 180
-- No leak: a canary in every kind of secret, and every output of the program searched for it, plain and as
-- base64. The fixture shows errors with all their fields, logs at every level, provokes servers that quote.
local T = require "harness"
local C = require "command"

local FIXTURE = "tests/fixtures/canary.lua"
local BIRD = ("kanarienvogel%08x"):format(math.random(0, 0xffffffff))

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

-- The canary as it stands in base64, behind 0, 1 or 2 bytes of something else (whole groups of it).
local function disguises()
  local forms = { BIRD, BIRD:upper(), BIRD:reverse() }
  for shift = 0, 2 do
    local tail = BIRD:sub(shift == 0 and 1 or 4 - shift)
    forms[#forms + 1] = base64(tail:sub(1, #tail // 3 * 3))
  end
  forms[#forms + 1] = (BIRD:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
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

local function run(t, options, extra)
  local folder = T.tmpdir()
  local argv = { C.sluice, "run" }
  for _, word in ipairs(options) do argv[#argv + 1] = word end
  argv[#argv + 1] = FIXTURE
  local r = C.run(argv, { timeout = T.slow and 150 or 60,
    env = { CANARY = BIRD, CANARY_KEY = BIRD .. "-env", CANARY_FOLDER = folder, HOME = folder },
    steps = { { expect_stderr = "ready" }, { signal = "USR1" } } })
  t.eq(r.unmet, nil, r.stderr:sub(-2000):gsub(BIRD, "<CANARY>"))
  t.eq(r.code, 1)
  t.match(r.stderr, "the end, with %[redacted%]")
  local failures = tonumber(t.match(r.stdout, "the fixture has seen (%d+) fail"))
  t.ok(failures > 200, "the fixture has lost its failures: " .. failures)
  t.match(r.stdout, "%[redacted%]", "nothing was quoted at all: the servers are not rude any more")
  search(t, "stdout", r.stdout)
  search(t, "stderr", r.stderr)
  for _, path in ipairs(extra or {}) do search(t, path, T.read(folder .. "/" .. path)) end
  return r, folder
end

T.test("the disguises are found", function(t)
  local forms = disguises()
  for _, prefix in ipairs { "", "x", "me:", "ab", "user:" } do
    local text, found = base64(prefix .. BIRD .. "-client!"), false
    for _, form in ipairs(forms) do found = found or text:find(form, 1, true) ~= nil end
    t.ok(found, prefix)
  end
end)

T.test("text logs at every level, whole tracebacks", function(t)
  local r = run(t, { "-v", "--log-level", "debug" })
  t.match(r.stderr, "debug +a token was renewed")
  t.match(r.stderr, "tasks?\n.*task %d+: ")
end)

T.test("JSON logs", function(t)
  local r = run(t, { "--log-level", "debug", "--log-format", "json" })
  t.match(r.stderr, '"level":"debug"')
end)

T.test("metrics and traces, where this build has them", function(t)
  local help = C.run({ C.sluice, "help", "run" }).stdout
  if not help:find("--trace", 1, true) then t.skip "no --trace in this build" end
  local folder = T.tmpdir()
  run(t, { "-q", "--trace", folder .. "/trace" })
  search(t, "trace", T.read(folder .. "/trace"))
end)

T.test("the shared cache alone holds it, and only for its owner", function(t)
  local _, folder = run(t, { "-q" })
  local listing = io.popen(("find '%s' -type f -printf '%%m %%P\\n' | sort"):format(folder))
  local files = listing:read "a"
  listing:close()
  t.match(files, "600 cache/tokens.json\n")
  t.ok(not files:find "tokens.json%.%w%w%w%w%w%w\n", "a half-written file is left")
  t.match(T.read(folder .. "/cache/tokens.json"), BIRD)
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
