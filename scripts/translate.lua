-- Translates a Markdown document and keeps its Markdown: code, links and HTML are put aside before the model sees
-- a paragraph, and put back; paragraphs go in parallel and come out in order.
--
--   sluice run scripts/translate.lua Chinese README.md > README.zh.md
--   CONCURRENCY=16 MODEL=deepseek/deepseek-chat sluice run scripts/translate.lua English 说明.md
--
-- A paragraph that comes back with something missing is asked for once more, then left as it was: exit code 3.

local sluice = require "sluice"

local language, path = ...
if not path then return io.stderr:write "usage: sluice run translate.lua LANGUAGE FILE\n" and 2 end
local at_once = math.tointeger(tonumber(os.getenv "CONCURRENCY")) or 8
local system = "Translate the user's Markdown into " .. language .. ". Keep line breaks, headings, lists, tables and "
  .. "emphasis as they are. Marks like ⟦3⟧ stand for code and links: keep each, once, where it belongs. Answer with "
  .. "the translation alone."
local model = sluice.model(os.getenv "MODEL" or "siliconflow/Qwen/Qwen3-8B"):with {
  limit = { concurrency = at_once }, defaults = { temperature = 0, system = system },
}

local blocks, paragraph, fence, code = {}, nil, nil, false -- fence: what closes the code (or front matter) we are in
for line in io.lines(path, "L") do
  local mark = line:match "^ ? ? ?(```+)[^`]*$" or line:match "^ ? ? ?(~~~+)" or #blocks == 0 and line:match "^%-%-%-"
  code = not paragraph and line:find "^    " and (code or not line:find "^%s+[*+%d-]") -- an indented one
  if fence or mark or code or not line:find "%S" then
    blocks[#blocks + 1], paragraph = { text = line, keep = true }, nil
    if not fence then fence = mark
    elseif line:match "^%s*(%S+)%s*$" and line:find(fence, 1, true) then fence = nil end
  else
    if not paragraph then blocks[#blocks + 1] = { text = "" } end
    paragraph = blocks[#blocks]
    paragraph.text = paragraph.text .. line
  end
end

local function translate(block)
  local aside = {}
  local function put(text) aside[#aside + 1] = text return ("⟦%d⟧"):format(#aside) end
  local text = block.text:gsub("⟦%d+⟧", put):gsub("`+[^`\n]+`+", put):gsub("<[%a/!][^>\n]*>", put)
    :gsub("%](%b())", function(to) return "]" .. put(to) end):gsub("https?://[%w._~:/?#@!$&*+,;=%%-]+", put)
  if block.keep or not text:gsub("⟦%d+⟧", ""):find "[%a\x80-\xFF]" then return block.text end
  for _ = 1, 2 do
    local reply = model:ask(text)
    local answer, whole, n = reply.text:match "^%s*(.-)%s*$", reply.finish_reason ~= "length"
    for i = #aside, 1, -1 do -- backwards: a link's target may hold a mark
      answer, n = answer:gsub(("⟦%d⟧"):format(i), function() return aside[i] end)
      whole = whole and n == 1
    end
    if whole then return text:match "^%s*" .. answer .. text:match "%s*$" end
  end
  error("what came back has lost code or links", 0)
end

local left = 0
for i, result in ipairs(sluice.task.map(blocks, translate, { concurrency = at_once, settle = true })) do
  io.write(result.ok and result.value or blocks[i].text)
  left = left + (result.ok and 0 or 1)
  if not result.ok then io.stderr:write("left as it was: ", blocks[i].text, "  ", tostring(result.err), "\n") end
end
return left > 0 and 3 or 0
