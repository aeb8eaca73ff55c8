--- Tokens that a program prints: gcloud, az, op, pass, a script of your own.
-- Owns: how it is run (no shell, no terminal, a process group of its own) and what its output means.

local process = require "sluice.core.process"
local secrets = require "sluice.core.secret"
local errors = require "sluice.errors"
local options = require "sluice.options"
local mocked = require "sluice.secret.mocked"
local source = require "sluice.token.source"

local OUTPUT_MAX = 1 << 20 -- bytes of stdout, and of stderr
local SHOWN_MAX = 300      -- bytes of its stderr in an error

local function is_text(value) return type(value) == "string" or secrets.is(value) end

local SPEC = options.spec {
  ttl = { type = "number", above = 0, default = source.TTL },
  timeout = { type = "seconds", above = 0, default = 30 },
  env = { type = "table", values = { check = function(v) return v == false or is_text(v) end,
    expected = "a string, a secret or false" } },
  input = { check = is_text, expected = "a string or a secret" },
  folder = { type = "string", nonempty = true },
  parse = { type = "callable" },
  name = { type = "string", nonempty = true },
  cache = { type = "string", nonempty = true },
}

--- The words of the command, and the options without them.
local function split(where, opts)
  if type(opts) ~= "table" then
    options.raise(("%s: expected a table, a program and its arguments first, got %s"):format(where, options.got(opts)))
  end
  local words, rest = {}, {}
  for key, value in pairs(opts) do
    if math.type(key) ~= "integer" then rest[key] = value end
  end
  for i, word in ipairs(opts) do
    if secrets.is(word) then
      options.raise(("%s: word %d is a secret, and every user of the machine can read a command line; hand it over "
        .. "with env or input"):format(where, i))
    elseif type(word) ~= "string" then
      options.raise(("%s: word %d must be a string, got %s"):format(where, i, options.got(word)))
    end
    words[i] = word
  end
  if not words[1] or words[1] == "" then options.raise(where .. ": the program is missing, expected its name first") end
  return words, rest
end

-- Running it ---------------------------------------------------------------------------------------

local function complaint(stderr)
  local text = source.words(secrets.redact(stderr):sub(-4 * SHOWN_MAX), 4 * SHOWN_MAX)
  if text == "" then return "" end
  if #text > SHOWN_MAX then -- the last words tell most
    text = text:sub(-SHOWN_MAX)
    text = "…" .. text:gsub("^[\x80-\xBF]+", "")
  end
  return ": " .. text
end

local function failed(kind, code, text)
  errors.raise { kind = kind, code = code, message = text }
end

local function conclude(program, o, code, signal, how, stderr)
  if how == "timeout" then
    failed("timeout", "command", ("'%s' did not end within %.14g s%s"):format(program, o.timeout, complaint(stderr)))
  elseif how == "overflow" then
    failed("invalid", "command", ("'%s' printed more than %d bytes"):format(program, OUTPUT_MAX))
  elseif signal then
    failed("auth", "command", ("'%s' was ended by signal %d (%s)%s"):format(program, signal,
      process.signal_name(signal), complaint(stderr)))
  elseif code ~= 0 then
    failed("auth", "command", ("'%s' exited with %d%s"):format(program, code, complaint(stderr)))
  end
end

local function current(value)
  return secrets.is(value) and secrets.current(value) or value
end

local function run(words, o)
  local env
  if o.env then
    env = {}
    for name, value in pairs(o.env) do env[name] = current(value) end
  end
  local child, why = process.spawn { argv = words, env = env, input = current(o.input), folder = o.folder,
    timeout = o.timeout, out_max = OUTPUT_MAX, err_max = OUTPUT_MAX }
  if not child then failed("auth", "command", why) end
  local guard <close> = child -- luacheck: ignore 211
  local code, signal, how = child:wait()
  local stdout, stderr = child:output()
  conclude(words[1], o, code, signal, how, stderr)
  if o.parse then return o.parse(stdout) end
  if not stdout:find "%S" then
    failed("auth", "command", ("'%s' printed nothing%s"):format(words[1], complaint(stderr)))
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
  local words, rest = split(where, opts)
  options.check(where, rest, SPEC)
  local o = options.fill(rest, SPEC)
  local name = o.name or words[1]:match "[^/]*$"
  return source.new {
    name = name, ttl = o.ttl, timeout = o.timeout + 5, cache = o.cache, -- 5: for a group that ignores SIGTERM
    key = function()
      return "command\n" .. table.concat(words, "\n")
        .. require "sluice.token.cache".mark(o.env, o.input, o.folder, o.name)
    end,
    fetch = function()
      local mock = mocked.secret(name)
      if mock then return mock end
      return run(words, o)
    end,
  }
end

return command
