-- What observers are told: every way a call, an attempt, a wait or a chain can end, exactly once.
-- Scripted, on the virtual clock; streams that end without a word to Lua over real sockets.
-- luacheck: ignore 512 (loops that are left at once)
local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local observe = require "sluice.observe"
local rehearsal = require "sluice.test"
local sys = require "sluice.core.sys"

local task = sluice.task

sluice.log.configure { level = "error" }

-- A recorder -----------------------------------------------------------------------------------------

-- Writes down every event in a few words, and counts what must balance.
local function recorder()
  local r = { list = {}, calls = {}, sent = {}, ended = 0, records = {} }
  local function add(...)
    r.list[#r.list + 1] = table.concat({ ... }, " ")
  end
  local function word(value) return type(value) == "table" and tostring(value.kind) or tostring(value) end
  function r:call_began(call, at)
    self.calls[call], self.records[#self.records + 1] = "open", call
    assert(call.began == at and math.type(call.task) == "integer" and #call.id == 36)
    add("began", call.name)
  end
  function r.waited(_, call, at, what, began, err)
    assert(at >= began and call.id)
    add("waited", what, err and word(err) or ("%.3g"):format(at - began))
  end
  function r:attempt_sent(call, at)
    assert(not self.sent[call] and call.sent == at)
    self.sent[call] = true
    add("sent", call.attempt)
  end
  function r:content(call, _, ttft)
    assert(self.sent[call] and call.ttft == ttft)
    add "content"
  end
  function r:attempt_ended(call, at, outcome, what, delay)
    assert(self.sent[call], "an attempt ended that was not under way")
    assert(call.sent and at >= call.sent)
    self.sent[call] = nil
    local detail = outcome == "ok" and what.usage.output_tokens or what.kind
    add("ended", call.attempt, outcome, detail and tostring(detail) or "-", delay and "again" or nil)
  end
  function r:refused(call, _, err, delay)
    assert(not self.sent[call] and not call.sent)
    add("refused", err.kind, delay and "again" or nil)
  end
  function r:call_ended(call, at, outcome, what)
    assert(self.calls[call] == "open", "a call ended twice, or never began")
    assert(not self.sent[call] and call.ended == at)
    self.calls[call], self.what = "ended", what
    self.ended = self.ended + 1
    add("over", outcome)
  end
  function r.chain_began(_, chain) add("chain", chain.name, chain.steps) end
  function r.chain_moved(_, _, _, from, to, why, how) add("moved", from.index, to.index, how, why.kind) end
  function r.chain_stopped(_, _, _, s, winner) add("stopped", s.index, winner and winner.index) end
  function r.chain_answered(_, _, _, s, why) add("answered", s.index, why.kind) end
  function r.chain_rescued(_, _, _, err) add("rescued", err.kind) end
  function r.chain_ended(_, chain, at, outcome)
    assert(chain.ended == at)
    add("chain over", outcome)
  end
  function r.token_refreshed(_, name, _, outcome, seconds)
    assert(seconds >= 0)
    add("token", name, outcome)
  end
  function r.breaker_changed(_, breaker, _, before, after) add("breaker", breaker.name, before, after) end
  function r:text()
    local text = table.concat(self.list, "; ")
    self.list = {}
    return text
  end
  function r:open()
    local n = 0
    for _, state in pairs(self.calls) do n = n + (state == "open" and 1 or 0) end
    return n
  end
  return r
end

-- Over sockets ---------------------------------------------------------------------------------------

-- A server that streams for ever.
local function endless()
  return S.start(function(_, res)
    res:start(200, S.EVENTS)
    while true do
      res:write(S.text "tick ")
      task.sleep(0.003)
    end
  end)
end

T.test("streams that are closed with their group are told of, with the time it happened", function(t)
  local server <close> = endless()
  local r = observe.subscribe(recorder())
  local model, ended = S.model(server), nil
  local keep
  task.group(function()
    keep = model:stream "hi"
    ended = task.now()
  end)
  t.ok(not keep.closed, "its own close was not called")
  t.eq({ r:open(), observe.open_streams() }, { 1, 1 })
  task.sleep(0.05)
  observe.sweep()
  t.eq(r:text(), "began openai/m; sent 1; content; ended 1 abandoned -; over abandoned")
  t.ok(r.records[1].ended - ended < 0.04, "the time of its end is not that of the look")
  keep:close()
  t.eq({ r:text(), observe.open_streams() }, { "", 0 })
  observe.unsubscribe(r)
end)

T.test("streams that are collected are told of", function(t)
  local server <close> = endless()
  local r = observe.subscribe(recorder())
  local model = S.model(server)
  task.group(function()
    (function() return model:stream "hi".ttft end)()
    for _ = 1, 3 do collectgarbage() end
    observe.sweep()
    t.eq(r:text(), "began openai/m; sent 1; content; ended 1 abandoned -; over abandoned")
  end)
  observe.unsubscribe(r)
end)

T.test("a call that waits for a token says so, and the refresh is told", function(t)
  local server <close> = S.start(function(_, res) res:send(200, { ["Content-Type"] = "application/json" }, S.whole "x") end)
  local r = observe.subscribe(recorder())
  local source = sluice.token.source { name = "corp", fetch = function() task.sleep(0.02) return "v" end }
  local model = S.model(server, { auth = source })
  model:ask "hi"
  t.match(r:text(), "^began openai/m; sent 1; token corp ok; waited token 0%.0[2-9]%d*; ended 1 ok 3; over ok$")
  model:ask "hi"
  t.eq(r:text(), "began openai/m; sent 1; ended 1 ok 3; over ok")
  observe.unsubscribe(r)
end)

-- Scripted ---------------------------------------------------------------------------------------------

sys.virtual_clock(true)

-- A test with a recorder; `body(t, r, new)`: new(script) is t.model of sluice test.
local function scripted(name, body)
  T.test(name, function(t)
    local context = rehearsal.begin()
    local r = observe.subscribe(recorder())
    local _ <close> = setmetatable({}, { __close = function()
      observe.unsubscribe(r)
      rehearsal.finish()
    end })
    body(t, r, context.model)
    t.eq(r:open(), 0, "calls that never ended")
    t.eq(next(r.sent), nil, "attempts that never ended")
  end)
end

-- Calls ----------------------------------------------------------------------------------------------

T.test("nobody listens: there is nothing to call", function(t)
  t.eq(observe.on, nil)
  local r = observe.subscribe(recorder())
  t.ok(observe.on)
  observe.unsubscribe(r)
  t.eq(observe.on, nil)
  observe.unsubscribe(r)
  t.raises("no method that is named as an event", observe.subscribe, {})
end)

scripted("an answer", function(t, r, new)
  local reply = new { name = "m", { wait = 2, text = "one two" } }:ask "hi"
  local call = r.records[1]
  t.eq(r:text(), ("began mock/m; sent 1; ended 1 ok %d; over ok"):format(reply.usage.output_tokens))
  t.eq({ call.provider, call.model, call.streaming, call.ended - call.began, call.task }, { "mock", "m", false, 2,
    require "sluice.core.task".current() })
  t.ok(rawequal(r.what, reply))
end)

scripted("retries: what each attempt met, the waits between them, and the whole call's times at the end", function(t, r, new)
  new { name = "m", retry = { attempts = 3, base = 1 }, { wait = 1, err = "server" },
    { status = 429, retry_after = 4 }, { wait = 1, text = "one" } }:ask "hi"
  local text = r:text():gsub("backoff 0%.%d+", "backoff <1")
  t.match(text, "^began mock/m; sent 1; ended 1 error server again; waited backoff <?[%d.]+; "
    .. "sent 2; ended 2 error rate_limited again; waited backoff [%d.]+; sent 3; ended 3 ok %d+; over ok$")
  local call = r.records[1]
  t.eq(#r.records, 1)
  t.ok(call.ended - call.began > 5.99)
  t.near(r.what.elapsed, call.ended - call.began, 0.01) -- the scripted wire computes in between
end)

scripted("failures: the last attempt ends without another", function(t, r, new)
  pcall(new { name = "m", { err = "invalid" } }.ask, new { name = "m", { err = "invalid" } }, "hi")
  t.eq(r:text(), "began mock/m; sent 1; ended 1 error invalid; over error")
  t.eq(r.what.kind, "invalid")
end)

scripted("a place among concurrent requests, and one that never comes", function(t, r, new)
  local model = new { name = "m", limit = { concurrency = 1, max_wait = 3 }, { wait = 2, text = "x" }, { wait = 5, text = "x" } }
  task.all { function() model:ask "1" end, function() model:ask "2" end, function() pcall(model.ask, model, "3") end }
  local text = r:text()
  t.match(text, "waited place 2;")
  t.match(text, "waited place throttled; refused throttled; over error")
end)

scripted("a rate limit, waited for, and left by cancellation", function(t, r, new)
  local model = new { name = "m", limit = { rpm = 60, burst = 1 }, { text = "x" } }
  model:ask "1"
  model:ask "2"
  t.match(r:text(), "began mock/m; waited rate 1; sent 1")
  pcall(task.deadline, 0.25, model.ask, model, "3")
  t.match(r:text(), "^began mock/m; refused throttled; over error$") -- known at once
  task.group(function(g)
    local h = g:spawn(function() pcall(model.ask, model, "3") end)
    task.sleep(0.25)
    h:cancel()
  end)
  t.eq(r:text(), "began mock/m; waited rate cancelled; over cancelled")
end)

scripted("cancelled on the wire, in a back-off", function(t, r, new)
  local model = new { name = "m", retry = { attempts = 2, base = 20 }, { wait = 9, text = "x" }, { err = "server" } }
  pcall(task.deadline, 1, model.ask, model, "1")
  t.eq(r:text(), "began mock/m; sent 1; ended 1 cancelled cancelled; over cancelled")
  task.group(function(g)
    local h = g:spawn(function() pcall(model.ask, model, "2") end)
    task.sleep(0.001)
    h:cancel()
  end)
  t.eq(r:text(), "began mock/m; sent 1; ended 1 error server again; waited backoff cancelled; over cancelled")
end)

scripted("the breaker opens, refuses, is probed and closes", function(t, r, new)
  local model = new { name = "m", breaker = { trip_after = 2, sleep_window = 5 }, { err = "server" }, { err = "server" },
    { text = "x" } }
  for _ = 1, 3 do pcall(model.ask, model, "1") end
  t.match(r:text(), "breaker mock/m closed open; .*began mock/m; refused circuit_open; over error$")
  task.sleep(10)
  model:ask "1"
  t.match(r:text(), "^began mock/m; breaker mock/m open half; sent 1; breaker mock/m half closed; ended 1 ok")
end)

-- Streams --------------------------------------------------------------------------------------------

scripted("a stream, read to its end, by each way of reading", function(t, r, new)
  for _, read in ipairs {
    function(s) for _ in s:text() do end end, -- luacheck: ignore 542
    function(s) for _ in s:events() do end end, -- luacheck: ignore 542
    function(s) s:reply() end,
  } do
    read(new { name = "m", { wait = 1, text = "one two", gap = 1 } }:stream "hi")
    t.match(r:text(), "^began mock/m; sent 1; content; ended 1 ok %d+; over ok$")
    t.near(r.what.ttft, 1, 1e-5)
    t.ok(r.what.elapsed > 1.99)
  end
end)

scripted("a stream that its reader leaves, that breaks, and that breaks before anything came", function(t, r, new)
  for _ in new { name = "m", { text = "one two three", gap = 1 } }:stream "hi":text() do break end
  t.eq(r:text(), "began mock/m; sent 1; content; ended 1 abandoned -; over abandoned")
  pcall(function() new { name = "m", { text = "one two three", gap = 1, cut = 5 } }:stream "hi":reply() end)
  t.eq(r:text(), "began mock/m; sent 1; content; ended 1 interrupted interrupted; over interrupted")
  pcall(function() new { name = "m", { cut = 0, text = "x" } }:stream "hi" end)
  t.eq(r:text(), "began mock/m; sent 1; ended 1 error network; over error")
end)

-- Chains ---------------------------------------------------------------------------------------------

scripted("a chain: the first step answers", function(t, r, new)
  local chain = sluice.fallback { new { name = "a", { text = "x" } }, new { name = "b", { text = "y" } } }
  chain:ask "hi"
  t.match(r:text(), "^chain fallback 2; began mock/a; sent 1; ended 1 ok %d+; over ok; answered 1 start; chain over ok$")
  local call = r.records[1]
  t.eq({ call.chain.name, call.chain.number }, { "fallback", call.number })
end)

scripted("a chain: moves on after a failure and after a rule that declined; nobody answers", function(t, r, new)
  local chain = sluice.fallback { new { name = "a", { err = "server" } }, function() return nil end,
    new { name = "b", { err = "overloaded" } } }
  pcall(chain.ask, chain, "hi")
  t.eq(r:text(), "chain fallback 3; began mock/a; sent 1; ended 1 error server; over error; moved 1 2 failed server; "
    .. "moved 2 3 declined server; began mock/b; sent 1; ended 1 error overloaded; over error; chain over error")
end)

scripted("a chain: a hedge, and the loser is cancelled", function(t, r, new)
  local chain = sluice.fallback { { new { name = "a", { wait = 9, text = "x" } }, after = 2 }, new { name = "b", { text = "y" } } }
  chain:ask "hi"
  local text = r:text()
  t.match(text, "^chain fallback 2; began mock/a; sent 1; moved 1 2 slow slow; began mock/b; sent 1; content; .*"
    .. "ended 1 cancelled cancelled; over cancelled")
  t.match(text, "stopped 1 2;.*answered 2 slow; chain over ok$")
end)

scripted("a chain: a stream is rescued", function(t, r, new)
  local chain = sluice.fallback { new { name = "a", { text = "one two three", cut = 5, gap = 1 } }, rescue = function() return "…" end }
  for _ in chain:stream "hi":text() do end -- luacheck: ignore 542
  t.eq(r:text(), "chain fallback 1; began mock/a; sent 1; content; answered 1 start; chain over ok; "
    .. "ended 1 interrupted interrupted; over interrupted; rescued interrupted")
end)

scripted("a chain in a chain: calls know the one they are a step of", function(t, r, new)
  local inner = sluice.fallback { new { name = "a", { text = "x" } }, name = "inner" }
  sluice.fallback { inner, name = "outer" }:ask "hi"
  t.match(r:text(), "^chain outer 1; chain inner 1; began mock/a;")
  local call = r.records[1]
  t.eq({ call.chain.name, call.chain.chain.name, call.chain.chain.number }, { "inner", "outer", call.number })
end)

scripted("a chain is cancelled", function(t, r, new)
  local chain = sluice.fallback { new { name = "a", { wait = 9, text = "x" } } }
  pcall(task.deadline, 1, chain.ask, chain, "hi")
  t.match(r:text(), "over cancelled; chain over cancelled$")
end)

-- Subscribers ----------------------------------------------------------------------------------------

scripted("several are told in turn; one that raises hurts nobody, and is logged once", function(t, r, new)
  local lines = {}
  sluice.log.configure { level = "error", write = function(line) lines[#lines + 1] = line end }
  local bad = observe.subscribe { attempt_sent = function() error "no disk" end, call_ended = function() error { 1 } end }
  local good = observe.subscribe(recorder())
  for _ = 1, 3 do new { name = "m", { text = "x" } }:ask "hi" end
  sluice.log.configure { level = "error", write = false }
  t.eq(#lines, 1)
  t.match(lines[1], "an observer failed.*no disk")
  t.eq(good:text(), r:text())
  observe.unsubscribe(bad)
  observe.unsubscribe(good)
end)

scripted("who comes or goes in the middle of a call is told of whole calls only", function(t, r, new)
  local model = new { name = "m", { wait = 2, text = "x" } }
  local late = recorder()
  local stream
  observe.unsubscribe(r)
  task.all { function() model:ask "hi" stream = model:stream "hi" end, function()
    task.sleep(1)
    observe.subscribe(late)
  end }
  stream:close()
  t.match(late:text(), "^began mock/m; sent 1; content;")
  stream = model:stream "hi"
  observe.unsubscribe(late)
  stream:reply()
  t.eq(late:text(), "began mock/m; sent 1; content")
  model:ask "nobody listens"
end)

-- Everything at once ---------------------------------------------------------------------------------

scripted("whatever happens, each call and each attempt that began ends once", function(t, r, new)
  local kinds = { "server", "rate_limited", "network", "timeout", "overloaded" }
  local function answer()
    local p = math.random()
    if p < 0.3 then return { wait = math.random(), err = kinds[math.random(#kinds)] } end
    if p < 0.4 then return { text = "a b c d e f", gap = 0.2, cut = math.random(0, 8) } end
    return { wait = math.random() * 2, text = "a b c d e", gap = 0.1 }
  end
  local function model(name)
    return new { name = name, retry = { attempts = 3, base = 0.2 }, limit = { concurrency = 3, rpm = 600, max_wait = 2 },
      breaker = { trip_after = 4, sleep_window = 1 }, answer }
  end
  local a, b, c = model "a", model "b", model "c"
  local chain = sluice.fallback { { a, after = 0.5 }, { b, after = 0.3 }, c, rescue = function(_, _) return math.random() < 0.5 and "!" or nil end }
  local began = 0
  local items = {}
  for i = 1, 300 do items[i] = i end
  task.map(items, function(i)
    began = began + 1
    local target = ({ a, b, chain, chain })[i % 4 + 1]
    pcall(task.deadline, math.random() * 4, function()
      if i % 3 == 0 then return target:ask "hi" end
      for _ in target:stream "hi":text() do
        if math.random() < 0.1 then break end
      end
    end)
  end, { concurrency = 16 })
  observe.sweep()
  t.eq(began, 300)
  t.ok(#r.records > 300, "there were retries and hedges")
  t.eq(r.ended, #r.records)
end)

T.done()
