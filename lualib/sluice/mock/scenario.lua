--- Scenarios: lists of rules that say which request meets which fate.
-- Owns: the table of keys, reading a file, and which rules fit a request.
-- Never: does what a rule says (deliver.lua).
--
--   return {
--     { model = "big", first_token = 20 },                        -- headers at once, text after 20 s
--     { model = "small", nth = 1, status = 429, retry_after = 2 },
--     { probability = 0.1, cut_after = 40 },                      -- tokens, then the connection dies
--   }
--
-- The first rule that fits decides; one with `also = true` adds its effects and lets the next ones
-- speak. nth, from, to and every count the requests that fit the rule's other conditions, whether or
-- not an earlier rule took them: { nth = 1, … }, { nth = 2, … } are the first and the second request.

local options = require "sluice.options"
local text = require "sluice.mock.text"

local function positive(doc) return { type = "integer", min = 1, doc = doc } end
local function tokens(doc) return { type = "integer", min = 0, doc = doc } end
local function seconds(doc) return { type = "seconds", doc = doc } end
local function flag(doc) return { type = "boolean", doc = doc } end

-- Every key, in the order of the help text: what a rule asks of a request, what it does to the reply.
local GROUPS = {
  { title = "Which requests", conditions = true,
    { "model", { type = "string", nonempty = true, doc = "the model's name; * stands for anything" } },
    { "path", { type = "string", nonempty = true, doc = "the path; * stands for anything" } },
    { "protocol", { type = "string", enum = { "openai", "anthropic", "oauth", "models" },
      doc = "openai, anthropic, oauth, models" } },
    { "stream", flag "true: streamed ones; false: whole ones" },
    { "header", { type = "table", values = { type = "string" }, doc = "{ name = value }; * stands for anything" } },
    { "nth", { type = { "integer", "table" }, min = 1, items = { type = "integer", min = 1 },
      doc = "the n-th of those that fit, also when another rule took them; or a list: { 1, 3 }" } },
    { "from", positive "from the n-th on" },
    { "to", positive "up to the n-th" },
    { "every", positive "every n-th" },
    { "probability", { type = "number", min = 0, max = 1, doc = "of those, a share: 0.1 is one in ten" } },
    { "once", flag "until it has taken effect once" },
    { "also", flag "and go on to the next rule; else the first that fits decides" },
  },
  { title = "An error instead of an answer",
    { "status", { type = "integer", min = 200, max = 999, doc = "this status" } },
    { "code", { type = "string", doc = "code of the error, e.g. insufficient_quota" } },
    { "message", { type = "string", doc = "message of the error" } },
    { "dialect", { type = "string", enum = { "openai", "anthropic", "siliconflow", "openrouter", "vllm" },
      doc = "whose form: openai anthropic siliconflow openrouter vllm" } },
    { "body", { type = { "string", "table" }, doc = "the body, as it is" } },
    { "headers", { type = "table", values = { type = { "string", "number" } }, doc = "more headers, on any reply" } },
    { "retry_after", { type = { "number", "string" }, doc = "Retry-After: seconds, or a string as it is" } },
    { "retry_after_date", { type = "number", doc = "Retry-After: a date, so many seconds from now" } },
    { "retry_after_ms", { type = "number", min = 0, doc = "retry-after-ms" } },
    { "html", { type = { "boolean", "string" }, doc = "a proxy's page; status 502 unless given" } },
    { "redirect", { type = "string", nonempty = true, doc = "to this address; status 307 unless given" } },
    { "auth", { type = "string", enum = { "token" }, doc = "\"token\": 401 without a live token of /oauth/token" } },
    { "expires_in", { type = { "number", "string", "boolean" }, doc = "of tokens: seconds; false leaves it out" } },
  },
  { title = "Time, in seconds",
    { "delay", seconds "before the headers" },
    { "first_token", seconds "from the headers to the first token" },
    { "gap", seconds "between tokens" },
    { "tokens_per_second", { type = "number", above = 0, doc = "the same, the other way round" } },
    { "comments", seconds "so long only comments, before the first token" },
    { "ping_every", { type = "number", above = 0, doc = "a ping after so much silence" } },
    { "stall_after", tokens "after so many tokens, silence …" },
    { "stall", seconds "… for so long; for ever unless given" },
  },
  { title = "Broken answers",
    { "cut_after", tokens "after so many tokens the connection dies" },
    { "cut", { type = "string", enum = { "reset", "eof", "close", "mid_event", "after_last", "before_headers" },
      doc = "how: reset eof close mid_event after_last before_headers" } },
    { "error_after", tokens "after so many tokens an error event, and the end" },
    { "malformed_after", tokens "after so many tokens an event that is not JSON" },
    { "no_done", flag "without [DONE] or message_stop" },
    { "no_finish", flag "without a finish reason and what follows it" },
    { "content_length", { type = "integer", min = 0, doc = "a Content-Length that is not true" } },
  },
  { title = "Form",
    { "newline", { type = "string", enum = { "lf", "cr", "crlf" }, doc = "line ends of events: lf, cr, crlf" } },
    { "bom", flag "a byte order mark first" },
    { "split", positive "packets of so many bytes, across characters" },
    { "usage_on_every_chunk", flag "usage so far on every chunk" },
  },
  { title = "What is said",
    { "text", { type = "string", doc = "this answer" } },
    { "thinking", { type = { "string", "boolean" }, doc = "this reasoning; true: any" } },
    { "tool_call", { type = "table", fields = {
      name = { type = "string", required = true, nonempty = true },
      arguments = { type = { "table", "string" } },
    }, doc = "{ name =, arguments = }: call this tool" } },
    { "finish_reason", { type = "string", nonempty = true, doc = "this one, e.g. content_filter" } },
  },
}

