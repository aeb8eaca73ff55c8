-- sluice.jsonl: rows in, rows out, bad lines, files that were left in the middle of one.
-- luacheck: ignore 512 (loops that are left at once)

local T = require "harness"
local sluice = require "sluice"
local jsonl, json = sluice.jsonl, sluice.json

local folder = T.tmpdir()
local function put(text) return T.write(folder .. "/in.jsonl", text) end

local function read(file, opts)
  local rows = {}
  for row, n in jsonl.read(file, opts) do rows[#rows + 1] = { n, row } end
  return rows
end

T.test("rows and their numbers; blank lines, BOM, CRLF, no end at the end", function(t)
  t.eq(read(put '\xEF\xBB\xBF{"a":1}\r\n\n  \n[1,2]\nfalse\nnull\n"你好"'),
    { { 1, { a = 1 } }, { 4, { 1, 2 } }, { 5, false }, { 6, json.null }, { 7, "你好" } })
  t.eq(read(put ""), {})
  t.eq(read(put "\n"), {})
end)

T.test("rows that lie across the pieces in which a file is read", function(t)
  local lines, want = {}, {}
  for i = 1, 40 do
    local text = ("x"):rep(math.random(0, 9000))
    lines[i], want[i] = json.encode { id = i, text = text }, { i, { id = i, text = text } }
  end
  t.eq(read(put(table.concat(lines, "\n"))), want)
  t.eq(read(put(table.concat(lines, "\r\n") .. "\r\n")), want)
  local exact = '"' .. ("y"):rep(65536 - 3) .. '"' -- the line end is the last byte of a piece
  t.eq(read(put(exact .. "\n1\n")), { { 1, exact:sub(2, -2) }, { 2, 1 } })
end)

T.test("a bad line raises with file and line, or is reported and left out", function(t)
  local path = put '1\n{"a":\n3\n'
  t.raises("in%.jsonl:2: not JSON: .*: {\"a\":$", read, path)
  local bad = {}
  t.eq(read(path, { on_error = function(n, message, line)
    bad[#bad + 1] = n .. message
    t.ok(message:find(line, 1, true), "the line itself")
  end }), { { 1, 1 }, { 3, 3 } })
  t.eq(#bad, 1)
  t.match(bad[1], "^2not JSON")
end)

T.test("a line that is too long is not held, and the next is read", function(t)
  local path = put('"12345678"\n' .. '"123456789"\n' .. ("z"):rep(1 << 20) .. "\n4\n")
  t.raises("in%.jsonl:2: the line is longer than 10 bytes", read, path, { max = 10 })
  local bad = {}
  t.eq(read(path, { max = 10, on_error = function(n) bad[#bad + 1] = n end }), { { 1, "12345678" }, { 4, 4 } })
  t.eq(bad, { 2, 3 })
  collectgarbage()
  local before, most = collectgarbage "count", 0
  local file = T.write(folder .. "/long", ("z"):rep(32 << 20) .. "\n")
  collectgarbage()
  read(file, { max = 1000, on_error = function() most = collectgarbage "count" - before end })
  t.ok(most < 4096, most) -- KiB
end)

T.test("a file is closed when the loop ends or is left; one that was open stays so", function(t)
  local function open_files()
    local pipe <close> = io.popen("ls -l /proc/" .. require "sluice.core.sys".pid() .. "/fd")
    return select(2, pipe:read "a":gsub("in%.jsonl", ""))
  end
  local path = put "1\n2\n"
  for _ in jsonl.read(path) do break end
  t.eq(open_files(), 0)
  local iterate = jsonl.read(path)
  t.eq({ iterate(), iterate(), iterate(), iterate() }, { 1, 2 })
  t.eq(open_files(), 0)
  local file <close> = io.open(path)
  t.eq(#read(file), 2)
  t.eq(io.type(file), "file")
end)

T.test("what cannot be read", function(t)
  t.raises("sluice.jsonl.read: .*none: No such file", jsonl.read, folder .. "/none")
  t.raises("it is a folder", jsonl.read, folder)
  t.raises("argument 1 must be a path or an open file, got nothing", jsonl.read)
  t.raises("unknown option 'onerror' %(did you mean 'on_error'", jsonl.read, put "", { onerror = print })
end)

-- Writing -----------------------------------------------------------------------------------------

local out = folder .. "/out.jsonl"

T.test("rows are there when write returns, and are appended", function(t)
  do
    local writer <close> = jsonl.writer(out)
    writer:write { text = "你\n好" }
    t.eq(read(out), { { 1, { text = "你\n好" } } })
    writer:write(json.array {})
    t.eq(writer.count, 2)
  end
  local writer = jsonl.writer(out)
  writer:write(false)
  writer:close()
  writer:close()
  t.eq(T.read(out), '{"text":"你\\n好"}\n[]\nfalse\n')
  t.raises("the writer of .* is closed", writer.write, writer, 1)
  local fresh <close> = jsonl.writer(out, { fresh = true })
  t.eq(T.read(out), "")
  t.raises("row 1: ", fresh.write, fresh, { f = print })
  t.raises("got nothing", fresh.write, fresh)
  t.eq(T.read(out), "")
end)

T.test("a line that was left open is ended first", function(t)
  T.write(out, '{"id":1}\n{"id":2,"te')
  do
    local writer <close> = jsonl.writer(out)
    writer:write { id = 3 }
  end
  t.eq(T.read(out), '{"id":1}\n{"id":2,"te\n{"id":3}\n')
end)

T.test("two writers, large rows: every line is whole", function(t)
  T.write(out, "")
  do
    local a <close> = jsonl.writer(out)
    local b <close> = jsonl.writer(out)
    for i = 1, 20 do
      a:write { id = i, text = ("a"):rep(100000) }
      b:write { id = -i, text = ("b"):rep(3) }
    end
  end
  local _, count = jsonl.done(out)
  t.eq(count, 40)
end)

T.test("a full disk is an error", function(t)
  if sluice.files.kind "/dev/full" == nil then t.skip "no /dev/full" end
  local writer <close> = jsonl.writer "/dev/full"
  t.raises("sluice.jsonl.writer: /dev/full: No space left", writer.write, writer, { 1 })
  t.eq(writer.count, 0)
end)

T.test("done: what need not be done again", function(t)
  T.write(out, '{"id":1}\n{"id":"b","n":5}\n{"other":1}\n7\n{"id":1}\n{"id":9,"te')
  local done, count = jsonl.done(out)
  t.eq({ done, count }, { { [1] = true, b = true }, 2 })
  t.eq((jsonl.done(out, "n")), { [5] = true })
  t.eq((jsonl.done(out, function(row) return type(row) == "number" and row or nil end)), { [7] = true })
  t.eq({ jsonl.done(folder .. "/none") }, { {}, 0 })
  t.raises("argument 2 must be the name of a field", jsonl.done, out, 5)
end)

T.done()
