/*
** libcurl's multi handle on the loop. Owns the socket watchers and the pool of easy handles.
**
** A connection's descriptor stays registered with epoll between two transfers: taking it out and
** putting it back cost a third of a short request. So CURL_POLL_REMOVE only marks the watcher, and
** the close callback, which libcurl calls before the descriptor goes, takes it out.
*/
#include "io/multi.h"

#include <event2/event_struct.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/loop.h"
#include "io/loop_base.h"
#include "io/transfer.h"

#define POOL_MAX 256          /* easy handles kept; one holds about 5 KiB */
#define CONNECTIONS_MAX 4096L /* idle connections kept for reuse */

#define WATCHERS 64 /* that are allocated at a time; none ever moves */

/* One for each descriptor there has been. */
struct watcher {
  struct event read;   /* in here: every piece of every stream comes by, from cold memory */
  struct event *write; /* only while a connection is made, and then hardly ever */
  bool assigned;       /* `read` has been */
  bool reading;        /* it is registered with the loop */
  bool connection;     /* opened by us: closing comes through close_socket */
  int wanted;          /* CURL_POLL_IN | CURL_POLL_OUT */
};

#define DESCRIPTORS_WANTED 16384 /* one for each stream; where the system allows so many */

static struct {
  CURLM *multi;
  struct loop_timer timer;
  bool due; /* libcurl asked to be called at once; not from inside its own callback */
  struct watcher **watchers; /* by descriptor, WATCHERS each */
  size_t blocks;
  const char *proxies[2]; /* variables that name one, for http and for https */
  struct easy *free;
  size_t free_count;
} net;

static void collect_done(void) {
  CURLMsg *msg;
  int left;
  while ((msg = curl_multi_info_read(net.multi, &left)) != NULL) {
    if (msg->msg != CURLMSG_DONE) continue;
    struct easy *e;
    CURLcode code = msg->data.result;
    curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&e);
    if (e->owner != NULL) transfer_on_done(e->owner, code);
  }
}

static void act(curl_socket_t fd, int events) {
  int running;
  curl_multi_socket_action(net.multi, fd, events, &running);
  collect_done();
}

/* ---- time --------------------------------------------------------------------------------------
 */

static void on_timer(struct loop_timer *t) {
  (void)t;
  act(CURL_SOCKET_TIMEOUT, 0);
}

static int set_timer(CURLM *multi, long ms, void *arg) {
  (void)multi, (void)arg;
  net.due = ms == 0;
  if (ms > 0)
    loop_timer_arm(&net.timer, loop_now_us() + ms * 1000);
  else
    loop_timer_disarm(&net.timer);
  return 0;
}

/* Before the loop waits: start what was added in this turn without a trip through epoll. */
static void on_prepare(void) {
  if (!net.due) return;
  net.due = false;
  act(CURL_SOCKET_TIMEOUT, 0);
}

/* ---- sockets ------------------------------------------------------------------------------------
 */

static void stop_reading(struct watcher *w) {
  if (w->reading) event_del(&w->read);
  w->reading = false;
}

static void stop_writing(struct watcher *w) {
  if (w->write != NULL) event_free(w->write); /* which deletes it, too */
  w->write = NULL;
}

/* An idle connection says something: its end, or words that answer nothing (a proxy's 408, the rest
** of a reply longer than it said). libcurl would take them for the answer to the next request. It
** looks for the end of a connection before it uses it again, so that is what it finds.
** Only while no transfer is under way: libcurl does not tell which connection a transfer has taken
** before it first waits on it, and then an early answer looks the same. */
static void spoil(evutil_socket_t fd) {
  char rest[4096];
  shutdown(fd, SHUT_RDWR);
  while (recv(fd, rest, sizeof rest, MSG_DONTWAIT) > 0) continue;
}

static void on_read(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  struct watcher *w = arg;
  if (w->wanted & CURL_POLL_IN) {
    act(fd, CURL_CSELECT_IN);
  } else {
    stop_reading(w);
    if (w->connection && transfer_count() == 0) spoil(fd);
  }
}

