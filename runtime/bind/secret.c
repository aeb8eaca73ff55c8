/*
** sluice.core.secret: opaque values. A secret prints as its name, cannot be concatenated, compared
** or encoded, and its bytes are wiped when it is collected. Only the header builder reads it;
** `reveal` is the explicit way out.
**
** A *live* secret has no bytes of its own but a source, which knows what its value is now: a file
** that may be replaced, a vault. core.current asks the source; whoever cannot wait gets what it
** said last. Every secret with bytes is in a list, so that text about to be shown can be searched
** for it.
*/
#include "bind/secret.h"

#include <lauxlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/buf.h"
#include "base/limits.h"
#include "base/list.h"
#include "base/redact.h"
#include "bind/bind.h"

#define SCRUB_MIN 6 /* bytes: a shorter secret would be found in ordinary words */

struct secret {
  struct list link; /* in `all`, unless it is live or wiped */
  size_t len;
  bool live;
  enum { UNKNOWN, PLAIN, ENCODABLE } form; /* may its bytes look different in JSON or in a URL? */
  char bytes[];                            /* NUL-terminated */
};

/* User values: 1 the name; of a live one 2 the source, 3 the secret it gave last. */
enum { NAME = 1, SOURCE, LATEST };

static struct list all = {&all, &all};
static const char on_reveal; /* a key of the registry */

/* ---- making ---------------------------------------------------------------------------------- */

const char *secret_bytes(lua_State *L, int index, size_t *len) {
  struct secret *s = luaL_testudata(L, index, SECRET_TYPE);
  if (s == NULL) return NULL;
  if (s->live) {
    if (lua_getiuservalue(L, index, LATEST) != LUA_TUSERDATA) {
      lua_getiuservalue(L, index, NAME);
      luaL_error(L, "the secret '%s' has not been read yet (sluice.secret.current reads it)",
                 lua_tostring(L, -1));
    }
    s = lua_touserdata(L, -1); /* stays alive: the live one refers to it */
    lua_pop(L, 1);
  }
  *len = s->len;
  return s->bytes;
}

static struct secret *check_secret(lua_State *L, int arg) {
  return luaL_checkudata(L, arg, SECRET_TYPE);
}

/* The bytes of a secret or a string. */
static const char *check_bytes(lua_State *L, int arg, size_t *len) {
  const char *bytes = secret_bytes(L, arg, len);
  return bytes != NULL ? bytes : luaL_checklstring(L, arg, len);
}

static struct secret *push_secret(lua_State *L, size_t len, int name_index) {
  name_index = lua_absindex(L, name_index);
  luaL_argcheck(L, len <= SECRET_MAX, 2, "too long for a secret");
  struct secret *s = lua_newuserdatauv(L, sizeof *s + len + 1, 1);
  memset(s, 0, sizeof *s + len + 1);
  list_init(&s->link);
  s->len = len;
  luaL_setmetatable(L, SECRET_TYPE);
  lua_pushvalue(L, name_index);
  lua_setiuservalue(L, -2, NAME);
  list_append(&all, &s->link);
  return s;
}

/* core.new(name, bytes) */
static int new_secret(lua_State *L) {
  size_t len;
  luaL_checkstring(L, 1);
  const char *bytes = luaL_checklstring(L, 2, &len);
  struct secret *s = push_secret(L, len, 1);
  memcpy(s->bytes, bytes, len);
  return 1;
}

/* core.prefixed("Bearer ", secret) -> a secret of the same name. */
static int prefixed(lua_State *L) {
  size_t n, len = 0;
  const char *prefix = luaL_checklstring(L, 1, &n);
  check_secret(L, 2);
  const char *old = secret_bytes(L, 2, &len);
  lua_getiuservalue(L, 2, NAME);
  struct secret *s = push_secret(L, n + len, -1);
  memcpy(s->bytes, prefix, n);
  memcpy(s->bytes + n, old, len);
  return 1;
}

/* core.live(name, source): source:get() gives a secret with bytes, and a generation. */
static int new_live(lua_State *L) {
  luaL_checkstring(L, 1);
  luaL_checkany(L, 2);
  struct secret *s = lua_newuserdatauv(L, sizeof *s + 1, LATEST);
  memset(s, 0, sizeof *s + 1);
  list_init(&s->link);
  s->live = true;
  luaL_setmetatable(L, SECRET_TYPE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, NAME);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, SOURCE);
  return 1;
}

