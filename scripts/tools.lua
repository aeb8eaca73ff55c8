-- Tool calling: the model asks for what it needs, Lua functions answer, until it has its answer.
--
--   sluice run scripts/tools.lua "What is 17 * 23, and what is today's date?"
--
-- Arguments are checked before a tool is run; a tool's failure is told to the model, which may try something else.

local sluice = require "sluice"

local tools = {
  sluice.tool {
    name = "calculate",
    description = "Evaluates an arithmetic expression.",
    params = { expression = "string: for example 2*(3+4)" },
    run = function(args)
      assert(not args.expression:find "[^%d%s.()+*/%%^-]", "only numbers and + - * / % ^ ( ) are allowed")
      return assert(load("return " .. args.expression, "=expression", "t", {}))()
    end,
  },
  sluice.tool {
    name = "today",
    description = "The current date.",
    run = function() return os.date "%Y-%m-%d" end,
  },
}

local model = sluice.model(os.getenv "MODEL" or "siliconflow/Qwen/Qwen3-8B")
local question = (...) or "What is 17 * 23, and what is today's date?"

local stream <close> = sluice.tool.stream(model, question, { tools = tools, rounds = 6 })
for event in stream:events() do
  if event.type == "text" then
    io.write(event.text)
    io.flush()
  elseif event.type == "tool_call" then
    io.stderr:write(("%s(%s)\n"):format(event.name, event.arguments_json))
  elseif event.type == "tool_result" then
    io.stderr:write(("  %s %s\n"):format(event.is_error and "failed:" or "->", event.content))
  end
end
print()
