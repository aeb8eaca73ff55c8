--- Completion for shells, and the man page: what the option tables say, in other forms.
-- Owns: the form of these texts. Pure: commands in, text out. Never: knows an option by name.
--
-- What a word may be is told by the name of an argument: FILE, SCRIPT and SCENARIO are files, DIR is a folder,
-- COMMAND a command; an `enum` lists its values.

local arguments = require "sluice.command.arguments"

local completion = {}

local FILES = { FILE = true, SCRIPT = true, SCENARIO = true, ["SCENARIO.lua"] = true, ["FILE.html"] = true }

--- Every option of a command, the common ones too; those for tests are left out.
local function options_of(command)
  local list = {}
  for _, entry in ipairs(command.options or {}) do
    if not entry.tests then list[#list + 1] = entry end
  end
  for _, entry in ipairs(arguments.common) do list[#list + 1] = entry end
  return list
end

local function names_of(commands)
  local names = {}
  for i, command in ipairs(commands) do names[i] = command.name end
  return names
end

--- What stands behind an option: "none", "enum", "files", "folders", "other".
local function kind_of(entry)
  if entry.type == "flag" then return "none" end
  if entry.enum then return "enum" end
  if FILES[entry.arg] then return "files" end
  return entry.arg == "DIR" and "folders" or "other"
end

--- What the words of a command are: "files", "folders", "commands", "none", or a list of words.
local function words_of(command)
  if command.words then return command.words end
  local usage = type(command.usage) == "table" and command.usage[1] or command.usage or ""
  if usage:find "COMMAND" then return "commands" end
  for word in usage:gmatch "%u[%u.a-z]+" do
    if FILES[word] then return "files" end
    if word == "DIR" then return "folders" end
  end
  return "none"
end

local function each_by_kind(command, wanted)
  local found = {}
  for _, entry in ipairs(options_of(command)) do
    if kind_of(entry) == wanted then
      for _, name in ipairs(entry) do found[#found + 1] = { name, entry } end
    end
  end
  return found
end

-- bash ------------------------------------------------------------------------------------------------

local BASH = [=[
# bash completion for sluice; made from its option tables: `sluice completion bash`.
_sluice() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= i
  # "--mock=FILE" comes as three words
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      %s) command=${COMP_WORDS[i]}; break ;;
    esac
  done
  local options= words=
  case $command in
%s
  esac
  case $command:$prev in
%s
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
  elif [[ $words == @folders ]]; then
    compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur"))
  elif [[ $words == @files ]]; then
    compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur"))
  else
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    if [[ -z $command ]]; then compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- "$cur")); fi
  fi
}
complete -F _sluice sluice
]=]

local function bash_words(command, names)
  local words = words_of(command)
  if words == "files" then return "@files" end
  if words == "folders" then return "@folders" end
  if words == "commands" then return table.concat(names, " ") end
  return type(words) == "table" and table.concat(words, " ") or ""
end

