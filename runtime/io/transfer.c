/* One HTTP exchange: see transfer.h. */
#include "io/transfer.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/limits.h"
#include "io/multi.h"

#define LOOK_AGAIN_US 5000 /* to a reader that has been woken and has not run yet */
#define HEADERS_USUAL 512  /* bytes of a reply's headers */

static size_t active;

size_t transfer_count(void) {
  return active;
}

/* ---- request headers ------------------------------------------------------------------------- */

static struct curl_slist *slist(struct header_list *list) {
  return (struct curl_slist *)(void *)list;
}

bool header_list_add(struct header_list **list, const char *name, size_t name_len,
                     const char *value, size_t value_len) {
  /* in one piece: every request adds a line of its own */
  struct curl_slist *node = malloc(sizeof *node + name_len + value_len + 3);
  if (node == NULL) return false;
  char *line = (char *)(node + 1);
  memcpy(line, name, name_len);
  if (value_len == 0) { /* libcurl's ways to send a header without a value, and to send none */
    memcpy(line + name_len, value != NULL ? ";" : ":", 2);
  } else {
    memcpy(line + name_len, ": ", 2);
    memcpy(line + name_len + 2, value, value_len);
    line[name_len + 2 + value_len] = '\0';
  }
  node->data = line;
  node->next = slist(*list);
  *list = (struct header_list *)(void *)node;
  return true;
}

static void free_until(struct header_list *list, struct header_list *end) {
  struct curl_slist *node = slist(list), *stop = slist(end);
  while (node != NULL && node != stop) {
    struct curl_slist *next = node->next;
    explicit_bzero(node->data, strlen(node->data)); /* it may hold a key */
    free(node);
    node = next;
  }
}

void header_list_free(struct header_list *list) {
  free_until(list, NULL);
}

bool header_list_add_encodings(struct header_list **list) {
  static const char name[] = "Accept-Encoding", value[] = MULTI_ENCODINGS;
  for (const struct curl_slist *node = slist(*list); node != NULL; node = node->next)
    if (strncasecmp(node->data, name, sizeof name - 1) == 0) return true; /* the script's own */
  return header_list_add(list, name, sizeof name - 1, value, sizeof value - 1);
}

/* The transfer's own lines first, then the shared ones, as one list. */
static struct curl_slist *join_headers(struct transfer *t) {
  if (t->own == NULL) return slist(t->common);
  struct curl_slist *last = slist(t->own);
  while (last->next != NULL) last = last->next;
  last->next = slist(t->common);
  return slist(t->own);
}

/* ---- failing --------------------------------------------------------------------------------- */

static void set_failure(struct transfer *t, enum err_kind kind, const char *phase,
                        const char *format, ...) __attribute__((format(printf, 4, 5)));

static void set_failure(struct transfer *t, enum err_kind kind, const char *phase,
                        const char *format, ...) {
  if (t->failed) return; /* the first reason is the true one */
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  t->failed = true;
  t->kind = kind;
  t->phase = phase;
  t->message = strdup(text);
}

static bool was_sent(const struct transfer *t) {
  long sent = 0;
  long tunnel = 0; /* a proxy's answer to CONNECT, which counts as a request, too */
  if (t->easy != NULL) curl_easy_getinfo(t->easy->curl, CURLINFO_REQUEST_SIZE, &sent);
  if (t->easy != NULL) curl_easy_getinfo(t->easy->curl, CURLINFO_HTTP_CONNECTCODE, &tunnel);
  return sent > 0 && (tunnel == 0 || tunnel / 100 == 2);
}

/* The variable that names the proxy this transfer may have gone through, or NULL. */
static const char *proxy_of(const struct transfer *t) {
  const char *url = NULL;
  if (t->easy->local || curl_easy_getinfo(t->easy->curl, CURLINFO_EFFECTIVE_URL, &url) != CURLE_OK)
    return NULL;
  return multi_proxy(url != NULL && strncasecmp(url, "https:", 6) == 0);
}

static const char *reached_phase(const struct transfer *t) {
  return t->headers_done ? "body" : was_sent(t) ? "response" : "connect";
}

