/* The registry of metrics: see metrics.h. How it is written: metrics_text.c. */
#include "base/metrics.h"

#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/utf8.h"

#define OTHER "other"
#define SLOTS_FIRST 8 /* a power of two, as every size of a table here */

/* ---- names ------------------------------------------------------------------------------------
 */

static bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_word(const char *name, size_t len, bool colon) {
  if (len == 0 || (name[0] >= '0' && name[0] <= '9')) return false;
  for (size_t i = 0; i < len; i++) {
    char c = name[i];
    if (!is_letter(c) && !(c >= '0' && c <= '9') && !(colon && c == ':')) return false;
  }
  return true;
}

bool metrics_is_name(const char *name, size_t len) {
  return is_word(name, len, true);
}

bool metrics_is_label(const char *name, size_t len) {
  return is_word(name, len, false);
}

/* Everything a metric shows under its name. A counter is also, in OpenMetrics, the family without
** `_total`. */
struct shown {
  char names[4][METRICS_NAME_MAX + 8];
  int count;
};

static void show(struct shown *s, const char *base, size_t len, const char *suffix) {
  memcpy(s->names[s->count], base, len);
  strcpy(s->names[s->count++] + len, suffix);
}

static void show_all(struct shown *s, enum metric_kind kind, const char *name) {
  size_t len = strlen(name);
  s->count = 0;
  show(s, name, len, "");
  if (kind == METRIC_HISTOGRAM) {
    show(s, name, len, "_bucket");
    show(s, name, len, "_sum");
    show(s, name, len, "_count");
  } else if (kind == METRIC_COUNTER) {
    if (len > 6 && strcmp(name + len - 6, "_total") == 0)
      show(s, name, len - 6, "");
    else
      show(s, name, len, "_total");
  }
}

static bool collide(const struct shown *a, const struct shown *b) {
  for (int i = 0; i < a->count; i++)
    for (int j = 0; j < b->count; j++)
      if (strcmp(a->names[i], b->names[j]) == 0) return true;
  return false;
}

/* ---- labels -----------------------------------------------------------------------------------
 */

/* FNV-1a: short texts that a script chooses, in tables that are bounded. */
static uint32_t hash_bytes(const void *bytes, size_t n) {
  const unsigned char *p = bytes;
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 16777619u;
  return h;
}

static bool same(const struct metrics_bytes *a, const char *bytes, size_t len) {
  return a->len == len && memcmp(a->bytes, bytes, len) == 0;
}

/* The slot where the value is, or the empty one where it would be. */
static uint32_t *slot_of(struct metric_label *label, const char *bytes, size_t len) {
  uint32_t mask = 2 * label->room - 1, at = hash_bytes(bytes, len) & mask;
  while (label->slots[at] != 0 && !same(&label->values[label->slots[at]], bytes, len))
    at = (at + 1) & mask;
  return &label->slots[at];
}

static bool grow_label(struct metric_label *label) {
  uint32_t room = label->room == 0 ? SLOTS_FIRST : 2 * label->room;
  struct metrics_bytes *values = realloc(label->values, room * sizeof *values);
  if (values == NULL) return false;
  label->values = values;
  uint32_t *slots = calloc(2 * (size_t)room, sizeof *slots);
  if (slots == NULL) return false;
  free(label->slots);
  label->slots = slots;
  label->room = room;
  for (uint32_t i = 1; i < label->count; i++) *slot_of(label, values[i].bytes, values[i].len) = i;
  return true;
}

static bool keep_value(struct metric_label *label, const char *bytes, size_t len) {
  if (label->count == label->room && !grow_label(label)) return false;
  char *copy = malloc(len + 1);
  if (copy == NULL) return false;
  memcpy(copy, bytes, len);
  copy[len] = '\0';
  struct metrics_bytes *value = &label->values[label->count++];
  value->bytes = copy;
  value->len = len;
  return true;
}

static bool init_label(struct metric_label *label, const char *name) {
  label->name = strdup(name);
  return label->name != NULL && keep_value(label, OTHER, strlen(OTHER));
}

