--- Models: a callable endpoint with all transport policy inside.
-- Owns: what a model is made of, how a call becomes a request, and how attempts become one reply.
-- Reading order: Model:ask, Model:stream, attempt.
-- Pure parts are elsewhere: provider/* (what to send, what came), assemble (the reply), retry (when
-- again). The wire is C: sluice.core.http.

local core = require "sluice.core.task"
local http = require "sluice.core.http"
local sync = require "sluice.core.sync"
local sys = require "sluice.core.sys"
local json = require "sluice.json"
local assemble = require "sluice.assemble"
local errors = require "sluice.errors"
local options = require "sluice.options"
local providers = require "sluice.provider"
local request_of = require "sluice.provider.request"
local Reply = require "sluice.reply"
local retry = require "sluice.retry"
local secret = require "sluice.secret"
local Stream = require "sluice.stream"

local ASK_TOTAL, STREAM_TOTAL = 60, 600 -- seconds, unless timeout.total is given
local CONCURRENCY = 5

local SPEC = options.spec {
  provider = { type = "string", required = true },
  model = { type = "string", required = true, nonempty = true },
  base_url = { type = "string", nonempty = true },
  protocol = { type = "string", enum = { "openai", "anthropic" } },
  auth = { check = function(v) return type(v) == "string" and v ~= "" or secret.is(v) end,
    expected = "a string, or a secret such as sluice.secret.env 'NAME'" },
  headers = { type = "table", values = { check = function(v)
    return type(v) == "string" or secret.is(v)
  end, expected = "a string or a secret" } },
  timeout = { type = "table", fields = {
    connect = { type = "seconds", default = 3 },
    first_token = { type = "seconds", default = 30 },
    idle = { type = "seconds", default = 30 },
    total = { type = "seconds" },
  } },
  retry = { type = { "table", "false" }, fields = {
    attempts = { type = "integer", min = 1, max = 100, default = 3 },
    base = { type = "seconds" }, cap = { type = "seconds" }, max_wait = { type = "seconds" },
    resend = { type = "boolean" },
  } },
  limit = { type = "table", fields = {
    concurrency = { type = "integer", min = 1, default = CONCURRENCY },
  } },
  defaults = { type = "table" },
  idempotency = { type = { "string", "false" }, expected = "the name of a header, or false" },
  transport = { type = "function" }, -- in place of the wire: sluice.test
  receive_buffer = { type = "integer", min = 1024, max = 512 * 1024 },
}

---@class sluice.Model
---@field name string      "provider/model"
---@field provider string
---@field model string
local Model = { __name = "sluice.model" }
Model.__index = Model

local mock_url -- set by --mock: every model goes there

-- Making a model ----------------------------------------------------------------------------------

local function base_url(opts, provider)
  if mock_url then return provider.protocol_name == "anthropic" and mock_url or mock_url .. "/v1" end
  local variable = provider.base_url_env
  local url = opts.base_url or (variable and sys.env(variable)) or provider.base_url
  if not url or url == "" then
    options.raise(("sluice.model: option 'base_url' is missing: provider '%s' has no address of its own%s")
      :format(opts.provider, opts.provider == "mock" and " (run the script with --mock)" or ""))
  end
  local resolved, why = http.resolve("", url)
  if not resolved or not resolved:find("^https?://") then
    options.raise(("sluice.model: option 'base_url' is no http or https address: %s")
      :format(why or "its scheme is another"))
  end
  return url
end

local function build(opts)
  local provider = providers.get(opts.provider, opts.protocol)
  if opts.defaults then request_of.check_defaults("sluice.model", opts.defaults) end
  local self = options.fill(opts, SPEC)
  self.opts = opts
  self.spoken = provider
  self.base = base_url(opts, provider)
  self.quirks = providers.quirks(provider, self.base)
  self.name = opts.provider .. "/" .. opts.model
  self.permits = sync.semaphore(self.limit.concurrency)
  self.endpoints, self.templates = {}, {}
  if self.idempotency == nil then self.idempotency = "Idempotency-Key" end
  self.attempts_max = self.retry and self.retry.attempts or 1
  return setmetatable(self, Model)
end

--- A model: `sluice.model { provider =, model =, … }`, or "provider/model" for one with all defaults.
--- Raises an ordinary error for a wrong option; a missing key is found out at the first call.
---@param opts sluice.ModelOptions|string
---@return sluice.Model
function Model.new(opts)
  if type(opts) == "string" then
    local provider, model = providers.split(opts)
    if not provider then
      options.raise(("sluice.model: '%s' is not 'provider/model'"):format(errors.one_line(opts, 80)))
    end
    opts = { provider = provider, model = model }
  end
  options.check("sluice.model", opts, SPEC)
  return build(opts)
end

local NESTED = { timeout = true, retry = true, limit = true, defaults = true, headers = true }

--- The same model with some options changed; tables of options are merged. What is not changed is
--- shared, the limit on concurrent requests too, unless provider, address, model or limit change.
---@param changes sluice.ModelOptions
---@return sluice.Model
function Model:with(changes)
  if type(changes) ~= "table" then
    options.raise("model:with: expected a table of options, got " .. options.got(changes))
  end
  local opts = {}
  for key, value in pairs(self.opts) do opts[key] = value end
  for key, value in pairs(changes) do
    if NESTED[key] and type(value) == "table" and type(opts[key]) == "table" then
      local merged = {}
      for k, v in pairs(opts[key]) do merged[k] = v end
      for k, v in pairs(value) do merged[k] = v end
      value = merged
    end
    opts[key] = value
  end
  options.check("model:with", opts, SPEC)
  local other = build(opts)
  if not (changes.provider or changes.base_url or changes.model or changes.limit or changes.protocol) then
    other.permits = self.permits
  end
  return other
end

function Model:__tostring()
  return "model " .. self.name
end

-- Requests ------------------------------------------------------------------------------------------

--- The credential as it goes into its header, or nil for a provider that needs none.
local function credential(self)
  local provider = self.spoken
  local key, from = self.auth, nil
  if mock_url then key = secret.literal("mock", "mock key") end
  if type(key) == "string" then key = secret.literal(key, self.opts.provider .. " key") end
  if not key then
    for _, name in ipairs(provider.key_env or {}) do
      local value = sys.env(name)
      if value and value ~= "" then
        key, from = secret.env(name), name
        break
      end
    end
  end
  if not key then
    if provider.keyless or not provider.key_env then return nil end
    errors.raise { kind = "auth", code = "no_key", provider = self.opts.provider, model = self.opts.model,
      message = ("no key: set the environment variable %s, or give the model auth = sluice.secret.env 'NAME'")
        :format(table.concat(provider.key_env, " or ")) }
  end
  local header, prefix = provider.auth(key, from)
  return header, secret.prefixed(prefix or "", key)
end

--- An endpoint for requests of this form; made once for each.
local function endpoint_for(self, request, streaming)
  local names = {}
  for name in pairs(request.headers or {}) do names[#names + 1] = name end
  table.sort(names)
  local key = { request.method or "POST", request.path, streaming and "stream" or "ask" }
  for _, name in ipairs(names) do key[#key + 1] = name .. ":" .. request.headers[name] end
  key = table.concat(key, "\n")
  local endpoint = self.endpoints[key]
  if endpoint then return endpoint end
  local headers, seen = {}, {}
  local function add(name, value)
    if seen[name:lower()] then return end -- the script's own headers come first and win
    seen[name:lower()] = true
    headers[#headers + 1] = name
    headers[#headers + 1] = value
  end
  for name, value in pairs(self.headers or {}) do add(name, value) end
  local header, value = credential(self)
  if header then add(header, value) end
  for _, name in ipairs(names) do add(name, request.headers[name]) end
  for name, text in pairs(self.spoken.headers or {}) do add(name, text) end
  add("User-Agent", "sluice/" .. sys.version)
  local timeout = self.timeout
  endpoint = (self.transport or http.endpoint) {
    method = request.method or "POST",
    url = request.url or providers.join(self.base, request.path),
    headers = headers,
    connect = timeout.connect, first = timeout.first_token, idle = timeout.idle,
    total = timeout.total or (streaming and STREAM_TOTAL or ASK_TOTAL),
    receive_buffer = self.receive_buffer,
  }
  self.endpoints[key] = endpoint
  return endpoint
end

--- What the provider is asked: the model's defaults under the request's own fields.
local function call_of(self, req, streaming)
  local call = { model = self.opts.model, stream = streaming, quirks = self.quirks,
    protocol = self.spoken.protocol_name, provider = self.opts.provider }
  for key, value in pairs(self.defaults or {}) do call[key] = value end
  for key, value in pairs(req) do call[key] = value end
  if self.defaults and self.defaults.extra and req.extra then
    call.extra = {}
    for key, value in pairs(self.defaults.extra) do call.extra[key] = value end
    for key, value in pairs(req.extra) do call.extra[key] = value end
  end
  return call
end

local function encode(where, body)
  if type(body) == "string" then return body end
  local ok, text = pcall(json.encode, body)
  if ok then return text end
  options.raise(("%s: %s"):format(where, tostring(text):gsub("^json: ", "")))
end

--- Endpoint and body for a request. A plain prompt is put into a body that was encoded before.
local function prepare(self, where, req, streaming)
  if type(req) == "string" then
    local template = self.templates[streaming]
    if template == nil then
      template = providers.template(self.spoken, call_of(self, {}, streaming)) or false
      if template then template.endpoint = endpoint_for(self, template.request, streaming) end
      self.templates[streaming] = template
    end
    if template then
      if req == "" then options.raise(where .. ": the prompt is empty") end
      local ok, quoted = pcall(json.quote, req)
      if not ok then options.raise(("%s: prompt: %s"):format(where, (quoted:gsub("^json: ", "")))) end
      return template.endpoint, template.prefix .. quoted .. template.suffix
    end
  end
  req = request_of.check(where, req)
  local request = self.spoken.request(call_of(self, req, streaming))
  return endpoint_for(self, request, streaming), encode(where, request.body)
end

-- Failures ------------------------------------------------------------------------------------------

--- Who was asked, for every error that leaves here.
local function decorate(self, fields, started, attempt, response)
  local err = errors.is(fields) and fields or errors.new(fields)
  err.provider = err.provider or self.opts.provider
  err.model = err.model or self.opts.model
  err.attempt = attempt
  err.elapsed = err.elapsed or core.now() - started
  if response and not err.request_id then err.request_id = Reply.request_id_of(response) end
  return err
end

--- A redirect is never followed with a prompt and a key: it says where to point base_url instead.
local function failed_status(self, status, response, body)
  if status >= 300 and status < 400 then
    local location = response:header("location")
    return { kind = "invalid", status = status, code = "redirect",
      message = ("the address answers with a redirect%s; it is not followed, set base_url to the right one")
        :format(location and " to " .. errors.one_line(location:gsub("[?#].*$", ""), 120) or "") }
  end
  return self.spoken.failure(status, response:headers(), body, sys.wall())
end

-- Asking --------------------------------------------------------------------------------------------

-- Finish reasons of a plain answer; any other goes through the assembler.
local PLAIN = { stop = "stop", length = "length", end_turn = "stop", stop_sequence = "stop", max_tokens = "length" }

local function whole_reply(self, response, started, attempt)
  local body = response:body()
  local ok, decoded = pcall(json.decode, body, { repair = true })
  if not ok or type(decoded) ~= "table" then
    local fields = failed_status(self, response:status(), response, body)
    error(decorate(self, fields, started, attempt, response), 0)
  end
  local assembler = assemble.new { think_tags = self.quirks.think_tags }
  for _, delta in ipairs(self.spoken.reply(decoded)) do
    local _, failure = assembler:feed(delta)
    if failure then error(decorate(self, failure, started, attempt, response), 0) end
  end
  local _, failure = assembler:finish()
  if failure then error(decorate(self, failure, started, attempt, response), 0) end
  return assembler:reply()
end

--- One attempt of ask: a reply, or raises.
local function ask_once(self, endpoint, body, id, attempt)
  local permit <close> = self.permits:acquire() -- luacheck: ignore 211
  local response, kind, phase, message, elapsed
  local header = self.idempotency
  local started = core.now()
  if header then response, kind, phase, message, elapsed = endpoint:request(body, nil, header, id)
  else response, kind, phase, message, elapsed = endpoint:request(body, nil) end
  if not response then
    error(decorate(self, { kind = kind, phase = phase, message = message, elapsed = elapsed }, started, attempt), 0)
  end
  local status = response:status()
  if status < 200 or status > 299 then
    local fields = failed_status(self, status, response, response:body())
    error(decorate(self, fields, started, attempt, response), 0)
  end
  local reply
  local fast = self.spoken.fast
  if fast and not self.quirks.think_tags then
    local text, reason, rid, model, input, output, total, cached, reasoning = response:answer(fast)
    local finish = text and PLAIN[reason]
    if finish then
      reply = { text = text, finish_reason = finish, finish_reason_raw = reason, id = rid, model = model,
        usage = input and { input_tokens = input, output_tokens = output,
          total_tokens = total or output and input + output, cached_tokens = cached or 0,
          reasoning_tokens = reasoning or 0 } or {} }
    end
  end
  reply = reply or whole_reply(self, response, started, attempt)
  reply.response = response
  reply.provider = self.opts.provider
  reply.asked = self.opts.model
  reply.model = reply.model or self.opts.model
  reply.ttft, reply.elapsed = response:times()
  return Reply.new(reply)
end

--- Runs attempts until one succeeds or another is not worth it. The error of the last attempt is
--- raised, the earlier ones in `attempts`.
local function with_retries(self, attempt_once, ...)
  local failures
  for attempt = 1, self.attempts_max do
    local ok, result = pcall(attempt_once, self, attempt, ...)
    if ok then
      if failures then
        failures[#failures + 1] = { provider = self.opts.provider, model = self.opts.model, elapsed = result.elapsed }
        result.attempts = failures
      end
      return result
    end
    local err = result
    if not errors.is(err) then error(err, 0) end
    failures = failures or {}
    failures[#failures + 1] = { provider = self.opts.provider, model = self.opts.model, kind = err.kind,
      status = err.status, message = err.message, elapsed = err.elapsed }
    local delay = self.retry and retry.delay(err, attempt, self.retry, sys.random(), core.left())
    if not delay then
      if #failures > 1 then err.attempts = failures end
      error(err, 0)
    end
    core.sleep(delay)
  end
end

local function ask_attempt(self, attempt, endpoint, body, id)
  return ask_once(self, endpoint, body, id, attempt)
end

--- Asks and waits for the whole answer. A string is a prompt; a table may have prompt, system,
--- messages, tools, max_tokens, … (sluice.Request).
--- Raises an ordinary error for a wrong request, a sluice.Error for a failure of the world.
---@async
---@param req string|sluice.Request
---@return sluice.Reply
function Model:ask(req)
  if not self.spoken.reply then return self:stream(req):reply() end
  local endpoint, body = prepare(self, "model:ask", req, false)
  return with_retries(self, ask_attempt, endpoint, body, sys.uuid())
end

-- Streaming -----------------------------------------------------------------------------------------

local function new_stream(self, handle, started, attempt)
  local assembler = assemble.new { think_tags = self.quirks.think_tags }
  if self.spoken.fast and assembler.fast then handle:plain(self.spoken.fast) end
  local request_id = Reply.request_id_of(handle)
  return Stream.new {
    handle = handle,
    assembler = assembler,
    event = self.spoken.event,
    provider = self.opts.provider,
    model = self.opts.model,
    started = started,
    request_id = request_id,
    decorate = function(err)
      err.request_id = err.request_id or request_id
      return decorate(self, err, started, attempt)
    end,
    finish_reply = function(reply)
      reply.request_id, reply.asked = request_id, self.opts.model
      return Reply.new(reply)
    end,
  }
end

--- A reply that is no event stream: an error, a page of a proxy, or a whole answer after all.
local function other_than_events(self, handle, stream, started, attempt)
  local status = handle:status()
  local body, kind, phase, message, elapsed = handle:body()
  if not body then
    error(decorate(self, { kind = kind, phase = phase, message = message, elapsed = elapsed },
      started, attempt, handle), 0)
  end
  local ok, decoded = pcall(json.decode, body, { repair = true })
  if status >= 200 and status <= 299 and ok and type(decoded) == "table" and self.spoken.reply then
    return stream:take_whole(self.spoken.reply(decoded))
  end
  error(decorate(self, failed_status(self, status, handle, body), started, attempt, handle), 0)
end

local function stream_once(self, endpoint, body, id, attempt)
  self.permits:acquire()
  local started = core.now()
  local name = self.idempotency or nil
  local ok, handle, kind, phase, message, elapsed =
    pcall(endpoint.stream, endpoint, body, nil, name, name and id)
  if not ok or not handle then
    self.permits:release()
    if not ok then error(handle, 0) end
    error(decorate(self, { kind = kind, phase = phase, message = message, elapsed = elapsed }, started, attempt), 0)
  end
  handle:hold(self.permits) -- given back when the handle is closed, whoever closes it
  local stream = new_stream(self, handle, started, attempt)
  local status = handle:status()
  local good, err
  if status >= 200 and status <= 299 and handle:is_events() then good, err = pcall(stream.commit, stream)
  else good, err = pcall(other_than_events, self, handle, stream, started, attempt) end
  if not good then
    stream:close()
    error(err, 0)
  end
  return stream
end

local function stream_attempt(self, attempt, endpoint, body, id)
  return stream_once(self, endpoint, body, id, attempt)
end

--- Asks for a streamed answer. Returns when the first content is there: what fails before it is
--- retried like an ask, what fails after it is raised by the reading loop as `interrupted`.
--- The stream is closed at the end of its block (`<close>`), when its loop is left, when the task is
--- cancelled, and at the latest with the task group it was opened in.
---@async
---@param req string|sluice.Request
---@return sluice.Stream
function Model:stream(req)
  local endpoint, body = prepare(self, "model:stream", req, true)
  return with_retries(self, stream_attempt, endpoint, body, sys.uuid())
end

local model = { new = Model.new, metatable = Model }

--- From now on every model that is made talks to this address, with no key: --mock.
---@param url string  the mock's address, without /v1
function model.use_mock(url)
  mock_url = url
end

return model
