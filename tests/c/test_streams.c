/*
** Whole streams of providers (tests/fixtures/sse) through base/sse, base/delta and base/memo, as
** runtime/bind/stream.c joins them, in pieces of every size to 100 bytes. Run from the root.
*/
#include <dirent.h>
#include <stdlib.h>

#include "base/delta.h"
#include "base/memo.h"
#include "base/scan.h"
#include "base/sse.h"

#include "check.h"

#define FOLDER "tests/fixtures/sse/"

struct reader {
  struct sse sse;
  struct memo memo;
  struct buf scratch, text;
  int events, plain, recognised;
  bool anthropic, shortcut;
};

static void take_text(struct reader *r, const struct delta *d) {
  r->events++;
  r->plain++;
  CHECK_INT(buf_append(&r->text, d->text, d->text_len), BUF_OK);
}

static bool as_before(struct reader *r) {
  size_t n;
  const char *raw = r->shortcut && r->memo.bytes != NULL ? sse_peek(&r->sse, &n) : NULL;
  struct memo_hit hit;
  if (raw == NULL || !memo_match(&r->memo, raw, n, &hit)) return false;
  struct delta d = {.text = hit.text, .text_len = hit.text_len};
  if (hit.escaped) {
    struct scan scan;
    struct scan_text written;
    scan_init(&scan, hit.text - 1, hit.text_len + 2);
    r->scratch.len = 0;
    if (!scan_string(&scan, &written) || !scan_end(&scan)) return false;
    if (scan_unescape(&written, &r->scratch) != SCAN_OK) return false;
    d.text = r->scratch.data;
    d.text_len = r->scratch.len;
  }
  sse_skip(&r->sse, hit.used);
  r->recognised++;
  take_text(r, &d);
  return true;
}

static void look(struct reader *r, const struct sse_event *ev, const char *raw, size_t used) {
  struct delta d;
  bool plain = r->anthropic ? delta_anthropic(ev->event, ev->event_len, ev->data, ev->data_len, &d,
                                              &r->scratch)
                            : delta_openai(ev->data, ev->data_len, &d, &r->scratch);
  if (!plain) {
    r->events++;
    return;
  }
  take_text(r, &d);
  if (d.usage == NULL && raw != NULL) {
    memo_learn(&r->memo, raw, used, ev->data, ev->data_len, d.text, d.text_len);
  }
}

static bool read_one(struct reader *r) {
  struct sse_event ev;
  size_t n, before = sse_buffered(&r->sse);
  if (as_before(r)) return true;
  const char *raw = sse_peek(&r->sse, &n);
  if (sse_next(&r->sse, &ev) != 1) return false;
  look(r, &ev, raw, before - sse_buffered(&r->sse));
  return true;
}

static void read_stream(struct reader *r, const struct buf *in, size_t piece) {
  struct sse_event ev;
  sse_init(&r->sse, 1 << 20);
  buf_init(&r->scratch, 1 << 20);
  buf_init(&r->text, 1 << 20);
  for (size_t at = 0; at < in->len; at += piece) {
    size_t n = in->len - at < piece ? in->len - at : piece;
    CHECK_INT(sse_feed(&r->sse, in->data + at, n), BUF_OK);
    while (read_one(r)) continue;
  }
  if (sse_finish(&r->sse, &ev) == 1) {
    /* what a client may trust of it: data that is whole */
    struct scan scan;
    scan_init(&scan, ev.data, ev.data_len);
    if (scan_skip(&scan, NULL) && scan_end(&scan)) look(r, &ev, NULL, 0);
  }
}

static bool load(const char *name, const char *suffix, struct buf *to) {
  char path[512], block[4096];
  snprintf(path, sizeof path, FOLDER "%s%s", name, suffix);
  FILE *file = fopen(path, "rb");
  if (file == NULL) return false;
  size_t n;
  while ((n = fread(block, 1, sizeof block, file)) > 0) buf_append(to, block, n);
  fclose(file);
  return true;
}

static void check_stream(const char *name) {
  struct buf in, want;
  int events = 0, plain = 0;
  buf_init(&in, 1 << 20);
  buf_init(&want, 1 << 20);
  check_case(name);
  CHECK(load(name, ".sse", &in));
  CHECK(load(name, ".want", &want));
  buf_append(&want, "", 1);
  CHECK_INT(sscanf(want.data, "events %d plain %d", &events, &plain), 2);
  const char *text = strchr(want.data, '\n') + 1;
  for (size_t piece = 1; piece <= 101; piece++) {
    for (int shortcut = 0; shortcut < 2; shortcut++) {
      struct reader r = {.anthropic = strncmp(name, "anthropic", 9) == 0, .shortcut = shortcut};
      read_stream(&r, &in, piece <= 100 ? piece : in.len);
      CHECK_INT(r.events, events);
      CHECK_INT(r.plain, plain);
      CHECK_BYTES(r.text.data, r.text.len, text, want.len - 1 - (size_t)(text - want.data));
      if (!shortcut) CHECK_INT(r.recognised, 0);
      sse_free(&r.sse);
      memo_free(&r.memo);
      buf_free(&r.scratch);
      buf_free(&r.text);
    }
  }
  buf_free(&in);
  buf_free(&want);
}

static int is_stream(const struct dirent *entry) {
  const char *dot = strrchr(entry->d_name, '.');
  return dot != NULL && strcmp(dot, ".sse") == 0;
}

int main(void) {
  struct dirent **list;
  int n = scandir(FOLDER, &list, is_stream, alphasort);
  if (n <= 0) {
    printf("not ok 1 - %s: no streams; run from the root of the tree\n1..1\n", FOLDER);
    return 1;
  }
  for (int i = 0; i < n; i++) {
    *strrchr(list[i]->d_name, '.') = '\0';
    check_stream(list[i]->d_name); /* the name is printed when the next case begins */
  }
  int status = check_done();
  for (int i = 0; i < n; i++) free(list[i]);
  free(list);
  return status;
}
