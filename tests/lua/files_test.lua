-- sluice.files: texts and images, what is neither, patterns of names, writing in one step.

local T = require "harness"
local sluice = require "sluice"
local files = sluice.files
local glob = require "sluice.files.glob"
local pattern = require "sluice.files.pattern"

local folder = T.tmpdir()

local function sh(command)
  assert(os.execute("cd '" .. folder .. "' && " .. command))
end

local function at(name) return folder .. "/" .. name end

local function put(name, bytes)
  return T.write(at(name), bytes)
end

-- Texts -------------------------------------------------------------------------------------------

T.test("text: without BOM, with plain line ends; raw as it is", function(t)
  local path = put("a.txt", "\xEF\xBB\xBF你好\r\nworld\r\n")
  t.eq(files.text(path), "你好\nworld\n")
  t.eq(files.text(path, { raw = true }), "\xEF\xBB\xBF你好\r\nworld\r\n")
  t.eq(files.text(put("empty", "")), "")
  t.eq(files.text(put("b.txt", "<?xml version='1.0'?>")), "<?xml version='1.0'?>")
end)

T.test("text: what is none says what it is", function(t)
  t.raises("^.*%.lua:%d+: sluice.files.text: .*/g.txt: it is not UTF%-8: byte 0xD6 in line 2; .*GB18030", files.text,
    put("g.txt", "ok\n\xD6\xD0\xCE\xC4"))
  t.raises("binary file, a PNG image, no text; sluice.files.image", files.text, put("x.png", "\x89PNG\r\n\x1a\n\0\0"))
  t.raises("binary file, a PDF file, no text$", files.text, put("x.pdf", "%PDF-1.7\n\xE2\xE3"))
  t.raises("binary file, no text$", files.text, put("x.bin", "ab\0c"))
  t.raises("UTF%-16", files.text, put("x.u16", "\xFF\xFEa\0"))
end)

T.test("read: what is absent, a folder, too large", function(t)
  t.raises("sluice.files.read: .*/none: No such file", files.read, at "none")
  t.raises("it is a folder", files.read, folder)
  local path = put("ten", "0123456789")
  t.eq(files.read(path, { max = 10 }), "0123456789")
  t.raises("larger than 9 bytes %(option max%)", files.read, path, { max = 9 })
  t.raises("larger than 100 bytes", files.read, "/dev/zero", { max = 100 })
  t.eq(files.read("/dev/null"), "")
  t.raises("argument 1 must be a path, got nothing", files.read)
  t.raises("unknown option 'maximum'", files.read, path, { maximum = 1 })
end)

-- Images ------------------------------------------------------------------------------------------

local PIXEL = "\x89PNG\r\n\x1a\n" .. ("\0\1\2\xFF"):rep(5)

T.test("image: the type is in the bytes, not in the name", function(t)
  t.eq(files.image(put("photo.jpg", PIXEL), { detail = "low" }), { type = "image", media_type = "image/png",
    data = "iVBORw0KGgoAAQL/AAEC/wABAv8AAQL/AAEC/w==", detail = "low" })
  t.eq(files.image(put("a", "\xFF\xD8\xFF\xE0")).media_type, "image/jpeg")
  t.eq(files.image(put("a", "GIF89a...")).media_type, "image/gif")
  t.eq(files.image(put("a", "RIFF\1\2\3\4WEBPVP8 ")).media_type, "image/webp")
end)

T.test("image: what is none, or no kind that models take", function(t)
  t.raises("it is a BMP image; models take PNG", files.image, put("a", "BM\0\0"))
  t.raises("it is a text;", files.image, put("a", "hello"))
  t.raises("it is empty;", files.image, put("a", ""))
  t.raises("it is no image known here;", files.image, put("a", "\0\1\2"))
  t.raises("larger than 4 bytes", files.image, put("a", PIXEL), { max = 4 })
  t.raises("option 'detail' must be 'low', 'high' or 'auto'", files.image, at "a", { detail = "big" })
end)

