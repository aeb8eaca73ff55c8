--- How Chat Completions answers look: whole, and as the events of a stream.
-- Owns: the JSON. Pure. Sources: platform.openai.com/docs (chat object, chat chunk object).

local json = require "sluice.json"

local null = json.null

---@class sluice.mock.Context
---@field plan sluice.mock.Plan
---@field ask sluice.mock.Ask
---@field effects table
---@field dialect string
---@field id string          of the answer, without a prefix
---@field request_id string
---@field created integer  seconds since the epoch

local openai = {}

local FINISH = { stop = "stop", sequence = "stop", length = "length", tool = "tool_calls" }

local function finish_of(context)
  return context.effects.finish_reason or FINISH[context.plan.finish]
end

local function usage(plan, output)
  return {
    prompt_tokens = plan.input_tokens, completion_tokens = output, total_tokens = plan.input_tokens + output,
    prompt_tokens_details = { cached_tokens = 0 },
    completion_tokens_details = { reasoning_tokens = math.min(plan.thinking_tokens, output) },
  }
end

--- OpenRouter and some others say `reasoning`.
local function reasoning_field(context)
  return context.dialect == "openrouter" and "reasoning" or "reasoning_content"
end

--- The answer in one piece.
---@param context sluice.mock.Context
---@return table
function openai.whole(context)
  local plan = context.plan
  local message = { role = "assistant", content = plan.text ~= "" and plan.text or null }
  if plan.thinking ~= "" then message[reasoning_field(context)] = plan.thinking end
  if #plan.calls > 0 then
    message.tool_calls = json.array {}
    for i, call in ipairs(plan.calls) do
      message.tool_calls[i] = { id = call.id, type = "function",
        ["function"] = { name = call.name, arguments = call.arguments } }
    end
  elseif plan.text == "" then
    message.content = ""
  end
  return {
    id = "chatcmpl-" .. context.id, object = "chat.completion", created = context.created,
    model = context.ask.model, system_fingerprint = "fp_mock",
    choices = json.array { { index = 0, message = message, logprobs = null, finish_reason = finish_of(context) } },
    usage = usage(plan, plan.output_tokens),
  }
end

-- Streams -----------------------------------------------------------------------------------------

--- One chunk as JSON text. All but the delta is the same in every chunk, so it is written once.
local function chunk(context, delta, finish, counts)
  if not context.head then
    context.head = ('{"id":%s,"object":"chat.completion.chunk","created":%d,"model":%s,"system_fingerprint":"fp_mock",')
      :format(json.quote("chatcmpl-" .. context.id), context.created, json.quote(context.ask.model))
  end
  local tail = ""
  if counts then tail = ',"usage":' .. json.encode(counts)
  elseif context.ask.include_usage then tail = ',"usage":null' end
  if not delta then return context.head .. '"choices":[]' .. tail .. "}" end
  return ('%s"choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}]%s}'):format(context.head, delta,
    finish and json.quote(finish) or "null", tail)
end

local function counts_so_far(context)
  return context.effects.usage_on_every_chunk and usage(context.plan, context.sent) or nil
end

function openai.open(context, out)
  context.sent = 0
  out(nil, chunk(context, '{"role":"assistant","content":""}', nil, counts_so_far(context)))
end

function openai.step(context, step, out)
  context.sent = context.sent + 1
  local delta
  if step.kind == "text" then
    delta = '{"content":' .. json.quote(step.text) .. "}"
  elseif step.kind == "thinking" then
    delta = ('{"content":null,"%s":%s}'):format(reasoning_field(context), json.quote(step.text))
  elseif step.first then
    delta = ('{"tool_calls":[{"index":%d,"id":%s,"type":"function","function":{"name":%s,"arguments":""}}]}')
      :format(step.call.index, json.quote(step.call.id), json.quote(step.call.name))
  else
    delta = ('{"tool_calls":[{"index":%d,"function":{"arguments":%s}}]}'):format(step.call.index, json.quote(step.text))
  end
  out(nil, chunk(context, delta, nil, counts_so_far(context)))
end

function openai.finish(context, out)
  local plan = context.plan
  out(nil, chunk(context, "{}", finish_of(context), counts_so_far(context)))
  if context.ask.include_usage then out(nil, chunk(context, nil, nil, usage(plan, plan.output_tokens))) end
end

function openai.close(_, out)
  out(nil, "[DONE]")
end

--- Silence without an end: a comment, which is no event.
function openai.ping(context)
  return context.dialect == "openrouter" and ": OPENROUTER PROCESSING" or ": ping"
end

function openai.malformed(context)
  return chunk(context, '{"content":"', nil):sub(1, -30)
end

function openai.models(names)
  local data = json.array {}
  for i, name in ipairs(names) do
    data[i] = { id = name, object = "model", created = 1767225600, owned_by = "sluice" }
  end
  return { object = "list", data = data }
end

return openai
