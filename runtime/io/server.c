/*
** The HTTP server: see server.h. Owns the listening socket, the connections, and the requests that
** wait to be taken. evhttp parses and frames; what it lacks is added here: a ceiling on the number
** of connections, a limit on the time to receive a request, and a client's leaving noticed at once.
**
** Who frees an evhttp_request: evhttp, once the reply has been handed over (reply, finish) or when
** we free its connection; on_close, when the client left before, for evhttp then only detaches it.
** Reading order: struct connection, on_accept, on_request, on_close, then exchange.c.
*/
#include "io/server.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "io/loop.h"
#include "io/loop_base.h"
#include "io/server_base.h"

#define ACCEPT_PAUSE_US 100000 /* after the system ran out of descriptors */
#define STALL_S 600            /* a client that takes nothing for so long is gone */
#define AHEAD_MAX (64u << 10)  /* bytes read of the next request while this one is answered */
#define DESCRIPTORS_SPARE 1024 /* beside the connections: files, transfers, pipes */

#define METHODS                                                                                    \
  (EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |       \
   EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH)

struct server {
  struct list link; /* in `servers` */
  struct evhttp *http;
  struct evhttp_bound_socket *bound; /* NULL once stopped */
  struct event *accepted;            /* made active when `fresh` has got one */
  struct list fresh;                 /* connections evhttp is still setting up */
  struct list connections;
  struct list queue; /* exchanges nobody has taken */
  struct connection **by_fd;
  size_t by_fd_count, connection_count, busy;
  struct server_options options;
  struct loop_timer pause;
  int port;
  bool ipv6, stopping;
};

static struct list servers = {&servers, &servers};

struct evhttp_callbacks evhttp_callbacks;

static void changed(struct server *s) {
  if (s->options.changed != NULL) s->options.changed(s->options.arg);
}

/* ---- the life of a connection -----------------------------------------------------------------
 */

static void on_close(struct evhttp_connection *evcon, void *arg) {
  (void)evcon;
  struct connection *c = arg;
  struct server *s = c->server;
  struct exchange *x = c->exchange;
  bool was_busy = c->busy;
  if (c->request != NULL && evhttp_request_get_connection(c->request) == NULL)
    evhttp_request_free(c->request);
  loop_timer_disarm(&c->timer);
  list_remove(&c->link);
  s->by_fd[c->fd] = NULL;
  s->connection_count--;
  s->busy -= c->busy;
  free(c);
  if (x != NULL) {
    x->connection = NULL;
    x->gone = true;
    if (!list_empty(&x->link)) { /* still in the queue: nobody will ever ask for it */
      list_remove(&x->link);
      free(x);
    } else if (x->notify != NULL) {
      x->notify(x);
    }
  }
  if (was_busy) changed(s);
}

static void on_timer(struct loop_timer *timer) {
  evhttp_connection_free(list_entry(timer, struct connection, timer)->evcon);
}

/* evhttp asks for a bufferevent when it has accepted a connection. Its own set-up follows; what is
** ours waits until that is done, and runs before anything can be read. */
static struct bufferevent *on_accept(struct event_base *base, void *arg) {
  struct server *s = arg;
  struct bufferevent *bev = bufferevent_socket_new(base, -1, 0);
  struct connection *c = calloc(1, sizeof *c);
  if (bev == NULL || c == NULL) {
    free(c);
    return bev; /* it will be answered 503 */
  }
  c->server = s;
  c->bev = bev;
  loop_timer_init(&c->timer, on_timer);
  bufferevent_incref(bev); /* until on_accepted: evhttp may fail and free it */
  list_append(&s->fresh, &c->link);
  event_active(s->accepted, EV_TIMEOUT, 0);
  return bev;
}

static bool remember(struct server *s, struct connection *c) {
  size_t need = (size_t)c->fd + 1;
  if (need > s->by_fd_count) {
    size_t count = s->by_fd_count ? s->by_fd_count : 64;
    while (count < need) count *= 2;
    struct connection **grown = realloc(s->by_fd, count * sizeof *grown);
    if (grown == NULL) return false;
    memset(grown + s->by_fd_count, 0, (count - s->by_fd_count) * sizeof *grown);
    s->by_fd = grown;
    s->by_fd_count = count;
  }
  s->by_fd[c->fd] = c;
  return true;
}

