--- What a run shows of itself while it runs and after: starting what the options ask for.
-- Owns: who is told at the end. Never: decides what is shown (sluice.metrics and its parts). It is loaded only
-- when one of the options is given.

local observing = {}

local at_end = {}

--- `f()` is called when the script has ended, however it did; the latest first.
---@param f fun()
function observing.at_end(f)
  at_end[#at_end + 1] = f
end

--- Calls those who asked for it. What one raises is told and keeps no other from its turn.
function observing.finish()
  while #at_end > 0 do
    local ok, err = pcall(table.remove(at_end))
    if not ok then require "sluice.report".failure(err, { before = "at the end of the run: " }) end
  end
end

local function cannot(what, why)
  require "sluice.report".say(("cannot %s: %s"):format(what, why), "red")
  return false
end

local function start_server(opts)
  local serve = require "sluice.metrics.serve"
  local address, port = serve.address(opts.metrics)
  if not address then return cannot("serve metrics: --metrics", port) end
  local task = require "sluice.core.task"
  local scope = task.scope {}
  local ok, server = scope:run(serve.start, address, port)
  scope:finish()
  if not ok then
    require "sluice.report".failure(server, { verbose = opts.verbose, before = "cannot serve metrics: " })
    return false
  end
  if port == 0 and not opts.quiet or opts.verbose then
    require "sluice.report".say(("metrics at %s/metrics"):format(server.url))
  end
  return true
end

local function start_file(opts)
  local finish, why = require "sluice.metrics.file".start(opts.metrics_file)
  if not finish then return cannot("write the metrics", why) end
  observing.at_end(function()
    local ok, problem = finish()
    if not ok then require "sluice.report".say("the metrics could not be written: " .. problem, "red") end
  end)
  return true
end

local function start_push(opts)
  local otlp = require "sluice.metrics.otlp"
  local url = otlp.address(opts.metrics_otlp)
  if not url then
    return cannot("send metrics",
      ("--metrics-otlp: '%s' is not an http or https address, such as http://127.0.0.1:4318"):format(
      require "sluice.errors".one_line(opts.metrics_otlp, 80)))
  end
  observing.at_end(otlp.start(url))
  return true
end

--- Starts what the options ask for.
---@param opts table
---@return boolean ok  false when it could not be done; the reason has been printed
function observing.start(opts)
  if opts.metrics and not start_server(opts) then return false end
  if opts.metrics_file and not start_file(opts) then return false end
  if opts.metrics_otlp and not start_push(opts) then return false end
  return true
end

return observing
