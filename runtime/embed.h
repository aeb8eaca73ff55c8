/*
** The Lua library as data inside the binary. The table is written by the host tool embed.c when
** the program is built, sorted by name (strcmp), so that a lookup may be a binary search.
*/
#ifndef SLUICE_EMBED_H
#define SLUICE_EMBED_H

#include <stddef.h>

struct embedded_file {
  const char *name;          /* what require takes: "sluice", "sluice.provider.openai" */
  const unsigned char *data; /* the source; a NUL follows the last byte and is not counted */
  size_t size;
  const char *path;          /* below the library's root, for chunk names: "sluice/init.lua" */
  const unsigned char *code; /* the same compiled, or NULL */
  size_t code_size;
};

extern const struct embedded_file embedded_lua[];
extern const size_t embedded_lua_count;
/* The release of Lua that compiled them (its lua_ident), or "": no other may load the code. */
extern const char embedded_lua_ident[];

#endif
