/*
** Streamed replies: endpoint:stream(). Owned by the innermost task group and closed when it ends,
** whatever Lua did with it; the collector is a backstop.
**
** Two ways to read. pull() hands out one event at a time. The iterators texts() and events() hand out
** text deltas straight from C, and call the handler they were given for every other event; until_text()
** waits so for the first text.
*/
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "base/delta.h"
#include "base/limits.h"
#include "base/memo.h"
#include "base/scan.h"
#include "bind/bind.h"
#include "bind/http.h"
#include "io/stream.h"
#include "task/semaphore.h"
#include "task/task.h"

#define TEXT_KEEP 1024   /* bytes of the text buffer kept for the next piece */
#define OPENING_MAX 1024 /* bytes of an id and a model's name that are kept */

enum protocol { PROTOCOL_NONE, PROTOCOL_OPENAI, PROTOCOL_ANTHROPIC };

struct http_stream {
  struct stream stream; /* first: the transfer's callbacks come back with it */
  struct handle handle;
  struct task *waiter;
  const char *label;
  struct buf text;  /* plain text handed out and not yet taken by take_text */
  struct memo memo; /* what surrounds the text in this provider's chunks */
  char *opening;    /* what the first chunks said: the answer's id and its model, each with a NUL */
  struct buf usage; /* the last usage object that came on a text delta */
  enum protocol protocol;
  struct semaphore *permit; /* given back when the stream is closed, whoever closes it */
  bool more;                /* the handler of a loop has more to give, before anything is read */
  bool has_pending;         /* a user value holds text to hand out first */
  bool halted;              /* the script has what it wants: reading ends here */
  bool kept;                /* leaving the block it was opened in does not close it */
  bool closed;
  int64_t closed_us; /* when: whoever looks may come much later */
};

/* A delta with escapes, unescaped. One for all: what is in it has been copied before the next event is
** looked at. */
static struct buf scratch = {.max = SSE_EVENT_MAX};

/* User values: what must live as long as the stream, and text put back. */
enum { UV_ENDPOINT = 1, UV_BODY, UV_PENDING, UV_PERMIT, UV_COUNT = UV_PERMIT };

static struct http_stream *check_stream(lua_State *L) {
  return bind_check_self(L, STREAM_TYPE);
}

static void wake(struct http_stream *s) {
  if (s->waiter != NULL) task_wake(s->waiter, WAKE_OK);
  s->waiter = NULL;
}

static void notify(struct transfer *t) {
  wake((struct http_stream *)(void *)t);
}

static int opened(lua_State *L, int status, lua_KContext ctx);

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

