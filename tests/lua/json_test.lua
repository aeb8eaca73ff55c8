-- sluice.json: what lua-cjson gets wrong and this puts right, both ways; strictness; where errors
-- point. The second half holds it against json_reference.lua on random values and broken texts.

local T = require "harness"
local json = require "sluice.json"
local core = require "sluice.core.json"
local cjson = require "cjson"
local reference = require "json_reference"

local ROUNDS = T.slow and 300 or 2000
local MiB = 1 << 20

-- A Lua pattern that matches exactly this text.
local function literally(text) return (text:gsub("%p", "%%%0")) end

local function nested(depth, inner)
  local v = inner
  for _ = 1, depth do v = { v } end
  return v
end

local function nested_text(depth) return ("["):rep(depth) .. ("]"):rep(depth) end

T.test("the module offers what the C module has", function(t)
  for name, value in pairs(core) do t.eq(json[name], value, name) end
  t.eq(json.null, cjson.null)
end)

-- Numbers -----------------------------------------------------------------------------------------

T.test("integers come back as integers, to the end of int64", function(t)
  for _, n in ipairs { 0, 1, -1, 15, 99999999999999, 100000000000000, 123456789012345, 9007199254740991,
    9007199254740992, 9007199254740993, -9007199254740993, 1731600000123456789,
    math.maxinteger, math.mininteger } do
    local text = ("%d"):format(n)
    t.eq(json.encode(n), text)
    t.eq(json.encode { n = n, list = { n } }:find(text, 1, true) ~= nil, true, text)
    local back = json.decode("[" .. text .. "]")[1]
    t.eq(math.type(back), "integer", text)
    t.ok(back == n, text)
  end
  t.eq(math.type(json.decode("7")), "integer")
  t.eq(math.type(json.decode('{"usage":{"total_tokens":15}}').usage.total_tokens), "integer")
  t.eq(tostring(json.decode('{"n":15}').n), "15")
end)

T.test("integers beyond int64 become floats", function(t)
  for _, text in ipairs { "9223372036854775808", "-9223372036854775809", "123456789012345678901234567890" } do
    local n = json.decode(text)
    t.eq(math.type(n), "float", text)
    t.ok(n == tonumber(text), text)
  end
end)

T.test("numbers with a point or an exponent: integers when integral and small", function(t)
  for text, want in pairs {
    ["1.0"] = 1, ["1e3"] = 1000, ["-2.50e1"] = -25, ["9007199254740992.0"] = 1 << 53, ["0e9"] = 0,
  } do
    t.eq(math.type(json.decode(text)), "integer", text)
    t.eq(json.decode(text), want)
  end
  for text, want in pairs {
    ["1.5"] = 1.5, ["1e17"] = 1e17, ["1e300"] = 1e300, ["5e-324"] = 5e-324, ["1E-2"] = 0.01,
  } do
    t.eq(math.type(json.decode(text)), "float", text)
    t.ok(json.decode(text) == want, text)
  end
  local zero = json.decode "-0"
  t.eq(math.type(zero), "float")
  t.eq(1 / zero, -math.huge)
  t.eq(json.encode(zero), "-0")
end)

T.test("floats are written with the digits they need", function(t)
  for text, x in pairs {
    ["0.1"] = 0.1, ["0.7"] = 0.7, ["0.30000000000000004"] = 0.1 + 0.2, ["0.3333333333333333"] = 1 / 3,
    ["512"] = 512.0, ["-12.75"] = -12.75, ["1000000000000000"] = 1e15, ["9007199254740992"] = 2.0 ^ 53,
    ["1e+300"] = 1e300, ["1.7976931348623157e+308"] = 0x1.fffffffffffffp+1023,
    ["0.123456789"] = 0.123456789, ["2.2250738585072014e-308"] = 0x1p-1022, ["0.00012"] = 0.00012,
  } do
    t.eq(json.encode(x), text)
    t.eq(json.encode { x }, "[" .. text .. "]")
  end
end)

