/*
** The JSON cursor; see scan.h, which has the hot part. Here: marking what ends plain text, all that
** is rare, and numbers.
*/
#include "base/scan.h"

#include "base/limits.h"
#include "base/utf8.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

static inline void skip_space(struct scan *s) {
  while (s->p < s->end && (unsigned char)*s->p <= ' ') {
    if (*s->p != ' ' && *s->p != '\n' && *s->p != '\r' && *s->p != '\t') return;
    s->p++;
  }
}

void scan_init(struct scan *s, const char *text, size_t n) {
  s->p = n > 0 ? text : "";
  s->start = s->p;
  s->end = s->p + n;
  s->block = (uintptr_t)s->p - 64; /* marked is nothing yet */
  s->special = 0;
  s->depth = 0;
  skip_space(s);
}

bool scan_end(struct scan *s) {
  skip_space(s);
  return s->p == s->end;
}

/* ---- strings --------------------------------------------------------------------------------- */

#if defined(__SSE2__)

static inline uint64_t special16(const char *p) {
  __m128i w = _mm_loadu_si128((const __m128i *)(const void *)p);
  __m128i quote = _mm_cmpeq_epi8(w, _mm_set1_epi8('"'));
  __m128i slash = _mm_cmpeq_epi8(w, _mm_set1_epi8('\\'));
  __m128i other = _mm_cmplt_epi8(w, _mm_set1_epi8(0x20)); /* signed: what is not ASCII as well */
  return (uint64_t)(unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, slash), other));
}

static uint64_t special64(const char *p) {
  return special16(p) | special16(p + 16) << 16 | special16(p + 32) << 32 | special16(p + 48) << 48;
}

#else

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* The high bit of each byte that is zero. */
static inline uint64_t zeros8(uint64_t w) {
  return ~(((w & EACH(0x7F)) + EACH(0x7F)) | w) & EACH(0x80);
}

static inline uint64_t special8(const char *p) {
  uint64_t w;
  memcpy(&w, p, sizeof w);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  w = __builtin_bswap64(w);
#endif
  uint64_t hit = zeros8(w ^ EACH('"')) | zeros8(w ^ EACH('\\')) | zeros8(w & EACH(0xE0)) | w;
  return (hit & EACH(0x80)) * UINT64_C(0x0002040810204081) >> 56; /* eight high bits side by side */
}

static uint64_t special64(const char *p) {
  uint64_t bits = 0;
  for (unsigned i = 0; i < 64; i += 8) bits |= special8(p + i) << i;
  return bits;
}

#endif

/* Mark the block that p, which is before the end, is in. */
void scan_load(struct scan *s, const char *p) {
  /* The block behind the last does not depend on where the last string ended: begun early. */
  size_t ahead = (uintptr_t)p - (s->block + 64);
  const char *block = ahead < 64 ? p - ahead : p;
  size_t n = (size_t)(s->end - s->start), rest = (size_t)(s->end - block);
  s->block = (uintptr_t)block;
  if (rest >= 64) {
    s->special = special64(block);
  } else if (n >= 64) { /* the last 64 bytes, without those of the block before */
    s->special = special64(s->end - 64) >> (64 - rest) | UINT64_C(1) << rest;
  } else {
    char copy[64] = {0};
    memcpy(copy, block, rest);
    s->special = special64(copy); /* zeros are control characters */
  }
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/* Four hex digits at p, which must be readable; -1 when they are not. */
static int32_t hex4(const char *p) {
  int32_t value = 0;
  for (int i = 0; i < 4; i++) {
    int digit = hex_digit(p[i]);
    if (digit < 0) return -1;
    value = value << 4 | digit;
  }
  return value;
}

/* Length of the escape at p ('\\' included), 0 when malformed. */
static size_t escape_length(const char *p, const char *end) {
  if (end - p < 2) return 0;
  switch (p[1]) {
  case '"':
  case '\\':
  case '/':
  case 'b':
  case 'f':
  case 'n':
  case 'r':
  case 't':
    return 2;
  case 'u':
    return end - p >= 6 && hex4(p + 2) >= 0 ? 6 : 0;
  default:
    return 0;
  }
}

bool scan_string_any(struct scan *s, struct scan_text *out) {
  const char *p = s->p, *end = s->end;
  if (p == end || *p != '"') return false;
  out->p = ++p;
  out->escaped = false;
  for (;;) {
    p = scan_plain(s, p);
    if (p == end) return false;
    size_t n;
    if (*p == '"') {
      out->len = (size_t)(p - out->p);
      s->p = p + 1;
      return true;
    }
    if (*p == '\\') {
      out->escaped = true;
      n = escape_length(p, end);
    } else { /* 0: a control character, or not UTF-8 */
      n = (unsigned char)*p < 0x80 ? 0 : utf8_sequence(p, (size_t)(end - p));
    }
    if (n == 0) return false;
    p += n;
  }
}

static size_t encode_utf8(uint32_t c, char *out) {
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  if (c < 0x800) {
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3F));
    return 2;
  }
  if (c < 0x10000) {
    out[0] = (char)(0xE0 | c >> 12);
    out[1] = (char)(0x80 | (c >> 6 & 0x3F));
    out[2] = (char)(0x80 | (c & 0x3F));
    return 3;
  }
  out[0] = (char)(0xF0 | c >> 18);
  out[1] = (char)(0x80 | (c >> 12 & 0x3F));
  out[2] = (char)(0x80 | (c >> 6 & 0x3F));
  out[3] = (char)(0x80 | (c & 0x3F));
  return 4;
}

