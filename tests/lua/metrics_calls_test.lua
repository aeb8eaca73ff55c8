-- What sluice counts of itself: every built-in metric against what was made to happen, on the virtual
-- clock; and over real sockets what is under way. Each scene is played twice: with the light records that
-- metrics alone ask for, and beside an observer that wants all of them. Both must count the same.
-- luacheck: ignore 512 (loops that are left at once)
local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local observe = require "sluice.observe"
local page_of = require "metrics_page"
local rehearsal = require "sluice.test"
local sys = require "sluice.core.sys"

local metrics, task = sluice.metrics, sluice.task

sluice.log.configure { level = "error" }

T.test("nothing is counted before it is asked for", function(t)
  t.eq(observe.on, nil)
  t.eq(metrics.text(), "")
  metrics.enable()
  t.ok(observe.on)
  metrics.enable()
  local page = page_of(metrics.text())
  t.eq(page.problems, {})
  local libraries = sys.libraries()
  t.eq(page.sluice_build_info[('libcurl="%s",libevent="%s",lua="%s",version="%s"'):format(libraries.libcurl,
    libraries.libevent, libraries.lua, sys.version)], 1)
  t.ok(page.sluice_lua_memory_bytes[""] > 100000)
  t.eq(page.sluice_tasks[""], require "sluice.core.task".census().tasks)
end)

-- Over sockets ---------------------------------------------------------------------------------------

local function under_way(model)
  return page_of(metrics.text()).api_concurrent_requests[('model="%s",provider="openai"'):format(model)]
end

