--- What a stream's text is made into while it flows: `stream:lines()`, `stream:redact { … }:tee(file)` …
-- Owns: the chain: who is read, what reply() says, how it ends. Never: knows how a step works: those are
-- pure functions in sluice/transform/*.lua, see held.lua.
--
-- A transformed stream pulls: it reads its source when it is read and has nothing left, so a slow reader
-- slows the sender down as ever, and a step holds back held.HELD_MAX bytes at the most. The source is
-- closed with it. Everything but text (thinking, tool calls, usage) passes unchanged.
-- Reading order: next_piece, Transformed:reply, then the methods.

local core = require "sluice.core.task"
local errors = require "sluice.errors"
local options = require "sluice.options"
local Reply = require "sluice.reply"

local TEXT_MAX = 64 << 20 -- bytes of text one transformed stream may collect; STREAM_TEXT_MAX of C

---@class sluice.Transformable
local Transformable = {}

---@class sluice.TransformedStream : sluice.Transformable
---@field model string      the model that was asked
---@field provider string
---@operator call: any
local Transformed = { __name = "sluice.stream.transformed", __sluice_handle = "inner" }

-- What is asked of the stream underneath.
local PASSED = { model = true, provider = true, degraded = true, attempts = true, ttft = true }

function Transformed:__index(key)
  local method = rawget(Transformed, key) or Transformable[key]
  if method ~= nil then return method end
  if PASSED[key] then return rawget(self, "inner")[key] end
  return nil
end

-- Reading -----------------------------------------------------------------------------------------

local next_piece

--- A step's output waits to be read.
local function queue(self, items, texts)
  self.ready, self.ready_texts, self.first, self.count = items, texts or items, 1, #items
end

--- The next thing of the source: item and text, or nil, nil and an event; nothing at its end.
local function read_source(self)
  local inner = self.inner
  if self.chained then return next_piece(inner, self.with_events) end
  if not self.iterate or self.reading_events ~= self.with_events then
    self.reading_events = self.with_events
    self.iterate, self.state, self.last = inner[self.with_events and "events" or "text"](inner)
  end
  local value = self.iterate(self.state, self.last)
  self.last = value
  if value == nil then return nil end
  if not self.reading_events then return value, value end
  if value.type == "text" then return value.text, value.text end
  return nil, nil, value
end

--- What has been handed out is what the answer says when it breaks off here.
local function fail(self, err)
  if errors.is(err, "interrupted") and not self.wrapped then err.partial = table.concat(self.parts) end
  self.failure = err
  self:close()
  error(err, 0)
end

local function end_early(self)
  self.over, self.matched = true, self.step.stopped
  self.inner:close()
end

local function finish_step(self)
  if self.finished then return end
  self.finished = true
  queue(self, self.step:finish())
end

local function advance(self)
  local item, text, event = read_source(self)
  if text then
    self.finished = false
    queue(self, self.step:feed(text, item))
    if self.step.stopped then end_early(self) end
  elseif event then
    self.event = event
    -- what is held back belongs before the counts and the end
    if event.type == "usage" or event.type == "finish" then finish_step(self) end
  else
    finish_step(self)
    self.over = true
    if self.step.stopped then end_early(self) end
  end
end

local function hand_out(self)
  local at = self.first
  local item, text = self.ready[at], self.ready_texts[at]
  if self.step.delay then
    local wait = self.step:delay(text, core.now())
    if wait > 0 then core.sleep(wait) end
  end
  self.ready[at] = nil
  self.first = at + 1
  if not self.wrapped then
    self.size = self.size + #text
    if self.size > TEXT_MAX then
      fail(self, errors.new { kind = "memory", code = "too_large",
        message = ("the transformed text is longer than %d bytes"):format(TEXT_MAX) })
    end
    self.parts[#self.parts + 1] = text
  end
  return item, text
end

--- The next item and its text, or nil, nil and an event; nothing at the end. For a stream around this
--- one, and for the iterators below.
---@async
---@param with_events boolean
---@return any item, string? text, sluice.Event? event
function next_piece(self, with_events)
  if self.failure then error(self.failure, 0) end
  if self.closed and not self.over then options.raise "stream: it was closed before its end" end
  self.with_events = with_events
  while true do
    if self.first <= self.count then return hand_out(self) end
    if self.event then
      local event = self.event
      self.event = nil
      if with_events then return nil, nil, event end
    end
    if self.over then
      if self.matched and with_events and not self.said then
        self.said = true
        return nil, nil, { type = "finish", reason = "matched" }
      end
      return nil
    end
    local ok, err = pcall(advance, self)
    if not ok then fail(self, err) end
  end
end

local function next_item(self)
  local item = next_piece(self, false)
  return item
end

local function next_text(self)
  local _, text = next_piece(self, false)
  return text
end

local function next_event(self)
  local item, text, event = next_piece(self, true)
  if text then return { type = "text", text = text, item = item } end
  return event
end

-- Reading, for scripts ----------------------------------------------------------------------------

--- `for item in stream:lines() do`: the items, one by one: lines without their ends, sentences without
--- the blanks around them, tables of code blocks, decoded JSON, whatever map gave.
---@async
---@return any
function Transformed:__call()
  return next_item(self)
end

--- The items, as the stream itself gives them in a `for`.
---@async
---@return fun(): any
function Transformed:items()
  return function() return next_item(self) end, nil, nil, self
end

--- The text as it flows. Its pieces add up to reply().text; what `lines` and `sentences` leave out of
--- their items, line ends and blanks, is in it.
---@async
---@return fun(): string?
function Transformed:text()
  return function() return next_text(self) end, nil, nil, self
end

--- Every event. Those of text carry the transformed text, and the item as `item`; the others pass.
---@async
---@return fun(): sluice.Event?
function Transformed:events()
  return function() return next_event(self) end, nil, nil, self
end

--- The reply of a stream that until_match ended: no more is known of it than what was read.
local function matched_reply(self)
  local inner = self.inner
  return Reply.new { text = "", finish_reason = "matched", matched = self.matched, usage = {}, model = inner.model,
    provider = inner.provider, request_id = inner.request_id, degraded = inner.degraded, ttft = inner.ttft,
    elapsed = core.now() - self.began, attempts = inner.attempts }
end

--- The whole answer; reads what is left of it. `text` is the transformed text, `original` the reply of
--- the model. After until_match ended the stream, finish_reason is "matched", `matched` what was found,
--- and there is no `original` and no usage, for the rest was never read.
---@async
---@return sluice.Reply
function Transformed:reply()
  if self.result then return self.result end
  local _ <close> = self
  while select(2, next_piece(self, false)) do end -- luacheck: ignore 542
  local below = self.matched and matched_reply(self) or self.inner:reply()
  local fields = {}
  for key, value in next, below do fields[key] = value end
  fields.text = table.concat(self.parts)
  fields.original = below.original or (below.finish_reason ~= "matched" and below or nil)
  if fields.text ~= below.text then fields.blocks = nil end -- they hold the text of the model
  self.result = Reply.new(fields)
  return self.result
end

--- Closes the stream underneath. Closing twice does nothing.
function Transformed:close()
  if self.closed then return end
  self.closed = true
  if self.step.close then self.step.close() end
  self.inner:close()
end

Transformed.__close = Transformed.close

function Transformed:__tostring()
  return ("%s of %s"):format(self.name, tostring(self.inner))
end

--- The stream with one more step. Besides it what a `for` needs, so that leaving the loop closes it.
local function wrap(inner, name, step)
  if type(inner) ~= "table" or type(inner.events) ~= "function" then
    options.raise(("stream:%s: called without a stream: write stream:%s(…)"):format(name, name))
  end
  local chained = getmetatable(inner) == Transformed
  if chained then inner.wrapped = true end -- only the outermost collects its text
  local self = setmetatable({ inner = inner, step = step, name = name, chained = chained, ready = {}, ready_texts = {},
    first = 1, count = 0, parts = {}, size = 0, over = false, closed = false, finished = false, wrapped = false,
    began = core.now() }, Transformed)
  return self, nil, nil, self
end

-- Steps -------------------------------------------------------------------------------------------

local function check_function(name, f)
  if type(f) ~= "function" then
    options.raise(("stream:%s: argument 1 must be a function, got %s"):format(name, options.got(f)))
  end
end

local function check(name, opts, spec)
  return options.check("stream:" .. name, opts or {}, spec)
end

local MAX = { type = "integer", min = 1 }
local SPECS = {
  lines = options.spec { max = MAX },
  sentences = options.spec { newlines = { type = "boolean" }, max = MAX },
  code_blocks = options.spec { flow = { type = "boolean" }, lang = { type = "string" }, max = MAX },
  json_lines = options.spec { on_error = { type = "function" }, max = MAX },
  throttle = options.spec { unit = { type = "string", enum = { "characters", "tokens" } } },
  until_match = options.spec { plain = { type = "boolean" }, include = { type = "boolean" },
    hold = { type = "integer", min = 1, max = 65536 } },
  markdown = options.spec { colour = { type = "boolean" }, width = { type = "integer", min = 20, max = 1000 } },
}

--- The stream with f(item) in the place of each item; what f gives nil for is left out. Without `lines`
--- or `sentences` before it, items are the pieces of text as they come: cut anywhere between characters.
---@param f fun(item: any): any
---@return sluice.TransformedStream
function Transformable:map(f)
  check_function("map", f)
  return wrap(self, "map", require "sluice.transform.each".map(f))
end

--- The stream with only the items for which f gives something true.
---@param f fun(item: any): any
---@return sluice.TransformedStream
function Transformable:filter(f)
  check_function("filter", f)
  return wrap(self, "filter", require "sluice.transform.each".filter(f))
end

--- Line by line, without their ends ("\n" or "\r\n"). Options: max, bytes of a line (1 MiB); a longer
--- one raises `memory`.
---@param opts? { max?: integer }
---@return sluice.TransformedStream
function Transformable:lines(opts)
  check("lines", opts, SPECS.lines)
  return wrap(self, "lines", require "sluice.transform.lines".new(opts))
end

--- Sentence by sentence. 。！？ end one wherever they stand, ".", "!" and "?" before a blank, but not in
--- 3.14, after "Dr." or "1."; closing quotes and brackets stay with their sentence. A line break ends a
--- sentence; with newlines = false only an empty line does.
---@param opts? { newlines?: boolean, max?: integer }
---@return sluice.TransformedStream
function Transformable:sentences(opts)
  check("sentences", opts, SPECS.sentences)
  return wrap(self, "sentences", require "sluice.transform.sentences".new(opts))
end

--- The fenced code blocks, and nothing else: { lang =, info =, text =, index =, complete = }; `complete`
--- is false for a block whose end never came. With flow = true, pieces as they come: { index =, lang =,
--- text =, done = false }, and at the block's end one with done = true and `complete`. `lang` takes only
--- blocks of that language. Options: flow, lang, max (1 MiB of one block; a longer one raises `memory`).
---@param opts? { flow?: boolean, lang?: string, max?: integer }
---@return sluice.TransformedStream
function Transformable:code_blocks(opts)
  check("code_blocks", opts, SPECS.code_blocks)
  return wrap(self, "code_blocks", require "sluice.transform.code_blocks".new(opts))
end

--- Each line decoded as JSON; blank lines and fences are passed over. A line that is no JSON raises
--- `protocol` (code "bad_json", with its number in `line`), or goes to on_error(number, message, line)
--- and is left out.
---@param opts? { on_error?: fun(number: integer, message: string, line: string), max?: integer }
---@return sluice.TransformedStream
function Transformable:json_lines(opts)
  check("json_lines", opts, SPECS.json_lines)
  return wrap(self, "json_lines", require "sluice.transform.json_lines".new(opts))
end

--- The same stream, whose text is also written to a file as it flows: a path (written anew; closed at
--- the end), or a file that is open (which stays open). What cannot be written raises.
---@param file string|file*
---@return sluice.TransformedStream
function Transformable:tee(file)
  local own = type(file) == "string"
  if not own and (io.type(file) == nil and type(file) ~= "table" or type(file.write) ~= "function") then
    options.raise("stream:tee: argument 1 must be a path or an open file, got " .. options.got(file))
  end
  local out, shown = file, own and file or "the file"
  if own then
    local opened, why = io.open(file, "wb")
    if not opened then
      options.raise("stream:tee: cannot write " .. require "sluice.files.missing".explain(file, why))
    end
    out = opened
  end
  local function write(text)
    local ok, why = out:write(text)
    if ok and out.flush then ok, why = out:flush() end
    if not ok then options.raise(("stream:tee: cannot write to %s: %s"):format(shown, tostring(why))) end
  end
  local function close()
    if own and io.type(out) == "file" then out:close() end
  end
  return wrap(self, "tee", require "sluice.transform.each".tee(write, close))
end

--- The same text at no more than so many characters a second, in small parts: smooth to read. With
--- unit = "tokens", tokens, estimated. While nothing comes no time is saved up.
---@param per_second number
---@param opts? { unit?: "characters"|"tokens" }
---@return sluice.TransformedStream
function Transformable:throttle(per_second, opts)
  if type(per_second) ~= "number" or not (per_second > 0 and per_second < math.huge) then
    options.raise("stream:throttle: argument 1 must be a number above 0, got " .. options.got(per_second))
  end
  opts = check("throttle", opts, SPECS.throttle)
  return wrap(self, "throttle", require "sluice.transform.each".throttle(per_second, opts.unit or "characters"))
end

--- The text up to the first match of a Lua pattern, or of a text with plain = true. There the stream ends
--- and its connection is closed; reply() has finish_reason "matched". With include = true the match itself
--- is handed out as well. A match is at most `hold` (256) bytes long.
---@param pattern string
---@param opts? { plain?: boolean, include?: boolean, hold?: integer }
---@return sluice.TransformedStream
function Transformable:until_match(pattern, opts)
  if type(pattern) ~= "string" or pattern == "" then
    options.raise("stream:until_match: argument 1 must be a pattern, got " .. options.got(pattern))
  end
  opts = check("until_match", opts, SPECS.until_match)
  local literals, patterns = {}, { pattern }
  if opts.plain then literals, patterns = patterns, literals end
  return wrap(self, "until_match",
    require "sluice.transform.search".until_match(literals, patterns, opts.include or false, opts.hold))
end

---@class sluice.RedactOptions
---@field [integer] string
---@field patterns? string[]  Lua patterns; the same as those in the list itself
---@field with? string|fun(match: string): string  in place of what was found
---@field hold? integer       characters kept back, so that one that comes in pieces is found whole

local STRINGS = { type = "list", items = { type = "string", nonempty = true } }
local REDACT = options.spec { patterns = STRINGS, with = { type = { "string", "function" } },
  hold = { type = "integer", min = 1, max = 65536 } }

--- The text without what is listed, which is never handed out, not even in part: a text, or a list of
--- texts, with `patterns = { Lua patterns }`, `with` ("[redacted]", or a function of the match) and `hold`,
--- the most bytes a match of a pattern has (256). The longest match counts. `original` of the reply still
--- has everything.
---@param what string|sluice.RedactOptions
---@return sluice.TransformedStream
function Transformable:redact(what)
  if type(what) == "string" then what = { what } end
  if type(what) ~= "table" then
    options.raise("stream:redact: argument 1 must be a text or a list of texts, got " .. options.got(what))
  end
  local literals, named = {}, {}
  for key, value in pairs(what) do
    if math.type(key) == "integer" then literals[key] = value else named[key] = value end
  end
  options.check("stream:redact", named, REDACT)
  for i = 1, #literals do
    if type(literals[i]) ~= "string" or literals[i] == "" then
      options.raise(("stream:redact: element %d must be a text that is not empty, got %s"):format(i,
        options.got(literals[i])))
    end
  end
  if #literals == 0 and #(named.patterns or {}) == 0 then
    options.raise "stream:redact: nothing to redact: the list is empty"
  end
  return wrap(self, "redact", require "sluice.transform.search".redact(literals, named.patterns or {},
    named.with or "[redacted]", named.hold))
end

--- The text of a Markdown answer made readable on a terminal while it streams; see sluice.term.markdown.
---@param opts? { colour?: boolean, width?: integer }
---@return sluice.TransformedStream
function Transformable:markdown(opts)
  check("markdown", opts, SPECS.markdown)
  local renderer = require "sluice.term.markdown".new(opts)
  local function list(text) return text ~= "" and { text } or {} end
  return wrap(self, "markdown", {
    feed = function(_, text) return list(renderer:feed(text)) end,
    finish = function() return list(renderer:finish()) end,
  })
end

return Transformable
