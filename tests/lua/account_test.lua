-- What a run came to: spread of times, load over time, sums from calls, the page and its escaping.
local T = require "harness"
local sluice = require "sluice"
local Account = require "sluice.account"
local Load = require "sluice.account.load"
local Sketch = require "sluice.account.sketch"
local chart = require "sluice.account.chart"
local figures = require "sluice.account.figures"
local page = require "sluice.account.page"
local summary = require "sluice.account.summary"
local mock = require "sluice.mock"

T.test("numbers as a person reads them", function(t)
  local shown = {}
  for i, s in ipairs { 0, 0.0004, 0.0123, 0.9996, 1.234, 59.96, 125, 3780 } do shown[i] = figures.seconds(s) end
  t.eq(shown, { "0 s", "0.4 ms", "12 ms", "1.00 s", "1.23 s", "1 min 00 s", "2 min 05 s", "1 h 03 min" })
  t.eq({ figures.whole(0), figures.whole(999), figures.whole(1234567) }, { "0", "999", "1,234,567" })
  t.eq({ figures.short(999), figures.short(1000), figures.short(34500), figures.short(2e6) }, { "999", "1.0k", "34k", "2.0M" })
  t.eq({ figures.percent(0, 5), figures.percent(1, 2000), figures.percent(1999, 2000), figures.percent(5, 5) },
    { "0 %", "0.1 %", "99.9 %", "100 %" })
end)

