-- model:json: what is sent in each provider's way, what is found in an answer, repair, and errors.
local T = require "harness"
local sluice = require "sluice"
local mock = require "sluice.mock"
local content = require "sluice.provider.content"
local providers = require "sluice.provider"
local strict = require "sluice.schema.strict"
local structured = require "sluice.structured"
local scripted = require "scripted"

local json, schema = sluice.json, sluice.schema

-- Finding JSON ------------------------------------------------------------------------------------------

T.test("JSON is found where models put it", function(t)
  for _, case in ipairs {
    { '{"a":1}', { a = 1 } }, { ' \n[1,2]\n', { 1, 2 } }, { "3", 3 }, { '"x"', "x" },
    { 'Sure! Here it is:\n```json\n{"a":1}\n```\nAnything else?', { a = 1 } },
    { "```\n[1]\n```", { 1 } }, { "```json\r\n{\"a\":1}\r\n```", { a = 1 } },
    { 'The answer is {"a":{"b":"}"}} as you asked.', { a = { b = "}" } } },
    { 'Use {braces} like so: {"a":"\\"}\\\\"} ok', { a = '"}\\' } },
    { '<think>maybe {"a":0}</think>{"a":1}', { a = 1 } },
    { '{"a":1', nil }, { "no json here", nil }, { "", nil }, { "{ {{{ [[[ ", nil },
    { 'x ["unclosed {"a":1}', { a = 1 } },
  } do
    local found, value = structured.find(case[1])
    t.eq(found, case[2] ~= nil, case[1])
    t.eq(value, case[2], case[1])
  end
  local found, value = structured.find('[1] or {"a":2}', function(v) return v.a ~= nil end)
  t.eq({ found, value }, { true, { a = 2 } })
  t.eq(structured.find(("["):rep(100000)), false)
end)

T.test("the strict form: everything required, what may be missing may be null", function(t)
  local s = strict(schema { a = "string(..5): x", b = "integer? = 3", c = { "x", "y" }, ["d?"] = { "x", "y" },
    e = { f = "string?" }, g = "string[](1..2)" })
  t.eq(s.required, { "a", "b", "c", "d", "e", "g" })
  t.eq(s.properties.a, { type = "string", description = "x" })
  t.eq(s.properties.b, { type = { "integer", "null" } })
  t.eq(s.properties.c, { type = "string", enum = { "x", "y" } })
  t.eq(s.properties.d, { type = { "string", "null" }, enum = { "x", "y", json.null } })
  t.eq(s.properties.e.properties.f.type, { "string", "null" })
  t.eq(s.properties.g.minItems, 1)
  local raw = { type = "object", properties = { n = { ["$ref"] = "#/$defs/n" } }, ["$defs"] = { n = { type = "object",
    properties = { next = { ["$ref"] = "#/$defs/n" } }, additionalProperties = false } } }
  t.eq(strict(raw).properties.n.anyOf[2], { type = "null" })
  t.eq(strict(raw)["$defs"].n.required, { "next" })
  t.eq(raw.properties.n, { ["$ref"] = "#/$defs/n" }, "the original is left alone")
  for _, open in ipairs { schema { a = "any" }, schema { a = "object" }, { type = "object" }, schema "array",
    { type = "object", properties = {}, additionalProperties = true },
    { type = "object", properties = { a = { allOf = { { type = "string" } } } } } } do
    t.eq(strict(open), nil)
  end
end)

-- What is sent ------------------------------------------------------------------------------------------

--- The body a provider's protocol would send for what structured asks.
local function body_of(provider, protocol, fields)
  local resolved = providers.get(provider, protocol)
  local captured
  local model = sluice.model { provider = provider, protocol = protocol, model = "m", auth = "k", retry = false,
    base_url = resolved.base_url, defaults = fields and fields.defaults, transport = function()
      return { request = function(_, body)
        captured = json.decode(body)
        return nil, "network", "connect", "not here"
      end }
    end }
  local req = { prompt = "go" }
  for key, value in pairs(fields or {}) do if key ~= "defaults" then req[key] = value end end
  pcall(model.json, model, req, { name = "string", age = "integer?" })
  return captured
end

T.test("each provider is asked in its own way", function(t)
  local b = body_of("openai")
  t.eq({ b.response_format.type, b.response_format.json_schema.strict }, { "json_schema", true })
  t.eq(b.response_format.json_schema.schema.required, { "age", "name" })
  t.match(b.messages[1].content, "Answer with one JSON object")
  t.eq(b.messages[2], { role = "user", content = "go" })
  for _, name in ipairs { "siliconflow", "deepseek" } do
    b = body_of(name)
    t.eq(b.response_format, { type = "json_object" })
    t.match(b.messages[1].content, '"required":%["name"%]')
  end
  b = body_of("anthropic")
  t.eq(b.tool_choice, { type = "tool", name = "answer" })
  t.eq(b.tools[1].input_schema.required, { "name" })
  t.eq({ b.system, b.response_format, b.output_config }, {})
  b = body_of("anthropic", nil, { thinking = { budget = 2000 } })
  t.eq({ b.tool_choice, b.output_config.format.type }, { nil, "json_schema" })
  t.match(b.system, "Answer with one JSON object")
  b = body_of("siliconflow", "anthropic")
  t.eq(b.tool_choice.name, "answer")
end)

