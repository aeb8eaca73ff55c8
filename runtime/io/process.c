/* Child processes: see process.h. Owns the pipes, the timers and the reaping. */
#include "io/process.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/limits.h"
#include "io/loop_base.h"

#define GRACE_US 1000000 /* between SIGTERM and SIGKILL */
#define DRAIN_US 1000000 /* how long a pipe that others hold is read after the child's end */
#define EXIT_LOOK_MS 2
#define CHUNK 16384

extern char **environ;

static struct {
  struct list all;
  size_t count;
  struct event *child; /* SIGCHLD, once there has been a process */
  bool at_exit;
} processes = {.all = {&processes.all, &processes.all}};

size_t process_count(void) {
  return processes.count;
}

/* ---- pipes ----------------------------------------------------------------------------------- */

static void shut(struct process_pipe *pipe) {
  if (pipe->event != NULL) event_free(pipe->event);
  if (pipe->fd >= 0) close(pipe->fd);
  pipe->event = NULL;
  pipe->fd = -1;
  pipe->watched = false;
}

static void watch(struct process_pipe *pipe, bool on) {
  if (pipe->fd < 0 || pipe->watched == on) return;
  if (on ? event_add(pipe->event, NULL) == 0 : event_del(pipe->event) == 0) pipe->watched = on;
}

static void wipe(struct buf *b) {
  if (b->data != NULL) explicit_bzero(b->data, b->cap); /* it may have been a token */
  buf_free(b);
}

/* Somebody waits for what it does in its own time, until it is done or let go. */
static void pace(struct process *p, bool on) {
  if (p->paces == on) return;
  p->paces = on;
  loop_hold_pace(on);
}

static void release(struct process *p) {
  pace(p, false);
  loop_timer_disarm(&p->timer);
  shut(&p->in);
  shut(&p->out);
  shut(&p->err);
  wipe(&p->in.buf);
  wipe(&p->out.buf);
  wipe(&p->err.buf);
  free(p);
}

static void tell(struct process *p) {
  if (p->notify != NULL) p->notify(p);
}

/* After anything that may have been the last. */
static void look(struct process *p) {
  if (!p->exited) return;
  if (p->notify == NULL) {
    release(p);
    return;
  }
  if (!p->done && p->out.fd < 0 && p->err.fd < 0) {
    p->done = true;
    pace(p, false);
    shut(&p->in);
    loop_timer_disarm(&p->timer);
  }
  tell(p);
}

static void overflow(struct process *p) {
  /* it may have ended before its last words were read */
  if (p->end == PROCESS_RUNS || p->end == PROCESS_ENDED) p->end = PROCESS_OVERFLOWED;
  p->stopping = true;
  process_signal(p, SIGKILL);
  shut(&p->out);
  shut(&p->err);
  look(p);
}

enum took { TOOK_NOTHING, TOOK_SOME, TOOK_END, TOOK_TOO_MUCH };

/* Of a pipe of which the end is kept, what is before that goes; seldom, so that it costs little. */
static void forget(struct process_pipe *pipe) {
  if (pipe->keep == 0 || pipe->buf.len < 2 * pipe->keep) return;
  buf_consume(&pipe->buf, pipe->buf.len - pipe->keep);
}

static enum took take(struct process *p, struct process_pipe *pipe) {
  char bytes[CHUNK];
  ssize_t n = read(pipe->fd, bytes, sizeof bytes);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return TOOK_NOTHING;
  if (n <= 0) return TOOK_END;
  enum buf_status status = buf_append(&pipe->buf, bytes, (size_t)n);
  explicit_bzero(bytes, (size_t)n);
  if (status != BUF_OK) return TOOK_TOO_MUCH;
  pipe->rest -= (size_t)n < pipe->rest ? (size_t)n : pipe->rest;
  forget(pipe);
  if (p->streams && pipe->keep == 0 && pipe->buf.len >= PROCESS_AHEAD_MAX) watch(pipe, false);
  return TOOK_SOME;
}

static void on_output(struct process *p, struct process_pipe *pipe) {
  bool exited = p->exited;
  switch (take(p, pipe)) {
  case TOOK_NOTHING:
    break;
  case TOOK_SOME:
    tell(p);
    break;
  case TOOK_TOO_MUCH:
    overflow(p);
    break;
  case TOOK_END:
    shut(pipe);
    look(p); /* of a process that has exited it may be the end, and of its memory */
    if (!exited) tell(p);
  }
}

