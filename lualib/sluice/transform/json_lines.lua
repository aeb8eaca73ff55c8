--- Text into JSON values, one a line.
-- Owns: what is a line of JSON and what is around it: blank lines and the fences that models like to put
-- around their answer are passed over. Never: repairs JSON.

local errors = require "sluice.errors"
local json = require "sluice.json"
local Lines = require "sluice.transform.lines"

local EXCERPT = 60 -- bytes of a bad line that are shown

local JsonLines = {}
JsonLines.__index = JsonLines

--- A step whose items are the decoded values.
---@param opts? { max?: integer, on_error?: fun(number: integer, message: string, line: string) }
function JsonLines.new(opts)
  opts = opts or {}
  return setmetatable({ lines = Lines.new { max = opts.max, where = "stream:json_lines" }, number = 0,
    on_error = opts.on_error }, JsonLines)
end

local function decode(self, lines, ends)
  local items, texts = {}, {}
  for i, line in ipairs(lines) do
    self.number = self.number + 1
    if line:find "%S" and not line:find "^%s*```" then
      local ok, value = pcall(json.decode, line)
      if ok then
        items[#items + 1], texts[#texts + 1] = value, ends[i]
      else
        local message, faults = tostring(value):gsub("^json: ", "")
        if faults == 0 then error(value, 0) end -- no fault of the line: no memory, say
        if not self.on_error then
          errors.raise { kind = "protocol", code = "bad_json", line = self.number,
            message = ("stream:json_lines: line %d of the answer is not JSON: %s: %s"):format(self.number, message,
              errors.one_line(line, EXCERPT)) }
        end
        self.on_error(self.number, message, line)
      end
    end
  end
  return items, texts
end

function JsonLines:feed(text) return decode(self, self.lines:feed(text)) end

function JsonLines:finish() return decode(self, self.lines:finish()) end

return JsonLines
