--- Text into its fenced code blocks (CommonMark 0.31, section 4.5; fences inside lists may be indented
-- further).
-- Owns: where a block begins and ends. Never: knows a language.

local held = require "sluice.transform.held"

local CodeBlocks = {}
CodeBlocks.__index = CodeBlocks

--- A step whose items are { lang =, info =, text =, index =, complete = }; with `flow`, pieces of a block
--- as they come, the last of them with done = true.
---@param opts? { flow?: boolean, max?: integer, lang?: string }
function CodeBlocks.new(opts)
  opts = opts or {}
  return setmetatable({ line = "", flow = opts.flow, max = opts.max or held.HELD_MAX, lang = opts.lang, index = 0,
    fence = nil, emitted = 0, body = {}, size = 0 }, CodeBlocks)
end

local function wanted(self)
  return not self.lang or self.fence.lang == self.lang
end

local function add(self, text, out)
  if text == "" or not wanted(self) then return end
  if self.flow then
    local fence = self.fence
    out[#out + 1] = { index = fence.index, lang = fence.lang, info = fence.info, text = text, done = false }
    return
  end
  self.size = self.size + #text
  held.check(self.size, self.max, ("stream:code_blocks: block %d"):format(self.fence.index))
  self.body[#self.body + 1] = text
end

local function close(self, complete, out)
  local fence = self.fence
  if wanted(self) then
    out[#out + 1] = { index = fence.index, lang = fence.lang, info = fence.info, complete = complete,
      text = self.flow and "" or table.concat(self.body), done = self.flow or nil }
  end
  self.fence, self.body, self.size = nil, {}, 0
end

--- Indent, mark and info of an opening fence.
local function opening(line)
  local indent, mark, info = line:match "^([ \t]*)(```+)([^`]*)$"
  if not indent then indent, mark, info = line:match "^([ \t]*)(~~~+)(.*)$" end
  return indent, mark, info
end

local function closes(fence, line)
  local mark = line:match "^[ \t]*([`~]+)[ \t]*$"
  return mark ~= nil and #mark >= #fence.mark and mark == fence.mark:sub(1, 1):rep(#mark)
end

--- Could the beginning of a line still become the end of the block?
local function may_close(fence, line)
  local mark, rest = line:match "^[ \t]*([`~]*)[ \t\r]*(.*)$"
  return rest == "" and mark == fence.mark:sub(1, 1):rep(#mark)
end

--- The line without the indent of its block.
local function unindent(fence, line)
  if fence.indent == 0 then return line end
  local blank = line:match "^[ \t]*"
  return line:sub(math.min(#blank, fence.indent) + 1)
end

local function whole_line(self, line, ending, out)
  local fence = self.fence
  local bare = line:gsub("\r$", "")
  if not fence then
    local indent, mark, info = opening(bare)
    if not indent then return end
    self.index = self.index + 1
    info = info:match "^%s*(.-)%s*$"
    local lang = info:match "^%S+"
    self.fence = { index = self.index, mark = mark, indent = #indent, info = info ~= "" and info or nil, lang = lang }
  elseif self.emitted == 0 and closes(fence, bare) then
    close(self, true, out)
  else
    local text = self.emitted > 0 and line:sub(self.emitted + 1) or unindent(fence, line)
    add(self, text .. ending, out)
  end
end

--- In a block that is handed out as it flows: what of an unfinished line cannot be its end.
local function flow_line(self, out)
  local fence, line = self.fence, self.line
  if may_close(fence, line) or (self.emitted == 0 and not line:find "[^ \t]") then return end
  local stop = held.whole(line)
  if line:byte(stop) == 13 then stop = stop - 1 end
  local from = self.emitted
  if from == 0 then from = #line - #unindent(fence, line) end
  if stop > from then
    add(self, line:sub(from + 1, stop), out)
    self.emitted = stop
  end
end

function CodeBlocks:feed(text)
  local out, from = {}, 1
  while true do
    local stop = text:find("\n", from, true)
    if not stop then break end
    whole_line(self, self.line .. text:sub(from, stop - 1), "\n", out)
    self.line, self.emitted = "", 0
    from = stop + 1
  end
  if from <= #text then
    self.line = self.line .. text:sub(from)
    if self.fence and self.flow then
      flow_line(self, out)
    elseif self.fence then
      held.check(#self.line, self.max, ("stream:code_blocks: block %d"):format(self.fence.index))
    elseif #self.line > 4096 then -- no fence is that long: only whether the line goes on matters
      self.line = "x"
    end
  end
  local texts = {}
  for i, item in ipairs(out) do texts[i] = item.text end
  return out, texts
end

function CodeBlocks:finish()
  local out = {}
  if self.line ~= "" then whole_line(self, self.line, "", out) end
  self.line, self.emitted = "", 0
  if self.fence then close(self, false, out) end
  local texts = {}
  for i, item in ipairs(out) do texts[i] = item.text end
  return out, texts
end

return CodeBlocks
