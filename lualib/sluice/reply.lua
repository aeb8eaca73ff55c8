--- What a model answered: the same shape for ask, stream and fallback.
-- Owns: the fields that are worked out only when somebody looks: raw, request_id, attempts, tool_calls, cost.

local json = require "sluice.json"
local assemble = require "sluice.assemble"
local price = require "sluice.price"

-- Where providers put the id that their support asks for.
local REQUEST_ID_HEADERS = { "x-request-id", "request-id", "x-siliconcloud-trace-id", "cf-ray" }

---@class sluice.Reply
local Reply = { __name = "sluice.reply" }

--- Ready to be appended to `messages`: messages[#messages + 1] = reply:message()
---@return sluice.Message
function Reply:message()
  return assemble.message(self)
end

local LAZY = {}

--- The decoded body of a whole reply; nil for one that was streamed.
function LAZY.raw(self)
  local response = rawget(self, "response")
  return response and json.decode(response:body(), { repair = true })
end

function LAZY.request_id(self)
  local response = rawget(self, "response")
  return response and Reply.request_id_of(response)
end

function LAZY.attempts(self)
  local entry, s = Reply.attempt_of(self), rawget(self, "asked_by")
  if s then entry.step, entry.name, entry.at = s.index, s.name, 0 end -- of a fallback: its first step, at once
  return { entry }
end

--- What the answer cost, in `currency`; nil when its price, or its usage, is not known (sluice.prices).
function LAZY.cost(self)
  local provider, model = rawget(self, "provider"), rawget(self, "asked") or rawget(self, "model")
  local known = rawget(self, "price") or provider and model and price.of(provider .. "/" .. model)
  local amount, currency = price.cost(known or nil, rawget(self, "usage"))
  self.currency = currency
  return amount
end

function LAZY.currency(self)
  return self.cost and rawget(self, "currency")
end

function LAZY.tool_calls()
  return json.array {}
end

function Reply.__index(self, key)
  local lazy = LAZY[key]
  if lazy then
    local value = lazy(self)
    self[key] = value
    return value
  end
  return Reply[key]
end

--- A reply reads as its text.
function Reply:__tostring()
  return self.text
end

--- The provider's request id from a response's or a stream's headers, or nil.
--- For sluice's own modules.
---@param response { header: fun(self, name: string): string? }
---@return string?
function Reply.request_id_of(response)
  for i = 1, #REQUEST_ID_HEADERS do
    local id = response:header(REQUEST_ID_HEADERS[i])
    if id then return id end
  end
  return nil
end

--- The entry of `attempts` for the attempt that answered, from a reply whose times are that one's.
--- For sluice's own modules.
---@param reply sluice.Reply
---@param waited? number  seconds before it was sent
---@return sluice.Attempt
function Reply.attempt_of(reply, waited)
  return { provider = reply.provider, model = reply.asked or reply.model, elapsed = reply.elapsed, waited = waited,
    usage = reply.usage, request_id = reply.request_id, cost = reply.cost, currency = reply.currency,
    usd = rawget(reply, "usd") }
end

--- Makes a reply of its fields.
---@param fields table
---@return sluice.Reply
function Reply.new(fields)
  return setmetatable(fields, Reply)
end

return Reply
