--- The mock provider: answers the OpenAI and the Anthropic protocol without a key, and misbehaves on
-- demand. `sluice mock`, `sluice run --mock`, and tests.
-- Owns: routes, the log of requests, the counts. Reading order: start, ROUTES, answer.
--
--   local mock = require "sluice.mock"
--   local provider <close> = mock.start { pace = 0, scenario = { { nth = 1, status = 503 } } }
--   sluice.model { provider = "openai", base_url = provider.url .. "/v1", model = "mock" }:ask "Hello"
--   provider.requests[1].outcome   --> "error"

local tasks = require "sluice.core.task"
local sys = require "sluice.core.sys"
local json = require "sluice.json"
local options = require "sluice.options"
local server = require "sluice.server"
local scenario = require "sluice.mock.scenario"
local failures = require "sluice.mock.failures"
local deliver = require "sluice.mock.deliver"
local make_plan = require "sluice.mock.plan"
local oauth = require "sluice.mock.oauth"

local LOG_MAX = 1000          -- requests kept
local LOG_BODY_MAX = 256 << 10 -- bytes of a body that is kept
local SEED = 1
local HOUR = 3600

local SPEC = options.spec {
  scenario = { type = { "string", "table" }, doc = "a scenario's file, or its rules" },
  address = { type = "string", nonempty = true, default = "127.0.0.1", doc = "where to listen" },
  port = { type = "integer", min = 0, max = 65535, default = 0, doc = "0: the system chooses" },
  seed = { type = "integer", default = SEED, doc = "of the answers and the chances" },
  pace = { type = "number", min = 0, default = 1, doc = "1: as fast as a real provider; 0: at once" },
  oauth = { type = "table", fields = {
    client_id = { type = "string", nonempty = true }, client_secret = { type = "string" },
    expires_in = { type = { "number", "string", "boolean" } }, refresh = { type = "boolean" },
  }, doc = "of the token endpoint" },
  keep_secrets = { type = "boolean", doc = "keep credentials in the log of requests" },
  on_request = { type = "callable", doc = "called with each entry of the log when it is complete" },
  max_connections = { type = "integer", min = 1, max = 16384 },
  service = { type = "boolean", doc = "internal: it belongs to the runtime, not to a script" },
}

-- The log -------------------------------------------------------------------------------------------

---@class sluice.mock.Entry
---@field model? string
---@field method string
---@field path string
---@field headers table<string, string>  credentials are masked
---@field body? any         decoded; nil when it is not JSON or too large to keep
---@field stream? boolean
---@field at number         seconds, as task.now
---@field rules integer[]   the numbers of the scenario's rules that took effect
---@field status? integer
---@field outcome? "complete"|"error"|"cut"|"stalled"|"client_gone"|"closed"  nil while under way
local Entry = {}
Entry.__index = Entry

local SECRET_HEADERS = { authorization = true, ["x-api-key"] = true, ["api-key"] = true, cookie = true,
  ["proxy-authorization"] = true }

