/*
** sluice.core.task: scopes, spawning, joining, sleeping. The structure on top (group, all, race,
** map, deadline, shield) is Lua: lualib/sluice/task.lua.
*/
#include <string.h>

#include "bind/bind.h"
#include "io/process.h"
#include "io/transfer.h"
#include "task/coroutine.h"
#include "task/dump.h"
#include "task/guard.h"
#include "task/raise.h"
#include "task/scope.h"
#include "task/task.h"

static struct scope *check_scope(lua_State *L, int arg) {
  return luaL_checkudata(L, arg, SCOPE_TYPE);
}

/* A script sees the scope of its group, to spawn and to cancel. The steps from entering to leaving
** are for who made the scope, and only where it was made: anywhere else they would move a task to a
** place in the tree where it is not, or wait for themselves. */
static struct scope *check_own_scope(lua_State *L, const char *method) {
  struct scope *s = check_scope(L, 1);
  if (s->finished) luaL_error(L, "scope:%s: the scope has ended", method);
  if (task_current(L)->scope != s->parent)
    luaL_error(L, "scope:%s: only for the code that made the scope, outside of it", method);
  return s;
}

/* ---- scopes ------------------------------------------------------------------------------------
 */

/* core.scope { group = true, deadline = s, shield = s } */
static int new_scope(lua_State *L) {
  struct task *t = task_current(L);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_getfield(L, 1, "group");
  bool group = lua_toboolean(L, -1);
  int64_t deadline_us = bind_field_seconds(L, 1, "deadline", -1);
  int64_t shield_us = bind_field_seconds(L, 1, "shield", -1);
  const char *inside = group ? coroutine_cannot_wait(L) : NULL;
  if (inside != NULL)
    return luaL_error(L, "a task group cannot be used inside %s: Lua cannot suspend a task there",
                      inside);
  struct scope *s = lua_newuserdatauv(L, sizeof *s, 0);
  luaL_setmetatable(L, SCOPE_TYPE); /* may raise, so before the scope is linked anywhere */
  scope_init(s, t->scope, group);
  if (deadline_us >= 0) scope_set_deadline(s, loop_refresh_us() + deadline_us);
  if (shield_us >= 0) scope_set_shield(s, shield_us);
  return 1;
}

static int scope_run_k(lua_State *L, int status, lua_KContext ctx) {
  struct scope *s = (struct scope *)ctx;
  task_running()->scope = s->parent;
  s->thread = NULL;
  bool ok = status == LUA_OK || status == LUA_YIELD;
  if (!ok) guard_translate_error(L, status);
  lua_pushboolean(L, ok);
  lua_replace(L, 2); /* in place of the message handler */
  return lua_gettop(L) - 1;
}

/* scope:run(f, …) -> true, values… | false, error. Runs f inside the scope; never raises. */
static int scope_run(lua_State *L) {
  struct scope *s = check_own_scope(L, "run");
  luaL_checkany(L, 2);
  lua_pushcfunction(L, raise_traceback);
  lua_insert(L, 2);
  task_running()->scope = s;
  s->thread = L;
  int status = lua_pcallk(L, lua_gettop(L) - 3, LUA_MULTRET, 2, (lua_KContext)s, scope_run_k);
  return scope_run_k(L, status, (lua_KContext)s);
}

static int scope_wait_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct scope *s = (struct scope *)ctx;
  if (scope_is_empty(s)) return 0;
  s->joiner = task_current(L);
  struct wait w = {.what = "the tasks of its group", .subject = s};
  return task_park(L, &w, ctx, scope_wait_k); /* no undo: a group is left only when it is empty */
}

static int scope_wait(lua_State *L) {
  return scope_wait_k(L, LUA_OK, (lua_KContext)check_own_scope(L, "wait"));
}

static const char *const reasons[] = {
    "by request",          "its group failed",      "its group is done",    "another was first",
    "the client has gone", "the server is closing", "interrupted (Ctrl-C)", NULL};

static int scope_cancel_(lua_State *L) {
  struct scope *s = check_scope(L, 1);
  scope_cancel(s, reasons[luaL_checkoption(L, 2, reasons[0], reasons)]);
  return 0;
}

static int scope_finish_(lua_State *L) {
  if (!check_scope(L, 1)->finished) scope_finish(check_own_scope(L, "finish"));
  return 0;
}

static int scope_close(lua_State *L) {
  scope_finish(check_scope(L, 1));
  return 0;
}

