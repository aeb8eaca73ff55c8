-- sluice.tool: what a tool is made of, one call, the loop and its limits, the streamed loop, both protocols.
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"
local scripted = require "scripted"

local tool, task, json = sluice.tool, sluice.task, sluice.json

local function echo(fields)
  local opts = { name = "echo", params = { text = "string", n = "integer? = 1" },
    run = function(args) return ("%s %d"):format(args.text, args.n) end }
  for key, value in pairs(fields or {}) do opts[key] = value end
  return tool(opts)
end

-- Tools -----------------------------------------------------------------------------------------------

T.test("a tool: its description becomes a schema", function(t)
  local w = tool { name = "weather", description = "Weather of a city",
    params = { city = "string: the city", unit = { "c", "f" } }, run = function() end }
  t.eq(w.parameters.properties.unit.enum, { "c", "f" })
  t.eq(w.parameters.required, { "city", "unit" })
  t.eq(tostring(w), "tool weather")
  t.eq(tool { name = "now", run = os.time }.parameters.properties, {})
  local raw = { type = "object", properties = { a = { type = "string" } } }
  t.ok(rawequal(tool { name = "x", parameters = raw, run = print }.parameters, raw))
end)

T.test("a wrong tool names what is wrong", function(t)
  local function refused(words, opts) t.raises(words, function() tool(opts) end) end
  refused("option 'name' is missing", { run = print })
  refused("option 'name' must be 1 to 64 letters", { name = "a b", run = print })
  refused("option 'run' is missing", { name = "a" })
  refused("unknown option 'descripton' %(did you mean 'description'%?%)", { name = "a", run = print, descripton = "x" })
  refused("tool 'a': params: 'city': unknown type 'strin'", { name = "a", run = print, params = { city = "strin" } })
  refused("tool 'a': params must describe an object", { name = "a", run = print, params = "string" })
  refused("not both", { name = "a", run = print, params = {}, parameters = { type = "object" } })
end)

T.test("call: checked, filled, and errors as results", function(t)
  local e = echo()
  t.eq(e:call({ text = "x" }).content, "x 1")
  t.eq(e:call({ text = "x", n = 3 }).content, "x 3")
  t.eq(e:call({ text = "x", n = json.null }).content, "x 1", "null for what may be missing")
  local given = { text = "x" }
  e:call(given)
  t.eq(given, { text = "x" }, "the caller's table is left alone")
  local r = e:call { n = "3" }
  t.eq(r.is_error, true)
  t.eq(r.content, "The arguments do not fit, the tool was not run:\n/text: is missing, expected a text\n"
    .. "/n: expected a whole number, got the text '3'")
  r = echo({ run = function() error "no such city" end }):call { text = "x" }
  t.eq({ r.content, r.is_error }, { "no such city", true })
  r = echo({ run = function() sluice.errors.raise { kind = "network", message = "gone" } end }):call { text = "x" }
  t.eq(r.content, "network: gone")
  t.eq(r.err.kind, "network")
end)

T.test("results: text, numbers, tables, parts, nothing, and what cannot be sent", function(t)
  local function of(value) return echo({ run = function() return value end }):call { text = "x" } end
  t.eq(of("a").content, "a")
  t.eq(of(12).content, "12")
  t.eq(of(true).content, "true")
  t.eq(of(nil).content, "(no result)")
  t.eq(json.decode(of({ a = { 1, 2 } }).content), { a = { 1, 2 } })
  local image = { { type = "text", text = "look" }, { type = "image", url = "https://example.com/x.png" } }
  t.eq(of(image).content, image)
  t.eq(of(sluice.json.null).is_error, true)
  t.match(of(print).content, "returned a function")
  t.match(of({ f = print }).content, "returned what cannot be sent")
  t.eq(of("a\xffb\xe9").content, "a\u{FFFD}b\u{FFFD}")
end)

