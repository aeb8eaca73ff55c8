/* Base64: see base64.h. */
#include "base/base64.h"

void base64_encode(const void *bytes, size_t n, char *out) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const unsigned char *p = bytes;
  for (; n > 0; p += 3) {
    size_t have = n < 3 ? n : 3;
    unsigned group = (unsigned)p[0] << 16;
    if (have > 1) group |= (unsigned)p[1] << 8;
    if (have > 2) group |= p[2];
    *out++ = digits[group >> 18];
    *out++ = digits[group >> 12 & 63];
    *out++ = have > 1 ? digits[group >> 6 & 63] : '=';
    *out++ = have > 2 ? digits[group & 63] : '=';
    n -= have;
  }
}
