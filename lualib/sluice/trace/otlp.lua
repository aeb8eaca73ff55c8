--- Traces as OpenTelemetry spans: OTLP in JSON, one TracesData document a line (as the OTLP file exporter
-- writes and the collector's otlpjsonfile receiver reads), with the names of the GenAI conventions.
-- Owns: spans, their ids, their attributes. An observer (observe.lua).
--
-- A chain or a call of the script's is a trace of its own: chain > call ("chat MODEL") > attempts and waits.
-- A span is written when it ends. What an answer was and what it used stands in the call's alone: whoever adds up
-- tokens over spans must not have them twice.

local core = require "sluice.core.task"
local core_text = require "sluice.core.text"
local errors = require "sluice.errors"
local json = require "sluice.json"
local sys = require "sluice.core.sys"

local INTERNAL, CLIENT = 1, 3   -- SpanKind
local EVENTS_MAX = 64           -- of one chain
local QUOTED_MAX = 1000         -- texts whose JSON is remembered
local ID_MIN, ID_MAX = 10000000, 99999999 -- eight digits
local WORDS_MAX = 120           -- bytes of a name or a code

local ATTEMPTS = {}             -- names, so that none is made for each
for i = 1, 10 do ATTEMPTS[i] = "attempt " .. i end

---@class sluice.OtlpTrace
local Otlp = { __name = "sluice.trace.otlp" }
Otlp.__index = Otlp

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

-- Attributes: what stands before and behind a value. 64-bit integers are strings in the JSON of Protocol
-- Buffers.
local function text_key(key) return ('{"key":"%s","value":{"stringValue":'):format(key) end
local function integer_key(key) return ('{"key":"%s","value":{"intValue":"'):format(key) end
local TEXT_END, INTEGER_END = "}},", '"}},'

local function text_of(key, value) return text_key(key) .. quote(value) .. TEXT_END end
local function integer_of(key, value) return integer_key(key) .. value .. INTEGER_END end

local CHAT = {} -- model -> "chat model"
local function chat(model)
  CHAT[model] = "chat " .. model
  return CHAT[model]
end

local KEY = {}
for name, key in pairs { outcome = "sluice.outcome", kind = "error.type", code = "sluice.error.code",
  phase = "sluice.error.phase", wait = "sluice.wait", id = "sluice.request_id", model = "gen_ai.response.model",
  response = "gen_ai.response.id" } do KEY[name] = text_key(key) end
for name, key in pairs { status = "http.response.status_code", input = "gen_ai.usage.input_tokens",
  output = "gen_ai.usage.output_tokens", cached = "gen_ai.usage.cache_read.input_tokens", attempt = "sluice.attempt",
  attempts = "sluice.attempts", resend = "http.request.resend_count", task = "thread.id", steps = "sluice.steps",
  max_tokens = "gen_ai.request.max_tokens" } do KEY[name] = integer_key(key) end
local REASON = '{"key":"gen_ai.response.finish_reasons","value":{"arrayValue":{"values":[{"stringValue":'
local TTFT = '{"key":"sluice.time_to_first_token","value":{"doubleValue":'
local STREAMING = '{"key":"gen_ai.request.stream","value":{"boolValue":true}},'
local NOTHING = {}

--- Nanoseconds since 1970.
local function nanos(self, at)
  return self.epoch + (((at - self.started) * 1e6 + 0.5) // 1 | 0) * 1000
end

--- Attributes of a failure; returns its kind.
local function failure(text, err)
  if not errors.is(err) then
    text:add(KEY.kind, '"_OTHER"', TEXT_END)
    return "error"
  end
  text:fields(KEY.kind, quote(err.kind), TEXT_END, KEY.status, math.tointeger(err.status), INTEGER_END,
    KEY.code, err.code and quote(err.code), TEXT_END, KEY.phase, err.phase and quote(err.phase), TEXT_END)
  return err.kind
end

--- Attributes of an outcome, but for those of an answer; returns what failed, or nil.
local function result(text, outcome, what)
  text:add(KEY.outcome, '"', outcome, '"', TEXT_END)
  if outcome == "ok" or outcome == "abandoned" then return nil end
  local kind = failure(text, what)
  return outcome ~= "cancelled" and kind or nil -- who cancels knows why: no fault of this span's
end

--- What came, for a template, or for `answer`.
local function came(what)
  local usage, reason, ttft, model, id = what.usage or NOTHING, what.finish_reason, what.ttft, what.model, what.id
  local cached = usage.cached_tokens
  return model and (quoted[model] or quote(model)), id and json.quote(#id > WORDS_MAX and errors.one_line(id, WORDS_MAX)
    or id), reason and (quoted[reason] or quote(reason)), usage.input_tokens, usage.output_tokens,
    cached ~= 0 and cached or nil, ttft and ttft * 1e6 // 1 | 0
end

--- Attributes of an answer.
local function answer(text, what)
  local model, id, reason, input, output, cached, ttft = came(what)
  text:fields(KEY.model, model, TEXT_END, KEY.response, id, TEXT_END, REASON, reason, "}]}}},", KEY.input, input,
    INTEGER_END, KEY.output, output, INTEGER_END, KEY.cached, cached, INTEGER_END, TTFT, ttft, "e-6}},")
end

-- Spans -----------------------------------------------------------------------------------------------

-- An id is 16 digits: half of them of this run, half counted, decimal ones at that: they are never made into
-- a string of their own. A trace has the number of its first span.
local function new_id(self)
  local n = self.last + 1
  if n > ID_MAX then n = ID_MIN end
  self.last = n
  return n
end

--- What nearly every attempt and every call is: a span of a client's that ended well.
local function templates(self)
  local base, good = self.base, KEY.outcome .. '"ok"' .. TEXT_END
  local head = { "", "", "", '","spanId":"' .. base, "", "", '","parentSpanId":"' .. base, "", '","name":', "",
    (',"kind":%d,"startTimeUnixNano":"'):format(CLIENT), "", '","endTimeUnixNano":"', '","attributes":[',
    KEY.id .. '"', '"}},' }
  local function template(...)
    return core_text.template(table.unpack(table.move({ ... }, 1, select("#", ...), #head + 1, { table.unpack(head) })))
  end
  self.attempt_ok = template(KEY.attempt, INTEGER_END .. good, TTFT, "e-6}},", KEY.task, '"}}]}')
  self.call_ok = template("", "", KEY.attempts, INTEGER_END .. good, KEY.max_tokens, INTEGER_END, STREAMING, "",
    KEY.model, TEXT_END, KEY.response, TEXT_END, REASON, "}]}}},", KEY.input, INTEGER_END, KEY.output, INTEGER_END,
    KEY.cached, INTEGER_END, TTFT, "e-6}},", KEY.task, '"}}]}')
end

--- Begins to write a span, up to its attributes.
local function begin(self, trace, id, parent, name, kind, began, at)
  local text, base, sink = self.text, self.base, self.sink
  text:add(sink.lead, trace, '","spanId":"', base, id)
  sink.lead = self.following
  if parent then text:add('","parentSpanId":"', base, parent) end
  text:add('","name":', quoted[name] or quote(name), ',"kind":', kind, ',"startTimeUnixNano":"', nanos(self, began),
    '","endTimeUnixNano":"', nanos(self, at), '","attributes":[')
  return text
end

--- … and ends it: with the thread, so that no attribute is followed by a comma and nothing.
local function finish(self, record, events, failed)
  local text = self.text
  text:add(KEY.task, record.task, '"}}]')
  if events then text:add(',"events":[', table.concat(events, ","), "]") end
  if failed then text:add(',"status":{"code":2,"message":', quote(failed), "}}") else text:add "}" end
  self.sink:done()
end

local function event(self, at, name, attributes)
  return ('{"timeUnixNano":"%d","name":"%s","attributes":[%s]}'):format(nanos(self, at), name,
    attributes and attributes:gsub(",$", "") or "")
end

--- The span of a call or a chain: a child of its chain's, or the first of a trace.
local function open(self, record)
  local around = record.chain and record.chain[self]
  local id = new_id(self)
  local span = { id = id, trace = around and around.trace or id, parent = around and around.id, events = nil,
    content = nil }
  record[self] = span
  return span
end

-- Calls -----------------------------------------------------------------------------------------------

function Otlp:call_began(call)
  open(self, call)
end

function Otlp:waited(call, at, what, began, err)
  local span = call[self]
  if not span then return end
  local text = begin(self, span.trace, new_id(self), span.id, "wait " .. what, INTERNAL, began, at)
  text:add(KEY.wait, quote(what), TEXT_END)
  finish(self, call, nil, err ~= nil and failure(text, err))
end

function Otlp:content(call, at)
  local span = call[self]
  if span then span.content = { event(self, at, "first content") } end
end

function Otlp:attempt_ended(call, at, outcome, what)
  local span, n = call[self], call.attempt
  if not span then return end
  local name = ATTEMPTS[n] or "attempt " .. n
  if outcome == "ok" and n == 1 and not span.content then
    local text, ttft = self.text, what.ttft
    text:fill(self.attempt_ok, self.sink.lead, span.trace, new_id(self), span.id,
      quoted[name] or quote(name), nanos(self, call.sent), nanos(self, at), call.id, n, ttft and ttft * 1e6 // 1 | 0,
      call.task)
    self.sink.lead = self.following
    return -- the call ends with it, and looks whether the block is full
  end
  local text = begin(self, span.trace, new_id(self), span.id, name, CLIENT, call.sent, at)
  text:add(KEY.id, '"', call.id, '"}},', KEY.attempt, n, INTEGER_END)
  if n > 1 then text:add(KEY.resend, n - 1, INTEGER_END) end
  local failed, content = result(text, outcome, what), span.content
  local ttft = (outcome == "ok" or outcome == "abandoned") and what.ttft
  text:fields(TTFT, ttft and ttft * 1e6 // 1 | 0 or nil, "e-6}},")
  span.content = nil
  finish(self, call, content, failed)
end

function Otlp:refused(call, at, err)
  local span = call[self]
  if not span then return end
  local events = span.events or {}
  span.events = events
  if #events < EVENTS_MAX then
    events[#events + 1] = event(self, at, "refused", text_of("error.type", errors.is(err) and err.kind or "_OTHER"))
  end
end

--- Attributes of what all calls of a model have in common.
local function about(self, call)
  local of_base = self.models[call.base] or {}
  local known = of_base[call.name]
  if known then return known end
  known = text_of("gen_ai.operation.name", "chat") .. text_of("gen_ai.provider.name", call.provider)
    .. text_of("gen_ai.request.model", call.model)
  local scheme, authority = call.base:match "^(%a[%w+.-]*)://([^/?#]*)"
  if authority then -- host and port, without what else may stand there
    authority = authority:gsub("^.*@", "")
    local host, port = authority:match "^(.-):(%d+)$"
    if not host then host, port = authority, scheme == "http" and "80" or "443" end
    host = host:gsub("^%[(.*)%]$", "%1")
    known = known .. text_of("server.address", host) .. integer_of("server.port", port)
  end
  self.models[call.base], of_base[call.name] = of_base, known -- as many as there are models
  return known
end

function Otlp:call_ended(call, at, outcome, what)
  local span = call[self]
  if not span then return end
  local name = CHAT[call.model] or chat(call.model)
  if outcome == "ok" and not span.events then
    local text, m1, m2, m3, m4, m5, m6, m7 = self.text, came(what)
    text:fill(self.call_ok, self.sink.lead, span.trace, span.id, span.parent,
      quoted[name] or quote(name), nanos(self, call.began), nanos(self, at), call.id, about(self, call), call.attempt,
      call.max_tokens, call.streaming and "" or nil, m1, m2, m3, m4, m5, m6, m7, call.task)
    self.sink.lead = self.following
    return self.sink:done()
  end
  local text = begin(self, span.trace, span.id, span.parent, name, CLIENT, call.began, at)
  text:add(about(self, call), KEY.id, '"', call.id, '"}},', KEY.attempts, call.attempt, INTEGER_END)
  text:fields(KEY.max_tokens, call.max_tokens, INTEGER_END, STREAMING, call.streaming and "" or nil, "")
  local failed = result(text, outcome, what)
  if outcome == "ok" or outcome == "abandoned" then answer(text, what) end
  finish(self, call, span.events, failed)
end

-- Chains ----------------------------------------------------------------------------------------------

function Otlp:chain_began(chain)
  open(self, chain).events = {}
end

local function chain_event(self, chain, at, name, attributes)
  local span = chain[self]
  local events = span and span.events
  if events and #events < EVENTS_MAX then events[#events + 1] = event(self, at, name, attributes) end
end

function Otlp:chain_moved(chain, at, from, to, why, how)
  chain_event(self, chain, at, how == "slow" and "hedge" or "moves on", text_of("sluice.from", from.name)
    .. text_of("sluice.to", to.name) .. text_of("sluice.how", how) .. text_of("sluice.why", why.kind))
end

function Otlp:chain_stopped(chain, at, s)
  chain_event(self, chain, at, "cancelled", text_of("sluice.step", s.name))
end

function Otlp:chain_answered(chain, at, s, why)
  chain_event(self, chain, at, "answers", text_of("sluice.step", s.name) .. text_of("sluice.why", why.kind))
end

--- Comes after the chain's span was written: a span of no length, in its trace.
function Otlp:chain_rescued(chain, at, err)
  local span = chain[self]
  if not span then return end
  failure(begin(self, span.trace, new_id(self), span.id, "rescued", INTERNAL, at, at), err)
  finish(self, chain)
end

function Otlp:chain_ended(chain, at, outcome, err)
  local span = chain[self]
  if not span then return end
  local text = begin(self, span.trace, span.id, span.parent, chain.name, INTERNAL, chain.began, at)
  text:add(KEY.outcome, '"', outcome, '"', TEXT_END, KEY.steps, chain.steps, INTEGER_END)
  local kind = err ~= nil and failure(text, err)
  finish(self, chain, span.events, outcome == "error" and kind)
  span.events = nil
end

-- The rest --------------------------------------------------------------------------------------------

local function alone(self, name, began, at, attributes, failed)
  local id = new_id(self)
  begin(self, id, id, nil, name, INTERNAL, began, at):add(attributes)
  finish(self, { task = core.current() }, nil, failed)
end

--- A span of its own: the call that asked for the tool is over by then.
function Otlp:tool_ended(run, at, outcome, err)
  alone(self, "execute_tool " .. run.tool, run.began, at, text_of("gen_ai.operation.name", "execute_tool")
    .. text_of("gen_ai.tool.name", run.tool) .. text_of("gen_ai.tool.call.id", run.tool_call)
    .. text_of("sluice.outcome", outcome), outcome == "error" and (errors.is(err) and err.kind or "_OTHER"))
end

function Otlp:token_refreshed(name, at, outcome, seconds)
  alone(self, "token refresh", at - seconds, at, text_of("sluice.token", name) .. text_of("sluice.outcome", outcome),
    outcome == "error" and "auth")
end

function Otlp:breaker_changed(breaker, at, before, after)
  alone(self, "breaker " .. after, at, at, text_of("sluice.breaker", breaker.name) .. text_of("sluice.before", before)
    .. text_of("sluice.after", after))
end

--- What has not ended is not written: a span has an end.
function Otlp.finish() end
Otlp.tick = Otlp.finish

--- Random bits that leave the seed of the script's own chance alone.
local function random_bits()
  local file <close> = io.open("/dev/urandom", "rb")
  local bytes = file and file:read(16)
  if bytes and #bytes == 16 then return string.unpack("<i8I4", bytes) end
  return (sys.wall() * 1e6) // 1 | 0, sys.pid() * 2654435761 & 0xFFFFFFFF
end

---@param sink sluice.TraceSink
---@return sluice.OtlpTrace
function Otlp.new(sink)
  local run, base = random_bits()
  local self = setmetatable({ sink = sink, text = sink.text, started = core.now(),
    epoch = (sys.wall() * 1e6 // 1 | 0) * 1000, run = ("%016x"):format(run), base = ("%08x"):format(base),
    last = ID_MIN,
    models = {} }, Otlp)
  local span = ('{"traceId":"%s%s'):format(self.run, self.base)
  templates(self)
  local service = sys.env "OTEL_SERVICE_NAME"
  local resource = text_of("service.name", service and service ~= "" and service or "sluice")
    .. text_of("service.version", sys.version) .. text_of("telemetry.sdk.name", "sluice")
    .. text_of("telemetry.sdk.language", "lua") .. integer_of("process.pid", sys.pid())
  -- how the first span of a document begins, and those behind it
  sink.first = ('{"resourceSpans":[{"resource":{"attributes":[%s]},"scopeSpans":[{"scope":{"name":"sluice",'
    .. '"version":%s},"spans":[%s'):format(resource:sub(1, -2), quote(sys.version), span)
  sink.lead, self.following = sink.first, "," .. span
  sink.tail = "]}]}]}\n"
  return self
end

return Otlp
