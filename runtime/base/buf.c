/* Growth and bounds of byte buffers; see buf.h. */
#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

#define BUF_FIRST 64 /* bytes: the smallest allocation worth making */

void buf_init(struct buf *b, size_t max) {
  b->data = NULL;
  b->len = b->cap = 0;
  b->max = max;
}

void buf_free(struct buf *b) {
  free(b->data);
  b->data = NULL;
  b->len = b->cap = 0;
}

enum buf_status buf_reserve(struct buf *b, size_t extra) {
  if (extra <= b->cap - b->len) return BUF_OK;
  if (b->len > b->max || extra > b->max - b->len) return BUF_FULL;
  size_t need = b->len + extra;
  size_t cap = b->cap > 0 ? b->cap : BUF_FIRST;
  while (cap < need) {
    if (cap > b->max / 2) {
      cap = b->max; /* need <= max, so this ends the loop */
      break;
    }
    cap *= 2;
  }
  if (cap > b->max) cap = b->max; /* a ceiling below BUF_FIRST */
  char *data = realloc(b->data, cap);
  if (data == NULL) return BUF_NOMEM;
  b->data = data;
  b->cap = cap;
  return BUF_OK;
}

enum buf_status buf_append(struct buf *b, const void *bytes, size_t n) {
  if (n == 0) return BUF_OK;
  enum buf_status status = buf_reserve(b, n);
  if (status != BUF_OK) return status;
  memcpy(b->data + b->len, bytes, n);
  b->len += n;
  return BUF_OK;
}

enum buf_status buf_append_str(struct buf *b, const char *s) {
  return buf_append(b, s, strlen(s));
}

void buf_consume(struct buf *b, size_t n) {
  if (n >= b->len) {
    b->len = 0;
    return;
  }
  if (n == 0) return;
  memmove(b->data, b->data + n, b->len - n);
  b->len -= n;
}

void buf_fit(struct buf *b) {
  if (b->len == 0) {
    buf_free(b);
    return;
  }
  char *data = realloc(b->data, b->len);
  if (data == NULL) return; /* it was only thrift */
  b->data = data;
  b->cap = b->len;
}

void buf_clear(struct buf *b, size_t keep) {
  if (b->cap > keep) {
    buf_free(b);
    return;
  }
  b->len = 0;
}
