/*
** Plain text deltas; see delta.h. Each level of the chunk is one loop over its keys. A key that
** matters must not come twice (readers disagree on which one wins), and one written with escapes
** could be any of them: both end the fast path.
*/
#include "base/delta.h"

#include "base/scan.h"

/* Note that a key was seen; false the second time. */
static inline bool once(unsigned *seen, unsigned bit) {
  if ((*seen & bit) != 0) return false;
  *seen |= bit;
  return true;
}

/* null, "" or []: a field that says nothing. */
static bool scan_nothing(struct scan *s) {
  struct scan_text text;
  bool first = true;
  switch (scan_peek(s)) {
  case 'n':
    return scan_null(s);
  case '"':
    return scan_string(s, &text) && text.len == 0;
  case '[':
    return scan_open(s, '[') && scan_item(s, &first) == 0;
  default:
    return false;
  }
}

static bool null_or(struct scan *s, char type) {
  return (scan_peek(s) == 'n' || scan_peek(s) == type) && scan_nothing(s);
}

static bool is_role(struct scan *s) {
  struct scan_text role;
  if (scan_peek(s) == 'n') return scan_null(s);
  return scan_string(s, &role) && (role.len == 0 || scan_is(&role, "assistant"));
}

static bool take_text(const struct scan_text *t, struct delta *out, struct buf *scratch) {
  if (t->len == 0) return false;
  out->text = t->p;
  out->text_len = t->len;
  if (!t->escaped) return true;
  scratch->len = 0;
  if (scan_unescape(t, scratch) != SCAN_OK) return false;
  out->text = scratch->data;
  out->text_len = scratch->len;
  return true;
}

/* ---- OpenAI ---------------------------------------------------------------------------------- */

enum { CONTENT = 1, ROLE = 2, REASONING_CONTENT = 4, REASONING = 8, REFUSAL = 16, TOOLS = 32,
       FUNCTION = 64 };

static bool openai_delta(struct scan *s, struct scan_text *content) {
  struct scan_text key;
  bool first = true, ok;
  unsigned seen = 0;
  int more;
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    if (scan_is(&key, "content")) {
      ok = once(&seen, CONTENT) && scan_string(s, content);
    } else if (scan_is(&key, "role")) {
      ok = once(&seen, ROLE) && is_role(s);
    } else if (scan_is(&key, "reasoning_content")) {
      ok = once(&seen, REASONING_CONTENT) && null_or(s, '"');
    } else if (scan_is(&key, "reasoning")) {
      ok = once(&seen, REASONING) && null_or(s, '"');
    } else if (scan_is(&key, "refusal")) {
      ok = once(&seen, REFUSAL) && null_or(s, '"');
    } else if (scan_is(&key, "tool_calls")) {
      ok = once(&seen, TOOLS) && null_or(s, '[');
    } else if (scan_is(&key, "function_call")) {
      ok = once(&seen, FUNCTION) && scan_null(s);
    } else {
      ok = !key.escaped && scan_nothing(s);
    }
    if (!ok) return false;
  }
  return more == 0 && (seen & CONTENT) != 0;
}

enum { INDEX = 1, DELTA = 2, FINISH = 4, LOGPROBS = 8, ERROR = 16, USAGE = 32, MESSAGE = 64 };

