--- Tool calls of one reply, merged from fragments.
-- Owns: which fragment belongs to which call, and the judgement that a call is whole.
-- Never: shows a call before it is whole.
--
-- Fragments merge by index, within one answer. In the wild, each with a test:
-- no index (the protocol module puts the place in the list), id and name repeated or empty in later
-- fragments, whole calls in one fragment, several calls that all say index 0, arguments as an object
-- or as JSON inside a JSON string, no arguments at all, no id, the same id twice.

local errors = require "sluice.errors"
local json = require "sluice.json"

local CALLS_MAX = 1024 -- calls in one reply; a server that sends more is broken
local EXCERPT_MAX = 80 -- bytes of bad arguments shown

---@class sluice.ToolCalls
local ToolCalls = {}
ToolCalls.__index = ToolCalls

local tools = {}

---@return sluice.ToolCalls
function tools.new()
  return setmetatable({ list = {}, open = {}, ids = {} }, ToolCalls)
end

local function gathered(call)
  return table.concat(call.pieces)
end

local function object(text)
  local ok, value = pcall(json.decode, text)
  return ok and type(value) == "table"
end

--- Does this fragment begin another call, though it names the index of one that is open?
--- Yes when it brings a name and an id of its own, and the open call could be over: it has whole
--- arguments, or none and another name. A server that makes up a new id for every fragment sends no
--- name with it, or one call's arguments that are not whole yet.
local function begins_another(call, id, name)
  if not id or not call.id or id == call.id or not name then return false end
  if #call.pieces == 0 then return call.name ~= nil and name ~= call.name end
  return object(gathered(call))
end

--- Takes a fragment; returns the call when it is new.
---@param delta sluice.Delta
---@return table? call, table? failure
function ToolCalls:feed(delta)
  local index = delta.index or 0
  local id = delta.id ~= "" and delta.id or nil
  local name = delta.name ~= "" and delta.name or nil
  local call = self.open[index]
  local opened
  if not call or begins_another(call, id, name) then
    if #self.list >= CALLS_MAX then
      return nil, { kind = "protocol", code = "too_large",
        message = ("the reply holds more than %d tool calls"):format(CALLS_MAX) }
    end
    call = { index = index, pieces = {} }
    self.list[#self.list + 1] = call
    self.open[index] = call
    opened = call
  end
  -- id and name come once; what is repeated later adds nothing
  call.id = call.id or id
  call.name = call.name or name
  local arguments = delta.arguments
  if arguments and arguments ~= "" then
    if delta.whole then call.pieces, call.whole = { arguments }, true
    else
      if call.whole then call.pieces, call.whole = {}, nil end
      call.pieces[#call.pieces + 1] = arguments
    end
  end
  return opened
end

--- An id for a call that came without one, or with one already taken. Made from the reply's id, so
--- that it stays unique in a conversation; the letters are those every vendor allows.
local function own_id(self, call, reply_id)
  local base = (tostring(reply_id or "reply"):gsub("[^%w_-]", "")):sub(-20)
  local n = call.index
  while self.ids[("call_%s_%d"):format(base, n)] do n = n + 1 end
  return ("call_%s_%d"):format(base, n)
end

local function fault(call, text, finish)
  if not call.name then
    return { kind = "protocol", code = "tool_name", message = "the model called a tool without naming it" }
  end
  if finish == "length" or finish == "max_tokens" then
    return { kind = "protocol", code = "tool_arguments", should_retry = false,
      message = ("the call of tool '%s' was cut off: raise max_tokens"):format(call.name) }
  end
  return { kind = "protocol", code = "tool_arguments",
    message = ("the model called tool '%s' with arguments that are not a JSON object: %s")
      :format(call.name, errors.one_line(text, EXCERPT_MAX)) }
end

--- The arguments as a table and as the text they came in; nothing when they are no object.
local function read_arguments(text)
  if not text:find("%S") then text = "{}" end
  local ok, value = pcall(json.decode, text)
  if ok and type(value) == "string" then -- JSON inside a JSON string
    text = value
    ok, value = pcall(json.decode, text)
  end
  if ok and (value == json.null or type(value) == "table" and text:find("^%s*%[%s*%]%s*$")) then
    text, value = "{}", {} -- null and [] for "none"
  end
  if not ok or type(value) ~= "table" or not text:find("^%s*{") then return nil, text end
  return value, text
end

--- Makes the event of a call that has ended.
local function deliver(self, call, reply_id, finish)
  local value, text = read_arguments(gathered(call))
  if not call.name or not value then return nil, fault(call, text, finish) end
  if not call.id or self.ids[call.id] then call.id = own_id(self, call, reply_id) end
  self.ids[call.id] = true
  call.arguments, call.arguments_json = value, text
  return { type = "tool_call", id = call.id, name = call.name, arguments = value, arguments_json = text }
end

--- Ends the call at `index`. Nothing when there is none, or when it is not whole: then close_all says
--- what is wrong with it.
---@param index integer
---@param reply_id? string
---@return sluice.Event? event
function ToolCalls:close(index, reply_id)
  local call = self.open[index]
  self.open[index] = nil
  return call and deliver(self, call, reply_id) or nil
end

--- Ends all calls not delivered yet, in the order they began.
---@param reply_id? string
---@param finish string  the vendor's finish reason
---@return sluice.Event[]? events, table? failure
function ToolCalls:close_all(reply_id, finish)
  local events = {}
  self.open = {}
  for _, call in ipairs(self.list) do
    if not call.arguments then
      local event, failed = deliver(self, call, reply_id, finish)
      if not event then return nil, failed end
      events[#events + 1] = event
    end
  end
  return events
end

--- Calls that were delivered, in order.
---@return table[] calls
function ToolCalls:all()
  local calls = {}
  for _, call in ipairs(self.list) do
    if call.arguments then calls[#calls + 1] = call end
  end
  return calls
end

return tools