local EFFECTS, ALL = {}, {}
for _, group in ipairs(GROUPS) do
  for _, key in ipairs(group) do
    ALL[key[1]] = key[2]
    if not group.conditions then EFFECTS[key[1]] = key[2] end
  end
end
local SPEC = options.spec(ALL, "key")

local scenario = { GROUPS = GROUPS }

-- Reading -----------------------------------------------------------------------------------------

local function fail(text_)
  options.raise(text_)
end

--- "big*" -> a Lua pattern; nil stays nil.
local function glob(pattern)
  if not pattern then return nil end
  return "^" .. pattern:gsub("[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"):gsub("%*", ".*") .. "$"
end

local function problem_of(rule)
  local problem = options.problem(rule, SPEC)
  if problem then return problem end
  if type(rule.nth) == "table" and #rule.nth == 0 then return "'nth' is an empty list: it would fit nothing" end
  if rule.from and rule.to and rule.from > rule.to then return "'from' is after 'to'" end
  if rule.gap and rule.tokens_per_second then return "'gap' and 'tokens_per_second' exclude each other" end
  if rule.stall and not rule.stall_after then return "'stall' needs 'stall_after'" end
  for name in pairs(rule) do
    if EFFECTS[name] then return nil end
  end
  return "it has conditions but no effect"
end

local function compile(rule)
  local headers = {}
  for name, pattern in pairs(rule.header or {}) do headers[name:lower()] = glob(pattern) end
  local effects = {}
  for name, value in pairs(rule) do
    if EFFECTS[name] then effects[name] = value end
  end
  if rule.tokens_per_second then effects.gap = 1 / rule.tokens_per_second end
  if rule.cut and not rule.cut_after then effects.cut_after = 0 end
  if rule.cut_after and not rule.cut then effects.cut = "reset" end
  local nth
  if rule.nth then
    nth = {}
    for _, n in ipairs(type(rule.nth) == "table" and rule.nth or { rule.nth }) do nth[n] = true end
  end
  return { rule = rule, effects = effects, model = glob(rule.model), path = glob(rule.path),
    headers = headers, nth = nth, count = 0, used = false }
end

local function read_file(path)
  local chunk, why = loadfile(path, "t")
  if not chunk then fail(("scenario %s: %s"):format(path, (tostring(why):gsub("^cannot open .*$", "no such file")))) end
  local ok, value = pcall(chunk)
  if not ok then fail(("scenario %s: it raised: %s"):format(path, tostring(value))) end
  return value
end

