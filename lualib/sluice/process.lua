--- Other programs: git, a formatter, Claude Code.
-- Owns: what a command may say, what its end means (a result or an error), lines. Never: starts a shell
-- that was not asked for. Pipes, process groups, limits and reaping are C (sluice.core.process).
--
--   local diff = sluice.process.run { "git", "diff", "--staged" }.stdout
--
--   do
--     local child <close> = sluice.process.stream { "tail", "-F", "app.log" }
--     for line in child:lines() do print(line) end
--   end                                -- leaving the block ends the program and all it has started
--
-- A program belongs to the task group that started it. It is not given the terminal: what asks a person
-- (an editor, a pager) is for os.execute.

local core = require "sluice.core.process"
local secrets = require "sluice.core.secret"
local errors = require "sluice.errors"
local options = require "sluice.options"
local task = require "sluice.task"
local words = require "sluice.process.words"

local find, sub = string.find, string.sub

local OUTPUT_MAX = 16 << 20  -- bytes of stdout, and of stderr, of a run; PROCESS_OUTPUT_MAX in limits.h
local LINE_MAX = 16 << 20    -- bytes of one line of a stream
local STDERR_KEPT = 64 << 10 -- bytes of the end of a stream's stderr

local function common(entries)
  entries.cwd = { type = "string", nonempty = true }
  entries.env = words.ENV
  entries.timeout = { type = "seconds", above = 0 }
  entries.check = { type = "boolean", default = true }
  entries.shell = { type = "boolean", default = false }
  return options.spec(entries)
end

local RUN = common {
  input = words.TEXT,
  output_max = { type = "integer", min = 1, default = OUTPUT_MAX },
  stdout = { type = "string", enum = { "capture", "inherit", "null" }, default = "capture" },
  stderr = { type = "string", enum = { "capture", "inherit", "merge", "null" }, default = "capture" },
}

local STREAM = common {
  input = { check = function(v) return v == true or words.is_text(v) end,
    expected = "a string, a secret, or true for what write() will bring" },
  line_max = { type = "integer", min = 1, default = LINE_MAX },
  stderr = { type = "string", enum = { "capture", "inherit", "merge", "null", "stream" }, default = "capture" },
}

local STDIO = { capture = "pipe", stream = "pipe", inherit = "inherit", merge = "stdout", null = "null" }

local process = {}

-- The command -------------------------------------------------------------------------------------

