-- The steps of sluice.transform as the pure functions they are: each text is fed whole, split at every
-- byte, and byte by byte; what comes out must be the same.
-- timeout: 90

local T = require "harness"
local each = require "sluice.transform.each"
local held = require "sluice.transform.held"
local search = require "sluice.transform.search"
local CodeBlocks = require "sluice.transform.code_blocks"
local JsonLines = require "sluice.transform.json_lines"
local Lines = require "sluice.transform.lines"
local Sentences = require "sluice.transform.sentences"

--- Items and text of a fresh step that is fed these pieces.
local function run(make, pieces)
  local step, items, texts = make(), {}, {}
  local function take(list, list_texts)
    list_texts = list_texts or list
    for i = 1, #list do
      items[#items + 1], texts[#texts + 1] = list[i], list_texts[i]
    end
  end
  for _, piece in ipairs(pieces) do
    if not step.stopped then take(step:feed(piece, piece)) end
  end
  if not step.stopped then take(step:finish()) end
  return items, table.concat(texts), step
end

local function bytes(text)
  local pieces = {}
  for i = 1, #text do pieces[i] = text:sub(i, i) end
  return pieces
end

--- Every way to cut: calls f(pieces, how); `few`: not at every byte in turn.
local function cuts(text, f, few)
  f({ text }, "whole")
  for i = 1, few and 0 or #text - 1 do f({ text:sub(1, i), text:sub(i + 1) }, "split at " .. i) end
  f(bytes(text), "byte by byte")
  for round = 1, 5 do
    local pieces, at = {}, 1
    while at <= #text do
      local n = math.random(1, 7)
      pieces[#pieces + 1] = text:sub(at, at + n - 1)
      at = at + n
    end
    f(pieces, "at random " .. round)
  end
end

--- The items must be these however the text is cut; `joined`: only what they add up to.
local function same(t, make, text, want, joined)
  cuts(text, function(pieces, how)
    local items, whole = run(make, pieces)
    if joined then t.eq(whole, want, how) else t.eq(items, want, how) end
    for _, item in ipairs(items) do
      if type(item) == "string" then t.ok(utf8.len(item), how .. ": whole characters") end
    end
  end)
end

-- Lines -------------------------------------------------------------------------------------------

T.test("lines: ends of both kinds, empty lines, a last line without an end", function(t)
  local text = "one\ntwo\r\n\n你好\r世界\nlast"
  same(t, Lines.new, text, { "one", "two", "", "你好\r世界", "last" })
  same(t, Lines.new, text, text, true)
  same(t, Lines.new, "a\n", { "a" })
  same(t, Lines.new, "\r\n", { "" })
end)

T.test("lines: the ceiling is exact, and the error names the line", function(t)
  local function make() return Lines.new { max = 4 } end
  same(t, make, "abcd\nabcd", { "abcd", "abcd" })
  cuts("ab\nabcde\n", function(pieces) t.raises("line 2 is longer than 4 bytes", run, make, pieces) end)
end)

-- JSON lines ----------------------------------------------------------------------------------------

T.test("json_lines: values of every kind, through fences and blank lines", function(t)
  local json = require "sluice.json"
  same(t, JsonLines.new, '```json\n{"a":1}\n\n [1,"二"] \r\nfalse\nnull\n"x"\n```',
    { { a = 1 }, { 1, "二" }, false, json.null, "x" })
end)

T.test("json_lines: a bad line is named, or reported and left out", function(t)
  local text = '{"a":1}\n{"a":\n{"a":3}'
  cuts(text, function(pieces)
    t.raises({ kind = "protocol", code = "bad_json", line = 2 }, run, JsonLines.new, pieces)
    local bad = {}
    local items = run(function()
      return JsonLines.new { on_error = function(number, _, line) bad[#bad + 1] = number .. line end }
    end, pieces)
    t.eq(items, { { a = 1 }, { a = 3 } })
    t.eq(bad, { '2{"a":' })
  end)
end)

-- Sentences -----------------------------------------------------------------------------------------

local SENTENCES = {
  { "你好。世界！真的？是的", { "你好。", "世界！", "真的？", "是的" } },
  { "他说：「走吧。」她笑了。", { "他说：「走吧。」", "她笑了。" } },
  { "“真的吗？！”他问。（是的。）好", { "“真的吗？！”", "他问。", "（是的。）", "好" } },
  { "他说\"好。\"然后走了。\"再见。\"", { "他说\"好。\"", "然后走了。", "\"再见。\"" } },
  { "Hello there. How are you? Fine!", { "Hello there.", "How are you?", "Fine!" } },
  { "Pi is 3.14 or so. See example.com for more.", { "Pi is 3.14 or so.", "See example.com for more." } },
  { "Dr. Smith met J. R. Jones. They left.", { "Dr. Smith met J. R. Jones.", "They left." } },
  { "Use e.g. a map, i.e. this. The U.S. Army. At 5 p.m. We go.",
    { "Use e.g. a map, i.e. this.", "The U.S. Army.", "At 5 p.m.", "We go." } },
  { "Wait... what? \"Stop!\" he said. (Really?) Yes.", { "Wait... what?", "\"Stop!\" he said.", "(Really?)", "Yes." } },
  { "1. First thing\n2. Second. Third\n\n# Head\nText", { "1. First thing", "2. Second.", "Third", "# Head", "Text" } },
  { "So do I. Then we go.", { "So do I.", "Then we go." } },
  { "**Bold.** Next. **粗体。**后面。", { "**Bold.**", "Next.", "**粗体。**", "后面。" } },
  { "Mixed.中文。English again. End", { "Mixed.", "中文。", "English again.", "End" } },
  { "  \n\n", {} },
  { "😀。ok？", { "😀。", "ok？" } },
  { "Nothing at all", { "Nothing at all" } },
  { "Really?! Yes...", { "Really?!", "Yes..." } },
}

T.test("sentences: Chinese, Latin, both", function(t)
  for _, case in ipairs(SENTENCES) do same(t, Sentences.new, case[1], case[2]) end
end)

T.test("sentences: nothing is lost but blanks at the end", function(t)
  for _, case in ipairs(SENTENCES) do
    if #case[2] > 0 then same(t, Sentences.new, case[1], case[1], true) end
  end
end)

T.test("sentences: a Chinese one is out as soon as the next character comes", function(t)
  local step = Sentences.new()
  t.eq((step:feed "你好。"), {}) -- 」 could follow
  t.eq((step:feed "世"), { "你好。" })
end)

T.test("sentences: without line breaks as ends, an empty line still is one", function(t)
  local function make() return Sentences.new { newlines = false } end
  same(t, make, "one\ntwo. Three\n\nfour", { "one\ntwo.", "Three", "four" })
end)

T.test("sentences: one without an end is cut at a blank, at most max bytes long", function(t)
  local text = ("word "):rep(30) .. ("字"):rep(60)
  cuts(text, function(pieces, how)
    local items, whole = run(function() return Sentences.new { max = 64 } end, pieces)
    t.eq(whole, text, how)
    for _, item in ipairs(items) do t.ok(#item <= 64 and utf8.len(item), how) end
  end)
end)

-- Code blocks ---------------------------------------------------------------------------------------

local CODE = "Text\n```lua\nlocal x = 1\n\n  y()\n```\nmore ```not``` one\n  ~~~~ python title=\"a b\"\n  a\n ~~~\n"
  .. "    b\r\n  ~~~~\n```\n你好\n``\n"

T.test("code_blocks: language, info, indent, and one that never ends", function(t)
  same(t, CodeBlocks.new, CODE, {
    { index = 1, lang = "lua", info = "lua", text = "local x = 1\n\n  y()\n", complete = true },
    { index = 2, lang = "python", info = 'python title="a b"', text = "a\n~~~\n  b\r\n", complete = true },
    { index = 3, text = "你好\n``\n", complete = false },
  })
  same(t, function() return CodeBlocks.new { lang = "python" } end, CODE,
    { { index = 2, lang = "python", info = 'python title="a b"', text = "a\n~~~\n  b\r\n", complete = true } })
end)

T.test("code_blocks: as they flow, the pieces add up to the same blocks", function(t)
  local want = run(CodeBlocks.new, { CODE })
  cuts(CODE, function(pieces, how)
    local items = run(function() return CodeBlocks.new { flow = true } end, pieces)
    local blocks = {}
    for _, item in ipairs(items) do
      t.ok(utf8.len(item.text), how)
      local block = blocks[item.index] or { index = item.index, lang = item.lang, info = item.info, text = "" }
      block.text, block.complete = block.text .. item.text, item.complete
      t.eq(item.done, item.complete ~= nil, how)
      blocks[item.index] = block
    end
    t.eq(blocks, want, how)
  end)
end)

T.test("code_blocks: in flow nothing waits but what may be the end", function(t)
  local step = CodeBlocks.new { flow = true }
  step:feed "```\n"
  t.eq((step:feed "loc")[1].text, "loc")
  t.eq((step:feed "al\n``")[1].text, "al\n")
  t.eq((step:feed "x")[1].text, "``x")
end)

T.test("code_blocks: the ceiling on one block", function(t)
  t.raises("block 1 is longer than 8 bytes", run, function() return CodeBlocks.new { max = 8 } end,
    { "```\n1234\n5678\n```\n" })
end)

-- Redact --------------------------------------------------------------------------------------------

local function redact(literals, patterns, with, hold)
  return function() return search.redact(literals, patterns or {}, with or "[redacted]", hold) end
end

T.test("redact: literals, the longest at each place, across every cut", function(t)
  same(t, redact { "王小明", "王小", "Alice" }, "我是王小明，王小来了。Alice and Alicia, Al",
    "我是[redacted]，[redacted]来了。[redacted] and Alicia, Al", true)
  same(t, redact { "aab" }, "aaab aabaab aa", "a[redacted] [redacted][redacted] aa", true)
end)

T.test("redact: patterns, with a function, across every cut", function(t)
  same(t, redact({}, { "sk%-%w+", "%d%d%d%-%d%d%d%d" }, nil, 16), "key sk-abc123, sk- sk, call 555-1234 or 55-12 sk",
    "key [redacted], sk- sk, call [redacted] or 55-12 sk", true)
  same(t, redact({}, { "%f[%w]cat%f[%W]" }, function(m) return m:upper() end, 12), "cat concat cats cat.",
    "CAT concat cats CAT.", true)
  same(t, redact({}, { "[%w._]+@[%w.]+%w" }, "<mail>", 24), "写信给 li.ming@example.com。或者 a@b.cn", "写信给 <mail>。或者 <mail>", true)
  same(t, redact({}, { "x?yy*" }, "-", 4), "xyyyyyyy y zx", "-- - zx", true) -- 4 bytes are the most of one match
end)

T.test("redact: what cannot belong to a match is not held", function(t)
  local step = search.redact({ "secret" }, { "sk%-%w+" }, "***")
  t.eq(step:feed "the s", { "the " })
  t.eq(step:feed "un shines", { "sun shine" })
  t.eq(step:finish(), { "s" })
end)

T.test("redact: no part of a match gets out, whatever it is", function(t)
  local alphabet = { "a", "b", "ab", "ba", "aba" }
  for _ = 1, 200 do
    local parts = {}
    for i = 1, 12 do parts[i] = alphabet[math.random(#alphabet)] end
    local text, needle = table.concat(parts), alphabet[math.random(3, 5)]
    local want = text:gsub(needle, "#")
    local _, got = run(redact({ needle }, nil, "#"), bytes(text))
    t.eq(got, want, text .. " without " .. needle)
    _, got = run(redact({}, { needle }, "#", #needle), bytes(text))
    t.eq(got, want, text .. " without the pattern " .. needle)
  end
end)

T.test("redact: a pattern that makes no sense in a stream is refused", function(t)
  t.raises("no anchors", search.redact, {}, { "^a" }, "")
  t.raises("no anchors", search.redact, {}, { "a$" }, "")
  t.raises("not a Lua pattern", search.redact, {}, { "[a" }, "")
  t.raises("matches the empty text", search.redact, {}, { "a*" }, "")
  t.ok(search.redact({}, { "a%$" }, ""))
end)

-- until_match -----------------------------------------------------------------------------------------

T.test("until_match: the text before the first match, and no more", function(t)
  for _, case in ipairs {
    { {}, { "END" }, false, "one two END three END", "one two ", "END" },
    { { "。" }, {}, true, "你好。世界。", "你好。", "。" },
    { {}, { "%d+%." }, true, "a 12. b", "a 12.", "12." },
    { {}, { "%-%-+" }, false, "a - b --- c", "a - b ", nil },
    { { "STOP" }, {}, false, "never STO", "never STO", nil },
  } do
    cuts(case[4], function(pieces, how)
      local _, got, step = run(function() return search.until_match(case[1], case[2], case[3]) end, pieces)
      t.eq(got, case[5], how)
      if case[6] then t.eq(step.stopped, case[6], how) end
    end)
  end
end)

T.test("until_match: ends at once when the match is there", function(t)
  local step = search.until_match({}, { "END%d+" }, false)
  t.eq(step:feed "text END", { "text " })
  t.eq(step.stopped, nil)
  step:feed "1"
  t.eq(step.stopped, "END1")
end)

-- At random -------------------------------------------------------------------------------------------

local BITS = { "。", "！", ".", ". ", "? ", "!", "\n", " ", "a", "B", "Dr", "e.g", "1", '"', "”", ")", "**", "中", "…", "'", "“",
  "\r\n", "\t", "3.1", "`", "U.S", "```", "~~~", "lua", "sk-", "sec", "ret", "secret", "é", "b", "c", "-" }

local function random_text()
  local parts = {}
  for i = 1, math.random(1, 25) do parts[i] = BITS[math.random(#BITS)] end
  return table.concat(parts)
end

local STEPS = {
  { "sentences", Sentences.new },
  { "sentences, wrapped", function() return Sentences.new { newlines = false } end },
  { "lines", Lines.new },
  { "code_blocks", CodeBlocks.new },
}
for _, p in ipairs { "sk%-%w+", "a.-b", "[ab]+c?", "%f[%w]a", "%d", "sec", "(b)%1", "%w+%-", "é" } do
  STEPS[#STEPS + 1] = { "redact " .. p, redact({ "secret", "中1" }, { p }, "#", 6), true }
  STEPS[#STEPS + 1] = { "until " .. p, function() return search.until_match({}, { p }, false, 6) end, true }
  STEPS[#STEPS + 1] = { "until and " .. p, function() return search.until_match({}, { p }, true, 6) end, true }
end

T.test("random texts: the same however they are cut", function(t)
  for _ = 1, T.slow and 10 or 40 do
    local text = random_text()
    for _, case in ipairs(STEPS) do
      local items, whole, step = run(case[2], { text })
      local bare = whole:gsub("%s+$", "")
      if case[1]:find "^sentences" or case[1] == "lines" then t.eq(bare, (text:gsub("%s+$", ""))) end
      cuts(text, function(pieces, how)
        local other_items, other_whole, other_step = run(case[2], pieces)
        local what = ("%s of %s, %s"):format(case[1], T.show(text), how)
        if not case[3] then t.eq(other_items, items, what) end
        t.eq({ other_whole, other_step.stopped }, { whole, step.stopped }, what)
      end, true)
    end
  end
end)

T.test("an answer that comes in one large piece takes no longer than in small ones", function(t)
  local size = T.slow and 100000 or 300000
  local unit = "He said. secret \"a.\" b? sk-1 中文，很好。 ```x``` 1.5 |\n"
  local lower = 'a." b." '
  for _, case in ipairs(STEPS) do
    for _, text in ipairs { unit:rep(size // #unit), lower:rep(size // #lower // 4) } do
      local began = os.clock()
      local _, whole = run(case[2], { text })
      local seconds = os.clock() - began
      t.ok(seconds < 3, ("%s: %.1f s for %d bytes"):format(case[1], seconds, #text))
      t.ok(#whole <= 2 * #text)
    end
  end
end)

-- Item by item ------------------------------------------------------------------------------------------

T.test("map keeps the blanks around an item, filter takes them away with it", function(t)
  local step = each.map(string.upper)
  local items, texts = step:feed("\n line \r\n", "line")
  t.eq({ items[1], texts[1] }, { "LINE", "\n LINE \r\n" })
  items, texts = each.map(function(row) return row.name end):feed('{"name":"x"}\n', { name = "x" })
  t.eq({ items[1], texts[1] }, { "x", "x\n" })
  t.eq((each.filter(function(item) return item ~= "b" end):feed("b\n", "b")), {})
end)

T.test("throttle: parts of whole characters, each at its time, no time saved up", function(t)
  local step = each.throttle(40, "characters")
  t.eq(step:feed("你好世界!", "你好世界!"), { "你好", "世界", "!" })
  t.eq(step:delay("你好", 10), 0)
  t.near(step:delay("世界", 10), 0.05)
  t.near(step:delay("!", 10.06), 0.04)
  t.eq(step:delay("x", 20), 0)
  t.near(step:delay("x", 20), 0.025)
  step = each.throttle(10, "tokens")
  t.eq(step:delay("12345678你好", 0), 0)
  t.near(step:delay("x", 0), 0.4)
end)

T.test("whole: a character that is cut is not whole", function(t)
  local text = "a你😀é"
  local ends = { [0] = 0 }
  for i = 1, #text do ends[i] = utf8.len(text:sub(1, i)) and i or ends[i - 1] end
  for i = 0, #text do t.eq(held.whole(text:sub(1, i)), ends[i], i) end
end)

T.done()
