/*
** sluice.core.text: text that is put together piece by piece and taken as a whole, for what writes
** much of it (traces): neither the pieces nor the numbers in them become Lua strings. Never writes
** anything anywhere.
*/
#include <string.h>

#include "base/buf.h"
#include "base/limits.h"
#include "bind/bind.h"

#define TEXT_TYPE "sluice.text"
#define TEMPLATE_TYPE "sluice.text.template"
#define KEEP (128u << 10) /* bytes of memory kept when the text is taken */
#define DIGITS_MAX 20     /* of a 64-bit integer, the sign included */

static struct buf *check_text(lua_State *L) {
  return luaL_checkudata(L, 1, TEXT_TYPE);
}

/* core.new() -> an empty text */
static int text_new(lua_State *L) {
  struct buf *b = lua_newuserdatauv(L, sizeof *b, 0);
  buf_init(b, TEXT_MAX);
  luaL_setmetatable(L, TEXT_TYPE);
  return 1;
}

static enum buf_status append_integer(struct buf *b, lua_Integer value) {
  char digits[DIGITS_MAX];
  char *p = digits + DIGITS_MAX;
  lua_Unsigned rest = value < 0 ? 0u - (lua_Unsigned)value : (lua_Unsigned)value;
  do *--p = (char)('0' + rest % 10);
  while ((rest /= 10) != 0);
  if (value < 0) *--p = '-';
  return buf_append(b, p, (size_t)(digits + DIGITS_MAX - p));
}

/* What was appended from `from` on is taken back when the rest of it does not go in. */
static void append(lua_State *L, struct buf *b, int arg, size_t from) {
  size_t n;
  enum buf_status status;
  if (lua_type(L, arg) == LUA_TSTRING) {
    const char *s = lua_tolstring(L, arg, &n);
    status = buf_append(b, s, n);
  } else if (lua_isinteger(L, arg)) {
    status = append_integer(b, lua_tointeger(L, arg));
  } else {
    b->len = from;
    luaL_typeerror(L, arg, "string or integer");
    return;
  }
  if (status == BUF_OK) return;
  b->len = from;
  luaL_error(L, status == BUF_FULL ? "text: more than a text may hold" : "not enough memory");
}

/* text:add(…): strings and integers. */
static int text_add(lua_State *L) {
  struct buf *b = check_text(L);
  size_t from = b->len;
  int last = lua_gettop(L);
  for (int i = 2; i <= last; i++) append(L, b, i, from);
  return 0;
}

/* text:fields(before, value, after, before, value, after, …): those whose value is not nil. */
static int text_fields(lua_State *L) {
  struct buf *b = check_text(L);
  size_t from = b->len;
  int last = lua_gettop(L);
  luaL_argcheck(L, last % 3 == 1, last, "three arguments for each field expected");
  for (int i = 2; i <= last; i += 3) {
    if (lua_isnil(L, i + 1)) continue;
    for (int part = 0; part < 3; part++) append(L, b, i + part, from);
  }
  return 0;
}

/* ---- templates ------------------------------------------------------------------------------- */

/* What stands around each value; the bytes are those of a Lua string in user value 1. */
struct template {
  const char *bytes;
  size_t len;
  int count;
  struct around {
    size_t before, after, end; /* where what stands before it begins, behind it begins and ends */
  } values[];
};

/* core.template(before, after, before, after, …) -> what text:fill() takes: two for each value */
static int text_template(lua_State *L) {
  int parts = lua_gettop(L);
  luaL_argcheck(L, parts > 0 && parts % 2 == 0, parts, "two strings for each value expected");
  struct template *t = lua_newuserdatauv(L, sizeof *t + (size_t)parts / 2 * sizeof t->values[0], 1);
  size_t n, at = 0;
  t->count = parts / 2;
  for (int i = 0; i < t->count; i++) {
    struct around *a = &t->values[i];
    a->before = at;
    luaL_checklstring(L, 2 * i + 1, &n);
    a->after = at += n;
    luaL_checklstring(L, 2 * i + 2, &n);
    a->end = at += n;
  }
  lua_insert(L, 1); /* below its parts */
  lua_concat(L, parts);
  t->bytes = lua_tolstring(L, -1, &t->len);
  lua_setiuservalue(L, 1, 1);
  luaL_setmetatable(L, TEMPLATE_TYPE);
  return 1;
}

static enum buf_status put(struct buf *b, const char *bytes, size_t n) {
  if (b->cap - b->len < n) {
    enum buf_status status = buf_reserve(b, n);
    if (status != BUF_OK) return status;
  }
  memcpy(b->data + b->len, bytes, n);
  b->len += n;
  return BUF_OK;
}

/* text:fill(template, value, …): the template around those values that are not nil. */
static int text_fill(lua_State *L) {
  struct buf *b = check_text(L);
  const struct template *t = luaL_checkudata(L, 2, TEMPLATE_TYPE);
  size_t from = b->len;
  if (buf_reserve(b, t->len + (size_t)t->count * DIGITS_MAX) != BUF_OK)
    return luaL_error(L, "text: more than a text may hold");
  for (int i = 0; i < t->count; i++) {
    if (lua_isnoneornil(L, i + 3)) continue;
    const struct around *a = &t->values[i];
    enum buf_status before = put(b, t->bytes + a->before, a->after - a->before);
    append(L, b, i + 3, from);
    if (before != BUF_OK || put(b, t->bytes + a->after, a->end - a->after) != BUF_OK) {
      b->len = from;
      return luaL_error(L, "text: more than a text may hold");
    }
  }
  return 0;
}

/* text:take() -> all of it; the text is empty then. */
static int text_take(lua_State *L) {
  struct buf *b = check_text(L);
  lua_pushlstring(L, b->data != NULL ? b->data : "", b->len);
  buf_clear(b, KEEP);
  return 1;
}

static int text_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)check_text(L)->len);
  return 1;
}

static int text_gc(lua_State *L) {
  buf_free(check_text(L));
  return 0;
}

int luaopen_sluice_core_text(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"add", text_add},   {"fields", text_fields}, {"fill", text_fill}, {"take", text_take},
      {"__len", text_len}, {"__gc", text_gc},       {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"new", text_new}, {"template", text_template}, {NULL, NULL}};
  luaL_newmetatable(L, TEXT_TYPE);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  luaL_newmetatable(L, TEMPLATE_TYPE);
  lua_pop(L, 2);
  luaL_newlib(L, functions);
  return 1;
}
