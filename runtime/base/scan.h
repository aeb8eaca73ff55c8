/*
** A strict JSON scanner (RFC 8259, strings in valid UTF-8): a cursor that walks one text, checks
** all of it on the way and hands out slices. Never allocates (but for scan_unescape into the
** caller's buffer), builds no tree, never goes deeper than JSON_DEPTH_MAX.
**
** After any function has returned failure the cursor is useless: the text is not what it claims.
**
**   struct scan s;
**   struct scan_text key;
**   bool first = true;
**   int more;
**   scan_init(&s, text, n);
**   if (!scan_open(&s, '{')) return false;
**   while ((more = scan_key(&s, &first, &key)) > 0) {
**     if (scan_is(&key, "id")) ok = scan_string(&s, &id); else ok = scan_skip(&s, NULL);
**     if (!ok) return false;
**   }
**   return more == 0 && scan_end(&s);
*/
#ifndef SLUICE_BASE_SCAN_H
#define SLUICE_BASE_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "base/buf.h"

struct scan {
  const char *p, *end, *start;
  int depth;
};

/* A string's content as written between the quotes, or any value's text. */
struct scan_text {
  const char *p;
  size_t len;
  bool escaped; /* a string with a backslash: scan_unescape gives its meaning */
};

void scan_init(struct scan *s, const char *text, size_t n);

/* First byte of the value at the cursor, which tells its type; 0 at the end. */
static inline char scan_peek(const struct scan *s) {
  return s->p < s->end ? *s->p : '\0';
}

/* Enter an object ('{') or array ('['). False when the value is something else, or too deep. */
bool scan_open(struct scan *s, char bracket);

/*
** The next member of the object entered last: 1, `*key` is set and the cursor is at its value,
** which must be consumed before the next call; 0 the object has ended; -1 malformed. `*first`
** starts true.
*/
static inline int scan_key(struct scan *s, bool *first, struct scan_text *key);

/* The same for an array: 1 the cursor is at an element. */
int scan_item(struct scan *s, bool *first);

/* Consume one value of the named type; false when it is malformed or of another type. */
static inline bool scan_string(struct scan *s, struct scan_text *out);
static inline bool scan_null(struct scan *s);
bool scan_int(struct scan *s, int64_t *out); /* in range, without fraction and exponent */

/* Consume one value of any type; `raw`, unless NULL, is its text. */
static inline bool scan_skip(struct scan *s, struct scan_text *raw);

/* True when nothing but white space is left. */
bool scan_end(struct scan *s);

enum scan_status { SCAN_OK = 0, SCAN_LONE_SURROGATE, SCAN_NO_ROOM };

/* Append a scanned string's meaning to `out`, which is left as it was on failure. */
enum scan_status scan_unescape(const struct scan_text *t, struct buf *out);

/* An escaped key equals no literal here; callers that must not be fooled check `escaped`. */
#define scan_is(text, literal) scan_is_bytes((text), "" literal, sizeof(literal) - 1)

static inline bool scan_is_bytes(const struct scan_text *t, const char *bytes, size_t n) {
  return t->len == n && !t->escaped && memcmp(t->p, bytes, n) == 0;
}

/* ---- the hot part, inline ----------------------------------------------------------------------
** One test of the room left, then compact JSON goes straight through; white space, long strings,
** escapes and the last bytes of the text take the general functions in scan.c. */

bool scan_string_any(struct scan *s, struct scan_text *out);
int scan_key_any(struct scan *s, bool *first, struct scan_text *key);
bool scan_skip_any(struct scan *s);

#if defined(__SSE2__)
/* One bit for each of 16 bytes that is a quote, a backslash, a control character or not ASCII
** (which is negative here, and so below a space too). */
static inline unsigned scan_special16(const char *p) {
  __m128i w = _mm_loadu_si128((const __m128i *)(const void *)p);
  __m128i quote = _mm_cmpeq_epi8(w, _mm_set1_epi8('"'));
  __m128i slash = _mm_cmpeq_epi8(w, _mm_set1_epi8('\\'));
  __m128i other = _mm_cmplt_epi8(w, _mm_set1_epi8(0x20));
  return (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, slash), other));
}

/* Length of the plain string of up to 15 bytes that begins at `p`, 16 when it is none. */
static inline size_t scan_short(const char *p) {
  size_t n = (size_t)__builtin_ctz(scan_special16(p) | 1u << 16);
  return n < 16 && p[n] == '"' ? n : 16;
}
#endif

static inline bool scan_string(struct scan *s, struct scan_text *out) {
#if defined(__SSE2__)
  const char *p = s->p;
  if (s->end - p > 16 && *p == '"') {
    size_t n = scan_short(++p);
    if (n < 16) {
      out->p = p;
      out->len = n;
      out->escaped = false;
      s->p = p + n + 1;
      return true;
    }
  }
#endif
  return scan_string_any(s, out);
}

static inline bool scan_null(struct scan *s) {
  if (s->end - s->p < 4 || memcmp(s->p, "null", 4) != 0) return false;
  s->p += 4;
  return true;
}

static inline bool scan_skip(struct scan *s, struct scan_text *raw) {
  struct scan_text text;
  const char *start = s->p;
  bool ok;
  switch (scan_peek(s)) {
  case '"':
    ok = scan_string(s, &text);
    break;
  case 'n':
    ok = scan_null(s);
    break;
  default:
    ok = scan_skip_any(s);
  }
  if (raw != NULL) {
    raw->p = start;
    raw->len = (size_t)(s->p - start);
    raw->escaped = false;
  }
  return ok;
}

static inline int scan_key(struct scan *s, bool *first, struct scan_text *key) {
#if defined(__SSE2__)
  const char *p = s->p;
  if (s->end - p > 20) {
    if (*p == ',' && !*first) {
      p++;
    } else if (*p == '}') {
      s->p = p + 1;
      s->depth--;
      return 0;
    } else if (!*first) {
      return scan_key_any(s, first, key);
    }
    if (*p == '"') {
      size_t n = scan_short(++p);
      if (n < 16 && p[n + 1] == ':' && (unsigned char)p[n + 2] > ' ') {
        key->p = p;
        key->len = n;
        key->escaped = false;
        s->p = p + n + 2;
        *first = false;
        return 1;
      }
    }
  }
#endif
  return scan_key_any(s, first, key);
}

#endif