static void refuse(struct connection *c) {
  static const char reply[] = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"
                              "Retry-After: 1\r\nContent-Length: 0\r\n\r\n";
  ssize_t ignored = send(c->fd, reply, sizeof reply - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  (void)ignored; /* whether it arrives or not, the connection ends */
  evhttp_connection_free(c->evcon);
}

static void adopt(struct server *s, struct connection *c) {
  /* The argument of evhttp's callbacks is its connection; there is no other way to it before the
  ** first request, and none to learn that it ended without one. */
  void *evcon = NULL;
  bufferevent_data_cb written = NULL;
  bufferevent_event_cb event = NULL;
  bufferevent_getcb(c->bev, NULL, &written, &event, &evcon);
  c->fd = bufferevent_getfd(c->bev);
  bufferevent_decref(c->bev);
  if (event == NULL || evcon == NULL || c->fd < 0 || !remember(s, c)) {
    free(c);
    return;
  }
  evhttp_callbacks = (struct evhttp_callbacks){written, event};
  c->evcon = evcon;
  evhttp_connection_set_closecb(c->evcon, on_close, c);
  list_append(&s->connections, &c->link);
  s->connection_count++;
  if (s->connection_count > s->options.connections_max ||
      !loop_timer_arm(&c->timer, loop_refresh_us() + s->options.request_us)) {
    refuse(c);
    return;
  }
  int on = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct timeval stall = {.tv_sec = STALL_S};
  bufferevent_set_timeouts(c->bev, NULL, &stall); /* silence is no fault, a full pipe is */
}

static void on_accepted(evutil_socket_t fd, short what, void *arg) {
  (void)fd, (void)what;
  struct server *s = arg;
  struct list *node = s->fresh.next;
  while (node != &s->fresh) {
    struct connection *c = list_entry(node, struct connection, link);
    node = node->next; /* adopting may free this one, and touches no other */
    list_remove(&c->link);
    adopt(s, c);
  }
}

/* ---- requests ---------------------------------------------------------------------------------
 */

static void on_event(struct bufferevent *bev, short what, void *arg) {
  evhttp_callbacks.event(bev, what, ((struct connection *)arg)->evcon);
}

static void on_written(struct bufferevent *bev, void *arg) {
  struct connection *c = arg;
  if (evbuffer_get_length(bufferevent_get_output(bev)) > 0) return;
  if (c->closing)
    evhttp_connection_free(c->evcon);
  else if (c->exchange != NULL && c->exchange->notify != NULL)
    c->exchange->notify(c->exchange);
}

void connection_watch(struct connection *c) {
  bufferevent_setcb(c->bev, NULL, on_written, on_event, c);
}

/* The reply is with the system; evhttp goes on to the next request, or closes. */
static void on_complete(struct evhttp_request *request, void *arg) {
  (void)request;
  struct connection *c = arg;
  struct server *s = c->server;
  c->busy = false;
  s->busy--;
  bufferevent_setwatermark(c->bev, EV_READ, 0, 0);
  /* The last one may have been promised another before that was known. */
  loop_timer_arm(&c->timer, loop_refresh_us() + (c->last ? 0 : s->options.idle_us));
  changed(s);
}

static void on_request(struct evhttp_request *request, void *arg) {
  struct server *s = arg;
  struct evhttp_connection *evcon = evhttp_request_get_connection(request);
  struct bufferevent *bev = evhttp_connection_get_bufferevent(evcon);
  size_t fd = (size_t)bufferevent_getfd(bev);
  struct connection *c = fd < s->by_fd_count ? s->by_fd[fd] : NULL;
  struct exchange *x = c != NULL ? calloc(1, sizeof *x) : NULL;
  if (x == NULL) {
    evhttp_send_error(request, HTTP_SERVUNAVAIL, NULL);
    return;
  }
  loop_timer_disarm(&c->timer);
  c->request = request;
  c->exchange = x;
  c->busy = true;
  c->last = s->stopping;
  s->busy++;
  x->connection = c;
  x->is_head = evhttp_request_get_command(request) == EVHTTP_REQ_HEAD;
  evhttp_request_set_on_complete_cb(request, on_complete, c);
  /* evhttp does not read until it replies, and would not see the client leave. Without a callback
  ** the next request, if one comes early, is only kept, up to the watermark. (Who sends more than
  ** that ahead, and leaves, is noticed when next written to.) */
  connection_watch(c);
  bufferevent_setwatermark(bev, EV_READ, 0, AHEAD_MAX);
  bufferevent_enable(bev, EV_READ);
  list_append(&s->queue, &x->link);
  changed(s);
}

bool server_has_next(const struct server *s) {
  return !list_empty(&s->queue);
}

struct exchange *server_next(struct server *s) {
  struct exchange *x = list_entry(s->queue.next, struct exchange, link);
  list_remove(&x->link);
  return x;
}

/* ---- listening --------------------------------------------------------------------------------
 */

static int bind_to(const struct addrinfo *ai) {
  int on = 1;
  int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
  int saved = errno;
  close(fd);
  errno = saved;
  return -1;
}

static int open_socket(const struct server_options *o, char *error, size_t size) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
  struct addrinfo *list = NULL;
  char port[16];
  snprintf(port, sizeof port, "%d", o->port);
  int code = getaddrinfo(o->address, port, &hints, &list);
  if (code != 0) {
    snprintf(error, size, "%s", code == EAI_SYSTEM ? strerror(errno) : gai_strerror(code));
    return -1;
  }
  int fd = -1;
  for (const struct addrinfo *ai = list; ai != NULL && fd < 0; ai = ai->ai_next) fd = bind_to(ai);
  if (fd < 0) snprintf(error, size, "%s", strerror(errno));
  freeaddrinfo(list);
  return fd;
}

