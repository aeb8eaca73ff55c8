/*
** Tasks: who runs and who waits. Reading order: struct task, task_park, task_wake, then task.c.
**
** A task is a Lua coroutine whose base frame is a protected call, so that an error unwinds through
** its `<close>` variables, and those may wait. It has at most one pending wait, with one undo.
** Callbacks of the loop never enter Lua: they set a result and call task_wake; the scheduler
** resumes the task later, in its own turn.
*/
#ifndef SLUICE_TASK_TASK_H
#define SLUICE_TASK_TASK_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "io/loop.h"

struct scope;

enum task_state { TASK_READY, TASK_RUNNING, TASK_WAITING, TASK_DONE };

enum wake {
  WAKE_OK,       /* what was waited for is there */
  WAKE_TIMEOUT,  /* the timed wait ran out */
  WAKE_CANCELLED /* the scope was cancelled; the wait has been undone */
};

struct task {
  struct list link;        /* in scope->tasks of the scope it was spawned into */
  struct list queue;       /* in the ready queue, or in the wait queue it is parked on */
  struct loop_timer timer; /* its sleep, or the limit of a timed wait */
  struct list joiners;     /* tasks parked until this one ends */
  lua_State *thread;
  lua_State *parked_in; /* the thread that waits: `thread`, or a coroutine the script made inside */
  struct scope *base;   /* the scope it was spawned into */
  struct scope *scope;  /* the innermost scope it runs in now */
  uint64_t id;

  /* The pending wait. `what` reads after "waiting on": "sleep", "POST https://…". */
  const char *what;
  int64_t since_us;
  void (*undo)(struct task *);
  void *subject; /* whatever the undo and the continuation need; dies with the wait */
  lua_KFunction k;
  lua_KContext ctx;

  int anchor; /* keeps the task and its thread alive while it runs */
  enum task_state state;
  enum wake wake;
  bool external;      /* the wait ends by an event from outside: it cannot be part of a deadlock */
  bool cancelled;     /* this task alone was cancelled */
  bool failed;        /* its result is an error value */
  bool cancelled_out; /* that error value is a cancellation */
  bool cancel_raised; /* what the last primitive did in it was to raise its cancellation */
  int nargs;          /* values waiting on the thread for the next resume */
  const char *reason; /* why it was cancelled, a static string */
  char spawned_at[40];
};

/* What a primitive says of the wait it is about to begin. */
struct wait {
  const char *what;
  /* Take the wait back; must not call Lua. NULL: a wait for the tasks of the group `subject`, which
  ** is not taken back; they are cancelled instead. */
  void (*undo)(struct task *);
  void *subject;
  bool external;
};

/* ---- for primitives ---------------------------------------------------------------------- */

/* The task that runs; raises outside of one, so that a primitive never meets NULL. */
struct task *task_current(lua_State *L);
struct task *task_running(void); /* or NULL */

/* Raise `cancelled` if the running task has been cancelled. Every primitive begins with it. */
void task_check(lua_State *L);

bool task_is_cancelled(const struct task *t);

/* Park the running task until task_wake. Call as `return task_park(L, &wait, ctx, k)`; `k` runs
** with the stack as it was, after a cancellation has been raised; task_running()->wake says how
** it woke. Raises, without parking, where Lua cannot wait (inside table.sort, gsub, require, a
** finalizer, …); the undo is run in that case. */
int task_park(lua_State *L, const struct wait *w, lua_KContext ctx, lua_KFunction k);

/* Make a parked task ready. Does nothing to a task that is not waiting. */
void task_wake(struct task *t, enum wake how);

/* ---- wait queues: FIFO, linked through task->queue ---------------------------------------- */

/* The undo of a task that stands in a wait queue (and may have its timer armed). */
void task_undo_queue(struct task *t);

static inline struct task *waitq_head(const struct list *q) {
  return list_empty(q) ? NULL : list_entry(q->next, struct task, queue);
}

/* Park in `q`, at most until `until_us` (LOOP_NEVER: no limit). */
int task_park_queue(lua_State *L, struct list *q, const char *what, int64_t until_us,
                    lua_KContext ctx, lua_KFunction k);
bool waitq_wake_one(struct list *q);
void waitq_wake_all(struct list *q);

/* ---- life -------------------------------------------------------------------------------- */

#define TASK_TYPE "sluice.task"

/* Make a task of the function and `nargs` arguments on top of L's stack (popped) and push its
** handle. It becomes ready; it runs in the scheduler's turn. */
struct task *task_spawn(lua_State *L, struct scope *scope, int nargs);
void task_cancel(struct task *t, const char *reason);
struct task *task_check_handle(lua_State *L, int arg);
/* Undo the wait of a parked task and wake it as cancelled; not if its wait has no undo. */
void task_interrupt(struct task *t);
/* Let go of a task that has ended (the group has read its error). */
void task_release(lua_State *L, struct task *t);

/* The innermost line of the user's own code on L's stack, as "script.lua:12"; "" when there is
 * none. */
void task_where(lua_State *L, int level, char *out, size_t size);

/* ---- the scheduler ----------------------------------------------------------------------- */

struct sched_stats {
  uint64_t spawned, resumed;
  size_t live, waiting_external;
};

void sched_init(lua_State *L);
void sched_close(lua_State *L); /* after the root has ended */

/* Run until `root` is done. Raises a deadlock inside `root` when nothing can wake any task. */
void sched_run(struct task *root);
/* One turn: run what is ready, then wait for events at most `max_wait_us`. */
void sched_turn(int64_t max_wait_us);
const struct sched_stats *sched_stats(void);

/* The one place that calls lua_resume; for coroutine.resume and coroutine.wrap. */
int sched_resume(lua_State *co, lua_State *from, int nargs, int *nresults);
/* Run the pending __close metamethods of `co`, which is dead then; its error, if any, is on its
 * top. */
int sched_close_thread(lua_State *co, lua_State *from);
/* The one place that calls lua_yieldk; for task_park and for coroutine.yield. */
int sched_yield_out(lua_State *L, int nresults, lua_KContext ctx, lua_KFunction k);

/* The thread that runs Lua right now; read by async signal handlers. */
lua_State *sched_running_thread(void);
uint64_t sched_burst(void); /* counts resumes: the same number twice means one long burst */

/* Has the running task parked, as opposed to a user's own coroutine.yield? */
bool sched_parked(void);

#endif
