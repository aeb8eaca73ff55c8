--- What a failed reply means: the kind, the provider's own words, its code, when to come back.
-- Owns: the shapes of error bodies in the wild and the rules that turn them into a kind.
-- Never: does I/O, retries, or re-words what the provider said.
-- Reading order: extract (shapes) -> judge (kind) -> parse, in_stream (the two doors).
--
-- Sources: the error pages of OpenAI, Anthropic, SiliconFlow and OpenRouter, and bodies seen in the
-- wild (tests/lua/failure_test.lua has one of each). Both protocols share this file, since
-- gateways answer either with bodies of the other, and proxies with HTML.

local errors = require "sluice.errors"
local json = require "sluice.json"
local retry_after = require "sluice.provider.retry_after"
local times = require "sluice.provider.times"

local MESSAGE_MAX = 4096  -- bytes of the provider's words that are kept
local EXCERPT_MAX = 200   -- bytes shown of a body that is no error message
local SCAN_MAX = 64 << 10 -- bytes of a body that are looked at when it is not JSON
local SHORT_WAIT = 60     -- seconds; a limit that passes sooner is worth waiting for

local REPAIR = { repair = true } -- bytes that are not UTF-8 must not hide what the rest says

local failure = {}

-- Words ------------------------------------------------------------------------------------------