static void on_out(evutil_socket_t fd, short what, void *arg) {
  (void)fd, (void)what;
  struct process *p = arg;
  on_output(p, &p->out);
}

static void on_err(evutil_socket_t fd, short what, void *arg) {
  (void)fd, (void)what;
  struct process *p = arg;
  on_output(p, &p->err);
}

static void on_in(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  struct process *p = arg;
  struct process_pipe *in = &p->in;
  ssize_t n = in->buf.len > 0 ? write(fd, in->buf.data, in->buf.len) : 0;
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0) { /* it does not read any more; what it prints tells the rest */
    wipe(&in->buf);
    shut(in);
  } else {
    buf_consume(&in->buf, (size_t)n);
    if (in->buf.len == 0) watch(in, false);
    if (in->buf.len == 0 && p->finishing) shut(in);
  }
  tell(p);
}

bool process_write(struct process *p, const char *bytes, size_t n) {
  if (p->in.fd < 0 || p->finishing) return false;
  if (buf_append(&p->in.buf, bytes, n) != BUF_OK) return false;
  if (p->in.buf.len > 0) watch(&p->in, true);
  return true;
}

void process_finish(struct process *p) {
  p->finishing = true;
  if (p->in.buf.len == 0) shut(&p->in);
}

void process_taken(struct process *p) {
  if (p->out.buf.len < PROCESS_AHEAD_MAX) watch(&p->out, true);
  if (p->err.buf.len < PROCESS_AHEAD_MAX) watch(&p->err, true);
}

/* ---- the end --------------------------------------------------------------------------------- */

void process_signal(struct process *p, int signo) {
  /* The group's number cannot be another's: its leader is not reaped yet. */
  if (!p->exited) kill(-p->pid, signo);
}

void process_stop(struct process *p) {
  if (p->exited || p->stopping) return;
  if (p->end == PROCESS_RUNS) p->end = PROCESS_STOPPED;
  p->stopping = true;
  process_signal(p, SIGTERM);
  process_signal(p, SIGCONT); /* a stopped one would not hear it */
  if (!loop_timer_arm(&p->timer, loop_refresh_us() + GRACE_US)) process_signal(p, SIGKILL);
}

/* It has exited, and somebody it left behind holds its pipes, or its reader takes its time: what it
** has printed itself is read to the end, what comes behind that is not waited for any more. */
static void settle(struct process *p) {
  if (p->out.rest == 0) shut(&p->out);
  if (p->err.rest == 0) shut(&p->err);
  bool waits = p->out.fd >= 0 || p->err.fd >= 0;
  if (waits && !loop_timer_arm(&p->timer, loop_refresh_us() + DRAIN_US)) {
    shut(&p->out);
    shut(&p->err);
  }
  look(p);
}

static void on_timer(struct loop_timer *timer) {
  struct process *p = list_entry(timer, struct process, timer);
  if (p->exited) {
    settle(p);
  } else if (p->stopping) {
    process_signal(p, SIGKILL);
  } else {
    p->end = PROCESS_TIMED_OUT;
    process_stop(p);
  }
}

/* How much of what is in a pipe the child has printed before its end: all of it, at this moment. */
static void measure(struct process_pipe *pipe) {
  int n = 0;
  if (pipe->fd >= 0 && ioctl(pipe->fd, FIONREAD, &n) == 0 && n > 0) pipe->rest = (size_t)n;
}

static void reap(struct process *p) {
  /* What is left of a group that is being ended goes with its leader, while that still holds the
  ** group's number. */
  if (p->stopping) process_signal(p, SIGKILL);
  if (waitpid(p->pid, &p->status, 0) < 0) p->status = 0;
  p->exited = true;
  list_remove(&p->link);
  processes.count--;
  if (p->end == PROCESS_RUNS) p->end = PROCESS_ENDED;
  shut(&p->in);
  loop_timer_disarm(&p->timer);
  measure(&p->out);
  measure(&p->err);
  bool waits = p->notify != NULL && (p->out.fd >= 0 || p->err.fd >= 0);
  if (waits && !loop_timer_arm(&p->timer, loop_refresh_us() + DRAIN_US)) {
    shut(&p->out);
    shut(&p->err);
  }
  look(p);
}

