--- Files as input and output of prompts: texts, images, patterns of names.
-- Owns: what is a text, what is an image a model takes, the words when something is neither. Everything
-- is bounded: a file that is larger than `max` raises before it is read whole.
-- Never: waits for anything but the disk.

local core = require "sluice.core.file"
local options = require "sluice.options"

local TEXT_MAX = 4 << 20   -- bytes of a text
local READ_MAX = 64 << 20  -- bytes of a file that is read as it is
local IMAGE_MAX = 10 << 20 -- bytes of an image; providers take 5 to 20 MiB
local GLOB_MAX = 100000    -- files one pattern may find
local HEAD = 8192          -- bytes in which a NUL shows that a file is no text

local MAX = { type = "integer", min = 1 }
local SPECS = {
  read = options.spec { max = MAX },
  write = options.spec {},
  make_folder = options.spec {},
  text = options.spec { max = MAX, raw = { type = "boolean" } },
  image = options.spec { max = MAX, detail = { type = "string", enum = { "low", "high", "auto" } } },
  glob = options.spec { max = MAX, hidden = { type = "boolean" } },
}

---@class sluice.files
local files = {}

local function check(name, path, opts)
  if type(path) ~= "string" or path == "" then
    options.raise(("sluice.files.%s: argument 1 must be a path, got %s"):format(name, options.got(path)))
  end
  return options.check("sluice.files." .. name, opts or {}, SPECS[name])
end

local function fail(name, path, why)
  options.raise(("sluice.files.%s: %s: %s"):format(name, path, why))
end

--- The whole file, or raises.
local function read(name, path, max)
  local kind, size_or_why = core.kind(path)
  if not kind then fail(name, path, size_or_why) end
  if kind == "folder" then fail(name, path, "it is a folder; sluice.files.glob lists the files in it") end
  local too_large = ("it is larger than %d bytes (option max)"):format(max)
  if kind == "file" and size_or_why > max then fail(name, path, too_large) end
  local file, why = io.open(path, "rb")
  if not file then fail(name, path, (why:gsub("^.*: ", ""))) end
  local close <close> = file -- luacheck: ignore 211
  local bytes
  bytes, why = file:read(max + 1) -- one more than allowed: it may have grown
  if not bytes and why then fail(name, path, why) end
  bytes = bytes or ""
  if #bytes > max then fail(name, path, too_large) end
  return bytes
end

--- The bytes of a file as they are. Raises when it cannot be read, or is larger than `max` (64 MiB).
---@param path string
---@param opts? { max?: integer }  bytes
---@return string
function files.read(path, opts)
  opts = check("read", path, opts)
  return read("read", path, opts.max or READ_MAX)
end

-- Kinds of files ------------------------------------------------------------------------------------

-- First bytes, from where, what it is called, and the media type of an image that models take.
local KINDS = {
  { "\x89PNG\r\n\x1a\n", 1, "a PNG image", "image/png" },
  { "\xFF\xD8\xFF", 1, "a JPEG image", "image/jpeg" },
  { "GIF87a", 1, "a GIF image", "image/gif" },
  { "GIF89a", 1, "a GIF image", "image/gif" },
  { "WEBP", 9, "a WebP image", "image/webp" },
  { "BM", 1, "a BMP image" },
  { "II*\0", 1, "a TIFF image" },
  { "MM\0*", 1, "a TIFF image" },
  { "ftypavif", 5, "an AVIF image" },
  { "ftypheic", 5, "a HEIC image" },
  { "ftyp", 5, "an MP4 file" },
  { "%PDF-", 1, "a PDF file" },
  { "PK\3\4", 1, "a ZIP archive, or an office document" },
  { "\x1F\x8B", 1, "a gzip file" },
  { "\x7FELF", 1, "a program" },
  { "<svg", 1, "an SVG image" },
  { "<?xml", 1, "an XML file" },
}

