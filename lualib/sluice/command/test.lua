--- sluice test: policy tests on a virtual clock.
-- Owns: loading files, running each test by itself, what is printed, the exit code. What a test may
-- say: sluice/test.lua.
-- Reading order: command.run, load_file, run_one, then how results are shown.

local core = require "sluice.core.task"
local sync = require "sluice.core.sync"
local sys = require "sluice.core.sys"
local script = require "sluice.command.script"
local report = require "sluice.report"
local term = require "sluice.term"
local timeline = require "sluice.timeline"

local EXIT = script.EXIT
local SEED = 1                -- chance is the same in every run, unless --seed says otherwise
local CLOCK_MAX = 7 * 86400   -- seconds on its clock after which a test counts as endless
local BURST_MAX = 5           -- seconds, real ones, that a test may compute without waiting
local STILL_MAX = 5           -- … of computing and waiting while no time passes
local SHOWN_MAX = 40          -- lines of a failed test's timeline

local OWN = {
  { "--filter", "-f", arg = "TEXT", type = "string", help = "run only the tests whose names hold TEXT" },
  { "--tap", type = "flag", help = "write the Test Anything Protocol" },
}
local SHARED = { ["--seed"] = true, ["--quiet"] = true, ["--verbose"] = true, ["--lib"] = true, ["--log-level"] = true,
  ["--log-format"] = true }

