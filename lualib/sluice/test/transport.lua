--- A scripted wire: what a provider would do, without one, on whatever clock the loop has.
-- Owns: playing one scripted answer per call, with the same timers and the same failures as the real
-- endpoint (sluice.core.http), so that everything above it is the real thing.
-- Speaks the OpenAI protocol, because that is what a model of provider "mock" speaks.
-- Reading order: ANSWER, transport.new, request, stream, plan, Handle:pull.

local core = require "sluice.core.task"
local json = require "sluice.json"
local options = require "sluice.options"

local ANSWER = options.spec({
  wait = { type = "seconds", doc = "before the first content; of an error: before it comes" },
  delay = { type = "seconds", doc = "before the headers" },
  text = { type = "string", doc = "what is answered" },
  thinking = { type = "string", doc = "reasoning that is streamed before the text" },
  gap = { type = "seconds", doc = "between two words of a streamed text" },
  status = { type = "integer", min = 100, max = 599, doc = "an HTTP status; an error unless 200" },
  body = { type = { "string", "table" }, doc = "the body that goes with status" },
  headers = { type = "table", doc = "of the answer" },
  retry_after = { type = { "number", "string" }, doc = "the header of that name" },
  err = { type = "string", doc = "a kind of error: what makes a model raise it" },
  cut = { type = "integer", min = 0, doc = "characters, then the connection dies" },
  stall = { type = "integer", min = 0, doc = "characters, then silence" },
  broken = { type = "integer", min = 0, doc = "characters, then an event that is no JSON" },
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
-- … and those that are no status.
local OTHER = { network = true, timeout = true, filtered = true, protocol = true }

local ERRS = {}
for _, list in ipairs { AS_STATUS, OTHER } do
  for kind in pairs(list) do ERRS[kind] = true end
end

local transport = {}

local function check_answer(where, answer)
  if type(answer) == "function" then return end
  options.check(where, answer, ANSWER)
  local kind = answer.err
  if kind and not ERRS[kind] then
    options.raise(("%s: err '%s' cannot be scripted%s"):format(where, kind, options.suggest(kind, ERRS)))
  end
end

--- Checks the answers of a script.
---@param where string
---@param answers (table|fun(request: table, n: integer): table)[]
function transport.check(where, answers)
  if #answers == 0 then options.raise(where .. ": no answers; give at least one, as in { { text = \"hi\" } }") end
  for i, answer in ipairs(answers) do check_answer(("%s: answer %d"):format(where, i), answer) end
end

-- Waiting ------------------------------------------------------------------------------------------

local FIRST, IDLE = "no answer within %.3g s (timeout.first_token)",
  "the reply stalled: nothing for %.3g s (timeout.idle)"
local SLOW = "the reply is too slow: about %.3g tokens in %.3g s, fewer than %.3g a second (timeout.min_rate)"
local BYTES_PER_TOKEN = 4 -- as runtime/io/transfer.c reckons

--- Sleeps until `at`, but not past the limits; returns a failure when one of them comes first.
---@param call { total_at: number }
---@param at number         when the thing that is waited for comes; may be infinite
---@param limit_at number   when patience ends; may be infinite
local function wait(call, at, limit_at, phase, words, limit)
  local now = core.now()
  local ends = math.min(at, limit_at, call.total_at)
  if ends > now then core.sleep(math.min(ends - now, 1e9)) end
  if at <= limit_at and at <= call.total_at then return nil end
  if limit_at <= call.total_at then return { "timeout", phase, words:format(limit) } end
  return { "timeout", "total", ("not finished within %.3g s (timeout.total)"):format(call.total) }
end

local function deadline(started, seconds)
  return seconds and seconds > 0 and started + seconds or math.huge
end

local function new_call(spec, started)
  return { started = started, total = spec.total, total_at = deadline(started, spec.total) }
end

--- While a call is under way: counts it as cancelled when it is left by an error.
local function watched(script, left, f, ...)
  local guard <close> = setmetatable({}, { __close = function(_, err) -- luacheck: ignore 211
    if err == nil then return end
    script.cancelled = script.cancelled + 1
    if left then left:close() end
  end })
  return f(...)
end

-- Bodies -------------------------------------------------------------------------------------------

local function usage_of(answer, body)
  if answer.usage then return answer.usage end
  local input, output = #body // 4, math.max(1, #(answer.text or "") // 4)
  return { prompt_tokens = input, completion_tokens = output, total_tokens = input + output }
end

local function error_body(code, message)
  return json.encode { error = { message = message, type = code, code = code } }
end

--- Status and body of a reply that is no answer; 200 when it is one.
local function status_of(answer)
  local scripted = answer.err and AS_STATUS[answer.err]
  if scripted then return scripted[1], error_body(scripted[2], scripted[3]) end
  if answer.err == "protocol" then return 200, "<html>scripted page</html>" end
  local status = answer.status or 200
  local body = answer.body
  if type(body) == "table" then body = json.encode(body) end
  if status == 200 then return 200, body end
  return status, body or error_body("scripted", "scripted status " .. status)
end

local function headers_of(answer)
  local headers = {}
  for name, value in pairs(answer.headers or {}) do headers[name:lower()] = tostring(value) end
  if answer.retry_after then headers["retry-after"] = tostring(answer.retry_after) end
  return headers
end

local function arguments_of(answer)
  return json.encode(answer.tool.arguments or {})
end

local function tool_calls(answer, arguments)
  local tool = answer.tool
  return tool and { { index = 0, id = tool.id or "call_1", type = "function",
    ["function"] = { name = tool.name, arguments = arguments or arguments_of(answer) } } }
end

local function reason_of(answer)
  return answer.err == "filtered" and "content_filter" or answer.finish or (answer.tool and "tool_calls") or "stop"
end

--- Characters, not bytes: a scripted text is never cut inside one.
local function first_characters(text, characters)
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
  local call = new_call(spec, started)
  local function failed(f) return false, f[1], f[2], f[3], core.now() - started end
  local silent = answer.err == "timeout" or answer.stall
  local at = silent and math.huge or started + (answer.delay or 0) + (answer.wait or 0)
  local broken = wait(call, at, deadline(started, spec.first), "first_token", FIRST, spec.first)
  if broken then return failed(broken) end
  if answer.err == "network" then
    return failed { "network", "response", "the server closed the connection without answering" }
  end
  if answer.cut then return failed { "network", "body", "the connection closed in the middle of the reply" } end
  local code, content = status_of(answer)
  content = content or answer.broken and '{"choices":[{' or json.encode { id = "scripted", object = "chat.completion",
    model = script.name, choices = { { index = 0, finish_reason = reason_of(answer),
      message = { role = "assistant", content = answer.tool and json.null or answer.text or "",
        reasoning_content = answer.thinking, tool_calls = tool_calls(answer) } } },
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
function Handle:is_events() return self.content == nil end
function Handle:body() return self.content end
function Handle:times() return self.first, core.now() - self.call.started end
function Handle.plain() end
function Handle:progress(bytes)
  self.progress_at = core.now()
  if self.pace then self.pace.bytes = self.pace.bytes + bytes end
end
function Handle:halt() self.halted = true end
function Handle.hurry() end
function Handle:closed() return self.is_closed end
function Handle.take_text() return "" end
function Handle.take_usage() return nil end
function Handle.take_opening() return nil end
function Handle:put_back(text) self.pending = text end
function Handle:hold(permit) self.permit = permit end

function Handle:close()
  if self.is_closed then return end
  self.is_closed = true
  self.script.closed = self.script.closed + 1
  if self.permit then self.permit:release() end
end
function Handle:drain()
  self.halted = true -- who reads on finds the end
  self:close()
end
function Handle:keep() self.kept = true end
function Handle:__close()
  if not self.kept then self:close() end
  self.kept = nil
end

--- The pieces a text is streamed in: one, or several when there is a gap between them.
local function pieces_of(text, gap)
  if text == "" then return {} end
  return gap and require "sluice.mock.text".tokens(text) or { text }
end

--- What is to come: { seconds before it, event data } each; { seconds, nil, "cut" } is a connection
--- that dies, { math.huge } is silence.
local function plan(script, answer, body)
  local list = {}
  local before = answer.wait or 0 -- of the first event, whichever that is
  local function event(data)
    list[#list + 1] = { before, data }
    before = 0
  end
  local function chunk(delta, finish, usage)
    event(json.encode { id = "scripted", object = "chat.completion.chunk", model = script.name, usage = usage,
      choices = usage and json.array {} or { { index = 0, delta = delta, finish_reason = finish } } })
  end
  if answer.err == "timeout" then return { { math.huge } } end
  local text, fault = answer.text or "", answer.cut or answer.stall or answer.broken
  if answer.thinking then chunk { reasoning_content = answer.thinking } end
  if answer.tool then
    local arguments = arguments_of(answer)
    chunk { tool_calls = tool_calls(answer, fault and first_characters(arguments, fault)) }
  else
    for i, piece in ipairs(pieces_of(fault and first_characters(text, fault) or text, answer.gap)) do
      if i > 1 then before = answer.gap end
      chunk { content = piece }
    end
  end
  if answer.cut then
    list[#list + 1] = { before, nil, "cut" }
  elseif answer.stall then
    list[#list + 1] = { math.huge }
  elseif answer.broken then
    event '{"choices":[{"delta":'
  else
    chunk({}, reason_of(answer))
    chunk(nil, nil, usage_of(answer, body))
    event "[DONE]"
  end
  return list
end

--- The same while there is a floor under the rate: `pace` has it, and what came and was waited in this window.
local function paced_wait(pace, call, at, limit_at, phase, words, limit)
  while true do
    local from = core.now()
    local over = from + pace.over - pace.waited
    if math.min(at, limit_at, call.total_at) <= over then
      local broken = wait(call, at, limit_at, phase, words, limit)
      pace.waited = pace.waited + core.now() - from
      return broken
    end
    core.sleep(over - from)
    local tokens = pace.bytes / BYTES_PER_TOKEN
    if tokens < pace.rate * pace.over then return { "timeout", "slow", SLOW:format(tokens, pace.over, pace.rate) } end
    pace.bytes, pace.waited = 0, 0
  end
end

local function pull(self)
  local item = self.plan[self.at]
  local now = core.now()
  local from = self.progress_at or self.call.started
  local limit = self.progress_at and self.idle or self.first_limit
  local phase, words = "first_token", FIRST
  if self.progress_at then phase, words = "idle", IDLE end
  -- a reader that comes back late has not been kept waiting by the provider
  local at = math.max(now, (self.ready_at or now) + item[1])
  local broken
  if not self.progress_at then broken = wait(self.call, at, deadline(from, limit), phase, words, limit)
  elseif self.pace then broken = paced_wait(self.pace, self.call, at, deadline(now, limit), phase, words, limit)
  else broken = wait(self.call, at, deadline(now, limit), phase, words, limit) end
  self.at, self.ready_at = self.at + 1, core.now()
  local elapsed = core.now() - self.call.started
  if broken then
    self.halted = true
    return false, broken[1], broken[2], broken[3], elapsed
  end
  if item[3] == "cut" then
    self.halted = true
    return false, "network", "body", "the connection closed in the middle of the reply", elapsed
  end
  return nil, "", item[2], ""
end

function Handle:pull()
  if self.is_closed and not self.halted then error("the stream is closed", 2) end
  if self.pending then
    local text = self.pending
    self.pending = nil
    return text
  end
  if self.halted or not self.plan[self.at] then return false end
  return watched(self.script, self, pull, self)
end

--- The loop of runtime/bind/stream.c: `handler(subject, …)` returns what is to be handed out, nil to go on, false at
--- the end; and true behind it to be asked again before anything is read.
local function loop(self, handler, subject, wrap, more)
  return function()
    while true do
      local first, a, b, c, d
      if not more then
        first, a, b, c, d = self:pull()
        if first then return wrap and { type = "text", text = first } or first end
      end
      local value
      value, more = handler(subject, first, a, b, c, d)
      if value then return value end
      if value == false then return nil end
    end
  end
end

function Handle:until_text(handler, subject)
  while true do
    local first, a, b, c, d = self:pull()
    if first then
      self.pending = first
      return true
    end
    if handler(subject, first, a, b, c, d) then return false end
  end
end

function Handle:texts(handler, subject)
  return loop(self, handler, subject, false)
end

function Handle:events(handler, subject, more)
  return loop(self, handler, subject, true, more)
end

local function stream(script, spec, answer, body)
  local started = core.now()
  local call = new_call(spec, started)
  local code, content = status_of(answer)
  local fails = content ~= nil or answer.err == "network"
  local at = started + (answer.delay or 0) + (fails and answer.wait or 0)
  local broken = wait(call, at, deadline(started, spec.first), "first_token", FIRST, spec.first)
  if not broken and answer.err == "network" then
    broken = { "network", "response", "the server closed the connection without answering" }
  end
  if broken then return false, broken[1], broken[2], broken[3], core.now() - started end
  return setmetatable({ code = code, head = headers_of(answer), content = content, call = call, script = script,
    plan = fails and {} or plan(script, answer, body), at = 1, first = core.now() - started,
    first_limit = spec.first, idle = spec.idle, is_closed = false, halted = false,
    pace = spec.rate and { rate = spec.rate, over = spec.rate_over, bytes = 0, waited = 0 } }, Handle)
end

-- Endpoints ------------------------------------------------------------------------------------------

--- The answer to the n-th call; after the last one, the last one again.
local function answer_of(script)
  local n = script.calls
  local answer = script.answers[math.min(n, #script.answers)]
  if type(answer) ~= "function" then return answer end
  local made = answer(script.requests[n], n)
  if type(made) == "string" then made = { text = made } end
  check_answer(("the answer that model '%s' made for call %d"):format(script.name, n), made)
  return made
end

--- What a model takes in place of sluice.core.http.endpoint. `script` has answers, name, and the
--- counts calls, cancelled, closed; requests collects the decoded bodies, times when they came.
---@param script table
---@return fun(spec: table): table
function transport.new(script)
  return function(spec)
    local endpoint = {}
    local function call(kind, body, total)
      script.calls = script.calls + 1
      script.requests[script.calls] = json.decode(body)
      script.times[script.calls] = core.now() - script.started
      local limits = { first = spec.first, idle = spec.idle, total = total or spec.total,
        rate = spec.min_rate, rate_over = spec.min_rate_over }
      return watched(script, nil, kind, script, limits, answer_of(script), body)
    end
    function endpoint.request(_, body, total) return call(request, body, total) end
    function endpoint.stream(_, body, total) return call(stream, body, total) end
    function endpoint.label() return "POST " .. spec.url end
    return endpoint
  end
end

return transport