static void on_write(evutil_socket_t fd, short what, void *arg) {
  (void)what, (void)arg;
  act(fd, CURL_CSELECT_OUT);
}

/* NULL: there is none, or no memory for one. */
static struct watcher *watcher_of(curl_socket_t fd, bool make) {
  size_t block = (size_t)fd / WATCHERS;
  if (block >= net.blocks) {
    if (!make) return NULL;
    size_t count = net.blocks > 0 ? net.blocks : 16;
    while (count <= block) count *= 2;
    struct watcher **grown = realloc(net.watchers, count * sizeof *grown);
    if (grown == NULL) return NULL;
    memset(grown + net.blocks, 0, (count - net.blocks) * sizeof *grown);
    net.watchers = grown;
    net.blocks = count;
  }
  if (net.watchers[block] == NULL && make)
    net.watchers[block] = calloc(WATCHERS, sizeof *net.watchers[block]);
  return net.watchers[block] != NULL ? &net.watchers[block][(size_t)fd % WATCHERS] : NULL;
}

static bool start_reading(struct watcher *w, curl_socket_t fd) {
  if (w->reading) return true;
  if (!w->assigned &&
      event_assign(&w->read, loop_base(), fd, EV_READ | EV_PERSIST, on_read, w) != 0)
    return false;
  w->assigned = true;
  w->reading = event_add(&w->read, NULL) == 0;
  return w->reading;
}

static bool start_writing(struct watcher *w, curl_socket_t fd) {
  if (w->write != NULL) return true;
  w->write = event_new(loop_base(), fd, EV_WRITE | EV_PERSIST, on_write, NULL);
  if (w->write != NULL && event_add(w->write, NULL) == 0) return true;
  stop_writing(w);
  return false;
}

static void forget(struct watcher *w) {
  stop_reading(w);
  stop_writing(w);
  w->wanted = 0;
  w->connection = false;
}

static int set_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socketp) {
  (void)easy, (void)arg, (void)socketp;
  struct watcher *w = watcher_of(fd, true);
  if (w == NULL) return -1;
  if (what == CURL_POLL_REMOVE) {
    if (!w->connection) forget(w); /* the resolver's pipe: libcurl closes it without telling */
    w->wanted = 0;
    stop_writing(w);
    return 0;
  }
  w->wanted = what;
  if ((what & CURL_POLL_IN) && !start_reading(w, fd)) return -1;
  if (what & CURL_POLL_OUT) return start_writing(w, fd) ? 0 : -1;
  stop_writing(w);
  return 0;
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address) {
  (void)arg, (void)purpose;
  int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  if (fd < 0) return CURL_SOCKET_BAD;
  struct watcher *w = watcher_of(fd, true);
  if (w == NULL) {
    close(fd);
    return CURL_SOCKET_BAD;
  }
  w->connection = true;
  return fd;
}

static int close_socket(void *arg, curl_socket_t fd) {
  (void)arg;
  struct watcher *w = watcher_of(fd, false);
  if (w != NULL) forget(w);
  return close(fd);
}

/* ---- easy handles ---------------------------------------------------------------------------- */

/* The bundle of certificate authorities, from the variables that curl, OpenSSL and Python's tools
** read; without one, libcurl's own default. */
static const char *ca_bundle(const char **name) {
  static const char *const names[] = {"CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    const char *path = getenv(names[i]);
    *name = names[i];
    if (path != NULL && *path != '\0') return path;
  }
  *name = "SSL_CERT_FILE"; /* the one to set: most programs know it */
  return NULL;
}

const char *multi_authorities(void) {
  const char *name;
  (void)ca_bundle(&name);
  return name;
}

/* libcurl reads them itself; HTTP_PROXY is not among them: a CGI script gets it from its client. */
static const char *find_proxy(bool https) {
  const char *const names[] = {https ? "https_proxy" : "http_proxy", https ? "HTTPS_PROXY" : "",
                               "all_proxy", "ALL_PROXY"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    const char *value = getenv(names[i]);
    if (value != NULL && *value != '\0') return names[i];
  }
  return NULL;
}

const char *multi_proxy(bool https) {
  return net.proxies[https];
}

