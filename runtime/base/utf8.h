/*
** UTF-8 as Unicode defines it (table 3-7 of the standard: no surrogates, no overlong forms, nothing
** above U+10FFFF). Checks and repairs; never converts to another encoding, never looks at a locale.
*/
#ifndef SLUICE_BASE_UTF8_H
#define SLUICE_BASE_UTF8_H

#include <stddef.h>

#include "base/buf.h"

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Bytes of the well-formed sequence at `s` (1 to 4), or 0 when none begins there. */
size_t utf8_sequence(const char *s, size_t n);

/* Length of the longest valid prefix; == n when all of it is valid. */
size_t utf8_valid_prefix(const char *s, size_t n);

/* Append `s` with each maximal ill-formed subpart replaced by one U+FFFD, as browsers do. */
enum buf_status utf8_repair(const char *s, size_t n, struct buf *out);

#endif
