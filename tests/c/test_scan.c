/*
** base/scan: the grammar (tables, every truncation, random damage against a byte-at-a-time
** reference), walking, integers, escapes. Every text is put at the end of its own allocation, so
** that reading past it is seen, and also between white space, so that the fast paths are taken.
*/
#include <stdlib.h>

#include "base/limits.h"
#include "base/scan.h"

#include "check.h"
#include "json_reference.h"

static bool is_json_at(const char *s, size_t n) {
  struct scan scan;
  scan_init(&scan, s, n);
  return scan_skip(&scan, NULL) && scan_end(&scan);
}

/* The verdict on `s`, which must not depend on what surrounds it. -1: it does. */
static int is_json(const char *s, size_t n) {
  char *tight = malloc(n > 0 ? n : 1), *padded = malloc(n + 64);
  memset(padded, ' ', n + 64);
  memcpy(padded + 32, s, n);
  memcpy(tight, s, n);
  bool wide = is_json_at(padded, n + 64), exact = is_json_at(tight, n);
  free(tight);
  free(padded);
  return exact == wide ? exact : -1;
}

struct text {
  const char *s;
  size_t n;
};
#define T(literal)                                                                                 \
  { literal, sizeof(literal) - 1 }

/* clang-format off */
static const struct text good[] = {
    T("{}"), T("[]"), T("0"), T("-0"), T("1"), T("-1"), T("10"), T("1.5"), T("-0.0"), T("1e1"),
    T("1E+1"), T("1e-1"), T("0e0"), T("1.25e+10"), T("123456789012345678901234567890"), T("true"),
    T("false"), T("null"), T("\"\""), T("\"a\""), T("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\""),
    T("\"\\ud83d\\ude00\""), T("\"\\ud800\""), T("\"\\u0000\""), T("\"\x7F\""),
    T("\"\xC2\x80\xE4\xBD\xA0\xF0\x9F\x98\x80\""), T(" [ ] "), T("\t{\r\n}\n"), T("[1,2]"),
    T("[1 , 2 ]"), T("[[],{},\"\",0,true,false,null]"), T("{\"a\":1}"), T("{ \"a\" : 1 , \"b\" : 2 }"),
    T("{\"a\":{\"b\":[{\"c\":null}]}}"), T("{\"a\":1,\"a\":2}"), T("{\"\":0}"),
    T("{\"a key that is longer than sixteen bytes\":\"and a value that is much longer than sixteen "
      "bytes, to be sure\"}"),
    T("\"exactly fifteen\""), T("\"exactly sixteen!\""), T("{\"fifteen_bytes_k\":1}"),
    T("{\"sixteen_bytes_ke\":1}"), T("{\"seventeen_bytes_k\":1}"), T("[0 ]"), T("[0\n,1]"), T("[[[]]]"),
};