/* Ordinary systems start a process with 1,024 descriptors and let it raise that by itself. */
static void raise_descriptors(size_t connections) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  /* Twice: a client may live in this very process. */
  rlim_t wanted = (rlim_t)connections * 2 + DESCRIPTORS_SPARE;
  if (limit.rlim_max != RLIM_INFINITY && wanted > limit.rlim_max) wanted = limit.rlim_max;
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
}

static void on_pause_over(struct loop_timer *timer) {
  struct server *s = list_entry(timer, struct server, pause);
  if (s->bound != NULL) evconnlistener_enable(evhttp_bound_socket_get_listener(s->bound));
}

/* Out of descriptors, most likely: the socket stays readable, so without a pause the loop spins.
** The argument is evhttp's: the listener and its callbacks are shared with it. */
static void on_accept_error(struct evconnlistener *listener, void *http) {
  struct list *node;
  list_each(node, &servers) {
    struct server *s = list_entry(node, struct server, link);
    if (s->http != http) continue;
    evconnlistener_disable(listener);
    loop_timer_arm(&s->pause, loop_refresh_us() + ACCEPT_PAUSE_US);
    return;
  }
}

static bool read_port(struct server *s, int fd) {
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } address;
  memset(&address, 0, sizeof address);
  socklen_t length = sizeof address;
  if (getsockname(fd, &address.any, &length) != 0) return false;
  s->ipv6 = address.any.sa_family == AF_INET6;
  s->port = ntohs(s->ipv6 ? address.v6.sin6_port : address.v4.sin_port);
  return true;
}

static void start(struct server *s) {
  evhttp_set_allowed_methods(s->http, METHODS);
  evhttp_set_max_headers_size(s->http, SERVER_HEADERS_MAX);
  evhttp_set_max_body_size(s->http, (ev_ssize_t)s->options.body_max);
  evhttp_set_default_content_type(s->http, NULL);
  evhttp_set_bevcb(s->http, on_accept, s);
  evhttp_set_gencb(s->http, on_request, s);
  evconnlistener_set_error_cb(evhttp_bound_socket_get_listener(s->bound), on_accept_error);
}

static void release(struct server *s) {
  list_remove(&s->link);
  if (s->accepted != NULL) event_free(s->accepted);
  if (s->http != NULL) evhttp_free(s->http);
  free(s->by_fd);
  free(s);
}

struct server *server_listen(const struct server_options *o, char *error, size_t size) {
  int fd = open_socket(o, error, size);
  if (fd < 0) return NULL;
  struct server *s = calloc(1, sizeof *s);
  bool ok = s != NULL;
  if (ok) {
    s->options = *o;
    s->options.address = NULL; /* the caller's */
    list_append(&servers, &s->link);
    list_init(&s->fresh);
    list_init(&s->connections);
    list_init(&s->queue);
    loop_timer_init(&s->pause, on_pause_over);
    s->http = evhttp_new(loop_base());
    s->accepted = event_new(loop_base(), -1, 0, on_accepted, s);
    ok = s->http != NULL && s->accepted != NULL && read_port(s, fd);
    if (ok) s->bound = evhttp_accept_socket_with_handle(s->http, fd);
    ok = ok && s->bound != NULL;
  }
  if (!ok) {
    snprintf(error, size, "out of memory");
    close(fd);
    if (s != NULL) release(s);
    return NULL;
  }
  start(s);
  raise_descriptors(o->connections_max);
  return s;
}

int server_port(const struct server *s) {
  return s->port;
}

bool server_is_ipv6(const struct server *s) {
  return s->ipv6;
}

size_t server_connections(const struct server *s) {
  return s->connection_count;
}

size_t server_busy(const struct server *s) {
  return s->busy;
}

/* ---- the end ----------------------------------------------------------------------------------
 */

static void close_connections(struct server *s, bool busy_too) {
  struct list *node = s->connections.next;
  while (node != &s->connections) {
    struct connection *c = list_entry(node, struct connection, link);
    node = node->next; /* closing frees this one and touches no other */
    c->last = true;
    if (busy_too || !c->busy) evhttp_connection_free(c->evcon);
  }
}

void server_stop(struct server *s) {
  if (s->bound != NULL) evhttp_del_accept_socket(s->http, s->bound);
  s->bound = NULL;
  s->stopping = true;
  loop_timer_disarm(&s->pause);
  on_accepted(-1, 0, s);
  close_connections(s, false);
}

void server_close(struct server *s) {
  s->options.changed = NULL;
  server_stop(s);
  close_connections(s, true);
  release(s);
}
