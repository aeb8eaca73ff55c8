/*
** Raising failures of the world: the one shape of an error table, and the traceback taken where it
** was thrown. Misuse (a wrong argument) is an ordinary Lua error and does not come through here.
*/
#ifndef SLUICE_TASK_RAISE_H
#define SLUICE_TASK_RAISE_H

#include <lua.h>
#include <stdbool.h>

#include "base/err.h"

struct task;

/* Push { kind=, phase=, message= } with the metatable of errors; the caller may add fields. */
void raise_push(lua_State *L, enum err_kind kind, const char *phase, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
int raise_kind(lua_State *L, enum err_kind kind, const char *phase, const char *format, ...)
    __attribute__((format(printf, 4, 5), noreturn));
int raise_cancelled(lua_State *L, struct task *t) __attribute__((noreturn));

bool raise_is_kind(lua_State *L, int index, enum err_kind kind);
static inline bool raise_is_cancelled(lua_State *L, int index) {
  return raise_is_kind(L, index, ERR_CANCELLED);
}

/* Message handler: adds the traceback to an error table, remembers it for any other value. */
int raise_traceback(lua_State *L);
/* The error on top has been caught: forget its traceback, should it be the one remembered. */
void raise_forget(lua_State *L);
/* Push the traceback remembered for the error value at `index`, or nil. */
void raise_push_traceback(lua_State *L, int index);

/* Create the metatable of errors in the registry; Lua adds its methods. */
#define RAISE_METATABLE "sluice.error"
void raise_init(lua_State *L);

#endif
