/*
** sluice.core.metrics: a registry of metrics for Lua. What scripts see of it, with its checks and
** words, is lualib/sluice/metrics.lua.
**
** Metrics and series belong to their registry, and registries live until the Lua state is gone:
** a value may be counted in the last finalizer.
*/
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "bind/bind.h"

#define REGISTRY_TYPE "sluice.metrics.registry"
#define METRIC_TYPE "sluice.metrics.metric"

struct registry {
  struct metrics metrics;
  struct registry *next;
};

static struct registry *registries;

static const char *const kinds[] = {"counter", "gauge", "histogram", NULL};
static const char *const series_types[] = {"sluice.metrics.counter.series",
                                           "sluice.metrics.gauge.series",
                                           "sluice.metrics.histogram.series"};

void bind_close_metrics(void) {
  for (struct registry *r = registries, *next; r != NULL; r = next) {
    next = r->next;
    metrics_free(&r->metrics);
    free(r);
  }
  registries = NULL;
}

/* ---- series -----------------------------------------------------------------------------------
 */

/* The methods of a kind of series have its metatable as their upvalue: cheaper than a name. */
static struct metric_series *check_series(lua_State *L) {
  struct metric_series **s = lua_touserdata(L, 1);
  if (s == NULL || !lua_getmetatable(L, 1) || !lua_rawequal(L, -1, lua_upvalueindex(1))) {
    luaL_error(L, "a series of metrics expected (use ':', not '.')");
    abort(); /* not reached, which the analyzer does not know */
  }
  lua_pop(L, 1);
  return *s;
}

static lua_Number check_amount(lua_State *L, const struct metric_series *s) {
  lua_Number n = luaL_checknumber(L, 2);
  if (!isfinite(n)) luaL_error(L, "%s: a finite number expected", s->metric->name);
  if (n < 0 && s->metric->kind == METRIC_COUNTER)
    luaL_error(L, "%s: a counter never goes down (use a gauge)", s->metric->name);
  return n;
}

static int series_inc_(lua_State *L) {
  series_add(check_series(L), 1);
  return 0;
}

static int series_dec_(lua_State *L) {
  series_add(check_series(L), -1);
  return 0;
}

static int series_add_(lua_State *L) {
  struct metric_series *s = check_series(L);
  series_add(s, check_amount(L, s));
  return 0;
}

static int series_set_(lua_State *L) {
  series_set(check_series(L), luaL_checknumber(L, 2));
  return 0;
}

static int series_observe_(lua_State *L) {
  struct metric_series *s = check_series(L);
  series_observe(s, check_amount(L, s));
  return 0;
}

/* series:value() -> the number; of a histogram the sum, and how many were observed. */
static int series_value(lua_State *L) {
  const struct metric_series *s = check_series(L);
  lua_pushnumber(L, s->value);
  if (s->buckets == NULL) return 1;
  lua_pushinteger(L, (lua_Integer)s->count);
  return 2;
}

/* ---- tallies: series that are counted together, in one call from Lua --------------------------- */

#define TALLY_MAX 8

struct tally {
  size_t count;
  struct metric_series *series[TALLY_MAX];
};

/* tally(n, …): a number for each series; what is none, or cannot be counted, is passed over, so that this
** never raises. The series are its upvalue: no method to look up, no self to check. */
static int tally_count(lua_State *L) {
  const struct tally *t = lua_touserdata(L, lua_upvalueindex(1));
  for (size_t i = 0; i < t->count; i++) {
    struct metric_series *s = t->series[i];
    int number;
    lua_Number n = lua_tonumberx(L, (int)i + 1, &number);
    if (!number || !isfinite(n) || (n < 0 && s->metric->kind == METRIC_COUNTER)) continue;
    if (s->buckets != NULL)
      series_observe(s, n);
    else
      series_add(s, n);
  }
  return 0;
}

/* core.tally(series, …) -> the function that counts them. */
static int new_tally(lua_State *L) {
  int n = lua_gettop(L);
  luaL_argcheck(L, n <= TALLY_MAX, TALLY_MAX + 1, "too many series");
  struct tally *t = lua_newuserdatauv(L, sizeof *t, 0);
  t->count = (size_t)n;
  for (int i = 1; i <= n; i++) {
    void *s = NULL;
    for (size_t kind = 0; kind < sizeof series_types / sizeof *series_types && s == NULL; kind++)
      s = luaL_testudata(L, i, series_types[kind]);
    luaL_argcheck(L, s != NULL, i, "a series expected");
    t->series[i - 1] = *(struct metric_series **)s;
  }
  lua_pushcclosure(L, tally_count, 1);
  return 1;
}