static void set_curl_failure(struct transfer *t, CURLcode code) {
  const char *text = t->easy->error[0] != '\0' ? t->easy->error : curl_easy_strerror(code);
  switch (code) {
  case CURLE_OPERATION_TIMEDOUT: /* only the connect timeout is libcurl's; the others are ours */
    set_failure(t, ERR_TIMEOUT, "connect", "no connection within %.3g s",
                (double)t->limits.connect_us / 1e6);
    return;
  case CURLE_UNSUPPORTED_PROTOCOL:
    if (was_sent(t)) { /* libcurl's word for a reply without a status line, too */
      set_failure(t, ERR_PROTOCOL, "response",
                  "the reply is not valid HTTP: it has no status line");
      return;
    }
    /* fall through */
  case CURLE_URL_MALFORMAT:
    set_failure(t, ERR_INVALID, "connect", "bad URL: %s", text);
    return;
  case CURLE_OUT_OF_MEMORY: /* libcurl's word for a header line over its ceiling, too */
    if (was_sent(t) && !t->headers_done)
      set_failure(t, ERR_PROTOCOL, "response", "a header of the reply is too long");
    else
      set_failure(t, ERR_MEMORY, reached_phase(t), "%s", text);
    return;
  case CURLE_WEIRD_SERVER_REPLY:
  case CURLE_BAD_CONTENT_ENCODING:
  case CURLE_HTTP2:
    set_failure(t, ERR_PROTOCOL, reached_phase(t), "the reply is not valid HTTP: %s", text);
    return;
  case CURLE_PEER_FAILED_VERIFICATION:
  case CURLE_SSL_CACERT_BADFILE:
    set_failure(t, ERR_NETWORK, "tls",
                "TLS: the server could not be verified: %s (a private authority's certificate goes "
                "into the file that %s names)",
                text, multi_authorities());
    return;
  case CURLE_PARTIAL_FILE:
    set_failure(t, ERR_NETWORK, "body", "the connection closed in the middle of the reply: %s",
                text);
    return;
  case CURLE_GOT_NOTHING:
    set_failure(t, ERR_NETWORK, "response", "the server closed the connection without answering");
    return;
  default:
    if (!was_sent(t) && proxy_of(t) != NULL)
      set_failure(t, ERR_NETWORK, "connect", "%s (%s names a proxy)", text, proxy_of(t));
    else
      set_failure(t, ERR_NETWORK, reached_phase(t), "%s", text);
    return;
  }
}

/* ---- life ------------------------------------------------------------------------------------ */

static void detach(struct transfer *t) {
  if (t->easy == NULL) return;
  multi_remove(t->easy);
  curl_easy_setopt(t->easy->curl, CURLOPT_HTTPHEADER, NULL);
  if (t->easy->posts) curl_easy_setopt(t->easy->curl, CURLOPT_POSTFIELDS, NULL);
  multi_give(t->easy);
  t->easy = NULL;
  free_until(t->own, t->common);
  t->own = NULL;
  loop_timer_disarm(&t->timer);
  active--;
  if (t->load != NULL) --*t->load;
}

static void end(struct transfer *t) {
  t->ended_us = loop_now_us();
  t->done = true;
  detach(t);
  if (t->notify != NULL) t->notify(t);
}

void transfer_on_done(struct transfer *t, CURLcode code) {
  if (code != CURLE_OK) set_curl_failure(t, code);
  if (!t->headers_done) /* libcurl is content with what came */
    set_failure(t, ERR_NETWORK, "response", "the connection closed in the middle of the headers");
  end(t);
}

/* ---- timers ---------------------------------------------------------------------------------- */

static int64_t plus(int64_t at, int64_t span) {
  return span <= 0 || at == LOOP_NEVER ? LOOP_NEVER : at + span;
}

/* When patience ends, and with which words. */
static int64_t due(const struct transfer *t, const char **phase) {
  int64_t total = plus(t->started_us, t->limits.total_us);
  int64_t silent;
  const char *name;
  if (t->progressed) {
    name = "idle";
    silent = plus(t->progress_us, t->limits.idle_us);
  } else {
    name = "first_token";
    silent = t->progress_us == LOOP_NEVER ? LOOP_NEVER : plus(t->started_us, t->limits.first_us);
  }
  if (t->progressed && t->limits.rate_us > 0 && t->progress_us != LOOP_NEVER) {
    int64_t measured = t->progress_us + t->limits.rate_us - t->waited_us;
    if (measured < silent) {
      silent = measured;
      name = "slow";
    }
  }
  *phase = total <= silent ? "total" : name;
  return total <= silent ? total : silent;
}

/* ---- the floor under the rate: slow, but alive ---------------------------------------------- */

#define BYTES_PER_TOKEN 4 /* the usual estimate: nobody counts the tokens of a piece of text */

void transfer_measure(struct transfer *t, size_t bytes) {
  if (t->progressed && t->progress_us != LOOP_NEVER) t->waited_us += loop_now_us() - t->progress_us;
  t->window_bytes += bytes;
}

static double window_tokens(const struct transfer *t) {
  return (double)t->window_bytes / BYTES_PER_TOKEN;
}

