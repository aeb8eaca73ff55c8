/* Events that differ only in their text: see memo.h. */
#include "base/memo.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

void memo_free(struct memo *m) {
  free(m->bytes);
  memset(m, 0, sizeof *m);
}

static bool ends_event(const char *tail, size_t n) {
  return (n == 2 && memcmp(tail, "\n\n", 2) == 0) || (n == 4 && memcmp(tail, "\r\n\r\n", 4) == 0);
}

void memo_learn(struct memo *m, const char *raw, size_t n, const char *data, size_t data_len,
                const char *text, size_t text_len) {
  memo_free(m);
  const char *end = raw + n, *tail = data + data_len;
  /* Where several data lines were joined in place, more than a blank line follows the data. */
  if (data <= raw || tail > end || !ends_event(tail, (size_t)(end - tail))) return;
  if (text <= data || text + text_len >= tail) return; /* unescaped elsewhere: not a slice */
  /* The quotes belong to what is remembered, so that a match cannot begin inside a string. */
  if (text[-1] != '"' || text[text_len] != '"') return;
  size_t prefix = (size_t)(text - raw), suffix = n - prefix - text_len;
  if (prefix + suffix > MEMO_MAX) return;
  m->bytes = malloc(prefix + suffix);
  if (m->bytes == NULL) return; /* slower, not wrong */
  memcpy(m->bytes, raw, prefix);
  memcpy(m->bytes + prefix, text + text_len, suffix);
  m->prefix = prefix;
  m->suffix = suffix;
}

bool memo_match(const struct memo *m, const char *raw, size_t n, struct memo_hit *hit) {
  if (m->bytes == NULL || n <= m->prefix + m->suffix) return false;
  if (memcmp(raw, m->bytes, m->prefix) != 0) return false;
  const char *text = raw + m->prefix, *last = raw + n - m->suffix, *p = text;
  unsigned char high = 0;
  hit->escaped = false;
  for (; p <= last && *p != '"'; p++) {
    if ((unsigned char)*p < 0x20) return false;
    high |= (unsigned char)*p;
    if (*p != '\\') continue;
    hit->escaped = true;
    p++; /* whatever is escaped does not end the string; \u is judged when it is unescaped */
  }
  if (p > last || p == text || memcmp(p, m->bytes + m->prefix, m->suffix) != 0) return false;
  hit->text = text;
  hit->text_len = (size_t)(p - text);
  hit->used = m->prefix + hit->text_len + m->suffix;
  return high < 0x80 || utf8_valid_prefix(text, hit->text_len) == hit->text_len;
}
