/*
** The closed set of failure kinds. Every failure of the world carries exactly one of them, in C
** as an enum and in Lua as the string. What each means: docs/guide, "Errors".
*/
#ifndef SLUICE_BASE_ERR_H
#define SLUICE_BASE_ERR_H

#define ERR_KINDS(X)                                                                               \
  X(NETWORK, "network")           /* DNS, connect, TLS, reset */                                   \
  X(TIMEOUT, "timeout")           /* a phase or a scope ran out of time */                         \
  X(SERVER, "server")             /* 5xx, 408, 409 */                                              \
  X(OVERLOADED, "overloaded")     /* 503, 529 */                                                   \
  X(RATE_LIMITED, "rate_limited") /* 429 that passes */                                            \
  X(QUOTA, "quota")               /* 402, 429 that needs money */                                  \
  X(AUTH, "auth")                 /* 401, 403 */                                                   \
  X(INVALID, "invalid")           /* 400, 404, 413, 422 */                                         \
  X(FILTERED, "filtered")         /* stopped by a content policy */                                \
  X(PROTOCOL, "protocol")         /* the peer broke HTTP, SSE or JSON */                           \
  X(INTERRUPTED, "interrupted")   /* a stream died after text was delivered */                     \
  X(CIRCUIT_OPEN, "circuit_open") /* refused by a breaker */                                       \
  X(THROTTLED, "throttled")       /* refused by a local limit */                                   \
  X(CANCELLED, "cancelled")       /* the scope was cancelled */                                    \
  X(DEADLOCK, "deadlock")         /* every task waits for another */                               \
  X(CPU, "cpu")                   /* a script held the processor too long */                       \
  X(MEMORY, "memory")             /* a ceiling on memory was reached */

enum err_kind {
#define X(name, text) ERR_##name,
  ERR_KINDS(X)
#undef X
      ERR_KIND_COUNT
};

/* The kind's name as scripts see it; "unknown" outside the set, so that a log line never crashes.
 */
const char *err_kind_name(enum err_kind kind);

#endif
