--- Messages of any dialect -> `system` and `messages` of Anthropic's Messages API.
-- Owns: that translation, the merging of turns, and what Anthropic refuses: empty text blocks, tool
-- results anywhere but first in the next user turn, ids with other letters than A-Z a-z 0-9 _ -.
-- Never: changes a block that already is Anthropic's: thinking must return as it came.

local content = require "sluice.provider.content"

local fail, present = content.fail, content.present

--- Ids of other vendors ("functions.f:0") in the letters Anthropic allows; the same in a call and in
--- its result, so that they still meet.
local function clean_id(id)
  return (id:gsub("[^%w_-]", "_"))
end

local function image_block(call, image, part, path)
  if image.url then return { type = "image", source = { type = "url", url = image.url } } end
  if type(image.data) ~= "string" or type(image.media_type) ~= "string" then
    fail(call, path, "an image needs url, or data (base64) with media_type, such as 'image/png'")
  end
  return { type = "image", cache_control = part.cache_control,
    source = { type = "base64", media_type = image.media_type, data = image.data } }
end

--- OpenAI's file part as a document block.
local function document_block(call, part, path)
  local file = type(part.file) == "table" and part.file or {}
  local media_type, data
  if type(file.file_data) == "string" then media_type, data = content.data_url(file.file_data) end
  if not data then
    fail(call, path, "a file can go over the anthropic protocol only as file_data = 'data:application/pdf;base64,…'")
  end
  return { type = "document", title = file.filename,
    source = { type = "base64", media_type = media_type, data = data } }
end

local NOT_FOR_ANTHROPIC = { input_audio = true, video_url = true, audio_url = true, input_video = true }

--- One part as a block, or nil for an empty text.
local function block(call, part, path)
  local kind = part.type
  if kind == "text" then return part.text ~= "" and part or nil end
  if kind == "refusal" then
    return part.refusal ~= "" and { type = "text", text = part.refusal } or nil
  end
  if kind == "image_url" or kind == "image" and type(part.source) ~= "table" then
    return image_block(call, content.image(call, part, path), part, path)
  end
  if kind == "file" then return document_block(call, part, path) end
  if NOT_FOR_ANTHROPIC[kind] then
    fail(call, path .. ".type", ("'%s' cannot be sent over the anthropic protocol"):format(kind))
  end
  return part
end

