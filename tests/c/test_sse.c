/*
** base/sse: the cases of the web platform tests (eventsource/format-*), of eventsource-parser, and
** our own, as one table. Each is fed whole, split at every offset (both drained between the pieces
** and not), byte by byte and in threes; the events must be the same. Then ceilings, memory, cost.
*/
#include <stdlib.h>

#include "base/limits.h"
#include "base/sse.h"

#include "check.h"

struct row {
  const char *name, *in;
  size_t len;
  const char *events;     /* rendered, see below */
  const char *unfinished; /* what sse_finish adds */
  int retry_ms;
};
#define IN(literal) literal, sizeof(literal) - 1
#define BOM "\xEF\xBB\xBF"
#define FFFD "\xEF\xBF\xBD"
#define X64 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

/* clang-format off */
/* An event is rendered "type|data|id;" with LF as ^, CR as <CR> and NUL as <0>. */
static const struct row rows[] = {
    /* web platform tests */
    {"wpt: event-data", IN("data:msg\ndata:msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\n"
                           "data\n\ndata:end\n\n"), "|msg^msg|;||;|end|;", "", -1},
    {"wpt: format-bom", IN(BOM "data:1\n\n" BOM "data:2\n\ndata:3\n\n"), "|1|;|3|;", "", -1},
    {"wpt: format-bom-2", IN(BOM BOM "data:1\n\ndata:2\n\ndata:3\n\n"), "|2|;|3|;", "", -1},
    {"wpt: format-comments", IN("data:1\r:\0\n:\r\ndata:2\n:" X64 "\rdata:3\n:data:fail\r:" X64
                                "\ndata:4\n\n"), "|1^2^3^4|;", "", -1},
    {"wpt: format-data-before-final-empty-line", IN("retry:1000\ndata:test1\n\nid:test\ndata:test2"),
     "|test1|;", "|test2|test;", 1000},
    {"wpt: format-field-data", IN("data:\n\ndata\ndata\n\ndata:test\n\n"), "||;|^|;|test|;", "", -1},
    {"wpt: format-field-event", IN("event:test\ndata:x\n\ndata:x\n\n"), "test|x|;|x|;", "", -1},
    {"wpt: format-field-event-empty", IN("event: \ndata:data\n\n"), "|data|;", "", -1},
    {"wpt: format-field-id", IN("id:1\ndata:a\n\ndata:b\n\n"), "|a|1;|b|1;", "", -1},
    {"wpt: format-field-id-2", IN("id: 1\ndata:a\n\nid\ndata:b\n\nid:3\ndata:c\n\n"),
     "|a|1;|b|;|c|3;", "", -1},
    {"wpt: format-field-id-3", IN("id:hello\n\ndata:a\n\nid:\n\ndata:b\n\n"), "|a|hello;|b|;", "", -1},
    {"wpt: format-field-id-null", IN("id:1\ndata:a\n\nid:2\0x\ndata:b\n\nid:\0\ndata:c\n\n"),
     "|a|1;|b|1;|c|1;", "", -1},
    {"wpt: format-field-parsing",
     IN("data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n "
        "data:32\ndata:4\n\n"), "|<0>^ 2^1^3^^4|;", "", -1},
    {"wpt: format-field-retry", IN("retry:03000\ndata:x\n\n"), "|x|;", "", 3000},
    {"wpt: format-field-retry-bogus", IN("retry:3000\nretry:1000x\ndata:x\n\n"), "|x|;", "", 3000},
    {"wpt: format-field-retry-empty", IN("retry\ndata:test\n\n"), "|test|;", "", -1},
    {"wpt: format-field-unknown", IN("data:test\n data\ndata\nfoobar:xxx\njustsometext\n"
                                     ":thisisacommentyay\ndata:test\n\n"), "|test^^test|;", "", -1},
    {"wpt: format-leading-space", IN("data:\ttest\rdata: \ndata:test\n\n"), "|\ttest^^test|;", "", -1},
    {"wpt: format-newlines", IN("data:test\r\ndata\ndata:test\r\n\r"), "|test^^test|;", "", -1},
    {"wpt: format-null-character", IN("data:\0\n\n\n\n"), "|<0>|;", "", -1},
    {"wpt: format-utf-8", IN("data:ok\xE2\x80\xA6\n\n"), "|ok\xE2\x80\xA6|;", "", -1},

    /* eventsource-parser and other parsers */
    {"nothing", IN(""), "", "", -1},
    {"only blank lines", IN("\n\r\n\r\r\n\n"), "", "", -1},
    {"only comments", IN(": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"), "", "", -1},
    {"a comment between the lines of an event", IN("event: a\n: ping\ndata: 1\n: ping\ndata: 2\n\n"),
     "a|1^2|;", "", -1},
    {"all line ends are CR", IN("event: a\rdata: 1\rdata: 2\r\rdata: 3\r\r"), "a|1^2|;|3|;", "", -1},
    {"all line ends are CRLF", IN("event: a\r\ndata: 1\r\ndata: 2\r\n\r\ndata: 3\r\n\r\n"),
     "a|1^2|;|3|;", "", -1},
    {"line ends are mixed", IN("data: 1\rdata: 2\ndata: 3\r\n\rdata: 4\n\r\ndata: 5\r\n\n"),
     "|1^2^3|;|4|;|5|;", "", -1},
    {"CR CR LF is two line ends", IN("data: 1\r\r\ndata: 2\n\n"), "|1|;|2|;", "", -1},
    {"LF CR is two line ends", IN("data: 1\n\rdata: 2\n\n"), "|1|;|2|;", "", -1},
    {"one space is stripped, not two, not a tab", IN("data:  a \ndata:\tb\n\n"), "| a ^\tb|;", "", -1},
    {"colons in the value", IN("data: a: b:c\n\n"), "|a: b:c|;", "", -1},
    {"field names are case-sensitive", IN("DATA: 1\nData: 2\ndata: 3\n\n"), "|3|;", "", -1},
    {"a space before the colon makes another field", IN("data : 1\ndata: 2\n\n"), "|2|;", "", -1},
    {"longer names that begin like ours", IN("dataset: 1\nids: 2\nevents: 3\nretry-after: 4\ndata: 5\n\n"),
     "|5|;", "", -1},
    {"shorter names", IN("dat: 1\ni: 2\ndata: 5\n\n"), "|5|;", "", -1},
    {"the type is forgotten with the event", IN("event: a\n\ndata: 1\n\nevent: b\ndata: 2\n\n"),
     "|1|;b|2|;", "", -1},
    {"the last type of an event counts", IN("event: a\nevent: b\ndata: 1\n\n"), "b|1|;", "", -1},
    {"the type behind the data", IN("data: 1\nevent: late\n\n"), "late|1|;", "", -1},
    {"the type between two long pieces of data",
     IN("data: 1\nevent: between\ndata: " X64 X64 "\ndata: 3\n\n"), "between|1^" X64 X64 "^3|;", "", -1},
    {"the id between two pieces of data", IN("data: 1\nid: 7\ndata: " X64 "\n\n"), "|1^" X64 "|7;", "", -1},
    {"an event without data fires nothing but keeps its id", IN("id: 9\nevent: a\n\ndata: 1\n\n"),
     "|1|9;", "", -1},
    {"a BOM within the stream is part of the line", IN("data: 1\n" BOM "data: 2\n\n"), "|1|;", "", -1},
    {"a BOM in the data stays", IN("data: " BOM "1\n\n"), "|" BOM "1|;", "", -1},
    {"a BOM and nothing else", IN(BOM), "", "", -1},
    {"half a BOM is no BOM", IN("\xEF\xBB" "data: 1\n\ndata: 2\n\n"), "|2|;", "", -1},
    {"a BOM before an empty line", IN(BOM "\n" BOM "data: 1\n\ndata: 2\n\n"), "|2|;", "", -1},
    {"retry is the last valid one", IN("retry: 100\nretry: 200\n\nretry: -1\nretry: 1.5\nretry:  3\n\n"),
     "", "", 200},
    {"retry beyond all bounds stops at the largest", IN("retry: 5\nretry: 99999999999999999999999x\n\n"),
     "", "", 5},
    {"emoji and CJK", IN("data: \xF0\x9F\x98\x80 \xE4\xBD\xA0\xE5\xA5\xBD\n\n"),
     "|\xF0\x9F\x98\x80 \xE4\xBD\xA0\xE5\xA5\xBD|;", "", -1},
    {"U+2028 and NEL are no line ends", IN("data: a\xE2\x80\xA8" "b\xC2\x85" "c\n\n"),
     "|a\xE2\x80\xA8" "b\xC2\x85" "c|;", "", -1},

    /* invalid UTF-8 */
    {"invalid bytes in the data", IN("data: a\xFF" "b\xC0\xAF\n\n"), "|a" FFFD "b" FFFD FFFD "|;", "", -1},
    {"a sequence cut by the line end", IN("data: a\xE4\xBD\ndata: \xA0" "b\n\n"),
     "|a" FFFD "^" FFFD "b|;", "", -1},
    {"a surrogate", IN("data: \xED\xA0\x80\n\n"), "|" FFFD FFFD FFFD "|;", "", -1},
    {"invalid type and id", IN("event: \xFFx\nid: \xFEy\ndata: 1\n\n"), FFFD "x|1|" FFFD "y;", "", -1},
    {"an invalid byte where the space may be", IN("data:\xFF 1\n\n"), "|" FFFD " 1|;", "", -1},
    {"an invalid byte makes another field", IN("data\xFF: 1\n\n"), "", "", -1},
    {"bad bytes in a comment do no harm", IN(": \xFF\xFE\ndata: 1\n\n"), "|1|;", "", -1},

    /* the end of the stream */
    {"end: one line end is missing", IN("data: 1\n"), "", "|1|;", -1},
    {"end: both line ends are missing", IN("event: a\nid: 5\ndata: 1"), "", "a|1|5;", -1},
    {"end: within CRLF CRLF", IN("data: 1\r\n\r"), "|1|;", "", -1},
    {"end: no data", IN("event: a\nid: 1\n"), "", "", -1},
    {"end: within a field name", IN("data: 1\n\ndat"), "|1|;", "", -1},
    {"end: a name without a colon", IN("data: 1\n\ndata"), "|1|;", "||;", -1},
    {"end: within a character", IN("data: 1\xE4\xBD"), "", "|1" FFFD "|;", -1},
    {"end: within a comment", IN("data: 1\n: pi"), "", "|1|;", -1},

    /* providers */
    {"openai: [DONE]", IN("data: {\"choices\":[]}\n\ndata: [DONE]\n\n"), "|{\"choices\":[]}|;|[DONE]|;",
     "", -1},
    {"anthropic: a typed event", IN("event: ping\ndata: {\"type\":\"ping\"}\n\n"),
     "ping|{\"type\":\"ping\"}|;", "", -1},
    {"no space behind the colon", IN("event:message_stop\ndata:{\"type\":\"message_stop\"}\n\n"),
     "message_stop|{\"type\":\"message_stop\"}|;", "", -1},
    {"JSON over several data lines", IN("data: {\ndata: \"a\": 1\ndata: }\n\n"), "|{^\"a\": 1^}|;", "", -1},
};
/* clang-format on */

