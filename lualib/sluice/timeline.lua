--- What happened to each request, as text: who was asked, when, what came, why a chain moved on.
-- Owns: the list of events while somebody wants it, and its form. An observer (observe.lua).
-- Never: keeps a prompt, an answer or a credential.
--
--   sluice run --mock=outage.lua script.lua      prints it at the end
--   sluice test                                  prints that of a failed test

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local observe = require "sluice.observe"

local EVENTS_MAX = 1000 -- the latest are kept, at least so many
local WORDS_MAX = 160   -- bytes of a failure's words

---@class sluice.TimelineEvent
---@field at number     seconds since the start
---@field call integer  which call of the script's it belongs to
---@field who string    a model, or the name of a chain
---@field what string

---@class sluice.Timeline
---@field events sluice.TimelineEvent[]
---@field calls integer
local Timeline = { __name = "sluice.timeline" }
Timeline.__index = Timeline

local timeline = {}
local recording ---@type sluice.Timeline?

--- Begins to record.
---@return sluice.Timeline
function timeline.start()
  timeline.stop()
  recording = setmetatable({ events = {}, calls = 0, forgotten = 0, started = core.now() }, Timeline)
  return observe.subscribe(recording)
end

---@return boolean
function timeline.recording()
  return recording ~= nil
end

--- Ends the recording, and returns it.
---@return sluice.Timeline?
function timeline.stop()
  local recorded = recording
  if recorded then observe.sweep() end -- streams that were closed with their group
  recording = nil
  if recorded then observe.unsubscribe(recorded) end
  return recorded
end

local function add(self, record, at, what)
  local events, before = self.events, self.before
  if not before then -- calls are counted from the start of the recording
    before = record.number - 1
    self.before = before
  end
  local number = record.number - before
  self.calls = math.max(self.calls, number)
  if #events >= 2 * EVENTS_MAX then -- the latest are what one looks for
    table.move(events, EVENTS_MAX + 1, #events, 1)
    for i = #events, EVENTS_MAX + 1, -1 do events[i] = nil end
    self.forgotten = self.forgotten + EVENTS_MAX
  end
  events[#events + 1] = { at = at - self.started, call = number, who = record.name,
    what = errors.one_line(what, 2 * WORDS_MAX) }
end

-- Words ---------------------------------------------------------------------------------------------

local function seconds(s)
  if s > 0 and s < 1 then return ("%.3g ms"):format(s * 1000) end
  return s < 10 and ("%.3g s"):format(s) or ("%.0f s"):format(s)
end

--- A failure in a few words: "rate_limited, 429 (retry after 2 s)".
local function failure(err)
  if not errors.is(err) then return "error: " .. tostring(err) end
  local text = err.kind
  if err.status then text = ("%s, %d"):format(text, err.status) end
  if err.phase then text = ("%s, phase %s"):format(text, err.phase) end
  if err.message then text = ("%s: %s"):format(text, errors.one_line(tostring(err.message), WORDS_MAX)) end
  if err.retry_after then text = ("%s (asks to wait %s)"):format(text, seconds(err.retry_after)) end
  return text
end

local function answer(reply)
  local tokens = reply.usage and reply.usage.output_tokens
  return ("%s%s"):format(reply.finish_reason or "complete", tokens and (", %d tokens"):format(tokens) or "")
end

-- Models --------------------------------------------------------------------------------------------

function Timeline:attempt_sent(call, at)
  local text = call.attempt > 1 and ("asked again, attempt %d"):format(call.attempt) or "asked"
  if call.attempt == 1 and call.waited > 0 then
    text = ("%s, after %s of waiting for a limit"):format(text, seconds(call.waited))
  end
  add(self, call, at, text)
end

function Timeline:content(call, at)
  add(self, call, at, "first content after " .. seconds(at - call.sent))
end

local function tries_again(text, err, delay)
  if delay then text = ("%s; tries again in %s"):format(text, seconds(delay)) end
  if errors.is(err) and err.budget then text = text .. "; the retry quota is used up" end
  return text
end

function Timeline:attempt_ended(call, at, outcome, what, delay)
  local after = seconds(at - call.sent)
  local text
  if outcome == "ok" then
    text = ("%s after %s: %s"):format(call.streaming and "complete" or "answered", after, answer(what))
  elseif outcome == "interrupted" then text = ("broke off after %s: %s"):format(after, failure(what.cause or what))
  elseif outcome == "abandoned" then text = "closed by the reader after " .. after
  elseif outcome == "cancelled" then
    text = "cancelled after " .. after
    call[self] = true
  else text = tries_again(("failed after %s: %s"):format(after, failure(what)), what, delay) end
  add(self, call, at, text)
end

function Timeline:refused(call, at, err, delay)
  add(self, call, at, tries_again("refused here: " .. failure(err), err, delay))
end

function Timeline:call_ended(call, at, outcome)
  if outcome == "cancelled" and not call[self] then add(self, call, at, "cancelled while waiting") end
end

-- Chains ---------------------------------------------------------------------------------------------

--- "step 2, openai/gpt-x"; the name alone when it says which step it is.
local function step_text(s)
  local number = "step " .. s.index
  return s.name == number and number or ("%s, %s,"):format(number, s.name)
end

function Timeline:chain_moved(chain, at, from, to, why, how)
  local text
  if how == "declined" then text = ("%s declined"):format(from.name)
  elseif how == "slow" then text = ("%s has been silent for %s"):format(from.name, seconds(from.after or 0))
  else text = ("%s failed (%s)"):format(from.name, why.kind) end
  add(self, chain, at, ("%s: %s starts%s"):format(text, step_text(to), how == "slow" and " beside it" or ""))
end

function Timeline:chain_stopped(chain, at, s, winner)
  add(self, chain, at, ("%s is cancelled%s"):format(s.name, winner and (", %s was first"):format(winner.name) or ""))
end

function Timeline:chain_answered(chain, at, s, why)
  add(self, chain, at, ("%s answers%s"):format(step_text(s),
    s.index > 1 and (": degraded (%s)"):format(why.kind) or ""))
end

function Timeline:chain_rescued(chain, at, err)
  add(self, chain, at, ("the stream broke off, %d bytes into the answer: rescue goes on"):format(#(err.partial or "")))
end

-- As text ---------------------------------------------------------------------------------------------

local function plural(n, word)
  return ("%d %s%s"):format(n, word, n == 1 and "" or "s")
end

--- The events, one a line, oldest first.
---@param most? integer  lines: the last ones of them
---@return string[]
function Timeline:lines(most)
  local events, width, lines = self.events, 0, {}
  local from = math.max(1, most and #events - most + 1 or 1)
  local before = from - 1 + self.forgotten
  if before > 0 then lines[1] = ("… %d before these"):format(before) end
  for _, event in ipairs(events) do width = math.max(width, utf8.len(event.who) or #event.who) end
  for i = from, #events do
    local event = events[i]
    local number = self.calls > 1 and ("%5d"):format(event.call) or ""
    local pad = (" "):rep(width - (utf8.len(event.who) or #event.who))
    lines[#lines + 1] = ("%9.3f s%s  %s%s  %s"):format(event.at, number, event.who, pad, event.what)
  end
  return lines
end

--- "timeline of 3 calls, 6.2 s"
---@return string
function Timeline:title()
  return ("timeline of %s, %s"):format(plural(self.calls, "call"), seconds(core.now() - self.started))
end

return timeline