--- Providers quote the key they refuse. What looks like one is masked before anything is kept.
local function scrub(text)
  text = text:gsub("%f[%w_]sk%-[%w_%-%*%.]+", function(key) return #key >= 12 and "sk-[redacted]" or nil end)
  text = text:gsub("([Bb]earer%s+)[%w%._~+/=*-]+", function(word) return word .. "[redacted]" end)
  return (text:gsub("([?&][%w_]*[Kk][Ee][Yy]=)[^&%s\"']+", "%1[redacted]"))
end

local function words(text)
  text = scrub(errors.scrub(text)):gsub("^%s+", ""):gsub("%s+$", "")
  if #text <= MESSAGE_MAX then return text end
  local last = MESSAGE_MAX
  while last > 0 and text:byte(last + 1) & 0xC0 == 0x80 do last = last - 1 end
  return text:sub(1, last) .. "…"
end

local function excerpt(text)
  return errors.one_line(scrub(errors.scrub(text):sub(1, 4 * EXCERPT_MAX)), EXCERPT_MAX)
end

local ENTITIES = { amp = "&", lt = "<", gt = ">", quot = '"', apos = "'", nbsp = " ", ["#39"] = "'" }

--- The title of an HTML page, or its first words.
local function html_words(body)
  local lower = body:lower()
  local from, to = lower:match("<title[^>]*>()[^<]-()</title>")
  local text = from and body:sub(from, to - 1) or ""
  if not text:find("%S") then
    text = body:gsub("<!%-%-.-%-%->", " "):gsub("<[Ss][Cc][Rr][Ii][Pp][Tt].->.-</[Ss][Cc][Rr][Ii][Pp][Tt]>", " ")
      :gsub("<[Ss][Tt][Yy][Ll][Ee].->.-</[Ss][Tt][Yy][Ll][Ee]>", " "):gsub("<[^>]*>", " ")
  end
  return excerpt((text:gsub("&(#?%w+);", ENTITIES)))
end

local function is_html(headers, body)
  local kind = headers["content-type"]
  if type(kind) == "string" and kind:lower():find("html", 1, true) then return true end
  return body:find("^%s*<[!%?]?%a") ~= nil
end

-- Shapes ------------------------------------------------------------------------------------------

---@class sluice.ErrorInfo
---@field message? string
---@field code? string
---@field type? string
---@field status? integer     a status named inside the body
---@field request_id? string
---@field retry_after? number

local function string_of(v)
  if type(v) == "string" and v ~= "" then return v end
  if type(v) == "number" then
    local n = math.tointeger(v)
    return n and tostring(n) or tostring(v)
  end
  return nil
end

local function text_of(v)
  return type(v) == "string" and v ~= "" and v or nil
end

--- FastAPI's and others' lists of faults: { { loc = {"body", "messages"}, msg = "field required" } }.
local function join_faults(list)
  local texts = {}
  for _, fault in ipairs(list) do
    if type(fault) == "string" then texts[#texts + 1] = fault
    elseif type(fault) == "table" then
      local text = text_of(fault.msg) or text_of(fault.message)
      if text and type(fault.loc) == "table" then
        local place = {}
        for i, step in ipairs(fault.loc) do place[i] = string_of(step) or "?" end
        text = table.concat(place, ".") .. ": " .. text
      end
      texts[#texts + 1] = text
    end
  end
  return #texts > 0 and table.concat(texts, "; ") or nil
end

local extract

--- OpenRouter: "Provider returned error" says nothing, the words of the vendor behind it are in
--- metadata.raw, itself often JSON.
local function upstream_words(metadata)
  if type(metadata) ~= "table" then return nil end
  local raw = metadata.raw
  if type(raw) == "string" then
    local ok, decoded = pcall(json.decode, raw)
    if ok and type(decoded) == "table" then raw = decoded end
  end
  local text = type(raw) == "table" and (extract(raw).message) or text_of(raw)
  if not text and type(metadata.reasons) == "table" then text = join_faults(metadata.reasons) end
  if not text then return nil end
  local name = text_of(metadata.provider_name)
  return name and ("%s: %s"):format(name, text) or text
end

--- Google's RetryInfo stands in a list of details.
local function retry_delay(details)
  if type(details) ~= "table" then return nil end
  for _, detail in ipairs(details) do
    local delay = type(detail) == "table" and text_of(detail.retryDelay)
    if delay then return times.duration(delay) end
  end
  return nil
end

--- Reads the table that holds the message, whatever stands around it.
local function read(e, info)
  local message = text_of(e.message) or text_of(e.msg) or text_of(e.error_msg) or text_of(e.detail)
    or text_of(e.error_description) or text_of(e.title)
  if not message then
    for _, name in ipairs { "message", "detail", "errors" } do
      local v = e[name]
      if type(v) == "table" then
        message = v[1] and join_faults(v) or text_of(v.message) or text_of(v.msg)
        if message then break end
      end
    end
  end
  local upstream = upstream_words(e.metadata)
  if upstream then message = message and ("%s (%s)"):format(message, upstream) or upstream end
  info.message = message
  local details, inner = e.details, e.innererror
  local code = type(details) == "table" and string_of(details.error_code)
    or type(inner) == "table" and string_of(inner.code) or string_of(e.code) or string_of(e.error_code)
  local number = math.tointeger(tonumber(code))
  if number and number >= 400 and number <= 599 then
    info.status, code = number, nil -- a status in disguise (OpenRouter, vLLM)
  end
  info.code = code
  info.type = text_of(e.type) or text_of(e.error_type) or text_of(e.status)
  info.retry_after = retry_delay(details)
end

--- Finds the parts of a decoded error body of any vendor.
---@param decoded any
---@return sluice.ErrorInfo
function extract(decoded)
  local info = {}
  if type(decoded) == "string" then
    info.message = decoded ~= "" and decoded or nil -- SiliconFlow: "Invalid token"
    return info
  end
  if type(decoded) ~= "table" then return info end
  if type(decoded[1]) == "table" and decoded.error == nil then decoded = decoded[1] end -- Google: a list of one
  local e = decoded.error
  if type(e) == "table" and next(e) ~= nil then
    read(e, info)
    if not info.message then info.message = text_of(decoded.message) end
  elseif type(e) == "string" and e ~= "" then
    -- { error = "words" } (Ollama), or OAuth's { error = "code", error_description = "words" }
    local described = text_of(decoded.error_description) or text_of(decoded.message) or text_of(decoded.detail)
    info.message = described or e
    info.code = described and e or string_of(decoded.code)
    info.type = text_of(decoded.error_type)
  else
    read(decoded, info)
    if info.type == "error" then info.type = nil end
  end
  info.request_id = text_of(decoded.request_id) or text_of(decoded.requestId)
  return info
end

-- Kinds -------------------------------------------------------------------------------------------

--- What a vendor's code or type says by itself (lower case).
local BY_CODE = {
  insufficient_quota = "quota", credit_balance_exhausted = "quota", billing_error = "quota",
  billing_hard_limit_reached = "quota", insufficient_balance = "quota", insufficient_user_quota = "quota",
  insufficient_credits = "quota", quota_exceeded = "quota", exceeded_current_quota_error = "quota",
  payment_required = "quota", arrearage = "quota", enforced_spend_limit_reached = "quota",
  contract_spend_limit_reached = "quota", ["30001"] = "quota",
  content_filter = "filtered", content_policy_violation = "filtered", content_blocked = "filtered",
  data_inspection_failed = "filtered", datainspectionfailed = "filtered", moderation_blocked = "filtered",
  sensitive = "filtered", responsibleaipolicyviolation = "filtered", ["20021"] = "filtered",
  overloaded_error = "overloaded", server_is_overloaded = "overloaded", slow_down = "overloaded",
  engine_overloaded_error = "overloaded", overloaded = "overloaded", ["50505"] = "overloaded",
  rate_limit_error = "rate_limited", rate_limit_exceeded = "rate_limited", too_many_requests = "rate_limited",
  rate_limit_reached_error = "rate_limited", resource_exhausted = "rate_limited",
  api_error = "server", server_error = "server", internal_error = "server", internal_server_error = "server",
  timeout_error = "server", conflict_error = "server", internal = "server", unavailable = "overloaded",
  authentication_error = "auth", invalid_api_key = "auth", permission_error = "auth", unauthorized = "auth",
  invalid_authentication_error = "auth", permission_denied = "auth", api_key_invalid = "auth",
  invalid_request_error = "invalid", not_found_error = "invalid", request_too_large = "invalid",
  badrequesterror = "invalid", model_not_found = "invalid", invalid_argument = "invalid", not_found = "invalid",
  bad_request = "invalid", context_length_exceeded = "invalid", notfounderror = "invalid",
}

--- What the words say, for vendors whose codes do not.
local QUOTA_WORDS = { "insufficient balance", "insufficient_quota", "exceeded your current quota",
  "credit balance is too low", "insufficient credits", "not enough credits", "balance is insufficient",
  "insufficient account balance", "spend limit", "余额不足", "余额已用尽", "欠费" }
local CONTEXT_WORDS = { "maximum context length", "context length exceeded", "context_length_exceeded",
  "context window", "prompt is too long", "input is too long", "max_seq_len", "reduce the length of the messages",
  "maximum prompt length", "exceed context limit",
  "exceeds the context", "上下文长度", "输入长度" }
local FILTER_WORDS = { "content management policy", "content filtering policy", "content policy",
  "content_policy", "content filter", "inappropriate content", "flagged by", "was flagged", "requires moderation",
  "safety system", "usage policies", "sensitive content", "敏感", "违规" }
local KEY_WORDS = { "api key not valid", "invalid api key", "incorrect api key", "api key is invalid" }

local function says(lower, list)
  for _, phrase in ipairs(list) do
    if lower:find(phrase, 1, true) then return true end
  end
  return false
end

--- Limits that last until tomorrow (SiliconFlow's RPD, TPD, IPD; "requests per day").
local function is_daily(message)
  for _, name in ipairs { "RPD", "TPD", "IPD" } do
    if message:find("%f[%w]" .. name .. "%f[%W]") then return true end
  end
  local lower = message:lower()
  return lower:find("per day", 1, true) ~= nil or lower:find("per-day", 1, true) ~= nil
    or lower:find("daily", 1, true) ~= nil
end

local function kind_of_status(status)
  if status == 429 then return "rate_limited" end
  if status == 503 or status == 529 then return "overloaded" end
  if status >= 500 or status == 408 or status == 409 or status == 425 then return "server" end
  if status == 401 or status == 403 or status == 407 then return "auth" end
  if status == 402 then return "quota" end
  if status == 451 then return "filtered" end
  if status >= 300 then return "invalid" end
  return nil
end

--- Which finer kinds may overrule the one a status stands for.
local OVERRULES = {
  rate_limited = { quota = true },
  auth = { quota = true, filtered = true, rate_limited = true },
  invalid = { quota = true, filtered = true, auth = true, rate_limited = true },
  server = { overloaded = true },
  filtered = {}, quota = {}, overloaded = {},
}

--- The kind of a failure, and a code of ours where the kind alone would not tell.
---@param status integer?  HTTP status, or one named in the body; nil when there is none
---@param info sluice.ErrorInfo
---@return sluice.Kind kind, string? code
local function judge(status, info)
  local code, kind_word = (info.code or ""):lower(), (info.type or ""):lower()
  local message = info.message or ""
  local lower = message:lower()
  local named = BY_CODE[code] or BY_CODE[kind_word]
  local kind = status and kind_of_status(status)
  if not kind then
    kind = named or says(lower, KEY_WORDS) and "auth" or "server"
  else
    -- the code first, then the type: "insufficient_quota" may be either
    for _, finer in ipairs { BY_CODE[code] or "", BY_CODE[kind_word] or "" } do
      if OVERRULES[kind][finer] then kind = finer break end
    end
  end
  if kind == "rate_limited" or kind == "invalid" or kind == "auth" then
    local soon = info.retry_after and info.retry_after <= SHORT_WAIT
    if not (kind == "rate_limited" and soon) then
      if says(lower, QUOTA_WORDS) or code:find("spend_limit", 1, true) then return "quota" end
      if kind == "rate_limited" and is_daily(message) then return "quota", "daily_limit" end
    end
  end
  if kind == "invalid" and (code == "context_length_exceeded" or says(lower, CONTEXT_WORDS)) then
    return "invalid", "context_length"
  end
  if (kind == "invalid" or kind == "auth" and status == 403) and says(lower, FILTER_WORDS) then
    return "filtered"
  end
  if kind == "invalid" and says(lower, KEY_WORDS) then return "auth" end
  return kind
end

local ID_HEADERS = { "x-request-id", "request-id", "x-siliconcloud-trace-id", "x-amzn-requestid",
  "x-oneapi-request-id", "cf-ray" }

--- The id support asks for.
---@param headers table<string, string>  lower-case names
---@return string?
function failure.request_id(headers)
  for _, name in ipairs(ID_HEADERS) do
    local v = headers[name]
    if type(v) == "table" then v = v[1] end
    if type(v) == "string" and v ~= "" then return v end
  end
  return nil
end

--- Fields of the error a decoded body describes; for errors inside a reply that said 200.
---@param decoded any
---@return table fields
function failure.from_error(decoded)
  local info = extract(decoded)
  local kind, code = judge(info.status, info)
  return {
    kind = kind,
    message = words(info.message or "the provider reported an error without words: "
      .. excerpt(json.encode(decoded))),
    status = info.status,
    code = code or info.code or info.type,
    retry_after = info.retry_after or info.message and retry_after.from_text(info.message),
    request_id = info.request_id,
  }
end

--- The error dialects inside a 200: { error = … } (OpenAI, SGLang, OpenRouter, Anthropic),
--- { object = "error" } (vLLM), event: error, and the { code, message } of SiliconFlow.
---@param decoded table
---@param event? string  the SSE event's name
---@return table? fields  nil when it is no error
function failure.in_stream(decoded, event)
  local e = decoded.error
  if type(e) == "table" and next(e) ~= nil or type(e) == "string" and e ~= ""
    or decoded.object == "error" or decoded.type == "error" or event == "error" then
    return failure.from_error(decoded)
  end
  if decoded.choices == nil and decoded.content == nil and decoded.type == nil and decoded.object == nil
    and (text_of(decoded.message) or text_of(decoded.msg) or text_of(decoded.error_msg) or text_of(decoded.detail)) then
    return failure.from_error(decoded)
  end
  return nil
end

--- Fields for data that should have been JSON.
---@param data string
---@param why any
---@return table fields
function failure.unreadable(data, why)
  return { kind = "protocol", code = "bad_json",
    message = ("expected a JSON object, got %q (%s)"):format(excerpt(data), excerpt(tostring(why))) }
end

local HINTS = {
  [404] = "check base_url and the model's name", [405] = "check base_url",
}

--- What to do about a success that is none. Its message is what came, which alone tells little.
local function not_a_reply(headers, body)
  if is_html(headers, body) then
    return "a web page, not a reply of the API: check base_url, and what stands in between (a proxy, a login)"
  end
  if body:find "^%s*data:" or body:find "^%s*event:" then
    return "an event stream where one whole reply was asked for"
  end
  return "not a reply of the API: check base_url and protocol"
end

--- Fields of the error a whole failed HTTP reply stands for. Also for a reply that said 200 and
--- cannot be one: an HTML page of a proxy, an empty body.
---@param status integer
---@param headers table<string, string>  lower-case names
---@param body string?
---@param now? number  seconds since 1970, only needed for a Retry-After date without a Date
---@return table fields  kind, message, status, code, retry_after, request_id, should_retry, hint
function failure.parse(status, headers, body, now)
  body = body or ""
  headers = headers or {}
  local info
  local first = body:match("[^%s\xEF\xBB\xBF]")
  local ok, decoded = false, nil
  if first == "{" or first == "[" or first == '"' then ok, decoded = pcall(json.decode, body, REPAIR) end
  if ok then
    info = extract(decoded)
    info.message = info.message or excerpt(body)
  elseif not first then
    info = { message = "the reply is empty" }
  elseif is_html(headers, body) then
    info = { message = html_words(body:sub(1, SCAN_MAX)) }
  else
    info = { message = excerpt(body) }
  end
  info.retry_after = retry_after.parse(headers, now) or info.retry_after
    or retry_after.from_text(info.message)

  local failed = status >= 300
  local kind, code
  if failed then kind, code = judge(status, info)
  elseif ok and type(decoded) == "table" and failure.in_stream(decoded) then kind, code = judge(info.status, info)
  else kind, code = "protocol", "not_a_reply" end

  local hint = HINTS[status] or code == "not_a_reply" and not_a_reply(headers, body) or nil
  if status >= 300 and status < 400 then
    local location = headers["location"]
    if type(location) == "string" then
      local place = location:match("^%a+://[^/?#]*")
      place = place and place:gsub("//[^@]*@", "//") or "another path" -- no user:password
      hint = ("the server redirects to %s: check base_url"):format(place)
    end
  end
  local should = headers["x-should-retry"]
  if should == "true" then should = true elseif should == "false" then should = false else should = nil end
  return {
    kind = kind,
    message = words(info.message),
    status = failed and status or info.status or status,
    code = code or info.code or info.type,
    retry_after = info.retry_after,
    request_id = failure.request_id(headers) or info.request_id,
    should_retry = should,
    hint = hint,
  }
end

return failure
