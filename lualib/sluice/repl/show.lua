--- Values as a person reads them at a prompt: tables laid out and bounded, replies and errors in their
-- own form.
-- Owns: that form. Never: calls code of the value beyond its __tostring, nor shows a field whose name is
-- that of a credential.

local lex = require "sluice.repl.lex"
local log = require "sluice.log"
local report = require "sluice.report"
local term = require "sluice.term"

local WIDTH = 80
local DEPTH_MAX = 6     -- levels of tables
local ITEMS_MAX = 100   -- of one table
local NODES_MAX = 5000  -- of the whole
local STRING_MAX = 500  -- bytes of a string inside of a table

local show = {}

-- Plain values --------------------------------------------------------------------------------------

local SHORT = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" }

local function quoted(text)
  if not utf8.len(text) then
    text = text:gsub('[%c"\\\127-\255]', function(c) return SHORT[c] or ("\\x%02x"):format(c:byte()) end)
  else
    text = text:gsub('[%c"\\\127]', function(c) return SHORT[c] or ("\\x%02x"):format(c:byte()) end)
  end
  return '"' .. text .. '"'
end

-- At most `max` bytes, no character cut.
local function cut(text, max)
  if #text <= max then return text end
  while max > 0 and (text:byte(max + 1) or 0) & 0xC0 == 0x80 do max = max - 1 end
  return text:sub(1, max), #text - max
end

local function inner_string(text)
  local kept, left = cut(text, STRING_MAX)
  return quoted(kept) .. (left and (" … %d bytes more"):format(left) or "")
end

local function show_function(f)
  local info = debug.getinfo(f, "S")
  if info.what == "C" then return "<function, built in>" end
  return ("<function %s:%d>"):format(info.short_src, info.linedefined)
end

local function text_of(value)
  local ok, text = pcall(tostring, value)
  return ok and text or ("<%s whose __tostring fails>"):format(type(value))
end

local function metafield(value, name)
  local mt = debug.getmetatable(value)
  return type(mt) == "table" and rawget(mt, name) or nil
end

-- The value as one word, or nil: it is a table to be laid out.
local function atom(value)
  local kind = type(value)
  if kind == "string" then return inner_string(value) end
  if kind == "function" then return show_function(value) end
  if kind == "thread" then return ("<coroutine, %s>"):format(coroutine.status(value)) end
  if kind == "userdata" then
    local text = term.safe(text_of(value))
    return text:find "^<" and text or "<" .. text .. ">"
  end
  if kind ~= "table" then return tostring(value) end
  if metafield(value, "__tostring") then
    local name, text = metafield(value, "__name"), term.safe(cut(text_of(value), STRING_MAX))
    if type(name) == "string" then return ("<%s: %s>"):format(name, (text:gsub("\n", " "))) end
    return text
  end
  if next(value) == nil then return "{}" end
  return nil
end

-- Tables --------------------------------------------------------------------------------------------

local function show_key(key)
  if type(key) == "string" and key:find "^[%a_][%w_]*$" and not lex.KEYWORDS[key] then return key end
  if type(key) == "string" then return ("[%s]"):format(inner_string(key)) end
  return ("[%s]"):format(atom(key) or "{…}")
end

local RANK = { number = 1, string = 2, boolean = 3 }

local function by_key(a, b)
  local ka, kb = type(a), type(b)
  if ka ~= kb then return (RANK[ka] or 4) < (RANK[kb] or 4) or RANK[ka] == RANK[kb] and ka < kb end
  if ka == "number" or ka == "string" then return a < b end
  return text_of(a) < text_of(b)
end

