-- Writes docs/api.md from the annotations in lualib/: `make docs`. With --check it writes nothing and
-- fails when the file is not what it should be.
--
-- What is public stands in PAGES. A function appears when it has a docstring (lines of ---) right above
-- it; its @param and @return lines become a list. Nothing else in the sources is read.

local OUT = "docs/api.md"

-- module, the name its table has in the file, the name scripts use, a word about it, the heading if another
local PAGES = {
  { "model", "Model", "model", "What `sluice.model { … }` returns." },
  { "stream", "Stream", "stream", "What `model:stream` returns." },
  { "transform", "Transformable", "stream",
    "What a stream's text is made into while it flows: every stream has these, a transformed one too.",
    "stream, transformed" },
  { "transform", "Transformed", "transformed", "What these return: a stream, which `for` reads item by item.",
    "A transformed stream" },
  { "reply", "Reply", "reply", "What `model:ask` and `stream:reply` return." },
  { "fallback", "Fallback", "fallback", "What `sluice.fallback { … }` returns." },
  { "rules", "Rules", "rules", "What `sluice.rules \"file.lua\"` returns." },
  { "rule", "rule", "sluice.rule", "Steps for a fallback." },
  { "cache", "Cache", "cache", "What `sluice.cache { … }` returns." },
  { "budget", "Budget", "budget", "What `sluice.budget { … }` returns." },
  { "files", "files", "sluice.files", "Files as input and output of prompts." },
  { "jsonl", "jsonl", "sluice.jsonl", "Rows of JSON, one a line." },
  { "jsonl", "Writer", "writer", "What `sluice.jsonl.writer` returns." },
  { "pipeline", "pipeline", "sluice.pipeline", "Stages over a stream of items." },
  { "term", "term", "sluice.term", "What a terminal can show." },
  { "task", "task", "sluice.task", "Structured concurrency." },
  { "http", "http", "sluice.http", "HTTP for what models do not cover." },
  { "secret", "secret", "sluice.secret", "Values that do not show." },
  { "token", "token", "sluice.token", "Credentials that refresh themselves." },
  { "process", "process", "sluice.process", "Other programs." },
  { "process", "Result", "result", "What `sluice.process.run` returns." },
  { "process", "Child", "child", "What `sluice.process.stream` returns." },
  { "server", "server", "sluice.server", "An HTTP server." },
  { "chat", "Chat", "chat", "What `sluice.chat { … }` and `sluice.chat.load` return." },
  { "chat", "chat", "sluice.chat", "Conversations." },
  { "template", "Template", "template", "What `sluice.template \"…\"` and `sluice.template.file` return." },
  { "template", "template", "sluice.template", "Prompts with places in them." },
  { "tool", "tool", "sluice.tool", "Lua functions that a model may call, and the loop that calls them." },
  { "schema", "schema", "sluice.schema", "What an answer, or the arguments of a tool, must look like." },
  { "tokens", "tokens", "sluice.tokens", "Estimates, and sums of what was used." },
  { "json", "json", "sluice.json", "JSON as APIs mean it." },
  { "errors", "errors", "sluice.errors", "The one kind of error." },
  { "log", "log", "sluice.log", "Lines on stderr." },
  { "metrics", "metrics", "sluice.metrics", "Counters, gauges and histograms, beside sluice's own ([which](metrics.md))." },
  { "metrics", "Metric", "metric", "What `sluice.metrics.counter`, `gauge` and `histogram` return." },
  { "test", "Context", "t", "What a test of `sluice test` is given." },
}

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

--- A docstring as Markdown: prose, then parameters and results.
local function entry(out, signature, lines)
  local prose, params, returns = {}, {}, {}
  for _, line in ipairs(lines) do
    local tag, rest = line:match "^@(%a+)%s*(.*)$"
    if tag == "param" then
      local name, kind, about = rest:match "^(%S+)%s+(%S.-)%s%s+(.*)$"
      if not name then name, kind = rest:match "^(%S+)%s+(.*)$" end
      params[#params + 1] = ("- `%s`: `%s`%s"):format(name or rest, kind or "", about and ", " .. about or "")
    elseif tag == "return" then
      returns[#returns + 1] = ("- returns `%s`"):format(rest)
    elseif not tag then
      prose[#prose + 1] = line
    end
  end
  out[#out + 1] = ("### `%s`\n"):format(signature)
  out[#out + 1] = table.concat(prose, "\n") .. "\n"
  for _, line in ipairs(returns) do params[#params + 1] = line end
  if #params > 0 then out[#out + 1] = table.concat(params, "\n") .. "\n" end
end

local function page(out, module, own, shown, about, heading)
  local text = read("lualib/sluice/" .. module .. ".lua")
  if not text then return end
  out[#out + 1] = ("## %s\n\n%s\n"):format(heading or shown, about)
  local block
  for line in text:gmatch "([^\n]*)\n" do
    local doc = line:match "^%-%-%-%s?(.*)$"
    if doc then
      block = block or {}
      block[#block + 1] = doc
    else
      local sep, name, args = line:match("^function " .. own .. "([.:])([%a][%w_]*)(%b())")
      if not name then
        name = line:match("^" .. own .. "%.([%a][%w_]*) = ")
        sep, args = ".", "(…)"
      end
      if block and name and name ~= "__index" and not (name == "new" and own ~= "errors") then
        entry(out, shown .. sep .. name .. args, block)
      elseif block and name == "new" then
        entry(out, "sluice." .. shown:gsub("^sluice%.", "") .. args, block)
      end
      block = nil
    end
  end
end

local out = { "# sluice: the functions\n\n*Made by `make docs` from the annotations in `lualib/`. What the pieces are "
  .. "for: [README](../README.md).*\n" }
for _, p in ipairs(PAGES) do page(out, table.unpack(p)) end
local text = table.concat(out, "\n")

if ... == "--check" then
  if read(OUT) == text then return 0 end
  io.stderr:write(OUT, " is not up to date: run `make docs`\n")
  return 1
end
local file = assert(io.open(OUT, "wb"))
file:write(text)
file:close()
print(("%s: %d lines"):format(OUT, select(2, text:gsub("\n", "\n"))))
