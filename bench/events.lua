--- µs of CPU per delta when a script reads full events: for ev in s:events().
-- Run by bench/run: sluice run bench/events.lua port=N n=N

local sluice = require "sluice"
local common = require "common"

local args = common.args({ port = 0, n = 100000, buffer = 0 }, ...)

local function stream(deltas)
  local model = common.model(args, ("-n%d"):format(deltas), 1)
  local bytes, finish, usage = 0, nil, nil
  for event in model:stream(common.PROMPT):events() do
    if event.type == "text" then bytes = bytes + #event.text
    elseif event.type == "finish" then finish = event.reason
    elseif event.type == "usage" then usage = event.usage or event end
  end
  assert(bytes == common.BYTES_PER_DELTA * deltas, "not every delta came")
  assert(finish == "stop" and usage, "the stream had no end")
  return bytes
end

stream(3200)
local wall, cpu = sluice.task.now(), os.clock()
local bytes = stream(args.n)
cpu, wall = os.clock() - cpu, sluice.task.now() - wall
common.report("events", { n = args.n, cpu_us_per_unit = cpu / args.n * 1e6, wall_s = wall, text_bytes = bytes })
