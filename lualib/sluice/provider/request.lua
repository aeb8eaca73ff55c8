--- What a script may ask of a model: the fields of a request, checked once, the same everywhere.
-- Owns: the table of request fields and the readings of `thinking`, `stop`, `extra` that every
-- protocol shares.
-- Never: writes a body (provider.openai, provider.anthropic do) nor looks inside messages
-- (provider.content does).

local json = require "sluice.json"
local options = require "sluice.options"

local EFFORTS = { "none", "minimal", "low", "medium", "high", "xhigh", "max" }
local EFFORT = {}
for _, name in ipairs(EFFORTS) do EFFORT[name] = true end

--- Tokens to think with, for protocols that want a number where the script named an effort.
local EFFORT_BUDGET = {
  minimal = 1024, low = 2048, medium = 8192, high = 16384, xhigh = 24576, max = 32768,
}

local request = { EFFORT_BUDGET = EFFORT_BUDGET }

local function check_thinking(value)
  if type(value) == "string" then
    return EFFORT[value], "true, false, { budget = tokens } or one of " .. table.concat(EFFORTS, ", ")
  end
  return true
end

--- Fields of `ask` and `stream`, and of a model's `defaults`. Ranges are those every vendor shares;
--- a narrower limit is the vendor's to state, in its own words.
request.SPEC = options.spec({
  model = { type = "string", nonempty = true, doc = "another model of the same provider" },
  prompt = { type = { "string", "list" }, nonempty = true, doc = "the last user message" },
  system = { type = { "string", "list" }, doc = "instructions that stand before the messages" },
  messages = { type = "list", nonempty = true, items = { type = "table" }, doc = "the conversation so far" },
  tools = { type = "list", items = { type = "table" }, doc = "{ name, description, parameters } each" },
  tool_choice = { type = { "string", "table" },
    expected = "'auto', 'none', 'required' or { name = tool }", doc = "which tool the model must use" },
  parallel_tool_calls = { type = "boolean", doc = "false: at most one tool call per reply" },
  max_tokens = { type = "integer", min = 1, doc = "tokens the reply may have" },
  temperature = { type = "number", min = 0, max = 2 },
  top_p = { type = "number", min = 0, max = 1 },
  top_k = { type = "integer", min = -1 },
  min_p = { type = "number", min = 0, max = 1 },
  frequency_penalty = { type = "number", min = -2, max = 2 },
  presence_penalty = { type = "number", min = -2, max = 2 },
  seed = { type = "integer" },
  stop = { type = { "string", "list" }, nonempty = true, doc = "text that ends the reply" },
  response_format = { type = { "string", "table" },
    expected = "'text', 'json' or { schema = JSON Schema }", doc = "the shape of the reply" },
  thinking = { type = { "boolean", "string", "table" }, check = check_thinking,
    fields = { budget = { type = "integer", min = 1 }, effort = { type = "string", enum = EFFORTS } },
    doc = "reasoning: on, off, a token budget or an effort" },
  user = { type = "string", nonempty = true, doc = "an opaque id of the end user" },
  extra = { type = "table", doc = "fields for the body as they are; they win, json.null removes" },
}, "field")

--- Checks what a script handed to `ask` or `stream`. A string is a prompt.
---@param where string  the function the script called, e.g. "model:ask"
---@param req string|sluice.Request
---@return sluice.Request req  raises an ordinary error that names the field when something is wrong
function request.check(where, req)
  if type(req) == "string" and req ~= "" then return { prompt = req } end
  if type(req) == "string" then req = { prompt = req } end
  if type(req) ~= "table" then
    options.raise(("%s: expected a text, or a table of fields (prompt, system, messages, …), got %s"):format(where,
      options.got(req)))
  end
  if type(req[1]) == "string" and req.prompt == nil then
    options.raise(("%s: the text has no name: { prompt = \"…\" }"):format(where))
  end
  if req.stream ~= nil then
    options.raise(("%s: field 'stream' is not a request's to set: call model:stream"):format(where))
  end
  options.check(where, req, request.SPEC)
  if req.prompt == nil and req.messages == nil then
    options.raise(("%s: nothing to send, give field 'prompt' or 'messages'"):format(where))
  end
  if req.extra and req.extra.stream ~= nil then
    options.raise(("%s: field 'extra.stream' would hide the reply's form: call model:stream"):format(where))
  end
  return req
end

--- Checks a model's `defaults`: the same fields, none of them needed.
---@param where string
---@param defaults sluice.Request
---@return sluice.Request
function request.check_defaults(where, defaults)
  local problem = options.problem(defaults, request.SPEC)
  if problem then options.raise(("%s: defaults: %s"):format(where, problem)) end
  return defaults
end

---@class sluice.Thinking
---@field enabled boolean
---@field budget? integer  tokens
---@field effort? string

--- What the request says about thinking, in one form; nil when it says nothing.
---@param call sluice.Call
---@return sluice.Thinking?
function request.thinking(call)
  local wish = call.thinking
  if wish == nil then return nil end
  if wish == false or wish == "none" then return { enabled = false } end
  if wish == true then return { enabled = true } end
  if type(wish) == "string" then return { enabled = true, effort = wish } end
  if wish.effort == "none" then return { enabled = false } end
  return { enabled = true, budget = wish.budget, effort = wish.effort }
end

--- Puts into `system` what model:json says of the answer's form, behind whatever stands there. Not where a
--- tool says it already.
---@param call sluice.Call
---@param mode? string  of content.json_mode
function request.instruct(call, mode)
  local words = call.response_format.instruction
  if mode == "tool" then return end
  local system = call.system
  if system == nil or system == "" then call.system = words
  elseif type(system) == "string" then call.system = system .. "\n\n" .. words
  else
    call.system = table.move(system, 1, #system, 1, {})
    call.system[#system + 1] = { type = "text", text = words }
  end
end

--- `stop` as a list.
---@param call sluice.Call
---@return string[]?
function request.stop(call)
  if call.stop == nil then return nil end
  return type(call.stop) == "string" and { call.stop } or call.stop
end

--- Lays `extra` over a finished body, last, so that a script always has the final word.
--- json.null takes a field out, for a vendor that refuses one.
---@param body table
---@param call sluice.Call
---@return table body
function request.merge_extra(body, call)
  if call.extra then
    for key, value in pairs(call.extra) do
      if value == json.null then value = nil end
      body[key] = value
    end
  end
  return body
end

return request
