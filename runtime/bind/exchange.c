/*
** One request and its reply, for sluice.core.server. The handler of a request gets this as its
** second argument; Lua adds methods (json, event) to the same table.
*/
#include <lauxlib.h>
#include <string.h>

#include "base/limits.h"
#include "bind/server.h"
#include "io/server.h"
#include "task/raise.h"
#include "task/task.h"

#define EXCHANGE_TYPE "sluice.exchange"

struct box {
  struct exchange *x;   /* NULL only while it is being made */
  struct task *waiter;  /* writing, held up by a slow client */
  struct task *watched; /* cancelled when the client goes; its handle is user value 1 */
};

static struct box *check_box(lua_State *L) {
  struct box *b = luaL_checkudata(L, 1, EXCHANGE_TYPE);
  luaL_argcheck(L, b->x != NULL, 1, "a request that was never received");
  return b;
}

static void on_notify(struct exchange *x) {
  struct box *b = x->owner;
  if (x->gone && b->watched != NULL) {
    struct task *t = b->watched;
    b->watched = NULL;
    task_cancel(t, "the client has gone");
  }
  if (b->waiter != NULL) task_wake(b->waiter, WAKE_OK);
  b->waiter = NULL;
}

/* ---- receiving --------------------------------------------------------------------------------
 */

static void lower(char *s) {
  for (; *s != '\0'; s++)
    if (*s >= 'A' && *s <= 'Z') *s = (char)(*s + ('a' - 'A'));
}

/* Push { [lower-case name] = value }; values of a repeated header are joined. */
static void push_headers(lua_State *L, const struct exchange *x) {
  const char *name, *value;
  lua_newtable(L);
  for (const void *h = NULL; (h = exchange_next_header(x, h, &name, &value)) != NULL;) {
    char small[256];
    size_t n = strlen(name);
    if (n >= sizeof small) continue; /* no header anybody means has such a name */
    memcpy(small, name, n + 1);
    lower(small);
    if (lua_getfield(L, -1, small) == LUA_TSTRING) {
      lua_pushfstring(L, strcmp(small, "cookie") == 0 ? "; %s" : ", %s", value);
      lua_concat(L, 2);
    } else {
      lua_pop(L, 1);
      lua_pushstring(L, value);
    }
    lua_setfield(L, -2, small);
  }
}

int exchange_push_next(lua_State *L, struct server *s) {
  struct box *b = lua_newuserdatauv(L, sizeof *b, 1);
  memset(b, 0, sizeof *b);
  luaL_setmetatable(L, EXCHANGE_TYPE);
  struct exchange *x = b->x = server_next(s); /* from here on the finalizer ends it */
  x->owner = b;
  x->notify = on_notify;
  lua_pushstring(L, exchange_method(x));
  lua_pushstring(L, exchange_target(x));
  push_headers(L, x);
  size_t len;
  const char *body = exchange_body(x, &len);
  if (body == NULL) return luaL_error(L, "not enough memory");
  lua_pushlstring(L, body, len);
  exchange_drop_body(x);
  const char *address;
  int port;
  exchange_peer(x, &address, &port);
  lua_pushstring(L, address);
  return 6;
}

/* exchange:watch(task): cancel it when the client goes before the reply is complete. */
static int exchange_watch(lua_State *L) {
  struct box *b = check_box(L);
  struct task *t = task_check_handle(L, 2);
  lua_settop(L, 2);
  lua_setiuservalue(L, 1, 1);
  b->watched = t;
  if (b->x->gone) on_notify(b->x);
  return 0;
}

/* ---- headers of the reply ---------------------------------------------------------------------
 */

