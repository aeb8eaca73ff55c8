-- sluice.metrics: counting from Lua, the words of mistakes, both text forms, and that a page is sound.
local T = require "harness"
local sluice = require "sluice"
local page_of = require "metrics_page"

local metrics = sluice.metrics

-- One registry serves the whole process, so each test has names of its own.

T.test("a counter counts by label", function(t)
  local pages = metrics.counter { name = "t1_pages_total", help = "Pages.", labels = { "kind", "lang" } }
  pages:inc { kind = "faq", lang = "en" }
  pages:add(2.5, { lang = "en", kind = "faq" })
  pages:inc { kind = "blog", lang = "中文" }
  t.eq(pages:value { kind = "faq", lang = "en" }, 3.5)
  t.eq(pages:value { kind = "blog", lang = "中文" }, 1.0)
  t.match(metrics.text(), '\nt1_pages_total{kind="blog",lang="中文"} 1\n')
  t.match(metrics.text(), "# HELP t1_pages_total Pages.\n# TYPE t1_pages_total counter\n")
end)

T.test("values of labels may be numbers and booleans", function(t)
  local c = metrics.counter { name = "t2_total", labels = { "n", "yes" } }
  c:inc { n = 3, yes = true }
  c:inc { n = "3", yes = "true" }
  t.eq(c:value { n = 3, yes = true }, 2.0)
  t.match(metrics.text(), '\nt2_total{n="3",yes="true"} 2\n')
end)

T.test("a gauge goes up and down, also below 0", function(t)
  local g = metrics.gauge { name = "t3_queue" }
  g:set(2) g:inc() g:dec() g:dec() g:add(-4.5)
  t.eq(g:value(), -3.5)
  g:set(math.huge)
  t.match(metrics.text(), "\nt3_queue %+Inf\n")
  g:set(0 / 0)
  t.match(metrics.text(), "\nt3_queue NaN\n")
end)

T.test("a histogram: sum, count, cumulative buckets", function(t)
  local h = metrics.histogram { name = "t4_bytes", labels = { "what" }, buckets = { 10, 100 } }
  for _, n in ipairs { 1, 10, 11, 1000 } do h:observe(n, { what = "x" }) end
  local sum, count = h:value { what = "x" }
  t.eq({ sum, count }, { 1022.0, 4 })
  local page = page_of(metrics.text())
  t.eq(page.t4_bytes_bucket['le="10",what="x"'], 2)
  t.eq(page.t4_bytes_bucket['le="100",what="x"'], 3)
  t.eq(page.t4_bytes_bucket['le="+Inf",what="x"'], 4)
  t.eq(page.t4_bytes_count['what="x"'], 4)
end)

T.test("a series is looked up once, and is the same as by its labels", function(t)
  local c = metrics.counter { name = "t5_total", labels = { "a" } }
  local x = c:with { a = "x" }
  x:inc()
  x:add(4)
  t.ok(rawequal(x, c:with { a = "x" }))
  t.ne(x, c:with { a = "y" })
  t.eq({ x:value(), c:value { a = "x" }, c:value { a = "y" } }, { 5.0, 5.0, 0.0 })
end)

T.test("the same again is the same metric; another shape is an error", function(t)
  local spec = { name = "t6_seconds", labels = { "a" }, buckets = { 1, 2 } }
  local h = metrics.histogram(spec)
  t.ok(rawequal(h, metrics.histogram(spec)))
  t.raises("there is a metric 't6_seconds' already, and it is another kind", metrics.gauge { name = "t6_other" } and
    function() metrics.gauge { name = "t6_seconds", labels = { "a" } } end)
  t.raises("other labels or buckets", metrics.histogram, { name = "t6_seconds", labels = { "b" }, buckets = { 1, 2 } })
  t.raises("other labels or buckets", metrics.histogram, { name = "t6_seconds", labels = { "a" }, buckets = { 1, 3 } })
  metrics.counter { name = "t6_x_total" }
  t.raises("'t6_x' cannot be told from what the metric 't6_x_total' shows", metrics.gauge, { name = "t6_x" })
end)