static int park(lua_State *L, struct http_stream *s, lua_KFunction k) {
  if (s->waiter != NULL) return luaL_error(L, "another task is already reading this stream");
  if (s->stream.transfer.progress_us == LOOP_NEVER) transfer_expect(&s->stream.transfer);
  transfer_seen(&s->stream.transfer);
  s->waiter = task_running();
  struct wait w = {
      .what = s->label, .undo = k == opened ? undo_open : undo, .subject = s, .external = true};
  return task_park(L, &w, (lua_KContext)s, k);
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
  if (!t->headers_done) return park(L, s, opened);
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
  return park(L, s, opened);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The next event is, byte for byte, like one seen before but for its text. */
static bool as_before(struct http_stream *s, struct delta *d) {
  size_t n;
  const char *raw = s->memo.bytes != NULL ? sse_peek(&s->stream.sse, &n) : NULL;
  struct memo_hit hit;
  if (raw == NULL || !memo_match(&s->memo, raw, n, &hit)) return false;
  *d = (struct delta){.text = hit.text, .text_len = hit.text_len};
  if (hit.escaped) {
    struct scan scan;
    struct scan_text written;
    scan_init(&scan, hit.text - 1, hit.text_len + 2); /* with its quotes */
    scratch.len = 0;
    if (!scan_string(&scan, &written) || !scan_end(&scan)) return false;
    if (scan_unescape(&written, &scratch) != SCAN_OK) return false;
    d->text = scratch.data;
    d->text_len = scratch.len;
  }
  sse_skip(&s->stream.sse, hit.used);
  return true;
}

/* `raw` is where the event began, of which `before` bytes with all behind it were buffered. */
static bool as_delta(struct http_stream *s, const struct sse_event *ev, const char *raw,
                     size_t before, struct delta *d) {
  bool plain;
  d->silent = false;
  if (s->protocol == PROTOCOL_NONE) return false;
  if (s->protocol == PROTOCOL_ANTHROPIC)
    plain = delta_anthropic(ev->event, ev->event_len, ev->data, ev->data_len, d, &scratch);
  else /* the protocol names no events, but some servers name this one, whatever its data is */
    plain = !(ev->event_len == 5 && memcmp(ev->event, "error", 5) == 0) &&
            delta_openai(ev->data, ev->data_len, d, &scratch);
  if (plain && d->usage == NULL && raw != NULL)
    memo_learn(&s->memo, raw, before - sse_buffered(&s->stream.sse), ev->data, ev->data_len,
               d->text, d->text_len);
  return plain;
}

/* A chunk that says nothing but who it is from is not worth a decode, a table and a turn of Lua; this
** much of the first one is kept. False: it has to go the long way. */
static bool remember(struct http_stream *s, const struct delta *d) {
  if (s->opening != NULL || (d->id == NULL && d->model == NULL)) return true;
  if (d->id_len + d->model_len > OPENING_MAX) return false;
  s->opening = calloc(1, d->id_len + d->model_len + 2);
  if (s->opening == NULL) return false;
  if (d->id != NULL) memcpy(s->opening, d->id, d->id_len);
  if (d->model != NULL) memcpy(s->opening + d->id_len + 1, d->model, d->model_len);
  return true;
}

/* Push false, kind, phase, message, elapsed: what came is more than may be kept. */
static int push_too_large(lua_State *L, struct http_stream *s, const char *what, size_t max) {
  lua_pushboolean(L, 0);
  lua_pushstring(L, err_kind_name(ERR_PROTOCOL));
  lua_pushliteral(L, "body");
  lua_pushfstring(L, "%s has more than %d bytes", what, (int)max);
  lua_pushnumber(L, (lua_Number)(loop_now_us() - s->stream.transfer.started_us) / 1e6);
  return 5;
}

/* Push the text of a delta, or the failure that it is. */
static int push_delta(lua_State *L, struct http_stream *s, const struct delta *d) {
  transfer_progress(&s->stream.transfer, d->text_len);
  if (d->usage != NULL) {
    buf_clear(&s->usage, s->usage.max);
    if (buf_append(&s->usage, d->usage, d->usage_len) != BUF_OK)
      return luaL_error(L, "not enough memory");
  }
  enum buf_status status = buf_append(&s->text, d->text, d->text_len);
  if (status == BUF_FULL) return push_too_large(L, s, "the streamed text", STREAM_TEXT_MAX);
  if (status != BUF_OK) return luaL_error(L, "not enough memory");
  lua_pushlstring(L, d->text, d->text_len);
  return 1;
}

static int push_event(lua_State *L, const struct sse_event *ev) {
  lua_pushnil(L);
  lua_pushlstring(L, ev->event, ev->event_len);
  lua_pushlstring(L, ev->data, ev->data_len);
  lua_pushlstring(L, ev->id, ev->id_len);
  return 4;
}

/* Push what ended the stream: false for a clean end, false, kind, phase, message, elapsed else. */
static int push_end(lua_State *L, struct http_stream *s, enum stream_next how) {
  struct transfer *t = &s->stream.transfer;
  if (how == STREAM_FAILED) return push_too_large(L, s, "one event of the stream", SSE_EVENT_MAX);
  if (t->failed) return http_push_failure(L, t);
  lua_pushboolean(L, 0);
  return 1;
}

/* True: results are pushed, *n of them. False: nothing is there yet. `self`: where the stream is. */
static bool pull_once(lua_State *L, struct http_stream *s, int self, int *n) {
  if (s->closed && !s->halted) luaL_error(L, "the stream is closed");
  if (s->has_pending) {
    s->has_pending = false;
    lua_getiuservalue(L, self, UV_PENDING);
    *n = 1;
    return true;
  }
  if (s->halted) {
    lua_pushboolean(L, 0);
    *n = 1;
    return true;
  }
  struct sse_event ev;
  struct delta d;
  do {
    if (as_before(s, &d)) {
      *n = push_delta(L, s, &d);
      return true;
    }
    size_t before = 0;
    uint64_t fed = s->stream.fed;
    const char *raw = sse_peek(&s->stream.sse, &before);
    enum stream_next got = stream_next(&s->stream, &ev);
    if (s->stream.fed != fed) raw = NULL; /* more came in: the buffer may have moved */
    if (got == STREAM_WAIT) return false;
    if (got != STREAM_EVENT) {
      *n = push_end(L, s, got);
      return true;
    }
    if (as_delta(s, &ev, raw, before, &d)) {
      *n = push_delta(L, s, &d);
      return true;
    }
  } while (d.silent && remember(s, &d));
  *n = push_event(L, &ev);
  return true;
}

static int pull_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct http_stream *s = (struct http_stream *)ctx;
  int n;
  return pull_once(L, s, 1, &n) ? n : park(L, s, pull_k);
}