/* Decode the \u escape at p, with its second half if it has one. Length taken, 0 a lone half. */
static size_t unicode_escape(const char *p, const char *end, uint32_t *c) {
  uint32_t unit = (uint32_t)hex4(p + 2);
  *c = unit;
  if (unit < 0xD800 || unit > 0xDFFF) return 6;
  if (unit > 0xDBFF || end - p < 12 || p[6] != '\\' || p[7] != 'u') return 0;
  uint32_t low = (uint32_t)hex4(p + 8);
  if (low < 0xDC00 || low > 0xDFFF) return 0;
  *c = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
  return 12;
}

static char simple_escape(char c) {
  switch (c) {
  case 'b':
    return '\b';
  case 'f':
    return '\f';
  case 'n':
    return '\n';
  case 'r':
    return '\r';
  case 't':
    return '\t';
  default: /* '"', '\\', '/': themselves */
    return c;
  }
}

enum scan_status scan_unescape(const struct scan_text *t, struct buf *out) {
  /* No escape is shorter than what it means, so one reservation is enough. */
  if (buf_reserve(out, t->len) != BUF_OK) return SCAN_NO_ROOM;
  const char *p = t->p, *end = t->p + t->len;
  size_t before = out->len;
  while (p < end) {
    const char *slash = memchr(p, '\\', (size_t)(end - p));
    size_t n = (size_t)((slash != NULL ? slash : end) - p);
    if (n > 0) memcpy(out->data + out->len, p, n);
    out->len += n;
    if (slash == NULL) break;
    if (slash[1] == 'u') {
      uint32_t c;
      n = unicode_escape(slash, end, &c);
      if (n == 0) {
        out->len = before;
        return SCAN_LONE_SURROGATE;
      }
      out->len += encode_utf8(c, out->data + out->len);
    } else {
      n = 2;
      out->data[out->len++] = simple_escape(slash[1]);
    }
    p = slash + n;
  }
  return SCAN_OK;
}

/* ---- numbers and literals -------------------------------------------------------------------- */

static const char *digits(const char *p, const char *end) {
  while (p < end && *p >= '0' && *p <= '9') p++;
  return p;
}

/* Past the number at the cursor, or NULL. `*integer`: neither fraction nor exponent. */
static const char *number_end(const struct scan *s, bool *integer) {
  const char *p = s->p, *end = s->end;
  if (p < end && *p == '-') p++;
  const char *start = p;
  p = digits(p, end);
  if (p == start || (*start == '0' && p - start > 1)) return NULL;
  *integer = true;
  if (p < end && *p == '.') {
    start = p + 1;
    p = digits(start, end);
    if (p == start) return NULL;
    *integer = false;
  }
  if (p < end && (*p == 'e' || *p == 'E')) {
    p++;
    if (p < end && (*p == '+' || *p == '-')) p++;
    start = p;
    p = digits(start, end);
    if (p == start) return NULL;
    *integer = false;
  }
  return p;
}

bool scan_int(struct scan *s, int64_t *out) {
  bool integer;
  const char *end = number_end(s, &integer);
  if (end == NULL || !integer) return false;
  bool negative = *s->p == '-';
  int64_t value = 0; /* built up below zero, where the range is larger */
  for (const char *p = s->p + negative; p < end; p++) {
    int digit = *p - '0';
    if (value < (INT64_MIN + digit) / 10) return false;
    value = value * 10 - digit;
  }
  if (!negative && value == INT64_MIN) return false;
  *out = negative ? value : -value;
  s->p = end;
  return true;
}

static bool literal(struct scan *s, const char *word, size_t n) {
  if ((size_t)(s->end - s->p) < n || memcmp(s->p, word, n) != 0) return false;
  s->p += n;
  return true;
}

/* ---- structure ------------------------------------------------------------------------------- */

bool scan_open(struct scan *s, char bracket) {
  if (scan_peek(s) != bracket || s->depth == JSON_DEPTH_MAX) return false;
  s->depth++;
  s->p++;
  return true;
}

/* Between members: past the comma to the next one (1), past the closing bracket (0), or -1. */
static inline int next_member(struct scan *s, bool *first, char closing) {
  skip_space(s);
  char c = scan_peek(s);
  if (c == closing) {
    s->p++;
    s->depth--;
    return 0;
  }
  if (!*first) {
    if (c != ',') return -1;
    s->p++;
    skip_space(s);
  }
  *first = false;
  return 1;
}

int scan_item(struct scan *s, bool *first) {
  return next_member(s, first, ']');
}

int scan_key_any(struct scan *s, bool *first, struct scan_text *key) {
  int more = next_member(s, first, '}');
  if (more <= 0) return more;
  if (!scan_string_any(s, key)) return -1;
  skip_space(s);
  if (scan_peek(s) != ':') return -1;
  s->p++;
  skip_space(s);
  return 1;
}

/* Recursion is bounded by scan_open. */
bool scan_skip_any(struct scan *s) {
  struct scan_text key;
  bool first = true, integer;
  const char *end;
  int more;
  switch (scan_peek(s)) {
  case '"':
    return scan_string(s, &key);
  case '{':
    if (!scan_open(s, '{')) return false;
    while ((more = scan_key(s, &first, &key)) > 0) {
      if (!scan_skip_any(s)) return false;
    }
    return more == 0;
  case '[':
    if (!scan_open(s, '[')) return false;
    while ((more = scan_item(s, &first)) > 0) {
      if (!scan_skip_any(s)) return false;
    }
    return more == 0;
  case 't':
    return literal(s, "true", 4);
  case 'f':
    return literal(s, "false", 5);
  case 'n':
    return scan_null(s);
  default:
    end = number_end(s, &integer);
    if (end == NULL) return false;
    s->p = end;
    return true;
  }
}