-- Labels and values in the order in which they are shown; how many are left out.
local function entries(t)
  local list, n, left = {}, 0, 0
  while n < ITEMS_MAX and rawget(t, n + 1) ~= nil do
    n = n + 1
    list[n] = { value = rawget(t, n) }
  end
  local keys = {}
  for key in next, t do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then keys[#keys + 1] = key end
  end
  table.sort(keys, by_key)
  for i, key in ipairs(keys) do
    if #list >= ITEMS_MAX then
      left = #keys - i + 1
      break
    end
    list[#list + 1] = { key = key, label = show_key(key) .. " = ", value = rawget(t, key) }
  end
  return list, left
end

local layout

local function show_entry(entry, state, indent)
  local text
  if log.is_secret(entry.key) and type(entry.value) == "string" then
    text = "<hidden>"
  else
    text = layout(entry.value, state, indent, term.width(entry.label or "") + 1)
  end
  return (entry.label or "") .. text
end

local function show_table(t, state, indent, used)
  if state.path[t] then return "<cycle>" end
  if state.depth >= DEPTH_MAX or state.nodes > NODES_MAX then return "{…}" end
  state.path[t], state.depth = true, state.depth + 1
  local list, left = entries(t)
  local parts, columns, broken = {}, indent + used + 4, false
  for i, entry in ipairs(list) do
    parts[i] = show_entry(entry, state, indent + 2)
    columns = columns + term.width(parts[i]) + 2
    broken = broken or parts[i]:find("\n", 1, true) ~= nil
  end
  if left > 0 then parts[#parts + 1] = ("… and %d more"):format(left) end
  state.path[t], state.depth = nil, state.depth - 1
  local name = metafield(t, "__name")
  local head = type(name) == "string" and ("<%s> "):format(name) or ""
  if not broken and columns + #head <= state.width then return head .. "{ " .. table.concat(parts, ", ") .. " }" end
  local pad = (" "):rep(indent + 2)
  return ("%s{\n%s%s,\n%s}"):format(head, pad, table.concat(parts, ",\n" .. pad), (" "):rep(indent))
end

function layout(value, state, indent, used)
  state.nodes = state.nodes + 1
  return atom(value) or show_table(value, state, indent, used)
end

-- Forms of their own ----------------------------------------------------------------------------------

local function seconds(s) return (s < 10 and "%.1f s" or "%.0f s"):format(s) end

--- What a reply has beside its text, on one line.
---@param reply sluice.Reply
---@return string
function show.about_reply(reply)
  local parts = {}
  local function add(format, ...) parts[#parts + 1] = format:format(...) end
  if reply.provider or reply.model then add("%s/%s", reply.provider or "?", reply.model or "?") end
  if reply.finish_reason then add("%s", tostring(reply.finish_reason)) end
  local usage = reply.usage
  if type(usage) == "table" and (usage.input_tokens or usage.output_tokens) then
    add("%s + %s tokens", tostring(usage.input_tokens or "?"), tostring(usage.output_tokens or "?"))
  end
  local calls = rawget(reply, "tool_calls")
  if type(calls) == "table" and #calls > 0 then add("%d tool call%s", #calls, #calls == 1 and "" or "s") end
  if type(reply.elapsed) == "number" then
    add("%s%s", seconds(reply.elapsed), reply.ttft and (", first token %s"):format(seconds(reply.ttft)) or "")
  end
  local degraded = rawget(reply, "degraded")
  if type(degraded) == "table" then add("degraded: step %s, %s", tostring(degraded.step), tostring(degraded.why)) end
  return term.safe("  (" .. table.concat(parts, "; ") .. ")")
end

local function show_reply(reply, options)
  local text = term.safe(type(reply.text) == "string" and reply.text or "")
  local calls = rawget(reply, "tool_calls")
  local lines = { text ~= "" and text or nil }
  for _, call in ipairs(type(calls) == "table" and calls or {}) do
    lines[#lines + 1] = ("tool call %s %s"):format(term.safe(tostring(call.name)),
      show.value(call.arguments, options))
  end
  lines[#lines + 1] = options.paint("dim", show.about_reply(reply))
  return table.concat(lines, "\n")
end

local APART = { kind = true, message = true, traceback = true, spawned_at = true, cause = true, also = true }

-- The one line, and what the line does not say.
local function show_error(err, options)
  local rest = {}
  for key, value in next, err do
    if not APART[key] and type(value) ~= "function" then rest[key] = value end
  end
  local text = options.paint("red", report.text(err))
  if next(rest) ~= nil then text = text .. "\n" .. show.value(rest, options) end
  return text
end

-- A module whose parts are loaded when they are used: what there is, not what happens to be loaded.
local function show_names(value, names, options)
  local list = {}
  for name in pairs(names) do list[#list + 1] = tostring(name) end
  for name in next, value do
    if names[name] == nil then list[#list + 1] = tostring(name) end
  end
  table.sort(list)
  local lines = term.wrap(table.concat(list, ", "), options.width or WIDTH)
  lines[#lines + 1] = options.paint("dim", 'help "NAME" says what each is')
  return table.concat(lines, "\n")
end

local function plain(_, text) return text end

---@class sluice.repl.ShowOptions
---@field width? integer columns, default 80
---@field paint? fun(colour: string, text: string): string

--- A value as text, without a newline at its end.
---@param value any
---@param options? sluice.repl.ShowOptions
---@return string
function show.value(value, options)
  options = options or {}
  options.paint = options.paint or plain
  if type(value) == "string" then
    if value:find "\n" and utf8.len(value) then return term.safe(value) end -- text: as it reads
    return quoted(value)
  end
  local name = type(value) == "table" and metafield(value, "__name")
  if name == "sluice.reply" then return show_reply(value, options) end
  if name == "sluice.error" then return show_error(value, options) end
  local names = type(value) == "table" and metafield(value, "__sluice_names")
  if type(names) == "function" then return show_names(value, names(), options) end
  local state = { width = options.width or WIDTH, path = {}, depth = 0, nodes = 0 }
  return layout(value, state, 0, 0)
end

--- The first lines of a text, and how many were left out.
---@param text string
---@param max integer lines
---@param width integer columns of the terminal: a longer line takes several
---@return string text
---@return integer left lines that are not in it
function show.bounded(text, max, width)
  local kept, rows, total = {}, 0, 0
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do
    total = total + 1
    rows = rows + math.max(1, math.ceil(term.width(line) / width))
    if rows <= max then
      kept[#kept + 1] = line
    elseif total == 1 then -- one line longer than the screen
      kept[1] = cut(line, max * width)
      return kept[1] .. "…", 1
    end
  end
  return table.concat(kept, "\n"), total - #kept
end

return show
