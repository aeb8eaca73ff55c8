/* For the other files of io/ only: the pool of easy handles on the one multi handle. */
#ifndef SLUICE_IO_MULTI_H
#define SLUICE_IO_MULTI_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>

#define MULTI_ENCODINGS "gzip" /* what libcurl undoes for us; whoever knows deflate knows it, too */

struct transfer;

/* See io/url.h. */
struct place {
  uint64_t number;
  char *url;
  CURLU *parts; /* of the URL; NULL: it is none, and libcurl says so */
  bool local;
};

/* A pooled easy handle. Options that never change are set once, when it is made. */
struct easy {
  CURL *curl;
  struct easy *next_free;
  struct transfer *owner;
  uint64_t place; /* what its URL, method and connect timeout are set for, by number; 0: nothing */
  bool sends;     /* … with a body */
  bool posts;     /* the request under way has CURLOPT_POSTFIELDS */
  bool local;     /* its URL is on this machine, where no proxy is asked */
  long receive_buffer;
  char error[CURL_ERROR_SIZE];
};

struct easy *multi_take(void); /* NULL: out of memory */
void multi_give(struct easy *e);
/* The variable that names the certificate authorities, or that should. */
const char *multi_authorities(void);
/* The variable that names a proxy for URLs of this scheme, or NULL. */
const char *multi_proxy(bool https);
bool multi_add(struct easy *e);
void multi_remove(struct easy *e);

/* Implemented by transfer.c. */
size_t transfer_on_body(char *bytes, size_t size, size_t n, void *arg);
size_t transfer_on_header(char *bytes, size_t size, size_t n, void *arg);
int transfer_on_send(void *arg, char *ip, char *local_ip, int port, int local_port);
void transfer_on_done(struct transfer *t, CURLcode code);

#endif
