/*
** json.decode: check UTF-8, check the grammar (json_scan.c), let lua-cjson build the value, settle
** what it built. It owns the positions in error messages. It never builds tables itself, except the
** empty array.
**
** lua-cjson 2.1.0 as Debian ships it makes every number a float, cannot tell [] from {}, and
** refuses lone surrogates. So before it runs, [] and integers a float cannot hold become stand-ins,
** strings that open with a byte no UTF-8 has, and lone surrogates become U+FFFD. After it ran, one
** walk over the value turns integral floats into integers, stand-ins into what they stand for, and
** marks the arrays.
*/
#include "bind/json.h"

#include <lauxlib.h>
#include <lua-cjson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/redact.h"
#include "base/utf8.h"
#include "bind/json_scan.h"
#include "bind/secret.h"

#define EXCERPT_MAX 24               /* bytes of the text an error shows */
#define EXACT_MAX 9007199254740992.0 /* 2^53: above it not every integer is a double */
#define BOM "\xef\xbb\xbf"

struct decoding {
  lua_State *L;
  const char *text; /* behind a byte order mark, if there is one */
  size_t len;
  size_t skipped; /* bytes of that mark */
  bool repair, excerpt;
  bool standins; /* the text given to lua-cjson has some */
};

/* Raise "json: WHAT at line L, column C (byte B): near `…`". Columns count characters. */
static int raise(const struct decoding *d, size_t offset, const char *what) {
  lua_State *L = d->L;
  char shown[EXCERPT_MAX + 1];
  size_t line = 1, column = 1, left = d->len - offset, n;
  const char *more = "";
  for (size_t i = 0; i < offset; i++) {
    if (d->text[i] == '\n') {
      line++;
      column = 1;
    } else if (((unsigned char)d->text[i] & 0xc0) != 0x80) {
      column++;
    }
  }
  n = left < EXCERPT_MAX ? left : EXCERPT_MAX;
  n = utf8_valid_prefix(d->text + offset, n);
  if (n < left) more = "…";
  for (size_t i = 0; i < n; i++) {
    char c = d->text[offset + i];
    shown[i] = (unsigned char)c < ' ' || c == '\x7f' ? ' ' : c;
  }
  shown[n] = '\0';
  luaL_where(L, 1);
  lua_pushfstring(L, "json: %s at line %I, column %I (byte %I)", what, (LUAI_UACINT)line,
                  (LUAI_UACINT)column, (LUAI_UACINT)(d->skipped + offset + 1));
  if (left == 0) {
    lua_pushliteral(L, ": the text ends there");
  } else if (d->excerpt && n > 0 && secret_within(d->text, d->len, offset, n)) {
    lua_pushliteral(L, ": near `" REDACTED "`");
  } else if (d->excerpt && n > 0) {
    lua_pushfstring(L, ": near `%s%s`", shown, more);
  } else {
    lua_pushliteral(L, "");
  }
  lua_concat(L, 3);
  return lua_error(L);
}

/* ---- the argument ------------------------------------------------------------------------- */

static void read_options(struct decoding *d, int index) {
  lua_State *L = d->L;
  if (lua_isnoneornil(L, index)) return;
  if (!lua_istable(L, index)) {
    luaL_error(L, "json.decode: the options must be a table, got %s", luaL_typename(L, index));
  }
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    bool *into = strcmp(name, "repair") == 0    ? &d->repair
                 : strcmp(name, "excerpt") == 0 ? &d->excerpt
                                                : NULL;
    if (into == NULL) {
      luaL_error(L, "json.decode: unknown option '%s' (there are repair and excerpt)", name);
    } else if (!lua_isboolean(L, -1)) {
      luaL_error(L, "json.decode: option '%s' is a boolean, not a %s", name, luaL_typename(L, -1));
    } else {
      *into = lua_toboolean(L, -1) != 0;
    }
    lua_pop(L, 1);
  }
}

static int release_buf(lua_State *L) {
  buf_free(lua_touserdata(L, 1));
  return 0;
}

