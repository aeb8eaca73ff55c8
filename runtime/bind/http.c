/*
** sluice.core.http: endpoints, and what responses and streams have in common. An endpoint holds all
** that is constant over many calls (URL, headers, limits), so that a call passes only what differs.
*/
#include "bind/http.h"

#include <ctype.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/limits.h"
#include "bind/bind.h"
#include "bind/secret.h"
#include "io/url.h"

/* Bytes of one repeated header's values: joining copies, and a hostile reply has thousands. */
#define JOINED_MAX 8192
/* Bodies from here on go with a word to libcurl; its own bound has been 1 MiB for years. */
#define EXPECT_BYTES (64u << 10)

/* ---- checks ---------------------------------------------------------------------------------- */

/* RFC 9110 5.6.2: the characters of a token. */
static bool is_token(const char *s, size_t n) {
  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)s[i];
    bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
    if (!plain && (c == '\0' || strchr("!#$%&'*+.^_`|~", c) == NULL)) return false;
  }
  return n > 0;
}

/* A byte that would end a header's line too early, or NULL. */
static const char *forges(const char *value, size_t n) {
  const char *at = memchr(value, '\n', n);
  if (at == NULL) at = memchr(value, '\r', n);
  return at != NULL ? at : memchr(value, '\0', n);
}

static const char *check_value(lua_State *L, int index, const char *name, size_t *len) {
  const char *value = secret_bytes(L, index, len);
  if (value == NULL) {
    int type = lua_type(L, index);
    if (type != LUA_TSTRING && type != LUA_TNUMBER)
      luaL_error(L, "header '%s': a string or a secret expected, got %s", name,
                 luaL_typename(L, index));
    value = lua_tolstring(L, index, len);
  }
  const char *at = forges(value, *len);
  if (at != NULL)
    luaL_error(L,
               "header '%s': its value holds a line break or a NUL at byte %d, which would "
               "forge another header (a key file with a trailing newline?)",
               name, (int)(at - value) + 1);
  return value;
}

static const char *check_name(lua_State *L, int index, size_t *len) {
  const char *name = lua_tolstring(L, index, len);
  if (name == NULL || !is_token(name, *len))
    luaL_error(L, "'%s' is not a header name", luaL_tolstring(L, index, NULL));
  return name;
}

/* Add the pair at (index, index + 1); both have been checked. */
static void add_header(lua_State *L, struct header_list **list, int index) {
  size_t name_len, value_len;
  const char *name = check_name(L, index, &name_len);
  const char *value = check_value(L, index + 1, name, &value_len);
  if (!header_list_add(list, name, name_len, value, value_len)) {
    header_list_free(*list);
    *list = NULL;
    luaL_error(L, "not enough memory");
  }
}

/* ---- endpoints ------------------------------------------------------------------------------- */

struct endpoint *http_check_endpoint(lua_State *L) {
  return bind_check_self(L, ENDPOINT_TYPE);
}

static int endpoint_free(lua_State *L) {
  struct endpoint *e = http_check_endpoint(L);
  free(e->method);
  place_free(e->place);
  free(e->label);
  header_list_free(e->headers);
  memset(e, 0, sizeof *e);
  return 0;
}

/* Push the field, and return its text. */
static const char *string_field(lua_State *L, const char *name, const char *absent) {
  lua_getfield(L, 1, name);
  const char *text = lua_isnil(L, -1) ? absent : lua_tostring(L, -1);
  if (text == NULL) luaL_error(L, "%s: a string expected, got %s", name, luaL_typename(L, -1));
  if (strlen(text) != lua_rawlen(L, -1) && !lua_isnil(L, -1))
    luaL_error(L, "%s: it holds a NUL byte", name);
  return text;
}

static char *copy_field(lua_State *L, const char *name, const char *absent) {
  char *copy = strdup(string_field(L, name, absent));
  if (copy == NULL) luaL_error(L, "not enough memory");
  lua_pop(L, 1);
  return copy;
}

static char *make_label(const char *method, const char *url) {
  const char *scheme_end = strstr(url, "://");
  const char *host = scheme_end != NULL ? scheme_end + 3 : url;
  size_t path = strcspn(host, "/?#");
  const char *at = NULL;
  for (size_t i = 0; i < path; i++)
    if (host[i] == '@') at = host + i;
  size_t scheme_len = (size_t)(host - url);
  if (at != NULL) host = at + 1;
  size_t shown = strcspn(host, "?#");
  char *label = malloc(strlen(method) + scheme_len + shown + 2);
  if (label == NULL) return NULL;
  char *p = label;
  p = stpcpy(p, method);
  *p++ = ' ';
  p = mempcpy(p, url, scheme_len);
  p = mempcpy(p, host, shown);
  *p = '\0';
  return label;
}

static size_t field_size(lua_State *L, const char *name, size_t absent) {
  lua_getfield(L, 1, name);
  lua_Integer n = luaL_optinteger(L, -1, (lua_Integer)absent);
  if (n < 0) luaL_error(L, "%s: bytes expected: 0 or more", name);
  lua_pop(L, 1);
  return (size_t)n;
}

