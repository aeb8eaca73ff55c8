-- A chat in the terminal that streams, remembers, and survives a failed turn.
--
--   sluice run scripts/chat.lua                    Ctrl-D leaves
--   sluice run scripts/chat.lua "You are terse."   with a system prompt
--   MODEL=anthropic/claude-sonnet-4-5 CHAT=talk.json sluice run scripts/chat.lua     goes on where it was left
--
-- "/undo" takes the last turn back.

local sluice = require "sluice"

local file, system = os.getenv "CHAT", ...
local options = { model = os.getenv "MODEL" or "siliconflow/Qwen/Qwen3-8B", system = system, history_tokens = 24000 }

local saved = file and io.open(file)
if saved then saved:close() end
local chat = saved and sluice.chat.load(file, options) or sluice.chat(options)
if saved then io.stderr:write(("%d turns so far\n"):format(chat:turns())) end

local function save()
  if file then chat:save(file) end
end

--- One turn; what went wrong leaves no trace in the conversation.
local function turn(line)
  for text in chat:stream(line):text() do
    io.write(text)
    io.flush()
  end
  print()
  save()
end

while true do
  io.stderr:write "> "
  local line = io.read "l"
  if not line then break end
  if line == "/undo" then
    io.stderr:write(chat:undo() and "taken back\n" or "there is nothing to take back\n")
    save()
  elseif line:find "%S" then
    local ok, err = pcall(turn, line)
    if not ok then io.stderr:write("\n", tostring(err), "\n") end
  end
end
