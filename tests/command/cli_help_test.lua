-- Help and version: each way to ask gives the page, on stdout, in 80 columns, and nothing is listed
-- that does not exist.
local T = require "harness"
local C = require "command"

local function sluice(...) return C.run { C.sluice, ... } end

local function help(t, ...)
  local r = sluice(...)
  t.eq(r.code, 0)
  t.eq(r.stderr, "")
  return r.stdout
end

T.test("every way to ask", function(t)
  local overview = help(t, "help")
  t.eq(help(t, "--help"), overview)
  t.eq(help(t, "-h"), overview)
  local page = help(t, "help", "run")
  t.eq(help(t, "run", "--help"), page)
  t.eq(help(t, "run", "-h", "nosuch.lua"), page)
  t.eq(help(t, "--help", "run"), page)
  t.ne(page, overview)
  t.eq(help(t, "help", "help"), help(t, "help", "--help"))
end)

-- Every character of these texts is one column wide.
local function columns(line) return assert(utf8.len(line)) end

T.test("80 columns, and every command that is listed has a page", function(t)
  local overview = help(t, "help")
  t.match(overview, "^sluice runs prompt workflows")
  local names = {}
  for name in overview:match("Commands:\n(.-)\n\n"):gmatch "  (%l+) +[^\n]+" do names[#names + 1] = name end
  t.eq(names[1], "run")
  t.ok(#names >= 3)
  local pages = { overview }
  for _, name in ipairs(names) do
    pages[#pages + 1] = help(t, "help", name)
    t.match(pages[#pages], "^sluice " .. name .. ": ")
    t.match(pages[#pages], "\nUsage:\n  sluice ")
    t.match(pages[#pages], "\nOptions:\n")
    t.match(pages[#pages], "\nExamples:\n  ")
  end
  for _, page in ipairs(pages) do
    -- A command that is to be copied stays in one line.
    page = page:gsub("(\nExamples:\n)(.-)\n\n", function(title, text)
      return title .. ("\n" .. text .. "\n"):gsub("\n  %S[^\n]*", "\n") .. "\n"
    end)
    for line in page:gmatch "[^\n]+" do
      t.ok(columns(line) <= 80, line)
      t.ok(not line:find "%s$", "ends in a blank: " .. line)
    end
  end
end)

T.test("the overview has options, examples and exit codes", function(t)
  local overview = help(t, "help")
  for _, word in ipairs { "%-%-timeout S", "%-%-mock%[=SCENARIO%]", "%-%-log%-level LEVEL", "%-%-seed N", "%-%-lib DIR",
    "%-q, %-%-quiet", "%-v, %-%-verbose", "%-%-gc%-stress", "%-h, %-%-help", "%-%-version" } do
    t.match(overview, word)
  end
  t.match(overview, "\nExamples:\n  sluice ")
  for _, code in ipairs { 0, 1, 2, 4, 70, 124, 130, 143 } do
    t.match(overview:match "\nExit codes:\n.*", ("\n +%d  %%l"):format(code))
  end
end)

T.test("no command: the overview on stderr, and a usage error", function(t)
  local r = sluice()
  t.eq(r.code, 2)
  t.eq(r.stdout, "")
  t.eq(r.stderr, sluice("help").stdout)
end)

T.test("help for what does not exist", function(t)
  local r = sluice("help", "rnu")
  t.eq(r.code, 2)
  t.eq(r.stdout, "")
  t.eq(r.stderr, "sluice: help: no command 'rnu' (did you mean 'run'?); see 'sluice help help'\n")
  t.eq(sluice("help", "run", "help").code, 2)
end)

T.test("version", function(t)
  local line = help(t, "version")
  t.match(line, "^sluice %d+%.%d+%.%d+ %(Lua 5%.4[^\n]*%)\n$")
  t.eq(help(t, "--version"), line)
  t.eq(help(t, "run", "--version"), line)
  local json = help(t, "version", "--json")
  local version = line:match "^sluice ([%d.]+)"
  t.match(json, '"sluice":"' .. version:gsub("%.", "%%.") .. '"')
  t.match(json, '^{.*"lua":"5%.4.*}\n$')
  t.eq(sluice("version", "x").code, 2)
end)

T.test("colour only for a terminal that can", function(t)
  local asked = { { pty = "out,err", env = { TERM = "xterm", NO_COLOR = false } },
    { pty = "out,err", env = { TERM = "xterm", NO_COLOR = "" } },
    { pty = "out,err", env = { TERM = "xterm", NO_COLOR = "1" } },
    { pty = "out,err", env = { TERM = "dumb", NO_COLOR = false } },
    { env = { TERM = "xterm", NO_COLOR = false } } }
  local plain = sluice("help").stdout
  for i, options in ipairs(asked) do
    local r = C.run({ C.sluice, "help" }, options)
    t.eq(r.code, 0)
    t.eq(r.stdout:find "\27%[" ~= nil, i <= 2, "case " .. i)
    t.eq(r.stdout:gsub("\27%[[%d;]*m", ""):gsub("\r", ""), plain, "case " .. i)
  end
end)

T.done()
