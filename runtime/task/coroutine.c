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
  return "a callback of a C function";
}

const char *coroutine_cannot_wait(lua_State *L) {
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

static int pcall_k(lua_State *L, int status, lua_KContext extra) {
  if (status != LUA_OK && status != LUA_YIELD) {
    guard_translate_error(L, status);
    if (must_pass(L)) return lua_error(L);
    lua_pushboolean(L, 0);
    lua_pushvalue(L, -2);
    return 2;
  }
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

/* Registry key, weak keys: coroutine -> the scope it was suspended in, when that differs from the
** one it was resumed in; and coroutine -> true while it waits in a primitive of some task. */
static const char suspended_scope, waiting;

static void *get_note(lua_State *L, const void *table, lua_State *co) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, table);
  lua_pushthread(co);
  lua_xmove(co, L, 1);
  lua_rawget(L, -2);
  void *value = lua_touserdata(L, -1);
  lua_pop(L, 2);
  return value;
}

static void set_note(lua_State *L, const void *table, lua_State *co, void *value) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, table);
  lua_pushthread(co);
  lua_xmove(co, L, 1);
  if (value != NULL)
    lua_pushlightuserdata(L, value);
  else
    lua_pushnil(L);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

static int notes_in_use;

/* The state of one resume while its coroutine waits in a primitive: what to go back to. */
struct frame {
  lua_State *co;
  struct scope *outside; /* the scope of the resumer */
  bool wrapped;
};

static int resumed(lua_State *L, int status, lua_KContext ctx);

static int fail(lua_State *L, bool wrapped) {
  if (must_pass(L)) return lua_error(L);
  if (wrapped) {
    if (lua_type(L, -1) == LUA_TSTRING) { /* as Lua's own wrap: say where it came from */
      luaL_where(L, 1);
      lua_insert(L, -2);
      lua_concat(L, 2);
    }
    return lua_error(L);
  }
  lua_pushboolean(L, 0);
  lua_insert(L, -2);
  return 2;
}

static int deliver(lua_State *L, const struct frame *f, int status, int nresults) {
  struct task *t = task_running();
  if (t != NULL && t->scope != f->outside) {
    if (status == LUA_YIELD) {
      for (struct scope *s = t->scope; s != f->outside && s != NULL; s = s->parent)
        s->entered_by = NULL; /* nobody is inside while the generator sleeps */
      set_note(L, &suspended_scope, f->co, t->scope);
      notes_in_use++;
    }
    t->scope = f->outside;
  }
  bool wrapped = f->wrapped;
  if (status != LUA_OK && status != LUA_YIELD) {
    lua_State *co = f->co;
    if (wrapped && lua_status(co) != LUA_OK) { /* close its pending variables, as Lua's wrap does */
#if LUA_VERSION_RELEASE_NUM >= 50406
      lua_closethread(co, L);
#else
      lua_resetthread(co);
#endif
    }
    lua_xmove(co, L, 1);
    return fail(L, wrapped);
  }
  if (!lua_checkstack(L, nresults + 1)) {
    lua_pop(f->co, nresults);
    return luaL_error(L, "too many results to resume");
  }
  if (!wrapped) lua_pushboolean(L, 1);
  lua_xmove(f->co, L, nresults);
  return nresults + (wrapped ? 0 : 1);
}

/* The frame record sits at the bottom of the resumer's stack, in a userdata, only while the
** coroutine waits: index 1 is the coroutine, index 2 the frame. */
static int step(lua_State *L, struct frame *f, int nargs) {
  struct task *t = task_running();
  struct entered record = {.from = L, .outer = entered};
  int nresults;
  entered = &record;
  int status = sched_resume(f->co, L, nargs, &nresults);
  entered = record.outer;
  if (status != LUA_YIELD || t == NULL || !sched_parked()) return deliver(L, f, status, nresults);
  set_note(L, &waiting, f->co, f);
  lua_settop(L, 1); /* the coroutine itself */
  struct frame *kept = lua_newuserdatauv(L, sizeof *kept, 0);
  *kept = *f;
  return sched_yield_out(L, 0, (lua_KContext)kept, resumed);
}

static int resumed(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct frame f = *(struct frame *)ctx;
  lua_settop(L, 1);
  set_note(L, &waiting, f.co, NULL);
  return step(L, &f, 0);
}

static int resume(lua_State *L, lua_State *co, int nargs, bool wrapped) {
  struct task *t = task_running();
  struct frame f = {.co = co, .wrapped = wrapped, .outside = t != NULL ? t->scope : NULL};
  if (lua_status(co) == LUA_YIELD && get_note(L, &waiting, co) != NULL) {
    lua_settop(L, 0);
    lua_pushliteral(L, "cannot resume a coroutine that is waiting inside a task");
    return fail(L, wrapped);
  }
  if (!lua_checkstack(co, nargs)) return luaL_error(L, "too many arguments to resume");
  if (lua_status(co) == LUA_OK && lua_gettop(co) == 0) {
    lua_settop(L, 0);
    lua_pushliteral(L, "cannot resume dead coroutine");
    return fail(L, wrapped);
  }
  if (notes_in_use > 0 && t != NULL) {
    struct scope *inside = get_note(L, &suspended_scope, co);
    if (inside != NULL) {
      set_note(L, &suspended_scope, co, NULL);
      notes_in_use--;
      for (struct scope *s = inside; s != NULL && s->entered_by == NULL && s->parent != NULL;
           s = s->parent)
        s->entered_by = t;
      t->scope = inside;
    }
  }
  lua_xmove(L, co, nargs);
  return step(L, &f, nargs);
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
  if (get_note(L, &waiting, co) != NULL)
    return luaL_error(L, "cannot close a coroutine that is waiting inside a task");
  lua_getfield(L, LUA_REGISTRYINDEX, "sluice.coroutine.close");
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

/* ---- set-up
 * -------------------------------------------------------------------------------------- */

static void weak_table(lua_State *L, const void *key) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "k");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

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
      {"coroutine", "close", "coroutine.close (a __close metamethod)"},
  };
  lua_newtable(L);
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    lua_getglobal(L, names[i][0]);
    lua_getfield(L, -1, names[i][1]);
    lua_pushstring(L, names[i][2]);
    lua_rawset(L, -4);
    lua_pop(L, 1);
  }
  lua_rawsetp(L, LUA_REGISTRYINDEX, &not_suspendable);
  weak_table(L, &suspended_scope);
  weak_table(L, &waiting);
  lua_getglobal(L, "coroutine");
  lua_getfield(L, -1, "close");
  lua_setfield(L, LUA_REGISTRYINDEX, "sluice.coroutine.close");
  lua_pop(L, 1);
}
