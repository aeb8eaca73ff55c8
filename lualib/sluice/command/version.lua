--- sluice version: what this is, and what it stands on.

local sys = require "sluice.core.sys"

-- In the order in which they are named; sys.libraries() has what the program runs on.
local ORDER = { "lua", "libcurl", "libevent" }
local NAMES = { lua = "Lua", libcurl = "libcurl", libevent = "libevent" }

local version = {
  name = "version",
  summary = "show the version of sluice and of what it stands on",
  usage = "sluice version [--json]",
  options = {
    { "--json", type = "flag", help = "one JSON object" },
  },
  examples = {
    { "sluice version", "a line for a person" },
    { "sluice version --json", "the same for a program" },
  },
}

local function libraries()
  local found = { lua = _VERSION:match "%d+%.%d+" }
  for name, text in pairs(sys.libraries()) do found[name] = text end
  return found
end

---@return string
function version.line()
  local found, parts = libraries(), {}
  for _, name in ipairs(ORDER) do
    if found[name] then parts[#parts + 1] = ("%s %s"):format(NAMES[name], found[name]) end
  end
  return ("sluice %s (%s)"):format(sys.version, table.concat(parts, ", "))
end

function version.run(opts, words)
  if words[1] then return nil, ("no argument expected, got '%s'"):format(words[1]) end
  if opts.json then
    local found = libraries()
    found.sluice = sys.version
    print((require "sluice.json".encode(found)))
  else
    print(version.line())
  end
  return 0
end

return version
