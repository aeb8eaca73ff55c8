/* The tree of scopes: see scope.h. Never calls Lua. */
#include "task/scope.h"

#include <string.h>

#include "task/task.h"

static size_t timers_armed, handles_open;

/* ---- cancellation ---------------------------------------------------------------------------- */

static void reach(struct scope *s, const char *reason) {
  if (s->reached) return;
  s->reached = true;
  s->reason = reason;
  struct list *node;
  list_each(node, &s->tasks) {
    struct task *t = list_entry(node, struct task, link);
    if (t->scope == s) task_interrupt(t);
  }
  if (s->entered_by != NULL && s->entered_by->scope == s) task_interrupt(s->entered_by);
  list_each(node, &s->children) {
    struct scope *child = list_entry(node, struct scope, link);
    if (child->shield)
      scope_outside_cancelled(child);
    else
      reach(child, reason);
  }
}

void scope_cancel(struct scope *s, const char *reason) {
  s->cancelled = true;
  reach(s, reason);
}

static void disarm(struct scope *s) {
  if (!loop_timer_armed(&s->timer)) return;
  loop_timer_disarm(&s->timer);
  timers_armed--;
}

static bool arm(struct scope *s, int64_t at_us) {
  disarm(s);
  if (!loop_timer_arm(&s->timer, at_us)) return false;
  timers_armed++;
  return true;
}

void scope_outside_cancelled(struct scope *s) {
  if (s->reached || loop_timer_armed(&s->timer)) return;
  if (!arm(s, loop_refresh_us() + s->grace_us)) reach(s, "out of memory");
}

static void on_timer(struct loop_timer *timer) {
  struct scope *s = list_entry(timer, struct scope, timer);
  timers_armed--;
  if (s->shield) {
    s->shield = false; /* the grace is over: outside cancellation comes in */
    reach(s, s->parent != NULL && s->parent->reason != NULL ? s->parent->reason : "grace is over");
  } else {
    s->expired = true;
    scope_cancel(s, "its deadline passed");
  }
}

size_t scope_timers_armed(void) {
  return timers_armed;
}

/* ---- life ------------------------------------------------------------------------------------ */

void scope_init(struct scope *s, struct scope *parent, bool group) {
  memset(s, 0, sizeof *s);
  s->parent = parent;
  s->group = group;
  s->deadline_us = parent != NULL ? parent->deadline_us : LOOP_NEVER;
  s->service = parent != NULL && parent->service;
  list_init(&s->link);
  list_init(&s->children);
  list_init(&s->tasks);
  list_init(&s->failed);
  list_init(&s->handles);
  loop_timer_init(&s->timer, on_timer);
  if (parent == NULL) return;
  list_append(&parent->children, &s->link);
  s->entered_by = task_running();
  struct task *t = s->entered_by;
  if (t != NULL && t->scope == parent && task_is_cancelled(t)) {
    s->reached = true;
    s->reason = t->cancelled ? t->reason : parent->reason;
  }
}

void scope_set_deadline(struct scope *s, int64_t at_us) {
  if (at_us >= s->deadline_us) return; /* an enclosing one comes first */
  s->deadline_us = at_us;
  if (!arm(s, at_us)) scope_cancel(s, "out of memory");
}

void scope_set_shield(struct scope *s, int64_t grace_us) {
  s->shield = true;
  s->grace_us = grace_us;
  s->deadline_us = s->deadline_us == LOOP_NEVER ? LOOP_NEVER : s->deadline_us + grace_us;
  if (!s->reached) return;
  s->reached = false;
  s->reason = NULL;
  scope_outside_cancelled(s);
}

/* Tasks whose group was dropped in the middle (a generator that nobody finished): they are
*cancelled
** and unwind under the next group outside. */
static void hand_over_tasks(struct scope *s) {
  if (s->parent == NULL) return;
  struct scope *heir = scope_owner(s->parent);
  while (!list_empty(&s->tasks)) {
    struct task *t = list_entry(s->tasks.next, struct task, link);
    task_cancel(t, "its group was dropped");
    list_remove(&t->link);
    list_append(&heir->tasks, &t->link);
    t->base = heir;
    if (t->scope == s) t->scope = heir;
  }
  list_splice(&heir->failed, &s->failed);
}

void scope_finish(struct scope *s) {
  disarm(s);
  hand_over_tasks(s);
  /* A generator that was dropped in the middle leaves its scope behind: hand it to the parent, so
  ** that no child ever points at memory that is gone. */
  while (!list_empty(&s->children)) {
    struct scope *child = list_entry(s->children.next, struct scope, link);
    list_remove(&child->link);
    child->parent = s->parent;
    if (s->parent != NULL) list_append(&s->parent->children, &child->link);
  }
  list_remove(&s->link);
  while (!list_empty(&s->handles)) { /* last opened, first closed */
    struct handle *h = list_entry(s->handles.prev, struct handle, link);
    handle_release(h);
    h->close(h);
  }
}

/* ---- walking --------------------------------------------------------------------------------- */

void scope_each_task(struct scope *s, void (*visit)(struct task *, void *), void *arg) {
  struct list *node;
  list_each(node, &s->tasks) visit(list_entry(node, struct task, link), arg);
  list_each(node, &s->children) {
    scope_each_task(list_entry(node, struct scope, link), visit, arg);
  }
}

static void first_interruptible(struct task *t, void *arg) {
  struct task **found = arg;
  if (*found == NULL && t->state == TASK_WAITING && t->undo != NULL) *found = t;
}

struct task *scope_first_interruptible(struct scope *s) {
  struct task *found = NULL;
  scope_each_task(s, first_interruptible, &found);
  return found;
}

/* ---- ownership ------------------------------------------------------------------------------- */

struct scope *scope_owner(struct scope *s) {
  while (!s->group && s->parent != NULL) s = s->parent;
  return s;
}

void handle_adopt(struct handle *h, struct scope *owner) {
  if (handle_owned(h))
    list_remove(&h->link);
  else
    handles_open++;
  list_append(&owner->handles, &h->link);
}

void handle_release(struct handle *h) {
  if (!handle_owned(h)) return;
  list_remove(&h->link);
  handles_open--;
}

size_t handle_count(void) {
  return handles_open;
}
