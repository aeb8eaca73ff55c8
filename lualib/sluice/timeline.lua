--- What happened to each request: who was asked, when, what came, why a chain moved on.
-- Owns: the list of events while somebody wants it, and its form as text. Off, it costs its users one
-- look at `timeline.on`.
-- Never: keeps a prompt, an answer or a credential.
--
--   sluice run --mock=outage.lua script.lua      prints it at the end
--   sluice test                                  prints that of a failed test

local core = require "sluice.core.task"
local errors = require "sluice.errors"

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

local timeline = {
  on = nil, ---@type sluice.Timeline?
}

--- Begins to record.
---@return sluice.Timeline
function timeline.start()
  timeline.on = setmetatable({ events = {}, calls = 0, forgotten = 0, started = core.now() }, Timeline)
  return timeline.on
end

--- Ends the recording, and returns it.
---@return sluice.Timeline?
function timeline.stop()
  local recorded = timeline.on
  timeline.on = nil
  return recorded
end

local function add(self, call, who, what)
  local events = self.events
  if #events >= 2 * EVENTS_MAX then -- the latest are what one looks for
    table.move(events, EVENTS_MAX + 1, #events, 1)
    for i = #events, EVENTS_MAX + 1, -1 do events[i] = nil end
    self.forgotten = self.forgotten + EVENTS_MAX
  end
  events[#events + 1] = { at = core.now() - self.started, call = call, who = who,
    what = errors.one_line(what, 2 * WORDS_MAX) }
end

--- A new number for a call, unless it is part of one that has a number.
---@param call? integer
---@return integer
function Timeline:call(call)
  if call then return call end
  self.calls = self.calls + 1
  return self.calls
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
-- `run` is the call of a model (policy/call.lua): model, attempt, sent, began, waited, opts.

local function number_of(self, run)
  if not run.call then run.call = self:call(run.opts and run.opts.call) end
  return run.call
end

--- A request is sent.
function Timeline:sent(run)
  local text = run.attempt > 1 and ("asked again, attempt %d"):format(run.attempt) or "asked"
  if run.attempt == 1 and (run.waited or 0) > 0 then
    text = ("%s, after %s of waiting for a limit"):format(text, seconds(run.waited))
  end
  run.asked = true
  add(self, number_of(self, run), run.model.name, text)
end

--- An attempt has succeeded: a whole reply, or a stream that has committed.
function Timeline:came(run, result)
  local call, name = number_of(self, run), run.model.name
  if not result.events then
    return add(self, call, name, ("answered after %s: %s"):format(seconds(core.now() - run.sent), answer(result)))
  end
  add(self, call, name, ("first content after %s"):format(seconds(core.now() - run.sent)))
  local on_close = result.on_close
  function result.on_close(stream)
    if on_close then on_close(stream) end
    self:ended(run, stream)
  end
end

--- A stream was closed.
function Timeline:ended(run, stream)
  local after = seconds(core.now() - run.sent)
  local text
  local broken = stream.failure
  if broken then text = ("broke off after %s: %s"):format(after, failure(broken.cause or broken))
  elseif stream.over then
    text = ("complete after %s: %s"):format(after,
      answer { finish_reason = stream.assembler:reason(), usage = stream.assembler:usage() })
  else
    text = ("closed by the reader after %s"):format(after)
  end
  add(self, run.call, run.model.name, text)
end

--- An attempt has failed before its commit; `delay` seconds until the next one, or nil.
function Timeline:failed(run, err, delay)
  local after = run.asked and (" after %s"):format(seconds(core.now() - run.sent)) or ""
  local text = run.asked and ("failed%s: %s"):format(after, failure(err)) or "refused here: " .. failure(err)
  if delay then text = ("%s; tries again in %s"):format(text, seconds(delay)) end
  if errors.is(err) and err.budget then text = text .. "; the retry quota is used up" end
  run.asked = false
  add(self, number_of(self, run), run.model.name, text)
end

local Watch = {}
Watch.__index = Watch
function Watch:__close(err)
  if err == nil or not errors.is(err, "cancelled") then return end
  local run = self.run
  local text = run.asked and ("cancelled after %s"):format(seconds(core.now() - run.sent)) or "cancelled while waiting"
  add(self.timeline, number_of(self.timeline, run), run.model.name, text)
end

--- Something to be closed when the call is left: notices that it was cancelled.
function Timeline:watch(run)
  return setmetatable({ timeline = self, run = run }, Watch)
end

-- Chains ---------------------------------------------------------------------------------------------

--- "step 2, openai/gpt-x"; the name alone when it says which step it is.
local function step_text(s)
  local number = "step " .. s.index
  return s.name == number and number or ("%s, %s,"):format(number, s.name)
end

--- A chain goes to another step, because the one before was slow, failed, or declined.
---@param declined? boolean
function Timeline:moves_on(w, from, to, why, declined)
  local text
  if declined then text = ("%s declined"):format(from.name)
  elseif why.kind == "slow" then text = ("%s has been silent for %s"):format(from.name, seconds(from.after or 0))
  else text = ("%s failed (%s)"):format(from.name, why.kind) end
  add(self, w.call or 0, w.name, ("%s: %s starts%s"):format(text, step_text(to),
    why.kind == "slow" and not declined and " beside it" or ""))
end

--- A step was stopped in favour of another one.
function Timeline:stopped(w, s, winner)
  add(self, w.call or 0, w.name, ("%s is cancelled%s"):format(s.name,
    winner and (", %s was first"):format(winner.name) or ""))
end

--- A step has won.
function Timeline:answered(w, s, why)
  add(self, w.call or 0, w.name, ("%s answers%s"):format(step_text(s),
    s.index > 1 and (": degraded (%s)"):format(why.kind) or ""))
end

--- A stream broke after text was delivered, and the rescue goes on in its place.
function Timeline:rescued(w, err)
  add(self, w.call or 0, w.name, ("the stream broke off, %d bytes into the answer: rescue goes on")
    :format(#(err.partial or "")))
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
