--- sluice run: a script, from a file, stdin or the command line.

local script = require "sluice.command.script"

local EXIT = script.EXIT

local options = {
  { "-e", arg = "CODE", type = "string", repeated = true, empty = true,
    help = "run CODE instead of a file; may be given more than once" },
}
table.move(script.options, 1, #script.options, #options + 1, options)

local run = {
  name = "run",
  summary = "run a script (also: sluice SCRIPT …)",
  usage = { "sluice run [options] SCRIPT [ARG…]", "sluice run [options] -e CODE [ARG…]" },
  description = "Runs SCRIPT, a Lua file; \"-\" is stdin. The script finds its arguments in `arg` and in `...`, "
    .. "modules beside it with `require`, and sluice with `require \"sluice\"`. Options after SCRIPT are its own.\n\n"
    .. "What it returns is the exit code: nothing or true is 0, false is 1, an integer from 0 to 255 is itself.\n\n"
    .. "On Ctrl-C, SIGTERM or a timeout every task is cancelled and unwinds; a second Ctrl-C does not wait. "
    .. "SIGUSR1 prints what each task is waiting for.",
  options = options,
  first_word_ends = true,
  examples = {
    { "sluice run summary.lua report.txt", "run a script with an argument" },
    { "sluice run --mock summary.lua report.txt", "the same without a key: the embedded provider answers" },
    { "sluice run --mock=outage.lua --seed 7 chat.lua", "the same, misbehaving as outage.lua says" },
    { "sluice run --timeout 30 -v nightly.lua", "give up after 30 s, show whole tracebacks" },
    { "echo 'print(#arg)' | sluice run - a b", "a script from stdin" },
    { "sluice run -e 'print(_VERSION)'", "a script from the command line" },
  },
  exit_codes = {
    { 0, "ok" },
    { 1, "the script raised an error, does not compile, or returned false" },
    { 2, "the command line is wrong" },
    { 4, "could not start: no such script, a port in use, a broken scenario" },
    { 124, "not done within --timeout" },
    { 130, "interrupted (Ctrl-C)" },
    { 143, "terminated (SIGTERM)" },
    { "…", "or what the script returned" },
  },
}

---@param opts table
---@param words string[]
---@return integer? code
---@return string? fault
function run.run(opts, words)
  local source, name
  if opts.e then
    source, name = script.from_code(opts.e), "-e"
  elseif words[1] then
    name = table.remove(words, 1)
    source = script.read(name)
  else
    return nil, "no script given: sluice run [options] SCRIPT [ARG…]"
  end
  if not source then return EXIT.start end
  local chunk = script.compile(source)
  if not chunk then return EXIT.raised end
  script.search_beside(source, opts.lib)
  script.set_arg(name, words)
  source.text = nil
  if not script.prepare(opts) then return EXIT.start end
  return script.execute(source, chunk, words, opts)
end

return run