/* RFC 9110 5.6.2: the characters of a token. */
static bool is_token(const char *s) {
  if (*s == '\0') return false;
  for (; *s != '\0'; s++) {
    bool alnum = (*s >= '0' && *s <= '9') || (*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z');
    if (!alnum && strchr("!#$%&'*+-.^_`|~", *s) == NULL) return false;
  }
  return true;
}

static void check_header(lua_State *L, const char *name, int value_index) {
  size_t len;
  int type = lua_type(L, value_index);
  if (type != LUA_TSTRING && type != LUA_TNUMBER)
    luaL_error(L, "header '%s': a string expected, got %s", name, luaL_typename(L, value_index));
  lua_pushvalue(L, value_index); /* a number becomes a string here, not in the script's table */
  const char *value = lua_tolstring(L, -1, &len);
  for (size_t i = 0; i < len; i++)
    if (value[i] == '\r' || value[i] == '\n' || value[i] == '\0')
      luaL_error(L,
                 "header '%s': its value holds a line break or a NUL at byte %d, which would "
                 "forge another header",
                 name, (int)i + 1);
}

/* With the value on top of the stack, checked; pops it. */
static void add_header(lua_State *L, struct exchange *x, const char *name) {
  if (!exchange_add_header(x, name, lua_tostring(L, -1))) luaL_error(L, "not enough memory");
  lua_pop(L, 1);
}

/* Check, or check and add, the headers of the table at `index`. A value may be a list. */
static void each_header(lua_State *L, int index, struct exchange *x, bool add) {
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || !is_token(lua_tostring(L, -2)))
      luaL_error(L, "'%s' is not a header name", luaL_tolstring(L, -2, NULL));
    const char *name = lua_tostring(L, -2);
    if (strcasecmp(name, "Transfer-Encoding") == 0)
      luaL_error(L, "header 'Transfer-Encoding': the server frames replies itself");
    if (!lua_istable(L, -1)) {
      check_header(L, name, -1);
      if (add)
        add_header(L, x, name);
      else
        lua_pop(L, 1);
      continue;
    }
    lua_Integer n = luaL_len(L, -1);
    for (lua_Integer i = 1; i <= n; i++) {
      lua_rawgeti(L, -1, i);
      check_header(L, name, -1);
      if (add)
        add_header(L, x, name);
      else
        lua_pop(L, 1);
      lua_pop(L, 1);
    }
  }
}

/* ---- replying ---------------------------------------------------------------------------------
 */

static int raise_gone(lua_State *L) {
  raise_kind(L, ERR_NETWORK, "response", "the client has gone");
}

static void check_status(lua_State *L, enum exchange_status status) {
  if (status == EXCHANGE_GONE) raise_gone(L);
  if (status == EXCHANGE_NOMEM) luaL_error(L, "not enough memory");
}

/* The exchange, ready for a first word: (exchange, status, headers). */
static struct exchange *check_fresh(lua_State *L, const char *method) {
  struct exchange *x = check_box(L)->x;
  lua_Integer status = luaL_checkinteger(L, 2);
  luaL_argcheck(L, status >= 200 && status <= 999, 2, "an HTTP status expected: 200 to 999");
  task_check(L);
  if (x->done) luaL_error(L, "res:%s: the reply is complete already", method);
  if (x->started) luaL_error(L, "res:%s: the reply has been started already", method);
  if (!lua_isnoneornil(L, 3)) {
    luaL_checktype(L, 3, LUA_TTABLE);
    each_header(L, 3, x, false);
    each_header(L, 3, x, true);
  }
  return x;
}

static struct exchange *check_started(lua_State *L, const char *method) {
  struct exchange *x = check_box(L)->x;
  task_check(L);
  if (x->gone) raise_gone(L);
  if (x->done) luaL_error(L, "res:%s: the reply is complete already", method);
  if (!x->started) luaL_error(L, "res:%s: the reply has not been started (res:start)", method);
  if (x->raw) luaL_error(L, "res:%s: after res:raw only raw, close and abort are possible", method);
  return x;
}

/* res:send(status[, headers[, body]]): the whole reply. */
static int exchange_send(lua_State *L) {
  size_t len = 0;
  const char *body = luaL_optlstring(L, 4, "", &len);
  struct exchange *x = check_fresh(L, "send");
  check_status(L, exchange_reply(x, (int)lua_tointeger(L, 2), body, len));
  return 0;
}

/* res:start(status[, headers]): a reply whose body follows by write. */
static int exchange_start_(lua_State *L) {
  struct exchange *x = check_fresh(L, "start");
  check_status(L, exchange_start(x, (int)lua_tointeger(L, 2)));
  return 0;
}

static void undo(struct task *waiting) {
  ((struct box *)waiting->subject)->waiter = NULL;
}

static int park(lua_State *L, struct box *b, lua_KContext ctx, lua_KFunction k) {
  if (b->waiter != NULL) return luaL_error(L, "another task is already writing this reply");
  b->waiter = task_running();
  struct wait w = {.what = "a slow client", .undo = undo, .subject = b, .external = true};
  return task_park(L, &w, ctx, k);
}

