/* loadserver.c: the provider that `make bench` talks to. One thread, epoll, HTTP/1.1, 127.0.0.1.
 *
 * Owns: the byte strings of every answer, built once at start; connections; the timers of paced
 * streams. Never: looks at a prompt, allocates per answer, or holds one client up for another.
 * Every answer is a slice of static bytes, so the cost of a request is a recv, a search and a send.
 *
 * What to answer is said in the model name, the one field every client and SDK lets its user set:
 *   "bench-n1000-gap20-delay5"   1,000 text deltas, 20 ms apart, the first 5 ms after the headers.
 * gap0 is "as fast as the socket takes them", in sends of 64 deltas (16 KiB), or as "-burst1"
 * says. Streams with a gap are spread evenly over it.
 *
 * Reading order: the texts, the request, the answer, the timers, main. */
#include "measure.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdarg.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_MAX (1 << 20)
#define READ_MAX 65536
#define EVENTS_MAX 512
#define CYCLE 32                 /* deltas before the texts repeat: 5 * CYCLE bytes when decoded */
#define BLOCK_DELTAS (CYCLE * 8) /* deltas laid out one after another, about 64 KiB: one send */
#define BURST 64                 /* deltas in one send unless told otherwise */
#define NOT_TIMED SIZE_MAX

/* ---- the texts ------------------------------------------------------------------------------ */

/* JSON-escaped; as decoded they are 160 bytes together, so that any multiple of 32 deltas carries
 * exactly five bytes a delta and every client can check what it received. */
static const char *const WORDS[CYCLE] = {
    " The",   " sky",   " appears", " blue",        " since",       " nitrogen", " spread",
    " short", " waves", " of",      " light",       " far",         " more",     " than",
    " long",  " ones",  ".",        "\\n",          "Toward",       " sunset",   " the",
    " path",  " grows", " and",     " only",        " \\\"red\\\"", " rays",     " reach",
    " you",   ",",      " 天",      " caf\303\251s"};

struct wire {
  char *bytes;
  size_t deltas_at[BLOCK_DELTAS + 1]; /* offset of each delta; headers and opening lie before */
  const char *tail;
  size_t tail_len;
};

static struct wire openai_wire, anthropic_wire;
static char *openai_json, *anthropic_json, *not_found;
static size_t openai_json_len, anthropic_json_len, not_found_len;

struct text {
  char *p;
  size_t len, cap;
};

__attribute__((format(printf, 2, 3))) static void text_add(struct text *t, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  char piece[2048];
  int n = vsnprintf(piece, sizeof piece, fmt, ap);
  va_end(ap);
  if (n < 0 || (size_t)n >= sizeof piece) abort();
  if (t->len + (size_t)n + 1 > t->cap) {
    t->cap = (t->len + (size_t)n + 1) * 2;
    t->p = realloc(t->p, t->cap);
    if (!t->p) die("out of memory");
  }
  memcpy(t->p + t->len, piece, (size_t)n + 1);
  t->len += (size_t)n;
}

static void chunk_add(struct text *t, const char *event) {
  text_add(t, "%zx\r\n%s\r\n", strlen(event), event);
}

#define STREAM_HEAD                                                                                \
  "HTTP/1.1 200 OK\r\nDate: Sat, 22 Nov 2025 12:00:00 GMT\r\nContent-Type: text/event-stream; "    \
  "charset=utf-8\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"                          \
  "x-request-id: req_0f1e2d3c4b5a69788796a5b4c3d2e1f0\r\nTransfer-Encoding: chunked\r\n\r\n"
#define CHUNK                                                                                      \
  "data: {\"id\":\"chatcmpl-BqZ4x8Y7w6V5u4T3s2R1q0Pz9Yx8W\",\"object\":\"chat.completion.chunk\"," \
  "\"created\":1763812800,\"model\":\"bench-2025-11-22\","                                         \
  "\"system_fingerprint\":\"fp_0f1e2d3c4b\",\"choices\":"

