/* base/buf: growth, the ceiling, and that failure changes nothing. */
#include <stdint.h>

#include "base/buf.h"

#include "check.h"

static void growth(void) {
  struct buf b;
  check_case("a new buffer owns nothing");
  buf_init(&b, 1000);
  CHECK(b.data == NULL);
  CHECK_INT(b.len, 0);
  CHECK_INT(buf_append(&b, NULL, 0), BUF_OK);
  CHECK(b.data == NULL);

  check_case("bytes are kept in order over many growths");
  bool same = true;
  for (int i = 0; i < 1000; i++) {
    char c = (char)(i % 251);
    CHECK_INT(buf_append(&b, &c, 1), BUF_OK);
  }
  for (int i = 0; i < 1000; i++) same = same && b.data[i] == (char)(i % 251);
  CHECK(same);
  CHECK_INT(b.len, 1000);
  CHECK(b.cap <= b.max);

  check_case("past the ceiling nothing changes");
  CHECK_INT(buf_append(&b, "x", 1), BUF_FULL);
  CHECK_INT(buf_reserve(&b, 1), BUF_FULL);
  CHECK_INT(buf_reserve(&b, SIZE_MAX), BUF_FULL);
  CHECK_INT(b.len, 1000);
  CHECK(b.data[999] == (char)(999 % 251));
  buf_free(&b);

  check_case("a freed buffer can be used again");
  CHECK(b.data == NULL);
  CHECK_INT(buf_append_str(&b, "again"), BUF_OK);
  CHECK_TEXT(b.data, b.len, "again");
  buf_free(&b);
}

static void ceilings(void) {
  struct buf b;
  check_case("a ceiling of zero takes nothing");
  buf_init(&b, 0);
  CHECK_INT(buf_append_str(&b, ""), BUF_OK);
  CHECK_INT(buf_append_str(&b, "x"), BUF_FULL);
  buf_free(&b);

  check_case("a ceiling below the first allocation holds");
  buf_init(&b, 3);
  CHECK_INT(buf_append_str(&b, "abc"), BUF_OK);
  CHECK_INT(b.cap, 3);
  CHECK_INT(buf_append_str(&b, "d"), BUF_FULL);
  CHECK_TEXT(b.data, b.len, "abc");
  buf_free(&b);

  check_case("without a ceiling a size that cannot be had is out of memory, not a crash");
  buf_init(&b, SIZE_MAX);
  CHECK_INT(buf_append_str(&b, "abc"), BUF_OK);
  CHECK_INT(buf_reserve(&b, SIZE_MAX - 1), BUF_FULL); /* len + extra would overflow */
  CHECK_TEXT(b.data, b.len, "abc");
  buf_free(&b);
}

static void dropping(void) {
  struct buf b;
  buf_init(&b, 4096);
  check_case("consume drops from the front");
  buf_append_str(&b, "hello world");
  buf_consume(&b, 0);
  CHECK_TEXT(b.data, b.len, "hello world");
  buf_consume(&b, 6);
  CHECK_TEXT(b.data, b.len, "world");
  buf_consume(&b, 5);
  CHECK_INT(b.len, 0);
  buf_consume(&b, 1); /* more than there is */
  CHECK_INT(b.len, 0);

  check_case("clear keeps a small memory and gives a large one back");
  buf_append_str(&b, "small");
  char *data = b.data;
  buf_clear(&b, 1024);
  CHECK(b.data == data && b.len == 0);
  CHECK_INT(buf_reserve(&b, 3000), BUF_OK);
  buf_clear(&b, 1024);
  CHECK(b.data == NULL && b.cap == 0);
  buf_free(&b);
}

int main(void) {
  growth();
  ceilings();
  dropping();
  return check_done();
}
