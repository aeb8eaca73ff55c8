/* Streamed replies: see stream.h. */
#include "io/stream.h"

#include <strings.h>

#include "base/limits.h"

void stream_sort(struct stream *s) {
  size_t len;
  const char *type = transfer_header(&s->transfer, "content-type", &len);
  static const char events[] = "text/event-stream";
  s->sorted = true;
  s->is_events = s->transfer.status >= 200 && s->transfer.status < 300 && type != NULL &&
                 len >= sizeof events - 1 && strncasecmp(type, events, sizeof events - 1) == 0;
}

static enum sink_status sink(struct transfer *t, const char *bytes, size_t n) {
  struct stream *s = (struct stream *)(void *)t;
  if (!s->sorted) stream_sort(s);
  enum buf_status status;
  if (s->discard) return SINK_TAKEN;
  if (s->is_events) {
    if (sse_buffered(&s->sse) >= s->brake) {
      s->sse.keep = 2 * STREAM_BUFFER_MAX; /* it comes faster than it is read: so will the rest */
      return SINK_PAUSE;
    }
    s->fed += n;
    status = sse_feed(&s->sse, bytes, n);
    if (status == BUF_FULL) return SINK_EVENT_TOO_LARGE;
  } else {
    status = transfer_is_too_long(t) ? BUF_FULL : buf_append(&t->body, bytes, n);
    if (status == BUF_FULL) return SINK_BODY_TOO_LARGE;
  }
  return status == BUF_OK ? SINK_TAKEN : SINK_NOMEM;
}

void stream_init(struct stream *s, void (*notify)(struct transfer *)) {
  transfer_init(&s->transfer);
  s->transfer.sink = sink;
  s->transfer.notify = notify;
  s->sorted = s->is_events = s->discard = false;
  s->brake = STREAM_BUFFER_MAX;
  s->fed = 0;
  sse_init(&s->sse, SSE_EVENT_MAX);
}

bool stream_start(struct stream *s, const struct transfer_spec *spec) {
  return transfer_start(&s->transfer, spec);
}

enum stream_next stream_next(struct stream *s, struct sse_event *event) {
  int got = sse_next(&s->sse, event);
  if (got == 0) {
    /* Less than one event is left: the wire may flow, with more room if one event alone has filled
    ** what there was. Also when it flows already: the brake tells nobody when it takes hold, so it
    ** must not take hold of an event the reader is waiting for. */
    size_t held = sse_buffered(&s->sse);
    s->brake = held >= STREAM_BUFFER_MAX ? 2 * held : STREAM_BUFFER_MAX;
    if (s->transfer.paused) {
      transfer_resume(&s->transfer);
      got = sse_next(&s->sse, event);
    } else {
      s->sse.keep = 0;
    }
  }
  if (got == 1) return STREAM_EVENT;
  if (got < 0) return STREAM_FAILED;
  if (!s->transfer.done) return STREAM_WAIT;
  /* An event without its closing blank line: hand it out, it may be the last of a sloppy server;
  ** whether the answer is complete is decided by its finish, not by this. */
  return !s->transfer.failed && sse_finish(&s->sse, event) == 1 ? STREAM_EVENT : STREAM_END;
}

void stream_free(struct stream *s) {
  transfer_free(&s->transfer);
  sse_free(&s->sse);
}
