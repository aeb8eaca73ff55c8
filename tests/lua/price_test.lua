-- Prices: the table, what answers cost, sums of several currencies.
local T = require "harness"
local sluice = require "sluice"
local price = require "sluice.price"
local mock = require "sluice.mock"

T.test("a name finds its price: exact, by the longest beginning, or none", function(t)
  sluice.prices { ["acme/*"] = { input = 1, output = 2 }, ["acme/big*"] = { input = 3, output = 4 },
    ["acme/big-1"] = { input = 5, output = 6 }, ["acme/secret"] = false }
  t.eq(price.of "acme/big-1".input, 5)
  t.eq(price.of "acme/big-2".input, 3)
  t.eq(price.of "acme/small".input, 1)
  t.eq(price.of "acme/secret", nil)
  t.eq(price.of "nobody/x", nil)
  t.eq(price.of "ollama/any".output, 0)
  sluice.prices { ["acme/big-1"] = { input = 7, output = 8 } } -- a changed table counts at once
  t.eq(price.of "acme/big-1".input, 7)
  local copy = sluice.prices()
  copy["acme/big-1"].input = 99
  t.eq(price.of "acme/big-1".input, 7)
  t.eq(copy["acme/secret"], false)
end)

T.test("wrong prices are named", function(t)
  t.raises("sluice.prices: 'a/b': unknown field of the price 'inputs' %(did you mean 'input'%?%)", sluice.prices,
    { ["a/b"] = { inputs = 1, output = 1 } })
  t.raises("sluice.prices: 'a/b': field of the price 'output' is missing", sluice.prices, { ["a/b"] = { input = 1 } })
  t.raises("three capital letters", sluice.prices, { ["a/b"] = { input = 1, output = 1, currency = "dollar" } })
  t.raises("must be 'provider/model', got 'gpt'", sluice.prices, { gpt = { input = 1, output = 1 } })
  t.eq(price.of "a/b", nil)
end)

T.test("cached tokens have their own price, or the usual one", function(t)
  local usage = { input_tokens = 1000000, cached_tokens = 400000, output_tokens = 100000 }
  t.near(0.6 * 2 + 0.4 * 0.5 + 0.1 * 10, price.cost({ input = 2, cached = 0.5, output = 10 }, usage), 1e-12)
  t.near(2 + 1, price.cost({ input = 2, output = 10 }, usage), 1e-12)
  t.eq(select(2, price.cost({ input = 2, output = 10, currency = "CNY" }, usage)), "CNY")
  t.eq(price.cost({ input = 2, output = 10 }, {}), nil)
  t.eq(price.cost(nil, usage), nil)
end)

T.test("amounts as a person reads them; currencies are not added up", function(t)
  local shown = {}
  for i, amount in ipairs { 0, 12.345, 0.1, 0.034, 0.00042, 1e-7 } do shown[i] = price.text(amount) end
  t.eq(shown, { "$0.00", "$12.35", "$0.10", "$0.034", "$0.00042", "$0.00000010" })
  t.eq(price.text(3, "CNY"), "¥3.00")
  t.eq(price.text(3, "SEK"), "SEK 3.00")
  local sum = price.money()
  t.eq(sum:full(), "$0.00")
  sum:add(nil)
  t.eq({ tostring(sum), sum:full() }, { "unknown", "1 call of unknown cost" })
  sum:add(1.5)
  sum:add(2, "CNY")
  sum:add(0.25, "USD")
  sum:add(nil)
  t.eq(sum:full(), "¥2.00 + $1.75, and 2 calls of unknown cost")
end)

local function with_mock(rules, f)
  local server <close> = mock.start { scenario = rules, pace = 0 }
  f(server.url)
end

T.test("reply.cost: of an ask, a stream, each attempt; unknown is nil, not zero", function(t)
  with_mock({ { nth = 2, status = 503 }, { text = "four words are here" } },
    function(url)
      local model = sluice.model { provider = "openai", model = "m", base_url = url .. "/v1", auth = "k",
        retry = { attempts = 2, base = 0.01 }, price = { input = 10, output = 20, currency = "CNY" } }
      local reply = model:ask "x"
      local usage = reply.usage
      t.near((usage.input_tokens * 10 + usage.output_tokens * 20) / 1e6, reply.cost, 1e-12)
      t.eq(reply.currency, "CNY")
      reply = model:ask "x" -- its first attempt fails
      t.eq({ #reply.attempts, reply.attempts[1].cost, reply.attempts[2].cost }, { 2, nil, reply.cost })
      t.ok(reply.cost > 0)
      reply = model:stream "x":reply()
      t.ok(reply.cost > 0)
      t.eq(reply.currency, "CNY")
      reply = model:with { price = { input = 0, output = 0 } }:ask "x"
      t.eq({ reply.cost, reply.currency }, { 0, "USD" })
      local bare = sluice.model { provider = "openai", model = "n", base_url = url .. "/v1", auth = "k" }
      reply = bare:ask "x"
      t.eq({ reply.cost, reply.currency }, {})
      sluice.prices { ["openai/n"] = { input = 1, output = 1 } }
      t.ok(bare:ask "x".cost > 0)
    end)
end)

T.test("of a fallback: what the step that answered cost, in its attempt too", function(t)
  with_mock({ { model = "down", status = 500 }, { text = "hi" } }, function(url)
    local function make(name)
      return sluice.model { provider = "openai", model = name, base_url = url .. "/v1", auth = "k", retry = false,
        price = { input = 10, output = 20 } }
    end
    local chain = sluice.fallback { make "down", make "up" }
    for _, reply in ipairs { chain:ask "x", chain:stream "x":reply() } do
      t.ok(reply.cost > 0)
      t.eq({ #reply.attempts, reply.attempts[1].cost, reply.attempts[2].cost }, { 2, nil, reply.cost })
    end
    t.eq(sluice.fallback { function() return "sorry" end }:ask "x".cost, nil)
  end)
end)

T.test("a budget takes its prices from the same table", function(t)
  sluice.prices { ["openai/p"] = { input = 1, output = 2 }, ["openai/yuan"] = { input = 1, output = 2, currency = "CNY" } }
  local budget = sluice.budget { usd = 1 }
  local function model(name) return sluice.model { provider = "openai", model = name, base_url = "http://127.0.0.1:9/v1", auth = "k" } end
  t.eq({ budget:guard(model "p").price.output }, { 2 })
  t.raises("give both parts", budget.guard, budget, model "yuan") -- yuan are no dollars
  t.raises("the budget is in USD, the price in CNY", budget.guard, budget, model "p",
    { input = 1, output = 1, currency = "CNY" })
end)

T.done()
