-- --report FILE and the summary of -v, as a person uses them.
local T, C = require "harness", require "command"

local ASK = 'local sluice = require "sluice" print(sluice.model "mock/echo":ask "words of the prompt".text) '

T.test("--report FILE: a page at the end, whatever the end is", function(t)
  local dir = T.tmpdir()
  local path = dir .. "/report.html"
  local r = C.run { C.sluice, "run", "--mock", "--report", path, "-e", ASK }
  t.eq({ r.code, r.stdout }, { 0, "words of the prompt\n" }, r.stderr)
  local html = T.read(path)
  t.match(html, "ended well")
  t.match(html, "mock/echo")
  t.match(html, "nothing was billed")
  t.ok(not html:find("words of the prompt", 1, true))
  r = C.run { C.sluice, "run", "--mock", "--report", path, "-e", ASK .. 'error "no"' }
  t.eq(r.code, 1)
  t.match(T.read(path), "ended with an error")
  r = C.run { C.sluice, "run", "--mock", "--report", path, "-e", ASK .. "return 3" }
  t.eq(r.code, 3)
  t.match(T.read(path), "exit code 3")
end)

T.test("--report FILE after Ctrl-C in the middle of a call", function(t)
  local dir = T.tmpdir()
  local path, scenario = dir .. "/report.html", T.write(dir .. "/slow.lua", "return { { first_token = 60 } }")
  local r = C.run({ C.sluice, "run", "--mock=" .. scenario, "--report", path, "-e",
    'io.stderr:write "asks\\n" require "sluice".model "mock/m":ask "x"' },
    { steps = { { expect_stderr = "asks" }, { signal = "INT" } } })
  t.eq(r.code, 130)
  local html = T.read(path)
  t.match(html, ">interrupted<")
  t.match(html, "1 cancelled")
  t.match(html, "</html>\n$")
end)

T.test("a report that cannot be written is known before the run", function(t)
  local r = C.run { C.sluice, "run", "--mock", "--report", T.tmpdir() .. "/none/report.html", "-e", "print 'ran'" }
  t.eq({ r.code, r.stdout }, { 4, "" })
  t.match(r.stderr, "cannot write the report .*none/report.html: No such file or directory")
end)

T.test("a report replaces the one before in one step, and leaves nothing beside it", function(t)
  local dir = T.tmpdir()
  local path = T.write(dir .. "/report.html", "old")
  local r = C.run { C.sluice, "run", "--mock", "--report", path, "-e",
    ASK .. ('print(io.open(%q):read "a")'):format(path) }
  t.eq({ r.code, r.stdout }, { 0, "words of the prompt\nold\n" }, r.stderr)
  t.match(T.read(path), "^<!DOCTYPE html>")
  r = C.run { "ls", "-A", dir }
  t.eq(r.stdout, "report.html\n")
end)

T.test("-v ends with a summary; without it, or without a call, there is none", function(t)
  local r = C.run { C.sluice, "run", "--mock", "-v", "-e", ASK }
  t.eq({ r.code, r.stdout }, { 0, "words of the prompt\n" })
  t.match(r.stderr, "sluice: 1 call in .*\n  calls      1; 1 request, 1 at once at most\n  tokens     %d+ in, %d+ out\n"
    .. "  cost       %$0.00\n  latency    ")
  t.ok(not r.stderr:find("words of the prompt", 1, true))
  r = C.run { C.sluice, "run", "--mock", "-e", ASK }
  t.ok(not r.stderr:find "at once at most")
  r = C.run { C.sluice, "run", "-v", "-e", "print(1)" }
  t.eq({ r.code, r.stdout, r.stderr }, { 0, "1\n", "" })
end)

T.done()
