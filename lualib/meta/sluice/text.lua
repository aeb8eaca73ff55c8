---@meta sluice.core.text

-- What runtime/bind/text.c defines, for what writes much text (traces).

---@class sluice.core.text
local text = {}

---@return sluice.core.Text
function text.new() end

--- What stands around values, for text:fill(): two strings for each value.
---@param before string
---@param after string
---@param ... string  and so on
---@return sluice.core.Template
function text.template(before, after, ...) end

---@class sluice.core.Template

--- Text that is put together piece by piece; `#` is its bytes, 1 MiB at most.
---@class sluice.core.Text
local Text = {}

--- Appends strings and integers. Raises when they do not go in, and has appended none of them then.
---@param ... string|integer
function Text:add(...) end

--- Appends `before`, `value`, `after`, for each three of them whose value is not nil.
---@param ... string|integer|nil
function Text:fields(...) end

--- Appends the template around those of the values that are not nil. Raises like add.
---@param template sluice.core.Template
---@param ... string|integer|nil  as many as it is for
function Text:fill(template, ...) end

--- All of it; what is left is empty.
---@return string
function Text:take() end

return text
