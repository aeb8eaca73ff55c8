---@meta
-- The public tables of sluice, for editors and for the reference. No code.
-- luacheck: no max line length (an annotation is one line)
-- Units: times in seconds, sizes in bytes, counts in tokens unless a line says otherwise.

-- Models -------------------------------------------------------------------------------------------

---Argument of `sluice.model { … }`. An unknown option is an error that names the nearest known one.
---@class sluice.ModelOptions
---@field provider string                  openai, anthropic, siliconflow, deepseek, openrouter, ollama, mock, or your own
---@field model string                     as the provider names it
---@field base_url? string                 with /v1 for the OpenAI protocol, without for Anthropic; default the provider's own
---@field protocol? "openai"|"anthropic"   default the provider's own
---@field auth? string|sluice.Secret|sluice.Token|fun(old: sluice.Secret?): string|sluice.Secret, sluice.TokenLife?  a key, a secret, a token source, or a function that gives a key when one is needed; default the provider's usual environment variable
---@field headers? table<string, string|sluice.Secret>  sent with every request
---@field timeout? sluice.TimeoutOptions
---@field retry? sluice.RetryOptions|false  false: one attempt
---@field breaker? sluice.BreakerOptions|false  false: none
---@field limit? sluice.LimitOptions|sluice.Limiter  what `sluice.limit` returned: several models share one
---@field defaults? sluice.Request         fields for every request, under its own
---@field idempotency? string|false        the header that carries the id of a call, the same for all its attempts; default "Idempotency-Key"
---@field price? sluice.Price              what it costs, in place of what sluice.prices knows
---@field receive_buffer? integer          bytes read from the network at once; a small one saves memory where thousands stream

---How long a model may take. 0 turns a limit off.
---@class sluice.TimeoutOptions
---@field connect? number                  3: name look-up, TCP and TLS together
---@field first_token? number              30: to the first content, which headers, pings and roles are not
---@field idle? number                     30: between two pieces of content
---@field total? number                    all attempts of a call together, from the first one sent; default 60 for ask, 600 for stream
---@field min_rate? number                 tokens a second that a stream must keep up (slow, but alive: `timeout` with phase "slow"); off unless given. A token is reckoned as four bytes, and only the time that the script waits counts
---@field min_rate_over? number            10: seconds of waiting over which min_rate is measured, again and again

---When a model tries again by itself. Only what failed before the first content is ever sent again.
---@class sluice.RetryOptions
---@field attempts? integer                3: in all
---@field base? number                     0.5: seconds; the n-th back-off is chance · min(cap, base · 2^(n-1)); after 429, 503 and 529 at least 1
---@field cap? number                      20: seconds
---@field max_wait? number                 60: a longer Retry-After fails at once; a shorter one is waited for in full
---@field resend? boolean                  false: a request that was sent and met silence may have been paid for, and is not sent again
---@field budget? number|false             500: what all retries and hedges to this address may cost together; each costs 14, after 429, 503 and 529 5, success brings it back. false: no account is kept

-- Requests ----------------------------------------------------------------------------------------

---What a script asks of a model: `model:ask { … }`, `model:stream { … }`; a plain string is `prompt`.
---An unknown field is an error that names the nearest known one.
---@class sluice.Request
---@field prompt? string|sluice.Part[]     the last user message; this or `messages` must be there
---@field system? string|sluice.Part[]     instructions, before the messages
---@field messages? (sluice.Message|sluice.Reply|table)[]  the conversation so far; a reply may stand in it as it is, and so may messages in OpenAI's or Anthropic's own form
---@field model? string                    another model of the same provider
---@field tools? (sluice.Tool|table)[]     OpenAI's and Anthropic's own forms pass too
---@field tool_choice? "auto"|"none"|"required"|{ name: string }
---@field parallel_tool_calls? boolean     false: at most one tool call per reply
---@field max_tokens? integer              tokens the reply may have; over the Anthropic protocol, which demands one, 4096 (plus the thinking budget) by default
---@field temperature? number              0 to 2
---@field top_p? number                    0 to 1
---@field top_k? integer
---@field min_p? number
---@field frequency_penalty? number        -2 to 2; left out over the Anthropic protocol, as are presence_penalty, min_p and seed
---@field presence_penalty? number
---@field seed? integer
---@field stop? string|string[]
---@field response_format? "text"|"json"|{ schema: table, name?: string, strict?: boolean }  "json" is not available over the Anthropic protocol
---@field thinking? boolean|sluice.Effort|{ budget?: integer, effort?: sluice.Effort }  brought to the nearest the vendor can express
---@field user? string                     an opaque id of the end user
---@field extra? table<string, any>        fields for the body as they are; they win over everything, sluice.json.null takes a field out

