/*
** A counting semaphore. A permit that is given back goes to the waiter that stands first, so nobody
** overtakes. Lives in C so that a stream can give its permit back whatever Lua does.
*/
#ifndef SLUICE_TASK_SEMAPHORE_H
#define SLUICE_TASK_SEMAPHORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "task/task.h"

#define SEMAPHORE_TYPE "sluice.semaphore"

struct semaphore {
  struct list waiting;
  int64_t free, size;
};

static inline void semaphore_init(struct semaphore *s, int64_t permits) {
  list_init(&s->waiting);
  s->free = s->size = permits;
}

static inline bool semaphore_take(struct semaphore *s) {
  if (s->free == 0 || !list_empty(&s->waiting)) return false;
  s->free--;
  return true;
}

/* False: more given back than taken. */
static inline bool semaphore_give(struct semaphore *s) {
  if (waitq_wake_one(&s->waiting)) return true; /* it passes on without becoming free */
  if (s->free == s->size) return false;
  s->free++;
  return true;
}

#endif
