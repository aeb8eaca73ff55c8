--- The OpenAI Chat Completions protocol, as OpenAI and everybody compatible with it speak it.
-- Owns: the request body, what each stream event and each whole reply means.
-- Never: does I/O, reads a clock, keeps state between calls: every function here is pure.
-- Reading order: request, event, reply. Messages are in openai_messages.lua, failures in failure.lua.
--
-- Sources: platform.openai.com/docs (chat/create, streaming) and the vendors' own pages. Quirks a
-- provider may set (provider/builtin.lua):
--   max_tokens_field    "max_tokens" (default) or "max_completion_tokens"
--   stream_options      false: do not ask for usage in streams, the vendor refuses the field
--   system_role         role of `system`, default "system"
--   thinking            how the vendor switches reasoning, a name in THINKING below
--   reasoning_field     field that takes reasoning back on turns that called tools
--   reasoning_required  true: that field must be there even when empty (DeepSeek)
--   top_k, min_p        false: not sent, the vendor refuses them
--   json_mode           how model:json asks: "schema" (default), "object" or "text", which is in words only

local json = require "sluice.json"
local content = require "sluice.provider.content"
local failure = require "sluice.provider.failure"
local request = require "sluice.provider.request"
local messages = require "sluice.provider.openai_messages"
local usage = require "sluice.provider.usage"

local null = json.null

-- Request ---------------------------------------------------------------------------------------

local function effort_for(thinking)
  if thinking.effort then return thinking.effort end
  if not thinking.budget then return nil end
  if thinking.budget <= 4096 then return "low" end
  return thinking.budget <= 16384 and "medium" or "high"
end

--- The vendors' switches for reasoning, each a function(body, thinking). A wish that a vendor cannot
--- express is brought to the nearest it can: the same request must be able to go to several.
local THINKING = {}

function THINKING.effort(body, thinking)
  body.reasoning_effort = not thinking.enabled and "none" or effort_for(thinking) or "medium"
end

-- SiliconFlow: effort has two levels, the budget goes from 128 to 32768
function THINKING.enable(body, thinking)
  body.enable_thinking = thinking.enabled
  if not thinking.enabled then return end
  if thinking.budget then body.thinking_budget = math.max(128, math.min(thinking.budget, 32768)) end
  local effort = thinking.effort
  if effort then body.reasoning_effort = (effort == "xhigh" or effort == "max") and "max" or "high" end
end

-- DeepSeek: an object as Anthropic's, without a budget
function THINKING.object(body, thinking)
  body.thinking = { type = thinking.enabled and "enabled" or "disabled" }
  local effort = thinking.enabled and thinking.effort
  if effort then body.reasoning_effort = (effort == "xhigh" or effort == "max") and "max" or "high" end
end

-- OpenRouter translates for each vendor behind it
function THINKING.reasoning(body, thinking)
  if not thinking.enabled then body.reasoning = { enabled = false }
  elseif thinking.budget then body.reasoning = { max_tokens = thinking.budget }
  elseif thinking.effort then body.reasoning = { effort = thinking.effort }
  else body.reasoning = { enabled = true } end
end

local SAME_NAME = { "temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "user",
  "parallel_tool_calls" }

local function write_tools(call)
  local tools = {}
  for i, tool in ipairs(call.tools) do
    local read = content.tool(call, tool, ("tools[%d]"):format(i))
    if not read or type(tool["function"]) == "table" then tools[i] = tool
    else
      tools[i] = { type = "function", ["function"] = { name = read.name, description = read.description,
        parameters = read.parameters, strict = read.strict } }
    end
  end
  return tools
end

local function write_format(call)
  local mode = content.json_mode(call, "schema")
  if mode == "object" then return { type = "json_object" } end
  if mode == "text" then return nil end
  local kind, format = content.response_format(call)
  if kind == "json" then return { type = "json_object" } end
  if kind == "schema" then
    return { type = "json_schema",
      json_schema = { name = format.name, schema = format.schema, strict = format.strict } }
  end
  return format
end

local openai = { name = "openai" }

--- The HTTP request for a call.
---@param call sluice.Call
---@return sluice.HttpRequest
function openai.request(call)
  local quirks = call.quirks or {}
  local body = { model = call.model, messages = messages(call) }
  for _, name in ipairs(SAME_NAME) do body[name] = call[name] end
  if quirks.top_k ~= false then body.top_k = call.top_k end
  if quirks.min_p ~= false then body.min_p = call.min_p end
  if call.max_tokens then body[quirks.max_tokens_field or "max_tokens"] = call.max_tokens end
  body.stop = call.stop
  if call.tools and #call.tools > 0 then
    body.tools = write_tools(call)
    local mode, name = content.tool_choice(call)
    body.tool_choice = mode == "tool" and { type = "function", ["function"] = { name = name } } or mode
  else
    body.parallel_tool_calls = nil -- refused without tools
  end
  if call.response_format then body.response_format = write_format(call) end
  local thinking = request.thinking(call)
  if thinking then (THINKING[quirks.thinking] or THINKING.effort)(body, thinking) end
  if call.stream then
    body.stream = true
    if quirks.stream_options ~= false then body.stream_options = { include_usage = true } end
  end
  return {
    method = "POST",
    path = "/chat/completions",
    headers = {
      ["Content-Type"] = "application/json",
      ["Accept"] = call.stream and "text/event-stream" or "application/json",
    },
    body = request.merge_extra(body, call),
  }
