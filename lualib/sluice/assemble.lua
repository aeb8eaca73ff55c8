--- Puts a reply together from deltas: what the script sees as events, and the reply at the end.
-- Owns: merging of tool calls, thinking and usage, the set of finish reasons, and the judgement
-- whether an answer is complete.
-- Never: does I/O, reads a clock, knows a vendor's wire format (provider/*), retries.
--
-- The vocabulary of deltas, public because providers written by users speak it too. A protocol's
-- event() and reply() return lists of these:
--
--   { type = "text", text = }                                     a piece of the answer
--   { type = "thinking", text =, index =? }                       a piece of reasoning
--   { type = "thinking_signature", signature =, index =? }        ends the block it belongs to
--   { type = "redacted_thinking", data = }
--   { type = "tool", index =, id =?, name =?, arguments =?, whole =? }
--                     a tool call, or a fragment of its arguments (JSON text). Fragments of one call
--                     share `index`. whole: `arguments` is all of it
--   { type = "tool_end", index = }                                that call is complete
--   { type = "block", index =, block = }                          content kept for the next request only
--   { type = "usage", usage = { … } }                             counts so far; the last one stands, by field
--   { type = "meta", id =?, model =? }
--   { type = "refusal", text = }                                  the model declines, in its own words
--   { type = "finish", reason =, message =?, needs_done =? }      why it stopped, in the vendor's word.
--                     needs_done: without a "done" after it the answer counts as cut off
--   { type = "done" }                                             nothing follows
--   { type = "error", error = { kind =, message =, … } }          fields for errors.new
--
-- Events for the script: text, thinking, tool_call (once, whole), usage, finish. Usage and finish
-- come last and together, from the delta "done" or from assembler:finish().
--
-- finish_reason is one of: "stop", "length", "tool_calls", "pause" (send the conversation again to go
-- on), "other" (a word not known here). A refusal or a content filter is no answer: it is the error
-- `filtered`. The vendor's word stays in finish_reason_raw.
--
-- Tool calls whose arguments are not a JSON object are an error of kind `protocol`, code
-- "tool_arguments": half a call must never look like a call. With finish "length" it says to raise
-- max_tokens and is not worth a retry.

local errors = require "sluice.errors"
local json = require "sluice.json"
local options = require "sluice.options"
local think = require "sluice.assemble.think"
local tools = require "sluice.assemble.tools"

local TEXT_MAX = 64 << 20 -- bytes one reply may collect in all; STREAM_TEXT_MAX in runtime/base/limits.h

local assemble = { TEXT_MAX = TEXT_MAX }

-- Words of the vendors ---------------------------------------------------------------------------

local REASONS = {
  stop = "stop", end_turn = "stop", stop_sequence = "stop", eos = "stop", eos_token = "stop", complete = "stop",
  length = "length", max_tokens = "length", model_context_window_exceeded = "length", max_length = "length",
  model_length = "length",
  tool_calls = "tool_calls", tool_use = "tool_calls", function_call = "tool_calls",
  pause_turn = "pause",
}

--- Reasons that are failures: { kind, what happened }.
local FAILED = {
  content_filter = { "filtered", "the answer was stopped by the provider's content filter" },
  content_filtered = { "filtered", "the answer was stopped by the provider's content filter" },
  sensitive = { "filtered", "the answer was stopped by the provider's content filter" },
  safety = { "filtered", "the answer was stopped by the provider's content filter" },
  recitation = { "filtered", "the answer was stopped by the provider's recitation filter" },
  refusal = { "filtered", "the model refused to answer" },
  error = { "server", "the provider failed while answering" },
  network_error = { "server", "the provider failed while answering" },
  abort = { "server", "the provider gave the answer up" },
  insufficient_system_resource = { "overloaded", "the provider ran out of resources while answering" },
}

-- The assembler ----------------------------------------------------------------------------------

---@class sluice.Assembler
---@field fast boolean  true: plain text may go straight to assembler:text(), its event is the text itself
local Assembler = {}
Assembler.__index = Assembler

-- What holds until something else is written: a stream that waits for its first word is small.
Assembler.texts, Assembler.count = {}, 0 -- pieces of text; this table is nobody's and stays empty
Assembler.size = 0                       -- bytes kept in all
Assembler.max = TEXT_MAX
Assembler.fast = true

--- A new, empty assembler.
---@param opts? { think_tags?: boolean|"open", max_bytes?: integer }
---  think_tags: text between <think> and </think> at the beginning of the answer is thinking; "open":
---  the answer begins inside it. Off by default. max_bytes: ceiling on all it keeps, default 64 MiB
---@return sluice.Assembler
function assemble.new(opts)
  local self = setmetatable({}, Assembler)
  if opts and opts.max_bytes then self.max = opts.max_bytes end
  if opts and opts.think_tags then
    self.fast = false
    self.think = think.new(opts.think_tags == "open")
  end
  return self
