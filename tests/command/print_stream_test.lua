-- sluice.term.print_stream where it is used: on a terminal Markdown is shown, elsewhere it stays as it is.
local T, C = require "harness", require "command"

local folder = T.tmpdir()
local TEXT = "# Title\nSome **bold** text."
T.write(folder .. "/scenario.lua", "return { { text = " .. ("%q"):format(TEXT) .. " } }")
T.write(folder .. "/print.lua", [[
local sluice = require "sluice"
local reply = sluice.term.print_stream(sluice.model "mock/m":stream "x")
io.write("reply: ", reply.text, "\n")
]])

local function run(options)
  return C.run({ C.sluice, "run", "--quiet", "--mock=" .. folder .. "/scenario.lua", folder .. "/print.lua" }, options)
end

local REPLY = "reply: " .. TEXT .. "\n"

T.test("through a pipe: the text as it is, and a line end", function(t)
  local r = run()
  t.eq({ r.code, r.stdout, r.stderr }, { 0, TEXT .. "\n" .. REPLY, "" })
end)

T.test("on a terminal: shown", function(t)
  local r = run { pty = "out", env = { TERM = "xterm" } }
  t.eq(r.code, 0)
  t.eq((r.stdout:gsub("\r\n", "\n")), "\27[1;4mTitle\27[0m\nSome \27[1mbold\27[0m text.\n" .. REPLY)
end)

T.test("on a terminal with NO_COLOR, or a dumb one: as it is", function(t)
  for _, env in ipairs { { TERM = "xterm", NO_COLOR = "1" }, { TERM = "dumb" } } do
    local r = run { pty = "out", env = env }
    t.eq((r.stdout:gsub("\r\n", "\n")), TEXT .. "\n" .. REPLY)
  end
end)

T.test("nobody reads any more: the stream is closed, not read to its end", function(t)
  T.write(folder .. "/endless.lua", "return { { text = ('word '):rep(100000), tokens_per_second = 200 } }")
  local r = C.run({ C.sluice, "run", "--quiet", "--mock=" .. folder .. "/endless.lua", folder .. "/print.lua" },
    { steps = { { expect_stdout = "word" }, { close_stdout = true } }, timeout = 20 })
  t.eq({ r.code, r.timeout, r.unmet }, { 1, false, nil }, r.stderr)
  t.match(r.stderr, "print_stream: stdout: Broken pipe")
end)

T.done()
