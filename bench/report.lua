--- Runs the rows, interleaved, checks what the clients say against the load server, prints the tables.
-- Owns: the order of runs, medians and ratios, the verdicts. Started by bench/run.
-- Reading order: shell, arguments, one measurement, all of them, the tables.

package.path = "bench/?.lua;lualib/?.lua;" .. package.path
local rows = require "rows"

local LIMIT_S = 180 -- seconds one client may take before it counts as hung

-- Shell -------------------------------------------------------------------------------------------

local env = {
  out = os.getenv "BENCH_OUT" or "build/bench",
  port = os.getenv "BENCH_PORT",
  pin = os.getenv "BENCH_PIN" or "",
  place = os.getenv "BENCH_PLACE" or "",
  sluice = os.getenv "SLUICE" or "build/sluice",
  buffer = os.getenv "BENCH_BUFFER",
  python = os.getenv "PYTHON" or "/usr/bin/python3", -- Debian's modules are for Debian's Python
  go = os.getenv "GO" or "go",
  node = os.getenv "NODE" or "node",
  lua = arg[-1],
}

local function quote(word)
  return "'" .. tostring(word):gsub("'", "'\\''") .. "'"
end

local function words(list)
  local quoted = {}
  for i, word in ipairs(list) do quoted[i] = quote(word) end
  return table.concat(quoted, " ")
end

local has = {}