/* stream:pull([continue]) -> text | nil, event, data, id | false [, kind, phase, message, elapsed].
** `continue`: the event before this was no content, so the clock of silence goes on. */
static int stream_pull(lua_State *L) {
  struct http_stream *s = check_stream(L);
  task_check(L);
  if (!lua_toboolean(L, 2)) transfer_unexpect(&s->stream.transfer);
  lua_settop(L, 1);
  return pull_k(L, LUA_OK, (lua_KContext)s);
}

/* ---- loops ----------------------------------------------------------------------------------- */

/* What the iterators below keep: upvalues. The last two only those of events. */
enum { LOOP_STREAM = 1, LOOP_HANDLER, LOOP_SUBJECT, LOOP_TYPE, LOOP_TEXT };

/* Replace the text on top by the event { type = "text", text = } that stands for it. */
static void wrap_text(lua_State *L) {
  lua_createtable(L, 0, 2);
  lua_pushvalue(L, lua_upvalueindex(LOOP_TYPE));
  lua_pushvalue(L, lua_upvalueindex(LOOP_TEXT));
  lua_rawset(L, -3);
  lua_pushvalue(L, lua_upvalueindex(LOOP_TEXT));
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
}

/* The handler has spoken. True: what is on top is handed out, nil at the end; false: go on. */
static bool spoken(lua_State *L, struct http_stream *s) {
  s->more = lua_toboolean(L, -1);
  lua_pop(L, 1);
  int type = lua_type(L, -1);
  if (type == LUA_TBOOLEAN) lua_pushnil(L);
  if (type == LUA_TNIL) lua_settop(L, 0);
  return type != LUA_TNIL;
}

/* One step of a loop; `k` goes on when it has waited, `handled` when the handler has. */
static inline int step(lua_State *L, struct http_stream *s, bool events, lua_KFunction k,
                       lua_KFunction handled) {
  do { /* a loop, so that a run of events for the handler does not grow the C stack */
    int n = 0;
    if (!s->more) {
      if (!pull_once(L, s, lua_upvalueindex(LOOP_STREAM), &n)) return park(L, s, k);
      if (n == 1 && lua_type(L, -1) == LUA_TSTRING) {
        if (events) wrap_text(L);
        return 1;
      }
    }
    lua_pushvalue(L, lua_upvalueindex(LOOP_HANDLER));
    lua_pushvalue(L, lua_upvalueindex(LOOP_SUBJECT));
    lua_rotate(L, -(n + 2), 2);
    lua_callk(L, n + 1, 2, (lua_KContext)s, handled);
  } while (!spoken(L, s));
  return 1;
}

/* The stream is an upvalue so that the loop need not check what it is given. */
static struct http_stream *loop_stream(lua_State *L) {
  struct http_stream *s = lua_touserdata(L, lua_upvalueindex(LOOP_STREAM));
  task_check(L);
  transfer_unexpect(&s->stream.transfer);
  return s;
}

static int text_handled(lua_State *L, int status, lua_KContext ctx);

static int text_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  return step(L, (struct http_stream *)ctx, false, text_k, text_handled);
}

static int text_handled(lua_State *L, int status, lua_KContext ctx) {
  return spoken(L, (struct http_stream *)ctx) ? 1 : text_k(L, status, ctx);
}

static int text_next(lua_State *L) {
  return step(L, loop_stream(L), false, text_k, text_handled);
}

static int event_handled(lua_State *L, int status, lua_KContext ctx);

static int event_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  return step(L, (struct http_stream *)ctx, true, event_k, event_handled);
}

