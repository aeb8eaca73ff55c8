/*
** sluice.core.file: what secrets, shared caches and sluice.files need of files and Lua's io does not
** have: modes, replacing in one step, locks, telling whether a file is still the same
** (io/private_file.h), and what is in a folder (io/folder.h).
*/
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/limits.h"
#include "bind/bind.h"
#include "io/folder.h"
#include "io/private_file.h"
#include "task/scope.h"
#include "task/task.h"

#define LOCK_TYPE "sluice.file.lock"

/* nil, the words for it, and its name for code that decides by it. */
static int push_error(lua_State *L, int error) {
  lua_pushnil(L);
  lua_pushstring(L, error == EPERM ? "its owner or its mode is not safe" : strerror(error));
  lua_pushstring(L, error == ENOENT        ? "absent"
                    : error == EPERM       ? "unsafe"
                    : error == EWOULDBLOCK ? "locked"
                                           : "failed");
  return 3;
}

static int push_mark(lua_State *L, const struct file_mark *m) {
  lua_pushlstring(L, (const char *)m, sizeof *m);
  return 1;
}

/* core.mark(path) -> a string that is another one when the file is | nil, words, name */
static int file_mark(lua_State *L) {
  struct file_mark m;
  memset(&m, 0, sizeof m);
  int error = file_mark_of(luaL_checkstring(L, 1), &m);
  return error == 0 ? push_mark(L, &m) : push_error(L, error);
}

/* core.read(path[, max[, private]]) -> bytes, mark | nil, words, name */
static int file_read_(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  lua_Integer max = luaL_optinteger(L, 2, PRIVATE_FILE_MAX);
  struct file_mark m;
  struct buf b;
  luaL_argcheck(L, max > 0 && max <= PRIVATE_FILE_MAX, 2, "out of range");
  memset(&m, 0, sizeof m);
  buf_init(&b, (size_t)max);
  int error = file_read(path, lua_toboolean(L, 3), &b, &m);
  if (error == 0) lua_pushlstring(L, b.data != NULL ? b.data : "", b.len);
  if (b.data != NULL) explicit_bzero(b.data, b.cap);
  buf_free(&b);
  return error == 0 ? 1 + push_mark(L, &m) : push_error(L, error);
}

/* core.write(path, bytes) -> true | nil, words, name */
static int file_write(lua_State *L) {
  size_t n;
  const char *path = luaL_checkstring(L, 1), *bytes = luaL_checklstring(L, 2, &n);
  int error = file_write_private(path, bytes, n);
  if (error != 0) return push_error(L, error);
  lua_pushboolean(L, 1);
  return 1;
}

/* core.make_folder(path of a file in it) -> true | nil, words, name */
static int file_make_folder_(lua_State *L) {
  int error = file_make_folder(luaL_checkstring(L, 1));
  if (error != 0) return push_error(L, error);
  lua_pushboolean(L, 1);
  return 1;
}

/* core.target(path) -> what a symbolic link names | nil, words, name */
static int file_target(lua_State *L) {
  char target[PATH_MAX];
  ssize_t n = readlink(luaL_checkstring(L, 1), target, sizeof target);
  if (n < 0) return push_error(L, errno);
  lua_pushlstring(L, target, (size_t)n);
  return 1;
}

/* ---- what is there -------------------------------------------------------------------------- */

static void push_kind(lua_State *L, char kind) {
  lua_pushstring(L, kind == FOLDER_FILE     ? "file"
                    : kind == FOLDER_FOLDER ? "folder"
                    : kind == FOLDER_LINK   ? "link"
                                            : "other");
}

/* core.kind(path) -> "file" | "folder" | "other", bytes | nil, words, name */
static int file_kind(lua_State *L) {
  enum folder_kind kind = FOLDER_OTHER;
  uint64_t size = 0;
  int error = folder_kind_of(luaL_checkstring(L, 1), &kind, &size);
  if (error != 0) return push_error(L, error);
  push_kind(L, (char)kind);
  lua_pushinteger(L, (lua_Integer)size);
  return 2;
}

