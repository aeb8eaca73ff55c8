-- Writes a commit message for what is staged, in the manner of the last commits.
--
--   git commit -e -m "$(sluice run scripts/commit-message.lua)"
--   MODEL=anthropic/claude-haiku-4-5 sluice run scripts/commit-message.lua
--
-- Only the message goes to stdout. Of a diff that is too large the model sees the beginning of every file.

local sluice = require "sluice"

local DIFF_MAX = 48000 -- bytes, about 12,000 tokens

local function git(...)
  return sluice.process.run { "git", ... }.stdout
end

git("rev-parse", "--git-dir") -- outside of a repository this says so, where git diff would say how it is used
local stat, diff = git("diff", "--staged", "--stat"), git("diff", "--staged", "--no-color", "--no-ext-diff")
if stat == "" then
  io.stderr:write "nothing is staged: git add what the commit is to hold\n"
  return 2
end

if #diff > DIFF_MAX then
  local files = {}
  for file in ("\n" .. diff):gsub("\ndiff %-%-git ", "\0%0"):gmatch "\0\n([^\0]+)" do files[#files + 1] = file end
  for i, file in ipairs(files) do
    local whole_lines = file:sub(1, DIFF_MAX // #files):match "^.*\n" or ""
    files[i] = #file > DIFF_MAX // #files and whole_lines .. "[… the rest of this file is left out]" or file
  end
  diff = table.concat(files, "\n")
end

-- before the first commit there is no log, which is no failure here
local log = sluice.process.run { "git", "log", "-10", "--format=%s", check = false }.stdout

local model = sluice.model(os.getenv "MODEL" or "siliconflow/Qwen/Qwen3-8B")
local message = model:ask {
  max_tokens = 400, temperature = 0.2,
  system = "You write commit messages: one line of at most 72 characters that says what changes and why it matters, "
    .. "in the manner of the subjects shown; then, only if needed, an empty line and a short body wrapped at 72. "
    .. "Answer with the message alone, without quotes or fences.",
  prompt = ("Subjects of the last commits:\n%s\nStaged:\n%s\n%s"):format(log, stat, diff),
}.text

message = message:gsub("^%s*```%a*\n", ""):gsub("\n```%s*$", ""):match "^%s*(.-)%s*$"
print(message)
local length = utf8.len((message:match "^[^\n]*"))
if length and length > 72 then
  io.stderr:write(("(the first line has %d characters; readers of git expect at most 72)\n"):format(length))
end
