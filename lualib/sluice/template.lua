--- Templates: prompts with places in them.
-- Owns: the doors, files and their includes, and rendering. Reading the text: template/parse.lua.
-- Never: runs code. A template is data: names, tests and loops; what is put into a place is text and is not
-- looked at again.
--
--   Hello {{name}}, you live in {{address.city}}.        a place; fields, and items by number: {{rows.1}}
--   {{nick?}}  {{nick or "friend"}}                      may be missing: nothing, or this
--   {{data | json}} {{tags | join ", "}} {{text | trim}} {{n | upper}} {{n | lower}}
--   {{if admin}} … {{elseif role == "guest"}} … {{else}} … {{end}}     also: not x, x ~= "…", x?, and, or
--   {{for item in items}} {{loop.index}}. {{item.title}} {{else}} none {{end}}
--   {{for key, value in fields}} … {{end}}               by key, in order
--   {{include "rules.md"}}                               a file, relative to the one it stands in
--   {{-- a remark --}}                                   \{{ is {{ itself
--
-- A line that holds nothing but if, for, else, end, include or a remark is not in the result. A name that is not
-- defined is an error that names the template, the line and what is near; so is a table without `json` or
-- `join`, and a secret. Single braces mean nothing.
-- Reading order: template.new, template.file, RENDER.

local core_secret = require "sluice.core.secret"
local json = require "sluice.json"
local options = require "sluice.options"
local parse = require "sluice.template.parse"

local FILE_MAX = 8 << 20   -- bytes of one file
local RESULT_MAX = 64 << 20 -- bytes of a result
local INCLUDES_MAX = 20    -- files inside each other

---@class sluice.Template
---@field name string  what messages call it
---@overload fun(values?: table): string
local Template = { __name = "sluice.template" }
Template.__index = Template

---@class sluice.template
---@overload fun(text: string, opts?: { name?: string, dir?: string }): sluice.Template
local template = {}

--- What is wrong in a template: raised as the whole sentence, blamed on the caller's line.
local function fail(node, name, text, ...)
  if select("#", ...) > 0 then text = text:format(...) end
  options.raise(("template '%s', line %d: %s"):format(node.source or name, node.line, text))
end

-- Values ----------------------------------------------------------------------------------------------

local function names_of(scope)
  local names = {}
  while scope do
    for key in pairs(scope.values) do
      if type(key) == "string" then names[#names + 1] = key end
    end
    scope = scope.outer
  end
  table.sort(names)
  return names
end

local function keys_of(value)
  local names = {}
  if type(value) == "table" then
    for key in pairs(value) do names[#names + 1] = tostring(key) end
    table.sort(names)
  end
  return names
end

local function find_root(scope, name)
  while scope do
    local value = scope.values[name]
    if value ~= nil then return value end
    scope = scope.outer
  end
  return nil
end

--- One step into a value; nil where there is nothing.
local function field(value, key)
  if type(value) ~= "table" then return nil end
  local found = value[key]
  if found == nil and math.tointeger(tonumber(key)) then found = value[math.tointeger(tonumber(key))] end
  return found
end

--- The value of a path, or nil and a word about what is missing.
local function lookup(node, scope)
  local path = node.path
  local value = find_root(scope, path[1])
  if value == nil then
    return nil, ("'%s' is not defined%s"):format(path[1], options.suggest(path[1], names_of(scope)))
  end
  for i = 2, #path do
    local inner = field(value, path[i])
    if inner == nil then
      local so_far = table.concat(path, ".", 1, i - 1)
      if type(value) ~= "table" then
        return nil, ("'%s' is %s, it has no field '%s'"):format(so_far, options.got(value), path[i])
      end
      return nil, ("'%s' has no field '%s'%s"):format(so_far, path[i], options.suggest(path[i], keys_of(value)))
    end
    value = inner
  end
  if value == json.null then return nil, ("'%s' is null"):format(table.concat(path, ".")) end
  return value
end

local function plain(value)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "number" or kind == "boolean" then return tostring(value) end
  if kind == "table" then
    local meta = getmetatable(value)
    if type(meta) == "table" and meta.__tostring then return tostring(value) end -- a reply reads as its text
  end
  return nil
end

local FILTERS = {}

function FILTERS.json(value)
  local ok, text = pcall(json.encode, value)
  if ok then return text end
  return nil, "cannot be written as JSON: " .. tostring(text):gsub("^json: ", "")
end

function FILTERS.join(value, separator)
  if type(value) ~= "table" then return nil, "is no list; join wants one" end
  local parts = {}
  for i, item in ipairs(value) do
    parts[i] = plain(item)
    if not parts[i] then return nil, ("has an item (%d) that is %s"):format(i, options.got(item)) end
  end
  return table.concat(parts, separator or ", ")
end

local function of_text(f)
  return function(value)
    local text = plain(value)
    if not text then return nil, "is no text" end
    return f(text)
  end
end

FILTERS.trim = of_text(function(s) return (s:gsub("^%s+", ""):gsub("%s+$", "")) end)
FILTERS.upper = of_text(string.upper)
FILTERS.lower = of_text(string.lower)

local function shown(node) return table.concat(node.path, ".") end

-- Rendering -----------------------------------------------------------------------------------------

local RENDER = {}

local function render_list(list, out, scope, self)
  for i = 1, #list do
    local node = list[i]
    if type(node) == "string" then out:add(node) else RENDER[node.kind](node, out, scope, self) end
  end
end

function RENDER.place(node, out, scope, self)
  local value, why = lookup(node, scope)
  if value == nil then
    if node.default then return out:add(node.default) end
    if node.optional then return end
    fail(node, self.name, "%s; where it may be missing, write {{%s?}}", why, shown(node))
  end
  if core_secret.is(value) then fail(node, self.name, "'%s' is a secret, and no part of a prompt", shown(node)) end
  for _, filter in ipairs(node.filters or {}) do
    local text, reason = FILTERS[filter.name](value, filter.argument)
    if text == nil then fail(node, self.name, "'%s' %s", shown(node), reason) end
    value = text
  end
  local text = plain(value)
  if not text then
    fail(node, self.name, "'%s' is %s, which is no text%s", shown(node), options.got(value),
      type(value) == "table" and "; write {{" .. shown(node) .. " | json}}, or a loop" or "")
  end
  out:add(text)
end

--- Is the condition true? A missing name is an error, unless it is asked with "?".
local function holds(test, scope, self)
  local value, why = lookup(test, scope)
  if value == nil and not test.optional and not why:find "is null$" then
    fail(test, self.name, "%s; where it may be missing, write {{if %s?}}", why, shown(test))
  end
  local result
  if test.operator then
    local same = value == test.value or type(value) == "number" and tostring(value) == test.value
    result = same == (test.operator == "==")
  else
    -- nothing to show is false, too: an empty text, an empty list
    result = value ~= nil and value ~= false and value ~= "" and not (type(value) == "table" and next(value) == nil)
  end
  return result ~= (test.negated or false)
end

--- One of the lists holds as a whole.
local function any_holds(test, scope, self)
  for _, all in ipairs(test) do
    local good = true
    for _, condition in ipairs(all) do good = good and holds(condition, scope, self) end
    if good then return true end
  end
  return false
end

RENDER["if"] = function(node, out, scope, self)
  for _, branch in ipairs(node.branches) do
    if not branch.test or any_holds(branch.test, scope, self) then
      return render_list(branch.body, out, scope, self)
    end
  end
end

local function sorted_pairs(value)
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == "number" or type(a) == "string") then return a < b end
    return tostring(a) < tostring(b)
  end)
  return keys
end

RENDER["for"] = function(node, out, scope, self)
  local list, why = lookup(node, scope)
  if list == nil then
    if not node.optional then
      fail(node, self.name, "%s; where it may be missing, write {{for %s in %s?}}", why, node.names[1], shown(node))
    end
    list = {}
  end
  if type(list) ~= "table" then
    fail(node, self.name, "'%s' is %s; a loop wants a list or a table", shown(node), options.got(list))
  end
  local keyed = node.names[2] ~= nil
  local keys = keyed and sorted_pairs(list) or nil
  local count = keyed and #keys or #list
  for i = 1, count do
    local values = { loop = { index = i, count = count, first = i == 1, last = i == count } }
    if keyed then values[node.names[1]], values[node.names[2]] = keys[i], list[keys[i]]
    else values[node.names[1]] = list[i] end
    render_list(node.body, out, { values = values, outer = scope }, self)
  end
  if count == 0 and node.otherwise then render_list(node.otherwise, out, scope, self) end
end

function RENDER.include(node, out, scope, self)
  render_list(node.tree, out, scope, self)
end

local Out = {}
Out.__index = Out

function Out:add(text)
  self.size = self.size + #text
  if self.size > RESULT_MAX then
    options.raise(("template '%s': the result is larger than %d MiB"):format(self.name, RESULT_MAX >> 20))
  end
  self[#self + 1] = text
end

--- The text with its places filled: `t:render { name = "Ada" }`, or `t { name = "Ada" }`.
---@param values? table
---@return string
function Template:render(values)
  if values ~= nil and type(values) ~= "table" then
    options.raise(("template '%s': expected a table of values, got %s"):format(self.name, options.got(values)))
  end
  local out = setmetatable({ size = 0, name = self.name }, Out)
  render_list(self.tree, out, { values = values or {} }, self)
  return table.concat(out)
end

Template.__call = Template.render

--- The names the template asks for, in order of the alphabet; those in included files too.
---@return string[]
function Template:names()
  local seen, names = {}, {}
  local function add(name, bound)
    if not bound[name] and not seen[name] then
      seen[name] = true
      names[#names + 1] = name
    end
  end
  local function walk(list, bound)
    for _, node in ipairs(list) do
      if type(node) == "table" then
        if node.path then add(node.path[1], bound) end
        for _, branch in ipairs(node.branches or {}) do
          for _, all in ipairs(branch.test or {}) do
            for _, condition in ipairs(all) do add(condition.path[1], bound) end
          end
          walk(branch.body, bound)
        end
        if node.body then
          local inner = setmetatable({ loop = true }, { __index = bound })
          for _, name in ipairs(node.names) do inner[name] = true end
          walk(node.body, inner)
        end
        if node.otherwise then walk(node.otherwise, bound) end
        if node.tree then walk(node.tree, bound) end
      end
    end
  end
  walk(self.tree, {})
  table.sort(names)
  return names
end

function Template:__tostring()
  return "template " .. self.name
end

-- Making one ------------------------------------------------------------------------------------------

local compile

local function read_file(path)
  local file <close>, why = io.open(path, "rb")
  if not file then return nil, why end
  local text, reason = file:read(FILE_MAX + 1)
  if not text then
    if reason then return nil, ("%s: %s"):format(path, reason) end
    return "" -- an empty file
  end
  if #text > FILE_MAX then return nil, ("%s is larger than %d MiB"):format(path, FILE_MAX >> 20) end
  return (text:gsub("^\xEF\xBB\xBF", ""))
end

--- A file beside the one that names it.
local function beside(from, path)
  if path:find "^/" or not from then return path end
  return (from:match "^(.*/)[^/]*$" or "") .. path
end

local function include(node, from, chain)
  local path = beside(from, node.file)
  for _, open in ipairs(chain) do
    if open == path then
      fail(node, from or "text", "'%s' includes itself (%s)", path, table.concat(chain, " → ") .. " → " .. path)
    end
  end
  if #chain >= INCLUDES_MAX then fail(node, from or "text", "more than %d files inside each other", INCLUDES_MAX) end
  local text, why = read_file(path)
  if not text then fail(node, from or "text", "cannot include '%s': %s", node.file, why) end
  return compile(text, path, path, table.move(chain, 1, #chain, 1, {}))
end

--- Text -> tree, with the trees of included files in their places.
function compile(text, name, path, chain)
  if path then chain[#chain + 1] = path end
  local tree, fault = parse(text, FILTERS)
  if not tree then options.raise(("template '%s', line %d: %s"):format(name, fault.line, fault.text)) end
  local function walk(list)
    for _, node in ipairs(list) do
      if type(node) == "table" then
        node.source = name
        if node.kind == "include" then node.tree = include(node, path, chain) end
        for _, branch in ipairs(node.branches or {}) do
          for _, all in ipairs(branch.test or {}) do
            for _, condition in ipairs(all) do condition.source = name end
          end
          walk(branch.body)
        end
        if node.body then walk(node.body) end
        if node.otherwise then walk(node.otherwise) end
      end
    end
  end
  walk(tree)
  return tree
end

local SPEC = options.spec {
  name = { type = "string", nonempty = true },
  dir = { type = "string", nonempty = true },
}

--- A template from its text, compiled once: `sluice.template "Hello {{name}}!" { name = "Ada" }`. Raises an
--- ordinary error with the line when the text is wrong.
---@param text string
---@param opts? { name?: string, dir?: string }  what messages call it ("text"); where its includes are
---@return sluice.Template
function template.new(text, opts)
  if type(text) ~= "string" then
    options.raise("sluice.template: argument 1 must be the text of a template, got " .. options.got(text))
  end
  opts = options.check("sluice.template", opts or {}, SPEC)
  local name = opts.name or "text"
  local base = opts.dir and opts.dir:gsub("/*$", "/", 1) .. "(text)" or nil -- a path to look beside
  return setmetatable({ name = name, tree = compile(text, name, base, {}) }, Template)
end

--- Beside the script first, as `require` looks; then where the process is.
local function find(path)
  if path:find "^/" then return path end
  local script = type(arg) == "table" and type(arg[0]) == "string" and arg[0]
  local dir = script and script:match "^(.*/)[^/]*$"
  if dir then
    local file = io.open(dir .. path, "rb")
    if file then
      file:close()
      return dir .. path
    end
  end
  return path
end

--- A template from a file; its includes are relative to it. A relative path is looked for beside the script
--- first. Raises an ordinary error when the file cannot be read or is wrong.
---@param path string
---@return sluice.Template
function template.file(path)
  if type(path) ~= "string" or path == "" then
    options.raise("sluice.template.file: argument 1 must be the path of a file, got " .. options.got(path))
  end
  local found = find(path)
  local text, why = read_file(found)
  if not text then options.raise(("sluice.template.file: cannot read '%s': %s"):format(path,
    (tostring(why):gsub("^.*: ", "")))) end
  return setmetatable({ name = path, tree = compile(text, path, found, {}) }, Template)
end

return setmetatable(template, { __call = function(_, text, opts) return template.new(text, opts) end })
