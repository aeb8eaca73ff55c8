--- Chat Completions requests, read as strictly as the strictest servers do: what passes here passes
-- there. Returns what the mock needs to answer. Pure.

local check = require "sluice.mock.check"
local example = require "sluice.mock.example"
local text = require "sluice.mock.text"

local present, refuse, missing, wrong_type = check.present, check.refuse, check.missing, check.wrong_type

local ROLES = { "system", "developer", "user", "assistant", "tool", "function" }
local PARTS = { text = "text", image_url = "image_url", input_audio = "input_audio", file = "file",
  refusal = "refusal", video_url = "video_url", audio_url = "audio_url" }

-- Content -----------------------------------------------------------------------------------------

local function read_parts(parts, path)
  if #parts == 0 then
    refuse(path, ("Invalid '%s': empty array. Expected an array with minimum length 1."):format(path))
  end
  local list = {}
  for i, part in ipairs(parts) do
    local here = ("%s[%d]"):format(path, i - 1)
    if not check.is_object(part) then wrong_type(here, "an object", part) end
    local field = type(part.type) == "string" and PARTS[part.type]
    if not field then
      refuse(here .. ".type", ("Invalid value: '%s'. Supported values are: 'text', 'image_url', 'input_audio', "
        .. "'refusal' and 'file'."):format(tostring(part.type)))
    end
    if present(part[field]) == nil then missing(("%s.%s"):format(here, field)) end
    if part.type == "text" then
      if type(part.text) ~= "string" then wrong_type(here .. ".text", "a string", part.text) end
      list[#list + 1] = part.text
    end
  end
  return table.concat(list, "\n")
end

local function read_content(message, path, required)
  local content = present(message.content)
  if content == nil then
    if required then refuse(path .. ".content", "Invalid value for 'content': expected a string, got null.") end
    return ""
  end
  if type(content) == "string" then return content end
  if check.is_array(content) then return read_parts(content, path .. ".content") end
  wrong_type(path .. ".content", "one of a string or array of objects", content)
end

-- Tool calls --------------------------------------------------------------------------------------

local function read_call(call, here, open)
  if not check.is_object(call) then wrong_type(here, "an object", call) end
  if type(call.id) ~= "string" or call.id == "" then missing(here .. ".id") end
  if call.type ~= "function" then missing(here .. ".type") end
  local f = call["function"]
  if not check.is_object(f) or type(f.name) ~= "string" or f.name == "" then missing(here .. ".function.name") end
  if type(f.arguments) ~= "string" then wrong_type(here .. ".function.arguments", "a string", f.arguments) end
  open[call.id] = f.name
end

--- `"tool_calls": {}` is what an empty Lua table becomes when nobody takes care.
local function read_calls(message, path, open)
  local calls = present(message.tool_calls)
  if calls == nil then return false end
  if not check.is_array(calls) then wrong_type(path .. ".tool_calls", "an array of objects", calls) end
  for i, call in ipairs(calls) do read_call(call, ("%s.tool_calls[%d]"):format(path, i - 1), open) end
  return #calls > 0
end

-- Messages ----------------------------------------------------------------------------------------

local function unanswered(open, path)
  local id = next(open)
  if id then
    refuse(path, ("An assistant message with 'tool_calls' must be followed by tool messages responding to each "
      .. "'tool_call_id'. The following tool_call_ids did not have response messages: %s"):format(id))
  end
end

local function read_tool(message, path, open, ask)
  local id = message.tool_call_id
  if type(id) ~= "string" or id == "" then missing(path .. ".tool_call_id") end
  if open[id] == nil then
    refuse(path .. ".role", "Invalid parameter: messages with role 'tool' must be a response to a preceding "
      .. "message with 'tool_calls'.")
  end
  ask.results = ask.results or {}
  local content = read_content(message, path, true)
  table.insert(ask.results, { name = open[id], text = content })
  open[id] = nil
  return content
end

local function read_message(message, i, open, ask)
  local path = ("messages[%d]"):format(i - 1)
  if not check.is_object(message) then wrong_type(path, "an object", message) end
  local role = message.role
  if role == nil then missing(path .. ".role") end
  if not check.one_of(ROLES, role) then
    refuse(path .. ".role", ("Invalid value: '%s'. Supported values are: 'system', 'assistant', 'user', "
      .. "'function', 'tool', and 'developer'."):format(tostring(role)))
  end
  if role == "tool" then return read_tool(message, path, open, ask) end
  unanswered(open, path)
  ask.results = nil
  if role == "assistant" then
    local has_calls = read_calls(message, path, open)
    return read_content(message, path, not has_calls)
  end
  local content = read_content(message, path, true)
  if role == "user" then ask.prompt = content end
  if role == "system" or role == "developer" then ask.instructions = (ask.instructions or "") .. content .. "\n" end
  return content
end

local function read_messages(body, ask)
  local messages = present(body.messages)
  if messages == nil then missing "messages" end
  if not check.is_array(messages) then wrong_type("messages", "an array of objects", messages) end
  if #messages == 0 then
    refuse("messages", "Invalid 'messages': empty array. Expected an array with minimum length 1.")
  end
  local open = {}
  for i, message in ipairs(messages) do
    ask.input_tokens = ask.input_tokens + 3 + text.count(read_message(message, i, open, ask))
  end
  unanswered(open, ("messages[%d]"):format(#messages - 1))
end

-- Parameters --------------------------------------------------------------------------------------

local function number(body, name, low, high, integer)
  local value = present(body[name])
  if value == nil then return nil end
  local word = integer and "integer" or "decimal"
  if type(value) ~= "number" or integer and not math.tointeger(value) then
    wrong_type(name, (integer and "an " or "a ") .. word, value)
  end
  local side = value < low and "below minimum" or high and value > high and "above maximum"
  if side then
    refuse(name, ("Invalid '%s': %s %s value. Expected a value %s %s, but got %s instead."):format(name, word, side,
      value < low and ">=" or "<=", value < low and low or high, value))
  end
  return value
end

local function boolean(body, name)
  local value = present(body[name])
  if value ~= nil and type(value) ~= "boolean" then wrong_type(name, "a boolean", value) end
  return value
end

local function read_numbers(body, ask)
  number(body, "temperature", 0, 2)
  number(body, "top_p", 0, 1)
  number(body, "presence_penalty", -2, 2)
  number(body, "frequency_penalty", -2, 2)
  number(body, "n", 1, 1, true)
  number(body, "seed", math.mininteger, nil, true)
  local old, new = number(body, "max_tokens", 1, nil, true), number(body, "max_completion_tokens", 1, nil, true)
  if old and new then
    refuse("max_tokens", "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
  end
  ask.max_tokens = new or old
end

local function read_stop(body)
  local stop = present(body.stop)
  if stop == nil then return {} end
  if type(stop) == "string" then return { stop } end
  if not check.is_array(stop) or #stop > 4 then
    refuse("stop", "Invalid 'stop': expected a string or an array of at most 4 strings.")
  end
  for _, s in ipairs(stop) do
    if type(s) ~= "string" or s == "" then refuse("stop", "Invalid 'stop': expected strings that are not empty.") end
  end
  return stop
end

local function read_tools(body, ask)
  local tools = present(body.tools)
  if tools == nil then return end
  if not check.is_array(tools) then wrong_type("tools", "an array of objects", tools) end
  if #tools == 0 then refuse("tools", "Invalid 'tools': empty array. Expected an array with minimum length 1.") end
  for i, tool in ipairs(tools) do
    local here = ("tools[%d]"):format(i - 1)
    local f = check.is_object(tool) and tool["function"]
    if not check.is_object(tool) or tool.type ~= "function" or not check.is_object(f) then
      refuse(here .. ".type", ("Invalid value for '%s': expected { \"type\": \"function\", \"function\": … }.")
        :format(here))
    end
    if type(f.name) ~= "string" or not f.name:find "^[%w_-]+$" or #f.name > 64 then
      refuse(here .. ".function.name", ("Invalid '%s.function.name': string does not match pattern. Expected a "
        .. "string that matches the pattern '^[a-zA-Z0-9_-]+$'."):format(here))
    end
    local schema = present(f.parameters)
    -- {} is an object without properties; [] is what an empty list becomes
    if schema ~= nil and not check.is_object(schema) then
      wrong_type(here .. ".function.parameters", "an object", schema)
    end
    local properties = schema and present(schema.properties)
    if properties ~= nil and not check.is_object(properties) then
      refuse(here .. ".function.parameters", ("Invalid schema for function '%s': %s is not of type 'object'.")
        :format(f.name, check.kind(properties)))
    end
    ask.tools[i] = { name = f.name, schema = schema or {} }
    ask.input_tokens = ask.input_tokens + 8 + text.count(f.name .. tostring(present(f.description) or ""))
  end
end

local function read_choice(body, ask)
  local choice = present(body.tool_choice)
  if choice == nil then return end
  if #ask.tools == 0 then
    refuse("tool_choice", "Invalid value for 'tool_choice': only allowed when 'tools' are specified.")
  end
  if choice == "auto" or choice == "none" or choice == "required" then
    ask.choice = choice
    return
  end
  local name = check.is_object(choice) and check.is_object(choice["function"]) and choice["function"].name
  for _, tool in ipairs(ask.tools) do
    if tool.name == name then
      ask.choice, ask.choice_name = "tool", name
      return
    end
  end
  refuse("tool_choice", ("Invalid value for 'tool_choice': no function named '%s' was specified in 'tools'.")
    :format(tostring(name)))
end

local function read_format(body, ask)
  local format = present(body.response_format)
  ask.json = ask.instructions and example.schema_in(ask.instructions)
  if format == nil then return end
  local kind = check.is_object(format) and format.type
  if kind == "json_object" then
    ask.json = ask.json or {}
  elseif kind == "json_schema" then
    local inner = format.json_schema
    if not check.is_object(inner) or type(inner.name) ~= "string" or not check.is_object(inner.schema) then
      missing "response_format.json_schema"
    end
    ask.json = inner.schema
  elseif kind ~= "text" then
    refuse("response_format.type", ("Invalid value: '%s'. Supported values are: 'json_object', 'json_schema', "
      .. "and 'text'."):format(tostring(kind)))
  end
end

--- The vendors' various switches.
local function wants_thinking(body)
  local object, reasoning = present(body.thinking), present(body.reasoning)
  local effort = present(body.reasoning_effort)
  return body.enable_thinking == true
    or type(object) == "table" and object.type == "enabled"
    or type(reasoning) == "table" and reasoning.enabled ~= false and reasoning.effort ~= "none"
    or type(effort) == "string" and effort ~= "none" and effort ~= "minimal"
end

local function read_stream(body, ask)
  ask.stream = boolean(body, "stream") == true
  local stream_options = present(body.stream_options)
  if stream_options == nil then return end
  if not ask.stream then
    refuse("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
  end
  ask.include_usage = check.is_object(stream_options) and stream_options.include_usage == true
end

local function read(body)
  if not check.is_object(body) then
    refuse(nil, "We could not parse the JSON body of your request. The API expects a JSON object.")
  end
  if type(body.model) ~= "string" or body.model == "" then refuse("model", "you must provide a model parameter") end
  local ask = { model = body.model, prompt = "", input_tokens = 0, tools = {}, choice = "auto" }
  read_messages(body, ask)
  read_numbers(body, ask)
  ask.stops = read_stop(body)
  read_tools(body, ask)
  read_choice(body, ask)
  read_format(body, ask)
  read_stream(body, ask)
  boolean(body, "parallel_tool_calls")
  if present(body.parallel_tool_calls) ~= nil and #ask.tools == 0 then
    refuse("parallel_tool_calls", "Invalid value for 'parallel_tool_calls': only allowed when 'tools' are specified.")
  end
  ask.parallel = body.parallel_tool_calls ~= false
  ask.thinking = wants_thinking(body)
  return ask
end

--- Reads a request's decoded body.
---@param body any
---@return sluice.mock.Ask?
---@return sluice.mock.Failure?
return function(body)
  return check.reading(read, body)
end
