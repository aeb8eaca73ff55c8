--- Tokens that a program prints: gcloud, az, op, pass, a script of your own.
-- Owns: how it is run (no shell, no terminal, a process group of its own) and what its output means.

local process = require "sluice.core.process"
local errors = require "sluice.errors"
local options = require "sluice.options"
local words = require "sluice.process.words"
local mocked = require "sluice.secret.mocked"
local source = require "sluice.token.source"

local OUTPUT_MAX = 1 << 20 -- bytes of stdout, and of stderr

local SPEC = options.spec {
  ttl = { type = "number", above = 0, default = source.TTL },
  timeout = { type = "seconds", above = 0, default = 30 },
  env = words.ENV,
  input = words.TEXT,
  folder = { type = "string", nonempty = true },
  parse = { type = "callable" },
  name = { type = "string", nonempty = true },
  cache = { type = "string", nonempty = true },
}

-- Running it ---------------------------------------------------------------------------------------

local function failed(kind, code, text)
  errors.raise { kind = kind, code = code, message = text }
end

local function conclude(program, o, code, signal, how, stderr)
  if how == "timeout" then
    failed("timeout", "command", ("'%s' did not end within %.14g s%s"):format(program, o.timeout,
      words.complaint(stderr)))
  elseif how == "overflow" then
    failed("invalid", "command", ("'%s' printed more than %d bytes"):format(program, OUTPUT_MAX))
  elseif signal then
    failed("auth", "command", ("'%s' was ended by signal %d (%s)%s"):format(program, signal,
      process.signal_name(signal), words.complaint(stderr)))
  elseif code ~= 0 then
    failed("auth", "command", ("'%s' exited with %d%s"):format(program, code, words.complaint(stderr)))
  end
end

local function run(argv, o)
  local env = words.current_env("sluice.token.command", o.env)
  local child, why = process.spawn { argv = argv, env = env, input = words.current(o.input), folder = o.folder,
    timeout = o.timeout, out_max = OUTPUT_MAX, err_max = OUTPUT_MAX }
  if not child then failed("auth", "command", why) end
  local guard <close> = child -- luacheck: ignore 211
  local code, signal, how = child:wait()
  local stdout, stderr = child:output()
  conclude(argv[1], o, code, signal, how, stderr)
  if o.parse then return o.parse(stdout) end
  if not stdout:find "%S" then
    failed("auth", "command", ("'%s' printed nothing%s"):format(argv[1], words.complaint(stderr)))
  end
  return stdout
end

local command = {}

--- See sluice.CommandOptions. The program is first run when the token is first used.
--- Raises an ordinary error for a wrong option.
---@param opts sluice.CommandOptions
---@return sluice.Token
function command.new(opts)
  local where = "sluice.token.command"
  local argv, rest = words.split(where, opts)
  options.check(where, rest, SPEC)
  local o = options.fill(rest, SPEC)
  local name = o.name or argv[1]:match "[^/]*$"
  return source.new {
    name = name, ttl = o.ttl, timeout = o.timeout + 5, cache = o.cache, -- 5: for a group that ignores SIGTERM
    key = function()
      return "command\n" .. table.concat(argv, "\n")
        .. require "sluice.token.cache".mark(o.env, o.input, o.folder, o.name)
    end,
    fetch = function()
      local mock = mocked.secret(name)
      if mock then return mock end
      return run(argv, o)
    end,
  }
end

return command
