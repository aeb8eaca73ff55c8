--- Text into lines.
-- Owns: where a line ends ("\n" or "\r\n"). Never: looks into a line (json_lines.lua does).

local held = require "sluice.transform.held"

local Lines = {}
Lines.__index = Lines

--- A step whose items are lines without their ends; the last one may have none.
---@param opts? { max?: integer, where?: string }  the most bytes of a line, 1 MiB
function Lines.new(opts)
  opts = opts or {}
  return setmetatable({ rest = {}, size = 0, number = 0, max = opts.max or held.HELD_MAX,
    where = opts.where or "stream:lines" }, Lines)
end

local function add(self, line, ending, items, texts)
  self.number = self.number + 1
  held.check(#line, self.max, ("%s: line %d"):format(self.where, self.number))
  if ending == "\n" and line:byte(-1) == 13 then line, ending = line:sub(1, -2), "\r\n" end
  items[#items + 1] = line
  texts[#texts + 1] = line .. ending
end

function Lines:feed(text)
  local items, texts, from = {}, {}, 1
  while true do
    local stop = text:find("\n", from, true)
    if not stop then break end
    local line = text:sub(from, stop - 1)
    if self.size > 0 then
      self.rest[#self.rest + 1] = line
      line = table.concat(self.rest)
      self.rest, self.size = {}, 0
    end
    add(self, line, "\n", items, texts)
    from = stop + 1
  end
  if from <= #text then
    self.rest[#self.rest + 1] = from == 1 and text or text:sub(from)
    self.size = self.size + #text - from + 1
    -- a line end may still come: one byte more than the most is no verdict yet
    held.check(self.size - 1, self.max, ("%s: line %d"):format(self.where, self.number + 1))
  end
  return items, texts
end

function Lines:finish()
  local items, texts = {}, {}
  if self.size > 0 then
    local line = table.concat(self.rest)
    self.rest, self.size = {}, 0
    add(self, line, "", items, texts)
  end
  return items, texts
end

return Lines
