---@meta sluice.core.terminal

-- What runtime/bind/terminal.c defines: lines a person types, for the REPL.

---@class sluice.core.terminal
local terminal = {}

--- Opens stdin for reading lines; once at a time. It belongs to the innermost task group.
---@param edit boolean  with line editing: stdin and stdout are a terminal
---@return sluice.core.Terminal?
---@return string? why
function terminal.open(edit) end

--- Of the terminal behind stdout.
---@return integer columns  0: there is none
---@return integer rows
function terminal.size() end

---@class sluice.core.Terminal
local Terminal = {}

--- Shows the prompt and begins a line.
---@param prompt string
function Terminal:begin(prompt) end

--- Waits for what is typed: a line, the end of input, Ctrl-C, or Tab ("complete"; the line goes on).
---@async
---@return "line"|"end"|"complete"|"interrupt"|"too long" event
---@return string? text    of the line
---@return integer? cursor  bytes of the text before it
function Terminal:take() end

--- Prints whole lines above the one being typed.
---@param lines string
function Terminal:above(lines) end

--- Puts text at the cursor.
---@param text string
function Terminal:insert(text) end

--- Adds an entry to what the arrow keys recall.
---@param entry string
function Terminal:remember(entry) end

--- Drops the line being typed, as Ctrl-C does.
function Terminal:interrupt() end

function Terminal:beep() end

--- Is a prompt shown?
---@return boolean
function Terminal:editing() end

function Terminal:close() end

return terminal
