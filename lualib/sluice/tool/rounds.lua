--- The rounds of a tool loop: what is asked next, what came, and the calls in between.
-- Owns: the conversation while it grows, the limits, the order of results, totals.
-- Never: reads a stream (tool/stream.lua does).

local errors = require "sluice.errors"
local options = require "sluice.options"
local request_of = require "sluice.provider.request"
local task = require "sluice.task"
local tokens = require "sluice.tokens"
local run_call = require "sluice.tool.call"

local ROUNDS, CONCURRENCY = 8, 4
local RESULT_BYTES = 32 * 1024 -- of one result

local SPEC = options.spec {
  tools = { type = "list" },
  rounds = { type = "integer", min = 1, default = ROUNDS },
  concurrency = { type = "integer", min = 1, default = CONCURRENCY },
  result_bytes = { type = "integer", min = 1, default = RESULT_BYTES },
  on_call = { type = "function" },
  allow = { type = "function" },
}

---@class sluice.LoopOptions
---@field tools? (sluice.RunnableTool|sluice.ToolOptions)[]  default those of the request
---@field rounds? integer        8: answers the model may give, the last of which must call no tool
---@field concurrency? integer   4: calls at the same time
---@field result_bytes? integer  32768: a longer result is cut, and says so
---@field on_call? fun(call: sluice.ToolCall, result: sluice.ToolOutcome)  told of each call when it has ended
---Asked before each call; false and why: it is not run, and the model reads why.
---@field allow? fun(call: sluice.ToolCall): boolean?, string?

---What came of a call.
---@class sluice.ToolOutcome
---@field content string|table   what the model reads
---@field is_error? boolean
---@field value? any             what the function returned
---@field err? any               what it raised
---@field elapsed number         seconds

---For sluice's own modules.
---@class sluice.tool.Rounds
---@field messages sluice.Message[]
---@field n integer        answers so far
---@field usage sluice.Usage
local Rounds = { RESULT_BYTES = RESULT_BYTES, SPEC = SPEC }
Rounds.__index = Rounds

