/*
** base/memo: what is remembered of an event, which later bytes are the same event with another
** text, and above all which are not. Every input lies in memory of exactly its size.
*/
#include <stdlib.h>

#include "base/memo.h"

#include "check.h"

#define HEAD "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"content\":\""
#define TAIL "\"},\"finish_reason\":null}]}\n\n"

static char *copy_of(const char *s, size_t n) {
  char *copy = malloc(n > 0 ? n : 1);
  if (copy == NULL) abort();
  memcpy(copy, s, n);
  return copy;
}

/* Learn from an event: its data is the line behind "data: ", its text begins `before` bytes into
** the event and is `text_len` long. */
static void learn_at(struct memo *m, const char *event, size_t n, size_t data_at, size_t data_len,
                     size_t text_at, size_t text_len) {
  char *raw = copy_of(event, n);
  memo_learn(m, raw, n, raw + data_at, data_len, raw + text_at, text_len);
  free(raw);
}

static void learn(struct memo *m, const char *event, const char *text) {
  const char *data = strstr(event, "data:"), *at = strstr(event, text);
  data += strncmp(data, "data: ", 6) == 0 ? 6 : 5;
  size_t n = strlen(event);
  learn_at(m, event, n, (size_t)(data - event), strcspn(data, "\r\n"), (size_t)(at - event),
           strlen(text));
}

static struct memo known(void) {
  struct memo m = {0};
  learn(&m, HEAD "one" TAIL, "one");
  return m;
}

/* Does it match? The text is compared, and that all of `event` but `rest` bytes was used. */
static bool matches(const struct memo *m, const char *event, size_t n, const char *text,
                    size_t text_len, bool escaped, size_t rest) {
  struct memo_hit hit;
  char *raw = copy_of(event, n);
  bool yes = memo_match(m, raw, n, &hit);
  if (yes) {
    CHECK_BYTES(hit.text, hit.text_len, text, text_len);
    CHECK_INT(hit.used, n - rest);
    CHECK(hit.escaped == escaped);
    CHECK(hit.text > raw && hit.text + hit.text_len < raw + n);
  }
  free(raw);
  return yes;
}

#define YES(m, event, text)                                                                        \
  CHECK(matches(&(m), event, sizeof(event) - 1, text, sizeof(text) - 1, false, 0))
#define ESCAPED(m, event, text)                                                                    \
  CHECK(matches(&(m), event, sizeof(event) - 1, text, sizeof(text) - 1, true, 0))
#define NO(m, event) CHECK(!matches(&(m), event, sizeof(event) - 1, "", 0, false, 0))

static void same_event(void) {
  check_case("the same event with another text");
  struct memo m = known();
  CHECK(m.bytes != NULL);
  YES(m, HEAD "one" TAIL, "one");
  YES(m, HEAD "another, longer one" TAIL, "another, longer one");
  YES(m, HEAD "x" TAIL, "x");
  YES(m, HEAD "\xE4\xB8\x96\xE7\x95\x8C \xF0\x9F\x8E\x88" TAIL,
      "\xE4\xB8\x96\xE7\x95\x8C \xF0\x9F\x8E\x88");
  YES(m, HEAD "}]}" TAIL, "}]}");
  memo_free(&m);
}

static void followed(void) {
  check_case("more bytes behind it are left alone");
  struct memo m = known();
  static const char more[] = HEAD "one" TAIL HEAD "two" TAIL ": comment\n";
  CHECK(matches(&m, more, sizeof more - 1, "one", 3, false,
                sizeof(HEAD "two" TAIL ": comment\n") - 1));
  memo_free(&m);
}

static void escapes(void) {
  check_case("escapes are told of, and an escaped quote does not end the text");
  struct memo m = known();
  ESCAPED(m, HEAD "a\\nb" TAIL, "a\\nb");
  ESCAPED(m, HEAD "\\\"" TAIL, "\\\"");
  ESCAPED(m, HEAD "a\\\\" TAIL, "a\\\\");
  ESCAPED(m, HEAD "\\u4e16" TAIL, "\\u4e16");
  ESCAPED(m, HEAD "\\\"},\\\"finish_reason\\\":null}]}" TAIL,
          "\\\"},\\\"finish_reason\\\":null}]}");
  ESCAPED(m, HEAD "\\x" TAIL, "\\x"); /* whoever unescapes it finds that it cannot be */
  NO(m, HEAD "a\\" TAIL);             /* its quote is escaped: the string goes on */
  memo_free(&m);
}

static void not_the_same(void) {
  check_case("anything else is not it");
  struct memo m = known();
  NO(m, HEAD "" TAIL); /* an empty text is no delta */
  NO(m, HEAD "one"
             "\"},\"finish_reason\":\"stop\"}]}\n\n");
  NO(m, HEAD "one"
             "\"},\"finish_reason\":null}]} \n\n");
  NO(m, HEAD "one"
             "\"},\"finish_reason\":null}]}\r\n\r\n");
  NO(m, HEAD "one"
             "\"},\"finish_reason\":null}]}\n \n");
  NO(m, HEAD "one"
             "\",\"x\":1},\"finish_reason\":null}]}\n\n");
  NO(m, "data: {\"id\":\"d\",\"choices\":[{\"delta\":{\"content\":\"one" TAIL);
  NO(m, "event: x\n" HEAD "one" TAIL);
  NO(m, HEAD "on\ne" TAIL);
  NO(m, HEAD "on\re" TAIL);
  NO(m, HEAD "on\te" TAIL); /* control characters must be escaped in JSON */
  NO(m, HEAD "on\0e" TAIL);
  NO(m, HEAD "on\x1F" TAIL);
  NO(m, HEAD "\xFF" TAIL);
  NO(m, HEAD "\xE4\xB8" TAIL);
  NO(m, HEAD "\xED\xA0\x80" TAIL);
  NO(m, HEAD "\xC0\x80" TAIL);
  NO(m, "");
  NO(m, "data: [DONE]\n\n");
  memo_free(&m);
}

