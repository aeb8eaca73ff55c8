/* base/metrics: names, series, their bounds, and both text forms byte for byte. */
#include <locale.h>
#include <math.h>
#include <stdlib.h>

#include "base/limits.h"
#include "base/metrics.h"

#include "check.h"

static struct metric *add(struct metrics *m, const struct metric_spec *spec) {
  struct metric *metric = NULL;
  CHECK_INT(metrics_add(m, spec, &metric), METRICS_OK);
  return metric;
}

static struct metric_series *at(struct metric *metric, const char *a, const char *b) {
  struct metrics_bytes values[] = {{a, strlen(a)}, {b, strlen(b)}};
  return metric_at(metric, values);
}

static void check_text(int line, const struct metrics *m, enum metrics_format format,
                       const char *want) {
  struct buf out;
  buf_init(&out, METRICS_PAGE_MAX);
  CHECK_INT(metrics_write(m, format, &out), BUF_OK);
  check_bytes(line, out.data, out.len, want, strlen(want));
  buf_free(&out);
}
#define CHECK_PAGE(m, format, want) check_text(__LINE__, m, format, want)

static void check_number(int line, double value, const char *want) {
  struct buf out;
  buf_init(&out, 100);
  CHECK_INT(metrics_write_number(&out, value), BUF_OK);
  check_bytes(line, out.data, out.len, want, strlen(want));
  buf_free(&out);
}
#define CHECK_NUMBER(value, want) check_number(__LINE__, value, want)

static void names(void) {
  check_case("names have letters, digits, _ and :, and begin with no digit");
  CHECK(metrics_is_name("a", 1));
  CHECK(metrics_is_name("job:x_9", 7));
  CHECK(metrics_is_name("_", 1));
  CHECK(!metrics_is_name("", 0));
  CHECK(!metrics_is_name("9a", 2));
  CHECK(!metrics_is_name("a-b", 3));
  CHECK(!metrics_is_name("a\0b", 3));
  CHECK(!metrics_is_name("\xC3\xA9t\xC3\xA9", 5));

  check_case("labels have no colon");
  CHECK(metrics_is_label("le9", 3));
  CHECK(!metrics_is_label("a:b", 3));
}

static void numbers(void) {
  check_case("numbers are the shortest decimals that read back as the same double");
  CHECK_NUMBER(0, "0");
  CHECK_NUMBER(-0.0, "0");
  CHECK_NUMBER(15, "15");
  CHECK_NUMBER(-3, "-3");
  CHECK_NUMBER(0.1, "0.1");
  CHECK_NUMBER(2.5, "2.5");
  CHECK_NUMBER(0.1 + 0.2, "0.30000000000000004");
  CHECK_NUMBER(999999999999999, "999999999999999");
  CHECK_NUMBER(1e15, "1e+15");
  CHECK_NUMBER(9007199254740992, "9007199254740992");
  CHECK_NUMBER(5e-324, "4.94065645841247e-324");
  CHECK_NUMBER(1.7976931348623157e308, "1.7976931348623157e+308");
  CHECK_NUMBER(INFINITY, "+Inf");
  CHECK_NUMBER(-INFINITY, "-Inf");
  CHECK_NUMBER(NAN, "NaN");

  check_case("whatever the locale says of decimal points");
  const char *const locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "ps_AF.UTF-8", "de_DE"};
  for (size_t i = 0; i < sizeof locales / sizeof *locales; i++) {
    if (setlocale(LC_NUMERIC, locales[i]) == NULL) continue; /* not every machine has one */
    CHECK_NUMBER(2.5, "2.5");
    CHECK_NUMBER(0.1 + 0.2, "0.30000000000000004");
    CHECK_NUMBER(-1.5e-7, "-1.5e-07");
  }
  setlocale(LC_NUMERIC, "C");
  CHECK_NUMBER(2.5, "2.5");
}

