/*
** Plain text deltas; see delta.h. Each level of the chunk is one loop over its keys. A key that
** matters must not come twice (readers disagree on which one wins), and one written with escapes
** could be any of them: both end the fast path.
*/
#include "base/delta.h"

#include "base/plain.h"

/* ---- OpenAI ---------------------------------------------------------------------------------- */

enum {
  CONTENT = 1,
  ROLE = 2,
  REASONING_CONTENT = 4,
  REASONING = 8,
  REFUSAL = 16,
  TOOLS = 32,
  FUNCTION = 64
};

static inline int delta_key(const struct scan_text *key) {
  switch (key->len) {
  case 4:
    IF_NAMED(key, "role", ROLE);
    break;
  case 7:
    IF_NAMED(key, "content", CONTENT);
    IF_NAMED(key, "refusal", REFUSAL);
    break;
  case 9:
    IF_NAMED(key, "reasoning", REASONING);
    break;
  case 10:
    IF_NAMED(key, "tool_calls", TOOLS);
    break;
  case 13:
    IF_NAMED(key, "function_call", FUNCTION);
    break;
  case 17:
    IF_NAMED(key, "reasoning_content", REASONING_CONTENT);
    break;
  }
  return OTHER;
}

static bool openai_delta(struct scan *s, struct scan_text *content) {
  struct scan_text key;
  bool first = true, ok;
  int more, seen = 0;
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    switch (first_time(&key, delta_key(&key), &seen)) {
    case CONTENT:
      ok = scan_peek(s) == 'n' ? scan_null(s) : scan_string(s, content);
      break;
    case ROLE:
      ok = scan_assistant(s);
      break;
    case REASONING_CONTENT:
    case REASONING:
    case REFUSAL:
      ok = scan_nothing_of(s, '"');
      break;
    case TOOLS:
      ok = scan_nothing_of(s, '[');
      break;
    case FUNCTION:
      ok = scan_null(s);
      break;
    case OTHER:
      ok = scan_nothing(s);
      break;
    default:
      return false;
    }
    if (!ok) return false;
  }
  return more == 0;
}

enum { INDEX = 1, DELTA = 2, FINISH = 4, LOGPROBS = 8, ERROR = 16, USAGE = 32, MESSAGE = 64 };

static inline int choice_key(const struct scan_text *key) {
  switch (key->len) {
  case 5:
    IF_NAMED(key, "delta", DELTA);
    IF_NAMED(key, "index", INDEX);
    IF_NAMED(key, "error", ERROR); /* some routers put it here */
    IF_NAMED(key, "usage", USAGE); /* one vendor puts it here; the full decode knows */
    break;
  case 7:
    IF_NAMED(key, "message", MESSAGE); /* a whole reply where a delta belongs */
    break;
  case 8:
    IF_NAMED(key, "logprobs", LOGPROBS);
    break;
  case 13:
    IF_NAMED(key, "finish_reason", FINISH);
    break;
  }
  return OTHER;
}

static bool openai_choice(struct scan *s, struct scan_text *content) {
  struct scan_text key;
  bool first = true, ok;
  int more, seen = 0;
  int64_t index;
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    switch (first_time(&key, choice_key(&key), &seen)) {
    case DELTA:
      ok = openai_delta(s, content);
      break;
    case INDEX:
      ok = scan_int(s, &index) && index == 0;
      break;
    case FINISH:
    case LOGPROBS:
    case ERROR:
    case USAGE:
    case MESSAGE:
      ok = scan_null(s);
      break;
    case OTHER:
      ok = scan_skip(s, NULL);
      break;
    default:
      return false;
    }
    if (!ok) return false;
  }
  return more == 0 && (seen & DELTA) != 0;
}

static bool openai_choices(struct scan *s, struct scan_text *content) {
  bool first = true;
  return scan_open(s, '[') && scan_item(s, &first) == 1 && openai_choice(s, content) &&
         scan_item(s, &first) == 0;
}

/* null, or an object whose text is kept. */
static bool take_usage(struct scan *s, struct delta *out) {
  struct scan_text raw;
  if (scan_peek(s) == 'n') return scan_null(s);
  if (scan_peek(s) != '{' || !scan_skip(s, &raw)) return false;
  out->usage = raw.p;
  out->usage_len = raw.len;
  return true;
}

enum { CHOICES = 1, TOP_USAGE = 2, TOP_ERROR = 4, OBJECT = 8, TYPE = 16 };

static inline int chunk_key(const struct scan_text *key) {
  switch (key->len) {
  case 4:
    IF_NAMED(key, "type", TYPE);
    break;
  case 5:
    IF_NAMED(key, "usage", TOP_USAGE);
    IF_NAMED(key, "error", TOP_ERROR);
    break;
  case 6:
    IF_NAMED(key, "object", OBJECT);
    break;
  case 7:
    IF_NAMED(key, "choices", CHOICES);
    break;
  }
  return OTHER;
}

