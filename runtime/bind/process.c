/*
** sluice.core.process: child processes for scripts. One belongs to the task group that started it
** and is ended with it. What a task may wait for: its end, something it prints, room in its stdin.
*/
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/limits.h"
#include "bind/bind.h"
#include "bind/secret.h"
#include "io/process.h"
#include "task/scope.h"
#include "task/task.h"

#define PROCESS_TYPE "sluice.process"

extern char **environ;

struct box {
  struct handle handle;
  struct process *p; /* NULL: closed */
  struct list waiting;
  pid_t pid;
};

/* User value 1: what a task that waits is said to wait for. */

static struct box *check_box(lua_State *L) {
  return luaL_checkudata(L, 1, PROCESS_TYPE);
}

static struct process *check_open(lua_State *L, const char *method) {
  struct box *b = check_box(L);
  if (b->p == NULL) luaL_error(L, "process:%s: it has been closed", method);
  return b->p;
}

static void notify(struct process *p) {
  struct box *b = p->owner;
  if (p->done) handle_release(&b->handle); /* nothing is left to be ended with the group */
  waitq_wake_all(&b->waiting);
}

static void let_go(struct box *b) {
  struct process *p = b->p;
  b->p = NULL;
  if (p != NULL) process_let_go(p);
  waitq_wake_all(&b->waiting);
}

static void on_owner_end(struct handle *h) {
  let_go((struct box *)(void *)h);
}

/* ---- starting -------------------------------------------------------------------------------- */

static char *check_word(lua_State *L, int index, const char *what) {
  size_t len;
  const char *word = lua_type(L, index) == LUA_TSTRING ? lua_tolstring(L, index, &len) : NULL;
  if (word == NULL)
    return (char *)(intptr_t)luaL_error(L, "%s must be a string, got %s", what,
                                        luaL_typename(L, index));
  if (strlen(word) != len) luaL_error(L, "%s holds a NUL byte", what);
  return (char *)(uintptr_t)word; /* posix_spawn takes char * and does not write */
}

/* Push an array of pointers to the words of the list at `index`, which keeps them alive. */
static char **push_argv(lua_State *L, int index) {
  lua_Integer n = luaL_len(L, index);
  if (n < 1) luaL_error(L, "argv: a list of words expected, the program first");
  char **argv = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *argv, 0);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_rawgeti(L, index, i);
    argv[i - 1] = check_word(L, -1, "a word of the command");
    lua_pop(L, 1);
  }
  argv[n] = NULL;
  if (argv[0][0] == '\0') luaL_error(L, "the name of the program is empty");
  return argv;
}

/* Push "NAME=value" in memory of its own kind: a secret's, when the value is one. */
static char *push_setting(lua_State *L, const char *name, int value_index) {
  size_t name_len = strlen(name), len;
  const char *value = secret_bytes(L, value_index, &len);
  if (value == NULL) {
    value = check_word(L, value_index, "a variable of 'env'");
    len = strlen(value);
  } else if (strlen(value) != len) {
    luaL_error(L, "a variable of 'env' holds a NUL byte");
  }
  char *setting = lua_newuserdatauv(L, name_len + len + 2, 0);
  memcpy(setting, name, name_len);
  setting[name_len] = '=';
  memcpy(setting + name_len + 1, value, len + 1);
  return setting;
}

/* Is the variable `setting` one that the table at `index` changes? */
static bool is_changed(lua_State *L, int index, const char *setting) {
  lua_pushlstring(L, setting, strcspn(setting, "="));
  bool changed = lua_rawget(L, index) != LUA_TNIL;
  lua_pop(L, 1);
  return changed;
}

struct environment {
  char **list;
  lua_Integer first, count; /* list[first .. count - 1] are ours, to be wiped */
};

