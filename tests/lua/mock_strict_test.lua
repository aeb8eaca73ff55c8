-- The mock refuses what strict providers refuse, in their words: each case is a mistake a client makes.
-- And it takes everything that is right, down to the odd corners.
local T = require "harness"
local json = require "sluice.json"
local read_openai = require "sluice.mock.openai_request"
local read_anthropic = require "sluice.mock.anthropic_request"

local HEADERS = { ["anthropic-version"] = "2023-06-01" }

local function refused(t, read, what, source, pattern, param)
  local ask, failure = read(json.decode(source), HEADERS)
  t.eq(ask, nil, what)
  t.eq(failure.status, 400, what)
  t.match(failure.message, pattern, what)
  if param then t.eq(failure.param, param, what) end
end

local function taken(t, read, what, source, headers)
  local ask, failure = read(json.decode(source), headers or HEADERS)
  t.ok(ask, what .. ": " .. T.show(failure))
  return ask
end

-- OpenAI ------------------------------------------------------------------------------------------------

-- { what, the message (or whole body), pattern, param }
local MESSAGES = {
  { "no role", [=[{"content":"x"}]=], "Missing required parameter: 'messages%[0%]%.role'", "messages[0].role" },
  { "a role that is none", [=[{"role":"human","content":"x"}]=], "Invalid value: 'human'" },
  { "no content", [=[{"role":"user"}]=], "expected a string, got null" },
  { "content null", [=[{"role":"user","content":null}]=], "expected a string, got null" },
  { "content a number", [=[{"role":"user","content":5}]=],
    "one of a string or array of objects, but got an integer" },
  { "content an object", [=[{"role":"user","content":{"a":1}}]=], "but got an object" },
  { "an empty list of parts", [=[{"role":"user","content":[]}]=], "'messages%[0%]%.content': empty array" },
  { "a part without a type", [=[{"role":"user","content":[{"text":"x"}]}]=], "Supported values are: 'text'" },
  { "a part of another protocol", [=[{"role":"user","content":[{"type":"image","source":{}}]}]=],
    "Invalid value: 'image'" },
  { "a text part without text", [=[{"role":"user","content":[{"type":"text"}]}]=], "content%[0%]%.text'" },
  { "a part that is a string", [=[{"role":"user","content":["x"]}]=], "expected an object, but got a string" },
  { "tool_calls an empty object", [=[{"role":"assistant","content":"x","tool_calls":{}}]=],
    "'messages%[0%]%.tool_calls': expected an array of objects, but got an object instead" },
  { "an assistant without anything", [=[{"role":"assistant"}]=], "got null" },
  { "arguments as an object", [=[{"role":"assistant","tool_calls":[{"id":"a","type":"function",
    "function":{"name":"f","arguments":{}}}]}]=], "arguments': expected a string, but got an object" },
  { "a call without an id", [=[{"role":"assistant","tool_calls":[{"type":"function",
    "function":{"name":"f","arguments":""}}]}]=], "tool_calls%[0%]%.id" },
  { "a call without a type", [=[{"role":"assistant","tool_calls":[{"id":"a",
    "function":{"name":"f","arguments":""}}]}]=], "tool_calls%[0%]%.type" },
  { "a call without a name", [=[{"role":"assistant","tool_calls":[{"id":"a","type":"function",
    "function":{"arguments":""}}]}]=], "function%.name" },
  { "a call nobody answers", [=[{"role":"assistant","tool_calls":[{"id":"a","type":"function",
    "function":{"name":"f","arguments":""}}]},{"role":"user","content":"x"}]=], "did not have response messages: a" },
  { "a call at the end", [=[{"role":"assistant","tool_calls":[{"id":"a","type":"function",
    "function":{"name":"f","arguments":""}}]}]=], "must be followed by tool messages" },
  { "a result of no call", [=[{"role":"tool","tool_call_id":"a","content":"x"}]=],
    "must be a response to a preceding" },
  { "a result without an id", [=[{"role":"tool","content":"x"}]=], "tool_call_id" },
  { "a message that is a string", [=["x"]=], "expected an object, but got a string" },
}

T.test("OpenAI: messages that are at fault", function(t)
  for _, case in ipairs(MESSAGES) do
    refused(t, read_openai, case[1], ('{"model":"m","messages":[%s]}'):format(case[2]), case[3], case[4])
  end
end)

