--- Traces in the Chrome trace event format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.
-- Owns: the lanes and the events. An observer (observe.lua).
-- Reading order: enter and leave, then the events.
--
-- The array form: what a killed run leaves lacks only the closing bracket, which no viewer wants. Calls and
-- chains are pairs of begin and end, so that what was under way at the kill shows; attempts and waits are
-- complete events within them; what takes no time is an instant.
-- A lane for each task, named after the line that spawned it. Slices of one lane must nest: a task that has
-- two streams open at once gets a second lane.

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local json = require "sluice.json"
local sys = require "sluice.core.sys"

local NAMES_MAX = 10000   -- lanes whose names are remembered as written
local QUOTED_MAX = 1000   -- texts whose JSON is remembered
local WORDS_MAX = 120     -- bytes of a name or a code
local BESIDE = 1 << 24    -- from a task's lane to its next

---@class sluice.ChromeTrace
local Chrome = { __name = "sluice.trace.chrome" }
Chrome.__index = Chrome

-- Text ------------------------------------------------------------------------------------------------

local quoted, quoted_count = {}, 0

local function quote(text)
  local known = quoted[text]
  if known then return known end
  known = json.quote(errors.one_line(tostring(text), WORDS_MAX))
  if quoted_count >= QUOTED_MAX then quoted, quoted_count = {}, 0 end
  quoted[text], quoted_count = known, quoted_count + 1
  return known
end

--- Microseconds since the start, as an integer: ends that are the same moment must be the same number.
local function micros(self, at)
  return ((at - self.started) * 1e6 + 0.5) // 1 | 0
end

