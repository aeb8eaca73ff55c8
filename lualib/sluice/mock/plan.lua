--- What the answer to a request will be, before anything is sent: the steps of it, one for each token,
-- why it ends, and what it costs. Pure; the same request and seed give the same plan.

local json = require "sluice.json"
local example = require "sluice.mock.example"
local text = require "sluice.mock.text"

local ECHO = "echo"
local SPARE = 8 -- tokens a made-up answer has beyond the place where a scenario breaks it

---@class sluice.mock.Ask
---@field model string
---@field prompt string            the last thing the user said
---@field input_tokens integer
---@field tools { name: string, schema: any }[]
---@field choice "auto"|"none"|"required"|"tool"
---@field choice_name? string
---@field parallel boolean
---@field results? { name: string, text: string }[]  what tools returned since the last question
---@field max_tokens? integer
---@field stops string[]
---@field json? table              the schema an answer in JSON must fit
---@field thinking? boolean
---@field stream boolean
---@field include_usage? boolean

---@class sluice.mock.Step
---@field kind "thinking"|"text"|"tool"
---@field text string              what this token adds
---@field call? table              of a tool: { index, id, name }
---@field first? boolean           of a tool: the call begins

---@class sluice.mock.Plan
---@field steps sluice.mock.Step[]
---@field thinking string
---@field text string
---@field calls { index: integer, id: string, name: string, arguments: string }[]
---@field finish "stop"|"length"|"tool"|"sequence"
---@field sequence? string
---@field input_tokens integer
---@field output_tokens integer
---@field thinking_tokens integer

-- Which answer --------------------------------------------------------------------------------------

local function call_of(tool, ask, index)
  local salt = ("%s %d %d %s"):format(tool.name, index, ask.input_tokens, ask.prompt)
  return { index = index, name = tool.name, arguments = json.encode(example.value(tool.schema, ask.prompt)),
    id = ("call_%012x"):format(text.hash(salt) & 0xffffffffffff) }
end

local function forced_call(effect)
  local arguments = effect.arguments or {}
  if type(arguments) == "table" then arguments = json.encode(arguments) end
  return { index = 0, name = effect.name, arguments = arguments,
    id = ("call_%012x"):format(text.hash(effect.name) & 0xffffffffffff) }
end

--- The tools this answer calls.
local function calls_of(ask, effects)
  if effects.tool_call then return { forced_call(effects.tool_call) } end
  if effects.text or #ask.tools == 0 or ask.choice == "none" then return {} end
  if ask.choice == "tool" then
    for _, tool in ipairs(ask.tools) do
      if tool.name == ask.choice_name then return { call_of(tool, ask, 0) } end
    end
  end
  if ask.results then return {} end
  local wanted = example.wanted(ask.tools, ask.prompt)
  if #wanted == 0 and ask.choice == "required" then wanted = { ask.tools[1] } end
  local calls = {}
  for i, tool in ipairs(wanted) do
    if i == 1 or ask.parallel then calls[i] = call_of(tool, ask, i - 1) end
  end
  return calls
end

local function is_echo(model)
  local name = model:match "[^/]+$" or model
  return name == ECHO or name == "mock-echo"
end

local function answer_of(ask, effects, seed, at_least)
  if effects.text then return effects.text end
  if ask.results then return text.from_results(ask.prompt, ask.results) end
  if is_echo(ask.model) then return ask.prompt end
  if ask.json then
    local value = next(ask.json) and example.value(ask.json, ask.prompt) or { answer = text.answer(ask.prompt, seed) }
    return json.encode(value)
  end
  return text.answer(ask.prompt, seed, at_least)
end

-- Steps -------------------------------------------------------------------------------------------

--- Cuts the text at the first stop sequence in it.
local function stop_at(answer, stops)
  local first, which
  for _, stop in ipairs(stops) do
    local from = answer:find(stop, 1, true)
    if from and (not first or from < first) then first, which = from, stop end
  end
  if not first then return answer, nil end
  return answer:sub(1, first - 1), which
end

local function add_steps(steps, kind, tokens)
  for _, token in ipairs(tokens) do steps[#steps + 1] = { kind = kind, text = token } end
end

local function add_call(steps, call)
  steps[#steps + 1] = { kind = "tool", call = call, first = true, text = "" }
  -- fragments as models make them: some characters at a time, with no regard for JSON
  local tokens = text.tokens(call.arguments)
  for i = 1, #tokens, 3 do
    steps[#steps + 1] = { kind = "tool", call = call, text = table.concat(tokens, "", i, math.min(i + 2, #tokens)) }
  end
end

--- How many tokens an answer must have, for a scenario's fault to happen inside it.
local function least(effects)
  local n = 0
  for _, name in ipairs { "cut_after", "stall_after", "error_after", "malformed_after" } do
    n = math.max(n, effects[name] and effects[name] + SPARE or 0)
  end
  return n
end

local function join(steps, kind)
  local parts = {}
  for _, step in ipairs(steps) do
    if step.kind == kind then parts[#parts + 1] = step.text end
  end
  return table.concat(parts)
end

--- Plans the answer.
---@param ask sluice.mock.Ask
---@param effects table   of the scenario
---@param seed integer
---@return sluice.mock.Plan
return function(ask, effects, seed)
  local steps, plan = {}, { finish = "stop", input_tokens = ask.input_tokens }
  local thinking = effects.thinking == nil and ask.thinking or effects.thinking
  if thinking then
    add_steps(steps, "thinking", text.tokens(thinking == true and text.thoughts(ask.prompt) or thinking))
  end
  plan.thinking_tokens = #steps
  plan.calls = calls_of(ask, effects)
  if #plan.calls > 0 then
    for _, call in ipairs(plan.calls) do add_call(steps, call) end
    plan.finish = "tool"
  else
    local answer, sequence = stop_at(answer_of(ask, effects, seed, least(effects)), ask.stops)
    if sequence then plan.finish, plan.sequence = "sequence", sequence end
    add_steps(steps, "text", text.tokens(answer))
    if ask.max_tokens and #steps - plan.thinking_tokens > ask.max_tokens then
      for i = #steps, plan.thinking_tokens + ask.max_tokens + 1, -1 do steps[i] = nil end
      plan.finish, plan.sequence = "length", nil
    end
  end
  plan.steps = steps
  plan.thinking, plan.text = join(steps, "thinking"), join(steps, "text")
  plan.output_tokens = #steps
  return plan
end
