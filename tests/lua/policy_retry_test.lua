-- When to try again: kinds, the formula, Retry-After, deadlines, patience.
-- Cases of openai-python's test_client (Retry-After), botocore's test_standard_retry_v2_1 (back-off),
-- Polly's RetryHelperTests (overflow).
local T = require "harness"
local failure = require "sluice.provider.failure"
local retry = require "sluice.retry"

local DEFAULT = { attempts = 3 }

local function err(kind, fields)
  local e = { kind = kind }
  for key, value in pairs(fields or {}) do e[key] = value end
  return e
end

-- Kinds ---------------------------------------------------------------------------------------------

T.test("kinds that another attempt may mend", function(t)
  for kind, want in pairs {
    network = true, server = true, overloaded = true, rate_limited = true, protocol = true,
    timeout = false, quota = false, auth = false, invalid = false, filtered = false, interrupted = false,
    circuit_open = false, throttled = false, cancelled = false, deadlock = false, cpu = false, memory = false,
  } do
    t.eq(retry.worthwhile(err(kind), {}), want, kind)
  end
end)

T.test("a request that was sent and met silence is not sent again, unless asked for", function(t)
  for phase, want in pairs { connect = true, first_token = false, idle = false, slow = false, total = false, deadline = false } do
    t.eq(retry.worthwhile(err("timeout", { phase = phase }), {}), want, phase)
  end
  for phase, want in pairs { connect = true, first_token = true, idle = true, slow = true, total = false, deadline = false } do
    t.eq(retry.worthwhile(err("timeout", { phase = phase }), { resend = true }), want, phase)
  end
end)

T.test("a certificate that is refused stays refused", function(t)
  t.eq(retry.worthwhile(err("network", { phase = "tls" }), {}), false)
end)

T.test("openai-python: x-should-retry decides, whatever the kind", function(t)
  t.eq(retry.worthwhile(err("server", { should_retry = false }), {}), false)
  t.eq(retry.worthwhile(err("invalid", { should_retry = true }), {}), true)
  t.eq(retry.worthwhile(err("rate_limited", { should_retry = false, retry_after = 1 }), {}), false)
  t.eq(retry.worthwhile(err("interrupted", { should_retry = true }), {}), false, "content was delivered")
  t.eq(retry.worthwhile(err("cancelled", { should_retry = true }), {}), false)
  local said = failure.parse(400, { ["x-should-retry"] = "true" }, '{"error":{"message":"later"}}')
  t.ok(retry.delay(said, 1, DEFAULT, 0.5))
  said = failure.parse(503, { ["x-should-retry"] = "false" }, "")
  t.eq(retry.delay(said, 1, DEFAULT, 0.5), nil)
end)

-- The formula ---------------------------------------------------------------------------------------

T.test("full jitter below base, doubling, up to the cap", function(t)
  local opts = { attempts = 100 }
  for n, want in ipairs { 0.5, 1, 2, 4, 8, 16, 20, 20 } do
    t.eq(retry.delay(err "server", n, opts, 1), want)
    t.eq(retry.delay(err "server", n, opts, 0), 0)
    t.near(retry.delay(err "server", n, opts, 0.25), want / 4)
  end
  for n, want in ipairs { 1, 2, 4, 8, 16, 20 } do
    t.eq(retry.delay(err "overloaded", n, opts, 1), want)
    t.eq(retry.delay(err "rate_limited", n, opts, 1), want)
  end
end)

T.test("a base of one's own; a throttled request waits by seconds all the same", function(t)
  t.eq(retry.delay(err "server", 2, { attempts = 9, base = 0.05 }, 1), 0.1)
  t.eq(retry.delay(err "rate_limited", 2, { attempts = 9, base = 0.05 }, 1), 2)
  t.eq(retry.delay(err "rate_limited", 1, { attempts = 9, base = 4 }, 1), 4)
  t.eq(retry.delay(err "server", 9, { attempts = 10, cap = 3 }, 1), 3)
end)

T.test("botocore: the range of the back-off, rand = 1", function(t)
  local got = {}
  for n = 1, 11 do got[n] = retry.delay(err "server", n, { attempts = 99, base = 0.05 }, 1) end
  t.eq(got, { 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20, 20 })
end)

T.test("botocore: chance is spread evenly over the range", function(t)
  local histogram, n = {}, 10000
  for _ = 1, n do
    local delay = retry.delay(err "server", 10, { attempts = 99 }, math.random())
    t.ok(delay >= 0 and delay < 20)
    local bin = delay // 1
    histogram[bin] = (histogram[bin] or 0) + 1
  end
  for bin = 0, 19 do
    local share = (histogram[bin] or 0) / (n / 20)
    t.ok(share > 0.75 and share < 1.25, bin)
  end
end)

