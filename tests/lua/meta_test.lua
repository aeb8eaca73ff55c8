-- The stubs under lualib/meta, which editors and the reference read, against what C really defines:
-- the same functions, no more and no fewer.
local T = require "harness"

local META = "lualib/meta/sluice/"

-- In builds for tests alone, so only the stub may have them.
local OPTIONAL = { ["task.fail_allocation"] = true }

-- Runs a stub. Its classes are local tables; they are found by the `function Class:method` lines.
local function stub(name)
  local module = assert(loadfile(META .. name .. ".lua"))()
  local classes = {}
  for line in io.lines(META .. name .. ".lua") do
    local class, method = line:match "^function (%u%w*)[:.]([%w_]+)%("
    if class then
      classes[class] = classes[class] or {}
      classes[class][method] = true
    end
  end
  return module, classes
end

local function names_of(functions)
  local names = {}
  for name, value in pairs(functions) do
    if type(value) == "function" and not name:find "^__" then names[name] = true end
  end
  return names
end

local function methods_of(value)
  local mt = debug.getmetatable(value)
  return names_of(type(mt.__index) == "table" and mt.__index or mt)
end

local function same(t, name, documented, real)
  for key in pairs(documented) do
    if OPTIONAL[name .. "." .. key] and not real[key] then documented[key] = nil end
  end
  t.eq(documented, real, name)
end

-- The methods of a class in Lua's sense: its own and those of what it extends.
local function with(classes, ...)
  local all = {}
  for _, class in ipairs { ... } do
    for method in pairs(classes[class]) do all[method] = true end
  end
  return all
end

T.test("sluice.core.task", function(t)
  local core = require "sluice.core.task"
  local module, classes = stub "task"
  same(t, "task", names_of(module), names_of(core))
  local scope <close> = core.scope { group = true }
  same(t, "Scope", with(classes, "Group", "Scope"), methods_of(scope))
  scope:run(function() same(t, "Task", classes.Task, methods_of(scope:spawn(function() end))) end)
  scope:wait()
  t.eq(type(core.error_metatable), "table")
end)

T.test("sluice.core.sync", function(t)
  local core = require "sluice.core.sync"
  local module, classes = stub "sync"
  same(t, "sync", names_of(module), names_of(core))
  same(t, "Semaphore", classes.Semaphore, methods_of(core.semaphore(1)))
  same(t, "Channel", classes.Channel, methods_of(core.channel(1)))
end)

T.test("sluice.core.text", function(t)
  local core = require "sluice.core.text"
  local module, classes = stub "text"
  same(t, "text", names_of(module), names_of(core))
  same(t, "Text", classes.Text, methods_of(core.new()))
end)

T.test("sluice.core.server", function(t)
  local core = require "sluice.core.server"
  local module, classes = stub "server"
  same(t, "server", names_of(module), names_of(core))
  local listener <close> = core.listen { address = "127.0.0.1" }
  same(t, "Listener", classes.Listener, methods_of(listener))
end)

-- Every other stub of a C module, as far as its functions go.
T.test("the other C modules that have a stub", function(t)
  local checked = 0
  for path in io.popen("ls " .. META .. "*.lua"):lines() do
    local name = path:match "([%w_]+)%.lua$"
    local head = io.lines(path)()
    local module = head:match "^%-%-%-@meta (sluice%.core%.[%w_.]+)$"
    if module then
      checked = checked + 1
      same(t, name, names_of(stub(name)), names_of(require(module)))
    end
  end
  t.ok(checked >= 4)
end)

-- The values the annotations list must be those the C code takes.
T.test("the reasons of a cancellation", function(t)
  local core = require "sluice.core.task"
  local listed = 0
  for line in io.lines(META .. "task.lua") do
    local reason = line:match '^%-%-%-| "([^"]+)"$'
    if reason then
      listed = listed + 1
      local scope <close> = core.scope {}
      scope:cancel(reason)
      t.ok(select(2, scope:run(core.check)).message:find(reason, 1, true), reason)
    end
  end
  t.eq(listed, 7)
end)

T.done()