--- What failed, as fields of `args`; `{}` for what is no error of sluice.
local function failure(err)
  if not errors.is(err) then return ',"kind":"error"' end
  local text = ',"kind":' .. quote(err.kind)
  if math.type(err.status) == "integer" then text = ('%s,"status":%d'):format(text, err.status) end
  if err.code then text = text .. ',"code":' .. quote(err.code) end
  if err.phase then text = text .. ',"phase":' .. quote(err.phase) end
  if type(err.retry_after) == "number" and err.retry_after < 1e9 then
    text = ('%s,"retry_after_ms":%d'):format(text, err.retry_after * 1000 // 1 | 0)
  end
  if err.request_id then text = text .. ',"provider_request_id":'
    .. json.quote(errors.one_line(err.request_id, WORDS_MAX)) end
  return text
end

local function count(name, n)
  return math.type(n) == "integer" and (',"%s":%d'):format(name, n) or ""
end

--- What came, as fields of `args`.
local function answer(what)
  local usage, text = what.usage, ""
  if usage then
    text = count("input_tokens", usage.input_tokens) .. count("output_tokens", usage.output_tokens)
    if usage.cached_tokens ~= 0 then text = text .. count("cached_tokens", usage.cached_tokens) end
  end
  if what.finish_reason then text = text .. ',"finish_reason":' .. quote(what.finish_reason) end
  if what.ttft then text = ('%s,"ttft_ms":%d'):format(text, what.ttft * 1000 // 1 | 0) end
  return text
end

local function again_in(delay)
  return delay and (',"again_in_ms":%d'):format(delay * 1000 // 1 | 0) or ""
end

local function outcome_of(outcome, what)
  local good = outcome == "ok" or outcome == "abandoned"
  return ('"outcome":"%s"%s'):format(outcome, good and answer(what) or failure(what))
end

-- Lanes -----------------------------------------------------------------------------------------------

local function name_lane(self, lane, beside, spawned_at, service)
  if self.named[lane] then return end
  if self.named_count >= NAMES_MAX then self.named, self.named_count = {}, 0 end -- they may be said twice
  self.named[lane], self.named_count = true, self.named_count + 1
  local id = lane % BESIDE
  local name = (id == 1 and "the script" or "task " .. id) .. (spawned_at and ", " .. spawned_at or "")
    .. (service and " (service)" or "") .. (beside > 0 and (", beside %d"):format(beside) or "")
  self.sink:add(('{"name":"thread_name","ph":"M","pid":%d,"tid":%d,"args":{"name":%s}}')
    :format(self.pid, lane, json.quote(errors.one_line(name, WORDS_MAX))))
  self.sink:add(('{"name":"thread_sort_index","ph":"M","pid":%d,"tid":%d,"args":{"sort_index":%d}}')
    :format(self.pid, lane, id * 100 + math.min(beside, 99)))
end

--- A span begins: finds its lane. The innermost open one there is its chain, or there is none.
local function enter(self, record)
  local chain = record.chain
  local around = chain and chain.task == record.task and chain[self] or nil
  local lanes = self.lanes[record.task]
  if not lanes then
    lanes = { open = 0 }
    self.lanes[record.task] = lanes
  end
  local lane
  for i = 1, #lanes do
    local stack = lanes[i]
    local top = stack[#stack]
    if top == nil or top == around and not top.over then lane = stack break end
  end
  if not lane then
    lane = { id = record.task + #lanes * BESIDE }
    lanes[#lanes + 1] = lane
    if not self.named[lane.id] then
      local _, spawned_at, service = core.current(true)
      name_lane(self, lane.id, #lanes - 1, spawned_at, service)
    end
  end
  local span = { lane = lane, lanes = lanes, over = false }
  lane[#lane + 1] = span
  lanes.open = lanes.open + 1
  record[self] = span
  return lane.id
end

--- A span is over; its end is written when everything inside it is over, too.
local function leave(self, record, at, args)
  local span = record[self]
  if not span or span.over then return end
  span.over, span.args = true, args
  local lane, lanes = span.lane, span.lanes
  local ts = micros(self, at)
  while lane[#lane] and lane[#lane].over do
    local top = table.remove(lane)
    lanes.open = lanes.open - 1
    self.sink:add(('{"ph":"E","pid":%d,"tid":%d,"ts":%d,"args":{%s}}'):format(self.pid, lane.id, ts, top.args))
  end
  if lanes.open == 0 then self.lanes[record.task] = nil end -- a task that has gone needs no memory
end

local function complete(self, record, name, began, at, args)
  local span = record[self]
  if not span then return end -- it began before the trace did
  local ts = micros(self, began)
  self.sink:add(('{"name":%s,"cat":"sluice","ph":"X","pid":%d,"tid":%d,"ts":%d,"dur":%d,"args":{%s}}')
    :format(quote(name), self.pid, span.lane.id, ts, micros(self, at) - ts, args))
end

local function instant(self, record, name, at, args)
  local span = record[self]
  if not span then return end
  self.sink:add(('{"name":%s,"cat":"sluice","ph":"i","s":"t","pid":%d,"tid":%d,"ts":%d,"args":{%s}}')
    :format(quote(name), self.pid, span.lane.id, micros(self, at), args))
end

-- Calls -----------------------------------------------------------------------------------------------

function Chrome:call_began(call, at)
  local lane = enter(self, call)
  self.sink:add(('{"name":%s,"cat":"call","ph":"B","pid":%d,"tid":%d,"ts":%d,'
    .. '"args":{"call":%d,"request_id":"%s","model":%s,"method":"%s"}}'):format(quote(call.name), self.pid, lane,
      micros(self, at), call.number, call.id, quote(call.model), call.streaming and "stream" or "ask"))
end

function Chrome:waited(call, at, what, began, err)
  complete(self, call, "wait: " .. what, began, at, ('"request_id":"%s"%s'):format(call.id, err and failure(err) or ""))
end

function Chrome:content(call, at)
  instant(self, call, "first content", at, ('"request_id":"%s"'):format(call.id))
end

function Chrome:attempt_ended(call, at, outcome, what, delay)
  complete(self, call, "attempt " .. call.attempt, call.sent, at, ('"request_id":"%s","attempt":%d,%s%s'):format(
    call.id, call.attempt, outcome_of(outcome, what), again_in(delay)))
end

function Chrome:refused(call, at, err, delay)
  instant(self, call, "refused: " .. (errors.is(err) and err.kind or "error"), at, ('"request_id":"%s"%s%s')
    :format(call.id, failure(err), again_in(delay)))
end

function Chrome:call_ended(call, at, outcome, what)
  leave(self, call, at, ('"request_id":"%s","attempts":%d,%s'):format(call.id, call.attempt, outcome_of(outcome, what)))
end

-- Chains ----------------------------------------------------------------------------------------------

function Chrome:chain_began(chain, at)
  local lane = enter(self, chain)
  self.sink:add(('{"name":%s,"cat":"chain","ph":"B","pid":%d,"tid":%d,"ts":%d,"args":{"call":%d,"steps":%d}}')
    :format(quote(chain.name), self.pid, lane, micros(self, at), chain.number, chain.steps))
end

function Chrome:chain_moved(chain, at, from, to, why, how)
  instant(self, chain, (how == "slow" and "hedge: " or "moves on: ") .. to.name, at,
    ('"from":%s,"to":%s,"how":"%s","why":%s'):format(quote(from.name), quote(to.name), how, quote(why.kind)))
end

function Chrome:chain_stopped(chain, at, s, winner)
  instant(self, chain, "cancelled: " .. s.name, at, ('"step":%s%s'):format(quote(s.name),
    winner and ',"winner":' .. quote(winner.name) or ""))
end

function Chrome:chain_answered(chain, at, s, why)
  instant(self, chain, "answers: " .. s.name, at, ('"step":%s,"why":%s'):format(quote(s.name), quote(why.kind)))
end

function Chrome:chain_rescued(chain, at, err)
  instant(self, chain, "rescued", at, failure(err):sub(2))
end

function Chrome:chain_ended(chain, at, outcome, err)
  leave(self, chain, at, ('"outcome":"%s"%s'):format(outcome, err and failure(err) or ""))
end

-- The rest --------------------------------------------------------------------------------------------

function Chrome:token_refreshed(name, at, outcome, seconds)
  local task, spawned_at, service = core.current(true)
  name_lane(self, task, 0, spawned_at, service)
  local ts = micros(self, at - seconds)
  self.sink:add(('{"name":%s,"cat":"token","ph":"X","pid":%d,"tid":%d,"ts":%d,"dur":%d,"args":{"outcome":"%s"}}')
    :format(quote("token refresh: " .. name), self.pid, task, ts, micros(self, at) - ts, outcome))
end

function Chrome:breaker_changed(breaker, at, before, after, why)
  self.sink:add(('{"name":%s,"cat":"breaker","ph":"i","s":"g","pid":%d,"tid":%d,"ts":%d,"args":{"before":"%s"%s}}')
    :format(quote(("breaker %s: %s"):format(breaker.name, after)), self.pid, (core.current()), micros(self, at), before,
      why and ',"why":' .. quote(why) or ""))
end

--- What is still open ends with the trace.
function Chrome:finish()
  local ts = micros(self, core.now())
  for _, lanes in pairs(self.lanes) do
    for _, lane in ipairs(lanes) do
      for i = #lane, 1, -1 do
        self.sink:add(('{"ph":"E","pid":%d,"tid":%d,"ts":%d,"args":{%s}}'):format(self.pid, lane.id, ts,
          lane[i].args or '"outcome":"open"'))
      end
    end
  end
end

---@param sink sluice.TraceSink
---@return sluice.ChromeTrace
function Chrome.new(sink)
  local self = setmetatable({ sink = sink, pid = sys.pid(), started = core.now(), lanes = {}, named = {},
    named_count = 0 }, Chrome)
  sink:form("[\n", ",\n", "\n]\n", true)
  sink:add(('{"name":"process_name","ph":"M","pid":%d,"tid":0,"args":{"name":"sluice %s"}}')
    :format(self.pid, sys.version))
  local wall = sys.wall()
  sink:add(('{"name":"trace began","cat":"sluice","ph":"i","s":"g","pid":%d,"tid":%d,"ts":0,'
    .. '"args":{"time":"%s.%03dZ"}}'):format(self.pid, core.current(), os.date("!%Y-%m-%dT%H:%M:%S", wall // 1 | 0),
      (wall % 1) * 1000 // 1 | 0))
  return self
end

return Chrome