T.test("image: both protocols take the part as it is", function(t)
  local part = files.image(put("a.png", PIXEL))
  local request = { model = "m", max_tokens = 5, messages = { { role = "user", content = { "What?", part } } } }
  local providers = require "sluice.provider"
  local body = providers.get("openai").request(request).body
  t.eq(body.messages[1].content[2].image_url.url, "data:image/png;base64," .. part.data)
  body = providers.get("anthropic").request(request).body
  t.eq(body.messages[1].content[2].source, { type = "base64", media_type = "image/png", data = part.data })
end)

T.test("base64 of every length", function(t)
  local core = require "sluice.core.file"
  local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  for n = 0, 40 do
    local bytes, bits = {}, {}
    for i = 1, n do
      bytes[i] = math.random(0, 255)
      for b = 7, 0, -1 do bits[#bits + 1] = bytes[i] >> b & 1 end
    end
    while #bits % 6 > 0 do bits[#bits + 1] = 0 end
    local want = {}
    for i = 1, #bits, 6 do
      local v = 0
      for b = 0, 5 do v = v << 1 | bits[i + b] end
      want[#want + 1] = alphabet:sub(v + 1, v + 1)
    end
    while #want % 4 > 0 do want[#want + 1] = "=" end
    t.eq(core.base64(string.char(table.unpack(bytes))), table.concat(want), n)
  end
end)

-- Patterns ------------------------------------------------------------------------------------------

T.test("a pattern for one name", function(t)
  for _, case in ipairs {
    { "*.lua", "a.lua", true }, { "*.lua", "a.lua.md", false }, { "*", "x", true }, { "a*b*c", "aXbYbZc", true },
    { "a*b*c", "aXbYbZ", false }, { "?.txt", "中.txt", true }, { "??", "中", false }, { "[a-c]x", "bx", true },
    { "[!a-c]x", "bx", false }, { "[^a-c]x", "dx", true }, { "[中文]x", "文x", true }, { "[]a]", "]", true },
    { "[a-]", "-", true }, { "a\\*b", "a*b", true }, { "a\\*b", "aXb", false }, { "[\\]]", "]", true },
    { "a[b", "a[b", true }, { "x**y", "xy", true }, { "?", "\xFF", true }, { "%d.(x)", "%d.(x)", true },
  } do
    t.eq(pattern.matches(pattern.segment(case[1]), case[2]), case[3], case[1] .. " against " .. case[2])
  end
  local name = ("a"):rep(250) -- would take years with naive backtracking
  t.eq(pattern.matches(pattern.segment(("a*"):rep(60) .. "b"), name), false)
end)

T.test("braces", function(t)
  t.eq(pattern.expand "a{b,c{d,e}}{1,}", { "ab1", "ab", "acd1", "acd", "ace1", "ace" })
  t.eq(pattern.expand "{a}", { "{a}" })
  t.eq(pattern.expand "{a,b", { "{a,b" })
  t.eq(pattern.expand "\\{a,b}", { "\\{a,b}" })
  t.raises("more than 1000 patterns", pattern.expand, ("{a,b}"):rep(11))
end)

sh [[mkdir -p g/src/deep/er g/.hidden 'g/odd [name]' && cd g && touch a.lua b.md .dot.lua src/c.lua src/d.txt \
  src/deep/e.lua src/deep/er/f.lua .hidden/h.lua 'odd [name]/i.lua' && ln -s .. src/deep/loop && ln -s ../a.lua src/link.lua \
  && ln -s nowhere src/gone.lua]]

local function found(patterns, opts)
  local list = type(patterns) == "string" and { patterns } or patterns
  local full = {}
  for i, one in ipairs(list) do full[i] = folder .. "/g/" .. one end
  local paths = files.glob(full, opts)
  for i, path in ipairs(paths) do paths[i] = path:sub(#folder + 4) end
  return paths
end

T.test("glob: names, folders, links, hidden ones", function(t)
  t.eq(found "*.lua", { "a.lua" })
  t.eq(found "*", { "a.lua", "b.md" })
  t.eq(found ".*", { ".dot.lua" })
  t.eq(found("*.lua", { hidden = true }), { ".dot.lua", "a.lua" })
  t.eq(found "**/*.lua", { "a.lua", "odd [name]/i.lua", "src/c.lua", "src/deep/e.lua", "src/deep/er/f.lua", "src/link.lua" })
  t.eq(found "src/**", { "src/c.lua", "src/d.txt", "src/deep/e.lua", "src/deep/er/f.lua", "src/link.lua" })
  t.eq(found "src/**/**/f.lua", { "src/deep/er/f.lua" })
  t.eq(found { "*.{lua,md}", "a.lua" }, { "a.lua", "b.md" })
  t.eq(found "s*/deep/loop/*.txt", { "src/deep/loop/d.txt" }) -- named, so it is followed
  t.eq(found "odd \\[name\\]/*", { "odd [name]/i.lua" })
  t.eq(found ".hidden/*", { ".hidden/h.lua" })
  t.eq(found "none/*/x", {})
  t.eq(found "a.lua/*", {})
  t.eq(found "src", {})
end)

T.test("glob: relative to the process's folder, and what cannot be read", function(t)
  t.ok(#files.glob "tests/lua/files_t?st.lua" == 1)
  t.eq(files.glob "./tests/lua/files_test.lua", { "./tests/lua/files_test.lua" })
  sh "mkdir -p g2/locked g2/open && touch g2/open/x && chmod 000 g2/locked"
  local paths, skipped = files.glob(folder .. "/g2/**/x")
  sh "chmod 700 g2/locked"
  t.eq(#paths, 1)
  if #skipped > 0 then t.match(skipped[1], "g2/locked: Permission denied$") end -- root may read it all the same
end)

T.test("glob: its bounds and its arguments", function(t)
  t.raises("sluice.files.glob: .*finds more than 1 files %(option max%)", files.glob, folder .. "/g/**", { max = 1 })
  t.raises("argument 1 must be a pattern", files.glob, 5)
  t.raises("argument 1 must be a path", files.glob, { "a", 5 })
  t.raises("unknown option 'hide'", files.glob, "a", { hide = true })
  t.ok(type(glob) == "function")
end)

-- Writing -------------------------------------------------------------------------------------------

local function mode(name)
  local pipe = assert(io.popen(("stat -c %%a '%s'"):format(at(name))))
  local text = pipe:read "l"
  pipe:close()
  return text
end

T.test("write: the mode stays, a link stays, nothing is left beside", function(t)
  sh "mkdir w && cd w && echo old > a && chmod 640 a && ln -s a link && umask 022"
  files.write(at "w/a", "new\n")
  t.eq({ T.read(at "w/a"), mode "w/a" }, { "new\n", "640" })
  files.write(at "w/link", "through\n")
  t.eq(T.read(at "w/a"), "through\n")
  sh "test -L w/link"
  files.write(at "w/fresh", "")
  t.eq(T.read(at "w/fresh"), "")
  t.ne(mode "w/fresh", "600")
  t.eq(files.glob(at "w/**", { hidden = true }), { at "w/a", at "w/fresh", at "w/link" })
end)

T.test("make_folder: with those above it, twice, and what cannot be", function(t)
  t.eq(files.make_folder(at "made/deep/er"), at "made/deep/er")
  t.eq(files.make_folder(at "made/deep//er/"), at "made/deep//er/")
  files.write(at "made/deep/er/x", "1")
  t.eq(files.glob(at "made/**/*"), { at "made/deep/er/x" })
  t.raises("make_folder: .*/er/x: it is there, and it is no folder$", files.make_folder, at "made/deep/er/x")
  t.raises("make_folder: .*/er/x/y: '.*/er/x': it is there, and it is no folder$", files.make_folder,
    at "made/deep/er/x/y")
  t.raises("argument 1 must be a path, got nothing", files.make_folder)
end)

T.test("write: what cannot be", function(t)
  t.raises("sluice.files.write: .*/none/x: No such file or directory %(there is no folder '.*/none'; "
    .. "sluice.files.make_folder makes it%)$", files.write, at "none/x", "")
  t.raises("Is a directory", files.write, folder, "")
  t.raises("argument 2 must be a string, got nothing", files.write, at "x")
  t.eq(files.kind(folder), "folder")
  t.eq(files.kind(at "w/a"), "file")
  t.eq(files.kind "/dev/null", "other")
  t.eq(files.kind(at "none"), nil)
end)

T.done()
