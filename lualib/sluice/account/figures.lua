--- Numbers as a person reads them. Pure.

local figures = {}

--- "0.4 ms", "850 ms", "1.23 s", "12.3 s", "2 min 05 s", "1 h 03 min".
---@param s number  seconds
---@return string
function figures.seconds(s)
  if s <= 0 then return "0 s" end
  if s < 0.00995 then return ("%.1f ms"):format(s * 1000) end
  if s < 0.9995 then return ("%.0f ms"):format(s * 1000) end
  if s < 9.995 then return ("%.2f s"):format(s) end
  if s < 59.95 then return ("%.1f s"):format(s) end
  local whole = (s + 0.5) // 1 | 0
  if whole < 3600 then return ("%d min %02d s"):format(whole // 60, whole % 60) end
  return ("%d h %02d min"):format(whole // 3600, whole % 3600 // 60)
end

--- "1,234,567"
---@param n number
---@return string
function figures.whole(n)
  local text, more = ("%d"):format(n // 1 | 0), 1
  while more > 0 do text, more = text:gsub("^(-?%d+)(%d%d%d)", "%1,%2") end
  return text
end

--- "950", "1.2k", "34k", "5.6M"
---@param n number
---@return string
function figures.short(n)
  for _, unit in ipairs { { 1e9, "G" }, { 1e6, "M" }, { 1e3, "k" } } do
    local of, word = unit[1], unit[2]
    if n >= of * 0.9995 then
      local value = n / of
      return (value < 9.95 and "%.1f%s" or "%.0f%s"):format(value, word)
    end
  end
  return ("%d"):format(n // 1 | 0)
end

--- "1 call", "2 calls"
---@param n integer
---@param word string
---@return string
function figures.plural(n, word)
  return ("%s %s%s"):format(figures.whole(n), word, n == 1 and "" or "s")
end

--- "97.5 %"
---@param part number
---@param whole number
---@return string
function figures.percent(part, whole)
  if whole == 0 then return "" end
  local share = 100 * part / whole
  if share == 0 or share == 100 then return ("%d %%"):format(share // 1 | 0) end
  return ("%.1f %%"):format(math.max(0.1, math.min(99.9, share)))
end

return figures
