--- The summary of -v: what a run came to, in a few lines. Pure.

local figures = require "sluice.account.figures"
local page_text = require "sluice.term".safe

local seconds, whole, plural, short = figures.seconds, figures.whole, figures.plural, figures.short

local SLOWEST = 3 -- calls
local KINDS = 6   -- of failures, of moves

local summary = {}

local function some(list)
  local words = {}
  for _, pair in ipairs(list) do
    if pair[1] > 0 then words[#words + 1] = whole(pair[1]) .. " " .. pair[2] end
  end
  return #words > 0 and table.concat(words, ", ") or nil
end

local function add(lines, name, value)
  if value then lines[#lines + 1] = ("  %-10s %s"):format(name, page_text(value)) end
end

local function times(sketch)
  if sketch.count == 0 then return nil end
  return ("median %s, 95 %% %s, longest %s"):format(seconds(sketch:at(0.5)), seconds(sketch:at(0.95)),
    seconds(sketch.most))
end

local function joined(list, most, each)
  local words = {}
  for i = 1, math.min(most, #list) do words[i] = each(list[i]) end
  if #list > most then words[#words + 1] = ("and %d more"):format(#list - most) end
  return #words > 0 and table.concat(words, "; ") or nil
end

local function failures(account)
  return joined(account:list "failure", KINDS, function(e)
    return ("%s in %s%s"):format(e.name, plural(e.attempts, "attempt"),
      e.calls > 0 and (", for good in %s"):format(plural(e.calls, "call")) or "")
  end)
end

local function moves(account)
  local text = joined(account:list "move", KINDS, function(m)
    return ("%s → %s (%s)%s"):format(m.from or "others", m.to or "", m.why or "",
      m.count > 1 and " × " .. whole(m.count) or "")
  end)
  if account.rescued == 0 then return text end
  return (text and text .. "; " or "") .. plural(account.rescued, "rescue")
end

local function slowest(account)
  return joined({ table.unpack(account.slowest, 1, SLOWEST) }, SLOWEST, function(call)
    local attempts = 0
    for _, p in ipairs(call.pieces) do
      if p.what == "attempt" then attempts = attempts + 1 end
    end
    return ("%s %s%s%s"):format(seconds(call.seconds), call.name, attempts > 1 and (", %d attempts"):format(attempts)
      or "",
      call.kind and ", " .. call.kind or "")
  end)
end

--- The lines, without the one that stands above them.
---@param account sluice.Account  that has been stopped
---@return string[]
function summary.lines(account)
  local a, lines = account, {}
  local others = some { { a.failed, "failed" }, { a.cancelled, "cancelled" }, { a.abandoned, "left early" } }
  local wires = some { { a.retries, a.retries == 1 and "retry" or "retries" }, { a.hedges, a.hedges == 1 and "hedge"
    or "hedges" } }
  add(lines, "calls", ("%s%s; %s%s, %d at once at most"):format(whole(a.calls), others and " (" .. others .. ")" or "",
    plural(a.attempts, "request"), wires and " (" .. wires .. ")" or "", a.load.peak))
  add(lines, "tokens", ("%s in%s, %s out"):format(short(a.input), a.cached > 0
    and (" (%s cached)"):format(short(a.cached))
    or "", short(a.output)))
  add(lines, "cost", a.money:full() .. (next(a.money.amounts) == nil and a.money.unknown > 0
    and " (sluice.prices knows none of these models)" or ""))
  add(lines, "latency", times(a.duration))
  add(lines, "1st token", times(a.first))
  add(lines, "failures", failures(a))
  add(lines, "fallbacks", moves(a))
  add(lines, "slowest", slowest(a))
  return lines
end

return summary
