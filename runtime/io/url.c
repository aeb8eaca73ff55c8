/* URLs, by libcurl's parser: see url.h. */
#include "io/url.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "io/multi.h"

/* ---- places ---------------------------------------------------------------------------------- */

/* No proxy reaches our own localhost, only its own: the mock, a local model, a test's server. */
static bool is_local(CURLU *parts) {
  char *host = NULL;
  if (curl_url_get(parts, CURLUPART_HOST, &host, 0) != CURLUE_OK) return false;
  struct in_addr address;
  bool local =
      strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
      (inet_pton(AF_INET, host, &address) == 1 && ntohl(address.s_addr) >> 24 == IN_LOOPBACKNET);
  curl_free(host);
  return local;
}

struct place *place_new(const char *url) {
  static uint64_t numbers;
  struct place *p = calloc(1, sizeof *p);
  if (p == NULL) return NULL;
  p->number = ++numbers;
  p->url = strdup(url);
  p->parts = curl_url();
  if (p->url == NULL || p->parts == NULL) {
    place_free(p);
    return NULL;
  }
  /* as libcurl reads a URL that it is given as text */
  if (curl_url_set(p->parts, CURLUPART_URL, url, CURLU_GUESS_SCHEME | CURLU_NON_SUPPORT_SCHEME) !=
      CURLUE_OK) {
    curl_url_cleanup(p->parts);
    p->parts = NULL;
  }
  p->local = p->parts != NULL && is_local(p->parts);
  return p;
}

void place_free(struct place *p) {
  if (p == NULL) return;
  if (p->url != NULL) explicit_bzero(p->url, strlen(p->url)); /* it may carry a password */
  free(p->url);
  curl_url_cleanup(p->parts);
  free(p);
}

/* ---- resolving ------------------------------------------------------------------------------- */

static bool same_part(CURLU *a, CURLU *b, CURLUPart part) {
  char *x = NULL, *y = NULL;
  bool same = curl_url_get(a, part, &x, CURLU_DEFAULT_PORT) == CURLUE_OK &&
              curl_url_get(b, part, &y, CURLU_DEFAULT_PORT) == CURLUE_OK && strcasecmp(x, y) == 0;
  curl_free(x);
  curl_free(y);
  return same;
}

char *url_resolve(const char *base, const char *location, bool *same_origin, const char **why) {
  CURLU *from = curl_url(), *to = curl_url();
  char *text = NULL, *result = NULL;
  CURLUcode code = CURLUE_OUT_OF_MEMORY;
  if (from != NULL && to != NULL) {
    bool has_base = *base != '\0' && curl_url_set(from, CURLUPART_URL, base, 0) == CURLUE_OK;
    if (has_base) curl_url_set(to, CURLUPART_URL, base, 0);
    code = curl_url_set(to, CURLUPART_URL, location, 0);
    if (code == CURLUE_OK) code = curl_url_get(to, CURLUPART_URL, &text, 0);
    *same_origin = code == CURLUE_OK && has_base && same_part(from, to, CURLUPART_SCHEME) &&
                   same_part(from, to, CURLUPART_HOST) && same_part(from, to, CURLUPART_PORT);
  }
  if (code == CURLUE_OK)
    result = strdup(text);
  else
    *why = curl_url_strerror(code);
  curl_free(text);
  curl_url_cleanup(from);
  curl_url_cleanup(to);
  return result;
}