struct text {
  char bytes[4096];
  size_t len;
};

static void put(struct text *t, const char *s, size_t n) {
  for (size_t i = 0; i < n && t->len + 8 < sizeof t->bytes; i++) {
    const char *as = s[i] == '\n' ? "^" : s[i] == '\r' ? "<CR>" : s[i] == '\0' ? "<0>" : NULL;
    if (as == NULL)
      t->bytes[t->len++] = s[i];
    else
      while (*as != '\0') t->bytes[t->len++] = *as++;
  }
}

static void put_event(struct text *t, const struct sse_event *ev) {
  put(t, ev->event, ev->event_len);
  put(t, "|", 1);
  put(t, ev->data, ev->data_len);
  put(t, "|", 1);
  put(t, ev->id, ev->id_len);
  put(t, ";", 1);
}

static void drain(struct sse *s, struct text *t) {
  struct sse_event ev;
  int got;
  while ((got = sse_next(s, &ev)) == 1) put_event(t, &ev);
  if (got != 0) put(t, "<failed>", 8);
}

/* Feed in pieces of `first` bytes, then of `step`; what came, and what the end brings. */
static void run(const struct row *row, size_t first, size_t step, bool draining, const char *how) {
  struct sse s;
  struct text events = {.len = 0}, last = {.len = 0};
  struct sse_event ev;
  size_t at = 0, piece = first;
  sse_init(&s, 4096);
  while (at < row->len) {
    size_t n = row->len - at < piece ? row->len - at : piece;
    char *exact = malloc(n); /* so that reading past the piece is seen */
    memcpy(exact, row->in + at, n);
    check_that(sse_feed(&s, exact, n) == BUF_OK, "%s: feed fails", how);
    free(exact);
    if (draining) drain(&s, &events);
    at += n;
    piece = step;
  }
  drain(&s, &events);
  while (sse_finish(&s, &ev) == 1) put_event(&last, &ev);
  bool same =
      events.len == strlen(row->events) && memcmp(events.bytes, row->events, events.len) == 0;
  check_that(same, "%s (first %zu): events \"%.*s\", want \"%s\"", how, first, (int)events.len,
             events.bytes, row->events);
  same = last.len == strlen(row->unfinished) && memcmp(last.bytes, row->unfinished, last.len) == 0;
  check_that(same, "%s (first %zu): at the end \"%.*s\", want \"%s\"", how, first, (int)last.len,
             last.bytes, row->unfinished);
  check_that(sse_retry_ms(&s) == row->retry_ms, "%s: retry is %d", how, (int)sse_retry_ms(&s));
  check_that(sse_buffered(&s) == 0, "%s: %zu bytes are left", how, sse_buffered(&s));
  sse_free(&s);
}