static double field_number(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  lua_Number n = luaL_optnumber(L, -1, 0);
  if (!(n >= 0 && n <= 1e9)) luaL_error(L, "%s: a number expected: 0 or more", name);
  lua_pop(L, 1);
  return n;
}

/* core.endpoint { method, url, headers = { name, value, … }, connect, first, idle, total (seconds),
** min_rate (tokens a second), min_rate_over (seconds), body_max, receive_buffer (bytes) } */
static int new_endpoint(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  struct endpoint *e = lua_newuserdatauv(L, sizeof *e, 0);
  memset(e, 0, sizeof *e);
  luaL_setmetatable(L, ENDPOINT_TYPE);
  e->method = copy_field(L, "method", "GET");
  if (!is_token(e->method, strlen(e->method)))
    return luaL_error(L, "'%s' is not an HTTP method", e->method);
  const char *url = string_field(L, "url", NULL);
  e->place = place_new(url);
  e->label = make_label(e->method, url);
  if (e->place == NULL || e->label == NULL) return luaL_error(L, "not enough memory");
  lua_pop(L, 1);
  e->limits.connect_us = bind_field_seconds(L, 1, "connect", 0);
  e->limits.first_us = bind_field_seconds(L, 1, "first", 0);
  e->limits.idle_us = bind_field_seconds(L, 1, "idle", 0);
  e->limits.total_us = bind_field_seconds(L, 1, "total", 0);
  e->limits.rate_us = bind_field_seconds(L, 1, "min_rate_over", 0);
  e->limits.rate = field_number(L, "min_rate");
  if (e->limits.rate == 0) e->limits.rate_us = 0;
  e->limits.body_max = field_size(L, "body_max", HTTP_BODY_MAX);
  e->receive_buffer = field_size(L, "receive_buffer", 0);
  if (lua_getfield(L, 1, "headers") == LUA_TTABLE) {
    lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
    for (lua_Integer i = n - 1; i >= 1; i -= 2) { /* adding is prepending: last first */
      lua_rawgeti(L, 3, i);
      lua_rawgeti(L, 3, i + 1);
      add_header(L, &e->headers, lua_gettop(L) - 1);
      lua_pop(L, 2);
    }
  }
  if (!header_list_add_encodings(&e->headers)) return luaL_error(L, "not enough memory");
  lua_settop(L, 2);
  return 1;
}

static int endpoint_label(lua_State *L) {
  lua_pushstring(L, http_check_endpoint(L)->label);
  return 1;
}

/* endpoint:load() -> how many of its requests are under way. */
static int endpoint_load(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)http_check_endpoint(L)->load);
  return 1;
}

void http_read_call(lua_State *L, struct endpoint *e, int first, struct transfer_spec *spec) {
  int top = lua_gettop(L);
  memset(spec, 0, sizeof *spec);
  spec->method = e->method;
  spec->place = e->place;
  spec->common = e->headers;
  spec->limits = e->limits;
  spec->receive_buffer = e->receive_buffer;
  spec->load = &e->load;
  if (!lua_isnoneornil(L, first)) spec->body = luaL_checklstring(L, first, &spec->body_len);
  if (!lua_isnoneornil(L, first + 1)) spec->limits.total_us = bind_check_seconds(L, first + 1);
  for (int i = first + 2; i < top; i += 2) { /* check all before the first is taken */
    size_t len;
    if (!lua_isnil(L, i)) check_value(L, i + 1, check_name(L, i, &len), &len);
  }
  for (int i = first + 2; i < top; i += 2)
    if (!lua_isnil(L, i)) add_header(L, &spec->own, i);
  /* Without it libcurl waits for "100 Continue" before it sends a large prompt. */
  if (spec->body_len >= EXPECT_BYTES && !header_list_add(&spec->own, "Expect", 6, NULL, 0)) {
    header_list_free(spec->own);
    spec->own = NULL;
    luaL_error(L, "not enough memory");
  }
}

/* ---- what both kinds of reply tell ----------------------------------------------------------- */

int http_push_failure(lua_State *L, const struct transfer *t) {
  lua_pushboolean(L, 0);
  lua_pushstring(L, err_kind_name(t->kind));
  lua_pushstring(L, t->phase);
  lua_pushstring(L, t->message != NULL ? t->message : "out of memory");
  lua_pushnumber(L, (lua_Number)(loop_now_us() - t->started_us) / 1e6);
  return 5;
}

int http_status(lua_State *L, const struct transfer *t) {
  lua_pushinteger(L, t->status);
  return 1;
}

int http_header(lua_State *L, const struct transfer *t) {
  size_t len;
  const char *value = transfer_header(t, luaL_checkstring(L, 2), &len);
  if (value != NULL)
    lua_pushlstring(L, value, len);
  else
    lua_pushnil(L);
  return 1;
}

static void lower(char *s, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (s[i] >= 'A' && s[i] <= 'Z') s[i] = (char)(s[i] + ('a' - 'A'));
}

