--- Gives a class of streams the methods of sluice.transform, which is loaded when one is first used.
-- A stream itself is no iterator: a loop over it could not close it when it is left.

local NAMES = { "map", "filter", "lines", "sentences", "code_blocks", "json_lines", "tee", "throttle", "until_match",
  "redact", "markdown" }

local function no_loop()
  require "sluice.options".raise("a stream is read by its methods: for text in stream:text() do … end, or "
    .. "stream:events(), stream:lines() …")
end

---@param class table
return function(class)
  class.__call = no_loop -- for x in stream do
  for _, name in ipairs(NAMES) do
    class[name] = function(self, ...)
      return require "sluice.transform"[name](self, ...)
    end
  end
end