local function masked(headers, keep)
  if keep then return headers end
  local copy = {}
  for name, value in pairs(headers) do
    if SECRET_HEADERS[name] then
      value = (value:match "^(%a+ )%S" or "") .. ("[%d bytes]"):format(#value)
    end
    copy[name] = value
  end
  return copy
end

local function append(log, entry)
  log[#log + 1] = entry
  if #log >= 2 * LOG_MAX then
    table.move(log, #log - LOG_MAX + 1, #log, 1)
    for i = #log, LOG_MAX + 1, -1 do log[i] = nil end
  end
end

local COUNTS = { complete = "finished", error = "errors", cut = "cut", stalled = "cut", client_gone = "client_gone",
  closed = "closed" }

--- Runs when the handler ends, whatever ended it: a client that left has its task cancelled.
function Entry:__close()
  local provider = self.provider
  self.provider = nil
  local counts = provider.counts
  if not self.outcome then self.outcome = provider.server:closed() and "closed" or "client_gone" end
  if self.streaming then counts.streams_open = counts.streams_open - 1 end
  self.streaming = nil
  local name = COUNTS[self.outcome]
  counts[name] = counts[name] + 1
  if provider.on_request then provider.on_request(self) end
end

local function open_entry(provider, req, route)
  provider.counts.requests = provider.counts.requests + 1
  local entry = setmetatable({
    method = req.method, path = req.path, headers = masked(req.headers, provider.keep_secrets), at = tasks.now(),
    rules = {}, provider = provider, protocol = route.protocol,
    id = ("req_mock%06d"):format(provider.counts.requests),
  }, Entry)
  append(provider.requests, entry)
  return entry
end

local function finish(entry, status, outcome)
  entry.status, entry.outcome = status, outcome
end

-- Replies that are no answer --------------------------------------------------------------------------

local function http_date(seconds)
  return os.date("!%a, %d %b %Y %H:%M:%S GMT", math.floor(seconds)) --[[@as string]]
end

local function dialect_of(route, effects)
  return effects.dialect or (route.protocol == "anthropic" and "anthropic" or "openai")
end

local function send_error(res, entry, dialect, failure, headers)
  failure.id = entry.id
  local all = { ["x-request-id"] = entry.id, ["request-id"] = entry.id }
  for name, value in pairs(headers or {}) do all[name] = value end
  finish(entry, failure.status, "error")
  res:json(failure.status, failures.body(dialect, failure), all)
end

local function wait_headers(effects)
  local headers = {}
  if effects.retry_after then
    local value = effects.retry_after
    headers["Retry-After"] = type(value) == "number" and ("%.14g"):format(value) or value
  end
  if effects.retry_after_date then headers["Retry-After"] = http_date(sys.wall() + effects.retry_after_date) end
  if effects.retry_after_ms then headers["retry-after-ms"] = ("%.14g"):format(effects.retry_after_ms) end
  for name, value in pairs(effects.headers or {}) do headers[name] = value end
  return headers
end

--- A scenario's reply instead of an answer. True when there was one.
local function instead(res, entry, dialect, effects)
  local headers = wait_headers(effects)
  if effects.redirect then
    headers.Location = effects.redirect
    finish(entry, effects.status or 307, "error")
    res:send(entry.status, headers, "")
  elseif effects.html then
    local status = effects.status or 502
    headers["Content-Type"] = headers["Content-Type"] or "text/html"
    finish(entry, status, "error")
    res:send(status, headers, type(effects.html) == "string" and effects.html or failures.page(status))
  elseif effects.body then
    local status = effects.status or 200
    finish(entry, status, status < 400 and "complete" or "error")
    if type(effects.body) == "table" then res:json(status, effects.body, headers)
    else res:send(status, headers, effects.body) end
  elseif effects.status and effects.status ~= 200 and not effects.error_after then
    send_error(res, entry, dialect, { status = effects.status, code = effects.code, message = effects.message },
      headers)
  else
    return false
  end
  return true
end

-- Answers -------------------------------------------------------------------------------------------

local function bearer(headers)
  return headers["x-api-key"] or (headers.authorization or ""):match "^[Bb]earer%s+(.+)$"
end

--- What befalls a request: the scenario's rules, then what the model's name stands for.
local function effects_of(provider, req, entry, route)
  local effects
  effects, entry.rules = provider.scenario:effects {
    model = entry.model, path = req.path, protocol = route.protocol, stream = entry.stream, headers = req.headers,
  }
  for name, value in pairs(entry.model and scenario.of_model(entry.model) or {}) do
    if effects[name] == nil then effects[name] = value end
  end
  return effects
end

local function read_body(req, entry)
  local ok, body = pcall(json.decode, req.body)
  if not ok then return nil, (tostring(body):gsub("^json: ", "")) end
  if type(body) == "table" then
    entry.model = type(body.model) == "string" and body.model or nil
    entry.stream = body.stream == true
  end
  if #req.body <= LOG_BODY_MAX then entry.body = body end
  return body
end

--- A chat request: read, judged by the scenario, answered.
local function answer(provider, req, res, entry, route)
  local body, unreadable = read_body(req, entry)
  local effects = effects_of(provider, req, entry, route)
  local dialect = dialect_of(route, effects)
  if unreadable then
    return send_error(res, entry, dialect, { status = 400,
      message = "We could not parse the JSON body of your request: " .. unreadable })
  end
  local ask, refused = require("sluice.mock." .. route.protocol .. "_request")(body, req.headers)
  if not ask then return send_error(res, entry, dialect, refused) end
  local timing = deliver.timing(effects, provider.pace)
  if timing.delay > 0 then tasks.sleep(timing.delay) end
  if effects.auth == "token" and not provider.oauth:is_live(bearer(req.headers)) then
    return send_error(res, entry, dialect, { status = 401 })
  end
  if instead(res, entry, dialect, effects) then return end
  local context = { ask = ask, effects = effects, dialect = dialect, id = entry.id:sub(5), request_id = entry.id,
    plan = make_plan(ask, effects, provider.seed), created = math.floor(sys.wall()) }
  entry.status = 200
  local api = require("sluice.mock." .. route.protocol)
  if not ask.stream then
    entry.outcome = deliver.whole(res, api, context, timing)
    return
  end
  entry.streaming = true
  provider.counts.streams = provider.counts.streams + 1
  provider.counts.streams_open = provider.counts.streams_open + 1
  entry.outcome = deliver.stream(res, api, context, timing)
end

local function count_tokens(provider, req, res, entry, route)
  local body, unreadable = read_body(req, entry)
  local effects = effects_of(provider, req, entry, route)
  local dialect = dialect_of(route, effects)
  if unreadable then return send_error(res, entry, dialect, { status = 400, message = unreadable }) end
  local ask, refused = require "sluice.mock.anthropic_request"(body, req.headers, true)
  if not ask then return send_error(res, entry, dialect, refused) end
  if effects.delay then tasks.sleep(effects.delay) end
  if instead(res, entry, dialect, effects) then return end
  finish(entry, 200, "complete")
  res:json(200, { input_tokens = ask.input_tokens }, { ["request-id"] = entry.id })
end

local function list_models(provider, req, res, entry, route)
  local effects = effects_of(provider, req, entry, route)
  local is_anthropic = req.headers["anthropic-version"] ~= nil
  if effects.delay then tasks.sleep(effects.delay) end
  if instead(res, entry, effects.dialect or (is_anthropic and "anthropic" or "openai"), effects) then return end
  local names = {}
  for name in pairs(scenario.MODELS) do names[#names + 1] = name end
  table.sort(names)
  finish(entry, 200, "complete")
  res:json(200, require(is_anthropic and "sluice.mock.anthropic" or "sluice.mock.openai").models(names))
end

local function give_token(provider, req, res, entry, route)
  local effects = effects_of(provider, req, entry, route)
  if effects.delay then tasks.sleep(effects.delay) end
  if effects.cut then
    res:abort "reset"
    return finish(entry, nil, "cut")
  end
  if effects.stall_after then tasks.sleep(effects.stall or HOUR) end
  if effects.code and effects.status and not effects.body then
    effects.body = { error = effects.code, error_description = effects.message }
  end
  if instead(res, entry, "openai", effects) then return end
  local status, body, headers = provider.oauth:answer(req, effects)
  if status == 200 then provider.counts.tokens = provider.counts.tokens + 1 end
  finish(entry, status, status == 200 and "complete" or "error")
  res:json(status, body, headers)
end

-- Other pages ---------------------------------------------------------------------------------------

local function show_stats(provider, _, res, entry)
  finish(entry, 200, "complete")
  res:json(200, provider:stats())
end

local PAGE = [[
This is sluice mock, a provider for trying things out. It answers without a key.

  POST %s/v1/chat/completions          the OpenAI protocol
  POST %s/v1/messages                  the Anthropic protocol
  POST %s/v1/messages/count_tokens
  GET  %s/v1/models                    models that misbehave by their names
  POST %s/oauth/token                  client_credentials, refresh_token
  GET  %s/stats                        what has happened so far

  curl %s/v1/chat/completions -d '{"model":"mock","messages":[{"role":"user","content":"Hello"}]}'
]]

local function show_page(provider, _, res, entry)
  finish(entry, 200, "complete")
  local page = PAGE:gsub("%%s", function() return provider.url end)
  res:send(200, { ["Content-Type"] = "text/plain; charset=utf-8" }, page)
end

-- Routes --------------------------------------------------------------------------------------------

--- By the end of the path, so that a base with or without /v1, or any prefix, will do.
local ROUTES = {
  { "/chat/completions$", "POST", answer, protocol = "openai" },
  { "/messages/count_tokens$", "POST", count_tokens, protocol = "anthropic" },
  { "/messages$", "POST", answer, protocol = "anthropic" },
  { "/oauth2?/token$", "POST", give_token, protocol = "oauth" },
  { "/models$", "GET", list_models, protocol = "models" },
  { "^/stats$", "GET", show_stats },
  { "^/$", "GET", show_page },
}

local function not_found(_, req, res, entry)
  local is_anthropic = req.headers["anthropic-version"] ~= nil or req.path:find "/messages"
  send_error(res, entry, is_anthropic and "anthropic" or "openai", { status = 404, code = "unknown_url",
    message = ("Unknown request URL: %s %s. See GET / for what there is."):format(req.method, req.path) })
end

local function wrong_method(allowed, protocol)
  return function(_, req, res, entry)
    send_error(res, entry, protocol == "anthropic" and "anthropic" or "openai", { status = 405,
      message = ("Not allowed to %s on %s, only %s."):format(req.method, req.path, allowed) }, { Allow = allowed })
  end
end

local function route_of(req)
  local method = req.method == "HEAD" and "GET" or req.method
  for _, route in ipairs(ROUTES) do
    if req.path:find(route[1]) then
      if method == route[2] then return route, route[3] end
      return route, wrong_method(route[2], route.protocol)
    end
  end
  return {}, not_found
end

-- The provider ----------------------------------------------------------------------------------------

---@class sluice.mock.Provider
---@field url string       "http://127.0.0.1:8080": the Anthropic base; the OpenAI base is url .. "/v1"
---@field port integer
---@field requests sluice.mock.Entry[]  the latest, at least 1,000 of them
local Provider = { __name = "sluice.mock", __sluice_handle = "listener" }
Provider.__index = Provider

---@class sluice.mock.Stats
---@field requests integer      all of them
---@field streams integer       answers that were streamed
---@field streams_open integer  … and are under way now
---@field finished integer      answered to the end
---@field errors integer        answered with an error
---@field cut integer           broken by the scenario
---@field client_gone integer   the client left first
---@field closed integer        the mock was closed first
---@field tokens integer        issued by /oauth/token
---@field connections integer   open now

--- Counts since the start.
---@return sluice.mock.Stats
function Provider:stats()
  local copy = { connections = (self.server:load()) }
  for name, n in pairs(self.counts) do copy[name] = n end
  return copy
end

--- From now on no token that /oauth/token has issued is any good (for rules with auth = "token").
function Provider:revoke()
  self.oauth:revoke()
end

--- Waits for the answers under way, at most `grace` seconds, and closes.
---@async
function Provider:stop(grace)
  return self.server:stop(grace or 0)
end

--- Closes at once.
function Provider:close()
  self.server:close()
end

Provider.__close = Provider.close

function Provider:__tostring()
  return "mock provider at " .. self.url
end

local mock = { SPEC = SPEC }

--- Starts a provider. Options: scenario, address "127.0.0.1", port 0, seed 1, pace 1 (0: at once),
--- oauth = { client_id, client_secret, expires_in, refresh }, keep_secrets, on_request(entry).
--- Raises `network` when the address cannot be had, an ordinary error for a faulty scenario.
---@param opts? table
---@return sluice.mock.Provider
function mock.start(opts)
  opts = opts or {}
  options.check("mock.start", opts, SPEC)
  local o = options.fill(opts, SPEC)
  local provider = setmetatable({
    scenario = scenario.load(o.scenario, o.seed), oauth = oauth.new(o.oauth), requests = {},
    counts = { requests = 0, streams = 0, streams_open = 0, finished = 0, errors = 0, cut = 0, client_gone = 0,
      closed = 0, tokens = 0 },
    seed = o.seed, pace = o.pace, keep_secrets = o.keep_secrets, on_request = o.on_request,
  }, Provider)
  local listening = server.listen {
    address = o.address, port = o.port, service = o.service, max_connections = o.max_connections,
    handler = function(req, res)
      local route, handle = route_of(req)
      local entry <close> = open_entry(provider, req, route)
      handle(provider, req, res, entry, route)
    end,
  }
  provider.server, provider.listener = listening, listening.listener
  provider.url, provider.port, provider.address = listening.url, listening.port, o.address
  return provider
end

return mock