static bool has_exited(const struct process *p) {
  siginfo_t info;
  memset(&info, 0, sizeof info);
  int result = waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT);
  return result == 0 ? info.si_pid == p->pid : errno == ECHILD;
}

static void on_child(evutil_socket_t signo, short what, void *arg) {
  (void)signo, (void)what, (void)arg;
  struct list *node = processes.all.next;
  while (node != &processes.all) {
    struct process *p = list_entry(node, struct process, link);
    node = node->next;
    if (has_exited(p)) reap(p);
  }
}

void process_let_go(struct process *p) {
  p->notify = NULL;
  pace(p, false);
  if (p->exited) {
    release(p);
    return;
  }
  shut(&p->in);
  shut(&p->out);
  shut(&p->err);
  process_stop(p);
}

void process_close(void) {
  struct list *node;
  list_each(node, &processes.all) process_stop(list_entry(node, struct process, link));
  int64_t until = loop_refresh_us() + 2 * GRACE_US;
  while (processes.count > 0 && loop_refresh_us() < until) loop_poll(GRACE_US / 10);
  if (processes.child != NULL) event_free(processes.child);
  processes.child = NULL;
}

static void pause_ms(long ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&t, NULL);
}

/* exit() was called in the middle of everything (os.exit): there is no loop any more, and no later.
*/
static void on_exit_of_ours(void) {
  struct list *node;
  list_each(node, &processes.all) {
    struct process *p = list_entry(node, struct process, link);
    process_signal(p, SIGTERM);
    process_signal(p, SIGCONT);
  }
  for (int waited_ms = 0; !list_empty(&processes.all); waited_ms += EXIT_LOOK_MS) {
    struct list *next = processes.all.next;
    while ((node = next) != &processes.all) {
      struct process *p = list_entry(node, struct process, link);
      next = node->next;
      bool over = has_exited(p);
      if (!over && waited_ms < GRACE_US / 1000) continue;
      process_signal(p, SIGKILL);
      list_remove(node);
    }
    if (!list_empty(&processes.all)) pause_ms(EXIT_LOOK_MS);
  }
}

/* ---- the beginning --------------------------------------------------------------------------- */

/* Both ends above 2, whatever is closed: dup2 in the child must not overwrite one with the other.
 */
static bool make_pipe(int fds[2]) {
  if (pipe2(fds, O_CLOEXEC) != 0) return false;
  for (int i = 0; i < 2; i++) {
    if (fds[i] > STDERR_FILENO) continue;
    int higher = fcntl(fds[i], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fds[i]);
    fds[i] = higher;
  }
  if (fds[0] >= 0 && fds[1] >= 0) return true;
  for (int i = 0; i < 2; i++)
    if (fds[i] >= 0) close(fds[i]);
  return false;
}

/* A pipe of which the child's end becomes descriptor `target` there. Returns the child's end. */
static int connect_pipe(struct process *p, struct process_pipe *pipe, int target, size_t max,
                        event_callback_fn on_event) {
  int fds[2], ours = target == STDIN_FILENO ? 1 : 0;
  if (!make_pipe(fds)) return -1;
  buf_init(&pipe->buf, max);
  pipe->fd = fds[ours];
  short what = (short)(ours == 1 ? EV_WRITE | EV_PERSIST : EV_READ | EV_PERSIST);
  if (fcntl(pipe->fd, F_SETFL, O_NONBLOCK) == 0)
    pipe->event = event_new(loop_base(), pipe->fd, what, on_event, p);
  if (pipe->event == NULL) {
    close(fds[1 - ours]);
    errno = ENOMEM;
    return -1;
  }
  return fds[1 - ours];
}

/* What descriptor `target` is in the child; theirs[] collects the ends to close here afterwards. */
static bool place(struct process *p, struct process_pipe *pipe, int target, enum process_stdio kind,
                  size_t max, posix_spawn_file_actions_t *actions, int *theirs) {
  static const event_callback_fn on_event[] = {on_in, on_out, on_err};
  int flags = target == STDIN_FILENO ? O_RDONLY : O_WRONLY;
  if (kind == PROCESS_INHERIT) return true;
  if (kind == PROCESS_JOIN)
    return posix_spawn_file_actions_adddup2(actions, STDOUT_FILENO, target) == 0;
  if (kind == PROCESS_NULL)
    return posix_spawn_file_actions_addopen(actions, target, "/dev/null", flags, 0) == 0;
  *theirs = connect_pipe(p, pipe, target, max, on_event[target]);
  return *theirs >= 0 && posix_spawn_file_actions_adddup2(actions, *theirs, target) == 0;
}

