--- Traces in the Chrome trace event format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.
-- Owns: the lanes and the events. An observer (observe.lua).
-- Reading order: enter and leave, then the events. Pieces go to the file's text one by one, and nothing
-- is put together in Lua: this is on the path of every attempt.
--
-- The array form: what a killed run leaves lacks only the closing bracket, which no viewer wants. What takes
-- time is a complete event, written at its end; but a call or a chain that is under way when the file is
-- written out, each second, is a pair of begin and end: it shows even if there is no end.
-- A lane for each task, named after the line that spawned it. Slices of one lane must nest: a task that has
-- two streams open at once gets a second lane. Of slices that begin at the same microsecond Perfetto takes the
-- one that comes first in the file for the outer one, and then drops what does not fit in: what is inside begins
-- a microsecond later at least, and what is around it ends no earlier.

local core = require "sluice.core.task"
local core_text = require "sluice.core.text"
local errors = require "sluice.errors"
local json = require "sluice.json"
local sys = require "sluice.core.sys"

local NAMES_MAX = 10000   -- lanes whose names are remembered as written
local QUOTED_MAX = 1000   -- texts whose JSON is remembered
local WORDS_MAX = 120     -- bytes of a name or a code
local BESIDE = 1 << 24    -- from a task's lane to its next
local LANES_MAX = 10000   -- tasks whose lanes are kept for their next call

local NOTHING = {}
local ATTEMPTS = {}       -- names, so that none is made for each
for i = 1, 10 do ATTEMPTS[i] = "attempt " .. i end

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

--- What failed, as fields of `args`.
local function failure(text, err)
  if not errors.is(err) then return text:add ',"kind":"error"' end
  local status, wait, id = math.tointeger(err.status), err.retry_after, err.request_id
  text:fields(',"kind":', quote(err.kind), "", ',"status":', status, "", ',"code":', err.code and quote(err.code), "",
    ',"phase":', err.phase and quote(err.phase), "",
    ',"retry_after_ms":', type(wait) == "number" and wait < 1e9 and wait * 1000 // 1 | 0 or nil, "",
    ',"provider_request_id":', id and json.quote(errors.one_line(id, WORDS_MAX)), "")
end

