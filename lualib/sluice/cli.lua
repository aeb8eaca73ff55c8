--- The command line: which command, with which options, and what the end of it means.
-- Owns: dispatch, usage errors, the end of a command that fails. Never: knows what a command does
-- (sluice.command and its modules), nor loads what this run does not need.
-- main.c calls main(argv) in the root task and exits with what it returns.
-- Reading order: main, choose, call.

local arguments = require "sluice.command.arguments"
local command = require "sluice.command"
local sys = require "sluice.core.sys"
local task = require "sluice.core.task"

local EXIT_OK, EXIT_USAGE, EXIT_START, EXIT_INTERNAL = 0, 2, 4, 70

local cli = {}

local verbose = false -- for SIGUSR1, which comes from outside of everything

-- The library's place -------------------------------------------------------------------------------

-- With --lib this very file came from inside the program. This puts the folder in front and starts over
-- with the library found there. Returns nil when that has been done.
local function move_library(dir, argv)
  local first = ("%s/?.lua;%s/?/init.lua;"):format(dir, dir)
  if package.path:sub(1, #first) == first then return nil end
  package.path = first .. package.path
  -- package.searchers is: preload, inside the program, package.path, …
  package.searchers[2], package.searchers[3] = package.searchers[3], package.searchers[2]
  for name in pairs(package.loaded) do
    if name:find "^sluice%f[%.\0]" and not name:find "^sluice%.core%." then package.loaded[name] = nil end
  end
  return require "sluice.cli".main(argv)
end

-- Errors of the runtime are tables whose text is made in sluice.errors; loaded when the first is shown.
local function prepare_errors()
  local mt = task.error_metatable
  if mt.__tostring then return end
  function mt.__tostring(err)
    require "sluice.errors"
    return mt.__tostring(err)
  end
end

-- Words -------------------------------------------------------------------------------------------

local function usage_error(text, about)
  require "sluice.report".say(("%s; see 'sluice help%s'"):format(text, about and " " .. about or ""), "red")
  return EXIT_USAGE
end

local function readable(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

local function looks_like_file(word)
  return word == "-" or word:find("/", 1, true) or word:find "%.lua$" or readable(word)
end

-- The command's module and the words that are for it; nil and an exit code when there is none.
local function choose(words)
  local word = words[1]
  if word == "--help" or word == "-h" then return command.load "help", table.move(words, 2, #words, 1, {}) end
  if word == "--version" then return command.load "version", table.move(words, 2, #words, 1, {}) end
  if word:sub(1, 1) ~= "-" then
    local found = command.load(word)
    if found then return found, table.move(words, 2, #words, 1, {}) end
    if not looks_like_file(word) then
      local near = command.nearest(word)
      return nil, usage_error(("'%s' is neither a command nor a file%s"):format(word,
        near and (" (did you mean 'sluice %s'?)"):format(near) or ""))
    end
  end
  return command.load "run", words
end

-- `sluice -q mock`: options of a command, written before its name. Returns that command's module and
-- the words in the usual order.
local function command_behind_options(opts, rest, words, first)
  if opts.e or not rest[1] or readable(rest[1]) then return nil end
  local found = command.load(rest[1])
  if not found then return nil end
  local ordered = table.move(words, 1, first - 1, 1, {})
  return found, table.move(rest, 2, #rest, #ordered + 1, ordered)
end

-- Running -----------------------------------------------------------------------------------------

-- What a command raises is not the script's error, which it reports itself: the command could not
-- do its work, or sluice is at fault.
local function command_failed(name, err, opts)
  local traceback = task.traceback_of(err)
  local report = require "sluice.report"
  if task.is_cancelled() then
    report.signal()
    return EXIT_START -- main.c knows the signal, and its exit code
  end
  local internal = type(err) ~= "table" and tostring(err):find "^sluice/" ~= nil
  report.failure(err, { traceback = traceback, verbose = opts.verbose or internal,
    before = name .. ": " .. (internal and "a fault of sluice itself, please report it: " or "") })
  return internal and EXIT_INTERNAL or EXIT_START
end

local function call(found, who, opts, rest)
  local scope = task.scope {}
  local ok, code, fault = scope:run(found.run, opts, rest)
  scope:finish()
  if not ok then return command_failed(found.name, code, opts) end
  if code == nil and fault then return usage_error(who .. fault, found.name) end
  return code or EXIT_OK
end

local function dispatch(found, words, argv, shorthand)
  local opts, rest, first = arguments.parse(found.options or {}, words, found.first_word_ends)
  local who = shorthand and "" or found.name .. ": "
  if not opts then return usage_error(who .. rest, found.name) end
  if shorthand then
    local other, ordered = command_behind_options(opts, rest, words, first)
    if other then return dispatch(other, ordered, argv, false) end
  end
  if opts.help then
    io.stdout:write(require "sluice.command.help".page(found))
    return EXIT_OK
  elseif opts.version then
    print(require "sluice.command.version".line())
    return EXIT_OK
  end
  if opts.lib then
    local _, why = sys.realpath(opts.lib)
    if why then
      require "sluice.report".say(("--lib %s: %s"):format(opts.lib, why), "red")
      return EXIT_START
    end
    local code = move_library(opts.lib, argv)
    if code then return code end
  end
  verbose = opts.verbose == true
  return call(found, who, arguments.fill(found.options or {}, opts), rest)
end

--- Runs the program.
---@param argv string[] argv[0] is the program
---@return integer code the exit code, unless a signal ends the program
function cli.main(argv)
  sys.on_dump(function() require "sluice.report".dump_tasks(verbose) end)
  prepare_errors()
  local words = table.move(argv, 1, #argv, 1, {})
  if not words[1] then
    io.stderr:write(require "sluice.command.help".overview(2))
    return EXIT_USAGE
  end
  local found, rest = choose(words)
  if not found then return rest end
  return dispatch(found, rest, argv, rest == words)
end

return cli
