/*
** URLs: where requests go, and where a redirect points. Knows no transfer.
*/
#ifndef SLUICE_IO_URL_H
#define SLUICE_IO_URL_H

#include <stdbool.h>

/* Where requests go: a URL that has been taken apart, so that it need not be for each of them. */
struct place;
/* NULL: out of memory. A URL that is none is found out at the start of a transfer. */
struct place *place_new(const char *url);
void place_free(struct place *p); /* only when no transfer to it is under way */

/* Resolve `location` against `base` ("" when that is not a URL). `same_origin` tells whether the
** scheme, host and port are those of `base`. The result is malloc'ed. NULL with *why set: a bad
** URL. */
char *url_resolve(const char *base, const char *location, bool *same_origin, const char **why);

#endif