--- What came, as the last fields of `args`.
local function answer(text, what)
  local usage, reason, ttft = what.usage or NOTHING, what.finish_reason, what.ttft
  text:fields(',"input_tokens":', usage.input_tokens, "", ',"output_tokens":', usage.output_tokens, "",
    ',"cached_tokens":', usage.cached_tokens, "", ',"finish_reason":', reason and (quoted[reason] or quote(reason)), "",
    ',"ttft_ms":', ttft and ttft * 1000 // 1 | 0, "", "}}", "", "")
end

local function in_ms(delay)
  return delay and delay * 1000 // 1 | 0
end

-- Lanes -----------------------------------------------------------------------------------------------

local function name_lane(self, id, beside)
  if self.named[id] then return end
  if self.named_count >= NAMES_MAX then self.named, self.named_count = {}, 0 end -- they may be said twice
  self.named[id], self.named_count = true, self.named_count + 1
  local task, spawned_at, service = core.current(true)
  local name = (task == 1 and "the script" or "task " .. task) .. (spawned_at and ", " .. spawned_at or "")
    .. (service and " (service)" or "") .. (beside > 0 and (", beside %d"):format(beside) or "")
  self.text:add(',\n{"ph":"M","name":"thread_name","pid":', self.pid, ',"tid":', id, ',"args":{"name":',
    json.quote(errors.one_line(name, WORDS_MAX)), "}}")
  self.text:add(',\n{"ph":"M","name":"thread_sort_index","pid":', self.pid, ',"tid":', id,
    ',"args":{"sort_index":', task * 100 + math.min(beside, 99), "}}")
end

--- Tasks that have gone need no lanes; those that are open stay.
local function forget_lanes(self)
  local kept, count = {}, 0
  for task, lanes in pairs(self.lanes) do
    local busy = false
    for _, lane in ipairs(lanes) do busy = busy or lane[1] ~= nil end
    if busy then kept[task], count = lanes, count + 1 end
  end
  self.lanes, self.lane_count, self.lanes_max = kept, count, math.max(LANES_MAX, 2 * count)
end

--- The first moment from `us` on at which something can begin within the innermost span of a lane.
local function first_free(lane, us)
  local start, last = lane.starts[#lane], lane.last
  if start and us <= start then us = start + 1 end
  return us < last and last or us
end

--- May a span begin within the one that is innermost in its lane? It is its chain, or a tool that asks.
local function holds(around, chain)
  if around == chain then return not chain.ended end
  return around.tool ~= nil and not around.ended
end

--- A span begins: finds its lane. What is innermost there holds it, or there is nothing.
local function enter(self, record)
  local lanes = self.lanes[record.task]
  if not lanes then
    if self.lane_count >= self.lanes_max then forget_lanes(self) end
    lanes = {}
    self.lanes[record.task], self.lane_count = lanes, self.lane_count + 1
  end
  local chain, began = record.chain, micros(self, record.began)
  for i = 1, #lanes do
    local lane = lanes[i]
    local depth = #lane
    if depth == 0 or holds(lane[depth], chain) then
      local from = first_free(lane, began)
      lane.starts[depth + 1], lane.last = from, from
      lane[depth + 1], record[self] = record, lane
      return
    end
  end
  -- `starts`: when the spans that are open began; `last`: when the last thing in the innermost of them ended;
  -- `inner`: … within the attempt that is under way
  local lane = { record, id = record.task + #lanes * BESIDE, starts = { began }, last = began }
  lanes[#lanes + 1], record[self] = lane, lane
  name_lane(self, lane.id, #lanes - 1)
end

--- When something within the innermost span of a lane began, and how long it took: a microsecond at least.
local function within(self, lane, began, at)
  local from, to, inner = first_free(lane, micros(self, began)), micros(self, at), lane.inner
  if inner then
    lane.inner = nil
    if to < inner then to = inner end
  end
  if to <= from then to = from + 1 end
  lane.last = to
  return from, to - from
end

--- The same within the attempt that is under way there, which began at `sent`.
local function within_attempt(self, lane, sent, began, at)
  local least = lane.inner or first_free(lane, micros(self, sent)) + 1
  local from, to = micros(self, began), micros(self, at)
  if from < least then from = least end
  if to <= from then to = from + 1 end
  lane.inner = to
  return from, to - from
end

local function write_end(self, lane, depth, ts, record, outcome, what)
  if ts < lane.last then ts = lane.last end
  if ts <= lane.starts[depth] then ts = lane.starts[depth] + 1 end
  lane.last, lane.inner = ts, nil
  local text, name, model, id = self.text, record.name, record.model, record.id
  if self.announced[record] then
    self.announced[record] = nil
    text:add(self.ends, lane.id, ',"ts":', ts)
  else
    local began = lane.starts[depth]
    if outcome == "ok" and id then
      return text:fill(self.call_ok, lane.id, began, ts - began, quoted[name] or quote(name), record.number, id,
        quoted[model] or quote(model), record.attempt, record.streaming and "stream" or "ask")
    end
    text:add(self.completes, lane.id, ',"ts":', began, ',"dur":', ts - began, ',"name":', quoted[name] or quote(name))
  end
  if record.tool then
    text:add(',"args":{"tool_call":', json.quote(errors.one_line(record.tool_call, WORDS_MAX)), ',"outcome":"', outcome,
      '"')
    if outcome == "error" then failure(text, what) end
    return text:add "}}"
  end
  text:fields(',"args":{"call":', record.number, ',"outcome":"', "", outcome, '"', ',"request_id":"', id, '"',
    ',"model":', id and (quoted[model] or quote(model)), "", ',"attempts":', record.attempt, "",
    ',"steps":', record.steps, "", ',"method":', id and (record.streaming and '"stream"' or '"ask"'), "")
  if outcome == "error" or outcome == "interrupted" then failure(text, what) end
  text:add "}}"
end

--- Whatever is under way and has not been written yet begins in the file now.
function Chrome:tick()
  local announced, text = self.announced, self.text
  for _, lanes in pairs(self.lanes) do
    for _, lane in ipairs(lanes) do
      for depth, record in ipairs(lane) do
        if not announced[record] then
          announced[record] = true
          text:add(self.begins, lane.id, ',"ts":', lane.starts[depth], ',"name":', quote(record.name))
          if record.tool then text:add ',"args":{}}'
          else text:fields(',"args":{"call":', record.number, "", ',"request_id":"', record.id, '"', "}}", "", "") end
          self.sink:done()
        end
      end
    end
  end
end

--- A span is over; its end is written when everything inside it is over, too.
local function leave(self, record, at, outcome, what)
  local lane = record[self]
  if not lane then return end
  local ts, depth = micros(self, at), #lane
  if lane[depth] ~= record then
    lane.waiting = lane.waiting or {}
    lane.waiting[record] = { outcome, what }
    return
  end
  lane[depth] = nil
  write_end(self, lane, depth, ts, record, outcome, what)
  while lane.waiting do
    depth = depth - 1
    local around = lane[depth]
    local said = around and lane.waiting[around]
    if not said then break end
    lane[depth], lane.waiting[around] = nil, nil
    if not next(lane.waiting) then lane.waiting = nil end
    write_end(self, lane, depth, ts, around, said[1], said[2])
  end
  self.sink:done()
end

--- The beginning of a complete event in the lane of `record`; false: that began before the trace did.
local function complete(self, record, name, began, at, sent)
  local lane = record[self]
  if not lane then return false end
  local ts, dur
  if sent then ts, dur = within_attempt(self, lane, sent, began, at) else ts, dur = within(self, lane, began, at) end
  self.text:add(self.completes, lane.id, ',"ts":', ts, ',"dur":', dur, ',"name":',
    quoted[name] or quote(name), ',"args":{"call":', record.number)
  return true
end

local function instant(self, record, name, at)
  local lane = record[self]
  if not lane then return false end
  self.text:add(self.instants, lane.id, ',"ts":', micros(self, at), ',"name":', quote(name), ',"args":{"call":',
    record.number)
  return true
end

-- Calls -----------------------------------------------------------------------------------------------

function Chrome:call_began(call) enter(self, call) end

function Chrome:waited(call, at, what, began, err)
  -- for a token it is an attempt that waits
  if not complete(self, call, "wait: " .. what, began, at, what == "token" and call.sent or nil) then return end
  self.text:add(',"request_id":"', call.id, '"')
  if err ~= nil then failure(self.text, err) end
  self.text:add "}}"
end

function Chrome:content(call, at)
  if instant(self, call, "first content", at) then self.text:add(',"request_id":"', call.id, '"}}') end
end

function Chrome:attempt_ended(call, at, outcome, what, delay)
  local n, lane = call.attempt, call[self]
  if outcome == "ok" and lane then
    local usage, reason, ttft = what.usage or NOTHING, what.finish_reason, what.ttft
    local name, ts, dur = ATTEMPTS[n] or "attempt " .. n, within(self, lane, call.sent, at)
    return self.text:fill(self.attempt_ok, lane.id, ts, dur, quoted[name] or quote(name), call.number,
      call.id, n, usage.input_tokens, usage.output_tokens, usage.cached_tokens,
      reason and (quoted[reason] or quote(reason)), ttft and ttft * 1000 // 1 | 0, "")
  end
  if not complete(self, call, ATTEMPTS[n] or "attempt " .. n, call.sent, at) then return end
  local text = self.text
  text:add(',"request_id":"', call.id, '","attempt":', n, ',"outcome":"', outcome, '"')
  if outcome == "ok" or outcome == "abandoned" then return answer(text, what) end
  failure(text, what)
  text:fields(',"again_in_ms":', in_ms(delay), "")
  text:add "}}"
end

function Chrome:refused(call, at, err, delay)
  if not instant(self, call, "refused: " .. (errors.is(err) and err.kind or "error"), at) then return end
  self.text:add(',"request_id":"', call.id, '"')
  failure(self.text, err)
  self.text:fields(',"again_in_ms":', in_ms(delay), "")
  self.text:add "}}"
end

function Chrome:call_ended(call, at, outcome, what)
  leave(self, call, at, outcome, what)
end

-- Chains ----------------------------------------------------------------------------------------------

function Chrome:chain_began(chain) enter(self, chain) end

function Chrome:chain_moved(chain, at, from, to, why, how)
  if not instant(self, chain, (how == "slow" and "hedge: " or "moves on: ") .. to.name, at) then return end
  self.text:add(',"from":', quote(from.name), ',"to":', quote(to.name), ',"how":"', how, '","why":', quote(why.kind),
    "}}")
end

function Chrome:chain_stopped(chain, at, s, winner)
  if not instant(self, chain, "cancelled: " .. s.name, at) then return end
  self.text:fields(',"step":', quote(s.name), "", ',"winner":', winner and quote(winner.name), "")
  self.text:add "}}"
end

function Chrome:chain_answered(chain, at, s, why)
  if not instant(self, chain, "answers: " .. s.name, at) then return end
  self.text:add(',"step":', quote(s.name), ',"why":', quote(why.kind), "}}")
end

function Chrome:chain_rescued(chain, at, err)
  if not instant(self, chain, "rescued", at) then return end
  failure(self.text, err)
  self.text:add "}}"
end

function Chrome:chain_ended(chain, at, outcome, err)
  leave(self, chain, at, outcome, err)
end

-- Tools -----------------------------------------------------------------------------------------------

function Chrome:tool_began(run) enter(self, run) end

function Chrome:tool_ended(run, at, outcome, err)
  leave(self, run, at, outcome, err)
end

-- The rest --------------------------------------------------------------------------------------------

function Chrome:token_refreshed(name, at, outcome, seconds)
  local task, ts = core.current(), micros(self, at - seconds)
  name_lane(self, task, 0)
  self.text:add(',\n{"ph":"X","cat":"token","pid":', self.pid, ',"tid":', task, ',"ts":', ts, ',"dur":',
    micros(self, at) - ts, ',"name":', quote("token refresh: " .. name), ',"args":{"outcome":"', outcome, '"}}')
  self.sink:done()
end

function Chrome:breaker_changed(breaker, at, before, after, why)
  self.text:add(',\n{"ph":"i","s":"g","cat":"breaker","pid":', self.pid, ',"tid":', core.current(), ',"ts":',
    micros(self, at), ',"name":', quote(("breaker %s: %s"):format(breaker.name, after)), ',"args":{"before":"', before,
    '"')
  self.text:fields(',"why":', why and quote(why), "")
  self.text:add "}}"
end

--- What is still open ends with the trace.
function Chrome:finish()
  local ts = micros(self, core.now())
  for _, lanes in pairs(self.lanes) do
    for _, lane in ipairs(lanes) do
      for i = #lane, 1, -1 do write_end(self, lane, i, ts, lane[i], "open") end
    end
  end
end

---@param sink sluice.TraceSink
---@return sluice.ChromeTrace
function Chrome.new(sink)
  local pid, wall = sys.pid(), sys.wall()
  local self = setmetatable({ sink = sink, text = sink.text, pid = pid, started = core.now(), announced = {},
    lanes = {}, lane_count = 0, lanes_max = LANES_MAX, named = {}, named_count = 0,
    begins = (',\n{"ph":"B","cat":"sluice","pid":%d,"tid":'):format(pid),
    ends = (',\n{"ph":"E","pid":%d,"tid":'):format(pid),
    completes = (',\n{"ph":"X","cat":"sluice","pid":%d,"tid":'):format(pid),
    instants = (',\n{"ph":"i","s":"t","cat":"sluice","pid":%d,"tid":'):format(pid) }, Chrome)
  local head = { self.completes, "", ',"ts":', "", ',"dur":', "", ',"name":', "", ',"args":{"call":', "",
    ',"request_id":"', '"' }
  local function template(...)
    return core_text.template(table.unpack(table.move({ ... }, 1, select("#", ...), #head + 1, { table.unpack(head) })))
  end
  -- nearly every call and every attempt is one of these
  self.call_ok = template(',"outcome":"ok","model":', "", ',"attempts":', "", ',"method":"', '"}}')
  self.attempt_ok = template(',"attempt":', ',"outcome":"ok"', ',"input_tokens":', "", ',"output_tokens":', "",
    ',"cached_tokens":', "", ',"finish_reason":', "", ',"ttft_ms":', "", "}}", "")
  sink.last = "\n]\n"
  sink.text:add('[\n{"ph":"M","name":"process_name","pid":', pid, ',"tid":0,"args":{"name":"sluice ', sys.version,
    '"}}')
  sink.text:add(',\n{"ph":"i","s":"g","cat":"sluice","pid":', pid, ',"tid":', core.current(), ',"ts":0,'
    .. '"name":"trace began","args":{"time":"', os.date("!%Y-%m-%dT%H:%M:%S", wall // 1 | 0),
    (".%03dZ"):format((wall % 1) * 1000 // 1 | 0), '"}}')
  return self
end

return Chrome