local options = {}
for _, entry in ipairs(OWN) do options[#options + 1] = entry end
for _, entry in ipairs(script.options) do
  if SHARED[entry[1]] then options[#options + 1] = entry end
end

local command = {
  name = "test",
  summary = "run policy tests on a virtual clock",
  usage = "sluice test [options] FILE…",
  description = "Runs files of sluice.test(name, function(t) … end). Time stands still while a test computes and "
    .. "jumps to the next timer when every task waits: rules about minutes are tested in milliseconds. "
    .. "Scripted models take the place of providers, everything above the wire is the real thing, and no request "
    .. "leaves the machine: t.model { { wait = 9, text = \"late\" } } makes one, t.script(\"provider/model\", { … }) "
    .. "says what a model of the script under test answers.\n\n"
    .. "Answers have wait, delay, text, thinking, gap, status, retry_after, err, cut, stall, broken, tool, usage. "
    .. "Checks: t.eq, t.ne, t.ok, t.near, t.match, t.raises, t.skip; t.clock() is the time since the test began. "
    .. "A test that fails shows what each request met. There is no --metrics, --trace or --report here: on a virtual "
    .. "clock their times would mean nothing, and a test sees more itself, in t.clock() and the records of its models.",
  options = options,
  examples = {
    { "sluice test fallback_test.lua", "run the tests of a file" },
    { "sluice test -f hedge *_test.lua", "only those about hedging" },
    { "sluice test --tap rules_test.lua", "for a CI that reads TAP" },
  },
  exit_codes = {
    { 0, "every test passed" },
    { 2, "the command line is wrong, or no test fits it" },
    { 3, "some tests failed" },
    { 4, "a file could not be read or compiled, or raised outside of its tests; the other files were run" },
  },
}

-- Loading -----------------------------------------------------------------------------------------------

--- Adds a file's tests to the list; false, when it is broken, and then it has been said why.
local function load_file(test, name, opts)
  local source = script.read(name)
  local chunk = source and script.compile(source)
  if not chunk then return false end
  script.search_beside(source, opts.lib)
  script.set_arg(name, {})
  test.file = name
  local before = #test.list
  local scope <close> = core.scope { group = true }
  local ok, err = scope:run(chunk)
  local traceback = not ok and core.traceback_of(err) or nil
  if not ok then scope:cancel "its group failed" end
  scope:wait()
  if ok then return true end
  report.failure(err, { traceback = traceback, verbose = opts.verbose, before = "outside of any test: " })
  for i = #test.list, before + 1, -1 do test.list[i] = nil end
  return false
end

-- Running -----------------------------------------------------------------------------------------------

---@class sluice.TestResult
---@field outcome "ok"|"failed"|"skipped"
---@field failures { text: string, file?: string, line?: integer }[]
---@field why? string        of a skip
---@field elapsed number     on its clock
---@field frames? string[]
---@field timeline sluice.Timeline
---@field checks integer

--- The code under test waits: does time still pass, and not for ever? What has been said once is said
--- again at every wait, whoever keeps errors for himself.
local function look_at_clock(t)
  local now = core.now()
  if now - t.started > CLOCK_MAX then
    error(("the test's clock has passed %d days: does it wait in a loop that never ends?")
      :format(CLOCK_MAX // 86400), 3)
  end
  if now ~= t.moved_at then
    t.moved_at, t.still_since = now, os.clock()
  elseif t.stuck or os.clock() - t.still_since > STILL_MAX then
    t.stuck = true
    error(("waits again and again for %d s of real time, and no time passes on its clock: does a loop never end?")
      :format(STILL_MAX), 3)
  end
end

--- On this clock a loop that waits for ever takes no time at all, and never ends. Not a deadline: that
--- would be seen by the code under test, and hide a deadlock.
local function watch_clock(test)
  local function watched(wait)
    return function(...)
      if test.current then look_at_clock(test.current) end
      return wait(...)
    end
  end
  local task, channel = require "sluice.task", getmetatable(sync.channel(1)).__index
  core.sleep = watched(core.sleep)
  task.sleep, task.yield = core.sleep, watched(task.yield)
  channel.receive = watched(channel.receive)
end

--- What an error that left the test says, and where.
local function failure_of(err)
  if type(err) == "table" and rawget(err, "kind") == "cpu" then
    return { text = ("raised: cpu: computed for %d s without waiting: does a loop never end?"):format(BURST_MAX) }
  end
  local text = report.text(err)
  local file, line = text:match "^([^:\n]+):(%d+): "
  return { text = "raised: " .. text, file = file, line = math.tointeger(tonumber(line)) }
end

---@return sluice.TestResult
local function run_one(test, entry, seed)
  sys.seed(seed)
  math.randomseed(seed)
  script.set_arg(entry.file, {}) -- sluice.rules and others look beside the test's own file
  local t = test.begin()
  timeline.start()
  local result = { outcome = "ok", failures = t.failures }
  local scope <close> = core.scope { group = true }
  local ok, err = scope:run(entry.run, t)
  local traceback = not ok and core.traceback_of(err) or nil
  if not ok then scope:cancel "its group failed" end
  scope:wait()
  local left = scope:errors()[1]
  if ok and left ~= nil then ok, err, traceback = false, left, core.traceback_of(left) end
  result.elapsed, result.checks, result.timeline = t.clock(), t.checks, timeline.stop()
  test.finish()
  local mt = not ok and type(err) == "table" and getmetatable(err)
  if not ok and mt ~= test.Failure and mt ~= test.Skip then
    result.failures[#result.failures + 1] = failure_of(err)
    result.frames = report.frames(traceback)
    result.whole = report.frames(traceback, true)
  end
  if #result.failures > 0 then result.outcome = "failed"
  elseif mt == test.Skip then result.outcome, result.why = "skipped", err.why end
  return result
end

-- Showing -------------------------------------------------------------------------------------------------

local sources = {}

--- A line of a test's source: "  12 | t.eq(t.clock(), 6)".
local function source_line(file, number)
  if not (file and number) then return nil end
  if not sources[file] then
    local lines = {}
    local handle <close> = io.open(file, "rb")
    for text in handle and handle:lines() or function() end do lines[#lines + 1] = text end
    sources[file] = lines
  end
  local text = sources[file][number]
  if not text or not text:find "%S" or #text > 200 then return nil end
  return ("  %d | %s"):format(number, term.safe((text:gsub("^%s+", ""):gsub("%s+$", ""))))
end

--- Everything there is to say about a failure, line by line.
local function explain(result, opts)
  local lines = {}
  local function add(text)
    for line in (text .. "\n"):gmatch "(.-)\r?\n" do lines[#lines + 1] = line end
  end
  for _, failure in ipairs(result.failures) do
    add(term.safe(failure.text))
    local line = source_line(failure.file, failure.line)
    if line then add(line) end
  end
  local frames = opts.verbose and result.whole or result.frames or {}
  for i, frame in ipairs(frames) do
    if i > 5 and not opts.verbose then add "  … (-v shows all)" break end
    add("  " .. frame)
  end
  if #result.timeline.events > 0 then
    add "what happened:"
    for _, line in ipairs(result.timeline:lines(not opts.verbose and SHOWN_MAX or nil)) do add(term.safe(line)) end
  end
  return lines
end

local Tap = {}
Tap.__index = Tap

function Tap.begin(_, n) print(("TAP version 13\n1..%d"):format(n)) end

function Tap:result(entry, result, opts)
  self.n = self.n + 1
  local name = term.safe(entry.name):gsub("[\r\n]", " "):gsub("#", "\\#")
  if result.outcome == "skipped" then
    print(("ok %d - %s # SKIP %s"):format(self.n, name, (term.safe(result.why):gsub("[\r\n]", " "))))
    return
  end
  print(("%s %d - %s"):format(result.outcome == "ok" and "ok" or "not ok", self.n, name))
  if result.outcome == "failed" then
    for _, line in ipairs(explain(result, opts)) do print("# " .. line) end
  end
end

function Tap:broken(file)
  self.n = self.n + 1
  print(("not ok %d - %s could be loaded\n# stderr says why"):format(self.n, file))
end

function Tap.finish() end

local Plain = {}
Plain.__index = Plain

function Plain.begin() end

local function clock_text(seconds)
  if seconds == 0 then return "" end
  return seconds < 100 and ("%.3g s"):format(seconds) or ("%.0f s"):format(seconds)
end

function Plain:result(entry, result, opts)
  if result.outcome == "ok" and opts.quiet then return end
  if self.file ~= entry.file then
    if self.several then print(self.paint("bold", entry.file)) end
    self.file = entry.file
  end
  local name = term.safe(entry.name)
  if result.outcome == "ok" then
    local note = result.checks == 0 and "  (checks nothing)" or ""
    local time = clock_text(result.elapsed)
    local pad = time ~= "" and (" "):rep(math.max(1, 60 - term.width(name))) or ""
    print(("%s %s%s%s"):format(self.paint("green", "ok     "), name, self.paint("dim", pad .. time),
      self.paint("yellow", note)))
  elseif result.outcome == "skipped" then
    print(("skipped %s: %s"):format(name, term.safe(result.why)))
  else
    print(("%s %s"):format(self.paint("red", "FAILED "), name))
    for _, line in ipairs(explain(result, opts)) do print("        " .. line) end
    self.failed[#self.failed + 1] = name
  end
end

function Plain:broken(file) self.failed[#self.failed + 1] = file .. " (could not be loaded)" end

function Plain:finish(counts, elapsed, seed)
  local parts = { ("%d passed"):format(counts.ok) }
  if counts.failed > 0 then parts[#parts + 1] = self.paint("red", ("%d failed"):format(counts.failed)) end
  if counts.skipped > 0 then parts[#parts + 1] = ("%d skipped"):format(counts.skipped) end
  if counts.broken > 0 then
    parts[#parts + 1] = self.paint("red", ("%d file%s could not be loaded"):format(counts.broken,
      counts.broken == 1 and "" or "s"))
  end
  if #self.failed > 1 then
    print "\nfailed:"
    for _, name in ipairs(self.failed) do print("  " .. name) end
  end
  print(("%s; %s on their clock, %.0f ms on yours%s"):format(table.concat(parts, ", "),
    elapsed == 0 and "0 s" or clock_text(elapsed), 1000 * (os.clock() - self.began),
    counts.failed > 0 and seed ~= SEED and (" (--seed %d repeats it)"):format(seed) or ""))
end

-- The command ---------------------------------------------------------------------------------------------

--- The tests of all files, and the names of files that are broken.
local function load_all(test, words, opts)
  local broken = {}
  for _, name in ipairs(words) do
    if not load_file(test, name, opts) then broken[#broken + 1] = name end
  end
  test.file = nil
  return broken
end

local function choose(list, filter)
  local chosen = {}
  for _, entry in ipairs(list) do
    if not filter or entry.name:find(filter, 1, true) then chosen[#chosen + 1] = entry end
  end
  return chosen
end

local function nothing_to_run(test, opts, words)
  if opts.filter and #test.list > 0 then
    return ("no test's name holds '%s'; there are %d tests, '%s' and others"):format(opts.filter, #test.list,
      test.list[1].name)
  end
  return ("no test in %s: a test is sluice.test(\"name\", function(t) … end)"):format(
    #words == 1 and words[1] or "these files")
end

---@param opts table
---@param words string[]
---@return integer? code, string? fault
function command.run(opts, words)
  if #words == 0 then return nil, "no file given: sluice test FILE…" end
  sys.virtual_clock(true)
  sys.guard { max_burst = BURST_MAX }
  if opts.log_level or opts.log_format or opts.quiet or opts.verbose then
    require "sluice.log".configure { format = opts.log_format,
      level = opts.log_level or opts.verbose and "debug" or opts.quiet and "error" or nil }
  end
  local test = require "sluice.test"
  test.list = {}
  test.replace_models()
  watch_clock(test)
  local show = opts.tap and setmetatable({ n = 0 }, Tap)
    or setmetatable({ paint = term.painter(1), several = #words > 1, failed = {}, began = os.clock() }, Plain)
  local broken = load_all(test, words, opts)
  local chosen, seed = choose(test.list, opts.filter), opts.seed or SEED
  if #chosen == 0 and #broken == 0 then return nil, nothing_to_run(test, opts, words) end
  local counts, elapsed = { ok = 0, failed = 0, skipped = 0, broken = #broken }, 0
  show:begin(#chosen + #broken)
  for _, file in ipairs(broken) do show:broken(file) end
  for _, entry in ipairs(chosen) do
    local result = run_one(test, entry, seed)
    counts[result.outcome], elapsed = counts[result.outcome] + 1, elapsed + result.elapsed
    show:result(entry, result, opts)
  end
  show:finish(counts, elapsed, seed)
  if #broken > 0 then return EXIT.start end
  return counts.failed > 0 and EXIT.some_failed or EXIT.ok
end

return command