/* application/x-www-form-urlencoded, as RFC 6749 2.3.1 wants it before base64; `out` may be
** NULL. */
static size_t form_encode(const char *s, size_t n, char *out) {
  static const char hex[] = "0123456789ABCDEF";
  size_t used = 0;
  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)s[i];
    bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                 (c != '\0' && strchr("*-._", c) != NULL);
    if (out != NULL && (plain || c == ' ')) out[used] = plain ? (char)c : '+';
    if (plain || c == ' ') {
      used++;
      continue;
    }
    if (out != NULL) {
      out[used] = '%';
      out[used + 1] = hex[c >> 4];
      out[used + 2] = hex[c & 15];
    }
    used += 3;
  }
  return used;
}

static size_t copy_plain(const char *s, size_t n, char *out) {
  if (out != NULL) memcpy(out, s, n);
  return n;
}

/* core.basic(name, id, secret, encoded) -> "Basic …" (RFC 7617) as a secret, and what stands
** behind the scheme as one: while the caller holds that, it is looked for in text. */
static int basic(lua_State *L) {
  size_t id_len, len;
  luaL_checkstring(L, 1);
  const char *id = luaL_checklstring(L, 2, &id_len);
  const char *bytes = check_bytes(L, 3, &len);
  size_t (*put)(const char *, size_t, char *) = lua_toboolean(L, 4) ? form_encode : copy_plain;
  size_t pair_len = put(id, id_len, NULL) + 1 + put(bytes, len, NULL);
  luaL_argcheck(L, pair_len <= SECRET_MAX / 2, 3, "too long for a secret");
  struct secret *pair = push_secret(L, pair_len, 1); /* a secret, so that it is wiped */
  size_t at = put(id, id_len, pair->bytes);
  pair->bytes[at] = ':';
  put(bytes, len, pair->bytes + at + 1);
  struct secret *s = push_secret(L, 6 + base64_len(pair_len), 1);
  memcpy(s->bytes, "Basic ", 6);
  base64_encode(pair->bytes, pair_len, s->bytes + 6);
  struct secret *bare = push_secret(L, base64_len(pair_len), 1);
  memcpy(bare->bytes, s->bytes + 6, bare->len);
  return 2;
}

/* ---- asking ---------------------------------------------------------------------------------- */

static int is_secret(lua_State *L) {
  lua_pushboolean(L, luaL_testudata(L, 1, SECRET_TYPE) != NULL);
  return 1;
}

/* core.source(value) -> the source of a live secret; nil for anything else. */
static int source(lua_State *L) {
  struct secret *s = luaL_testudata(L, 1, SECRET_TYPE);
  if (s == NULL || !s->live) return 0;
  lua_getiuservalue(L, 1, SOURCE);
  return 1;
}

/* (live, value, generation) */
static int settle(lua_State *L) {
  lua_settop(L, 3);
  struct secret *value = luaL_testudata(L, 2, SECRET_TYPE);
  if (value == NULL || value->live)
    return luaL_error(L, "the source of a secret gave a %s", luaL_typename(L, 2));
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 1, LATEST);
  return 2;
}

static int current_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  return settle(L);
}

/* core.current(secret) -> a secret with bytes, generation (nil: it never changes). May wait. */
static int current(lua_State *L) {
  struct secret *s = check_secret(L, 1);
  lua_settop(L, 1);
  if (!s->live) return 1;
  lua_getiuservalue(L, 1, SOURCE);
  lua_getfield(L, 2, "get");
  lua_insert(L, 2);
  lua_callk(L, 1, 2, 0, current_k);
  return settle(L);
}

static int push_text(lua_State *L, int index) {
  size_t len = 0;
  const char *bytes = secret_bytes(L, index, &len);
  lua_pushlstring(L, bytes, len);
  return 1;
}

static int text_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  settle(L);
  return push_text(L, 1);
}

/* core.text(secret) -> the text, for the library's own use. May wait, when it is live. */
static int text(lua_State *L) {
  struct secret *s = check_secret(L, 1);
  lua_settop(L, 1);
  if (!s->live) return push_text(L, 1);
  lua_getiuservalue(L, 1, SOURCE);
  lua_getfield(L, 2, "get");
  lua_insert(L, 2);
  lua_callk(L, 1, 2, 0, text_k);
  return text_k(L, LUA_OK, 0);
}