/* Our environment with the changes of the table at `index`: a string or secret sets, false removes.
** Pushes a table that keeps it alive. */
static struct environment push_environment(lua_State *L, int index) {
  struct environment e = {NULL, 0, 0};
  lua_Integer n = 1;
  for (char **p = environ; *p != NULL; p++) n++;
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) n++;
  lua_newtable(L);
  int keep = lua_gettop(L);
  e.list = lua_newuserdatauv(L, (size_t)n * sizeof *e.list, 0);
  lua_rawseti(L, keep, 1);
  for (char **p = environ; *p != NULL; p++)
    if (!is_changed(L, index, *p)) e.list[e.count++] = *p;
  e.first = e.count;
  for (lua_pushnil(L); lua_next(L, index) != 0;) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
    if (*name == '\0' || strchr(name, '=') != NULL || strlen(name) != lua_rawlen(L, -2))
      luaL_error(L, "env: a table of variables by name expected");
    if (lua_isboolean(L, -1) && !lua_toboolean(L, -1)) {
      lua_pop(L, 1);
      continue;
    }
    e.list[e.count++] = push_setting(L, name, lua_gettop(L));
    lua_rawseti(L, keep, e.count + 1);
    lua_pop(L, 1);
  }
  e.list[e.count] = NULL;
  return e;
}

static enum process_stdio field_stdio(lua_State *L, const char *name, enum process_stdio absent,
                                      bool may_join) {
  static const char *const names[] = {"pipe", "null", "inherit", "stdout", NULL};
  lua_getfield(L, 1, name);
  enum process_stdio kind = absent;
  if (!lua_isnil(L, -1)) {
    const char *text = lua_tostring(L, -1);
    int i = 0;
    while (names[i] != NULL && (text == NULL || strcmp(names[i], text) != 0)) i++;
    if (names[i] == NULL || (i == PROCESS_JOIN && !may_join))
      luaL_error(L, "%s: 'pipe', 'null'%s or 'inherit' expected", name,
                 may_join ? ", 'stdout'" : "");
    kind = (enum process_stdio)i;
  }
  lua_pop(L, 1);
  return kind;
}

static size_t field_bytes(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  lua_Integer n = luaL_optinteger(L, -1, PROCESS_OUTPUT_MAX);
  if (n < 1) luaL_error(L, "%s: bytes expected: 1 or more", name);
  lua_pop(L, 1);
  return (size_t)n;
}

static const char *field_text(lua_State *L, const char *name) {
  lua_getfield(L, 1, name); /* stays on the stack */
  return lua_isnil(L, -1) ? NULL : check_word(L, -1, name);
}

/* nil, words, and what failed: "folder", "missing" (no such program), "program" or "pipe". */
static int failed_start(lua_State *L, const struct process_spec *spec, int error,
                        const char *what) {
  const char *program = spec->argv[0];
  bool missing = strcmp(what, "program") == 0 && error == ENOENT;
  lua_pushnil(L);
  if (strcmp(what, "folder") == 0)
    lua_pushfstring(L, "cannot run '%s' in %s: %s", program, spec->folder, strerror(error));
  else if (missing && strchr(program, '/') == NULL)
    lua_pushfstring(L, "cannot run '%s': no such program in PATH", program);
  else
    lua_pushfstring(L, "cannot run '%s': %s", program, strerror(error));
  lua_pushstring(L, missing ? "missing" : what);
  return 3;
}

static struct box *push_box(lua_State *L, const char *program) {
  struct box *b = lua_newuserdatauv(L, sizeof *b, 1);
  memset(b, 0, sizeof *b);
  list_init(&b->handle.link);
  list_init(&b->waiting);
  b->handle.close = on_owner_end;
  luaL_setmetatable(L, PROCESS_TYPE);
  lua_pushfstring(L, "the program %s", program);
  lua_setiuservalue(L, -2, 1);
  return b;
}

