/*
** sluice.core.server: listening. A listener is owned by the group that opened it and closed with
** it. Its tasks (the one that accepts, and one for each request) are not that group's: the group
** would wait for them, and they wait for clients. They live in a scope of the listener's own.
*/
#include "bind/server.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "bind/bind.h"
#include "io/server.h"
#include "task/scope.h"
#include "task/task.h"

#define LISTENER_TYPE "sluice.listener"
#define REQUEST_SECONDS 30 /* to send a whole request */
#define IDLE_SECONDS 75    /* between two of them */

struct listener {
  struct server *server; /* NULL when closed */
  struct handle handle;
  struct scope scope;    /* of the tasks that serve */
  struct list acceptors; /* tasks that wait for a request, */
  struct list drainers;  /* for the last reply to be out, */
  struct list waiters;   /* for the end */
  char label[128];
  bool stopped;
};

static struct listener *check_listener(lua_State *L) {
  return luaL_checkudata(L, 1, LISTENER_TYPE);
}

/* ---- reports from below -----------------------------------------------------------------------
 */

static bool is_drained(const struct listener *l) {
  return l->server == NULL || server_busy(l->server) == 0;
}

static void on_change(void *arg) {
  struct listener *l = arg;
  if (server_has_next(l->server)) waitq_wake_one(&l->acceptors);
  if (is_drained(l)) waitq_wake_all(&l->drainers);
}

/* ---- the end ----------------------------------------------------------------------------------
 */

static void cancel(struct task *t, void *arg) {
  (void)arg;
  task_cancel(t, "the server is closing");
}

static void shut(struct listener *l) {
  struct server *s = l->server;
  if (s == NULL) return;
  l->server = NULL;
  handle_release(&l->handle);
  scope_each_task(&l->scope, cancel, NULL);
  server_close(s);
  scope_finish(&l->scope); /* what still unwinds goes on among the runtime's own tasks */
  waitq_wake_all(&l->acceptors);
  waitq_wake_all(&l->drainers);
  waitq_wake_all(&l->waiters);
}

static void on_owner_end(struct handle *h) {
  shut((struct listener *)(void *)((char *)h - offsetof(struct listener, handle)));
}

static int listener_close(lua_State *L) {
  shut(check_listener(L));
  return 0;
}

/* listener:stop(): take no new connections and requests; accept() gives what is already there. */
static int listener_stop(lua_State *L) {
  struct listener *l = check_listener(L);
  if (l->server == NULL || l->stopped) return 0;
  l->stopped = true;
  server_stop(l->server);
  waitq_wake_all(&l->acceptors);
  return 0;
}

/* ---- listening --------------------------------------------------------------------------------
 */

static lua_Integer field_integer(lua_State *L, const char *name, lua_Integer absent) {
  lua_getfield(L, 1, name);
  lua_Integer n = luaL_optinteger(L, -1, absent);
  lua_pop(L, 1);
  return n;
}

static void make_label(struct listener *l, const char *address) {
  const char *format =
      server_is_ipv6(l->server) ? "requests to http://[%s]:%d" : "requests to http://%s:%d";
  snprintf(l->label, sizeof l->label, format, address, server_port(l->server));
}

/* core.listen { address, port, max_connections, max_body, request_timeout, idle_timeout, service }
** -> listener | nil, why. With `service`, its tasks are the runtime's own: waiting in one keeps no
** script from being deadlocked, and it ends with the program. */
static int core_listen(lua_State *L) {
  char error[256];
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  struct task *t = task_current(L);
  task_check(L);
  lua_getfield(L, 1, "address");
  struct server_options o = {.address = luaL_checkstring(L, 2), .changed = on_change};
  o.port = (int)field_integer(L, "port", 0);
  o.connections_max = (size_t)field_integer(L, "max_connections", SERVER_CONNECTIONS_MAX);
  o.body_max = (size_t)field_integer(L, "max_body", SERVER_BODY_MAX);
  o.request_us = bind_field_seconds(L, 1, "request_timeout", REQUEST_SECONDS * INT64_C(1000000));
  o.idle_us = bind_field_seconds(L, 1, "idle_timeout", IDLE_SECONDS * INT64_C(1000000));
  lua_getfield(L, 1, "service");
  bool service = lua_toboolean(L, -1);
  struct listener *l = lua_newuserdatauv(L, sizeof *l, 0);
  memset(l, 0, sizeof *l);
  list_init(&l->handle.link);
  list_init(&l->acceptors);
  list_init(&l->drainers);
  list_init(&l->waiters);
  l->handle.close = on_owner_end;
  luaL_setmetatable(L, LISTENER_TYPE);
  o.arg = l;
  l->server = server_listen(&o, error, sizeof error);
  if (l->server == NULL) {
    lua_pushnil(L);
    lua_pushstring(L, error);
    return 2;
  }
  make_label(l, o.address);
  scope_init(&l->scope, bind_service_scope(), true);
  l->scope.entered_by = NULL; /* it outlives the task that opened it */
  l->scope.service = service;
  handle_adopt(&l->handle, service ? bind_service_scope() : scope_owner(t->scope));
  return 1;
}