static const struct text bad[] = {
    T(""), T(" "), T("{"), T("}"), T("["), T("]"), T("{]"), T("[}"), T("[1"), T("[1,"), T("[,1]"),
    T("[1,,2]"), T("[1,]"), T("[1 2]"), T("[1:2]"), T("{,}"), T("{\"a\"}"), T("{\"a\":}"),
    T("{\"a\":1,}"), T("{\"a\":1,,\"b\":2}"), T("{\"a\" 1}"), T("{\"a\",1}"), T("{\"a\":1 \"b\":2}"),
    T("{a:1}"), T("{'a':1}"), T("{1:1}"), T("{null:1}"), T("{\"a\":1}}"), T("[]]"), T("[] []"), T("1 2"),
    T("{\"a\"::1}"), T("{:1}"), T("00"), T("01"), T("-01"), T("-"), T("+1"), T(".5"), T("1."), T("1.e1"),
    T("1e"), T("1e+"), T("1e1.5"), T("0x10"), T("1_000"), T("--1"), T("1-"), T("NaN"), T("Infinity"),
    T("-Infinity"), T("tru"), T("True"), T("truee"), T("nul"), T("nulll"), T("fals"), T("n"), T("t"), T("f"),
    T("\""), T("\"a"), T("a\""), T("\"\\\""), T("\"\\x41\""), T("\"\\u12\""), T("\"\\u123g\""),
    T("\"\\U0041\""), T("\"\\'\""), T("\"\\\n\""), T("\"a\nb\""), T("\"a\tb\""), T("\"a\0b\""),
    T("\"\x1F\""), T("\"\x80\""), T("\"\xC0\x80\""), T("\"\xED\xA0\x80\""), T("\"\xF4\x90\x80\x80\""),
    T("\"\xE4\xBD\""), T("\"\xFF\""), T("'a'"), T("{\"a\":'b'}"), T("[1]//"), T("/*a*/1"), T("#\n1"),
    T("\xEF\xBB\xBF{}"), T("\0"), T("[\0]"), T("{}\0"), T("\v1"), T("\f1"), T("\xA0" "1"),
    T("[\"a\",\n4\n,1,"), T("{\"a\":\"b\",\"c\"}"), T("[\"\\u00A\"]"), T("{\"\xB9\":\"0\",}"), T("[\x01]"),
    T("{\"sixteen_bytes_ke\"1}"), T("{\"sixteen_bytes_ke:1}"), T("[DONE]"), T("undefined"),
};
/* clang-format on */

static void grammar(void) {
  check_case("texts that are JSON");
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    check_that(is_json(good[i].s, good[i].n) == 1, "refused: %s", good[i].s);
    check_that(reference_is_json(good[i].s, good[i].n), "the reference refuses: %s", good[i].s);
  }
  check_case("texts that are not");
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    check_that(is_json(bad[i].s, bad[i].n) == 0, "taken: %s", bad[i].s);
    check_that(!reference_is_json(bad[i].s, bad[i].n), "the reference takes: %s", bad[i].s);
  }
  check_case("no part of an object, an array or a string is JSON");
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    size_t n = good[i].n;
    while (n > 0 && strchr(" \t\r\n", good[i].s[n - 1]) != NULL) n--;
    if (strchr("{[\"", good[i].s[strspn(good[i].s, " \t\r\n")]) == NULL) continue;
    for (size_t part = 0; part < n; part++) {
      check_that(is_json(good[i].s, part) == 0, "taken: %.*s", (int)part, good[i].s);
    }
  }
}

static void depth(void) {
  char s[8 * JSON_DEPTH_MAX];
  check_case("nesting to the limit and not beyond, arrays and objects alike");
  for (int objects = 0; objects < 2; objects++) {
    for (size_t levels = JSON_DEPTH_MAX; levels <= JSON_DEPTH_MAX + 1; levels++) {
      const char *opening = objects ? "{\"\":" : "[", *closing = objects ? "}" : "]";
      s[0] = '\0';
      for (size_t i = 1; i < levels; i++) strcat(s, opening);
      strcat(s, objects ? "{}" : "[]");
      for (size_t i = 1; i < levels; i++) strcat(s, closing);
      CHECK_INT(is_json(s, strlen(s)), levels <= JSON_DEPTH_MAX);
    }
  }
  check_case("a hundred thousand brackets do not exhaust the stack");
  char *many = malloc(100000);
  memset(many, '[', 100000);
  CHECK_INT(is_json(many, 100000), 0);
  free(many);
  check_case("the depth is given back when a value ends");
  char *wide = malloc(3 * 1000 + 2);
  size_t n = 0;
  wide[n++] = '[';
  for (int i = 0; i < 999; i++) {
    memcpy(wide + n, "[],", 3);
    n += 3;
  }
  memcpy(wide + n, "{}]", 3);
  CHECK_INT(is_json(wide, n + 3), 1);
  free(wide);
}

static uint32_t random_state = 2463534242u;

static uint32_t random32(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  random_state ^= random_state << 5;
  return random_state;
}

