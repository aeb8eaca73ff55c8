-- One of the processes that share a cache file, started by client.lua: fifty tasks that ask all the time. Prints
-- how many answers they had; whatever fails ends it.
local sluice = require "sluice"

local url, cache, seconds = arg[1], arg[2], tonumber(arg[3])
local task = sluice.task

local source = sluice.token.oauth { url = url .. "/token", client_id = "workflows", client_secret = "s:e/c%r+e t&=~",
  scope = "llm", cache = cache }
local model = sluice.model { provider = "openai", base_url = url .. "/v1", model = "m", auth = source,
  limit = { concurrency = 50 }, retry = false, breaker = false }

local asked, ended = 0, task.now() + seconds
task.group(function(group)
  for _ = 1, 50 do
    group:spawn(function()
      while task.now() < ended do
        assert(model:ask("x").text == "workflows")
        asked = asked + 1
      end
    end)
  end
end)
local state = source:state()
assert(state.failed == 0, "a refresh failed")
print(asked, state.generation)
