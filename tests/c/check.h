/*
** The little a C test needs: named cases, checks that say what differed, TAP on stdout, the plan at
** the end. One program per test file; nothing here knows what is tested.
**
**   check_case("empty input");
**   CHECK(parse("") == NULL);
**   CHECK_INT(count(""), 0);
**   CHECK_BYTES(text, text_len, "", 0);
**   …
**   return check_done();
*/
#ifndef SLUICE_TESTS_CHECK_H
#define SLUICE_TESTS_CHECK_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static struct {
  const char *name;
  int cases, failed_cases, checks, failed;
  char why[4096];
} check;

/* Bytes as a C literal would show them, so that a difference in white space can be seen. */
__attribute__((unused)) static void check_show(char *to, size_t room, const void *bytes, size_t n) {
  const unsigned char *p = bytes;
  size_t at = 0;
  for (size_t i = 0; i < n; i++) {
    if (at + 8 > room) {
      snprintf(to + at, room - at, "...");
      return;
    }
    if (p[i] == '\n')
      at += (size_t)snprintf(to + at, room - at, "\\n");
    else if (p[i] == '"' || p[i] == '\\')
      at += (size_t)snprintf(to + at, room - at, "\\%c", p[i]);
    else if (p[i] < 0x20 || p[i] == 0x7F)
      at += (size_t)snprintf(to + at, room - at, "\\x%02X", p[i]);
    else
      at += (size_t)snprintf(to + at, room - at, "%c", p[i]);
  }
  to[at] = '\0';
}

static void check_end_case(void) {
  if (check.name == NULL) return;
  check.cases++;
  if (check.checks == 0 && check.failed == 0) {
    check.failed = 1;
    snprintf(check.why, sizeof check.why, "the case checks nothing");
  }
  if (check.failed == 0) {
    printf("ok %d - %s\n", check.cases, check.name);
  } else {
    check.failed_cases++;
    printf("not ok %d - %s: %s\n", check.cases, check.name, check.why);
    if (check.failed > 1) printf("# and %d more in this case\n", check.failed - 1);
  }
  fflush(stdout); /* a crash in the next case must not take this line with it */
  check.name = NULL;
}

/* Begins a case, which lasts until the next one begins. The name must live that long. */
static void check_case(const char *name) {
  check_end_case();
  check.name = name;
  check.checks = check.failed = 0;
  check.why[0] = '\0';
}

__attribute__((format(printf, 2, 3), unused)) static bool check_that(bool ok, const char *format,
                                                                     ...) {
  check.checks++;
  if (ok) return true;
  if (check.failed++ == 0) {
    va_list args;
    va_start(args, format);
    vsnprintf(check.why, sizeof check.why, format, args);
    va_end(args);
  }
  return false;
}

__attribute__((unused)) static bool check_bytes(int line, const void *got, size_t got_len,
                                                const void *want, size_t want_len) {
  if (got_len == want_len && (want_len == 0 || memcmp(got, want, want_len) == 0)) {
    return check_that(true, "%s", "");
  }
  char a[1024], b[1024];
  check_show(a, sizeof a, got, got_len);
  check_show(b, sizeof b, want, want_len);
  return check_that(false, "line %d: got \"%s\" (%zu), want \"%s\" (%zu)", line, a, got_len, b,
                    want_len);
}

__attribute__((unused)) static bool check_int(int line, const char *what, intmax_t got,
                                              intmax_t want) {
  return check_that(got == want, "line %d: %s is %" PRIdMAX ", want %" PRIdMAX, line, what, got,
                    want);
}

#define CHECK(condition) check_that((condition), "line %d: %s", __LINE__, #condition)
#define CHECK_INT(got, want) check_int(__LINE__, #got, (intmax_t)(got), (intmax_t)(want))
#define CHECK_BYTES(got, got_len, want, want_len)                                                  \
  check_bytes(__LINE__, (got), (got_len), (want), (want_len))
/* Against a literal, which may contain NUL. */
#define CHECK_TEXT(got, got_len, literal) CHECK_BYTES(got, got_len, literal, sizeof(literal) - 1)

static int check_done(void) {
  check_end_case();
  printf("1..%d\n", check.cases);
  return check.failed_cases > 0 || check.cases == 0;
}

#endif
