/* raw.c: the limit below the yardstick, and the proof that the load server is not what is measured:
 * epoll, send and recv with a fixed request, no HTTP library.
 *
 * Owns: its connections. Never: reads more of an answer than where it ends.
 *
 * usage: raw ask port n concurrency | raw stream port n | raw paced port streams n gap delay */
#include "measure.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS_MAX 512

struct conn {
  int fd;
  long got;     /* bytes of the present answer */
  char last[5]; /* a stream ends with "0\r\n\r\n" */
};

static int epoll_fd;
static struct sockaddr_in address;
static char request[512];
static size_t request_len;
static struct {
  long from, to, seen;
  int64_t cpu_from, cpu_to;
} window;

static void set_request(const char *spec, bool stream) {
  char body[256];
  snprintf(body, sizeof body,
           "{\"model\":\"bench%s\",\"messages\":[{\"role\":\"user\",\"content\":"
           "\"Why is the sky blue?\"}]%s}",
           spec, stream ? ",\"stream\":true" : "");
  int n = snprintf(request, sizeof request,
                   "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
                   "application/json\r\nContent-Length: %zu\r\n\r\n%s",
                   strlen(body), body);
  request_len = (size_t)n;
}

static void conn_open(struct conn *c) {
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (c->fd < 0) die("socket");
  if (connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0) die("connect");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
  if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &ev) != 0) die("epoll_ctl");
}

static void conn_ask(struct conn *c) {
  c->got = 0;
  memset(c->last, 0, sizeof c->last);
  if (send(c->fd, request, request_len, MSG_NOSIGNAL) != (ssize_t)request_len) die("send");
}

static void count_deltas(const char *p, size_t n) {
  const char *end = p + n;
  while ((p = memmem(p, (size_t)(end - p), "data: ", 6)) != NULL) {
    p += 6;
    window.seen++;
    if (window.seen == window.from) window.cpu_from = cpu_us();
    if (window.seen == window.to) window.cpu_to = cpu_us();
  }
}

/* One recv. True when the answer is whole: json_len bytes, or the end of a chunked stream. */
static bool conn_read(struct conn *c, long json_len) {
  static char bytes[65536];
  ssize_t n = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n <= 0) die("recv");
  c->got += n;
  if (json_len > 0) return c->got == json_len;
  if (window.to > 0) count_deltas(bytes, (size_t)n);
  size_t keep = (size_t)n < sizeof c->last ? (size_t)n : sizeof c->last;
  memmove(c->last, c->last + keep, sizeof c->last - keep);
  memcpy(c->last + sizeof c->last - keep, bytes + n - keep, keep);
  return memcmp(c->last, "0\r\n\r\n", 5) == 0;
}

/* n answers over count connections, each asking again as soon as it is answered. */
static void run(struct conn *cs, long count, long n, long json_len) {
  struct epoll_event events[EVENTS_MAX];
  long to_start = n, open = 0;
  for (; open < count && to_start > 0; to_start--) conn_ask(&cs[open++]);
  while (open > 0) {
    int k = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
    for (int i = 0; i < k; i++) {
      struct conn *c = events[i].data.ptr;
      if (!conn_read(c, json_len)) continue;
      if (to_start > 0) {
        to_start--;
        conn_ask(c);
      } else {
        open--;
      }
    }
  }
}

/* The length of a JSON answer, head and all: it is the same for every one. */
static long answer_length(struct conn *c) {
  char bytes[4096];
  size_t n = 0;
  conn_ask(c);
  for (;;) {
    ssize_t k = recv(c->fd, bytes + n, sizeof bytes - 1 - n, 0);
    if (k <= 0) die("recv");
    n += (size_t)k;
    bytes[n] = 0;
    const char *end = strstr(bytes, "\r\n\r\n"), *len = strstr(bytes, "Content-Length: ");
    if (!end || !len) continue;
    long whole = end + 4 - bytes + strtol(len + 16, NULL, 10);
    if ((long)n == whole) return whole;
  }
}

static void print_line(const char *mode, long n, double cpu, int64_t wall) {
  printf("{\"client\":\"raw\",\"mode\":\"%s\",\"n\":%ld,\"cpu_us_per_unit\":%.4f,\"wall_s\":%.6f,"
         "\"maxrss_kib\":%ld}\n",
         mode, n, cpu, (double)wall / 1e6, vm_kib("VmHWM"));
}

int main(int argc, char **argv) {
  static const char *const known[] = {"port", "n", "concurrency", "streams", "gap", "delay", NULL};
  const char *mode = argc > 1 ? argv[1] : "";
  arg_check(argc, argv, known);
  bool ask = strcmp(mode, "ask") == 0, paced = strcmp(mode, "paced") == 0;
  if (!ask && !paced && strcmp(mode, "stream") != 0) {
    fprintf(stderr, "usage: raw ask|stream|paced key=value…\n");
    return 2;
  }
  long n = arg_long(argc, argv, "n", paced ? 32 : 10000);
  long count = arg_long(argc, argv, paced ? "streams" : "concurrency", 1);
  address.sin_family = AF_INET;
  address.sin_port = htons((uint16_t)arg_long(argc, argv, "port", 0));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  raise_fd_limit();
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  struct conn *cs = calloc((size_t)(count > 0 ? count : 1), sizeof *cs);
  if (epoll_fd < 0 || !cs || count < 1) die("start");
  for (long i = 0; i < count; i++) conn_open(&cs[i]);
  char spec[96] = "";
  long json_len = 0, runs = count;
  set_request(spec, false);
  if (ask) {
    runs = n;
    json_len = answer_length(&cs[0]);
    run(cs, count, 2 * count > 500 ? 2 * count : 500, json_len);
  } else {
    snprintf(spec, sizeof spec, "-n%ld-gap%ld-delay%ld", paced ? n : n / count,
             paced ? arg_long(argc, argv, "gap", 100) : 0,
             paced ? arg_long(argc, argv, "delay", 1000) : 0);
    set_request(spec, true);
  }
  if (paced) {
    window.from = 2 * count;
    window.to = n * count;
  }
  int64_t wall = now_us(), cpu = cpu_us();
  run(cs, count, runs, json_len);
  cpu = cpu_us() - cpu;
  wall = now_us() - wall;
  double units = (double)n;
  if (paced) {
    cpu = window.cpu_to - window.cpu_from;
    units = (double)(window.to - window.from);
  }
  print_line(mode, paced ? n * count : n, (double)cpu / units, wall);
  for (long i = 0; i < count; i++) close(cs[i].fd);
  free(cs);
  close(epoll_fd);
  return 0;
}
