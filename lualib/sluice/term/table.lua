--- A Markdown table in columns.
-- Owns: what a cell is and how wide a column. Never: wraps; a table that does not fit stays as it was written.

local term = require "sluice.term"

--- The cells of a row: what stands between bars, but for escaped ones and those in code.
local function cells_of(line)
  local cells, cell, code, i = {}, {}, false, 1
  line = line:match "^%s*|?(.-)%s*$"
  while i <= #line do
    local c = line:sub(i, i)
    if c == "\\" and line:sub(i + 1, i + 1) == "|" then
      cell[#cell + 1] = "|"
      i = i + 1
    elseif c == "|" and not code then
      cells[#cells + 1], cell = table.concat(cell), {}
    else
      if c == "`" then code = not code end
      cell[#cell + 1] = c
    end
    i = i + 1
  end
  if #cell > 0 then cells[#cells + 1] = table.concat(cell) end
  for at, text in ipairs(cells) do
    cells[at] = text:gsub("%*%*(.-)%*%*", "%1"):gsub("`([^`]*)`", "%1"):match "^%s*(.-)%s*$"
  end
  return cells
end

local function is_rule(line) return line:find "%-" and line:find "^[%s|:%-]+$" ~= nil end

local function alignments(line)
  local list = {}
  for i, cell in ipairs(cells_of(line)) do
    list[i] = cell:find "^:.*:$" and "centre" or cell:find ":$" and "right" or "left"
  end
  return list
end

local function pad(text, width, how)
  local room = width - term.width(text)
  if how == "right" then return (" "):rep(room) .. text end
  if how == "centre" then return (" "):rep(room // 2) .. text .. (" "):rep(room - room // 2) end
  return text .. (" "):rep(room)
end

--- The lines of a table, each with its line end, in columns; as they were when they are no table or too wide.
---@param lines string[]
---@param columns integer  of the terminal
---@return string
return function(lines, columns)
  local as_they_are = table.concat(lines, "\n") .. "\n"
  if not lines[2] or not is_rule(lines[2]) then return as_they_are end
  local align, rows, widths = alignments(lines[2]), {}, {}
  for i, line in ipairs(lines) do
    if i ~= 2 then
      local cells = cells_of(line)
      rows[#rows + 1] = cells
      for at, text in ipairs(cells) do widths[at] = math.max(widths[at] or 1, term.width(text)) end
    end
  end
  local total = 3 * (#widths - 1)
  for _, width in ipairs(widths) do total = total + width end
  if total > columns then return as_they_are end
  local out = {}
  for i, cells in ipairs(rows) do
    local parts = {}
    for at, width in ipairs(widths) do parts[at] = pad(cells[at] or "", width, align[at]) end
    local line = table.concat(parts, " │ "):gsub(" +$", "")
    out[#out + 1] = i == 1 and "\27[1m" .. line .. "\27[0m" or line
    if i == 1 then
      for at, width in ipairs(widths) do parts[at] = ("─"):rep(width) end
      out[#out + 1] = table.concat(parts, "─┼─")
    end
  end
  return table.concat(out, "\n") .. "\n"
end
