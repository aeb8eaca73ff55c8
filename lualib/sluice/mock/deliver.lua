--- Sends an answer the way a provider does, or the way one does on a bad day.
-- Owns: time, framing and every fault of a reply under way. Never: decides what the answer says
-- (plan.lua) nor who is struck (scenario.lua).
-- Each function returns the outcome for the log: "complete", "cut", "stalled", "error".

local tasks = require "sluice.core.task"
local json = require "sluice.json"
local failures = require "sluice.mock.failures"

local FIRST_TOKEN = 0.2 -- seconds, unless a scenario says otherwise; scaled by pace
local GAP = 1 / 50
local BATCH = 32        -- events written at once when there is no pace to keep
local FOR_EVER = 1e8    -- seconds

local NEWLINES = { lf = "\n", cr = "\r", crlf = "\r\n" }

local deliver = {}

--- The times an answer takes. What a scenario says holds as it is; the built-in times follow `pace`.
---@param effects table
---@param pace number  1: as a real provider; 0: at once
---@return { delay: number, first: number, gap: number }
function deliver.timing(effects, pace)
  return { delay = effects.delay or 0, first = effects.first_token or FIRST_TOKEN * pace,
    gap = effects.gap or GAP * pace }
end

local function sleep(seconds)
  if seconds > 0 then tasks.sleep(seconds) end
end

-- The wire ----------------------------------------------------------------------------------------

--- Frames events and hands them to the connection.
local Wire = {}
Wire.__index = Wire

local function open_wire(res, api, context)
  local effects = context.effects
  local wire = setmetatable({ res = res, api = api, context = context, effects = effects, pending = {}, count = 0,
    newline = NEWLINES[effects.newline or "lf"] }, Wire)
  wire.out = function(name, data) wire:event(name, data) end
  if effects.bom then wire:add "\xEF\xBB\xBF" end
  return wire
end

