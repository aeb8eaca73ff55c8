/*
** sluice.core.sync: semaphores and channels. A permit or an item is handed to the waiter that
** stands first, so nobody overtakes; a waiter that is cancelled leaves the queue with nothing
** taken.
*/
#include "bind/bind.h"
#include "task/semaphore.h"
#include "task/task.h"

#define CHANNEL_TYPE "sluice.channel"
#define PERMITS_MAX 1000000000

/* ---- semaphore ------------------------------------------------------------------------------- */

static int new_semaphore(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);
  luaL_argcheck(L, n >= 1 && n <= PERMITS_MAX, 1, "number of permits expected: 1 or more");
  struct semaphore *s = lua_newuserdatauv(L, sizeof *s, 0);
  semaphore_init(s, n);
  luaL_setmetatable(L, SEMAPHORE_TYPE);
  return 1;
}

static struct semaphore *check_semaphore(lua_State *L) {
  return bind_check_self(L, SEMAPHORE_TYPE);
}

static int acquired_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  if (task_running()->wake == WAKE_TIMEOUT) {
    lua_pushnil(L);
    return 1;
  }
  lua_settop(L, 1);
  return 1; /* the semaphore itself: `local _ <close> = s:acquire()` gives the permit back */
}

/* semaphore:acquire([timeout]) -> itself, or nil when `timeout` seconds have passed. */
static int semaphore_acquire(lua_State *L) {
  struct semaphore *s = check_semaphore(L);
  int64_t wait_us = lua_isnoneornil(L, 2) ? -1 : bind_check_seconds(L, 2);
  task_check(L);
  if (semaphore_take(s)) {
    lua_settop(L, 1);
    return 1;
  }
  int64_t until = wait_us < 0 ? LOOP_NEVER : loop_refresh_us() + wait_us;
  return task_park_queue(L, &s->waiting, "a permit of a semaphore", until, 0, acquired_k);
}

static int semaphore_try(lua_State *L) {
  lua_pushboolean(L, semaphore_take(check_semaphore(L)));
  return 1;
}

static int semaphore_release(lua_State *L) {
  if (!semaphore_give(check_semaphore(L)))
    return luaL_error(L, "semaphore:release: more permits given back than taken");
  return 0;
}

static int semaphore_available(lua_State *L) {
  lua_pushinteger(L, check_semaphore(L)->free);
  return 1;
}

/* ---- channel --------------------------------------------------------------------------------- */

/* Items live in user value 1, a table used as a queue: items[first .. first + count - 1]. A sender
** that was woken owns a place (`promised`); a receiver that was woken owns an item (`claimed`). */
struct channel {
  struct list senders, receivers;
  lua_Integer first, count, promised, claimed, capacity;
  bool closed;
};

static int new_channel(lua_State *L) {
  lua_Integer n = luaL_optinteger(L, 1, 1);
  luaL_argcheck(L, n >= 1 && n <= PERMITS_MAX, 1, "capacity expected: 1 or more");
  struct channel *c = lua_newuserdatauv(L, sizeof *c, 1);
  *c = (struct channel){.capacity = n, .first = 1};
  list_init(&c->senders);
  list_init(&c->receivers);
  luaL_setmetatable(L, CHANNEL_TYPE);
  lua_newtable(L);
  lua_setiuservalue(L, -2, 1);
  return 1;
}

static struct channel *check_channel(lua_State *L) {
  return bind_check_self(L, CHANNEL_TYPE);
}

static int put(lua_State *L, struct channel *c) {
  lua_getiuservalue(L, 1, 1);
  lua_pushvalue(L, 2);
  lua_rawseti(L, -2, c->first + c->count);
  c->count++;
  if (waitq_wake_one(&c->receivers)) c->claimed++;
  return 0;
}

static int take(lua_State *L, struct channel *c) {
  lua_getiuservalue(L, 1, 1);
  lua_rawgeti(L, -1, c->first);
  lua_pushnil(L);
  lua_rawseti(L, -3, c->first);
  c->count--;
  c->first = c->count == 0 ? 1 : c->first + 1;
  if (waitq_wake_one(&c->senders)) c->promised++;
  return 1;
}

