/* The modes of the terminal: see terminal_modes.h. */
#include "io/terminal_modes.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "io/terminal.h"

static struct {
  struct termios as_found;
  volatile sig_atomic_t changed;
} modes;

void terminal_restore_async(void) {
  if (!modes.changed) return;
  modes.changed = 0;
  tcsetattr(STDIN_FILENO, TCSANOW, &modes.as_found);
  static const char text[] = TERMINAL_PASTE_OFF "\r\n";
  ssize_t ignored = write(STDOUT_FILENO, text, sizeof text - 1);
  (void)ignored;
}

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGHUP, SIGQUIT};
#define FATAL_COUNT (sizeof fatal_signals / sizeof *fatal_signals)

static void on_fatal(int signo) {
  terminal_restore_async();
  raise(signo); /* SA_RESETHAND: what it would have done without us */
}

/* Only where nobody else has an opinion: a sanitizer keeps its own handlers. */
static void guard_signals(bool on) {
  for (size_t i = 0; i < FATAL_COUNT; i++) {
    struct sigaction old, act;
    memset(&act, 0, sizeof act);
    act.sa_handler = on ? on_fatal : SIG_DFL;
    act.sa_flags = on ? (int)SA_RESETHAND : 0;
    if (sigaction(fatal_signals[i], NULL, &old) != 0 || (old.sa_flags & SA_SIGINFO) != 0) continue;
    if (old.sa_handler == (on ? SIG_DFL : on_fatal)) sigaction(fatal_signals[i], &act, NULL);
  }
}

void terminal_modes_guard(bool on) {
  static bool at_exit; /* os.exit closes nothing */
  if (on && !at_exit) at_exit = atexit(terminal_restore_async) == 0;
  guard_signals(on);
}

static void put(FILE *out, const char *text) {
  fputs(text, out);
  fflush(out);
}

void terminal_modes_enter(FILE *out) {
  if (tcgetattr(STDIN_FILENO, &modes.as_found) == 0) modes.changed = 1;
  put(out, TERMINAL_PASTE_ON);
}

void terminal_modes_leave(FILE *out) {
  put(out, TERMINAL_PASTE_OFF);
  tcsetattr(STDIN_FILENO, TCSADRAIN, &modes.as_found);
  modes.changed = 0;
}
