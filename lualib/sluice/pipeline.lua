--- Stages that work at the same time on a stream of items, in bounded memory.
-- Owns: who waits for whom, the order of results, which item an error belongs to.
-- Never: holds more items than stages have places: a slow stage slows the source down.
-- Reading order: pipeline.new, start_stage, work, emit.
--
-- Between two stages is a channel. A stage's tasks take items from one and put results into the next; the
-- last task of a stage to end closes what is behind it. In an ordered stage a result waits until those
-- before it have gone; how many may wait is bounded (`window`), so one slow item cannot fill the memory.

local now = require "sluice.core.task".now
local errors = require "sluice.errors"
local options = require "sluice.options"
local sync = require "sluice.core.sync"
local task = require "sluice.task"

local WINDOW = 2  -- results an ordered stage may have taken or hold, times its concurrency
local LABEL = 60  -- bytes of an item that are shown

local pipeline = {}

local function callable(value)
  if type(value) == "function" then return true end
  local mt = getmetatable(value)
  return type(mt) == "table" and mt.__call ~= nil
end

local OPTIONS = options.spec {
  on_error = { type = "function" },
  progress = { check = function(v) return type(v) == "function" or type(v) == "string" and v ~= "" end,
    expected = "a title or a function" },
  name = { type = "function" },
  buffer = { type = "integer", min = 1 },
}

local STAGE = options.spec({
  [1] = { check = callable, required = true, expected = "a function" },
  concurrency = { type = "integer", min = 1 },
  ordered = { type = "boolean" },
  flat = { type = "boolean" },
  name = { type = "string", nonempty = true },
}, "field")

---A source, then stages: functions, or { function, concurrency =, ordered =, flat =, name = }.
---@class sluice.PipelineSpec
---@field [integer] any
---@field on_error? fun(err: any, item: any, n: integer, stage: string): any  what it returns, if not nil, goes on
---@field progress? string|fun(counts: sluice.PipelineCounts)  a title: shown on stderr
---@field name? fun(item: any): string?  what an item is called in errors
---@field buffer? integer               places before each stage; its concurrency

---@class sluice.PipelineCounts
---@field read integer       items the source has given
---@field done integer       items that went through the last stage
---@field failed integer     items a stage raised on, under on_error
---@field dropped integer    items a stage gave nil for
---@field in_flight integer  items on their way
---@field elapsed number     seconds

-- Errors --------------------------------------------------------------------------------------------

--- What an item is called in an error.
local function label(run, item)
  local text
  if run.name then text = run.name(item)
  elseif type(item) == "table" then text = rawget(item, "id") or rawget(item, "name") or rawget(item, "path")
  elseif type(item) ~= "function" and type(item) ~= "userdata" then text = item end
  if text == nil then return "" end
  return (" (%s)"):format(errors.one_line(tostring(text), LABEL))
end

--- The error with the place where it happened in front.
local function named(err, place)
  if type(err) == "string" then return place .. ": " .. err end
  if errors.is(err) then err.message = place .. ": " .. tostring(err.message or err.kind) end
  return err
end

--- Calls a stage's function. Result, or nil and true when the item is not to go on.
local function call(run, stage, message)
  local ok, result = pcall(stage.f, message.item, message.n)
  if ok then return result, false end
  local err = result
  if not run.on_error then
    if errors.is(err) then err.stage, err.item = stage.name, message.n end
    error(named(err, ("sluice.pipeline: %s, item %d%s"):format(stage.name, message.n, label(run, message.origin))), 0)
  end
  run.counts.failed = run.counts.failed + 1
  result = run.on_error(err, message.origin, message.n, stage.name)
  if result ~= nil then
    run.counts.failed = run.counts.failed - 1
    return result, false
  end
  return nil, true
end

-- Stages --------------------------------------------------------------------------------------------

local function progress(run)
  run.counts.elapsed = now() - run.began
  if run.progress then run.progress(run.counts) end
end

local function left(run, what)
  local counts = run.counts
  if what then counts[what] = counts[what] + 1 end
  counts.in_flight = counts.in_flight - 1
  progress(run)
end

--- One result goes on: to the next stage, or out.
local function pass(run, stage, message, result)
  if not stage.output then return left(run, "done") end
  if result == nil then return left(run, "dropped") end
  if not stage.flat then return stage.output:send { item = result, n = message.n, origin = message.origin } end
  if type(result) ~= "table" then
    error(("sluice.pipeline: %s, item %d: a stage with flat = true must return a list, got %s"):format(stage.name,
      message.n, options.got(result)), 0)
  end
  run.counts.in_flight = run.counts.in_flight + #result
  for i = 1, #result do stage.output:send { item = result[i], n = message.n, origin = message.origin } end
  if #result == 0 then return left(run, "dropped") end
  run.counts.in_flight = run.counts.in_flight - 1
end

--- The result of the item that was taken as the `at`th: in its turn, if the stage is ordered. Who finds
--- others ready behind its own hands them on as well.
local function emit(run, stage, at, message, result, gone)
  if not stage.window then
    if gone then return left(run) end
    return pass(run, stage, message, result)
  end
  stage.waiting[at] = { message = message, result = result, gone = gone }
  if stage.emitting then return end
  stage.emitting = true
  while stage.waiting[stage.next] do
    local first = stage.waiting[stage.next]
    stage.waiting[stage.next] = nil
    stage.next = stage.next + 1
    if first.gone then left(run) else pass(run, stage, first.message, first.result) end
    stage.window:release()
  end
  stage.emitting = false
end

--- The next item and its place in the order in which the stage takes them.
local function take(stage)
  if stage.window then stage.window:acquire() end
  local turn <close> = stage.turn:acquire() -- luacheck: ignore 211
  local message = stage.input:receive()
  if message == nil then return nil end
  stage.taken = stage.taken + 1
  return message, stage.taken
