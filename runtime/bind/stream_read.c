/*
** Reading a streamed reply. Two ways: pull() hands out one event at a time. The iterators texts() and
** events() hand out text deltas straight from C, and call the handler they were given for every other
** event; until_text() waits so for the first text. The hot path of a streamed answer is text_k.
*/
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "base/delta.h"
#include "base/limits.h"
#include "base/scan.h"
#include "bind/stream.h"

#define OPENING_MAX 1024 /* bytes of an id and a model's name that are kept */

/* A delta with escapes, unescaped. One for all: what is in it has been copied before the next event is
** looked at. */
static struct buf scratch = {.max = SSE_EVENT_MAX};

/* ---- one event ------------------------------------------------------------------------------- */

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
  if (d->text == scratch.data) buf_clear(&scratch, STREAM_BUFFER_MAX); /* one may have been huge */
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
  return pull_once(L, s, 1, &n) ? n : stream_wait(L, s, pull_k);
}

/* stream:pull([continue]) -> text | nil, event, data, id | false [, kind, phase, message, elapsed].
** `continue`: the event before this was no content, so the clock of silence goes on. */
int stream_pull(lua_State *L) {
  struct http_stream *s = stream_check(L);
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
      if (!pull_once(L, s, lua_upvalueindex(LOOP_STREAM), &n)) return stream_wait(L, s, k);
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
int stream_texts(lua_State *L) {
  stream_check(L)->more = false;
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 3);
  lua_pushcclosure(L, text_next, LOOP_SUBJECT);
  return 1;
}

/* stream:events(handler, subject, more) -> the same with text as { type = "text", text = … }; with
** `more` the handler is called first. */
int stream_events(lua_State *L) {
  stream_check(L)->more = lua_toboolean(L, 4);
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
    if (!pull_once(L, s, 1, &n)) return stream_wait(L, s, first_k);
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

int stream_until_text(lua_State *L) {
  struct http_stream *s = stream_check(L);
  task_check(L);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_settop(L, 3);
  transfer_unexpect(&s->stream.transfer);
  return first_k(L, LUA_OK, (lua_KContext)s);
}
