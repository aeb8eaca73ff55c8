/*
** Guards against a script that will not let go: a person's second Ctrl-C, a task that holds the
** processor, a heap that outgrows its ceiling. All three reach a running script through a debug
** hook set from a signal handler (which lua_sethook allows), so they cost nothing until they act.
*/
#ifndef SLUICE_TASK_GUARD_H
#define SLUICE_TASK_GUARD_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guard_options {
  int64_t warn_burst_ms; /* report a task that runs this long without waiting; 0: never */
  int64_t max_burst_ms;  /* raise `cpu` in a task that runs this long; 0: never */
  size_t max_memory;     /* bytes of Lua heap; 0: no ceiling */
  void (*report)(const char *text); /* where a report goes: one message, may hold newlines */
};

void guard_init(const struct guard_options *options);

/* The allocator of the Lua state; counts, and refuses above the ceiling. */
void *guard_alloc(void *ud, void *ptr, size_t osize, size_t nsize);
size_t guard_memory_used(void);

/* Async-signal-safe. */
void guard_interrupt_async(int nth);
void guard_cpu_tick_async(void);

/* Called by the scheduler before a thread runs: passes a pending interrupt on to it. */
void guard_entering(lua_State *co);
/* True while an interrupt, a cpu or a memory verdict stands: pcall may not swallow it. */
bool guard_pending(void);
/* Turn LUA_ERRMEM's string on top of the stack into a `memory` error. */
void guard_translate_error(lua_State *L, int status);

#endif
