/*
** Plain whole replies; see answer.h. Built like delta.c: each level is one loop over its keys, and
** what is not beyond doubt ends the fast path.
*/
#include "base/answer.h"

#include "base/plain.h"

#define COUNT_MAX (INT64_C(1) << 53) /* tokens; beyond, the number is no count */

/* ---- values ---------------------------------------------------------------------------------- */

/* null, or a string without escapes; an empty one is as good as absent. */
static bool take_word(struct scan *s, const char **word, size_t *len) {
  struct scan_text text;
  if (scan_peek(s) == 'n') return scan_null(s);
  if (!scan_string(s, &text) || text.escaped) return false;
  if (text.len == 0) return true;
  *word = text.p;
  *len = text.len;
  return true;
}

/* null, or a count. */
static bool take_count(struct scan *s, int64_t *count) {
  if (scan_peek(s) == 'n') return scan_null(s);
  return scan_int(s, count) && *count >= 0 && *count <= COUNT_MAX;
}

/* null, or an object in which the count `name` may stand; the rest of it is passed over. */
static bool take_detail(struct scan *s, const char *name, size_t name_len, int64_t *count) {
  struct scan_text key;
  bool first = true, ok;
  int more, seen = 0;
  if (scan_peek(s) == 'n') return scan_null(s);
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    switch (first_time(&key, scan_is_bytes(&key, name, name_len), &seen)) {
    case OTHER:
      ok = scan_skip(s, NULL);
      break;
    case REPEATED:
      return false;
    default:
      ok = take_count(s, count);
    }
    if (!ok) return false;
  }
  return more == 0;
}

static void forget(struct answer *out) {
  *out = (struct answer){.input_tokens = -1,
                         .output_tokens = -1,
                         .total_tokens = -1,
                         .cached_tokens = -1,
                         .reasoning_tokens = -1};
}

/* With all counts read: complete, or empty (`{}`, nulls), or not plain. */
static bool settle_usage(struct answer *out) {
  bool input = out->input_tokens >= 0, output = out->output_tokens >= 0;
  if (!input && !output) {
    return out->total_tokens < 0 && out->cached_tokens < 0 && out->reasoning_tokens < 0;
  }
  if (!input || !output) return false;
  if (out->total_tokens < 0) out->total_tokens = out->input_tokens + out->output_tokens;
  out->has_usage = true;
  return true;
}

/* ---- OpenAI ---------------------------------------------------------------------------------- */

enum {
  PROMPT = 1,
  COMPLETION = 2,
  TOTAL = 4,
  PROMPT_DETAILS = 8,
  COMPLETION_DETAILS = 16,
  CACHE_HIT = 32,
  CACHED = 64,
  REASONING_TOKENS = 128
};

static int usage_key(const struct scan_text *key) {
  switch (key->len) {
  case 12:
    IF_NAMED(key, "total_tokens", TOTAL);
    break;
  case 13:
    IF_NAMED(key, "prompt_tokens", PROMPT);
    IF_NAMED(key, "cached_tokens", CACHED); /* Moonshot */
    break;
  case 16:
    IF_NAMED(key, "reasoning_tokens", REASONING_TOKENS);
    break;
  case 17:
    IF_NAMED(key, "completion_tokens", COMPLETION);
    break;
  case 21:
    IF_NAMED(key, "prompt_tokens_details", PROMPT_DETAILS);
    break;
  case 23:
    IF_NAMED(key, "prompt_cache_hit_tokens", CACHE_HIT); /* DeepSeek, SiliconFlow */
    break;
  case 25:
    IF_NAMED(key, "completion_tokens_details", COMPLETION_DETAILS);
    break;
  }
  return OTHER;
}

static bool openai_usage(struct scan *s, struct answer *out) {
  struct scan_text key;
  bool first = true, ok;
  int more, seen = 0;
  int64_t cache_hit = -1, cached = -1, reasoning = -1;
  if (scan_peek(s) == 'n') return scan_null(s);
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    switch (first_time(&key, usage_key(&key), &seen)) {
    case PROMPT:
      ok = take_count(s, &out->input_tokens);
      break;
    case COMPLETION:
      ok = take_count(s, &out->output_tokens);
      break;
    case TOTAL:
      ok = take_count(s, &out->total_tokens);
      break;
    case PROMPT_DETAILS:
      ok = take_detail(s, "cached_tokens", 13, &out->cached_tokens);
      break;
    case COMPLETION_DETAILS:
      ok = take_detail(s, "reasoning_tokens", 16, &out->reasoning_tokens);
      break;
    case CACHE_HIT:
      ok = take_count(s, &cache_hit);
      break;
    case CACHED:
      ok = take_count(s, &cached);
      break;
    case REASONING_TOKENS:
      ok = take_count(s, &reasoning);
      break;
    case OTHER:
      ok = scan_skip(s, NULL);
      break;
    default:
      return false;
    }
    if (!ok) return false;
  }
  if (out->cached_tokens < 0) out->cached_tokens = cache_hit >= 0 ? cache_hit : cached;
  if (out->reasoning_tokens < 0) out->reasoning_tokens = reasoning;
  return more == 0 && settle_usage(out);
}

