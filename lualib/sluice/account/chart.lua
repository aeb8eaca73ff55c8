--- Pictures of the page, as inline SVG: how times are spread, what was under way. Pure: numbers in, text out.
-- Every picture says in words what it shows (aria-label); colours come from the style sheet.

local figures = require "sluice.account.figures"

local seconds = figures.seconds

local chart = {}

local function n(value) -- a coordinate
  return (("%.1f"):format(value):gsub("%.0$", ""))
end

local function line(class, x1, y1, x2, y2)
  return ('<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>'):format(class, n(x1), n(y1), n(x2), n(y2))
end

local function label(x, y, anchor, text, class)
  return ('<text%s x="%s" y="%s" text-anchor="%s">%s</text>'):format(class and (' class="%s"'):format(class) or "",
    n(x), n(y), anchor, text)
end

--- Whole numbers to put beside an axis from 0 to `most`.
local function whole_ticks(most)
  local step = 1
  for _, s in ipairs { 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 1e5, 1e6, 1e7 } do
    step = s
    if most / s <= 4 then break end
  end
  local list = {}
  for v = 0, math.ceil(most / step) * step, step do list[#list + 1] = v // 1 | 0 end
  return list
end

local function clock(s) -- beside an axis: no more digits than it takes
  if s == 0 then return "0" end
  if s < 1 then return ("%.3g ms"):format(s * 1000) end
  if s < 60 then return ("%.4g s"):format(s) end
  if s < 3600 then
    return s % 60 == 0 and ("%d min"):format(s // 60) or ("%d:%02d min"):format(s // 60, s % 60 // 1 | 0)
  end
  return s % 3600 == 0 and ("%d h"):format(s // 3600) or ("%d:%02d h"):format(s // 3600, s % 3600 // 60)
end

-- How times are spread --------------------------------------------------------------------------------

local WIDE, HIGH = 520, 210
local LEFT, RIGHT, TOP, BOTTOM = 34, 12, 26, 26

--- Times to put beside a logarithmic axis.
local function log_ticks(from, to)
  local function series(steps)
    local list = {}
    for power = -4, 4 do
      for _, step in ipairs(steps) do
        local value = step * 10.0 ^ power
        if value >= from * 0.999 and value <= to * 1.001 then list[#list + 1] = value end
      end
    end
    return list
  end
  for _, steps in ipairs { { 1 }, { 1, 3 }, { 1, 2, 5 }, { 1, 1.5, 2, 3, 5, 7 } } do
    local list = series(steps)
    if #list >= 3 then return list end
  end
  return series { 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9 }
end

local TAG = 7.2 -- units that a letter takes, at most

--- From where to where a tag reaches.
local function reach(at, anchor, tag)
  local wide = TAG * #tag
  local from = anchor == "end" and at - wide or anchor == "middle" and at - wide / 2 or at
  return from, from + wide
end

local function anchor_of(at, tag)
  local from, to = reach(at, "middle", tag)
  return to > WIDE and "end" or from < 0 and "start" or "middle"
end

--- The lines of the median and the 95th percentile, with a tag each where there is room for both.
local function add_marks(out, sketch, x, bottom)
  local low, high = sketch:at(0.5), sketch:at(0.95)
  local low_tag, high_tag = "median " .. seconds(low), "95 % " .. seconds(high)
  local low_at, high_at = x(low), x(high)
  local low_anchor, high_anchor = anchor_of(low_at, low_tag), anchor_of(high_at, high_tag)
  local function apart()
    return select(2, reach(low_at, low_anchor, low_tag)) + 6 < (reach(high_at, high_anchor, high_tag))
  end
  if not apart() and (reach(low_at, "end", low_tag)) > 0 then low_anchor = "end" end
  if not apart() and select(2, reach(high_at, "start", high_tag)) < WIDE then high_anchor = "start" end
  out[#out + 1] = line("rule", low_at, TOP - 4, low_at, bottom)
  out[#out + 1] = line("rule", high_at, TOP - 4, high_at, bottom)
  out[#out + 1] = label(low_at, TOP - 10, low_anchor, low_tag, "tag")
  if apart() then out[#out + 1] = label(high_at, TOP - 10, high_anchor, high_tag, "tag") end
end

--- A histogram of a sketch, over a logarithmic axis, with its median and its 95th percentile.
---@param sketch sluice.Sketch
---@param what string  "latency of 12 calls", for those who hear it
---@return string svg
function chart.histogram(sketch, what)
  local bars, out, most = sketch:bars(26), {}, 1
  for _, bar in ipairs(bars) do most = math.max(most, bar[3]) end
  local from, to = bars[1][1], bars[#bars][2]
  local ticks = whole_ticks(most)
  local top = math.max(1, ticks[#ticks])
  local function x(s) return LEFT + (WIDE - LEFT - RIGHT) * math.log(s / from) / math.log(to / from) end
  local function y(count) return HIGH - BOTTOM - (HIGH - TOP - BOTTOM) * count / top end
  out[1] = ('<svg viewBox="0 0 %d %d" role="img" aria-label="%s: median %s, 95th percentile %s, longest %s">'):format(
    WIDE, HIGH, what, seconds(sketch:at(0.5)), seconds(sketch:at(0.95)), seconds(sketch.most))
  for _, v in ipairs(ticks) do
    out[#out + 1] = line("grid", LEFT, y(v), WIDE - RIGHT, y(v))
    out[#out + 1] = label(LEFT - 6, y(v) + 4, "end", figures.short(v))
  end
  for _, bar in ipairs(bars) do
    if bar[3] > 0 then
      local left, right = x(bar[1]) + 0.75, x(bar[2]) - 0.75
      out[#out + 1] = ('<rect class="bar" x="%s" y="%s" width="%s" height="%s">'
        .. "<title>%s to %s: %d</title></rect>"):format(
        n(left), n(y(bar[3])), n(right - left), n(y(0) - y(bar[3])), seconds(bar[1]), seconds(bar[2]), bar[3])
    end
  end
  out[#out + 1] = line("axis", LEFT, y(0), WIDE - RIGHT, y(0))
  for _, v in ipairs(log_ticks(from, to)) do
    out[#out + 1] = line("axis", x(v), y(0), x(v), y(0) + 4)
    out[#out + 1] = label(x(v), HIGH - 7, x(v) > WIDE - 26 and "end" or "middle", clock(v))
  end
  add_marks(out, sketch, x, y(0))
  out[#out + 1] = "</svg>"
  return table.concat(out, "\n")
end

-- What was under way ----------------------------------------------------------------------------------

local SPAN, TALL = 1000, 190

local function time_ticks(total)
  local steps = { 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200,
    14400, 28800, 86400 }
  local step = 7 * 86400
  for i = #steps, 1, -1 do
    if total / steps[i] <= 9 then step = steps[i] else break end
  end
  local list, i = {}, 0
  while i * step <= total * 1.0001 do
    list[#list + 1] = i * step
    i = i + 1
  end
  return list
end

--- Requests under way over the run: the most in each interval as an area, the mean as a line, failures as
--- strokes below.
---@param load sluice.Load
---@param total number  seconds
---@return string svg
function chart.load(load, total)
  local failures = false
  for i = 0, load.last do failures = failures or load.failed[i] > 0 end
  local bottom, out = failures and 40 or 26, {}
  local ticks = whole_ticks(load.peak)
  local top = math.max(1, ticks[#ticks])
  total = math.max(total, load.width * 0.5)
  local function x(s) return LEFT + (SPAN - LEFT - RIGHT) * math.min(1, s / total) end
  local function y(v) return TALL - bottom - (TALL - 12 - bottom) * v / top end
  out[1] = ('<svg viewBox="0 0 %d %d" role="img" aria-label="requests under way over %s: %d at most">'):format(SPAN,
    TALL,
    seconds(total), load.peak)
  for _, v in ipairs(ticks) do
    out[#out + 1] = line("grid", LEFT, y(v), SPAN - RIGHT, y(v))
    out[#out + 1] = label(LEFT - 6, y(v) + 4, "end", figures.short(v))
  end
  local area, mean = { ("M%s %s"):format(n(x(0)), n(y(0))) }, {}
  for i = 0, load.last do
    local from, to = i * load.width, math.min(total, (i + 1) * load.width)
    if to > from then
      area[#area + 1] = ("V%sH%s"):format(n(y(load.most[i])), n(x(to)))
      mean[#mean + 1] = ("%s,%s"):format(n(x((from + to) / 2)), n(y(load.area[i] / (to - from))))
    end
  end
  out[#out + 1] = ('<path class="peak" d="%sV%sZ"/>'):format(table.concat(area), n(y(0)))
  out[#out + 1] = ('<polyline class="mean" points="%s"/>'):format(table.concat(mean, " "))
  out[#out + 1] = line("axis", LEFT, y(0), SPAN - RIGHT, y(0))
  for i = 0, load.last do
    if load.failed[i] > 0 then
      local at = x((i + 0.5) * load.width)
      out[#out + 1] = ('<g><title>%s at %s</title>%s</g>'):format(figures.plural(load.failed[i], "failure"),
        clock(i * load.width), line("fail", at, y(0) + 4, at, y(0) + 13))
    end
  end
  for _, v in ipairs(time_ticks(total)) do
    local anchor = v == 0 and "start" or x(v) > SPAN - 40 and "end" or "middle"
    out[#out + 1] = label(x(v), TALL - 7, anchor, clock(v))
  end
  out[#out + 1] = "</svg>"
  return table.concat(out, "\n")
end

return chart