function has.file(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

function has.success(...)
  return (os.execute(words { ... } .. " >/dev/null 2>&1")) == true
end

function has.command(name)
  return (os.execute("command -v " .. quote(name) .. " >/dev/null 2>&1")) == true
end

local TIMEOUT = has.command "timeout" and ("timeout --foreground -k 5 %d "):format(LIMIT_S) or ""

local function read_file(path)
  local file = io.open(path)
  local text = file and file:read "a" or ""
  if file then file:close() end
  return text
end

--- The numbers and words of a flat JSON object, or nil.
local function parse(text)
  local line = text:match "(%b{})%s*$"
  if not line then return nil end
  local fields = {}
  for name, value in line:gmatch '"([%w_]+)"%s*:%s*(-?[%d.eE+-]+)' do fields[name] = tonumber(value) end
  return fields
end

--- Runs a command; its last line as a table, or nil and what went wrong.
local function run(command)
  local errors = env.out .. "/stderr"
  local pipe = assert(io.popen(TIMEOUT .. command .. " 2>" .. quote(errors)))
  local text = pipe:read "a"
  local ok, how, code = pipe:close()
  if ok then
    local fields = parse(text)
    if fields then return fields, text:match "[^\n]*\n?$" end
    return nil, "no line of results: " .. text:sub(1, 200)
  end
  if how == "exit" and code == 124 then return nil, ("not finished after %d s"):format(LIMIT_S) end
  local said = read_file(errors):match "^%s*(.-)%s*$"
  return nil, ("%s %d: %s"):format(how, code, said ~= "" and said:match "[^\n]*" or "no message")
end

-- Arguments -----------------------------------------------------------------------------------------

local FLAGS = { ["--quick"] = true, ["--strict"] = true, ["--list"] = true, ["--no-peers"] = true }

local function usage_error(name, known)
  local near = require "sluice.nearest"(name, known)
  io.stderr:write(("bench: unknown row or option '%s'%s; see bench/run --list and --help\n")
    :format(name, near and (", did you mean '%s'?"):format(near) or ""))
  os.exit(2)
end

local function number_of(text, name)
  local n = math.tointeger(tonumber(text))
  if not n or n < 1 then
    io.stderr:write(("bench: %s must be a whole number from 1, not '%s'\n"):format(name, tostring(text)))
    os.exit(2)
  end
  return n
end

local function arguments()
  local known, chosen, flags, i = {}, {}, {}, 1
  for _, row in ipairs(rows.list) do known[#known + 1] = row.id end
  for flag in pairs(FLAGS) do known[#known + 1] = flag end
  known[#known + 1] = "--runs"
  while arg[i] do
    local word = arg[i]
    local runs = word:match "^%-%-runs=(.*)$"
    if word == "--runs" then
      i = i + 1
      runs = arg[i] or ""
    end
    if runs then flags.runs = number_of(runs, "--runs")
    elseif FLAGS[word] then flags[word:sub(3)] = true
    else
      local found
      for _, row in ipairs(rows.list) do
        if row.id == word then found = row.of or word end
      end
      if not found then usage_error(word, known) end
      chosen[found] = true
    end
    i = i + 1
  end
  flags.runs = flags.runs or (os.getenv "BENCH_RUNS" and number_of(os.getenv "BENCH_RUNS", "BENCH_RUNS"))
    or (flags.quick and 2 or 5)
  flags.peer_runs = os.getenv "BENCH_PEER_RUNS" and number_of(os.getenv "BENCH_PEER_RUNS", "BENCH_PEER_RUNS") or 3
  flags.peers = not flags.quick and not flags["no-peers"] and os.getenv "BENCH_PEERS" ~= "0"
  flags.all = next(chosen) == nil
  return flags, chosen
end

local flags, chosen = arguments()

local function wanted(row)
  return not row.of and (flags.all or chosen[row.id])
end

local function goal_text(row)
  if row.most then return ("≤ %g %s"):format(row.most, row.unit) end
  return row.goal and ("≤ %.2f ×"):format(row.goal) or "–"
end

if flags.list then
  for _, row in ipairs(rows.list) do
    print(("%-14s %-36s goal %s"):format(row.id, (row.of and row.of .. ": " or "") .. row.title, goal_text(row)))
  end
  os.exit(0)
end

-- One measurement -------------------------------------------------------------------------------------

local log = assert(io.open(env.out .. "/results.jsonl", "w"))
local failures = {}

local function stats(reset)
  local fields, why = run(words { env.out .. "/bare", "stats", "port=" .. env.port, reset and "reset=1" or "reset=0" })
  if not fields then
    io.stderr:write("bench: the load server does not answer: " .. why .. "\n")
    os.exit(4)
  end
  return fields
end

local function key_values(args)
  local list = {}
  for key, value in pairs(args) do list[#list + 1] = ("%s=%d"):format(key, value) end
  table.sort(list)
  return list
end

local function merged(...)
  local all = {}
  for i = 1, select("#", ...) do
    for key, value in pairs(select(i, ...) or {}) do all[key] = value end
  end
  return all
end

-- A script of bench/ for each mode; one script does both kinds of paced streams.
local SCRIPTS = { ask = "ask", stream = "stream", events = "events", paced = "paced", mem = "paced",
  startup = "hello", idle = "idle", tasks = "tasks", policy = "policy" }

-- What only sluice does: no client stands beside it, and the goals are absolute.
local ALONE = { tasks = true, policy = true }

local function sluice_command(row, args)
  local command = { env.sluice, "run", "bench/" .. SCRIPTS[row.mode] .. ".lua" }
  if row.what then command[#command + 1] = row.what end
  if row.mode ~= "startup" and row.mode ~= "idle" then
    if row.mode ~= "tasks" then args = merged(args, { port = env.port, buffer = env.buffer }, row.sluice) end
    table.move(key_values(args), 1, 100, #command + 1, command)
  end
  return command
end

local MODES = { events = "stream", startup = "init" } -- what bare and the peers call it

local function client_command(client, row, args)
  local command = client.command(env)
  command[#command + 1] = MODES[row.mode] or row.mode
  if row.mode ~= "startup" and row.mode ~= "idle" then
    table.move(key_values(merged(args, { port = env.port })), 1, 100, #command + 1, command)
  end
  return command
end

--- What must be true of one run for its figure to count: every byte came, nothing was refused or
--- broken off, all streams really were open at once, and the server waited for the client.
local function check(row, args, fields, before, after)
  if row.text and fields.text_bytes and fields.text_bytes ~= row.text(args) then
    return ("%d bytes of text instead of %d"):format(fields.text_bytes, row.text(args))
  end
  if after.bad_requests > before.bad_requests then return "requests the load server does not know" end
  if after.streams_aborted - before.streams_aborted ~= (args.parked or 0) then return "streams were broken off" end
  if args.streams and after.streams_peak < args.streams + (args.parked or 0) then
    return ("only %d streams were open at once"):format(after.streams_peak)
  end
end

--- The counters once every stream of the last client is gone: its connections may still be closing.
local function settled()
  local now
  for _ = 1, 300 do
    now = stats(false)
    if now.streams_open == 0 then break end
  end
  return now
end

--- Runs one client once. All fields of its line of results, or nil when they do not count.
local function measure(client, row, args)
  local command = client.name == "sluice" and sluice_command(row, args) or client_command(client, row, args)
  local line = words(command)
  if row.mode == "startup" then line = words { env.out .. "/spawn", args.n } .. " " .. line end
  local before = stats(true)
  local fields, text = run(env.pin .. " " .. line)
  local after = settled()
  local why = not fields and text or fields[row.value] == nil and "no " .. row.value
    or check(row, args, fields, before, after)
  if why then
    failures[#failures + 1] = ("%s, %s: %s"):format(row.id, client.name, why)
    return nil
  end
  local units = row.mode == "ask" and "replies" or "deltas"
  fields.server_us = (after.cpu_us - before.cpu_us) / math.max(1, after[units] - before[units])
  fields.server_busy = (after.cpu_us - before.cpu_us) / (after.wall_us - before.wall_us)
  log:write(('{"row":"%s","client":"%s","server_us_per_unit":%.3f,"server_busy":%.3f,"result":%s}\n')
    :format(row.id, client.name, fields.server_us, fields.server_busy, (text:gsub("%s+$", ""))))
  log:flush()
  return fields
end

-- All of them ---------------------------------------------------------------------------------------

local bare = { name = "bare libcurl", command = function() return { env.out .. "/bare" } end }
local raw = { name = "raw", command = function() return { env.out .. "/raw" } end }
local sluice = has.file(env.sluice) and { name = "sluice" } or nil

local function smaller(args, mode)
  if not flags.quick then return args end
  local less = merged(args)
  if less.n and mode ~= "paced" and mode ~= "mem" then less.n = math.max(less.n // 5 // 32 * 32, 3) end
  if mode == "mem" then less.streams, less.delay = 1000, 1500 end
  if less.parked then less.parked, less.delay = 500, 1500 end
  return less
end

local tty = os.getenv "BENCH_TTY" == "1"

local function progress(...)
  if tty then io.stderr:write("\r\27[K", string.format(...)) end
end

local function runs_of(row)
  return math.min(row.runs or flags.runs, flags.runs) * (row.turns or 1)
end

--- Every run of one row: per client a list of fields by number of the run. The order alternates, so
--- that none always runs after the same other.
local function measure_row(row, peers)
  local args = smaller(row.args, row.mode)
  local runs, results = runs_of(row), {}
  for i = 1, runs do
    local turn = {}
    local function add(client, its_args, name)
      if client then turn[#turn + 1] = { client = client, args = its_args, name = name or client.name } end
    end
    if not ALONE[row.mode] then add(bare, args)
    elseif row.base and sluice then add(sluice, smaller(row.base, row.mode), bare.name) end
    add(sluice, args)
    if row.peers and i <= flags.peer_runs then
      for _, peer in ipairs(peers) do add(peer, merged(args, row.peers)) end
    end
    for k = 1, #turn do
      local one = turn[i % 2 == 1 and k or #turn + 1 - k]
      progress("%s, run %d of %d: %s", row.id, i, runs, one.name)
      results[one.name] = results[one.name] or {}
      results[one.name][i] = measure(one.client, row, one.args)
    end
  end
  progress ""
  return results
end

-- Tables --------------------------------------------------------------------------------------------

local function median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local n = #sorted
  if n == 0 then return nil end
  return n % 2 == 1 and sorted[n // 2 + 1] or (sorted[n // 2] + sorted[n // 2 + 1]) / 2
end

local function values(runs, row)
  local list = {}
  for i = 1, runs_of(row) do
    local fields = runs and runs[i]
    if fields then list[#list + 1] = fields[row.value] * (row.scale or 1) end
  end
  return list
end

--- Median, least and greatest of b/a, run by run; and the best of b by the best of a.
local function ratios(a, b, row)
  local list, best_a, best_b = {}, math.huge, math.huge
  for i = 1, runs_of(row) do
    local x, y = a and a[i], b and b[i]
    if x and y then
      list[#list + 1] = y[row.value] / x[row.value]
      best_a, best_b = math.min(best_a, x[row.value]), math.min(best_b, y[row.value])
    end
  end
  if #list == 0 then return nil end
  return median(list), math.min(table.unpack(list)), math.max(table.unpack(list)), best_b / best_a
end

--- Three digits that say something, whatever the size.
local function figure(value)
  if not value then return "–" end
  return (value < 10 and "%.2f" or value < 100 and "%.1f" or "%.0f"):format(value)
end

local function pad(text, width, right)
  local space = (" "):rep(width - (utf8.len(text) or #text))
  return right and space .. text or text .. space
end

local missed = 0

local function print_row(row, results)
  local base, own = results[bare.name], results[sluice and sluice.name or ""]
  local value, reference = median(values(own, row)), median(values(base, row))
  local ratio, least, most, best = ratios(base, own, row)
  local verdict = ""
  if row.most and value then verdict = value <= row.most and "ok" or "over"
  elseif row.goal and ratio then verdict = ratio <= row.goal and "ok" or "over" end
  if verdict == "over" then missed = missed + 1 end
  local aside = row.mode == "tasks" and reference
  print(table.concat({
    pad(row.id, 13), pad(row.title, 34), pad(row.unit, 3, true),
    pad(aside and "(" .. figure(reference) .. ")" or figure(reference), 9, true), pad(figure(value), 8, true),
    pad(ratio and ("%.2f"):format(ratio) or "–", 6, true),
    pad(ratio and ("(%.2f to %.2f)"):format(least, most) or "", 14),
    pad(ratio and ("%.2f"):format(best) or "", 5, true), pad(goal_text(row), 9), verdict,
  }, "  "))
end

--- Says whether the load server held a client up, and what a client without an HTTP library would
-- need. With a processor each, whoever needs more processor time for a unit is the one that is waited
-- for; what is paced must leave the server idle time. One at a time, each always waits for the other.
local function server_line(row, results)
  if row.mode == "startup" or row.mode == "idle" or ALONE[row.mode] then return nil end
  local is_paced = row.mode == "paced" or row.mode == "mem"
  local worst, whose = 0, "nobody"
  for name, runs in pairs(results) do
    local shares = {}
    for i = 1, runs_of(row) do
      local fields = runs[i]
      if fields then
        shares[#shares + 1] = is_paced and fields.server_busy or fields.server_us / fields.cpu_us_per_unit
      end
    end
    local share = median(shares) or 0
    if share > worst then worst, whose = share, name end
  end
  if worst == 0 then return nil end
  local line
  if is_paced then line = ("load server at most %.0f %% busy"):format(worst * 100)
  else line = ("load server at most %.0f %% of the client's time a unit (%s)"):format(worst * 100, whose) end
  if worst > 0.9 and row.args.concurrency ~= 1 then line = line .. ": IT IS THE LIMIT" end
  if row.mode == "mem" or row.args.parked then return row.id .. ": " .. line end
  local least = measure(raw, row, smaller(row.args, row.mode))
  return ("%s: %s; raw epoll and recv need %s µs"):format(row.id, line, least and figure(least.cpu_us_per_unit) or "?")
end

local function print_peers(peers, measured)
  local columns = {}
  for _, row in ipairs(rows.list) do
    if measured[row.id] and row.peers then columns[#columns + 1] = row end
  end
  if #columns == 0 or #peers == 0 then return end
  print "\nPeers, the same work in the same minutes: figure, and times bare libcurl\n"
  local head = { pad("", 16) }
  for _, row in ipairs(columns) do head[#head + 1] = pad(row.id .. ", " .. row.unit, 15, true) end
  print(table.concat(head))
  for _, client in ipairs { bare, { name = "sluice" }, table.unpack(peers) } do
    local cells = { pad(client.name, 16) }
    for _, row in ipairs(columns) do
      local results = measured[row.id]
      local value = median(values(results[client.name], row))
      local ratio = client ~= bare and ratios(results[bare.name], results[client.name], row)
      local times = ratio and (ratio < 10 and "%.1f×" or "%.0f×"):format(ratio) or ""
      cells[#cells + 1] = pad(value and figure(value) .. pad(times, 7, true) or "–", 15, true)
    end
    print(table.concat(cells))
  end
end

-- Here we go ------------------------------------------------------------------------------------------

local function first_line(path, pattern, otherwise)
  return read_file(path):match(pattern) or otherwise
end

local function present_peers()
  local present, absent = {}, {}
  if not flags.peers then return present, absent end
  for _, peer in ipairs(rows.peers) do
    local why = peer.missing(env, has)
    if why then absent[#absent + 1] = peer.name .. ": " .. why else present[#present + 1] = peer end
  end
  return present, absent
end

local function introduce(absent)
  print(("%s, %s; %s"):format(first_line("/proc/cpuinfo", "model name%s*:%s*([^\n]*)", "unknown processor"),
    first_line("/proc/sys/kernel/osrelease", "[^\n]*", "unknown kernel"),
    env.place ~= "" and env.place or "nothing pinned (no taskset, or one processor): figures are less sure"))
  if tonumber(first_line("/proc/loadavg", "^%S+", "0")) > 0.7 then
    print "This machine is busy with other things: mind the range of the ratios, and the best runs."
  end
  if not sluice then print(env.sluice .. " is not there (make builds it): bare libcurl and the peers only.") end
  for _, why in ipairs(absent) do print("skipped " .. why .. " (bench/install-peers)") end
  print "µs: processor time, user and system, of the client. Medians; ratio: of neighbouring runs, their median and"
  print "range; best: the best run of sluice by the best of bare libcurl, least disturbed by what else runs here.\n"
end

--- Ticks of all processors: in all, and those the hypervisor gave to others.
local function ticks()
  local all, stolen, i = 0, 0, 0
  for n in read_file("/proc/stat"):match("^cpu%s+([^\n]*)"):gmatch "%d+" do
    i = i + 1
    if i <= 8 then all = all + n end
    if i == 8 then stolen = math.tointeger(n) end
  end
  return all, stolen
end

local function main()
  local started = os.time()
  local all_before, stolen_before = ticks()
  local peers, absent = present_peers()
  introduce(absent)
  print(table.concat({ pad("row", 13), pad("", 34), pad("", 3), pad("bare", 9, true), pad("sluice", 8, true),
    pad("ratio", 6, true), pad("(range)", 14), pad("best", 5, true), "goal" }, "  "))
  local measured, servers = {}, {}
  for _, row in ipairs(rows.list) do
    if wanted(row) and (sluice or row.mode ~= "tasks") then
      local results = measure_row(row, peers)
      measured[row.id] = results
      print_row(row, results)
      for _, second in ipairs(rows.list) do
        if second.of == row.id then
          second.mode = row.mode
          print_row(second, results)
        end
      end
      servers[#servers + 1] = server_line(row, results)
    end
  end
  if measured.wake then print "\n(…): sluice itself, with nobody else asleep" end
  print_peers(peers, measured)
  local all_after, stolen_after = ticks()
  servers[#servers + 1] = ("load of the machine at the end %s; %.1f %% of its time went to other guests of the host")
    :format(first_line("/proc/loadavg", "^%S+", "?"), (stolen_after - stolen_before) / (all_after - all_before) * 100)
  if #servers > 0 then print("\n" .. table.concat(servers, "\n")) end
  for _, why in ipairs(failures) do print("FAILED " .. why) end
  print(("\n%d s; %d goal%s missed, %d run%s failed; every figure is in %s/results.jsonl"):format(os.time() - started,
    missed, missed == 1 and "" or "s", #failures, #failures == 1 and "" or "s", env.out))
  log:close()
  os.exit(#failures == 0 and not (flags.strict and missed > 0))
end

local ok, err = xpcall(main, debug.traceback)
if not ok then
  local interrupted = tostring(err):find "interrupted!"
  io.stderr:write("bench: ", interrupted and "interrupted" or err, "\n")
  os.exit(interrupted and 130 or 70)
end
