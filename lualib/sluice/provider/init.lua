--- The registry of providers: who they are, which protocol they speak, what is odd about them.
-- Owns: names, addresses, the names of environment variables, quirks.
-- Never: reads the environment, opens a connection, or sees a key.
-- Reading order: builtin.lua (the data), get, register.

local json = require "sluice.json"
local options = require "sluice.options"
local failure = require "sluice.provider.failure"
local builtin = require "sluice.provider.builtin"

local PROTOCOLS = { "openai", "anthropic" }

local provider = {}

-- Quirks a provider may set for a protocol; what they do is told in the protocol's file.
local QUIRKS = options.spec({
  max_tokens_field = { type = "string", enum = { "max_tokens", "max_completion_tokens" } },
  stream_options = { type = "boolean" },
  system_role = { type = "string", enum = { "system", "developer", "user" } },
  thinking = { type = "string", enum = { "effort", "enable", "object", "reasoning" } },
  reasoning_field = { type = "string" },
  reasoning_required = { type = "boolean" },
  top_k = { type = "boolean" },
  min_p = { type = "boolean" },
  version = { type = "string" },
  adaptive = { type = "boolean" },
  tool_choice_any = { type = "boolean" },
  parallel_switch = { type = "boolean" },
  json_mode = { type = "string", enum = { "schema", "object", "text", "tool", "format" } },
  think_tags = { type = { "boolean", "string" }, expected = "true, false or 'open'" },
}, "quirk")

local function valid_name(name)
  return name:find("^[%w_.-]+$") ~= nil, "letters, digits, '_', '-' and '.', no slash"
end

local function valid_protocol(p)
  if type(p) == "string" then
    return p == "openai" or p == "anthropic", "'openai', 'anthropic' or a table with request and event"
  end
  return type(p.request) == "function" and type(p.event) == "function", "a table with functions request and event"
end

local DEFINITION = options.spec {
  name = { type = "string", required = true, check = valid_name },
  protocol = { type = { "string", "table" }, check = valid_protocol },
  base_url = { type = { "string", "table" } },
  base_url_env = { type = { "string", "table" } },
  key_env = { type = { "string", "list" } },
  keyless = { type = "boolean" },
  headers = { type = "table" },
  quirks = { type = "table" },
  docs = { type = "string" },
  request = { type = "function" },
  event = { type = "function" },
  reply = { type = "function" },
  failure = { type = "function" },
  auth = { type = { "string", "table", "function" } },
}

local registry = {}

-- Addresses ---------------------------------------------------------------------------------------

--- The host of an address, without user, password and port.
---@param url string
---@return string?
function provider.host(url)
  local authority = url:match("^%a[%w+.-]*://([^/?#]*)")
  if not authority then return nil end
  return (authority:gsub("^.*@", ""):gsub(":%d*$", "")):lower()
end

--- `base` and a path as one address. A base that ends in /v1 takes a path that begins with it, so
--- that a base meant for the other protocol still leads where it should.
---@param base string
---@param path string
---@return string
function provider.join(base, path)
  base = base:gsub("/+$", "")
  if path:find("^/v1/") and base:find("/v1$") then path = path:sub(4) end
  return base .. path
end

--- "siliconflow/deepseek-ai/DeepSeek-V3" -> provider, model: the first slash divides.
---@param name string
---@return string? provider, string? model
function provider.split(name)
  return name:match("^([^/]+)/(.+)$")
end

-- Resolving ---------------------------------------------------------------------------------------

local HEADERS = { bearer = { "Authorization", "Bearer " } }

--- How a definition wants its key sent, as the protocol's auth() is asked.
local function auth_function(auth, protocol)
  if type(auth) == "table" then auth = auth[protocol.name] end
  if type(auth) == "function" then return auth end
  if type(auth) == "string" then
    local known = HEADERS[auth]
    local header, prefix = known and known[1] or auth, known and known[2] or ""
    return function() return header, prefix end
  end
  return protocol.auth or function() return "Authorization", "Bearer " end
end

local function by_protocol(value, name)
  if type(value) == "table" then return value[name] end
  return value
end

--- A function of the definition's own, which gets the protocol's as its second argument: to build on
--- it, or to ignore it.
local function over(own, base)
  if not own then return base end
  return function(value) return own(value, base) end
end

--- One definition seen through one protocol.
local function resolve(def, protocol_name)
  local protocol = protocol_name or def.protocol
  if type(protocol) == "string" then protocol = require("sluice.provider." .. protocol) end
  local name = protocol.name or "own"
  local reply = over(def.reply, protocol.reply)
  if def.event and not def.reply then reply = nil end -- its whole replies are as unknown as its events
  local own_failure, base_failure = def.failure, protocol.failure or failure.parse
  return {
    name = def.name,
    protocol = protocol,
    protocol_name = name,
    base_url = by_protocol(def.base_url, name),
    base_url_env = by_protocol(def.base_url_env, name),
    key_env = def.key_env,
    keyless = def.keyless or false,
    headers = def.headers,
    docs = def.docs,
    quirks = by_protocol(def.quirks, name) or {},
    request = over(def.request, protocol.request),
    event = over(def.event, protocol.event),
    reply = reply,
    failure = own_failure and function(status, headers, body, now)
      return own_failure(status, headers, body, now, base_failure)
    end or base_failure,
    auth = auth_function(def.auth, protocol),
    -- the C fast path knows the two built-in forms of events; an own event() must see them all
    fast = not def.event and (protocol.name == "openai" or protocol.name == "anthropic") and protocol.name or nil,
  }