static void cut_short(void) {
  check_case("an event that has not come whole is not it, wherever it is cut");
  struct memo m = known();
  static const char *const events[] = {HEAD "word" TAIL, HEAD "a\\\"b\\\\" TAIL, HEAD "\\" TAIL};
  for (size_t k = 0; k < sizeof events / sizeof events[0]; k++) {
    size_t n = strlen(events[k]);
    for (size_t i = 0; i < n; i++) CHECK(!matches(&m, events[k], i, "", 0, false, 0));
  }
  memo_free(&m);
}

static void nothing_known(void) {
  check_case("nothing remembered matches nothing");
  struct memo m = {0};
  NO(m, HEAD "one" TAIL);
  NO(m, "");
  memo_free(&m);
  memo_free(&m);
  CHECK(m.bytes == NULL);
}

static void forms(void) {
  check_case("names, ids, comments before, and CR LF belong to what is remembered");
  struct memo m = {0};
  learn(&m, "event: content_block_delta\ndata: {\"t\":\"one\"}\n\n", "one");
  YES(m, "event: content_block_delta\ndata: {\"t\":\"two\"}\n\n", "two");
  NO(m, "event: ping\ndata: {\"t\":\"two\"}\n\n");
  NO(m, "data: {\"t\":\"two\"}\n\n");
  learn(&m, "id: 7\r\ndata:{\"t\":\"one\"}\r\n\r\n", "one"); /* the newer one stands */
  YES(m, "id: 7\r\ndata:{\"t\":\"two\"}\r\n\r\n", "two");
  NO(m, "id: 8\r\ndata:{\"t\":\"two\"}\r\n\r\n");
  NO(m, "event: content_block_delta\ndata: {\"t\":\"two\"}\n\n");
  learn(&m, ": ping\ndata: {\"t\":\"one\"}\n\n", "one");
  YES(m, ": ping\ndata: {\"t\":\"two\"}\n\n", "two");
  memo_free(&m);
}

static void not_learned(void) {
  check_case("what cannot be told again is not remembered, and the old is forgotten");
  static const char two_lines[] = "data: {\"t\":\ndata: \"one\"}\n\n";
  static const char named_after[] = "data: {\"t\":\"one\"}\nevent: x\n\n";
  static const char cr[] = "data: {\"t\":\"one\"}\r\r";
  static const char unfinished[] = "data: {\"t\":\"one\"}\n";
  struct {
    const char *event;
    size_t n, data_at, data_len;
  } cases[] = {
      {two_lines, sizeof two_lines - 1, 6, 5},
      {named_after, sizeof named_after - 1, 6, 11},
      {cr, sizeof cr - 1, 6, 11},
      {unfinished, sizeof unfinished - 1, 6, 11},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct memo m = known();
    size_t text_at = (size_t)(strstr(cases[i].event, "one") - cases[i].event);
    learn_at(&m, cases[i].event, cases[i].n, cases[i].data_at, cases[i].data_len, text_at, 3);
    CHECK(m.bytes == NULL);
    NO(m, HEAD "one" TAIL);
    memo_free(&m);
  }
  struct memo m = known();
  char elsewhere[] = "unescaped";
  char *raw = copy_of(HEAD "a\\nb" TAIL, sizeof(HEAD "a\\nb" TAIL) - 1);
  size_t n = sizeof(HEAD "a\\nb" TAIL) - 1;
  memo_learn(&m, raw, n, raw + 6, n - 8, elsewhere, sizeof elsewhere - 1);
  CHECK(m.bytes == NULL); /* the text is no slice of the event */
  memo_learn(&m, raw, n, raw + 6, n - 8, raw + sizeof HEAD, 3);
  CHECK(m.bytes == NULL); /* nor is it all of a string: no quote before it */
  free(raw);
}

static void size(void) {
  check_case("the ceiling on what is kept");
  static char event[2 * MEMO_MAX];
  for (int more = 0; more <= 1; more++) {
    struct memo m = {0};
    static const char head[] = "data: {\"pad\":\"", middle[] = "\",\"t\":\"", tail[] = "\"}\n\n";
    size_t fixed = sizeof head + sizeof middle + sizeof tail - 3;
    size_t pad = MEMO_MAX - fixed + (size_t)more, at = 0;
    memcpy(event, head, sizeof head - 1);
    at += sizeof head - 1;
    memset(event + at, 'p', pad);
    at += pad;
    memcpy(event + at, middle, sizeof middle - 1);
    at += sizeof middle - 1;
    size_t text_at = at;
    memcpy(event + at, "word", 4);
    at += 4;
    memcpy(event + at, tail, sizeof tail - 1);
    at += sizeof tail - 1;
    learn_at(&m, event, at, 6, at - 8, text_at, 4);
    CHECK((m.bytes != NULL) == (more == 0));
    CHECK(matches(&m, event, at, "word", 4, false, 0) == (more == 0));
    memo_free(&m);
  }
}

int main(void) {
  same_event();
  followed();
  escapes();
  not_the_same();
  cut_short();
  nothing_known();
  forms();
  not_learned();
  size();
  return check_done();
}
