/*
** What the two halves of the test tool exec share: the options and the steps.
*/
#ifndef TESTS_COMMAND_EXEC_H
#define TESTS_COMMAND_EXEC_H

#include <stdbool.h>
#include <stdint.h>

#define STEPS_MAX 256

enum where { OUT = 1, ERR = 2, ANY = OUT | ERR };
enum action { EXPECT, SIGNAL, SEND, SEND_EOF, CLOSE_STDOUT, RESIZE };

struct step {
  enum action action;
  unsigned where;            /* EXPECT: a set of enum where */
  const char *text;          /* EXPECT and SEND; for the others what to call the step */
  int signum;                /* SIGNAL */
  unsigned short cols, rows; /* RESIZE */
};

struct exec_opt {
  const char *stdin_file, *stdout_file, *stderr_file, *cwd, *result;
  char **argv;
  bool merge, announce, pty_in, pty_out, pty_err;
  unsigned short cols, rows;
  int64_t timeout_us, grace_us;
  int timeout_signal;
  uint64_t output_max;
  struct step steps[STEPS_MAX];
  int step_count;
};

extern struct exec_opt opt;

/* Reads the options; returns the program and its arguments. Ends the process on a mistake. */
char **exec_options(char **argv);

/* The words of a file, each closed by a NUL. They live until the end, as putenv wants. */
char **exec_words(const char *file);

/* Ends the process: message on stderr and in the result file, the program killed. */
_Noreturn void exec_fail(int code, const char *what, const char *which, int err);

void *exec_need(void *p); /* p, or the end when it is NULL */

#endif
