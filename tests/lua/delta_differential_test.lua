-- The shortcuts in C (base/delta, base/memo, base/answer) against the full decode in Lua, on thousands of
-- chunks as real providers send them and mutations of those: whenever a shortcut answers, the full decode
-- must give the same and nothing beside it. Over a real socket, through the reading code of the product.
-- timeout: 180

local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local core = require "sluice.core.http"
local json = require "sluice.json"
local providers = require "sluice.provider"
local usage_of = require "sluice.provider.usage"

local ROUNDS = T.slow and 12 or 40
local random = math.random

-- Chunks of the wild --------------------------------------------------------------------------------------------
-- $ stands where a JSON string goes.

local CHUNKS = {
  openai = {
    '{"id":"chatcmpl-9x","object":"chat.completion.chunk","created":1763840000,"model":"gpt-5","service_tier":"default",'
      .. '"system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":$},"logprobs":null,"finish_reason":null}],'
      .. '"usage":null,"obfuscation":"kQ3x"}',
    '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":$},"finish_reason":null}]}',
    '{"id":"0190","object":"chat.completion.chunk","created":1,"model":"deepseek-ai/DeepSeek-V3","choices":[{"index":0,"delta":'
      .. '{"content":$,"reasoning_content":null},"finish_reason":null}],"system_fingerprint":"","usage":{"prompt_tokens":9,'
      .. '"completion_tokens":2,"total_tokens":11,"completion_tokens_details":{"reasoning_tokens":0},"prompt_tokens_details":'
      .. '{"cached_tokens":4},"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":5}}', -- SiliconFlow
    '{"id":"gen-1","provider":"X","model":"a/b","object":"chat.completion.chunk","created":1,"choices":[{"index":0,"delta":'
      .. '{"role":"assistant","content":$,"reasoning":null,"reasoning_details":[]},"finish_reason":null,"native_finish_reason":null,'
      .. '"logprobs":null}]}', -- OpenRouter
    '{"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1, "model": "q", "choices": [{"index": 0, "delta": '
      .. '{"content": $}, "logprobs": null, "finish_reason": null, "token_ids": null}], "prompt_token_ids": null}', -- vLLM, with blanks
    '{"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},"delta":{"content":$},'
      .. '"finish_reason":null,"index":0,"logprobs":null}],"created":1,"id":"c","model":"gpt","object":"chat.completion.chunk"}', -- Azure
    '{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":$,"tool_calls":null,"refusal":null},"finish_reason":""}]}',
    '{"model":"llama3","created_at":"2025","choices":[{"index":0,"delta":{"role":"assistant","content":$},"finish_reason":null}]}',
    '{"id":"c","choices":[{"index":0,"delta":{"reasoning_content":$},"finish_reason":null}]}',
    '{"id":"c","choices":[{"index":0,"delta":{"content":"","reasoning":$},"finish_reason":null}]}',
    '{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f","arguments":$}}]},"finish_reason":null}]}',
    '{"id":"c","choices":[{"index":0,"delta":{"content":[{"type":"text","text":$}]},"finish_reason":null}]}', -- Mistral
    '{"id":"c","choices":[{"index":0,"delta":{"content":$},"finish_reason":"stop"}]}',
    '{"id":"c","choices":[{"index":1,"delta":{"content":$},"finish_reason":null}]}',
    '{"error":{"message":$,"type":"server_error"}}', '{"object":"error","message":$,"code":500}',
    '{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}',
  },
  anthropic = {
    '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":$}}',
    '{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":$}       }',
    '{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": $}}',
    '{"delta":{"text":$,"type":"text_delta"},"index":0,"type":"content_block_delta"}',
    '{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":$}}',
    '{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":$}}',
    '{"type":"content_block_delta","index":0,"delta":{"type":"citations_delta","citation":{"cited_text":$}}}',
    '{"type":"ping"}', '{"type":"content_block_stop","index":0}',
    '{"type":"message_delta","delta":{"stop_reason":null},"usage":{"output_tokens":5}}',
    '{"type":"error","error":{"type":"overloaded_error","message":$}}',
    '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":$}}',
  },
}
local PLAIN = { openai = 6, anthropic = 4 } -- the first so many are plain text

