-- Summarises many files, a few at a time; one that fails does not stop the others.
--
--   sluice run scripts/summarise-files.lua docs/*.md > summaries.md
--   CONCURRENCY=8 sluice run scripts/summarise-files.lua *.txt
--
-- Exit code 3 when some files failed; their names and reasons are on stderr.

local sluice = require "sluice"

local files = { ... }
if #files == 0 then
  io.stderr:write "usage: sluice run summarise-files.lua FILE…\n"
  return 2
end

local at_once = tonumber(os.getenv "CONCURRENCY") or 4
local model = sluice.model(os.getenv "MODEL" or "siliconflow/Qwen/Qwen3-8B"):with {
  limit = { concurrency = at_once },
  defaults = { max_tokens = 300, system = "Summarise the document in three sentences." },
}

local function summarise(name)
  return model:ask(sluice.files.text(name)).text
end

local results = sluice.task.map(files, summarise, { concurrency = at_once, settle = true, progress = "files" })

local failed = 0
for i, result in ipairs(results) do
  if result.ok then
    print(("## %s\n\n%s\n"):format(files[i], result.value))
  else
    failed = failed + 1
    io.stderr:write(("%s: %s\n"):format(files[i], tostring(result.err)))
  end
end
return failed > 0 and 3 or 0
