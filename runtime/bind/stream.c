/*
** Streamed replies: endpoint:stream(). Owned by the innermost task group and closed when it ends,
** whatever Lua did with it; the collector is a backstop. How they are read: stream_read.c.
*/
#include "bind/stream.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"

#define TEXT_KEEP 1024 /* bytes of the text buffer kept for the next piece */

static void wake(struct http_stream *s) {
  if (s->waiter != NULL) task_wake(s->waiter, WAKE_OK);
  s->waiter = NULL;
}

static void notify(struct transfer *t) {
  wake((struct http_stream *)(void *)t);
}

static void undo(struct task *waiting) {
  ((struct http_stream *)waiting->subject)->waiter = NULL;
}

static void shut(struct http_stream *s) {
  if (s->closed) return;
  s->closed = true;
  s->closed_us = loop_refresh_us();
  handle_release(&s->handle);
  stream_free(&s->stream);
  buf_free(&s->usage);
  memo_free(&s->memo);
  free(s->opening);
  s->opening = NULL;
  if (s->permit != NULL) semaphore_give(s->permit);
  s->permit = NULL;
  wake(s);
}

static void on_owner_end(struct handle *h) {
  shut((struct http_stream *)(void *)((char *)h - offsetof(struct http_stream, handle)));
}

static void undo_open(struct task *waiting) {
  struct http_stream *s = waiting->subject;
  s->waiter = NULL;
  shut(s); /* nobody has it yet: cancelling the opening closes the connection at once */
}

static int park(lua_State *L, struct http_stream *s, void (*take_back)(struct task *),
                lua_KFunction k) {
  if (s->waiter != NULL) return luaL_error(L, "another task is already reading this stream");
  if (s->stream.transfer.progress_us == LOOP_NEVER) transfer_expect(&s->stream.transfer);
  transfer_seen(&s->stream.transfer);
  s->waiter = task_running();
  struct wait w = {.what = s->label, .undo = take_back, .subject = s, .external = true};
  return task_park(L, &w, (lua_KContext)s, k);
}

int stream_wait(lua_State *L, struct http_stream *s, lua_KFunction k) {
  return park(L, s, undo, k);
}

/* ---- opening --------------------------------------------------------------------------------- */

static int opened(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct http_stream *s = (struct http_stream *)ctx;
  struct transfer *t = &s->stream.transfer;
  if (s->closed) return luaL_error(L, "the stream was closed while it was being opened");
  if (t->failed && !t->headers_done) {
    http_push_failure(L, t);
    shut(s);
    return 5;
  }
  if (!t->headers_done) return park(L, s, undo_open, opened);
  lua_settop(L, 2);
  return 1;
}

/* endpoint:stream(body, total, name, value, …) -> stream, as soon as the headers are there
** | false, kind, phase, message, elapsed */
int http_endpoint_stream(lua_State *L) {
  struct endpoint *e = http_check_endpoint(L);
  struct transfer_spec spec;
  task_check(L);
  struct http_stream *s = lua_newuserdatauv(L, sizeof *s, UV_COUNT);
  memset(s, 0, sizeof *s);
  stream_init(&s->stream, notify);
  list_init(&s->handle.link);
  s->handle.close = on_owner_end;
  s->label = e->label;
  buf_init(&s->text, STREAM_TEXT_MAX);
  buf_init(&s->usage, SSE_EVENT_MAX);
  luaL_setmetatable(L, STREAM_TYPE);
  int index = lua_gettop(L);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, index, UV_ENDPOINT);
  if (index > 2)
    lua_pushvalue(L, 2);
  else
    lua_pushnil(L);
  lua_setiuservalue(L, index, UV_BODY);
  lua_insert(L, 2);
  http_read_call(L, e, 3, &spec);
  lua_settop(L, 2);
  handle_adopt(&s->handle, scope_owner(task_running()->scope));
  if (!stream_start(&s->stream, &spec)) {
    http_push_failure(L, &s->stream.transfer);
    shut(s);
    return 5;
  }
  return park(L, s, undo_open, opened);
}

/* ---- the rest -------------------------------------------------------------------------------- */