/* ---- metrics ----------------------------------------------------------------------------------
 */

static struct metric *check_metric(lua_State *L) {
  return *(struct metric **)luaL_checkudata(L, 1, METRIC_TYPE);
}

/* The same series is the same value: user value 1 of the metric has them by their address. */
static int push_series(lua_State *L, struct metric_series *s) {
  if (s == NULL) return luaL_error(L, "not enough memory");
  lua_getiuservalue(L, 1, 1);
  if (lua_rawgetp(L, -1, s) != LUA_TNIL) return 1;
  lua_pop(L, 1);
  struct metric_series **box = lua_newuserdatauv(L, sizeof(struct metric_series *), 0);
  *box = s;
  luaL_setmetatable(L, series_types[s->metric->kind]);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, -3, s);
  return 1;
}

/* metric:at(value, …) -> the series of these values, in the order of the labels. */
static int metric_at_(lua_State *L) {
  struct metric *m = check_metric(L);
  struct metrics_bytes values[METRICS_LABELS_MAX];
  for (size_t i = 0; i < m->label_count; i++)
    values[i].bytes = luaL_checklstring(L, (int)i + 2, &values[i].len);
  return push_series(L, metric_at(m, values));
}

static int push_problem(lua_State *L, const char *problem, const char *label) {
  lua_pushnil(L);
  lua_pushstring(L, problem);
  if (label != NULL)
    lua_pushstring(L, label);
  else
    lua_pushvalue(L, -4);
  return 3;
}

/* metric:with(labels) -> the series of { label = value }; or nil, "missing", "unknown" or "value",
** and the label that is. */
static int metric_with(lua_State *L) {
  struct metric *m = check_metric(L);
  struct metrics_bytes values[METRICS_LABELS_MAX];
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  luaL_checkstack(L, 2 * METRICS_LABELS_MAX + 8, NULL);
  for (size_t i = 0; i < m->label_count; i++) {
    int type = lua_getfield(L, 2, m->labels[i].name);
    if (type == LUA_TNIL) return push_problem(L, "missing", m->labels[i].name);
    if (type != LUA_TSTRING && type != LUA_TNUMBER && type != LUA_TBOOLEAN)
      return push_problem(L, "value", m->labels[i].name);
    if (type != LUA_TSTRING) luaL_tolstring(L, -1, NULL);
    values[i].bytes = lua_tolstring(L, -1, &values[i].len); /* stays on the stack */
  }
  size_t given = 0;
  lua_pushnil(L);
  while (lua_next(L, 2)) {
    lua_pop(L, 1);
    given++;
  }
  if (given == m->label_count) return push_series(L, metric_at(m, values));
  lua_pushnil(L);
  while (lua_next(L, 2)) {
    lua_pop(L, 1);
    bool known = false;
    for (size_t i = 0; i < m->label_count && !known; i++)
      known = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), m->labels[i].name) == 0;
    if (!known) break; /* there is one: the known ones are all there */
  }
  return push_problem(L, "unknown", NULL);
}

