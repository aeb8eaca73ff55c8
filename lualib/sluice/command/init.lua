--- The commands of the program: the one list that dispatch, help and completion read.
-- Owns: the list, and finding a command's module. Never: loads a command nobody asked for.
--
-- A command is a module sluice.command.NAME that returns
--
--   { name = "run", summary = "run a script",              -- one line in `sluice help`
--     usage = "sluice run [options] SCRIPT [ARG…]",        -- or a list of such lines
--     description = "…",                                   -- optional: paragraphs for --help
--     options = { … },                                     -- see sluice.command.arguments
--     examples = { { "sluice run x.lua", "what it does" } },
--     exit_codes = { { 3, "…" } },                         -- optional: what its exit codes mean
--     first_word_ends = true,                              -- optional: options end at the first word
--     run = function(opts, words) … return code end }
--
-- run returns the exit code (nil is 0), or nil and a sentence when the words are wrong; what it raises
-- is printed, and the exit code is 4.

local command = {}

--- In the order in which help lists them. One whose module this build lacks is left out.
command.names = { "run", "repl", "test", "mock", "token", "types", "completion", "help", "version" }

--- The module of a command, or nil when there is no such command.
---@param name string
---@return table?
function command.load(name)
  for _, known in ipairs(command.names) do
    if known == name then
      local module = "sluice.command." .. name
      local ok, found = pcall(require, module)
      if ok then return found end
      local absent = ("module '%s' not found:"):format(module)
      if type(found) ~= "string" or found:sub(1, #absent) ~= absent then error(found, 0) end
      return nil
    end
  end
  return nil
end

--- Every command of this build, loaded, in the order of the list.
---@return table[]
function command.all()
  local list = {}
  for _, name in ipairs(command.names) do list[#list + 1] = command.load(name) end
  return list
end

--- The command a person may have meant, or nil.
---@param word string
---@return string?
function command.nearest(word)
  local names = {}
  for _, found in ipairs(command.all()) do names[#names + 1] = found.name end
  return require "sluice.nearest"(word, names)
end

return command
