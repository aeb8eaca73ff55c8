/* UTF-8 checks and repair; see utf8.h. */
#include "base/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define HIGH_BITS UINT64_C(0x8080808080808080)

static uint64_t load8(const char *s) {
  uint64_t w;
  memcpy(&w, s, sizeof w);
  return w;
}

static bool is_tail(unsigned char c) {
  return (c & 0xC0) == 0x80;
}

/*
** Look at the sequence that begins at `s`. True: it is well-formed and `*len` is its length. False:
** `*len` (at least 1) is the maximal subpart that one U+FFFD stands for.
*/
static bool classify(const unsigned char *s, size_t n, size_t *len) {
  unsigned char lead = s[0];
  unsigned char low = 0x80, high = 0xBF; /* bounds of the second byte, narrower for four leads */
  size_t want;
  if (lead < 0x80) {
    *len = 1;
    return true;
  }
  *len = 1;
  if (lead < 0xC2 || lead > 0xF4) return false;
  if (lead < 0xE0) {
    want = 2;
  } else if (lead < 0xF0) {
    want = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else {
    want = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  }
  if (n < 2 || s[1] < low || s[1] > high) return false;
  size_t i = 2;
  while (i < want && i < n && is_tail(s[i])) i++;
  *len = i;
  return i == want;
}

size_t utf8_sequence(const char *s, size_t n) {
  size_t len;
  if (n == 0) return 0;
  return classify((const unsigned char *)s, n, &len) ? len : 0;
}

/* Offset of the first byte at or after `i` that is not ASCII, or n. */
static size_t skip_ascii(const char *s, size_t i, size_t n) {
  while (n - i >= 32) {
    uint64_t w = load8(s + i) | load8(s + i + 8) | load8(s + i + 16) | load8(s + i + 24);
    if ((w & HIGH_BITS) != 0) break;
    i += 32;
  }
  while (n - i >= 8 && (load8(s + i) & HIGH_BITS) == 0) i += 8;
  if (n - i < 8 && n >= 8 && (load8(s + n - 8) & HIGH_BITS) == 0) return n;
  while (i < n && (unsigned char)s[i] < 0x80) i++;
  return i;
}

size_t utf8_valid_prefix(const char *s, size_t n) {
  size_t i = 0;
  while ((i = skip_ascii(s, i, n)) < n) {
    /* Text outside ASCII comes in runs: stay in this loop until the run ends. */
    do {
      size_t len;
      if (!classify((const unsigned char *)s + i, n - i, &len)) return i;
      i += len;
    } while (i < n && (unsigned char)s[i] >= 0x80);
  }
  return n;
}

enum buf_status utf8_repair(const char *s, size_t n, struct buf *out) {
  size_t before = out->len;
  size_t i = 0;
  while (i < n) {
    size_t good = utf8_valid_prefix(s + i, n - i);
    enum buf_status status = buf_append(out, s + i, good);
    i += good;
    if (status == BUF_OK && i < n) {
      size_t bad;
      classify((const unsigned char *)s + i, n - i, &bad);
      i += bad;
      status = buf_append_str(out, UTF8_REPLACEMENT);
    }
    if (status != BUF_OK) {
      out->len = before; /* all or nothing, as every append */
      return status;
    }
  }
  return BUF_OK;
}
