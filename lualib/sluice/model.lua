--- Models: a callable endpoint with all transport policy inside.
-- Owns: what a model is made of, how a call becomes a request, and what comes back a reply.
-- Reading order: Model:ask, ask_once, Model:stream, stream_once.
-- Elsewhere: what to send and what came (provider/*), the reply (assemble), attempts, limits and the
-- breaker (policy/call.lua first). The wire is C: sluice.core.http.

local core = require "sluice.core.task"
local http = require "sluice.core.http"
local sys = require "sluice.core.sys"
local json = require "sluice.json"
local observe = require "sluice.observe"
local assemble = require "sluice.assemble"
local errors = require "sluice.errors"
local options = require "sluice.options"
local breakers = require "sluice.policy.breaker"
local call = require "sluice.policy.call"
local limiters = require "sluice.policy.limiter"
local quotas = require "sluice.policy.quota"
local price = require "sluice.price"
local providers = require "sluice.provider"
local request_of = require "sluice.provider.request"
local Reply = require "sluice.reply"
local secret = require "sluice.secret"
local tokens = require "sluice.core.token"
local Stream = require "sluice.stream"
local authorized = require "sluice.token.authorized"

local ASK_TOTAL, STREAM_TOTAL = 60, 600 -- seconds, unless timeout.total is given

local LIMIT = { share = { check = limiters.is, expected = "what sluice.limit { … } returns" } }
for name, entry in pairs(limiters.FIELDS) do LIMIT[name] = entry end

local SPEC = options.spec {
  provider = { type = "string", required = true },
  model = { type = "string", required = true, nonempty = true },
  base_url = { type = "string", nonempty = true },
  protocol = { type = "string", enum = { "openai", "anthropic" } },
  auth = { check = authorized.is_credential,
    expected = "a string, a secret such as sluice.secret.env 'NAME', a token source, or a function that gives a key" },
  headers = { type = "table", values = { check = function(v)
    return type(v) == "string" or secret.is(v)
  end, expected = "a string or a secret" } },
  timeout = { type = "table", fields = {
    connect = { type = "seconds", default = 3 },
    first_token = { type = "seconds", default = 30 },
    idle = { type = "seconds", default = 30 },
    total = { type = "seconds" },
    min_rate = { type = "number", above = 0, max = 1e6 }, -- tokens a second, of a stream
    min_rate_over = { type = "seconds", above = 0, default = 10 },
  } },
  retry = { type = { "table", "false" }, fields = {
    attempts = { type = "integer", min = 1, max = 100, default = 3 },
    base = { type = "seconds" }, cap = { type = "seconds" }, max_wait = { type = "seconds" },
    resend = { type = "boolean" }, budget = { type = { "number", "false" }, min = 0 },
  } },
  breaker = { type = { "table", "false" }, fields = breakers.FIELDS },
  limit = { type = "table", fields = LIMIT },
  defaults = { type = "table" },
  price = { type = "table", fields = price.FIELDS }, -- per million tokens, in place of the one sluice.prices knows
  idempotency = { type = { "string", "false" }, expected = "the name of a header, or false" },
  transport = { type = "function" }, -- in place of the wire: sluice.test
  receive_buffer = { type = "integer", min = 1024, max = 512 * 1024 },
}

---@class sluice.Model
---@field name string      "provider/model"
---@field provider string
---@field model string
---@field breaker sluice.Breaker|false  to look at and to force: model.breaker:state(), :open(), :close() …
---@field limiter sluice.Limiter        model.limiter:left()
---@field quota sluice.RetryQuota|false  for sluice's own modules: what retries and hedges may still cost
local Model = { __name = "sluice.model" }
Model.__index = Model

local before_first, now = Stream.before_first, core.now
local setmetatable, type = setmetatable, type -- on the way of every call
local under_way = setmetatable({}, { __mode = "k" }) -- endpoint on the wire -> its model

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
  if type(opts.auth) == "string" then -- whoever prints the model shall not see it
    local copy = {}
    for key, value in pairs(opts) do copy[key] = value end
    copy.auth = secret.literal(opts.auth, opts.provider .. " key")
    opts = copy
  end
  local self = options.fill(opts, SPEC)
  self.opts = opts
  self.spoken = provider
  self.base = base_url(opts, provider)
  self.quirks = providers.quirks(provider, self.base)
  self.name = opts.provider .. "/" .. opts.model
  self.endpoints, self.templates = {}, {}
  if self.idempotency == nil then self.idempotency = "Idempotency-Key" end
  self.price = self.price or false
  local limit = self.limit or {}
  self.limiter = limit.share or limiters.make(limit)
  local budget = self.retry and self.retry.budget
  self.quota = budget ~= false and quotas.of(self.base, budget)
  local breaker = self.breaker
  if breaker then
    breaker.watch_slow = breaker.slow ~= nil
    breaker.slow = breaker.slow or self.timeout.first_token
    self.breaker_options = breaker
    self.breaker = breakers.of(self.base, self.name, breaker)
  end
  return setmetatable(self, Model)
end

--- `limit` may be what sluice.limit returned: short for { share = that }.
local function check(where, opts)
  if type(opts) == "table" and limiters.is(opts.limit) then
    local copy = {}
    for key, value in pairs(opts) do copy[key] = value end
    copy.limit = { share = opts.limit }
    opts = copy
  end
  options.check(where, opts, SPEC)
  local limit = opts.limit
  if limit and limit.share and next(limit, next(limit)) then
    options.raise(where .. ": option 'limit.share' stands alone: the other limits belong into sluice.limit { … }")
  end
  return opts
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
  return build(check("sluice.model", opts))
end

local NESTED = { timeout = true, retry = true, breaker = true, limit = true, defaults = true, headers = true }
-- Options whose change makes it another account, or another model of it, with limits of its own.
local ACCOUNT = { "provider", "protocol", "base_url", "model", "auth", "limit", "transport" }

--- The same model with some options changed; tables of options are merged. What is not changed is
--- shared, the limits too, unless provider, address, model, key or limit change.
---@param changes sluice.ModelOptions
---@return sluice.Model
function Model:with(changes)
  if type(changes) ~= "table" then
    options.raise("model:with: expected a table of options, got " .. options.got(changes))
  end
  local opts = {}
  for key, value in pairs(self.opts) do opts[key] = value end
  for key, value in pairs(changes) do
    local mergeable = NESTED[key] and type(value) == "table" and type(opts[key]) == "table"
    if mergeable and not (key == "limit" and (limiters.is(value) or value.share or opts[key].share)) then
      local merged = {}
      for k, v in pairs(opts[key]) do merged[k] = v end
      for k, v in pairs(value) do merged[k] = v end
      value = merged
    end
    opts[key] = value
  end
  local other = build(check("model:with", opts))
  for _, name in ipairs(ACCOUNT) do
    if changes[name] ~= nil then return other end
  end
  other.limiter = self.limiter
  return other
end

function Model:__tostring()
  return "model " .. self.name
end

-- Requests ------------------------------------------------------------------------------------------

--- The header of the credential, the credential, what stands in front of it; or nil for a provider that
--- needs none.
local function credential(self)
  local provider = self.spoken
  local key, from = self.auth, nil
  if mock_url then key = secret.literal("mock", "mock key") end
  if type(key) == "function" then key = authorized.from_function(key, self.opts.provider .. " auth") end
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
  -- a token is for Anthropic what a gateway's is, not one of its own keys
  if tokens.is(key) then from = "ANTHROPIC_AUTH_TOKEN" end
  local header, prefix = provider.auth(key, from)
  return header, key, prefix or ""
end

--- An endpoint for requests of this form; made once for each.
local function endpoint_for(self, where, request, streaming)
  local names = {}
  for name in pairs(request.headers or {}) do names[#names + 1] = name end
  table.sort(names)
  local key = { request.method or "POST", request.path, streaming and "stream" or "ask" }
  for _, name in ipairs(names) do key[#key + 1] = name .. ":" .. request.headers[name] end
  key = table.concat(key, "\n")
  local endpoint = self.endpoints[key]
  if endpoint then return endpoint end
  local headers, seen, changing = {}, {}, {}
  local function add(name, value, prefix)
    if seen[name:lower()] then return end -- the script's own headers come first and win
    seen[name:lower()] = true
    local source = authorized.source_of(value)
    if source then
      changing[#changing + 1] = { header = name, prefix = prefix or "", source = source }
      return
    end
    headers[#headers + 1] = name
    headers[#headers + 1] = prefix and secret.prefixed(prefix, value) or value
  end
  for name, value in pairs(self.headers or {}) do add(name, value) end
  local header, value, prefix = credential(self)
  if header then add(header, value, prefix) end
  for _, name in ipairs(names) do add(name, request.headers[name]) end
  for name, text in pairs(self.spoken.headers or {}) do add(name, text) end
  add("User-Agent", "sluice/" .. sys.version)
  local timeout = self.timeout
  endpoint = options.blame(where, self.transport or http.endpoint, {
    method = request.method or "POST",
    url = request.url or providers.join(self.base, request.path),
    headers = headers,
    connect = timeout.connect, first = timeout.first_token, idle = timeout.idle,
    total = timeout.total or (streaming and STREAM_TOTAL or ASK_TOTAL),
    min_rate = streaming and timeout.min_rate or nil, min_rate_over = timeout.min_rate_over,
    receive_buffer = self.receive_buffer,
  })
  if not self.transport then under_way[endpoint] = { self.opts.provider, self.opts.model } end
  if changing[1] and not self.transport then
    endpoint = authorized.new(endpoint, changing, timeout.total or (streaming and STREAM_TOTAL or ASK_TOTAL))
  end
  self.endpoints[key] = endpoint
  return endpoint
end

--- What the provider is asked: the model's defaults under the request's own fields.
local function merged(self, req, streaming)
  local fields = { model = self.opts.model, stream = streaming, quirks = self.quirks,
    protocol = self.spoken.protocol_name, provider = self.opts.provider }
  for key, value in pairs(self.defaults or {}) do fields[key] = value end
  for key, value in pairs(req) do fields[key] = value end
  if self.defaults and self.defaults.extra and req.extra then
    fields.extra = {}
    for key, value in pairs(self.defaults.extra) do fields.extra[key] = value end
    for key, value in pairs(req.extra) do fields.extra[key] = value end
  end
  local format = fields.response_format
  if format and type(format) == "table" and format.instruction then
    local mode_of = self.spoken.protocol.json_mode
    request_of.instruct(fields, mode_of and mode_of(fields))
  end
  return fields
end

local function encode(where, body)
  if type(body) == "string" then return body end
  local ok, text = pcall(json.encode, body)
  if ok then return text end
  options.raise(("%s: %s"):format(where, tostring(text):gsub("^json: ", "")))
end

--- Endpoint, body and the most tokens the answer may have. A plain prompt is put into a body that was
--- encoded before.
local function prepare(self, where, req, streaming)
  if type(req) == "string" then
    local template = self.templates[streaming]
    if template == nil then
      template = providers.template(self.spoken, merged(self, {}, streaming)) or false
      if template then template.endpoint = endpoint_for(self, where, template.request, streaming) end
      self.templates[streaming] = template
    end
    if template then
      if req == "" then options.raise(where .. ": the prompt is empty") end
      local ok, quoted = pcall(json.quote, req)
      if not ok then options.raise(("%s: prompt: %s"):format(where, (quoted:gsub("^json[.%w]*: ", "")))) end
      return template.endpoint, template.prefix .. quoted .. template.suffix, self.defaults and self.defaults.max_tokens
    end
  end
  req = request_of.check(where, req)
  local fields = merged(self, req, streaming)
  local request = self.spoken.request(fields)
  return endpoint_for(self, where, request, streaming), encode(where, request.body), fields.max_tokens
end

local RUN = { __index = { attempt = 1, sent = false }, -- until something else is written
  __close = observe.run_closed }

--- One call: what its attempts have in common.
local function run_of(self, where, req, streaming, opts)
  local endpoint, body, max_tokens = prepare(self, where, req, streaming)
  local breaker = self.breaker
  if breaker and type(req) == "table" and req.model and req.model ~= self.opts.model then
    breaker = breakers.of(self.base, self.opts.provider .. "/" .. req.model, self.breaker_options)
  end
  -- This table is made for every call, and one that grows is made twice. With limits, or in a chain, it comes
  -- to have more than eight fields: then nine are named here, which makes room for sixteen.
  if opts or self.limiter.active then
    return setmetatable({ model = self, breaker = breaker, endpoint = endpoint, body = body, id = sys.uuid(),
      sent = nil, streaming = streaming and not (opts and opts.whole) or nil, max_tokens = max_tokens, opts = opts },
      RUN)
  end
  local run = setmetatable({ model = self, breaker = breaker, endpoint = endpoint, body = body, id = sys.uuid(),
    sent = nil, permit = nil, streaming = streaming or nil }, RUN)
  if max_tokens then run.max_tokens = max_tokens end
  return run
end

-- Failures ------------------------------------------------------------------------------------------

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

local function whole_reply(run, response)
  local self = run.model
  local body = response:body()
  local ok, decoded = pcall(json.decode, body, { repair = true })
  if not ok or type(decoded) ~= "table" then
    call.fail(run, failed_status(self, response:status(), response, body), response)
  end
  local assembler = assemble.new { think_tags = self.quirks.think_tags }
  for _, delta in ipairs(self.spoken.reply(decoded)) do
    local _, failure = assembler:feed(delta)
    if failure then call.fail(run, failure, response) end
  end
  local _, failure = assembler:finish()
  if failure then call.fail(run, failure, response) end
  return assembler:reply()
end

--- The fields of the reply to a plain answer, without building a table of its body, and whether its headers
--- speak of limits; else nil. All at once: a table that grows is a table made twice.
local function plain_reply(self, response)
  local fast, opts = self.spoken.fast, self.opts
  if not fast or self.quirks.think_tags then return nil end
  local text, reason, rid, model, input, output, total, cached, thought, ttft, elapsed, limited = response:answer(fast)
  local finish = text and PLAIN[reason]
  if not finish then return nil end
  return { text = text, finish_reason = finish, finish_reason_raw = reason, id = rid, model = model or opts.model,
    usage = input and { input_tokens = input, output_tokens = output,
      total_tokens = total or output and input + output, cached_tokens = cached or 0,
      reasoning_tokens = thought or 0 } or {},
    response = response, provider = opts.provider, asked = opts.model, ttft = ttft, elapsed = elapsed }, limited
end

--- The same for any other answer.
local function other_reply(run, response)
  local reply, opts = whole_reply(run, response), run.model.opts
  reply.response, reply.provider, reply.asked = response, opts.provider, opts.model
  reply.model = reply.model or opts.model
  reply.ttft, reply.elapsed = response:times()
  return reply
end

--- One attempt of ask: a reply, or raises. What it took is given back however it is left.
local function ask_once(run)
  local self, breaker = run.model, run.breaker
  local limiter, name = self.limiter, self.idempotency
  if breaker and not breaker.pass then call.peek(run) end
  if not limiter.permits:try_acquire() then call.place(run) end
  local place <close> = limiter.permits -- luacheck: ignore 211
  local charge = limiter.active and call.charge(run)
  local permit = breaker and breaker.pass
  if permit then run.permit = permit end -- nothing can fail before it is sent; else `enter` minds the charge
  local guard <close> = breaker and not permit and call.enter(run) -- luacheck: ignore 211
  if charge then charge.state = "sent" end
  local sent, waited = now(), run.waited -- known when anything came before: a wait, or another attempt
  run.sent = sent
  if observe.on and (observe.full or run.observed) then observe.sent(run) end
  local total = waited and run.first and call.total(run) or nil
  local response, kind, phase, message, elapsed
  if name then response, kind, phase, message, elapsed = run.endpoint:request(run.body, total, name, run.id)
  else response, kind, phase, message, elapsed = run.endpoint:request(run.body, total) end
  if not response then
    call.fail(run, { kind = kind, phase = phase, message = message, elapsed = elapsed })
  end
  local status = response:status()
  if status < 200 or status > 299 then
    call.fail(run, failed_status(self, status, response, response:body()), response)
  end
  local fields, limited = plain_reply(self, response)
  local reply = setmetatable(fields or other_reply(run, response), Reply)
  if self.price then reply.price = self.price end
  permit = run.permit
  if permit then permit:success(reply.elapsed, sent + reply.elapsed) end
  if charge then charge:settle_by(reply.usage, #reply.text) end
  if limited ~= false or limiter.gates > 0 then call.learn(run, response) end
  if charge then
    run.charge = nil -- nobody else knows of it: it can be the next request's
    charge.after, limiter.spare = limiter.spare, charge
  end
  if waited then call.conclude_reply(run, reply) end
  return reply
end

local function no_model(name)
  options.raise(("model.%s: called without its model; write a colon: model:%s(…)"):format(name, name))
end

--- Asks and waits for the whole answer. A string is a prompt; a table may have prompt, system,
--- messages, tools, max_tokens, … (sluice.Request).
--- Raises an ordinary error for a wrong request, a sluice.Error for a failure of the world.
---@async
---@param req string|sluice.Request
---@param opts? sluice.CallOptions  for sluice's own modules
---@return sluice.Reply
function Model:ask(req, opts)
  if type(self) ~= "table" or not self.spoken then no_model "ask" end
  if not self.spoken.reply then return self:stream(req, opts):reply() end
  return call.run(run_of(self, "model:ask", req, false, opts), ask_once)
end

-- Streaming -----------------------------------------------------------------------------------------

-- A place that goes over to the stream's handle once there is one.
local Place = {}
function Place:__close()
  if self.permits then self.permits:release() end
end

-- What a stream asks of the call it belongs to.

function Stream.decorate(stream, err)
  local run, permit = stream.run, stream.run.permit
  err.request_id = err.request_id or stream.request_id
  if permit and err.kind == "interrupted" then permit:broke(err) end
  return call.decorate(run, err)
end

--- For what is raised after the commit; before it, call.run does.
function Stream.conclude(stream, err)
  return call.conclude_error(stream.run, err)
end

function Stream.finish_reply(stream, reply)
  local run = stream.run
  reply.request_id, reply.asked = stream.request_id, stream.model
  if run.model.price then reply.price = run.model.price end
  Reply.new(reply)
  if run.entries or run.waited then call.conclude_reply(run, reply) end
  return reply
end

local function new_stream(run, handle)
  local self = run.model
  local quirks, spoken, opts = self.quirks, self.spoken, self.opts
  local assembler = assemble.new(quirks.think_tags and quirks)
  if spoken.fast and assembler.fast then handle:plain(spoken.fast) end
  return Stream.new { -- six fields, with ttft seven: most streams never have more than eight
    handle = handle,
    assembler = assembler,
    provider = opts.provider,
    model = opts.model,
    request_id = Reply.request_id_of(handle),
    run = run,
  }
end

--- A reply that is no event stream: an error, a page of a proxy, or a whole answer after all. Returns
--- what it fails with, nil for an answer.
local function other_than_events(run, handle, stream)
  local self, status = run.model, handle:status()
  local body, kind, phase, message, elapsed = handle:body()
  if not body then
    return { kind = kind, phase = phase, message = message, elapsed = elapsed }
  end
  local ok, decoded = pcall(json.decode, body, { repair = true })
  if status >= 200 and status <= 299 and ok and type(decoded) == "table" and self.spoken.reply then
    return stream:take_whole(self.spoken.reply(decoded))
  end
  return failed_status(self, status, handle, body)
end

-- Codes of errors, inside a stream, that a 401 would stand for (a lack of permission is none of them).
local REFUSED = { authentication_error = true, invalid_authentication_error = true, invalid_api_key = true,
  api_key_invalid = true, unauthorized = true, invalid_token = true, token_expired = true, ["401"] = true }

--- The status was 200, and the first event refuses the credential: what a 401 is, so it is answered as one
--- (token/authorized.lua), once. Returns the other stream, or nil when there is nothing else to offer.
local function stream_again(run, place, refused, err)
  local self, endpoint = run.model, run.endpoint
  if err.status or not REFUSED[tostring(err.code)] or not endpoint.refused or not endpoint:refused(refused) then
    return nil
  end
  local limiter, name = self.limiter, self.idempotency
  refused:close() -- its place goes with it
  if not limiter.permits:try_acquire() then call.place(run) end
  place.permits = limiter.permits
  local handle, kind, phase, message, elapsed
  if name then handle, kind, phase, message, elapsed = endpoint:stream_again(run.body, call.total(run), name, run.id)
  else handle, kind, phase, message, elapsed = endpoint:stream_again(run.body, call.total(run)) end
  if not handle then call.fail(run, { kind = kind, phase = phase, message = message, elapsed = elapsed }) end
  local opening <close> = handle -- luacheck: ignore 211
  handle:hold(place.permits)
  place.permits = nil
  local stream, status = new_stream(run, handle), handle:status()
  if status < 200 or status > 299 or not handle:is_events() then err = other_than_events(run, handle, stream)
  else err = stream:commit(handle:until_text(before_first, stream)) end
  if err then call.fail(run, err, handle) end
  handle:keep()
  return stream, handle
end

--- One attempt of stream: a stream whose first content is there, or raises.
local function stream_once(run)
  local self, breaker = run.model, run.breaker
  local limiter, name = self.limiter, self.idempotency
  if breaker and not breaker.pass then call.peek(run) end
  if not limiter.permits:try_acquire() then call.place(run) end
  local place <close> = setmetatable({ permits = limiter.permits }, Place)
  local charge = limiter.active and call.charge(run)
  local permit = breaker and breaker.pass
  if permit then run.permit = permit end -- nothing can fail before it is sent; else `enter` minds the charge
  local guard <close> = breaker and not permit and call.enter(run) -- luacheck: ignore 211
  if charge then charge.state = "sent" end
  run.sent = now()
  if observe.on and (observe.full or run.observed) then observe.sent(run) end
  local total = (run.first or not run.streaming) and call.total(run) or nil
  local handle, kind, phase, message, elapsed
  if name then handle, kind, phase, message, elapsed = run.endpoint:stream(run.body, total, name, run.id)
  else handle, kind, phase, message, elapsed = run.endpoint:stream(run.body, total) end
  if not handle then
    call.fail(run, { kind = kind, phase = phase, message = message, elapsed = elapsed })
  end
  local opening <close> = handle -- luacheck: ignore 211
  handle:hold(place.permits) -- given back when the handle is closed, whoever closes it
  place.permits = nil
  local stream = new_stream(run, handle)
  local status = handle:status()
  local err
  if status < 200 or status > 299 or not handle:is_events() then err = other_than_events(run, handle, stream)
  else err = stream:commit(handle:until_text(before_first, stream)) end
  if err then
    local other, its
    if err.kind == "auth" then other, its = stream_again(run, place, handle, err) end
    if not other then call.fail(run, err, handle) end
    stream, handle = other, its
  else
    handle:keep() -- from here on the stream closes it
  end
  run.body = nil -- sent once and for all; thousands of long prompts may be on their way
  permit = run.permit
  if permit then permit:success(stream.ttft or now() - run.sent) end
  if charge then stream:settles(charge) end
  call.learn(run, handle)
  return stream
end

--- Asks for a streamed answer. Returns when the first content is there: what fails before it is
--- retried like an ask, what fails after it is raised by the reading loop as `interrupted`.
--- The stream is closed at the end of its block (`<close>`), when its loop is left, when the task is
--- cancelled, and at the latest with the task group it was opened in.
---@async
---@param req string|sluice.Request
---@param opts? sluice.CallOptions  for sluice's own modules
---@return sluice.Stream
function Model:stream(req, opts)
  if type(self) ~= "table" or not self.spoken then no_model "stream" end
  return call.run(run_of(self, "model:stream", req, true, opts), stream_once)
end

--- Asks for a value instead of text: `model:json("…", { name = "string", age = "integer?" })`. The schema is a
--- description as for sluice.schema, or a JSON Schema. The provider's own mode is used where it has one, and
--- the answer is checked whatever it promises; one that does not fit is shown to the model with what is wrong
--- (`repairs` times, 1 by default, 0 to 5). Raises `protocol` when it is still of no use: code "schema" (with the
--- faults in err.faults), "no_json" or "cut_off"; err.partial is the last answer.
--- The reply is the last one; its `rounds` says how often the model was asked, its `total` what was used.
---@async
---@param req string|sluice.Request
---@param schema string|table
---@param opts? { repairs?: integer }
---@return any value
---@return sluice.Reply reply
function Model:json(req, schema, opts)
  return require("sluice.structured").ask(self, "model:json", req, schema, opts)
end

--- Pays for a hedge to this model: hedges draw on the same account as retries, so that a provider in
--- trouble is not asked twice by everybody. Returns what was taken, for `paid` in the call's options,
--- or nil: start no hedge now.
--- For sluice's own modules.
---@return number?
function Model:pay_hedge()
  local quota = self.quota
  if not quota then return 0 end
  return quota:take(quotas.COST) and quotas.COST or nil
end

local model = { new = Model.new, metatable = Model }

--- The mock's address, when this run has one.
---@return string?
function model.mock_address()
  return mock_url
end

--- Calls `f(provider, model, requests)` for every address a model has used: how many are under way now.
---@param f fun(provider: string, model: string, requests: integer)
function model.each_load(f)
  for endpoint, who in pairs(under_way) do f(who[1], who[2], endpoint:load()) end
end

--- From now on every model that is made talks to this address, with no key: --mock.
---@param url string  the mock's address, without /v1
function model.use_mock(url)
  mock_url = url
end

return model
