---@meta sluice.core.sync

-- What runtime/bind/sync.c defines. Scripts use sluice.task.semaphore, mutex and channel.

---@class sluice.core.sync
local sync = {}

---@param permits integer  1 or more
---@return sluice.Semaphore
function sync.semaphore(permits) end

---@param capacity? integer  items it holds before send waits, 1
---@return sluice.Channel
function sync.channel(capacity) end

--- Permits, first come, first served. `local _ <close> = semaphore:acquire()` gives one back at the
--- end of the block.
---@class sluice.Semaphore
local Semaphore = {}

---@async
---@param timeout? number  seconds
---@return sluice.Semaphore?  itself; nil when the time has passed
function Semaphore:acquire(timeout) end

--- Takes a permit if one is free and nobody waits.
---@return boolean
function Semaphore:try_acquire() end

--- Gives a permit back; raises when none had been taken.
function Semaphore:release() end

---@return integer
function Semaphore:available() end

--- A queue between tasks, of bounded length; `#channel` is how many items are in it. `<close>` closes it.
---@class sluice.Channel
local Channel = {}

--- Waits while it is full. Raises when the channel is closed.
---@async
---@param value any      not nil
---@param timeout? number  seconds
---@return boolean sent  false when the time has passed
function Channel:send(value, timeout) end

--- Waits while it is empty. A channel that was closed is drained first.
---@async
---@param timeout? number  seconds
---@return any value       nil when there is none
---@return "closed"|"timeout"|nil why
function Channel:receive(timeout) end

--- No more can be sent: waiting senders raise, receivers get what is left.
function Channel:close() end

--- `for item in channel:items() do … end`, until it is closed and empty.
---@async
---@return fun(channel: sluice.Channel): any
---@return sluice.Channel
function Channel:items() end

return sync