/* listener:spawn(f, …): a task that ends with the listener. */
static int listener_spawn(lua_State *L) {
  struct listener *l = check_listener(L);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (l->server == NULL) return luaL_error(L, "the server is closed");
  task_spawn(L, &l->scope, lua_gettop(L) - 2);
  return 1;
}

/* ---- waiting ----------------------------------------------------------------------------------
 */

static int park(lua_State *L, struct listener *l, struct list *q, const char *what,
                lua_KFunction k) {
  list_append(q, &task_current(L)->queue);
  struct wait w = {.what = what, .undo = task_undo_queue, .external = true};
  return task_park(L, &w, (lua_KContext)l, k);
}

static int accept_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct listener *l = (struct listener *)ctx;
  if (l->server != NULL && server_has_next(l->server)) return exchange_push_next(L, l->server);
  if (l->server == NULL || l->stopped) {
    lua_pushnil(L);
    return 1;
  }
  return park(L, l, &l->acceptors, l->label, accept_k);
}

/* listener:accept() -> exchange, method, target, headers, body, peer | nil: stopped or closed */
static int listener_accept(lua_State *L) {
  struct listener *l = check_listener(L);
  task_check(L);
  lua_settop(L, 1);
  return accept_k(L, LUA_OK, (lua_KContext)l);
}

static int drained_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  lua_pushboolean(L, is_drained((struct listener *)ctx));
  return 1;
}

/* listener:drain(seconds) -> true when every request has been answered, false when time is up. */
static int listener_drain(lua_State *L) {
  struct listener *l = check_listener(L);
  int64_t us = bind_check_seconds(L, 2);
  task_check(L);
  if (is_drained(l)) return drained_k(L, LUA_OK, (lua_KContext)l);
  return task_park_queue(L, &l->drainers, "the replies under way", loop_refresh_us() + us,
                         (lua_KContext)l, drained_k);
}

static int ended_k(lua_State *L, int status, lua_KContext ctx) {
  (void)L, (void)status, (void)ctx;
  return 0;
}

/* listener:wait(): until it is closed. */
static int listener_wait(lua_State *L) {
  struct listener *l = check_listener(L);
  task_check(L);
  if (l->server == NULL) return 0;
  return park(L, l, &l->waiters, l->label, ended_k);
}

/* ---- looking ----------------------------------------------------------------------------------
 */

/* listener:port() -> port, is it IPv6; nil when closed. */
static int listener_port(lua_State *L) {
  struct listener *l = check_listener(L);
  if (l->server == NULL) return 0;
  lua_pushinteger(L, server_port(l->server));
  lua_pushboolean(L, server_is_ipv6(l->server));
  return 2;
}

/* listener:load() -> open connections, requests under way */
static int listener_load(lua_State *L) {
  struct listener *l = check_listener(L);
  lua_pushinteger(L, l->server != NULL ? (lua_Integer)server_connections(l->server) : 0);
  lua_pushinteger(L, l->server != NULL ? (lua_Integer)server_busy(l->server) : 0);
  return 2;
}

static int listener_closed(lua_State *L) {
  lua_pushboolean(L, check_listener(L)->server == NULL);
  return 1;
}

int luaopen_sluice_core_server(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"spawn", listener_spawn}, {"accept", listener_accept}, {"drain", listener_drain},
      {"wait", listener_wait},   {"stop", listener_stop},     {"close", listener_close},
      {"port", listener_port},   {"load", listener_load},     {"closed", listener_closed},
      {"__gc", listener_close},  {"__close", listener_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"listen", core_listen}, {NULL, NULL}};
  bind_new_type(L, LISTENER_TYPE, methods);
  bind_set_handle_offset(L, offsetof(struct listener, handle));
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  exchange_open(L);
  lua_setfield(L, -2, "exchange");
  return 1;
}