/* The window is over: too little in it, or begin the next one. */
static bool fast_enough(struct transfer *t) {
  if (window_tokens(t) < t->limits.rate * (double)t->limits.rate_us / 1e6) return false;
  t->window_bytes = 0;
  t->waited_us = t->progress_us - loop_now_us(); /* what this wait has lasted so far is behind us */
  return true;
}

static void give_up(struct transfer *t, const char *phase) {
  double waited = (double)(loop_now_us() - t->started_us) / 1e6;
  if (strcmp(phase, "idle") == 0)
    set_failure(t, ERR_TIMEOUT, phase, "the reply stalled: nothing for %.3g s (timeout.idle)",
                (double)t->limits.idle_us / 1e6);
  else if (strcmp(phase, "first_token") == 0)
    set_failure(t, ERR_TIMEOUT, phase, "no answer within %.3g s (timeout.first_token)", waited);
  else if (strcmp(phase, "slow") == 0)
    set_failure(t, ERR_TIMEOUT, phase,
                "the reply is too slow: about %.3g tokens in %.3g s, fewer than %.3g a second "
                "(timeout.min_rate)",
                window_tokens(t), (double)t->limits.rate_us / 1e6, t->limits.rate);
  else
    set_failure(t, ERR_TIMEOUT, phase, "not finished within %.3g s (timeout.total)", waited);
  end(t);
}

static void on_timer(struct loop_timer *timer) {
  struct transfer *t =
      (struct transfer *)(void *)((char *)timer - offsetof(struct transfer, timer));
  const char *phase;
  int64_t now = loop_now_us(), at = due(t, &phase);
  if (at <= now && strcmp(phase, "slow") == 0 && fast_enough(t)) at = due(t, &phase);
  if (at > now) {
    if (at != LOOP_NEVER) loop_timer_arm(timer, at); /* progress moved it; look again then */
  } else if (t->unseen && strcmp(phase, "total") != 0) {
    /* Another task has held the loop: this one's bytes are here, it just has not run yet. */
    t->overdue = true;
    loop_timer_arm(timer, now + LOOK_AGAIN_US);
  } else {
    give_up(t, phase);
  }
}

/* The timer is armed for the earliest moment and looks again when it fires, so that progress is one
** assignment and no heap operation. */
static void arm(struct transfer *t) {
  const char *phase;
  int64_t at = due(t, &phase);
  if (at == LOOP_NEVER || (loop_timer_armed(&t->timer) && t->timer.at_us <= at)) return;
  loop_timer_arm(&t->timer, at);
}

void transfer_expect(struct transfer *t) {
  t->progress_us = loop_refresh_us(); /* what the script did meanwhile is not the peer's silence */
  t->overdue = false;
  if (!t->done) arm(t);
}

/* ---- what comes in --------------------------------------------------------------------------- */

static size_t refuse(struct transfer *t, enum err_kind kind, const char *what, size_t max) {
  set_failure(t, kind, "body", "%s more than %zu bytes", what, max);
  return 0;
}

/* There is something for the reader to look at. */
static void arrived(struct transfer *t) {
  if (!t->overdue) t->unseen = true;
  if (t->notify != NULL) t->notify(t);
}

/* Where bytes are progress. The first of them may bring the end of patience nearer, the others
** only move it away. */
static void count_bytes(struct transfer *t) {
  if (!t->counts_bytes) return;
  t->progress_us = loop_now_us();
  if (t->progressed) return;
  t->progressed = true;
  arm(t);
}

size_t transfer_on_body(char *bytes, size_t size, size_t n, void *arg) {
  struct transfer *t = ((struct easy *)arg)->owner;
  (void)size; /* always 1 */
  count_bytes(t);
  if (t->sink == NULL) {
    enum buf_status status = buf_append(&t->body, bytes, n);
    if (status == BUF_OK) return n;
    if (status == BUF_FULL) return refuse(t, ERR_PROTOCOL, "the reply has", t->body.max);
    set_failure(t, ERR_MEMORY, "body", "out of memory");
    return 0;
  }
  switch (t->sink(t, bytes, n)) {
  case SINK_PAUSE:
    t->paused = true;
    return CURL_WRITEFUNC_PAUSE;
  case SINK_EVENT_TOO_LARGE:
    return refuse(t, ERR_PROTOCOL, "one event of the stream has", SSE_EVENT_MAX);
  case SINK_BODY_TOO_LARGE:
    return refuse(t, ERR_PROTOCOL, "the reply has", t->body.max);
  case SINK_NOMEM:
    set_failure(t, ERR_MEMORY, "body", "out of memory");
    return 0;
  case SINK_TAKEN:
    break;
  }
  arrived(t);
  return n;
}

