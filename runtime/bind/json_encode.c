/*
** json.encode: a walk over the value finds what lua-cjson would get wrong, or would refuse without
** saying where; then lua-cjson writes the text. It owns the paths in error messages. It never
** changes a table of the caller.
**
** Most values need nothing (is_plain, the short way). Where lua-cjson would write the wrong thing,
** an empty array as {} or a number of more than 14 digits, the full walk (check) puts a stand-in: a
** string that opens with a byte no UTF-8 has, followed by the text wanted. It goes into copies of
** the tables on the way there, made only then. Afterwards the stand-ins in the text lose their
** quotes and that byte, and `\/`, which lua-cjson writes for `/`, loses its backslash.
*/
#include "bind/json.h"

#include <langinfo.h>
#include <lauxlib.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/utf8.h"

#define CJSON_DIGITS_LIMIT 1e14      /* lua-cjson writes %.14g: integers below this are exact */
#define EXACT_MAX 9007199254740992.0 /* 2^53 */
#define SHORT_DECIMALS 10            /* places after the point tried before asking snprintf */
#define LITERAL_MAX 40               /* bytes of a number's text: -1.7976931348623157e+308 is 24 */
#define TABLES_MAX (1 << 21)         /* in one value, counted each time one appears */
#define PATH_ENDS 6                  /* parts of a long path shown at its beginning and its end */
#define PATH_KEY_MAX 40              /* bytes of a key shown in a path */
#define KEEP_BUFFER_MAX (256u << 10) /* bytes above which lua-cjson's buffer is given back */

/* One per open table; the chain from the value under way to the root is the path to it. */
struct place {
  const struct place *up;
  int table, key; /* where on the stack they are */
};

struct encoding {
  lua_State *L;
  size_t size; /* bytes the text will have at the least */
  int depth, tables;
  bool standins; /* the value given to lua-cjson has some */
};

/* ---- errors ------------------------------------------------------------------------------- */

