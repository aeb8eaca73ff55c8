-- What sluice must make of aimock's answers, over both protocols. Run by ./run.
package.path = arg[0]:match "^(.*/)" .. "../../lua/?.lua;" .. package.path
local T = require "harness"
local sluice = require "sluice"

local url = ...
local TEXT = "Hello there! Grüß dich, 你好。"
local models = {
  openai = sluice.model { provider = "openai", model = "gpt-4o", base_url = url .. "/v1", auth = "k", retry = false },
  anthropic = sluice.model { provider = "anthropic", model = "claude-sonnet-4-5", base_url = url, auth = "k",
    retry = false },
}
local WEATHER = { name = "get_weather", description = "Weather of a city",
  parameters = { type = "object", properties = { city = { type = "string" } } } }
local TIME = { name = "get_time", description = "Time in a zone",
  parameters = { type = "object", properties = { zone = { type = "string" } } } }

for name, model in pairs(models) do
  T.test(name .. ": ask", function(t)
    local reply = model:ask "greet"
    t.eq(reply.text, TEXT)
    t.eq(reply.finish_reason, "stop")
    t.ok(math.type(reply.usage.output_tokens) == "integer", "usage is an integer")
  end)

  T.test(name .. ": stream", function(t)
    local pieces = {}
    for text in model:stream("greet"):text() do pieces[#pieces + 1] = text end
    t.eq(table.concat(pieces), TEXT)
    t.ok(#pieces > 3, "it came in pieces")
  end)

  T.test(name .. ": thinking", function(t)
    local stream <close> = model:stream "think"
    local seen = {}
    for event in stream:events() do seen[event.type] = (seen[event.type] or "") .. (event.text or "") end
    t.eq(seen.thinking, "First I consider it.")
    t.eq(seen.text, "Considered.")
    t.eq(stream:reply().thinking, "First I consider it.")
  end)

  T.test(name .. ": a tool call, whole and streamed", function(t)
    for _, reply in ipairs { model:ask { prompt = "weather", tools = { WEATHER } },
      model:stream({ prompt = "weather", tools = { WEATHER } }):reply() } do
      t.eq(reply.finish_reason, "tool_calls")
      t.eq(#reply.tool_calls, 1)
      t.eq(reply.tool_calls[1].name, "get_weather")
      t.eq(reply.tool_calls[1].arguments, { city = "Paris", days = 2 })
    end
  end)

  T.test(name .. ": two tool calls and their results", function(t)
    local messages = { { role = "user", content = "two tools" } }
    local reply = model:stream({ messages = messages, tools = { WEATHER, TIME } }):reply()
    t.eq(#reply.tool_calls, 2)
    t.eq(reply.tool_calls[2].arguments, { zone = "UTC" })
    messages[#messages + 1] = reply:message()
    for _, call in ipairs(reply.tool_calls) do
      messages[#messages + 1] = { role = "tool", tool_call_id = call.id, content = "fine" }
    end
    messages[#messages + 1] = { role = "user", content = "greet" }
    t.eq(model:ask({ messages = messages, tools = { WEATHER, TIME } }).text, TEXT)
  end)

  T.test(name .. ": a loop of tools, whole, streamed, and in a conversation", function(t)
    local tools = { { name = "get_weather", description = "Weather of a city", params = { city = "string" },
      run = function(args) return args.city .. ": rain" end },
      { name = "get_time", params = { zone = "string" }, run = function() return { time = "noon" } end } }
    local reply, messages = sluice.tool.loop(model, "forecast", { tools = tools })
    t.eq({ reply.text, reply.rounds, #reply.calls, #messages }, { "Rain in Oslo at noon.", 2, 2, 5 })
    local seen = {}
    local stream <close> = sluice.tool.stream(model, "forecast", { tools = tools })
    for event in stream:events() do seen[#seen + 1] = event.type ~= seen[#seen] and event.type or nil end
    t.eq(seen, { "tool_call", "tool_result", "text", "usage", "finish" })
    t.eq(stream:reply().text, "Rain in Oslo at noon.")
    local chat = sluice.chat { model = model, tools = tools }
    t.eq(chat:say("greet").text, TEXT)
    t.eq(chat:stream("forecast"):reply().text, "Rain in Oslo at noon.")
    t.eq({ chat:turns(), chat:say("greet").text }, { 2, TEXT })
  end)

  T.test(name .. ": a value that fits a schema, at once and after a repair", function(t)
    local person = { name = "string", born = "integer", languages = "string[](1..)", ["died?"] = "integer" }
    local want = { name = "Ada", born = 1815, languages = { "English", "French" } }
    local value, reply = model:json("who", person)
    t.eq({ value, reply.rounds }, { want, 1 })
    value, reply = model:json("who, badly", person)
    t.eq({ value, reply.rounds }, { want, 2 })
    local err = t.raises("protocol", function() model:json("who, badly", person, { repairs = 0 }) end)
    t.eq({ err.code, err.faults }, { "schema", { "/born: expected a whole number, got the text 'long ago'" } })
  end)

  T.test(name .. ": errors have the right kind and the peer's words", function(t)
    local err = t.raises("rate_limited", function() model:ask "limited" end)
    t.eq(err.status, 429)
    t.match(err.message, "slow down")
    t.raises("auth", function() model:stream "refused" end)
  end)

  T.test(name .. ": a stream that is cut is an error with what had come", function(t)
    local got = {}
    local err = t.raises("interrupted", function()
      for text in model:stream("cut"):text() do got[#got + 1] = text end
    end)
    t.ok(#got > 0, "some text had come")
    t.eq(err.partial, table.concat(got))
  end)
end

T.done()
