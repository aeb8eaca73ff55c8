/*
** task/token: the table of states, and the cases of botocore (test_credentials.py, the refresh
** logic), google-auth (fresh, stale, invalid, failed), client-go (token_source_test.go) and MSAL
** (refresh_in), all on a clock that is a number.
*/
#include "task/token.h"

#include "check.h"

#define S INT64_C(1000000)

static struct token made(int64_t lifetime_us, int64_t interval_us, double random) {
  struct token t;
  token_init(&t);
  token_begin(&t);
  token_settle(&t, 0, lifetime_us, lifetime_us, interval_us, random);
  return t;
}

static void margins(void) {
  static const struct {
    int64_t life, advisory, mandatory, skew;
  } rows[] = {
      {1200 * S, 300 * S, 60 * S, 10 * S},   {1201 * S, 600500000, 60 * S, 10 * S},
      {3600 * S, 900 * S, 60 * S, 10 * S},   {5400 * S, 2700 * S, 60 * S, 10 * S},
      {86400 * S, 3600 * S, 60 * S, 10 * S}, {300 * S, 150 * S, 60 * S, 10 * S},
      {60 * S, 30 * S, 15 * S, 6 * S},       {4 * S, 2 * S, 1 * S, 400000},
      {1 * S, 500000, 250000, 100000},
  };
  check_case("how much before its end a token is due, by lifetime");
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct token_margins m = token_margins(rows[i].life, 0);
    CHECK_INT(m.advisory_us, rows[i].advisory);
    CHECK_INT(m.mandatory_us, rows[i].mandatory);
    CHECK_INT(m.skew_us, rows[i].skew);
  }
  check_case("refresh_in decides (MSAL), but not earlier than half of the life");
  CHECK_INT(token_margins(3600 * S, 2400 * S).advisory_us, 1200 * S);
  CHECK_INT(token_margins(3600 * S, 1800 * S).advisory_us, 1800 * S);
  CHECK_INT(token_margins(3600 * S, 60 * S).advisory_us, 1800 * S);
  CHECK_INT(token_margins(3600 * S, 3600 * S).advisory_us, 900 * S);
  CHECK_INT(token_margins(3600 * S, 9999 * S).advisory_us, 900 * S);
}

