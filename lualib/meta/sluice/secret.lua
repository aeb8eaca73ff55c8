---@meta sluice.core.secret

-- What runtime/bind/secret.c defines. Scripts use sluice.secret. What a secret itself can do is in
-- credentials.lua.

---@class sluice.core.secret
local secret = {}

---@param name string  what is shown instead of the bytes
---@param bytes string
---@return sluice.Secret
function secret.new(name, bytes) end

--- One without bytes of its own: `source:get()` gives a secret that has some, and a generation.
---@param name string
---@param source sluice.Secret.Source
---@return sluice.Secret
function secret.live(name, source) end

---@param prefix string  in front of the bytes: "Bearer "
---@param value sluice.Secret  a live one gives what it was last
---@return sluice.Secret
function secret.prefixed(prefix, value) end

--- "Basic …" (RFC 7617), the value of an Authorization header.
---@param name string
---@param id string
---@param value sluice.Secret|string
---@param encoded boolean  id and value form-encoded first, as RFC 6749 2.3.1 wants it
---@return sluice.Secret header
---@return sluice.Secret bare  without the scheme; looked for in text while somebody holds it
function secret.basic(name, id, value, encoded) end

---@param value any
---@return boolean
function secret.is(value) end

--- What gives a live secret its value; nil for any other value.
---@param value any
---@return sluice.Secret.Source?
function secret.source(value) end

---@async
---@param value sluice.Secret
---@return sluice.Secret  with bytes
---@return integer? generation  nil: it never changes
function secret.current(value) end

--- The text, for the library's own use; scripts call secret:reveal(), which is logged at level debug.
---@async
---@param value sluice.Secret
---@return string
function secret.text(value) end

--- `f(name)` is called whenever a script reveals a secret.
---@param f fun(name: string)
function secret.on_reveal(f) end

--- The same bytes? Takes as long whatever they are.
---@param a sluice.Secret|string
---@param b sluice.Secret|string
---@return boolean
function secret.same(a, b) end

--- 16 hexadecimal digits that tell one value from another. Not for showing.
---@param value sluice.Secret|string
---@return string
function secret.fingerprint(value) end

--- The text with every secret of six bytes or more replaced by "[redacted]".
---@param text string
---@return string
function secret.scrub(text) end

--- That, and without what looks like a credential.
---@param text string
---@return string
function secret.redact(text) end

return secret