static void pages(void) {
  struct metrics m;
  metrics_init(&m);
  check_case("no metrics: an empty page, which OpenMetrics ends with a mark");
  CHECK_PAGE(&m, METRICS_TEXT, "");
  CHECK_PAGE(&m, METRICS_OPENMETRICS, "# EOF\n");

  check_case("counters: the family's name differs between the forms, the sample's does not");
  const char *const labels[] = {"to", "why"};
  struct metric *moves = add(&m, &(struct metric_spec){.kind = METRIC_COUNTER,
                                                       .name = "moves_total",
                                                       .help = "Moves \\ \"so\"\nand so.",
                                                       .label_count = 2,
                                                       .labels = labels});
  CHECK_PAGE(&m, METRICS_TEXT, "");
  series_add(at(moves, "a", "x\\y\"z\n"), 2);
  series_add(at(moves, "b", ""), 0.5);
  series_add(at(moves, "a", "x\\y\"z\n"), 1);
  CHECK_PAGE(&m, METRICS_TEXT,
             "# HELP moves_total Moves \\\\ \"so\"\\nand so.\n# TYPE moves_total counter\n"
             "moves_total{to=\"a\",why=\"x\\\\y\\\"z\\n\"} 3\n"
             "moves_total{to=\"b\",why=\"\"} 0.5\n");
  CHECK_PAGE(&m, METRICS_OPENMETRICS,
             "# HELP moves Moves \\\\ \\\"so\\\"\\nand so.\n# TYPE moves counter\n"
             "moves_total{to=\"a\",why=\"x\\\\y\\\"z\\n\"} 3\n"
             "moves_total{to=\"b\",why=\"\"} 0.5\n# EOF\n");
  metrics_free(&m);

  check_case("a counter without _total keeps its name in the text form");
  add(&m, &(struct metric_spec){.kind = METRIC_COUNTER, .name = "n_bytes", .help = ""});
  CHECK_PAGE(&m, METRICS_TEXT, "# HELP n_bytes \n# TYPE n_bytes counter\nn_bytes 0\n");
  CHECK_PAGE(&m, METRICS_OPENMETRICS,
             "# HELP n_bytes \n# TYPE n_bytes counter\n# UNIT n_bytes bytes\n"
             "n_bytes_total 0\n# EOF\n");
  metrics_free(&m);

  check_case("gauges and units");
  struct metric *age =
      add(&m, &(struct metric_spec){.kind = METRIC_GAUGE, .name = "age_seconds", .help = "Age."});
  series_set(metric_at(age, NULL), -1.5);
  CHECK_PAGE(&m, METRICS_TEXT,
             "# HELP age_seconds Age.\n# TYPE age_seconds gauge\nage_seconds -1.5\n");
  CHECK_PAGE(&m, METRICS_OPENMETRICS,
             "# HELP age_seconds Age.\n# TYPE age_seconds gauge\n# UNIT age_seconds seconds\n"
             "age_seconds -1.5\n# EOF\n");
  metrics_free(&m);
}

static void histograms(void) {
  struct metrics m;
  metrics_init(&m);
  check_case("buckets are cumulative, bounds belong to the bucket below, the last is the count");
  const double bounds[] = {0.5, 1, 1e16};
  const char *const labels[] = {"who"};
  struct metric *took = add(&m, &(struct metric_spec){.kind = METRIC_HISTOGRAM,
                                                      .name = "took",
                                                      .help = "h",
                                                      .label_count = 1,
                                                      .labels = labels,
                                                      .bound_count = 3,
                                                      .bounds = bounds});
  struct metric_series *s = metric_at(took, &(struct metrics_bytes){"me", 2});
  const double values[] = {0.5, 0.75, 1, 2, 1e17, -1};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) series_observe(s, values[i]);
  CHECK_PAGE(&m, METRICS_TEXT,
             "# HELP took h\n# TYPE took histogram\n"
             "took_bucket{who=\"me\",le=\"0.5\"} 2\ntook_bucket{who=\"me\",le=\"1\"} 4\n"
             "took_bucket{who=\"me\",le=\"1e+16\"} 5\ntook_bucket{who=\"me\",le=\"+Inf\"} 6\n"
             "took_sum{who=\"me\"} 1e+17\ntook_count{who=\"me\"} 6\n");
  CHECK_PAGE(&m, METRICS_OPENMETRICS,
             "# HELP took h\n# TYPE took histogram\n"
             "took_bucket{who=\"me\",le=\"0.5\"} 2\ntook_bucket{who=\"me\",le=\"1.0\"} 4\n"
             "took_bucket{who=\"me\",le=\"1e+16\"} 5\ntook_bucket{who=\"me\",le=\"+Inf\"} 6\n"
             "took_sum{who=\"me\"} 1e+17\ntook_count{who=\"me\"} 6\n# EOF\n");
  metrics_free(&m);

  check_case("a histogram without bounds and labels");
  add(&m, &(struct metric_spec){.kind = METRIC_HISTOGRAM, .name = "h", .help = ""});
  CHECK_PAGE(&m, METRICS_TEXT,
             "# HELP h \n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 0\nh_sum 0\nh_count 0\n");
  metrics_free(&m);
}