local function kind_of(bytes)
  for _, kind in ipairs(KINDS) do
    if bytes:sub(kind[2], kind[2] + #kind[1] - 1) == kind[1] then return kind end
  end
  return nil
end

--- Why these bytes are no text, or nil.
local function no_text(bytes)
  if bytes:find "^\xFF\xFE" or bytes:find "^\xFE\xFF" then
    return "it is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8"
  end
  local kind = kind_of(bytes)
  local nul = bytes:sub(1, HEAD):find("\0", 1, true)
  local length, at = utf8.len(bytes)
  if length and not nul then return nil end
  if nul or (kind and not kind[3]:find "^an? [XS]") then
    local hint = kind and kind[4] and "; sluice.files.image reads images" or ""
    return ("it is a binary file%s, no text%s"):format(kind and ", " .. kind[3] or "", hint)
  end
  local line = select(2, bytes:sub(1, at):gsub("\n", "")) + 1
  return ("it is not UTF-8: byte 0x%02X in line %d; convert it, for Chinese perhaps: iconv -f GB18030 -t UTF-8")
    :format(bytes:byte(at), line)
end

--- A text: UTF-8, without the mark at its beginning (BOM), lines ended by "\n" alone; with raw = true
--- both stay. Raises when the file is no text, saying what it is, or is larger than `max` (4 MiB).
---@param path string
---@param opts? { max?: integer, raw?: boolean }
---@return string
function files.text(path, opts)
  opts = check("text", path, opts)
  local bytes = read("text", path, opts.max or TEXT_MAX)
  local why = no_text(bytes)
  if why then fail("text", path, why) end
  if opts.raw then return bytes end
  return (bytes:gsub("^\xEF\xBB\xBF", ""):gsub("\r\n", "\n"))
end

--- An image as a part of a message, the same for every provider; its type is told from its bytes:
--- `{ role = "user", content = { "What is this?", sluice.files.image "photo.jpg" } }`.
--- Raises for anything but PNG, JPEG, GIF and WebP, and beyond `max` (10 MiB).
---@param path string
---@param opts? { max?: integer, detail?: "low"|"high"|"auto" }  detail: OpenAI's
---@return sluice.Part
function files.image(path, opts)
  opts = check("image", path, opts)
  local bytes = read("image", path, opts.max or IMAGE_MAX)
  local kind = kind_of(bytes)
  if not kind or not kind[4] then
    fail("image", path, ("it is %s; models take PNG, JPEG, GIF and WebP images")
      :format(bytes == "" and "empty" or kind and kind[3] or no_text(bytes) and "no image known here" or "a text"))
  end
  return { type = "image", media_type = kind[4], data = core.base64(bytes), detail = opts.detail }
end

-- Finding, writing ------------------------------------------------------------------------------------

--- The files (no folders) that match, sorted: `*` and `?` within a name, `[a-z]`, `[!a]`, `{lua,md}`,
--- `**` for any number of folders, `\` before a character that stands for itself. Hidden names only where
--- the pattern has the dot, or with hidden = true. Links to folders are not followed under `**`.
--- The second result lists folders that could not be read. More than `max` (100000) files raise.
---@param patterns string|string[]
---@param opts? { max?: integer, hidden?: boolean }
---@return string[] paths
---@return string[] skipped  "folder: why"
function files.glob(patterns, opts)
  if type(patterns) == "string" then patterns = { patterns } end
  if type(patterns) ~= "table" then
    options.raise("sluice.files.glob: argument 1 must be a pattern or a list of them, got " .. options.got(patterns))
  end
  for i, text in ipairs(patterns) do check("glob", text, i == 1 and opts or nil) end
  opts = opts or {}
  local ok, paths, skipped = pcall(require "sluice.files.glob", patterns, opts.max or GLOB_MAX, opts.hidden or false)
  if not ok and type(paths) == "string" then
    options.raise(("sluice.files.glob: %s: %s"):format(table.concat(patterns, ", "), paths))
  elseif not ok then
    error(paths, 0)
  end
  return paths, skipped
end

--- Writes a file in one step: whoever reads it sees the old one or the whole new one, also after a crash.
--- A link stays one, the mode of a file that was there stays.
---@param path string
---@param bytes string
function files.write(path, bytes)
  check("write", path)
  if type(bytes) ~= "string" then
    options.raise("sluice.files.write: argument 2 must be a string, got " .. options.got(bytes))
  end
  local ok, why = core.replace(path, bytes)
  if not ok then fail("write", path, require "sluice.files.missing".explain(path, why)) end
end

--- Makes a folder, and those above it that are missing; one that is there stays as it is. Nothing else in
--- sluice makes folders by itself: a name that was mistyped is an error.
---@param path string
---@return string path  the same, so that it can be used at once
function files.make_folder(path)
  check("make_folder", path)
  local ok, why = require "sluice.files.missing".make(path)
  if not ok then fail("make_folder", path, why) end
  return path
end

--- "file", "folder" or "other" (a device, a pipe); nil when nothing is there.
---@param path string
---@return "file"|"folder"|"other"|nil
function files.kind(path)
  return (core.kind(path))
end

return files
