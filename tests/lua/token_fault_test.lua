-- Shortage of memory under tokens, secrets and child processes: the first, second, third … allocation fails.
-- Nobody waits for ever, nothing is left behind, and the next one who asks is served.
-- timeout: 180
-- modes: asan
local T = require "harness"
local sluice = require "sluice"
local memory_sweep = require "fault_sweep"
local process = require "sluice.core.process"
local tokens = require "sluice.core.token"

local task = sluice.task

sluice.log.configure { level = "error", write = function() end }

-- The failure under test may come out by another way, when its own found no memory.
local function sweep(name, scenario, after)
  memory_sweep(name, scenario, after, { seconds = 5, also = "auth" })
end

sweep("a token that four tasks wait for", function()
  local token = tokens.new("the token t", function()
    task.sleep(0)
    return { "value" }, 60
  end)
  local group = { function() return token:get() end }
  for i = 2, 4 do group[i] = group[1] end
  task.all(group)
end)

sweep("a refresh that fails", function()
  local token = tokens.new("the token t", function()
    task.sleep(0)
    return nil, sluice.errors.new { kind = "auth", message = "no" }, true
  end)
  local ok, err = pcall(task.all, { function() token:get() end, function() token:get() end })
  if not ok and not sluice.errors.is(err, "auth") then error(err, 0) end
end)

sweep("a token that has ended when it comes", function()
  local token = tokens.new("the token t", function() return "value", 0 end)
  local ok, err = pcall(token.get, token)
  if not ok and not sluice.errors.is(err, "auth") then error(err, 0) end
end)

sweep("sluice.token.source", function()
  local token = sluice.token.source { name = "s", fetch = function() return "value", { expires_in = 60 } end }
  token:get()
  token:bearer()
end)

sweep("secrets", function()
  local secret = sluice.secret.literal "some secret"
  local live = require "sluice.core.secret".live("l", { get = function() return secret, 1 end })
  sluice.secret.prefixed("Bearer ", sluice.secret.current(live))
  assert(live:reveal() == "some secret")
  require "sluice.core.secret".basic("b", "id", live, true)
  assert(sluice.secret.scrub "x some secret y" == "x [redacted] y")
end)

sweep("a child process", function()
  local child = process.spawn { argv = { "cat" }, env = { A = sluice.secret.literal "a secret", B = false }, input = "text" }
  local guard <close> = child -- luacheck: ignore 211
  child:wait()
  assert(child:output() == "text")
end, function(t)
  T.until_(function() return process.count() == 0 end)
  t.ok(true)
end)

T.done()