static void identity(void) {
  struct metrics m;
  struct metric *other = NULL;
  metrics_init(&m);
  check_case("a name is one metric's, with everything it shows");
  const double bounds[] = {1};
  const struct metric_spec h = {
      .kind = METRIC_HISTOGRAM, .name = "h", .help = "", .bound_count = 1, .bounds = bounds};
  struct metric *metric = add(&m, &h);
  CHECK(metrics_find(&m, "h") == metric);
  CHECK(metrics_find(&m, "g") == NULL);
  CHECK(metric_is_like(metric, &h));
  CHECK_INT(metrics_add(&m, &h, &other), METRICS_TAKEN);
  CHECK(other == metric);
  const char *const taken[] = {"h", "h_sum", "h_count", "h_bucket"};
  for (size_t i = 0; i < 4; i++) {
    const struct metric_spec g = {.kind = METRIC_GAUGE, .name = taken[i], .help = ""};
    CHECK(!metric_is_like(metric, &g));
    CHECK_INT(metrics_add(&m, &g, &other), METRICS_TAKEN);
  }
  add(&m, &(struct metric_spec){.kind = METRIC_GAUGE, .name = "h_min", .help = ""});
  add(&m, &(struct metric_spec){.kind = METRIC_GAUGE, .name = "g_sum", .help = ""});
  CHECK_INT(metrics_add(&m,
                        &(struct metric_spec){.kind = METRIC_HISTOGRAM, .name = "g", .help = ""},
                        &other),
            METRICS_TAKEN);
  add(&m, &(struct metric_spec){.kind = METRIC_COUNTER, .name = "c_total", .help = ""});
  CHECK_INT(
      metrics_add(&m, &(struct metric_spec){.kind = METRIC_GAUGE, .name = "c", .help = ""}, &other),
      METRICS_TAKEN);
  CHECK_INT(m.count, 4);

  check_case("another shape is another metric");
  struct metric_spec like = h;
  const double others[] = {2};
  like.bounds = others;
  CHECK(!metric_is_like(metric, &like));
  like = h;
  like.bound_count = 0;
  CHECK(!metric_is_like(metric, &like));
  like = h;
  const char *const labels[] = {"x"};
  like.labels = labels;
  like.label_count = 1;
  CHECK(!metric_is_like(metric, &like));
  metrics_free(&m);

  check_case("there is room for so many and no more");
  for (int i = 0; i <= METRICS_MAX; i++) {
    char name[32];
    snprintf(name, sizeof name, "m%d", i);
    const struct metric_spec spec = {.kind = METRIC_GAUGE, .name = name, .help = ""};
    enum metrics_status want = i < METRICS_MAX ? METRICS_OK : METRICS_FULL;
    if (metrics_add(&m, &spec, &other) != want) CHECK_INT(i, -1);
  }
  CHECK_INT(m.count, METRICS_MAX);
  metrics_free(&m);
}

static bool labels_are(const struct metric_series *s, const char *a, const char *b) {
  const char *const want[] = {a, b};
  for (size_t i = 0; i < 2; i++) {
    struct metrics_bytes v = s->metric->labels[i].values[s->labels[i]];
    if (v.len != strlen(want[i]) || memcmp(v.bytes, want[i], v.len) != 0) return false;
  }
  return true;
}

