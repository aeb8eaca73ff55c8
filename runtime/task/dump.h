/* Tasks in words: for SIGUSR1, for the deadlock error, for tests. */
#ifndef SLUICE_TASK_DUMP_H
#define SLUICE_TASK_DUMP_H

#include <lua.h>

struct task;
struct scope;

/* "every task waits for another: …", one line a task; static memory, valid until the next call.
** Allocates nothing, because it runs outside of any protected call. */
const char *dump_deadlock(struct task *root);

/* Push a table of every task under `s`: { id=, state=, waiting_on=, seconds=, at=, spawned_at=,
** traceback= }. May raise (memory). */
void dump_push_tasks(lua_State *L, struct scope *s);

#endif