static void table(void) {
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const struct row *row = &rows[i];
    check_case(row->name);
    run(row, row->len + 1, 1, true, "whole");
    run(row, 1, 1, true, "byte by byte");
    run(row, 1, 1, false, "byte by byte, drained at the end");
    run(row, 3, 3, true, "in threes");
    for (size_t split = 1; split < row->len; split++) {
      run(row, split, row->len, true, "split");
      run(row, split, row->len, false, "split, drained at the end");
    }
  }
}

/* ---- ceilings -------------------------------------------------------------------------------- */

static int feed_and_count(struct sse *s, const char *in, size_t n, size_t step, int *events) {
  struct sse_event ev;
  int got = 0;
  *events = 0;
  for (size_t at = 0; at < n && got >= 0; at += step) {
    if (sse_feed(s, in + at, n - at < step ? n - at : step) != BUF_OK) return -3;
    while ((got = sse_next(s, &ev)) == 1) ++*events;
  }
  return got;
}

static void ceilings(void) {
  static const char in[] =
      "data: 1\n\n: a comment of some length\n\nevent: abcdef\ndata: 0123456789\n\n";
  static const size_t steps[] = {1, 2, 7, sizeof in};
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    struct sse s;
    int events;
    /* the largest event: "event: abcdef\ndata: 0123456789", 30 bytes without its last line end */
    check_case("the ceiling counts all lines of an event, and does not depend on the pieces");
    sse_init(&s, 30);
    CHECK_INT(feed_and_count(&s, in, sizeof in - 1, steps[i], &events), 0);
    CHECK_INT(events, 2);
    sse_free(&s);
    sse_init(&s, 29);
    CHECK_INT(feed_and_count(&s, in, sizeof in - 1, steps[i], &events), -1);
    CHECK_INT(events, 1);
    struct sse_event ev;
    CHECK_INT(sse_next(&s, &ev), -1); /* for good */
    CHECK_INT(sse_finish(&s, &ev), -1);
    CHECK_INT(sse_feed(&s, "data: 2\n\n", 9), BUF_FULL);
    CHECK_INT(sse_buffered(&s), 0);
    CHECK(s.in.data == NULL);
    sse_free(&s);
  }

  check_case("a line that never ends fails as soon as it is too long");
  struct sse s;
  struct sse_event ev;
  sse_init(&s, 100);
  int got = 0, fed = 0;
  while (got == 0 && fed < 1000) {
    CHECK_INT(sse_feed(&s, "x", 1), BUF_OK);
    got = sse_next(&s, &ev);
    fed++;
  }
  CHECK_INT(got, -1);
  CHECK_INT(fed, 101);
  sse_free(&s);

  check_case("comments for ever are no event");
  sse_init(&s, 100);
  for (int i = 0; i < 1000; i++) {
    CHECK_INT(sse_feed(&s, ": keep-alive\n", 13), BUF_OK);
    CHECK_INT(sse_next(&s, &ev), 0);
    CHECK(s.in.cap <= SSE_PART_KEEP);
  }
  sse_free(&s);

  check_case("fed without ever being read, the buffer has a bound");
  static char block[1u << 16];
  memset(block, 'x', sizeof block);
  memcpy(block, "data:", 5);
  memcpy(block + sizeof block - 2, "\n\n", 2);
  sse_init(&s, sizeof block);
  int taken = 0;
  while (sse_feed(&s, block, sizeof block) == BUF_OK && taken < 100) taken++;
  CHECK(taken < 100);
  CHECK((size_t)taken * sizeof block >= STREAM_BUFFER_MAX);
  int seen = 0;
  while ((got = sse_next(&s, &ev)) == 1) seen++;
  CHECK_INT(seen, taken); /* what was taken is handed out, then the loss is told */
  CHECK_INT(got, -1);
  sse_free(&s);
}

