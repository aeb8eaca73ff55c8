--- Finds files by pattern.
-- Owns: walking folders, and its bounds. Links to folders are followed where a pattern names them, never
-- under "**", so that a loop of links is no loop here.

local core = require "sluice.core.file"
local pattern = require "sluice.files.pattern"

local VISITED_MAX = 1000000 -- entries looked at

local walk

local function join(folder, name)
  if folder == "" then return name end
  if folder:sub(-1) == "/" then return folder .. name end
  return folder .. "/" .. name
end

--- The names in a folder, each with its kind; nil when it cannot be read, which is noted.
local function list(search, folder)
  local kinds, why, code = core.list(folder == "" and "." or folder)
  if kinds then return kinds end
  if code ~= "absent" and why ~= "Not a directory" then
    search.skipped[#search.skipped + 1] = ("%s: %s"):format(folder == "" and "." or folder, why)
  end
  return nil
end

local function add(search, path)
  if search.found[path] then return end
  if search.count >= search.max then
    error(("finds more than %d files (option max)"):format(search.max), 0)
  end
  search.found[path], search.count = true, search.count + 1
end

--- One name that matches the segment before `i`.
local function enter(search, path, kind, segments, i)
  if i > #segments then
    if kind == "link" then kind = core.kind(path) end
    if kind == "file" then add(search, path) end
  elseif kind == "folder" or kind == "link" then
    walk(search, path, segments, i)
  end
end

local function hidden(search, segment, name)
  return name:sub(1, 1) == "." and not (search.hidden or segment.dotted)
end

--- "**": this folder, and every folder in it.
local function deep(search, folder, segments, i)
  walk(search, folder, segments, i + 1)
  for name, kind in pairs(list(search, folder) or {}) do
    search.visited = search.visited + 1
    if search.visited > VISITED_MAX then error(("looks at more than %d files"):format(VISITED_MAX), 0) end
    if kind == "folder" and not hidden(search, {}, name) then deep(search, join(folder, name), segments, i) end
  end
end

function walk(search, folder, segments, i)
  local segment = segments[i]
  if segment.deep then return deep(search, folder, segments, i) end
  if segment.literal then
    local path = join(folder, segment.literal)
    local kind = core.kind(path)
    if kind then enter(search, path, kind, segments, i + 1) end
    return
  end
  for name, kind in pairs(list(search, folder) or {}) do
    search.visited = search.visited + 1
    if search.visited > VISITED_MAX then error(("looks at more than %d files"):format(VISITED_MAX), 0) end
    if not hidden(search, segment, name) and pattern.matches(segment, name) then
      enter(search, join(folder, name), kind, segments, i + 1)
    end
  end
end

local function segments_of(text)
  local segments = {}
  for part in text:gmatch "[^/]+" do
    local segment = pattern.segment(part)
    local last = segments[#segments]
    if not (segment.deep and last and last.deep) then segments[#segments + 1] = segment end
  end
  if segments[1] and segments[#segments].deep then segments[#segments + 1] = pattern.segment "*" end
  return segments
end

--- The files that match, sorted by bytes, and what could not be read. Raises a text beyond a bound.
---@param patterns string[]
---@param max integer
---@param with_hidden boolean
---@return string[] paths
---@return string[] skipped  "folder: why"
return function(patterns, max, with_hidden)
  local search = { found = {}, count = 0, visited = 0, max = max, hidden = with_hidden, skipped = {} }
  for _, text in ipairs(patterns) do
    for _, one in ipairs(pattern.expand(text)) do
      local segments = segments_of(one)
      if segments[1] then walk(search, one:sub(1, 1) == "/" and "/" or "", segments, 1) end
    end
  end
  local paths = {}
  for path in pairs(search.found) do paths[#paths + 1] = path end
  table.sort(paths)
  return paths, search.skipped
end