static int closed_error(lua_State *L) {
  return luaL_error(L, "channel:send: the channel is closed");
}

static int send_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  struct channel *c = check_channel(L);
  if (task_running()->wake == WAKE_TIMEOUT) {
    lua_pushboolean(L, 0);
    return 1;
  }
  if (c->closed) return closed_error(L);
  c->promised--;
  put(L, c);
  lua_pushboolean(L, 1);
  return 1;
}

/* channel:send(value[, timeout]) -> true, or false when `timeout` seconds have passed. */
static int channel_send(lua_State *L) {
  struct channel *c = check_channel(L);
  luaL_argcheck(L, !lua_isnoneornil(L, 2), 2, "a value expected, not nil");
  int64_t wait_us = lua_isnoneornil(L, 3) ? -1 : bind_check_seconds(L, 3);
  task_check(L);
  if (c->closed) return closed_error(L);
  if (c->count + c->promised < c->capacity) {
    put(L, c);
    lua_pushboolean(L, 1);
    return 1;
  }
  int64_t until = wait_us < 0 ? LOOP_NEVER : loop_refresh_us() + wait_us;
  return task_park_queue(L, &c->senders, "room in a channel", until, 0, send_k);
}

static int receive_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  struct channel *c = check_channel(L);
  bool timed_out = task_running()->wake == WAKE_TIMEOUT;
  if (timed_out || (c->closed && c->count == 0)) {
    lua_pushnil(L);
    lua_pushstring(L, timed_out ? "timeout" : "closed");
    return 2;
  }
  if (c->claimed > 0) c->claimed--;
  return take(L, c);
}

/* channel:receive([timeout]) -> value | nil, "closed" | nil, "timeout". */
static int channel_receive(lua_State *L) {
  struct channel *c = check_channel(L);
  int64_t wait_us = lua_isnoneornil(L, 2) ? -1 : bind_check_seconds(L, 2);
  task_check(L);
  if (c->count > c->claimed) return take(L, c);
  if (c->closed) {
    lua_pushnil(L);
    lua_pushliteral(L, "closed");
    return 2;
  }
  int64_t until = wait_us < 0 ? LOOP_NEVER : loop_refresh_us() + wait_us;
  return task_park_queue(L, &c->receivers, "an item in a channel", until, 0, receive_k);
}

/* Closing lets receivers drain what is there; senders fail. */
static int channel_close(lua_State *L) {
  struct channel *c = check_channel(L);
  if (c->closed) return 0;
  c->closed = true;
  waitq_wake_all(&c->senders);
  waitq_wake_all(&c->receivers);
  return 0;
}

static int receive_next(lua_State *L) {
  lua_settop(L, 1);
  return channel_receive(L);
}

/* for value in channel:items() do … end, until the channel is closed and empty. */
static int channel_items(lua_State *L) {
  check_channel(L);
  lua_pushcfunction(L, receive_next);
  lua_pushvalue(L, 1);
  return 2;
}

static int channel_len(lua_State *L) {
  lua_pushinteger(L, check_channel(L)->count);
  return 1;
}

int luaopen_sluice_core_sync(lua_State *L) {
  static const luaL_Reg semaphore_methods[] = {
      {"acquire", semaphore_acquire}, {"try_acquire", semaphore_try},
      {"release", semaphore_release}, {"available", semaphore_available},
      {"__close", semaphore_release}, {NULL, NULL}};
  static const luaL_Reg channel_methods[] = {{"send", channel_send},
                                             {"receive", channel_receive},
                                             {"close", channel_close},
                                             {"items", channel_items},
                                             {"__len", channel_len},
                                             {"__close", channel_close},
                                             {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"semaphore", new_semaphore}, {"channel", new_channel}, {NULL, NULL}};
  bind_new_type(L, SEMAPHORE_TYPE, semaphore_methods);
  bind_new_type(L, CHANNEL_TYPE, channel_methods);
  luaL_newlib(L, functions);
  return 1;
}
