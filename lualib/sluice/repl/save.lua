--- A session as a script.
-- Owns: how what was typed reads as a program. Pure.
--
-- What printed a value prints it there too; what streamed streams; a value that was used as `_` later is
-- kept in it. spawn(f) becomes a task of the group that the whole then stands in.

local history = require "sluice.repl.history"
local lex = require "sluice.repl.lex"

local save = {}

---@class sluice.repl.Done
---@field source string
---@field kind "statement"|"silent"|"value"|"stream"

local function uses(source, name)
  local before
  for _, t in ipairs(lex.tokens(source)) do
    if t.kind == "name" and t.text == name and not (before and (before.text == "." or before.text == ":")) then
      return true
    end
    before = t
  end
  return false
end

-- An expression, without what `return` would not mind: a comment behind it would swallow what follows.
local function expression(source)
  source = source:gsub("^%s*=", ""):gsub("[%s;]+$", "")
  local last
  for _, t in ipairs(lex.tokens(source)) do last = t end
  return last and last.kind == "comment" and source .. "\n" or source
end

local function statement(input, kept)
  local text = input.source
  if input.kind == "statement" then return text end
  local value = expression(text)
  if input.kind == "stream" then
    if kept then
      return ("do\n  local stream <close> = %s\n  for text in stream:text() do io.write(text) end\n  print()\n"
        .. "  _ = stream:reply()\nend"):format(value)
    end
    return ("for text in (%s):text() do io.write(text) end\nprint()"):format(value)
  end
  if kept then return input.kind == "value" and ("_ = %s\nprint(_)"):format(value) or ("_ = %s"):format(value) end
  return input.kind == "value" and ("print(%s)"):format(value) or value
end

-- Is the value of input i used as `_` before there is another one?
local function is_kept(inputs, i)
  for k = i + 1, #inputs do
    if uses(inputs[k].source, "_") then return true end
    if inputs[k].kind == "value" or inputs[k].kind == "stream" then return false end
  end
  return false
end

--- The script; nil when there is nothing to write.
---@param inputs sluice.repl.Done[] in order, only those that succeeded
---@return string?
---@return boolean? hidden something that looked like a credential was taken out
function save.script(inputs)
  if #inputs == 0 then return nil end
  local parts, spawns, hidden = {}, false, false
  for i, input in ipairs(inputs) do
    local text, changed = history.without_secrets(statement(input, is_kept(inputs, i)))
    hidden = hidden or changed
    -- two lines in a row may read as one call
    if text:find "^%s*%(" then text = ";" .. text end
    parts[#parts + 1] = text
    spawns = spawns or uses(input.source, "spawn")
  end
  local body = table.concat(parts, "\n")
  if spawns then
    body = "sluice.task.group(function(group)\n  local function spawn(f, ...) return group:spawn(f, ...) end\n"
      .. body .. "\nend)"
  end
  return 'local sluice = require "sluice"\n\n' .. body .. "\n", hidden
end

return save
