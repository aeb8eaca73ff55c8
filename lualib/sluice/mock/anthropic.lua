--- How Messages answers look: whole, and as the events of a stream.
-- Owns: the JSON, and the rule that one content block is open at a time. Pure.
-- Sources: platform.claude.com/docs (messages, streaming).

local json = require "sluice.json"

local null = json.null

local anthropic = {}

local FINISH = { stop = "end_turn", sequence = "stop_sequence", length = "max_tokens", tool = "tool_use" }

local function finish_of(context)
  return context.effects.finish_reason or FINISH[context.plan.finish]
end

local function signature(context)
  return "mock-signature-" .. context.id
end

local function usage(plan, output)
  return { input_tokens = plan.input_tokens, output_tokens = output, cache_creation_input_tokens = 0,
    cache_read_input_tokens = 0, service_tier = "standard" }
end

local function input_of(call)
  local ok, value = pcall(json.decode, call.arguments)
  return ok and type(value) == "table" and value or {}
end

local function message(context, content, reason, output)
  return { id = "msg_" .. context.id, type = "message", role = "assistant", model = context.ask.model,
    content = content, stop_reason = reason or null,
    stop_sequence = reason and context.plan.sequence or null, usage = usage(context.plan, output) }
end

--- The answer in one piece.
---@param context sluice.mock.Context
---@return table
function anthropic.whole(context)
  local plan, content = context.plan, json.array {}
  if plan.thinking ~= "" then
    content[1] = { type = "thinking", thinking = plan.thinking, signature = signature(context) }
  end
  if #plan.calls > 0 then
    for _, call in ipairs(plan.calls) do
      content[#content + 1] = { type = "tool_use", id = call.id:gsub("^call_", "toolu_"), name = call.name,
        input = input_of(call) }
    end
  else
    content[#content + 1] = { type = "text", text = plan.text }
  end
  return message(context, content, finish_of(context), plan.output_tokens)
end

-- Streams -----------------------------------------------------------------------------------------

local function event(out, name, rest)
  out(name, ('{"type":"%s"%s}'):format(name, rest))
end

function anthropic.open(context, out)
  context.index, context.block, context.sent = -1, nil, 0
  event(out, "message_start", ',"message":' .. json.encode(message(context, json.array {}, nil, 1)))
end

local function delta(context, out, text)
  event(out, "content_block_delta", (',"index":%d,"delta":%s'):format(context.index, text))
end

local function close_block(context, out)
  if not context.block then return end
  if context.block == "thinking" then
    delta(context, out, ('{"type":"signature_delta","signature":%s}'):format(json.quote(signature(context))))
  end
  event(out, "content_block_stop", (',"index":%d'):format(context.index))
  context.block = nil
end

local OPENED = { text = '{"type":"text","text":""}', thinking = '{"type":"thinking","thinking":"","signature":""}' }

local function open_block(context, step, out)
  local key = step.call or step.kind
  if context.block == key then return end
  close_block(context, out)
  context.index, context.block = context.index + 1, key
  local block = OPENED[step.kind] or ('{"type":"tool_use","id":%s,"name":%s,"input":{}}')
    :format(json.quote((step.call.id:gsub("^call_", "toolu_"))), json.quote(step.call.name))
  event(out, "content_block_start", (',"index":%d,"content_block":%s'):format(context.index, block))
  if context.index == 0 then event(out, "ping", "") end
end

function anthropic.step(context, step, out)
  context.sent = context.sent + 1
  open_block(context, step, out)
  local quoted = json.quote(step.text)
  if step.kind == "text" then delta(context, out, '{"type":"text_delta","text":' .. quoted .. "}")
  elseif step.kind == "thinking" then delta(context, out, '{"type":"thinking_delta","thinking":' .. quoted .. "}")
  else delta(context, out, '{"type":"input_json_delta","partial_json":' .. quoted .. "}") end
  if context.effects.usage_on_every_chunk then
    event(out, "message_delta", (',"delta":{"stop_reason":null,"stop_sequence":null},"usage":{"output_tokens":%d}')
      :format(context.sent))
  end
end

function anthropic.finish(context, out)
  local plan = context.plan
  if #plan.steps == 0 then open_block(context, { kind = "text" }, out) end
  close_block(context, out)
  event(out, "message_delta", (',"delta":{"stop_reason":%s,"stop_sequence":%s},"usage":{"output_tokens":%d}')
    :format(json.quote(finish_of(context)), plan.sequence and json.quote(plan.sequence) or "null", plan.output_tokens))
end

function anthropic.close(context, out)
  event(out, "message_stop", "")
  if context.dialect == "siliconflow" then out(nil, "[DONE]") end -- as its pages say
end

--- Silence without an end.
function anthropic.ping()
  return nil, "ping", '{"type":"ping"}'
end

function anthropic.malformed(context)
  return ('{"type":"content_block_delta","index":%d,"delta":{"type":"text_del'):format(math.max(0, context.index))
end

function anthropic.models(names)
  local data = json.array {}
  for i, name in ipairs(names) do
    data[i] = { type = "model", id = name, display_name = name, created_at = "2026-01-01T00:00:00Z" }
  end
  return { data = data, has_more = false, first_id = names[1], last_id = names[#names] }
end

return anthropic
