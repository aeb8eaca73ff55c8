--- A scripted wire: what a provider would do, without one, on whatever clock the loop has.
-- Owns: playing one scripted answer per call, with the same timers and the same failures as the real
-- endpoint (sluice.core.http), so that everything above it is the real thing.
-- Speaks the OpenAI protocol, because that is what a model of provider "mock" speaks.

local core = require "sluice.core.task"
local json = require "sluice.json"
local options = require "sluice.options"

local ANSWER = options.spec({
  wait = { type = "seconds", doc = "before the first content; headers come at once" },
  delay = { type = "seconds", doc = "before the headers" },
  text = { type = "string", doc = "what is answered" },
  gap = { type = "seconds", doc = "between two pieces of a streamed text" },
  status = { type = "integer", min = 100, max = 599, doc = "an HTTP status; an error unless 200" },
  body = { type = { "string", "table" }, doc = "the body that goes with status" },
  headers = { type = "table", doc = "of the answer" },
  retry_after = { type = { "number", "string" }, doc = "the header of that name" },
  err = { type = "string", doc = "a kind of error: what makes a model raise it" },
  cut = { type = "integer", min = 0, doc = "characters, then the connection dies" },
  stall = { type = "integer", min = 0, doc = "characters, then silence" },
  finish = { type = "string", doc = "finish_reason, default stop" },
  tool = { type = "table", fields = { name = { type = "string", required = true }, arguments = { type = "table" },
    id = { type = "string" } }, doc = "a tool call instead of text" },
  usage = { type = "table", doc = "prompt_tokens and completion_tokens; counted from the text unless given" },
}, "field of the answer")

-- A kind, as a provider would say it.
local AS_STATUS = {
  server = { 500, "server_error", "scripted failure" },
  overloaded = { 503, "overloaded_error", "scripted overload" },
  rate_limited = { 429, "rate_limit_exceeded", "scripted rate limit" },
  quota = { 429, "insufficient_quota", "scripted quota" },
  auth = { 401, "invalid_api_key", "scripted refusal of the key" },
  invalid = { 400, "invalid_request_error", "scripted bad request" },
  context_length = { 400, "context_length_exceeded", "scripted context overflow" },
}

local transport = {}

--- Checks the answers of a script.
---@param where string
---@param answers table[]
function transport.check(where, answers)
  if #answers == 0 then options.raise(where .. ": no answers; give at least one, as in { { text = \"hi\" } }") end
  for i, answer in ipairs(answers) do
    options.check(("%s: answer %d"):format(where, i), answer, ANSWER)
    local kind = answer.err
    if kind and not (AS_STATUS[kind] or kind == "network" or kind == "filtered" or kind == "timeout") then
      options.raise(("%s: answer %d: err '%s' cannot be scripted%s"):format(where, i, kind,
        options.suggest(kind, AS_STATUS)))
    end
  end
end

-- Waiting ------------------------------------------------------------------------------------------

--- Sleeps for `seconds`, but not past the limits; returns a failure when one of them comes first.
local function wait(call, seconds, limit, phase, words)
  local total_left = call.total and call.total > 0 and call.started + call.total - core.now() or math.huge
  if limit and limit > 0 and limit < seconds and limit <= total_left then
    core.sleep(limit)
    return { "timeout", phase, words:format(limit) }
  end
  if total_left < seconds then
    core.sleep(math.max(total_left, 0))
    return { "timeout", "total", ("not finished within %.3g s (timeout.total)"):format(call.total) }
  end
  if seconds == math.huge then return { "timeout", phase, "silence for ever" } end
  if seconds > 0 then core.sleep(seconds) end
  return nil
end

local FIRST, IDLE = "no answer within %.3g s (timeout.first_token)",
  "the reply stalled: nothing for %.3g s (timeout.idle)"

--- While a call is under way: counts it as cancelled when it is left by an error.
local function watched(script, f, ...)
  local guard <close> = setmetatable({}, { __close = function(_, err) -- luacheck: ignore 211
    if err ~= nil then script.cancelled = script.cancelled + 1 end
  end })
  return f(...)
end

-- Bodies -------------------------------------------------------------------------------------------

