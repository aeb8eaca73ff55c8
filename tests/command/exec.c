/*
** Test tool: runs one program under supervision and tells exactly how it ended. It owns the
** program's standard streams, its terminal if it gets one, its deadline, and every process the
** program leaves behind. It never interprets output beyond looking for the texts it waits for.
**
**   exec [option…] [--] PROGRAM [ARG…]        or   exec @FILE   (the same words, NUL-separated)
**
**   --stdin FILE              default: empty; a pipe when a step sends something
**   --stdout FILE, --stderr FILE, --merge     default: passed on; --merge sends both to stdout
**   --env NAME=VALUE, --unset NAME, --clear-env, --cwd DIR
**   --timeout S               then the whole process group is killed
**   --timeout-signal SIG      sent first, --grace S (2) before the kill
**   --pty in,out,err          which of the three are a terminal; --winsize COLSxROWS (80x24)
**   --result FILE             code= signal= timeout= wall_us= user_us= sys_us= maxrss_kib=
**                             orphans= truncated= unmet= error=
**   --output-max BYTES        kept of each stream, 64 MiB; the rest is read and dropped
**   --announce                print "pid N" on our stdout first
**
** Steps, done in the order given, each as soon as the one before it is done:
**   --expect TEXT, --expect-stdout TEXT, --expect-stderr TEXT    wait until TEXT appears, each
**                             search starting behind what the last one found
**   --signal SIG              to the program alone; --signal SIG@TEXT is --expect TEXT first
**   --send TEXT               to its stdin or terminal (Ctrl-C on a terminal is the byte 3)
**   --eof                     close its stdin; on a terminal, Ctrl-D
**   --resize COLSxROWS        the terminal's; tells the program (SIGWINCH)
**   --close-stdout            stop reading, as `| head` does
**
** Exit code: the program's; 128 + the signal; 124 timed out; 125 our failure, or a step whose text
** never came; 127 not started. TERM, INT or HUP to us ends the program the same way: TERM, grace,
** KILL. Nothing polls: every wait is for output, a child or a deadline.
*/
#include "exec.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#define EXPECT_KEEP (16u << 20) /* bytes of unmatched output searched by a step */
#define ORPHAN_GRACE_US 1000000 /* a child of the program may outlive it this long */

struct stream {
  int fd;          /* where the program's bytes come from; -1 when at its end */
  int sink;        /* where they go; -1 nowhere */
  unsigned where;  /* which steps search it: a set of enum where; 0 none */
  char *seen;      /* not yet matched by a step */
  size_t len, cap; /* of seen */
  size_t scanned;  /* of seen, without a match for the present step */
  uint64_t kept, dropped;
};

static struct {
  pid_t pid;
  struct stream out, err;
  int in;      /* the program's stdin or terminal; -1 none */
  int master;  /* the terminal; -1 none */
  char *queue; /* waiting to be written to `in` */
  size_t queued;
  bool close_in; /* once the queue is empty */
  int step;      /* the next one */
  bool exited, timed_out, stopping;
  int status;
  struct rusage usage;
  int64_t started_us, ended_us, deadline_us, kill_us; /* 0: none */
  int orphans;
} run = {.in = -1, .master = -1, .out = {.fd = -1, .sink = -1}, .err = {.fd = -1, .sink = -1}};

static int wake_pipe[2];
static volatile sig_atomic_t stop_signal;

static void write_result(const char *error);

_Noreturn void exec_fail(int code, const char *what, const char *which, int err) {
  char text[512];
  snprintf(text, sizeof text, "%s %s%s%s", what, which, err ? ": " : "", err ? strerror(err) : "");
  fprintf(stderr, "exec: %s\n", text);
  if (run.pid > 0) kill(-run.pid, SIGKILL);
  write_result(text);
  exit(code);
}

void *exec_need(void *p) {
  if (p == NULL) exec_fail(125, "out of memory", "", 0);
  return p;
}

static int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Starting the program ---------------------------------------------------------------------- */

