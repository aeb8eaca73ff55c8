--- Tools: Lua functions a model may call, and the loop that calls them until it has its answer.
-- Owns: what a tool is made of. One round of calls: tool/rounds.lua; the streamed loop: tool/stream.lua;
-- one call: tool/call.lua.
-- Never: asks a model that was not given (the loop uses model:ask and model:stream, so a fallback, a cached
-- or a guarded model will do as well).
-- Reading order: tool.new, tool.loop, tool.stream.

local errors = require "sluice.errors"
local options = require "sluice.options"
local schema = require "sluice.schema"
local run_call = require "sluice.tool.call"
local Rounds = require "sluice.tool.rounds"

local function valid_name(v)
  return v:find "^[%w_-]+$" ~= nil and #v <= 64, "1 to 64 letters, digits, '_' and '-' (what every provider takes)"
end

local SPEC = options.spec {
  name = { type = "string", required = true, check = valid_name },
  description = { type = "string", nonempty = true },
  params = { type = { "table", "string" } },
  parameters = { type = "table" },
  run = { type = "function", required = true },
  timeout = { type = "seconds", above = 0 },
  parallel = { type = "boolean", default = true },
  result_bytes = { type = "integer", min = 1 },
  strict = { type = "boolean" },
}

---@class sluice.ToolOptions
---@field name string             letters, digits, "_" and "-", at most 64
---@field description? string     what it is for; the model reads this
---@field params? table           its arguments, as for sluice.schema; none: it takes no arguments
---@field parameters? table       the same as a JSON Schema, as it is
---@field run fun(args: table, call: sluice.ToolCall): any  returns text, a table (sent as JSON), or a list of parts
---@field timeout? number         seconds; off by default
---@field parallel? boolean       true; false: never at the same time as another call
---@field result_bytes? integer   of its results; default what the loop says, 32 KiB
---@field strict? boolean         OpenAI's switch, sent as it is

---@class sluice.RunnableTool : sluice.Tool
---@field run fun(args: table, call: sluice.ToolCall): any
---@field timeout? number
---@field parallel boolean
local Tool = { __name = "sluice.tool" }
Tool.__index = Tool

---@class sluice.tool
---@overload fun(opts: sluice.ToolOptions): sluice.RunnableTool
local tool = {}

local function build(where, opts)
  if getmetatable(opts) == Tool then return opts end
  options.check(where, opts, SPEC)
  if opts.params and opts.parameters then
    options.raise(where .. ": give 'params' or 'parameters', not both")
  end
  local described = opts.parameters
    or schema.read(("%s: tool '%s': params"):format(where, opts.name), opts.params or {})
  if described.type ~= "object" then
    options.raise(("%s: tool '%s': params must describe an object, its named arguments"):format(where, opts.name))
  end
  return setmetatable({ name = opts.name, description = opts.description, parameters = described, run = opts.run,
    timeout = opts.timeout, parallel = opts.parallel ~= false, result_bytes = opts.result_bytes, strict = opts.strict },
    Tool)
end

--- A tool: `sluice.tool { name = "weather", description = "Weather of a city", params = { city = "string: the
--- city", days = "integer(1..7)? = 1" }, run = function(args) return … end }`. What the model sends is checked
--- against `params` before `run` is called. It may stand in the `tools` of any request, loop or chat.
--- Raises an ordinary error that names what is wrong.
---@param opts sluice.ToolOptions
---@return sluice.RunnableTool
function tool.new(opts)
  return build("sluice.tool", opts)
end

function Tool:__tostring()
  return "tool " .. self.name
end

--- Runs the tool as the loop would, for tests and for hand-made loops: arguments are checked, defaults put
--- in, and what goes wrong comes back as a result with is_error, in the words the model would read.
---@async
---@param args? table
---@return sluice.ToolOutcome
function Tool:call(args)
  local copy = schema.copy(args or {})
  return run_call(self, { id = "call", name = self.name, arguments = copy }, { result_bytes = Rounds.RESULT_BYTES })
end

-- The functions and the raw tools of a list; raises for what can be neither called nor left to the provider.
function tool.list(where, list)
  local result = {}
  for i, entry in ipairs(list) do
    if type(entry) ~= "table" then
      options.raise(("%s: tools[%d] must be a tool, got %s"):format(where, i, options.got(entry)))
    end
    local own = type(entry.type) == "string" and entry.type ~= "function" and entry.type ~= "custom"
    if own and entry.run == nil then result[i] = entry -- the provider runs it
    elseif entry.run == nil then
      options.raise(("%s: tools[%d]%s has no function to run: sluice.tool { name = …, run = function(args) … end }")
        :format(where, i, type(entry.name) == "string" and " '" .. entry.name .. "'" or ""))
    else
      result[i] = build(("%s: tools[%d]"):format(where, i), entry)
    end
  end
  return result
end

--- Asks, runs the tools the model calls, and asks again with their results, until it answers.
--- Calls of one round run at the same time where their tools allow it, and are answered in their order. An
--- unknown tool, arguments that do not fit, an error that was raised and a timeout are no failures of the
--- loop: the model reads what went wrong, and may do better. A failure of the model's is raised; so is
--- `protocol` with code "tool_rounds" when after `rounds` answers the model still calls tools (the
--- conversation so far is in err.messages).
--- `tool_choice` of the request holds for the first round only: for ever, it would never end.
--- The reply says besides: `rounds`, how often the model was asked; `total`, their usage together; `calls`,
--- each with name, arguments, content, is_error, elapsed and round.
---@async
---@param model sluice.Model|sluice.Fallback  anything with ask
---@param request string|sluice.Request
---@param opts? sluice.LoopOptions
---@return sluice.Reply reply
---@return sluice.Message[] messages  the whole conversation, tools' results and the answer included
function tool.loop(model, request, opts)
  return Rounds.new("sluice.tool.loop", model, request, opts, tool.list):answer()
end

--- The same, streamed: returns a stream whose events are those of all rounds, one after the other, with
--- { type = "tool_call" } when the model has called and { type = "tool_result", id =, name =, content =,
--- is_error =, elapsed = } when the tool has answered; "usage" (of all rounds together) and "finish" come once,
--- at the end. `text()` gives the pieces of text of all rounds, `reply()` what tool.loop returns.
--- Tools run in the task that reads; closing the stream, or leaving its loop, ends everything.
---@async
---@param model sluice.Model|sluice.Fallback
---@param request string|sluice.Request
---@param opts? sluice.LoopOptions
---@return sluice.ToolStream
function tool.stream(model, request, opts)
  local rounds = Rounds.new("sluice.tool.stream", model, request, opts, tool.list)
  return require("sluice.tool.stream").new(rounds)
end

tool.metatable = Tool

--- Is this the error of a loop that reached its limit of rounds?
---@param err any
---@return boolean
function tool.is_limit(err)
  return errors.is(err, "protocol") and err.code == "tool_rounds"
end

return setmetatable(tool, { __call = function(_, opts) return tool.new(opts) end })
