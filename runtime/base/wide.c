/* UTF-8 and wide characters: see wide.h. */
#include "base/wide.h"

#include <stdlib.h>

#include "base/utf8.h"

#define REPLACEMENT 0xfffd

size_t wide_decode(const char *text, size_t n, wchar_t *out) {
  const unsigned char *s = (const unsigned char *)text;
  if (n == 0) return 0;
  if (*s < 0x80) return *out = (wchar_t)*s, 1;
  size_t used = utf8_sequence(text, n);
  if (used == 0) {
    size_t want = *s >= 0xf5 ? 1 : *s >= 0xf0 ? 4 : *s >= 0xe0 ? 3 : *s >= 0xc2 ? 2 : 1, have = 1;
    while (have < n && have < want && (s[have] & 0xc0) == 0x80) have++;
    if (have == n && have < want) return 0;
    return *out = REPLACEMENT, 1;
  }
  wchar_t c = (wchar_t)(*s & (0xff >> (used + 1)));
  for (size_t i = 1; i < used; i++) c = c << 6 | (s[i] & 0x3f);
  return *out = c, used;
}

static size_t encode(wchar_t c, char *out) {
  unsigned u = (unsigned)c;
  if (u > 0x10ffff || (u >= 0xd800 && u < 0xe000)) u = REPLACEMENT;
  if (u < 0x80) return out[0] = (char)u, 1;
  size_t n = u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
  for (size_t i = n; i-- > 1; u >>= 6) out[i] = (char)(0x80 | (u & 0x3f));
  static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
  out[0] = (char)(lead[n] | u);
  return n;
}

enum buf_status wide_append(struct buf *b, const wchar_t *from, const wchar_t *to) {
  for (; from < to; from++) {
    char bytes[4];
    enum buf_status status = buf_append(b, bytes, encode(*from, bytes));
    if (status != BUF_OK) return status;
  }
  return BUF_OK;
}

wchar_t *wide_copy(const char *text, size_t n) {
  wchar_t *wide = malloc((n + 1) * sizeof *wide), *to = wide;
  size_t used;
  if (wide == NULL) return NULL;
  for (size_t at = 0; (used = wide_decode(text + at, n - at, to)) > 0; at += used) to++;
  *to = 0;
  return wide;
}
