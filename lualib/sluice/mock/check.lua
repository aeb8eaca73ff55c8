--- What the strict readers of both protocols share: a request that is at fault ends here, with the
-- words a provider would use. Pure.

local json = require "sluice.json"

local check = {}

local Refusal = {}

--- Refuses the request being read.
---@param param string?  the place in the request
---@param message string
function check.refuse(param, message)
  error(setmetatable({ status = 400, param = param, message = message }, Refusal), 0)
end

--- The same for a value of the wrong type, in OpenAI's words.
function check.wrong_type(param, expected, value)
  check.refuse(param, ("Invalid type for '%s': expected %s, but got %s instead.")
    :format(param, expected, check.kind(value)))
end

--- The same for a value that is missing.
function check.missing(param)
  check.refuse(param, ("Missing required parameter: '%s'."):format(param))
end

--- Calls `read(...)`; returns its value, or nil and the failure it refused with.
---@return any?
---@return sluice.mock.Failure?
function check.reading(read, ...)
  local ok, value = pcall(read, ...)
  if ok then return value end
  if getmetatable(value) ~= Refusal then error(value, 0) end
  return nil, value
end

--- A field that may be absent: null counts as absent.
function check.present(value)
  if value == json.null then return nil end
  return value
end

--- The JSON name of a value's type, "an object" …
function check.kind(value)
  if value == nil or value == json.null then return "null" end
  if type(value) == "table" then return json.is_array(value) and "an array" or "an object" end
  if math.type(value) == "integer" then return "an integer" end
  local words = { string = "a string", number = "a number", boolean = "a boolean" }
  return words[type(value)] or type(value)
end

function check.is_array(value)
  return type(value) == "table" and json.is_array(value)
end

function check.is_object(value)
  return type(value) == "table" and not json.is_array(value)
end

--- Is any element of the list equal to the value?
function check.one_of(list, value)
  for _, v in ipairs(list) do
    if v == value then return true end
  end
  return false
end

return check