---@alias sluice.Effort "none"|"minimal"|"low"|"medium"|"high"|"xhigh"|"max"

---@class sluice.Message
---@field role "system"|"developer"|"user"|"assistant"|"tool"
---@field content? string|(string|sluice.Part)[]|table  a tool's result may be any table: it is sent as JSON
---@field tool_calls? sluice.ToolCall[]    of an assistant
---@field thinking? string|table[]         of an assistant; goes back where the vendor wants it
---@field tool_call_id? string             of a tool: the call this answers
---@field is_error? boolean                of a tool: the call failed, content says why

---@class sluice.Part
---@field type "text"|"image"|string       other types pass to the vendor who knows them
---@field text? string                     of "text"
---@field url? string                      of "image": an address, or data:image/png;base64,…
---@field data? string                     of "image": base64
---@field media_type? string               of "image" with data: "image/png"
---@field detail? "low"|"high"|"auto"      of "image", OpenAI only

---@class sluice.Tool
---@field name string
---@field description? string
---@field parameters? table                JSON Schema; none: an object without properties
---@field strict? boolean

-- Replies -----------------------------------------------------------------------------------------

---@class sluice.ToolCall
---@field id string
---@field name string
---@field arguments table                  decoded
---@field arguments_json? string           as the model wrote it; this is what goes back

---Tokens, integers, with one meaning for all providers. Empty when the provider named none.
---@class sluice.Usage
---@field input_tokens? integer            includes what was read from and written to a cache
---@field output_tokens? integer           includes reasoning
---@field total_tokens? integer
---@field cached_tokens? integer           input read from a cache; 0 when not told
---@field reasoning_tokens? integer        0 when not told

---"stop": it ended by itself or at a stop sequence. "length": max_tokens or the context was full.
---"tool_calls": it waits for the results. "pause": send the conversation again to go on. "other": a
---word not known here, see finish_reason_raw. "rescued": a fallback's rescue wrote the end. "matched":
---stream:until_match ended it.
---A content filter or a refusal is not among them: it raises the error `filtered`.
---@alias sluice.FinishReason "stop"|"length"|"tool_calls"|"pause"|"other"|"rescued"|"matched"

---@class sluice.Reply
---@field text string                      "" when there is none
---@field thinking? string
---@field tool_calls sluice.ToolCall[]     empty when there are none
---@field finish_reason sluice.FinishReason
---@field finish_reason_raw? string        the vendor's own word
---@field usage sluice.Usage
---@field model? string                    as the provider names it
---@field id? string                       the provider's id of the reply
---@field blocks? table[]                  content in order, in Anthropic's form; only when the thinking is signed and must go back unchanged
---@field provider? string
---@field request_id? string               the provider's id of the HTTP request
---@field attempts sluice.Attempt[]       who was asked, in order; the last one answered
---@field ttft? number                     seconds to the first content, earlier attempts and waits included
---@field elapsed? number                  seconds in all
---@field cost? number                     of this answer, in `currency`; nil: its price or its usage is not known
---@field currency? string                 "USD" unless the price says otherwise
---@field usd? number                      of a model that a budget guards: what it was charged
---@field age? number                      of an answer that a cache kept: seconds since it was given
---@field degraded? sluice.Degraded
---@field raw? table                       the decoded body, for whole replies
---@field rounds? integer                  of sluice.tool.loop, chat:say and model:json: how often the model was asked
---@field total? sluice.Usage              … and what all of that has used
---@field calls? { name: string, arguments: table, content: string|table, is_error?: boolean, elapsed: number, round: integer }[]  of a loop: the calls of tools, in order
---@field original? sluice.Reply           of a transformed stream: the reply of the model
---@field matched? string                  of a stream that until_match ended: what was found

