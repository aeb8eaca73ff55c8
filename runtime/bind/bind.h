/*
** What the files of bind/ share: one open function per Lua module "sluice.core.NAME", and the few
** checks that several of them need.
*/
#ifndef SLUICE_BIND_BIND_H
#define SLUICE_BIND_BIND_H

#include <lauxlib.h>
#include <lua.h>
#include <stdint.h>

struct handle;
struct scope;

int luaopen_sluice_core_task(lua_State *L);
int luaopen_sluice_core_sync(lua_State *L);
int luaopen_sluice_core_http(lua_State *L);
int luaopen_sluice_core_json(lua_State *L);
int luaopen_sluice_core_server(lua_State *L);
int luaopen_sluice_core_secret(lua_State *L);
int luaopen_sluice_core_sys(lua_State *L);
int luaopen_sluice_core_token(lua_State *L);
int luaopen_sluice_core_file(lua_State *L);
int luaopen_sluice_core_process(lua_State *L);
int luaopen_sluice_core_metrics(lua_State *L);
int luaopen_sluice_core_text(lua_State *L);
int luaopen_sluice_core_terminal(lua_State *L);
int luaopen_sluice_core_library(lua_State *L);

/* Put every module into package.preload, replace pcall, xpcall and coroutine.*. */
void bind_open(lua_State *L);

/* Create the metatable of a userdata type, push it; the methods, which are its __index, too, have it
** as their upvalue 1. */
void bind_new_type(lua_State *L, const char *type, const luaL_Reg *methods);
/* For these methods: luaL_checkudata(L, 1, type) without a look-up by name where that is not needed.
 */
void *bind_check_self(lua_State *L, const char *type);

/* A span of seconds (finite, not negative) as microseconds; raises naming the argument. */
int64_t bind_check_seconds(lua_State *L, int arg);
/* The same for an optional field of the options table at `index`; `absent` when it is nil. */
int64_t bind_field_seconds(lua_State *L, int index, const char *name, int64_t absent);

/* A userdata type with an embedded struct handle: the metatable on top of the stack records where.
 */
void bind_set_handle_offset(lua_State *L, size_t offset);
/* Make the group that owns what the running task opens now the owner of the value at `index`, if it
** is a handle or a table around one. */
void bind_adopt(lua_State *L, int index);

/* Frees every registry of metrics, when the Lua state is gone. */
void bind_close_metrics(void);

/* The scope of the runtime's own tasks, parent of the script's. */
struct scope *bind_service_scope(void);

#endif
