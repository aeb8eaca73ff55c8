-- Runs Claude Code without its screen and shows what it does as it does it: its text on stdout, tools and
-- the bill on stderr.
--
--   sluice run scripts/claude-code.lua "Which tests cover the parser?"
--   git diff | sluice run scripts/claude-code.lua "Review this." --model haiku --allowedTools Read,Grep
--
-- Words after the prompt are options of claude; CLAUDE names the program where it is not in PATH.
-- Exit code 1 when it reports an error, or ends without a result.

local sluice = require "sluice"

local prompt = ...
if not prompt then return io.stderr:write "usage: sluice run claude-code.lua PROMPT [OPTION OF CLAUDE…]\n" and 2 end

local function say(...) io.stderr:write(string.format(...), "\n") end

local show = {} -- by the type of a line, see `claude --help` at --output-format

function show.system(event)
  if event.subtype == "init" then say("[%s, session %s]", event.model, event.session_id)
  elseif event.subtype == "api_retry" then say "[the API is tried again]" end
end

function show.assistant(event)
  for _, block in ipairs(event.message.content) do
    if block.type == "text" then print(block.text)
    elseif block.type == "tool_use" then
      local input = sluice.json.encode(block.input)
      say("→ %s %s", block.name, #input <= 200 and input or input:sub(1, 197):gsub("[\x80-\xFF]+$", "") .. "…")
    end
  end
end

function show.user(event) -- what tools gave back
  local content = event.message.content
  for _, block in ipairs(type(content) == "table" and content or {}) do
    if block.is_error then say("✗ %s", type(block.content) == "string" and block.content or "the tool failed") end
  end
end

local command = { os.getenv "CLAUDE" or "claude", "-p", prompt, "--output-format", "stream-json", "--verbose",
  stderr = "inherit", check = false, input = not sluice.isatty(0) and io.read "a" or nil }
table.move({ ... }, 2, select("#", ...), #command + 1, command)

local claude <close> = sluice.process.stream(command)
local result
for line in claude:lines() do
  local ok, event = pcall(sluice.json.decode, line)
  if not ok then say("(not JSON: %s)", line)
  elseif event.type == "result" then result = event
  elseif show[event.type] then show[event.type](event) end
end

local code = claude:wait().code
if not result then error(("claude ended with exit code %s and no result"):format(code or "none")) end
if result.is_error then say("claude: %s: %s", result.subtype, result.result or "no words") end
local usage = result.usage or {}
say("[%d turns, %.1f s, %d tokens in, %d out, $%.4f]", result.num_turns or 0, (result.duration_ms or 0) / 1000,
  usage.input_tokens or 0, usage.output_tokens or 0, result.total_cost_usd or 0)
return (result.is_error or code ~= 0) and 1 or 0