local FIELDS = {
  { "max_tokens a fraction", [=["max_tokens":1.5]=], "'max_tokens': expected an integer, but got a number" },
  { "max_tokens zero", [=["max_tokens":0]=], "integer below minimum value" },
  { "max_tokens a string", [=["max_tokens":"5"]=], "expected an integer, but got a string" },
  { "both limits", [=["max_tokens":5,"max_completion_tokens":5]=], "at the same time" },
  { "temperature too high", [=["temperature":2.5]=], "decimal above maximum value" },
  { "top_p too high", [=["top_p":1.01]=], "above maximum" },
  { "two answers", [=["n":2]=], "above maximum" },
  { "five stops", [=["stop":["a","b","c","d","e"]]=], "at most 4" },
  { "stops an object", [=["stop":{}]=], "Invalid 'stop'" },
  { "stream a string", [=["stream":"true"]=], "expected a boolean, but got a string" },
  { "stream_options without stream", [=["stream_options":{"include_usage":true}]=], "only allowed when 'stream'" },
  { "tools an empty object", [=["tools":{}]=], "expected an array of objects, but got an object" },
  { "tools an empty list", [=["tools":[]]=], "empty array" },
  { "a tool of the other protocol", [=["tools":[{"name":"f","input_schema":{}}]]=], "tools%[0%]" },
  { "a tool with a blank in its name", [=["tools":[{"type":"function","function":{"name":"a b"}}]]=],
    "does not match pattern" },
  { "parameters an empty list", [=["tools":[{"type":"function","function":{"name":"f","parameters":[]}}]]=],
    "expected an object, but got an array" },
  { "properties an empty list", [=["tools":[{"type":"function","function":{"name":"f","parameters":
    {"type":"object","properties":[]}}}]]=], "Invalid schema for function 'f': an array" },
  { "tool_choice without tools", [=["tool_choice":"auto"]=], "only allowed when 'tools'" },
  { "tool_choice of another protocol", [=["tool_choice":"any","tools":[{"type":"function",
    "function":{"name":"f"}}]]=],
    "no function named" },
  { "parallel_tool_calls without tools", [=["parallel_tool_calls":false]=], "only allowed when 'tools'" },
  { "a format that is none", [=["response_format":{"type":"json"}]=], "Invalid value: 'json'" },
  { "a schema without a name", [=["response_format":{"type":"json_schema","json_schema":{"schema":{}}}]=],
    "json_schema" },
}

T.test("OpenAI: parameters that are at fault", function(t)
  for _, case in ipairs(FIELDS) do
    refused(t, read_openai, case[1],
      ('{"model":"m","messages":[{"role":"user","content":"x"}],%s}'):format(case[2]), case[3])
  end
  refused(t, read_openai, "no model", [=[{"messages":[{"role":"user","content":"x"}]}]=], "provide a model")
  refused(t, read_openai, "no messages", [=[{"model":"m"}]=], "'messages'")
  refused(t, read_openai, "messages {}", [=[{"model":"m","messages":{}}]=], "but got an object")
  refused(t, read_openai, "messages []", [=[{"model":"m","messages":[]}]=], "empty array")
  refused(t, read_openai, "a list", "[]", "expects a JSON object")
end)

