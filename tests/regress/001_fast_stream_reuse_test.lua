-- A stream that comes faster than it is read was cut: the answer to the next request on a connection can
-- come before libcurl says that it waits for it, and was then taken for words on an idle connection.

local T = require "harness"
local sluice = require "sluice"

local EVENTS = 8000 -- about 1.5 MB: many times what is held before the wire is braked
local PAYLOAD = ("x"):rep(160)

T.test("streams at full speed, one after the other on one connection, are whole", function(t)
  local peers = {}
  local server <close> = sluice.server.listen { handler = function(req, res)
    peers[req.peer] = true
    res:start(200, { ["Content-Type"] = "text/event-stream" })
    local block = ("data: " .. PAYLOAD .. "\n\n"):rep(40)
    for _ = 1, EVENTS // 40 do res:write(block) end
    res:finish()
  end }
  for _ = 1, 12 do
    local n = 0
    for event in sluice.http.stream(server.url):events() do
      n = n + 1
      if #event.data ~= #PAYLOAD then t.eq(event.data, PAYLOAD) end
    end
    t.eq(n, EVENTS)
  end
  local connections = 0
  for _ in pairs(peers) do connections = connections + 1 end
  t.ok(connections >= 1, "the server saw its peers")
end)

T.done()
