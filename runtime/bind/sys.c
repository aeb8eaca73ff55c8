/* sluice.core.sys: the process around the script: environment, terminal, chance, guards, signals.
 */
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bind/bind.h"
#include "bind/sys.h"
#include "io/loop.h"
#include "io/signal.h"
#include "io/transfer.h"
#include "task/guard.h"
#include "task/task.h"

static struct {
  struct list terminate_waiters; /* tasks parked until SIGTERM */
  struct list interrupt_waiters; /* tasks parked until SIGINT */
  int dump_ref;
  bool ready;
} sys;

/* ---- plain facts ----------------------------------------------------------------------------- */

static int sys_env(lua_State *L) {
  lua_pushstring(L, getenv(luaL_checkstring(L, 1)));
  return 1;
}

static int sys_isatty(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

/* core.columns(fd) -> how wide the terminal is, or nil where there is none */
static int sys_columns(lua_State *L) {
  struct winsize size;
  if (ioctl((int)luaL_checkinteger(L, 1), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 0;
  lua_pushinteger(L, size.ws_col);
  return 1;
}

static int sys_pid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

static int close_file(lua_State *L) {
  luaL_Stream *stream = luaL_checkudata(L, 1, LUA_FILEHANDLE);
  return luaL_fileresult(L, fclose(stream->f) == 0, NULL);
}

/* core.divert_stdout() -> a file that is the real stdout; from now on descriptor 1 is stderr, also for
** child processes and for C code that prints. nil, words when stdout is closed. */
static int sys_divert_stdout(lua_State *L) {
  luaL_Stream *stream = lua_newuserdatauv(L, sizeof *stream, 0);
  stream->closef = NULL; /* closed, until it is open */
  luaL_setmetatable(L, LUA_FILEHANDLE);
  fflush(stdout);
  int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  if (fd < 0 || (stream->f = fdopen(fd, "w")) == NULL) {
    lua_pushnil(L);
    lua_pushstring(L, strerror(errno));
    if (fd >= 0) close(fd);
    return 2;
  }
  stream->closef = close_file;
  if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0) { /* no stderr: nobody wants to hear it */
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere >= 0) dup2(nowhere, STDOUT_FILENO);
    if (nowhere > STDERR_FILENO) close(nowhere);
  }
  return 1;
}

static int sys_realpath(lua_State *L) {
  char path[PATH_MAX];
  if (realpath(luaL_checkstring(L, 1), path) == NULL) {
    lua_pushnil(L);
    lua_pushstring(L, strerror(errno));
    return 2;
  }
  lua_pushstring(L, path);
  return 1;
}

/* core.stamp(path) -> a string that changes when the file does (another file under the name,
 ** another size, another time of change to the nanosecond), or nil and why. */
static int sys_stamp(lua_State *L) {
  struct stat st;
  if (stat(luaL_checkstring(L, 1), &st) != 0) {
    lua_pushnil(L);
    lua_pushstring(L, strerror(errno));
    return 2;
  }
  char text[128];
  snprintf(text, sizeof text, "%llx:%llx:%llx:%llx.%lx:%llx.%lx", (unsigned long long)st.st_dev,
           (unsigned long long)st.st_ino, (unsigned long long)st.st_size,
           (unsigned long long)st.st_mtim.tv_sec, (unsigned long)st.st_mtim.tv_nsec,
           (unsigned long long)st.st_ctim.tv_sec, (unsigned long)st.st_ctim.tv_nsec);
  lua_pushstring(L, text);
  return 1;
}

static int sys_wall(lua_State *L) {
  lua_pushnumber(L, (lua_Number)loop_wall_us() / 1e6);
  return 1;
}

static int sys_random(lua_State *L) {
  lua_pushnumber(L, loop_random_unit());
  return 1;
}

static int sys_seed(lua_State *L) {
  loop_seed((uint64_t)luaL_checkinteger(L, 1));
  return 0;
}

static int sys_virtual_clock(lua_State *L) {
  loop_use_virtual_clock(lua_toboolean(L, 1));
  return 0;
}

/* core.libraries() -> { lua =, libcurl =, libevent = }: the versions this process runs on. */
static int sys_libraries(lua_State *L) {
  lua_createtable(L, 0, 3);
  lua_pushliteral(L, LUA_VERSION_MAJOR "." LUA_VERSION_MINOR "." LUA_VERSION_RELEASE);
  lua_setfield(L, -2, "lua");
  lua_pushstring(L, network_version());
  lua_setfield(L, -2, "libcurl");
  lua_pushstring(L, loop_version());
  lua_setfield(L, -2, "libevent");
  return 1;
}

/* A random UUID (RFC 9562, version 4). From the system's generator, never from --seed: two runs
 ** with the same seed must not share a request id. */
static int sys_uuid(lua_State *L) {
  static unsigned char pool[1024];
  static size_t used = sizeof pool;
  static const char digits[] = "0123456789abcdef";
  if (used == sizeof pool) {
    if (getrandom(pool, sizeof pool, 0) != (ssize_t)sizeof pool)
      return luaL_error(L, "the system gives no random bytes: %s", strerror(errno));
    used = 0;
  }
  unsigned char *b = pool + used;
  used += 16;
  b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
  b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
  char text[36], *p = text;
  for (int i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) *p++ = '-';
    *p++ = digits[b[i] >> 4];
    *p++ = digits[b[i] & 15];
  }
  lua_pushlstring(L, text, sizeof text);
  return 1;
}

/* ---- guards ---------------------------------------------------------------------------------- */

