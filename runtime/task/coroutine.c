/* Task-aware pcall and coroutines: see coroutine.h. */
#include "task/coroutine.h"

#include <lauxlib.h>
#include <stdbool.h>
#include <string.h>

#include "task/guard.h"
#include "task/raise.h"
#include "task/scope.h"
#include "task/task.h"

/* ---- who cannot wait ---------------------------------------------------------------------------
 */

/* Coroutines the running task has entered, innermost first; the records live in the C frames of
** coroutine.resume, which a yield never skips (lua_resume always returns to them). */
struct entered {
  lua_State *from;
  struct entered *outer;
  bool closing; /* coroutine.close, or the end of a coroutine that failed */
};
static struct entered *entered;

/* Registry key of { [function] = name }: library functions that call back and cannot be suspended.
 */
static const char not_suspendable;

static const char *blocker(lua_State *L) {
  lua_Debug ar;
  for (int level = 0; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Snf", &ar);
    if (*ar.what == 'C') {
      lua_rawgetp(L, LUA_REGISTRYINDEX, &not_suspendable);
      lua_insert(L, -2);
      lua_rawget(L, -2);
      const char *name = lua_tostring(L, -1); /* the table keeps the string alive */
      lua_pop(L, 2);
      if (name != NULL) return name;
    } else {
      lua_pop(L, 1);
    }
    if (ar.namewhat != NULL && strcmp(ar.namewhat, "metamethod") == 0 && ar.name != NULL) {
      if (strcmp(ar.name, "__gc") == 0 || strcmp(ar.name, "gc") == 0) return "a finalizer (__gc)";
      if (strcmp(ar.name, "__tostring") == 0) return "a __tostring metamethod";
    }
  }
  return "a message handler, or another callback of a C function";
}

const char *coroutine_cannot_wait(lua_State *L) {
  for (struct entered *e = entered; e != NULL; e = e->outer)
    if (e->closing) return "a __close metamethod of a coroutine that is being closed";
  if (!lua_isyieldable(L)) return blocker(L);
  for (struct entered *e = entered; e != NULL; e = e->outer)
    if (!lua_isyieldable(e->from)) return blocker(e->from);
  return NULL;
}

/* ---- pcall --------------------------------------------------------------------------------------
 */

/* May the protected call hand this error to the script? Not while the reason for it still stands:
** a retry loop around a cancelled wait would spin for ever. */
static bool must_pass(lua_State *L) {
  struct task *t = task_running();
  if (guard_pending()) return true;
  return t != NULL && raise_is_cancelled(L, -1) && task_is_cancelled(t);
}

/* Raise the error on top again. A message handler may have made something else of it, which the
** next pcall outside would not know any more: then the reason itself is raised once more. */
static int pass(lua_State *L) {
  if (guard_pending()) guard_raise_again(L);
  return lua_error(L);
}

static int pcall_failed(lua_State *L, int status, bool handled) {
  struct task *t = task_running();
  guard_translate_error(L, status);
  if (must_pass(L)) return pass(L);
  if (handled && t != NULL && t->cancel_raised && task_is_cancelled(t)) raise_cancelled(L, t);
  raise_forget(L);
  lua_pushboolean(L, 0);
  lua_pushvalue(L, -2);
  return 2;
}

static int pcall_k(lua_State *L, int status, lua_KContext extra) {
  if (status != LUA_OK && status != LUA_YIELD) return pcall_failed(L, status, extra != 0);
  return lua_gettop(L) - (int)extra;
}

int coroutine_pcall(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushboolean(L, 1);
  lua_insert(L, 1);
  return pcall_k(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, pcall_k), 0);
}

int coroutine_xpcall(lua_State *L) {
  int n = lua_gettop(L);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_pushboolean(L, 1);
  lua_pushvalue(L, 1);
  lua_rotate(L, 3, 2); /* f, handler, true, f, arguments */
  return pcall_k(L, lua_pcallk(L, n - 2, LUA_MULTRET, 2, 2, pcall_k), 2);
}

