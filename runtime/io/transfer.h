/*
** One HTTP exchange over libcurl: a request, its timers, the reply's headers and body. The owner
** embeds a struct transfer, starts it, and is told through `notify`; it never sees libcurl.
** Handles and connections are pooled underneath (multi.c). Never calls Lua.
*/
#ifndef SLUICE_IO_TRANSFER_H
#define SLUICE_IO_TRANSFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "io/loop.h"

/* Request headers, made once and shared by many transfers, or for one. */
struct header_list; /* opaque: a libcurl list underneath */
/* Prepends "Name: value"; a NULL value keeps libcurl from sending its own header of that name.
** False: out of memory. Values are wiped when the list is freed. */
bool header_list_add(struct header_list **list, const char *name, size_t name_len,
                     const char *value, size_t value_len);
/* Adds what we can decode. libcurl would do it, but writes its own line anew for every request. */
bool header_list_add_encodings(struct header_list **list);
void header_list_free(struct header_list *list);

struct place;

struct transfer_limits {
  int64_t connect_us; /* name look-up, TCP and TLS together; 0: none */
  int64_t first_us;   /* from the start to the first progress; 0: none */
  int64_t idle_us;    /* between two signs of progress; 0: none */
  int64_t total_us;   /* from the start to the end; 0: none */
  int64_t rate_us;    /* time of waiting over which `rate` is measured; 0: no floor */
  double rate;        /* tokens a second that content must keep up, once there has been some */
  size_t body_max;
};

struct transfer_spec {
  const char *method;
  const struct place *place; /* io/url.h; borrowed until the transfer is done */
  const char *body;          /* borrowed: must stay until the transfer is done; NULL: none */
  size_t body_len;
  struct header_list *common; /* borrowed */
  struct header_list *own;    /* taken over, also when starting fails */
  struct transfer_limits limits;
  size_t receive_buffer; /* bytes libcurl reads at once; 0: its default */
  size_t *load;          /* counts those that are under way; NULL, or it outlives the transfer */
};

enum sink_status { SINK_TAKEN, SINK_PAUSE, SINK_EVENT_TOO_LARGE, SINK_BODY_TOO_LARGE, SINK_NOMEM };

struct transfer {
  struct transfer_limits limits;
  struct loop_timer timer;
  struct easy *easy; /* NULL when not under way */
  struct header_list *own, *common;
  size_t *load;
  struct buf headers; /* "Name: value\r\n" lines of the final reply */
  struct buf body;    /* when no sink is set */
  size_t body_len;    /* of the request */
  int status;         /* of the final reply; 0 before it came */
  int64_t started_us, first_byte_us, progress_us, ended_us;
  int64_t waited_us;   /* in this window of the rate, up to the last progress */
  size_t window_bytes; /* of content in it */
  bool counts_bytes;   /* bytes are progress; a stream decides for itself what is (false) */
  bool progressed;     /* there has been progress */
  bool unseen;         /* the sink took bytes that its reader has not looked at yet; while this */
  bool overdue;  /* … patience ended: the reader gets one look, bytes that come now are late */
  bool bodyless; /* the answer to HEAD: its Content-Length promises nothing */
  bool once;     /* the method is not idempotent: libcurl shall not send it again by itself */
  bool sending;  /* libcurl has begun to send it */
  bool headers_done, done, failed, paused;
  enum err_kind kind;
  const char *phase; /* static: "connect", "first_token", "idle", "slow", "total", "response",
                        "body" */
  char *message;     /* what happened, when failed */

  /* Set by the owner before the start. `sink` takes body bytes instead of `body`; `notify` is
  ** called when headers are complete, when the sink took bytes, and when the transfer is done. */
  enum sink_status (*sink)(struct transfer *, const char *bytes, size_t n);
  void (*notify)(struct transfer *);
};

void transfer_init(struct transfer *t);
/* false: it could not start; `failed`, `kind` and `message` are set, `notify` is not called. */
bool transfer_start(struct transfer *t, const struct transfer_spec *spec);
void transfer_resume(struct transfer *t); /* after the sink said SINK_PAUSE */
/* Somebody waits for progress from now on (streams); without it the idle clock stands still. */
void transfer_expect(struct transfer *t);
static inline void transfer_unexpect(struct transfer *t) {
  t->progress_us = LOOP_NEVER;
  t->overdue = false;
}
/* The reader has looked at all there is: from now on silence is silence. */
static inline void transfer_seen(struct transfer *t) {
  t->unseen = false;
}
/* Content came. The floor under its rate measures only the time somebody waited for it: a slow
** reader does not make a slow provider. */
void transfer_measure(struct transfer *t, size_t bytes);
static inline void transfer_progress(struct transfer *t, size_t bytes) {
  if (t->limits.rate_us > 0) transfer_measure(t, bytes);
  t->progressed = true;
  transfer_unexpect(t);
}
/* Stop at once: the connection is closed unless the reply was complete. */
void transfer_abort(struct transfer *t);
/* Abort if needed and release the memory. Safe to call twice. */
void transfer_free(struct transfer *t);

/* Let go of the request when an answer has begun: its body is not needed any more, unless this says
** false: some of it is still to be sent. */
bool transfer_drop_request(struct transfer *t);
/* Does the reply announce a body that is longer than may be kept? */
bool transfer_is_too_long(const struct transfer *t);
/* The value of reply header `name` (case-insensitive), or NULL. */
const char *transfer_header(const struct transfer *t, const char *name, size_t *len);

size_t transfer_count(void); /* under way, in the whole process */

/* The network as a whole: call after loop_init. */
int network_init(void);
void network_close(void);
const char *network_version(void); /* of libcurl */

#endif