static void report(const char *text) {
  fprintf(stderr, "sluice: warning: %s\n", text);
}

/* core.guard { warn_burst = s, max_burst = s, max_memory = bytes, patience = s } */
static int sys_guard(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  struct guard_options o = {.report = report};
  o.warn_burst_ms = bind_field_seconds(L, 1, "warn_burst", 0) / 1000;
  o.max_burst_ms = bind_field_seconds(L, 1, "max_burst", 0) / 1000;
  o.patience_ms = bind_field_seconds(L, 1, "patience", 0) / 1000;
  lua_getfield(L, 1, "max_memory");
  o.max_memory = (size_t)luaL_optinteger(L, -1, 0);
  guard_init(&o);
  return 0;
}

/* ---- signals --------------------------------------------------------------------------------- */

static int64_t real_ms(void) { /* not the loop's clock, which may be virtual, or have stopped */
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* core.offer(fd, bytes[, ms]) -> how many were taken, perhaps none: whoever reads is slow | nil, words.
** Does not wait for a pipe or a terminal, or for `ms` in all, and leaves the file's mode alone, which
** others share: each piece is asked for, and one of up to PIPE_BUF bytes goes in whole or not at all. */
static int sys_offer(lua_State *L) {
  size_t n, done = 0;
  int fd = (int)luaL_checkinteger(L, 1);
  const char *s = luaL_checklstring(L, 2, &n);
  int64_t wait_ms = luaL_optinteger(L, 3, 0), until = wait_ms > 0 ? real_ms() + wait_ms : 0;
  while (done < n) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int64_t left = until != 0 ? until - real_ms() : 0;
    int ready = poll(&p, 1, left > 0 ? (int)left : 0);
    if (ready == 0 || (ready < 0 && errno == EINTR)) break;
    size_t piece = n - done < PIPE_BUF ? n - done : PIPE_BUF;
    ssize_t wrote = ready < 0 ? -1 : write(fd, s + done, piece);
    if (wrote < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (wrote < 0) {
      lua_pushnil(L);
      lua_pushstring(L, strerror(errno));
      return 2;
    }
    done += (size_t)wrote;
  }
  lua_pushinteger(L, (lua_Integer)done);
  return 1;
}

static int signalled_k(lua_State *L, int status, lua_KContext ctx) {
  (void)L, (void)status, (void)ctx;
  return 0;
}

/* core.wait_terminate(): park until SIGTERM; while a task does, SIGTERM cancels nothing by itself.
 */
static int sys_wait_terminate(lua_State *L) {
  task_check(L);
  struct task *t = task_current(L);
  list_append(&sys.terminate_waiters, &t->queue);
  struct wait w = {.what = "SIGTERM", .undo = task_undo_queue, .external = true};
  return task_park(L, &w, 0, signalled_k);
}

/* core.wait_interrupt(): park until SIGINT; while a task does, SIGINT cancels nothing by itself. */
static int sys_wait_interrupt(lua_State *L) {
  task_check(L);
  struct task *t = task_current(L);
  list_append(&sys.interrupt_waiters, &t->queue);
  struct wait w = {.what = "SIGINT", .undo = task_undo_queue, .external = true};
  return task_park(L, &w, 0, signalled_k);
}

/* core.forgive_interrupts(): those that have come were for what has ended now. */
static int sys_forgive_interrupts(lua_State *L) {
  (void)L;
  signal_forgive_interrupts();
  guard_forgive_interrupts();
  return 0;
}

bool sys_wake_interrupt(void) {
  if (!sys.ready || list_empty(&sys.interrupt_waiters)) return false;
  waitq_wake_all(&sys.interrupt_waiters);
  return true;
}

bool sys_wake_terminate(void) {
  if (!sys.ready || list_empty(&sys.terminate_waiters)) return false;
  waitq_wake_all(&sys.terminate_waiters);
  return true;
}

/* core.on_dump(f): called at SIGUSR1, outside of any task. */
static int sys_on_dump(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  luaL_unref(L, LUA_REGISTRYINDEX, sys.dump_ref);
  sys.dump_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

void sys_dump(lua_State *L) {
  if (!sys.ready || sys.dump_ref == LUA_NOREF) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, sys.dump_ref);
  if (lua_pcall(L, 0, 0, 0) != LUA_OK) lua_pop(L, 1);
}

int luaopen_sluice_core_sys(lua_State *L) {
  static const luaL_Reg functions[] = {{"env", sys_env},
                                       {"isatty", sys_isatty},
                                       {"offer", sys_offer},
                                       {"columns", sys_columns},
                                       {"pid", sys_pid},
                                       {"realpath", sys_realpath},
                                       {"divert_stdout", sys_divert_stdout},
                                       {"libraries", sys_libraries},
                                       {"stamp", sys_stamp},
                                       {"wall", sys_wall},
                                       {"random", sys_random},
                                       {"seed", sys_seed},
                                       {"virtual_clock", sys_virtual_clock},
                                       {"uuid", sys_uuid},
                                       {"guard", sys_guard},
                                       {"wait_terminate", sys_wait_terminate},
                                       {"wait_interrupt", sys_wait_interrupt},
                                       {"forgive_interrupts", sys_forgive_interrupts},
                                       {"on_dump", sys_on_dump},
                                       {NULL, NULL}};
  list_init(&sys.terminate_waiters);
  list_init(&sys.interrupt_waiters);
  sys.dump_ref = LUA_NOREF;
  sys.ready = true;
  luaL_newlib(L, functions);
  lua_pushliteral(L, SLUICE_VERSION);
  lua_setfield(L, -2, "version");
  return 1;
}
