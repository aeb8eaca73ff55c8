-- Command lines against option tables: what is taken, what is refused, and in which words.
local T = require "harness"
local arguments = require "sluice.command.arguments"

local OPTIONS = {
  { "--timeout", "-t", arg = "S", type = "seconds", above = 0, help = "…" },
  { "--seed", arg = "N", type = "integer", help = "…" },
  { "--port", "-p", arg = "N", type = "integer", min = 0, max = 65535, default = 8080, help = "…" },
  { "--pace", arg = "X", type = "number", help = "…" },
  { "--mock", arg = "SCENARIO", type = "optional", help = "…" },
  { "--log-level", arg = "LEVEL", type = "string", enum = { "debug", "info" }, help = "…" },
  { "--quiet", "-q", type = "flag", help = "…" },
  { "--verbose", "-v", type = "flag", help = "…" },
  { "-e", arg = "CODE", type = "string", repeated = true, help = "…" },
}

local function parse(words, first_word_ends) return arguments.parse(OPTIONS, words, first_word_ends) end

local TAKEN = {
  { {}, {}, {} },
  { { "--timeout", "3" }, { timeout = 3.0 }, {} },
  { { "--timeout=.5" }, { timeout = 0.5 }, {} },
  { { "--pace", "0" }, { pace = 0.0 }, {} },
  { { "--pace=1.5" }, { pace = 1.5 }, {} },
  { { "-t", "2.25", "x" }, { timeout = 2.25 }, { "x" } },
  { { "-t2" }, { timeout = 2.0 }, {} },
  { { "--seed", "-7" }, { seed = -7 }, {} },
  { { "--seed=+7" }, { seed = 7 }, {} },
  { { "--seed", "9223372036854775807" }, { seed = math.maxinteger }, {} },
  { { "--mock", "x" }, { mock = true }, { "x" } },
  { { "--mock=a=b.lua" }, { mock = "a=b.lua" }, {} },
  { { "--log-level", "debug" }, { log_level = "debug" }, {} },
  { { "-qv" }, { quiet = true, verbose = true }, {} },
  { { "-qt", "3" }, { quiet = true, timeout = 3.0 }, {} },
  { { "-qvt3" }, { quiet = true, verbose = true, timeout = 3.0 }, {} },
  { { "-e", "--x", "-e=1" }, { e = { "--x", "=1" } }, {} },
  { { "a", "-q", "b" }, { quiet = true }, { "a", "b" } },
  { { "-q", "--", "-v", "--", "c" }, { quiet = true }, { "-v", "--", "c" } },
  { { "-", "-q" }, { quiet = true }, { "-" } },
  { { "--seed", "1", "--seed", "2" }, { seed = 2 }, {} },
  { { "--help" }, { help = true }, {} },
  { { "-h" }, { help = true }, {} },
}
T.test("what is taken", function(t)
  for _, case in ipairs(TAKEN) do
    local opts, rest = parse(case[1])
    t.eq(opts, case[2], table.concat(case[1], " "))
    t.eq(rest, case[3], table.concat(case[1], " "))
  end
end)

T.test("numbers keep their kind", function(t)
  t.eq(math.type(parse { "--seed", "7" }.seed), "integer")
  t.eq(math.type(parse { "--timeout", "7" }.timeout), "float")
end)

local REFUSED = {
  { { "--timout" }, "unknown option '--timout' (did you mean '--timeout'?)" },
  { { "--timout=3" }, "unknown option '--timout' (did you mean '--timeout'?)" },
  { { "--log_level=info" }, "unknown option '--log_level' (did you mean '--log-level'?)" },
  { { "--banana" }, "unknown option '--banana'" },
  { { "--=x" }, "unknown option '--=x'" },
  { { "-timeout", "3" }, "unknown option '-timeout' (did you mean '--timeout', with two dashes?)" },
  { { "-Z" }, "unknown option '-Z'" },
  { { "-qZ" }, "unknown option '-Z'" },
  { { "--timeout" }, "--timeout needs a value: --timeout S" },
  { { "-qt" }, "-t needs a value: -t S" },
  { { "--timeout", "abc" }, "--timeout takes a number of seconds above 0, got 'abc'" },
  { { "--timeout", "0" }, "--timeout takes a number of seconds above 0, got '0'" },
  { { "--timeout", "-1" }, "--timeout takes a number of seconds above 0, got '-1'" },
  { { "--timeout", "0x10" }, "--timeout takes a number of seconds above 0, got '0x10'" },
  { { "--timeout", "." }, "--timeout takes a number of seconds above 0, got '.'" },
  { { "--timeout", ("9"):rep(400) },
    "--timeout takes a number of seconds above 0, got '" .. ("9"):rep(60) .. "'" },
  { { "--pace", "fast" }, "--pace takes a number, got 'fast'" },
  { { "--seed", "1.5" }, "--seed takes a whole number, got '1.5'" },
  { { "--seed=" }, "--seed takes a whole number, got ''" },
  { { "--seed", "99999999999999999999" }, "--seed takes a whole number, got '99999999999999999999'" },
  { { "--port", "70000" }, "--port takes a whole number from 0 to 65535, got '70000'" },
  { { "--log-level", "inof" }, "--log-level takes one of debug, info, got 'inof' (did you mean 'info'?)" },
  { { "--quiet=1" }, "--quiet takes no value" },
  { { "--mock=" }, "--mock takes a value, got ''" },
}
T.test("what is refused", function(t)
  for _, case in ipairs(REFUSED) do
    local opts, fault = parse(case[1])
    t.eq(opts, nil, table.concat(case[1], " "))
    t.eq(fault, case[2])
  end
end)

T.test("the first word may end the options", function(t)
  local opts, rest, first = parse({ "-q", "x.lua", "--seed", "--", "-v" }, true)
  t.eq(opts, { quiet = true })
  t.eq(rest, { "x.lua", "--seed", "--", "-v" })
  t.eq(first, 2)
  opts, rest, first = parse({ "-q", "--", "-v" }, true)
  t.eq(opts, { quiet = true })
  t.eq(rest, { "-v" })
  t.eq(first, 3)
  opts, rest, first = parse({ "-q" }, true)
  t.eq(opts, { quiet = true })
  t.eq(rest, {})
  t.eq(first, 2)
end)

T.test("defaults come last", function(t)
  t.eq(arguments.fill(OPTIONS, { quiet = true }), { quiet = true, port = 8080 })
  t.eq(arguments.fill(OPTIONS, { port = 0 }), { port = 0 })
end)

T.done()
