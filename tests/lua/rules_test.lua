-- sluice.rules: a chain in a file, edited while the program runs.
-- luacheck: globals rules_gate rules_reads arg
local T = require "harness"
local sluice = require "sluice"

local task = sluice.task
local HEAD = 'local sluice = require "sluice"\n'

-- A file of rules whose chain says `text`.
local function says(text)
  return HEAD .. ("return sluice.fallback { function() return %q end }\n"):format(text)
end

local function start(text)
  local path = T.write(T.tmpdir() .. "/fallback.lua", text or says "one")
  return path, sluice.rules(path)
end

-- As editors do that write a new file and put it in the place of the old one.
local function replace(path, text)
  T.write(path .. ".new", text)
  assert(os.rename(path .. ".new", path))
end

-- What is logged while f runs.
local function logged(f)
  local lines = {}
  sluice.log.configure { write = function(line) lines[#lines + 1] = line end }
  local ok, err = pcall(f)
  sluice.log.configure { write = false }
  if not ok then error(err, 0) end
  return table.concat(lines, "\n"), #lines
end

local function answer(rules) return rules:ask("x").text end

T.test("a file that returns a chain, a list of steps, or a model", function(t)
  local model = HEAD .. [[return sluice.model { provider = "mock", base_url = "http://127.0.0.1:1/v1", model = "m" }]]
  for _, case in ipairs { { says "a", "a" }, { "return { function() return 'b' end, name = 'mine' }", "b" } } do
    local _, rules = start(case[1])
    t.eq(answer(rules), case[2])
    t.eq(rules:stream("x"):reply().text, case[2])
  end
  local _, rules = start(model)
  t.eq(rules.chain.steps[1].name, "mock/m")
end)

T.test("a byte order mark and a first line for the shell are no mistakes", function(t)
  local _, rules = start("\xEF\xBB\xBF#!/usr/bin/env sluice\n" .. says "a")
  t.eq(answer(rules), "a")
  local path = T.write(T.tmpdir() .. "/r.lua", "#!/usr/bin/env sluice\nlocal x = = 1\n")
  t.raises("r%.lua:2: ", sluice.rules, path) -- lines keep their numbers
end)

T.test("an edit is taken up at the next call, written in place or by rename", function(t)
  local path, rules = start()
  t.eq({ answer(rules), rules.version }, { "one", 1 })
  local log = logged(function()
    T.write(path, says "two, in place")
    t.eq(answer(rules), "two, in place")
  end)
  t.match(log, "info .*the edited file is in force.*version=2")
  logged(function()
    replace(path, says "three")
    t.eq({ answer(rules), rules.version }, { "three", 3 })
    replace(path, says "four!") -- the same size as before, another file
    replace(path, says "five!")
    t.eq({ rules:stream("x"):reply().text, rules.version }, { "five!", 4 })
  end)
  local quiet = logged(function() for _ = 1, 10 do answer(rules) end end)
  t.eq({ quiet, rules.version }, { "", 4 })
end)

local BROKEN = {
  ["does not compile"] = { "return sluice.fallback { {", "fallback%.lua:1: unexpected symbol near" },
  ["is empty"] = { "", "fallback%.lua: the file returns nothing; it must return sluice%.fallback" },
  ["ends in the middle"] = { says("x"):sub(1, -8), "fallback%.lua:%d+: " },
  ["raises"] = { "error 'out of order'", "fallback%.lua:1: out of order" },
  ["raises a table"] = { "error { code = 7 }", "fallback%.lua: table" },
  ["uses what is not there"] = { "return { nothing.at_all }", "fallback%.lua:1: attempt to index a nil value %(global 'nothing'%)" },
  ["returns a number"] = { "return 7", "the file returns 7; it must return" },
  ["returns a table that is no chain"] = { "return { big = 1 }", "a table that is no chain" },
  ["has a wrong step"] = { HEAD .. "return sluice.fallback { { function() end, afer = 5 } }",
    "fallback%.lua: sluice%.fallback: step 1: unknown field of the step 'afer' %(did you mean 'after'" },
  ["has a wrong option"] = { HEAD .. "return { function() end, rescu = print }", "unknown option 'rescu'" },
  ["waits for ever"] = { HEAD .. "sluice.task.sleep(60)\nreturn {}", "not read within 5 s; a file of rules must not wait", slow = true },
  ["computes for ever"] = { "local n = 0\nwhile true do n = n + 1 end", "fallback%.lua:2: computes for more than 1 s" },
  ["has a wrong step, further down"] = { HEAD .. "local chain = sluice.fallback { 7 }\nreturn chain",
    "fallback%.lua:2: sluice%.fallback: step 1 must be a model" },
  ["is compiled Lua"] = { string.dump(function() end), "fallback%.lua" },
}

for name, case in pairs(BROKEN) do
  T.test("a new file that " .. name .. " never takes over, and says why", function(t)
    if case.slow then require "sluice.core.sys".virtual_clock(true) end
    local path, rules = start()
    local log, lines = logged(function()
      replace(path, case[1])
      t.eq(answer(rules), "one")
      t.eq(answer(rules), "one") -- said once, not at every call
    end)
    t.match(log, "error .*the edited file is broken")
    t.match(log:gsub('\\"', '"'), case[2])
    t.eq({ lines, rules.version }, { 1, 1 })
    t.match(rules.fault, case[2])
    t.match(tostring(rules), "last edit broken")
    logged(function()
      replace(path, says "mended")
      t.eq({ answer(rules), rules.version, rules.fault }, { "mended", 2, nil })
    end)
    t.raises(case[2], sluice.rules, T.write(T.tmpdir() .. "/fallback.lua", case[1])) -- at the first load it is raised
    if case.slow then require "sluice.core.sys".virtual_clock(false) end
  end)
end

T.test("a file that is gone, or cannot be read, leaves the rules as they were", function(t)
  local path, rules = start()
  local log = logged(function()
    os.remove(path)
    t.eq({ answer(rules), answer(rules) }, { "one", "one" })
  end)
  t.match(log, "No such file")
  t.match(rules.fault, "fallback%.lua: No such file")
  logged(function()
    os.execute("mkdir '" .. path .. "'")
    t.eq(answer(rules), "one")
    t.match(rules.fault, "directory")
    os.execute("rmdir '" .. path .. "'")
    T.write(path, says "back")
    t.eq({ answer(rules), rules.fault }, { "back", nil })
  end)
  t.raises("No such file", sluice.rules, "/nowhere/at/all.lua")
end)

T.test("a call in flight finishes on the rules it began with", function(t)
  rules_gate = task.channel(1)
  local path, rules = start(HEAD .. "return { function() rules_gate:receive() return 'old' end }")
  local old
  task.group(function(group)
    group:spawn(function() old = answer(rules) end)
    task.yield()
    logged(function()
      replace(path, says "new")
      t.eq(answer(rules), "new")
    end)
    t.eq(old, nil)
    rules_gate:send(true)
  end)
  t.eq(old, "old")
  rules_gate = nil
end)

T.test("a file is read by one call; the others go by the old rules meanwhile", function(t)
  local path, rules = start()
  rules_reads, rules_gate = 0, task.channel(1)
  local answers = {}
  logged(function()
    replace(path, HEAD .. "rules_reads = rules_reads + 1 rules_gate:receive() return { function() return 'two' end }")
    task.group(function(group)
      group:spawn(function() answers[1] = answer(rules) end)
      task.yield()
      for i = 2, 4 do answers[i] = answer(rules) end
      rules_gate:send(true)
    end)
  end)
  t.eq({ answers, rules_reads, answer(rules) }, { { "two", "one", "one", "one" }, 1, "two" })
  rules_reads, rules_gate = nil, nil
end)

T.test("a call that is cancelled while it reads leaves the edit to the next one", function(t)
  local path, rules = start()
  rules_reads, rules_gate = 0, task.channel(1)
  logged(function()
    replace(path, HEAD .. "rules_reads = rules_reads + 1 rules_gate:receive() return { function() return 'two' end }")
    task.group(function(group)
      local handle = group:spawn(answer, rules)
      T.until_(function() return rules_reads == 1 end)
      handle:cancel()
    end)
    t.eq(rules.fault, nil)
    rules_gate:send(true)
    t.eq({ answer(rules), rules_reads }, { "two", 2 })
  end)
  rules_reads, rules_gate = nil, nil
end)

T.test("rules are a step like any other, and keep being looked at", function(t)
  local path, rules = start()
  local chain = sluice.fallback { function() end, rules }
  t.eq({ chain:ask("x").text, chain:ask("x").degraded.name }, { "one", path })
  logged(function()
    replace(path, says "two")
    t.eq(chain:ask("x").text, "two")
  end)
end)

T.test("rules that load other rules", function(t)
  local dir = T.tmpdir()
  T.write(dir .. "/inner.lua", says "inner")
  T.write(dir .. "/outer.lua", HEAD .. ("return { sluice.rules %q }"):format(dir .. "/inner.lua"))
  local rules = sluice.rules(dir .. "/outer.lua")
  t.eq(answer(rules), "inner")
  logged(function()
    replace(dir .. "/inner.lua", says "inner, edited")
    t.eq({ answer(rules), rules.version }, { "inner, edited", 1 })
  end)
end)

T.test("a relative path is looked for beside the script first, then where the process is", function(t)
  local dir = T.tmpdir()
  T.write(dir .. "/beside.lua", says "beside the script")
  local before = arg
  arg = { [0] = dir .. "/script.lua" }
  local ok, rules = pcall(sluice.rules, "beside.lua")
  arg = before
  t.ok(ok, rules)
  t.eq({ answer(rules), rules.path }, { "beside the script", dir .. "/beside.lua" })
end)

T.test("a module that is being required may load its rules", function(t)
  local dir = T.tmpdir()
  T.write(dir .. "/fallback.lua", says "from a module")
  T.write(dir .. "/rules_of_module.lua", HEAD .. ("return sluice.rules %q"):format(dir .. "/fallback.lua"))
  local path = package.path
  package.path = dir .. "/?.lua;" .. path
  local ok, rules = pcall(require, "rules_of_module")
  package.path = path
  t.ok(ok, rules)
  t.eq(answer(rules), "from a module")
end)

T.test("wrong arguments", function(t)
  for _, path in ipairs { false, 7, "" } do t.raises("sluice%.rules: expected the path of a file", sluice.rules, path) end
end)

T.done()