/* stream:plain("openai" | "anthropic"): from now on plain text deltas come out as text. */
static int stream_plain(lua_State *L) {
  static const char *const protocols[] = {"none", "openai", "anthropic", NULL};
  stream_check(L)->protocol = (enum protocol)luaL_checkoption(L, 2, NULL, protocols);
  return 0;
}

/* stream:progress([bytes]): the event just read was content, so many bytes of it. */
static int stream_progress(lua_State *L) {
  struct http_stream *s = stream_check(L);
  lua_Integer bytes = luaL_optinteger(L, 2, 0);
  transfer_progress(&s->stream.transfer, bytes > 0 ? (size_t)bytes : 0);
  return 0;
}

/* stream:put_back(text): the next read hands it out; it is already counted. */
static int stream_put_back(lua_State *L) {
  struct http_stream *s = stream_check(L);
  luaL_checkstring(L, 2);
  lua_settop(L, 2);
  lua_setiuservalue(L, 1, UV_PENDING);
  s->has_pending = true;
  return 0;
}

/* stream:take_text() -> the plain text handed out since the last time. */
static int stream_take_text(lua_State *L) {
  struct http_stream *s = stream_check(L);
  lua_pushlstring(L, s->text.data != NULL ? s->text.data : "", s->text.len);
  buf_clear(&s->text, TEXT_KEEP);
  return 1;
}

/* stream:hold(semaphore): its permit, taken by the caller, goes back when this stream is closed. */
static int stream_hold(lua_State *L) {
  struct http_stream *s = stream_check(L);
  struct semaphore *permit = luaL_checkudata(L, 2, SEMAPHORE_TYPE);
  lua_settop(L, 2);
  lua_setiuservalue(L, 1, UV_PERMIT);
  s->permit = permit;
  return 0;
}

/* stream:halt(): the next read finds the end, whatever else is on the wire. */
static int stream_halt(lua_State *L) {
  stream_check(L)->halted = true;
  return 0;
}

/* stream:hurry(seconds): the answer is complete; wait only this long for what may still follow. */
static int stream_hurry(lua_State *L) {
  struct transfer *t = &stream_check(L)->stream.transfer;
  int64_t us = bind_check_seconds(L, 2);
  if (t->done) return 0;
  t->limits.idle_us = us > 0 ? us : 1;
  t->limits.rate_us = 0;
  t->progressed = true;
  transfer_expect(t);
  return 0;
}

static int drain_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct http_stream *s = (struct http_stream *)ctx;
  if (!s->closed && !s->stream.transfer.done) return stream_wait(L, s, drain_k);
  shut(s);
  return 0;
}

/* stream:drain(seconds): read the connection to the end of the reply, so that it can be used again,
** but at most this long; then close. */
static int stream_drain(lua_State *L) {
  struct http_stream *s = stream_check(L);
  s->stream.discard = true;
  s->halted = true;                     /* who reads on finds the end */
  transfer_resume(&s->stream.transfer); /* the brake may have held what is to be read to the end */
  stream_hurry(L);
  if (!s->closed && !s->stream.transfer.done) task_check(L);
  lua_settop(L, 1);
  return drain_k(L, LUA_OK, (lua_KContext)s);
}

/* stream:take_usage() -> the JSON of the last usage object that came on a text delta, or nil. */
static int stream_take_usage(lua_State *L) {
  struct http_stream *s = stream_check(L);
  if (s->usage.len == 0) return 0;
  lua_pushlstring(L, s->usage.data, s->usage.len);
  buf_clear(&s->usage, s->usage.max);
  return 1;
}

/* stream:take_opening() -> id and model of the answer, as its first chunks said, if those went unseen
** by Lua; once. */
static int stream_take_opening(lua_State *L) {
  struct http_stream *s = stream_check(L);
  if (s->opening == NULL) return 0;
  const char *id = s->opening, *model = id + strlen(id) + 1;
  lua_pushstring(L, *id != '\0' ? id : NULL);
  lua_pushstring(L, *model != '\0' ? model : NULL);
  free(s->opening);
  s->opening = NULL;
  return 2;
}

