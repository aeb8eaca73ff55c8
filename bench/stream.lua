--- µs of CPU per text delta of a stream that comes as fast as it can: for text in s:text().
-- Run by bench/run: sluice run bench/stream.lua port=N n=N concurrency=N

local sluice = require "sluice"
local common = require "common"

local args = common.args({ port = 0, n = 100000, concurrency = 1, buffer = 0 }, ...)

local function stream(deltas)
  local each = deltas // args.concurrency
  local model = common.model(args, ("-n%d"):format(each), args.concurrency)
  local bytes = 0
  common.together(args.concurrency, function()
    for text in model:stream(common.PROMPT):text() do bytes = bytes + #text end
  end)
  assert(bytes == common.BYTES_PER_DELTA * each * args.concurrency, "not every delta came")
  return bytes
end

stream(args.concurrency * 3200)
local wall, cpu = sluice.task.now(), os.clock()
local bytes = stream(args.n)
cpu, wall = os.clock() - cpu, sluice.task.now() - wall
common.report("stream", { n = args.n, cpu_us_per_unit = cpu / args.n * 1e6, wall_s = wall, text_bytes = bytes })
