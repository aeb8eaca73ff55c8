/*
** sluice.core.json, between its files: json.c (module table, array, quote), json_decode.c,
** json_encode.c, and json_scan.c under decode. The codec is lua-cjson throughout; these files check
** what goes in, put right what lua-cjson gets wrong, and say clearly where something is wrong.
*/
#ifndef SLUICE_BIND_JSON_H
#define SLUICE_BIND_JSON_H

#include <lua.h>

/* Every function of the module is a closure over these. */
enum {
  JSON_UP_ENCODE =
      1,          /* encode, decode and encode_keep_buffer of an instance of lua-cjson that is */
  JSON_UP_DECODE, /* ours alone: what a script sets on require "cjson" does not reach it */
  JSON_UP_KEEP_BUFFER,
  JSON_UP_ARRAY, /* the metatable that marks an array */
  JSON_UP_COUNT = JSON_UP_ARRAY
};

/* In strings on their way through lua-cjson this byte opens a stand-in for something else. UTF-8
** has no such byte, and both directions check all UTF-8, so no string from outside can be one. */
#define JSON_STANDIN 0xff

int json_decode(lua_State *L);
int json_encode(lua_State *L);

/* Is the value at `index` a table marked as an array? */
int json_is_marked(lua_State *L, int index);

int luaopen_sluice_core_json(lua_State *L);

#endif
