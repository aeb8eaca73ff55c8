--- What the mock says: pleasant, short, about the prompt, and the same for the same prompt and seed.
-- Owns: sentences, the division of text into tokens, the generator of repeatable numbers. Pure.

local text = {}

-- Chance ------------------------------------------------------------------------------------------

--- FNV-1a, folded into what fits a Lua integer.
---@param s string
---@return integer
local function hash(s)
  local h = 0xcbf29ce484222325
  for i = 1, #s do h = (h ~ s:byte(i)) * 0x100000001b3 end
  return h
end
text.hash = hash

--- A generator of repeatable numbers (splitmix64): next() is in [0, 1), next(n) in 1..n.
---@param seed integer
---@return fun(n?: integer): number
function text.random(seed)
  local state = seed
  return function(n)
    state = state + 0x9e3779b97f4a7c15
    local z = state
    z = (z ~ (z >> 30)) * 0xbf58476d1ce4e5b9
    z = (z ~ (z >> 27)) * 0x94d049bb133111eb
    z = z ~ (z >> 31)
    if n then return (z >> 11) % n + 1 end
    return (z >> 11) * 0x1.0p-53
  end
end

-- Tokens ------------------------------------------------------------------------------------------

--- Text as tokens: words with the blank before them, single wide characters, single marks. Joined,
--- they are the text again, byte for byte.
---@param s string
---@return string[]
function text.tokens(s)
  local list, at, n = {}, 1, #s
  while at <= n do
    local _, to = s:find("^ ?[%w']+", at)
    if not to then _, to = s:find("^%s*[\0-\x7F\xC2-\xFD][\x80-\xBF]*", at) end
    to = to or at -- not UTF-8: byte by byte
    list[#list + 1] = s:sub(at, to)
    at = to + 1
  end
  return list
end

--- About how many tokens a text is, without dividing it: four letters or one wide character each.
---@param s string
---@return integer
function text.count(s)
  local _, wide = s:gsub("[\xC2-\xFD][\x80-\xBF]*", "")
  local _, narrow = s:gsub("[\0-\x7F]", "")
  return wide + (narrow + 3) // 4
end

-- Subjects ----------------------------------------------------------------------------------------

local COMMON = {}
for word in ([[about above across after again against alone along also always among another because
  been before being below between both call came cannot come could does doing done down each else even
  ever every explain first from give good great have having here into just kind know last like line
  list little long look made make many maybe mean might more most much must name need never next none
  only other over page part please rather reply same sentence sentences should show since some story
  such sure take tell than that their them then there these they thing things think this those three
  through time told under until upon use used using very want well were what when where which while
  whole whom whose will with within without word words would write written year your yours short brief
  describe summarise summarize translate answer question today and any are ask but can did few for get
  got had has her him his how its let may new nor not now off old one our out own per put say see she
  the too two use via was way who why yes yet you gate]]):gmatch "%S+" do
  COMMON[word] = true
end

local COMMON_HAN = "的了是在和与吗呢吧啊把被给请我你他她它们这那什么怎为如何一个用说讲写中上下有没不要会能对就都也还很多少句话字"
local COMMON_CHINESE = { "关于", "故事", "童话", "请问", "告诉", "介绍", "解释", "简短", "简单", "详细", "问题", "翻译", "总结" }

local function each_char(s)
  return s:gmatch "[\0-\x7F\xC2-\xFD][\x80-\xBF]*"
end

local function is_han(c)
  return c >= "\u{4E00}" and c <= "\u{9FFF}"
end

--- Is it a Chinese prompt?
local function is_chinese(prompt)
  local han, letters = 0, 0
  for c in each_char(prompt:sub(1, 4000)) do
    if is_han(c) then han = han + 1
    elseif c:find "%a" then letters = letters + 1 end
  end
  return han > 0 and han * 3 >= letters
end

local function english_subjects(prompt)
  local found, seen = {}, {}
  for word in prompt:sub(1, 4000):gmatch "%a[%a'-]*%a" do
    local lower = word:lower()
    if #lower >= 3 and not COMMON[lower] and not seen[lower] then
      seen[lower] = true
      found[#found + 1] = lower
      if #found == 6 then break end
    end
  end
  return found, { "the water", "the level", "the weather" }
end

local common_han = {}
for c in each_char(COMMON_HAN) do common_han[c] = true end

local function chinese_subjects(prompt)
  local found, seen, run = {}, {}, {}
  local function flush()
    if #run >= 2 then
      local word = table.concat(run, "", 1, math.min(#run, 4))
      if not seen[word] then
        seen[word] = true
        found[#found + 1] = word
      end
    end
    run = {}
  end
  prompt = prompt:sub(1, 4000)
  for _, word in ipairs(COMMON_CHINESE) do prompt = prompt:gsub(word, " ") end
  for c in each_char(prompt) do
    if is_han(c) and not common_han[c] then run[#run + 1] = c else flush() end
    if #found == 6 then break end
  end
  flush()
  return found, { "水流", "水位", "天气" }
end

-- Sentences ---------------------------------------------------------------------------------------

local ENGLISH = {
  answer = {
    "In short, {a} matters most where it meets {b}.",
    "Think of {a} as a gate: it lets a little of {b} through at a time.",
    "Most of what people notice about {a} is really {b}, seen from another side.",
    "A simple rule helps: start with {a}, measure {b}, and change one thing at a time.",
    "When {b} rises, {a} follows, though never by the same amount.",
    "There are exceptions, and {c} is the one worth remembering.",
    "So the careful answer is that {a} depends on {b}, and on how patient you are.",
    "Whoever has worked with {c} for a while will tell you the same.",
  },
  story = {
    "Once there was a gate at the end of a canal, and everybody called it {a}.",
    "Every morning {b} came down with the water and asked to be let through.",
    "\"Slowly,\" said the gate, \"or {c} will be upset.\"",
    "One spring the river rose so high that nobody could see {a} any more.",
    "The gate held on, opened a hand's breadth, and let {b} pass.",
    "Since then the village keeps a lamp beside it, for {c} and for luck.",
  },
  thinking = {
    "The question is about {a}.", "It may also touch on {b}.", "A few plain sentences will do.",
  },
  between = " ",
}

local CHINESE = {
  answer = {
    "简单来说，{a}的关键在于它与{b}的关系。",
    "可以把{a}想象成一道闸门：它每次只让一点{b}通过。",
    "人们谈到{a}时，看到的往往是{b}的另一面。",
    "一个实用的办法是：先看{a}，再量{b}，每次只改变一处。",
    "{b}上升时，{a}也会跟着变化，但幅度从不相同。",
    "当然也有例外，其中最值得记住的是{c}。",
    "所以严谨的回答是：{a}取决于{b}，也取决于你的耐心。",
    "和{c}打过交道的人，大多会这样告诉你。",
  },
  story = {
    "从前，运河尽头有一道闸门，大家都叫它{a}。",
    "每天清晨，{b}随着水流而来，请求通过。",
    "“慢一点，”闸门说，“不然{c}会不高兴的。”",
    "有一年春天，河水涨得很高，谁也看不见{a}了。",
    "闸门稳稳地守着，只打开一掌宽，让{b}缓缓流过。",
    "从那以后，村里人总在它旁边点一盏灯，为了{c}，也为了好运。",
  },
  thinking = { "这个问题与{a}有关。", "可能还涉及{b}。", "用几句简单的话回答即可。" },
  between = "",
}

local function filler(language, found, fallback)
  return function(sentence, turn)
    local function subject(offset)
      local n = #found
      return offset < n and found[(turn + offset) % n + 1] or fallback[offset + 1] or fallback[1]
    end
    local words = { a = subject(0), b = subject(1), c = subject(2) }
    return (sentence:gsub("{(%a)}", words))
  end, language
end

--- How many sentences were asked for, and whether a story.
local function wish(prompt, random)
  local lower = prompt:lower()
  local story = lower:find "story" or lower:find "tale" or prompt:find "故事" or prompt:find "童话"
  if lower:find "one sentence" or lower:find "one line" or lower:find "one thing" or prompt:find "一句" then
    return 1, story
  end
  local words = tonumber(lower:match "(%d+) words") or (tonumber(prompt:match "(%d+) ?字") or 0) / 1.6
  if words > 0 then return math.max(1, math.min(words, 4000) // 11), story end
  if lower:find "long" or lower:find "detail" or prompt:find "详细" then return 12, story end
  if lower:find "short" or lower:find "brief" or prompt:find "简短" or prompt:find "简单" then return 3, story end
  return story and 6 or 2 + random(3), story
end

local function compose(sentences, fill, first, count, between)
  local parts = {}
  for i = 0, count - 1 do
    local turn = i // #sentences -- a second round has other subjects in front
    parts[#parts + 1] = fill(sentences[(first + i) % #sentences + 1], turn)
  end
  return table.concat(parts, between)
end

local function language_of(prompt)
  if is_chinese(prompt) then return CHINESE, chinese_subjects(prompt) end
  return ENGLISH, english_subjects(prompt)
end

--- An answer to the prompt.
---@param prompt string
---@param seed integer
---@param at_least? integer tokens
---@return string
function text.answer(prompt, seed, at_least)
  local random = text.random(hash(prompt) ~ seed)
  local language, found, fallback = language_of(prompt)
  local fill = filler(language, found, fallback)
  local count, story = wish(prompt, random)
  local sentences = story and language.story or language.answer
  local first = story and 0 or random(#sentences) - 1
  local answer = compose(sentences, fill, first, count, language.between)
  while at_least and #text.tokens(answer) < at_least do
    count = count + 1 + count // 2
    answer = compose(sentences, fill, first, count, language.between)
  end
  return answer
end

--- What goes through a mind before answering.
---@param prompt string
---@return string
function text.thoughts(prompt)
  local language, found, fallback = language_of(prompt)
  return compose(language.thinking, filler(language, found, fallback), 0, #language.thinking, language.between)
end

--- An answer that uses what tools have returned.
---@param prompt string
---@param results { name?: string, text: string }[]
---@return string
function text.from_results(prompt, results)
  local chinese = is_chinese(prompt)
  local parts = {}
  for _, result in ipairs(results) do
    local name = result.name or (chinese and "工具" or "the tool")
    parts[#parts + 1] = chinese and ("%s的结果是：%s。"):format(name, result.text)
      or ("%s says: %s."):format(name, result.text:gsub("%.$", ""))
  end
  return table.concat(parts, chinese and "" or " ")
end

return text
