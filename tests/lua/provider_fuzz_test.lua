-- Whatever a server sends: no event, reply or error body may raise, and what is said must be sound.
-- luacheck: no max line length (bodies stand as on the wire)
local T = require "harness"
local json = require "sluice.json"
local assemble = require "sluice.assemble"
local errors = require "sluice.errors"
local limits = require "sluice.provider.limits"
local provider = require "sluice.provider"
local retry_after = require "sluice.provider.retry_after"

local ROUNDS = T.slow and 300 or 1000

--- Inside sluice, lets the loop turn now and then: a task that never waits is taken for a runaway.
local inside = pcall(require, "sluice.core.task")
local function breathe(round)
  if inside and round % 50 == 0 then require("sluice").task.sleep(0) end
end

-- Keys and words the protocols look at, so that random trees reach deep into them.
local KEYS = { "choices", "delta", "message", "content", "text", "type", "index", "finish_reason", "stop_reason", "tool_calls",
  "function", "arguments", "name", "id", "model", "usage", "error", "code", "object", "reasoning_content", "refusal", "thinking",
  "signature", "content_block", "partial_json", "prompt_tokens", "input_tokens", "details", "metadata", "raw", "errors", "detail",
  "data", "input", "stop_details", "prompt_tokens_details", "cached_tokens", "function_call", "loc", "msg", "innererror", "status" }
local WORDS = { "", "x", "stop", "length", "tool_calls", "content_filter", "text_delta", "input_json_delta", "thinking_delta",
  "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop", "tool_use",
  "error", "thinking", "redacted_thinking", "text", "server_tool_use", "{", "{}", "[]", "null", "\\", "好", "end_turn", "refusal",
  "signature_delta", "429", "RPD", "per day", "context window", '{"error":{"message":"m"}}' }

