--- Structured answers: a value that fits a schema, instead of text.
-- Owns: what is asked for, finding the JSON in an answer, the repair round, and the error when it is of no use.
-- Never: knows how a provider's own mode is written (provider/openai.lua, provider/anthropic.lua), nor what a
-- schema means (schema/*).
--
-- The request says what is wanted twice: as response_format, which each model brings to what its provider has
-- (OpenAI: json_schema, strict where the schema can be; SiliconFlow, DeepSeek: json_object; Anthropic: a
-- tool that must be called, or output_config where that cannot be), and in words, with the schema, for a
-- server that ignores it. The words join `system`. A server that refuses the form is asked again with a
-- simpler one, and that is remembered.
-- An answer is not trusted in any mode: it is checked here, and shown to the model once, with what is wrong.
-- Reading order: structured.ask, round, structured.find.

local errors = require "sluice.errors"
local json = require "sluice.json"
local options = require "sluice.options"
local request_of = require "sluice.provider.request"
local schema = require "sluice.schema"
local strict_form = require "sluice.schema.strict"
local tokens = require "sluice.tokens"

local REPAIRS = 1
local CANDIDATES_MAX = 20 -- places in a text where JSON may begin
local SCAN_MAX = 4 << 20  -- bytes looked through for where they end
local SHOWN_MAX = 2000    -- bytes of faults the model is shown
local NAME = "answer"     -- of the value, where a provider wants a name

local SPEC = options.spec {
  repairs = { type = "integer", min = 0, max = 5, default = REPAIRS },
}

local structured = { NAME = NAME }

-- Finding JSON ----------------------------------------------------------------------------------------

--- Where the string ends whose first character stands at `at`.
local function string_end(text, at)
  while true do
    local here = text:find('["\\]', at)
    if not here or text:byte(here) == 34 then return here end
    at = here + 2
  end
end

--- Where the value that begins at `from` ends: its brackets balance outside of strings. nil: nowhere.
local function balanced(text, from)
  local depth, at = 0, from
  while true do
    local here = text:find('["{}%[%]]', at)
    if not here then return nil end
    local c = text:sub(here, here)
    if c == '"' then
      here = string_end(text, here + 1)
      if not here then return nil end
    elseif c == "{" or c == "[" then
      depth = depth + 1
    else
      depth = depth - 1
      if depth == 0 then return here end
    end
    at = here + 1
  end
end

local function decode(text)
  local ok, value = pcall(json.decode, text, { repair = true })
  if ok then return true, value end
  if not tostring(value):find "^json: " then error(value, 0) end -- no fault of the text: no memory, say
  return false
end

--- Every value that can be read in a text, best places first: all of it, fenced blocks, then wherever an
--- object or a list begins.
local function candidates(text)
  local list = {}
  local function try(part)
    local ok, value = decode(part)
    if ok then list[#list + 1] = value end
    return ok
  end
  text = text:gsub("^%s*<think>.-</think>", "")
  if try(text) then return list end
  for block in text:gmatch "```[%w_-]*[ \t]*\r?\n(.-)\n?[ \t]*```" do
    try(block)
    if #list >= CANDIDATES_MAX then return list end
  end
  local at, tries, scanned = 1, 0, 0
  while tries < CANDIDATES_MAX and scanned < SCAN_MAX do
    local from = text:find("[{%[]", at)
    if not from then break end
    local to = balanced(text, from)
    tries, scanned = tries + 1, scanned + (to or #text) - from
    if to and try(text:sub(from, to)) then at = to + 1 else at = from + 1 end
  end
  return list
end

--- The JSON in a text, with or without words and fences around it. With `fits`, the first value it accepts;
--- else the first of all.
---@param text string
---@param fits? fun(value: any): boolean
---@return boolean found
---@return any value
function structured.find(text, fits)
  local list = candidates(text)
  if fits then
    for _, value in ipairs(list) do
      if fits(value) then return true, value end
    end
  end
  if list[1] == nil then return false end
  return true, list[1]
end

-- What is wanted ----------------------------------------------------------------------------------------

---@class sluice.structured.Wish
---@field schema table      what the value must fit
---@field format table      response_format
---@field wrapped boolean   providers take only objects: anything else travels as { value = … }

local function wish_of(where, description)
  local inner = schema.read(where, description)
  local outer, wrapped = inner, inner.type ~= "object"
  if wrapped then
    outer = { type = "object", properties = { value = inner }, required = { "value" }, additionalProperties = false,
      ["$defs"] = inner["$defs"], definitions = inner.definitions }
  end
  local strict = strict_form(outer)
  return { schema = inner, wrapped = wrapped, format = { schema = strict or outer, strict = strict and true or nil,
    name = NAME, open = outer,
    instruction = "Answer with one JSON object and nothing else: no explanation, no code fence. It must fit this "
      .. "JSON Schema:\n" .. json.encode(outer) } }
end

--- Unwraps, tidies and checks. Returns the value and what is wrong with it.
local function judge(wish, value)
  if wish.wrapped and type(value) == "table" and not json.is_array(value) and value.value ~= nil then
    value = value.value
  end
  schema.tidy(wish.schema, value)
  return value, schema.faults(wish.schema, value)
end

--- What an answer holds: found, value, faults.
local function read(wish, reply)
  for _, call in ipairs(reply.tool_calls) do
    if call.name == NAME then return true, judge(wish, schema.copy(call.arguments)) end
  end
  local best, best_faults
  local found, value = structured.find(reply.text, function(candidate)
    local judged, faults = judge(wish, candidate)
    if best_faults == nil or #faults < #best_faults then best, best_faults = judged, faults end
    return #faults == 0
  end)
  if not found then return false end
  if best_faults then return true, best, best_faults end
  return true, judge(wish, value)
end

-- Asking --------------------------------------------------------------------------------------------------

local simpler = { [false] = "object", object = "text" }
local modes = setmetatable({}, { __mode = "k" }) -- by model: the mode its server takes

local COMPLAINTS = { "response_format", "response format", "json_schema", "json_object", "json mode", "json schema",
  "structured", "output_config", "tool_choice", "guided", "20024" }

--- Does the server refuse the form that was asked for, rather than the request?
local function is_complaint(err)
  if not errors.is(err, "invalid") then return false end
  local words = (tostring(err.message) .. " " .. tostring(err.code)):lower()
  for _, word in ipairs(COMPLAINTS) do
    if words:find(word, 1, true) then return true end
  end
  return false
end

--- One question, in the best form the server takes.
local function ask(target, request, format)
  while true do
    local mode = modes[target] or false
    request.response_format = {}
    for key, value in pairs(format) do request.response_format[key] = value end
    request.response_format.mode = mode or nil
    local ok, reply = pcall(target.ask, target, request)
    if ok then return reply end
    if not (simpler[mode] and is_complaint(reply)) then error(reply, 0) end
    modes[target] = simpler[mode]
  end
end

--- Shows the model its answer and what is wrong with it.
local function correct(request, reply, words)
  local messages = request.messages
  if request.prompt then messages[#messages + 1] = { role = "user", content = request.prompt } end
  local calls = reply.tool_calls
  if #calls > 0 or reply.text ~= "" then messages[#messages + 1] = reply:message() end
  for _, call in ipairs(calls) do
    messages[#messages + 1] = { role = "tool", tool_call_id = call.id, is_error = true,
      content = call.name == NAME and words or "not available now" }
  end
  request.prompt = words .. "\nAnswer again with the whole corrected JSON, and nothing else."
end

local function words_of(found, faults)
  if not found then return "That is not JSON." end
  local text = table.concat(faults, "\n")
  if #text > SHOWN_MAX then text = errors.one_line(text, SHOWN_MAX) end
  return "That does not fit the schema:\n" .. text
end

local function fail(reply, found, faults, repairs)
  local call = reply.tool_calls[1]
  local after = repairs > 0 and (" (asked again %d time%s)"):format(repairs, repairs > 1 and "s" or "") or ""
  local fields = { kind = "protocol", model = reply.model, provider = reply.provider, request_id = reply.request_id,
    partial = reply.text ~= "" and reply.text or call and call.arguments_json or "", should_retry = false }
  if reply.finish_reason == "length" then
    fields.code, fields.message = "cut_off", "the answer was cut off before its JSON was whole: raise max_tokens"
  elseif not found then
    fields.code, fields.message = "no_json", "the answer holds no JSON" .. after
  else
    fields.code = "schema"
    fields.message = ("the answer does not fit the schema%s: %s"):format(after, table.concat(faults, "; "))
    fields.faults = faults
  end
  errors.raise(fields)
end

--- Asks for a value that fits the schema.
---@async
---@param target table   anything with ask
---@param where string   the public function
---@param req string|sluice.Request
---@param description string|table
---@param opts? { repairs?: integer }
---@return any value, sluice.Reply reply
function structured.ask(target, where, req, description, opts)
  opts = options.fill(options.check(where, opts or {}, SPEC), SPEC)
  local given = request_of.check(where, req)
  if given.response_format ~= nil then
    options.raise(where .. ": field 'response_format' is what the schema stands for: leave it out")
  end
  local wish = wish_of(where, description)
  local request = {}
  for key, value in pairs(given) do request[key] = value end
  request.messages = table.move(given.messages or {}, 1, #(given.messages or {}), 1, {})
  local tools = request.tools or type(target.defaults) == "table" and target.defaults.tools
  if tools and #tools > 0 then request.tool_choice = "none" end -- they are there for the history only
  local total, repairs = {}, 0
  while true do
    if #request.messages == 0 then request.messages = nil end
    local reply = ask(target, request, wish.format)
    request.messages = request.messages or {}
    tokens.add(total, reply.usage)
    local found, value, faults = read(wish, reply)
    if found and #faults == 0 then
      reply.rounds, reply.total = repairs + 1, total
      return value, reply
    end
    if repairs >= opts.repairs or reply.finish_reason == "length" then fail(reply, found, faults, repairs) end
    repairs = repairs + 1
    correct(request, reply, words_of(found, faults))
  end
end

return structured
