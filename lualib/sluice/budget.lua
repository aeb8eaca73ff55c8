--- A ceiling on what may be spent, checked before a request is sent.
-- Owns: what was spent and what is reserved in the running period. A guarded model reserves an estimate,
-- settles it with the usage the provider reports, and raises `quota` (code "budget") when the money is
-- gone, which a fallback moves on from.
--
-- Estimates: four bytes of a request to a token and a tenth more, 1,500 tokens for an image; the answer
-- counts with max_tokens, or 1,024 without. A request whose usage is not known (cancelled, broken,
-- abandoned) stays charged with its estimate: what was generated is billed, whether it arrived or not.
-- Nothing is charged where nothing can have been generated: the request was refused, here or there, or
-- never got there.
--
-- A period begins when the budget is made and lasts as long as it says ("day": 24 hours, not until
-- midnight); what is settled counts in the period in which it is settled.
-- Reading order: Budget:reserve, Budget:settle, Guarded:ask, Guarded:stream.

local now = require "sluice.core.task".now
local errors = require "sluice.errors"
local options = require "sluice.options"
local prices = require "sluice.price"
local tokens = require "sluice.tokens"
local Tap = require "sluice.fallback.tap"

local HUGE = math.huge
local type, rawget = type, rawget -- upvalues: these are called for every request
local PERIODS = { minute = 60, hour = 3600, day = 86400, run = math.huge }
local ANSWER_TOKENS = 1024 -- assumed of an answer without max_tokens
local SWEEP_MIN = 64        -- streams that are watched before they are looked through without need
local EPSILON = 1e-9       -- of sums of fractions of a dollar

local SPEC = options.spec {
  usd = { type = "number", above = 0 },
  tokens = { type = "integer", min = 1 },
  per = { type = { "string", "number" }, check = function(v)
    return type(v) == "number" and v > 0 or PERIODS[v] ~= nil, "'minute', 'hour', 'day', 'run' or seconds"
  end },
}

local PRICE = options.spec({
  input = { type = "number", min = 0 },
  output = { type = "number", min = 0 },
  cached = prices.FIELDS.cached,
  currency = prices.FIELDS.currency,
  below = { type = "number", above = 0, max = 1 },
}, "field of the price")

---@class sluice.Amount
---@field usd number
---@field tokens integer

--- For sluice's own modules. Left by an error, a cancellation too, it settles itself.
---@class sluice.Reservation
---@field usd number
---@field tokens number
---@field open boolean
---@field budget sluice.Budget
---@field model? sluice.Guarded
local Reservation = { __name = "sluice.reservation" }

---@class sluice.Budget
---@field spent sluice.Amount     settled in this period
---@field reserved sluice.Amount  of requests under way
local Budget = { __name = "sluice.budget" }
Budget.__index = Budget

--- A budget: { usd = 5, tokens = 1000000, per = "day" }; one of usd and tokens, or both. `per` is "run"
--- (the life of the program) unless given.
---@param opts { usd?: number, tokens?: integer, per?: "minute"|"hour"|"day"|"run"|number }
---@return sluice.Budget
function Budget.new(opts)
  options.check("sluice.budget", opts, SPEC)
  if not (opts.usd or opts.tokens) then options.raise "sluice.budget: give 'usd', 'tokens' or both" end
  local per = opts.per or "run"
  return setmetatable({ cap = { usd = opts.usd, tokens = opts.tokens }, per = PERIODS[per] or per,
    spent = { usd = 0, tokens = 0 }, reserved = { usd = 0, tokens = 0 }, since = now(),
    streams = {}, watched = 0, sweep_at = SWEEP_MIN }, Budget)
end

-- The account -------------------------------------------------------------------------------------------

local NOTHING = { usd = 0, tokens = 0 }

local function settle_as(self, reservation, usd, count)
  if not reservation.open then return end
  reservation.open = false
  local reserved, spent = self.reserved, self.spent
  local left = reserved.usd - reservation.usd
  reserved.usd = left > 0 and left or 0
  left = reserved.tokens - reservation.tokens
  reserved.tokens = left > 0 and left or 0
  spent.usd, spent.tokens = spent.usd + usd, spent.tokens + count
  if self.watched > 0 and self.streams[reservation] then
    self.streams[reservation], self.watched = nil, self.watched - 1
  end
end

--- Replaces a reservation by what was really used; without it, the reservation becomes the cost. Once;
--- later calls do nothing.
---@param reservation sluice.Reservation
---@param actual? sluice.Amount
function Budget:settle(reservation, actual)
  actual = actual or reservation
  settle_as(self, reservation, actual.usd, actual.tokens)
end