static bool is_name(const char *s, size_t n) {
  if (n == 0 || n > PATH_KEY_MAX || (s[0] >= '0' && s[0] <= '9')) return false;
  for (size_t i = 0; i < n; i++) {
    char c = s[i];
    if (c != '_' && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z')) return false;
  }
  return true;
}

/* A key as a path shows it: `.name`, `[3]` or `["any text"]`. */
static void add_key(luaL_Buffer *b, int key, bool first) {
  lua_State *L = b->L;
  size_t n, shown;
  const char *s;
  if (lua_isinteger(L, key)) {
    lua_pushfstring(L, "[%I]", (LUAI_UACINT)lua_tointeger(L, key));
    luaL_addvalue(b);
    return;
  }
  s = lua_tolstring(L, key, &n);
  if (is_name(s, n)) {
    if (!first) luaL_addchar(b, '.');
    luaL_addlstring(b, s, n);
    return;
  }
  luaL_addstring(b, "[\"");
  shown = utf8_valid_prefix(s, n < PATH_KEY_MAX ? n : PATH_KEY_MAX);
  for (size_t i = 0; i < shown; i++) {
    luaL_addchar(b, (unsigned char)s[i] < ' ' || s[i] == '\x7f' ? ' ' : s[i]);
  }
  luaL_addstring(b, shown < n ? "…\"]" : "\"]");
}

/* Push the path to `at`: "messages[3].content", "the value" for the root. */
static void push_path(lua_State *L, const struct place *at) {
  const struct place *parts[JSON_DEPTH_MAX + 1];
  int n = 0;
  luaL_Buffer b;
  for (; at != NULL && n <= JSON_DEPTH_MAX; at = at->up) parts[n++] = at;
  if (n == 0) {
    lua_pushliteral(L, "the value");
    return;
  }
  luaL_buffinit(L, &b);
  for (int i = n - 1; i >= 0; i--) {
    if (i == PATH_ENDS && n > 2 * PATH_ENDS + 1) luaL_addstring(&b, "…");
    if (i >= n - PATH_ENDS || i < PATH_ENDS || n <= 2 * PATH_ENDS + 1) {
      add_key(&b, parts[i]->key, i == n - 1);
    }
  }
  luaL_pushresult(&b);
}

/* Raise "json: PATH: WHAT". WHAT is on top of the stack. */
static int raise_pushed(const struct encoding *e, const struct place *at) {
  lua_State *L = e->L;
  luaL_checkstack(L, 8, "json.encode");
  luaL_where(L, 1);
  lua_pushliteral(L, "json: ");
  push_path(L, at);
  lua_pushliteral(L, ": ");
  lua_pushvalue(L, -5);
  lua_concat(L, 5);
  return lua_error(L);
}

static int raise(const struct encoding *e, const struct place *at, const char *what) {
  lua_pushstring(e->L, what);
  return raise_pushed(e, at);
}

static int refuse_userdata(const struct encoding *e, const struct place *at) {
  lua_State *L = e->L;
  bool named = luaL_getmetafield(L, -1, "__name") == LUA_TSTRING;
  const char *name = named ? lua_tostring(L, -1) : NULL;
  if (named && strcmp(name, "sluice.secret") == 0) {
    lua_pop(L, 1);
    luaL_tolstring(L, -1, NULL); /* a secret's __tostring gives its name, never its value */
    lua_pushfstring(L, "cannot encode a secret, %s: secrets are not written to JSON",
                    lua_tostring(L, -1));
  } else if (named) {
    lua_pushfstring(L, "cannot encode a userdata (%s)", name);
  } else {
    lua_pushstring(L, lua_islightuserdata(L, -1) ? "cannot encode a light userdata"
                                                 : "cannot encode a userdata");
  }
  return raise_pushed(e, at);
}

/* A key that fits neither an object nor 1..n; it is at stack index `key`, its table at `table`. */
static int refuse_key(const struct encoding *e, const struct place *at, int table, int key) {
  lua_State *L = e->L;
  lua_Integer i = 1;
  luaL_checkstack(L, 8, "json.encode");
  if (lua_type(L, key) == LUA_TSTRING) {
    const struct place odd = {NULL, table, key};
    bool alone = lua_rawlen(L, table) == 0;
    push_path(L, &odd);
    lua_pushfstring(L,
                    alone ? "marked as an array, but it has the key %s"
                          : "mixed keys: %s beside [1] (an object has strings only, an array 1..n)",
                    lua_tostring(L, -1));
  } else if (lua_isinteger(L, key) && lua_tointeger(L, key) > 0) {
    while (lua_rawgeti(L, table, i) != LUA_TNIL) {
      lua_pop(L, 1);
      i++;
    }
    lua_pushfstring(L, "a sparse array: [%I] is set but [%I] is nil (json.null can fill a hole)",
                    (LUAI_UACINT)lua_tointeger(L, key), (LUAI_UACINT)i);
  } else if (lua_type(L, key) == LUA_TNUMBER) {
    luaL_tolstring(L, key, NULL);
    lua_pushfstring(L, "cannot encode the key [%s] (an object has strings only, an array 1..n)",
                    lua_tostring(L, -1));
  } else {
    lua_pushfstring(L, "cannot encode a key that is a %s", luaL_typename(L, key));
  }
  return raise_pushed(e, at);
}

/* Table on top. */
static int refuse_depth(const struct encoding *e, const struct place *at) {
  lua_State *L = e->L;
  const char *why = "";
  for (const struct place *p = at; p != NULL; p = p->up) {
    if (lua_rawequal(L, -1, p->table)) why = ": the table contains itself";
  }
  lua_pushfstring(L, "nested deeper than %d tables%s", JSON_DEPTH_MAX, why);
  return raise_pushed(e, at);
}

/* ---- the walk ----------------------------------------------------------------------------- */

/* Count `n` more bytes of text. */
static void grow(struct encoding *e, size_t n) {
  e->size += n;
  if (e->size > JSON_TEXT_MAX) {
    luaL_error(e->L, "json: the text would be longer than the limit of %I bytes",
               (LUAI_UACINT)JSON_TEXT_MAX);
  }
}

/* Put a stand-in for `literal` where the value on top is. */
static bool stand_in(struct encoding *e, const char *literal) {
  char text[LITERAL_MAX + 2] = {(char)JSON_STANDIN};
  size_t n = strlen(literal);
  memcpy(text + 1, literal, n);
  lua_pushlstring(e->L, text, n + 1);
  lua_replace(e->L, -2);
  e->standins = true;
  return true;
}

/* The fewest digits that read back as `x`, with a point whatever the locale. */
static void write_number(double x, char out[LITERAL_MAX]) {
  const char *radix = nl_langinfo(RADIXCHAR);
  char *found;
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(out, LITERAL_MAX, "%.*g", digits, x);
    if (digits == 17 || strtod(out, NULL) == x) break;
  }
  found = strcmp(radix, ".") == 0 ? NULL : strstr(out, radix);
  if (found == NULL) return;
  *found = '.';
  memmove(found + 1, found + strlen(radix), strlen(found + strlen(radix)) + 1);
}

