/* What the files behind sluice.core.http share: endpoints, and failures on the way to Lua. */
#ifndef SLUICE_BIND_HTTP_H
#define SLUICE_BIND_HTTP_H

#include <lua.h>

#include "io/transfer.h"
#include "task/scope.h"

#define ENDPOINT_TYPE "sluice.endpoint"
#define RESPONSE_TYPE "sluice.response"
#define STREAM_TYPE "sluice.stream"

/* Where requests go and how long they may take; made once, used by many. */
struct endpoint {
  char *method;
  struct place *place;
  char *label; /* "POST https://host/path", without user, password and query: for messages */
  struct header_list *headers;
  struct transfer_limits limits;
  size_t receive_buffer;
  size_t load; /* requests under way; what they are for keeps the endpoint alive */
};

struct endpoint *http_check_endpoint(lua_State *L); /* the first argument */

/* Read (body, total seconds or nil, name, value, …) from `first` on into a spec. A value is a
** string or a secret; a nil name is passed over. Raises before anything is acquired. */
void http_read_call(lua_State *L, struct endpoint *e, int first, struct transfer_spec *spec);

/* Push false, kind, phase, message, elapsed seconds: what a failed exchange looks like to Lua. */
int http_push_failure(lua_State *L, const struct transfer *t);

/* Methods that responses and streams have in common; `self` begins with a struct transfer. */
int http_status(lua_State *L, const struct transfer *t);
int http_header(lua_State *L, const struct transfer *t);
int http_headers(lua_State *L, const struct transfer *t);
int http_limits(lua_State *L, const struct transfer *t);
bool http_has_limits(const struct transfer *t); /* would that push anything? */
/* Push seconds from the start to the first byte (nil before it) and to the end or to now. */
int http_times(lua_State *L, const struct transfer *t);

void http_open_response(lua_State *L); /* create the metatables */
void http_open_stream(lua_State *L);
int http_endpoint_request(lua_State *L);
int http_endpoint_stream(lua_State *L);

#endif