/* secret:reveal() -> the text, for scripts: it is told to who wants to know. */
static int reveal(lua_State *L) {
  check_secret(L, 1);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &on_reveal) == LUA_TFUNCTION) {
    lua_getiuservalue(L, 1, NAME);
    lua_call(L, 1, 0);
  }
  return text(L);
}

/* core.on_reveal(f): f(name) is called whenever a script reveals a secret. */
static int set_on_reveal(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &on_reveal);
  return 0;
}

/* core.same(a, b): two secrets (or strings) of the same bytes; takes as long whatever they are. */
static int same(lua_State *L) {
  size_t n, m;
  const char *a = check_bytes(L, 1, &n), *b = check_bytes(L, 2, &m);
  unsigned char different = n != m;
  for (size_t i = 0; i < n && i < m; i++) different |= (unsigned char)(a[i] ^ b[i]);
  lua_pushboolean(L, different == 0);
  return 1;
}

/* core.fingerprint(secret) -> 16 hexadecimal digits (FNV-1a): has it been replaced by another? Not
** for showing: it is no one-way function of a short secret. */
static int fingerprint(lua_State *L) {
  size_t len;
  const char *bytes = check_bytes(L, 1, &len);
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < len; i++) hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001b3u;
  char text[17];
  for (int i = 0; i < 16; i++) text[i] = "0123456789abcdef"[hash >> (60 - 4 * i) & 15];
  lua_pushlstring(L, text, 16);
  return 1;
}

static int name(lua_State *L) {
  check_secret(L, 1);
  lua_getiuservalue(L, 1, NAME);
  return 1;
}

static int to_string(lua_State *L) {
  name(L);
  lua_pushfstring(L, "<secret %s>", lua_tostring(L, -1));
  return 1;
}

static int refuse(lua_State *L) {
  return luaL_error(L, "a secret cannot be concatenated, measured or compared; :reveal() gives its "
                       "text when that is really meant");
}

static int wipe(lua_State *L) {
  struct secret *s = check_secret(L, 1);
  list_remove(&s->link);
  explicit_bzero(s->bytes, s->len);
  s->len = 0;
  return 0;
}

/* ---- looking for them in text ---------------------------------------------------------------- */

static bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         (c != '\0' && strchr("-._~", c) != NULL);
}

