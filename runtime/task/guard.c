/* Interrupt, processor and memory guards: see guard.h. */
#include "task/guard.h"

#include <lauxlib.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/signal.h"
#include "io/terminal.h"
#include "task/raise.h"
#include "task/task.h"

#define HEADROOM (256u << 10) /* bytes handlers get after the ceiling was hit */
#define ASKED_TICKS 20        /* of processor time a task gets to notice that it was asked to end */
#define RAISED_TICKS 5        /* it gets to unwind, once an error was raised in it */
#define HOPELESS_TICKS 50     /* after which a burst that had to end has not */
#define EXIT_CPU 1            /* as any script that raised */

static struct {
  struct guard_options options;
  size_t used, ceiling;
  bool out_of_memory;
  uint64_t cpu_burst;    /* the burst that was told to stop; 0: none */
  uint64_t raised_burst; /* the burst an error was raised in */

  /* Written by signal handlers. A verdict is on one burst: a hook that fires in a later one,
  ** because the task waited just before it could, finds nothing to do. */
  volatile sig_atomic_t interrupted;  /* the second Ctrl-C */
  volatile sig_atomic_t asked;        /* the first one, and it has not been seen on the loop yet */
  volatile sig_atomic_t ticks;        /* how many ticks in a row saw tick_burst */
  volatile sig_atomic_t asked_ticks;  /* how many of them came after the request, */
  volatile sig_atomic_t raised_ticks; /* after an error was raised, */
  volatile sig_atomic_t doomed_ticks; /* after it was to end */
  uint64_t tick_burst, asked_burst, warn_burst, stop_burst;
  uint64_t told_burst; /* was asked, and did not notice: interrupted, it alone */

  struct { /* the hook that ours took the place of; it is put back */
    lua_Hook hook;
    int mask, count;
  } theirs;
} guard;

/* ---- memory ---------------------------------------------------------------------------------- */

#ifdef SLUICE_FAULTS
static struct {
  size_t left;   /* allocations until one fails; 0: off */
  size_t refuse; /* bytes of the one that failed: Lua collects and asks once more */
  bool fired;
} fault;

bool guard_fail_allocation(size_t nth) {
  bool fired = fault.fired;
  fault.left = nth;
  fault.refuse = 0;
  fault.fired = false;
  return fired;
}

static bool refuses(size_t size) {
  if (fault.refuse != 0) {
    bool again = fault.refuse == size;
    fault.refuse = 0;
    return again;
  }
  if (fault.left == 0 || --fault.left > 0) return false;
  fault.refuse = size;
  fault.fired = true;
  return true;
}
#else
static bool refuses(size_t size) {
  (void)size;
  return false;
}
#endif

void *guard_alloc(void *ud, void *ptr, size_t osize, size_t nsize) {
  (void)ud;
  size_t old = ptr != NULL ? osize : 0; /* for a new block, osize tells its kind, not its size */
  if (nsize == 0) {
    free(ptr);
    guard.used -= old;
    return NULL;
  }
  if (nsize > old) {
    if (guard.ceiling != 0 && guard.used + (nsize - old) > guard.ceiling) return NULL;
    if (refuses(nsize)) return NULL;
  }
  void *block = ptr != NULL ? realloc(ptr, nsize) : malloc(nsize);
  if (block != NULL) guard.used += nsize - old;
  return block;
}

size_t guard_memory_used(void) {
  return guard.used;
}

static void push_memory_error(lua_State *L) {
  size_t max = guard.options.max_memory;
  if (max >= 1u << 20)
    raise_push(L, ERR_MEMORY, NULL,
               "the script's data outgrew the ceiling of %zu MiB (--max-memory)", max >> 20);
  else if (max != 0)
    raise_push(L, ERR_MEMORY, NULL, "the script's data outgrew the ceiling of %zu bytes", max);
  else
    raise_push(L, ERR_MEMORY, NULL, "the system has no more memory to give");
}

void guard_translate_error(lua_State *L, int status) {
  if (status != LUA_ERRMEM) return;
  if (guard.ceiling != 0 && !guard.out_of_memory) {
    guard.ceiling += HEADROOM;
    guard.out_of_memory = true;
  }
  push_memory_error(L);
  lua_remove(L, -2);
}

/* ---- verdicts -------------------------------------------------------------------------------- */

static bool cpu_pending(void) {
  return guard.cpu_burst != 0 && guard.cpu_burst == sched_burst() && task_running() != NULL;
}

static bool interrupt_pending(void) {
  if (guard.interrupted) return true;
  return guard.told_burst != 0 && guard.told_burst == sched_burst() && task_running() != NULL;
}

bool guard_pending(void) {
  return interrupt_pending() || guard.out_of_memory || cpu_pending();
}

static int raise_cpu(lua_State *L) {
  raise_kind(L, ERR_CPU, NULL, "the task ran for more than %lld ms without waiting (--max-burst)",
             (long long)guard.options.max_burst_ms);
}

static int raise_interrupted(lua_State *L) {
  raise_kind(L, ERR_CANCELLED, NULL, "interrupted while it did not wait");
}

