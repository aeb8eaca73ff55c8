--- How long a server asks to be left alone.
-- Owns: the precedence of the headers and what counts as a valid wish. Pure.
-- Never: caps the time or adds jitter; the retry policy does, and may decline to wait at all.
--
-- Rules: `retry-after-ms`, then `retry-after` as seconds, then as an HTTP date less
-- the reply's own `Date`, so that a clock that is off does not matter. Valid is what is finite and
-- above 0; anything else is as if nothing had been said.

local times = require "sluice.provider.times"

local retry_after = {}

local function first(v)
  if type(v) == "table" then v = v[1] end
  return type(v) == "string" and v or nil
end

--- A plain decimal number; tonumber alone would take "0x10" and " 1e3".
local function number(text)
  return text and text:find("^%s*%d+%.?%d*%s*$") and tonumber(text) or nil
end

local function valid(seconds)
  return seconds and seconds > 0 and seconds < math.huge and seconds or nil
end

--- Seconds to wait, or nil when the server named no valid time.
---@param headers table<string, string|string[]>  lower-case names
---@param now? number  seconds since 1970, used for a date when the reply has no Date header
---@return number? seconds
function retry_after.parse(headers, now)
  local ms = valid(number(first(headers["retry-after-ms"])))
  if ms then return ms / 1000 end
  local text = first(headers["retry-after"])
  if not text then return nil end
  local seconds = number(text)
  if seconds then return valid(seconds) end
  local at = times.http_date(text)
  if not at then return nil end
  local date = first(headers["date"])
  local from = date and times.http_date(date) or now
  return from and valid(at - from) or nil
end

--- The same from the words of an error, for servers that put it nowhere else: "Please try again in
--- 6m0s", "retry after 7 seconds".
---@param message string
---@return number? seconds
function retry_after.from_text(message)
  local lower = message:lower()
  local span = lower:match("try again in ([%d%.]+[hms][%w%.]*)") or lower:match("retry in ([%d%.]+[hms][%w%.]*)")
  if span then
    local seconds = valid(times.duration((span:gsub("%.$", ""))))
    if seconds then return seconds end
  end
  return valid(tonumber(lower:match("re?try again in (%d+%.?%d*) sec") or lower:match("retry after (%d+%.?%d*) sec")
    or lower:match("try again in (%d+%.?%d*) sec")))
end

return retry_after
