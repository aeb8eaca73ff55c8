/*
** Whole replies: a yes is valid JSON, its text is valid UTF-8, its words lie in the body, its
** counts make sense; white space around the body changes nothing.
*/
#include "base/answer.h"
#include "base/utf8.h"

#include "../c/json_reference.h"
#include "fuzz.h"

static void check_word(const char *p, size_t len, const char *s, size_t n) {
  if (p == NULL) {
    REQUIRE(len == 0);
    return;
  }
  REQUIRE(len > 0 && p > s && p + len < s + n);
  REQUIRE(memchr(p, '"', len) == NULL && memchr(p, '\\', len) == NULL);
}

static bool look(bool anthropic, const char *s, size_t n, struct answer *a, struct buf *scratch) {
  bool yes = anthropic ? answer_anthropic(s, n, a, scratch) : answer_openai(s, n, a, scratch);
  if (!yes) return false;
  REQUIRE(reference_is_json(s, n));
  REQUIRE(utf8_valid_prefix(a->text, a->text_len) == a->text_len);
  check_word(a->id, a->id_len, s, n);
  check_word(a->model, a->model_len, s, n);
  check_word(a->finish_reason, a->finish_reason_len, s, n);
  REQUIRE(a->finish_reason != NULL);
  REQUIRE(a->cached_tokens >= -1 && a->reasoning_tokens >= -1);
  if (a->has_usage)
    REQUIRE(a->input_tokens >= 0 && a->output_tokens >= 0 && a->total_tokens >= 0);
  else
    REQUIRE(a->input_tokens == -1 && a->output_tokens == -1 && a->total_tokens == -1);
  return true;
}

static void both(bool anthropic, const char *s, size_t n) {
  struct answer a, b;
  struct buf scratch, scratch2;
  buf_init(&scratch, 1 << 20);
  buf_init(&scratch2, 1 << 20);
  bool yes = look(anthropic, s, n, &a, &scratch);
  char *wide = malloc(n + 64);
  REQUIRE(wide != NULL);
  memset(wide, '\n', n + 64);
  memcpy(wide + 32, s, n);
  REQUIRE(look(anthropic, wide, n + 64, &b, &scratch2) == yes);
  if (yes) {
    REQUIRE(a.text_len == b.text_len &&
            (a.text_len == 0 || memcmp(a.text, b.text, a.text_len) == 0));
    REQUIRE(a.total_tokens == b.total_tokens && a.cached_tokens == b.cached_tokens);
  }
  free(wide);
  buf_free(&scratch);
  buf_free(&scratch2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *s = fuzz_copy((const char *)data, size);
  both(false, s, size);
  both(true, s, size);
  free(s);
  return 0;
}