size_t transfer_on_header(char *bytes, size_t size, size_t n, void *arg) {
  struct transfer *t = ((struct easy *)arg)->owner;
  (void)size;
  if (t->first_byte_us == 0) t->first_byte_us = loop_now_us();
  count_bytes(t);
  if (n > 9 && memcmp(bytes, "HTTP/", 5) == 0) {
    const char *space = memchr(bytes, ' ', n);
    t->status = space != NULL ? atoi(space + 1) : 0;
    buf_clear(&t->headers, t->headers.max); /* an interim reply's lines are of no use */
    return n;
  }
  if (n <= 2) {
    if (t->status < 200) return n;
    t->headers_done = true;
    if (t->sink == NULL && transfer_is_too_long(t))
      return refuse(t, ERR_PROTOCOL, "the reply has", t->body.max);
    if (t->sink != NULL) {
      buf_fit(&t->headers); /* thousands of streams keep theirs at a time */
      arrived(t);
    }
    return n;
  }
  if (t->headers.cap == 0)
    (void)buf_reserve(&t->headers, HEADERS_USUAL); /* or it grows line by line */
  if (buf_append(&t->headers, bytes, n) != BUF_OK)
    return refuse(t, ERR_PROTOCOL, "the reply's headers have", t->headers.max);
  return n;
}

/* When a connection that is used again dies before any byte of an answer, libcurl sends the request
** once more, without a word. The first may have been taken, and be paid for: whether it is sent again
** is not libcurl's to say (RFC 9110 9.2.2), but the caller's, who counts attempts. */
/* NOLINTNEXTLINE(readability-non-const-parameter): libcurl says which type a callback has */
int transfer_on_send(void *arg, char *ip, char *local_ip, int port, int local_port) {
  struct transfer *t = ((struct easy *)arg)->owner;
  (void)ip, (void)local_ip, (void)port, (void)local_port;
  if (t->once && t->sending) {
    set_failure(t, ERR_NETWORK, "response", "the server closed the connection without answering");
    return CURL_PREREQFUNC_ABORT;
  }
  t->sending = true;
  return CURL_PREREQFUNC_OK;
}

const char *transfer_header(const struct transfer *t, const char *name, size_t *len) {
  size_t name_len = strlen(name);
  const char *p = t->headers.data, *end_of = p + t->headers.len;
  while (p != NULL && p < end_of) {
    const char *eol = memchr(p, '\n', (size_t)(end_of - p));
    size_t line = eol != NULL ? (size_t)(eol - p) + 1 : (size_t)(end_of - p);
    if (line > name_len && p[name_len] == ':' && strncasecmp(p, name, name_len) == 0) {
      const char *value = p + name_len + 1, *last = p + line;
      while (value < last && (*value == ' ' || *value == '\t')) value++;
      while (last > value && isspace((unsigned char)last[-1])) last--;
      *len = (size_t)(last - value);
      return value;
    }
    p += line;
  }
  return NULL;
}

bool transfer_drop_request(struct transfer *t) {
  curl_off_t sent = 0;
  if (t->easy == NULL) return true;
  curl_easy_getinfo(t->easy->curl, CURLINFO_SIZE_UPLOAD_T, &sent);
  if (!t->headers_done || (size_t)sent < t->body_len) return false;
  curl_easy_setopt(t->easy->curl, CURLOPT_HTTPHEADER, slist(t->common));
  free_until(t->own, t->common);
  t->own = NULL;
  return true;
}

bool transfer_is_too_long(const struct transfer *t) {
  size_t len;
  const char *value = transfer_header(t, "content-length", &len);
  if (value == NULL || len == 0) return false;
  if (t->bodyless || t->status == 204 || t->status == 304) return false;
  return strtoull(value, NULL, 10) > t->body.max; /* the line ends in CR or LF: no digit */
}

/* ---- starting and stopping ------------------------------------------------------------------- */

void transfer_init(struct transfer *t) {
  memset(t, 0, sizeof *t);
}

static bool is_method(const struct transfer_spec *spec, const char *method) {
  return strcmp(spec->method, method) == 0;
}

static void set_body(struct easy *e, const struct transfer_spec *spec) {
  CURL *c = e->curl;
  e->posts = spec->body != NULL || is_method(spec, "POST");
  if (!e->posts) return; /* the options below make it a POST */
  curl_easy_setopt(c, CURLOPT_POSTFIELDS, spec->body != NULL ? spec->body : "");
  curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)spec->body_len);
}

