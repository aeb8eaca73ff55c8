-- The man page, from the option tables of the commands: used by docs/generate.lua.

local arguments = require "sluice.command.arguments"
local help = require "sluice.command.help"
local sys = require "sluice.core.sys"

--- Text for roff: backslashes, dashes, and lines that would be requests.
local function roff(text)
  text = text:gsub("\\", "\\e"):gsub("%-", "\\-")
  return (text:gsub("\n([.'])", "\n\\&%1"):gsub("^([.'])", "\\&%1"))
end

local function paragraphs(out, text)
  local first = true
  for paragraph in (text .. "\n\n"):gmatch "(.-)\n\n+" do
    if not first then out[#out + 1] = ".PP" end
    first = false
    if paragraph:find "\n +" or paragraph:find "^ " then
      out[#out + 1] = ".nf\n" .. roff(paragraph) .. "\n.fi"
    else
      out[#out + 1] = roff(paragraph)
    end
  end
end

local function option(out, entry)
  local names = {}
  for i, name in ipairs(entry) do names[i] = "\\fB" .. roff(name) .. "\\fR" end
  local text = table.concat(names, ", ")
  if entry.type == "optional" then text = ("%s[=\\fI%s\\fR]"):format(text, roff(entry.arg))
  elseif entry.type ~= "flag" then text = ("%s \\fI%s\\fR"):format(text, roff(entry.arg)) end
  out[#out + 1] = ".TP"
  out[#out + 1] = text
  local default = entry.default ~= nil and (" (default %s)"):format(tostring(entry.default)) or ""
  local values = entry.enum and (" One of %s."):format(table.concat(entry.enum, ", ")) or ""
  out[#out + 1] = roff(entry.help .. default .. "." .. values)
end

local function command_section(out, command, shared)
  out[#out + 1] = ".SS " .. roff("sluice " .. command.name)
  out[#out + 1] = roff(command.summary:sub(1, 1):upper() .. command.summary:sub(2)) .. "."
  for _, line in ipairs(type(command.usage) == "table" and command.usage or { command.usage }) do
    out[#out + 1] = ".PP\n.B " .. roff(line)
  end
  if command.description then
    out[#out + 1] = ".PP"
    paragraphs(out, command.description)
  end
  local left_out = 0
  for _, entry in ipairs(command.options or {}) do
    if shared[entry] and command.name ~= "run" then left_out = left_out + 1
    elseif not entry.tests then option(out, entry) end
  end
  if left_out > 0 then
    out[#out + 1] = ".PP\nIt also takes the options of \\fBsluice run\\fR that concern the script."
  end
  if command.examples and #command.examples > 0 then
    out[#out + 1] = ".PP\nExamples:"
    for _, example in ipairs(command.examples) do
      if type(example) == "string" then example = { example } end
      out[#out + 1] = ".TP\n.B " .. roff(example[1])
      out[#out + 1] = roff(example[2] or "")
    end
  end
end

local ENVIRONMENT = {
  { "OPENAI_API_KEY, ANTHROPIC_API_KEY, SILICONFLOW_API_KEY, DEEPSEEK_API_KEY, OPENROUTER_API_KEY",
    "the key of a provider whose model names no auth of its own" },
  { "OPENAI_BASE_URL, ANTHROPIC_BASE_URL", "another address for that provider" },
  { "https_proxy, http_proxy, all_proxy, no_proxy",
    "proxies, as curl reads them (all but http_proxy in capitals, too); localhost is never asked through one" },
  { "SSL_CERT_FILE, CURL_CA_BUNDLE, REQUESTS_CA_BUNDLE", "certificate authorities in place of the system's" },
  { "NO_COLOR", "no colours, whatever its value" },
}

--- The page.
---@param commands table[]  sluice.command.all()
---@return string
return function(commands)
  local out = {
    '.\\" Made by `make docs` from the option tables.',
    (".TH SLUICE 1 \"\" \"sluice %s\" \"User Commands\""):format(sys.version),
    ".ad l", ".SH NAME", "sluice \\- prompt workflows in Lua over LLM APIs",
    ".SH SYNOPSIS", ".B sluice", "\\fICOMMAND\\fR [\\fIoptions\\fR] ...", ".br", ".B sluice",
    "[\\fIoptions\\fR] \\fISCRIPT\\fR [\\fIARG\\fR ...]",
    ".SH DESCRIPTION",
    roff "sluice runs prompt workflows: Lua scripts that call LLM APIs, with your own rules for what happens when "
      .. roff "a model is slow, limited, broken or expensive.",
    ".SH COMMANDS",
  }
  local shared = {}
  for _, entry in ipairs(require "sluice.command.script".options) do shared[entry] = true end
  for _, command in ipairs(commands) do command_section(out, command, shared) end
  out[#out + 1] = ".SS Every command"
  for _, entry in ipairs(arguments.common) do option(out, entry) end
  out[#out + 1] = ".SH EXIT STATUS"
  for _, row in ipairs(help.exit_codes) do
    out[#out + 1] = (".TP\n.B %s\n%s"):format(row[1], roff(row[2]))
  end
  out[#out + 1] = ".SH ENVIRONMENT"
  for _, row in ipairs(ENVIRONMENT) do out[#out + 1] = (".TP\n.B %s\n%s"):format(roff(row[1]), roff(row[2])) end
  out[#out + 1] = ".SH SEE ALSO\n.BR lua (1),\n.BR curl (1)"
  return table.concat(out, "\n") .. "\n"
end
