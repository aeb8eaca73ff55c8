--- Structured concurrency: groups, deadlines, shields, and what is built from them.
-- Owns: how the results and errors of several tasks become one. Who runs and who waits is C
-- (sluice.core.task); a task is suspended only inside a function that waits.
--
-- Every task belongs to a group, and a group ends only when all its tasks have: nothing is detached.
-- Cancellation is raised inside a task, at the point where it waits, as an error of kind "cancelled";
-- `pcall` lets it pass, and `<close>` variables are closed on the way.

local core = require "sluice.core.task"
local sync = require "sluice.core.sync"
local errors = require "sluice.errors"
local options = require "sluice.options"

local MAP_CONCURRENCY = 64 -- tasks of one map at a time, unless said otherwise

local task = {}

--- Waits; other tasks run meanwhile. 0 lets them have a turn.
---@async
---@param seconds number
task.sleep = core.sleep

--- Seconds on a clock that only goes forward, for differences; under `sluice test` the virtual one.
---@return number
task.now = core.now

--- Seconds to the nearest deadline the task is under; nil without one.
---@return number?
task.left = core.left

local function check_function(f, name, arg)
  if type(f) ~= "function" then
    options.raise(("%s: argument %d must be a function, got %s"):format(name, arg, options.got(f)))
  end
end

-- Groups ----------------------------------------------------------------------------------------

