--- The metrics of a run in a file, for node_exporter's textfile collector and for jobs that are over
--- before anybody asks: written every few seconds and at the end, whole each time.
-- Never: leaves half a file, or one that the collector may not read: it has the usual mode, not 0600.

local core = require "sluice.core.task"
local sys = require "sluice.core.sys"
local metrics = require "sluice.metrics"

local EVERY_S = 5

local file = {}

--- Writes the file, in one step for whoever reads it. nil and the reason when that fails.
---@param path string
---@return true? written
---@return string? why
function file.write(path)
  local beside = ("%s.%d.tmp"):format(path, sys.pid()) -- the collector takes *.prom only
  local handle, why = io.open(beside, "wb")
  if not handle then return nil, why end
  local ok
  ok, why = handle:write(metrics.text())
  local closed, why_closed = handle:close()
  if ok and closed then ok, why = os.rename(beside, path) else why = why or why_closed end
  if ok and closed then return true end
  os.remove(beside)
  return nil, why
end

--- Writes it now, every few seconds, and when the function that comes back is called.
---@param path string
---@return (fun(): true?, string?)? finish  nil: the file cannot be written
---@return string? why
function file.start(path)
  metrics.enable()
  local written, why = file.write(path)
  if not written then return nil, why end
  core.service(function()
    local told = false
    while true do
      core.sleep(EVERY_S)
      local ok, problem = file.write(path)
      if not ok and not told then
        require "sluice.log".warn("the metrics could not be written to their file", { error = problem })
      end
      told = not ok
    end
  end)
  return function() return file.write(path) end
end

return file
