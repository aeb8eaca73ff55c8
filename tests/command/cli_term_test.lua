-- Text on terminals: what may be shown, how wide it is, where lines are broken.
local T = require "harness"

package.preload["sluice.core.sys"] = function()
  return { env = function() return nil end, isatty = function() return false end }
end
local term = require "sluice.term"

T.test("width", function(t)
  for text, columns in pairs { [""] = 0, abc = 3, ["汉字"] = 4, ["é"] = 1, ["e\u{301}"] = 1, ["한"] = 2, ["ｗ"] = 2,
    ["😀"] = 2, ["…"] = 1, ["\xff\xfe"] = 2, ["a\u{200b}b"] = 2 } do
    t.eq(term.width(text), columns, text)
  end
end)

T.test("safe", function(t)
  t.eq(term.safe "plain 汉字\n\ttext", "plain 汉字\n\ttext")
  t.eq(term.safe "a\r\nb", "a\nb")
  t.eq(term.safe "\27[2J\7\0\127", "\\027[2J\\007\\000\\127")
  t.eq(term.safe "\u{9b}31m\u{85}é", "\\u{9b}31m\\u{85}é")
  t.eq(term.safe "\27[31m\n", "\\027[31m\n")
end)

T.test("wrap", function(t)
  t.eq(term.wrap("one two three", 7), { "one two", "three" })
  t.eq(term.wrap("one two three", 80), { "one two three" })
  t.eq(term.wrap("a\n\nb  c", 80), { "a", "", "b c" })
  t.eq(term.wrap("averylongword x", 5), { "averylongword", "x" })
  t.eq(term.wrap("a b\n  kept   as it is", 3), { "a b", "  kept   as it is" })
  t.eq(term.wrap("", 80), { "" })
  t.eq(term.wrap("汉字 汉字", 8), { "汉字", "汉字" })
  t.eq(term.wrap("汉字 汉字", 9), { "汉字 汉字" })
end)

T.test("no colour where there is no terminal", function(t)
  t.eq(term.painter(2)("red", "x"), "x")
end)

T.done()
