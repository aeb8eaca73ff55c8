--- What the bench scripts share: arguments, the model under test, clocks, and the line of results.
-- Owns: nothing. Uses the public API only, so that the figures are those of a user's script.

local sluice = require "sluice"

local common = {}

common.PROMPT = "Why is the sky blue?"
common.BYTES_PER_DELTA = 5 -- bench/loadserver.c: any multiple of 32 deltas decodes to exactly this

--- The arguments `key=value` of a script, numbers as numbers.
---@param defaults table<string, integer>  every key that may be given, with its default
---@param ... string
---@return table<string, integer>
function common.args(defaults, ...)
  local values = {}
  for key, value in pairs(defaults) do values[key] = value end
  for _, arg in ipairs { ... } do
    local key, value = arg:match "^(%w+)=(%d+)$"
    if not key or values[key] == nil then error("bench: unknown argument " .. arg, 0) end
    values[key] = math.tointeger(value)
  end
  return values
end

--- A model on the load server. Nothing but the limits that would end a long measurement is changed.
---@param args { port: integer, buffer?: integer }
---@param spec string  what the load server is to do, e.g. "-n32-gap100-delay500"
---@param concurrency integer
---@return sluice.Model
function common.model(args, spec, concurrency)
  return sluice.model {
    provider = "openai",
    base_url = ("http://127.0.0.1:%d/v1"):format(args.port),
    model = "bench" .. spec,
    auth = "bench-key",
    timeout = { connect = (args.streams or 0) > 1000 and 120 or 3, first_token = 3600, idle = 3600, total = 3600 },
    retry = { attempts = 1 },
    limit = { concurrency = concurrency },
    receive_buffer = args.buffer ~= 0 and args.buffer or nil,
  }
end

--- A figure of /proc/self/status, in KiB.
---@param name string  e.g. "VmHWM", the peak of resident memory
---@return integer
function common.kib(name)
  local file <close> = assert(io.open("/proc/self/status", "r"))
  return math.tointeger(file:read("a"):match(name .. ":%s*(%d+)"))
end

--- Prints the line of results that bench/run reads.
---@param mode string
---@param fields table<string, number|boolean>
function common.report(mode, fields)
  fields.maxrss_kib = common.kib "VmHWM"
  local names, parts = {}, {}
  for name in pairs(fields) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = fields[name]
    local text = math.type(value) == "float" and ("%.6f"):format(value) or tostring(value)
    parts[#parts + 1] = ('"%s":%s'):format(name, text)
  end
  print(('{"client":"sluice","mode":"%s",%s}'):format(mode, table.concat(parts, ",")))
end

--- Runs `work(i)` for i = 1 … n as n tasks at once.
---@async
---@param n integer
---@param work fun(i: integer)
function common.together(n, work)
  sluice.task.group(function(group)
    for i = 1, n do group:spawn(work, i) end
  end)
end

return common