static void cloexec(int fd) {
  fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void nonblocking(int fd) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void make_pipe(int fds[2]) {
  if (pipe(fds) != 0) exec_fail(125, "cannot make a pipe", "", errno);
  cloexec(fds[0]);
  cloexec(fds[1]);
}

static int open_sink(const char *file, int passed_on) {
  if (file == NULL) return passed_on;
  int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) exec_fail(125, "cannot write", file, errno);
  return fd;
}

static int open_terminal(char *name, size_t size) {
  int fd = posix_openpt(O_RDWR | O_NOCTTY);
  if (fd < 0 || grantpt(fd) != 0 || unlockpt(fd) != 0)
    exec_fail(125, "cannot make a terminal", "", errno);
  cloexec(fd);
  const char *slave = ptsname(fd);
  if (slave == NULL || strlen(slave) >= size) exec_fail(125, "cannot name the terminal", "", errno);
  snprintf(name, size, "%s", slave);
  struct winsize w = {.ws_col = opt.cols, .ws_row = opt.rows};
  ioctl(fd, TIOCSWINSZ, &w);
  return fd;
}

struct child_fds {
  int in, out, err; /* what becomes 0, 1, 2; -1: the terminal */
  const char *terminal;
  int report; /* errno of a failed start goes here */
};

static _Noreturn void child_fail(const struct child_fds *fds) {
  int err = errno;
  if (write(fds->report, &err, sizeof err) < 0) _exit(126);
  _exit(127);
}

static _Noreturn void child_main(const struct child_fds *fds) {
#ifdef __linux__
  prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
  int tty = -1;
  if (fds->terminal) {
    setsid();
    tty = open(fds->terminal, O_RDWR);
    if (tty < 0 || ioctl(tty, TIOCSCTTY, 0) != 0) child_fail(fds);
  } else
    setpgid(0, 0);
  int in = fds->in < 0 ? tty : fds->in, out = fds->out < 0 ? tty : fds->out;
  int err = fds->err < 0 ? tty : fds->err;
  if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) child_fail(fds);
  /* A shell's background job ignores SIGINT, and would hand that on. */
  for (int s = 1; s < 32; s++) signal(s, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  /* What make or a shell left open is not part of the test. */
  for (int fd = 3; fd < 256; fd++)
    if (fd != fds->report) close(fd);
  if (opt.cwd && chdir(opt.cwd) != 0) child_fail(fds);
  execvp(opt.argv[0], opt.argv);
  child_fail(fds);
}

static bool steps_send(void) {
  for (int i = 0; i < opt.step_count; i++)
    if (opt.steps[i].action == SEND || opt.steps[i].action == SEND_EOF) return true;
  return false;
}

/* Both ends of the program's stdin: returns its end, -1 for the terminal. */
static int open_stdin(void) {
  if (opt.pty_in) {
    run.in = run.master;
    return -1;
  }
  if (steps_send()) {
    int fds[2];
    make_pipe(fds);
    run.in = fds[1];
    nonblocking(run.in);
    return fds[0];
  }
  const char *file = opt.stdin_file ? opt.stdin_file : "/dev/null";
  int fd = open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) exec_fail(125, "cannot read", file, errno);
  return fd;
}

/* The program's end of an output stream; ours goes to `s`. */
static int open_output(struct stream *s, bool terminal, unsigned where) {
  if (terminal) {
    if (run.out.fd == run.master && run.master >= 0) return -1; /* stdout has it already */
    s->fd = run.master;
    s->where = where;
    return -1;
  }
  int fds[2];
  make_pipe(fds);
  nonblocking(fds[0]);
  s->fd = fds[0];
  s->where = where;
  return fds[1];
}

