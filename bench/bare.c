/* bare.c: the yardstick. What sluice's C floor would cost if there were nothing above it: libcurl's
 * multi interface on epoll, with connections, easy handles and epoll registrations all reused.
 *
 * Owns: engines (a curl multi and its timer), the table of watched sockets, transfers.
 * Never: parses JSON, or does anything a program without features could leave out.
 *
 * usage: bare MODE key=value…    (prints one line of JSON)
 *   ask     port n concurrency                     n short requests, bodies read into memory
 *   stream  port n concurrency                     n deltas as fast as they come, SSE split here
 *   paced   port streams n gap delay parked        streams at a pace; CPU per delta between the
 * first and last but one delta of all of them mem     port streams n gap delay               the
 * same; peak memory init                                           initialise, one easy handle,
 * print a line idle                                           the same, then wait; resident memory
 *   stats   port reset                             print the load server's counters
 * everywhere: buffer=BYTES (CURLOPT_BUFFERSIZE), multis=M (share the transfers between M multis)
 *
 * Reading order: sockets, the SSE split, transfers, the loop, the modes. */
#include "measure.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_MAX 512
#define MULTIS_MAX 64
#define NEVER INT64_MAX

struct engine {
  CURLM *multi;
  int64_t timer_at_us;
};

/* ---- sockets ----------------------------------------------------------------------------------
 */

/* What epoll was told about a descriptor and what libcurl wants of it. They differ on purpose: when
 * a transfer ends libcurl takes its interest back and the next one on that connection gives it
 * again; leaving the registration alone in between saves two system calls a request. */
struct watch {
  struct engine *engine;
  uint32_t registered, wanted;
};

static struct watch *watches;
static size_t watches_len;
static int epoll_fd;
static struct engine engines[MULTIS_MAX];
static long multis;

static struct watch *watch_of(int fd) {
  if ((size_t)fd >= watches_len) {
    size_t len = (size_t)fd * 2 + 64;
    watches = realloc(watches, len * sizeof *watches);
    if (!watches) die("out of memory");
    memset(watches + watches_len, 0, (len - watches_len) * sizeof *watches);
    watches_len = len;
  }
  return &watches[fd];
}

static void watch_set(int fd, struct watch *w, uint32_t mask) {
  if (w->registered == mask) return;
  struct epoll_event ev = {.events = mask, .data.fd = fd};
  int op = mask == 0 ? EPOLL_CTL_DEL : w->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (epoll_ctl(epoll_fd, op, fd, &ev) != 0) die("epoll_ctl");
  w->registered = mask;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *socket_user) {
  (void)easy, (void)socket_user;
  struct watch *w = watch_of(fd);
  w->engine = user;
  w->wanted = 0;
  if (what == CURL_POLL_REMOVE) return 0;
  if (what != CURL_POLL_OUT) w->wanted |= EPOLLIN;
  if (what != CURL_POLL_IN) w->wanted |= EPOLLOUT;
  watch_set(fd, w, w->wanted);
  return 0;
}

static int on_close_socket(void *user, curl_socket_t fd) {
  (void)user;
  *watch_of(fd) = (struct watch){0}; /* closing takes it out of epoll */
  return close(fd);
}

static int on_timer(CURLM *multi, long ms, void *user) {
  (void)multi;
  struct engine *e = user;
  e->timer_at_us = ms < 0 ? NEVER : ms == 0 ? 0 : now_us() + ms * 1000;
  return 0;
}

/* ---- the SSE split ----------------------------------------------------------------------------
 */

struct split {
  char *partial; /* a line cut in two by the network */
  size_t len, cap;
  bool data; /* the present event has a data line */
  long events;
};

static void split_line(struct split *s, const char *line, size_t n) {
  if (n == 0) {
    s->events += s->data;
    s->data = false;
  } else if (n >= 5 && memcmp(line, "data:", 5) == 0) {
    s->data = true;
  }
}

