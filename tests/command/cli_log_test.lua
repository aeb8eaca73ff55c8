-- Log lines: levels, the two forms, and what no line may do: break, lie about its length, tell a secret.
local T = require "harness"
local C = require "command"

local function run(code) return C.run { C.sluice, "-e", "local log = require 'sluice.log' " .. code } end

local function lines(t, code, ...)
  local words = { C.sluice, ... }
  words[#words + 1], words[#words + 2] = "-e", "local log = require 'sluice.log' " .. code
  local r = C.run(words)
  t.eq(r.code, 0, r.stderr)
  t.eq(r.stdout, "")
  return r.stderr
end

local TIME = "%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ"
local ALL = "log.debug 'd' log.info 'i' log.warn 'w' log.error 'e'"

local function levels(text) return (text:gsub(TIME .. " (%l+) +(%l)\n", "%1:%2 ")) end

T.test("levels", function(t)
  t.eq(levels(lines(t, ALL)), "info:i warn:w error:e ")
  t.eq(levels(lines(t, ALL, "-v")), "debug:d info:i warn:w error:e ")
  t.eq(levels(lines(t, ALL, "-q")), "error:e ")
  t.eq(levels(lines(t, ALL, "--log-level", "warn")), "warn:w error:e ")
  t.eq(levels(lines(t, ALL, "-v", "--log-level=error")), "error:e ")
  t.eq(levels(lines(t, ALL, "--log-level", "debug", "-q")), "debug:d info:i warn:w error:e ")
  t.eq(lines(t, "assert(log.enabled 'info' and not log.enabled 'debug')"), "")
end)

T.test("text", function(t)
  local text = lines(t, [[log.warn("two words", { b = "x y", a = 1, c = 0.5, d = true, e = "", f = 'q"\n\27', g = "k=v",
    h = { 1, 2 }, i = setmetatable({}, { __tostring = function() return "shown" end }), j = "汉" })]])
  t.eq(text:gsub(TIME, "TIME"), 'TIME warn  two words  a=1 b="x y" c=0.5 d=true e="" f="q\\"\\n\\x1b" g="k=v" '
    .. 'h=[1,2] i=shown j=汉\n')
  t.eq(lines(t, "log.info('a\\nb\\27c')"):gsub(TIME, "TIME"), "TIME info  a b c\n", "one line")
  t.match(lines(t, "log.info('m', { long = ('x'):rep(5000) })"), "long=" .. ("x"):rep(1000) .. "…\n$")
end)

T.test("json", function(t)
  local text = lines(t, [[
    local loop = {} loop.loop = loop
    log.info("two\nwords", { a = 1, b = 0.5, c = "x\27", d = { 1, { e = true } }, level = "mine", f = print, g = 0 / 0,
      h = loop, i = "\xff", [1] = "one" })]], "--log-format", "json")
  text = text:gsub(TIME, "TIME"):gsub("builtin: %x+", "F"):gsub("function: [%w: ]+", "F"):gsub("%-?nan", "nan")
  t.eq(text, '{"time":"TIME","level":"info","msg":"two\\nwords","1":"one","a":1,"b":0.5,"c":"x\\u001b",'
    .. '"d":[1,{"e":true}],"f":"F","g":"nan","h":{"loop":"<cycle>"},"i":"?","level_":"mine"}\n')
end)

T.test("credentials are hidden by their names", function(t)
  local code = [[log.info("m", { api_key = "canary", Authorization = "canary", ["X-Api-Key"] = "canary", token = "canary",
    input_tokens = 12, deep = { password = "canary", user = "me" } })]]
  for _, format in ipairs { "text", "json" } do
    local text = lines(t, code, "--log-format", format)
    t.ok(not text:find "canary", text)
    t.match(text, "12")
    t.match(text, "me")
  end
end)

T.test("wrong arguments blame the caller", function(t)
  local r = run "\n\nlog.info(1)"
  t.match(r.stderr, "^sluice: %(command line%):3: log%.info: the message must be a string, got number\n")
  r = run "log.error('m', 'x')"
  t.match(r.stderr, "^sluice: %(command line%):1: log%.error: the fields must be a table, got string\n")
  r = run "log.configure { levle = 'x' }"
  t.match(r.stderr, "unknown option 'levle'")
  r = run "log.configure { level = 'loud' }"
  t.match(r.stderr, "'level' must be debug, info, warn or error")
end)

T.test("lines can be caught", function(t)
  local r = run [[
    local kept = {}
    log.configure { write = function(line) kept[#kept + 1] = line end }
    log.info("kept")
    log.configure { write = false }
    log.info("written")
    print(#kept, kept[1]:match "kept$")]]
  t.eq(r.stdout, "1\tkept\n")
  t.match(r.stderr, "written\n$")
end)

T.test("on a terminal: the time alone, and colour", function(t)
  local r = C.run({ C.sluice, "-e", "require 'sluice.log'.warn('m', { a = 1 })" },
    { pty = "err", env = { TERM = "xterm", NO_COLOR = false } })
  t.match(r.stdout .. r.stderr, "^%d%d:%d%d:%d%d%.%d%d%d \27%[33mwarn \27%[0m m  \27%[2ma=\27%[0m1\r?\n$")
end)

T.done()