static void bounds_of_labels(void) {
  struct metrics m;
  metrics_init(&m);
  const char *const labels[] = {"model", "kind"};
  struct metric *errors = add(&m, &(struct metric_spec){.kind = METRIC_COUNTER,
                                                        .name = "errors_total",
                                                        .help = "",
                                                        .label_count = 2,
                                                        .labels = labels,
                                                        .values_max = 50});
  check_case("values beyond the cap are counted as other, in their label alone");
  bool kept = true;
  for (int i = 0; i < 200; i++) {
    char name[32];
    snprintf(name, sizeof name, "model-%d", i);
    struct metric_series *s = at(errors, name, i % 2 ? "timeout" : "server");
    series_add(s, 1);
    kept = kept && labels_are(s, i < 50 ? name : "other", i % 2 ? "timeout" : "server");
  }
  CHECK(kept);
  CHECK_INT(errors->series_count, 52);
  CHECK_INT(at(errors, "model-999", "timeout")->value, 75);
  CHECK_INT(at(errors, "model-7", "timeout")->value, 1);

  check_case("a value that is called other is the same other");
  CHECK(at(errors, "other", "timeout") == at(errors, "model-888", "timeout"));

  check_case("what is no UTF-8 is repaired, and is the same series each time");
  struct metric_series *bad = at(errors, "model-1", "a\xFFz");
  CHECK(labels_are(bad, "model-1", "a\xEF\xBF\xBDz"));
  CHECK(at(errors, "model-1", "a\xFEz") == bad);
  CHECK(at(errors, "model-1", "a\xEF\xBF\xBDz") == bad);

  check_case("a long value is cut between two characters");
  char longer[METRICS_VALUE_BYTES_MAX + 10];
  memset(longer, 'x', sizeof longer);
  memcpy(longer + METRICS_VALUE_BYTES_MAX - 1, "\xE4\xB8\xAD", 3);
  struct metrics_bytes values[] = {{"model-1", 7}, {longer, sizeof longer}};
  struct metric_series *cut = metric_at(errors, values);
  CHECK_INT(errors->labels[1].values[cut->labels[1]].len, METRICS_VALUE_BYTES_MAX - 1);
  values[1].len--;
  CHECK(metric_at(errors, values) == cut);
  metrics_free(&m);

  check_case("combinations beyond the cap are other in every label");
  struct metric *pairs = add(
      &m,
      &(struct metric_spec){
          .kind = METRIC_GAUGE, .name = "pairs", .help = "", .label_count = 2, .labels = labels});
  for (int i = 0; i < 60; i++) {
    for (int j = 0; j < 60; j++) {
      char a[16], b[16];
      snprintf(a, sizeof a, "%d", i);
      snprintf(b, sizeof b, "%d", j);
      series_add(at(pairs, a, b), 1);
    }
  }
  CHECK_INT(pairs->series_count, METRICS_SERIES_MAX + 1);
  CHECK_INT(at(pairs, "0", "0")->value, 1);
  CHECK(labels_are(at(pairs, "59", "59"), "other", "other"));
  CHECK_INT(at(pairs, "59", "59")->value, 3600 - METRICS_SERIES_MAX);
  metrics_free(&m);
}

static void no_room(void) {
  struct metrics m;
  metrics_init(&m);
  check_case("a page that does not fit says so");
  add(&m, &(struct metric_spec){.kind = METRIC_GAUGE, .name = "a_metric", .help = "some help"});
  struct buf out;
  for (size_t room = 0; room < 40; room++) {
    buf_init(&out, room);
    if (metrics_write(&m, METRICS_TEXT, &out) != BUF_FULL) CHECK_INT(room, -1);
    buf_free(&out);
  }
  CHECK_INT(m.count, 1);
  metrics_free(&m);
}

int main(void) {
  names();
  numbers();
  pages();
  histograms();
  identity();
  bounds_of_labels();
  no_room();
  return check_done();
}