end

local function too_large(self)
  self.failure = { kind = "protocol", code = "too_large",
    message = ("the reply is larger than %d bytes, the most one answer may have"):format(self.max) }
  return self.failure
end

--- Adds text that needs no other look: the hot path, once for every streamed piece. Only when
--- `assembler.fast`; otherwise text must go through feed().
---@param s string
---@return table? failure  error fields when the ceiling is reached
function Assembler:text(s)
  local count = self.count + 1
  if count == 1 then self.texts = {} end
  self.count = count
  self.texts[count] = s
  local size = self.size + #s
  self.size = size
  if size > self.max then return too_large(self) end
end

local function grow(self, bytes)
  self.size = self.size + bytes
  return self.size > self.max
end

--- Blocks in the order they came, needed only when the reply must be sent back with its thinking.
--- A run of text is the range of pieces between two other blocks.
local function add_block(self, block)
  local blocks = self.blocks
  if not blocks then
    blocks = {}
    self.blocks = blocks
  end
  local from = (self.text_until or 0) + 1
  if self.count >= from then
    blocks[#blocks + 1] = { type = "text", from = from, to = self.count }
    self.text_until = self.count
  end
  if block then blocks[#blocks + 1] = block end
end

--- The open thinking block, or a new one: another index, a signature given, or content of another
--- kind in between end the old one.
local function thinking_block(self, index)
  local blocks = self.blocks
  local last = blocks and blocks[#blocks]
  if last and last.type == "thinking" and not last.signature and last.index == index
    and self.count == (self.text_until or 0) then
    return last
  end
  local block = { type = "thinking", index = index, pieces = {} }
  add_block(self, block)
  return block
end

local function string_field(delta, name)
  local v = delta[name]
  if type(v) ~= "string" then
    error(("provider: delta '%s' needs a string in '%s', got %s"):format(delta.type, name, type(v)), 0)
  end
  return v
end

--- How each delta changes the assembler: function(self, delta) -> event or list of events, failure.
local FEED = {}

function FEED.text(self, delta)
  local text = string_field(delta, "text")
  if text == "" then return nil end
  if self.think then return self.think:feed(self, text) end
  local failed = self:text(text)
  if failed then return nil, failed end
  return delta -- it has the form of the event
end

function FEED.thinking(self, delta)
  local text = string_field(delta, "text")
  if text == "" then return nil end
  if grow(self, #text) then return nil, too_large(self) end
  local pieces = thinking_block(self, delta.index).pieces
  pieces[#pieces + 1] = text
  self.thought = true
  return delta
end

function FEED.thinking_signature(self, delta)
  local block = thinking_block(self, delta.index)
  block.signature = string_field(delta, "signature")
  self.signed = true
  if grow(self, #block.signature) then return nil, too_large(self) end
end

function FEED.redacted_thinking(self, delta)
  add_block(self, { type = "redacted_thinking", data = delta.data })
  self.signed = true
end

function FEED.block(self, delta)
  local kept = { type = "native", block = delta.block }
  add_block(self, kept)
  self.signed = true
  self.natives = self.natives or {}
  self.natives[delta.index] = kept
end

function FEED.tool(self, delta)
  if grow(self, (delta.arguments and #delta.arguments or 0) + 64) then return nil, too_large(self) end
  local native = self.natives and self.natives[delta.index]
  if native then -- arguments of a tool the vendor runs itself: kept, never shown
    native.pieces = native.pieces or {}
    native.pieces[#native.pieces + 1] = delta.arguments
    return nil
  end
  if not self.tools then self.tools = tools.new() end
  local opened, failed = self.tools:feed(delta)
  if failed then
    self.failure = failed
    return nil, failed
  end
  if opened then add_block(self, { type = "tool", call = opened }) end
end

function FEED.tool_end(self, delta)
  local event = self.tools and self.tools:close(delta.index, self.id)
  -- bad arguments are judged at the finish: only then is it known whether max_tokens cut them off
  if event then self.delivered = true end
  return event
end

function FEED.usage(self, delta)
  if type(delta.usage) ~= "table" then
    error("provider: delta 'usage' needs a table in 'usage'", 0)
  end
  local counts = self.counts
  if not counts then
    counts = {}
    self.counts = counts
  end
  for name, value in pairs(delta.usage) do
    counts[name] = type(value) == "number" and math.tointeger(value) or nil
  end
end

function FEED.meta(self, delta)
  self.id = self.id or delta.id
  self.model = self.model or delta.model
end

function FEED.refusal(self, delta)
  self.refusals = self.refusals or {}
  self.refusals[#self.refusals + 1] = string_field(delta, "text")
  if grow(self, #delta.text) then return nil, too_large(self) end
end

function FEED.finish(self, delta)
  if self.finish_raw then return nil end -- said twice: the first stands
  local raw = delta.reason
  self.finish_raw, self.needs_done = tostring(raw), delta.needs_done
  local failed = FAILED[self.finish_raw:lower()]
  if failed or self.refusals then
    local own = self.refusals and table.concat(self.refusals) or delta.message
    failed = failed or FAILED.refusal
    self.failure = { kind = failed[1], code = self.refusals and "refusal" or self.finish_raw,
      message = own and own ~= "" and own or failed[2], partial = self:partial() }
    return nil, self.failure
  end
  if not self.tools then return nil end
  local events, fault = self.tools:close_all(self.id, self.finish_raw:lower())
  if fault then
    fault.partial = self:partial()
    self.failure = fault
    return nil, fault
  end
  if #events > 0 then self.delivered = true end
  return events
end

function FEED.done(self)
  self.over = true
  if self:complete() then return self:finish() end
end

FEED["error"] = function(self, delta)
  if type(delta.error) ~= "table" then
    error("provider: delta 'error' needs a table of fields in 'error'", 0)
  end
  self.failure = delta.error
  return nil, self.failure
end

--- Takes one delta. Returns the event for the script (or a list of events, or nil when there is
--- none), and the fields of an error when the answer has failed; after that nothing more is taken.
--- A delta of unknown type is a fault of the provider module and raises.
---@param delta sluice.Delta
---@return sluice.Event|sluice.Event[]? events, table? failure
function Assembler:feed(delta)
  if self.failure then return nil, self.failure end
  local handle = FEED[delta.type]
  if not handle then
    error(("provider: unknown delta type '%s'%s"):format(tostring(delta.type),
      options.suggest(delta.type, FEED)), 0)
  end
  return handle(self, delta)
end

--- Is the answer whole? True once its end was announced as the protocol demands and nothing failed.
---@return boolean
function Assembler:complete()
  return self.finish_raw ~= nil and not self.failure and (self.over or not self.needs_done) or false
end

--- Has the terminator come? Then nothing is worth waiting for. (Some vendors never send one: after
--- complete() wait only shortly, for usage.)
---@return boolean
function Assembler:done()
  return self.over or false
end

--- Has anything been handed to the script? Then a failure cannot be mended in silence any more.
---@return boolean
function Assembler:committed()
  return self.count > 0 or self.thought or self.delivered or false
end

--- The last events, usage (if known) and finish; to be called when the stream has ended or is not
--- worth waiting for. After the first time the list is empty. An answer that is not complete yields
--- the fields of an error instead: `protocol` when nothing had come, else `interrupted`.
---@return sluice.Event[]? events, table? failure
function Assembler:finish()
  if self.failure then return nil, self.failure end
  if not self:complete() then
    self.failure = self:broken { kind = "protocol", code = "no_end",
      message = self.finish_raw and "the stream ended without its terminator"
        or "the stream ended without saying that the answer is complete" }
    return nil, self.failure
  end
  if self.flushed then return {} end
  self.flushed = true
  local events = self.think and self.think:flush(self) or {}
  local usage = self:usage()
  if next(usage) then events[#events + 1] = { type = "usage", usage = usage } end
  events[#events + 1] = { type = "finish", reason = self:reason() }
  return events
end

--- The same failure as seen from where the answer stands: once content was delivered it is
--- `interrupted`, with the text so far and the failure as its cause.
---@param fields table
---@param committed? boolean  true: it is committed, though nothing was delivered (half a tool call)
---@return table fields
function Assembler:broken(fields, committed)
  local kind = fields.kind
  if not (committed or self:committed()) or kind == "filtered" or kind == "cancelled" or kind == "interrupted" then
    return fields
  end
  local cause = errors.is(fields) and fields or errors.new(fields)
  return { kind = "interrupted", code = fields.code, status = fields.status, phase = fields.phase,
    message = "the stream broke off: " .. tostring(fields.message), retry_after = fields.retry_after,
    request_id = fields.request_id, partial = self:partial(), cause = cause }
end

--- A vendor's word in ours. Tool calls decide whatever the vendor said: many say "stop".
local function reason_of(raw, has_calls)
  local reason = REASONS[raw] or REASONS[raw:lower()] or "other"
  if has_calls then return reason == "length" and reason or "tool_calls" end
  return reason == "tool_calls" and "stop" or reason
end

--- finish_reason in our words; nil before the finish.
---@return sluice.FinishReason?
function Assembler:reason()
  return self.finish_raw and reason_of(self.finish_raw, self.delivered)
end

--- Counts with one meaning: input includes what was read from and written to a cache.
---@return sluice.Usage
function Assembler:usage()
  return assemble.usage(self.counts)
end

--- Tokens in, with what a cache held; nil when nobody said.
local function input_of(counts)
  local input = counts.input_tokens
  if input or not counts.uncached_input_tokens then return input end
  return counts.uncached_input_tokens + (counts.cached_tokens or 0) + (counts.cache_write_tokens or 0)
end

--- Of what was counted, tokens in and out, for those who need no more; nil for what nobody said.
---@return integer? input, integer? output
function Assembler:tokens()
  local counts = self.counts
  if not counts then return nil end
  return counts.input_tokens or input_of(counts), counts.output_tokens
end

--- Adds up what is known: vendors that count cached input apart have it included here, a missing
--- total is the sum. Nothing is estimated: without counts the table is empty.
---@param counts sluice.UsageDelta?
---@return sluice.Usage
function assemble.usage(counts)
  if not counts or next(counts) == nil then return {} end
  local input, output = input_of(counts), counts.output_tokens
  return {
    input_tokens = input,
    output_tokens = output,
    total_tokens = counts.total_tokens or input and output and input + output,
    cached_tokens = counts.cached_tokens or 0,
    reasoning_tokens = counts.reasoning_tokens or 0,
  }
end

--- Text so far.
---@return string
function Assembler:partial()
  return table.concat(self.texts, "", 1, self.count)
end

--- How each block stands in a message, in Anthropic's form.
local FINISHED = {}

function FINISHED.text(self, b)
  return { type = "text", text = table.concat(self.texts, "", b.from, b.to) }
end

function FINISHED.thinking(_, b)
  return { type = "thinking", thinking = table.concat(b.pieces), signature = b.signature }
end

function FINISHED.redacted_thinking(_, b)
  return b
end

--- Nothing for a call that never came to be whole. The input is decoded anew: the script has had the
--- table in hand.
function FINISHED.tool(_, b)
  local call = b.call
  if not call.arguments_json then return nil end
  return { type = "tool_use", id = call.id, name = call.name, input = json.decode(call.arguments_json) }
end

function FINISHED.native(_, b)
  if not b.pieces then return b.block end
  local copy = {}
  for key, value in pairs(b.block) do copy[key] = value end
  local ok, input = pcall(json.decode, table.concat(b.pieces))
  copy.input = ok and input or {}
  return copy
end

local function finished_blocks(self)
  add_block(self, nil) -- closes the last run of text
  local list = {}
  for _, b in ipairs(self.blocks) do list[#list + 1] = FINISHED[b.type](self, b) end
  return list
end

--- The reply's own fields; the caller adds provider, attempts and times.
---@return sluice.Reply
function Assembler:reply()
  local thoughts = {}
  for _, b in ipairs(self.blocks or {}) do
    if b.type == "thinking" and b.pieces[1] then thoughts[#thoughts + 1] = table.concat(b.pieces) end
  end
  local calls = json.array {}
  for _, call in ipairs(self.tools and self.tools:all() or {}) do
    calls[#calls + 1] = { id = call.id, name = call.name, arguments = call.arguments,
      arguments_json = call.arguments_json }
  end
  return {
    text = self:partial(),
    thinking = #thoughts > 0 and table.concat(thoughts, "\n\n") or nil,
    tool_calls = calls,
    finish_reason = self:reason(),
    finish_reason_raw = self.finish_raw,
    usage = self:usage(),
    model = self.model,
    id = self.id,
    -- only where the vendor wants its thinking back unchanged
    blocks = self.signed and finished_blocks(self) or nil,
  }
end

--- The reply to a whole body of the plain kind, taken apart without a tree (runtime/base/answer.h):
--- one text, no tools, no thinking. The same as an assembler would have made of it.
---@param text string
---@param finish_reason string?  the vendor's word
---@param counts sluice.UsageDelta?
---@param model string?
---@param id string?
---@return sluice.Reply? reply, table? failure
function assemble.plain(text, finish_reason, counts, model, id)
  local raw = finish_reason or "unknown"
  local failed = FAILED[raw:lower()]
  if failed then return nil, { kind = failed[1], code = raw, message = failed[2], partial = text } end
  return {
    text = text,
    tool_calls = json.array {},
    finish_reason = reason_of(raw, false),
    finish_reason_raw = raw,
    usage = assemble.usage(counts),
    model = model,
    id = id,
  }
end

--- A reply as a message to go on from: append it to `messages`, then the tools' results.
--- Signed thinking goes back block by block, in order; otherwise the message is plain.
---@param reply sluice.Reply
---@return sluice.Message
function assemble.message(reply)
  if reply.blocks then return { role = "assistant", content = reply.blocks } end
  local calls = reply.tool_calls
  return {
    role = "assistant",
    content = reply.text,
    thinking = reply.thinking,
    tool_calls = calls and #calls > 0 and calls or nil,
  }
end

return assemble
