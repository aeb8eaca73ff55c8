/*
** A reply that is read while it arrives: a transfer whose body feeds an event parser. The reader
** pulls events; when it is slower than the wire, the transfer pauses (backpressure). A reply that
** is not an event stream (an error, a whole JSON answer) is collected in transfer.body instead.
*/
#ifndef SLUICE_IO_STREAM_H
#define SLUICE_IO_STREAM_H

#include "base/sse.h"
#include "io/transfer.h"

struct stream {
  struct transfer transfer; /* first: the transfer's callbacks come back with it */
  struct sse sse;
  uint64_t fed;   /* bytes of events received so far */
  bool sorted;    /* the headers said what the body is */
  bool is_events; /* … and it is text/event-stream with a 2xx status */
  bool discard;   /* what still comes is of no interest */
  size_t brake;   /* bytes ahead of the reader at which the wire is paused. libcurl goes on reading
                     within one call while the peer sends, so nothing else would bound them */
};

enum stream_next { STREAM_EVENT, STREAM_WAIT, STREAM_END, STREAM_FAILED };

void stream_init(struct stream *s, void (*notify)(struct transfer *));
bool stream_start(struct stream *s, const struct transfer_spec *spec);
/* The next event, if one is complete. STREAM_END: the reply ended (transfer.failed tells how).
** STREAM_FAILED: an event over its ceiling, or out of memory. */
enum stream_next stream_next(struct stream *s, struct sse_event *event);
/* Decide from the headers whether the body is events; done by itself when the first byte comes. */
void stream_sort(struct stream *s);
void stream_free(struct stream *s);

#endif
