--- Messages of any dialect -> the `messages` of OpenAI Chat Completions.
-- Owns: that translation, the order tool results must keep, and the return of reasoning text.
-- Never: copies what already is in OpenAI's form: such a message goes through by reference, with
-- every field it has, known here or not.
--
-- What decides here: content is null beside tool_calls; images are not legal in a tool message;
-- DeepSeek wants reasoning_content back on turns that called tools, even when empty (its guide
-- "Thinking mode").

local json = require "sluice.json"
local content = require "sluice.provider.content"

local fail, present = content.fail, content.present

-- Parts -----------------------------------------------------------------------------------------

local function image_part(image)
  local url = image.url or ("data:%s;base64,%s"):format(image.media_type, image.data)
  return { type = "image_url", image_url = { url = url, detail = image.detail } }
end

--- An Anthropic document block as OpenAI's file part.
local function document_part(call, part, path)
  local source = type(part.source) == "table" and part.source or {}
  if source.type == "text" and type(source.data) == "string" then return { type = "text", text = source.data } end
  if source.type == "base64" and type(source.data) == "string" then
    local media_type = source.media_type or "application/pdf"
    return { type = "file", file = { filename = part.title or "document.pdf",
      file_data = ("data:%s;base64,%s"):format(media_type, source.data) } }
  end
  fail(call, path, "this kind of document cannot be sent over the openai protocol: give its bytes as base64")
end

--- Blocks that mean something to Anthropic only and have no counterpart.
local UNTRANSLATABLE = { search_result = true, container_upload = true, tool_reference = true }

--- One user part; the part itself when it is OpenAI's already or of a kind unknown here.
local function user_part(call, part, path)
  local kind = part.type
  if kind == "text" then
    if part.cache_control == nil and part.citations == nil then return part end
    return { type = "text", text = part.text }
  end
  if kind == "image" then
    local image = content.image(call, part, path)
    if not image then fail(call, path, "a file id belongs to one vendor: give the image as url or data") end
    return image_part(image)
  end
  if kind == "document" then return document_part(call, part, path) end
  if UNTRANSLATABLE[kind] then
    fail(call, path .. ".type", ("'%s' cannot be sent over the openai protocol"):format(kind))
  end
  return part
end

-- Messages by role ------------------------------------------------------------------------------

