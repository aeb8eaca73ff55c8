--- Running a script: what `run` does, and every later command that takes a script.
-- Owns: the options of such commands, finding and compiling the script, the group and the deadline it
-- runs in, what its end means for the exit code. Never: parses words, nor loads more of the library
-- than this run needs: a script that prints a line must not pay for the models it does not use.
-- Reading order: options, prepare, load, execute.

local task = require "sluice.core.task"
local sys = require "sluice.core.sys"

local WARN_BURST_S = 2           -- a task that computes this long without waiting is worth a line
local WARN_BURST_VERBOSE_S = 0.1
local MIB = 1 << 20
local TIMELINE_MAX = 200         -- lines

local script = {}

script.EXIT = {
  ok = 0, raised = 1, usage = 2, some_failed = 3, start = 4, internal = 70, timeout = 124,
}
local EXIT = script.EXIT

--- The options every command that runs a script takes.
---@type sluice.OptionArgument[]
script.options = {
  { "--timeout", "-t", arg = "S", type = "seconds", above = 0,
    help = "end the script after S seconds, with exit code 124" },
  { "--mock", arg = "SCENARIO", type = "optional",
    help = "start the embedded provider and send every model to it: no key, no network; "
      .. "SCENARIO is a file that makes it misbehave" },
  { "--seed", arg = "N", type = "integer",
    help = "repeat chance: math.random, back-off and the mock start from N" },
  { "--max-memory", arg = "MIB", type = "integer", min = 1, max = 1 << 32,
    help = "end the script when its data outgrows this many MiB (default: no limit)" },
  { "--max-burst", arg = "S", type = "seconds", above = 0,
    help = "end a task that computes for S seconds without waiting (default: no limit)" },
  { "--trace", arg = "FILE", type = "string",
    help = "write every call, attempt and wait to FILE for ui.perfetto.dev; as OpenTelemetry spans "
      .. "when it ends in .otlp.json" },
  { "--log-level", arg = "LEVEL", type = "string", enum = { "debug", "info", "warn", "error" },
    help = "the least that is logged (default info; debug with -v, error with -q)" },
  { "--log-format", arg = "FORMAT", type = "string", enum = { "text", "json" },
    help = "text (the default) or json: a line of JSON for each entry" },
  { "--log-file", arg = "FILE", type = "string", help = "append log lines to FILE, not to stderr" },
  { "--metrics", arg = "ADDR:PORT", type = "string", expected = "ADDR:PORT, such as 127.0.0.1:9464, or a port alone",
    check = function(text) return require "sluice.metrics.serve".address(text) end,
    help = "serve Prometheus metrics at /metrics while the script runs, and /healthz and /debug/tasks; "
      .. "a port alone is on 127.0.0.1, port 0 is any" },
  { "--metrics-file", arg = "FILE", type = "string",
    help = "write the metrics to FILE every few seconds and at the end, for node_exporter's textfile collector" },
  { "--metrics-otlp", arg = "URL", type = "string",
    expected = "an http or https address, such as http://127.0.0.1:4318",
    check = function(text) return require "sluice.metrics.otlp".address(text) end,
    help = "send the metrics to the OpenTelemetry collector at URL every few seconds and at the end (OTLP over HTTP)" },
  { "--report", arg = "FILE", type = "string",
    help = "write a page about the run to FILE at its end: calls, cost, failures, times, fallbacks (HTML, nothing else "
      .. "needed)" },
  { "--quiet", "-q", type = "flag", help = "nothing on stderr but errors" },
  { "--verbose", "-v", type = "flag", help = "whole tracebacks, debug logs, and a summary of all calls at the end" },
  { "--lib", arg = "DIR", type = "string",
    help = "read sluice's own Lua library from DIR, not from inside the program" },
  { "--gc-stress", type = "flag", tests = true,
    help = "collect garbage after every few allocations" },
}

-- Preparing ---------------------------------------------------------------------------------------

-- A task that computes longer than the whole script may run is past the deadline, whatever the clock
-- of the loop, which it never lets turn, says.
local function burst_limit(opts)
  local burst, timeout = opts.max_burst or 0, opts.timeout or 0
  if burst == 0 or timeout == 0 then return math.max(burst, timeout) end
  return math.min(burst, timeout)
end

