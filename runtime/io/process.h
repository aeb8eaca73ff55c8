/*
** Child processes: started without a shell, in a process group of their own, their pipes on the
** loop. Whoever started one is told through `notify`; a process that nobody wants any more is ended
** and reaped all the same. Never calls Lua, never waits.
*/
#ifndef SLUICE_IO_PROCESS_H
#define SLUICE_IO_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/list.h"
#include "io/loop.h"

enum process_stdio {
  PROCESS_PIPE,
  PROCESS_NULL,    /* /dev/null */
  PROCESS_INHERIT, /* ours */
  PROCESS_JOIN     /* stderr only: where its stdout goes */
};

struct process_spec {
  char *const *argv;  /* [0] is looked for in PATH when it has no slash */
  char *const *envp;  /* NULL: our environment */
  const char *folder; /* it starts there; NULL: where we are */
  enum process_stdio in, out, err;
  size_t out_max, err_max; /* bytes; more ends the process, unless it is read as a stream */
  bool err_tail;           /* of stderr the last err_max bytes are kept, the rest is dropped */
  bool streams;            /* what it prints is read only as fast as it is taken */
  int64_t timeout_us;      /* 0: none */
};

enum process_end {
  PROCESS_RUNS,
  PROCESS_ENDED,     /* by itself, or by a signal from somebody else */
  PROCESS_TIMED_OUT, /* by us, because of ... */
  PROCESS_OVERFLOWED,
  PROCESS_STOPPED /* process_stop */
};

struct process_pipe {
  struct buf buf;
  struct event *event;
  size_t keep; /* bytes: only so much of the end is of interest; 0: all of it */
  size_t rest; /* bytes the child had printed when it exited, and that are not read yet */
  int fd;      /* -1: closed, or never a pipe */
  bool watched;
};

struct process {
  struct list link; /* in the list of those not reaped */
  struct loop_timer timer;
  struct process_pipe in, out, err;
  pid_t pid;
  int status; /* as of waitpid, once it has exited */
  enum process_end end;
  bool streams, finishing, stopping, exited;
  bool paces;                       /* it holds virtual time to the pace of real time */
  bool done;                        /* it has exited, and all it printed is here */
  void (*notify)(struct process *); /* NULL: the owner has let go */
  void *owner;
};

/* Start one. NULL with an errno in *error; *what names what failed ("folder", "program", "pipe").
 */
struct process *process_start(const struct process_spec *spec, int *error, const char **what);

/* Queue bytes for its stdin. False: it has closed that, or out of memory. */
bool process_write(struct process *p, const char *bytes, size_t n);
/* Close its stdin when everything queued has been written. */
void process_finish(struct process *p);
/* The owner has taken bytes out of p->out or p->err: read on. */
void process_taken(struct process *p);

/* A signal for the whole group. */
void process_signal(struct process *p, int signo);
/* End it: SIGTERM to the group, SIGKILL a second later. */
void process_stop(struct process *p);
/* The owner goes; what still runs is stopped. `p` is not to be used afterwards. */
void process_let_go(struct process *p);

size_t process_count(void); /* not reaped yet */
/* The program ends: end them all, and wait a bounded time. Runs the loop. */
void process_close(void);

#endif
