/* Registration of the C modules, and shared checks: see bind.h. */
#include "bind/bind.h"

#include <math.h>

#include "task/coroutine.h"
#include "task/scope.h"
#include "task/task.h"

#define SECONDS_MAX 1e9 /* 31 years: more is a mistake, and it must fit in microseconds */
#define HANDLE_FIELD "__sluice_handle"

void bind_new_type(lua_State *L, const char *type, const luaL_Reg *methods) {
  luaL_newmetatable(L, type);
  lua_pushvalue(L, -1);
  luaL_setfuncs(L, methods, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
}

void *bind_check_self(lua_State *L, const char *type) {
  void *self = lua_touserdata(L, 1);
  if (self != NULL && lua_getmetatable(L, 1)) {
    int same = lua_rawequal(L, -1, lua_upvalueindex(1));
    lua_pop(L, 1);
    if (same) return self;
  }
  return luaL_checkudata(L, 1, type);
}

int64_t bind_check_seconds(lua_State *L, int arg) {
  lua_Number s = luaL_checknumber(L, arg);
  luaL_argcheck(L, isfinite(s) && s >= 0 && s <= SECONDS_MAX, arg,
                "seconds expected: a finite number, 0 or more");
  return (int64_t)(s * 1e6);
}

int64_t bind_field_seconds(lua_State *L, int index, const char *name, int64_t absent) {
  int64_t us = absent;
  if (lua_getfield(L, index, name) != LUA_TNIL) {
    int ok;
    lua_Number s = lua_tonumberx(L, -1, &ok);
    if (!ok || !isfinite(s) || s < 0 || s > SECONDS_MAX)
      luaL_error(L, "%s: seconds expected (a finite number, 0 or more), got %s", name,
                 luaL_tolstring(L, -1, NULL));
    us = (int64_t)(s * 1e6);
  }
  lua_pop(L, 1);
  return us;
}

void bind_set_handle_offset(lua_State *L, size_t offset) {
  lua_pushinteger(L, (lua_Integer)offset);
  lua_setfield(L, -2, HANDLE_FIELD);
}

void bind_adopt(lua_State *L, int index) {
  index = lua_absindex(L, index);
  int type = lua_type(L, index);
  if ((type != LUA_TUSERDATA && type != LUA_TTABLE) || task_running() == NULL) return;
  int field = luaL_getmetafield(L, index, HANDLE_FIELD);
  if (field == LUA_TNUMBER && type == LUA_TUSERDATA) {
    size_t offset = (size_t)lua_tointeger(L, -1);
    struct handle *h = (struct handle *)(void *)((char *)lua_touserdata(L, index) + offset);
    if (handle_owned(h)) handle_adopt(h, scope_owner(task_running()->scope));
  } else if (field == LUA_TSTRING && type == LUA_TTABLE) {
    lua_rawget(L, index); /* the field that holds the handle */
    luaL_checkstack(L, 4, NULL);
    bind_adopt(L, -1);
  }
  if (field != LUA_TNIL) lua_pop(L, 1);
}

void bind_open(lua_State *L) {
  static const luaL_Reg modules[] = {
      {"sluice.core.task", luaopen_sluice_core_task},
      {"sluice.core.sync", luaopen_sluice_core_sync},
      {"sluice.core.http", luaopen_sluice_core_http},
      {"sluice.core.json", luaopen_sluice_core_json},
      {"sluice.core.server", luaopen_sluice_core_server},
      {"sluice.core.secret", luaopen_sluice_core_secret},
      {"sluice.core.sys", luaopen_sluice_core_sys},
      {"sluice.core.token", luaopen_sluice_core_token},
      {"sluice.core.file", luaopen_sluice_core_file},
      {"sluice.core.process", luaopen_sluice_core_process},
      {"sluice.core.metrics", luaopen_sluice_core_metrics},
      {"sluice.core.text", luaopen_sluice_core_text},
      {"sluice.core.terminal", luaopen_sluice_core_terminal},
      {"sluice.core.library", luaopen_sluice_core_library},
      {NULL, NULL},
  };
  static const luaL_Reg globals[] = {
      {"pcall", coroutine_pcall}, {"xpcall", coroutine_xpcall}, {NULL, NULL}};
  static const luaL_Reg coroutines[] = {{"resume", coroutine_resume},
                                        {"wrap", coroutine_wrap},
                                        {"yield", coroutine_yield},
                                        {"close", coroutine_close},
                                        {NULL, NULL}};
  coroutine_init(L);
  lua_pushglobaltable(L);
  luaL_setfuncs(L, globals, 0);
  lua_getfield(L, -1, "coroutine");
  luaL_setfuncs(L, coroutines, 0);
  lua_pop(L, 2);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  luaL_setfuncs(L, modules, 0);
  lua_pop(L, 1);
}
