/*
** The standard functions that stand between a script and the scheduler, replaced by ones that know
** of tasks: pcall and xpcall let a cancellation pass; coroutine.resume and coroutine.wrap pass a
** task's wait up to the scheduler, so that a generator may wait like any other code.
*/
#ifndef SLUICE_TASK_COROUTINE_H
#define SLUICE_TASK_COROUTINE_H

#include <lua.h>

/* The construct that keeps L's task from waiting here ("table.sort"), or NULL when it may wait. */
const char *coroutine_cannot_wait(lua_State *L);

/* Lua's own functions under names of ours, for bind/ to publish. */
int coroutine_pcall(lua_State *L);
int coroutine_xpcall(lua_State *L);
int coroutine_resume(lua_State *L);
int coroutine_wrap(lua_State *L);
int coroutine_yield(lua_State *L);
int coroutine_close(lua_State *L);

/* `thread` belongs to a task from now on: scripts cannot resume or close it. */
void coroutine_mark_task(lua_State *thread);

/* Call before the functions above are used, with the standard libraries open. */
void coroutine_init(lua_State *L);

#endif
