--- sluice token: a fresh token from a script, on stdout, and nothing else there.
-- Owns: which of a script's tokens is meant, and the form it is printed in. What the script itself
-- prints goes to stderr: stdout is for `$(…)` and for programs that ask for a key.

local script = require "sluice.command.script"

local EXIT = script.EXIT
local LEAST = 300 -- seconds a printed token is good for; as long as Claude Code keeps one

local options = {
  { "--json", type = "flag", help = "one JSON object: the token, its expiry, its name" },
  { "--min-life", arg = "S", type = "seconds", default = LEAST,
    help = "renew a token that ends within S seconds, but not within more than half of its life" },
  { "--new", type = "flag", help = "do not take one from a cache, whatever is left of it" },
}
table.move(script.options, 1, #script.options, #options + 1, options)

local command = {
  name = "token",
  summary = "print a fresh token a script defines",
  usage = "sluice token [options] FILE [NAME]",
  description = "Runs FILE, a script that returns a token source (sluice.token.oauth, source, command), or a secret, "
    .. "or a table of them by name (or of functions that make them), and prints the current value of the one called "
    .. "NAME. Give the source a cache, and only one of many calls asks the server.\n\n"
    .. "It fits wherever a program can be asked for a key: apiKeyHelper in Claude Code's settings.json, "
    .. "`$(sluice token corp.lua)` in a shell.",
  options = options,
  first_word_ends = false,
  examples = {
    { "sluice token corp.lua", "the token that corp.lua returns" },
    { "sluice token tokens.lua staging", "one of several" },
    { "sluice token --json corp.lua", "with its expiry" },
    { "curl -H \"Authorization: Bearer $(sluice token corp.lua)\" …", "in a shell" },
  },
  exit_codes = {
    { 0, "ok, the token is on stdout" },
    { 1, "the script raised an error or does not compile" },
    { 2, "the command line is wrong" },
    { 4, "no token: the script returns none of that name, or it cannot be had" },
  },
}

-- Which one ------------------------------------------------------------------------------------------

local function is_source(value)
  return require "sluice.token".is(value) or require "sluice.secret".is(value)
end

local function names_of(list)
  local names = {}
  for name, value in pairs(list) do
    if is_source(value) or type(value) == "function" then names[#names + 1] = tostring(name) end
  end
  table.sort(names)
  return names
end

local SOURCES = "a token source (sluice.token.oauth, source, command), a secret, or a table of them by name"

--- The source that is meant and its name; or nil and why there is none.
local function choose(value, name, file)
  if is_source(value) then
    if name then return nil, ("%s returns one token, not a table with '%s' in it"):format(file, name) end
    return value, value:name()
  end
  local names = type(value) == "table" and names_of(value) or {}
  if not names[1] then
    local hint = type(value) == "string" and "; for a key that never changes: sluice.secret.literal(key)" or ""
    return nil, ("%s returns %s; expected %s%s"):format(file, require "sluice.options".got(value), SOURCES, hint)
  end
  if not name and #names == 1 then name = names[1] end
  if not name then
    return nil, ("%s returns several tokens; say which: %s"):format(file, table.concat(names, ", "))
  end
  local found = value[name]
  if type(found) == "function" then found = found() end
  if is_source(found) then return found, name end
  if found ~= nil then
    return nil, ("%s: '%s' is %s; expected %s"):format(file, name, require "sluice.options".got(found), SOURCES)
  end
  return nil, ("%s returns no token '%s'%s"):format(file, name, require "sluice.options".suggest(name, names))
end

-- Printing -------------------------------------------------------------------------------------------

local function as_json(name, text, left)
  local json, sys = require "sluice.json", require "sluice.core.sys"
  local ends = left and math.floor(sys.wall() + left)
  return ('{"token":%s,"name":%s,"expires_in":%s,"expires_at":%s}'):format(json.quote(text), json.quote(name),
    left and ("%d"):format(math.floor(left)) or "null",
    ends and ('"%s"'):format(os.date("!%Y-%m-%dT%H:%M:%SZ", ends)) or "null")
end

local function print_token(stdout, source, name, opts)
  local token = require "sluice.token"
  local value = token.is(source) and source:get(opts.min_life) or source
  local text = require "sluice.core.secret".text(value)
  local left = token.is(source) and source:state().left or nil
  if opts.json then text = as_json(name, text, left) end
  local ok, why = stdout:write(text, "\n")
  if ok then ok, why = stdout:flush() end
  if not ok then error("writing to stdout: " .. tostring(why), 0) end
end

--- The script's function with what is done with its result behind it; the exit code is its own.
local function with_token(chunk, file, name, opts, stdout)
  return function(...)
    local source, found = choose(chunk(...), name, file)
    local report = require "sluice.report"
    if not source then
      report.say(found, "red")
      return EXIT.start
    end
    local ok, err = pcall(print_token, stdout, source, found, opts)
    if ok then return EXIT.ok end
    report.failure(err, { verbose = opts.verbose, traceback = opts.verbose and
      require "sluice.core.task".traceback_of(err) or nil })
    return EXIT.start
  end
end

--- From here on what the script prints goes to stderr, and what programs print that it starts. Returns
--- the real stdout.
local function divert_stdout()
  local stdout = require "sluice.core.sys".divert_stdout() or io.stdout
  io.output(io.stderr)
  io.stdout = io.stderr -- luacheck: ignore 122
  function print(...) -- luacheck: ignore 121 131
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = tostring(parts[i]) end
    io.stderr:write(table.concat(parts, "\t"), "\n")
  end
  return stdout
end

---@param opts table
---@param words string[]
---@return integer? code
---@return string? fault
function command.run(opts, words)
  local file, name = words[1], words[2]
  if not file then return nil, "no file given: sluice token [options] FILE [NAME]" end
  if words[3] then return nil, ("one name at most, got '%s' too"):format(words[3]) end
  local source = script.read(file)
  if not source then return EXIT.start end
  local chunk = script.compile(source)
  if not chunk then return EXIT.raised end
  script.search_beside(source, opts.lib)
  script.set_arg(file, {})
  source.text = nil
  if opts.new then require "sluice.token.cache".ignore(true) end
  if not script.prepare(opts) then return EXIT.start end
  local stdout = divert_stdout()
  return script.execute(source, with_token(chunk, file, name, opts, stdout), {}, opts)
end

return command
