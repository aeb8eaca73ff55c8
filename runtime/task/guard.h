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
  int64_t patience_ms;   /* of processor time a task gets to notice a request to end; 0: 2000 */
  size_t max_memory;     /* bytes of Lua heap; 0: no ceiling */
  void (*report)(const char *text); /* where a report goes: one message, may hold newlines */
};

/* May be called again: what was decided under the options before does not count any more. */
void guard_init(const struct guard_options *options);

/* The allocator of the Lua state; counts, and refuses above the ceiling. */
void *guard_alloc(void *ud, void *ptr, size_t osize, size_t nsize);
size_t guard_memory_used(void);

/* Async-signal-safe. The nth request of a person (or a supervisor) to end. */
void guard_interrupt_async(int nth);
void guard_cpu_tick_async(void);
/* Those requests have had their effect. */
void guard_forgive_interrupts(void);

/* True while an interrupt, a cpu or a memory verdict stands: pcall may not swallow it. */
bool guard_pending(void);
/* With a verdict pending: raise its error, unless that is what is on top of the stack. */
void guard_raise_again(lua_State *L);
/* Turn LUA_ERRMEM's string on top of the stack into a `memory` error. */
void guard_translate_error(lua_State *L, int status);

#ifdef SLUICE_FAULTS
/* Let the nth allocation from now on fail, 0: none. Returns whether one has failed since the last
** call. For tests; not in a release. */
bool guard_fail_allocation(size_t nth);
#endif

#endif
