--- --trace FILE: what happened to every call, for a trace viewer.
-- Owns: which form a file gets, the task that writes it out every second, the end. The forms:
-- trace/chrome.lua, trace/otlp.lua; the file: trace/sink.lua.
-- Never: writes the text of a prompt or an answer, nor what a provider said of a failure (it may quote
-- them): kind, status and code only.

local core = require "sluice.core.task"
local observe = require "sluice.observe"
local Sink = require "sluice.trace.sink"

local FLUSH_S = 1 -- seconds that a kill may cost at most

local trace = {}

local running ---@type { form: table, sink: sluice.TraceSink }?

--- Begins to write. A name that ends in ".otlp.json" or ".otlp.jsonl" gets OTLP spans, one document a
--- line; any other the Chrome trace event format. Only one trace at a time.
---@param path string
---@return boolean ok
---@return string? why
function trace.start(path)
  trace.stop()
  local otlp = path:find "%.otlp%.jsonl?$" ~= nil
  local sink, why = Sink.open(path)
  if not sink then return false, why end
  local form = (otlp and require "sluice.trace.otlp" or require "sluice.trace.chrome").new(sink)
  local mine = { form = form, sink = sink }
  running = mine
  observe.subscribe(form)
  sink:flush() -- the head: a reader of the file has something from the start
  core.service(function()
    while running == mine do
      core.sleep(FLUSH_S)
      if running == mine then
        observe.sweep()
        form:tick()
        sink:flush()
      end
    end
  end)
  return true
end

--- Writes the end, and closes the file. Does nothing when there is no trace.
---@return boolean ok  false: something could not be written, which was logged
function trace.stop()
  local mine = running
  if not mine then return true end
  observe.sweep()
  running = nil
  observe.unsubscribe(mine.form)
  mine.form:finish()
  return mine.sink:close()
end

return trace