static int body_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct http_stream *s = (struct http_stream *)ctx;
  struct transfer *t = &s->stream.transfer;
  if (s->closed) return luaL_error(L, "the stream is closed");
  if (!t->done) {
    transfer_unexpect(t); /* every byte counts here */
    return stream_wait(L, s, body_k);
  }
  if (t->failed) return http_push_failure(L, t);
  lua_pushlstring(L, t->body.data != NULL ? t->body.data : "", t->body.len);
  return 1;
}

/* stream:body() -> all of a reply that is no event stream | false, kind, phase, message, elapsed */
static int stream_body(lua_State *L) {
  struct http_stream *s = stream_check(L);
  task_check(L);
  lua_settop(L, 1);
  return body_k(L, LUA_OK, (lua_KContext)s);
}

static int stream_is_events(lua_State *L) {
  struct http_stream *s = stream_check(L);
  /* Before the first byte the headers alone tell; an empty reply never has one. */
  if (!s->stream.sorted) stream_sort(&s->stream);
  lua_pushboolean(L, s->stream.is_events);
  return 1;
}

static int stream_status(lua_State *L) {
  return http_status(L, &stream_check(L)->stream.transfer);
}

static int stream_header(lua_State *L) {
  return http_header(L, &stream_check(L)->stream.transfer);
}

static int stream_headers(lua_State *L) {
  return http_headers(L, &stream_check(L)->stream.transfer);
}

static int stream_limits(lua_State *L) {
  return http_limits(L, &stream_check(L)->stream.transfer);
}

static int stream_times(lua_State *L) {
  return http_times(L, &stream_check(L)->stream.transfer);
}

static int stream_close(lua_State *L) {
  shut(stream_check(L));
  return 0;
}

/* stream:keep(): the next `<close>` of it does not close it. Who opens it puts it into such a variable,
** and calls this when it has an owner that will. The request's body may go, too: it can be large. */
static int stream_keep(lua_State *L) {
  struct http_stream *s = stream_check(L);
  s->kept = true;
  if (!transfer_drop_request(&s->stream.transfer)) return 0;
  lua_pushnil(L);
  lua_setiuservalue(L, 1, UV_BODY);
  return 0;
}

static int stream_leave(lua_State *L) {
  struct http_stream *s = stream_check(L);
  if (!s->kept) shut(s);
  s->kept = false;
  return 0;
}

/* stream:closed() -> has it been closed, by whomever?, and when, in seconds of core.now() */
static int stream_closed(lua_State *L) {
  const struct http_stream *s = stream_check(L);
  lua_pushboolean(L, s->closed);
  if (!s->closed) return 1;
  lua_pushnumber(L, (lua_Number)s->closed_us / 1e6);
  return 2;
}

/* stream:reading(): is a task waiting for it? */
static int stream_reading(lua_State *L) {
  lua_pushboolean(L, stream_check(L)->waiter != NULL);
  return 1;
}

static int stream_gc(lua_State *L) {
  struct http_stream *s = stream_check(L);
  shut(s);
  buf_free(&s->text);
  return 0;
}

void http_open_stream(lua_State *L) {
  static const luaL_Reg methods[] = {{"pull", stream_pull},
                                     {"texts", stream_texts},
                                     {"events", stream_events},
                                     {"until_text", stream_until_text},
                                     {"plain", stream_plain},
                                     {"progress", stream_progress},
                                     {"put_back", stream_put_back},
                                     {"hold", stream_hold},
                                     {"take_text", stream_take_text},
                                     {"take_usage", stream_take_usage},
                                     {"take_opening", stream_take_opening},
                                     {"body", stream_body},
                                     {"halt", stream_halt},
                                     {"hurry", stream_hurry},
                                     {"drain", stream_drain},
                                     {"is_events", stream_is_events},
                                     {"status", stream_status},
                                     {"header", stream_header},
                                     {"headers", stream_headers},
                                     {"limits", stream_limits},
                                     {"times", stream_times},
                                     {"close", stream_close},
                                     {"closed", stream_closed},
                                     {"reading", stream_reading},
                                     {"keep", stream_keep},
                                     {"__close", stream_leave},
                                     {"__gc", stream_gc},
                                     {NULL, NULL}};
  bind_new_type(L, STREAM_TYPE, methods);
  bind_set_handle_offset(L, offsetof(struct http_stream, handle));
  lua_pop(L, 1);
}
