--- What calls cost: the table of prices, and the one place where tokens become money.
-- Owns: prices per million tokens, by model; sums of money in several currencies; how an amount is written.
-- Never: guesses. A model that is not in the table has no price, which is shown as unknown, never as zero;
-- amounts of different currencies are never added.
--
-- Built in are few prices: what runs here costs nothing; for Claude Opus what
-- https://platform.claude.com/docs/en/about-claude/pricing said when read on 23 November 2026, for Claude Sonnet
-- and Haiku what a page that cites it said then. Prices change, and gateways have their own:
-- sluice.prices { … } is the place for yours. Writing to a prompt cache, batches, tools
-- of the provider's and images that are billed apart are not in these figures.

local options = require "sluice.options"

local price = {}

--- The fields of a price, for every option that takes one.
price.FIELDS = {
  input = { type = "number", min = 0, required = true },
  output = { type = "number", min = 0, required = true },
  cached = { type = "number", min = 0 },
  currency = { type = "string", check = function(v) return v:find "^%u%u%u$" ~= nil end,
    expected = "three capital letters, as 'USD' or 'CNY'" },
}

local PRICE = options.spec(price.FIELDS, "field of the price")

---USD, unless `currency` is given, per million tokens. Cached tokens cost as others do unless `cached` is given.
---@class sluice.Price
---@field input number
---@field output number
---@field cached? number
---@field currency? string  "USD", "CNY", …

local FREE = { input = 0, output = 0 }

local prices = {
  ["mock/*"] = FREE,
  ["cache/*"] = FREE, -- what sluice.cache kept
  ["ollama/*"] = FREE,
  ["anthropic/claude-opus-5"] = { input = 5, cached = 0.5, output = 25 },
  ["anthropic/claude-opus-4-5*"] = { input = 5, cached = 0.5, output = 25 },
  ["anthropic/claude-sonnet-4-5*"] = { input = 3, cached = 0.3, output = 15 },
  ["anthropic/claude-haiku-4-5*"] = { input = 1, cached = 0.1, output = 5 },
}

local NAMES_MAX = 1000 -- names whose price is remembered
local found, found_count = {}, 0 -- name -> its price, false for none

-- The table -----------------------------------------------------------------------------------------

--- The entry with the longest name that fits.
local function look_up(name)
  local exact = prices[name]
  if exact ~= nil then return exact end
  local best, length = false, -1
  for pattern, entry in pairs(prices) do
    local head = pattern:match "^(.*)%*$"
    if head and #head > length and name:sub(1, #head) == head then best, length = entry, #head end
  end
  return best
end

--- The price of a model by its name, "provider/model"; nil when it is not known.
---@param name string
---@return sluice.Price?
function price.of(name)
  local known = found[name]
  if known == nil then
    known = look_up(name)
    if found_count >= NAMES_MAX then found, found_count = {}, 0 end
    found[name], found_count = known, found_count + 1
  end
  return known or nil
end

--- Adds prices to the table, or replaces them: `sluice.prices { ["openai/gpt-x"] = { input = 2, cached = 0.5,
--- output = 8 } }`, per million tokens, in USD unless `currency` is given. A name that ends in "*" stands for all
--- that begin so; the longest fits best. `false` makes a price unknown. Without an argument it returns a copy of
--- the table.
---@param changes? table<string, sluice.Price|false>
---@return table<string, sluice.Price|false>?
function price.set(changes)
  if changes == nil then
    local copy = {}
    for name, entry in pairs(prices) do
      copy[name] = entry and { input = entry.input, output = entry.output, cached = entry.cached,
        currency = entry.currency } or false
    end
    return copy
  end
  if type(changes) ~= "table" then
    options.raise("sluice.prices: expected a table of prices by model, got " .. options.got(changes))
  end
  for name, entry in pairs(changes) do
    if type(name) ~= "string" or not name:find "^[^/]+/." then
      options.raise(("sluice.prices: a name must be 'provider/model', got %s"):format(type(name) == "string"
        and ("'%s'"):format(name:sub(1, 80)) or options.got(name)))
    end
    if entry ~= false then
      local problem = options.problem(entry, PRICE)
      if problem then options.raise(("sluice.prices: '%s': %s"):format(name, problem)) end
    end
  end
  for name, entry in pairs(changes) do
    prices[name] = entry and { input = entry.input, output = entry.output, cached = entry.cached,
      currency = entry.currency } or false
  end
  found, found_count = {}, 0
  return nil
end

-- Amounts -------------------------------------------------------------------------------------------

--- What tokens cost.
---@param p sluice.Price
---@param input integer   cached ones included
---@param cached integer
---@param output integer
---@return number amount
function price.amount(p, input, cached, output)
  return ((input - cached) * p.input + cached * (p.cached or p.input) + output * p.output) / 1e6
end

--- What an answer cost by its usage; nil where that or the price is not known.
---@param p? sluice.Price
---@param usage? table
---@return number? amount
---@return string? currency
function price.cost(p, usage)
  if not p then return nil end
  local output = usage and usage.output_tokens
  if not output then
    if p.input == 0 and p.output == 0 then return 0, p.currency or "USD" end -- however much it was
    return nil
  end
  return price.amount(p, usage.input_tokens or 0, usage.cached_tokens or 0, output), p.currency or "USD"
end

---Money in several currencies, and how many calls there are whose cost is not known.
---@class sluice.Money
---@field amounts table<string, number>
---@field unknown integer
local Money = { __name = "sluice.money" }
Money.__index = Money

---@return sluice.Money
function price.money()
  return setmetatable({ amounts = {}, unknown = 0 }, Money)
end

--- Adds what a call cost; nil: that is not known.
---@param amount? number
---@param currency? string
function Money:add(amount, currency)
  if not amount then
    self.unknown = self.unknown + 1
    return
  end
  currency = currency or "USD"
  self.amounts[currency] = (self.amounts[currency] or 0) + amount
end

local SIGNS = { USD = "$", CNY = "¥", EUR = "€", GBP = "£" }

--- "$0.0042", "¥12.30", "SEK 3.10": two digits at least of what is not zero.
---@param amount number
---@param currency? string
---@return string
function price.text(amount, currency)
  currency = currency or "USD"
  local digits = 2
  if amount > 0 and amount < 0.1 then digits = math.min(9, 1 - math.floor(math.log(amount, 10))) end
  return (SIGNS[currency] or currency .. " ") .. ("%." .. digits .. "f"):format(amount)
end

--- The amounts: "$0.42", "$0.42 + ¥3.00", "unknown".
function Money:__tostring()
  local names, parts = {}, {}
  for currency in pairs(self.amounts) do names[#names + 1] = currency end
  table.sort(names)
  local some = #names > 0
  for _, currency in ipairs(names) do
    local amount = self.amounts[currency]
    if amount > 0 or #names == 1 then parts[#parts + 1] = price.text(amount, currency) end
  end
  if some and #parts == 0 then parts[1] = price.text(0, names[1]) end
  if not some then return self.unknown > 0 and "unknown" or price.text(0) end
  return table.concat(parts, " + ")
end

--- The same, with how many calls are not in it: "$0.42, and 3 calls of unknown cost".
---@return string
function Money:full()
  if self.unknown == 0 then return tostring(self) end
  local calls = ("%d call%s of unknown cost"):format(self.unknown, self.unknown == 1 and "" or "s")
  return next(self.amounts) == nil and calls or ("%s, and %s"):format(tostring(self), calls)
end

return price
