/*
** What the fuzz targets share. Each defines LLVMFuzzerTestOneInput, which libFuzzer calls with
** inputs it makes up, and replay_main.c with the files of the corpus. REQUIRE is assert that cannot
** be switched off.
*/
#ifndef SLUICE_TESTS_FUZZ_H
#define SLUICE_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)

/* A copy behind which nothing may be read, whatever `n`. */
__attribute__((unused)) static char *fuzz_copy(const char *s, size_t n) {
  char *copy = malloc(n > 0 ? n : 1);
  REQUIRE(copy != NULL);
  if (n > 0) memcpy(copy, s, n);
  return copy;
}

#endif
