--- The page of --report: what a run came to, as one HTML file that needs nothing else.
-- Owns: the sections and their words. Numbers come from account.lua, pictures from account/chart.lua.
-- Never: writes a text that is not escaped, nor a secret: every text of the run goes through `text`.
-- Reading order: page.make, then the sections.

local chart = require "sluice.account.chart"
local figures = require "sluice.account.figures"
local secrets = require "sluice.core.secret"

local seconds, whole, plural = figures.seconds, figures.whole, figures.plural

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local page = {}

--- A text of the run, ready for the page. Secrets go first: escaped, they would not be known again.
local function text(s)
  s = secrets.redact(tostring(s))
  if not utf8.len(s) then s = s:gsub("[\x80-\xFF]", "?") end
  return (s:gsub("[%c\127]", " "):gsub("[&<>\"']", ESCAPES))
end
page.text = text

local function add(out, ...)
  for _, piece in ipairs { ... } do out[#out + 1] = piece end
end

--- A table: columns are { heading, numeric? }, rows lists of ready texts; the first cell is the row's name.
local function add_table(out, caption, columns, rows)
  add(out, ('<div class="scroll"><table aria-label="%s"><thead><tr>'):format(caption))
  for _, c in ipairs(columns) do add(out, ('<th scope="col"%s>%s</th>'):format(c[2] and ' class="n"' or "", c[1])) end
  add(out, "</tr></thead><tbody>")
  for _, row in ipairs(rows) do
    add(out, "<tr>")
    for i, c in ipairs(columns) do
      local class = c[2] and ' class="n"' or ""
      add(out, i == 1 and ('<th scope="row">%s</th>'):format(row[i]) or ("<td%s>%s</td>"):format(class, row[i] or ""))
    end
    add(out, "</tr>\n")
  end
  add(out, "</tbody></table></div>\n")
end

local function at(sketch, share)
  local value = sketch:at(share)
  return value and seconds(value) or "–"
end

-- The head --------------------------------------------------------------------------------------------

local ENDS = { ok = { "good", "ended well" }, failed = { "bad", "ended with an error" },
  interrupted = { "warn", "interrupted" } }

local function add_head(out, account, run)
  local mark = ENDS[run.ended] or ENDS.ok
  local word = mark[2]
  if run.ended == "failed" and run.code == 124 then word = "ended by --timeout"
  elseif run.ended == "failed" and run.code and run.code > 1 then word = ("exit code %d"):format(run.code) end
  add(out, ("<header><h1>%s</h1>\n"):format(text(run.name)),
    ('<p><span class="end %s">%s</span> <span class="soft">%s · %s · sluice %s</span></p></header>\n'):format(mark[1],
      word,
      text(run.date), seconds(account.seconds), text(run.version)))
end

local function tile(out, name, big, small)
  add(out, ('<div><dt>%s</dt><dd class="big%s">%s</dd><dd class="small">%s</dd></div>\n'):format(name,
    utf8.len((big:gsub("<[^>]*>", ""))) > 9 and " long" or "", big, small or ""))
end

--- "3 failed, 1 cancelled"; what there is none of is left out.
local function some(list)
  local words = {}
  for _, pair in ipairs(list) do
    if pair[1] > 0 then words[#words + 1] = ("%s %s"):format(whole(pair[1]), pair[2]) end
  end
  return table.concat(words, ", ")
end

local function add_tiles(out, a, run)
  add(out, '<dl class="tiles">\n')
  local others = some { { a.failed, "failed" }, { a.cancelled, "cancelled" }, { a.abandoned, "left early" } }
  tile(out, "Calls", whole(a.calls), others ~= "" and others or a.calls > 0 and "all answered" or "")
  tile(out, "Requests sent", whole(a.attempts), some { { a.retries, a.retries == 1 and "retry" or "retries" },
    { a.hedges, a.hedges == 1 and "hedge" or "hedges" } })
  tile(out, "Tokens", figures.short(a.input + a.output), ("%s in%s, %s out"):format(figures.short(a.input),
    a.cached > 0 and (" (%s cached)"):format(figures.short(a.cached)) or "", figures.short(a.output)))
  local unknown = a.money.unknown
  local free = run.mock and "answered by the mock: nothing was billed"
  -- amounts in several currencies are broken between them, not within
  local amounts = text(tostring(a.money)):gsub(" %+ ", " +</span> <span>")
  tile(out, "Cost", "<span>" .. amounts .. "</span>", free or unknown > 0 and next(a.money.amounts)
    and plural(unknown, "call") .. " of unknown cost" or unknown > 0 and "no price known; see sluice.prices" or "")
  tile(out, "Latency", at(a.duration, 0.5), a.duration.count > 0 and "median; 95 %: " .. at(a.duration, 0.95) or "")
  if a.first.count > 0 then
    tile(out, "First token", at(a.first, 0.5), "median; 95 %: " .. at(a.first, 0.95))
  end
  local rate = 60 * a.attempts / math.max(a.seconds, 1e-3)
  tile(out, "At once, most", whole(a.load.peak), a.seconds > 0
    and (rate < 100 and ("%.3g"):format(rate) or figures.short(rate)) .. " requests a minute" or "")
  add(out, "</dl>\n")
end

-- Models, failures, fallbacks -------------------------------------------------------------------------

--- Of calls that cost nothing because nothing was generated there is nothing to say.
local function cost_of(money)
  return next(money.amounts) == nil and money.unknown == 0 and "–" or text(tostring(money))
end

local function add_models(out, a)
  local rows = {}
  for i, m in ipairs(a:list "model") do
    rows[i] = { text(m.name), whole(m.calls), m.failed > 0 and ('<span class="bad">%s</span>'):format(whole(m.failed))
      or "0",
      whole(m.input), whole(m.output), cost_of(m.money), at(m.duration, 0.5), at(m.duration, 0.95) }
  end
  if #rows == 0 then return end
  add(out, "<section><h2>Models</h2>\n")
  add_table(out, "models", { { "model" }, { "calls", true }, { "failed", true }, { "tokens in", true },
    { "tokens out", true }, { "cost", true }, { "median", true }, { "95 %", true } }, rows)
  if a.money.unknown > 0 then
    add(out, '<p class="note">A cost is unknown when the model has no price (<code>sluice.prices</code>), or the '
      .. "provider did not say what was used. Unknown costs are in no sum.</p>\n")
  end
  add(out, "</section>\n")
end

local function statuses_of(e)
  local list = {}
  for status, count in pairs(e.statuses.list) do list[#list + 1] = ("%s × %d"):format(status, count.count) end
  table.sort(list)
  return text(table.concat(list, ", "))
end

local function add_failures(out, a)
  local rows = {}
  for i, e in ipairs(a:list "failure") do
    rows[i] = { text(e.name), whole(e.attempts), whole(e.calls), statuses_of(e) }
  end
  if #rows == 0 then return end
  add(out, "<section><h2>Failures</h2>\n")
  add_table(out, "failures by kind", { { "kind" }, { "attempts that failed so", true }, { "calls that ended so", true },
    { "HTTP status" } }, rows)
  add(out,
    '<p class="note">An attempt that fails may be made again, and a fallback may go on elsewhere: only the third '
    .. "column reached the code that asked.</p></section>\n")
end

local WHY = { slow = "slow: the other was started beside it", declined = "declined" }

local function add_fallbacks(out, a)
  local moves, answers = {}, {}
  for i, m in ipairs(a:list "move") do
    moves[i] = { text(m.from or "others"), text(m.to or ""), text(WHY[m.why] or m.why or ""), whole(m.count) }
  end
  for i, m in ipairs(a:list "answer") do
    answers[i] = { text(m.chain or "others"), ("%s %s"):format(m.step and m.step .. "." or "", text(m.name)),
      m.why ~= "" and text(m.why or "") or "first choice", whole(m.count) }
  end
  if #moves + #answers == 0 then return end
  add(out, "<section><h2>Fallbacks</h2>\n")
  if #moves > 0 then
    add_table(out, "steps taken", { { "from" }, { "to" }, { "why" }, { "times", true } }, moves)
  end
  if #answers > 0 then
    add(out, #moves > 0 and '<h3 style="margin-top:16px">Who answered</h3>\n' or "<h3>Who answered</h3>\n")
    add_table(out, "who answered", { { "fallback" }, { "step" }, { "because" }, { "times", true } }, answers)
  end
  if a.rescued > 0 then
    add(out, ('<p class="note">%s broke off after text was delivered and went on with a rescue.</p>\n'):format(
      plural(a.rescued, "stream")))
  end
  add(out, "</section>\n")
end

-- Times -----------------------------------------------------------------------------------------------

local function add_times(out, a)
  if a.duration.count == 0 and a.first.count == 0 then return end
  add(out, '<section class="two">\n')
  if a.duration.count > 0 then
    local what = plural(a.duration.count, "call") .. " that succeeded"
    add(out, ('<div><h2>Latency <span class="soft">of %s</span></h2>\n'):format(what),
      chart.histogram(a.duration, "latency of " .. what), "</div>\n")
  end
  if a.first.count > 0 then
    local what = plural(a.first.count, "stream")
    add(out, ('<div><h2>Time to first token <span class="soft">of %s</span></h2>\n'):format(what),
      chart.histogram(a.first, "time to first token of " .. what), "</div>\n")
  end
  add(out, "</section>\n")
end

local function add_load(out, a)
  if a.attempts == 0 then return end
  local failed = #a:list "failure" > 0
  add(out,
    '<section><h2>Requests under way</h2>\n<ul class="key"><li><i style="background:var(--okfill)"></i>most</li>',
    '<li><i style="background:var(--ok);height:3px;vertical-align:3px"></i>mean</li>',
    failed and '<li><i class="error" style="width:3px"></i>failures</li>' or "", "</ul>\n", chart.load(a.load,
      a.seconds),
    "</section>\n")
end

local WAITS = { place = "a place (limit.concurrency)", rate = "a rate limit", token = "a credential",
  backoff = "the next attempt (back-off)" }

local function add_waits(out, a)
  local rows = {}
  for i, w in ipairs(a:list "wait") do
    rows[i] = { WAITS[w.name] or text(w.name), whole(w.count), seconds(w.seconds), seconds(w.seconds / w.count),
      seconds(w.most) }
  end
  local notes = {}
  for _, b in ipairs(a:list "breaker") do
    notes[#notes + 1] = ("The breaker of %s opened %s."):format(text(b.name), b.count == 1 and "once"
      or whole(b.count) .. " times")
  end
  for _, t in ipairs(a:list "token") do
    notes[#notes + 1] = ("The token %s was renewed: %s %s."):format(text(t.name), plural(t.count, "time"),
      t.outcome == "ok" and "with success" or "without")
  end
  if #rows + #notes == 0 then return end
  add(out, "<section><h2>Waits</h2>\n")
  if #rows > 0 then
    add_table(out, "waits", { { "for" }, { "times", true }, { "together", true }, { "mean", true }, { "longest",
      true } },
      rows)
  end
  for _, note in ipairs(notes) do add(out, ('<p class="note">%s</p>\n'):format(note)) end
  add(out, "</section>\n")
end

-- The slowest calls -----------------------------------------------------------------------------------

local NAMES = { place = "waited for a place", rate = "waited for a rate limit", token = "waited for a credential",
  backoff = "waited before the next attempt" }

--- One attempt or wait in words.
local function words_of(p)
  local took = seconds(p.to - p.from)
  if NAMES[p.what] then return ("%s: %s"):format(NAMES[p.what], took) end
  local failure = p.kind and p.kind .. (p.status and (", %d"):format(math.tointeger(p.status) or 0) or "")
  if p.what == "refused" then return ("attempt %d was not sent: %s"):format(p.number, failure or "refused") end
  local what = p.outcome == "ok" and "complete" or p.outcome == "error" and "failed (" .. failure .. ")"
    or p.outcome == "interrupted" and "broke off (" .. failure .. ")"
    or p.outcome == "abandoned" and "left early by its reader" or p.outcome
  return ("attempt %d: %s after %s%s"):format(p.number, what, took,
    p.ttft and (", first token after " .. seconds(p.ttft)) or "")
end

local function add_piece(out, p, longest)
  local left, width = 100 * p.from / longest, 100 * (p.to - p.from) / longest
  local class = p.what == "refused" and "refused" or NAMES[p.what] and "wait" or p.outcome or "ok"
  add(out, ('<i class="%s" style="left:%.2f%%;width:%.2f%%" title="%s"></i>'):format(class, math.min(99.5, left), width,
    text(words_of(p))))
  if p.ttft and p.ttft < p.to - p.from then
    add(out,
      ('<i class="first" style="left:%.2f%%" title="first token"></i>'):format(100 * (p.from + p.ttft) / longest))
  end
end

local function add_slow(out, call, longest)
  local about = { ("at +%s"):format(seconds(call.at)) }
  if call.outcome ~= "ok" then
    about[#about + 1] = text(call.kind and call.kind ~= call.outcome and call.outcome ~= "interrupted" and call.kind
      or call.outcome)
  end
  if call.output then about[#about + 1] = whole(call.output) .. " tokens" end
  if call.chain then about[#about + 1] = "in " .. text(call.chain) end
  add(out, ('<details><summary><span class="who"><b title="%s">%s</b><span>%s</span></span><span class="lane">'):format(
    text(call.name), text(call.name), table.concat(about, " · ")))
  for _, p in ipairs(call.pieces) do add_piece(out, p, longest) end
  add(out, ('</span><span class="n">%s</span></summary><ol>'):format(seconds(call.seconds)))
  for _, p in ipairs(call.pieces) do add(out, ("<li>%s</li>"):format(text(words_of(p)))) end
  if call.more > 0 then add(out, ("<li>and %d more</li>"):format(call.more)) end
  add(out, "</ol></details>\n")
end

local KEY = { { "ok", "answered" }, { "error", "failed" }, { "interrupted", "broke off or left" },
  { "cancelled", "cancelled" }, { "wait", "waiting" }, { "first", "first token" } }

local function add_slowest(out, a)
  if #a.slowest == 0 then return end
  add(out, '<section><h2>The slowest calls</h2>\n<ul class="key">')
  for _, k in ipairs(KEY) do add(out, ('<li><i class="%s"></i>%s</li>'):format(k[1], k[2])) end
  add(out, "</ul>\n")
  local longest = math.max(a.slowest[1].seconds, 1e-6)
  for _, call in ipairs(a.slowest) do add_slow(out, call, longest) end
  add(out,
    ('<p class="note">Each bar begins with its call; the longest took %s. A line opens to what each attempt '):format(
    seconds(longest)), "did.</p></section>\n")
end

-- The whole -------------------------------------------------------------------------------------------

---@class sluice.account.Run
---@field name string
---@field date string
---@field version string
---@field ended "ok"|"failed"|"interrupted"
---@field code? integer
---@field mock? boolean

--- The page.
---@param account sluice.Account  that has been stopped
---@param run sluice.account.Run
---@return string html
function page.make(account, run)
  local out = {}
  add(out, '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
    '<meta name="viewport" content="width=device-width,initial-scale=1">\n',
    '<meta name="color-scheme" content="light dark">\n',
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">\n',
    ("<title>%s · sluice</title>\n<style>%s</style>\n</head>\n<body>\n<main>\n"):format(text(run.name),
      require "sluice.account.style"))
  add_head(out, account, run)
  add_tiles(out, account, run)
  if account.calls == 0 then
    add(out, '<section><p>No model was asked in this run, or no call has ended.</p></section>\n')
  end
  add_models(out, account)
  add_failures(out, account)
  add_fallbacks(out, account)
  add_times(out, account)
  add_load(out, account)
  add_slowest(out, account)
  add_waits(out, account)
  add(out, "<footer>Written by sluice. Nothing on this page is the text of a prompt or an answer.</footer>\n",
    "</main>\n</body>\n</html>\n")
  return table.concat(out)
end

return page