static void damage(void) {
  static const char pieces[] =
      "{}[],:\"\\/ \n0123456789-+.eEtrufalsn\x01\x7F\x80\xBF\xC3\xA9\xE4\xBD\xA0\xF0\x9F";
  check_case("damaged texts: the same verdict as the reference, 60000 times");
  char s[512];
  int valid = 0;
  for (int round = 0; round < 60000; round++) {
    const struct text *from = &good[random32() % (sizeof good / sizeof *good)];
    const struct text *inside = &good[random32() % (sizeof good / sizeof *good)];
    size_t n = 0;
    n += (size_t)snprintf(s, sizeof s, "{\"k\":%s,\"another key\":[%s , %s]}", from->s, inside->s,
                          from->s);
    for (uint32_t hits = random32() % 3; hits > 0 && n > 1; hits--) {
      size_t at = random32() % n;
      char c = pieces[random32() % (sizeof pieces - 1)];
      switch (random32() % 3) {
      case 0:
        s[at] = c;
        break;
      case 1:
        memmove(s + at, s + at + 1, n - at - 1);
        n--;
        break;
      default:
        if (n + 1 < sizeof s) {
          memmove(s + at + 1, s + at, n - at);
          s[at] = c;
          n++;
        }
      }
    }
    bool want = reference_is_json(s, n);
    int got = is_json(s, n);
    valid += want;
    if (!check_that(got == want, "round %d: %d, the reference says %d: %.*s", round, got, want,
                    (int)n, s))
      break;
  }
  CHECK(valid > 10000 && valid < 50000); /* both verdicts were well tried */
}

/* ---- walking --------------------------------------------------------------------------------- */

static void walking(void) {
  static const char *const texts[] = {
      "{\"id\":\"x1\",\"n\":[1,22,-3],\"deep\":{\"a\":{\"b\":[]}},\"last\":null}",
      "  {  \"id\" :\"x1\",\n\"n\": [ 1 , 22,-3 ] , \"deep\": {\"a\":{\"b\":[ ]}}\t,\"last\" : "
      "null } ",
  };
  for (size_t i = 0; i < 2; i++) {
    struct scan s;
    struct scan_text key, id = {NULL, 0, false}, deep = {NULL, 0, false};
    bool first = true;
    int more, keys = 0, numbers = 0;
    int64_t sum = 0;
    check_case(i == 0 ? "walking compact text" : "walking text with white space");
    scan_init(&s, texts[i], strlen(texts[i]));
    CHECK(!scan_open(&s, '['));
    CHECK(scan_open(&s, '{'));
    while ((more = scan_key(&s, &first, &key)) > 0) {
      keys++;
      if (scan_is(&key, "id")) {
        CHECK(!scan_null(&s)); /* another type is not consumed */
        CHECK(scan_string(&s, &id));
      } else if (scan_is(&key, "n")) {
        bool inner = true;
        int64_t number;
        CHECK(scan_open(&s, '['));
        while (scan_item(&s, &inner) > 0) {
          CHECK(scan_int(&s, &number));
          sum += number;
          numbers++;
        }
      } else if (scan_is(&key, "last")) {
        CHECK(scan_peek(&s) == 'n');
        CHECK(scan_null(&s));
      } else {
        CHECK(scan_skip(&s, &deep));
      }
    }
    CHECK_INT(more, 0);
    CHECK(scan_end(&s));
    CHECK_INT(s.depth, 0);
    CHECK_INT(keys, 4);
    CHECK_INT(numbers, 3);
    CHECK_INT(sum, 20);
    CHECK_TEXT(id.p, id.len, "x1");
    CHECK(deep.len > 0 && deep.p[0] == '{' && deep.p[deep.len - 1] == '}');
  }
  check_case("nothing at all");
  struct scan s;
  scan_init(&s, NULL, 0);
  CHECK_INT(scan_peek(&s), 0);
  CHECK(!scan_open(&s, '{'));
  CHECK(scan_end(&s));
}

