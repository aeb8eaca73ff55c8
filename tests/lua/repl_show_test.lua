-- Values as the prompt shows them.
local T = require "harness"
local errors = require "sluice.errors"
local show = require "sluice.repl.show"

T.test("plain values", function(t)
  t.eq(show.value(nil), "nil")
  t.eq(show.value(1), "1")
  t.eq(show.value(1.5), "1.5")
  t.eq(show.value(true), "true")
  t.eq(show.value "a\tb\"c\\d\27", '"a\\tb\\"c\\\\d\\x1b"')
  t.eq(show.value "水", '"水"')
  t.eq(show.value "a\xff", '"a\\xff"')
  t.eq(show.value "two\nlines", "two\nlines")
  t.eq(show.value "two\nlines\27[2J", "two\nlines\\027[2J") -- cannot clear the screen
  t.match(show.value(print), "^<function, built in>$")
  t.match(show.value(show.value), "^<function .*show%.lua:%d+>$")
  t.match(show.value(coroutine.create(print)), "^<coroutine, suspended>$")
  t.match(show.value(io.stdout), "^<file %(0x")
end)

T.test("tables", function(t)
  t.eq(show.value {}, "{}")
  t.eq(show.value { 1, "two", { 3 } }, '{ 1, "two", { 3 } }')
  t.eq(show.value { b = 1, a = 2, ["c d"] = 3, [10] = 4, ["end"] = 5 }, '{ [10] = 4, a = 2, b = 1, ["c d"] = 3, ["end"] = 5 }')
  t.eq(show.value { 1, nil, 3 }, "{ 1, [3] = 3 }")
  t.eq(show.value { [true] = 1, [{}] = 2 }, "{ [true] = 1, [{}] = 2 }")
  t.eq(show.value({ one = { two = "three" } }, { width = 20 }), '{\n  one = {\n    two = "three",\n  },\n}')
  t.eq(show.value({ a = "水水水", b = 1 }, { width = 30 }), '{ a = "水水水", b = 1 }')
end)

T.test("bounded: cycles, depth, length, strings", function(t)
  local cycle = { name = "x" }
  cycle.self = cycle
  t.eq(show.value(cycle), '{ name = "x", self = <cycle> }')
  local shared = { 1 }
  t.eq(show.value { shared, shared }, "{ { 1 }, { 1 } }") -- twice is no cycle
  local deep = {}
  for _ = 1, 100 do deep = { deep } end
  t.match(show.value(deep), "{…}")
  local long = {}
  for i = 1, 1000 do long[i] = i end
  t.match(show.value(long), "… and 900 more")
  t.match(show.value { ("x"):rep(10000) }, "… 9500 bytes more")
  t.match(show.value { ("水"):rep(1000) }, "水\" … 2502 bytes more") -- no character cut
  local wide = {}
  for i = 1, 90 do
    wide[i] = {}
    for k = 1, 90 do wide[i][k] = { k } end
  end
  t.ok(#show.value(wide) < 200000)
end)

T.test("the first lines of a text", function(t)
  t.eq({ show.bounded("a\nb\nc", 5, 80) }, { "a\nb\nc", 0 })
  t.eq({ show.bounded("a\nb\nc", 2, 80) }, { "a\nb", 1 })
  t.eq({ show.bounded(("x"):rep(15) .. "\nb\nc", 2, 10) }, { ("x"):rep(15), 2 })
  t.eq({ show.bounded(("x"):rep(100), 2, 10) }, { ("x"):rep(20) .. "…", 1 })
end)

T.test("what has words of its own", function(t)
  local object = setmetatable({ secret = "x" }, { __tostring = function() return "an object" end })
  t.eq(show.value(object), "an object")
  t.eq(show.value { object }, "{ an object }")
  t.match(show.value(setmetatable({}, { __tostring = function() error "no" end })), "whose __tostring fails")
  t.eq(show.value(setmetatable({ 1 }, { __name = "thing" })), "<thing> { 1 }")
  t.eq(show.value(setmetatable({ 1 }, { __index = error, __pairs = error, __len = error })), "{ 1 }")
  local model = require "sluice".model { provider = "ollama", model = "x" }
  t.eq(show.value(model), "<sluice.model: model ollama/x>")
end)

T.test("credentials do not show", function(t)
  t.eq(show.value { api_key = "abc", password = "def", name = "x" }, '{ api_key = <hidden>, name = "x", password = <hidden> }')
  local secret = require "sluice.secret".literal("swordfish", "test")
  t.ok(not show.value(secret):find "swordfish")
  t.ok(not show.value({ secret }):find "swordfish")
end)

T.test("errors", function(t)
  local err = errors.new { kind = "server", status = 502, message = "bad", provider = "p", model = "m", attempt = 2 }
  t.eq(show.value(err), 'server: 502 Bad Gateway: bad (p/m, attempt 2)\n{ attempt = 2, model = "m", provider = "p", status = 502 }')
  t.match(show.value { err }, "^{ <sluice.error: server: 502")
end)

T.test("replies", function(t)
  local reply = require "sluice.reply".new { text = "Hello\27[2J.", finish_reason = "stop", provider = "p", model = "m",
    usage = { input_tokens = 3, output_tokens = 4 }, elapsed = 1.25, ttft = 0.5, degraded = { step = 2, why = "slow" } }
  t.eq(show.value(reply), "Hello\\027[2J.\n  (p/m; stop; 3 + 4 tokens; 1.2 s, first token 0.5 s; degraded: step 2, slow)")
end)

T.done()