--- Streams that were closed with their task group, or collected, without a word to Lua.
local function sweep(self)
  if self.watched == 0 then return end
  local gone
  for reservation, held in pairs(self.streams) do
    local stream = held[1]
    if stream == nil or Tap.is_closed(stream) then
      gone = gone or {}
      gone[#gone + 1] = reservation
    end
  end
  for _, reservation in ipairs(gone or {}) do self:settle(reservation) end
  self.sweep_at = math.max(SWEEP_MIN, 2 * self.watched)
end

local function watch(self, reservation, stream)
  self.streams[reservation] = setmetatable({ stream }, { __mode = "v" })
  self.watched = self.watched + 1
  if self.watched > self.sweep_at then sweep(self) end
end

--- Begins a new period when the old one is over. What was left without a word counts in the old one.
local function turn(self)
  local at = now()
  if at - self.since < self.per then return end
  sweep(self)
  self.since = at - (at - self.since) % self.per
  self.spent = { usd = 0, tokens = 0 }
end

--- What is left: { usd =, tokens = }, a field for each ceiling.
---@return { usd?: number, tokens?: integer }
function Budget:left()
  sweep(self)
  turn(self)
  local left = {}
  for unit, cap in pairs(self.cap) do left[unit] = cap - self.spent[unit] - self.reserved[unit] end
  return left
end

--- Refuses, unless streams that were left without a word have kept back more than they took.
local function check(self, unit, amount, below)
  sweep(self)
  if self.spent[unit] + (self.reserved[unit] + amount) <= self.cap[unit] * below + EPSILON then return end
  local period = self.per ~= math.huge and self.since + self.per - now() or nil
  local share = below < 1 and (" (refused from %g %% on)"):format(100 * below) or ""
  errors.raise { kind = "quota", code = "budget", retry_after = period,
    message = ("the budget of %.6g %s is used up to %.6g; this request may take %.6g%s")
      :format(self.cap[unit], unit, self.spent[unit] + self.reserved[unit], amount, share) }
end

local take

function take(self, usd, count, below, model)
  local per = self.per
  if per < HUGE and now() - self.since >= per then turn(self) end
  local cap, spent, reserved = self.cap, self.spent, self.reserved
  local most, with_usd, with_tokens = cap.usd, reserved.usd + usd, reserved.tokens + count
  if most and spent.usd + with_usd > most * below + EPSILON then
    check(self, "usd", usd, below)
    return take(self, usd, count, below, model)
  end
  most = cap.tokens
  if most and spent.tokens + with_tokens > most * below + EPSILON then
    check(self, "tokens", count, below)
    return take(self, usd, count, below, model)
  end
  reserved.usd, reserved.tokens = with_usd, with_tokens
  local spare = self.spare -- of an ask that is over
  if spare then
    self.spare = spare.after
    spare.model, spare.usd, spare.tokens, spare.open = model, usd, count, true
    return spare
  end
  return setmetatable({ budget = self, model = model, usd = usd, tokens = count, open = true,
    after = nil }, Reservation)
end

--- Sets an amount aside, or raises `quota` with code "budget". Returns what settle() takes.
---@param amount sluice.Amount
---@param below? number  share of the ceiling at which to refuse, 1
---@return sluice.Reservation
function Budget:reserve(amount, below)
  return take(self, amount.usd, amount.tokens, below or 1)
end

function Budget:__tostring()
  local parts = {}
  for _, unit in ipairs { "usd", "tokens" } do
    local cap = self.cap[unit]
    if cap then parts[#parts + 1] = ("%.6g of %.6g %s"):format(self.spent[unit] + self.reserved[unit], cap, unit) end
  end
  return "budget, used " .. table.concat(parts, ", ")
end

-- Guarded models ----------------------------------------------------------------------------------------

--- Sets aside what a request will take.
local function reserve(self, req)
  local defaults, price = self.known, self.price
  local system = defaults.system
  local input, output
  if type(req) == "string" and not defaults.tools and (system == nil or type(system) == "string") then
    -- nearly always: nothing to be looked through; as tokens.of_bytes
    input = ((system and #req + #system or #req) * 11 + 39) // 40
  else
    if type(req) == "string" then req = { prompt = req } end
    input = tokens.estimate { prompt = req.prompt or "", system = req.system or system, messages = req.messages,
      tools = req.tools or defaults.tools }
    output = req.max_tokens
  end
  output = output or defaults.max_tokens or ANSWER_TOKENS
  return take(self.budget, price and (input * price.input + output * price.output) / 1e6 or 0, input + output,
    self.below, self)
end

--- What was used: USD, tokens; nil when the provider did not say.
local function actual(self, usage)
  local output = usage and usage.output_tokens
  if not output then return nil end
  local input, price = usage.input_tokens or 0, self.price
  local total = usage.total_tokens or input + output
  if not price then return 0, total end
  return prices.amount(price, input, usage.cached_tokens or 0, output), total
end

-- Refused before anything was generated, by us or by the provider.
local REFUSED = { circuit_open = true, throttled = true, quota = true, auth = true, invalid = true,
  rate_limited = true }
local BEFORE_SENDING = { connect = true, tls = true, dns = true }

--- What a call that failed is charged with: nil is its estimate.
local function charge_of(self, err)
  if not errors.is(err) then return nil end
  local usd, count = actual(self, err.usage)
  if usd then return { usd = usd, tokens = count } end
  if REFUSED[err.kind] or BEFORE_SENDING[err.phase] or (err.status or 0) >= 400 then return NOTHING end
  return nil
end

function Reservation:__close(err)
  if err ~= nil and self.open then self.budget:settle(self, charge_of(self.model, err)) end
end

---@class sluice.Guarded : sluice.Model
local Guarded = { __name = "sluice.budget.guarded" }

Guarded.__index = function(self, key)
  local value = Guarded[key]
  if value ~= nil then return value end
  return rawget(self, "target")[key] -- name, breaker, defaults …
end

--- Settles with what was used, and says in the reply what it cost.
local function settle(self, reservation, reply)
  local usd, count = actual(self, reply.usage)
  settle_as(self.budget, reservation, usd or reservation.usd, count or reservation.tokens)
  if not (usd and self.price) then return end
  reply.usd = usd -- Reply's attempts will say it, too, where they are not written down yet
  local list = rawget(reply, "attempts")
  if list and type(list) == "table" and #list > 0 then list[#list].usd = usd end
end

---@async
function Guarded:ask(req, opts)
  local reservation <close> = reserve(self, req)
  local reply = self.target:ask(req, opts)
  settle(self, reservation, reply)
  local budget = self.budget
  reservation.after, budget.spare = budget.spare, reservation -- nobody else knows of it
  return reply
end

---@async
function Guarded:stream(req, opts)
  local reservation <close> = reserve(self, req)
  local budget = self.budget
  local stream = Tap.new(self.target:stream(req, opts), function(reply, err, inner)
    if reply then return settle(self, reservation, reply) end
    local assembler = inner.assembler -- left before its end: what is known is less than what is billed
    local usd, count
    if assembler then usd, count = actual(self, assembler:usage()) end
    if usd then
      return settle_as(budget, reservation, math.max(usd, reservation.usd), math.max(count, reservation.tokens))
    end
    budget:settle(reservation, err and charge_of(self, err) or nil)
  end)
  watch(budget, reservation, stream)
  return stream
end

function Guarded:pay_hedge()
  local pay = self.target.pay_hedge
  if not pay then return 0 end
  return pay(self.target)
end

function Guarded:__tostring() return tostring(self.target) end

--- The same model under this budget. `price`: USD per million tokens, { input =, output =, cached = },
--- needed when the budget is in USD and sluice.prices does not know it; `below = 0.8` refuses at 80 % already,
--- so that a cheaper step of a chain can take over before the money is gone.
---@param target sluice.Model
---@param price? { input?: number, output?: number, cached?: number, currency?: string, below?: number }
---@return sluice.Model
function Budget:guard(target, price)
  if type(target) ~= "table" or type(target.ask) ~= "function" or type(target.stream) ~= "function" then
    options.raise("budget:guard: expected a model, got " .. options.got(target))
  end
  price = price or {}
  options.check("budget:guard", price, PRICE)
  if not (price.input or price.output or price.cached) then -- sluice.prices, or the model's own, know it
    local known = rawget(target, "price") or type(target.name) == "string" and prices.of(target.name)
    -- what costs nothing cannot be what a ceiling in USD is for
    if known and (known.currency or "USD") == "USD" and known.input + known.output > 0 then
      price = { input = known.input, output = known.output, cached = known.cached, below = price.below }
    end
  end
  if self.cap.usd and (price.currency or "USD") ~= "USD" then
    options.raise("budget:guard: the budget is in USD, the price in " .. price.currency)
  end
  local priced = price.input and price.output
  if (price.input or price.output or price.cached or self.cap.usd) and not priced then
    options.raise("budget:guard: give both parts of the model's price, { input =, output = }, in USD per million "
      .. "tokens")
  end
  return setmetatable({ target = target, budget = self, price = priced and price or false, below = price.below or 1,
    ask = Guarded.ask, stream = Guarded.stream, -- found without going through __index
    known = type(target.defaults) == "table" and target.defaults or {} }, Guarded)
end

--- Another model under the same budget needs its own price.
function Guarded:with(changes, price)
  if type(changes) == "table" and changes.model and self.price and not price then
    options.raise "model:with: another model has another price: give it as the second argument"
  end
  return self.budget:guard(self.target:with(changes), price or self.price
    and { input = self.price.input, output = self.price.output, cached = self.price.cached, below = self.below }
    or { below = self.below })
end

return Budget