/* Each of these buffers refuses, as it does when memory is short; the failure is told and final. */
static void shortage(void) {
  static const char *const in[] = {"event: \xFF\ndata: 1\n\n", "id: 5\ndata: 1\n\n",
                                   "data: \xFF\n\n", "data: \xFF"};
  struct sse_event ev;
  for (size_t i = 0; i < sizeof in / sizeof *in; i++) {
    struct sse s;
    check_case("no memory for a copy");
    sse_init(&s, 1000);
    s.name.max = s.id.max = s.text.max = 0;
    CHECK_INT(sse_feed(&s, in[i], strlen(in[i])), BUF_OK);
    CHECK_INT(sse_finish(&s, &ev), -2);
    CHECK_INT(sse_next(&s, &ev), -2);
    CHECK_INT(sse_feed(&s, "data: 2\n\n", 9), BUF_NOMEM);
    sse_free(&s);
  }
  struct sse s;
  check_case("no memory for what is received: what came before is handed out first");
  sse_init(&s, 1000);
  CHECK_INT(sse_feed(&s, "data: 1\n\n", 9), BUF_OK);
  s.in.max = s.in.cap;
  CHECK(sse_feed(&s, X64, 64) != BUF_OK);
  CHECK(sse_feed(&s, "\n\n", 2) != BUF_OK); /* this would fit, but would follow a gap */
  CHECK_INT(sse_next(&s, &ev), 1);
  CHECK_TEXT(ev.data, ev.data_len, "1");
  CHECK(sse_next(&s, &ev) < 0);
  sse_free(&s);
}

