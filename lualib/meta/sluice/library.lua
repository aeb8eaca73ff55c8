---@meta sluice.core.library

-- What runtime/bind/library.c defines.

---@class sluice.core.library
local library = {}

--- The text of a module of the library inside the program; nil when it has none of that name.
---@param name string  as require takes it; stubs are "meta.sluice.…"
---@return string?
function library.source(name) end

--- The names of all its modules, sorted.
---@return string[]
function library.names() end

return library
