-- Servers that play what a test wrote down, byte for byte, and note what came: for the tests of the
-- HTTP client, the streams and the models. On sluice.server, whose res:raw takes any bytes.
--
--   local server <close> = S.start(function(req, res, n) … end)   n: the how-many-eth request
--   server.seen[1].headers    server.connections()    server.gone

local sluice = require "sluice"

local S = {}

-- Which connection -----------------------------------------------------------------------------------

--- Local ports of this machine's connections to `port`: who of the clients is who. The server's
--- binding does not tell, Linux does; slowly, when many connections were there lately.
---@param port integer
---@return string[]? ports  nil where /proc does not say
function S.client_ports(port)
  local found = nil
  for _, path in ipairs { "/proc/self/net/tcp", "/proc/self/net/tcp6" } do
    local file = io.open(path)
    if file then
      found = found or {}
      local pattern = (": %%x+:(%%x%%x%%x%%x) %%x+:%04X 01 "):format(port)
      for mine in file:read "a":gmatch(pattern) do found[#found + 1] = mine end
      file:close()
    end
  end
  return found
end

-- Servers ---------------------------------------------------------------------------------------------

---@class test.Server
---@field url string
---@field port integer
---@field seen table[]       requests in the order they came
---@field gone integer       clients that left before their reply was complete
---@field active integer     handlers at work
---@field most integer       the most handlers that were at work together
---@field connections fun(): integer?  how many connections the requests came on, if one at a time and
---  the option `count` was given; nil where the system does not tell

--- Starts a server; handler(req, res, n) answers. It is closed at the end of its block. Options: those
--- of sluice.server.listen, and count = true.
---@return test.Server
function S.start(handler, options)
  local server = setmetatable({ seen = {}, gone = 0, active = 0, most = 0, errors = {} }, {
    __close = function(self) self.inner:close() end,
  })
  local ports, port_count = {}, 0
  local function note(req)
    local now = options and options.count and S.client_ports(server.port)
    if not now then port_count = nil end
    for _, port in ipairs(now or {}) do
      if not ports[port] then
        ports[port] = true
        port_count = port_count + 1
      end
    end
    server.seen[#server.seen + 1] = req
  end
  local listen = { on_error = function(err) server.errors[#server.errors + 1] = err end }
  for name, value in pairs(options or {}) do
    if name ~= "count" then listen[name] = value end
  end
  function listen.handler(req, res)
    note(req)
    server.active = server.active + 1
    server.most = math.max(server.most, server.active)
    local _ <close> = setmetatable({}, { __close = function()
      server.active = server.active - 1
      if res.gone then server.gone = server.gone + 1 end
    end })
    return handler(req, res, #server.seen)
  end
  server.inner = sluice.server.listen(listen)
  server.url, server.port = server.inner.url, server.inner.port
  function server.connections() return port_count end
  function server.open() return (server.inner:load()) end
  return server
end

--- A port where nobody listens: the system has just given it away and got it back.
function S.closed_port()
  local server = sluice.server.listen { handler = function() end }
  local port = server.port
  server:close()
  return port
end

--- Waits until it is cancelled: a server that says nothing more.
function S.stall()
  sluice.task.sleep(100000)
end

-- Words of the two protocols --------------------------------------------------------------------------

local function quote(s) return sluice.json.encode(s) end

S.EVENTS = { ["Content-Type"] = "text/event-stream" }
S.DONE = "data: [DONE]\n\n"

function S.sse(data, name)
  return (name and "event: " .. name .. "\n" or "") .. "data: " .. data .. "\n\n"
end

--- A chunk of the OpenAI protocol with this delta, as JSON text.
function S.chunk(delta, finish, more)
  return S.sse(('{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m-1","choices":[{"index":0,'
    .. '"delta":%s,"finish_reason":%s}]%s}'):format(delta, finish and quote(finish) or "null", more or ""))
end

function S.text(text) return S.chunk('{"content":' .. quote(text) .. "}") end
function S.finish(reason) return S.chunk("{}", reason or "stop") end

S.USAGE = S.sse '{"id":"c1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}'

--- A whole stream of the OpenAI protocol.
function S.answer(...)
  local parts = { S.chunk '{"role":"assistant","content":""}' }
  for _, text in ipairs { ... } do parts[#parts + 1] = S.text(text) end
  parts[#parts + 1] = S.finish() .. S.USAGE .. S.DONE
  return table.concat(parts)
end

--- A whole reply of the OpenAI protocol, not streamed.
function S.whole(text)
  return ('{"id":"c1","object":"chat.completion","model":"m-1","choices":[{"index":0,"message":{"role":"assistant",'
    .. '"content":%s},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}')
    :format(quote(text))
end

function S.a_event(name, rest)
  return S.sse(('{"type":"%s"%s}'):format(name, rest or ""), name)
end

S.A_START = S.a_event("message_start", ',"message":{"id":"msg_1","type":"message","role":"assistant","model":"m-1",'
  .. '"content":[],"stop_reason":null,"usage":{"input_tokens":25,"output_tokens":1}}')
S.A_OPEN = S.a_event("content_block_start", ',"index":0,"content_block":{"type":"text","text":""}')
S.A_STOP = S.a_event("content_block_stop", ',"index":0')
  .. S.a_event("message_delta", ',"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}')
S.A_END = S.a_event "message_stop"
S.A_PING = S.a_event "ping"

function S.a_text(text)
  return S.a_event("content_block_delta", (',"index":0,"delta":{"type":"text_delta","text":%s}'):format(quote(text)))
end

--- A whole stream of the Anthropic protocol.
function S.a_answer(...)
  local parts = { S.A_START, S.A_OPEN }
  for _, text in ipairs { ... } do parts[#parts + 1] = S.a_text(text) end
  parts[#parts + 1] = S.A_STOP .. S.A_END
  return table.concat(parts)
end

--- Answers with events: starts the reply, writes each part, and finishes it.
function S.events(res, ...)
  res:start(200, S.EVENTS)
  for _, part in ipairs { ... } do res:write(part) end
  res:finish()
end

-- Models ----------------------------------------------------------------------------------------------

--- A model that talks to the server: short delays, one attempt unless told otherwise.
---@param server test.Server|string
function S.model(server, changes)
  local url = type(server) == "string" and server or server.url
  local opts = { provider = "openai", model = "m", auth = "k-1", base_url = url .. "/v1", retry = { attempts = 1, base = 0.001 } }
  for name, value in pairs(changes or {}) do
    if name == "retry" and value then
      opts.retry = { base = 0.001 }
      for k, v in pairs(value) do opts.retry[k] = v end
    else
      opts[name] = value
    end
  end
  if opts.breaker == nil then opts.breaker = false end -- the tests fail on purpose, many times
  if opts.provider == "anthropic" and not (changes and changes.base_url) then opts.base_url = url end
  return sluice.model(opts)
end

--- Everything a stream of text hands out, as a list.
function S.collect(iterator, state, control, closing)
  local list = {}
  for item in iterator, state, control, closing do list[#list + 1] = item end
  return list
end

return S
