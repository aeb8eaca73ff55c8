/*
** A streamed reply in Lua's hands, for the two files behind it: stream.c opens, owns and closes it,
** stream_read.c reads it.
*/
#ifndef SLUICE_BIND_STREAM_H
#define SLUICE_BIND_STREAM_H

#include "base/memo.h"
#include "bind/bind.h"
#include "bind/http.h"
#include "io/stream.h"
#include "task/semaphore.h"
#include "task/task.h"

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

/* User values: what must live as long as the stream, and text put back. */
enum { UV_ENDPOINT = 1, UV_BODY, UV_PENDING, UV_PERMIT, UV_COUNT = UV_PERMIT };

static inline struct http_stream *stream_check(lua_State *L) {
  return bind_check_self(L, STREAM_TYPE);
}

/* Wait until there is something to look at: the stream may be read by one task at a time. */
int stream_wait(lua_State *L, struct http_stream *s, lua_KFunction k);

/* Methods. */
int stream_pull(lua_State *L);
int stream_texts(lua_State *L);
int stream_events(lua_State *L);
int stream_until_text(lua_State *L);

#endif
