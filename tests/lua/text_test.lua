-- sluice.core.text: text from pieces, numbers and templates.
local T = require "harness"
local core = require "sluice.core.text"

T.test("strings and integers, in order; taking empties it", function(t)
  local text = core.new()
  text:add("a", 1, "", -20, "汉\0", math.maxinteger, " ", math.mininteger, 0)
  local want = "a1-20汉\0" .. math.maxinteger .. " " .. math.mininteger .. "0"
  t.eq({ #text, text:take(), #text, text:take() }, { #want, want, 0, "" })
  for i = 1, 1000 do text:add(i, ",") end
  t.eq(text:take(), table.concat((function()
    local list = {}
    for i = 1, 1000 do list[i] = i .. "," end
    return list
  end)()))
end)

T.test("fields and templates leave out what is nil", function(t)
  local text = core.new()
  text:fields("a=", 1, ";", "b=", nil, ";", "c=", "x", ".")
  t.eq(text:take(), "a=1;c=x.")
  local template = core.template("{", "", ',"a":', "", ',"b":"', '"', "}", "")
  text:fill(template, "", 7, nil, "")
  text:fill(template, "", nil, "x", "")
  text:fill(template, "")
  text:fill(template)
  t.eq(text:take(), '{,"a":7}{,"b":"x"}{')
end)

T.test("wrong values raise, and nothing of that call is kept", function(t)
  local text = core.new()
  text:add "kept"
  t.raises("string or integer expected, got number", text.add, text, "a", 1.5)
  t.raises("string or integer expected, got table", text.add, text, "a", {})
  t.raises("string or integer expected, got nil", text.add, text, "a", nil)
  t.raises("three arguments", text.fields, text, "a", 1)
  t.raises("string or integer expected", text.fields, text, "a", 1, "b", "c", true, "d")
  t.raises("string or integer expected", text.fill, text, core.template("a", "b", "c", "d"), 1, print)
  t.raises("two strings for each value", core.template, "a")
  t.raises("two strings for each value", core.template)
  t.eq(text:take(), "kept")
end)

T.test("a text has a ceiling, and what does not fit is not in it", function(t)
  local text, piece = core.new(), ("x"):rep(1 << 18)
  for _ = 1, 4 do text:add(piece) end
  t.raises("more than a text may hold", text.add, text, "y")
  t.raises("more than a text may hold", text.fields, text, "", "y", "")
  t.raises("more than a text may hold", text.fill, text, core.template("y", ""), 1)
  t.eq({ #text, text:take():find "y" }, { 1 << 20 })
  text:add "again"
  t.eq(text:take(), "again")
end)

T.test("a template outlives what it was made of", function(t)
  local text, templates = core.new(), {}
  for i = 1, 200 do templates[i] = core.template("before " .. i .. " ", " after " .. i) end
  collectgarbage()
  for i = 1, 200 do
    text:fill(templates[i], "value")
    t.eq(text:take(), ("before %d value after %d"):format(i, i))
  end
end)

T.done()
