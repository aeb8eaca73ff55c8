/* The tree of scopes: see scope.h. Never calls Lua. */
#include "task/scope.h"

#include <string.h>

#include "task/task.h"

static size_t timers_armed, handles_open;

/* ---- walking --------------------------------------------------------------------------------- */

/* The scope after `s` in the tree under `root`, parents before children; NULL: that was the last.
** Not recursive: a script may nest groups deeper than the C stack is. */
static struct scope *after(const struct scope *root, struct scope *s, bool descend) {
  if (descend && !list_empty(&s->children)) return list_entry(s->children.next, struct scope, link);
  for (; s != root; s = s->parent)
    if (s->link.next != &s->parent->children) return list_entry(s->link.next, struct scope, link);
  return NULL;
}

void scope_each_task(struct scope *root, void (*visit)(struct task *, void *), void *arg) {
  for (struct scope *s = root; s != NULL; s = after(root, s, true)) {
    struct list *node;
    list_each(node, &s->tasks) visit(list_entry(node, struct task, link), arg);
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

/* ---- cancellation ---------------------------------------------------------------------------- */

static void reach_one(struct scope *s, const char *reason) {
  s->reached = true;
  s->reason = reason;
  struct list *node;
  list_each(node, &s->tasks) {
    struct task *t = list_entry(node, struct task, link);
    if (t->scope == s) task_interrupt(t);
  }
  if (s->entered_by != NULL && s->entered_by->scope == s) task_interrupt(s->entered_by);
}

static void reach(struct scope *root, const char *reason) {
  bool descend;
  for (struct scope *s = root; s != NULL; s = after(root, s, descend)) {
    descend = !s->reached && (s == root || !s->shield);
    if (descend)
      reach_one(s, reason);
    else if (s->shield)
      scope_outside_cancelled(s);
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
  s->own_deadline_us = LOOP_NEVER;
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
  s->own_deadline_us = at_us;
  if (at_us < s->deadline_us) s->deadline_us = at_us;
  /* Also when an enclosing one comes first: the coroutine this is in may leave that one. */
  if (!arm(s, at_us)) scope_cancel(s, "out of memory");
}

static int64_t after_grace(const struct scope *s, int64_t at_us) {
  return s->shield && at_us != LOOP_NEVER ? at_us + s->grace_us : at_us;
}

void scope_set_shield(struct scope *s, int64_t grace_us) {
  s->shield = true;
  s->grace_us = grace_us;
  s->deadline_us = after_grace(s, s->deadline_us);
  if (!s->reached) return;
  s->reached = false;
  s->reason = NULL;
  scope_outside_cancelled(s);
}

static void inherit_deadlines(struct scope *root) {
  for (struct scope *s = root; s != NULL; s = after(root, s, true)) {
    int64_t outer_us = after_grace(s, s->parent->deadline_us);
    s->deadline_us = outer_us < s->own_deadline_us ? outer_us : s->own_deadline_us;
  }
}

static void move(struct scope *s, struct scope *to) {
  list_remove(&s->link);
  s->parent = to;
  list_append(&to->children, &s->link);
  inherit_deadlines(s);
}

static void inherit_cancellation(struct scope *s, const char *reason) {
  if (s->shield)
    scope_outside_cancelled(s);
  else
    reach(s, reason);
}

/* ---- the end --------------------------------------------------------------------------------- */

/* With the scopes that they have entered. */
static void hand_over_tasks(struct scope *from, struct scope *to, const char *reason) {
  while (!list_empty(&from->tasks)) {
    struct task *t = list_entry(from->tasks.next, struct task, link);
    task_cancel(t, reason);
    list_remove(&t->link);
    list_append(&to->tasks, &t->link);
    t->base = to;
    if (t->scope == from) t->scope = to;
  }
  for (struct list *node = from->children.next, *next; node != &from->children; node = next) {
    struct scope *child = list_entry(node, struct scope, link);
    next = node->next;
    if (child->entered_by != NULL) move(child, to);
  }
  list_splice(&to->failed, &from->failed);
}

/* Below a group without tasks, nobody is inside of a scope, but for what is inside of groups that
** coroutines have stopped in. */
static void take_over_inner(struct scope *group) {
  for (struct scope *s = group; s != NULL; s = after(group, s, s == group || !s->entered_by)) {
    if (s == group || !s->group || s->entered_by != NULL) continue;
    if (!list_empty(&s->tasks)) scope_cancel(s, "its group is done");
    hand_over_tasks(s, group, "its group is done");
    list_splice(&group->handles, &s->handles);
  }
}

bool scope_is_empty(struct scope *s) {
  if (list_empty(&s->tasks)) take_over_inner(s);
  return list_empty(&s->tasks);
}

/* Nobody is left to run them: the program ends. */
static void forget_tasks(struct scope *s) {
  while (!list_empty(&s->tasks)) {
    struct task *t = list_entry(s->tasks.next, struct task, link);
    loop_timer_disarm(&t->timer);
    list_remove(&t->queue);
    list_remove(&t->link);
  }
}

/* No child may ever point at memory that is gone. */
static void hand_over_children(struct scope *s) {
  while (!list_empty(&s->children)) {
    struct scope *child = list_entry(s->children.next, struct scope, link);
    if (s->parent == NULL) {
      list_remove(&child->link);
      child->parent = NULL;
      continue;
    }
    move(child, s->parent);
    if (s->parent->reached) inherit_cancellation(child, s->parent->reason);
  }
}

void scope_finish(struct scope *s) {
  if (s->finished) return;
  s->finished = true;
  s->thread = NULL;
  s->entered_by = NULL;
  disarm(s);
  if (s->group) take_over_inner(s);
  if (s->parent == NULL)
    forget_tasks(s);
  else if (s->group) /* tasks are left when a coroutine was closed or collected in the middle */
    hand_over_tasks(s, scope_owner(s->parent), "its group was dropped");
  hand_over_children(s);
  list_remove(&s->link);
  while (!list_empty(&s->handles)) { /* last opened, first closed */
    struct handle *h = list_entry(s->handles.prev, struct handle, link);
    handle_release(h);
    h->close(h);
  }
}

/* ---- coroutines that stop inside --------------------------------------------------------------
 */

struct scope *scope_step_out(struct task *t, const lua_State *co) {
  struct scope *inside = t->scope, *s = inside;
  for (; s->thread == co; s = s->parent) {
    s->entered_by = NULL;
    inside->outermost = s;
  }
  if (s == inside) return NULL;
  t->scope = s;
  return inside;
}

bool scope_can_step_in(const struct task *t, const struct scope *inside) {
  for (const struct scope *s = t->scope; s != NULL; s = s->parent)
    if (s == inside->outermost) return false;
  return true;
}

void scope_step_in(struct task *t, struct scope *inside) {
  struct scope *top = inside->outermost;
  if (top->parent != t->scope) move(top, t->scope);
  if (task_is_cancelled(t)) inherit_cancellation(top, t->cancelled ? t->reason : t->scope->reason);
  for (struct scope *s = inside; s != t->scope; s = s->parent) s->entered_by = t;
  t->scope = inside;
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
