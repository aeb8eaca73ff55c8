--- What a run shows of itself while it runs and after: starting what the options ask for.
-- Owns: who is told at the end. Never: decides what is shown (sluice.metrics and its parts). It is loaded only
-- when one of the options is given.

local observing = {}

local at_end = {}

--- `f(code)` is called when the script has ended, however it did, with its exit code; the latest first.
---@param f fun(code?: integer)
function observing.at_end(f)
  at_end[#at_end + 1] = f
end

--- Calls those who asked for it. What one raises is told and keeps no other from its turn.
---@param code? integer
function observing.finish(code)
  while #at_end > 0 do
    local ok, err = pcall(table.remove(at_end), code)
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
  observing.at_end(otlp.start(otlp.address(opts.metrics_otlp)))
end

-- Sums over the run: --report, and the summary of -v -----------------------------------------------

local function write_report(account, path, run)
  local written, why = require "sluice.core.file".replace(path, require "sluice.account.page".make(account, run))
  if not written then
    require "sluice.report".say(("the report %s could not be written: %s"):format(path, why), "red")
  end
end

local function show_summary(account)
  if account.calls == 0 then return end
  local figures = require "sluice.account.figures"
  require "sluice.report".say(("%s in %s"):format(figures.plural(account.calls, "call"),
    figures.seconds(account.seconds)))
  for _, line in ipairs(require "sluice.account.summary".lines(account)) do io.stderr:write(line, "\n") end
end

--- The folder must be there and take a file before the run, not only after hours of it.
local function writable(path)
  local folder = path:match "^(.*/)[^/]*$" or "./"
  local probe = ("%s.sluice-report-%d"):format(folder, require "sluice.core.sys".pid())
  local file, why = io.open(probe, "wb")
  if not file then return nil, (why:gsub("^.*: ", "")) end
  file:close()
  os.remove(probe)
  return true
end

local function ended(code)
  if require "sluice.core.task".is_cancelled() then return "interrupted" end
  return (code or 0) == 0 and "ok" or "failed"
end

local function start_account(opts)
  local path = opts.report
  if path then
    local ok, why = writable(path)
    if not ok then return cannot("write the report " .. path, why) end
  end
  local began = os.date "%Y-%m-%d %H:%M:%S"
  local account = require "sluice.account".new { slow = true }:start()
  local name = type(arg) == "table" and tostring(arg[0]):match "([^/]*)/*$" or "sluice"
  observing.at_end(function(code)
    account:stop()
    if path then
      write_report(account, path, { name = name == "-e" and "(command line)" or name, date = began, code = code,
        version = require "sluice.core.sys".version, ended = ended(code), mock = opts.mock and true })
    end
    if opts.verbose then show_summary(account) end
  end)
  return true
end

--- Starts what the options ask for.
---@param opts table
---@return boolean ok  false when it could not be done; the reason has been printed
function observing.start(opts)
  if opts.metrics and not start_server(opts) then return false end
  if opts.metrics_file and not start_file(opts) then return false end
  if opts.metrics_otlp then start_push(opts) end
  if (opts.report or opts.verbose) and not start_account(opts) then return false end
  return true
end

return observing
