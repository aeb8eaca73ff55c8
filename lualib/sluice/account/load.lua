--- How much was under way, over a run of any length: a fixed number of intervals, whose width doubles when
-- the run outgrows them. Pure.

local INTERVALS = 160
local NARROWEST = 0.05 -- seconds

---@class sluice.Load
---@field width number     seconds of an interval
---@field last integer     the last interval that has begun, from 0
---@field now integer      under way
---@field peak integer
---@field area number[]    request-seconds, by interval
---@field most integer[]   the most at one time, by interval
---@field failed integer[] failures, by interval
local Load = {}
Load.__index = Load

---@return sluice.Load
function Load.new()
  return setmetatable({ width = NARROWEST, last = 0, at = 0, now = 0, peak = 0, area = { [0] = 0 },
    most = { [0] = 0 }, failed = { [0] = 0 } }, Load)
end

local function fold(self)
  local area, most, failed = { [0] = 0 }, { [0] = 0 }, { [0] = 0 }
  for i = 0, self.last do
    local half = i // 2
    area[half] = (area[half] or 0) + self.area[i]
    most[half] = math.max(most[half] or 0, self.most[i])
    failed[half] = (failed[half] or 0) + self.failed[i]
  end
  self.area, self.most, self.failed = area, most, failed
  self.width, self.last = 2 * self.width, self.last // 2
end

--- Goes on to `at`, in seconds since the start.
---@param at number
function Load:advance(at)
  if at <= self.at then return end
  while at >= self.width * INTERVALS do fold(self) end
  local now, width = self.now, self.width
  local from = self.at
  local into = at // width | 0
  for i = self.last, into do
    local upto = math.min(at, (i + 1) * width)
    self.area[i] = (self.area[i] or 0) + now * math.max(0, upto - from)
    self.most[i] = math.max(self.most[i] or 0, now)
    self.failed[i] = self.failed[i] or 0
    from = math.max(from, upto)
  end
  self.last, self.at = into, at
end

--- One more, or one less, is under way from `at` on.
---@param at number
---@param by 1|-1
function Load:change(at, by)
  self:advance(at)
  self.now = math.max(0, self.now + by)
  self.most[self.last] = math.max(self.most[self.last], self.now)
  self.peak = math.max(self.peak, self.now)
end

--- A request failed.
---@param at number
function Load:fail(at)
  self:advance(at)
  self.failed[self.last] = self.failed[self.last] + 1
end

return Load
