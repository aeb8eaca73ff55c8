/* The loop: see loop.h. Owns the event base and the timer heap; never calls Lua. */
#include "io/loop.h"
#include "io/loop_base.h"

#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/timerfd.h>
#endif
#include <time.h>
#include <unistd.h>

static struct {
  struct event_base *base;
  struct event *tick;       /* what ends a wait when the nearest of our timers is due */
  int tick_fd;              /* a timerfd, or -1 where there is none and `tick` is a timer */
  int64_t tick_at_us;       /* when it is set to go off; LOOP_NEVER when it is not pending */
  struct loop_timer **heap; /* heap[1..count] */
  size_t count, cap;
  uint64_t next_order;
  int64_t now_us;
  int64_t virtual_offset_us; /* wall clock minus virtual time at the switch */
  bool is_virtual;
  size_t held; /* what keeps virtual time at the pace of real time */
  uint64_t rng[4];
  void (*prepare)(void);
} loop;

struct event_base *loop_base(void) {
  return loop.base;
}

/* ---- clock ------------------------------------------------------------------------------- */

static int64_t clock_us(clockid_t id) {
  struct timespec ts;
  clock_gettime(id, &ts);
  return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t loop_now_us(void) {
  return loop.now_us;
}

int64_t loop_refresh_us(void) {
  if (!loop.is_virtual) loop.now_us = clock_us(CLOCK_MONOTONIC);
  return loop.now_us;
}

int64_t loop_wall_us(void) {
  if (loop.is_virtual) return loop.virtual_offset_us + loop.now_us;
  return clock_us(CLOCK_REALTIME);
}

void loop_use_virtual_clock(bool on) {
  if (on && !loop.is_virtual) {
    loop.virtual_offset_us = clock_us(CLOCK_REALTIME);
    loop.now_us = 0;
  }
  loop.is_virtual = on;
  loop_refresh_us();
}

/* ---- timers ------------------------------------------------------------------------------ */

static bool earlier(const struct loop_timer *a, const struct loop_timer *b) {
  return a->at_us < b->at_us || (a->at_us == b->at_us && a->order < b->order);
}

static void place(struct loop_timer *t, size_t slot) {
  loop.heap[slot] = t;
  t->slot = slot;
}

static void sift_up(struct loop_timer *t, size_t slot) {
  while (slot > 1 && earlier(t, loop.heap[slot / 2])) {
    place(loop.heap[slot / 2], slot);
    slot /= 2;
  }
  place(t, slot);
}

static void sift_down(struct loop_timer *t, size_t slot) {
  for (;;) {
    size_t child = slot * 2;
    if (child > loop.count) break;
    if (child < loop.count && earlier(loop.heap[child + 1], loop.heap[child])) child++;
    if (!earlier(loop.heap[child], t)) break;
    place(loop.heap[child], slot);
    slot = child;
  }
  place(t, slot);
}

void loop_timer_init(struct loop_timer *t, void (*fire)(struct loop_timer *)) {
  memset(t, 0, sizeof *t);
  t->fire = fire;
}

void loop_timer_disarm(struct loop_timer *t) {
  if (t->slot == 0) return;
  size_t slot = t->slot;
  struct loop_timer *last = loop.heap[loop.count--];
  t->slot = 0;
  if (last == t) return;
  if (slot > 1 && earlier(last, loop.heap[slot / 2]))
    sift_up(last, slot);
  else
    sift_down(last, slot);
}

bool loop_timer_arm(struct loop_timer *t, int64_t at_us) {
  loop_timer_disarm(t);
  if (loop.count + 1 >= loop.cap) {
    size_t cap = loop.cap ? loop.cap * 2 : 64;
    struct loop_timer **heap = realloc(loop.heap, cap * sizeof *heap);
    if (heap == NULL) return false;
    loop.heap = heap;
    loop.cap = cap;
  }
  t->at_us = at_us;
  t->order = loop.next_order++;
  sift_up(t, ++loop.count);
  return true;
}

size_t loop_timer_count(void) {
  return loop.count;
}

static void fire_due(void) {
  /* A timer armed while others fire waits for the next turn, or a zero delay would never end. */
  uint64_t limit = loop.next_order;
  while (loop.count > 0) {
    struct loop_timer *t = loop.heap[1];
    if (t->at_us > loop.now_us || t->order >= limit) break;
    loop_timer_disarm(t);
    t->fire(t);
  }
}

/* ---- waiting ----------------------------------------------------------------------------- */

static void on_tick(evutil_socket_t fd, short what, void *arg) {
  (void)what, (void)arg;
  uint64_t times;
  if (fd >= 0 && read(fd, &times, sizeof times) < 0) return; /* it was set anew meanwhile */
  loop.tick_at_us = LOOP_NEVER;
}

/* libevent's own timers follow a clock that moves every 4 ms, unless it is to make a system call
** for each turn of the loop; a timerfd costs one when the nearest time changes. */
#ifdef __linux__
static struct event *make_tick(void) {
  loop.tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (loop.tick_fd < 0) return NULL;
  struct event *tick = event_new(loop.base, loop.tick_fd, EV_READ | EV_PERSIST, on_tick, NULL);
  if (tick != NULL && event_add(tick, NULL) == 0) return tick;
  if (tick != NULL) event_free(tick);
  return NULL;
}

static void start_tick(int64_t at_us) {
  struct itimerspec at = {
      .it_value = {.tv_sec = (time_t)(at_us / 1000000), .tv_nsec = (long)(at_us % 1000000) * 1000}};
  timerfd_settime(loop.tick_fd, TFD_TIMER_ABSTIME, &at, NULL);
}
#else
static struct event *make_tick(void) {
  loop.tick_fd = -1;
  return evtimer_new(loop.base, on_tick, NULL);
}

static void start_tick(int64_t at_us) {
  int64_t wait = at_us > loop.now_us ? at_us - loop.now_us : 0;
  struct timeval tv = {.tv_sec = (time_t)(wait / 1000000),
                       .tv_usec = (suseconds_t)(wait % 1000000)};
  event_add(loop.tick, &tv);
}
#endif

static void set_tick(int64_t at_us) {
  /* A tick that comes too early costs one idle turn; moving it costs a system call each time. */
  if (loop.tick_at_us <= at_us) return;
  start_tick(at_us);
  loop.tick_at_us = at_us;
}

void loop_on_prepare(void (*hook)(void)) {
  loop.prepare = hook;
}

void loop_prepare(void) {
  if (loop.prepare != NULL) loop.prepare();
}

void loop_hold_pace(bool on) {
  loop.held += on ? 1 : (size_t)-1;
}

/* Virtual time, at the pace of real time. */
static void poll_in_pace(int64_t next, int64_t max_wait_us) {
  int64_t began = clock_us(CLOCK_MONOTONIC);
  int64_t wait = next == LOOP_NEVER ? LOOP_NEVER : next - loop.now_us;
  if (max_wait_us < wait) wait = max_wait_us;
  if (wait > 0 && wait != LOOP_NEVER) set_tick(began + wait);
  int how = wait > 0 ? EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY : EVLOOP_NONBLOCK;
  event_base_loop(loop.base, how);
  loop.now_us += clock_us(CLOCK_MONOTONIC) - began;
  fire_due();
}

void loop_poll(int64_t max_wait_us) {
  int64_t next = loop.count > 0 ? loop.heap[1]->at_us : LOOP_NEVER;
  if (loop.is_virtual && loop.held > 0) {
    poll_in_pace(next, max_wait_us);
    return;
  }
  if (loop.is_virtual) {
    /* Real events first (a test may mix in a real peer); with none, time jumps. */
    event_base_loop(loop.base, EVLOOP_NONBLOCK);
    if (max_wait_us > 0 && loop.count > 0 && loop.heap[1]->at_us > loop.now_us)
      loop.now_us = loop.heap[1]->at_us;
    fire_due();
    return;
  }
  if (max_wait_us <= 0 || next <= loop.now_us) {
    event_base_loop(loop.base, EVLOOP_NONBLOCK);
  } else {
    int64_t until = next;
    if (max_wait_us != LOOP_NEVER && loop.now_us + max_wait_us < until)
      until = loop.now_us + max_wait_us;
    if (until != LOOP_NEVER) set_tick(until);
    event_base_loop(loop.base, EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY);
  }
  loop_refresh_us();
  fire_due();
}

/* ---- random numbers ---------------------------------------------------------------------- */

static uint64_t rotl(uint64_t x, int k) {
  return (x << k) | (x >> (64 - k));
}

void loop_seed(uint64_t seed) {
  for (int i = 0; i < 4; i++) { /* splitmix64 spreads a small seed over the state */
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    loop.rng[i] = z ^ (z >> 31);
  }
}

uint64_t loop_random(void) {
  uint64_t *s = loop.rng;
  uint64_t result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotl(s[3], 45);
  return result;
}

double loop_random_unit(void) {
  return (double)(loop_random() >> 11) * 0x1.0p-53;
}

/* ---- life -------------------------------------------------------------------------------- */

int loop_init(void) {
  struct event_config *config = event_config_new();
  if (config == NULL) return -1;
  /* The change list folds the add-and-remove of a write watcher within one turn into nothing; it
  ** needs descriptors that are never dup()ed, and ours are not. */
  event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
  loop.base = event_base_new_with_config(config);
  event_config_free(config);
  if (loop.base == NULL) return -1;
  loop.tick = make_tick();
  if (loop.tick == NULL) return -1;
  loop.tick_at_us = LOOP_NEVER;
  loop_refresh_us();
  loop_seed((uint64_t)clock_us(CLOCK_REALTIME) ^ (uint64_t)clock_us(CLOCK_MONOTONIC) << 20);
  return 0;
}

const char *loop_version(void) {
  return event_get_version();
}

void loop_close(void) {
  if (loop.tick != NULL) event_free(loop.tick);
  if (loop.tick_fd > 0) close(loop.tick_fd);
  if (loop.base != NULL) event_base_free(loop.base);
  free(loop.heap);
  memset(&loop, 0, sizeof loop);
}
