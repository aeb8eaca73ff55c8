--- sluice test: policy tests on a virtual clock.

local core = require "sluice.core.task"
local sys = require "sluice.core.sys"
local script = require "sluice.command.script"
local report = require "sluice.report"
local term = require "sluice.term"

local EXIT = script.EXIT
local SEED = 1 -- chance is the same in every run, unless --seed says otherwise

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
    .. "Scripted models (t.model) take the place of providers; everything above the wire is the real thing.",
  options = options,
  examples = {
    { "sluice test fallback_test.lua", "run the tests of a file" },
    { "sluice test -f hedge *_test.lua", "only those about hedging" },
    { "sluice test --tap rules_test.lua", "for a CI that reads TAP" },
  },
  exit_codes = {
    { 0, "every test passed" },
    { 2, "the command line is wrong" },
    { 3, "some tests failed" },
    { 4, "a file could not be read or compiled, or raised outside of its tests" },
  },
}

local function load_file(name, opts)
  local source = script.read(name)
  local chunk = source and script.compile(source)
  if not chunk then return false end
  script.search_beside(source, opts.lib)
  script.set_arg(name, {})
  local scope <close> = core.scope { group = true }
  local ok, err = scope:run(chunk)
  scope:wait()
  if ok then return true end
  report.failure(err, { traceback = core.traceback_of(err), verbose = opts.verbose })
  return false
end

--- "ok", "failed" or "skipped", with the reason.
local function run_one(test, entry)
  local scope <close> = core.scope { group = true }
  local ok, err = scope:run(entry.run, test.context())
  if not ok then scope:cancel "by request" end
  scope:wait()
  local errors = scope:errors()
  if ok and errors[1] ~= nil then ok, err = false, errors[1] end
  if ok then return "ok" end
  local mt = type(err) == "table" and getmetatable(err) or nil
  if mt == test.Skip then return "skipped", err.why end
  if mt == test.Failure then return "failed", err.text end
  return "failed", tostring(err), core.traceback_of(err)
end

local function print_tap(n, entry, outcome, why)
  local name = entry.name:gsub("#", "\\#")
  if outcome == "skipped" then print(("ok %d - %s # SKIP %s"):format(n, name, why))
  else print(("%s %d - %s"):format(outcome == "ok" and "ok" or "not ok", n, name)) end
  if outcome == "failed" then print("# " .. why:gsub("\n", "\n# ")) end
end

local function print_line(paint, entry, outcome, why, elapsed, opts)
  if outcome == "ok" and opts.quiet then return end
  local sign = outcome == "ok" and paint("green", "ok     ") or outcome == "failed" and paint("red", "FAILED ")
    or "skipped"
  print(("%s %s%s"):format(sign, entry.name, outcome == "ok" and ("  (%.3g s of its time)"):format(elapsed) or ""))
  if why then print("        " .. why:gsub("\n", "\n        ")) end
end

---@param opts table
---@param words string[]
---@return integer? code, string? fault
function command.run(opts, words)
  if #words == 0 then return nil, "no file given: sluice test FILE…" end
  sys.virtual_clock(true)
  if opts.log_level or opts.log_format then
    require "sluice.log".configure { level = opts.log_level, format = opts.log_format }
  end
  local test = require "sluice.test"
  test.list = {}
  for _, name in ipairs(words) do
    if not load_file(name, opts) then return EXIT.start end
  end
  local chosen = {}
  for _, entry in ipairs(test.list) do
    if not opts.filter or entry.name:find(opts.filter, 1, true) then chosen[#chosen + 1] = entry end
  end
  local paint = term.painter(1)
  local counts = { ok = 0, failed = 0, skipped = 0 }
  if opts.tap then print(("TAP version 13\n1..%d"):format(#chosen)) end
  for n, entry in ipairs(chosen) do
    sys.seed(opts.seed or SEED)
    math.randomseed(opts.seed or SEED)
    local started = core.now()
    local outcome, why, traceback = run_one(test, entry)
    counts[outcome] = counts[outcome] + 1
    if traceback and opts.verbose then why = why .. "\n" .. traceback end
    if opts.tap then print_tap(n, entry, outcome, why)
    else print_line(paint, entry, outcome, why, core.now() - started, opts) end
  end
  if not opts.tap then
    print(("%d passed, %d failed, %d skipped"):format(counts.ok, counts.failed, counts.skipped))
  end
  if #chosen == 0 then return nil, "no test was found in the files given" end
  return counts.failed > 0 and EXIT.some_failed or EXIT.ok
end

return command
