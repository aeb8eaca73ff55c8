--- Splits <think>…</think> at the beginning of an answer into thinking and text.
-- Owns: tags cut in two by the stream, and the white space around them.
-- Never: touches tags further on: there they are the answer's own words.
--
-- Off by default; for servers that leave a model's reasoning in the content. Some
-- chat templates write the opening tag into the prompt, then the answer begins inside ("open").

local OPEN, CLOSE = "<think>", "</think>"
local BLANK_MAX = 256 -- bytes of white space held back before it counts as content

local Think = {}
Think.__index = Think

local think = {}

---@param open boolean  the answer begins inside the tag
function think.new(open)
  return setmetatable({ state = open and "inside" or "before", held = "" }, Think)
end

--- Length of the longest end of `text` that could be the beginning of `tag`.
local function possible(text, tag)
  for n = math.min(#text, #tag - 1), 1, -1 do
    if text:sub(-n) == tag:sub(1, n) then return n end
  end
  return 0
end

local function thinking(assembler, events, text)
  if text == "" then return nil end
  local event, failed = assembler:feed { type = "thinking", text = text }
  events[#events + 1] = event
  return failed
end

local function answer(assembler, events, text)
  if text == "" then return nil end
  events[#events + 1] = { type = "text", text = text }
  return assembler:text(text)
end

--- One step with all that is held; returns true when it may go on, and a failure.
local STEP = {}

function STEP.before(self, assembler, events)
  local blank, rest = self.held:match("^(%s*)(.*)$")
  if rest:sub(1, #OPEN) == OPEN then
    self.state, self.held = "inside", rest:sub(#OPEN + 1)
    return true
  end
  if rest == OPEN:sub(1, #rest) and #blank <= BLANK_MAX then return false end -- not decided yet
  self.state, self.held = "after", ""
  return false, answer(assembler, events, blank .. rest)
end

function STEP.inside(self, assembler, events)
  local text = self.held
  if not self.begun then
    text = text:gsub("^%s+", "")
    if text ~= "" then self.begun = true end
  end
  local from, to = text:find(CLOSE, 1, true)
  if from then
    self.state, self.held = "between", text:sub(to + 1)
    return true, thinking(assembler, events, (text:sub(1, from - 1):gsub("%s+$", "")))
  end
  -- white space at the end is held too: before the closing tag it is no thought
  local keep = possible(text, CLOSE)
  local blank = #text:sub(1, #text - keep):match("%s*$")
  if blank > BLANK_MAX then blank = 0 end
  self.held = text:sub(#text - keep - blank + 1)
  return false, thinking(assembler, events, text:sub(1, #text - keep - blank))
end

function STEP.between(self, assembler, events)
  local text = self.held:gsub("^%s+", "")
  self.held = ""
  if text ~= "" then self.state = "after" end
  return false, answer(assembler, events, text)
end

function STEP.after(self, assembler, events)
  local text = self.held
  self.held = ""
  return false, answer(assembler, events, text)
end

--- Takes a piece of content; returns events and perhaps a failure, as Assembler:feed does.
function Think:feed(assembler, text)
  local events = {}
  self.held = self.held .. text
  local again, failed
  repeat
    again, failed = STEP[self.state](self, assembler, events)
  until failed or not again
  if failed then return nil, failed end
  return events
end

--- At the end of the answer: what was held back after all is what it looks like.
---@return table[] events
function Think:flush(assembler)
  local events = {}
  local held = self.held
  self.held = ""
  if self.state == "inside" then thinking(assembler, events, (held:gsub("%s+$", "")))
  elseif self.state == "before" then answer(assembler, events, held) end
  return events
end

return think
