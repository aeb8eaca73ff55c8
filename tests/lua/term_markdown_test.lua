-- Markdown on a terminal: what is shown, that it is the same however the text comes, that lines fit, and
-- that a model cannot reach the terminal itself.

local T, S = require "harness", require "http_server"
local sluice = require "sluice"
local term = sluice.term

local function show(pieces, opts)
  local renderer, out = term.markdown(opts or { colour = true, width = 40 }), {}
  for _, piece in ipairs(pieces) do out[#out + 1] = renderer:feed(piece) end
  out[#out + 1] = renderer:finish()
  return table.concat(out)
end

local function bytes(text)
  local list = {}
  for i = 1, #text do list[i] = text:sub(i, i) end
  return list
end

--- Styles as readable marks: <1>bold</>.
local function marked(text)
  return (text:gsub("\27%[0m", "</>"):gsub("\27%[([%d;]+)m", "<%1>"))
end

local function plain(text) return (text:gsub("\27%[[%d;]*m", "")) end

local CASES = {
  { "**bold** *it* ***both*** ~~no~~ `a*b*`", "<1>bold</> <3>it</> <1;3>both</> <9>no</> <36>a*b*</>" },
  { "__bold__ _it_ snake_case_name 2*3*4 a * b ** c", "<1>bold</> <3>it</> snake_case_name 2*3*4 a * b ** c" },
  { "**粗体**后面，*斜体*。", "<1>粗体</>后面，<3>斜体</>。" },
  { "\\*no\\* a\\b \\", "*no* a\\b \\" },
  { "``a`b`` `open\nnext", "<36>a`b open</>\nnext" },
  { "**open\nnext*", "<1>open</>\nnext*" },
  { "**a *b* c**", "<1>a</> <1;3>b</> <1>c</>" },
  { "# One #tag\n## Two\n#No\n####### seven", "<1;4>One #tag</>\n<1>Two</>\n#No\n####### seven" },
  { "- a\n  * b\n+ c\n1. d\n12) e\n1.5 f\n-g", "<33>•</> a\n  <33>•</> b\n<33>•</> c\n<33>1.</> d\n<33>12)</> e\n1.5 f\n-g" },
  { "> a **b**\n>> c\n> - d", "<2>│</> a <1>b</>\n<2>│</> <2>│</> c\n<2>│</> <33>•</> d" },
  { "a\n\n---\n* * *\n_____\n--\n", "a\n\n" .. ("<2>" .. ("─"):rep(40) .. "</>\n"):rep(3) .. "--\n" },
  { "```lua title\n# no **x**\n\n ``` y\n````\nafter", "<2>```lua title</>\n# no **x**\n\n ``` y\n<2>````</>\nafter" },
  { "  ~~~\n    a\n   b\n ~~~~", "<2>~~~</>\n  a\n b\n<2>~~~~</>" },
  { "```\nnever ends\n``", "<2>```</>\nnever ends\n``" },
  { "[a **b**](http://x/(y) \"t\") [http://z](http://z) [no] [n](o", "<4>a b</> <2>(http://x/(y))</> <4>http://z</> [no] [n](o" },
  { "see [http://z](http://z).", "see <4>http://z</>." },
  { "a [b] c [d](e) [ ] f", "a [b] c <4>d</> <2>(e)</> [ ] f" },
  { "x | y\n|no table|\nafter", "x | y\n|no table|\nafter" },
  { "|a|数量|\n|--|-:|\n|`x|y`|3|\n|long|\n\nb", "<1>a    │ 数量</>\n─────┼─────\nx|y  │    3\nlong │\n\nb" },
  { "|a|b|\n|-|-|\n|1|2|", "<1>a │ b</>\n──┼──\n1 │ 2" },
  { "line one\nline two  \n", "line one\nline two\n" },
  { "", "" },
  { "#", "" },
  { "- ", "<33>•</> " },
}

T.test("each thing, whole, split at every byte, byte by byte", function(t)
  for _, case in ipairs(CASES) do
    local whole = show { case[1] }
    t.eq(marked(whole), case[2], case[1])
    for i = 1, #case[1] - 1 do t.eq(show { case[1]:sub(1, i), case[1]:sub(i + 1) }, whole, i) end
    t.eq(show(bytes(case[1])), whole, case[1])
  end
end)

local BITS = { "*", "**", "***", "_", "__", "`", "``", "~~", "[", "]", "](", ")", "(", "\n", "\n", "\n\n", " ", "word", "中", "，",
  "https://x/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "#", "# ", "- ", "> ", "1. ", "|", "|-|", "---", "```", "\\", "\27", "\r\n", "x", "A" }

T.test("random texts: the same however they come, and no style is left on", function(t)
  for _ = 1, T.slow and 100 or 400 do
    local parts = {}
    for i = 1, math.random(1, 40) do parts[i] = BITS[math.random(#BITS)] end
    local text = table.concat(parts)
    local whole = show { text }
    t.eq(show(bytes(text)), whole, T.show(text))
    t.eq(show(parts), whole, T.show(text))
    t.ok((whole:match ".*\27%[([%d;]*)m" or "0") == "0", T.show(text) .. " -> " .. marked(whole))
  end
end)

T.test("words are out as soon as they end", function(t)
  local renderer = term.markdown { colour = true, width = 40 }
  local out = ""
  for _, piece in ipairs { "Hel", "lo wor", "ld, ", "**bo", "ld", "** ", "x" } do
    out = out .. renderer:feed(piece)
    if piece == "lo wor" then t.eq(marked(out), "Hello") end
    if piece == "ld" then t.eq(marked(out), "Hello world,") end
  end
  t.eq(marked(out), "Hello world, <1>bold")
end)

T.test("lines fit, words and Chinese punctuation stay together, items hang", function(t)
  local words = {}
  for i = 1, 300 do words[i] = ({ "word", "**strong**", "中文，很长", "（注）", "x", "`code`", "。" })[math.random(7)] end
  local text = "- " .. table.concat(words, " ")
  local out = plain(show { text })
  local lines = 0
  for line in out:gmatch "[^\n]+" do
    lines = lines + 1
    t.ok(term.width(line) <= 40, line)
    if lines > 1 then
      t.match(line, "^  %S")
      t.ok(not line:find "^  ，" and not line:find "^  ）", line)
    end
    t.ok(not line:find "（$", line)
  end
  t.ok(lines > 20)
  t.eq(out:gsub("%s", ""), (text:gsub("[%s*`]", ""):gsub("^%-", "•")))
end)

T.test("a word longer than the line is not broken, so that an address can be copied", function(t)
  local url = "https://example.com/" .. ("a"):rep(100)
  t.eq(show { "see " .. url .. " there" }, "see\n" .. url .. "\nthere")
  t.eq(show(bytes("see " .. url .. " there")), "see\n" .. url .. "\nthere")
end)

T.test("control characters are shown, not obeyed; marks of direction vanish", function(t)
  for _, opts in ipairs { { colour = true, width = 80 } } do
    local text = "a\27[2Jb\7 \u{9b}31m \u{202e}c\r\nd `\27]0;x\7`\n```\n\27[1m\n```\n|\27[3m|\n|-|\n"
    local out = show({ text }, opts)
    t.eq(show(bytes(text), opts), out)
    for sequence in out:gmatch "\27(%[?[%d;]*.)" do t.match(sequence, "^%[%d[%d;]*m$") end
    t.ok(out:find("\\027[2J", 1, true))
    t.ok(not out:find("[\7\r]") and not out:find("\u{9b}", 1, true) and not out:find("\u{202e}", 1, true))
    t.ok(not out:find("\27[3m", 1, true))
  end
end)

T.test("not on a terminal: the text as it is", function(t)
  local text = "# a **b** \27[1m\r\n"
  t.eq(show({ text }, { colour = false }), text)
  t.eq(show(bytes(text), {}), text)
end)

T.test("a table that is too wide, and one that never ends", function(t)
  local wide = "|" .. ("a"):rep(30) .. "|" .. ("b"):rep(30) .. "|\n|-|-|\n"
  t.eq(show { wide }, wide)
  local rows = ("| x | y |\n"):rep(10000)
  local renderer, most, out = term.markdown { colour = true, width = 40 }, 0, 0
  local sent = 0
  for row in rows:gmatch "[^\n]+\n" do
    sent = sent + #row
    out = out + #renderer:feed(row)
    most = math.max(most, sent - out)
  end
  t.ok(most < 33 << 10, most)
end)

T.test("print_stream: what is no stream is named", function(t)
  t.raises("print_stream: argument 1 must be a stream .*, got a string", term.print_stream, "text")
  t.raises("print_stream: argument 1 must be a stream .*, got a table", term.print_stream, { text = "text" })
end)

T.test("stream:markdown: the reply has what is shown, and what the model wrote", function(t)
  local server <close> = S.start(function(_, res) S.events(res, S.answer("# Ti", "tle\n**b", "old**\n")) end)
  local reply = S.model(server):stream("x"):markdown({ colour = true, width = 40 }):reply()
  t.eq(marked(reply.text), "<1;4>Title</>\n<1>bold</>\n")
  t.eq(reply.original.text, "# Title\n**bold**\n")
  local stream <close> = S.model(server):stream "x"
  t.raises("stream:markdown: unknown option 'color'", stream.markdown, stream, { color = true })
end)

T.done()
