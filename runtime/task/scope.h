/*
** Scopes: the tree that cancellation, deadlines and ownership follow.
**
** A task runs in one innermost scope. A *group* scope has tasks and handles of its own and is left
** only when the tasks have ended; then its handles are closed. A deadline and a shield are scopes
** that only change how cancellation reaches what runs inside them.
** Cancellation is level-triggered: once it reaches a scope, every primitive inside raises, again
** and again. It is delivered at suspension points only. A coroutine may stop (coroutine.yield)
** inside scopes it has entered. They stay where they are in the tree, with nobody inside, and
** move under the scope of whoever resumes it; a group that ends ends the groups left in this way
** below it too.
*/
#ifndef SLUICE_TASK_SCOPE_H
#define SLUICE_TASK_SCOPE_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "io/loop.h"

#define SCOPE_TYPE "sluice.scope"

struct task;

/* A resource that must not outlive its group: embedded in a stream, a response, a server. */
struct handle {
  struct list link;               /* in the owning scope's handles; unlinked when closed */
  void (*close)(struct handle *); /* never yields, never raises, never calls Lua */
};

struct scope {
  struct scope *parent;
  struct list link;     /* in parent->children */
  struct list children; /* scopes entered from this one */
  struct list tasks;    /* tasks spawned into this one (groups) */
  struct list failed;   /* tasks that ended with an error nobody has read yet (groups) */
  struct list handles;  /* what they opened (groups) */
  struct task *joiner;  /* parked in scope_wait until `tasks` is empty */
  struct task *entered_by;
  const lua_State *thread; /* the coroutine whose frame runs inside; NULL when none does */
  struct scope *outermost; /* of the scopes `thread` has stopped in, set in the innermost of them */
  struct loop_timer timer; /* the deadline, or a shield's grace */
  int64_t deadline_us;     /* the nearest of this and the enclosing ones */
  int64_t own_deadline_us; /* LOOP_NEVER: none */
  int64_t grace_us;        /* shield: how long outside cancellation is held back */
  const char *reason;      /* why it was cancelled, a static string */
  bool group, shield;
  bool service;   /* belongs to the runtime (an embedded server): idle waits in it are no hope */
  bool cancelled; /* cancel was called here, or the deadline passed */
  bool reached;   /* cancellation is in force here: own, or come from outside */
  bool expired;   /* the deadline passed */
  bool finished;  /* left for good */
};

void scope_init(struct scope *s, struct scope *parent, bool group);
void scope_set_deadline(struct scope *s, int64_t at_us);
void scope_set_shield(struct scope *s, int64_t grace_us);
/* Cancel everything inside; `reason` is a static string and shows in the error. */
void scope_cancel(struct scope *s, const char *reason);
/* True when no task is left in a group, nor in groups that coroutines have stopped in below it:
** those are cancelled, and their tasks and handles become the group's own. */
bool scope_is_empty(struct scope *s);
/* Leave for good: cancel timers, close handles, unlink. Safe to call twice. */
void scope_finish(struct scope *s);

/* `co`, resumed by t, yields to the script: t goes back to where it resumed it. Returns the
** innermost scope that `co` has entered and not left, or NULL. */
struct scope *scope_step_out(struct task *t, const lua_State *co);
/* May t resume a coroutine that has stopped in `inside`? Not a task of a group that it is in. */
bool scope_can_step_in(const struct task *t, const struct scope *inside);
void scope_step_in(struct task *t, struct scope *inside);

/* Cancellation has come from outside to a shield: start its grace. */
void scope_outside_cancelled(struct scope *s);
/* Deadlines and graces still to come: while there is one, nothing is deadlocked. */
size_t scope_timers_armed(void);
/* The first parked task at or below `s` that may be interrupted, or NULL. */
struct task *scope_first_interruptible(struct scope *s);
void scope_each_task(struct scope *root, void (*visit)(struct task *, void *), void *arg);

/* The nearest group at or above `s`: who owns what is opened now. */
struct scope *scope_owner(struct scope *s);
void handle_adopt(struct handle *h, struct scope *owner);
void handle_release(struct handle *h); /* unlink without closing */
static inline bool handle_owned(const struct handle *h) {
  return h->link.next != &h->link;
}
size_t handle_count(void);

#endif
