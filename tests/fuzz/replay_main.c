/*
** Runs a fuzz target over the files given as arguments, so that the corpus is part of the ordinary
** tests and a crash can be looked at without clang. Also over every part of each file: a cut is
** what happens to inputs most.
*/
#include "fuzz.h"

#define FILE_MAX (1 << 20)
#define PARTS_MAX 4096 /* bytes of a file whose every part is tried */

int main(int argc, char **argv) {
  static char bytes[FILE_MAX];
  int failed = 0;
  for (int i = 1; i < argc; i++) {
    FILE *file = fopen(argv[i], "rb");
    if (file == NULL) {
      printf("not ok %d - %s: cannot be opened\n", i, argv[i]);
      failed = 1;
      continue;
    }
    size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    printf("# %s\n", argv[i]);
    fflush(stdout); /* if the target aborts, this is the input */
    for (size_t part = 0; part <= n; part++) {
      if (part < n && n > PARTS_MAX) continue;
      char *copy = fuzz_copy(bytes, part);
      LLVMFuzzerTestOneInput((const uint8_t *)copy, part);
      free(copy);
    }
    printf("ok %d - %s\n", i, argv[i]);
  }
  if (argc == 1) {
    printf("not ok 1 - no corpus\n");
    failed = 1;
  }
  printf("1..%d\n", argc > 1 ? argc - 1 : 1);
  return failed;
}
