--- The Anthropic Messages protocol, as Anthropic and those compatible with it speak it.
-- Owns: the request body, what each stream event and each whole reply means.
-- Never: does I/O, reads a clock, keeps state between calls: every function here is pure.
-- Reading order: request, event, reply. Messages are in anthropic_messages.lua, failures in failure.lua.
--
-- Sources: platform.claude.com/docs (messages, streaming, versioning). Quirks a provider may set
-- (provider/builtin.lua):
--   version             the anthropic-version header, default "2023-06-01"
--   adaptive            false: no adaptive thinking; an effort becomes a budget
--   tool_choice_any     false: "required" can only be said by naming a tool (SiliconFlow)
--   parallel_switch     false: disable_parallel_tool_use is not known
--   json_mode           how model:json asks: "tool" (default, a tool that must be called; with thinking, which
--                       does not go with that, "format"), "format" (output_config) or "text", in words only

local json = require "sluice.json"
local content = require "sluice.provider.content"
local failure = require "sluice.provider.failure"
local request = require "sluice.provider.request"
local messages = require "sluice.provider.anthropic_messages"
local usage = require "sluice.provider.usage"

local fail = content.fail

-- 2023-06-01 has no end date, and 2026-10-21 refuses temperature, top_p and top_k
local VERSION = "2023-06-01"

-- The field is required. 4096 is the most that every model since Claude 3 accepts; a script that
-- wants more says so.
local MAX_TOKENS = 4096
local BUDGET = 4096     -- tokens to think with when the script only says `thinking = true`
local BUDGET_MIN = 1024 -- the API's own floor

-- Request ---------------------------------------------------------------------------------------

