/*
** The JSON cursor against a byte-at-a-time reference: the same verdict on every input, also between
** white space, where the fast paths read further. A string's meaning is valid UTF-8.
*/
#include "base/scan.h"
#include "base/utf8.h"

#include "../c/json_reference.h"
#include "fuzz.h"

static bool is_json(const char *s, size_t n) {
  struct scan scan;
  struct scan_text raw;
  scan_init(&scan, s, n);
  if (!scan_skip(&scan, &raw)) return false;
  REQUIRE(raw.p >= s && raw.p + raw.len <= s + n);
  REQUIRE(scan.depth == 0);
  return scan_end(&scan);
}

static void look_at_string(const char *s, size_t n) {
  struct scan scan;
  struct scan_text text;
  scan_init(&scan, s, n);
  if (!scan_string(&scan, &text)) return;
  struct buf out;
  buf_init(&out, n);
  enum scan_status status = scan_unescape(&text, &out);
  REQUIRE(status != SCAN_NO_ROOM); /* no meaning is longer than its writing */
  if (status == SCAN_OK) {
    REQUIRE(utf8_valid_prefix(out.data, out.len) == out.len);
    if (!text.escaped)
      REQUIRE(out.len == text.len && (out.len == 0 || memcmp(out.data, text.p, out.len) == 0));
  } else {
    REQUIRE(text.escaped && out.len == 0);
  }
  buf_free(&out);
}

static void look_at_integer(const char *s, size_t n) {
  struct scan scan;
  int64_t value;
  scan_init(&scan, s, n);
  if (!scan_int(&scan, &value)) return;
  char digits[32];
  const char *start = n > 0 ? scan.p - 1 : s;
  while (start > s && strchr("-0123456789", start[-1]) != NULL && start[-1] != '\0') start--;
  size_t len = (size_t)(scan.p - start);
  if (len >= sizeof digits) return;
  memcpy(digits, start, len);
  digits[len] = '\0';
  REQUIRE(strtoll(digits, NULL, 10) == value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *tight = fuzz_copy((const char *)data, size), *wide = malloc(size + 64);
  REQUIRE(wide != NULL);
  memset(wide, ' ', size + 64);
  if (size > 0) memcpy(wide + 32, data, size);
  bool want = reference_is_json(tight, size);
  REQUIRE(is_json(tight, size) == want);
  REQUIRE(is_json(wide, size + 64) == want);
  look_at_string(tight, size);
  look_at_string(wide, size + 64);
  look_at_integer(tight, size);
  free(tight);
  free(wide);
  return 0;
}
