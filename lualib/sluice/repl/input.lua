--- What somebody has typed: is it whole, an expression, a statement, wrong?
-- Owns: that decision, and what `local` means at the prompt. Pure: compiles, runs nothing.
--
-- A `local` of the outermost level would be gone with its line. It is read without the word, so that the
-- name stays for the session, as a global; inside of functions and blocks `local` is what it always is.
-- `local x <close>` stays local: its value would be closed with the line anyway.

local lex = require "sluice.repl.lex"

local input = {}

local OPENS = { ["function"] = true, ["do"] = true, ["if"] = true, ["repeat"] = true }
local CLOSES = { ["end"] = true, ["until"] = true }

local function is_text(t, text) return t ~= nil and t.text == text and t.kind ~= "string" end

-- `local a <const>, b` from the token after the word on: the names, the tokens of attributes, the next
-- token; nil when it reads otherwise.
local function name_list(tokens, i)
  local names, attributes = {}, {}
  repeat
    local name = tokens[i]
    if not name or name.kind ~= "name" then return nil end
    names[#names + 1] = name
    i = i + 1
    if is_text(tokens[i], "<") then
      if not tokens[i + 1] or tokens[i + 1].text == "close" then return nil end
      table.move(tokens, i, i + 2, #attributes + 1, attributes)
      i = i + 3
    end
    local more = is_text(tokens[i], ",")
    if more then i = i + 1 end
  until not more
  return names, attributes, i
end

-- What is to be changed in the source: { first, last, by }, in order.
local function declaration(tokens, i, edits, promoted)
  local word = tokens[i]
  local blank = { word.first, word.last, "     " }
  if is_text(tokens[i + 1], "function") then
    edits[#edits + 1] = blank
    if tokens[i + 2] then promoted[#promoted + 1] = tokens[i + 2].text end
    return
  end
  local names, attributes, after = name_list(tokens, i + 1)
  if not names then return end
  edits[#edits + 1] = blank
  for _, t in ipairs(attributes) do edits[#edits + 1] = { t.first, t.last, (" "):rep(#t.text) } end
  for _, t in ipairs(names) do promoted[#promoted + 1] = t.text end
  if not is_text(tokens[after], "=") then
    local last = tokens[after - 1].last
    edits[#edits + 1] = { last + 1, last, " = nil;" }
  end
end

--- The source with the outermost `local`s made names of the session.
---@param source string
---@return string source
---@return string[] names those that were
function input.promote(source)
  local tokens, edits, promoted, depth = {}, {}, {}, 0
  for _, t in ipairs(lex.tokens(source)) do
    if t.kind ~= "comment" then tokens[#tokens + 1] = t end
  end
  for i, t in ipairs(tokens) do
    if t.kind == "keyword" then
      if OPENS[t.text] then depth = depth + 1 end
      if CLOSES[t.text] then depth = depth - 1 end
      if t.text == "local" and depth == 0 then declaration(tokens, i, edits, promoted) end
    end
  end
  local parts, from = {}, 1
  for _, edit in ipairs(edits) do
    parts[#parts + 1] = source:sub(from, edit[1] - 1) .. edit[3]
    from = edit[2] + 1
  end
  parts[#parts + 1] = source:sub(from)
  return table.concat(parts), promoted
end

-- Not a tail call: the typed line is to be seen in tracebacks, and as the place where a task was spawned.
local AS_EXPRESSION = "local __line <close> = nil; return "

local function is_open(message) return message:find "near <eof>$" ~= nil end

---@class sluice.repl.Input
---@field state "empty"|"incomplete"|"wrong"|"expression"|"statement"
---@field chunk? function
---@field message? string why it is wrong
---@field promoted? string[] names whose `local` was not taken literally

--- Reads what has been typed so far.
---@param source string one line or several
---@param chunkname string
---@return sluice.repl.Input
function input.read(source, chunkname)
  local words = 0
  for _, t in ipairs(lex.tokens(source)) do
    if t.kind ~= "comment" or t.open == "long" then words = words + 1 end
  end
  if words == 0 then return { state = "empty" } end
  -- A newline at the end: else a string that lacks its quote would look as if more could help.
  local chunk, as_expression = load(AS_EXPRESSION .. source:gsub("^%s*=", "") .. "\n", chunkname, "t")
  if chunk then return { state = "expression", chunk = chunk } end
  local text, promoted = input.promote(source)
  local message
  chunk, message = load(text .. "\n", chunkname, "t")
  if chunk then return { state = "statement", chunk = chunk, promoted = promoted } end
  if is_open(message) or is_open(as_expression) then return { state = "incomplete" } end
  return { state = "wrong", message = message }
end

return input
