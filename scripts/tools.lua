-- Tool calling: the model asks for what it needs, Lua functions answer, until it has its answer.
--
--   sluice run scripts/tools.lua "What is 17 * 23, and what is today's date?"
--
-- A tool's failure is told to the model, which may try something else.

local sluice = require "sluice"

local TURNS_MAX = 6

local tools = {
  { name = "calculate", description = "Evaluates an arithmetic expression.",
    parameters = { type = "object", required = { "expression" },
      properties = { expression = { type = "string", description = "for example 2*(3+4)" } } } },
  { name = "today", description = "The current date.",
    parameters = { type = "object", properties = sluice.json.decode "{}" } },
}

local functions = {}

function functions.calculate(arguments)
  local expression = arguments.expression
  assert(not expression:find "[^%d%s.()+*/%%^-]", "only numbers and + - * / % ^ ( ) are allowed")
  return assert(load("return " .. expression, "=expression", "t", {}))()
end

function functions.today()
  return os.date "%Y-%m-%d"
end

local model = sluice.model(os.getenv "MODEL" or "siliconflow/Qwen/Qwen3-8B")
local messages = { { role = "user", content = (...) or "What is 17 * 23, and what is today's date?" } }

for _ = 1, TURNS_MAX do
  local reply = model:ask { messages = messages, tools = tools }
  if #reply.tool_calls == 0 then
    print(reply.text)
    return
  end
  messages[#messages + 1] = reply:message()
  for _, call in ipairs(reply.tool_calls) do
    local ok, result = pcall(functions[call.name], call.arguments)
    io.stderr:write(("%s(%s) -> %s\n"):format(call.name, call.arguments_json, tostring(result)))
    messages[#messages + 1] = { role = "tool", tool_call_id = call.id, content = tostring(result), is_error = not ok }
  end
end
io.stderr:write(("no answer after %d rounds of tools\n"):format(TURNS_MAX))
return 1
