--- Secrets in files. A file is looked at again when it is used, at most once a second; what has changed
-- is read by the path the script gave, whatever that leads to by then.
-- Owns: when to look, what may stand in a file, what happens when it is gone. A file that cannot be
-- read for a moment (it is being replaced) leaves the last good value in force.

local core = require "sluice.core.secret"
local files = require "sluice.core.file"
local sys = require "sluice.core.sys"
local tasks = require "sluice.core.task"
local errors = require "sluice.errors"
local options = require "sluice.options"
local mocked = require "sluice.secret.mocked"

local SIZE_MAX = 256 << 10 -- bytes; SECRET_MAX in runtime/base/limits.h
local CHECK = 1            -- seconds between two looks

local SPEC = options.spec {
  path = { type = "string", required = true, nonempty = true },
  name = { type = "string", nonempty = true },
  check = { type = "seconds", default = CHECK },
  trim = { type = "boolean", default = true },
}

local file = { CHECK = CHECK }

local function fail(path, why, code)
  errors.raise { kind = "auth", code = code or "no_key", phase = "secret",
    message = ("the secret file %s %s"):format(errors.one_line(path, 200), why) }
end

--- The content of a file as a secret's text; raises `auth`.
---@param path string
---@param trim boolean  without one line break at its end
---@return string text
---@return string mark  another one when the file is
function file.load(path, trim)
  local text, mark = files.read(path, SIZE_MAX)
  if not text then fail(path, "cannot be read: " .. mark) end
  if trim then text = text:gsub("\r?\n$", "") end
  if text == "" then fail(path, "is empty") end
  return text, mark
end

--- Says once, not at every use, that the last good value stands in for what cannot be read.
---@param reader { warned?: boolean }
---@param what string
---@param err any
function file.warn_once(reader, what, err)
  if reader.warned then return end
  reader.warned = true
  require "sluice.log".warn("a secret cannot be read again; its last value is used",
    { from = what, error = tostring(err) })
end

local Reader = {}
Reader.__index = Reader

--- Reads it when it has changed. Keeps the last good value when it cannot be read.
function Reader:look()
  self.looked = tasks.now()
  if self.mark and files.mark(self.path) == self.mark then return end
  local ok, text, mark = pcall(file.load, self.path, self.trim)
  if not ok then
    if not self.value then error(text, 0) end
    return file.warn_once(self, self.path, text)
  end
  self.mark, self.warned = mark, nil
  if self.value and core.same(self.value, text) then return end
  self.generation = self.generation + 1
  self.value = core.new(self.name, text)
end

function Reader:get()
  if not self.value or tasks.now() - self.looked >= self.check then self:look() end
  return self.value, self.generation
end

--- The server would not have it: look now, not within a second.
function Reader:reject(generation)
  if generation == self.generation then self:look() end
  return generation ~= self.generation
end

---@param opts string|sluice.FileSecretOptions
---@return sluice.Secret
function file.new(opts)
  local where = "sluice.secret.file"
  if type(opts) == "string" then opts = { path = opts } end
  options.check(where, opts, SPEC)
  local o = options.fill(opts, SPEC)
  local home = o.path:find "^~/" and sys.env "HOME"
  if home then o.path = home .. o.path:sub(2) end
  local name = o.name or "file " .. errors.one_line(o.path, 200)
  local reader = setmetatable({ path = o.path, trim = o.trim, check = o.check, name = name, generation = 0 }, Reader)
  local ok, err = pcall(reader.look, reader)
  if not ok then return mocked.secret(name) or error(err, 0) end
  local live = core.live(name, reader)
  core.current(live) -- so that those who cannot wait have a value too
  return live
end

return file
