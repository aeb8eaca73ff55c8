/*
** Metrics: counters, gauges and histograms with labels, and their two text forms.
** Owns: names and help, every series and its value. How many there can be is bounded: a label keeps
** its first values (METRICS_VALUES_MAX unless said otherwise), later ones are counted as `other`; a
** metric keeps METRICS_SERIES_MAX series, later combinations are counted as `other` in every label.
** Never: knows what is measured, reads a clock, looks at a locale, forgets a series.
** Not for threads.
*/
#ifndef SLUICE_BASE_METRICS_H
#define SLUICE_BASE_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

enum metrics_status {
  METRICS_OK,
  METRICS_NOMEM,
  METRICS_FULL, /* METRICS_MAX metrics are there already */
  METRICS_TAKEN /* one of the names it would show is another metric's: see `taken_by` */
};

enum metrics_format {
  METRICS_TEXT,       /* Prometheus text 0.0.4 */
  METRICS_OPENMETRICS /* OpenMetrics 1.0 */
};

struct metrics_bytes {
  const char *bytes;
  size_t len;
};

/* One value and the labels it belongs to. Lives as long as the registry. */
struct metric_series {
  struct metric *metric;
  struct metric_series *next, *next_in_slot;
  double value;      /* of a histogram: the sum of what was observed */
  uint64_t count;    /* of a histogram: how often */
  uint64_t *buckets; /* of a histogram: one for each bound, and what is above the last; else NULL */
  uint32_t labels[]; /* numbers of the values, in the order of the names */
};

struct metric_label {
  char *name;
  struct metrics_bytes *values; /* by number; number 0 is `other` */
  uint32_t *slots;              /* a hash table of numbers, 0: empty; twice as many as values */
  uint32_t count, room;
};

struct metric {
  struct metric *next;
  enum metric_kind kind;
  char *name, *help;
  size_t label_count;
  struct metric_label *labels;
  size_t bound_count;
  double *bounds; /* upper ones, ascending, without +Inf */
  uint32_t values_max;
  struct metric_series *first, *last;
  struct metric_series **slots;
  size_t series_count, slot_count;
};

struct metrics {
  struct metric *first, *last;
  size_t count;
};

struct metric_spec {
  enum metric_kind kind;
  const char *name, *help;
  size_t label_count;
  const char *const *labels;
  size_t bound_count;
  const double *bounds;
  uint32_t values_max; /* 0: METRICS_VALUES_MAX */
};

/* [a-zA-Z_:][a-zA-Z0-9_:]*, and for labels the same without the colon. */
bool metrics_is_name(const char *name, size_t len);
bool metrics_is_label(const char *name, size_t len);

void metrics_init(struct metrics *m);
void metrics_free(struct metrics *m);

struct metric *metrics_find(const struct metrics *m, const char *name);
/* The spec must be sound: names checked, bounds ascending, finite, at most METRICS_BUCKETS_MAX.
** On METRICS_TAKEN `*out` is the metric that has the name. */
enum metrics_status metrics_add(struct metrics *m, const struct metric_spec *spec,
                                struct metric **out);
bool metric_is_like(const struct metric *metric, const struct metric_spec *spec);

/* The series of these values, made when it is the first time; NULL: out of memory. What is no UTF-8
** is repaired, and long values are cut at METRICS_VALUE_BYTES_MAX. */
struct metric_series *metric_at(struct metric *metric, const struct metrics_bytes *values);

static inline void series_add(struct metric_series *s, double amount) {
  s->value += amount;
}

static inline void series_set(struct metric_series *s, double value) {
  s->value = value;
}

void series_observe(struct metric_series *s, double value);

/* Everything, as text. */
enum buf_status metrics_write(const struct metrics *m, enum metrics_format format, struct buf *out);
/* A number as both forms want it, whatever the locale: the shortest decimals that read back as the
** same double. */
enum buf_status metrics_write_number(struct buf *out, double value);

#endif
