--- Folders that are not there: making them, and saying so where a file cannot be written.
-- Owns: those words. Never: makes a folder that nobody asked for.

local core = require "sluice.core.file"

local missing = {}

local function parent_of(path)
  return path:match "^(.*[^/])/+[^/]+/*$"
end

--- What keeps a file from being written, when it is that its folder is not there; else `why`.
---@param path string
---@param why string  the system's words
---@return string
function missing.explain(path, why)
  local folder = parent_of(path)
  if not folder or core.kind(folder) then return why end
  return ("%s (there is no folder '%s'; sluice.files.make_folder makes it)"):format(why, folder)
end

--- Makes a folder and those above it. Returns true, or nil and the words.
---@param path string
---@return true? made
---@return string? why
function missing.make(path)
  local kind = core.kind(path)
  if kind == "folder" then return true end
  if kind then return nil, "it is there, and it is no folder" end
  local folder = parent_of(path)
  if folder then
    local ok, why = missing.make(folder)
    if not ok then return nil, why:find "'" and why or ("'%s': %s"):format(folder, why) end
  end
  local ok, why = core.mkdir(path)
  return ok, why
end

return missing
