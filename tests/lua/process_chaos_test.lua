-- Programs by the dozen that end, fail, hang, print too much, leave others behind, and are left in the middle: each
-- ends in one of the ways it may, and nothing stays.
-- timeout: 120
local T = require "harness"
local sluice = require "sluice"
local core = require "sluice.core.process"

local process, task = sluice.process, sluice.task
local N = T.slow and 120 or 300

local function descriptors()
  local child <close> = process.stream { "sh", "-c", "read word; ls /proc/$PPID/fd", input = true }
  child:write "now\n"
  local n = 0
  for _ in child:lines() do n = n + 1 end
  return n
end

-- what is done, and how it may end
local KINDS = {
  { function(i) process.run { "sh", "-c", "exit " .. i % 3 } end, { ok = true, exit = true } },
  { function() task.deadline(math.random() * 0.02, process.run, { "sleep", "60" }) end, { deadline = true } },
  { function()
    for _ in process.stream { "yes" }:lines() do
      if math.random() < 0.001 then break end
    end
  end, { ok = true } },
  { function(i)
    process.run { "sh", "-c", "sleep 0.5 & head -c 100000 /dev/zero", output_max = i % 2 == 0 and 1000 or nil }
  end, { ok = true, too_large = true } },
  { function()
    local cat <close> = process.stream { "cat", input = true }
    local text = ("x"):rep(math.random(300000))
    cat:write(text .. "\nmore")
    cat:close_input()
    assert(cat:read_line() == text)
    if math.random() < 0.5 then assert(cat:read_line() == "more" and cat:wait().code == 0) end
  end, { ok = true } },
  { function() process.run { "sh", "-c", "kill -9 $$", timeout = 30 } end, { signal = true } },
  { function() process.run { "sh", "-c", "trap '' TERM; sleep 60 & wait", timeout = 0.02 } end, { process = true } },
}

T.test("chaos", function(t)
  process.run { "true" }
  T.until_(function() return core.count() == 0 end)
  local before = descriptors()
  local jobs = {}
  for i = 1, N do jobs[i] = math.random(#KINDS) end
  local seen = {}
  task.map(jobs, function(kind, i)
    local ok, err = pcall(KINDS[kind][1], i)
    local how = ok and "ok" or type(err) == "table" and (err.code or err.phase) or err
    if not KINDS[kind][2][how] then t.eq(tostring(err), "an end it may have", "kind " .. kind) end
    seen[kind .. " " .. how] = true
  end, { concurrency = 20 })
  T.until_(function() return core.count() == 0 end)
  collectgarbage()
  t.eq(descriptors(), before)
  t.ok(seen["1 exit"] and seen["4 too_large"] and seen["7 process"], T.show(seen))
end)

T.done()
