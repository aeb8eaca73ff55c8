-- What editors and shells are told: `sluice types`, `sluice completion`, the man page. All of it is made from
-- the annotations and the option tables, so these tests look at what comes out, in the tools that read it.
local T, C = require "harness", require "command"

local function has(program)
  return os.execute(("command -v %s >/dev/null 2>&1"):format(program))
end

local function sluice(words, options)
  table.insert(words, 1, C.sluice)
  return C.run(words, options)
end

T.test("the files in docs/ are what the sources make", function(t)
  local r = sluice { "run", "docs/generate.lua", "--check" }
  t.eq(r.stderr, "")
  t.eq(r.code, 0)
end)

T.test("types: stubs that are Lua, and settings", function(t)
  local dir = T.tmpdir()
  local r = sluice { "types", dir }
  t.eq(r.code, 0, r.stderr)
  local main = T.read(dir .. "/.sluice/types/sluice.lua")
  t.match(main, "^%-%-%-@meta sluice\n")
  t.ok(load(main, "=stub"))
  local sluice_stub = load(main)()
  local init, known = T.read "lualib/sluice/init.lua", {}
  for name in init:match("local FUNCTIONS = (%b{})"):gmatch "\n  ([%a_][%w_]*) = {" do known[#known + 1] = name end
  t.ok(#known > 5)
  for _, name in ipairs(known) do
    local documented = type(sluice_stub[name]) == "function" or main:find("\n---@field " .. name .. " sluice.", 1, true)
    t.ok(documented, "sluice." .. name)
  end
  for name in init:match("local PARTS = (%b{})"):gmatch "\n  ([%a_][%w_]*) = \"" do
    t.ok(main:find("\n---@field " .. name .. " sluice.", 1, true), "sluice." .. name)
  end
  for _, words in ipairs { "function Model:ask(req) end", "---@class sluice.Model\n", "---@class sluice.ChatOptions" } do
    t.ok(main:find(words, 1, true), words)
  end
  t.eq(T.read(dir .. "/.sluice/types/core/task.lua"), T.read "lualib/meta/sluice/task.lua")
  t.match(T.read(dir .. "/.luarc.json"), '"workspace.library": %[".sluice/types"%]')
end)

T.test("types: every type that is named is defined, once; nothing that is sluice's own is shown", function(t)
  local dir = T.tmpdir()
  t.eq(sluice({ "types", dir }).code, 0)
  local text = "\n" .. T.read(dir .. "/.sluice/types/sluice.lua")
  local page = T.read "docs/api.md"
  for name in io.popen("ls " .. dir .. "/.sluice/types/core"):lines() do
    text = text .. "\n" .. T.read(dir .. "/.sluice/types/core/" .. name)
  end
  local defined, named = {}, 0
  for tag, name in text:gmatch "\n%-%-%-@(%a+)%s+([%w_.]+)" do
    if tag == "class" or tag == "alias" then defined[name] = (defined[name] or 0) + 1 end
  end
  for tag, rest in text:gmatch "\n%-%-%-@(%a+)%s+([^\n]*)" do
    local kind = rest
    if tag == "param" or tag == "field" then kind = rest:match "^%S+%s+(.*)$" or "" end
    kind = kind:gsub("%s%s+.*$", "") -- words about it follow two blanks
    if tag == "param" or tag == "field" or tag == "return" or tag == "type" then
      for name in kind:gmatch "%f[%w_]sluice%.[%w_.]*%u[%w_]*" do
        named = named + 1
        t.ok(defined[name], name .. " is named, but not defined")
      end
    end
  end
  t.ok(named > 200, named .. " types are named")
  for _, name in ipairs { "ToolStream", "Response", "EventStream", "Server", "Why", "HttpOptions", "FallbackChain" } do
    t.eq(defined["sluice." .. name], 1, name)
  end
  for _, name in ipairs { "pay_hedge", "take_whole", "request_id_of", "log.is_secret" } do
    t.ok(not page:find(name, 1, true), name .. " is in the reference")
  end
end)

T.test("types: again changes nothing; settings of one's own are left as they are", function(t)
  local dir = T.tmpdir()
  t.eq(sluice({ "types", dir }).code, 0)
  local before = T.read(dir .. "/.sluice/types/sluice.lua")
  local r = sluice { "types", dir }
  t.match(r.stdout, "knows them already")
  t.eq(T.read(dir .. "/.sluice/types/sluice.lua"), before)
  T.write(dir .. "/.luarc.json", '{"diagnostics.disable":["undefined-global"]}')
  r = sluice { "types", dir }
  t.eq(r.code, 0)
  t.match(r.stderr, 'is there already; add this to it:\n  "workspace.library": %[".sluice/types"%]')
  t.eq(T.read(dir .. "/.luarc.json"), '{"diagnostics.disable":["undefined-global"]}')
end)

T.test("types: a folder that is not there, too many words", function(t)
  local r = sluice { "types", "/nowhere/at/all" }
  t.eq(r.code, 4)
  t.match(r.stderr, "/nowhere/at/all is not a folder")
  t.eq(sluice({ "types", "a", "b" }).code, 2)
end)

T.test("completion: a shell that is not known", function(t)
  local r = sluice { "completion", "fsh" }
  t.eq(r.code, 2)
  t.match(r.stderr, "did you mean 'fish'%?")
  t.eq(sluice({ "completion" }).code, 2)
end)

local CASES = { -- words, one that must be proposed, one that must not
  { { "" }, "run", "--seed" },
  { { "r" }, "repl", "mock" },
  { { "run", "--lo" }, "--log-level", "--lib" },
  { { "run", "--log-level", "" }, "debug", "run" },
  { { "help", "m" }, "mock", "run" },
  { { "completion", "" }, "fish", "run" },
  { { "run", "scripts/as" }, "scripts/ask.lua", "run" },
  { { "run", "--lib", "lua" }, "lualib", "run" },
  { { "--tim" }, "--timeout", "--trace" },
}

local function quoted(words)
  local out = {}
  for i, word in ipairs(words) do out[i] = "'" .. word .. "'" end
  return table.concat(out, " ")
end

local function proposed(t, shell, words, command)
  local r = C.run { shell, "-c", command }
  t.eq(r.stderr, "", table.concat(words, " "))
  local found = {}
  for line in r.stdout:gmatch "[^\n]+" do found[line:match "^[^\t]*":gsub("/$", "")] = true end
  return found
end

T.test("completion: bash proposes what fits", function(t)
  if not has "bash" then t.skip "bash is not installed" end
  local script = T.tmpdir() .. "/sluice.bash"
  T.write(script, sluice({ "completion", "bash" }).stdout)
  for _, case in ipairs(CASES) do
    local words, wanted, unwanted = table.unpack(case)
    local found = proposed(t, "bash", words, ("source %s; COMP_WORDS=(sluice %s); COMP_CWORD=%d; _sluice 2>/dev/null; "
      .. "printf '%%s\\n' \"${COMPREPLY[@]}\""):format(script, quoted(words), #words))
    t.ok(found[wanted], ("sluice %s: no %s"):format(table.concat(words, " "), wanted))
    t.ok(not found[unwanted], ("sluice %s: %s"):format(table.concat(words, " "), unwanted))
  end
end)

T.test("completion: fish proposes what fits", function(t)
  if not has "fish" then t.skip "fish is not installed (Debian: fish)" end
  local script = T.tmpdir() .. "/sluice.fish"
  T.write(script, sluice({ "completion", "fish" }).stdout)
  for _, case in ipairs(CASES) do
    local words, wanted, unwanted = table.unpack(case)
    local line = table.concat(words, " ")
    if line ~= "--tim" then -- fish completes options behind a command
      local found = proposed(t, "fish", words, ("source %s; complete -C 'sluice %s'"):format(script, line))
      t.ok(found[wanted], ("sluice %s: no %s"):format(line, wanted))
      t.ok(not found[unwanted], ("sluice %s: %s"):format(line, unwanted))
    end
  end
end)

T.test("completion: zsh reads it", function(t)
  if not has "zsh" then t.skip "zsh is not installed (Debian: zsh)" end
  local script = T.tmpdir() .. "/_sluice"
  T.write(script, sluice({ "completion", "zsh" }).stdout)
  local r = C.run { "zsh", "-f", "-n", script }
  t.eq(r.stderr, "")
  t.eq(r.code, 0)
  -- every specification of _arguments must parse: it is called as at a prompt, outside of which it only complains
  local checked = C.run { "zsh", "-f", "-c", ([[autoload -Uz compinit; compinit -D -u
    _arguments() { print -rl -- "$@" }; compdef() { }; source %s; words=(sluice run -); CURRENT=3; _sluice]]):format(script) }
  t.eq(checked.stderr, "")
  t.match(checked.stdout, "\n%-%-log%-level=%[")
  t.match(checked.stdout, ":LEVEL:%(debug info warn error%)")
end)

T.test("the man page has every command and option, and roff has no complaint", function(t)
  local page = T.read "docs/man/sluice.1"
  for _, name in ipairs { "run", "repl", "test", "mock", "token", "types", "completion" } do
    t.ok(page:find("\n.SS sluice " .. name .. "\n", 1, true), name)
  end
  t.ok(page:find("\\-\\-log\\-level", 1, true))
  if not has "groff" then return end
  local r = C.run { "groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-z", "docs/man/sluice.1" }
  t.eq(r.stderr, "")
  t.eq(r.code, 0)
end)

T.done()
