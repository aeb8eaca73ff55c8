/* Tasks in words: see dump.h. */
#include "task/dump.h"

#include <lauxlib.h>
#include <stdio.h>

#include "task/scope.h"
#include "task/task.h"

#define TEXT_MAX 4000
#define LISTED_MAX 16

struct text {
  char bytes[TEXT_MAX];
  size_t len;
  int listed, left_out;
};

static const char *state_name(const struct task *t) {
  static const char *const names[] = {"ready", "running", "waiting", "done"};
  return names[t->state];
}

static void describe(struct task *t, void *arg) {
  struct text *text = arg;
  if (t->base->service || t->state != TASK_WAITING) return;
  if (text->listed == LISTED_MAX || text->len > TEXT_MAX - 256) {
    text->left_out++;
    return;
  }
  char at[64];
  task_where(t->parked_in, 0, at, sizeof at);
  int n = snprintf(text->bytes + text->len, TEXT_MAX - text->len,
                   "\n  task %llu waiting on %s at %s, spawned at %s", (unsigned long long)t->id,
                   t->what, at[0] ? at : "?", t->spawned_at[0] ? t->spawned_at : "the start");
  if (n > 0) text->len += (size_t)n;
  text->listed++;
}

const char *dump_deadlock(struct task *root) {
  static struct text text;
  text.listed = text.left_out = 0;
  text.len =
      (size_t)snprintf(text.bytes, TEXT_MAX,
                       "every task waits for another, and nothing is left that could wake one");
  scope_each_task(root->base, describe, &text);
  if (text.left_out > 0)
    snprintf(text.bytes + text.len, TEXT_MAX - text.len, "\n  and %d more", text.left_out);
  return text.bytes;
}

struct table {
  lua_State *L;
  int count;
};

static void push_one(struct task *t, void *arg) {
  struct table *table = arg;
  lua_State *L = table->L;
  char at[64];
  lua_createtable(L, 0, 8);
  lua_pushinteger(L, (lua_Integer)t->id);
  lua_setfield(L, -2, "id");
  lua_pushstring(L, state_name(t));
  lua_setfield(L, -2, "state");
  lua_pushstring(L, t->spawned_at[0] ? t->spawned_at : "the start");
  lua_setfield(L, -2, "spawned_at");
  lua_pushboolean(L, t->base->service);
  lua_setfield(L, -2, "service");
  task_where(t->parked_in, 0, at, sizeof at);
  lua_pushstring(L, at[0] ? at : "?");
  lua_setfield(L, -2, "at");
  if (t->state == TASK_WAITING) {
    lua_pushstring(L, t->what);
    lua_setfield(L, -2, "waiting_on");
    lua_pushnumber(L, (lua_Number)(loop_refresh_us() - t->since_us) / 1e6);
    lua_setfield(L, -2, "seconds");
  }
  luaL_traceback(L, t->parked_in, NULL, 0);
  lua_setfield(L, -2, "traceback");
  lua_rawseti(L, -2, ++table->count);
}

static int push_all(lua_State *L) {
  struct table table = {.L = L};
  struct scope *s = lua_touserdata(L, 1);
  luaL_checkstack(L, 8, NULL);
  lua_newtable(L);
  scope_each_task(s, push_one, &table);
  return 1;
}

void dump_push_tasks(lua_State *L, struct scope *s) {
  /* The collector may finish a scope that was dropped, and change the lists this walks along. */
  bool collecting = lua_gc(L, LUA_GCISRUNNING) != 0;
  lua_gc(L, LUA_GCSTOP);
  lua_pushcfunction(L, push_all);
  lua_pushlightuserdata(L, s);
  int status = lua_pcall(L, 1, 1, 0);
  if (collecting) lua_gc(L, LUA_GCRESTART);
  if (status != LUA_OK) lua_error(L);
}
