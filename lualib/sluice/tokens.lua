--- Tokens: an estimate before a request, sums of what providers counted after it.
-- Owns: the one rule of thumb that limits, budgets and conversations share. Pure.
-- Never: knows a tokenizer. Four bytes to a token and a tenth on top is near enough for English, code
-- (3.5 to 4.5 bytes a token) and Chinese (a character is three bytes and 0.6 to 0.9 tokens); who needs the
-- number itself reads reply.usage.

local IMAGE = 1500 -- what an image costs at most of the vendors, whatever its bytes
local IMAGE_BYTES_MIN = 256 -- of base64: anything shorter is taken for text
local DEPTH_MAX = 64

---@class sluice.tokens
local tokens = { IMAGE = IMAGE }

--- Tokens of so many bytes of text.
--- For sluice's own modules.
---@param bytes integer
---@return integer
function tokens.of_bytes(bytes)
  return (bytes * 11 + 39) // 40
end

--- Tokens of a request's finished body: JSON text, in which an image is a long run of base64.
--- For sluice's own modules.
---@param body string
---@return integer
function tokens.of_body(body)
  local bytes, images = #body, 0
  if bytes < IMAGE_BYTES_MIN then return (bytes * 11 + 39) // 40 end -- too short for an image
  if body:find("base64", 1, true) then -- an image is not billed by its bytes
    for run in body:gmatch "[%w+/=\\]+" do
      if #run >= IMAGE_BYTES_MIN then bytes, images = bytes - #run, images + 1 end
    end
  end
  return tokens.of_bytes(bytes) + images * IMAGE
end

local IMAGES = { image = true, image_url = true, input_image = true }
local NOT_SENT = { arguments_json = true } -- `arguments` says the same

--- Bytes of everything that is text in a value, and how many images there are.
local function weigh(value, depth)
  if type(value) == "string" then return #value, 0 end
  if type(value) ~= "table" or depth > DEPTH_MAX then return 0, 0 end
  if IMAGES[value.type] then return 0, 1 end
  if value.finish_reason ~= nil and type(value.message) == "function" then value = value:message() end -- a reply
  local bytes, images = 0, 0
  for key, part in pairs(value) do
    if not NOT_SENT[key] then
      local b, i = weigh(part, depth + 1)
      bytes, images = bytes + b, images + i
    end
  end
  return bytes, images
end

local REQUEST = { "prompt", "system", "messages", "tools" }

--- About how many tokens it is: a text, a message, a list of messages, a reply, or a request with prompt,
--- system, messages and tools (of which nothing else is counted). An image counts 1,500.
---@param value string|table
---@return integer
function tokens.estimate(value)
  if type(value) == "string" then return tokens.of_bytes(#value) end
  if type(value) ~= "table" then
    local options = require "sluice.options"
    options.raise("sluice.tokens.estimate: expected a text, messages or a request, got " .. options.got(value))
  end
  if value.role == nil and value.finish_reason == nil and (value.prompt ~= nil or value.messages ~= nil) then
    local sent = {}
    for i, field in ipairs(REQUEST) do sent[i] = value[field] or "" end
    value = sent
  end
  local bytes, images = weigh(value, 0)
  return tokens.of_bytes(bytes) + images * IMAGE
end

local COUNTS = { "input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens" }

--- Adds one usage to another, in place; what a provider did not say adds nothing.
---@param total sluice.Usage
---@param usage? sluice.Usage
---@return sluice.Usage total
function tokens.add(total, usage)
  for _, name in ipairs(COUNTS) do
    local n = usage and usage[name]
    if n then total[name] = (total[name] or 0) + n end
  end
  return total
end

--- What several replies have used together.
---@param replies sluice.Reply[]
---@return sluice.Usage
function tokens.sum(replies)
  local total = {}
  for _, reply in ipairs(replies) do tokens.add(total, reply.usage) end
  return total
end

return tokens
