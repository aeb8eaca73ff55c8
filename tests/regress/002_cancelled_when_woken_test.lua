-- A task that was cancelled between its wake-up and its turn, and then had nothing to do but wait on,
-- was forgotten: no deadline reached it any more. Seen with pings, which wake the reader of a stream
-- and give it nothing to read.

local T, S = require "harness", require "http_server"
local task = require "sluice".task

local DEADLINE = 0.05

for turns = 0, 6 do
  T.test(("a ping and the deadline in one turn of the loop (%d turns after the ping)"):format(turns), function(t)
    local deadline
    local server <close> = S.start(function(_, res)
      res:start(200, S.EVENTS)
      res:write(S.chunk '{"role":"assistant","content":""}')
      for _ = 1, 5 do task.sleep(0.001) end -- what came before has been read
      res:write ": ping\n\n"
      for _ = 1, turns do task.sleep(0) end
      while os.clock() < deadline do end -- holds the loop: both are due when it goes on
      S.stall()
    end)
    local model = S.model(server, { timeout = { connect = 3, first_token = 2, idle = 2 }, retry = false })
    local err = t.raises("timeout", task.deadline, DEADLINE, function()
      deadline = os.clock() + 2 * DEADLINE
      return model:stream("x"):reply()
    end)
    t.eq(err.phase, "deadline")
  end)
end

T.done()
