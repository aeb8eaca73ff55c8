/* Interrupt, processor and memory guards: see guard.h. */
#include "task/guard.h"

#include <lauxlib.h>
#include <signal.h>
#include <stdlib.h>

#include "io/signal.h"
#include "task/raise.h"
#include "task/task.h"

#define HEADROOM (256u << 10) /* bytes handlers get after the ceiling was hit */

static struct {
  struct guard_options options;
  size_t used, ceiling;
  volatile sig_atomic_t interrupted; /* second Ctrl-C */
  volatile sig_atomic_t warn, stop;  /* verdicts of the tick on the running burst */
  uint64_t tick_burst;               /* the burst the last tick saw */
  volatile sig_atomic_t ticks;       /* how many ticks in a row saw that burst */
  uint64_t warned_burst;
  bool out_of_memory;
} guard;

/* ---- memory ---------------------------------------------------------------------------------- */

void *guard_alloc(void *ud, void *ptr, size_t osize, size_t nsize) {
  (void)ud;
  size_t old = ptr != NULL ? osize : 0; /* for a new block, osize tells its kind, not its size */
  if (nsize == 0) {
    free(ptr);
    guard.used -= old;
    return NULL;
  }
  if (guard.ceiling != 0 && nsize > old && guard.used + (nsize - old) > guard.ceiling) return NULL;
  void *block = realloc(ptr, nsize);
  if (block != NULL) guard.used += nsize - old;
  return block;
}

size_t guard_memory_used(void) {
  return guard.used;
}

void guard_translate_error(lua_State *L, int status) {
  if (status != LUA_ERRMEM || guard.options.max_memory == 0) return;
  if (!guard.out_of_memory) guard.ceiling += HEADROOM;
  guard.out_of_memory = true;
  raise_push(L, ERR_MEMORY, NULL, "the script's data outgrew the ceiling of %zu MiB (--max-memory)",
             guard.options.max_memory >> 20);
  lua_remove(L, -2);
}

/* ---- the hook -------------------------------------------------------------------------------- */

static void on_hook(lua_State *L, lua_Debug *ar) {
  (void)ar;
  if (guard.interrupted) {
    /* The hook stays: a script that catches this error meets it again at its next instruction. */
    raise_kind(L, ERR_CANCELLED, NULL, "interrupted (second Ctrl-C)");
  }
  lua_sethook(L, NULL, 0, 0);
  if (guard.stop) {
    guard.stop = 0;
    raise_kind(L, ERR_CPU, NULL, "the task ran for more than %lld ms without waiting (--max-burst)",
               (long long)guard.options.max_burst_ms);
  }
  if (guard.warn) {
    guard.warn = 0;
    luaL_traceback(L, L, NULL, 0);
    const char *text =
        lua_pushfstring(L, "a task has held the processor for %d ms; others wait meanwhile\n%s",
                        (int)(guard.ticks * SIGNAL_CPU_TICK_MS), lua_tostring(L, -1));
    guard.options.report(text);
    lua_pop(L, 2);
  }
}

static void set_hook(lua_State *L) {
  if (L != NULL)
    lua_sethook(L, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

void guard_interrupt_async(int nth) {
  if (nth < 2) return; /* the first one asks politely, on the loop */
  guard.interrupted = 1;
  set_hook(sched_running_thread());
}

void guard_cpu_tick_async(void) {
  lua_State *L = sched_running_thread();
  if (L == NULL || sched_burst() != guard.tick_burst) {
    guard.tick_burst = sched_burst();
    guard.ticks = 0;
    return;
  }
  guard.ticks = guard.ticks + 1;
  int64_t held_ms = (int64_t)guard.ticks * SIGNAL_CPU_TICK_MS;
  if (guard.options.max_burst_ms > 0 && held_ms >= guard.options.max_burst_ms)
    guard.stop = 1;
  else if (guard.options.warn_burst_ms > 0 && held_ms >= guard.options.warn_burst_ms &&
           guard.warned_burst != guard.tick_burst) {
    guard.warned_burst = guard.tick_burst;
    guard.warn = 1;
  }
  if (guard.stop || guard.warn) set_hook(L);
}

void guard_entering(lua_State *co) {
  if (guard.interrupted) set_hook(co);
}

bool guard_pending(void) {
  return guard.interrupted || guard.out_of_memory;
}

void guard_init(const struct guard_options *options) {
  guard.options = *options;
  guard.ceiling = options->max_memory != 0 ? guard.used + options->max_memory : 0;
}