/* core.spawn { argv = { … }, env = { NAME = string | secret | false }, folder =, stdin = "null",
** stdout = "pipe", stderr = "pipe", timeout = s, out_max =, err_max = bytes, err_tail =, streams =
** boolean, input = string | secret } -> process | nil, words, what */
static int spawn(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  task_check(L);
  luaL_checkstack(L, 40, NULL);
  struct process_spec spec = {.timeout_us = bind_field_seconds(L, 1, "timeout", 0)};
  struct environment env = {NULL, 0, 0};
  size_t input_len = 0;
  if (lua_getfield(L, 1, "argv") != LUA_TTABLE) return luaL_error(L, "argv: a list expected");
  spec.argv = push_argv(L, lua_gettop(L));
  if (lua_getfield(L, 1, "env") == LUA_TTABLE) env = push_environment(L, lua_gettop(L));
  spec.envp = env.list;
  spec.folder = field_text(L, "folder");
  lua_getfield(L, 1, "input");
  const char *input = secret_bytes(L, -1, &input_len);
  if (input == NULL && !lua_isnil(L, -1)) input = luaL_checklstring(L, -1, &input_len);
  spec.in = input != NULL ? PROCESS_PIPE : field_stdio(L, "stdin", PROCESS_NULL, false);
  spec.out = field_stdio(L, "stdout", PROCESS_PIPE, false);
  spec.err = field_stdio(L, "stderr", PROCESS_PIPE, true);
  spec.out_max = field_bytes(L, "out_max");
  spec.err_max = field_bytes(L, "err_max");
  lua_getfield(L, 1, "streams");
  spec.streams = lua_toboolean(L, -1);
  lua_getfield(L, 1, "err_tail");
  spec.err_tail = lua_toboolean(L, -1);
  struct box *b = push_box(L, spec.argv[0]);
  int error;
  const char *what;
  struct process *p = process_start(&spec, &error, &what);
  for (lua_Integer i = env.first; i < env.count; i++)
    explicit_bzero(env.list[i], strlen(env.list[i]));
  if (p == NULL) return failed_start(L, &spec, error, what);
  b->p = p;
  b->pid = p->pid;
  p->owner = b;
  p->notify = notify;
  handle_adopt(&b->handle, scope_owner(task_running()->scope));
  if (input != NULL) {
    process_write(p, input, input_len);
    process_finish(p);
  }
  return 1;
}

/* ---- waiting --------------------------------------------------------------------------------- */

static int park(lua_State *L, lua_KContext ctx, lua_KFunction k) {
  struct box *b = check_box(L);
  lua_getiuservalue(L, 1, 1);
  const char *label = lua_tostring(L, -1);
  lua_pop(L, 1); /* the user value keeps it */
  list_append(&b->waiting, &task_running()->queue);
  struct wait w = {.what = label, .undo = task_undo_queue, .subject = b, .external = true};
  return task_park(L, &w, ctx, k);
}

static int wait_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  static const char *const ends[] = {"running", "ended", "timeout", "overflow", "stopped"};
  const struct process *p = check_open(L, "wait");
  if (!p->done) return park(L, ctx, wait_k);
  bool exited = WIFEXITED(p->status);
  if (exited)
    lua_pushinteger(L, WEXITSTATUS(p->status));
  else
    lua_pushnil(L);
  if (exited)
    lua_pushnil(L);
  else
    lua_pushinteger(L, WTERMSIG(p->status));
  lua_pushstring(L, ends[p->end]);
  return 3;
}

/* process:wait() -> exit code or nil, signal or nil, "ended" | "timeout" | "overflow" | "stopped";
** when it has exited and all it printed is here. */
static int process_wait(lua_State *L) {
  check_open(L, "wait");
  task_check(L);
  lua_settop(L, 1);
  return wait_k(L, LUA_OK, 0);
}

static void push_taken(lua_State *L, struct process_pipe *pipe) {
  lua_pushlstring(L, pipe->buf.data != NULL ? pipe->buf.data : "", pipe->buf.len);
  if (pipe->buf.data != NULL) explicit_bzero(pipe->buf.data, pipe->buf.len);
  buf_clear(&pipe->buf, PROCESS_AHEAD_MAX);
}