local function random_value(depth)
  local kind = math.random(depth > 4 and 5 or 8)
  if kind == 1 then return json.null end
  if kind == 2 then return math.random() < 0.5 end
  if kind == 3 then return math.random(-2, 600) end
  if kind == 4 then return math.random() * 1e6 end
  if kind == 5 then return WORDS[math.random(#WORDS)] end
  if kind == 6 then
    local list = json.array {}
    for i = 1, math.random(0, 3) do list[i] = random_value(depth + 1) end
    return list
  end
  local object = {}
  for _ = 1, math.random(0, 5) do object[KEYS[math.random(#KEYS)]] = random_value(depth + 1) end
  return object
end

--- A body that is right but for one random place.
local SEEDS = {
  [[{"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"x","reasoning_content":"r","tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}]],
  [[{"id":"c","model":"m","choices":[{"index":0,"message":{"content":"x","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{\"x\":1}"}}]},"finish_reason":"stop"}]}]],
  [[{"type":"message_start","message":{"id":"m","model":"c","usage":{"input_tokens":1,"output_tokens":1}}}]],
  [[{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{"x":1}}}]],
  [[{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{}"}}]],
  [[{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_details":{"explanation":"e"}},"usage":{"output_tokens":3}}]],
  [[{"id":"m","content":[{"type":"thinking","thinking":"h","signature":"s"},{"type":"text","text":"x"},{"type":"tool_use","id":"t","name":"f","input":{}}],"stop_reason":"tool_use","usage":{"input_tokens":1,"output_tokens":2}}]],
  [[{"error":{"message":"m","type":"t","code":"c","metadata":{"raw":"{\"error\":\"e\"}","provider_name":"p","reasons":["r"]},"details":[{"retryDelay":"3s"}]},"request_id":"r"}]],
  [[{"detail":[{"loc":["body",0],"msg":"m"}],"code":20012,"message":"m","data":null}]],
}

local function mutate(value, depth)
  if type(value) ~= "table" or value == json.null or math.random() < 0.15 then return random_value(depth) end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  if #keys == 0 then return random_value(depth) end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  local key = keys[math.random(#keys)]
  value[key] = mutate(value[key], depth + 1)
  return value
end

local function random_body()
  if math.random() < 0.3 then return random_value(0) end
  return mutate(json.decode(SEEDS[math.random(#SEEDS)]), 0)
end

--- Deltas through an assembler: events must be of the public kinds, failures of the closed set.
local EVENTS = { text = true, thinking = true, tool_call = true, usage = true, finish = true }
local function consume(t, a, deltas, body)
  for _, delta in ipairs(deltas) do
    local got, failed = a:feed(delta)
    if failed then t.ok(T.kinds[failed.kind], body) end
    for _, ev in ipairs(got and got.type and { got } or got or {}) do
      if not EVENTS[ev.type] then t.ok(false, body) end
      if ev.type == "tool_call" then
        t.ok(type(ev.arguments) == "table" and type(ev.name) == "string" and type(ev.id) == "string", body)
      end
    end
  end
end

for _, name in ipairs { "openai", "anthropic" } do
  local p = provider.get(name)
  T.test(name .. ": events and replies of any shape", function(t)
    for round = 1, ROUNDS do
      breathe(round)
      local a = assemble.new { think_tags = math.random() < 0.2 }
      for _ = 1, math.random(3) do
        local body = json.encode(random_body())
        local event = math.random() < 0.3 and WORDS[math.random(#WORDS)] or nil
        local ok, deltas = pcall(p.event, { data = body, event = event })
        t.ok(ok, ("%s on %s"):format(deltas, body))
        consume(t, a, deltas, body)
      end
      local events, failed = a:finish()
      t.ok((events ~= nil) ~= (failed ~= nil), "either it ended well or it did not")
      t.eq(a:complete(), events ~= nil)
      t.ok(json.encode(a:reply()), "a reply can be written down")

      a = assemble.new()
      local body = random_body()
      consume(t, a, p.reply(body), "reply")
      if a:complete() then
        local list = { { role = "user", content = "q" }, a:reply(), { role = "user", content = "next" } }
        for _, other in ipairs { "openai", "anthropic" } do
          t.ok(json.encode(provider.get(other).request({ model = "m", messages = list }).body))
        end
      end
    end
  end)

  T.test(name .. ": text that is no JSON", function(t)
    for round = 1, ROUNDS do
      breathe(round)
      local text = json.encode(random_body())
      local cut = math.random(#text)
      text = math.random() < 0.5 and text:sub(1, cut) or text:sub(1, cut - 1) .. string.char(math.random(0, 255)) .. text:sub(cut + 1)
      consume(t, assemble.new(), p.event { data = text }, text)
      local fields = p.failure(math.random(200, 599), {}, text)
      t.ok(T.kinds[fields.kind])
      t.ok(type(tostring(errors.new(fields))) == "string")
      t.eq(type(fields.message), "string")
    end
  end)
end

T.test("error bodies of any shape", function(t)
  local p = provider.get "openai"
  for round = 1, ROUNDS do
    breathe(round)
    local body = json.encode(random_body())
    local fields = p.failure(math.random(200, 599), { ["content-type"] = math.random() < 0.2 and "text/html" or nil }, body)
    t.ok(T.kinds[fields.kind], body)
    local line = tostring(errors.new(fields))
    t.ok(#line < 1500 and not line:find("[%c]"), line)
    if fields.retry_after then t.ok(fields.retry_after > 0 and fields.retry_after < math.huge, body) end
  end
end)

T.test("headers of any shape", function(t)
  local PIECES = { "1", "0", "-1", ":", " ", "GMT", "Fri, 29 Sep 2023", "16:26:27", "ms", "s", "m", ".", "e9", "inf", "Z", "T", "2025-08-21", "+02:00" }
  for round = 1, ROUNDS do
    breathe(round)
    local function text()
      local s = ""
      for _ = 1, math.random(0, 5) do s = s .. PIECES[math.random(#PIECES)] end
      return s
    end
    local headers = { ["retry-after"] = text(), ["retry-after-ms"] = math.random() < 0.3 and text() or nil, date = text(),
      ["x-ratelimit-limit-requests"] = text(), ["x-ratelimit-reset-requests"] = text(), ["anthropic-ratelimit-tokens-remaining"] = text(),
      ["anthropic-ratelimit-tokens-reset"] = text() }
    local seconds = retry_after.parse(headers, 1.7e9)
    t.ok(seconds == nil or seconds > 0 and seconds < math.huge)
    for _, budget in pairs(limits.parse(headers, 1.7e9) or {}) do t.ok((budget.reset or 0) >= 0) end
  end
end)

T.done()
