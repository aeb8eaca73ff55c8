/*
** sluice.core.token: a value that is replaced before it ends, whoever asks and however many. What
** is due when is decided in task/token.c; here are the value, those who wait for a new one, and the
** refresh: a Lua function in a task of the runtime's own, so that cancelling those who wait does
** not cancel what they wait for.
*/
#include <math.h>
#include <string.h>

#include "bind/bind.h"
#include "task/guard.h"
#include "task/raise.h"
#include "task/task.h"
#include "task/token.h"

#define TOKEN_TYPE "sluice.token"
#define ENDLESS_S 1e9 /* seconds: a life longer than 31 years is not worth counting */

struct box {
  struct token token;
  struct task *flight; /* the refresh under way, or the last one; those who wait join it */
  lua_Integer refreshed, failed;
};

/* User values. */
enum { NAME = 1, FETCH, VALUE, FAILURE, FLIGHT };

static struct box *check_box(lua_State *L) {
  return luaL_checkudata(L, 1, TOKEN_TYPE);
}

static const char *name_of(lua_State *L) {
  lua_getiuservalue(L, 1, NAME);
  const char *name = lua_tostring(L, -1);
  lua_pop(L, 1); /* the user value keeps it */
  return name;
}

static struct box *push_box(lua_State *L) {
  luaL_checkstring(L, 1);
  struct box *b = lua_newuserdatauv(L, sizeof *b, FLIGHT);
  token_init(&b->token);
  b->flight = NULL;
  b->refreshed = b->failed = 0;
  luaL_setmetatable(L, TOKEN_TYPE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, NAME);
  lua_pushvalue(L, 2);
  return b;
}

/* core.new(name, fetch): fetch(token) -> value, seconds left, seconds it lived from the first (both
** nil: endless), seconds after which to ask again (nil: by its life)
**   | nil, error, lasting (asking again at once would fail again), seconds to wait before that */
static int new_token(lua_State *L) {
  luaL_checktype(L, 2, LUA_TFUNCTION);
  push_box(L);
  lua_setiuservalue(L, -2, FETCH);
  return 1;
}

/* core.fixed(name, value): one that never changes. */
static int new_fixed(lua_State *L) {
  luaL_checkany(L, 2);
  struct token *t = &push_box(L)->token;
  lua_setiuservalue(L, -2, VALUE);
  t->fixed = true;
  token_settle(t, 0, TOKEN_ENDLESS, TOKEN_ENDLESS, 0, 0);
  return 1;
}

/* ---- a refresh ------------------------------------------------------------------------------- */

static int64_t span(lua_State *L, int index, int64_t absent) {
  if (lua_isnil(L, index)) return absent;
  lua_Number s = lua_tonumber(L, index);
  if (isnan(s)) return 0;
  return s >= ENDLESS_S ? TOKEN_ENDLESS : s <= 0 ? 0 : (int64_t)(s * 1e6);
}

/* The value at `first`, and its times behind it. Allocates nothing. */
static bool take_value(lua_State *L, struct box *b, int first) {
  if (lua_isnil(L, first)) return false;
  int64_t left_us = span(L, first + 1, TOKEN_ENDLESS);
  int64_t life_us = span(L, first + 2, left_us), interval_us = span(L, first + 3, 0);
  if (left_us == TOKEN_ENDLESS) life_us = TOKEN_ENDLESS;
  if (interval_us == TOKEN_ENDLESS) interval_us = 0;
  int64_t now_us = loop_refresh_us();
  if (!token_settle(&b->token, now_us, life_us, left_us, interval_us, loop_random_unit()))
    return false;
  token_notice(&b->token, now_us, loop_wall_us());
  lua_pushvalue(L, first);
  lua_setiuservalue(L, 1, VALUE);
  lua_pushnil(L);
  lua_setiuservalue(L, 1, FAILURE);
  b->refreshed++;
  return true;
}

/* The stack: the token, a message handler, and what fetch gave. First what cannot fail, then the
** words. */
static int refreshed(lua_State *L, int status, lua_KContext ctx) {
  (void)ctx;
  struct box *b = check_box(L);
  bool raised = status != LUA_OK && status != LUA_YIELD;
  if (raised) {
    lua_pushnil(L);
    lua_insert(L, 3); /* nil, error */
  }
  lua_remove(L, 2);
  lua_settop(L, 5);
  bool came = !lua_isnil(L, 2), taken = take_value(L, b, 2);
  if (!taken) {
    int64_t hold_us = came ? 0 : span(L, 5, 0);
    if (hold_us == TOKEN_ENDLESS) hold_us = 0;
    bool lasting = came || lua_toboolean(L, 4);
    token_fail(&b->token, loop_refresh_us(), lasting, hold_us, loop_random_unit());
    b->failed++;
    lua_pushvalue(L, 3);
    if (came) {
      lua_pop(L, 1);
      lua_pushnil(L);
    }
    lua_setiuservalue(L, 1, FAILURE);
  }
  if (taken) return 0;
  if (came) {
    raise_push(L, ERR_AUTH, "refresh", "%s: the new token has ended already", name_of(L));
  } else if (raised) {
    lua_settop(L, 3);
    guard_translate_error(L, status);
  } else {
    return 0;
  }
  lua_setiuservalue(L, 1, FAILURE);
  return 0;
}