/* ---- memory and cost ------------------------------------------------------------------------- */

static void slices(void) {
  struct sse s;
  struct sse_event ev;
  check_case("one data line is handed out where it was received");
  sse_init(&s, 1000);
  sse_feed(&s, IN("event: a\ndata: one\n\ndata: two\n\n"));
  CHECK_INT(sse_next(&s, &ev), 1);
  CHECK(ev.data > s.in.data && ev.data < s.in.data + s.in.len);
  CHECK(ev.event > s.in.data && ev.event < ev.data);
  const char *first = ev.data;
  CHECK_INT(sse_next(&s, &ev), 1);
  CHECK(ev.data == first + 11); /* nothing was moved between the two */
  sse_free(&s);

  check_case("what is parked is small");
  sse_init(&s, SSE_EVENT_MAX);
  static char large[100000];
  memset(large, 'x', sizeof large);
  memcpy(large, "data: \xFF", 7); /* invalid, so that the repaired copy is held too */
  memcpy(large + sizeof large - 2, "\n\n", 2);
  CHECK_INT(sse_feed(&s, large, sizeof large), BUF_OK);
  CHECK_INT(sse_next(&s, &ev), 1);
  CHECK_INT(ev.data_len, sizeof large - 8 + 2);
  CHECK_INT(sse_next(&s, &ev), 0);
  CHECK(s.in.cap + s.text.cap + s.name.cap + s.id.cap <= SSE_PART_KEEP);
  sse_feed(&s, large, sizeof large);
  sse_feed(&s, "data: begin", 11);
  while (sse_next(&s, &ev) == 1) continue;
  CHECK_INT(sse_buffered(&s), 11);
  CHECK(s.in.cap <= SSE_PART_KEEP);
  sse_feed(&s, "ning\n\n", 6);
  CHECK_INT(sse_next(&s, &ev), 1);
  CHECK_TEXT(ev.data, ev.data_len, "beginning");
  sse_free(&s);

  check_case("buffered counts what is not handed out");
  sse_init(&s, 1000);
  CHECK_INT(sse_buffered(&s), 0);
  sse_feed(&s, IN("data: 1\n\ndata: 2\n\ndata"));
  CHECK_INT(sse_buffered(&s), 22);
  CHECK_INT(sse_next(&s, &ev), 1);
  CHECK_INT(sse_buffered(&s), 13);
  CHECK_INT(sse_next(&s, &ev), 1);
  CHECK_INT(sse_next(&s, &ev), 0);
  CHECK_INT(sse_buffered(&s), 4);
  sse_free(&s);
  CHECK_INT(sse_buffered(&s), 0);
}