--- Reads a scenario: a file's name, or a list of rules. Raises an ordinary error that names the file
--- and the rule's number for anything that is not right.
---@param source string|table|nil  nil: no rules
---@param seed integer  of the chances
---@return sluice.mock.Scenario
function scenario.load(source, seed)
  local name, list = "scenario", source or {}
  if type(source) == "string" then
    name, list = "scenario " .. source, read_file(source)
    if type(list) ~= "table" then
      fail(("%s: it must return a list of rules, got %s"):format(name, options.got(list)))
    end
  end
  local rules = {}
  for key in pairs(list) do
    if math.type(key) ~= "integer" then
      fail(("%s: a list of rules expected, but it has the key '%s'; one rule is { { … } }"):format(name, tostring(key)))
    end
  end
  for i, rule in ipairs(list) do
    local problem = problem_of(rule)
    if problem then fail(("%s, rule %d: %s"):format(name, i, problem)) end
    rules[i] = compile(rule)
  end
  return setmetatable({ rules = rules, random = text.random(seed) }, { __index = scenario })
end

-- Matching ----------------------------------------------------------------------------------------

local function fits(rule, request)
  local r = rule.rule
  if rule.model and not (request.model and request.model:find(rule.model)) then return false end
  if rule.path and not request.path:find(rule.path) then return false end
  if r.protocol and r.protocol ~= request.protocol then return false end
  if r.stream ~= nil and r.stream ~= request.stream then return false end
  for name, pattern in pairs(rule.headers) do
    local value = request.headers[name]
    if not (value and value:find(pattern)) then return false end
  end
  return true
end

local function due(rule, random)
  local r, n = rule.rule, rule.count
  if rule.nth and not rule.nth[n] or r.from and n < r.from or r.to and n > r.to then return false end
  if r.every and n % r.every ~= 0 then return false end
  -- the number is drawn for every request that comes so far, so that one rule's luck does not depend
  -- on what another has used up
  if r.probability and random() >= r.probability then return false end
  return not (r.once and rule.used)
end

--- The effects that meet a request, and the numbers of the rules they came from.
---@param request { model?: string, path: string, protocol: string, stream?: boolean, headers: table }
---@return table effects
---@return integer[] numbers
function scenario:effects(request)
  local effects, numbers, open = {}, {}, true
  for i, rule in ipairs(self.rules) do
    if fits(rule, request) then
      rule.count = rule.count + 1
      if due(rule, self.random) and open then
        rule.used = true
        numbers[#numbers + 1] = i
        for name, value in pairs(rule.effects) do
          if effects[name] == nil then effects[name] = value end
        end
        open = rule.rule.also == true
      end
    end
  end
  return effects, numbers
end

-- Models that misbehave without a scenario ----------------------------------------------------------

--- name -> { effects, what it does, place in the help text }
scenario.MODELS = {
  ["mock"] = { {}, "answers in words of the prompt", 1 },
  ["echo"] = { {}, "repeats the last user message", 2 },
  ["mock-think"] = { { thinking = true }, "thinks before it answers", 3 },
  ["mock-slow"] = { { first_token = 8 }, "first token after 8 s", 4 },
  ["mock-crawl"] = { { gap = 1 }, "one token a second", 5 },
  ["mock-stall"] = { { stall_after = 8 }, "8 tokens, then silence", 6 },
  ["mock-cut"] = { { cut_after = 8, cut = "reset" }, "8 tokens, then the connection is reset", 7 },
  ["mock-eof"] = { { cut_after = 8, cut = "eof" }, "8 tokens, then a clean end without a finish reason", 8 },
  ["mock-error"] = { { error_after = 8 }, "8 tokens, then an error event", 9 },
  ["mock-quota"] = { { status = 429, code = "insufficient_quota" }, "429 that no waiting will mend", 10 },
  ["mock-html"] = { { html = true }, "a proxy's 502 page", 11 },
  ["mock-429"] = { { status = 429, retry_after = 1 }, "429, Retry-After: 1; any other status likewise: mock-503", 12 },
}

--- The effects a model's name stands for.
---@param model string  with or without "vendor/" in front
---@return table
function scenario.of_model(model)
  local name = model:match "[^/]+$" or model
  local known = scenario.MODELS[name]
  if known then return known[1] end
  local status = tonumber(name:match "^mock%-([2-5]%d%d)$")
  return status and status >= 400 and { status = status } or {}
end

return scenario
