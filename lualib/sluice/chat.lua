--- Conversations: a model that remembers.
-- Owns: the history, what of it is sent, totals, the file it is saved in.
-- Never: keeps half a turn. A turn is what the user said and everything up to the answer, tool calls and their
-- results included. It becomes part of the history when its answer is complete, as one piece; when the call
-- fails, or its stream breaks, is cancelled or is left before its end, the history is as it was before, and
-- the question may simply be asked again. Turns that are under way at the same time do not see each other and
-- are appended in the order in which they end.
-- Reading order: chat.new, Chat:say, Chat:stream, window.

local file = require "sluice.core.file"
local secrets = require "sluice.core.secret"
local sys = require "sluice.core.sys"
local content = require "sluice.provider.content"
local json = require "sluice.json"
local options = require "sluice.options"
local request_of = require "sluice.provider.request"
local tokens = require "sluice.tokens"
local tool = require "sluice.tool"
local Rounds = require "sluice.tool.rounds"

local TRIM_TO = 0.75      -- of history_tokens, so that the beginning stays the same for some turns (and cached)
local SCALE_MIN, SCALE_MAX = 0.5, 2 -- how far a provider's count may correct the estimate
local FORMAT = 1          -- of the file
local DEPTH_MAX = 128     -- what JSON takes

local function is_model(v)
  return type(v) == "string" or type(v) == "table" and type(v.ask) == "function" and type(v.stream) == "function"
end

local SPEC = options.spec {
  model = { required = true, check = is_model, expected = "a model, a fallback, or 'provider/model'" },
  system = { type = { "string", "list" } },
  tools = { type = "list", expected = "a list of tools, { tool, … }" },
  history_tokens = { type = "integer", min = 1 },
  rounds = Rounds.SPEC.entries.rounds,
  concurrency = Rounds.SPEC.entries.concurrency,
  result_bytes = Rounds.SPEC.entries.result_bytes,
  on_call = { type = "function" },
  allow = { type = "function" },
  messages = { type = "list", items = { type = "table" } },
}
local OF_LOOP = { "rounds", "concurrency", "result_bytes", "on_call", "allow" }

---@class sluice.ChatOptions : sluice.LoopOptions
---@field model sluice.Model|sluice.Fallback|string  anything with ask and stream, or "provider/model"
---@field system? string|sluice.Part[]
---@field history_tokens? integer  estimated tokens that system, tools, history and question may have together; the
---oldest whole turns stay behind
---@field messages? sluice.Message[]  a history to begin with

---@class sluice.Chat
---@field model sluice.Model|sluice.Fallback  may be changed between turns
---@field system? string|sluice.Part[]       may be changed between turns
---@field messages sluice.Message[]  all of the history, in sluice's own form
---@field usage sluice.Usage         of all turns that ended
---@field usd number                 what they cost, under a budget with prices
local Chat = { __name = "sluice.chat" }
Chat.__index = Chat

---@class sluice.chat
---@overload fun(opts: sluice.ChatOptions|sluice.Model|sluice.Fallback|string): sluice.Chat
local chat = {}

-- Turns -----------------------------------------------------------------------------------------------

--- Does a turn begin here? In Anthropic's form a user's message may be the results of tools.
local function begins_turn(message)
  if message.role ~= "user" then return false end
  if type(message.content) == "table" then
    for _, part in ipairs(message.content) do
      if type(part) == "table" and part.type == "tool_result" then return false end
    end
  end
  return true
end

--- Are there tool calls in the list?
local function has_calls(messages)
  for _, message in ipairs(messages) do
    if message.role == "tool" or message.tool_calls then return true end
    for _, part in ipairs(type(message.content) == "table" and message.content or {}) do
      if type(part) == "table" and (part.type == "tool_use" or part.type == "tool_result") then return true end
    end
  end
  return false
end

--- Where the next turn begins behind `at`, or the end.
local function next_turn(messages, at)
  repeat at = at + 1 until messages[at] == nil or begins_turn(messages[at])
  return at