/* scope:errors() -> a list of the error values of tasks that failed, in that order; empties it. */
static int scope_errors(lua_State *L) {
  struct scope *s = check_scope(L, 1);
  lua_Integer n = 0;
  lua_newtable(L);
  while (!list_empty(&s->failed)) {
    struct task *t = list_entry(s->failed.next, struct task, link);
    lua_pushvalue(t->thread, -1);
    lua_xmove(t->thread, L, 1);
    lua_rawseti(L, -2, ++n);
    list_remove(&t->link);
    task_release(L, t);
  }
  return 1;
}

static int scope_has_failed(lua_State *L) {
  lua_pushboolean(L, !list_empty(&check_scope(L, 1)->failed));
  return 1;
}

static int scope_expired(lua_State *L) {
  lua_pushboolean(L, check_scope(L, 1)->expired);
  return 1;
}

static int scope_cancelled(lua_State *L) {
  lua_pushboolean(L, check_scope(L, 1)->reached);
  return 1;
}

static int scope_spawn(lua_State *L) {
  struct scope *s = check_scope(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  luaL_argcheck(L, s->group, 1, "a task group expected");
  task_check(L);
  if (s->finished) return luaL_error(L, "group:spawn: the group has ended");
  if (s->reached) /* a cancelled group starts nothing new */
    raise_kind(L, ERR_CANCELLED, NULL, "the group was cancelled: %s",
               s->reason != NULL ? s->reason : "by request");
  task_spawn(L, s, lua_gettop(L) - 2);
  return 1;
}

/* core.service(f, …): a task of the runtime's own, which ends with the program. */
static int spawn_service(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  task_spawn(L, bind_service_scope(), lua_gettop(L) - 1);
  return 1;
}

/* ---- handles of tasks ------------------------------------------------------------------------ */

static int push_results(lua_State *L, struct task *t) {
  if (t->thread == NULL) return 0;
  lua_State *from = t->thread;
  if (t->failed) {
    lua_pushvalue(from, -1);
    lua_xmove(from, L, 1);
    return lua_error(L);
  }
  int n = lua_gettop(from);
  luaL_checkstack(L, n, "too many results to join");
  for (int i = 1; i <= n; i++) {
    if (!lua_checkstack(from, 1)) return luaL_error(L, "not enough memory");
    lua_pushvalue(from, i);
    lua_xmove(from, L, 1);
    bind_adopt(L, -1);
  }
  return n;
}

static int join_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  return push_results(L, (struct task *)ctx);
}

static int task_join(lua_State *L) {
  struct task *t = task_check_handle(L, 1);
  task_check(L);
  if (t->state == TASK_DONE) return push_results(L, t);
  if (t == task_running()) return luaL_error(L, "a task cannot join itself");
  return task_park_queue(L, &t->joiners, "the end of a task", LOOP_NEVER, (lua_KContext)t, join_k);
}

static int task_cancel_(lua_State *L) {
  task_cancel(task_check_handle(L, 1), "by request");
  return 0;
}

static int task_done(lua_State *L) {
  lua_pushboolean(L, task_check_handle(L, 1)->state == TASK_DONE);
  return 1;
}

static int task_tostring(lua_State *L) {
  struct task *t = task_check_handle(L, 1);
  static const char *const states[] = {"ready", "running", "waiting", "done"};
  lua_pushfstring(L, "task %d (%s, spawned at %s)", (int)t->id, states[t->state],
                  t->spawned_at[0] ? t->spawned_at : "the start");
  return 1;
}

/* ---- time ------------------------------------------------------------------------------------ */

static int sleep_k(lua_State *L, int status, lua_KContext ctx) {
  (void)L, (void)status, (void)ctx;
  return 0;
}

static int core_sleep(lua_State *L) {
  int64_t us = bind_check_seconds(L, 1);
  task_check(L);
  return task_park_queue(L, NULL, "sleep", loop_refresh_us() + us, 0, sleep_k);
}

static int core_now(lua_State *L) {
  lua_pushnumber(L, (lua_Number)loop_refresh_us() / 1e6);
  return 1;
}

/* core.left() -> seconds to the nearest enclosing deadline, or nil. */
static int core_left(lua_State *L) {
  int64_t at = task_current(L)->scope->deadline_us;
  if (at == LOOP_NEVER) {
    lua_pushnil(L);
  } else {
    int64_t left = at - loop_refresh_us();
    lua_pushnumber(L, left > 0 ? (lua_Number)left / 1e6 : 0);
  }
  return 1;
}

/* core.current([more]) -> the running task's id; with `more` also where it was spawned, or nil for the
** first, and whether it is one of the runtime's own. */
static int core_current(lua_State *L) {
  const struct task *t = task_current(L);
  bool more = lua_toboolean(L, 1);
  lua_pushinteger(L, (lua_Integer)t->id);
  if (!more) return 1;
  if (t->spawned_at[0])
    lua_pushstring(L, t->spawned_at);
  else
    lua_pushnil(L);
  lua_pushboolean(L, t->base->service);
  return 3;
}