T.test("OpenAI: what is right is taken", function(t)
  local ask = taken(t, read_openai, "everything at once", [=[{"model":"vendor/m","stream":true,"max_tokens":512,
    "stream_options":{"include_usage":true},"temperature":0,"top_p":1,"seed":-3,"stop":"END","user":"u",
    "presence_penalty":-2,"logit_bias":{},"unknown_extension":{"x":1},"tool_choice":"auto",
    "parallel_tool_calls":false,
    "tools":[{"type":"function","function":{"name":"f","parameters":{}}},{"type":"function","function":{"name":"g"}}],
    "messages":[{"role":"developer","content":"d"},{"role":"system","content":[{"type":"text","text":"s"}]},
      {"role":"user","content":"q","name":"n"},
      {"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f",
    "arguments":"{"}},
        {"id":"b","type":"function","function":{"name":"g","arguments":""}}]},
      {"role":"tool","tool_call_id":"b","content":"two"},{"role":"tool","tool_call_id":"a",
    "content":[{"type":"text","text":"one"}]},
      {"role":"assistant","content":"done","tool_calls":[],"refusal":null},
      {"role":"user","content":[{"type":"text","text":"last"},{"type":"image_url","image_url":{"url":"data:x"}}]}]}]=])
  t.eq({ ask.prompt, ask.stream, ask.include_usage, ask.max_tokens, ask.parallel, ask.results }, { "last", true,
    true, 512, false })
  t.eq({ #ask.tools, ask.stops }, { 2, { "END" } })
  ask = taken(t, read_openai, "results at the end", [=[{"model":"m","messages":[{"role":"user","content":"q"},
    {"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},
    {"role":"tool","tool_call_id":"a","content":"r"}]}]=])
  t.eq({ ask.prompt, ask.results }, { "q", { { name = "f", text = "r" } } })
  taken(t, read_openai, "nulls are absent", [=[{"model":"m","stream":null,"max_tokens":null,"tools":null,"stop":null,
    "stream_options":null,"tool_choice":null,"response_format":null,"messages":[{"role":"user","content":""}]}]=])
end)

-- Anthropic ---------------------------------------------------------------------------------------------

local ANTHROPIC = {
  { "no role", [=[{"content":"x"}]=], "messages%.0%.role: Field required" },
  { "a role that is none", [=[{"role":"tool","content":"x"}]=], "Unexpected role \"tool\"" },
  { "the assistant first", [=[{"role":"assistant","content":"x"}]=], "first message must use the \"user\" role" },
  { "no content", [=[{"role":"user"}]=], "content: Field required" },
  { "empty content", [=[{"role":"user","content":""}]=], "must have non%-empty content" },
  { "an empty list", [=[{"role":"user","content":[]}]=], "must have non%-empty content" },
  { "content an object", [=[{"role":"user","content":{"type":"text","text":"x"}}]=], "valid list" },
  { "an empty text block", [=[{"role":"user","content":[{"type":"text","text":""}]}]=],
    "text content blocks must be non%-empty" },
  { "a blank text block", [=[{"role":"user","content":[{"type":"text","text":" \n"}]}]=], "non%-whitespace" },
  { "a block of the other protocol", [=[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]=],
    "Input tag 'image_url'" },
  { "an image without a source", [=[{"role":"user","content":[{"type":"image"}]}]=], "source: Field required" },
  { "a call in a user's message", [=[{"role":"user","content":[{"type":"tool_use","id":"a","name":"f",
    "input":{}}]}]=],
    "can only be in `assistant` messages" },
  { "a result of no call", [=[{"role":"user","content":[{"type":"tool_result","tool_use_id":"a"}]}]=],
    "unexpected `tool_use_id`" },
  { "input an empty list", [=[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use",
    "id":"a",
    "name":"f","input":[]}]}]=], "input: Input should be a valid dictionary" },
  { "an id with a colon", [=[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use",
    "id":"a:1",
    "name":"f","input":{}}]}]=], "should match pattern" },
  { "a call nobody answers", [=[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use",
    "id":"a",
    "name":"f","input":{}}]},{"role":"user","content":"y"}]=], "without `tool_result` blocks immediately after: a" },
  { "a call at the end", [=[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use","id":"a",
    "name":"f","input":{}}]}]=], "without `tool_result`" },
  { "text before the result", [=[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use",
    "id":"a",
    "name":"f","input":{}}]},{"role":"user","content":[{"type":"text","text":"y"},{"type":"tool_result",
    "tool_use_id":"a"}]}]=],
    "must come first" },
  { "thinking without its signature", [=[{"role":"user","content":"x"},{"role":"assistant",
    "content":[{"type":"thinking",
    "thinking":"t"},{"type":"text","text":"y"}]},{"role":"user","content":"z"}]=], "signature: Field required" },
  { "a last word that ends in a blank", [=[{"role":"user","content":"x"},{"role":"assistant","content":"So "}]=],
    "trailing whitespace" },
}

T.test("Anthropic: messages that are at fault", function(t)
  for _, case in ipairs(ANTHROPIC) do
    refused(t, read_anthropic, case[1], ('{"model":"m","max_tokens":5,"messages":[%s]}'):format(case[2]), case[3])
  end
end)