static int event_handled(lua_State *L, int status, lua_KContext ctx) {
  return spoken(L, (struct http_stream *)ctx) ? 1 : event_k(L, status, ctx);
}

static int event_next(lua_State *L) {
  return step(L, loop_stream(L), true, event_k, event_handled);
}

/* stream:texts(handler, subject) -> iterator over the pieces of plain text. For every other event
** `handler(subject, nil, event, data, id)` is called, at the end `handler(subject, false, …)` as
** pull; it returns what is to be handed out, nil to go on, false to end the loop; and true behind it
** to be called again, with nothing, before more is read. */
static int stream_texts(lua_State *L) {
  check_stream(L)->more = false;
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 3);
  lua_pushcclosure(L, text_next, LOOP_SUBJECT);
  return 1;
}

/* stream:events(handler, subject, more) -> the same with text as { type = "text", text = … }; with
** `more` the handler is called first. */
static int stream_events(lua_State *L) {
  check_stream(L)->more = lua_toboolean(L, 4);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 3);
  lua_pushliteral(L, "type");
  lua_pushliteral(L, "text");
  lua_pushcclosure(L, event_next, LOOP_TEXT);
  return 1;
}

/* stream:until_text(handler, subject) -> true when the first text has come, which is put back; the handler
** is called as by texts(), and ends this by a true result: -> false. In C so that thousands of
** streams that wait for their first word have a shallow stack each. */
static int first_k(lua_State *L, int status, lua_KContext ctx);

static int first_handled(lua_State *L, int status, lua_KContext ctx) {
  bool enough = lua_toboolean(L, -1);
  lua_settop(L, 3);
  if (!enough) return first_k(L, status, ctx);
  lua_pushboolean(L, 0);
  return 1;
}

static int first_k(lua_State *L, int status, lua_KContext ctx) {
  struct http_stream *s = (struct http_stream *)ctx;
  int n = 0;
  (void)status;
  for (;;) {
    if (!pull_once(L, s, 1, &n)) return park(L, s, first_k);
    if (n == 1 && lua_type(L, -1) == LUA_TSTRING) {
      lua_setiuservalue(L, 1, UV_PENDING);
      s->has_pending = true;
      lua_pushboolean(L, 1);
      return 1;
    }
    lua_pushvalue(L, 2);
    lua_pushvalue(L, 3);
    lua_rotate(L, -(n + 2), 2);
    lua_callk(L, n + 1, 1, ctx, first_handled);
    bool enough = lua_toboolean(L, -1);
    lua_settop(L, 3);
    if (!enough) continue;
    lua_pushboolean(L, 0);
    return 1;
  }
}

static int stream_until_text(lua_State *L) {
  struct http_stream *s = check_stream(L);
  task_check(L);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 3);
  transfer_unexpect(&s->stream.transfer);
  return first_k(L, LUA_OK, (lua_KContext)s);
}

/* ---- the rest -------------------------------------------------------------------------------- */

/* stream:plain("openai" | "anthropic"): from now on plain text deltas come out as text. */
static int stream_plain(lua_State *L) {
  static const char *const protocols[] = {"none", "openai", "anthropic", NULL};
  check_stream(L)->protocol = (enum protocol)luaL_checkoption(L, 2, NULL, protocols);
  return 0;
}

/* stream:progress([bytes]): the event just read was content, so many bytes of it. */
static int stream_progress(lua_State *L) {
  struct http_stream *s = check_stream(L);
  lua_Integer bytes = luaL_optinteger(L, 2, 0);
  transfer_progress(&s->stream.transfer, bytes > 0 ? (size_t)bytes : 0);
  return 0;
}

/* stream:put_back(text): the next read hands it out; it is already counted. */
static int stream_put_back(lua_State *L) {
  struct http_stream *s = check_stream(L);
  luaL_checkstring(L, 2);
  lua_settop(L, 2);
  lua_setiuservalue(L, 1, UV_PENDING);
  s->has_pending = true;
  return 0;
}

/* stream:take_text() -> the plain text handed out since the last time. */
static int stream_take_text(lua_State *L) {
  struct http_stream *s = check_stream(L);
  lua_pushlstring(L, s->text.data != NULL ? s->text.data : "", s->text.len);
  buf_clear(&s->text, TEXT_KEEP);
  return 1;
}

