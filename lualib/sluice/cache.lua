--- Answers kept for a worse day: in memory, and in a file when one is named.
-- Owns: the key of a request, the ceilings, the file. A cache is not asked before the model; it is a
-- step of a fallback (`cache:stale()`), and learns from the answers of the steps it watches
-- (`cache:watch(model)`).
-- The file is JSON Lines, one answer a line, appended; a line that is cut off or broken is skipped.

local sys = require "sluice.core.sys"
local json = require "sluice.json"
local log = require "sluice.log"
local options = require "sluice.options"
local Reply = require "sluice.reply"

local ENTRIES = 1000
local BYTES = 16 << 20 -- of texts kept in memory

local SPEC = options.spec {
  path = { type = "string", nonempty = true },
  max = { type = "integer", min = 1, default = ENTRIES },
  ttl = { type = "seconds" },
}

---@class sluice.Cache
local Cache = { __name = "sluice.cache" }
Cache.__index = Cache

-- What of a request makes its answer another one.
local KEY_FIELDS = { "system", "prompt", "messages", "tools", "tool_choice", "response_format", "stop" }

--- A text that is the same for requests that mean the same: keys in order, whatever order they came in.
local function canonical(value, out)
  if type(value) ~= "table" then
    out[#out + 1] = type(value) == "string" and json.quote(value) or tostring(value)
    return
  end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  out[#out + 1] = "{"
  for _, key in ipairs(keys) do
    out[#out + 1] = tostring(key)
    out[#out + 1] = "="
    canonical(value[key], out)
    out[#out + 1] = ","
  end
  out[#out + 1] = "}"
end

local function key_of(req)
  if type(req) == "string" then req = { prompt = req } end
  local out = {}
  for _, field in ipairs(KEY_FIELDS) do
    if req[field] ~= nil then
      out[#out + 1] = field .. ":"
      canonical(req[field], out)
    end
  end
  return table.concat(out)
end

-- Memory ------------------------------------------------------------------------------------------------

--- Keeps an entry and lets the oldest ones go. `order` is a queue of keys; a key that was put again
--- stands in it twice, and only its last place counts.
local function keep(self, key, entry)
  local old = self.entries[key]
  if old then self.bytes = self.bytes - #old.text - #key else self.count = self.count + 1 end
  self.entries[key] = entry
  self.bytes = self.bytes + #entry.text + #key
  self.last = self.last + 1
  entry.place = self.last
  self.order[self.last] = key
  while self.count > self.max or self.bytes > BYTES and self.count > 1 do
    local oldest = self.order[self.first]
    local gone = self.entries[oldest]
    if gone and gone.place == self.first then
      self.entries[oldest] = nil
      self.count = self.count - 1
      self.bytes = self.bytes - #gone.text - #oldest
    end
    self.order[self.first] = nil
    self.first = self.first + 1
  end
end

local function load_file(self)
  local file = io.open(self.path, "rb")
  if not file then return end
  local skipped = 0
  for line in file:lines() do
    local ok, entry = pcall(json.decode, line)
    if ok and type(entry) == "table" and type(entry.key) == "string" and type(entry.text) == "string" then
      keep(self, entry.key, { text = entry.text, at = entry.at or 0, model = entry.model })
    elseif line ~= "" then
      skipped = skipped + 1
    end
  end
  file:close()
  if skipped > 0 then
    log.warn("cache: lines that are no answers were skipped", { file = self.path, lines = skipped })
  end
end

--- A cache: { path = a file to keep answers in, max = 1000 answers, ttl = seconds after which an
--- answer is too old even for a bad day }.
---@param opts? { path?: string, max?: integer, ttl?: number }
---@return sluice.Cache
function Cache.new(opts)
  opts = options.fill(options.check("sluice.cache", opts or {}, SPEC), SPEC)
  local self = setmetatable({ entries = {}, order = {}, first = 1, last = 0, count = 0, bytes = 0,
    path = opts.path, max = opts.max, ttl = opts.ttl }, Cache)
  if self.path then load_file(self) end
  return self
end

--- Keeps the answer to a request. Answers that were cut short or degraded are not kept.
---@param req string|sluice.Request
---@param reply sluice.Reply
function Cache:put(req, reply)
  if reply.text == "" or reply.finish_reason ~= "stop" or reply.degraded then return end
  local key = key_of(req)
  local entry = { text = reply.text, at = sys.wall(), model = reply.model }
  keep(self, key, entry)
  if not self.path then return end
  local file, why = io.open(self.path, "ab")
  if not file then
    log.warn("cache: the answer is kept in memory only", { file = self.path, why = why })
    self.path = nil
    return
  end
  file:write(json.encode { key = key, text = entry.text, at = entry.at, model = entry.model }, "\n")
  file:close()
end

--- The kept answer to a request, or nil. Its `age` is in seconds.
---@param req string|sluice.Request
---@return sluice.Reply?
function Cache:get(req)
  local entry = self.entries[key_of(req)]
  if not entry then return nil end
  local age = sys.wall() - entry.at
  if self.ttl and age > self.ttl then return nil end
  return Reply.new { text = entry.text, finish_reason = "stop", usage = {}, model = entry.model or "cache",
    provider = "cache", age = age, elapsed = 0, attempts = {} }
end

--- A rule for a fallback: the answer this request had before, if it had one.
---@return fun(req: sluice.Request): sluice.Reply?
function Cache:stale()
  return function(req) return self:get(req) end
end

local Watched = { __name = "sluice.cache.watched" }
Watched.__index = Watched

function Watched:ask(req, ...)
  local reply = self.target:ask(req, ...)
  self.cache:put(req, reply)
  return reply
end

--- Streams are handed on as they are; what was said is kept when somebody reads the reply to its end.
function Watched:stream(req, ...)
  local stream, cache = self.target:stream(req, ...), self.cache
  local finish = stream.finish_reply
  if finish then
    stream.finish_reply = function(reply)
      local result = finish(reply)
      cache:put(req, result)
      return result
    end
  end
  return stream
end

function Watched:__tostring() return tostring(self.target) end

--- The same model, and its answers are kept.
---@param target sluice.Model
---@return sluice.Model
function Cache:watch(target)
  if type(target) ~= "table" or type(target.ask) ~= "function" then
    options.raise("cache:watch: expected a model, got " .. options.got(target))
  end
  return setmetatable({ target = target, cache = self, name = target.name }, Watched)
end

Cache.key = key_of

return Cache
