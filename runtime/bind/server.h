/* What the two files behind sluice.core.server share. */
#ifndef SLUICE_BIND_SERVER_H
#define SLUICE_BIND_SERVER_H

#include <lua.h>

struct server;

/* Take the next request, which must be there, and push: exchange, method, target, headers, body,
** address of the peer. */
int exchange_push_next(lua_State *L, struct server *s);

/* Create the metatable and push the table of its methods, to which Lua may add. */
void exchange_open(lua_State *L);

#endif