--- Sets the limits on tasks and memory anew; what was decided under the old ones does not count any more.
---@param opts table  `patience`: seconds of processor time until Ctrl-C interrupts a task that does not wait
function script.set_guards(opts)
  local warn = opts.verbose and WARN_BURST_VERBOSE_S or WARN_BURST_S
  sys.guard {
    warn_burst = opts.quiet and 0 or warn,
    max_burst = burst_limit(opts),
    max_memory = opts.max_memory and opts.max_memory * MIB or 0,
    patience = opts.patience,
  }
end

-- A cycle begins as soon as one has ended, with a step after every 16 bytes: over a heap of 1.6 MB an
-- object lives on for some 50 allocations after its last use, instead of thousands.
local function stress_collector()
  collectgarbage "incremental"
  collectgarbage("setpause", 0)
  collectgarbage("incremental", 0, 400, 4)
  collectgarbage() -- the pause holds from the next cycle on: begin it
end

local function configure_log(opts)
  local level = opts.log_level or opts.verbose and "debug" or opts.quiet and "error" or nil
  if not (level or opts.log_format or opts.log_file) then return true end
  local ok, why = pcall(require "sluice.log".configure, { level = level, format = opts.log_format,
    file = opts.log_file })
  if not ok then require "sluice.report".say((why:gsub("^log%.configure: ", "")), "red") end
  return ok
end

local function start_trace(opts)
  local ok, why = require "sluice.trace".start(opts.trace)
  if not ok then require "sluice.report".say(("cannot write the trace %s: %s"):format(opts.trace, why), "red") end
  return ok
end

local function start_mock(opts)
  local mock = require "sluice.mock".start {
    scenario = opts.mock ~= true and opts.mock or nil, seed = opts.seed, service = true,
  }
  require "sluice.model".use_mock(mock.url)
  return mock.url
end

-- os.exit leaves at once: what the end of a run writes and tells is written and told before. Not what unwinding
-- closes: that is the script's own, and Lua's os.exit leaves it be.
local function conclude_on_exit(opts)
  local exit, concluded = os.exit, false
  function os.exit(code, ...) -- luacheck: ignore 122
    if not concluded then
      concluded = true
      sys.guard {} -- the ceilings were the script's
      pcall(script.conclude, opts, (code == nil or code == true) and EXIT.ok or math.tointeger(code)
        or EXIT.raised)
    end
    return exit(code, ...)
  end
end

--- Does what the options ask for before a script runs.
---@param opts table
---@return boolean ok false when it could not be done; the reason has been printed, exit with EXIT.start
function script.prepare(opts)
  script.set_guards(opts)
  conclude_on_exit(opts)
  if not configure_log(opts) then return false end
  if opts.quiet then require "sluice.progress".off = true end
  if opts.gc_stress then stress_collector() end
  if opts.seed then
    sys.seed(opts.seed)
    math.randomseed(opts.seed)
  end
  -- Words of a stream shall be seen as they come; a pipe keeps its buffer, which costs less.
  if sys.isatty(1) then io.stdout:setvbuf "no" end
  local observing = (opts.metrics or opts.metrics_file or opts.metrics_otlp or opts.report or opts.verbose)
    and require "sluice.command.observing"
  if observing and not observing.start(opts) then return false end
  if opts.trace and not start_trace(opts) then return false end
  if not opts.mock then return true end
  local scope = task.scope {}
  local ok, url = scope:run(start_mock, opts)
  scope:finish()
  local report = require "sluice.report"
  if not ok then
    report.failure(url, { traceback = opts.verbose and task.traceback_of(url) or nil, verbose = opts.verbose,
      before = "cannot start the mock provider: " })
    return false
  end
  if not opts.quiet then
    report.say(("mock provider at %s; no request leaves this machine"):format(url))
    if opts.mock ~= true then require "sluice.timeline".start() end -- a rehearsal: show_timeline tells how it went
  end
  return true
end

-- Loading -----------------------------------------------------------------------------------------

---@class sluice.Script
---@field name string what a person calls it: the path as typed, "stdin", "(command line)"
---@field chunkname string
---@field text string the source, the shebang line blanked
---@field path? string absent for stdin and -e

local BOM = "\xEF\xBB\xBF"

-- The first line stays as an empty one, so that line numbers hold.
local function without_head(text)
  if text:sub(1, 3) == BOM then text = text:sub(4) end
  if text:sub(1, 1) == "#" then text = text:match "^[^\n]*(.*)$" end
  return text
end

-- Chunk names that begin with "sluice/" are the library's own.
local function displayed(path)
  return path:find "^sluice/" and "./" .. path or path
