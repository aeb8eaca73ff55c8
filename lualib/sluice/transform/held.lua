--- What all steps have in common: the ceiling on text that is held back, and whole characters.
-- Owns: HELD_MAX. Never: decides what is held (each step does).
--
-- A step is a pure incremental function with state: `step:feed(text, item)` and `step:finish()` return a
-- list of items, and a list of their texts where these are not the items themselves. `text` is the piece
-- that came, `item` the same as the step before saw it. The outcome does not depend on how the text was
-- cut into pieces. Steps read no clock and do no I/O, but for `tee`, which writes.

local errors = require "sluice.errors"

local held = {
  HELD_MAX = 1 << 20, -- bytes one step holds back: of a line, of a code block, of a match
}

--- How many bytes of `text` are whole characters: all of them, but for a last one that is cut.
---@param text string
---@return integer
function held.whole(text)
  local n = #text
  for back = 0, 2 do
    local at = n - back
    if at < 1 then return n end
    local byte = text:byte(at)
    if byte < 0x80 then return n end
    if byte >= 0xC0 then -- a leading byte: how long is its character?
      local length = byte >= 0xF0 and 4 or byte >= 0xE0 and 3 or 2
      return length > back + 1 and at - 1 or n
    end
  end
  return n
end

local SLICE = 4096 -- bytes that are put behind what is held at a time

--- The text in slices, for steps that look through what they hold again: a reply that comes in one piece
--- takes no longer, byte for byte, than one that comes in many.
---@param text string
---@return fun(): string?
function held.slices(text)
  local from = 1
  return function()
    if from > #text then return nil end
    local slice = from == 1 and #text <= SLICE and text or text:sub(from, from + SLICE - 1)
    from = from + SLICE
    return slice
  end
end

--- Raises when a step would hold back more than its ceiling.
---@param size integer  bytes
---@param max integer   bytes
---@param what string   "stream:lines: line 3"
function held.check(size, max, what)
  if size <= max then return end
  errors.raise { kind = "memory", code = "too_large",
    message = ("%s is longer than %d bytes, the most that is held back (option max)"):format(what, max) }
end

return held
