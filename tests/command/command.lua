-- Runs whole commands for the tests of ring 4: argv, stdin, environment in; stdout, stderr, exit
-- code, signal out. Plain Lua on top of the test tool build/tools/exec, which supervises the
-- process (deadline, process group, terminal, what is left behind); see tests/command/exec.c.
--
--   local C = require "command"
--   local r = C.run({ C.sluice, "run", "-e", "print(1)" }, { timeout = 5 })
--   r.code, r.signal, r.timeout, r.stdout, r.stderr, r.orphans, r.wall, r.cpu, r.maxrss_kib
--
--   C.run({ C.sluice, "run", script }, { steps = {       -- in order, each as soon as it can be
--     { expect = "first words" }, { signal = "INT" },    -- Ctrl-C in mid-stream
--     { expect_stderr = "again" }, { signal = "INT" } } })
--   C.run({ C.sluice, "repl" }, { pty = "in,out,err", steps = {
--     { expect = "> " }, { send = "1 + 1\n" }, { expect = "2" }, { eof = true } } })
--
--   local server <close> = C.start { C.sluice, "mock" }  -- runs until closed
--   local port = server:expect "listening on [%d.]+:(%d+)"
--
-- No shell sees an argument: the words go to the tool in a file, NUL-separated.

local T = require "harness"

---@class command
local C = {}

local EXEC = os.getenv "EXEC" or "build/tools/exec"
local TIMEOUT_S = T.slow and 60 or 20 -- of a command that names none

--- The program under test.
C.sluice = os.getenv "SLUICE" or "build/sluice"

---@class command.Options
---@field stdin? string what the command reads; empty unless given
---@field env? table<string, string|false> added to the environment; false removes
---@field clear_env? boolean start from an empty environment
---@field cwd? string
---@field timeout? number seconds, default 20 (60 where T.slow); then it is killed
---@field steps? table[] { expect= | expect_stdout= | expect_stderr= | send= | resize= | signal= | eof=true | close_stdout=true }
---@field pty? string which of in,out,err are a terminal: "in,out,err", "err", …
---@field winsize? string "COLSxROWS"
---@field merge? boolean stderr joins stdout

---@class command.Result
---@field code? integer exit code, when it exited
---@field signal? integer the signal that ended it, when one did
---@field timeout boolean
---@field stdout string
---@field stderr string
---@field orphans integer processes it left running (they were killed)
---@field truncated boolean output beyond 64 MiB was dropped
---@field unmet? string the step that never came to be done
---@field error? string why it could not be run
---@field wall number seconds
---@field cpu number seconds, of the command and what it waited for
---@field maxrss_kib integer

local function quote(word) return "'" .. word:gsub("'", "'\\''") .. "'" end

local STEP_KEYS = {
  expect = "--expect", expect_stdout = "--expect-stdout", expect_stderr = "--expect-stderr",
  send = "--send", resize = "--resize", signal = "--signal", eof = "--eof", close_stdout = "--close-stdout",
}

