collectgarbage("generational")
--- Many streams at a pace: µs of CPU per delta, and peak memory per stream.
-- Run by bench/run: sluice run bench/paced.lua port=N streams=N n=N gap=MS delay=MS [parked=N]
-- CPU counts from the first delta of all streams together to the last but one, so that opening and
-- closing are left out. parked: that many more streams are open and silent meanwhile.

local sluice = require "sluice"
local common = require "common"

local args = common.args({ port = 0, streams = 500, n = 32, gap = 100, delay = 1000, parked = 0, buffer = 0 }, ...)

common.model(args, "-n32", 1):stream(common.PROMPT):reply() -- what is paid once, before any figure
local before_kib = common.kib "VmRSS"

local model = common.model(args, ("-n%d-gap%d-delay%d"):format(args.n, args.gap, args.delay), args.streams)
local unit = common.BYTES_PER_DELTA
local from, to = args.streams * unit, args.streams * (args.n - 1) * unit
local bytes, cpu_from, cpu_to = 0, nil, nil

local function read()
  for text in model:stream(common.PROMPT):text() do
    bytes = bytes + #text
    if bytes >= from and not cpu_from then cpu_from = os.clock() end
    if bytes >= to and not cpu_to then cpu_to = os.clock() end
  end
end

local silent = common.model(args, "-n1-delay3600000", math.max(1, args.parked))
local wall = sluice.task.now()
sluice.task.group(function(group)
  local parked = {}
  for i = 1, args.parked do
    parked[i] = group:spawn(function() silent:stream(common.PROMPT) end)
  end
  local streams = {}
  for i = 1, args.streams do streams[i] = i end
  sluice.task.map(streams, read, { concurrency = args.streams })
  for i = 1, args.parked do parked[i]:cancel() end
end)
wall = sluice.task.now() - wall
assert(bytes == unit * args.streams * args.n, "not every delta came")

local peak_kib = common.kib "VmHWM"
common.report("paced", { n = args.streams * args.n, streams = args.streams, wall_s = wall, text_bytes = bytes,
  cpu_us_per_unit = (cpu_to - cpu_from) / (args.streams * (args.n - 2)) * 1e6,
  kib_per_stream = (peak_kib - before_kib) / args.streams })
