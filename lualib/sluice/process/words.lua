--- What commands have in common, whoever runs them (sluice.process, sluice.token.command): the words of one,
--- the values it is handed, and what is quoted of its complaints.
-- Never: runs anything.

local secrets = require "sluice.core.secret"
local errors = require "sluice.errors"
local options = require "sluice.options"

local SHOWN_MAX = 300 -- bytes of stderr in an error's one line

local words = {}

--- May it be handed to a program as it is?
---@param value any
---@return boolean
function words.is_text(value)
  return type(value) == "string" or secrets.is(value)
end

--- For option specs.
words.TEXT = { check = words.is_text, expected = "a string or a secret" }
words.ENV = { type = "table", values = { check = function(v) return v == false or words.is_text(v) end,
  expected = "a string, a secret or false" } }

--- The words of the command, and the options without them. Raises for words that no program can have.
---@param where string
---@param opts any
---@return string[]
---@return table
function words.split(where, opts)
  if type(opts) ~= "table" then
    options.raise(("%s: expected a table, a program and its arguments first, got %s"):format(where, options.got(opts)))
  end
  local list, rest = {}, {}
  for key, value in pairs(opts) do
    if math.type(key) ~= "integer" then rest[key] = value
    elseif key < 1 or key > #opts then -- what follows a nil would be lost without a word
      options.raise(("%s: word %d stands behind one that is nil"):format(where, key))
    end
  end
  for i = 1, #opts do
    local word = opts[i]
    if secrets.is(word) then
      options.raise(("%s: word %d is a secret, and every user of the machine can read a command line; hand it over "
        .. "with env or input"):format(where, i))
    elseif math.type(word) == "integer" then
      word = ("%d"):format(word)
    elseif type(word) ~= "string" then
      options.raise(("%s: word %d must be a string, got %s"):format(where, i, options.got(word)))
    end
    if word:find "\0" then options.raise(("%s: word %d holds a NUL byte"):format(where, i)) end
    list[i] = word
  end
  if not list[1] or list[1] == "" then options.raise(where .. ": the program is missing, expected its name first") end
  return list, rest
end

--- A value as it is now: of a secret that changes, its value of the moment. May wait.
---@async
function words.current(value)
  return secrets.is(value) and secrets.current(value) or value
end

--- The same for changes to the environment.
---@async
---@param where string
---@param env? table<string, string|sluice.Secret|false>
function words.current_env(where, env)
  if not env then return nil end
  local values = {}
  for name, value in pairs(env) do
    if type(name) ~= "string" or not name:find "^[^=\0]+$" then
      options.raise(("%s: option 'env' must be a table of variables by name, got %s"):format(where,
        options.got(name)))
    end
    values[name] = words.current(value)
  end
  return values
end

--- ": " and the end of what a program said on stderr, where the reason stands; "" when it said nothing. One
--- line without secrets, which are looked for before anything is cut.
---@param stderr string
---@return string
function words.complaint(stderr)
  local text = secrets.redact(stderr):sub(-4 * SHOWN_MAX):gsub("^[\x80-\xBF]+", "")
  text = errors.one_line(text, 4 * SHOWN_MAX)
  if text == "" then return "" end
  if #text > SHOWN_MAX then text = "…" .. text:sub(-SHOWN_MAX):gsub("^[\x80-\xBF]+", "") end
  return ": " .. text
end

return words
