/* The Lua library inside the program; see library.c. */
#ifndef SLUICE_BIND_LIBRARY_H
#define SLUICE_BIND_LIBRARY_H

#include <lua.h>
#include <stdbool.h>

/* For package.searchers: the module, compiled where this Lua may load what was compiled. */
int library_searcher(lua_State *L);

#endif
