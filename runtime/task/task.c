/*
** The scheduler. Owns the ready queue, the live tasks, a pool of idle threads. Calls Lua only
** through sched_resume, and only from sched_run.
*/
#include "task/task.h"

#include <stdio.h>
#include <string.h>

#include "task/coroutine.h"
#include "task/dump.h"
#include "task/guard.h"
#include "task/raise.h"
#include "task/scope.h"

#define POOL_MAX 256  /* idle threads kept for the next spawn */
#define BATCH_MAX 256 /* resumes between two looks at the sockets: fairness towards I/O */

static struct {
  lua_State *main;
  struct list ready;
  struct task *running;
  lua_State *volatile running_thread;
  volatile uint64_t burst;
  bool parked; /* the running task has yielded through task_park */
  int pool_ref, pool_count;
  uint64_t next_id;
  const char *deadlock_text; /* set while a deadlock is being raised */
  struct sched_stats stats;
} sched;

/* ---- the one lua_resume, the one lua_yieldk ------------------------------------------------ */

int sched_resume(lua_State *co, lua_State *from, int nargs, int *nresults) {
  lua_State *outer = sched.running_thread;
  sched.running_thread = co;
  int status = lua_resume(co, from, nargs, nresults);
  sched.running_thread = outer;
  return status;
}

int sched_close_thread(lua_State *co, lua_State *from) {
  lua_State *outer = sched.running_thread;
  sched.running_thread = co;
#if LUA_VERSION_RELEASE_NUM >= 50406
  int status = lua_closethread(co, from);
#elif LUA_VERSION_RELEASE_NUM == 50405
  int status = lua_resetthread(co, from);
#else
  (void)from;
  int status = lua_resetthread(co);
#endif
  sched.running_thread = outer;
  return status;
}

int sched_yield_out(lua_State *L, int nresults, lua_KContext ctx, lua_KFunction k) {
  return lua_yieldk(L, nresults, ctx, k);
}

lua_State *sched_running_thread(void) {
  return sched.running_thread;
}

uint64_t sched_burst(void) {
  return sched.burst;
}

bool sched_parked(void) {
  return sched.parked;
}

/* ---- waiting ------------------------------------------------------------------------------- */

struct task *task_running(void) {
  return sched.running;
}

struct task *task_current(lua_State *L) {
  if (sched.running == NULL)
    luaL_error(L, "no task is running: this can only be called by a script");
  return sched.running;
}

bool task_is_cancelled(const struct task *t) {
  return t->scope->reached || (t->cancelled && t->scope == t->base);
}

void task_check(lua_State *L) {
  struct task *t = task_current(L);
  if (task_is_cancelled(t)) raise_cancelled(L, t);
  t->cancel_raised = false;
}

static int park_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  struct task *t = sched.running;
  if (t->wake == WAKE_CANCELLED) {
    if (sched.deadlock_text != NULL) {
      const char *text = sched.deadlock_text;
      sched.deadlock_text = NULL;
      raise_kind(L, ERR_DEADLOCK, NULL, "%s", text);
    }
    raise_cancelled(L, t);
  }
  t->cancel_raised = false;
  return t->k(L, LUA_YIELD, t->ctx);
}

int task_park(lua_State *L, const struct wait *w, lua_KContext ctx, lua_KFunction k) {
  struct task *t = task_current(L);
  t->what = w->what;
  t->undo = w->undo;
  t->subject = w->subject;
  t->external = w->external && !t->base->service;
  t->k = k;
  t->ctx = ctx;
  if (w->undo != NULL && task_is_cancelled(t)) {
    /* Cancelled when it had been woken and had not run yet: nothing will interrupt it again. */
    w->undo(t);
    t->undo = NULL;
    raise_cancelled(L, t);
  }
  const char *inside = coroutine_cannot_wait(L);
  if (inside != NULL) {
    if (w->undo != NULL) w->undo(t);
    t->undo = NULL;
    luaL_error(L, "%s cannot wait inside %s: Lua cannot suspend a task there", w->what, inside);
  }
  t->since_us = loop_now_us();
  t->state = TASK_WAITING;
  t->parked_in = L;
  sched.stats.waiting_external += t->external;
  sched.parked = true;
  return sched_yield_out(L, 0, 0, park_k);
}

void task_wake(struct task *t, enum wake how) {
  if (t->state != TASK_WAITING) return;
  sched.stats.waiting_external -= t->external;
  t->external = false;
  t->wake = how;
  t->state = TASK_READY;
  t->undo = NULL;
  list_append(&sched.ready, &t->queue);
}

void task_interrupt(struct task *t) {
  if (t->state != TASK_WAITING || t->undo == NULL) return;
  t->undo(t);
  task_wake(t, WAKE_CANCELLED);
}

