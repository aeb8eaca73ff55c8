--- Reads messages in any of the accepted dialects: sluice's own, OpenAI's and Anthropic's.
-- Owns: what counts as text, image, tool call or tool result, and the words when something is not.
-- Never: writes a protocol's form (openai_messages, anthropic_messages).
--
-- sluice's own form:
--   { role = "system" | "user" | "assistant" | "tool", content = string | list of parts }
--   parts: "text" | { type = "text", text = } | { type = "image", url = } | { type = "image", data =
--          base64, media_type = }
--   assistant: thinking = string, tool_calls = { { id =, name =, arguments = table } … }
--   tool:      tool_call_id =, content = string | parts | any table (sent as JSON), is_error = boolean
-- A reply may stand in the list as it is: it reads as the assistant's turn.

local json = require "sluice.json"
local options = require "sluice.options"
local assemble = require "sluice.assemble"

local content = {}

--- Raises an ordinary error about one place in the request: "model:ask: messages[2].role: …".
---@param call sluice.Call
---@param path string
---@param text string
function content.fail(call, path, text)
  options.raise(("%s: %s: %s"):format(call.where or "request", path, text))
end
local fail = content.fail

--- nil for nil and JSON null.
local function present(v)
  if v == nil or v == json.null then return nil end
  return v
end
content.present = present

function content.copy(t)
  local c = {}
  for key, value in pairs(t) do c[key] = value end
  return c
end

--- A reply (it has no role, but a finish_reason) becomes the message it stands for.
---@param m table
---@return table
function content.message(m)
  if m.role == nil and m.finish_reason ~= nil and m.text ~= nil then return assemble.message(m) end
  return m
end

local ROLES = { "system", "developer", "user", "assistant", "tool" }

--- The message's role; raises when it is none that is known.
---@return string
function content.role(call, m, path)
  local role = m.role
  for _, known in ipairs(ROLES) do
    if role == known then return role end
  end
  local shown = type(role) == "string" and #role <= 40 and ("'%s'"):format(role) or options.got(role)
  fail(call, path .. ".role", ("expected one of %s, got %s%s"):format(table.concat(ROLES, ", "), shown,
    type(role) == "string" and options.suggest(role, ROLES):match("^ %(did.*$") or ""))
end

