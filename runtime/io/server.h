/*
** An HTTP/1.1 server on libevent's evhttp: listening, whole requests in, whole or streamed replies
** out, and raw access for those who must misbehave (the mock provider). Callbacks report, they
** never enter Lua: `changed` when a request came or a reply is out, `notify` when a client left or
** has taken what was waiting for it.
**
** A request is an exchange from the moment it is complete until exchange_free, which its owner
** calls exactly once, whatever happened in between: client gone, server closed, reply half sent.
*/
#ifndef SLUICE_IO_SERVER_H
#define SLUICE_IO_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

struct server;
struct connection;

struct server_options {
  const char *address; /* a numeric address or a host name */
  int port;            /* 0: the system chooses */
  size_t connections_max;
  size_t body_max;
  int64_t request_us; /* from a connection's first moment to its first whole request */
  int64_t idle_us;    /* from one reply to the next whole request */
  void (*changed)(void *arg);
  void *arg;
};

/* NULL: `error` says why, in words for a person. */
struct server *server_listen(const struct server_options *o, char *error, size_t size);
int server_port(const struct server *s);
bool server_is_ipv6(const struct server *s);
/* No new connections, no second request on the present ones; what is under way goes on. */
void server_stop(struct server *s);
/* Close everything now; clients in the middle of a reply see the connection end. Frees `s`. */
void server_close(struct server *s);
size_t server_connections(const struct server *s);
size_t
server_busy(const struct server *s); /* connections with a request not yet answered in full */

enum exchange_status {
  EXCHANGE_OK,
  EXCHANGE_FULL,  /* taken, but SERVER_WRITE_MAX bytes are waiting: go on after `notify` */
  EXCHANGE_GONE,  /* the client has left, nothing was taken */
  EXCHANGE_NOMEM, /* out of memory, nothing was taken */
};

struct exchange {
  struct list link;              /* in the server's queue until server_next hands it out */
  struct connection *connection; /* NULL once the client has gone or the reply is complete */
  void (*notify)(struct exchange *);
  void *owner;  /* whoever set notify */
  bool is_head; /* a HEAD request: a body is counted but not sent */
  bool started; /* something of the reply has been handed over */
  bool raw;     /* … and it was raw bytes */
  bool done;    /* the reply is complete, closed or aborted */
  bool gone;    /* the client left before that */
};

/* Is a whole request there? Then server_next hands it out; the caller owns it. */
bool server_has_next(const struct server *s);
struct exchange *server_next(struct server *s);
/* End it: an incomplete reply is aborted. */
void exchange_free(struct exchange *x);

/* About the request; valid until the client goes, so read them right after server_next. */
const char *exchange_method(const struct exchange *x);
const char *exchange_target(const struct exchange *x);
/* All headers in order: begin with NULL, go on with what the last call returned. */
const void *exchange_next_header(const struct exchange *x, const void *last, const char **name,
                                 const char **value);
const char *exchange_body(struct exchange *x, size_t *len); /* NULL: out of memory */
void exchange_drop_body(struct exchange *x);
void exchange_peer(const struct exchange *x, const char **address, int *port);

/* The reply. Headers first (neither name nor value may hold a line break), then either reply, or
** start, write …, finish. After raw, only raw, close and abort. */
bool exchange_add_header(struct exchange *x, const char *name, const char *value);
enum exchange_status exchange_reply(struct exchange *x, int status, const char *body, size_t len);
enum exchange_status exchange_start(struct exchange *x, int status);
enum exchange_status exchange_write(struct exchange *x, const char *bytes, size_t n);
enum exchange_status exchange_raw(struct exchange *x, const char *bytes, size_t n);
enum exchange_status exchange_finish(struct exchange *x);
size_t exchange_pending(const struct exchange *x); /* bytes the system has not taken yet */
/* End the connection after what is pending has been sent: in a started reply the client finds the
** end missing. */
void exchange_close(struct exchange *x);
/* End it now, what is pending is lost; with `reset` the client sees "connection reset by peer". */
void exchange_abort(struct exchange *x, bool reset);

#endif
