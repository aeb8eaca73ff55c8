---@meta sluice.core.json

-- What runtime/bind/json.c defines. Scripts use sluice.json, which says how values map.

---@class sluice.core.json
---@field null lightuserdata
local json = {}

---@param value any
---@return string
function json.encode(value) end

---@param text string
---@param options? { repair?: boolean, excerpt?: boolean }
---@return any
function json.decode(text, options) end

---@param t? table
---@return table t the same table, marked
function json.array(t) end

---@param value any
---@return boolean
function json.is_array(value) end

---@param s string
---@return string
function json.quote(s) end

return json