/* Will lua-cjson, which writes %.14g in the locale, write all of `x`? "No" may be wrong, it only
** costs time. An integer m < 1e14 divided by a power of ten is the double nearest to that decimal,
** so when it equals x, x has no more digits than m. */
static bool is_short(double x) {
  double power = 1;
  if (!(fabs(x) < CJSON_DIGITS_LIMIT)) return false;
  if (x == (double)(int64_t)x) return true;
  if (strcmp(nl_langinfo(RADIXCHAR), ".") != 0) return false;
  for (int places = 1; places <= SHORT_DECIMALS; places++) {
    double scaled, whole;
    power *= 10;
    scaled = x * power;
    if (fabs(scaled) >= CJSON_DIGITS_LIMIT - 1) return false;
    whole = (double)(int64_t)(scaled + copysign(0.5, scaled));
    if (whole / power == x) return true;
  }
  return false;
}

/* Number on top. */
static bool check_number(struct encoding *e, const struct place *at) {
  lua_State *L = e->L;
  char literal[LITERAL_MAX];
  double x = lua_tonumber(L, -1);
  grow(e, 1);
  if (lua_isinteger(L, -1)) {
    if (fabs(x) < CJSON_DIGITS_LIMIT) return false;
    snprintf(literal, sizeof literal, "%lld", (long long)lua_tointeger(L, -1));
    return stand_in(e, literal);
  }
  if (isnan(x)) return raise(e, at, "cannot encode NaN");
  if (isinf(x)) return raise(e, at, x > 0 ? "cannot encode Infinity" : "cannot encode -Infinity");
  if (is_short(x)) return false;
  if (fabs(x) <= EXACT_MAX && x == (double)(int64_t)x) {
    snprintf(literal, sizeof literal, "%lld", (long long)x);
  } else {
    write_number(x, literal);
  }
  return stand_in(e, literal);
}

/* Ends a walk over shared tables before it gets long: a table that holds another twice that holds
** another twice … is a handful of tables and an endless text. */
static void count_table(struct encoding *e) {
  if (++e->tables > TABLES_MAX) {
    luaL_error(e->L, "json: more than %d tables (one that appears again counts again)", TABLES_MAX);
  }
  grow(e, 2);
}

/* String at `index`; `what` it is: "" for a value, "a key with " for a key of the table at `at`. */
static void check_string(struct encoding *e, const struct place *at, int index, const char *what) {
  size_t n, valid;
  const char *s = lua_tolstring(e->L, index, &n);
  valid = utf8_valid_prefix(s, n);
  if (valid != n) {
    lua_pushfstring(e->L, "%sinvalid UTF-8 at byte %I", what, (LUAI_UACINT)(valid + 1));
    raise_pushed(e, at);
  }
  grow(e, n + 2);
}

/* The table at `table` was found to have `replacement` (on top) for the key below it. Put it in the
** copy at table + 1, which is made now if it is nil. Pops the replacement. */
static void store(lua_State *L, int table) {
  int copy = table + 1;
  if (lua_isnil(L, copy)) {
    lua_createtable(L, (int)lua_rawlen(L, table), 0);
    lua_pushnil(L);
    while (lua_next(L, table) != 0) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, -4);
    }
    lua_replace(L, copy);
  }
  lua_pushvalue(L, -2);
  lua_insert(L, -2);
  lua_rawset(L, copy);
}

