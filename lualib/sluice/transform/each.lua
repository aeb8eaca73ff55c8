--- The steps that take item by item: map, filter, tee, throttle.
-- Owns: what becomes of an item's text when the item is another.

local each = {}

local NOTHING = {}

local function finish() return NOTHING end

--- The text of what a function made of an item: the blanks around the item (a line's end) stay.
local function text_of(new, item, text)
  if type(new) == "table" then new = rawget(new, "text") end
  if type(new) ~= "string" then return text end
  if item == text then return new end
  local first, last
  if type(item) == "string" then first, last = text:find(item, 1, true) end
  if first then return text:sub(1, first - 1) .. new .. text:sub(last + 1) end
  return new .. text:match "%s*$"
end

--- A step whose items are f(item); what f gives nil for is left out.
---@param f fun(item: any): any
function each.map(f)
  return {
    feed = function(_, text, item)
      local new = f(item)
      if new == nil then return NOTHING end
      return { new }, { text_of(new, item, text) }
    end,
    finish = finish,
  }
end

--- A step that lets through the items for which f gives something true.
---@param f fun(item: any): any
function each.filter(f)
  return {
    feed = function(_, text, item)
      if not f(item) then return NOTHING end
      return { item }, { text }
    end,
    finish = finish,
  }
end

--- A step that hands each text to `write` as well.
---@param write fun(text: string)
---@param close fun()  when no more comes: at the end, and when the stream is closed
function each.tee(write, close)
  return {
    feed = function(_, text, item)
      write(text)
      return { item }, { text }
    end,
    finish = function()
      close()
      return NOTHING
    end,
    close = close,
  }
end

-- Throttle ----------------------------------------------------------------------------------------

local PIECES_PER_SECOND = 20 -- a longer text is handed out in so many parts a second: smooth to the eye
local TOKEN_BYTES = 4        -- of Latin text in a token, roughly

local function characters(text)
  return utf8.len(text, 1, -1, true) or #text
end

--- Tokens of a text, roughly: four bytes of ASCII, or one other character.
local function tokens(text)
  local ascii = select(2, text:gsub("[\0-\127]", ""))
  local others = select(2, text:gsub("[\xC2-\xF4]", ""))
  return ascii / TOKEN_BYTES + others
end

--- Cuts a text into parts of at most `most` (1 or more) characters.
local function parts_of(text, most)
  local parts, from = {}, 1
  if not utf8.len(text, 1, -1, true) then return { text } end
  while from <= #text do
    local next_from = utf8.offset(text, most + 1, from) or #text + 1
    parts[#parts + 1] = text:sub(from, next_from - 1)
    from = next_from
  end
  return parts
end

--- A step that says how long to wait before each item: `step:delay(text, now)` in seconds.
---@param per_second number
---@param unit "characters"|"tokens"
function each.throttle(per_second, unit)
  local size = unit == "tokens" and tokens or characters
  local most = math.max(1, math.floor(per_second * (unit == "tokens" and TOKEN_BYTES or 1) / PIECES_PER_SECOND))
  local due -- when the next item may go
  return {
    feed = function(_, text, item)
      if item ~= text then return { item }, { text } end -- items are not cut
      return parts_of(text, most)
    end,
    finish = finish,
    delay = function(_, text, now)
      local start = due and due > now and due or now -- what was not used while nothing came is gone
      due = start + size(text) / per_second
      return start - now
    end,
  }
end

return each
