/*
** A growing byte buffer with a hard ceiling, fixed when it is made. Appending past the ceiling
** fails and leaves the content as it was. Never aborts, never logs.
*/
#ifndef SLUICE_BASE_BUF_H
#define SLUICE_BASE_BUF_H

#include <stddef.h>

enum buf_status { BUF_OK = 0, BUF_FULL, BUF_NOMEM };

struct buf {
  char *data; /* NULL until the first append */
  size_t len, cap, max;
};

void buf_init(struct buf *b, size_t max);
void buf_free(struct buf *b); /* releases the memory; the buffer can be used again */

/* Make room for `extra` more bytes. */
enum buf_status buf_reserve(struct buf *b, size_t extra);
enum buf_status buf_append(struct buf *b, const void *bytes, size_t n);
enum buf_status buf_append_str(struct buf *b, const char *s);

/* Drop `n` bytes from the front. */
void buf_consume(struct buf *b, size_t n);

/* Give back what is not used, for a buffer that has all it will hold. */
void buf_fit(struct buf *b);

/* Forget the content but keep the memory, unless it is larger than `keep` bytes. */
void buf_clear(struct buf *b, size_t keep);

#endif