end

--- The header that carries the key, and what stands before it.
---@return string header, string prefix
function openai.auth()
  return "Authorization", "Bearer "
end

-- Reply: pieces shared by streamed and whole ones --------------------------------------------------

local function filled(v)
  return type(v) == "string" and v ~= "" and v or nil
end

local function add(list, delta)
  list[#list + 1] = delta
end

--- Content as a string, or as Mistral's list of parts, where reasoning is a part.
local function add_content(list, value)
  if filled(value) then add(list, { type = "text", text = value }) return end
  if type(value) ~= "table" then return end
  for _, part in ipairs(value) do
    if type(part) == "table" then
      if part.type == "text" and filled(part.text) then add(list, { type = "text", text = part.text })
      elseif part.type == "refusal" and filled(part.refusal) then
        add(list, { type = "refusal", text = part.refusal })
      elseif part.type == "thinking" then
        local thought = part.thinking
        if filled(thought) then add(list, { type = "thinking", text = thought })
        elseif type(thought) == "table" then
          for _, piece in ipairs(thought) do
            if type(piece) == "table" and filled(piece.text) then
              add(list, { type = "thinking", text = piece.text })
            end
          end
        end
      end
    end
  end
end

--- Tool fragments. `index` is missing at some vendors: the place in the list stands in for it.
--- Arguments are a JSON string, and at some an object.
local function add_tools(list, calls, whole)
  for position, fragment in ipairs(calls) do
    if type(fragment) == "table" then
      local inner = type(fragment["function"]) == "table" and fragment["function"] or {}
      local arguments, complete = inner.arguments, whole
      if type(arguments) == "table" then arguments, complete = json.encode(arguments), true end
      add(list, {
        type = "tool",
        index = type(fragment.index) == "number" and math.tointeger(fragment.index) or position - 1,
        id = filled(fragment.id),
        name = filled(inner.name),
        arguments = type(arguments) == "string" and arguments or nil,
        whole = complete or nil,
      })
    end
  end
end

--- Everything a delta or a message can hold, reasoning first, as it was thought.
local function add_message(list, message, whole)
  local reasoning = filled(message.reasoning_content) or filled(message.reasoning)
  if reasoning then add(list, { type = "thinking", text = reasoning }) end
  add_content(list, message.content)
  if filled(message.refusal) then add(list, { type = "refusal", text = message.refusal }) end
  if type(message.tool_calls) == "table" then add_tools(list, message.tool_calls, whole) end
  local legacy = message.function_call
  if type(legacy) == "table" then add_tools(list, { { index = 0, ["function"] = legacy } }, whole) end
end

local function add_meta(list, decoded)
  local id, model = filled(decoded.id), filled(decoded.model)
  if id or model then add(list, { type = "meta", id = id, model = model }) end
end

local function add_usage(list, value)
  local counts = usage.openai(value)
  if counts then add(list, { type = "usage", usage = counts }) end
end

--- The choices of a chunk or a reply; only the first answer (index 0) is ours, `n` is not offered.
local function add_choices(list, choices, whole)
  for _, choice in ipairs(choices) do
    if type(choice) == "table" and (choice.index == nil or choice.index == null or choice.index == 0) then
      if type(choice.error) == "table" then -- OpenRouter, in mid-stream
        add(list, { type = "error", error = failure.from_error({ error = choice.error }) })
        return
      end
      local message = choice.delta
      if type(message) ~= "table" then message = choice.message end
      if type(message) == "table" then add_message(list, message, whole)
      elseif filled(choice.text) then add(list, { type = "text", text = choice.text }) end
      if choice.usage then add_usage(list, choice.usage) end -- Moonshot
      if filled(choice.finish_reason) then
        add(list, { type = "finish", reason = choice.finish_reason })
      end
    end
  end
end

--- One event of the stream -> what it says, in the vocabulary of sluice.Delta.
---@param ev sluice.SseEvent
---@return sluice.Delta[] deltas  empty for anything that says nothing, as comments and unknown events do
function openai.event(ev)
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
  add_meta(list, decoded)
  if type(decoded.choices) == "table" then add_choices(list, decoded.choices, false) end
  if type(decoded.usage) == "table" then add_usage(list, decoded.usage) end
  return list
end

--- A whole reply, decoded, as the deltas a stream of it would have been.
---@param decoded any
---@return sluice.Delta[]
function openai.reply(decoded)
  if type(decoded) ~= "table" then
    return { { type = "error", error = failure.unreadable(json.encode(decoded), "not an object") } }
  end
  local broken = failure.in_stream(decoded)
  if broken then return { { type = "error", error = broken } } end
  if type(decoded.choices) ~= "table" or type(decoded.choices[1]) ~= "table" then
    return { { type = "error",
      error = { kind = "protocol", code = "no_choices", message = "the reply has no choices" } } }
  end
  local list = {}
  add_meta(list, decoded)
  add_choices(list, decoded.choices, true)
  if type(decoded.usage) == "table" then add_usage(list, decoded.usage) end
  local finished = false
  for _, delta in ipairs(list) do
    if delta.type == "error" then return list end
    finished = finished or delta.type == "finish"
  end
  -- the body is whole, so its end is no guess; why it ended is unknown, and says so
  if not finished then add(list, { type = "finish", reason = "unknown" }) end
  add(list, { type = "done" })
  return list
end

openai.failure = failure.parse

return openai
