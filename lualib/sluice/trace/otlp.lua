--- Traces as OpenTelemetry spans: OTLP in JSON, one TracesData document a line (as the OTLP file exporter
-- writes and the collector's otlpjsonfile receiver reads), with the names of the GenAI conventions.
-- Owns: spans, their ids, their attributes. An observer (observe.lua).
--
-- A chain or a call of the script's is a trace of its own: chain > call ("chat MODEL") > attempts and waits.
-- A span is written when it ends.

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local json = require "sluice.json"
local sys = require "sluice.core.sys"

local INTERNAL, CLIENT = 1, 3   -- SpanKind
local STATUS_ERROR = 2          -- StatusCode
local EVENTS_MAX = 64           -- of one chain
local QUOTED_MAX = 1000         -- texts whose JSON is remembered
local WORDS_MAX = 120           -- bytes of a name or a code

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

local function text_of(key, value)
  return ('{"key":"%s","value":{"stringValue":%s}}'):format(key, quote(value))
end

-- 64-bit integers are strings in the JSON of Protocol Buffers
local function integer_of(key, value)
  return ('{"key":"%s","value":{"intValue":"%d"}}'):format(key, value)
end

local function double_of(key, value)
  local text = ("%.6f"):format(value):gsub(",", ".") -- whatever the locale says
  return ('{"key":"%s","value":{"doubleValue":%s}}'):format(key, text)
end

--- Nanoseconds since 1970.
local function nanos(self, at)
  return self.epoch + (((at - self.started) * 1e6 + 0.5) // 1 | 0) * 1000
end

local function add_failure(list, err)
  local n = #list
  if not errors.is(err) then
    list[n + 1] = text_of("error.type", "_OTHER")
    return "error"
  end
  list[n + 1] = text_of("error.type", err.kind)
  if math.type(err.status) == "integer" then list[#list + 1] = integer_of("http.response.status_code", err.status) end
  if err.code then list[#list + 1] = text_of("sluice.error.code", err.code) end
  if err.phase then list[#list + 1] = text_of("sluice.error.phase", err.phase) end
  return err.kind
end

local function add_answer(list, what)
  local n, usage, ttft = #list, what.usage, what.ttft
  local function add(text)
    n = n + 1
    list[n] = text
  end
  if what.model then add(text_of("gen_ai.response.model", what.model)) end
  if what.id then
    add(('{"key":"gen_ai.response.id","value":{"stringValue":%s}}')
      :format(json.quote(errors.one_line(what.id, WORDS_MAX))))
  end
  if what.finish_reason then
    add(('{"key":"gen_ai.response.finish_reasons","value":{"arrayValue":{"values":[{"stringValue":%s}]}}}')
      :format(quote(what.finish_reason)))
  end
  if usage then
    if usage.input_tokens then add(integer_of("gen_ai.usage.input_tokens", usage.input_tokens)) end
    if usage.output_tokens then add(integer_of("gen_ai.usage.output_tokens", usage.output_tokens)) end
    if (usage.cached_tokens or 0) > 0 then
      add(integer_of("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens))
    end
  end
  if ttft then add(double_of("sluice.time_to_first_token", ttft)) end
end

--- Attributes of an outcome; returns what failed, or nil.
local function add_outcome(list, outcome, what)
  list[#list + 1] = text_of("sluice.outcome", outcome)
  if outcome == "ok" or outcome == "abandoned" then add_answer(list, what) return nil end
  local kind = add_failure(list, what)
  return outcome ~= "cancelled" and kind or nil -- who cancels knows why: no fault of this span's
end

-- Spans -----------------------------------------------------------------------------------------------

local function new_id(self)
  self.last = self.last + 1
  return ("%08x%08x"):format(self.base, self.last & 0xFFFFFFFF)
end

local function write(self, span, name, kind, began, at, attributes, failed, events)
  local parent = span.parent and (',"parentSpanId":"%s"'):format(span.parent) or ""
  self.sink:add(('{"traceId":"%s","spanId":"%s"%s,"name":%s,"kind":%d,"startTimeUnixNano":"%d","endTimeUnixNano":"%d",'
    .. '"attributes":[%s]%s%s}'):format(span.trace, span.id, parent, quote(name), kind, nanos(self, began),
      nanos(self, at), table.concat(attributes, ","),
      events and ',"events":[' .. table.concat(events, ",") .. "]" or "",
      failed and (',"status":{"code":%d,"message":%s}'):format(STATUS_ERROR, quote(failed)) or ""))
end

local function event(self, at, name, attributes)
  return ('{"timeUnixNano":"%d","name":"%s","attributes":[%s]}'):format(nanos(self, at), name, attributes or "")
end

--- The span of a call or a chain: a child of its chain's, or the first of a trace.
local function open(self, record)
  local around = record.chain and record.chain[self]
  local id = new_id(self)
  local span = { id = id, trace = around and around.trace or self.run .. id, parent = around and around.id }
  record[self] = span
  return span
end

local function child(self, span)
  return { id = new_id(self), trace = span.trace, parent = span.id }
end

-- Not quoted: ids are new each time, and would push out of memory what comes again.
local function id_of(call)
  return ('{"key":"sluice.request_id","value":{"stringValue":"%s"}}'):format(call.id)
end

-- Calls -----------------------------------------------------------------------------------------------

function Otlp:call_began(call)
  open(self, call)
end

function Otlp:waited(call, at, what, began, err)
  local span = call[self]
  if not span then return end
  local attributes = { text_of("sluice.wait", what) }
  local failed = err and add_failure(attributes, err)
  write(self, child(self, span), "wait " .. what, INTERNAL, began, at, attributes, failed)
end

function Otlp:content(call, at)
  local span = call[self]
  if span then span.content = event(self, at, "first content") end
end

function Otlp:attempt_ended(call, at, outcome, what)
  local span = call[self]
  if not span then return end
  local attributes = { integer_of("sluice.attempt", call.attempt), id_of(call) }
  if call.attempt > 1 then attributes[3] = integer_of("http.request.resend_count", call.attempt - 1) end
  local failed = add_outcome(attributes, outcome, what)
  local content = span.content
  span.content = nil
  write(self, child(self, span), "attempt " .. call.attempt, CLIENT, call.sent, at, attributes, failed,
    content and { content })
end

function Otlp:refused(call, at, err)
  local span = call[self]
  if not span then return end
  local attributes = {}
  add_failure(attributes, err)
  local events = span.events or {}
  span.events = events
  if #events < EVENTS_MAX then events[#events + 1] = event(self, at, "refused", table.concat(attributes, ",")) end
end

--- "host" and port of a base_url, without what else may stand in it.
local function address(self, base)
  local known = self.addresses[base]
  if known then return known end
  local scheme, authority = base:match "^(%a[%w+.-]*)://([^/?#]*)"
  local list = {}
  if authority then
    authority = authority:gsub("^.*@", "")
    local host, port = authority:match "^(.-):(%d+)$"
    if not host then host, port = authority, scheme == "http" and "80" or "443" end
    host = host:gsub("^%[(.*)%]$", "%1")
    list = { text_of("server.address", host), integer_of("server.port", math.tointeger(port)) }
  end
  self.addresses[base] = list -- as many as there are models
  return list
end

function Otlp:call_ended(call, at, outcome, what)
  local span = call[self]
  if not span then return end
  local attributes = { text_of("gen_ai.operation.name", "chat"), text_of("gen_ai.provider.name", call.provider),
    text_of("gen_ai.request.model", call.model), id_of(call),
    integer_of("sluice.attempts", call.attempt), integer_of("thread.id", call.task) }
  if call.streaming then
    attributes[#attributes + 1] = '{"key":"gen_ai.request.stream","value":{"boolValue":true}}'
  end
  if call.max_tokens then attributes[#attributes + 1] = integer_of("gen_ai.request.max_tokens", call.max_tokens) end
  if call.base then
    local list = address(self, call.base)
    table.move(list, 1, #list, #attributes + 1, attributes)
  end
  local failed = add_outcome(attributes, outcome, what)
  write(self, span, "chat " .. call.model, CLIENT, call.began, at, attributes, failed, span.events)
end

-- Chains ----------------------------------------------------------------------------------------------

function Otlp:chain_began(chain)
  open(self, chain).events = {}
end

local function chain_event(self, chain, at, name, ...)
  local span = chain[self]
  if not span then return end
  local events = span.events
  if events and #events < EVENTS_MAX then
    events[#events + 1] = event(self, at, name, table.concat({ ... }, ","))
  end
end

function Otlp:chain_moved(chain, at, from, to, why, how)
  chain_event(self, chain, at, how == "slow" and "hedge" or "moves on", text_of("sluice.from", from.name),
    text_of("sluice.to", to.name), text_of("sluice.how", how), text_of("sluice.why", why.kind))
end

function Otlp:chain_stopped(chain, at, s)
  chain_event(self, chain, at, "cancelled", text_of("sluice.step", s.name))
end

function Otlp:chain_answered(chain, at, s, why)
  chain_event(self, chain, at, "answers", text_of("sluice.step", s.name), text_of("sluice.why", why.kind))
end

--- Comes after the chain's span was written: a span of no length, in its trace.
function Otlp:chain_rescued(chain, at, err)
  local span = chain[self]
  if not span then return end
  local attributes = {}
  add_failure(attributes, err)
  write(self, child(self, span), "rescued", INTERNAL, at, at, attributes)
end

function Otlp:chain_ended(chain, at, outcome, err)
  local span = chain[self]
  if not span then return end
  local attributes = { text_of("sluice.outcome", outcome), integer_of("sluice.steps", chain.steps),
    integer_of("thread.id", chain.task) }
  local kind = err and add_failure(attributes, err)
  write(self, span, chain.name, INTERNAL, chain.began, at, attributes, outcome == "error" and kind, span.events)
  span.events = nil
end

-- The rest --------------------------------------------------------------------------------------------

local function alone(self, name, began, at, attributes, failed)
  local id = new_id(self)
  write(self, { id = id, trace = self.run .. id }, name, INTERNAL, began, at, attributes, failed)
end

function Otlp:token_refreshed(name, at, outcome, seconds)
  alone(self, "token refresh", at - seconds, at, { text_of("sluice.token", name), text_of("sluice.outcome", outcome) },
    outcome == "error" and "auth")
end

function Otlp:breaker_changed(breaker, at, before, after)
  alone(self, "breaker " .. after, at, at, { text_of("sluice.breaker", breaker.name), text_of("sluice.before", before),
    text_of("sluice.after", after) })
end

--- What has not ended is not written: a span has an end.
function Otlp.finish() end

--- Random bits that leave the seed of the script's own chance alone.
local function random_bits()
  local file <close> = io.open("/dev/urandom", "rb")
  local bytes = file and file:read(16)
  if bytes and #bytes == 16 then return string.unpack("<I8I4", bytes) end
  return (sys.wall() * 1e6) // 1 | 0, sys.pid() * 2654435761 & 0xFFFFFFFF
end

---@param sink sluice.TraceSink
---@return sluice.OtlpTrace
function Otlp.new(sink)
  local run, base = random_bits()
  local self = setmetatable({ sink = sink, started = core.now(), epoch = (sys.wall() * 1e6 // 1 | 0) * 1000,
    run = ("%016x"):format(run), base = base, last = 0, addresses = {} }, Otlp)
  local service = sys.env "OTEL_SERVICE_NAME"
  local resource = table.concat({ text_of("service.name", service and service ~= "" and service or "sluice"),
    text_of("service.version", sys.version), integer_of("process.pid", sys.pid()),
    text_of("telemetry.sdk.language", "lua"), text_of("telemetry.sdk.name", "sluice") }, ",")
  sink:form(('{"resourceSpans":[{"resource":{"attributes":[%s]},"scopeSpans":[{"scope":{"name":"sluice","version":%s},'
    .. '"spans":['):format(resource, quote(sys.version)), ",", "]}]}]}\n")
  return self
end

return Otlp
