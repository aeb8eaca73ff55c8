/*
** Text deltas: a yes is valid JSON with a text that is valid UTF-8 and lies where it should; white
** space around the chunk changes nothing. And the shortcut of base/memo says what the full look
** says: the input is two chunks with a zero byte between them; the first is learnt, the second
** tried.
*/
#include "base/delta.h"
#include "base/utf8.h"

#include "../c/json_reference.h"
#include "fuzz.h"

static bool within(const char *p, size_t len, const char *s, size_t n) {
  return p >= s && p <= s + n && len <= n - (size_t)(p - s);
}

static bool look(bool anthropic, const char *s, size_t n, struct delta *d, struct buf *scratch) {
  bool yes = anthropic ? delta_anthropic("", 0, s, n, d, scratch) : delta_openai(s, n, d, scratch);
  REQUIRE(!d->silent || (!yes && !anthropic && d->usage == NULL && reference_is_json(s, n)));
  if (d->silent && d->id != NULL) REQUIRE(within(d->id, d->id_len, s, n));
  if (d->silent && d->model != NULL) REQUIRE(within(d->model, d->model_len, s, n));
  if (!yes) return false;
  REQUIRE(reference_is_json(s, n));
  REQUIRE(d->text_len > 0);
  REQUIRE(utf8_valid_prefix(d->text, d->text_len) == d->text_len);
  REQUIRE(within(d->text, d->text_len, s, n) ||
          within(d->text, d->text_len, scratch->data, scratch->len));
  if (d->usage != NULL) {
    REQUIRE(!anthropic && within(d->usage, d->usage_len, s, n));
    REQUIRE(d->usage[0] == '{' && reference_is_json(d->usage, d->usage_len));
  }
  return true;
}

static void both(bool anthropic, const char *s, size_t n) {
  struct delta d = {.text = NULL}, again = d;
  struct buf scratch, scratch2;
  buf_init(&scratch, 1 << 20);
  buf_init(&scratch2, 1 << 20);
  bool yes = look(anthropic, s, n, &d, &scratch);
  char *wide = malloc(n + 64);
  REQUIRE(wide != NULL);
  memset(wide, '\n', n + 64);
  memcpy(wide + 32, s, n);
  REQUIRE(look(anthropic, wide, n + 64, &again, &scratch2) == yes);
  REQUIRE(again.silent == d.silent);
  if (yes) {
    REQUIRE(again.text_len == d.text_len && memcmp(again.text, d.text, d.text_len) == 0);
    REQUIRE(again.usage_len == d.usage_len);
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