/* ---- coroutines ---------------------------------------------------------------------------------
 */

/* Each coroutine carries one word for us, in the space Lua keeps for its host: the innermost scope
** it was suspended in when it has entered some and not left them, or one of these two. Nothing here
** allocates between the moment a task has parked and the return to the scheduler: an error there
** would go on running a task that waits. */
#define NOTE_WAITING ((void *)1) /* it waits in a primitive: its task will go on with it */
#define NOTE_TASK ((void *)2)    /* it is the thread of a task: only the scheduler resumes it */

static void **note(lua_State *co) {
  return lua_getextraspace(co);
}

void coroutine_mark_task(lua_State *thread) {
  *note(thread) = NOTE_TASK;
}

/* Close what is pending in `co`; its error, if any, is left on its top. */
static int close_thread(lua_State *L, lua_State *co) {
  struct entered record = {.from = L, .outer = entered, .closing = true};
  entered = &record;
  int status = sched_close_thread(co, L);
  entered = record.outer;
  *note(co) = NULL;
  return status;
}

/* The error is on top of L. */
static int fail(lua_State *L, bool wrapped, int status) {
  guard_translate_error(L, status);
  if (must_pass(L)) return pass(L);
  if (!wrapped) {
    raise_forget(L);
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1); /* as Lua's own wrap: say where it came from */
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int refuse(lua_State *L, bool wrapped, const char *why) {
  lua_settop(L, 0);
  lua_pushstring(L, why);
  return fail(L, wrapped, LUA_ERRRUN);
}

/* `co` has ended with an error. wrap closes it, as Lua's own does; so do we where the error passes
** on, because then nobody gets to call coroutine.close. */
static int deliver_error(lua_State *L, lua_State *co, bool wrapped, int status) {
  int left = lua_status(co); /* LUA_YIELD: too deep in the C stack to be resumed */
  lua_xmove(co, L, 1);
  if (left != LUA_OK && left != LUA_YIELD && (wrapped || must_pass(L))) {
    lua_xmove(L, co, 1); /* the __close metamethods get to see it */
    close_thread(L, co);
    lua_xmove(co, L, 1);
  }
  return fail(L, wrapped, status);
}

static int deliver(lua_State *L, lua_State *co, bool wrapped, int status, int nresults) {
  struct task *t = task_running();
  struct scope *inside = t != NULL ? scope_step_out(t, co) : NULL;
  if (lua_status(co) == LUA_YIELD) *note(co) = inside;
  if (status != LUA_OK && status != LUA_YIELD) return deliver_error(L, co, wrapped, status);
  if (!lua_checkstack(L, nresults + 1)) {
    lua_pop(co, nresults);
    return luaL_error(L, "too many results to resume");
  }
  if (!wrapped) lua_pushboolean(L, 1);
  lua_xmove(co, L, nresults);
  return nresults + (wrapped ? 0 : 1);
}

static int resumed(lua_State *L, int status, lua_KContext wrapped);

/* The coroutine stands at index 1. */
static int step(lua_State *L, lua_State *co, bool wrapped, int nargs) {
  struct entered record = {.from = L, .outer = entered};
  int nresults;
  entered = &record;
  int status = sched_resume(co, L, nargs, &nresults);
  entered = record.outer;
  if (status != LUA_YIELD || task_running() == NULL || !sched_parked())
    return deliver(L, co, wrapped, status, nresults);
  *note(co) = NOTE_WAITING;
  lua_settop(L, 1);
  return sched_yield_out(L, 0, wrapped, resumed);
}

static int resumed(lua_State *L, int status, lua_KContext wrapped) {
  (void)status;
  lua_State *co = lua_tothread(L, 1);
  *note(co) = NULL;
  lua_settop(L, 1);
  return step(L, co, wrapped != 0, 0);
}

/* Why `co` cannot be resumed, or NULL. What Lua itself would refuse too is found out before
** anything is changed on its behalf. */
static const char *not_resumable(lua_State *co) {
  lua_Debug ar;
  int status = lua_status(co);
  void *inside = *note(co);
  if (status == LUA_OK && lua_getstack(co, 0, &ar)) return "cannot resume non-suspended coroutine";
  if (inside == NOTE_TASK) return "cannot resume the coroutine of a task: only the scheduler does";
  if (inside == NOTE_WAITING) return "cannot resume a coroutine that is waiting inside a task";
  if (status != LUA_YIELD && (status != LUA_OK || lua_gettop(co) == 0))
    return "cannot resume dead coroutine";
  if (inside == NULL) return NULL;
  struct task *t = task_running();
  if (t == NULL)
    return "cannot resume this coroutine outside of a task: it stopped inside a deadline, a shield "
           "or a group";
  if (!scope_can_step_in(t, inside))
    return "cannot resume this coroutine from a task of a group inside of it";
  return NULL;
}

static int resume(lua_State *L, lua_State *co, int nargs, bool wrapped) {
  const char *why = not_resumable(co);
  if (why != NULL) return refuse(L, wrapped, why);
  if (!lua_checkstack(co, nargs)) return luaL_error(L, "too many arguments to resume");
  struct scope *inside = *note(co);
  *note(co) = NULL;
  if (inside != NULL) scope_step_in(task_running(), inside);
  lua_xmove(L, co, nargs);
  return step(L, co, wrapped, nargs);
}

static lua_State *check_thread(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co != NULL, 1, "coroutine");
  return co;
}

