--- Rows of JSON, one a line: data sets in, results out.
-- Owns: reading line by line within a bound, naming the line that is bad, lines that are written whole.
-- Never: holds more of a file than one line.

local core = require "sluice.core.file"
local errors = require "sluice.errors"
local json = require "sluice.json"
local options = require "sluice.options"

local LINE_MAX = 16 << 20 -- bytes of one line
local CHUNK = 64 << 10    -- bytes read at a time
local EXCERPT = 60        -- bytes of a bad line that are shown

local READ = options.spec { max = { type = "integer", min = 1 }, on_error = { type = "function" } }
local WRITER = options.spec { fresh = { type = "boolean" } }

---@class sluice.jsonl
local jsonl = {}

-- Reading -----------------------------------------------------------------------------------------

local function open(where, file)
  if type(file) == "string" and file ~= "" then
    if file == "-" then return io.stdin, "stdin", false end
    if core.kind(file) == "folder" then options.raise(("%s: %s: it is a folder"):format(where, file)) end
    local opened, why = io.open(file, "rb")
    if not opened then options.raise(("%s: %s"):format(where, why)) end
    return opened, file, true
  end
  if io.type(file) ~= "file" then
    options.raise(("%s: argument 1 must be a path or an open file, got %s"):format(where, options.got(file)))
  end
  return file, "the file", false
end

