--- sluice types: what editors need to complete and check scripts.

local file = require "sluice.core.file"
local json = require "sluice.json"
local report = require "sluice.report"

local FOLDER = ".sluice/types"
local SETTINGS = ".luarc.json"

local command = {
  name = "types",
  summary = "write type stubs and editor settings for a folder of scripts",
  usage = "sluice types [DIR]",
  description = "Writes " .. FOLDER .. "/*.lua and " .. SETTINGS .. " into DIR (default: here), so that any Lua "
    .. "language server completes and checks scripts that use sluice. A " .. SETTINGS .. " that is there already is "
    .. "left as it is; the command says which lines it wants. Run it again after an update of sluice.",
  options = {},
  examples = {
    { "sluice types", "for the scripts in this folder" },
    { "sluice types workflows", "for those in another one" },
  },
  exit_codes = { { 0, "ok" }, { 2, "the command line is wrong" }, { 4, "a file could not be written" } },
}

local EXIT_START = 4

local WANTED = '{\n  "runtime.version": "Lua 5.4",\n  "workspace.library": ["' .. FOLDER
  .. '"],\n  "workspace.checkThirdParty": false\n}\n'

local function read(path)
  local handle = io.open(path, "rb")
  if not handle then return nil end
  local text = handle:read "a"
  handle:close()
  return text
end

--- Does a settings file name our folder?
local function names_us(text)
  local ok, settings = pcall(json.decode, text)
  if not ok or type(settings) ~= "table" then return text:find(FOLDER, 1, true) ~= nil end
  local workspace = settings.workspace
  local library = settings["workspace.library"] or settings["Lua.workspace.library"]
    or type(workspace) == "table" and workspace.library or {}
  for _, entry in ipairs(type(library) == "table" and library or {}) do
    if tostring(entry):find(FOLDER, 1, true) then return true end
  end
  return false
end

local function failed(path, why)
  report.say(("cannot write %s: %s"):format(path, why), "red")
  return EXIT_START
end

---@param words string[]
---@return integer? code
---@return string? fault
function command.run(_, words)
  if words[2] then return nil, "takes one folder at a time" end
  local dir = words[1] or "."
  local kind = file.kind(dir)
  if kind ~= "folder" then
    report.say(("%s is not a folder; sluice types writes into one that exists"):format(dir), "red")
    return EXIT_START
  end
  for _, folder in ipairs { ".sluice", FOLDER, FOLDER .. "/core" } do
    local ok, why = file.mkdir(dir .. "/" .. folder)
    if not ok then return failed(dir .. "/" .. folder, why) end
  end
  local files = require "sluice.stubs".files()
  for _, entry in ipairs(files) do
    local path = ("%s/%s/%s"):format(dir, FOLDER, entry[1])
    local ok, why = file.replace(path, entry[2])
    if not ok then return failed(path, tostring(why)) end
  end
  print(("%s/%s: %d files"):format(dir, FOLDER, #files))
  local path = dir .. "/" .. SETTINGS
  local text = read(path)
  if not text then
    local ok, why = file.replace(path, WANTED)
    if not ok then return failed(path, tostring(why)) end
    print(path .. ": written")
  elseif names_us(text) then
    print(path .. ": knows them already")
  else
    report.say(("%s is there already; add this to it:\n  \"workspace.library\": [\"%s\"]"):format(path, FOLDER))
  end
  return 0
end

return command
