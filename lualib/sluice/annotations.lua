--- What the library says of itself: the annotations above its public functions. One source for help(x) in
--- the REPL, the reference (docs/api.md) and the stubs of `sluice types`.
-- Owns: the list of what is public, and reading it out of the sources. Never: runs or changes them.
-- Reading order: PAGES, annotations.read, annotations.of.
--
-- A function is documented when lines of --- stand right above it. Tags: ---@param NAME[?] TYPE  ABOUT,
-- ---@return TYPE [NAME] [ABOUT]; the other lines are prose. With a line that begins "For sluice's own modules"
-- it is in no list: help(f) knows it, scripts should not.

local annotations = {}

---@class sluice.Page
---@field module string   the file, below sluice/
---@field own string      the name its table has in there
---@field shown string    the name scripts know it by
---@field about string
---@field heading string
---@field only? table<string, string>  of its functions these, under these names

---@class sluice.Documented
---@field name string     "sluice.task.map", "model:ask"
---@field key string      "map"
---@field method boolean
---@field args string     "(items, f, opts)"
---@field doc string[]    the lines, without ---
---@field line integer    where the function begins
---@field page? sluice.Page

--- What is public: module, the name its table has in the file, the name scripts use, a word about it, the
--- heading if another.
---@type string[][]
annotations.PAGES = {
  { "init", "sluice", "sluice", "The façade: `local sluice = require \"sluice\"`. The other names in it are below." },
  { "provider", "provider", "provider", "Services of your own.", only = { register = "sluice.provider" } },
  { "policy.limiter", "limiter", "limit", "Limits that models share.", only = { new = "sluice.limit" } },
  { "test", "test", "test", "Policy tests: `sluice test FILE`.", only = { add = "sluice.test" } },
  { "model", "Model", "model", "What `sluice.model { … }` returns." },
  { "policy.breaker", "Breaker", "breaker", "What `model.breaker` is: to look at, and to force." },
  { "policy.limiter", "Limiter", "limiter", "What `model.limiter` is, and what `sluice.limit { … }` returns." },
  { "stream", "Stream", "stream", "What `model:stream` returns." },
  { "transform", "Transformable", "stream",
    "What a stream's text is made into while it flows: every stream has these, a transformed one too.",
    "stream, transformed" },
  { "transform", "Transformed", "transformed", "What these return: a stream, which `for` reads item by item.",
    "A transformed stream" },
  { "reply", "Reply", "reply", "What `model:ask` and `stream:reply` return." },
  { "fallback", "Fallback", "fallback", "What `sluice.fallback { … }` returns." },
  { "rules", "Rules", "rules", "What `sluice.rules \"file.lua\"` returns." },
  { "rule", "rule", "sluice.rule", "Steps for a fallback." },
  { "cache", "Cache", "cache", "What `sluice.cache { … }` returns." },
  { "budget", "Budget", "budget", "What `sluice.budget { … }` returns." },
  { "price", "price", "prices", "What calls cost.", only = { set = "sluice.prices" } },
  { "files", "files", "sluice.files", "Files as input and output of prompts." },
  { "jsonl", "jsonl", "sluice.jsonl", "Rows of JSON, one a line." },
  { "jsonl", "Writer", "writer", "What `sluice.jsonl.writer` returns." },
  { "pipeline", "pipeline", "sluice.pipeline", "Stages over a stream of items." },
  { "term", "term", "sluice.term", "What a terminal can show." },
  { "term.markdown", "Markdown", "renderer", "What `sluice.term.markdown` returns." },
  { "task", "task", "sluice.task", "Structured concurrency." },
  { "http", "http", "sluice.http", "HTTP for what models do not cover." },
  { "http", "Response", "response", "What `sluice.http.request` returns." },
  { "http", "EventStream", "events", "What `sluice.http.stream` returns." },
  { "secret", "secret", "sluice.secret", "Values that do not show." },
  { "token", "token", "sluice.token", "Credentials that refresh themselves." },
  { "process", "process", "sluice.process", "Other programs." },
  { "process", "Result", "result", "What `sluice.process.run` returns." },
  { "process", "Child", "child", "What `sluice.process.stream` returns." },
  { "server", "server", "sluice.server", "An HTTP server." },
  { "server", "Server", "server", "What `sluice.server.listen` returns." },
  { "server", "Request", "req", "What a server's handler is asked." },
  { "server", "Response", "res", "What a server's handler answers with." },
  { "chat", "Chat", "chat", "What `sluice.chat { … }` and `sluice.chat.load` return." },
  { "chat", "chat", "sluice.chat", "Conversations." },
  { "template", "Template", "template", "What `sluice.template \"…\"` and `sluice.template.file` return." },
  { "template", "template", "sluice.template", "Prompts with places in them." },
  { "tool", "Tool", "tool", "What `sluice.tool { … }` returns." },
  { "tool", "tool", "sluice.tool", "Lua functions that a model may call, and the loop that calls them." },
  { "schema", "schema", "sluice.schema", "What an answer, or the arguments of a tool, must look like." },
  { "tokens", "tokens", "sluice.tokens", "Estimates, and sums of what was used." },
  { "json", "json", "sluice.json", "JSON as APIs mean it." },
  { "errors", "errors", "sluice.errors", "The one kind of error." },
  { "log", "log", "sluice.log", "Lines on stderr." },
  { "metrics", "metrics", "sluice.metrics",
    "Counters, gauges and histograms, beside sluice's own ([which](metrics.md))." },
  { "metrics", "Metric", "metric", "What `sluice.metrics.counter`, `gauge` and `histogram` return." },
  { "test", "Context", "t", "What a test of `sluice test` is given." },
}