--- A function that gives the next line, without its end; and false for one longer than `max`, of which
--- no more than that is ever held. nil at the end.
local function lines_of(file, shown, max)
  local buffer, from, parts, size, ended = "", 1, {}, 0, false
  local function take(text)
    size = size + #text
    if size <= max + 2 then parts[#parts + 1] = text end -- with "\r" and a byte that tells it is too long
  end
  local function finish()
    local line = size <= max + 2 and table.concat(parts):gsub("\r$", "") or nil
    parts, size = {}, 0
    return line and #line <= max and line or false
  end
  return function()
    while true do
      local stop = buffer:find("\n", from, true)
      if stop then
        take(buffer:sub(from, stop - 1))
        from = stop + 1
        return finish()
      end
      take(buffer:sub(from))
      local why
      buffer, why = file:read(CHUNK)
      from = 1
      if not buffer then
        if why then error(("%s: %s"):format(shown, why), 0) end
        if ended or size == 0 then return nil end
        buffer, ended = "", true
        return finish()
      end
    end
  end
end

--- `for row, n in jsonl.read "data.jsonl" do`: each line decoded, and its number. Blank lines are passed
--- over. A line that is no JSON, or longer than `max` (16 MiB), raises "data.jsonl:17: …"; with
--- on_error(n, message, line) it is reported there and left out (`line` is nil for one that is too long).
--- "-" reads stdin. A path is closed at the end of the loop, however it is left; a file that was open stays
--- open.
---@param file string|file*
---@param opts? { max?: integer, on_error?: fun(n: integer, message: string, line?: string) }
---@return fun(): any, integer
function jsonl.read(file, opts)
  opts = options.check("sluice.jsonl.read", opts or {}, READ)
  local handle, shown, own = open("sluice.jsonl.read", file)
  local max, on_error = opts.max or LINE_MAX, opts.on_error
  local next_line, n = lines_of(handle, shown, max), 0
  local function close()
    if own and io.type(handle) == "file" then handle:close() end
    next_line = function() return nil end
  end
  local function bad(message, line)
    if on_error then return on_error(n, message, line) end
    close()
    error(("%s:%d: %s"):format(shown, n, message), 0)
  end
  local function read()
    while true do
      local line = next_line()
      if line == nil then
        close()
        return nil
      end
      n = n + 1
      if n == 1 and line then line = line:gsub("^\xEF\xBB\xBF", "") end
      if not line then
        bad(("the line is longer than %d bytes (option max)"):format(max))
      elseif line:find "%S" then
        local ok, row = pcall(json.decode, line)
        if ok then return row, n end
        if not tostring(row):find "^json: " then error(row, 0) end -- no fault of the line: no memory, say
        bad(("not JSON: %s: %s"):format(tostring(row):gsub("^json: ", ""), errors.one_line(line, EXCERPT)),
          line)
      end
    end
  end
  return read, nil, nil, setmetatable({}, { __close = close })
end

--- What is done already: the ids of the rows in a file of results, as a set, and how many there are. No
--- file: none. Lines that are no JSON, such as the last one after a crash, count as not done.
---@param path string
---@param key? string|fun(row: any): any  the field that identifies a row ("id"), or a function that tells
---@return table<any, true> done
---@return integer count
function jsonl.done(path, key)
  key = key == nil and "id" or key
  if type(key) ~= "string" and type(key) ~= "function" then
    options.raise("sluice.jsonl.done: argument 2 must be the name of a field or a function, got " .. options.got(key))
  end
  local done, count = {}, 0
  if type(path) == "string" and path ~= "" and not core.kind(path) then return done, count end
  for row in jsonl.read(path, { on_error = function() end }) do
    local id
    if type(key) == "function" then id = key(row)
    elseif type(row) == "table" then id = row[key] end
    if id ~= nil and not done[id] then done[id], count = true, count + 1 end
  end
  return done, count
end

-- Writing -----------------------------------------------------------------------------------------

---@class sluice.JsonlWriter
---@field path string
---@field count integer  rows written
local Writer = { __name = "sluice.jsonl.writer" }
Writer.__index = Writer

--- Was the last line left without an end, by a program that was killed?
local function ends_open(path)
  local file <close> = io.open(path, "rb")
  if not file or not file:seek("end", -1) then return false end
  return file:read(1) ~= "\n"
end

--- Raises what keeps a text from being written.
local function put(self, text)
  local ok, why = self.file:write(text)
  if not ok then error(("sluice.jsonl.writer: %s: %s"):format(self.path, why), 0) end
end

local function cannot_write(path, why)
  options.raise("sluice.jsonl.writer: " .. require "sluice.files.missing".explain(path, why))
end

--- A writer that appends rows to a file; with fresh = true the file begins anew. Each row is on its way
--- to the disk when `write` returns, in one piece, so that a program that is killed leaves whole lines, and
--- several tasks or processes may write to one file. `local out <close> = jsonl.writer "out.jsonl"`.
---@param path string
---@param opts? { fresh?: boolean }
---@return sluice.JsonlWriter
function jsonl.writer(path, opts)
  if type(path) ~= "string" or path == "" then
    options.raise("sluice.jsonl.writer: argument 1 must be a path, got " .. options.got(path))
  end
  opts = options.check("sluice.jsonl.writer", opts or {}, WRITER)
  local open_line = not opts.fresh and core.kind(path) == "file" and ends_open(path)
  if opts.fresh then -- emptied first: only a file opened for appending takes each row in one piece
    local file, why = io.open(path, "wb")
    if not file then cannot_write(path, why) end
    file:close()
  end
  local file, why = io.open(path, "ab")
  if not file then cannot_write(path, why) end
  file:setvbuf "no" -- each write goes out as one
  local self = setmetatable({ path = path, file = file, count = 0 }, Writer)
  if open_line then put(self, "\n") end
  return self
end

--- Appends one row: anything sluice.json can encode. Raises when it cannot, or the disk is full.
---@param row any
function Writer:write(row)
  if not self.file then options.raise("writer:write: the writer of " .. self.path .. " is closed") end
  if row == nil then options.raise "writer:write: argument 1 must be a row, got nothing" end
  local ok, text = pcall(json.encode, row)
  if not ok then
    options.raise(("writer:write: row %d: %s"):format(self.count + 1, (tostring(text):gsub("^json: ", ""))))
  end
  put(self, text .. "\n")
  self.count = self.count + 1
end

--- Closing twice does nothing.
function Writer:close()
  local file = self.file
  self.file = nil
  if file then file:close() end
end

Writer.__close = Writer.close

function Writer:__tostring()
  return ("writer of %s (%d rows)"):format(self.path, self.count)
end

return jsonl
