-- A provider that goes down and comes back, with every default as it is: no hammering meanwhile, no answer
-- missed, and back within 30 s of recovery.
local sluice = require "sluice"
local test, task = sluice.test, sluice.task

-- A provider that is down from `from` to `to`, a chain over it, and a call a second for `seconds`.
local function outage(t, from, to, seconds, answer)
  local big = t.model { function()
    return t.clock() >= from and t.clock() < to and answer or { text = "big" }
  end, name = "big", retry = {} }
  local chain = sluice.fallback { big, function() return "canned" end }
  local log = {}
  while t.clock() < seconds do
    local started = t.clock()
    local reply = chain:ask "x"
    log[#log + 1] = { at = started, text = reply.text, took = t.clock() - started, state = big.breaker:state(),
      why = reply.degraded and reply.degraded.why }
    task.sleep(1)
  end
  return log, big
end

local function first(log, from, text)
  for _, entry in ipairs(log) do
    if entry.at >= from and entry.text == text then return entry.at end
  end
end

for name, answer in pairs { ["503"] = { err = "overloaded" }, ["500"] = { err = "server" }, reset = { err = "network" } } do
  test("down for a minute, " .. name .. ": opens, probes, closes within 30 s of recovery", function(t)
    local log, big = outage(t, 10, 70, 180, answer)
    local back = first(log, 70, "big")
    t.ok(back and back <= 100, back)
    t.eq(log[#log].state, "closed")
    for _, entry in ipairs(log) do
      t.ok(entry.text == "big" or entry.text == "canned")
      if entry.at < 10 or entry.at > back then t.eq({ entry.text, entry.state }, { "big", "closed" }) end
    end
    -- while it was down: five failures, then one probe at a time, further and further apart
    local during = 0
    for _, at in ipairs(big.times) do during = during + (at >= 10 and at < 70 and 1 or 0) end
    t.ok(during >= 6 and during <= 9, during)
  end)
end

test("a silent minute: after the first timeouts the calls cost no time", function(t)
  local log = outage(t, 10, 190, 400, { err = "timeout" })
  local slow, open = 0, 0
  for _, entry in ipairs(log) do
    if entry.took >= 29 then slow = slow + 1 end
    if entry.state == "open" and entry.why == "circuit_open" then
      open = open + 1
      t.eq(entry.took, 0)
    end
  end
  t.ok(slow >= 5 and slow <= 9, slow) -- five failures in a row, then probes
  t.ok(open >= 10, open)
  t.eq(log[#log].text, "big")
end)

test("a 429 is no outage: the breaker stays closed, the gate keeps to Retry-After", function(t)
  local log, big = outage(t, 10, 70, 120, { status = 429, retry_after = 8 })
  for _, entry in ipairs(log) do t.eq(entry.state, "closed") end
  local last
  for _, at in ipairs(big.times) do
    if at >= 10 and at < 70 then
      t.ok(not last or at - last >= 8, last and at - last)
      last = at
    end
  end
  t.ok(first(log, 70, "big") <= 80)
end)

test("a breaker that was opened by hand: nobody is asked until it is closed by hand", function(t)
  local big = t.model { { text = "big" }, name = "big" }
  local chain = sluice.fallback { big, function() return "canned" end }
  big.breaker:open()
  for _ = 1, 5 do
    t.eq(chain:ask("x").degraded.why, "circuit_open")
    task.sleep(3600)
  end
  t.eq(big.calls, 0)
  big.breaker:close()
  t.eq({ chain:ask("x").text, big.calls }, { "big", 1 })
end)
