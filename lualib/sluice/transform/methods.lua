--- Gives a class of streams the methods of sluice.transform, which is loaded when one is first used.

local NAMES = { "map", "filter", "lines", "sentences", "code_blocks", "json_lines", "tee", "throttle", "until_match",
  "redact", "markdown" }

---@param class table
return function(class)
  for _, name in ipairs(NAMES) do
    class[name] = function(self, ...)
      return require "sluice.transform"[name](self, ...)
    end
  end
end
