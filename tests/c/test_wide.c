/* UTF-8 to wide characters and back. */
#include "base/wide.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

static void test_round_trip(void) {
  check_case("round trip");
  static const char text[] = "a\xc3\xa9\xe6\xb0\xb4\xf0\x9f\x8c\x8a\x7f";
  wchar_t *wide = wide_copy(text, strlen(text));
  struct buf b;
  buf_init(&b, 100);
  CHECK(wide != NULL && wcslen(wide) == 5);
  if (wide == NULL) return;
  CHECK(wide[0] == 'a' && wide[1] == 0xe9 && wide[2] == 0x6c34 && wide[3] == 0x1f30a);
  CHECK(wide_append(&b, wide, wide + 5) == BUF_OK);
  CHECK(b.len == strlen(text) && memcmp(b.data, text, b.len) == 0);
  buf_free(&b);
  free(wide);
}

static void test_every_code_point(void) {
  check_case("every code point");
  struct buf b;
  int wrong = 0;
  buf_init(&b, 8);
  for (wchar_t c = 0; c <= 0x10ffff; c++) {
    wchar_t back = 0;
    buf_clear(&b, 8);
    wide_append(&b, &c, &c + 1);
    size_t n = wide_decode(b.data, b.len, &back);
    wchar_t want = c >= 0xd800 && c < 0xe000 ? 0xfffd : c;
    if (n != b.len || back != want) wrong++;
    /* none of it is a character before its end */
    for (size_t i = 0; i < b.len; i++)
      if (wide_decode(b.data, i, &back) != 0) wrong++;
  }
  CHECK(wrong == 0);
  buf_free(&b);
}

static void test_what_is_no_utf8(void) {
  check_case("what is no UTF-8");
  static const char *const texts[] = {"\x80",         "\xc0\x80", "\xff",
                                      "\xed\xa0\x80", "\xf5\x80", "\xe6\x61"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    wchar_t c = 0;
    CHECK(wide_decode(texts[i], strlen(texts[i]), &c) == 1 && c == 0xfffd);
  }
}

int main(void) {
  test_round_trip();
  test_every_code_point();
  test_what_is_no_utf8();
  return check_done();
}