static void set_method(CURL *c, const struct transfer_spec *spec) {
  bool head = is_method(spec, "HEAD"), post = is_method(spec, "POST");
  curl_easy_setopt(c, CURLOPT_HTTPGET, 1L); /* also takes back an earlier POST or HEAD */
  if (spec->body != NULL || post)
    curl_easy_setopt(c, CURLOPT_POST, 1L);
  else if (head)
    curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
  bool plain = post || head || (spec->body == NULL && is_method(spec, "GET"));
  curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, plain ? NULL : spec->method);
}

/* One of thousands gets its bytes in small pieces whatever we do; memory is what they need. */
static long receive_buffer(const struct transfer *t, const struct transfer_spec *spec) {
  if (spec->receive_buffer > 0) return (long)spec->receive_buffer;
  if (active < TRANSFERS_MANY) return (long)RECEIVE_BUFFER;
  return t->sink != NULL ? (long)RECEIVE_BUFFER_STREAM : (long)RECEIVE_BUFFER_MANY;
}

/* What is the same for all requests to one place is set once, as long as the handle keeps to it. */
static CURLcode point_at(const struct transfer *t, const struct transfer_spec *spec) {
  struct easy *e = t->easy;
  long buffer = receive_buffer(t, spec);
  if (e->receive_buffer != buffer) curl_easy_setopt(e->curl, CURLOPT_BUFFERSIZE, buffer);
  e->receive_buffer = buffer;
  bool sends = spec->body != NULL;
  const struct place *place = spec->place;
  if (e->place == place->number && e->sends == sends) return CURLE_OK;
  e->place = place->number;
  e->sends = sends;
  set_method(e->curl, spec);
  /* rounded up: 0 would be libcurl's default */
  curl_easy_setopt(e->curl, CURLOPT_CONNECTTIMEOUT_MS,
                   (long)((spec->limits.connect_us + 999) / 1000));
  /* The text as well: it is what libcurl names in messages. */
  CURLcode bad = curl_easy_setopt(e->curl, CURLOPT_URL, place->url);
  if (bad == CURLE_OK) bad = curl_easy_setopt(e->curl, CURLOPT_CURLU, place->parts);
  bool local = (multi_proxy(true) != NULL || multi_proxy(false) != NULL) && place->local;
  if (local != e->local) curl_easy_setopt(e->curl, CURLOPT_PROXY, local ? "" : NULL);
  e->local = local;
  if (bad != CURLE_OK) e->place = 0;
  return bad;
}

bool transfer_start(struct transfer *t, const struct transfer_spec *spec) {
  t->limits = spec->limits;
  t->own = spec->own;
  t->common = spec->common;
  t->bodyless = strcmp(spec->method, "HEAD") == 0;
  t->body_len = spec->body_len;
  t->once = is_method(spec, "POST") || is_method(spec, "PATCH");
  buf_init(&t->headers, HTTP_HEADERS_MAX);
  buf_init(&t->body, spec->limits.body_max);
  loop_timer_init(&t->timer, on_timer);
  t->started_us = loop_refresh_us();
  t->progress_us = t->counts_bytes ? t->started_us : LOOP_NEVER;
  t->easy = multi_take();
  if (t->easy == NULL) {
    free_until(t->own, NULL);
    t->own = NULL;
    set_failure(t, ERR_MEMORY, "connect", "out of memory");
    return false;
  }
  t->easy->owner = t;
  CURL *c = t->easy->curl;
  CURLcode bad = point_at(t, spec);
  set_body(t->easy, spec);
  curl_easy_setopt(c, CURLOPT_HTTPHEADER, join_headers(t));
  active++;
  t->load = spec->load;
  if (t->load != NULL) ++*t->load;
  if (bad != CURLE_OK || !multi_add(t->easy)) {
    set_failure(t, ERR_MEMORY, "connect", "the request could not be started: %s",
                curl_easy_strerror(bad));
    t->done = true;
    detach(t);
    return false;
  }
  arm(t);
  return true;
}

void transfer_resume(struct transfer *t) {
  if (!t->paused || t->easy == NULL) return;
  t->paused = false;
  curl_easy_pause(t->easy->curl, CURLPAUSE_CONT);
}

void transfer_abort(struct transfer *t) {
  if (t->easy == NULL) return;
  set_failure(t, ERR_CANCELLED, reached_phase(t), "the request was cancelled");
  t->notify = NULL;
  t->done = true;
  detach(t);
}

void transfer_free(struct transfer *t) {
  transfer_abort(t);
  buf_free(&t->headers);
  buf_free(&t->body);
  free(t->message);
  t->message = NULL;
}