static struct easy *new_easy(void) {
  struct easy *e = calloc(1, sizeof *e);
  if (e == NULL) return NULL;
  CURL *c = e->curl = curl_easy_init();
  if (c == NULL) {
    free(e);
    return NULL;
  }
  curl_easy_setopt(c, CURLOPT_PRIVATE, e);
  curl_easy_setopt(c, CURLOPT_ERRORBUFFER, e->error);
  curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, transfer_on_body);
  curl_easy_setopt(c, CURLOPT_WRITEDATA, e);
  curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, transfer_on_header);
  curl_easy_setopt(c, CURLOPT_HEADERDATA, e);
#if LIBCURL_VERSION_NUM >= 0x075000
  curl_easy_setopt(c, CURLOPT_PREREQFUNCTION, transfer_on_send);
  curl_easy_setopt(c, CURLOPT_PREREQDATA, e);
#endif
  curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
  curl_easy_setopt(c, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
  curl_easy_setopt(c, CURLOPT_ACCEPT_ENCODING, MULTI_ENCODINGS);
  curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
  curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
#if LIBCURL_VERSION_NUM >= 0x075500
  curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#else
  curl_easy_setopt(c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
  if (net.proxies[false] == NULL && net.proxies[true] == NULL)
    curl_easy_setopt(c, CURLOPT_NOPROXY, "*"); /* or it looks for six variables in every request */
  const char *name, *bundle = ca_bundle(&name);
  if (bundle != NULL) curl_easy_setopt(c, CURLOPT_CAINFO, bundle);
  return e;
}

struct easy *multi_take(void) {
  struct easy *e = net.free;
  if (e == NULL) return new_easy();
  net.free = e->next_free;
  net.free_count--;
  return e;
}

void multi_give(struct easy *e) {
  e->owner = NULL;
  if (net.free_count >= POOL_MAX || net.multi == NULL) {
    curl_easy_cleanup(e->curl);
    free(e);
    return;
  }
  e->next_free = net.free;
  net.free = e;
  net.free_count++;
}

bool multi_add(struct easy *e) {
  e->error[0] = '\0';
  return curl_multi_add_handle(net.multi, e->curl) == CURLM_OK;
}

void multi_remove(struct easy *e) {
  curl_multi_remove_handle(net.multi, e->curl);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Ordinary systems start a process with 1,024 descriptors and let it raise that by itself. */
static void raise_descriptors(void) {
  struct rlimit limit;
  rlim_t wanted = DESCRIPTORS_WANTED;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  if (limit.rlim_max != RLIM_INFINITY && wanted > limit.rlim_max) wanted = limit.rlim_max;
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int network_init(void) {
  raise_descriptors();
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return -1;
  net.multi = curl_multi_init();
  if (net.multi == NULL) return -1;
  net.proxies[false] = find_proxy(false);
  net.proxies[true] = find_proxy(true);
  loop_timer_init(&net.timer, on_timer);
  loop_on_prepare(on_prepare);
  curl_multi_setopt(net.multi, CURLMOPT_SOCKETFUNCTION, set_socket);
  curl_multi_setopt(net.multi, CURLMOPT_TIMERFUNCTION, set_timer);
  curl_multi_setopt(net.multi, CURLMOPT_MAXCONNECTS, CONNECTIONS_MAX);
  return 0;
}

const char *network_version(void) {
  return curl_version_info(CURLVERSION_NOW)->version;
}

void network_close(void) {
  CURLM *multi = net.multi;
  if (multi == NULL) return;
  net.multi = NULL;
  while (net.free != NULL) {
    struct easy *e = net.free;
    net.free = e->next_free;
    curl_easy_cleanup(e->curl);
    free(e);
  }
  curl_multi_cleanup(multi);
  for (size_t i = 0; i < net.blocks; i++) {
    for (size_t k = 0; net.watchers[i] != NULL && k < WATCHERS; k++) forget(&net.watchers[i][k]);
    free(net.watchers[i]);
  }
  free(net.watchers);
  loop_timer_disarm(&net.timer);
  memset(&net, 0, sizeof net);
  curl_global_cleanup();
}