static void states(void) {
  struct token t;
  check_case("none yet: wait");
  token_init(&t);
  CHECK_INT(token_state(&t, 0), TOKEN_EXPIRED);
  CHECK_INT(token_step(&t, 0, 0), TOKEN_WAIT);
  CHECK(!token_is_fresh(&t, -5));

  check_case("an hour: fresh, advisory at 15 minutes, mandatory at 60 s, over 10 s before the end");
  t = made(3600 * S, 0, 0);
  CHECK_INT(t.generation, 1);
  CHECK(token_is_fresh(&t, 0));
  CHECK_INT(token_state(&t, 2700 * S - 1), TOKEN_FRESH);
  CHECK_INT(token_state(&t, 2700 * S), TOKEN_ADVISORY);
  CHECK_INT(token_state(&t, 3540 * S - 1), TOKEN_ADVISORY);
  CHECK_INT(token_state(&t, 3540 * S), TOKEN_MANDATORY);
  CHECK_INT(token_state(&t, 3590 * S - 1), TOKEN_MANDATORY);
  CHECK_INT(token_state(&t, 3590 * S), TOKEN_EXPIRED);

  check_case("what to do in each");
  CHECK_INT(token_step(&t, 0, 0), TOKEN_USE);
  CHECK_INT(token_step(&t, 2700 * S, 0), TOKEN_USE_REFRESH);
  CHECK_INT(token_step(&t, 3540 * S, 0), TOKEN_WAIT);
  CHECK_INT(token_step(&t, 3590 * S, 0), TOKEN_WAIT);
  token_begin(&t);
  CHECK_INT(token_step(&t, 2700 * S, 0), TOKEN_USE);
  CHECK_INT(token_step(&t, 3540 * S, 0), TOKEN_WAIT);

  check_case("chance puts the advisory moment off by at most a tenth");
  t = made(3600 * S, 0, 0.999999);
  CHECK(t.advisory_us > 2700 * S + 89 * S && t.advisory_us <= 2790 * S);

  check_case("a token from a shared cache has less left than its life");
  token_init(&t);
  CHECK(token_settle(&t, 100 * S, 3600 * S, 1000 * S, 0, 0));
  CHECK_INT(token_state(&t, 100 * S), TOKEN_FRESH);
  CHECK_INT(token_state(&t, 200 * S), TOKEN_ADVISORY);
  CHECK_INT(token_state(&t, 1090 * S), TOKEN_EXPIRED);

  check_case("endless: fresh for ever, or until its source wants to be asked");
  t = made(TOKEN_ENDLESS, 0, 0.5);
  CHECK_INT(token_step(&t, INT64_MAX - 1, 0), TOKEN_USE);
  t = made(TOKEN_ENDLESS, 300 * S, 0);
  CHECK_INT(token_step(&t, 299 * S, 0), TOKEN_USE);
  CHECK_INT(token_step(&t, 300 * S, 0), TOKEN_USE_REFRESH);
  CHECK_INT(token_state(&t, INT64_MAX - 1), TOKEN_ADVISORY);
  token_begin(&t);
  token_fail(&t, 300 * S, false, 0, 0.99);
  CHECK_INT(token_step(&t, 599 * S, 0), TOKEN_USE);
  CHECK_INT(token_step(&t, 600 * S, 0), TOKEN_USE_REFRESH);

  check_case("somebody wants more than is left, though never more than half of a life");
  t = made(3600 * S, 0, 0);
  CHECK_INT(token_step(&t, 0, 86400 * S), TOKEN_USE);
  CHECK_INT(token_step(&t, 1700 * S, 86400 * S), TOKEN_USE);
  CHECK_INT(token_step(&t, 1801 * S, 86400 * S), TOKEN_WAIT);
  CHECK_INT(token_step(&t, 3200 * S, 300 * S), TOKEN_USE_REFRESH);
  CHECK_INT(token_step(&t, 3301 * S, 300 * S), TOKEN_WAIT);
  t = made(TOKEN_ENDLESS, 0, 0);
  CHECK_INT(token_step(&t, 10 * S, 300 * S), TOKEN_USE);
}

