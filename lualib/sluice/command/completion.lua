--- sluice completion: the words a shell may propose.

local completion = require "sluice.completion"

local command = {
  name = "completion",
  summary = "print the completion script of a shell",
  usage = "sluice completion bash|fish|zsh",
  words = completion.shells,
  description = "Prints a script that makes the shell complete commands, options, their values and files. "
    .. "`make install` puts it where each shell looks.",
  options = {},
  examples = {
    { "source <(sluice completion bash)", "in ~/.bashrc" },
    { "source <(sluice completion zsh)", "in ~/.zshrc, behind compinit" },
    { "sluice completion fish > ~/.config/fish/completions/sluice.fish", "once" },
  },
}

---@param words string[]
---@return integer? code
---@return string? fault
function command.run(_, words)
  local shell = words[1]
  if not shell then return nil, "which shell? bash, fish or zsh" end
  if words[2] then return nil, "takes one shell at a time" end
  for _, known in ipairs(completion.shells) do
    if known == shell then
      io.stdout:write(completion.script(shell, require "sluice.command".all()))
      return 0
    end
  end
  local near = require "sluice.nearest"(shell, completion.shells)
  return nil, ("no script for '%s'%s; there is one for bash, fish and zsh"):format(shell,
    near and (" (did you mean '%s'?)"):format(near) or "")
end

return command