/* stream:hold(semaphore): its permit, taken by the caller, goes back when this stream is closed. */
static int stream_hold(lua_State *L) {
  struct http_stream *s = check_stream(L);
  struct semaphore *permit = luaL_checkudata(L, 2, SEMAPHORE_TYPE);
  lua_settop(L, 2);
  lua_setiuservalue(L, 1, UV_PERMIT);
  s->permit = permit;
  return 0;
}

/* stream:halt(): the next read finds the end, whatever else is on the wire. */
static int stream_halt(lua_State *L) {
  check_stream(L)->halted = true;
  return 0;
}

/* stream:hurry(seconds): the answer is complete; wait only this long for what may still follow. */
static int stream_hurry(lua_State *L) {
  struct transfer *t = &check_stream(L)->stream.transfer;
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
  if (!s->closed && !s->stream.transfer.done) return park(L, s, drain_k);
  shut(s);
  return 0;
}

/* stream:drain(seconds): read the connection to the end of the reply, so that it can be used again,
** but at most this long; then close. */
static int stream_drain(lua_State *L) {
  struct http_stream *s = check_stream(L);
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
  struct http_stream *s = check_stream(L);
  if (s->usage.len == 0) return 0;
  lua_pushlstring(L, s->usage.data, s->usage.len);
  buf_clear(&s->usage, s->usage.max);
  return 1;
}

/* stream:take_opening() -> id and model of the answer, as its first chunks said, if those went unseen
** by Lua; once. */
static int stream_take_opening(lua_State *L) {
  struct http_stream *s = check_stream(L);
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
    return park(L, s, body_k);
  }
  if (t->failed) return http_push_failure(L, t);
  lua_pushlstring(L, t->body.data != NULL ? t->body.data : "", t->body.len);
  return 1;
}

/* stream:body() -> all of a reply that is no event stream | false, kind, phase, message, elapsed */
static int stream_body(lua_State *L) {
  struct http_stream *s = check_stream(L);
  task_check(L);
  lua_settop(L, 1);
  return body_k(L, LUA_OK, (lua_KContext)s);
}

static int stream_is_events(lua_State *L) {
  struct http_stream *s = check_stream(L);
  /* Before the first byte the headers alone tell; an empty reply never has one. */
  if (!s->stream.sorted) stream_sort(&s->stream);
  lua_pushboolean(L, s->stream.is_events);
  return 1;
}

static int stream_status(lua_State *L) {
  return http_status(L, &check_stream(L)->stream.transfer);
}

static int stream_header(lua_State *L) {
  return http_header(L, &check_stream(L)->stream.transfer);
}

static int stream_headers(lua_State *L) {
  return http_headers(L, &check_stream(L)->stream.transfer);
}

static int stream_limits(lua_State *L) {
  return http_limits(L, &check_stream(L)->stream.transfer);
}

static int stream_times(lua_State *L) {
  return http_times(L, &check_stream(L)->stream.transfer);
}

static int stream_close(lua_State *L) {
  shut(check_stream(L));
  return 0;
}

/* stream:keep(): the next `<close>` of it does not close it. Who opens it puts it into such a variable,
** and calls this when it has an owner that will. The request's body may go, too: it can be large. */
static int stream_keep(lua_State *L) {
  struct http_stream *s = check_stream(L);
  s->kept = true;
  if (!transfer_drop_request(&s->stream.transfer)) return 0;
  lua_pushnil(L);
  lua_setiuservalue(L, 1, UV_BODY);
  return 0;
}

static int stream_leave(lua_State *L) {
  struct http_stream *s = check_stream(L);
  if (!s->kept) shut(s);
  s->kept = false;
  return 0;
}

/* stream:closed() -> has it been closed, by whomever?, and when, in seconds of core.now() */
static int stream_closed(lua_State *L) {
  const struct http_stream *s = check_stream(L);
  lua_pushboolean(L, s->closed);
  if (!s->closed) return 1;
  lua_pushnumber(L, (lua_Number)s->closed_us / 1e6);
  return 2;
}

/* stream:reading(): is a task waiting for it? */
static int stream_reading(lua_State *L) {
  lua_pushboolean(L, check_stream(L)->waiter != NULL);
  return 1;
}

static int stream_gc(lua_State *L) {
  struct http_stream *s = check_stream(L);
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
