-- Answers a question about a document that is too long for one request: every part is read for what
-- bears on the question (map), then the notes are put together (reduce).
--
--   sluice run scripts/map-reduce.lua report.txt "What are the risks?"
--
-- Parts end between paragraphs where they can, and never inside a character. WRITER names another model of the
-- same provider for the end.

local sluice = require "sluice"

local name, question = ...
if not question then
  io.stderr:write "usage: sluice run map-reduce.lua FILE QUESTION\n"
  return 2
end

local PART = 12000 -- bytes: about 3,000 tokens of English, 4,000 of Chinese

local function parts_of(text)
  local parts, from = {}, 1
  while from <= #text do
    local last = math.min(from + PART - 1, #text)
    if last < #text then
      local paragraph = text:sub(from, last):match ".*()\n%s*\n"
      if paragraph and paragraph > PART // 2 then last = from + paragraph - 1 end
      while last < #text and (text:byte(last + 1) & 0xC0) == 0x80 do last = last - 1 end
    end
    parts[#parts + 1] = text:sub(from, last)
    from = last + 1
  end
  return parts
end

local parts = parts_of(sluice.files.text(name, { max = 64 << 20 }))

local reader = sluice.model(os.getenv "MODEL" or "siliconflow/Qwen/Qwen3-8B")
local writer = reader:with { model = os.getenv "WRITER" }

local notes = sluice.task.map(parts, function(part, i)
  io.stderr:write(("reading part %d of %d\n"):format(i, #parts))
  return reader:ask(("Question: %s\n\nNote what this part of a document says about it, or say nothing:\n\n%s")
    :format(question, part)).text
end, { concurrency = 4 })

for text in writer:stream(("Answer the question from these notes.\n\nQuestion: %s\n\nNotes:\n%s")
  :format(question, table.concat(notes, "\n---\n"))):text() do
  io.write(text)
  io.flush()
end
print()