static void push_labels(lua_State *L, const struct metric *m) {
  lua_createtable(L, (int)m->label_count, 0);
  for (size_t i = 0; i < m->label_count; i++) {
    lua_pushstring(L, m->labels[i].name);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

static void push_numbers(lua_State *L, const double *numbers, size_t n) {
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_pushnumber(L, numbers[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

static void push_one_series(lua_State *L, const struct metric_series *s) {
  const struct metric *m = s->metric;
  lua_createtable(L, 0, 4);
  lua_createtable(L, 0, (int)m->label_count);
  for (size_t i = 0; i < m->label_count; i++) {
    const struct metrics_bytes *value = &m->labels[i].values[s->labels[i]];
    lua_pushlstring(L, value->bytes, value->len);
    lua_setfield(L, -2, m->labels[i].name);
  }
  lua_setfield(L, -2, "labels");
  lua_pushnumber(L, s->value);
  lua_setfield(L, -2, "value");
  if (s->buckets == NULL) return;
  lua_pushinteger(L, (lua_Integer)s->count);
  lua_setfield(L, -2, "count");
  lua_createtable(L, (int)m->bound_count + 1, 0);
  for (size_t i = 0; i <= m->bound_count; i++) {
    lua_pushinteger(L, (lua_Integer)s->buckets[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, "buckets");
}

/* metric:look() -> { kind =, name =, help =, labels = names, bounds =, series = a list of
** { labels = values by name, value =, count =, buckets = counts that are not cumulative } } */
static int metric_look(lua_State *L) {
  const struct metric *m = check_metric(L);
  lua_createtable(L, 0, 6);
  lua_pushstring(L, kinds[m->kind]);
  lua_setfield(L, -2, "kind");
  lua_pushstring(L, m->name);
  lua_setfield(L, -2, "name");
  lua_pushstring(L, m->help);
  lua_setfield(L, -2, "help");
  push_labels(L, m);
  lua_setfield(L, -2, "labels");
  push_numbers(L, m->bounds, m->bound_count);
  lua_setfield(L, -2, "bounds");
  lua_createtable(L, (int)m->series_count, 0);
  lua_Integer n = 0;
  for (const struct metric_series *s = m->first; s != NULL; s = s->next) {
    push_one_series(L, s);
    lua_rawseti(L, -2, ++n);
  }
  lua_setfield(L, -2, "series");
  return 1;
}

/* ---- the registry -----------------------------------------------------------------------------
 */

static struct metrics *check_registry(lua_State *L) {
  return &(*(struct registry **)luaL_checkudata(L, 1, REGISTRY_TYPE))->metrics;
}

static int new_registry(lua_State *L) {
  struct registry **box = lua_newuserdatauv(L, sizeof(struct registry *), 1);
  *box = calloc(1, sizeof **box);
  if (*box == NULL) return luaL_error(L, "not enough memory");
  metrics_init(&(*box)->metrics);
  (*box)->next = registries;
  registries = *box;
  luaL_setmetatable(L, REGISTRY_TYPE);
  lua_newtable(L); /* the metrics by their address: the same metric is the same value */
  lua_setiuservalue(L, -2, 1);
  return 1;
}

static int push_metric(lua_State *L, struct metric *m) {
  lua_getiuservalue(L, 1, 1);
  if (lua_rawgetp(L, -1, m) != LUA_TNIL) return 1;
  lua_pop(L, 1);
  struct metric **box = lua_newuserdatauv(L, sizeof(struct metric *), 1);
  *box = m;
  luaL_setmetatable(L, METRIC_TYPE);
  lua_newtable(L);
  lua_setiuservalue(L, -2, 1);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, -3, m);
  return 1;
}

static size_t check_labels(lua_State *L, int arg, const char **labels) {
  luaL_checktype(L, arg, LUA_TTABLE);
  size_t n = lua_rawlen(L, arg);
  luaL_argcheck(L, n <= METRICS_LABELS_MAX, arg, "too many labels");
  for (size_t i = 0; i < n; i++) {
    size_t len;
    lua_rawgeti(L, arg, (lua_Integer)i + 1);
    labels[i] = luaL_checklstring(L, -1, &len);
    luaL_argcheck(L, metrics_is_label(labels[i], len) && len <= METRICS_NAME_MAX, arg,
                  "not a label's name");
  }
  return n;
}

static size_t check_bounds(lua_State *L, int arg, double *bounds) {
  luaL_checktype(L, arg, LUA_TTABLE);
  size_t n = lua_rawlen(L, arg);
  luaL_argcheck(L, n <= METRICS_BUCKETS_MAX, arg, "too many buckets");
  for (size_t i = 0; i < n; i++) {
    lua_rawgeti(L, arg, (lua_Integer)i + 1);
    bounds[i] = luaL_checknumber(L, -1);
    luaL_argcheck(L, isfinite(bounds[i]) && (i == 0 || bounds[i] > bounds[i - 1]), arg,
                  "bounds must be finite and ascend");
    lua_pop(L, 1);
  }
  return n;
}

/* registry:add(kind, name, help, labels, bounds[, max_values]) -> the metric, also when it is there
** already and of the same shape; or nil, "taken", the name of the one in the way; or nil, "full".
 */
static int registry_add(lua_State *L) {
  struct metrics *all = check_registry(L);
  const char *labels[METRICS_LABELS_MAX];
  double bounds[METRICS_BUCKETS_MAX];
  size_t name_len;
  struct metric_spec spec = {.labels = labels, .bounds = bounds};
  lua_settop(L, 7);
  luaL_checkstack(L, METRICS_LABELS_MAX + 8, NULL);
  spec.kind = (enum metric_kind)luaL_checkoption(L, 2, NULL, kinds);
  spec.name = luaL_checklstring(L, 3, &name_len);
  luaL_argcheck(L, metrics_is_name(spec.name, name_len) && name_len <= METRICS_NAME_MAX, 3,
                "not a metric's name");
  spec.help = luaL_checkstring(L, 4);
  spec.label_count = check_labels(L, 5, labels); /* they stay on the stack */
  spec.bound_count = check_bounds(L, 6, bounds);
  lua_Integer most = luaL_optinteger(L, 7, METRICS_VALUES_MAX);
  luaL_argcheck(L, most >= 1 && most <= METRICS_SERIES_MAX, 7, "out of range");
  spec.values_max = (uint32_t)most;
  struct metric *m = NULL;
  switch (metrics_add(all, &spec, &m)) {
  case METRICS_OK:
    return push_metric(L, m);
  case METRICS_TAKEN:
    if (metric_is_like(m, &spec)) return push_metric(L, m);
    lua_pushnil(L);
    lua_pushliteral(L, "taken");
    lua_pushstring(L, m->name);
    return 3;
  case METRICS_FULL:
    lua_pushnil(L);
    lua_pushliteral(L, "full");
    return 2;
  case METRICS_NOMEM:
    break;
  }
  return luaL_error(L, "not enough memory");
}

struct page {
  struct buf buf;
};

static int page_free(lua_State *L) {
  buf_free(&((struct page *)lua_touserdata(L, 1))->buf);
  return 0;
}

/* registry:text([openmetrics]) -> all of it, in one of the two text forms. */
static int registry_text(lua_State *L) {
  const struct metrics *all = check_registry(L);
  bool open = lua_toboolean(L, 2);
  struct page *page = lua_newuserdatauv(L, sizeof *page, 0);
  buf_init(&page->buf, METRICS_PAGE_MAX);
  luaL_setmetatable(L, "sluice.metrics.page"); /* freed also when the string cannot be made */
  switch (metrics_write(all, open ? METRICS_OPENMETRICS : METRICS_TEXT, &page->buf)) {
  case BUF_OK:
    lua_pushlstring(L, page->buf.len > 0 ? page->buf.data : "", page->buf.len);
    buf_free(&page->buf);
    return 1;
  case BUF_FULL:
    return luaL_error(L, "the metrics are more than %d MiB of text", METRICS_PAGE_MAX >> 20);
  case BUF_NOMEM:
    break;
  }
  return luaL_error(L, "not enough memory");
}

/* registry:metrics() -> a list of all metrics. */
static int registry_metrics(lua_State *L) {
  struct metrics *all = check_registry(L);
  lua_Integer n = 0;
  lua_settop(L, 1);
  lua_createtable(L, (int)all->count, 0);
  for (struct metric *m = all->first; m != NULL; m = m->next) {
    push_metric(L, m);
    lua_rawseti(L, 2, ++n);
    lua_settop(L, 2);
  }
  return 1;
}

static void new_series_type(lua_State *L, enum metric_kind kind, const luaL_Reg *methods) {
  luaL_newmetatable(L, series_types[kind]);
  lua_createtable(L, 0, 4);
  lua_pushvalue(L, -2);
  luaL_setfuncs(L, methods, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, kinds[kind]); /* Lua adds what says which methods there are */
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

int luaopen_sluice_core_metrics(lua_State *L) {
  static const luaL_Reg counter[] = {
      {"inc", series_inc_}, {"add", series_add_}, {"value", series_value}, {NULL, NULL}};
  static const luaL_Reg gauge[] = {{"inc", series_inc_},    {"dec", series_dec_},
                                   {"add", series_add_},    {"set", series_set_},
                                   {"value", series_value}, {NULL, NULL}};
  static const luaL_Reg histogram[] = {
      {"observe", series_observe_}, {"value", series_value}, {NULL, NULL}};
  static const luaL_Reg metric[] = {
      {"at", metric_at_}, {"with", metric_with}, {"look", metric_look}, {NULL, NULL}};
  static const luaL_Reg registry[] = {
      {"add", registry_add}, {"text", registry_text}, {"metrics", registry_metrics}, {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"registry", new_registry}, {"tally", new_tally}, {NULL, NULL}};
  luaL_newlib(L, functions);
  new_series_type(L, METRIC_COUNTER, counter);
  new_series_type(L, METRIC_GAUGE, gauge);
  new_series_type(L, METRIC_HISTOGRAM, histogram);
  luaL_newmetatable(L, METRIC_TYPE);
  luaL_newlib(L, metric);
  lua_setfield(L, -2, "__index");
  luaL_newmetatable(L, REGISTRY_TYPE);
  luaL_newlib(L, registry);
  lua_setfield(L, -2, "__index");
  luaL_newmetatable(L, "sluice.metrics.page");
  lua_pushcfunction(L, page_free);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 3);
  return 1;
}
