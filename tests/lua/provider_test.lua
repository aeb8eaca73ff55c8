-- The registry: who is known, where they are, what is odd about them; and providers of one's own.
-- luacheck: no max line length (bodies stand as on the wire, cases on one line)
local T = require "harness"
local json = require "sluice.json"
local provider = require "sluice.provider"

T.test("the built-in providers", function(t)
  t.eq(provider.names(), { "anthropic", "deepseek", "mock", "ollama", "openai", "openrouter", "siliconflow" })
  for _, name in ipairs(provider.names()) do
    for _, protocol in ipairs { "openai", "anthropic" } do
      local p = provider.get(name, protocol)
      t.eq(p.name, name)
      t.eq(p.protocol_name, protocol)
      for _, f in ipairs { "request", "event", "reply", "failure", "auth" } do t.eq(type(p[f]), "function", name .. "." .. f) end
      t.ok(type(p.quirks) == "table")
      if p.base_url then
        t.match(p.base_url, "^https?://")
        t.eq(p.base_url:find("/v1$") ~= nil, protocol == "openai", name .. ": /v1 belongs to openai only")
      end
      t.ok(p.keyless or #p.key_env > 0, name)
      t.ok(provider.get(name, protocol) == p, "the same table each time")
    end
  end
  t.eq(provider.get("siliconflow").base_url, "https://api.siliconflow.cn/v1")
  t.eq(provider.get("siliconflow", "anthropic").base_url, "https://api.siliconflow.cn")
  t.eq(provider.get("anthropic").protocol_name, "anthropic")
  t.eq(provider.get("openai").base_url_env, "OPENAI_BASE_URL")
  t.eq(provider.get("anthropic").base_url_env, "ANTHROPIC_BASE_URL")
  t.eq(provider.get("mock").base_url, nil)
end)

T.test("keys go where each wants them", function(t)
  t.eq({ provider.get("siliconflow").auth() }, { "Authorization", "Bearer " })
  t.eq({ provider.get("siliconflow", "anthropic").auth() }, { "Authorization", "Bearer " })
  t.eq({ provider.get("anthropic").auth() }, { "x-api-key", "" })
  t.eq({ provider.get("deepseek", "anthropic").auth() }, { "x-api-key", "" })
end)

T.test("unknown names", function(t)
  t.raises("sluice.model: unknown provider 'siliconflw' %(did you mean 'siliconflow'%?%)", provider.get, "siliconflw")
  t.raises("f: unknown provider 'zzz' %(known: anthropic, deepseek", provider.get, "zzz", nil, "f")
  t.raises("unknown provider nothing", provider.get, nil)
  t.raises("option 'protocol' must be 'openai' or 'anthropic', got 'opnai' %(did you mean 'openai'%?%)", provider.get, "openai", "opnai")
end)

T.test("addresses", function(t)
  t.eq(provider.join("https://a/v1", "/chat/completions"), "https://a/v1/chat/completions")
  t.eq(provider.join("https://a/v1/", "/chat/completions"), "https://a/v1/chat/completions")
  t.eq(provider.join("https://a", "/v1/messages"), "https://a/v1/messages")
  t.eq(provider.join("https://a/", "/v1/messages"), "https://a/v1/messages")
  t.eq(provider.join("https://a/v1", "/v1/messages"), "https://a/v1/messages", "a base meant for the other protocol")
  t.eq(provider.join("https://a/anthropic", "/v1/messages"), "https://a/anthropic/v1/messages")
  t.eq(provider.host "https://u:p@API.x.com:8443/v1?y", "api.x.com")
  t.eq(provider.host "http://127.0.0.1:11434/v1", "127.0.0.1")
  t.eq(provider.host "nonsense", nil)
  t.eq({ provider.split "siliconflow/deepseek-ai/DeepSeek-V3" }, { "siliconflow", "deepseek-ai/DeepSeek-V3" })
  t.eq(provider.split "gpt", nil)
end)

T.test("quirks belong to a host, whatever name it is used under", function(t)
  local openai = provider.get "openai"
  t.eq(provider.quirks(openai, "https://api.openai.com/v1").max_tokens_field, "max_completion_tokens")
  t.eq(provider.quirks(openai, "https://llm.corp.example/v1"), {})
  t.eq(provider.quirks(openai, "https://api.siliconflow.com/v1").thinking, "enable")
  t.eq(provider.quirks(provider.get "siliconflow", "https://gateway.corp/v1").thinking, "enable")
  t.eq(provider.quirks(provider.get("anthropic"), "https://api.siliconflow.cn").tool_choice_any, false)
  t.eq(provider.quirks(provider.get("siliconflow", "anthropic")).adaptive, false)
end)

-- One's own ----------------------------------------------------------------------------------------

T.test("a provider that only has an address", function(t)
  local p = provider.register { name = "corp", protocol = "openai", base_url = "https://llm.corp/v1", key_env = "CORP_KEY",
    headers = { ["X-Team"] = "blue" }, quirks = { max_tokens_field = "max_completion_tokens" } }
  t.ok(provider.get "corp" == p)
  t.eq({ p.base_url, p.key_env, p.headers, p.protocol_name, p.fast }, { "https://llm.corp/v1", { "CORP_KEY" }, { ["X-Team"] = "blue" }, "openai", "openai" })
  t.eq(p.request({ model = "m", prompt = "x", max_tokens = 3, quirks = p.quirks }).body.max_completion_tokens, 3)
  provider.register { name = "corp", base_url = "https://other/v1" }
  t.eq(provider.get("corp").base_url, "https://other/v1", "a second time replaces the first")
end)

T.test("functions of one's own build on the protocol's", function(t)
  local p = provider.register { name = "mine", protocol = "openai", base_url = "http://x/v1",
    request = function(call, base)
      local r = base(call)
      r.path = "/my/chat"
      r.body.tag = "t"
      return r
    end,
    event = function(ev, base)
      if ev.event == "mine" then return { { type = "text", text = ev.data:upper() } } end
      return base(ev)
    end,
    reply = function(decoded, base) return base(decoded.wrapped) end,
    failure = function(status, headers, body, now, base)
      local fields = base(status, headers, body, now)
      fields.code = "mine"
      return fields
    end,
    auth = "api-key" }
  local r = p.request { model = "m", prompt = "x" }
  t.eq({ r.path, r.body.tag, r.body.model }, { "/my/chat", "t", "m" })
  t.eq(p.event { event = "mine", data = "abc" }, { { type = "text", text = "ABC" } })
  t.eq(p.event { data = "[DONE]" }, { { type = "done" } })
  t.eq(p.reply({ wrapped = { choices = { { message = { content = "x" }, finish_reason = "stop" } } } })[1], { type = "text", text = "x" })
  local fields = p.failure(503, {}, "busy")
  t.eq({ fields.kind, fields.code, fields.message }, { "overloaded", "mine", "busy" })
  t.eq({ p.auth() }, { "api-key", "" })
  t.eq(p.fast, nil, "an own event() must see every event")
end)

T.test("a protocol of one's own", function(t)
  local protocol = { request = function(call) return { method = "POST", path = "/gen", headers = {}, body = { q = call.prompt } } end,
    event = function(ev) return { { type = "text", text = ev.data } } end }
  local p = provider.register { name = "odd", protocol = protocol, base_url = "http://x", auth = function() return "X-Key", "Key " end }
  t.eq(p.request({ prompt = "x" }).body, { q = "x" })
  t.eq({ p.auth() }, { "X-Key", "Key " })
  t.eq(p.reply, nil, "whole answers are asked for as streams")
  t.eq(p.failure(429, {}, "slow").kind, "rate_limited", "failures are read as everybody's")
  t.eq(p.fast, nil)
  local q = provider.register { name = "odd2", request = protocol.request, event = protocol.event }
  t.eq(q.reply, nil)
  t.eq({ provider.register({ name = "odd3", protocol = protocol }).auth() }, { "Authorization", "Bearer " })
end)

T.test("what is wrong with a definition", function(t)
  for _, case in ipairs {
    { {}, "sluice.provider: option 'name' is missing" },
    { { name = "a/b" }, "option 'name' must be letters, digits" },
    { { name = "x", protocl = "openai" }, "unknown option 'protocl' (did you mean 'protocol'?)" },
    { { name = "x", protocol = "grpc" }, "option 'protocol' must be 'openai', 'anthropic' or a table with request and event" },
    { { name = "x", protocol = {} }, "option 'protocol' must be a table with functions request and event" },
    { { name = "x", event = print }, "option 'request' is missing" },
    { { name = "x", quirks = { thinkin = "enable" } }, "unknown quirk 'thinkin' (did you mean 'thinking'?)" },
    { { name = "x", quirks = { openai = { thinking = "enabled" } } }, "quirks for openai: quirk 'thinking' must be" },
  } do
    local ok, err = pcall(provider.register, case[1])
    t.ok(not ok)
    t.ok(tostring(err):find(case[2], 1, true), tostring(err))
  end
end)

-- Bodies written once --------------------------------------------------------------------------------

T.test("a template makes the same body as a request", function(t)
  for _, name in ipairs { "openai", "anthropic", "siliconflow", "deepseek" } do
    for _, stream in ipairs { true, false } do
      local p = provider.get(name)
      local call = { model = "m", system = "be \"brief\"", temperature = 0.2, max_tokens = 7, stream = stream, quirks = p.quirks,
        tools = { { name = "f", description = "d" } } }
      local template = provider.template(p, call)
      t.eq(call.prompt, nil)
      for _, prompt in ipairs { "hi", "a \"quoted\"\nline \\ 好", "x\0y" } do
        call.prompt = prompt
        local r = p.request(call)
        t.eq(json.decode(template.prefix .. json.quote(prompt) .. template.suffix), json.decode(json.encode(r.body)), name)
        t.eq({ template.request.path, template.request.headers, template.request.method }, { r.path, r.headers, r.method })
      end
    end
  end
end)

T.test("no template where the prompt has no one place", function(t)
  local twice = provider.register { name = "twice", protocol = { request = function(call)
    return { method = "POST", path = "/", headers = {}, body = { a = call.prompt, b = call.prompt } }
  end, event = print } }
  t.eq(provider.template(twice, { model = "m" }), nil)
  local mixed = provider.register { name = "mixed", protocol = { request = function(call)
    return { method = "POST", path = "/", headers = {}, body = { a = "Q: " .. call.prompt } }
  end, event = print } }
  t.eq(provider.template(mixed, { model = "m" }), nil)
  local text = provider.register { name = "text", protocol = { request = function(call)
    return { method = "POST", path = "/", headers = {}, body = call.prompt }
  end, event = print } }
  t.eq(provider.template(text, { model = "m" }), nil)
end)

T.done()