static void build_openai(void) {
  struct text t = {0};
  char e[1024];
  text_add(&t, STREAM_HEAD);
  chunk_add(&t, CHUNK "[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                      "\"finish_reason\":null}],\"usage\":null}\n\n");
  for (size_t i = 0; i < BLOCK_DELTAS; i++) {
    openai_wire.deltas_at[i] = t.len;
    snprintf(e, sizeof e,
             CHUNK "[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"finish_reason\":null}],"
                   "\"usage\":null}\n\n",
             WORDS[i % CYCLE]);
    chunk_add(&t, e);
  }
  openai_wire.deltas_at[BLOCK_DELTAS] = t.len;
  size_t tail = t.len;
  chunk_add(&t, CHUNK "[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],"
                      "\"usage\":null}\n\n");
  chunk_add(&t, CHUNK "[],\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":256,"
                      "\"total_tokens\":275,\"prompt_tokens_details\":{\"cached_tokens\":0},"
                      "\"completion_tokens_details\":{\"reasoning_tokens\":0}}}\n\n");
  chunk_add(&t, "data: [DONE]\n\n");
  text_add(&t, "0\r\n\r\n");
  openai_wire.bytes = t.p;
  openai_wire.tail = t.p + tail;
  openai_wire.tail_len = t.len - tail;
}

#define NAMED(name, rest) "event: " name "\ndata: {\"type\":\"" name "\"" rest "}\n\n"

static void build_anthropic(void) {
  struct text t = {0};
  char e[1024];
  text_add(&t, STREAM_HEAD);
  chunk_add(&t, NAMED("message_start",
                      ",\"message\":{\"id\":\"msg_01BqZ4x8Y7w6V5u4T3s2R1q0P\",\"type\":\"message\","
                      "\"role\":\"assistant\",\"model\":\"bench-2025-11-22\",\"content\":[],"
                      "\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":19,"
                      "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,"
                      "\"output_tokens\":1}}"));
  chunk_add(&t, NAMED("content_block_start",
                      ",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}"));
  chunk_add(&t, NAMED("ping", ""));
  for (size_t i = 0; i < BLOCK_DELTAS; i++) {
    anthropic_wire.deltas_at[i] = t.len;
    snprintf(e, sizeof e,
             NAMED("content_block_delta",
                   ",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"%s\"}"),
             WORDS[i % CYCLE]);
    chunk_add(&t, e);
  }
  anthropic_wire.deltas_at[BLOCK_DELTAS] = t.len;
  size_t tail = t.len;
  chunk_add(&t, NAMED("content_block_stop", ",\"index\":0"));
  chunk_add(&t, NAMED("message_delta",
                      ",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},"
                      "\"usage\":{\"output_tokens\":256}"));
  chunk_add(&t, NAMED("message_stop", ""));
  text_add(&t, "0\r\n\r\n");
  anthropic_wire.bytes = t.p;
  anthropic_wire.tail = t.p + tail;
  anthropic_wire.tail_len = t.len - tail;
}

#define ANSWER                                                                                     \
  "The sky looks blue since air spreads short waves of light far more than long ones.\\nAt dusk "  \
  "the path grows and only \\\"red\\\" rays reach you."

static char *json_answer(const char *status, const char *body, size_t *len) {
  struct text t = {0};
  text_add(&t,
           "HTTP/1.1 %s\r\nDate: Sat, 22 Nov 2025 12:00:00 GMT\r\n"
           "Content-Type: application/json\r\n"
           "x-request-id: req_0f1e2d3c4b5a69788796a5b4c3d2e1f0\r\nContent-Length: %zu\r\n\r\n%s",
           status, strlen(body), body);
  *len = t.len;
  return t.p;
}

static void check_words(void) {
  size_t n = 0;
  for (size_t i = 0; i < CYCLE; i++)
    for (const char *p = WORDS[i]; *p; p++) n += *p != '\\';
  if (n != 5 * CYCLE) abort();
}

