/*
** Whole replies: endpoint:request(). The body stays in C until the script asks for it; the plain
** case of one text answer is picked out of it without building a table (base/answer).
*/
#include <lauxlib.h>
#include <string.h>

#include "base/answer.h"
#include "base/limits.h"
#include "bind/bind.h"
#include "bind/http.h"
#include "task/task.h"

#define KEEP_IN_C_MAX                                                                              \
  4096 /* bytes; larger bodies become Lua strings, which the collector can see */

struct response {
  struct transfer transfer;
  struct task *waiter;
};

/* User values: 1 the endpoint, 2 the request's body and later the reply's. */

static struct response *check_response(lua_State *L) {
  return bind_check_self(L, RESPONSE_TYPE);
}

static void notify(struct transfer *t) {
  struct response *r = (struct response *)(void *)t;
  if (r->waiter != NULL) task_wake(r->waiter, WAKE_OK);
  r->waiter = NULL;
}

static void undo(struct task *waiting) {
  struct response *r = waiting->subject;
  r->waiter = NULL;
  transfer_free(&r->transfer);
}

static void take_body(lua_State *L, struct response *r, int index) {
  lua_pushlstring(L, r->transfer.body.data != NULL ? r->transfer.body.data : "",
                  r->transfer.body.len);
  buf_free(&r->transfer.body);
  lua_setiuservalue(L, index, 2);
}

static int finished(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct response *r = (struct response *)ctx;
  int index = lua_gettop(L);
  if (r->transfer.failed) return http_push_failure(L, &r->transfer);
  lua_pushnil(L);
  lua_setiuservalue(L, index, 2); /* the request's body may go */
  if (r->transfer.body.len > KEEP_IN_C_MAX) take_body(L, r, index);
  return 1;
}

/* endpoint:request(body, total, name, value, …) -> response | false, kind, phase, message, elapsed
 */
int http_endpoint_request(lua_State *L) {
  struct endpoint *e = http_check_endpoint(L);
  struct transfer_spec spec;
  task_check(L);
  struct response *r = lua_newuserdatauv(L, sizeof *r, 2);
  transfer_init(&r->transfer);
  r->waiter = NULL;
  luaL_setmetatable(L, RESPONSE_TYPE);
  int index = lua_gettop(L);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, index, 1);
  if (index > 2)
    lua_pushvalue(L, 2);
  else
    lua_pushnil(L);
  lua_setiuservalue(L, index, 2);
  lua_insert(L, 2); /* below the arguments, so that what is read ends at the top */
  http_read_call(L, e, 3, &spec);
  lua_settop(L, 2);
  r->transfer.counts_bytes = true;
  r->transfer.notify = notify;
  if (!transfer_start(&r->transfer, &spec)) return http_push_failure(L, &r->transfer);
  r->waiter = task_running();
  struct wait w = {.what = e->label, .undo = undo, .subject = r, .external = true};
  return task_park(L, &w, (lua_KContext)r, finished);
}

static int response_status(lua_State *L) {
  return http_status(L, &check_response(L)->transfer);
}

static int response_header(lua_State *L) {
  return http_header(L, &check_response(L)->transfer);
}

static int response_headers(lua_State *L) {
  return http_headers(L, &check_response(L)->transfer);
}

static int response_limits(lua_State *L) {
  return http_limits(L, &check_response(L)->transfer);
}

static int response_times(lua_State *L) {
  return http_times(L, &check_response(L)->transfer);
}

static int response_body(lua_State *L) {
  struct response *r = check_response(L);
  if (lua_getiuservalue(L, 1, 2) == LUA_TSTRING) return 1;
  take_body(L, r, 1);
  lua_getiuservalue(L, 1, 2);
  return 1;
}

static void push_slice(lua_State *L, const char *s, size_t n) {
  if (s != NULL)
    lua_pushlstring(L, s, n);
  else
    lua_pushnil(L);
}

static void push_count(lua_State *L, int64_t n) {
  if (n >= 0)
    lua_pushinteger(L, n);
  else
    lua_pushnil(L);
}

/* response:answer("openai" | "anthropic") -> text, finish, id, model, input, output, total, cached,
** reasoning tokens, the two that times() gives, whether limits() would give anything; or nil when the
** reply is anything but one plain text answer. */
static int response_answer(lua_State *L) {
  static const char *const protocols[] = {"openai", "anthropic", NULL};
  struct response *r = check_response(L);
  int protocol = luaL_checkoption(L, 2, NULL, protocols);
  const char *body = r->transfer.body.data;
  size_t len = r->transfer.body.len;
  if (lua_getiuservalue(L, 1, 2) == LUA_TSTRING) body = lua_tolstring(L, -1, &len);
  struct answer a;
  struct buf scratch;
  buf_init(&scratch, HTTP_BODY_MAX);
  bool plain = body != NULL && (protocol == 0 ? answer_openai(body, len, &a, &scratch)
                                              : answer_anthropic(body, len, &a, &scratch));
  if (!plain) {
    buf_free(&scratch);
    return 0;
  }
  lua_pushlstring(L, a.text, a.text_len);
  buf_free(&scratch);
  push_slice(L, a.finish_reason, a.finish_reason_len);
  push_slice(L, a.id, a.id_len);
  push_slice(L, a.model, a.model_len);
  push_count(L, a.has_usage ? a.input_tokens : -1);
  push_count(L, a.output_tokens);
  push_count(L, a.total_tokens);
  push_count(L, a.cached_tokens);
  push_count(L, a.reasoning_tokens);
  http_times(L, &r->transfer);
  lua_pushboolean(L, http_has_limits(&r->transfer));
  return 12;
}

static int response_free(lua_State *L) {
  struct response *r = check_response(L);
  transfer_free(&r->transfer);
  return 0;
}

void http_open_response(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"status", response_status}, {"header", response_header}, {"headers", response_headers},
      {"times", response_times},   {"limits", response_limits}, {"body", response_body},
      {"answer", response_answer}, {"__gc", response_free},     {NULL, NULL}};
  bind_new_type(L, RESPONSE_TYPE, methods);
  lua_pop(L, 1);
}
