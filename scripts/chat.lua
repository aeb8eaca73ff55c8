-- A chat in the terminal that streams, remembers, and survives a failed turn.
--
--   sluice run scripts/chat.lua                    Ctrl-D leaves
--   sluice run scripts/chat.lua "You are terse."   with a system prompt
--   MODEL=anthropic/claude-sonnet-4-5 sluice run scripts/chat.lua

local sluice = require "sluice"

local model = sluice.model(os.getenv "MODEL" or "siliconflow/Qwen/Qwen3-8B")
local system = ...
local messages = {}

local function turn()
  local stream <close> = model:stream { system = system, messages = messages }
  for event in stream:events() do
    if event.type == "text" then
      io.write(event.text)
      io.flush()
    end
  end
  print()
  return stream:reply()
end

while true do
  io.stderr:write "> "
  local line = io.read "l"
  if not line then break end
  if line:find "%S" then
    messages[#messages + 1] = { role = "user", content = line }
    local reply, err = sluice.try(turn)
    if reply then
      messages[#messages + 1] = reply:message()
    else
      messages[#messages] = nil -- the question was not answered: it is not part of the conversation
      io.stderr:write("\n", tostring(err), "\n")
    end
  end
end
