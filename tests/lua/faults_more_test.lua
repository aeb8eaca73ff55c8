-- timeout: 120
-- Nastier faults, over real sockets: many calls at once, things that happen in the same moment, replies
-- that lie. Each call ends in the whole answer, a degraded one that says so, or a clear error; nothing is
-- asked more often than it must be, and nothing is left open.
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"

local task = sluice.task
local SCALE = T.slow and 4 or 1
local ANSWER, OTHER = "the whole answer of the primary", "the answer of the fallback"

local function provider(rules, text)
  local scenario = {}
  for i, rule in ipairs(rules) do scenario[i] = rule end
  scenario[#scenario + 1] = { text = text }
  return mock.start { pace = 0, scenario = scenario }
end

local function model(of, name, more)
  local opts = { provider = "openai", model = name, base_url = of.url .. "/v1", auth = "key-of-" .. name,
    retry = { base = 0.01, cap = 0.05 },
    timeout = { connect = 2 * SCALE, first_token = 0.5 * SCALE, idle = 0.5 * SCALE, total = 20 * SCALE } }
  for key, value in pairs(more or {}) do opts[key] = value end
  return sluice.model(opts)
end

local function range(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

local function bounded(name, f)
  T.test(name, function(t) task.deadline(25 * SCALE, f, t) end)
end

local function requests(of) return of:stats().requests end

local function replies(text)
  return { model = "m", choices = { { index = 0, finish_reason = "stop", message = { role = "assistant",
    content = text } } }, usage = { prompt_tokens = 1, completion_tokens = 1 } }
end

local function chunk(text, finish)
  return sluice.json.encode { id = "c", object = "chat.completion.chunk", model = "m",
    choices = { { index = 0, delta = { content = text }, finish_reason = finish } } }
end

local function quiet(f)
  sluice.log.configure { write = function() end }
  local ok, err = pcall(f)
  sluice.log.configure { write = false }
  if not ok then error(err, 0) end
end

-- Rules ----------------------------------------------------------------------------------------------------

bounded("rules edited three times while fifty calls are in flight, one edit of them broken", function(t)
  local gate, waiting = task.semaphore(1000), 0
  for _ = 1, 1000 do gate:acquire() end
  local server <close> = sluice.server.listen { handler = function(_, res)
    waiting = waiting + 1
    gate:acquire()
    res:json(200, replies "big")
  end }
  local path = T.tmpdir() .. "/rules.lua"
  local function edit(version, broken)
    T.write(path .. ".new", ([[
local sluice = require "sluice"
local big = sluice.model { provider = "openai", model = "m", base_url = %q, auth = "k", limit = { concurrency = 100 } }
return sluice.fallback { { big, check = function() return %s end, name = "v%d" }, name = "v%d" } %s]])
      :format(server.url .. "/v1", "true", version, version, broken and "}" or ""))
    assert(os.rename(path .. ".new", path))
  end
  edit(1)
  local rules = sluice.rules(path)
  local function wave(group, into, from, to, expected)
    for i = from, to do
      group:spawn(function()
        local whole = i % 2 == 0 and rules:ask "x" or rules:stream("x"):reply()
        into[i] = { whole.text, whole.attempts[1].name }
      end)
    end
    T.until_(function() return waiting == expected end, 10, "the calls are in flight")
  end
  local got = {}
  quiet(function()
    task.group(function(group)
      wave(group, got, 1, 20, 20)
      edit(2)
      wave(group, got, 21, 35, 35)
      edit(3, true)
      wave(group, got, 36, 40, 40)
      t.match(rules.fault or "", "rules%.lua:3: ")
      edit(4)
      wave(group, got, 41, 50, 50)
      for _ = 1, 50 do gate:release() end
    end)
  end)
  for i = 1, 50 do
    t.eq(got[i], { "big", i <= 20 and "v1" or i <= 40 and "v2" or "v4" }, i)
  end
  t.eq({ rules.version, rules.fault }, { 3 })
end)

-- In the same moment ------------------------------------------------------------------------------------------

--- A server whose streams all begin when `go()` is called; both models of a chain may be on it.
local function starter()
  local waiting, gone, gate = 0, 0, task.semaphore(1000)
  for _ = 1, 1000 do gate:acquire() end
  local server = sluice.server.listen { handler = function(req, res)
    waiting = waiting + 1
    local who = sluice.json.decode(req.body).model
    local ok = pcall(function()
      gate:acquire()
      for _, word in ipairs { "answer", " of ", who } do res:event { data = chunk(word) } end
      res:event { data = chunk("", "stop") }
      res:event { data = "[DONE]" }
    end)
    if not ok then gone = gone + 1 end
  end }
  return { server = server, url = server.url, waiting = function() return waiting end,
    gone = function() return gone end, go = function(n) for _ = 1, n do gate:release() end end }
end

bounded("both streams begin in the same turn: one is read whole, the other's place is free again", function(t)
  local s = starter()
  local server <close> = s.server -- luacheck: ignore 211
  local one = { limit = { concurrency = 1 }, timeout = { first_token = 10 * SCALE } }
  local a, b = model(s, "a", one), model(s, "b", one)
  local chain = sluice.fallback { { a, after = 0 }, b }
  for i = 1, 20 do
    local text
    task.group(function(group)
      group:spawn(function()
        local stream <close> = chain:stream "x"
        text = stream:reply().text
      end)
      T.until_(function() return s.waiting() == 2 * i end, 10, "both are asked")
      s.go(2)
    end)
    t.match(text, "^answer of [ab]$")
    t.eq({ a.limiter:left().concurrency, b.limiter:left().concurrency }, { 1, 1 })
  end
end)

bounded("the caller is cancelled around the moment of the commit: every place is free again", function(t)
  local s = starter()
  local server <close> = s.server -- luacheck: ignore 211
  local one = { limit = { concurrency = 1 }, timeout = { first_token = 10 * SCALE } }
  local a, b = model(s, "a", one), model(s, "b", one)
  local chain, began = sluice.fallback { { a, after = 0 }, b }, 0
  for i = 1, 30 do
    task.group(function(group)
      local handle = group:spawn(function()
        local stream <close> = chain:stream "x" -- luacheck: ignore 211
        began = began + 1
        task.sleep(60)
      end)
      T.until_(function() return s.waiting() == 2 * i end, 10, "both are asked")
      s.go(2)
      local before = began
      for _ = 1, i - 1 do task.yield() end -- a little later each time
      if i > 25 then T.until_(function() return began > before end, 10, "the stream has begun") end
      handle:cancel()
    end)
    t.eq({ a.limiter:left().concurrency, b.limiter:left().concurrency }, { 1, 1 }, i)
  end
  t.ok(began > 0 and began < 30, began) -- some were cancelled before it, some behind it
end)

-- Replies that lie ------------------------------------------------------------------------------------------------

for name, rule in pairs {
  ["a page of a proxy in a 200"] = { status = 200, html = true },
  ["null"] = { status = 200, body = "null" },
  ["an empty 200"] = { status = 200, body = "" },
  ["half of its JSON"] = { status = 200, body = '{"choices":[{"message":{"content":"the whole ans' },
  ["no choices"] = { status = 200, body = '{"choices":[]}' },
  ["an error in a 200"] = { status = 200, body = '{"error":{"message":"overloaded","type":"server_error"}}' },
  ["another length than it says"] = { status = 200, content_length = 4000, body = '{"choices":[{"message":' },
} do
  bounded("a 200 that is none, " .. name .. ": never taken for an answer", function(t)
    local primary <close> = provider({ rule }, ANSWER)
    local fallback <close> = provider({}, OTHER)
    local big = model(primary, "big", { timeout = { first_token = 0.5 * SCALE, idle = 0.5 * SCALE, total = 2 * SCALE } })
    local chain = sluice.fallback { big, model(fallback, "small") }
    t.eq(chain:ask("x").text, OTHER)
    local asked = requests(primary)
    t.ok(asked <= 3, asked)
    local reply = chain:stream("x"):reply()
    t.eq({ reply.text, reply.degraded.step }, { OTHER, 2 })
    t.ok(requests(primary) <= asked + 3, requests(primary))
  end)
end

bounded("a redirect is not followed with the key, and not passed to another model", function(t)
  local other <close> = provider({}, OTHER)
  local primary <close> = provider({ { redirect = other.url .. "/v1/chat/completions" } }, ANSWER)
  local chain = sluice.fallback { model(primary, "big"), function() return "canned" end }
  local err = t.raises("invalid", chain.ask, chain, "x")
  t.match(tostring(err), "redirect")
  t.eq({ requests(other), requests(primary) }, { 0, 1 })
end)

bounded("a stream without an end: an ask of a hedged chain ends with an ask's time limit", function(t)
  local server <close> = sluice.server.listen { handler = function(_, res)
    pcall(function()
      while true do
        res:event { data = chunk "word " }
        task.sleep(0.02)
      end
    end)
  end }
  local big = model(server, "big", { timeout = { total = 1 * SCALE, first_token = 1 * SCALE } })
  local from = task.now()
  local reply = sluice.fallback { { big, after = 0.5 * SCALE }, function() return "canned" end }:ask "x"
  t.eq({ reply.text, reply.attempts[1].kind }, { "canned", "interrupted" })
  t.ok(task.now() - from < 5 * SCALE, task.now() - from)
end)

bounded("words that only trickle: the floor ends it, and another model goes on", function(t)
  local server <close> = sluice.server.listen { handler = function(_, res)
    pcall(function()
      res:event { data = chunk "one two" }
      while true do
        task.sleep(0.1 * SCALE)
        res:event { data = chunk "" }
        res:event { data = chunk "." }
      end
    end)
  end }
  local fallback <close> = provider({}, OTHER)
  local big = model(server, "big", { timeout = { min_rate = 100, min_rate_over = 0.5 * SCALE, idle = 5 * SCALE } })
  local stream <close> = sluice.fallback { big, rescue = sluice.rule.continue(model(fallback, "small")) }:stream "x"
  local reply = stream:reply()
  t.match(reply.text, "^one two%.*" .. OTHER .. "$")
  t.eq({ reply.degraded.step, reply.cause.cause.phase }, { "rescue", "slow" })
end)

-- Many at once ----------------------------------------------------------------------------------------------------

bounded("sixty calls meet a 429 without a time: the gate holds them, nobody hammers, all are answered", function(t)
  local primary <close> = provider({ { status = 429 } }, ANSWER)
  local fallback <close> = provider({}, OTHER)
  local small = model(fallback, "small", { limit = { concurrency = 60 } })
  local chain = sluice.fallback { { model(primary, "big"), after = 0.3 * SCALE }, small }
  local from = task.now()
  for _, reply in ipairs(task.map(range(60), function() return chain:ask "x" end, { concurrency = 60 })) do
    t.eq(reply.text, OTHER)
  end
  t.ok(requests(primary) <= 10, requests(primary)) -- the five that were under way, hardly more
  t.ok(task.now() - from < 10 * SCALE)
end)

bounded("everybody is down and a hundred ask: each gets the canned answer, the breakers spare both", function(t)
  local primary <close> = provider({ { status = 503 } }, ANSWER)
  local fallback <close> = provider({ { status = 500 } }, OTHER)
  local big, small = model(primary, "big"), model(fallback, "small")
  local chain = sluice.fallback { big, small, function() return "canned" end }
  for _, reply in ipairs(task.map(range(100), function() return chain:ask "x" end, { concurrency = 100 })) do
    t.eq({ reply.text, reply.degraded.step }, { "canned", 3 })
  end
  t.eq({ big.breaker:state(), small.breaker:state() }, { "open", "open" })
  t.ok(requests(primary) <= 12 and requests(fallback) <= 12, requests(primary))
end)

bounded("a primary that answers every other time: whole answers only, each request under its own id", function(t)
  local primary <close> = provider({ { probability = 0.5, status = 502 } }, ANSWER)
  local fallback <close> = provider({}, OTHER)
  local chain = sluice.fallback { model(primary, "big", { breaker = { trip_after = false } }), model(fallback, "small") }
  for _, reply in ipairs(task.map(range(40), function() return chain:ask "x" end, { concurrency = 10 })) do
    t.ok(reply.text == ANSWER and not reply.degraded or reply.text == OTHER and reply.degraded, reply.text)
  end
  local ids, calls = {}, 0
  for _, req in ipairs(primary.requests) do
    local id = req.headers["idempotency-key"]
    if not ids[id] then calls = calls + 1 end
    ids[id] = (ids[id] or 0) + 1
    t.ok(ids[id] <= 3, ids[id])
  end
  t.ok(calls <= 40, calls)
end)

T.done()
