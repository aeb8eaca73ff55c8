-- Transformed streams on the wire: what they hand out, what reply() says, who closes the connection, and
-- that a slow reader still slows the sender down.
-- timeout: 90
-- luacheck: ignore 512 (loops that are left at once)

local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local task = sluice.task

local HEAD = S.chunk '{"role":"assistant","content":""}'

local function answers(...)
  local body = S.answer(...)
  return S.start(function(_, res) S.events(res, body) end)
end

--- Sends text and then breaks the connection off, or says nothing more.
local function broken(texts, stall)
  return S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write(HEAD)
    for _, text in ipairs(texts) do res:write(S.text(text)) end
    if stall then S.stall() end
    res:flush()
    res:close()
  end)
end

local function endless()
  return S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write(HEAD)
    while true do res:write(S.text "Tick tock. ") end
  end)
end

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

local function left(server)
  T.until_(function() return server.gone == 1 and server.active == 0 end, 5, "the client has gone")
end

-- Reading -------------------------------------------------------------------------------------------

T.test("lines in a for, their text, and the reply", function(t)
  local server <close> = answers("one\nt", "wo\n你", "好")
  local model = S.model(server)
  local lines = {}
  for line in model:stream("x"):lines() do lines[#lines + 1] = line end
  t.eq(lines, { "one", "two", "你好" })
  t.eq(S.collect(model:stream("x"):lines():text()), { "one\n", "two\n", "你好" })
  t.eq(S.collect(model:stream("x"):lines():items()), lines)
  for _, way in ipairs { "items", "text", "events" } do -- an iterator may be called by itself
    local stream <close> = model:stream("x"):lines()
    local next_one = stream[way](stream)
    local first = next_one()
    t.eq(type(first) == "table" and first.item or first, way == "text" and "one\n" or "one")
  end
  local reply = model:stream("x"):lines():map(string.upper):reply()
  t.eq(reply.text, "ONE\nTWO\n你好")
  t.eq({ reply.finish_reason, reply.usage.total_tokens, reply.model }, { "stop", 12, "m-1" })
  t.eq(reply.original.text, "one\ntwo\n你好")
  t.eq(#reply.attempts, 1)
end)

T.test("events: text carries the item, what was held comes before the counts, the rest passes", function(t)
  local server <close> = S.start(function(_, res)
    S.events(res, HEAD .. S.text "a\nb" .. S.chunk '{"reasoning_content":"hm"}'
      .. S.chunk '{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}'
      .. S.finish "tool_calls" .. S.USAGE .. S.DONE)
  end)
  local seen = {}
  local stream <close> = S.model(server):stream("x"):lines()
  for event in stream:events() do
    seen[#seen + 1] = event.type == "text" and ("text %s=%s"):format(event.item, event.text) or event.type
  end
  t.eq(seen, { "text a=a\n", "thinking", "tool_call", "text b=b", "usage", "finish" })
  local reply = stream:reply()
  t.eq({ reply.text, reply.thinking, reply.tool_calls[1].name }, { "a\nb", "hm", "f" })
end)

T.test("a loop over the stream itself says what to loop over", function(t)
  local server <close> = answers "one"
  local model = S.model(server)
  t.raises("a stream is read by its methods: for text in stream:text%(%)", function()
    local stream <close> = model:stream "x"
    for _ in stream do error "never" end
  end)
end)

T.test("reply after half of it was read, and twice", function(t)
  local server <close> = answers("one\ntwo\n", "three")
  local stream <close> = S.model(server):stream("x"):lines()
  t.eq(stream(), "one")
  local reply = stream:reply()
  t.eq(reply.text, "one\ntwo\nthree")
  t.ok(rawequal(stream:reply(), reply))
  t.eq(stream(), nil)
end)

T.test("a chain of steps", function(t)
  local server <close> = answers('Here:\n```jsonl\n{"name":"李', '雷","n":1}\n{"name":"x","n":2}\n```\n', "Done.")
  local stream <close> = S.model(server):stream("x"):code_blocks { lang = "jsonl" }:json_lines()
    :filter(function(row) return row.n == 1 end):map(function(row) return row.name end)
  t.eq(S.collect(stream:items()), { "李雷" })
  local reply = stream:reply()
  t.eq(reply.text, "李雷\n")
  t.match(reply.original.text, "^Here:\n```jsonl\n.*Done%.$")
end)

T.test("every step: an answer in one piece, in characters, and in bytes on the wire, comes out the same", function(t)
  local answer = "一。Two, sk-12! 三？\n```json\n{\"a\":\"你😀\"}\n```\nSTOP here.\n"
  local characters = {}
  for _, code in utf8.codes(answer) do characters[#characters + 1] = utf8.char(code) end
  local in_bytes = S.answer(table.unpack(characters))
  local bodies = { S.answer(answer), in_bytes, in_bytes }
  local asked, folder = 0, T.tmpdir()
  local server <close> = S.start(function(_, res)
    asked = asked + 1
    local body = bodies[(asked - 1) % 3 + 1]
    if (asked - 1) % 3 < 2 then return S.events(res, body) end
    res:start(200, S.EVENTS)
    for i = 1, #body do res:write(body:sub(i, i)) end
    res:close()
  end)
  local model = S.model(server)
  local function whole(item)
    t.ok(utf8.len(item), "whole characters")
    return item
  end
  local steps = {
    lines = function(s) return s:lines(), true end,
    sentences = function(s) return s:sentences(), true end,
    code_blocks = function(s) return s:code_blocks(), true end,
    json_lines = function(s) return s:code_blocks():json_lines(), true end,
    map = function(s) return s:map(function(item) return whole(item):upper() end) end,
    filter = function(s) return s:filter(function(item) return whole(item) ~= "" end) end,
    redact = function(s) return s:redact { "Two", patterns = { "sk%-%d+" } } end,
    until_match = function(s) return s:until_match "STOP" end,
    throttle = function(s) return s:throttle(1e6) end,
    tee = function(s) return s:tee(folder .. "/tee") end,
    markdown = function(s) return s:markdown { colour = true, width = 40 } end,
  }
  for name, step in pairs(steps) do
    local seen = {}
    for i = 1, 3 do
      local stream <close>, of_items = step(model:stream "x")
      local pieces
      if of_items then pieces = S.collect(stream:items())
      else
        pieces = S.collect(stream:text())
        for _, piece in ipairs(pieces) do whole(piece) end
        pieces = table.concat(pieces)
      end
      seen[i] = pieces
      if name == "tee" then t.eq(T.read(folder .. "/tee"), answer) end
    end
    t.ok(#seen[1] > 0, name)
    t.eq(seen[2], seen[1], name .. " in characters")
    t.eq(seen[3], seen[1], name .. " in bytes")
  end
end)

T.test("tee writes to a path and to an open file", function(t)
  local server <close> = answers("one\nt", "wo")
  local model, folder = S.model(server), T.tmpdir()
  local reply = model:stream("x"):tee(folder .. "/a"):lines():map(string.upper):tee(folder .. "/b"):reply()
  t.eq({ T.read(folder .. "/a"), T.read(folder .. "/b"), reply.text }, { "one\ntwo", "ONE\nTWO", "ONE\nTWO" })
  local file <close> = io.open(folder .. "/c", "w")
  model:stream("x"):tee(file):reply()
  t.eq(io.type(file), "file")
  t.eq(T.read(folder .. "/c"), "one\ntwo")
  local stream <close> = model:stream "x"
  t.raises("cannot write .*No such file.*there is no folder '.*/no'", stream.tee, stream, folder .. "/no/file")
end)

T.test("throttle hands out no faster than asked", function(t)
  local server <close> = answers(("x"):rep(20))
  local stream <close> = S.model(server):stream("x"):throttle(100)
  local began, pieces = task.now(), S.collect(stream:text())
  t.eq(table.concat(pieces), ("x"):rep(20))
  t.eq(#pieces, 4)
  t.ok(task.now() - began >= 0.149, "the last part goes 0.15 s after the first")
end)

-- Ending --------------------------------------------------------------------------------------------

T.test("until_match closes the connection, and reply says so", function(t)
  local server <close> = broken({ "one ST", "OP two" }, true)
  local stream <close> = S.model(server):stream("x"):until_match("STOP", { plain = true }):lines()
  t.eq(S.collect(stream:text()), { "one " })
  left(server)
  local reply = stream:reply()
  t.eq({ reply.text, reply.finish_reason, reply.matched, reply.original, reply.provider },
    { "one ", "matched", "STOP", nil, "openai" })
  local other <close> = S.model(server):stream("x"):until_match("ST%u", { include = true, hold = 3 })
  local types = {}
  for event in other:events() do types[#types + 1] = event.reason or event.text end
  t.eq(types, { "one ", "STO", "matched" })
end)

T.test("until_match without a match is the whole answer", function(t)
  local server <close> = answers("one", " two")
  local reply = S.model(server):stream("x"):until_match("three"):reply()
  t.eq({ reply.text, reply.finish_reason, reply.matched }, { "one two", "stop", nil })
end)

T.test("leaving the loop closes the connection", function(t)
  for _, read in ipairs {
    function(s) for _ in s:lines() do break end end,
    function(s) for _ in s:sentences():text() do break end end,
    function(s) for _ in s:lines():map(string.upper):events() do break end end,
    function(s) local l <close> = s:sentences() l() end,
    function(s) s:lines():close() end,
  } do
    local server <close> = broken({ "one. Two\nthree. " }, true)
    read(S.model(server):stream "x")
    left(server)
    t.eq(server.gone, 1)
  end
end)

T.test("an error in a function, and a cancelled task, close it too", function(t)
  local server <close> = endless()
  local model = S.model(server)
  t.raises("no good", function() model:stream("x"):sentences():map(function() error "no good" end):reply() end)
  left(server)
  local pieces = 0
  task.group(function(group)
    group:spawn(function()
      for _ in model:stream("x"):sentences():throttle(5) do pieces = pieces + 1 end
    end)
    T.until_(function() return pieces > 0 end)
    group:cancel()
  end)
  T.until_(function() return server.gone == 2 and server.active == 0 end)
  t.eq(server.gone, 2)
end)

T.test("a transformed stream returned by a task belongs to who gets it", function(t)
  local server <close> = answers("one\ntwo")
  local model = S.model(server)
  local stream <close> = task.group(function() return (model:stream("x"):lines()) end)
  t.eq(stream:reply().text, "one\ntwo")
end)

T.test("a slow reader slows the sender down", function(t)
  local sent = 0
  local server <close> = S.start(function(_, res)
    res:start(200, S.EVENTS)
    res:write(HEAD)
    local piece = S.text(("Tick tock. "):rep(100))
    while true do
      res:write(piece)
      sent = sent + 1100
    end
  end)
  local stream <close> = S.model(server):stream("x"):redact("secret"):sentences()
  t.eq(stream(), "Tick tock.")
  local before = -1
  T.until_(function() -- until the sender has stopped by itself
    local stands = sent == before
    before = sent
    task.sleep(0.05)
    return stands
  end, 20)
  t.ok(sent < 32 << 20, sent)
  stream:close()
  left(server)
end)

T.test("many at once, each left in another way: no connection, no place is left", function(t)
  local server <close> = endless()
  local model = S.model(server, { limit = { concurrency = 8 } })
  local function step(stream)
    local n = math.random(6)
    if n == 1 then return (stream:lines { max = 2000 })
    elseif n == 2 then return (stream:sentences())
    elseif n == 3 then return (stream:map(function(text) return math.random(40) > 1 and text or error "no good" end))
    elseif n == 4 then return (stream:redact { "tock", patterns = { "%u%l+" } })
    elseif n == 5 then return (stream:until_match(("tock. Tick "):rep(math.random(3)), { plain = true }))
    end
    return (stream:filter(function() return math.random(5) > 1 end))
  end
  local left_how = {}
  local function visit()
    local stream = step(step(model:stream "x"))
    local how = math.random(4)
    left_how[how] = true
    if how == 1 then return task.deadline(0.03, stream.reply, stream) end
    for _ = 1, math.random(5) do
      if not stream() then break end
    end
    if how == 2 then stream:close()
    elseif how == 3 then error "given up"
    end -- else it is the group's end that closes it
  end
  local outcomes = task.map(numbers(T.slow and 40 or 60), function() task.group(visit) end,
    { concurrency = 16, settle = true })
  T.until_(function() return server.active == 0 end, 10)
  t.eq(#server.errors, 0)
  t.eq(#left_how, 4)
  t.ok(#outcomes >= 40)
  t.eq(task.deadline(5, function() return model:stream("x"):until_match("tock"):reply().text end), "Tick ")
end)

-- Breaking ------------------------------------------------------------------------------------------

T.test("a break is raised behind what came before; partial is what was handed out", function(t)
  local server <close> = broken { "one\ntw", "o\nthr" }
  local model, lines = S.model(server), {}
  local err = t.raises("interrupted", function()
    for line in model:stream("x"):lines():map(string.upper) do lines[#lines + 1] = line end
  end)
  t.eq(lines, { "ONE", "TWO" }) -- half a line is none
  t.eq(err.partial, "ONE\nTWO\n")
  err = t.raises("interrupted", function() model:stream("x"):redact("one"):reply() end)
  t.eq(err.partial, "[redacted]\ntwo\nthr")
end)

T.test("reading on after a break raises the same error", function(t)
  local server <close> = broken { "one" }
  local stream <close> = S.model(server):stream("x"):lines()
  local err = t.raises("interrupted", stream)
  t.ok(rawequal(t.raises("interrupted", stream), err))
  t.ok(rawequal(t.raises("interrupted", stream.reply, stream), err))
end)

T.test("an answer that is too large for a step", function(t)
  local server <close> = endless()
  local err = t.raises("memory", function() S.model(server):stream("x"):lines { max = 1000 }:reply() end)
  t.match(err.message, "stream:lines: line 1 is longer than 1000 bytes")
  left(server)
end)

T.test("reading a stream that was closed says so", function(t)
  local server <close> = answers "one\ntwo"
  local stream = S.model(server):stream("x"):lines()
  stream:close()
  t.raises("transform_stream_test.lua:%d+: .*closed before its end", function() return (stream:reply()) end)
end)

-- Fallbacks -----------------------------------------------------------------------------------------

T.test("the stream of a fallback is transformed across its rescue", function(t)
  local bad <close> = broken { "one. Tw" }
  local good <close> = answers("o. Three.")
  local big, small = S.model(bad), S.model(good)
  local chain = sluice.fallback { big, rescue = function() return small:stream "go on" end }
  local stream <close> = chain:stream("x"):sentences()
  t.eq(S.collect(stream:items()), { "one.", "Two.", "Three." })
  local reply = stream:reply()
  t.eq(reply.text, "one. Two. Three.")
  t.eq(reply.degraded.step, "rescue")
end)

T.test("a step may answer with a transformed stream; its partial is what the rescue continues", function(t)
  local bad <close> = broken { "my name is Alice, you kn" }
  local model, partial = S.model(bad), nil
  local chain = sluice.fallback { function(req) return model:stream(req):redact "Alice" end,
    rescue = function(_, err) partial = err.partial return " …" end }
  t.eq(chain:stream("x"):lines():reply().text, "my name is [redacted], you kn …")
  t.eq(partial, "my name is [redacted], you kn")
  local held = sluice.fallback { { function(req) return model:stream(req) end, hold = 10 }, rescue = function() return "!" end }
  t.eq(held:stream("x"):map(string.upper):reply().text, "MY NAME IS ALICE, YOU KN!")
end)

-- Misuse --------------------------------------------------------------------------------------------

T.test("wrong arguments are named, and the connection is not lost", function(t)
  local server <close> = answers "one"
  local stream <close> = S.model(server):stream "x"
  t.raises("stream:lines: unknown option 'maxx' %(did you mean 'max'%?%)", stream.lines, stream, { maxx = 1 })
  t.raises("stream:map: argument 1 must be a function, got nothing", stream.map, stream)
  t.raises("stream:redact: nothing to redact", stream.redact, stream, {})
  t.raises("stream:redact: element 1 must be a text", stream.redact, stream, { 5 })
  t.raises("stream:redact: unknown option 'pattern' %(did you mean 'patterns'", stream.redact, stream, { pattern = {} })
  t.raises("stream:throttle: argument 1 must be a number above 0", stream.throttle, stream, 0)
  t.raises("stream:until_match: not a Lua pattern", stream.until_match, stream, "[")
  t.raises("stream:tee: argument 1 must be a path or an open file", stream.tee, stream, 7)
  t.raises("stream:lines: called without a stream", stream.lines)
  t.eq(stream:reply().text, "one")
end)

T.done()