static bool check_table(struct encoding *e, const struct place *at);

/* Check the value on top, which stands at `at`. True when a stand-in, or a copy that contains one,
** took its place on the stack. */
static bool check(struct encoding *e, const struct place *at) {
  lua_State *L = e->L;
  switch (lua_type(L, -1)) {
  case LUA_TSTRING:
    check_string(e, at, -1, "");
    return false;
  case LUA_TTABLE:
    return check_table(e, at);
  case LUA_TNUMBER:
    return check_number(e, at);
  case LUA_TBOOLEAN:
  case LUA_TNIL:
    grow(e, 4); /* nil: only as the root */
    return false;
  case LUA_TLIGHTUSERDATA:
    if (lua_touserdata(L, -1) != NULL) return refuse_userdata(e, at);
    grow(e, 4);
    return false;
  case LUA_TUSERDATA:
    return refuse_userdata(e, at);
  default:
    lua_pushfstring(L, "cannot encode a %s", luaL_typename(L, -1));
    return raise_pushed(e, at);
  }
}

/* Table on top, at `table`. While it is under way: its copy or nil, a key, a value above it. */
static bool check_table(struct encoding *e, const struct place *at) {
  lua_State *L = e->L;
  const int table = lua_gettop(L), key = table + 2;
  const struct place inside = {at, table, key};
  const lua_Unsigned n = lua_rawlen(L, table);
  const bool marked = json_is_marked(L, table), array = marked || n > 0;
  lua_Unsigned count = 0;
  if (e->depth == JSON_DEPTH_MAX) return refuse_depth(e, at);
  e->depth++;
  count_table(e);
  luaL_checkstack(L, 10, "json.encode");
  lua_settop(L, key); /* no copy yet; nil begins the traversal */
  while (lua_next(L, table) != 0) {
    if (array) {
      if (!lua_isinteger(L, key) || (lua_Unsigned)lua_tointeger(L, key) - 1 >= n) {
        return refuse_key(e, at, table, key);
      }
    } else if (lua_type(L, key) == LUA_TSTRING) {
      check_string(e, at, key, "a key with ");
    } else {
      return refuse_key(e, at, table, key);
    }
    count++;
    if (check(e, &inside)) {
      store(L, table);
    } else {
      lua_pop(L, 1);
    }
  }
  e->depth--;
  if (count < n) { /* the length was a border behind a hole */
    lua_settop(L, table + 1);
    lua_pushinteger(L, (lua_Integer)n);
    return refuse_key(e, at, table, key);
  }
  lua_settop(L, table + 1);
  if (marked && n == 0) {
    lua_pop(L, 1);
    return stand_in(e, "[]");
  }
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    return false;
  }
  lua_replace(L, table);
  return true;
}

/* ---- the short way ------------------------------------------------------------------------ */

#define TABLE_NEED (JSON_TEXT_MAX / TABLES_MAX)

static bool table_is_plain(lua_State *L, int depth, size_t *room);

/* Does lua-cjson write the value on top as it should be, provided its strings are UTF-8? "No" may
** be wrong: then check() decides. Most calls come down to this, so it keeps no path, raises nothing
** and leaves UTF-8 to one look at the finished text. When it says no, things stay on the stack.
** `room`: bytes left below the limit of a text. */
static inline bool is_plain(lua_State *L, int depth, size_t *room) {
  size_t need = 1;
  bool plain;
  switch (lua_type(L, -1)) {
  case LUA_TSTRING:
    need = lua_rawlen(L, -1) + 2;
    plain = true;
    break;
  case LUA_TNUMBER:
    plain = is_short(lua_tonumber(L, -1));
    break;
  case LUA_TBOOLEAN:
    plain = true;
    break;
  case LUA_TTABLE:
    need = TABLE_NEED; /* more than it is, so that a long walk ends here: check() counts tables */
    plain = table_is_plain(L, depth, room);
    break;
  case LUA_TLIGHTUSERDATA:
    plain = lua_touserdata(L, -1) == NULL;
    break;
  default:
    plain = false;
  }
  if (!plain || *room < need) return false;
  *room -= need;
  return true;
}

