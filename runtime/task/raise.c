/* Error tables: see raise.h. */
#include "task/raise.h"

#include <lauxlib.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "task/scope.h"
#include "task/task.h"

#define MESSAGE_MAX 4096

/* Registry key of { value, traceback }: the last error that was not a table. A string carries no
** traceback of its own, and a group raises it a second time, far from where it happened. */
static const char last_error;
static bool remembered; /* the registry holds one */

static void push_fields(lua_State *L, enum err_kind kind, const char *phase, const char *message) {
  lua_createtable(L, 0, 4);
  lua_pushstring(L, err_kind_name(kind));
  lua_setfield(L, -2, "kind");
  lua_pushstring(L, message);
  lua_setfield(L, -2, "message");
  if (phase != NULL) {
    lua_pushstring(L, phase);
    lua_setfield(L, -2, "phase");
  }
  luaL_setmetatable(L, RAISE_METATABLE);
}

void raise_push(lua_State *L, enum err_kind kind, const char *phase, const char *format, ...) {
  char message[MESSAGE_MAX];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  push_fields(L, kind, phase, message);
}

int raise_kind(lua_State *L, enum err_kind kind, const char *phase, const char *format, ...) {
  char message[MESSAGE_MAX];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  push_fields(L, kind, phase, message);
  lua_error(L);
  __builtin_unreachable();
}

int raise_cancelled(lua_State *L, struct task *t) {
  t->cancel_raised = true;
  const char *reason = t->cancelled ? t->reason : t->scope->reason;
  raise_kind(L, ERR_CANCELLED, NULL, "the task was cancelled: %s", reason ? reason : "by request");
}

bool raise_is_kind(lua_State *L, int index, enum err_kind kind) {
  if (lua_type(L, index) != LUA_TTABLE) return false;
  index = lua_absindex(L, index);
  lua_pushliteral(L, "kind");
  lua_rawget(L, index);
  const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  bool same = strcmp(name, err_kind_name(kind)) == 0;
  lua_pop(L, 1);
  return same;
}

static bool is_error_table(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TTABLE || !lua_getmetatable(L, index)) return false;
  luaL_getmetatable(L, RAISE_METATABLE);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return same;
}

void raise_push_traceback(lua_State *L, int index) {
  index = lua_absindex(L, index);
  if (is_error_table(L, index)) {
    lua_pushliteral(L, "traceback");
    lua_rawget(L, index);
    return;
  }
  lua_rawgetp(L, LUA_REGISTRYINDEX, &last_error);
  if (!lua_istable(L, -1)) {
    lua_pop(L, 1);
    lua_pushnil(L);
    return;
  }
  lua_rawgeti(L, -1, 1);
  bool same = lua_rawequal(L, -1, index);
  lua_pop(L, 1);
  if (same)
    lua_rawgeti(L, -1, 2);
  else
    lua_pushnil(L);
  lua_remove(L, -2);
}

void raise_forget(lua_State *L) {
  if (!remembered) return;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &last_error);
  lua_rawgeti(L, -1, 1);
  bool same = lua_rawequal(L, -1, -3);
  lua_pop(L, 2);
  if (!same) return;
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &last_error);
  remembered = false;
}

/* A cancellation that takes its course ends where it began, and nobody asks where it was raised:
** without this, cancelling thousands of tasks is mostly spent on their tracebacks. */
static bool takes_its_course(lua_State *L) {
  struct task *t = task_running();
  return t != NULL && t->cancel_raised && task_is_cancelled(t) && raise_is_cancelled(L, 1);
}

int raise_traceback(lua_State *L) {
  lua_settop(L, 1);
  if (takes_its_course(L)) return 1;
  raise_push_traceback(L, 1);
  if (!lua_isnil(L, -1)) { /* raised again: the first place is the one that tells something */
    lua_settop(L, 1);
    return 1;
  }
  luaL_traceback(L, L, NULL, 1);
  if (is_error_table(L, 1)) {
    lua_setfield(L, 1, "traceback");
  } else {
    lua_createtable(L, 2, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    lua_insert(L, -2);
    lua_rawseti(L, -2, 2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &last_error);
    remembered = true;
  }
  lua_settop(L, 1);
  return 1;
}

void raise_init(lua_State *L) {
  luaL_newmetatable(L, RAISE_METATABLE);
  lua_pop(L, 1);
}