--- State of one translation: `out` is the list, `late` holds images of tool results, which must
--- wait until the run of tool messages is over.
local function flush(state)
  if state.late then
    state.out[#state.out + 1] = { role = "user", content = state.late }
    state.late = nil
  end
end

local function tool_message(state, m, id, value, is_error, path)
  local call = state.call
  if type(id) ~= "string" or id == "" then
    fail(call, path .. ".tool_call_id", "expected the id of the tool call this answers")
  end
  local result = content.result(call, value, path .. ".content")
  if type(result) == "table" then
    local texts = {}
    for i, part in ipairs(result) do
      local image = content.image(call, part, ("%s.content[%d]"):format(path, i))
      if image then
        state.late = state.late or {}
        state.late[#state.late + 1] = image_part(image)
        texts[#texts + 1] = "[an image follows]"
      elseif part.type == "text" then
        texts[#texts + 1] = part.text
      end
    end
    result = table.concat(texts, "\n")
  end
  if is_error then result = "Error: " .. result end
  local message = m and content.copy(m) or {}
  message.role, message.tool_call_id, message.content, message.is_error = "tool", id, result, nil
  state.out[#state.out + 1] = message
end

local function user(state, m, path)
  local value = m.content
  if type(value) ~= "table" then
    if type(value) ~= "string" then
      fail(state.call, path .. ".content", "expected a string or a list of parts")
    end
    flush(state)
    state.out[#state.out + 1] = m
    return
  end
  local parts = content.parts(state.call, value, path .. ".content")
  local kept, changed = {}, parts ~= value
  for i, part in ipairs(parts) do
    local where = ("%s.content[%d]"):format(path, i)
    if part.type == "tool_result" then
      tool_message(state, nil, part.tool_use_id, part.content, part.is_error, where)
      changed = true
    else
      local written = user_part(state.call, part, where)
      changed = changed or written ~= part
      kept[#kept + 1] = written
    end
  end
  if not changed then
    flush(state)
    state.out[#state.out + 1] = m
  elseif #kept > 0 then
    -- results came first; their images go before the words that speak about them
    if state.late then
      table.move(kept, 1, #kept, #state.late + 1, state.late)
      kept, state.late = state.late, nil
    end
    local message = content.copy(m)
    message.content = kept
    state.out[#state.out + 1] = message
  end
end

--- Is this assistant message OpenAI's as it stands?
local function is_native(m)
  if m.thinking ~= nil then return false end
  local value = present(m.content)
  if type(value) == "table" then
    for _, part in ipairs(value) do
      if type(part) ~= "table" or part.type ~= "text" and part.type ~= "refusal" then return false end
    end
  elseif value == nil and m.content == nil and not m.tool_calls and not m["function_call"] then
    return false
  end
  for _, tool_call in ipairs(present(m.tool_calls) or {}) do
    if type(tool_call) ~= "table" or type(tool_call["function"]) ~= "table" then return false end
  end
  return true
end

local function write_call(written)
  return { id = written.id, type = "function",
    ["function"] = { name = written.name, arguments = written.json } }
end

--- Blocks of an assistant's turn that only the vendor who wrote them can read: left out.
local function is_private(kind)
  return kind == "redacted_thinking" or kind:find("^server_tool") or kind:find("_tool_result$")
end

--- Splits an assistant's blocks into text, reasoning and calls; parts of unknown kind stay.
local function read_blocks(state, value, path, calls)
  local texts, thoughts, others = {}, {}, nil
  for i, part in ipairs(content.parts(state.call, value, path)) do
    local kind = part.type
    if kind == "text" then texts[#texts + 1] = part.text
    elseif kind == "thinking" then thoughts[#thoughts + 1] = present(part.thinking) or present(part.text)
    elseif kind == "tool_use" or kind == "tool_call" then
      calls[#calls + 1] = write_call(content.call(state.call, part, ("%s[%d]"):format(path, i)))
    elseif not is_private(kind) then
      others = others or {}
      others[#others + 1] = part
    end
  end
  local text = table.concat(texts)
  if others then
    if text ~= "" then table.insert(others, 1, { type = "text", text = text }) end
    return others, table.concat(thoughts, "\n")
  end
  return text, table.concat(thoughts, "\n")
end

local function thinking_text(thinking)
  if type(thinking) == "string" then return thinking end
  if type(thinking) ~= "table" then return nil end
  local texts = {}
  for _, block in ipairs(thinking) do
    texts[#texts + 1] = type(block) == "string" and block or present(block.thinking) or present(block.text)
  end
  return table.concat(texts, "\n")
end

--- Puts reasoning back where the vendor wants to see it: on turns that called tools. Elsewhere it
--- is ignored at best, and counted as input.
local function give_back(message, quirks, reasoning, thinking_off)
  local field = quirks.reasoning_field
  if not field or not message.tool_calls or message[field] ~= nil then return end
  if reasoning and reasoning ~= "" then message[field] = reasoning
  elseif quirks.reasoning_required and not thinking_off then message[field] = "" end
end

local function assistant(state, m, path)
  local quirks = state.quirks
  flush(state)
  if is_native(m) then
    local field = quirks.reasoning_required and quirks.reasoning_field
    if field and present(m.tool_calls) and m[field] == nil then
      m = content.copy(m)
      give_back(m, quirks, nil, state.call.thinking == false)
    end
    state.out[#state.out + 1] = m
    return
  end
  local message = content.copy(m)
  local calls = {}
  local value, reasoning = present(m.content), nil
  message.thinking = nil
  if type(value) == "table" then
    value, reasoning = read_blocks(state, value, path .. ".content", calls)
  elseif value ~= nil and type(value) ~= "string" then
    fail(state.call, path .. ".content", "expected a string or a list of parts")
  end
  for i, tool_call in ipairs(present(m.tool_calls) or {}) do
    calls[#calls + 1] = write_call(content.call(state.call, tool_call, ("%s.tool_calls[%d]"):format(path, i)))
  end
  if m.thinking ~= nil then reasoning = thinking_text(m.thinking) end
  if #calls > 0 then
    message.tool_calls = calls
    message.content = value ~= "" and value or json.null
  else
    message.tool_calls = nil -- an empty list is refused by strict servers
    message.content = value or ""
  end
  give_back(message, quirks, reasoning, state.call.thinking == false)
  state.out[#state.out + 1] = message
end

local WRITERS = { user = user, assistant = assistant }

function WRITERS.tool(state, m, path)
  if type(m.content) == "string" and not m.is_error and type(m.tool_call_id) == "string"
    and m.is_error == nil then
    state.out[#state.out + 1] = m
    return
  end
  tool_message(state, m, m.tool_call_id, m.content, m.is_error, path)
end

function WRITERS.system(state, m, path)
  flush(state)
  if type(m.content) ~= "string" then
    m = content.copy(m)
    m.content = content.text(state.call, m.content, path .. ".content", "\n\n")
  end
  state.out[#state.out + 1] = m
end
WRITERS.developer = WRITERS.system

--- The common case, told at a glance: plain text that needs no translation.
local function is_plain(m)
  local role = m.role
  return type(m.content) == "string"
    and (role == "user" or role == "system" or role == "assistant" and m.tool_calls == nil and m.thinking == nil)
end

--- The whole list for one request: `system`, then `messages`, then `prompt`.
---@param call sluice.Call
---@return table[] messages
local function write(call)
  local state = { call = call, quirks = call.quirks or {}, out = {}, late = nil }
  local out = state.out
  if call.system ~= nil then
    out[1] = { role = "system", content = content.text(call, call.system, "system", "\n\n") }
  end
  for i, m in ipairs(call.messages or {}) do
    if is_plain(m) then
      flush(state)
      out[#out + 1] = m
    else
      local path = ("messages[%d]"):format(i)
      m = content.message(m)
      WRITERS[content.role(call, m, path)](state, m, path)
    end
  end
  flush(state)
  if call.prompt ~= nil then
    if type(call.prompt) == "string" then out[#out + 1] = { role = "user", content = call.prompt }
    else
      user(state, { role = "user", content = call.prompt }, "prompt")
      flush(state)
    end
  end
  if #out == 0 then fail(call, "messages", "nothing to send, give field 'prompt' or 'messages'") end
  return out
end

return write
