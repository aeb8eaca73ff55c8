/* Listing folders: see folder.h. */
#include "io/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static enum folder_kind kind_of_mode(mode_t mode) {
  if (S_ISREG(mode)) return FOLDER_FILE;
  if (S_ISDIR(mode)) return FOLDER_FOLDER;
  return S_ISLNK(mode) ? FOLDER_LINK : FOLDER_OTHER;
}

static enum folder_kind kind_of_entry(DIR *dir, const struct dirent *entry) {
  struct stat s;
  switch (entry->d_type) {
  case DT_REG:
    return FOLDER_FILE;
  case DT_DIR:
    return FOLDER_FOLDER;
  case DT_LNK:
    return FOLDER_LINK;
  case DT_UNKNOWN:
    break; /* some file systems do not tell */
  default:
    return FOLDER_OTHER;
  }
  if (fstatat(dirfd(dir), entry->d_name, &s, AT_SYMLINK_NOFOLLOW) != 0) return FOLDER_OTHER;
  return kind_of_mode(s.st_mode);
}

static int append(struct buf *out, enum folder_kind kind, const char *name) {
  size_t before = out->len;
  char letter = (char)kind;
  enum buf_status status = buf_append(out, &letter, 1);
  if (status == BUF_OK) status = buf_append(out, name, strlen(name) + 1);
  if (status == BUF_OK) return 0;
  out->len = before;
  return status == BUF_FULL ? EFBIG : ENOMEM;
}

int folder_list(const char *path, struct buf *out) {
  DIR *dir = opendir(path);
  if (dir == NULL) return errno;
  int result = 0;
  while (result == 0) {
    errno = 0;
    // cppcheck-suppress readdirCalled
    const struct dirent *entry = readdir(dir); // NOLINT(concurrency-mt-unsafe): one thread
    if (entry == NULL) {
      result = errno;
      break;
    }
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    result = append(out, kind_of_entry(dir, entry), entry->d_name);
  }
  closedir(dir);
  return result;
}

int folder_kind_of(const char *path, enum folder_kind *kind, uint64_t *size) {
  struct stat s;
  if (stat(path, &s) != 0) return errno;
  *kind = kind_of_mode(s.st_mode);
  *size = (uint64_t)s.st_size;
  return 0;
}