T.test("wrong names, labels and buckets", function(t)
  local function wrong(kind, opts, words)
    t.raises(words, metrics[kind], opts)
  end
  wrong("counter", { name = "t7" }, "a counter's name ends in '_total': 't7_total'")
  wrong("gauge", { name = "t7_total" }, "'_total' is for counters")
  wrong("gauge", { name = "t7_count" }, "'_count' is for what histograms show")
  wrong("gauge", { name = "t7-x" }, "letters, digits and '_'")
  wrong("gauge", { name = "7t" }, "letters, digits and '_'")
  wrong("gauge", { name = ("x"):rep(201) }, "letters, digits and '_'")
  wrong("gauge", {}, "'name' is missing")
  wrong("gauge", { name = "t7", label = { "x" } }, "unknown option 'label' %(did you mean 'labels'%?%)")
  wrong("gauge", { name = "t7", buckets = { 1 } }, "unknown option 'buckets'")
  wrong("gauge", { name = "t7", labels = { "le" } }, "not 'le' or 'quantile'")
  wrong("gauge", { name = "t7", labels = { "__x" } }, "letters, digits")
  wrong("gauge", { name = "t7", labels = { "a", "a" } }, "'a' is there twice")
  local many = {}
  for i = 1, 17 do many[i] = "l" .. i end
  wrong("gauge", { name = "t7", labels = many }, "17 labels are too many, at most 16")
  wrong("histogram", { name = "t7", buckets = { 2, 1 } }, "upper bounds that ascend")
  wrong("histogram", { name = "t7", buckets = { 1, 1 } }, "upper bounds that ascend")
  wrong("histogram", { name = "t7", buckets = {} }, "upper bounds that ascend")
  wrong("histogram", { name = "t7", buckets = { 1, math.huge } }, "upper bounds that ascend")
  t.eq(metrics.text():find "t7", nil)
end)

T.test("wrong uses say which metric, which label, and whose line", function(t)
  local c = metrics.counter { name = "t8_total", labels = { "kind" } }
  local g, h = metrics.gauge { name = "t8_gauge" }, metrics.histogram { name = "t8_seconds" }
  t.raises("metrics_test.lua:%d+: t8_total: its labels are kind", function() c:inc() end)
  t.raises("t8_total: there is no label 'kin' %(did you mean 'kind'%?%)", function() c:inc { kin = "x" } end)
  t.raises("t8_total: there is no label 'x'", function() c:inc { kind = "x", x = "y" } end)
  t.raises("label 'kind' must be a string, a number or a boolean, got a table", function() c:inc { kind = { 1 } } end)
  t.raises("labels are a table, got 3; numbers are for add", function() c:inc(3) end)
  t.raises("it has no labels", function() g:inc { kind = "x" } end)
  t.raises("a counter has no 'set'", function() c:set(1, { kind = "x" }) end)
  t.raises("a counter has no 'set'", function() c:with { kind = "x" }:set(1) end)
  t.raises("a gauge has no 'observe'", function() g:observe(1) end)
  t.raises("a histogram has no 'obsrve' %(did you mean 'observe'%?%)", function() h:obsrve(1) end)
  t.raises("a counter never goes down", function() c:add(-1, { kind = "x" }) end)
  t.raises("t8_total:add: argument 1 must be a number", function() c:add("1", { kind = "x" }) end)
  t.raises("argument 1 must be a number", function() h:observe(0 / 0) end)
  t.raises("argument 1 must be a number", function() h:observe(math.huge) end)
  t.raises("a finite number expected", function() c:with { kind = "x" }:add(math.huge) end)
  t.raises("use ':', not '.'", function() c:with { kind = "x" }.add(1) end)
  t.raises("'prometheus' or 'openmetrics'", metrics.text, "json")
  t.eq(c:value { kind = "x" }, 0.0)
end)

