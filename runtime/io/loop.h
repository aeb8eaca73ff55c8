/*
** The one loop of the process: the clock, the timers, the random numbers and the wait for events.
** Time and randomness come from here alone, so that policies can run on a virtual clock and with a
** printed seed. Timers are ours (a binary heap: O(log n), embedded in their owner, no allocation
** per timer); libevent sees one deadline, the nearest.
*/
#ifndef SLUICE_IO_LOOP_H
#define SLUICE_IO_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOOP_NEVER INT64_MAX

struct loop_timer {
  int64_t at_us;
  uint64_t order; /* timers due at the same time fire in the order they were armed */
  size_t slot;    /* place in the heap, 1-based; 0 means not armed */
  void (*fire)(struct loop_timer *);
};

int loop_init(void); /* 0, or -1 when the system refuses */
void loop_close(void);
const char *loop_version(void); /* of libevent */

/* Monotonic time. loop_now_us() is the time of the last poll; loop_refresh_us() asks the clock. */
int64_t loop_now_us(void);
int64_t loop_refresh_us(void);
/* Time of day in microseconds since the epoch; follows the virtual clock when that is on. */
int64_t loop_wall_us(void);

/* On a virtual clock, time stands still until nothing else can run, then jumps to the next timer.
 */
void loop_use_virtual_clock(bool on);
/* While something runs that knows of real time only, such as a child process, a virtual clock keeps
** to that instead of jumping. Each `true` needs its `false`. */
void loop_hold_pace(bool on);

void loop_timer_init(struct loop_timer *t, void (*fire)(struct loop_timer *));
bool loop_timer_arm(struct loop_timer *t, int64_t at_us); /* false: out of memory */
void loop_timer_disarm(struct loop_timer *t);
static inline bool loop_timer_armed(const struct loop_timer *t) {
  return t->slot != 0;
}
size_t loop_timer_count(void);

/* Call `hook` before each wait, outside of any callback (the network starts new transfers there).
 */
void loop_on_prepare(void (*hook)(void));
void loop_prepare(void);

/* Handle what is ready; wait for it at most `max_wait_us` (or until the nearest timer), then fire
** the timers that are due. */
void loop_poll(int64_t max_wait_us);

/* xoshiro256**: seedable, so that a run can be repeated. Not for secrets. */
void loop_seed(uint64_t seed);
uint64_t loop_random(void);
double loop_random_unit(void); /* [0, 1) */

#endif