-- Puts what the body raised among what tasks raised: where it belongs in time, and once, for a join
-- raises what its task did.
local function merge(failed, err, place)
  if rawequal(failed[1], err) then place = 1 end
  for i = #failed, 1, -1 do
    if rawequal(failed[i], err) then table.remove(failed, i) end
  end
  table.insert(failed, math.min(place, #failed + 1), err)
  return failed
end

-- Raises the first of a list of errors; the others are listed in it, so that none is lost.
local function raise_first(list)
  local first = table.remove(list, 1)
  if type(first) == "table" and #list > 0 then
    local also = rawget(first, "also")
    if type(also) == "table" then
      table.move(list, 1, #list, #also + 1, also) -- a group further in has found some already
    else
      rawset(first, "also", list)
    end
  end
  error(first, 0)
end

--- The end of every group: wait for the tasks, hand handles in the results to the outer group, close
--- the others, and raise the first failure with the later ones in `also`. `kept`: a table whose values
--- are results as well.
local function leave(scope, kept, ok, ...)
  local task_failed_first = scope:failed()
  -- The body has only been told to stop: by a task that failed, by group:cancel, or from outside.
  local stopped = not ok and scope:cancelled() and errors.is((...), "cancelled")
  if not ok then scope:cancel "its group failed" end
  scope:wait()
  local failed = scope:failed() and scope:errors() or nil
  if ok and not failed and not core.is_cancelled() then
    core.adopt(...)
    if kept then
      for _, value in pairs(kept) do core.adopt(value) end
    end
  end
  scope:finish()
  if not ok and not stopped then failed = merge(failed or {}, (...), task_failed_first and 2 or 1) end
  if failed then raise_first(failed) end
  core.check() -- cancelled from outside: the group's result is of no use any more
  if ok then return ... end
end

--- Runs `f(group)` and returns its results when every task spawned in the group has ended. The first
--- error, of `f` or of a task, cancels the rest and is raised here, later ones in its `also`.
--- What `f` returns is handed on: a stream among the results is not closed with the group.
---@async
---@param f fun(group: sluice.Group): ...
---@return any ...  what f returned
function task.group(f)
  check_function(f, "task.group", 1)
  local scope <close> = core.scope { group = true }
  return leave(scope, nil, scope:run(f, scope))
end

--- How far it is, for whoever asks with progress = "title"; nil otherwise.
local function shown_as(title, total, where)
  if title == nil then return nil end
  if type(title) ~= "string" or title == "" then
    options.raise(("%s: 'progress' must be a title, got %s"):format(where, options.got(title)))
  end
  return require "sluice.progress".start(title, total)
end

--- The same function, counted.
local function counted(shown, f)
  if not shown then return f end
  return function()
    shown:item_began()
    local outcome = table.pack(pcall(f))
    shown:item_ended(outcome[1])
    if not outcome[1] then error(outcome[2], 0) end
    return table.unpack(outcome, 2, outcome.n)
  end
end

--- Runs every function of the list as a task; returns their first results in the order of the list. With
--- progress = "title" beside them, it is shown how far they are.
---@async
---@param list (fun(): any)[]
---@return any ...
function task.all(list)
  if type(list) ~= "table" then
    options.raise("task.all: argument 1 must be a list of functions, got " .. options.got(list))
  end
  local n, results = #list, {}
  for i = 1, n do check_function(list[i], "task.all", i) end
  local shown <close> = shown_as(list.progress, n, "task.all")
  task.group(function(group)
    local handles = {}
    for i = 1, n do handles[i] = group:spawn(counted(shown, list[i])) end
    for i = 1, n do results[i] = handles[i]:join() end
    return table.unpack(results, 1, n)
  end)
  return table.unpack(results, 1, n)
end

--- The results of the first function to succeed; the others are cancelled, and have ended when this
--- returns. If all fail: the first error, the others in its `also`. progress = "title" as for task.all.
---@async
---@param list (fun(): ...)[]
---@return any ...
function task.race(list)
  if type(list) ~= "table" or #list == 0 then
    options.raise("task.race: argument 1 must be a list of functions that is not empty")
  end
  for i = 1, #list do check_function(list[i], "task.race", i) end
  local shown <close> = shown_as(list.progress, #list, "task.race")
  local finished, failures, results = sync.channel(#list), {}, nil
  return task.group(function(group)
    for i = 1, #list do
      group:spawn(function()
        local outcome = table.pack(pcall(counted(shown, list[i])))
        finished:send(outcome)
      end)
    end
    for _ = 1, #list do
      local outcome = finished:receive()
      if outcome[1] then
        results = outcome
        break
      end
      failures[#failures + 1] = outcome[2]
    end
    if not results then raise_first(failures) end
    group:cancel "another was first"
    return table.unpack(results, 2, results.n)
  end)
end

local MAP_OPTIONS = options.spec {
  concurrency = { type = "integer", min = 1 },
  settle = { type = "boolean" },
  progress = { type = "string", nonempty = true },
}

--- A function that gives the next item and its index, whatever was given to map. One that gives
--- items may wait for them, so it is called by one task at a time, and not again after its end.
local function source(list)
  if type(list) == "function" then
    local i, ended, turn = 0, false, sync.semaphore(1)
    return function()
      local _ <close> = turn:acquire()
      local item
      if not ended then item = list() end
      if item == nil then
        ended = true
        return nil
      end
      i = i + 1
      return item, i
    end
  end
  local i, n = 0, #list
  return function()
    if i >= n then return nil end
    i = i + 1
    return list[i], i
  end
end

---@class sluice.Settled
---@field ok boolean
---@field value? any  what the function returned
---@field err? any    what was raised: a sluice.Error, or a text

--- Calls `f(item, index)` for every item, at most `concurrency` (64) at a time, and returns the first
--- results in the order of the items. With `settle`, failures do not end the whole: the results are
--- `{ ok = true, value = }` or `{ ok = false, err = }`. With `progress`, a title, stderr shows how far it is: done, in
--- flight, failed, rate, time left, tokens, cost; nothing under --quiet.
---@async
---@generic T, R
---@param list T[]|fun(): T?  a list, or a function that gives the next item (nil: no more)
---@param f fun(item: T, index: integer): R
---@param opts? { concurrency?: integer, settle?: boolean, progress?: string }
---@return R[]
---@overload fun(list: any, f: function, opts: { settle: true, concurrency?: integer }): sluice.Settled[]
function task.map(list, f, opts)
  if type(list) ~= "table" and type(list) ~= "function" then
    options.raise("task.map: argument 1 must be a list or a function that gives items, got "
      .. options.got(list))
  end
  check_function(f, "task.map", 2)
  opts = opts or {}
  options.check("task.map", opts, MAP_OPTIONS)
  local next_item, results, values = source(list), {}, {}
  local shown <close> = shown_as(opts.progress, type(list) == "table" and #list or nil, "task.map")
  local function call(item, i)
    if shown then shown:item_began() end
    if opts.settle then
      local ok, value = pcall(f, item, i)
      if shown then shown:item_ended(ok) end
      values[i] = ok and value or nil
      results[i] = ok and { ok = true, value = value } or { ok = false, err = value }
    else
      results[i] = f(item, i)
      if shown then shown:item_ended(true) end
    end
  end
  local function work(item, i)
    while item ~= nil do
      call(item, i)
      item, i = next_item()
    end
  end
  local scope <close> = core.scope { group = true }
  leave(scope, opts.settle and values or results, scope:run(function()
    for _ = 1, opts.concurrency or MAP_CONCURRENCY do -- no more tasks than there are items
      local item, i = next_item()
      if item == nil then break end
      scope:spawn(work, item, i)
    end
  end))
  return results
end

-- Time ------------------------------------------------------------------------------------------

--- Was this `cancelled` error made by the scope's own deadline, and by nothing outside?
local function deadline_passed(scope, err)
  return scope:expired() and errors.is(err, "cancelled") and not core.is_cancelled()
end

local function after_deadline(scope, seconds, ok, ...)
  scope:finish()
  if ok then return ... end
  if deadline_passed(scope, (...)) then
    errors.raise { kind = "timeout", phase = "deadline",
      message = ("not finished within %.14g s (task.deadline)"):format(seconds) }
  end
  error((...), 0)
end

--- Runs `f(...)` and returns its results, or raises `timeout` with phase "deadline" when `seconds`
--- have passed. An enclosing deadline that comes sooner stays in force.
---@async
---@param seconds number
---@param f fun(...): ...
---@return any ...
function task.deadline(seconds, f, ...)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
    options.raise("task.deadline: argument 1 must be a number of seconds, 0 or more, got "
      .. options.got(seconds))
  end
  check_function(f, "task.deadline", 2)
  local scope <close> = core.scope { deadline = math.min(seconds, 1e9) }
  return after_deadline(scope, seconds, scope:run(f, ...))
end

local function after_shield(scope, ok, ...)
  scope:finish()
  if not ok then error((...), 0) end
  return ...
end

--- Runs `f(...)` with cancellation from outside held back for at most `seconds`: for the last word to
--- a client, or a file that must be written to its end.
---@async
---@param seconds number
---@param f fun(...): ...
---@return any ...
function task.shield(seconds, f, ...)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
    options.raise("task.shield: argument 1 must be a number of seconds, 0 or more, got "
      .. options.got(seconds))
  end
  check_function(f, "task.shield", 2)
  local scope <close> = core.scope { shield = math.min(seconds, 1e9) }
  return after_shield(scope, scope:run(f, ...))
end

--- Lets other tasks and the network have their turn.
---@async
function task.yield()
  core.sleep(0)
end

-- Waiting for each other ------------------------------------------------------------------------

--- A semaphore of `n` permits, handed out first come, first served:
--- `local permit <close> = semaphore:acquire()`.
---@param n integer
---@return sluice.Semaphore
function task.semaphore(n)
  return sync.semaphore(n)
end

--- A semaphore of one permit.
---@return sluice.Semaphore
function task.mutex()
  return sync.semaphore(1)
end

--- A queue between tasks that holds at most `capacity` (1) items: `send` waits while it is full,
--- `receive` while it is empty; after `close`, `receive` returns what is left and then nil, "closed".
---@param capacity? integer
---@return sluice.Channel
function task.channel(capacity)
  return sync.channel(capacity)
end

return task