int coroutine_resume(lua_State *L) {
  lua_State *co = check_thread(L);
  return resume(L, co, lua_gettop(L) - 1, false);
}

static int call_wrapped(lua_State *L) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(1));
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1); /* keep it at index 1, where a wait expects it */
  return resume(L, co, lua_gettop(L) - 1, true);
}

int coroutine_wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, call_wrapped, 1);
  return 1;
}

int coroutine_yield(lua_State *L) {
  struct task *t = task_running();
  if (t != NULL && L == t->thread)
    return luaL_error(L, "attempt to yield from outside a coroutine (a task waits with task.sleep, "
                         "a channel or a join)");
  return sched_yield_out(L, lua_gettop(L), 0, NULL);
}

int coroutine_close(lua_State *L) {
  lua_State *co = check_thread(L);
  lua_Debug ar;
  if (co == L) return luaL_error(L, "cannot close a running coroutine");
  if (lua_status(co) == LUA_OK && lua_getstack(co, 0, &ar))
    return luaL_error(L, "cannot close a normal coroutine");
  if (*note(co) == NOTE_WAITING)
    return luaL_error(L, "cannot close a coroutine that is waiting inside a task");
  if (*note(co) == NOTE_TASK)
    return luaL_error(L, "cannot close the coroutine of a task: cancel the task instead");
  int status = close_thread(L, co);
  if (status == LUA_OK) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_xmove(co, L, 1);
  return fail(L, false, status);
}

/* ---- set-up ---------------------------------------------------------------------------------- */

void coroutine_init(lua_State *L) {
  static const char *const names[][3] = {
      {"table", "sort", "the comparison of table.sort"},
      {"string", "gsub", "the replacement function of string.gsub"},
      {"_G", "require", "require (a module's main chunk)"},
      {"_G", "load", "the reader function of load"},
      {"_G", "tostring", "tostring (a __tostring metamethod)"},
      {"_G", "print", "print (a __tostring metamethod)"},
      {"string", "format", "string.format (a __tostring metamethod)"},
      {"_G", "collectgarbage", "a finalizer (__gc)"},
  };
  *note(L) = NULL; /* a new coroutine gets a copy of the main thread's word */
  lua_newtable(L);
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    lua_getglobal(L, names[i][0]);
    lua_getfield(L, -1, names[i][1]);
    lua_pushstring(L, names[i][2]);
    lua_rawset(L, -4);
    lua_pop(L, 1);
  }
  lua_rawsetp(L, LUA_REGISTRYINDEX, &not_suspendable);
}