static int push_listing(lua_State *L) {
  const struct buf *b = lua_touserdata(L, 1);
  lua_newtable(L);
  for (size_t at = 0; at < b->len;) {
    size_t n = strlen(b->data + at + 1);
    lua_pushlstring(L, b->data + at + 1, n);
    push_kind(L, b->data[at]);
    lua_rawset(L, -3);
    at += n + 2;
  }
  return 1;
}

/* core.list(path) -> { name = "file" | "folder" | "link" | "other" } | nil, words, name */
static int file_list(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct buf b;
  buf_init(&b, FOLDER_MAX);
  int error = folder_list(path, &b);
  int status = LUA_OK;
  if (error == 0) { /* protected: the buffer must not be lost when memory runs out */
    lua_pushcfunction(L, push_listing);
    lua_pushlightuserdata(L, &b);
    status = lua_pcall(L, 1, 1, 0);
  }
  buf_free(&b);
  if (error != 0) return push_error(L, error);
  return status == LUA_OK ? 1 : lua_error(L);
}

/* core.replace(path, bytes) -> true | nil, words, name */
static int file_replace(lua_State *L) {
  size_t n;
  const char *path = luaL_checkstring(L, 1), *bytes = luaL_checklstring(L, 2, &n);
  int error = file_write_public(path, bytes, n);
  if (error != 0) return push_error(L, error);
  lua_pushboolean(L, 1);
  return 1;
}

/* core.base64(bytes) -> text */
static int file_base64(lua_State *L) {
  size_t n;
  luaL_Buffer out;
  const char *bytes = luaL_checklstring(L, 1, &n);
  luaL_argcheck(L, n <= HTTP_BODY_MAX, 1, "too large");
  base64_encode(bytes, n, luaL_buffinitsize(L, &out, base64_len(n)));
  luaL_pushresultsize(&out, base64_len(n));
  return 1;
}

/* ---- locks ----------------------------------------------------------------------------------- */

struct lock {
  struct handle handle;
  int fd; /* -1: given back */
};

static void close_lock(struct handle *h) {
  struct lock *lock = (struct lock *)(void *)h;
  if (lock->fd >= 0) file_unlock(lock->fd);
  lock->fd = -1;
}

/* core.lock(path) -> lock | nil, words, name ("locked": another has it). Never waits. */
static int file_lock_(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  task_check(L);
  struct lock *lock = lua_newuserdatauv(L, sizeof *lock, 0);
  lock->fd = -1;
  lock->handle.close = close_lock;
  list_init(&lock->handle.link);
  luaL_setmetatable(L, LOCK_TYPE);
  lock->fd = file_lock(path);
  if (lock->fd < 0) return push_error(L, errno);
  handle_adopt(&lock->handle, scope_owner(task_running()->scope));
  return 1;
}

static int lock_close(lua_State *L) {
  struct lock *lock = luaL_checkudata(L, 1, LOCK_TYPE);
  handle_release(&lock->handle);
  close_lock(&lock->handle);
  return 0;
}

/* core.mkdir(path) -> true, also when it is there | nil, words, name */
static int file_mkdir(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  if (mkdir(path, 0777) != 0 && errno != EEXIST) return push_error(L, errno);
  lua_pushboolean(L, 1);
  return 1;
}

int luaopen_sluice_core_file(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"close", lock_close}, {"__close", lock_close}, {"__gc", lock_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"mark", file_mark},     {"read", file_read_},
                                       {"write", file_write},   {"make_folder", file_make_folder_},
                                       {"target", file_target}, {"lock", file_lock_},
                                       {"kind", file_kind},     {"mkdir", file_mkdir},
                                       {"list", file_list},     {"replace", file_replace},
                                       {"base64", file_base64}, {NULL, NULL}};
  bind_new_type(L, LOCK_TYPE, methods);
  bind_set_handle_offset(L, offsetof(struct lock, handle));
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