void task_undo_queue(struct task *t) {
  list_remove(&t->queue);
  loop_timer_disarm(&t->timer);
}

static void on_timer(struct loop_timer *timer) {
  struct task *t = list_entry(timer, struct task, timer);
  list_remove(&t->queue);
  task_wake(t, WAKE_TIMEOUT);
}

int task_park_queue(lua_State *L, struct list *q, const char *what, int64_t until_us,
                    lua_KContext ctx, lua_KFunction k) {
  struct task *t = task_current(L);
  bool timed = until_us != LOOP_NEVER;
  if (timed && !loop_timer_arm(&t->timer, until_us)) return luaL_error(L, "not enough memory");
  if (q != NULL) list_append(q, &t->queue);
  struct wait w = {.what = what, .undo = task_undo_queue, .external = timed};
  return task_park(L, &w, ctx, k);
}

bool waitq_wake_one(struct list *q) {
  struct task *t = waitq_head(q);
  if (t == NULL) return false;
  task_undo_queue(t);
  task_wake(t, WAKE_OK);
  return true;
}

void waitq_wake_all(struct list *q) {
  while (waitq_wake_one(q)) {
  }
}

/* ---- the base frame of a task --------------------------------------------------------------- */

static int main_k(lua_State *L, int status, lua_KContext ctx) {
  struct task *t = (struct task *)ctx;
  t->failed = status != LUA_OK && status != LUA_YIELD;
  if (t->failed) {
    guard_translate_error(L, status);
    t->cancelled_out = raise_is_cancelled(L, -1);
  }
  return lua_gettop(L) - 1;
}

static int task_main(lua_State *L) {
  struct task *t = lua_touserdata(L, 1);
  lua_pushcfunction(L, raise_traceback);
  lua_replace(L, 1);
  int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 1, (lua_KContext)t, main_k);
  return main_k(L, status, (lua_KContext)t);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* The innermost line of the user's own code on L's stack, as "script.lua:12". */
void task_where(lua_State *L, int level, char *out, size_t size) {
  lua_Debug ar;
  out[0] = '\0';
  for (; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Sl", &ar);
    if (ar.currentline <= 0 || strncmp(ar.source, "@sluice/", 8) == 0) continue;
    const char *name = ar.short_src;
    size_t n = strlen(name);
    if (n > size - 8) name += n - (size - 8);
    snprintf(out, size, "%s:%d", name, ar.currentline);
    return;
  }
}

static lua_State *take_thread(lua_State *L) {
  if (sched.pool_count > 0) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, sched.pool_ref);
    lua_rawgeti(L, -1, sched.pool_count);
    lua_pushnil(L); /* the pool must not keep what its next task leaves on the thread */
    lua_rawseti(L, -3, sched.pool_count--);
    lua_remove(L, -2);
    return lua_tothread(L, -1);
  }
  lua_State *thread = lua_newthread(L);
  coroutine_mark_task(thread);
  return thread;
}

/* Only for threads whose base frame returned and whose values nobody wants. Allocates nothing. */
static void give_thread(lua_State *thread) {
  lua_State *L = sched.main;
  lua_settop(thread, 0);
  if (sched.pool_count >= POOL_MAX) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, sched.pool_ref);
  lua_pushthread(thread);
  lua_xmove(thread, L, 1);
  lua_rawseti(L, -2, ++sched.pool_count);
  lua_pop(L, 1);
}

struct task *task_spawn(lua_State *L, struct scope *scope, int nargs) {
  struct task *t = lua_newuserdatauv(L, sizeof *t, 1);
  memset(t, 0, sizeof *t);
  t->state = TASK_DONE; /* born finished: if anything below raises, the finalizer finds no task */
  t->anchor = LUA_NOREF;
  luaL_setmetatable(L, TASK_TYPE);
  list_init(&t->queue);
  list_init(&t->joiners);
  loop_timer_init(&t->timer, on_timer);
  t->base = t->scope = scope;
  t->id = ++sched.next_id;
  task_where(L, 1, t->spawned_at, sizeof t->spawned_at);
  lua_State *thread = take_thread(L);
  if (!lua_checkstack(thread, nargs + 8)) luaL_error(L, "too many arguments to spawn");
  lua_setiuservalue(L, -2, 1);
  lua_pushvalue(L, -1);
  t->anchor = luaL_ref(L, LUA_REGISTRYINDEX);
  /* From here on nothing raises. */
  lua_insert(L, -(nargs + 2));
  lua_pushcfunction(thread, task_main);
  lua_pushlightuserdata(thread, t);
  lua_xmove(L, thread, nargs + 1);
  t->thread = thread;
  t->parked_in = thread;
  t->nargs = nargs + 2;
  t->state = TASK_READY;
  list_append(&scope->tasks, &t->link);
  list_append(&sched.ready, &t->queue);
  sched.stats.spawned++;
  sched.stats.live++;
  return t;
}