/* A value as it stands, when it is a string without escapes. */
static bool unquoted(const struct scan_text *raw, const char **text, size_t *len) {
  if (raw->len == 0) return false;
  if (raw->p[0] != '"' || memchr(raw->p, '\\', raw->len) != NULL) return false;
  *text = raw->p + 1;
  *len = raw->len - 2;
  return true;
}

/* Valid, and without a text: it says nothing, unless it counts tokens, or what it is from cannot be
** told here. */
static bool is_silent(struct delta *out, const struct scan_text *id,
                      const struct scan_text *model) {
  if (out->usage != NULL) return false;
  if (id->len > 0 && !unquoted(id, &out->id, &out->id_len)) return false;
  return model->len == 0 || unquoted(model, &out->model, &out->model_len);
}

bool delta_openai(const char *data, size_t n, struct delta *out, struct buf *scratch) {
  struct scan s;
  struct scan_text key, content = {NULL, 0, false}, id = content, model = content;
  bool first = true, ok;
  int more, seen = 0;
  *out = (struct delta){.text = NULL};
  scan_init(&s, data, n);
  if (!scan_open(&s, '{')) return false;
  while ((more = scan_key(&s, &first, &key)) > 0) {
    switch (first_time(&key, chunk_key(&key), &seen)) {
    case CHOICES:
      ok = openai_choices(&s, &content);
      break;
    case TOP_USAGE:
      ok = take_usage(&s, out);
      break;
    case TOP_ERROR:
      ok = scan_null(&s);
      break;
    case OBJECT:
    case TYPE:
      ok = scan_not_error(&s);
      break;
    case OTHER:
      ok = scan_skip(&s, scan_is(&key, "id") ? &id : scan_is(&key, "model") ? &model : NULL);
      break;
    default:
      return false;
    }
    if (!ok) return false;
  }
  if (more != 0 || (seen & CHOICES) == 0 || !scan_end(&s)) return false;
  if (content.len > 0) return scan_meaning(&content, &out->text, &out->text_len, scratch);
  out->silent = is_silent(out, &id, &model);
  return false;
}

/* ---- Anthropic ------------------------------------------------------------------------------- */

enum { BLOCK_TYPE = 1, BLOCK_TEXT = 2 };

static bool anthropic_delta(struct scan *s, struct scan_text *text) {
  struct scan_text key;
  bool first = true, ok;
  int more, seen = 0;
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    int bit = scan_is(&key, "type") ? BLOCK_TYPE : scan_is(&key, "text") ? BLOCK_TEXT : OTHER;
    switch (first_time(&key, bit, &seen)) {
    case BLOCK_TYPE:
      ok = scan_string_is(s, "text_delta", 10);
      break;
    case BLOCK_TEXT:
      ok = scan_string(s, text);
      break;
    case OTHER:
      ok = scan_nothing(s);
      break;
    default:
      return false;
    }
    if (!ok) return false;
  }
  return more == 0 && seen == (BLOCK_TYPE | BLOCK_TEXT);
}

static const char event_name[] = "content_block_delta";
#define EVENT_NAME_LEN (sizeof event_name - 1)

enum { A_TYPE = 1, A_INDEX = 2, A_DELTA = 4, A_ERROR = 8, A_USAGE = 16 };

static inline int block_key(const struct scan_text *key) {
  switch (key->len) {
  case 4:
    IF_NAMED(key, "type", A_TYPE);
    break;
  case 5:
    IF_NAMED(key, "delta", A_DELTA);
    IF_NAMED(key, "index", A_INDEX);
    IF_NAMED(key, "error", A_ERROR);
    IF_NAMED(key, "usage", A_USAGE);
    break;
  }
  return OTHER;
}

bool delta_anthropic(const char *event, size_t event_len, const char *data, size_t n,
                     struct delta *out, struct buf *scratch) {
  struct scan s;
  struct scan_text key, text = {NULL, 0, false};
  bool first = true, ok;
  int more, seen = 0;
  int64_t index;
  *out = (struct delta){.text = NULL};
  if (event_len > 0 &&
      (event_len != EVENT_NAME_LEN || memcmp(event, event_name, EVENT_NAME_LEN) != 0)) {
    return false;
  }
  scan_init(&s, data, n);
  if (!scan_open(&s, '{')) return false;
  while ((more = scan_key(&s, &first, &key)) > 0) {
    switch (first_time(&key, block_key(&key), &seen)) {
    case A_TYPE:
      ok = scan_string_is(&s, event_name, EVENT_NAME_LEN);
      break;
    case A_INDEX:
      ok = scan_int(&s, &index) && index >= 0;
      break;
    case A_DELTA:
      ok = anthropic_delta(&s, &text);
      break;
    case A_ERROR:
    case A_USAGE:
      ok = scan_null(&s);
      break;
    case OTHER:
      ok = scan_skip(&s, NULL);
      break;
    default:
      return false;
    }
    if (!ok) return false;
  }
  const int needed = A_TYPE | A_DELTA;
  return more == 0 && (seen & needed) == needed && scan_end(&s) && text.len > 0 &&
         scan_meaning(&text, &out->text, &out->text_len, scratch);
}