end

--- Estimated tokens of each message from there on, and their sum.
local function weights(messages, from)
  local list, sum = {}, 0
  for i = from, #messages do
    list[i] = tokens.estimate(messages[i])
    sum = sum + list[i]
  end
  return list, sum
end

--- Leaves whole turns behind until the sum is at most `max`. Returns where the rest begins, and its sum.
local function leave(messages, from, max, list, sum, keep_last)
  while from <= #messages and sum > max do
    local after = next_turn(messages, from)
    if keep_last and after > #messages then break end
    for i = from, after - 1 do sum = sum - list[i] end
    from = after
  end
  return from, sum
end

--- What of the history goes with a question: a list, and what all of it was estimated at.
local function window(self, req)
  local messages, limit = self.messages, self.history_tokens
  local fixed = tokens.estimate { prompt = req.prompt or "", system = req.system, tools = req.tools }
  local from = math.min(self.from, #messages + 1)
  local list, sum = weights(messages, from)
  if limit and (sum + fixed) * self.scale > limit then
    from, sum = leave(messages, from, limit * TRIM_TO / self.scale - fixed, list, sum)
    self.from = from
  end
  return table.move(messages, from, #messages, 1, {}), sum + fixed
end

--- The request of a turn. Its own fields go over the conversation's.
local function request_for(self, where, input)
  local req = request_of.check(where, input)
  if req.messages ~= nil then
    options.raise(where .. ": field 'messages' is the conversation's own: give 'prompt'")
  end
  local full = {}
  for key, value in pairs(req) do full[key] = value end
  if full.system == nil then full.system = self.system end
  if full.tools == nil then full.tools = self.tools end
  local guess
  full.messages, guess = window(self, full)
  local before = #full.messages
  if before == 0 then full.messages = nil end
  return full, before, guess
end

--- A turn has its answer.
local function commit(self, turn, reply, guess)
  local messages = self.messages
  local n = #messages
  local ok, err = pcall(table.move, turn, 1, #turn, n + 1, messages)
  if not ok then -- no memory: not half of it either
    for i = n + #turn, n + 1, -1 do messages[i] = nil end
    error(err, 0)
  end
  tokens.add(self.usage, reply.total or reply.usage)
  for _, attempt in ipairs(reply.attempts or {}) do self.usd = self.usd + (attempt.usd or 0) end
  local input = reply.usage and reply.usage.input_tokens
  if input and input > 0 and guess > 0 and (reply.rounds or 1) == 1 and not reply.degraded then
    self.scale = math.max(SCALE_MIN, math.min(SCALE_MAX, input / guess))
  end
end

local function rounds_of(self, where, input)
  local req, before, guess = request_for(self, where, input)
  local opts = {}
  for _, name in ipairs(OF_LOOP) do opts[name] = self[name] end
  local rounds = Rounds.new(where, self.model, req, opts, tool.list)
  return rounds, function(reply, messages)
    commit(self, table.move(messages, before + 1, #messages, 1, {}), reply, guess)
  end
end

--- Says something and waits for the answer; tools are called on the way. `input` is text, or a request without
--- messages: its fields hold for this turn. Raises what model:ask raises; the history is then as it was.
---@async
---@param input string|sluice.Request
---@return sluice.Reply
function Chat:say(input)
  local rounds, done = rounds_of(self, "chat:say", input)
  local reply, messages = rounds:answer()
  done(reply, messages)
  return reply
end

--- The same, streamed; the events are those of sluice.tool.stream. The turn becomes part of the history when
--- the stream has been read to its end; left early or broken, it never was.
---@async
---@param input string|sluice.Request
---@return sluice.ToolStream
function Chat:stream(input)
  local rounds, done = rounds_of(self, "chat:stream", input)
  return require("sluice.tool.stream").new(rounds, function(reply, messages)
    if reply then done(reply, messages) end
  end)
end

--- Asks for a value that fits a schema, as model:json; question and answer become a turn. Tools are not called.
---@async
---@param input string|sluice.Request
---@param schema string|table
---@param opts? { repairs?: integer }
---@return any value
---@return sluice.Reply reply
function Chat:json(input, schema, opts)
  local req, before, guess = request_for(self, "chat:json", input)
  if before == 0 or not has_calls(req.messages) then req.tools = nil end -- needed only where calls are in the history
  local value, reply = require("sluice.structured").ask(self.model, "chat:json", req, schema, opts)
  local answer = #reply.tool_calls > 0 and { role = "assistant", content = json.encode(value) } or reply:message()
  commit(self, { { role = "user", content = req.prompt }, answer }, reply, guess)
  return value, reply
end

-- The history ---------------------------------------------------------------------------------------

--- Another conversation that begins where this one is; what is said in one is not known in the other. Its
--- totals begin at nothing.
---@return sluice.Chat
function Chat:fork()
  local copy = setmetatable({}, Chat)
  for key, value in pairs(self) do copy[key] = value end
  copy.messages = table.move(self.messages, 1, #self.messages, 1, {})
  copy.usage, copy.usd = {}, 0
  return copy
end

--- Takes the last turn back. Returns what the user had said, or nil when there is no turn.
---@return string|sluice.Part[]?
function Chat:undo()
  local messages = self.messages
  for i = #messages, 1, -1 do
    if begins_turn(messages[i]) then
      local said = messages[i].content
      for j = #messages, i, -1 do messages[j] = nil end
      self.from = math.min(self.from, #messages + 1)
      return said
    end
  end
  return nil
end

--- Forgets the oldest whole turns until the history is estimated at no more than `max` tokens; the last turn
--- stays in any case. Returns how many messages were dropped. (history_tokens only leaves them unsent.)
---@param max integer
---@return integer
function Chat:trim(max)
  if math.type(max) ~= "integer" or max < 0 then
    options.raise("chat:trim: argument 1 must be a number of tokens, got " .. options.got(max))
  end
  local messages = self.messages
  local list, sum = weights(messages, 1)
  local from = leave(messages, 1, max / self.scale, list, sum, true)
  local dropped = from - 1
  if dropped > 0 then
    table.move(messages, from, #messages + dropped, 1) -- nils behind the end clear what is left over
    self.from = math.max(1, self.from - dropped)
  end
  return dropped
end

--- How many turns the history has.
---@return integer
function Chat:turns()
  local n = 0
  for _, message in ipairs(self.messages) do
    if begins_turn(message) then n = n + 1 end
  end
  return n
end

-- Making one ----------------------------------------------------------------------------------------

local function build(where, opts)
  if is_model(opts) then opts = { model = opts } end
  options.check(where, opts, SPEC)
  local self = setmetatable({ usage = {}, usd = 0, from = 1, scale = 1, messages = {} }, Chat)
  for key, value in pairs(opts) do self[key] = value end
  if type(opts.model) == "string" then self.model = require("sluice.model").new(opts.model) end
  if opts.tools then self.tools = tool.list(where, opts.tools) end
  self.messages = {}
  for i, message in ipairs(opts.messages or {}) do self.messages[i] = content.message(message) end
  return self
end

-- Files ---------------------------------------------------------------------------------------------

local function home(path)
  local rest = path:match "^~(/.*)$"
  local dir = rest and sys.env "HOME"
  return dir and dir ~= "" and dir .. rest or path
end

local function check_path(where, path)
  if type(path) ~= "string" or path == "" then
    options.raise(("%s: argument 1 must be the path of a file, got %s"):format(where, options.got(path)))
  end
  return home(path)
end

--- The name a model can be made from again: only of one that has nothing but a name. With an address or a
--- key of its own, the history must not go to somebody else next time.
local function name_of(model)
  local opts = getmetatable(model) == require("sluice.model").metatable and model.opts
  if not opts or opts.base_url or opts.auth or opts.headers or opts.protocol or opts.transport then return nil end
  return model.name
end

--- A copy without the bytes of any secret there is now.
local function scrubbed(value, depth)
  if type(value) == "string" then return secrets.scrub(value) end
  if type(value) ~= "table" or depth > DEPTH_MAX then return value end
  local copy = {}
  for key, item in pairs(value) do copy[key] = scrubbed(item, depth + 1) end
  return setmetatable(copy, getmetatable(value))
end

--- Writes the conversation to a file: messages with their tool calls and parts, system, the model's name.
--- The file is replaced in one step, and only you can read it (mode 0600). Tools, functions and keys are not in
--- it. Raises an ordinary error when it cannot be written.
---@param path string
function Chat:save(path)
  path = check_path("chat:save", path)
  local messages = json.array(table.move(self.messages, 1, #self.messages, 1, {}))
  local ok, text = pcall(json.encode, scrubbed({ sluice_chat = FORMAT, model = name_of(self.model),
    system = self.system, history_tokens = self.history_tokens, messages = messages }, 0))
  if not ok then options.raise("chat:save: " .. tostring(text):gsub("^json: ", "")) end
  local written, why = file.write(path, text .. "\n")
  if not written then
    options.raise(("chat:save: cannot write '%s': %s"):format(path, require "sluice.files.missing".explain(path, why)))
  end
end

local function broken(path, why)
  options.raise(("sluice.chat.load: '%s' is no saved conversation: %s"):format(path, why))
end

local function read(path)
  local handle <close>, why, code = io.open(path, "rb")
  local text
  if handle then text, why = handle:read "a" end
  if not text then
    options.raise(("sluice.chat.load: cannot read '%s': %s"):format(path, code == 2 and "there is no such file"
      or why or "it is no file"))
  end
  local ok, saved = pcall(json.decode, text, { excerpt = false })
  if not ok then broken(path, tostring(saved):gsub("^json: ", "")) end
  if type(saved) ~= "table" or saved.sluice_chat == nil then broken(path, "it was not written by chat:save") end
  if saved.sluice_chat ~= FORMAT then
    broken(path, ("its format is %s, and this program knows %d"):format(tostring(saved.sluice_chat), FORMAT))
  end
  if not json.is_array(saved.messages) then broken(path, "it has no list of messages") end
  for i, message in ipairs(saved.messages) do
    if type(message) ~= "table" or type(message.role) ~= "string" then
      broken(path, ("message %d is none"):format(i))
    end
  end
  return saved
end

--- A conversation from a file that chat:save wrote. `opts` as for sluice.chat, all of them optional: the model is
--- the saved one when it had nothing but a name, tools must be given again.
---@param path string
---@param opts? sluice.ChatOptions|table
---@return sluice.Chat
function chat.load(path, opts)
  path = check_path("sluice.chat.load", path)
  local saved, all = read(path), {}
  for key, value in pairs(opts or {}) do all[key] = value end
  if all.model == nil then all.model = saved.model end
  if all.model == nil then
    options.raise(("sluice.chat.load: '%s' does not say which model: give option 'model'"):format(path))
  end
  if all.system == nil then all.system = saved.system end
  if all.history_tokens == nil then all.history_tokens = saved.history_tokens end
  all.messages = saved.messages
  return build("sluice.chat.load", all)
end

function Chat:__tostring()
  return ("chat with %s (%d turns)"):format(self.model.name or tostring(self.model), self:turns())
end

--- A conversation: `sluice.chat { model = "siliconflow/Qwen/Qwen3-8B", system = "Be brief.", tools = { … } }`; a model
--- or its name alone will do. Raises an ordinary error for a wrong option.
---@param opts sluice.ChatOptions|sluice.Model|sluice.Fallback|string
---@return sluice.Chat
function chat.new(opts)
  return build("sluice.chat", opts)
end

return setmetatable(chat, { __call = function(_, opts) return chat.new(opts) end })