static int core_check(lua_State *L) {
  task_check(L);
  return 0;
}

static int core_is_cancelled(lua_State *L) {
  lua_pushboolean(L, task_is_cancelled(task_current(L)));
  return 1;
}

static int core_adopt(lua_State *L) {
  for (int i = 1; i <= lua_gettop(L); i++) bind_adopt(L, i);
  return lua_gettop(L);
}

/* ---- looking --------------------------------------------------------------------------------- */

static int core_tasks(lua_State *L) {
  dump_push_tasks(L, bind_service_scope());
  return 1;
}

static void count_task(struct task *t, void *arg) {
  if (!t->base->service) ++*(lua_Integer *)arg;
}

/* core.census() -> what is alive: what a test compares before and after. The runtime's own service
** tasks (an embedded mock) are not the script's. */
static int core_census(lua_State *L) {
  lua_Integer tasks = 0;
  scope_each_task(bind_service_scope(), count_task, &tasks);
  lua_createtable(L, 0, 5);
  lua_pushinteger(L, tasks);
  lua_setfield(L, -2, "tasks");
  lua_pushinteger(L, (lua_Integer)handle_count());
  lua_setfield(L, -2, "handles");
  lua_pushinteger(L, (lua_Integer)scope_timers_armed());
  lua_setfield(L, -2, "deadlines");
  lua_pushinteger(L, (lua_Integer)transfer_count());
  lua_setfield(L, -2, "transfers");
  lua_pushinteger(L, (lua_Integer)process_count());
  lua_setfield(L, -2, "processes");
  return 1;
}

static int core_stats(lua_State *L) {
  const struct sched_stats *s = sched_stats();
  lua_createtable(L, 0, 4);
  lua_pushinteger(L, (lua_Integer)s->spawned);
  lua_setfield(L, -2, "spawned");
  lua_pushinteger(L, (lua_Integer)s->resumed);
  lua_setfield(L, -2, "resumed");
  lua_pushinteger(L, (lua_Integer)s->live);
  lua_setfield(L, -2, "live");
  lua_pushinteger(L, (lua_Integer)guard_memory_used());
  lua_setfield(L, -2, "memory");
  return 1;
}

static int push_error_traceback(lua_State *L) {
  luaL_checkany(L, 1);
  raise_push_traceback(L, 1);
  return 1;
}

#ifdef SLUICE_FAULTS
/* core.fail_allocation(n) -> has one failed since the last call? The nth from now on fails. */
static int fail_allocation(lua_State *L) {
  lua_Integer nth = luaL_checkinteger(L, 1);
  luaL_argcheck(L, nth >= 0, 1, "0 or more expected");
  lua_pushboolean(L, guard_fail_allocation((size_t)nth));
  return 1;
}
#endif

int luaopen_sluice_core_task(lua_State *L) {
  static const luaL_Reg scope_methods[] = {
      {"run", scope_run},           {"wait", scope_wait},           {"cancel", scope_cancel_},
      {"finish", scope_finish_},    {"errors", scope_errors},       {"expired", scope_expired},
      {"failed", scope_has_failed}, {"cancelled", scope_cancelled}, {"spawn", scope_spawn},
      {"__close", scope_close},     {"__gc", scope_close},          {NULL, NULL}};
  static const luaL_Reg task_methods[] = {{"join", task_join},
                                          {"cancel", task_cancel_},
                                          {"done", task_done},
                                          {"__tostring", task_tostring},
                                          {NULL, NULL}};
  static const luaL_Reg functions[] = {{"scope", new_scope},
                                       {"service", spawn_service},
                                       {"sleep", core_sleep},
                                       {"now", core_now},
                                       {"left", core_left},
                                       {"current", core_current},
                                       {"check", core_check},
                                       {"adopt", core_adopt},
                                       {"is_cancelled", core_is_cancelled},
                                       {"tasks", core_tasks},
                                       {"census", core_census},
                                       {"stats", core_stats},
                                       {"traceback_of", push_error_traceback},
                                       {"traced", raise_traceback},
#ifdef SLUICE_FAULTS
                                       {"fail_allocation", fail_allocation},
#endif
                                       {NULL, NULL}};
  luaL_newmetatable(L, SCOPE_TYPE);
  luaL_setfuncs(L, scope_methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  luaL_newmetatable(L, TASK_TYPE);
  luaL_setfuncs(L, task_methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 2);
  luaL_newlib(L, functions);
  luaL_getmetatable(L, RAISE_METATABLE);
  lua_setfield(L, -2, "error_metatable");
  return 1;
}