/* process:output() -> what is here of its stdout, and of its stderr, and has not been taken. */
static int process_output(lua_State *L) {
  struct process *p = check_open(L, "output");
  push_taken(L, &p->out);
  push_taken(L, &p->err);
  process_taken(p);
  return 2;
}

static int read_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  struct process *p = check_open(L, "read");
  struct process_pipe *pipe = ctx == STDERR_FILENO ? &p->err : &p->out;
  if (pipe->buf.len == 0 && pipe->fd >= 0) return park(L, ctx, read_k);
  if (pipe->buf.len == 0) return 0;
  push_taken(L, pipe);
  process_taken(p);
  return 1;
}

/* process:read([which]) -> the next piece of its stdout ("out", or "err"); nil at the end. */
static int process_read(lua_State *L) {
  static const char *const names[] = {"out", "err", NULL};
  int which = luaL_checkoption(L, 2, "out", names);
  check_open(L, "read");
  task_check(L);
  lua_settop(L, 1);
  return read_k(L, LUA_OK, which == 0 ? STDOUT_FILENO : STDERR_FILENO);
}

static int write_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status;
  const struct process *p = check_open(L, "write");
  if (p->in.fd >= 0 && p->in.buf.len > PROCESS_AHEAD_MAX) return park(L, ctx, write_k);
  lua_pushboolean(L, p->in.fd >= 0);
  return 1;
}

/* process:write(bytes) -> true, or false when it reads no more. Waits while much is on its way. */
static int process_write_(lua_State *L) {
  size_t len;
  struct process *p = check_open(L, "write");
  const char *bytes = secret_bytes(L, 2, &len);
  if (bytes == NULL) bytes = luaL_checklstring(L, 2, &len);
  task_check(L);
  if (p->finishing) return luaL_error(L, "process:write: after finish");
  process_write(p, bytes, len);
  lua_settop(L, 1);
  return write_k(L, LUA_OK, 0);
}

static int process_finish_(lua_State *L) {
  process_finish(check_open(L, "finish"));
  return 0;
}

/* ---- ending ---------------------------------------------------------------------------------- */

/* process:signal(name): for the whole group. */
static int process_signal_(lua_State *L) {
  static const char *const names[] = {"TERM", "INT",  "HUP",  "KILL", "USR1",
                                      "USR2", "STOP", "CONT", NULL};
  static const int numbers[] = {SIGTERM, SIGINT,  SIGHUP,  SIGKILL,
                                SIGUSR1, SIGUSR2, SIGSTOP, SIGCONT};
  struct process *p = check_open(L, "signal");
  process_signal(p, numbers[luaL_checkoption(L, 2, "TERM", names)]);
  return 0;
}

/* process:stop(): SIGTERM, and SIGKILL when that does not help; wait tells when it is over. */
static int process_stop_(lua_State *L) {
  struct process *p = check_box(L)->p;
  if (p != NULL) process_stop(p);
  return 0;
}

static int process_close_(lua_State *L) {
  struct box *b = check_box(L);
  handle_release(&b->handle);
  let_go(b);
  return 0;
}

static int process_pid(lua_State *L) {
  lua_pushinteger(L, check_box(L)->pid);
  return 1;
}

/* core.signal_name(number) -> "Killed", … */
static int signal_name(lua_State *L) {
  lua_pushstring(L, strsignal((int)luaL_checkinteger(L, 1)));
  return 1;
}

static int count(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)process_count());
  return 1;
}

int luaopen_sluice_core_process(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"wait", process_wait},      {"output", process_output},  {"read", process_read},
      {"write", process_write_},   {"finish", process_finish_}, {"signal", process_signal_},
      {"stop", process_stop_},     {"close", process_close_},   {"pid", process_pid},
      {"__close", process_close_}, {"__gc", process_close_},    {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"spawn", spawn}, {"signal_name", signal_name}, {"count", count}, {NULL, NULL}};
  bind_new_type(L, PROCESS_TYPE, methods);
  bind_set_handle_offset(L, offsetof(struct box, handle));
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