--- A budget must lie below max_tokens, which counts thinking too. Without a max_tokens there is room
--- for both; with one, `true` takes half of it.
local function think_with(body, call, budget)
  if not call.max_tokens then
    budget = math.max(budget or BUDGET, BUDGET_MIN)
    body.max_tokens = budget + MAX_TOKENS
  elseif budget then
    budget = math.max(budget, BUDGET_MIN)
    if budget >= call.max_tokens then
      fail(call, "thinking", ("a budget of %d tokens (%d at least) must be below max_tokens, which is %d")
        :format(budget, BUDGET_MIN, call.max_tokens))
    end
  else
    if call.max_tokens <= BUDGET_MIN then
      fail(call, "thinking", ("needs max_tokens above %d, which is %d"):format(BUDGET_MIN, call.max_tokens))
    end
    budget = math.min(BUDGET, math.max(BUDGET_MIN, call.max_tokens // 2))
  end
  body.thinking = { type = "enabled", budget_tokens = budget }
end

local function write_thinking(body, call, quirks)
  local thinking = request.thinking(call)
  if not thinking then return end
  if not thinking.enabled then
    body.thinking = { type = "disabled" }
  elseif thinking.budget then
    think_with(body, call, thinking.budget)
  elseif thinking.effort and quirks.adaptive ~= false then
    body.thinking = { type = "adaptive" }
    body.output_config = { effort = thinking.effort == "minimal" and "low" or thinking.effort }
  elseif thinking.effort then
    local budget = request.EFFORT_BUDGET[thinking.effort]
    if call.max_tokens then budget = math.min(budget, call.max_tokens - 1) end
    think_with(body, call, budget)
  else
    think_with(body, call, nil)
  end
end

local function write_tools(call)
  local tools = {}
  for i, tool in ipairs(call.tools) do
    local read = tool.input_schema == nil and content.tool(call, tool, ("tools[%d]"):format(i))
    tools[i] = read and { name = read.name, description = read.description, input_schema = read.parameters,
      strict = read.strict } or tool
  end
  return tools
end

local function write_tool_choice(call, quirks)
  local mode, name = content.tool_choice(call)
  local choice
  if mode == "tool" then choice = { type = "tool", name = name }
  elseif mode == "required" then
    if quirks.tool_choice_any ~= false then choice = { type = "any" }
    elseif #call.tools == 1 and type(call.tools[1].name) == "string" then
      choice = { type = "tool", name = call.tools[1].name }
    else
      fail(call, "tool_choice", "this provider cannot require just any tool: name one, { name = tool }")
    end
  elseif mode then choice = { type = mode } end
  if call.parallel_tool_calls == false and quirks.parallel_switch ~= false and mode ~= "none" then
    choice = choice or { type = "auto" }
    choice.disable_parallel_tool_use = true
  end
  return choice
end

--- How an answer that must fit a schema is asked for; nil when none is.
local function json_mode(call)
  local mode = content.json_mode(call, "tool")
  if mode == "object" then return "format" end
  local thinking = mode == "tool" and request.thinking(call)
  return thinking and thinking.enabled and "format" or mode
end

--- The answer as the arguments of a tool that must be called.
local function write_answer_tool(body, call)
  local format = call.response_format
  body.tools = body.tools or {}
  body.tools[#body.tools + 1] = { name = format.name, input_schema = format.open,
    description = "Gives the answer. Call it once, with the whole answer." }
  body.tool_choice = { type = "tool", name = format.name }
end

local function write_format(body, call)
  local mode = json_mode(call)
  if mode == "tool" then return write_answer_tool(body, call) end
  if mode == "text" then return end
  local kind, format = content.response_format(call)
  if kind == nil then return end
  if kind ~= "schema" then
    fail(call, "response_format", "the anthropic protocol takes only { schema = JSON Schema }")
  end
  body.output_config = body.output_config or {}
  body.output_config.format = { type = "json_schema", schema = format.schema }
end

local anthropic = { name = "anthropic", MAX_TOKENS = MAX_TOKENS, json_mode = json_mode }

--- The HTTP request for a call. `seed`, `min_p` and the penalties have no counterpart here and are
--- left out, so that one request can go to several vendors.
---@param call sluice.Call
---@return sluice.HttpRequest
function anthropic.request(call)
  local quirks = call.quirks or {}
  local system, list = messages(call)
  local body = {
    model = call.model,
    system = system,
    messages = list,
    max_tokens = call.max_tokens or MAX_TOKENS,
    temperature = call.temperature,
    top_p = call.top_p,
    top_k = call.top_k,
    stop_sequences = request.stop(call),
    stream = call.stream and true or nil,
  }
  if call.user then body.metadata = { user_id = call.user } end
  if call.tools and #call.tools > 0 then
    body.tools = write_tools(call)
    body.tool_choice = write_tool_choice(call, quirks)
  end
  write_thinking(body, call, quirks)
  write_format(body, call)
  return {
    method = "POST",
    path = "/v1/messages",
    headers = {
      ["Content-Type"] = "application/json",
      ["Accept"] = call.stream and "text/event-stream" or "application/json",
      ["anthropic-version"] = quirks.version or VERSION,
    },
    body = request.merge_extra(body, call),
  }
end

--- The header that carries the key, and what stands before it. A token meant for gateways
--- (ANTHROPIC_AUTH_TOKEN) goes as Bearer, a key as x-api-key, as Anthropic's own clients do.
---@param _ any  the key itself, never looked at
---@param from? string  the environment variable it came from
---@return string header, string prefix
function anthropic.auth(_, from)
  if from == "ANTHROPIC_AUTH_TOKEN" then return "Authorization", "Bearer " end
  return "x-api-key", ""
end

-- Reply -----------------------------------------------------------------------------------------

local function filled(v)
  return type(v) == "string" and v ~= "" and v or nil
end

local function add(list, delta)
  list[#list + 1] = delta
end

local function add_usage(list, value)
  local counts = usage.anthropic(value)
  if counts then add(list, { type = "usage", usage = counts }) end
end

--- The head of a Message: id, model, what is known of usage.
local function add_head(list, message)
  if type(message) ~= "table" then return end
  local id, model = filled(message.id), filled(message.model)
  if id or model then add(list, { type = "meta", id = id, model = model }) end
  add_usage(list, message.usage)
end

--- Why it stopped. In a stream the terminator must still come; the words of a refusal are kept.
local function add_finish(list, from, needs_done)
  if not filled(from.stop_reason) then return end
  local details = from.stop_details
  add(list, { type = "finish", reason = from.stop_reason, needs_done = needs_done or nil,
    message = type(details) == "table" and (filled(details.explanation) or filled(details.message)) or nil })
end

--- A content block, opening in a stream or whole in a reply. Kinds that are not known here are kept
--- as they are: they must go back in the next request.
local function add_block(list, block, index, whole)
  local kind = block.type
  if kind == "text" then
    if filled(block.text) then add(list, { type = "text", text = block.text }) end
  elseif kind == "thinking" then
    if filled(block.thinking) then add(list, { type = "thinking", text = block.thinking, index = index }) end
    if filled(block.signature) then
      add(list, { type = "thinking_signature", signature = block.signature, index = index })
    end
  elseif kind == "redacted_thinking" then
    add(list, { type = "redacted_thinking", data = block.data })
  elseif kind == "tool_use" then
    -- `input` opens empty and is streamed; some servers give it whole right here
    local input = type(block.input) == "table" and (whole or next(block.input) ~= nil) and block.input
    add(list, { type = "tool", index = index, id = filled(block.id), name = filled(block.name),
      arguments = input and json.encode(input) or nil, whole = input and true or nil })
    if whole then add(list, { type = "tool_end", index = index }) end
  elseif type(kind) == "string" then
    add(list, { type = "block", index = index, block = block })
  end
end

local EVENTS = {}

function EVENTS.message_start(list, decoded)
  add_head(list, decoded.message)
end

function EVENTS.content_block_start(list, decoded)
  if type(decoded.content_block) == "table" then
    add_block(list, decoded.content_block, decoded.index, false)
  end
end

function EVENTS.content_block_delta(list, decoded)
  local delta = decoded.delta
  if type(delta) ~= "table" then return end
  local kind = delta.type
  if kind == "text_delta" then
    if filled(delta.text) then add(list, { type = "text", text = delta.text }) end
  elseif kind == "input_json_delta" then
    if filled(delta.partial_json) then
      add(list, { type = "tool", index = decoded.index, arguments = delta.partial_json })
    end
  elseif kind == "thinking_delta" then
    if filled(delta.thinking) then
      add(list, { type = "thinking", text = delta.thinking, index = decoded.index })
    end
  elseif kind == "signature_delta" then
    if filled(delta.signature) then
      add(list, { type = "thinking_signature", signature = delta.signature, index = decoded.index })
    end
  end
end

--- Every kind of block stops like this; the assembler knows which of them was a tool call.
function EVENTS.content_block_stop(list, decoded)
  add(list, { type = "tool_end", index = decoded.index })
end

function EVENTS.message_delta(list, decoded)
  add_usage(list, decoded.usage)
  if type(decoded.delta) == "table" then add_finish(list, decoded.delta, true) end
end

function EVENTS.message_stop(list)
  add(list, { type = "done" })
end

--- One event of the stream -> what it says, in the vocabulary of sluice.Delta. The type in the data
--- decides, the event's name stands in for it. "[DONE]", which is not Anthropic's, ends SiliconFlow's
--- streams.
---@param ev sluice.SseEvent
---@return sluice.Delta[] deltas  empty for pings and unknown events
function anthropic.event(ev)
  local data = ev.data or ""
  if data:find("^%s*%[DONE%]") then return { { type = "done" } } end
  if not data:find("%S") then return {} end
  local ok, decoded = pcall(json.decode, data)
  if not ok or type(decoded) ~= "table" then
    return { { type = "error", error = failure.unreadable(data, ok and "not an object" or decoded) } }
  end
  local broken = failure.in_stream(decoded, ev.event)
  if broken then return { { type = "error", error = broken } } end
  local list = {}
  local index = type(decoded.index) == "number" and math.tointeger(decoded.index)
  decoded.index = index or 0
  local handle = EVENTS[filled(decoded.type) or ev.event]
  if handle then handle(list, decoded) end
  return list
end

--- A whole reply, decoded, as the deltas a stream of it would have been.
---@param decoded any
---@return sluice.Delta[]
function anthropic.reply(decoded)
  if type(decoded) ~= "table" then
    return { { type = "error", error = failure.unreadable(json.encode(decoded), "not an object") } }
  end
  local broken = failure.in_stream(decoded)
  if broken then return { { type = "error", error = broken } } end
  if type(decoded.content) ~= "table" then
    return { { type = "error",
      error = { kind = "protocol", code = "no_content", message = "the reply has no content" } } }
  end
  local list = {}
  add_head(list, decoded)
  for i, block in ipairs(decoded.content) do
    if type(block) == "table" then add_block(list, block, i - 1, true) end
  end
  if filled(decoded.stop_reason) then add_finish(list, decoded, false)
  else add(list, { type = "finish", reason = "unknown" }) end
  add(list, { type = "done" })
  return list
end

anthropic.failure = failure.parse

return anthropic
