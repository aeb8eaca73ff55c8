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

#include "base/buf.h"

struct scan {
  const char *p, *end, *start;
  uintptr_t block;  /* address of the 64 bytes of which `special` tells */
  uint64_t special; /* a bit for each that is not plain text in a string; and one for the end */
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
** Finding the end of a string byte by byte, or even 16 bytes at a time, is a chain in which each
** step waits for the one before. So the quotes (and all else that is not plain text) are marked 64
** bytes at a time, ahead of need, and the next one is a shift and a count away. Compact JSON goes
** straight through; white space, escapes and what is not ASCII take the general functions in
** scan.c. */

void scan_load(struct scan *s, const char *p);
bool scan_string_any(struct scan *s, struct scan_text *out);
int scan_key_any(struct scan *s, bool *first, struct scan_text *key);
bool scan_skip_any(struct scan *s);

/* To the first byte at or after p that is a quote, a backslash, a control character or not ASCII,
 ** or to the end. */
static inline const char *scan_plain(struct scan *s, const char *p) {
  for (;;) {
    uintptr_t at = (uintptr_t)p - s->block;
    if (at < 64) {
      uint64_t rest = s->special >> at;
      if (rest != 0) return p + __builtin_ctzll(rest);
      p += 64 - at; /* not past the end: the block it is in has a bit for it */
    }
    if (p == s->end) return p;
    scan_load(s, p);
  }
}

static inline bool scan_string(struct scan *s, struct scan_text *out) {
  const char *p = s->p;
  if (p < s->end && *p == '"') {
    const char *q = scan_plain(s, ++p);
    if (q < s->end && *q == '"') {
      out->p = p;
      out->len = (size_t)(q - p);
      out->escaped = false;
      s->p = q + 1;
      return true;
    }
  }
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
  const char *p = s->p;
  if (s->end - p > 2) {
    if (*p == '}') {
      s->p = p + 1;
      s->depth--;
      return 0;
    }
    if (!*first && *p == ',')
      p += p[1] == ' ' ? 2 : 1; /* Python's json.dumps writes ", " and ": " */
    else if (!*first)
      return scan_key_any(s, first, key);
    if (*p == '"') {
      const char *q = scan_plain(s, ++p);
      if (s->end - q > 3 && *q == '"' && q[1] == ':') {
        const char *value = q + 2;
        if (*value == ' ') value++;
        if ((unsigned char)*value <= ' ') return scan_key_any(s, first, key);
        key->p = p;
        key->len = (size_t)(q - p);
        key->escaped = false;
        s->p = value;
        *first = false;
        return 1;
      }
    }
  }
  return scan_key_any(s, first, key);
}

#endif
