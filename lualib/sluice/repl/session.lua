--- A session: read what is typed, run it, show what came of it.
-- Owns: the loop, the call that runs and how Ctrl-C ends it, the group that background tasks live in.
-- Never: ends because something typed has failed.
-- Reading order: Session:run, read_input, evaluate.
--
-- What is typed runs in the session's own task, inside a scope that Ctrl-C cancels, but in no group of its
-- own: a stream that one line opens can be read by the next, and is closed when the session ends.

local commands = require "sluice.repl.commands"
local complete = require "sluice.repl.complete"
local core = require "sluice.core.task"
local help = require "sluice.repl.help"
local history = require "sluice.repl.history"
local input = require "sluice.repl.input"
local output = require "sluice.repl.output"
local report = require "sluice.report"
local script = require "sluice.command.script"
local show = require "sluice.repl.show"
local sys = require "sluice.core.sys"
local task = require "sluice.task"
local term = require "sluice.term"
local terminal = require "sluice.core.terminal"

local PROMPT, MORE = "> ", "… "
local CHUNKNAME = "=repl"
local LINES_MIN = 10       -- of a value that are always shown
local LINES_KEPT = 3       -- of the screen that a value leaves to what was there
local LINES_PIPE = 10000
local NAMES_ROWS = 20      -- of completions
local DEFAULT_COLUMNS = 80

---@class sluice.repl.Session
---@field opts table
---@field terminal userdata
---@field output? sluice.repl.Output
---@field interactive boolean
---@field inputs sluice.repl.Done[] what has been run without a failure
---@field loaded? string the file of :load
---@field last any
local Session = {}
Session.__index = Session

-- Printing ------------------------------------------------------------------------------------------

local function scrub(text)
  local secrets = package.loaded["sluice.core.secret"]
  return secrets and secrets.scrub(text) or text
end

--- Prints text and a newline.
---@param text string
function Session:print(text) -- luacheck: ignore 212
  io.stdout:write(scrub(text), "\n")
end

--- The same for words of the session's own, beside what was asked for.
---@param text string
function Session:say(text) self:print(self.paint("dim", text)) end

local function columns_shown()
  local columns = terminal.size()
  return columns > 0 and columns or DEFAULT_COLUMNS
end

--- Prints a text as far as the screen holds it.
---@param text string
function Session:show_text(text)
  local columns, rows = terminal.size()
  local max = self.interactive and math.max(rows - LINES_KEPT, LINES_MIN) or LINES_PIPE
  local shown, left = show.bounded(text, max, columns > 0 and columns or DEFAULT_COLUMNS)
  self:print(shown)
  if left > 0 then self:say(("… %d line%s more (:all shows all)"):format(left, left == 1 and "" or "s")) end
end

function Session:options() return { width = columns_shown(), paint = self.paint } end

--- Prints the last value without a bound.
function Session:show_all() self:print(show.value(self.last, self:options())) end

-- The frames that say nothing: the typed line itself.
local function without_prompt(traceback)
  if not traceback then return nil end
  traceback = traceback:gsub("in %a+ 'main_chunk'", "in main chunk")
  return (traceback:gsub("\trepl:%d+: in main chunk\n?", ""))
end

function Session:failure(err, traceback, before)
  report.failure(err, { traceback = self.opts.verbose and traceback or without_prompt(traceback),
    verbose = self.opts.verbose, before = before })
end

-- Values --------------------------------------------------------------------------------------------

-- A stream of text that can still be read: a model's, a chain's, a transformed one.
local function is_stream(value)
  if type(value) ~= "table" or not getmetatable(value) then return false end
  local ok, is = pcall(function()
    return type(value.text) == "function" and type(value.reply) == "function" and type(value.close) == "function"
  end)
  return ok and is and not rawget(value, "closed") and not rawget(value, "result")
end

-- Prints a stream as it comes; returns the reply.
function Session:flow(stream)
  local _ <close> = stream
  for text in stream:text() do io.stdout:write(term.safe(text)) end
  if self.output and not self.output.fresh or not self.output then io.stdout:write "\n" end
  local reply = stream:reply()
  self:say(show.about_reply(reply))
  return reply