typedef enum exchange_status (*write_function)(struct exchange *, const char *, size_t);

/* Hand over the string at 2 from `offset` on, no more at once than may wait for a slow client. */
static int write_from(lua_State *L, size_t offset, write_function write, lua_KFunction k) {
  struct box *b = check_box(L);
  size_t len;
  const char *bytes = lua_tolstring(L, 2, &len);
  if (b->x->gone) return raise_gone(L);
  while (offset < len) {
    size_t n = len - offset < SERVER_WRITE_MAX ? len - offset : SERVER_WRITE_MAX;
    enum exchange_status status = write(b->x, bytes + offset, n);
    check_status(L, status);
    offset += n;
    if (status == EXCHANGE_FULL) return park(L, b, (lua_KContext)offset, k);
  }
  lua_settop(L, 1);
  return 1;
}

static int write_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  return write_from(L, (size_t)ctx, exchange_write, write_k);
}

/* res:write(bytes): waits while more than SERVER_WRITE_MAX bytes are on their way to the client. */
static int exchange_write_(lua_State *L) {
  luaL_checkstring(L, 2);
  check_started(L, "write");
  lua_settop(L, 2);
  return write_k(L, LUA_OK, 0);
}

static int raw_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  return write_from(L, (size_t)ctx, exchange_raw, raw_k);
}

/* res:raw(bytes): straight to the connection, without a status, a header or a frame. */
static int exchange_raw_(lua_State *L) {
  struct exchange *x = check_box(L)->x;
  luaL_checkstring(L, 2);
  task_check(L);
  if (x->done) return luaL_error(L, "res:raw: the reply is complete already");
  lua_settop(L, 2);
  return raw_k(L, LUA_OK, 0);
}

static int flush_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct box *b = (struct box *)ctx;
  if (b->x->gone) return raise_gone(L);
  return exchange_pending(b->x) == 0 ? 0 : park(L, b, ctx, flush_k);
}

/* res:flush(): until the system has taken all that was written. */
static int exchange_flush(lua_State *L) {
  struct box *b = check_box(L);
  task_check(L);
  return flush_k(L, LUA_OK, (lua_KContext)b);
}

static int exchange_finish_(lua_State *L) {
  check_status(L, exchange_finish(check_started(L, "finish")));
  return 0;
}

static int exchange_close_(lua_State *L) {
  exchange_close(check_box(L)->x);
  return 0;
}

/* res:abort([how]): "reset" (the default) or "close". */
static int exchange_abort_(lua_State *L) {
  static const char *const how[] = {"reset", "close", NULL};
  struct exchange *x = check_box(L)->x;
  exchange_abort(x, luaL_checkoption(L, 2, "reset", how) == 0);
  return 0;
}

static int exchange_gc(lua_State *L) {
  struct box *b = luaL_checkudata(L, 1, EXCHANGE_TYPE);
  if (b->x != NULL) exchange_free(b->x);
  b->x = NULL;
  return 0;
}

/* Properties, then methods (upvalue 1). */
static int exchange_index(lua_State *L) {
  struct exchange *x = check_box(L)->x;
  lua_settop(L, 2);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(key, "sent") == 0)
    lua_pushboolean(L, x->started);
  else if (strcmp(key, "done") == 0)
    lua_pushboolean(L, x->done);
  else if (strcmp(key, "gone") == 0)
    lua_pushboolean(L, x->gone);
  else if (strcmp(key, "pending") == 0)
    lua_pushinteger(L, (lua_Integer)exchange_pending(x));
  else
    lua_pushnil(L);
  return 1;
}

void exchange_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"watch", exchange_watch},    {"send", exchange_send},
                                     {"start", exchange_start_},   {"write", exchange_write_},
                                     {"raw", exchange_raw_},       {"flush", exchange_flush},
                                     {"finish", exchange_finish_}, {"close", exchange_close_},
                                     {"abort", exchange_abort_},   {NULL, NULL}};
  luaL_newmetatable(L, EXCHANGE_TYPE);
  lua_pushcfunction(L, exchange_gc);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, methods);
  lua_pushvalue(L, -1);
  lua_pushcclosure(L, exchange_index, 1);
  lua_setfield(L, -3, "__index");
  lua_remove(L, -2);
}
