/*
** Metrics as text: Prometheus text 0.0.4 and OpenMetrics 1.0. Where they differ: a counter's family
** has no `_total` in OpenMetrics, bounds are written as floats there (1.0), help escapes quotes,
** units have a line, and the text ends with `# EOF`.
*/
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"

/* One status for a whole text: after the first failure nothing more is written. */
struct writer {
  struct buf *out;
  enum buf_status status;
  bool open; /* OpenMetrics */
};

static void put(struct writer *w, const char *bytes, size_t n) {
  if (w->status == BUF_OK) w->status = buf_append(w->out, bytes, n);
}

static void put_text(struct writer *w, const char *text) {
  put(w, text, strlen(text));
}

/* ---- numbers ----------------------------------------------------------------------------------
 */

/* The locale's decimal point, which may be several bytes, becomes a dot. */
static size_t without_locale(char *text) {
  size_t n = 0;
  bool point = false;
  for (const char *p = text; *p != '\0'; p++) {
    bool plain = (*p >= '0' && *p <= '9') || *p == '-' || *p == '+' || *p == 'e';
    if (plain || !point) text[n++] = plain ? *p : '.';
    if (!plain) point = true;
  }
  text[n] = '\0';
  return n;
}

enum buf_status metrics_write_number(struct buf *out, double value) {
  char text[64];
  if (isnan(value)) return buf_append(out, "NaN", 3);
  if (isinf(value)) return buf_append(out, value > 0 ? "+Inf" : "-Inf", 4);
  if (fabs(value) < 1e15 && value == trunc(value)) {
    int n = snprintf(text, sizeof text, "%lld", (long long)value);
    return buf_append(out, text, (size_t)n);
  }
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, value);
    if (strtod(text, NULL) == value) break; /* read in the same locale as it was written */
  }
  return buf_append(out, text, without_locale(text));
}

static void put_number(struct writer *w, double value) {
  if (w->status == BUF_OK) w->status = metrics_write_number(w->out, value);
}

/* A bound, as a label's value. */
static void put_bound(struct writer *w, double bound) {
  size_t from = w->out->len;
  put_number(w, bound);
  if (!w->open || w->status != BUF_OK) return;
  for (size_t i = from; i < w->out->len; i++)
    if (strchr(".eN", w->out->data[i]) != NULL || w->out->data[i] == 'I') return;
  put_text(w, ".0");
}

static void put_count(struct writer *w, uint64_t count) {
  char text[32];
  int n = snprintf(text, sizeof text, "%llu", (unsigned long long)count);
  put(w, text, (size_t)n);
}

/* ---- words ------------------------------------------------------------------------------------
 */

static void put_escaped(struct writer *w, const char *bytes, size_t n, bool quotes) {
  size_t from = 0;
  for (size_t i = 0; i < n; i++) {
    const char *as = bytes[i] == '\\'            ? "\\\\"
                     : bytes[i] == '\n'          ? "\\n"
                     : quotes && bytes[i] == '"' ? "\\\""
                                                 : NULL;
    if (as == NULL) continue;
    put(w, bytes + from, i - from);
    put_text(w, as);
    from = i + 1;
  }
  put(w, bytes + from, n - from);
}

static bool ends_with(const char *name, size_t len, const char *suffix) {
  size_t n = strlen(suffix);
  return len > n && memcmp(name + len - n, suffix, n) == 0;
}

/* The part of the name that OpenMetrics calls the family. */
static size_t family_len(const struct writer *w, const struct metric *metric) {
  size_t len = strlen(metric->name);
  bool total = metric->kind == METRIC_COUNTER && ends_with(metric->name, len, "_total");
  return w->open && total ? len - 6 : len;
}

static void put_head(struct writer *w, const struct metric *metric) {
  static const char *const kinds[] = {"counter", "gauge", "histogram"};
  static const char *const units[] = {"seconds", "bytes", "ratio"};
  size_t len = family_len(w, metric);
  put_text(w, "# HELP ");
  put(w, metric->name, len);
  put_text(w, " ");
  put_escaped(w, metric->help, strlen(metric->help), w->open);
  put_text(w, "\n# TYPE ");
  put(w, metric->name, len);
  put_text(w, " ");
  put_text(w, kinds[metric->kind]);
  put_text(w, "\n");
  if (!w->open) return;
  for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
    char suffix[16];
    snprintf(suffix, sizeof suffix, "_%s", units[i]);
    if (!ends_with(metric->name, len, suffix)) continue;
    put_text(w, "# UNIT ");
    put(w, metric->name, len);
    put_text(w, " ");
    put_text(w, units[i]);
    put_text(w, "\n");
  }
}

/* Name and labels of a sample, up to the blank before its value. `bound` is that of a bucket. */
static void put_name(struct writer *w, const struct metric_series *s, const char *suffix,
                     const double *bound) {
  const struct metric *metric = s->metric;
  const char *between = "{";
  put_text(w, metric->name);
  put_text(w, suffix);
  for (size_t i = 0; i < metric->label_count; i++) {
    const struct metric_label *label = &metric->labels[i];
    const struct metrics_bytes *value = &label->values[s->labels[i]];
    put_text(w, between);
    put_text(w, label->name);
    put_text(w, "=\"");
    put_escaped(w, value->bytes, value->len, true);
    put_text(w, "\"");
    between = ",";
  }
  if (bound != NULL) {
    put_text(w, between);
    put_text(w, "le=\"");
    put_bound(w, *bound);
    put_text(w, "\"");
    between = ",";
  }
  put_text(w, *between == ',' ? "} " : " ");
}

static void put_histogram(struct writer *w, const struct metric_series *s) {
  const double infinite = INFINITY;
  uint64_t below = 0;
  for (size_t i = 0; i <= s->metric->bound_count; i++) {
    below += s->buckets[i];
    put_name(w, s, "_bucket", i < s->metric->bound_count ? &s->metric->bounds[i] : &infinite);
    put_count(w, below);
    put_text(w, "\n");
  }
  put_name(w, s, "_sum", NULL);
  put_number(w, s->value);
  put_text(w, "\n");
  put_name(w, s, "_count", NULL);
  put_count(w, s->count);
  put_text(w, "\n");
}

static void put_sample(struct writer *w, const struct metric_series *s) {
  const struct metric *metric = s->metric;
  bool bare = w->open && metric->kind == METRIC_COUNTER &&
              !ends_with(metric->name, strlen(metric->name), "_total");
  put_name(w, s, bare ? "_total" : "", NULL);
  put_number(w, s->value);
  put_text(w, "\n");
}

enum buf_status metrics_write(const struct metrics *m, enum metrics_format format,
                              struct buf *out) {
  struct writer w = {.out = out, .status = BUF_OK, .open = format == METRICS_OPENMETRICS};
  for (const struct metric *metric = m->first; metric != NULL; metric = metric->next) {
    if (metric->first == NULL) continue; /* nothing has been counted yet */
    put_head(&w, metric);
    for (const struct metric_series *s = metric->first; s != NULL; s = s->next) {
      if (metric->kind == METRIC_HISTOGRAM)
        put_histogram(&w, s);
      else
        put_sample(&w, s);
    }
  }
  if (w.open) put_text(&w, "# EOF\n");
  return w.status;
}