local function usage_of(answer, body)
  if answer.usage then return answer.usage end
  local input, output = #body // 4, math.max(1, #(answer.text or "") // 4)
  return { prompt_tokens = input, completion_tokens = output, total_tokens = input + output }
end

local function error_body(status, code, message)
  return json.encode { error = { message = message, type = code, code = code } }, status
end

local function status_of(answer)
  local scripted = answer.err and AS_STATUS[answer.err]
  if scripted then return scripted[1], (error_body(scripted[1], scripted[2], scripted[3])) end
  if answer.status and answer.status ~= 200 then
    local body = answer.body
    if type(body) == "table" then body = json.encode(body) end
    return answer.status, body or (error_body(answer.status, "scripted", "scripted status " .. answer.status))
  end
  return 200, nil
end

local function headers_of(answer)
  local headers = {}
  for name, value in pairs(answer.headers or {}) do headers[name:lower()] = tostring(value) end
  if answer.retry_after then headers["retry-after"] = tostring(answer.retry_after) end
  return headers
end

local function tool_calls(answer)
  local tool = answer.tool
  return tool and { { index = 0, id = tool.id or "call_1", type = "function",
    ["function"] = { name = tool.name, arguments = json.encode(tool.arguments or {}) } } }
end

local function reason_of(answer)
  return answer.err == "filtered" and "content_filter" or answer.finish or (answer.tool and "tool_calls") or "stop"
end

--- Characters, not bytes: a scripted text is never cut inside one.
local function cut_text(text, characters)
  local at = utf8.offset(text, characters + 1)
  return at and text:sub(1, at - 1) or text
end

-- Whole replies --------------------------------------------------------------------------------------

local Response = {}
Response.__index = Response
function Response:status() return self.code end
function Response:headers() return self.head end
function Response:header(name) return self.head[name:lower()] end
function Response:body() return self.content end
function Response:times() return self.first, self.elapsed end
function Response.answer() return nil end

local function request(script, spec, answer, body)
  local started = core.now()
  local call = { started = started, total = spec.total }
  local function failed(f) return false, f[1], f[2], f[3], core.now() - started end
  if answer.err == "network" then
    return failed(wait(call, answer.wait or 0, spec.first, "first_token", FIRST)
      or { "network", "response", "the server closed the connection without answering" })
  end
  local silent = answer.err == "timeout" or answer.stall
  local seconds = silent and math.huge or (answer.delay or 0) + (answer.wait or 0)
  local broken = wait(call, seconds, spec.first, "first_token", FIRST)
  if broken then return failed(broken) end
  if answer.cut then return failed { "network", "body", "the connection closed in the middle of the reply" } end
  local code, content = status_of(answer)
  content = content or json.encode { id = "scripted", object = "chat.completion", model = script.name,
    choices = { { index = 0, finish_reason = reason_of(answer),
      message = { role = "assistant", content = answer.tool and json.null or answer.text or "",
        tool_calls = tool_calls(answer) } } },
    usage = usage_of(answer, body) }
  local elapsed = core.now() - started
  return setmetatable({ code = code, head = headers_of(answer), content = content, first = elapsed,
    elapsed = elapsed }, Response)
end

-- Streams --------------------------------------------------------------------------------------------

local Handle = {}
Handle.__index = Handle
function Handle:status() return self.code end
function Handle:headers() return self.head end
function Handle:header(name) return self.head[name:lower()] end
function Handle:is_events() return self.code == 200 end
function Handle:body() return self.content end
function Handle:times() return self.first, core.now() - self.call.started end
function Handle.plain() end
function Handle:progress() self.progressed = true end
function Handle:halt() self.halted = true end
function Handle.hurry() end
function Handle:closed() return self.is_closed end
function Handle.take_text() return "" end
function Handle.take_usage() return nil end
function Handle:put_back(text) self.pending = text end
function Handle:hold(permit) self.permit = permit end

function Handle:close()
  if self.is_closed then return end
  self.is_closed = true
  self.script.closed = self.script.closed + 1
  if self.permit then self.permit:release() end
end
Handle.drain = Handle.close
Handle.__close = Handle.close