end

--- The provider of that name, seen through its own protocol or the one named.
---@param name string
---@param protocol? "openai"|"anthropic"  instead of the provider's own
---@param where? string  the function to blame, default "sluice.model"
---@return sluice.Provider  raises an ordinary error for an unknown name or protocol
function provider.get(name, protocol, where)
  where = where or "sluice.model"
  local entry = type(name) == "string" and registry[name] or nil
  if not entry then
    local shown = type(name) == "string" and #name <= 40 and ("'%s'"):format(name) or options.got(name)
    options.raise(("%s: unknown provider %s%s"):format(where, shown,
      options.suggest(name, provider.names())))
  end
  if protocol ~= nil and protocol ~= "openai" and protocol ~= "anthropic" then
    options.raise(("%s: option 'protocol' must be 'openai' or 'anthropic', got %s%s"):format(where,
      type(protocol) == "string" and ("'%s'"):format(protocol:sub(1, 40)) or options.got(protocol),
      type(protocol) == "string" and options.suggest(protocol, PROTOCOLS) or ""))
  end
  local key = protocol or ""
  local resolved = entry.resolved[key]
  if not resolved then
    resolved = resolve(entry.def, protocol)
    entry.resolved[key] = resolved
  end
  return resolved
end

--- The quirks that hold at an address. A known host has its own, whatever name it is used under; the
--- provider's own hold everywhere else, but those of "openai" only at OpenAI.
---@param resolved sluice.Provider
---@param base_url? string
---@return table quirks
function provider.quirks(resolved, base_url)
  local host = base_url and provider.host(base_url)
  if host then
    for _, def in ipairs(builtin) do
      for _, known in ipairs(def.hosts or {}) do
        if known == host then return by_protocol(def.quirks, resolved.protocol_name) or {} end
      end
    end
    if registry[resolved.name] and registry[resolved.name].def.quirks_only_at_hosts then return {} end
  end
  return resolved.quirks
end

--- Names of all providers, in alphabetical order.
---@return string[]
function provider.names()
  local names = {}
  for name in pairs(registry) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function add(def)
  registry[def.name] = { def = def, resolved = {} }
end

--- Makes a provider known: sluice.provider { … }. Registering a name again replaces it, so that a
--- file of rules may be loaded twice.
---
--- The functions are pure. `request(call, base)` returns a sluice.HttpRequest, `event(ev, base)` and
--- `reply(decoded, base)` a list of sluice.Delta, `failure(status, headers, body, now, base)` fields
--- of an error; `base` is the protocol's own function, to build on. With an own event() and no
--- reply(), whole answers are asked for as streams.
---@param def sluice.ProviderDefinition
---@return sluice.Provider
function provider.register(def)
  local where = "sluice.provider"
  options.check(where, def, DEFINITION)
  local copy = {}
  for key, value in pairs(def) do copy[key] = value end
  if type(copy.key_env) == "string" then copy.key_env = { copy.key_env } end
  if copy.protocol == nil then
    if copy.event and not copy.request then
      options.raise(where .. ": option 'request' is missing: a provider with its own event() needs one, or a protocol")
    end
    copy.protocol = "openai"
  end
  if copy.quirks then
    -- flat, or by protocol
    local flat = true
    for _, name in ipairs(PROTOCOLS) do
      if copy.quirks[name] ~= nil then flat = false end
    end
    if flat then copy.quirks = { openai = copy.quirks, anthropic = copy.quirks } end
    for name, quirks in pairs(copy.quirks) do
      local problem = options.problem(quirks, QUIRKS)
      if problem then options.raise(("%s: quirks for %s: %s"):format(where, tostring(name), problem)) end
    end
  end
  add(copy)
  return provider.get(copy.name)
end

for _, def in ipairs(builtin) do add(def) end

-- Bodies written once -------------------------------------------------------------------------------

-- Stands where the prompt will: letters that JSON leaves alone, and that nobody writes
local PLACE = "sluice-prompt-place-5f1d9c07e2b84a63"

---@class sluice.RequestTemplate
---@field request sluice.HttpRequest  with `body` replaced by the two pieces
---@field prefix string
---@field suffix string

--- The request for a call whose only changing part is `prompt`, as two pieces of finished JSON:
--- body = prefix .. json.quote(prompt) .. suffix. Models use it for plain prompts, so that nothing
--- constant is encoded twice.
---@param resolved sluice.Provider
---@param call sluice.Call  without prompt
---@return sluice.RequestTemplate?  nil when the body cannot be divided so
function provider.template(resolved, call)
  local copy = {}
  for key, value in pairs(call) do copy[key] = value end
  copy.prompt = PLACE
  local request = resolved.request(copy)
  if type(request.body) ~= "table" then return nil end
  local text = json.encode(request.body)
  local from, to = text:find('"' .. PLACE .. '"', 1, true)
  if not from or text:find(PLACE, to + 1, true) or text:find(PLACE, 1, true) ~= from + 1 then return nil end
  return { request = request, prefix = text:sub(1, from - 1), suffix = text:sub(to + 1) }
end

return provider