static void failures(void) {
  struct token t;
  check_case("an expired token that comes is a failure (botocore: still expired after refresh)");
  token_init(&t);
  token_begin(&t);
  CHECK(!token_settle(&t, 0, 3600 * S, -2 * S, 0, 0));
  CHECK(!token_settle(&t, 0, 3600 * S, 0, 0, 0));
  CHECK(!token_settle(&t, 0, 3600 * S, 10 * S, 0, 0)); /* ended, with the skew */
  CHECK(!token_settle(&t, 0, 0, 0, 0, 0));
  CHECK_INT(t.generation, 0);
  CHECK(t.in_flight);
  token_fail(&t, 0, true, 0, 0);
  CHECK(!t.in_flight);

  check_case("advisory: a failed refresh is no error, and not tried again for 5 to 10 minutes");
  t = made(86400 * S, 0, 0);
  int64_t at = 82800 * S; /* one hour left */
  CHECK_INT(token_step(&t, at, 0), TOKEN_USE_REFRESH);
  token_begin(&t);
  token_fail(&t, at, false, 0, 0);
  CHECK_INT(token_step(&t, at + 1, 0), TOKEN_USE);
  CHECK_INT(token_step(&t, at + 300 * S - 1, 0), TOKEN_USE);
  CHECK_INT(token_step(&t, at + 300 * S, 0), TOKEN_USE_REFRESH);

  check_case("... nor for more than a quarter of what is left");
  t = made(3600 * S, 0, 0);
  token_begin(&t);
  token_fail(&t, 2700 * S, false, 0, 0.99);
  CHECK_INT(token_step(&t, 2924 * S, 0), TOKEN_USE);
  CHECK_INT(token_step(&t, 2925 * S, 0), TOKEN_USE_REFRESH);

  check_case("mandatory: the first waits in vain; while the pause lasts nobody else does");
  t = made(3600 * S, 0, 0);
  token_begin(&t);
  token_fail(&t, 3550 * S, true, 0, 0.5);
  CHECK_INT(token_step(&t, 3551 * S, 0), TOKEN_USE);
  CHECK_INT(token_step(&t, 3563 * S, 0), TOKEN_WAIT);

  check_case("expired: a passing failure is tried again at once, a lasting one stands 1 to 5 s");
  token_init(&t);
  token_begin(&t);
  token_fail(&t, 100 * S, false, 0, 0.5);
  CHECK_INT(token_step(&t, 100 * S, 0), TOKEN_WAIT);
  token_begin(&t);
  token_fail(&t, 100 * S, true, 0, 0.5);
  CHECK_INT(token_step(&t, 103 * S - 1, 0), TOKEN_FAILED);
  CHECK_INT(token_step(&t, 103 * S, 0), TOKEN_WAIT);

  check_case("the server's Retry-After stands, whatever kind of failure it was");
  token_begin(&t);
  token_fail(&t, 200 * S, false, 30 * S, 0);
  CHECK_INT(token_step(&t, 229 * S, 0), TOKEN_FAILED);
  CHECK_INT(token_step(&t, 230 * S, 0), TOKEN_WAIT);
  t = made(3600 * S, 0, 0);
  token_begin(&t);
  token_fail(&t, 3550 * S, false, 35 * S, 0);
  CHECK_INT(token_step(&t, 3584 * S, 0), TOKEN_USE);

  check_case("a new value clears the failure");
  token_init(&t);
  token_begin(&t);
  token_fail(&t, 0, true, 0, 0.99);
  token_begin(&t);
  CHECK(token_settle(&t, 1 * S, 60 * S, 60 * S, 0, 0));
  CHECK_INT(token_step(&t, 1 * S, 0), TOKEN_USE);
  t = made(3600 * S, 0, 0);
  token_begin(&t);
  token_fail(&t, 3000 * S, true, 0, 0); /* none before 3150 s, ... */
  token_begin(&t);
  CHECK(token_settle(&t, 3001 * S, 100 * S, 100 * S, 0, 0)); /* but this one is due at 3051 s */
  CHECK_INT(token_step(&t, 3052 * S, 0), TOKEN_USE_REFRESH);
  CHECK(token_settle(&t, 3053 * S, TOKEN_ENDLESS, TOKEN_ENDLESS, 0, 0));
}

