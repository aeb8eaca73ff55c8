-- Secrets: what a secret lets one do, environment and literals, files, folders that Kubernetes mounts.
local T = require "harness"
local sluice = require "sluice"
local core = require "sluice.core.secret"

local secret, task = sluice.secret, sluice.task

sluice.log.configure { level = "error" }

local CANARY = "canary-0d9e-secret"

local function run(words) assert(os.execute(words)) end

T.test("a secret shows its name and nothing else", function(t)
  local s = secret.literal(CANARY, "mine")
  t.eq(tostring(s), "<secret mine>")
  t.eq(s:name(), "mine")
  t.eq(("%s"):format(s), "<secret mine>")
  t.eq(s:reveal(), CANARY)
  for _, f in ipairs {
    function() return "x" .. s end, function() return s .. "x" end, function() return s .. s end,
    function() return #s end, function() return s < s end, function() return s <= s end, function() return s + 1 end,
    function() return s() end, function() s.x = 1 end, function() return next(s) end,
    function() return ("x"):rep(s) end, function() return sluice.json.encode { s } end,
    function() return sluice.json.encode { [s] = 1 } end, function() return load(s) end, function() io.write(s) end,
    function() return table.concat { s } end, function() return string.dump(s) end, function() return ("x"):find(s) end,
  } do
    local ok, err = pcall(f)
    t.ok(not ok)
    t.ok(not tostring(err):find(CANARY, 1, true), tostring(err))
  end
  t.eq(getmetatable(s), "sluice.secret")
  t.eq(s.bytes, nil)
  t.ok(secret.is(s))
  for _, other in ipairs { "x", 5, {}, io.stdout, print } do t.ok(not secret.is(other)) end
end)

T.test("prefixed, compared, fingerprinted, looked for", function(t)
  local s = secret.literal(CANARY, "mine")
  local p = secret.prefixed("Bearer ", s)
  t.eq({ p:reveal(), p:name() }, { "Bearer " .. CANARY, "mine" })
  t.ok(core.same(s, CANARY) and core.same(s, secret.literal(CANARY)))
  t.ok(not core.same(s, CANARY .. "x") and not core.same(s, "x") and not core.same(s, ""))
  t.eq(core.fingerprint(s), core.fingerprint(CANARY))
  t.ne(core.fingerprint(s), core.fingerprint "other")
  t.eq(secret.scrub("a " .. CANARY .. " b " .. CANARY), "a [redacted] b [redacted]")
  t.eq(secret.scrub("Bearer " .. CANARY .. "!"), "[redacted]!", "the longest of those that begin there")
  t.eq(secret.scrub "nothing of it", "nothing of it")
  t.eq(secret.scrub "", "")
  t.eq(core.redact("Authorization: Basic abc\nkey=" .. CANARY), "Authorization: [redacted]\nkey=[redacted]")
  local short = secret.literal "abc" -- luacheck: ignore 211
  t.eq(secret.scrub "abcdef", "abcdef", "a short secret would be found in ordinary words")
end)

