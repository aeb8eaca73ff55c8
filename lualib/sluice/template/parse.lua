--- The text of a template -> a tree. Pure.
-- Owns: the grammar (told in sluice/template.lua), line numbers, and the words when it is wrong.
--
-- A tree is a list of strings and nodes { kind =, line =, … }:
--   place    path, optional, default, filters = { { name, argument } }
--   if       branches = { { test, body } … }; test: nil, or a list of lists of conditions { path, optional,
--            negated, operator, value }: one list of them must hold as a whole
--   for      names, path, optional, body, otherwise
--   include  file

local nearest = require "sluice.nearest"

local DEPTH_MAX = 64
local WORDS = { ["if"] = true, ["elseif"] = true, ["else"] = true, ["end"] = true, ["for"] = true, include = true,
  ["in"] = true, ["not"] = true, ["or"] = true, ["and"] = true }
local NAME = "^[%a_\x80-\xFF][%w_\x80-\xFF]*"

local Fault = { __name = "sluice.template.fault" }

local function fail(line, text, ...)
  if select("#", ...) > 0 then text = text:format(...) end
  error(setmetatable({ line = line, text = text }, Fault), 0)
end

-- Pieces ----------------------------------------------------------------------------------------------

--- Text between and inside of {{ }}: { text = } or { tag =, line =, alone = }.
local function pieces(source)
  local list, at, line = {}, 1, 1
  local held = {} -- text so far, of which "\{{" is a part
  local function flush()
    if #held > 0 then
      list[#list + 1] = { text = table.concat(held) }
      held = {}
    end
  end
  local function count(text) line = line + select(2, text:gsub("\n", "")) end
  while true do
    local from = source:find("{{", at, true)
    if not from then
      held[#held + 1] = source:sub(at)
      flush()
      return list
    end
    local before = source:sub(at, from - 1)
    count(before)
    if before:sub(-1) == "\\" then
      held[#held + 1] = before:sub(1, -2) .. "{{"
      at = from + 2
    else
      held[#held + 1] = before
      flush()
      local remark = source:sub(from + 2, from + 3) == "--"
      local stop, last
      if remark then stop, last = source:find("--}}", from + 4, true)
      else
        stop, last = from + 2, nil
        repeat -- "}}" inside of quotes does not end it
          local q = source:find('"', stop, true)
          local e, l = source:find("}}", stop, true)
          if e and (not q or e < q) then stop, last = e, l break end
          local close = q and source:find('"', q + 1, true)
          stop = close and close + 1 or #source + 1
        until not close
        if not last then stop = nil end
      end
      if not stop then fail(line, remark and "a remark {{-- without --}}" or "{{ without }}") end
      local inside = source:sub(from + 2, stop - 1)
      list[#list + 1] = { tag = remark and "" or inside:match "^%s*(.-)%s*$", remark = remark, line = line }
      count(inside)
      at = last + 1
    end
  end
end

--- Tags that leave no line of their own behind.
local function is_block(piece)
  if piece.remark then return true end
  local word = piece.tag and piece.tag:match "^%a+"
  return word ~= nil and WORDS[word] ~= nil and word ~= "in" and word ~= "not" and word ~= "or" and word ~= "and"
end

--- Takes the rest of the line away from around tags that stand alone on it.
local function trim_lines(list)
  local starts, ends = {}, {}
  for i, piece in ipairs(list) do
    if piece.tag and is_block(piece) then
      local before, after = list[i - 1], list[i + 1]
      local clear_before = before == nil or before.text and before.text:find "^[ \t]*$" and i == 2
        or before.text and before.text:find "\n[ \t]*$"
      local clear_after = after == nil or after.text and after.text:find "^[ \t]*\r?\n"
        or after.text and after.text:find "^[ \t]*$" and i + 1 == #list
      if clear_before and clear_after then starts[i - 1], ends[i + 1] = true, true end
    end
  end
  for i, piece in ipairs(list) do
    if piece.text then
      if starts[i] then piece.text = piece.text:gsub("[ \t]*$", "") end
      if ends[i] then piece.text = piece.text:gsub("^[ \t]*\r?\n?", "", 1) end
    end
  end
  return list
end

-- Tags ------------------------------------------------------------------------------------------------

local function path_of(text, line)
  local path, at = {}, 1
  while true do
    local from, to = text:find(#path == 0 and NAME or "^[%w_\x80-\xFF]+", at)
    if not from then return nil end
    path[#path + 1] = text:sub(from, to)
    at = to + 1
    local dot = text:sub(at, at)
    if dot == "" then break end
    if dot ~= "." then return nil end
    at = at + 1
  end
  if #path == 1 and WORDS[path[1]] then
    fail(line, "'%s' stands where a name is expected", path[1])
  end
  return path
end

--- "a.b?" -> path, optional.
local function reference(text, line, what)
  local name, mark = text:match "^(.-)(%??)$"
  local path = path_of(name, line)
  if not path then
    fail(line, "'%s' is no %s; a name is letters, digits and '_', fields follow a point", text, what or "name")
  end
  return path, mark == "?"
end

local function quoted(text) return text:match '^"([^"]*)"$' end

local function filters_of(text, line, known)
  local list = {}
  local at = 1
  while at <= #text + 1 do
    local from, to, part = text:find('^%s*(%a+%s*"[^"]*")%s*', at) -- a bar in quotes divides nothing
    if not from then
      to = (text:find("|", at, true) or #text + 1) - 1
      part = text:sub(at, to):match "^%s*(.-)%s*$"
    end
    local name, argument = part:match "^(%a+)%s*(.*)$"
    at = to + 2
    if to < #text and text:sub(to + 1, to + 1) ~= "|" then fail(line, "'%s' behind %s", text:sub(to + 1), part) end
    if not name or not known[name] then
      local near = nearest(name or part, known)
      local names = {}
      for k in pairs(known) do names[#names + 1] = k end
      table.sort(names)
      fail(line, "unknown filter '%s'%s", name or part, near and (" (did you mean '%s'?)"):format(near)
        or " (known: " .. table.concat(names, ", ") .. ")")
    end
    if argument ~= "" and not quoted(argument) then fail(line, "%s takes a text in quotes, got %s", name, argument) end
    if argument ~= "" and name ~= "join" then fail(line, "'%s' takes no argument", name) end
    list[#list + 1] = { name = name, argument = argument ~= "" and quoted(argument) or nil }
  end
  return list
end

local function place(tag, line, known)
  if tag == "" then fail(line, "{{ }} is empty; for the braces themselves write \\{{") end
  local head, rest = tag:match "^([^|\"]-)%s*|%s*(.*)$"
  local node = { kind = "place", line = line, filters = rest and filters_of(rest, line, known) or nil }
  head = head or tag
  local name, default = head:match "^(.-)%s+or%s+(.+)$"
  if name then
    node.default = quoted(default)
    if not node.default then fail(line, "after 'or' a text in quotes is expected, got %s", default) end
    head = name
  end
  node.path, node.optional = reference(head, line)
  return node
end

local function condition(text, line)
  local node = { line = line }
  local left, operator, value = text:match "^(.-)%s*([=~]=)%s*(.+)$"
  if operator then
    node.operator, node.value = operator, quoted(value) or value:match "^-?[%d.]+$"
    if not node.value then
      if value == "true" or value == "false" then node.value = value == "true"
      else fail(line, "'%s' is compared with a text in quotes, a number, true or false, got %s", left, value) end
    end
    text = left
  end
  local rest = text:match "^not%s+(.+)$"
  if rest then node.negated, text = true, rest end
  if text == "" then fail(line, "a condition is missing: {{if name}}") end
  node.path, node.optional = reference(text, line, "condition")
  return node
end

--- The pieces of a text between a word, which does not count inside of quotes.
local function split(text, word)
  local parts, start, at = {}, 1, 1
  while true do
    local from, to = text:find("%s+" .. word .. "%s+", at)
    local quote = text:find('"', at, true)
    if quote and from and quote < from then
      local close = text:find('"', quote + 1, true)
      if not close then from = nil else at = close + 1 end
    elseif from then
      parts[#parts + 1] = text:sub(start, from - 1)
      start, at = to + 1, to + 1
    end
    if not from then
      parts[#parts + 1] = text:sub(start)
      return parts
    end
  end
end

local function test(text, line)
  local any = {}
  for i, part in ipairs(split(text, "or")) do
    any[i] = {}
    for j, single in ipairs(split(part, "and")) do any[i][j] = condition(single, line) end
  end
  return any
end

local function loop(text, line)
  local names, list = text:match "^(.-)%s+in%s+(.+)$"
  if not names then fail(line, "a loop is written {{for item in list}}, got {{for %s}}", text) end
  local node = { kind = "for", line = line, names = {} }
  for name in (names .. ","):gmatch "%s*(.-)%s*," do
    local path = path_of(name, line)
    if not path or #path ~= 1 then fail(line, "'%s' is no name for what a loop takes", name) end
    node.names[#node.names + 1] = name
  end
  if #node.names > 2 then fail(line, "a loop takes one name, or two for key and value") end
  node.path, node.optional = reference(list, line, "list")
  return node
end

-- The tree ------------------------------------------------------------------------------------------

local function top(stack) return stack[#stack] end

local TAGS = {}

TAGS["if"] = function(stack, rest, line)
  local body = {}
  local node = { kind = "if", line = line, branches = { { test = test(rest, line), body = body } } }
  table.insert(top(stack).list, node)
  stack[#stack + 1] = { list = body, node = node }
end

TAGS["elseif"] = function(stack, rest, line)
  local frame = top(stack)
  if not frame.node or frame.node.kind ~= "if" or frame.closed then
    fail(line, "{{elseif}} without {{if}} before it")
  end
  frame.list = {}
  table.insert(frame.node.branches, { test = test(rest, line), body = frame.list })
end

TAGS["else"] = function(stack, rest, line)
  local frame = top(stack)
  if not frame.node or frame.closed then fail(line, "{{else}} without {{if}} or {{for}} before it") end
  if rest ~= "" then fail(line, "'%s' behind else; for another condition write {{elseif %s}}", rest,
    rest:gsub("^if%s+", "")) end
  frame.list, frame.closed = {}, true
  if frame.node.kind == "for" then frame.node.otherwise = frame.list
  else table.insert(frame.node.branches, { body = frame.list }) end
end

TAGS["end"] = function(stack, rest, line)
  if rest ~= "" then fail(line, "'%s' behind end", rest) end
  if #stack == 1 then fail(line, "{{end}} without {{if}} or {{for}} before it") end
  stack[#stack] = nil
end

TAGS["for"] = function(stack, rest, line)
  local node = loop(rest, line)
  node.body = {}
  table.insert(top(stack).list, node)
  stack[#stack + 1] = { list = node.body, node = node }
end

function TAGS.include(stack, rest, line)
  local file = quoted(rest)
  if not file or file == "" then
    fail(line, "{{include \"file\"}} takes the name of a file in quotes, got %s", rest)
  end
  table.insert(top(stack).list, { kind = "include", line = line, file = file })
end

local function build(source, known)
  local stack = { { list = {} } }
  for _, piece in ipairs(trim_lines(pieces(source))) do
    if piece.text then
      if piece.text ~= "" then table.insert(top(stack).list, piece.text) end
    elseif not piece.remark then
      local word, rest = piece.tag:match "^(%a+)%s*(.*)$"
      local handle = word and TAGS[word]
      -- {{include}} alone may be somebody's name for something; {{if}} may not
      if handle and (rest ~= "" or word ~= "include") and not rest:find "^[.|?]" then
        handle(stack, rest, piece.line)
        if #stack > DEPTH_MAX then fail(piece.line, "more than %d blocks inside each other", DEPTH_MAX) end
      else
        table.insert(top(stack).list, place(piece.tag, piece.line, known))
      end
    end
  end
  if #stack > 1 then
    local node = top(stack).node
    fail(node.line, "{{%s}} is not ended: {{end}} is missing", node.kind)
  end
  return stack[1].list
end

--- The tree of a template, or nil and the fault { line, text }.
---@param source string
---@param filters table<string, function>
---@return table? tree
---@return { line: integer, text: string }? fault
return function(source, filters)
  local ok, result = pcall(build, source, filters)
  if ok then return result end
  if getmetatable(result) ~= Fault then error(result, 0) end
  return nil, result
end
