-- docs/workflows.md, of streams, files and pipelines: every block of Lua runs, and prints what it says
-- behind "-->".
local T, C = require "harness", require "command"

-- What the model answers in a block, by a word in it. A block is run when its answer is here, or it asks none.
local ANSWERS = {
  { "sentences%(%)", "A lock is a gate, 3.5 m wide. 它很重。" },
  { "json_lines", '{"name":"Teddington","width":7}\nnot json\n{"name":"船闸","width":34}\n{"name":"small","width":2}\n' },
  { "until_match", "Let me see. ANSWER: gate" },
  { "code_blocks", 'Lua:\n```lua\nprint "hello"\n```\nC:\n```c\nint main(void) { return 0; }\n```\n' },
  { "print_stream", "# Locks" },
  { "files%.image", "A lock." },
  { "", "short" },
}

local function blocks_of(text)
  local blocks = {}
  for block in text:gmatch "```lua\n(.-)```" do blocks[#blocks + 1] = block end
  return blocks
end

--- What stands behind "-->", line by line.
local function promised(block)
  local lines = {}
  for line in block:gmatch "%-%->([^\n]*)" do lines[#lines + 1] = line:gsub("^ ", "") .. "\n" end
  return table.concat(lines)
end

local SECTIONS = { "What a stream becomes", "Markdown on a terminal", "Files", "JSONL", "Pipelines" }

local guide = T.read "docs/workflows.md"
local blocks = { blocks_of(guide)[1] } -- the first makes the model of all
for _, section in ipairs(SECTIONS) do
  local text = guide:match("\n## " .. section .. "\n(.-)\n## ") or guide:match("\n## " .. section .. "\n(.*)$")
  for _, block in ipairs(blocks_of(assert(text, section))) do blocks[#blocks + 1] = block end
end

for i = 2, #blocks do
  local block = blocks[i]
  if block:find "%-%->" then
    T.test(("block %d: %s"):format(i, block:match "[^\n]*"), function(t)
      local folder, answer = T.tmpdir(), nil
      for _, case in ipairs(ANSWERS) do
        answer = answer or block:find(case[1]) and case[2]
      end
      T.write(folder .. "/scenario.lua", ("return { { text = %q } }"):format(answer))
      T.write(folder .. "/block.lua", blocks[1] .. block)
      local sluice = C.sluice:find "^/" and C.sluice or os.getenv "PWD" .. "/" .. C.sluice
      local r = C.run({ sluice, "run", "--quiet", "--mock=scenario.lua", "block.lua" }, { cwd = folder })
      t.eq({ r.code, r.stderr }, { 0, "" })
      t.eq(r.stdout, promised(block))
    end)
  end
end

T.test("every block promises something", function(t)
  local without = 0
  for i = 2, #blocks do
    if not blocks[i]:find "%-%->" then without = without + 1 end
  end
  t.ok(#blocks >= 8)
  t.eq(without, 0)
end)

T.done()