T.test("any finite float comes back the same", function(t)
  local bad
  for _ = 1, 10 * ROUNDS do
    local x = string.unpack("d", string.pack("I8", math.random(0)))
    if math.random(3) == 1 then x = math.random() end
    if math.random(4) == 1 then x = math.random(-99999, 99999) / 10 ^ math.random(0, 14) end
    if x - x == 0 and json.decode(json.encode { x })[1] ~= x then bad = x break end
  end
  t.eq(bad and ("%a"):format(bad), nil)
end)

T.test("NaN, infinities and what is too large are refused", function(t)
  t.raises("json: the value: cannot encode NaN", json.encode, 0 / 0)
  t.raises("json: x%[1%]: cannot encode Infinity", json.encode, { x = { math.huge } })
  t.raises("json: x%.y: cannot encode %-Infinity", json.encode, { x = { y = -math.huge } })
  t.raises("json: a number too large for a double at line 1, column 2 %(byte 2%)", json.decode, "[1e400]")
  t.raises("too large", json.decode, "-1e309")
  t.raises("too large", json.decode, ("9"):rep(400))
  t.eq(json.decode "1e308", 1e308)
  t.eq(json.decode("0." .. ("0"):rep(400) .. "1e401"), 1)
  t.eq(json.decode "1e-400", 0)
end)

T.test("a locale with a decimal comma changes nothing", function(t)
  local before, comma = os.setlocale(nil, "numeric"), nil
  for name in ("de_DE.UTF-8 de_DE fr_FR.UTF-8 fr_FR ru_RU.UTF-8 pt_BR.UTF-8 es_ES.UTF-8"):gmatch "%S+" do
    comma = comma or os.setlocale(name, "numeric")
  end
  if not comma then t.skip "no locale with a decimal comma is installed here" end
  local _ <close> = setmetatable({}, { __close = function()
    os.setlocale(before, "numeric")
    cjson.new() -- lua-cjson looks at the locale when an instance is made
  end })
  t.eq(("%.1f"):format(0.5), "0,5")
  local function check(when)
    t.eq(json.encode { 0.5, 1 / 3, 1e300, 0.2 }, "[0.5,0.3333333333333333,1e+300,0.2]", when)
    t.eq(json.decode '[0.5,-2.25e1,1.5e300]', { 0.5, -22.5, 1.5e300 }, when)
    t.raises("too large", json.decode, "1.5e400")
  end
  check "after os.setlocale"
  cjson.new()
  check "after lua-cjson saw it"
  os.setlocale(before, "numeric")
  check "after it was set back, lua-cjson not knowing"
end)

-- Arrays, objects, null ---------------------------------------------------------------------------

T.test("[] stays [], {} stays {}", function(t)
  for _, text in ipairs { "[]", "{}", "[[]]", "[{}]", '{"a":[]}', '{"a":{}}', "[[],[],{},[[]]]", "[1,[],2]" } do
    t.eq(json.encode(json.decode(text)), text)
  end
  t.eq(json.encode(json.decode "[ \n\t]"), "[]")
  t.eq(json.encode {}, "{}")
  t.eq(json.encode(json.array()), "[]")
  t.eq(json.encode { tool_calls = json.array {} }, '{"tool_calls":[]}')
  t.eq(json.encode { json.array(), 1, {} }, "[[],1,{}]")
  t.eq(json.encode { 1, 2, 3 }, "[1,2,3]")
end)

T.test("a decoded array that is emptied is still an array", function(t)
  local v = json.decode '{"list":[1,2],"object":{"a":1}}'
  v.list[2], v.list[1] = nil, nil
  v.object.a = nil
  t.eq(json.encode(v.list), "[]")
  t.eq(json.encode(v.object), "{}")
end)

T.test("array marks, is_array tells", function(t)
  local list = { 1 }
  t.ok(rawequal(json.array(list), list))
  t.ok(rawequal(json.array(list), list), "twice")
  t.eq(json.is_array(json.array()), true)
  t.eq(json.is_array(json.decode "[]"), true)
  t.eq(json.is_array { 1 }, true)
  for _, v in ipairs { {}, { a = 1 }, json.decode "{}", "[]", 1, false } do t.eq(json.is_array(v), false) end
  t.eq(json.is_array(nil), false)
  t.raises("json%.array: the table has a metatable already", json.array, setmetatable({}, {}))
  t.raises("json%.array: the argument must be a table, got string", json.array, "x")
end)

