---@meta sluice.core.process

-- What runtime/bind/process.c defines: child processes, without a shell.

---@class sluice.core.process
local process = {}

---@class sluice.core.process.Options
---@field argv string[]          the program (looked for in PATH when it has no slash) and its arguments
---@field env? table<string, string|sluice.Secret|false>  changes to our environment; false removes
---@field folder? string         where it starts
---@field stdin? "null"|"pipe"|"inherit"
---@field stdout? "pipe"|"null"|"inherit"
---@field stderr? "pipe"|"null"|"inherit"|"stdout"
---@field input? string|sluice.Secret  all it reads from stdin
---@field timeout? number        seconds; then its group gets SIGTERM, and SIGKILL a second later
---@field out_max? integer       bytes of stdout, 16 MiB; more ends it, unless it streams
---@field err_max? integer
---@field err_tail? boolean      of stderr the last err_max bytes are kept, at most twice as many; more ends nothing
---@field streams? boolean       what it prints is read only as fast as read() takes it

--- Starts one, in a process group of its own. It belongs to the innermost task group and is ended with it.
---@param options sluice.core.process.Options
---@return sluice.core.Process?
---@return string? why
---@return "folder"|"missing"|"program"|"pipe"? what  failed; "missing": there is no such program
function process.spawn(options) end

---@param number integer
---@return string  "Killed"
function process.signal_name(number) end

--- Children that have not been reaped.
---@return integer
function process.count() end

---@class sluice.core.Process
local Process = {}

--- Until it has exited and all it printed is here.
---@async
---@return integer? code
---@return integer? signal
---@return "ended"|"timeout"|"overflow"|"stopped" how
function Process:wait() end

--- What it has printed and nobody has taken yet.
---@return string stdout
---@return string stderr
function Process:output() end

--- The next piece, nil at the end.
---@async
---@param which? "out"|"err"
---@return string?
function Process:read(which) end

--- Waits while much of it is still on its way.
---@async
---@param bytes string|sluice.Secret
---@return boolean taken  false: it reads no more
function Process:write(bytes) end

--- Its stdin ends when all that was written has been read.
function Process:finish() end

--- For its whole group.
---@param name "TERM"|"INT"|"HUP"|"KILL"|"USR1"|"USR2"|"STOP"|"CONT"
function Process:signal(name) end

--- SIGTERM, and SIGKILL a second later; wait tells when it is over.
function Process:stop() end

--- Nobody wants it any more: it is stopped if it runs.
function Process:close() end

---@return integer
function Process:pid() end

return process
