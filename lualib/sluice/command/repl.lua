--- sluice repl: Lua at a prompt, with sluice in it.

local script = require "sluice.command.script"
local task = require "sluice.core.task"

local PATIENCE_S = 0.3 -- of processor time; who presses Ctrl-C at a prompt waits for it

local options = table.move(script.options, 1, #script.options, 1, {})
for i, entry in ipairs(options) do
  if entry[1] == "--timeout" then
    local own = {}
    for key, value in pairs(entry) do own[key] = value end
    own.help = "end what is typed when it takes longer than S seconds; the session goes on"
    options[i] = own
  end
end

local repl = {
  name = "repl",
  summary = "try things out at a prompt",
  usage = "sluice repl [options] [SCRIPT [ARG…]]",
  description = "Reads Lua, runs it, shows what comes of it. Expressions print their value, streams as they come; "
    .. "input that is not whole goes on on the next line. SCRIPT is run first, and its globals stay.\n\n"
    .. "Tab completes names, fields, methods, modules, providers and models. Ctrl-C ends the call that runs, or drops "
    .. "the line; Ctrl-D leaves. Tasks started with spawn(f) go on while the prompt waits. A local of the outermost "
    .. "level stays for the session. help(x) tells what x does, :help lists the commands (:load, :mock, :save, …).\n\n"
    .. "The history is kept in $XDG_STATE_HOME/sluice/history (~/.local/state/sluice/history), without inputs that "
    .. "begin with a blank, and without what looks like a key.\n\n"
    .. "When stdin is no terminal there is no prompt and no history: values are printed, the first error ends it with "
    .. "exit code 1, and the end of the input waits for the tasks.",
  options = options,
  first_word_ends = true,
  examples = {
    { "sluice repl", "explore; models need their keys, as in a script" },
    { "sluice repl --mock", "without a key: the embedded provider answers" },
    { "sluice repl --mock=outage.lua rules.lua", "with a script's models and rules, and a provider that fails" },
    { "echo 'sluice.model \"mock/m\":ask \"hi\"' | sluice repl --mock -q", "from a pipe" },
  },
  exit_codes = {
    { 0, "left with Ctrl-D or :quit, or the input ended" },
    { 1, "stdin is no terminal, and something in it failed" },
    { 2, "the command line is wrong" },
    { 4, "could not start: no such script, a broken scenario" },
    { 143, "terminated (SIGTERM)" },
  },
}

---@param opts table
---@param words string[]
---@return integer? code
function repl.run(opts, words)
  local name = table.remove(words, 1)
  local source
  if name == "-" then return nil, "SCRIPT cannot be stdin, which is what is typed" end
  if name then
    source = script.read(name)
    if not source then return script.EXIT.start end
  end
  opts.patience = PATIENCE_S
  if not script.prepare(opts) then return script.EXIT.start end
  local scope = task.scope {}
  local ok, code = scope:run(require "sluice.repl.session".run, opts, source, words)
  scope:finish()
  script.conclude(opts, ok and code or nil)
  if not ok then error(code, 0) end
  return code
end

return repl
