/*
** A strict JSON scanner (RFC 8259, strings in valid UTF-8): a cursor that walks one text, checks all
** of it on the way and hands out slices. Never allocates (but for scan_unescape into the caller's
** buffer), builds no tree, never goes deeper than JSON_DEPTH_MAX.
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
  const char *p, *end;
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
** The next member of the object entered last: 1, `*key` is set and the cursor is at its value, which
** must be consumed before the next call; 0 the object has ended; -1 malformed. `*first` starts true.
*/
int scan_key(struct scan *s, bool *first, struct scan_text *key);

/* The same for an array: 1 the cursor is at an element. */
int scan_item(struct scan *s, bool *first);

/* Consume one value of the named type; false when it is malformed or of another type. */
bool scan_string(struct scan *s, struct scan_text *out);
bool scan_null(struct scan *s);
bool scan_int(struct scan *s, int64_t *out); /* an integer literal in range: no fraction, no exponent */

/* Consume one value of any type; `raw`, unless NULL, is its text. */
bool scan_skip(struct scan *s, struct scan_text *raw);

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

#endif