static bool may_be_encoded(struct secret *s) {
  if (s->form == UNKNOWN) {
    s->form = PLAIN;
    for (size_t i = 0; i < s->len; i++)
      if (!is_plain(s->bytes[i])) s->form = ENCODABLE;
  }
  return s->form == ENCODABLE;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* How many bytes at p are the byte c in a URL or a form: itself, %XX, + for a blank; 0: none. */
static size_t match_in_url(char c, const char *p, const char *end) {
  if (p == end) return 0;
  int high = *p == '%' && end - p >= 3 ? hex_digit(p[1]) : -1;
  int low = high >= 0 ? hex_digit(p[2]) : -1;
  if (low >= 0) return (char)(unsigned char)(high << 4 | low) == c ? 3 : 0;
  return *p == c || (*p == '+' && c == ' ') ? 1 : 0;
}

/* The same in JSON, and in JSON within JSON: itself, or behind backslashes. */
static size_t match_in_json(char c, const char *p, const char *end) {
  const char *q = p;
  while (q < end && *q == '\\') q++;
  if (c == '\\') return (size_t)(q - p);
  bool there = q < end && *q == c && (q == p || c == '"' || c == '/');
  return there ? (size_t)(q + 1 - p) : 0;
}

/* The length of the secret at p in that form; 0: it is not there. */
static size_t match_at(const struct secret *s, const char *p, const char *end, bool url) {
  const char *q = p;
  for (size_t i = 0; i < s->len; i++) {
    size_t n = (url ? match_in_url : match_in_json)(s->bytes[i], q, end);
    if (n == 0) return 0;
    q += n;
    bool run = s->bytes[i] == '\\' && !url; /* of all that stand there together */
    while (run && i + 1 < s->len && s->bytes[i + 1] == '\\') i++;
  }
  return (size_t)(q - p);
}

/* Where the secret begins in [p, end), and how long it is there; or NULL. */
static const char *find(struct secret *s, const char *p, const char *end, size_t *n) {
  const char *hit = memmem(p, (size_t)(end - p), s->bytes, s->len);
  *n = s->len;
  if (!may_be_encoded(s)) return hit;
  const char *before = hit != NULL ? hit + 1 : end;
  bool plain = is_plain(s->bytes[0]);
  for (const char *q = p; q < before; q++) {
    if (plain) q = memchr(q, s->bytes[0], (size_t)(before - q));
    if (q == NULL) break;
    size_t json = match_at(s, q, end, false), url = match_at(s, q, end, true);
    if (json == 0 && url == 0) continue;
    *n = json > url ? json : url;
    return q;
  }
  return hit; /* none, or one that is not there in any other form */
}

/* Where in [p, end) the first secret begins, the longest of those that begin there, and its length;
** or NULL. */
static const char *first_in(const char *p, const char *end, size_t *n) {
  const char *first = NULL;
  struct list *node;
  list_each(node, &all) {
    struct secret *s = list_entry(node, struct secret, link);
    size_t length;
    if (s->len < SCRUB_MIN) continue;
    const char *hit = find(s, p, end, &length);
    if (hit == NULL) continue;
    if (first != NULL && (hit > first || (hit == first && length <= *n))) continue;
    first = hit;
    *n = length;
  }
  return first;
}

bool secret_within(const char *text, size_t len, size_t from, size_t n) {
  size_t longest = 0, length;
  struct list *node;
  list_each(node, &all) {
    const struct secret *s = list_entry(node, struct secret, link);
    if (s->len > longest) longest = s->len;
  }
  longest *= 3; /* as long as it is when it is encoded */
  const char *p = text + (from > longest ? from - longest : 0), *shown = text + from;
  const char *end = len - from - n > longest ? shown + n + longest : text + len;
  while ((p = first_in(p, end, &length)) != NULL && p < shown + n) {
    if (p + length > shown) return true;
    p++;
  }
  return false;
}

static bool scrub_into(struct buf *out, const char *p, size_t n) {
  const char *end = p + n, *at;
  size_t length;
  while ((at = first_in(p, end, &length)) != NULL) {
    if (buf_append(out, p, (size_t)(at - p)) != BUF_OK) return false;
    if (buf_append_str(out, REDACTED) != BUF_OK) return false;
    p = at + length;
  }
  return buf_append(out, p, (size_t)(end - p)) == BUF_OK;
}

static int push_scrubbed(lua_State *L, const char *text, size_t n) {
  struct buf out;
  buf_init(&out, HTTP_BODY_MAX);
  if (!scrub_into(&out, text, n))
    lua_pushliteral(L, REDACTED); /* too long, or no memory: rather nothing than too much */
  else
    lua_pushlstring(L, out.data != NULL ? out.data : "", out.len);
  buf_free(&out);
  return 1;
}

/* core.scrub(text) -> the text without the bytes of any secret there is now. */
static int scrub(lua_State *L) {
  size_t n, length;
  const char *text = luaL_checklstring(L, 1, &n);
  if (first_in(text, text + n, &length) == NULL) {
    lua_settop(L, 1);
    return 1;
  }
  return push_scrubbed(L, text, n);
}

/* core.redact(text) -> the text without them, and without what looks like a credential
** (base/redact.h): for the words of a server that deals in them. */
static int redact(lua_State *L) {
  size_t n;
  const char *text = luaL_checklstring(L, 1, &n);
  struct buf out;
  buf_init(&out, HTTP_BODY_MAX);
  if (redact_text(text, n, &out) != BUF_OK)
    lua_pushliteral(L, REDACTED);
  else
    lua_pushlstring(L, out.data != NULL ? out.data : "", out.len);
  buf_free(&out);
  lua_replace(L, 1);
  return scrub(L);
}

int luaopen_sluice_core_secret(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"reveal", reveal}, {"name", name},       {"__tostring", to_string},
      {"__gc", wipe},     {"__concat", refuse}, {"__len", refuse},
      {"__lt", refuse},   {"__le", refuse},     {NULL, NULL}};
  static const luaL_Reg functions[] = {{"new", new_secret},
                                       {"live", new_live},
                                       {"prefixed", prefixed},
                                       {"basic", basic},
                                       {"is", is_secret},
                                       {"source", source},
                                       {"current", current},
                                       {"text", text},
                                       {"on_reveal", set_on_reveal},
                                       {"same", same},
                                       {"fingerprint", fingerprint},
                                       {"scrub", scrub},
                                       {"redact", redact},
                                       {NULL, NULL}};
  bind_new_type(L, SECRET_TYPE, methods);
  lua_pushliteral(L, "sluice.secret");
  lua_setfield(L, -2, "__metatable"); /* getmetatable shows only the name */
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