static void integers(void) {
  static const struct {
    const char *s;
    bool ok;
    int64_t value;
  } table[] = {
      {"0", true, 0},
      {"-0", true, 0},
      {"7", true, 7},
      {"-7", true, -7},
      {"9223372036854775807", true, INT64_MAX},
      {"9223372036854775808", false, 0},
      {"-9223372036854775808", true, INT64_MIN},
      {"-9223372036854775809", false, 0},
      {"99999999999999999999999", false, 0},
      {"1.0", false, 0},
      {"1e3", false, 0},
      {"01", false, 0},
      {"-", false, 0},
      {"\"1\"", false, 0},
      {"null", false, 0},
      {"", false, 0},
  };
  check_case("integers: exact, in range, written as such");
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    struct scan s;
    int64_t value = 42;
    scan_init(&s, table[i].s, strlen(table[i].s));
    check_that(scan_int(&s, &value) == table[i].ok, "%s", table[i].s);
    if (table[i].ok) CHECK(value == table[i].value && scan_end(&s));
  }
}

/* ---- escapes --------------------------------------------------------------------------------- */

static void escapes(void) {
  static const struct {
    const char *in, *out;
    size_t out_len;
    enum scan_status status;
  } table[] = {
#define OK(in, out) {in, out, sizeof(out) - 1, SCAN_OK}
#define LONE(in)                                                                                   \
  { in, "", 0, SCAN_LONE_SURROGATE }
      OK("\"\"", ""),
      OK("\"plain\"", "plain"),
      OK("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"),
      OK("\"a\\nb\\nc\"", "a\nb\nc"),
      OK("\"\\u0041\\u00e9\\u4f60\\uFFFF\"", "A\xC3\xA9\xE4\xBD\xA0\xEF\xBF\xBF"),
      OK("\"\\u0000\"", "\0"),
      OK("\"\\u007F\\u0080\\u07ff\\u0800\"", "\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80"),
      OK("\"\\ud83d\\uDE00!\"", "\xF0\x9F\x98\x80!"),
      OK("\"\\uD800\\uDC00\\uDBFF\\uDFFF\"", "\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"),
      OK("\"\\uD7FF\\uE000\"", "\xED\x9F\xBF\xEE\x80\x80"),
      OK("\"\\\\u0041\"", "\\u0041"),
      OK("\"\xE4\xBD\xA0\\n\xE5\xA5\xBD\"", "\xE4\xBD\xA0\n\xE5\xA5\xBD"),
      LONE("\"\\ud800\""),
      LONE("\"\\ud83d \""),
      LONE("\"\\ud83d\\n12345678\""),
      LONE("\"\\ud83d\\ud83d\""),
      LONE("\"\\ude00\\ud83d\""),
      LONE("\"\\ud83d\\u0041\""),
      LONE("\"text before \\udfff and after\""),
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    struct scan s;
    struct scan_text text;
    struct buf out;
    check_case(table[i].in);
    buf_init(&out, 1000);
    buf_append_str(&out, "<");
    scan_init(&s, table[i].in, strlen(table[i].in));
    CHECK(scan_string(&s, &text));
    CHECK(text.escaped == (strchr(table[i].in, '\\') != NULL));
    CHECK_INT(scan_unescape(&text, &out), table[i].status);
    CHECK_BYTES(out.data + 1, out.len - 1, table[i].out, table[i].out_len);
    buf_free(&out);
  }
  check_case("no room leaves the buffer as it was");
  struct scan s;
  struct scan_text text;
  struct buf out;
  buf_init(&out, 8);
  buf_append_str(&out, "12345");
  scan_init(&s, "\"a\\nbc\"", 7);
  CHECK(scan_string(&s, &text));
  CHECK_INT(scan_unescape(&text, &out), SCAN_NO_ROOM);
  CHECK_TEXT(out.data, out.len, "12345");
  buf_free(&out);
}

int main(void) {
  grammar();
  depth();
  damage();
  walking();
  integers();
  escapes();
  return check_done();
}
