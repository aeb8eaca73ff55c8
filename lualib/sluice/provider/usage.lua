--- Token counts of every vendor -> one set of names with one meaning.
-- Owns: the field names vendors use. Pure.
-- Never: adds up or estimates; counts in a stream are cumulative, the last one stands
-- (assemble.lua), and what a vendor did not say stays unsaid.

local math_tointeger = math.tointeger

--- A count, or nil: vendors send null, and some JSON codecs send every number as a float.
local function count(v)
  local n = type(v) == "number" and math_tointeger(v) or nil
  return n and n >= 0 and n or nil
end

local function detail(t, name)
  return type(t) == "table" and count(t[name]) or nil
end

local usage = {}

--- OpenAI's form and its relatives. `prompt_tokens` includes the cached ones.
---@param u any  the decoded `usage`
---@return sluice.UsageDelta?  nil when there is nothing in it
function usage.openai(u)
  if type(u) ~= "table" then return nil end
  local result = {
    input_tokens = count(u.prompt_tokens),
    output_tokens = count(u.completion_tokens),
    total_tokens = count(u.total_tokens),
    cached_tokens = detail(u.prompt_tokens_details, "cached_tokens")
      or count(u.prompt_cache_hit_tokens)   -- DeepSeek, SiliconFlow
      or count(u.cached_tokens),            -- Moonshot
    reasoning_tokens = detail(u.completion_tokens_details, "reasoning_tokens") or count(u.reasoning_tokens),
  }
  return next(result) and result or nil
end

--- Anthropic's form. `input_tokens` there leaves out what was read from or written to the cache, so
--- the three are handed on apart and added when the last of them is known.
---@param u any
---@return sluice.UsageDelta?
function usage.anthropic(u)
  if type(u) ~= "table" then return nil end
  local result = {
    uncached_input_tokens = count(u.input_tokens),
    cached_tokens = count(u.cache_read_input_tokens),
    cache_write_tokens = count(u.cache_creation_input_tokens),
    output_tokens = count(u.output_tokens),
    reasoning_tokens = detail(u.output_tokens_details, "thinking_tokens"),
  }
  return next(result) and result or nil
end

return usage
