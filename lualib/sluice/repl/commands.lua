--- The commands of a session: words that begin with a colon.
-- Owns: the list that dispatch, :help and Tab read. Never: evaluates anything itself (session.lua).

local core = require "sluice.core.task"
local term = require "sluice.term"

local commands = {}

---@class sluice.repl.Command
---@field [1] string its name
---@field [2] string what it takes, for :help
---@field [3] string what it does
---@field run fun(session: sluice.repl.Session, rest: string): any  raises what is wrong; "quit" ends the session

local function say(session, format, ...) session:say(select("#", ...) > 0 and format:format(...) or format) end

local function wrong(format, ...) error({ usage = format:format(...) }, 0) end

-- Code ----------------------------------------------------------------------------------------------

local function load_file(session, path)
  if path == "" then wrong ":load takes a file: :load rules.lua" end
  session:load_file(path)
end

-- Modules that were required from files are read again when they are required next.
local function forget_modules(session)
  local names = {}
  for name in pairs(package.loaded) do
    if session:is_users_module(name) then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do package.loaded[name] = nil end
  return names
end

local function reload(session, rest)
  if rest ~= "" then
    if package.loaded[rest] == nil then wrong(":reload: no module '%s' has been loaded", rest) end
    if not session:is_users_module(rest) then wrong(":reload: '%s' is not a module of yours", rest) end
    package.loaded[rest] = nil
    require(rest)
    return say(session, "%s has been read again", rest)
  end
  local names = forget_modules(session)
  if not session.loaded and #names == 0 then wrong ":reload: nothing has been loaded yet (:load FILE)" end
  if #names > 0 then say(session, "read again when they are required next: %s", table.concat(names, ", ")) end
  if session.loaded then session:load_file(session.loaded) end
end

local function time(session, rest)
  if rest == "" then wrong ":time takes an expression: :time m:ask 'hi'" end
  local from, cpu = core.now(), os.clock()
  local ok = session:evaluate_text(rest)
  if ok ~= nil then say(session, "%.3f s, of which %.3f s of processor time", core.now() - from, os.clock() - cpu) end
end

-- Looking -------------------------------------------------------------------------------------------

local function seconds(s) return (s < 10 and "%.1f s" or "%.0f s"):format(s) end

local function tasks(session)
  local list = {}
  for _, t in ipairs(core.tasks()) do
    if not t.service and t.spawned_at ~= "" and t.state ~= "running" then list[#list + 1] = t end
  end
  table.sort(list, function(a, b) return a.id < b.id end)
  if #list == 0 then return say(session, "no task but this one") end
  for _, t in ipairs(list) do
    local state = t.waiting_on and ("waiting on %s for %s"):format(term.safe(t.waiting_on), seconds(t.seconds or 0))
      or t.state
    say(session, "task %d: %s, at %s, spawned at %s", t.id, state, t.at ~= "" and t.at or "?", t.spawned_at)
  end
end

-- The samples alone; sluice.metrics.text() has all of it.
local function metrics(session)
  local lines = {}
  for line in require "sluice.metrics".text():gmatch "[^\n]+" do
    if not line:find "^#" and not line:find "_bucket{" then lines[#lines + 1] = line end
  end
  session:show_text(table.concat(lines, "\n"))
end

local function all(session) session:show_all() end

-- The provider --------------------------------------------------------------------------------------

local function mock(session, rest)
  local model = require "sluice.model"
  if rest == "off" then
    model.use_mock(nil)
    session.mock_on = false
    return say(session, "models made from now on ask their providers")
  elseif rest ~= "on" and rest ~= "" then
    wrong(":mock takes on or off, not '%s'", rest)
  elseif rest == "" then
    return say(session, session.mock_on and "the mock answers (:mock off)" or "the mock is off (:mock on)")
  end
  if not session.mock_url then
    session.mock_url = require "sluice.mock".start { seed = session.opts.seed, service = true }.url
  end
  model.use_mock(session.mock_url)
  session.mock_on = true
  say(session, "models made from now on are answered by the mock, at %s; no key, no network", session.mock_url)
end

-- The session ---------------------------------------------------------------------------------------

local function save(session, rest)
  if rest == "" then wrong ":save takes a file: :save session.lua" end
  local text, hidden = require "sluice.repl.save".script(session.inputs)
  if not text then wrong ":save: nothing has been run yet" end
  local existing = io.open(rest, "rb")
  if existing then
    existing:close()
    wrong(":save: %s is there already; name another file", rest)
  end
  local file, why = io.open(rest, "wb")
  if not file then wrong(":save: %s", why) end
  file:write(text)
  file:close()
  say(session, "%s: %d lines; run it with: sluice run %s", rest, select(2, text:gsub("\n", "\n")), rest)
  if hidden then say(session, "what looked like a credential stands there as \"<hidden>\"") end
end

local function show_help(session, rest)
  if rest ~= "" then return session:show_text((require "sluice.repl.help".of(rest):gsub("\n$", ""))) end
  local lines = { (require "sluice.repl.help".general():gsub("\n$", "")), "" }
  for _, c in ipairs(commands.list) do
    lines[#lines + 1] = ("  %-18s%s"):format(":" .. c[1] .. (c[2] ~= "" and " " .. c[2] or ""), c[3])
  end
  session:print(table.concat(lines, "\n"))
end

---@type sluice.repl.Command[]
commands.list = {
  { "help", "[NAME]", "this, or what is known of a name", run = show_help },
  { "load", "FILE", "run a script here; its globals stay", run = load_file },
  { "reload", "[MODULE]", "read the file of :load again, and the modules it requires", run = reload },
  { "tasks", "", "what runs in the background, and what it waits on", run = tasks },
  { "metrics", "", "the counters of this session", run = metrics },
  { "mock", "on|off", "have models answered by the embedded mock provider", run = mock },
  { "time", "EXPR", "evaluate, and say how long it took", run = time },
  { "all", "", "the last value again, all of it", run = all },
  { "save", "FILE", "write what was typed as a script", run = save },
  { "quit", "", "leave (Ctrl-D)", run = function() return "quit" end },
}

--- The names with their colon.
---@return string[]
function commands.names()
  local names = {}
  for i, c in ipairs(commands.list) do names[i] = ":" .. c[1] end
  return names
end

--- Runs a line that begins with a colon. Returns "quit" when the session is to end; raises a table with
--- `usage` when the line is wrong.
---@param session sluice.repl.Session
---@param line string
---@return any
function commands.run(session, line)
  local name, rest = line:match "^%s*:(%S*)%s*(.-)%s*$"
  for _, c in ipairs(commands.list) do
    if c[1] == name then return c.run(session, rest) end
  end
  local known = {}
  for i, c in ipairs(commands.list) do known[i] = c[1] end
  local near = require "sluice.nearest"(name, known)
  wrong("no command ':%s'%s; :help lists them", term.safe(name), near and (" (did you mean ':%s'?)"):format(near) or "")
end

return commands
