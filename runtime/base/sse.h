/*
** Server-sent events, parsed as the WHATWG standard says (https://html.spec.whatwg.org/multipage/
** server-sent-events.html). Owns one bounded buffer: bytes are fed in as they come, events are
** pulled out one at a time. Never does I/O, never looks into the data.
**
** An event with one `data:` line is handed out as a slice of the buffer; further `data:` lines are
** moved up against the first in place, so joining costs one move of each byte and no memory.
*/
#ifndef SLUICE_BASE_SSE_H
#define SLUICE_BASE_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct sse_event {
  const char *event; /* the `event:` field; "" when it was absent ("message" to the standard) */
  size_t event_len;
  const char *data; /* valid UTF-8, not NUL-terminated */
  size_t data_len;
  const char *id; /* the last event id, which persists over events */
  size_t id_len;
};

struct sse {
  struct buf in;   /* received bytes, from `start` on not yet handed out */
  struct buf name; /* the event name, when it cannot be a slice of `in` */
  struct buf text; /* data whose invalid UTF-8 was replaced */
  struct buf id;
  size_t event_max;         /* bytes: all lines of one event */
  size_t keep;              /* bytes of an empty buffer to hold on to; the owner may change it */
  size_t start;             /* first byte of the event in progress */
  size_t line;              /* first byte of the line in progress */
  size_t scan;              /* no line end in [line, scan) */
  size_t data_at, data_len; /* joined data so far, in `in` */
  size_t name_at, name_len; /* event name in `in`, or all of `name` */
  int64_t retry_ms;
  int failed; /* the negative result of sse_next that repeats from now on */
  int lost;   /* sse_feed could not keep some bytes: fail so after what is complete */
  bool began; /* the event in progress has an `event` or `data` line */
  bool has_data, name_copied, bom_done, skip_lf;
  bool line_high, data_high; /* the line so far, the data so far: has bytes that are not ASCII */
};

void sse_init(struct sse *s, size_t event_max);
void sse_free(struct sse *s);

/*
** Take over `n` received bytes. BUF_FULL: an event is longer than event_max (or the caller has let
** more than STREAM_BUFFER_MAX beyond it pile up without calling sse_next).
*/
enum buf_status sse_feed(struct sse *s, const char *bytes, size_t n);

/*
** The next event: 1 and `*out`; 0 more bytes are needed; -1 an event exceeds event_max; -2 out of
** memory. The last two are final. What `*out` points to is valid until the next sse_* call on `s`.
*/
int sse_next(struct sse *s, struct sse_event *out);

/*
** The connection has ended: 1 and the event that lacks its closing blank line, else 0 (negative as
** sse_next). Complete events come first, so call this after sse_next returned 0. The standard drops
** such an event; the caller decides whether it can be trusted.
*/
int sse_finish(struct sse *s, struct sse_event *out);

/*
** A shortcut for a caller that knows how its peer writes events (base/memo): the bytes not yet
** looked at when the parser stands between two events, else NULL; and stepping over the first `n`
** of them, which must be whole events. An `id:` or `retry:` stepped over is not taken.
*/
const char *sse_peek(const struct sse *s, size_t *n);
void sse_skip(struct sse *s, size_t n);

/* Bytes received and not yet handed out, the event in progress included. */
size_t sse_buffered(const struct sse *s);

/* The last valid `retry:` field in ms; -1 when there was none. */
int64_t sse_retry_ms(const struct sse *s);

#endif
