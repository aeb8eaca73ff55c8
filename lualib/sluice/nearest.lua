--- The nearest known name for one that is not known: "timout" -> "timeout".
-- Owns: the distance and the rule of when a name is near enough to be worth naming. Pure.
-- Never: decides what an unknown name means; the caller does.

local LENGTH_MAX = 64 -- bytes; a longer name is no typing mistake, and the distance costs length²

--- Letters that people exchange without noticing: case, and "-" or a space for "_".
local function fold(name)
  return (name:lower():gsub("[%- ]", "_"))
end

--- Damerau-Levenshtein distance in its optimal string alignment form: insert, delete, replace, and
--- exchange of two neighbours each cost 1. Over bytes; option names are ASCII.
---@param a string
---@param b string
---@param limit integer  give up above this distance
---@return integer distance  limit + 1 when it is larger
local function distance(a, b, limit)
  local n, m = #a, #b
  if math.abs(n - m) > limit then return limit + 1 end
  local before, previous = nil, {}
  for j = 0, m do previous[j] = j end
  for i = 1, n do
    local current = { [0] = i }
    local best = i
    local ai = a:byte(i)
    for j = 1, m do
      local bj = b:byte(j)
      local d = previous[j - 1] + (ai == bj and 0 or 1)
      d = math.min(d, previous[j] + 1, current[j - 1] + 1)
      if i > 1 and j > 1 and ai == b:byte(j - 1) and a:byte(i - 1) == bj then
        d = math.min(d, before[j - 2] + 1)
      end
      current[j] = d
      if d < best then best = d end
    end
    if best > limit then return limit + 1 end
    before, previous = previous, current
  end
  return math.min(previous[m], limit + 1)
end

--- How far off a name may be: nothing for one or two letters, one for up to five, then a third.
local function tolerance(n)
  if n <= 2 then return 0 end
  if n <= 5 then return 1 end
  return n // 3
end

local function common_prefix(a, b)
  local n = 0
  while n < #a and n < #b and a:byte(n + 1) == b:byte(n + 1) do n = n + 1 end
  return n
end

--- The known name nearest to `name`, or nil when none is near.
--- Case and "-" for "_" never count. Among equally near names the one sharing the longest
--- beginning wins, then the first in the alphabet. When no name is near by spelling, the only
--- name that begins with `name` (three letters at least) is taken: "temp" -> "temperature".
---@param name any  anything but a string has no nearest name
---@param known string[]|table<string, any>  a list of names, or a table with names as keys
---@return string? nearest
local function nearest(name, known)
  if type(name) ~= "string" or #name > LENGTH_MAX then return nil end
  local wanted = fold(name)
  local limit = tolerance(#wanted)
  local best, best_distance, best_prefix
  local longer, longer_count = nil, 0

  local function consider(candidate)
    if type(candidate) ~= "string" then return end
    local folded = fold(candidate)
    local d = distance(wanted, folded, limit)
    if d <= limit then
      local prefix = common_prefix(wanted, folded)
      if not best or d < best_distance
        or d == best_distance and (prefix > best_prefix or prefix == best_prefix and candidate < best) then
        best, best_distance, best_prefix = candidate, d, prefix
      end
    end
    if #wanted >= 3 and folded:sub(1, #wanted) == wanted then
      longer, longer_count = candidate, longer_count + 1
    end
  end

  if type(known[1]) == "string" then
    for _, candidate in ipairs(known) do consider(candidate) end
  else
    for candidate in pairs(known) do consider(candidate) end
  end
  if best then return best end
  if longer_count == 1 then return longer end
  return nil
end

return nearest