function Wire:add(bytes)
  self.pending[#self.pending + 1] = bytes
end

function Wire:event(name, data)
  local nl = self.newline
  if type(data) ~= "string" then data = json.encode(data) end
  self:add((name and "event: " .. name .. nl or "") .. "data: " .. data .. nl .. nl)
  self.count = self.count + 1
end

function Wire:flush()
  local bytes = table.concat(self.pending)
  self.pending, self.count = {}, 0
  if bytes == "" then return end
  local size = self.effects.split
  if not size then return self.res:write(bytes) end
  for at = 1, #bytes, size do
    self.res:write(bytes:sub(at, at + size - 1))
    self.res:flush() -- a piece is a packet of its own
  end
end

--- With nothing to wait for, several events make one packet, as a fast server's do.
function Wire:flush_some(gap)
  if gap > 0 or self.count >= BATCH then self:flush() end
end

function Wire:ping()
  local comment, name, data = self.api.ping(self.context)
  if comment then self:add(comment .. self.newline .. self.newline) else self:event(name, data) end
  self:flush()
end

--- Silence, interrupted by pings if the scenario wants them.
function Wire:wait(seconds)
  local every = self.effects.ping_every
  while every and seconds > every do
    sleep(every)
    self:ping()
    seconds = seconds - every
  end
  sleep(seconds)
end

--- Only comments for a while: the connection lives, the model says nothing.
function Wire:comments(seconds)
  local every = self.effects.ping_every or math.min(1, seconds / 4)
  while seconds > 0 do
    self:ping()
    sleep(math.min(every, seconds))
    seconds = seconds - every
  end
end

-- Faults of a stream ---------------------------------------------------------------------------------

--- Ends the connection the way `cut` says; half an event may go first.
local function cut(wire, res)
  local how = wire.effects.cut
  wire:flush()
  if how == "eof" then
    res:finish() -- complete for HTTP, as a proxy makes it; not for the protocol above
  elseif how == "close" then
    res:close()
  else
    if how == "mid_event" then res:write "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.comp" end
    res:flush()
    res:abort "reset"
  end
  return "cut"
end

local function send_error(wire)
  local effects = wire.effects
  local name, data = failures.event(wire.context.dialect, { id = wire.context.request_id, code = effects.code,
    message = effects.message, status = effects.status or 503 })
  wire:event(name, data)
  wire:flush()
  return "error"
end

--- What happens after `sent` tokens. Returns the outcome when that was the end.
local function fault(wire, res, sent)
  local effects = wire.effects
  if effects.malformed_after == sent then
    wire:event(nil, wire.api.malformed(wire.context))
  end
  if effects.stall_after == sent then
    wire:flush()
    wire:wait(effects.stall or FOR_EVER)
    if not effects.stall then return "stalled" end
  end
  if effects.error_after == sent then
    send_error(wire)
    res:finish()
    return "error"
  end
  if effects.cut_after == sent and effects.cut ~= "after_last" then return cut(wire, res) end
  return nil
end

--- A fault that was set for later than the answer goes on happens at its end.
local function bring_forward(effects, last)
  local nearer = {}
  for name, value in pairs(effects) do nearer[name] = value end
  for _, name in ipairs { "cut_after", "stall_after", "error_after", "malformed_after" } do
    if nearer[name] and nearer[name] > last then nearer[name] = last end
  end
  return nearer
end

local function headers_of(effects, context, more)
  local headers = { ["x-request-id"] = context.request_id, ["request-id"] = context.request_id }
  for name, value in pairs(more) do headers[name] = value end
  for name, value in pairs(effects.headers or {}) do headers[name] = value end
  if effects.content_length then headers["Content-Length"] = effects.content_length end
  return headers
end

local function send_steps(wire, res, timing)
  local steps = wire.context.plan.steps
  for i, step in ipairs(steps) do
    local ended = fault(wire, res, i - 1)
    if ended then return ended end
    if i > 1 then wire:wait(timing.gap) end
    wire.api.step(wire.context, step, wire.out)
    wire:flush_some(timing.gap)
  end
  return fault(wire, res, #steps)
end

--- The answer as a stream of events.
---@async
---@return string outcome
function deliver.stream(res, api, context, timing)
  context.effects = bring_forward(context.effects, #context.plan.steps)
  local effects = context.effects
  if effects.cut == "before_headers" then
    res:abort "reset"
    return "cut"
  end
  local wire = open_wire(res, api, context)
  res:start(200, headers_of(effects, context, { ["Content-Type"] = "text/event-stream; charset=utf-8",
    ["Cache-Control"] = "no-cache", ["X-Accel-Buffering"] = "no" }))
  api.open(context, wire.out)
  if timing.first > 0 or effects.comments then wire:flush() end
  if effects.comments then wire:comments(effects.comments) end
  wire:wait(timing.first)
  local ended = send_steps(wire, res, timing)
  if ended then return ended end
  if not effects.no_finish then
    api.finish(context, wire.out)
    if not effects.no_done then api.close(context, wire.out) end
  end
  wire:flush()
  if effects.cut == "after_last" then
    res:flush()
    res:abort "reset"
    return "cut"
  end
  res:finish()
  return effects.content_length and "cut" or "complete"
end

-- Whole replies ------------------------------------------------------------------------------------

--- The part of a body that is sent before `tokens` of the answer have been.
local function part(body, tokens, plan)
  return body:sub(1, math.max(1, #body * tokens // (#plan.steps + 1)))
end

--- The answer in one piece, when it is ready.
---@async
---@return string outcome
function deliver.whole(res, api, context, timing)
  local effects, plan = context.effects, context.plan
  if effects.cut == "before_headers" then
    res:abort "reset"
    return "cut"
  end
  sleep((effects.comments or 0) + timing.first + #plan.steps * timing.gap)
  if effects.error_after then
    local status = effects.status or 503
    res:json(status, failures.body(context.dialect, { status = status, code = effects.code,
      message = effects.message, id = context.request_id }), headers_of(effects, context, {}))
    return "error"
  end
  local body = json.encode(api.whole(context))
  if effects.malformed_after then body = body:sub(1, -20) end
  local headers = headers_of(effects, context, { ["Content-Type"] = "application/json" })
  local broken = effects.cut_after or effects.stall_after
  if not (broken or effects.content_length or effects.split) or effects.cut == "after_last" then
    res:send(200, headers, body)
    return "complete"
  end
  headers["Content-Length"] = effects.content_length or #body
  res:start(200, headers)
  if not broken then
    for at = 1, #body, effects.split or #body do
      res:write(body:sub(at, at + (effects.split or #body) - 1))
      res:flush()
    end
    res:finish() -- ends the connection when less was sent than announced
    return effects.content_length and effects.content_length ~= #body and "cut" or "complete"
  end
  res:write(part(body, broken, plan))
  res:flush()
  if effects.stall_after then
    sleep(effects.stall or FOR_EVER)
    if not effects.cut_after then
      res:write(body:sub(#part(body, broken, plan) + 1))
      res:finish()
      return "complete"
    end
  end
  if effects.cut == "close" or effects.cut == "eof" then res:close() else res:abort "reset" end
  return "cut"
end

return deliver
