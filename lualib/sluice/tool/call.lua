--- One call of one tool: arguments in, a result the model can read out.
-- Owns: checking the arguments, the words of what goes wrong, and how large a result may be.
-- Never: raises for a fault of the tool or the model; only cancellation and the guards pass through.

local core = require "sluice.core.task"
local secrets = require "sluice.core.secret"
local errors = require "sluice.errors"
local json = require "sluice.json"
local observe = require "sluice.observe"
local schema = require "sluice.schema"
local task = require "sluice.task"

local MESSAGE_MAX = 2000 -- bytes of an error's text

-- These end the loop, not just the call.
local FATAL = { "cancelled", "cpu", "memory", "deadlock" }
local NO_MEMORY = "not enough memory" -- Lua's own words

-- Results -----------------------------------------------------------------------------------------

--- Text that can be sent: bytes that are no UTF-8 become U+FFFD, and no secret is told to a model.
local function clean(text)
  if not utf8.len(text) then
    local parts, at = {}, 1
    while true do
      local length, bad = utf8.len(text, at)
      if length then break end
      parts[#parts + 1] = text:sub(at, bad - 1)
      parts[#parts + 1] = "\u{FFFD}"
      at = bad + 1
      if at > #text then break end
    end
    text = table.concat(parts) .. text:sub(at)
  end
  return secrets.scrub(text)
end

--- At most `max` bytes, never half a character, and a word about what is missing.
local function cut(text, max)
  if #text <= max then return text end
  local last = max
  while last > 0 and text:byte(last + 1) & 0xC0 == 0x80 do last = last - 1 end
  return ("%s\n[cut: %d of %d bytes are shown]"):format(text:sub(1, last), last, #text)
end

local PART = { "text", "url", "data", "source", "image_url" }

--- Is it a list of parts, as messages have them?
local function is_parts(value)
  if type(value[1]) ~= "table" or type(value[1].type) ~= "string" then return false end
  for _, name in ipairs(PART) do
    if value[1][name] ~= nil then return true end
  end
  return false
end

local function parts_of(value, max)
  local parts, left = {}, max
  for i, part in ipairs(value) do
    if type(part) == "table" and part.type == "text" and type(part.text) == "string" then
      local text = cut(clean(part.text), math.max(0, left))
      left = left - #text
      parts[i] = { type = "text", text = text }
    else
      parts[i] = part
    end
  end
  return parts
end

--- What a tool returned, as content of a message. A table is sent as JSON, one that reads as text (a
--- reply) as its text.
local function content_of(value, max)
  if value == nil then return "(no result)" end
  if type(value) == "table" then
    local meta = getmetatable(value)
    if type(meta) == "table" and meta.__tostring then return cut(clean(tostring(value)), max) end
    if is_parts(value) then return parts_of(value, max) end
    local ok, text = pcall(json.encode, value)
    if ok then return cut(clean(text), max) end
    if not tostring(text):find "^json: " then error(text, 0) end -- no fault of the value: no memory, say
    return nil, "the tool returned what cannot be sent: " .. tostring(text)
  end
  if type(value) == "string" or type(value) == "number" or type(value) == "boolean" then
    return cut(clean(tostring(value)), max)
  end
  return nil, ("the tool returned a %s, which cannot be sent"):format(type(value))
end

-- Failures ----------------------------------------------------------------------------------------

--- An error in the words the model reads: without the place in the script, and short.
local function words_of(err)
  local text
  if type(err) == "string" then
    text = err:match "^[^\n]-:%d+: (.*)$" or err
    text = text:match "^(.-)\nstack traceback:" or text
  else
    text = tostring(err)
  end
  return cut(clean(text), MESSAGE_MAX)
end

local function failed(err, text)
  return { content = text or words_of(err), is_error = true, err = err }
end

--- Arguments that do not fit are a matter between the model and us: the tool is not run.
local function problem_of(tool, args)
  local described = tool.parameters
  schema.tidy(described, args)
  local faults = schema.faults(described, args)
  if #faults == 0 then return nil end
  return "The arguments do not fit, the tool was not run:\n" .. table.concat(faults, "\n")
end

---@param tool sluice.RunnableTool
---@param call sluice.ToolCall  its arguments may be changed
---@param opts { result_bytes: integer, allow?: fun(call: sluice.ToolCall): boolean?, string? }
---@return table result  content, is_error, value, err, elapsed
return function(tool, call, opts)
  local began = core.now()
  local observed <close> = observe.tool(tool.name, call.id)
  local function done(result, outcome)
    result.elapsed = core.now() - began
    if observed then observed:over(outcome or result.is_error and "error" or "ok", result.err) end
    return result
  end
  local args = call.arguments
  local problem = problem_of(tool, args)
  if problem then return done(failed(problem, cut(clean(problem), MESSAGE_MAX)), "refused") end
  if opts.allow then
    local allowed, why = opts.allow(call)
    if not allowed then
      return done(failed("refused", "The call was not allowed" .. (why and ": " .. words_of(tostring(why)) or ".")),
        "refused")
    end
  end
  local ok, value
  if tool.timeout then ok, value = pcall(task.deadline, tool.timeout, tool.run, args, call)
  else ok, value = pcall(tool.run, args, call) end
  if not ok then
    if errors.is(value, table.unpack(FATAL)) or value == NO_MEMORY then error(value, 0) end
    if errors.is(value, "timeout") and value.phase == "deadline" and tool.timeout then
      core.check() -- a deadline around all of this is not the tool's
      return done(failed(value, ("The tool did not answer within %.14g s."):format(tool.timeout)))
    end
    return done(failed(value))
  end
  local content, why = content_of(value, tool.result_bytes or opts.result_bytes)
  if not content then return done(failed(why, why)) end
  return done { content = content, value = value }
end