local function in_shell(where, argv)
  if argv[2] then
    options.raise(("%s: with shell = true there is one string, the shell's; got %d words"):format(where, #argv))
  end
  return { "/bin/sh", "-c", argv[1] }
end

local FAILED_START = { missing = "no_program", program = "no_program", folder = "no_folder", pipe = "no_pipe" }

local function hint(what, program)
  if what ~= "missing" or program:find "/" then return nil end
  local here = io.open(program, "rb")
  if here then
    here:close()
    return ("a file of this name is here: write './%s'"):format(program)
  end
  return "install it, or give its whole path; PATH is " .. (os.getenv "PATH" or "not set")
end

local function spawn(where, argv, o, more)
  more.argv, more.env, more.folder, more.timeout = argv, words.current_env(where, o.env), o.cwd, o.timeout
  more.stdout, more.stderr = STDIO[o.stdout or "capture"], STDIO[o.stderr]
  if o.input == true then more.stdin = "pipe" else more.input = words.current(o.input) end
  local handle, why, what = core.spawn(more)
  if handle then return handle end
  errors.raise { kind = what == "pipe" and "memory" or "invalid", code = FAILED_START[what], message = why,
    hint = hint(what, argv[1]) }
end

-- What a command may say, beside its words: [1], [2] …

---@class sluice.process.Command
---@field [integer] string|integer  the program, looked for in PATH when it has no slash, and its arguments
---@field cwd? string               where it starts
---@field env? table<string, string|sluice.Secret|false>  changes to the environment; false removes
---@field timeout? number           seconds; then its process group gets SIGTERM, and SIGKILL a second later
---@field check? boolean            true: an exit code but 0, or a signal, raises
---@field shell? boolean            false; true: one string, for /bin/sh

---@class sluice.process.RunCommand : sluice.process.Command
---@field input? string|sluice.Secret  all of its stdin; nothing unless given
---@field output_max? integer       bytes of stdout, and of stderr; default 16 MiB
---@field stdout? "capture"|"inherit"|"null"          default "capture"
---@field stderr? "capture"|"inherit"|"merge"|"null"  default "capture"

---@class sluice.process.StreamCommand : sluice.process.Command
---@field input? string|sluice.Secret|true  true: what write() will bring
---@field line_max? integer         bytes of one line; default 16 MiB
---@field stderr? "capture"|"stream"|"inherit"|"merge"|"null"  default "capture": the last 64 KiB

-- Results -----------------------------------------------------------------------------------------

--- What became of a program.
---@class sluice.process.Result
---@field code? integer    its exit code; nil when a signal ended it
---@field signal? integer  the signal that did
---@field stdout string    "" of a stream, whose lines have been handed out
---@field stderr string    of a stream the last 64 KiB; "" unless captured
---@field elapsed number   seconds
local Result = { __name = "sluice.process.result" }
Result.__index = Result

--- Its stdout without the line ends at the end, as `$(…)` of a shell gives it.
---@return string
function Result:text()
  return (self.stdout:gsub("[\r\n]+$", ""))
end

--- A result reads as its text.
function Result:__tostring()
  return self:text()
end

--- The lines of its stdout, without their ends.
---@return fun(): string?
function Result:lines()
  local text, from = self.stdout, 1
  return function()
    if from > #text then return nil end
    local stop = text:find("\n", from, true) or #text + 1
    local line = text:sub(from, stop - 1)
    from = stop + 1
    return line
  end
end

--- Its stdout as JSON. Raises `protocol` with code "bad_json" when it is not.
---@return any
function Result:json()
  local ok, value = pcall(require "sluice.json".decode, self.stdout, { excerpt = false })
  if ok then return value end
  errors.raise { kind = "protocol", code = "bad_json", message = "what the program printed is not JSON: " .. value }
end

--- The error that the end of a program is, or nil.
---@param job { name: string, options: table }
---@param result sluice.process.Result
---@param how "ended"|"timeout"|"overflow"|"stopped"
local function failure(job, result, how)
  local name, o = job.name, job.options
  local fields = { elapsed = result.elapsed, result = result }
  if how == "timeout" then
    fields.kind, fields.phase = "timeout", "process"
    fields.message = ("'%s' did not end within %.14g s%s"):format(name, o.timeout, words.complaint(result.stderr))
  elseif how == "overflow" then
    fields.kind, fields.code = "protocol", "too_large"
    fields.message = ("'%s' printed more than %d bytes (option 'output_max')"):format(name, o.output_max)
  elseif not o.check or how == "stopped" then
    return nil
  elseif result.signal then
    fields.kind, fields.code = "server", "signal"
    fields.message = ("'%s' was ended by signal %d (%s)%s"):format(name, result.signal,
      core.signal_name(result.signal), words.complaint(result.stderr))
  elseif result.code ~= 0 then
    fields.kind, fields.code = "server", "exit"
    fields.message = ("'%s' exited with %d%s"):format(name, result.code, words.complaint(result.stderr))
  else
    return nil
  end
  result.stderr = secrets.scrub(result.stderr) -- an error may be shown whole
  return errors.new(fields)
end

local function name_of(argv, o)
  return o.shell and "sh" or argv[1]
end

--- Runs a program to its end. `{ "program", "argument", …, option = … }`; no shell sees the words.
--- Options: input (a string or secret: its stdin; nothing unless given), cwd, env (a table of changes to
--- the environment: a string or secret sets, false removes), timeout (seconds; then its whole process group
--- gets SIGTERM, and SIGKILL a second later), output_max (bytes of stdout and of stderr, 16 MiB),
--- stdout = "capture"|"inherit"|"null", stderr = "capture"|"inherit"|"merge"|"null", check (true),
--- shell (false; true: one string, for /bin/sh).
---
--- Raises `server` with code "exit" or "signal" when it fails, unless check = false; `timeout` with phase
--- "process"; `protocol` with code "too_large" when it prints too much; `invalid` with code "no_program" or
--- "no_folder" when it cannot be started. All but the last carry the sluice.process.Result as `result`.
---@async
---@param command sluice.process.RunCommand
---@return sluice.process.Result
function process.run(command)
  local where = "sluice.process.run"
  local argv, rest = words.split(where, command)
  options.check(where, rest, RUN)
  local o = options.fill(rest, RUN)
  local name = name_of(argv, o)
  if o.shell then argv = in_shell(where, argv) end
  local started = task.now()
  local handle <close> = spawn(where, argv, o, { out_max = o.output_max, err_max = o.output_max })
  local code, signal, how = handle:wait()
  local stdout, stderr = handle:output()
  local result = setmetatable({ code = code, signal = signal, stdout = stdout, stderr = stderr,
    elapsed = task.now() - started }, Result)
  local err = failure({ name = name, options = o }, result, how)
  if err then error(err, 0) end
  return result
end

-- Streams -----------------------------------------------------------------------------------------

-- One pipe of a program, and what has been read of it and not handed out: kept here, so that a deadline
-- in the middle of a line does not cost its beginning.
local Pipe = {}
Pipe.__index = Pipe

local function new_pipe(which)
  local pipe = { which = which, text = "", from = 1, parts = {}, size = 0, busy = false }
  pipe.guard = setmetatable({}, { __close = function() pipe.busy = false end })
  return setmetatable(pipe, Pipe)
end

function Pipe:read(handle)
  if self.busy then options.raise("child: another task is already reading its std" .. self.which) end
  self.busy = true
  local guard <close> = self.guard -- luacheck: ignore 211
  return handle:read(self.which)
end

--- Everything that has been read and belongs to no line yet.
function Pipe:kept()
  self.parts[#self.parts + 1] = self.text:sub(self.from)
  local text = table.concat(self.parts)
  self.text, self.from, self.parts, self.size = "", 1, {}, 0
  return text
end

--- The next line without its end; what stands behind the last line end is one too. nil at the end;
--- false when a line has more than `max` bytes.
function Pipe:line(handle, max)
  while true do
    local stop = self.text:find("\n", self.from, true)
    local part = self.text:sub(self.from, stop and stop - 1)
    self.size = self.size + #part
    if self.size > max then return false end
    if part ~= "" then self.parts[#self.parts + 1] = part end
    self.text, self.from = stop and self.text or "", stop and stop + 1 or 1
    local piece = not stop and self:read(handle)
    if piece then
      self.text = piece
    elseif stop or self.size > 0 then
      local line = self.parts[2] and table.concat(self.parts) or self.parts[1] or ""
      self.parts, self.size = {}, 0
      return line
    else
      return nil
    end
  end
end

--- A program that is read while it runs.
---@class sluice.process.Child
---@field pid integer
---@field name string
local Child = { __name = "sluice.process.child", __sluice_handle = "handle" }
Child.__index = Child

-- It has printed its last: what became of it.
local function conclude(self)
  if self.result then return self.result end
  local code, signal, how = self.handle:wait()
  local stderr = ""
  if not self.err then stderr = select(2, self.handle:output()) end -- else whoever reads it takes the rest
  self.result = setmetatable({ code = code, signal = signal, stdout = "", stderr = stderr,
    elapsed = task.now() - self.started }, Result)
  self.failed = failure(self, self.result, how)
  return self.result
end

local function check_open(self, method)
  if self.closed and not self.result then
    options.raise(("child:%s: the program '%s' was closed before its end"):format(method, self.name))
  end
end

-- The next line, if it is here whole: nearly always.
local function here(pipe, max)
  local from = pipe.from
  local stop = pipe.size == 0 and find(pipe.text, "\n", from, true)
  if not stop or stop - from > max then return nil end
  pipe.from = stop + 1
  return sub(pipe.text, from, stop - 1)
end

local function next_line(self, pipe)
  local over = self.closed or self.result and pipe == self.out
  if over and pipe.size == 0 and pipe.from > #pipe.text then return nil end
  local line = pipe:line(self.handle, self.options.line_max)
  if line then return line end
  if line == false then
    self:close()
    errors.raise { kind = "protocol", code = "too_large",
      message = ("'%s' printed a line of more than %d bytes (option 'line_max')"):format(self.name,
        self.options.line_max) }
  end
  if pipe ~= self.out then return nil end
  conclude(self)
  if self.failed then error(self.failed, 0) end
  return nil
end

local function pipe_of(self, method, which)
  check_open(self, method)
  if which == nil or which == "stdout" then return self.out end
  if which == "stderr" and self.err then return self.err end
  options.raise(which == "stderr" and ("child:%s: start it with stderr = \"stream\" to read that"):format(method)
    or ("child:%s: 'stdout' or 'stderr' expected, got %s"):format(method, options.got(which)))
end

--- Its lines as they come, without their ends. A program that waits to be read is held up, not buffered.
--- Leaving the loop early closes the program. When it has printed its last line, its end is waited for; a
--- failure is raised then, as by sluice.process.run.
---@async
---@param which? "stdout"|"stderr"  stderr: with stderr = "stream", and in a task of its own
---@return fun(): string?
function Child:lines(which)
  local pipe = pipe_of(self, "lines", which)
  local max = self.options.line_max
  local function next_one() return here(pipe, max) or next_line(self, pipe) end
  return next_one, nil, nil, pipe == self.out and self.leaving or nil
end

--- One line; nil at the end. For a conversation: the program goes on.
---@async
---@param which? "stdout"|"stderr"
---@return string?
function Child:read_line(which)
  local pipe = pipe_of(self, "read_line", which)
  return here(pipe, self.options.line_max) or next_line(self, pipe)
end

--- The next bytes, as many as are there; nil at the end.
---@async
---@param which? "stdout"|"stderr"
---@return string?
function Child:read(which)
  local pipe = pipe_of(self, "read", which)
  local kept = pipe:kept()
  if kept ~= "" then return kept end
  local over = self.closed or self.result and pipe == self.out
  local piece = not over and pipe:read(self.handle) or nil
  if piece or pipe ~= self.out then return piece end
  conclude(self)
  if self.failed then error(self.failed, 0) end
  return nil
end

--- Writes to its stdin (input = true); waits while much of it is still on its way.
---@async
---@param text string|sluice.Secret
---@return boolean taken  false: it reads no more
function Child:write(text)
  check_open(self, "write")
  if not words.is_text(text) then
    options.raise(("child:write: a string or a secret expected, got %s"):format(options.got(text)))
  elseif self.options.input ~= true then
    options.raise "child:write: start it with input = true to write to it"
  elseif self.input_closed then
    options.raise "child:write: its input has been closed"
  end
  if self.result then return false end
  return self.handle:write(words.current(text))
end

--- Nothing more is written: its stdin ends when it has read what was.
function Child:close_input()
  if self.input_closed or self.closed or self.options.input ~= true then return end
  self.input_closed = true
  if not self.result then self.handle:finish() end
end

--- Until it has ended. Its input is closed, what it still prints is dropped. Raises what run raises.
---@async
---@return sluice.process.Result
function Child:wait()
  check_open(self, "wait")
  self:close_input()
  for _, pipe in ipairs { self.out, self.err } do
    while not self.result and not pipe.busy and pipe:read(self.handle) do end
  end
  conclude(self)
  if self.failed then error(self.failed, 0) end
  return self.result
end

--- A signal for it and all it has started.
---@param name "TERM"|"INT"|"HUP"|"KILL"|"USR1"|"USR2"|"STOP"|"CONT"
function Child:signal(name)
  check_open(self, "signal")
  if not self.result then self.handle:signal(name) end
end

--- Ends it and all it has started: SIGTERM, and SIGKILL a second later. wait() tells when that is over, and
--- does not call it a failure.
function Child:stop()
  if not self.closed and not self.result then self.handle:stop() end
end

--- Nobody wants it any more: it is ended if it still runs. Closing twice does nothing.
function Child:close()
  if self.closed then return end
  self.closed = true
  self.handle:close()
end

Child.__close = Child.close

function Child:__tostring()
  local state = self.result and "ended" or self.closed and "closed" or "running"
  return ("sluice.process.child (%s, pid %d, %s)"):format(self.name, self.pid, state)
end

--- Starts a program and returns at once. `{ "program", "argument", …, option = … }`, as sluice.process.run;
--- of its options cwd, env, timeout, check and shell, and: input (true: what write() will bring),
--- stderr = "capture" (the last 64 KiB)|"stream"|"inherit"|"merge"|"null", line_max (bytes of one line,
--- 16 MiB). Raises `invalid` when it cannot be started.
---@async
---@param command sluice.process.StreamCommand
---@return sluice.process.Child
function process.stream(command)
  local where = "sluice.process.stream"
  local argv, rest = words.split(where, command)
  options.check(where, rest, STREAM)
  local o = options.fill(rest, STREAM)
  local child = { name = name_of(argv, o), options = o, out = new_pipe "out", closed = false }
  if o.shell then argv = in_shell(where, argv) end
  if o.stderr == "stream" then child.err = new_pipe "err" end
  child.started = task.now()
  child.handle = spawn(where, argv, o, { streams = true, err_tail = o.stderr == "capture", err_max = STDERR_KEPT })
  child.pid = child.handle:pid()
  -- a loop that ran to its end leaves nothing to end, and somebody may still read the rest of stderr
  child.leaving = setmetatable({}, { __close = function() if not child.result then child:close() end end })
  return setmetatable(child, Child)
end

return process
