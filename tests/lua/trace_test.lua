-- What --trace writes: that it is well formed whatever happens, that it tells what happened, and nothing
-- that nobody may read.
local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local rehearsal = require "sluice.test"
local sys = require "sluice.core.sys"
local Sink = require "sluice.trace.sink"
local trace = require "sluice.trace"

local task, json = sluice.task, sluice.json

sluice.log.configure { level = "error" }

-- Reading traces --------------------------------------------------------------------------------------

-- The rules of the format that a viewer leans on; returns the calls and chains in the order of their ends, each
-- with its lane and what is inside it, the instants, and the names of the lanes.
local function check_chrome(t, text)
  local events = json.decode(text)
  local begun, names, slices, instants, found = {}, {}, {}, {}, {}
  for i, e in ipairs(events) do
    t.ok(math.type(e.pid) == "integer" and math.type(e.tid) == "integer", "no lane")
    local lane = e.tid
    begun[lane], slices[lane] = begun[lane] or {}, slices[lane] or {}
    if e.ph ~= "M" then
      t.ok(math.type(e.ts) == "integer" and e.ts >= 0, "no time")
      if e.ph ~= "B" or e.args then t.eq(type(e.args), "table") end
    end
    if e.ph == "M" and e.name == "thread_name" then
      t.eq(names[lane], nil, "named twice")
      names[lane] = e.args.name
    elseif e.ph == "B" then
      table.insert(begun[lane], e)
    elseif e.ph == "E" then
      local first = table.remove(begun[lane])
      t.ok(first, "an end without a beginning")
      e.name, e.dur, e.ts = first.name, e.ts - first.ts, first.ts
      t.ok(e.dur >= 0, "ends before it begins")
    elseif e.ph == "X" then
      t.ok(math.type(e.dur) == "integer" and e.dur >= 0, "no length")
    elseif e.ph == "i" then
      t.ok(e.s == "t" or e.s == "g")
      instants[#instants + 1] = e
    else
      t.eq(e.ph, "M")
    end
    if e.dur then
      e.inside, e.lane, e.order = {}, lane, i
      table.insert(slices[lane], e)
      if e.args.attempts or e.args.steps or e.args.tool_call then found[#found + 1] = e end
    end
  end
  for lane, list in pairs(slices) do
    t.eq({ lane, #begun[lane] }, { lane, 0 }, "never ends")
    if #list > 0 then t.ok(names[lane], "a lane without a name") end
    -- as Perfetto does: where two begin together, the first in the file is taken for the outer one
    table.sort(list, function(x, y)
      if x.ts ~= y.ts then return x.ts < y.ts end
      return x.order < y.order
    end)
    local stack = {}
    for _, slice in ipairs(list) do
      while #stack > 0 and stack[#stack].ts + stack[#stack].dur <= slice.ts do table.remove(stack) end
      local around = stack[#stack]
      if around then
        t.ok(slice.ts + slice.dur <= around.ts + around.dur, "slices overlap and do not nest")
        table.insert(around.inside, slice)
      elseif slice.name:find "^attempt" or slice.name:find "^wait" then
        t.ok(false, slice.name .. " is a part of nothing")
      end
      stack[#stack + 1] = slice
    end
  end
  return found, instants, names
end

-- The rules of OTLP in JSON; returns the spans, each with its attributes by name.
local function check_otlp(t, text)
  local spans, ids = {}, {}
  for line in text:gmatch "[^\n]+" do
    local document = json.decode(line)
    t.eq(#document.resourceSpans, 1)
    local resource = document.resourceSpans[1]
    t.eq(resource.resource.attributes[1], { key = "service.name", value = { stringValue = "sluice" } })
    for _, span in ipairs(resource.scopeSpans[1].spans) do
      t.ok(#span.traceId == 32 and span.traceId:find "^%x+$" and span.traceId:find "[^0]", "traceId")
      t.ok(#span.spanId == 16 and span.spanId:find "^%x+$" and span.spanId:find "[^0]", "spanId")
      t.eq(ids[span.spanId], nil, "the same id twice")
      ids[span.spanId] = span
      t.ok(span.startTimeUnixNano:find "^%d+$" and span.endTimeUnixNano:find "^%d+$", "times are strings")
      t.ok(math.tointeger(span.startTimeUnixNano) <= math.tointeger(span.endTimeUnixNano), "ends before it begins")
      t.ok(math.abs(math.tointeger(span.startTimeUnixNano) / 1e9 - sys.wall()) < 1e5, "another day")
      span.by = {}
      for _, a in ipairs(span.attributes) do
        local kind, value = next(a.value)
        t.eq(span.by[a.key], nil, "an attribute twice: " .. a.key)
        if kind == "intValue" then t.eq(type(value), "string", "64-bit integers are strings") end
        span.by[a.key] = value
      end
      spans[#spans + 1] = span
    end
  end
  for _, span in ipairs(spans) do
    if span.parentSpanId then
      local parent = ids[span.parentSpanId]
      t.ok(parent, "a parent that is not there")
      t.eq(parent.traceId, span.traceId)
      t.ok(parent.startTimeUnixNano <= span.startTimeUnixNano)
    end
  end
  return spans
end

local function named(list, name)
  local found = {}
  for _, item in ipairs(list) do
    if item.name == name then found[#found + 1] = item end
  end
  return found
end

-- Runs f under a trace; returns what was written.
local function traced(t, suffix, f)
  local path = T.tmpdir() .. "/run" .. suffix
  t.eq({ trace.start(path) }, { true })
  f()
  t.eq(trace.stop(), true)
  return T.read(path), path
end

-- Over sockets ----------------------------------------------------------------------------------------

local CANARY = "canary-trace-4711"

-- Refuses once, then answers; streams when asked to.
local function provider()
  return S.start(function(req, res, n)
    if n == 1 then
      return res:json(503, { error = { message = "no " .. CANARY, code = "busy" } }, { ["retry-after-ms"] = "10" })
    end
    if json.decode(req.body).stream then return S.events(res, S.answer("secret ", "answer")) end
    res:send(200, { ["Content-Type"] = "application/json" }, S.whole "secret answer")
  end)
end

local function work(server)
  local model = S.model(server, { retry = { attempts = 2 }, auth = sluice.secret.literal(CANARY, "key") })
  model:ask "a secret prompt"
  for _ in model:stream "a secret prompt":text() do end -- luacheck: ignore 542
end

T.test("chrome: a retry, an answer and a stream, in one lane", function(t)
  local server <close> = provider()
  local text = traced(t, ".json", function() work(server) end)
  t.eq(text:sub(1, 2), "[\n")
  local slices, instants, names = check_chrome(t, text)
  t.eq(#slices, 2)
  t.eq({ slices[1].name, slices[1].args.method, slices[2].args.method }, { "openai/m", "ask", "stream" })
  t.eq(names[slices[1].lane], "the script")
  local parts = {}
  for _, part in ipairs(slices[1].inside) do
    t.eq(part.args.request_id, slices[1].args.request_id)
    parts[#parts + 1] = part.name
  end
  t.eq(parts, { "attempt 1", "wait: backoff", "attempt 2" })
  local failed, good = slices[1].inside[1].args, slices[1].inside[3].args
  t.eq({ failed.outcome, failed.kind, failed.status, failed.code }, { "error", "overloaded", 503, "busy" })
  t.eq({ good.outcome, good.input_tokens, good.output_tokens, good.finish_reason }, { "ok", 9, 3, "stop" })
  t.eq({ slices[1].args.outcome, slices[1].args.attempts, slices[1].args.model }, { "ok", 2, "m" })
  t.eq({ slices[2].args.outcome, slices[2].inside[1].args.output_tokens }, { "ok", 3 })
  t.eq({ instants[1].name, instants[2].name }, { "trace began", "first content" })
  t.match(instants[1].args.time, "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$")
end)

-- A tool that asks a model, one that fails with words of its own, and one that gets what does not fit.
local function use_tools(server)
  local model = S.model(server, { retry = { attempts = 2 }, auth = sluice.secret.literal(CANARY, "key") })
  local asks = sluice.tool { name = "asks", run = function() return model:ask "a secret prompt" end }
  local fails = sluice.tool { name = "fails", run = function() error "a secret answer" end }
  local fits = sluice.tool { name = "fits", params = { n = "integer" }, run = function() return 1 end }
  asks:call()
  fails:call()
  fits:call { n = "secret" }
end

T.test("chrome: a tool has a slice, and what it asks is inside", function(t)
  local server <close> = provider()
  local text = traced(t, ".json", function() use_tools(server) end)
  local slices, _, names = check_chrome(t, text)
  local seen = {}
  for i, slice in ipairs(slices) do seen[i] = slice.name .. " " .. slice.args.outcome end
  t.eq(seen, { "openai/m ok", "tool asks ok", "tool fails error", "tool fits refused" })
  t.eq({ slices[2].lane, slices[2].inside[1] }, { slices[1].lane, slices[1] })
  t.eq(names[slices[1].lane], "the script")
  t.eq(#slices[1].inside, 3)
  t.ok(not text:find("secret", 1, true), text)
end)

T.test("chrome: a tool that was under way when the file was written out", function(t)
  local slow = sluice.tool { name = "slow", run = function() task.sleep(30) end }
  local text = traced(t, ".json", function()
    local ok, err = pcall(task.deadline, 1.2, slow.call, slow)
    t.eq({ ok, err.kind }, { false, "timeout" })
  end)
  t.match(text, '"ph":"B"[^\n]*"name":"tool slow"')
  local slices = check_chrome(t, text)
  t.eq({ #slices, slices[1] and slices[1].args.outcome }, { 1, "cancelled" })
end)

T.test("otlp: a tool is a span", function(t)
  local server <close> = provider()
  local text = traced(t, ".otlp.json", function() use_tools(server) end)
  local seen = {}
  for _, span in ipairs(check_otlp(t, text)) do
    if span.by["gen_ai.operation.name"] == "execute_tool" then
      seen[#seen + 1] = { span.name, span.by["gen_ai.tool.name"], span.by["sluice.outcome"] }
    end
  end
  t.eq(seen, { { "execute_tool asks", "asks", "ok" }, { "execute_tool fails", "fails", "error" },
    { "execute_tool fits", "fits", "refused" } })
  t.ok(not text:find("secret", 1, true), text)
end)

T.test("otlp: the same as spans", function(t)
  local server <close> = provider()
  local spans = check_otlp(t, (traced(t, ".otlp.json", function() work(server) end)))
  t.eq({ #named(spans, "chat m"), #named(spans, "attempt 1"), #named(spans, "attempt 2"), #named(spans, "wait backoff") },
    { 2, 2, 1, 1 })
  local call, retry = named(spans, "chat m")[1], named(spans, "attempt 2")[1]
  t.eq({ retry.parentSpanId, retry.kind, retry.by["http.request.resend_count"] }, { call.spanId, 3, "1" })
  t.eq({ call.by["gen_ai.operation.name"], call.by["gen_ai.provider.name"], call.by["gen_ai.request.model"],
    call.by["gen_ai.response.model"], call.by["gen_ai.usage.input_tokens"], call.by["gen_ai.usage.output_tokens"],
    call.by["server.address"], call.by["server.port"], call.by["sluice.request_id"] },
    { "chat", "openai", "m", "m-1", "9", "3", "127.0.0.1", tostring(server.port), retry.by["sluice.request_id"] })
  t.eq(call.by["gen_ai.response.finish_reasons"].values[1].stringValue, "stop")
  for _, span in ipairs(spans) do -- tokens are counted once, in whatever way they are added up
    t.eq(span.by["gen_ai.usage.output_tokens"] ~= nil, span.name == "chat m", span.name)
  end
  t.ok(retry.by["sluice.time_to_first_token"] > 0)
  local failed = named(spans, "attempt 1")[1]
  t.eq({ failed.status.code, failed.by["error.type"], failed.by["http.response.status_code"] }, { 2, "overloaded", "503" })
  t.eq({ call.status, call.parentSpanId }, {})
  t.ok(named(spans, "chat m")[2].traceId ~= call.traceId)
  t.eq(named(spans, "attempt 1")[2].events[1].name, "first content")
end)

for _, suffix in ipairs { ".json", ".otlp.json" } do
  T.test(suffix .. ": no prompt, no answer, no words of a provider, no secret", function(t)
    local server <close> = provider()
    local text = traced(t, suffix, function() work(server) end)
    for _, word in ipairs { "secret prompt", "secret answer", "answer", CANARY, "k%-1" } do
      t.eq(text:find((word:gsub("answer$", "answer\""))), nil, word)
    end
  end)
end

T.test("a secret that a name quotes is taken out", function(t)
  local server <close> = provider()
  local key = sluice.secret.literal(CANARY, "key")
  local text = traced(t, ".json", function() pcall(function() S.model(server, { model = "m-" .. CANARY, auth = key }):ask "x" end) end)
  t.eq(text:find(CANARY, 1, true), nil)
  t.ok(text:find("m-[redacted]", 1, true))
  check_chrome(t, text)
end)

T.test("two streams at once in one task: a lane beside the first; a task's lane is named after its spawner", function(t)
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    while true do res:write(S.text "tick ") task.sleep(0.003) end
  end)
  local model = S.model(server)
  local text = traced(t, ".json", function()
    task.group(function(g)
      g:spawn(function()
        local a <close> = model:stream "a" -- luacheck: ignore 211
        local b <close> = model:stream "b" -- luacheck: ignore 211
      end)
      model:stream "left open"
    end)
  end)
  local slices, _, names = check_chrome(t, text)
  local lanes = {}
  for _, slice in ipairs(slices) do
    lanes[#lanes + 1] = names[slice.lane]
    t.eq(slice.args.outcome, "abandoned")
  end
  table.sort(lanes)
  t.eq(#lanes, 3)
  t.match(lanes[1], "^task %d+, .*trace_test%.lua:%d+$")
  t.eq({ lanes[2], lanes[3] }, { lanes[1] .. ", beside 1", "the script" })
end)

T.test("what is written every second can be opened as it is; what is under way shows", function(t)
  local path = T.tmpdir() .. "/killed.json"
  local server <close> = S.start(function() S.stall() end)
  trace.start(path)
  t.eq(T.read(path):sub(1, 3), "[\n{", "the head comes at once")
  task.group(function(g)
    local h = g:spawn(function() S.model(server):ask "x" end)
    T.until_(function() return T.read(path):find('"ph":"B"', 1, true) end, 5)
    local events = json.decode(T.read(path) .. "]")
    t.eq({ events[#events].ph, events[#events].name }, { "B", "openai/m" })
    t.eq(#events[#events].args.request_id, 36)
    h:cancel()
  end)
  trace.stop()
  check_chrome(t, T.read(path))
end)

T.test("a path that cannot be written, and a disk that is full", function(t)
  local ok, why = trace.start(T.tmpdir() .. "/none/x.json")
  t.eq(ok, false)
  t.match(why, "No such file")
  if not io.open("/dev/full", "wb") then t.skip "no /dev/full" end
  local lines = {}
  sluice.log.configure { level = "warn", write = function(line) lines[#lines + 1] = line end }
  t.eq(trace.start "/dev/full", true)
  local server <close> = provider()
  work(server)
  t.eq(trace.stop(), false)
  sluice.log.configure { level = "error", write = false }
  t.eq(#lines, 1)
  t.match(lines[1], "the trace ends here.*No space left")
end)

T.test("a sink keeps no more than a block in memory", function(t)
  local path = T.tmpdir() .. "/sink"
  local sink = Sink.open(path)
  sink.tail, sink.last = ">", "."
  local piece, most = ("x"):rep(1000), 0
  for _ = 1, 1000 do
    sink.text:add(piece)
    sink:done()
    most = math.max(most, #sink.text)
  end
  t.ok(most <= 66 << 10)
  t.ok(sink:close())
  local text = T.read(path)
  t.eq(text:gsub("[^x]", ""), ("x"):rep(1000000))
  t.match(text, "^x+>x+>.*x+>%.$")
end)

T.test("a token refresh, and a breaker that opens", function(t)
  local server <close> = S.start(function(_, res) res:json(500, { error = { message = "no" } }) end)
  local function refuse()
    local source = sluice.token.source { name = "corp", fetch = function() task.sleep(0.01) return "v" end }
    local model = S.model(server, { auth = source, breaker = { trip_after = 1 }, model = "breaks" .. math.random(1e9) })
    pcall(model.ask, model, "x")
    pcall(model.ask, model, "x")
  end
  local text = traced(t, ".json", refuse)
  local slices, instants = check_chrome(t, text)
  t.match(text, '"ph":"X","cat":"token","pid":%d+,"tid":%d+,"ts":%d+,"dur":%d+,"name":"token refresh: corp"')
  t.eq({ slices[1].inside[1].name, slices[1].inside[1].inside[1].name }, { "attempt 1", "wait: token" })
  t.eq({ slices[2].args.outcome, slices[2].args.kind, slices[2].args.attempts }, { "error", "circuit_open", 1 })
  local seen = {}
  for _, e in ipairs(instants) do seen[#seen + 1] = e.name:gsub("%d+", "") end
  t.eq(seen, { "trace began", "breaker openai/breaks: open", "refused: circuit_open" })
  local spans = check_otlp(t, (traced(t, ".otlp.json", refuse)))
  t.eq({ #named(spans, "token refresh"), #named(spans, "breaker open") }, { 1, 1 })
end)

-- Scripted --------------------------------------------------------------------------------------------

sys.virtual_clock(true)

local function chaos(context)
  local kinds = { "server", "rate_limited", "network", "timeout", "overloaded" }
  local function answer()
    local p = math.random()
    if p < 0.3 then return { wait = math.random(), err = kinds[math.random(#kinds)] } end
    if p < 0.4 then return { text = "a b c d e f", gap = 0.2, cut = math.random(0, 8) } end
    return { wait = math.random() * 2, text = "a b c d e", gap = 0.1 }
  end
  local function model(name)
    return context.model { name = name, retry = { attempts = 3, base = 0.2 }, answer,
      limit = { concurrency = 3, rpm = 600, max_wait = 2 }, breaker = { trip_after = 4, sleep_window = 1 } }
  end
  local a, b, c = model "a", model "b", model "c"
  local chain = sluice.fallback { { a, after = 0.5 }, { b, after = 0.3 }, c,
    rescue = function() return math.random() < 0.5 and "!" or nil end }
  local nested = sluice.fallback { chain, b, name = "nested" }
  local items = {}
  for i = 1, 200 do items[i] = i end
  task.map(items, function(i)
    local target = ({ a, nested, chain, chain })[i % 4 + 1]
    pcall(task.deadline, math.random() * 4, function()
      local kept <close> = i % 5 == 0 and target:stream "kept" or nil -- luacheck: ignore 211
      if i % 3 == 0 then return target:ask "hi" end
      for _ in target:stream "hi":text() do
        if math.random() < 0.1 then break end
      end
    end)
  end, { concurrency = 16 })
end

for suffix, check in pairs { [".json"] = check_chrome, [".otlp.json"] = check_otlp } do
  T.test(suffix .. ": well formed, whatever happens", function(t)
    local context = rehearsal.begin()
    local text = traced(t, suffix, function() chaos(context) end)
    rehearsal.finish()
    local found = check(t, text)
    t.ok(#found > 300, #found .. " slices or spans")
  end)
end

T.test("a chain: its calls within it, and why it moved on", function(t)
  local context = rehearsal.begin()
  local function run()
    sluice.fallback { context.model { name = "a", { wait = 1, err = "server" } },
      context.model { name = "b", { wait = 1, text = "x" } } }:ask "hi"
  end
  local slices, instants = check_chrome(t, (traced(t, ".json", run)))
  t.eq({ #slices, slices[3].name, slices[3].args.steps, #slices[3].inside }, { 3, "fallback", 2, 2 })
  t.eq({ slices[1].name, slices[1].args.kind, slices[2].name }, { "mock/a", "server", "mock/b" })
  t.eq({ instants[2].name, instants[2].args.why, instants[3].name }, { "moves on: mock/b", "server", "answers: mock/b" })
  local spans = check_otlp(t, (traced(t, ".otlp.json", run)))
  rehearsal.finish()
  local chain = named(spans, "fallback")[1]
  t.eq({ named(spans, "chat a")[1].parentSpanId, named(spans, "chat b")[1].parentSpanId }, { chain.spanId, chain.spanId })
  t.eq({ chain.events[1].name, chain.events[2].name, chain.kind }, { "moves on", "answers", 1 })
end)

T.done()