T.test("looked for in the forms it has in JSON and in URLs", function(t)
  local hard = [[p/w"d\\e=f g+h%i]]
  local held = { secret.literal(hard), secret.literal "plain-secret-1", secret.literal [["quoted"]] }
  local function encode(s, digits)
    return (s:gsub("[^%w]", function(c) return ("%%" .. (digits or "%02x")):format(c:byte()) end))
  end
  local json = sluice.json
  local once = json.encode(hard)
  for _, form in ipairs { hard, once:sub(2, -2), json.encode(once):sub(4, -4), encode(hard), encode(hard, "%02X"),
    (hard:gsub("/", [[\/]]):gsub('"', [[\"]])), (encode(hard):gsub("%%20", "+")) } do
    t.eq(secret.scrub("<" .. form .. ">"), "<[redacted]>", form)
    t.eq(secret.scrub(form .. form), "[redacted][redacted]", form)
    t.eq(secret.scrub(form:sub(1, -2)), form:sub(1, -2), "not whole: " .. form)
  end
  t.eq(secret.scrub [[x \"quoted\" y]], "x [redacted] y")
  t.eq(secret.scrub "plain-secret-1plain-secret-%31", "[redacted]plain-secret-%31", "nobody encodes digits")
  for _, text in ipairs { "", "p", "p/w", [[p\]], "p%2", "p%", [[p/w\\\]] } do t.eq(secret.scrub(text), text) end
  t.eq(#held, 3)
end)

T.test("text is searched before it is cut: half a secret would not be known", function(t)
  local key = "s3cr3t-" .. ("0123456789"):rep(8)
  local held = { secret.literal(key) }
  local function clean(text, what)
    for i = 1, #key - 7 do
      if text:find(key:sub(i, i + 7), 1, true) then return t.ok(false, what .. ": " .. text) end
    end
    t.match(text, "%[reda", what) -- the word itself may be cut
  end
  local errors, json = sluice.errors, sluice.json
  for at = 0, 60, 5 do
    clean(errors.one_line(("x"):rep(at) .. key, 80), "one_line")
    clean(select(2, pcall(json.decode, '{"a":' .. (" "):rep(at) .. key)), "json, at it")
    clean(select(2, pcall(json.decode, '{"a":' .. json.encode(("x"):rep(at % 20)) .. key .. "}")), "json, behind a string")
  end
  clean(select(2, pcall(json.decode, "[1" .. key .. "]")), "json, in the middle of it")
  held[2] = secret.literal("12" .. key)
  clean(select(2, pcall(json.decode, "[12" .. key .. "]")), "json, whose beginning is a number")
  t.match(select(2, pcall(json.decode, "[" .. ("1,"):rep(300) .. "x," .. ("1,"):rep(300) .. key)), "near `x,1,1")
  local lines = {}
  sluice.log.configure { level = "error", write = function(line) lines[#lines + 1] = line end }
  for _, format in ipairs { "text", "json" } do
    sluice.log.configure { format = format }
    sluice.log.error("m", { field = ("x"):rep(960) .. key, list = { ("y"):rep(960) .. key } })
  end
  sluice.log.configure { format = "text" }
  for _, line in ipairs(lines) do clean(line, "log") end
  t.eq({ #lines, #held }, { 2, 2 })
end)

T.test("a secret that is collected is looked for no more", function(t)
  do
    local s = secret.literal("gone-" .. CANARY)
    t.eq(secret.scrub("x gone-" .. s:reveal():sub(6)), "x [redacted]")
  end
  collectgarbage()
  collectgarbage()
  t.eq(secret.scrub("x gone-" .. CANARY), "x gone-" .. CANARY)
end)

T.test("revealing is logged at level debug, with the place; the library's own uses are not", function(t)
  local lines = {}
  sluice.log.configure { level = "debug", write = function(line) lines[#lines + 1] = line end }
  local s = secret.literal(CANARY, "mine")
  s:reveal()
  core.text(s)
  secret.prefixed("x", s)
  sluice.log.configure { level = "error", write = false }
  s:reveal()
  t.eq(#lines, 1)
  t.match(lines[1], "debug a secret was revealed  at=%S*secret_test.lua:%d+ name=mine$")
end)

T.test("from the environment", function(t)
  t.eq(secret.env "LC_ALL":reveal(), "C")
  t.eq(tostring(secret.env "LC_ALL"), "<secret env LC_ALL>")
  local err = t.raises("auth", secret.env, "NO_SUCH_VARIABLE")
  t.match(err.message, "the environment variable NO_SUCH_VARIABLE is not set: export NO_SUCH_VARIABLE=…")
  t.raises("argument 1 must be the name of a variable", secret.env)
  t.raises("must be a string that is not empty", secret.literal, "")
  t.raises("argument 2 must be a name", secret.literal, "x", 5)
end)

-- Files ------------------------------------------------------------------------------------------------

T.test("a file: without the line break at its end", function(t)
  local path = T.write(T.tmpdir() .. "/key", CANARY .. "\n")
  local s = secret.file(path)
  t.eq(s:reveal(), CANARY)
  t.eq(tostring(s), "<secret file " .. path .. ">")
  t.eq(secret.file { path = T.write(path, "a\r\n"), name = "k" }:reveal(), "a")
  t.eq(secret.file(T.write(path, "a\nb\n\n")):reveal(), "a\nb\n")
  t.eq(secret.file { path = T.write(path, "a\n"), trim = false }:reveal(), "a\n")
  t.eq(core.prefixed("x ", secret.file(T.write(path, "zz"))):reveal(), "x zz")
end)

T.test("a file that cannot be used", function(t)
  local folder = T.tmpdir()
  t.match(t.raises("auth", secret.file, folder .. "/absent").message, "the secret file .*/absent cannot be read: No such file")
  t.raises("cannot be read: Is a directory", secret.file, folder)
  t.raises("is empty", secret.file, T.write(folder .. "/empty", ""))
  t.raises("is empty", secret.file, T.write(folder .. "/empty", "\n"))
  t.raises("cannot be read: File too large", secret.file, T.write(folder .. "/big", ("x"):rep(300 << 10)))
  t.raises("unknown option 'pth'", secret.file, { pth = "x" })
  t.raises("option 'path' is missing", secret.file, {})
end)

T.test("written to, replaced, gone for a moment, emptied: the newest good value", function(t)
  local path = T.write(T.tmpdir() .. "/key", "one")
  local s = secret.file { path = path, check = 0 }
  local _, first = secret.current(s)
  T.write(path, "second")
  local value, generation = secret.current(s)
  t.eq({ value:reveal(), generation }, { "second", first + 1 })
  T.write(path .. ".new", "three!")
  run(("mv '%s.new' '%s'"):format(path, path))
  t.eq(s:reveal(), "three!")
  run("rm '" .. path .. "'")
  t.eq(s:reveal(), "three!", "the last good value stands in")
  T.write(path, "")
  t.eq(s:reveal(), "three!")
  T.write(path, "four")
  t.eq(s:reveal(), "four")
  T.write(path, "four")
  t.eq(select(2, secret.current(s)), first + 3, "the same again is no new generation")
end)

T.test("looked at once a second, unless a server refuses it", function(t)
  local path = T.write(T.tmpdir() .. "/key", "one")
  local s = secret.file { path = path, check = 3600 }
  local _, generation = secret.current(s)
  T.write(path, "two")
  t.eq(s:reveal(), "one")
  local source = secret.source(s)
  t.ok(source:reject(generation))
  t.eq(s:reveal(), "two")
  t.ok(source:reject(generation), "a late refusal: there is a newer one")
  local _, now = secret.current(s)
  t.ok(not source:reject(now), "it has not changed: a second try would end the same way")
end)

T.test("through symbolic links, by the path that was given", function(t)
  local folder = T.tmpdir()
  T.write(folder .. "/a", "aaa")
  T.write(folder .. "/b", "bbb")
  run(("ln -s a '%s/key'"):format(folder))
  local s = secret.file { path = folder .. "/key", check = 0 }
  t.eq(s:reveal(), "aaa")
  run(("ln -sfn b '%s/key'"):format(folder))
  t.eq(s:reveal(), "bbb")
end)

-- Kubernetes -------------------------------------------------------------------------------------------

-- What pkg/volume/util/atomic_writer.go does: a folder for the version, links to it, one link swapped.
local function volume()
  local v = { folder = T.tmpdir(), n = 0 }
  function v.publish(keys)
    v.n = v.n + 1
    local name = ("..2026_01_02_03_04_%02d.%d"):format(v.n, 1000 + v.n)
    run(("mkdir '%s/%s'"):format(v.folder, name))
    for key, text in pairs(keys) do
      T.write(v.folder .. "/" .. name .. "/" .. key, text)
      run(("ln -sfn '..data/%s' '%s/%s'"):format(key, v.folder, key))
    end
    run(("ln -s '%s' '%s/..data_tmp' && mv -T '%s/..data_tmp' '%s/..data'"):format(name, v.folder, v.folder, v.folder))
    if v.last then run(("rm -r '%s/%s'"):format(v.folder, v.last)) end
    v.last = name
  end
  return v
end

T.test("a mounted secret is swapped", function(t)
  local v = volume()
  v.publish { key = "one\n" }
  local s = secret.kubernetes { folder = v.folder .. "/", key = "key", check = 0 }
  t.eq(tostring(s), ("<secret kubernetes %s/key>"):format(v.folder))
  local _, generation = secret.current(s)
  t.eq(s:reveal(), "one")
  v.publish { key = "two\n" }
  t.eq(s:reveal(), "two")
  t.eq(select(2, secret.current(s)), generation + 1)
  v.publish { key = "two\n" }
  t.eq(select(2, secret.current(s)), generation + 1, "a new version with the same key is the same secret")
end)

T.test("keys of one folder are always of one version", function(t)
  local v = volume()
  v.publish { id = "id-0", password = "pw-0" }
  local id = secret.kubernetes { folder = v.folder, key = "id", check = 0 }
  local password = secret.kubernetes { folder = v.folder, key = "password", check = 0 }
  for i = 1, 30 do
    t.eq({ id:reveal(), password:reveal() }, { "id-" .. i - 1, "pw-" .. i - 1 })
    v.publish { id = "id-" .. i, password = "pw-" .. i }
    local of_id, g = secret.current(id)
    -- the volume is swapped while the two are asked for: the second look would show the new version
    t.eq(of_id:reveal(), "id-" .. i)
    t.eq(secret.source(password).volume.values.password:reveal(), "pw-" .. i)
    t.eq(select(2, secret.current(password)), g)
  end
end)

T.test("swapped all the time while it is read: never a mixture, never an error", function(t)
  local v = volume()
  v.publish { a = "0", b = "0" }
  local script = T.write(T.tmpdir() .. "/swap.sh", ([[
    cd '%s' || exit 1
    n=1
    while [ ! -e stop ]; do
      d="..v$n"; mkdir "$d"; echo $n >"$d/a"; echo $n >"$d/b"
      ln -s "$d" ..data_tmp; old=$(readlink ..data); mv -T ..data_tmp ..data; rm -r "$old"
      n=$((n+1))
    done]]):format(v.folder))
  local process = require "sluice.core.process"
  local swapper <close> = assert(process.spawn { argv = { "sh", script } })
  local a = secret.kubernetes { folder = v.folder, key = "a", check = 0 }
  local b = secret.kubernetes { folder = v.folder, key = "b", check = 0 }
  local both = secret.source(a).volume
  local versions, last = 0, nil
  T.until_(function()
    for _ = 1, 50 do
      a:reveal()
      local x, y = both.values.a:reveal(), both.values.b:reveal()
      if x ~= y then t.eq(x, y) end
      if x ~= last then versions, last = versions + 1, x end
    end
    return versions >= 20
  end, 20)
  b:reveal()
  T.write(v.folder .. "/stop", "")
  t.eq((swapper:wait()), 0)
  t.ok(versions >= 20)
end)

T.test("a key that is taken away: its last value; a folder without ..data works too", function(t)
  local v = volume()
  v.publish { a = "1", b = "1" }
  local a = secret.kubernetes { folder = v.folder, key = "a", check = 0 }
  local b = secret.kubernetes { folder = v.folder, key = "b", check = 0 }
  v.publish { a = "2" }
  t.eq({ a:reveal(), b:reveal() }, { "1", "1" }, "not one of each")
  v.publish { a = "3", b = "3" }
  t.eq({ a:reveal(), b:reveal() }, { "3", "3" })

  local plain = T.tmpdir()
  T.write(plain .. "/key", "one")
  local s = secret.kubernetes { folder = plain, key = "key", check = 0 }
  T.write(plain .. "/key", "second")
  t.eq(s:reveal(), "second")
end)

T.test("refused: looked at again at once", function(t)
  local v = volume()
  v.publish { key = "one" }
  local s = secret.kubernetes { folder = v.folder, key = "key", check = 3600 }
  local _, generation = secret.current(s)
  v.publish { key = "two" }
  t.eq(s:reveal(), "one")
  t.ok(secret.source(s):reject(generation))
  t.eq(s:reveal(), "two")
end)

T.test("wrong options, and what is not there", function(t)
  local v = volume()
  v.publish { key = "one" }
  t.raises("the name of a file in the folder, not a path", secret.kubernetes, { folder = v.folder, key = "../x" })
  t.raises("the name of a file in the folder, not a path", secret.kubernetes, { folder = v.folder, key = "..data" })
  t.raises("option 'key' is missing", secret.kubernetes, { folder = v.folder })
  t.raises("/nokey cannot be read: No such file", secret.kubernetes, { folder = v.folder, key = "nokey" })
  t.raises("cannot be read: No such file", secret.kubernetes, { folder = "/no/such/folder", key = "key" })
  t.eq(secret.kubernetes { folder = v.folder, key = "key" }:reveal(), "one", "the failed ones left nothing behind")
end)

-- Live secrets in general ----------------------------------------------------------------------------------

T.test("a secret that waits for its source, and one that has not been read", function(t)
  local calls = 0
  local s = core.live("slow", { get = function()
    calls = calls + 1
    task.sleep(0.01)
    return core.new("slow", "value-" .. calls), calls
  end })
  t.eq(tostring(s), "<secret slow>")
  t.raises("the secret 'slow' has not been read yet", core.prefixed, "x", s)
  t.eq(s:reveal(), "value-1")
  t.eq(core.prefixed("x ", s):reveal(), "x value-1", "who cannot wait gets the last one")
  t.eq(secret.current(s):reveal(), "value-2")
  t.raises("the source of a secret gave a string", core.current, core.live("bad", { get = function() return "x" end }))
  t.eq(secret.source(secret.literal "x"), nil)
  t.eq(secret.source "x", nil)
  t.eq(secret.current(secret.literal "x"):reveal(), "x")
end)

T.done()
