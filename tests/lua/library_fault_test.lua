-- Shortage of memory under templates, schemas, tools and conversations: the first, second, third … allocation
-- fails. It is never taken for something else, the history stays sound, and the next time all is well.
-- JSON stays out of it: lua-cjson 2.1.0 loses its buffer when an allocation fails.
-- timeout: 180
-- modes: asan
local T = require "harness"
local sluice = require "sluice"
local sweep = require "fault_sweep"
local Reply = require "sluice.reply"

local text = sluice.template '{{for x in list}}{{x.name | upper}}{{if not loop.last}}, {{end}}{{end}} {{note or "none"}}'
sweep("a template", function()
  assert(text { list = { { name = "a" }, { name = "b" } } } == "A, B none")
  assert(not pcall(sluice.template, "{{if x}}"))
end)

local order = sluice.schema { items = { { name = "string(1..20)", count = "integer(1..)? = 1" } }, kind = { "a", "b" },
  code = { type = "string", pattern = "^[A-Z]+-\\d+$" } }
sweep("a schema", function()
  local value = { items = { { name = "mug" }, { name = "cup", count = 2 } }, kind = "a", code = "AB-12" }
  sluice.schema.tidy(order, value)
  assert(value.items[1].count == 1)
  assert(sluice.schema.check(order, value))
  assert(not sluice.schema.check(order, { items = { {} }, kind = "c", code = "x" }))
end)

--- Two rounds: a call, then an answer.
local function model()
  local n = 0
  local m = {}
  function m.ask()
    n = n + 1
    local calls = n == 1 and { { id = "c", name = "echo", arguments = { text = "a" }, arguments_json = '{"text":"a"}' } } or {}
    return Reply.new { text = n == 1 and "" or "done", tool_calls = calls, finish_reason = n == 1 and "tool_calls" or "stop",
      usage = { total_tokens = 1 }, attempts = {} }
  end
  m.stream = m.ask
  return m
end

local echo = sluice.tool { name = "echo", params = { text = "string", n = "integer? = 2" }, timeout = 5,
  run = function(args) return ("x"):rep(args.n) .. args.text end }
local chat
sweep("a turn of a conversation with a tool", function()
  chat = nil
  local c = sluice.chat { model = model(), tools = { echo }, history_tokens = 1000 }
  chat = c
  assert(c:say("go").text == "done")
end, function(t, n, ok)
  if ok then t.eq({ chat:turns(), #chat.messages, chat.messages[3].content }, { 1, 4, "xxa" }, n)
  elseif chat then t.ok(#chat.messages == 0 or #chat.messages == 4, ("allocation %d: %d messages"):format(n, #chat.messages)) end
end)

T.done()