static void split_feed(struct split *s, const char *p, size_t n) {
  const char *end = p + n, *nl;
  while ((nl = memchr(p, '\n', (size_t)(end - p))) != NULL) {
    if (s->len > 0) {
      size_t more = (size_t)(nl - p);
      if (s->len + more > s->cap) {
        s->cap = (s->len + more) * 2;
        s->partial = realloc(s->partial, s->cap);
        if (!s->partial) die("out of memory");
      }
      memcpy(s->partial + s->len, p, more);
      split_line(s, s->partial, s->len + more);
      s->len = 0;
    } else {
      split_line(s, p, (size_t)(nl - p));
    }
    p = nl + 1;
  }
  size_t rest = (size_t)(end - p);
  if (rest == 0) return;
  if (s->len + rest > s->cap) {
    s->cap = (s->len + rest) * 2;
    s->partial = realloc(s->partial, s->cap);
    if (!s->partial) die("out of memory");
  }
  memcpy(s->partial + s->len, p, rest);
  s->len += rest;
}

/* ---- transfers --------------------------------------------------------------------------------
 */

#define OPENING_EVENTS 1 /* the role chunk */
#define CLOSING_EVENTS 3 /* finish, usage, [DONE] */

struct transfer {
  CURL *easy;
  struct engine *engine;
  const char *request; /* libcurl reads it when the connection is ready, so it must stay */
  char *body;          /* ask */
  size_t body_len, body_cap;
  struct split split; /* streams */
  bool counted;       /* its deltas count for the window */
};

/* The measured part of paced modes, in deltas of all streams together. */
static struct {
  long from, to, seen;
  int64_t cpu_from, cpu_to;
} window;

static char url[128];
static struct curl_slist *request_headers;
static long buffer_size, answered, bytes_read;

static size_t on_body(char *p, size_t size, size_t n, void *user) {
  struct transfer *t = user;
  n *= size;
  bytes_read += (long)n;
  if (t->body_len + n > t->body_cap) {
    t->body_cap = (t->body_len + n) * 2;
    t->body = realloc(t->body, t->body_cap);
    if (!t->body) die("out of memory");
  }
  memcpy(t->body + t->body_len, p, n);
  t->body_len += n;
  return n;
}

static void count_deltas(long n) {
  if (window.seen < window.from && window.seen + n >= window.from) window.cpu_from = cpu_us();
  if (window.seen < window.to && window.seen + n >= window.to) window.cpu_to = cpu_us();
  window.seen += n;
}

static size_t on_stream(char *p, size_t size, size_t n, void *user) {
  struct transfer *t = user;
  long before = t->split.events;
  split_feed(&t->split, p, n * size);
  if (t->counted && t->split.events > before) count_deltas(t->split.events - before);
  return n * size;
}

static CURL *easy_new(struct transfer *t, curl_write_callback on_bytes) {
  CURL *e = curl_easy_init();
  if (!e) die("curl_easy_init");
  curl_easy_setopt(e, CURLOPT_URL, url);
  curl_easy_setopt(e, CURLOPT_HTTPHEADER, request_headers);
  curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
  curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_bytes);
  curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
  curl_easy_setopt(e, CURLOPT_PRIVATE, t);
  curl_easy_setopt(e, CURLOPT_CLOSESOCKETFUNCTION, on_close_socket);
  if (buffer_size) curl_easy_setopt(e, CURLOPT_BUFFERSIZE, buffer_size);
  return e;
}

static void transfer_start(struct transfer *t) {
  t->body_len = 0;
  t->split.events = 0;
  curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE, (long)strlen(t->request));
  curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, t->request);
  if (curl_multi_add_handle(t->engine->multi, t->easy) != CURLM_OK) die("curl_multi_add_handle");
}

