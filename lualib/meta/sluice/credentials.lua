---@meta
-- Secrets and tokens, for editors and for the reference. No code.
-- luacheck: no max line length (an annotation is one line)
-- Times in seconds unless a line says otherwise.

---An opaque value. Printing it shows its name; concatenating, measuring, comparing and encoding it as JSON are errors. Its bytes are wiped when it is collected.
---@class sluice.Secret : userdata
local Secret = {}

---The text itself, where that is really meant; a log line of level debug says where. Waits when the secret comes from a vault and has not been read.
---@async
---@return string
function Secret:reveal() end

---What is shown instead of it.
---@return string
function Secret:name() end

---What looks after a secret that changes.
---@class sluice.Secret.Source
---@field get async fun(self: sluice.Secret.Source): sluice.Secret, integer
---@field reject fun(self: sluice.Secret.Source, generation: integer): boolean  a server refused that generation; true: another value is there, or can be waited for

---A credential that is replaced before it ends. Made by sluice.token.oauth, source, command, static.
---@class sluice.Token : userdata
local Token = {}

---The value, and the number of its generation. Returns at once while there is a good one: in the last part of its life (5, 15 or 60 minutes, at most half of it) a refresh is begun in the background. Waits only when there is none, when less than `least` seconds are left (at most half of its life), or in its last minute. All who wait share one refresh, which goes on when they are cancelled.
---Raises `auth`, phase "refresh", when no new value can be had and the old one has ended.
---@async
---@param least? number
---@param patience? number  seconds to wait at most
---@return sluice.Secret value
---@return integer generation
function Token:get(least, patience) end

---"Bearer …" as a secret, for a header. Waits like get.
---@async
---@param least? number
---@return sluice.Secret value
---@return integer generation
function Token:bearer(least) end

---A server refused that generation (401). It is not used any more, unless a newer one is there already. True: a second try makes sense. False: it would end the same way (a static key; a token that was got for a refusal a moment ago).
---@param generation integer
---@return boolean
function Token:reject(generation) end

---The value there is, nil before the first; never waits, whatever state it is in.
---@return sluice.Secret? value
---@return integer generation
function Token:peek() end

---@return sluice.Token.State
function Token:state() end

---@return string
function Token:name() end

---@class sluice.Token.State
---@field state "expired"|"mandatory"|"advisory"|"fresh"
---@field generation integer   0 before the first value
---@field left? number         seconds; nil: endless, or none yet
---@field refreshing boolean
---@field refused boolean      a server has refused this generation
---@field refreshed integer    how often that succeeded
---@field failed integer       how often it did not

---@class sluice.OAuthOptions
---@field url string             the token endpoint
---@field client_id string
---@field client_secret? sluice.Secret|string
---@field client_auth? "basic"|"basic_raw"|"post"|"none"  how the client proves who it is: in the Authorization header with id and secret form-encoded (RFC 6749 2.3.1; the default), the same without encoding, in the body, or not at all (the default without a secret)
---@field grant? "client_credentials"|"refresh_token"     the latter when there is a refresh_token
---@field refresh_token? sluice.Secret|string             the first one; the server's new ones replace it
---@field scope? string|string[]
---@field audience? string
---@field resource? string
---@field extra? table<string, string|number|boolean>     more fields of the form
---@field headers? table<string, string|sluice.Secret>
---@field name? string           what errors, logs and metrics call it; default: the server's host
---@field cache? string          a file that processes share, "~/.cache/sluice/corp.json"
---@field ttl? number            how long a token without expires_in is good for, 300
---@field timeout? number        for one request, 10
---@field retry? false|{ attempts?: integer, min?: number, max?: number }  3 attempts; the pauses between them grow from min (0.5) to max (5)

---@class sluice.TokenSourceOptions
---@field fetch async fun(old: sluice.Secret?): string|sluice.Secret, sluice.TokenLife?  called when a new value is needed, with the last one
---@field name? string           what errors, logs and metrics call it
---@field ttl? number            how long a value without an expiry is good for, 300
---@field timeout? number        for one call of fetch, 30
---@field cache? string          a file that processes share; wants a name

---@class sluice.TokenLife
---@field expires_in? number     from now; math.huge: for ever
---@field expires_at? number     seconds since 1970
---@field refresh_in? number     when to ask again, if that is to be sooner than its life says

---@class sluice.CommandOptions
---@field [integer] string       the program and its arguments; no shell is involved
---@field ttl? number            how long the token is good for, 300
---@field timeout? number        how long the program may take, 30; then its whole process group is ended
---@field env? table<string, string|sluice.Secret|false>  changes to its environment; false removes
---@field input? string|sluice.Secret  what it reads from stdin; nothing unless given
---@field folder? string         where it runs
---@field parse? fun(stdout: string): string|sluice.Secret, sluice.TokenLife?  makes the token of what it printed
---@field name? string           what errors, logs and metrics call it; default: the program
---@field cache? string          a file that processes share

---@class sluice.FileSecretOptions
---@field path string            "~/" in front is the home folder
---@field name? string           shown instead of the path
---@field check? number          between two looks at the file, 1
---@field trim? boolean          false: keep the line break at the end

---@class sluice.KubernetesSecretOptions
---@field folder string          where the secret is mounted
---@field key string
---@field name? string
---@field check? number          between two looks, 1

---@class sluice.VaultOptions
---@field path string            the API path after /v1/: "secret/data/llm" for version 2 of the KV engine, "secret/llm" for version 1, "database/creds/app" for others
---@field field string           which of its fields
---@field version? integer       of a KV version 2 secret; default: the newest
---@field kv? 1|2                which engine; known from the answer unless given
---@field refresh? number        how often a secret without a lease is read again, 300
---@field address? string        default: VAULT_ADDR
---@field namespace? string      default: VAULT_NAMESPACE
---@field auth? sluice.VaultAuth default: the token in VAULT_TOKEN, or in ~/.vault-token
---@field timeout? number        for one request, 10
---@field name? string

---@class sluice.VaultAuth
---@field method "token"|"approle"|"kubernetes"
---@field mount? string          where the method is mounted, if not under its own name
---@field token? sluice.Secret|string  of "token"
---@field role_id? sluice.Secret|string  of "approle"
---@field secret_id? sluice.Secret|string  of "approle"
---@field role? string           of "kubernetes"
---@field jwt? sluice.Secret|string  of "kubernetes"; default: the service account's token, read anew at each login

return { Secret, Token }
