--- Messages requests, read as strictly as Anthropic does: what passes here passes there. Returns what
-- the mock needs to answer. Pure.

local check = require "sluice.mock.check"
local example = require "sluice.mock.example"
local text = require "sluice.mock.text"

local present, refuse = check.present, check.refuse

local FIELDS = {}
for name in ([[model messages max_tokens system stream stop_sequences tools tool_choice thinking
  output_config metadata service_tier cache_control container speed inference_geo diagnostics
  temperature top_p top_k context_management mcp_servers]]):gmatch "%S+" do
  FIELDS[name] = true
end

local function missing(path) refuse(path, path .. ": Field required") end

local function wrong_type(path, expected) refuse(path, ("%s: Input should be a valid %s"):format(path, expected)) end

-- Blocks ------------------------------------------------------------------------------------------

local function read_text(block, path)
  if type(block.text) ~= "string" then missing(path .. ".text.text") end
  if block.text == "" then refuse(path, "messages: text content blocks must be non-empty") end
  if not block.text:find "%S" then
    refuse(path, "messages: text content blocks must contain non-whitespace text")
  end
  return block.text
end

local BLOCKS = {}

function BLOCKS.text(block, path) return read_text(block, path) end

function BLOCKS.image(block, path)
  local source = block.source
  if not check.is_object(source) or type(source.type) ~= "string" then missing(path .. ".image.source") end
  if source.type == "base64" and (type(source.media_type) ~= "string" or type(source.data) ~= "string") then
    missing(path .. ".image.source.base64")
  end
  return ""
end

function BLOCKS.document(block, path, state)
  if not check.is_object(block.source) then missing(path .. ".document.source") end
  if state.role == "assistant" and state.version == "2026-10-21" then
    refuse(path, path .. ": document blocks are not allowed in assistant messages")
  end
  return ""
end

