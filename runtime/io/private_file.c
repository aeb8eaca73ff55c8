/* Small private files: see private_file.h. */
#include "io/private_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 4096

/* ---- reading --------------------------------------------------------------------------------- */

static int64_t ns_of(struct timespec t) {
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void set_mark(struct file_mark *mark, const struct stat *s) {
  mark->device = (uint64_t)s->st_dev;
  mark->inode = (uint64_t)s->st_ino;
  mark->size = (uint64_t)s->st_size;
  mark->changed_ns = ns_of(s->st_ctim);
  mark->written_ns = ns_of(s->st_mtim);
}

int file_mark_of(const char *path, struct file_mark *mark) {
  struct stat s;
  if (stat(path, &s) != 0) return errno;
  set_mark(mark, &s);
  return 0;
}

static bool is_private(const struct stat *s) {
  return S_ISREG(s->st_mode) && s->st_uid == geteuid() && (s->st_mode & 077) == 0;
}

static int read_all(int fd, struct buf *out) {
  for (;;) {
    enum buf_status status = buf_reserve(out, CHUNK);
    size_t room = status == BUF_OK ? CHUNK : 1;
    char last; /* of a file that is just as long as the ceiling */
    ssize_t n = read(fd, status == BUF_OK ? out->data + out->len : &last, room);
    if (n == 0) return 0;
    if (n < 0 && errno != EINTR) return errno;
    if (n > 0 && status != BUF_OK) return status == BUF_FULL ? EFBIG : ENOMEM;
    if (n > 0) out->len += (size_t)n;
  }
}

int file_read(const char *path, bool private, struct buf *out, struct file_mark *mark) {
  struct stat s;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (private ? O_NOFOLLOW : 0));
  if (fd < 0) return errno == ELOOP ? EPERM : errno;
  int result = 0;
  if (fstat(fd, &s) != 0)
    result = errno;
  else if (S_ISDIR(s.st_mode))
    result = EISDIR;
  else if (private && !is_private(&s))
    result = EPERM;
  else
    result = read_all(fd, out);
  if (result == 0 && mark != NULL) set_mark(mark, &s);
  close(fd);
  return result;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* The folder of `path`, without a slash at its end unless it is the root. 0, or an errno. */
static int folder_of(const char *path, char *out) {
  const char *slash = strrchr(path, '/');
  size_t n = slash == NULL ? 1 : slash == path ? 1 : (size_t)(slash - path);
  if (n >= PATH_MAX) return ENAMETOOLONG;
  memcpy(out, slash == NULL ? "." : path, n);
  out[n] = '\0';
  return 0;
}

static int write_all(int fd, const char *bytes, size_t n) {
  while (n > 0) {
    ssize_t done = write(fd, bytes, n);
    if (done < 0 && errno != EINTR) return errno;
    if (done <= 0) continue;
    bytes += done;
    n -= (size_t)done;
  }
  return fsync(fd) == 0 ? 0 : errno;
}

/* So that the new name survives a power cut. Some file systems cannot; the file is there all the
** same. */
static void sync_folder(const char *path) {
  char folder[PATH_MAX];
  if (folder_of(path, folder) != 0) return;
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)fsync(fd);
  close(fd);
}

/* `mode`: of the new file, once it is whole; until then nobody else may read it. */
static int replace(const char *path, const char *bytes, size_t n, mode_t mode) {
  char beside[PATH_MAX];
  int len = snprintf(beside, sizeof beside, "%s.XXXXXX", path);
  if (len < 0 || (size_t)len >= sizeof beside) return ENAMETOOLONG;
  int fd = mkostemp(beside, O_CLOEXEC); /* mode 0600, exclusive */
  if (fd < 0) return errno;
  int result = write_all(fd, bytes, n);
  if (result == 0 && mode != 0600 && fchmod(fd, mode) != 0) result = errno;
  if (close(fd) != 0 && result == 0) result = errno;
  if (result == 0 && rename(beside, path) != 0) result = errno;
  if (result != 0)
    unlink(beside);
  else
    sync_folder(path);
  return result;
}

int file_write_private(const char *path, const char *bytes, size_t n) {
  return replace(path, bytes, n, 0600);
}

int file_write_public(const char *path, const char *bytes, size_t n) {
  struct stat s;
  char target[PATH_MAX];
  if (realpath(path, target) == NULL) {
    if (errno != ENOENT) return errno;
    mode_t mask = umask(0);
    (void)umask(mask);
    return replace(path, bytes, n, (mode_t)(0666 & ~mask));
  }
  if (stat(target, &s) != 0) return errno;
  if (!S_ISREG(s.st_mode)) return S_ISDIR(s.st_mode) ? EISDIR : EINVAL;
  return replace(target, bytes, n, s.st_mode & 07777);
}

static int make(char *folder) {
  if (mkdir(folder, 0700) == 0 || errno == EEXIST) return 0;
  if (errno != ENOENT) return errno;
  char *slash = strrchr(folder, '/');
  if (slash == NULL || slash == folder) return ENOENT;
  *slash = '\0';
  int result = make(folder); // NOLINT(misc-no-recursion): as deep as a path is
  *slash = '/';
  if (result != 0) return result;
  return mkdir(folder, 0700) == 0 || errno == EEXIST ? 0 : errno;
}

int file_make_folder(const char *path) {
  char folder[PATH_MAX];
  struct stat s;
  int result = folder_of(path, folder);
  if (result == 0) result = make(folder);
  if (result != 0) return result;
  if (stat(folder, &s) != 0) return errno;
  if (!S_ISDIR(s.st_mode)) return ENOTDIR;
  bool ours = s.st_uid == geteuid() || s.st_uid == 0;
  return ours && (s.st_mode & 022) == 0 ? 0 : EPERM;
}

/* ---- the lock -------------------------------------------------------------------------------- */

int file_lock(const char *path) {
  char beside[PATH_MAX];
  int len = snprintf(beside, sizeof beside, "%s.lock", path);
  if (len < 0 || (size_t)len >= sizeof beside) {
    errno = ENAMETOOLONG;
    return -1;
  }
  /* The file stays: taking away a file that others wait for would give two of them a lock each. */
  int fd = open(beside, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return -1;
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  int why = errno;
  close(fd);
  errno = why;
  return -1;
}

void file_unlock(int fd) {
  close(fd);
}
