/*
** Base64 with padding (RFC 4648 section 4): what Basic authentication wants. Pure; no allocation.
*/
#ifndef SLUICE_BASE_BASE64_H
#define SLUICE_BASE_BASE64_H

#include <stddef.h>

/* Bytes of text for `n` bytes of data, without a NUL. */
static inline size_t base64_len(size_t n) {
  return (n + 2) / 3 * 4;
}

/* Writes base64_len(n) bytes to `out`. */
void base64_encode(const void *bytes, size_t n, char *out);

#endif