static void transfer_check(struct transfer *t, CURLcode code, long expected_events) {
  long status = 0;
  curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
  bool whole = expected_events == 0 ? t->body_len > 0 : t->split.events == expected_events;
  if (code == CURLE_OK && status == 200 && whole) return;
  fprintf(stderr, "bare: %s, status %ld, %ld of %ld events\n", curl_easy_strerror(code), status,
          t->split.events, expected_events);
  exit(1);
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

static int64_t next_timer(void) {
  int64_t at = NEVER;
  for (long i = 0; i < multis; i++)
    if (engines[i].timer_at_us < at) at = engines[i].timer_at_us;
  return at;
}

static void run_timers(void) {
  int running;
  int64_t now = 0;
  for (long i = 0; i < multis; i++) {
    struct engine *e = &engines[i];
    if (e->timer_at_us == NEVER) continue;
    if (e->timer_at_us > 0 && now == 0) now = now_us();
    if (e->timer_at_us > now) continue;
    e->timer_at_us = NEVER;
    curl_multi_socket_action(e->multi, CURL_SOCKET_TIMEOUT, 0, &running);
  }
}

static void socket_event(const struct epoll_event *ev) {
  int fd = ev->data.fd, running, flags = 0;
  struct watch *w = watch_of(fd);
  if (w->wanted ==
      0) { /* an idle connection speaks: the server closed it; libcurl finds out itself */
    if (w->registered) watch_set(fd, w, 0);
    return;
  }
  if (ev->events & (EPOLLIN | EPOLLHUP)) flags |= CURL_CSELECT_IN;
  if (ev->events & EPOLLOUT) flags |= CURL_CSELECT_OUT;
  if (ev->events & EPOLLERR) flags |= CURL_CSELECT_ERR;
  curl_multi_socket_action(w->engine->multi, fd, flags, &running);
}

static void wait_and_dispatch(void) {
  static struct epoll_event events[EVENTS_MAX];
  int64_t at = next_timer();
  int wait_ms = at == NEVER ? -1 : 0;
  if (at != NEVER && at > 0) {
    int64_t left = at - now_us();
    wait_ms = left <= 0 ? 0 : (int)((left + 999) / 1000);
  }
  int n = epoll_wait(epoll_fd, events, EVENTS_MAX, wait_ms);
  if (n < 0 && errno != EINTR) die("epoll_wait");
  for (int i = 0; i < n; i++) socket_event(&events[i]);
}

struct run {
  long to_start, open, expected_events;
};

/* Takes finished transfers and starts each again while any are left to start. */
static void reap(struct run *r) {
  for (long i = 0; i < multis; i++) {
    CURLMsg *m;
    int queued;
    while ((m = curl_multi_info_read(engines[i].multi, &queued)) != NULL) {
      struct transfer *t;
      CURLcode code = m->data.result;
      curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
      transfer_check(t, code, r->expected_events);
      curl_multi_remove_handle(engines[i].multi, t->easy);
      answered++;
      if (r->to_start > 0) {
        r->to_start--;
        transfer_start(t);
      } else {
        r->open--;
      }
    }
  }
}

/* Runs n transfers in all over the given ones, each started again as soon as it ends. */
static void run_transfers(struct transfer *ts, long count, long n, long expected_events) {
  struct run r = {.to_start = n, .expected_events = expected_events};
  for (; r.open < count && r.to_start > 0; r.to_start--) transfer_start(&ts[r.open++]);
  while (r.open > 0) {
    run_timers(); /* sends new requests, and may finish them when the answer is already there */
    reap(&r);
    if (r.open == 0) break;
    wait_and_dispatch();
    reap(&r);
  }
}

static void engines_open(long count, long connections) {
  if (count < 1 || count > MULTIS_MAX) {
    fprintf(stderr, "bare: multis must be 1 to %d\n", MULTIS_MAX);
    exit(2);
  }
  multis = count;
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) die("epoll_create1");
  for (long i = 0; i < count; i++) {
    struct engine *e = &engines[i];
    e->timer_at_us = NEVER;
    e->multi = curl_multi_init();
    curl_multi_setopt(e->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(e->multi, CURLMOPT_SOCKETDATA, e);
    curl_multi_setopt(e->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(e->multi, CURLMOPT_TIMERDATA, e);
    curl_multi_setopt(e->multi, CURLMOPT_MAXCONNECTS, connections / count + 16);
  }
}

static struct transfer *transfers_new(long count, curl_write_callback on_bytes) {
  struct transfer *ts = calloc((size_t)count, sizeof *ts);
  if (!ts) die("out of memory");
  for (long i = 0; i < count; i++) {
    ts[i].engine = &engines[i % multis];
    ts[i].easy = easy_new(&ts[i], on_bytes);
  }
  return ts;
}

static void transfers_free(struct transfer *ts, long count) {
  for (long i = 0; i < count; i++) {
    curl_multi_remove_handle(ts[i].engine->multi, ts[i].easy);
    curl_easy_cleanup(ts[i].easy);
    free(ts[i].body);
    free(ts[i].split.partial);
  }
  free(ts);
}

static void engines_close(void) {
  for (long i = 0; i < multis; i++) curl_multi_cleanup(engines[i].multi);
  close(epoll_fd);
  free(watches);
  curl_slist_free_all(request_headers);
  curl_global_cleanup();
}

struct options {
  long n, concurrency, streams, gap, delay, parked;
};

static char ask_request[512], warm_request[512], stream_request[512], parked_request[512];

static void set_request(char *out, const char *spec, bool stream) {
  snprintf(out, sizeof ask_request,
           "{\"model\":\"bench%s\",\"messages\":[{\"role\":\"user\",\"content\":"
           "\"Why is the sky blue?\"}]%s}",
           spec, stream ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "");
}

static void set_stream_request(char *out, long n, long gap, long delay) {
  char spec[96];
  snprintf(spec, sizeof spec, "-n%ld-gap%ld-delay%ld", n, gap, delay);
  set_request(out, spec, true);
}

/* Points the transfers at what they are to ask next. */
static void use_request(struct transfer *ts, long count, const char *request) {
  for (long i = 0; i < count; i++) ts[i].request = request;
}

static void init_curl(long port) {
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) die("curl_global_init");
  snprintf(url, sizeof url, "http://127.0.0.1:%ld/v1/chat/completions", port);
  static const char *const lines[] = {"Content-Type: application/json", "Accept: application/json",
                                      "Authorization: Bearer bench-key"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
    request_headers = curl_slist_append(request_headers, lines[i]);
}

/* ---- the modes --------------------------------------------------------------------------------
 */

static void mode_ask(const struct options *o) {
  struct transfer *ts = transfers_new(o->concurrency, on_body);
  set_request(ask_request, "", false);
  use_request(ts, o->concurrency, ask_request);
  long warm = 2 * o->concurrency > 500 ? 2 * o->concurrency : 500;
  run_transfers(ts, o->concurrency, warm, 0);
  answered = bytes_read = 0;
  int64_t wall = now_us(), cpu = cpu_us();
  run_transfers(ts, o->concurrency, o->n, 0);
  cpu = cpu_us() - cpu;
  wall = now_us() - wall;
  printf("{\"client\":\"bare\",\"mode\":\"ask\",\"n\":%ld,\"concurrency\":%ld,"
         "\"cpu_us_per_unit\":%.4f,\"wall_s\":%.6f,\"maxrss_kib\":%ld,\"body_bytes\":%ld}\n",
         answered, o->concurrency, (double)cpu / (double)o->n, (double)wall / 1e6, vm_kib("VmHWM"),
         bytes_read);
  transfers_free(ts, o->concurrency);
}

static void mode_stream(const struct options *o) {
  struct transfer *ts = transfers_new(o->concurrency, on_stream);
  long each = o->n / o->concurrency;
  set_stream_request(warm_request, 5000, 0, 0);
  use_request(ts, o->concurrency, warm_request);
  run_transfers(ts, o->concurrency, o->concurrency, 5000 + OPENING_EVENTS + CLOSING_EVENTS);
  set_stream_request(stream_request, each, 0, 0);
  use_request(ts, o->concurrency, stream_request);
  int64_t wall = now_us(), cpu = cpu_us();
  run_transfers(ts, o->concurrency, o->concurrency, each + OPENING_EVENTS + CLOSING_EVENTS);
  cpu = cpu_us() - cpu;
  wall = now_us() - wall;
  printf("{\"client\":\"bare\",\"mode\":\"stream\",\"n\":%ld,\"cpu_us_per_unit\":%.4f,"
         "\"wall_s\":%.6f,\"maxrss_kib\":%ld,\"deltas\":%ld}\n",
         each * o->concurrency, (double)cpu / (double)(each * o->concurrency), (double)wall / 1e6,
         vm_kib("VmHWM"), each * o->concurrency);
  transfers_free(ts, o->concurrency);
}

static struct transfer *park(long count) {
  if (count == 0) return NULL;
  struct transfer *ts = transfers_new(count, on_stream);
  set_stream_request(parked_request, 1, 0, 3600 * 1000);
  use_request(ts, count, parked_request);
  for (long i = 0; i < count; i++) transfer_start(&ts[i]);
  return ts;
}

static void mode_paced(const struct options *o, bool memory) {
  struct transfer *one = transfers_new(1, on_stream); /* what is paid once, before any figure */
  set_stream_request(warm_request, 32, 0, 0);
  use_request(one, 1, warm_request);
  run_transfers(one, 1, 1, 32 + OPENING_EVENTS + CLOSING_EVENTS);
  long before_kib = vm_kib("VmRSS");
  struct transfer *parked = park(o->parked);
  struct transfer *ts = transfers_new(o->streams, on_stream);
  for (long i = 0; i < o->streams; i++) ts[i].counted = true;
  long events = o->n + OPENING_EVENTS + CLOSING_EVENTS;
  window.from = o->streams * (OPENING_EVENTS + 1);
  window.to = o->streams * (OPENING_EVENTS + o->n - 1);
  set_stream_request(stream_request, o->n, o->gap, o->delay);
  use_request(ts, o->streams, stream_request);
  int64_t wall = now_us();
  run_transfers(ts, o->streams, o->streams, events);
  wall = now_us() - wall;
  long peak_kib = vm_kib("VmHWM");
  double cpu = (double)(window.cpu_to - window.cpu_from) / (double)(window.to - window.from);
  printf("{\"client\":\"bare\",\"mode\":\"%s\",\"n\":%ld,\"streams\":%ld,\"cpu_us_per_unit\":%.4f,"
         "\"wall_s\":%.6f,\"maxrss_kib\":%ld,\"kib_per_stream\":%.3f,\"deltas\":%ld}\n",
         memory ? "mem" : "paced", o->n * o->streams, o->streams, cpu, (double)wall / 1e6, peak_kib,
         (double)(peak_kib - before_kib) / (double)o->streams, o->n * o->streams);
  transfers_free(ts, o->streams);
  transfers_free(parked, o->parked);
  transfers_free(one, 1);
}

static void mode_idle(void) {
  struct transfer *one = transfers_new(1, on_body);
  struct timespec pause = {.tv_nsec = 50000000};
  nanosleep(&pause, NULL);
  printf("{\"client\":\"bare\",\"mode\":\"idle\",\"rss_kib\":%ld,\"maxrss_kib\":%ld}\n",
         vm_kib("VmRSS"), vm_kib("VmHWM"));
  transfers_free(one, 1);
}

static size_t on_print(char *p, size_t size, size_t n, void *user) {
  (void)user;
  return fwrite(p, size, n, stdout);
}

static void mode_stats(long port, long reset) {
  CURL *e = curl_easy_init();
  snprintf(url, sizeof url, "http://127.0.0.1:%ld/stats%s", port, reset ? "?reset=1" : "");
  curl_easy_setopt(e, CURLOPT_URL, url);
  curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_print);
  CURLcode code = curl_easy_perform(e);
  if (code != CURLE_OK) {
    fprintf(stderr, "bare: load server on port %ld: %s\n", port, curl_easy_strerror(code));
    exit(1);
  }
  putchar('\n');
  curl_easy_cleanup(e);
}

int main(int argc, char **argv) {
  static const char *const known[] = {"port",   "n",      "concurrency", "streams", "gap", "delay",
                                      "parked", "buffer", "multis",      "reset",   NULL};
  const char *mode = argc > 1 ? argv[1] : "";
  arg_check(argc, argv, known);
  bool paced = strcmp(mode, "paced") == 0 || strcmp(mode, "mem") == 0;
  struct options o = {
      arg_long(argc, argv, "n", paced ? 32 : 10000), arg_long(argc, argv, "concurrency", 1),
      arg_long(argc, argv, "streams", 500),          arg_long(argc, argv, "gap", 100),
      arg_long(argc, argv, "delay", 1000),           arg_long(argc, argv, "parked", 0)};
  long port = arg_long(argc, argv, "port", 0);
  buffer_size = arg_long(argc, argv, "buffer", 0);
  raise_fd_limit();
  init_curl(port);
  engines_open(arg_long(argc, argv, "multis", 1), o.concurrency + o.streams + o.parked);
  if (strcmp(mode, "init") == 0) {
    struct transfer *one = transfers_new(1, on_body);
    puts("ready");
    fflush(stdout);
    transfers_free(one, 1);
  } else if (strcmp(mode, "idle") == 0)
    mode_idle();
  else if (strcmp(mode, "ask") == 0)
    mode_ask(&o);
  else if (strcmp(mode, "stream") == 0)
    mode_stream(&o);
  else if (strcmp(mode, "paced") == 0)
    mode_paced(&o, false);
  else if (strcmp(mode, "mem") == 0)
    mode_paced(&o, true);
  else if (strcmp(mode, "stats") == 0)
    mode_stats(port, arg_long(argc, argv, "reset", 0));
  else {
    fprintf(stderr, "usage: bare ask|stream|paced|mem|init|idle|stats key=value…\n");
    return 2;
  }
  engines_close();
  return 0;
}
