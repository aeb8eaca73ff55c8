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

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local options = require "sluice.options"
local tokens = require "sluice.tokens"
local Tap = require "sluice.fallback.tap"

local PERIODS = { minute = 60, hour = 3600, day = 86400, run = math.huge }
local ANSWER_TOKENS = 1024 -- assumed of an answer without max_tokens
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
  cached = { type = "number", min = 0 },
  below = { type = "number", above = 0, max = 1 },
}, "field of the price")

---@class sluice.Amount
---@field usd number
---@field tokens integer

---@class sluice.Reservation
---@field amount sluice.Amount
---@field open boolean

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
    spent = { usd = 0, tokens = 0 }, reserved = { usd = 0, tokens = 0 }, since = core.now(), streams = {} }, Budget)
end

-- The account -------------------------------------------------------------------------------------------

local NOTHING = { usd = 0, tokens = 0 }

--- Replaces a reservation by what was really used; without it, the reservation becomes the cost. Once;
--- later calls do nothing.
---@param reservation sluice.Reservation
---@param actual? sluice.Amount
function Budget:settle(reservation, actual)
  if not reservation.open then return end
  reservation.open = false
  self.streams[reservation] = nil
  actual = actual or reservation.amount
  for unit in pairs(NOTHING) do
    self.reserved[unit] = math.max(0, self.reserved[unit] - reservation.amount[unit])
    self.spent[unit] = self.spent[unit] + actual[unit]
  end
end

