-- `measured FILE`: the page with a script in it that measures it and writes what it found; `check FILE SCHEME`:
-- raises when that is not as it should be.
local json = require "sluice".json

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

local MEASURE = [[<pre id="found"></pre><script>
const cut = [];
for (const svg of document.querySelectorAll("svg")) {
  const [x, y, w, h] = svg.getAttribute("viewBox").split(" ").map(Number);
  for (const text of svg.querySelectorAll("text")) {
    const b = text.getBBox();
    if (b.x < x - 1 || b.y < y - 1 || b.x + b.width > x + w + 1 || b.y + b.height > y + h + 1)
      cut.push(text.textContent);
  }
  const labels = [...svg.querySelectorAll("text")].map(t => [t.textContent, t.getBBox()]);
  for (let i = 0; i < labels.length; i++) for (let j = 0; j < i; j++) {
    const [s, a] = labels[i], [u, b] = labels[j];
    if (a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height - 3 && b.y < a.y + a.height - 3)
      cut.push(s + " over " + u);
  }
}
const bg = getComputedStyle(document.body).backgroundColor;
const wide = [...document.querySelectorAll("main *")].filter(e => !e.closest(".scroll") && !e.closest("svg") &&
  e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.className).slice(0, 5);
document.getElementById("found").textContent = JSON.stringify({ cut, wide, bg, width: innerWidth,
  scroll: document.documentElement.scrollWidth, fetched: performance.getEntriesByType("resource").length,
  svgs: document.querySelectorAll("svg").length, calls: document.querySelectorAll("details").length,
  headings: [...document.querySelectorAll("h2")].map(h => h.firstChild.textContent.trim()) });
</script>]]

if arg[1] == "measured" then
  local page, count = read(arg[2]):gsub("<meta http%-equiv=[^\n]*", ""):gsub("</main>", function() return MEASURE
    .. "</main>" end)
  assert(count == 1)
  io.write(page)
  return
end

local found = json.decode((assert(read(arg[2]):match '<pre id="found">(.-)</pre>', "nothing was measured"):gsub("&lt;",
  "<")
  :gsub("&gt;", ">"):gsub("&amp;", "&")))
local function check(ok, what) if not ok then error(what .. ": " .. json.encode(found), 0) end end
check(#found.cut == 0, "a label of a picture is cut, or stands over another")
check(#found.wide == 0 and found.scroll <= found.width, "something is wider than the window")
check(found.bg == (arg[3] == "1" and "rgb(246, 247, 249)" or "rgb(18, 22, 28)"), "the background of the wrong scheme")
check(found.fetched == 0, "something was fetched")
check(found.svgs == 3 and found.calls > 10, "pictures or calls are missing")
check(table.concat(found.headings, ", ") == "Models, Failures, Fallbacks, Latency, Time to first token, "
  .. "Requests under way, The slowest calls, Waits", "sections are missing")
