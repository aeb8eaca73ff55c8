/* Names of the failure kinds; see err.h. */
#include "base/err.h"

static const char *const names[] = {
#define X(name, text) text,
    ERR_KINDS(X)
#undef X
};

const char *err_kind_name(enum err_kind kind) {
  return (unsigned)kind < ERR_KIND_COUNT ? names[kind] : "unknown";
}