--- Streams that were closed with their task group, or collected, without a word to Lua.
local function sweep(self)
  local gone
  for reservation, held in pairs(self.streams) do
    local stream = held[1]
    if stream == nil or Tap.is_closed(stream) then
      gone = gone or {}
      gone[#gone + 1] = reservation
    end
  end
  for _, reservation in ipairs(gone or {}) do self:settle(reservation) end
end

local function turn(self)
  if next(self.streams) then sweep(self) end
  local now = core.now()
  if now - self.since < self.per then return end
  self.since = now - (now - self.since) % self.per
  self.spent = { usd = 0, tokens = 0 }
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
---@param amount sluice.Amount
---@param below? number  share of the ceiling at which to refuse, 1
---@return sluice.Reservation
function Budget:reserve(amount, below)
  turn(self)
  below = below or 1
  for unit, cap in pairs(self.cap) do
    local used = self.spent[unit] + self.reserved[unit]
    if used + amount[unit] > cap * below + EPSILON then
      local period = self.per ~= math.huge and self.since + self.per - core.now() or nil
      local share = below < 1 and (" (refused from %g %% on)"):format(100 * below) or ""
      errors.raise { kind = "quota", code = "budget", retry_after = period,
        message = ("the budget of %.6g %s is used up to %.6g; this request may take %.6g%s")
          :format(cap, unit, used, amount[unit], share) }
    end
  end
  for unit in pairs(NOTHING) do self.reserved[unit] = self.reserved[unit] + amount[unit] end
  return { amount = amount, open = true }
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

local function cost(price, usage)
  if not price then return 0 end
  local input, cached = usage.input_tokens or 0, usage.cached_tokens or 0
  return ((input - cached) * price.input + cached * (price.cached or price.input)
    + (usage.output_tokens or 0) * price.output) / 1e6
end

local function estimate(self, req)
  if type(req) == "string" then req = { prompt = req } end
  local defaults = type(self.target.defaults) == "table" and self.target.defaults or {}
  local input = tokens.estimate { prompt = req.prompt or "", system = req.system or defaults.system,
    messages = req.messages, tools = req.tools or defaults.tools }
  local output = req.max_tokens or defaults.max_tokens or ANSWER_TOKENS
  return { tokens = input + output, usd = cost(self.price, { input_tokens = input, output_tokens = output }) }
end

local function actual(self, usage)
  if not usage or not usage.output_tokens then return nil end
  local total = usage.total_tokens or (usage.input_tokens or 0) + usage.output_tokens
  return { tokens = total, usd = cost(self.price, usage) }
end

-- Refused before anything was generated, by us or by the provider.
local REFUSED = { circuit_open = true, throttled = true, quota = true, auth = true, invalid = true,
  rate_limited = true }
local BEFORE_SENDING = { connect = true, tls = true, dns = true }

--- What a call that failed is charged with: nil is its estimate.
local function charge_of(self, err)
  if not errors.is(err) then return nil end
  local known = actual(self, err.usage)
  if known then return known end
  if REFUSED[err.kind] or BEFORE_SENDING[err.phase] or (err.status or 0) >= 400 then return NOTHING end
  return nil
end

---@class sluice.Guarded : sluice.Model
local Guarded = { __name = "sluice.budget.guarded" }

Guarded.__index = function(self, key)
  local value = Guarded[key]
  if value ~= nil then return value end
  return rawget(self, "target")[key] -- name, breaker, defaults …
end

-- Settles a call that is left by an error, a cancellation too.
local Open = {}
Open.__index = Open
function Open:__close(err)
  if err ~= nil then self.model.budget:settle(self.reservation, charge_of(self.model, err)) end
end

local function reserve(self, req)
  local reservation = self.budget:reserve(estimate(self, req), self.below)
  return reservation, setmetatable({ model = self, reservation = reservation }, Open)
end

--- Settles with what was used, and says in the reply what it cost.
local function settle(self, reservation, reply)
  local used = actual(self, reply.usage)
  self.budget:settle(reservation, used)
  if not (used and self.price) then return end
  reply.usd = used.usd
  local list = reply.attempts
  if type(list) == "table" and #list > 0 then list[#list].usd = used.usd end
end

---@async
function Guarded:ask(req, opts)
  local reservation, open = reserve(self, req)
  local _ <close> = open
  local reply = self.target:ask(req, opts)
  settle(self, reservation, reply)
  return reply
end

---@async
function Guarded:stream(req, opts)
  local reservation, open = reserve(self, req)
  local _ <close> = open
  local budget = self.budget
  local stream = Tap.new(self.target:stream(req, opts), function(reply, err, inner)
    if reply then return settle(self, reservation, reply) end
    local assembler = inner.assembler -- left before its end: what is known is less than what is billed
    local known = assembler and actual(self, assembler:usage())
    local amount = reservation.amount
    budget:settle(reservation, known and { usd = math.max(known.usd, amount.usd),
      tokens = math.max(known.tokens, amount.tokens) } or err and charge_of(self, err) or nil)
  end)
  budget.streams[reservation] = setmetatable({ stream }, { __mode = "v" })
  return stream
end

function Guarded:pay_hedge()
  local pay = self.target.pay_hedge
  if not pay then return 0 end
  return pay(self.target)
end

function Guarded:__tostring() return tostring(self.target) end

--- The same model under this budget. `price`: USD per million tokens, { input =, output =, cached = },
--- needed when the budget is in USD; `below = 0.8` refuses at 80 % already, so that a cheaper step of a
--- chain can take over before the money is gone.
---@param target sluice.Model
---@param price? { input?: number, output?: number, cached?: number, below?: number }
---@return sluice.Model
function Budget:guard(target, price)
  if type(target) ~= "table" or type(target.ask) ~= "function" or type(target.stream) ~= "function" then
    options.raise("budget:guard: expected a model, got " .. options.got(target))
  end
  price = price or {}
  options.check("budget:guard", price, PRICE)
  local priced = price.input and price.output
  if (price.input or price.output or price.cached or self.cap.usd) and not priced then
    options.raise("budget:guard: give both parts of the model's price, { input =, output = }, in USD per million "
      .. "tokens")
  end
  return setmetatable({ target = target, budget = self, price = priced and price or nil, below = price.below },
    Guarded)
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
