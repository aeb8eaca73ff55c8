--- Errors as the various providers word and shape them.
-- Owns: the forms. Pure. Sources: the vendors' pages on errors; SiliconFlow's depend on the status.

local json = require "sluice.json"

local failures = {}

-- status -> OpenAI's type and code, Anthropic's type, words
local KNOWN = {
  [400] = { "invalid_request_error", json.null, "invalid_request_error", "The request is not valid." },
  [401] = { "invalid_request_error", "invalid_api_key", "authentication_error", "Incorrect API key provided." },
  [402] = { "insufficient_quota", "insufficient_quota", "billing_error", "Insufficient balance." },
  [403] = { "invalid_request_error", "permission_denied", "permission_error", "You may not use this model." },
  [404] = { "invalid_request_error", "model_not_found", "not_found_error", "The model does not exist." },
  [409] = { "invalid_request_error", "conflict", "conflict_error", "The request conflicts with another." },
  [413] = { "invalid_request_error", "request_too_large", "request_too_large", "The request is too large." },
  [422] = { "invalid_request_error", json.null, "invalid_request_error", "The request cannot be processed." },
  [429] = { "rate_limit_error", "rate_limit_exceeded", "rate_limit_error", "Rate limit reached for requests." },
  [500] = { "server_error", json.null, "api_error", "The server had an error while processing your request." },
  [502] = { "server_error", json.null, "api_error", "Bad gateway." },
  [503] = { "server_error", "server_is_overloaded", "overloaded_error", "The engine is currently overloaded." },
  [504] = { "server_error", json.null, "timeout_error", "The request timed out." },
  [529] = { "server_error", "overloaded", "overloaded_error", "Overloaded" },
}

local QUOTA = "You exceeded your current quota, please check your plan and billing details."

---@class sluice.mock.Failure
---@field status integer
---@field message? string
---@field code? string
---@field param? string
---@field id? string  the request's id

local SHAPES = {}

function SHAPES.openai(f, known)
  local code = f.code or known[2]
  local kind = code == "insufficient_quota" and "insufficient_quota" or known[1]
  return { error = { message = f.message, type = kind, param = f.param or json.null, code = code } }
end

function SHAPES.anthropic(f, known)
  local details = f.code and { error_code = f.code } or nil
  return { type = "error", error = { type = known[3], message = f.message, details = details }, request_id = f.id }
end

function SHAPES.siliconflow(f)
  if f.status == 401 then return "Invalid token" end
  if f.status == 404 then return "404 page not found" end
  if f.status == 504 then return "504 Gateway Timeout" end
  if f.status == 403 then return f.code and { code = 30001, message = f.message, data = json.null } or "Forbidden" end
  if f.status == 429 then
    return { message = "Request was rejected due to rate limiting. If you want more, please contact "
      .. "contact@example.com. Details:" .. (f.code or "TPM") .. " limit reached.", data = json.null }
  end
  local codes = { [400] = 20015, [413] = 20042, [451] = 20021, [503] = 50505 }
  local message = f.status == 503 and "Model service overloaded. Please try again later." or f.message
  return { code = codes[f.status] or f.status * 100, message = message, data = json.null }
end

function SHAPES.openrouter(f)
  return { error = { code = f.status, message = f.message, metadata = { provider_name = "mock" } } }
end

function SHAPES.vllm(f, known)
  return { object = "error", message = f.message, type = known[1], param = json.null, code = f.status }
end

local function fill(failure)
  local known = KNOWN[failure.status] or KNOWN[failure.status < 500 and 400 or 500]
  local message = failure.message or (failure.code == "insufficient_quota" and QUOTA) or known[4]
  return { status = failure.status, code = failure.code, param = failure.param, id = failure.id,
    message = message }, known
end

--- The body of an error reply, as a value for JSON.
---@param dialect string
---@param failure sluice.mock.Failure
---@return any
function failures.body(dialect, failure)
  return SHAPES[dialect](fill(failure))
end

--- The error event inside a stream that began with 200: the event's name and its data.
---@param dialect string
---@param failure sluice.mock.Failure
---@return string? name
---@return any data
function failures.event(dialect, failure)
  local f, known = fill(failure)
  if dialect == "anthropic" then return "error", SHAPES.anthropic(f, known) end
  if dialect == "openrouter" then
    return nil, { id = f.id, object = "chat.completion.chunk", provider = "mock",
      error = { code = f.status, message = f.message },
      choices = json.array { { index = 0, delta = { content = "" }, finish_reason = "error" } } }
  end
  return nil, SHAPES[dialect](f, known)
end

--- A page such as a proxy in front of a provider sends.
---@param status integer
---@return string
function failures.page(status)
  return ("<html>\r\n<head><title>%d Bad Gateway</title></head>\r\n<body>\r\n<center><h1>%d Bad Gateway</h1>"
    .. "</center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"):format(status, status)
end

return failures
