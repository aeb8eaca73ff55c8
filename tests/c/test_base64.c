/* base/base64: the vectors of RFC 4648 section 10, and every byte. */
#include "base/base64.h"

#include "check.h"

static void encodes(const char *bytes, size_t n, const char *text) {
  char out[512];
  base64_encode(bytes, n, out);
  CHECK_BYTES(out, base64_len(n), text, strlen(text));
}

int main(void) {
  check_case("the vectors of RFC 4648");
  encodes("", 0, "");
  encodes("f", 1, "Zg==");
  encodes("fo", 2, "Zm8=");
  encodes("foo", 3, "Zm9v");
  encodes("foob", 4, "Zm9vYg==");
  encodes("fooba", 5, "Zm9vYmE=");
  encodes("foobar", 6, "Zm9vYmFy");

  check_case("bytes above 127, and zero");
  encodes("\xff\xfe\xfd", 3, "//79");
  encodes("\0\0\0", 3, "AAAA");
  encodes("\xfb\xef\xbe", 3, "++++");

  check_case("the example of RFC 7617");
  encodes("Aladdin:open sesame", 19, "QWxhZGRpbjpvcGVuIHNlc2FtZQ==");

  check_case("nothing is written beyond the end");
  char out[9] = "........";
  base64_encode("ab", 2, out);
  CHECK_TEXT(out, 8, "YWI=....");
  return check_done();
}