end

local function cannot_open(path, why)
  why = why:gsub("^.*: ", "")
  local hint = ""
  local beside = path .. ".lua"
  local file = not path:find "%.lua$" and io.open(beside, "rb")
  if file then
    file:close()
    hint = (" (did you mean '%s'?)"):format(beside)
  end
  require "sluice.report".say(("cannot read the script %s: %s%s"):format(path, why, hint), "red")
end

--- Reads a script. nil when that is not possible; the reason has been printed, exit with EXIT.start.
---@param path string "-" is stdin
---@return sluice.Script?
function script.read(path)
  local name = path == "-" and "stdin" or displayed(path)
  local file, why = io.stdin, nil
  if path ~= "-" then file, why = io.open(path, "rb") end
  local text
  if file then text, why = file:read "a" end
  if file and path ~= "-" then file:close() end
  if not text then return cannot_open(path, why or "unknown error") end
  return { name = name, chunkname = (path == "-" and "=" or "@") .. name, text = without_head(text),
    path = path ~= "-" and name or nil }
end

--- The script of -e.
---@param code string[]
---@return sluice.Script
function script.from_code(code)
  return { name = "(command line)", chunkname = "=(command line)", text = table.concat(code, "\n") }
end

--- Compiles. nil when that is not possible; the reason has been printed, exit with EXIT.raised.
---@param source sluice.Script
---@return function?
function script.compile(source)
  local chunk, message = load(source.text, source.chunkname, "t")
  if chunk then return chunk end
  local report = require "sluice.report"
  if source.text:sub(1, 4) == "\27Lua" then
    report.say(source.name .. ": this is compiled Lua; sluice runs source text only", "red")
    return nil
  end
  report.say(require "sluice.term".safe(message), "red")
  local excerpt = report.excerpt(source.text, message, source.chunkname)
  if excerpt then io.stderr:write(excerpt, "\n") end
  return nil
end