static void start(void) {
  char terminal[128];
  if (opt.pty_in || opt.pty_out || opt.pty_err) {
    run.master = open_terminal(terminal, sizeof terminal);
    nonblocking(run.master);
  }
  run.out.sink = open_sink(opt.stdout_file, STDOUT_FILENO);
  run.err.sink = opt.merge ? run.out.sink : open_sink(opt.stderr_file, STDERR_FILENO);
  int report[2];
  make_pipe(report);
  struct child_fds fds = {.terminal = run.master < 0 ? NULL : terminal, .report = report[1]};
  fds.in = open_stdin();
  fds.out = open_output(&run.out, opt.pty_out, OUT);
  fds.err = opt.merge && !opt.pty_err ? fds.out : open_output(&run.err, opt.pty_err, ERR);
  run.started_us = now_us();
  if (opt.timeout_us) run.deadline_us = run.started_us + opt.timeout_us;
  run.pid = fork();
  if (run.pid < 0) exec_fail(125, "cannot fork", "", errno);
  if (run.pid == 0) child_main(&fds);
  close(report[1]);
  if (fds.in >= 0) close(fds.in);
  if (fds.out >= 0) close(fds.out);
  if (fds.err >= 0 && fds.err != fds.out) close(fds.err);
  int err = 0;
  ssize_t n;
  while ((n = read(report[0], &err, sizeof err)) < 0 && errno == EINTR) continue;
  close(report[0]);
  if (n > 0) exec_fail(127, "cannot start", opt.argv[0], err);
  if (opt.announce) dprintf(STDOUT_FILENO, "pid %ld\n", (long)run.pid);
}

/* Watching it ------------------------------------------------------------------------------- */

static void write_all(int fd, const char *data, size_t n) {
  while (n > 0) {
    ssize_t done = write(fd, data, n);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return; /* whoever reads us has gone; the result file still tells the end */
    data += done;
    n -= (size_t)done;
  }
}

static void remember(struct stream *s, const char *data, size_t n) {
  if (run.step >= opt.step_count || s->where == 0) return;
  if (s->len + n > EXPECT_KEEP) s->len = s->scanned = 0; /* no text spans this much */
  if (s->len + n > s->cap) {
    s->cap = (s->len + n) * 2;
    s->seen = exec_need(realloc(s->seen, s->cap));
  }
  memcpy(s->seen + s->len, data, n);
  s->len += n;
}

/* Reads what is there. False at the end of the stream. */
static bool drain(struct stream *s) {
  char data[65536];
  for (;;) {
    ssize_t n = read(s->fd, data, sizeof data);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return true;
    if (n <= 0) return false; /* EIO is how a terminal says the end */
    size_t room = s->kept < opt.output_max ? (size_t)(opt.output_max - s->kept) : 0;
    size_t keep = (size_t)n < room ? (size_t)n : room;
    if (s->sink >= 0) write_all(s->sink, data, keep);
    s->kept += keep;
    s->dropped += (uint64_t)n - keep;
    remember(s, data, (size_t)n);
  }
}

static void end_stream(struct stream *s) {
  if (s->fd >= 0 && s->fd != run.master) close(s->fd);
  s->fd = -1;
}

static bool found(struct stream *s, unsigned where, const char *text) {
  if (!(s->where & where) || s->seen == NULL) return false;
  size_t len = strlen(text);
  size_t from = s->scanned > len ? s->scanned - len : 0;
  char *at = s->len > from ? memmem(s->seen + from, s->len - from, text, len) : NULL;
  s->scanned = s->len;
  if (at == NULL) return false;
  size_t used = (size_t)(at - s->seen) + len;
  s->len -= used;
  memmove(s->seen, s->seen + used, s->len);
  s->scanned = 0;
  return true;
}

static void enqueue(const char *text, size_t n) {
  run.queue = exec_need(realloc(run.queue, run.queued + n + 1));
  memcpy(run.queue + run.queued, text, n);
  run.queued += n;
}

static void resize(unsigned short cols, unsigned short rows) {
  struct winsize w = {.ws_col = cols, .ws_row = rows};
  if (run.master < 0 || ioctl(run.master, TIOCSWINSZ, &w) != 0)
    exec_fail(125, "cannot resize", "the terminal", run.master < 0 ? 0 : errno);
}

/* Are there signals the program has not taken yet? False where /proc does not tell. */
static bool has_pending_signals(void) {
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/%ld/status", (long)run.pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  text[n > 0 ? n : 0] = '\0';
  const char *field = strstr(text, "ShdPnd:");
  return field != NULL && strtoull(field + strlen("ShdPnd:"), NULL, 16) != 0;
}

