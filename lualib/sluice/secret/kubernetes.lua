--- Secrets that Kubernetes mounts as a folder (volumes of secrets, config maps, projected volumes).
-- Owns: reading several keys of one version. The kubelet puts a new version into a folder of its own
-- and then swaps one symbolic link, `..data` (pkg/volume/util/atomic_writer.go): what is read here is
-- read through the folder that `..data` named before, and counts when it names the same one afterwards.
-- Never: keeps a resolved path, or waits for a file system event; a look costs a microsecond.
--
-- A key mounted with subPath, and an environment variable from a secret, are never updated by Kubernetes.

local core = require "sluice.core.secret"
local files = require "sluice.core.file"
local tasks = require "sluice.core.task"
local errors = require "sluice.errors"
local options = require "sluice.options"
local file = require "sluice.secret.file"
local mocked = require "sluice.secret.mocked"

local ATTEMPTS = 5 -- reads of a folder that is swapped each time

local SPEC = options.spec {
  folder = { type = "string", required = true, nonempty = true },
  key = { type = "string", required = true, nonempty = true },
  name = { type = "string", nonempty = true },
  check = { type = "seconds", default = file.CHECK },
}

---@class sluice.secret.Volume
---@field folder string
---@field keys table<string, string>          key -> name of the secret
---@field values table<string, sluice.Secret> of one version
local Volume = {}
Volume.__index = Volume

local volumes = setmetatable({}, { __mode = "v" })

--- What tells one version from another: the target of ..data; without that link, the files themselves.
local function version_of(self)
  local target, why, code = files.target(self.folder .. "/..data")
  if target then return "link " .. target, target end
  if code ~= "absent" and code ~= "failed" then return nil, nil, why end
  local marks = {}
  for key in pairs(self.keys) do marks[#marks + 1] = key .. (files.mark(self.folder .. "/" .. key) or "") end
  table.sort(marks)
  return "files " .. table.concat(marks, "\n")
end

local function read_keys(self, target)
  local base = self.folder
  if target then base = target:sub(1, 1) == "/" and target or base .. "/" .. target end
  local values = {}
  for key, name in pairs(self.keys) do
    local text = file.load(base .. "/" .. key, true)
    local old = self.values[key]
    values[key] = old and core.same(old, text) and old or core.new(name, text)
  end
  return values
end

--- Reads all keys in use from one version.
local function read_version(self)
  local failure
  for _ = 1, ATTEMPTS do
    local version, target = version_of(self)
    local ok, values = pcall(read_keys, self, target)
    if version == version_of(self) then
      if not ok then error(values, 0) end
      return values, version
    end
    failure = not ok and values or failure
  end
  errors.raise(errors.is(failure) and failure or { kind = "auth", code = "no_key", phase = "secret",
    message = ("the secret folder %s changes all the time"):format(self.folder) })
end

function Volume:look(must)
  self.looked = tasks.now()
  if self.version and not must and version_of(self) == self.version then return end
  local ok, values, version = pcall(read_version, self)
  if not ok then
    if must then error(values, 0) end
    return file.warn_once(self, self.folder, values)
  end
  self.version, self.warned = version, nil
  for key, value in pairs(values) do
    if self.values[key] ~= value then
      self.values = values
      self.generation = self.generation + 1
      break
    end
  end
end

--- One key of a volume, as the source of a secret.
local Key = {}
Key.__index = Key

function Key:get()
  local volume = self.volume
  if tasks.now() - volume.looked >= self.check then volume:look() end
  return volume.values[self.key], volume.generation
end

function Key:reject(generation)
  local volume = self.volume
  if generation == volume.generation then volume:look() end
  return generation ~= volume.generation
end

local kubernetes = {}

---@param opts sluice.KubernetesSecretOptions
---@return sluice.Secret
function kubernetes.new(opts)
  local where = "sluice.secret.kubernetes"
  options.check(where, opts, SPEC)
  local o = options.fill(opts, SPEC)
  if o.key:find("/", 1, true) or o.key:sub(1, 2) == ".." then
    options.raise(("%s: option 'key' is the name of a file in the folder, not a path"):format(where))
  end
  local folder = o.folder:gsub("(.)/+$", "%1")
  local volume = volumes[folder]
    or setmetatable({ folder = folder, keys = {}, values = {}, generation = 0, looked = 0 }, Volume)
  local name = o.name or ("kubernetes %s/%s"):format(errors.one_line(folder, 200), o.key)
  local known = volume.keys[o.key]
  volume.keys[o.key] = known or name
  local ok, err = pcall(volume.look, volume, true)
  if not ok then
    volume.keys[o.key] = known
    return mocked.secret(name) or error(err, 0)
  end
  volumes[folder] = volume
  local live = core.live(name, setmetatable({ volume = volume, key = o.key, check = o.check }, Key))
  core.current(live)
  return live
end

return kubernetes