/* Each of these takes minutes when the cost grows with the square of the input. */
static void cost(void) {
  enum { SIZE = 4 << 20 };
  char *big = malloc(SIZE);
  struct sse s;
  struct sse_event ev;
  memset(big, 'x', SIZE);

  check_case("4 MiB in one event, byte by byte, read after each");
  sse_init(&s, SSE_EVENT_MAX);
  sse_feed(&s, "data:", 5);
  int got = 0;
  for (size_t i = 0; i < SIZE && got == 0; i++) {
    sse_feed(&s, big + i, 1);
    got = sse_next(&s, &ev);
  }
  CHECK_INT(got, 0);
  sse_feed(&s, "\n\n", 2);
  CHECK_INT(sse_next(&s, &ev), 1);
  CHECK_INT(ev.data_len, SIZE);
  sse_free(&s);

  check_case("a million lines in one event");
  for (size_t i = 0; i + 7 <= SIZE; i += 7) memcpy(big + i, "data:x\n", 7);
  sse_init(&s, SSE_EVENT_MAX);
  size_t n = SIZE - SIZE % 7;
  sse_feed(&s, big, n);
  sse_feed(&s, "\n", 1);
  CHECK_INT(sse_next(&s, &ev), 1);
  CHECK_INT(ev.data_len, n / 7 * 2 - 1);
  sse_free(&s);

  check_case("many small events in one piece, with CR as the only line end");
  for (size_t i = 0; i + 8 <= SIZE; i += 8) memcpy(big + i, "data:x\r\r", 8);
  sse_init(&s, SSE_EVENT_MAX);
  sse_feed(&s, big, SIZE);
  size_t events = 0;
  while (sse_next(&s, &ev) == 1) events++;
  CHECK_INT(events, SIZE / 8);
  sse_free(&s);

  check_case("one event read for each byte fed, with many waiting");
  sse_init(&s, SSE_EVENT_MAX);
  sse_feed(&s, big, SIZE / 2);
  events = 0;
  for (size_t i = 0; i < SIZE / 16; i++) {
    sse_feed(&s, ":", 1);
    events += sse_next(&s, &ev) == 1;
  }
  CHECK_INT(events, SIZE / 16);
  sse_free(&s);
  free(big);
}

int main(void) {
  table();
  ceilings();
  shortage();
  slices();
  cost();
  return check_done();
}
