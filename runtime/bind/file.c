/*
** sluice.core.file: what secrets and shared caches need of files and Lua's io does not have: modes,
** replacing in one step, locks, and telling whether a file is still the same. See
*io/private_file.h.
*/
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "bind/bind.h"
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

/* ---- locks
 * ------------------------------------------------------------------------------------------ */

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

int luaopen_sluice_core_file(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"close", lock_close}, {"__close", lock_close}, {"__gc", lock_close}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"mark", file_mark},
                                       {"read", file_read_},
                                       {"write", file_write},
                                       {"make_folder", file_make_folder_},
                                       {"target", file_target},
                                       {"lock", file_lock_},
                                       {NULL, NULL}};
  luaL_newmetatable(L, LOCK_TYPE);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  bind_set_handle_offset(L, offsetof(struct lock, handle));
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