---One attempt of a call. The times of all of them add up to the time of the call.
---@class sluice.Attempt
---@field provider string
---@field model string                     as it was asked for
---@field kind? sluice.Kind                why it failed; nil: it answered
---@field status? integer                  HTTP status of a failure
---@field code? string                     of a failure
---@field message? string                  of a failure
---@field elapsed number                   seconds from sending it to its end; 0 when it was refused before
---@field waited? number                   seconds before it was sent: for a limit, or since the attempt before
---@field usage? sluice.Usage              of the one that answered, and of one that was stopped as far as it is known
---@field request_id? string               the provider's id of the HTTP request
---@field cost? number                     of the one that answered, in `currency`; nil: not known
---@field currency? string
---@field usd? number                      what it cost, under a budget with prices
---@field step? integer|"rescue"           of a fallback: which step
---@field name? string                     of a fallback: the step's name; "outer > inner" for a chain inside
---@field at? number                       of a fallback: seconds from the call to this attempt
---@field cancelled? boolean               of a fallback: it was stopped, because another step was first, or its reader left

---Where an answer of a fallback comes from, when it is not the first step's.
---@class sluice.Degraded
---@field step integer|"rescue"            which step answered
---@field name string                      … and its name
---@field why sluice.Kind|"slow"|"declined" why the chain went there
---@field from string                      the first step's name; of a rescue: the model that broke off
---@field within? sluice.Degraded          what the answer of a chain inside says of itself, or the answer that was rescued

---One event of `stream:events()`.
---@class sluice.Event
---@field type "text"|"thinking"|"tool_call"|"tool_result"|"usage"|"switch"|"finish"
---@field text? string                     of "text" and "thinking": a piece
---@field item? any                        of "text" of a transformed stream: the item
---@field id? string                       of "tool_call", which comes once, whole
---@field name? string                     of "tool_call"
---@field arguments? table                 of "tool_call"
---@field arguments_json? string           of "tool_call"
---@field content? string|table            of "tool_result" (of sluice.tool.stream and chat:stream), with id and name: what the model reads
---@field is_error? boolean                of "tool_result"
---@field elapsed? number                  of "tool_result": seconds
---@field usage? sluice.Usage              of "usage", just before "finish"
---@field reason? sluice.FinishReason      of "finish", the last event
---@field from? string                     of "switch": the model that broke off
---@field to? string                       of "switch": the one that goes on
---@field at? integer                      of "switch": bytes of text before it

-- Errors ------------------------------------------------------------------------------------------

---@alias sluice.Kind "network"|"timeout"|"server"|"overloaded"|"rate_limited"|"quota"|"auth"|"invalid"|"filtered"|"protocol"|"interrupted"|"circuit_open"|"throttled"|"cancelled"|"deadlock"|"cpu"|"memory"

---A failure of the world, raised as a table; `tostring(err)` is one line a person can act on.
---@class sluice.Error
---@field kind sluice.Kind
---@field message string                   the provider's own words where there are any
---@field status? integer                  HTTP status
---@field code? string                     the provider's code or type; ours: "context_length", "daily_limit", "tool_arguments", "tool_name", "tool_rounds", "schema", "no_json", "cut_off", "refusal", "no_end", "too_large", "bad_json", "not_a_reply", "no_choices", "no_content"; of programs "exit", "signal", "no_program", "no_folder"; of what was refused here: "rate", "gate" and "concurrency" (throttled), "gated" (quota)
---@field phase? string                    "connect", "first_token", "idle", "slow", "total", "deadline", …
---@field provider? string
---@field model? string
---@field attempt? integer
---@field elapsed? number                  seconds
---@field retry_after? number              seconds the server asks to wait
---@field request_id? string               what the provider's support asks for
---@field partial? string                  text delivered before it broke
---@field cause? sluice.Error              what lies behind an interruption
---@field also? sluice.Error[]             other failures of the same call
---@field should_retry? boolean            the server's own order (x-should-retry)
---@field attempts? sluice.Attempt[]       every attempt of the call, the last one is this error
---@field budget? boolean                  true: it would have been tried again, but for the account of retries (retry.budget)
---@field result? sluice.process.Result    of a program that failed: all of it
---@field faults? string[]                 of code "schema": what does not fit, each with its place
---@field messages? sluice.Message[]       of code "tool_rounds": the conversation so far
---@field hint? string                     what to look at
---@field traceback? string               where it was raised, once it has left its task or sluice.try has caught it
---@operator concat(any): string

-- Providers ---------------------------------------------------------------------------------------

