/* spawn.c: what it costs to start a program. Runs one command n times, one after another.
 *
 * Owns: the child of the moment. Never: counts its own work, uses a shell, or waits by sleeping.
 * Wall time runs from before the spawn to the child's first line; CPU is the whole child's, from
 * wait4.
 *
 * usage: spawn N COMMAND [ARG…]      (prints one line of JSON, medians over the N starts) */
#include "measure.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#define RUNS_MAX 1000

extern char **environ;

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *v, long n) {
  qsort(v, (size_t)n, sizeof *v, by_value);
  return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Starts the command once; returns milliseconds to its first line and of its CPU. */
static void start_once(char **command, double *line_ms, double *cpu_ms) {
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) die("pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], 1);
  pid_t pid;
  int64_t start = now_us(), line = 0;
  int err = posix_spawnp(&pid, command[0], &actions, NULL, command, environ);
  if (err) {
    errno = err;
    die(command[0]);
  }
  close(pipe_fds[1]);
  posix_spawn_file_actions_destroy(&actions);
  char bytes[4096];
  ssize_t n;
  while ((n = read(pipe_fds[0], bytes, sizeof bytes)) > 0)
    if (line == 0 && memchr(bytes, '\n', (size_t)n)) line = now_us();
  close(pipe_fds[0]);
  int status;
  struct rusage use;
  if (wait4(pid, &status, 0, &use) != pid) die("wait4");
  if (line == 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    fprintf(stderr, "spawn: %s printed no line or failed (status %d)\n", command[0], status);
    exit(1);
  }
  *line_ms = (double)(line - start) / 1e3;
  *cpu_ms = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1e3 +
            (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e3;
}

int main(int argc, char **argv) {
  static double line_ms[RUNS_MAX], cpu_ms[RUNS_MAX];
  long n = argc > 2 ? strtol(argv[1], NULL, 10) : 0;
  if (n < 1 || n > RUNS_MAX) {
    fprintf(stderr, "usage: spawn N COMMAND [ARG…]    (N from 1 to %d)\n", RUNS_MAX);
    return 2;
  }
  double warm;
  start_once(argv + 2, &warm, &warm); /* fills the page cache */
  for (long i = 0; i < n; i++) start_once(argv + 2, &line_ms[i], &cpu_ms[i]);
  printf("{\"mode\":\"spawn\",\"n\":%ld,\"first_line_ms\":%.3f,\"cpu_ms\":%.3f}\n", n,
         median(line_ms, n), median(cpu_ms, n));
  return 0;
}
