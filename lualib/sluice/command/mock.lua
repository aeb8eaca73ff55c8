--- sluice mock: the mock provider as a program of its own.

local sys = require "sluice.core.sys"

local GRACE_S = 10 -- for answers under way, after SIGTERM

local mock = {
  name = "mock",
  summary = "a provider that answers without a key, and misbehaves on demand",
  usage = "sluice mock [options] [SCENARIO.lua]",
  options = {
    { "--port", "-p", arg = "N", type = "integer", min = 0, max = 65535, default = 0,
      help = "listen on this port; 0: any that is free" },
    { "--address", arg = "A", type = "string", default = "127.0.0.1",
      help = "listen on this address; 0.0.0.0 lets other machines in" },
    { "--scenario", arg = "FILE", type = "string", help = "how to misbehave; the same as naming FILE alone" },
    { "--seed", arg = "N", type = "integer", help = "of answers and chances: the same seed, the same faults" },
    { "--pace", arg = "X", type = "string", default = "1",
      help = "1: a first token after 0.2 s, then 50 a second; 0.5: twice as fast; 0: at once" },
    { "--log", type = "flag", help = "a line on stderr for every request" },
    { "--quiet", "-q", type = "flag", help = "nothing on stderr but errors" },
    { "--verbose", "-v", type = "flag", help = "whole tracebacks" },
    { "--lib", arg = "DIR", type = "string",
      help = "read sluice's own Lua library from DIR, not from inside the program" },
  },
  examples = {
    { "sluice mock --port 8080", "in one terminal; in another: OPENAI_BASE_URL=http://127.0.0.1:8080/v1" },
    { "sluice mock --log scripts/scenarios/outage.lua", "with faults, and a line for each request" },
    { "curl -N http://127.0.0.1:8080/v1/chat/completions -d "
      .. "'{\"model\":\"mock\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}'" },
    { "sluice run --mock=scripts/scenarios/outage.lua chat.lua", "the same provider inside a script's process" },
  },
  exit_codes = {
    { 2, "the command line is wrong" },
    { 4, "could not start: the port is in use, the scenario is faulty" },
    { 130, "interrupted (Ctrl-C)" },
    { 143, "terminated (SIGTERM), after the answers under way" },
  },
}

-- Help --------------------------------------------------------------------------------------------

local INTRODUCTION = "Speaks the OpenAI protocol (/v1/chat/completions), the Anthropic protocol "
  .. "(/v1/messages) and OAuth2 (/oauth/token), refuses what strict providers refuse, and says what happened at "
  .. "/stats. Any model name will do. It calls a tool when the prompt speaks of it, thinks when asked to, answers "
  .. "in Chinese when asked in Chinese.\n\nSome model names misbehave without a scenario:"

local RULES = [[

A scenario is a Lua file that returns a list of rules. The first rule that fits a request decides:

  return {
    { model = "big", first_token = 20 },
    { model = "small", nth = 1, status = 429, retry_after = 2 },
    { probability = 0.1, cut_after = 40 },
  }

Its keys:]]

--- The description, made when somebody asks for it: it needs the whole table of rules.
local function describe()
  local scenario = require "sluice.mock.scenario"
  local lines, names = { INTRODUCTION }, {}
  for name in pairs(scenario.MODELS) do names[#names + 1] = name end
  table.sort(names, function(a, b) return scenario.MODELS[a][3] < scenario.MODELS[b][3] end)
  for _, name in ipairs(names) do lines[#lines + 1] = ("  %-12s %s"):format(name, scenario.MODELS[name][2]) end
  lines[#lines + 1] = RULES
  for _, group in ipairs(scenario.GROUPS) do
    lines[#lines + 1] = ("\n%s:"):format(group.title)
    for _, key in ipairs(group) do lines[#lines + 1] = ("  %-20s %s"):format(key[1], key[2].doc) end
  end
  return table.concat(lines, "\n")
end

setmetatable(mock, {
  __index = function(_, key)
    if key == "description" then return describe() end
  end,
})

-- Running -----------------------------------------------------------------------------------------

local function log_line(entry)
  local task = require "sluice.core.task"
  local parts = {
    os.date "%H:%M:%S", entry.method, entry.path, entry.model or "-", tostring(entry.status or "-"), entry.outcome,
    ("%.2f s"):format(task.now() - entry.at),
  }
  if #entry.rules > 0 then parts[#parts + 1] = "rule " .. table.concat(entry.rules, ", ") end
  io.stderr:write(require "sluice.errors".one_line(table.concat(parts, " "), 300), "\n")
end

local function announce(provider, quiet)
  print(("sluice mock listening on %s/v1"):format(provider.url))
  io.stdout:flush()
  if quiet then return end
  io.stderr:write(
    ("  OPENAI_BASE_URL=%s/v1\n"):format(provider.url),
    ("  ANTHROPIC_BASE_URL=%s\n"):format(provider.url),
    "  any key, any model; Ctrl-C ends it, 'sluice help mock' tells more\n")
end

---@param opts table
---@param words string[]
---@return integer? code
---@return string? fault
function mock.run(opts, words)
  if words[2] then return nil, "takes one scenario at a time" end
  if words[1] and opts.scenario then return nil, "the scenario is given twice" end
  local pace = tonumber(opts.pace)
  if not pace or pace < 0 or pace ~= pace or pace == math.huge then
    return nil, ("--pace takes a number, 0 or more, got '%s'"):format(opts.pace:sub(1, 60))
  end
  local provider <close> = require "sluice.mock".start {
    scenario = words[1] or opts.scenario, address = opts.address, port = opts.port, seed = opts.seed, pace = pace,
    on_request = opts.log and log_line or nil,
  }
  announce(provider, opts.quiet)
  sys.wait_terminate()
  provider:stop(GRACE_S)
  return 143
end

return mock
