--- The steps that look for something: redact and until_match.
-- Owns: what becomes of a match. How it is found is scan.lua.

local Scanner = require "sluice.transform.scan"

local search = {}

--- A step whose text has `with` in the place of every match.
---@param literals string[]
---@param patterns string[]
---@param with string|fun(match: string): string
---@param hold? integer
function search.redact(literals, patterns, with, hold)
  local scanner = Scanner.new("stream:redact", literals, patterns, { hold = hold })
  local parts
  local function keep(text) parts[#parts + 1] = text end
  local function replace(match)
    parts[#parts + 1] = type(with) == "string" and with or tostring(with(match))
  end
  local function joined()
    local text = table.concat(parts)
    return text ~= "" and { text } or {}
  end
  return {
    feed = function(_, text)
      parts = {}
      scanner:feed(text, keep, replace)
      return joined()
    end,
    finish = function()
      parts = {}
      scanner:finish(keep, replace)
      return joined()
    end,
  }
end

--- A step that ends the stream at the first match; `step.stopped` is then what was matched.
---@param literals string[]
---@param patterns string[]
---@param include boolean  the match is still handed out
---@param hold? integer
function search.until_match(literals, patterns, include, hold)
  local step, parts = {}, nil
  local scanner = Scanner.new("stream:until_match", literals, patterns, { hold = hold, eager = not include })
  local function keep(text) parts[#parts + 1] = text end
  local function stop(match)
    step.stopped = match
    if include then parts[#parts + 1] = match end
    return true
  end
  local function run(method, text)
    parts = {}
    if step.stopped then return parts end
    if method == "feed" then scanner:feed(text, keep, stop) else scanner:finish(keep, stop) end
    return parts
  end
  function step:feed(text) return run("feed", text) end -- luacheck: ignore 212
  function step:finish() return run "finish" end -- luacheck: ignore 212
  return step
end

return search