--- Makes `require` look beside the script before anywhere else, except under --lib: the library comes
--- first there, as it does without --lib.
---@param source sluice.Script
---@param lib? string the folder of --lib
function script.search_beside(source, lib)
  if not source.path then return end -- "./?.lua" is in Lua's own path
  local dir = source.path:match "^(.*/)[^/]*$" or "./"
  local beside = ("%s?.lua;%s?/init.lua;"):format(dir, dir)
  local first = lib and ("%s/?.lua;%s/?/init.lua;"):format(lib, lib) or ""
  local path = package.path
  if path:sub(1, #first) == first then path = path:sub(#first + 1) else first = "" end
  package.path = first .. beside .. path
end

--- Sets the global `arg` as Lua's own interpreter does.
---@param name string arg[0]
---@param words string[]
function script.set_arg(name, words)
  local arg = table.move(words, 1, #words, 1, { [0] = name })
  rawset(_G, "arg", arg)
end

-- Running -----------------------------------------------------------------------------------------

local function is_kind(err, kind)
  return type(err) == "table" and rawget(err, "kind") == kind
end

-- Tasks of the script's own group are what a dropped generator left behind. When one of them fails,
-- the script is cancelled, or ends without having noticed: then the task's error is the one to tell.
local function with_errors(outcome, errors)
  if not outcome[1] and not is_kind(outcome[2], "cancelled") then
    outcome.also = errors
    return outcome
  end
  local first = table.remove(errors, 1)
  return { false, first, traceback = task.traceback_of(first), also = errors }
end

-- Runs f in a group of its own: what it opened is closed and what it started has ended when this
-- returns { ok, values… } or { false, err, traceback = …, also = … }.
local function run_group(f, words)
  local group = task.scope { group = true }
  local outcome = table.pack(group:run(f, table.unpack(words)))
  -- Now: what unwinds below may raise errors of its own.
  if not outcome[1] then outcome.traceback = task.traceback_of(outcome[2]) end
  group:cancel(outcome[1] and "its group is done" or "its group failed")
  group:wait()
  local errors = group:errors()
  group:finish()
  return errors[1] ~= nil and with_errors(outcome, errors) or outcome
end

-- f, which keeps in `seen` where its error was raised, a deadline's too: the runtime takes no traceback
-- of a cancellation, because one may reach thousands of tasks.
local function watched(f, seen)
  local function handler(err)
    if not seen.traceback or not rawequal(err, seen.err) then
      seen.err, seen.traceback = err, task.traceback_of(err) or debug.traceback("", 2)
    end
    return err
  end
  local function deliver(ok, ...)
    if not ok then error((...), 0) end
    return ...
  end
  return function(...) return deliver(xpcall(f, handler, ...)) end
end

local function run_limited(f, words, timeout)
  local limit, seen = task.scope { deadline = timeout }, {}
  local ok, outcome = limit:run(run_group, timeout and watched(f, seen) or f, words)
  if not ok then outcome = { false, outcome, traceback = task.traceback_of(outcome) } end -- no memory
  outcome.expired = limit:expired()
  if seen.traceback and rawequal(outcome[2], seen.err) then outcome.traceback = seen.traceback end
  limit:finish()
  return outcome
end

-- What the script returned, as an exit code; or nil and the words for it.
local function code_of(outcome)
  local value, why = outcome[2], outcome[3]
  if value == nil or value == false then
    if why ~= nil then return nil, why end -- Lua's own way to say that it failed
    return value == nil and EXIT.ok or EXIT.raised
  end
  if value == true then return EXIT.ok end
  local number = type(value) == "number"
  local code = number and math.tointeger(value)
  if code and code >= 0 and code <= 255 then return code end
  return nil, ("the script returned %s; it may return nothing, true, false or an exit code from 0 to 255")
    :format(number and tostring(value) or "a " .. type(value))
end

-- A signal that found the script computing: it was raised where the script was, and nothing else has
-- been cancelled.
local function interrupted_computing(err)
  return is_kind(err, "cancelled") and tostring(rawget(err, "message")):find "^interrupted" ~= nil
end

local function failed(source, outcome, opts, report)
  local err = outcome[2]
  local about = { traceback = outcome.traceback, verbose = opts.verbose, also = outcome.also }
  -- Without --max-burst, `cpu` is what the timeout does to a task that never waits.
  local timed_out = outcome.expired and (is_kind(err, "cancelled") or is_kind(err, "timeout"))
    or is_kind(err, "cpu") and opts.timeout and burst_limit(opts) ~= opts.max_burst
  if timed_out then
    report.say(("%s: not done after %.14g s (--timeout)"):format(source.name, opts.timeout), "red")
    report.where(about)
    return EXIT.timeout
  end
  report.failure(err, about)
  return EXIT.raised
end

-- After a rehearsal: who was asked, when, what came, and why a fallback moved on.
local function show_timeline()
  local loaded = package.loaded["sluice.timeline"]
  local recorded = loaded and loaded.stop()
  if not recorded or #recorded.events == 0 then return end
  require "sluice.report".say(recorded:title())
  local safe = require "sluice.term".safe
  for _, line in ipairs(recorded:lines(TIMELINE_MAX)) do io.stderr:write(safe(line), "\n") end
end

local function execute(source, chunk, words, opts)
  local outcome = run_limited(chunk, words, opts.timeout)
  -- The ceilings were the script's: what is left to do must not meet them.
  sys.guard {}
  if task.is_cancelled() or interrupted_computing(outcome[2]) then
    local report = require "sluice.report"
    report.signal()
    if interrupted_computing(outcome[2]) then report.where { traceback = outcome.traceback, verbose = opts.verbose } end
    -- main.c knows which signal it was, and what the exit code then is.
    if outcome[1] or is_kind(outcome[2], "cancelled") then return EXIT.raised end
  end
  if not outcome[1] then return failed(source, outcome, opts, require "sluice.report") end
  local code, why = code_of(outcome)
  if code then return code end
  require "sluice.report".failure(why, { verbose = opts.verbose, before = source.name .. ": " })
  return EXIT.raised
end

--- What is due when a run has ended, however it did: to be written, closed, told.
---@param opts table
---@param code? integer  the exit code
function script.conclude(opts, code)
  local shared = package.loaded["sluice.token.cache"]
  if shared then shared.finish() end
  local observing = package.loaded["sluice.command.observing"]
  if observing then observing.finish(code) end
  if opts.trace then require "sluice.trace".stop() end
  show_timeline()
  local log = package.loaded["sluice.log"]
  if log then log.finish() end
end

--- Runs a compiled script to its end and says on stderr how it failed, if it did.
---@param source sluice.Script
---@param chunk function
---@param words string[] its arguments
---@param opts table
---@return integer code
function script.execute(source, chunk, words, opts)
  local code = execute(source, chunk, words, opts)
  script.conclude(opts, code)
  return code
end

return script