local REPLIES = {
  openai = {
    '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-5","choices":[{"index":0,"message":{"role":"assistant",'
      .. '"content":$,"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,'
      .. '"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":2,"audio_tokens":0},'
      .. '"completion_tokens_details":{"reasoning_tokens":1,"audio_tokens":0}},"service_tier":"default","system_fingerprint":null}',
    '{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":$},"finish_reason":"length"}],'
      .. '"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_cache_hit_tokens":8}}',
    '{"id": "c", "object": "chat.completion", "model": "q", "choices": [{"index": 0, "message": {"role": "assistant", "content": $, '
      .. '"reasoning_content": null, "tool_calls": []}, "finish_reason": "stop", "stop_reason": null}], "usage": {"prompt_tokens": 9, '
      .. '"total_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": null}, "prompt_logprobs": null}',
    '{"choices":[{"message":{"content":$,"reasoning_content":"hm"},"finish_reason":"stop"}]}',
    '{"choices":[{"message":{"content":null,"tool_calls":[{"id":"t","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}],"x":$}',
    '{"choices":[{"message":{"content":$},"finish_reason":"content_filter"}]}', '{"error":{"message":$}}',
    '{"choices":[{"message":{"content":$,"refusal":"no"},"finish_reason":"stop"}]}',
  },
  anthropic = {
    '{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":$}],"stop_reason":"end_turn",'
      .. '"stop_sequence":null,"usage":{"input_tokens":25,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"output_tokens":15,'
      .. '"service_tier":"standard"}}',
    '{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"text","text":$}],"model":"c","stop_reason":"max_tokens",'
      .. '"usage":{"input_tokens":25,"output_tokens":15}}',
    '{"type":"message","content":[{"type":"thinking","thinking":$,"signature":"s"},{"type":"text","text":"x"}],"stop_reason":"end_turn"}',
    '{"type":"message","content":[{"type":"text","text":$},{"type":"text","text":"two"}],"stop_reason":"end_turn"}',
    '{"type":"message","content":[],"stop_reason":"refusal","x":$}', '{"type":"error","error":{"type":"api_error","message":$}}',
    '{"type":"message","content":[{"type":"tool_use","id":"t","name":"f","input":{"a":$}}],"stop_reason":"tool_use"}',
  },
}

-- Mutations -------------------------------------------------------------------------------------------------------

local WORDS = { '"a"', '" the"', '"服务"', '"\u{1F388}"', '""', '"\\n"', '"\\"q\\""', '"\\u4e16\\u754c"', '"\\ud83c\\udf88"', '"\\ud83c"',
  '"\\udf88x"', '"\\u0000"', '"a\\/b"', '"\\x"', '"\\u12"', '"tab\there"', '"\\\\"', '"end\\\\"', '"}]}"', '"\\"}}]}\\n\\n"', 'null', '5',
  '"' .. ("long "):rep(60) .. '"', '"é\xCC\x81"', '"\xFF"', '"\xE2\x82"', '"a\x7Fb"', '"\\uD83C\\uDF88\\u00e9"' }

-- Two things are left out on purpose, for the shortcut is content with them and the decode is not: a number
-- beyond a double (1e400) in a field that nobody reads, and "object":"error" beside an Anthropic delta.
local SPLICES = { ',"error":{"message":"boom"}', ',"error":null', ',"error":"x"', ',"error":""', ',"error":{}', ',"error":false',
  ',"finish_reason":"stop"', ',"finish_reason":null', ',"content":"again"', ',"content":null', ',"\\u0063ontent":"sly"', ',"text":"other"',
  ',"tool_calls":[{"index":0}]', ',"tool_calls":[]', ',"reasoning":"hm"', ',"reasoning_content":""', ',"refusal":"no"', ',"function_call":null',
  ',"usage":{"prompt_tokens":1,"completion_tokens":2}', ',"usage":null', ',"usage":[]', ',"usage":{}', ',"usage":{"prompt_tokens":1.5}',
  ',"index":1', ',"index":0', ',"index":0.0', ',"index":-0', ',"index":"0"', ',"index":null', ',"type":"error"', ',"type":"text_delta"',
  ',"role":"user"', ',"role":null', ',"n":1e40', ',"n":-1e-400', ',"n":123456789012345678901234567890', ',"n":01', ',"n":1.', ',"n":+1', ',"n":.5',
  ',"n":NaN', ',"n":nul', ',"n":[1,2,{"a":[]}]', ',"n":' .. ("["):rep(140) .. ("]"):rep(140), ',"n":' .. ("["):rep(110) .. ("]"):rep(110), ',', ' ', '\t',
  '"', '\\', '{', '}', '[', ']', ':', '\0', '\x1F', '\xEF\xBB\xBF', '\xC2\xA0', ',"choices":[]', ',"delta":{}', ',"delta":null', ',"message":{"content":"m"}',
  ',"message":null', ',"message":"words"', ',"logprobs":{"content":[]}', ',"":0', ',"citation":{"a":1}', ',"citation":null', ',"stop_reason":"end_turn"' }