end

local function work(run, stage)
  local message, at = take(stage)
  while message do
    local result, gone = call(run, stage, message)
    emit(run, stage, at, message, result, gone)
    message, at = take(stage)
  end
  if stage.window then stage.window:release() end -- the place that the item would have had
  stage.workers = stage.workers - 1
  if stage.workers == 0 and stage.output then stage.output:close() end
end

local function start_stage(group, run, stage)
  stage.workers = stage.concurrency
  for _ = 1, stage.concurrency do group:spawn(work, run, stage) end
end

-- The source ------------------------------------------------------------------------------------------

--- A function that gives the next item of whatever stands first.
local function source_of(source)
  if callable(source) then return function() return (source()) end end
  if type(source) == "table" then
    local i, n = 0, #source
    return function()
      i = i + 1
      if i <= n then return source[i] end
      return nil
    end
  end
  if type(source) == "userdata" and source.receive then return function() return (source:receive()) end end
  options.raise("sluice.pipeline: element 1 must be a list, a function that gives items, a channel or a transformed "
    .. "stream, got " .. options.got(source))
end

local function feed(run, next_item, output)
  while true do
    local ok, item = pcall(next_item)
    if not ok then error(named(item, ("sluice.pipeline: the source, after item %d"):format(run.counts.read)), 0) end
    if item == nil then break end
    local counts = run.counts
    counts.read, counts.in_flight = counts.read + 1, counts.in_flight + 1
    output:send { item = item, n = counts.read, origin = item }
  end
  output:close()
end

-- Public ----------------------------------------------------------------------------------------------

local function read_stage(raw, i, last)
  local where = ("sluice.pipeline: stage %d"):format(i)
  if callable(raw) then raw = { raw } end
  if type(raw) ~= "table" then
    options.raise(("%s must be a function or { function, concurrency = n, … }, got %s"):format(where, options.got(raw)))
  end
  options.check(where, raw, STAGE)
  if raw.flat and last then options.raise(where .. ": field 'flat': nothing comes behind the last stage") end
  local concurrency = raw.concurrency or 1
  local stage = { f = raw[1], concurrency = concurrency, name = raw.name or ("stage %d"):format(i), flat = raw.flat,
    taken = 0, turn = sync.semaphore(1) }
  if not last and concurrency > 1 and raw.ordered ~= false then
    stage.window, stage.waiting, stage.next = sync.semaphore(WINDOW * concurrency), {}, 1
  end
  return stage
end

--- Shows how far a run is. Its items are counted where none becomes several.
local function show(title, run, source, stages)
  local total = type(source) == "table" and not callable(source) and #source or nil
  for _, stage in ipairs(stages) do
    if stage.flat then total = nil end
  end
  return require "sluice.progress".start(title, total, function(p)
    local counts = run.counts
    p.done, p.failed, p.in_flight = counts.done + counts.dropped, counts.failed, counts.in_flight
  end)
end

-- print(counts) says them.
local Counts = { __tostring = function(self)
  return ("%d read, %d done, %d dropped, %d failed, %.1f s"):format(self.read, self.done, self.dropped, self.failed,
    self.elapsed)
end }

--- Runs items through stages: `sluice.pipeline { source, stage, …, sink }`. All stages work at the same
--- time; items wait between them in places that are bounded, so that any number of items takes the memory
--- of few. Returns the counts when all is done.
---
--- The source is a list, a function that gives the next item (`sluice.jsonl.read "in.jsonl"`), a channel, or
--- a transformed stream. A stage is a function f(item, n), or { f, concurrency = 1, ordered = true, flat =
--- false, name = }: what it returns goes on, nil drops the item, with flat = true each element of the list
--- it returns goes on. With ordered = false results go on as they come. The last stage is the sink.
---
--- An error cancels everything and is raised with the stage and the item in front. With
--- on_error(err, item, n, stage) the item is left out instead, or replaced by what on_error returns.
--- progress(counts) is called for each item that has left; progress = "title" shows on stderr how far it is.
--- name(item) tells what items are called in errors;
--- `buffer` is the number of places before each stage (its concurrency).
---@async
---@param spec sluice.PipelineSpec
---@return sluice.PipelineCounts
function pipeline.new(spec)
  if type(spec) ~= "table" then
    options.raise("sluice.pipeline: argument 1 must be a table { source, stage, …, sink }, got " .. options.got(spec))
  end
  local opts, count = {}, #spec
  for key, value in pairs(spec) do
    if math.type(key) ~= "integer" then opts[key] = value end
  end
  options.check("sluice.pipeline", opts, OPTIONS)
  if count < 2 then options.raise "sluice.pipeline: expected a source and at least one stage" end
  local title = type(opts.progress) == "string" and opts.progress or nil
  local run = { on_error = opts.on_error, progress = not title and opts.progress or nil, name = opts.name,
    began = now(),
    counts = setmetatable({ read = 0, done = 0, failed = 0, dropped = 0, in_flight = 0, elapsed = 0 }, Counts) }
  local next_item, stages = source_of(spec[1]), {}
  for i = 2, count do stages[i - 1] = read_stage(spec[i], i - 1, i == count) end
  for i, stage in ipairs(stages) do
    stage.input = sync.channel(opts.buffer or stage.concurrency)
    if i > 1 then stages[i - 1].output = stage.input end
  end
  local shown <close> = title and show(title, run, spec[1], stages) or nil -- luacheck: ignore 211
  task.group(function(group)
    for _, stage in ipairs(stages) do start_stage(group, run, stage) end
    feed(run, next_item, stages[1].input)
  end)
  run.counts.elapsed = now() - run.began
  return run.counts
end

return pipeline