static void build_answers(void) {
  check_words();
  openai_json = json_answer(
      "200 OK",
      "{\"id\":\"chatcmpl-BqZ4x8Y7w6V5u4T3s2R1q0Pz9Yx8W\",\"object\":\"chat.completion\","
      "\"created\":1763812800,\"model\":\"bench-2025-11-22\",\"choices\":[{\"index\":0,\"message\":"
      "{\"role\":\"assistant\",\"content\":\"" ANSWER "\",\"refusal\":null},\"logprobs\":null,"
      "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":32,"
      "\"total_tokens\":51,\"prompt_tokens_details\":{\"cached_tokens\":0},"
      "\"completion_tokens_details\":{\"reasoning_tokens\":0}},\"system_fingerprint\":"
      "\"fp_0f1e2d3c4b\"}",
      &openai_json_len);
  anthropic_json = json_answer(
      "200 OK",
      "{\"id\":\"msg_01BqZ4x8Y7w6V5u4T3s2R1q0P\",\"type\":\"message\",\"role\":\"assistant\","
      "\"model\":\"bench-2025-11-22\",\"content\":[{\"type\":\"text\",\"text\":\"" ANSWER "\"}],"
      "\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":19,"
      "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":32}}",
      &anthropic_json_len);
  not_found = json_answer("404 Not Found",
                          "{\"error\":{\"message\":\"no such route; see bench/README.md\",\"type\":"
                          "\"invalid_request_error\",\"param\":null,\"code\":null}}",
                          &not_found_len);
  build_openai();
  build_anthropic();
}

/* ---- connections ---------------------------------------------------------------------------- */

struct conn {
  int fd;
  const char *out; /* what is left of the present slice */
  size_t out_left;
  char *own; /* the slice, when it is not static (GET /stats) */
  char *in;  /* bytes of an unfinished request, or of one that must wait its turn */
  size_t in_len, in_cap;
  size_t timer; /* place in the heap, or NOT_TIMED */
  int64_t due_at_us, gap_us;
  const struct wire *wire; /* the stream under way */
  long left, due, sent;    /* deltas not yet handed to the socket; how many of them may go now */
  long burst;              /* the most deltas in one send */
  bool busy, close_after, tail_sent, delayed_json;
};

static struct {
  long requests, replies, started, finished, aborted, peak, open_conns, all_conns, deltas, bad;
} stats;
static int epoll_fd;
static long spread; /* counts paced streams, to place their phases */

static struct conn **heap;
static size_t heap_len, heap_cap;

static void heap_put(size_t i, struct conn *c) {
  heap[i] = c;
  c->timer = i;
}

static void heap_settle(size_t i, struct conn *c) {
  while (i > 0 && heap[(i - 1) / 2]->due_at_us > c->due_at_us) {
    heap_put(i, heap[(i - 1) / 2]);
    i = (i - 1) / 2;
  }
  for (;;) {
    size_t k = 2 * i + 1;
    if (k >= heap_len) break;
    if (k + 1 < heap_len && heap[k + 1]->due_at_us < heap[k]->due_at_us) k++;
    if (heap[k]->due_at_us >= c->due_at_us) break;
    heap_put(i, heap[k]);
    i = k;
  }
  heap_put(i, c);
}

static void timer_at(struct conn *c, int64_t at_us) {
  c->due_at_us = at_us;
  if (c->timer == NOT_TIMED) {
    if (heap_len == heap_cap) {
      heap_cap = heap_cap ? heap_cap * 2 : 1024;
      heap = realloc(heap, heap_cap * sizeof *heap);
      if (!heap) die("out of memory");
    }
    heap_put(heap_len++, c);
  }
  heap_settle(c->timer, c);
}

static void timer_off(struct conn *c) {
  if (c->timer == NOT_TIMED) return;
  size_t i = c->timer;
  struct conn *last = heap[--heap_len];
  c->timer = NOT_TIMED;
  if (last != c) heap_settle(i, last);
}

static void conn_close(struct conn *c) {
  if (c->wire) stats.aborted++;
  timer_off(c);
  close(c->fd);
  free(c->in);
  free(c->own);
  free(c);
  stats.open_conns--;
}

/* ---- the answer ------------------------------------------------------------------------------ */

/* Picks the next slice of a stream; false when nothing may be sent now. */
static bool stream_refill(struct conn *c) {
  const struct wire *w = c->wire;
  long k = c->due < c->left ? c->due : c->left;
  long at = c->sent % CYCLE;
  if (k > BLOCK_DELTAS - at) k = BLOCK_DELTAS - at;
  if (k > c->burst) k = c->burst;
  if (k > 0) {
    c->out = w->bytes + w->deltas_at[at];
    c->out_left = w->deltas_at[at + k] - w->deltas_at[at];
    c->left -= k;
    c->due -= k;
    c->sent += k;
    stats.deltas += k;
    return true;
  }
  if (c->left > 0 || c->tail_sent) return false;
  c->out = w->tail;
  c->out_left = w->tail_len;
  c->tail_sent = true;
  return true;
}

