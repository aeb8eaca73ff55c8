-- The retry quota: the vectors of the AWS SDKs (SEP 2.1, appendix A; smithy-kotlin's
-- NewStandardRetryIntegrationTestResources, botocore's test_standard_retry_v2_1), with rand = 1.
local T = require "harness"
local quotas = require "sluice.policy.quota"
local retry = require "sluice.retry"

-- A failure as the vectors describe it. Their waits come in milliseconds, ours in seconds.
local function server(retry_after) return { kind = "server", status = 500, retry_after = retry_after } end
local THROTTLED = { kind = "rate_limited", status = 429 }
local OK = "ok"

--- Plays responses the way a call does: delays, quota after each, and how it ended.
local function play(quota, responses, opts)
  opts = opts or {}
  opts.attempts, opts.base = opts.attempts or 3, 0.05
  local delays, levels, paid = {}, {}, nil
  for i, response in ipairs(responses) do
    if response == OK then
      quota:succeeded(paid)
      levels[i] = quota.level
      return "success", levels, delays
    end
    local delay = retry.delay(response, i, opts, opts.random or 1)
    if not delay then
      levels[i] = quota.level
      return "max_attempts", levels, delays
    end
    local cost = quotas.cost(response.kind)
    if not quota:take(cost) then
      levels[i] = quota.level
      return "quota_exceeded", levels, delays
    end
    paid, levels[i], delays[i] = cost, quota.level, delay
  end
  return "under way", levels, delays
end

local VECTORS = {
  { "retry eventually succeeds", 500, { server(), server(), OK }, "success", { 486, 472, 486 }, { 0.05, 0.1 } },
  { "fail due to max attempts reached", 500, { server(), server(), server() }, "max_attempts", { 486, 472, 472 }, { 0.05, 0.1 } },
  { "retry quota reached after a single retry", 14, { server(), server() }, "quota_exceeded", { 0, 0 }, { 0.05 } },
  { "no retries at all if retry quota is 0", 0, { server() }, "quota_exceeded", { 0 }, {} },
  { "verifying exponential backoff timing", 500, { server(), server(), server(), server(), server() }, "max_attempts",
    { 486, 472, 458, 444, 444 }, { 0.05, 0.1, 0.2, 0.4 }, { attempts = 5 } },
  { "verify max backoff time", 500, { server(), server(), server(), server(), server() }, "max_attempts",
    { 486, 472, 458, 444, 444 }, { 0.05, 0.1, 0.2, 0.2 }, { attempts = 5, cap = 0.2 } },
  { "retry stops after retry quota exhaustion", 20, { server(), server() }, "quota_exceeded", { 6, 6 }, { 0.05 }, { attempts = 5 } },
  { "throttling error token bucket drain and backoff duration", 500, { THROTTLED, OK }, "success", { 495, 500 }, { 1.0 } },
  { "invalid retry-after falls back to exponential backoff", 500, { server(nil), OK }, "success", { 486, 500 }, { 0.05 } },
  { "a retry-after of 0 falls back to exponential backoff", 500, { server(0), OK }, "success", { 486, 500 }, { 0.05 } },
  -- rand = 0 where the server names a time, for what chance adds to it is ours, not theirs
  { "honor the retry-after header", 500, { server(1.5), OK }, "success", { 486, 500 }, { 1.5 }, { random = 0 } },
  -- they clamp 10 s to 5.05 s; here a server is never asked earlier than it said
  { "a long retry-after is kept", 500, { server(10), OK }, "success", { 486, 500 }, { 10 }, { random = 0 } },
}

for _, v in ipairs(VECTORS) do
  T.test("AWS: " .. v[1], function(t)
    local quota = quotas.new()
    quota.level = v[2]
    local outcome, levels, delays = play(quota, v[3], v[7])
    t.eq({ outcome, levels, delays }, { v[4], v[5], v[6] })
  end)
end

T.test("AWS: several calls one after the other, 30 to 16 to 2 to 16 to 2 to 16", function(t)
  local quota = quotas.new(30)
  local _, levels = play(quota, { server(), server(), OK }, { attempts = 5 })
  t.eq(levels, { 16, 2, 16 })
  _, levels = play(quota, { server(), OK }, { attempts = 5 })
  t.eq(levels, { 2, 16 })
end)

T.test("AWS: two calls at once share the account", function(t)
  local quota = quotas.new()
  t.ok(quota:take(14)) t.ok(quota:take(14))
  t.eq(quota.level, 472)
  quota:succeeded(14)
  t.eq(quota.level, 486)
end)

T.test("botocore: what is refused takes nothing, what succeeds at once brings 1, failures bring nothing", function(t)
  local quota = quotas.new(14)
  t.ok(quota:take(14))
  t.eq({ quota:take(14), quota:take(5), quota.level }, { false, false, 0 })
  quota:succeeded()
  t.eq(quota.level, 1)
  quota:succeeded(14)
  t.eq(quota.level, 14, "never above its capacity")
  quota:succeeded()
  t.eq(quota.level, 14)
end)

T.test("prices by kind", function(t)
  for kind, want in pairs { server = 14, network = 14, timeout = 14, protocol = 14, rate_limited = 5, overloaded = 5 } do
    t.eq(quotas.cost(kind), want, kind)
  end
end)

T.test("one account for an address; another capacity is another account", function(t)
  local a = quotas.of("http://a/v1")
  t.ok(a == quotas.of("http://a/v1"))
  t.ok(a == quotas.of("http://a/v1", 500))
  t.ok(a ~= quotas.of("http://b/v1"))
  local small = quotas.of("http://a/v1", 28)
  t.ok(small ~= a)
  t.eq({ small.level, small.capacity, a.capacity }, { 28, 28, 500 })
  a:take(14)
  for i = 1, 3000 do quotas.of("http://many/" .. i) end
  t.ok(a == quotas.of("http://a/v1"), "one that was drawn on is never forgotten")
end)

-- failsafe-go's budget_test, with our account in place of its ratio
T.test("failsafe-go: a retry while there is room, the error itself when there is none", function(t)
  local quota = quotas.new(14)
  t.eq((play(quota, { server(), OK })), "success")
  quota.level = 13
  t.eq((play(quota, { server(), OK })), "quota_exceeded")
end)

T.done()
