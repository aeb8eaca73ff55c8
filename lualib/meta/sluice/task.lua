---@meta sluice.core.task

-- What runtime/bind/task.c defines. Scripts use sluice.task.

---@class sluice.core.task
---@field error_metatable table  of every error of sluice; sluice.errors gives it its methods
local task = {}

---@class sluice.core.ScopeOptions
---@field group? boolean    owns tasks and handles
---@field deadline? number  seconds
---@field shield? number    seconds: how long cancellation from outside is held back

--- A new scope inside the one the running task is in. Raises inside a construct that cannot wait
--- when it is to be a group.
---@param options sluice.core.ScopeOptions
---@return sluice.core.Scope
function task.scope(options) end

--- A task of the runtime's own, which ends with the program.
---@param f fun(...)
---@return sluice.Task
function task.service(f, ...) end

---@async
---@param seconds number  finite, 0 or more
function task.sleep(seconds) end

---@return number seconds  monotonic; virtual when the clock is
function task.now() end

---@return number? seconds  to the nearest enclosing deadline
function task.left() end

--- The running task.
---@param more? boolean
---@return integer id        never used again in this run
---@return string? spawned_at  "script.lua:12" (with `more`); nil for the first task
---@return boolean? service    of the runtime's own (with `more`)
function task.current(more) end

--- Raises `cancelled` if the running task is.
function task.check() end

---@return boolean
function task.is_cancelled() end

--- The group that owns what the running task opens becomes the owner of each value that is a handle,
--- or a table around one.
---@return any ...  the same values
function task.adopt(...) end

---@class sluice.core.TaskInfo
---@field id integer
---@field state "ready"|"running"|"waiting"|"done"
---@field service boolean      of the runtime's own
---@field at string            "script.lua:12"
---@field spawned_at string
---@field waiting_on? string   when waiting: "sleep", "POST https://…"
---@field seconds? number      when waiting: since when
---@field traceback string

--- Every task there is.
---@return sluice.core.TaskInfo[]
function task.tasks() end

--- What is alive: tests compare it before and after.
---@return { tasks: integer, handles: integer, deadlines: integer, transfers: integer, processes: integer }
function task.census() end

---@return { spawned: integer, resumed: integer, live: integer, memory: integer }  memory: bytes of the Lua heap
function task.stats() end

--- Where an error was raised first, if that is still known.
---@param err any
---@return string?
function task.traceback_of(err) end

--- For xpcall: keeps where an error was raised.
---@param err any
---@return any err
function task.traced(err) end

--- Only in builds for tests (make MODE=asan or debug): lets the nth allocation from now on fail, 0:
--- none.
---@param nth integer
---@return boolean fired  has one failed since the last call?
function task.fail_allocation(nth) end

---@alias sluice.core.CancelReason
---| "by request"
---| "its group failed"
---| "its group is done"
---| "another was first"
---| "the client has gone"
---| "the server is closing"
---| "interrupted (Ctrl-C)"

--- What the function of a task.group gets.
---@class sluice.Group
local Group = {}

--- Starts `f(...)` as a task of this group. It begins when the running task waits or ends. Raises
--- `cancelled` when the group is.
---@param f fun(...): ...
---@return sluice.Task
function Group:spawn(f, ...) end

--- Cancels everything in the group. What waits raises `cancelled`, now and at every further wait.
---@param reason? sluice.core.CancelReason
function Group:cancel(reason) end

---@return boolean  cancellation is in force, from here or from outside
function Group:cancelled() end

--- The methods after those of a group are for the code that made the scope, outside of it.
---@class sluice.core.Scope: sluice.Group
local Scope = {}

--- Runs f(...) inside; never raises.
---@async
---@return boolean ok
---@return any ...  f's values, or the error
function Scope:run(f, ...) end

--- Waits until every task of the group has ended; cannot be cancelled.
---@async
function Scope:wait() end

--- Leaves it for good: closes handles, ends deadline and shield. Twice is the same as once.
function Scope:finish() end

---@return boolean  has a task failed, with an error that errors() has not given yet?
function Scope:failed() end

--- The errors of tasks that failed, in the order they came; the list starts anew.
---@return any[]
function Scope:errors() end

---@return boolean  the deadline has passed
function Scope:expired() end

--- A task, as group:spawn returns it. It may be kept after the end: the result stays.
---@class sluice.Task
local Task = {}

--- Waits until the task has ended; returns its results, or raises its error. May be called again.
--- A task that joins itself raises.
---@async
---@return any ...
function Task:join() end

--- Cancels this task alone: its current or next wait raises `cancelled`. No failure of its group.
function Task:cancel() end

---@return boolean
function Task:done() end

return task
