-- Thousands of streams at once against the mock, in one process: all answered, nothing left behind.
-- timeout: 120
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"
local core = require "sluice.core.task"

local http, task = sluice.http, sluice.task

local STREAMS = T.slow and 500 or 2000

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

local function open(provider, i)
  local messages = { { role = "user", content = "number " .. i .. " says hello" } }
  return http.stream { url = provider.url .. "/v1/chat/completions",
    json = { model = "echo", stream = true, messages = messages } }
end

T.test("many streams, all open at the same time, all whole", function(t)
  local everybody = task.channel(STREAMS)
  local provider <close> = mock.start { pace = 0, scenario = { { first_token = 0.5, gap = 0.02 } } }
  local most = 0
  local texts = task.map(numbers(STREAMS), function(i)
    local stream <close> = open(provider, i)
    everybody:send(i)
    local parts = {}
    for event in stream:events() do
      parts[#parts + 1] = event.data:match '"content":"(.-)"'
      most = math.max(most, provider:stats().streams_open)
    end
    return table.concat(parts)
  end, { concurrency = STREAMS })
  for i, text in ipairs(texts) do
    if text ~= "number " .. i .. " says hello" then t.eq(text, "number " .. i .. " says hello") end
  end
  t.eq(#texts, STREAMS)
  t.ok(most > STREAMS // 2, most .. " open at once")
  T.until_(function() return provider:stats().streams_open == 0 end)
  t.eq(provider:stats().finished, STREAMS)
end)

T.test("clients that leave in the middle leave nothing behind", function(t)
  local provider <close> = mock.start { pace = 0, scenario = { { stall_after = 1 } } }
  local before = core.census()
  local n = STREAMS // 2
  task.map(numbers(n), function(i)
    local stream <close> = open(provider, i)
    local next_event = stream:events()
    repeat local event = next_event(stream) until not event or event.data:find "number"
  end, { concurrency = 200 })
  T.until_(function() return provider:stats().streams_open == 0 end)
  t.eq(provider:stats().client_gone, n)
  T.until_(function() return core.census().tasks <= before.tasks end, 5, "the handlers' end")
  t.eq(core.census().transfers, before.transfers)
end)

T.test("streams are cut off together when the server closes", function(t)
  local provider = mock.start { pace = 0, scenario = { { stall_after = 1 } } }
  local n = STREAMS // 4
  local broken, n_events = 0, 0
  task.group(function(g)
    for i = 1, n do
      g:spawn(function()
        local ok, err = pcall(function()
          local stream <close> = open(provider, i)
          local next_event = stream:events()
          while next_event(stream) do n_events = n_events + 1 end
        end)
        if not ok and err.kind == "network" then broken = broken + 1 end
      end)
    end
    T.until_(function() return n_events == 2 * n end, 20) -- the role and a token each
    provider:close()
  end)
  t.eq({ broken, n_events }, { n, 2 * n })
  T.until_(function() return provider:stats().streams_open == 0 end)
  t.eq(provider:stats().closed, n)
end)

T.done()
