/*
** What "plain" means to the two fast paths (delta.c, answer.c), so that they cannot drift apart: by
** what keys are told apart, and which values say nothing. Part of those two files, of no use
** elsewhere.
*/
#ifndef SLUICE_BASE_PLAIN_H
#define SLUICE_BASE_PLAIN_H

#include "base/scan.h"

/*
** The keys that matter at each level are bits, so that one word tells which were seen. OTHER is a
** key without a meaning here, which may repeat.
*/
enum { OTHER = 0, REPEATED = -1 };

#define IF_NAMED(key, literal, bit)                                                                \
  if (memcmp((key)->p, literal, sizeof(literal) - 1) == 0) return bit

/* The key's bit for the first time, OTHER, or REPEATED (also when it cannot be compared). */
static inline int first_time(const struct scan_text *key, int bit, int *seen) {
  if (key->escaped || (*seen & bit) != 0) return REPEATED;
  *seen |= bit;
  return bit;
}

/* null, "" or []: a field that says nothing. */
static inline bool scan_nothing(struct scan *s) {
  struct scan_text text;
  bool first = true;
  switch (scan_peek(s)) {
  case 'n':
    return scan_null(s);
  case '"':
    return scan_string(s, &text) && text.len == 0;
  case '[':
    return scan_open(s, '[') && scan_item(s, &first) == 0;
  default:
    return false;
  }
}

static inline bool scan_nothing_of(struct scan *s, char type) {
  char c = scan_peek(s);
  return (c == 'n' || c == type) && scan_nothing(s);
}

static inline bool scan_string_is(struct scan *s, const char *bytes, size_t n) {
  struct scan_text text;
  return scan_string(s, &text) && scan_is_bytes(&text, bytes, n);
}

/* Any value but the string "error". */
static inline bool scan_not_error(struct scan *s) {
  struct scan_text text;
  if (scan_peek(s) != '"') return scan_skip(s, NULL);
  return scan_string(s, &text) && !text.escaped && !scan_is(&text, "error");
}

/* The role of an answer; some vendors leave it empty after the first chunk. */
static inline bool scan_assistant(struct scan *s) {
  struct scan_text role;
  if (scan_peek(s) == 'n') return scan_null(s);
  return scan_string(s, &role) && (role.len == 0 || scan_is(&role, "assistant"));
}

/* A string's meaning, taken from where it stands, or from `scratch` when it has escapes. */
static inline bool scan_meaning(const struct scan_text *t, const char **text, size_t *len,
                                struct buf *scratch) {
  *text = t->p;
  *len = t->len;
  if (!t->escaped) return true;
  scratch->len = 0;
  if (scan_unescape(t, scratch) != SCAN_OK) return false;
  *text = scratch->data;
  *len = scratch->len;
  return true;
}

#endif