T.test("null both ways", function(t)
  t.eq(json.encode(json.null), "null")
  t.eq(json.encode { a = json.null }, '{"a":null}')
  t.eq(json.encode { 1, json.null, json.null }, "[1,null,null]")
  t.eq(json.decode "[null,1]", { json.null, 1 })
  t.eq(json.encode(nil), "null")
  t.raises("json%.encode: there is no value", json.encode)
end)

T.test("of equal keys the last counts", function(t)
  t.eq(json.decode '{"a":1,"b":2,"a":[]}', { a = {}, b = 2 })
  t.eq(json.decode '{"a":1,"\\u0061":2}', { a = 2 })
end)

T.test("a value of any type may be the whole text", function(t)
  for text, v in pairs { ["true"] = true, ["false"] = false, [' \t\r\n"x" '] = "x", [" -1 "] = -1, ['""'] = "" } do
    t.eq(json.decode(text), v)
  end
  t.eq(json.encode(true), "true")
  t.eq(json.encode "", '""')
end)

T.test("encoding does not change the value", function(t)
  local list, empty = { 1 << 60, 0.5 }, json.array()
  local v = { a = { list, empty }, big = { deep = { list } }, n = 1e15 }
  local text = json.encode(v)
  t.eq(v, { a = { { 1 << 60, 0.5 }, {} }, big = { deep = { { 1 << 60, 0.5 } } }, n = 1e15 })
  t.ok(rawequal(v.a[1], list) and rawequal(v.a[2], empty) and rawequal(v.big.deep[1], list))
  t.eq(math.type(v.n), "float")
  t.eq(json.is_array(empty) and next(empty), nil)
  t.eq(json.decode(text), v)
end)

T.test("metamethods are not called", function(t)
  local trap = function() error "called" end
  local v = setmetatable({ a = 1 }, {
    __index = trap, __newindex = trap, __pairs = trap, __len = trap, __tostring = trap,
  })
  t.eq(json.encode(v), '{"a":1}')
  t.eq(json.encode { v, json.array() }, '[{"a":1},[]]')
end)

-- Strings -----------------------------------------------------------------------------------------

