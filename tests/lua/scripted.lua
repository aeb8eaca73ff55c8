-- A model without a wire: answers from a list, and every request it was asked is kept. For tests of what is
-- built on models; what happens on a wire is tested with the mock.
--
--   local m = scripted { { text = "hi" }, { calls = { { "f", { a = 1 } } } }, { err = { kind = "server" } } }
--   m:ask "x"    m.requests[1].prompt == "x"
-- An answer may be a function(request, n) that returns one.

local errors = require "sluice.errors"
local json = require "sluice.json"
local Reply = require "sluice.reply"

local Scripted, Stream = {}, { __name = "scripted.stream" }
Scripted.__index, Stream.__index = Scripted, Stream

local function copy(value)
  if type(value) ~= "table" then return value end
  local c = {}
  for key, v in pairs(value) do c[key] = copy(v) end
  return setmetatable(c, getmetatable(value))
end

local function next_answer(self, req)
  local n = #self.requests + 1
  self.requests[n] = type(req) == "string" and { prompt = req } or copy(req)
  local answer = self.answers[math.min(n, #self.answers)]
  if type(answer) == "function" then answer = answer(self.requests[n], n) end
  return answer, n
end

local function reply_of(answer, n)
  local calls = json.array {}
  for i, call in ipairs(answer.calls or {}) do
    calls[i] = { id = ("call_%d_%d"):format(n, i), name = call[1], arguments = copy(call[2] or {}),
      arguments_json = json.encode(call[2] or {}) }
  end
  return Reply.new { text = answer.text or "", tool_calls = calls, provider = "scripted", model = "m",
    finish_reason = answer.finish or (#calls > 0 and "tool_calls" or "stop"), elapsed = 0, attempts = {},
    usage = answer.usage or { input_tokens = 10, output_tokens = 5, total_tokens = 15 } }
end

function Scripted:ask(req)
  local answer, n = next_answer(self, req)
  if answer.err then errors.raise(answer.err) end
  return reply_of(answer, n)
end

function Scripted:stream(req)
  local answer, n = next_answer(self, req)
  if answer.err then errors.raise(answer.err) end
  self.open = self.open + 1
  return setmetatable({ owner = self, whole = reply_of(answer, n), cut = answer.cut, model = "m", provider = "scripted" },
    Stream)
end

function Stream:events()
  local list = {}
  if self.whole.text ~= "" then list[1] = { type = "text", text = self.whole.text } end
  for _, call in ipairs(self.whole.tool_calls) do
    list[#list + 1] = { type = "tool_call", id = call.id, name = call.name, arguments = call.arguments }
  end
  list[#list + 1] = { type = "usage", usage = self.whole.usage }
  list[#list + 1] = { type = "finish", reason = self.whole.finish_reason }
  local at = 0
  return function()
    at = at + 1
    if self.cut and at > 1 then
      errors.raise { kind = "interrupted", message = "cut", partial = self.whole.text }
    end
    return list[at]
  end, nil, nil, self
end

function Stream:text()
  local iterate = self:events()
  return function()
    for event in iterate do
      if event.type == "text" then return event.text end
    end
  end, nil, nil, self
end

function Stream:reply()
  if self.cut then errors.raise { kind = "interrupted", message = "cut", partial = self.whole.text } end
  self:close()
  return self.whole
end

function Stream:close()
  if self.closed then return end
  self.closed = true
  self.owner.open = self.owner.open - 1
end
Stream.__close = Stream.close

return function(answers)
  return setmetatable({ answers = answers, requests = {}, open = 0, name = "scripted/m" }, Scripted)
end