-- Sources --------------------------------------------------------------------------------------------

-- With --lib this file comes from disk, and so must those it speaks of.
local FOLDER = debug.getinfo(1, "S").source:match "^@(.*)sluice/annotations%.lua$"

--- The text of a module: "sluice.task", "meta.sluice.types". Nil when there is none.
---@param module string
---@return string?
function annotations.source(module)
  module = module:gsub("%.init$", "")
  if not FOLDER or FOLDER == "" then return require "sluice.core.library".source(module) end
  local path = FOLDER .. module:gsub("%.", "/")
  local file = io.open(path .. ".lua", "rb") or io.open(path .. "/init.lua", "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

local OWN = "^For sluice's own modules"

local function is_own(doc)
  for _, line in ipairs(doc) do
    if line:find(OWN) then return true end
  end
  return false
end

local parsed = {} -- module -> everything with lines of --- above it

--- The arguments of a function that is not written out here, from its parameters.
local function args_of(doc)
  local names = {}
  for _, line in ipairs(doc) do
    names[#names + 1] = line:match "^@param%s+([%w_.]+)"
    local typed = line:match "^@type%s+fun(%b())"
    for name in (typed or ""):gsub("%b{}", ""):gmatch "([%w_]+)%??:" do names[#names + 1] = name end
  end
  return "(" .. table.concat(names, ", ") .. ")"
end

--- "(req, opts)" without the arguments that are for sluice's own modules.
local function public_args(args, doc)
  for _, line in ipairs(doc) do
    local name = line:match "^@param%s+([%w_]+)%??%s.*%s%sfor sluice's own modules"
    if name then args = args:gsub(",?%s*%f[%w_]" .. name .. "%f[^%w_]", "") end
  end
  return args
end

--- Every documented function of a module: { own, key, method, args, doc, line }.
local function functions_of(module)
  if parsed[module] then return parsed[module] end
  local list, block, number = {}, nil, 0
  for line in ((annotations.source("sluice." .. module) or "") .. "\n"):gmatch "([^\n]*)\n" do
    number = number + 1
    local doc = line:match "^%-%-%-%s?(.*)$"
    if doc then
      block = block or {}
      block[#block + 1] = doc
    else
      if block then
        local own, sep, key, args = line:match "^function ([%a_][%w_]*)([.:])([%a_][%w_]*)(%b())"
        if not own then
          own, key = line:match "^([%a_][%w_]*)%.([%a_][%w_]*) = "
          args = own and args_of(block)
        end
        if not own then
          key, args = line:match "^local function ([%a_][%w_]*)(%b())"
          own = key and false
        end
        if key then
          list[#list + 1] = { own = own, key = key, method = sep == ":", args = public_args(args, block), doc = block,
            line = number }
        end
      end
      block = nil
    end
  end
  parsed[module] = list
  return list
end

---@param page string[]
---@return sluice.Page
local function page_of(page)
  return { module = page[1], own = page[2], shown = page[3], about = page[4], heading = page[5] or page[3],
    only = page.only }
end

--- The functions of a page, in the order of the file. A constructor stands under the name it has in sluice.
---@param page sluice.Page
---@return sluice.Documented[]
function annotations.read(page)
  local list, made = {}, getmetatable(require "sluice").__sluice_names()
  for _, f in ipairs(functions_of(page.module)) do
    local only = page.only and page.only[f.key]
    local name = only or page.shown .. (f.method and ":" or ".") .. f.key
    local public = f.own == page.own and not f.key:find "^__" and (only or not page.only) and not is_own(f.doc)
    if f.key == "new" and not only and page.own ~= "errors" then -- sluice.model { … } makes a model
      local short = page.shown:gsub("^sluice%.", "")
      name, public = "sluice." .. short, public and made[short]
    end
    if public then
      list[#list + 1] = { name = name, key = f.key, method = f.method, args = f.args, doc = f.doc, line = f.line,
        page = page }
    end
  end
  return list
end

--- All pages, in order.
---@return sluice.Page[]
function annotations.pages()
  local list = {}
  for i, page in ipairs(annotations.PAGES) do list[i] = page_of(page) end
  return list
end

-- The parts of "a: T, b?: { c: U, d: V }" between commas that stand in no brackets.
local function split(text)
  local list, depth, from = {}, 0, 1
  for at, char in text:gmatch "()([%(%){},<>])" do
    if char:find "[%({<]" then depth = depth + 1
    elseif char:find "[%)}>]" then depth = depth - 1
    elseif depth == 0 then list[#list + 1], from = text:sub(from, at - 1), at + 1 end
  end
  if text:find("%S", from) then list[#list + 1] = text:sub(from) end
  return list
end

--- What "fun(a: T, b?: U): R" says, as @param and @return would.
local function take_type(parts, text)
  local args, result = text:match "^fun(%b())%s*:?%s*(.*)$"
  for _, arg in ipairs(split((args or "()"):sub(2, -2))) do
    local name, kind = arg:match "^%s*([%w_]+%??)%s*:%s*(.-)%s*$"
    if name then parts.params[#parts.params + 1] = { name = name, type = kind } end
  end
  if result and result ~= "" then parts.returns[#parts.returns + 1] = result end
end

--- A docstring taken apart.
---@param doc string[]
---@return { prose: string[], params: { name: string, type: string, about?: string }[], returns: string[] }
function annotations.parts(doc)
  local parts = { prose = {}, params = {}, returns = {} }
  for _, line in ipairs(doc) do
    local tag, rest = line:match "^@(%a+)%s*(.*)$"
    if tag == "param" then
      local name, kind, about = rest:match "^(%S+)%s+(%S.-)%s%s+(.*)$"
      if not name then name, kind = rest:match "^(%S+)%s+(.*)$" end
      if not (about or ""):find "^for sluice's own modules" then
        parts.params[#parts.params + 1] = { name = name or rest, type = kind or "", about = about }
      end
    elseif tag == "return" then
      parts.returns[#parts.returns + 1] = rest
    elseif tag == "type" then
      take_type(parts, rest)
    elseif not tag then
      parts.prose[#parts.prose + 1] = line
    end
  end
  return parts
end

-- As text ---------------------------------------------------------------------------------------------

local function text_of(f)
  local parts, out = annotations.parts(f.doc), { f.name .. f.args, "" }
  for _, line in ipairs(parts.prose) do out[#out + 1] = line end
  if #parts.params + #parts.returns > 0 then out[#out + 1] = "" end
  for _, p in ipairs(parts.params) do
    out[#out + 1] = ("  %s: %s%s"):format(p.name, p.type, p.about and ", " .. p.about or "")
  end
  for _, line in ipairs(parts.returns) do out[#out + 1] = "  returns " .. line end
  return table.concat(out, "\n")
end

--- The first sentence of a docstring.
local function first_sentence(doc)
  local text = table.concat(annotations.parts(doc).prose, " ")
  return text:match "^(.-[^.]%.)%s" or text
end

local function page_text(page)
  local out = { ("%s: %s"):format(page.heading, page.about), "" }
  for _, f in ipairs(annotations.read(page)) do
    out[#out + 1] = ("  %s%s"):format(f.name, f.args)
    out[#out + 1] = "      " .. first_sentence(f.doc)
  end
  return table.concat(out, "\n")
end

local function overview()
  local out = { "sluice: prompt workflows. help \"NAME\" says more of each.", "" }
  local seen = {}
  for _, page in ipairs(annotations.pages()) do
    if not seen[page.heading] then
      seen[page.heading] = true
      out[#out + 1] = ("  %-18s %s"):format(page.heading, page.about)
    end
  end
  return table.concat(out, "\n")
end

-- Finding ---------------------------------------------------------------------------------------------

--- "sluice.task:map" and "task.map" are the same.
local function plain(name)
  return (name:gsub("^sluice%.", ""):gsub(":", "."):gsub("%(.*$", ""))
end

local function by_name(name)
  if name == "sluice" then return overview() end
  local wanted, found, last = plain(name), nil, nil
  for _, page in ipairs(annotations.pages()) do
    for _, f in ipairs(annotations.read(page)) do
      local known = plain(f.name)
      if known == wanted then found = found or text_of(f) end
      if known:match "[^.]+$" == wanted then last = last and false or last == nil and f or last end
    end
  end
  local shown
  for _, page in ipairs(annotations.pages()) do
    if plain(page.shown) == wanted then shown = (shown and shown .. "\n\n" or "") .. page_text(page) end
  end
  if found and shown then return found .. "\n\n" .. shown end
  return found or shown or last and text_of(last) or require "sluice.annotations.types".text(wanted)
end

--- Every name that help knows, without "sluice." in front.
---@return string[]
function annotations.names()
  local seen, list = {}, {}
  local function add(name)
    if not seen[name] then
      seen[name], list[#list + 1] = true, name
    end
  end
  for _, page in ipairs(annotations.pages()) do
    add(plain(page.shown))
    for _, f in ipairs(annotations.read(page)) do
      add(plain(f.name))
      add(f.key)
    end
  end
  return list
end

--- The module that a function of the library was written in, and its line.
local function place_of(f)
  local info = debug.getinfo(f, "S")
  local module = info.source:match "^@.-sluice/(.*)%.lua$"
  if not module then return nil end
  return (module:gsub("/init$", ""):gsub("/", ".")), info.linedefined
end

--- A method of a stream that only loads sluice.transform and calls what has its name there.
local function behind(f)
  for i = 1, 2 do
    local upvalue, name = debug.getupvalue(f, i)
    if upvalue == "name" then return require "sluice.transform"[name] end
  end
  return f
end

local function by_function(f)
  local module, line = place_of(f)
  if module == "transform.methods" then module, line = place_of(behind(f)) end
  local pages = annotations.pages()
  for _, page in ipairs(pages) do
    if page.module == module then
      for _, known in ipairs(annotations.read(page)) do
        if known.line == line then return text_of(known) end
      end
    end
  end
  for _, page in ipairs(pages) do -- a name for what is defined elsewhere: in C, or as a local function
    local home = page.shown:find "^sluice%." and package.loaded["sluice." .. page.module]
    if type(home) == "table" then
      for _, known in ipairs(annotations.read(page)) do
        if rawget(home, known.key) == f then return text_of(known) end
      end
    end
  end
  if not module then return nil end
  for _, known in ipairs(functions_of(module)) do
    if known.line == line then
      known.name = known.key
      return text_of(known)
    end
  end
  return nil
end

local function has_method(value, key)
  local ok, f = pcall(function() return value[key] end)
  return ok and type(f) == "function" and f
end

local function by_value(value)
  if value == package.loaded.sluice then return overview() end
  for _, page in ipairs(annotations.pages()) do
    if page.shown:find "^sluice%." and value == package.loaded["sluice." .. page.module] then return page_text(page) end
  end
  local mt = getmetatable(value)
  if type(mt) ~= "table" then return nil end
  for _, page in ipairs(annotations.pages()) do
    for _, known in ipairs(annotations.read(page)) do
      if known.method then
        local f = has_method(value, known.key)
        local module, line = nil, nil
        if f then module, line = place_of(f) end
        if module == page.module and line == known.line then return page_text(page) end
        break -- its first method tells
      end
    end
  end
  return nil
end

--- What is written about a function, a value, or a name such as "task.map"; nil when nothing is.
---@param value any
---@return string?
function annotations.of(value)
  if type(value) == "string" then return by_name(value) end
  if type(value) == "function" then return by_function(value) end
  if type(value) == "table" or type(value) == "userdata" then return by_value(value) end
  return nil
end

return annotations
