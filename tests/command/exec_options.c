/*
** The command line of the test tool exec (its manual is at the top of exec.c). Fills `opt`, and
** never starts anything.
*/
#include "exec.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct exec_opt opt = {.cols = 80,
                       .rows = 24,
                       .grace_us = 2000000,
                       .timeout_signal = SIGKILL,
                       .output_max = 64u << 20};

static int signal_number(const char *name, size_t len) {
  static const struct {
    const char *name;
    int number;
  } table[] = {{"HUP", SIGHUP},    {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"KILL", SIGKILL},
               {"TERM", SIGTERM},  {"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"PIPE", SIGPIPE},
               {"STOP", SIGSTOP},  {"CONT", SIGCONT}, {"TSTP", SIGTSTP}, {"ABRT", SIGABRT},
               {"WINCH", SIGWINCH}};
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (strlen(table[i].name) == len && strncmp(table[i].name, name, len) == 0)
      return table[i].number;
  exec_fail(125, "unknown signal", name, 0);
}

static void add_step(enum action action, unsigned where, const char *text, int signum) {
  if (opt.step_count == STEPS_MAX) exec_fail(125, "too many steps at", text, 0);
  opt.steps[opt.step_count++] =
      (struct step){.action = action, .where = where, .text = text, .signum = signum};
}

static void add_signal(const char *value) {
  const char *at = strchr(value, '@');
  int signum = signal_number(value, at ? (size_t)(at - value) : strlen(value));
  if (at) add_step(EXPECT, ANY, at + 1, 0);
  add_step(SIGNAL, 0, value, signum);
}

static void add_resize(const char *value) {
  add_step(RESIZE, 0, value, 0);
  struct step *step = &opt.steps[opt.step_count - 1];
  if (sscanf(value, "%hux%hu", &step->cols, &step->rows) != 2)
    exec_fail(125, "--resize wants COLSxROWS, not", value, 0);
}

static int64_t seconds(const char *value, const char *name) {
  char *end;
  double s = strtod(value, &end);
  if (*end || !(s > 0) || s > 1e6) exec_fail(125, name, "wants seconds above 0", 0);
  return (int64_t)(s * 1e6);
}

static void set_pty(const char *value) {
  opt.pty_in = strstr(value, "in") != NULL;
  opt.pty_out = strstr(value, "out") != NULL;
  opt.pty_err = strstr(value, "err") != NULL;
}

static bool flag_option(const char *name) {
  if (strcmp(name, "--merge") == 0) return opt.merge = true;
  if (strcmp(name, "--announce") == 0) return opt.announce = true;
  if (strcmp(name, "--clear-env") == 0) return clearenv() == 0;
  if (strcmp(name, "--eof") == 0) return add_step(SEND_EOF, 0, "end of input", 0), true;
  if (strcmp(name, "--close-stdout") == 0)
    return add_step(CLOSE_STDOUT, 0, "close stdout", 0), true;
  return false;
}

static bool is(const char *name, const char *option) {
  return strcmp(name, option) == 0;
}

static bool step_option(const char *name, const char *value) {
  if (is(name, "--expect"))
    add_step(EXPECT, ANY, value, 0);
  else if (is(name, "--expect-stdout"))
    add_step(EXPECT, OUT, value, 0);
  else if (is(name, "--expect-stderr"))
    add_step(EXPECT, ERR, value, 0);
  else if (is(name, "--send"))
    add_step(SEND, 0, value, 0);
  else if (is(name, "--signal"))
    add_signal(value);
  else if (is(name, "--resize"))
    add_resize(value);
  else
    return false;
  return true;
}

static void value_option(const char *name, char *value) {
  if (step_option(name, value)) return;
  if (is(name, "--stdin"))
    opt.stdin_file = value;
  else if (is(name, "--stdout"))
    opt.stdout_file = value;
  else if (is(name, "--stderr"))
    opt.stderr_file = value;
  else if (is(name, "--result"))
    opt.result = value;
  else if (is(name, "--cwd"))
    opt.cwd = value;
  else if (is(name, "--env"))
    putenv(value);
  else if (is(name, "--unset"))
    unsetenv(value);
  else if (is(name, "--timeout"))
    opt.timeout_us = seconds(value, name);
  else if (is(name, "--grace"))
    opt.grace_us = seconds(value, name);
  else if (is(name, "--timeout-signal"))
    opt.timeout_signal = signal_number(value, strlen(value));
  else if (is(name, "--output-max"))
    opt.output_max = strtoull(value, NULL, 10);
  else if (is(name, "--pty"))
    set_pty(value);
  else if (is(name, "--winsize")) {
    if (sscanf(value, "%hux%hu", &opt.cols, &opt.rows) != 2)
      exec_fail(125, "--winsize wants COLSxROWS, not", value, 0);
  } else
    exec_fail(125, "unknown option", name, 0);
}

char **exec_options(char **argv) {
  while (*argv && strncmp(*argv, "--", 2) == 0) {
    char *name = *argv++;
    if (name[2] == '\0') break;
    if (flag_option(name)) continue;
    if (*argv == NULL) exec_fail(125, "no value for", name, 0);
    value_option(name, *argv++);
  }
  if (*argv == NULL) exec_fail(125, "no program to run", "", 0);
  for (int i = 0; i < opt.step_count; i++) {
    bool sends = opt.steps[i].action == SEND || opt.steps[i].action == SEND_EOF;
    if (sends && opt.stdin_file)
      exec_fail(125, "--stdin FILE and --send exclude each other", "", 0);
  }
  return argv;
}

char **exec_words(const char *file) {
  FILE *in = fopen(file, "rb");
  if (in == NULL) exec_fail(125, "cannot open", file, errno);
  char *text = NULL;
  size_t len = 0, cap = 0, count = 0;
  for (int c; (c = getc(in)) != EOF; text[len++] = (char)c) {
    if (len == cap) text = exec_need(realloc(text, cap = cap ? cap * 2 : 1024));
    if (c == '\0') count++;
  }
  fclose(in);
  if (len == 0 || text[len - 1] != '\0') exec_fail(125, "not NUL-terminated words:", file, 0);
  char **words = exec_need(calloc(count + 1, sizeof *words));
  for (size_t i = 0, n = 0; i < len; i += strlen(text + i) + 1) words[n++] = text + i;
  return words;
}