T.test("the words join what system says already, the model's own default too", function(t)
  local b = body_of("siliconflow", nil, { system = "Be terse." })
  t.match(b.messages[1].content, "^Be terse%.\n\nAnswer with one JSON object")
  b = body_of("siliconflow", nil, { defaults = { system = "Be kind." } })
  t.match(b.messages[1].content, "^Be kind%.\n\nAnswer with")
  b = body_of("openai", nil, { system = { { type = "text", text = "Parts." } } })
  t.match(json.encode(b.messages[1]), "Parts%..*Answer with one JSON object")
end)

T.test("a plain response_format is sent as it was", function(t)
  local request = { response_format = { schema = { type = "object" }, name = "x" } }
  t.eq(content.json_mode(request, "tool"), nil)
  t.eq((content.response_format(request)), "schema")
end)

-- Answers -----------------------------------------------------------------------------------------------

local PERSON = { name = "string", age = "integer(0..150)?" }
local model_json = sluice.model { provider = "openai", model = "m", auth = "k", base_url = "http://127.0.0.1:1/v1" }.json

T.test("a value, defaults in, null for what may be missing", function(t)
  local m = scripted { { text = '{"name":"Ada","age":null}' } }
  local value, reply = model_json(m, "who", { name = "string", age = "integer?", lang = "string = en" })
  t.eq(value, { name = "Ada", lang = "en" })
  t.eq({ reply.rounds, reply.total.total_tokens }, { 1, 15 })
  t.eq(model_json(scripted { { text = '{"value":["a","b"]}' } }, "x", "string[]"), { "a", "b" })
  t.eq(model_json(scripted { { text = '["a","b"]' } }, "x", "string[]"), { "a", "b" })
  t.eq(model_json(scripted { { text = "Yes: {\"value\": true}" } }, "x", "boolean"), true)
  t.eq(model_json(scripted { { text = '{"value":"b"}' } }, "x", { "a", "b" }), "b")
end)

T.test("repair: the model sees its answer and what is wrong", function(t)
  local m = scripted { { text = '{"name":1}' }, { text = '{"name":"Ada"}' } }
  local value, reply = model_json(m, { prompt = "who", system = "s" }, PERSON)
  t.eq(value, { name = "Ada" })
  t.eq({ reply.rounds, reply.total.total_tokens }, { 2, 30 })
  local second = m.requests[2]
  t.eq(second.messages[1], { role = "user", content = "who" })
  t.eq({ second.messages[2].role, second.messages[2].content }, { "assistant", '{"name":1}' })
  t.match(second.prompt, "/name: expected a text, got 1")
  t.eq(second.system, "s")
end)

T.test("repair of an answer that came as a call", function(t)
  local m = scripted { { calls = { { "answer", { name = 1 } } } }, { calls = { { "answer", { name = "Ada" } } } } }
  t.eq(model_json(m, "who", PERSON), { name = "Ada" })
  local second = m.requests[2]
  t.eq({ second.messages[3].role, second.messages[3].tool_call_id, second.messages[3].is_error },
    { "tool", "call_1_1", true })
end)