/* t[name] = value in the table on top, behind the values of that name which came before. */
static void push_joined(lua_State *L, const char *name, const char *value, size_t len) {
  if (lua_getfield(L, -1, name) != LUA_TSTRING) {
    lua_pop(L, 1);
    lua_pushlstring(L, value, len);
  } else if (lua_rawlen(L, -1) > JOINED_MAX) {
    lua_pop(L, 1);
    return;
  } else {
    lua_pushliteral(L, ", ");
    lua_pushlstring(L, value, len);
    lua_concat(L, 3);
  }
  lua_setfield(L, -2, name);
}

/* Push { [lower-case name] = value }; values of a repeated header are joined with ", ". */
int http_headers(lua_State *L, const struct transfer *t) {
  lua_newtable(L);
  if (t->headers.data == NULL) return 1;
  const char *p = t->headers.data, *end = p + t->headers.len;
  while (p < end) {
    const char *eol = memchr(p, '\n', (size_t)(end - p));
    const char *next = eol != NULL ? eol + 1 : end;
    const char *colon = memchr(p, ':', (size_t)(next - p));
    if (colon != NULL && colon - p < 256) {
      char name[256];
      size_t n = (size_t)(colon - p);
      const char *from = colon + 1, *to = next;
      while (from < to && (*from == ' ' || *from == '\t')) from++;
      while (to > from && isspace((unsigned char)to[-1])) to--;
      memcpy(name, p, n);
      name[n] = '\0';
      lower(name, n);
      push_joined(L, name, from, (size_t)(to - from));
    }
    p = next;
  }
  return 1;
}

/* The next header line from *p on that speaks of rate limits, and its length; NULL: there is none, as on
** nearly every reply. One look at the first letters of each line. */
static const char *next_limit(const char **p, const char *end, size_t *line) {
  static const char ours[] = "x-ratelimit-", anthropic[] = "anthropic-ratelimit-";
  while (*p < end) {
    const char *at = *p, *eol = memchr(at, '\n', (size_t)(end - at));
    *p = eol != NULL ? eol + 1 : end;
    *line = (size_t)(*p - at);
    if ((*line > sizeof ours && strncasecmp(at, ours, sizeof ours - 1) == 0) ||
        (*line > sizeof anthropic && strncasecmp(at, anthropic, sizeof anthropic - 1) == 0))
      return at;
  }
  return NULL;
}

bool http_has_limits(const struct transfer *t) {
  size_t line;
  const char *p = t->headers.data;
  return p != NULL && next_limit(&p, p + t->headers.len, &line) != NULL;
}

/* Push { [lower-case name] = value } of the headers that speak of rate limits, or nil when there
** are none. */
int http_limits(lua_State *L, const struct transfer *t) {
  bool found = false;
  lua_settop(L, 1);
  if (t->headers.data == NULL) return 0;
  const char *p = t->headers.data, *end = p + t->headers.len, *at;
  size_t line;
  while ((at = next_limit(&p, end, &line)) != NULL) {
    const char *colon = memchr(at, ':', line);
    if (colon == NULL || colon - at >= 256) continue;
    char name[256];
    size_t n = (size_t)(colon - at), len;
    memcpy(name, at, n);
    name[n] = '\0';
    const char *value = transfer_header(t, name, &len);
    lower(name, n);
    if (!found) lua_newtable(L);
    found = true;
    lua_pushlstring(L, value != NULL ? value : "", value != NULL ? len : 0);
    lua_setfield(L, -2, name);
  }
  return found ? 1 : 0;
}

int http_times(lua_State *L, const struct transfer *t) {
  if (t->first_byte_us > 0)
    lua_pushnumber(L, (lua_Number)(t->first_byte_us - t->started_us) / 1e6);
  else
    lua_pushnil(L);
  int64_t end = t->ended_us > 0 ? t->ended_us : loop_now_us();
  lua_pushnumber(L, (lua_Number)(end - t->started_us) / 1e6);
  return 2;
}

/* core.resolve(base, location) -> url, same origin? | nil, why */
static int resolve(lua_State *L) {
  const char *why = NULL;
  bool same = false;
  size_t len;
  const char *location = luaL_checklstring(L, 2, &len);
  char *url = NULL;
  if (strlen(location) != len)
    why = "it holds a NUL byte";
  else
    url = url_resolve(luaL_checkstring(L, 1), location, &same, &why);
  if (url == NULL) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
  }
  lua_pushstring(L, url);
  lua_pushboolean(L, same);
  free(url);
  return 2;
}

int luaopen_sluice_core_http(lua_State *L) {
  if (network_init() != 0) return luaL_error(L, "libcurl could not be initialised");
  static const luaL_Reg methods[] = {{"request", http_endpoint_request},
                                     {"stream", http_endpoint_stream},
                                     {"label", endpoint_label},
                                     {"load", endpoint_load},
                                     {"__gc", endpoint_free},
                                     {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"endpoint", new_endpoint}, {"resolve", resolve}, {NULL, NULL}};
  bind_new_type(L, ENDPOINT_TYPE, methods);
  lua_pop(L, 1);
  http_open_response(L);
  http_open_stream(L);
  luaL_newlib(L, functions);
  return 1;
}