/* Two equal signals are one to a program that has not taken the first before the second comes. */
static void let_it_take_signals(void) {
  const struct timespec moment = {.tv_nsec = 1000000};
  for (int i = 0; i < 2000 && !run.exited && has_pending_signals(); i++) nanosleep(&moment, NULL);
}

static void do_steps(void) {
  for (; run.step < opt.step_count; run.step++) {
    const struct step *step = &opt.steps[run.step];
    switch (step->action) {
    case EXPECT:
      if (found(&run.out, step->where, step->text) || found(&run.err, step->where, step->text))
        break;
      return;
    case SIGNAL:
      if (run.exited) return;
      let_it_take_signals();
      kill(run.pid, step->signum);
      break;
    case SEND:
      let_it_take_signals(); /* Ctrl-C on a terminal is one */
      enqueue(step->text, strlen(step->text));
      break;
    case SEND_EOF:
      if (run.in == run.master)
        enqueue("\x04", 1);
      else
        run.close_in = true;
      break;
    case CLOSE_STDOUT:
      end_stream(&run.out);
      break;
    case RESIZE:
      resize(step->cols, step->rows);
      break;
    }
    run.out.scanned = run.err.scanned = 0;
  }
}

static void flush_queue(void) {
  while (run.queued > 0 && run.in >= 0) {
    ssize_t n = write(run.in, run.queue, run.queued);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) run.queued = 0; /* the program no longer reads */
    if (n > 0) memmove(run.queue, run.queue + n, run.queued -= (size_t)n);
  }
  if (run.close_in && run.in >= 0 && run.in != run.master) {
    close(run.in);
    run.in = -1;
  }
}

/* Reaps whatever ended. True while some process we are responsible for is left. */
static bool reap(void) {
  for (;;) {
    int status;
    struct rusage usage;
    pid_t pid = wait4(-1, &status, WNOHANG, &usage);
    if (pid == 0) return true;
    if (pid < 0 && errno == EINTR) continue;
    if (pid < 0) return false;
    if (pid == run.pid) {
      run.exited = true;
      run.status = status;
      run.usage = usage;
      run.ended_us = now_us();
    }
  }
}

static void end_by_force(int64_t now) {
  if (run.deadline_us && now >= run.deadline_us) {
    run.timed_out = true;
    run.deadline_us = 0;
    kill(-run.pid, opt.timeout_signal);
    run.kill_us = now + opt.grace_us;
  }
  if (stop_signal && !run.stopping) {
    run.stopping = true;
    kill(-run.pid, SIGTERM);
    kill(-run.pid, SIGCONT);
    run.kill_us = now + opt.grace_us;
  }
  if (run.kill_us && now >= run.kill_us) {
    kill(-run.pid, SIGKILL);
    run.kill_us = 0;
  }
}

static int wait_ms(int64_t now) {
  int64_t next = run.deadline_us;
  if (run.kill_us && (next == 0 || run.kill_us < next)) next = run.kill_us;
  if (next == 0) return -1;
  return next <= now ? 0 : (int)((next - now + 999) / 1000);
}

static void pump(int timeout_ms) {
  struct pollfd fds[4] = {{.fd = wake_pipe[0], .events = POLLIN},
                          {.fd = run.out.fd, .events = POLLIN},
                          {.fd = run.err.fd, .events = POLLIN},
                          {.fd = run.queued ? run.in : -1, .events = POLLOUT}};
  if (poll(fds, 4, timeout_ms) < 0 && errno != EINTR) exec_fail(125, "cannot poll", "", errno);
  char bytes[64];
  while (read(wake_pipe[0], bytes, sizeof bytes) > 0) continue;
  if (run.out.fd >= 0 && !drain(&run.out)) end_stream(&run.out);
  if (run.err.fd >= 0 && !drain(&run.err)) end_stream(&run.err);
  do_steps();
  flush_queue();
}

static void watch(void) {
  do_steps();
  flush_queue();
  while (!run.exited) {
    pump(wait_ms(now_us()));
    reap();
    end_by_force(now_us());
  }
}

