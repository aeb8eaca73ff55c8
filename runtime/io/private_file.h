/*
** Small files with secrets in them, and the lock that processes share them under. A file is written
** beside its place, synced and renamed, so that a reader sees the old one or the new one; it
** belongs to the user and nobody else may read it. Nothing here waits: a lock is had or not.
*/
#ifndef SLUICE_IO_PRIVATE_FILE_H
#define SLUICE_IO_PRIVATE_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* What tells that a file is another one, or has been written to: never equal by chance for long. */
struct file_mark {
  uint64_t device, inode, size;
  int64_t changed_ns, written_ns;
};

/* 0, or an errno. Follows symbolic links: a mounted secret is one. */
int file_mark_of(const char *path, struct file_mark *mark);

/* Append the whole file to `out` (whose ceiling holds: EFBIG). `mark`, if given, is of what was
** read. With `private`, a file that is no plain file of this user's own, or that others may read or
** write, is refused with EPERM. */
int file_read(const char *path, bool private, struct buf *out, struct file_mark *mark);

/* Replace `path` by a file of these bytes, mode 0600, synced. */
int file_write_private(const char *path, const char *bytes, size_t n);

/* Replace `path`, or what it links to, by a file of these bytes, in one step and synced. Its mode stays;
** that of a new file follows the umask. */
int file_write_public(const char *path, const char *bytes, size_t n);

/* Make the folder that `path` is to stand in, and those above it, with mode 0700. A folder that
** others may write to is refused with EPERM: they could put another file in the place of ours. */
int file_make_folder(const char *path);

/* Take the lock that stands for the file `path` (on a file of its own, that stays). Returns a
** descriptor; closing it, and the end of the process, give the lock back. -1 with errno,
** EWOULDBLOCK when another has it. */
int file_lock(const char *path);
void file_unlock(int fd);

#endif
