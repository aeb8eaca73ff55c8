--- µs of CPU per short question: the whole path of model:ask, at some concurrency.
-- Run by bench/run: sluice run bench/ask.lua port=N n=N concurrency=N [messages=1]
-- messages=1 asks with a table of messages instead of a string.

local sluice = require "sluice"
local common = require "common"

local args = common.args({ port = 0, n = 10000, concurrency = 1, messages = 0, buffer = 0 }, ...)
local model = common.model(args, "", args.concurrency)

local texts, tokens -- what came, so that nothing can be left out of the measured part unseen

local function request()
  if args.messages == 0 then return common.PROMPT end
  return { messages = { { role = "user", content = common.PROMPT } } }
end

local function ask(n)
  local left = n
  texts, tokens = 0, 0
  common.together(math.min(args.concurrency, n), function()
    while left > 0 do
      left = left - 1
      local reply = model:ask(request())
      texts = texts + #reply.text
      tokens = tokens + reply.usage.output_tokens
    end
  end)
  assert(tokens == 32 * n and texts % n == 0 and texts > 100 * n, "not every reply was whole")
end

ask(math.max(500, 2 * args.concurrency)) -- opens the connections
local wall, cpu = sluice.task.now(), os.clock()
ask(args.n)
cpu, wall = os.clock() - cpu, sluice.task.now() - wall
common.report("ask", { n = args.n, concurrency = args.concurrency, cpu_us_per_unit = cpu / args.n * 1e6,
  wall_s = wall, text_bytes = texts })
