/*
** sluice.core.json: the module table, the array mark and quote. encode and decode are in their own
** files; begin with json.h. Never holds state of its own: all of it is in the upvalues.
*/
#include "bind/json.h"

#include <lauxlib.h>
#include <lua-cjson.h>
#include <string.h>

#include "base/limits.h"
#include "base/utf8.h"
#include "bind/json_scan.h"

int json_is_marked(lua_State *L, int index) {
  int marked;
  if (lua_type(L, index) != LUA_TTABLE || !lua_getmetatable(L, index)) return 0;
  marked = lua_rawequal(L, -1, lua_upvalueindex(JSON_UP_ARRAY));
  lua_pop(L, 1);
  return marked;
}

/* array(t?) -> t, marked */
static int array(lua_State *L) {
  if (lua_isnoneornil(L, 1)) {
    lua_settop(L, 0);
    lua_newtable(L);
  }
  if (!lua_istable(L, 1)) {
    return luaL_error(L, "json.array: the argument must be a table, got %s", luaL_typename(L, 1));
  }
  lua_settop(L, 1);
  if (json_is_marked(L, 1)) return 1;
  if (lua_getmetatable(L, 1)) {
    return luaL_error(L, "json.array: the table has a metatable already, and the mark is one");
  }
  lua_pushvalue(L, lua_upvalueindex(JSON_UP_ARRAY));
  lua_setmetatable(L, 1);
  return 1;
}

/* is_array(v) -> would encode write `[`? */
static int is_array(lua_State *L) {
  lua_settop(L, 1);
  lua_pushboolean(L, json_is_marked(L, 1) || (lua_istable(L, 1) && lua_rawlen(L, 1) > 0));
  return 1;
}

/* A byte that json_plain_end stopped at, escaped. */
static void add_escaped(luaL_Buffer *b, unsigned char c) {
  static const char hex[] = "0123456789abcdef", named[] = "\b\t\n\f\r\"\\", letters[] = "btnfr\"\\";
  const char *found = c == '\0' ? NULL : strchr(named, c);
  luaL_addchar(b, '\\');
  if (found != NULL) {
    luaL_addchar(b, letters[found - named]);
  } else {
    luaL_addstring(b, "u00");
    luaL_addchar(b, hex[c >> 4]);
    luaL_addchar(b, hex[c & 15]);
  }
}

/* quote(s) -> s as a JSON string, quotes included */
static int quote(lua_State *L) {
  const unsigned char *p, *end, *plain;
  const char *s;
  size_t n, valid;
  luaL_Buffer b;
  if (lua_type(L, 1) != LUA_TSTRING) {
    return luaL_error(L, "json.quote: the argument must be a string, got %s", luaL_typename(L, 1));
  }
  s = lua_tolstring(L, 1, &n);
  valid = utf8_valid_prefix(s, n);
  if (valid != n) {
    return luaL_error(L, "json.quote: invalid UTF-8 at byte %I", (LUAI_UACINT)(valid + 1));
  }
  if (n > JSON_TEXT_MAX) {
    return luaL_error(L, "json.quote: the string has %I bytes; the limit is %I", (LUAI_UACINT)n,
                      (LUAI_UACINT)JSON_TEXT_MAX);
  }
  luaL_buffinitsize(L, &b, n + 2);
  luaL_addchar(&b, '"');
  p = (const unsigned char *)s;
  end = p + n;
  while ((plain = json_plain_end(p, end)) != end) {
    luaL_addlstring(&b, (const char *)p, (size_t)(plain - p));
    add_escaped(&b, *plain);
    p = plain + 1;
  }
  luaL_addlstring(&b, (const char *)p, (size_t)(end - p));
  luaL_addchar(&b, '"');
  luaL_pushresult(&b);
  return 1;
}

/* Push the functions of a lua-cjson instance of our own, set as we need it, then the array mark. */
static void push_upvalues(lua_State *L) {
  int cjson;
  lua_pushcfunction(L, luaopen_cjson); /* each call makes an instance */
  lua_call(L, 0, 1);
  cjson = lua_gettop(L);
  /* The walk before and the scan before have stricter limits; these are their backstops. */
  lua_getfield(L, cjson, "encode_max_depth");
  lua_pushinteger(L, JSON_DEPTH_MAX);
  lua_call(L, 1, 0);
  lua_getfield(L, cjson, "decode_max_depth");
  lua_pushinteger(L, JSON_DEPTH_MAX);
  lua_call(L, 1, 0);
  lua_getfield(L, cjson, "decode_invalid_numbers");
  lua_pushboolean(L, 0);
  lua_call(L, 1, 0);
  lua_getfield(L, cjson, "encode");
  lua_getfield(L, cjson, "decode");
  lua_getfield(L, cjson, "encode_keep_buffer");
  lua_remove(L, cjson);
  luaL_newmetatable(L, "sluice.json.array");
}

int luaopen_sluice_core_json(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"encode", json_encode}, {"decode", json_decode}, {"array", array},
      {"is_array", is_array},  {"quote", quote},        {NULL, NULL},
  };
  luaL_newlibtable(L, functions);
  push_upvalues(L);
  luaL_setfuncs(L, functions, JSON_UP_COUNT);
  lua_pushlightuserdata(L, NULL); /* the same value as cjson.null */
  lua_setfield(L, -2, "null");
  return 1;
}
