/*
** One request and its reply: see server.h. Every function may be called after the client has gone.
** Never keeps a pointer to the connection past the end of the reply: the end may free it at once.
*/
#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/limits.h"
#include "io/server_base.h"

/* ---- the request ------------------------------------------------------------------------------
 */

const char *exchange_method(const struct exchange *x) {
  switch (evhttp_request_get_command(x->connection->request)) {
  case EVHTTP_REQ_GET:
    return "GET";
  case EVHTTP_REQ_POST:
    return "POST";
  case EVHTTP_REQ_HEAD:
    return "HEAD";
  case EVHTTP_REQ_PUT:
    return "PUT";
  case EVHTTP_REQ_DELETE:
    return "DELETE";
  case EVHTTP_REQ_OPTIONS:
    return "OPTIONS";
  case EVHTTP_REQ_PATCH:
    return "PATCH";
  default:
    return "?"; /* the server allows no other */
  }
}

const char *exchange_target(const struct exchange *x) {
  return evhttp_request_get_uri(x->connection->request);
}

const void *exchange_next_header(const struct exchange *x, const void *last, const char **name,
                                 const char **value) {
  const struct evkeyval *h = last;
  h = h != NULL ? h->next.tqe_next
                : evhttp_request_get_input_headers(x->connection->request)->tqh_first;
  if (h == NULL) return NULL;
  *name = h->key;
  *value = h->value;
  return h;
}

const char *exchange_body(struct exchange *x, size_t *len) {
  struct evbuffer *body = evhttp_request_get_input_buffer(x->connection->request);
  *len = evbuffer_get_length(body);
  return *len > 0 ? (const char *)evbuffer_pullup(body, -1) : "";
}

void exchange_drop_body(struct exchange *x) {
  struct evbuffer *body = evhttp_request_get_input_buffer(x->connection->request);
  evbuffer_drain(body, evbuffer_get_length(body));
}

void exchange_peer(const struct exchange *x, const char **address, int *port) {
  char *host = NULL;
  ev_uint16_t number = 0;
  evhttp_connection_get_peer(x->connection->evcon, &host, &number);
  *address = host != NULL ? host : "";
  *port = number;
}

/* ---- the reply --------------------------------------------------------------------------------
 */

/* Codes that libevent does not know by name. */
static const char *reason(int status) {
  switch (status) {
  case 308:
    return "Permanent Redirect";
  case 418:
    return "I'm a Teapot";
  case 422:
    return "Unprocessable Content";
  case 425:
    return "Too Early";
  case 428:
    return "Precondition Required";
  case 429:
    return "Too Many Requests";
  case 431:
    return "Request Header Fields Too Large";
  case 451:
    return "Unavailable For Legal Reasons";
  case 529:
    return "Overloaded";
  default:
    return NULL;
  }
}

static bool has_body(int status) {
  return status >= 200 && status != 204 && status != 304;
}

static struct evkeyvalq *headers_of(const struct connection *c) {
  return evhttp_request_get_output_headers(c->request);
}

bool exchange_add_header(struct exchange *x, const char *name, const char *value) {
  if (x->connection == NULL) return true; /* nobody will see it */
  return evhttp_add_header(headers_of(x->connection), name, value) == 0;
}

static bool add_length(struct connection *c, size_t len) {
  char text[24];
  if (evhttp_find_header(headers_of(c), "Content-Length") != NULL) return true;
  snprintf(text, sizeof text, "%zu", len);
  return evhttp_add_header(headers_of(c), "Content-Length", text) == 0;
}

static bool add_close(struct connection *c) {
  return !c->last || evhttp_add_header(headers_of(c), "Connection", "close") == 0;
}

/* The exchange has said all it will; what becomes of the connection is no longer its business. */
static struct connection *let_go(struct exchange *x) {
  struct connection *c = x->connection;
  c->exchange = NULL;
  x->connection = NULL;
  x->done = true;
  return c;
}

static struct evhttp_request *hand_over(struct connection *c) {
  struct evhttp_request *request = c->request;
  c->request = NULL;
  return request;
}

