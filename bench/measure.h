/* measure.h: clocks, memory figures and `key=value` arguments for the bench programs.
 * Owns nothing; never does I/O beyond /proc/self/status. A header: each program is one file. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define UNUSED_OK __attribute__((unused))

static inline void die(const char *what) {
  fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
  exit(1);
}

/* User + system time of this process so far. */
UNUSED_OK static int64_t cpu_us(void) {
  struct rusage u;
  if (getrusage(RUSAGE_SELF, &u) != 0) die("getrusage");
  return (int64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec +
         u.ru_stime.tv_usec;
}

UNUSED_OK static int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* A "Vm…" line of /proc/self/status in KiB, -1 when absent. ru_maxrss is not used for the peak:
 * it survives exec, so a child would report the memory of the shell that started it. */
UNUSED_OK static long vm_kib(const char *name) {
  FILE *f = fopen("/proc/self/status", "r");
  if (!f) return -1;
  char line[256];
  long kib = -1;
  size_t n = strlen(name);
  while (fgets(line, sizeof line, f)) {
    if (strncmp(line, name, n) == 0 && line[n] == ':') {
      kib = strtol(line + n + 1, NULL, 10);
      break;
    }
  }
  fclose(f);
  return kib;
}

/* The value of `key=value` among the arguments, or fallback. Dies on what is not a number. */
UNUSED_OK static long arg_long(int argc, char **argv, const char *key, long fallback) {
  size_t n = strlen(key);
  for (int i = 1; i < argc; i++) {
    if (strncmp(argv[i], key, n) != 0 || argv[i][n] != '=') continue;
    char *end;
    errno = 0;
    long v = strtol(argv[i] + n + 1, &end, 10);
    if (errno || end == argv[i] + n + 1 || *end || v < 0) {
      fprintf(stderr, "bench: %s: not a whole number >= 0\n", argv[i]);
      exit(2);
    }
    return v;
  }
  return fallback;
}

/* Refuses arguments that nobody reads, so that a misspelt one cannot pass unnoticed. */
UNUSED_OK static void arg_check(int argc, char **argv, const char *const *known) {
  for (int i = 2; i < argc; i++) {
    const char *eq = strchr(argv[i], '=');
    size_t n = eq ? (size_t)(eq - argv[i]) : 0;
    int ok = 0;
    for (const char *const *k = known; *k && !ok; k++)
      ok = strlen(*k) == n && memcmp(*k, argv[i], n) == 0;
    if (!ok) {
      fprintf(stderr, "bench: unknown argument %s\n", argv[i]);
      exit(2);
    }
  }
}

UNUSED_OK static void raise_fd_limit(void) {
  struct rlimit r;
  if (getrlimit(RLIMIT_NOFILE, &r) != 0) return;
  r.rlim_cur = r.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &r);
}

#endif