local function word()
  return random() < 0.7 and ('"w%d "'):format(random(0, 999)) or WORDS[random(#WORDS)]
end

local function fill(template)
  local text = word()
  return (template:gsub("%$", function() return text end))
end

local MUTATIONS = {
  function(s) -- a splice, most often where it makes sense
    local at = random(#s)
    local brace = s:find("[,}%]]", at) or at
    return s:sub(1, brace - 1) .. SPLICES[random(#SPLICES)] .. s:sub(brace)
  end,
  function(s) local at = random(#s) return s:sub(1, at - 1) .. s:sub(at + random(3)) end,
  function(s) local at = random(#s) return s:sub(1, at - 1) .. string.char(random(0, 255)) .. s:sub(at + random(0, 1)) end,
  function(s) local from = random(#s) local to = random(from, math.min(#s, from + 40)) return s:sub(1, to) .. s:sub(from) end,
  function(s) return s:sub(1, random(#s)) end,
  function(s) return (s:gsub("null", function() return random() < 0.3 and SPLICES[random(#SPLICES)]:match ":(.*)" or nil end)) end,
  function(s) return (s:gsub('"(%w+)":', function(key) if random() < 0.15 then return ('"%s" :'):format(key) end end)) end,
  function(s) return (s:gsub('"(%w)(%w+)":', function(a, b)
    if random() < 0.1 then return ('"\\u%04x%s":'):format(a:byte(), b) end
  end)) end,
  function(s) return (s:gsub(":0", function() return random() < 0.5 and ":1" or nil end)) end,
  function(s) return s .. SPLICES[random(#SPLICES)] end,
}

local function mutated(s)
  for _ = 1, random(2) do s = MUTATIONS[random(#MUTATIONS)](s) end
  if random() < 0.02 and s:find '"choices": ?%[{' then s = s:gsub("}$", ',"object":"error"}') end
  s = s:gsub("(%d[eE]%+?%d%d)%d+", "%1") -- see above: no number beyond a double
  return (s:gsub("[\r\n]", " ")) -- one data line
end

-- Names an event may have; most have the usual one.
local function name_of(protocol, data)
  if random() < 0.04 then return ({ "error", "ping", "content_block_delta", "x", "message" })[random(5)] end
  if protocol == "openai" then return nil end
  return random() < 0.1 and "" or data:match '"type": ?"([%w_]+)"'
end

--- A stream of n chunks: runs of one plain form, as providers send them, with others in between.
local function chunks_of(protocol, n)
  local templates, list = CHUNKS[protocol], {}
  local usual = templates[random(PLAIN[protocol])]
  for i = 1, n do
    local dice = random()
    if dice < 0.03 then usual = templates[random(PLAIN[protocol])] end
    local data = fill(dice < 0.75 and usual or templates[random(#templates)])
    if random() < 0.35 then data = mutated(data) end
    list[i] = S.sse(data:gsub("[\r\n]", " "), name_of(protocol, data))
  end
  return list
end

-- Event by event ----------------------------------------------------------------------------------------------------

local function open(server, path)
  local endpoint = core.endpoint { method = "GET", url = server.url .. path, headers = {}, connect = 5, total = 60 }
  local handle, _, _, why = endpoint:stream(nil, nil)
  assert(handle, why)
  return handle
end

local function server_of(bodies)
  return S.start(function(req, res)
    local body, cut = bodies[tonumber(req.path:match "%d+")], req.path:find "cut"
    res:start(200, S.EVENTS)
    if not cut then res:write(body) end
    for i = 1, cut and #body or 0, 1500 do -- some events arrive in two
      res:write(body:sub(i, i + 1499))
      res:flush()
    end
    res:finish()
  end)
end

local function important(deltas)
  local list = {}
  for _, delta in ipairs(deltas) do
    if delta.type ~= "meta" and delta.type ~= "usage" then list[#list + 1] = delta end
  end
  return list
end

local function usage_in(deltas)
  local usage
  for _, delta in ipairs(deltas) do
    if delta.type == "usage" then usage = delta.usage end
  end
  return usage
end

local function meta_in(deltas)
  for _, delta in ipairs(deltas) do
    if delta.type == "meta" then return { delta.id, delta.model } end
  end
end

for _, protocol in ipairs { "openai", "anthropic" } do
  T.test(protocol .. ": text that C hands out is all the event says", function(t)
    local spoken = providers.get("openai", protocol)
    local bodies = {}
    for i = 1, ROUNDS do bodies[i] = table.concat(chunks_of(protocol, 250)) end
    local server <close> = server_of(bodies)
    local fast_ones, silent_ones, all = 0, 0, 0
    for i = 1, ROUNDS do
      local events = {}
      local plain_reader <close> = open(server, ("/%d"):format(i))
      while true do -- not told a protocol, it hands out every event as it is
        local first, name, data, id = plain_reader:pull()
        if first == false then break end
        events[#events + 1] = { event = name, data = data, id = id }
      end
      local reader <close> = open(server, ("/%d%s"):format(i, i % 2 == 0 and "/cut" or ""))
      reader:plain(protocol)
      local first, name, data = reader:pull()
      local opening
      for n, event in ipairs(events) do
        all = all + 1
        local deltas = spoken.event(event)
        local said, counted = important(deltas), usage_in(deltas)
        if first == nil and data == event.data and name == event.event then
          first, name, data = reader:pull()
        elseif #said == 0 and not counted then -- C has passed it over: it says nothing
          silent_ones = silent_ones + 1
          opening = opening or meta_in(deltas)
        else
          fast_ones = fast_ones + 1
          if #said ~= 1 or said[1].type ~= "text" or said[1].text ~= first then
            t.eq(said, { { type = "text", text = first } }, ("%d, %s: %s"):format(n, event.event, event.data))
          end
          local raw = reader:take_usage()
          t.eq(raw and usage_of.openai(json.decode(raw)) or nil, counted, event.data)
          first, name, data = reader:pull()
        end
      end
      t.eq(first, false)
      t.eq({ reader:take_opening() }, opening or {})
    end
    t.log(("%d and %d silent of %d events by the shortcut"):format(fast_ones, silent_ones, all))
    t.ok(fast_ones > all * 0.3 and fast_ones < all * 0.95, ("%d of %d"):format(fast_ones, all))
    t.eq(silent_ones > 0, protocol == "openai")
  end)
end

-- Whole calls ---------------------------------------------------------------------------------------------------------

-- The same protocols with event() and reply() of their own, which only call the built-in ones: a model of
-- these gets no shortcut.
for _, protocol in ipairs { "openai", "anthropic" } do
  sluice.provider { name = "slow-" .. protocol, protocol = protocol, base_url = "http://127.0.0.1:1",
    event = function(ev, base) return base(ev) end, reply = function(decoded, base) return base(decoded) end }
end

local FIELDS = { "text", "thinking", "tool_calls", "finish_reason", "finish_reason_raw", "usage", "id", "model" }
-- Of a stream whose chunks contradict each other, these depend on which of them is asked.
local BY_CHUNK = { usage = true, id = true, model = true }

local function seen_of(err)
  if not sluice.errors.is(err) then return { raised = tostring(err) } end
  return { kind = err.kind, message = err.message, code = err.code, partial = err.partial, status = err.status }
end

local function reply_of(model, prompt)
  local ok, reply = pcall(model.ask, model, prompt)
  if not ok then return seen_of(reply) end
  local out = {}
  for _, name in ipairs(FIELDS) do out[name] = reply[name] end
  return out
end

local function stream_of(model, prompt, how, mixed)
  local runs, out = {}, {}
  local ok, err = pcall(function()
    local s <close> = model:stream(prompt)
    if how == "text" then
      for text in s:text() do runs[#runs + 1] = text end
      runs = { table.concat(runs) }
    else
      for ev in s:events() do
        local last = runs[#runs]
        if last and ev.type == last.type and ev.type == "text" then last.text = last.text .. ev.text
        elseif ev.type ~= "usage" or not mixed then
          local copy = {}
          for k, v in pairs(ev) do copy[k] = v end
          runs[#runs + 1] = copy
        end
      end
    end
    local reply = s:reply()
    for _, name in ipairs(FIELDS) do
      if not (mixed and BY_CHUNK[name]) then out[name] = reply[name] end
    end
  end)
  if not ok then out = seen_of(err) end
  out.runs = runs
  return out
end

local function compare_models(t, protocol, bodies, kind, call)
  local server <close> = S.start(function(req, res)
    local body = bodies[tonumber(req.body:match "case (%d+)")]
    if kind == "stream" then return S.events(res, body) end
    res:send(200, { ["Content-Type"] = "application/json" }, body)
  end)
  local good = 0
  for i = 1, #bodies do
    local outcomes = {}
    for n, provider in ipairs { protocol, "slow-" .. protocol } do
      local base = protocol == "openai" and server.url .. "/v1" or server.url
      outcomes[n] = call(S.model(server, { provider = provider, base_url = base, retry = false }), ("case %d"):format(i), i)
    end
    if outcomes[1].finish_reason then good = good + 1 end
    local different = T.differences(outcomes[1], outcomes[2])
    if #different > 0 then t.eq(outcomes[1], outcomes[2], bodies[i]) end
  end
  t.log(("%d of %d were answers"):format(good, #bodies))
  t.ok(good > #bodies * 0.1 and good < #bodies, ("%d of %d were answers"):format(good, #bodies))
end

for _, protocol in ipairs { "openai", "anthropic" } do
  T.test(protocol .. ": streams give the same with and without the shortcut", function(t)
    local bodies, mixed = {}, {}
    for i = 1, ROUNDS * 8 do
      local n = random(0, 14)
      local parts = random() < 0.5 and chunks_of(protocol, n) or {}
      mixed[i] = #parts > 0
      if #parts == 0 then -- of one form and nearly all well, so that many come to their end
        local usual = CHUNKS[protocol][random(PLAIN[protocol])]
        for k = 1, n do parts[k] = S.sse((fill(usual):gsub("[\r\n]", " "))) end
        if n > 0 and random() < 0.3 then
          parts[random(n)] = S.sse(mutated(fill(usual)))
          mixed[i] = true
        end
      end
      if protocol == "openai" then
        local id, model = parts[1] and parts[1]:match '"id": ?"([^"]*)"', parts[1] and parts[1]:match '"model": ?"([^"]*)"'
        local function own(chunk) -- the same id and model as those before it
          return (chunk:gsub('"c1"', '"' .. (id or "c1") .. '"'):gsub('"m%-1"', '"' .. (model or "m-1"):gsub("%%", "%%%%") .. '"'))
        end
        parts[#parts + 1] = own((random() < 0.9 and S.finish() or "") .. (random() < 0.5 and S.USAGE or ""))
          .. (random() < 0.8 and S.DONE or "")
      else
        table.insert(parts, 1, S.A_START .. S.A_OPEN)
        parts[#parts + 1] = (random() < 0.9 and S.A_STOP or "") .. (random() < 0.9 and S.A_END or "")
      end
      bodies[i] = table.concat(parts)
    end
    for _, how in ipairs { "events", "text" } do
      compare_models(t, protocol, bodies, "stream", function(model, prompt, i) return stream_of(model, prompt, how, mixed[i]) end)
    end
  end)

  T.test(protocol .. ": whole replies give the same with and without the shortcut", function(t)
    local bodies = {}
    for i = 1, ROUNDS * 30 do
      local body = fill(REPLIES[protocol][random() < 0.6 and random(2) or random(#REPLIES[protocol])])
      bodies[i] = random() < 0.6 and mutated(body) or body
    end
    compare_models(t, protocol, bodies, "whole", reply_of)
  end)
end

T.done()