T.test("Polly: no overflow, no negative delay, no NaN at any attempt", function(t)
  for _, n in ipairs { 1, 2, 3, 4, 10, 100, 1000, 1024, 1025, 2048, 1e9 // 1 } do
    for _, base in ipairs { 0, 1e-9, 0.5, 2, 86400, 1e9 } do
      for _, random in ipairs { 0, 0.5, 0.999999 } do
        local delay = retry.delay(err "server", n, { attempts = math.maxinteger, base = base, cap = 30 }, random)
        t.ok(delay == delay and delay >= 0 and delay <= 30, ("%d %g %g: %s"):format(n, base, random, delay))
        if base == 0 then t.eq(delay, 0) end
      end
    end
  end
  t.eq(retry.delay(err "server", 1000, { attempts = 2000, base = 86400, cap = 2 * 86400 }, 1), 2 * 86400, "the most there is")
end)

T.test("no more attempts than allowed", function(t)
  t.ok(retry.delay(err "server", 2, DEFAULT, 0.5))
  t.eq(retry.delay(err "server", 3, DEFAULT, 0.5), nil)
  t.eq(retry.delay(err "server", 1, { attempts = 1 }, 0.5), nil)
end)

-- Retry-After ---------------------------------------------------------------------------------------

T.test("openai-python: the table of Retry-After headers", function(t)
  local at = 1696004797 -- Fri, 29 Sep 2023 16:26:37 GMT
  local TOO_LONG = "fail now"
  -- n counts attempts made; where the table says that the header is out of bounds, it backs off after
  -- a wrong one, and fails at once on one that is right but too long: waiting less would be refused again
  for _, case in ipairs {
    { 1, "20", 20 }, { 1, "0", 0.5 }, { 1, "-10", 0.5 }, { 1, "60", 60 }, { 1, "61", TOO_LONG },
    { 1, "Fri, 29 Sep 2023 16:26:57 GMT", 20 }, { 1, "Fri, 29 Sep 2023 16:26:37 GMT", 0.5 },
    { 1, "Fri, 29 Sep 2023 16:26:27 GMT", 0.5 }, { 1, "Fri, 29 Sep 2023 16:27:37 GMT", 60 },
    { 1, "Fri, 29 Sep 2023 16:27:38 GMT", TOO_LONG }, { 1, "99999999999999999999999999999999999", TOO_LONG },
    { 1, "Zun, 29 Sep 2023 16:26:27 GMT", 0.5 }, { 1, "", 0.5 }, { 2, "", 1 }, { 3, "", 2 },
    { 1100, "", 8 }, -- a large number, potentially overflowing
    { 1, "120", TOO_LONG }, { 1, "121", TOO_LONG }, { 1, "inf", 0.5 }, { 1, "nan", 0.5 }, { 1, "soon", 0.5 },
    { 1, "1.5", 1.5 },
  } do
    local n, header, want = case[1], case[2], case[3]
    local said = failure.parse(500, { ["retry-after"] = header }, "", at)
    local opts = { attempts = 1e6, cap = 8 }
    -- a time that was named is kept to the second; chance adds to it, or shortens our own back-off
    local from_header = want ~= TOO_LONG and said.retry_after ~= nil
    local got = retry.delay(said, n, opts, from_header and 0 or 1)
    t.eq(got or TOO_LONG, want, ("%q after %d attempts"):format(header, n))
  end
end)

T.test("never earlier than asked, and at most a second later", function(t)
  for _, asked in ipairs { 0.001, 0.5, 1, 7.5, 30, 60 } do
    for _, random in ipairs { 0, 0.5, 0.999 } do
      local delay = retry.delay(err("rate_limited", { retry_after = asked }), 1, DEFAULT, random)
      t.ok(delay >= asked and delay <= asked + math.min(1, asked / 10), asked)
    end
  end
end)

T.test("a longer wait than max_wait fails at once", function(t)
  t.eq(retry.delay(err("rate_limited", { retry_after = 60.1 }), 1, DEFAULT, 0), nil)
  t.eq(retry.delay(err("rate_limited", { retry_after = 60.1 }), 1, { attempts = 3, max_wait = 300 }, 0), 60.1)
  t.eq(retry.delay(err("rate_limited", { retry_after = 6 }), 1, { attempts = 3, max_wait = 5 }, 0), nil)
end)

T.test("milliseconds win over seconds", function(t)
  local said = failure.parse(429, { ["retry-after-ms"] = "250", ["retry-after"] = "1" }, "")
  t.eq(retry.delay(said, 1, DEFAULT, 0), 0.25)
end)

-- Deadlines and patience ----------------------------------------------------------------------------

T.test("no sleep past a deadline", function(t)
  local e = err("rate_limited", { retry_after = 5 })
  t.eq(retry.delay(e, 1, DEFAULT, 0, 5), nil)
  t.eq(retry.delay(e, 1, DEFAULT, 0, 5.1), 5)
  t.eq(retry.delay(e, 1, DEFAULT, 0, 0), nil)
end)

T.test("no attempt that could not be answered in time", function(t)
  t.eq(retry.delay(err "server", 1, DEFAULT, 1, 10, 9.6), nil)
  t.eq(retry.delay(err "server", 1, DEFAULT, 1, 10, 9.5), 0.5)
  local default = { connect = 3, first_token = 30 }
  t.eq(retry.min_useful(default, 60), 9)
  t.eq(retry.min_useful(default, 600), 9)
  t.eq(retry.min_useful(default, 10), 5, "a short deadline allows retries, too")
  t.eq(retry.min_useful(default, 1.5), 1)
  t.eq(retry.min_useful({ connect = 0.1, first_token = 1 }, 60), 1, "at least a second")
end)

T.test("no wait beyond the patience of who has another step", function(t)
  local e = err("rate_limited", { retry_after = 5 })
  t.eq(retry.delay(e, 1, DEFAULT, 0, nil, nil, 4.9), nil)
  t.eq(retry.delay(e, 1, DEFAULT, 0, nil, nil, 5), 5)
  t.eq(retry.delay(err "server", 1, DEFAULT, 1, nil, nil, 0.4), nil)
  t.eq(retry.delay(err "server", 1, DEFAULT, 0.5, nil, nil, 0.4), 0.25)
end)

T.done()
