/*
** The fast path of streamed answers: is this event beyond doubt a plain piece of text, and which?
** Answers for the two protocols and looks at every byte of the event (invalid JSON is never plain).
** Never builds a tree, never allocates unless the text has escapes. "No" is no verdict: it means
** the caller must decode the event fully.
*/
#ifndef SLUICE_BASE_DELTA_H
#define SLUICE_BASE_DELTA_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

struct delta {
  const char *text; /* not empty, valid UTF-8; in `data`, or in `scratch` when it had escapes */
  size_t text_len;
  const char *usage; /* the JSON text of a usage object in the same chunk, or NULL */
  size_t usage_len;
  /* Set where the answer is no: beyond doubt the chunk says nothing but who it is from, as the
  ** first one of most streams, which has the role. */
  bool silent;
  const char *id, *model; /* of a silent one; NULL: it has none, or not as plain text */
  size_t id_len, model_len;
};

/*
** True only for a non-empty text delta of choice 0 when nothing that matters stands beside it: no
** tool call, reasoning, refusal, finish reason, error, log probabilities. What it passes over: the
** chunk's own `id`, `model`, `created` and such, and fields nobody has given a meaning.
*/
bool delta_openai(const char *data, size_t n, struct delta *out, struct buf *scratch);

/* The same for a `content_block_delta` with a `text_delta`; the event name may be absent. */
bool delta_anthropic(const char *event, size_t event_len, const char *data, size_t n,
                     struct delta *out, struct buf *scratch);

#endif