---Argument of `sluice.provider { … }`. All functions are pure: no I/O, no clock, no state.
---@class sluice.ProviderDefinition
---@field name string                      letters, digits, "_", "-", "."; no slash
---@field protocol? "openai"|"anthropic"|sluice.Protocol  default "openai"
---@field base_url? string|table<string, string>  with /v1 for openai, without for anthropic; or one for each
---@field base_url_env? string|table<string, string>  environment variable that overrides it
---@field key_env? string|string[]         environment variables to look for the key in, in order
---@field keyless? boolean                 true: works without a key
---@field auth? string|table<string, string>|fun(key: any, from?: string): string, string  "bearer", the name of a header, or a function -> header, prefix
---@field headers? table<string, string>   sent with every request
---@field quirks? table                    what is odd about it: see sluice/provider/openai.lua and anthropic.lua
---@field docs? string                     address of its documentation
---@field request? fun(call: sluice.Call, base: function): sluice.HttpRequest
---@field event? fun(ev: sluice.SseEvent, base: function): sluice.Delta[]
---@field reply? fun(decoded: any, base: function): sluice.Delta[]
---@field failure? fun(status: integer, headers: table<string, string>, body: string, now: number?, base: function): table

---@class sluice.Protocol
---@field name? string
---@field request fun(call: sluice.Call): sluice.HttpRequest
---@field event fun(ev: sluice.SseEvent): sluice.Delta[]
---@field reply? fun(decoded: any): sluice.Delta[]
---@field failure? fun(status: integer, headers: table<string, string>, body: string?, now?: number): table
---@field auth? fun(key: any, from?: string): string, string

---A provider seen through one protocol.
---@class sluice.Provider : sluice.Protocol
---@field name string
---@field protocol sluice.Protocol
---@field protocol_name string
---@field base_url? string
---@field base_url_env? string
---@field key_env? string[]
---@field keyless boolean
---@field headers? table<string, string>
---@field quirks table                     hand those of provider.quirks(p, base_url) to request()
---@field fast? "openai"|"anthropic"       the C fast path that knows its events; nil: decode every event
---@field docs? string

---A request ready for a protocol: the script's fields over the model's defaults.
---@class sluice.Call : sluice.Request
---@field model string
---@field stream? boolean
---@field quirks? table
---@field where? string                    the public function, for messages: "model:ask"

---@class sluice.HttpRequest
---@field method string
---@field path string                      joined to base_url
---@field headers table<string, string>
---@field body? table|string               a table is sent as JSON

---@class sluice.SseEvent
---@field data string
---@field event? string
---@field id? string

---One thing an event of a stream says. What each type carries is told in sluice/assemble.lua.
---@class sluice.Delta
---@field type "text"|"thinking"|"thinking_signature"|"redacted_thinking"|"tool"|"tool_end"|"block"|"usage"|"meta"|"refusal"|"finish"|"done"|"error"
---@field text? string                     of "text", "thinking", "refusal"
---@field index? integer                   of "tool", "tool_end", "block", "thinking", "thinking_signature"
---@field signature? string                of "thinking_signature"
---@field data? string                     of "redacted_thinking"
---@field id? string                       of "tool", "meta"
---@field name? string                     of "tool"
---@field arguments? string                of "tool": JSON text, whole or a fragment
---@field whole? boolean                   of "tool": `arguments` is all of it
---@field block? table                     of "block": kept as it is for the next request
---@field usage? sluice.UsageDelta         of "usage"
---@field model? string                    of "meta"
---@field reason? string                   of "finish": the vendor's word
---@field message? string                  of "finish": what the vendor says about it
---@field needs_done? boolean              of "finish": without a "done" the answer counts as cut off
---@field error? table                     of "error": fields of a sluice.Error

---Counts as an event brings them. Vendors that count cached input apart give uncached_input_tokens
---instead of input_tokens; the reply has them added up.
---@class sluice.UsageDelta
---@field input_tokens? integer
---@field uncached_input_tokens? integer
---@field cached_tokens? integer
---@field cache_write_tokens? integer
---@field output_tokens? integer
---@field total_tokens? integer
---@field reasoning_tokens? integer

-- Option tables (sluice/options.lua) -----------------------------------------------------------------

---@class sluice.OptionEntry
---@field type? string|string[]
---@field required? boolean
---@field default? string|number|boolean
---@field min? number
---@field max? number
---@field above? number
---@field enum? (string|number)[]
---@field nonempty? boolean
---@field fields? sluice.OptionSpec|table<string, sluice.OptionEntry>
---@field items? sluice.OptionEntry
---@field values? sluice.OptionEntry
---@field check? fun(value: any): boolean?, string?
---@field expected? string
---@field doc? string

---@class sluice.OptionSpec
---@field entries table<string|integer, sluice.OptionEntry>
---@field required (string|integer)[]
---@field defaulted (string|integer)[]
---@field noun string
