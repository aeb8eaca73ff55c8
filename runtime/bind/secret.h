/* Secrets: the one C type that holds secret bytes. */
#ifndef SLUICE_BIND_SECRET_H
#define SLUICE_BIND_SECRET_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

#define SECRET_TYPE "sluice.secret"

/* The bytes of the secret at `index`, or NULL when it is none; raises for a secret that comes from
** elsewhere and has not been read yet. Only for building what goes out. */
const char *secret_bytes(lua_State *L, int index, size_t *len);

/* Has any of the n bytes at `from` of the text to do with a secret? For showing a part of it: half a
** secret would not be known as one later. */
bool secret_within(const char *text, size_t len, size_t from, size_t n);

#endif
