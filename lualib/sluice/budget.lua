--- A ceiling on what may be spent, checked before a request is sent.
-- Owns: what was spent and what is reserved in the running period. A guarded model reserves an estimate,
-- settles it with the usage the provider reports, and raises `quota` (code "budget") when the money is
-- gone, which a fallback moves on from.
-- A request whose usage is not known (cancelled, broken) stays charged with its estimate: what was
-- generated is billed, whether it arrived or not.

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local options = require "sluice.options"

local PERIODS = { minute = 60, hour = 3600, day = 86400, run = math.huge }
local ANSWER_TOKENS = 1024 -- assumed of an answer without max_tokens

local SPEC = options.spec {
  usd = { type = "number", above = 0 },
  tokens = { type = "integer", min = 1 },
  per = { type = { "string", "number" }, check = function(v)
    return type(v) == "number" and v > 0 or PERIODS[v] ~= nil, "'minute', 'hour', 'day', 'run' or seconds"
  end },
}

local PRICE = options.spec({
  input = { type = "number", min = 0, required = true },
  output = { type = "number", min = 0, required = true },
  cached = { type = "number", min = 0 },
  below = { type = "number", above = 0, max = 1 },
}, "field of the price")

---@class sluice.Budget
local Budget = { __name = "sluice.budget" }
Budget.__index = Budget

--- A budget: { usd = 5, tokens = 1e6, per = "day" }; one of usd and tokens, or both. `per` is "run"
--- (the life of the program) unless given.
---@param opts { usd?: number, tokens?: integer, per?: "minute"|"hour"|"day"|"run"|number }
---@return sluice.Budget
function Budget.new(opts)
  options.check("sluice.budget", opts, SPEC)
  if not (opts.usd or opts.tokens) then options.raise "sluice.budget: give 'usd', 'tokens' or both" end
  local per = opts.per or "run"
  return setmetatable({ cap = { usd = opts.usd, tokens = opts.tokens }, per = PERIODS[per] or per,
    spent = { usd = 0, tokens = 0 }, reserved = { usd = 0, tokens = 0 }, since = core.now() }, Budget)
end

local function turn(self)
  local now = core.now()
  if now - self.since < self.per then return end
  self.since = self.per == math.huge and self.since or now - (now - self.since) % self.per
  self.spent = { usd = 0, tokens = 0 }
end

local function cost(price, usage)
  if not price then return 0 end
  local input, cached = usage.input_tokens or 0, usage.cached_tokens or 0
  return ((input - cached) * price.input + cached * (price.cached or price.input)
    + (usage.output_tokens or 0) * price.output) / 1e6
end

--- What is left: { usd =, tokens = }, a field for each ceiling.
---@return { usd?: number, tokens?: integer }
function Budget:left()
  turn(self)
  local left = {}
  for unit, cap in pairs(self.cap) do left[unit] = cap - self.spent[unit] - self.reserved[unit] end
  return left
end

--- Sets an amount aside, or raises `quota` with code "budget". Returns what settle() takes.
---@param amount { usd: number, tokens: integer }
---@param below? number  share of the ceiling at which to refuse, 1
---@return table reservation
function Budget:reserve(amount, below)
  turn(self)
  for unit, cap in pairs(self.cap) do
    local used = self.spent[unit] + self.reserved[unit]
    if used + amount[unit] > cap * (below or 1) then
      local period = self.per ~= math.huge and self.since + self.per - core.now() or nil
      errors.raise { kind = "quota", code = "budget", retry_after = period,
        message = ("the budget of %.6g %s is used up to %.6g; this request may take %.6g")
          :format(cap, unit, used, amount[unit]) }
    end
  end
  for unit in pairs(self.cap) do self.reserved[unit] = self.reserved[unit] + amount[unit] end
  return { amount = amount, open = true }
end

--- Replaces a reservation by what was really used; without it, the reservation becomes the cost.
---@param reservation table
---@param actual? { usd: number, tokens: integer }
function Budget:settle(reservation, actual)
  if not reservation.open then return end
  reservation.open = false
  actual = actual or reservation.amount
  for unit in pairs(self.cap) do
    self.reserved[unit] = self.reserved[unit] - reservation.amount[unit]
    self.spent[unit] = self.spent[unit] + actual[unit]
  end
end

-- Guarded models ----------------------------------------------------------------------------------------

local function bytes_of(value)
  if type(value) == "string" then return #value end
  if type(value) ~= "table" then return 0 end
  local n = 0
  for _, v in pairs(value) do n = n + bytes_of(v) end
  return n
end

local function estimate(self, req)
  if type(req) == "string" then req = { prompt = req } end
  local defaults = self.target.defaults or {}
  local bytes = bytes_of(req.prompt) + bytes_of(req.system or defaults.system) + bytes_of(req.messages)
    + bytes_of(req.tools)
  local input = math.ceil(bytes / 4 * 1.1)
  local output = req.max_tokens or defaults.max_tokens or ANSWER_TOKENS
  return { tokens = input + output, usd = cost(self.price, { input_tokens = input, output_tokens = output }) }
end

local function actual(self, usage)
  if not usage or not usage.output_tokens then return nil end
  local total = usage.total_tokens or (usage.input_tokens or 0) + usage.output_tokens
  return { tokens = total, usd = cost(self.price, usage) }
end

local Guarded = { __name = "sluice.budget.guarded" }
Guarded.__index = Guarded

--- Settles with what was used, or, when the call failed before anything was generated, with nothing.
local function settle_failure(self, reservation, err)
  local generated = not errors.is(err) or err.kind == "interrupted" or err.kind == "timeout" or err.kind == "cancelled"
  self.budget:settle(reservation, not generated and { usd = 0, tokens = 0 } or nil)
end

function Guarded:ask(req, ...)
  local reservation = self.budget:reserve(estimate(self, req), self.below)
  local guard <close> = setmetatable({}, { __close = function(_, err) -- luacheck: ignore 211
    if err ~= nil then settle_failure(self, reservation, err) end
  end })
  local reply = self.target:ask(req, ...)
  self.budget:settle(reservation, actual(self, reply.usage))
  return reply
end

function Guarded:stream(req, ...)
  local reservation = self.budget:reserve(estimate(self, req), self.below)
  local guard <close> = setmetatable({}, { __close = function(_, err) -- luacheck: ignore 211
    if err ~= nil then settle_failure(self, reservation, err) end
  end })
  local stream = self.target:stream(req, ...)
  local finish = stream.finish_reply
  if finish then
    stream.on_close = function()
      self.budget:settle(reservation, stream.assembler and actual(self, stream.assembler:usage()))
    end
  else
    self.budget:settle(reservation)
  end
  return stream
end

function Guarded:__tostring() return tostring(self.target) end

--- The same model under this budget. `price`: USD per million tokens, { input =, output =, cached = },
--- needed when the budget is in USD; `below = 0.8` refuses at 80 % already, so that a cheaper step of a
--- chain can take over before the money is gone.
---@param target sluice.Model
---@param price? { input: number, output: number, cached?: number, below?: number }
---@return sluice.Model
function Budget:guard(target, price)
  if type(target) ~= "table" or type(target.ask) ~= "function" then
    options.raise("budget:guard: expected a model, got " .. options.got(target))
  end
  if price and not (price.below and price.input == nil) then options.check("budget:guard", price, PRICE) end
  if self.cap.usd and not (price and price.input) then
    options.raise("budget:guard: a budget in USD needs the model's price: { input =, output = } per million tokens")
  end
  return setmetatable({ target = target, budget = self, price = price and price.input and price or nil,
    below = price and price.below, name = target.name }, Guarded)
end

return Budget
