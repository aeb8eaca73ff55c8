---@meta sluice.core.file

-- What runtime/bind/file.c defines: what secrets and shared caches need of files. A failure is nil, words,
-- and a name to decide by: "absent", "unsafe", "locked", "failed".

---@class sluice.core.file
local file = {}

--- A string that is another one when the file has been replaced or written to.
---@param path string
---@return string? mark
---@return string? why
---@return string? code
function file.mark(path) end

---@param path string
---@param max? integer      bytes
---@param private? boolean  refuse a link, somebody else's file, and one that others may read ("unsafe")
---@return string? bytes
---@return string mark      or the words of a failure
---@return string? code
function file.read(path, max, private) end

--- Replaces the file in one step: mode 0600, synced, never half written.
---@param path string
---@param bytes string
---@return true? written
---@return string? why
---@return string? code
function file.write(path, bytes) end

--- Makes the folder the file is to stand in, mode 0700; "unsafe" when others may write to it.
---@param path string  of the file
---@return true? made
---@return string? why
---@return string? code
function file.make_folder(path) end

--- What a symbolic link names.
---@param path string
---@return string? target
---@return string? why
---@return string? code
function file.target(path) end

--- Takes the lock that stands for a file; never waits. Given back by close, at the end of its block or
--- task group, and with the process.
---@param path string
---@return sluice.core.FileLock?
---@return string? why
---@return string? code  "locked": another has it
function file.lock(path) end

---@class sluice.core.FileLock
local FileLock = {}

function FileLock:close() end

return file