/* Kills what the program left behind, after a moment to end by itself. Linux hands orphans to us
** (we are their subreaper) even when they made a process group of their own. */
static void clean_up(void) {
  int64_t until_us = now_us() + ORPHAN_GRACE_US;
  bool forced = run.timed_out || run.stopping;
  bool left;
  while ((left = reap()) && !forced && now_us() < until_us)
    pump((int)((until_us - now_us()) / 1000) + 1);
  pump(0);
#ifdef __linux__
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%ld/children", (long)getpid());
  while (left) {
    FILE *children = fopen(path, "r");
    long pid, count = 0;
    while (children && fscanf(children, "%ld", &pid) == 1) {
      kill((pid_t)pid, SIGKILL);
      count++;
    }
    if (children) fclose(children);
    if (!forced && run.orphans == 0) run.orphans = (int)count;
    if (count == 0 && children == NULL) break;
    pump(100); /* SIGCHLD wakes it */
    left = reap();
  }
#else
  if (kill(-run.pid, SIGKILL) == 0 && !forced) run.orphans = 1;
#endif
  if (run.out.fd >= 0) drain(&run.out);
  if (run.err.fd >= 0) drain(&run.err);
  do_steps();
}

/* Reporting --------------------------------------------------------------------------------- */

static int64_t timeval_us(struct timeval t) {
  return (int64_t)t.tv_sec * 1000000 + t.tv_usec;
}

static const char *unmet(void) {
  return run.pid > 0 && run.step < opt.step_count ? opt.steps[run.step].text : "";
}

static void write_result(const char *error) {
  if (opt.result == NULL) return;
  FILE *out = fopen(opt.result, "w");
  if (out == NULL) return;
  if (run.exited && WIFEXITED(run.status)) fprintf(out, "code=%d\n", WEXITSTATUS(run.status));
  if (run.exited && WIFSIGNALED(run.status)) fprintf(out, "signal=%d\n", WTERMSIG(run.status));
  long maxrss_kib = run.usage.ru_maxrss;
#ifdef __APPLE__
  maxrss_kib /= 1024;
#endif
  fprintf(out, "timeout=%d\nwall_us=%lld\nuser_us=%lld\nsys_us=%lld\nmaxrss_kib=%ld\n",
          run.timed_out, (long long)(run.exited ? run.ended_us - run.started_us : 0),
          (long long)timeval_us(run.usage.ru_utime), (long long)timeval_us(run.usage.ru_stime),
          maxrss_kib);
  fprintf(out, "orphans=%d\ntruncated=%d\n", run.orphans, run.out.dropped + run.err.dropped > 0);
  if (error) fprintf(out, "error=%s\n", error);
  fprintf(out, "unmet=%s", unmet()); /* last: the text may hold newlines */
  fclose(out);
}

static void on_signal(int signum) {
  int saved = errno;
  if (signum != SIGCHLD) stop_signal = signum;
  if (write(wake_pipe[1], "", 1) < 0) errno = EAGAIN; /* full: it will wake up anyway */
  errno = saved;
}

static void catch_signals(void) {
  make_pipe(wake_pipe);
  nonblocking(wake_pipe[0]);
  nonblocking(wake_pipe[1]);
  struct sigaction action = {.sa_handler = on_signal};
  int caught[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP};
  for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) sigaction(caught[i], &action, NULL);
  signal(SIGPIPE, SIG_IGN);
#ifdef __linux__
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
}

int main(int argc, char **argv) {
  argv++;
  if (argc == 2 && argv[0][0] == '@') argv = exec_words(argv[0] + 1);
  opt.argv = exec_options(argv);
  catch_signals();
  start();
  watch();
  clean_up();
  write_result(NULL);
  if (run.timed_out) return 124;
  if (run.step < opt.step_count && !run.stopping) {
    fprintf(stderr, "exec: the program ended before: %s\n", unmet());
    return 125;
  }
  return WIFEXITED(run.status) ? WEXITSTATUS(run.status) : 128 + WTERMSIG(run.status);
}
