---@meta sluice.core.token

-- What runtime/bind/token.c defines. Scripts use sluice.token. What a token itself can do is in
-- credentials.lua.

---@class sluice.core.token
---@field methods table<string, function>  of every token; sluice.token adds to them
local token = {}

--- `fetch(token)` returns a value (any but nil), the seconds it has left, the seconds of its whole life,
--- the seconds after which to ask again (nil each: endless, the same, by its life); or nil, an error,
--- whether asking again at once would fail again, and the seconds to hold back. It runs in a task of the
--- runtime's.
---@param name string  "the token corp"
---@param fetch fun(token: sluice.Token): any, ...
---@return sluice.Token
function token.new(name, fetch) end

---@param name string
---@param value any  that never changes
---@return sluice.Token
function token.fixed(name, value) end

---@param value any
---@return boolean
function token.is(value) end

--- How many seconds before its end a token is due, must be replaced, and counts as ended.
---@param life number       seconds
---@param interval? number  seconds after which its source wants to be asked again
---@return number advisory
---@return number mandatory
---@return number skew
function token.margins(life, interval) end

return token
