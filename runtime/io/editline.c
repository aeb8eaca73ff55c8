/* Loading libedit: see editline.h. */
#include "io/editline.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#ifndef ELIBACC
#define ELIBACC ENOSYS /* outside Linux */
#endif

struct editline editline;

/* What it is called on Linux distributions, the BSDs and macOS. */
static const char *const LIBRARIES[] = {"libedit.so.2", "libedit.so.0", "libedit.so",
                                        "libedit.3.dylib", "libedit.dylib"};

static bool find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  memcpy(function, &symbol, sizeof symbol); /* C has no cast from an object to a function */
  return symbol != NULL;
}

#define FIND(name) find(library, #name, &editline.name)

static bool find_all(void *library) {
  return FIND(el_init_fd) && FIND(el_end) && FIND(el_beep) && FIND(el_resize) && FIND(el_cursor) &&
         FIND(el_wget) && FIND(el_wset) && FIND(el_wgets) && FIND(el_wline) &&
         FIND(el_winsertstr) && FIND(el_wreplacestr) && FIND(history_winit) && FIND(history_wend) &&
         FIND(history_w);
}

bool editline_load(void) {
  static bool loaded;
  for (size_t i = 0; i < sizeof LIBRARIES / sizeof *LIBRARIES && !loaded; i++) {
    void *library = dlopen(LIBRARIES[i], RTLD_LAZY | RTLD_LOCAL); /* stays until the end */
    loaded = library != NULL && find_all(library);
  }
  if (!loaded) errno = ELIBACC;
  return loaded;
}
