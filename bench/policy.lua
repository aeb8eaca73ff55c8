--- µs of CPU that the policies add to a short question: the same asks of a model with nothing around it,
-- and of the same model with everything: fallback, budget, rates, breaker, retries.
-- Run by bench/run: sluice run bench/policy.lua port=N n=N concurrency=N [hedge=1]
-- hedge=1 gives the first step an `after`: then an ask is streamed, and a second task stands by.

local sluice = require "sluice"
local common = require "common"

local args = common.args({ port = 0, n = 20000, concurrency = 50, hedge = 0, buffer = 0 }, ...)
local WHOLE, STREAMED = 136, 160 -- bytes of text that the load server answers
local ROUNDS = 20 -- the two take turns, so that what else the machine does falls on both

local function model(options)
  options.limit = options.limit or {}
  options.limit.concurrency = args.concurrency
  return common.model(args, "-n32", args.concurrency):with(options)
end

local function policies()
  -- everything is counted, nothing is ever in the way
  local budget = sluice.budget { usd = 1e6, tokens = 1 << 40, per = "day" }
  local limit = { rpm = 1e8, tpm = 1e10 }
  local big = model { retry = { attempts = 3 }, limit = limit, defaults = { max_tokens = 500 } }
  local small = model { retry = { attempts = 3 }, limit = limit, model = "bench-n64" }
  return sluice.fallback {
    { budget:guard(big, { input = 0.27, output = 1.10, below = 0.8 }), after = args.hedge == 1 and 30 or nil },
    budget:guard(small, { input = 0.06, output = 0.06 }),
    sluice.rule.canned "We cannot answer at the moment.",
  }
end

local bare = model { retry = false, breaker = false, defaults = { max_tokens = 500 } }
local full = policies()
local bytes = 0

--- CPU time of n asks.
local function ask(target, n)
  local left, cpu = n, os.clock()
  common.together(math.min(args.concurrency, n), function()
    while left > 0 do
      left = left - 1
      local reply = target:ask(common.PROMPT)
      bytes = bytes + #reply.text
    end
  end)
  return os.clock() - cpu
end

local warm = math.max(500, 2 * args.concurrency)
ask(bare, warm)
ask(full, warm)
bytes = 0
local each, without, with = math.max(1, args.n // ROUNDS), 0, 0
for round = 1, ROUNDS do
  if round % 2 == 0 then without = without + ask(bare, each) end
  with = with + ask(full, each)
  if round % 2 == 1 then without = without + ask(bare, each) end
end
local n = ROUNDS * each
assert(bytes == n * WHOLE + n * (args.hedge == 1 and STREAMED or WHOLE), "not every reply was whole")
common.report("policy", { n = n, concurrency = args.concurrency, cpu_us_per_unit = (with - without) / n * 1e6,
  bare_us = without / n * 1e6, full_us = with / n * 1e6 })
