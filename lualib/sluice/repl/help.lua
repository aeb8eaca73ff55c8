--- help(x): what the annotations say of a function, a module, a name.
-- Owns: what help() prints. Never: knows where annotations are (sluice.annotations).

local help = {}

local GENERAL = [[
Type Lua. An expression prints its value, a statement runs; a line that is not whole goes on with "…".
  _                 the last value
  spawn(f, …)       runs f beside the prompt, until it ends or you leave; h:join(), h:cancel()
  help(x)           what x does: help(sluice.model), help "task.map", help(reply)
  local x = 1       stays for the session, like any name
A stream that is a value is printed as it comes. Ctrl-C ends the call that runs, Ctrl-D leaves.
An input that begins with a blank is not kept in the history, and what looks like a key never is.
]]

--- What help() without an argument says, in front of the commands.
---@return string
function help.general() return GENERAL end

local function about_function(f)
  local info = debug.getinfo(f, "S")
  if info.what == "C" then return "a function that is built in; nothing is written about it" end
  if info.source:find "^@sluice/" then return "a function of sluice's own; nothing is written about it" end
  return ("a function of %s, line %d; nothing is written about it"):format(info.short_src, info.linedefined)
end

-- What exists in a session alone.
local own = setmetatable({}, { __mode = "k" })

--- Says what a function of the session's does.
---@param f function
---@param text string
function help.describe(f, text) own[f] = text end

--- The text for a value or a name.
---@param value any
---@return string
function help.of(value)
  if own[value] then return own[value] .. "\n" end
  local text = require "sluice.annotations".of(value)
  if text then return (text:gsub("%s+$", "")) .. "\n" end
  if type(value) == "function" then return about_function(value) .. "\n" end
  if type(value) == "string" then
    local near = require "sluice.nearest"(value, require "sluice.annotations".names())
    if near then return ("nothing is known of '%s' (did you mean '%s'?)\n"):format(value, near) end
    local takes = "help(x) takes a function, a value, or a name such as \"task.map\""
    return ("nothing is known of '%s'; %s\n"):format(value, takes)
  end
  if value == nil then return "nil: there is no such name, or it has no value\n" end
  return ("a %s; nothing is written about it\n"):format(type(value))
end

return help