T.test("a long result is cut between characters, and says so", function(t)
  local r = echo({ result_bytes = 10, run = function() return ("长"):rep(100) end }):call { text = "x" }
  t.eq(r.content, "长长长\n[cut: 9 of 300 bytes are shown]")
  r = echo({ run = function() return ("x"):rep(1 << 20) end }):call { text = "x" }
  t.ok(#r.content < 33 * 1024)
end)

T.test("no secret is told to the model", function(t)
  local secret = sluice.secret.literal("sk-tool-very-secret-value", "test key")
  local r = echo({ run = function() return "key: sk-tool-very-secret-value" end }):call { text = "x" }
  t.ok(not r.content:find("very%-secret"), r.content)
  t.ok(secret)
end)

T.test("a timeout is the tool's; a deadline around it is not", function(t)
  local slow = echo { timeout = 0.01, run = function() task.sleep(5) end }
  local r = slow:call { text = "x" }
  t.eq({ r.content, r.is_error }, { "The tool did not answer within 0.01 s.", true })
  local long = echo { timeout = 5, run = function() task.sleep(5) end }
  local err = t.raises("timeout", function()
    task.deadline(0.01, function() long:call { text = "x" } end)
  end)
  t.eq(err.phase, "deadline")
end)

-- The loop --------------------------------------------------------------------------------------------

T.test("loop: calls, results, answer; the conversation is whole", function(t)
  local m = scripted { { calls = { { "echo", { text = "a" } } } }, { text = "done" } }
  local seen = {}
  local reply, messages = tool.loop(m, "go", { tools = { echo() },
    on_call = function(call, result) seen[#seen + 1] = call.name .. "=" .. result.content end })
  t.eq(reply.text, "done")
  t.eq(seen, { "echo=a 1" })
  t.eq({ reply.rounds, reply.total.total_tokens }, { 2, 30 })
  t.eq(#reply.calls, 1)
  t.eq({ reply.calls[1].name, reply.calls[1].content, reply.calls[1].round }, { "echo", "a 1", 1 })
  t.eq(#messages, 4)
  t.eq(messages[1], { role = "user", content = "go" })
  t.eq(messages[2].tool_calls[1].arguments, { text = "a" }, "what the model said goes back as it was")
  t.eq(messages[3], { role = "tool", tool_call_id = "call_1_1", content = "a 1" })
  t.eq({ messages[4].role, messages[4].content }, { "assistant", "done" })
  t.eq(m.requests[1].messages, { { role = "user", content = "go" } })
  t.eq(#m.requests[2].messages, 3)
  t.eq(m.requests[2].tools[1].name, "echo")
end)

T.test("loop: request fields are kept, a forced tool only for the first round, the tools of the request", function(t)
  local m = scripted { { calls = { { "echo", { text = "a" } } } }, { text = "done" } }
  local before = { { role = "user", content = "hi" }, { role = "assistant", content = "hello" } }
  tool.loop(m, { messages = before, prompt = "go", system = "s", temperature = 0.5, tool_choice = "required",
    tools = { { name = "echo", params = { text = "string" }, run = function() return 1 end } } })
  t.eq(#before, 2)
  t.eq({ m.requests[1].tool_choice, m.requests[1].system, m.requests[1].temperature }, { "required", "s", 0.5 })
  t.eq({ m.requests[2].tool_choice, m.requests[2].system }, { nil, "s" })
  t.eq(#m.requests[1].messages, 3)
end)

T.test("loop: unknown tools, wrong arguments, errors and refusals are read by the model", function(t)
  local m = scripted { { calls = { { "ecko", {} }, { "echo", { text = 1 } }, { "echo", { text = "bad" } },
    { "echo", { text = "no" } } } }, { text = "sorry" } }
  local e = echo { run = function() error "boom" end }
  local reply, messages = tool.loop(m, "go", { tools = { e }, allow = function(call)
    if call.arguments.text == "no" then return false, "the person said no" end
    return true
  end })
  t.eq(reply.text, "sorry")
  t.eq(messages[3].content, "There is no tool 'ecko' (did you mean 'echo'?).")
  t.match(messages[4].content, "/text: expected a text, got 1")
  t.eq(messages[5].content, "boom")
  t.eq(messages[6].content, "The call was not allowed: the person said no")
  for i = 3, 6 do t.eq(messages[i].is_error, true) end
end)

T.test("loop: a round runs at once, bounded, in the order of the calls", function(t)
  local running, most = 0, 0
  local slow = tool { name = "slow", params = { n = "integer" }, run = function(args)
    running = running + 1
    most = math.max(most, running)
    T.until_(function() return most >= 2 end, 2)
    task.sleep(0.001 * (5 - args.n))
    running = running - 1
    return args.n
  end }
  local calls = {}
  for i = 1, 4 do calls[i] = { "slow", { n = i } } end
  local m = scripted { { calls = calls }, { text = "done" } }
  local _, messages = tool.loop(m, "go", { tools = { slow }, concurrency = 2 })
  t.eq(most, 2)
  for i = 1, 4 do t.eq(messages[2 + i].content, tostring(i)) end
end)

T.test("loop: a tool that is not parallel runs alone, in its place", function(t)
  local log, running = {}, 0
  local function make(name, parallel)
    return tool { name = name, parallel = parallel, run = function()
      running = running + 1
      if not parallel then t.eq(running, 1, name .. " is alone") end
      task.sleep(0.002)
      log[#log + 1] = name
      running = running - 1
    end }
  end
  local m = scripted { { calls = { { "p" }, { "p" }, { "s" }, { "p" }, { "s" } } }, { text = "done" } }
  tool.loop(m, "go", { tools = { make("p", true), make("s", false) } })
  t.eq(log, { "p", "p", "s", "p", "s" })
end)

T.test("loop: rounds are limited; the conversation so far is sound", function(t)
  local m = scripted { { text = "thinking", calls = { { "echo", { text = "a" } } } } }
  local err = t.raises("protocol", function() tool.loop(m, "go", { tools = { echo() }, rounds = 3 }) end)
  t.ok(tool.is_limit(err))
  t.eq(#m.requests, 3)
  t.match(err.message, "no answer after 3 rounds: the model still calls 'echo'")
  t.eq(err.partial, "thinking")
  t.eq(#err.messages, 5) -- user, and twice a call with its result
  t.eq(err.messages[5].role, "tool")
end)

T.test("loop: a pause goes on", function(t)
  local m = scripted { { text = "one moment", finish = "pause" }, { text = "done" } }
  local reply, messages = tool.loop(m, "go", { tools = { echo() } })
  t.eq({ reply.text, reply.rounds, #messages }, { "done", 2, 3 })
end)

T.test("loop: a failure of the model is raised, cancellation ends the tools", function(t)
  local m = scripted { { calls = { { "echo", { text = "a" } } } }, { err = { kind = "server", message = "no" } } }
  t.raises("server", function() tool.loop(m, "go", { tools = { echo() } }) end)
  local left = false
  local hang = tool { name = "hang", run = function()
    local _ <close> = setmetatable({}, { __close = function() left = true end })
    task.sleep(60)
  end }
  t.raises("timeout", function()
    task.deadline(0.02, function() tool.loop(scripted { { calls = { { "hang" }, { "hang" } } } }, "go", { tools = { hang } }) end)
  end)
  t.ok(left)
end)

T.test("loop: wrong arguments", function(t)
  t.raises("sluice.tool.loop: argument 1 must be a model", function() tool.loop("x", "y") end)
  local m = scripted { { text = "x" } }
  t.raises("tools%[1%] 'a' has no function to run", function() tool.loop(m, "x", { tools = { { name = "a" } } }) end)
  t.raises("two tools have the name 'echo'", function() tool.loop(m, "x", { tools = { echo(), echo() } }) end)
  t.raises("unknown option 'round'", function() tool.loop(m, "x", { round = 3 }) end)
  t.raises("nothing to send", function() tool.loop(m, {}) end)
  t.eq(tool.loop(m, { prompt = "x", tools = { { type = "web_search_20250305", name = "web_search" } } }).text, "x")
end)

-- Streamed --------------------------------------------------------------------------------------------

T.test("stream: events of all rounds, results between them, usage and finish once", function(t)
  local m = scripted { { text = "let me see", calls = { { "echo", { text = "a" } } } }, { text = "done" } }
  local list = {}
  local stream <close> = tool.stream(m, "go", { tools = { echo() } })
  for event in stream:events() do list[#list + 1] = event end
  local types = {}
  for i, event in ipairs(list) do types[i] = event.type end
  t.eq(types, { "text", "tool_call", "tool_result", "text", "usage", "finish" })
  t.eq({ list[3].name, list[3].content, list[3].id }, { "echo", "a 1", "call_1_1" })
  t.eq(list[5].usage.total_tokens, 30)
  local reply = stream:reply()
  t.eq({ reply.text, reply.rounds, #reply.calls }, { "done", 2, 1 })
  t.eq(m.open, 0)
end)

T.test("stream: text of all rounds; reply without reading", function(t)
  local answers = { { text = "one ", calls = { { "echo", { text = "a" } } } }, { text = "two" } }
  local parts = {}
  for text in tool.stream(scripted(answers), "go", { tools = { echo() } }):text() do parts[#parts + 1] = text end
  t.eq(parts, { "one ", "two" })
  local m = scripted(answers)
  t.eq(tool.stream(m, "go", { tools = { echo() } }):reply().text, "two")
  t.eq(m.open, 0)
end)

T.test("stream: what breaks it is raised once and again, and nothing stays open", function(t)
  local m = scripted { { calls = { { "echo", { text = "a" } } } }, { text = "half", cut = true } }
  local stream = tool.stream(m, "go", { tools = { echo() } })
  t.raises("interrupted", function() for _ in stream:events() do end end) -- luacheck: ignore 542
  t.raises("interrupted", function() stream:reply() end)
  t.eq(m.open, 0)
  local broken = tool.stream(scripted { { calls = { { "echo", { text = "a" } } } } }, "go", { tools = { echo() }, rounds = 1 })
  t.raises("protocol", function() broken:reply() end)
end)

T.test("stream: left early, it is closed", function(t)
  local m = scripted { { text = "a" } }
  do
    local stream <close> = tool.stream(m, "go")
    t.eq(stream:events()(stream).text, "a")
  end
  t.eq(m.open, 0)
  local stream = tool.stream(m, "go")
  stream:close()
  t.raises("was closed before its end", function() stream:reply() end)
end)

-- On the wire -----------------------------------------------------------------------------------------

local WEATHER = { name = "get_weather", description = "Weather", params = { city = "string" },
  run = function(args) return { city = args.city, sky = "clear" } end }
local TIME = { name = "get_time", params = { zone = "string?" }, run = function() return "12:00" end }

for _, protocol in ipairs { "openai", "anthropic" } do
  T.test(protocol .. ": a loop on the mock, whole and streamed, both tools in one round", function(t)
    local provider <close> = mock.start { pace = 0 }
    local model = sluice.model { provider = protocol, model = "m", auth = "k",
      base_url = provider.url .. (protocol == "openai" and "/v1" or "") }
    local request = { prompt = "Please use get_weather for Oslo and get_time.", tool_choice = "auto" }
    local reply = tool.loop(model, request, { tools = { WEATHER, TIME } })
    t.eq(#reply.calls, 2)
    t.eq({ reply.rounds, reply.calls[1].name, reply.calls[2].content }, { 2, "get_weather", "12:00" })
    t.match(reply.text, "12:00")
    local seen = {}
    local stream <close> = tool.stream(model, request, { tools = { WEATHER, TIME } })
    for event in stream:events() do seen[event.type] = (seen[event.type] or 0) + 1 end
    t.eq({ seen.tool_call, seen.tool_result, seen.finish, seen.usage }, { 2, 2, 1, 1 })
    t.ok(seen.text > 1)
    t.eq(stream:reply().text, reply.text)
  end)

  T.test(protocol .. ": a failed tool is told, over a fallback, with signed thinking kept", function(t)
    local provider <close> = mock.start { pace = 0, scenario = { { thinking = true, also = true,
      path = "*" } } }
    local model = sluice.model { provider = protocol, model = "m", auth = "k",
      base_url = provider.url .. (protocol == "openai" and "/v1" or "") }
    local broken = { name = "get_weather", params = {}, run = function() error "station is down" end }
    local reply, messages = tool.loop(sluice.fallback { model }, "use get_weather", { tools = { broken } })
    t.match(reply.text, "station is down")
    t.eq(messages[3].is_error, true)
  end)
end

T.test("a stream that a task returns is read outside of it; one that stays is closed with its group", function(t)
  local provider <close> = mock.start { pace = 0.2 }
  local model = sluice.model { provider = "openai", model = "m", auth = "k", base_url = provider.url .. "/v1" }
  local request = { prompt = "Use get_weather for Oslo." }
  local stream = task.group(function(g)
    return g:spawn(function() return tool.stream(model, request, { tools = { WEATHER } }) end):join()
  end)
  t.match(stream:reply().text, "clear")
  local kept
  task.group(function()
    kept = tool.stream(model, "Tell me a long story.", { tools = { WEATHER } })
  end)
  t.raises("the stream is closed", function() kept:reply() end)
  T.until_(function() return provider:stats().streams_open == 0 end, 5)
end)

for _, protocol in ipairs { "openai", "anthropic" } do
  T.test(protocol .. ": a stream that dies in the middle of a call runs nothing", function(t)
    local provider <close> = mock.start { pace = 0, scenario = { { nth = 1, cut_after = 2 } } }
    local model = sluice.model { provider = protocol, model = "m", auth = "k", retry = false,
      base_url = provider.url .. (protocol == "openai" and "/v1" or "") }
    local ran = 0
    local counted = { name = "get_weather", params = { city = "string" }, run = function() ran = ran + 1 end }
    local c = sluice.chat { model = model, tools = { counted } }
    t.raises("interrupted", function() c:stream("Use get_weather for Oslo."):reply() end)
    t.eq({ ran, c:turns() }, { 0, 0 })
    t.eq(#c:say("Use get_weather for Oslo.").calls, 1)
    t.eq({ ran, c:turns() }, { 1, 1 })
  end)
end

T.test("over a fallback: a hedge, a rule that answers, and a rescue", function(t)
  local provider <close> = mock.start { pace = 0, scenario = {
    { model = "cut", stream = true, cut_after = 4 }, { model = "down", status = 503 } } }
  local function model(name)
    return sluice.model { provider = "openai", model = name, auth = "k", base_url = provider.url .. "/v1", retry = false }
  end
  local reply = tool.loop(sluice.fallback { model "down", model "good" }, "Use get_time.", { tools = { TIME } })
  t.eq({ #reply.calls, reply.degraded.step }, { 1, 2 })
  reply = tool.loop(sluice.fallback { model "down", function() return "no service" end }, "x", { tools = { TIME } })
  t.eq({ reply.text, reply.rounds }, { "no service", 1 })
  local rescued = sluice.fallback { model "cut", rescue = function() return " [cut short]" end }
  local stream <close> = tool.stream(rescued, "Tell me about canals.")
  local text = {}
  for piece in stream:text() do text[#text + 1] = piece end
  t.match(table.concat(text), "%[cut short%]$")
  t.eq(stream:reply().finish_reason, "rescued")
end)

T.test("a model that waits between tools can be cancelled, and all is closed", function(t)
  local provider <close> = mock.start { pace = 0, scenario = { { from = 2, first_token = 30 } } }
  local model = sluice.model { provider = "openai", model = "m", auth = "k", base_url = provider.url .. "/v1" }
  local ran = 0
  local counted = { name = "get_time", run = function() ran = ran + 1 end }
  t.raises("timeout", function()
    task.deadline(0.2, function() tool.stream(model, "Use get_time.", { tools = { counted } }):reply() end)
  end)
  t.eq(ran, 1)
  T.until_(function() return provider:stats().streams_open == 0 end, 5)
end)

T.done()
