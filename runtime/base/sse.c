/*
** The event-stream parser; see sse.h. Offsets, not pointers, name places in the buffer, because it
** moves. Reading order: sse_next, take_line, dispatch; the rest is line ends and memory.
*/
#include "base/sse.h"

#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "base/limits.h"
#include "base/utf8.h"

void sse_init(struct sse *s, size_t event_max) {
  memset(s, 0, sizeof *s);
  /* U+FFFD is three bytes and may stand for one. */
  size_t repaired_max = event_max > SIZE_MAX / 3 ? SIZE_MAX : event_max * 3;
  buf_init(&s->in, SIZE_MAX); /* sse_feed knows the bound, which depends on what is handed out */
  buf_init(&s->name, repaired_max);
  buf_init(&s->text, repaired_max);
  buf_init(&s->id, repaired_max);
  s->event_max = event_max;
  s->retry_ms = -1;
}

void sse_free(struct sse *s) {
  buf_free(&s->in);
  buf_free(&s->name);
  buf_free(&s->text);
  buf_free(&s->id);
  sse_init(s, s->event_max);
}

size_t sse_buffered(const struct sse *s) {
  return s->in.len - s->start;
}

int64_t sse_retry_ms(const struct sse *s) {
  return s->retry_ms;
}

const char *sse_peek(const struct sse *s, size_t *n) {
  bool between = !s->began && !s->skip_lf && s->bom_done && s->failed == 0 && s->start == s->line &&
                 s->scan == s->line;
  if (!between) return NULL;
  *n = s->in.len - s->start;
  return *n > 0 ? s->in.data + s->start : NULL;
}