local ANTHROPIC_FIELDS = {
  { "max_tokens zero", [=["max_tokens":0]=], "max_tokens: Input should be greater" },
  { "max_tokens a fraction", [=["max_tokens":0.5]=], "valid integer" },
  { "no max_tokens", [=["stream":true]=], "max_tokens: Field required" },
  { "temperature too high", [=["max_tokens":5,"temperature":1.5]=], "temperature: range" },
  { "an OpenAI field", [=["max_tokens":5,"stop":["x"]]=], "stop: Extra inputs are not permitted" },
  { "system an object", [=["max_tokens":5,"system":{}]=], "system: Input should be" },
  { "an empty system block", [=["max_tokens":5,"system":[{"type":"text","text":""}]]=], "non%-empty" },
  { "a tool of the other protocol", [=["max_tokens":5,"tools":[{"type":"function","function":{"name":"f"}}]]=],
    "tools%.0" },
  { "a tool without a schema", [=["max_tokens":5,"tools":[{"name":"f"}]]=], "input_schema: Field required" },
  { "a schema without a type", [=["max_tokens":5,"tools":[{"name":"f","input_schema":{}}]]=], "should be 'object'" },
  { "properties an empty list", [=["max_tokens":5,"tools":[{"name":"f","input_schema":{"type":"object",
    "properties":[]}}]]=],
    "properties: Input should be a valid dictionary" },
  { "tool_choice a string", [=["max_tokens":5,"tools":[{"name":"f","input_schema":{"type":"object"}}],
    "tool_choice":"auto"]=],
    "tool_choice" },
  { "tool_choice without tools", [=["max_tokens":5,"tool_choice":{"type":"auto"}]=], "while providing tools" },
  { "a choice of no tool", [=["max_tokens":5,"tools":[{"name":"f","input_schema":{"type":"object"}}],
    "tool_choice":{"type":"tool","name":"g"}]=], "'g' not found" },
  { "too small a budget", [=["max_tokens":5000,"thinking":{"type":"enabled","budget_tokens":5}]=], "equal to 1024" },
  { "a budget above max_tokens", [=["max_tokens":1024,"thinking":{"type":"enabled","budget_tokens":1024}]=],
    "must be greater than `thinking" },
  { "thinking true", [=["max_tokens":5,"thinking":true]=], "thinking" },
  { "stops a string", [=["max_tokens":5,"stop_sequences":"x"]=], "valid list" },
  { "a blank stop", [=["max_tokens":5,"stop_sequences":["\n"]]=], "non%-whitespace" },
  { "stream a number", [=["max_tokens":5,"stream":1]=], "valid boolean" },
}

T.test("Anthropic: parameters that are at fault", function(t)
  for _, case in ipairs(ANTHROPIC_FIELDS) do
    refused(t, read_anthropic, case[1],
      ('{"model":"m","messages":[{"role":"user","content":"x"}],%s}'):format(case[2]), case[3])
  end
  refused(t, read_anthropic, "no messages", [=[{"model":"m","max_tokens":5}]=], "messages: Field required")
  refused(t, read_anthropic, "messages []", [=[{"model":"m","max_tokens":5,"messages":[]}]=], "at least one message")
  refused(t, read_anthropic, "messages {}", [=[{"model":"m","max_tokens":5,"messages":{}}]=], "valid list")
  refused(t, read_anthropic, "no model", [=[{"max_tokens":5}]=], "model: Field required")
  local ask, failure = read_anthropic({}, {})
  t.eq(ask, nil)
  t.match(failure.message, "anthropic%-version: header is required")
end)

T.test("Anthropic: the newer version refuses sampling", function(t)
  local body = json.decode [=[{"model":"m","max_tokens":5,"temperature":1,"messages":[{"role":"user",
    "content":"x"}]}]=]
  t.ok(read_anthropic(body, HEADERS))
  local _, failure = read_anthropic(body, { ["anthropic-version"] = "2026-10-21" })
  t.match(failure.message, "temperature: this parameter is not supported")
end)

T.test("Anthropic: what is right is taken", function(t)
  local ask = taken(t, read_anthropic, "everything at once", [=[{"model":"m","max_tokens":5000,"stream":true,
    "temperature":1,
    "system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],"stop_sequences":["END"],"top_k":40,
    "metadata":{"user_id":"u"},"thinking":{"type":"enabled","budget_tokens":1024},
    "tools":[{"name":"f","input_schema":{"type":"object","properties":{}}},{"type":"web_search_20250305",
    "name":"web_search"}],
    "tool_choice":{"type":"any","disable_parallel_tool_use":true},
    "messages":[{"role":"user","content":"q"},
      {"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"s"},
        {"type":"tool_use","id":"toolu_1","name":"f","input":{}},{"type":"tool_use","id":"toolu_2","name":"f",
    "input":{"a":[]}}]},
      {"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_2","content":"two","is_error":true},
        {"type":"tool_result","tool_use_id":"toolu_1"},{"type":"text","text":"and now?"}]},
      {"role":"system","content":"in between"},
      {"role":"assistant","content":"So"}]}]=])
  t.eq({ ask.stream, ask.choice, ask.parallel, ask.thinking, #ask.tools }, { true, "required", false, true, 1 })
  t.eq(ask.results, nil)
  ask = taken(t, read_anthropic, "results at the end", [=[{"model":"m","max_tokens":5,"messages":[
    {"role":"user","content":"q"},{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{}}]},
    {"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[{"type":"text","text":"r"}]}]}]}]=])
  t.eq({ ask.prompt, ask.results }, { "q", { { name = "f", text = "r" } } })
  taken(t, read_anthropic, "a beta brings fields", [=[{"model":"m","max_tokens":5,"new_field":1,"messages":[
    {"role":"user","content":"q"}]}]=], { ["anthropic-version"] = "2023-06-01", ["anthropic-beta"] = "new" })
end)

T.done()