static bool table_is_plain(lua_State *L, int depth, size_t *room) {
  const int table = lua_gettop(L), key = table + 1;
  const lua_Unsigned n = lua_rawlen(L, table);
  lua_Unsigned count = 0;
  if (depth == 0 || !lua_checkstack(L, 8)) return false;
  if (n == 0 && json_is_marked(L, table)) return false;
  lua_pushnil(L);
  while (lua_next(L, table) != 0) {
    if (n == 0) {
      if (lua_type(L, key) != LUA_TSTRING) return false;
    } else if (!lua_isinteger(L, key) || (lua_Unsigned)lua_tointeger(L, key) - 1 >= n) {
      return false;
    }
    if (!is_plain(L, depth - 1, room)) return false;
    lua_settop(L, key);
    count++;
  }
  return count >= n; /* fewer: the length was a border behind a hole */
}

/* ---- after lua-cjson ------------------------------------------------------------------------ */

/* Text of lua-cjson on top: put it right if it needs that. */
static void settle(struct encoding *e) {
  lua_State *L = e->L;
  size_t n;
  const char *s = lua_tolstring(L, -1, &n), *end = s + n;
  const char *slash = memchr(s, '/', n);
  const char *standin = e->standins ? memchr(s, JSON_STANDIN, n) : NULL;
  luaL_Buffer b;
  if (slash == NULL && standin == NULL) return;
  luaL_buffinitsize(L, &b, n);
  while (slash != NULL || standin != NULL) {
    if (standin == NULL || (slash != NULL && slash < standin)) { /* …\/… */
      luaL_addlstring(&b, s, (size_t)(slash - 1 - s));
      s = slash; /* the slash itself goes with what follows */
      slash = memchr(s + 1, '/', (size_t)(end - s - 1));
    } else { /* …"?text"… */
      const char *close = memchr(standin, '"', (size_t)(end - standin));
      luaL_addlstring(&b, s, (size_t)(standin - 1 - s));
      luaL_addlstring(&b, standin + 1, (size_t)(close - standin - 1));
      s = close + 1;
      standin = memchr(s, JSON_STANDIN, (size_t)(end - s));
    }
  }
  luaL_addlstring(&b, s, (size_t)(end - s));
  luaL_pushresult(&b);
}

/* lua-cjson keeps its buffer, as large as it ever was, for the next text. */
static void release_buffer(lua_State *L) {
  for (int keep = 0; keep <= 1; keep++) {
    lua_pushvalue(L, lua_upvalueindex(JSON_UP_KEEP_BUFFER));
    lua_pushboolean(L, keep);
    lua_call(L, 1, 0);
  }
}

/* Value in slot 1: push lua-cjson's text of it, and its length. */
static const char *call_cjson(lua_State *L, size_t *n) {
  const char *text;
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(JSON_UP_ENCODE));
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  text = lua_tolstring(L, -1, n);
  if (*n > KEEP_BUFFER_MAX) release_buffer(L);
  return text;
}

int json_encode(lua_State *L) {
  struct encoding e = {.L = L};
  size_t room = JSON_TEXT_MAX, n;
  bool done = false;
  if (lua_isnone(L, 1)) return luaL_error(L, "json.encode: there is no value to encode");
  lua_settop(L, 1);
  if (is_plain(L, JSON_DEPTH_MAX, &room)) {
    const char *text = call_cjson(L, &n);
    done = utf8_valid_prefix(text, n) == n;
  }
  if (!done) {
    lua_settop(L, 1);
    check(&e, NULL);
    call_cjson(L, &n);
  }
  settle(&e);
  n = lua_rawlen(L, -1);
  if (n > JSON_TEXT_MAX) {
    return luaL_error(L, "json: the text has %I bytes; the limit is %I", (LUAI_UACINT)n,
                      (LUAI_UACINT)JSON_TEXT_MAX);
  }
  return 1;
}
