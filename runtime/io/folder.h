/*
** What is in a folder, and what stands under a name. Nothing here opens a file or follows a link in
** a listing; nothing waits but for the disk.
*/
#ifndef SLUICE_IO_FOLDER_H
#define SLUICE_IO_FOLDER_H

#include <stdint.h>

#include "base/buf.h"

enum folder_kind {
  FOLDER_FILE = 'f',
  FOLDER_FOLDER = 'd',
  FOLDER_LINK = 'l', /* in a listing only */
  FOLDER_OTHER = 'o' /* a device, a pipe, a socket */
};

/* Append one record for each entry but "." and "..": its kind, its name, a NUL. 0, or an errno (EFBIG:
** more than the ceiling of `out`). In no order. */
int folder_list(const char *path, struct buf *out);

/* What `path` is, links followed, and the bytes of a file. 0, or an errno. */
int folder_kind_of(const char *path, enum folder_kind *kind, uint64_t *size);

#endif