end

-- Shows what a chunk returned; returns the kind that :save wants to know.
function Session:show_values(state, values)
  if values.n == 0 then return state == "expression" and "silent" or "statement" end
  local kind = "value"
  if is_stream(values[1]) then values.n = 1 end -- a transformed one comes with what a `for` needs
  for i = 1, values.n do
    local value = values[i]
    if is_stream(value) then
      kind = "stream"
      value = self:flow(value)
    else
      self.last = value
      -- io.write returns the file
      if value ~= io.stdout and value ~= io.stderr then self:show_text(show.value(value, self:options())) end
    end
    if i == 1 then values[1] = value end
  end
  self.last = values[1]
  rawset(_G, "_", values[1])
  return state == "expression" and kind or "statement"
end

-- Running -------------------------------------------------------------------------------------------

local function is_cancelled(err) return type(err) == "table" and rawget(err, "kind") == "cancelled" end

-- Ctrl-C may still be on its way to the task that waits for it: let it come now, and mean nothing.
local function swallow_interrupt(self)
  sys.forgive_interrupts()
  self.swallow = true
  core.sleep(0)
  self.swallow = false
  sys.forgive_interrupts()
end

-- Without a --max-burst that is shorter, `cpu` is what --timeout does to a call that never waits.
function Session:computed_too_long(err)
  local opts = self.opts
  return type(err) == "table" and rawget(err, "kind") == "cpu" and opts.timeout
    and opts.timeout < (opts.max_burst or math.huge)
end

function Session:failed(err, traceback, expired)
  local interrupted = is_cancelled(err) and (self.interrupted or tostring(err.message):find "^interrupted" ~= nil)
  if interrupted then
    swallow_interrupt(self)
    if self.edits then io.stdout:write "\n" end -- the terminal has shown "^C"
    report.say("interrupted", "yellow")
  elseif expired and is_cancelled(err) or self:computed_too_long(err) then
    report.say(("not done after %.14g s (--timeout)"):format(self.opts.timeout), "red")
  else
    self:failure(err, traceback)
  end
  if not self.interactive then error({ ended = true }, 0) end
end

--- Runs a compiled piece and shows what it returns. nil when it failed, which has been said.
---@param main_chunk function
---@param state "expression"|"statement"
---@return string? kind for :save
function Session:evaluate(main_chunk, state, ...)
  if self.opts.max_memory then script.set_guards(self.opts) end
  local scope = core.scope { deadline = self.opts.timeout }
  self.scope, self.interrupted = scope, false
  local ok, kind = scope:run(function(...)
    return self:show_values(state, table.pack(main_chunk(...)))
  end, ...)
  local traceback = not ok and core.traceback_of(kind) or nil
  local expired = scope:expired()
  self.scope = nil
  scope:finish()
  sys.forgive_interrupts()
  core.check() -- the program is to end
  if ok then return kind end
  self:failed(kind, traceback, expired)
  return nil
end

function Session:wrong(source, message)
  report.say(term.safe(message), "red")
  local excerpt = report.excerpt(source, message, CHUNKNAME)
  if excerpt then io.stderr:write(excerpt, "\n") end
  if not self.interactive then error({ ended = true }, 0) end
end

-- `local` has been taken to mean the session; said once.
function Session:explain_locals(names)
  if self.explained or not self.interactive or #names == 0 then return end
  self.explained = true
  self:say(("(%s stays for the session, as a global; a local would end with its line)"):format(names[1]))
end