static bool openai_choice(struct scan *s, struct scan_text *content) {
  struct scan_text key;
  bool first = true, ok;
  unsigned seen = 0;
  int64_t index;
  int more;
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    if (scan_is(&key, "delta")) {
      ok = once(&seen, DELTA) && openai_delta(s, content);
    } else if (scan_is(&key, "index")) {
      ok = once(&seen, INDEX) && scan_int(s, &index) && index == 0;
    } else if (scan_is(&key, "finish_reason")) {
      ok = once(&seen, FINISH) && scan_null(s);
    } else if (scan_is(&key, "logprobs")) {
      ok = once(&seen, LOGPROBS) && scan_null(s);
    } else if (scan_is(&key, "error")) { /* some routers put it here */
      ok = once(&seen, ERROR) && scan_null(s);
    } else if (scan_is(&key, "usage")) { /* one vendor puts it here; the full decode knows */
      ok = once(&seen, USAGE) && scan_null(s);
    } else if (scan_is(&key, "message")) { /* a whole reply where a delta belongs */
      ok = once(&seen, MESSAGE) && scan_null(s);
    } else {
      ok = !key.escaped && scan_skip(s, NULL);
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

static bool is_no_error(struct scan *s) {
  struct scan_text object;
  if (scan_peek(s) != '"') return scan_skip(s, NULL);
  return scan_string(s, &object) && !object.escaped && !scan_is(&object, "error");
}

enum { CHOICES = 1, TOP_USAGE = 2, TOP_ERROR = 4, OBJECT = 8, TYPE = 16 };

bool delta_openai(const char *data, size_t n, struct delta *out, struct buf *scratch) {
  struct scan s;
  struct scan_text key, content = {NULL, 0, false};
  bool first = true, ok;
  unsigned seen = 0;
  int more;
  out->text = out->usage = NULL;
  out->text_len = out->usage_len = 0;
  scan_init(&s, data, n);
  if (!scan_open(&s, '{')) return false;
  while ((more = scan_key(&s, &first, &key)) > 0) {
    if (scan_is(&key, "choices")) {
      ok = once(&seen, CHOICES) && openai_choices(&s, &content);
    } else if (scan_is(&key, "usage")) {
      ok = once(&seen, TOP_USAGE) && take_usage(&s, out);
    } else if (scan_is(&key, "error")) {
      ok = once(&seen, TOP_ERROR) && scan_null(&s);
    } else if (scan_is(&key, "object")) {
      ok = once(&seen, OBJECT) && is_no_error(&s);
    } else if (scan_is(&key, "type")) {
      ok = once(&seen, TYPE) && is_no_error(&s);
    } else {
      ok = !key.escaped && scan_skip(&s, NULL);
    }
    if (!ok) return false;
  }
  return more == 0 && (seen & CHOICES) != 0 && scan_end(&s) && take_text(&content, out, scratch);
}

/* ---- Anthropic ------------------------------------------------------------------------------- */

enum { A_TYPE = 1, A_TEXT = 2, A_INDEX = 4, A_DELTA = 8, A_ERROR = 16, A_USAGE = 32 };

static bool string_is(struct scan *s, const char *bytes, size_t n) {
  struct scan_text text;
  return scan_string(s, &text) && scan_is_bytes(&text, bytes, n);
}

static bool anthropic_delta(struct scan *s, struct scan_text *text) {
  struct scan_text key;
  bool first = true, ok;
  unsigned seen = 0;
  int more;
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    if (scan_is(&key, "type")) {
      ok = once(&seen, A_TYPE) && string_is(s, "text_delta", 10);
    } else if (scan_is(&key, "text")) {
      ok = once(&seen, A_TEXT) && scan_string(s, text);
    } else {
      ok = !key.escaped && scan_nothing(s);
    }
    if (!ok) return false;
  }
  return more == 0 && seen == (A_TYPE | A_TEXT);
}

bool delta_anthropic(const char *event, size_t event_len, const char *data, size_t n,
                     struct delta *out, struct buf *scratch) {
  static const char name[] = "content_block_delta";
  const size_t name_len = sizeof name - 1;
  struct scan s;
  struct scan_text key, text = {NULL, 0, false};
  bool first = true, ok;
  unsigned seen = 0;
  int64_t index;
  int more;
  out->text = out->usage = NULL;
  out->text_len = out->usage_len = 0;
  if (event_len > 0 && (event_len != name_len || memcmp(event, name, name_len) != 0)) return false;
  scan_init(&s, data, n);
  if (!scan_open(&s, '{')) return false;
  while ((more = scan_key(&s, &first, &key)) > 0) {
    if (scan_is(&key, "type")) {
      ok = once(&seen, A_TYPE) && string_is(&s, name, name_len);
    } else if (scan_is(&key, "index")) {
      ok = once(&seen, A_INDEX) && scan_int(&s, &index) && index >= 0;
    } else if (scan_is(&key, "delta")) {
      ok = once(&seen, A_DELTA) && anthropic_delta(&s, &text);
    } else if (scan_is(&key, "error")) {
      ok = once(&seen, A_ERROR) && scan_null(&s);
    } else if (scan_is(&key, "usage")) {
      ok = once(&seen, A_USAGE) && scan_null(&s);
    } else {
      ok = !key.escaped && scan_skip(&s, NULL);
    }
    if (!ok) return false;
  }
  return more == 0 && (seen & A_TYPE) != 0 && (seen & A_DELTA) != 0 && scan_end(&s) &&
         take_text(&text, out, scratch);
}
