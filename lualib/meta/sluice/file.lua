---@meta sluice.core.file

-- What runtime/bind/file.c defines: what secrets, shared caches and sluice.files need of files. A failure
-- is nil, words, and a name to decide by: "absent", "unsafe", "locked", "failed".

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

--- Makes a folder, unless it is there; with the mode that the process gives to new ones.
---@param path string
---@return true? made
---@return string? why
---@return string? code
function file.mkdir(path) end

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

--- What stands under the name, links followed.
---@param path string
---@return "file"|"folder"|"other"|nil kind
---@return integer|string bytes_or_why
---@return string? code
function file.kind(path) end

--- What is in a folder, but "." and "..".
---@param path string
---@return table<string, "file"|"folder"|"link"|"other">? kinds  by name
---@return string? why
---@return string? code
function file.list(path) end

--- Replaces the file, or what the link names, in one step: its mode stays, that of a new file follows
--- the umask.
---@param path string
---@param bytes string
---@return true? written
---@return string? why
---@return string? code
function file.replace(path, bytes) end

--- Base64 with padding (RFC 4648 section 4).
---@param bytes string
---@return string
function file.base64(bytes) end

---@class sluice.core.FileLock
local FileLock = {}

function FileLock:close() end

return file