/* Put the text with U+FFFD for whatever is not UTF-8 in slot 1. The buffer hangs on a userdata so
** that running out of memory below does not leak it. */
static void repair_text(struct decoding *d, const char *text, size_t n) {
  lua_State *L = d->L;
  struct buf *out = lua_newuserdatauv(L, sizeof *out, 0);
  enum buf_status status;
  buf_init(out, JSON_TEXT_MAX);
  if (luaL_newmetatable(L, "sluice.json.repair")) {
    lua_pushcfunction(L, release_buf);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  status = utf8_repair(text, n, out);
  if (status != BUF_OK) {
    luaL_error(L, "json: %s while repairing the UTF-8 of %I bytes",
               status == BUF_FULL ? "the limit for a text was reached" : "not enough memory",
               (LUAI_UACINT)n);
  }
  lua_pushlstring(L, out->data, out->len);
  buf_free(out);
  lua_replace(L, 1);
  lua_pop(L, 1);
}

/* From the Lua string in slot 1. */
static void take_text(struct decoding *d) {
  d->text = lua_tolstring(d->L, 1, &d->len);
  d->skipped = 0;
  if (d->len >= 3 && memcmp(d->text, BOM, 3) == 0) {
    d->text += 3;
    d->len -= 3;
    d->skipped = 3;
  }
}

static void check_text(struct decoding *d) {
  size_t n, valid;
  const char *text = lua_tolstring(d->L, 1, &n);
  if (n > JSON_TEXT_MAX) {
    luaL_error(d->L, "json: the text has %I bytes; the limit is %I", (LUAI_UACINT)n,
               (LUAI_UACINT)JSON_TEXT_MAX);
  }
  valid = utf8_valid_prefix(text, n);
  if (valid != n && d->repair) repair_text(d, text, n);
  take_text(d);
  if (valid != n && !d->repair) {
    char what[40];
    snprintf(what, sizeof what, "invalid UTF-8 (0x%02x)", (unsigned)(unsigned char)text[valid]);
    raise(d, valid - d->skipped, what);
  }
}

/* ---- before lua-cjson ----------------------------------------------------------------------- */

/* Raise when the number in [from, to) is beyond a double. Lua's own conversion decides: unlike
** strtod it is not led astray by a locale. */
static void check_range(struct decoding *d, const char *from, const char *to) {
  lua_State *L = d->L;
  const char *token = lua_pushlstring(L, from, (size_t)(to - from));
  if (lua_stringtonumber(L, token) == 0 || isinf(lua_tonumber(L, -1))) {
    raise(d, (size_t)(from - d->text), "a number too large for a double");
  }
  lua_pop(L, 2);
}

static void add_standin(struct decoding *d, luaL_Buffer *out, const struct json_scan *s) {
  const char *from = (const char *)s->piece, *to = (const char *)s->at;
  if (s->kind == JSON_PIECE_LONE_SURROGATE) {
    luaL_addstring(out, "\\ufffd");
    return;
  }
  d->standins = true;
  luaL_addchar(out, '"');
  luaL_addchar(out, (char)JSON_STANDIN);
  if (s->kind != JSON_PIECE_EMPTY_ARRAY) {
    if (s->kind == JSON_PIECE_HUGE_NUMBER) check_range(d, from, to);
    luaL_addlstring(out, from, (size_t)(to - from));
  }
  luaL_addchar(out, '"');
}

/* Check the grammar and push the text for lua-cjson. */
static void scan(struct decoding *d, struct json_scan *s) {
  lua_State *L = d->L;
  enum json_scan_event event;
  const char *copied = d->text, *end = d->text + d->len;
  bool changed = false;
  luaL_Buffer out;
  json_scan_init(s, d->text, d->len);
  while ((event = json_scan_next(s)) == JSON_SCAN_PIECE) {
    if (!changed) luaL_buffinit(L, &out);
    changed = true;
    luaL_addlstring(&out, copied, (size_t)((const char *)s->piece - copied));
    add_standin(d, &out, s);
    copied = (const char *)s->at;
  }
  if (event == JSON_SCAN_WRONG) raise(d, (size_t)((const char *)s->at - d->text), s->wrong);
  if (changed) {
    luaL_addlstring(&out, copied, (size_t)(end - copied));
    luaL_pushresult(&out);
  } else if (d->skipped > 0) {
    lua_pushlstring(L, d->text, d->len);
  } else {
    lua_pushvalue(L, 1);
  }
}

/* lua-cjson reads numbers with strtod and remembers the locale's decimal point from when it last
** made an instance. After os.setlocale that may be wrong, and 0.5 becomes 0 or an error. So a text
** with fractions is preceded by a try, and when that fails a new instance refreshes the memory. */
static void check_decimal_point(lua_State *L) {
  bool right;
  lua_pushvalue(L, lua_upvalueindex(JSON_UP_DECODE));
  lua_pushliteral(L, "0.5");
  right = lua_pcall(L, 1, 1, 0) == LUA_OK && lua_tonumber(L, -1) == 0.5;
  lua_pop(L, 1);
  if (right) return;
  lua_pushcfunction(L, luaopen_cjson);
  lua_call(L, 0, 0);
}

/* ---- after lua-cjson ------------------------------------------------------------------------ */

/* Number on top: an integral one becomes an integer, except -0.0, which only a float can be. */
static bool settle_number(lua_State *L) {
  lua_Number x = lua_tonumber(L, -1);
  lua_Integer i;
  if (!(x >= -EXACT_MAX && x <= EXACT_MAX)) return false;
  i = (lua_Integer)x;
  if ((lua_Number)i != x || (i == 0 && signbit(x))) return false;
  lua_pop(L, 1);
  lua_pushinteger(L, i);
  return true;
}

/* String on top: put what it stands for in its place. */
static bool settle_string(lua_State *L) {
  const char *s = lua_tostring(L, -1);
  if ((unsigned char)s[0] != JSON_STANDIN) return false;
  if (s[1] == '\0') {
    lua_newtable(L);
    lua_pushvalue(L, lua_upvalueindex(JSON_UP_ARRAY));
    lua_setmetatable(L, -2);
  } else {
    lua_stringtonumber(L, s + 1); /* an integer as far as int64 goes, else a float */
    if (!lua_isinteger(L, -1)) settle_number(L);
  }
  lua_remove(L, -2);
  return true;
}

static void settle_table(struct decoding *d);

/* Settle the value on top. True when another one stands there now. Tables are settled in place. */
static inline bool settle(struct decoding *d) {
  switch (lua_type(d->L, -1)) {
  case LUA_TNUMBER:
    return settle_number(d->L);
  case LUA_TSTRING:
    return d->standins && settle_string(d->L);
  case LUA_TTABLE:
    settle_table(d);
    return false;
  default:
    return false;
  }
}

/* Table on top, as lua-cjson made it: keys are strings in an object, 1..n in an array. */
static void settle_table(struct decoding *d) {
  lua_State *L = d->L;
  lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
  luaL_checkstack(L, 4, "json.decode");
  if (n > 0) {
    lua_pushvalue(L, lua_upvalueindex(JSON_UP_ARRAY));
    lua_setmetatable(L, -2);
    for (lua_Integer i = 1; i <= n; i++) {
      lua_rawgeti(L, -1, i);
      if (settle(d)) {
        lua_rawseti(L, -2, i);
      } else {
        lua_pop(L, 1);
      }
    }
    return;
  }
  lua_pushnil(L);
  while (lua_next(L, -2) != 0) {
    if (settle(d)) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, -4); /* the key exists: allowed while traversing */
    } else {
      lua_pop(L, 1);
    }
  }
}

int json_decode(lua_State *L) {
  struct decoding d = {.L = L, .excerpt = true};
  struct json_scan s;
  if (lua_type(L, 1) != LUA_TSTRING) {
    return luaL_error(L, "json.decode: the text must be a string, got %s", luaL_typename(L, 1));
  }
  read_options(&d, 2);
  lua_settop(L, 1);
  check_text(&d);
  lua_pushvalue(L, lua_upvalueindex(JSON_UP_DECODE));
  scan(&d, &s);
  if (s.fractions) check_decimal_point(L);
  lua_call(L, 1, 1);
  if (s.numbers || s.arrays || d.standins) settle(&d);
  return 1;
}
