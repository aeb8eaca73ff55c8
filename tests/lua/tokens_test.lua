-- sluice.tokens: the estimate that limits, budgets and conversations share, and sums of usage.
local T = require "harness"
local sluice = require "sluice"
local limiter = require "sluice.policy.limiter"

local tokens, json = sluice.tokens, sluice.json

T.test("a text: four bytes and a tenth on top", function(t)
  t.eq(tokens.estimate "", 0)
  t.eq(tokens.estimate "x", 1)
  t.eq(tokens.estimate(("x"):rep(400)), 110)
  local chinese = tokens.estimate(("长"):rep(100)) -- 0.6 to 0.9 a character
  t.ok(chinese >= 60 and chinese <= 90, tostring(chinese))
end)

T.test("messages, requests and replies count what is sent of them", function(t)
  local text = ("x"):rep(400)
  local list = { { role = "user", content = text }, { role = "assistant", content = { { type = "text", text = text } } } }
  local both = tokens.estimate(list)
  t.ok(both >= 220 and both <= 235, tostring(both))
  t.ok(tokens.estimate { prompt = text, system = text, temperature = 0.5 } == 220)
  t.ok(tokens.estimate { messages = list, prompt = text } >= both + 110)
  local calls = { role = "assistant", tool_calls = { { id = "1", name = "f", arguments = { a = text },
    arguments_json = json.encode { a = text } } } }
  t.ok(tokens.estimate(calls) < 130, "arguments count once")
  local schema = { type = "object", properties = { city = { type = "string", description = text } } }
  t.ok(tokens.estimate { prompt = "x", tools = { { name = "f", parameters = schema } } } > 110)
  t.ok(tokens.estimate { prompt = "x", tools = { { name = "f", run = print } } } < 5, "a function is not sent")
end)

T.test("an image is not its bytes", function(t)
  local image = { type = "image", data = ("A"):rep(1 << 20), media_type = "image/png" }
  local message = { { role = "user", content = { { type = "text", text = "what is it" }, image } } }
  t.ok(tokens.estimate(message) >= tokens.IMAGE and tokens.estimate(message) < tokens.IMAGE + 20)
  local body = json.encode { messages = { { content = { { url = "data:image/png;base64," .. image.data } } } } }
  t.eq(limiter.input_tokens, tokens.of_body, "limits share the rule")
  t.ok(tokens.of_body(body) < tokens.IMAGE + 40)
end)

T.test("sums of usage: what is not known adds nothing", function(t)
  local total = tokens.sum { { usage = { input_tokens = 10, output_tokens = 2, total_tokens = 12, cached_tokens = 4 } },
    { usage = {} }, { usage = { input_tokens = 5, output_tokens = 1, total_tokens = 6, cached_tokens = 0,
      reasoning_tokens = 1 } } }
  t.eq(total, { input_tokens = 15, output_tokens = 3, total_tokens = 18, cached_tokens = 4, reasoning_tokens = 1 })
  t.eq(tokens.sum {}, {})
end)

T.test("a wrong argument says so; a table that holds itself ends", function(t)
  t.raises("sluice.tokens.estimate: expected a text", function() tokens.estimate(3) end)
  local loop = { text = "x" }
  loop.loop = loop
  t.ok(tokens.estimate(loop) > 0)
end)

T.done()