--- What is to come, as { seconds before it, event data } each; a missing event ends the connection.
local function plan(script, answer, body)
  local list = {}
  local function chunk(delay, delta, finish, usage)
    list[#list + 1] = { delay, json.encode { id = "scripted", object = "chat.completion.chunk", model = script.name,
      choices = usage and json.array {} or { { index = 0, delta = delta, finish_reason = finish } }, usage = usage } }
  end
  local first = answer.wait or 0
  local text = answer.text or ""
  if answer.err == "timeout" then list[1] = { math.huge } return list end
  if answer.cut then text = cut_text(text, answer.cut) elseif answer.stall then text = cut_text(text, answer.stall) end
  if answer.tool then
    chunk(first, { tool_calls = tool_calls(answer) })
  elseif text == "" then
    list[#list + 1] = { first }
  elseif answer.gap then
    for piece in text:gmatch "%s*[^%s]+" do
      chunk(first, { content = piece })
      first = answer.gap
    end
  else
    chunk(first, { content = text })
  end
  if text == "" and not answer.tool and not answer.cut and not answer.stall then table.remove(list) end
  if answer.cut then list[#list + 1] = { 0, nil, "cut" } return list end
  if answer.stall then list[#list + 1] = { math.huge } return list end
  chunk(text == "" and first or 0, {}, reason_of(answer))
  chunk(0, nil, nil, usage_of(answer, body))
  list[#list + 1] = { 0, "[DONE]" }
  return list
end

function Handle:pull()
  if self.is_closed then error("the stream is closed", 2) end
  if self.pending then
    local text = self.pending
    self.pending = nil
    return text
  end
  local next_one = self.plan[self.at]
  if self.halted or not next_one then return false end
  return watched(self.script, function()
    local limit = self.progressed and self.idle or self.first_limit
    if not self.progressed and limit then limit = math.max(0, self.call.started + limit - core.now()) end
    local phase, words = "first_token", FIRST
    if self.progressed then phase, words = "idle", IDLE end
    local broken = wait(self.call, next_one[1], limit, phase, words)
    self.at = self.at + 1
    if broken then
      self.halted = true
      return false, broken[1], broken[2], broken[3], core.now() - self.call.started
    end
    if next_one[3] == "cut" then
      return false, "network", "body", "the connection closed in the middle of the reply",
        core.now() - self.call.started
    end
    if not next_one[2] then return false end
    return nil, "", next_one[2], ""
  end)
end

function Handle:texts(handler)
  return function()
    while true do
      local first, a, b, c, d = self:pull()
      if first then return first end
      local value = handler(first, a, b, c, d)
      if type(value) == "string" then return value end
      if value == false then return nil end
    end
  end
end

local function stream(script, spec, answer, body)
  local started = core.now()
  local call = { started = started, total = spec.total }
  if answer.err == "network" then
    return false, "network", "response", "the server closed the connection without answering", core.now() - started
  end
  local broken = wait(call, answer.delay or 0, spec.first, "first_token", FIRST)
  if broken then return false, broken[1], broken[2], broken[3], core.now() - started end
  local code, content = status_of(answer)
  return setmetatable({ code = code, head = headers_of(answer), content = content, call = call, script = script,
    plan = code == 200 and plan(script, answer, body) or {}, at = 1, first = core.now() - started,
    first_limit = spec.first, idle = spec.idle, is_closed = false }, Handle)
end

-- Endpoints ------------------------------------------------------------------------------------------

--- What a model takes in place of sluice.core.http.endpoint. `script` has answers, name, and the
--- counts calls, cancelled, closed; requests collects the decoded bodies.
---@param script table
---@return fun(spec: table): table
function transport.new(script)
  return function(spec)
    local endpoint = {}
    local function call(kind, body, total)
      script.calls = script.calls + 1
      script.requests[script.calls] = json.decode(body)
      local answer = script.answers[math.min(script.calls, #script.answers)]
      local limits = { connect = spec.connect, first = spec.first, idle = spec.idle, total = total or spec.total }
      return watched(script, kind, script, limits, answer, body)
    end
    function endpoint.request(_, body, total) return call(request, body, total) end
    function endpoint.stream(_, body, total) return call(stream, body, total) end
    function endpoint.label() return "POST " .. spec.url end
    return endpoint
  end
end

return transport