void guard_raise_again(lua_State *L) {
  if (interrupt_pending()) {
    if (!raise_is_kind(L, -1, ERR_CANCELLED)) raise_interrupted(L);
  } else if (guard.out_of_memory) {
    if (raise_is_kind(L, -1, ERR_MEMORY)) return;
    push_memory_error(L);
    lua_error(L);
  } else if (cpu_pending() && !raise_is_kind(L, -1, ERR_CPU)) {
    raise_cpu(L);
  }
}

/* ---- the hook -------------------------------------------------------------------------------- */

static void set_hook(lua_State *L);

static void warn(lua_State *L) {
  luaL_traceback(L, L, NULL, 0);
  const char *text =
      lua_pushfstring(L, "a task has held the processor for %d ms; others wait meanwhile\n%s",
                      (int)(guard.ticks * SIGNAL_CPU_TICK_MS), lua_tostring(L, -1));
  guard.options.report(text);
  lua_pop(L, 2);
}

/* Raise in the running burst. pcall lets the error pass by guard_pending; code that runs on all the
** same, such as a loop in a __close metamethod, meets the hook again at the next tick. When some
** have passed, the hook stays, so that nothing but the way out can be run: `load`, say, keeps what
** its reader raises for itself. */
static void raising(lua_State *L, uint64_t burst) {
  if (guard.raised_burst != burst) guard.raised_ticks = 0;
  guard.raised_burst = burst;
  if (guard.raised_ticks >= RAISED_TICKS) set_hook(L);
}

static void on_hook(lua_State *L, lua_Debug *ar) {
  (void)ar;
  uint64_t burst = sched_burst();
  lua_sethook(L, guard.theirs.hook, guard.theirs.mask, guard.theirs.count);
  if (guard.interrupted || guard.told_burst == burst) {
    raising(L, burst);
    raise_interrupted(L);
  }
  if (guard.stop_burst == burst) {
    guard.cpu_burst = burst;
    raising(L, burst);
    raise_cpu(L);
  }
  if (guard.warn_burst == burst) {
    guard.warn_burst = 0;
    warn(L);
  }
}

static void set_hook(lua_State *L) {
  if (L == NULL) return;
  if (lua_gethook(L) != on_hook) {
    guard.theirs.hook = lua_gethook(L);
    guard.theirs.mask = lua_gethookmask(L);
    guard.theirs.count = lua_gethookcount(L);
  }
  lua_sethook(L, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

void guard_interrupt_async(int nth) {
  if (nth < 2) { /* asks politely, on the loop; but does the loop turn at all? */
    guard.asked_burst = sched_burst();
    guard.asked_ticks = 0;
    guard.asked = 1;
    return;
  }
  guard.interrupted = 1;
  set_hook(sched_running_thread());
}

/* No hook fires inside a C function (string.find can take hours), nor in the message handler of an
** error that a hook has raised. */
static void give_up(void) {
  static const char text[] =
      "sluice: cpu: a task that had to end does not come out of a call; the program ends here\n";
  ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
  (void)ignored;
  terminal_restore_async();
  int code = signal_exit_code();
  _exit(code != 0 ? code : EXIT_CPU);
}

static bool doomed(uint64_t burst) {
  return guard.interrupted || guard.told_burst == burst || guard.stop_burst == burst;
}

static void judge(void) {
  int64_t held_ms = (int64_t)guard.ticks * SIGNAL_CPU_TICK_MS;
  int64_t warn_ms = guard.options.warn_burst_ms, max_ms = guard.options.max_burst_ms;
  if (max_ms > 0 && held_ms >= max_ms)
    guard.stop_burst = guard.tick_burst;
  else if (warn_ms > 0 && held_ms >= warn_ms && held_ms < warn_ms + SIGNAL_CPU_TICK_MS)
    guard.warn_burst = guard.tick_burst;
  if (guard.raised_burst == guard.tick_burst) guard.raised_ticks = guard.raised_ticks + 1;
  if (guard.asked && guard.asked_burst == guard.tick_burst) {
    guard.asked_ticks = guard.asked_ticks + 1;
    int64_t patience_ms = guard.options.patience_ms;
    if (patience_ms == 0) patience_ms = ASKED_TICKS * SIGNAL_CPU_TICK_MS;
    if ((int64_t)guard.asked_ticks * SIGNAL_CPU_TICK_MS >= patience_ms)
      guard.told_burst = guard.tick_burst;
  }
  if (!doomed(guard.tick_burst)) return;
  guard.doomed_ticks = guard.doomed_ticks + 1;
  if (guard.doomed_ticks >= HOPELESS_TICKS) give_up();
}

void guard_cpu_tick_async(void) {
  lua_State *L = sched_running_thread();
  if (L == NULL || sched_burst() != guard.tick_burst) {
    guard.tick_burst = sched_burst();
    guard.ticks = guard.doomed_ticks = 0;
  } else {
    guard.ticks = guard.ticks + 1;
    judge();
  }
  if (doomed(guard.tick_burst) || guard.warn_burst == guard.tick_burst) set_hook(L);
}

void guard_forgive_interrupts(void) {
  guard.interrupted = guard.asked = 0;
  guard.asked_burst = guard.told_burst = 0;
}

void guard_init(const struct guard_options *options) {
  guard.options = *options;
  guard.ceiling = options->max_memory != 0 ? guard.used + options->max_memory : 0;
  guard.out_of_memory = false;
  guard.cpu_burst = guard.stop_burst = guard.warn_burst = 0;
}