local function blocks(call, value, path, into)
  for i, part in ipairs(content.parts(call, value, path)) do
    into[#into + 1] = block(call, part, ("%s[%d]"):format(path, i))
  end
  return into
end

-- Turns -----------------------------------------------------------------------------------------

--- Opens a turn, or goes on with the last one when it has the same role: all results of a run of
--- tool messages, and what the user says next, are one turn. A turn that is one plain text stays a
--- string until something joins it.
local function turn(state, role)
  local last = state.out[#state.out]
  if last and last.role == role then
    if type(last.content) == "string" then
      last.content, last.results = { { type = "text", text = last.content } }, 0
    end
    return last
  end
  last = { role = role, content = {}, results = 0 }
  state.out[#state.out + 1] = last
  return last
end

--- Results stand before everything else of their turn, in the order they came.
local function add_result(state, result)
  local last = turn(state, "user")
  last.results = last.results + 1
  table.insert(last.content, last.results, result)
end

local function user(state, value, path)
  local call = state.call
  if present(value) == nil then fail(call, path, "expected a string or a list of parts") end
  local kept = {}
  for i, part in ipairs(content.parts(call, value, path)) do
    local where = ("%s[%d]"):format(path, i)
    if part.type == "tool_result" then add_result(state, part)
    else kept[#kept + 1] = block(call, part, where) end
  end
  if #kept > 0 then
    local last = turn(state, "user")
    table.move(kept, 1, #kept, #last.content + 1, last.content)
  end
end

local WRITERS = {}

function WRITERS.user(state, m, path)
  user(state, m.content, path .. ".content")
end

function WRITERS.tool(state, m, path)
  local call = state.call
  local id = m.tool_call_id
  if type(id) ~= "string" or id == "" then
    fail(call, path .. ".tool_call_id", "expected the id of the tool call this answers")
  end
  local result = content.result(call, m.content, path .. ".content")
  if type(result) == "table" then result = blocks(call, result, path .. ".content", {}) end
  if result == "" or type(result) == "table" and #result == 0 then result = nil end
  add_result(state, { type = "tool_result", tool_use_id = clean_id(id), content = result,
    is_error = m.is_error and true or nil })
end

--- Thinking can go back only with the signature it came with; other vendors' reasoning has none.
local function is_signed(b)
  return type(b.signature) == "string" and b.signature ~= ""
end

local function add_thinking(list, thinking)
  if type(thinking) ~= "table" then return end
  for _, b in ipairs(thinking) do
    if type(b) == "table" then
      if present(b.data) then list[#list + 1] = { type = "redacted_thinking", data = b.data }
      elseif is_signed(b) then
        list[#list + 1] = { type = "thinking", thinking = b.thinking or b.text or "", signature = b.signature }
      end
    end
  end
end

local function tool_use(call, tool_call, path)
  local written = content.call(call, tool_call, path)
  local input = content.arguments(call, written)
  return { type = "tool_use", id = clean_id(written.id), name = written.name, input = input }
end

function WRITERS.assistant(state, m, path)
  local call = state.call
  local list = {}
  add_thinking(list, m.thinking)
  local value = present(m.content)
  if value ~= nil then
    for i, part in ipairs(content.parts(call, value, path .. ".content")) do
      local where = ("%s.content[%d]"):format(path, i)
      local kind = part.type
      if kind == "tool_call" then list[#list + 1] = tool_use(call, part, where)
      elseif kind ~= "thinking" or is_signed(part) then list[#list + 1] = block(call, part, where) end
    end
  end
  for i, tool_call in ipairs(present(m.tool_calls) or {}) do
    list[#list + 1] = tool_use(call, tool_call, ("%s.tool_calls[%d]"):format(path, i))
  end
  if #list == 0 then return end -- an empty turn is refused; leaving it out loses nothing
  local last = turn(state, "assistant")
  table.move(list, 1, #list, #last.content + 1, last.content)
end

--- System text from anywhere in the list joins the one at the top: not every compatible server
--- takes the role inside `messages`, and none may lose what it says.
function WRITERS.system(state, m, path)
  blocks(state.call, m.content, path .. ".content", state.system)
end
WRITERS.developer = WRITERS.system

-- The whole --------------------------------------------------------------------------------------

local function is_plain_text(b)
  for key in pairs(b) do
    if key ~= "type" and key ~= "text" then return false end
  end
  return b.type == "text"
end

--- System as one string, or as the list of blocks when a block says more than text (cache_control).
local function join_system(list)
  if #list == 0 then return nil end
  local texts = {}
  for i, b in ipairs(list) do
    if not is_plain_text(b) then return list end
    texts[i] = b.text
  end
  return table.concat(texts, "\n\n")
end

--- A reply prefix may not end in white space (a 400), and as the last turn it is a prefix.
local function trim_prefix(last)
  if type(last.content) == "string" then
    last.content = last.content:gsub("%s+$", "")
    return
  end
  local b = last.content[#last.content]
  if b.type ~= "text" or not b.text:find("%s$") then return end
  local trimmed = b.text:gsub("%s+$", "")
  if trimmed == "" then table.remove(last.content)
  else
    b = content.copy(b)
    b.text = trimmed
    last.content[#last.content] = b
  end
end

--- The common case, told at a glance: plain text that begins a turn of its own.
local function is_plain(state, m)
  local role, text = m.role, m.content
  if type(text) ~= "string" or text == "" then return false end
  if role ~= "user" and (role ~= "assistant" or m.tool_calls ~= nil or m.thinking ~= nil) then return false end
  local last = state.out[#state.out]
  return last == nil or last.role ~= role
end

--- `system` and `messages` for one request: `system`, then `messages`, then `prompt`.
---@param call sluice.Call
---@return string|table[]? system, table[] messages
local function write(call)
  local state = { call = call, out = {}, system = {} }
  if call.system ~= nil then blocks(call, call.system, "system", state.system) end
  for i, m in ipairs(call.messages or {}) do
    if is_plain(state, m) then
      state.out[#state.out + 1] = { role = m.role, content = m.content }
    else
      local path = ("messages[%d]"):format(i)
      m = content.message(m)
      WRITERS[content.role(call, m, path)](state, m, path)
    end
  end
  if call.prompt ~= nil then user(state, call.prompt, "prompt") end

  local out = state.out
  local last = out[#out]
  if last and last.role == "assistant" then
    trim_prefix(last)
    if #last.content == 0 then out[#out] = nil end
  end
  if #out == 0 then fail(call, call.prompt and "prompt" or "messages", "nothing to send: all text is empty") end
  for _, m in ipairs(out) do
    if m.results then
      m.results = nil
      local only = #m.content == 1 and m.content[1]
      if only and is_plain_text(only) then m.content = only.text end
    end
  end
  return join_system(state.system), out
end

return write
