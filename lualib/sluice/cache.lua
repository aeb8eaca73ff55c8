--- Answers kept for a worse day: in memory, and in a file when one is named.
-- Owns: the key of a request, the ceilings, the file. A cache is not asked before the model; it is a
-- step of a fallback (`cache:stale()`), and learns from the answers of the models it watches
-- (`cache:watch(model)`).
-- The file is JSON Lines, one answer a line, appended, and written anew when most of it is out of date;
-- a line that is cut off or broken is skipped. It holds prompts and answers as they are: keep it where
-- only you can read it.
-- One cache is for one kind of question: which model answered, with which temperature and which default
-- system prompt, is not part of the key.

local sys = require "sluice.core.sys"
local json = require "sluice.json"
local log = require "sluice.log"
local options = require "sluice.options"
local Reply = require "sluice.reply"
local Tap = require "sluice.fallback.tap"

local ENTRIES = 1000
local BYTES = 16 << 20     -- of keys and texts kept in memory
local OUTDATED_MIN = 1000  -- lines of a file that may be out of date, at least

local SPEC = options.spec {
  path = { type = "string", nonempty = true },
  max = { type = "integer", min = 1, default = ENTRIES },
  ttl = { type = "seconds", above = 0 },
}

---@class sluice.Cache
---@field count integer  answers kept
local Cache = { __name = "sluice.cache" }
Cache.__index = Cache

-- What of a request makes its answer another one.
local KEY_FIELDS = { "system", "prompt", "messages", "tools", "tool_choice", "response_format", "stop" }

local function by_text(a, b)
  local ta, tb = type(a), type(b)
  if ta ~= tb then return ta < tb end
  if ta == "number" or ta == "string" then return a < b end
  return tostring(a) < tostring(b)
end