T.test("a secret is no label, and its bytes are in no page", function(t)
  local key = sluice.secret.literal("hunter2-hunter2", "key")
  local c = metrics.counter { name = "t9_total", labels = { "who" } }
  t.raises("label 'who' must be a string", function() c:inc { who = key } end)
  c:inc { who = "it is hunter2-hunter2" }
  t.eq(metrics.text():find("hunter2", 1, true), nil)
  t.match(metrics.text(), 't9_total{who="it is %[redacted%]"} 1')
end)

T.test("a label keeps its first values, later ones are other", function(t)
  local c = metrics.counter { name = "t10_total", labels = { "model" }, max_values = 3 }
  for i = 1, 10 do c:inc { model = "m" .. i } end
  t.eq({ c:value { model = "m3" }, c:value { model = "m4" }, c:value { model = "new" } }, { 1.0, 7.0, 7.0 })
  t.eq(select(2, metrics.text():gsub("\nt10_total{", "")), 4)
end)

T.test("names, help and values come out as both forms want them", function(t)
  local c = metrics.counter { name = "t11_total", help = 'a\\b\n"c"', labels = { "v" } }
  c:inc { v = 'q"\\\n' }
  c:inc { v = "\xFF" }
  local text, open = metrics.text(), metrics.text "openmetrics"
  t.ok(text:find('# HELP t11_total a\\\\b\\n"c"\n# TYPE t11_total counter\nt11_total{v="q\\"\\\\\\n"} 1\n', 1, true))
  t.ok(open:find('# HELP t11 a\\\\b\\n\\"c\\"\n# TYPE t11 counter\nt11_total{v="q\\"\\\\\\n"} 1\n', 1, true))
  t.ok(utf8.len(text))
  t.ok(open:find "\n# EOF\n$")
  t.eq(text:find "# EOF", nil)
end)

T.test("a tally counts what are numbers, and passes over the rest", function(t)
  local core = require "sluice.core.metrics"
  local registry = core.registry()
  local c = assert(registry:add("counter", "c_total", "", {}, {})):at()
  local h = assert(registry:add("histogram", "h", "", {}, { 1 })):at()
  local g = assert(registry:add("gauge", "g", "", {}, {})):at()
  local count = core.tally(c, h, g)
  count(2, 0.5, -3)
  count(nil, "x", {})
  count()
  count(-1, 0 / 0, math.huge)
  count(1, 5, 1, 99, 98)
  t.eq({ c:value(), { h:value() }, g:value() }, { 3.0, { 5.5, 2 }, -2.0 })
  t.raises("a series expected", core.tally, c, 1)
  t.raises("too many series", core.tally, c, c, c, c, c, c, c, c, c)
  t.eq(registry:text(), "# HELP c_total \n# TYPE c_total counter\nc_total 3\n# HELP h \n# TYPE h histogram\n"
    .. 'h_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 5.5\nh_count 2\n# HELP g \n# TYPE g gauge\ng -2\n')
end)

T.test("whatever the labels' bytes are, the pages are sound and UTF-8", function(t)
  local c = metrics.counter { name = "t13_total", labels = { "a", "b" }, max_values = 2000 }
  local pieces = { '"', "\\", "\n", "\r", "\0", "{", "}", ",", "=", " ", "\xFF", "\xE4\xB8", "中", "x", "# EOF", "\\n", "\t" }
  local function text()
    local parts = {}
    for i = 1, math.random(0, 60) do parts[i] = pieces[math.random(#pieces)] end
    return table.concat(parts)
  end
  for _ = 1, 300 do c:inc { a = text(), b = text() } end
  local total = 0
  for _, form in ipairs { "prometheus", "openmetrics" } do
    local page = metrics.text(form)
    local read = page_of(page)
    t.eq(read.problems, {}, form)
    t.ok(utf8.len(page))
    for _, value in pairs(read.t13_total) do total = total + value end
  end
  t.eq(total, 600)
end)

T.test("both pages are sound", function(t)
  local text = page_of(metrics.text())
  local open = page_of(metrics.text "openmetrics")
  t.eq(text.problems, {})
  t.eq(open.problems, {})
  t.ok(text.samples > 30, text.samples)
  t.eq(open.samples, text.samples)
end)

T.done()
