/*
** Scopes: the tree that cancellation, deadlines and ownership follow.
**
** A task runs in one innermost scope. A *group* scope has tasks and handles of its own and is left
** only when the tasks have ended; then its handles are closed. A deadline and a shield are scopes
** that only change how cancellation reaches what runs inside them.
** Cancellation is level-triggered: once it reaches a scope, every primitive inside raises, again
*and
** again. It is delivered at suspension points only.
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
  struct loop_timer timer; /* the deadline, or a shield's grace */
  int64_t deadline_us;     /* the nearest of this and the enclosing ones */
  int64_t grace_us;        /* shield: how long outside cancellation is held back */
  const char *reason;      /* why it was cancelled, a static string */
  bool group, shield;
  bool service;   /* belongs to the runtime (an embedded server): idle waits in it are no hope */
  bool cancelled; /* cancel was called here, or the deadline passed */
  bool reached;   /* cancellation is in force here: own, or come from outside */
  bool expired;   /* the deadline passed */
  bool linked;
};

void scope_init(struct scope *s, struct scope *parent, bool group);
void scope_set_deadline(struct scope *s, int64_t at_us);
void scope_set_shield(struct scope *s, int64_t grace_us);
/* Cancel everything inside; `reason` is a static string and shows in the error. */
void scope_cancel(struct scope *s, const char *reason);
/* Leave for good: cancel timers, close handles, unlink. Safe to call twice. */
void scope_finish(struct scope *s);

/* Cancellation has come from outside to a shield: start its grace. */
void scope_outside_cancelled(struct scope *s);
/* Deadlines and graces still to come: while there is one, nothing is deadlocked. */
size_t scope_timers_armed(void);
/* The first parked task at or below `s` that may be interrupted, or NULL. */
struct task *scope_first_interruptible(struct scope *s);
void scope_each_task(struct scope *s, void (*visit)(struct task *, void *), void *arg);

/* The nearest group at or above `s`: who owns what is opened now. */
struct scope *scope_owner(struct scope *s);
void handle_adopt(struct handle *h, struct scope *owner);
void handle_release(struct handle *h); /* unlink without closing */
static inline bool handle_owned(const struct handle *h) {
  return h->link.next != &h->link;
}
size_t handle_count(void);

#endif