static bool set_attributes(posix_spawnattr_t *attributes) {
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE); /* ignored by us, and that would be inherited */
  sigaddset(&defaults, SIGPROF);
  sigaddset(&defaults, SIGUSR1);
  short flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
  return posix_spawnattr_setflags(attributes, flags) == 0 &&
         posix_spawnattr_setpgroup(attributes, 0) == 0 &&
         posix_spawnattr_setsigmask(attributes, &none) == 0 &&
         posix_spawnattr_setsigdefault(attributes, &defaults) == 0;
}

static bool set_folder(posix_spawn_file_actions_t *actions, const char *folder) {
  return folder == NULL || posix_spawn_file_actions_addchdir_np(actions, folder) == 0;
}

/* Files the script has open are not the child's business. */
static bool close_others(posix_spawn_file_actions_t *actions) {
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
  return posix_spawn_file_actions_addclosefrom_np(actions, STDERR_FILENO + 1) == 0;
#else
  (void)actions;
  return true;
#endif
}

/* 0, or an errno and what failed. */
static int spawn(struct process *p, const struct process_spec *s, const char **what) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  int theirs[3] = {-1, -1, -1}, error = ENOMEM;
  *what = "pipe";
  if (posix_spawn_file_actions_init(&actions) != 0) return ENOMEM;
  if (posix_spawnattr_init(&attributes) != 0) {
    posix_spawn_file_actions_destroy(&actions);
    return ENOMEM;
  }
  errno = 0;
  bool ready =
      place(p, &p->in, 0, s->in, SIZE_MAX, &actions, &theirs[0]) &&
      place(p, &p->out, 1, s->out, s->streams ? SIZE_MAX : s->out_max, &actions, &theirs[1]) &&
      place(p, &p->err, 2, s->err, s->streams || s->err_tail ? SIZE_MAX : s->err_max, &actions,
            &theirs[2]) &&
      close_others(&actions) && set_folder(&actions, s->folder) && set_attributes(&attributes);
  if (!ready) error = errno != 0 ? errno : ENOMEM;
  if (ready && s->folder != NULL && access(s->folder, X_OK) != 0) {
    error = errno;
    *what = "folder";
  } else if (ready) {
    char *const *envp = s->envp != NULL ? s->envp : environ;
    error = posix_spawnp(&p->pid, s->argv[0], &actions, &attributes, s->argv, envp);
    *what = "program";
  }
  for (int i = 0; i < 3; i++)
    if (theirs[i] >= 0) close(theirs[i]);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return error;
}

/* From the first child to the end of the program. Not taken down in between: libevent 2.1 calls back
** once for each of several signals, and an event_del among those calls leaves it a pointer into its
** stack frame (ev_pncalls), through which the next event_del writes. */
static bool expect_children(void) {
  if (processes.child != NULL) return true;
  struct event *child = event_new(loop_base(), SIGCHLD, EV_SIGNAL | EV_PERSIST, on_child, NULL);
  if (child == NULL) return false;
  if (event_add(child, NULL) != 0) {
    event_free(child);
    return false;
  }
  processes.child = child;
  if (!processes.at_exit) processes.at_exit = atexit(on_exit_of_ours) == 0;
  return true;
}

struct process *process_start(const struct process_spec *spec, int *error, const char **what) {
  struct process *p = calloc(1, sizeof *p);
  *what = "pipe";
  *error = ENOMEM;
  if (p == NULL) return NULL;
  p->in.fd = p->out.fd = p->err.fd = -1;
  p->streams = spec->streams;
  if (spec->err_tail) p->err.keep = spec->err_max;
  list_init(&p->link);
  loop_timer_init(&p->timer, on_timer);
  bool expecting = expect_children(); /* before the child can end */
  if (expecting) *error = spawn(p, spec, what);
  if (*error != 0) {
    release(p);
    return NULL;
  }
  list_append(&processes.all, &p->link);
  processes.count++;
  pace(p, true);
  watch(&p->out, true);
  watch(&p->err, true);
  if (spec->timeout_us > 0) loop_timer_arm(&p->timer, loop_refresh_us() + spec->timeout_us);
  return p;
}
