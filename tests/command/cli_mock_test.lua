-- run --mock: the provider is started before the script, with what the options say, and models are
-- sent to it. Stand-ins under --lib record how they were called; the last test uses the real ones.
local T = require "harness"
local C = require "command"

local QUICK = "tests/fixtures/quick.lua"

local lib = T.tmpdir()
assert(os.execute(("mkdir -p '%s/sluice'"):format(lib)))
T.write(lib .. "/sluice/mock.lua", [[
local mock = {}
function mock.start(options)
  if options.scenario == "broken.lua" then error("broken.lua:3: unknown fault 'cutt'", 0) end
  mock.options = options
  return { url = "http://127.0.0.1:4321" }
end
return mock
]])
T.write(lib .. "/sluice/model.lua", [[
local model = {}
function model.use_mock(url) model.url = url end
return model
]])

local function run(...)
  local words = { C.sluice, "run", "--lib", lib, ... }
  words[#words + 1], words[#words + 2] = "-e", [[
    local o = require "sluice.mock".options
    print(o and o.scenario, o and o.seed, o and o.service, require "sluice.model".url)]]
  return C.run(words)
end

local NOTICE = "sluice: mock provider at http://127.0.0.1:4321; no request leaves this machine\n"

T.test("--mock starts the provider and sends the models there", function(t)
  local r = run "--mock"
  t.eq(r.stdout, "nil\tnil\ttrue\thttp://127.0.0.1:4321\n")
  t.eq(r.stderr, NOTICE)
  t.eq(r.code, 0)
end)

T.test("--mock=SCENARIO, --seed, --quiet", function(t)
  local r = run("--mock=outage.lua", "--seed", "7", "-q")
  t.eq(r.stdout, "outage.lua\t7\ttrue\thttp://127.0.0.1:4321\n")
  t.eq(r.stderr, "")
end)

T.test("without it nothing is started", function(t)
  t.eq(run().stdout, "nil\tnil\tnil\tnil\n")
end)

T.test("a provider that does not start is no error of the script", function(t)
  local r = run "--mock=broken.lua"
  t.eq(r.code, 4)
  t.eq(r.stdout, "")
  t.eq(r.stderr, "sluice: cannot start the mock provider: broken.lua:3: unknown fault 'cutt'\n")
end)

T.test("the embedded provider answers a model that has no key", function(t)
  if C.run({ C.sluice, "-e", "require 'sluice.mock'" }).code ~= 0 then t.skip "this build has no sluice.mock" end
  local folder = T.tmpdir()
  T.write(folder .. "/scenario.lua", "return { { text = 'from the scenario' } }")
  local code = "print(require 'sluice'.model('openai/gpt-x'):ask('q').text)"
  local r = C.run({ C.sluice, "--mock=scenario.lua", "-e", code }, { cwd = folder, env = { OPENAI_API_KEY = false } })
  t.match(r.stderr, "^sluice: mock provider at http://127%.0%.0%.1:%d+; no request leaves this machine\nsluice: timeline of 1 call")
  t.eq(r.stdout, "from the scenario\n")
  t.eq(r.code, 0)
  T.write(folder .. "/scenario.lua", "return { { nosuch = 1 } }")
  r = C.run({ C.sluice, "--mock=scenario.lua", "-e", code }, { cwd = folder })
  t.eq(r.code, 4)
  t.match(r.stderr, "^sluice: cannot start the mock provider: scenario scenario%.lua, rule 1: [^\n]*nosuch[^\n]*\n$")
end)

T.test("out of descriptors: failures, and no crash; at the usual soft limit there are enough", function(t)
  local path = T.tmpdir() .. "/many.lua"
  T.write(path, [[
local task = require "sluice".task
local model = require "sluice".model { provider = "openai", model = "mock", limit = { concurrency = 700 }, retry = { attempts = 1 },
  timeout = { first_token = tonumber(arg[1]) } }
local list = {}
for i = 1, 700 do list[i] = i end
local failed = 0
for _, r in ipairs(task.map(list, function() return model:stream "Hi":reply() end, { concurrency = 700, settle = true })) do
  if not r.ok then failed = failed + 1 end
end
print(failed > 0)]])
  -- those that nobody has a descriptor left to accept are waited for as long as first_token says
  for limit, case in pairs { ["-n 40"] = { 4, "true\n" }, ["-Sn 1024"] = { 30, "false\n" } } do
    local r = C.run({ "sh", "-c", ("ulimit %s && exec '%s' run -q --mock='%s' '%s' %d"):format(limit, C.sluice, QUICK, path,
      case[1]) }, { timeout = 50 })
    t.eq({ r.code, r.signal, r.stdout }, { 0, nil, case[2] }, limit .. r.stderr)
  end
end)

T.done()
