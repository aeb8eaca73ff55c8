-- What help(x), the reference and the stubs are made of.
local T = require "harness"
local annotations = require "sluice.annotations"
local sluice = require "sluice"

T.test("every page has functions, and every function a sentence", function(t)
  for _, page in ipairs(annotations.pages()) do
    local list = annotations.read(page)
    t.ok(#list > 0, page.shown)
    for _, f in ipairs(list) do t.ok(#annotations.parts(f.doc).prose > 0, f.name) end
  end
end)

T.test("a name, a function and a value are found", function(t)
  for name, words in pairs {
    ["sluice.task.map"] = "^sluice.task.map%(list, f, opts%)",
    ["task.sleep"] = "^sluice.task.sleep%(seconds%)",
    ["model:ask"] = "^model:ask%(req%)\n", -- what is for sluice's own modules is not spoken of
    ["breaker:counts"] = "returns sluice.BreakerCounts",
    ["sluice.TimeoutOptions"] = "^sluice.TimeoutOptions\n.*\n  connect%?: number, 3: ",
    BreakerOptions = "sleep_window%?: number, 5: seconds",
    Kind = '"network"|',
    CallOptions = false,
    Nothing = false,
    ["sluice.model"] = "^sluice.model%(opts%)",
    ["retry_later"] = false,
    sluice = "sluice.task",
  } do
    local text = annotations.of(name)
    if words then t.match(text, words) else t.eq(text, nil) end
  end
  t.match(annotations.of(sluice.task.map), "^sluice.task.map")
  t.match(annotations.of(sluice.task.sleep), "^sluice.task.sleep")
  t.match(annotations.of(sluice.model), "^sluice.model")
  t.match(annotations.of(require "sluice.stream".sentences), "^stream:sentences%(opts%)") -- loaded when used
  t.match(annotations.of(sluice.task), "^sluice.task: Structured concurrency")
  t.match(annotations.of(sluice), "^sluice: prompt workflows")
  local model = sluice.model { provider = "openai", model = "x", base_url = "http://127.0.0.1:9/v1", auth = "k" }
  t.match(annotations.of(model), "^model: What")
  t.match(annotations.of(model.ask), "^model:ask")
  t.match(annotations.of(model.breaker), "^breaker: What .*breaker:open%(seconds%)")
  t.match(annotations.of(model.limiter), "^limiter: What .*limiter:left%(%)")
  t.eq(annotations.of(print), nil)
  t.eq(annotations.of {}, nil)
  t.eq(annotations.of(function() end), nil)
  t.eq(annotations.of(7), nil)
end)

T.test("every public function has words, every argument a type, and no other argument is spoken of", function(t)
  local count = 0
  for _, page in ipairs(annotations.pages()) do
    for _, f in ipairs(annotations.read(page)) do
      local parts, typed = annotations.parts(f.doc), {}
      t.ok(#parts.prose > 0, f.name .. " has no words")
      for _, param in ipairs(parts.params) do
        local name = param.name:gsub("%?$", "")
        typed[name] = param.type ~= ""
        t.ok(f.args:find("%f[%w_]" .. name .. "%f[^%w_]") or name == "...", f.name .. " has no argument " .. name)
      end
      for name in f.args:gmatch "[%a_][%w_]*" do
        count = count + 1
        t.ok(typed[name], ("%s: '%s' has no type"):format(f.name, name))
      end
    end
  end
  t.ok(count > 150, count)
  local parts = annotations.parts { "@type fun(a: { b: c, d?: e }, f?: fun(g: h): i): table<j, k>" }
  t.eq(parts.params, { { name = "a", type = "{ b: c, d?: e }" }, { name = "f?", type = "fun(g: h): i" } })
  t.eq(parts.returns, { "table<j, k>" })
end)

-- PARTS and FUNCTIONS of sluice: whatever a script can write behind "sluice." is documented.
T.test("every name of sluice is public in the annotations", function(t)
  local text = annotations.source "sluice"
  local names = {}
  for name in text:gmatch "\n  ([%a_][%w_]*) = [{\"]" do names[#names + 1] = name end
  t.ok(#names > 20, #names)
  for _, name in ipairs(names) do t.ok(annotations.of("sluice." .. name), "sluice." .. name) end
end)

T.test("the text of a module is that which runs", function(t)
  t.match(annotations.source "sluice.annotations", "^%-%-%- What the library says of itself")
  t.eq(annotations.source "sluice.nothing", nil)
end)

T.test("every option that is checked is a field of its type, and the other way round", function(t)
  local types = require "sluice.annotations.types"
  local function fields(name)
    local list = {}
    for _, f in ipairs(types.parts(types.definitions()["sluice." .. name]).fields) do list[#list + 1] = f.name:gsub("%?$", "") end
    table.sort(list)
    return list
  end
  local function known(options) -- what an unknown key is told: the names it might have been
    local list = {}
    for key in pairs(options) do list[#list + 1] = key end
    table.sort(list)
    return list
  end
  t.eq(fields "BreakerOptions", known(require "sluice.policy.breaker".FIELDS))
  local limits = known(require "sluice.policy.limiter".FIELDS)
  limits[#limits + 1] = "share"
  table.sort(limits)
  t.eq(fields "LimitOptions", limits)
end)

T.test("what types speak of, but for what is the library's own", function(t)
  local types = require "sluice.annotations.types"
  local names = {}
  for _, named in ipairs(types.named("---@param o sluice.ModelOptions\n---@return sluice.Model", {})) do
    names[named.name] = true
    t.ok(not types.parts(named.block).own, named.name)
  end
  t.ok(names["sluice.ModelOptions"] and names["sluice.TimeoutOptions"] and names["sluice.Kind"] == nil)
  t.ok(not names["sluice.RetryQuota"] and not names["sluice.Charge"])
end)

T.done()
