/*
** sluice.core.terminal: lines a person types, for the REPL. One task reads; others may print above
** the prompt meanwhile. See io/terminal.h.
*/
#include <errno.h>
#include <string.h>

#include "bind/bind.h"
#include "io/terminal.h"
#include "task/scope.h"
#include "task/task.h"

#define TERMINAL_TYPE "sluice.terminal"

struct box {
  struct handle handle;
  struct terminal *t; /* NULL: closed */
  struct list waiting;
};

static struct box *check_box(lua_State *L) {
  return luaL_checkudata(L, 1, TERMINAL_TYPE);
}

static struct terminal *check_open(lua_State *L, const char *method) {
  struct box *b = check_box(L);
  if (b->t == NULL) luaL_error(L, "terminal:%s: it has been closed", method);
  return b->t;
}

static void notify(void *owner) {
  struct box *b = owner;
  waitq_wake_all(&b->waiting);
}

static void let_go(struct box *b) {
  if (b->t != NULL) terminal_close(b->t);
  b->t = NULL;
  waitq_wake_all(&b->waiting);
}

static void on_owner_end(struct handle *h) {
  let_go((struct box *)(void *)h);
}

/* core.open(edit) -> terminal | nil, words. `edit`: with line editing, for a terminal. */
static int open_terminal(lua_State *L) {
  bool edit = lua_toboolean(L, 1);
  task_check(L);
  struct box *b = lua_newuserdatauv(L, sizeof *b, 0);
  b->t = NULL;
  b->handle.close = on_owner_end;
  list_init(&b->handle.link);
  list_init(&b->waiting);
  luaL_setmetatable(L, TERMINAL_TYPE);
  b->t = terminal_open(edit, notify, b);
  if (b->t == NULL) {
    lua_pushnil(L);
    lua_pushstring(L, strerror(errno));
    return 2;
  }
  handle_adopt(&b->handle, scope_owner(task_running()->scope));
  return 1;
}

/* terminal:begin(prompt): show it, and begin a line. */
static int begin(lua_State *L) {
  struct terminal *t = check_open(L, "begin");
  if (!terminal_begin(t, luaL_checkstring(L, 2))) return luaL_error(L, "not enough memory");
  return 0;
}

static int take_k(lua_State *L, int status, lua_KContext ctx) {
  (void)status, (void)ctx;
  static const char *const names[] = {"none", "line", "end", "complete", "interrupt", "too long"};
  struct box *b = check_box(L);
  size_t len;
  enum terminal_event event = terminal_take(check_open(L, "take"));
  if (event == TERMINAL_NONE) {
    struct wait w = {.what = "the keyboard", .undo = task_undo_queue, .external = true};
    list_append(&b->waiting, &task_running()->queue);
    return task_park(L, &w, 0, take_k);
  }
  lua_pushstring(L, names[event]);
  if (event != TERMINAL_LINE && event != TERMINAL_COMPLETE && event != TERMINAL_INTERRUPT) return 1;
  const char *text = terminal_text(b->t, &len);
  lua_pushlstring(L, text, len);
  lua_pushinteger(L, (lua_Integer)terminal_cursor(b->t));
  return 3;
}

/* terminal:take() -> "line", text | "complete", text, bytes before the cursor | "interrupt", text |
** "end" | "too long". Waits. */
static int take(lua_State *L) {
  check_open(L, "take");
  task_check(L);
  lua_settop(L, 1);
  return take_k(L, LUA_OK, 0);
}

/* terminal:above(text): whole lines, above the line being typed. */
static int above(lua_State *L) {
  size_t len;
  struct terminal *t = check_open(L, "above");
  const char *text = luaL_checklstring(L, 2, &len);
  terminal_above(t, text, len);
  return 0;
}

static int insert(lua_State *L) {
  struct terminal *t = check_open(L, "insert");
  terminal_insert(t, luaL_checkstring(L, 2));
  return 0;
}

static int remember(lua_State *L) {
  struct terminal *t = check_open(L, "remember");
  terminal_remember(t, luaL_checkstring(L, 2));
  return 0;
}

static int interrupt(lua_State *L) {
  terminal_interrupt(check_open(L, "interrupt"));
  return 0;
}

static int beep(lua_State *L) {
  terminal_beep(check_open(L, "beep"));
  return 0;
}

/* terminal:editing() -> is a prompt shown? Also of one that has been closed. */
static int editing(lua_State *L) {
  const struct box *b = check_box(L);
  lua_pushboolean(L, b->t != NULL && terminal_editing(b->t));
  return 1;
}

static int close_terminal(lua_State *L) {
  struct box *b = check_box(L);
  handle_release(&b->handle);
  let_go(b);
  return 0;
}

/* core.size() -> columns, rows of the terminal behind stdout; 0, 0 when there is none. */
static int size(lua_State *L) {
  int columns, rows;
  terminal_size(&columns, &rows);
  lua_pushinteger(L, columns);
  lua_pushinteger(L, rows);
  return 2;
}

int luaopen_sluice_core_terminal(lua_State *L) {
  static const luaL_Reg methods[] = {{"begin", begin},
                                     {"take", take},
                                     {"above", above},
                                     {"insert", insert},
                                     {"remember", remember},
                                     {"interrupt", interrupt},
                                     {"beep", beep},
                                     {"editing", editing},
                                     {"close", close_terminal},
                                     {"__close", close_terminal},
                                     {"__gc", close_terminal},
                                     {NULL, NULL}};
  static const luaL_Reg functions[] = {{"open", open_terminal}, {"size", size}, {NULL, NULL}};
  luaL_newmetatable(L, TERMINAL_TYPE);
  luaL_setfuncs(L, methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  bind_set_handle_offset(L, offsetof(struct box, handle));
  lua_pop(L, 1);
  luaL_newlib(L, functions);
  return 1;
}
