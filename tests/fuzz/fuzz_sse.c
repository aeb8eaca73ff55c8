/*
** Event streams: however the bytes are cut into pieces, the events are the same, and they are those
** of a second, naive parser that follows the standard word by word.
**
** Input: one byte that chooses the ceiling, one that seeds the cuts, then the stream.
*/
#include "base/sse.h"
#include "base/utf8.h"

#include "fuzz.h"

static void put(struct buf *to, const char *name, const char *s, size_t n) {
  char head[64];
  int len = snprintf(head, sizeof head, "%s %zu:", name, n);
  REQUIRE(buf_append(to, head, (size_t)len) == BUF_OK);
  REQUIRE(buf_append(to, s, n) == BUF_OK);
}

static void put_event(struct buf *to, const struct sse_event *ev) {
  REQUIRE(utf8_valid_prefix(ev->data, ev->data_len) == ev->data_len);
  REQUIRE(utf8_valid_prefix(ev->event, ev->event_len) == ev->event_len);
  REQUIRE(utf8_valid_prefix(ev->id, ev->id_len) == ev->id_len);
  put(to, "event", ev->event, ev->event_len);
  put(to, "data", ev->data, ev->data_len);
  put(to, "id", ev->id, ev->id_len);
}

/* All events as text; the last word says how it ended. `seed` 0 feeds in one piece. */
static void run(const char *in, size_t n, size_t event_max, uint32_t seed, bool draining,
                struct buf *to) {
  struct sse s;
  struct sse_event ev;
  int got;
  size_t at = 0;
  sse_init(&s, event_max);
  while (at < n) {
    seed = seed * 1664525u + 1013904223u;
    size_t piece = seed == 1013904223u ? n : 1 + (seed >> 28) % 9;
    if (piece > n - at) piece = n - at;
    char *copy = fuzz_copy(in + at, piece);
    enum buf_status status = sse_feed(&s, copy, piece);
    free(copy);
    if (status != BUF_OK) break; /* sse_next will say why */
    at += piece;
    if (seed == 1013904223u) seed = 1;
    while (draining && sse_next(&s, &ev) == 1) put_event(to, &ev);
    REQUIRE(sse_buffered(&s) <= at);
  }
  while ((got = sse_next(&s, &ev)) == 1) put_event(to, &ev);
  if (got == 0) {
    put(to, "end", "", 0);
    while ((got = sse_finish(&s, &ev)) == 1) put_event(to, &ev);
    REQUIRE(sse_buffered(&s) == 0);
  }
  put(to, got == 0 ? "done" : "failed", "", 0);
  char retry[32];
  put(to, "retry", retry, (size_t)snprintf(retry, sizeof retry, "%jd", (intmax_t)sse_retry_ms(&s)));
  sse_free(&s);
}

/* ---- the standard, word by word -------------------------------------------------------------- */

struct naive {
  struct buf data, type, id;
  intmax_t retry;
};

static void naive_dispatch(struct naive *p, struct buf *to) {
  if (p->data.len > 0) { /* "if the data buffer is an empty string, … return" */
    put(to, "event", p->type.data, p->type.len);
    put(to, "data", p->data.data, p->data.len - 1); /* "remove the last LF" */
    put(to, "id", p->id.data, p->id.len);
  }
  p->data.len = p->type.len = 0;
}

static void naive_line(struct naive *p, const char *s, size_t n, struct buf *to) {
  if (n == 0) {
    naive_dispatch(p, to);
    return;
  }
  if (s[0] == ':') return;
  const char *colon = memchr(s, ':', n);
  size_t name = colon != NULL ? (size_t)(colon - s) : n;
  const char *value = colon != NULL ? colon + 1 : s + n;
  size_t len = (size_t)(s + n - value);
  if (len > 0 && value[0] == ' ') value++, len--;
  if (name == 4 && memcmp(s, "data", 4) == 0) {
    buf_append(&p->data, value, len);
    buf_append(&p->data, "\n", 1);
  } else if (name == 5 && memcmp(s, "event", 5) == 0) {
    p->type.len = 0;
    buf_append(&p->type, value, len);
  } else if (name == 2 && memcmp(s, "id", 2) == 0) {
    if (memchr(value, '\0', len) != NULL) return;
    p->id.len = 0;
    buf_append(&p->id, value, len);
  } else if (name == 5 && memcmp(s, "retry", 5) == 0 && len > 0) {
    intmax_t ms = 0;
    for (size_t i = 0; i < len; i++) {
      if (value[i] < '0' || value[i] > '9') return;
      int digit = value[i] - '0';
      ms = ms > (INT64_MAX - digit) / 10 ? INT64_MAX : ms * 10 + digit;
    }
    p->retry = ms;
  }
}

static void naive_run(const char *in, size_t n, struct buf *to) {
  struct naive p = {.retry = -1};
  struct buf text;
  buf_init(&p.data, SIZE_MAX);
  buf_init(&p.type, SIZE_MAX);
  buf_init(&p.id, SIZE_MAX);
  buf_init(&text, SIZE_MAX);
  /* "must be decoded with the UTF-8 decode algorithm", which strips one BOM */
  if (n >= 3 && memcmp(in, "\xEF\xBB\xBF", 3) == 0) in += 3, n -= 3;
  REQUIRE(utf8_repair(in, n, &text) == BUF_OK);
  size_t line = 0, i = 0;
  while (i < text.len) {
    if (text.data[i] != '\n' && text.data[i] != '\r') {
      i++;
      continue;
    }
    size_t end = i++;
    if (text.data[end] == '\r' && i < text.len && text.data[i] == '\n') i++;
    naive_line(&p, text.data + line, end - line, to);
    line = i;
  }
  put(to, "end", "", 0);
  if (line < text.len) naive_line(&p, text.data + line, text.len - line, to);
  naive_dispatch(&p, to);
  put(to, "done", "", 0);
  char retry[32];
  put(to, "retry", retry, (size_t)snprintf(retry, sizeof retry, "%jd", p.retry));
  buf_free(&p.data);
  buf_free(&p.type);
  buf_free(&p.id);
  buf_free(&text);
}

static void require_same(const struct buf *a, const struct buf *b) {
  REQUIRE(a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  const char *in = (const char *)data + 2;
  size_t n = size - 2, event_max = data[0] < 128 ? data[0] : (size_t)1 << 20;
  struct buf whole, other;
  buf_init(&whole, SIZE_MAX);
  buf_init(&other, SIZE_MAX);
  run(in, n, event_max, 0, true, &whole);
  for (uint32_t seed = 1; seed < 4; seed++) {
    run(in, n, event_max, seed * 257u + data[1], seed != 3, &other);
    require_same(&whole, &other);
    other.len = 0;
  }
  if (event_max > n) {
    naive_run(in, n, &other);
    require_same(&whole, &other);
  }
  buf_free(&whole);
  buf_free(&other);
  return 0;
}
