/* Signal delivery: see signal.h. Owns the handlers and the pipe that wakes the loop. */
#include "io/signal.h"
#include "io/loop_base.h"
#include "io/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define THIRD_INTERRUPT 3
#define EXIT_INTERRUPTED 130
#define EXIT_TERMINATED 143

static struct {
  struct signal_hooks hooks;
  volatile sig_atomic_t exit_code;  /* of the signal that ends the program; 0: none has come */
  volatile sig_atomic_t interrupts; /* that have come, */
  int delivered;                    /* that the loop has heard of */
  int pipe[2];
  struct event *readable;
} sig = {.pipe = {-1, -1}};

static void handle(int signo) {
  int saved = errno;
  if (signo == SIGPROF) {
    sig.hooks.on_cpu_tick_async();
  } else {
    if (signo == SIGINT) {
      sig.interrupts = sig.interrupts + 1;
      sig.exit_code = EXIT_INTERRUPTED;
      /* The person has asked three times: nothing that may hang stands between them and the shell.
       */
      if (sig.interrupts >= THIRD_INTERRUPT) {
        terminal_restore_async();
        _exit(EXIT_INTERRUPTED);
      }
      sig.hooks.on_interrupt_async(sig.interrupts);
    } else if (signo == SIGTERM) {
      sig.exit_code = EXIT_TERMINATED;
      sig.hooks.on_interrupt_async(
          1); /* always the polite way: a supervisor has SIGKILL for more */
    }
    unsigned char byte = (unsigned char)signo;
    ssize_t ignored = write(sig.pipe[1], &byte, 1);
    (void)ignored; /* a full pipe already holds a wake-up */
  }
  errno = saved;
}

int signal_exit_code(void) {
  return sig.exit_code;
}

void signal_forgive_interrupts(void) {
  sig.interrupts = 0;
  sig.delivered = 0;
  if (sig.exit_code == EXIT_INTERRUPTED) sig.exit_code = 0;
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
  (void)what, (void)arg;
  unsigned char bytes[64];
  ssize_t n = read(fd, bytes, sizeof bytes);
  for (ssize_t i = 0; i < n; i++) {
    /* Counted here: two that came while the loop stood still are a first and a second one. */
    int nth = bytes[i] == SIGINT ? ++sig.delivered : 1;
    sig.hooks.on_signal(bytes[i], nth);
  }
}

static int install(int signo, int flags) {
  struct sigaction act;
  memset(&act, 0, sizeof act);
  act.sa_handler = handle;
  act.sa_flags = flags;
  sigfillset(&act.sa_mask);
  return sigaction(signo, &act, NULL);
}

int signal_init(const struct signal_hooks *hooks) {
  sig.hooks = *hooks;
  if (pipe2(sig.pipe, O_CLOEXEC | O_NONBLOCK) != 0) return -1;
  sig.readable = event_new(loop_base(), sig.pipe[0], EV_READ | EV_PERSIST, on_readable, NULL);
  if (sig.readable == NULL || event_add(sig.readable, NULL) != 0) return -1;
  signal(SIGPIPE, SIG_IGN); /* a closed peer is an error of the write, not the end of the process */
  if (install(SIGINT, 0) || install(SIGTERM, 0) || install(SIGUSR1, SA_RESTART) ||
      install(SIGPROF, SA_RESTART))
    return -1;
  /* Counts only the CPU time this process uses, in its own code or in the kernel on its behalf: an
  ** idle program is never woken. */
  struct itimerval every = {.it_interval = {.tv_usec = SIGNAL_CPU_TICK_MS * 1000},
                            .it_value = {.tv_usec = SIGNAL_CPU_TICK_MS * 1000}};
  return setitimer(ITIMER_PROF, &every, NULL);
}

void signal_close(void) {
  struct itimerval off = {0};
  setitimer(ITIMER_PROF, &off, NULL);
  signal(SIGPROF, SIG_IGN);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  signal(SIGUSR1, SIG_IGN);
  if (sig.readable != NULL) event_free(sig.readable);
  sig.readable = NULL;
  for (int i = 0; i < 2; i++) {
    if (sig.pipe[i] >= 0) close(sig.pipe[i]);
    sig.pipe[i] = -1;
  }
}