enum exchange_status exchange_reply(struct exchange *x, int status, const char *body, size_t len) {
  struct connection *c = x->connection;
  if (c == NULL) return EXCHANGE_GONE;
  struct evbuffer *buffer = evbuffer_new();
  bool ok = buffer != NULL && add_close(c);
  if (ok && has_body(status)) {
    ok = add_length(c, len);
    if (ok && !x->is_head && len > 0) ok = evbuffer_add(buffer, body, len) == 0;
  }
  if (ok) {
    x->started = true;
    evhttp_send_reply(hand_over(let_go(x)), status, reason(status), buffer);
  }
  if (buffer != NULL) evbuffer_free(buffer);
  return ok ? EXCHANGE_OK : EXCHANGE_NOMEM;
}

enum exchange_status exchange_start(struct exchange *x, int status) {
  struct connection *c = x->connection;
  if (c == NULL) return EXCHANGE_GONE;
  if (!add_close(c)) return EXCHANGE_NOMEM;
  /* HTTP/1.0 has no chunks: the end of the connection is the end of the reply, whatever the client
  ** asked for. (evhttp would keep it alive and say "Content-Length: 0".) */
  if (c->request->major == 1 && c->request->minor == 0)
    evhttp_remove_header(evhttp_request_get_input_headers(c->request), "Connection");
  const char *length = evhttp_find_header(headers_of(c), "Content-Length");
  x->started = true;
  c->bodyless = x->is_head || !has_body(status);
  c->owed = length != NULL && !c->bodyless ? strtoll(length, NULL, 10) : 0;
  evhttp_send_reply_start(c->request, status, reason(status));
  c->chunked = evhttp_find_header(headers_of(c), "Transfer-Encoding") != NULL;
  connection_watch(c);
  return EXCHANGE_OK;
}

static enum exchange_status status_of(const struct exchange *x) {
  return exchange_pending(x) > SERVER_WRITE_MAX ? EXCHANGE_FULL : EXCHANGE_OK;
}

enum exchange_status exchange_write(struct exchange *x, const char *bytes, size_t n) {
  struct connection *c = x->connection;
  if (c == NULL) return EXCHANGE_GONE;
  if (n == 0 || c->bodyless) return EXCHANGE_OK; /* a chunk of no bytes would end the reply */
  struct evbuffer *out = bufferevent_get_output(c->bev);
  if (evbuffer_expand(out, n + 24) != 0) return EXCHANGE_NOMEM;
  if (c->chunked) {
    char size[20];
    evbuffer_add(out, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", n));
  }
  evbuffer_add(out, bytes, n);
  if (c->chunked) evbuffer_add(out, "\r\n", 2);
  c->owed -= (int64_t)n;
  return status_of(x);
}

enum exchange_status exchange_raw(struct exchange *x, const char *bytes, size_t n) {
  struct connection *c = x->connection;
  if (c == NULL) return EXCHANGE_GONE;
  if (evbuffer_add(bufferevent_get_output(c->bev), bytes, n) != 0) return EXCHANGE_NOMEM;
  x->started = x->raw = true;
  bufferevent_enable(c->bev, EV_WRITE);
  return status_of(x);
}

enum exchange_status exchange_finish(struct exchange *x) {
  struct connection *c = x->connection;
  if (c == NULL) return EXCHANGE_GONE;
  if (c->owed > 0) { /* shorter than it said: only the end of the connection can tell the client */
    exchange_close(x);
    return EXCHANGE_OK;
  }
  let_go(x);
  bufferevent_setcb(c->bev, NULL, evhttp_callbacks.written, evhttp_callbacks.event, c->evcon);
  evhttp_send_reply_end(hand_over(c));
  return EXCHANGE_OK;
}

size_t exchange_pending(const struct exchange *x) {
  if (x->connection == NULL) return 0;
  return evbuffer_get_length(bufferevent_get_output(x->connection->bev));
}

void exchange_close(struct exchange *x) {
  if (x->connection == NULL) return;
  bool pending = exchange_pending(x) > 0;
  struct connection *c = let_go(x);
  c->closing = true;
  if (!pending) evhttp_connection_free(c->evcon);
}

void exchange_abort(struct exchange *x, bool reset) {
  if (x->connection == NULL) return;
  struct connection *c = let_go(x);
  if (reset) {
    /* evhttp shuts the socket down before it closes it, and the client would read a clean end; so
    ** the reset is sent now. Elsewhere than on Linux, lingering must do. */
    struct linger none = {.l_onoff = 1};
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    int ignored = connect(c->fd, &nowhere, sizeof nowhere);
    (void)ignored;
  }
  evhttp_connection_free(c->evcon);
}

void exchange_free(struct exchange *x) {
  x->notify = NULL;
  exchange_abort(x, true);
  free(x);
}