local function add(words, ...)
  for _, word in ipairs { ... } do
    word = tostring(word)
    assert(not word:find "\0", "a word cannot hold a NUL byte")
    words[#words + 1] = word
  end
end

local function add_steps(words, steps)
  for i, step in ipairs(steps) do
    local key, value = next(step)
    local option = assert(STEP_KEYS[key], ("step %d: no such step: %s"):format(i, tostring(key)))
    assert(next(step, key) == nil, ("step %d: one thing at a time"):format(i))
    if value == true then add(words, option) else add(words, option, value) end
  end
end

local OPTIONS = {
  stdin = true, env = true, clear_env = true, cwd = true, timeout = true, steps = true, pty = true,
  winsize = true, merge = true,
}

-- The words for the tool; everything it writes lands in `folder`.
local function make_words(options, folder)
  for key in pairs(options) do assert(OPTIONS[key], "command: unknown option " .. tostring(key)) end
  local words = {}
  add(words, "--result", folder .. "/result", "--timeout", options.timeout or TIMEOUT_S)
  if options.stdin then add(words, "--stdin", T.write(folder .. "/stdin", options.stdin)) end
  if options.clear_env then add(words, "--clear-env") end
  for name, value in pairs(options.env or {}) do
    if value == false then add(words, "--unset", name) else add(words, "--env", name .. "=" .. value) end
  end
  if options.cwd then add(words, "--cwd", options.cwd) end
  if options.pty then add(words, "--pty", options.pty) end
  if options.winsize then add(words, "--winsize", options.winsize) end
  if options.merge then add(words, "--merge") end
  add_steps(words, options.steps or {})
  return words
end

local function write_words(words, argv, folder)
  add(words, "--")
  add(words, table.unpack(argv))
  return T.write(folder .. "/words", table.concat(words, "\0") .. "\0")
end

local function read_if_any(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read "a"
  file:close()
  return text
end

---@return command.Result
local function read_result(folder)
  local text = read_if_any(folder .. "/result")
  assert(text ~= "", "the tool wrote no result; is " .. EXEC .. " built? (make tools)")
  local fields = {}
  local body, unmet = text:match "^(.-)unmet=(.*)$"
  for key, value in body:gmatch "([%w_]+)=([^\n]*)" do fields[key] = value end
  return {
    code = math.tointeger(tonumber(fields.code)), signal = math.tointeger(tonumber(fields.signal)),
    timeout = fields.timeout == "1", truncated = fields.truncated == "1",
    orphans = math.tointeger(tonumber(fields.orphans)), error = fields.error,
    unmet = unmet ~= "" and unmet or nil, wall = fields.wall_us / 1e6,
    cpu = (fields.user_us + fields.sys_us) / 1e6, maxrss_kib = math.tointeger(tonumber(fields.maxrss_kib)),
    stdout = read_if_any(folder .. "/stdout"), stderr = read_if_any(folder .. "/stderr"),
  }
end

--- Runs a command to its end. Raises only when the tool itself fails; how the command ended is in
--- the result.
---@param argv string[] looked for in PATH when it has no slash
---@param options? command.Options
---@return command.Result
function C.run(argv, options)
  local folder = T.tmpdir()
  local words = make_words(options or {}, folder)
  add(words, "--stdout", folder .. "/stdout", "--stderr", folder .. "/stderr")
  local file = write_words(words, argv, folder)
  os.execute(("exec %s @%s 2>%s"):format(quote(EXEC), quote(file), quote(folder .. "/tool")))
  return read_result(folder)
end

-- Running beside the test -------------------------------------------------------------------------

---@class command.Process
---@field pid integer
local Process = {}
Process.__index = Process

--- Starts a command that runs beside the test until stop() or the end of its block. Its stdout
--- (with merge = true also its stderr) is what expect() reads.
---@param argv string[]
---@param options? command.Options timeout bounds its whole life
---@return command.Process
function C.start(argv, options)
  local folder = T.tmpdir()
  local words = make_words(options or {}, folder)
  add(words, "--announce", "--stderr", folder .. "/stderr")
  local file = write_words(words, argv, folder)
  local pipe = assert(io.popen(("echo tool $$; exec %s @%s 2>%s"):format(quote(EXEC), quote(file),
    quote(folder .. "/tool")), "r"))
  local self = setmetatable({ pipe = pipe, folder = folder, output = "", argv = argv }, Process)
  self.tool = math.tointeger(tonumber((pipe:read "l" or ""):match "^tool (%d+)$"))
  self.pid = math.tointeger(tonumber((pipe:read "l" or ""):match "^pid (%d+)$"))
  if not self.pid then
    pipe:close()
    error(argv[1] .. " did not start: " .. read_if_any(folder .. "/tool"), 2)
  end
  return self
end

--- Waits for a line of its output that the Lua pattern matches. Returns the captures (or the
--- match); raises with all it said when it ends before, at the latest by its timeout.
---@param pattern string
function Process:expect(pattern)
  for line in self.pipe:lines "L" do
    self.output = self.output .. line
    if line:find(pattern) then return line:match(pattern) end
  end
  error(("%s ended without saying %s; it said:\n%s%s"):format(self.argv[1], T.show(pattern), self.output,
    read_if_any(self.folder .. "/stderr")), 2)
end

--- Sends a signal to the process itself.
---@param name string "INT", "TERM", "USR1", …
function Process:signal(name)
  assert(self.pipe, "already stopped")
  assert(os.execute(("kill -%s %d"):format(name, self.pid)))
end

--- What it has written to stderr up to now.
---@return string
function Process:stderr() return read_if_any(self.folder .. "/stderr") end

--- Waits for its end.
---@return command.Result
function Process:wait()
  if self.result then return self.result end
  self.output = self.output .. (self.pipe:read "a" or "")
  self.pipe:close()
  self.pipe = nil
  self.result = read_result(self.folder)
  self.result.stdout = self.output
  return self.result
end

--- Ends it: TERM, then KILL after 2 s.
---@return command.Result
function Process:stop()
  if self.result then return self.result end
  os.execute(("kill -TERM %d 2>/dev/null"):format(self.tool))
  return self:wait()
end

Process.__close = Process.stop

return C
