/*
** The fast path of whole replies: is this body one plain text answer, and what does it say? Looks
** at every byte (invalid JSON or UTF-8 is never plain), builds no tree. "No" is no verdict: it
** means the caller must decode the body fully.
*/
#ifndef SLUICE_BASE_ANSWER_H
#define SLUICE_BASE_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct answer {
  const char *text; /* may be empty; in the body, or in `scratch` when it had escapes */
  size_t text_len;
  const char *id; /* these three: as written in the body; NULL when absent, null or empty */
  size_t id_len;
  const char *model;
  size_t model_len;
  const char *finish_reason; /* OpenAI's finish_reason, Anthropic's stop_reason; never absent */
  size_t finish_reason_len;
  /* Counts with one meaning for all vendors, -1 when not said. Input includes what was read from
  ** and written to a cache; a total that was not sent is input + output. */
  int64_t input_tokens, output_tokens, total_tokens, cached_tokens, reasoning_tokens;
  bool has_usage; /* true: at least input, output and total are there */
};

/*
** True only when the body holds exactly one answer that is one text, with a reason why it ended,
** and nothing that matters beside it: no tool call, reasoning, refusal, log probabilities, error.
*/
bool answer_openai(const char *body, size_t n, struct answer *out, struct buf *scratch);
bool answer_anthropic(const char *body, size_t n, struct answer *out, struct buf *scratch);

#endif
