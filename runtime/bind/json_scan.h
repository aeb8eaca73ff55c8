/*
** A strict RFC 8259 scanner that reads a JSON text before lua-cjson does. It owns the grammar: what
** it passes is valid JSON of bounded depth, so lua-cjson's laxness (01, 0x10, NaN, raw newlines in
** strings) never shows. It also stops at each piece lua-cjson would get wrong, for the caller to
** put something else there. No tree, no allocation, no Lua. It never checks UTF-8: the caller does
** that for the whole text first.
*/
#ifndef SLUICE_BIND_JSON_SCAN_H
#define SLUICE_BIND_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"

enum json_scan_event {
  JSON_SCAN_END,   /* the whole text is valid JSON */
  JSON_SCAN_PIECE, /* bytes from `piece` up to `at` need something else in their place */
  JSON_SCAN_WRONG, /* `wrong` says what, `at` where */
};

enum json_piece {
  JSON_PIECE_EMPTY_ARRAY,    /* `[]`, blanks inside allowed */
  JSON_PIECE_LONG_NUMBER,    /* an integer of 16 digits or more: a double may not hold it */
  JSON_PIECE_HUGE_NUMBER,    /* may be beyond the range of a double */
  JSON_PIECE_LONE_SURROGATE, /* `\ud800` without its other half, inside a string */
};

struct json_scan {
  const unsigned char *at, *end;
  const unsigned char *piece; /* start of the piece */
  const char *wrong;          /* a noun phrase or clause in English, NULL while all is well */
  enum json_piece kind;
  int state; /* what the grammar wants next; private */
  int depth;
  bool numbers;   /* a number was seen */
  bool fractions; /* a number with a decimal point was seen */
  bool arrays;    /* an array that is not empty was seen */
  bool in_object[JSON_DEPTH_MAX];
};

/* text[n] must be readable and NUL, as in every Lua string; it ends the inner loops. */
void json_scan_init(struct json_scan *s, const char *text, size_t n);

/* Go on to the next thing worth stopping for. Not to be called again after END or WRONG. */
enum json_scan_event json_scan_next(struct json_scan *s);

/* The first byte in [p, end) that a JSON string cannot hold as it is: a quote, a backslash or a
** control character; `end` when there is none. */
const unsigned char *json_plain_end(const unsigned char *p, const unsigned char *end);

#endif