--- Runs a piece of source. nil when it failed, which has been said.
---@param source string
---@return string? kind
function Session:evaluate_text(source)
  local read = input.read(source, CHUNKNAME)
  if read.state == "empty" then return nil end
  if not read.chunk then
    self:wrong(source, read.message or "repl:1: it is not whole")
    return nil
  end
  local kind = self:evaluate(read.chunk, read.state)
  if kind then
    self.inputs[#self.inputs + 1] = { source = source, kind = kind }
    self:explain_locals(read.promoted or {})
  end
  return kind
end

--- Runs a file; its globals stay.
---@param path string
function Session:load_file(path)
  local source = script.read(path)
  if not source then return end
  self:run_script(source, path == self.loaded and self.words or {})
  self.loaded = path
end

---@param source sluice.Script
---@param words string[]
---@return boolean ok
function Session:run_script(source, words)
  local chunk = script.compile(source)
  if not chunk then
    if not self.interactive then error({ ended = true }, 0) end
    return false
  end
  script.search_beside(source, self.opts.lib)
  script.set_arg(source.name, words)
  self.words = words
  local kind = self:evaluate(function(...)
    local main_chunk = chunk
    main_chunk(...)
  end, "statement", table.unpack(words))
  if kind and source.path then
    self.inputs[#self.inputs + 1] = { source = ("dofile %q"):format(source.path), kind = "statement" }
  end
  return kind ~= nil
end

--- Was the module required from a file of the user's?
---@param name string
---@return boolean
function Session:is_users_module(name)
  return not self.present[name] and not name:find "^sluice%f[%.\0]" and package.searchpath(name, package.path) ~= nil
end

-- Background tasks ----------------------------------------------------------------------------------

local function background(self, place, f, ...)
  local scope, arguments = core.scope {}, table.pack(...)
  -- What it opens is closed when it ends.
  local results = table.pack(scope:run(task.group, function() return f(table.unpack(arguments, 1, arguments.n)) end))
  local err = results[2]
  local traceback = not results[1] and core.traceback_of(err) or nil
  scope:finish()
  self.running[place] = nil
  if results[1] then return table.unpack(results, 2, results.n) end
  if is_cancelled(err) then error(err, 0) end
  self:failure(err, traceback, tostring(place.handle):match "^task %d+" .. ": ")
  return nil, err
end

-- The global `spawn`. A task that fails says so and ends alone.
function Session:spawn(f, ...)
  if type(f) ~= "function" then error("spawn: argument 1 must be a function, got " .. type(f), 3) end
  local place = {}
  place.handle = self.group:spawn(background, self, place, f, ...)
  self.running[place] = true
  return place.handle
end

function Session:running_count()
  local n = 0
  for place in pairs(self.running) do
    if not place.handle:done() then n = n + 1 end
  end
  return n
end

function Session:wait_for_tasks()
  for place in pairs(self.running) do
    if not place.handle:done() then place.handle:join() end
  end
end

-- Reading -------------------------------------------------------------------------------------------

-- Model names that have been asked before, here or in an earlier session.
function Session:known_models(provider)
  local names, found = {}, {}
  local pattern = "[\"']" .. provider:gsub("%p", "%%%0") .. "/([^\"'%s]+)[\"']"
  for _, entry in ipairs(self.history.entries) do
    for name in entry:gmatch(pattern) do found[name] = true end
    for of, name in entry:gmatch "provider%s*=%s*[\"']([^\"']+)[\"']%s*,%s*model%s*=%s*[\"']([^\"']+)[\"']" do
      if of == provider then found[name] = true end
    end
  end
  if provider == "mock" then
    for name in pairs(require "sluice.mock.scenario".MODELS) do found[name] = true end
  end
  for name in pairs(found) do names[#names + 1] = name end
  return names
end

-- Modules in files: those that `require` would find in folders named by a relative path, or beside a script.
local function modules_beside()
  local names = {}
  for template in package.path:gmatch "[^;]+" do
    local folder, tail = template:match "^(.*)%?(.*)$"
    if folder and not folder:find "^/usr/" then
      local ok, paths = pcall(require "sluice.files".glob, folder .. "*" .. tail, { max = 1000 })
      for _, path in ipairs(ok and paths or {}) do
        names[#names + 1] = path:sub(#folder + 1, -#tail - 1)
      end
    end
  end
  return names
end

function Session:complete(lines, text, cursor)
  local before = table.concat(lines, "\n") .. (#lines > 0 and "\n" or "") .. text:sub(1, cursor)
  local found = complete.at(before, {
    globals = _G, commands = commands.names(), modules = modules_beside,
    providers = function() return require "sluice.provider".names() end,
    models = function(provider) return self:known_models(provider) end,
  })
  if #found.list == 0 then return self.terminal:beep() end
  local common = complete.common(found.list)
  if #found.list == 1 then
    self.terminal:insert(common:sub(#found.prefix + 1) .. found.close)
  elseif #common > #found.prefix then
    self.terminal:insert(common:sub(#found.prefix + 1))
  else
    self.terminal:above(complete.columns(found.list, columns_shown(), NAMES_ROWS))
  end
end

-- One line: the event that ended it, and its text.
function Session:read_line(lines)
  if self.output then self.output:finish_line() end
  self.terminal:begin(not self.prompts and "" or #lines == 0 and PROMPT or MORE)
  while true do
    local event, text, cursor = self.terminal:take()
    if event ~= "complete" then
      if self.output then self.output:flush() end
      return event, text
    end
    self:complete(lines, text, cursor)
  end
end

-- "end", "interrupt", "command" or the state of an input; its text.
function Session:read_input()
  local lines = {}
  while true do
    local event, text = self:read_line(lines)
    if event == "interrupt" then
      sys.forgive_interrupts()
      if #lines == 0 and not text:find "%S" then self:say "Ctrl-D or :quit leaves" end
      return "interrupt"
    elseif event == "too long" then
      report.say("a line of the input is longer than 4 MiB", "red")
      error({ ended = true }, 0)
    elseif event == "end" then
      if #lines == 0 then return "end" end
      if self.interactive then return "interrupt" end
      self:wrong(table.concat(lines, "\n"), "repl: the input ends in the middle of a statement")
    elseif #lines == 0 and text:find "^%s*:%s*%a" then
      return "command", text
    else
      lines[#lines + 1] = text
      local source = table.concat(lines, "\n")
      local state = input.read(source, CHUNKNAME).state
      if state ~= "incomplete" then return state, source end
    end
  end
end

function Session:run_command(line)
  local scope = core.scope {}
  self.scope, self.interrupted = scope, false
  local ok, result = scope:run(commands.run, self, line)
  local traceback = not ok and core.traceback_of(result) or nil
  self.scope = nil
  scope:finish()
  sys.forgive_interrupts()
  core.check()
  if ok then return result end
  if type(result) == "table" and result.ended then error(result, 0) end
  if type(result) == "table" and result.usage then
    report.say(result.usage, "red")
    if not self.interactive then error({ ended = true }, 0) end
    return nil
  end
  self:failed(result, traceback, false)
  return nil
end

local LEAVES = { exit = true, quit = true, ["exit()"] = true, ["quit()"] = true }

-- "quit" ends the session.
function Session:take(state, text)
  if state == "empty" or state == "interrupt" then return nil end
  if self.interactive then
    if not text:find "^%s" then self.terminal:remember(text) end
    self.history:add(text)
  end
  if state == "command" then return self:run_command(text) end
  if LEAVES[text] and rawget(_G, text:match "^%a+") == nil then
    self:say "Ctrl-D or :quit leaves"
    return nil
  end
  self:evaluate_text(text)
  return nil
end

-- Ctrl-D: is that the end?
function Session:may_end()
  local running = self.interactive and self:running_count() or 0
  if running == 0 or self.warned then return true end
  self.warned = true
  self:say(("%d task%s in the background; Ctrl-D again ends %s"):format(running, running == 1 and "" or "s",
    running == 1 and "it" or "them"))
  return false
end

-- One input from the prompt to its result; true when it was the last.
function Session:step()
  local state, text = self:read_input()
  if state == "end" then return self:may_end() end
  self.warned = false
  return self:take(state, text) == "quit"
end

-- A second Ctrl-C in a row may still be raised when the call it was for has ended: here it ends nothing.
function Session:loop()
  local ended = false
  while not ended do
    local scope = core.scope {}
    local ok, result = scope:run(self.step, self)
    local traceback = not ok and core.traceback_of(result) or nil
    scope:finish()
    core.check()
    if ok then
      ended = result
    elseif is_cancelled(result) and self.interactive then
      swallow_interrupt(self)
    elseif type(result) == "table" and result.ended then
      error(result, 0)
    else
      self:failure(result, traceback)
      if not self.interactive then error({ ended = true }, 0) end
    end
  end
end

-- Life ----------------------------------------------------------------------------------------------

-- Ctrl-C, wherever the session is. A task of the runtime's own, so that its waiting keeps no deadlock
-- from being found.
local function watch_interrupts(self)
  return core.service(function()
    while true do
      sys.wait_interrupt()
      if self.terminal:editing() then
        self.terminal:interrupt()
      elseif self.scope and not self.swallow then
        self.interrupted = true
        self.scope:cancel "interrupted (Ctrl-C)"
      end
    end
  end)
end

-- The group that background tasks and streams belong to. It ends with the session, or when a task that a
-- dropped generator left in it fails; then there is a new one.
local function run_group(self, body)
  local group = core.scope { group = true }
  self.group = group
  local ok, result = group:run(body)
  local traceback = not ok and core.traceback_of(result) or nil
  group:cancel "its group is done"
  group:wait()
  local errors = group:errors()
  group:finish()
  core.check()
  if errors[1] and (ok or is_cancelled(result)) then
    self:failure(errors[1], core.traceback_of(errors[1]))
    if not ok then return false end
  elseif not ok then
    if type(result) == "table" and result.ended then return true, 1 end
    self:failure(result, traceback) -- the session itself is at fault; what was typed is not lost
    return not self.interactive, 1
  end
  return true, result
end

local function greet(self)
  if not self.interactive or self.opts.quiet then return end
  self:say(("sluice %s; :help tells what there is, Ctrl-D leaves"):format(sys.version))
end

local function install_globals(self)
  local function spawn(...) return self:spawn(...) end
  local function show_help(...)
    if select("#", ...) == 0 then return commands.run(self, ":help") end
    self:show_text((help.of((...)):gsub("\n$", "")))
  end
  help.describe(spawn, [[
spawn(f, …)

Runs f(…) beside the prompt and returns its task: h:join() waits and gives what f returned, h:cancel() ends
it. A task that fails says so and ends alone; all end with the session.]])
  help.describe(show_help, [[
help(x)

Prints what is written about x: a function, a module, an object, or a name such as "task.map". help() tells
about the prompt.]])
  rawset(_G, "sluice", require "sluice")
  rawset(_G, "spawn", spawn)
  rawset(_G, "help", show_help)
end

local function set_history(self)
  local why
  self.history, why = history.open(self.edits and history.path() or nil)
  if why and not self.opts.quiet then report.say(("the history is not kept: %s: %s"):format(history.path(), why)) end
  for _, entry in ipairs(self.edits and self.history.entries or {}) do self.terminal:remember(entry) end
end

--- Runs a session to its end. Returns the exit code.
---@param opts table
---@param source? sluice.Script to run first
---@param words string[] its arguments
---@return integer
function Session.run(opts, source, words)
  local typed = sys.isatty(0)
  local self = setmetatable({ opts = opts, inputs = {}, running = {}, present = {}, prompts = typed,
    interactive = typed, mock_on = opts.mock ~= nil }, Session)
  self.edits = typed and sys.isatty(1) and (sys.env "TERM" or "dumb") ~= "dumb"
  self.paint = term.painter(1)
  for name in pairs(package.loaded) do self.present[name] = true end
  local opened, why = terminal.open(self.edits)
  if not opened then
    report.say("cannot read from the terminal: " .. why, "red")
    return script.EXIT.start
  end
  local _ <close> = opened
  self.terminal = opened
  self.output = self.edits and output.new(opened, sys.isatty(2)) or nil
  local _ <close> = setmetatable({}, { __close = function()
    if self.output then self.output:close() end
  end })
  set_history(self)
  install_globals(self)
  local watcher = self.interactive and watch_interrupts(self) or nil
  require "sluice.metrics".enable() -- for :metrics
  greet(self)
  local code, done = nil, false
  while not done do
    done, code = run_group(self, function()
      if source then
        local first = source
        source = nil
        if first.path then self.loaded = first.path end
        self:run_script(first, words)
      end
      self:loop()
      if not self.interactive then self:wait_for_tasks() end
    end)
  end
  if watcher then watcher:cancel() end
  return code or script.EXIT.ok
end

return Session