static int refresh_main(lua_State *L) {
  lua_settop(L, 1);
  lua_pushcfunction(L, raise_traceback);
  lua_getiuservalue(L, 1, FETCH);
  lua_pushvalue(L, 1);
  return refreshed(L, lua_pcallk(L, 1, 4, 2, 0, refreshed), 0);
}

static void begin(lua_State *L, struct box *b) {
  lua_pushcfunction(L, refresh_main);
  lua_pushvalue(L, 1);
  b->flight = task_spawn(L, bind_service_scope(), 1);
  lua_setiuservalue(L, 1, FLIGHT);
  token_begin(&b->token);
}

/* A refresh whose task found no memory to run in has ended without a word. */
static void notice_crash(lua_State *L, struct box *b) {
  if (!b->token.in_flight || b->flight->state != TASK_DONE) return;
  token_fail(&b->token, loop_refresh_us(), false, 0, loop_random_unit());
  b->failed++;
  lua_pushnil(L);
  lua_setiuservalue(L, 1, FAILURE);
}

/* ---- asking ---------------------------------------------------------------------------------- */

static int give(lua_State *L, const struct box *b) {
  lua_getiuservalue(L, 1, VALUE);
  lua_pushinteger(L, (lua_Integer)b->token.generation);
  return 2;
}

/* Everybody gets an error of their own: who catches it may write into it. */
static int raise_failure(lua_State *L) {
  int type = lua_getiuservalue(L, 1, FAILURE);
  if (type == LUA_TNIL) return luaL_error(L, "%s: not enough memory", name_of(L));
  if (type != LUA_TTABLE) return lua_error(L);
  int original = lua_gettop(L);
  lua_newtable(L);
  for (lua_pushnil(L); lua_next(L, original) != 0;) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, -4);
  }
  lua_pushnil(L);
  lua_setfield(L, -2, "traceback"); /* it is where the refresh failed; the caller's is wanted */
  if (lua_getmetatable(L, original)) lua_setmetatable(L, -2);
  return lua_error(L);
}

static int waited(lua_State *L, int status, lua_KContext ctx);

/* Leaves `least_us` and `until_us` behind the token for `waited`. */
static int wait_for(lua_State *L, struct box *b, int64_t least_us, int64_t until_us) {
  lua_KContext ctx = (lua_KContext)b->token.generation;
  lua_settop(L, 1);
  lua_pushinteger(L, least_us);
  lua_pushinteger(L, until_us);
  if (!b->token.in_flight) begin(L, b);
  struct list *waiting = &b->flight->joiners;
  if (until_us != LOOP_NEVER) return task_park_queue(L, waiting, name_of(L), until_us, ctx, waited);
  list_append(waiting, &task_running()->queue);
  struct wait w = {.what = name_of(L), .undo = task_undo_queue, .subject = b, .external = true};
  return task_park(L, &w, ctx, waited);
}

/* A refresh that was waited for has ended, or patience has; `ctx` is the generation there was. */
static int waited(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct box *b = check_box(L);
  notice_crash(L, b);
  bool renewed = b->token.generation != (uint64_t)ctx;
  int64_t least_us = lua_tointeger(L, 2), until_us = lua_tointeger(L, 3);
  int64_t now_us = loop_refresh_us();
  /* What another process had in the cache may be too short as well. Once: the next one is new. */
  if (renewed && least_us > 0 && token_step(&b->token, now_us, least_us) == TOKEN_WAIT)
    return wait_for(L, b, 0, until_us);
  if (renewed || token_state(&b->token, now_us) != TOKEN_EXPIRED) return give(L, b);
  if (task_running()->wake == WAKE_TIMEOUT)
    raise_kind(L, ERR_AUTH, "refresh", "%s has not been renewed in time", name_of(L));
  return raise_failure(L);
}