--- Content as a list of parts: a string is one text part, a string in the list too.
--- The list itself is returned when nothing needs a change.
---@return table[] parts
function content.parts(call, value, path)
  if type(value) == "string" then return { { type = "text", text = value } } end
  if type(value) ~= "table" then
    fail(call, path, ("expected a string or a list of parts, got %s"):format(options.got(value)))
  end
  local parts = value
  for i = 1, #value do
    local part = value[i]
    if type(part) == "string" then
      if parts == value then parts = table.move(value, 1, #value, 1, {}) end
      parts[i] = { type = "text", text = part }
    elseif type(part) ~= "table" or type(part.type) ~= "string" then
      fail(call, ("%s[%d]"):format(path, i), "expected a string or a part with a type, such as "
        .. "{ type = 'text', text = … } or { type = 'image', url = … }, got " .. options.got(part))
    elseif part.type == "text" and type(part.text) ~= "string" then
      fail(call, ("%s[%d].text"):format(path, i), ("expected a string, got %s"):format(options.got(part.text)))
    end
  end
  if #value == 0 and next(value) ~= nil then
    fail(call, path, "expected a string or a list of parts, got a table with names; wrap it: { { type = … } }")
  end
  return parts
end

--- All text of some content, joined by `separator`; parts that are not text are left out.
---@return string
function content.text(call, value, path, separator)
  if type(value) == "string" then return value end
  local texts = {}
  for _, part in ipairs(content.parts(call, value, path)) do
    if part.type == "text" then texts[#texts + 1] = part.text end
  end
  return table.concat(texts, separator or "")
end

--- "data:image/png;base64,AAAA" -> media type, base64; nil for any other address.
---@param url string
---@return string? media_type, string? data
function content.data_url(url)
  local media_type, data = url:match("^data:([^;,]*)[^,]*;base64,(.*)$")
  if not media_type then return nil end
  return media_type ~= "" and media_type or "application/octet-stream", data
end

---@class sluice.Image
---@field url? string
---@field data? string        base64
---@field media_type? string
---@field detail? string      OpenAI's "low", "high", "auto"

--- An image part of any dialect, in one form; nil when the part is no image.
---@return sluice.Image?
function content.image(call, part, path)
  if part.type == "image_url" then
    local image = part.image_url
    local url = type(image) == "table" and image.url or image
    if type(url) ~= "string" then fail(call, path .. ".image_url.url", "expected a string") end
    local media_type, data = content.data_url(url)
    if data then return { data = data, media_type = media_type } end
    return { url = url, detail = type(image) == "table" and image.detail or nil }
  end
  if part.type ~= "image" then return nil end
  local source = part.source
  if type(source) == "table" then
    if source.type == "base64" then return { data = source.data, media_type = source.media_type } end
    if source.type == "url" then return { url = source.url } end
    return nil -- a file id: means something to one vendor only
  end
  if type(part.url) == "string" then
    local media_type, data = content.data_url(part.url)
    if data then return { data = data, media_type = media_type } end
    return { url = part.url, detail = part.detail }
  end
  if type(part.data) == "string" and type(part.media_type) == "string" then
    return { data = part.data, media_type = part.media_type, detail = part.detail }
  end
  fail(call, path, "an image needs url, or data (base64) with media_type, such as 'image/png'")
end

-- Tool calls and results ------------------------------------------------------------------------

---@class sluice.WrittenCall
---@field id string
---@field name string
---@field json string      arguments as JSON text
---@field path string

--- One tool call of an assistant message, from any dialect.
---@return sluice.WrittenCall
function content.call(call, tool_call, path)
  if type(tool_call) ~= "table" then fail(call, path, "expected a tool call, got " .. options.got(tool_call)) end
  local inner = type(tool_call["function"]) == "table" and tool_call["function"] or tool_call
  local name, id = inner.name, tool_call.id
  if type(name) ~= "string" or name == "" then fail(call, path .. ".name", "expected the tool's name") end
  if type(id) ~= "string" or id == "" then
    fail(call, path .. ".id", "expected the id of the call, a string (its result names it as tool_call_id)")
  end
  local arguments = present(inner.arguments_json) or present(inner.arguments) or present(inner.input) or "{}"
  if type(arguments) == "table" then
    local ok, text = pcall(json.encode, arguments)
    if not ok then fail(call, path .. ".arguments", text) end
    arguments = text
  elseif type(arguments) ~= "string" then
    fail(call, path .. ".arguments", ("expected a table or JSON text, got %s"):format(options.got(arguments)))
  end
  if arguments == "" then arguments = "{}" end
  return { id = id, name = name, json = arguments, path = path }
end

--- A call's arguments as a table, for protocols that send them as an object.
---@param written sluice.WrittenCall
---@return table
function content.arguments(call, written)
  local ok, value = pcall(json.decode, written.json)
  if not ok then fail(call, written.path .. ".arguments", "not valid JSON: " .. tostring(value)) end
  if type(value) ~= "table" then fail(call, written.path .. ".arguments", "expected a JSON object") end
  return value
end

--- A tool's result: a string, or a list of parts when it holds more than text. Any other table is
--- sent as JSON, so that a tool may simply return one.
---@return string|table[]
function content.result(call, value, path)
  value = present(value)
  if value == nil then return "" end
  if type(value) == "string" then return value end
  if type(value) ~= "table" then return tostring(value) end
  local first = value[1]
  if type(first) == "table" and type(first.type) == "string" and (first.text or first.url or first.data
    or first.source or first.image_url or first.tool_name or first.content) then
    return content.parts(call, value, path)
  end
  local ok, text = pcall(json.encode, value)
  if not ok then fail(call, path, tostring(text)) end
  return text
end

-- Tools -----------------------------------------------------------------------------------------

local LISTS = { required = true, enum = true, anyOf = true, allOf = true, oneOf = true, prefixItems = true }
local BY_NAME = { properties = true, patternProperties = true, ["$defs"] = true, definitions = true,
  dependentSchemas = true }
local DATA = { default = true, const = true, examples = true, enum = true }
local SCHEMA_DEPTH_MAX = 100

--- Marks the empty lists of a JSON Schema as lists: `required = {}` is an object to an encoder and
--- a 400 to a strict server. The mark changes nothing a script can see.
local function mark_lists(schema, depth)
  depth = depth or 0
  if depth > SCHEMA_DEPTH_MAX then return schema end -- a schema that holds itself; the encoder says so
  for key, value in pairs(schema) do
    if type(value) == "table" then
      if LISTS[key] and next(value) == nil then
        if getmetatable(value) == nil then json.array(value) end
      elseif BY_NAME[key] then
        for _, named in pairs(value) do
          if type(named) == "table" then mark_lists(named, depth + 1) end
        end
      elseif not DATA[key] then mark_lists(value, depth + 1) end
    end
  end
  return schema
end

---@class sluice.ReadTool
---@field name string
---@field description? string
---@field parameters table   JSON Schema
---@field strict? boolean

--- A function tool of any dialect in one form; nil for a vendor's own tool, which passes as it is.
---@return sluice.ReadTool?
function content.tool(call, tool, path)
  local inner = tool
  if tool.type == "function" and type(tool["function"]) == "table" then inner = tool["function"]
  elseif tool.type ~= nil and tool.type ~= "function" and tool.type ~= "custom" then return nil
  elseif tool.type == "custom" and tool.input_schema == nil then return nil end
  if type(inner.name) ~= "string" or inner.name == "" then
    fail(call, path .. ".name", "expected the tool's name, got " .. options.got(inner.name))
  end
  local schema = present(inner.parameters) or present(inner.input_schema)
  if schema == nil then schema = { type = "object", properties = {} }
  elseif type(schema) ~= "table" then
    fail(call, path .. ".parameters", "expected a JSON Schema (a table), got " .. options.got(schema))
  end
  return { name = inner.name, description = present(inner.description), parameters = mark_lists(schema),
    strict = present(inner.strict) }
end

--- The script's tool_choice in one form: "auto" | "none" | "required" | nil, and a tool's name.
---@return string? mode, string? name
function content.tool_choice(call)
  local choice = call.tool_choice
  if choice == nil then return nil end
  if choice == "any" then return "required" end
  if choice == "auto" or choice == "none" or choice == "required" then return choice end
  if type(choice) == "table" then
    if choice.type == "any" then return "required" end
    if choice.type == "auto" or choice.type == "none" then return choice.type end
    local name = type(choice["function"]) == "table" and choice["function"].name or choice.name
    if type(name) == "string" then return "tool", name end
  end
  fail(call, "tool_choice", "expected 'auto', 'none', 'required' or { name = tool }, got "
    .. (type(choice) == "string" and ("'%s'"):format(choice:sub(1, 40)) or options.got(choice)))
end

--- How an answer that must fit a schema (model:json) is asked for, nil when none is: "schema", "object", "tool",
--- "format" or "text", which is not at all. `best` is the protocol's own way, unless the provider has another;
--- response_format.mode, what a server that refused it takes, goes first.
---@param call sluice.Call
---@param best string
---@return string? mode
function content.json_mode(call, best)
  local format = call.response_format
  if type(format) ~= "table" or not format.instruction then return nil end
  return format.mode or call.quirks and call.quirks.json_mode or best
end

--- The schema of a response_format, in one form.
---@return string? kind  "json" | "schema" | nil for plain text, table? format  { schema, name, strict }
function content.response_format(call)
  local format = call.response_format
  if format == nil or format == "text" then return nil end
  if format == "json" or format == "json_object" then return "json" end
  if type(format) == "table" then
    if format.type == "text" then return nil end
    if format.type == "json_object" then return "json" end
    local inner = type(format.json_schema) == "table" and format.json_schema or format
    if type(inner.schema) == "table" then
      return "schema", { schema = mark_lists(inner.schema), name = inner.name or "reply", strict = inner.strict }
    end
    if format.type ~= nil then return "native", format end
  end
  fail(call, "response_format", "expected 'text', 'json' or { schema = JSON Schema }")
end

return content