/* Sends what may be sent. -1: the connection is gone; 0: waits for socket or timer; 1: answered. */
static int conn_send(struct conn *c) {
  for (;;) {
    if (c->out_left == 0 && c->wire && !stream_refill(c)) {
      if (!c->tail_sent) return 0;
      c->wire = NULL;
      stats.finished++;
      return 1;
    }
    if (c->out_left == 0) return c->delayed_json ? 0 : 1;
    ssize_t n = send(c->fd, c->out, c->out_left, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    c->out += n;
    c->out_left -= (size_t)n;
  }
}

static void stream_begin(struct conn *c, const struct wire *w, long n, long gap_ms, long delay_ms) {
  long open = ++stats.started - stats.finished - stats.aborted;
  if (open > stats.peak) stats.peak = open;
  c->wire = w;
  c->left = n;
  c->sent = 0;
  c->tail_sent = false;
  c->gap_us = gap_ms * 1000;
  c->out = w->bytes;
  c->out_left = w->deltas_at[0];
  if (gap_ms == 0 && delay_ms == 0) { /* headers, opening and first deltas lie in a row: one send */
    long k = n < c->burst ? n : c->burst;
    c->out_left = w->deltas_at[k];
    c->left = n - k;
    c->sent = k;
    c->due = c->left;
    stats.deltas += k;
    return;
  }
  c->due = 0;
  /* golden-ratio phases: however many streams there are, their deltas come evenly spaced */
  uint64_t place = (uint64_t)spread++ * 0x9E3779B97F4A7C15u >> 40; /* of 2^24 */
  int64_t phase = (int64_t)(place * (uint64_t)c->gap_us >> 24);
  timer_at(c, now_us() + delay_ms * 1000 + phase);
}

static void stats_answer(struct conn *c, bool reset) {
  char body[640];
  snprintf(body, sizeof body,
           "{\"requests\":%ld,\"replies\":%ld,\"streams_started\":%ld,\"streams_finished\":%ld,"
           "\"streams_aborted\":%ld,\"streams_open\":%ld,\"streams_peak\":%ld,\"deltas\":%ld,"
           "\"connections_open\":%ld,\"connections_all\":%ld,\"bad_requests\":%ld,\"cpu_us\":%lld,"
           "\"wall_us\":%lld}",
           stats.requests, stats.replies, stats.started, stats.finished, stats.aborted,
           stats.started - stats.finished - stats.aborted, stats.peak, stats.deltas,
           stats.open_conns, stats.all_conns, stats.bad, (long long)cpu_us(), (long long)now_us());
  size_t len;
  c->own = json_answer("200 OK", body, &len);
  c->out = c->own;
  c->out_left = len;
  if (reset) stats.peak = stats.started - stats.finished - stats.aborted;
}

/* ---- the request ----------------------------------------------------------------------------- */

static long spec_field(const char *p, const char *end, const char *name, long fallback) {
  size_t n = strlen(name);
  for (; p < end && *p != '"'; p++) {
    if (*p != '-' || (size_t)(end - p) <= n + 1 || memcmp(p + 1, name, n) != 0) continue;
    const char *d = p + 1 + n;
    if (d >= end || *d < '0' || *d > '9') continue;
    long v = 0;
    for (; d < end && *d >= '0' && *d <= '9' && v < 100000000; d++) v = v * 10 + (*d - '0');
    return v;
  }
  return fallback;
}

/* A search, not a JSON parser: the bodies are the bench's own, and the server must stay cheap. */
static bool wants_stream(const char *body, size_t len) {
  const char *p = memmem(body, len, "\"stream\"", 8), *end = body + len;
  if (!p) return false;
  for (p += 8; p < end && (*p == ' ' || *p == ':'); p++) {
  }
  return end - p >= 4 && memcmp(p, "true", 4) == 0;
}

static void model_answer(struct conn *c, bool anthropic, const char *body, size_t len) {
  const char *spec = memmem(body, len, "\"bench-", 7), *end = body + len;
  spec = spec ? spec + 6 : end; /* at the '-' */
  long delay_ms = spec_field(spec, end, "delay", 0);
  if (wants_stream(body, len)) {
    c->burst = spec_field(spec, end, "burst", BURST);
    if (c->burst < 1 || c->burst > BLOCK_DELTAS) c->burst = BURST;
    stream_begin(c, anthropic ? &anthropic_wire : &openai_wire, spec_field(spec, end, "n", 32),
                 spec_field(spec, end, "gap", 0), delay_ms);
    return;
  }
  stats.replies++;
  c->out = anthropic ? anthropic_json : openai_json;
  c->out_left = anthropic ? anthropic_json_len : openai_json_len;
  if (delay_ms == 0) return;
  c->delayed_json = true;
  timer_at(c, now_us() + delay_ms * 1000);
}

static void route(struct conn *c, const char *head, size_t head_len, const char *body, size_t len) {
  const char *eol = memchr(head, '\r', head_len);
  size_t n = eol ? (size_t)(eol - head) : head_len;
  c->busy = true;
  stats.requests++;
  if (n > 25 && memcmp(head, "POST /v1/chat/completions", 25) == 0) {
    model_answer(c, false, body, len);
  } else if (n > 17 && memcmp(head, "POST /v1/messages", 17) == 0) {
    model_answer(c, true, body, len);
  } else if (n > 10 && memcmp(head, "GET /stats", 10) == 0) {
    stats.requests--; /* the observer does not count itself */
    stats_answer(c, head[10] == '?');
  } else {
    stats.bad++;
    c->out = not_found;
    c->out_left = not_found_len;
  }
}

/* Value of one header inside head, or NULL. */
static const char *header(const char *head, size_t head_len, const char *name) {
  size_t n = strlen(name);
  const char *end = head + head_len, *p = head;
  while ((p = memchr(p, '\n', (size_t)(end - p))) != NULL) {
    p++;
    if ((size_t)(end - p) <= n || p[n] != ':' || strncasecmp(p, name, n) != 0) continue;
    for (p += n + 1; p < end && *p == ' '; p++) {
    }
    return p;
  }
  return NULL;
}

/* Takes one whole request off the front of p. Returns its length, 0 if incomplete, -1 if bad. */
static ssize_t take_request(struct conn *c, const char *p, size_t n) {
  const char *end = memmem(p, n, "\r\n\r\n", 4);
  if (!end) return n > REQUEST_MAX ? -1 : 0;
  size_t head_len = (size_t)(end - p) + 4, body_len = 0;
  const char *v = header(p, head_len, "content-length");
  if (v) body_len = strtoul(v, NULL, 10);
  if (body_len > REQUEST_MAX || header(p, head_len, "transfer-encoding")) return -1;
  if (n < head_len + body_len) {
    v = n == head_len ? header(p, head_len, "expect") : NULL;
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (v && send(c->fd, go_on, sizeof go_on - 1, MSG_NOSIGNAL) < 0) return -1;
    return 0;
  }
  v = header(p, head_len, "connection");
  c->close_after = v && strncasecmp(v, "close", 5) == 0;
  route(c, p, head_len, p + head_len, body_len);
  return (ssize_t)(head_len + body_len);
}

/* Goes on with a connection: answers, then whole requests in p, as long as neither must wait.
 * What is left of p is kept in c->in. False: c is closed and gone. */
static bool conn_go(struct conn *c, const char *p, size_t n) {
  for (;;) {
    if (c->busy) {
      int sent = conn_send(c);
      if (sent < 0) return conn_close(c), false;
      if (sent == 0) break;
      c->busy = false;
      free(c->own);
      c->own = NULL;
      if (c->close_after) return conn_close(c), false;
    }
    ssize_t used = n > 0 ? take_request(c, p, n) : 0;
    if (used < 0) {
      stats.bad++;
      return conn_close(c), false;
    }
    if (used == 0) break;
    p += used;
    n -= (size_t)used;
    if (c->delayed_json) break;
  }
  if (n > c->in_cap) {
    char *bigger = malloc(n); /* not realloc: p may lie inside c->in */
    if (!bigger) die("out of memory");
    memcpy(bigger, p, n);
    free(c->in);
    c->in = bigger;
    c->in_cap = n;
  } else if (n > 0) {
    memmove(c->in, p, n);
  } else {
    free(c->in);
    c->in = NULL;
    c->in_cap = 0;
  }
  c->in_len = n;
  return true;
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* The socket is registered edge-triggered once for its life: no epoll_ctl per request or stall.
 * hangup: the event said so, and no further edge will; so read on until the end shows. */
static void conn_ready(struct conn *c, bool hangup) {
  static char bytes[REQUEST_MAX + 2 * READ_MAX];
  for (;;) {
    size_t have = c->in_len;
    if (have > REQUEST_MAX + READ_MAX) return conn_close(c);
    if (have > 0) memcpy(bytes, c->in, have);
    ssize_t n = recv(c->fd, bytes + have, READ_MAX, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0 || (n < 0 && errno != EAGAIN)) return conn_close(c);
    if (n < 0) { /* nothing to read: the socket became writable */
      if (c->busy && !c->delayed_json) conn_go(c, bytes, have);
      return;
    }
    if (!conn_go(c, bytes, have + (size_t)n)) return;
    if (n < READ_MAX && !hangup) return; /* drained: more bytes raise a new edge */
  }
}

static void timer_fire(struct conn *c, int64_t now) {
  if (c->delayed_json) {
    timer_off(c);
    c->delayed_json = false;
  } else if (c->gap_us == 0) { /* only the first delta was to wait */
    timer_off(c);
    c->due = c->left;
  } else {
    int64_t late = (now - c->due_at_us) / c->gap_us;
    c->due += 1 + (long)late;
    if (c->due >= c->left)
      timer_off(c);
    else
      timer_at(c, c->due_at_us + (1 + late) * c->gap_us);
  }
  conn_go(c, c->in, c->in_len);
}

static void accept_all(int listener) {
  for (;;) {
    /* cppcheck-suppress nullPointer -- accept takes NULL for an address nobody wants */
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EAGAIN) return;
      if (errno == EINTR || errno == ECONNABORTED) continue;
      die("accept"); /* out of descriptors: any figure from here on would be wrong */
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct conn *c = calloc(1, sizeof *c);
    if (!c) die("out of memory");
    c->fd = fd;
    c->timer = NOT_TIMED;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) die("epoll_ctl");
    stats.open_conns++; /* NOLINT(clang-analyzer-unix.Malloc): epoll holds c until conn_close */
    stats.all_conns++;
  }
}