/* token:get([least[, patience]]) -> value, generation. Waits only when there is none to use, or
** less than `least` seconds are left of it, and at most `patience` seconds; raises what the refresh
** failed with. */
static int token_get(lua_State *L) {
  struct box *b = check_box(L);
  struct token *t = &b->token;
  task_check(L);
  int64_t now_us = loop_refresh_us();
  if (now_us - t->noticed_us > TOKEN_NOTICE_EVERY_US) token_notice(t, now_us, loop_wall_us());
  bool plain = lua_isnoneornil(L, 2);
  if (plain && token_is_fresh(t, now_us)) return give(L, b);
  int64_t least_us = plain ? 0 : bind_check_seconds(L, 2), until_us = LOOP_NEVER;
  if (!lua_isnoneornil(L, 3)) until_us = now_us + bind_check_seconds(L, 3);
  notice_crash(L, b);
  switch (token_step(t, now_us, least_us)) {
  case TOKEN_FAILED:
    return raise_failure(L);
  case TOKEN_WAIT:
    return wait_for(L, b, least_us, until_us);
  case TOKEN_USE_REFRESH:
    begin(L, b);
    break;
  case TOKEN_USE:
    break;
  }
  return give(L, b);
}

/* token:reject(generation): a server has refused it. True: another one is there, or can be waited
** for; false: a second try would end the same way. */
static int token_reject_(lua_State *L) {
  struct box *b = check_box(L);
  lua_Integer generation = luaL_checkinteger(L, 2);
  lua_pushboolean(L, token_reject(&b->token, (uint64_t)generation, loop_refresh_us()));
  return 1;
}

/* token:peek() -> the value there is (nil: none yet), generation; never waits. */
static int token_peek(lua_State *L) {
  return give(L, check_box(L));
}

/* token:state() -> { state =, generation =, left = seconds or nil, refreshing =, refused =,
** refreshed = and failed = counts } */
static int token_state_(lua_State *L) {
  static const char *const names[] = {"expired", "mandatory", "advisory", "fresh"};
  const struct box *b = check_box(L);
  const struct token *t = &b->token;
  int64_t now_us = loop_refresh_us();
  lua_createtable(L, 0, 7);
  lua_pushstring(L, names[token_state(t, now_us)]);
  lua_setfield(L, -2, "state");
  lua_pushinteger(L, (lua_Integer)t->generation);
  lua_setfield(L, -2, "generation");
  if (t->generation > 0 && t->expires_us != TOKEN_ENDLESS) {
    lua_pushnumber(L, (lua_Number)(t->expires_us - now_us) / 1e6);
    lua_setfield(L, -2, "left");
  }
  lua_pushboolean(L, t->in_flight);
  lua_setfield(L, -2, "refreshing");
  lua_pushboolean(L, t->rejected);
  lua_setfield(L, -2, "refused");
  lua_pushinteger(L, b->refreshed);
  lua_setfield(L, -2, "refreshed");
  lua_pushinteger(L, b->failed);
  lua_setfield(L, -2, "failed");
  return 1;
}

static int token_name(lua_State *L) {
  check_box(L);
  lua_getiuservalue(L, 1, NAME);
  return 1;
}

static int to_string(lua_State *L) {
  check_box(L);
  lua_pushfstring(L, "<%s>", name_of(L));
  return 1;
}

static int refuse(lua_State *L) {
  return luaL_error(L,
                    "a token cannot be concatenated, measured or compared; :get() gives its value");
}

static int is_token(lua_State *L) {
  lua_pushboolean(L, luaL_testudata(L, 1, TOKEN_TYPE) != NULL);
  return 1;
}

/* core.margins(life[, interval]) -> how many seconds before its end a token is due, must be
** replaced, and counts as ended. */
static int margins(lua_State *L) {
  int64_t life_us = bind_check_seconds(L, 1);
  int64_t interval_us = lua_isnoneornil(L, 2) ? 0 : bind_check_seconds(L, 2);
  struct token_margins m = token_margins(life_us, interval_us);
  lua_pushnumber(L, (lua_Number)m.advisory_us / 1e6);
  lua_pushnumber(L, (lua_Number)m.mandatory_us / 1e6);
  lua_pushnumber(L, (lua_Number)m.skew_us / 1e6);
  return 3;
}

int luaopen_sluice_core_token(lua_State *L) {
  static const luaL_Reg methods[] = {{"get", token_get},   {"reject", token_reject_},
                                     {"peek", token_peek}, {"state", token_state_},
                                     {"name", token_name}, {NULL, NULL}};
  static const luaL_Reg metamethods[] = {{"__tostring", to_string}, {"__concat", refuse},
                                         {"__len", refuse},         {"__lt", refuse},
                                         {"__le", refuse},          {NULL, NULL}};
  static const luaL_Reg functions[] = {{"new", new_token},
                                       {"fixed", new_fixed},
                                       {"is", is_token},
                                       {"margins", margins},
                                       {NULL, NULL}};
  luaL_newlib(L, functions);
  luaL_newmetatable(L, TOKEN_TYPE);
  luaL_setfuncs(L, metamethods, 0);
  luaL_newlib(L, methods);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "methods"); /* Lua adds its own */
  lua_setfield(L, -2, "__index");
  lua_pushliteral(L, TOKEN_TYPE);
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
  return 1;
}