--- A text that is the same for requests that mean the same: keys in order, whatever order they came in.
local function canonical(value, out)
  if type(value) ~= "table" then
    out[#out + 1] = type(value) == "string" and ("%q"):format(value) or tostring(value)
    return
  end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, by_text)
  out[#out + 1] = "{"
  for _, key in ipairs(keys) do
    canonical(key, out)
    out[#out + 1] = "="
    canonical(value[key], out)
    out[#out + 1] = ","
  end
  out[#out + 1] = "}"
end

--- A reply among the messages counts as what it says, not as what it cost.
local function message_of(message)
  if getmetatable(message) == Reply then return message:message() end
  return message
end

local function key_of(req)
  if type(req) == "string" then req = { prompt = req } end
  local out = {}
  for _, field in ipairs(KEY_FIELDS) do
    local value = req[field]
    if field == "messages" and type(value) == "table" then
      local list = {}
      for i, message in ipairs(value) do list[i] = message_of(message) end
      value = list
    end
    if value ~= nil then
      out[#out + 1] = field .. ":"
      canonical(value, out)
    end
  end
  return table.concat(out)
end

-- Memory ------------------------------------------------------------------------------------------------

--- The queue of keys without the places that no longer count.
local function compact(self)
  local order, last = {}, 0
  for place = self.first, self.last do
    local key = self.order[place]
    local entry = self.entries[key]
    if entry and entry.place == place then
      last = last + 1
      order[last], entry.place = key, last
    end
  end
  self.order, self.first, self.last = order, 1, last
end

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
  if self.last - self.first > 2 * self.count + 64 then compact(self) end
end

-- The file ----------------------------------------------------------------------------------------------

local function line_of(key, entry)
  return json.encode { key = key, text = entry.text, at = entry.at, model = entry.model } .. "\n"
end

--- The file is of no use: the cache goes on in memory.
local function give_up_file(self, why)
  log.warn("cache: answers are kept in memory only", { file = self.path, why = why })
  self.path = nil
end

local function load_file(self)
  local file <close>, why, code = io.open(self.path, "rb")
  if not file then
    if code ~= 2 then give_up_file(self, why) end -- 2: there is none yet
    return
  end
  local readable, reason = file:read(0)
  if not readable and reason then return give_up_file(self, reason) end -- a folder
  local skipped, ends_well = 0, true
  for line in file:lines "L" do
    ends_well = line:sub(-1) == "\n"
    local ok, entry = pcall(json.decode, line)
    if ok and type(entry) == "table" and type(entry.key) == "string" and type(entry.text) == "string" then
      self.lines = self.lines + 1
      keep(self, entry.key, { text = entry.text, at = tonumber(entry.at) or 0,
        model = type(entry.model) == "string" and entry.model or nil })
    elseif line:find "%S" then
      skipped = skipped + 1
    end
  end
  self.torn = not ends_well
  if skipped > 0 then
    log.warn("cache: lines that are no answers were skipped", { file = self.path, lines = skipped })
  end
end

--- Writes what is in memory in place of the file, most of which is out of date.
local function rewrite(self)
  local parts = {}
  for place = self.first, self.last do
    local key = self.order[place]
    local entry = key and self.entries[key]
    if entry and entry.place == place then parts[#parts + 1] = line_of(key, entry) end
  end
  local new = ("%s.%d.new"):format(self.path, sys.pid())
  local file, why = io.open(new, "wb")
  if file then
    local ok
    ok, why = file:write(table.concat(parts))
    local closed, close_why = file:close()
    if ok and closed then ok, why = os.rename(new, self.path) else ok, why = nil, why or close_why end
    if not ok then os.remove(new) file = nil end
  end
  if not file then return give_up_file(self, why) end
  self.lines, self.torn = #parts, false
end

local function append(self, key, entry)
  if self.lines >= self.count * 2 + math.max(OUTDATED_MIN, self.max) then return rewrite(self) end
  local line = (self.torn and "\n" or "") .. line_of(key, entry)
  local file, why = io.open(self.path, "ab")
  local ok = file ~= nil
  if file then
    file:setvbuf("full", #line + 1) -- one write: lines of several processes do not mix
    ok, why = file:write(line)
    local closed, close_why = file:close()
    ok, why = ok and closed, why or close_why
  end
  if not ok then return give_up_file(self, why) end
  self.lines, self.torn = self.lines + 1, false
end

-- Public ------------------------------------------------------------------------------------------------

local function home(path)
  local rest = path:match "^~(/.*)$"
  local dir = rest and sys.env "HOME"
  return dir and dir ~= "" and dir .. rest or path
end

--- A cache: { path = a file to keep answers in, max = 1000 answers, ttl = seconds after which an
--- answer is too old even for a bad day }.
---@param opts? { path?: string, max?: integer, ttl?: number }
---@return sluice.Cache
function Cache.new(opts)
  opts = options.fill(options.check("sluice.cache", opts or {}, SPEC), SPEC)
  local self = setmetatable({ entries = {}, order = {}, first = 1, last = 0, count = 0, bytes = 0, lines = 0,
    path = opts.path and home(opts.path), max = opts.max, ttl = opts.ttl }, Cache)
  if self.path then load_file(self) end
  return self
end

--- Keeps the answer to a request. Answers that were cut short, degraded, or that ask for tools are not
--- kept.
---@param req string|sluice.Request
---@param reply sluice.Reply
function Cache:put(req, reply)
  if reply.text == "" or reply.finish_reason ~= "stop" or reply.degraded or reply.provider == "cache" then return end
  local key = key_of(req)
  local entry = { text = reply.text, at = sys.wall(), model = reply.model }
  if #key + #entry.text > BYTES then return end
  keep(self, key, entry)
  if not self.path then return end
  local ok, why = pcall(append, self, key, entry)
  if not ok then log.warn("cache: an answer could not be written", { file = self.path, why = tostring(why) }) end
end

--- The kept answer to a request, or nil. Its `age` is in seconds.
---@param req string|sluice.Request
---@return sluice.Reply?
function Cache:get(req)
  local entry = self.entries[key_of(req)]
  if not entry then return nil end
  local age = math.max(0, sys.wall() - entry.at)
  if self.ttl and age > self.ttl then return nil end
  return Reply.new { text = entry.text, finish_reason = "stop", usage = {}, model = entry.model or "cache",
    provider = "cache", age = age, elapsed = 0, attempts = {} }
end

--- A rule for a fallback: the answer this request had before, if it had one.
---@return fun(req: sluice.Request): sluice.Reply?
function Cache:stale()
  return function(req) return self:get(req) end
end

function Cache:__tostring()
  return ("cache of %d answers%s"):format(self.count, self.path and " in " .. self.path or "")
end

-- Watched models ------------------------------------------------------------------------------------------

local Watched = { __name = "sluice.cache.watched" }

Watched.__index = function(self, key)
  local value = Watched[key]
  if value ~= nil then return value end
  return rawget(self, "target")[key] -- name, breaker, defaults …
end

---@async
function Watched:ask(req, opts)
  local reply = self.target:ask(req, opts)
  self.cache:put(req, reply)
  return reply
end

--- What was said is kept when the stream has been read to its end.
---@async
function Watched:stream(req, opts)
  local cache = self.cache
  return Tap.new(self.target:stream(req, opts), function(reply)
    if reply then cache:put(req, reply) end
  end)
end

function Watched:pay_hedge()
  local pay = self.target.pay_hedge
  if not pay then return 0 end
  return pay(self.target)
end

function Watched:with(changes)
  return self.cache:watch(self.target:with(changes))
end

function Watched:__tostring() return tostring(self.target) end

--- The same model, and its answers are kept.
---@param target sluice.Model
---@return sluice.Model
function Cache:watch(target)
  if type(target) ~= "table" or type(target.ask) ~= "function" or type(target.stream) ~= "function" then
    options.raise("cache:watch: expected a model, got " .. options.got(target))
  end
  return setmetatable({ target = target, cache = self }, Watched)
end

Cache.key = key_of

return Cache
