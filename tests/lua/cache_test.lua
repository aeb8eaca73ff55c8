-- sluice.cache: answers kept for a worse day.
local T = require "harness"
local sluice = require "sluice"
local sys = require "sluice.core.sys"
local transport = require "sluice.test.transport"

local json = sluice.json

-- A model that answers as scripted, without a server.
local function model(answers, opts)
  local record = { answers = answers, name = "m", calls = 0, cancelled = 0, closed = 0, requests = {}, times = {},
    started = sluice.task.now() }
  local all = { provider = "mock", model = "m", base_url = "http://127.0.0.1:1/v1", transport = transport.new(record),
    retry = false, breaker = false }
  for key, value in pairs(opts or {}) do all[key] = value end
  return sluice.model(all), record
end

local function reply(text, more)
  local fields = { text = text, finish_reason = "stop", model = "m" }
  for key, value in pairs(more or {}) do fields[key] = value end
  return fields
end

local function logged(f)
  local lines = {}
  sluice.log.configure { write = function(line) lines[#lines + 1] = line end }
  local ok, err = pcall(f)
  sluice.log.configure { write = false }
  if not ok then error(err, 0) end
  return table.concat(lines, "\n")
end

local function lines_of(path)
  local n = 0
  for _ in io.lines(path) do n = n + 1 end
  return n
end

-- Keys ----------------------------------------------------------------------------------------------------

T.test("a request is the same in whatever order and form it is written", function(t)
  local cache = sluice.cache()
  cache:put("hello", reply "a")
  t.eq(cache:get { prompt = "hello" }.text, "a")
  cache:put({ system = "s", messages = { { role = "user", content = "q" } }, tools = { { name = "f", parameters = { a = 1, b = 2 } } } },
    reply "b")
  t.eq(cache:get({ tools = { { parameters = { b = 2, a = 1 }, name = "f" } }, messages = { { content = "q", role = "user" } },
    system = "s" }).text, "b")
  t.eq(cache:get { prompt = "hello", temperature = 1, max_tokens = 9 }.text, "a")
end)

T.test("other requests are others", function(t)
  local cache = sluice.cache()
  cache:put({ prompt = "q", system = "s" }, reply "a")
  for _, other in ipairs { "q", { prompt = "q", system = "s2" }, { prompt = "q", system = "s", stop = "x" },
    { messages = { { role = "user", content = "q" } }, system = "s" } } do
    t.eq(cache:get(other), nil)
  end
  -- a text cannot be made to look like another key
  t.ne(cache.key { prompt = 'q"stop:"x' }, cache.key { prompt = "q", stop = "x" })
  t.ne(cache.key { messages = { { ["a=1,b"] = 2 } } }, cache.key { messages = { { a = 1, b = 2 } } })
  t.ne(cache.key { messages = { { "1" } } }, cache.key { messages = { { 1 } } })
  t.ok(cache.key "\xff\xfe\0 not UTF-8")
end)

T.test("a reply among the messages counts as what it says", function(t)
  local cache, m = sluice.cache(), (model { { text = "first" } })
  local function asked(answer) return { messages = { { role = "user", content = "q" }, answer, { role = "user", content = "and?" } } } end
  cache:put(asked(m:ask "q"), reply "kept")
  t.eq(cache:get(asked(m:ask "q")).text, "kept") -- another reply, the same words
end)

-- What is kept ----------------------------------------------------------------------------------------------

T.test("only whole answers of the first choice are kept", function(t)
  local cache = sluice.cache()
  cache:put("1", reply "")
  cache:put("2", reply("cut", { finish_reason = "length" }))
  cache:put("3", reply("rescued", { finish_reason = "rescued" }))
  cache:put("4", reply("second", { degraded = { step = 2 } }))
  cache:put("5", reply("tools", { finish_reason = "tool_calls" }))
  cache:put("6", reply("from a cache", { provider = "cache" }))
  t.eq(cache.count, 0)
end)

T.test("the reply of a cache says so, and how old it is", function(t)
  sys.virtual_clock(true)
  local cache = sluice.cache { ttl = 60 }
  cache:put("q", reply "a")
  sluice.task.sleep(30)
  local got = cache:get "q"
  t.eq({ got.text, got.provider, got.model, got.finish_reason, #got.tool_calls }, { "a", "cache", "m", "stop", 0 })
  t.near(got.age, 30, 0.01)
  sluice.task.sleep(31)
  t.eq(cache:get "q", nil) -- too old even for a bad day
  cache:put("q", reply "fresh")
  t.eq(cache:get("q").text, "fresh")
  sys.virtual_clock(false)
end)

T.test("the oldest go when there are too many, and what is put again is young", function(t)
  local cache = sluice.cache { max = 3 }
  for _, q in ipairs { "a", "b", "c", "a", "d" } do cache:put(q, reply(q)) end
  t.eq({ cache.count, cache:get "b" }, { 3 })
  for _, q in ipairs { "a", "c", "d" } do t.eq(cache:get(q).text, q) end
end)

T.test("the same question a thousand times takes no more room than once", function(t)
  local cache = sluice.cache { max = 10 }
  for i = 1, 5000 do cache:put("q" .. i % 4, reply("answer " .. i)) end
  local n = 0
  for _ in pairs(cache.order) do n = n + 1 end
  t.eq(cache.count, 4)
  t.ok(n < 100, n .. " places")
  for i = 1, 20 do cache:put("other " .. i, reply "x") end
  t.eq({ cache.count, cache:get "q1" }, { 10 })
end)

T.test("memory is bounded in bytes, too", function(t)
  local cache = sluice.cache()
  local mib = ("x"):rep(1 << 20)
  for i = 1, 40 do cache:put("q" .. i, reply(mib)) end
  t.ok(cache.count <= 16 and cache.count >= 14, cache.count)
  t.ok(cache.bytes <= 16 << 20)
  cache:put("huge", reply(mib:rep(17)))
  t.eq(cache:get "huge", nil)
  t.ok(cache:get "q40") -- … and pushed nobody out
end)

-- The file --------------------------------------------------------------------------------------------------

T.test("answers outlive the program in a file", function(t)
  local path = T.tmpdir() .. "/answers.jsonl"
  local cache = sluice.cache { path = path }
  cache:put("q", reply "你好\nwith two lines")
  cache:put({ prompt = "r", system = "s" }, reply "b")
  cache:put("q", reply "newer")
  local again = sluice.cache { path = path }
  t.eq({ again.count, again:get("q").text, again:get({ prompt = "r", system = "s" }).text }, { 2, "newer", "b" })
  t.eq(lines_of(path), 3)
end)

T.test("broken lines are skipped, and said so; the rest is read", function(t)
  local path = T.tmpdir() .. "/answers.jsonl"
  sluice.cache { path = path }:put("q", reply "a")
  local good = T.read(path)
  T.write(path, "not json\n[1,2]\n{\"key\":1,\"text\":\"x\"}\n{\"key\":\"k\",\"text\":\"no time\",\"at\":\"then\",\"model\":3}\n\n"
    .. good .. good:sub(1, 20))
  local cache
  local log = logged(function() cache = sluice.cache { path = path } end)
  t.match(log, "lines that are no answers were skipped.*lines=4")
  t.eq({ cache.count, cache:get("q").text }, { 2, "a" })
  cache:put("r", reply "behind a line that was cut off") -- does not become part of that line
  local again
  logged(function() again = sluice.cache { path = path } end)
  t.eq({ again:get("r").text, again:get("q").text }, { "behind a line that was cut off", "a" })
end)

T.test("a file that is mostly out of date is written anew", function(t)
  local path = T.tmpdir() .. "/answers.jsonl"
  local cache = sluice.cache { path = path, max = 5 }
  for i = 1, 3000 do cache:put("q" .. i % 3, reply("answer " .. i)) end
  t.ok(lines_of(path) <= 1006, lines_of(path))
  local again = sluice.cache { path = path, max = 5 }
  t.eq({ again.count, again:get("q0").text, again:get("q2").text }, { 3, "answer 3000", "answer 2999" })
  local left = io.popen("ls -A '" .. path:match "^(.*)/" .. "'"):read "a"
  t.eq(left, "answers.jsonl\n")
end)

T.test("a file that cannot be written leaves a cache in memory, said once", function(t)
  local cache
  local log = logged(function()
    cache = sluice.cache { path = "/nowhere/at/all/answers.jsonl" }
    cache:put("q", reply "a")
    cache:put("r", reply "b")
  end)
  t.match(log, "answers are kept in memory only.*No such file")
  local _, times = log:gsub("kept in memory only", "")
  t.eq({ cache:get("q").text, cache:get("r").text, times }, { "a", "b", 1 })
  local dir = T.tmpdir()
  logged(function() cache = sluice.cache { path = dir } end) -- a folder
  cache:put("q", reply "a")
  t.eq(cache:get("q").text, "a")
end)

T.test("a path may begin with the home folder", function(t)
  local home = sys.env "HOME"
  t.eq(sluice.cache { path = "~/no-such-file-of-a-test.jsonl" }.path, home .. "/no-such-file-of-a-test.jsonl")
end)

T.test("a line is whole JSON with the key in it", function(t)
  local path = T.tmpdir() .. "/answers.jsonl"
  sluice.cache { path = path }:put("q", reply "a")
  local entry = json.decode(T.read(path))
  t.eq({ entry.key, entry.text, entry.model }, { sluice.cache().key "q", "a", "m" })
end)

-- Watching ----------------------------------------------------------------------------------------------------

T.test("a watched model's answers are kept, asked or streamed, however the stream is read", function(t)
  for name, read in pairs {
    ask = function(m) return m:ask "q" end,
    text = function(m) for _ in m:stream("q"):text() do end end, -- luacheck: ignore 542
    events = function(m) for _ in m:stream("q"):events() do end end, -- luacheck: ignore 542
    reply = function(m) return m:stream("q"):reply() end,
    ["some of the text, then the reply"] = function(m)
      local stream <close> = m:stream "q"
      stream:text()()
      return stream:reply()
    end,
  } do
    local cache = sluice.cache()
    read(cache:watch((model { { text = "one two three", gap = 0.001 } })))
    t.eq((cache:get "q" or {}).text, "one two three", name)
  end
end)

T.test("a stream that is left or breaks is not kept", function(t)
  local cache = sluice.cache()
  for _ in cache:watch((model { { text = "one two three", gap = 0.001 } })):stream("q"):text() do break end -- luacheck: ignore 512
  t.raises("interrupted", function()
    for _ in cache:watch((model { { text = "one two three", cut = 5 } })):stream("q"):text() do end -- luacheck: ignore 542
  end)
  t.eq(cache.count, 0)
end)

T.test("a watched model is a model: its name, its fields, with, a step that may be hedged", function(t)
  local m = model({ { text = "a" } }, { retry = {} })
  local cache = sluice.cache()
  local watched = cache:watch(m)
  t.eq({ watched.name, watched.opts == m.opts, tostring(watched) }, { m.name, true, tostring(m) })
  watched:with({ defaults = { temperature = 0 } }):ask "q"
  t.eq(cache.count, 1)
  local before = m.quota.level
  t.eq({ watched:pay_hedge(), m.quota.level }, { 14, before - 14 })
end)

T.test("a watched chain is kept when it was not degraded", function(t)
  local cache = sluice.cache()
  local good = sluice.fallback { (model { { text = "good" } }) }
  local bad = sluice.fallback { (model { { err = "server" } }), function() return "canned" end }
  for _ in cache:watch(good):stream("q"):text() do end -- luacheck: ignore 542
  cache:watch(bad):ask "r"
  cache:watch(bad):stream("s"):reply()
  t.eq({ cache.count, cache:get("q").text }, { 1, "good" })
end)

T.test("on a bad day the chain answers from the cache, or goes on where there is nothing", function(t)
  local cache = sluice.cache()
  local m = model { { text = "of a good day" }, { err = "server" } }
  local chain = sluice.fallback { cache:watch(m), cache:stale(), function() return "busy" end }
  t.eq(chain:ask("q").degraded, nil)
  local stale = chain:ask "q"
  t.eq({ stale.text, stale.provider, stale.degraded.step, stale.degraded.why }, { "of a good day", "cache", 2, "server" })
  t.eq(chain:stream("q"):reply().text, "of a good day")
  t.eq(chain:ask("never asked").text, "busy")
end)

T.test("wrong arguments name what is wrong", function(t)
  t.raises("sluice%.cache: unknown option 'tll' %(did you mean 'ttl'%?%)", sluice.cache, { tll = 5 })
  t.raises("option 'max' must be an integer", sluice.cache, { max = 0 })
  t.raises("cache:watch: expected a model, got a string", function() sluice.cache():watch "m" end)
end)

T.done()
