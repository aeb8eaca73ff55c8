--- sluice help: the overview, and the page of one command, made from the commands' own tables.
-- Owns: the form of these texts, 80 columns wide. Never: knows an option by name.

local arguments = require "sluice.command.arguments"
local command = require "sluice.command"
local term = require "sluice.term"

local COLUMNS = 80
local INDENT = 2
local LEFT_MAX = 26 -- columns of the left side of a list; a longer entry has its text on the next line

local help = {
  name = "help",
  summary = "show help, of sluice or of one command",
  usage = "sluice help [COMMAND]",
  options = {},
  examples = {
    { "sluice help", "the overview" },
    { "sluice help run", "everything about sluice run" },
  },
}

--- What the exit codes of the program mean.
help.exit_codes = {
  { 0, "ok" },
  { 1, "the script raised an error, does not compile, or returned false" },
  { 2, "the command line is wrong" },
  { 4, "could not start (configuration, credentials, port)" },
  { 70, "a fault of sluice itself" },
  { 124, "not done within --timeout" },
  { 130, "interrupted (Ctrl-C)" },
  { 143, "terminated (SIGTERM)" },
}

-- Pieces ------------------------------------------------------------------------------------------

local function put_text(out, text)
  for _, line in ipairs(term.wrap(text, COLUMNS)) do
    local left, right = line:match "^( +%S+  +)(%S.*)$"
    if left and term.width(line) > COLUMNS then -- a row of a list: its right side is text
      local from = term.width(left)
      for _, part in ipairs(term.wrap(right, COLUMNS - from)) do
        out[#out + 1] = left .. part
        left = (" "):rep(from)
      end
    else
      out[#out + 1] = line
    end
  end
end

local function head(out, text)
  if #out > 0 then out[#out + 1] = "" end
  out[#out + 1] = out.paint("bold", text .. ":")
end

-- Rows of { left, right } in two columns.
local function put_rows(out, rows)
  local left = 0
  for _, row in ipairs(rows) do
    local width = term.width(row[1])
    if width <= LEFT_MAX and width > left then left = width end
  end
  local from = INDENT + left + 2
  for _, row in ipairs(rows) do
    local width = term.width(row[1])
    local line = (" "):rep(INDENT) .. row[1]
    if width > left then
      out[#out + 1] = line
      line, width = (" "):rep(INDENT), 0
    end
    for _, text in ipairs(term.wrap(row[2], COLUMNS - from)) do
      out[#out + 1] = line .. (" "):rep(from - INDENT - width) .. text
      line, width = (" "):rep(INDENT), 0
    end
  end
end

-- "-t, --timeout S", "    --mock[=SCENARIO]"; short names first, so that they stand in one column.
local function option_name(entry)
  local short, long = nil, nil
  for _, name in ipairs(entry) do
    if name:sub(1, 2) == "--" then long = long or name else short = short or name end
  end
  local text = short or "  "
  if long then text = text .. (short and ", " or "  ") .. long end
  if entry.type == "optional" then return ("%s[=%s]"):format(text, entry.arg) end
  if entry.type ~= "flag" then return ("%s %s"):format(text, entry.arg) end
  return text
end

local function put_options(out, entries)
  local rows, tests = {}, {}
  local function add(entry)
    local list = entry.tests and tests or rows
    local default = entry.default ~= nil and (" (default %s)"):format(tostring(entry.default)) or ""
    list[#list + 1] = { option_name(entry), entry.help .. default }
  end
  for _, entry in ipairs(entries) do add(entry) end
  for _, entry in ipairs(arguments.common) do add(entry) end
  head(out, "Options")
  put_rows(out, rows)
  if #tests > 0 then
    head(out, "For tests")
    put_rows(out, tests)
  end
end

local function put_examples(out, examples)
  if not examples or #examples == 0 then return end
  head(out, "Examples")
  for _, example in ipairs(examples) do
    if type(example) == "string" then example = { example } end
    out[#out + 1] = "  " .. example[1]
    if example[2] then
      for _, line in ipairs(term.wrap(example[2], COLUMNS - 6)) do
        out[#out + 1] = out.paint("dim", "      " .. line)
      end
    end
  end
end

local function put_exit_codes(out, codes)
  head(out, "Exit codes")
  local rows = {}
  for i, row in ipairs(codes) do rows[i] = { ("%3s"):format(row[1]), row[2] } end
  put_rows(out, rows)
end

local function put_usage(out, usage)
  head(out, "Usage")
  for _, line in ipairs(type(usage) == "table" and usage or { usage }) do out[#out + 1] = "  " .. line end
end

local function page(fill, fd)
  local out = { paint = term.painter(fd or 1) }
  fill(out)
  return table.concat(out, "\n") .. "\n"
end

-- Pages -------------------------------------------------------------------------------------------

--- `sluice help`.
---@param fd? integer where it goes, for the colours: 1 (the default) or 2
---@return string
function help.overview(fd)
  return page(function(out)
    put_text(out, "sluice runs prompt workflows: Lua scripts that call LLM APIs, with your own rules for "
      .. "what happens when a model is slow, limited, broken or expensive.")
    put_usage(out, { "sluice COMMAND [options] …", "sluice [options] SCRIPT [ARG…]" })
    head(out, "Commands")
    local rows, run = {}, nil
    for i, found in ipairs(command.all()) do
      rows[i] = { found.name, found.summary }
      if found.name == "run" then run = found end
    end
    put_rows(out, rows)
    put_options(out, run.options)
    put_examples(out, {
      { "sluice --mock hello.lua", "run a script against the embedded provider: no key, no network" },
      { "sluice run --timeout 60 summary.lua report.txt", "with an argument and a limit" },
      { "sluice help run", "all about one command" },
    })
    put_exit_codes(out, help.exit_codes) -- a script may return others
  end, fd)
end

--- `sluice help NAME`, `sluice NAME --help`.
---@param found table the command's module
---@return string
function help.page(found)
  return page(function(out)
    put_text(out, ("sluice %s: %s"):format(found.name, found.summary))
    put_usage(out, found.usage)
    if found.description then
      out[#out + 1] = ""
      put_text(out, found.description)
    end
    put_options(out, found.options or {})
    put_examples(out, found.examples)
    if found.exit_codes then put_exit_codes(out, found.exit_codes) end
  end)
end

function help.run(_, words)
  local name = words[1]
  if words[2] then return nil, "takes one command at a time" end
  if not name then
    io.stdout:write(help.overview())
    return 0
  end
  local found = command.load(name)
  if not found then
    local near = command.nearest(name)
    return nil, ("no command '%s'%s"):format(name, near and (" (did you mean '%s'?)"):format(near) or "")
  end
  io.stdout:write(help.page(found))
  return 0
end

return help
