/*
** sluice.core.secret: opaque values. A secret prints as its name, cannot be concatenated, compared
*or
** encoded, and its bytes are wiped when it is collected. Only the header builder reads it; `reveal`
** is the explicit way out.
*/
#include "bind/secret.h"

#include <lauxlib.h>
#include <string.h>

#include "bind/bind.h"

struct secret {
  size_t len;
  char bytes[]; /* NUL-terminated */
};

const char *secret_bytes(lua_State *L, int index, size_t *len) {
  struct secret *s = luaL_testudata(L, index, SECRET_TYPE);
  if (s == NULL) return NULL;
  *len = s->len;
  return s->bytes;
}

static struct secret *push_secret(lua_State *L, size_t len, int name_index) {
  name_index = lua_absindex(L, name_index);
  struct secret *s = lua_newuserdatauv(L, sizeof *s + len + 1, 1);
  s->len = len;
  memset(s->bytes, 0, len + 1);
  luaL_setmetatable(L, SECRET_TYPE);
  lua_pushvalue(L, name_index);
  lua_setiuservalue(L, -2, 1);
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
  size_t n, len;
  const char *prefix = luaL_checklstring(L, 1, &n);
  struct secret *old = luaL_checkudata(L, 2, SECRET_TYPE);
  len = old->len;
  lua_getiuservalue(L, 2, 1);
  struct secret *s = push_secret(L, n + len, -1);
  memcpy(s->bytes, prefix, n);
  memcpy(s->bytes + n, old->bytes, len);
  return 1;
}

static int is_secret(lua_State *L) {
  lua_pushboolean(L, luaL_testudata(L, 1, SECRET_TYPE) != NULL);
  return 1;
}

static int reveal(lua_State *L) {
  struct secret *s = luaL_checkudata(L, 1, SECRET_TYPE);
  lua_pushlstring(L, s->bytes, s->len);
  return 1;
}

static int name(lua_State *L) {
  luaL_checkudata(L, 1, SECRET_TYPE);
  lua_getiuservalue(L, 1, 1);
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
  struct secret *s = luaL_checkudata(L, 1, SECRET_TYPE);
  explicit_bzero(s->bytes, s->len);
  s->len = 0;
  return 0;
}

int luaopen_sluice_core_secret(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"reveal", reveal}, {"name", name},       {"__tostring", to_string},
      {"__gc", wipe},     {"__concat", refuse}, {"__len", refuse},
      {"__lt", refuse},   {"__le", refuse},     {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"new", new_secret}, {"prefixed", prefixed}, {"is", is_secret}, {NULL, NULL}};
  luaL_newmetatable(L, SECRET_TYPE);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, "sluice.secret");
  lua_setfield(L, -2, "__metatable"); /* getmetatable shows only the name */
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
