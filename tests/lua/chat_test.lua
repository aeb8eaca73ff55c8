-- sluice.chat: turns, what a failed one leaves behind, trimming, forks, files, tools, values.
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"
local scripted = require "scripted"

local chat, json = sluice.chat, sluice.json

local function text_of(n) return ("x"):rep(n * 4) end

local ECHO = { name = "echo", params = { text = "string" }, run = function(args) return "echo " .. args.text end }

--- Roles and contents, as one line each.
local function shown(messages)
  local list = {}
  for i, m in ipairs(messages) do
    list[i] = m.role .. ":" .. (type(m.content) == "string" and m.content or json.encode(m.content))
      .. (m.tool_calls and "+" .. #m.tool_calls or "")
  end
  return list
end

-- Turns -------------------------------------------------------------------------------------------------

T.test("say: question and answer become the history", function(t)
  local m = scripted { { text = "hello" }, { text = "fine" } }
  local c = chat { model = m, system = "Be brief." }
  t.eq(c:say("hi").text, "hello")
  t.eq(c:say({ prompt = "how are you?", temperature = 0.5 }).text, "fine")
  t.eq(shown(c.messages), { "user:hi", "assistant:hello", "user:how are you?", "assistant:fine" })
  t.eq({ m.requests[1].system, m.requests[2].temperature, #m.requests[2].messages }, { "Be brief.", 0.5, 3 })
  t.eq({ c.usage.total_tokens, c:turns(), c.usd }, { 30, 2, 0 })
  t.eq(tostring(c), "chat with scripted/m (2 turns)")
end)

T.test("a turn's own system and tools hold for that turn", function(t)
  local m = scripted { { text = "a" }, { text = "b" } }
  local c = chat { model = m, system = "one", tools = { ECHO } }
  c:say { prompt = "x", system = "two", tools = {} }
  c:say "y"
  t.eq({ m.requests[1].system, m.requests[1].tools, m.requests[2].system }, { "two", nil, "one" })
  t.eq(m.requests[2].tools[1].name, "echo")
end)

T.test("a failed turn was never there", function(t)
  local m = scripted { { text = "hello" }, { err = { kind = "server", message = "no" } }, { text = "again" } }
  local c = chat(m)
  c:say "hi"
  t.raises("server", function() c:say "lost" end)
  t.eq(#c.messages, 2)
  c:say "once more"
  t.eq(shown(m.requests[3].messages), { "user:hi", "assistant:hello", "user:once more" })
end)

T.test("tools: the turn holds calls and results; a loop without end leaves nothing behind", function(t)
  local m = scripted { { calls = { { "echo", { text = "a" } }, { "echo", { text = "b" } } } }, { text = "done" },
    { calls = { { "echo", { text = "c" } } } } }
  local c = chat { model = m, tools = { ECHO }, rounds = 2 }
  local reply = c:say "go"
  t.eq({ reply.text, #reply.calls, c.usage.total_tokens }, { "done", 2, 30 })
  t.eq(shown(c.messages), { "user:go", "assistant:+2", "tool:echo a", "tool:echo b", "assistant:done" })
  t.raises("protocol", function() c:say "more" end)
  t.eq(#c.messages, 5)
end)

T.test("stream: the turn is there when it was read to its end, not before", function(t)
  local m = scripted { { text = "hello" }, { text = "half", cut = true }, { text = "left" }, { text = "closed" },
    { text = "whole" } }
  local c = chat(m)
  local got = {}
  for text in c:stream("hi"):text() do
    got[#got + 1] = text
    t.eq(#c.messages, 0)
  end
  t.eq({ got, shown(c.messages) }, { { "hello" }, { "user:hi", "assistant:hello" } })
  t.raises("interrupted", function() for _ in c:stream("broken"):events() do end end) -- luacheck: ignore 542
  t.eq(#c.messages, 2)
  do
    local stream <close> = c:stream "left early"
    t.eq(stream:events()(stream).text, "left")
  end
  c:stream("closed"):close()
  t.eq(#c.messages, 2)
  t.eq(c:stream("again"):reply().text, "whole")
  t.eq({ #c.messages, m.open, c.usage.total_tokens }, { 4, 0, 30 })
end)

T.test("turns at the same time do not see each other, and each is whole", function(t)
  local c
  local m = scripted { function(_, n)
    if n == 1 then T.until_(function() return #c.messages == 2 end, 5) end
    return { text = "answer " .. n }
  end }
  c = chat(m)
  sluice.task.all { function() c:say "first" end, function() c:say "second" end }
  t.eq(shown(c.messages), { "user:second", "assistant:answer 2", "user:first", "assistant:answer 1" })
  t.eq(#m.requests[2].messages, 1)
end)

T.test("undo takes the last turn back; fork goes its own way", function(t)
  local m = scripted { { calls = { { "echo", { text = "a" } } } }, { text = "one" }, { text = "two" } }
  local c = chat { model = m, tools = { ECHO } }
  c:say "first"
  local other = c:fork()
  other:say "second"
  t.eq({ c:turns(), other:turns(), c.usage.total_tokens, other.usage.total_tokens }, { 1, 2, 30, 15 })
  t.eq(other:undo(), "second")
  t.eq(other:undo(), "first")
  t.eq(other:undo(), nil)
  t.eq({ #other.messages, #c.messages }, { 0, 4 })
end)

-- Trimming ----------------------------------------------------------------------------------------------

T.test("history_tokens: the oldest whole turns stay behind, system and question never", function(t)
  local m = scripted { { text = text_of(100), usage = {} } }
  local c = chat { model = m, system = text_of(50), history_tokens = 1000 }
  for i = 1, 12 do
    c:say(text_of(100))
    local request = m.requests[i]
    local estimate = sluice.tokens.estimate(request)
    t.ok(estimate <= 1000, ("turn %d: %d tokens"):format(i, estimate))
    t.eq(request.system, text_of(50))
    t.eq({ request.messages[1].role, request.messages[#request.messages].role, #request.messages % 2 }, { "user", "user", 1 })
  end
  t.eq(c:turns(), 12, "the history itself is whole")
  local last, before = m.requests[12], m.requests[11]
  t.ok(#last.messages > 3, "not more was left behind than needed")
  t.ok(#last.messages > #before.messages or #m.requests[10].messages < #before.messages,
    "the window moves in steps, so that its beginning stays the same for a while")
end)

T.test("a call is never parted from its result", function(t)
  local m = scripted { function(_, n)
    if n % 2 == 1 then return { calls = { { "echo", { text = text_of(20) } } }, usage = {} } end
    return { text = text_of(20), usage = {} }
  end }
  local c = chat { model = m, tools = { ECHO }, history_tokens = 400 }
  for _ = 1, 10 do c:say(text_of(10)) end
  for i, request in ipairs(m.requests) do
    t.eq(request.messages[1].role, "user", "request " .. i)
    local open = 0
    for _, message in ipairs(request.messages) do
      if message.tool_calls then open = open + #message.tool_calls end
      if message.role == "tool" then open = open - 1 end
    end
    t.eq(open, 0, "request " .. i)
  end
  t.ok(#m.requests[19].messages < 20)
end)

T.test("the provider's own counts correct the estimate", function(t)
  local m = scripted { function(req)
    return { text = "ok", usage = { input_tokens = sluice.tokens.estimate(req) * 2, output_tokens = 1 } }
  end }
  local c = chat { model = m, history_tokens = 1000 }
  for _ = 1, 12 do c:say(text_of(100)) end
  t.near(2, c.scale, 0.05)
  t.ok(sluice.tokens.estimate(m.requests[12]) <= 510)
end)

T.test("a question too long for the budget goes alone", function(t)
  local m = scripted { { text = "ok", usage = {} } }
  local c = chat { model = m, history_tokens = 100 }
  c:say "short"
  c:say(text_of(500))
  t.eq(#m.requests[2].messages, 1)
  c:say "short"
  t.eq(#m.requests[3].messages, 1)
end)

T.test("trim forgets for good, whole turns, the last one stays", function(t)
  local m = scripted { { text = text_of(100), usage = {} } }
  local c = chat(m)
  for _ = 1, 5 do c:say(text_of(100)) end
  t.eq(c:trim(10000), 0)
  t.eq(c:trim(500), 6)
  t.eq({ #c.messages, c:turns() }, { 4, 2 })
  t.eq(c:trim(0), 2)
  t.eq(c:turns(), 1)
  c:say "x"
  t.eq(#m.requests[6].messages, 3)
  t.raises("must be a number of tokens", function() c:trim "x" end)
end)

T.test("results of tools in Anthropic's own form do not begin a turn", function(t)
  local history = {
    { role = "user", content = "a" },
    { role = "assistant", content = { { type = "tool_use", id = "t1", name = "echo", input = {} } } },
    { role = "user", content = { { type = "tool_result", tool_use_id = "t1", content = "r" } } },
    { role = "assistant", content = "b" },
  }
  local c = chat { model = scripted { { text = "x" } }, messages = history }
  t.eq(c:turns(), 1)
  t.eq(c:undo(), "a")
  t.eq(#c.messages, 0)
end)

-- Files -------------------------------------------------------------------------------------------------

T.test("save and load: messages, tool calls, parts, the file is private", function(t)
  local path = T.tmpdir() .. "/chat.json"
  local m = scripted { { calls = { { "echo", { text = "长城" } } } }, { text = "done" }, { text = "next" } }
  local c = chat { model = m, tools = { ECHO }, system = "s", history_tokens = 5000 }
  local picture = { { type = "text", text = "look" }, { type = "image", data = "AAAA", media_type = "image/png" } }
  c:say { prompt = picture }
  c:save(path)
  local other = chat.load(path, { model = m, tools = { ECHO } })
  t.eq(other.messages, c.messages)
  t.eq({ other.system, other.history_tokens, #other.messages }, { "s", 5000, 4 })
  t.eq(other:say("more").text, "next")
  t.eq(#m.requests[3].messages, 5)
  local stat = io.popen("stat -c %a " .. path)
  t.eq(stat:read "l", "600")
  stat:close()
end)

T.test("the model comes from the file only when a name says all of it", function(t)
  local path = T.tmpdir() .. "/chat.json"
  chat("ollama/qwen3"):save(path)
  t.eq(chat.load(path).model.name, "ollama/qwen3")
  chat(sluice.model { provider = "ollama", model = "qwen3", base_url = "http://127.0.0.1:1/v1" }):save(path)
  t.raises("does not say which model: give option 'model'", function() chat.load(path) end)
  chat(sluice.fallback { sluice.model "ollama/qwen3" }):save(path)
  t.raises("does not say which model", function() chat.load(path) end)
end)

T.test("no secret is in the file, even where somebody typed it", function(t)
  local path = T.tmpdir() .. "/chat.json"
  local secret = sluice.secret.literal('sk-chat-"secret"-value', "test key")
  local c = chat(sluice.model { provider = "openai", model = "m", auth = secret, base_url = "http://127.0.0.1:1/v1" })
  c.messages[1] = { role = "user", content = 'my key is sk-chat-"secret"-value' }
  c:save(path)
  local text = T.read(path)
  t.ok(not text:find("secret\\\"%-value"), text)
  t.eq(c.messages[1].content, 'my key is sk-chat-"secret"-value', "the conversation itself is left alone")
end)

T.test("files that are none, and folders that are not there", function(t)
  local path = T.tmpdir() .. "/x.json"
  local m = scripted { { text = "x" } }
  t.raises("there is no such file", function() chat.load(path, { model = m }) end)
  for text, words in pairs {
    ["{"] = "is no saved conversation: expected a key", ["[]"] = "was not written by chat:save",
    ['{"sluice_chat":9}'] = "its format is 9", ['{"sluice_chat":1,"messages":{}}'] = "no list of messages",
    ['{"sluice_chat":1,"messages":[{"content":"x"}]}'] = "message 1 is none",
  } do
    T.write(path, text)
    t.raises(words, function() chat.load(path, { model = m }) end)
  end
  t.raises("chat:save: cannot write", function() chat(m):save(T.tmpdir() .. "/no/such/folder/x.json") end)
  local c = chat(m)
  c.messages[1] = { role = "user", content = { print } }
  t.raises("chat:save: messages", function() c:save(path) end)
end)

-- Values, options, the wire -----------------------------------------------------------------------------

T.test("json: question and value become a turn, also after tools", function(t)
  local m = scripted { { calls = { { "echo", { text = "a" } } } }, { text = "done" },
    { calls = { { "answer", { name = "Ada" } } } }, { text = "bye" } }
  local c = chat { model = m, tools = { ECHO } }
  t.eq(c:fork():turns(), 0)
  c:say "go"
  local value = c:json("who?", { name = "string" })
  t.eq(value, { name = "Ada" })
  t.eq(m.requests[3].tool_choice, "none")
  t.eq(m.requests[3].tools[1].name, "echo", "the history has calls in it")
  t.eq(shown(c.messages), { "user:go", "assistant:+1", "tool:echo a", "assistant:done", "user:who?",
    'assistant:{"name":"Ada"}' })
  c:say "thanks"
  t.eq(c:turns(), 3)
end)

T.test("wrong options and arguments", function(t)
  local m = scripted { { text = "x" } }
  t.raises("sluice.chat: option 'model' is missing", function() chat {} end)
  t.raises("option 'model' must be a model", function() chat { model = 3 } end)
  t.raises("unknown option 'sytem' %(did you mean 'system'%?%)", function() chat { model = m, sytem = "x" } end)
  t.raises("sluice.chat: tools%[1%] 'a' has no function", function() chat { model = m, tools = { { name = "a" } } } end)
  t.raises("chat:say: field 'messages' is the conversation's own", function() chat(m):say { messages = { {} } } end)
  t.raises("chat:say: field 'prompt' must be", function() chat(m):say "" end)
  t.raises("chat:say: unknown field 'temprature'", function() chat(m):say { prompt = "x", temprature = 1 } end)
  t.raises("unknown provider 'nobody'", function() chat "nobody/x" end)
end)

T.test("a stream closed with its group leaves no turn", function(t)
  local provider <close> = mock.start { pace = 0.2 }
  local c = chat(sluice.model { provider = "openai", model = "m", auth = "k", base_url = provider.url .. "/v1" })
  sluice.task.group(function()
    c:stream "Tell me a long story."
  end)
  t.eq(c:turns(), 0)
  T.until_(function() return provider:stats().streams_open == 0 end, 5)
  t.ok(c:say("Hello.").text ~= "")
  t.eq(c:turns(), 1)
end)

T.test("a conversation's stream is transformed like any other, and read to its end it is a turn", function(t)
  local provider <close> = mock.start { pace = 0, scenario = { { text = "One. Two! Three? Four" } } }
  local c = chat { model = sluice.model { provider = "openai", model = "m", auth = "k", base_url = provider.url .. "/v1" } }
  local list = {}
  for sentence in c:stream("go"):sentences():map(string.upper) do list[#list + 1] = sentence end
  t.eq(list, { "ONE.", "TWO!", "THREE?", "FOUR" })
  t.eq(c.messages[2].content, "One. Two! Three? Four", "the history has what the model said")
  t.eq(c:stream("again"):until_match("Two"):reply().finish_reason, "matched")
  t.eq(c:turns(), 1, "ended early, it is no turn")
end)

T.test("money is added up under a budget with prices", function(t)
  local provider <close> = mock.start { pace = 0 }
  local model = sluice.model { provider = "openai", model = "m", auth = "k", base_url = provider.url .. "/v1" }
  local budget = sluice.budget { usd = 1 }
  local c = chat { model = budget:guard(model, { input = 1, output = 2 }) }
  c:say "Hello."
  for _ in c:stream("And again."):text() do end -- luacheck: ignore 542
  t.near(budget.spent.usd, c.usd, 1e-12)
  t.ok(c.usd > 0)
  t.eq(c.usage.total_tokens, budget.spent.tokens)
end)

for _, protocol in ipairs { "openai", "anthropic" } do
  T.test(protocol .. ": a conversation on the mock, with tools, thinking, a value, saved in between", function(t)
    local provider <close> = mock.start { pace = 0, scenario = { { path = "*", thinking = true } } }
    local model = sluice.model { provider = protocol, model = "m", auth = "k",
      base_url = provider.url .. (protocol == "openai" and "/v1" or "") }
    local path = T.tmpdir() .. "/chat.json"
    local c = chat { model = sluice.fallback { model }, tools = { ECHO }, system = "s" }
    t.match(c:say("Use the tool echo, please.").text, "echo")
    for _ in c:stream("And a word about locks."):text() do end -- luacheck: ignore 542
    t.eq(c:turns(), 2)
    c:save(path)
    c = chat.load(path, { model = model, tools = { ECHO } })
    t.eq(type(c:json("A city?", { city = "string" }).city), "string")
    t.ok(#c:say("Use echo again.").calls > 0)
    t.eq(c:turns(), 4)
  end)

  T.test(protocol .. ": a stream that dies leaves the history sound", function(t)
    local provider <close> = mock.start { pace = 0, scenario = { { nth = 2, cut_after = 3 } } }
    local model = sluice.model { provider = protocol, model = "m", auth = "k",
      base_url = provider.url .. (protocol == "openai" and "/v1" or "") }
    local c = chat(model)
    c:say "One."
    t.raises("interrupted", function() for _ in c:stream("Two."):text() do end end) -- luacheck: ignore 542
    t.eq(c:turns(), 1)
    t.ok(c:say("Two again.").text ~= "")
    t.eq(c:turns(), 2)
  end)
end

T.done()