function BLOCKS.tool_use(block, path, state)
  if state.role ~= "assistant" then
    refuse(path, "messages: `tool_use` blocks can only be in `assistant` messages")
  end
  if type(block.id) ~= "string" or not block.id:find "^[%w_-]+$" then
    refuse(path, path .. ".tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
  end
  if type(block.name) ~= "string" or block.name == "" then missing(path .. ".tool_use.name") end
  if not check.is_object(block.input) then wrong_type(path .. ".tool_use.input", "dictionary") end
  state.uses[block.id] = block.name
  return ""
end

function BLOCKS.tool_result(block, path, state)
  if state.role ~= "user" then
    refuse(path, "messages: `tool_result` blocks can only be in `user` messages")
  end
  local id = block.tool_use_id
  if type(id) ~= "string" then missing(path .. ".tool_result.tool_use_id") end
  local name = state.open[id]
  if not name then
    refuse(path, ("%s: unexpected `tool_use_id` found in `tool_result` blocks: %s. Each `tool_result` block must "
      .. "have a corresponding `tool_use` block in the previous message."):format(path, id))
  end
  if state.other then
    refuse(path, "messages: `tool_result` blocks must come first in the content of a message")
  end
  state.open[id] = nil
  local said = state.read_content(block.content, path .. ".content", state, true)
  table.insert(state.results, { name = name, text = said })
  return said
end

function BLOCKS.thinking(block, path, state)
  if state.role ~= "assistant" then refuse(path, "messages: `thinking` blocks can only be in `assistant` messages") end
  if type(block.thinking) ~= "string" then missing(path .. ".thinking.thinking") end
  if type(block.signature) ~= "string" then missing(path .. ".thinking.signature") end
  return ""
end

function BLOCKS.redacted_thinking(block, path)
  if type(block.data) ~= "string" then missing(path .. ".redacted_thinking.data") end
  return ""
end

-- Seen in agents' requests; what they hold is not the mock's business.
local function anything() return "" end
for name in ([[search_result server_tool_use web_search_tool_result web_fetch_tool_result tool_reference
  code_execution_tool_result mcp_tool_use mcp_tool_result container_upload]]):gmatch "%S+" do
  BLOCKS[name] = anything
end

--- The text of a string or a list of blocks.
local function read_content(content, path, state, may_be_absent)
  content = present(content)
  if content == nil then
    if may_be_absent then return "" end
    missing(path)
  end
  if type(content) == "string" then return content end
  if not check.is_array(content) then wrong_type(path, "list") end
  local parts = {}
  for i, block in ipairs(content) do
    local here = ("%s.%d"):format(path, i - 1)
    if not check.is_object(block) then wrong_type(here, "dictionary") end
    local handle = type(block.type) == "string" and BLOCKS[block.type]
    if not handle then
      refuse(here, ("%s: Input tag '%s' found using 'type' does not match any of the expected tags"):format(here,
        tostring(block.type)))
    end
    local said = handle(block, here, state)
    if block.type ~= "tool_result" then state.other = true end
    if said ~= "" then parts[#parts + 1] = said end
  end
  return table.concat(parts, "\n")
end

-- Messages ----------------------------------------------------------------------------------------

local function unanswered(open, path)
  local id = next(open)
  if id then
    refuse(path, ("%s: `tool_use` ids were found without `tool_result` blocks immediately after: %s. Each "
      .. "`tool_use` block must have a corresponding `tool_result` block in the next message."):format(path, id))
  end
end

local function is_empty(content)
  return content == "" or check.is_array(content) and #content == 0
end

local function read_message(message, i, count, state, ask)
  local path = ("messages.%d"):format(i - 1)
  if not check.is_object(message) then wrong_type(path, "dictionary") end
  local role = message.role
  if role == nil then missing(path .. ".role") end
  if role ~= "user" and role ~= "assistant" and role ~= "system" then
    refuse(path .. ".role", ("messages: Unexpected role \"%s\". Allowed roles are \"user\" or \"assistant\".")
      :format(tostring(role)))
  end
  if i == 1 and role == "assistant" then
    refuse("messages", "messages: first message must use the \"user\" role")
  end
  if is_empty(message.content) and not (role == "assistant" and i == count) then
    refuse(path, path .. ": all messages must have non-empty content except for the optional final assistant message")
  end
  state.role, state.uses, state.results, state.other = role, {}, {}, false
  local said = read_content(message.content, path .. ".content", state)
  if role ~= "system" then
    unanswered(state.open, ("messages.%d"):format(i - 2))
    state.open = state.uses
  end
  if role == "assistant" and i == count and said:find "%s$" then
    refuse("messages", "messages: final assistant content cannot end with trailing whitespace")
  end
  if role == "user" then
    ask.results = #state.results > 0 and state.results or nil
    if not ask.results then ask.prompt = said end
  elseif role == "assistant" then
    ask.results = nil
  end
  return said
end

local function read_messages(body, ask, version)
  local messages = present(body.messages)
  if messages == nil then missing "messages" end
  if not check.is_array(messages) then wrong_type("messages", "list") end
  if #messages == 0 then refuse("messages", "messages: at least one message is required") end
  local state = { open = {}, version = version, read_content = read_content }
  for i, message in ipairs(messages) do
    local said = read_message(message, i, #messages, state, ask)
    ask.input_tokens = ask.input_tokens + 3 + text.count(said)
  end
  unanswered(state.open, ("messages.%d"):format(#messages - 1))
end

-- Parameters --------------------------------------------------------------------------------------

local function integer(body, name, low)
  local value = present(body[name])
  if value == nil then return nil end
  if not math.tointeger(value) then wrong_type(name, "integer") end
  if value < low then
    refuse(name, ("%s: Input should be greater than or equal to %d"):format(name, low))
  end
  return value
end

local function fraction(body, name, version)
  local value = present(body[name])
  if value == nil then return end
  if version == "2026-10-21" then
    refuse(name, ("%s: this parameter is not supported by anthropic-version 2026-10-21"):format(name))
  end
  if type(value) ~= "number" then wrong_type(name, "number") end
  if name ~= "top_k" and (value < 0 or value > 1) then
    refuse(name, ("%s: range: 0..1"):format(name))
  end
end

local function read_system(body, ask)
  local system = present(body.system)
  if system == nil then return end
  if type(system) ~= "string" and not check.is_array(system) then
    refuse("system", "system: Input should be a valid string or a list of text blocks")
  end
  local said = system
  if type(system) == "table" then
    local parts = {}
    for i, block in ipairs(system) do
      local path = ("system.%d"):format(i - 1)
      if not check.is_object(block) or block.type ~= "text" then
        refuse(path, path .. ".type: Input should be 'text'")
      end
      parts[i] = read_text(block, path)
    end
    said = table.concat(parts, "\n")
  end
  ask.input_tokens = ask.input_tokens + 3 + text.count(said)
  ask.json = example.schema_in(said)
end

local function read_tools(body, ask)
  local tools = present(body.tools)
  if tools == nil then return end
  if not check.is_array(tools) then wrong_type("tools", "list") end
  for i, tool in ipairs(tools) do
    local path = ("tools.%d"):format(i - 1)
    if not check.is_object(tool) then wrong_type(path, "dictionary") end
    local is_custom = present(tool.type) == nil or tool.type == "custom"
    if type(tool.name) ~= "string" or not tool.name:find "^[%w_-]+$" or #tool.name > 128 then
      refuse(path, path .. ".custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'")
    end
    if is_custom then
      if present(tool.input_schema) == nil then missing(path .. ".custom.input_schema") end
      if not check.is_object(tool.input_schema) then wrong_type(path .. ".custom.input_schema", "dictionary") end
      if tool.input_schema.type ~= "object" then
        refuse(path, path .. ".custom.input_schema.type: Input should be 'object'")
      end
      local properties = present(tool.input_schema.properties)
      if properties ~= nil and not check.is_object(properties) then
        wrong_type(path .. ".custom.input_schema.properties", "dictionary")
      end
      ask.tools[#ask.tools + 1] = { name = tool.name, schema = tool.input_schema }
    end
    ask.input_tokens = ask.input_tokens + 8 + text.count(tool.name .. tostring(present(tool.description) or ""))
  end
end

local CHOICES = { auto = "auto", any = "required", none = "none", tool = "tool" }

local function read_choice(body, ask)
  local choice = present(body.tool_choice)
  if choice == nil then return end
  local mode = check.is_object(choice) and CHOICES[choice.type]
  if not mode then
    refuse("tool_choice", "tool_choice: Input tag found using 'type' does not match any of the expected tags: "
      .. "'auto', 'any', 'tool', 'none'")
  end
  if present(body.tools) == nil then
    refuse("tool_choice", "tool_choice: may only be specified while providing tools")
  end
  ask.choice, ask.choice_name = mode, choice.name
  ask.parallel = choice.disable_parallel_tool_use ~= true
  if mode ~= "tool" then return end
  for _, tool in ipairs(ask.tools) do
    if tool.name == choice.name then return end
  end
  refuse("tool_choice", ("Tool '%s' not found in provided tools"):format(tostring(choice.name)))
end

local function read_thinking(body, ask)
  local thinking = present(body.thinking)
  if thinking == nil then return end
  local kind = check.is_object(thinking) and thinking.type
  if kind == "enabled" then
    local budget = present(thinking.budget_tokens)
    if not math.tointeger(budget) then missing "thinking.enabled.budget_tokens" end
    if budget < 1024 then
      refuse("thinking", "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
    end
    if ask.max_tokens and budget >= ask.max_tokens then
      refuse("thinking", "`max_tokens` must be greater than `thinking.budget_tokens`.")
    end
  elseif kind ~= "disabled" and kind ~= "adaptive" and kind ~= "between_tools" then
    refuse("thinking", "thinking: Input tag found using 'type' does not match any of the expected tags: "
      .. "'enabled', 'disabled', 'adaptive'")
  end
  ask.thinking = kind == "enabled" or kind == "adaptive"
end

local function read_stops(body)
  local stops = present(body.stop_sequences)
  if stops == nil then return {} end
  if not check.is_array(stops) then wrong_type("stop_sequences", "list") end
  for i, s in ipairs(stops) do
    if type(s) ~= "string" then wrong_type(("stop_sequences.%d"):format(i - 1), "string") end
    if not s:find "%S" then
      refuse("stop_sequences", "stop_sequences: each stop sequence must contain non-whitespace")
    end
  end
  return stops
end

local function read_format(body, ask)
  local config = present(body.output_config)
  local format = type(config) == "table" and present(config.format)
  if type(format) == "table" and format.type == "json_schema" then ask.json = format.schema end
end

local function read_fields(body, headers)
  if headers["anthropic-beta"] then return end -- a beta brings fields of its own
  for name in pairs(body) do
    if not FIELDS[name] then refuse(name, ("%s: Extra inputs are not permitted"):format(name)) end
  end
end

local function read(body, headers, counting)
  local version = headers["anthropic-version"]
  if not version then refuse("anthropic-version", "anthropic-version: header is required") end
  if not check.is_object(body) then refuse(nil, "The request body is not valid JSON: an object is expected") end
  if type(body.model) ~= "string" then missing "model" end
  if body.model == "" then refuse("model", "model: String should have at least 1 character") end
  read_fields(body, headers)
  local ask = { model = body.model, prompt = "", input_tokens = 0, tools = {}, choice = "auto",
    parallel = true }
  ask.max_tokens = integer(body, "max_tokens", 1)
  if not ask.max_tokens and not counting then missing "max_tokens" end
  read_system(body, ask)
  read_messages(body, ask, version)
  for _, name in ipairs { "temperature", "top_p", "top_k" } do fraction(body, name, version) end
  read_tools(body, ask)
  read_choice(body, ask)
  read_thinking(body, ask)
  ask.stops = read_stops(body)
  read_format(body, ask)
  local stream = present(body.stream)
  if stream ~= nil and type(stream) ~= "boolean" then wrong_type("stream", "boolean") end
  ask.stream = stream == true
  return ask
end

--- Reads a request's decoded body. `counting`: of count_tokens, which needs no max_tokens.
---@param body any
---@param headers table<string, string>
---@param counting? boolean
---@return sluice.mock.Ask?
---@return sluice.mock.Failure?
return function(body, headers, counting)
  return check.reading(read, body, headers, counting)
end
