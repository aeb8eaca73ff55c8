/*
** The life of one token: when it is fresh, when it should be replaced ahead of its end, when nobody
** may go on without a new one, and what a refusal or a failed refresh changes. Decides; never reads
** a clock, never waits, knows neither the value nor who wants it (bind/token.c does).
**
**   expired    none yet, at its end, or refused    wait for a refresh; its failure is the caller's
**   mandatory  little is left                      wait for a refresh; if it fails, use this one
**   advisory   some is left                        use it now, one refresh in the background
**   fresh                                          use it
*/
#ifndef SLUICE_TASK_TOKEN_H
#define SLUICE_TASK_TOKEN_H

#include <stdbool.h>
#include <stdint.h>

#define TOKEN_ENDLESS INT64_MAX /* a lifetime, or a moment, that never comes */

enum token_state { TOKEN_EXPIRED, TOKEN_MANDATORY, TOKEN_ADVISORY, TOKEN_FRESH };

enum token_step {
  TOKEN_USE,         /* the value there is */
  TOKEN_USE_REFRESH, /* that, and begin a refresh that nobody waits for */
  TOKEN_WAIT,        /* for the refresh under way; begin one if there is none */
  TOKEN_FAILED       /* the last failure would only repeat itself: report it again */
};

struct token {
  uint64_t generation; /* counts values; 0: none yet */
  /* Moments of the clock. A refused token, or none, has all of them in the past. */
  int64_t set_us, advisory_us, mandatory_us, unusable_us, expires_us;
  int64_t lifetime_us;
  int64_t interval_us;     /* asked for by the source (refresh_in), or 0 */
  int64_t retry_us;        /* a refresh ahead of the end has failed: none before this */
  int64_t failed_until_us; /* a failure stands until then */
  int64_t noticed_us;      /* when the two clocks were compared last, */
  int64_t apart_us;        /* and by how much they differed */
  bool fixed;              /* never changes: a static key */
  bool in_flight;          /* a refresh is under way */
  bool rejected;           /* a server has refused this generation */
  bool mended;             /* the generation before this one was refused */
};

/* Given a lifetime: how much before its end a token is due, must be replaced, and counts as
** ended. */
struct token_margins {
  int64_t advisory_us, mandatory_us, skew_us;
};
/* `interval_us`: after which time the source wants to be asked again, or 0. */
struct token_margins token_margins(int64_t lifetime_us, int64_t interval_us);

void token_init(struct token *t);
enum token_state token_state(const struct token *t, int64_t now_us);

/* What somebody who wants a token does now; one with less than `least_us` left (at most half of its
** lifetime) is not good enough for them. */
enum token_step token_step(const struct token *t, int64_t now_us, int64_t least_us);
static inline bool token_is_fresh(const struct token *t, int64_t now_us) {
  return now_us < t->advisory_us;
}

/* A refresh begins; then exactly one of the two below. */
void token_begin(struct token *t);
/* A new value with `left_us` of its `lifetime_us` left. False: it has ended already, which is a
** failure. `random` in [0, 1) spreads the refreshes of many processes. */
bool token_settle(struct token *t, int64_t now_us, int64_t lifetime_us, int64_t left_us,
                  int64_t interval_us, double random);
/* No new value. `lasting`: asking again at once would fail again; `hold_us`: the server named a
** time to wait, or 0. */
void token_fail(struct token *t, int64_t now_us, bool lasting, int64_t hold_us, double random);

/* A server refused `generation`. True: a newer one is there, or can be waited for, so a second try
** makes sense. */
bool token_reject(struct token *t, uint64_t generation, int64_t now_us);

/* The clock above stands still while the machine sleeps; the time of day does not. When that has
** run ahead, the token is older than it seems. Cheap enough to be called often. */
void token_notice(struct token *t, int64_t now_us, int64_t wall_us);
#define TOKEN_NOTICE_EVERY_US 1000000

#endif