static void rejections(void) {
  struct token t = made(3600 * S, 0, 0);
  check_case("a refusal ends exactly the generation it names");
  CHECK(token_reject(&t, 1, 100 * S));
  CHECK_INT(token_state(&t, 100 * S), TOKEN_EXPIRED);
  CHECK_INT(token_step(&t, 100 * S, 0), TOKEN_WAIT);
  CHECK(token_reject(&t, 1, 100 * S)); /* ten parallel 401s */
  token_begin(&t);
  CHECK(token_settle(&t, 101 * S, 3600 * S, 3600 * S, 0, 0));
  CHECK_INT(t.generation, 2);

  check_case("a late refusal never drops a newer token");
  CHECK(token_reject(&t, 1, 102 * S));
  CHECK_INT(token_step(&t, 102 * S, 0), TOKEN_USE);
  CHECK_INT(t.generation, 2);

  check_case("the new one refused at once: it is not the token, do not go round in circles");
  CHECK(!token_reject(&t, 2, 103 * S));
  CHECK_INT(token_step(&t, 103 * S, 0), TOKEN_USE);
  CHECK(token_reject(&t, 2, 107 * S)); /* later it may well be */
  CHECK_INT(token_step(&t, 107 * S, 0), TOKEN_WAIT);

  check_case("... for 5 s, and for a quarter of a short life");
  token_begin(&t);
  CHECK(token_settle(&t, 200 * S, 8 * S, 8 * S, 0, 0));
  CHECK(!token_reject(&t, 3, 202 * S - 1));
  CHECK(token_reject(&t, 3, 202 * S));
  token_begin(&t);
  CHECK(token_settle(&t, 300 * S, 3600 * S, 3600 * S, 0, 0));
  CHECK(!token_reject(&t, 4, 305 * S - 1));
  CHECK(token_reject(&t, 4, 305 * S));

  check_case("a refresh that was no answer to a refusal may be refused at once");
  t = made(3600 * S, 0, 0);
  token_begin(&t);
  token_settle(&t, 10 * S, 3600 * S, 3600 * S, 0, 0);
  CHECK(token_reject(&t, 2, 10 * S));

  check_case("refused, and no new one to be had: the failure is the caller's, not the old token");
  t = made(3600 * S, 0, 0);
  token_reject(&t, 1, 5 * S);
  token_begin(&t);
  token_fail(&t, 6 * S, true, 0, 0);
  CHECK_INT(token_step(&t, 6 * S, 0), TOKEN_FAILED);
  CHECK_INT(token_step(&t, 8 * S, 0), TOKEN_WAIT);

  check_case("a static key is not refused, nor is nothing");
  t = made(TOKEN_ENDLESS, 0, 0);
  t.fixed = true;
  CHECK(!token_reject(&t, 1, 0));
  CHECK_INT(token_step(&t, 0, 0), TOKEN_USE);
  token_init(&t);
  CHECK(!token_reject(&t, 0, 0));
}

static void asleep(void) {
  check_case("the machine slept: the token is as much older");
  struct token t = made(3600 * S, 0, 0);
  token_notice(&t, 1 * S, 1000001 * S);
  token_notice(&t, 11 * S, 1000011 * S); /* awake: both clocks run */
  CHECK_INT(token_state(&t, 11 * S), TOKEN_FRESH);
  CHECK_INT(t.expires_us, 3600 * S);
  token_notice(&t, 12 * S, 1000012 * S + 3580 * S);
  CHECK_INT(token_state(&t, 12 * S), TOKEN_EXPIRED);
  CHECK_INT(t.expires_us, 20 * S);

  check_case("it slept before this token came: that is none of its time");
  t = made(3600 * S, 0, 0);
  token_notice(&t, 1 * S, 1000001 * S);
  token_begin(&t);
  CHECK(token_settle(&t, 10 * S, 3600 * S, 3600 * S, 0, 0));
  token_notice(&t, 10 * S, 1000010 * S + 3580 * S);
  CHECK_INT(t.expires_us, 3610 * S);

  check_case("somebody sets the time of day back: nothing happens");
  t = made(3600 * S, 0, 0);
  token_notice(&t, 1 * S, 1000001 * S);
  token_notice(&t, 2 * S, 500000 * S);
  CHECK_INT(token_state(&t, 2 * S), TOKEN_FRESH);
  CHECK_INT(t.expires_us, 3600 * S);

  check_case("endless stays endless");
  t = made(TOKEN_ENDLESS, 0, 0);
  token_notice(&t, 1 * S, 1000 * S);
  token_notice(&t, 2 * S, 9000 * S);
  CHECK_INT(t.expires_us, TOKEN_ENDLESS);
  CHECK_INT(token_step(&t, 3 * S, 0), TOKEN_USE);
}

int main(void) {
  margins();
  states();
  failures();
  rejections();
  asleep();
  return check_done();
}
