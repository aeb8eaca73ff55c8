/*
** UTF-8 to wchar_t and back, without a locale: a wchar_t holds a code point, as it does wherever
** UTF-8 is the encoding. For libraries that want wide characters.
*/
#ifndef SLUICE_BASE_WIDE_H
#define SLUICE_BASE_WIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <wchar.h>

#include "base/buf.h"

/* The character at `text`: its bytes, or 0 when there is none, or not all of it. A byte that begins no
** character reads as U+FFFD. */
size_t wide_decode(const char *text, size_t n, wchar_t *out);

/* Append as UTF-8. */
enum buf_status wide_append(struct buf *b, const wchar_t *from, const wchar_t *to);

/* A copy the caller frees; NULL: out of memory. */
wchar_t *wide_copy(const char *text, size_t n);

#endif
