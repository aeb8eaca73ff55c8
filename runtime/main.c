/*
** The program: argv, the Lua state, the loop, and the exit code. No features here: what a command
** does is Lua (lualib/sluice/cli.lua and command/).
*/
#include <lauxlib.h>
#include <lualib.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bind/bind.h"
#include "bind/library.h"
#include "bind/sys.h"
#include "io/loop.h"
#include "io/process.h"
#include "io/signal.h"
#include "io/transfer.h"
#include "task/guard.h"
#include "task/raise.h"
#include "task/scope.h"
#include "task/task.h"

#define EXIT_START 4
#define EXIT_INTERNAL 70
#define EXIT_SIGINT 130
#define EXIT_SIGTERM 143
#define SERVICE_GRACE_US 2000000 /* how long embedded servers may take to close */

static struct {
  lua_State *L;
  struct scope service, script;
  int signal_exit; /* the exit code of the signal that ended the program, or 0 */
} program;

struct scope *bind_service_scope(void) {
  return &program.service;
}

/* ---- signals --------------------------------------------------------------------------------- */

static void on_signal(int signo, int nth) {
  if (signo == SIGUSR1) {
    sys_dump(program.L);
  } else if (signo == SIGINT && sys_wake_interrupt()) {
    return; /* whoever waited for it decides what it ends */
  } else if (signo == SIGTERM && sys_wake_terminate()) {
    program.signal_exit = EXIT_SIGTERM;
  } else if (signo == SIGTERM || (signo == SIGINT && nth == 1)) {
    program.signal_exit = signo == SIGINT ? EXIT_SIGINT : EXIT_SIGTERM;
    scope_cancel(&program.script,
                 signo == SIGINT ? "interrupted (Ctrl-C)" : "terminated (SIGTERM)");
  }
}

/* ---- the library inside the binary ----------------------------------------------------------- */

/* Second place, after preload. `--lib` is the command line's business (lualib/sluice/cli.lua). */
static void install_searcher(lua_State *L) {
  const lua_Integer place = 2;
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "searchers");
  for (lua_Integer i = luaL_len(L, -1); i >= place; i--) {
    lua_rawgeti(L, -1, i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushcfunction(L, library_searcher);
  lua_rawseti(L, -2, place);
  lua_pop(L, 2);
}

/* ---- boot ------------------------------------------------------------------------------------ */

/* The first frame of the root task: require "sluice.cli" and run it. */
static int root_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  return lua_gettop(L) - 1;
}

static int root_main(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "sluice.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  lua_pushvalue(L, 1);
  lua_callk(L, 1, 1, 0, root_k);
  return 1;
}

struct arguments {
  int argc;
  char **argv;
  struct task *root;
};

static int boot(lua_State *L) {
  struct arguments *a = lua_touserdata(L, 1);
  luaL_openlibs(L);
  /* Lua 5.4.4 makes the metatable of large string buffers when the first one is used, and if memory
  ** runs out just then, it stays broken for good. So: now. */
  luaL_Buffer buffer;
  luaL_buffinitsize(L, &buffer, 16 * LUAL_BUFFERSIZE);
  luaL_pushresultsize(&buffer, 0);
  lua_pop(L, 1);
  raise_init(L);
  sched_init(L);
  scope_init(&program.service, NULL, true);
  program.service.service = true;
  scope_init(&program.script, &program.service, true);
  program.script.service = false;
  bind_open(L);
  install_searcher(L);
  lua_pushcfunction(L, root_main);
  lua_createtable(L, a->argc, 1);
  for (int i = 0; i < a->argc; i++) {
    lua_pushstring(L, a->argv[i]);
    lua_rawseti(L, -2, i);
  }
  a->root = task_spawn(L, &program.script, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, "sluice.root"); /* the handle outlives the task: its result */
  return 0;
}

static int exit_code(struct task *root) {
  lua_State *thread = root->thread;
  if (root->failed) {
    const char *text = lua_isstring(thread, -1) ? lua_tostring(thread, -1) : "(an error table)";
    if (program.signal_exit == 0) fprintf(stderr, "sluice: internal error: %s\n", text);
    return program.signal_exit != 0 ? program.signal_exit : EXIT_INTERNAL;
  }
  int code = thread != NULL && lua_isinteger(thread, -1) ? (int)lua_tointeger(thread, -1) : 0;
  return program.signal_exit != 0 ? program.signal_exit : code;
}

/* Embedded servers end with the program; a bounded time to say good-bye to their clients. */
static void stop_services(void) {
  scope_cancel(&program.service, "the program is ending");
  int64_t until = loop_refresh_us() + SERVICE_GRACE_US;
  while (sched_stats()->live > 0 && loop_refresh_us() < until) sched_turn(10000);
}

int main(int argc, char **argv) {
  static const struct signal_hooks hooks = {on_signal, guard_interrupt_async, guard_cpu_tick_async};
  struct arguments a = {.argc = argc, .argv = argv};
  lua_State *L = program.L = lua_newstate(guard_alloc, NULL);
  if (L == NULL || loop_init() != 0 || signal_init(&hooks) != 0) {
    perror("sluice: could not start");
    return EXIT_START;
  }
  lua_pushcfunction(L, boot);
  lua_pushlightuserdata(L, &a);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    fprintf(stderr, "sluice: could not start: %s\n", lua_tostring(L, -1));
    return EXIT_START;
  }
  sched_run(a.root);
  int code = exit_code(a.root);
  stop_services();
  signal_close();
  scope_finish(&program.script);
  scope_finish(&program.service);
  process_close();
  sched_close(L);
  lua_close(L);
  bind_close_metrics();
  network_close();
  loop_close();
  if (fflush(stdout) != 0 && code == 0) {
    perror("sluice: writing to stdout");
    code = EXIT_FAILURE;
  }
  return code;
}