/* What of a value is kept: well-formed, and of bounded length. */
static bool add_clean(struct metric_label *label, const char *bytes, size_t len) {
  if (len > METRICS_VALUE_BYTES_MAX) {
    len = METRICS_VALUE_BYTES_MAX;
    while (len > 0 && ((unsigned char)bytes[len] & 0xC0) == 0x80)
      len--; /* not inside a character */
  }
  if (utf8_valid_prefix(bytes, len) == len) return keep_value(label, bytes, len);
  struct buf clean;
  buf_init(&clean, 3 * METRICS_VALUE_BYTES_MAX);
  bool ok = utf8_repair(bytes, len, &clean) == BUF_OK && keep_value(label, clean.data, clean.len);
  buf_free(&clean);
  return ok;
}

/* The number of a value, 0 (`other`) when there are too many; false: out of memory. What had to be
** cleaned is looked up by what it has become. */
static bool number_of(struct metric_label *label, uint32_t most, const struct metrics_bytes *value,
                      uint32_t *number) {
  *number = *slot_of(label, value->bytes, value->len);
  if (*number != 0 || same(&label->values[0], value->bytes, value->len)) return true;
  uint32_t count = label->count;
  if (!add_clean(label, value->bytes, value->len)) return false;
  struct metrics_bytes kept = label->values[count];
  uint32_t *slot = slot_of(label, kept.bytes, kept.len);
  if (*slot != 0 || count > most || same(&label->values[0], kept.bytes, kept.len)) {
    *number = *slot;
    free((char *)kept.bytes);
    label->count = count;
    return true;
  }
  *slot = *number = count;
  return true;
}

/* ---- series -----------------------------------------------------------------------------------
 */

static uint32_t hash_numbers(const struct metric *metric, const uint32_t *numbers) {
  return hash_bytes(numbers, metric->label_count * sizeof *numbers);
}

static struct metric_series *find_series(const struct metric *metric, const uint32_t *numbers) {
  if (metric->slot_count == 0) return NULL;
  struct metric_series *s = metric->slots[hash_numbers(metric, numbers) & (metric->slot_count - 1)];
  while (s != NULL && memcmp(s->labels, numbers, metric->label_count * sizeof *numbers) != 0)
    s = s->next_in_slot;
  return s;
}

static void put_in_slot(struct metric *metric, struct metric_series *s) {
  struct metric_series **slot =
      &metric->slots[hash_numbers(metric, s->labels) & (metric->slot_count - 1)];
  s->next_in_slot = *slot;
  *slot = s;
}

static bool grow_slots(struct metric *metric) {
  size_t count = metric->slot_count == 0 ? SLOTS_FIRST : 2 * metric->slot_count;
  struct metric_series **slots = calloc(count, sizeof(struct metric_series *));
  if (slots == NULL) return false;
  free(metric->slots);
  metric->slots = slots;
  metric->slot_count = count;
  for (struct metric_series *s = metric->first; s != NULL; s = s->next) put_in_slot(metric, s);
  return true;
}

static struct metric_series *new_series(struct metric *metric, const uint32_t *numbers) {
  if (metric->series_count == metric->slot_count && !grow_slots(metric)) return NULL;
  size_t labels = metric->label_count * sizeof *numbers;
  struct metric_series *s = calloc(1, sizeof *s + labels);
  if (s == NULL) return NULL;
  if (metric->kind == METRIC_HISTOGRAM) {
    s->buckets = calloc(metric->bound_count + 1, sizeof *s->buckets);
    if (s->buckets == NULL) {
      free(s);
      return NULL;
    }
  }
  s->metric = metric;
  memcpy(s->labels, numbers, labels);
  if (metric->last != NULL)
    metric->last->next = s;
  else
    metric->first = s;
  metric->last = s;
  metric->series_count++;
  put_in_slot(metric, s);
  return s;
}

struct metric_series *metric_at(struct metric *metric, const struct metrics_bytes *values) {
  uint32_t numbers[METRICS_LABELS_MAX];
  for (size_t i = 0; i < metric->label_count; i++)
    if (!number_of(&metric->labels[i], metric->values_max, &values[i], &numbers[i])) return NULL;
  struct metric_series *s = find_series(metric, numbers);
  if (s != NULL) return s;
  if (metric->series_count >= METRICS_SERIES_MAX) {
    memset(numbers, 0, sizeof numbers);
    s = find_series(metric, numbers);
  }
  return s != NULL ? s : new_series(metric, numbers);
}