static int open_listener(long port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  int one = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) die("socket");
  if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0) die("bind");
  if (listen(fd, 65535) != 0) die("listen");
  socklen_t len = sizeof a;
  if (getsockname(fd, (struct sockaddr *)&a, &len) != 0) die("getsockname");
  printf("port %d\n", ntohs(a.sin_port));
  fflush(stdout);
  return fd;
}

/* Waits for the next timer to the microsecond: paced deltas must not come in millisecond clumps. */
static int wait_events(struct epoll_event *events) {
  if (heap_len == 0) return epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
  int64_t us = heap[0]->due_at_us - now_us();
  if (us < 0) us = 0;
  struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
  int n = epoll_pwait2(epoll_fd, events, EVENTS_MAX, &t, NULL);
  if (n < 0 && errno == ENOSYS)
    n = epoll_wait(epoll_fd, events, EVENTS_MAX, (int)((us + 999) / 1000));
  return n;
}

int main(int argc, char **argv) {
  raise_fd_limit();
  build_answers();
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_TIMERSLACK, 1);
  prctl(PR_SET_PDEATHSIG, SIGTERM); /* never outlive the script that started it */
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  int listener = open_listener(arg_long(argc, argv, "port", 0));
  struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
  if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &ev) != 0) die("epoll");
  for (;;) {
    static struct epoll_event events[EVENTS_MAX];
    int n = wait_events(events);
    if (n < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < n; i++) {
      uint32_t gone = events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
      if (events[i].data.ptr)
        conn_ready(events[i].data.ptr, gone != 0);
      else
        accept_all(listener);
    }
    int64_t now = now_us();
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): conn_close takes c out of the heap */
    while (heap_len > 0 && heap[0]->due_at_us <= now) timer_fire(heap[0], now);
  }
}
