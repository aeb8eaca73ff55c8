--- The ways servers write points in time and spans of it. Pure: no clock, no locale, no time zone.
-- Owns: HTTP dates (RFC 9110 §5.6.7, all three forms), RFC 3339, and durations as Go prints them.
-- Never: raises; what cannot be read is nil.

local MONTHS = { jan = 1, feb = 2, mar = 3, apr = 4, may = 5, jun = 6, jul = 7, aug = 8, sep = 9,
  oct = 10, nov = 11, dec = 12 }
local MONTH_DAYS = { 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

local times = {}

--- Seconds since 1970 of a date in UTC, by the calendar's own arithmetic (os.time is local time).
local function epoch(year, month, day, hour, minute, second)
  if month < 1 or month > 12 or day < 1 or day > MONTH_DAYS[month] then return nil end
  if hour > 23 or minute > 59 or second > 60 then return nil end -- 60: a leap second
  local y = month <= 2 and year - 1 or year -- the year starts in March, so that February ends it
  local m = (month + 9) % 12
  local days = 365 * y + y // 4 - y // 100 + y // 400 + (153 * m + 2) // 5 + day - 1 - 719468
  return days * 86400 + hour * 3600 + minute * 60 + second
end

local FORMS = {
  -- Sun, 06 Nov 1994 08:49:37 GMT
  { "^%a+,%s*(%d%d?)%s+(%a%a%a)%s+(%d%d%d%d)%s+(%d%d):(%d%d):(%d%d)%s+(.-)%s*$",
    function(d, mo, y, h, mi, s, zone) return y, mo, d, h, mi, s, zone end },
  -- Sunday, 06-Nov-94 08:49:37 GMT
  { "^%a+,%s*(%d%d)%-(%a%a%a)%-(%d%d)%s+(%d%d):(%d%d):(%d%d)%s+(.-)%s*$",
    function(d, mo, y, h, mi, s, zone)
      y = tonumber(y)
      return y < 70 and y + 2000 or y + 1900, mo, d, h, mi, s, zone
    end },
  -- Sun Nov  6 08:49:37 1994
  { "^%a+%s+(%a%a%a)%s+(%d%d?)%s+(%d%d):(%d%d):(%d%d)%s+(%d%d%d%d)%s*$",
    function(mo, d, h, mi, s, y) return y, mo, d, h, mi, s, "GMT" end },
}

--- An HTTP date -> seconds since 1970.
---@param text string
---@return integer?
function times.http_date(text)
  for _, form in ipairs(FORMS) do
    if text:find(form[1]) then
      local y, mo, d, h, mi, s, zone = form[2](text:match(form[1]))
      local month = MONTHS[mo:lower()]
      if not month or zone ~= "GMT" and zone ~= "UTC" and zone ~= "+0000" and zone ~= "-0000" then return nil end
      return epoch(math.tointeger(y), month, math.tointeger(d), math.tointeger(h), math.tointeger(mi),
        math.tointeger(s))
    end
  end
  return nil
end

--- "2025-08-21T12:40:59Z", with a fraction or an offset if need be -> seconds since 1970.
---@param text string
---@return number?
function times.rfc3339(text)
  local y, mo, d, h, mi, s, rest =
    text:match("^%s*(%d%d%d%d)%-(%d%d)%-(%d%d)[Tt ](%d%d):(%d%d):(%d%d)(.-)%s*$")
  if not y then return nil end
  local fraction, zone = rest:match("^(%.%d+)(.+)$")
  zone = zone or rest
  local offset
  if zone == "Z" or zone == "z" then offset = 0
  else
    local sign, oh, om = zone:match("^([+-])(%d%d):(%d%d)$")
    if not sign then return nil end
    offset = (math.tointeger(oh) * 3600 + math.tointeger(om) * 60) * (sign == "-" and -1 or 1)
  end
  local base = epoch(math.tointeger(y), math.tointeger(mo), math.tointeger(d), math.tointeger(h),
    math.tointeger(mi), math.tointeger(s))
  if not base then return nil end
  base = base - offset
  return fraction and base + tonumber("0" .. fraction) or base
end

local UNITS = { h = 3600, m = 60, s = 1, ms = 0.001, us = 1e-6, ["µs"] = 1e-6, ns = 1e-9, d = 86400 }

--- "6m0s", "1m30.5s", "12ms" -> seconds. A bare number is seconds (Azure).
---@param text string
---@return number?
function times.duration(text)
  text = text:match("^%s*(.-)%s*$")
  if text:find("^%d+%.?%d*$") then return tonumber(text) end
  local total, at = 0, 1
  while at <= #text do
    local number, unit, after = text:match("^(%d+%.?%d*)([^%d%.]+)()", at)
    if not number or not UNITS[unit] then return nil end
    total = total + tonumber(number) * UNITS[unit]
    at = after
  end
  if at == 1 then return nil end
  return total
end

return times
