---@meta sluice.core.server

-- What runtime/bind/server.c and exchange.c define. Scripts use sluice.server.

---@class sluice.core.server
---@field exchange table the methods of sluice.core.Exchange; sluice.server adds json and event
local server = {}

---@class sluice.core.ListenOptions
---@field address string
---@field port? integer            0: the system chooses
---@field max_connections? integer 16384
---@field max_body? integer        bytes, 32 MiB
---@field request_timeout? number  seconds to send a whole request, 30
---@field idle_timeout? number     seconds between two requests on a connection, 75
---@field service? boolean         its tasks are the runtime's own

---@param options sluice.core.ListenOptions
---@return sluice.core.Listener? listener nil when the address cannot be had
---@return string? why
function server.listen(options) end

---@class sluice.core.Listener
local Listener = {}

--- A task that ends with the listener.
---@param f fun(...)
---@return sluice.Task
function Listener:spawn(f, ...) end

--- The next request; nil when stopped and none is left, or closed.
---@async
---@return sluice.core.Exchange? exchange
---@return string method
---@return string target
---@return table<string, string> headers
---@return string body
---@return string peer
function Listener:accept() end

--- Takes no new connections and requests.
function Listener:stop() end

--- Waits until every request has been answered in full.
---@async
---@param seconds number at most
---@return boolean all
function Listener:drain(seconds) end

--- Waits until it is closed.
---@async
function Listener:wait() end

--- Closes everything at once: its tasks are cancelled, clients see their connections end.
function Listener:close() end

---@return integer? port
---@return boolean? is_ipv6
function Listener:port() end

---@return integer connections
---@return integer requests under way
function Listener:load() end

---@return boolean
function Listener:closed() end

--- One request's reply.
---@class sluice.core.Exchange
---@field sent boolean    something of the reply has been handed over
---@field done boolean    the reply is complete, closed or aborted
---@field gone boolean    the client left before that
---@field pending integer bytes the system has not taken yet
local Exchange = {}

--- Cancels the task when the client goes before the reply is complete.
---@param task sluice.Task
function Exchange:watch(task) end

--- The whole reply. Raises `network` when the client has gone.
---@param status integer 200 to 999
---@param headers? table<string, string|number|string[]>
---@param body? string
function Exchange:send(status, headers, body) end

--- Starts a reply whose body follows by write.
---@param status integer
---@param headers? table<string, string|number|string[]>
function Exchange:start(status, headers) end

--- Waits while more than 1 MiB is on its way to a slow client. Raises `network` when it has gone.
---@async
---@param bytes string
---@return sluice.core.Exchange self
function Exchange:write(bytes) end

--- Straight to the connection, without a status, a header or a frame.
---@async
---@param bytes string
---@return sluice.core.Exchange self
function Exchange:raw(bytes) end

--- Waits until the system has taken all that was written.
---@async
function Exchange:flush() end

--- The end of a started reply.
function Exchange:finish() end

--- Ends the connection after what is pending has been sent.
function Exchange:close() end

--- Ends it now; what is pending is lost.
---@param how? "reset"|"close" default "reset"
function Exchange:abort(how) end

return server