enum {
  CONTENT = 1,
  ROLE = 2,
  REASONING_CONTENT = 4,
  REASONING = 8,
  REFUSAL = 16,
  TOOLS = 32,
  FUNCTION = 64
};

static int message_key(const struct scan_text *key) {
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

static bool openai_message(struct scan *s, struct scan_text *content) {
  struct scan_text key;
  bool first = true, ok;
  int more, seen = 0;
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    switch (first_time(&key, message_key(&key), &seen)) {
    case CONTENT:
      ok = scan_string(s, content);
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
  return more == 0 && (seen & CONTENT) != 0;
}

enum { INDEX = 1, MESSAGE = 2, FINISH = 4, LOGPROBS = 8, ERROR = 16, USAGE = 32, DELTA = 64 };

static int choice_key(const struct scan_text *key) {
  switch (key->len) {
  case 5:
    IF_NAMED(key, "index", INDEX);
    IF_NAMED(key, "error", ERROR);
    IF_NAMED(key, "usage", USAGE);
    IF_NAMED(key, "delta", DELTA);
    break;
  case 7:
    IF_NAMED(key, "message", MESSAGE);
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

static bool openai_choice(struct scan *s, struct answer *out, struct scan_text *content) {
  struct scan_text key;
  bool first = true, ok;
  int more, seen = 0;
  int64_t index;
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    switch (first_time(&key, choice_key(&key), &seen)) {
    case MESSAGE:
      ok = openai_message(s, content);
      break;
    case INDEX:
      ok = scan_int(s, &index) && index == 0;
      break;
    case FINISH:
      ok = take_word(s, &out->finish_reason, &out->finish_reason_len);
      break;
    case LOGPROBS:
    case ERROR:
    case USAGE:
    case DELTA:
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
  return more == 0 && (seen & MESSAGE) != 0;
}

static bool openai_choices(struct scan *s, struct answer *out, struct scan_text *content) {
  bool first = true;
  return scan_open(s, '[') && scan_item(s, &first) == 1 && openai_choice(s, out, content) &&
         scan_item(s, &first) == 0;
}

enum { ID = 1, MODEL = 2, CHOICES = 4, TOP_USAGE = 8, TOP_ERROR = 16, OBJECT = 32, TYPE = 64 };

static int reply_key(const struct scan_text *key) {
  switch (key->len) {
  case 2:
    IF_NAMED(key, "id", ID);
    break;
  case 4:
    IF_NAMED(key, "type", TYPE);
    break;
  case 5:
    IF_NAMED(key, "model", MODEL);
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

bool answer_openai(const char *body, size_t n, struct answer *out, struct buf *scratch) {
  struct scan s;
  struct scan_text key, content = {NULL, 0, false};
  bool first = true, ok;
  int more, seen = 0;
  forget(out);
  scan_init(&s, body, n);
  if (!scan_open(&s, '{')) return false;
  while ((more = scan_key(&s, &first, &key)) > 0) {
    switch (first_time(&key, reply_key(&key), &seen)) {
    case ID:
      ok = take_word(&s, &out->id, &out->id_len);
      break;
    case MODEL:
      ok = take_word(&s, &out->model, &out->model_len);
      break;
    case CHOICES:
      ok = openai_choices(&s, out, &content);
      break;
    case TOP_USAGE:
      ok = openai_usage(&s, out);
      break;
    case TOP_ERROR:
      ok = scan_null(&s);
      break;
    case OBJECT:
    case TYPE:
      ok = scan_not_error(&s);
      break;
    case OTHER:
      ok = scan_skip(&s, NULL);
      break;
    default:
      return false;
    }
    if (!ok) return false;
  }
  return more == 0 && (seen & CHOICES) != 0 && out->finish_reason != NULL && scan_end(&s) &&
         scan_meaning(&content, &out->text, &out->text_len, scratch);
}

/* ---- Anthropic ------------------------------------------------------------------------------- */

enum { A_INPUT = 1, A_OUTPUT = 2, CACHE_READ = 4, CACHE_WRITE = 8, OUTPUT_DETAILS = 16 };

static int anthropic_usage_key(const struct scan_text *key) {
  switch (key->len) {
  case 12:
    IF_NAMED(key, "input_tokens", A_INPUT);
    break;
  case 13:
    IF_NAMED(key, "output_tokens", A_OUTPUT);
    break;
  case 21:
    IF_NAMED(key, "output_tokens_details", OUTPUT_DETAILS);
    break;
  case 23:
    IF_NAMED(key, "cache_read_input_tokens", CACHE_READ);
    break;
  case 27:
    IF_NAMED(key, "cache_creation_input_tokens", CACHE_WRITE);
    break;
  }
  return OTHER;
}

static bool anthropic_usage(struct scan *s, struct answer *out) {
  struct scan_text key;
  bool first = true, ok;
  int more, seen = 0;
  int64_t cache_write = -1;
  if (scan_peek(s) == 'n') return scan_null(s);
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    switch (first_time(&key, anthropic_usage_key(&key), &seen)) {
    case A_INPUT:
      ok = take_count(s, &out->input_tokens);
      break;
    case A_OUTPUT:
      ok = take_count(s, &out->output_tokens);
      break;
    case CACHE_READ:
      ok = take_count(s, &out->cached_tokens);
      break;
    case CACHE_WRITE:
      ok = take_count(s, &cache_write);
      break;
    case OUTPUT_DETAILS:
      ok = take_detail(s, "thinking_tokens", 15, &out->reasoning_tokens);
      break;
    case OTHER:
      ok = scan_skip(s, NULL);
      break;
    default:
      return false;
    }
    if (!ok) return false;
  }
  if (more != 0) return false;
  if (out->input_tokens < 0) return cache_write < 0 && settle_usage(out);
  if (out->cached_tokens > 0) out->input_tokens += out->cached_tokens;
  if (cache_write > 0) out->input_tokens += cache_write;
  return settle_usage(out);
}

enum { BLOCK_TYPE = 1, BLOCK_TEXT = 2 };

static bool anthropic_block(struct scan *s, struct scan_text *text) {
  struct scan_text key;
  bool first = true, ok;
  int more, seen = 0;
  if (!scan_open(s, '{')) return false;
  while ((more = scan_key(s, &first, &key)) > 0) {
    int bit = scan_is(&key, "type") ? BLOCK_TYPE : scan_is(&key, "text") ? BLOCK_TEXT : OTHER;
    switch (first_time(&key, bit, &seen)) {
    case BLOCK_TYPE:
      ok = scan_string_is(s, "text", 4);
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

static bool anthropic_content(struct scan *s, struct scan_text *text) {
  bool first = true;
  return scan_open(s, '[') && scan_item(s, &first) == 1 && anthropic_block(s, text) &&
         scan_item(s, &first) == 0;
}

enum {
  M_ID = 1,
  M_MODEL = 2,
  M_CONTENT = 4,
  M_USAGE = 8,
  M_ERROR = 16,
  M_TYPE = 32,
  M_ROLE = 64,
  M_STOP = 128,
  M_STOP_DETAILS = 256
};

static int anthropic_key(const struct scan_text *key) {
  switch (key->len) {
  case 2:
    IF_NAMED(key, "id", M_ID);
    break;
  case 4:
    IF_NAMED(key, "type", M_TYPE);
    IF_NAMED(key, "role", M_ROLE);
    break;
  case 5:
    IF_NAMED(key, "model", M_MODEL);
    IF_NAMED(key, "usage", M_USAGE);
    IF_NAMED(key, "error", M_ERROR);
    break;
  case 7:
    IF_NAMED(key, "content", M_CONTENT);
    break;
  case 11:
    IF_NAMED(key, "stop_reason", M_STOP);
    break;
  case 12:
    IF_NAMED(key, "stop_details", M_STOP_DETAILS);
    break;
  }
  return OTHER;
}

bool answer_anthropic(const char *body, size_t n, struct answer *out, struct buf *scratch) {
  struct scan s;
  struct scan_text key, text = {NULL, 0, false};
  bool first = true, ok;
  int more, seen = 0;
  forget(out);
  scan_init(&s, body, n);
  if (!scan_open(&s, '{')) return false;
  while ((more = scan_key(&s, &first, &key)) > 0) {
    switch (first_time(&key, anthropic_key(&key), &seen)) {
    case M_ID:
      ok = take_word(&s, &out->id, &out->id_len);
      break;
    case M_MODEL:
      ok = take_word(&s, &out->model, &out->model_len);
      break;
    case M_CONTENT:
      ok = anthropic_content(&s, &text);
      break;
    case M_USAGE:
      ok = anthropic_usage(&s, out);
      break;
    case M_ERROR:
    case M_STOP_DETAILS:
      ok = scan_null(&s);
      break;
    case M_TYPE:
      ok = scan_string_is(&s, "message", 7);
      break;
    case M_ROLE:
      ok = scan_assistant(&s);
      break;
    case M_STOP:
      ok = take_word(&s, &out->finish_reason, &out->finish_reason_len);
      break;
    case OTHER:
      ok = scan_skip(&s, NULL);
      break;
    default:
      return false;
    }
    if (!ok) return false;
  }
  return more == 0 && (seen & M_CONTENT) != 0 && out->finish_reason != NULL && scan_end(&s) &&
         scan_meaning(&text, &out->text, &out->text_len, scratch);
}
