/* What server.c and exchange.c share: a connection as evhttp and we see it. For these two only. */
#ifndef SLUICE_IO_SERVER_BASE_H
#define SLUICE_IO_SERVER_BASE_H

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>

#include "io/loop.h"
#include "io/server.h"

/* Lives from on_accept to on_close. At most one request is under way on it. */
struct connection {
  struct list link;
  struct server *server;
  struct evhttp_connection *evcon;
  struct bufferevent *bev;
  struct evhttp_request *request; /* until its reply has been handed over to evhttp */
  struct exchange *exchange;      /* who answers it; NULL as soon as they are done */
  struct loop_timer timer;        /* when the next whole request must be here */
  int64_t owed;                   /* bytes of a started reply's Content-Length not yet written */
  int fd;
  bool chunked, bodyless; /* of a started reply */
  bool closing;           /* close it when all is written */
  bool last;              /* this request is the last on it */
  bool busy;
};

/* evhttp's own callbacks on a bufferevent, the same for every connection. */
struct evhttp_callbacks {
  bufferevent_data_cb written;
  bufferevent_event_cb event;
};
extern struct evhttp_callbacks evhttp_callbacks;

/* Take the bufferevent's callbacks: to hear when all is written, and still let evhttp see the end.
 */
void connection_watch(struct connection *c);

#endif