---@param where string
---@param model table
---@param req string|sluice.Request
---@param opts? sluice.LoopOptions
---@param list_of fun(where: string, list: table[]): table[]
---@return sluice.tool.Rounds
function Rounds.new(where, model, req, opts, list_of)
  if type(model) ~= "table" or type(model.ask) ~= "function" or type(model.stream) ~= "function" then
    options.raise(("%s: argument 1 must be a model, got %s"):format(where, options.got(model)))
  end
  opts = options.fill(options.check(where, opts or {}, SPEC), SPEC)
  req = request_of.check(where, req)
  local self = setmetatable({ where = where, model = model, opts = opts, n = 0, usage = {}, calls = {} }, Rounds)
  self.tools = list_of(where, opts.tools or req.tools or {})
  self.by_name = {}
  for _, entry in ipairs(self.tools) do
    if entry.run then
      if self.by_name[entry.name] then
        options.raise(("%s: two tools have the name '%s'"):format(where, entry.name))
      end
      self.by_name[entry.name] = entry
    end
  end
  self.base, self.messages = {}, {}
  for key, value in pairs(req) do
    if key ~= "messages" and key ~= "prompt" and key ~= "tools" then self.base[key] = value end
  end
  for i, message in ipairs(req.messages or {}) do self.messages[i] = message end
  self.before = #self.messages
  if req.prompt then self.messages[#self.messages + 1] = { role = "user", content = req.prompt } end
  return self
end

--- What to ask now.
---@return sluice.Request
function Rounds:request()
  local req = {}
  for key, value in pairs(self.base) do req[key] = value end
  req.messages = table.move(self.messages, 1, #self.messages, 1, {})
  if #self.tools > 0 then req.tools = self.tools end
  if self.n > 0 or #self.tools == 0 then req.tool_choice = nil end
  return req
end

--- Takes an answer. Returns the calls to run, or nil when it is the last.
---@param reply sluice.Reply
---@return sluice.ToolCall[]?
function Rounds:take(reply)
  self.n = self.n + 1
  tokens.add(self.usage, reply.usage)
  local calls = reply.tool_calls
  local goes_on = #calls > 0 or reply.finish_reason == "pause"
  if goes_on or reply.text ~= "" or reply.blocks then self.messages[#self.messages + 1] = reply:message() end
  if not goes_on then return nil end
  if self.n >= self.opts.rounds then
    if #calls > 0 then self.messages[#self.messages] = nil end -- calls without results are no conversation
    errors.raise { kind = "protocol", code = "tool_rounds", model = reply.model, provider = reply.provider,
      messages = self.messages, partial = reply.text,
      message = ("no answer after %d rounds: the model still %s (limit: rounds = %d)"):format(self.n,
        #calls > 0 and ("calls '%s'"):format(calls[1].name) or "pauses", self.opts.rounds) }
  end
  return calls
end

local function unknown(self, name)
  local names = {}
  for known in pairs(self.by_name) do names[#names + 1] = known end
  table.sort(names)
  return { content = ("There is no tool '%s'%s."):format(errors.one_line(name, 80), options.suggest(name, names)),
    is_error = true, err = "unknown tool", elapsed = 0 }
end

--- Runs one call and writes down what came of it.
local function one(self, call)
  local entry = self.by_name[call.name]
  local result = entry and run_call(entry, call, self.opts) or unknown(self, call.name)
  if self.opts.on_call then self.opts.on_call(call, result) end
  return result
end

--- Neighbours whose tools allow it run together; a tool that does not runs alone, in its place.
local function run_all(self, calls)
  local results, from = {}, 1
  local function alone(call)
    local entry = self.by_name[call.name]
    return entry ~= nil and not entry.parallel
  end
  while from <= #calls do
    local to = from
    if not alone(calls[from]) then
      while to < #calls and not alone(calls[to + 1]) do to = to + 1 end
    end
    if from == to then
      results[from] = one(self, calls[from])
    else
      local group = task.map(table.move(calls, from, to, 1, {}), function(call) return one(self, call) end,
        { concurrency = self.opts.concurrency })
      table.move(group, 1, #group, from, results)
    end
    from = to + 1
  end
  return results
end

--- Runs the calls of an answer; their results become part of the conversation, in the order of the calls.
---@async
---@param calls sluice.ToolCall[]
---@return table[] results
function Rounds:run(calls)
  -- the tools may change what they are given; what the model said goes back as it was
  local copies = {}
  for i, call in ipairs(calls) do
    local copy = {}
    for key, value in pairs(call) do copy[key] = value end
    copy.arguments = require("sluice.schema").copy(call.arguments)
    copies[i] = copy
  end
  local results = run_all(self, copies)
  for i, call in ipairs(calls) do
    local result = results[i]
    self.messages[#self.messages + 1] = { role = "tool", tool_call_id = call.id, content = result.content,
      is_error = result.is_error }
    self.calls[#self.calls + 1] = { name = call.name, arguments = copies[i].arguments, content = result.content,
      is_error = result.is_error, elapsed = result.elapsed, round = self.n }
  end
  return results
end

--- Asks until there is an answer.
---@async
---@return sluice.Reply reply
---@return sluice.Message[] messages
function Rounds:answer()
  while true do
    local reply = self.model:ask(self:request())
    local calls = self:take(reply)
    if not calls then return self:finish(reply) end
    self:run(calls)
  end
end

--- The last answer, with what the loop has to say about it.
---@param reply sluice.Reply
---@return sluice.Reply reply
---@return sluice.Message[] messages
function Rounds:finish(reply)
  reply.rounds, reply.total, reply.calls = self.n, self.usage, self.calls
  return reply, self.messages
end

return Rounds
