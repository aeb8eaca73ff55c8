/* The life of one token: see token.h. Pure: the clock and chance are given. */
#include "task/token.h"

#include <string.h>

#define S 1000000L            /* microseconds */
#define SHORT_LIFE (1200 * S) /* up to here a token is due 5 minutes before its end, */
#define LONG_LIFE (5400 * S)  /* up to here 15, beyond 60 (the AWS SDKs, 2026) */
#define MANDATORY_MAX (60 * S)
#define SKEW_MAX (10 * S) /* a clock that is off, and the time a request takes */
#define BACKOFF_MIN (300 * S)
#define BACKOFF_MAX (600 * S)
#define STANDS_MIN                                                                                 \
  (1 * S) /* how long a lasting failure is not tried again: a thousand tasks that */
#define STANDS_MAX (5 * S) /* ask one after another shall not become a thousand requests */
#define DISTRUST_MAX (5 * S)
#define JUMP_MIN (1 * S) /* less is the two clocks drifting */

static int64_t min64(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static int64_t between(int64_t low, int64_t high, double random) {
  return low + (int64_t)((double)(high - low) * random);
}

struct token_margins token_margins(int64_t lifetime_us, int64_t interval_us) {
  struct token_margins m = {0, 0, 0};
  if (lifetime_us == TOKEN_ENDLESS) return m;
  m.advisory_us = lifetime_us <= SHORT_LIFE ? 300 * S
                  : lifetime_us < LONG_LIFE ? 900 * S
                                            : 3600 * S;
  if (interval_us > 0 && interval_us < lifetime_us) m.advisory_us = lifetime_us - interval_us;
  m.advisory_us = min64(m.advisory_us, lifetime_us / 2);
  m.mandatory_us = min64(MANDATORY_MAX, m.advisory_us / 2);
  m.skew_us = min64(SKEW_MAX, lifetime_us / 10);
  return m;
}

static void end_now(struct token *t) {
  t->advisory_us = t->mandatory_us = t->unusable_us = INT64_MIN;
}

void token_init(struct token *t) {
  memset(t, 0, sizeof *t);
  end_now(t);
}

enum token_state token_state(const struct token *t, int64_t now_us) {
  if (now_us < t->advisory_us) return TOKEN_FRESH;
  if (now_us < t->mandatory_us) return TOKEN_ADVISORY;
  if (now_us < t->unusable_us) return TOKEN_MANDATORY;
  return TOKEN_EXPIRED;
}

/* Is too little left for somebody who asks for `least_us`? */
static bool too_short(const struct token *t, int64_t now_us, int64_t least_us) {
  if (least_us <= 0 || t->lifetime_us == TOKEN_ENDLESS) return false;
  return t->expires_us - now_us < min64(least_us, t->lifetime_us / 2);
}

enum token_step token_step(const struct token *t, int64_t now_us, int64_t least_us) {
  enum token_state state = token_state(t, now_us);
  if (state == TOKEN_EXPIRED) return now_us < t->failed_until_us ? TOKEN_FAILED : TOKEN_WAIT;
  bool backing_off = now_us < t->retry_us;
  if (too_short(t, now_us, least_us)) return backing_off ? TOKEN_USE : TOKEN_WAIT;
  if (state == TOKEN_FRESH || backing_off) return TOKEN_USE;
  if (state == TOKEN_MANDATORY) return TOKEN_WAIT;
  return t->in_flight ? TOKEN_USE : TOKEN_USE_REFRESH;
}

void token_begin(struct token *t) {
  t->in_flight = true;
}

static int64_t plus(int64_t at_us, int64_t span_us) {
  return span_us >= TOKEN_ENDLESS - at_us ? TOKEN_ENDLESS : at_us + span_us;
}

bool token_settle(struct token *t, int64_t now_us, int64_t lifetime_us, int64_t left_us,
                  int64_t interval_us, double random) {
  struct token_margins m = token_margins(lifetime_us, interval_us);
  if (left_us <= m.skew_us && lifetime_us != TOKEN_ENDLESS) return false;
  t->in_flight = false;
  t->mended = t->rejected;
  t->rejected = false;
  t->generation++;
  t->set_us = now_us;
  t->lifetime_us = lifetime_us;
  t->interval_us = interval_us;
  t->retry_us = t->failed_until_us = 0;
  t->noticed_us = 0;
  if (lifetime_us == TOKEN_ENDLESS) {
    t->expires_us = t->unusable_us = t->mandatory_us = t->advisory_us = TOKEN_ENDLESS;
    if (interval_us > 0)
      t->advisory_us = plus(now_us, between(interval_us, interval_us / 10 * 11, random));
    return true;
  }
  t->expires_us = plus(now_us, left_us);
  t->unusable_us = t->expires_us - m.skew_us;
  t->mandatory_us = t->expires_us - m.mandatory_us;
  t->advisory_us = t->expires_us - between(m.advisory_us / 10 * 9, m.advisory_us, 1 - random);
  return true;
}

void token_fail(struct token *t, int64_t now_us, bool lasting, int64_t hold_us, double random) {
  t->in_flight = false;
  if (token_state(t, now_us) != TOKEN_EXPIRED) {
    int64_t pause_us = between(BACKOFF_MIN, BACKOFF_MAX, random);
    if (t->lifetime_us != TOKEN_ENDLESS)
      pause_us = min64(pause_us, (t->expires_us - now_us) / 4);
    else if (t->interval_us > 0)
      pause_us = min64(pause_us, t->interval_us);
    t->retry_us = plus(now_us, pause_us > hold_us ? pause_us : hold_us);
  }
  int64_t stands_us = lasting ? between(STANDS_MIN, STANDS_MAX, random) : 0;
  t->failed_until_us = plus(now_us, stands_us > hold_us ? stands_us : hold_us);
}

bool token_reject(struct token *t, uint64_t generation, int64_t now_us) {
  if (t->fixed || t->generation == 0) return false;
  if (generation != t->generation || t->rejected) return true;
  /* The one before was refused too, a moment ago: it is not the token that the server minds. */
  int64_t distrust_us = min64(DISTRUST_MAX, t->lifetime_us / 4);
  if (t->mended && now_us - t->set_us < distrust_us) return false;
  t->rejected = true;
  end_now(t);
  return true;
}

static void shift(int64_t *at_us, int64_t by_us) {
  if (*at_us != TOKEN_ENDLESS && *at_us != INT64_MIN) *at_us -= by_us;
}

void token_notice(struct token *t, int64_t now_us, int64_t wall_us) {
  int64_t apart_us = wall_us - now_us, jump_us = apart_us - t->apart_us;
  if (t->noticed_us != 0 && jump_us > JUMP_MIN) {
    shift(&t->advisory_us, jump_us);
    shift(&t->mandatory_us, jump_us);
    shift(&t->unusable_us, jump_us);
    shift(&t->expires_us, jump_us);
  }
  t->noticed_us = now_us;
  t->apart_us = apart_us;
}
