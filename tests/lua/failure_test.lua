-- What failed replies mean: bodies as providers send them -> kind, words, code, when to come back.
-- luacheck: no max line length (bodies stand as on the wire, cases on one line)
local T = require "harness"
local json = require "sluice.json"
local failure = require "sluice.provider.failure"
local limits = require "sluice.provider.limits"
local retry_after = require "sluice.provider.retry_after"
local times = require "sluice.provider.times"

local HTML = { ["content-type"] = "text/html; charset=utf-8" }

-- name, status, headers, body, what the fields must be (a message may be a Lua pattern in `like`)
local CASES = {
  -- OpenAI
  { "openai: wrong key", 401, { ["x-request-id"] = "req_1" },
    [[{"error":{"message":"Incorrect API key provided: sk-abcdefghij*********6789. You can find your API key at https://platform.openai.com.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}]],
    { kind = "auth", code = "invalid_api_key", request_id = "req_1", status = 401 },
    like = "^Incorrect API key provided: sk%-%[redacted%]" },
  { "openai: rate limit", 429, { ["retry-after"] = "2" },
    [[{"error":{"message":"Rate limit reached for gpt-x in organization org-1 on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}]],
    { kind = "rate_limited", code = "rate_limit_exceeded", retry_after = 2 } },
  { "openai: rate limit, the time only in the words", 429, {},
    [[{"error":{"message":"Rate limit reached for gpt-x on requests per min (RPM): Limit 3. Please try again in 1m2.5s.","type":"requests","code":"rate_limit_exceeded"}}]],
    { kind = "rate_limited", retry_after = 62.5 } },
  { "openai: limit per day", 429, {},
    [[{"error":{"message":"Rate limit reached for gpt-x on requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.","type":"requests","code":"rate_limit_exceeded"}}]],
    { kind = "quota", code = "daily_limit", retry_after = 432 } },
  { "openai: no money", 429, {},
    [[{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}]],
    { kind = "quota", code = "insufficient_quota" } },
  { "openai: no credit, the type is the older word", 429, {},
    [[{"error":{"message":"Your credit balance is exhausted.","type":"insufficient_quota","code":"credit_balance_exhausted"}}]],
    { kind = "quota", code = "credit_balance_exhausted" } },
  { "openai: slow down", 503, {}, [[{"error":{"message":"Slow down","type":"server_error","code":"slow_down"}}]],
    { kind = "overloaded", code = "slow_down" } },
  { "openai: overloaded", 503, {},
    [[{"error":{"message":"The server is overloaded.","type":"service_unavailable_error","code":"server_is_overloaded"}}]],
    { kind = "overloaded" } },
  { "openai: server error", 500, {},
    [[{"error":{"message":"The server had an error while processing your request.","type":"server_error","param":null,"code":null}}]],
    { kind = "server", code = "server_error" } },
  { "openai: context length", 400, {},
    [[{"error":{"message":"This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}]],
    { kind = "invalid", code = "context_length" } },
  { "openai: too large a max_tokens is not the context", 400, {},
    [[{"error":{"message":"max_tokens is too large: 100000. This model supports at most 16384 completion tokens.","type":"invalid_request_error","param":"max_tokens","code":"invalid_value"}}]],
    { kind = "invalid", code = "invalid_value" } },
  { "openai: unknown model", 404, {},
    [[{"error":{"message":"The model `gpt-9` does not exist or you do not have access to it.","type":"invalid_request_error","param":null,"code":"model_not_found"}}]],
    { kind = "invalid", code = "model_not_found", hint = "check base_url and the model's name" } },
  { "openai: policy", 400, {},
    [[{"error":{"message":"Your request was rejected as a result of our safety system.","type":"image_generation_user_error","code":"content_policy_violation"}}]],
    { kind = "filtered", code = "content_policy_violation" } },
  { "azure: filter", 400, { ["x-ms-region"] = "x", ["apim-request-id"] = "y" },
    [[{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{}}}}]],
    { kind = "filtered", code = "ResponsibleAIPolicyViolation" } },
  { "azure: 429 with the time in the words", 429, {},
    [[{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation have exceeded call rate limit. Please retry after 7 seconds."}}]],
    { kind = "rate_limited", retry_after = 7 } },
  { "openai: conflict", 409, {}, [[{"error":{"message":"conflict","type":"conflict_error"}}]], { kind = "server" } },
  { "openai: request timeout", 408, {}, [[{"error":{"message":"Request timed out"}}]], { kind = "server" } },
  { "openai: 422", 422, {}, [[{"error":{"message":"bad","type":"invalid_request_error"}}]], { kind = "invalid" } },
  { "openai: 403 country", 403, {},
    [[{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported","param":null,"type":"request_forbidden"}}]],
    { kind = "auth", code = "unsupported_country_region_territory" } },
  -- Anthropic
  { "anthropic: overloaded", 529, { ["request-id"] = "req_a" },
    [[{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_b"}]],
    { kind = "overloaded", message = "Overloaded", code = "overloaded_error", request_id = "req_a" } },
  { "anthropic: the id only in the body", 500, {},
    [[{"type":"error","error":{"type":"api_error","message":"Internal server error"},"request_id":"req_b"}]],
    { kind = "server", code = "api_error", request_id = "req_b" } },
  { "anthropic: 500 that says overloaded", 500, {},
    [[{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}]], { kind = "overloaded" } },
  { "anthropic: rate limit", 429, { ["retry-after"] = "17" },
    [[{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 40,000 input tokens per minute."}}]],
    { kind = "rate_limited", code = "rate_limit_error", retry_after = 17 } },
  { "anthropic: spend cap, no retry-after", 429, {},
    [[{"type":"error","error":{"type":"rate_limit_error","message":"You have reached your limit.","details":{"error_code":"enforced_spend_limit_reached"}}}]],
    { kind = "quota", code = "enforced_spend_limit_reached" } },
  { "anthropic: an unknown spend cap", 429, {},
    [[{"type":"error","error":{"type":"rate_limit_error","message":"Limit.","details":{"error_code":"team_spend_limit_reached"}}}]],
    { kind = "quota" } },
  { "anthropic: billing", 402, {}, [[{"type":"error","error":{"type":"billing_error","message":"Pay first."}}]],
    { kind = "quota" } },
  { "anthropic: no credit comes as 400", 400, {},
    [[{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}]],
    { kind = "quota" } },
  { "anthropic: prompt too long", 400, {},
    [[{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 205422 tokens > 200000 maximum"}}]],
    { kind = "invalid", code = "context_length" } },
  { "anthropic: request too large", 413, {},
    [[{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}]],
    { kind = "invalid", code = "request_too_large" } },
  { "anthropic: output blocked", 400, {},
    [[{"type":"error","error":{"type":"invalid_request_error","message":"Output blocked by content filtering policy"}}]],
    { kind = "filtered" } },
  { "anthropic: key", 401, {},
    [[{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}]], { kind = "auth" } },
  { "anthropic: permission", 403, {},
    [[{"type":"error","error":{"type":"permission_error","message":"Not allowed"}}]], { kind = "auth" } },
  { "anthropic: timeout", 504, {}, [[{"type":"error","error":{"type":"timeout_error","message":"Timed out"}}]],
    { kind = "server" } },
  -- SiliconFlow
  { "siliconflow: no such model", 400, { ["x-siliconcloud-trace-id"] = "ti_1" },
    [[{"code":20012,"message":"Model does not exist. Please check it carefully.","data":null}]],
    { kind = "invalid", code = "20012", message = "Model does not exist. Please check it carefully.", request_id = "ti_1" } },
  { "siliconflow: bare string", 401, {}, [["Invalid token"]], { kind = "auth", message = "Invalid token" } },
  { "siliconflow: bare string without quotes", 401, {}, "Api key is invalid",
    { kind = "auth", message = "Api key is invalid" } },
  { "siliconflow: balance", 403, {},
    [[{"code":30001,"message":"Sorry, your account balance is insufficient","data":null}]], { kind = "quota", code = "30001" } },
  { "siliconflow: forbidden", 403, {}, [["Forbidden"]], { kind = "auth", message = "Forbidden" } },
  { "siliconflow: wrong path", 404, {}, [["404 page not found"]], { kind = "invalid", message = "404 page not found" } },
  { "siliconflow: blocked", 451, {}, [[{"code":20021,"message":"Content blocked","data":null}]],
    { kind = "filtered", code = "20021" } },
  { "siliconflow: TPM", 429, {},
    [[{"message":"Request was rejected due to rate limiting. If you want more, please contact contact@siliconflow.cn. Details:TPM limit reached.","data":null}]],
    { kind = "rate_limited" }, like = "TPM limit reached" },
  { "siliconflow: RPD lasts until tomorrow", 429, {},
    [[{"message":"Request was rejected due to rate limiting. Details:RPD limit reached.","data":null}]],
    { kind = "quota", code = "daily_limit" } },
  { "siliconflow: TPD too", 429, {},
    [[{"message":"Request was rejected due to rate limiting. Details:TPD limit reached.","data":null}]],
    { kind = "quota", code = "daily_limit" } },
  { "siliconflow: RPH passes", 429, {},
    [[{"message":"Request was rejected due to rate limiting. Details:RPH limit reached.","data":null}]],
    { kind = "rate_limited" } },
  { "siliconflow: overloaded", 503, {},
    [[{"code":50505,"message":"Model service overloaded. Please try again later.","data":null}]],
    { kind = "overloaded", code = "50505" } },
  { "siliconflow: gateway timeout", 504, {}, [["Gateway Timeout"]], { kind = "server", message = "Gateway Timeout" } },
  { "siliconflow: sequence too long", 400, {},
    [[{"code":20015,"message":"length of prompt_tokens (40000) must be less than max_seq_len (32768).","data":null}]],
    { kind = "invalid", code = "context_length" } },
  { "siliconflow: its anthropic endpoint", 400, {},
    [[{"type":"error","error":{"type":"invalid_request_error","message":"模型配置不存在: x"}}]],
    { kind = "invalid", message = "模型配置不存在: x" } },
  -- others
  { "deepseek: balance", 402, {},
    [[{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}]],
    { kind = "quota" } },
  { "vllm", 400, {},
    [[{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","param":null,"code":404}]],
    { kind = "invalid", code = "NotFoundError", status = 400 } },
  { "openrouter: number as code, upstream's words in metadata", 502, {},
    [[{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"{\"error\":{\"message\":\"CUDA out of memory\"}}","provider_name":"DeepInfra"}},"user_id":"u"}]],
    { kind = "server", message = "Provider returned error (DeepInfra: CUDA out of memory)" } },
  { "openrouter: upstream's words as plain text", 429, {},
    [[{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"model is temporarily rate-limited upstream","provider_name":"Chutes"}}}]],
    { kind = "rate_limited", message = "Provider returned error (Chutes: model is temporarily rate-limited upstream)" } },
  { "openrouter: moderation", 403, {},
    [[{"error":{"code":403,"message":"Your input was flagged by moderation","metadata":{"reasons":["violence"],"flagged_input":"…","provider_name":"OpenAI"}}}]],
    { kind = "filtered" }, like = "violence" },
  { "openrouter: credits", 402, {}, [[{"error":{"code":402,"message":"Insufficient credits"}}]], { kind = "quota" } },
  { "ollama", 404, {}, [[{"error":"model 'llama9' not found, try pulling it first"}]],
    { kind = "invalid", message = "model 'llama9' not found, try pulling it first" } },
  { "ollama: openai form", 404, {},
    [[{"error":{"message":"model not found","type":"api_error","param":null,"code":null}}]], { kind = "invalid" } },
  { "fastapi: one detail", 404, {}, [[{"detail":"Not Found"}]], { kind = "invalid", message = "Not Found" } },
  { "fastapi: a list of details", 422, {},
    [[{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required","input":{}},{"loc":["body",0],"msg":"no"}]}]],
    { kind = "invalid", message = "body.messages: Field required; body.0: no" } },
  { "moonshot: quota", 429, {},
    [[{"error":{"message":"Your account is not active, current state: exceeded","type":"exceeded_current_quota_error"}}]],
    { kind = "quota" } },
  { "google: per minute, with the delay in the details", 429, {},
    [=[[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"13s"}]}}]]=],
    { kind = "rate_limited", retry_after = 13, code = "RESOURCE_EXHAUSTED" } },
  { "google: key", 400, {},
    [=[[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]]=],
    { kind = "auth" } },
  { "alibaba: inspection", 400, {},
    [[{"code":"DataInspectionFailed","message":"Input data may contain inappropriate content.","request_id":"r"}]],
    { kind = "filtered", request_id = "r" } },
  { "one-api: quota in Chinese", 403, {},
    [[{"error":{"message":"用户余额不足 (request id: 2026)","type":"new_api_error","param":"","code":""}}]], { kind = "quota" } },
  { "oauth", 401, {}, [[{"error":"invalid_token","error_description":"The access token expired"}]],
    { kind = "auth", code = "invalid_token", message = "The access token expired" } },
  { "spring", 404, {}, [[{"timestamp":"2026-01-01","status":404,"error":"Not Found","path":"/v1/x"}]],
    { kind = "invalid", message = "Not Found" } },
  { "a rate limit under another status", 403, {}, [[{"error":{"message":"slow","code":"rate_limit_exceeded"}}]], { kind = "rate_limited" } },
  { "a key's fault under another status", 400, {}, [[{"error":{"message":"no","code":"invalid_api_key"}}]], { kind = "auth" } },
  { "a filter's fault under another status", 403, {}, [[{"error":{"message":"no","code":"content_filter"}}]], { kind = "filtered" } },
  { "no credit under another status", 403, {}, [[{"error":{"message":"no","type":"billing_error"}}]], { kind = "quota" } },
  { "policy words do not make a wrong key filtered", 401, {}, [[{"error":{"message":"key disabled under our usage policies"}}]], { kind = "auth" } },
  { "limits per day in words", 429, {}, [[{"error":{"message":"You have used your daily allowance"}}]], { kind = "quota", code = "daily_limit" } },
  { "free models per day", 429, {}, [[{"error":{"message":"Rate limit exceeded: free-models-per-day","code":429}}]], { kind = "quota" } },
  { "a daily limit that passes soon", 429, { ["retry-after"] = "20" }, [[{"message":"RPD limit reached."}]], { kind = "rate_limited" } },
  { "bytes that are not UTF-8", 500, {}, "{\"message\":\"\xC4\xE3\"}", { kind = "server", message = "\u{FFFD}\u{FFFD}" } },
  -- proxies
  { "nginx", 502, HTML,
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n",
    { kind = "server", message = "502 Bad Gateway" } },
  { "nginx: body too large", 413, HTML, "<html><head><title>413 Request Entity Too Large</title></head></html>",
    { kind = "invalid", message = "413 Request Entity Too Large" } },
  { "cloudflare, with entities", 524, HTML, "<!DOCTYPE html><html><head><title>\n  api.x.com | 524: A timeout &amp; more\n</title></head></html>",
    { kind = "server", message = "api.x.com | 524: A timeout & more" } },
  { "html without a title, without a content type", 403, {},
    "<html><head><style>b{color:red}</style><script>var x = 1</script></head><body><b>Access</b> denied by <i>policy</i></body></html>",
    { kind = "auth", message = "Access denied by policy" } },
  { "a login page that says 200", 200, HTML, "<!doctype html><html><head><title>Sign in</title></head></html>",
    { kind = "protocol", message = "Sign in", code = "not_a_reply",
      hint = "a web page, not a reply of the API: check base_url, and what stands in between (a proxy, a login)" } },
  { "a stream that was not asked for", 200, { ["content-type"] = "text/event-stream" }, 'data: {"choices":[]}\n\n',
    { kind = "protocol", code = "not_a_reply", hint = "an event stream where one whole reply was asked for" } },
  { "JSON of something else", 200, {}, '{"hello":"world"}',
    { kind = "protocol", message = '{"hello":"world"}', hint = "not a reply of the API: check base_url and protocol" } },
  { "envoy", 503, { ["content-type"] = "text/plain" },
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
    { kind = "overloaded" }, like = "^upstream connect error" },
  { "s3-like xml", 403, {}, "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>No.</Message></Error>",
    { kind = "auth", message = "AccessDenied No." } },
  -- empty and broken
  { "empty", 500, {}, "", { kind = "server", message = "the reply is empty" } },
  { "white space", 502, {}, " \r\n", { kind = "server", message = "the reply is empty" } },
  { "no body at all", 529, {}, nil, { kind = "overloaded" } },
  { "an empty 200", 200, {}, "", { kind = "protocol" } },
  { "an empty object", 400, {}, "{}", { kind = "invalid", message = "{}" } },
  { "null error", 400, {}, [[{"error":null}]], { kind = "invalid" } },
  { "broken JSON", 500, {}, [[{"error":{"message":"cut o]], { kind = "server" }, like = "^{\"error\"" },
  { "a JSON list", 400, {}, "[1,2]", { kind = "invalid", message = "[1,2]" } },
  { "a number", 400, {}, "42", { kind = "invalid", message = "42" } },
  { "BOM first", 400, {}, "\xEF\xBB\xBF" .. [[{"error":{"message":"x"}}]], { kind = "invalid", message = "x" } },
  { "a redirect", 301, { location = "https://me:secret@www.example.com/login?x=1" }, "",
    { kind = "invalid", hint = "the server redirects to https://www.example.com: check base_url" } },
  { "a relative redirect", 302, { location = "/login" }, "",
    { kind = "invalid", hint = "the server redirects to another path: check base_url" } },
  { "error inside a 200 body", 200, {}, [[{"error":{"message":"Overloaded","code":503}}]],
    { kind = "overloaded", status = 503, message = "Overloaded" } },
  { "other 4xx", 405, {}, "Method Not Allowed", { kind = "invalid", hint = "check base_url" } },
  { "proxy wants a login", 407, {}, "", { kind = "auth" } },
  -- orders
  { "x-should-retry: false", 500, { ["x-should-retry"] = "false" }, "", { kind = "server", should_retry = false } },
  { "x-should-retry: true", 400, { ["x-should-retry"] = "true" }, "", { kind = "invalid", should_retry = true } },
  { "x-should-retry: nonsense", 500, { ["x-should-retry"] = "maybe" }, "", { kind = "server" } },
}

T.test("bodies as they come", function(t)
  for _, case in ipairs(CASES) do
    local got = failure.parse(case[2], case[3], case[4])
    local picked = {}
    for key in pairs(case[5]) do picked[key] = got[key] end
    t.eq(picked, case[5], case[1])
    t.ok(T.kinds[got.kind], case[1] .. ": kind")
    t.ok(type(got.message) == "string" and got.message ~= "", case[1] .. ": message")
    if case[5].should_retry == nil then t.eq(got.should_retry, nil, case[1]) end
    if case.like then t.match(got.message, case.like) end
  end
end)

T.test("every status has a kind, whatever the body", function(t)
  for status = 300, 599 do
    for _, body in ipairs { "", "{}", "x", [["x"]], [[{"error":{"message":"m","type":"t","code":"c"}}]], "<p>x" } do
      local fields = failure.parse(status, {}, body)
      t.ok(T.kinds[fields.kind], status)
      t.eq(fields.status, status)
    end
  end
end)

T.test("keys do not pass", function(t)
  for _, body in ipairs {
    [[{"error":{"message":"Incorrect API key provided: sk-proj-AbCdEf0123456789abcdef"}}]],
    [["Invalid token: Bearer eyJhbGciOi.abc-def_0123456789"]],
    [[{"error":{"message":"GET https://x/y?api_key=abcdef0123456789&z=1 failed"}}]],
    "plain sk-ant-api03-abcdef0123456789",
    "<html><title>sk-abcdef0123456789abcdef</title></html>",
  } do
    local message = failure.parse(401, {}, body).message
    t.ok(not message:find("0123456789", 1, true), message)
    t.match(message, "%[redacted%]")
  end
  local kept = failure.parse(400, {}, [["a task-force of risk-takers asks: ask-me-anything-else"]]).message
  t.eq(kept, "a task-force of risk-takers asks: ask-me-anything-else")
end)

T.test("a long message is kept within bounds, at a whole character", function(t)
  local fields = failure.parse(400, {}, json.encode { error = { message = ("好"):rep(5000) } })
  t.ok(#fields.message < 4200)
  t.ok(utf8.len(fields.message))
  fields = failure.parse(500, {}, ("x"):rep(1e6))
  t.ok(#fields.message < 300)
end)

local IN_STREAM = {
  { [[{"error":{"message":"boom","type":"server_error"}}]], nil, { kind = "server", message = "boom" } },
  { [[{"error":{"message":"slow","code":429}}]], nil, { kind = "rate_limited", status = 429 } },
  { [[{"error":"CUDA error"}]], nil, { kind = "server", message = "CUDA error" } },
  { [[{"object":"error","message":"Bad prompt","type":"BadRequestError","param":null,"code":400}]], nil,
    { kind = "invalid", status = 400 } },
  { [[{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}]], "error",
    { kind = "overloaded", message = "Overloaded" } },
  { [[{"type":"error","error":{"type":"rate_limit_error","message":"Slow"}}]], "error", { kind = "rate_limited" } },
  { [[{"type":"error","error":{"type":"invalid_request_error","message":"No"}}]], "error", { kind = "invalid" } },
  { [[{"message":"Something"}]], "error", { kind = "server", message = "Something" } },
  { [[{"code":50505,"message":"Model service overloaded.","data":null}]], nil, { kind = "overloaded", code = "50505" } },
  { [[{"id":"gen-1","object":"chat.completion.chunk","error":{"code":502,"message":"Provider disconnected"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}]],
    nil, { kind = "server", status = 502, message = "Provider disconnected" } },
  { [[{"error":{"message":"The content was blocked","code":"content_filter"}}]], nil, { kind = "filtered" } },
  { [[{"error":{"message":"maximum context length is 10","code":400}}]], nil, { kind = "invalid", code = "context_length" } },
  { [[{"error":{"message":"","code":""}}]], nil, { kind = "server" } },
}
T.test("errors inside a 200", function(t)
  for _, case in ipairs(IN_STREAM) do
    local got = failure.in_stream(json.decode(case[1]), case[2])
    t.ok(got, case[1])
    local picked = {}
    for key in pairs(case[3]) do picked[key] = (got or {})[key] end
    t.eq(picked, case[3], case[1])
  end
end)

T.test("what is no error is not taken for one", function(t)
  for _, text in ipairs {
    [[{"choices":[],"error":null}]], [[{"choices":[],"error":{}}]], [[{"type":"ping"}]],
    [[{"type":"message_start","message":{"id":"m"}}]], [[{"id":"x","object":"chat.completion.chunk","choices":[]}]],
    [[{}]], [[{"choices":[{"delta":{"content":"error"}}]}]], [[{"content":[],"message":"x"}]],
  } do
    t.eq(failure.in_stream(json.decode(text)), nil, text)
  end
end)

-- Retry-After: the table of openai-python's tests, and more ----------------------------------------

local DATE = "Fri, 29 Sep 2023 16:26:27 GMT"
local RETRY = {
  { { ["retry-after"] = "20" }, 20 },
  { { ["retry-after"] = "1.5" }, 1.5 },
  { { ["retry-after"] = " 20 " }, 20 },
  { { ["retry-after"] = "0" }, nil },
  { { ["retry-after"] = "-10" }, nil },
  { { ["retry-after"] = "60" }, 60 },
  { { ["retry-after"] = "120" }, 120 },
  { { ["retry-after"] = "121" }, 121 },
  { { ["retry-after"] = "" }, nil },
  { { ["retry-after"] = "inf" }, nil },
  { { ["retry-after"] = "nan" }, nil },
  { { ["retry-after"] = "0x10" }, nil },
  { { ["retry-after"] = ("9"):rep(400) }, nil },
  { { ["retry-after"] = "99999999999999999999999999999999999" }, 1e35 },
  { { ["retry-after"] = "Zun, 29 Sep 2023 16:26:27 GMT", date = "Fri, 29 Sep 2023 16:26:07 GMT" }, 20 },
  { { ["retry-after"] = "Fri, 29 Sep 2023 16:26:57 GMT", date = DATE }, 30 },
  { { ["retry-after"] = "Fri, 29 Sep 2023 16:26:27 GMT", date = DATE }, nil },
  { { ["retry-after"] = "Fri, 29 Sep 2023 16:26:17 GMT", date = DATE }, nil },
  { { ["retry-after"] = "Fri, 29 Sep 2023 16:27:37 GMT", date = DATE }, 70 },
  { { ["retry-after"] = "Sun, 01 Oct 2023 00:00:00 GMT", date = "Sat, 30 Sep 2023 23:59:58 GMT" }, 2 },
  { { ["retry-after"] = "Fri, 29 Sep 2023 16:26:57 GMT" }, nil },
  { { ["retry-after"] = "Fri, 99 Sep 2023 99:26:57 GMT", date = DATE }, nil },
  { { ["retry-after"] = "soon", date = DATE }, nil },
  { { ["retry-after-ms"] = "1500", ["retry-after"] = "20" }, 1.5 },
  { { ["retry-after-ms"] = "0", ["retry-after"] = "20" }, 20 },
  { { ["retry-after-ms"] = "x", ["retry-after"] = "20" }, 20 },
  { { ["retry-after"] = { "3", "9" } }, 3 },
  { {}, nil },
}
T.test("retry-after", function(t)
  for i, case in ipairs(RETRY) do
    t.eq(retry_after.parse(case[1]), case[2], ("case %d: %s"):format(i, case[1]["retry-after"]))
  end
  t.eq(retry_after.parse({ ["retry-after"] = "Fri, 29 Sep 2023 16:26:57 GMT" }, times.http_date(DATE)), 30)
end)

T.test("retry-after in words", function(t)
  for text, want in pairs {
    ["Please try again in 20s."] = 20, ["try again in 6m0s"] = 360, ["Please try again in 120ms. Visit"] = 0.12,
    ["please retry after 7 seconds"] = 7, ["Try again in 30 seconds."] = 30, ["retry after 2.5 sec"] = 2.5,
    ["Please retry in 13.2s."] = 13.2,
  } do t.near(retry_after.from_text(text) or -1, want, 1e-9) end
  for _, text in ipairs { "", "try again later", "try again in a while", "try again in 0s" } do
    t.eq(retry_after.from_text(text), nil, text)
  end
end)

T.test("dates and durations", function(t)
  t.eq(times.http_date("Sun, 06 Nov 1994 08:49:37 GMT"), 784111777)
  t.eq(times.http_date("Sunday, 06-Nov-94 08:49:37 GMT"), 784111777)
  t.eq(times.http_date("Sun Nov  6 08:49:37 1994"), 784111777)
  t.eq(times.http_date("Thu, 01 Jan 1970 00:00:00 GMT"), 0)
  t.eq(times.http_date("Tue, 29 Feb 2000 12:00:00 GMT"), 951825600)
  t.eq(times.http_date("Thu, 31 Dec 2099 23:59:59 GMT"), 4102444799)
  t.eq(times.http_date("Sat, 31 Dec 2016 23:59:60 GMT"), 1483228800, "a leap second")
  t.eq(times.http_date("Monday, 01-Jan-70 00:00:00 GMT"), 0)
  t.eq(times.http_date("Monday, 01-Jan-69 00:00:00 GMT"), 3124224000, "2069")
  for _, text in ipairs { "Sun, 06 Nov 1994 24:00:00 GMT", "Sun, 06 Nov 1994 00:60:00 GMT", "Sun, 06 Nov 1994 00:00:61 GMT",
    "Sun, 32 Jan 1994 00:00:00 GMT", "Sun, 00 Jan 1994 00:00:00 GMT", "", "x", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Foo 1994 08:49:37 GMT", "06 Nov 1994" } do
    t.eq(times.http_date(text), nil, text)
  end
  t.eq(times.rfc3339("2025-08-21T12:40:59Z"), 1755780059)
  t.eq(times.rfc3339("2025-08-21T14:40:59+02:00"), 1755780059)
  t.near(times.rfc3339("2025-08-21T12:40:59.25Z"), 1755780059.25, 1e-6)
  for _, text in ipairs { "", "2025-08-21", "2025-13-21T12:40:59Z", "2025-08-21T12:40:59" } do
    t.eq(times.rfc3339(text), nil, text)
  end
  for text, want in pairs { ["12ms"] = 0.012, ["1s"] = 1, ["6m0s"] = 360, ["1m30.5s"] = 90.5, ["1h2m3s"] = 3723,
    ["0"] = 0, ["59"] = 59, ["17.5"] = 17.5, ["1d"] = 86400 } do
    t.near(times.duration(text) or -1, want, 1e-9)
  end
  for _, text in ipairs { "", "s", "1x", "-1s", "1s2", "soon" } do t.eq(times.duration(text), nil, text) end
end)

T.test("rate limits of headers", function(t)
  t.eq(limits.parse {}, nil)
  t.eq(limits.parse { ["x-ratelimit-limit-requests"] = "60", ["x-ratelimit-remaining-requests"] = "59",
    ["x-ratelimit-reset-requests"] = "1s", ["x-ratelimit-limit-tokens"] = "150000",
    ["x-ratelimit-remaining-tokens"] = "149984", ["x-ratelimit-reset-tokens"] = "6m0s" },
    { requests = { limit = 60, remaining = 59, reset = 1 }, tokens = { limit = 150000, remaining = 149984, reset = 360 } })
  t.eq(limits.parse { ["x-ratelimit-limit-requests"] = "-1", ["x-ratelimit-remaining-requests"] = "-1" }, nil)
  t.eq(limits.parse { ["x-ratelimit-remaining-requests"] = "9", ["x-ratelimit-limit-requests"] = "0",
    ["x-ratelimit-reset-requests"] = "30" }, { requests = { remaining = 9, reset = 30 } })
  t.eq(limits.parse { date = "Thu, 21 Aug 2025 12:40:29 GMT", ["anthropic-ratelimit-input-tokens-limit"] = "40000",
    ["anthropic-ratelimit-input-tokens-remaining"] = "0", ["anthropic-ratelimit-input-tokens-reset"] = "2025-08-21T12:40:59Z",
    ["anthropic-ratelimit-requests-remaining"] = "5", ["anthropic-ratelimit-requests-reset"] = "2025-08-21T12:40:00Z" },
    { input_tokens = { limit = 40000, remaining = 0, reset = 30 }, requests = { remaining = 5, reset = 0 } })
end)

T.done()