void sse_skip(struct sse *s, size_t n) {
  s->start += n;
  s->line = s->scan = s->start;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* The first `start` bytes have left the buffer: shift every offset. */
static void rebase(struct sse *s) {
  size_t gone = s->start;
  s->start = 0;
  s->line -= gone;
  s->scan -= gone;
  if (s->has_data) s->data_at -= gone;
  if (s->name_len > 0 && !s->name_copied) s->name_at -= gone;
}

/*
** Out of complete events. Give memory back that one burst needed and the next, small piece does
** not: thousands of streams are parked here at a time. `keep` is for the one that is fed faster
** than it is read, and would grow its buffer anew each time.
*/
static void settle(struct sse *s) {
  buf_clear(&s->text, 0);
  if (!s->name_copied) buf_clear(&s->name, 0);
  size_t rest = s->in.len - s->start;
  if (rest == 0) {
    buf_clear(&s->in, s->keep);
    rebase(s);
    return;
  }
  if (s->in.cap <= s->keep || s->in.cap <= SSE_PART_KEEP || rest > SSE_PART_KEEP) return;
  struct buf small;
  buf_init(&small, s->in.max);
  if (buf_append(&small, s->in.data + s->start, rest) != BUF_OK) return; /* it was only thrift */
  buf_free(&s->in);
  s->in = small;
  rebase(s);
}

enum buf_status sse_feed(struct sse *s, const char *bytes, size_t n) {
  if (s->failed != 0) return s->failed == -1 ? BUF_FULL : BUF_NOMEM;
  if (s->lost != 0) return s->lost == -1 ? BUF_FULL : BUF_NOMEM;
  size_t rest = s->in.len - s->start;
  if (rest > STREAM_BUFFER_MAX && rest - STREAM_BUFFER_MAX > s->event_max) {
    s->lost = -1;
    return BUF_FULL;
  }
  /* Moving the rest down only when as much is dead keeps the cost linear however it is fed. */
  if (s->start > 0 && s->start >= rest) {
    buf_consume(&s->in, s->start);
    rebase(s);
  }
  enum buf_status status = buf_append(&s->in, bytes, n);
  if (status != BUF_OK) s->lost = status == BUF_FULL ? -1 : -2;
  return status;
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* Step over what may stand before a line. False: that cannot be decided yet. */
static bool line_begins(struct sse *s) {
  size_t avail = s->in.len - s->line;
  if (s->skip_lf) {
    if (avail == 0) return false;
    s->skip_lf = false;
    if (s->in.data[s->line] == '\n') {
      if (s->start == s->line) s->start++;
      s->scan = ++s->line;
    }
  }
  if (!s->bom_done) {
    size_t n = avail < 3 ? avail : 3;
    bool same = n > 0 && memcmp(s->in.data, "\xEF\xBB\xBF", n) == 0;
    if (n == 0 || (same && n < 3)) return false;
    s->bom_done = true;
    if (same) s->start = s->line = s->scan = 3;
  }
  return true;
}

static inline bool is_line_end(char c) {
  return c == '\n' || c == '\r';
}

/*
** The first line end in p[i..n), or n. `*high` becomes true when a byte before it is not ASCII.
** One pass finds both, instead of one for LF, one for CR, one for UTF-8.
*/
#if defined(__SSE2__)

static size_t find_end(const char *p, size_t i, size_t n, bool *high) {
  const __m128i lf = _mm_set1_epi8('\n'), cr = _mm_set1_epi8('\r');
  unsigned seen = 0;
  for (; n - i >= 16; i += 16) {
    __m128i w = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
    __m128i ends = _mm_or_si128(_mm_cmpeq_epi8(w, lf), _mm_cmpeq_epi8(w, cr));
    unsigned hit = (unsigned)_mm_movemask_epi8(ends), tops = (unsigned)_mm_movemask_epi8(w);
    if (hit != 0) {
      unsigned at = (unsigned)__builtin_ctz(hit);
      if ((seen | (tops & ((1u << at) - 1))) != 0) *high = true;
      return i + at;
    }
    seen |= tops;
  }
  for (; i < n && !is_line_end(p[i]); i++) seen |= (unsigned char)p[i] & 0x80u;
  if (seen != 0) *high = true;
  return i;
}

#else

static size_t find_end(const char *p, size_t i, size_t n, bool *high) {
  const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
  uint64_t seen = 0;
  for (; n - i >= 8; i += 8) {
    uint64_t w, lf, cr;
    memcpy(&w, p + i, sizeof w);
    lf = w ^ (ones * '\n');
    cr = w ^ (ones * '\r');
    if (((((lf - ones) & ~lf) | ((cr - ones) & ~cr)) & tops) != 0) break;
    seen |= w & tops;
  }
  for (; i < n && !is_line_end(p[i]); i++) seen |= (unsigned char)p[i] & 0x80u;
  if (seen != 0) *high = true;
  return i;
}

#endif

static void next_line(struct sse *s, size_t end) {
  s->line = end + 1;
  if (s->in.data[end] == '\r') {
    if (s->line == s->in.len) {
      s->skip_lf = true;
    } else if (s->in.data[s->line] == '\n') {
      s->line++;
    }
  }
  s->scan = s->line;
  s->line_high = false;
  if (!s->began) s->start = s->line; /* comments between events are no part of one */
}

/* ---- fields ---------------------------------------------------------------------------------- */

static bool store(struct buf *to, const char *v, size_t n) {
  to->len = 0;
  if (utf8_valid_prefix(v, n) == n) return buf_append(to, v, n) == BUF_OK;
  return utf8_repair(v, n, to) == BUF_OK;
}

static bool take_name(struct sse *s, size_t at, size_t n) {
  const char *v = s->in.data + at;
  s->began = true;
  s->name_at = at;
  s->name_len = n;
  /* Joining data moves bytes over what stood between the data lines. */
  s->name_copied = s->has_data || utf8_valid_prefix(v, n) != n;
  if (!s->name_copied) return true;
  if (!store(&s->name, v, n)) return false;
  s->name_len = s->name.len;
  return true;
}

static void take_data(struct sse *s, size_t at, size_t n) {
  s->began = true;
  if (!s->has_data) {
    s->has_data = true;
    s->data_high = s->line_high;
    s->data_at = at;
    s->data_len = n;
    return;
  }
  /* The former value is followed by a line end and this line's "data", so there is room. */
  char *end = s->in.data + s->data_at + s->data_len;
  *end = '\n';
  s->data_high |= s->line_high;
  memmove(end + 1, s->in.data + at, n);
  s->data_len += n + 1;
}

static bool take_id(struct sse *s, const char *v, size_t n) {
  if (memchr(v, '\0', n) != NULL) return true;
  if (n == s->id.len && (n == 0 || memcmp(v, s->id.data, n) == 0)) return true;
  return store(&s->id, v, n);
}

static void take_retry(struct sse *s, const char *v, size_t n) {
  int64_t ms = 0;
  if (n == 0) return;
  for (size_t i = 0; i < n; i++) {
    if (v[i] < '0' || v[i] > '9') return;
    int digit = v[i] - '0';
    ms = ms > (INT64_MAX - digit) / 10 ? INT64_MAX : ms * 10 + digit;
  }
  s->retry_ms = ms;
}

/* One line that is not empty. False: out of memory. */
static bool take_line(struct sse *s, size_t at, size_t end) {
  const char *p = s->in.data + at;
  size_t n = end - at, name = n, value = n;
  if (n >= 5 && memcmp(p, "data:", 5) == 0) { /* nearly every line */
    name = 4;
  } else {
    const char *colon = memchr(p, ':', n);
    if (colon != NULL) name = (size_t)(colon - p);
  }
  if (name < n) value = name + 1 + (name + 1 < n && p[name + 1] == ' ');
  if (name == 4 && memcmp(p, "data", 4) == 0) {
    take_data(s, at + value, n - value);
  } else if (name == 5 && memcmp(p, "event", 5) == 0) {
    return take_name(s, at + value, n - value);
  } else if (name == 2 && memcmp(p, "id", 2) == 0) {
    return take_id(s, p + value, n - value);
  } else if (name == 5 && memcmp(p, "retry", 5) == 0) {
    take_retry(s, p + value, n - value);
  }
  return true; /* a comment (an empty name) and unknown names are ignored */
}

/* ---- events ---------------------------------------------------------------------------------- */

static int fail(struct sse *s, int result) {
  buf_free(&s->in);
  s->start = s->line = s->scan = 0;
  s->failed = result;
  return result;
}

/* The event in progress is complete. 1 event, 0 it carries no data, -2 out of memory. */
static int dispatch(struct sse *s, struct sse_event *out) {
  bool fire = s->has_data;
  if (fire) {
    out->data = s->in.data + s->data_at;
    out->data_len = s->data_len;
    if (s->data_high && utf8_valid_prefix(out->data, out->data_len) != out->data_len) {
      if (!store(&s->text, out->data, out->data_len)) return -2;
      out->data = s->text.data;
      out->data_len = s->text.len;
    }
    out->event = s->name_len == 0 ? "" : s->name_copied ? s->name.data : s->in.data + s->name_at;
    out->event_len = s->name_len;
    out->id = s->id.len == 0 ? "" : s->id.data;
    out->id_len = s->id.len;
  }
  s->began = s->has_data = s->name_copied = false;
  s->name_len = 0;
  return fire;
}

int sse_next(struct sse *s, struct sse_event *out) {
  if (s->failed != 0) return s->failed;
  while (line_begins(s)) {
    size_t end = s->scan = find_end(s->in.data, s->scan, s->in.len, &s->line_high);
    if (end == s->in.len) break;
    if (end == s->line) {
      int result = dispatch(s, out);
      next_line(s, end);
      if (result < 0) return fail(s, result);
      if (result > 0) return result;
      continue;
    }
    if (end - s->start > s->event_max) return fail(s, -1);
    if (!take_line(s, s->line, end)) return fail(s, -2);
    next_line(s, end);
  }
  /* Only the content of a line counts, so that the verdict is the same however the bytes came. */
  if (s->line < s->in.len && s->bom_done && s->in.len - s->start > s->event_max) {
    return fail(s, -1);
  }
  if (s->lost != 0) return fail(s, s->lost);
  settle(s);
  return 0;
}

int sse_finish(struct sse *s, struct sse_event *out) {
  int result = sse_next(s, out);
  if (result != 0) return result;
  if (s->line < s->in.len && !take_line(s, s->line, s->in.len)) return fail(s, -2);
  s->line_high = false;
  result = dispatch(s, out);
  s->start = s->line = s->scan = s->in.len;
  return result < 0 ? fail(s, result) : result;
}
