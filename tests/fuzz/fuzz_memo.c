/*
** The shortcut for events that differ only in their text (base/memo, used as runtime/bind/stream.c
** does): whatever comes, and however it is cut, the deltas and events are those of the full
** parsers.
**
** Input: one byte (protocol, seed of the cuts), then the stream.
*/
#include "base/delta.h"
#include "base/memo.h"
#include "base/scan.h"
#include "base/sse.h"
#include "base/utf8.h"

#include "fuzz.h"

struct reader {
  struct sse sse;
  struct memo memo;
  struct buf scratch, *to;
  bool anthropic, short_cut;
};

static void put(struct buf *to, const char *name, const char *s, size_t n) {
  char head[64];
  int len = snprintf(head, sizeof head, "%s %zu:", name, n);
  REQUIRE(buf_append(to, head, (size_t)len) == BUF_OK);
  REQUIRE(buf_append(to, s, n) == BUF_OK);
}

static bool as_before(struct reader *r, struct delta *d) {
  size_t n;
  const char *raw = r->short_cut && r->memo.bytes != NULL ? sse_peek(&r->sse, &n) : NULL;
  struct memo_hit hit;
  if (raw == NULL || !memo_match(&r->memo, raw, n, &hit)) return false;
  REQUIRE(hit.used <= n && hit.text_len > 0);
  *d = (struct delta){.text = hit.text, .text_len = hit.text_len};
  if (hit.escaped) {
    struct scan scan;
    struct scan_text written;
    scan_init(&scan, hit.text - 1, hit.text_len + 2);
    r->scratch.len = 0;
    if (!scan_string(&scan, &written) || !scan_end(&scan)) return false;
    if (scan_unescape(&written, &r->scratch) != SCAN_OK) return false;
    d->text = r->scratch.data;
    d->text_len = r->scratch.len;
  }
  sse_skip(&r->sse, hit.used);
  return true;
}

static void put_delta(struct reader *r, const struct delta *d) {
  REQUIRE(d->text_len > 0 && utf8_valid_prefix(d->text, d->text_len) == d->text_len);
  put(r->to, "text", d->text, d->text_len);
  if (d->usage != NULL) put(r->to, "usage", d->usage, d->usage_len);
}

/* One event; false when there is none. */
static bool read_one(struct reader *r) {
  struct sse_event ev;
  struct delta d;
  if (as_before(r, &d)) {
    put_delta(r, &d);
    return true;
  }
  size_t n, before = sse_buffered(&r->sse);
  const char *raw = sse_peek(&r->sse, &n);
  if (sse_next(&r->sse, &ev) != 1) return false;
  bool plain = r->anthropic
                   ? delta_anthropic(ev.event, ev.event_len, ev.data, ev.data_len, &d, &r->scratch)
                   : !(ev.event_len == 5 && memcmp(ev.event, "error", 5) == 0) &&
                         delta_openai(ev.data, ev.data_len, &d, &r->scratch);
  if (!plain) {
    put(r->to, "event", ev.event, ev.event_len);
    put(r->to, "data", ev.data, ev.data_len);
    return true;
  }
  put_delta(r, &d);
  if (d.usage == NULL && raw != NULL) {
    memo_learn(&r->memo, raw, before - sse_buffered(&r->sse), ev.data, ev.data_len, d.text,
               d.text_len);
  }
  return true;
}

static void run(const uint8_t *in, size_t n, uint8_t how, bool short_cut, bool whole,
                struct buf *to) {
  struct reader r = {.to = to, .anthropic = (how & 1) != 0, .short_cut = short_cut};
  uint32_t seed = how;
  sse_init(&r.sse, 1 << 20);
  buf_init(&r.scratch, 1 << 20);
  for (size_t at = 0; at < n;) {
    seed = seed * 1664525u + 1013904223u;
    size_t piece = whole ? n : 1 + (seed >> 22) % 700; /* about one event of a provider */
    if (piece > n - at) piece = n - at;
    char *copy = fuzz_copy((const char *)in + at, piece);
    REQUIRE(sse_feed(&r.sse, copy, piece) == BUF_OK);
    free(copy);
    at += piece;
    while (read_one(&r)) continue;
  }
  memo_free(&r.memo);
  sse_free(&r.sse);
  buf_free(&r.scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  struct buf want, got;
  buf_init(&want, SIZE_MAX);
  buf_init(&got, SIZE_MAX);
  run(data + 1, size - 1, data[0], false, true, &want);
  for (int whole = 0; whole < 2; whole++) {
    run(data + 1, size - 1, data[0], true, whole != 0, &got);
    REQUIRE(want.len == got.len && (want.len == 0 || memcmp(want.data, got.data, want.len) == 0));
    got.len = 0;
  }
  buf_free(&want);
  buf_free(&got);
  return 0;
}