T.test("a sketch: percentiles within 6 %, extremes exact, any number of values in the same place", function(t)
  local sketch, values = Sketch.new(), {}
  t.eq(sketch:at(0.5), nil)
  for i = 1, 1000 do
    values[i] = 0.01 * 1.007 ^ i
    sketch:add(values[i])
  end
  for _, share in ipairs { 0.01, 0.25, 0.5, 0.95, 0.99 } do
    local want = values[math.ceil(share * 1000)]
    t.ok(math.abs(sketch:at(share) / want - 1) < 0.06, share)
  end
  t.eq({ sketch.least, sketch.most, sketch.count }, { values[1], values[1000], 1000 })
  local sum, last = 0, nil
  for _, bar in ipairs(sketch:bars(20)) do
    if last then t.near(last, bar[1], bar[1] * 1e-9) end
    sum, last = sum + bar[3], bar[2]
  end
  t.eq(sum, 1000)
  t.ok(#sketch:bars(20) <= 20)
  sketch:add(1e9)
  sketch:add(0)
  t.eq({ sketch:at(1), sketch:at(0) }, { 1e9, sketch:at(0) })
end)

T.test("load: areas add up however often the intervals double", function(t)
  local load = Load.new()
  load:change(1, 1)
  load:change(2, 1)
  load:fail(2.5)
  load:change(3, -1)
  load:change(5000, -1)
  load:advance(10000)
  local area, failed, most = 0, 0, 0
  for i = 0, load.last do
    area, failed, most = area + load.area[i], failed + load.failed[i], math.max(most, load.most[i])
  end
  t.near(1 * 1 + 2 * 1 + 4997, area, 1e-6)
  t.eq({ failed, most, load.peak, load.now }, { 1, 2, 2, 0 })
  t.ok(load.last < 160)
  t.ok(load.width * (load.last + 1) >= 10000)
end)

T.test("pictures of one value, of equal ones, of nothing under way", function(t)
  local sketch = Sketch.new()
  sketch:add(1)
  for _ = 1, 2 do
    local svg = chart.histogram(sketch, "latency")
    t.match(svg, '^<svg viewBox="0 0 520 210" role="img" aria%-label="latency: median 1.00 s')
    t.ok(not svg:find "nan" and not svg:find "inf")
    t.eq(select(2, svg:gsub("<rect", "")), 1)
    sketch:add(1)
  end
  local svg = chart.load(Load.new(), 0)
  t.ok(not svg:find "nan" and not svg:find "inf")
end)

local function run(scenario, f)
  local server <close> = mock.start { scenario = scenario, pace = 0 }
  local account = Account.new { slow = true }:start()
  local ok, err = pcall(f, function(name, more)
    local opts = { provider = "openai", model = name, base_url = server.url .. "/v1", auth = "k",
      retry = { attempts = 2, base = 0.01 } }
    for key, value in pairs(more or {}) do opts[key] = value end
    return sluice.model(opts)
  end)
  account:stop()
  if not ok then error(err, 0) end
  return account
end

T.test("sums: calls, attempts, failures, fallbacks, money, the slowest with what each attempt did", function(t)
  local account = run({ { model = "busy", nth = 1, status = 429, retry_after = 0 }, { model = "down", status = 503 },
    { model = "cut", cut_after = 2 }, { text = "a b c d" } }, function(make)
    make("fine", { price = { input = 1000, output = 1000 } }):ask "x"
    make "busy":ask "x"
    sluice.fallback { make "down", make "fine" }:ask "x"
    local stream = make "cut":stream "x"
    t.raises("interrupted", stream.reply, stream)
    do
      local left <close> = make "fine":stream "x" -- luacheck: ignore 211
    end
    sluice.try(function() return make("off", { base_url = "http://127.0.0.1:1/v1", retry = false }):ask "x" end)
  end)
  t.eq({ account.calls, account.ok, account.failed, account.abandoned, account.cancelled }, { 7, 3, 3, 1, 0 })
  t.eq({ account.attempts, account.retries }, { 9, 2 })
  t.eq(account.load.now, 0)
  t.ok(account.money.amounts.USD > 0)
  t.ok(account.money.unknown >= 3)
  local kinds = {}
  for _, e in ipairs(account:list "failure") do kinds[e.name] = { e.attempts, e.calls } end
  t.eq(kinds, { rate_limited = { 1, 0 }, overloaded = { 2, 1 }, interrupted = { 1, 1 }, network = { 1, 1 } })
  local move = account:list "move"[1]
  t.eq({ move.from, move.to, move.why, move.count }, { "openai/down", "openai/fine", "overloaded", 1 })
  t.eq(account:list "answer"[1].step, 2)
  local busy
  for i, call in ipairs(account.slowest) do
    if i > 1 then t.ok(account.slowest[i - 1].seconds >= call.seconds) end
    if call.name == "openai/busy" then busy = call end
  end
  local did = {}
  for _, p in ipairs(busy.pieces) do
    if p.what == "attempt" then did[#did + 1] = { p.number, p.outcome, p.kind, p.status } end
  end
  t.eq(did, { { 1, "error", "rate_limited", 429 }, { 2, "ok" } })
end)

T.test("memory does not grow with the run", function(t)
  local account = run({ { text = "x" } }, function(make)
    for i = 1, 120 do make("m" .. i):ask "x" end
  end)
  t.eq({ account.calls, #account.slowest }, { 120, 25 })
  local list, calls = account:list "model", 0
  for _, m in ipairs(list) do calls = calls + m.calls end
  t.eq({ #list, calls }, { 41, 120 })
  t.eq(list[1].name, "others")
end)

local EVIL = [[<script>alert("1")</script>&'模型]]

T.test("the page: whole, self-contained, escaped, without prompts, answers or secrets", function(t)
  local key = sluice.secret.literal("sk-verysecretvalue12345", "k")
  local account = run({ { model = "*2", status = 400 }, { text = "the answer itself" } }, function(make)
    make(EVIL, { auth = key }):ask "the prompt itself"
    make("sk-verysecretvalue12345", { auth = key }):ask "x"
    sluice.try(function() return sluice.fallback { make(EVIL .. "2") }:stream "the prompt itself" end)
  end)
  local html = page.make(account, { name = EVIL, date = "2026-01-02 03:04:05", version = "1", ended = "failed", code = 3 })
  t.ok(not html:find("<script", 1, true))
  t.ok(html:find("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;模型", 1, true))
  for _, word in ipairs { "the prompt itself", "the answer itself", "verysecret", "http://", "https://", "url(", "@import",
    "src=", "nan", "inf<" } do
    t.ok(not html:find(word, 1, true), word)
  end
  t.match(html, "^<!DOCTYPE html>\n<html lang=\"en\">")
  t.match(html, "</html>\n$")
  t.match(html, "exit code 3")
  t.match(html, "prefers%-color%-scheme:dark")
  local open, depth = {}, 0 -- every element is closed in its turn
  for slash, name, rest in html:gsub("<style>.-</style>", ""):gmatch "<(/?)([%a][%w]*)([^>]*)>" do
    if name ~= "meta" and name ~= "br" and rest:sub(-1) ~= "/" then
      if slash == "" then
        depth = depth + 1
        open[depth] = name
      else
        t.eq(name, open[depth])
        depth = depth - 1
      end
    end
  end
  t.eq(depth, 0)
end)

T.test("a run without a call", function(t)
  local account = Account.new {}:start():stop()
  local html = page.make(account, { name = "x.lua", date = "d", version = "1", ended = "ok" })
  t.match(html, "No model was asked")
end)

T.test("the summary names what there was", function(t)
  local account = run({ { model = "busy", nth = 1, status = 429, retry_after = 0 }, { text = "a b" } }, function(make)
    make "busy":ask "x"
  end)
  local text = table.concat(summary.lines(account), "\n")
  t.match(text, "calls      1; 2 requests %(1 retry%), 1 at once at most\n")
  t.match(text, "cost       1 call of unknown cost %(sluice.prices knows none of these models%)\n")
  t.match(text, "failures   rate_limited in 1 attempt\n")
  t.match(text, "slowest    .* openai/busy, 2 attempts$")
end)

T.done()
