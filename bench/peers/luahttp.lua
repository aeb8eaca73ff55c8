--- The same work as bench/bare.c with lua-http (cqueues) and lua-cjson.
-- usage: lua5.4 luahttp.lua ask|stream|paced|init|idle key=value…
-- lua-http's own http.request opens a connection each time; connections are kept here, one per worker.

-- Debian installs the pure-Lua modules of lua-http for older Luas only; they run on 5.4 as they are.
for _, version in ipairs { "5.3", "5.2" } do
  package.path = ("%s;/usr/share/lua/%s/?.lua;/usr/share/lua/%s/?/init.lua"):format(package.path, version, version)
end

local cjson = require "cjson"
local cqueues = require "cqueues"
local http_client = require "http.client"
local http_headers = require "http.headers"

local args = { port = 0, n = 10000, concurrency = 1, streams = 500, gap = 100, delay = 1000 }
local mode = (...)
for _, arg in ipairs { select(2, ...) } do
  local key, value = arg:match "^(%w+)=(%d+)$"
  if not key or not args[key] then error("unknown argument " .. arg, 0) end
  args[key] = math.tointeger(value)
end

local function connect()
  return assert(http_client.connect { host = "127.0.0.1", port = args.port, tls = false, version = 1.1 })
end

--- Sends one request on a connection; the stream to read the answer from.
local function post(connection, model, streaming)
  local body = cjson.encode { model = model, messages = { { role = "user", content = "Why is the sky blue?" } },
    stream = streaming or nil, stream_options = streaming and { include_usage = true } or nil }
  local headers = http_headers.new()
  headers:append(":method", "POST")
  headers:append(":scheme", "http")
  headers:append(":authority", "127.0.0.1:" .. args.port)
  headers:append(":path", "/v1/chat/completions")
  headers:append("content-type", "application/json")
  headers:append("accept", "application/json")
  headers:append("authorization", "Bearer bench-key")
  headers:append("content-length", tostring(#body))
  local stream = assert(connection:new_stream())
  assert(stream:write_headers(headers, false))
  assert(stream:write_chunk(body, true))
  local answer = assert(stream:get_headers())
  assert(answer:get ":status" == "200", "status " .. tostring(answer:get ":status"))
  return stream
end

local function ask(connection)
  local reply = cjson.decode(assert(post(connection, "bench", false):get_body_as_string()))
  assert(reply.usage.completion_tokens == 32, "not a whole reply")
  return #reply.choices[1].message.content
end

local function read_stream(connection, model, text)
  local stream, rest = post(connection, model, true), ""
  for chunk in stream:each_chunk() do
    rest = rest .. chunk
    local from = 1
    while true do
      local stop = rest:find("\n", from, true)
      if not stop then break end
      if stop - from > 6 and rest:sub(from, from + 5) == "data: " and rest:sub(from + 6, stop - 1) ~= "[DONE]" then
        local choice = cjson.decode(rest:sub(from + 6, stop - 1)).choices[1]
        local content = choice and choice.delta.content
        if content and content ~= "" then text(content) end
      end
      from = stop + 1
    end
    rest = rest:sub(from)
  end
end

local function kib(name)
  local file <close> = assert(io.open("/proc/self/status", "r"))
  return math.tointeger(file:read("a"):match(name .. ":%s*(%d+)"))
end

local function report(fields)
  fields.client, fields.mode, fields.maxrss_kib = "lua-http", mode, kib "VmHWM"
  print(cjson.encode(fields))
end

--- Runs `work(i)` for 1 … n at once and waits for all.
local function together(n, work)
  local loop = cqueues.new()
  for i = 1, n do loop:wrap(work, i) end
  assert(loop:loop())
end

local modes = {}

function modes.ask()
  local connections, size = {}, 0
  local function run(n)
    local left = n
    size = 0
    together(args.concurrency, function(i)
      connections[i] = connections[i] or connect()
      while left > 0 do
        left = left - 1
        local bytes = ask(connections[i]) -- not in one line: others add while this one waits
        size = size + bytes
      end
    end)
  end
  run(math.max(500, 2 * args.concurrency))
  local wall, cpu = cqueues.monotime(), os.clock()
  run(args.n)
  cpu, wall = os.clock() - cpu, cqueues.monotime() - wall
  report { n = args.n, cpu_us_per_unit = cpu / args.n * 1e6, wall_s = wall, text_bytes = size }
end

local function whole(connection, n)
  local deltas, size = 0, 0
  read_stream(connection, "bench-n" .. n, function(text)
    deltas, size = deltas + 1, size + #text
  end)
  assert(deltas == n, "not every delta came")
  return size
end

function modes.stream()
  together(1, function()
    local connection = connect()
    whole(connection, 3200)
    local wall, cpu = cqueues.monotime(), os.clock()
    local size = whole(connection, args.n)
    cpu, wall = os.clock() - cpu, cqueues.monotime() - wall
    report { n = args.n, cpu_us_per_unit = cpu / args.n * 1e6, wall_s = wall, text_bytes = size }
  end)
end

function modes.paced()
  together(1, function() whole(connect(), 3200) end)
  local streams, n = args.streams, args.n
  local before, from, to = kib "VmRSS", streams, streams * (n - 1)
  local seen, size, cpu_from, cpu_to = 0, 0, 0, 0
  local function text(piece)
    seen, size = seen + 1, size + #piece
    if seen == from then cpu_from = os.clock() elseif seen == to then cpu_to = os.clock() end
  end
  local wall = cqueues.monotime()
  together(streams, function()
    read_stream(connect(), ("bench-n%d-gap%d-delay%d"):format(n, args.gap, args.delay), text)
  end)
  assert(seen == streams * n, "not every delta came")
  report { n = seen, streams = streams, cpu_us_per_unit = (cpu_to - cpu_from) / (to - from) * 1e6,
    wall_s = cqueues.monotime() - wall, text_bytes = size, kib_per_stream = (kib "VmHWM" - before) / streams }
end

function modes.init() print "ready" end

function modes.idle()
  cqueues.sleep(0.05)
  report { rss_kib = kib "VmRSS" }
end

if not modes[mode] then error("usage: luahttp.lua ask|stream|paced|init|idle key=value…", 0) end
modes[mode]()