T.test("strings come back the same; / is not escaped", function(t)
  local bytes = {}
  for i = 0, 127 do bytes[#bytes + 1] = string.char(i) end
  for _, s in ipairs {
    table.concat(bytes), "a/b", "</script>", "\\/", "\\\\/", "//", "服务繁忙，请稍后再试。", "😀",
    "\u{7ff}\u{800}\u{ffff}\u{10ffff}", ("x"):rep(5000) .. "/",
  } do
    t.eq(json.decode(json.encode(s)), s)
    t.eq(json.decode(json.encode { [s] = { s, json.array() } }), { [s] = { s, {} } })
    t.eq(json.decode(json.quote(s)), s)
    t.eq(json.quote(s), (json.encode(s):gsub("\\u007f", "\127")))
  end
  t.eq(json.encode "a/b\\/", [["a/b\\/"]])
  t.eq(json.encode { "https://x/y", 1 << 60, "/", json.array() },
    '["https://x/y",1152921504606846976,"/",[]]')
  t.eq(json.quote 'a"\\\n\0\31', [["a\"\\\n\u0000\u001f"]])
  t.eq(json.decode [["\/\b\f\n\r\t\u0041\u00e9\u20AC"]], "/\b\f\n\r\tAé€")
end)

T.test("surrogates: pairs are joined, halves become U+FFFD", function(t)
  local half = "\u{fffd}"
  for text, want in pairs {
    [ [["\ud83d\ude00"]] ] = "😀", [ [["\uDBFF\uDFFF"]] ] = "\u{10ffff}",
    [ [["\ud800"]] ] = half, [ [["\udfff"]] ] = half, [ [["a\ud800b"]] ] = "a" .. half .. "b",
    [ [["\ud800\ud83d\ude00"]] ] = half .. "😀", [ [["\ude00\ud83d"]] ] = half .. half,
    [ [["\ud83d\n"]] ] = half .. "\n", [ [["\ud83d\u0041"]] ] = half .. "A",
    [ [["\\ud800"]] ] = "\\ud800", [ [["\u0000"]] ] = "\0",
  } do
    t.eq(json.decode(text), want, text)
  end
  t.eq(json.decode [=[{"\ud800":["\ud800",[]]}]=], { [half] = { half, {} } })
  t.raises("four hex digits at line 1, column 8 ", json.decode, [["\ud83d\u12"]])
end)

T.test("encode refuses what is not UTF-8 and says where", function(t)
  t.raises("json: the value: invalid UTF%-8 at byte 1", json.encode, "\xff")
  t.raises("json: messages%[2%]%.content: invalid UTF%-8 at byte 3", json.encode,
    { messages = { { content = "é" }, { content = "ab\xc3" } } })
  t.raises("json: a: a key with invalid UTF%-8 at byte 2", json.encode, { a = { ["x\xed\xa0\x80"] = 1 } })
  t.raises("json: a%[1%]: invalid UTF%-8 at byte 1", json.encode,
    { a = { "\xff1234", json.array() }, n = 1 << 60 })
  t.raises("json%.quote: invalid UTF%-8 at byte 2", json.quote, "a\x80")
  t.raises("json%.quote: the argument must be a string, got number", json.quote, 1)
end)

T.test("decode refuses what is not UTF-8, or repairs it", function(t)
  t.raises("json: invalid UTF%-8 %(0xff%) at line 2, column 3 %(byte 10%)", json.decode, '["é",\n "\xff"]')
  t.raises("json: invalid UTF%-8 %(0xe6%) at line 1, column 2 ", json.decode, '"\xe6\x9c"')
  t.eq(json.decode('["a\xffb","\xe6\x9c",[],"\xed\xa0\x80"]', { repair = true }),
    { "a\u{fffd}b", "\u{fffd}", {}, "\u{fffd}\u{fffd}\u{fffd}" })
  t.eq(json.decode('{"ok":1}', { repair = true }), { ok = 1 })
  t.raises("json: expected a value at line 1, column 2 ", json.decode, "[\xff]", { repair = true })
  t.raises("unknown option 'repiar' %(there are repair and excerpt%)", json.decode, "1", { repiar = true })
  t.raises("option 'repair' is a boolean, not a number", json.decode, "1", { repair = 1 })
  t.raises("the options must be a table, got boolean", json.decode, "1", true)
end)

-- What cannot be encoded --------------------------------------------------------------------------

T.test("encode errors name the place", function(t)
  local thread = coroutine.create(print)
  for want, v in pairs {
    ["messages[3].content: cannot encode a function"] = { messages = { {}, {}, { content = print } } },
    ["the value: cannot encode a function"] = print,
    ["[2]: cannot encode a thread"] = { 1, thread },
    ['["a b"][2]: cannot encode a userdata (FILE*)'] = { ["a b"] = { 1, io.stdout } },
    ["list: a sparse array: [3] is set but [2] is nil (json.null can fill a hole)"] = { list = { 1, nil, 3 } },
    ["list: a sparse array: [2] is set but [1] is nil (json.null can fill a hole)"] = { list = { nil, 2 } },
    ["a: mixed keys: x beside [1] (an object has strings only, an array 1..n)"] = { a = { 1, 2, x = 1 } },
    ["a: marked as an array, but it has the key x"] = { a = json.array { x = 1 } },
    ["a: cannot encode the key [0] (an object has strings only, an array 1..n)"] = { a = { [0] = 1 } },
    ["a: cannot encode the key [1.5] (an object has strings only, an array 1..n)"] = { a = { [1.5] = 1 } },
    ["a: cannot encode a key that is a boolean"] = { a = { [true] = 1 } },
    ["a[1]: cannot encode a key that is a table"] = { a = { { [{}] = 1 } } },
    ['["tab "]["' .. ("k"):rep(40) .. '…"]: cannot encode a function'] = { ["tab\t"] = { [("k"):rep(41)] = print } },
  } do
    t.raises(literally("json: " .. want) .. "$", json.encode, v)
    t.raises(literally(want) .. "$", json.encode, v)
  end
  t.raises("sparse array: %[1000000%] is set but %[1%] is nil", json.encode, { [1000000] = 1 })
end)

T.test("errors say which line of the script called", function(t)
  local line = debug.getinfo(1, "l").currentline
  t.raises("json_test%.lua:" .. line + 2 .. ": json: ", function()
    local _ = json.encode { print }
  end)
  t.raises("json_test%.lua:" .. line + 5 .. ": json: ", function()
    local _ = json.decode "[1"
  end)
end)

T.test("a secret is named, its value is not asked for", function(t)
  local file = assert(io.tmpfile())
  local methods = getmetatable(file)
  debug.setmetatable(file, { __name = "sluice.secret", __tostring = function() return "<secret openai#3>" end })
  local err = t.raises("json: auth: cannot encode a secret, <secret openai#3>: secrets are not written",
    json.encode, { auth = file })
  t.eq(type(err), "string")
  debug.setmetatable(file, methods)
  file:close()
end)

T.test("a table that contains itself ends at the depth limit", function(t)
  local v = { name = "x" }
  v.a = { b = v }
  local err = t.raises("nested deeper than 128 tables: the table contains itself", json.encode, v)
  t.match(err, "json: a%.b%.a%.b%.a%.b….a%.b%.a%.b%.a%.b: ")
  local list = {}
  list[1] = list
  t.raises("%[1%]%[1%].*the table contains itself", json.encode, list)
end)

-- Limits ------------------------------------------------------------------------------------------

T.test("128 levels, both ways", function(t)
  t.eq(json.encode(nested(128, 1)), ("["):rep(128) .. "1" .. ("]"):rep(128))
  t.raises("nested deeper than 128 tables$", json.encode, nested(129, 1))
  t.eq(json.encode(nested(127, json.array())), nested_text(128))
  t.raises("nested deeper than 128 tables$", json.encode, nested(128, json.array()))
  t.eq(json.encode(json.decode(nested_text(128))), nested_text(128))
  t.raises("json: nested deeper than 128 levels at line 1, column 129 %(byte 129%)", json.decode, nested_text(129))
  t.raises("nested deeper than 128 levels", json.decode, ("["):rep(1000000))
  t.eq(#json.encode(json.decode(('{"a":'):rep(128) .. "1" .. ("}"):rep(128))), 128 * 6 + 1)
  t.raises("nested deeper than 128 levels", json.decode, ('{"a":'):rep(129) .. "1" .. ("}"):rep(129))
end)

T.test("64 MiB, both ways", function(t)
  local text = '"' .. ("x"):rep(64 * MiB - 2) .. '"'
  t.eq(#json.decode(text), 64 * MiB - 2)
  t.raises("json: the text has 67108865 bytes; the limit is 67108864", json.decode, text .. " ")
  text = nil -- luacheck: ignore 311
  local s = ("x"):rep(MiB)
  local list = {}
  for i = 1, 64 do list[i] = s end
  t.raises("json: the text would be longer than the limit of 67108864 bytes", json.encode, list)
  list[64] = nil
  t.eq(#json.encode(list), 63 * (MiB + 3) + 1)
  t.raises("json%.quote: the string has 67108865 bytes", json.quote, ("x"):rep(64 * MiB + 1))
  collectgarbage()
end)

T.test("a few shared tables that would make an endless text end early", function(t)
  local v = { "a string" }
  for _ = 1, 60 do v = { v, v } end
  t.raises("json: more than 2097152 tables", json.encode, v)
end)

-- Strictness --------------------------------------------------------------------------------------

T.test("what is not JSON is refused, with the place", function(t)
  for text, want in pairs {
    [""] = "expected a value at line 1, column 1 (byte 1): the text ends there",
    [" \n "] = "expected a value at line 2, column 2 (byte 4): the text ends there",
    ['{\n  "a": nope\n}'] = "expected a value at line 2, column 8 (byte 10): near `nope }`",
    ['["é", x]'] = "expected a value at line 1, column 7 (byte 8): near `x]`",
    ["\u{feff}[x"] = "expected a value at line 1, column 2 (byte 5): near `x`",
    ["[1,2,"] = "expected a value at line 1, column 6 (byte 6): the text ends there",
    ["[1,2"] = "expected ',' or ']' at line 1, column 5 (byte 5): the text ends there",
    ['{"a":1'] = "expected ',' or '}' at line 1, column 7 (byte 7): the text ends there",
    ["[1,]"] = "expected a value before the closing bracket at line 1, column 4 (byte 4): near `]`",
    ['{"a":1,}'] = "expected a key in double quotes at line 1, column 8 (byte 8): near `}`",
    ["{a:1}"] = "expected a key in double quotes, or '}' at line 1, column 2 (byte 2): near `a:1}`",
    ['{"a" 1}'] = "expected ':' after the key at line 1, column 6 (byte 6): near `1}`",
    ["[1 2]"] = "expected ',' or ']' at line 1, column 4 (byte 4): near `2]`",
    ["[1}"] = "expected ',' or ']' at line 1, column 3 (byte 3): near `}`",
    ["1 2"] = "expected nothing more after the value at line 1, column 3 (byte 3): near `2`",
    ["truex"] = "expected nothing more after the value at line 1, column 5 (byte 5): near `x`",
    ["[1]]"] = "expected nothing more after the value at line 1, column 4 (byte 4): near `]`",
    ["<html>"] = "expected a value (this looks like HTML or XML) at line 1, column 1 (byte 1): near `<html>`",
    ["// x\n1"] = "expected a value (JSON has no comments) at line 1, column 1 (byte 1): near `// x 1`",
    ["['a']"] = "expected a value (JSON strings take double quotes) at line 1, column 2 (byte 2): near `'a']`",
    ["NaN"] = "expected a value (JSON has no NaN, Infinity, +1 or .5) at line 1, column 1 (byte 1): near `NaN`",
    ["01"] = "a number with a leading zero at line 1, column 1 (byte 1): near `01`",
    ["0x10"] = "a hexadecimal number (JSON has none) at line 1, column 1 (byte 1): near `0x10`",
    ["1."] = "expected a digit after the decimal point at line 1, column 3 (byte 3): the text ends there",
    ["1e+"] = "expected a digit in the exponent at line 1, column 4 (byte 4): the text ends there",
    ["-Infinity"] = "expected a digit after the minus sign at line 1, column 2 (byte 2): near `Infinity`",
    ['"abc'] = "a string without its closing quote at line 1, column 5 (byte 5): the text ends there",
    ['"abc\\'] = "a string without its closing quote at line 1, column 6 (byte 6): the text ends there",
    ['"a\nb"'] = "a control character in a string (it must be escaped) at line 1, column 3 (byte 3): near ` b\"`",
    ['"\\x41"'] = "an escape that JSON does not have at line 1, column 2 (byte 2): near `\\x41\"`",
    ["[" .. ("é"):rep(30)] = "expected a value at line 1, column 2 (byte 2): near `éééééééééééé…`",
  } do
    t.raises(literally("json: " .. want) .. "$", json.decode, text)
  end
  for _, text in ipairs {
    "00", "-01", "+1", ".5", "-.5", "1.e3", "0X1", "1e", "--1", "- 1", "-", "inf", "nan", "Infinity", "None",
    "TRUE", "tru", "[,]", "[1,,2]", "{,}", "{1:2}", '{"a":}', '{"a":1 "b":2}', '{"a":1}}',
    "[", "{", '{"a"', '{"a":', "]", ",", ":", '"', '"\\', '"\\u', '"\\u00"', '"\\u00g0"', '"\1"', "\0", "1\0",
    "[1]\0", '"\0"', "[\v1]", "1\f", "#", "/**/1", "1//", "'a'", "`a`", "\u{a0}1", "\u{feff}\u{feff}1",
    "\\u0031",
  } do
    t.raises("json: .* at line %d+, column %d+ %(byte %d+%)", json.decode, text)
    t.eq(reference.decode(text), nil, text)
  end
  for _, v in ipairs { 1, true, {}, print } do
    t.raises("json%.decode: the text must be a string, got " .. type(v), json.decode, v)
  end
  t.raises("json%.decode: the text must be a string, got nil", json.decode, nil)
end)

T.test("excerpt=false keeps the text out of the message", function(t)
  local err = t.raises("json: expected ',' or '}' at line 1, column 26 %(byte 26%)$", json.decode,
    '{"access_token":"s3cret" "x"', { excerpt = false })
  t.eq(err:find "s3cret", nil)
end)

T.test("what a script sets on lua-cjson does not reach us", function(t)
  local precision, depth = cjson.encode_number_precision(), cjson.encode_max_depth()
  local _ <close> = setmetatable({}, { __close = function()
    cjson.encode_number_precision(precision)
    cjson.encode_max_depth(depth)
    cjson.decode_max_depth(depth)
  end })
  cjson.encode_number_precision(3)
  cjson.encode_max_depth(1)
  cjson.decode_max_depth(1)
  t.eq(cjson.encode(0.12345), "0.123")
  t.eq(json.encode { { 0.12345 } }, "[[0.12345]]")
  t.eq(json.decode "[[0.12345]]", { { 0.12345 } })
end)

-- Random values and texts -------------------------------------------------------------------------

local PIECES = { "a", "/", "\\", '"', "\n", "\0", "\31", "\127", "é", "服务", "😀", "\u{fffd}", "\u{7ff}",
  "{}", "[]", "null", "plain text ", "\\u0041" }

local function random_string()
  local parts = {}
  for i = 1, math.random(0, 12) do parts[i] = PIECES[math.random(#PIECES)] end
  return table.concat(parts)
end

local function random_number()
  local kind = math.random(6)
  if kind == 1 then return math.random(-9, 9) end
  if kind == 2 then return math.random(0) >> math.random(0, 63) end
  if kind == 3 then return math.random(-99999, 99999) / 10 ^ math.random(0, 12) end
  if kind == 4 then return math.random() end
  if kind == 5 then return math.random(0) * 1.0 end
  local x = string.unpack("d", string.pack("I8", math.random(0)))
  return x - x == 0 and x or -0.0
end

local function random_value(depth)
  local kind = math.random(depth > 0 and 10 or 6)
  if kind <= 2 then return random_string() end
  if kind <= 4 then return random_number() end
  if kind == 5 then return math.random(2) == 1 end
  if kind == 6 then return json.null end
  local v = {}
  if kind <= 8 then
    for i = 1, math.random(0, 4) do v[i] = random_value(depth - 1) end
    return json.array(v)
  end
  for _ = 1, math.random(0, 4) do v[random_string()] = random_value(depth - 1) end
  return v
end

-- The place where two values differ as JSON sees them (1 and 1.0 apart, [] and {} apart), or nil.
local function difference(a, b, path)
  if type(a) ~= type(b) then return path end
  if type(a) ~= "table" then
    if a ~= b or (math.type(a) == "integer" and math.type(b) ~= "integer") then return path end
    if a == 0 and math.type(a) == "float" and 1 / a ~= 1 / b then return path end
    return nil
  end
  if json.is_array(a) ~= json.is_array(b) then return path end
  for k, v in next, a do
    if b[k] == nil then return path .. "." .. k end
    local found = difference(v, b[k], path .. "." .. k)
    if found then return found end
  end
  for k in next, b do
    if a[k] == nil then return path .. "." .. k end
  end
end

T.test("random values come back the same, by the short way and by the long", function(t)
  local found
  for _ = 1, ROUNDS do
    local v = random_value(5)
    local text = json.encode(v)
    found = found or difference(v, json.decode(text), "")
    -- An empty array beside it makes encode take the full walk.
    found = found or difference(v, json.decode(json.encode { v, json.array() })[1], "walk")
    if json.encode { v, json.array() } ~= "[" .. text .. ",[]]" then
      found = found or "texts differ: " .. text
    end
  end
  t.eq(found, nil)
end)

-- Is `got` the number that sluice.json makes of `want`, which is what Lua makes of the same text?
local function same_number(want, got)
  if want ~= got then return false end
  local whole = math.tointeger(want)
  if whole == 0 and math.type(got) == "float" then return 1 / got < 0 end -- "-0"
  if math.type(want) == "integer" then return math.type(got) == "integer" end
  return (math.type(got) == "integer") == (whole ~= nil and math.abs(want) <= 2.0 ^ 53)
end

-- A value of json_reference.lua against one of ours: the place where they differ, or nil.
local function disagree(want, got, path)
  if want == reference.null then return got ~= json.null and path or nil end
  if type(want) ~= type(got) then return path end
  if type(want) == "number" then return not same_number(want, got) and path or nil end
  if type(want) ~= "table" then return want ~= got and path or nil end
  if json.is_array(got) ~= (want.array or false) then return path end
  local count = 0
  for k, v in next, want.array and { table.unpack(want, 1, want.n) } or want.fields do
    count = count + 1
    local found = disagree(v, got[k], path .. "." .. tostring(k))
    if found then return found end
  end
  for _ in next, got do count = count - 1 end
  return count ~= 0 and path or nil
end

local BITS = { "[", "]", "{", "}", ",", ":", '"', "\\", "\\u", "\\ud83d", "\\ude00", "0", "1", "-", ".", "e", "E+",
  "e400", "9007199254740993", "12345678901234567890", " ", "\n", "null", "true", "false", "[]", "{}", "[ ]", '""', '"a":',
  "\0", "\xff", "é", "\u{feff}", "/", "x", "1.0", "-0", "01" }

-- Cut a piece out, put a piece in, or exchange one, a few times.
local function broken(text)
  for _ = 1, math.random(0, 3) do
    local from = math.random(#text + 1)
    local to = from - 1 + math.random(0, 2)
    local piece = math.random(3) > 1 and BITS[math.random(#BITS)] or ""
    text = text:sub(1, from - 1) .. piece .. text:sub(to + 1)
  end
  return text
end

local function random_text()
  if math.random(4) == 1 then
    local parts = {}
    for i = 1, math.random(8) do parts[i] = BITS[math.random(#BITS)] end
    return table.concat(parts)
  end
  return broken(json.encode(random_value(3)))
end

T.test("random texts: the same verdict and value as the reference", function(t)
  local accepted, refused, found = 0, 0, nil
  for _ = 1, 5 * ROUNDS do
    local text = random_text()
    local ok, got = pcall(json.decode, text)
    local want = reference.decode(text)
    if ok then
      accepted = accepted + 1
      local where = want == nil and "not JSON" or disagree(want, got, "value")
      if not where then where = difference(got, json.decode(json.encode(got)), "again") end
      found = found or where and where .. ": " .. text
    else
      refused = refused + 1
      if want ~= nil or not tostring(got):find "^json: " then found = found or "refused: " .. text .. ": " .. got end
      local _, offset = tostring(got):match "^json: .- at line (%d+), column %d+ %(byte (%d+)%)"
      if not offset or tonumber(offset) > #text + 1 then found = found or "no place: " .. got end
    end
  end
  t.eq(found, nil)
  t.ok(accepted > ROUNDS / 2, "texts accepted: " .. accepted)
  t.ok(refused > ROUNDS / 2, "texts refused: " .. refused)
end)

T.test("a collector that never rests changes nothing", function(t)
  collectgarbage("incremental", 1, 1000, 1)
  local _ <close> = setmetatable({}, { __close = function() collectgarbage("incremental", 200, 100, 13) end })
  local found
  for _ = 1, ROUNDS // 10 do
    local v = random_value(4)
    found = found or difference(v, json.decode(json.encode(v)), "")
    found = found or difference(v, json.decode(json.encode { v, json.array() })[1], "walk")
    pcall(json.decode, random_text(), { repair = true })
  end
  t.eq(found, nil)
end)

T.done()