struct task *task_check_handle(lua_State *L, int arg) {
  return luaL_checkudata(L, arg, TASK_TYPE);
}

void task_cancel(struct task *t, const char *reason) {
  if (t->state == TASK_DONE || t->cancelled) return;
  t->cancelled = true;
  t->reason = reason;
  struct scope *outermost = NULL; /* of those it has entered itself */
  for (struct scope *s = t->scope; s != t->base; s = s->parent) outermost = s;
  if (outermost == NULL && t->state == TASK_WAITING && t->undo == NULL)
    scope_cancel(t->subject, reason);
  else if (outermost == NULL)
    task_interrupt(t);
  else if (outermost->shield)
    scope_outside_cancelled(outermost);
  else
    scope_cancel(outermost, reason);
}

void task_release(lua_State *L, struct task *t) {
  luaL_unref(L, LUA_REGISTRYINDEX, t->anchor);
  t->anchor = LUA_NOREF;
}

static void finish(struct task *t) {
  struct scope *base = t->base;
  t->state = TASK_DONE;
  sched.stats.live--;
  list_remove(&t->link);
  loop_timer_disarm(&t->timer);
  bool expected = t->failed && t->cancelled_out && (base->reached || t->cancelled);
  if (t->failed && !expected && base->parent != NULL) {
    list_append(&base->failed, &t->link); /* stays anchored until the group has read the error */
    scope_cancel(base, "another task of its group failed");
  } else {
    if (!t->failed && lua_gettop(t->thread) == 0) {
      give_thread(t->thread);
      t->thread = NULL;
    }
    task_release(sched.main, t);
  }
  waitq_wake_all(&t->joiners);
  if (list_empty(&base->tasks) && base->joiner != NULL) {
    struct task *joiner = base->joiner;
    base->joiner = NULL;
    task_wake(joiner, WAKE_OK);
  }
}

static void run(struct task *t) {
  int nresults, nargs = t->nargs;
  t->nargs = 0;
  t->state = TASK_RUNNING;
  t->parked_in = t->thread;
  sched.running = t;
  sched.parked = false;
  sched.burst = sched.burst + 1;
  sched.stats.resumed++;
  int status = sched_resume(t->thread, sched.main, nargs, &nresults);
  sched.running = NULL;
  if (status == LUA_YIELD) return;
  if (status != LUA_OK) t->failed = true; /* the base frame itself failed: out of memory */
  finish(t);
}

/* ---- the loop -------------------------------------------------------------------------------- */

static bool deadlocked(void) {
  return sched.stats.waiting_external == 0 && scope_timers_armed() == 0;
}

/* Raise in the root if it can be interrupted where it waits, else in the first task under it that
** can: its failure cancels the group, and the error comes out at the root. There is always one, for
** somewhere at the ends of the tree of groups a task waits for something else than a group. */
static void raise_deadlock(struct task *root) {
  struct task *victim = root->undo != NULL ? root : scope_first_interruptible(root->base);
  sched.deadlock_text = dump_deadlock(root);
  if (victim != NULL)
    task_interrupt(victim);
  else
    task_wake(root, WAKE_CANCELLED);
}

/* False when the root ended. */
static bool run_batch(const struct task *root) {
  for (int i = 0; i < BATCH_MAX && !list_empty(&sched.ready); i++) {
    struct task *t = waitq_head(&sched.ready);
    list_remove(&t->queue);
    run(t);
    if (root != NULL && root->state == TASK_DONE) return false;
  }
  loop_prepare();
  return true;
}

void sched_run(struct task *root) {
  while (run_batch(root)) {
    bool idle = list_empty(&sched.ready);
    if (idle && deadlocked())
      raise_deadlock(root);
    else
      loop_poll(idle ? LOOP_NEVER : 0);
  }
  loop_poll(0); /* a signal that came in the last burst still decides the exit code */
}

void sched_turn(int64_t max_wait_us) {
  run_batch(NULL);
  loop_poll(list_empty(&sched.ready) ? max_wait_us : 0);
}

const struct sched_stats *sched_stats(void) {
  return &sched.stats;
}

void sched_init(lua_State *L) {
  sched.main = L;
  list_init(&sched.ready);
  lua_createtable(L, POOL_MAX, 0);
  sched.pool_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

void sched_close(lua_State *L) {
  luaL_unref(L, LUA_REGISTRYINDEX, sched.pool_ref);
  sched.pool_count = 0;
  sched.running_thread = NULL;
}
