-- JSON for scripts and for the library, strict both ways: lua-cjson put right where it matters to
-- an API. Owns nothing: the work is in runtime/bind/json*.c.
--
--   local json = require "sluice.json"
--   json.encode { model = "m", n = 12345678901234567, tools = json.array() }
--   --> {"model":"m","n":12345678901234567,"tools":[]}      (in some order of keys)
--   json.decode('{"usage":{"total_tokens":15},"tool_calls":[]}').usage.total_tokens   --> 15, not 15.0
--
-- Numbers   Integers stay integers, both ways, as far as int64 goes; a longer one becomes a float.
--           A number written with a fraction or an exponent ("1.0", "1e3") becomes an integer when
--           its value is integral and at most 2^53, else a float; "-0" is the float -0.0. Floats are
--           written with as many digits as it takes to read the same float back (15 to 17), integral
--           ones below 2^53 without a point (512.0 as 512: servers refuse max_tokens 512.0), with a
--           point whatever the locale. NaN and infinities are refused, and so is 1e400.
-- Arrays    A table is an array when it has [1], or is marked; everything else is an object, so an
--           unmarked {} is {}. Every array that decode makes is marked (with a metatable; it costs
--           half a per cent of a decode), so one that is [] in the text, or is emptied later, is written as
--           []. An array may only have the keys 1..n, an object only strings: holes and mixtures are
--           errors. Metamethods are not called.
-- null      json.null, the same value as cjson.null. encode(nil) is "null" too.
-- Strings   Must be UTF-8 both ways. "\u0000" is a byte 0; half a surrogate pair, which providers do
--           send, becomes U+FFFD. "/" is written as "/", not as "\/".
-- Objects   Of two equal keys the last counts. The order of keys is not kept.
-- Limits    128 levels, 64 MiB, both ways; encode takes 2 million tables. decode skips a byte order
--           mark.
-- Errors    Are raised, as strings. decode says line, column (in characters) and byte, encode says
--           where in the value: "json: messages[3].content: cannot encode a function".

local core = require "sluice.core.json"

---@class sluice.json
---@field null lightuserdata JSON's null; the same value as cjson.null
local json = { null = core.null }

--- A value as JSON text, without blanks.
--- Raises with the path for what JSON cannot hold: functions, threads, userdata (a secret is named,
--- never shown), NaN and infinities, strings that are not UTF-8, keys that are neither strings nor
--- 1..n, holes, more than 128 levels (a table that contains itself), more than 64 MiB.
---@type fun(value: any): string
json.encode = core.encode

--- The value of a JSON text (RFC 8259, nothing more).
--- Options: `repair` (default false) puts U+FFFD where the text is not UTF-8, instead of raising;
--- `excerpt` (default true) false keeps the text itself out of the error message, for texts that may
--- hold a secret.
--- Raises with the position for anything that is not JSON, more than 128 levels, more than 64 MiB.
---@type fun(text: string, options?: { repair?: boolean, excerpt?: boolean }): any
json.decode = core.decode

--- Marks a table as an array, so that it is written as [] when it is empty. Returns it; without an
--- argument, a new one. The mark is a metatable; raises when the table has another one.
---@type fun(t?: table): table
json.array = core.array

--- Would encode write this value as an array? True for a marked table and for one with [1].
---@type fun(value: any): boolean
json.is_array = core.is_array

--- A string as a JSON string, quotes included: what encode(s) writes (except that the byte 127 is
--- left as it is), faster. Raises when it is not UTF-8.
---@type fun(s: string): string
json.quote = core.quote

return json
