--- Reads a page of metrics strictly, as its specifications have it, and says what is wrong with it.
-- Both forms: Prometheus text 0.0.4 and OpenMetrics 1.0 (told apart by `# EOF`). Written from the
-- specifications, not from the code that writes pages.

local NUMBER = { ["+Inf"] = math.huge, ["-Inf"] = -math.huge, NaN = 0 / 0 }

local function labels_of(text)
  local labels, rest = {}, text
  while rest ~= "" do
    local name, after = rest:match '^([%a_][%w_]*)="(.*)$'
    if not name then return nil end
    local value, i = {}, 1
    while true do
      local c = after:sub(i, i)
      if c == "" or c == "\n" then return nil end
      if c == '"' then break end
      if c == "\\" then
        if not after:sub(i + 1, i + 1):find '[\\n"]' then return nil end
        value[#value + 1] = after:sub(i, i + 1)
        i = i + 2
      else
        value[#value + 1] = c
        i = i + 1
      end
    end
    if labels[name] then return nil end
    labels[name] = table.concat(value)
    rest = after:sub(i + 1)
    if rest ~= "" then
      if rest:sub(1, 1) ~= "," then return nil end
      rest = rest:sub(2)
    end
  end
  return labels
end

local function key_of(labels, without)
  local parts = {}
  for name, value in pairs(labels) do
    if name ~= without then parts[#parts + 1] = ('%s="%s"'):format(name, value) end
  end
  table.sort(parts)
  return table.concat(parts, ",")
end

local SUFFIXES = {
  counter = { text = { "" }, open = { "_total" } },
  gauge = { text = { "" }, open = { "" } },
  histogram = { text = { "_bucket", "_sum", "_count" }, open = { "_bucket", "_sum", "_count" } },
}

-- Buckets ascend, their counts do not fall, the last is +Inf and is the count.
local function check_histogram(problem, page, name)
  local last = {}
  for _, bucket in ipairs(page.order[name .. "_bucket"] or {}) do
    local key, le = key_of(bucket.labels, "le"), bucket.labels.le
    local bound = NUMBER[le] or tonumber(le)
    local before = last[key]
    if before and (bound <= before.bound or bucket.value < before.value) then problem(name .. ": buckets of " .. key) end
    last[key] = { bound = bound, value = bucket.value }
  end
  for key, bucket in pairs(last) do
    if bucket.bound ~= math.huge then problem(name .. ": no +Inf for " .. key) end
    if (page[name .. "_count"] or {})[key] ~= bucket.value then problem(name .. ": count of " .. key) end
    if not (page[name .. "_sum"] or {})[key] then problem(name .. ": no sum for " .. key) end
  end
end

--- name -> { labels, sorted, as text -> value }; beside that `problems`, `samples`, `types`, `help`.
---@param text string
---@return table
return function(text)
  local page = { problems = {}, samples = 0, types = {}, help = {}, order = {} }
  local function problem(words) page.problems[#page.problems + 1] = words end
  local open = text:find "# EOF\n$" ~= nil
  local form = open and "open" or "text"
  if text ~= "" and text:sub(-1) ~= "\n" then problem "the last line does not end" end
  local family, seen = nil, {}
  for line in text:gmatch "([^\n]*)\n" do
    local what, name, rest = line:match "^# (%u+) (%S+) ?(.*)$"
    if line == "" then problem "an empty line"
    elseif line == "# EOF" then family = nil
    elseif what then
      if name ~= family then
        if seen[name] then problem(name .. ": in two places") end
        seen[name], family = true, name
      end
      if what == "TYPE" then
        if page.types[name] then problem(name .. ": two types") end
        if not SUFFIXES[rest] then problem(name .. ": type " .. rest) end
        page.types[name] = rest
        if rest == "counter" and (name:sub(-6) == "_total") == open then problem(name .. ": name of a counter") end
      elseif what == "HELP" then page.help[name] = rest
      elseif what == "UNIT" then
        if not open or name:sub(-#rest - 1) ~= "_" .. rest then problem(line) end
      else problem(line) end
    else
      local sample, labels, number = line:match "^([%a_:][%w_:]*){(.*)} (%S+)$"
      if not sample then
        sample, number = line:match "^([%a_:][%w_:]*) (%S+)$"
        labels = ""
      end
      local value = number and (NUMBER[number] or number:find "^[-+]?%d[%d.e+-]*$" and tonumber(number))
      local parsed = sample and labels_of(labels)
      if not value or not parsed then problem("no sample: " .. line)
      else
        local known = false
        for _, suffix in ipairs(SUFFIXES[page.types[family]] and SUFFIXES[page.types[family]][form] or {}) do
          known = known or sample == family .. suffix
        end
        if not known then problem(("%s does not belong to %s"):format(sample, tostring(family))) end
        local key = key_of(parsed)
        page[sample] = page[sample] or {}
        if page[sample][key] then problem(("%s{%s} is there twice"):format(sample, key)) end
        page[sample][key] = value
        page.order[sample] = page.order[sample] or {}
        table.insert(page.order[sample], { labels = parsed, value = value })
        page.samples = page.samples + 1
      end
    end
  end
  for name, kind in pairs(page.types) do
    if not page.help[name] then problem(name .. ": no help") end
    if kind == "histogram" then check_histogram(problem, page, name) end
  end
  return page
end