void series_observe(struct metric_series *s, double value) {
  const double *bounds = s->metric->bounds;
  size_t n = s->metric->bound_count, i = 0;
  while (i < n && value > bounds[i]) i++; /* few, and most values are small */
  s->buckets[i]++;
  s->count++;
  s->value += value;
}

/* ---- metrics ----------------------------------------------------------------------------------
 */

void metrics_init(struct metrics *m) {
  *m = (struct metrics){0};
}

static void free_metric(struct metric *metric) {
  for (struct metric_series *s = metric->first, *next; s != NULL; s = next) {
    next = s->next;
    free(s->buckets);
    free(s);
  }
  for (size_t i = 0; metric->labels != NULL && i < metric->label_count; i++) {
    struct metric_label *label = &metric->labels[i];
    for (uint32_t j = 0; j < label->count; j++) free((char *)label->values[j].bytes);
    free(label->values);
    free(label->slots);
    free(label->name);
  }
  free(metric->labels);
  free(metric->slots);
  free(metric->bounds);
  free(metric->name);
  free(metric->help);
  free(metric);
}

void metrics_free(struct metrics *m) {
  for (struct metric *metric = m->first, *next; metric != NULL; metric = next) {
    next = metric->next;
    free_metric(metric);
  }
  metrics_init(m);
}

struct metric *metrics_find(const struct metrics *m, const char *name) {
  struct metric *metric = m->first;
  while (metric != NULL && strcmp(metric->name, name) != 0) metric = metric->next;
  return metric;
}

static struct metric *new_metric(const struct metric_spec *spec) {
  struct metric *metric = calloc(1, sizeof *metric);
  if (metric == NULL) return NULL;
  metric->kind = spec->kind;
  metric->values_max = spec->values_max != 0 ? spec->values_max : METRICS_VALUES_MAX;
  metric->label_count = spec->label_count;
  metric->bound_count = spec->bound_count;
  metric->name = strdup(spec->name);
  metric->help = strdup(spec->help);
  metric->labels = calloc(spec->label_count + 1, sizeof *metric->labels);
  metric->bounds = calloc(spec->bound_count + 1, sizeof *metric->bounds);
  bool ok = metric->name != NULL && metric->help != NULL && metric->labels != NULL &&
            metric->bounds != NULL;
  for (size_t i = 0; ok && i < spec->label_count; i++)
    ok = init_label(&metric->labels[i], spec->labels[i]);
  if (!ok) {
    free_metric(metric);
    return NULL;
  }
  if (spec->bound_count > 0)
    memcpy(metric->bounds, spec->bounds, spec->bound_count * sizeof *spec->bounds);
  return metric;
}

enum metrics_status metrics_add(struct metrics *m, const struct metric_spec *spec,
                                struct metric **out) {
  struct shown wanted, known;
  show_all(&wanted, spec->kind, spec->name);
  for (struct metric *other = m->first; other != NULL; other = other->next) {
    show_all(&known, other->kind, other->name);
    if (!collide(&known, &wanted)) continue;
    *out = other;
    return METRICS_TAKEN;
  }
  if (m->count >= METRICS_MAX) return METRICS_FULL;
  struct metric *metric = new_metric(spec);
  if (metric == NULL) return METRICS_NOMEM;
  /* without labels there is one series, and it is 0 from the start: a rate begins somewhere */
  const uint32_t no_labels[1] = {0};
  if (spec->label_count == 0 && new_series(metric, no_labels) == NULL) {
    free_metric(metric);
    return METRICS_NOMEM;
  }
  if (m->last != NULL)
    m->last->next = metric;
  else
    m->first = metric;
  m->last = metric;
  m->count++;
  *out = metric;
  return METRICS_OK;
}

bool metric_is_like(const struct metric *metric, const struct metric_spec *spec) {
  if (metric->kind != spec->kind || strcmp(metric->name, spec->name) != 0 ||
      metric->label_count != spec->label_count || metric->bound_count != spec->bound_count)
    return false;
  for (size_t i = 0; i < spec->label_count; i++)
    if (strcmp(metric->labels[i].name, spec->labels[i]) != 0) return false;
  for (size_t i = 0; i < spec->bound_count; i++)
    if (metric->bounds[i] < spec->bounds[i] || metric->bounds[i] > spec->bounds[i]) return false;
  return true;
}