T.test("errors: no JSON, not the schema, cut off; the text is kept, the rounds are bounded", function(t)
  local m = scripted { { text = "I would rather not." } }
  local err = t.raises("protocol", function() model_json(m, "who", PERSON) end)
  t.eq({ err.code, err.partial, #m.requests }, { "no_json", "I would rather not.", 2 })
  t.match(tostring(err), "the answer holds no JSON %(asked again 1 time%)")
  m = scripted { { text = '{"name":"A","age":200}' } }
  err = t.raises("protocol", function() model_json(m, "who", PERSON, { repairs = 2 }) end)
  t.eq({ err.code, #m.requests, err.faults }, { "schema", 3, { "/age: must be at most 150, got 200" } })
  m = scripted { { text = '{"name":"A' , finish = "length" } }
  err = t.raises("protocol", function() model_json(m, "who", PERSON) end)
  t.eq({ err.code, #m.requests, err.partial }, { "cut_off", 1, '{"name":"A' })
  m = scripted { { text = "no" } }
  t.raises("protocol", function() model_json(m, "who", PERSON, { repairs = 0 }) end)
  t.eq(#m.requests, 1)
end)

T.test("a server that refuses the form is asked in a simpler one, and that is remembered", function(t)
  local m = scripted { function(req)
    if req.response_format.mode ~= "text" then
      return { err = { kind = "invalid", status = 400, message = "Unknown parameter: 'response_format'" } }
    end
    return { text = '```json\n{"name":"Ada"}\n```' }
  end }
  t.eq(model_json(m, "who", PERSON), { name = "Ada" })
  t.eq(#m.requests, 3)
  model_json(m, "who", PERSON)
  t.eq(#m.requests, 4)
  local other = scripted { { err = { kind = "invalid", message = "no such model" } } }
  t.raises("invalid", function() model_json(other, "who", PERSON) end)
  t.eq(#other.requests, 1)
end)

T.test("wrong arguments", function(t)
  local m = scripted { { text = "{}" } }
  t.raises("model:json: 'a': unknown type 'strin'", function() model_json(m, "x", { a = "strin" }) end)
  t.raises("field 'response_format' is what the schema stands for", function()
    model_json(m, { prompt = "x", response_format = "json" }, PERSON)
  end)
  t.raises("unknown option 'repair'", function() model_json(m, "x", PERSON, { repair = 1 }) end)
  t.eq(#m.requests, 0)
end)

-- On the wire -------------------------------------------------------------------------------------------

local function models(provider, opts)
  local function make(name, protocol)
    local all = { provider = name, protocol = protocol, model = "m", auth = "k",
      base_url = provider.url .. (protocol == "openai" and "/v1" or "") }
    for key, value in pairs(opts or {}) do all[key] = value end
    return sluice.model(all)
  end
  return { openai = make("openai", "openai"), siliconflow = make("siliconflow", "openai"),
    anthropic = make("anthropic", "anthropic"), thoughtful = make("anthropic", "anthropic"):with {
      defaults = { thinking = { budget = 1024 }, max_tokens = 4000 } } }
end

T.test("the mock answers in every mode, over a fallback too, and after a repair", function(t)
  local want = { city = "string", days = "integer(1..7)", unit = { "celsius", "fahrenheit" }, ["note?"] = "string",
    stops = { { name = "string" } } }
  local provider <close> = mock.start { pace = 0 }
  for name, model in pairs(models(provider)) do
    local value, reply = model:json("Plan for Paris, 3 days", want)
    t.eq({ value.city, value.days, value.unit, type(value.stops[1].name) }, { "Paris", 3, "celsius", "string" }, name)
    t.ok(reply.usage.output_tokens > 0)
    t.eq(model:json("Name three colours", "string[]")[1] ~= nil, true, name)
    t.eq(sluice.fallback({ model }):json("Plan for Paris, 3 days", want).city, "Paris", name)
  end
end)

T.test("the mock answers what is of no use first: one repair in every mode", function(t)
  for _, name in ipairs { "openai", "siliconflow", "anthropic", "thoughtful" } do
    local clumsy <close> = mock.start { pace = 0, scenario = { { nth = 1, text = "Let me think." } } }
    local value, reply = models(clumsy)[name]:json("Plan for Paris", { city = "string" })
    t.eq({ type(value.city), reply.rounds, #clumsy.requests }, { "string", 2, 2 }, name)
  end
end)

T.test("over steps that speak other protocols, rules that hand on, and rules in a file", function(t)
  local provider <close> = mock.start { pace = 0, scenario = { { model = "down", status = 503 } } }
  local all = models(provider)
  local down = sluice.model { provider = "openai", model = "down", auth = "k", base_url = provider.url .. "/v1", retry = false }
  local value, reply = sluice.fallback({ down, all.anthropic }):json("Plan for Paris", { city = "string" })
  t.eq({ value, reply.degraded.step }, { { city = "Paris" }, 2 })
  value = sluice.fallback({ down, function(req) return all.siliconflow:ask(req) end }):json("Plan for Paris", { city = "string" })
  t.eq(value, { city = "Paris" })
  value = sluice.fallback({ down, function() return '{"city":"nowhere"}' end }):json("Plan for Paris", { city = "string" })
  t.eq(value, { city = "nowhere" })
  local path = T.tmpdir() .. "/rules.lua"
  T.write(path, "return { function() return '{\"city\":\"somewhere\"}' end }")
  t.eq(sluice.rules(path):json("x", { city = "string" }), { city = "somewhere" })
end)

T.test("through a cache and a budget", function(t)
  local provider <close> = mock.start { pace = 0 }
  local model = models(provider).siliconflow
  local cached = sluice.cache():watch(model)
  t.eq(cached:json("Paris", { city = "string" }), { city = "example" })
  local guarded = sluice.budget({ tokens = 1e6 | 0 }):guard(model)
  t.eq(type(guarded:json("Go to Paris", { city = "string" }).city), "string")
end)

T.done()
