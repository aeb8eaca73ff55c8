--- What happens to calls, as log lines: attempts and waits at level debug, joined by their request id.
-- Owns: the words. An observer (observe.lua) while the level is debug; what is worth a line at other levels is
-- logged where it happens: a chain that moves on (info), a breaker that opens (warn).
-- Never: logs a prompt or an answer.

local errors = require "sluice.errors"
local log = require "sluice.log"

local WORDS_MAX = 300 -- bytes of an error

local Calls = {}

local function fields_of(call, more)
  more.model, more.request_id, more.call, more.attempt = call.name, call.id, call.number, call.attempt
  return more
end

local function seconds(s)
  return s and tonumber(("%.3f"):format(s))
end

local function words(err)
  return errors.one_line(tostring(err), WORDS_MAX)
end

function Calls.attempt_sent(_, call)
  log.debug("asked", fields_of(call, { stream = call.streaming or nil, waited = call.waited > 0
    and seconds(call.waited) or nil, chain = call.chain and call.chain.name }))
end

function Calls.waited(_, call, at, what, began)
  log.debug("waited", fields_of(call, { ["for"] = what, seconds = seconds(at - began) }))
end

function Calls.content(_, call, _, ttft)
  log.debug("first content", fields_of(call, { ttft = seconds(ttft) }))
end

local ENDS = { ok = "answered", abandoned = "closed by the reader", interrupted = "broke off", cancelled = "cancelled",
  error = "failed" }

function Calls.attempt_ended(_, call, at, outcome, what, delay)
  local fields = { elapsed = seconds(at - call.sent) }
  if outcome == "ok" or outcome == "abandoned" then
    local usage = what.usage or {}
    fields.input_tokens, fields.output_tokens = usage.input_tokens, usage.output_tokens
    fields.finish, fields.ttft = what.finish_reason, seconds(what.ttft)
  elseif outcome ~= "cancelled" then
    if errors.is(what) then fields.kind, fields.status = what.kind, what.status end
    fields.why, fields.again_in = words(what), seconds(delay)
  end
  log.debug(ENDS[outcome], fields_of(call, fields))
end

function Calls.refused(_, call, _, err, delay)
  log.debug("not asked", fields_of(call, { kind = errors.is(err) and err.kind or nil, why = words(err),
    again_in = seconds(delay) }))
end

local TOOL_ENDS = { ok = "tool answered", error = "tool failed", refused = "tool not run",
  cancelled = "tool cancelled" }

function Calls.tool_ended(_, run, at, outcome, err)
  local told = outcome == "error" and err ~= nil -- what does not fit would quote the model's arguments
  log.debug(TOOL_ENDS[outcome], { tool = run.tool, tool_call = errors.one_line(run.tool_call, WORDS_MAX),
    elapsed = seconds(at - run.began), kind = told and errors.is(err) and err.kind or nil,
    why = told and words(err) or nil })
end

function Calls.chain_answered(_, chain, _, s, why)
  log.debug("a step answers", { chain = chain.name, call = chain.number, step = s.name, why = why.kind })
end

return Calls