T.test("what is under way, whoever ends it", function(t)
  local server <close> = S.start(function(req, res)
    if req.body:find "ask" then return task.sleep(60) end
    res:start(200, S.EVENTS)
    while true do
      res:write(S.text "tick ")
      task.sleep(0.003)
    end
  end)
  local model = S.model(server, { model = "busy", retry = false })
  local kept
  task.group(function(group)
    for _ = 1, 3 do group:spawn(function() pcall(model.ask, model, "ask") end) end
    kept = model:stream "one"
    local closed = model:stream "two"
    T.until_(function() return #server.seen == 5 end, 5)
    t.eq(under_way "busy", 5)
    closed:close()
    t.eq(under_way "busy", 4)
    group:cancel()
  end)
  t.eq(under_way "busy", 0)
  t.ok(kept)
  local page = page_of(metrics.text())
  t.eq(page.api_request_duration_seconds_count['model="busy",outcome="abandoned",provider="openai"'], 2)
  t.eq(page.api_request_duration_seconds_count['model="busy",outcome="cancelled",provider="openai"'], 3)
  t.eq((page.api_request_errors_total or {})['kind="cancelled",model="busy",provider="openai"'], nil)
end)

T.test("a refresh of a token, well and ill", function(t)
  local good = sluice.token.source { name = "corp", fetch = function() task.sleep(0.012) return "v" end }
  local bad = sluice.token.source { name = "corp2", fetch = function() error "no" end }
  good:get()
  good:get()
  pcall(bad.get, bad)
  local page = page_of(metrics.text())
  t.eq(page.api_token_refresh_count['outcome="ok",source="corp"'], 1)
  t.eq(page.api_token_refresh_count['outcome="error",source="corp2"'], 1)
  t.ok(page.api_token_refresh_sum['outcome="ok",source="corp"'] >= 0.012)
  t.ok(page_of(metrics.text "openmetrics").api_token_refresh_count['outcome="ok",source="corp"'] == 1)
end)

-- Scripted ---------------------------------------------------------------------------------------------

sys.virtual_clock(true)

-- Everything a page says of models whose names end in `mark`, the mark taken out.
local function said_of(mark)
  local said, page = {}, page_of(metrics.text())
  for name, samples in pairs(page) do
    for labels, value in pairs(type(samples) == "table" and name:find "^api_" and samples or {}) do
      if labels:find(mark, 1, true) then said[name .. "{" .. labels:gsub(mark:gsub("%p", "%%%0"), "") .. "}"] = value end
    end
  end
  return said, page.problems
end

-- Plays `body(new)` with both kinds of records; new(script) is t.model of sluice test. `expected` is what
-- the page must say, and of the listed metrics nothing else with another value than 0.
local scenes = 0

local function scene(name, body, expected)
  scenes = scenes + 1
  local number = scenes
  T.test(name, function(t)
    local outcomes = {}
    for _, records in ipairs { "light", "full" } do
      local context = rehearsal.begin()
      local mark = ("-%s%d."):format(records, number)
      local full = records == "full" and observe.subscribe { call_began = function() end } or nil
      local ok, err = pcall(body, function(script)
        script.name = (script.name or "m") .. mark
        return context.model(script)
      end, t)
      if full then observe.unsubscribe(full) end
      rehearsal.finish()
      if not ok then error(err, 0) end
      local said, problems = said_of(mark)
      t.eq(problems, {})
      for key, want in pairs(expected) do
        if key:find "_sum{" then t.near(said[key], want, 0.05) -- the scripted wire computes in between
        else t.eq(said[key], want, key .. mark) end
      end
      for key, value in pairs(said) do
        local listed = key:find "_total{" or key:find "_count{"
        if listed and value ~= 0 then t.eq(value, expected[key], key .. mark) end
      end
      outcomes[#outcomes + 1] = said
    end
    for key, value in pairs(outcomes[1]) do
      if not key:find "_sum{" and not key:find "_bucket{" then t.eq(outcomes[2][key], value, key) end -- back-offs are chance
    end
  end)
end

local function key(name, labels) return ("%s{%s}"):format(name, labels) end
local M = 'model="m",provider="mock"'
local function duration(outcome) return key("api_request_duration_seconds_count", ('model="m",outcome="%s",provider="mock"'):format(outcome)) end
local function kind(name, k) return key(name, ('kind="%s",model="m",provider="mock"'):format(k)) end
local function tokens(direction) return key("api_tokens_total", ('direction="%s",model="m",provider="mock"'):format(direction)) end

scene("an answer: duration and tokens", function(new, t)
  local reply = new { { wait = 3, text = "one two three", usage = { prompt_tokens = 7, completion_tokens = 3 } } }:ask "hi"
  t.eq(reply.usage.output_tokens, 3)
end, { [duration "ok"] = 1, [tokens "input"] = 7, [tokens "output"] = 3,
  [key("api_request_duration_seconds_sum", 'model="m",outcome="ok",provider="mock"')] = 3,
  [key("api_request_duration_seconds_bucket", 'le="2.5",model="m",outcome="ok",provider="mock"')] = 0,
  [key("api_request_duration_seconds_bucket", 'le="5",model="m",outcome="ok",provider="mock"')] = 1,
  [key("api_circuit_state", M)] = 0 })

scene("retries and then an answer: one call, two retries", function(new)
  new { retry = { attempts = 3, base = 1 }, { err = "server" }, { status = 429, retry_after = 4 },
    { text = "x", usage = { prompt_tokens = 1, completion_tokens = 1 } } }:ask "hi"
end, { [duration "ok"] = 1, [kind("api_retries_total", "server")] = 1, [kind("api_retries_total", "rate_limited")] = 1,
  [tokens "input"] = 1, [tokens "output"] = 1 })

scene("a call that fails for good", function(new)
  local model = new { retry = { attempts = 2, base = 1 }, { err = "server" }, { err = "server" }, { err = "invalid" } }
  pcall(model.ask, model, "hi")
  pcall(model.ask, model, "hi")
end, { [duration "error"] = 2, [kind("api_errors", "x")] = nil, [kind("api_retries_total", "server")] = 1,
  [kind("api_request_errors_total", "server")] = 1, [kind("api_request_errors_total", "invalid")] = 1 })

scene("a call that is never sent", function(new)
  local model = new { limit = { concurrency = 1, max_wait = 1 }, { wait = 5, text = "x", usage = { prompt_tokens = 0, completion_tokens = 1 } } }
  task.all { function() model:ask "1" end, function() pcall(model.ask, model, "2") end }
end, { [duration "ok"] = 1, [duration "error"] = 1, [kind("api_request_errors_total", "throttled")] = 1,
  [key("api_request_duration_seconds_sum", 'model="m",outcome="error",provider="mock"')] = 1,
  [tokens "output"] = 1 })

scene("cancelled: on the wire, in a back-off, in a stream", function(new)
  local model = new { retry = { attempts = 2, base = 50 }, { wait = 9, text = "x" }, { err = "server" } }
  pcall(task.deadline, 1, model.ask, model, "1")
  task.group(function(g)
    local h = g:spawn(function() pcall(model.ask, model, "2") end)
    task.sleep(0.001)
    h:cancel()
  end)
end, { [duration "cancelled"] = 2, [kind("api_retries_total", "server")] = 1 })

scene("a stream: first token, tokens, whole duration", function(new)
  for _ in new { { wait = 2, text = "one two three four", gap = 1, usage = { prompt_tokens = 5, completion_tokens = 4 } } }
    :stream "hi":text() do end -- luacheck: ignore 542
end, { [duration "ok"] = 1, [tokens "input"] = 5, [tokens "output"] = 4,
  [key("api_time_to_first_token_seconds_count", M)] = 1, [key("api_time_to_first_token_seconds_sum", M)] = 2,
  [key("api_time_to_first_token_seconds_bucket", 'le="1.5",' .. M)] = 0,
  [key("api_time_to_first_token_seconds_bucket", 'le="3",' .. M)] = 1 })

scene("a stream that breaks off", function(new)
  local model = new { { text = "one two three four", cut = 8 } }
  pcall(function() for _ in model:stream "hi":text() do end end) -- luacheck: ignore 542
end, { [duration "interrupted"] = 1, [kind("api_request_errors_total", "interrupted")] = 1,
  [key("api_streams_interrupted_total", M)] = 1, [key("api_time_to_first_token_seconds_count", M)] = 1 })

scene("a stream that its reader leaves", function(new)
  for _ in new { { text = "one two three four", gap = 1 } }:stream "hi":text() do break end
end, { [duration "abandoned"] = 1, [key("api_time_to_first_token_seconds_count", M)] = 1 })

scene("the breaker: open, half open, closed", function(new, t)
  local model = new { retry = false, breaker = { trip_after = 2, sleep_window = 5 }, { err = "server" },
    { err = "server" }, { text = "x", usage = { prompt_tokens = 1, completion_tokens = 1 } } }
  local circuit = 'model="' .. model.model .. '",provider="mock"'
  local function state() return page_of(metrics.text()).api_circuit_state[circuit] end
  pcall(model.ask, model, "1")
  t.eq(state(), 0)
  pcall(model.ask, model, "2")
  t.eq(state(), 2)
  pcall(model.ask, model, "3") -- refused
  task.sleep(7)
  t.eq(state(), 1)
  model:ask "4"
  t.eq(state(), 0)
  model.breaker:open()
  t.eq(state(), 2)
  model.breaker:disable()
  t.eq(state(), 0)
end, { [duration "ok"] = 1, [duration "error"] = 3, [kind("api_request_errors_total", "server")] = 2,
  [kind("api_request_errors_total", "circuit_open")] = 1, [key("api_circuit_state", M)] = 0,
  [tokens "output"] = 1, [tokens "input"] = 1 })

local function moved(why, to) return key("api_fallbacks_total", ('from="mock/a",to="%s",why="%s"'):format(to or "mock/b", why)) end

scene("a fallback moves on: failed, declined, slow", function(new)
  local function pair(first, after)
    return sluice.fallback { { new(first), after = after }, new { name = "b", { text = "x", usage = { prompt_tokens = 1, completion_tokens = 1 } } } }
  end
  pair { name = "a", retry = false, { err = "server" } }:ask "1"
  pair({ name = "a", { wait = 9, text = "late" } }, 2):ask "2"
end, { [moved "server"] = 1, [moved "slow"] = 1, [key("api_hedges_total", 'from="mock/a",to="mock/b"')] = 1,
  [key("api_request_duration_seconds_count", 'model="a",outcome="error",provider="mock"')] = 1,
  [key("api_request_duration_seconds_count", 'model="a",outcome="cancelled",provider="mock"')] = 1,
  [key("api_request_errors_total", 'kind="server",model="a",provider="mock"')] = 1,
  [key("api_request_duration_seconds_count", 'model="b",outcome="ok",provider="mock"')] = 2,
  [key("api_tokens_total", 'direction="input",model="b",provider="mock"')] = 2,
  [key("api_tokens_total", 'direction="output",model="b",provider="mock"')] = 2,
  [key("api_time_to_first_token_seconds_count", 'model="b",provider="mock"')] = 1 })

scene("a rescue is where a broken stream moves to", function(new)
  local chain = sluice.fallback { new { name = "a", { text = "one two three", cut = 8 } },
    rescue = function() return " (cut)" end }
  for _ in chain:stream "hi":text() do end -- luacheck: ignore 542
end, { [moved("interrupted", "rescue")] = 1,
  [key("api_request_duration_seconds_count", 'model="a",outcome="interrupted",provider="mock"')] = 1,
  [key("api_request_errors_total", 'kind="interrupted",model="a",provider="mock"')] = 1,
  [key("api_streams_interrupted_total", 'model="a",provider="mock"')] = 1,
  [key("api_time_to_first_token_seconds_count", 'model="a",provider="mock"')] = 1 })

T.test("models beyond the cap are other, and their calls are all counted", function(t)
  local context = rehearsal.begin()
  for i = 1, 130 do context.model { name = "many-" .. i, { text = "x", usage = { prompt_tokens = 0, completion_tokens = 1 } } }:ask "hi" end
  rehearsal.finish()
  local page = page_of(metrics.text())
  t.eq(page.problems, {})
  local kept, other = 0, page.api_tokens_total['direction="output",model="other",provider="mock"']
  for labels, value in pairs(page.api_tokens_total) do
    if labels:find 'direction="output",model="many' and value == 1 then kept = kept + 1 end
  end
  t.ok(kept >= 50 and kept < 100, kept)
  t.eq(kept + other, 130)
end)

-- Every test above has made its metrics move, so all there are are on the page.
T.test("docs/metrics.md lists what there is, with its labels, and no more", function(t)
  local documented, real = {}, {}
  for line in T.read "docs/metrics.md":gmatch "[^\n]+" do
    local name, sort, labels = line:match "^| `([%w_]+)` | (%l+) | ([^|]-) ?|"
    if name then
      local list = {}
      for label in labels:gmatch "`([%w_]+)`" do list[#list + 1] = label end
      documented[name] = sort .. ": " .. table.concat(list, " ")
    end
  end
  for _, metric in ipairs(metrics.look()) do
    real[metric.name] = metric.kind .. ": " .. table.concat(metric.labels, " ")
  end
  t.eq(documented, real)
end)

T.test("both pages of all of it are sound", function(t)
  t.eq(page_of(metrics.text()).problems, {})
  t.eq(page_of(metrics.text "openmetrics").problems, {})
end)

T.done()