local function bash_options(command)
  local names = {}
  for _, entry in ipairs(options_of(command)) do
    for _, name in ipairs(entry) do names[#names + 1] = name end
  end
  return table.concat(names, " ")
end

local function bash(commands)
  local names, cases, values, run = names_of(commands), {}, {}, nil
  for _, command in ipairs(commands) do
    if command.name == "run" then run = command end
    cases[#cases + 1] = ("    %s) options=%q words=%q ;;"):format(command.name, bash_options(command),
      bash_words(command, names))
    -- without a command the options are those of `run`
    local at = command.name == "run" and { "run", "" } or { command.name }
    local function add(kind, action)
      local patterns = {}
      for _, found in ipairs(each_by_kind(command, kind)) do
        for _, prefix in ipairs(at) do patterns[#patterns + 1] = prefix .. ":" .. found[1] end
      end
      if #patterns > 0 then
        values[#values + 1] = ("    %s) %s return ;;"):format(table.concat(patterns, "|"), action)
      end
    end
    for _, found in ipairs(each_by_kind(command, "enum")) do
      for _, prefix in ipairs(at) do
        values[#values + 1] = ('    %s:%s) COMPREPLY=($(compgen -W "%s" -- "$cur")); return ;;'):format(prefix,
          found[1], table.concat(found[2].enum, " "))
      end
    end
    add("files", 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur"));')
    add("folders", 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur"));')
    add("other", "")
  end
  cases[#cases + 1] = ("    '') options=%q words=%q ;;"):format(bash_options(run), table.concat(names, " "))
  return BASH:format(table.concat(names, "|"), table.concat(cases, "\n"), table.concat(values, "\n"))
end

-- zsh -------------------------------------------------------------------------------------------------

local ZSH = [=[
#compdef sluice
# zsh completion for sluice; made from its option tables: `sluice completion zsh`.
_sluice() {
  local context state state_descr line
  typeset -A opt_args
  local -a commands
  commands=(
%s
  )
  if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
    _describe -t commands 'sluice command' commands
    _files
    return
  fi
  case $words[2] in
%s
    *) _arguments -s : %s '*:file:_files' ;;
  esac
}
if [[ $funcstack[1] == _sluice ]]; then _sluice "$@"; else compdef _sluice sluice; fi
]=]

--- Inside single quotes, and where _arguments reads brackets and colons.
local function zsh_text(text)
  return (text:gsub("[%[%]:\\]", "\\%0"):gsub("'", "'\\''"))
end

local function zsh_value(entry)
  local kind = kind_of(entry)
  if kind == "none" then return "" end
  local what = kind == "enum" and "(" .. table.concat(entry.enum, " ") .. ")"
    or kind == "files" and "_files" or kind == "folders" and "_files -/" or " "
  return (":%s:%s"):format(zsh_text(entry.arg), what)
end

local function zsh_options(command)
  local list = {}
  for _, entry in ipairs(options_of(command)) do
    local value = zsh_value(entry)
    if entry.type == "optional" then value = ":" .. value end
    for _, name in ipairs(entry) do
      local long = name:sub(1, 2) == "--" and entry.type ~= "flag"
      local sign = entry.type == "optional" and "=-" or long and "=" or value ~= "" and "+" or ""
      list[#list + 1] = ("'%s%s%s[%s]%s'"):format(entry.repeated and "*" or "", name, sign, zsh_text(entry.help), value)
    end
  end
  return table.concat(list, " ")
end

local function zsh(commands)
  local described, cases, run = {}, {}, nil
  for _, command in ipairs(commands) do
    if command.name == "run" then run = command end
    described[#described + 1] = ("    '%s:%s'"):format(command.name, zsh_text(command.summary))
    local words = words_of(command)
    local what = words == "files" and "'*:file:_files'" or words == "folders" and "'*:folder:_files -/'"
      or words == "commands" and ("'*:command:(%s)'"):format(table.concat(names_of(commands), " "))
      or type(words) == "table" and ("'*:word:(%s)'"):format(table.concat(words, " ")) or ""
    cases[#cases + 1] = ("    %s) shift words; (( CURRENT-- )); _arguments -s : %s %s ;;"):format(command.name,
      zsh_options(command), what)
  end
  return ZSH:format(table.concat(described, "\n"), table.concat(cases, "\n"), zsh_options(run))
end

-- fish ------------------------------------------------------------------------------------------------

local function fish_text(text)
  return (text:gsub("[\\']", "\\%0"))
end

local function fish_option(out, condition, entry)
  local names = {}
  for _, name in ipairs(entry) do
    names[#names + 1] = name:sub(1, 2) == "--" and "-l " .. name:sub(3) or "-s " .. name:sub(2)
  end
  local kind = kind_of(entry)
  local value = kind == "enum" and (" -x -a '%s'"):format(table.concat(entry.enum, " "))
    or kind == "folders" and " -x -a '(__fish_complete_directories)'" or kind == "files" and " -r -F"
    or kind == "other" and " -x" or ""
  if entry.type == "optional" then value = "" end -- its value is optional, and stands behind "="
  out[#out + 1] = ("complete -c sluice -n '%s' %s%s -d '%s'"):format(condition, table.concat(names, " "), value,
    fish_text(entry.help))
end

local function fish(commands)
  local names = table.concat(names_of(commands), " ")
  local out = { "# fish completion for sluice; made from its option tables: `sluice completion fish`.",
    "complete -c sluice -f",
    ("set -l commands %s"):format(names) }
  for _, command in ipairs(commands) do
    out[#out + 1] = ("complete -c sluice -n \"not __fish_seen_subcommand_from $commands\" -a %s -d '%s'")
      :format(command.name, fish_text(command.summary))
  end
  out[#out + 1] = 'complete -c sluice -n "not __fish_seen_subcommand_from $commands" -F'
  for _, command in ipairs(commands) do
    local condition = "__fish_seen_subcommand_from " .. command.name
    for _, entry in ipairs(options_of(command)) do fish_option(out, condition, entry) end
    local words = words_of(command)
    local what = words == "files" and "-F" or words == "folders" and "-a '(__fish_complete_directories)'"
      or words == "commands" and ("-a '%s'"):format(names)
      or type(words) == "table" and ("-a '%s'"):format(table.concat(words, " "))
    if what then out[#out + 1] = ("complete -c sluice -n '%s' %s"):format(condition, what) end
  end
  return table.concat(out, "\n") .. "\n"
end

local SHELLS = { bash = bash, zsh = zsh, fish = fish }

--- The shells there is a script for.
completion.shells = { "bash", "fish", "zsh" }

--- The script of a shell.
---@param shell string    one of completion.shells
---@param commands table[]  sluice.command.all()
---@return string
function completion.script(shell, commands)
  return SHELLS[shell](commands)
end

return completion
